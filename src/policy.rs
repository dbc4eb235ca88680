//! A model together with its tokenizer, opened from a path: where every command begins.

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use crate::data::examples::{Example, prepare_examples};
use crate::data::rows::{Row, read_good_rows, read_rows};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::formats::{ModelFiles, open_model};
use crate::model::{CausalLm, ModelConfig, weights};
use crate::report::console::{Console, Unit};

/// The aligned model's folder inside a run folder.
pub const MODEL_FOLDER: &str = "model";

/// A model's files, checked, with the weights still on disk.
pub struct Policy {
    pub files: ModelFiles,
    pub config: ModelConfig,
    /// None: rows are given as token ids.
    pub tokenizer: Option<Tokenizer>,
    /// Any of these ends a response.
    pub eos_token_ids: Vec<u32>,
}

impl Policy {
    /// Opens a Hugging Face folder, a GGUF file, or the aligned model of a run folder.
    ///
    /// # Errors
    /// [`Error::Input`] for whatever is missing, damaged or unsupported, and for a tokenizer whose ids the model lacks.
    pub fn open(path: &Path) -> Result<Self> {
        let path = &aligned_model(path)?;
        let files = open_model(path)?;
        let config = ModelConfig::from_json(&files.config, files.generation_config.as_ref(), path)?;
        let tokenizer =
            files.tokenizer.as_ref().map(|files| Tokenizer::new(files, path, &config.eos_token_ids)).transpose()?;
        if let Some(tokenizer) = &tokenizer
            && tokenizer.vocab_size() > config.vocab_size
        {
            let (ids, rows) = (tokenizer.vocab_size(), config.vocab_size);
            return Err(Error::input(path, format!("the tokenizer has {ids} token ids, the model only {rows}"))
                .at("field `vocab_size`")
                .with_hint("tokenizer and weights belong to different models"));
        }
        let eos_token_ids = tokenizer.as_ref().map_or(&config.eos_token_ids[..], Tokenizer::eos_token_ids).to_vec();
        Ok(Policy { files, config, tokenizer, eos_token_ids })
    }

    /// Reads a data file as token ids for this model; prompt and response together have at most `max_length` tokens, and
    /// fit the model's context. What is left out is counted and said.
    ///
    /// # Errors
    /// [`Error::Input`] for a bad line, unless those are skipped; for a row that the tokenizer refuses; if no row is left.
    pub fn read_examples(
        &self,
        path: &Path,
        wanted: Wanted,
        max_length: usize,
        console: &Console,
    ) -> Result<Vec<Example>> {
        let rows = wanted.read(path, console)?;
        let max_length = max_length.min(self.config.max_position_embeddings);
        let (examples, dropped) =
            prepare_examples(&rows, self.tokenizer.as_ref(), self.config.vocab_size, max_length, path)?;
        if dropped.total() > 0 {
            console.warn(format!("{}: {dropped}", path.display()));
        }
        Ok(examples)
    }

    /// Reads the weights onto a device, with a progress bar.
    ///
    /// # Errors
    /// A missing, misshapen or unused tensor, by its name.
    pub fn load(&self, device: &Device, console: &Console) -> Result<CausalLm> {
        let num_bytes = 4 * self.config.num_parameters() as u64;
        let mut bar = console.bar("loading", num_bytes, Unit::Bytes);
        weights::load(&self.files, &self.config, device, &mut |bytes| bar.advance(bytes))
    }
}

/// Where the model of a path lies: a run folder (it has a `config.ron`) stands for its aligned model.
fn aligned_model(path: &Path) -> Result<PathBuf> {
    if !path.join("config.ron").is_file() {
        return Ok(path.to_owned());
    }
    let model = path.join(MODEL_FOLDER);
    match model.join("config.json").is_file() {
        true => Ok(model),
        false => Err(Error::input(path, "is a run that has no aligned model yet")
            .with_hint(format!("finish it: gsil resume {}", path.display()))),
    }
}

/// Which rows of a data file are read.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The first so many; all if none.
    pub max_rows: Option<usize>,
    /// Bad lines are counted and said instead of ending the command.
    pub skip_bad_rows: bool,
}

impl Wanted {
    /// The rows of a file. Skipped lines are counted and said.
    ///
    /// # Errors
    /// [`Error::Input`] for a bad line, unless those are skipped, and if there is no row.
    pub fn read(self, path: &Path, console: &Console) -> Result<Vec<Row>> {
        if !self.skip_bad_rows {
            return read_rows(path, self.max_rows);
        }
        let (rows, skipped) = read_good_rows(path, self.max_rows)?;
        if let Some(skipped) = skipped {
            console.warn(skipped.to_string());
        }
        Ok(rows)
    }
}
