//! The run folder: who may write in it and where things lie.
//!
//! ```text
//! config.ron  env.json  .lock
//! about.json                size of model and data, a few rows as text, for the report
//! metrics.jsonl             a line for each update
//! self_generation.jsonl     a line for each iteration: what its responses were like
//! evaluations.jsonl         a line for each stage: its figures
//! evaluation_rows.jsonl     a line for each stage: the figures of every row
//! timing.jsonl              a line for each phase of a stage: its seconds; training stands in metrics.jsonl
//! ended.json                what ended the run before its time, until it is gone on with
//! report.html               all of this to look at; written anew as the run goes, and by `gsil report`
//! tb/                       the same scalars for TensorBoard
//! task/                     the built-in word problems: model and data
//! held_out.jsonl            responses to held-out prompts by the policy before iteration 0
//! start.safetensors         that policy's parameters, for `continued_sft_lr`
//! start_binding.json        in a comparison: what the start's figures belong to
//! iteration-000/            self_generated.jsonl  demonstrations.jsonl (reference log-probs)  binding.json
//!                           demonstrations.part.jsonl while they are scored
//!                           distributions.jsonl (objective.variance_reduction)
//!                           policy/ while a server needs it
//! checkpoints/step-000120-iteration-0/   parameters.safetensors  optimizer.safetensors  state.json  MANIFEST
//! latest                    the name of the newest checkpoint: that there was one, should they be removed
//! model/                    the aligned model
//! ```
//!
//! All that a run resumes from is written through a [`FileSystem`]. Files of lines: [`crate::formats::json_lines`]; what a
//! line of them holds: [`crate::records`].

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::formats::atomic_write::{create_folder, folder_of, remove, replace_text};
use crate::formats::file_system::FileSystem;
use crate::formats::folder_lock::FolderLock;
use crate::formats::json_lines;
use crate::records::run_folder::{comparison_of, holds_run};
use crate::records::self_generation::iteration_of_folder;
use crate::report::check_holds_run;

/// What helps a run whose disk is full.
const MOVE_THE_RUN: &str =
    "free some space, or move the run folder to another disk and resume it there; what was saved before is intact";
/// About what a line or a folder takes.
const SMALL_BYTES: u64 = 4096;

/// A run folder that no other process writes to, as long as the value lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    files: Arc<dyn FileSystem>,
    /// [`RunDir::create`] made the folder itself.
    is_new: bool,
    /// None: it may only be read, and nobody has worked there.
    _lock: Option<FolderLock>,
}

