//! Files of JSON lines that a run or an evaluation appends to: a crash may tear the last line, and nothing else.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::atomic_write::{folder_of, replace_text, sync_folder};
use super::file_system::FileSystem;
use crate::error::{Error, Result};

/// One JSON value and a line end.
///
/// # Errors
/// A value that JSON cannot spell.
pub fn json_line(row: &impl Serialize) -> Result<String> {
    let line = serde_json::to_string(row).map_err(|error| Error::usage(format!("cannot encode a row: {error}")))?;
    Ok(line + "\n")
}

/// Appends one JSON line to a file that may not exist yet. A power cut may lose it until [`sync_lines`].
///
/// # Errors
/// [`Error::Disk`].
pub fn append_line(files: &dyn FileSystem, path: &Path, row: &impl Serialize) -> Result<()> {
    let line = json_line(row)?;
    let mut file = files.append_to_file(path).map_err(Error::writing("open", path))?;
    file.write_all(line.as_bytes()).map_err(Error::writing("write", path))
}

/// Makes what was appended durable, the file's name too. An absent file is left absent.
///
/// # Errors
/// [`Error::Disk`].
pub fn sync_lines(files: &dyn FileSystem, path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    files.append_to_file(path).and_then(|mut file| file.sync()).map_err(Error::writing("sync", path))?;
    sync_folder(files, folder_of(path))
}

/// Removes the lines that `keep` does not want: what they tell of is about to be done again, and told again.
///
/// # Errors
/// As [`read_lines`], and [`Error::Disk`].
pub fn keep_lines(files: &dyn FileSystem, path: &Path, keep: impl Fn(&Value) -> bool) -> Result<()> {
    let lines = whole_lines(files, path)?;
    let mut kept = String::new();
    for (i, line) in lines.iter().enumerate() {
        if keep(&parse_line(path, i, line)?) {
            kept += line; // as it was written: parsing and printing may change a number's last digit
        }
    }
    let num_bytes: usize = lines.iter().map(String::len).sum();
    if kept.len() == num_bytes {
        return Ok(());
    }
    replace_text(files, path, &kept)
}

/// Reads the JSON lines of a file that this program appends to; an absent file has none. A last line that was torn by a
/// crash is cut off the file, so that the next append starts on a line of its own.
///
/// # Errors
/// [`Error::Input`] for any other line that does not read.
pub fn read_lines<T: DeserializeOwned>(files: &dyn FileSystem, path: &Path) -> Result<Vec<T>> {
    whole_lines(files, path)?.iter().enumerate().map(|(i, line)| parse_line(path, i, line)).collect()
}

fn parse_line<T: DeserializeOwned>(path: &Path, index: usize, line: &str) -> Result<T> {
    serde_json::from_str(line).map_err(|e| Error::input(path, e.to_string()).at(format!("line {}", index + 1)))
}

/// The lines with their line ends; see [`read_lines`] for absent files and torn lines.
fn whole_lines(files: &dyn FileSystem, path: &Path) -> Result<Vec<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::reading(path)(error)),
    };
    let mut reader = BufReader::new(file);
    let (mut lines, mut good_bytes) = (Vec::new(), 0);
    loop {
        let mut bytes = Vec::new();
        let num_bytes = reader.read_until(b'\n', &mut bytes).map_err(Error::reading(path))?;
        if num_bytes == 0 {
            return Ok(lines);
        }
        if bytes.last() != Some(&b'\n') {
            files.truncate_file(path, good_bytes).map_err(Error::writing("repair", path))?;
            return Ok(lines);
        }
        good_bytes += num_bytes as u64;
        let number = lines.len() + 1;
        lines.push(
            String::from_utf8(bytes).map_err(|_| Error::input(path, "is not UTF-8").at(format!("line {number}")))?,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::file_system::Disk;
    use super::*;
    use std::fs;

    #[test]
    fn a_torn_last_line_is_dropped_and_the_next_line_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, "[1]\n[2]\n[3").unwrap();
        assert_eq!(read_lines::<Vec<u8>>(&Disk, &path).unwrap(), [[1], [2]]);
        append_line(&Disk, &path, &[4]).unwrap();
        assert_eq!(read_lines::<Vec<u8>>(&Disk, &path).unwrap(), [[1], [2], [4]]);
    }

    #[test]
    fn a_line_torn_inside_a_character_is_dropped_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, b"[1]\n[\"\xc3").unwrap(); // the first of the two bytes of an accented letter
        assert_eq!(read_lines::<Vec<u8>>(&Disk, &path).unwrap(), [[1]]);
    }

    #[test]
    fn kept_lines_keep_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, "{\"step\": 1, \"loss\": 0.10}\n{\"step\":2}\n{\"st").unwrap();
        keep_lines(&Disk, &path, |row| row["step"] == 1).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\": 1, \"loss\": 0.10}\n");
    }

    #[test]
    fn a_bad_line_in_the_middle_is_an_error_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, "[1]\nnonsense\n[3]\n").unwrap();
        let error = read_lines::<Vec<u8>>(&Disk, &path).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
