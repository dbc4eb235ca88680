//! Each fused operation of [`crate::ops`] by itself, forward, at the sizes of one training step of this model (of pairs with
//! two sequences), beside its composite body ([`crate::ops::reference`]).

use std::sync::Arc;

use burn::tensor::{Device, Distribution, Int, Tensor};
use serde::Serialize;

use super::peaks::{Peaks, best_seconds, finish};
use super::{Size, matrix_flops, random_ids, seeded};
use crate::device;
use crate::error::Result;
use crate::model::ModelConfig;
use crate::objective::log_probs::int_tensor;
use crate::ops::launches::{self, Launches};
use crate::ops::{self, AttentionLayout, AttentionPlan, reference};

/// Numbers that an optimizer updates here: 64 MiB a tensor, beyond any cache.
const OPTIMIZER_LEN: usize = 16 << 20;

/// Of the adapter, the default.
const LORA_RANK: usize = 8;

/// What one operation took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationTime {
    pub name: &'static str,
    /// The shapes it worked on.
    pub shapes: String,
    pub seconds: f64,
    /// 10^9 operations a second, for matrix products.
    pub gflops: Option<f64>,
    /// 10^9 bytes a second, for the rest: every input read once, every result written once.
    pub gb_per_s: Option<f64>,
    /// Of the device's peak in the same unit; above 1 where the data fit a cache.
    pub share_of_peak: f64,
    /// Of the composite body; None for what has none.
    pub composite_seconds: Option<f64>,
    /// Kernels of one call on a graphics card, of the operation and of its composite body.
    pub launches: Option<Launches>,
    pub composite_launches: Option<Launches>,
}

/// What bounds an operation.
enum Cost {
    MatrixFlops(f64),
    /// Numbers of 4 bytes, read or written.
    Numbers(usize),
}

/// Where operations are timed, and what was timed so far.
struct Bench<'a> {
    device: &'a Device,
    peaks: Peaks,
    times: Vec<OperationTime>,
}

impl Bench<'_> {
    fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), self.device)
    }

    fn time(
        &mut self,
        name: &'static str,
        shapes: String,
        cost: Cost,
        mut work: impl FnMut(),
        composite: Option<&mut dyn FnMut()>,
    ) -> Result<()> {
        let seconds = best_seconds(self.device, &mut work)?;
        let launches = launches::count(self.device, work);
        let (composite_seconds, composite_launches) = match composite {
            Some(work) => (Some(best_seconds(self.device, &mut *work)?), launches::count(self.device, work)),
            None => (None, None),
        };
        let (gflops, gb_per_s) = match cost {
            Cost::MatrixFlops(flops) => (Some(flops / seconds / 1e9), None),
            Cost::Numbers(count) => (None, Some(4.0 * count as f64 / seconds / 1e9)),
        };
        let share = |figure: Option<f64>, peak: f64| figure.map(|figure| figure / peak);
        let share_of_peak = share(gflops, self.peaks.matmul_gflops).or(share(gb_per_s, self.peaks.copy_gb_per_s));
        let share_of_peak = share_of_peak.unwrap_or_default();
        self.times.push(OperationTime {
            name,
            shapes,
            seconds,
            gflops,
            gb_per_s,
            share_of_peak,
            composite_seconds,
            launches,
            composite_launches,
        });
        Ok(())
    }
}

/// Times every operation.
///
/// # Errors
/// A failing device.
pub fn measure(device_name: &str, config: &ModelConfig, size: &Size, peaks: Peaks) -> Result<Vec<OperationTime>> {
    let device = device::open(device_name)?;
    let mut bench = Bench { device: &device, peaks, times: Vec::new() };
    rows(&mut bench, config, 2 * size.pairs * size.tokens)?;
    attention(&mut bench, config, size)?;
    head(&mut bench, config, 2 * size.pairs * (size.tokens - size.tokens / 4))?;
    optimizers(&mut bench)?;
    Ok(bench.times)
}

/// What a layer does to each row by itself.
fn rows(bench: &mut Bench<'_>, config: &ModelConfig, n: usize) -> Result<()> {
    let device = bench.device;
    let (d, inner) = (config.hidden_size, config.intermediate_size);
    let (x, weight) = (bench.random([n, d]), bench.random([inner, d]));
    let flops = 2.0 * (n * d * inner) as f64;
    let linear = || drop(finish(device, ops::linear(x.clone(), weight.clone())));
    bench.time("linear", format!("[{n}, {d}] x [{inner}, {d}]"), Cost::MatrixFlops(flops), linear, None)?;
    let (a, b) = (bench.random([LORA_RANK, d]), bench.random([inner, LORA_RANK]));
    let adapted = Cost::MatrixFlops(flops + 2.0 * (n * LORA_RANK * (d + inner)) as f64);
    let fused = || drop(finish(device, ops::lora_linear(x.clone(), weight.clone(), a.clone(), b.clone(), 2.0)));
    let mut composite =
        || drop(finish(device, reference::lora_linear(x.clone(), weight.clone(), a.clone(), b.clone(), 2.0)));
    bench.time("lora_linear", format!("the same, rank {LORA_RANK}"), adapted, fused, Some(&mut composite))?;
    let norm = bench.random([d]);
    let fused = || drop(finish(device, ops::rms_norm(x.clone(), norm.clone(), config.rms_norm_eps)));
    let mut composite = || drop(finish(device, reference::rms_norm(x.clone(), norm.clone(), config.rms_norm_eps)));
    bench.time("rms_norm", format!("[{n}, {d}]"), Cost::Numbers(2 * n * d), fused, Some(&mut composite))?;
    let (gate, up) = (bench.random([n, inner]), bench.random([n, inner]));
    let fused = || drop(finish(device, ops::swiglu(gate.clone(), up.clone())));
    let mut composite = || drop(finish(device, reference::swiglu(gate.clone(), up.clone())));
    bench.time("swiglu", format!("[{n}, {inner}]"), Cost::Numbers(3 * n * inner), fused, Some(&mut composite))
}

