//! Training as a whole: the reference stays what it was, adapters alone move, exported models compute the same.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::TensorData;
use gsil::config::{ObjectiveConfig, ObjectiveName, OptimizerName, RunConfig, TrainConfig};
use gsil::data::batch::Sequence;
use gsil::formats::file_system::Disk;
use gsil::formats::hf_folder::write_model_folder;
use gsil::formats::open_model;
use gsil::formats::safetensors::{HostTensor, write_safetensors};
use gsil::model::{CausalLm, weights};
use gsil::objective::Objective;
use gsil::policy::Policy;
use gsil::records::stage::Stage;
use gsil::report::console::Console;
use gsil::train::checkpoint::{self, Progress};
use gsil::train::optimizer::Optimizer;
use gsil::train::pairs::{Pair, ScoredResponse};
use gsil::train::retention::Keep;
use gsil::train::run_dir::RunDir;
use gsil::train::setup::Run;
use gsil::train::step::Updater;
use serde::Deserialize;

use crate::support::golden::{self, VALUE_TOLERANCE};
use crate::support::{
    assert_near, cpu_devices, fixture, load_model, logits, named_parameters, objective, random_ids, scores, sequences,
    with_random_adapters,
};

#[test]
fn bernoulli_is_two_ln_two_when_policy_equals_reference() {
    for device in cpu_devices() {
        let model = golden::policy(device);
        let pairs = scored_by(&model, golden::pairs());
        let (_, losses) = trained(model, &pairs, 1);
        assert_near(&device.name, &losses, &[2.0 * std::f32::consts::LN_2], 1e-5);
    }
}

#[test]
fn training_on_pairs_raises_demonstrations_over_self_generated_responses() {
    for device in cpu_devices() {
        let model = golden::policy(device);
        let pairs = scored_by(&model, golden::pairs());
        let (model, losses) = trained(model, &pairs, 5);
        assert!(losses.is_sorted_by(|earlier, later| later < earlier), "{}: {losses:?}", device.name);
        let after = scores(&model, &sequences(&pairs), 1);
        for (i, pair) in pairs.iter().enumerate() {
            let demonstration = f64::from(after[i]) - pair.demonstration.reference_log_prob;
            let self_generated = f64::from(after[pairs.len() + i]) - pair.self_generated[0].reference_log_prob;
            assert!(demonstration > self_generated, "{}: pair {i}: {demonstration}, {self_generated}", device.name);
        }
    }
}

/// A line of `self_generated.jsonl`.
#[derive(Deserialize)]
struct SelfGenerated {
    index: usize,
    token_ids: Vec<u32>,
    token_log_probs: Vec<f32>,
}

/// A line of `demonstrations.jsonl`.
#[derive(Deserialize)]
struct Demonstration {
    index: usize,
    reference_log_prob: f64,
}

/// A line of `metrics.jsonl`.
#[derive(Deserialize)]
struct Metrics {
    loss: f64,
    log_ratio_demonstration: f64,
    log_ratio_self_generated: f64,
}

