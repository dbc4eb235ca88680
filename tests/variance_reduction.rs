//! The variance reduction as it is computed: that its expectation is 0, that it leaves no noise at the reference, and that runs
//! with it train and resume. Its equations are tested beside them (`objective::variance_reduction`).

use burn::tensor::{Tensor, TensorData};
use gsil::config::{ObjectiveConfig, ObjectiveName};
use gsil::data::batch::{Batch, Sequence};
use gsil::model::CausalLm;
use gsil::objective::log_probs::{read_tokens, sum_by_sequence};
use gsil::objective::variance_reduction::{Distributions, Response, distributions, noise};
use gsil::objective::{Objective, SideLogProbs};
use gsil::train::backward;
use serde_json::{Value, json};

use crate::support::devices::{TestDevice, devices};
use crate::support::tensors::named_gradients;
use crate::support::{cpu_devices, random_model, with_random_adapters};

const VOCAB_SIZE: u32 = 12;
const PROMPT: [u32; 2] = [3, 7];
fn density_ratios() -> impl Iterator<Item = ObjectiveName> {
    ObjectiveName::ALL.into_iter().filter(|name| name.is_density_ratio())
}

fn tiny() -> Value {
    json!({"architectures": ["Qwen2ForCausalLM"], "vocab_size": VOCAB_SIZE, "hidden_size": 16, "intermediate_size": 24,
           "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
           "tie_word_embeddings": true, "initializer_range": 0.5})
}

fn objective(name: ObjectiveName) -> Objective {
    Objective::new(&ObjectiveConfig { name, scale: 0.8, shift: 0.2, ..ObjectiveConfig::default() })
}

/// All responses of two tokens.
fn responses() -> Vec<Vec<u32>> {
    (0..VOCAB_SIZE * VOCAB_SIZE).map(|i| vec![i / VOCAB_SIZE, i % VOCAB_SIZE]).collect()
}

fn read(device: &TestDevice, reference: &CausalLm, responses: &[Vec<u32>], count: usize) -> Vec<Distributions> {
    let sequences = responses.iter().map(|ids| Sequence { prompt_ids: &PROMPT, response_ids: ids });
    let of = |sequence| distributions(reference, sequence, count, device.num_tokens_multiple()).unwrap();
    sequences.map(of).collect()
}

/// Sums of `weights` times (the plain loss of each response, the noise that is taken out of it), and the norms of their
/// gradients by all trained parameters.
fn weighted_sums(
    device: &TestDevice,
    policy: &CausalLm,
    objective: &Objective,
    responses: &[Vec<u32>],
    known: &[Distributions],
    weights: &[f64],
) -> [(f64, f64); 3] {
    let sequences: Vec<Sequence<'_>> =
        responses.iter().map(|ids| Sequence { prompt_ids: &PROMPT, response_ids: ids }).collect();
    let batch = Batch::new(&sequences, device.num_tokens_multiple());
    let inner = policy.device().without_autodiff();
    let vector = |values: Vec<f32>| {
        let shape = [values.len()];
        Tensor::<1>::from_data(TensorData::new(values, shape), &inner)
    };
    let sum = |which: fn(Tensor<1>, Tensor<1>) -> Tensor<1>| {
        let (gradients, value) = backward::gradients(policy, &batch, false, |hidden| {
            let tokens = read_tokens(policy, hidden, &batch, false);
            let log_probs = sum_by_sequence(tokens.log_probs.clone(), &batch);
            let of_responses: Vec<Response<'_>> = responses
                .iter()
                .zip(known)
                .map(|(token_ids, distributions)| Response { token_ids, distributions })
                .collect();
            let noise = noise(objective, policy, tokens, &of_responses).unwrap();
            let reference = vector(known.iter().map(|known| known.log_probs.iter().sum()).collect());
            let num_tokens = vector(responses.iter().map(|ids| ids.len() as f32).collect());
            let side = SideLogProbs { policy: log_probs, reference, num_tokens };
            let demonstration = SideLogProbs { policy: Tensor::from_inner(side.reference.clone()), ..side.clone() };
            let plain = objective.loss(&demonstration, Some(&side)).self_generated;
            let weights = vector(weights.iter().map(|weight| *weight as f32).collect());
            let sum = (which(plain, noise) * weights).sum();
            (sum.clone(), sum.inner().into_scalar::<f32>())
        });
        let squares = named_gradients(policy, &gradients).into_values().flatten();
        (f64::from(value), squares.map(|g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt())
    };
    [sum(|plain, _| plain), sum(|_, noise| noise), sum(|plain, noise| plain - noise)]
}

#[test]
fn over_all_responses_the_noise_is_zero_and_so_is_its_gradient() {
    for device in cpu_devices() {
        let reference = random_model(&tiny(), 1, &device.device);
        let policy = with_random_adapters(random_model(&tiny(), 1, &device.device), 2, 9);
        let all = responses();
        for count in [3, VOCAB_SIZE as usize - 1, VOCAB_SIZE as usize] {
            let known = read(device, &reference, &all, count);
            let weights: Vec<f64> =
                known.iter().map(|known| known.log_probs.iter().map(|p| f64::from(*p)).sum::<f64>().exp()).collect();
            assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-5);
            for name in density_ratios() {
                let what = format!("{}, {name}, {count} tokens", device.name);
                let objective = objective(name);
                let [plain, noise, _] = weighted_sums(device, &policy, &objective, &all, &known, &weights);
                assert!(noise.0.abs() < 1e-5, "{what}: {noise:?}");
                assert!(noise.1 < 1e-4 * plain.1, "{what}: gradient {noise:?}, plain {plain:?}");
                // One response alone has noise: the sum is not zero for want of it.
                let [_, noise, _] = weighted_sums(device, &policy, &objective, &all, &known, &only(17, all.len()));
                assert!(noise.0.abs() > 1e-3 && noise.1 > 1e-2, "{what}: {noise:?}");
            }
        }
    }
}

