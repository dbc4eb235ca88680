//! Hugging Face model folders: opened without reading the weights, written so that `transformers` and model servers
//! open them.
//!
//! | file | read | written |
//! |---|---|---|
//! | `config.json` | required | yes |
//! | `generation_config.json` | if there | if given |
//! | `model.safetensors`, or `model.safetensors.index.json` and its shards | required | one file, F32, F16 or BF16 |
//! | `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja` | if there | if given |
//! | `README.md` | no | if given |
//!
//! A folder cannot make this program open a file elsewhere: shard names are plain names ending in `.safetensors`, and
//! symbolic links may lead to files of the folder or, as in the Hugging Face cache, from `snapshots/REVISION` to `blobs` of
//! the repository or of the cache, nowhere else. Pickle files (`pytorch_model.bin`) can run code and are never read.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::file_bytes::FileBytes;
use super::hf_names;
pub use super::hf_write::{ModelFolder, write_model_folder};
use super::peft::ADAPTER_CONFIG;
use super::safetensors::open_safetensors;
use super::{Arrangement, ModelFiles, TensorPlace, TokenizerFiles, WeightFile, Weights};
use crate::error::{Error, Result};
use crate::records::run_folder::{CHECKPOINTS_FOLDER, holds_run, instead_of_comparison};
use crate::report::shell::{shell_path, shell_word};

pub const CONFIG: &str = "config.json";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// What is read besides the weights, where it is there.
pub(super) const BESIDE_WEIGHTS: [&str; 5] = [CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE];

/// The largest `tokenizer.json` in use has about 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// The largest index in use has about 5 MB. A value of JSON takes up to 30 times its text in memory.
const MAX_JSON_BYTES: u64 = 16 << 20;
const MAX_SHARDS: usize = 1_000;
/// What file systems take.
const MAX_FILE_NAME_BYTES: usize = 255;

/// Opens a Hugging Face folder. Weights are checked but not read.
///
/// # Errors
/// [`Error::Input`] if a required file is missing, or one is damaged.
pub fn open_model_folder(folder: &Path) -> Result<ModelFiles> {
    let config = read_json(folder, CONFIG)?.ok_or_else(|| no_config(folder))?;
    if !config.is_object() {
        return Err(Error::input(folder.join(CONFIG), "expected a JSON object"));
    }
    let generation_config = read_json(folder, GENERATION_CONFIG)?;
    let tokenizer = open_tokenizer(folder)?;
    let mut weights = open_weights(folder)?;
    hf_names::as_seen(&mut weights, &config)?;
    Ok(ModelFiles { path: folder.to_owned(), config, generation_config, tokenizer, weights })
}

fn no_config(folder: &Path) -> Error {
    let gguf = fs::read_dir(folder).ok().into_iter().flatten().flatten().map(|entry| entry.path());
    let gguf = gguf.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    let comparison = instead_of_comparison(folder);
    Error::input(folder, format!("has no {CONFIG}")).with_hint(
        match (gguf, export_of_checkpoint(folder).or(comparison)) {
            _ if folder.join(ADAPTER_CONFIG).exists() => {
                "it is an adapter alone: give the run that made it, or its export with --format hf".into()
            }
            (Some(path), _) => format!("to use the GGUF model, give the file itself: {}", path.display()),
            (None, Some(advice)) => advice,
            (None, None) => "a model folder holds config.json, model.safetensors and tokenizer.json".into(),
        },
    )
}

/// How a model folder is made of a run's checkpoint; None if `folder` is no checkpoint.
fn export_of_checkpoint(folder: &Path) -> Option<String> {
    let run = folder.parent().filter(|parent| parent.ends_with(CHECKPOINTS_FOLDER))?.parent()?;
    let run = if run.as_os_str().is_empty() { Path::new(".") } else { run };
    let name = shell_word(&folder.file_name()?.to_string_lossy());
    let command = format!("gsil export {} --checkpoint {name} --format hf --output NEW_DIR", shell_path(run));
    holds_run(run).then(|| format!("a run's checkpoint is made a model folder with: {command}"))
}

