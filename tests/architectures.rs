//! Every architecture in tiny: gradients against PyTorch's, windows, files and back, training with and without adapters.
//!
//! Logits and cached decoding are in [`crate::decoding`]. The models here are those of [`crate::support::tiny_models`] that have
//! gradients; where there is a window, the rows are longer than it.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use gsil::config::{LoraConfig, ObjectiveName, RunConfig};
use gsil::data::batch::{Batch, Sequence};
use gsil::formats::hf_folder::write_model_folder;
use gsil::formats::safetensors::{HostTensor, open_safetensors};
use gsil::formats::{TensorToWrite, open_model};
use gsil::model::{CausalLm, KvCache, ModelConfig, weights};
use gsil::objective::log_probs::read_tokens;
use gsil::policy::Policy;
use gsil::report::console::Console;
use gsil::train::backward;
use gsil::train::checkpoint;
use gsil::train::pairs::{Pair, ScoredResponse};
use gsil::train::setup::Run;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{export, read_json, text};
use crate::support::golden::{GRADIENT_TOLERANCE, VALUE_TOLERANCE};
use crate::support::tiny_models::{self, VOCAB_SIZE, folder_of, with_gradients};
use crate::support::{
    Named, TestDevice, assert_near, assert_near_by_norm, cpu_devices, devices, fixture, load_model, logits,
    mean_loss_gradients, named_gradients, named_parameters, objective, random_ids, with_random_adapters,
};

/// The oracle's two rows of 24 tokens.
fn oracle_rows(name: &str) -> Vec<Vec<u32>> {
    let expected = open_safetensors(&folder_of(name).join("expected.safetensors")).unwrap();
    let ids: Vec<u32> = expected.read_f32("input_ids").unwrap().iter().map(|id| *id as u32).collect();
    ids.chunks(24).map(<[u32]>::to_vec).collect()
}

/// Gradients of the mean log-prob of tokens 1 to 23.
fn gradients_of_log_probs(model: &CausalLm, rows: &[Vec<u32>], device: &TestDevice, checkpointing: bool) -> Named {
    let sequences: Vec<Sequence<'_>> =
        rows.iter().map(|row| Sequence { prompt_ids: &row[..1], response_ids: &row[1..] }).collect();
    let batch = Batch::new(&sequences, device.num_tokens_multiple());
    let num_tokens = batch.num_response_tokens() as f32;
    let (gradients, ()) = backward::gradients(model, &batch, checkpointing, |hidden| {
        (read_tokens(model, hidden, &batch, !checkpointing).log_probs.sum() / num_tokens, ())
    });
    named_gradients(model, &gradients)
}

/// The same under the names and in the layouts of the architecture's own files.
fn as_in_file(gradients: Named, model: &Path) -> Named {
    let files = open_model(model).unwrap();
    let tensor = |(name, values): (String, Vec<f32>)| -> TensorToWrite<'static> {
        let shape = files.weights.shape(&name).unwrap_or_else(|| panic!("no tensor {name}")).to_vec();
        HostTensor { name, shape, values }.into()
    };
    let folder = tempdir().unwrap();
    let path = folder.path().join("gradients");
    write_model_folder(&path, &files.config, None, None, gradients.into_iter().map(tensor).collect()).unwrap();
    let written = open_safetensors(&path.join("model.safetensors")).unwrap();
    written.names().map(|name| (name.to_owned(), written.read_f32(name).unwrap())).collect()
}

#[test]
fn every_tiny_model_is_in_the_list_that_the_tests_go_through() {
    let entries = fs::read_dir(fixture("tiny_models")).unwrap();
    let mut folders: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut listed: Vec<&str> = tiny_models::all().collect();
    folders.sort_unstable();
    listed.sort_unstable();
    assert_eq!(folders, listed);
    for name in listed {
        let expected = open_safetensors(&folder_of(name).join("expected.safetensors")).unwrap();
        let has_gradients = expected.names().any(|tensor| tensor.starts_with("grad."));
        assert_eq!(with_gradients().any(|other| other == name), has_gradients, "{name}");
    }
}

