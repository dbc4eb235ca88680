//! Training steps and the reference pass, on pairs of random tokens. An objective that trains on demonstrations alone has
//! steps on those, and no reference pass.

use std::time::Instant;

use super::{Size, StepTimes, Timing, matrix_flops, model, random_ids, seeded};
use crate::config::RunConfig;
use crate::data::batch::Sequence;
use crate::device;
use crate::error::{Error, Result};
use crate::model::{CausalLm, ModelConfig};
use crate::objective::{Objective, log_probs};
use crate::train::optimizer::Optimizer;
use crate::train::pairs::{Pair, ScoredResponse};
use crate::train::setup::num_tokens_multiple;
use crate::train::step::Updater;

/// Times updates of all pairs at once (in micro-batches, if the configuration says so), each with the optimizer.
pub(super) fn time(size: &Size, config: &RunConfig, source: &model::Source, device_name: &str) -> Result<Timing> {
    let multiple = num_tokens_multiple(device_name);
    let device = device::open(device_name)?.autodiff();
    let model = source.load(&device)?;
    let objective = Objective::new(&config.objective);
    let has_responses = objective.needs_self_generated();
    let mut pairs = random_pairs(size, model.config().vocab_size, has_responses);
    let scoring_seconds = has_responses.then(|| scoring_seconds(&model, &mut pairs, multiple)).transpose()?;

    let pairs: Vec<&Pair> = pairs.iter().collect();
    let updater = Updater {
        objective: &objective,
        config: &config.train,
        normalizer: objective.normalizer((size.tokens - prompt_len(size)) as f64),
        num_tokens_multiple: multiple,
    };
    let batches = updater.micro_batches(&pairs).map(|pairs| updater.batch(pairs));
    let matrix_flops = |batch| matrix_flops::of_step(model.config(), &batch, config.lora.as_ref());
    let matrix_flops_per_step = batches.map(matrix_flops).sum();
    let mut model = Some(match &config.lora {
        Some(lora) => model.with_adapters(lora.rank, lora.alpha as f64, &lora.target_modules, config.seed),
        None => model,
    });
    let mut optimizer = Optimizer::new(&config.train);
    let lr = config.train.lr.expect("a resolved configuration has a learning rate");
    let steps = StepTimes::measure(size.steps, &device, || {
        let current = model.take().expect("every step that succeeds gives the model back");
        let (updated, _) = updater.update(current, &mut optimizer, &pairs, lr)?;
        model = Some(updated);
        Ok(())
    })?;
    let num_sequences: usize = pairs.iter().map(|pair| pair.responses().count()).sum();
    let tokens_per_step = num_sequences * size.tokens;
    Ok(Timing { tokens_per_step, matrix_flops_per_step, scoring_seconds, steps })
}

/// Refuses sequences that are longer than the model's context.
pub(super) fn check_context(size: &Size, model: &ModelConfig) -> Result<()> {
    let context = model.max_position_embeddings;
    match size.tokens <= context {
        true => Ok(()),
        false => {
            let message = format!("--tokens {}: the model's context has {context} tokens", size.tokens);
            Err(Error::usage(message).with_hint(format!("give --tokens {context}, or fewer")))
        }
    }
}

/// A quarter of each sequence.
fn prompt_len(size: &Size) -> usize {
    size.tokens / 4
}

/// Demonstrations and, if wanted, self-generated responses to the same prompts, all of one length.
fn random_pairs(size: &Size, vocab_size: usize, has_responses: bool) -> Vec<Pair> {
    let mut random = seeded();
    let mut ids = |len: usize| random_ids(&mut random, len, vocab_size);
    let response_len = size.tokens - prompt_len(size);
    let unscored = |token_ids: Vec<u32>| ScoredResponse { token_ids, reference_log_prob: 0.0 };
    let pair = |index: usize| Pair {
        index,
        prompt_ids: ids(prompt_len(size)),
        demonstration: unscored(ids(response_len)),
        self_generated: (0..usize::from(has_responses)).map(|_| unscored(ids(response_len))).collect(),
        distributions: Vec::new(),
    };
    (0..size.pairs).map(pair).collect()
}

/// What the reference pass takes, once memory is touched and kernels are compiled.
fn scoring_seconds(model: &CausalLm, pairs: &mut [Pair], num_tokens_multiple: usize) -> Result<f64> {
    score(model, pairs, num_tokens_multiple)?;
    let started = Instant::now();
    score(model, pairs, num_tokens_multiple)?;
    Ok(started.elapsed().as_secs_f64())
}

/// The reference pass: every response's log-prob under the model as it is.
fn score(model: &CausalLm, pairs: &mut [Pair], num_tokens_multiple: usize) -> Result<()> {
    let sequences = pairs.iter().flat_map(|pair| {
        pair.responses().map(|response| Sequence { prompt_ids: &pair.prompt_ids, response_ids: &response.token_ids })
    });
    let sequences: Vec<Sequence<'_>> = sequences.collect();
    let scores = log_probs::score(model, &sequences, sequences.len(), num_tokens_multiple, &mut |_| Ok(()))?;
    let mut scores = scores.iter().map(|tokens| log_probs::total(tokens));
    let responses =
        pairs.iter_mut().flat_map(|pair| std::iter::once(&mut pair.demonstration).chain(&mut pair.self_generated));
    for response in responses {
        response.reference_log_prob = scores.next().expect("one score for each response");
    }
    Ok(())
}
