//! Rows of which an evaluation names the fields, unlike the demonstrations of [`super::rows`].

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::data_file::FileKind;
use super::json_rows;
use super::problem::Parsed;
use super::row_shapes::kind;
use super::rows::Object;
use crate::error::{Error, Result};

/// One JSON object of a file, with its place for errors.
#[derive(Debug)]
pub struct FieldRow {
    path: PathBuf,
    /// `line 7`.
    place: String,
    object: Object,
}

/// The rows of some files, one after another: at most the first `max_rows`.
///
/// # Errors
/// [`Error::Input`] for a file that is not JSON, a line that is no object, and if there is no row.
pub fn read_field_rows(files: &[PathBuf], max_rows: Option<usize>) -> Result<Vec<FieldRow>> {
    let mut rows: Vec<FieldRow> = Vec::new();
    let is_full = |rows: &Vec<FieldRow>| max_rows.is_some_and(|max_rows| rows.len() >= max_rows);
    for path in files {
        if is_full(&rows) {
            break;
        }
        let kind = FileKind::of(path);
        let mut take = |number: usize, object: Parsed<Option<Object>>| -> Result<bool> {
            let place = kind.place(number);
            let object = object.map_err(|problem| problem.or_hint("mend the file").into_error(path, kind, number))?;
            rows.extend(object.map(|object| FieldRow { path: path.clone(), place, object }));
            Ok(!is_full(&rows))
        };
        match kind {
            FileKind::JsonLines => json_rows::for_each_line(path, &mut take)?,
            FileKind::Json => json_rows::for_each_of_document(path, &mut take)?,
            FileKind::Csv | FileKind::Tsv | FileKind::Parquet => {
                return Err(Error::input(path, "the rows of an evaluation are read from .jsonl and .json alone")
                    .with_hint("write them as JSON Lines"));
            }
        }
    }
    match (rows.is_empty(), files.first()) {
        (true, Some(path)) => Err(Error::input(path, "has no rows")),
        _ => Ok(rows),
    }
}

impl FieldRow {
    /// `line 7`, or `row 7`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The file that the row is in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the row has a field of this name.
    pub fn has(&self, field: &str) -> bool {
        self.object.contains_key(field)
    }

    /// A text.
    ///
    /// # Errors
    /// [`Error::Input`] that names the line, if there is none, or something else.
    pub fn text(&self, field: &str) -> Result<&str> {
        match self.value(field)? {
            Value::String(text) => Ok(text),
            other => Err(self.error(field, format!("expected text, got {}", kind(other)))),
        }
    }

    /// A list of texts.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn texts(&self, field: &str) -> Result<Vec<&str>> {
        let Value::Array(values) = self.value(field)? else {
            return Err(self.error(field, "expected a list of texts"));
        };
        let text = |value: &'_ Value| match value {
            Value::String(_) => Ok(()),
            other => Err(self.error(field, format!("expected a list of texts, got {} in it", kind(other)))),
        };
        values.iter().try_for_each(text)?;
        Ok(values.iter().filter_map(Value::as_str).collect())
    }

    /// A whole number from 0, also one that is written as text.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn index(&self, field: &str) -> Result<usize> {
        let value = self.value(field)?;
        let index = match value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_u64().and_then(|number| usize::try_from(number).ok()),
        };
        index.ok_or_else(|| self.error(field, format!("expected a whole number from 0, got {value}")))
    }

    /// What is wrong with a field of this row.
    pub fn error(&self, field: &str, message: impl Into<String>) -> Error {
        Error::input(&self.path, message).at(format!("{}, `{field}`", self.place))
    }

    fn value(&self, field: &str) -> Result<&Value> {
        self.object.get(field).ok_or_else(|| {
            let names: Vec<&str> = self.object.keys().map(String::as_str).collect();
            let error = Error::input(&self.path, format!("the field `{field}` is missing")).at(&*self.place);
            error.with_hint(format!("the row has {}; the help says which fields are read", names.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, max_rows: Option<usize>) -> Result<Vec<FieldRow>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_field_rows(&[path], max_rows)
    }

    #[test]
    fn rows_after_the_limit_are_not_read() {
        let rows = read("rows.jsonl", "{\"a\": \"x\"}\n\n{\"a\": \"y\"}\nnonsense\n", Some(2)).unwrap();
        let texts: Vec<&str> = rows.iter().map(|row| row.text("a").unwrap()).collect();
        assert_eq!(texts, ["x", "y"]);
    }

    #[test]
    fn a_bad_field_is_an_error_with_its_line() {
        let rows = read("rows.jsonl", "\n{\"a\": 1, \"b\": [\"x\", 2], \"c\": \"-1\", \"d\": \"3\"}\n", None).unwrap();
        let message = |error: Error| error.to_string().split_once("rows.jsonl, ").unwrap().1.to_owned();
        assert_eq!(message(rows[0].text("a").unwrap_err()), "line 2, `a`: expected text, got a number");
        assert_eq!(
            message(rows[0].texts("b").unwrap_err()),
            "line 2, `b`: expected a list of texts, got a number in it"
        );
        assert_eq!(message(rows[0].index("c").unwrap_err()), "line 2, `c`: expected a whole number from 0, got \"-1\"");
        assert_eq!(rows[0].index("d").unwrap(), 3);
        let missing = rows[0].text("question").unwrap_err();
        assert!(missing.hint().unwrap().starts_with("the row has a, b, c, d;"), "{missing:?}");
        assert_eq!(message(missing), "line 2: the field `question` is missing");
    }

    #[test]
    fn files_without_rows_and_of_other_kinds_are_refused() {
        assert!(read("rows.jsonl", "\n", None).unwrap_err().to_string().ends_with("has no rows"));
        assert!(read("rows.csv", "a,b\n", None).unwrap_err().hint().unwrap().contains("JSON Lines"));
    }
}