/// The path of a file of the folder, or `None` if it is not there.
///
/// # Errors
/// A symbolic link that leads out of the folder, other than from a snapshot of the Hugging Face cache to its blobs.
fn file_in(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    let path = folder.join(name);
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::reading(&path))?,
    };
    let real = fs::canonicalize(&path).map_err(Error::reading(&path))?;
    let real_folder = fs::canonicalize(folder).map_err(Error::reading(folder))?;
    if real.starts_with(&real_folder) || blobs_of_snapshot(&real_folder).iter().any(|blobs| real.starts_with(blobs)) {
        return Ok(Some(path));
    }
    Err(Error::input(&path, "is a symbolic link that leads out of the model folder")
        .with_hint("put the file itself into the folder"))
}

/// Where the Hugging Face cache keeps the files of the `snapshots` folder that this is an entry of: `blobs` beside it, and
/// `blobs` beside the repository's folder, for files that several repositories share.
fn blobs_of_snapshot(real_folder: &Path) -> Vec<PathBuf> {
    let Some(snapshots) = real_folder.parent().filter(|parent| parent.ends_with("snapshots")) else {
        return Vec::new();
    };
    let repository = snapshots.parent().filter(|folder| {
        folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("models--"))
    });
    let shared = repository.map(|folder| folder.with_file_name("blobs"));
    [Some(snapshots.with_file_name("blobs")), shared].into_iter().flatten().collect()
}

/// The bytes of a small file, or `None` if it is not there.
fn read_small_file(folder: &Path, name: &str, max_bytes: u64) -> Result<Option<Vec<u8>>> {
    let Some(path) = file_in(folder, name)? else { return Ok(None) };
    let file = FileBytes::open(&path)?;
    if file.len() > max_bytes {
        return Err(Error::input(path, format!("has {} bytes; at most {max_bytes} make sense", file.len())));
    }
    file.read(0, file.len()).map(Some)
}

/// The content of a JSON file, or `None` if it is not there.
fn read_json(folder: &Path, name: &str) -> Result<Option<Value>> {
    let Some(bytes) = read_small_file(folder, name, MAX_JSON_BYTES)? else { return Ok(None) };
    // serde_json's message ends with "at line L column C".
    let parsed = serde_json::from_slice(&bytes).map(Some);
    parsed.map_err(|error| Error::input(folder.join(name), format!("bad JSON: {error}")))
}

fn open_tokenizer(folder: &Path) -> Result<Option<TokenizerFiles>> {
    let Some(tokenizer_json) = read_small_file(folder, TOKENIZER, MAX_TOKENIZER_BYTES)? else { return Ok(None) };
    let tokenizer_config = read_json(folder, TOKENIZER_CONFIG)?.unwrap_or_else(|| json!({}));
    let chat_template = match read_small_file(folder, CHAT_TEMPLATE, MAX_JSON_BYTES)? {
        Some(bytes) => {
            Some(String::from_utf8(bytes).map_err(|_| Error::input(folder.join(CHAT_TEMPLATE), "is not UTF-8"))?)
        }
        None => template_in_config(&tokenizer_config),
    };
    Ok(Some(TokenizerFiles { tokenizer_json, tokenizer_config, chat_template }))
}

/// `chat_template` is one template, or a list of named ones, of which `default` is the one for plain conversations.
fn template_in_config(tokenizer_config: &Value) -> Option<String> {
    let template = tokenizer_config.get("chat_template")?;
    let template = match template {
        Value::Array(named) => named.iter().find(|entry| entry["name"] == "default")?.get("template")?,
        one => one,
    };
    template.as_str().map(str::to_owned)
}

