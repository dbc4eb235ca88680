//! JSON files as JSON objects: one a line, or a list of them.
//!
//! Not here: what the objects mean (`row_shapes.rs`).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;

use super::problem::{Parsed, Problem, SAVE_AS_UTF8};
use super::row_shapes::kind;
use super::rows::{MAX_ROW_BYTES, Object, Take};
use super::strict_json::{self, UniqueKeys};
use crate::error::{Error, NEEDS_UTF8, Result};

pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
/// How files of Arrow begin: those that can be searched, and streams, which `save_to_disk` of `datasets` writes.
const ARROW_FILE: &[u8] = b"ARROW1";
const ARROW_STREAM: &[u8] = b"\xFF\xFF\xFF\xFF";
/// A small compressed file can hold a huge one.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;

/// Hands every line to `take`, blank ones as `Ok(None)`, until it answers false. Memory is bounded by the longest line
/// allowed.
pub(super) fn for_each_line(path: &Path, take: &mut Take<'_>) -> Result<()> {
    each_line(&mut BufReader::new(File::open(path).map_err(Error::reading(path))?), path, take)
}

/// Like [`for_each_line`], for a file that is compressed with gzip.
pub(super) fn for_each_packed_line(path: &Path, take: &mut Take<'_>) -> Result<()> {
    let file = File::open(path).map_err(Error::reading(path))?;
    let mut reader = BufReader::new(MultiGzDecoder::new(file).take(MAX_UNPACKED_BYTES));
    let read = each_line(&mut reader, path, take);
    match reader.into_inner().limit() {
        0 => Err(Error::input(path, format!("is longer than {MAX_UNPACKED_BYTES} bytes when it is unpacked"))),
        _ => read,
    }
}

fn each_line(reader: &mut impl BufRead, path: &Path, take: &mut Take<'_>) -> Result<()> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        reader.by_ref().take(MAX_ROW_BYTES as u64 + 1).read_until(b'\n', &mut bytes).map_err(Error::reading(path))?;
        if bytes.is_empty() {
            break;
        }
        if line == 1 {
            check_content(&bytes, path)?;
        }
        let is_cut = bytes.len() > MAX_ROW_BYTES && !bytes.ends_with(b"\n");
        if !take(line, parse_line(&bytes, line))? {
            break;
        }
        if is_cut {
            reader.skip_until(b'\n').map_err(Error::reading(path))?;
        }
    }
    Ok(())
}

/// Refuses a file of another format by its first bytes: every one of its lines would be bad.
pub(super) fn check_content(start: &[u8], path: &Path) -> Result<()> {
    let (what, endings, hint): (_, &[&str], _) = if start.starts_with(b"PAR1") {
        ("a Parquet file", &[], "give its name the ending .parquet")
    } else if start.starts_with(b"\x1f\x8b") {
        ("compressed with gzip", &["gz"], "unpack it: gunzip FILE")
    } else if start.starts_with(b"\x28\xb5\x2f\xfd") {
        ("compressed with Zstandard", &["zst"], "unpack it: unzstd FILE")
    } else if start.starts_with(b"PK\x03\x04") {
        ("a zip archive or a spreadsheet", &["zip", "xlsx"], "unpack it, or save the table as .csv")
    } else if start.starts_with(ARROW_FILE) || start.starts_with(ARROW_STREAM) {
        ("an Arrow file", &["arrow"], "Arrow is not read: write the rows with `to_json` or `to_parquet` of `datasets`")
    } else {
        return Ok(());
    };
    let is_said = path.extension().is_some_and(|own| endings.iter().any(|ending| own.eq_ignore_ascii_case(ending)));
    let unsaid = if is_said { "" } else { ", which its name does not say" };
    Err(Error::input(path, format!("the content is {what}{unsaid}")).with_hint(hint))
}

/// `None` for a blank line.
fn parse_line(bytes: &[u8], line: usize) -> Parsed<Option<Object>> {
    if bytes.len() > MAX_ROW_BYTES {
        return Err(Problem::new(format!("the line is longer than {} MiB", MAX_ROW_BYTES >> 20)));
    }
    let is_utf16 = line == 1 && (bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF"));
    if is_utf16 {
        return Err(Problem::new("the file is UTF-16").with_hint(NEEDS_UTF8));
    }
    let mark = if line == 1 && bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let text = std::str::from_utf8(&bytes[mark..])
        .map_err(|error| {
            let before = &bytes[mark..][..error.valid_up_to()];
            Problem::column(strict_json::num_chars(before) + 1, "not UTF-8").with_hint(SAVE_AS_UTF8)
        })?
        .trim_ascii_end();
    let indent = text.len() - text.trim_ascii_start().len();
    let text = text.trim_ascii_start();
    if text.is_empty() {
        return Ok(None);
    }
    let value = strict_json::parse(text).map_err(|problem| {
        let problem = Problem::column(indent + problem.column, format!("invalid JSON: {}", problem.message));
        match text.as_bytes() {
            [b'[', ..] | b"{" if line == 1 => problem
                .with_hint("each row must stand on one line: JSON Lines. A list of rows may be a file named .json"),
            [b'{', ..] => problem,
            _ if line == 1 => problem.with_hint("a row is a JSON object on a line of its own: {\"KEY\": \"..\", ..}"),
            _ => problem,
        }
    })?;
    object(value, "one object a line, without a list around them").map(Some)
}

fn object(value: Value, hint: &str) -> Parsed<Object> {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(Problem::new(format!("a row must be a JSON object, not {}", kind(&other))).with_hint(hint)),
    }
}

