//! Sequences -> log-probs under a model: differentiable for training, plain numbers for scoring.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::data::batch::{Batch, Sequence};
use crate::error::Result;
use crate::model::{CausalLm, weights};

/// Token ids or row numbers as a device holds them.
pub fn int_tensor(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
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

/// Sums token log-probs `[R]` over each sequence's response: `[B]`.
pub fn sum_by_sequence(token_log_probs: Tensor<1>, batch: &Batch) -> Tensor<1> {
    let shape = [batch.num_sequences(), batch.num_response_tokens()];
    let device = token_log_probs.device().without_autodiff();
    let membership: Tensor<2> = Tensor::from_data(TensorData::new(batch.membership(), shape), &device);
    (membership * token_log_probs.unsqueeze_dim(0)).sum_dim(1).reshape([batch.num_sequences()])
}

/// Log-prob of each sequence's response, differentiable: the sum of its token log-probs, nats.
///
/// # Shapes
/// `hidden` is `[N, D]`, of this batch; the result is `[B]`. For `keep_logits` see [`crate::ops::selected_log_probs`].
pub fn sequence_log_probs(model: &CausalLm, hidden: Tensor<2>, batch: &Batch, keep_logits: bool) -> Tensor<1> {
    sum_by_sequence(read_tokens(model, hidden, batch, keep_logits).log_probs, batch)
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
    let model = model.valid();
    let device = model.device();
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|i| sequences[*i].prompt_ids.len() + sequences[*i].response_ids.len()); // passes of like size
    let mut scores = vec![Vec::new(); sequences.len()];
    for indices in order.chunks(batch_size) {
        let chosen: Vec<Sequence<'_>> = indices.iter().map(|i| sequences[*i]).collect();
        let batch = Batch::new(&chosen, num_tokens_multiple);
        if batch.num_response_tokens() > 0 {
            let context = model.context(&batch.positions, batch.plan.clone());
            let hidden = model.hidden(model.embed(int_tensor(&batch.input_ids, &device)), &context);
            let (rows, targets) = (int_tensor(&batch.rows, &device), int_tensor(&batch.targets, &device));
            let values = weights::to_host(model.token_log_probs(hidden, rows, targets, false))?;
            let mut rest = values.as_slice();
            for (i, len) in indices.iter().zip(&batch.response_lens) {
                let (own, others) = rest.split_at(*len);
                scores[*i] = own.to_vec();
                rest = others;
            }
        }
        on_done(indices.len())?;
    }
    Ok(scores)
}
