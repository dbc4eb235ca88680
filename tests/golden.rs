//! The tiny Llama against the oracle's numbers, on every device. See [`crate::support::golden`].

use burn::tensor::Tensor;
use gsil::config::{ObjectiveConfig, ObjectiveName, OptimizerName, TrainConfig};
use gsil::data::batch::{Batch, Sequence};
use gsil::objective::Objective;
use gsil::train::optimizer::Optimizer;
use gsil::train::pairs::Pair;
use gsil::train::step::Updater;

use crate::support::golden::{self, GRADIENT_TOLERANCE, NUM_TOKENS, VALUE_TOLERANCE, VOCAB_SIZE};
use crate::support::{
    TestDevice, assert_near, assert_near_by_norm, cpu_devices, devices, logits, mean_loss_gradients, objective,
    pair_losses, scores, sequences, token_scores,
};

/// Objectives whose gradients the oracle has, by their names there.
const OBJECTIVES: [(&str, ObjectiveName); 9] = [
    ("bernoulli", ObjectiveName::Bernoulli),
    ("brier", ObjectiveName::Brier),
    ("hinge", ObjectiveName::Hinge),
    ("kliep", ObjectiveName::Kliep),
    ("lsif", ObjectiveName::Lsif),
    ("bregman_power_0.5", ObjectiveName::BregmanPower), // 0.5 is the default power
    ("spin", ObjectiveName::Spin),
    ("sft", ObjectiveName::Sft),
    ("simper", ObjectiveName::Simper),
];

#[test]
fn logits_are_those_of_transformers() {
    let expected = golden::tensors().read_f32("logits").unwrap(); // [6, 21, V]
    let pairs = golden::pairs();
    let rows: Vec<Vec<u32>> = sequences(&pairs).iter().map(|s| [s.prompt_ids, s.response_ids].concat()).collect();
    for device in devices() {
        let actual = logits(&golden::policy(device), &rows, device.num_tokens_multiple());
        for (i, (actual, expected)) in actual.iter().zip(expected.chunks(NUM_TOKENS * VOCAB_SIZE)).enumerate() {
            let what = format!("{}: logits of row {i}", device.name);
            assert_near(&what, actual, &expected[..actual.len()], VALUE_TOLERANCE);
        }
    }
}

#[test]
fn log_probs_of_policy_and_reference_are_those_of_transformers() {
    let (tensors, pairs) = (golden::tensors(), golden::pairs());
    let token_log_probs = tensors.read_f32("token_log_probs").unwrap(); // [6, 20]; entry i is of token i + 1
    let sequences = sequences(&pairs);
    for device in devices() {
        let multiple = device.num_tokens_multiple();
        let actual = token_scores(&golden::policy(device), &sequences, sequences.len(), multiple);
        for ((i, sequence), expected) in sequences.iter().enumerate().zip(token_log_probs.chunks(NUM_TOKENS - 1)) {
            let expected = &expected[sequence.prompt_ids.len() - 1..][..sequence.response_ids.len()];
            let what = format!("{}: token log-probs of row {i}", device.name);
            assert_near(&what, &actual[i], expected, VALUE_TOLERANCE);
        }
        for (name, model) in [("log_prob", golden::policy(device)), ("reference_log_prob", golden::reference(device))] {
            let expected = tensors.read_f32(name).unwrap();
            let what = format!("{}: {name}", device.name);
            assert_near(&what, &scores(&model, &sequences, multiple), &expected, VALUE_TOLERANCE);
        }
    }
}

