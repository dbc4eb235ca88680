//! CSV and TSV files as JSON objects: the first line names the columns, every cell is text.
//!
//! A cell of a column that holds a list (`messages`, `prompt_ids`, ..) is read as JSON, and so is a list of messages in a
//! column that may hold one (`prompt`, `chosen`, ..). Not here: what the objects mean
//! (`row_shapes.rs`), and what is wrong with quotation marks (`csv_quotes.rs`).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::Path;

use csv::{ByteRecord, Reader, ReaderBuilder, Terminator};
use serde_json::Value;

use super::csv_quotes::{Garbled, Quotes};
use super::json_rows::{BYTE_ORDER_MARK, check_content};
use super::problem::{Parsed, Problem, SAVE_AS_UTF8, visible};
use super::row_keys::{OTHER_SEPARATOR, SEPARATORS};
use super::rows::{MAX_ROW_BYTES, Object, Read, Take};
use super::strict_json;
use super::unread::LABEL;
use crate::error::{Error, NEEDS_UTF8, Result};
use crate::formats::data_file::FileKind;
use crate::report::table::plural;

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

/// Hands every row to `take` with the line that it starts on, until it answers false. A column that is neither wanted nor
/// looked at is there with its name alone. Columns that may be no list are text. Memory is bounded by the longest row of
/// the file.
pub(super) fn for_each_record(path: &Path, delimiter: u8, read: &Read<'_>, take: &mut Take<'_>) -> Result<()> {
    let mut file = BufReader::new(File::open(path).map_err(Error::reading(path))?);
    let start = file.fill_buf().map_err(Error::reading(path))?;
    check_start(start, path)?;
    let mark = if start.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    file.consume(mark);
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .has_headers(false)
        // Only so does the library count the lines of files from Windows right; the `\r` is taken off below.
        .terminator(Terminator::Any(b'\n'))
        .from_reader(Quotes::new(file, delimiter));
    let mut record = ByteRecord::new();
    read_record(&mut reader, &mut record, path)?;
    let header_end = *lines(&reader, &record).end();
    if let Some(garbled) = reader.get_mut().garbled_until(header_end) {
        return Err(garbled_cell(&garbled, record.len()).into_error(path, FileKind::of(path), garbled.line));
    }
    let names = names(&record, path)?;
    while read_record(&mut reader, &mut record, path)? {
        let lines = lines(&reader, &record);
        let (line, row) = match reader.get_mut().garbled_until(*lines.end()) {
            Some(garbled) => (garbled.line, Err(garbled_cell(&garbled, names.len()))),
            None => (*lines.start(), object(&names, &record, read)),
        };
        if !take(line, row)? {
            break;
        }
    }
    Ok(())
}

/// Reads the next record; false at the end. A file that ends within quotation marks is refused, whatever may be skipped:
/// which rows the open mark has swallowed is not known.
fn read_record<R: io::Read>(reader: &mut Reader<Quotes<R>>, record: &mut ByteRecord, path: &Path) -> Result<bool> {
    let read = reader.read_byte_record(record);
    let is_read = read.map_err(|error| Error::input(path, format!("cannot read: {error}")))?;
    match reader.get_ref().unclosed() {
        Some(line) => Err(Error::input(path, "the quotation mark that begins a cell here is never closed")
            .at(format!("line {line}"))
            .with_hint(
                "close it where the cell ends (is the file cut off?); in a quoted cell a mark is written twice",
            )),
        None => Ok(is_read),
    }
}

/// The lines of the record that was read last: blank lines before it do not count.
fn lines<R: io::Read>(reader: &Reader<Quotes<R>>, record: &ByteRecord) -> RangeInclusive<usize> {
    let position = reader.position();
    let break_after = usize::from(!reader.get_ref().ends_without_break(position.byte()));
    let last = (position.line() as usize).saturating_sub(break_after);
    let breaks_inside = record.as_slice().iter().filter(|byte| **byte == b'\n').count();
    last.saturating_sub(breaks_inside)..=last
}

/// What is wrong with a row in which text follows a closing quotation mark.
fn garbled_cell(garbled: &Garbled, num_columns: usize) -> Problem {
    let is_torn = num_columns == 1 && SEPARATORS.contains(&char::from(garbled.next));
    let message = format!("text follows the quotation mark that closes the cell begun on line {}", garbled.opened_on);
    Problem::new(message).with_hint(match is_torn {
        true => OTHER_SEPARATOR,
        false => "a mark inside a quoted cell is written twice: \"She said \"\"yes\"\" to me\"",
    })
}

