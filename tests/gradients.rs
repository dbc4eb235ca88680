//! Gradients through whole models: finite differences, adapters, activation checkpointing, micro-batches.
//!
//! The tight check of gradients is [`crate::golden`]; finite differences find mistakes of structure in what the
//! oracle does not have: biases, adapters, an untied head, the remaining objectives.

use burn::tensor::{Device, Int, Tensor, TensorData};
use gsil::config::{ObjectiveName, OptimizerName, TrainConfig};
use gsil::model::CausalLm;
use gsil::ops::selected_log_probs;
use gsil::train::optimizer::Optimizer;
use gsil::train::pairs::{Pair, ScoredResponse};
use gsil::train::step::Updater;
use serde_json::{Value, json};

use crate::support::golden::{self, GRADIENT_TOLERANCE};
use crate::support::memory::peak_bytes;
use crate::support::{
    Named, assert_near, assert_near_by_norm, cpu_devices, devices, fixture, flex, load_model, mean_loss_gradients,
    named_parameters, objective, pair_losses, random_ids, random_model, scores, sequences, token_scores,
    with_random_adapters,
};

const VOCAB_SIZE: u32 = 40;
/// The scale of all losses here.
const SCALE: f64 = 0.5;

/// Half the distance of the two evaluations of a finite difference. The error of a central difference grows as its
/// square; the rounding of log-probs (about -40 nats, so 4e-6) is divided by it. 5e-3 keeps both near a thousandth of
/// the gradients.
const STEP: f32 = 5e-3;
/// Of the gradient itself: the difference quotient's own error.
const RELATIVE_TOLERANCE: f64 = 1e-2;
/// Of the largest gradient under the same objective: rounding, which does not shrink with the gradient.
const ROUNDING_TOLERANCE: f64 = 2e-3;

#[test]
fn finite_differences_agree_for_every_objective_and_parameter_of_qwen2() {
    for device in cpu_devices() {
        let model = random_model(&qwen2(), 1, &device.device);
        let names = check_finite_differences(&device.name, model);
        for part in ["embed_tokens", "q_proj.bias", "k_proj.bias", "v_proj.bias", "down_proj.weight", "norm.weight"] {
            assert!(names.iter().any(|name| name.contains(part)), "no parameter `{part}`");
        }
        assert_eq!(names.len(), 1 + 2 * 12 + 1); // embedding, layers of 7 matrices, 3 biases and 2 norms, final norm
    }
}

#[test]
fn finite_differences_agree_for_every_objective_and_parameter_of_an_untied_llama_with_biases() {
    for device in cpu_devices() {
        let model = random_model(&llama(), 2, &device.device);
        let names = check_finite_differences(&device.name, model);
        assert!(names.contains(&"lm_head.weight".to_owned()));
        assert_eq!(names.len(), 1 + 2 * 16 + 1 + 1); // embedding, layers of 7 matrices, 7 biases, 2 norms; norm, head
    }
}

#[test]
fn finite_differences_agree_for_every_objective_and_adapter() {
    for device in cpu_devices() {
        let model = with_random_adapters(random_model(&qwen2(), 3, &device.device), 2, 4);
        let names = check_finite_differences(&device.name, model);
        assert!(names.iter().all(|name| name.contains(".lora.")), "{names:?}");
        assert_eq!(names.len(), 2 * 7 * 2); // two factors for each of seven projections in two layers
    }
}

// Burn issue 5162: with frozen weights below the first adapter, some graphics backends gave NaN.
#[test]
fn adapter_gradients_are_finite_equal_to_flex_and_the_only_ones() {
    let pairs = golden::pairs();
    let objective = objective(ObjectiveName::Bernoulli, 0.1, 0.0);
    let model = |device: &Device| with_random_adapters(load_model(&fixture("golden/tiny_llama"), device), 4, 5);
    let expected = mean_loss_gradients(&model(&flex()), &objective, &pairs, false, 1);
    assert_eq!(expected.len(), 2 * 7 * 2);
    for device in devices() {
        let actual =
            mean_loss_gradients(&model(&device.device), &objective, &pairs, false, device.num_tokens_multiple());
        assert!(actual.values().flatten().all(|value| value.is_finite()), "{}", device.name);
        assert!(actual.values().all(|gradient| gradient.iter().any(|value| *value != 0.0)), "{}", device.name);
        assert_all_near(&device.name, &actual, &expected, GRADIENT_TOLERANCE);
    }
}

