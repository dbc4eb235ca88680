//! A GGUF model seen as a Hugging Face one: the names of its tensors and the order of their rows.
//!
//! The tables below are the whole mapping. A file with a tensor that the tables lack is refused rather than read in
//! part. The configuration is in `gguf_config`, the tokenizer in `gguf_tokenizer`.
//!
//! # Row order
//! Hugging Face rotates pairs `(j, j + n/2)` of a head of `n` rows, GGUF's `llama` pairs `(2j, 2j + 1)`. So files of
//! that architecture hold the rows of each query and key head interleaved: GGUF row `2j + s` is Hugging Face row
//! `s n/2 + j`, for `s` in 0..2. Reading undoes it. `qwen2` and `qwen3` files keep the Hugging Face order.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::gguf::{GgufFile, open_gguf};
use super::gguf_config::{Dimensions, ROTARY_FACTORS, config_json, generation_config_json};
use super::gguf_tokenizer::tokenizer_files;
use super::{Arrangement, ModelFiles, TensorPlace, WeightFile, Weights};
use crate::error::{Error, Result};

/// Tensors that a model has once: GGUF name, Hugging Face name.
pub(super) const MODEL_TENSORS: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Tensors of layer N: GGUF name after `blk.N.`, Hugging Face name after `model.layers.N.`.
pub(super) const LAYER_TENSORS: [(&str, &str); 16] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("attn_output.bias", "self_attn.o_proj.bias"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_gate.bias", "mlp.gate_proj.bias"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_up.bias", "mlp.up_proj.bias"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("ffn_down.bias", "mlp.down_proj.bias"),
];

/// More of them, in `qwen3` files.
pub(super) const HEAD_NORM_TENSORS: [(&str, &str); 2] =
    [("attn_q_norm.weight", "self_attn.q_norm.weight"), ("attn_k_norm.weight", "self_attn.k_norm.weight")];

/// The layers' table of an architecture.
pub(super) fn layer_tensors(architecture: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let head_norms = if architecture == "qwen3" { &HEAD_NORM_TENSORS[..] } else { &[] };
    LAYER_TENSORS.iter().chain(head_norms).copied()
}

/// Opens a GGUF file as a Hugging Face model.
pub fn open_gguf_model(path: &Path) -> Result<ModelFiles> {
    let file = open_gguf(path)?;
    let metadata = &file.metadata;
    if metadata.u64("split.count")?.is_some_and(|count| count > 1) {
        return Err(Error::input(path, "is one part of a model in several files")
            .with_hint("join the parts with `llama-gguf-split --merge`"));
    }
    let dimensions = Dimensions::read(&file)?;
    let config = config_json(&file, &dimensions)?;
    let generation_config = generation_config_json(&file)?;
    let tokenizer = tokenizer_files(path, metadata)?;
    check_vocabulary(&file, &config)?;
    let tensors = place_tensors(&file, &dimensions)?;
    let weights = Weights { path: path.to_owned(), files: vec![WeightFile::Gguf(file)], tensors };
    Ok(ModelFiles { path: path.to_owned(), config, generation_config, tokenizer, weights })
}

/// Every token must have a row of the embedding.
fn check_vocabulary(file: &GgufFile, config: &Value) -> Result<()> {
    let key = "tokenizer.ggml.tokens";
    let num_tokens = file.metadata.strings(key)?.map_or(0, |tokens| tokens.len());
    match config["vocab_size"].as_u64() {
        Some(num_rows) if (num_tokens as u64) > num_rows => {
            let message = format!("has {num_tokens} tokens, but the embedding has {num_rows} rows");
            Err(Error::input(file.path(), message).at(key))
        }
        _ => Ok(()),
    }
}

/// Gives every tensor its Hugging Face name and row order.
fn place_tensors(file: &GgufFile, dimensions: &Dimensions) -> Result<BTreeMap<String, TensorPlace>> {
    let mut tensors = BTreeMap::new();
    for name in file.names().filter(|name| *name != ROTARY_FACTORS) {
        let hugging_face = hugging_face_name(name, dimensions).ok_or_else(|| {
            Error::input(file.path(), format!("is not part of a model of architecture `{}`", dimensions.architecture))
                .at(format!("tensor `{name}`"))
        })?;
        let heads = match () {
            _ if !dimensions.interleaved => None,
            _ if hugging_face.contains(".q_proj.") => Some(dimensions.num_heads),
            _ if hugging_face.contains(".k_proj.") => Some(dimensions.num_kv_heads),
            _ => None,
        };
        let arrangement = match heads {
            None => Arrangement::AsStored,
            Some(num_heads) => {
                check_head_rows(file, name, num_heads, dimensions.head_dim)?;
                Arrangement::Interleaved { num_heads: num_heads as usize }
            }
        };
        let shape = file.shape(name).unwrap_or_default().to_vec();
        tensors.insert(hugging_face, TensorPlace { file: 0, name_in_file: name.to_owned(), shape, arrangement });
    }
    Ok(tensors)
}

fn hugging_face_name(name: &str, dimensions: &Dimensions) -> Option<String> {
    let num_layers = dimensions.num_layers;
    if let Some((_, hugging_face)) = MODEL_TENSORS.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*hugging_face).to_owned());
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: u64 = layer.parse().ok().filter(|number: &u64| *number < num_layers && number.to_string() == layer)?;
    let (_, hugging_face) = layer_tensors(&dimensions.architecture).find(|(gguf, _)| *gguf == rest)?;
    Some(format!("model.layers.{layer}.{hugging_face}"))
}

