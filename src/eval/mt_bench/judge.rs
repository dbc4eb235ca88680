//! What the judge is asked, and the rating in what it says. The prompts are the user's file, FastChat's
//! `judge_prompts.jsonl`; nothing of them stands here.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::{Answer, Question};
use crate::data::fields::{FieldRow, read_rows_as};
use crate::error::{Error, Result};

/// The output format that is understood: one rating in double brackets.
const RATING: &str = "[[rating]]";

/// One prompt of the file.
#[derive(Debug, Clone, Deserialize)]
struct JudgePrompt {
    name: String,
    system_prompt: String,
    prompt_template: String,
    output_format: String,
}

/// The prompts for rating single answers.
#[derive(Debug)]
pub struct JudgePrompts {
    /// With their rows in the file.
    prompts: HashMap<String, (FieldRow, JudgePrompt)>,
}

/// What a judge is asked about one turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The prompt's name.
    pub name: String,
    pub system_prompt: String,
    pub user_prompt: String,
}

impl JudgePrompts {
    /// Reads the file; only prompts that ask for one rating are kept.
    ///
    /// # Errors
    /// [`Error::Input`] with the line of a row that lacks a key, and for a file without a prompt that is needed.
    pub fn read(path: &Path) -> Result<Self> {
        let fields = ["name", "system_prompt", "prompt_template", "output_format"];
        let rows: Vec<(FieldRow, JudgePrompt)> = read_rows_as(path, &fields)?;
        let rated = rows.into_iter().filter(|(_, prompt)| prompt.output_format == RATING);
        let prompts: HashMap<_, _> = rated.map(|(row, prompt)| (prompt.name.clone(), (row, prompt))).collect();
        for with_reference in [false, true] {
            for turn in [1, 2] {
                let name = prompt_name(with_reference, turn);
                if !prompts.contains_key(name) {
                    return Err(Error::input(path, format!("has no prompt `{name}` that asks for {RATING}"))
                        .with_hint("it is to be FastChat's judge_prompts.jsonl"));
                }
            }
        }
        Ok(JudgePrompts { prompts })
    }

    /// What to ask about a turn (1 or 2), with a reference answer if there is one.
    ///
    /// # Errors
    /// [`Error::Input`] for a placeholder in the prompt that is not known, or has no text here.
    pub fn ask(&self, question: &Question, answer: &Answer, reference: Option<&Answer>, turn: usize) -> Result<Asked> {
        let (row, prompt) = &self.prompts[prompt_name(reference.is_some(), turn)];
        let of_turn = |texts: &[String], turn: usize| texts.get(turn - 1).cloned();
        let reference = reference.map_or(&[][..], Answer::turns);
        let fill = |name: &str| match name {
            "question" | "question_1" => of_turn(&question.turns, 1),
            "question_2" => of_turn(&question.turns, 2),
            "answer" | "answer_1" => of_turn(answer.turns(), 1),
            "answer_2" => of_turn(answer.turns(), 2),
            "ref_answer_1" => of_turn(reference, 1),
            "ref_answer_2" => of_turn(reference, 2),
            _ => None,
        };
        let user_prompt = filled(&prompt.prompt_template, &fill).map_err(|name| {
            let id = question.question_id;
            let message = format!("`{{{name}}}` of prompt `{}` has no text for question {id}", prompt.name);
            row.error("prompt_template", message)
        })?;
        Ok(Asked { name: prompt.name.clone(), system_prompt: prompt.system_prompt.clone(), user_prompt })
    }
}

/// FastChat's name of a prompt.
fn prompt_name(with_reference: bool, turn: usize) -> &'static str {
    match (with_reference, turn) {
        (false, 1) => "single-v1",
        (true, 1) => "single-math-v1",
        (false, _) => "single-v1-multi-turn",
        (true, _) => "single-math-v1-multi-turn",
    }
}

/// A template of Python's `str.format` with named fields; `{{` is a brace. What is filled in is not looked at again. The
/// error is the name of a field that is not known.
fn filled(template: &str, fill: &dyn Fn(&str) -> Option<String>) -> std::result::Result<String, String> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some(at) = rest.find(['{', '}']) {
        text += &rest[..at];
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            text += brace;
            rest = after;
            continue;
        }
        let Some((name, after)) = rest.split_once('}').filter(|_| brace == "{") else {
            return Err(rest.chars().take(20).collect());
        };
        text += &fill(name).ok_or_else(|| name.to_owned())?;
        rest = after;
    }
    Ok(text + rest)
}

