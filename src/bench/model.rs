//! The model that is measured: a file's, or random weights in the shape of SmolLM2-135M.

use std::fmt;
use std::path::PathBuf;

use burn::tensor::Device;

use super::SEED;
use crate::error::Result;
use crate::model::config::{Activation, LayerType, NormKind, RopeScaling};
use crate::model::{CausalLm, ModelConfig, weights};
use crate::policy::Policy;
use crate::report::console::Console;
use crate::report::table::plural;

/// Where the weights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A Hugging Face folder or a GGUF file.
    File(PathBuf),
    /// Random weights: SmolLM2-135M with this number of layers (it has 30).
    Random { num_layers: usize },
}

/// Layers of SmolLM2-135M.
pub const NUM_LAYERS: usize = 30;

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Random { num_layers: NUM_LAYERS } => f.write_str("random weights, SmolLM2-135M's shape"),
            Source::Random { num_layers } => {
                write!(f, "random weights, {} of SmolLM2-135M's shape", plural(*num_layers, "layer"))
            }
        }
    }
}

impl Source {
    /// The architecture.
    ///
    /// # Errors
    /// What [`Policy::open`] says of a file.
    pub fn config(&self) -> Result<ModelConfig> {
        match self {
            Source::File(path) => Ok(Policy::open(path)?.config),
            Source::Random { num_layers } => Ok(smollm2_135m(*num_layers)),
        }
    }

    /// Makes or reads the weights.
    ///
    /// # Errors
    /// What [`Policy::load`] says of a file.
    pub fn load(&self, device: &Device) -> Result<CausalLm> {
        match self {
            Source::File(path) => Policy::open(path)?.load(device, &Console::stderr()),
            Source::Random { num_layers } => weights::initialize(&smollm2_135m(*num_layers), SEED, device),
        }
    }
}

/// The numbers of SmolLM2-135M's `config.json`.
fn smollm2_135m(num_layers: usize) -> ModelConfig {
    ModelConfig {
        vocab_size: 49_152,
        hidden_size: 576,
        intermediate_size: 1536,
        num_hidden_layers: num_layers,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        rms_norm_eps: 1e-5,
        max_position_embeddings: 8192,
        tie_word_embeddings: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        norm: NormKind::Rms,
        qk_norm: false,
        output_norms: false,
        activation: Activation::Silu,
        gated_mlp: true,
        scaled_embeddings: false,
        learned_positions: false,
        query_pre_attn_scalar: None,
        rotary_dim: 64,
        rope_theta: 100_000.0,
        rope_scaling: RopeScaling::None,
        rope_local_base_freq: None,
        layer_types: vec![LayerType::Full; num_layers],
        sliding_window: None,
        eos_token_ids: Vec::new(),
        initializer_range: 0.02,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_random_model_has_smollm2s_134_515_008_parameters() {
        // The number that Hugging Face shows for HuggingFaceTB/SmolLM2-135M.
        assert_eq!(smollm2_135m(NUM_LAYERS).num_parameters(), 134_515_008);
    }
}