fn check_head_rows(file: &GgufFile, name: &str, num_heads: u64, head_dim: u64) -> Result<()> {
    let num_rows = file.shape(name).map_or(0, |shape| shape[0]) as u64;
    if num_heads.checked_mul(head_dim) == Some(num_rows) && num_rows > 0 && head_dim.is_multiple_of(2) {
        return Ok(());
    }
    let message = format!("has {num_rows} rows, which do not make {num_heads} heads of {head_dim} rows");
    Err(Error::input(file.path(), message).at(format!("tensor `{name}`")))
}

/// Puts the rows of a query or key tensor into the Hugging Face order: see the head of this file.
pub(super) fn deinterleave_rows(values: &[f32], num_rows: usize, num_heads: usize) -> Vec<f32> {
    let row_len = values.len() / num_rows;
    let head_dim = num_rows / num_heads;
    let mut ordered = Vec::with_capacity(values.len());
    for head in values.chunks_exact(head_dim * row_len) {
        for s in 0..2 {
            for j in 0..head_dim / 2 {
                let row = 2 * j + s;
                ordered.extend_from_slice(&head[row * row_len..(row + 1) * row_len]);
            }
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::gguf_builder::{GgufBuilder, tiny_model};
    use crate::formats::gguf_checks::{opened, refused};
    use serde_json::json;

    #[test]
    fn names_and_shapes_are_the_hugging_face_ones() {
        let model = opened(&tiny_model("qwen2").build()).unwrap();
        assert_eq!(model.config["architectures"], json!(["Qwen2ForCausalLM"]));
        let shapes: Vec<_> = model.weights.names().map(|name| (name, model.weights.shape(name).unwrap())).collect();
        let expected: [(&str, &[usize]); 14] = [
            ("model.embed_tokens.weight", &[6, 8]),
            ("model.layers.0.input_layernorm.weight", &[8]),
            ("model.layers.0.mlp.down_proj.weight", &[8, 12]),
            ("model.layers.0.mlp.gate_proj.weight", &[12, 8]),
            ("model.layers.0.mlp.up_proj.weight", &[12, 8]),
            ("model.layers.0.post_attention_layernorm.weight", &[8]),
            ("model.layers.0.self_attn.k_proj.bias", &[4]),
            ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
            ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
            ("model.layers.0.self_attn.q_proj.bias", &[8]),
            ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
            ("model.layers.0.self_attn.v_proj.bias", &[4]),
            ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
            ("model.norm.weight", &[8]),
        ];
        assert_eq!(shapes, expected);
        assert_eq!(model.weights.num_bytes(), 4 * (48 + 8 + 96 * 3 + 8 + 4 + 32 + 64 + 8 + 64 + 4 + 32 + 8));
        let error = model.weights.read_f32("lm_head.weight").unwrap_err().to_string();
        assert!(error.contains("has no tensor `lm_head.weight`"), "{error}");
    }

    /// Two heads of 4 rows, one value a row. GGUF row `2j + s` of a head is Hugging Face row `2s + j`.
    #[test]
    fn rotary_pairs_move_from_neighbours_to_halves() {
        let in_file = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0];
        assert_eq!(deinterleave_rows(&in_file, 8, 2), [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0]);
    }

    #[test]
    fn only_llama_has_interleaved_query_and_key_rows() {
        for (architecture, interleaved) in [("llama", true), ("qwen2", false), ("qwen3", false)] {
            let model = opened(&tiny_model(architecture).build()).unwrap();
            let Some(WeightFile::Gguf(file)) = model.weights.files.first() else { panic!("one GGUF file") };
            let moved = |gguf: &str, hugging_face: &str| {
                let name = format!("model.layers.0.self_attn.{hugging_face}.weight");
                file.read_f32(&format!("blk.0.{gguf}.weight")).unwrap() != model.weights.read_f32(&name).unwrap()
            };
            assert_eq!((moved("attn_q", "q_proj"), moved("attn_k", "k_proj")), (interleaved, interleaved));
            assert!(!moved("attn_v", "v_proj") && !moved("attn_output", "o_proj"));
        }
    }

    #[test]
    fn models_of_other_kinds_are_refused() {
        refused(GgufBuilder::default().u32("k", 1), "is missing from the metadata");
        refused(GgufBuilder::default().string("general.architecture", "bert"), "\"bert\" is not supported");
        for architecture in ["gemma3", "phi3", "gpt2"] {
            let error = opened(&tiny_model(architecture).build()).unwrap_err();
            let expected = format!("GGUF of the architecture {architecture:?} is not supported");
            assert!(error.to_string().contains(&expected), "{error}");
            assert!(error.hint().unwrap().contains("Hugging Face folder"), "{error}");
        }
        refused(tiny_model("llama").u32("split.count", 3), "one part of a model");
        let words = tiny_model("llama").strings("tokenizer.ggml.tokens", &["a", "b", "c", "d", "e", "f", "g"]);
        refused(words, "has 7 tokens, but the embedding has 6 rows");
        refused(tiny_model("llama").u32("llama.rope.dimension_count", 2), "must equal the head size, 4");
        refused(tiny_model("llama").u32("llama.attention.key_length", 6), "do not make 1 heads of 6 rows");
        let extra = |name: &str| tiny_model("llama").f32_tensor(name, &[8], &[0.0; 8]);
        refused(extra("blk.0.attn_q_norm.weight"), "tensor `blk.0.attn_q_norm.weight`: is not part of a model");
        refused(extra("blk.1.attn_norm.weight"), "is not part");
        refused(extra("blk.00.attn_norm.weight"), "is not part");
        let no_heads = GgufBuilder::default().string("general.architecture", "llama").u32("llama.embedding_length", 8);
        refused(no_heads.u32("llama.attention.head_count", 0), "must be at least 1");
    }
}
