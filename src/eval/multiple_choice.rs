//! Which of several texts the model finds likeliest after a context, as lm-evaluation-harness asks it (HellaSwag and its like).
//!
//! A choice follows the context and one space, and is tokenized with it. `acc` takes the choice of the largest log-likelihood,
//! `acc_norm` that of the largest log-likelihood per character of the choice.

use serde::{Deserialize, Serialize};

use super::figures::{Figure, Report};
use super::python_text::{capitalize, strip, strip_end};
use super::row_store::RowStore;
use super::scoring::{Scored, Scoring};
use crate::data::fields::FieldRow;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::model::CausalLm;
use crate::objective::log_probs::total;

/// What a row has: HellaSwag's fields, or the plain ones.
pub const FIELDS: [&str; 9] =
    ["activity_label", "ctx_a", "ctx_b", "ctx", "endings", "label", "prompt", "choices", "answer"];

/// A context and its choices, as tokens.
#[derive(Debug)]
pub struct Question {
    choices: Vec<Scored>,
    /// The context was too long beside a choice and lost its start.
    pub is_cut: bool,
    /// Characters of each choice, without the space before it.
    num_chars: Vec<usize>,
    answer: usize,
}

/// A scored question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceRow {
    /// Of each choice, nats.
    pub log_likelihoods: Vec<f64>,
    /// The right choice, counted from 0.
    pub answer: usize,
    /// The choice of the largest log-likelihood, the first of equals.
    pub predicted: usize,
    /// That of the largest log-likelihood per character.
    pub predicted_norm: usize,
}

impl Question {
    /// Reads HellaSwag's fields or the plain ones. Contexts are cut at their start to what the model reads.
    ///
    /// # Errors
    /// [`crate::error::Error::Input`] that names the line: a missing field, an answer that is none of the choices, an empty
    /// choice, or one that is longer than the model reads.
    pub fn new(row: &FieldRow, tokenizer: &Tokenizer, max_length: usize) -> Result<Self> {
        let is_hellaswag = row.has("endings");
        let (choices_field, answer_field) = if is_hellaswag { ("endings", "label") } else { ("choices", "answer") };
        let mut choices = row.texts(choices_field)?;
        let context = match is_hellaswag {
            true => {
                choices = choices.iter().map(|choice| without_brackets(choice)).collect();
                hellaswag_context(row)?
            }
            false => row.text("prompt")?.to_owned(),
        };
        let answer = row.index(answer_field)?;
        if answer >= choices.len() {
            let message = format!("{answer} is none of the {} choices, which count from 0", choices.len());
            return Err(row.error(answer_field, message));
        }
        let encoded = |choice: &String| -> Result<Encoded> {
            let encoded = encode(tokenizer, &context, &format!(" {choice}"), max_length)?;
            encoded.filter(|_| !choice.is_empty()).ok_or_else(|| {
                row.error(choices_field, format!("expected choices of 1 to {max_length} tokens, got {choice:?}"))
            })
        };
        let encoded: Vec<Encoded> = choices.iter().map(encoded).collect::<Result<_>>()?;
        Ok(Question {
            is_cut: encoded.iter().any(|choice| choice.is_cut),
            choices: encoded.into_iter().map(|choice| choice.scored).collect(),
            num_chars: choices.iter().map(|choice| choice.chars().count()).collect(),
            answer,
        })
    }

    fn row(&self, scores: &[Vec<f32>]) -> ChoiceRow {
        let log_likelihoods: Vec<f64> = scores.iter().map(|choice| total(choice)).collect();
        let normalised = log_likelihoods.iter().zip(&self.num_chars).map(|(sum, len)| sum / *len as f64);
        ChoiceRow {
            predicted: first_largest(log_likelihoods.iter().copied()),
            predicted_norm: first_largest(normalised),
            log_likelihoods,
            answer: self.answer,
        }
    }
}

/// The texts that HellaSwag's authors took from WikiHow have marks in brackets.
fn without_brackets(text: &str) -> String {
    let titled = strip(text).replace(" [title]", ". ");
    let mut kept = String::new();
    let mut rest = titled.as_str();
    while let Some((before, after)) = rest.split_once('[') {
        kept += before;
        // Brackets reach over no line end.
        rest = match after.find([']', '\n']).map(|end| after.split_at(end)) {
            Some((_, tail)) if tail.starts_with(']') => &tail[1..],
            _ => {
                kept.push('[');
                after
            }
        };
    }
    (kept + rest).replace("  ", " ")
}

