//! What every objective must do: have the right gradient, and survive extremes. Their values are compared with an independent
//! implementation in `tests/golden.rs`.

use super::*;
use crate::device::test_device;
use burn::tensor::Device;
use std::collections::BTreeMap;

fn config(name: ObjectiveName, scale: f64, shift: f64) -> ObjectiveConfig {
    ObjectiveConfig { name, scale, shift, power: 0.5, sft_weight: 0.0, ..Default::default() }
}

fn tensor(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_floats(values, device)
}

fn values(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn side(policy: &[f32], reference: &[f32], num_tokens: &[f32], device: &Device) -> SideLogProbs {
    SideLogProbs {
        policy: tensor(policy, device),
        reference: tensor(reference, device),
        num_tokens: tensor(num_tokens, device),
    }
}

/// Gradients of the summed loss with respect to the policy's log-probs, `[demonstrations, self-generated]`. Where
/// there is no gradient, zeros.
fn policy_gradients(objective: &Objective, policy: [&[f32]; 2], reference: &[f32], device: &Device) -> [Vec<f32>; 2] {
    let device = device.clone().autodiff();
    let num_tokens = vec![2.0; reference.len()];
    let sides = policy.map(|policy| {
        let side = side(policy, reference, &num_tokens, &device);
        SideLogProbs { policy: side.policy.require_grad(), ..side }
    });
    let gradients = objective.loss(&sides[0], Some(&sides[1])).total.sum().backward();
    sides.map(|side| side.policy.grad(&gradients).map_or_else(|| vec![0.0; reference.len()], values))
}

fn total(objective: &Objective, policy: [&[f32]; 2], reference: &[f32], device: &Device) -> Vec<f32> {
    let num_tokens = vec![2.0; reference.len()];
    let sides = policy.map(|policy| side(policy, reference, &num_tokens, device));
    values(objective.loss(&sides[0], Some(&sides[1])).total)
}

#[test]
fn gradients_match_central_differences() {
    let device = test_device();
    let reference = [-3.0f32, -2.0, -4.0, -1.5];
    let policy = [[-2.5f32, -2.9, -3.2, -1.9], [-3.4, -1.1, -4.3, -1.2]];
    let step = 0.01;
    for name in ObjectiveName::ALL {
        for (scale, shift) in [(0.5, 0.0), (1.0, 0.3)] {
            let objective = Objective::new(&config(name, scale, shift));
            let gradients = policy_gradients(&objective, [&policy[0], &policy[1]], &reference, &device);
            for moved in 0..2 {
                let at = |delta: f32| {
                    let mut policy = policy;
                    policy[moved].iter_mut().for_each(|log_prob| *log_prob += delta);
                    total(&objective, [&policy[0], &policy[1]], &reference, &device)
                };
                let (ahead, behind) = (at(step), at(-step));
                for i in 0..reference.len() {
                    let difference = (ahead[i] - behind[i]) / (2.0 * step);
                    let gradient = gradients[moved][i];
                    // f32 rounding of a loss near 5 leaves about 5e-5 in the difference, curvature as much again.
                    let tolerance = 2e-4 + 1e-3 * gradient.abs();
                    assert!((gradient - difference).abs() < tolerance, "{name:?}: {gradient}, not {difference}");
                }
            }
        }
    }
}

#[test]
fn extreme_log_probs_give_finite_losses_and_gradients() {
    let device = test_device();
    let demonstrations = [1e4f32, -1e4, 1e30, -1e30, 1e4, -1e4, 1e30, -1e30];
    let self_generated = [1e4f32, -1e4, 1e30, -1e30, -1e4, 1e4, -1e30, 1e30];
    let reference = [0.0f32; 8];
    for name in ObjectiveName::ALL {
        let objective = Objective::new(&config(name, 1.0, 0.5));
        let policy: [&[f32]; 2] = [&demonstrations, &self_generated];
        let losses = total(&objective, policy, &reference, &device);
        assert!(losses.iter().all(|loss| loss.is_finite()), "{name:?}: {losses:?}");
        for gradient in policy_gradients(&objective, policy, &reference, &device) {
            assert!(gradient.iter().all(|slope| slope.is_finite()), "{name:?}: {gradient:?}");
        }
    }
}

#[test]
fn saturated_bernoulli_pairs_keep_the_gradient_that_mends_them() {
    let objective = Objective::new(&config(ObjectiveName::Bernoulli, 1.0, 0.0));
    // A demonstration that the policy has lost, a self-generated response that it prefers: full slope towards repair.
    let gradients = policy_gradients(&objective, [&[-1e4], &[1e4]], &[0.0], &test_device());
    assert_eq!(gradients, [vec![-1.0], vec![1.0]]);
}

/// `tests/fixtures/golden/tiny_llama.json`, made with PyTorch in f32.
#[derive(serde::Deserialize)]
struct Golden {
    prompt_len: Vec<f32>,
    demonstration_total_len: Vec<f32>,
    self_generated_total_len: Vec<f32>,
    log_prob: Vec<f32>,
    reference_log_prob: Vec<f32>,
    objectives: BTreeMap<String, GoldenLoss>,
}

#[derive(serde::Deserialize)]
struct GoldenLoss {
    per_pair: Vec<f32>,
    mean: f32,
}

impl Golden {
    fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden/tiny_llama.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Demonstrations are the first three rows, self-generated responses the last three.
    fn sides(&self, device: &Device) -> [SideLogProbs; 2] {
        let lengths = |total: &[f32]| -> Vec<f32> { total.iter().zip(&self.prompt_len).map(|(t, p)| t - p).collect() };
        let side = |rows: std::ops::Range<usize>, total: &[f32]| {
            side(&self.log_prob[rows.clone()], &self.reference_log_prob[rows], &lengths(total), device)
        };
        [side(0..3, &self.demonstration_total_len), side(3..6, &self.self_generated_total_len)]
    }
}

#[test]
fn losses_agree_with_pytorch_on_a_tiny_model() {
    let golden = Golden::load();
    let [demonstration, self_generated] = golden.sides(&test_device());
    let named = |name: &str| match name {
        "bernoulli" => ObjectiveName::Bernoulli,
        "brier" => ObjectiveName::Brier,
        "hinge" => ObjectiveName::Hinge,
        "kliep" => ObjectiveName::Kliep,
        "lsif" => ObjectiveName::Lsif,
        "bregman_power_0.5" => ObjectiveName::BregmanPower,
        "spin" => ObjectiveName::Spin,
        "sft" => ObjectiveName::Sft,
        "simper" => ObjectiveName::Simper,
        other => panic!("{other}"),
    };
    assert_eq!(golden.objectives.len(), 16);
    for (key, expected) in &golden.objectives {
        let fields: Vec<&str> = key.split(['|', '=']).collect();
        let [name, _, scale, _, shift] = fields[..] else { panic!("{key}") };
        let objective = Objective::new(&config(named(name), scale.parse().unwrap(), shift.parse().unwrap()));
        let actual = values(objective.loss(&demonstration, Some(&self_generated)).total);
        let mean = actual.iter().sum::<f32>() / actual.len() as f32;
        for (actual, expected) in actual.iter().chain([&mean]).zip(expected.per_pair.iter().chain([&expected.mean])) {
            // The log-probs, printed near 100, carry 4e-6 each.
            assert!((actual - expected).abs() < 5e-6, "{key}: {actual}, not {expected}");
        }
    }
}

#[test]
fn the_total_is_the_sum_of_its_parts() {
    let [demonstration, self_generated] = Golden::load().sides(&test_device());
    for name in ObjectiveName::ALL {
        let objective = Objective::new(&ObjectiveConfig { sft_weight: 0.25, ..config(name, 0.1, 0.5) });
        for loss in [
            objective.loss(&demonstration, Some(&self_generated)),
            objective.loss(&demonstration, Some(&self_generated)).normalized(4.0),
        ] {
            let parts = loss.demonstration + loss.self_generated + loss.supervised.unwrap();
            for (part, total) in values(parts).into_iter().zip(values(loss.total)) {
                assert!((part - total).abs() < 1e-5 * total.abs().max(1.0), "{name:?}: {part}, not {total}");
            }
        }
    }
}

#[test]
fn the_supervised_term_is_weighted_but_not_normalized() {
    let device = test_device();
    let pair = [side(&[-6.0], &[-6.0], &[3.0], &device), side(&[-4.0], &[-4.0], &[4.0], &device)];
    let kliep = ObjectiveConfig { sft_weight: 0.5, ..config(ObjectiveName::Kliep, 1.0, 0.0) };
    let loss = Objective::new(&kliep).loss(&pair[0], Some(&pair[1]));
    // KLIEP costs 1 at the start; 0.5 * 6 nats / 3 tokens = 1.
    assert_eq!(values(loss.total.clone()), [2.0]);
    assert_eq!(values(loss.normalized(4.0).total), [1.25]);
}

#[test]
fn normalizers_are_the_demonstration_gradient_per_token_at_the_start() {
    let normalizer = |name, scale, shift| Objective::new(&config(name, scale, shift)).normalizer(20.0);
    assert_eq!(normalizer(ObjectiveName::Bernoulli, 0.1, 0.0), 1.0); // 0.1 * 1/2 * 20
    assert_eq!(normalizer(ObjectiveName::Brier, 0.1, 0.0), 0.5); // 0.1 * 1/4 * 20
    assert_eq!(normalizer(ObjectiveName::Hinge, 0.1, 0.5), 2.0);
    assert_eq!(normalizer(ObjectiveName::Kliep, 0.1, 0.5), 2.0);
    assert!((normalizer(ObjectiveName::Lsif, 0.1, 0.5) - 2.0 * 0.5f64.exp()).abs() < 1e-12);
    assert_eq!(normalizer(ObjectiveName::Spin, 0.1, 0.5), 1.0);
    assert_eq!(normalizer(ObjectiveName::DilUkl, 0.1, 0.0), 20.0);
    assert_eq!(normalizer(ObjectiveName::Sft, 0.1, 0.0), 1.0);
    assert_eq!(normalizer(ObjectiveName::Simper, 0.1, 0.0), 1.0);
    // Without a slope to divide by, as if it were 1.
    assert_eq!(normalizer(ObjectiveName::Hinge, 0.1, 2.0), 2.0);
    assert_eq!(normalizer(ObjectiveName::Bernoulli, 0.1, 50.0), 2.0);
    let raw = ObjectiveConfig { normalize: false, ..config(ObjectiveName::Bernoulli, 0.1, 0.0) };
    assert_eq!(Objective::new(&raw).normalizer(20.0), 1.0);
}

#[test]
fn a_normalized_loss_starts_with_a_demonstration_gradient_of_one_over_the_length() {
    for name in ObjectiveName::ALL {
        let objective = Objective::new(&config(name, 0.2, 0.4));
        let gradients = policy_gradients(&objective, [&[-3.0], &[-2.0]], &[-3.0], &test_device());
        let gradient = f64::from(gradients[0][0]) / objective.normalizer(2.0);
        let expected = match name {
            // SPIN compares the two sides, and the second is not at its start here; SimPER has no start.
            ObjectiveName::Spin | ObjectiveName::Simper => continue,
            _ => -0.5,
        };
        assert!((gradient - expected).abs() < 1e-6, "{name:?}: {gradient}");
    }
}

#[test]
fn dil_ukl_of_responses_of_the_mean_length_is_that_of_mean_log_probs() {
    // 4 tokens each: -(-6 / 4) + exp((-3 + 5) / 4).
    let (device, len) = (test_device(), 4.0f64);
    let objective = Objective::new(&config(ObjectiveName::DilUkl, 1.0 / len, len.ln()));
    let sides = [side(&[-6.0], &[-9.0], &[4.0], &device), side(&[-3.0], &[-5.0], &[4.0], &device)];
    let loss = objective.loss(&sides[0], Some(&sides[1])).normalized(objective.normalizer(len));
    let expected = 1.5 + 0.5f32.exp();
    let actual = values(loss.total)[0];
    assert!((actual - expected).abs() < 1e-5, "{actual}, not {expected}");
}

#[test]
fn sft_needs_neither_reference_nor_self_generated_responses() {
    let device = test_device();
    let demonstration = side(&[-6.0], &[0.0], &[3.0], &device);
    let sft = Objective::new(&config(ObjectiveName::Sft, 1.0, 0.0));
    assert!(!sft.needs_reference() && !sft.needs_self_generated());
    assert_eq!(values(sft.loss(&demonstration, None).total), [2.0]);
    let simper = Objective::new(&config(ObjectiveName::Simper, 1.0, 0.0));
    assert!(!simper.needs_reference() && simper.needs_self_generated());
    let kliep = Objective::new(&config(ObjectiveName::Kliep, 1.0, 0.0));
    assert!(kliep.needs_reference() && kliep.needs_self_generated());
    for name in ObjectiveName::ALL {
        let objective = Objective::new(&config(name, 1.0, 0.0));
        assert_eq!(objective.needs_self_generated(), name.needs_self_generated(), "{name}");
        assert_eq!(objective.needs_reference(), name.needs_reference(), "{name}");
    }
}
