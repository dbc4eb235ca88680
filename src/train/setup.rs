//! Before the first step: everything is opened and checked, then the run folder is made, so that a mistake leaves nothing
//! behind.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::Serialize;

use super::checkpoint::{self, Progress};
use super::estimate::estimate_seconds;
use super::run_dir::RunDir;
use super::signals::StopRequest;
use crate::config::{RunConfig, TrainConfig, Unfinished, WordProblemsConfig};
use crate::data::examples::{Example, prepare_examples};
use crate::data::rows::read_rows;
use crate::data::tokenizer::Tokenizer;
use crate::data::word_problems::{self, make_word_problems};
use crate::device;
use crate::error::{Error, Result};
use crate::eval;
use crate::formats::ModelFiles;
use crate::formats::hf_folder::write_model_folder;
use crate::model::{CausalLm, ModelConfig, weights};
use crate::objective::Objective;
use crate::policy::Policy;
use crate::report::console::Console;

/// Batches are padded to a multiple of this many tokens where every new shape costs a compilation.
const FEW_SHAPES_MULTIPLE: usize = 32;

const ENVIRONMENT_FILE: &str = "env.json";
/// The key of the rows' fingerprint in it.
const FINGERPRINT: &str = "rows_fingerprint";
/// Without held-out data so many training rows are scored before and after.
const NUM_PROBE_ROWS: usize = 32;

/// A run that is ready to train.
pub struct Run {
    pub(super) dir: RunDir,
    pub(super) config: RunConfig,
    pub(super) console: Console,
    pub(super) stop: StopRequest,
    pub(super) device_name: String,
    pub(super) files: ModelFiles,
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) eos_token_ids: Vec<u32>,
    pub(super) examples: Vec<Example>,
    pub(super) held_out: HeldOut,
    pub(super) num_tokens_multiple: usize,
    /// The checkpoint that the run continues from.
    pub(super) resumed: Option<(Progress, PathBuf)>,
}

/// The rows that every stage is judged on: held out if there are any, else the first rows of the training data.
#[derive(Debug)]
pub(super) struct HeldOut {
    pub examples: Vec<Example>,
    pub settings: eval::Settings,
}

/// `metrics.jsonl` and its kin: one JSON value and a line end.
pub(super) fn json_line(row: &impl Serialize) -> Result<String> {
    let line = serde_json::to_string(row).map_err(|error| Error::usage(format!("cannot encode a row: {error}")))?;
    Ok(line + "\n")
}

/// What both a new and a resumed run open and check.
struct Opened {
    device_name: String,
    policy: Policy,
    model: CausalLm,
    examples: Vec<Example>,
    held_out: HeldOut,
}

impl Run {
    /// Prepares a new run in `output`. The configuration is resolved and valid.
    ///
    /// # Errors
    /// Whatever is wrong with configuration, model, data or device; the run folder is then not made.
    pub fn start(mut config: RunConfig, output: &Path, console: Console) -> Result<(Self, CausalLm)> {
        RunDir::check_free(output)?;
        let (dir, opened);
        if config.word_problems.is_some() {
            let device = device::open(device::resolve_name(&config.device))?;
            dir = RunDir::create(output)?;
            let made = make_task(&config, &dir, &device);
            match made.and_then(|()| Opened::open(&with_task_paths(&config, &dir), &console)) {
                Ok(all) => opened = all,
                Err(error) => {
                    dir.abandon();
                    return Err(error);
                }
            }
        } else {
            for path in [&mut config.model, &mut config.data, &mut config.evaluation.data].into_iter().flatten() {
                *path = absolute(path); // so that the run can be resumed from anywhere
            }
            opened = Opened::open(&config, &console)?;
            dir = RunDir::create(output)?;
        }
        config.output = Some(dir.path().to_string_lossy().into_owned());
        let (run, model) = opened.into_run(config, dir, console, None)?;
        run.dir.write(ENVIRONMENT_FILE, &(environment(&run.device_name, &run.examples).to_string() + "\n"))?;
        run.dir.write("config.ron", &run.config.to_ron()?)?;
        Ok((run, model))
    }

