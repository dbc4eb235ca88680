//! Fused kernels of the flex backend: matrix products stay Burn's, everything between them is one pass over rows, on all
//! cores. Rows are handed to threads in fixed groups and sums run in fixed order: results do not depend on the number of
//! threads. Other number formats than f32 take the composite bodies.

use burn::backend::{
    Flex, TensorMetadata,
    flex::FlexTensor,
    ops::FloatTensorOps,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, Shape, TensorData};
use rayon::prelude::*;

use super::{
    AdamW, AttentionLayout, LogProbOptions, ModelOps, RmsProp, composite, composite_attention, flex_attention,
    flex_log_probs, flex_matmul, simd,
};

/// Numbers that one task works on: enough to outweigh handing it out, few enough to share among cores.
const NUMBERS_PER_TASK: usize = 1 << 15;

fn is_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The values of a contiguous tensor. Call [`FlexTensor::to_contiguous`] first.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("the tensor was made contiguous")
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// A tensor's values to write into: its own memory if nobody else holds it, else a copy.
fn owned(tensor: FlexTensor) -> (Vec<f32>, Shape) {
    let shape = tensor.shape();
    let values = tensor.into_data().try_into_vec::<f32>().expect("the tensor is f32");
    (values, shape)
}

/// Numbers of whole rows in a task.
fn task_len(row_len: usize) -> usize {
    (NUMBERS_PER_TASK / row_len.max(1)).max(1) * row_len.max(1)
}

