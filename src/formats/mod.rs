//! Models on disk: whatever is there, the rest of the program sees one view, the Hugging Face one.
//!
//! [`open_model`] takes a Hugging Face folder or a `.gguf` file and gives a [`ModelFiles`]: the configuration as
//! `config.json` has it, the tokenizer as `tokenizer.json` has it, and [`Weights`] under the Hugging Face names of Llama in
//! `[out, in]` layout: families with other names are translated in `hf_names`. Everything is checked when it is opened; a
//! tensor's values are read when they are asked for.
//! [`hf_folder::ModelFolder`] writes the same view back, [`gguf_write`] and its kin write it as a GGUF file, and [`peft`]
//! writes an adapter alone. Host data only: no tensor library here.
//!
//! Files come from strangers. No count or offset found in one is believed before it is checked against the file's size,
//! nothing is memory-mapped, and pickle files are never read.
//!
//! Reading order: [`architecture`], [`hf_folder`], `hf_names`, [`safetensors`], [`gguf`], [`dequantize`], `gguf_model`,
//! `gguf_config`, `gguf_tokenizer`; then what writes: [`quantize`], `safetensors_write`, `hf_write`, [`gguf_write`],
//! [`gguf_model_write`], [`gguf_tokenizer_write`], [`peft`]; and where models of other people come from: [`hub`].

pub mod architecture;
pub(crate) mod atomic_write;
pub mod data_file;
pub mod dequantize;
mod file_bytes;
pub mod file_system;
pub mod fingerprint;
pub mod folder_lock;
pub mod gguf;
#[cfg(test)]
mod gguf_builder;
mod gguf_byte_level;
#[cfg(test)]
mod gguf_checks;
mod gguf_config;
mod gguf_header;
pub mod gguf_metadata;
mod gguf_model;
pub mod gguf_model_write;
mod gguf_sentence_piece;
mod gguf_tokenizer;
pub mod gguf_tokenizer_write;
pub mod gguf_write;
pub mod hf_folder;
mod hf_names;
mod hf_write;
pub mod hub;
pub mod json_lines;
pub mod peft;
pub mod quantize;
pub mod safetensors;
mod safetensors_write;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use self::gguf::GgufFile;
use self::safetensors::SafetensorsFile;
pub use self::safetensors::{HostTensor, TensorToWrite};
use crate::error::{Error, Result};

/// A model on disk, opened and checked, its weights unread.
#[derive(Debug)]
pub struct ModelFiles {
    /// The folder or the `.gguf` file.
    pub path: PathBuf,
    /// The content of `config.json`, or what it would be.
    pub config: Value,
    /// The content of `generation_config.json`, where there is one.
    pub generation_config: Option<Value>,
    /// The tokenizer; `None` where the model has none (its rows are token ids).
    pub tokenizer: Option<TokenizerFiles>,
    /// The tensors.
    pub weights: Weights,
}

/// How the model at `path` comes to a file that it lacks, for a hint.
pub fn way_to_have(path: &Path, file: &str) -> String {
    match path.is_file() {
        true => format!("a GGUF file cannot be given {file}: take its Hugging Face folder"),
        false if is_of_hub(path) => {
            format!(
                "take a model that has it, as `Instruct` versions do, or copy this folder and add {file} to the copy"
            )
        }
        false => format!("add {file} to the model folder"),
    }
}

/// Whether a folder is the hub's copy on this machine, which other programs read, too: `models--owner--name/snapshots/COMMIT`.
fn is_of_hub(path: &Path) -> bool {
    path.parent().is_some_and(|folder| folder.ends_with("snapshots"))
}

impl ModelFiles {
    /// The files that make the model, without whatever else lies beside them. An index only says where tensors lie.
    pub fn paths(&self) -> Vec<PathBuf> {
        let beside_weights = hf_folder::BESIDE_WEIGHTS.iter().map(|name| self.path.join(name));
        let weights = self.weights.files.iter().map(|file| match file {
            WeightFile::Safetensors(file) => file.path().to_owned(),
            WeightFile::Gguf(file) => file.path().to_owned(),
        });
        beside_weights.filter(|path| path.is_file()).chain(weights).collect()
    }