    /// Prepares to continue the run in `path`.
    ///
    /// # Errors
    /// As [`Self::start`]; and if the folder holds no run.
    pub fn resume(path: &Path, console: Console) -> Result<(Self, CausalLm)> {
        let dir = RunDir::open(path)?;
        let config_path = dir.join("config.ron");
        let text = std::fs::read_to_string(&config_path).map_err(Error::reading(&config_path))?;
        let config = RunConfig::from_ron(&text, &config_path.to_string_lossy())?;
        config.validate()?;
        let mut opened = Opened::open(&with_task_paths(&config, &dir), &console)?;
        check_same_rows(&dir, &opened.examples)?;
        let resumed = checkpoint::load_progress(&dir)?;
        Self::forget_updates_after(&dir, resumed.as_ref().map_or(0, |(progress, _)| progress.total_steps))?;
        if let Some((progress, folder)) = &resumed {
            opened.model = checkpoint::load_parameters(&folder.join("parameters.safetensors"), opened.model)?;
            console.say(format!("continuing at {}, update {}", progress.stage, progress.stage_steps));
        }
        opened.into_run(config, dir, console, resumed)
    }

    /// The device that `auto` or the configuration stands for.
    pub fn device_name(&self) -> &str {
        &self.device_name
    }

    /// Where the run talks to a person.
    pub fn console(&self) -> &Console {
        &self.console
    }

    pub(super) fn score_batch_size(&self) -> usize {
        score_batch_size(&self.config)
    }

    /// What a person wants to know before the first step.
    fn say_header(&self, model: &CausalLm) -> Result<()> {
        let config = model.config();
        let trained = weights::num_trained_parameters(model);
        let console = &self.console;
        let objective = &self.config.objective;
        console.say(format!(
            "model      {} ({} parameters, {} trained)",
            self.files.path.display(),
            millions(config.num_parameters()),
            millions(trained)
        ));
        let held_out = self.held_out.examples.len();
        let is_held_out = if self.held_out.settings.held_out { "held out" } else { "of them scored before and after" };
        console.say(format!("data       {} demonstrations, {held_out} {is_held_out}", self.examples.len()));
        console.say(format!(
            "objective  {}, scale {}, shift {}; {} iterations",
            objective.name,
            objective.scale.unwrap_or(1.0),
            objective.shift,
            self.config.iterations
        ));
        console.say(format!("device     {}", self.device_name));
        console.say(format!("run folder {}", self.dir.path().display()));
        let seconds = estimate_seconds(&self.config, model, &self.examples, held_out, self.num_tokens_multiple)?;
        console.say(format!("time       about {} for the whole run, at the speed just measured", duration(seconds)));
        Ok(())
    }
}

