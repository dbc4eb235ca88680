//! `--format gguf`: the model as one file, and a `Modelfile` that tells Ollama where it is and where a response ends.

use std::path::PathBuf;

use super::Target;
use super::model_card::ModelCard;
use super::source::Source;
use crate::error::{Error, Result};
use crate::formats::architecture::Architecture;
use crate::formats::atomic_write::{replace_folder, write_bytes};
use crate::formats::file_system::Disk;
use crate::formats::gguf::open_gguf;
use crate::formats::gguf_model_write::GgufArchitecture;
use crate::formats::gguf_tokenizer_write::tokenizer_metadata;
use crate::formats::gguf_write::{MetadataEntries, MetadataToWrite, write_gguf};
use crate::formats::hub;
use crate::formats::open_model;
use crate::model::config::RopeScaling;
use crate::model::rotary::rotary_factors;
use crate::model::weights::stored_tensors_to_write;
use crate::policy::Policy;
use crate::report::console::Console;

pub(super) fn write(source: &Source, target: &Target, console: &Console) -> Result<()> {
    let policy = Policy::open(&source.model_path()?)?;
    let architecture = architecture(&policy)?;
    check_window(&policy, "GGUF")?;
    let mut metadata = architecture.metadata(&target.title, target.precision);
    metadata.extend(tokenizer_entries(source, &policy)?);
    if policy.tokenizer.is_none() {
        console.warn("the model has no tokenizer: the file takes and gives token ids alone");
    }
    let stored = stored_tensors_to_write(&policy.files, &policy.config)?;
    let tensors = architecture.tensors(stored, target.precision, &policy.files.path)?;
    let num_fallen_back =
        tensors.iter().filter(|t| t.tensor.shape().len() > 1 && t.precision != target.precision).count();
    if num_fallen_back > 0 {
        console.warn(format!("{num_fallen_back} matrices have rows that are not multiples of 32: they are F16"));
    }
    let card = ModelCard { source, target, library: "gguf" }.text(&policy.config)?;
    let modelfile = modelfile(&metadata, &policy.eos_token_ids);
    replace_folder(&Disk, &target.output, |folder| {
        write_bytes(&Disk, &folder.join("README.md"), card.as_bytes())?;
        write_bytes(&Disk, &folder.join("Modelfile"), modelfile.as_bytes())?;
        write_gguf(&Disk, &folder.join("model.gguf"), &metadata, tensors)
    })
}

/// What GGUF (and mlx-lm) calls the model's family. `format` is named in the error.
///
/// # Errors
/// [`Error::Input`] for a family without a name there.
pub(super) fn architecture_name(policy: &Policy, format: &str) -> Result<&'static str> {
    let config = &policy.files.config;
    match Architecture::of(config) {
        Some(Architecture::Llama | Architecture::Mistral) => Ok("llama"),
        Some(Architecture::Qwen2) => Ok("qwen2"),
        Some(Architecture::Qwen3) => Ok("qwen3"),
        _ => {
            let message = format!("{format} of {} is not supported", Architecture::name_in(config));
            Err(Error::input(&policy.files.path, message)
                .at("config.json, field `architectures`")
                .with_hint("--format hf works for every model"))
        }
    }
}

/// llama.cpp and mlx-lm would not look at the window, and compute something else beyond it.
pub(super) fn check_window(policy: &Policy, format: &str) -> Result<()> {
    match policy.config.has_narrow_window() {
        false => Ok(()),
        true => {
            Err(Error::input(&policy.files.path, format!("{format} of a model with a sliding window is not supported"))
                .at("config.json, field `sliding_window`")
                .with_hint("--format hf works for every model"))
        }
    }
}

fn architecture(policy: &Policy) -> Result<GgufArchitecture> {
    let config = &policy.config;
    Ok(GgufArchitecture {
        name: architecture_name(policy, "GGUF")?,
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

/// The tokenizer as the GGUF file had it that the model came from, else made from `tokenizer.json`.
fn tokenizer_entries(source: &Source, policy: &Policy) -> Result<MetadataEntries> {
    match original_gguf(source, policy) {
        Some(path) => open_gguf(&path)?.metadata.to_write("tokenizer."),
        None => tokenizer_metadata(&policy.files, policy.config.vocab_size, &policy.eos_token_ids),
    }
}

/// The GGUF file that is exported, or that the run began with if it is still there and has the very same tokenizer.
fn original_gguf(source: &Source, policy: &Policy) -> Option<PathBuf> {
    let Some(run) = source.as_run() else { return source.path.is_file().then(|| source.path.clone()) };
    let base = hub::model(run.config.model.as_deref()?, true, &Console::stderr()).ok()?.path; // only if it is here
    let original = base.is_file().then(|| open_model(&base).ok()).flatten()?;
    (original.tokenizer.is_some() && original.tokenizer == policy.files.tokenizer).then_some(base)
}

/// Ollama takes the chat template from the file; where a response ends it does not always know.
fn modelfile(metadata: &MetadataEntries, end_token_ids: &[u32]) -> String {
    let tokens = metadata.iter().find_map(|(key, value)| match value {
        MetadataToWrite::Strings(tokens) if key == "tokenizer.ggml.tokens" => Some(tokens),
        _ => None,
    });
    let texts = end_token_ids.iter().filter_map(|id| tokens?.get(*id as usize));
    let plain = texts.filter(|text| !text.is_empty() && !text.contains(['"', '\n']));
    let stops: String = plain.map(|text| format!("PARAMETER stop \"{text}\"\n")).collect();
    format!("FROM ./model.gguf\n{stops}")
}
