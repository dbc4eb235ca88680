//! The reference bodies: each operation and its gradient from a backend's own primitives, on any device.
//!
//! Written to be read beside the equations. The fused kernels are tested against these.

use burn::backend::{
    Backend, TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{IndexingUpdateOp, Shape, Slice};

use super::{AdamW, LogProbOptions, RmsProp};

pub fn add_low_rank<B: Backend>(y: FloatTensor<B>, h: FloatTensor<B>, b: FloatTensor<B>, scale: f32) -> FloatTensor<B> {
    B::float_add(y, B::float_mul_scalar(B::float_matmul(h, b), scale.into()))
}

/// `x / sqrt(mean(x²) + eps)`, and the reciprocal root `[N, 1]`.
fn normalized<B: Backend>(x: FloatTensor<B>, eps: f32) -> (FloatTensor<B>, FloatTensor<B>) {
    let mean_square = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
    let scale = B::float_recip(B::float_sqrt(B::float_add_scalar(mean_square, eps.into())));
    (B::float_mul(x, scale.clone()), scale)
}

fn as_row<B: Backend>(vector: FloatTensor<B>) -> FloatTensor<B> {
    let size = vector.shape()[0];
    B::float_reshape(vector, Shape::new([1, size]))
}

pub fn rms_norm<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, eps: f32) -> FloatTensor<B> {
    B::float_mul(normalized::<B>(x, eps).0, as_row::<B>(weight))
}

/// With `x̂ = x s` and `ĝ = g w`: `dx = s (ĝ - x̂ mean(ĝ x̂))`, `dw = sum over rows of g x̂`.
pub fn rms_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    g: FloatTensor<B>,
    eps: f32,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let size = x.shape()[1];
    let (normal, scale) = normalized::<B>(x, eps);
    let dw = B::float_sum_dim(B::float_mul(g.clone(), normal.clone()), 0);
    let weighted = B::float_mul(g, as_row::<B>(weight));
    let along = B::float_mean_dim(B::float_mul(weighted.clone(), normal.clone()), 1);
    let dx = B::float_mul(scale, B::float_sub(weighted, B::float_mul(normal, along)));
    (dx, B::float_reshape(dw, Shape::new([size])))
}

pub fn swiglu<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(B::float_mul(gate.clone(), B::sigmoid(gate)), up)
}

/// With `s = sigmoid(gate)`: `dgate = g up s (1 + gate (1 - s))`, `dup = g gate s`.
pub fn swiglu_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    g: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let sigmoid = B::sigmoid(gate.clone());
    let silu = B::float_mul(gate.clone(), sigmoid.clone());
    let one_minus = B::float_add_scalar(B::float_neg(sigmoid.clone()), 1f32.into());
    let slope = B::float_mul(sigmoid, B::float_add_scalar(B::float_mul(gate, one_minus), 1f32.into()));
    (B::float_mul(B::float_mul(g.clone(), up), slope), B::float_mul(g, silu))
}

/// `(a, b) -> (a cos - b sin, b cos + a sin)` for the halves a and b of every head.
pub fn rotary<B: Backend>(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>) -> FloatTensor<B> {
    let (num_rows, size, half) = (x.shape()[0], x.shape()[1], cos.shape()[1]);
    let x = B::float_reshape(x, Shape::new([num_rows, size / (2 * half), 2, half]));
    let part =
        |i: usize| B::float_slice(x.clone(), &[Slice::full(), Slice::full(), Slice::from(i..i + 1), Slice::full()]);
    let table = |table: FloatTensor<B>| B::float_reshape(table, Shape::new([num_rows, 1, 1, half]));
    let (first, second, cos, sin) = (part(0), part(1), table(cos), table(sin));
    let turn = |a: &FloatTensor<B>, b: &FloatTensor<B>| {
        (B::float_mul(a.clone(), cos.clone()), B::float_mul(b.clone(), sin.clone()))
    };
    let ((a_cos, b_sin), (b_cos, a_sin)) = (turn(&first, &second), turn(&second, &first));
    let turned = B::float_cat(vec![B::float_sub(a_cos, b_sin), B::float_add(b_cos, a_sin)], 2);
    B::float_reshape(turned, Shape::new([num_rows, size]))
}

/// Rows `start..end` of a matrix.
pub fn rows<B: Backend>(matrix: &FloatTensor<B>, start: usize, end: usize) -> FloatTensor<B> {
    B::float_slice(matrix.clone(), &[Slice::from(start..end), Slice::full()])
}

/// Logits of tokens `start..end`, `[R, end - start]`.
pub fn chunk_logits<B: Backend>(h: &FloatTensor<B>, w: &FloatTensor<B>, start: usize, end: usize) -> FloatTensor<B> {
    B::float_matmul(h.clone(), B::float_transpose(rows::<B>(w, start, end)))
}

