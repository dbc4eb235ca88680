//! Rows of the files that benchmarks come in: JSON Lines, plain or compressed, with the lines for messages.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Longer files are refused: benchmarks have a few megabytes, and a small compressed file can hold a huge one.
const MAX_BYTES: u64 = 1 << 30;

/// The rows of a file with their lines, counted from 1; blank lines are passed over. A name that ends in `.gz` says that the
/// file is compressed. `keys` are named in the hint of a bad row.
///
/// # Errors
/// [`Error::Input`] with the line of a row that does not read, and for a file without rows.
pub fn read_rows<T: DeserializeOwned>(path: &Path, keys: &str) -> Result<Vec<(usize, T)>> {
    let file = File::open(path).map_err(Error::reading(path))?;
    let bytes: Box<dyn Read> = match path.extension().is_some_and(|extension| extension == "gz") {
        true => Box::new(MultiGzDecoder::new(file)),
        false => Box::new(file),
    };
    let mut limited = BufReader::new(bytes.take(MAX_BYTES));
    let (mut rows, mut line, mut text) = (Vec::new(), 0, Vec::new());
    loop {
        text.clear();
        line += 1;
        if limited.read_until(b'\n', &mut text).map_err(Error::reading(path))? == 0 {
            break;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let row = serde_json::from_slice(&text).map_err(|error| {
            Error::input(path, format!("{error}"))
                .at(format!("line {line}"))
                .with_hint(format!("each line is a JSON object with {keys}"))
        })?;
        rows.push((line, row));
    }
    match (rows.is_empty(), limited.into_inner().limit()) {
        (true, _) => Err(Error::input(path, "has no rows")),
        (_, 0) => Err(Error::input(path, format!("is longer than {MAX_BYTES} bytes"))),
        _ => Ok(rows),
    }
}