impl ModelOps for Flex {
    fn product(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self> {
        let product = match (matrix(&left), matrix(&right)) {
            (Some(left), Some(right)) if flex_matmul::pays(&left, &right) => {
                let shape = [left.num_rows, right.num_columns];
                Some(tensor(flex_matmul::product(left, right), shape))
            }
            _ => None,
        };
        product.unwrap_or_else(|| Self::float_matmul(left, right))
    }

    fn add_low_rank(y: FloatTensor<Self>, h: FloatTensor<Self>, b: FloatTensor<Self>, scale: f32) -> FloatTensor<Self> {
        if !is_f32(&[&y, &h, &b]) {
            return composite::add_low_rank::<Self>(y, h, b, scale);
        }
        let (h, b) = (h.to_contiguous(), b.to_contiguous());
        let (rank, (mut sum, shape)) = (h.shape()[1], owned(y));
        let task = task_len(shape[1]);
        let h_task = task / shape[1] * rank;
        sum.par_chunks_mut(task).zip(values(&h).par_chunks(h_task)).for_each(|(y, h)| {
            simd::run(simd::AddLowRank { y, h, b: values(&b), rank, scale });
        });
        tensor(sum, shape)
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        if !is_f32(&[&x, &weight]) {
            return composite::rms_norm::<Self>(x, weight, eps);
        }
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let (shape, len) = (x.shape(), weight.shape()[0]);
        let mut out = vec![0.0; values(&x).len()];
        let task = task_len(len);
        out.par_chunks_mut(task).zip(values(&x).par_chunks(task)).for_each(|(out, x)| {
            simd::run(simd::RmsNorm { x, weight: values(&weight), eps, out });
        });
        tensor(out, shape)
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        g: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&x, &weight, &g]) {
            return composite::rms_norm_backward::<Self>(x, weight, g, eps);
        }
        let (x, weight, g) = (x.to_contiguous(), weight.to_contiguous(), g.to_contiguous());
        let (shape, len) = (x.shape(), weight.shape()[0]);
        let mut dx = vec![0.0; values(&x).len()];
        let task = task_len(len);
        let partial: Vec<Vec<f32>> = dx
            .par_chunks_mut(task)
            .zip(values(&x).par_chunks(task))
            .zip(values(&g).par_chunks(task))
            .map(|((dx, x), g)| {
                let mut dweight = vec![0.0; len];
                let weight = values(&weight);
                simd::run(simd::RmsNormBackward { x, weight, g, eps, dx, dweight: &mut dweight });
                dweight
            })
            .collect();
        let mut dweight = vec![0.0; len];
        for part in partial {
            dweight.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        (tensor(dx, shape), tensor(dweight, [len]))
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&gate, &up]) {
            return composite::swiglu::<Self>(gate, up);
        }
        let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
        let mut out = vec![0.0; values(&gate).len()];
        out.par_chunks_mut(NUMBERS_PER_TASK)
            .zip(values(&gate).par_chunks(NUMBERS_PER_TASK))
            .zip(values(&up).par_chunks(NUMBERS_PER_TASK))
            .for_each(|((out, gate), up)| simd::run(simd::Swiglu { gate, up, out }));
        tensor(out, gate.shape())
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        g: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&gate, &up, &g]) {
            return composite::swiglu_backward::<Self>(gate, up, g);
        }
        let (gate, up, g) = (gate.to_contiguous(), up.to_contiguous(), g.to_contiguous());
        let size = values(&gate).len();
        let (mut dgate, mut dup) = (vec![0.0; size], vec![0.0; size]);
        dgate
            .par_chunks_mut(NUMBERS_PER_TASK)
            .zip(dup.par_chunks_mut(NUMBERS_PER_TASK))
            .zip(values(&gate).par_chunks(NUMBERS_PER_TASK))
            .zip(values(&up).par_chunks(NUMBERS_PER_TASK))
            .zip(values(&g).par_chunks(NUMBERS_PER_TASK))
            .for_each(|((((dgate, dup), gate), up), g)| {
                simd::run(simd::SwigluBackward { gate, up, g, dgate, dup });
            });
        (tensor(dgate, gate.shape()), tensor(dup, gate.shape()))
    }

    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x, &cos, &sin]) {
            return composite::rotary::<Self>(x, cos, sin);
        }
        let (cos, sin) = (cos.to_contiguous(), sin.to_contiguous());
        let (mut turned, shape) = owned(x);
        let (row_len, half) = (shape[1], cos.shape()[1]);
        let task = task_len(row_len);
        let task_angles = task / row_len * half;
        turned
            .par_chunks_mut(task)
            .zip(values(&cos).par_chunks(task_angles))
            .zip(values(&sin).par_chunks(task_angles))
            .for_each(|((x, cos), sin)| simd::run(simd::Rotary { x, cos, sin, row_len, half }));
        tensor(turned, shape)
    }

    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: AttentionLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&q, &k, &v]) || layout.window.is_some() {
            return composite_attention::attention::<Self>(q, k, v, layout);
        }
        let (q, k, v) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous());
        let (out, log_sums) = flex_attention::forward(matrices(&q, &k, &v), &layout);
        (tensor(out, q.shape()), tensor(log_sums, [layout.plan.num_rows(), layout.heads.num_heads]))
    }

    fn packed_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        log_sum: FloatTensor<Self>,
        g: FloatTensor<Self>,
        layout: AttentionLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&q, &k, &v, &out, &log_sum, &g]) || layout.window.is_some() {
            return composite_attention::attention_backward::<Self>([q, k, v], [out, log_sum], g, layout);
        }
        let [q, k, v, out, log_sum, g] = [q, k, v, out, log_sum, g].map(|tensor| tensor.to_contiguous());
        let outcome = flex_attention::Outcome { out: values(&out), log_sums: values(&log_sum) };
        let (dq, dk, dv) = flex_attention::backward(matrices(&q, &k, &v), outcome, values(&g), &layout);
        (tensor(dq, q.shape()), tensor(dk, k.shape()), tensor(dv, v.shape()))
    }

    fn selected_log_probs(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        options: LogProbOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&h, &w]) {
            return composite::selected_log_probs::<Self>(h, w, targets, options);
        }
        let (h, w, targets) = (h.to_contiguous(), w.to_contiguous(), indices(targets));
        let operands = flex_log_probs::Operands { h: &h, w: &w, targets: &targets };
        let forward = flex_log_probs::forward(&operands, options);
        let num_logits = forward.logits.len();
        (tensor(forward.log_probs, [targets.len(), 2]), tensor(forward.logits, [num_logits]))
    }

    fn selected_log_probs_backward(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        forward: FloatTensor<Self>,
        logits: FloatTensor<Self>,
        g: FloatTensor<Self>,
        options: LogProbOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&h, &w, &forward, &logits, &g]) {
            return composite::selected_log_probs_backward::<Self>(h, w, targets, forward, g, options);
        }
        let (h, w, g, targets) = (h.to_contiguous(), w.to_contiguous(), g.to_contiguous(), indices(targets));
        let operands = flex_log_probs::Operands { h: &h, w: &w, targets: &targets };
        let forward = flex_log_probs::Forward { log_probs: owned(forward).0, logits: owned(logits).0 };
        let (dh, dw) = flex_log_probs::backward(&operands, forward, values(&g), options);
        let dw_shape = if options.need_dw { w.shape() } else { Shape::new([1]) };
        (tensor(dh, h.shape()), tensor(dw, dw_shape))
    }

    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !is_f32(&[&x]) {
            return Self::float_sum(Self::float_mul(x.clone(), x));
        }
        let x = x.to_contiguous();
        let of_task = |x: &[f32]| {
            let mut sum = 0.0;
            simd::run(simd::SumOfSquares { x, sum: &mut sum });
            sum
        };
        let parts: Vec<f32> = values(&x).par_chunks(NUMBERS_PER_TASK).map(of_task).collect();
        tensor(vec![parts.into_iter().map(f64::from).sum::<f64>() as f32], [1])
    }

    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        mean_square: FloatTensor<Self>,
        numbers: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&parameter, &gradient, &mean, &mean_square]) {
            return composite::adamw::<Self>(parameter, gradient, mean, mean_square, numbers);
        }
        let gradient = gradient.to_contiguous();
        let (mut parameter, shape) = owned(parameter);
        let ((mut mean, _), (mut mean_square, _)) = (owned(mean), owned(mean_square));
        parameter
            .par_chunks_mut(NUMBERS_PER_TASK)
            .zip(values(&gradient).par_chunks(NUMBERS_PER_TASK))
            .zip(mean.par_chunks_mut(NUMBERS_PER_TASK))
            .zip(mean_square.par_chunks_mut(NUMBERS_PER_TASK))
            .for_each(|(((parameter, gradient), mean), mean_square)| {
                simd::run(simd::AdamWUpdate { parameter, gradient, mean, mean_square, numbers });
            });
        (tensor(parameter, shape.clone()), tensor(mean, shape.clone()), tensor(mean_square, shape))
    }

    fn rmsprop(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean_square: FloatTensor<Self>,
        numbers: RmsProp,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_f32(&[&parameter, &gradient, &mean_square]) {
            return composite::rmsprop::<Self>(parameter, gradient, mean_square, numbers);
        }
        let gradient = gradient.to_contiguous();
        let ((mut parameter, shape), (mut mean_square, _)) = (owned(parameter), owned(mean_square));
        parameter
            .par_chunks_mut(NUMBERS_PER_TASK)
            .zip(values(&gradient).par_chunks(NUMBERS_PER_TASK))
            .zip(mean_square.par_chunks_mut(NUMBERS_PER_TASK))
            .for_each(|((parameter, gradient), mean_square)| {
                simd::run(simd::RmsPropUpdate { parameter, gradient, mean_square, numbers });
            });
        (tensor(parameter, shape.clone()), tensor(mean_square, shape))
    }
}

