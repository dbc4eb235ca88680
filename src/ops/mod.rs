//! Operations that Burn does not have in the form that a language model wants, with their gradients.
//!
//! Each operation is a method of [`ModelOps`] with a second method for its gradient. Their default bodies are the composite
//! reference ([`composite`]), built from a backend's own primitives; a device may replace them by fused kernels (`flex`: CPU
//! loops over rows, in parallel and vectorised; `wgsl`: shaders for graphics cards). What is kept between forward and
//! backward stands in `autodiff`. Beside [`crate::device`], which opens devices, this is the only folder that sees
//! backend internals; the rest of the program calls the plain functions at the end of this file.
//!
//! Decoding on the CPU goes past Burn's tensors: `model::decoder` calls `panels` (packed weights and their products),
//! `blocks` (rows in blocks), `slot_cache` (keys and values) and `team` (threads), all over `lanes` and `simd` (vector
//! instructions). `flex_attention`, `flex_log_probs`, `flex_matmul` and `tile` are parts of `flex`. Next: [`crate::model`].

#![allow(deprecated)] // Burn deprecates ndarray in favour of flex; here it is the independent check of flex.

pub mod attention_plan;
mod autodiff;
#[cfg(feature = "flex")]
pub mod blocks;
pub mod composite;
pub mod composite_attention;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod flex_attention;
#[cfg(feature = "flex")]
mod flex_log_probs;
#[cfg(feature = "flex")]
mod flex_matmul;
#[cfg(feature = "flex")]
pub mod lanes;
pub mod launches;
#[cfg(feature = "flex")]
pub mod panels;
pub mod reference;
#[cfg(feature = "flex")]
pub mod simd;
#[cfg(feature = "flex")]
pub mod slot_cache;
#[cfg(feature = "flex")]
pub mod team;
#[cfg(feature = "flex")]
mod tile;
#[cfg(feature = "wgpu")]
pub mod wgsl;

use burn::backend::{
    Backend, Dispatch, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{Int, Tensor};

use crate::device::is_flex;
pub use attention_plan::{AttentionLayout, AttentionPlan, Heads, Span};

/// Columns of logits that exist at a time in [`selected_log_probs`] where memory counts.
const FEW_COLUMNS: usize = 512;
/// The same where logits are kept anyway, and on graphics cards, which want large products.
const MANY_COLUMNS: usize = 8192;
/// More logits than this are never kept: 256 MiB.
const MAX_KEPT_LOGITS: usize = 64 << 20;
/// Columns of the widest panel of the CPU's kernels.
pub(crate) const MOST_PANEL_COLUMNS: usize = 32;

/// The operations, for every backend that is compiled in. The functions below say what each computes.
#[backend_extension(
    Autodiff,
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cubecl"),
    Fusion: cfg(feature = "cubecl")
)]
pub trait ModelOps: Backend {
    /// The product of two matrices, either of which may be a transposed view.
    #[fusion(default)]
    fn product(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(left, right)
    }

