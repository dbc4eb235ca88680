//! The family of losses on one pair: what each says as the policy moves away from its reference.
//!
//! Run with `cargo run --release --example 01_losses`. Next: `02_own_loss`.

use burn::tensor::Tensor;
use gsil::config::{ObjectiveConfig, ObjectiveName};
use gsil::objective::{Objective, SideLogProbs};

const NAMES: [ObjectiveName; 7] = [
    ObjectiveName::Bernoulli,
    ObjectiveName::Brier,
    ObjectiveName::Hinge,
    ObjectiveName::Kliep,
    ObjectiveName::Lsif,
    ObjectiveName::BregmanPower,
    ObjectiveName::Spin,
];

/// Log-ratios (nats) of the demonstration and of the self-generated response: five stages of a policy that learns.
const LOG_RATIOS: [(f32, f32); 5] = [(0.0, 0.0), (0.5, -0.5), (1.0, -1.0), (2.0, -2.0), (4.0, -4.0)];

pub fn main() -> gsil::Result<()> {
    let device = gsil::device::open("flex")?;
    // The reference gave both responses a log-prob of -20 nats; the policy has moved by the log-ratio.
    let side = |log_ratios: Vec<f32>| {
        let policy: Vec<f32> = log_ratios.iter().map(|r| r - 20.0).collect();
        let count = policy.len();
        SideLogProbs {
            policy: Tensor::from_floats(policy.as_slice(), &device),
            reference: Tensor::full([count], -20.0, &device),
            num_tokens: Tensor::full([count], 20.0, &device),
        }
    };
    let demonstration = side(LOG_RATIOS.iter().map(|(r1, _)| *r1).collect());
    let self_generated = side(LOG_RATIOS.iter().map(|(_, r0)| *r0).collect());

    print!("{:<14}", "log-ratios");
    LOG_RATIOS.iter().for_each(|(r1, r0)| print!("{:>12}", format!("{r1:+} {r0:+}")));
    println!();
    for name in NAMES {
        let config = ObjectiveConfig { name, scale: Some(1.0), ..ObjectiveConfig::default() };
        let loss = Objective::new(&config).loss(&demonstration, Some(&self_generated));
        let values = gsil::model::weights::to_host(loss.total)?;
        print!("{:<14}", format!("{name:?}"));
        values.iter().for_each(|value| print!("{value:>12.3}"));
        println!();
    }
    println!(
        "\nBernoulli starts at 2 ln 2 = 1.386 and falls to 0: the classifier is sure. Lsif and BregmanPower have no lower"
    );
    println!("bound on the demonstration's side: they ask for a small scale or a small learning rate.");
    Ok(())
}
