//! Shaders for graphics cards: everything between matrix products is one launch of a file in `shaders/`, instead of one for each
//! primitive. Vulkan, Metal and DX12 all run them, as long as the runtime compiles WGSL; with its SPIR-V or MSL compiler, and
//! for other number formats than f32, the composite bodies are used.
//!
//! Sums run in a fixed order, and nothing is added atomically: the same inputs give the same bits. Rows beyond one grid's 65,535
//! are spread over its second direction. Tensors are not split: each input and result is one buffer, at most as large as the
//! adapter allows, and has fewer than 2^32 numbers. Only the logits, which nobody sees, are made in chunks that fit.
//!
//! A shader of your own is a [`Shader`] and a launch; `examples/05_own_kernel.rs` shows one from its text to its call.

mod attention;
mod launch;
mod log_probs;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::{AdamW, AttentionLayout, LogProbOptions, ModelOps, RmsProp, composite, composite_attention};
use attention::{Outcome, has_kernel};
pub use launch::{Buffer, Constant, Shader, empty, kernel_name, takes_shaders};

static RMS_NORM: Shader = Shader::new("rms_norm", include_str!("../../shaders/rms_norm.wgsl"));
static RMS_NORM_BACKWARD: Shader =
    Shader::new("rms_norm_backward", include_str!("../../shaders/rms_norm_backward.wgsl"));
static SUM_ROWS: Shader = Shader::new("sum_rows", include_str!("../../shaders/sum_rows.wgsl"));
static SWIGLU: Shader = Shader::new("swiglu", include_str!("../../shaders/swiglu.wgsl"));
static SWIGLU_BACKWARD: Shader = Shader::new("swiglu_backward", include_str!("../../shaders/swiglu_backward.wgsl"));
static ROTARY: Shader = Shader::new("rotary", include_str!("../../shaders/rotary.wgsl"));
static ADD_LOW_RANK: Shader = Shader::new("add_low_rank", include_str!("../../shaders/add_low_rank.wgsl"));
static ADAMW: Shader = Shader::new("adamw", include_str!("../../shaders/adamw.wgsl"));
static RMSPROP: Shader = Shader::new("rmsprop", include_str!("../../shaders/rmsprop.wgsl"));

/// Rows that share a row of partial sums for the normalisation's weight: enough to keep those few, few enough for many
/// workgroups.
const ROWS_PER_SHARE: usize = 16;

/// A tensor to write into: its own memory if nobody else holds it, else a copy.
fn owned(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() { tensor } else { into_contiguous(tensor.copy()) }
}

/// Rows and columns of a matrix.
fn sizes(matrix: &CubeTensor) -> [usize; 2] {
    [matrix.meta.shape()[0], matrix.meta.shape()[1]]
}

fn len(tensor: &CubeTensor) -> usize {
    tensor.meta.shape().num_elements()
}

/// For shaders that treat all numbers alike: the type that a lane works on, and how many of it these numbers are. Four at a time
/// are more than twice as fast on software Vulkan.
fn lanes(num_numbers: usize) -> (Constant, usize) {
    match num_numbers.is_multiple_of(4) {
        true => (("number", "vec4<f32>".to_owned()), num_numbers / 4),
        false => (("number", "f32".to_owned()), num_numbers),
    }
}

