//! Before the first step: everything is opened and checked, then the run folder is made, so that a mistake leaves nothing
//! behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;

use super::changes::{Changes, check_changes};
use super::checkpoint::{self, Progress, Saved, Stage};
use super::environment::{self, began_with, check_same_rows};
use super::estimate::{bytes_of_a_run, estimate_seconds};
use super::retention::Keep;
use super::run_data::RunFiles;
use super::run_dir::RunDir;
use super::signals::StopRequest;
use crate::config::{RunConfig, Unfinished, WordProblemsConfig};
use crate::data::examples::Example;
use crate::data::tokenizer::Tokenizer;
use crate::data::word_problems::{self, make_word_problems};
use crate::device;
use crate::error::{Error, Result};
use crate::eval;
use crate::formats::ModelFiles;
use crate::formats::file_system::{Disk, FileSystem};
use crate::formats::hf_folder::ModelFolder;
use crate::formats::quantize::Precision;
use crate::model::{CausalLm, ModelConfig, weights};
use crate::objective::Objective;
use crate::policy::{Policy, Wanted};
use crate::report::console::Console;

/// Batches are padded to a multiple of this many tokens where every new shape costs a compilation.
const FEW_SHAPES_MULTIPLE: usize = 32;

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
    pub(super) resumed: Option<Saved>,
    /// Runs of a comparison that began alike; None outside of one. See [`super::sharing`].
    pub(super) others: Option<Vec<PathBuf>>,
}

/// The rows that every stage is judged on: held out if there are any, else the first rows of the training data.
#[derive(Debug)]
pub(super) struct HeldOut {
    pub examples: Vec<Example>,
    pub settings: eval::Settings,
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
    pub fn start(config: RunConfig, output: &Path, console: Console) -> Result<(Self, CausalLm)> {
        Self::start_on(Arc::new(Disk), config, output, console)
    }

    /// [`Self::start`] on another file system.
    ///
    /// # Errors
    /// As there.
    pub fn start_on(
        files: Arc<dyn FileSystem>,
        mut config: RunConfig,
        output: &Path,
        console: Console,
    ) -> Result<(Self, CausalLm)> {
        RunDir::check_free(output)?;
        let (dir, opened);
        if config.word_problems.is_some() {
            let device = device::open(device::resolve_name(&config.device))?;
            dir = RunDir::create(files, output)?;
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
            dir = RunDir::create(files, output)?;
        }
        if let Err(error) = dir.check_space(bytes_of_a_run(&config, &opened.model)) {
            dir.abandon();
            return Err(error);
        }
        config.output = Some(dir.path().to_string_lossy().into_owned());
        let (run, model) = opened.into_run(config, dir, console, None)?;
        run.write_environment()?;
        run.dir.write("config.ron", &run.config.to_ron()?)?;
        Ok((run, model))
    }

    /// Prepares to continue the run in `path`, with other settings if `changes` allows them.
    ///
    /// # Errors
    /// As [`Self::start`]; if the folder holds no run; and for settings that must not change in the middle of a run.
    pub fn resume(path: &Path, changes: &Changes, console: Console) -> Result<(Self, CausalLm)> {
        Self::resume_on(Arc::new(Disk), path, changes, console)
    }

