//! The architecture of a model, read from Hugging Face's `config.json`.
//!
//! One decoder serves the Llama family (Llama 2 and 3, SmolLM2, TinyLlama, Mistral) and Qwen2: they differ in a few
//! switches, all of them fields here. What this decoder cannot do is refused by name, never ignored.
//! Next: [`super::causal_lm`].

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::ops::Heads;

/// Everything that shapes the computation. Field names are Hugging Face's.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    /// The longest sequence that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// The head is the embedding, transposed.
    pub tie_word_embeddings: bool,
    /// Bias on the query, key and value projections (Qwen2; Llama's `attention_bias`).
    pub qkv_bias: bool,
    /// Bias on the attention's output projection (Llama's `attention_bias`).
    pub output_bias: bool,
    /// Bias on the three projections of the feed-forward block.
    pub mlp_bias: bool,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// Tokens that end a response, from `generation_config.json` and `config.json`; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// Standard deviation of freshly made weights.
    pub initializer_range: f64,
}

/// Limits that no real model comes near, and within which [`ModelConfig::num_parameters`] cannot overflow.
const MAX_WIDTH: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;
const MAX_COUNT: usize = 0x7fff_ffff;

/// How rotary frequencies are stretched for contexts longer than in pre-training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// Every frequency divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: f64,
    },
    /// One divisor for each frequency, as GGUF files of Llama 3 carry them.
    Factors(Vec<f64>),
}

impl ModelConfig {
    /// Reads `config.json` and, for the end tokens, `generation_config.json`. `path` is only named in errors.
    ///
    /// # Errors
    /// An unsupported architecture or option, a missing or impossible field, each by its name.
    pub fn from_json(config: &Value, generation_config: Option<&Value>, path: &Path) -> Result<Self> {
        let fields = Fields { config, path };
        let architecture = fields.architecture()?;
        let hidden_size = fields.size("hidden_size", MAX_WIDTH)?;
        let num_attention_heads = fields.size("num_attention_heads", MAX_WIDTH)?;
        let num_hidden_layers = fields.size("num_hidden_layers", MAX_LAYERS)?;
        let attention_bias = fields.flag("attention_bias")?;
        let max_position_embeddings = fields.size("max_position_embeddings", MAX_COUNT)?;
        let rope = Rope::read(&fields, max_position_embeddings)?;
        let result = ModelConfig {
            vocab_size: fields.size("vocab_size", MAX_COUNT)?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size", MAX_WIDTH)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: fields.optional_size("num_key_value_heads", MAX_WIDTH)?.unwrap_or(num_attention_heads),
            head_dim: fields.optional_size("head_dim", MAX_WIDTH)?.unwrap_or(hidden_size / num_attention_heads),
            rms_norm_eps: fields.number("rms_norm_eps", 1e-6)?,
            max_position_embeddings,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?,
            qkv_bias: attention_bias || architecture == Architecture::Qwen2,
            output_bias: attention_bias,
            mlp_bias: fields.flag("mlp_bias")?,
            rope_theta: rope.theta,
            rope_scaling: rope.scaling,
            eos_token_ids: end_tokens(&fields, generation_config)?,
            initializer_range: fields.number("initializer_range", 0.02)?,
        };
        result.check(&fields)?;
        Ok(result)
    }

    /// Trainable numbers of the whole model.
    pub fn num_parameters(&self) -> usize {
        let (d, q, kv) = (self.hidden_size, self.query_size(), self.key_value_size());
        let bias = |present: bool, n: usize| if present { n } else { 0 };
        let attention = 2 * d * q + 2 * d * kv + bias(self.qkv_bias, q + 2 * kv) + bias(self.output_bias, d);
        let mlp = 3 * d * self.intermediate_size + bias(self.mlp_bias, 2 * self.intermediate_size + d);
        let embeddings = self.vocab_size * d * if self.tie_word_embeddings { 1 } else { 2 };
        embeddings + self.num_hidden_layers * (attention + mlp + 2 * d) + d
    }

    /// How queries, keys and values are divided into heads.
    pub fn heads(&self) -> Heads {
        Heads {
            num_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
        }
    }

