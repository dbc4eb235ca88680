//! The run folder: who may write in it and where things lie.
//!
//! ```text
//! config.ron  env.json  .lock
//! about.json                size of model and data, a few rows as text, for the report
//! metrics.jsonl             a line for each update
//! self_generation.jsonl     a line for each iteration: what its responses were like
//! evaluations.jsonl         a line for each stage: its held-out figures
//! timing.jsonl              a line for each phase of a stage: its seconds; training stands in metrics.jsonl
//! report.html               all of this to look at; written anew as the run goes, and by `gsil report`
//! tb/                       the same scalars for TensorBoard
//! task/                     the built-in word problems: model and data
//! held_out.jsonl            the start policy's responses to held-out prompts
//! iteration-000/            self_generated.jsonl  demonstrations.jsonl (reference log-probs)
//! checkpoints/step-000120/  parameters.safetensors  optimizer.safetensors  state.json
//! latest                    the name of the newest checkpoint
//! model/                    the aligned model
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::formats::atomic_write::replace_file;

/// A run folder that this process alone may write to, as long as the value lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// [`RunDir::create`] made the folder itself.
    is_new: bool,
    _lock: File,
}

impl RunDir {
    /// Makes a new run folder.
    ///
    /// # Errors
    /// [`Error::Usage`] if it holds a run already, [`Error::Locked`], [`Error::Disk`].
    pub fn create(path: &Path) -> Result<Self> {
        Self::check_free(path)?;
        let is_new = !path.exists();
        fs::create_dir_all(path).map_err(Error::writing("create", path))?;
        Self::lock(path, is_new)
    }

    /// Removes the folder again if this program made it, for a run that could not begin. In a folder that was there before
    /// nothing is removed.
    pub fn abandon(self) {
        if self.is_new {
            // The reason for giving up is the error to report; what is left over is only untidy.
            let _ = fs::remove_dir_all(&self.path);
        }
    }

    /// [`Error::Usage`] if the folder holds a run already: asked before anything large is loaded.
    ///
    /// # Errors
    /// As said.
    pub fn check_free(path: &Path) -> Result<()> {
        match path.join("config.ron").exists() {
            true => Err(Error::usage(format!("{} already holds a run", path.display()))
                .with_hint(format!("continue it with `gsil resume {}`, or choose another --output", path.display()))),
            false => Ok(()),
        }
    }

    /// Opens the folder of a run that was stopped.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no run, [`Error::Locked`], [`Error::Disk`].
    pub fn open(path: &Path) -> Result<Self> {
        if !path.join("config.ron").exists() {
            return Err(Error::input(path, "holds no run (no config.ron)").with_hint("start one with `gsil train`"));
        }
        Self::lock(path, false)
    }

    fn lock(path: &Path, is_new: bool) -> Result<Self> {
        let lock_path = path.join(".lock");
        let mut lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&lock_path)
            .map_err(Error::writing("open", &lock_path))?;
        if lock.try_lock().is_err() {
            let holder = fs::read_to_string(&lock_path).unwrap_or_default();
            let message = format!("another process works here ({})", holder.lines().last().unwrap_or("unknown"));
            return Err(Error::Locked { path: path.to_owned(), message });
        }
        // Who holds it, for the message above. The lock itself is the system's and ends with the process.
        let who = format!("process {}\n", std::process::id());
        lock.set_len(0).and_then(|()| lock.write_all(who.as_bytes())).map_err(Error::writing("write", &lock_path))?;
        Ok(RunDir { path: path.to_owned(), is_new, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// The folder of one iteration, made if need be.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn iteration(&self, iteration: usize) -> Result<PathBuf> {
        let path = self.join(format!("iteration-{iteration:03}"));
        fs::create_dir_all(&path).map_err(Error::writing("create", &path))?;
        Ok(path)
    }

    /// Writes a small file whole or not at all.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.join(name);
        replace_file(&path, |file| file.write_all(text.as_bytes()).map_err(Error::writing("write", &path)))
    }

