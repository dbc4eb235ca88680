//! The keys of a row as its writer would hear of them: unknown ones, misspelt ones, columns without a known name.
//!
//! Not here: what the known ones mean (`row_shapes.rs`).

use super::problem::{Parsed, Problem, visible};
use super::row_shapes::{LEADING_KEYS, Shape};
use super::rows::{Columns, Object};
use super::unread::holds_text;
use crate::config::nearest;
use crate::report::shell::shell_word;

/// The commonest shapes of a row, as a person would write them.
const SHAPES: &str = "\
{\"prompt\", \"response\"}, {\"messages\": [{\"role\", \"content\"}, ..]}, {\"question\", \"answer\"}, \
{\"instruction\", \"input\", \"output\"}, {\"prompt\", \"chosen\", \"rejected\"}";

/// What tables are split at.
pub(super) const SEPARATORS: [char; 3] = [',', ';', '\t'];
/// What is asked where a table seems to be split at the wrong character.
pub(super) const OTHER_SEPARATOR: &str = "are the columns separated by another character? .csv needs commas, .tsv tabs";

/// So many keys of a row are named at most.
const MAX_NAMED: usize = 12;
/// So much of a key is shown.
const MAX_KEY_CHARS: usize = 40;
/// Slips of the finger between a key and the one that was meant: more, and `reason` would be a `response`.
const MAX_SLIPS: usize = 2;

/// What a row without a demonstration has, for the account of what is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LonePrompt {
    /// Its keys, as they are shown.
    pub keys: Vec<String>,
    /// A key that seems to hold the response under a wrong name.
    pub misnamed: Option<Misnamed>,
}

/// A response under a name that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misnamed {
    /// The key.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl LonePrompt {
    /// Looks at a row of this shape that has no demonstration.
    pub(super) fn of(object: &Object, shape: Shape) -> Self {
        let keys = object.keys().take(MAX_NAMED).map(|key| shown(key)).collect();
        LonePrompt { keys, misnamed: misnamed(object, shape) }
    }
}

/// The response that a row seems to have under a wrong name. An empty one under the right name is none.
pub(super) fn misnamed(object: &Object, shape: Shape) -> Option<Misnamed> {
    let (prompt, read, elsewhere): (&str, &[&str], &[&str]) = match shape {
        Shape::Prompt => ("prompt", &["response", "completion", "chosen", "demonstration"], &["answer", "output"]),
        Shape::Pair => ("prompt", &["demonstration"], &[]),
        Shape::TokenIds => ("prompt_ids", &["response_ids", "demonstration_ids", "chosen_ids"], &[]),
        Shape::Instruction => ("instruction", &["output", "instances"], &["response", "completion", "answer"]),
        Shape::Question => ("question", &["answer"], &["response", "completion", "output"]),
        _ => return None,
    };
    if read.iter().any(|name| object.contains_key(*name)) {
        return None;
    }
    let find = |key: &String| {
        let hint = match (near(key, read), near(key, elsewhere)) {
            (Some(name), _) => format!("did you mean `{name}`?"),
            // As named columns the context would be lost.
            (None, Some(_)) if object.contains_key("context") && matches!(shape, Shape::Instruction) => {
                format!("beside `{prompt}` the response is `{}`, and `context` is `input`: rename both", read[0])
            }
            (None, Some(_)) => {
                format!("beside `{prompt}` the response is `{}`; or name the columns: {}", read[0], flags(prompt, key))
            }
            (None, None) => return None,
        };
        let message = format!("unknown key beside `{prompt}`");
        Some(Misnamed { key: key.clone(), message, hint })
    };
    object.keys().find_map(find)
}

/// What to do where the prompt of a preference is missing and seems to have the name that it has in other shapes.
pub(super) fn misnamed_prompt(object: &Object) -> Option<String> {
    if object.contains_key("prompt") {
        return None;
    }
    let has = |key: &&str| object.get(*key).is_some_and(|value| !value.is_null());
    let key = ["question", "instruction", "input"].into_iter().find(has)?;
    let has_input = object.get("input").is_some_and(holds_text);
    Some(match key {
        "instruction" if has_input => "write `instruction` and `input` into `prompt`".to_owned(),
        key => format!("rename `{key}` to `prompt`"),
    })
}

/// The known key that differs from `key` by a slip or two, or by its capitals.
fn near<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    // A short word is near to everything; a long one is never measured.
    if !(4..=MAX_KEY_CHARS).contains(&key.len()) {
        return None;
    }
    let key = key.to_lowercase();
    let distances = known.iter().map(|name| (strsim::osa_distance(&key, name), *name));
    distances.filter(|(distance, _)| *distance <= MAX_SLIPS).min().map(|(_, name)| name)
}