/// The rating in a judgment: the first number in double brackets, else the first in single ones, as FastChat finds it
/// (`\[\[(\d+\.?\d*)\]\]`, then `\[(\d+\.?\d*)\]`).
pub fn rating(judgment: &str) -> Option<f64> {
    bracketed(judgment, "[[", "]]").or_else(|| bracketed(judgment, "[", "]"))
}

fn bracketed(text: &str, open: &str, close: &str) -> Option<f64> {
    text.match_indices('[').filter_map(|(at, _)| text[at..].strip_prefix(open)).find_map(|rest| {
        let len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(len);
        let is_number = number.starts_with(|c: char| c.is_ascii_digit()) && number.matches('.').count() <= 1;
        (is_number && after.starts_with(close)).then(|| number.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_are_found_as_the_regular_expressions_find_them() {
        // re.search with FastChat's two patterns in Python 3, one after the other.
        for (text, expected) in [
            ("Rating: [[5]]", Some(5.0)),
            ("[[7.5]] and [[2]]", Some(7.5)),
            ("[3] then [[8]]", Some(8.0)),
            ("Rating: [6]", Some(6.0)),
            ("[[9]", Some(9.0)),
            ("[[10.]]", Some(10.0)),
            ("[[1.2.3]] [4]", Some(4.0)),
            ("[[rating]]", None),
            ("[[ 5 ]]", None),
            ("[[-5]]", None),
            ("[[.5]]", None),
            ("[[5/10]]", None),
            ("[[[5]]]", Some(5.0)),
            ("é[[3]]", Some(3.0)),
            ("5", None),
            ("", None),
        ] {
            assert_eq!(rating(text), expected, "{text:?}");
        }
    }

    #[test]
    fn templates_are_filled_once_and_unknown_fields_are_named() {
        let fill = |name: &str| (name == "question").then(|| "{answer} {{".to_owned());
        assert_eq!(filled("a {question} {{b}} c", &fill).unwrap(), "a {answer} {{ {b} c");
        assert_eq!(filled("{other}", &fill).unwrap_err(), "other");
        assert_eq!(filled("x } y", &fill).unwrap_err(), " y");
        assert_eq!(filled("{question", &fill).unwrap_err(), "question");
    }

    #[test]
    fn the_prompt_depends_on_turn_and_reference() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judge.jsonl");
        let row = |name: &str, template: &str| {
            serde_json::json!({"name": name, "type": "single", "system_prompt": "be fair", "prompt_template": template,
                "output_format": RATING})
            .to_string()
                + "\n"
        };
        let rows = row("single-v1", "{question}|{answer}")
            + &row("single-math-v1", "{question}|{ref_answer_1}|{answer}")
            + &row("single-v1-multi-turn", "{question_1}|{answer_1}|{question_2}|{answer_2}")
            + &row("single-math-v1-multi-turn", "{ref_answer_1}|{ref_answer_2}|{answer_2}");
        std::fs::write(&path, &rows).unwrap();
        let prompts = JudgePrompts::read(&path).unwrap();
        let question: Question =
            serde_json::from_str(r#"{"question_id": 1, "category": "math", "turns": ["q1", "q2"]}"#).unwrap();
        let answer = |turns: &str| -> Answer {
            serde_json::from_str(&format!(
                r#"{{"question_id": 1, "answer_id": "a", "model_id": "m", "choices": [{{"index": 0, "turns": {turns}}}], "tstamp": 0}}"#
            ))
            .unwrap()
        };
        let (own, reference) = (answer(r#"["a1", "a2"]"#), answer(r#"["r1", "r2"]"#));
        let ask = |reference, turn| prompts.ask(&question, &own, reference, turn).unwrap().user_prompt;
        assert_eq!(ask(None, 1), "q1|a1");
        assert_eq!(ask(None, 2), "q1|a1|q2|a2");
        assert_eq!(ask(Some(&reference), 1), "q1|r1|a1");
        assert_eq!(ask(Some(&reference), 2), "r1|r2|a2");
        let short = answer(r#"["r1"]"#);
        let error = prompts.ask(&question, &own, Some(&short), 2).unwrap_err().to_string();
        assert!(error.contains("line 4, `prompt_template`") && error.contains("ref_answer_2"), "{error}");
        std::fs::write(&path, row("single-v1", "{question}")).unwrap();
        assert!(JudgePrompts::read(&path).unwrap_err().to_string().contains("single-v1-multi-turn"));
    }
}
