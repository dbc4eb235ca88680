//! `--format gguf`: the model as one file, and a `Modelfile` that tells Ollama where it is and where a response ends.

use std::path::{Path, PathBuf};

use super::Target;
use super::model_card::ModelCard;
use super::source::Source;
use crate::config::RunConfig;
use crate::error::Result;
use crate::formats::atomic_write::{replace_folder, write_bytes};
use crate::formats::file_system::Disk;
use crate::formats::gguf::open_gguf;
use crate::formats::gguf_tokenizer_write::tokenizer_metadata;
use crate::formats::gguf_write::{MetadataEntries, MetadataToWrite, write_gguf};
use crate::formats::hub;
use crate::formats::open_model;
use crate::policy::Policy;
use crate::policy::gguf::GgufContent;
use crate::report::console::Console;

pub(super) fn write(source: &Source, target: &Target, console: &Console) -> Result<()> {
    let policy = Policy::open(&source.model_path()?)?;
    let GgufContent { metadata, tensors } =
        policy.gguf_content(&target.title, target.precision, || tokenizer_entries(source, &policy))?;
    if policy.tokenizer.is_none() {
        console.warn("the model has no tokenizer: the file takes and gives token ids alone");
    }
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

/// The tokenizer as the GGUF file had it that the model came from, else made from `tokenizer.json`.
fn tokenizer_entries(source: &Source, policy: &Policy) -> Result<MetadataEntries> {
    match original_gguf(source, policy) {
        Some(path) => open_gguf(&path)?.metadata.to_write("tokenizer."),
        None => tokenizer_metadata(&policy.files, policy.config.vocab_size, &policy.eos_token_ids),
    }
}

/// The GGUF file that is exported, or that the run began with if it is still there and has the very same tokenizer.
fn original_gguf(source: &Source, policy: &Policy) -> Option<PathBuf> {
    if source.path.is_file() {
        return Some(source.path.clone());
    }
    let model = match source.as_run() {
        Some(run) => run.config.model.clone(),
        None => run_around(&source.path)?.model,
    };
    let base = hub::model(&model?, true, &Console::stderr()).ok()?.path; // only if it is here
    let original = base.is_file().then(|| open_model(&base).ok()).flatten()?;
    (original.tokenizer.is_some() && original.tokenizer == policy.files.tokenizer).then_some(base)
}

/// The configuration of the run whose policy for a server lies in `folder`. The run is at work and holds its lock.
fn run_around(folder: &Path) -> Option<RunConfig> {
    let path = folder.ancestors().nth(2)?.join("config.ron");
    RunConfig::from_ron(&std::fs::read_to_string(&path).ok()?, &path.to_string_lossy()).ok()
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
