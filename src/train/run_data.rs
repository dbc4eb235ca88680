//! Which files a run trains on, and which it is judged on; how many pairs they make.

use std::path::{Path, PathBuf};

use crate::config::RunConfig;
use crate::data::data_folder::{DataFolder, Split, files_of};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::policy::{Policy, Wanted};
use crate::report::console::Console;

/// The data files of a run.
pub struct DataFiles {
    pub train: Vec<PathBuf>,
    /// Empty: there is nothing to judge on.
    pub held_out: Vec<PathBuf>,
}

impl DataFiles {
    /// The files that `data` and `evaluation.data` stand for.
    ///
    /// # Errors
    /// [`Error::Input`] for what is missing or no data.
    pub fn find(config: &RunConfig, data: &str, console: &Console) -> Result<Self> {
        let data = Path::new(data);
        let train = files_of(data, Split::Train)?;
        let held_out = held_out_files(config.evaluation.data.as_deref(), data)?;
        if data.is_dir() {
            let listed = |files: &[PathBuf]| {
                let names: Vec<_> =
                    files.iter().filter_map(|path| path.file_name()).map(|n| n.to_string_lossy()).collect();
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            };
            let folder = data.display();
            console.say(format!("files      {folder}: train on {}; judge on {}", listed(&train), listed(&held_out)));
        }
        Ok(DataFiles { train, held_out })
    }
}

/// The files that `evaluation.data` stands for. A folder's valid files are judged on if nothing else is asked for; its
/// test files never are.
///
/// # Errors
/// [`Error::Input`] for what is missing or no data.
pub fn held_out_files(judged_on: Option<&str>, data: &Path) -> Result<Vec<PathBuf>> {
    match judged_on {
        Some(path) => files_of(Path::new(path), Split::Validation),
        None if data.is_dir() => Ok(DataFolder::open(data)?.files.remove(&Split::Validation).unwrap_or_default()),
        None => Ok(Vec::new()),
    }
}

/// How many demonstrations a run has that are short enough: its pairs in each iteration, if none is left out. No weight is
/// loaded. The built-in word problems are all short enough.
///
/// # Errors
/// As for a run: a model or a data file that cannot be read, a bad row.
pub fn num_demonstrations(config: &RunConfig, console: &Console) -> Result<usize> {
    if let Some(task) = &config.word_problems {
        return Ok(config.max_rows.map_or(task.num_train, |most| most.min(task.num_train)));
    }
    let policy = Policy::open_for(config, Path::new(config.model.as_deref().unwrap_or_default()))?;
    let files = DataFiles::find(config, config.data.as_deref().unwrap_or_default(), console)?;
    let wanted = Wanted::new(config, config.max_rows);
    Ok(policy.read_examples(&files.train, &wanted, config.train.max_length, console)?.len())
}
