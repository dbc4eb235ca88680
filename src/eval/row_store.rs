//! The finished rows of an evaluation, in memory and, if asked for, in a folder that a later command goes on with.
//!
//! ```text
//! settings.json   what the rows depend on
//! rows.jsonl      a line for each row as it is done, not in order
//! result.json     the figures, when all rows are done
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{parse_date, spell_date};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::formats::atomic_write::{create_folder, replace_text};
use crate::formats::file_system::Disk;
use crate::formats::folder_lock::FolderLock;
use crate::formats::json_lines::{append_line, json_line, read_lines, sync_lines};

/// What the rows depend on.
pub const SETTINGS_FILE: &str = "settings.json";
/// The setting of the date that a chat template prints, spelled as in a run's configuration.
pub const TEMPLATE_DATE: &str = "template_date";
const ROWS_FILE: &str = "rows.jsonl";
const RESULT_FILE: &str = "result.json";

/// Rows of type `R` by their place in the data, counted from 0.
#[derive(Debug)]
pub struct RowStore<R> {
    folder: Option<Folder>,
    rows: BTreeMap<usize, R>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    _lock: FolderLock,
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
struct Line<R> {
    index: usize,
    #[serde(flatten)]
    row: R,
}

impl<R: Serialize + DeserializeOwned> RowStore<R> {
    /// A store that keeps nothing.
    pub fn in_memory() -> Self {
        RowStore { folder: None, rows: BTreeMap::new() }
    }

    /// A store in `folder`, with the rows that are there. The folder is made if need be.
    ///
    /// # Errors
    /// [`Error::Usage`] if the folder was made with other settings, or holds something else; [`Error::Locked`],
    /// [`Error::Input`] for damaged rows, [`Error::Disk`].
    pub fn open(folder: &Path, settings: &Value) -> Result<Self> {
        create_folder(&Disk, folder)?;
        let path = folder.join(SETTINGS_FILE);
        if !path.exists() {
            check_empty(folder)?;
        }
        let lock = FolderLock::take(folder)?;
        settle_settings(&path, &folder.join(ROWS_FILE), settings)?;
        let lines: Vec<Line<R>> = read_lines(&Disk, &folder.join(ROWS_FILE))?;
        let rows = lines.into_iter().map(|line| (line.index, line.row)).collect();
        Ok(RowStore { folder: Some(Folder { path: folder.to_owned(), _lock: lock }), rows })
    }

    /// How many rows are done.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no row is done.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The groups in which a row is still to do. A group is what is computed together: half of one is done again as a whole,
    /// so that the rest of it gets the very numbers that it would have got.
    pub fn unfinished(&self, groups: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
        let is_done = |group: &Vec<usize>| group.iter().all(|index| self.rows.contains_key(index));
        groups.into_iter().filter(|group| !is_done(group)).collect()
    }

    /// Keeps a row; one that is done already stays as it is.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn add(&mut self, index: usize, row: R) -> Result<()> {
        if self.rows.contains_key(&index) {
            return Ok(());
        }
        let line = Line { index, row };
        if let Some(folder) = &self.folder {
            append_line(&Disk, &folder.path.join(ROWS_FILE), &line)?;
        }
        // As a later command will read it: the last digit of a number may change on the way.
        let read: Line<R> = serde_json::from_str(&json_line(&line)?)
            .map_err(|error| Error::usage(format!("cannot read a row again: {error}")))?;
        self.rows.insert(index, read.row);
        Ok(())
    }

    /// The rows that are done, in the order of the data.
    pub fn rows(&self) -> Vec<&R> {
        self.rows.values().collect()
    }

    /// Writes the figures beside the rows.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn finish(&self, result: &str) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        sync_lines(&Disk, &folder.path.join(ROWS_FILE))?;
        replace_text(&Disk, &folder.path.join(RESULT_FILE), &format!("{result}\n"))
    }
}

/// Keeps in `path` what the rows in the file `rows` depend on, or compares with what is kept there. Settings of which no row
/// was made, since the command ended before, bind nobody.
///
/// # Errors
/// [`Error::Usage`] that names what differs, or if there are rows without settings, or settings of something else;
/// [`Error::Input`], [`Error::Disk`].
pub fn settle_settings(path: &Path, rows: &Path, settings: &Value) -> Result<()> {
    match (path.exists(), rows.exists()) {
        (true, true) => return check_same(rows, &read_settings(path)?, settings),
        (false, true) => {
            let message = format!("{} is there, and nothing says how it was made", rows.display());
            return Err(Error::usage(message).with_hint("choose another --output"));
        }
        (true, false) => {
            let text = std::fs::read_to_string(path).map_err(Error::reading(path))?;
            let kept: Value = serde_json::from_str(&text).unwrap_or_default();
            if kept["evaluation"] != settings["evaluation"] {
                let message = format!("{} is there, and is not of this evaluation", path.display());
                return Err(Error::usage(message).with_hint("choose another --output"));
            }
        }
        (false, false) => {}
    }
    replace_text(&Disk, path, &format!("{settings:#}\n"))
}