    /// [`Self::resume`] on another file system.
    ///
    /// # Errors
    /// As there.
    pub fn resume_on(
        files: Arc<dyn FileSystem>,
        path: &Path,
        changes: &Changes,
        console: Console,
    ) -> Result<(Self, CausalLm)> {
        let dir = RunDir::open(files, path)?;
        let config_path = dir.join("config.ron");
        let text = std::fs::read_to_string(&config_path).map_err(Error::reading(&config_path))?;
        let mut config = RunConfig::from_ron(&text, &config_path.to_string_lossy())?;
        let before = began_with(&dir)?.unwrap_or_else(|| config.clone());
        changes.overrides.iter().try_for_each(|assignment| config.set(assignment))?;
        config.validate()?;
        let is_changed = check_changes(&before, &config, changes.allow)?;
        let mut opened = Opened::open(&with_task_paths(&config, &dir), &console)?;
        check_same_rows(&dir, &opened.examples)?;
        let resumed = checkpoint::load_newest(&dir, &|problem| console.warn(problem))?;
        Self::forget_what_follows(&dir, resumed.as_ref().map(|saved| &saved.progress))?;
        if let Some(saved) = &resumed {
            opened.model = saved.load_parameters(opened.model)?;
            console.say(format!("continuing at {}, update {}", saved.progress.stage, saved.progress.stage_steps));
        }
        let (run, model) = opened.into_run(config, dir, console, resumed)?;
        if is_changed {
            run.dir.write("config.ron", &run.config.to_ron()?)?;
            run.write_environment()?;
        }
        Ok((run, model))
    }

    /// Removes what the run wrote after its checkpoint: it is made again.
    fn forget_what_follows(dir: &RunDir, progress: Option<&Progress>) -> Result<()> {
        Self::forget_updates_after(dir, progress.map_or(0, |progress| progress.total_steps))?;
        let num_begun = match progress.map(|progress| progress.stage) {
            None | Some(Stage::Sft) => 0,
            Some(Stage::Iteration(iteration)) => iteration + 1,
            Some(Stage::ContinuedSft | Stage::Done) => return Ok(()),
        };
        if num_begun == 0 {
            super::START_FILES.iter().try_for_each(|name| dir.remove(name))?;
        }
        let is_later = |name: &str| {
            let number = name.strip_prefix("iteration-").and_then(|number| number.parse::<usize>().ok());
            number.is_some_and(|number| number >= num_begun)
        };
        dir.list("", is_later)?.iter().try_for_each(|name| dir.remove(name))
    }

    pub(super) fn keep(&self) -> Keep {
        Keep::new(&self.config)
    }

    fn write_environment(&self) -> Result<()> {
        let environment = environment::describe(&self.device_name, &self.examples, &self.config.to_ron()?);
        self.dir.write(environment::FILE, &(environment.to_string() + "\n"))
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
        let files = RunFiles::find(config, &needed(&config.data, "data")?, console)?;
        let read = |files: &[PathBuf], max_rows| {
            policy.read_examples(files, &Wanted::new(config, max_rows), config.train.max_length, console)
        };
        let examples = read(&files.train, config.max_rows)?;
        if let Some(row) =
            examples.iter().find(|e| e.self_generated_ids.is_some() != examples[0].self_generated_ids.is_some())
        {
            let message = "some rows bring a second (rejected) response and some do not";
            return Err(Error::input(&files.train[0], message)
                .at(format!("row {}", row.index))
                .with_hint("give one to every row, or to none: then the policy generates its own"));
        }
        let settings = evaluation_settings(config, &policy, &device_name);
        let held_out = if files.held_out.is_empty() {
            let examples = examples[..NUM_PROBE_ROWS.min(examples.len())].to_vec();
            HeldOut { examples, settings: eval::Settings { generate_rows: 0, held_out: false, ..settings } }
        } else {
            HeldOut { examples: read(&files.held_out, Some(config.evaluation.max_rows))?, settings }
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
        resumed: Option<Saved>,
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
            others: None,
        };
        run.say_header(&self.model)?;
        Ok((run, self.model))
    }
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

/// The path from the root of the file system; one that does not exist stays as it is.
pub(crate) fn absolute(path: &str) -> String {
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
    dir.create_folder("task")?;
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
    let beside_weights = ModelFolder {
        config: &json,
        generation_config: None,
        tokenizer: Some(&tokenizer),
        model_card: None,
        precision: Precision::F32,
    };
    beside_weights.write(dir.files(), &model_folder, weights::tensors_to_write(&model))
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
