//! How fast this machine is: training steps, scoring and generation of a fixed size, timed through the very code that a run
//! uses.
//!
//! [`measure`] does one [`Workload`] and gives a [`Measurement`]; [`peaks`] and [`operations`] measure the device below it.
//! Token ids are random from a fixed seed, so the work is the same everywhere and needs no data. Nothing here judges:
//! comparisons with other programs are in `benches/`.

pub mod generation;
pub mod machine;
pub mod matrix_flops;
pub mod model;
pub mod operations;
pub mod peaks;
pub mod training;

use std::time::Instant;

use burn::tensor::Device;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use serde::{Deserialize, Serialize};

use crate::config::{LoraConfig, ObjectiveConfig, ObjectiveName, OptimizerName, RunConfig};
use crate::device::error_of_report;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::ops::launches::{self, Launches};
use machine::Machine;

/// The seed of everything random here.
const SEED: u64 = 20_240_910;
/// A quarter of a sequence is prompt; both it and the response need a token.
const MIN_TOKENS: usize = 4;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Steps of full fine-tuning.
    Train,
    /// Steps of a rank-8 adapter on all projections.
    Lora,
    /// Greedy self-generation.
    Generate,
}

/// The size of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Pairs of a training step.
    pub pairs: usize,
    /// Tokens of each sequence of a pair, prompt and response together; a quarter of them, rounded down, is prompt. A pair has
    /// two sequences, or one where the objective trains on demonstrations alone.
    pub tokens: usize,
    /// Timed repetitions, after one that is not timed.
    pub steps: usize,
    /// None: 8 equal prompts. Else so many prompts of mixed lengths; see [`generation`].
    pub requests: Option<usize>,
}

/// What one workload took. Times and memory are those of the whole process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    pub workload: Workload,
    #[serde(flatten)]
    pub machine: Machine,
    /// The model's path, or what its random weights are shaped like.
    pub model: String,
    pub num_layers: usize,
    /// The size, as far as the workload has it.
    pub pairs: Option<usize>,
    pub tokens: Option<usize>,
    pub requests: Option<usize>,
    pub steps: usize,
    /// `pairs * tokens` for each sequence of a pair, however few rows were really computed; for generation the new tokens.
    pub tokens_per_step: usize,
    /// `tokens_per_step / seconds_per_step`.
    pub tokens_per_s: f64,
    /// Median over the steps.
    pub seconds_per_step: f64,
    /// The reference pass over the same pairs, once an iteration; no part of a step. None for generation, and where the
    /// objective trains on demonstrations alone: then there is no such pass.
    pub scoring_seconds: Option<f64>,
    /// User and system time of the process over the timed steps, divided by their number. None where the system does not tell.
    pub cpu_seconds_per_step: Option<f64>,
    /// The most memory that the process ever held. None where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// See [`matrix_flops`].
    pub matrix_flops_per_step: f64,
    /// Kernels queued on a graphics card. None where there is none.
    pub launches_per_step: Option<Launches>,
}

/// What a workload's own file measures; [`measure`] adds the rest.
struct Timing {
    tokens_per_step: usize,
    matrix_flops_per_step: f64,
    scoring_seconds: Option<f64>,
    steps: StepTimes,
}

/// The configuration of a workload before a user's changes: that of the published trainer.
pub fn default_config(workload: Workload, size: &Size) -> RunConfig {
    let mut config = RunConfig {
        objective: ObjectiveConfig { name: ObjectiveName::Bernoulli, scale: 0.1, ..ObjectiveConfig::default() },
        lora: (workload == Workload::Lora).then(LoraConfig::default),
        seed: SEED,
        ..RunConfig::default()
    };
    config.train.optimizer = OptimizerName::Rmsprop;
    config.train.batch_size = size.pairs;
    config.train.micro_batch_size = size.pairs;
    config.train.max_length = config.train.max_length.max(size.tokens);
    config.generation.temperature = 0.0;
    config.generation.max_new_tokens = generation::longest_response(size.requests);
    config
}

/// Refuses sizes that no model can work on.
///
/// # Errors
/// [`Error::Usage`] naming the flag.
pub fn check_size(size: &Size) -> Result<()> {
    let at_least = |flag: &str, value: usize, least: usize| match value >= least {
        true => Ok(()),
        false => Err(Error::usage(format!("{flag} {value}: expected {least} or more"))),
    };
    at_least("--pairs", size.pairs, 1)?;
    at_least("--tokens", size.tokens, MIN_TOKENS)?;
    at_least("--steps", size.steps, 1)?;
    at_least("--requests", size.requests.unwrap_or(1), 1)
}

