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
//! `log p(x) / q(x)`: a quantity that nobody can compute for language, learned from examples of both sides. The margin
//! loss `hinge` is not one of them: its u tends to +1 and -1 and tells only which density is larger. `spin` compares
//! pairs and finds the ratio up to a constant; `sft` and `simper` look at no ratio at all.
//!
//! GSIL is this classifier with one change: u is not a free function but `log policy(x) / reference(x)`. Where u
//! finds its optimum, the policy has become p.
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

/// Mean and standard deviation of the two densities.
const P: (f64, f64) = (1.0, 0.8);
const Q: (f64, f64) = (0.0, 1.25);
const NUM_SAMPLES: usize = 8000;
const NUM_UPDATES: usize = 300;
/// Errors are measured where both densities have samples.
const JUDGED: (f64, f64) = (-1.0, 2.5);

/// A loss and the coefficients that it found: `u(x) = c[0] + c[1] x + c[2] x²`.
pub struct Fit {
    pub name: &'static str,
    pub coefficients: [f64; 3],
    /// The largest `|u(x) - log p(x) / q(x)|` for x in -1 ..= 2.5, nats.
    pub largest_error: f64,
}

fn losses() -> [(&'static str, Box<dyn DensityRatioLoss>); 6] {
    [
        ("bernoulli", Box::new(Bernoulli)),
        ("brier", Box::new(Brier)),
        ("kliep", Box::new(Kliep)),
        ("lsif", Box::new(Lsif)),
        ("bregman_power", Box::new(BregmanPower { power: 0.5 })),
        ("hinge", Box::new(Hinge)),
    ]
}

fn log_density((mean, deviation): (f64, f64), x: f64) -> f64 {
    -0.5 * ((x - mean) / deviation).powi(2) - (deviation * (2.0 * std::f64::consts::PI).sqrt()).ln()
}

fn log_ratio(x: f64) -> f64 {
    log_density(P, x) - log_density(Q, x)
}

fn u_at(c: &[f64; 3], x: f64) -> f64 {
    c[0] + c[1] * x + c[2] * x * x
}

/// The features 1, x, x² of samples of a normal density (Box and Muller), `[N, 3]`.
fn features((mean, deviation): (f64, f64), seed: u64, device: &Device) -> Tensor<2> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || ((random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let mut x = || mean + deviation * (-2.0 * uniform().ln()).sqrt() * (2.0 * std::f64::consts::PI * uniform()).cos();
    let rows: Vec<f32> = (0..NUM_SAMPLES).map(|_| x()).flat_map(|x| [1.0, x as f32, (x * x) as f32]).collect();
    Tensor::<1>::from_floats(rows.as_slice(), device).reshape([NUM_SAMPLES, 3])
}

/// Gradient descent (AdamW, its rate falling to 0) on the loss above.
fn fit(loss: &dyn DensityRatioLoss, p: &Tensor<2>, q: &Tensor<2>) -> gsil::Result<[f64; 3]> {
    let start = Tensor::<1>::zeros([3], &p.device());
    let (mut c, mut mean, mut square) = (start.clone().inner(), start.clone().inner(), start.inner());
    for update in 1..=NUM_UPDATES {
        let watched = Tensor::from_inner(c.clone()).require_grad();
        let u = |x: &Tensor<2>| x.clone().matmul(watched.clone().reshape([3, 1])).reshape([NUM_SAMPLES]);
        let total = loss.demonstration(u(p)).mean() + loss.self_generated(u(q)).mean();
        let gradient = watched.grad(&total.backward()).expect("the loss depends on c");
        let lr = 0.1 * (1.0 - update as f64 / NUM_UPDATES as f64);
        let (beta1, beta2) = (0.9f64, 0.99f64);
        let numbers = AdamW {
            beta1,
            beta2,
            epsilon: 1e-8,
            decay: 1.0,
            step_size: (lr / (1.0 - beta1.powi(update as i32))) as f32,
            root_correction: (1.0 - beta2.powi(update as i32)).sqrt() as f32,
        };
        (c, mean, square) = ops::adamw(c, gradient, mean, square, numbers);
    }
    let values = gsil::model::weights::to_host(c)?;
    Ok([0, 1, 2].map(|i| f64::from(values[i])))
}

pub fn run(svg: &Path) -> gsil::Result<Vec<Fit>> {
    let device = gsil::device::open("flex")?.autodiff();
    let (p, q) = (features(P, 1, &device), features(Q, 2, &device));
    let xs = || (0..=100).map(|i| -3.0 + 0.06 * i as f64);
    let mut picture = Plot::new("u(x) after training, and the truth", "x", "nats")
        .y_range(-6.0, 2.0)
        .line("log p(x) / q(x)", xs().map(|x| (x, log_ratio(x))));
    let mut fits = Vec::new();
    println!("u(x) = a + b x + c x²      a        b        c    largest error");
    println!("log p / q         {:>9.3}{:>9.3}{:>9.3}", log_ratio(0.0), 1.5625, -0.46125);
    for (i, (name, loss)) in losses().into_iter().enumerate() {
        let coefficients = fit(loss.as_ref(), &p, &q)?;
        let judged = xs().filter(|x| (JUDGED.0..=JUDGED.1).contains(x));
        let largest_error = judged.map(|x| (u_at(&coefficients, x) - log_ratio(x)).abs()).fold(0.0, f64::max);
        let [a, b, c] = coefficients;
        println!("{name:<18}{a:>9.3}{b:>9.3}{c:>9.3}{largest_error:>12.3}");
        let every_tenth = xs().skip(i).step_by(10).map(|x| (x, u_at(&coefficients, x)));
        picture = picture.dots(name, every_tenth);
        fits.push(Fit { name, coefficients, largest_error });
    }
    println!(
        "\nFive losses, one answer: the log density ratio, from samples alone. What is left is the noise of {NUM_SAMPLES}"
    );
    println!("samples. hinge has the sign right and the size wrong.");
    plot::write_svg(svg, &[picture])?;
    println!("picture: {}", svg.display());
    Ok(fits)
}

pub fn main() -> gsil::Result<()> {
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("01_density_ratios.svg"), PathBuf::from);
    run(&path).map(drop)
}
