//! The account of rows that are left out.

use std::fmt;

use crate::report::table::plural;

/// How many rows were left out, and why. A row is counted once, under the first reason that holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Rows that are only a prompt.
    pub no_demonstration: usize,
    /// Where the first of these stands and which keys it has, in words.
    pub first_without_demonstration: Option<String>,
    /// The demonstration or the self-generated response has no text.
    pub empty_response: usize,
    /// The prompt alone leaves no room for a response.
    pub prompt_too_long: usize,
    /// Prompt and demonstration together are too long.
    pub response_too_long: usize,
    /// Prompt and self-generated response together are too long.
    pub self_generated_too_long: usize,
    /// The limit that was applied, in tokens.
    pub max_length: usize,
    /// Whether that limit is the model's context, which no setting raises.
    pub is_limited_by_context: bool,
}

impl Dropped {
    /// All dropped rows.
    pub fn total(&self) -> usize {
        self.reasons().iter().map(|(count, _)| count).sum()
    }

    /// Rows that are longer than the limit, in one way or another.
    pub fn num_too_long(&self) -> usize {
        self.prompt_too_long + self.response_too_long + self.self_generated_too_long
    }

    /// Every reason with its count, in words.
    pub fn reasons(&self) -> [(usize, String); 5] {
        let name = if self.is_limited_by_context { "the model's context" } else { "train.max_length" };
        let limit = format!("{name} ({} tokens)", self.max_length);
        [
            (self.no_demonstration, "without a demonstration".to_owned()),
            (self.empty_response, "with an empty response".to_owned()),
            (self.prompt_too_long, format!("whose prompt alone fills {limit}")),
            (self.response_too_long, format!("longer than {limit} with the demonstration")),
            (self.self_generated_too_long, format!("longer than {limit} with the self-generated response")),
        ]
    }

    /// One row more is left out.
    pub fn count(&mut self, reason: Reason) {
        *match reason {
            Reason::NoDemonstration => &mut self.no_demonstration,
            Reason::EmptyResponse => &mut self.empty_response,
            Reason::PromptTooLong => &mut self.prompt_too_long,
            Reason::ResponseTooLong => &mut self.response_too_long,
            Reason::SelfGeneratedTooLong => &mut self.self_generated_too_long,
        } += 1;
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} dropped", plural(self.total(), "row"))?;
        let mut separator = ": ";
        for (i, (count, reason)) in self.reasons().iter().enumerate().filter(|(_, (count, _))| *count > 0) {
            write!(formatter, "{separator}{count} {reason}")?;
            if let (0, Some(first)) = (i, &self.first_without_demonstration) {
                write!(formatter, " (the first: {first})")?;
            }
            separator = ", ";
        }
        Ok(())
    }
}

/// Why a row is left out; see the fields of [`Dropped`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    NoDemonstration,
    EmptyResponse,
    PromptTooLong,
    ResponseTooLong,
    SelfGeneratedTooLong,
}
