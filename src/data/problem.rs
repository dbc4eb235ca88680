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

/// A name out of a file as a person sees it, and can type it: only what a terminal would obey, and what is invisible, is
/// shown as an escape.
pub(super) fn visible(name: &str) -> String {
    let is_invisible = |c: char| {
        let has_no_width =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        c != ' ' && (c.is_control() || c.is_whitespace() || has_no_width)
    };
    name.chars().map(|c| if is_invisible(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

pub(super) type Parsed<T> = std::result::Result<T, Problem>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_as_it_is_typed_but_for_what_no_eye_sees() {
        for name in ["प्रश्न", "cafe\u{301}", "User's \"own\" question", r"a\b", "问题"] {
            assert_eq!(visible(name), name);
        }
        let unseen = "a\u{feff}\u{a0}\u{200b}\u{202e}\u{1b}[1m\n";
        assert_eq!(visible(unseen), r"a\u{feff}\u{a0}\u{200b}\u{202e}\u{1b}[1m\n");
    }
}
