//! Greedy self-generation for prompts of random tokens; no end token, so that the amount of work is fixed.
//!
//! Without a number of requests: `NUM_EQUAL` prompts of 32 tokens with 64 new tokens each, side by side. With one: so many
//! prompts of 16 to 128 tokens with 8 to 128 new tokens each, all lengths from a fixed seed. Prefill is part of the time.

use std::ops::RangeInclusive;

use super::{Size, StepTimes, Timing, matrix_flops, model, random_ids, seeded};
use crate::config::{GenerationConfig, RunConfig};
use crate::device;
use crate::error::{Error, Result};
use crate::generate::sampler::Sampling;
use crate::generate::{Decoding, Event, Generator, Request};
use crate::model::ModelConfig;

/// Requests of the equal kind.
const NUM_EQUAL: usize = 8;
const EQUAL_PROMPT: usize = 32;
const EQUAL_NEW: usize = 64;
const MIXED_PROMPT: RangeInclusive<usize> = 16..=128;
const MIXED_NEW: RangeInclusive<usize> = 8..=128;

/// How many prompts are answered.
pub fn num_requests(requests: Option<usize>) -> usize {
    requests.unwrap_or(NUM_EQUAL)
}

/// The most new tokens that a request may ask for.
pub fn longest_response(requests: Option<usize>) -> usize {
    requests.map_or(EQUAL_NEW, |_| *MIXED_NEW.end())
}

/// Times answering all requests.
pub(super) fn time(size: &Size, config: &RunConfig, source: &model::Source, device_name: &str) -> Result<Timing> {
    let device = device::open(device_name)?;
    let model = source.load(&device)?;
    let GenerationConfig { temperature, top_k, top_p, max_new_tokens, batch_size, .. } = config.generation;
    let requests = random_requests(size.requests, model.config().vocab_size);
    let lengths = lengths(size.requests, max_new_tokens);
    let decoding = Decoding {
        sampling: Sampling { temperature, top_k, top_p },
        max_new_tokens,
        batch_size,
        eos_token_ids: Vec::new(),
    };
    let tokens_per_step = lengths.iter().map(|(_, new)| new).sum();
    let mut generator = Generator::new(&model, config.generation.weights)?; // once for all answers, as in an iteration
    let steps = StepTimes::measure(size.steps, &device, || {
        let mut num_new = 0;
        generator.answer(&requests, &decoding, &mut |event| {
            if let Event::Done(_, response) = event {
                num_new += response.token_ids.len();
            }
            Ok(())
        })?;
        assert_eq!(num_new, tokens_per_step, "every response runs to its limit");
        Ok(())
    })?;
    let matrix_flops_per_step = matrix_flops::of_generation(model.config(), &lengths);
    Ok(Timing { tokens_per_step, matrix_flops_per_step, scoring_seconds: None, steps })
}

/// Refuses prompts and responses that are together longer than the model's context.
pub(super) fn check_context(size: &Size, config: &RunConfig, model: &ModelConfig) -> Result<()> {
    let lengths = lengths(size.requests, config.generation.max_new_tokens);
    let longest = lengths.iter().map(|(prompt, new)| prompt + new).max().unwrap_or(0);
    let context = model.max_position_embeddings;
    match longest <= context {
        true => Ok(()),
        false => Err(Error::usage(format!(
            "prompts and responses of {longest} tokens do not fit the model's context of {context} tokens"
        ))),
    }
}

/// Prompt tokens and new tokens of each request.
fn lengths(requests: Option<usize>, max_new_tokens: usize) -> Vec<(usize, usize)> {
    match requests {
        None => vec![(EQUAL_PROMPT, max_new_tokens); NUM_EQUAL],
        Some(count) => {
            mixed_lengths(count).into_iter().map(|(prompt, new)| (prompt, new.min(max_new_tokens))).collect()
        }
    }
}

fn random_requests(requests: Option<usize>, vocab_size: usize) -> Vec<Request> {
    let mut random = seeded();
    let lengths = match requests {
        None => vec![(EQUAL_PROMPT, None); NUM_EQUAL],
        Some(count) => mixed_lengths(count).into_iter().map(|(prompt, new)| (prompt, Some(new))).collect(),
    };
    let request = |(i, (prompt_len, max_new_tokens)): (usize, (usize, Option<usize>))| {
        let prompt_ids = random_ids(&mut random, prompt_len, vocab_size);
        Request { prompt_ids, seed: i as u64, max_new_tokens }
    };
    lengths.into_iter().enumerate().map(request).collect()
}

/// Prompt tokens and new tokens of each request. The generator is Knuth's for MMIX, small enough to be written a second time
/// in `benches/peer.py`, so that both sides have the same work.
fn mixed_lengths(count: usize) -> Vec<(usize, usize)> {
    let mut state = 2024u64;
    let mut within = |range: RangeInclusive<usize>| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        range.start() + (state >> 33) as usize % (range.end() - range.start() + 1)
    };
    (0..count).map(|_| (within(MIXED_PROMPT), within(MIXED_NEW))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_lengths_are_those_of_the_comparison_in_python() {
        // benches/peer.py: mixed_lengths(64)[:3], and the sums of both columns.
        let lengths = mixed_lengths(64);
        assert_eq!(lengths[..3], [(33, 40), (104, 64), (114, 99)]);
        let sums = lengths.iter().fold((0, 0), |sums, length| (sums.0 + length.0, sums.1 + length.1));
        assert_eq!(sums, (5051, 4112));
    }

    #[test]
    fn requests_have_the_lengths_that_they_should() {
        let lengths: Vec<_> =
            random_requests(Some(5), 100).iter().map(|r| (r.prompt_ids.len(), r.max_new_tokens.unwrap())).collect();
        assert_eq!(lengths, mixed_lengths(5));
        let equal = random_requests(None, 100);
        assert!(equal.iter().all(|r| r.prompt_ids.len() == 32 && r.max_new_tokens.is_none()) && equal.len() == 8);
    }
}
