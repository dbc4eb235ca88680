//! HumanEval: 164 Python functions to complete, each with tests (Chen et al. 2021, arXiv 2107.03374; MIT licence).
//!
//! ```text
//! mod        problems and samples: the files of openai/human-eval
//! complete   a model completes the problems
//! judge      samples run in the sandbox, and what their tests say
//! pass_at_k  the estimate and its interval
//! ```
//! The prompts are used as they are, without a chat template, and a completion ends where lm-evaluation-harness ends it, so
//! that figures can be compared. Nothing of what a model wrote is run here but in [`crate::eval::sandbox`].

pub mod complete;
pub mod judge;
pub mod pass_at_k;

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::fields::{FieldRow, read_rows_as};
use crate::error::{Error, Result};

/// Where a completion ends: at the first of these.
const STOPS: [&str; 5] = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"];

/// One function to complete. Keys as in `HumanEval.jsonl`, whose others are not read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Problem {
    pub task_id: String,
    /// Imports, signature and docstring.
    pub prompt: String,
    /// Defines `check(candidate)`.
    pub test: String,
    /// The function's name.
    pub entry_point: String,
}

impl Problem {
    /// BLAKE3 of all that a verdict rests on beside the completion, in hexadecimal digits: prompt, test, function's name.
    pub fn hash(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for text in [&self.prompt, &self.test, &self.entry_point] {
            // Length first: the end of one text must not count as the beginning of the next.
            hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        hash.finalize().to_hex().to_string()
    }
}

/// One completion. Keys as in openai/human-eval's `samples.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub task_id: String,
    /// What follows the prompt.
    pub completion: String,
}

/// Reads problems from a file of any kind that [`crate::data::fields`] reads.
///
/// # Errors
/// [`Error::Input`] with the line of a row that lacks a key, of a task that comes twice, and for a file without rows.
pub fn read_problems(path: &Path) -> Result<Vec<Problem>> {
    let fields = ["task_id", "prompt", "test", "entry_point"];
    let problems: Vec<(FieldRow, Problem)> = read_rows_as(path, &fields)?;
    let mut places: HashMap<&str, &str> = HashMap::new();
    for (row, problem) in &problems {
        if let Some(first) = places.insert(&problem.task_id, row.place()) {
            return Err(row.error("task_id", format!("{} is there already, on {first}", problem.task_id)));
        }
        if !is_name(&problem.entry_point) {
            return Err(row.error("entry_point", format!("`{}` is no name of a function", problem.entry_point)));
        }
    }
    Ok(problems.into_iter().map(|(_, problem)| problem).collect())
}

