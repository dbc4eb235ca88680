//! Training steps divided over several devices: what they compute is what one device computes. One device named several
//! times stands for several.

use gsil::config::{ObjectiveName, OptimizerName, TrainConfig};
use gsil::train::optimizer::Optimizer;
use gsil::train::pairs::Pair;
use gsil::train::replicas::Replicas;
use gsil::train::step::Updater;

use crate::support::golden;
use crate::support::{Named, assert_near_by_norm, cpu_devices, named_parameters, objective, with_random_adapters};
#[cfg(unix)]
use crate::support::{
    binary::{gsil, read_json_lines},
    recipe::{Recipe, assert_stopped},
};

const NUM_STEPS: usize = 10;

/// Losses and gradient norms of ten steps, and the weights after them.
fn trained(
    model: gsil::model::CausalLm,
    replicas: &Replicas,
    pairs: &[Pair],
    config: &TrainConfig,
) -> (Vec<f32>, Vec<f32>, Named) {
    let objective = objective(ObjectiveName::Bernoulli, 1.0, 0.0);
    let updater = Updater { objective: &objective, config, normalizer: 1.0, num_tokens_multiple: 1 };
    let (mut model, mut optimizer) = (model, Optimizer::new(config));
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for step in 0..NUM_STEPS {
        let batch: Vec<&Pair> = pairs.iter().cycle().skip(step).take(5).collect();
        let (updated, metrics) = updater.update_on(replicas, model, &mut optimizer, &batch, 1e-3).unwrap();
        model = updated;
        losses.push(metrics.loss as f32);
        norms.push(metrics.grad_norm as f32);
    }
    (losses, norms, named_parameters(&model))
}

#[test]
fn ten_steps_on_several_devices_are_those_of_one() {
    for device in cpu_devices() {
        let pairs = golden::pairs();
        for (optimizer, activation_checkpointing) in [(OptimizerName::Sgd, false), (OptimizerName::Adamw, true)] {
            let config = TrainConfig {
                optimizer,
                activation_checkpointing,
                micro_batch_size: 1,
                max_grad_norm: 0.5,
                ..TrainConfig::default()
            };
            let (losses, norms, weights) = trained(golden::policy(device), &Replicas::default(), &pairs, &config);
            // With 7 devices there are more of them than micro-batches.
            for num_others in [1, 2, 6] {
                let replicas = Replicas::new(vec![device.device.clone(); num_others]).unwrap();
                assert_eq!(replicas.num_devices(), num_others + 1);
                let (others, other_norms, other_weights) = trained(golden::policy(device), &replicas, &pairs, &config);
                let what = format!("{}, {} devices", device.name, num_others + 1);
                assert_near_by_norm(&what, &others, &losses, 1e-4);
                assert_near_by_norm(&what, &other_norms, &norms, 1e-4);
                for (name, values) in &weights {
                    assert_near_by_norm(&format!("{what}, {name}"), &other_weights[name], values, 1e-4);
                }
            }
        }
    }
}

#[test]
fn an_adapter_is_trained_on_two_devices_as_on_one() {
    for device in cpu_devices() {
        let pairs = golden::pairs();
        let config = TrainConfig { optimizer: OptimizerName::Sgd, micro_batch_size: 2, ..TrainConfig::default() };
        let model = || with_random_adapters(golden::policy(device), 2, 3);
        let (losses, _, weights) = trained(model(), &Replicas::default(), &pairs, &config);
        let replicas = Replicas::new(vec![device.device.clone()]).unwrap();
        let (others, _, other_weights) = trained(model(), &replicas, &pairs, &config);
        assert_near_by_norm(&device.name, &others, &losses, 1e-4);
        for (name, values) in &weights {
            assert_near_by_norm(&format!("{}, {name}", device.name), &other_weights[name], values, 1e-4);
        }
    }
}

#[cfg(unix)]
#[test]
fn a_run_on_two_devices_logs_the_losses_of_one_and_resumes_where_it_was_stopped() {
    let settings = ["iterations=1", "train.micro_batch_size=1"];
    let one = Recipe::new(&settings);
    one.finish("run");
    let two = Recipe::new(&[&settings[..], &["devices=[flex, flex]"]].concat());
    let said = two.finish("alone").stderr;
    assert!(said.contains("device     flex; training steps on flex, flex"), "{said}");
    let losses = |recipe: &Recipe, run: &str| -> Vec<f32> {
        let rows = read_json_lines(&recipe.path(run).join("metrics.jsonl"));
        rows.iter().map(|row| row["loss"].as_f64().unwrap() as f32).collect()
    };
    assert_near_by_norm("losses", &losses(&two, "alone"), &losses(&one, "run"), 1e-4);
    assert_stopped(&two.interrupt("stopped", "metrics.jsonl", 6..30, "INT"), 130);
    two.finish("stopped");
    two.assert_same("alone", "stopped");
}

#[cfg(unix)]
#[test]
fn device_and_devices_that_contradict_each_other_are_refused() {
    let recipe = Recipe::new(&[]);
    let arguments = ["train", "--model", "tiny", "--data", "rows.jsonl", "--device", "ndarray", "devices=[flex, flex]"];
    let stderr = gsil(recipe.folder.path(), &arguments).failed(2);
    assert!(stderr.contains("`ndarray` contradicts `devices`, whose first is `flex`"), "{stderr}");
    let arguments = ["train", "--model", "tiny", "--data", "rows.jsonl", "devices=[flex, tpu]"];
    let stderr = gsil(recipe.folder.path(), &arguments).failed(4);
    assert!(stderr.contains("device `tpu`: no such device"), "{stderr}");
}
