//! 02. The losses and their gradients.
//!
//! A demonstration with implicit reward u costs `l1(u)`, a self-generated response `l0(u)`. Training follows their slopes:
//! `-l1'(u)` is how hard a demonstration is pulled up, `l0'(u)` how hard a self-generated response is pushed down. For every
//! loss that comes from a convex function h of the density ratio t = exp(u),
//!
//! ```text
//! l1 = -h'(t),   l0 = t h'(t) - h(t),   so that   l0'(u) = t² h''(t) = exp(u) (-l1'(u))
//! ```
//!
//! which is why all of them rest at the same u = log p / q: there `p (-l1') = q l0'`. They differ in which mistakes
//! they mind. `hinge` has no h: its push and pull are 0 or 1.
//!
//! Run with `cargo run --release --example 02_losses [FILE.svg]`. Next: `03_bandit`.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use gsil::objective::DensityRatioLoss;
use gsil::objective::density_ratio::{Bernoulli, BregmanPower, Brier, Hinge, Kliep, Lsif};
use gsil::report::plot::{self, Plot};

/// One loss over the implicit rewards `us`, value by value.
pub struct Curves {
    pub name: &'static str,
    pub us: Vec<f32>,
    pub demonstration: Vec<f32>,
    pub self_generated: Vec<f32>,
    /// `-l1'(u)`.
    pub pull: Vec<f32>,
    /// `l0'(u)`.
    pub push: Vec<f32>,
}

/// Values and slopes of a function of u, the slopes by automatic differentiation.
fn with_slope(
    side: impl Fn(Tensor<1>) -> Tensor<1>,
    us: &[f32],
    device: &Device,
) -> gsil::Result<(Vec<f32>, Vec<f32>)> {
    let u = Tensor::<1>::from_floats(us, device).require_grad();
    let value = side(u.clone());
    let slope = u.grad(&value.clone().sum().backward()).expect("a loss depends on u");
    Ok((gsil::model::weights::to_host(value)?, gsil::model::weights::to_host(slope)?))
}

fn curves(name: &'static str, loss: &dyn DensityRatioLoss, device: &Device) -> gsil::Result<Curves> {
    let us: Vec<f32> = (-40..=40).map(|i| i as f32 / 10.0).collect();
    let (demonstration, slope) = with_slope(|u| loss.demonstration(u), &us, device)?;
    let (self_generated, push) = with_slope(|u| loss.self_generated(u), &us, device)?;
    Ok(Curves { name, us, demonstration, self_generated, pull: slope.iter().map(|slope| -slope).collect(), push })
}

/// One line for each loss: a quantity at u = -4, -2, -1, 0, 1, 2, 4.
fn print_table(title: &str, all: &[Curves], quantity: impl Fn(&Curves, usize) -> f32) {
    const COLUMNS: [usize; 7] = [0, 20, 30, 40, 50, 60, 80];
    print!("{title:<26}");
    COLUMNS.iter().for_each(|i| print!("{:>9}", format!("u = {:.0}", all[0].us[*i])));
    println!();
    for curves in all {
        print!("  {:<24}", curves.name);
        COLUMNS.iter().for_each(|i| print!("{:>9.3}", quantity(curves, *i) + 0.0));
        println!();
    }
    println!();
}

/// All losses in one picture.
fn panel(title: &str, y_label: &str, low: f64, all: &[Curves], values: impl Fn(&Curves) -> &Vec<f32>) -> Plot {
    let plot = Plot::new(title, "implicit reward u", y_label).y_range(low, low.abs().max(2.0));
    all.iter().fold(plot, |plot, curves| {
        let points = curves.us.iter().zip(values(curves)).map(|(u, value)| (f64::from(*u), f64::from(*value)));
        plot.line(curves.name, points)
    })
}

pub fn run(svg: &Path) -> gsil::Result<Vec<Curves>> {
    let device = gsil::device::open("flex")?.autodiff();
    let all = [
        curves("bernoulli", &Bernoulli, &device)?,
        curves("brier", &Brier, &device)?,
        curves("hinge", &Hinge, &device)?,
        curves("kliep", &Kliep, &device)?,
        curves("lsif", &Lsif, &device)?,
        curves("bregman_power, a = 0.5", &BregmanPower { power: 0.5 }, &device)?,
    ];
    print_table("l1, of a demonstration", &all, |curves, i| curves.demonstration[i]);
    print_table("l0, of a self-generated", &all, |curves, i| curves.self_generated[i]);
    print_table("pull -l1'", &all, |curves, i| curves.pull[i]);
    print_table("push l0'", &all, |curves, i| curves.push[i]);
    print_table("push / pull", &all, |curves, i| curves.push[i] / curves.pull[i]);
    println!(
        "The last table is exp(u) in every row but hinge's, which pulls and pushes with 1 or not at all. So both sides"
    );
    println!("balance where exp(u) is the density ratio.");
    println!(
        "bernoulli never pulls or pushes harder than 1; brier lets go of what is hopelessly wrong; kliep, lsif and"
    );
    println!("bregman_power push exponentially at a response that the policy has come to like: small learning rates.");
    let panels = [
        panel("Loss of a demonstration, l1(u)", "loss", -4.0, &all, |curves| &curves.demonstration),
        panel("Loss of a self-generated response, l0(u)", "loss", -4.0, &all, |curves| &curves.self_generated),
        panel("Pull on a demonstration, \u{2212}l1\u{2032}(u)", "slope", 0.0, &all, |curves| &curves.pull),
        panel("Push on a self-generated response, l0\u{2032}(u)", "slope", 0.0, &all, |curves| &curves.push),
    ];
    plot::write_svg(svg, &panels)?;
    println!("Picture: {}", svg.display());
    Ok(all.into())
}

pub fn main() -> gsil::Result<()> {
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("02_losses.svg"), PathBuf::from);
    run(&path).map(drop)
}
