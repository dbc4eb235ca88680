//! CSV and TSV files as JSON objects: the first line names the columns, every cell is text.
//!
//! A cell of a column that holds a list (`messages`, `prompt_ids`, ..) is read as JSON, and so is a list of messages in a
//! column that may hold one (`prompt`, `chosen`, ..). Not here: what the objects mean
//! (`row_shapes.rs`).

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use csv::{ByteRecord, Reader, ReaderBuilder, Terminator};
use serde_json::Value;

use super::json_rows::check_content;
use super::problem::{Parsed, Problem};
use super::rows::{MAX_ROW_BYTES, Object, Take};
use super::strict_json;
use crate::error::{Error, Result};

/// Columns whose cells are JSON.
const JSON_COLUMNS: [&str; 9] = [
    "messages",
    "conversations",
    "instances",
    "prompt_ids",
    "response_ids",
    "demonstration_ids",
    "chosen_ids",
    "self_generated_ids",
    "rejected_ids",
];
/// More columns than this are no table of texts.
const MAX_COLUMNS: usize = 4096;

/// Hands every row to `take` with the line that it starts on, until it answers false. Columns that may be
/// no list are text. Memory is bounded by the longest row of the file.
pub(super) fn for_each_record(
    path: &Path,
    delimiter: u8,
    may_be_list: &dyn Fn(&str) -> bool,
    take: &mut Take<'_>,
) -> Result<()> {
    let mut file = File::open(path).map_err(Error::reading(path))?;
    let unended = end_without_break(&mut file);
    let mut file = BufReader::new(file);
    check_start(file.fill_buf().map_err(Error::reading(path))?, path)?;
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        // Only so does the library count the lines of files from Windows right; the `\r` is taken off below.
        .terminator(Terminator::Any(b'\n'))
        .from_reader(file);
    let header = reader.byte_headers().map_err(|error| reading(path, &error))?.clone();
    let names = names(&header, path)?;
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(|error| reading(path, &error))? {
        if !take(first_line(&reader, &record, unended), object(&names, &record, may_be_list))? {
            break;
        }
    }
    Ok(())
}

/// The length of a file whose last line has no line break. Reading begins at its start again.
fn end_without_break(file: &mut File) -> Option<u64> {
    let mut last = [0];
    let end = file.seek(SeekFrom::End(-1)).ok()? + 1;
    let read = file.read_exact(&mut last);
    file.rewind().ok()?;
    read.ok()?;
    (last[0] != b'\n').then_some(end)
}

/// The line that a record starts on, which was read last: blank lines before it do not count.
fn first_line<R: Read>(reader: &Reader<R>, record: &ByteRecord, unended: Option<u64>) -> usize {
    let breaks_inside = record.as_slice().iter().filter(|byte| **byte == b'\n').count();
    let break_after = usize::from(Some(reader.position().byte()) != unended);
    (reader.position().line() as usize).saturating_sub(breaks_inside + break_after)
}

fn reading(path: &Path, error: &csv::Error) -> Error {
    Error::input(path, format!("cannot read: {error}"))
}

/// Refuses what is no table by its first bytes.
fn check_start(start: &[u8], path: &Path) -> Result<()> {
    check_content(start, path)?;
    if start.starts_with(b"\xFF\xFE") || start.starts_with(b"\xFE\xFF") {
        return Err(Error::input(path, "the file is UTF-16").with_hint("save it as UTF-8"));
    }
    match start.trim_ascii_start() {
        [b'{', ..] | [b'[', b'{', ..] => Err(Error::input(path, "the content is JSON, not a table")
            .with_hint("give its name the ending .jsonl or .json")),
        _ => Ok(()),
    }
}