#[test]
fn gradients_of_every_architecture_are_those_of_torch_with_and_without_activation_checkpointing() {
    for device in devices() {
        for name in with_gradients() {
            let expected = open_safetensors(&folder_of(name).join("expected.safetensors")).unwrap();
            let model = load_model(&folder_of(name), &device.device);
            for checkpointing in [false, true] {
                let gradients = gradients_of_log_probs(&model, &oracle_rows(name), device, checkpointing);
                assert_eq!(gradients.len(), named_parameters(&model).len(), "{name}: every parameter has a gradient");
                let gradients = as_in_file(gradients, &folder_of(name));
                let names: Vec<&str> = expected.names().filter_map(|name| name.strip_prefix("grad.")).collect();
                assert!(names.len() >= 9, "{names:?}");
                for parameter in names {
                    let what = format!("{}: {name}: {parameter}, checkpointing {checkpointing}", device.name);
                    let expected = expected.read_f32(&format!("grad.{parameter}")).unwrap();
                    assert_near_by_norm(&what, &gradients[parameter], &expected, GRADIENT_TOLERANCE);
                }
            }
        }
    }
}

#[test]
fn the_number_of_parameters_is_that_of_the_model() {
    for name in with_gradients() {
        for device in cpu_devices() {
            let model = load_model(&folder_of(name), &device.device);
            let found: usize = named_parameters(&model).values().map(Vec::len).sum();
            assert_eq!(model.config().num_parameters(), found, "{name}");
        }
    }
}

/// A copy of a tiny model with changes in its configuration.
fn changed(parent: &Path, name: &str, changes: &[(&str, Value)]) -> PathBuf {
    let copy = parent.join(format!("{name}-{}", fs::read_dir(parent).unwrap().count()));
    fs::create_dir(&copy).unwrap();
    fs::copy(folder_of(name).join("model.safetensors"), copy.join("model.safetensors")).unwrap();
    let mut config = read_json(&folder_of(name).join("config.json"));
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    fs::write(copy.join("config.json"), config.to_string()).unwrap();
    copy
}

// With a window that no query looks beyond, attention runs through the same fused kernels as without one.
#[test]
fn a_window_as_long_as_the_sequence_changes_no_bit_and_a_shorter_one_does() {
    let parent = tempdir().unwrap();
    for device in cpu_devices() {
        let rows = oracle_rows("mistral_window");
        let with_window = |window: Value| {
            let folder = changed(parent.path(), "mistral_window", &[("sliding_window", window)]);
            logits(&load_model(&folder, &device.device), &rows, 1)
        };
        let none = with_window(Value::Null);
        assert_eq!(with_window(json!(24)), none, "{}", device.name);
        let shorter = with_window(json!(23));
        // Only the last token is further than that from the first.
        let before =
            |all: &[Vec<f32>]| all.iter().map(|row| row[..23 * VOCAB_SIZE as usize].to_vec()).collect::<Vec<_>>();
        let last =
            |all: &[Vec<f32>]| all.iter().map(|row| row[23 * VOCAB_SIZE as usize..].to_vec()).collect::<Vec<_>>();
        assert_near(&device.name, &before(&shorter).concat(), &before(&none).concat(), 1e-4);
        assert!(last(&shorter).concat().iter().zip(last(&none).concat()).any(|(a, b)| (a - b).abs() > 1e-3));
    }
}

/// The cache that devices other than the CPU decode with: prompts padded on the left, then one token at a time.
#[test]
fn decoding_over_a_padded_cache_gives_the_logits_of_the_full_forward() {
    const NUM_NEW: usize = 20;
    for device in cpu_devices() {
        for name in with_gradients() {
            let model = load_model(&folder_of(name), &device.device).valid();
            let rows = [random_ids(1, 11 + NUM_NEW, VOCAB_SIZE), random_ids(2, 4 + NUM_NEW, VOCAB_SIZE)];
            let full = logits(&model, &rows, 1);
            let mut cache = KvCache::new(model.config(), &[11, 4], 11 + NUM_NEW, &model.device());
            for step in 0..NUM_NEW {
                let ids: Vec<i32> = match step {
                    0 => rows[0][..11].iter().chain(&[0; 7]).chain(&rows[1][..4]).map(|id| *id as i32).collect(),
                    _ => vec![rows[0][10 + step] as i32, rows[1][3 + step] as i32],
                };
                let found = weights::to_host(model.decode(&ids, &mut cache)).unwrap();
                let at = |row: usize, token: usize| full[row].chunks(VOCAB_SIZE as usize).nth(token).unwrap();
                let expected = [at(0, 10 + step), at(1, 3 + step)].concat();
                assert_near(&format!("{}: {name}, step {step}", device.name), &found, &expected, VALUE_TOLERANCE);
            }
        }
    }
}