impl Opened {
    fn open(config: &RunConfig, console: &Console) -> Result<Self> {
        let device_name = device::resolve_name(&config.device).to_owned();
        let device = device::open(&device_name)?;
        let needed = |value: &Option<String>, key: &str| {
            value.clone().ok_or_else(|| {
                Error::config(key, "is not given").with_hint(format!("pass --{key}, or `{key}: \"..\"` in the config"))
            })
        };
        let policy = Policy::open(Path::new(&needed(&config.model, "model")?))?;
        let data = needed(&config.data, "data")?;
        let examples = read_examples(Path::new(&data), config.max_rows, &policy, &config.train, console)?;
        if let Some(row) =
            examples.iter().find(|e| e.self_generated_ids.is_some() != examples[0].self_generated_ids.is_some())
        {
            let message = "some rows bring a second (rejected) response and some do not";
            return Err(Error::input(&data, message)
                .at(format!("row {}", row.index))
                .with_hint("give one to every row, or to none: then the policy generates its own"));
        }
        let held_out = match &config.evaluation.data {
            Some(path) => {
                let max_rows = Some(config.evaluation.max_rows);
                let examples = read_examples(Path::new(path), max_rows, &policy, &config.train, console)?;
                HeldOut { examples, settings: evaluation_settings(config, &policy, &device_name) }
            }
            None => {
                let settings = evaluation_settings(config, &policy, &device_name);
                let examples = examples[..NUM_PROBE_ROWS.min(examples.len())].to_vec();
                HeldOut { examples, settings: eval::Settings { generate_rows: 0, held_out: false, ..settings } }
            }
        };
        if policy.eos_token_ids.is_empty()
            && Objective::new(&config.objective).needs_self_generated()
            && config.generation.unfinished == Unfinished::Drop
        {
            return Err(Error::input(&policy.files.path, "names no end token: no response could ever be finished")
                .at("config.json, field `eos_token_id`")
                .with_hint("add eos_token_id to config.json, or set generation.unfinished=mask"));
        }
        let model = policy.load(&device.autodiff(), console)?;
        let model = match &config.lora {
            Some(lora) => model.with_adapters(lora.rank, lora.alpha as f64, &lora.target_modules, config.seed),
            None => model,
        };
        Ok(Opened { device_name, policy, model, examples, held_out })
    }

    fn into_run(
        self,
        config: RunConfig,
        dir: RunDir,
        console: Console,
        resumed: Option<(Progress, PathBuf)>,
    ) -> Result<(Run, CausalLm)> {
        let run = Run {
            num_tokens_multiple: num_tokens_multiple(&self.device_name),
            dir,
            config,
            console,
            stop: StopRequest::listen()?,
            device_name: self.device_name,
            files: self.policy.files,
            tokenizer: self.policy.tokenizer,
            eos_token_ids: self.policy.eos_token_ids,
            examples: self.examples,
            held_out: self.held_out,
            resumed,
        };
        run.say_header(&self.model)?;
        Ok((run, self.model))
    }
}

/// Rows that fit, as token ids; what is left out is counted and said.
///
/// # Errors
/// As [`read_rows`] and [`prepare_examples`].
pub fn read_examples(
    path: &Path,
    max_rows: Option<usize>,
    policy: &Policy,
    config: &TrainConfig,
    console: &Console,
) -> Result<Vec<Example>> {
    let rows = read_rows(path, max_rows)?;
    let max_length = config.max_length.min(policy.config.max_position_embeddings);
    let (examples, dropped) =
        prepare_examples(&rows, policy.tokenizer.as_ref(), policy.config.vocab_size, max_length, path)?;
    if dropped.total() > 0 {
        console.warn(format!("{}: {dropped}", path.display()));
    }
    Ok(examples)
}

/// See [`crate::data::batch::Batch::new`].
pub fn num_tokens_multiple(device_name: &str) -> usize {
    if device::prefers_few_shapes(device_name) { FEW_SHAPES_MULTIPLE } else { 1 }
}

/// Sequences scored at once: as many as a training step holds, for less memory than it needs.
fn score_batch_size(config: &RunConfig) -> usize {
    2 * config.train.micro_batch_size
}

/// How the configuration asks for held-out figures.
pub fn evaluation_settings(config: &RunConfig, policy: &Policy, device_name: &str) -> eval::Settings {
    let evaluation = &config.evaluation;
    eval::Settings {
        held_out: true,
        score_batch_size: score_batch_size(config),
        num_tokens_multiple: num_tokens_multiple(device_name),
        generate_rows: evaluation.generate_rows,
        sampled: evaluation.sampled,
        answer_marker: evaluation.answer_marker.clone(),
        max_new_tokens: evaluation.max_new_tokens.unwrap_or(config.generation.max_new_tokens),
        generate_batch_size: config.generation.batch_size,
        eos_token_ids: policy.eos_token_ids.clone(),
        seed: config.seed,
    }
}

