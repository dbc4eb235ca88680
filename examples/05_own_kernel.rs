//! 05. A kernel of your own beside its reference.
//!
//! The bernoulli loss of a pair, from the two implicit rewards to one number:
//!
//! ```text
//! loss(u1, u0) = softplus(-u1) + softplus(u0),    softplus(x) = max(x, 0) + log(1 + exp(-|x|))
//! ```
//!
//! An operation is a method of a trait. Its body is the reference, made of the backend's own primitives: it runs on every
//! device and says what is right. A graphics card gets a second body, the same formula as a WGSL shader: one launch
//! instead of a dozen. Both are run on the same numbers and compared. Gradients: see `src/ops/autodiff.rs`.
//!
//! Run with `cargo run --release --example 05_own_kernel`. Next: `06_gguf_to_aligned`.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Device, Tensor};
#[cfg(feature = "wgpu")]
use {
    burn_cubecl::{CubeBackend, kernel::into_contiguous},
    gsil::ops::wgsl::{Buffer, Shader, empty, takes_shaders},
};

/// The operation and its reference. Fusion, which delays work on graphics cards, is told the result's shape in advance.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "wgpu"),
    Fusion: cfg(feature = "wgpu")
)]
pub trait PairOps: Backend {
    /// `softplus(-u1) + softplus(u0)`. All `[B]`.
    #[fusion(dtype = u1, shape = u1)]
    fn pair_loss(u1: FloatTensor<Self>, u0: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::<Self>(u1, u0)
    }
}

fn reference<B: Backend>(u1: FloatTensor<B>, u0: FloatTensor<B>) -> FloatTensor<B> {
    let tail = |x: FloatTensor<B>| B::float_log1p(B::float_exp(B::float_neg(B::float_abs(x))));
    let softplus = |x: FloatTensor<B>| B::float_add(B::float_clamp_min(x.clone(), 0.0.into()), tail(x));
    B::float_add(softplus(B::float_neg(u1)), softplus(u0))
}

// A processor keeps the reference.
#[cfg(feature = "flex")]
impl PairOps for burn::backend::Flex {}

/// Buffers come first, in the order of the launch; then `info`: the grid's width, and the numbers of the launch.
#[cfg(feature = "wgpu")]
static PAIR_LOSS: Shader = Shader::new(
    "pair_loss",
    "
@group(0) @binding(0) var<storage, read_write> u1: array<f32>;     // [B]
@group(0) @binding(1) var<storage, read_write> u0: array<f32>;     // [B]
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;   // [B]
@group(0) @binding(3) var<storage, read> info: array<u32>;         // grid width, B

fn softplus(x: f32) -> f32 { return max(x, 0.0) + log(1.0 + exp(-abs(x))); }

@compute @workgroup_size({{ workgroup }}, 1, 1)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
  let i = (group.x + group.y * info[0]) * {{ workgroup }}u + lane;
  if (i < info[1]) { loss[i] = softplus(-u1[i]) + softplus(u0[i]); }
}",
);

#[cfg(feature = "wgpu")]
impl PairOps for CubeBackend {
    fn pair_loss(u1: FloatTensor<Self>, u0: FloatTensor<Self>) -> FloatTensor<Self> {
        if !takes_shaders(&[&u1, &u0]) {
            return reference::<Self>(u1, u0); // another compiler than WGSL's, or another type than f32
        }
        let (u1, u0) = (into_contiguous(u1), into_contiguous(u0));
        let len = u1.meta.shape().num_elements();
        let loss = empty(&u1, [len]);
        let buffers = [Buffer::Read(&u1), Buffer::Read(&u0), Buffer::Write(&loss)];
        PAIR_LOSS.launch(&[], PAIR_LOSS.num_workgroups(len), &buffers, &[len as u32]);
        loss
    }
}

/// The operation as the rest of a program calls it, on whatever device the tensors are.
pub fn pair_loss(u1: Tensor<1>, u0: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as PairOps>::pair_loss(u1.into_dispatch(), u0.into_dispatch()))
}

fn losses(u: &[(f32, f32)], device: &Device) -> gsil::Result<Vec<f32>> {
    let (u1, u0): (Vec<f32>, Vec<f32>) = u.iter().copied().unzip();
    let tensor = |values: Vec<f32>| Tensor::from_floats(values.as_slice(), device);
    gsil::model::weights::to_host(pair_loss(tensor(u1), tensor(u0)))
}

/// The largest relative error. NaN if there is one: `total_cmp` puts it above every number, where `f64::max` drops it.
pub fn largest_error(actual: &[f32], expected: impl Iterator<Item = f64>) -> f64 {
    let errors = actual.iter().zip(expected).map(|(a, e)| ((f64::from(*a) - e) / e.abs().max(1.0)).abs());
    errors.max_by(f64::total_cmp).unwrap_or(0.0)
}

/// The largest relative errors: of the reference against the formula in f64, and of the kernel, if there is a card, against
/// the reference.
pub fn run() -> gsil::Result<(f64, Option<f64>)> {
    let mut u: Vec<(f32, f32)> = vec![(0.0, 0.0), (1.0, -1.0), (-3.0, 3.0), (88.0, -88.0), (-1e4, 1e4)];
    u.extend((0..995).map(|i| (i as f32 * 0.02 - 10.0, 10.0 - i as f32 * 0.015)));
    let softplus = |x: f32| f64::from(x).max(0.0) + (-f64::from(x).abs()).exp().ln_1p();
    let exact = u.iter().map(|(u1, u0)| softplus(-u1) + softplus(*u0));
    let reference = losses(&u, &gsil::device::open("flex")?)?;
    let reference_error = largest_error(&reference, exact);
    let (card, kernel) = match gsil::device::open("wgpu") {
        Ok(device) => (gsil::device::description("wgpu").unwrap_or_default(), Some(losses(&u, &device)?)),
        Err(error) => (format!("none here: {error}"), None),
    };
    println!("{:>8}{:>8}{:>14}{:>14}", "u1", "u0", "reference", "kernel");
    for (i, (u1, u0)) in u.iter().enumerate().take(5) {
        let kernel = kernel.as_ref().map_or_else(|| "-".to_owned(), |kernel| format!("{:.6}", kernel[i]));
        println!("{u1:>8}{u0:>8}{:>14.6}{kernel:>14}", reference[i]);
    }
    println!("\ngraphics card: {card}");
    println!("reference (flex) against the formula in f64, {} pairs: {reference_error:.1e} at most", u.len());
    let kernel_error = kernel.map(|kernel| largest_error(&kernel, reference.iter().copied().map(f64::from)));
    if let Some(error) = kernel_error {
        println!("kernel against reference: {error:.1e} at most");
    }
    Ok((reference_error, kernel_error))
}

pub fn main() -> gsil::Result<()> {
    run().map(drop)
}
