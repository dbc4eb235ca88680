//! The configuration of a GGUF model, written as `config.json` and `generation_config.json`.
//!
//! Architectures `llama` (Llama, SmolLM, TinyLlama, Mistral), `qwen2` and `qwen3` are known. Tensor names are in
//! `gguf_model`.
//!
//! # Rotary factors
//! Llama 3.1 files carry a tensor `rope_freqs`: one factor for each rotary pair, by which its inverse frequency is
//! divided. If these are the factors of the published Llama 3 rule, the configuration says so in Hugging Face's
//! words (`rope_type: "llama3"`); otherwise it lists them: `{"rope_type": "factors", "factors": [..]}`.

use serde_json::{Value, json};

use super::gguf::GgufFile;
use crate::error::{Error, Result};

/// Architecture in GGUF; class and `model_type` in Hugging Face; whether query and key rows are interleaved.
const ARCHITECTURES: [(&str, &str, &str, bool); 3] = [
    ("llama", "LlamaForCausalLM", "llama", true),
    ("qwen2", "Qwen2ForCausalLM", "qwen2", false),
    ("qwen3", "Qwen3ForCausalLM", "qwen3", false),
];

/// Architectures of GGUF that this program reads as Hugging Face folders only.
const ONLY_AS_FOLDERS: [&str; 3] = ["gemma3", "phi3", "gpt2"];

/// The rotary factors: part of the configuration, not of the weights.
pub const ROTARY_FACTORS: &str = "rope_freqs.weight";

/// What both the configuration and the names need to know.
pub struct Dimensions {
    pub architecture: String,
    class: &'static str,
    model_type: &'static str,
    pub interleaved: bool,
    hidden: u64,
    pub num_layers: u64,
    pub num_heads: u64,
    pub num_kv_heads: u64,
    pub head_dim: u64,
}

impl Dimensions {
    pub fn read(file: &GgufFile) -> Result<Self> {
        let key = "general.architecture";
        let architecture = file.metadata.string(key)?.ok_or_else(|| file.metadata.missing(key))?;
        let Some(&(_, class, model_type, interleaved)) = ARCHITECTURES.iter().find(|known| known.0 == architecture)
        else {
            if ONLY_AS_FOLDERS.contains(&architecture) {
                let message = format!("GGUF of the architecture {architecture:?} is not supported");
                let hint = "its Hugging Face folder (config.json, model.safetensors) works";
                return Err(Error::input(file.path(), message).with_hint(hint));
            }
            let supported = ARCHITECTURES.map(|known| known.0).join(", ");
            return Err(Error::input(file.path(), format!("the architecture {architecture:?} is not supported"))
                .with_hint(format!("supported in GGUF files: {supported}")));
        };
        let count = |name: &str| positive(file, &format!("{architecture}.{name}"));
        let (hidden, num_heads) = (count("embedding_length")?, count("attention.head_count")?);
        let optional = |name: &str| file.metadata.u64(&format!("{architecture}.{name}"));
        let head_dim = optional("attention.key_length")?.unwrap_or(hidden / num_heads);
        for name in ["attention.value_length", "rope.dimension_count"] {
            if optional(name)?.is_some_and(|length| length != head_dim) {
                let message = format!("must equal the head size, {head_dim}: other models are not supported");
                return Err(Error::input(file.path(), message).at(format!("{architecture}.{name}")));
            }
        }
        Ok(Self {
            class,
            model_type,
            interleaved,
            hidden,
            num_layers: count("block_count")?,
            num_heads,
            num_kv_heads: optional("attention.head_count_kv")?.unwrap_or(num_heads),
            head_dim,
            architecture: architecture.to_owned(),
        })
    }

    /// The metadata key `name` of this architecture.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }
}

/// A required metadata integer of at least 1.
fn positive(file: &GgufFile, key: &str) -> Result<u64> {
    match file.metadata.u64(key)? {
        Some(0) => Err(Error::input(file.path(), "must be at least 1").at(key)),
        Some(value) => Ok(value),
        None => Err(file.metadata.missing(key)),
    }
}

