//! The architecture of a model, read from Hugging Face's `config.json`.
//!
//! One decoder serves the families of [`Architecture`]: they differ in a few switches, all of them fields here. What this
//! decoder cannot do is refused by name, never ignored. Next: [`super::causal_lm`].
//!
//! | family | switches |
//! |---|---|
//! | Llama, Mistral | none; Mistral may have a sliding window |
//! | Qwen2 | bias on q, k and v |
//! | Qwen3 | norms of each query and key head |
//! | Phi-3 | a part of each head turns; sliding window |
//! | Gemma 3 | `1 + weight` in norms, four of them a layer, and of heads; GELU; scaled embeddings; local layers with a window and a rotary base of their own |
//! | GPT-2 | LayerNorm; learned positions; GELU without a gate; bias everywhere |

mod fields;
mod rope;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::Value;

use self::fields::{Fields, end_tokens};
use self::rope::Rope;
pub use self::rope::RopeScaling;
use crate::error::Result;
use crate::formats::architecture::Architecture;
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
    /// Added to the variance in every norm (GPT-2: `layer_norm_epsilon`).
    pub rms_norm_eps: f64,
    /// The longest sequence that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// The head is the embedding, transposed.
    pub tie_word_embeddings: bool,
    /// Bias on the query, key and value projections (Qwen2; Llama's `attention_bias`).
    pub qkv_bias: bool,
    /// Bias on the attention's output projection (Llama's `attention_bias`).
    pub output_bias: bool,
    /// Bias on the projections of the feed-forward block.
    pub mlp_bias: bool,
    pub norm: NormKind,
    /// Queries and keys of every head are normalised before they turn.
    pub qk_norm: bool,
    /// The outputs of both blocks are normalised before they are added: four norms a layer.
    pub output_norms: bool,
    pub activation: Activation,
    /// The feed-forward block has a gate.
    pub gated_mlp: bool,
    /// Embeddings are multiplied by the root of `hidden_size`.
    pub scaled_embeddings: bool,
    /// Positions are vectors beside the embeddings, and nothing turns.
    pub learned_positions: bool,
    /// Scores are divided by its root; by that of `head_dim` if none.
    pub query_pre_attn_scalar: Option<f64>,
    /// Dimensions of each head that turn, the first ones.
    pub rotary_dim: usize,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// The rotary base of sliding layers where they have one of their own, never stretched.
    pub rope_local_base_freq: Option<f64>,
    /// One for each layer.
    pub layer_types: Vec<LayerType>,
    /// What a token of a sliding layer sees: itself and the tokens before it, so many in all.
    pub sliding_window: Option<usize>,
    /// Tokens that end a response, from `generation_config.json` and `config.json`; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// Standard deviation of freshly made weights.
    pub initializer_range: f64,
}

