//! Which files a run trains on, and which it is judged on.

use std::path::{Path, PathBuf};

use crate::config::RunConfig;
use crate::data::data_folder::{DataFolder, Split, files_of};
use crate::error::Result;
use crate::report::console::Console;

/// The data files of a run.
pub(super) struct RunFiles {
    pub train: Vec<PathBuf>,
    /// Empty: there is nothing to judge on.
    pub held_out: Vec<PathBuf>,
}

impl RunFiles {
    /// The files that `data` and `evaluation.data` stand for. A folder's valid files are judged on if nothing else is
    /// asked for; its test files never are.
    pub fn find(config: &RunConfig, data: &str, console: &Console) -> Result<Self> {
        let data = Path::new(data);
        let train = files_of(data, Split::Train)?;
        let held_out = match &config.evaluation.data {
            Some(path) => files_of(Path::new(path), Split::Validation)?,
            None if data.is_dir() => DataFolder::open(data)?.files.remove(&Split::Validation).unwrap_or_default(),
            None => Vec::new(),
        };
        if data.is_dir() {
            let listed = |files: &[PathBuf]| {
                let names: Vec<_> =
                    files.iter().filter_map(|path| path.file_name()).map(|n| n.to_string_lossy()).collect();
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            };
            let folder = data.display();
            console.say(format!("files      {folder}: train on {}; judge on {}", listed(&train), listed(&held_out)));
        }
        Ok(RunFiles { train, held_out })
    }
}