/// Refuses work that is longer than the model's context. `config` is that of the workload.
///
/// # Errors
/// [`Error::Usage`] with both lengths.
pub fn check_context(workload: Workload, size: &Size, config: &RunConfig, model: &ModelConfig) -> Result<()> {
    match workload {
        Workload::Generate => generation::check_context(size, config, model),
        Workload::Train | Workload::Lora => training::check_context(size, model),
    }
}

/// Does one workload. `config` is [`default_config`] with a user's changes, resolved and valid.
///
/// # Errors
/// [`Error::Usage`] if the work does not fit the model's context; whatever the model, its file or the device say.
pub fn measure(
    workload: Workload,
    size: &Size,
    config: &RunConfig,
    source: &model::Source,
    device_name: &str,
) -> Result<Measurement> {
    check_size(size)?;
    if workload != Workload::Lora && config.lora.is_some() {
        return Err(Error::usage("an adapter is set").with_hint("choose --workload lora"));
    }
    let architecture = source.config()?;
    check_context(workload, size, config, &architecture)?;
    let (timing, is_generation) = match workload {
        Workload::Generate => (generation::time(size, config, source, device_name)?, true),
        Workload::Train | Workload::Lora => (training::time(size, config, source, device_name)?, false),
    };
    let seconds_per_step = timing.steps.median_seconds();
    let peak_memory_bytes = machine::peak_memory_bytes(); // before graphics drivers are asked for their names
    Ok(Measurement {
        workload,
        machine: Machine::of(device_name),
        model: source.to_string(),
        num_layers: architecture.num_hidden_layers,
        pairs: (!is_generation).then_some(size.pairs),
        tokens: (!is_generation).then_some(size.tokens),
        requests: is_generation.then(|| generation::num_requests(size.requests)),
        steps: size.steps,
        tokens_per_step: timing.tokens_per_step,
        tokens_per_s: timing.tokens_per_step as f64 / seconds_per_step,
        seconds_per_step,
        scoring_seconds: timing.scoring_seconds,
        cpu_seconds_per_step: timing.steps.cpu_seconds_per_step,
        peak_memory_bytes,
        matrix_flops_per_step: timing.matrix_flops_per_step,
        launches_per_step: timing.steps.launches_per_step,
    })
}

/// What the timed repetitions took.
struct StepTimes {
    seconds: Vec<f64>,
    cpu_seconds_per_step: Option<f64>,
    launches_per_step: Option<Launches>,
}

impl StepTimes {
    /// Runs `step` once untimed (memory is touched, kernels are compiled), then `num_steps` times.
    fn measure(num_steps: usize, device: &Device, mut step: impl FnMut() -> Result<()>) -> Result<Self> {
        step()?;
        sync(device)?;
        let cpu_before = machine::cpu_seconds();
        let mut timed_step = || -> Result<f64> {
            let started = Instant::now();
            step()?;
            sync(device)?;
            Ok(started.elapsed().as_secs_f64())
        };
        let mut seconds: Result<Vec<f64>> = Ok(Vec::new());
        let launches = launches::count(device, || seconds = (0..num_steps).map(|_| timed_step()).collect());
        let seconds = seconds?;
        let cpu_seconds = machine::cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
        Ok(StepTimes {
            seconds,
            cpu_seconds_per_step: cpu_seconds.map(|seconds| seconds / num_steps as f64),
            launches_per_step: launches.map(|all| all.per(num_steps)),
        })
    }

    /// The upper one of the middle two where their number is even.
    fn median_seconds(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

/// Waits for all work that was given to the device.
fn sync(device: &Device) -> Result<()> {
    device.sync().map_err(|error| error_of_report(&error.to_string()))
}

/// Random numbers that are the same in every process.
fn seeded() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(SEED)
}

/// `len` token ids, uniform over the vocabulary.
fn random_ids(random: &mut ChaCha8Rng, len: usize, vocab_size: usize) -> Vec<u32> {
    (0..len).map(|_| random.next_u32() % vocab_size as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_of_the_steps() {
        let times = StepTimes { seconds: vec![3.0, 1.0, 2.0], cpu_seconds_per_step: None, launches_per_step: None };
        assert_eq!(times.median_seconds(), 2.0);
    }

    #[test]
    fn the_defaults_are_valid_and_what_a_user_sets_wins() {
        let size = Size { pairs: 3, tokens: 2048, steps: 1, requests: Some(2) };
        for workload in [Workload::Train, Workload::Lora, Workload::Generate] {
            let mut config = default_config(workload, &size);
            config.set("train.optimizer=adamw").unwrap();
            config.resolve();
            config.validate().unwrap();
            assert_eq!(config.train.optimizer, OptimizerName::Adamw);
            assert_eq!(config.lora.is_some(), workload == Workload::Lora);
        }
    }
}
