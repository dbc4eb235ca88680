//! Which files a run trains on, and which it is judged on; how many pairs they make.

use std::path::{Path, PathBuf};

use crate::config::{ObjectiveConfig, RunConfig};
use crate::data::data_folder::{DataFolder, Split, files_of};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::objective::Objective;
use crate::policy::{Policy, Wanted};
use crate::report::console::Console;

/// The data files of a run.
pub struct RunFiles {
    pub train: Vec<PathBuf>,
    /// Empty: there is nothing to judge on.
    pub held_out: Vec<PathBuf>,
}

impl RunFiles {
    /// The files that `data` and `evaluation.data` stand for. A folder's valid files are judged on if nothing else is
    /// asked for; its test files never are.
    ///
    /// # Errors
    /// [`Error::Input`] for what is missing or no data.
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

/// The rows that a run trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingRows {
    /// Demonstrations that are short enough.
    pub num_demonstrations: usize,
    /// They bring a second response each, so that none is generated.
    pub are_given: bool,
}

impl TrainingRows {
    /// Counts the rows of a run's data without loading a weight. The built-in word problems are all short enough.
    ///
    /// # Errors
    /// As for a run: a model or a data file that cannot be read, a bad row.
    pub fn count(config: &RunConfig, console: &Console) -> Result<Self> {
        if let Some(task) = &config.word_problems {
            let num_demonstrations = config.max_rows.map_or(task.num_train, |most| most.min(task.num_train));
            return Ok(TrainingRows { num_demonstrations, are_given: false });
        }
        let policy = Policy::open(Path::new(config.model.as_deref().unwrap_or_default()))?;
        let files = RunFiles::find(config, config.data.as_deref().unwrap_or_default(), console)?;
        let wanted = Wanted::new(config, config.max_rows);
        let examples = policy.read_examples(&files.train, &wanted, config.train.max_length, console)?;
        let are_given = examples.iter().any(|example| example.self_generated_ids.is_some());
        Ok(TrainingRows { num_demonstrations: examples.len(), are_given })
    }

    /// Pairs of one iteration, if no response is left out.
    pub fn num_pairs(&self, objective: &ObjectiveConfig, samples_per_prompt: usize) -> usize {
        let is_multiplied = Objective::new(objective).needs_self_generated() && !self.are_given;
        self.num_demonstrations * if is_multiplied { samples_per_prompt } else { 1 }
    }
}