#[test]
fn sharing_a_prompt_changes_no_log_prob() {
    let pairs = golden::pairs();
    let sequences = sequences(&pairs);
    for device in devices() {
        let (model, multiple) = (golden::policy(device), device.num_tokens_multiple());
        let shared = token_scores(&model, &sequences, sequences.len(), multiple);
        let alone = token_scores(&model, &sequences, 1, multiple);
        let num_rows = |sequences: &[Sequence<'_>]| Batch::new(sequences, 1).input_ids.len();
        assert!(num_rows(&sequences) < sequences.iter().map(|s| num_rows(&[*s])).sum(), "nothing is shared");
        for (i, (shared, alone)) in shared.iter().zip(&alone).enumerate() {
            assert_near(&format!("{}: row {i}", device.name), shared, alone, VALUE_TOLERANCE);
        }
    }
}

#[test]
fn every_objective_has_the_oracles_value_for_each_pair() {
    let values = golden::values();
    let settings = values["objectives"].as_object().unwrap();
    assert_eq!(settings.len(), 2 * 7 + 2, "seven objectives at two settings; sft and simper have none");
    for device in devices() {
        let (pairs, log_probs) = pairs_scored_by_models(device);
        for (key, expected) in settings {
            let objective = parse_setting(key);
            let log_probs = Tensor::<1>::from_floats(log_probs.as_slice(), &device.device);
            let losses: Vec<f32> = pair_losses(&objective, &pairs, log_probs).into_data().try_into_vec().unwrap();
            let what = format!("{}: {key}", device.name);
            assert_near(&what, &losses, &golden::numbers(&expected["per_pair"]), VALUE_TOLERANCE);
            let mean = losses.iter().sum::<f32>() / losses.len() as f32;
            assert_near(&what, &[mean], &[expected["mean"].as_f64().unwrap() as f32], VALUE_TOLERANCE);
        }
    }
}

#[test]
fn every_gradient_of_every_objective_is_that_of_torch() {
    for device in devices() {
        check_gradients(device, &OBJECTIVES, false);
    }
}

#[test]
fn gradients_with_activation_checkpointing_are_those_of_torch() {
    for device in devices() {
        check_gradients(device, if device.is_cpu() { &OBJECTIVES } else { &OBJECTIVES[..1] }, true);
    }
}

// The key of the ten losses in the oracle's file holds the hyper-parameters.
#[test]
fn ten_adamw_steps_have_the_losses_of_torch() {
    for device in devices() {
        check_ten_losses(device, "ten_losses_adamw_lr1e-3_b.9_.999_eps1e-8_wd.01_clip1", &adamw(), 3);
    }
}

#[test]
fn ten_rmsprop_steps_have_the_losses_of_torch() {
    for device in devices() {
        check_ten_losses(device, "ten_losses_rmsprop_lr1e-3_alpha.99_eps1e-8_clip1", &rmsprop(), 3);
    }
}

#[test]
fn ten_steps_in_micro_batches_of_one_pair_have_the_losses_of_torch() {
    for device in cpu_devices() {
        check_ten_losses(device, "ten_losses_adamw_lr1e-3_b.9_.999_eps1e-8_wd.01_clip1", &adamw(), 1);
        check_ten_losses(device, "ten_losses_rmsprop_lr1e-3_alpha.99_eps1e-8_clip1", &rmsprop(), 1);
    }
}

/// The oracle's pairs with log-probs of our reference model, and the log-probs of our policy.
fn pairs_scored_by_models(device: &TestDevice) -> (Vec<Pair>, Vec<f32>) {
    let mut pairs = golden::pairs();
    let multiple = device.num_tokens_multiple();
    let score = |model, sequences: &[Sequence<'_>]| scores(&model, sequences, multiple);
    let policy = score(golden::policy(device), &sequences(&pairs));
    let reference = score(golden::reference(device), &sequences(&pairs));
    let num_pairs = pairs.len();
    for (i, pair) in pairs.iter_mut().enumerate() {
        pair.demonstration.reference_log_prob = f64::from(reference[i]);
        pair.self_generated[0].reference_log_prob = f64::from(reference[num_pairs + i]);
    }
    (pairs, policy)
}

/// `bernoulli|scale=0.1|shift=0.0`.
fn parse_setting(key: &str) -> Objective {
    let mut parts = key.split('|');
    let name = parts.next().unwrap();
    let (_, name) = OBJECTIVES.iter().find(|(golden_name, _)| *golden_name == name).unwrap();
    let mut number = |prefix| parts.next().unwrap().strip_prefix(prefix).unwrap().parse().unwrap();
    let scale = number("scale=");
    objective(*name, scale, number("shift="))
}

/// Gradients of the mean loss at scale 0.1, shift 0.
fn check_gradients(device: &TestDevice, objectives: &[(&str, ObjectiveName)], activation_checkpointing: bool) {
    let (expected, pairs, model) = (golden::tensors(), golden::pairs(), golden::policy(device));
    for (golden_name, name) in objectives {
        let objective = objective(*name, 0.1, 0.0);
        let multiple = device.num_tokens_multiple();
        let gradients = mean_loss_gradients(&model, &objective, &pairs, activation_checkpointing, multiple);
        let prefix = format!("grad.{golden_name}.");
        let expected_names: Vec<&str> = expected.names().filter_map(|name| name.strip_prefix(&prefix)).collect();
        assert_eq!(gradients.keys().collect::<Vec<_>>(), expected_names, "{}: {golden_name}", device.name);
        assert_eq!(expected_names.len(), 20, "embedding, 2 layers of 9 tensors, final norm");
        for (parameter, gradient) in &gradients {
            let what = format!("{}: gradient of {golden_name} by {parameter}", device.name);
            let expected = expected.read_f32(&format!("{prefix}{parameter}")).unwrap();
            assert_near_by_norm(&what, gradient, &expected, GRADIENT_TOLERANCE);
        }
    }
}

fn adamw() -> TrainConfig {
    TrainConfig {
        optimizer: OptimizerName::Adamw,
        betas: (0.9, 0.999),
        epsilon: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
        ..TrainConfig::default()
    }
}

fn rmsprop() -> TrainConfig {
    TrainConfig {
        optimizer: OptimizerName::Rmsprop,
        alpha: 0.99,
        epsilon: 1e-8,
        max_grad_norm: 1.0,
        ..TrainConfig::default()
    }
}

/// Ten updates on the three pairs with a learning rate of 1e-3 under `bernoulli` at scale 0.1, shift 0.
fn check_ten_losses(device: &TestDevice, key: &str, config: &TrainConfig, micro_batch_size: usize) {
    let expected = golden::numbers(&golden::values()[key]);
    assert_eq!(expected.len(), 10);
    let config = TrainConfig { micro_batch_size, ..config.clone() };
    let objective = Objective::new(&ObjectiveConfig { scale: 0.1, ..ObjectiveConfig::default() });
    let num_tokens_multiple = device.num_tokens_multiple();
    let updater = Updater { objective: &objective, config: &config, normalizer: 1.0, num_tokens_multiple };
    let mut optimizer = Optimizer::new(&config);
    let pairs = golden::pairs();
    let pairs: Vec<&Pair> = pairs.iter().collect();
    let mut model = golden::policy(device);
    let mut losses = Vec::new();
    for _ in &expected {
        let (updated, metrics) = updater.update(model, &mut optimizer, &pairs, 1e-3).unwrap();
        model = updated;
        losses.push(metrics.loss as f32);
    }
    let what = format!("{}: {key}, micro-batches of {micro_batch_size}", device.name);
    assert_near(&what, &losses, &expected, VALUE_TOLERANCE);
}
