//! Gradients of the operations: what each keeps from its forward pass and what it gives back.

use burn::backend::{
    Autodiff,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use super::ModelOps;

/// `y = x wᵀ`: `dx = g w`, `dw = gᵀ x`. Only what a tracked parent needs is kept and computed, so a frozen weight (LoRA)
/// costs no gradient of its own and keeps no input alive.
#[derive(Debug)]
struct LinearBackward;

impl<B: ModelOps> Backward<B, 2> for LinearBackward {
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let g = grads.consume::<B>(&ops.node); // [N, out]
        let (x, weight) = ops.state;
        if let (Some(node), Some(weight)) = (x_node, weight) {
            grads.register::<B>(node.id, B::float_matmul(g.clone(), weight));
        }
        if let (Some(node), Some(x)) = (weight_node, x) {
            grads.register::<B>(node.id, B::float_matmul(B::float_transpose(g), x));
        }
    }
}

impl<B: ModelOps, C: CheckpointStrategy> ModelOps for Autodiff<B, C> {
    fn linear_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x_tracked, weight_tracked) = (x.is_tracked(), weight.is_tracked());
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        match LinearBackward.prepare::<C>([x_node, weight_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let kept = (weight_tracked.then(|| x.clone()), x_tracked.then(|| weight.clone()));
                prepared.finish(kept, B::linear_rows(x, weight))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::linear_rows(x, weight)),
        }
    }
}