#[test]
fn fresh_weights_of_every_architecture_give_finite_logits_and_norms_start_as_one() {
    for device in cpu_devices() {
        for name in with_gradients() {
            let config = read_json(&folder_of(name).join("config.json"));
            let config = ModelConfig::from_json(&config, None, Path::new(name)).unwrap();
            let model = weights::initialize(&config, 1, &device.device).unwrap();
            let parameters = named_parameters(&model);
            let expected = if name == "gemma3" { 0.0 } else { 1.0 };
            assert!(parameters["model.norm.weight"].iter().all(|value| *value == expected), "{name}");
            assert!(logits(&model, &oracle_rows(name), 1).concat().iter().all(|value| value.is_finite()), "{name}");
        }
    }
}

#[test]
fn an_hf_export_of_every_architecture_is_the_file_that_it_was_made_from() {
    let folder = tempdir().unwrap();
    for name in with_gradients() {
        let output = folder.path().join(name);
        export(folder.path(), &folder_of(name), "hf", &output, &[]).succeeded();
        let [ours, theirs] =
            [&output, &folder_of(name)].map(|path| open_safetensors(&path.join("model.safetensors")).unwrap());
        assert_eq!(ours.names().collect::<Vec<_>>(), theirs.names().collect::<Vec<_>>());
        for tensor in theirs.names() {
            assert_eq!(ours.shape(tensor), theirs.shape(tensor), "{name}: {tensor}");
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let [ours, theirs] = [&ours, &theirs].map(|file| bits(file.read_f32(tensor).unwrap()));
            assert_eq!(ours, theirs, "{name}: {tensor}");
        }
    }
}

#[test]
fn what_gguf_and_mlx_cannot_hold_is_refused_with_what_works() {
    let folder = tempdir().unwrap();
    for (name, what) in [
        ("phi3", "Phi3ForCausalLM"),
        ("gemma3", "Gemma3ForCausalLM"),
        ("gpt2", "GPT2LMHeadModel"),
        ("mistral_window", "a model with a sliding window"),
    ] {
        for (format, title) in [("gguf", "GGUF"), ("mlx", "mlx")] {
            let output = folder.path().join(name);
            let stderr = export(folder.path(), &folder_of(name), format, &output, &[]).failed(3);
            assert!(stderr.contains(&format!("{title} of {what} is not supported")), "{stderr}");
            assert!(stderr.contains("--format hf works"), "{stderr}");
            assert!(!output.exists(), "{format} of {name}");
        }
    }
}

/// Demonstrations as token ids, longer than any window.
fn write_rows(path: &Path) {
    let row = |i: u64| {
        let (prompt, response) = (random_ids(i, 9, VOCAB_SIZE), random_ids(100 + i, 8, VOCAB_SIZE));
        json!({"prompt_ids": prompt, "response_ids": response}).to_string()
    };
    fs::write(path, (0..3).map(row).collect::<Vec<_>>().join("\n")).unwrap();
}

/// One iteration; the run folder.
fn trained(parent: &Path, name: &str, device: &TestDevice, settings: &[&str]) -> PathBuf {
    let data = parent.join("rows.jsonl");
    write_rows(&data);
    let mut config = RunConfig {
        model: Some(text(folder_of(name))),
        data: Some(text(&data)),
        device: device.name.clone(),
        ..RunConfig::default()
    };
    let common = ["generation.max_new_tokens=9", "generation.unfinished=mask", "train.lr=1e-2", "train.batch_size=3"];
    common.iter().chain(settings).for_each(|setting| config.set(setting).unwrap());
    config.resolve();
    config.validate().unwrap();
    let output = parent.join(format!("{name}-{}-{}", device.name, settings.len()));
    let (run, model) = Run::start(config, &output, Console::stderr()).unwrap();
    run.train(model).unwrap();
    output
}

