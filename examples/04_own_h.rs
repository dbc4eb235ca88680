//! 04. A loss of your own from a convex function.
//!
//! Any strictly convex h gives a density-ratio loss: with t = exp(u)
//!
//! ```text
//! l1(u) = -h'(t)          on demonstrations
//! l0(u) = t h'(t) - h(t)  on self-generated responses
//! ```
//!
//! Here `h(t) = -2 sqrt(t)`, the function behind the Hellinger distance. By hand: `h' = -1 / sqrt(t)`, so that
//!
//! ```text
//! l1(u) = exp(-u / 2),   l0(u) = exp(u / 2)
//! ```
//!
//! the exponential loss of boosting. The library builds both from h; the program checks them against the two closed
//! forms, and that the best u is `log p / q`, as for every h. What the choice of h changes is the pull on a demonstration
//! that the policy finds unlikely: bounded for bernoulli, exponential here.
//!
//! A loop of your own takes it in place of bernoulli: that of `03_bandit`, or one over `gsil::train::step` for a language
//! model. For `gsil train` it needs a name: CONTRIBUTING.md, "How to add a loss".
//!
//! Run with `cargo run --release --example 04_own_h`. Next: `05_own_kernel`.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use gsil::objective::density_ratio::Bernoulli;
use gsil::objective::{Bregman, ConvexFunction, DensityRatioLoss, Objective, SideLogProbs};

/// `h(t) = -2 sqrt(t)`.
struct Hellinger;

impl ConvexFunction for Hellinger {
    fn value(&self, ratio: Tensor<1>) -> Tensor<1> {
        ratio.sqrt() * -2.0
    }

    fn derivative(&self, ratio: Tensor<1>) -> Tensor<1> {
        -ratio.sqrt().recip()
    }

    /// h'' sets the size of the loss, so that learning rates mean the same as for the built-in ones.
    fn curvature(&self, ratio: f64) -> f64 {
        0.5 * ratio.powf(-1.5)
    }
}

/// What the program found out.
pub struct Findings {
    /// The largest relative difference of l1 and l0 from their closed forms.
    pub largest_difference: f64,
    /// `(log p / q, the best u of this loss, the best u of bernoulli)`.
    pub optima: Vec<(f64, f64, f64)>,
}

/// l1 and l0 at every u.
fn sides(loss: &dyn DensityRatioLoss, us: &[f32], device: &Device) -> gsil::Result<(Vec<f32>, Vec<f32>)> {
    let u = Tensor::<1>::from_floats(us, device);
    let to_host = gsil::model::weights::to_host::<1>;
    Ok((to_host(loss.demonstration(u.clone()))?, to_host(loss.self_generated(u))?))
}

/// The u among `us` where `p l1(u) + q l0(u)` is least.
fn best_u(loss: &dyn DensityRatioLoss, p: f32, us: &[f32], device: &Device) -> gsil::Result<f64> {
    let (l1, l0) = sides(loss, us, device)?;
    let total = |i: &usize| p * l1[*i] + (1.0 - p) * l0[*i];
    let best = (0..us.len()).min_by(|i, j| total(i).total_cmp(&total(j))).unwrap_or(0);
    Ok(f64::from(us[best]))
}

pub fn run() -> gsil::Result<Findings> {
    let device = gsil::device::open("flex")?;
    let own = Bregman(Hellinger);

    println!("{:>6}{:>10}{:>10}{:>22}", "u", "l1", "l0", "pull, own : bernoulli");
    let us = [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0];
    let (l1, l0) = sides(&own, &us, &device)?;
    let mut differences = Vec::new();
    for ((u, l1), l0) in us.into_iter().map(f64::from).zip(l1).zip(l0) {
        let closed = [(-u / 2.0).exp(), (u / 2.0).exp()];
        for (value, closed) in [l1, l0].into_iter().zip(closed) {
            differences.push((f64::from(value) / closed - 1.0).abs());
        }
        println!("{u:>6}{l1:>10.4}{l0:>10.4}{:>14.3} :{:>6.3}", own.slope_at(u), Bernoulli.slope_at(u));
    }
    // NaN if there is one: `total_cmp` puts it above every number, where `f64::max` drops it.
    let largest_difference = differences.into_iter().max_by(f64::total_cmp).unwrap_or(0.0);
    println!("largest relative difference from exp(-u/2) and exp(u/2): {largest_difference:.1e}\n");

    println!("{:>6}{:>12}{:>12}{:>12}", "p", "log p / q", "own", "bernoulli");
    let grid: Vec<f32> = (-400..=400).map(|i| i as f32 / 100.0).collect();
    let mut optima = Vec::new();
    for p in [0.05f32, 0.2, 0.5, 0.7, 0.95] {
        let log_ratio = f64::from(p / (1.0 - p)).ln();
        let found = (best_u(&own, p, &grid, &device)?, best_u(&Bernoulli, p, &grid, &device)?);
        println!("{p:>6}{log_ratio:>12.3}{:>12.2}{:>12.2}", found.0, found.1);
        optima.push((log_ratio, found.0, found.1));
    }

    // From here on it is a loss like any other: this is what a training step computes.
    let objective = Objective::custom(Arc::new(own), 1.0, 0.0);
    let side = |policy: f32| SideLogProbs {
        policy: Tensor::full([1], policy, &device),
        reference: Tensor::full([1], -20.0, &device),
        num_tokens: Tensor::full([1], 10.0, &device),
    };
    let loss = objective.loss(&side(-19.0), Some(&side(-21.0)));
    let total = gsil::model::weights::to_host(loss.total)?[0];
    println!(
        "\na pair whose log-ratios are +1 and -1 costs 2 exp(-1/2) = {total:.4}; divided by {} per update",
        objective.normalizer(10.0)
    );
    Ok(Findings { largest_difference, optima })
}

pub fn main() -> gsil::Result<()> {
    run().map(drop)
}
