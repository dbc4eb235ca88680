//! Kernels over rows that the compiler vectorises for the processor at hand.
//!
//! [`run`] executes a [`Kernel`] as compiled for AVX-512, for AVX2 or for the plain instruction set of the target (NEON on
//! Arm), whichever is the best that the processor has. A kernel works on the rows it is given, on one thread; sums run in a
//! fixed order, so that results do not depend on how many threads share the rows.

use super::{AdamW, RmsProp};

/// Work on a block of rows. `run` must be `#[inline(always)]`: only what is inlined into the functions of [`run`] is compiled for
/// their instruction sets. (A closure instead of this trait was tried: the compiler left it outside, and every fused
/// multiply-add became a call.)
pub trait Kernel {
    fn run(self);
}

/// Runs a kernel with the widest instruction set of this processor.
pub fn run(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
        fn with_avx512(kernel: impl Kernel) {
            kernel.run();
        }
        #[target_feature(enable = "avx2,fma")]
        fn with_avx2(kernel: impl Kernel) {
            kernel.run();
        }
        if has_avx512() {
            // SAFETY: the processor has every feature that the function is compiled for, as just asked.
            return unsafe { with_avx512(kernel) };
        }
        if has_avx2() {
            // SAFETY: as above.
            return unsafe { with_avx2(kernel) };
        }
    }
    kernel.run();
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Work built on [`super::tile`]: `R` rows are computed side by side, as many as their sums fit into registers.
pub trait TiledKernel {
    fn run<const R: usize>(self);
}

/// Runs a tiled kernel with the widest instruction set and the tile that fits its registers: eight rows of 32 sums fill 16
/// of AVX-512's 32 registers, two rows 8 of AVX2's 16 or 16 of NEON's 32.
pub fn run_tiled(kernel: impl TiledKernel) {
    struct Tiled<K, const R: usize>(K);
    impl<K: TiledKernel, const R: usize> Kernel for Tiled<K, R> {
        #[inline(always)]
        fn run(self) {
            self.0.run::<R>();
        }
    }
    match has_avx512() {
        true => run(Tiled::<_, 8>(kernel)),
        false => run(Tiled::<_, 2>(kernel)),
    }
}

/// Sums are kept in this many lanes and added up at the end: a fixed order that vectorises.
const LANES: usize = 16;

/// `exp(x)` for x <= 88, within 2 units in the last place; 0 below -87.3. A polynomial, because the library's function is a
/// call for every number.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // exp(x) = 2^n * exp(r) with r = x - n ln 2, |r| <= ln 2 / 2; ln 2 in two parts keeps r exact (Cody and Waite).
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-1.428_606_8e-6, n.mul_add(-0.693_145_75, x));
    // Taylor to degree 7: the first term left out is below 3e-9 of the result.
    let p = r.mul_add(1.0 / 5040.0, 1.0 / 720.0);
    let p = r.mul_add(p, 1.0 / 120.0);
    let p = r.mul_add(p, 1.0 / 24.0);
    let p = r.mul_add(p, 1.0 / 6.0);
    let p = r.mul_add(p, 0.5);
    let p = r.mul_add(p, 1.0);
    let p = r.mul_add(p, 1.0);
    let power = f32::from_bits((((n.max(-126.0) as i32) + 127) << 23) as u32);
    if x < -87.3 { 0.0 } else { p * power }
}

#[inline(always)]
fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    let mut lanes = lanes;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Adds `term(i)` for every index, lane by lane.
#[inline(always)]
pub(super) fn sum_of(len: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = len - len % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    for (lane, i) in (whole..len).enumerate() {
        lanes[lane] += term(i);
    }
    sum_lanes(lanes)
}