    /// The content of `generation_config.json` for a copy of the model, made to end responses where this program ends them:
    /// at `eos_token_ids`, which tokenizer and chat template may have added to. Those that the files name come first and
    /// in their order, since some readers know one end token only. None if there is nothing to say.
    pub fn generation_config_ending_at(&self, eos_token_ids: &[u32]) -> Option<Value> {
        let mut config = self.generation_config.clone().filter(Value::is_object).unwrap_or_else(|| json!({}));
        for name in ["bos_token_id", "pad_token_id"] {
            if config[name].is_null() && !self.config[name].is_null() {
                config[name] = self.config[name].clone();
            }
        }
        let named = [&config, &self.config].map(|source| match &source["eos_token_id"] {
            Value::Null => Vec::new(),
            Value::Array(ids) => ids.clone(),
            id => vec![id.clone()],
        });
        let mut ids: Vec<Value> = Vec::new();
        for id in named.into_iter().flatten().chain(eos_token_ids.iter().map(|id| json!(id))) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        match &ids[..] {
            [] => {}
            [id] => config["eos_token_id"] = id.clone(),
            _ => config["eos_token_id"] = ids.into(),
        }
        config.as_object().is_some_and(|fields| !fields.is_empty()).then_some(config)
    }
}

/// The files that make a Hugging Face tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerFiles {
    /// The bytes of `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// The content of `tokenizer_config.json`; `{}` where there is none.
    pub tokenizer_config: Value,
    /// The chat template (Jinja): `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`.
    pub chat_template: Option<String>,
}

impl TokenizerFiles {
    /// The text of a special token of `tokenizer_config.json`, which has it as such or as `content` of an object.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        let token = self.tokenizer_config.get(name)?;
        token.as_str().or_else(|| token.get("content")?.as_str())
    }
}

/// Opens a Hugging Face folder or a GGUF file. Weights are checked but not read.
///
/// # Errors
/// [`Error::Input`] if the path is neither, or if anything in it is missing, damaged or of an unknown kind.
pub fn open_model(path: &Path) -> Result<ModelFiles> {
    if path.is_dir() {
        return hf_folder::open_model_folder(path);
    }
    if !path.exists() {
        return Err(Error::input(path, "no such file or folder")
            .with_hint("give a Hugging Face model folder (config.json and model.safetensors inside), a .gguf file, or a model of the hub \
                        as owner/name (openai-community/gpt2)"));
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => {
            Err(Error::input(path, "this is one file of a model").with_hint("give the folder that it lies in"))
        }
        _ => gguf_model::open_gguf_model(path),
    }
}

/// The tensors of a model under their Hugging Face names, read one at a time.
///
/// Names are as in `transformers` (`model.layers.0.self_attn.q_proj.weight`); values are row-major, a projection is
/// `[out, in]`. Reading needs only `&self` and may happen from several threads.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, TensorPlace>,
}

/// A file that holds tensors.
#[derive(Debug)]
enum WeightFile {
    Safetensors(SafetensorsFile),
    Gguf(GgufFile),
}

/// Where the values of one tensor are.
#[derive(Debug)]
struct TensorPlace {
    /// Index into `Weights::files`.
    file: usize,
    name_in_file: String,
    /// As seen, which is not always as stored.
    shape: Vec<usize>,
    arrangement: Arrangement,
}

/// How a tensor lies in its file.
#[derive(Clone, Debug, PartialEq)]
enum Arrangement {
    /// As it is seen.
    AsStored,
    /// Each head's two rotary halves are interleaved: see `gguf_model`.
    Interleaved { num_heads: usize },
    /// As some rows of the stored tensor, which may have to be transposed first: see `hf_names`.
    Part { rows: Range<usize>, transposed: bool },
}