// Three pairs a step and a checkpoint after each: between two steps lies exactly one update of known parameters.
#[test]
fn a_step_leaves_the_reference_unchanged_and_losses_use_what_generation_kept() {
    for device in cpu_devices() {
        let parent = tempfile::tempdir().unwrap();
        let output = parent.path().join("run");
        let mut config = run_config(&device.name);
        config.set("train.epochs=3").unwrap();
        let model = run(config, &output);

        let prompts = golden::pairs();
        let generated: Vec<SelfGenerated> = read_lines(&output.join("iteration-000/self_generated.jsonl"));
        let demonstrations: Vec<Demonstration> = read_lines(&output.join("iteration-000/demonstrations.jsonl"));
        let metrics: Vec<Metrics> = read_lines(&output.join("metrics.jsonl"));
        assert_eq!((generated.len(), demonstrations.len(), metrics.len()), (3, 3, 3));

        let generated_sequences: Vec<Sequence<'_>> = generated
            .iter()
            .map(|row| Sequence { prompt_ids: &prompts[row.index].prompt_ids, response_ids: &row.token_ids })
            .collect();
        let given_sequences: Vec<Sequence<'_>> = demonstrations
            .iter()
            .map(|row| &prompts[row.index])
            .map(|pair| Sequence { prompt_ids: &pair.prompt_ids, response_ids: &pair.demonstration.token_ids })
            .collect();
        let kept_generated: Vec<f32> = generated.iter().map(|row| row.token_log_probs.iter().sum()).collect();
        let kept_given: Vec<f32> = demonstrations.iter().map(|row| row.reference_log_prob as f32).collect();

        // After the whole training the files still hold the scores of the policy at the iteration's start.
        let start = golden::policy(device);
        let what = format!("{}: kept log-probs", device.name);
        assert_near(&what, &kept_generated, &scores(&start, &generated_sequences, 1), VALUE_TOLERANCE);
        assert_near(&what, &kept_given, &scores(&start, &given_sequences, 1), VALUE_TOLERANCE);
        let moved = scores(&model, &given_sequences, 1);
        assert!(moved.iter().zip(&kept_given).all(|(moved, kept)| (moved - kept).abs() > 0.1), "the policy has moved");

        // Step 0: policy and reference are the same. Step 2: the policy after two updates against the kept log-probs.
        assert_near(&device.name, &[metrics[0].loss as f32], &[2.0 * std::f32::consts::LN_2], VALUE_TOLERANCE);
        let after_two = checkpoint_parameters(&output, "step-000002-iteration-0", golden::policy(device));
        let mean_log_ratio = |sequences: &[Sequence<'_>], kept: &[f32]| {
            let policy = scores(&after_two, sequences, 1);
            policy.iter().zip(kept).map(|(policy, kept)| policy - kept).sum::<f32>() / kept.len() as f32
        };
        let logged = [metrics[2].log_ratio_demonstration as f32, metrics[2].log_ratio_self_generated as f32];
        let expected =
            [mean_log_ratio(&given_sequences, &kept_given), mean_log_ratio(&generated_sequences, &kept_generated)];
        assert_near(&format!("{}: log-ratios at step 2", device.name), &logged, &expected, VALUE_TOLERANCE);
    }
}

#[test]
fn a_run_repeats_bit_for_bit() {
    for device in cpu_devices() {
        let parent = tempfile::tempdir().unwrap();
        let parameters = ["first", "second"].map(|name| {
            let model = run(run_config(&device.name), &parent.path().join(name));
            named_parameters(&model)
        });
        assert_eq!(parameters[0], parameters[1], "{}", device.name);
    }
}

#[test]
fn adapter_training_changes_adapters_and_nothing_else() {
    for device in cpu_devices() {
        let model = with_random_adapters(golden::policy(device), 4, 20);
        let before = named_parameters(&model);
        let (model, _) = trained(model, &golden::pairs(), 3);
        let after = named_parameters(&model);
        assert_eq!(before.len(), 20 + 2 * 7 * 2);
        for (name, before) in &before {
            let is_adapter = name.contains(".lora.");
            assert_eq!(&after[name] != before, is_adapter, "{}: {name}", device.name);
        }
    }
}

#[test]
fn a_fresh_adapter_changes_no_logit() {
    for device in cpu_devices() {
        let plain = golden::policy(device);
        let targets = ["q_proj", "down_proj"].map(str::to_owned);
        let adapted = golden::policy(device).with_adapters(4, 8.0, &targets, 21);
        assert_eq!(logits(&plain, &rows(), 1), logits(&adapted, &rows(), 1), "{}", device.name);
    }
}

