//! Self-generation: the policy answers prompts. Token ids in, token ids out; no strings.
//!
//! Prompts are decoded in batches of similar length over a key-value cache. Every token's log-prob under the policy is kept:
//! at temperature 1 without truncation these ARE the reference log-probs of the coming training. Next: [`crate::train`].

pub mod sampler;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{CausalLm, KvCache, weights};
use sampler::{Sampler, Sampling, TokenStream};

/// One prompt to answer.
#[derive(Debug, Clone)]
pub struct Request {
    pub prompt_ids: Vec<u32>,
    /// Names the random stream of this answer: the same seed gives the same answer in any batch.
    pub seed: u64,
    /// The longest answer to this prompt, where [`Decoding::max_new_tokens`] allows more.
    pub max_new_tokens: Option<usize>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// With the end-of-turn token, if it came.
    pub token_ids: Vec<u32>,
    /// Log-prob (nats) of each token under the policy itself, whatever the temperature.
    pub token_log_probs: Vec<f32>,
    /// False if the answer was cut at the token limit.
    pub finished: bool,
}

impl Response {
    /// The sum of the token log-probs, nats.
    pub fn log_prob(&self) -> f64 {
        self.token_log_probs.iter().map(|p| f64::from(*p)).sum()
    }
}

/// How to decode.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoding {
    pub sampling: Sampling,
    pub max_new_tokens: usize,
    /// Prompts decoded side by side.
    pub batch_size: usize,
    /// Any of these ends a response.
    pub eos_token_ids: Vec<u32>,
}

/// What [`generate`] tells while it works.
#[derive(Debug)]
pub enum Event {
    /// The request with this index has one more token.
    Token(usize, u32),
    /// The request with this index has its answer.
    Done(usize, Response),
}

/// Answers every request. `on_event` hears of each answer when it is ready, not in the order of the requests; an error from
/// it stops the generation.
///
/// # Errors
/// A prompt that does not fit the model's context together with one new token; a failing device; an error of `on_event`.
pub fn generate(
    model: &CausalLm,
    requests: &[Request],
    decoding: &Decoding,
    on_event: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<()> {
    let model = burn::module::Module::valid(model); // no gradient graph; the weights are shared, not copied
    let context = model.config().max_position_embeddings;
    if let Some(long) = requests.iter().find(|r| r.prompt_ids.is_empty() || r.prompt_ids.len() >= context) {
        let len = long.prompt_ids.len();
        return Err(Error::usage(format!("a prompt of {len} tokens does not fit a context of {context} tokens")));
    }
    for batch in batches(requests, decoding.batch_size) {
        generate_batch(&model, requests, &batch, decoding, on_event)?;
    }
    Ok(())
}

/// The indices of the requests that are decoded side by side: prompts of similar length, the longest first.
///
/// Rounding may differ from batch to batch in the last bits, so an answer is repeated bit for bit only by its whole batch.
/// Some of these batches, put together again, are batched in the same way.
pub fn batches(requests: &[Request], batch_size: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(requests[*i].prompt_ids.len()));
    order.chunks(batch_size).map(<[usize]>::to_vec).collect()
}

/// One sequence being written.
struct Row {
    request: usize,
    stream: TokenStream,
    response: Response,
    max_new_tokens: usize,
    done: bool,
}

fn generate_batch(
    model: &CausalLm,
    requests: &[Request],
    indices: &[usize],
    decoding: &Decoding,
    on_event: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<()> {
    let prompts: Vec<&[u32]> = indices.iter().map(|i| requests[*i].prompt_ids.as_slice()).collect();
    let prompt_lens: Vec<usize> = prompts.iter().map(|p| p.len()).collect();
    let longest = prompt_lens.iter().copied().max().unwrap_or(0);
    let context = model.config().max_position_embeddings;
    let mut rows: Vec<Row> = indices
        .iter()
        .zip(&prompt_lens)
        .map(|(index, len)| Row {
            request: *index,
            stream: TokenStream::new(requests[*index].seed),
            response: Response { token_ids: Vec::new(), token_log_probs: Vec::new(), finished: false },
            max_new_tokens: requests[*index]
                .max_new_tokens
                .map_or(decoding.max_new_tokens, |own| own.min(decoding.max_new_tokens))
                .min(context - len),
            done: false,
        })
        .collect();
    let sampler = Sampler::new(decoding.sampling.clone());
    let capacity = longest + rows.iter().map(|row| row.max_new_tokens).max().unwrap_or(0);
    let mut cache = KvCache::new(model.config(), &prompt_lens, capacity, &model.device());
    let mut input = left_padded(&prompts, longest);
    while rows.iter().any(|row| !row.done) {
        let logits = weights::to_host(model.decode(&input, &mut cache))?; // [B, V]
        input = step(&mut rows, &logits, &sampler, &decoding.eos_token_ids)?;
        for (row, id) in rows.iter_mut().zip(&input).filter(|(row, _)| !row.done) {
            on_event(Event::Token(row.request, *id as u32))?;
            let full = row.response.token_ids.len() >= row.max_new_tokens;
            if row.response.finished || full {
                row.done = true;
                on_event(Event::Done(row.request, row.response.clone()))?;
            }
        }
    }
    Ok(())
}

/// Samples the next token of every row that is not done; done rows repeat token 0, which nobody reads.
fn step(rows: &mut [Row], logits: &[f32], sampler: &Sampler, eos_token_ids: &[u32]) -> Result<Vec<i32>> {
    use rayon::prelude::*;
    let vocab_size = logits.len() / rows.len();
    let sampled: Vec<_> = rows
        .par_iter_mut()
        .zip(logits.par_chunks(vocab_size))
        .map(|(row, logits)| if row.done { Some((0, 0.0)) } else { sampler.sample(logits, &mut row.stream) })
        .collect();
    let mut input = Vec::with_capacity(rows.len());
    for (row, sampled) in rows.iter_mut().zip(sampled) {
        let (id, log_prob) = sampled.ok_or_else(|| {
            Error::training(format!("the model's next-token scores are not finite (prompt {})", row.request))
                .with_hint("the weights have diverged: go back to an earlier checkpoint or a lower train.lr")
        })?;
        if !row.done {
            row.response.token_ids.push(id);
            row.response.token_log_probs.push(log_prob);
            row.response.finished = eos_token_ids.contains(&id);
        }
        input.push(id as i32);
    }
    Ok(input)
}

fn left_padded(prompts: &[&[u32]], len: usize) -> Vec<i32> {
    let mut ids = vec![0; prompts.len() * len];
    for (row, prompt) in ids.chunks_mut(len).zip(prompts) {
        for (slot, id) in row[len - prompt.len()..].iter_mut().zip(*prompt) {
            *slot = *id as i32;
        }
    }
    ids
}