/// Reads samples, one or more for each of the first `num_tasks` problems; those of later problems are left aside, samples of
/// unknown tasks are refused.
///
/// # Errors
/// [`Error::Input`] with the line of a row that lacks a key or names an unknown task, and for a task without a sample.
pub fn read_samples(path: &Path, problems: &[Problem], num_tasks: usize) -> Result<Vec<Sample>> {
    let samples: Vec<(FieldRow, Sample)> = read_rows_as(path, &["task_id", "completion"])?;
    let places: HashMap<&str, usize> =
        problems.iter().enumerate().map(|(i, problem)| (problem.task_id.as_str(), i)).collect();
    let mut is_sampled = vec![false; problems.len()];
    let mut kept = Vec::new();
    for (row, sample) in samples {
        let Some(place) = places.get(sample.task_id.as_str()) else {
            return Err(row
                .error("task_id", format!("there is no task `{}` among the problems", sample.task_id))
                .with_hint("give the problems that the samples belong to with --data"));
        };
        is_sampled[*place] = true;
        if *place < num_tasks {
            kept.push(sample);
        }
    }
    match problems.iter().zip(is_sampled).take(num_tasks).find(|(_, is_sampled)| !is_sampled) {
        Some((problem, _)) => Err(Error::input(path, format!("has no sample for {}", problem.task_id))
            .with_hint("pass@k is a mean over all tasks: write one for each, or judge the first tasks with --limit")),
        None => Ok(kept),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// A completion up to the first stop, which is left out.
pub fn cut_at_stop(text: &str) -> &str {
    let end = STOPS.iter().filter_map(|stop| text.find(stop)).min();
    &text[..end.unwrap_or(text.len())]
}

/// True if a completion has a stop: writing on would change nothing.
pub fn has_stop(text: &str) -> bool {
    STOPS.iter().any(|stop| text.contains(stop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::fs::{self, File};
    use std::io::Write;

    const ROW: &str = r#"{"task_id": "t/0", "prompt": "def one():\n", "test": "def check(f):\n    assert f() == 1", "entry_point": "one"}"#;

    #[test]
    fn problems_are_read_plain_and_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, compressed) = (folder.path().join("p.jsonl"), folder.path().join("p.jsonl.gz"));
        fs::write(&plain, format!("{ROW}\n\n")).unwrap();
        let mut encoder = GzEncoder::new(File::create(&compressed).unwrap(), Compression::default());
        encoder.write_all(ROW.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let problems = read_problems(&plain).unwrap();
        assert_eq!(problems, read_problems(&compressed).unwrap());
        assert_eq!((problems.len(), problems[0].entry_point.as_str()), (1, "one"));
    }

    #[test]
    fn a_problem_needs_no_solution_and_may_have_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let read = |row: &str| {
            fs::write(&path, row).unwrap();
            read_problems(&path).unwrap()
        };
        let solved = ROW.replacen('{', r#"{"canonical_solution": "    return 1", "#, 1);
        assert_eq!(read(ROW), read(&solved));
    }

    #[test]
    fn bad_rows_are_named_by_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let twice = format!("{ROW}\n{ROW}\n");
        let no_name = ROW.replace("\"one\"", "\"one() or quit\"");
        for (text, place) in [
            (format!("{ROW}\nnonsense\n"), "line 2"),
            (format!("\n{}\n", ROW.replace("entry_point", "entry")), "line 2"),
            (twice, "line 2, `task_id`"),
            (no_name, "line 1, `entry_point`"),
            ("\n".to_owned(), "has no rows"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read_problems(&path).unwrap_err().to_string();
            assert!(error.contains("p.jsonl") && error.contains(place), "{error}");
        }
        let missing = read_problems(&folder.path().join("none.jsonl")).unwrap_err().to_string();
        assert!(missing.contains("none.jsonl"), "{missing}");
        fs::write(folder.path().join("p.gz"), "not compressed").unwrap();
        assert!(read_problems(&folder.path().join("p.gz")).unwrap_err().to_string().contains("p.gz"));
    }

    #[test]
    fn samples_belong_to_tasks_and_no_task_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.jsonl");
        let problem = |id: &str| Problem { task_id: id.to_owned(), ..serde_json::from_str(ROW).unwrap() };
        let problems = [problem("t/0"), problem("t/1")];
        let row = |id: &str| format!("{{\"task_id\": \"{id}\", \"completion\": \" 1\", \"more\": 2}}\n");
        fs::write(&path, row("t/0") + &row("t/1") + &row("t/0")).unwrap();
        assert_eq!(read_samples(&path, &problems, 2).unwrap().len(), 3);
        assert_eq!(read_samples(&path, &problems, 1).unwrap().len(), 2);
        fs::write(&path, row("t/0") + &row("t/2")).unwrap();
        assert!(read_samples(&path, &problems, 2).unwrap_err().to_string().contains("line 2"));
        fs::write(&path, row("t/0")).unwrap();
        assert_eq!(read_samples(&path, &problems, 1).unwrap().len(), 1);
        assert!(read_samples(&path, &problems, 2).unwrap_err().to_string().contains("t/1"));
    }

    #[test]
    fn a_problems_hash_is_of_what_judges_and_of_each_text_apart() {
        let one: Problem = serde_json::from_str(ROW).unwrap();
        let same = Problem { task_id: "t/1".to_owned(), ..one.clone() };
        assert_eq!(one.hash(), same.hash());
        let shifted = Problem { prompt: one.prompt.clone() + "d", test: one.test[1..].to_owned(), ..one.clone() };
        for other in [
            Problem { prompt: "def one(x):\n".to_owned(), ..one.clone() },
            Problem { test: one.test.replace("== 1", "== 2"), ..one.clone() },
            Problem { entry_point: "two".to_owned(), ..one.clone() },
            shifted,
        ] {
            assert_ne!(one.hash(), other.hash(), "{other:?}");
        }
    }

    #[test]
    fn a_completion_ends_before_the_first_stop() {
        for (text, cut) in [
            ("    return 1\n\ndef two():\n", "    return 1\n"),
            ("    return 1\nprint(1)\nclass A:", "    return 1"),
            ("    if x:\n        return 1\n    # no\n", "    if x:\n        return 1\n    # no\n"),
            ("    x = 1\n# end", "    x = 1"),
            ("\nif x", ""),
            ("", ""),
        ] {
            assert_eq!(cut_at_stop(text), cut);
            assert_eq!(has_stop(text), cut != text);
        }
    }
}
