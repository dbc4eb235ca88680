//! Gradients of the operations: what each keeps from its forward pass and what it gives back.
//!
//! Only what a tracked parent needs is kept and computed, so a frozen weight (LoRA) costs no gradient of its own.

use burn::backend::{
    Autodiff, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{Shape, Slice};

use super::{AttentionLayout, LogProbOptions, ModelOps};

/// `y = x wᵀ`: `dx = g w`, `dw = gᵀ x`.
#[derive(Debug)]
struct LinearBackward;

impl<B: ModelOps> Backward<B, 2> for LinearBackward {
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let g = grads.consume::<B>(&ops.node); // [N, out]
        let (x, weight) = ops.state;
        if let (Some(node), Some(weight)) = (x_node, weight) {
            grads.register::<B>(node.id, B::product(g.clone(), weight));
        }
        if let (Some(node), Some(x)) = (weight_node, x) {
            grads.register::<B>(node.id, B::product(B::float_transpose(g), x));
        }
    }
}

/// `y = x wᵀ + s h bᵀ` with `h = x aᵀ`: `dh = s g b`, `dx = g w + dh a`, `da = dhᵀ x`, `db = s gᵀ h`. h is computed again.
#[derive(Debug)]
struct LoraLinearBackward;

impl<B: ModelOps> Backward<B, 3> for LoraLinearBackward {
    type State = ([FloatTensor<B>; 4], f32);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, a_node, b_node] = ops.parents;
        let g = grads.consume::<B>(&ops.node); // [N, out]
        let ([x, weight, a, b], scale) = ops.state;
        let dh = B::float_mul_scalar(B::product(g.clone(), b), scale.into()); // [N, r]
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::add_low_rank(B::product(g.clone(), weight), dh.clone(), a.clone(), 1.0));
        }
        if let Some(node) = b_node {
            let h = B::product(x.clone(), B::float_transpose(a));
            let db = B::product(B::float_transpose(g), h);
            grads.register::<B>(node.id, B::float_mul_scalar(db, scale.into()));
        }
        if let Some(node) = a_node {
            grads.register::<B>(node.id, B::product(B::float_transpose(dh), x));
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl<B: ModelOps> Backward<B, 2> for RmsNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let g = grads.consume::<B>(&ops.node);
        let (x, weight, eps) = ops.state;
        let (dx, dw) = B::rms_norm_backward(x, weight, g, eps);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, dx);
        }
        if let Some(node) = weight_node {
            grads.register::<B>(node.id, dw);
        }
    }
}

#[derive(Debug)]
struct SwigluBackward;

impl<B: ModelOps> Backward<B, 2> for SwigluBackward {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [gate_node, up_node] = ops.parents;
        let g = grads.consume::<B>(&ops.node);
        let (gate, up) = ops.state;
        let (dgate, dup) = B::swiglu_backward(gate, up, g);
        if let Some(node) = gate_node {
            grads.register::<B>(node.id, dgate);
        }
        if let Some(node) = up_node {
            grads.register::<B>(node.id, dup);
        }
    }
}

/// A turn by the opposite angle; keeps the angles only.
#[derive(Debug)]
struct RotaryBackward;

impl<B: ModelOps> Backward<B, 1> for RotaryBackward {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let g = grads.consume::<B>(&ops.node);
        let (cos, sin) = ops.state;
        if let Some(node) = node {
            grads.register::<B>(node.id, B::rotary(g, cos, B::float_neg(sin)));
        }
    }
}

/// Keeps queries, keys, values, the result and one number for each softmax, not the weights: those are computed again.
#[derive(Debug)]
struct AttentionBackward;

impl<B: ModelOps> Backward<B, 3> for AttentionBackward {
    type State = ([FloatTensor<B>; 5], AttentionLayout);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = grads.consume::<B>(&ops.node);
        let ([q, k, v, out, log_sum], layout) = ops.state;
        let (dq, dk, dv) = B::packed_attention_backward(q, k, v, out, log_sum, g, layout);
        for (node, gradient) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Keeps `[R, 2]`, and the logits if it was asked to.
#[derive(Debug)]
struct SelectedLogProbsBackward;

impl<B: ModelOps> Backward<B, 2> for SelectedLogProbsBackward {
    type State = ([FloatTensor<B>; 4], IntTensor<B>, LogProbOptions);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [h_node, w_node] = ops.parents;
        let g = grads.consume::<B>(&ops.node); // [R, 2]
        let ([h, w, forward, logits], targets, options) = ops.state;
        let num_rows = h.shape()[0];
        let g = B::float_slice(g, &[Slice::full(), Slice::from(0..1)]);
        let g = B::float_reshape(g, Shape::new([num_rows]));
        let (dh, dw) = B::selected_log_probs_backward(h, w, targets, forward, logits, g, options);
        if let Some(node) = h_node {
            grads.register::<B>(node.id, dh);
        }
        if let Some(node) = w_node {
            grads.register::<B>(node.id, dw);
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

    fn lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (a, a_node), (b, b_node)) = (x.into_parts(), a.into_parts(), b.into_parts());
        let weight = weight.into_primitive();
        let y = B::lora_linear(x.clone(), weight.clone(), a.clone(), b.clone(), scale);
        match LoraLinearBackward.prepare::<C>([x_node, a_node, b_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(([x, weight, a, b], scale), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        match RmsNormBackward.prepare::<C>([x_node, weight_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let y = B::rms_norm(x.clone(), weight.clone(), eps);
                prepared.finish((x, weight, eps), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::rms_norm(x, weight, eps)),
        }
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        match SwigluBackward.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let y = B::swiglu(gate.clone(), up.clone());
                prepared.finish((gate, up), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::swiglu(gate, up)),
        }
    }

    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        match RotaryBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((cos.clone(), sin.clone()), B::rotary(x, cos, sin)),
            OpsKind::UnTracked(prepared) => prepared.finish(B::rotary(x, cos, sin)),
        }
    }

    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: AttentionLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let (out, log_sum) = B::packed_attention(q.clone(), k.clone(), v.clone(), layout.clone());
        let tracked = match AttentionBackward.prepare::<C>([q_node, k_node, v_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(([q, k, v, out.clone(), log_sum.clone()], layout), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        };
        (tracked, FloatTensor::<Self>::new(log_sum))
    }

    fn selected_log_probs(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        options: LogProbOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let options = LogProbOptions { need_dw: w.is_tracked(), ..options };
        let ((h, h_node), (w, w_node)) = (h.into_parts(), w.into_parts());
        match SelectedLogProbsBackward.prepare::<C>([h_node, w_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (forward, logits) = B::selected_log_probs(h.clone(), w.clone(), targets.clone(), options);
                let kept = ([h, w, forward.clone(), logits.clone()], targets, options);
                (prepared.finish(kept, forward), FloatTensor::<Self>::new(logits))
            }
            OpsKind::UnTracked(prepared) => {
                let options = LogProbOptions { keep_logits: false, ..options };
                let (forward, logits) = B::selected_log_probs(h, w, targets, options);
                (prepared.finish(forward), FloatTensor::<Self>::new(logits))
            }
        }
    }
}