#[test]
fn at_the_reference_no_response_has_a_gradient() {
    for device in devices() {
        let reference = random_model(&tiny(), 4, &device.device);
        let some = [vec![5, 1, 9], vec![2], vec![8, 8], vec![0, 11, 4]];
        let exact = read(device, &reference, &some, VOCAB_SIZE as usize);
        // A driver in software compiles for seconds for each objective; the mathematics is the same on every device.
        let (num_objectives, num_responses) = if device.is_cpu() { (usize::MAX, some.len()) } else { (1, 2) };
        for name in density_ratios().take(num_objectives) {
            for i in 0..num_responses {
                let what = format!("{}, {name}, response {i}", device.name);
                let one = only(i, some.len());
                let [plain, _, left] = weighted_sums(device, &reference, &objective(name), &some, &exact, &one);
                assert!(left.1 < 1e-4 * plain.1, "{what}: {left:?} is left of {plain:?}");
            }
        }
    }
}

#[test]
fn the_likeliest_tokens_alone_leave_less_noise_than_there_was() {
    for device in cpu_devices() {
        let reference = random_model(&tiny(), 4, &device.device);
        let all = responses();
        let known = read(device, &reference, &all, VOCAB_SIZE as usize - 4);
        let objective = objective(ObjectiveName::Bernoulli);
        let (mut before, mut after) = (0.0, 0.0);
        for i in 0..all.len() {
            let probability = known[i].log_probs.iter().map(|p| f64::from(*p)).sum::<f64>().exp();
            let [plain, _, left] = weighted_sums(device, &reference, &objective, &all, &known, &only(i, all.len()));
            before += probability * plain.1.powi(2);
            after += probability * left.1.powi(2);
        }
        assert!(after < 0.5 * before, "{}: {after} is left of {before}", device.name);
    }
}

/// Weights that choose one of them.
fn only(chosen: usize, num_responses: usize) -> Vec<f64> {
    (0..num_responses).map(|i| f64::from(u8::from(i == chosen))).collect()
}

#[cfg(unix)]
#[test]
fn a_stopped_run_resumes_to_the_same_bytes() {
    use crate::support::recipe::{Recipe, assert_stopped};
    for reduction in ["objective.variance_reduction=top_k(4)", "objective.variance_reduction=exact"] {
        let recipe = Recipe::new(&[reduction, "generation.samples_per_prompt=2", "train.epochs=1"]);
        recipe.finish("alone");
        let stopped = recipe.interrupt("stopped", "metrics.jsonl", 3..20, "INT");
        assert_stopped(&stopped, 130);
        recipe.finish("stopped");
        recipe.assert_same("alone", "stopped");
        assert!(recipe.path("alone").join("iteration-000/distributions.jsonl").exists());
    }
}

#[test]
fn what_it_cannot_correct_is_refused() {
    let refusal = |assignments: &[&str]| {
        let mut config = gsil::config::RunConfig::default();
        let set = assignments.iter().try_for_each(|assignment| config.set(assignment));
        set.and_then(|()| config.validate()).unwrap_err()
    };
    let reduced = "objective.variance_reduction=top_k(16)";
    for (assignments, said) in [
        (vec![reduced, "objective.name=spin"], "`spin` is not one of the losses that it corrects"),
        (vec![reduced, "generation.temperature=0.7"], "whole distribution"),
        (vec![reduced, "generation.top_k=50"], "whole distribution"),
        (vec![reduced, "generation.top_p=0.9"], "whole distribution"),
        (vec!["objective.variance_reduction=top_k(0)"], "k must be at least 1"),
        (vec!["objective.variance_reduction=top_k(257)"], "at most 256"),
    ] {
        let error = refusal(&assignments);
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
}