#[test]
fn an_exported_model_with_merged_adapters_has_the_logits_of_the_adapted_one() {
    for device in cpu_devices() {
        let (model, _) = trained(with_random_adapters(golden::policy(device), 4, 22), &golden::pairs(), 3);
        let parent = tempfile::tempdir().unwrap();
        let exported = export(&model, parent.path());
        let names: Vec<String> = exported.files.weights.names().map(str::to_owned).collect();
        assert_eq!(names, named_parameters(&golden::policy(device)).into_keys().collect::<Vec<_>>());
        let reopened = exported.load(&device.device, &Console::stderr()).unwrap();
        let expected = logits(&model, &rows(), 1).concat();
        assert_near(&device.name, &logits(&reopened, &rows(), 1).concat(), &expected, VALUE_TOLERANCE);
        let plain = logits(&golden::policy(device), &rows(), 1).concat();
        assert!(plain.iter().zip(&expected).any(|(p, e)| (p - e).abs() > 0.01), "the adapters have an effect");
    }
}

#[test]
fn an_exported_model_opened_again_has_the_same_log_probs() {
    for device in cpu_devices() {
        let pairs = golden::pairs();
        let (model, _) = trained(golden::policy(device), &pairs, 2);
        let parent = tempfile::tempdir().unwrap();
        let reopened = export(&model, parent.path()).load(&device.device, &Console::stderr()).unwrap();
        assert_eq!(named_parameters(&reopened), named_parameters(&model), "{}", device.name);
        let before = scores(&model, &sequences(&pairs), 1);
        assert_eq!(scores(&reopened, &sequences(&pairs), 1), before, "{}", device.name);
    }
}

#[test]
fn the_model_of_a_run_folder_is_the_trained_policy() {
    for device in cpu_devices() {
        let parent = tempfile::tempdir().unwrap();
        let output = parent.path().join("run");
        let mut config = run_config(&device.name);
        config.set("lora.rank=4").unwrap();
        let model = run(config, &output);
        let expected = logits(&model, &rows(), 1).concat();
        let checkpoint = fs::read_to_string(output.join("latest")).unwrap();
        let adapted =
            golden::policy(device).with_adapters(4, 16.0, &gsil::config::LoraConfig::default().target_modules, 0);
        let restored = checkpoint_parameters(&output, &checkpoint, adapted);
        assert_near(&device.name, &logits(&restored, &rows(), 1).concat(), &expected, VALUE_TOLERANCE);
        let start = logits(&golden::policy(device), &rows(), 1).concat();
        assert!(start.iter().zip(&expected).any(|(s, e)| (s - e).abs() > 1e-3), "the policy has moved");
    }
}

#[test]
fn eight_pairs_one_by_one_train_like_eight_at_once_for_fifty_updates() {
    for device in cpu_devices() {
        let pair = |i: u64| Pair {
            index: i as usize,
            prompt_ids: random_ids(3 * i, 3 + i as usize % 3, 515),
            demonstration: unscored(random_ids(3 * i + 1, 2 + i as usize % 4, 515)),
            self_generated: vec![unscored(random_ids(3 * i + 2, 2 + i as usize % 5, 515))],
            distributions: Vec::new(),
        };
        let pairs = scored_by(&golden::policy(device), (0..8).map(pair).collect());
        let losses = [1, 8].map(|micro_batch_size| {
            let config = TrainConfig {
                micro_batch_size,
                optimizer: OptimizerName::Sgd,
                max_grad_norm: 0.0,
                ..TrainConfig::default()
            };
            updates(golden::policy(device), &pairs, &config, 1e-2, 50).1
        });
        assert!(losses[0][49] < losses[0][0] - 0.01, "{}: it learns: {:?}", device.name, losses[0]);
        assert_near(&device.name, &losses[0], &losses[1], 1e-5);
        // Rounding has no direction: the mean difference is far below the largest that is allowed.
        let mean = losses[0].iter().zip(&losses[1]).map(|(one, all)| one - all).sum::<f32>() / 50.0;
        assert!(mean.abs() < 2e-6, "{}: {mean}", device.name);
    }
}

fn unscored(token_ids: Vec<u32>) -> ScoredResponse {
    ScoredResponse { token_ids, reference_log_prob: 0.0 }
}

