//! Sequences -> log-probs under a model: differentiable for training, plain numbers for scoring.

use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::data::batch::{Batch, Sequence};
use crate::error::{Error, Result};
use crate::model::{CausalLm, weights};

/// Token ids or row numbers as a device holds them.
pub fn int_tensor(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

/// The last hidden states of a batch, before the final norm: `[N, D]`.
pub fn hidden_states(model: &CausalLm, batch: &Batch) -> Tensor<2> {
    let context = model.context(&batch.positions, batch.plan.clone());
    model.hidden(model.embed(int_tensor(&batch.input_ids, &model.device())), &context)
}

/// The response tokens of a batch under a model, differentiable.
pub struct ReadTokens {
    /// `[R, D]`: hidden states after the final norm, at the row before each token.
    pub normed: Tensor<2>,
    /// `[R]`.
    pub targets: Tensor<1, Int>,
    /// `[R]`, nats.
    pub log_probs: Tensor<1>,
}

/// Reads the response tokens of `batch` from its last hidden states `[N, D]`. For `keep_logits` see
/// [`crate::ops::selected_log_probs`].
pub fn read_tokens(model: &CausalLm, hidden: Tensor<2>, batch: &Batch, keep_logits: bool) -> ReadTokens {
    let device = hidden.device();
    let targets = int_tensor(&batch.targets, &device);
    let normed = model.normed(hidden, int_tensor(&batch.rows, &device));
    let log_probs = model.target_log_probs(normed.clone(), targets.clone(), keep_logits);
    ReadTokens { normed, targets, log_probs }
}

/// What helps against weights that give numbers that are not finite.
pub const AGAINST_DIVERGED_WEIGHTS: &str = "its weights have diverged: train it anew with a lower rate";

/// The error of a model (`whose`: `the model`) under which a row has a log-prob that is not finite.
pub fn not_finite(whose: &str, row: usize) -> Error {
    Error::training(format!("{whose} gives row {row}, counted from 0, a log-prob that is not finite"))
        .with_hint(AGAINST_DIVERGED_WEIGHTS)
}

/// The log-prob of a response, nats: the sum of its token log-probs.
pub fn total(token_log_probs: &[f32]) -> f64 {
    token_log_probs.iter().map(|log_prob| f64::from(*log_prob)).sum()
}

/// Sums token log-probs `[R]` over each sequence's response, differentiably and in one fixed order: `[B]`. One that is not
/// finite makes only its own sequence's sum so.
pub fn sum_by_sequence(token_log_probs: Tensor<1>, batch: &Batch) -> Tensor<1> {
    let shape = [batch.num_sequences(), batch.num_response_tokens()];
    let others: Tensor<2, Bool> =
        Tensor::from_data(TensorData::new(batch.belongs_to_others(), shape), &token_log_probs.device());
    // Filled, not multiplied by 0: that would make a NaN everybody's.
    token_log_probs.expand(shape).mask_fill(others, 0.0).sum_dim(1).reshape([batch.num_sequences()])
}

/// Token log-probs (nats) of each sequence's response, without gradients, `batch_size` sequences at a time.
/// `on_done` hears how many more sequences are scored.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails, or what `on_done` returns.
pub fn score(
    model: &CausalLm,
    sequences: &[Sequence<'_>],
    batch_size: usize,
    num_tokens_multiple: usize,
    on_done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<f32>>> {
    let mut scores = vec![Vec::new(); sequences.len()];
    score_passes(model, sequences, batch_size, num_tokens_multiple, &|_| false, &mut |pass| {
        let num_sequences = pass.len();
        pass.into_iter().for_each(|(i, own)| scores[i] = own);
        on_done(num_sequences)
    })?;
    Ok(scores)
}

/// [`score`] for scores that are kept as they come: `on_pass` hears the places and scores of each pass. Which sequences share
/// a pass does not depend on `is_known`, which leaves out only passes of known sequences: what is scored after a stop then
/// has the same last digits as without it.
///
/// # Errors
/// As [`score`].
pub fn score_passes(
    model: &CausalLm,
    sequences: &[Sequence<'_>],
    batch_size: usize,
    num_tokens_multiple: usize,
    is_known: &dyn Fn(usize) -> bool,
    on_pass: &mut dyn FnMut(Vec<(usize, Vec<f32>)>) -> Result<()>,
) -> Result<()> {
    let model = model.valid();
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|i| sequences[*i].prompt_ids.len() + sequences[*i].response_ids.len()); // passes of like size
    for places in order.chunks(batch_size).filter(|places| !places.iter().all(|i| is_known(*i))) {
        let chosen: Vec<Sequence<'_>> = places.iter().map(|i| sequences[*i]).collect();
        let batch = Batch::new(&chosen, num_tokens_multiple);
        let scores = score_batch(&model, &batch)?;
        let mut rest = scores.as_slice();
        let mut next = |len: &usize| {
            let (own, others) = rest.split_at(*len);
            rest = others;
            own.to_vec()
        };
        on_pass(places.iter().copied().zip(batch.response_lens.iter().map(&mut next)).collect())?;
    }
    Ok(())
}

/// `[R]`, nats.
fn score_batch(model: &CausalLm, batch: &Batch) -> Result<Vec<f32>> {
    if batch.num_response_tokens() == 0 {
        return Ok(Vec::new());
    }
    weights::to_host(read_tokens(model, hidden_states(model, batch), batch, false).log_probs)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::device;
    use crate::model::ModelConfig;

    #[test]
    fn a_log_prob_that_is_not_finite_stays_in_its_own_sequence() {
        let sequence = |response_ids| Sequence { prompt_ids: &[1], response_ids };
        let batch = Batch::new(&[sequence(&[2, 3]), sequence(&[4, 5]), sequence(&[6])], 1);
        let device = device::test_device().autodiff();
        let tokens = Tensor::<1>::from_floats([f32::NAN, -1.0, -2.0, -0.5, f32::NEG_INFINITY], &device).require_grad();
        let sums = sum_by_sequence(tokens.clone(), &batch);
        let weights = Tensor::<1>::from_floats([3.0, 5.0, 7.0], &device);
        let gradients = (sums.clone() * weights).sum().backward();
        let sums: Vec<f32> = sums.into_data().try_to_vec().unwrap();
        assert!(sums[0].is_nan(), "{sums:?}");
        assert_eq!(sums[1..], [-2.5, f32::NEG_INFINITY]);
        let gradient: Vec<f32> = tokens.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
        assert_eq!(gradient, [3.0, 3.0, 5.0, 5.0, 7.0]);
    }

    #[test]
    fn passes_of_known_sequences_are_left_out_and_the_others_stay_as_they_are() {
        let config = json!({"model_type": "llama", "vocab_size": 30, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32});
        let config = ModelConfig::from_json(&config, None, Path::new("tiny")).unwrap();
        let model = weights::initialize(&config, 1, &device::test_device()).unwrap();
        let responses: Vec<Vec<u32>> = (1..=6).map(|len| (0..len).map(|i| (7 * i + len) % 30).collect()).collect();
        let sequences: Vec<Sequence<'_>> =
            responses.iter().map(|ids| Sequence { prompt_ids: &[1, 2], response_ids: ids }).collect();
        let all = score(&model, &sequences, 2, 1, &mut |_| Ok(())).unwrap();
        // Passes are (0, 1), (2, 3), (4, 5): the first is known, of the second one sequence.
        let mut passes = Vec::new();
        let is_known = |i: usize| i <= 2;
        score_passes(&model, &sequences, 2, 1, &is_known, &mut |pass| {
            passes.push(pass);
            Ok(())
        })
        .unwrap();
        let expected = |i: usize| (i, all[i].clone());
        assert_eq!(passes, [[expected(2), expected(3)], [expected(4), expected(5)]]);
        assert!(all.iter().zip(&responses).all(|(scores, response)| scores.len() == response.len()));
    }
}