#[test]
fn activation_checkpointing_changes_no_gradient() {
    let pairs = random_pairs(3);
    let objective = objective(ObjectiveName::Bernoulli, SCALE, 0.0);
    for device in cpu_devices() {
        let models = [
            ("qwen2", random_model(&qwen2(), 6, &device.device)),
            ("llama", random_model(&llama(), 7, &device.device)),
            ("adapters", with_random_adapters(random_model(&llama(), 8, &device.device), 2, 9)),
        ];
        for (name, model) in models {
            let plain = mean_loss_gradients(&model, &objective, &pairs, false, 1);
            let checkpointed = mean_loss_gradients(&model, &objective, &pairs, true, 1);
            assert_all_near(&format!("{}, {name}", device.name), &checkpointed, &plain, 1e-5);
        }
    }
}

#[test]
fn micro_batches_of_any_size_have_the_gradient_of_the_whole_batch() {
    let pairs = random_pairs(5);
    for device in cpu_devices() {
        let gradients = |micro_batch_size, max_tokens, activation_checkpointing| {
            let model = random_model(&llama(), 10, &device.device);
            let sizes =
                TrainConfig { micro_batch_size, max_tokens, activation_checkpointing, ..TrainConfig::default() };
            gradients_of_an_update(model, &pairs, sizes)
        };
        let whole = gradients(5, 0, false);
        for (size, tokens, checkpointing) in [(1, 0, false), (2, 0, false), (3, 0, false), (5, 30, false), (2, 0, true)]
        {
            let what = format!("{}, micro-batches of {size} pairs, {tokens} tokens", device.name);
            assert_all_near(&what, &gradients(size, tokens, checkpointing), &whole, 1e-5);
        }
    }
}

#[test]
fn responses_to_one_prompt_share_the_weight_of_their_pair() {
    let mut pairs = random_pairs(4);
    let lone = |pair: &Pair, i: usize| Pair { self_generated: vec![pair.self_generated[i].clone()], ..pair.clone() };
    let more: Vec<_> = pairs[2..].iter().map(|pair| pair.self_generated[0].clone()).collect();
    pairs.truncate(2);
    pairs[0].self_generated.extend(more);
    for device in cpu_devices() {
        let gradient = |pairs: &[Pair], micro_batch_size| {
            let sizes = TrainConfig { micro_batch_size, ..TrainConfig::default() };
            gradients_of_an_update(random_model(&llama(), 10, &device.device), pairs, sizes)
        };
        let mut expected = Named::new();
        for (pair, i, weight) in
            [(&pairs[0], 0, 1.0 / 6.0), (&pairs[0], 1, 1.0 / 6.0), (&pairs[0], 2, 1.0 / 6.0), (&pairs[1], 0, 0.5)]
        {
            for (name, values) in gradient(&[lone(pair, i)], 1) {
                let sum = expected.entry(name).or_insert_with(|| vec![0.0; values.len()]);
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
            }
        }
        for micro_batch_size in [1, 2] {
            let what = format!("{}, micro-batches of {micro_batch_size}", device.name);
            assert_all_near(&what, &gradient(&pairs, micro_batch_size), &expected, 1e-5);
        }
    }
}