    /// See [`linear`].
    #[fusion(default)]
    fn linear_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::product(x, Self::float_transpose(weight))
    }

    /// `y + scale * h b`, in place where nobody else holds y. `y` `[N, out]`, `h` `[N, r]`, `b` `[r, out]` with a small r.
    #[fusion(dtype = y, shape = y)]
    fn add_low_rank(y: FloatTensor<Self>, h: FloatTensor<Self>, b: FloatTensor<Self>, scale: f32) -> FloatTensor<Self> {
        composite::add_low_rank::<Self>(y, h, b, scale)
    }

    /// See [`lora_linear`].
    #[fusion(default)]
    fn lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        let h = Self::product(x.clone(), Self::float_transpose(a));
        Self::add_low_rank(Self::linear_rows(x, weight), h, Self::float_transpose(b), scale)
    }

    /// See [`rms_norm`].
    #[fusion(dtype = x, shape = x)]
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        composite::rms_norm::<Self>(x, weight, eps)
    }

    /// Gradients of x and weight.
    #[fusion(meta = |x, weight, _g, _eps| (x.clone(), weight.clone()))]
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        g: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composite::rms_norm_backward::<Self>(x, weight, g, eps)
    }

    /// See [`swiglu`].
    #[fusion(dtype = gate, shape = gate)]
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        composite::swiglu::<Self>(gate, up)
    }

    /// Gradients of gate and up.
    #[fusion(meta = |gate, up, _g| (gate.clone(), up.clone()))]
    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        g: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composite::swiglu_backward::<Self>(gate, up, g)
    }

    /// See [`rotary`].
    #[fusion(dtype = x, shape = x)]
    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        composite::rotary::<Self>(x, cos, sin)
    }

    /// See [`attention`]. Beside the result the logarithm of each softmax's sum, `[N, H]`, for the backward pass; only the
    /// result carries a gradient.
    #[fusion(meta = |q, _k, _v, layout| (q.clone(), fused_shapes::log_sum(q, layout)))]
    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: AttentionLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composite_attention::attention::<Self>(q, k, v, layout)
    }

    /// Gradients of q, k and v.
    #[fusion(meta = |q, k, v, _out, _log_sum, _g, _layout| (q.clone(), k.clone(), v.clone()))]
    fn packed_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        log_sum: FloatTensor<Self>,
        g: FloatTensor<Self>,
        layout: AttentionLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composite_attention::attention_backward::<Self>([q, k, v], [out, log_sum], g, layout)
    }

    /// See [`selected_log_probs`]. `[R, 2]`: the log-prob, and the logarithm of the sum of exponentials for the backward
    /// pass; only the first column carries a gradient. And the logits, as the device likes them, where
    /// `options.keep_logits` asks for them and the device keeps them; else `[1]`.
    #[fusion(meta = |h, _w, _targets, _options| fused_shapes::of_log_probs(h))]
    fn selected_log_probs(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        options: LogProbOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composite::selected_log_probs::<Self>(h, w, targets, options)
    }

    /// Gradients of h and w; that of w is `[1]` and meaningless unless `options.need_dw`.
    #[fusion(meta = |h, w, _t, _f, _l, _g, options| (h.clone(), fused_shapes::of_head(w, options.need_dw)))]
    fn selected_log_probs_backward(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        forward: FloatTensor<Self>,
        _logits: FloatTensor<Self>,
        g: FloatTensor<Self>,
        options: LogProbOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composite::selected_log_probs_backward::<Self>(h, w, targets, forward, g, options)
    }

    /// See [`sum_of_squares`].
    #[fusion(default)]
    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_sum(Self::float_mul(x.clone(), x))
    }

    /// See [`adamw`].
    #[fusion(meta = |parameter, _gradient, mean, square, _numbers| (parameter.clone(), mean.clone(), square.clone()))]
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        mean_square: FloatTensor<Self>,
        numbers: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composite::adamw::<Self>(parameter, gradient, mean, mean_square, numbers)
    }

    /// See [`rmsprop`].
    #[fusion(meta = |parameter, _gradient, square, _numbers| (parameter.clone(), square.clone()))]
    fn rmsprop(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean_square: FloatTensor<Self>,
        numbers: RmsProp,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composite::rmsprop::<Self>(parameter, gradient, mean_square, numbers)
    }
}

/// Shapes of results, which Burn's fusion is told in advance and believes without looking.
#[cfg(feature = "cubecl")]
mod fused_shapes {
    use burn::backend::fusion::custom::TensorSpec;
    use burn::tensor::Shape;

    use super::AttentionLayout;

    pub fn log_sum(q: &TensorSpec, layout: &AttentionLayout) -> TensorSpec {
        TensorSpec::new(Shape::new([q.shape[0], layout.heads.num_heads]), q.dtype)
    }

    /// Log-probs with the logarithms of sums, and the placeholder for logits: a card keeps none.
    pub fn of_log_probs(h: &TensorSpec) -> (TensorSpec, TensorSpec) {
        (TensorSpec::new(Shape::new([h.shape[0], 2]), h.dtype), TensorSpec::new(Shape::new([1]), h.dtype))
    }

    /// The gradient of the head's weight, or the placeholder for none.
    pub fn of_head(w: &TensorSpec, need_dw: bool) -> TensorSpec {
        if need_dw { w.clone() } else { TensorSpec::new(Shape::new([1]), w.dtype) }
    }
}

/// How [`ModelOps::selected_log_probs`] goes about its work.
#[derive(Debug, Clone, Copy)]
pub struct LogProbOptions {
    /// Columns of logits that exist at a time.
    pub chunk: usize,
    /// The backward pass is to find the logits there instead of computing them again: `R V` numbers for a tenth of a step.
    pub keep_logits: bool,
    /// w is trained.
    pub need_dw: bool,
}

