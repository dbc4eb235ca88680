//! The quotation marks of a table, followed while its bytes are read.
//!
//! The CSV library makes the best of any bytes: a mark that is never closed makes one cell of all rows behind it, and text
//! behind a closing mark joins the cell. Here both are noticed. Next: `csv_rows.rs`, which asks.

use std::io::{self, Read};

/// Hands on the bytes of a table and remembers what is wrong with the marks in them. A reader behind a buffer is ahead of
/// the record that was read last.
pub(super) struct Quotes<R> {
    reader: R,
    separator: u8,
    state: State,
    /// Of the next byte, counted from 1.
    line: usize,
    /// Where the last quoted cell begins.
    opened_on: usize,
    garbled: Vec<Garbled>,
    num_bytes: u64,
    last_byte: u8,
    is_at_end: bool,
}

/// Where the next byte stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the beginning of a cell.
    Start,
    /// In a cell without marks around it, where a mark is text; or in what is left of a garbled one.
    Plain,
    /// Between the marks of a cell.
    Quoted,
    /// Behind a mark inside of marks: it closes the cell, or is the first of two that stand for one.
    Mark,
    /// Behind a closed cell and the first half of a line break of Windows.
    Return,
}

/// A cell with text behind its closing mark.
pub(super) struct Garbled {
    /// Where that text begins.
    pub line: usize,
    /// Where the cell begins.
    pub opened_on: usize,
    /// The first byte of that text.
    pub next: u8,
}

impl<R> Quotes<R> {
    pub(super) fn new(reader: R, separator: u8) -> Self {
        Quotes {
            reader,
            separator,
            state: State::Start,
            line: 1,
            opened_on: 1,
            garbled: Vec::new(),
            num_bytes: 0,
            last_byte: b'\n',
            is_at_end: false,
        }
    }

    /// The first garbled cell up to this line, which is asked for once; the others up to there are forgotten.
    pub(super) fn garbled_until(&mut self, line: usize) -> Option<Garbled> {
        let num_cells = self.garbled.partition_point(|garbled| garbled.line <= line);
        self.garbled.drain(..num_cells).next()
    }

    /// The line of the mark that was still open when the bytes ended.
    pub(super) fn unclosed(&self) -> Option<usize> {
        (self.is_at_end && self.state == State::Quoted).then_some(self.opened_on)
    }

    /// Whether all bytes read so far are these, and the last of them is no line break.
    pub(super) fn ends_without_break(&self, num_bytes: u64) -> bool {
        num_bytes == self.num_bytes && self.last_byte != b'\n'
    }

    fn follow(&mut self, byte: u8) {
        let ends_cell = byte == self.separator || byte == b'\n';
        self.state = match self.state {
            State::Start if byte == b'"' => {
                self.opened_on = self.line;
                State::Quoted
            }
            State::Quoted if byte == b'"' => State::Mark,
            State::Quoted => State::Quoted,
            State::Mark if byte == b'"' => State::Quoted,
            _ if ends_cell => State::Start,
            State::Mark if byte == b'\r' => State::Return,
            State::Mark | State::Return => {
                self.garbled.push(Garbled { line: self.line, opened_on: self.opened_on, next: byte });
                State::Plain
            }
            State::Start | State::Plain => State::Plain,
        };
        self.line += usize::from(byte == b'\n');
        self.num_bytes += 1;
        self.last_byte = byte;
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let num_bytes = self.reader.read(buffer)?;
        self.is_at_end = num_bytes == 0;
        buffer[..num_bytes].iter().for_each(|byte| self.follow(*byte));
        Ok(num_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of garbled cells, each with the line of its opening mark, and that of a mark left open.
    fn noticed(table: &str, separator: u8, num_bytes_at_once: usize) -> (Vec<[usize; 2]>, Option<usize>) {
        let mut quotes = Quotes::new(table.as_bytes(), separator);
        let mut buffer = vec![0; num_bytes_at_once];
        while quotes.read(&mut buffer).unwrap() > 0 {}
        assert_eq!(quotes.ends_without_break(table.len() as u64), !table.is_empty() && !table.ends_with('\n'));
        let unclosed = quotes.unclosed();
        let garbled = std::iter::from_fn(|| (1..9).find_map(|line| quotes.garbled_until(line)));
        (garbled.map(|cell| [cell.line, cell.opened_on]).collect(), unclosed)
    }

    #[test]
    fn marks_are_followed_however_many_bytes_come_at_once() {
        type Noticed<'a> = (&'a [[usize; 2]], Option<usize>);
        let cases: [(&str, Noticed); 12] = [
            ("", (&[], None)),
            ("a,b\n\"c\",\"d\"\n", (&[], None)),
            ("\"a \"\"b\"\"\",\"\"\r\n\"\"\"\",\"c\"\r\n", (&[], None)),
            ("5\" pipe, \"a\"b\n\"a\nb\",c", (&[], None)),
            ("a\n\"b", (&[], Some(2))),
            ("a\n\"b\"", (&[], None)),
            ("a\n\"b\"\"", (&[], Some(2))),
            ("a\n\"b\nc\nd\n", (&[], Some(2))),
            ("\"a\" ,b\n", (&[[1, 1]], None)),
            ("\"a\nb\" \"c\"\n\"d\"\r\"e\"\n", (&[[2, 1], [3, 3]], None)),
            ("\"a\nb,\"c\"\n\"d\n", (&[[2, 1]], Some(3))),
            ("\"a\"b,\"c\"d\n", (&[[1, 1]], None)), // the first of a record is enough
        ];
        for (table, (garbled, unclosed)) in cases {
            for num_bytes_at_once in [1, 2, 100] {
                assert_eq!(noticed(table, b',', num_bytes_at_once), (garbled.to_vec(), unclosed), "{table:?}");
            }
        }
        assert_eq!(noticed("\"a\"\t\"b\",c\n", b'\t', 1), (vec![[1, 1]], None), "a comma separates no cells here");
    }
}