#[test]
fn a_batch_of_eight_equals_eight_batches_of_one() {
    let pairs = random_pairs(4); // eight sequences of different lengths
    let objective = objective(ObjectiveName::Bernoulli, SCALE, 0.0);
    for device in cpu_devices() {
        let model = random_model(&qwen2(), 11, &device.device);
        let together = token_scores(&model, &sequences(&pairs), 8, 1);
        let alone = token_scores(&model, &sequences(&pairs), 1, 1);
        for (i, (together, alone)) in together.iter().zip(&alone).enumerate() {
            assert_near(&format!("{}: token log-probs of {i}", device.name), together, alone, 1e-5);
        }

        let together = mean_loss_gradients(&model, &objective, &pairs, false, 1);
        let mut alone = Named::new();
        for pair in &pairs {
            let gradients = mean_loss_gradients(&model, &objective, std::slice::from_ref(pair), false, 1);
            for (name, gradient) in gradients {
                let sum = alone.entry(name).or_insert_with(|| vec![0.0; gradient.len()]);
                sum.iter_mut().zip(gradient).for_each(|(sum, part)| *sum += part / pairs.len() as f32);
            }
        }
        assert_all_near(&device.name, &together, &alone, 1e-5);
    }
}

#[test]
fn the_memory_of_the_log_prob_operation_does_not_grow_with_the_vocabulary() {
    const ROWS: usize = 256;
    const SIZE: usize = 64;
    for device in cpu_devices().filter(|device| device.name == "flex") {
        let device = &device.device;
        let targets: Vec<i32> = (0..ROWS as i32).map(|row| row * 2 % 512).collect();
        let targets: Tensor<1, Int> = Tensor::from_data(TensorData::new(targets, [ROWS]), device);
        // Forward and backward, beside the operands and their gradients: the head is frozen here, as with an adapter.
        let extra = |vocab_size: usize| {
            let head: Tensor<2> = Tensor::ones([vocab_size, SIZE], device) * 0.01;
            let hidden = || Tensor::<2>::ones([ROWS, SIZE], &device.clone().autodiff()).require_grad();
            let work = |hidden: Tensor<2>| {
                let log_probs = selected_log_probs(hidden, head.clone(), targets.clone(), false);
                drop(log_probs.sum().backward());
            };
            work(hidden()); // memory that is kept from call to call
            let hidden = hidden();
            peak_bytes(|| work(hidden)).1 as f64
        };
        let (few, many) = (extra(512), extra(152_000));
        assert!(few > (ROWS * SIZE * 4) as f64, "the gradient of the hidden states alone is larger than {few} bytes");
        assert!(many < 1.1 * few, "{many} bytes with 152,000 tokens, {few} with 512");
    }
}

/// Grouped queries, biases on q, k and v, tied head.
fn qwen2() -> Value {
    json!({"architectures": ["Qwen2ForCausalLM"], "vocab_size": VOCAB_SIZE, "hidden_size": 16, "intermediate_size": 24,
           "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
           "tie_word_embeddings": true, "initializer_range": 0.3})
}

/// Biases everywhere, a head of its own.
fn llama() -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB_SIZE, "hidden_size": 16, "intermediate_size": 24,
           "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
           "attention_bias": true, "mlp_bias": true, "initializer_range": 0.3})
}

/// Pairs of different lengths, not scored yet.
fn random_pairs(num_pairs: usize) -> Vec<Pair> {
    let response = |seed: usize, len| ScoredResponse {
        token_ids: random_ids(seed as u64, len, VOCAB_SIZE),
        reference_log_prob: -5.0 * len as f64,
    };
    (0..num_pairs)
        .map(|i| Pair {
            index: i,
            prompt_ids: random_ids(100 + i as u64, 1 + (3 * i) % 5, VOCAB_SIZE),
            demonstration: response(200 + i, 2 + (5 * i) % 7),
            self_generated: vec![response(300 + i, 1 + (4 * i) % 9)],
            distributions: Vec::new(),
        })
        .collect()
}

/// Every name of `expected`, and only those, with nearly its values.
#[track_caller]
fn assert_all_near(what: &str, actual: &Named, expected: &Named, tolerance: f64) {
    assert_eq!(actual.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, expected) in expected {
        assert_near_by_norm(&format!("{what}: {name}"), &actual[name], expected, tolerance);
    }
}

