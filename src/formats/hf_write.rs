//! Writing a Hugging Face model folder in one piece. What is in it: [`super::hf_folder`].

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::TokenizerFiles;
use super::atomic_write::{replace_folder, write_bytes, write_json, write_new_folder, write_synced};
use super::file_system::{Disk, FileSystem};
use super::hf_folder::{CHAT_TEMPLATE, CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS};
use super::hf_names::as_in_file;
use super::quantize::Precision;
use super::safetensors::{TensorToWrite, write_tensors_as};
use crate::error::{Error, Result};

/// The card of a model folder.
pub(super) const MODEL_CARD: &str = "README.md";

/// Writes a model as a Hugging Face folder of F32 tensors: see [`ModelFolder::write`].
///
/// # Errors
/// As there.
pub fn write_model_folder(
    folder: &Path,
    config: &Value,
    generation_config: Option<&Value>,
    tokenizer: Option<&TokenizerFiles>,
    tensors: Vec<TensorToWrite>,
) -> Result<()> {
    let model = ModelFolder { config, generation_config, tokenizer, model_card: None, precision: Precision::F32 };
    model.write(&Disk, folder, tensors)
}

/// What stands in a model folder beside the weights, and how these are stored.
#[derive(Debug, Clone, Copy)]
pub struct ModelFolder<'a> {
    /// `config.json`; its stored type is corrected.
    pub config: &'a Value,
    pub generation_config: Option<&'a Value>,
    pub tokenizer: Option<&'a TokenizerFiles>,
    /// The text of `README.md`.
    pub model_card: Option<&'a str>,
    /// The type of the tensors: not Q8_0, which these folders do not have.
    pub precision: Precision,
}

impl ModelFolder<'_> {
    /// Writes the folder. It appears at `folder` only once it is complete and on disk; if one of our own making is there,
    /// it is replaced, unless it has a model card, which a person may have added to.
    ///
    /// # Errors
    /// [`Error::Usage`] if `folder` is a file, or holds anything that `gsil train` does not write; [`Error::Disk`] if
    /// writing fails; any error of a tensor's values. What was at `folder` is then still there.
    pub fn write(&self, files: &dyn FileSystem, folder: &Path, tensors: Vec<TensorToWrite>) -> Result<()> {
        check_replaceable(folder)?;
        replace_folder(files, folder, |temporary| self.write_files(files, temporary, tensors))
    }

    /// As [`Self::write`], but nothing is replaced.
    ///
    /// # Errors
    /// [`Error::Usage`] if anything but an empty folder is there; else as there.
    pub fn write_new(&self, files: &dyn FileSystem, folder: &Path, tensors: Vec<TensorToWrite>) -> Result<()> {
        write_new_folder(files, folder, |temporary| self.write_files(files, temporary, tensors))
    }

    fn write_files(&self, files: &dyn FileSystem, folder: &Path, tensors: Vec<TensorToWrite>) -> Result<()> {
        let write_bytes = |name: &str, bytes: &[u8]| write_bytes(files, &folder.join(name), bytes);
        let write_json = |name: &str, value: &Value| write_json(files, &folder.join(name), value);
        write_json(CONFIG, &with_precision(self.config, self.precision))?;
        if let Some(generation_config) = self.generation_config {
            write_json(GENERATION_CONFIG, generation_config)?;
        }
        if let Some(tokenizer) = self.tokenizer {
            write_bytes(TOKENIZER, &tokenizer.tokenizer_json)?;
            write_json(TOKENIZER_CONFIG, &tokenizer.tokenizer_config)?;
            if let Some(template) = &tokenizer.chat_template {
                write_bytes(CHAT_TEMPLATE, template.as_bytes())?;
            }
        }
        if let Some(text) = self.model_card {
            write_bytes(MODEL_CARD, text.as_bytes())?;
        }
        let weights = folder.join(WEIGHTS);
        let tensors = as_in_file(tensors, self.config);
        write_synced(files, &weights, |file| {
            write_tensors_as(file, &weights, tensors, &BTreeMap::new(), self.precision)
        })
    }
}