impl ModelOps for CubeBackend {
    fn add_low_rank(y: FloatTensor<Self>, h: FloatTensor<Self>, b: FloatTensor<Self>, scale: f32) -> FloatTensor<Self> {
        if !takes_shaders(&[&y, &h, &b]) {
            return composite::add_low_rank::<Self>(y, h, b, scale);
        }
        let (y, h, b) = (owned(y), into_contiguous(h), into_contiguous(b));
        let ([num_rows, size], [_, rank]) = (sizes(&y), sizes(&h));
        let (number, row_len) = lanes(size);
        ADD_LOW_RANK.launch(
            &[number],
            ADD_LOW_RANK.num_workgroups(num_rows * row_len),
            &[Buffer::Update(&y), Buffer::Read(&h), Buffer::Read(&b)],
            &[num_rows as u32, row_len as u32, rank as u32, scale.to_bits()],
        );
        y
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        if !takes_shaders(&[&x, &weight]) {
            return composite::rms_norm::<Self>(x, weight, eps);
        }
        let (x, weight) = (into_contiguous(x), into_contiguous(weight));
        let [num_rows, size] = sizes(&x);
        let y = empty(&x, [num_rows, size]);
        let buffers = [Buffer::Read(&x), Buffer::Read(&weight), Buffer::Write(&y)];
        RMS_NORM.launch(&[], num_rows, &buffers, &[num_rows as u32, size as u32, eps.to_bits()]);
        y
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        g: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !takes_shaders(&[&x, &weight, &g]) {
            return composite::rms_norm_backward::<Self>(x, weight, g, eps);
        }
        let [x, weight, g] = [x, weight, g].map(into_contiguous);
        let [num_rows, size] = sizes(&x);
        let num_shares = num_rows.div_ceil(ROWS_PER_SHARE);
        let (dx, shares, dweight) = (empty(&x, [num_rows, size]), empty(&x, [num_shares, size]), empty(&x, [size]));
        RMS_NORM_BACKWARD.launch(
            &[("rows", ROWS_PER_SHARE.to_string())],
            num_shares,
            &[Buffer::Read(&x), Buffer::Read(&weight), Buffer::Read(&g), Buffer::Write(&dx), Buffer::Write(&shares)],
            &[num_rows as u32, size as u32, eps.to_bits()],
        );
        let buffers = [Buffer::Read(&shares), Buffer::Write(&dweight)];
        SUM_ROWS.launch(&[], SUM_ROWS.num_workgroups(size), &buffers, &[num_shares as u32, size as u32]);
        (dx, dweight)
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        if !takes_shaders(&[&gate, &up]) {
            return composite::swiglu::<Self>(gate, up);
        }
        let (gate, up) = (into_contiguous(gate), into_contiguous(up));
        let y = empty(&gate, sizes(&gate));
        let buffers = [Buffer::Read(&gate), Buffer::Read(&up), Buffer::Write(&y)];
        let (number, count) = lanes(len(&y));
        SWIGLU.launch(&[number], SWIGLU.num_workgroups(count), &buffers, &[count as u32]);
        y
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        g: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !takes_shaders(&[&gate, &up, &g]) {
            return composite::swiglu_backward::<Self>(gate, up, g);
        }
        let [gate, up, g] = [gate, up, g].map(into_contiguous);
        let (dgate, dup) = (empty(&gate, sizes(&gate)), empty(&gate, sizes(&gate)));
        let (number, count) = lanes(len(&gate));
        SWIGLU_BACKWARD.launch(
            &[number],
            SWIGLU_BACKWARD.num_workgroups(count),
            &[Buffer::Read(&gate), Buffer::Read(&up), Buffer::Read(&g), Buffer::Write(&dgate), Buffer::Write(&dup)],
            &[count as u32],
        );
        (dgate, dup)
    }

    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        if !takes_shaders(&[&x, &cos, &sin]) {
            return composite::rotary::<Self>(x, cos, sin);
        }
        let [x, cos, sin] = [x, cos, sin].map(into_contiguous);
        let ([num_rows, size], [_, half]) = (sizes(&x), sizes(&cos));
        let y = empty(&x, [num_rows, size]);
        ROTARY.launch(
            &[],
            ROTARY.num_workgroups(num_rows * size / 2),
            &[Buffer::Read(&x), Buffer::Read(&cos), Buffer::Read(&sin), Buffer::Write(&y)],
            &[num_rows as u32, size as u32, half as u32],
        );
        y
    }

    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: AttentionLayout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !takes_shaders(&[&q, &k, &v]) || !has_kernel(&layout) {
            return composite_attention::attention::<Self>(q, k, v, layout);
        }
        let [q, k, v] = [q, k, v].map(into_contiguous);
        attention::forward([&q, &k, &v], &layout)
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
        if !takes_shaders(&[&q, &k, &v, &out, &log_sum, &g]) || !has_kernel(&layout) {
            return composite_attention::attention_backward::<Self>([q, k, v], [out, log_sum], g, layout);
        }
        let [q, k, v, out, log_sum, g] = [q, k, v, out, log_sum, g].map(into_contiguous);
        attention::backward([&q, &k, &v], Outcome { result: &out, log_sum: &log_sum, g: &g }, &layout)
    }

    fn selected_log_probs(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        options: LogProbOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !takes_shaders(&[&h, &w]) {
            return composite::selected_log_probs::<Self>(h, w, targets, options);
        }
        let no_logits = empty(&h, [1]);
        (log_probs::forward(h, w, targets, options.chunk), no_logits)
    }

    fn selected_log_probs_backward(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        forward: FloatTensor<Self>,
        _logits: FloatTensor<Self>,
        g: FloatTensor<Self>,
        options: LogProbOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !takes_shaders(&[&h, &w, &forward, &g]) {
            return composite::selected_log_probs_backward::<Self>(h, w, targets, forward, g, options);
        }
        log_probs::backward([h, w, targets], [forward, g].map(into_contiguous), options)
    }

    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        mean_square: FloatTensor<Self>,
        numbers: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !takes_shaders(&[&parameter, &gradient, &mean, &mean_square]) {
            return composite::adamw::<Self>(parameter, gradient, mean, mean_square, numbers);
        }
        let gradient = into_contiguous(gradient);
        let [parameter, mean, mean_square] = [parameter, mean, mean_square].map(owned);
        let AdamW { beta1, beta2, epsilon, decay, step_size, root_correction } = numbers;
        let averages = [beta1, 1.0 - beta1, beta2, 1.0 - beta2].map(|share| (share as f32).to_bits());
        let rest = [epsilon, decay, step_size, root_correction].map(f32::to_bits);
        let (number, count) = lanes(len(&parameter));
        ADAMW.launch(
            &[number],
            ADAMW.num_workgroups(count),
            &[Buffer::Update(&parameter), Buffer::Read(&gradient), Buffer::Update(&mean), Buffer::Update(&mean_square)],
            &[&[count as u32], &averages[..], &rest].concat(),
        );
        (parameter, mean, mean_square)
    }

    fn rmsprop(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean_square: FloatTensor<Self>,
        numbers: RmsProp,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !takes_shaders(&[&parameter, &gradient, &mean_square]) {
            return composite::rmsprop::<Self>(parameter, gradient, mean_square, numbers);
        }
        let gradient = into_contiguous(gradient);
        let [parameter, mean_square] = [parameter, mean_square].map(owned);
        let RmsProp { alpha, epsilon, weight_decay, lr } = numbers;
        let numbers = [alpha as f32, (1.0 - alpha) as f32, epsilon, weight_decay, lr].map(f32::to_bits);
        let (number, count) = lanes(len(&parameter));
        RMSPROP.launch(
            &[number],
            RMSPROP.num_workgroups(count),
            &[Buffer::Update(&parameter), Buffer::Read(&gradient), Buffer::Update(&mean_square)],
            &[&[count as u32], &numbers[..]].concat(),
        );
        (parameter, mean_square)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests;
