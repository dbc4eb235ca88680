//! MT-Bench: 80 questions of two turns, answered by the model and rated from 1 to 10 by a stronger one (Zheng et al. 2023,
//! arXiv 2306.05685; the questions and the judge's prompts are FastChat's, Apache-2.0 licence).
//!
//! ```text
//! mod      the files, in FastChat's forms: question, model_answer, model_judgment
//! answer   the model answers both turns
//! judge    what the judge is asked, and the rating in what it says
//! scores   the mean with its interval
//! ```
//! Who asks the judge is the command's business: an OpenAI-compatible server that the user names.

pub mod answer;
pub mod judge;
pub mod scores;

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::fields::{FieldRow, read_rows_as};
use crate::error::Result;

/// FastChat's `score` of a judgment without a rating.
pub const NO_RATING: f64 = -1.0;
/// The temperature of categories that FastChat gives none.
const OTHER_TEMPERATURE: f64 = 0.7;
/// The categories that are judged beside a reference answer.
const WITH_REFERENCE: [&str; 3] = ["math", "reasoning", "coding"];

/// One question. Keys as in FastChat's `question.jsonl`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Question {
    pub question_id: u64,
    pub category: String,
    /// One or two.
    pub turns: Vec<String>,
    /// Overrules the category's.
    pub required_temperature: Option<f64>,
}

impl Question {
    /// FastChat's: 0 is greedy.
    pub fn temperature(&self) -> f64 {
        self.required_temperature.unwrap_or(match self.category.as_str() {
            "extraction" | "math" | "coding" | "reasoning" => 0.0,
            "stem" | "humanities" => 0.1,
            _ => OTHER_TEMPERATURE, // writing and roleplay too
        })
    }

    /// Judged with the help of a reference answer.
    pub fn needs_reference(&self) -> bool {
        WITH_REFERENCE.contains(&self.category.as_str())
    }
}

/// The answers of one model to one question. Keys as in FastChat's `model_answer`; reference answers have the same form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub question_id: u64,
    pub answer_id: String,
    pub model_id: String,
    /// The first one is judged.
    pub choices: Vec<Choice>,
    /// Seconds since 1970.
    pub tstamp: f64,
}

/// One way in which a model answered all turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    pub index: usize,
    pub turns: Vec<String>,
}

impl Answer {
    /// The texts that are judged, one a turn.
    pub fn turns(&self) -> &[String] {
        self.choices.first().map_or(&[], |choice| &choice.turns)
    }
}

/// What a judge said of one turn. Keys as in FastChat's `model_judgment` of single answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgment {
    pub question_id: u64,
    pub model: String,
    /// The judge's name and the name of its prompt.
    pub judge: (String, String),
    pub user_prompt: String,
    pub judgment: String,
    /// [`NO_RATING`] if the judgment has none.
    pub score: f64,
    /// 1 or 2.
    pub turn: usize,
    /// Seconds since 1970.
    pub tstamp: f64,
}

/// Reads `question.jsonl`.
///
/// # Errors
/// [`crate::Error::Input`] with the line of a row that lacks a key, has not one or two turns, or comes twice.
pub fn read_questions(path: &Path) -> Result<Vec<Question>> {
    let fields = ["question_id", "category", "turns", "required_temperature"];
    let rows: Vec<(FieldRow, Question)> = read_rows_as(path, &fields)?;
    let mut places: HashMap<u64, &str> = HashMap::new();
    for (row, Question { question_id, turns, required_temperature, .. }) in &rows {
        if let Some(first) = places.insert(*question_id, row.place()) {
            return Err(row.error("question_id", format!("question {question_id} is there already, on {first}")));
        }
        if !matches!(turns.len(), 1 | 2) {
            return Err(row.error("turns", format!("{} turns, expected one or two", turns.len())));
        }
        if required_temperature.is_some_and(|temperature| !(temperature.is_finite() && temperature >= 0.0)) {
            return Err(row.error("required_temperature", "expected 0 or more"));
        }
    }
    Ok(rows.into_iter().map(|(_, question)| question).collect())
}

/// Reads a file of answers: a model's, or reference answers.
///
/// # Errors
/// [`crate::Error::Input`] with the line of a row that lacks a key or has no choice.
pub fn read_answers(path: &Path) -> Result<Vec<Answer>> {
    #[derive(Deserialize)]
    struct Given {
        question_id: u64,
        #[serde(default)]
        answer_id: String,
        #[serde(default)]
        model_id: String,
        choices: Vec<Choice>,
        #[serde(default)]
        tstamp: f64,
    }
    let fields = ["question_id", "answer_id", "model_id", "choices", "tstamp"];
    let rows: Vec<(FieldRow, Given)> = read_rows_as(path, &fields)?;
    let answer = |(row, given): (FieldRow, Given)| {
        let Given { question_id, answer_id, model_id, choices, tstamp } = given;
        match choices.first().is_some_and(|choice| !choice.turns.is_empty()) {
            true => Ok(Answer { question_id, answer_id, model_id, choices, tstamp }),
            false => Err(row.error("choices", "no answer")),
        }
    };
    rows.into_iter().map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn questions_are_read_with_fastchats_temperatures() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("question.jsonl");
        let rows: String = ["writing", "math", "stem", "other"]
            .iter()
            .enumerate()
            .map(|(i, c)| {
                format!("{{\"question_id\": {i}, \"category\": \"{c}\", \"turns\": [\"a\", \"b\"], \"x\": 1}}\n")
            })
            .collect();
        let own = r#"{"question_id": 9, "category": "math", "turns": ["a"], "required_temperature": 0.3}"#;
        fs::write(&path, rows + own).unwrap();
        let questions = read_questions(&path).unwrap();
        let temperatures: Vec<f64> = questions.iter().map(Question::temperature).collect();
        assert_eq!(temperatures, [0.7, 0.0, 0.1, 0.7, 0.3]);
        let with_reference: Vec<bool> = questions.iter().map(Question::needs_reference).collect();
        assert_eq!(with_reference, [false, true, false, false, true]);
    }

    #[test]
    fn bad_rows_are_named_by_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.jsonl");
        let row = r#"{"question_id": 1, "category": "math", "turns": ["a", "b"]}"#;
        for (text, place) in [
            (format!("{row}\n{row}"), "line 2, `question_id`"),
            (format!("\n{}", row.replace(r#""a", "b""#, "")), "line 2, `turns`"),
            (row.replace("category", "kind"), "line 1"),
            (String::new(), "has no rows"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read_questions(&path).unwrap_err().to_string();
            assert!(error.contains("q.jsonl") && error.contains(place), "{error}");
        }
        fs::write(&path, r#"{"question_id": 1, "choices": []}"#).unwrap();
        assert!(read_answers(&path).unwrap_err().to_string().contains("line 1, `choices`"));
    }
}