fn hellaswag_context(row: &FieldRow) -> Result<String> {
    if !["activity_label", "ctx_a", "ctx_b"].iter().all(|field| row.has(field)) {
        return Ok(without_brackets(row.text("ctx")?));
    }
    let (label, start, end) = (row.text("activity_label")?, row.text("ctx_a")?, row.text("ctx_b")?);
    Ok(without_brackets(&format!("{label}: {start} {}", capitalize(end))))
}

/// A choice after its context.
struct Encoded {
    scored: Scored,
    /// The context lost its start.
    is_cut: bool,
}

/// White space at the end of the context counts as the start of the choice. None if the choice has no token of its own, or
/// more than the model reads.
fn encode(tokenizer: &Tokenizer, context: &str, choice: &str, max_length: usize) -> Result<Option<Encoded>> {
    let start = strip_end(context);
    let whole = format!("{context}{choice}");
    let mut prompt_ids = if start.is_empty() { Vec::new() } else { tokenizer.encode_plain(start)? };
    let response_ids = match prompt_ids.is_empty() {
        true => {
            let ids = tokenizer.encode(&whole)?;
            prompt_ids.push(tokenizer.prefix_token_id());
            let has_prefix = ids.first() == prompt_ids.first();
            ids[usize::from(has_prefix)..].to_vec()
        }
        false => tokenizer.encode_plain(&whole)?.into_iter().skip(prompt_ids.len()).collect(),
    };
    if response_ids.is_empty() || response_ids.len() > max_length {
        return Ok(None);
    }
    let too_many = (prompt_ids.len() + response_ids.len()).saturating_sub(max_length + 1);
    prompt_ids.drain(..too_many);
    Ok(Some(Encoded { scored: Scored { prompt_ids, response_ids }, is_cut: too_many > 0 }))
}

fn first_largest(values: impl Iterator<Item = f64>) -> usize {
    let larger = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
    values.enumerate().fold((0, f64::NEG_INFINITY), larger).0
}

/// Scores the questions that the store lacks.
///
/// # Errors
/// A failing device; log-probs that are not finite; [`crate::error::Error::Disk`].
pub fn score_choices(
    model: &CausalLm,
    questions: &[Question],
    scoring: &Scoring<'_>,
    store: &mut RowStore<ChoiceRow>,
) -> Result<()> {
    let choices: Vec<&[Scored]> = questions.iter().map(|question| question.choices.as_slice()).collect();
    let row = |index: usize, scores: &[Vec<f32>]| questions[index].row(scores);
    // A row's choices share the rows of their context only if they are in one batch.
    scoring.score_rows(model, &choices, usize::MAX, row, store)
}

/// The shares of right choices.
pub fn report(rows: &[&ChoiceRow]) -> Report {
    let share = |predicted: fn(&ChoiceRow) -> usize| {
        Figure::share(rows.iter().filter(|row| predicted(row) == row.answer).count(), rows.len())
    };
    let figures = [("acc", share(|row| row.predicted)), ("acc_norm", share(|row| row.predicted_norm))];
    Report::new("multiple-choice", rows.len(), figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_go_as_the_regular_expression_takes_them() {
        // lm_eval.tasks.hellaswag.utils.preprocess.
        for (text, expected) in [
            (" [header] How to sit [title] Sit. [step] Down ", " How to sit. Sit. Down"),
            ("a [b [c] d] e", "a d] e"),
            ("a [b\nc] d", "a [b\nc] d"),
            ("no [end", "no [end"),
            ("[[x]] y", "] y"),
            ("three   spaces", "three  spaces"),
        ] {
            assert_eq!(without_brackets(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_first_of_equals_is_the_largest() {
        assert_eq!(first_largest([-2.0, -1.0, -1.0].into_iter()), 1);
    }

    #[test]
    fn a_longer_choice_is_judged_by_the_character() {
        let scored = Scored { prompt_ids: vec![1], response_ids: vec![2] };
        let choices = vec![scored.clone(), scored];
        let question = Question { choices, is_cut: false, num_chars: vec![1, 4], answer: 1 };
        let row = question.row(&[vec![-2.0], vec![-3.0]]);
        assert_eq!((row.predicted, row.predicted_norm), (0, 1));
        let report = report(&[&row]);
        assert_eq!((report.figures["acc"].value, report.figures["acc_norm"].value), (0.0, 1.0));
    }
}
