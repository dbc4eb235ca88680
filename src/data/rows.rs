//! Rows of training data: JSON, CSV or Parquet (told apart by the file's ending), in any of the shapes that people have.
//!
//! Whatever the file, a row is first a JSON object (`json_rows.rs`, `csv_rows.rs`, `parquet_rows.rs`). Its shape is
//! recognised by its keys (next: `row_shapes.rs`) and becomes one [`Row`]; other keys are not read, and what they say
//! of prompt or response is noted (`unread.rs`). Nothing is guessed: a line that fits no shape stops the reading with
//! its number, the field and what was expected, or is skipped and counted where the user says so.
//! Not here: tokens ([`super::tokenizer`]) and lengths ([`super::examples`]).

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::json_rows;
use super::problem::Parsed;
use super::row_keys::{LonePrompt, check_header};
use super::row_shapes::{KEYS, TEXT_KEYS, parse_row};
use super::unread::UNREAD_KEYS;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::formats::data_file::FileKind;
use crate::report::table::plural;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

/// What the model is given. Written as rows of data have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Plain text; a model with a chat template reads it as one user message.
    Text(String),
    /// A conversation that ends before the assistant speaks. Never empty.
    Messages(Vec<Message>),
    /// Token ids, used exactly as they are.
    Ids(Vec<u32>),
}

/// What the model is to answer, or has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Text; the end-of-turn token is added when it is tokenized.
    Text(String),
    /// Token ids, used exactly as they are: no end token is added.
    Ids(Vec<u32>),
}

/// One row of a data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The line in the file, counted from 1, blank lines included; the row, where rows are not lines (Parquet, a JSON list).
    pub line: usize,
    /// What its keys make of it, as a person would say it: `question and answer`.
    pub shape: &'static str,
    /// What the model is given.
    pub prompt: Prompt,
    /// The response to imitate; absent in files that are only prompts.
    pub demonstration: Option<Response>,
    /// A response to tell demonstrations from: sampled from the model earlier, or the rejected one of a preference.
    pub self_generated: Option<Response>,
    /// What a row without a demonstration has instead.
    pub lone: Option<Box<LonePrompt>>,
    /// Keys that say something that is not read: see [`super::Unread`].
    pub unread: Vec<&'static str>,
}

/// The longest row, as text.
pub(super) const MAX_ROW_BYTES: usize = 16 << 20;

/// Which columns hold prompt and response, whatever they are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Text or messages.
    pub prompt: String,
    /// Text or one assistant message. None where prompts alone are read.
    pub response: Option<String>,
}

impl Columns {
    /// What `prompt_column` and `response_column` say; None if they are not given.
    pub fn of(config: &RunConfig) -> Option<Self> {
        Some(Columns { prompt: config.prompt_column.clone()?, response: config.response_column.clone() })
    }
}

/// The lines of a data file that were no rows and were skipped.
#[derive(Debug)]
pub struct Skipped {
    /// How many, blank lines not counted.
    pub count: usize,
    /// What is wrong with the first of them.
    pub first: Error,
}

impl fmt::Display for Skipped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} skipped; the first: {}", plural(self.count, "bad line"), self.first)
    }
}

/// Reads all rows of a data file, or the first `max_rows`; shapes are recognised unless `columns` are named.
///
/// A byte order mark, Windows line ends and blank lines are accepted.
/// # Errors
/// [`Error::Input`] with line and field for the first bad line, and for a file without rows. A row of more than
/// 16 MiB is refused; where rows are JSON before it is read.
pub fn read_rows(path: &Path, max_rows: Option<usize>, columns: Option<&Columns>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for_each_row(path, columns, |row| {
        rows.extend(row?);
        Ok(max_rows.is_none_or(|max_rows| rows.len() < max_rows))
    })?;
    if rows.is_empty() { Err(no_rows(path)) } else { Ok(rows) }
}