/// Gives a chat template that prints a date the one of the rows that are done already: all have prompts of one day. What the
/// settings are to have as [`TEMPLATE_DATE`]; None where no date is printed, and where the settings in `path`, of an older
/// version, keep none.
///
/// # Errors
/// [`Error::Input`] if those settings do not read, or keep something else as their date.
pub fn keep_date(tokenizer: &mut Tokenizer, path: &Path) -> Result<Option<String>> {
    let Some(today) = tokenizer.printed_date() else { return Ok(None) };
    if !path.exists() {
        return Ok(Some(spell_date(today)));
    }
    let kept = read_settings(path)?;
    let Some(text) = kept[TEMPLATE_DATE].as_str() else { return Ok(None) };
    let date = parse_date(text)
        .ok_or_else(|| Error::input(path, format!("`{text}` is no date like 2026-01-31T08:00:00")).at(TEMPLATE_DATE))?;
    tokenizer.set_date(date);
    Ok(Some(text.to_owned()))
}

fn read_settings(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(Error::reading(path))?;
    serde_json::from_str(&text).map_err(|error| Error::input(path, error.to_string()))
}

fn check_same(rows: &Path, kept: &Value, settings: &Value) -> Result<()> {
    let keys = [kept, settings].into_iter().filter_map(Value::as_object).flat_map(|object| object.keys());
    let mut differences: Vec<String> = Vec::new();
    for key in keys.filter(|key| kept.get(key) != settings.get(key)) {
        let difference = match (kept.get(key), settings.get(key)) {
            // A hash says nothing to a person.
            (Some(Value::String(old)), Some(Value::String(new))) if old.len() == 64 && new.len() == 64 => {
                format!("{key}: the files have another content")
            }
            (old, new) => {
                let said = |value: Option<&Value>| match value {
                    None | Some(Value::Null) => "not set".to_owned(),
                    Some(value) => value.to_string(),
                };
                format!("{key}: {} there, {} here", said(old), said(new))
            }
        };
        if !differences.contains(&difference) {
            differences.push(difference);
        }
    }
    match differences.is_empty() {
        true => Ok(()),
        false => {
            let rows = rows.display();
            let message = format!("{rows} was made with other settings ({})", differences.join("; "));
            Err(Error::usage(message).with_hint("choose another --output, or give the settings of that one"))
        }
    }
}

fn check_empty(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::reading(folder))? {
        let name = entry.map_err(Error::reading(folder))?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            let message = format!("{} holds something else ({})", folder.display(), name.display());
            return Err(Error::usage(message).with_hint("choose a new or empty folder as --output"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn open(folder: &Path, settings: Value) -> Result<RowStore<Row>> {
        RowStore::open(folder, &settings)
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        x: f64,
    }

    #[test]
    fn rows_are_there_again_and_a_torn_one_is_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("night");
        let mut store = open(&path, json!({"limit": 3})).unwrap();
        store.add(2, Row { x: 0.1 }).unwrap();
        store.add(0, Row { x: 0.2 }).unwrap();
        store.add(2, Row { x: 9.0 }).unwrap();
        drop(store);
        let rows = path.join(ROWS_FILE);
        let whole = std::fs::read_to_string(&rows).unwrap();
        std::fs::write(&rows, format!("{whole}{{\"index\":1,\"x\":")).unwrap();
        let mut store = open(&path, json!({"limit": 3})).unwrap();
        assert_eq!(store.rows(), [&Row { x: 0.2 }, &Row { x: 0.1 }]);
        assert_eq!(store.unfinished(vec![vec![2], vec![0, 1]]), [[0, 1]]);
        store.add(1, Row { x: 0.3 }).unwrap();
        assert_eq!(std::fs::read_to_string(&rows).unwrap(), format!("{whole}{{\"index\":1,\"x\":0.3}}\n"));
    }

    #[test]
    fn other_settings_are_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = ("a".repeat(64), "b".repeat(64));
        drop(open(folder.path(), json!({"limit": 7})).unwrap()); // it did no row: its settings bind nobody
        let mut store = open(folder.path(), json!({"limit": null, "data": old, "chat": false})).unwrap();
        store.add(0, Row { x: 0.1 }).unwrap();
        drop(store);
        let error = open(folder.path(), json!({"limit": 5, "data": new, "chat": false})).unwrap_err().to_string();
        assert!(error.ends_with("(limit: not set there, 5 here; data: the files have another content)"), "{error}");
    }

    #[test]
    fn a_folder_of_something_else_and_one_in_use_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.txt"), "").unwrap();
        let error = open(folder.path(), json!({})).unwrap_err();
        assert!(error.to_string().contains("thesis.txt"), "{error}");
        let free = folder.path().join("free");
        let _first = open(&free, json!({})).unwrap();
        assert_eq!(open(&free, json!({})).unwrap_err().exit_code(), 7);
    }
}