fn open_weights(folder: &Path) -> Result<Weights> {
    let mut weights = Weights { path: folder.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
    if let Some(single) = file_in(folder, WEIGHTS)? {
        let file = open_safetensors(&single)?;
        for name in file.names() {
            let shape = file.shape(name).unwrap_or_default();
            weights.tensors.insert(name.to_owned(), stored_as(0, name, shape));
        }
        weights.files.push(WeightFile::Safetensors(file));
        return Ok(weights);
    }
    let index_path = folder.join(WEIGHTS_INDEX);
    let Some(index) = read_json(folder, WEIGHTS_INDEX)? else { return Err(no_weights(folder)) };
    let shards = shards_by_name(&index, &index_path)?;
    // Every name is checked before the first file is opened.
    for (shard, tensors) in &shards {
        let missing = || Error::input(&index_path, format!("names `{shard}`, which is not in the folder"));
        let path = file_in(folder, shard)?.ok_or_else(|| missing().with_hint("download the model again"))?;
        let file = open_safetensors(&path)?;
        for tensor in tensors {
            let Some(shape) = file.shape(tensor) else {
                return Err(Error::input(&index_path, format!("`{shard}` has no such tensor")).at(*tensor));
            };
            weights.tensors.insert((*tensor).clone(), stored_as(weights.files.len(), tensor, shape));
        }
        weights.files.push(WeightFile::Safetensors(file));
    }
    Ok(weights)
}

/// The files that an index names, each with its tensors. The index also has the size of all tensors, which is not read:
/// in published models it is often that of another number format.
fn shards_by_name<'a>(index: &'a Value, index_path: &Path) -> Result<BTreeMap<&'a str, Vec<&'a String>>> {
    let weight_map = index.get("weight_map").and_then(Value::as_object);
    let weight_map = weight_map.ok_or_else(|| Error::input(index_path, "has no `weight_map`"))?;
    let mut shards: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for (tensor, shard) in weight_map {
        let shard = shard.as_str().ok_or_else(|| Error::input(index_path, "expected a file name").at(tensor))?;
        if !is_shard_name(shard) {
            let message = format!("{shard:?} is not a plain file name ending in .safetensors");
            return Err(Error::input(index_path, message).at("weight_map"));
        }
        shards.entry(shard).or_default().push(tensor);
        if shards.len() > MAX_SHARDS {
            return Err(Error::input(index_path, format!("names more than {MAX_SHARDS} files")));
        }
    }
    Ok(shards)
}

/// The files that the index of a folder names; `None` without an index.
///
/// # Errors
/// [`Error::Input`] for an index that is damaged or names anything but plain files.
#[cfg(feature = "hub")]
pub(super) fn shard_names(folder: &Path) -> Result<Option<Vec<String>>> {
    let Some(index) = read_json(folder, WEIGHTS_INDEX)? else { return Ok(None) };
    let shards = shards_by_name(&index, &folder.join(WEIGHTS_INDEX))?;
    Ok(Some(shards.into_keys().map(str::to_owned).collect()))
}

fn stored_as(file: usize, name: &str, shape: &[usize]) -> TensorPlace {
    TensorPlace { file, name_in_file: name.to_owned(), shape: shape.to_owned(), arrangement: Arrangement::AsStored }
}