/// Vocabulary chunk by chunk with a running maximum and sum, so that `[R, V]` never exists.
pub fn selected_log_probs<B: Backend>(
    h: FloatTensor<B>,
    w: FloatTensor<B>,
    targets: IntTensor<B>,
    options: LogProbOptions,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (num_rows, vocab_size, chunk) = (h.shape()[0], w.shape()[0], options.chunk);
    let mut running: Option<(FloatTensor<B>, FloatTensor<B>)> = None; // maximum and sum of exponentials, [R, 1] each
    for start in (0..vocab_size).step_by(chunk) {
        let z = chunk_logits::<B>(&h, &w, start, (start + chunk).min(vocab_size));
        let max = B::float_max_dim(z.clone(), 1);
        let sum = B::float_sum_dim(B::float_exp(B::float_sub(z, max.clone())), 1);
        running = Some(match running {
            None => (max, sum),
            Some((old_max, old_sum)) => {
                let new_max = B::float_max_dim(B::float_cat(vec![old_max.clone(), max.clone()], 1), 1);
                let rescaled = |sum, max| B::float_mul(sum, B::float_exp(B::float_sub(max, new_max.clone())));
                (new_max.clone(), B::float_add(rescaled(old_sum, old_max), rescaled(sum, max)))
            }
        });
    }
    let (max, sum) = running.expect("a vocabulary has at least one token");
    let log_sum = B::float_add(max, B::float_log(sum));
    let picked = B::float_sum_dim(B::float_mul(h, B::float_select(w, 0, targets)), 1);
    let no_logits = B::float_slice(B::float_reshape(log_sum.clone(), Shape::new([num_rows])), &[Slice::from(0..1)]);
    (B::float_cat(vec![B::float_sub(picked, log_sum.clone()), log_sum], 1), no_logits)
}

/// With `p = softmax(logits)`: `dlogits = g (1[target] - p)`, `dh = dlogits w`, `dw = dlogitsᵀ h`.
pub fn selected_log_probs_backward<B: Backend>(
    h: FloatTensor<B>,
    w: FloatTensor<B>,
    targets: IntTensor<B>,
    forward: FloatTensor<B>,
    g: FloatTensor<B>,
    options: LogProbOptions,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let LogProbOptions { chunk, need_dw, .. } = options;
    let (num_rows, vocab_size) = (h.shape()[0], w.shape()[0]);
    let g = B::float_reshape(g, Shape::new([num_rows, 1]));
    let log_sum = B::float_slice(forward, &[Slice::full(), Slice::from(1..2)]);
    let mut dh = B::float_mul(g.clone(), B::float_select(w.clone(), 0, targets.clone()));
    let mut dw_chunks = Vec::new();
    for start in (0..vocab_size).step_by(chunk) {
        let end = (start + chunk).min(vocab_size);
        let z = chunk_logits::<B>(&h, &w, start, end);
        let minus_gp = B::float_mul(B::float_exp(B::float_sub(z, log_sum.clone())), B::float_neg(g.clone()));
        dh = B::float_add(dh, B::float_matmul(minus_gp.clone(), rows::<B>(&w, start, end)));
        if need_dw {
            dw_chunks.push(B::float_matmul(B::float_transpose(minus_gp), h.clone()));
        }
    }
    let dw = match need_dw {
        true => {
            let of_targets = B::float_mul(g, h);
            B::float_select_assign(B::float_cat(dw_chunks, 0), 0, targets, of_targets, IndexingUpdateOp::Add)
        }
        false => B::float_slice(B::float_reshape(g, Shape::new([num_rows])), &[Slice::from(0..1)]),
    };
    (dh, dw)
}

/// `old * keep + new * (1 - keep)`.
fn moving_average<B: Backend>(old: FloatTensor<B>, new: FloatTensor<B>, keep: f64) -> FloatTensor<B> {
    B::float_add(B::float_mul_scalar(old, keep.into()), B::float_mul_scalar(new, (1.0 - keep).into()))
}

pub fn adamw<B: Backend>(
    parameter: FloatTensor<B>,
    gradient: FloatTensor<B>,
    mean: FloatTensor<B>,
    mean_square: FloatTensor<B>,
    numbers: AdamW,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let AdamW { beta1, beta2, epsilon, decay, step_size, root_correction } = numbers;
    let mean = moving_average::<B>(mean, gradient.clone(), beta1);
    let mean_square = moving_average::<B>(mean_square, B::float_mul(gradient.clone(), gradient), beta2);
    let root = B::float_div_scalar(B::float_sqrt(mean_square.clone()), root_correction.into());
    let step = B::float_div(mean.clone(), B::float_add_scalar(root, epsilon.into()));
    let decayed = B::float_mul_scalar(parameter, decay.into());
    (B::float_sub(decayed, B::float_mul_scalar(step, step_size.into())), mean, mean_square)
}

pub fn rmsprop<B: Backend>(
    parameter: FloatTensor<B>,
    gradient: FloatTensor<B>,
    mean_square: FloatTensor<B>,
    numbers: RmsProp,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let RmsProp { alpha, epsilon, weight_decay, lr } = numbers;
    let gradient = B::float_add(gradient, B::float_mul_scalar(parameter.clone(), weight_decay.into()));
    let mean_square = moving_average::<B>(mean_square, B::float_mul(gradient.clone(), gradient.clone()), alpha);
    let root = B::float_add_scalar(B::float_sqrt(mean_square.clone()), epsilon.into());
    let step = B::float_mul_scalar(B::float_div(gradient, root), lr.into());
    (B::float_sub(parameter, step), mean_square)
}
