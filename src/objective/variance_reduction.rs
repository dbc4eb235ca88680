//! Less noise in the self-generated side of a density-ratio loss, with the same expectation.
//!
//! The loss of a self-generated response y is `l0(u)` with `u = scale * sum_i r_i + shift`, `r_i = log pi_theta(y_i | ..) - log
//! pi_t(y_i | ..)`. Since y was drawn from the reference `pi_t`, what one token adds is known on average: over the next token,
//! `E[r_i] = -KL_i`, where `KL_i = KL(pi_t(. | ..) || pi_theta(. | ..))` needs the whole distribution but no luck. So
//!
//! ```text
//! l0(u) - sum_i w_i (r_i + KL_i),    w_i = scale * l0'(scale * sum_{j < i} r_j + shift), a constant
//! ```
//! has the same expectation and the same expected gradient for every theta: each bracket is 0 on average whatever came before
//! it, and `w_i` depends on nothing else. Where the policy still is the reference, its gradient is exactly 0 for every response,
//! not only on average: there plain `l0` gives nothing but noise.
//!
//! The reference's distributions are kept as log-probs of the K likeliest tokens at each place and one bucket for all others,
//! in both the divergence and `r_i` (then called the bucket's log-ratio), so the bracket's average still is 0 exactly. With K the
//! vocabulary's size nothing is lost; with fewer, a response that has a token of the bucket keeps some noise, at the reference
//! too.
//!
//! It holds for responses drawn at temperature 1 from the whole distribution of these very weights (16-bit copies and servers
//! draw from nearly the same one), and where none is left out for what it is: responses dropped because they were cut off
//! (`generation.unfinished`) are such a choice, as they are for the plain loss.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Objective;
use super::log_probs::{ReadTokens, hidden_states, int_tensor};
use crate::data::batch::{Batch, Sequence};
use crate::error::Result;
use crate::model::{CausalLm, weights};

/// Probabilities of "all other tokens" below this count as this much, on both sides: sums in f32 are no more exact.
const MIN_REST: f32 = 1e-6;
/// Rows of logits that exist at a time while the reference's distributions are read.
const ROWS_AT_A_TIME: usize = 64;

/// What is kept of the reference along one response of T tokens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Distributions {
    /// `[T]`: log-probs of the response's own tokens, nats.
    pub log_probs: Vec<f32>,
    /// `[T, K]`, row-major: log-probs of the likeliest tokens, nats; of all tokens in their order, where K is the size of the
    /// vocabulary.
    pub candidate_log_probs: Vec<f32>,
    /// `[T, K]`: which tokens these are; empty if they are all.
    pub candidate_ids: Vec<u32>,
}

impl Distributions {
    /// K.
    pub fn num_candidates(&self) -> usize {
        self.candidate_log_probs.len() / self.log_probs.len().max(1)
    }
}

/// The reference's distributions along one response: the `num_candidates` likeliest tokens at each place, or all there are.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails.
pub fn distributions(
    reference: &CausalLm,
    sequence: Sequence<'_>,
    num_candidates: usize,
    num_tokens_multiple: usize,
) -> Result<Distributions> {
    let reference = reference.valid();
    let device = reference.device();
    let batch = Batch::new(&[sequence], num_tokens_multiple);
    let hidden = hidden_states(&reference, &batch);
    let mut found = Distributions::default();
    for (rows, targets) in batch.rows.chunks(ROWS_AT_A_TIME).zip(batch.targets.chunks(ROWS_AT_A_TIME)) {
        let logits = reference.logits(reference.normed(hidden.clone(), int_tensor(rows, &device)));
        let vocab_size = logits.dims()[1];
        let logits = weights::to_host(logits.reshape([rows.len() * vocab_size]))?;
        let rows: Vec<_> = logits
            .par_chunks(vocab_size)
            .zip(targets)
            .map(|(logits, target)| likeliest(logits, *target as usize, num_candidates.min(vocab_size)))
            .collect();
        for (log_prob, candidates) in rows {
            found.log_probs.push(log_prob);
            found.candidate_log_probs.extend(candidates.iter().map(|(_, log_prob)| *log_prob));
            if num_candidates < vocab_size {
                found.candidate_ids.extend(candidates.iter().map(|(id, _)| *id));
            }
        }
    }
    Ok(found)
}