pub fn config_json(file: &GgufFile, dimensions: &Dimensions) -> Result<Value> {
    let metadata = &file.metadata;
    let number = |name: &str, default: f64| Ok(metadata.f64(&dimensions.key(name))?.unwrap_or(default));
    let embedding =
        file.shape("token_embd.weight").ok_or_else(|| Error::input(file.path(), "has no token_embd.weight"))?;
    let has = |name: &str| file.shape(name).is_some();
    let mut config = json!({
        "architectures": [dimensions.class],
        "model_type": dimensions.model_type,
        "vocab_size": embedding[0],
        "hidden_size": dimensions.hidden,
        "intermediate_size": positive(file, &dimensions.key("feed_forward_length"))?,
        "num_hidden_layers": dimensions.num_layers,
        "num_attention_heads": dimensions.num_heads,
        "num_key_value_heads": dimensions.num_kv_heads,
        "head_dim": dimensions.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": positive(file, &dimensions.key("context_length"))?,
        "rms_norm_eps": metadata
            .f64(&dimensions.key("attention.layer_norm_rms_epsilon"))?
            .ok_or_else(|| metadata.missing(&dimensions.key("attention.layer_norm_rms_epsilon")))?,
        "rope_theta": number("rope.freq_base", 10_000.0)?,
        "rope_scaling": rope_scaling(file, dimensions)?,
        "tie_word_embeddings": !has("output.weight"),
        "torch_dtype": "float32",
    });
    if dimensions.model_type == "llama" {
        config["attention_bias"] = has("blk.0.attn_q.bias").into();
        config["mlp_bias"] = has("blk.0.ffn_gate.bias").into();
    }
    if let Some(window) = metadata.u64(&dimensions.key("attention.sliding_window"))? {
        config["sliding_window"] = window.into();
        if dimensions.model_type == "llama" {
            // A Llama has no window in transformers: this is a Mistral.
            config["architectures"] = json!(["MistralForCausalLM"]);
            config["model_type"] = "mistral".into();
        }
    }
    for name in ["bos", "eos", "pad"] {
        let id_key = if name == "pad" { "padding" } else { name };
        if let Some(id) = metadata.u64(&format!("tokenizer.ggml.{id_key}_token_id"))? {
            config[format!("{name}_token_id")] = id.into();
        }
    }
    Ok(config)
}

/// `rope_scaling` of the configuration; null for plain rotary embeddings. A factor without a type is linear, and so is the
/// `rope.scale_linear` of files from before there were types (GGUF's specification, "Rope").
fn rope_scaling(file: &GgufFile, dimensions: &Dimensions) -> Result<Value> {
    let metadata = &file.metadata;
    let [kind_key, factor_key, old_key] =
        ["rope.scaling.type", "rope.scaling.factor", "rope.scale_linear"].map(|name| dimensions.key(name));
    let factor = match metadata.f64(&factor_key)? {
        Some(factor) => Some(factor),
        None => metadata.f64(&old_key)?,
    };
    let changes_nothing = factor.is_none_or(|factor| factor == 0.0 || factor == 1.0);
    let kind = metadata.string(&kind_key)?.unwrap_or(if changes_nothing { "none" } else { "linear" });
    if file.shape(ROTARY_FACTORS).is_some() {
        if kind != "none" {
            return Err(Error::input(file.path(), "scaling and rotary factors together are not supported").at(kind_key));
        }
        return rotary_factors(file, dimensions);
    }
    let factor = || factor.ok_or_else(|| metadata.missing(&factor_key));
    match kind {
        "none" => Ok(Value::Null),
        "linear" => Ok(json!({"rope_type": "linear", "factor": factor()?})),
        "yarn" => {
            let original = positive(file, &dimensions.key("rope.scaling.original_context_length"))?;
            Ok(json!({"rope_type": "yarn", "factor": factor()?, "original_max_position_embeddings": original}))
        }
        other => {
            let message = format!("{other:?} is not supported; expected none, linear or yarn");
            Err(Error::input(file.path(), message).at(kind_key))
        }
    }
}

