//! The language model: configuration, layers, cache, adapters, weights. Knows neither data nor training.
//!
//! Dimension letters: B sequences of a batch, T tokens, N packed rows of a batch (one a token), D hidden size, H heads, K
//! key-value heads or the likeliest tokens at a place, V vocabulary, R response tokens. Read [`config`], then [`causal_lm`],
//! then what it is made of.

pub mod attention;
pub mod cache;
pub mod causal_lm;
pub mod config;
#[cfg(feature = "flex")]
pub mod decoder;
pub mod decoder_layer;
#[cfg(feature = "flex")]
mod decoder_norm;
pub mod layers;
pub mod lora;
pub mod rotary;
pub mod weights;

pub use cache::KvCache;
pub use causal_lm::CausalLm;
pub use config::ModelConfig;
