//! What looks wrong with rows that training would take all the same.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use super::Prepared;
use crate::data::examples::{Example, FileRows};
use crate::data::rows::{Prompt, Response, Row};
use crate::data::{Unread, unlike_the_first};
use crate::error::Result;

/// Something that looks wrong.
#[derive(Debug, Serialize)]
pub struct Warning {
    /// A word for scripts.
    pub kind: &'static str,
    /// Rows that it holds for.
    pub count: usize,
    /// The first of them, as `line 7`, with the file if there are several; None for what is no matter of rows.
    pub first: Option<String>,
    pub message: String,
}

impl Prepared<'_> {
    pub(super) fn warnings(&self, files: &[FileRows]) -> Result<Vec<Warning>> {
        let mut warnings = Vec::new();
        if let Some(tokenizer) = self.preparation.tokenizer
            && tokenizer.has_generation_prompt()? == Some(false)
        {
            let message = "the chat template does not say where the assistant begins (add_generation_prompt has no effect): the model must guess whose turn it is";
            warnings.push(Warning {
                kind: "no_generation_prompt",
                count: self.rows.len(),
                first: None,
                message: message.to_owned(),
            });
        }
        let of_kind = |(kind, rows, message): (&'static str, Vec<usize>, String)| {
            let first = Some(self.rows[*rows.first()?].0.clone());
            Some(Warning { kind, count: rows.len(), first, message })
        };
        warnings.extend(self.odd_rows().into_iter().chain(self.with_unknown_text()).filter_map(of_kind));
        let unread = |unread: Unread| {
            let message = unread.message();
            Warning { kind: "unread_key", count: unread.count, first: Some(unread.first), message }
        };
        warnings.extend(Unread::of(files).into_iter().map(unread));
        Ok(warnings)
    }

    /// Kinds of rows that are no mistake for certain, the rows of each by their index, and what that means.
    fn odd_rows(&self) -> Vec<(&'static str, Vec<usize>, String)> {
        let tokenizer = self.preparation.tokenizer;
        let is_end = |id: Option<&u32>| id.is_some_and(|id| self.eos_token_ids.contains(id));
        let starts_twice = |example: &Example| match (example.prompt_ids.as_slice(), tokenizer) {
            ([first, second, ..], Some(tokenizer)) => first == second && tokenizer.is_special(*first),
            _ => false,
        };
        let ends_in_text = |row: &Row| match (&row.demonstration, tokenizer) {
            (Some(Response::Text(text)), Some(tokenizer)) => tokenizer.ends_in_end_token(text),
            _ => false,
        };
        let rows = |test: &dyn Fn(&Row) -> bool| -> Vec<usize> {
            self.rows.iter().enumerate().filter(|(_, (_, _, row))| test(row)).map(|(i, _)| i).collect()
        };
        let kept = self.outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()?.as_ref().ok());
        let duplicates = self.duplicates();
        let kinds = [
            (
                "double_bos",
                self.examples(&starts_twice),
                "the prompt begins with the same special token twice: it stands in the text and in the template",
            ),
            (
                "no_end_token",
                self.examples(&|example| !is_end(example.demonstration_ids.last())),
                "the response does not end in an end token: the model is not taught to stop",
            ),
            (
                "end_token_in_text",
                rows(&ends_in_text),
                "the text of the response ends in the end token already; it is taken off and written once",
            ),
            (
                "special_token_in_text",
                self.with_special_tokens(),
                "the text has special tokens of the model, which are read as such: the template writes them itself; write the bare text, or turns as `messages`",
            ),
            (
                "only_end_token",
                self.examples(&|example| {
                    example.demonstration_ids.len() == 1 && is_end(example.demonstration_ids.first())
                }),
                "the response is the end token alone",
            ),
            ("duplicate", duplicates.rows, "prompt and response repeat an earlier row, token for token"),
            ("duplicate_prompt", duplicates.prompts, "the prompt repeats an earlier one, with another response"),
            (
                "earlier_answers",
                rows(&has_earlier_answers),
                "the answers before the last are read, not learnt; to learn them, too, write a row that ends at each",
            ),
            (
                "some_rejected",
                unlike_the_first(kept),
                "a second (rejected) response where the first row that is used has none, or none where it has one: training refuses such data; give one to every row, or to none",
            ),
        ];
        kinds.map(|(kind, rows, message)| (kind, rows, message.to_owned())).into()
    }

    fn with_unknown_text(&self) -> Option<(&'static str, Vec<usize>, String)> {
        let tokenizer = self.preparation.tokenizer?;
        let has_unknown = |example: &Example| {
            tokenizer.has_unknown(&example.prompt_ids) || tokenizer.has_unknown(&example.demonstration_ids)
        };
        Some(("unknown_text", self.examples(&has_unknown), tokenizer.about_unknown()))
    }

    /// The rows whose example passes a test, by their index.
    fn examples(&self, test: &dyn Fn(&Example) -> bool) -> Vec<usize> {
        let tested = self.whole.iter().enumerate();
        tested.filter(|(_, example)| example.as_ref().is_some_and(test)).map(|(i, _)| i).collect()
    }

    /// Rows, by their index, whose own text has special tokens. None without a chat template: there the text has to write
    /// them.
    fn with_special_tokens(&self) -> Vec<usize> {
        let templated = self.preparation.tokenizer.filter(|tokenizer| tokenizer.has_chat_template());
        let Some(tokenizer) = templated else { return Vec::new() };
        let special_ids = tokenizer.special_token_ids();
        let has_special =
            |text: &str| tokenizer.encode(text).is_ok_and(|ids| ids.iter().any(|id| special_ids.contains(id)));
        let in_response = |response: &Response| match response {
            Response::Text(text) => tokenizer.without_end_token(text).is_ok_and(has_special),
            Response::Ids(_) => false,
        };
        let in_row = |row: &Row| {
            let in_prompt = match &row.prompt {
                Prompt::Text(text) => has_special(text),
                Prompt::Messages(messages) => messages.iter().any(|message| has_special(&message.content)),
                Prompt::Ids(_) => false,
            };
            in_prompt || row.demonstration.iter().chain(&row.self_generated).any(in_response)
        };
        self.rows.par_iter().enumerate().filter(|(_, (_, _, row))| in_row(row)).map(|(i, _)| i).collect()
    }

    fn duplicates(&self) -> Duplicates {
        let mut seen: HashMap<&[u32], Vec<&[u32]>> = HashMap::new();
        let mut duplicates = Duplicates::default();
        for (i, example) in self.whole.iter().enumerate() {
            let Some(example) = example else { continue };
            let responses = seen.entry(&example.prompt_ids).or_default();
            let response = example.demonstration_ids.as_slice();
            if responses.contains(&response) {
                duplicates.rows.push(i);
                continue;
            }
            if !responses.is_empty() {
                duplicates.prompts.push(i);
            }
            responses.push(response);
        }
        duplicates
    }
}

/// Whether a conversation has answers that are part of the prompt.
fn has_earlier_answers(row: &Row) -> bool {
    match &row.prompt {
        Prompt::Messages(messages) => {
            row.demonstration.is_some() && messages.iter().any(|message| message.role == "assistant")
        }
        Prompt::Text(_) | Prompt::Ids(_) => false,
    }
}

/// Rows, by their index, that repeat earlier ones.
#[derive(Default)]
struct Duplicates {
    /// Prompt and response.
    rows: Vec<usize>,
    /// The prompt alone.
    prompts: Vec<usize>,
}