/// The target's log-prob and the `count` likeliest tokens with theirs, from one row of logits; ties go to the smaller id.
fn likeliest(logits: &[f32], target: usize, count: usize) -> (f32, Vec<(u32, f32)>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let log_sum = max + logits.iter().map(|z| f64::from((z - max).exp())).sum::<f64>().ln() as f32;
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if count < ids.len() {
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        ids.select_nth_unstable_by(count, by_logit);
        ids.truncate(count);
        ids.sort_unstable();
    }
    (logits[target] - log_sum, ids.into_iter().map(|id| (id, logits[id as usize] - log_sum)).collect())
}

/// One self-generated response of a batch and what is known of the reference along it.
pub struct Response<'a> {
    pub token_ids: &'a [u32],
    pub distributions: &'a Distributions,
}

/// `sum_i w_i (r_i + KL_i)` of each of B responses, `[B]`: what [`super::PairLoss::without_noise`] takes out. `tokens` are those
/// of a batch that ends with these responses. `None` if the objective is no density-ratio loss.
pub fn noise(
    objective: &Objective,
    model: &CausalLm,
    tokens: ReadTokens,
    responses: &[Response<'_>],
) -> Option<Tensor<1>> {
    let lens: Vec<usize> = responses.iter().map(|response| response.token_ids.len()).collect();
    let num_tokens: usize = lens.iter().sum();
    let num_candidates = responses.iter().map(|response| response.distributions.num_candidates()).max()?;
    let first = tokens.targets.dims()[0] - num_tokens;
    let of_responses = ReadTokens {
        normed: tokens.normed.narrow(0, first, num_tokens),
        targets: tokens.targets.narrow(0, first, num_tokens),
        log_probs: tokens.log_probs.narrow(0, first, num_tokens),
    };
    let known = Known::new(responses, [num_tokens, num_candidates], &of_responses.log_probs.device());
    let log_ratio = of_responses.log_probs.clone() - known.log_probs.clone();
    let bracket = known.bracket(model, of_responses, log_ratio.clone()); // [R]

    let layout = Layout::new(&lens, &log_ratio.device());
    let log_ratio = layout.spread(log_ratio.inner()); // [B, T], zero behind the end
    let before = log_ratio.clone().cumsum(1) - log_ratio;
    let [num_responses, longest] = before.dims();
    let u = before * objective.scale() + objective.shift();
    let slope = objective.self_generated_slope(u.reshape([num_responses * longest]))?;
    let weight = slope.reshape([num_responses, longest]) * objective.scale();
    Some((layout.spread(bracket) * Tensor::from_inner(weight)).sum_dim(1).reshape([num_responses]))
}

/// The reference's numbers for R tokens of responses, on the device.
struct Known {
    /// `[R]`.
    log_probs: Tensor<1>,
    /// `[R, K]`.
    candidate_log_probs: Tensor<2>,
    /// None if the candidates are all tokens.
    rest: Option<Rest>,
}

/// Where not all tokens are candidates.
struct Rest {
    /// `[R, K]`.
    candidate_ids: Tensor<2, Int>,
    /// `[R]`: 1 where the response's token is none of the candidates.
    is_in_rest: Tensor<1>,
}

impl Known {
    fn new(responses: &[Response<'_>], shape: [usize; 2], device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        let vector = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [shape[0]]), &device);
        let of_all = |of: fn(&Distributions) -> &[f32]| -> Vec<f32> {
            responses.iter().flat_map(|response| of(response.distributions)).copied().collect()
        };
        let ids: Vec<i32> =
            responses.iter().flat_map(|r| &r.distributions.candidate_ids).map(|id| *id as i32).collect();
        let is_outside = |response: &Response<'_>| -> Vec<f32> {
            let candidates = response.distributions.candidate_ids.chunks(shape[1]);
            response.token_ids.iter().zip(candidates).map(|(id, own)| f32::from(u8::from(!own.contains(id)))).collect()
        };
        let rest = (!ids.is_empty()).then(|| Rest {
            candidate_ids: Tensor::from_data(TensorData::new(ids, shape), &device),
            is_in_rest: vector(responses.iter().flat_map(is_outside).collect()),
        });
        let candidate_log_probs = TensorData::new(of_all(|known| &known.candidate_log_probs), shape);
        Known {
            log_probs: vector(of_all(|known| &known.log_probs)),
            candidate_log_probs: Tensor::from_data(candidate_log_probs, &device),
            rest,
        }
    }

    /// `r_i + KL_i` of every token, `[R]`, with all other tokens as one bucket.
    fn bracket(self, model: &CausalLm, tokens: ReadTokens, log_ratio: Tensor<1>) -> Tensor<1> {
        let ReadTokens { normed, targets, log_probs } = tokens;
        let reference = self.candidate_log_probs;
        let Some(Rest { candidate_ids, is_in_rest }) = self.rest else {
            return log_ratio + divergence(reference, activation::log_softmax(model.logits(normed), 1));
        };
        let policy = model.candidate_log_probs(normed, targets, log_probs, candidate_ids);
        let rest_of_reference = rest(reference.clone());
        let rest_log_ratio = rest(policy.clone()).log() - rest_of_reference.clone().log();
        let bucket_log_ratio = log_ratio * (-is_in_rest.clone() + 1.0) + rest_log_ratio.clone() * is_in_rest;
        bucket_log_ratio + divergence(reference, policy) - rest_of_reference * rest_log_ratio
    }
}

/// `sum_c p_c (log p_c - log q_c)` of each row, from log-probs `[R, K]`: `[R]`.
fn divergence(log_p: Tensor<2>, log_q: Tensor<2>) -> Tensor<1> {
    let num_rows = log_p.dims()[0];
    (log_p.clone().exp() * (log_p - log_q)).sum_dim(1).reshape([num_rows])
}

/// The probability of all tokens but the candidates, `[R]` from log-probs `[R, K]`.
fn rest(log_probs: Tensor<2>) -> Tensor<1> {
    let num_rows = log_probs.dims()[0];
    let of_candidates = log_probs.exp().sum_dim(1).reshape([num_rows]);
    (-of_candidates + 1.0).clamp_min(MIN_REST)
}

/// Tokens of responses of different lengths, one after another, as a rectangle.
struct Layout {
    /// `[B * T]`: the token's place, or that of a zero behind the last token.
    places: Tensor<1, Int>,
    shape: [usize; 2],
}

impl Layout {
    fn new(lens: &[usize], device: &Device) -> Self {
        let longest = lens.iter().copied().max().unwrap_or(0).max(1);
        let num_tokens: usize = lens.iter().sum();
        let mut places = Vec::with_capacity(lens.len() * longest);
        let mut start = 0;
        for len in lens {
            places.extend((0..longest).map(|t| if t < *len { start + t } else { num_tokens } as i32));
            start += len;
        }
        Layout { places: int_tensor(&places, device), shape: [lens.len(), longest] }
    }

    /// `[R]` -> `[B, T]`, with zeros behind the end of a response.
    fn spread(&self, values: Tensor<1>) -> Tensor<2> {
        let zero = Tensor::zeros([1], &values.device().without_autodiff());
        let zero = if values.is_autodiff() { Tensor::from_inner(zero) } else { zero };
        Tensor::cat(vec![values, zero], 0).select(0, self.places.clone()).reshape(self.shape)
    }
}

#[cfg(test)]
mod tests;