    /// Width of all query heads together, H * head_dim.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together, K * head_dim.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    fn check(&self, fields: &Fields<'_>) -> Result<()> {
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(fields.error(
                "num_key_value_heads",
                format!("{} query heads cannot share {} key heads", self.num_attention_heads, self.num_key_value_heads),
            ));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            let message = format!("{} is not possible; rotary embedding needs pairs", self.head_dim);
            return Err(fields.error("head_dim", message));
        }
        if self.query_size() > MAX_WIDTH {
            let message = format!("{} heads of {} are too wide", self.num_attention_heads, self.head_dim);
            return Err(fields.error("num_attention_heads", message));
        }
        if let RopeScaling::Factors(factors) = &self.rope_scaling {
            if factors.len() != self.head_dim / 2 {
                let message = format!("expected {} factors, got {}", self.head_dim / 2, factors.len());
                return Err(fields.error("rope_scaling.factors", message));
            }
            if let Some(bad) = factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
                return Err(fields.error("rope_scaling.factors", format!("{bad} is not possible; expected above 0")));
            }
        }
        let activation = fields.config.get("hidden_act").and_then(Value::as_str).unwrap_or("silu");
        if activation != "silu" {
            return Err(fields.error("hidden_act", format!("`{activation}` is not supported; expected `silu`")));
        }
        let window = fields.config.get("sliding_window").and_then(Value::as_u64);
        let window_used = fields.config.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(true);
        match window {
            Some(window) if window_used && (window as usize) < self.max_position_embeddings => Err(fields
                .error("sliding_window", format!("a window of {window} tokens is not supported"))
                .with_hint("models whose window covers their whole context work; Mistral from v0.2 has none")),
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Architecture {
    Llama,
    Qwen2,
}

/// Access to `config.json` with errors that name the field.
struct Fields<'a> {
    config: &'a Value,
    path: &'a Path,
}

impl Fields<'_> {
    fn error(&self, field: &str, message: impl Into<String>) -> Error {
        Error::input(self.path, message).at(format!("config.json, field `{field}`"))
    }

    fn architecture(&self) -> Result<Architecture> {
        let listed = self.config.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
        let name = listed.or_else(|| self.config.get("model_type").and_then(Value::as_str)).unwrap_or("(none)");
        match name {
            "LlamaForCausalLM" | "MistralForCausalLM" | "llama" | "mistral" => Ok(Architecture::Llama),
            "Qwen2ForCausalLM" | "qwen2" => Ok(Architecture::Qwen2),
            _ => Err(self
                .error("architectures", format!("architecture `{name}` is not supported"))
                .with_hint("supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM")),
        }
    }

    fn optional_size(&self, field: &str, most: usize) -> Result<Option<usize>> {
        match self.config.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|size| usize::try_from(size).ok()) {
                Some(size) if (1..=most).contains(&size) => Ok(Some(size)),
                _ => Err(self.error(field, format!("expected a whole number from 1 to {most}, got {}", shown(value)))),
            },
        }
    }

    fn size(&self, field: &str, most: usize) -> Result<usize> {
        self.optional_size(field, most)?.ok_or_else(|| self.error(field, "is missing"))
    }

    fn flag(&self, field: &str) -> Result<bool> {
        match self.config.get(field) {
            None | Some(Value::Null) => Ok(false),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.error(field, format!("expected true or false, got {}", shown(value)))),
        }
    }

    fn number(&self, field: &str, default: f64) -> Result<f64> {
        match self.config.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() && number > 0.0 => Ok(number),
                _ => Err(self.error(field, format!("expected a positive number, got {}", shown(value)))),
            },
        }
    }
}

struct Rope {
    theta: f64,
    scaling: RopeScaling,
}