/// A table whose first line names no column that a shape begins with is a mistake of that line, not of every row.
pub(super) fn check_header(object: &Object) -> Parsed<()> {
    if object.keys().any(|key| LEADING_KEYS.iter().any(|(keys, _)| keys.contains(&key.as_str()))) {
        return Ok(());
    }
    if object.contains_key("text") || is_torn(object) || object.len() < 2 {
        return Err(unknown_shape(object).of_header());
    }
    let problem = Problem::new(format!("no known columns: {}", quoted(object))).of_header();
    let mut names = object.keys();
    let (prompt, response) = (names.next().map_or("", String::as_str), names.next().map_or("", String::as_str));
    let how = if object.len() == 2 { "name them" } else { "name the two that are meant, for example" };
    let known = "known without: prompt and response, question and answer, instruction and output";
    Err(problem.with_hint(format!("{how}: {} ({known})", flags(prompt, response))))
}

/// The flags that name two columns, as a shell takes them.
fn flags(prompt: &str, response: &str) -> String {
    format!("--prompt-column {} --response-column {}", shell_word(prompt), shell_word(response))
}

/// A row that no shape fits.
pub(super) fn unknown_shape(object: &Object) -> Problem {
    let leading: Vec<&str> = LEADING_KEYS.iter().flat_map(|(keys, _)| keys.iter().copied()).collect();
    if let Some(key) = object.keys().find(|key| leading.contains(&key.as_str())) {
        return Problem::field(key, "empty (null)");
    }
    if object.contains_key("text") {
        return Problem::field(
            "text",
            "a row with text alone does not say where the prompt ends and the response begins",
        )
        .with_hint(format!("write each row as one of: {SHAPES}"));
    }
    let problem = Problem::new(format!("no known shape: {}", listed(object)));
    if is_torn(object) {
        return problem.with_hint(OTHER_SEPARATOR);
    }
    match object.keys().find_map(|key| near(key, &leading)) {
        Some(name) => problem.with_hint(format!(
            "did you mean `{name}`? Columns of other names are given with --prompt-column and --response-column"
        )),
        None => problem.with_hint(format!(
            "the commonest are {SHAPES}; other names are given with --prompt-column and --response-column"
        )),
    }
}

/// One column with a separator in its name: the table was split at another character.
fn is_torn(object: &Object) -> bool {
    object.len() == 1 && object.keys().all(|key| key.contains(SEPARATORS))
}

/// A named column that a row does not have is a mistake, not an empty one.
pub(super) fn check_columns(object: &Object, columns: &Columns) -> Parsed<()> {
    let named = [Some(&columns.prompt), columns.response.as_ref()].into_iter().flatten();
    let Some(missing) = named.into_iter().find(|name| !object.contains_key(*name)) else {
        return Ok(());
    };
    let names = || object.keys().map(String::as_str);
    let problem = Problem::new(format!("no column `{missing}`: {}", listed(object)));
    Err(match nearest(missing, names()) {
        Some(name) => problem.with_hint(format!("did you mean `{}`?", visible(name))),
        None => problem.with_hint("name them with --prompt-column and --response-column"),
    })
}

/// The keys of a row, in words.
fn listed(object: &Object) -> String {
    if object.is_empty() { "there are no keys".to_owned() } else { format!("the keys are {}", quoted(object)) }
}

fn quoted(object: &Object) -> String {
    let keys: Vec<String> = object.keys().take(MAX_NAMED).map(|key| format!("`{}`", visible(key))).collect();
    let more = if object.len() > keys.len() { ", .." } else { "" };
    format!("{}{more}", keys.join(", "))
}

/// The beginning of a key, without what a terminal would obey.
fn shown(key: &str) -> String {
    visible(&key.chars().take(MAX_KEY_CHARS).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::formats::data_file::FileKind;

    fn row(names: [&str; 2]) -> Object {
        names.into_iter().map(|name| (name.to_owned(), Value::Null)).collect()
    }

    #[cfg(unix)]
    #[test]
    fn the_command_for_unknown_columns_is_one_that_a_shell_takes() {
        for (names, listed, command) in [
            (
                ["User's question", "Bot's reply"],
                "`User's question`, `Bot's reply`",
                r"--prompt-column 'User'\''s question' --response-column 'Bot'\''s reply' (",
            ),
            (["प्रश्न", "उत्तर"], "`प्रश्न`, `उत्तर`", "--prompt-column 'प्रश्न' --response-column 'उत्तर' ("),
        ] {
            let problem = check_header(&row(names)).unwrap_err();
            let error = problem.into_error(Path::new("x.csv"), FileKind::Csv, 2);
            assert_eq!(error.to_string(), format!("x.csv, line 1: no known columns: {listed}"));
            assert!(error.hint().unwrap().starts_with(&format!("name them: {command}")), "{error:?}");
        }
    }

    #[test]
    fn a_misspelt_column_is_told_a_name_that_is_found() {
        let object = row(["User's question", "Bot's reply"]);
        let named = |prompt: &str| Columns { prompt: prompt.to_owned(), response: None };
        let problem = check_columns(&object, &named("User's questions")).unwrap_err();
        let error = problem.into_error(Path::new("x.csv"), FileKind::Csv, 2);
        assert_eq!(error.hint(), Some("did you mean `User's question`?"));
        assert!(check_columns(&object, &named("User's question")).is_ok());
    }
}