/// The gradient that one update applies: plain descent with so large a learning rate that the old parameters are lost
/// in it.
fn gradients_of_an_update(model: CausalLm, pairs: &[Pair], sizes: TrainConfig) -> Named {
    const LR: f32 = 1e12;
    let config = TrainConfig { optimizer: OptimizerName::Sgd, max_grad_norm: 0.0, ..sizes };
    let objective = objective(ObjectiveName::Brier, SCALE, 0.0);
    let updater = Updater { objective: &objective, config: &config, normalizer: 1.0, num_tokens_multiple: 1 };
    let pairs: Vec<&Pair> = pairs.iter().collect();
    let (model, _) = updater.update(model, &mut Optimizer::new(&config), &pairs, f64::from(LR)).unwrap();
    let mut parameters = named_parameters(&model);
    parameters.values_mut().flatten().for_each(|value| *value /= -LR);
    parameters
}

/// Compares gradients with central differences at two places of every trained parameter: the largest gradient and one
/// other. Returns the names of the trained parameters.
fn check_finite_differences(device: &str, model: CausalLm) -> Vec<String> {
    let mut pairs = random_pairs(2);
    let log_probs = scores(&model, &sequences(&pairs), 1);
    for (i, pair) in pairs.iter_mut().enumerate() {
        // Implicit rewards of 0.3 and -0.2: away from 0 and from the corners of hinge.
        pair.demonstration.reference_log_prob = f64::from(log_probs[i]) - 0.6;
        pair.self_generated[0].reference_log_prob = f64::from(log_probs[2 + i]) + 0.4;
    }
    let objectives = ObjectiveName::ALL.map(|name| objective(name, SCALE, 0.0));
    let gradients = objectives.each_ref().map(|objective| mean_loss_gradients(&model, objective, &pairs, false, 1));
    let largest =
        gradients.each_ref().map(|gradients| gradients.values().flatten().fold(0.0, |max: f32, g| max.max(g.abs())));

    let names: Vec<String> = gradients[0].keys().cloned().collect();
    for (n, name) in names.iter().enumerate() {
        let by_size = |i: &usize, j: &usize| gradients[0][name][*i].abs().total_cmp(&gradients[0][name][*j].abs());
        let size = gradients[0][name].len();
        for index in [(0..size).max_by(by_size).unwrap(), (7 * n + 3) % size] {
            let [below, above] = [-STEP, STEP].map(|step| {
                let moved = with_one_changed(&model, name, index, step);
                let device = moved.device().without_autodiff();
                Tensor::<1>::from_floats(scores(&moved, &sequences(&pairs), 1).as_slice(), &device)
            });
            for (o, objective) in objectives.iter().enumerate() {
                let losses =
                    [&below, &above].map(|log_probs| mean_loss(pair_losses(objective, &pairs, log_probs.clone())));
                let difference = (losses[1] - losses[0]) / (2.0 * f64::from(STEP));
                let gradient = f64::from(gradients[o][name][index]);
                let tolerance = RELATIVE_TOLERANCE * gradient.abs() + ROUNDING_TOLERANCE * f64::from(largest[o]);
                assert!(
                    (difference - gradient).abs() <= tolerance,
                    "{device}: {:?} by {name}[{index}]: gradient {gradient}, difference {difference}, largest {}",
                    ObjectiveName::ALL[o],
                    largest[o]
                );
            }
        }
    }
    names
}

fn mean_loss(losses: Tensor<1>) -> f64 {
    let losses: Vec<f32> = losses.into_data().try_into_vec().unwrap();
    losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64
}

fn with_one_changed(model: &CausalLm, name: &str, index: usize, step: f32) -> CausalLm {
    let path = name.strip_prefix("model.").unwrap_or(name);
    let mut values = named_parameters(model)[name].clone();
    values[index] += step;
    let (model, replaced) = model.clone().with_parameters(&mut |candidate, shape| {
        (candidate == path).then(|| TensorData::new(values.clone(), shape.to_vec()))
    });
    assert_eq!(replaced, 1);
    model
}