impl Rope {
    /// Older files have `rope_theta` and `rope_scaling`, newer ones (transformers 5) one object `rope_parameters`.
    fn read(fields: &Fields<'_>, max_position_embeddings: usize) -> Result<Self> {
        let object = |name: &str| fields.config.get(name).filter(|value| value.is_object());
        let (name, scaling) = match (object("rope_parameters"), object("rope_scaling")) {
            (Some(value), _) => ("rope_parameters", value),
            (None, Some(value)) => ("rope_scaling", value),
            (None, None) => {
                return Ok(Rope { theta: fields.number("rope_theta", 10_000.0)?, scaling: RopeScaling::None });
            }
        };
        let inner = Fields { config: scaling, path: fields.path };
        let theta = match scaling.get("rope_theta") {
            Some(_) => inner.number("rope_theta", 10_000.0)?,
            None => fields.number("rope_theta", 10_000.0)?,
        };
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str);
        let scaling = match kind.unwrap_or("default") {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: inner.number("factor", 1.0)? },
            "llama3" => RopeScaling::Llama3 {
                factor: inner.number("factor", 8.0)?,
                low_freq_factor: inner.number("low_freq_factor", 1.0)?,
                high_freq_factor: inner.number("high_freq_factor", 4.0)?,
                original_max_position_embeddings: inner
                    .number("original_max_position_embeddings", max_position_embeddings as f64)?,
            },
            "factors" => {
                let values = scaling.get("factors").and_then(Value::as_array);
                let factors: Option<Vec<f64>> = values.and_then(|list| list.iter().map(Value::as_f64).collect());
                RopeScaling::Factors(factors.ok_or_else(|| fields.error(name, "`factors` must be a list of numbers"))?)
            }
            other => {
                return Err(fields
                    .error(name, format!("rotary scaling `{other}` is not supported"))
                    .with_hint("supported: default, linear, llama3"));
            }
        };
        Ok(Rope { theta, scaling })
    }
}

/// `eos_token_id` may be one number or a list; the generation config usually knows more of them.
fn end_tokens(fields: &Fields<'_>, generation_config: Option<&Value>) -> Result<Vec<u32>> {
    let field = "eos_token_id";
    let mut ids = Vec::new();
    for source in [generation_config, Some(fields.config)].into_iter().flatten() {
        let listed = match source.get(field) {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(list)) => list,
            Some(one) => std::slice::from_ref(one),
        };
        for value in listed {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            ids.push(id.ok_or_else(|| fields.error(field, format!("expected a token id, got {}", shown(value))))?);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// A value as an error shows it: short, whatever the file holds.
fn shown(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn smallest() -> Value {
        json!({"architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16,
               "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64})
    }

    fn with(changes: Value) -> Result<ModelConfig> {
        let mut config = smallest();
        for (key, value) in changes.as_object().expect("an object") {
            config[key] = value.clone();
        }
        ModelConfig::from_json(&config, None, Path::new("m"))
    }

    #[test]
    fn old_and_new_spelling_of_the_rotary_base_mean_the_same() {
        let old = with(json!({"rope_theta": 100000.0})).unwrap();
        let new = with(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}})).unwrap();
        assert_eq!(old, new);
        assert_eq!(old.rope_theta, 100_000.0);
    }

    #[test]
    fn qwen2_has_a_bias_on_query_key_and_value_only() {
        let config = with(json!({"architectures": ["Qwen2ForCausalLM"]})).unwrap();
        assert!(config.qkv_bias && !config.output_bias);
        // 32*8*2 embeddings, 4*8*8 attention + 24 bias, 3*8*16 feed-forward, 3 norms of 8
        assert_eq!(config.num_parameters(), 512 + 256 + 24 + 384 + 24);
    }

    #[test]
    fn what_the_decoder_cannot_do_is_refused_by_name() {
        for (changes, word) in [
            (json!({"architectures": ["BloomForCausalLM"]}), "BloomForCausalLM"),
            (json!({"hidden_act": "gelu"}), "gelu"),
            (json!({"sliding_window": 16}), "sliding_window"),
            (json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}), "yarn"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"hidden_size": -8}), "hidden_size"),
            (json!({"vocab_size": null}), "vocab_size"),
            (json!({"head_dim": 5}), "head_dim"),
            (json!({"num_attention_heads": 16, "num_key_value_heads": 1}), "head_dim"), // 8 / 16 is 0
            (json!({"head_dim": 16_777_216}), "num_attention_heads"),
            (json!({"num_hidden_layers": 4097}), "from 1 to 4096, got 4097"),
            (json!({"eos_token_id": 4_294_967_298_u64}), "eos_token_id"), // 2 in 32 bits
            (json!({"eos_token_id": ["</s>"]}), "eos_token_id"),
            (json!({"rope_scaling": {"rope_type": "factors", "factors": [1.0, 0.0]}}), "rope_scaling.factors"),
        ] {
            let error = with(changes).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn end_tokens_come_from_both_files_once() {
        let config = json!({"eos_token_id": 2});
        let generation_config = json!({"eos_token_id": [7, 2]});
        let fields = Fields { config: &config, path: Path::new("model") };
        assert_eq!(end_tokens(&fields, Some(&generation_config)).unwrap(), [2, 7]);
    }
}