/// The names of the columns, each once.
fn names(header: &ByteRecord, path: &Path) -> Result<Vec<String>> {
    let error = |message: String| Error::input(path, message).at("line 1");
    if header.len() > MAX_COLUMNS {
        return Err(error(format!("{} columns, at most {MAX_COLUMNS} are read", header.len())));
    }
    let mut names: Vec<String> = Vec::new();
    for (i, name) in header.iter().enumerate() {
        let name = without_return(name, i + 1 == header.len());
        let name =
            std::str::from_utf8(name).map_err(|_| error(format!("the name of column {} is not UTF-8", i + 1)))?;
        if names.iter().any(|other| other == name) {
            return Err(error(format!("the column `{}` appears twice", name.escape_debug()))
                .with_hint("the first line must name the columns, each differently"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// `None` for a blank line.
fn object(names: &[String], record: &ByteRecord, may_be_list: &dyn Fn(&str) -> bool) -> Parsed<Option<Object>> {
    if record.as_slice().len() > MAX_ROW_BYTES {
        return Err(Problem::new(format!("the row is longer than {} MiB", MAX_ROW_BYTES >> 20))
            .with_hint("is a quotation mark missing?"));
    }
    if record.len() == 1 && &record[0] == b"\r" {
        return Ok(None);
    }
    if record.len() != names.len() {
        let (cells, columns) = (record.len(), names.len());
        return Err(Problem::new(format!("the row has {cells} cells, the first line names {columns} columns"))
            .with_hint(
                "a cell with a separator, a quotation mark or a line break in it must stand in quotation marks",
            ));
    }
    let cells = record.iter().enumerate().map(|(i, cell)| without_return(cell, i + 1 == names.len()));
    let values = names.iter().zip(cells).map(|(name, cell)| Ok((name.clone(), value(name, cell, may_be_list(name))?)));
    values.collect::<Parsed<_>>().map(Some)
}

/// A cell without what stands before the line break in files from Windows.
fn without_return(cell: &[u8], is_last: bool) -> &[u8] {
    cell.strip_suffix(b"\r").filter(|_| is_last).unwrap_or(cell)
}

fn value(name: &str, cell: &[u8], may_be_list: bool) -> Parsed<Value> {
    let text = std::str::from_utf8(cell).map_err(|_| Problem::field(name, "not UTF-8"))?;
    if !may_be_list || !JSON_COLUMNS.contains(&name) && !is_list_of_messages(text) {
        return Ok(text.into());
    }
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    strict_json::parse(text).map_err(|problem| {
        Problem::field(name, format!("invalid JSON in column {} of the cell: {}", problem.column, problem.message))
            .with_hint("in a table a list is written as JSON, with \" around names and texts")
    })
}

/// As JSON, or as Python prints a list, which the parser refuses with advice.
fn is_list_of_messages(text: &str) -> bool {
    let is_list = text.trim_start().strip_prefix('[').is_some_and(|inner| inner.trim_start().starts_with('{'));
    let has = |key: &str| ['"', '\''].iter().any(|quote| text.contains(&format!("{quote}{key}{quote}:")));
    is_list && text.trim_end().ends_with(']') && has("role") && has("content")
}

#[cfg(test)]
mod tests {
    use crate::data::rows::{Columns, Message, Prompt, Response, Row, read_good_rows, read_rows};

    fn read_named(name: &str, content: &[u8], columns: Option<&Columns>) -> Result<Vec<Row>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        read_rows(&path, None, columns).map_err(|error| error.to_string().split_once(name).unwrap().1.to_owned())
    }

    fn read(content: &[u8]) -> Result<Vec<Row>, String> {
        read_named("rows.csv", content, None)
    }

    fn read_columns(content: &[u8], columns: &Columns) -> Result<Vec<Row>, String> {
        read_named("rows.csv", content, Some(columns))
    }

    #[test]
    fn quotes_line_breaks_and_a_byte_order_mark_are_read_and_rows_keep_their_lines() {
        let content = b"\xEF\xBB\xBFprompt,response\r\n\"a\nb, \"\"c\"\"\",\"d\"\r\n\r\n\r\ne,f\r\n\r\ng,h";
        let rows = read(content).unwrap();
        assert_eq!(rows[0].prompt, Prompt::Text("a\nb, \"c\"".into()));
        assert_eq!(rows[0].demonstration, Some(Response::Text("d".into())));
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 6, 8]);
        let rows = read(b"prompt,response\n\n\n\"a\n\",b\n\nc,d\n").unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [4, 7]);
        assert_eq!(
            read_named("rows.tsv", b"prompt\tresponse\na,b\tc\n", None).unwrap()[0].prompt,
            Prompt::Text("a,b".into())
        );
    }

    #[test]
    fn lists_stand_in_a_cell_as_json() {
        let rows = read(b"prompt_ids,response_ids\n\"[1,2]\",[3]\n").unwrap();
        assert_eq!(rows[0].prompt, Prompt::Ids(vec![1, 2]));
        let rows = read(b"prompt_ids,chosen_ids,rejected_ids\n[1],[2],\"[3,4]\"\n").unwrap();
        assert_eq!(rows[0].demonstration, Some(Response::Ids(vec![2])));
        assert_eq!(rows[0].self_generated, Some(Response::Ids(vec![3, 4])));
        let error = read(b"messages\n\"[{'role': 'user'}]\"\n").unwrap_err();
        assert!(error.starts_with(", line 2, `messages`: invalid JSON in column 3 of the cell"), "{error}");
    }

    #[test]
    fn lists_of_messages_are_read_where_they_may_stand() {
        let message = |role: &str, content: &str| format!(r#"{{""role"": ""{role}"", ""content"": ""{content}""}}"#);
        let (asked, good, bad) = (message("user", "Q"), message("assistant", "A"), message("assistant", "B"));
        let content = format!("prompt,chosen,rejected\nQ,\"[{asked}, {good}]\",\"[{asked}, {bad}]\"\n");
        let rows = read(content.as_bytes()).unwrap();
        assert_eq!(rows[0].demonstration, Some(Response::Text("A".into())));
        assert_eq!(rows[0].self_generated, Some(Response::Text("B".into())));
        let error = read(b"prompt,response\nQ,\"[{'role': 'assistant', 'content': 'A'}]\"\n").unwrap_err();
        assert!(error.starts_with(", line 2, `response`: invalid JSON in column 3 of the cell"), "{error}");
        let rows = read(b"prompt,response\nQ,[1]\nQ,\"[{'a': 1}]\"\n").unwrap();
        assert_eq!(rows[1].demonstration, Some(Response::Text("[{'a': 1}]".into())));
        let rows = read(b"prompt,response,history\nQ,A,\"[{'role': 'user', 'content': 'Q'}]\"\n").unwrap();
        assert_eq!(rows[0].demonstration, Some(Response::Text("A".into())), "nobody reads the history");
        let content = format!("instruction,input,output\nSummarize,\"[{asked}]\",A\n");
        let prompt = r#"Summarize

[{"role": "user", "content": "Q"}]"#;
        assert_eq!(read(content.as_bytes()).unwrap()[0].prompt, Prompt::Text(prompt.into()));
        let columns = Columns { prompt: "input".into(), response: Some("output".into()) };
        let message = Message { role: "user".into(), content: "Q".into() };
        assert_eq!(read_columns(content.as_bytes(), &columns).unwrap()[0].prompt, Prompt::Messages(vec![message]));
    }

    #[test]
    fn every_bad_table_names_its_line_and_column() {
        let cases: [(&[u8], &str); 10] = [
            (b"", ": no rows"),
            (b"prompt,response\n", ": no rows"),
            (b"prompt,prompt\na,b\n", ", line 1: the column `prompt` appears twice"),
            (b"prompt,response\na,b\na,b,c\n", ", line 3: the row has 3 cells, the first line names 2 columns"),
            (b"prompt,response\n\xff,b\n", ", line 2, `prompt`: not UTF-8"),
            (b"prompt;response\na;b\n", ", line 1: no known shape: the keys are `prompt;response`"),
            (b"a,b\nc,d\n", ", line 1: no known columns: `a`, `b`"),
            (b"{\"prompt\": \"a\"}\n", ": the content is JSON, not a table"),
            (b"PAR1..", ": the content is a Parquet file, which its name does not say"),
            (b"\xff\xfea\0", ": the file is UTF-16"),
        ];
        for (content, expected) in cases {
            assert_eq!(read(content).unwrap_err(), expected, "{}", String::from_utf8_lossy(content));
        }
    }

    #[test]
    fn bad_lines_of_a_table_can_be_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        std::fs::write(&path, "prompt,response\na,b\nc\nd,e\n").unwrap();
        let (rows, skipped) = read_good_rows(&path, None, None).unwrap();
        assert_eq!((rows.len(), skipped.unwrap().count), (2, 1));
    }
}
