//! What the integration tests share: the devices to run on, small models, gradients by name, comparisons.
//!
//! Not here: the oracle's values of the tiny Llama ([`golden`]).

pub mod binary;
pub mod browser;
pub mod devices;
pub mod doors;
pub mod events;
pub mod faulty_disk;
#[path = "../../src/formats/gguf_builder.rs"]
pub mod gguf_builder;
pub mod golden;
#[cfg(feature = "hub")]
pub mod hub_place;
pub mod memory;
#[cfg(feature = "hub")]
pub mod mock_hub;
#[cfg(all(unix, feature = "server"))]
pub mod mock_server;
pub mod mutations;
#[cfg(unix)]
pub mod recipe;
pub mod tensors;
pub mod tiny_models;

use std::path::{Path, PathBuf};
use std::process::Command;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use gsil::config::{LoraConfig, ObjectiveConfig, ObjectiveName};
use gsil::data::batch::{Batch, Sequence};
use gsil::model::{CausalLm, ModelConfig, weights};
use gsil::objective::{Objective, SideLogProbs, log_probs};
use gsil::ops::Span;
use gsil::policy::Policy;
use gsil::report::console::Console;
use gsil::train::backward;
use gsil::train::pairs::Pair;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::Value;

pub use devices::{TestDevice, cpu_devices, devices, flex};
pub use tensors::{Named, assert_near, assert_near_by_norm, named_gradients, named_parameters};

/// A folder or file of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A model folder, ready for training.
pub fn load_model(folder: &Path, device: &Device) -> CausalLm {
    Policy::open(folder).unwrap().load(&device.clone().autodiff(), &Console::stderr()).unwrap()
}

/// A tiny model in which nothing is without effect: wide matrices, norms around 1, biases around 0. The values depend
/// on the seed alone, not on the device.
pub fn random_model(config: &Value, seed: u64, device: &Device) -> CausalLm {
    let config = ModelConfig::from_json(config, None, Path::new("a test's model")).unwrap();
    let model = weights::initialize(&config, seed, &device.clone().autodiff()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(seed + 1);
    let (model, _) = model.with_parameters(&mut |path, shape| match shape {
        [size] => {
            let middle = if path.ends_with("norm.weight") { 1.0 } else { 0.0 };
            Some(TensorData::new(uniform(&mut random, *size, middle, 0.4), [*size]))
        }
        _ => None,
    });
    model
}

/// Adapters on every projection, with both factors away from zero: a fresh adapter has no effect and half its
/// gradients are 0.
pub fn with_random_adapters(model: CausalLm, rank: usize, seed: u64) -> CausalLm {
    let targets = LoraConfig::MODULES.map(str::to_owned);
    let model = model.with_adapters(rank, 2.0 * rank as f64, &targets, seed);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (model, replaced) = model.with_parameters(&mut |path, shape| {
        let size = shape.iter().product();
        path.ends_with("lora.b").then(|| TensorData::new(uniform(&mut random, size, 0.0, 0.1), shape.to_vec()))
    });
    let num_adapters: usize = model.layers.iter().map(|layer| if layer.mlp.gate_proj.is_some() { 7 } else { 6 }).sum();
    assert_eq!(replaced, num_adapters);
    model
}

fn uniform(random: &mut ChaCha8Rng, size: usize, middle: f32, half_width: f32) -> Vec<f32> {
    let unit = |word: u32| (word >> 8) as f32 / (1u32 << 24) as f32;
    (0..size).map(|_| middle + half_width * (2.0 * unit(random.next_u32()) - 1.0)).collect()
}

/// Token ids below `vocab_size`, without the special ones 0, 1 and 2.
pub fn random_ids(seed: u64, len: usize, vocab_size: u32) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| 3 + random.next_u32() % (vocab_size - 3)).collect()
}

/// The raw loss, as the equations state it.
pub fn objective(name: ObjectiveName, scale: f64, shift: f64) -> Objective {
    Objective::new(&ObjectiveConfig { name, scale, shift, normalize: false, ..ObjectiveConfig::default() })
}

/// Demonstrations first, then self-generated responses, as in a training step.
pub fn sequences(pairs: &[Pair]) -> Vec<Sequence<'_>> {
    let demonstrations = pairs.iter().map(|pair| (pair, &pair.demonstration));
    let self_generated = pairs.iter().map(|pair| (pair, &pair.self_generated[0]));
    demonstrations
        .chain(self_generated)
        .map(|(pair, response)| Sequence { prompt_ids: &pair.prompt_ids, response_ids: &response.token_ids })
        .collect()
}

