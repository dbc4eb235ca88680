//! The oracle: values of two tiny random Llamas that PyTorch 2.15 and transformers 5.23 computed in float32 on a CPU.
//!
//! `tiny_llama` is the policy, `tiny_llama_reference` the reference: 2 layers, hidden 64, 4 heads, 2 key-value heads,
//! vocabulary 515, tied embeddings. `tiny_pairs.jsonl` has three pairs as token ids.

use gsil::data::examples::{FileRows, Preparation};
use gsil::data::rows::read_rows;
use gsil::formats::safetensors::{SafetensorsFile, open_safetensors};
use gsil::model::CausalLm;
use gsil::train::pairs::{Pair, ScoredResponse};
use serde_json::Value;

use super::{TestDevice, fixture, load_model};

/// Logits and log-probs: absolute, nats.
pub const VALUE_TOLERANCE: f64 = 1e-4;
/// Gradients: relative to each tensor's norm.
pub const GRADIENT_TOLERANCE: f64 = 1e-3;
/// The longest row of the oracle's batch, in tokens.
pub const NUM_TOKENS: usize = 21;
pub const VOCAB_SIZE: usize = 515;

pub fn policy(device: &TestDevice) -> CausalLm {
    load_model(&fixture("golden/tiny_llama"), &device.device)
}

pub fn reference(device: &TestDevice) -> CausalLm {
    load_model(&fixture("golden/tiny_llama_reference"), &device.device)
}

/// `input_ids`, `logits`, `token_log_probs`, `grad.<objective>.<parameter>` and more.
pub fn tensors() -> SafetensorsFile {
    open_safetensors(&fixture("golden/tiny_llama.safetensors")).unwrap()
}

/// Objective values, log-probs, ten losses of two optimizers.
pub fn values() -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture("golden/tiny_llama.json")).unwrap()).unwrap()
}

/// A list of numbers in [`values`].
pub fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// The three pairs, with the oracle's log-probs under its reference.
pub fn pairs() -> Vec<Pair> {
    let path = fixture("golden/tiny_pairs.jsonl");
    let rows = read_rows(&path, None, None).unwrap();
    let preparation =
        Preparation { tokenizer: None, vocab_size: VOCAB_SIZE, max_length: NUM_TOKENS, is_limited_by_context: false };
    let (examples, _) = preparation.examples(&[FileRows { path, rows }], &mut |_| {}).unwrap();
    let reference = numbers(&values()["reference_log_prob"]);
    let num_pairs = examples.len();
    let scored = |token_ids: &[u32], row: usize| ScoredResponse {
        token_ids: token_ids.to_vec(),
        reference_log_prob: f64::from(reference[row]),
    };
    let pairs = examples.iter().enumerate().map(|(i, example)| Pair {
        index: example.index,
        prompt_ids: example.prompt_ids.clone(),
        demonstration: scored(&example.demonstration_ids, i),
        self_generated: vec![scored(example.self_generated_ids.as_ref().unwrap(), num_pairs + i)],
        distributions: Vec::new(),
    });
    pairs.collect()
}