fn check_replaceable(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let refuse = |message: String| Err(Error::usage(message).with_hint("choose another output folder"));
    if !folder.is_dir() {
        return refuse(format!("{} is a file, not a folder", folder.display()));
    }
    // Not the model card: a person adds to it.
    let ours = [CONFIG, GENERATION_CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE];
    for entry in fs::read_dir(folder).map_err(Error::reading(folder))? {
        let name = entry.map_err(Error::reading(folder))?.file_name();
        if !ours.iter().any(|known| name == *known) {
            let message = format!("{} holds {name:?}, which would be lost", folder.display());
            return refuse(message);
        }
    }
    Ok(())
}

/// The configuration with its stored type corrected: `dtype` in newer versions of transformers, `torch_dtype` in older
/// ones.
fn with_precision(config: &Value, precision: Precision) -> Value {
    let name = match precision {
        Precision::F32 => "float32",
        Precision::F16 => "float16",
        Precision::BF16 => "bfloat16",
        Precision::Q8_0 => panic!("model folders have no Q8_0"),
    };
    let mut config = config.clone();
    if let Some(fields) = config.as_object_mut() {
        for key in ["torch_dtype", "dtype"] {
            if fields.contains_key(key) {
                fields.insert(key.into(), name.into());
            }
        }
        if !fields.contains_key("dtype") {
            fields.insert("torch_dtype".into(), name.into());
        }
    }
    config
}

/// A small folder for the tests here and in [`super::hf_folder`].
#[cfg(test)]
pub mod testing {
    use super::*;
    use crate::formats::HostTensor;
    use serde_json::json;
    use std::path::PathBuf;

    pub fn tensors() -> Vec<TensorToWrite<'static>> {
        let tensor = |name: &str, values: &[f32]| HostTensor {
            name: name.into(),
            shape: vec![values.len()],
            values: values.into(),
        };
        vec![tensor("model.norm.weight", &[1.0, 2.0]).into(), tensor("lm_head.weight", &[3.0]).into()]
    }

    pub fn tokenizer() -> TokenizerFiles {
        TokenizerFiles {
            tokenizer_json: b"{}".to_vec(),
            tokenizer_config: json!({"eos_token": "</s>"}),
            chat_template: Some("{{ messages }}".into()),
        }
    }

    pub fn written(parent: &Path) -> PathBuf {
        let folder = parent.join("model");
        let config = json!({"model_type": "llama", "torch_dtype": "bfloat16"});
        let generation_config = json!({"eos_token_id": 2});
        write_model_folder(&folder, &config, Some(&generation_config), Some(&tokenizer()), tensors()).unwrap();
        folder
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{tensors, written};
    use super::*;
    use crate::formats::hf_folder::open_model_folder;
    use serde_json::json;

    #[test]
    fn an_older_model_is_replaced_and_nothing_is_left_beside_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = written(parent.path());
        write_model_folder(&folder, &json!({"model_type": "qwen2"}), None, None, tensors()).unwrap();
        let model = open_model_folder(&folder).unwrap();
        assert_eq!(model.config["model_type"], "qwen2");
        assert_eq!((model.tokenizer, model.generation_config), (None, None));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_model_replaces_no_older_one() {
        let parent = tempfile::tempdir().unwrap();
        let folder = written(parent.path());
        let (config, precision) = (&json!({"model_type": "qwen2"}), Precision::F32);
        let model = ModelFolder { config, generation_config: None, tokenizer: None, model_card: None, precision };
        assert_eq!(model.write_new(&Disk, &folder, tensors()).unwrap_err().exit_code(), 2);
        assert_eq!(open_model_folder(&folder).unwrap().config["model_type"], "llama");
        model.write_new(&Disk, &parent.path().join("free"), tensors()).unwrap();
    }

    #[test]
    fn a_failed_write_keeps_the_older_model() {
        let parent = tempfile::tempdir().unwrap();
        let folder = written(parent.path());
        let broken = TensorToWrite::new("x", &[1], || Err(Error::device("wgpu", "lost")));
        let error = write_model_folder(&folder, &json!({}), None, None, vec![broken]).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert_eq!(open_model_folder(&folder).unwrap().config["model_type"], "llama");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_with_anything_else_in_it_is_never_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let folder = written(parent.path());
        fs::write(folder.join("thesis.tex"), "years of work").unwrap();
        let error = write_model_folder(&folder, &json!({}), None, None, tensors()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("\"thesis.tex\", which would be lost"), "{error}");
        assert!(folder.join("thesis.tex").exists());
    }
}
