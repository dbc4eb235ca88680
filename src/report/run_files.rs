//! A run folder as the report reads it: whatever is there, nothing is changed, and it may be of a run that still goes
//! on.
//!
//! The rows are read by structs of this file, because the report stands below training and evaluation. What a run has
//! not written yet is empty or None; what does not read is an error. Next: [`super::page`].

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::responses::{Responses, read_responses};
use crate::config::RunConfig;
use crate::error::{Error, Result};

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
    pub updates: Vec<Update>,
    pub evaluations: Vec<EvaluationRow>,
    pub iterations: Vec<Iteration>,
    pub timing: Vec<TimingRow>,
    /// When the run folder was made, seconds since 1970.
    pub began_s: f64,
}

/// `about.json`: figures of model and data, and a few rows as text.
#[derive(Debug, Deserialize)]
pub struct About {
    pub num_parameters: usize,
    pub num_trained_parameters: usize,
    pub num_demonstrations: usize,
    /// Rows that every stage is judged on.
    pub num_evaluated: usize,
    /// False if those are training rows.
    pub held_out: bool,
    /// Mean length of demonstrations, their end token included.
    pub mean_demonstration_tokens: f64,
    pub samples: Vec<SampleRow>,
}

/// A row of the data as text. Models without a tokenizer have token ids instead.
#[derive(Debug, Deserialize)]
pub struct SampleRow {
    /// The row of the data file, counted from 0.
    pub index: usize,
    pub prompt: String,
    pub demonstration: String,
}

/// One line of `metrics.jsonl`. What only pairs have is None in supervised stages.
#[derive(Debug, Clone, Deserialize)]
pub struct Update {
    pub stage: String,
    pub stage_step: usize,
    pub total_step: usize,
    pub loss: f64,
    pub loss_demonstration: f64,
    pub loss_self_generated: f64,
    pub demonstration_log_prob_per_token: f64,
    pub log_ratio_demonstration: Option<f64>,
    pub log_ratio_self_generated: Option<f64>,
    pub implicit_reward_accuracy: Option<f64>,
    pub log_ratio_margin: Option<f64>,
    pub grad_norm: f64,
    pub lr: f64,
    pub num_clamped: f64,
    pub tokens_per_s: f64,
    pub seconds: f64,
}

impl Update {
    /// Made inside an iteration, not in a supervised stage.
    pub fn is_of_iteration(&self) -> bool {
        self.stage.starts_with("iteration ")
    }
}

/// One line of `evaluations.jsonl`.
#[derive(Debug, Deserialize)]
pub struct EvaluationRow {
    pub stage: String,
    pub total_steps: usize,
    pub evaluation: Evaluation,
}

/// The figures of one model on the rows that every stage is judged on.
#[derive(Debug, Deserialize)]
pub struct Evaluation {
    pub held_out: bool,
    pub num_rows: usize,
    pub demonstration_log_prob_per_token: f64,
    pub against_reference: Option<AgainstReference>,
    pub greedy: Option<Answers>,
    pub sampled: Option<Answers>,
}

/// Log-ratios against the start policy, nats.
#[derive(Debug, Deserialize)]
pub struct AgainstReference {
    pub implicit_reward_accuracy: f64,
    pub log_ratio_demonstration: f64,
    pub log_ratio_self_generated: f64,
}

/// What generated answers look like, as shares of `num_rows`.
#[derive(Debug, Deserialize)]
pub struct Answers {
    pub num_rows: usize,
    pub finished: f64,
    pub mean_tokens: f64,
    pub ends_in_answer: Option<f64>,
    pub exact_match: Option<f64>,
    pub flexible_match: Option<f64>,
}

/// One line of `self_generation.jsonl` and what stands in the iteration's folder.
#[derive(Debug)]
pub struct Iteration {
    pub number: usize,
    pub counts: Counts,
    /// None if `self_generated.jsonl` was removed from the folder.
    pub responses: Option<Responses>,
}

#[derive(Deserialize)]
struct CountsRow {
    iteration: usize,
    counts: Counts,
}

/// What became of an iteration's self-generated responses.
#[derive(Debug, Deserialize)]
pub struct Counts {
    pub responses: usize,
    pub identical: usize,
    pub empty: usize,
    pub unfinished: usize,
    pub duplicated: usize,
    pub too_long: usize,
    pub dropped: usize,
    pub mean_tokens: f64,
}

/// One line of `timing.jsonl`. A stage that was stopped and resumed has several for the same phase.
#[derive(Debug, Deserialize)]
pub struct TimingRow {
    pub stage: String,
    /// `generation`, `scoring` or `evaluation`.
    pub phase: String,
    pub seconds: f64,
}

impl RunFiles {
    /// Reads the run in `folder`.
    ///
    /// # Errors
    /// [`Error::Input`] if it holds no run, or a file of it is missing or does not read, with file and line.
    pub fn read(folder: &Path) -> Result<Self> {
        let config_path = folder.join("config.ron");
        if !config_path.exists() {
            return Err(Error::input(folder, "holds no run (no config.ron)").with_hint("start one with `gsil train`"));
        }
        let config_text = fs::read_to_string(&config_path).map_err(Error::reading(&config_path))?;
        let config = RunConfig::from_ron(&config_text, &config_path.to_string_lossy())
            .map_err(|error| Error::input(&config_path, error.to_string()))?;
        let environment_path = folder.join("env.json");
        let environment = read_json(&environment_path)?.ok_or_else(|| missing(&environment_path))?;
        let about: Option<About> = read_json(&folder.join("about.json"))?;
        let updates: Vec<Update> = read_rows(&folder.join("metrics.jsonl"))?;
        let evaluations: Vec<EvaluationRow> = read_rows(&folder.join("evaluations.jsonl"))?;
        if updates.is_empty() && evaluations.iter().any(|row| row.total_steps > 0) {
            return Err(missing(&folder.join("metrics.jsonl")));
        }
        Ok(RunFiles {
            name: name_of(folder),
            iterations: read_iterations(folder, about.as_ref())?,
            timing: read_rows(&folder.join("timing.jsonl"))?,
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
        let config = &self.config;
        let iterations = (0..config.iterations).map(|i| format!("iteration {i}"));
        let has_comparison = config.continued_sft_lr.is_some() && config.iterations > 0;
        let sft = config.sft.as_ref().map(|_| "sft".to_owned());
        let comparison = has_comparison.then(|| "continued sft".to_owned());
        std::iter::once("start".to_owned()).chain(sft).chain(iterations).chain(comparison).collect()
    }

    /// Stages that are evaluated, and all that there will be.
    pub fn stages_done(&self) -> (usize, usize) {
        let planned = self.planned_stages();
        let done = planned.iter().filter(|stage| self.evaluations.iter().any(|row| row.stage == **stage));
        (done.count(), planned.len())
    }
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
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
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
    let rows: Vec<CountsRow> = read_rows(&folder.join("self_generation.jsonl"))?;
    let shown: Vec<usize> = about.iter().flat_map(|about| &about.samples).map(|row| row.index).collect();
    let read = |row: CountsRow| {
        let path = folder.join(format!("iteration-{:03}/self_generated.jsonl", row.iteration));
        Ok(Iteration { number: row.iteration, counts: row.counts, responses: read_responses(&path, &shown)? })
    };
    rows.into_iter().map(read).collect()
}