/// Like [`read_rows`], but bad lines are left out, whatever is wrong with them.
///
/// # Errors
/// [`Error::Input`] for a file that cannot be read or has no good row.
pub fn read_good_rows(
    path: &Path,
    max_rows: Option<usize>,
    columns: Option<&Columns>,
) -> Result<(Vec<Row>, Option<Skipped>)> {
    let mut rows = Vec::new();
    let mut skipped: Option<Skipped> = None;
    for_each_row(path, columns, |row| {
        match (row, &mut skipped) {
            (Ok(row), _) => rows.extend(row),
            (Err(_), Some(skipped)) => skipped.count += 1,
            (Err(first), None) => skipped = Some(Skipped { count: 1, first }),
        }
        Ok(max_rows.is_none_or(|max_rows| rows.len() < max_rows))
    })?;
    match skipped {
        Some(skipped) if rows.is_empty() => Err(Error::input(path, format!("no good rows: {skipped}"))),
        None if rows.is_empty() => Err(no_rows(path)),
        skipped => Ok((rows, skipped)),
    }
}

fn no_rows(path: &Path) -> Error {
    let hint = match FileKind::of(path) {
        // A pipe gives its rows once, to the run that begins with them: not to `gsil resume`.
        _ if path.metadata().is_ok_and(|there| !there.is_file()) => {
            "nothing came out of it; a pipe gives its rows once: name a file of them (data=FILE, evaluation.data=FILE)"
        }
        FileKind::JsonLines | FileKind::Json => "a data file has one JSON object a line",
        FileKind::Csv | FileKind::Tsv => "the first line names the columns; the rows follow it",
        FileKind::Parquet => "the table is empty",
    };
    Error::input(path, "no rows").with_hint(hint)
}

/// Hands every row of a file to `take`, blank lines as `Ok(None)`, until it answers false.
fn for_each_row(
    path: &Path,
    columns: Option<&Columns>,
    mut take: impl FnMut(Result<Option<Row>>) -> Result<bool>,
) -> Result<()> {
    let kind = FileKind::of(path);
    for_each_object(path, &Read::Rows(columns), &mut |number, object| {
        let parse = |object: Object| {
            if kind.is_table() && columns.is_none() {
                check_header(&object)?;
            }
            parse_row(&object, columns, number)
        };
        take(
            object
                .and_then(|object| object.map(parse).transpose())
                .map_err(|problem| problem.into_error(path, kind, number)),
        )
    })
}

/// Which columns of a table are read.
pub(super) enum Read<'a> {
    /// Of demonstrations: those that were named, else those of all shapes.
    Rows(Option<&'a Columns>),
    /// Those of an evaluation.
    Fields(&'a [&'a str]),
}

impl Read<'_> {
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        match self {
            Read::Rows(Some(Columns { prompt, response })) => name == prompt || response.as_deref() == Some(name),
            Read::Rows(None) => KEYS.contains(&name),
            Read::Fields(fields) => fields.contains(&name),
        }
    }

    /// Whether a column is not read and may say what is missed: then it has its values, too, and no error is in them.
    pub(super) fn is_looked_at(&self, name: &str) -> bool {
        matches!(self, Read::Rows(_)) && !self.is_wanted(name) && UNREAD_KEYS.contains(&name)
    }

    /// Whether a cell of CSV may be a list of messages or of ids. The fields of an evaluation see to their lists themselves.
    pub(super) fn may_be_list(&self, name: &str) -> bool {
        match self {
            Read::Rows(Some(_)) => self.is_wanted(name),
            Read::Rows(None) => self.is_wanted(name) && !TEXT_KEYS.contains(&name),
            Read::Fields(_) => false,
        }
    }
}

/// Hands every row to `take` as the JSON object that it is or would be. Of a table only the columns that are read or
/// looked at have values.
pub(super) fn for_each_object(path: &Path, read: &Read<'_>, take: &mut Take<'_>) -> Result<()> {
    match FileKind::of(path) {
        FileKind::JsonLines => json_rows::for_each_line(path, take),
        FileKind::Json => json_rows::for_each_of_document(path, take),
        #[cfg(feature = "tables")]
        FileKind::Csv => super::csv_rows::for_each_record(path, b',', read, take),
        #[cfg(feature = "tables")]
        FileKind::Tsv => super::csv_rows::for_each_record(path, b'\t', read, take),
        #[cfg(feature = "tables")]
        FileKind::Parquet => super::parquet_rows::for_each_row(path, read, take),
        #[cfg(not(feature = "tables"))]
        FileKind::Csv | FileKind::Tsv | FileKind::Parquet => {
            let _ = |name: &str| read.is_looked_at(name) || read.may_be_list(name);
            Err(Error::input(path, "this program was built without the feature `tables`, which reads such files")
                .with_hint("build it with `--features tables`, or write the rows as JSON Lines (.jsonl)"))
        }
    }
}