/// All sequences side by side, none shared.
fn attention(bench: &mut Bench<'_>, config: &ModelConfig, size: &Size) -> Result<()> {
    let device = bench.device;
    let plan = AttentionPlan::separate(&vec![size.tokens; 2 * size.pairs]);
    let (n, q_size, kv_size) = (plan.num_rows(), config.query_size(), config.key_value_size());
    let flops = 4.0 * q_size as f64 * matrix_flops::keys_seen(&plan); // scores and weighted values
    let layout = AttentionLayout::new(Arc::new(plan), config.heads(), None);
    let (q, k, v) = (bench.random([n, q_size]), bench.random([n, kv_size]), bench.random([n, kv_size]));
    let shapes = format!("[{n}, {q_size}], {} sequences", 2 * size.pairs);
    let fused = || drop(finish(device, ops::attention(q.clone(), k.clone(), v.clone(), layout.clone())));
    let mut composite = || drop(finish(device, reference::attention(q.clone(), k.clone(), v.clone(), layout.clone())));
    bench.time("attention", shapes, Cost::MatrixFlops(flops), fused, Some(&mut composite))?;
    let angles = bench.random([n, config.head_dim / 2]);
    let fused = || drop(finish(device, ops::rotary(q.clone(), angles.clone(), angles.clone())));
    let mut composite = || drop(finish(device, reference::rotary(q.clone(), angles.clone(), angles.clone())));
    bench.time("rotary", format!("[{n}, {q_size}]"), Cost::Numbers(2 * n * q_size), fused, Some(&mut composite))
}

/// The head on `r` response rows.
fn head(bench: &mut Bench<'_>, config: &ModelConfig, r: usize) -> Result<()> {
    let device = bench.device;
    let (d, v) = (config.hidden_size, config.vocab_size);
    let (hidden, weight) = (bench.random([r, d]), bench.random([v, d]));
    let targets: Vec<i32> = random_ids(&mut seeded(), r, v).into_iter().map(|id| id as i32).collect();
    let targets: Tensor<1, Int> = int_tensor(&targets, bench.device);
    let cost = Cost::MatrixFlops(2.0 * (r * d * v) as f64);
    let fused =
        || drop(finish(device, ops::selected_log_probs(hidden.clone(), weight.clone(), targets.clone(), false)));
    let mut composite =
        || drop(finish(device, reference::selected_log_probs(hidden.clone(), weight.clone(), targets.clone())));
    bench.time("selected_log_probs", format!("[{r}, {d}] x [{v}, {d}]"), cost, fused, Some(&mut composite))
}

/// The gradient's norm, and updates in place: each call owns the tensors and gives them back.
fn optimizers(bench: &mut Bench<'_>) -> Result<()> {
    let (n, device) = (OPTIMIZER_LEN, bench.device);
    let gradient = bench.random([n]);
    let squares = || drop(finish(device, ops::sum_of_squares(gradient.clone())));
    bench.time("sum_of_squares", format!("[{n}]"), Cost::Numbers(n), squares, None)?;
    let zeros = || Tensor::<1>::zeros([n], device);
    let rmsprop = ops::RmsProp { alpha: 0.99, epsilon: 1e-8, weight_decay: 0.0, lr: 1e-5 };
    let (mut state, mut other) = (Some((zeros(), zeros())), Some((zeros(), zeros())));
    let fused = || {
        let step = |(p, square)| ops::rmsprop(p, gradient.clone(), square, rmsprop);
        state = finish(device, state.take().map(step));
    };
    let mut composite = || {
        let step = |(p, square)| reference::rmsprop([p, gradient.clone(), square], rmsprop);
        other = finish(device, other.take().map(step));
    };
    bench.time("rmsprop", format!("[{n}]"), Cost::Numbers(5 * n), fused, Some(&mut composite))?;
    let adamw =
        ops::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 1.0, step_size: 1e-5, root_correction: 1.0 };
    let three = || Some((zeros(), zeros(), zeros()));
    let (mut state, mut other) = (three(), three());
    let fused = || {
        let step = |(p, mean, square)| ops::adamw(p, gradient.clone(), mean, square, adamw);
        state = finish(device, state.take().map(step));
    };
    let mut composite = || {
        let step = |(p, mean, square)| reference::adamw([p, gradient.clone(), mean, square], adamw);
        other = finish(device, other.take().map(step));
    };
    bench.time("adamw", format!("[{n}]"), Cost::Numbers(7 * n), fused, Some(&mut composite))
}
