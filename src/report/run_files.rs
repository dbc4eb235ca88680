//! A run folder as the report reads it: whatever is there, nothing is changed, and it may be of a run that still goes
//! on.
//!
//! What a run has not written yet is empty or None; what does not read is an error. The lines of its files:
//! [`crate::records`]. Next: [`super::page`].

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ended::Ended;
use super::responses::{Responses, read_responses};
use super::shell::shell_path;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::records::about::{ABOUT_FILE, About};
use crate::records::evaluation::{EVALUATIONS_FILE, EvaluationRow};
use crate::records::run_folder::{
    COMPARE_FILE, CONFIG_FILE, ENVIRONMENT_FILE, Reached, holds_run, instead_of_comparison, reached,
};
use crate::records::self_generation::{
    COUNTS_FILE, CountsRow, SELF_GENERATED_FILE, SelfGeneratedCounts, iteration_folder,
};
use crate::records::stage::{START, Stage};
use crate::records::timing::{TIMING_FILE, TimingRow};
use crate::records::update::{METRICS_FILE, UpdateRow};

/// What the files of one run say.
#[derive(Debug)]
pub struct RunFiles {
    /// What the run is called in the page: the folder's name.
    pub name: String,
    pub config: RunConfig,
    /// `config.ron` as it stands.
    pub config_text: String,
    /// `env.json`: versions and device.
    pub environment: Value,
    /// None in runs of a version that did not write it.
    pub about: Option<About>,
    pub updates: Vec<UpdateRow>,
    pub evaluations: Vec<EvaluationRow>,
    pub iterations: Vec<Iteration>,
    pub timing: Vec<TimingRow>,
    pub reached: Reached,
    /// None if the run goes on or is finished.
    pub ended: Option<Ended>,
    /// When the run folder was made, seconds since 1970.
    pub began_s: f64,
}

/// One line of [`COUNTS_FILE`] and what stands in the iteration's folder.
#[derive(Debug)]
pub struct Iteration {
    pub number: usize,
    pub counts: SelfGeneratedCounts,
    /// None if [`SELF_GENERATED_FILE`] was removed from the folder.
    pub responses: Option<Responses>,
}

impl RunFiles {
    /// Reads the run in `folder`.
    ///
    /// # Errors
    /// [`Error::Input`] if it holds no run, or a file of it is missing or does not read, with file and line.
    pub fn read(folder: &Path) -> Result<Self> {
        check_holds_run(folder)?;
        let config_path = folder.join(CONFIG_FILE);
        let config_text = fs::read_to_string(&config_path).map_err(Error::reading(&config_path))?;
        let config = RunConfig::from_ron(&config_text, &config_path.to_string_lossy())
            .map_err(|error| Error::input(&config_path, error.to_string()))?;
        let environment_path = folder.join(ENVIRONMENT_FILE);
        let environment = read_json(&environment_path)?.ok_or_else(|| missing(&environment_path))?;
        let about: Option<About> = read_json(&folder.join(ABOUT_FILE))?;
        let updates: Vec<UpdateRow> = read_rows(&folder.join(METRICS_FILE))?;
        let evaluations: Vec<EvaluationRow> = read_rows(&folder.join(EVALUATIONS_FILE))?;
        if updates.is_empty() && evaluations.iter().any(|row| row.total_steps > 0) {
            return Err(missing(&folder.join(METRICS_FILE)));
        }
        Ok(RunFiles {
            name: name_of(folder),
            iterations: read_iterations(folder, about.as_ref())?,
            timing: read_rows(&folder.join(TIMING_FILE))?,
            reached: reached(folder),
            ended: Ended::read(folder)?,
            began_s: modified_s(&environment_path)?,
            config,
            config_text,
            environment,
            about,
            updates,
            evaluations,
        })
    }

