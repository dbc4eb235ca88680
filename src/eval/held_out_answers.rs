//! Whether held-out answers are right: an answer's number beside its demonstration's, by the rules of [`super::answer`], and
//! whether the answer has the demonstrations' form.

use std::borrow::Cow;

use super::Settings;
use super::answer::{answers_agree, flexible_answer, strict_answer};
use crate::data::examples::Example;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::generate::Response;
use crate::records::evaluation::{Answers, RowAnswer};
use crate::report::console::Console;

/// Says of how many demonstrations that are to be answered no answer can be right, because no number stands after the
/// marker.
///
/// # Errors
/// [`Error::Input`](crate::error::Error::Input) if the tokenizer's decoder fails.
pub fn warn_of_numbers(
    examples: &[Example],
    tokenizer: Option<&Tokenizer>,
    settings: &Settings,
    console: &Console,
) -> Result<()> {
    let (Some(tokenizer), Some(marker)) = (tokenizer, &settings.answer_marker) else { return Ok(()) };
    let answered = settings.answered(examples);
    let mut num_without = 0;
    for example in answered {
        num_without += usize::from(strict_answer(&demonstration_text(example, tokenizer)?, marker).is_none());
    }
    if num_without > 0 && num_without == answered.len() {
        console.warn(format!(
            "no demonstration has `{marker}`, one space and a number: no answers are compared (evaluation.answer_marker)"
        ));
    } else if num_without > 0 {
        console.warn(format!(
            "{num_without} of {} demonstrations have not `{marker}`, one space and a number: no answer to them counts as right",
            answered.len()
        ));
    }
    Ok(())
}

/// What each answer is like.
pub(super) struct JudgedAnswers {
    pub(super) rows: Vec<RowAnswer>,
    /// Rows whose last number is right; None where that says nothing.
    num_flexible: Option<usize>,
}

impl JudgedAnswers {
    pub(super) fn answers(&self, responses: &[Response]) -> Answers {
        let num_rows = self.rows.len();
        let share = |count: usize| count as f64 / num_rows.max(1) as f64;
        let known = |figure: fn(&RowAnswer) -> Option<bool>| {
            let values: Option<Vec<bool>> = self.rows.iter().map(figure).collect();
            values.map(|values| share(values.into_iter().filter(|is_so| *is_so).count()))
        };
        let num_tokens: usize = responses.iter().map(|response| response.token_ids.len()).sum();
        Answers {
            num_rows,
            finished: share(self.rows.iter().filter(|row| row.finished).count()),
            mean_tokens: num_tokens as f64 / num_rows.max(1) as f64,
            ends_in_answer: known(|row| row.ends_in_answer),
            exact_match: known(|row| row.exact_match),
            flexible_match: self.num_flexible.map(share),
        }
    }
}

/// Judges each answer beside its demonstration; without a tokenizer or a marker only whether it ends of itself is known.
///
/// # Errors
/// [`Error::Input`](crate::error::Error::Input) if the tokenizer's decoder fails.
pub(super) fn judge_rows(
    examples: &[Example],
    responses: &[Response],
    tokenizer: Option<&Tokenizer>,
    marker: Option<&str>,
) -> Result<JudgedAnswers> {
    let unread =
        |response: &Response| RowAnswer { finished: response.finished, ends_in_answer: None, exact_match: None };
    let (Some(tokenizer), Some(marker)) = (tokenizer, marker) else {
        return Ok(JudgedAnswers { rows: responses.iter().map(unread).collect(), num_flexible: None });
    };
    let (mut rows, mut num_flexible) = (Vec::new(), 0);
    let (mut strict_makes_sense, mut flexible_makes_sense) = (false, false);
    for (example, response) in examples.iter().zip(responses) {
        let text = tokenizer.decode(&response.token_ids)?;
        let demonstration = demonstration_text(example, tokenizer)?;
        let ends = response.finished && ends_in_answer(&text, marker);
        let truth = strict_answer(&demonstration, marker);
        let agrees = |answer: Option<String>| match (&answer, &truth) {
            (Some(answer), Some(truth)) => answers_agree(answer, truth),
            _ => false,
        };
        strict_makes_sense |= truth.is_some();
        flexible_makes_sense |= agrees(flexible_answer(&demonstration));
        num_flexible += usize::from(agrees(flexible_answer(&text)));
        let exact_match = Some(agrees(strict_answer(&text, marker)));
        rows.push(RowAnswer { finished: response.finished, ends_in_answer: Some(ends), exact_match });
    }
    if !strict_makes_sense {
        rows.iter_mut().for_each(|row| row.exact_match = None);
    }
    Ok(JudgedAnswers { rows, num_flexible: flexible_makes_sense.then_some(num_flexible) })
}

fn demonstration_text<'e>(example: &'e Example, tokenizer: &Tokenizer) -> Result<Cow<'e, str>> {
    match &example.demonstration_text {
        Some(text) => Ok(text.into()),
        None => Ok(tokenizer.decode(&example.demonstration_ids)?.into()),
    }
}

/// The text's last marker is followed by a number and nothing else.
fn ends_in_answer(text: &str, marker: &str) -> bool {
    let Some((_, tail)) = text.rsplit_once(marker) else { return false };
    let tail = tail.trim();
    let numeric = tail.chars().all(|c| c.is_ascii_digit() || matches!(c, ' ' | '.' | ',' | '-'));
    numeric && tail.contains(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_in_its_marker_and_a_number_alone() {
        for (text, expected) in [
            ("2 + 2 = 4\n#### 4", true),
            ("so #### 1,200 ", true),
            ("#### 6 9", true),
            ("#### -3", true),
            ("#### 4 apples", false),
            ("#### ", false),
            ("the answer is 4", false),
        ] {
            assert_eq!(ends_in_answer(text, "####"), expected, "{text}");
        }
    }
}
