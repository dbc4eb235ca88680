//! A model as one GGUF file, for llama.cpp and what is built on it.

use std::path::Path;

use super::Policy;
use crate::error::{Error, Result};
use crate::formats::architecture::Architecture;
use crate::formats::file_system::Disk;
use crate::formats::gguf_model_write::GgufArchitecture;
use crate::formats::gguf_tokenizer_write::tokenizer_metadata;
use crate::formats::gguf_write::{GgufTensor, MetadataEntries, write_gguf};
use crate::formats::quantize::Precision;
use crate::formats::safetensors::TensorToWrite;
use crate::model::config::RopeScaling;
use crate::model::rotary::rotary_factors;
use crate::model::weights::stored_tensors_to_write;

/// What a GGUF file of a model holds. Values of tensors are fetched as they are written.
pub struct GgufContent<'a> {
    pub metadata: MetadataEntries,
    pub tensors: Vec<GgufTensor<'a>>,
}

impl Policy {
    /// Writes the model with its tokenizer as a new GGUF file, whose name is also its title.
    ///
    /// # Errors
    /// [`Error::Input`] for a model that GGUF has no name for, or whose files do not read; [`Error::Disk`].
    pub fn write_gguf(&self, path: &Path, precision: Precision) -> Result<()> {
        let title = path.file_stem().map_or_else(|| "model".into(), |name| name.to_string_lossy());
        let stored = stored_tensors_to_write(&self.files, &self.config)?;
        let content = self.gguf_content(&title, precision, stored, || {
            tokenizer_metadata(&self.files, self.config.vocab_size, &self.eos_token_ids)
        })?;
        write_gguf(&Disk, path, &content.metadata, content.tensors)
    }

    /// The content of such a file with tensors, by Hugging Face's names, and tokenizer entries of the caller's.
    ///
    /// # Errors
    /// [`Error::Input`] as [`Self::write_gguf`].
    pub fn gguf_content<'a>(
        &self,
        title: &str,
        precision: Precision,
        tensors: Vec<TensorToWrite<'a>>,
        tokenizer: impl FnOnce() -> Result<MetadataEntries>,
    ) -> Result<GgufContent<'a>> {
        let architecture = self.gguf_architecture()?;
        let mut metadata = architecture.metadata(title, precision);
        metadata.extend(tokenizer()?);
        let tensors = architecture.tensors(tensors, precision, &self.files.path)?;
        Ok(GgufContent { metadata, tensors })
    }

    /// What GGUF (and mlx-lm) calls the model's family. `format` is named in the error.
    ///
    /// # Errors
    /// [`Error::Input`] for a family without a name there.
    pub fn family_name(&self, format: &str) -> Result<&'static str> {
        let config = &self.files.config;
        match Architecture::of(config) {
            Some(Architecture::Llama | Architecture::Mistral) => Ok("llama"),
            Some(Architecture::Qwen2) => Ok("qwen2"),
            Some(Architecture::Qwen3) => Ok("qwen3"),
            Some(Architecture::Phi3 | Architecture::Gemma3 | Architecture::Gpt2) | None => {
                let message = format!("{format} of {} is not supported", Architecture::name_in(config));
                Err(Error::input(&self.files.path, message)
                    .at("config.json, field `architectures`")
                    .with_hint("--format hf works for every model"))
            }
        }
    }

    /// llama.cpp and mlx-lm would not look at the window, and compute something else beyond it.
    ///
    /// # Errors
    /// [`Error::Input`] for a model with a sliding window narrower than its context.
    pub fn refuse_window(&self, format: &str) -> Result<()> {
        match self.config.has_narrow_window() {
            false => Ok(()),
            true => Err(Error::input(
                &self.files.path,
                format!("{format} of a model with a sliding window is not supported"),
            )
            .at("config.json, field `sliding_window`")
            .with_hint("--format hf works for every model")),
        }
    }

    fn gguf_architecture(&self) -> Result<GgufArchitecture> {
        let name = self.family_name("GGUF")?;
        self.refuse_window("GGUF")?;
        let config = &self.config;
        Ok(GgufArchitecture {
            name,
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_layers: config.num_hidden_layers,
            num_heads: config.num_attention_heads,
            num_kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            context_length: config.max_position_embeddings,
            rms_norm_eps: config.rms_norm_eps,
            rope_theta: config.rope_theta,
            linear_factor: match config.rope_scaling {
                RopeScaling::Linear { factor } => Some(factor),
                _ => None,
            },
            rotary_factors: rotary_factors(config),
        })
    }
}