/// `out = left right`.
pub(super) fn multiply(left: flex_matmul::Matrix<'_>, right: flex_matmul::Matrix<'_>, out: &mut [f32]) {
    if flex_matmul::pays(&left, &right) {
        return flex_matmul::product_into(left, right, out);
    }
    let copy = |matrix: flex_matmul::Matrix<'_>| match matrix.transposed {
        false => tensor(matrix.values.to_vec(), [matrix.num_rows, matrix.num_columns]),
        true => Flex::float_transpose(tensor(matrix.values.to_vec(), [matrix.num_columns, matrix.num_rows])),
    };
    out.copy_from_slice(values(&Flex::float_matmul(copy(left), copy(right)).to_contiguous()));
}

/// A rank-2 f32 tensor as it lies in memory; None if neither its rows nor its columns are contiguous.
pub(super) fn matrix(tensor: &FlexTensor) -> Option<flex_matmul::Matrix<'_>> {
    let (shape, strides) = (tensor.shape(), tensor.layout().strides());
    let (&[row_stride, column_stride], true) = (strides, is_f32(&[tensor])) else { return None };
    let values = tensor.storage::<f32>().get(tensor.layout().start_offset()..)?;
    let (stride, transposed) = match (row_stride, column_stride) {
        (stride, 1) => (usize::try_from(stride).ok()?, false),
        (1, stride) => (usize::try_from(stride).ok()?, true),
        _ => return None,
    };
    Some(flex_matmul::Matrix { values, num_rows: shape[0], num_columns: shape[1], stride, transposed })
}

fn matrices<'a>(q: &'a FlexTensor, k: &'a FlexTensor, v: &'a FlexTensor) -> flex_attention::Matrices<'a> {
    flex_attention::Matrices { q: values(q), k: values(k), v: values(v) }
}

/// Token ids on the host; flex keeps integers as i32 or i64.
fn indices(ids: IntTensor<Flex>) -> Vec<usize> {
    let ids = ids.to_contiguous();
    match ids.dtype() {
        DType::I32 => ids.as_slice::<i32>().map(|ids| ids.iter().map(|id| *id as usize).collect()),
        _ => ids.as_slice::<i64>().map(|ids| ids.iter().map(|id| *id as usize).collect()),
    }
    .expect("the tensor was made contiguous")
}

#[cfg(test)]
mod tests;
