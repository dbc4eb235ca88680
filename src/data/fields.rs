//! Rows of which an evaluation names the fields, unlike the demonstrations of [`super::rows`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Parsed;
use super::row_shapes::kind;
use super::rows::{Object, Read, for_each_object};
use super::{json_rows, strict_json};
use crate::error::{Error, Result};
use crate::formats::data_file::FileKind;

/// One JSON object of a file, with its place for errors.
#[derive(Debug)]
pub struct FieldRow {
    path: PathBuf,
    /// `line 7`.
    place: String,
    object: Object,
    /// The fields that are read, for errors.
    fields: Arc<str>,
}

/// The rows of some files, one after another: at most the first `max_rows`. Only these `fields` are read of a table;
/// JSON Lines may be compressed with gzip, if the name ends in `.gz`.
///
/// # Errors
/// [`Error::Input`] for a line that is no row, and if there is no row.
pub fn read_field_rows(files: &[PathBuf], max_rows: Option<usize>, fields: &[&str]) -> Result<Vec<FieldRow>> {
    let mut rows: Vec<FieldRow> = Vec::new();
    let is_full = |rows: &Vec<FieldRow>| max_rows.is_some_and(|max_rows| rows.len() >= max_rows);
    let known: Arc<str> = fields.join(", ").into();
    let hint = format!("mend the file; each row has {known}");
    for path in files {
        if is_full(&rows) {
            break;
        }
        let kind = FileKind::of(path);
        let mut take = |number: usize, object: Parsed<Option<Object>>| -> Result<bool> {
            let place = kind.place(number);
            let object = object.map_err(|problem| problem.or_hint(&hint).into_error(path, kind, number))?;
            rows.extend(object.map(|object| FieldRow { path: path.clone(), place, object, fields: known.clone() }));
            Ok(!is_full(&rows))
        };
        match path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz")) {
            true => json_rows::for_each_packed_line(path, &mut take)?,
            false => for_each_object(path, &Read::Fields(fields), &mut take)?,
        }
    }
    match (rows.is_empty(), files.first()) {
        (true, Some(path)) => Err(Error::input(path, "has no rows")),
        _ => Ok(rows),
    }
}

/// All rows of a file as `T`, which reads these `fields`, each beside the row that it was made of.
///
/// # Errors
/// As [`read_field_rows`]; [`Error::Input`] for a row that is no `T`.
pub fn read_rows_as<T: DeserializeOwned>(path: &Path, fields: &[&str]) -> Result<Vec<(FieldRow, T)>> {
    let typed = |row: FieldRow| {
        let value = serde_json::from_value(Value::Object(row.object.clone())).map_err(|error| {
            Error::input(path, error.to_string())
                .at(&*row.place)
                .with_hint(format!("each row has {}", fields.join(", ")))
        })?;
        Ok((row, value))
    };
    read_field_rows(&[path.to_owned()], None, fields)?.into_iter().map(typed).collect()
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

    /// A list of texts; in a cell of CSV it stands as JSON.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn texts(&self, field: &str) -> Result<Vec<String>> {
        let values = match self.value(field)? {
            Value::Array(values) => Some(values.clone()),
            Value::String(cell) => strict_json::parse(cell).ok().and_then(|value| value.as_array().cloned()),
            _ => None,
        };
        let text = |value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(self.error(field, format!("expected a list of texts, got {} in it", kind(&other)))),
        };
        values.ok_or_else(|| self.error(field, "expected a list of texts"))?.into_iter().map(text).collect()
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
            error.with_hint(format!("the row has {}; these are read: {}", names.join(", "), self.fields))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn read(name: &str, text: &str, max_rows: Option<usize>) -> Result<Vec<FieldRow>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_field_rows(&[path], max_rows, &["a", "b", "c", "d"])
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
    fn a_file_without_rows_is_refused() {
        assert!(read("rows.jsonl", "\n", None).unwrap_err().to_string().ends_with("has no rows"));
    }

    #[test]
    fn rows_are_the_same_in_every_kind_of_file() {
        let json = "{\"a\": \"x\", \"b\": [\"y\"], \"c\": 3}";
        for (name, text, place) in [
            ("rows.jsonl", format!("\u{feff}{json}"), "line 1"),
            ("rows.json", format!("[{json}]"), "row 1"),
            #[cfg(feature = "tables")]
            ("rows.csv", "a,b,c\nx,\"[\"\"y\"\"]\",3\n".to_owned(), "line 2"),
            #[cfg(feature = "tables")]
            ("rows.tsv", "a\tb\tc\nx\t\"[\"\"y\"\"]\"\t3\n".to_owned(), "line 2"),
        ] {
            let rows = read(name, &text, None).unwrap();
            assert_eq!((rows[0].place(), rows[0].text("a").unwrap()), (place, "x"), "{name}");
            assert_eq!((rows[0].texts("b").unwrap(), rows[0].index("c").unwrap()), (vec!["y".to_owned()], 3), "{name}");
        }
    }

    #[test]
    fn compressed_lines_are_unpacked_with_the_bounds_of_plain_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl.gz");
        let packed = |text: &str| {
            let mut encoder = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap();
            read_rows_as::<Value>(&path, &["a"])
        };
        let rows = packed("\u{feff}{\"a\": 1}\n\n{\"a\": 2}").unwrap();
        assert_eq!(
            rows.iter().map(|(row, value)| (row.place(), &value["a"])).collect::<Vec<_>>()[1],
            ("line 3", &2.into())
        );
        let long = packed(&format!("{{\"a\": \"{}\"}}\n", "x".repeat(17 << 20))).unwrap_err();
        assert!(long.to_string().ends_with("line 1: the line is longer than 16 MiB"), "{long}");
    }
}