/// A row as JSON.
pub(super) type Object = Map<String, Value>;

/// Takes a row's number (its line where rows are lines) and what was read; answers whether it wants more.
pub(super) type Take<'t> = dyn FnMut(usize, Parsed<Option<Object>>) -> Result<bool> + 't;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Row>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, bytes).unwrap();
        read_rows(&path, None, None)
    }

    /// The error without the folder, which differs from run to run.
    fn message(bytes: &[u8]) -> String {
        let text = read(bytes).unwrap_err().to_string();
        text.split_once("rows.jsonl").unwrap().1.trim_start_matches([',', ':', ' ']).to_owned()
    }

    #[test]
    fn byte_order_mark_windows_line_ends_and_blank_lines_are_accepted() {
        let rows = read(b"\xEF\xBB\xBF{\"prompt\":\"a\"}\r\n\r\n  \n{\"prompt\":\"b\"}").unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(rows[1].prompt, Prompt::Text("b".into()));
    }

    #[test]
    fn reading_stops_at_the_row_limit_before_later_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, "{\"prompt\":\"a\"}\n\n{\"prompt\":\"b\"}\n broken").unwrap();
        assert_eq!(read_rows(&path, Some(2), None).unwrap().len(), 2);
        assert!(read_rows(&path, Some(3), None).is_err());
    }

    #[test]
    fn a_file_that_is_no_json_lines_is_told_what_a_row_is() {
        let hint = |text: &[u8]| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("rows.jsonl");
            std::fs::write(&path, text).unwrap();
            read_rows(&path, None, None).unwrap_err().hint().unwrap_or_default().to_owned()
        };
        for list in [&b"[\n"[..], b"[{\"prompt\":\"a\"},\n{\"prompt\":\"b\"}]", b"{\n"] {
            assert!(hint(list).ends_with("A list of rows may be a file named .json"), "{}", hint(list));
        }
        assert!(hint(b"Dear all,\n").starts_with("a row is a JSON object on a line of its own: {\"KEY\""));
        assert!(hint(b"{\"prompt\":\"a\"}\nDear all,\n").starts_with("mend the line"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_rows(Path::new("no-such-rows.jsonl"), None, None).unwrap_err();
        assert!(error.to_string().starts_with("no-such-rows.jsonl: cannot read: "), "{error}");
    }

    #[test]
    fn every_kind_of_bad_row_names_its_line_and_field() {
        let cases: &[(&[u8], &str)] = &[
            (b"", "no rows"),
            (b"\n \r\n", "no rows"),
            (b"{\"prompt\":\"a\"}\n{\"prompt\":", "line 2, column 10: invalid JSON: EOF while parsing a value"),
            (b" \t{\"prompt\":\"a\"} x", "line 1, column 18: invalid JSON: trailing characters"),
            (
                b"{\"prompt\":\"a\0\"}",
                "line 1, column 13: invalid JSON: control character (\\u0000-\\u001F) found while parsing a string",
            ),
            (b"{\"prompt\":\"\xff\"}", "line 1, column 12: not UTF-8"),
            ("\u{feff} {\"prompt\": \"问题\" x".as_bytes(), "line 1, column 18: invalid JSON: expected `,` or `}`"),
            (b"{\"prompt\":\"\xe9\x97\xae\xff\"}", "line 1, column 13: not UTF-8"),
            (b"\xff\xfe{\0", "line 1: the file is UTF-16"),
            (b"[1]", "line 1: a row must be a JSON object, not a list"),
            (b"{\"prompt\":\"a\",\"prompt\":\"b\"}", "line 1, column 22: invalid JSON: the key `prompt` appears twice"),
            (b"{\"prompt\":7}", "line 1, `prompt`: expected text or a list of messages, got a number"),
            (b"{\"prompt\":\"a\",\"completion\":[]}", "line 1, `completion`: the list of messages is empty"),
            (b"{\"prompt\":\"a\",\"response\":{}}", "line 1, `response`: expected text, got an object"),
            (b"{\"completion\":\"a\"}", "line 1: no known shape: the keys are `completion`"),
            (b"{}", "line 1: no known shape: there are no keys"),
            (
                b"{\"text\":\"a\"}",
                "line 1, `text`: a row with text alone does not say where the prompt ends and the response begins",
            ),
            (b"{\"messages\":[]}", "line 1, `messages`: the list of messages is empty"),
            (b"{\"messages\":\"a\"}", "line 1, `messages`: expected a list of messages, got text"),
            (
                b"{\"messages\":[{\"role\":\"robot\",\"content\":\"a\"}]}",
                "line 1, `messages[0].role`: unknown role \"robot\"",
            ),
            (b"{\"messages\":[{\"role\":\"user\"}]}", "line 1, `messages[0].content`: missing"),
            (
                b"{\"messages\":[{\"role\":\"user\",\"content\":null}]}",
                "line 1, `messages[0].content`: expected text, got null",
            ),
            (
                b"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}",
                "line 1, `messages`: there is no message before the assistant's",
            ),
            (
                b"{\"messages\":[{\"role\":\"system\",\"content\":\"a\"}]}",
                "line 1, `messages`: a prompt must end in a user message, this one ends in `system`",
            ),
            (
                b"{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},3]}",
                "line 1, `conversations[1]`: expected a message, got a number",
            ),
            (b"{\"instruction\":\"a\"}", "line 1, `output`: missing"),
            (b"{\"question\":\"a\"}", "line 1, `answer`: missing"),
            (b"{\"prompt\":\"a\",\"rejected\":\"b\"}", "line 1, `chosen`: missing"),
            (
                b"{\"prompt_ids\":[1,-1]}",
                "line 1, `prompt_ids[1]`: a token id is a whole number from 0 to 4294967295, not -1",
            ),
            (
                b"{\"prompt_ids\":[4294967296]}",
                "line 1, `prompt_ids[0]`: a token id is a whole number from 0 to 4294967295, not 4294967296",
            ),
            (b"{\"response_ids\":[1]}", "line 1, `prompt_ids`: missing"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(message(bytes), *expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_line_in_another_encoding_is_told_so() {
        let error = read(b"{\"prompt\":\"na\xefve\"}").unwrap_err();
        assert_eq!(error.hint(), Some("is the file in another encoding? Save it as UTF-8"));
    }

    #[test]
    fn a_huge_line_and_deep_nesting_are_errors() {
        assert_eq!(message(&vec![b' '; MAX_ROW_BYTES + 9]), "line 1: the line is longer than 16 MiB");
        let nested = format!("{{\"prompt\":{}", "[".repeat(1_000_000));
        assert_eq!(message(nested.as_bytes()), "line 1, column 137: invalid JSON: recursion limit exceeded");
    }

    #[test]
    fn skipped_lines_are_counted_and_the_first_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let too_long = "x".repeat(2 * MAX_ROW_BYTES + 7);
        std::fs::write(&path, format!("{{\"prompt\":\"a\"}}\n{{}}\n\n{too_long}\n{{\"prompt\":\"b\"}}\n[\n")).unwrap();
        let (rows, skipped) = read_good_rows(&path, None, None).unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 5], "a long line is one line");
        let text = skipped.unwrap().to_string();
        let expected = format!("3 bad lines skipped; the first: {}, line 2: no known shape", path.display());
        assert!(text.starts_with(&expected), "{text}");
        let (rows, skipped) = read_good_rows(&path, Some(1), None).unwrap();
        assert!(rows.len() == 1 && skipped.is_none(), "reading ends with the last row that is wanted");
        std::fs::write(&path, "{}\n{}").unwrap();
        assert!(
            read_good_rows(&path, None, None).unwrap_err().to_string().contains("no good rows: 2 bad lines skipped")
        );
    }
}