fn no_weights(folder: &Path) -> Error {
    let error = Error::input(folder, format!("has neither {WEIGHTS} nor {WEIGHTS_INDEX}"));
    match ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().find(|name| folder.join(name).exists()) {
        Some(name) => error.with_hint(format!(
            "{name} is a pickle file, which can run code and is never read; convert it with `transformers`: \
             AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )),
        None => error,
    }
}

/// A plain name ending in `.safetensors`, so that no index leads to a file elsewhere.
fn is_shard_name(name: &str) -> bool {
    is_plain_name(name) && name.ends_with(".safetensors")
}

/// One name of a file in the folder that it is joined to, on any system.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let is_one = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    let is_odd = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
    let stem = name.split('.').next().unwrap_or_default();
    let is_plain = is_one && !stem.is_empty() && !name.contains(is_odd) && name.len() <= MAX_FILE_NAME_BYTES;
    is_plain && !is_windows_device(stem)
}

/// `CON`, `nul`, `COM1` ..: on Windows a device, whatever follows the first dot.
fn is_windows_device(stem: &str) -> bool {
    let stem = stem.trim_end().to_ascii_uppercase();
    let is_port = |digits: &str| digits.chars().count() == 1 && digits.contains(|c| "0123456789¹²³".contains(c));
    let numbered = stem.strip_prefix("COM").or(stem.strip_prefix("LPT"));
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || numbered.is_some_and(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::HostTensor;
    use crate::formats::hf_write::testing::{tokenizer, written};
    use crate::formats::safetensors::write_safetensors;

    fn refused(folder: &Path, why: &str) {
        let error = open_model_folder(folder).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(why), "expected {why:?} in: {error}");
    }

    #[test]
    fn a_written_folder_is_read_back() {
        let parent = tempfile::tempdir().unwrap();
        let model = open_model_folder(&written(parent.path())).unwrap();
        assert_eq!(model.config, json!({"model_type": "llama", "torch_dtype": "float32"}));
        assert_eq!(model.generation_config, Some(json!({"eos_token_id": 2})));
        assert_eq!(model.tokenizer, Some(tokenizer()));
        assert_eq!(model.weights.names().collect::<Vec<_>>(), ["lm_head.weight", "model.norm.weight"]);
        assert_eq!(model.weights.read_f32("model.norm.weight").unwrap(), [1.0, 2.0]);
        assert_eq!((model.weights.shape("lm_head.weight"), model.weights.num_bytes()), (Some(&[1][..]), 12));
    }

    #[test]
    fn a_template_file_wins_over_the_one_in_the_configuration() {
        let named =
            json!({"chat_template": [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]});
        assert_eq!(template_in_config(&named).as_deref(), Some("D"));
        assert_eq!(template_in_config(&json!({"chat_template": "C"})).as_deref(), Some("C"));
        let parent = tempfile::tempdir().unwrap();
        let folder = written(parent.path());
        fs::write(folder.join(TOKENIZER_CONFIG), r#"{"chat_template": "C"}"#).unwrap();
        let template = |folder: &Path| open_model_folder(folder).unwrap().tokenizer.unwrap().chat_template;
        assert_eq!(template(&folder).as_deref(), Some("{{ messages }}"));
        fs::remove_file(folder.join(CHAT_TEMPLATE)).unwrap();
        assert_eq!(template(&folder).as_deref(), Some("C"));
    }

    #[test]
    fn shards_are_read_through_their_index() {
        let parent = tempfile::tempdir().unwrap();
        let folder = written(parent.path());
        fs::rename(folder.join(WEIGHTS), folder.join("model-00001-of-00002.safetensors")).unwrap();
        let other = HostTensor { name: "b".into(), shape: vec![1], values: vec![5.0] };
        let second = folder.join("model-00002-of-00002.safetensors");
        write_safetensors(&second, vec![other.into()], &BTreeMap::new()).unwrap();
        let index = |b: &str| {
            let map = json!({"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors", "b": b}});
            fs::write(folder.join(WEIGHTS_INDEX), map.to_string()).unwrap();
        };
        index("model-00002-of-00002.safetensors");
        let weights = open_model_folder(&folder).unwrap().weights;
        assert_eq!(
            (weights.read_f32("b").unwrap(), weights.read_f32("lm_head.weight").unwrap()),
            (vec![5.0], vec![3.0])
        );
        index("model-00001-of-00002.safetensors");
        refused(&folder, "has no such tensor");
    }

    #[test]
    fn missing_and_damaged_files_are_named() {
        let parent = tempfile::tempdir().unwrap();
        let folder = written(parent.path());
        fs::write(folder.join(GENERATION_CONFIG), "{\n  \"a\": }").unwrap();
        refused(&folder, "generation_config.json: bad JSON: expected value at line 2 column 8");
        fs::remove_file(folder.join(GENERATION_CONFIG)).unwrap();
        fs::remove_file(folder.join(WEIGHTS)).unwrap();
        refused(&folder, "has neither model.safetensors nor model.safetensors.index.json");
        fs::write(folder.join("pytorch_model.bin"), "").unwrap();
        assert!(open_model_folder(&folder).unwrap_err().hint().unwrap().contains("never read"));
        fs::write(folder.join(CONFIG), "[]").unwrap();
        refused(&folder, "expected a JSON object");
        fs::remove_file(folder.join(CONFIG)).unwrap();
        fs::write(folder.join("model.gguf"), "").unwrap();
        refused(&folder, "has no config.json");
        let hint = || open_model_folder(&folder).unwrap_err().hint().unwrap().to_owned();
        assert!(hint().contains("model.gguf"));
        fs::write(folder.join(ADAPTER_CONFIG), "{}").unwrap();
        assert!(hint().contains("adapter alone"));
    }

    #[test]
    fn a_comparison_in_place_of_a_model_is_told_as_that() {
        let grid = tempfile::tempdir().unwrap();
        fs::write(grid.path().join("compare.ron"), "").unwrap();
        fs::create_dir(grid.path().join("cells")).unwrap();
        let hint = open_model_folder(grid.path()).unwrap_err().hint().unwrap().to_owned();
        assert!(hint.starts_with("it is the folder of a comparison: give one of its runs, "), "{hint}");
    }

    #[test]
    fn a_checkpoint_in_place_of_a_model_is_told_how_it_becomes_one() {
        let run = tempfile::tempdir().unwrap();
        let checkpoint = run.path().join("checkpoints/step-000006-done");
        fs::create_dir_all(&checkpoint).unwrap();
        let hint = || open_model_folder(&checkpoint).unwrap_err().hint().unwrap().to_owned();
        assert!(hint().starts_with("a model folder holds"), "no run is above it: {}", hint());
        fs::write(run.path().join("config.ron"), "()").unwrap();
        let run = shell_path(run.path());
        let command = format!("gsil export {run} --checkpoint step-000006-done --format hf --output NEW_DIR");
        assert!(hint().ends_with(&format!("with: {command}")), "{}", hint());
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_links_as_in_the_hugging_face_cache_are_followed() {
        let parent = tempfile::tempdir().unwrap();
        let written = written(parent.path());
        let (blobs, snapshot) = (parent.path().join("blobs"), parent.path().join("snapshots/0a1b"));
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        for entry in fs::read_dir(&written).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            fs::rename(&path, blobs.join(name)).unwrap();
            std::os::unix::fs::symlink(Path::new("../../blobs").join(name), snapshot.join(name)).unwrap();
        }
        assert_eq!(open_model_folder(&snapshot).unwrap().weights.names().count(), 2);
        let link_to_folder = parent.path().join("main");
        std::os::unix::fs::symlink(&snapshot, &link_to_folder).unwrap();
        assert_eq!(open_model_folder(&link_to_folder).unwrap().weights.names().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn files_that_repositories_of_the_cache_share_are_followed_from_repositories_alone() {
        for (repository, is_followed) in [("models--o--n", true), ("other", false)] {
            let parent = tempfile::tempdir().unwrap();
            let snapshot = parent.path().join(repository).join("snapshots/0a1b");
            let shared = parent.path().join("blobs/0a");
            fs::create_dir_all(&shared).unwrap();
            fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
            fs::rename(written(parent.path()), &snapshot).unwrap();
            fs::rename(snapshot.join(WEIGHTS), shared.join("0a1b")).unwrap();
            std::os::unix::fs::symlink(shared.join("0a1b"), snapshot.join(WEIGHTS)).unwrap();
            assert_eq!(open_model_folder(&snapshot).is_ok(), is_followed, "{repository}");
        }
    }
}
