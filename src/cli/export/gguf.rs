//! `--format gguf`: the model as one file, and a `Modelfile` that tells Ollama where it is and where a response ends.

use std::path::{Path, PathBuf};

use super::Target;
use super::model_card::ModelCard;
use super::source::Source;
use crate::config::RunConfig;
use crate::error::Result;
use crate::formats::atomic_write::{write_bytes, write_new_folder};
use crate::formats::file_system::Disk;
use crate::formats::gguf::open_gguf;
use crate::formats::gguf_tokenizer_write::tokenizer_metadata;
use crate::formats::gguf_write::{MetadataEntries, MetadataToWrite, write_gguf};
use crate::formats::hub;
use crate::formats::open_model;
use crate::policy::Policy;
use crate::policy::gguf::GgufContent;
use crate::records::run_folder::CONFIG_FILE;
use crate::report::console::Console;

pub(super) fn write(source: &Source, target: &Target, console: &Console) -> Result<()> {
    let policy = source.policy(console)?;
    let tensors = source.tensors(&policy, console)?;
    let GgufContent { metadata, tensors } =
        policy.gguf_content(&target.title, target.precision, tensors, || tokenizer_entries(source, &policy))?;
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
    write_new_folder(&Disk, &target.output, |folder| {
        write_bytes(&Disk, &folder.join("README.md"), card.as_bytes())?;
        write_bytes(&Disk, &folder.join("Modelfile"), modelfile.as_bytes())?;
        write_gguf(&Disk, &folder.join("model.gguf"), &metadata, tensors)
    })?;
    if metadata.iter().any(|(key, _)| key == "tokenizer.chat_template") {
        console.say("Ollama uses the chat template only if it knows it; else add TEMPLATE to the Modelfile");
    }
    Ok(())
}

/// The tokenizer as the GGUF file had it that the model came from, else made from `tokenizer.json`.
fn tokenizer_entries(source: &Source, policy: &Policy) -> Result<MetadataEntries> {
    match original_gguf(source, policy) {
        Some(path) => open_gguf(&path)?.metadata.to_write("tokenizer."),
        None => tokenizer_metadata(&policy.files, policy.config.vocab_size, &policy.eos_token_ids),
    }
}

/// The GGUF file that is exported, or that the model came from by way of some runs, if it is still there and has the very
/// same tokenizer.
fn original_gguf(source: &Source, policy: &Policy) -> Option<PathBuf> {
    /// So that runs that name each other come to an end.
    const MAX_RUNS: usize = 8;
    if source.path.is_file() {
        return Some(source.path.clone());
    }
    let mut path = source.path.clone();
    for _ in 0..MAX_RUNS {
        let model = run_around(&path)?.model?;
        path = hub::model(&model, true, &Console::stderr()).ok()?.path; // only if it is here
        if path.is_file() {
            let original = open_model(&path).ok()?;
            return (original.tokenizer.is_some() && original.tokenizer == policy.files.tokenizer).then_some(path);
        }
    }
    None
}

/// The configuration of a run, or of the run that a model lies in as `model` or, for a server, as `iteration-001/policy`: that
/// run is at work and holds its lock.
fn run_around(path: &Path) -> Option<RunConfig> {
    let path = std::fs::canonicalize(path).ok()?;
    let (path, text) = path.ancestors().take(3).find_map(|folder| {
        let path = folder.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).ok()?;
        Some((path, text))
    })?;
    RunConfig::from_ron(&text, &path.to_string_lossy()).ok()
}

/// Ollama takes the template of its own list that is nearest to the file's, or none; where a response ends it does not always
/// know.
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
