//! GSM8K (Cobbe et al., 2021, arXiv 2110.14168): school mathematics, asked and matched as lm-evaluation-harness's `gsm8k` does.
//!
//! The answer is greedy and cut at the first stop string. Strict takes the number after `#### `, flexible the last number;
//! either is right if it is the text after `#### ` of the row's answer, `,` and `$` and a full stop at the end apart. Unlike
//! there, the worked problems before a question are the first ones of their file, not drawn by chance.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::answer::{flexible_answer, strict_match};
use super::figures::{Figure, Report};
use super::row_store::RowStore;
use crate::data::fields::{FieldRow, read_field_rows};
use crate::data::rows::Prompt;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::generate::sampler::Sampling;
use crate::generate::{Decoding, Event, Request, Response, generate, inseparable};
use crate::model::CausalLm;
use crate::report::console::{Console, Unit};
use crate::report::table::plural;

/// What a row has.
pub const FIELDS: [&str; 2] = ["question", "answer"];
/// What GSM8K and its kin write before an answer's number.
pub const MARKER: &str = "####";
const STOP_STRINGS: [&str; 3] = ["Question:", "</s>", "<|im_end|>"];
/// What stands for an answer that was not found.
const NOT_FOUND: &str = "[invalid]";

/// A question as the model reads it, and its answer.
#[derive(Debug)]
pub struct Problem {
    prompt_ids: Vec<u32>,
    /// The prompt was too long and lost its start: worked problems, or the head of the chat template.
    pub is_cut: bool,
    /// The whole worked answer.
    answer: String,
}

/// A question and what the model said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gsm8kRow {
    /// Up to the first stop string.
    pub response: String,
    /// The number after `#### `, else `[invalid]`.
    pub strict: String,
    /// The last number, else `[invalid]`.
    pub flexible: String,
    pub exact_match_strict: bool,
    pub exact_match_flexible: bool,
    /// The model ended the response by itself, before the longest length.
    pub finished: bool,
    pub num_tokens: usize,
}

/// How questions are answered.
pub struct Answering<'a> {
    pub tokenizer: &'a Tokenizer,
    pub eos_token_ids: &'a [u32],
    pub max_new_tokens: usize,
    /// Questions answered side by side.
    pub batch_size: usize,
    pub console: &'a Console,
}

/// The first `num_shots` problems of some files, at least one, with their answers, as they stand before a question.
///
/// # Errors
/// [`Error::Input`] for a bad row, and if there are fewer.
pub fn few_shot_prefix(files: &[PathBuf], num_shots: usize) -> Result<String> {
    let rows = read_field_rows(files, Some(num_shots), &FIELDS)?;
    if rows.len() < num_shots {
        return Err(Error::input(
            &files[0],
            format!("has {}, --few-shot asks for {num_shots}", plural(rows.len(), "problem")),
        ));
    }
    let shot = |row: &FieldRow| Ok(format!("{} {}\n\n", question(row)?, row.text("answer")?));
    rows.iter().take(num_shots).map(shot).collect()
}

fn question(row: &FieldRow) -> Result<String> {
    Ok(format!("Question: {}\nAnswer:", row.text("question")?))
}

impl Problem {
    /// Reads `question` and `answer`. A prompt of more than `max_length` tokens loses its start, as in the original.
    ///
    /// # Errors
    /// [`Error::Input`] that names the line, for a missing field; if the tokenizer or the template refuses the text.
    pub fn new(row: &FieldRow, shots: &str, tokenizer: &Tokenizer, chat: bool, max_length: usize) -> Result<Self> {
        let prompt = format!("{shots}{}", question(row)?);
        let mut prompt_ids = match chat {
            true => tokenizer.encode_prompt(&Prompt::Text(prompt))?,
            false => tokenizer.encode_plain(&prompt)?,
        };
        let too_many = prompt_ids.len().saturating_sub(max_length);
        prompt_ids.drain(..too_many);
        Ok(Problem { prompt_ids, is_cut: too_many > 0, answer: row.text("answer")?.to_owned() })
    }

    /// Whether a response can be right: the answer, or what follows its marker, is a number.
    pub fn has_number(&self) -> bool {
        let reference = comparable(&self.answer);
        flexible_answer(&reference).is_some_and(|number| comparable(&number) == reference)
    }
}

impl Gsm8kRow {
    fn new(problem: &Problem, response: &Response, tokenizer: &Tokenizer) -> Result<Self> {
        let judged = judge(&tokenizer.decode(&response.token_ids)?, &problem.answer);
        Ok(Gsm8kRow { finished: response.finished, num_tokens: response.token_ids.len(), ..judged })
    }
}