/// Refuses what is no table by its first bytes.
fn check_start(start: &[u8], path: &Path) -> Result<()> {
    check_content(start, path)?;
    if start.starts_with(b"\xFF\xFE") || start.starts_with(b"\xFE\xFF") {
        return Err(Error::input(path, "the file is UTF-16").with_hint(NEEDS_UTF8));
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
        let name = std::str::from_utf8(name)
            .map_err(|_| error(format!("the name of column {} is not UTF-8", i + 1)).with_hint(SAVE_AS_UTF8))?;
        if names.iter().any(|other| other == name) {
            return Err(error(format!("the column `{}` appears twice", visible(name)))
                .with_hint("the first line must name the columns, each differently"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// `None` for a blank line.
fn object(names: &[String], record: &ByteRecord, read: &Read<'_>) -> Parsed<Option<Object>> {
    if record.as_slice().len() > MAX_ROW_BYTES {
        return Err(Problem::new(format!("the row is longer than {} MiB", MAX_ROW_BYTES >> 20))
            .with_hint("is a quotation mark missing?"));
    }
    if record.len() == 1 && &record[0] == b"\r" {
        return Ok(None);
    }
    if record.len() != names.len() {
        let (cells, columns) = (plural(record.len(), "cell"), plural(names.len(), "column"));
        let problem = Problem::new(format!("the row has {cells}, the first line names {columns}"));
        return Err(problem.with_hint(match names {
            [name] if name.contains(SEPARATORS) => OTHER_SEPARATOR,
            _ => "a cell with a separator, a quotation mark or a line break in it must stand in quotation marks",
        }));
    }
    let cells = record.iter().enumerate().map(|(i, cell)| without_return(cell, i + 1 == names.len()));
    let values = names.iter().zip(cells).map(|(name, cell)| Ok((name.clone(), value(name, cell, read)?)));
    values.collect::<Parsed<_>>().map(Some)
}

/// A cell without what stands before the line break in files from Windows.
fn without_return(cell: &[u8], is_last: bool) -> &[u8] {
    cell.strip_suffix(b"\r").filter(|_| is_last).unwrap_or(cell)
}

fn value(name: &str, cell: &[u8], read: &Read<'_>) -> Parsed<Value> {
    if read.is_looked_at(name) {
        let text = String::from_utf8_lossy(cell);
        // A table has only the word, in the writing of JSON, of Python or of a spreadsheet.
        let is_false = name == LABEL && ["false", "False", "FALSE"].contains(&text.trim());
        return Ok(if is_false { false.into() } else { text.into() });
    }
    if !read.is_wanted(name) {
        return Ok(Value::Null);
    }
    let text = std::str::from_utf8(cell).map_err(|_| Problem::field(name, "not UTF-8").with_hint(SAVE_AS_UTF8))?;
    if !read.may_be_list(name) || !JSON_COLUMNS.contains(&name) && !is_list_of_messages(text) {
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
    use super::JSON_COLUMNS;
    use crate::data::row_shapes::KEYS;
    use crate::data::rows::{Columns, Message, Prompt, Response, Row, read_good_rows, read_rows};

    fn read_file(name: &str, content: &[u8], columns: Option<&Columns>) -> crate::Result<Vec<Row>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        read_rows(&path, None, columns)
    }

    fn read_named(name: &str, content: &[u8], columns: Option<&Columns>) -> Result<Vec<Row>, String> {
        let read = read_file(name, content, columns);
        read.map_err(|error| error.to_string().split_once(name).unwrap().1.to_owned())
    }

    fn hint(name: &str, content: &[u8]) -> String {
        read_file(name, content, None).unwrap_err().hint().unwrap().to_owned()
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
    fn marks_are_read_as_spreadsheets_and_pandas_write_them() {
        let texts = |name: &str, content: &str| -> Vec<(Prompt, Response)> {
            let rows = read_named(name, content.as_bytes(), None).unwrap();
            rows.into_iter().map(|row| (row.prompt, row.demonstration.unwrap())).collect()
        };
        let row = |prompt: &str, response: &str| (Prompt::Text(prompt.into()), Response::Text(response.into()));
        let excel = "\u{feff}\"prompt\",\"response\"\r\n\"a \"\"b\"\"\",5\" pipe\r\n\"\"\"\", \"c\"\r\n\"\",\"d\"";
        let expected = [row("a \"b\"", "5\" pipe"), row("\"", " \"c\""), row("", "d")];
        assert_eq!(texts("rows.csv", excel), expected);
        assert_eq!(texts("rows.tsv", &excel.replace(',', "\t")), expected);
        // Across the ends of buffers, whose size is 8 KiB.
        for len in 8_180..8_200 {
            let long = "x".repeat(len);
            let content = format!("prompt,response\n\"{long}\"\"\",\"a\nb\"\n");
            assert_eq!(texts("rows.csv", &content), [row(&format!("{long}\""), "a\nb")], "{len}");
        }
    }

    #[test]
    fn a_mark_that_is_never_closed_ends_the_reading_even_where_bad_rows_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        let many = format!("prompt,response\na,\"b\n{}", "c,d\n".repeat(10_000));
        for (content, line) in [
            ("prompt,response\nQ1,\"A1\"\nQ2,\"The answer is forty-", 3),
            ("prompt,response\nQ1,\"A1\nQ2,A2\nQ3,A3\n", 2),
            ("prompt,response\r\nQ1,A1\r\n\r\nQ2,\"A2\"\"\r\n", 4),
            ("\u{feff}\"prompt,response\na,b\n", 1),
            (many.as_str(), 2),
        ] {
            std::fs::write(&path, content).unwrap();
            let expected = format!(", line {line}: the quotation mark that begins a cell here is never closed");
            for error in [read_rows(&path, None, None).unwrap_err(), read_good_rows(&path, None, None).unwrap_err()] {
                assert_eq!(error.to_string().split_once("rows.csv").unwrap().1, expected, "{content:.80}");
                assert!(error.hint().unwrap().starts_with("close it where the cell ends"), "{error}");
            }
        }
        std::fs::write(&path, "prompt,response\na,b\nc,\"d\n").unwrap();
        assert_eq!(read_rows(&path, Some(1), None).unwrap().len(), 1, "what is not wanted is not looked at");
    }

    #[test]
    fn text_behind_a_closing_mark_makes_its_row_a_bad_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        let what = "text follows the quotation mark that closes the cell begun on line";
        for (row, place) in [
            ("\"He said \"hi\" to me\",x", format!(", line 3: {what} 3")),
            ("Q2,\"A2\nQ3,\"A3\"", format!(", line 4: {what} 3")),
            ("Q2,\"A2\" ", format!(", line 3: {what} 3")),
        ] {
            std::fs::write(&path, format!("prompt,response\na,b\n{row}\nc,d\n")).unwrap();
            let error = read_rows(&path, None, None).unwrap_err();
            assert_eq!(error.to_string().split_once("rows.csv").unwrap().1, place);
            assert!(error.hint().unwrap().starts_with("a mark inside a quoted cell is written twice"), "{error}");
            let (rows, skipped) = read_good_rows(&path, None, None).unwrap();
            let lines = [2, 4 + row.matches('\n').count()];
            assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), lines, "{row}");
            let skipped = skipped.unwrap();
            assert_eq!((skipped.count, skipped.first.to_string()), (1, error.to_string()));
        }
        let error = read(b"\"prompt\" of a person,response\na,b\n").unwrap_err();
        assert_eq!(error, format!(", line 1: {what} 1"));
    }

    #[test]
    fn a_table_that_is_split_at_the_wrong_character_is_asked_for_its_separator() {
        let asked = "are the columns separated by another character? .csv needs commas, .tsv tabs";
        for (name, content) in [
            ("rows.csv", "prompt;response\nWhat is 2, and 3?;5\n"),
            ("rows.csv", "\"prompt\";\"response\"\n\"What is 2, and 3?\";\"5\"\n"),
            ("rows.csv", "prompt;response\n\"What is 2, and 3?\";5\n"),
            ("rows.csv", "prompt\tresponse\nWhat is 2, and 3?\t5\n"),
            ("rows.tsv", "prompt,response\na\tb,5\n"),
        ] {
            assert_eq!(hint(name, content.as_bytes()), asked, "{content}");
        }
        assert!(hint("rows.csv", b"prompt\nWhat is 2, and 3?\n").starts_with("a cell with a separator"));
        let quoted = hint("rows.tsv", b"prompt\tresponse\n\"Yes\", he said\ta\n");
        assert!(quoted.starts_with("a mark inside a quoted cell"), "{quoted}");
    }

    #[test]
    fn a_table_in_the_encoding_of_a_spreadsheet_is_told_so() {
        for content in [b"prompt,response\nna\xefve,a\n".as_slice(), b"prompt,r\xe9ponse\na,b\n"] {
            assert_eq!(hint("rows.csv", content), "is the file in another encoding? Save it as UTF-8");
        }
    }

    #[test]
    fn a_cell_that_is_not_utf_8_matters_only_in_a_column_that_is_read() {
        let content = b"prompt,response,note\na,b,na\xefve\n";
        assert_eq!(read(content).unwrap()[0].demonstration, Some(Response::Text("b".into())));
        let columns = |prompt: &str| Columns { prompt: prompt.into(), response: Some("response".into()) };
        assert_eq!(read_columns(content, &columns("prompt")).unwrap().len(), 1);
        assert_eq!(read_columns(content, &columns("note")).unwrap_err(), ", line 2, `note`: not UTF-8");
    }

    #[test]
    fn every_column_of_lists_is_read() {
        for column in JSON_COLUMNS {
            assert!(KEYS.contains(&column), "{column}");
        }
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
        let cases: [(&[u8], &str); 11] = [
            (b"", ": no rows"),
            (b"prompt,response\n", ": no rows"),
            (b"prompt,prompt\na,b\n", ", line 1: the column `prompt` appears twice"),
            (b"prompt,response\na,b\na,b,c\n", ", line 3: the row has 3 cells, the first line names 2 columns"),
            (b"prompt\na,b\n", ", line 2: the row has 2 cells, the first line names 1 column"),
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
