//! Gradients of a loss over hidden states: through one graph, or layer by layer to save memory.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;

use crate::data::batch::Batch;
use crate::model::CausalLm;
use crate::objective::log_probs::int_tensor;

/// Gradients of every trained parameter, and what `loss` returns beside its scalar.
///
/// `loss` maps the last hidden states `[B * T, D]` to one number `[1]`. With `activation_checkpointing` only each layer's
/// input is kept in the forward pass and the layer is computed again in the backward pass: about one more forward pass of
/// time for a memory that no longer grows with what a layer computes inside.
pub fn gradients<T>(
    model: &CausalLm,
    batch: &Batch,
    activation_checkpointing: bool,
    loss: impl FnOnce(Tensor<2>) -> (Tensor<1>, T),
) -> (GradientsParams, T) {
    if activation_checkpointing {
        return gradients_by_layer(model, batch, loss);
    }
    let context = model.context(batch.num_sequences, batch.num_tokens);
    let hidden = model.hidden(int_tensor(&batch.input_ids, &model.device()), &context);
    let (loss, rest) = loss(hidden);
    (GradientsParams::from_grads(loss.backward(), model), rest)
}

fn gradients_by_layer<T>(
    model: &CausalLm,
    batch: &Batch,
    loss: impl FnOnce(Tensor<2>) -> (Tensor<1>, T),
) -> (GradientsParams, T) {
    let device = model.device();
    let context = model.context(batch.num_sequences, batch.num_tokens);
    let ids = int_tensor(&batch.input_ids, &device);

    // Forward without a graph: keep the input of each layer.
    let frozen = model.valid();
    let mut inputs = vec![frozen.embed(ids.clone().inner())];
    for layer in &frozen.layers {
        inputs.push(layer.forward(inputs[inputs.len() - 1].clone(), &context, None));
    }
    drop(frozen);

    // The head's graph, then each layer's, from the top down. `gradient` is the loss's, by the boundary's hidden states.
    let leaf = |x: Tensor<2>| Tensor::from_inner(x).require_grad();
    let mut pop = || leaf(inputs.pop().expect("one input for each layer and one for the head"));
    let mut sum = GradientsAccumulator::new();
    let top = pop();
    let (loss, rest) = loss(top.clone());
    let mut graph = loss.backward();
    let mut gradient = top.grad_remove(&mut graph).expect("the loss depends on the hidden states");
    sum.accumulate(model, GradientsParams::from_module(&mut graph, model));
    for layer in model.layers.iter().rev() {
        let input = pop();
        let output = layer.forward(input.clone(), &context, None);
        let mut graph = (output * Tensor::from_inner(gradient)).sum().backward();
        gradient = input.grad_remove(&mut graph).expect("a layer's output depends on its input");
        sum.accumulate(model, GradientsParams::from_module(&mut graph, layer));
    }
    let embedded = model.embed(ids);
    let mut graph = (embedded * Tensor::from_inner(gradient)).sum().backward();
    sum.accumulate(model, GradientsParams::from_module(&mut graph, &model.embed_tokens));
    (sum.grads(), rest)
}