/// How numbers are brought to one scale, over the last dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps) * weight`.
    Rms,
    /// The same times `1 + weight`.
    RmsOnePlus,
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`.
    Layer,
}

/// What the feed-forward block applies inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// How far back a layer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerType {
    /// To the first token.
    Full,
    /// No further than the window.
    Sliding,
}

/// Limits that no real model comes near, and within which [`ModelConfig::num_parameters`] cannot overflow.
const MAX_WIDTH: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;
const MAX_COUNT: usize = 0x7fff_ffff;

impl ModelConfig {
    /// Reads `config.json` and, for the end tokens, `generation_config.json`. `path` is only named in errors.
    ///
    /// # Errors
    /// An unsupported architecture or option, a missing or impossible field, each by its name.
    pub fn from_json(config: &Value, generation_config: Option<&Value>, path: &Path) -> Result<Self> {
        let fields = Fields::new(config, path)?;
        let (is_gemma, is_gpt2) =
            (fields.architecture == Architecture::Gemma3, fields.architecture == Architecture::Gpt2);
        let default_eps = if is_gpt2 || fields.architecture == Architecture::Phi3 { 1e-5 } else { 1e-6 };
        let hidden_size = fields.size("hidden_size", MAX_WIDTH)?;
        let num_attention_heads = fields.size("num_attention_heads", MAX_WIDTH)?;
        let num_hidden_layers = fields.size("num_hidden_layers", MAX_LAYERS)?;
        let head_dim = fields.head_dim(hidden_size, num_attention_heads)?;
        let attention_bias = fields.flag("attention_bias", is_gpt2)?;
        let max_position_embeddings = fields.size("max_position_embeddings", MAX_COUNT)?;
        let rope = Rope::read(&fields, max_position_embeddings)?;
        let result = ModelConfig {
            vocab_size: fields.size("vocab_size", MAX_COUNT)?,
            hidden_size,
            intermediate_size: fields.intermediate_size(hidden_size)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: fields.optional_size("num_key_value_heads", MAX_WIDTH)?.unwrap_or(num_attention_heads),
            head_dim,
            rms_norm_eps: fields.number("rms_norm_eps", default_eps)?,
            max_position_embeddings,
            tie_word_embeddings: fields.flag("tie_word_embeddings", is_gemma || is_gpt2)?,
            qkv_bias: attention_bias || fields.architecture == Architecture::Qwen2,
            output_bias: attention_bias,
            mlp_bias: fields.flag("mlp_bias", is_gpt2)?,
            norm: match fields.architecture {
                Architecture::Gemma3 => NormKind::RmsOnePlus,
                Architecture::Gpt2 => NormKind::Layer,
                _ => NormKind::Rms,
            },
            qk_norm: is_gemma || fields.architecture == Architecture::Qwen3,
            output_norms: is_gemma,
            activation: fields.activation()?,
            gated_mlp: !is_gpt2,
            scaled_embeddings: is_gemma,
            learned_positions: is_gpt2,
            query_pre_attn_scalar: match is_gemma {
                true => Some(fields.number("query_pre_attn_scalar", 256.0)?),
                false => None,
            },
            rotary_dim: (head_dim as f64 * rope.partial_rotary_factor) as usize,
            rope_theta: rope.theta,
            rope_scaling: rope.scaling,
            rope_local_base_freq: rope.local_theta,
            layer_types: fields.layer_types(num_hidden_layers)?,
            sliding_window: fields.sliding_window()?,
            eos_token_ids: end_tokens(&fields, generation_config)?,
            initializer_range: fields.number("initializer_range", 0.02)?,
        };
        result.check(&fields)?;
        Ok(result)
    }

    /// Trainable numbers of the whole model.
    pub fn num_parameters(&self) -> usize {
        let (d, q, kv) = (self.hidden_size, self.query_size(), self.key_value_size());
        let present = |present: bool, n: usize| if present { n } else { 0 };
        let attention = 2 * d * q + 2 * d * kv + present(self.qkv_bias, q + 2 * kv) + present(self.output_bias, d);
        let num_inward = if self.gated_mlp { 2 } else { 1 };
        let inner = self.intermediate_size;
        let mlp = (num_inward + 1) * d * inner + present(self.mlp_bias, num_inward * inner + d);
        let norm = d * if self.norm == NormKind::Layer { 2 } else { 1 };
        let norms = norm * if self.output_norms { 4 } else { 2 } + present(self.qk_norm, 2 * self.head_dim);
        let embeddings = self.vocab_size * d * if self.tie_word_embeddings { 1 } else { 2 };
        let positions = present(self.learned_positions, self.max_position_embeddings * d);
        embeddings + positions + self.num_hidden_layers * (attention + mlp + norms) + norm
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

    /// What queries are multiplied by so that attention's own `1 / sqrt(head_dim)` becomes
    /// `1 / sqrt(query_pre_attn_scalar)`.
    pub fn query_factor(&self) -> f64 {
        self.query_pre_attn_scalar.map_or(1.0, |scalar| (self.head_dim as f64 / scalar).sqrt())
    }

    /// What embeddings are multiplied by.
    pub fn embedding_factor(&self) -> f32 {
        if self.scaled_embeddings { (self.hidden_size as f64).sqrt() as f32 } else { 1.0 }
    }

    /// The window of layers of this type, if they have one.
    pub fn window(&self, layer_type: LayerType) -> Option<usize> {
        self.sliding_window.filter(|_| layer_type == LayerType::Sliding)
    }

    /// True if some token of the longest sequence cannot see the first one in some layer.
    pub fn has_narrow_window(&self) -> bool {
        let narrow = self.sliding_window.is_some_and(|window| window < self.max_position_embeddings);
        narrow && self.layer_types.contains(&LayerType::Sliding)
    }
}
