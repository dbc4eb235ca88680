//! Before the first step: everything is opened and checked, then the run folder is made, so that a mistake leaves nothing
//! behind. A run that was stopped goes on in `resuming`.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;

use super::binding::frozen_hash;
use super::checkpoint::Saved;
use super::environment;
use super::estimate::memory::Memory;
use super::estimate::savings::{Change, changes};
use super::estimate::{advice, disk_bytes, memory_that_fits};
use super::free_folder::check_free_for_run;
use super::inputs::{HeldOut, Inputs};
use super::replicas::Replicas;
use super::retention::Keep;
use super::run_dir::RunDir;
use super::signals::StopRequest;
use super::sources::{Sources, pin_devices};
use super::task::{make_task, with_task_paths};
use crate::config::{RunConfig, TrainConfig, spell_date};
use crate::data::examples::Example;
use crate::data::tokenizer::Tokenizer;
use crate::device;
use crate::error::Result;
use crate::eval;
use crate::formats::ModelFiles;
use crate::formats::file_system::{Disk, FileSystem};
use crate::model::CausalLm;
use crate::policy::Policy;
use crate::records::run_folder::{CONFIG_FILE, ENVIRONMENT_FILE};
use crate::report::console::Console;

/// Batches are padded to a multiple of this many tokens where every new shape costs a compilation.
const FEW_SHAPES_MULTIPLE: usize = 32;

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
    /// The devices that training steps are divided over, beside the first.
    pub(super) replicas: Replicas,
    /// The checkpoint that the run continues from.
    pub(super) resumed: Option<Saved>,
    /// The settings are others than those of `config.ron`, which has yet to be written: see [`Run::keep_changes`].
    pub(super) has_new_settings: bool,
    /// Runs of a comparison that began alike; None outside of one. See [`super::sharing`].
    pub(super) others: Option<Vec<PathBuf>>,
    /// Tokens of responses written since a phase was timed last.
    pub(super) num_new_tokens: Cell<usize>,
}

/// What both a new and a resumed run open and check.
pub(super) struct Opened {
    pub(super) inputs: Inputs,
    pub(super) model: CausalLm,
    replicas: Replicas,
    memory: Memory,
    /// What would need less memory.
    changes: Vec<Change>,
}

impl Run {
    /// Prepares a new run in `output`. The configuration is resolved and valid.
    ///
    /// # Errors
    /// Whatever is wrong with configuration, model, data or device; the run folder is then not made.
    pub fn start(config: RunConfig, output: &Path, console: Console) -> Result<(Self, CausalLm)> {
        Self::start_on(Arc::new(Disk), config, output, console)
    }

    /// [`Self::start`] in a folder of its own in `parent`: see [`RunDir::create_named`].
    ///
    /// # Errors
    /// As there.
    pub fn start_named(config: RunConfig, parent: &Path, name: &str, console: Console) -> Result<(Self, CausalLm)> {
        Self::start_in(config, console, || RunDir::create_named(Arc::new(Disk), parent, name))
    }

    /// [`Self::start`] on another file system.
    ///
    /// # Errors
    /// As there.
    pub fn start_on(
        files: Arc<dyn FileSystem>,
        config: RunConfig,
        output: &Path,
        console: Console,
    ) -> Result<(Self, CausalLm)> {
        check_free_for_run(output)?;
        Self::start_in(config, console, || {
            check_free_for_run(output)?; // it took a while to come here
            RunDir::create(files, output)
        })
    }

    /// `make_dir` is asked once everything but the disk is known to be right.
    fn start_in(
        mut config: RunConfig,
        console: Console,
        make_dir: impl FnOnce() -> Result<RunDir>,
    ) -> Result<(Self, CausalLm)> {
        pin_devices(&mut config);
        let (dir, opened);
        if config.word_problems.is_some() {
            let device = device::open(config.device_names()[0])?;
            dir = make_dir()?;
            let made = make_task(&config, &dir, &device);
            match made.and_then(|()| Opened::open(&with_task_paths(&config, &dir), false, &console)) {
                Ok(all) => opened = all,
                Err(error) => {
                    dir.abandon();
                    return Err(error);
                }
            }
        } else {
            let sources = Sources::find(&config, &console)?;
            config = sources.pinned;
            opened = Opened::open(&sources.local, false, &console)?;
            dir = make_dir()?;
        }
        if let Err(error) = dir.check_space(opened.inputs.with_subject(&config, false, disk_bytes)) {
            dir.abandon();
            return Err(error);
        }
        config.output = Some(dir.path().to_string_lossy().into_owned());
        config.template_date =
            opened.inputs.policy.tokenizer.as_ref().and_then(Tokenizer::printed_date).map(spell_date);
        let advice_once_begun = advice(&opened.changes, true);
        let (run, model) = opened.into_run(config, dir, console, None)?;
        run.write_environment(&model)?;
        run.dir.write(CONFIG_FILE, &run.config.to_ron()?)?;
        device::remember_advice(advice_once_begun, true);
        Ok((run, model))
    }

    pub(super) fn keep(&self) -> Keep {
        Keep::new(&self.config)
    }

    fn write_environment(&self, model: &CausalLm) -> Result<()> {
        let mut environment =
            environment::describe(&self.device_name, &self.examples, &self.held_out.examples, &self.config.to_ron()?);
        environment["model"] = self.config.model.as_deref().into();
        environment["data"] = self.config.data.as_deref().into();
        if self.config.lora.is_some() {
            environment[environment::FROZEN_WEIGHTS] = frozen_hash(model)?.into();
        }
        self.dir.write(ENVIRONMENT_FILE, &(environment.to_string() + "\n"))
    }

