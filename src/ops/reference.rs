//! The composite bodies on tensors: what the fused operations are compared with, on any device. Arguments and results are those
//! of the functions of the same name in [`super`]. On a graphics card Burn's own fusion works on them.

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};

use super::{AdamW, AttentionLayout, LogProbOptions, MANY_COLUMNS, RmsProp, composite, composite_attention};

pub fn lora_linear(x: Tensor<2>, weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<2> {
    let h = x.clone().matmul(a.transpose());
    let y = x.matmul(weight.transpose());
    let (y, h, b) = (y.into_dispatch(), h.into_dispatch(), b.transpose().into_dispatch());
    Tensor::from_dispatch(composite::add_low_rank::<Dispatch>(y, h, b, scale as f32))
}

pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    Tensor::from_dispatch(composite::rms_norm::<Dispatch>(x.into_dispatch(), weight.into_dispatch(), eps as f32))
}

pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(composite::swiglu::<Dispatch>(gate.into_dispatch(), up.into_dispatch()))
}

pub fn rotary(x: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<2> {
    let (x, cos, sin) = (x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(composite::rotary::<Dispatch>(x, cos, sin))
}

pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, layout: AttentionLayout) -> Tensor<2> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(composite_attention::attention::<Dispatch>(q, k, v, layout).0)
}

pub fn selected_log_probs(h: Tensor<2>, w: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let num_rows = h.dims()[0];
    let (h, w, targets) = (h.into_dispatch(), w.into_dispatch(), targets.into_dispatch());
    let options = LogProbOptions { chunk: MANY_COLUMNS, keep_logits: false, need_dw: false };
    let (both, _) = composite::selected_log_probs::<Dispatch>(h, w, targets, options);
    Tensor::<2>::from_dispatch(both).narrow(1, 0, 1).reshape([num_rows])
}

pub fn adamw(
    [parameter, gradient, mean, mean_square]: [Tensor<1>; 4],
    numbers: AdamW,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let (parameter, mean, mean_square) = composite::adamw::<Dispatch>(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        mean.into_dispatch(),
        mean_square.into_dispatch(),
        numbers,
    );
    (Tensor::from_dispatch(parameter), Tensor::from_dispatch(mean), Tensor::from_dispatch(mean_square))
}

pub fn rmsprop([parameter, gradient, mean_square]: [Tensor<1>; 3], numbers: RmsProp) -> (Tensor<1>, Tensor<1>) {
    let (parameter, mean_square) = composite::rmsprop::<Dispatch>(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        mean_square.into_dispatch(),
        numbers,
    );
    (Tensor::from_dispatch(parameter), Tensor::from_dispatch(mean_square))
}