fn absolute(path: &str) -> String {
    std::fs::canonicalize(path).map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// The built-in word problems lie inside the run folder.
pub fn with_task_paths(config: &RunConfig, dir: &RunDir) -> RunConfig {
    let mut config = config.clone();
    if config.word_problems.is_some() {
        let path = |name: &str| Some(dir.join("task").join(name).to_string_lossy().into_owned());
        config.model = path("model");
        config.data = path("train.jsonl");
        config.evaluation.data = path("test.jsonl");
    }
    config
}

/// Makes the word problems and a model with random weights.
fn make_task(config: &RunConfig, dir: &RunDir, device: &Device) -> Result<()> {
    let Some(task) = &config.word_problems else { return Ok(()) };
    let folder = dir.join("task");
    std::fs::create_dir_all(&folder).map_err(Error::writing("create", &folder))?;
    let problems = make_word_problems(config.seed, task.num_train, task.num_test, task.slip_probability);
    word_problems::write_rows(folder.join("train.jsonl"), &problems.train)?;
    word_problems::write_rows(folder.join("test.jsonl"), &problems.test)?;
    let model_folder = folder.join("model");
    let tokenizer = word_problems::tokenizer_files();
    let vocab_size = Tokenizer::new(&tokenizer, &model_folder, &[])?.vocab_size();
    let WordProblemsConfig { hidden_size, num_layers, num_heads, intermediate_size, .. } = *task;
    let json = word_problems::model_config(vocab_size, hidden_size, num_layers, num_heads, intermediate_size);
    let model_config = ModelConfig::from_json(&json, None, &model_folder)?;
    let model = weights::initialize(&model_config, config.seed, device)?;
    write_model_folder(&model_folder, &json, None, Some(&tokenizer), weights::tensors_to_write(&model))
}

/// Stored responses and log-probs belong to the prompts that they were made for.
///
/// # Errors
/// [`Error::Input`] if `examples` are not those that the run in `dir` began with.
pub fn check_same_rows(dir: &RunDir, examples: &[Example]) -> Result<()> {
    let path = dir.join(ENVIRONMENT_FILE);
    let text = std::fs::read_to_string(&path).map_err(Error::reading(&path))?;
    let environment: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| Error::input(&path, error.to_string()))?;
    match environment[FINGERPRINT].as_str() == Some(fingerprint(examples).as_str()) {
        true => Ok(()),
        false => Err(Error::input(dir.path(), "the prompts or demonstrations are not those that the run began with")
            .with_hint(
                "restore the data file; a chat template that names today's date changes prompts, too: start a new run",
            )),
    }
}

/// Tells whether two lists of examples are the same, token for token (FNV-1a, 64 bit: for accidents, not for attacks).
fn fingerprint(examples: &[Example]) -> String {
    let ids = examples.iter().flat_map(|e| {
        let lens = [e.index as u32, e.prompt_ids.len() as u32, e.demonstration_ids.len() as u32];
        lens.into_iter().chain(e.prompt_ids.iter().copied()).chain(e.demonstration_ids.iter().copied())
    });
    let hash = ids
        .flat_map(u32::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

/// What a figure depends on besides the configuration.
fn environment(device_name: &str, examples: &[Example]) -> serde_json::Value {
    let devices = device::list();
    let description = devices.iter().find(|device| device.name.starts_with(device_name)).map(|d| d.description.clone());
    serde_json::json!({
        "gsil": env!("CARGO_PKG_VERSION"),
        "burn": "0.22.1",
        (FINGERPRINT): fingerprint(examples),
        "device": device_name,
        "device_description": description,
        "operating_system": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
    })
}

/// `134.5 million`.
fn millions(count: usize) -> String {
    match count {
        0..10_000 => count.to_string(),
        _ => format!("{:.2} million", count as f64 / 1e6),
    }
}

/// `45 s`, `12 min`, `3.5 h`.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
