//! What is wrong with a row, while its file is being read.

use std::path::Path;

use crate::error::Error;
use crate::formats::data_file::FileKind;

/// What helps where bytes are not UTF-8. Without it just the rows with accents would be skipped.
pub(super) const SAVE_AS_UTF8: &str = "is the file in another encoding? Save it as UTF-8";

/// What is wrong with a line, before the file's name is known.
#[derive(Debug)]
pub(super) struct Problem {
    place: Option<String>,
    message: String,
    hint: Option<String>,
    /// The names of a table's columns are wrong, not a row.
    is_of_header: bool,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Problem { place: None, message: message.into(), hint: None, is_of_header: false }
    }

    pub(super) fn field(field: &str, message: impl Into<String>) -> Self {
        Problem { place: Some(format!("`{field}`")), ..Problem::new(message) }
    }

    pub(super) fn column(column: usize, message: impl Into<String>) -> Self {
        Problem { place: Some(format!("column {column}")), ..Problem::new(message) }
    }

    pub(super) fn with_hint(self, hint: impl Into<String>) -> Self {
        Problem { hint: Some(hint.into()), ..self }
    }

    pub(super) fn of_header(self) -> Self {
        Problem { is_of_header: true, ..self }
    }

    /// Adds advice where the problem brings none.
    pub(super) fn or_hint(self, hint: &str) -> Self {
        Problem { hint: self.hint.or_else(|| Some(hint.to_owned())), ..self }
    }

    pub(super) fn into_error(self, path: &Path, kind: FileKind, number: usize) -> Error {
        let line = match (self.is_of_header, kind) {
            (true, FileKind::Parquet) => None, // its columns are named in no row
            (true, _) => Some(kind.place(1)),
            (false, _) => Some(kind.place(number)),
        };
        let place: Vec<String> = line.into_iter().chain(self.place).collect();
        let error = Error::input(path, self.message);
        let error = if place.is_empty() { error } else { error.at(place.join(", ")) };
        let unit = kind.unit();
        let mend = || format!("mend the {unit}, or pass --skip-bad-rows to leave out such {unit}s");
        error.with_hint(self.hint.unwrap_or_else(mend))
    }
}

pub(super) type Parsed<T> = std::result::Result<T, Problem>;