    /// A text of `env.json`; empty if it has none.
    pub fn environment(&self, key: &str) -> String {
        match &self.environment[key] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// The rows bring their responses: nothing was generated.
    pub fn responses_are_given(&self) -> bool {
        self.about.as_ref().is_some_and(|about| about.responses_are_given)
    }

    /// The stages that were evaluated or trained, in order.
    pub fn stages(&self) -> Vec<&str> {
        let mut stages: Vec<(usize, &str)> = Vec::new();
        let evaluated = self.evaluations.iter().map(|row| (row.total_steps, row.stage.as_str()));
        let trained = self.updates.iter().map(|update| (update.total_step, update.stage.as_str()));
        for (step, stage) in evaluated.chain(trained) {
            match stages.iter_mut().find(|(_, known)| *known == stage) {
                Some((last, _)) => *last = step.max(*last),
                None => stages.push((step, stage)),
            }
        }
        stages.sort_by_key(|(step, _)| *step);
        stages.into_iter().map(|(_, stage)| stage).collect()
    }

    /// The stages after which a run of this configuration is evaluated, from first to last.
    fn planned_stages(&self) -> Vec<String> {
        let stages = Stage::all(&self.config).into_iter().map(|stage| stage.to_string());
        std::iter::once(START.to_owned()).chain(stages).collect()
    }

    /// Stages that are evaluated, and all that there will be.
    pub fn stages_done(&self) -> (usize, usize) {
        let planned = self.planned_stages();
        let done = planned.iter().filter(|stage| self.evaluations.iter().any(|row| row.stage == **stage));
        (done.count(), planned.len())
    }

    /// Nothing is left to do. The last evaluation alone does not say so: the aligned model is written after it. It has to do
    /// where a copy of the folder does not name the latest checkpoint.
    pub fn is_finished(&self) -> bool {
        let (done, all) = self.stages_done();
        done == all && self.ended.is_none() && matches!(self.reached, Reached::Nothing | Reached::End)
    }
}

/// The command that goes on with the comparison in a folder.
pub fn to_go_on_with_comparison(folder: &Path) -> String {
    format!("gsil compare {} --output {}", shell_path(&folder.join(COMPARE_FILE)), shell_path(folder))
}

/// Refuses what is no run, with what it is instead.
///
/// # Errors
/// [`Error::Input`] if the folder is not there or holds no run.
pub fn check_holds_run(folder: &Path) -> Result<()> {
    if holds_run(folder) {
        return Ok(());
    }
    fs::metadata(folder).map_err(Error::reading(folder))?;
    let hint = match instead_of_comparison(folder) {
        Some(hint) => {
            format!("{hint}; its page is comparison.html in it; to go on with it: {}", to_go_on_with_comparison(folder))
        }
        None => "give a run's folder, runs/NAME for instance; `gsil train` starts one".to_owned(),
    };
    Err(Error::input(folder, format!("holds no run (no {CONFIG_FILE})")).with_hint(hint))
}

fn name_of(folder: &Path) -> String {
    let absolute = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().map_or_else(|| absolute.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn missing(path: &Path) -> Error {
    Error::input(path, "is missing, though the run has come further")
        .with_hint("copy the whole run folder; a report needs config.ron, env.json and the .jsonl files")
}

fn modified_s(path: &Path) -> Result<f64> {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).map_err(Error::reading(path))?;
    Ok(modified.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()))
}

/// None if there is no such file.
///
/// # Errors
/// [`Error::Input`] if it does not read.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| Error::input(path, error.to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::reading(path)(error)),
    }
}

fn read_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    for_each_row(path, &mut |row| rows.push(row))?;
    Ok(rows)
}

/// Reads JSON lines one by one; false if there is no such file. A last line without its end is being written at this
/// moment, or was torn by a crash: it is left out.
///
/// # Errors
/// [`Error::Input`] with the number of the first line that does not read.
pub fn for_each_row<T: DeserializeOwned>(path: &Path, on_row: &mut dyn FnMut(T)) -> Result<bool> {
    let mut reader = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::reading(path)(error)),
    };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        reader.read_until(b'\n', &mut line).map_err(Error::reading(path))?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let row = serde_json::from_slice(&line);
        on_row(row.map_err(|error| Error::input(path, error.to_string()).at(format!("line {number}")))?);
    }
    Ok(true)
}

fn read_iterations(folder: &Path, about: Option<&About>) -> Result<Vec<Iteration>> {
    let rows: Vec<CountsRow> = read_rows(&folder.join(COUNTS_FILE))?;
    let shown: Vec<usize> = about.iter().flat_map(|about| &about.samples).map(|row| row.index).collect();
    let read = |row: CountsRow| {
        let path = folder.join(iteration_folder(row.iteration)).join(SELF_GENERATED_FILE);
        Ok(Iteration { number: row.iteration, counts: row.counts, responses: read_responses(&path, &shown)? })
    };
    rows.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_run_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let said = |name: &str| {
            let error = check_holds_run(&folder.path().join(name)).unwrap_err();
            format!("{error} {}", error.hint().unwrap_or_default())
        };
        let night = folder.path().join("night");
        fs::create_dir(&night).unwrap();
        assert!(said("night").contains("holds no run"));
        assert!(said("nihgt").contains("cannot read") && said("nihgt").contains("did you mean"), "{}", said("nihgt"));
        let settings = night.join(COMPARE_FILE);
        fs::write(&settings, "").unwrap();
        assert!(said("night").contains("give a run's folder"), "settings that were not run yet");
        fs::create_dir(night.join("cells")).unwrap();
        let way_on = format!("gsil compare {} --output {}", shell_path(&settings), shell_path(&night));
        assert!(said("night").contains("comparison.html") && said("night").contains(&way_on), "{}", said("night"));
        fs::write(night.join(CONFIG_FILE), "").unwrap();
        check_holds_run(&night).unwrap();
    }
}