/// The numbers of one AdamW update.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    pub beta1: f64, // f64, because 1 - beta is rounded only once then, as PyTorch does
    pub beta2: f64,
    pub epsilon: f32,
    /// `1 - lr weight_decay`.
    pub decay: f32,
    /// `lr / (1 - beta1^t)` at update t.
    pub step_size: f32,
    /// `sqrt(1 - beta2^t)`.
    pub root_correction: f32,
}

/// The numbers of one RMSprop update.
#[derive(Debug, Clone, Copy)]
pub struct RmsProp {
    pub alpha: f64,
    pub epsilon: f32,
    pub weight_decay: f32,
    pub lr: f32,
}

#[cfg(feature = "ndarray")]
impl ModelOps for burn::backend::NdArray {}

/// Graphics cards without our shaders: CUDA and ROCm alone.
#[cfg(all(feature = "cubecl", not(feature = "wgpu")))]
impl ModelOps for burn_cubecl::CubeBackend {}

/// `y = x weightᵀ`, with the weight as Hugging Face stores it.
///
/// Rank 2 on purpose: Burn's rank-3 matmul may build a weight gradient for each sequence and sum them afterwards. And the
/// weight's gradient comes out as `gᵀ x`, in the weight's own layout, so that the optimizer reads both in order.
///
/// # Shapes
/// `x` `[N, in]`, `weight` `[out, in]`, result `[N, out]`.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let [_, in_features] = x.dims();
    assert_eq!(in_features, weight.dims()[1], "linear: x is {:?}, weight is {:?}", x.dims(), weight.dims());
    Tensor::from_dispatch(<Dispatch as ModelOps>::linear_rows(x.into_dispatch(), weight.into_dispatch()))
}

/// `y = x weightᵀ + scale (x aᵀ) bᵀ`: a frozen weight and its low-rank update in one pass. The dense matrix `b a` is never
/// built, and the weight gets no gradient.
///
/// # Shapes
/// `x` `[N, in]`, `weight` `[out, in]`, `a` `[r, in]`, `b` `[out, r]`, result `[N, out]`.
pub fn lora_linear(x: Tensor<2>, weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<2> {
    let ([out, in_features], [rank, _]) = (weight.dims(), a.dims());
    assert_eq!(
        (a.dims(), b.dims()),
        ([rank, in_features], [out, rank]),
        "lora_linear: the weight is {:?}",
        weight.dims()
    );
    let (x, weight, a, b) = (x.into_dispatch(), weight.into_dispatch(), a.into_dispatch(), b.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ModelOps>::lora_linear(x, weight, a, b, scale as f32))
}

/// `y = x / sqrt(mean(x²) + eps) * weight`, over the last dimension.
///
/// # Shapes
/// `x` and the result `[N, D]`, `weight` `[D]`.
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    assert_eq!(x.dims()[1], weight.dims()[0], "rms_norm: x is {:?}, weight is {:?}", x.dims(), weight.dims());
    Tensor::from_dispatch(<Dispatch as ModelOps>::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps as f32))
}

/// `silu(gate) * up` with `silu(x) = x sigmoid(x)`.
///
/// # Shapes
/// All `[N, D]`.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: gate and up differ");
    Tensor::from_dispatch(<Dispatch as ModelOps>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// Rotary position embedding, as Hugging Face's `rotate_half`: in every head, dimension i turns together with i + d / 2.
///
/// # Shapes
/// `x` and the result `[N, heads * d]`; `cos` and `sin` `[N, d / 2]`, the angles of each row's position.
pub fn rotary(x: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<2> {
    let ([num_rows, size], [num_angles, half]) = (x.dims(), cos.dims());
    assert!(
        num_rows == num_angles && size.is_multiple_of(2 * half),
        "rotary: x is {:?}, cos {:?}",
        x.dims(),
        cos.dims()
    );
    Tensor::from_dispatch(<Dispatch as ModelOps>::rotary(x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch()))
}

/// Causal attention over packed rows: `softmax(q kᵀ / sqrt(d)) v`, every row over the rows that the plan lets it see.
/// Query heads in groups share a key-value head.
///
/// # Shapes
/// `q` and the result `[N, H * d]`; `k` and `v` `[N, K * d]`; N as the plan says.
pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, layout: AttentionLayout) -> Tensor<2> {
    let (num_rows, heads) = (layout.plan.num_rows(), layout.heads);
    let key_shape = [num_rows, heads.num_key_value_heads * heads.head_dim];
    assert_eq!(q.dims(), [num_rows, heads.num_heads * heads.head_dim], "attention: q does not fit {heads:?}");
    assert_eq!((k.dims(), v.dims()), (key_shape, key_shape), "attention: k or v does not fit {heads:?}");
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ModelOps>::packed_attention(q, k, v, layout).0)
}