#[inline(always)]
pub(super) fn max_of(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let whole = x.chunks_exact(LANES);
    let rest = whole.remainder();
    for chunk in whole {
        for (max, value) in lanes.iter_mut().zip(chunk) {
            *max = if *value > *max { *value } else { *max };
        }
    }
    for (max, value) in lanes.iter_mut().zip(rest) {
        *max = if *value > *max { *value } else { *max };
    }
    lanes.iter().fold(f32::NEG_INFINITY, |max, value| max.max(*value))
}

/// `out = x s w` with `s = 1 / sqrt(mean(x²) + eps)`, for every row of `weight.len()` values.
pub struct RmsNorm<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    #[inline(always)]
    fn run(self) {
        let len = self.weight.len();
        for (out, x) in self.out.chunks_exact_mut(len).zip(self.x.chunks_exact(len)) {
            let scale = inverse_root_mean_square(x, self.eps);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * weight;
            }
        }
    }
}

#[inline(always)]
fn inverse_root_mean_square(x: &[f32], eps: f32) -> f32 {
    (sum_of(x.len(), |i| x[i] * x[i]) / x.len() as f32 + eps).sqrt().recip()
}

/// Gradients of [`RmsNorm`]; `dweight` is added to.
pub struct RmsNormBackward<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub g: &'a [f32],
    pub eps: f32,
    pub dx: &'a mut [f32],
    pub dweight: &'a mut [f32],
}

impl Kernel for RmsNormBackward<'_> {
    #[inline(always)]
    fn run(self) {
        let len = self.weight.len();
        let (weight, dweight) = (self.weight, &mut self.dweight[..len]);
        let rows = self.dx.chunks_exact_mut(len).zip(self.x.chunks_exact(len)).zip(self.g.chunks_exact(len));
        for ((dx, x), g) in rows {
            let scale = inverse_root_mean_square(x, self.eps);
            let along = sum_of(len, |i| g[i] * weight[i] * x[i]) * scale / len as f32;
            for i in 0..len {
                let normal = x[i] * scale;
                dx[i] = scale * (g[i] * weight[i] - normal * along);
                dweight[i] += g[i] * normal;
            }
        }
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    (1.0 + exp((-x).clamp(-87.0, 87.0))).recip()
}

/// `out = silu(gate) up`.
pub struct Swiglu<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for Swiglu<'_> {
    #[inline(always)]
    fn run(self) {
        for ((out, gate), up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = gate * up * sigmoid(*gate);
        }
    }
}

/// Gradients of [`Swiglu`].
pub struct SwigluBackward<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub g: &'a [f32],
    pub dgate: &'a mut [f32],
    pub dup: &'a mut [f32],
}

impl Kernel for SwigluBackward<'_> {
    #[inline(always)]
    fn run(self) {
        let len = self.gate.len();
        let (gate, up, g) = (self.gate, &self.up[..len], &self.g[..len]);
        let (dgate, dup) = (&mut self.dgate[..len], &mut self.dup[..len]);
        for i in 0..len {
            let sigmoid = sigmoid(gate[i]);
            dgate[i] = g[i] * up[i] * sigmoid * (1.0 + gate[i] * (1.0 - sigmoid));
            dup[i] = g[i] * gate[i] * sigmoid;
        }
    }
}

/// `(a, b) -> (a cos - b sin, b cos + a sin)` in place for the halves a and b of every head; `cos` and `sin` have `half`
/// values a row, `x` has `row_len`.
pub struct Rotary<'a> {
    pub x: &'a mut [f32],
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub row_len: usize,
    pub half: usize,
}

impl Kernel for Rotary<'_> {
    #[inline(always)]
    fn run(self) {
        let half = self.half;
        let tables = self.cos.chunks_exact(half).zip(self.sin.chunks_exact(half));
        for (row, (cos, sin)) in self.x.chunks_exact_mut(self.row_len).zip(tables) {
            for head in row.chunks_exact_mut(2 * half) {
                let (first, second) = head.split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (first[i], second[i]);
                    first[i] = a * cos[i] - b * sin[i];
                    second[i] = b * cos[i] + a * sin[i];
                }
            }
        }
    }
}