#[test]
fn a_weight_or_a_moment_that_is_not_finite_is_never_saved() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::create(Arc::new(Disk), folder.path()).unwrap();
    let save = |model: &CausalLm, optimizer: Option<&Optimizer>, total_steps: usize| {
        let progress = Progress::at(Stage::Iteration(0), total_steps);
        checkpoint::save(
            &dir,
            &progress,
            model,
            optimizer,
            Keep { last: 1, best: 0, compares_sft: false, aligned: false },
        )
    };
    for device in cpu_devices() {
        let model = golden::policy(device);
        save(&model, None, 3).unwrap();
        let name = "layers.1.mlp.up_proj.weight";
        let average = |average: &str, value: f32| HostTensor {
            name: format!("{name}.{average}"),
            shape: vec![3],
            values: vec![0.5, 0.5, value],
        };
        let mut optimizer = Optimizer::new(&TrainConfig { optimizer: OptimizerName::Adamw, ..TrainConfig::default() });
        let averages = vec![average("exp_avg", 0.5), average("exp_avg_sq", f32::INFINITY)];
        optimizer.load_host(3, averages, &device.device).unwrap();
        let of_moment = save(&model, Some(&optimizer), 4).unwrap_err();
        let (spoilt, _) = model.with_parameters(&mut |path, shape| {
            let mut values = vec![0.5f32; shape.iter().product()];
            values[5] = f32::NAN;
            (path == name).then(|| TensorData::new(values, shape.to_vec()))
        });
        let of_weight = save(&spoilt, None, 4).unwrap_err();
        let moment = format!("{name}.exp_avg_sq");
        for (error, tensor, at) in [(of_moment, moment.as_str(), 2), (of_weight, name, 5)] {
            assert_eq!(error.exit_code(), 5, "{error}");
            let message = format!("`{tensor}` is not finite any more: value {at}");
            assert!(error.to_string().contains(&message), "{error}");
        }
        assert_eq!(dir.list("checkpoints", |_| true).unwrap(), ["step-000003-iteration-0"]);
        let newest = checkpoint::load_newest(&dir, &|problem| panic!("{problem}")).unwrap().unwrap();
        assert_eq!(newest.progress.total_steps, 3);
    }
}

#[test]
fn parameters_of_a_model_with_fewer_trained_tensors_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("parameters.safetensors");
    for device in cpu_devices() {
        let tensors = weights::trained_tensors_to_write(&golden::policy(device));
        let (count, last) = (tensors.len(), tensors.len() - 1);
        write_safetensors(&path, tensors.into_iter().take(last).collect(), &Default::default()).unwrap();
        let error = checkpoint::load_parameters(&path, golden::policy(device)).unwrap_err();
        assert!(error.to_string().contains(&format!("has {last} tensors, and this model trains {count}")), "{error}");
    }
}

/// The oracle's rows, prompt and response together.
fn rows() -> Vec<Vec<u32>> {
    let pairs = golden::pairs();
    sequences(&pairs).iter().map(|sequence| [sequence.prompt_ids, sequence.response_ids].concat()).collect()
}

/// Pairs whose reference is this model.
fn scored_by(model: &CausalLm, mut pairs: Vec<Pair>) -> Vec<Pair> {
    let log_probs = scores(model, &sequences(&pairs), 1);
    let num_pairs = pairs.len();
    for (i, pair) in pairs.iter_mut().enumerate() {
        pair.demonstration.reference_log_prob = f64::from(log_probs[i]);
        pair.self_generated[0].reference_log_prob = f64::from(log_probs[num_pairs + i]);
    }
    pairs
}

/// Updates on all pairs at once with AdamW, learning rate 1e-3, under `bernoulli` at scale 0.1; and their losses.
fn trained(model: CausalLm, pairs: &[Pair], num_updates: usize) -> (CausalLm, Vec<f32>) {
    let config = TrainConfig { micro_batch_size: pairs.len(), ..TrainConfig::default() };
    updates(model, pairs, &config, 1e-3, num_updates)
}

