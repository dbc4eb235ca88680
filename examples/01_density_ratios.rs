//! 01. A classifier finds the density ratio.
//!
//! Draw numbers x from two densities: p (the demonstrations) and q (what the model says itself). Give the classifier a
//! logit u(x) and let it minimise, over samples alone,
//!
//! ```text
//! L(u) = mean over x ~ p of l1(u(x))  +  mean over x ~ q of l0(u(x))
//! ```
//!
//! For the losses that come from a convex function (bernoulli, brier, kliep, lsif, bregman_power) the best u is
//! `log p(x) / q(x)`: what nobody can compute for language is learned from examples of both sides. The margin loss
//! `hinge` is not one of them: its u goes to +1 or -1 and tells only which density is larger. `spin` compares pairs and
//! finds the ratio up to a constant; `sft` and `simper` look at no ratio at all. GSIL is this classifier with one
//! change: u is no free function but `log policy(x) / reference(x)`. Where that u is best, the policy has become p.
//!
//! Run with `cargo run --release --example 01_density_ratios [FILE.svg]`. Next: `02_losses`.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use gsil::objective::DensityRatioLoss;
use gsil::objective::density_ratio::{Bernoulli, BregmanPower, Brier, Hinge, Kliep, Lsif};
use gsil::ops::{self, AdamW};
use gsil::report::plot::{self, Plot};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Mean and standard deviation.
const P: (f64, f64) = (1.0, 0.8);
const Q: (f64, f64) = (0.0, 1.25);
const NUM_SAMPLES: usize = 200_000;
/// Samples are counted in cells around -3, -2.75, .. 3; u is a table with a free value for each of them.
const NUM_CELLS: usize = 25;
const NUM_UPDATES: i32 = 1000;

/// Where results are judged: for x from -1 to 2.5 both sides have many samples.
pub const JUDGED: std::ops::RangeInclusive<usize> = 8..=22;

pub fn middle(cell: usize) -> f64 {
    -3.0 + 0.25 * cell as f64
}

pub fn log_ratio(x: f64) -> f64 {
    let log_density = |(mean, deviation): (f64, f64)| -0.5 * ((x - mean) / deviation).powi(2) - deviation.ln();
    log_density(P) - log_density(Q) // the common constant cancels
}

/// The largest `|u - log p / q|`, nats.
pub fn largest_error(u: &[f64]) -> f64 {
    largest(JUDGED.map(|cell| (u[cell] - log_ratio(middle(cell))).abs()))
}

/// NaN if there is one: `total_cmp` puts it above every number, where `f64::max` drops it.
fn largest(errors: impl Iterator<Item = f64>) -> f64 {
    errors.max_by(f64::total_cmp).unwrap_or(0.0)
}

/// The share of normal samples (Box and Muller) in each cell, `[NUM_CELLS]`.
fn sample((mean, deviation): (f64, f64), seed: u64, device: &Device) -> Tensor<1> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || ((random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let mut shares = [0.0f32; NUM_CELLS];
    for _ in 0..NUM_SAMPLES {
        let normal = (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        let cell = ((mean + deviation * normal + 3.0) / 0.25).round();
        if (0.0..NUM_CELLS as f64).contains(&cell) {
            shares[cell as usize] += 1.0 / NUM_SAMPLES as f32;
        }
    }
    Tensor::from_floats(shares, device)
}

/// Minimises L over the table with Adam, its step falling to 0.
fn fit(loss: &dyn DensityRatioLoss, p: &Tensor<1>, q: &Tensor<1>) -> gsil::Result<Vec<f64>> {
    let zeros = Tensor::<1>::zeros([NUM_CELLS], &p.device()).inner();
    let (mut table, mut mean, mut square) = (zeros.clone(), zeros.clone(), zeros);
    for update in 1..=NUM_UPDATES {
        let u = Tensor::from_inner(table.clone()).require_grad();
        let total = (loss.demonstration(u.clone()) * p.clone() + loss.self_generated(u.clone()) * q.clone()).sum();
        let gradient = u.grad(&total.backward()).expect("L depends on u");
        let lr = 0.1 * (1.0 - f64::from(update) / f64::from(NUM_UPDATES));
        let step_size = (lr / (1.0 - 0.9f64.powi(update))) as f32;
        let root_correction = (1.0 - 0.99f64.powi(update)).sqrt() as f32;
        let numbers = AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, decay: 1.0, step_size, root_correction };
        (table, mean, square) = ops::adamw(table, gradient, mean, square, numbers);
    }
    Ok(gsil::model::weights::to_host(table)?.into_iter().map(f64::from).collect())
}

/// What each loss found: its name and its table.
pub fn run(svg: &Path) -> gsil::Result<Vec<(&'static str, Vec<f64>)>> {
    let device = gsil::device::open("flex")?.autodiff();
    let (p, q) = (sample(P, 1, &device), sample(Q, 2, &device));
    let losses: [&dyn DensityRatioLoss; 6] = [&Bernoulli, &Brier, &Kliep, &Lsif, &BregmanPower { power: 0.5 }, &Hinge];
    let names = ["bernoulli", "brier", "kliep", "lsif", "bregman_power", "hinge"];
    let truth = (0..=120).map(|i| -3.0 + 0.05 * f64::from(i)).map(|x| (x, log_ratio(x)));
    let picture = Plot::new("What each classifier learned", "x", "u(x), nats").y_range(-6.0, 2.0);
    let mut picture = picture.line("log p(x) / q(x)", truth);
    let row = |name: &str, value: &dyn Fn(usize) -> f64| {
        let values = JUDGED.step_by(2).map(|cell| format!("{:>8.2}", value(cell)));
        println!("{name:<15}{}", values.collect::<String>());
    };
    row("x", &middle);
    row("log p / q", &|cell| log_ratio(middle(cell)));
    let mut tables = Vec::new();
    for (name, loss) in names.into_iter().zip(losses) {
        let u = fit(loss, &p, &q)?;
        row(name, &|cell| u[cell]);
        picture = picture.dots(name, u.iter().enumerate().map(|(cell, u)| (middle(cell), *u)));
        tables.push((name, u));
    }
    plot::write_svg(svg, &[picture])?;
    let worst = largest(tables[..5].iter().map(|(_, u)| largest_error(u)));
    println!(
        "\nFive losses, one answer, the log density ratio, from samples alone: the largest error is {worst:.2} nats."
    );
    println!("hinge knows the sign and nothing else. Where p has next to no samples, left of -2, all of them guess.");
    println!("Picture: {}", svg.display());
    Ok(tables)
}

pub fn main() -> gsil::Result<()> {
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("01_density_ratios.svg"), PathBuf::from);
    run(&path).map(drop)
}
