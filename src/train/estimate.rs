//! How long a run will take, from the speed of this model on this device; and how much room its folder takes.
//!
//! Two things are timed: a forward pass over a few demonstrations, and a few steps of decoding. A training step counts as
//! three forward passes (four with activation checkpointing); responses are taken to be as long as demonstrations. Rough on purpose:
//! minutes or hours, not seconds.

use std::time::Instant;

use burn::module::Module;

use super::checkpoint;
use super::optimizer::Optimizer;
use crate::config::{RunConfig, TrainConfig};
use crate::data::batch::Sequence;
use crate::data::examples::Example;
use crate::error::Result;
use crate::generate::sampler::Sampling;
use crate::generate::{Decoding, Event, Generator, Request};
use crate::model::CausalLm;
use crate::objective::{Objective, log_probs};

const NUM_DECODED_TOKENS: usize = 8;

/// Seconds that the whole run takes.
///
/// # Errors
/// A failing device.
pub fn estimate_seconds(
    config: &RunConfig,
    model: &CausalLm,
    examples: &[Example],
    num_held_out: usize,
    num_tokens_multiple: usize,
) -> Result<f64> {
    let model = model.valid();
    let num_rows = examples.len() as f64;
    let mean = |len: fn(&Example) -> usize| examples.iter().map(len).sum::<usize>() as f64 / num_rows;
    let sequence_tokens = mean(|example| example.prompt_ids.len() + example.demonstration_ids.len());
    let response_tokens = mean(|example| example.demonstration_ids.len());

    let forward = seconds_per_forward_token(&model, examples, config, num_tokens_multiple)?;
    let decode = seconds_per_decoded_token(&model, examples, config)?;
    let passes = |train: &TrainConfig| if train.activation_checkpointing { 4.0 } else { 3.0 };
    let supervised = |train: &TrainConfig, epochs: f64| epochs * num_rows * sequence_tokens * passes(train) * forward;
    // Passes over the rows; `num_steps` counts batches instead.
    let epochs = |train: &TrainConfig| match train.num_steps {
        Some(num_steps) => (num_steps * train.batch_size) as f64 / num_rows,
        None => train.epochs as f64,
    };

    let one_side = supervised(&config.train, epochs(&config.train));
    let iteration = if Objective::new(&config.objective).needs_self_generated() {
        let samples = config.generation.samples_per_prompt as f64;
        let generating = num_rows * samples * response_tokens * decode;
        generating
            + num_rows * sequence_tokens * forward
            + 2.0 * one_side * if config.train.num_steps.is_some() { 1.0 } else { samples }
    } else {
        one_side
    };
    let mut seconds = config.iterations as f64 * iteration;
    seconds += config.sft.as_ref().map_or(0.0, |sft| supervised(sft, epochs(sft)));
    if config.continued_sft_lr.is_some() {
        seconds += supervised(&config.train, epochs(&config.train) * config.iterations as f64);
    }
    let other_stages = usize::from(config.sft.is_some()) + usize::from(config.continued_sft_lr.is_some());
    let evaluations = 1 + config.iterations + other_stages;
    let answered = num_held_out.min(config.evaluation.generate_rows) as f64;
    let answers = if config.evaluation.sampled { 2.0 } else { 1.0 };
    let evaluation = num_held_out as f64 * sequence_tokens * forward + answers * answered * response_tokens * decode;
    Ok(seconds + evaluations as f64 * evaluation)
}

/// What a run keeps at once: its checkpoints with one more while it is written, the start where it is needed again, the
/// model.
pub fn bytes_of_a_run(config: &RunConfig, model: &CausalLm) -> u64 {
    let optimizer = Optimizer::new(&config.train);
    let checkpoint = checkpoint::num_bytes(model, Some(&optimizer));
    let start = if config.continued_sft_lr.is_some() { checkpoint::num_bytes(model, None) } else { 0 };
    let num_checkpoints = (config.keep_last + config.keep_best + 1) as u64;
    num_checkpoints * checkpoint + start + 4 * model.config().num_parameters() as u64
}

fn seconds_per_forward_token(
    model: &CausalLm,
    examples: &[Example],
    config: &RunConfig,
    num_tokens_multiple: usize,
) -> Result<f64> {
    let batch_size = 2 * config.train.micro_batch_size;
    let sequences: Vec<Sequence<'_>> = examples
        .iter()
        .take(batch_size)
        .map(|example| Sequence { prompt_ids: &example.prompt_ids, response_ids: &example.demonstration_ids })
        .collect();
    let num_tokens: usize = sequences.iter().map(|s| s.prompt_ids.len() + s.response_ids.len()).sum();
    second_time(|| log_probs::score(model, &sequences, batch_size, num_tokens_multiple, &mut |_| Ok(())).map(drop))
        .map(|seconds| seconds / num_tokens as f64)
}

fn seconds_per_decoded_token(model: &CausalLm, examples: &[Example], config: &RunConfig) -> Result<f64> {
    let requests: Vec<Request> = examples
        .iter()
        .take(config.generation.batch_size)
        .map(|example| Request { prompt_ids: example.prompt_ids.clone(), seed: 0, max_new_tokens: None })
        .collect();
    let decoding = Decoding {
        sampling: Sampling::greedy(),
        max_new_tokens: NUM_DECODED_TOKENS,
        batch_size: requests.len(),
        eos_token_ids: Vec::new(),
    };
    let mut generator = Generator::new(model, config.generation.weights)?;
    let mut num_tokens = 0u32;
    let seconds = second_time(|| {
        num_tokens = 0;
        generator.answer(&requests, &decoding, &mut |event| {
            if let Event::Token(..) = event {
                num_tokens += 1;
            }
            Ok(())
        })
    })?;
    Ok(seconds / f64::from(num_tokens.max(1)))
}

/// Seconds of the second call: the first one touches memory and, on a graphics card, compiles.
fn second_time(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}
