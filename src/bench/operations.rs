//! Each fused operation of [`crate::ops`] by itself, forward, at the sizes of one training step of this model.

use std::sync::Arc;

use burn::tensor::{Device, Distribution, Int, Tensor};
use serde::Serialize;

use super::peaks::{Peaks, best_seconds};
use super::{Size, matrix_flops, random_ids, seeded};
use crate::device;
use crate::error::Result;
use crate::model::ModelConfig;
use crate::objective::log_probs::int_tensor;
use crate::ops::{self, AttentionLayout, AttentionPlan};

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

    fn time(&mut self, name: &'static str, shapes: String, cost: Cost, work: impl FnMut()) -> Result<()> {
        let seconds = best_seconds(self.device, work)?;
        let (gflops, gb_per_s) = match cost {
            Cost::MatrixFlops(flops) => (Some(flops / seconds / 1e9), None),
            Cost::Numbers(count) => (None, Some(4.0 * count as f64 / seconds / 1e9)),
        };
        let share = |figure: Option<f64>, peak: f64| figure.map(|figure| figure / peak);
        let share_of_peak = share(gflops, self.peaks.matmul_gflops).or(share(gb_per_s, self.peaks.copy_gb_per_s));
        let share_of_peak = share_of_peak.unwrap_or_default();
        self.times.push(OperationTime { name, shapes, seconds, gflops, gb_per_s, share_of_peak });
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
    let (d, inner) = (config.hidden_size, config.intermediate_size);
    let (x, weight) = (bench.random([n, d]), bench.random([inner, d]));
    let flops = 2.0 * (n * d * inner) as f64;
    bench.time("linear", format!("[{n}, {d}] x [{inner}, {d}]"), Cost::MatrixFlops(flops), || {
        drop(ops::linear(x.clone(), weight.clone()));
    })?;
    let (a, b) = (bench.random([LORA_RANK, d]), bench.random([inner, LORA_RANK]));
    let adapted = flops + 2.0 * (n * LORA_RANK * (d + inner)) as f64;
    bench.time("lora_linear", format!("the same, rank {LORA_RANK}"), Cost::MatrixFlops(adapted), || {
        drop(ops::lora_linear(x.clone(), weight.clone(), a.clone(), b.clone(), 2.0));
    })?;
    let norm = bench.random([d]);
    bench.time("rms_norm", format!("[{n}, {d}]"), Cost::Numbers(2 * n * d), || {
        drop(ops::rms_norm(x.clone(), norm.clone(), config.rms_norm_eps));
    })?;
    let (gate, up) = (bench.random([n, inner]), bench.random([n, inner]));
    bench.time("swiglu", format!("[{n}, {inner}]"), Cost::Numbers(3 * n * inner), || {
        drop(ops::swiglu(gate.clone(), up.clone()));
    })
}

/// All sequences side by side, none shared.
fn attention(bench: &mut Bench<'_>, config: &ModelConfig, size: &Size) -> Result<()> {
    let plan = AttentionPlan::separate(&vec![size.tokens; 2 * size.pairs]);
    let (n, q_size, kv_size) = (plan.num_rows(), config.query_size(), config.key_value_size());
    let flops = 4.0 * q_size as f64 * matrix_flops::keys_seen(&plan); // scores and weighted values
    let layout = AttentionLayout { plan: Arc::new(plan), heads: config.heads() };
    let (q, k, v) = (bench.random([n, q_size]), bench.random([n, kv_size]), bench.random([n, kv_size]));
    let shapes = format!("[{n}, {q_size}], {} sequences", 2 * size.pairs);
    bench.time("attention", shapes, Cost::MatrixFlops(flops), || {
        drop(ops::attention(q.clone(), k.clone(), v.clone(), layout.clone()));
    })?;
    let angles = bench.random([n, config.head_dim / 2]);
    bench.time("rotary", format!("[{n}, {q_size}]"), Cost::Numbers(2 * n * q_size), || {
        drop(ops::rotary(q.clone(), angles.clone(), angles.clone()));
    })
}

/// The head on `r` response rows.
fn head(bench: &mut Bench<'_>, config: &ModelConfig, r: usize) -> Result<()> {
    let (d, v) = (config.hidden_size, config.vocab_size);
    let (hidden, weight) = (bench.random([r, d]), bench.random([v, d]));
    let targets: Vec<i32> = random_ids(&mut seeded(), r, v).into_iter().map(|id| id as i32).collect();
    let targets: Tensor<1, Int> = int_tensor(&targets, bench.device);
    let flops = 2.0 * (r * d * v) as f64;
    bench.time("selected_log_probs", format!("[{r}, {d}] x [{v}, {d}]"), Cost::MatrixFlops(flops), || {
        drop(ops::selected_log_probs(hidden.clone(), weight.clone(), targets.clone(), false));
    })
}

/// The gradient's norm, and updates in place: each call owns the tensors and gives them back.
fn optimizers(bench: &mut Bench<'_>) -> Result<()> {
    let n = OPTIMIZER_LEN;
    let gradient = bench.random([n]);
    bench.time("sum_of_squares", format!("[{n}]"), Cost::Numbers(n), || drop(ops::sum_of_squares(gradient.clone())))?;
    let zeros = || Tensor::<1>::zeros([n], bench.device);
    let rmsprop = ops::RmsProp { alpha: 0.99, epsilon: 1e-8, weight_decay: 0.0, lr: 1e-5 };
    let mut state = Some((zeros(), zeros()));
    let mut adamw_state = Some((zeros(), zeros(), zeros()));
    bench.time("rmsprop", format!("[{n}]"), Cost::Numbers(5 * n), || {
        state = state.take().map(|(p, square)| ops::rmsprop(p, gradient.clone(), square, rmsprop));
    })?;
    let adamw =
        ops::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 1.0, step_size: 1e-5, root_correction: 1.0 };
    bench.time("adamw", format!("[{n}]"), Cost::Numbers(7 * n), || {
        adamw_state = adamw_state.take().map(|(p, mean, square)| ops::adamw(p, gradient.clone(), mean, square, adamw));
    })
}