fn rotary_factors(file: &GgufFile, dimensions: &Dimensions) -> Result<Value> {
    let factors = file.read_f32(ROTARY_FACTORS)?;
    let place = format!("tensor `{ROTARY_FACTORS}`");
    if factors.len() as u64 * 2 != dimensions.head_dim {
        let message =
            format!("has {} values for heads of {}; expected half as many", factors.len(), dimensions.head_dim);
        return Err(Error::input(file.path(), message).at(place));
    }
    if let Some(bad) = factors.iter().find(|factor| !factor.is_finite() || **factor <= 0.0) {
        return Err(Error::input(file.path(), format!("has the impossible factor {bad}")).at(place));
    }
    let theta = file.metadata.f64(&dimensions.key("rope.freq_base"))?.unwrap_or(10_000.0);
    let largest = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let rule = llama3_factors(theta, factors.len(), largest);
    let is_llama3 = factors.iter().zip(rule).all(|(&found, expected)| (f64::from(found) / expected - 1.0).abs() < 1e-4);
    Ok(if is_llama3 {
        json!({"rope_type": "llama3", "factor": largest, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192})
    } else {
        json!({"rope_type": "factors", "factors": factors})
    })
}

/// The factors of Llama 3.1 and 3.2, whose published parameters are 8192 original positions and frequency bounds 1 and
/// 4.
///
/// With `w = 2 pi theta^(i / num_factors)`, the wavelength of pair `i`, and `x = (8192 / w - 1) / (4 - 1)`:
/// 1 where `x > 1`, `factor` where `x < 0`, and `1 / ((1 - x) / factor + x)` between.
fn llama3_factors(theta: f64, num_factors: usize, factor: f64) -> impl Iterator<Item = f64> {
    (0..num_factors).map(move |i| {
        let wavelength = 2.0 * std::f64::consts::PI * theta.powf(i as f64 / num_factors as f64);
        let x = ((8192.0 / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
        1.0 / ((1.0 - x) / factor + x)
    })
}

/// `generation_config.json`: the ids that start and end a text. The end of a turn counts as an end.
pub fn generation_config_json(file: &GgufFile) -> Result<Option<Value>> {
    let id = |name: &str| file.metadata.u64(&format!("tokenizer.ggml.{name}_token_id"));
    let Some(eos) = id("eos")? else { return Ok(None) };
    let end_of_turn = id("eot")?.filter(|end_of_turn| *end_of_turn != eos);
    let mut config = json!({"eos_token_id": end_of_turn.map_or_else(|| json!(eos), |other| json!([eos, other]))});
    for (name, key) in [("bos", "bos_token_id"), ("padding", "pad_token_id")] {
        if let Some(id) = id(name)? {
            config[key] = id.into();
        }
    }
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::gguf_builder::{GgufBuilder, tiny_model};
    use crate::formats::gguf_checks::{opened, refused};

    #[test]
    fn the_configuration_is_the_hugging_face_one() {
        let model = opened(&tiny_model("llama").u32("tokenizer.ggml.eos_token_id", 2).build()).unwrap();
        let expected = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 6, "hidden_size": 8,
            "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 4, "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "rope_scaling": null, "tie_word_embeddings": true, "torch_dtype": "float32",
            "attention_bias": false, "mlp_bias": false, "eos_token_id": 2,
        });
        assert_eq!(model.config, expected);
        assert_eq!(model.generation_config, Some(json!({"eos_token_id": 2})));
        assert_eq!(model.tokenizer, None);
    }

    #[test]
    fn an_end_of_turn_token_ends_generation_too() {
        let ids = tiny_model("llama").u32("tokenizer.ggml.eos_token_id", 2).u32("tokenizer.ggml.eot_token_id", 5);
        assert_eq!(opened(&ids.build()).unwrap().generation_config, Some(json!({"eos_token_id": [2, 5]})));
    }

    #[test]
    fn scaling_of_the_rotary_embedding_is_translated() {
        let scaling = |builder: GgufBuilder| opened(&builder.build()).unwrap().config["rope_scaling"].clone();
        let typed = |kind: &str| tiny_model("llama").string("llama.rope.scaling.type", kind);
        assert_eq!(scaling(typed("none")), Value::Null);
        let linear = typed("linear").f32("llama.rope.scaling.factor", 2.5);
        assert_eq!(scaling(linear), json!({"rope_type": "linear", "factor": 2.5}));
        // Older files name no type, and the oldest have another key.
        for key in ["llama.rope.scaling.factor", "llama.rope.scale_linear"] {
            let untyped = |factor| tiny_model("llama").f32(key, factor);
            assert_eq!(scaling(untyped(2.5)), json!({"rope_type": "linear", "factor": 2.5}), "{key}");
            assert_eq!(scaling(untyped(1.0)), Value::Null, "{key}");
            let factors = untyped(2.5).f32_tensor("rope_freqs.weight", &[2], &[1.0, 3.0]);
            refused(factors, "scaling and rotary factors together");
        }
        let yarn = typed("yarn").f32("llama.rope.scaling.factor", 4.0);
        assert_eq!(
            scaling(yarn.u32("llama.rope.scaling.original_context_length", 32)),
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32})
        );
        let factors = tiny_model("llama").f32_tensor("rope_freqs.weight", &[2], &[1.0, 3.0]);
        assert_eq!(scaling(factors), json!({"rope_type": "factors", "factors": [1.0, 3.0]}));
        refused(typed("linear"), "is missing from the metadata");
        refused(typed("longrope"), "\"longrope\" is not supported");
        refused(tiny_model("llama").f32_tensor("rope_freqs.weight", &[3], &[1.0; 3]), "has 3 values for heads of 4");
        refused(tiny_model("llama").f32_tensor("rope_freqs.weight", &[2], &[1.0, -1.0]), "impossible factor");
    }

    /// Llama 3.2 1B: head size 64, theta 500,000, factor 32. Expected: `inv_freq / inv_freq_llama` of
    /// `_compute_llama3_parameters` in transformers 5.23.0, its lines run in float64 with numpy 2.4.6.
    #[test]
    fn the_llama_3_rule_gives_the_published_factors() {
        let factors: Vec<f64> = llama3_factors(500_000.0, 32, 32.0).collect();
        let expected = [
            (0, 1.0),
            (14, 1.0),
            (15, 1.6513292457638982),
            (16, 3.2922621029408843),
            (17, 9.66672897875329),
            (18, 32.0),
            (31, 32.0),
        ];
        for (i, expected) in expected {
            assert!((factors[i] / expected - 1.0).abs() < 1e-9, "factor {i}: {}, expected {expected}", factors[i]);
        }
    }

    #[test]
    fn factors_of_the_llama_3_rule_are_recognised() {
        let rule: Vec<f32> = llama3_factors(500_000.0, 16, 8.0).map(|factor| factor as f32).collect();
        let mut model =
            GgufBuilder::default().string("general.architecture", "llama").f32("llama.rope.freq_base", 500_000.0);
        for (name, value) in
            [("block_count", 1), ("context_length", 64), ("embedding_length", 32), ("feed_forward_length", 4)]
        {
            model = model.u32(&format!("llama.{name}"), value);
        }
        model = model.u32("llama.attention.head_count", 1).f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        model = model.f32_tensor("token_embd.weight", &[32, 1], &[0.0; 32]);
        let config = opened(&model.f32_tensor("rope_freqs.weight", &[16], &rule).build()).unwrap().config;
        let expected = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 8192});
        assert_eq!(config["rope_scaling"], expected);
    }
}
