//! A loss of your own from a convex function: the Jensen-Shannon-like `h(t) = t ln t - (1 + t) ln((1 + t) / 2)`.
//!
//! Any strictly convex h gives a density-ratio loss: `l1 = -h'(t)` on demonstrations, `l0 = t h'(t) - h(t)` on self-generated
//! responses. This h differs from that of `bernoulli` by the linear term `(1 + t) ln 2`, so both losses must agree up to a
//! constant; the example checks that. Run with `cargo run --release --example 02_own_loss`.

use std::sync::Arc;

use burn::tensor::Tensor;
use gsil::config::{ObjectiveConfig, ObjectiveName};
use gsil::objective::{Bregman, ConvexFunction, Objective, SideLogProbs};

struct JensenShannon;

impl ConvexFunction for JensenShannon {
    fn value(&self, ratio: Tensor<1>) -> Tensor<1> {
        let one_plus = ratio.clone() + 1.0;
        ratio.clone() * ratio.log() - one_plus.clone() * (one_plus / 2.0).log()
    }

    fn derivative(&self, ratio: Tensor<1>) -> Tensor<1> {
        ratio.clone().log() - ((ratio + 1.0) / 2.0).log()
    }

    fn curvature(&self, ratio: f64) -> f64 {
        1.0 / (ratio * (1.0 + ratio))
    }
}

pub fn main() -> gsil::Result<()> {
    let device = gsil::device::open("flex")?;
    let side = |log_ratio: f32| SideLogProbs {
        policy: Tensor::full([1], log_ratio, &device),
        reference: Tensor::zeros([1], &device),
        num_tokens: Tensor::ones([1], &device),
    };
    let own = Objective::custom(Arc::new(Bregman(JensenShannon)), 1.0, 0.0);
    let config = ObjectiveConfig { name: ObjectiveName::Bernoulli, scale: Some(1.0), ..ObjectiveConfig::default() };
    let bernoulli = Objective::new(&config);

    println!("{:>10} {:>10} {:>10} {:>12}", "log-ratio", "own", "bernoulli", "difference");
    let mut differences = Vec::new();
    for log_ratio in [-2.0, -1.0, 0.0, 1.0, 2.0] {
        let (demonstration, self_generated) = (side(log_ratio), side(-log_ratio));
        let value = |objective: &Objective| -> gsil::Result<f32> {
            let loss = objective.loss(&demonstration, Some(&self_generated)).total;
            Ok(gsil::model::weights::to_host(loss)?[0])
        };
        let (own, bernoulli) = (value(&own)?, value(&bernoulli)?);
        differences.push(own - bernoulli);
        println!("{log_ratio:>10} {own:>10.4} {bernoulli:>10.4} {:>12.4}", own - bernoulli);
    }
    assert!(differences.iter().all(|d| (d - differences[0]).abs() < 1e-5), "the two losses differ by a constant");
    Ok(())
}
