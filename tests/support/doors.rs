//! The doors through which strangers' files come in: bytes in, accepted or refused out. The mutation tests and the fuzz
//! targets both go through here, so what must hold of everything that is accepted is written once.

use std::path::{Path, PathBuf};

use gsil::config::RunConfig;
use gsil::data::chat_template::ChatTemplate;
use gsil::data::rows::{Message, read_good_rows, read_rows};
use gsil::data::tokenizer::Tokenizer;
use gsil::formats::safetensors::open_safetensors;
use gsil::formats::{TokenizerFiles, open_model};
use gsil::model::ModelConfig;
use gsil::{Error, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

thread_local! {
    /// One folder for all files of a thread: making a folder takes longer than reading most of them.
    static FOLDER: TempDir = tempfile::tempdir().unwrap();
}

/// A file of this name and content; the next one of the name takes its place.
fn saved(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.with(|folder| folder.path().join(name));
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Every tensor has as many values as its shape says, and all lie inside the file.
pub fn safetensors(bytes: &[u8]) -> Result<()> {
    let path = saved("model.safetensors", bytes);
    let file = open_safetensors(&path)?;
    let num_bytes: u64 = file.names().map(|name| file.num_bytes(name)).sum();
    assert!(num_bytes < bytes.len() as u64, "{num_bytes} of values in {} bytes", bytes.len());
    for name in file.names() {
        match file.read_f32(name) {
            Ok(values) => assert_eq!(values.len(), file.shape(name).unwrap().iter().product::<usize>(), "{name}"),
            Err(error) => assert!(error.to_string().contains("has type"), "only integers are not read: {error}"),
        }
    }
    Ok(())
}

/// The same of a whole model.
pub fn gguf(bytes: &[u8]) -> Result<()> {
    let path = saved("model.gguf", bytes);
    let model = open_model(&path)?;
    assert!(model.weights.num_bytes() < bytes.len() as u64);
    for name in model.weights.names() {
        let num_values = model.weights.read_f32(name)?.len();
        assert_eq!(num_values, model.weights.shape(name).unwrap().iter().product::<usize>(), "{name}");
    }
    Ok(())
}

/// The `config.json` of a model. What is accepted has heads, layers and sizes that fit each other.
pub fn config_json(bytes: &[u8]) -> Result<()> {
    let parsed = serde_json::from_slice::<Value>(bytes);
    let value = parsed.map_err(|error| Error::input("config.json", error.to_string()))?;
    let config = ModelConfig::from_json(&value, None, Path::new("model"))?;
    assert_eq!(config.layer_types.len(), config.num_hidden_layers);
    assert!(config.num_attention_heads.is_multiple_of(config.num_key_value_heads), "{config:?}");
    assert!((2..=config.head_dim).contains(&config.rotary_dim), "{config:?}");
    assert!(config.num_parameters() > config.vocab_size, "each token has a vector: {config:?}");
    Ok(())
}

/// Loads, encodes and decodes. Ids lie below the size of the vocabulary.
pub fn tokenizer(tokenizer_json: &[u8]) -> Result<()> {
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let files =
        TokenizerFiles { tokenizer_json: tokenizer_json.to_vec(), tokenizer_config: config, chat_template: None };
    let tokenizer = Tokenizer::new(&files, Path::new("model"), &[0])?;
    let ids = tokenizer.encode("Hello <|im_end|> <s>日本 12345\n  é")?;
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "{ids:?}");
    tokenizer.decode(&ids)?;
    tokenizer.decode(&[0, 1, 2, 3, 299, u32::MAX]).map(|_| ())
}

/// Compiles and renders a conversation, which comes out the same a second time.
pub fn chat_template(source: &str) -> Result<()> {
    let template = ChatTemplate::new(source, Some("<s>"), Some("</s>"), Path::new("model"))?;
    let turn = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let messages = [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello!"), turn("user", "Bye")];
    let rendered = template.render(&messages, true)?;
    match template.render(&messages, true) {
        Ok(again) => assert_eq!(again, rendered),
        // The clock is the one thing that may differ, where the first was just in time.
        Err(error) => assert!(error.to_string().contains("did not end within"), "{error}"),
    }
    Ok(())
}

/// JSON Lines.
pub fn rows(bytes: &[u8]) -> Result<()> {
    let num_lines = bytes.split(|byte| *byte == b'\n').count();
    rows_of("rows.jsonl", bytes, num_lines)
}

/// One list of rows.
pub fn json_list(bytes: &[u8]) -> Result<()> {
    rows_of("rows.json", bytes, bytes.len())
}

/// A table of text.
#[cfg(feature = "tables")]
pub fn csv(bytes: &[u8]) -> Result<()> {
    let num_lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).count();
    rows_of("rows.csv", bytes, num_lines)
}

/// A table in columns.
#[cfg(feature = "tables")]
pub fn parquet(bytes: &[u8]) -> Result<()> {
    rows_of("rows.parquet", bytes, 200_000 + 4 * bytes.len())
}

/// Read strictly and read with bad rows skipped, a file gives the same rows and the same first problem, and no more rows
/// than it can have.
fn rows_of(name: &str, bytes: &[u8], max_rows: usize) -> Result<()> {
    let path = saved(name, bytes);
    match (read_rows(&path, None, None), read_good_rows(&path, None, None)) {
        (Ok(strict), Ok((good, None))) => {
            assert_eq!(strict, good);
            assert!(good.len() <= max_rows);
            Ok(())
        }
        (Err(error), Ok((good, Some(skipped)))) => {
            assert_eq!(skipped.first.to_string(), error.to_string());
            assert!(!good.is_empty() && good.len() + skipped.count <= max_rows);
            Err(error)
        }
        (Err(error), Err(_)) => Err(error),
        (strict, good) => panic!("{strict:?} but {good:?}"),
    }
}

/// What is accepted is written and read back equal.
pub fn config(text: &str) -> Result<()> {
    let mut config = RunConfig::from_ron(text, "run.ron")?;
    config.resolve();
    config.validate()?;
    let written = config.to_ron()?;
    match RunConfig::from_ron(&written, "written.ron") {
        Ok(again) => assert_eq!(again, config),
        Err(error) => panic!("{error} in {written}"),
    }
    Ok(())
}

/// The error of a refused file says which file, and exits as bad input does.
#[track_caller]
pub fn assert_input_error(error: &Error, name: &str) {
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(error.to_string().contains(name), "{name} is not named: {error}");
}
