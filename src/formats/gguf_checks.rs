//! What the tests of this folder ask of a GGUF file that [`super::gguf_builder`] made.

use std::path::Path;

use tokenizers::Tokenizer as Reader;

use super::gguf::open_gguf;
use super::gguf_builder::GgufBuilder;
use super::gguf_model::open_gguf_model;
use super::gguf_tokenizer::tokenizer_files;
use super::{ModelFiles, TokenizerFiles};
use crate::error::Result;

/// The model in a file of these bytes.
pub fn opened(bytes: &[u8]) -> Result<ModelFiles> {
    with_file(bytes, open_gguf_model)
}

/// A model that is refused with these words.
#[track_caller]
pub fn refused(builder: GgufBuilder, why: &str) {
    let error = opened(&builder.build()).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains(why), "expected {why:?} in: {error}");
}

/// What the tokenizer in the file becomes.
pub fn tokenizer_in(builder: &GgufBuilder) -> Result<Option<TokenizerFiles>> {
    with_file(&builder.build(), |path| tokenizer_files(path, &open_gguf(path)?.metadata))
}

/// The same as the library reads it.
pub fn reader(builder: &GgufBuilder) -> Reader {
    Reader::from_bytes(tokenizer_in(builder).unwrap().unwrap().tokenizer_json).unwrap()
}

pub fn tokens(reader: &Reader, text: &str, add_special_tokens: bool) -> Vec<String> {
    reader.encode(text, add_special_tokens).unwrap().get_tokens().to_vec()
}

fn with_file<T>(bytes: &[u8], read: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    read(&path)
}