/// Like [`for_each_line`], for a file that may also be one list of objects; those are counted as rows from 1. A list is
/// never in memory as a whole.
pub(super) fn for_each_of_document(path: &Path, take: &mut Take<'_>) -> Result<()> {
    let mut reader = BufReader::new(File::open(path).map_err(Error::reading(path))?);
    let start = reader.fill_buf().map_err(Error::reading(path))?;
    check_content(start, path)?;
    let mark = if start.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    if start[mark..].trim_ascii_start().first() != Some(&b'[') {
        return each_line(&mut reader, path, take);
    }
    reader.consume(mark);
    let budget = Cell::new(MAX_ROW_BYTES);
    let failure = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::new(Metered { reader, budget: &budget }));
    let list = List { take, budget: &budget, failure: &failure, num_rows: 0 };
    let read = deserializer.deserialize_seq(list).and_then(|is_whole| match is_whole {
        true => deserializer.end(),
        false => Ok(()),
    });
    match (failure.into_inner(), read) {
        (Some(Failure::Enough), _) | (None, Ok(())) => Ok(()),
        (Some(Failure::Error(error)), _) => Err(error),
        (None, Err(error)) => {
            let unit = if error.line() > 0 { " (in bytes)" } else { "" }; // no line, no column
            let problem = Error::input(path, format!("invalid JSON: {error}{unit}"));
            Err(problem.with_hint("a .json file is a list of objects, or has one object a line"))
        }
    }
}

/// Why the reading of a list ended before its end.
enum Failure {
    Enough,
    Error(Error),
}

/// A reader that fails after so many bytes; the budget is renewed with every row.
struct Metered<'a, R> {
    reader: R,
    budget: &'a Cell<usize>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let num_bytes = self.reader.read(buffer)?;
        match self.budget.get().checked_sub(num_bytes) {
            Some(left) => self.budget.set(left),
            None => {
                let message = format!("a row is longer than {} MiB", MAX_ROW_BYTES >> 20);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
        Ok(num_bytes)
    }
}

struct List<'a, 't> {
    take: &'a mut Take<'t>,
    budget: &'a Cell<usize>,
    failure: &'a RefCell<Option<Failure>>,
    num_rows: usize,
}

impl<'de> Visitor<'de> for List<'_, '_> {
    /// Whether the list was read to its end.
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> std::result::Result<bool, A::Error> {
        while let Some(UniqueKeys(value)) = items.next_element()? {
            self.budget.set(MAX_ROW_BYTES);
            self.num_rows += 1;
            let failure =
                match (self.take)(self.num_rows, object(value, "a list of objects, each with its keys").map(Some)) {
                    Ok(true) => continue,
                    Ok(false) => Failure::Enough,
                    Err(error) => Failure::Error(error),
                };
            *self.failure.borrow_mut() = Some(failure);
            return Ok(false);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::data::rows::{Prompt, read_rows};

    /// The prompts, or the error behind the file's name.
    fn read(content: &str) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.json");
        std::fs::write(&path, content).unwrap();
        let text = |prompt: &Prompt| if let Prompt::Text(text) = prompt { text.clone() } else { panic!("{prompt:?}") };
        let message = |error: crate::Error| error.to_string().split_once("rows.json").unwrap().1.to_owned();
        read_rows(Path::new(&path), None, None)
            .map(|rows| rows.iter().map(|row| text(&row.prompt)).collect())
            .map_err(message)
    }

    #[test]
    fn a_json_file_is_a_list_of_objects_or_has_one_a_line() {
        let list = "\u{feff} [\n {\"prompt\": \"a\"},\n {\"prompt\":\n \"b\"} ]\n";
        assert_eq!(read(list).unwrap(), ["a", "b"]);
        assert_eq!(read("{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}").unwrap(), ["a", "b"]);
    }

    #[test]
    fn another_format_is_named_and_a_name_that_says_so_is_not_blamed() {
        let cases: [(&str, &[u8], &str); 6] = [
            ("a.jsonl", b"\x1f\x8b\x08", "compressed with gzip, which its name does not say"),
            ("a.jsonl.gz", b"\x1f\x8b\x08", "compressed with gzip"),
            ("a.jsonl.zst", b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
            ("a.XLSX", b"PK\x03\x04", "a zip archive or a spreadsheet"),
            ("data-00000-of-00001.arrow", b"\xff\xff\xff\xff\xf0\x01\0\0", "an Arrow file"),
            ("a.arrow", b"ARROW1\0\0", "an Arrow file"),
        ];
        for (name, content, what) in cases {
            let error = super::check_content(content, Path::new(name)).unwrap_err();
            assert_eq!(error.to_string(), format!("{name}: the content is {what}"));
        }
    }

    #[test]
    fn a_bad_row_of_a_list_is_named_by_its_number() {
        assert_eq!(read("[{\"prompt\": \"a\"}, 7]").unwrap_err(), ", row 2: a row must be a JSON object, not a number");
        assert_eq!(
            read("[{\"prompt\": 7}]").unwrap_err(),
            ", row 1, `prompt`: expected text or a list of messages, got a number"
        );
        for broken in ["[{\"prompt\": \"a\"}", "[{\"prompt\": \"a\"}] x", "[{\"a\":1,\"a\":2}]", &"[".repeat(1_000_000)]
        {
            assert!(read(broken).unwrap_err().starts_with(": invalid JSON: "), "{broken:.40}");
        }
        let unit = read("[{\"prompt\": \"问题\"} 7]").unwrap_err();
        assert!(unit.ends_with(" at line 1 column 23 (in bytes)"), "{unit}");
        let long = format!("[{{\"prompt\": \"a\"}}, \"{}\"]", "x".repeat(super::MAX_ROW_BYTES + 20_000));
        assert!(read(&long).unwrap_err().contains("a row is longer than 16 MiB"));
        assert_eq!(read("[]").unwrap_err(), ": no rows");
    }
}
