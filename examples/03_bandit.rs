//! 03. One GSIL iteration where everything is known.
//!
//! The smallest language: two tokens, A and B, and responses of one token. The demonstrator's policy `pi_data` is known,
//! so that what GSIL wants can be computed: a small reverse KL divergence
//!
//! ```text
//! KL(pi || pi_data) = sum over y of pi(y) log pi(y) / pi_data(y)
//! ```
//!
//! The policy is the softmax of two numbers. The reference is the policy before the iteration; a response's implicit reward
//! is `u(y) = log pi(y) / reference(y)`, and instead of samples each update takes the exact mean
//!
//! ```text
//! L = sum over y of  pi_data(y) l1(u(y)) + reference(y) l0(u(y))
//! ```
//!
//! Run with `cargo run --release --example 03_bandit`. Next: `04_own_h`.

use burn::tensor::{Device, Tensor, activation};
use gsil::config::{ObjectiveConfig, ObjectiveName};
use gsil::objective::{Objective, SideLogProbs};

/// The demonstrator says A four times out of five.
const PI_DATA: [f64; 2] = [0.8, 0.2];
/// The policy before: A once in ten times.
const START: [f64; 2] = [0.1, 0.9];
const NUM_UPDATES: usize = 40;
const LEARNING_RATE: f64 = 0.5;
/// Implicit reward per nat: 1 is where the loss asks for `pi_data` itself.
pub const SCALES: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 3.0];
const UPDATES_TO_REST: usize = 2000;

const NAMES: [ObjectiveName; 7] = [
    ObjectiveName::Sft,
    ObjectiveName::Kliep,
    ObjectiveName::Bernoulli,
    ObjectiveName::Brier,
    ObjectiveName::Lsif,
    ObjectiveName::BregmanPower,
    ObjectiveName::Hinge,
];

/// The probability of A before the first update and after each.
pub struct Path {
    pub name: ObjectiveName,
    pub probability_of_a: Vec<f64>,
}

/// `KL(pi || pi_data)` of the policy that says A with this probability, nats.
pub fn reverse_kl(a: f64) -> f64 {
    a * (a / PI_DATA[0]).ln() + (1.0 - a) * ((1.0 - a) / PI_DATA[1]).ln()
}

fn tensor(values: [f64; 2], device: &Device) -> Tensor<1> {
    Tensor::from_floats(values.map(|value| value as f32), device)
}

/// One iteration: the reference stays what the policy was at the start, the policy moves.
fn train(name: ObjectiveName, scale: f64, num_updates: usize, device: &Device) -> gsil::Result<Path> {
    let objective = Objective::new(&ObjectiveConfig { name, scale, ..ObjectiveConfig::default() });
    let reference = tensor(START, device);
    let mut logits = tensor(START.map(f64::ln), device).inner();
    let mut probability_of_a = vec![START[0]];
    for _ in 0..num_updates {
        let watched = Tensor::from_inner(logits.clone()).require_grad();
        let side = SideLogProbs {
            policy: activation::log_softmax(watched.clone(), 0),
            reference: reference.clone().log(),
            num_tokens: Tensor::ones([2], device),
        };
        // Both tokens stand on both sides; how often each of them is seen there is its weight.
        let loss = objective.loss(&side, Some(&side)).normalized(objective.normalizer(1.0));
        let mean =
            (loss.demonstration * tensor(PI_DATA, device)).sum() + (loss.self_generated * reference.clone()).sum();
        let gradient = watched.grad(&mean.backward()).expect("the loss depends on the policy");
        logits = logits - gradient * LEARNING_RATE;
        let probabilities = gsil::model::weights::to_host(activation::softmax(logits.clone(), 0))?;
        probability_of_a.push(f64::from(probabilities[0]));
    }
    Ok(Path { name, probability_of_a })
}

pub fn run() -> gsil::Result<Vec<Path>> {
    let device = gsil::device::open("flex")?.autodiff();
    let paths =
        NAMES.into_iter().map(|name| train(name, 1.0, NUM_UPDATES, &device)).collect::<gsil::Result<Vec<Path>>>()?;
    let (sft, bernoulli) = (&paths[0].probability_of_a, &paths[2].probability_of_a);
    println!("pi_data(A) = {}, pi_data(B) = {}\n", PI_DATA[0], PI_DATA[1]);
    println!("                 GSIL, bernoulli                        SFT");
    println!("update     pi(A)   pi(B)  reverse KL        pi(A)   pi(B)  reverse KL");
    for update in [0, 1, 2, 3, 5, 10, 20, NUM_UPDATES] {
        let cells = |a: f64| format!("{a:>10.3}{:>8.3}{:>12.1e}", 1.0 - a, reverse_kl(a));
        println!("{update:>6}{}   {}", cells(bernoulli[update]), cells(sft[update]));
    }
    println!("\nafter {NUM_UPDATES} updates      pi(A)   reverse KL");
    for path in &paths {
        let a = path.probability_of_a[NUM_UPDATES];
        println!("  {:<16}{a:>9.4}{:>13.1e}", path.name.to_string(), reverse_kl(a));
    }
    println!(
        "\nThe first update is the same for GSIL and SFT: at the start u = 0, and the push on the policy's own answers"
    );
    println!(
        "cancels in the mean. kliep follows SFT all the way. The others slow down or hurry as u grows, and rest where"
    );
    println!("pi = pi_data; hinge has no reason to stop there. With a policy that can say everything and endless");
    println!("demonstrations SFT is as good: what GSIL changes is how much each answer weighs on the way.");

    println!("\nWhere bernoulli rests, by scale     pi(A)");
    for (scale, a) in SCALES.into_iter().zip(resting_places(&device)?) {
        println!("{scale:>33}{a:>10.3}");
    }
    println!(
        "\nu = scale * log pi / reference wants to be log pi_data / reference. A large scale is there early: the next"
    );
    println!("iteration goes on. A small one wants more than pi_data has, and only few updates keep it from that.");
    Ok(paths)
}

/// The probability of A at which an iteration with each of [`SCALES`] comes to rest.
pub fn resting_places(device: &Device) -> gsil::Result<Vec<f64>> {
    let rest =
        |scale| Ok(train(ObjectiveName::Bernoulli, scale, UPDATES_TO_REST, device)?.probability_of_a[UPDATES_TO_REST]);
    SCALES.into_iter().map(rest).collect()
}

pub fn main() -> gsil::Result<()> {
    run().map(drop)
}