#[test]
fn every_architecture_trains_all_weights_and_exports_what_it_trained() {
    let parent = tempdir().unwrap();
    for device in cpu_devices() {
        for name in with_gradients() {
            let run = trained(parent.path(), name, device, &["train.activation_checkpointing=true"]);
            let (before, after) =
                (load_model(&folder_of(name), &device.device), load_model(&run.join("model"), &device.device));
            let (before, after) = (named_parameters(&before), named_parameters(&after));
            assert!(before.iter().all(|(parameter, values)| after[parameter] != *values), "{name}: all have moved");
        }
    }
}

#[test]
fn every_architecture_trains_adapters_and_exports_them_merged() {
    let parent = tempdir().unwrap();
    for device in cpu_devices() {
        for name in with_gradients() {
            let run = trained(parent.path(), name, device, &["lora.rank=2", "lora.alpha=4"]);
            let checkpoint = fs::read_to_string(run.join("latest")).unwrap();
            let file = run.join("checkpoints").join(checkpoint.trim()).join("parameters.safetensors");
            let plain = load_model(&folder_of(name), &device.device);
            let start = logits(&plain, &oracle_rows(name), 1).concat();
            let adapted = plain.with_adapters(2, 4.0, &LoraConfig::MODULES.map(str::to_owned), 0);
            let adapted = checkpoint::load_parameters(&file, adapted).unwrap();
            let expected = logits(&adapted, &oracle_rows(name), 1).concat();
            let merged = load_model(&run.join("model"), &device.device);
            let what = format!("{}: {name}", device.name);
            assert_near(&what, &logits(&merged, &oracle_rows(name), 1).concat(), &expected, VALUE_TOLERANCE);
            assert!(
                start.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-3),
                "{what}: the adapters have an effect"
            );

            let output = parent.path().join(format!("{name}-{}-adapter", device.name));
            let outcome = export(parent.path(), &run, "peft", &output, &[]);
            match name {
                "phi3" | "gpt2" => {
                    let stderr = outcome.failed(3);
                    assert!(stderr.contains("has no module `q_proj`") && stderr.contains("--format hf"), "{stderr}");
                }
                _ => assert!(outcome.succeeded().stderr.contains("written")),
            }
        }
    }
}

#[test]
fn activation_checkpointing_changes_no_gradient_of_any_architecture_with_adapters() {
    let response =
        |seed, len| ScoredResponse { token_ids: random_ids(seed, len, VOCAB_SIZE), reference_log_prob: -20.0 };
    let pairs: Vec<Pair> = (0..2)
        .map(|i| Pair {
            index: i as usize,
            prompt_ids: random_ids(i, 9, VOCAB_SIZE),
            demonstration: response(10 + i, 5),
            self_generated: vec![response(20 + i, 3)],
            distributions: Vec::new(),
        })
        .collect();
    let objective = objective(ObjectiveName::Bernoulli, 0.1, 0.0);
    for device in cpu_devices() {
        for name in with_gradients() {
            let model = with_random_adapters(load_model(&folder_of(name), &device.device), 2, 9);
            let plain = mean_loss_gradients(&model, &objective, &pairs, false, 1);
            let checkpointed = mean_loss_gradients(&model, &objective, &pairs, true, 1);
            assert_eq!(plain.keys().collect::<Vec<_>>(), checkpointed.keys().collect::<Vec<_>>(), "{name}");
            assert!(plain.keys().all(|parameter| parameter.contains(".lora.")), "{name}");
            for (parameter, expected) in &plain {
                let what = format!("{}: {name}: {parameter}", device.name);
                assert_near_by_norm(&what, &checkpointed[parameter], expected, 1e-5);
            }
        }
    }
}

#[test]
fn a_qwen3_gguf_is_read_and_written_with_the_norms_of_its_heads() {
    let folder = tempdir().unwrap();
    let output = folder.path().join("gguf");
    export(folder.path(), &folder_of("qwen3"), "gguf", &output, &["--dtype", "f32"]).succeeded();
    let read = Policy::open(&output.join("model.gguf")).unwrap();
    assert_eq!(read.files.config["architectures"], json!(["Qwen3ForCausalLM"]));
    assert_eq!(read.config.head_dim, 16);
    for device in cpu_devices() {
        let model = read.load(&device.device, &Console::stderr()).unwrap().valid();
        let expected = logits(&load_model(&folder_of("qwen3"), &device.device), &oracle_rows("qwen3"), 1);
        assert_eq!(logits(&model, &oracle_rows("qwen3"), 1), expected, "{}", device.name);
    }
}
