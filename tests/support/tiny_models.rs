//! The tiny random models of `fixtures/tiny_models`, at least one for each architecture, with what transformers and PyTorch
//! compute from two rows of 24 tokens. `oracle/tiny_models.py` made them. A new one needs its line here and nothing else: tests of
//! logits and decoding go through this list, and tests of gradients, training and files through those with gradients: one of
//! every architecture but Llama, which the other tests use.

use std::path::PathBuf;

use super::fixture;

pub const VOCAB_SIZE: u32 = 64;

struct TinyModel {
    name: &'static str,
    /// `expected.safetensors` has gradients beside the logits.
    has_gradients: bool,
    /// GGUF holds all of it.
    fits_gguf: bool,
}

const MODELS: [TinyModel; 9] = [
    // Biases on queries, keys and values; a tied head.
    TinyModel { name: "qwen2", has_gradients: true, fits_gguf: true },
    // Rotary scaling of the llama3 kind.
    TinyModel { name: "llama3", has_gradients: false, fits_gguf: true },
    // Linear rotary scaling, a bias on every projection.
    TinyModel { name: "llama_linear", has_gradients: false, fits_gguf: true },
    // Wide heads.
    TinyModel { name: "mistral", has_gradients: false, fits_gguf: true },
    // Norms of heads, wide heads.
    TinyModel { name: "qwen3", has_gradients: true, fits_gguf: true },
    // A window shorter than the rows.
    TinyModel { name: "mistral_window", has_gradients: true, fits_gguf: false },
    // Fused tensors, a partial turn and a window.
    TinyModel { name: "phi3", has_gradients: true, fits_gguf: false },
    // Everything of Gemma: local and global layers, norms on both sides.
    TinyModel { name: "gemma3", has_gradients: true, fits_gguf: false },
    // Learned positions, layer norms, no grouped queries.
    TinyModel { name: "gpt2", has_gradients: true, fits_gguf: false },
];

/// The names of all.
pub fn all() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|model| model.name)
}

/// Those with gradients.
pub fn with_gradients() -> impl Iterator<Item = &'static str> {
    MODELS.iter().filter(|model| model.has_gradients).map(|model| model.name)
}

/// Those that GGUF holds.
pub fn in_gguf() -> impl Iterator<Item = &'static str> {
    MODELS.iter().filter(|model| model.fits_gguf).map(|model| model.name)
}

/// A model's folder.
pub fn folder_of(name: &str) -> PathBuf {
    fixture("tiny_models").join(name)
}
