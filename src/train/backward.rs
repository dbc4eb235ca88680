//! Gradients of a loss over hidden states: through one graph, or layer by layer to save memory.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{IndexingUpdateOp, Int, Tensor};

use crate::data::batch::Batch;
use crate::model::CausalLm;
use crate::model::causal_lm::Context;
use crate::objective::log_probs::int_tensor;

/// What a backward pass found: gradients of the parameters above the embedding, and that of the embedded tokens `[N, D]`.
struct Found {
    parameters: GradientsParams,
    embedded: Tensor<2>,
}

/// Gradients of every trained parameter, and what `loss` returns beside its scalar.
///
/// `loss` maps the last hidden states `[N, D]` to one number `[1]`. With `activation_checkpointing` only each layer's
/// input is kept in the forward pass and the layer is computed again in the backward pass: about one more forward pass of
/// time for a memory that no longer grows with what a layer computes inside.
pub fn gradients<T>(
    model: &CausalLm,
    batch: &Batch,
    activation_checkpointing: bool,
    loss: impl FnOnce(Tensor<2>) -> (Tensor<1>, T),
) -> (GradientsParams, T) {
    // The embedding stays outside of the graph: its gradient touches few rows, and is added to the head's where both are
    // one matrix, instead of filling a second matrix of that size.
    let ids = int_tensor(&batch.input_ids, &model.device().without_autodiff());
    let embedded = model.valid().embed(ids.clone());
    let context = model.context(&batch.positions, batch.plan.clone());
    let (Found { mut parameters, embedded }, rest) = match activation_checkpointing {
        false => in_one_graph(model, embedded, &context, loss),
        true => by_layer(model, embedded, &context, loss),
    };
    add_embedding_gradient(model, ids, embedded, &mut parameters);
    (parameters, rest)
}

/// Where a graph begins, also with adapters, where no parameter below the first adapter is trained: some graphics backends
/// gave NaN for graphs that begin at frozen values (Burn issue 5162).
fn leaf(x: Tensor<2>) -> Tensor<2> {
    Tensor::from_inner(x).require_grad()
}

fn in_one_graph<T>(
    model: &CausalLm,
    embedded: Tensor<2>,
    context: &Context,
    loss: impl FnOnce(Tensor<2>) -> (Tensor<1>, T),
) -> (Found, T) {
    let input = leaf(embedded);
    let (loss, rest) = loss(model.hidden(input.clone(), context));
    let mut graph = loss.backward();
    let embedded = input.grad_remove(&mut graph).expect("the loss depends on the embedded tokens");
    (Found { parameters: GradientsParams::from_grads(graph, model), embedded }, rest)
}

fn by_layer<T>(
    model: &CausalLm,
    embedded: Tensor<2>,
    context: &Context,
    loss: impl FnOnce(Tensor<2>) -> (Tensor<1>, T),
) -> (Found, T) {
    // Forward without a graph: keep the input of each layer.
    let frozen = model.valid();
    let mut inputs = vec![frozen.add_positions(embedded, context)];
    for layer in &frozen.layers {
        inputs.push(layer.forward(inputs[inputs.len() - 1].clone(), context));
    }
    drop(frozen);

    // The head's graph, then each layer's, from the top down. `gradient` is the loss's, by the boundary's hidden states.
    let mut pop = || leaf(inputs.pop().expect("one input for each layer and one for the head"));
    let mut sum = GradientsAccumulator::new();
    let top = pop();
    let (loss, rest) = loss(top.clone());
    let mut graph = loss.backward();
    let mut gradient = top.grad_remove(&mut graph).expect("the loss depends on the hidden states");
    sum.accumulate(model, GradientsParams::from_module(&mut graph, model));
    for layer in model.layers.iter().rev() {
        let input = pop();
        let output = layer.forward(input.clone(), context);
        let mut graph = (output * Tensor::from_inner(gradient)).sum().backward();
        gradient = input.grad_remove(&mut graph).expect("a layer's output depends on its input");
        sum.accumulate(model, GradientsParams::from_module(&mut graph, layer));
    }
    if let Some(vectors) = &model.embed_positions {
        // Embeddings and learned positions are added: both have the gradient of their sum.
        let placed = model.add_positions(leaf(gradient.zeros_like()), context);
        let mut graph = (placed * Tensor::from_inner(gradient.clone())).sum().backward();
        sum.accumulate(model, GradientsParams::from_module(&mut graph, vectors));
    }
    (Found { parameters: sum.grads(), embedded: gradient }, rest)
}

/// Adds each row of `gradient`, that of the embedded token, to the row of its token. Nothing if the embedding is frozen.
fn add_embedding_gradient(
    model: &CausalLm,
    ids: Tensor<1, Int>,
    gradient: Tensor<2>,
    parameters: &mut GradientsParams,
) {
    let parameter = &model.embed_tokens.weight;
    if !parameter.val().is_require_grad() {
        return;
    }
    let gradient = match model.config().embedding_factor() {
        1.0 => gradient,
        factor => gradient * factor,
    };
    let of_head = parameters.remove::<2>(parameter.id).unwrap_or_else(|| parameter.val().inner().zeros_like());
    parameters.register(parameter.id, of_head.select_assign(0, ids, gradient, IndexingUpdateOp::Add));
}