/// Joins a chunk of one row's logits to its running `(max, sum of exp(z - max))`.
pub struct LogSum<'a> {
    pub logits: &'a [f32],
    pub running: &'a mut (f32, f32),
}

impl Kernel for LogSum<'_> {
    #[inline(always)]
    fn run(self) {
        let (old_max, old_sum) = *self.running;
        let max = max_of(self.logits).max(old_max);
        let sum = sum_of(self.logits.len(), |i| exp(self.logits[i] - max));
        *self.running = (max, old_sum * (old_max - max).exp() + sum);
    }
}

/// `z <- -g exp(z - log_sum)` in place: the gradient of a log-prob by its logits, but for the target's own 1.
pub struct MinusProbability<'a> {
    pub logits: &'a mut [f32],
    pub log_sum: f32,
    pub g: f32,
}

impl Kernel for MinusProbability<'_> {
    #[inline(always)]
    fn run(self) {
        for value in self.logits {
            *value = -self.g * exp(*value - self.log_sum);
        }
    }
}

/// One AdamW update; see [`super::adamw`].
pub struct AdamWUpdate<'a> {
    pub parameter: &'a mut [f32],
    pub gradient: &'a [f32],
    pub mean: &'a mut [f32],
    pub mean_square: &'a mut [f32],
    pub numbers: AdamW,
}

impl Kernel for AdamWUpdate<'_> {
    #[inline(always)]
    fn run(self) {
        let AdamW { beta1, beta2, epsilon, decay, step_size, root_correction } = self.numbers;
        let (keep1, new1) = (beta1 as f32, (1.0 - beta1) as f32);
        let (keep2, new2) = (beta2 as f32, (1.0 - beta2) as f32);
        let len = self.parameter.len();
        let (parameter, gradient) = (self.parameter, &self.gradient[..len]);
        let (mean, mean_square) = (&mut self.mean[..len], &mut self.mean_square[..len]);
        for i in 0..len {
            let g = gradient[i];
            mean[i] = mean[i] * keep1 + g * new1;
            mean_square[i] = mean_square[i] * keep2 + g * g * new2;
            let root = mean_square[i].sqrt() / root_correction + epsilon;
            parameter[i] = parameter[i] * decay - mean[i] / root * step_size;
        }
    }
}

/// One RMSprop update; see [`super::rmsprop`].
pub struct RmsPropUpdate<'a> {
    pub parameter: &'a mut [f32],
    pub gradient: &'a [f32],
    pub mean_square: &'a mut [f32],
    pub numbers: RmsProp,
}

impl Kernel for RmsPropUpdate<'_> {
    #[inline(always)]
    fn run(self) {
        let RmsProp { alpha, epsilon, weight_decay, lr } = self.numbers;
        let (keep, new) = (alpha as f32, (1.0 - alpha) as f32);
        let len = self.parameter.len();
        let (parameter, gradient, mean_square) = (self.parameter, &self.gradient[..len], &mut self.mean_square[..len]);
        for i in 0..len {
            let g = gradient[i] + parameter[i] * weight_decay;
            mean_square[i] = mean_square[i] * keep + g * g * new;
            parameter[i] -= g / (mean_square[i].sqrt() + epsilon) * lr;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_agrees_with_the_librarys_over_its_whole_range() {
        for i in -873_000..=880_000 {
            let x = i as f32 * 1e-4;
            let (ours, library) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / library - 1.0).abs() < 2.5e-7, "exp({x}): {ours} against {library}");
        }
        assert_eq!((exp(-88.0), exp(-1e9), exp(0.0)), (0.0, 0.0, 1.0));
    }

    #[test]
    fn sums_take_every_index_once_at_any_length() {
        for len in [0, 1, 15, 16, 17, 100] {
            assert_eq!(sum_of(len, |i| i as f32), (0..len).map(|i| i as f32).sum::<f32>());
        }
    }
}