#[test]
fn a_gradient_beyond_a_float_is_refused_with_its_rows_though_the_loss_is_finite() {
    for device in cpu_devices() {
        // A loss of some 1e26: its gradient is finite too, the square of the gradient's length is not.
        let config = ObjectiveConfig { name: ObjectiveName::Bernoulli, sft_weight: 1e25, ..ObjectiveConfig::default() };
        let objective = Objective::new(&config);
        let train = TrainConfig::default();
        let updater = Updater { objective: &objective, config: &train, normalizer: 1.0, num_tokens_multiple: 1 };
        let model = golden::policy(device);
        let pairs = scored_by(&model, golden::pairs());
        let pairs: Vec<&Pair> = pairs.iter().collect();
        let error = updater.update(model, &mut Optimizer::new(&train), &pairs, 1e-3).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        let text = error.to_string();
        assert!(text.contains("the gradient is not finite (norm inf); rows 0, 1, 2"), "{}: {text}", device.name);
    }
}

/// Updates on all pairs at once under `bernoulli` at scale 0.1, and their losses.
fn updates(
    mut model: CausalLm,
    pairs: &[Pair],
    config: &TrainConfig,
    lr: f64,
    num_updates: usize,
) -> (CausalLm, Vec<f32>) {
    let objective = objective(ObjectiveName::Bernoulli, 0.1, 0.0);
    let updater = Updater { objective: &objective, config, normalizer: 1.0, num_tokens_multiple: 1 };
    let mut optimizer = Optimizer::new(config);
    let pairs: Vec<&Pair> = pairs.iter().collect();
    let mut losses = Vec::new();
    for _ in 0..num_updates {
        let (updated, metrics) = updater.update(model, &mut optimizer, &pairs, lr).unwrap();
        model = updated;
        losses.push(metrics.loss as f32);
    }
    (model, losses)
}

/// Writes the model as a Hugging Face folder, as a run does at its end, and opens it again.
fn export(model: &CausalLm, parent: &Path) -> Policy {
    let files = open_model(&fixture("golden/tiny_llama")).unwrap();
    let folder = parent.join("model");
    let tensors = weights::tensors_to_write(model);
    write_model_folder(&folder, &files.config, files.generation_config.as_ref(), None, tensors).unwrap();
    Policy::open(&folder).unwrap()
}

/// One iteration on the oracle's three prompts, all in one step, with raw losses and responses of 12 tokens.
fn run_config(device: &str) -> RunConfig {
    let path = |name: &str| Some(fixture(name).to_string_lossy().into_owned());
    let mut config = RunConfig {
        model: path("golden/tiny_llama"),
        data: path("golden/tiny_demonstrations.jsonl"),
        device: device.to_owned(),
        save_every: 1,
        ..RunConfig::default()
    };
    for assignment in [
        "objective.scale=0.1",
        "objective.normalize=false",
        "generation.max_new_tokens=12",
        "generation.unfinished=mask", // random weights hardly ever end a response
        "train.lr=1e-3",
        "train.batch_size=3",
        "train.micro_batch_size=3",
    ] {
        config.set(assignment).unwrap();
    }
    config
}

/// The whole run; the model that it exported.
fn run(mut config: RunConfig, output: &Path) -> CausalLm {
    config.resolve();
    config.validate().unwrap();
    let device = gsil::device::open(&config.device).unwrap();
    let (run, model) = Run::start(config, output, Console::stderr()).unwrap();
    run.train(model).unwrap();
    load_model(&output.join("model"), &device)
}

fn checkpoint_parameters(run: &Path, checkpoint: &str, model: CausalLm) -> CausalLm {
    let file = run.join("checkpoints").join(checkpoint.trim()).join("parameters.safetensors");
    checkpoint::load_parameters(&file, model).unwrap()
}

fn read_lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Vec<T> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
