//! What the device can do at most: matrix products and copies, measured, not looked up.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use rayon::prelude::*;
use serde::Serialize;

use super::sync;
use crate::device;
use crate::error::Result;
use crate::ops;

/// Square matrices, small enough for caches to large enough for every thread.
const MATRIX_SIZES: [usize; 3] = [512, 1024, 2048];
/// Numbers that are copied: 128 MiB, beyond any cache.
const COPY_LEN: usize = 32 << 20;
/// A round of repetitions lasts about this long.
const ROUND_SECONDS: f64 = 0.1;
const NUM_ROUNDS: usize = 5;

/// The best that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Peaks {
    /// Matrix products in f32, 10^9 operations a second.
    pub matmul_gflops: f64,
    /// Bytes read plus bytes written, 10^9 a second.
    pub copy_gb_per_s: f64,
}

/// Measures both.
///
/// # Errors
/// A failing device.
pub fn measure(device_name: &str) -> Result<Peaks> {
    let device = device::open(device_name)?;
    Ok(Peaks { matmul_gflops: matmul_gflops(&device)?, copy_gb_per_s: copy_gb_per_s(device_name, &device)? })
}

/// The faster of Burn's matrix product and ours, at the best of the sizes.
fn matmul_gflops(device: &Device) -> Result<f64> {
    let mut best = 0.0f64;
    for size in MATRIX_SIZES {
        let random = || Tensor::<2>::random([size, size], Distribution::Default, device);
        let (x, y) = (random(), random());
        let burn = best_seconds(device, || drop(finish(device, x.clone().matmul(y.clone()))))?;
        let ours = best_seconds(device, || drop(finish(device, ops::linear(x.clone(), y.clone()))))?;
        best = best.max(2.0 * (size as f64).powi(3) / burn.min(ours) / 1e9);
    }
    Ok(best)
}

/// Cards add to a tensor in place, which reads and writes every byte once, as a copy does. Processors do both in buffers of
/// the host on all threads; the faster counts, for a copy may read where it writes.
fn copy_gb_per_s(device_name: &str, device: &Device) -> Result<f64> {
    let bytes = 2.0 * 4.0 * COPY_LEN as f64;
    let seconds = if device::is_card(device_name) {
        let mut x = Some(Tensor::<1>::zeros([COPY_LEN], device));
        best_seconds(device, || x = finish(device, x.take().map(|x| x + 1.0)))?
    } else {
        let (from, mut to) = (vec![1.0f32; COPY_LEN], vec![0.0f32; COPY_LEN]);
        let piece = COPY_LEN.div_ceil(rayon::current_num_threads());
        let copy = best_seconds(device, || {
            to.par_chunks_mut(piece).zip(from.par_chunks(piece)).for_each(|(to, from)| to.copy_from_slice(from));
            std::hint::black_box(&mut to);
        })?;
        let in_place = best_seconds(device, || {
            to.par_chunks_mut(piece).for_each(|to| to.iter_mut().for_each(|x| *x += 1.0));
            std::hint::black_box(&mut to);
        })?;
        copy.min(in_place)
    };
    Ok(bytes / seconds / 1e9)
}

/// Has a result computed, without waiting for it. Burn's fusion would not compute one that is dropped before, and would join
/// one addition or update with the next.
pub(super) fn finish<T>(device: &Device, result: T) -> T {
    let _ = device.flush(); // who waits for the device sees a failure
    result
}

/// Seconds of one call of `work`: the best round's mean. The first call is not timed, because it touches memory and compiles.
pub(super) fn best_seconds(device: &Device, mut work: impl FnMut()) -> Result<f64> {
    let mut round = |repetitions: usize| {
        let started = Instant::now();
        (0..repetitions).for_each(|_| work());
        sync(device)?;
        Ok(started.elapsed().as_secs_f64() / repetitions as f64)
    };
    round(1)?;
    let repetitions = (ROUND_SECONDS / round(1)?).clamp(1.0, 1000.0) as usize;
    let mut best = f64::INFINITY;
    for _ in 0..NUM_ROUNDS {
        best = best.min(round(repetitions)?);
    }
    Ok(best)
}