/// What is found in a response, and whether it is right. The response is cut at its first stop string.
pub fn judge(response: &str, answer: &str) -> Gsm8kRow {
    let response = STOP_STRINGS.iter().fold(response, |text, stop| text.split(stop).next().unwrap_or_default());
    let strict = strict_match(response, MARKER).unwrap_or(NOT_FOUND).to_owned();
    let flexible = flexible_answer(response).unwrap_or_else(|| NOT_FOUND.to_owned());
    let reference = comparable(answer);
    Gsm8kRow {
        exact_match_strict: comparable(&strict) == reference,
        exact_match_flexible: comparable(&flexible) == reference,
        response: response.to_owned(),
        strict,
        flexible,
        finished: false,
        num_tokens: 0,
    }
}

/// A text without what the comparison ignores: `,`, `$`, all up to the last `#### `, a full stop at the end, large and small.
fn comparable(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !matches!(c, ',' | '$')).collect();
    let tail = kept.rsplit_once("#### ").map_or(&*kept, |(_, tail)| tail);
    // In a regular expression of Python the end is also before a last line end.
    let (line, end) = tail.strip_suffix('\n').map_or((tail, ""), |line| (line, "\n"));
    format!("{}{end}", line.strip_suffix('.').unwrap_or(line)).to_lowercase()
}

/// Answers the questions that the store lacks.
///
/// # Errors
/// A failing device; [`Error::Disk`].
pub fn answer(
    model: &CausalLm,
    problems: &[Problem],
    answering: &Answering<'_>,
    store: &mut RowStore<Gsm8kRow>,
) -> Result<()> {
    let request = |problem: &Problem| Request { prompt_ids: problem.prompt_ids.clone(), seed: 0, max_new_tokens: None };
    let requests: Vec<Request> = problems.iter().map(request).collect();
    let groups = store.unfinished(inseparable(model, &requests, answering.batch_size));
    let indices: Vec<usize> = groups.into_iter().flatten().collect();
    let wanted: Vec<Request> = indices.iter().map(|index| requests[*index].clone()).collect();
    let decoding = Decoding {
        sampling: Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 },
        max_new_tokens: answering.max_new_tokens,
        batch_size: answering.batch_size,
        eos_token_ids: answering.eos_token_ids.to_vec(),
    };
    let mut bar = answering.console.bar("answering", wanted.len() as u64, Unit::Count("questions"));
    generate(model, &wanted, &decoding, &mut |event| {
        let Event::Done(i, response) = event else { return Ok(()) };
        bar.advance(1);
        let index = indices[i];
        store.add(index, Gsm8kRow::new(&problems[index], &response, answering.tokenizer)?)
    })
}

/// The shares of right answers, and how long answers are.
pub fn report(rows: &[&Gsm8kRow]) -> Report {
    let share = |is_so: fn(&Gsm8kRow) -> bool| Figure::share(rows.iter().filter(|row| is_so(row)).count(), rows.len());
    let num_tokens: Vec<f64> = rows.iter().map(|row| row.num_tokens as f64).collect();
    let figures = [
        ("exact_match_strict", share(|row| row.exact_match_strict)),
        ("exact_match_flexible", share(|row| row.exact_match_flexible)),
        ("finished", share(|row| row.finished)),
        ("mean_tokens", Figure::mean(&num_tokens)),
    ];
    Report::new("gsm8k", rows.len(), figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_ends_at_its_first_stop_string() {
        let row = judge(" 4\n#### 4\n\nQuestion: 5?</s>", "#### 4");
        assert_eq!(row.response, " 4\n#### 4\n\n");
        assert!(row.exact_match_strict && row.exact_match_flexible);
        assert_eq!(judge("a<|im_end|>b</s>c", "").response, "a");
    }

    #[test]
    fn digits_spelled_one_by_one_are_not_joined_as_the_original_does_not() {
        assert_eq!(judge("#### 7 2", "#### 72").strict, "7");
    }

    #[test]
    fn an_answer_without_a_number_is_one_that_no_response_can_give() {
        let has_number =
            |answer: &str| Problem { prompt_ids: Vec::new(), is_cut: false, answer: answer.to_owned() }.has_number();
        for answer in ["2 + 2 = 4\n#### 4", "#### 1,234", "#### $5.", "-7", "12"] {
            assert!(has_number(answer), "{answer}");
            assert!(judge(answer, answer).exact_match_flexible, "{answer}");
        }
        for answer in ["Paris", "#### Paris", "he has 3 apples", ""] {
            assert!(!has_number(answer), "{answer}");
            assert!(!judge(answer, answer).exact_match_flexible, "{answer}");
        }
    }

    #[test]
    fn what_is_compared_is_what_the_regular_expressions_leave() {
        // re.sub with ",", r"\$", r"(?s).*#### ", r"\.$" one after another, then lower().
        for (text, expected) in [
            ("so\n#### 1,234.", "1234"),
            ("$5", "5"),
            ("5.0.", "5.0"),
            ("5..", "5."),
            ("5.\n", "5\n"),
            ("#### 1 #### 2", "2"),
            ("[invalid]", "[invalid]"),
            ("#,### A", "a"),
        ] {
            assert_eq!(comparable(text), expected, "{text:?}");
        }
    }
}