/// Log-prob of each sequence, nats, all of them in one batch.
pub fn scores(model: &CausalLm, sequences: &[Sequence<'_>], num_tokens_multiple: usize) -> Vec<f32> {
    token_scores(model, sequences, sequences.len(), num_tokens_multiple).iter().map(|row| row.iter().sum()).collect()
}

/// Token log-probs of each sequence, nats.
pub fn token_scores(
    model: &CausalLm,
    sequences: &[Sequence<'_>],
    batch_size: usize,
    num_tokens_multiple: usize,
) -> Vec<Vec<f32>> {
    log_probs::score(model, sequences, batch_size, num_tokens_multiple, &mut |_| Ok(())).unwrap()
}

/// Logits of every token of each row: `[T, V]` values, T being that row's own length.
pub fn logits(model: &CausalLm, rows: &[Vec<u32>], num_tokens_multiple: usize) -> Vec<Vec<f32>> {
    let sequences: Vec<Sequence<'_>> = rows.iter().map(|row| Sequence { prompt_ids: row, response_ids: &[] }).collect();
    let batch = Batch::new(&sequences, num_tokens_multiple);
    let values = weights::to_host(model.head(log_probs::hidden_states(model, &batch))).unwrap();
    let vocab_size = model.config().vocab_size;
    let of_row =
        |(span, row): (&Span, &Vec<u32>)| values[span.rows.start * vocab_size..][..row.len() * vocab_size].to_vec();
    batch.plan.spans().iter().zip(rows).map(of_row).collect()
}

/// The loss of every pair from the log-probs of [`sequences`], `[B]`.
pub fn pair_losses(objective: &Objective, pairs: &[Pair], log_probs: Tensor<1>) -> Tensor<1> {
    let device = log_probs.device().without_autodiff();
    let constant = |values: Vec<f32>| Tensor::<1>::from_floats(values.as_slice(), &device);
    let side = |first: usize, responses: Vec<(f64, usize)>| SideLogProbs {
        policy: log_probs.clone().narrow(0, first, pairs.len()),
        reference: constant(responses.iter().map(|(reference, _)| *reference as f32).collect()),
        num_tokens: constant(responses.iter().map(|(_, num_tokens)| *num_tokens as f32).collect()),
    };
    let demonstrations = pairs.iter().map(|pair| &pair.demonstration);
    let self_generated = pairs.iter().map(|pair| &pair.self_generated[0]);
    let demonstration = side(0, demonstrations.map(|r| (r.reference_log_prob, r.token_ids.len())).collect());
    let self_generated = side(pairs.len(), self_generated.map(|r| (r.reference_log_prob, r.token_ids.len())).collect());
    objective.loss(&demonstration, Some(&self_generated)).total
}

/// Gradients of the mean loss of `pairs`, all in one batch, by Hugging Face parameter name.
pub fn mean_loss_gradients(
    model: &CausalLm,
    objective: &Objective,
    pairs: &[Pair],
    activation_checkpointing: bool,
    num_tokens_multiple: usize,
) -> Named {
    let batch = Batch::new(&sequences(pairs), num_tokens_multiple);
    let (gradients, ()): (GradientsParams, ()) =
        backward::gradients(model, &batch, activation_checkpointing, |hidden| {
            let tokens = log_probs::read_tokens(model, hidden, &batch, !activation_checkpointing);
            let log_probs = log_probs::sum_by_sequence(tokens.log_probs, &batch);
            (pair_losses(objective, pairs, log_probs).mean(), ())
        });
    named_gradients(model, &gradients)
}

/// Runs the body of `test`, a path as in `hostile_template::name`, in a process of its own: threads that it leaves running end
/// with it instead of taking time and memory from all other tests.
pub fn in_its_own_process(test: &str, body: impl FnOnce()) {
    const IS_CHILD: &str = "GSIL_TEST_IN_ITS_OWN_PROCESS";
    if std::env::var_os(IS_CHILD).is_some() {
        return body();
    }
    let this_program = std::env::current_exe().unwrap();
    let output = Command::new(this_program).args(["--exact", test]).env(IS_CHILD, "1").output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