    /// Appends one JSON line.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn append(&self, name: &str, row: &impl Serialize) -> Result<()> {
        append_line(&self.join(name), row)
    }

    /// Removes the lines that `keep` does not want from a file of JSON lines: what they tell of is about to be done again,
    /// and told again.
    ///
    /// # Errors
    /// As [`read_lines`], and [`Error::Disk`].
    pub fn keep_lines(&self, name: &str, keep: impl Fn(&Value) -> bool) -> Result<()> {
        let path = self.join(name);
        let lines = whole_lines(&path)?;
        let mut kept = String::new();
        for (i, line) in lines.iter().enumerate() {
            if keep(&parse_line(&path, i, line)?) {
                kept += line; // as it was written: parsing and printing may change a number's last digit
            }
        }
        let num_bytes: usize = lines.iter().map(String::len).sum();
        if kept.len() < num_bytes { self.write(name, &kept) } else { Ok(()) }
    }
}

/// Appends one JSON line to a file that may not exist yet.
///
/// # Errors
/// [`Error::Disk`].
pub fn append_line(path: &Path, row: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(row).map_err(std::io::Error::from).map_err(Error::writing("encode", path))?;
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(Error::writing("open", path))?;
    file.write_all(format!("{line}\n").as_bytes()).map_err(Error::writing("write", path))
}

/// Reads the JSON lines of a file that this program appends to; an absent file has none. A last line that was torn by a
/// crash is cut off the file, so that the next append starts on a line of its own.
///
/// # Errors
/// [`Error::Input`] for any other line that does not read.
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    whole_lines(path)?.iter().enumerate().map(|(i, line)| parse_line(path, i, line)).collect()
}

fn parse_line<T: DeserializeOwned>(path: &Path, index: usize, line: &str) -> Result<T> {
    serde_json::from_str(line).map_err(|e| Error::input(path, e.to_string()).at(format!("line {}", index + 1)))
}

/// The lines with their line ends; see [`read_lines`] for absent files and torn lines.
fn whole_lines(path: &Path) -> Result<Vec<String>> {
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
            let file = OpenOptions::new().write(true).open(path).map_err(Error::writing("open", path))?;
            file.set_len(good_bytes).map_err(Error::writing("repair", path))?;
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
    use super::*;

    #[test]
    fn a_folder_is_locked_while_the_run_lives_and_free_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunDir::create(folder.path()).unwrap();
        let second = RunDir::create(folder.path()).unwrap_err();
        assert_eq!(second.exit_code(), 7);
        assert!(second.to_string().contains(&format!("process {}", std::process::id())), "{second}");
        drop(first);
        RunDir::create(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_with_a_run_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        RunDir::create(folder.path()).unwrap().write("config.ron", "()").unwrap();
        let error = RunDir::create(folder.path()).unwrap_err();
        assert!(error.hint().unwrap().contains("gsil resume"));
        RunDir::open(folder.path()).unwrap();
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_the_next_line_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, "[1]\n[2]\n[3").unwrap();
        assert_eq!(read_lines::<Vec<u8>>(&path).unwrap(), [[1], [2]]);
        append_line(&path, &[4]).unwrap();
        assert_eq!(read_lines::<Vec<u8>>(&path).unwrap(), [[1], [2], [4]]);
    }

    #[test]
    fn a_line_torn_inside_a_character_is_dropped_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, b"[1]\n[\"\xc3").unwrap(); // the first of the two bytes of an accented letter
        assert_eq!(read_lines::<Vec<u8>>(&path).unwrap(), [[1]]);
    }

    #[test]
    fn kept_lines_keep_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::create(folder.path()).unwrap();
        fs::write(dir.join("rows.jsonl"), "{\"step\": 1, \"loss\": 0.10}\n{\"step\":2}\n{\"st").unwrap();
        dir.keep_lines("rows.jsonl", |row| row["step"] == 1).unwrap();
        assert_eq!(fs::read_to_string(dir.join("rows.jsonl")).unwrap(), "{\"step\": 1, \"loss\": 0.10}\n");
    }

    #[test]
    fn a_bad_line_in_the_middle_is_an_error_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, "[1]\nnonsense\n[3]\n").unwrap();
        let error = read_lines::<Vec<u8>>(&path).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