/// The sum of the squares of all numbers, `[1]`, without a copy of them where the device can.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as ModelOps>::sum_of_squares(x.into_dispatch()))
}

/// One AdamW update, in place where nobody else holds the tensors:
/// `m <- b1 m + (1 - b1) g`, `v <- b2 v + (1 - b2) g²`, `p <- decay p - step_size m / (sqrt(v) / root_correction + eps)`.
///
/// # Shapes
/// All flat and of one length. Returns p, m, v.
pub fn adamw(
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    mean: Tensor<1>,
    mean_square: Tensor<1>,
    numbers: AdamW,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let (parameter, mean, mean_square) = <Dispatch as ModelOps>::adamw(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        mean.into_dispatch(),
        mean_square.into_dispatch(),
        numbers,
    );
    (Tensor::from_dispatch(parameter), Tensor::from_dispatch(mean), Tensor::from_dispatch(mean_square))
}

/// One RMSprop update, in place where nobody else holds the tensors:
/// `g <- g + weight_decay p`, `v <- alpha v + (1 - alpha) g²`, `p <- p - lr g / (sqrt(v) + eps)`.
///
/// # Shapes
/// All flat and of one length. Returns p and v.
pub fn rmsprop(
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    mean_square: Tensor<1>,
    numbers: RmsProp,
) -> (Tensor<1>, Tensor<1>) {
    let (parameter, mean_square) = <Dispatch as ModelOps>::rmsprop(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        mean_square.into_dispatch(),
        numbers,
    );
    (Tensor::from_dispatch(parameter), Tensor::from_dispatch(mean_square))
}

/// Whether [`selected_log_probs`] keeps all logits where it may: not if they are too many.
pub fn keeps_logits(num_rows: usize, vocab_size: usize) -> bool {
    num_rows.saturating_mul(vocab_size) <= MAX_KEPT_LOGITS
}

/// Columns of logits that [`selected_log_probs`] computes at a time where it keeps none.
pub fn columns_at_a_time(is_flex: bool) -> usize {
    if is_flex { FEW_COLUMNS } else { MANY_COLUMNS }
}

/// Log-probs (nats) of given tokens straight from hidden states: `log softmax(h wᵀ)[target]`.
///
/// With `keep_logits` a device may keep all logits for the backward pass, unless they are too many. Without, a few
/// columns of them exist at a time and are computed a second time in the backward pass: extra memory does not grow with
/// the vocabulary.
///
/// # Shapes
/// `h` `[R, D]`, `w` `[V, D]`, `targets` and the result `[R]`.
pub fn selected_log_probs(h: Tensor<2>, w: Tensor<2>, targets: Tensor<1, Int>, keep_logits: bool) -> Tensor<1> {
    let ([num_rows, size], [vocab_size, _]) = (h.dims(), w.dims());
    assert_eq!(size, w.dims()[1], "selected_log_probs: h is {:?}, w is {:?}", h.dims(), w.dims());
    assert_eq!(num_rows, targets.dims()[0], "selected_log_probs: one target a row");
    let keep_logits = keep_logits && keeps_logits(num_rows, vocab_size);
    let chunk = if keep_logits { MANY_COLUMNS } else { columns_at_a_time(is_flex(&h.device())) };
    let options = LogProbOptions { chunk, keep_logits, need_dw: true };
    let (h, w, targets) = (h.into_dispatch(), w.into_dispatch(), targets.into_dispatch());
    let (both, _) = <Dispatch as ModelOps>::selected_log_probs(h, w, targets, options);
    Tensor::<2>::from_dispatch(both).narrow(1, 0, 1).reshape([num_rows])
}