impl RunDir {
    /// Makes a folder, of a run or of a comparison, unless it is there. What lies in it is looked at before: see
    /// [`super::free_folder`].
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Disk`].
    pub fn create(files: Arc<dyn FileSystem>, path: &Path) -> Result<Self> {
        let is_new = !path.exists();
        create_folder(&*files, path).map_err(|error| with_space(&*files, folder_of(path), error, SMALL_BYTES))?;
        Self::lock(files, path, is_new)
    }

    /// Makes a new run folder in `parent`: `name`, or `name-2` and so on, the first that is not there.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn create_named(files: Arc<dyn FileSystem>, parent: &Path, name: &str) -> Result<Self> {
        let mut number = 1;
        loop {
            let path = parent.join(if number == 1 { name.to_owned() } else { format!("{name}-{number}") });
            number += 1;
            if path.exists() {
                continue;
            }
            match Self::create(files.clone(), &path) {
                // Another process was faster, and works in this folder, or has worked there.
                Err(Error::Locked { .. }) => {}
                Ok(made) if holds_run(&path) => drop(made),
                made => return made,
            }
        }
    }

    /// Removes the folder again if this program made it, for a run that could not begin. In a folder that was there before
    /// nothing is removed.
    pub fn abandon(self) {
        if self.is_new {
            // The reason for giving up is the error to report; what is left over is only untidy.
            let _ = self.files.remove(&self.path);
        }
    }

    /// Opens the folder of a run that was stopped, and removes what a crash left half-written in it.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no run, [`Error::Locked`], [`Error::Disk`].
    pub fn open(files: Arc<dyn FileSystem>, path: &Path) -> Result<Self> {
        check_holds_run(path)?;
        let dir = Self::lock(files, path, false)?;
        let is_leftover = |name: &str| name.starts_with('.') && (name.contains(".tmp-") || name.contains(".old-"));
        let iterations = dir.list("", |name| iteration_of_folder(name).is_some())?;
        for folder in iterations.iter().map(String::as_str).chain([""]) {
            let leftovers = dir.list(folder, is_leftover)?;
            leftovers.iter().try_for_each(|name| remove(&*dir.files, &dir.join(folder).join(name)))?;
        }
        Ok(dir)
    }

    /// Opens the folder of a run that is only read, and need be no more than readable; nothing in it is removed.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_read(files: Arc<dyn FileSystem>, path: &Path) -> Result<Self> {
        check_holds_run(path)?;
        Ok(RunDir { path: path.to_owned(), files, is_new: false, _lock: FolderLock::take_to_read(path)? })
    }

    fn lock(files: Arc<dyn FileSystem>, path: &Path, is_new: bool) -> Result<Self> {
        Ok(RunDir { path: path.to_owned(), files, is_new, _lock: Some(FolderLock::take(path)?) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the folder is written through.
    pub fn files(&self) -> &dyn FileSystem {
        &*self.files
    }

    /// A path inside it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// The names in a folder inside it that `fits` wants, sorted; none if there is no such folder.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read.
    pub fn list(&self, folder: &str, fits: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let folder = self.join(folder);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::reading(&folder)(error)),
        };
        let names: std::io::Result<Vec<String>> =
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
        let mut names = names.map_err(Error::reading(&folder))?;
        names.retain(|name| fits(name));
        names.sort_unstable();
        Ok(names)
    }

    /// Makes a folder inside it, if need be.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn create_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        create_folder(self.files(), &path).map_err(|error| self.with_space(error, SMALL_BYTES))?;
        Ok(path)
    }

    /// Removes something inside it, if it is there.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn remove(&self, name: &str) -> Result<()> {
        remove(self.files(), &self.join(name))
    }

    /// Writes a small file whole or not at all.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.join(name);
        replace_text(self.files(), &path, text).map_err(|error| self.with_space(error, text.len() as u64))
    }

    /// Reads the lines of a file: see [`json_lines::read_lines`].
    ///
    /// # Errors
    /// As there.
    pub fn read_lines<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>> {
        json_lines::read_lines(self.files(), &self.join(name))
    }

    /// Appends one JSON line; a power cut may lose it until [`Self::sync_lines`].
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn append(&self, name: &str, row: &impl Serialize) -> Result<()> {
        json_lines::append_line(self.files(), &self.join(name), row)
            .map_err(|error| self.with_space(error, SMALL_BYTES))
    }

    /// Makes appended lines durable.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn sync_lines(&self, name: &str) -> Result<()> {
        json_lines::sync_lines(self.files(), &self.join(name)).map_err(|error| self.with_space(error, SMALL_BYTES))
    }

    /// Removes lines: see [`json_lines::keep_lines`].
    ///
    /// # Errors
    /// As there.
    pub fn keep_lines(&self, name: &str, keep: impl Fn(&Value) -> bool) -> Result<()> {
        json_lines::keep_lines(self.files(), &self.join(name), keep)
            .map_err(|error| self.with_space(error, SMALL_BYTES))
    }

    /// [`Error::DiskFull`] if fewer than `needed_bytes` are free for a run that is to begin.
    ///
    /// # Errors
    /// As said.
    pub fn check_space(&self, needed_bytes: u64) -> Result<()> {
        match self.files.free_bytes(&self.path) {
            Some(free_bytes) if free_bytes < needed_bytes => {
                let (path, free_bytes) = (self.path.clone(), Some(free_bytes));
                Err(Error::DiskFull { path, needed_bytes, free_bytes, hint: None }
                    .with_hint("free some space, lower keep_last, or choose another --output"))
            }
            _ => Ok(()),
        }
    }

    /// Says how much was needed and how much is free, if an error says that the disk is full.
    pub fn with_space(&self, error: Error, needed_bytes: u64) -> Error {
        match with_space(self.files(), &self.path, error, needed_bytes) {
            // A comparison would train a cell that was moved anew where it was.
            full @ Error::DiskFull { .. } if holds_run(&self.path) && comparison_of(&self.path).is_none() => {
                full.with_hint(MOVE_THE_RUN)
            }
            other => other,
        }
    }
}

fn with_space(files: &dyn FileSystem, folder: &Path, error: Error, needed_bytes: u64) -> Error {
    match error {
        Error::Disk { path, source, .. }
            if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
        {
            Error::DiskFull { path, needed_bytes, free_bytes: files.free_bytes(folder), hint: None }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file_system::Disk;

    fn create(path: &Path) -> Result<RunDir> {
        RunDir::create(Arc::new(Disk), path)
    }

    #[test]
    fn a_run_whose_disk_is_full_is_moved_only_if_it_can_be_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = create(&folder.path().join("run")).unwrap();
        let hint = || {
            let error = Error::writing("write", dir.path())(ErrorKind::StorageFull.into());
            dir.with_space(error, 10).hint().unwrap().to_owned()
        };
        assert!(!hint().contains("resume it there"), "there is no run yet");
        dir.write("config.ron", "()").unwrap();
        assert!(hint().contains("move the run folder to another disk and resume it there"));
    }

    #[test]
    fn a_cell_of_a_comparison_whose_disk_is_full_is_not_moved_alone() {
        let grid = tempfile::tempdir().unwrap();
        fs::write(grid.path().join("compare.ron"), "()").unwrap();
        let cell = grid.path().join("cells/gsil/seed-0");
        fs::create_dir_all(cell.parent().unwrap()).unwrap();
        let dir = create(&cell).unwrap();
        dir.write("config.ron", "()").unwrap();
        let error = dir.with_space(Error::writing("write", &cell)(ErrorKind::StorageFull.into()), 10);
        let hint = error.hint().unwrap();
        assert!(hint.starts_with("free some space") && !hint.contains("move"), "{hint}");
    }

    #[test]
    fn a_folder_that_is_there_is_never_the_one_that_is_made() {
        let parent = tempfile::tempdir().unwrap();
        let named = || RunDir::create_named(Arc::new(Disk), parent.path(), "night").unwrap();
        fs::create_dir(parent.path().join("night-2")).unwrap();
        let (first, second) = (named(), named());
        assert_eq!(first.path(), parent.path().join("night"));
        assert_eq!(second.path(), parent.path().join("night-3"));
        first.abandon();
        assert_eq!(named().path(), parent.path().join("night"));
    }
}