    /// The devices that `auto` or the configuration stands for.
    pub fn device_names(&self) -> Vec<&str> {
        self.config.device_names().into_iter().map(device::resolve_name).collect()
    }

    /// The settings, every default filled in.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// The run folder.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Where the run talks to a person.
    pub fn console(&self) -> &Console {
        &self.console
    }

    pub(super) fn score_batch_size(&self) -> usize {
        score_batch_size(&self.config)
    }
}

impl Opened {
    /// Reads the weights only if the machine has the memory for the run. The paths of the configuration are of this machine.
    pub(super) fn open(config: &RunConfig, is_resumed: bool, console: &Console) -> Result<Self> {
        let others: Result<Vec<Device>> = config.device_names()[1..].iter().map(|name| device::open(name)).collect();
        let replicas = Replicas::new(others?)?;
        let inputs = Inputs::open(config, console)?;
        if !is_resumed {
            inputs.warn_of_held_out_rows(console)?;
        }
        let (memory, changes) = inputs.with_subject(config, is_resumed, |subject| -> Result<_> {
            let memory = memory_that_fits(subject, &inputs.limits, &inputs.device_name)?;
            let changes = changes(subject, &memory);
            Ok((memory, changes))
        })?;
        device::remember_advice(advice(&changes, is_resumed), is_resumed);
        let model = inputs.load(config, console)?;
        Ok(Opened { inputs, model, replicas, memory, changes })
    }

    pub(super) fn into_run(
        self,
        config: RunConfig,
        dir: RunDir,
        console: Console,
        resumed: Option<Saved>,
    ) -> Result<(Run, CausalLm)> {
        let Opened { inputs, model, memory, replicas, .. } = self;
        let Inputs { device_name, policy, examples, held_out, limits, .. } = inputs;
        let run = Run {
            num_tokens_multiple: config
                .device_names()
                .into_iter()
                .map(device::resolve_name)
                .map(num_tokens_multiple)
                .max()
                .unwrap_or(1),
            replicas,
            dir,
            config,
            console,
            stop: StopRequest::listen()?,
            device_name,
            files: policy.files,
            tokenizer: policy.tokenizer,
            eos_token_ids: policy.eos_token_ids,
            examples,
            held_out,
            resumed,
            has_new_settings: false,
            others: None,
            num_new_tokens: Cell::new(0),
        };
        match run.say_header(&model, &memory, &limits) {
            Ok(()) => Ok((run, model)),
            Err(error) => {
                run.dir.abandon();
                Err(error)
            }
        }
    }
}

/// See [`crate::data::batch::Batch::new`].
pub fn num_tokens_multiple(device_name: &str) -> usize {
    if device::is_card(device_name) { FEW_SHAPES_MULTIPLE } else { 1 }
}

/// Sequences scored at once: as many as a training pass holds, for less memory than it needs. Where `max_tokens` limits that
/// pass, the longest sequences together have at most twice as many tokens.
pub(super) fn score_batch_size(config: &RunConfig) -> usize {
    let TrainConfig { micro_batch_size, max_tokens, max_length, .. } = config.train;
    match max_tokens {
        0 => 2 * micro_batch_size,
        limit => (2 * limit / max_length).clamp(1, 2 * micro_batch_size),
    }
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
        answer_marker: evaluation.answer_marker.as_ref().map(|marker| marker.trim_end().to_owned()),
        max_new_tokens: evaluation.max_new_tokens.unwrap_or(config.generation.max_new_tokens),
        generate_batch_size: config.generation.batch_size,
        eos_token_ids: policy.eos_token_ids.clone(),
        seed: config.seed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_has_begun_is_told_to_be_resumed_when_the_device_fails() {
        let folder = tempfile::tempdir().unwrap();
        let rows = folder.path().join("rows.jsonl");
        std::fs::write(&rows, "{\"prompt_ids\": [5, 6], \"response_ids\": [7, 2]}\n".repeat(8)).unwrap();
        let path = |path: &Path| Some(path.to_str().unwrap().to_owned());
        let mut config = RunConfig {
            model: path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/tiny_llama")),
            data: path(&rows),
            device: device::processor().to_owned(),
            ..RunConfig::default()
        };
        config.set("generation.max_new_tokens=4").unwrap();
        config.resolve();
        let start = |output: &Path| Run::start(config.clone(), output, Console::stderr());
        let advised = |failure: &str| device::error_of_panic(failure).unwrap().hint().unwrap().to_owned();
        assert!(start(&rows.join("run")).is_err(), "there can be no folder in a file");
        for failure in ["out of memory", "device lost"] {
            let hint = advised(failure);
            assert!(!hint.contains("resume") && !hint.contains("checkpoint is intact"), "{hint}");
        }
        start(&folder.path().join("run")).unwrap();
        for failure in ["out of memory", "device lost"] {
            assert!(advised(failure).contains("he last checkpoint is intact"), "{}", advised(failure));
        }
    }

    #[test]
    fn a_limit_on_tokens_holds_for_scoring_too() {
        let size = |micro_batch_size, max_tokens| {
            let train = TrainConfig { micro_batch_size, max_tokens, max_length: 1024, ..TrainConfig::default() };
            score_batch_size(&RunConfig { train, ..RunConfig::default() })
        };
        assert_eq!(size(64, 0), 128);
        assert_eq!(size(64, 2048), 4);
        assert_eq!(size(2, 1 << 20), 4, "no more than without it");
        assert_eq!(size(64, 100), 1);
    }
}