impl Weights {
    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, or `None` if there is none of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|place| place.shape.as_slice())
    }

    /// Reads one tensor's values, row-major, whatever type they are stored in.
    ///
    /// # Errors
    /// [`Error::Input`] if the name is unknown, the stored type is not a float type, or reading fails.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let place = self.tensors.get(name).ok_or_else(|| {
            Error::input(&self.path, format!("has no tensor `{name}`"))
                .with_hint("the configuration and the weights may belong to different models")
        })?;
        let values = match &self.files[place.file] {
            WeightFile::Safetensors(file) => file.read_f32(&place.name_in_file)?,
            WeightFile::Gguf(file) => file.read_f32(&place.name_in_file)?,
        };
        Ok(match &place.arrangement {
            Arrangement::AsStored => values,
            Arrangement::Interleaved { num_heads } => {
                gguf_model::deinterleave_rows(&values, place.shape[0], *num_heads)
            }
            Arrangement::Part { rows, transposed } => {
                let row_len: usize = place.shape[1..].iter().product();
                let values = if *transposed { hf_names::transpose(&values, row_len) } else { values };
                values[rows.start * row_len..rows.end * row_len].to_vec()
            }
        })
    }

    /// The bytes that all tensors take on disk, as stored.
    pub fn num_bytes(&self) -> u64 {
        let bytes_of = |(file, name): (usize, &str)| match &self.files[file] {
            WeightFile::Safetensors(file) => file.num_bytes(name),
            WeightFile::Gguf(file) => file.num_bytes(name),
        };
        let stored = self.tensors.values().map(|place| (place.file, place.name_in_file.as_str()));
        stored.collect::<BTreeSet<_>>().into_iter().map(bytes_of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_path_is_an_input_error_with_a_hint() {
        let error = open_model(Path::new("no/such/model")).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("no such file or folder"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains(".gguf")));
    }

    #[test]
    fn what_lacks_in_a_copy_of_the_hub_is_not_added_to_what_other_programs_read() {
        let way = |path: &str| way_to_have(Path::new(path), "chat_template.jinja");
        assert_eq!(way("my-model"), "add chat_template.jinja to the model folder");
        let of_hub = way("hub/models--o--base/snapshots/0123");
        assert!(of_hub.ends_with("copy this folder and add chat_template.jinja to the copy"), "{of_hub}");
    }

    #[test]
    fn the_files_of_a_model_are_those_that_are_read() {
        let parent = tempfile::tempdir().unwrap();
        let folder = hf_write::testing::written(parent.path());
        std::fs::write(folder.join(".DS_Store"), "").unwrap();
        std::fs::write(folder.join("vocab.json"), "{}").unwrap();
        let paths = open_model(&folder).unwrap().paths();
        let names: Vec<_> = paths.iter().map(|path| path.strip_prefix(&folder).unwrap().to_str().unwrap()).collect();
        let expected = [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "model.safetensors",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_copy_ends_where_this_program_does_and_keeps_what_its_files_say() {
        let parent = tempfile::tempdir().unwrap();
        let files = open_model(&hf_write::testing::written(parent.path())).unwrap();
        let copied = |config: Value, generation_config: Option<Value>, eos_token_ids: &[u32]| {
            let files = ModelFiles { config, generation_config, ..open_model(&files.path).unwrap() };
            files.generation_config_ending_at(eos_token_ids)
        };
        for (config, generation_config, eos_token_ids, expected) in [
            (json!({}), None, &[][..], None),
            (json!({"eos_token_id": 2}), None, &[2], Some(json!({"eos_token_id": 2}))),
            (json!({"eos_token_id": 0}), None, &[0, 2], Some(json!({"eos_token_id": [0, 2]}))),
            (
                json!({"eos_token_id": 5, "bos_token_id": 1, "pad_token_id": null}),
                Some(json!({"eos_token_id": [9, 4], "top_k": 3})),
                &[4, 5, 9, 2],
                Some(json!({"eos_token_id": [9, 4, 5, 2], "bos_token_id": 1, "top_k": 3})),
            ),
            (json!({}), Some(json!([])), &[2], Some(json!({"eos_token_id": 2}))),
        ] {
            assert_eq!(copied(config, generation_config, eos_token_ids), expected);
        }
    }

    #[test]
    fn a_lone_safetensors_file_is_answered_with_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, b"").unwrap();
        let error = open_model(&path).unwrap_err();
        assert_eq!((error.exit_code(), error.hint()), (3, Some("give the folder that it lies in")));
    }
}
