//! A model together with its tokenizer, opened from a path: where every command begins.

pub mod gguf;

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use crate::config::RunConfig;
use crate::data::Unread;
use crate::data::examples::{Example, FileRows, Preparation};
use crate::data::rows::{Columns, read_good_rows, read_rows};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::formats::hf_folder::CONFIG;
use crate::formats::{ModelFiles, open_model};
use crate::model::{CausalLm, ModelConfig, weights};
use crate::records::ending::{AGAINST_FAILED_TRAINING, Ending};
use crate::records::run_folder::{
    CONFIG_FILE, RESTORE_CHECKPOINTS, Reached, checkpoints, has_lost_checkpoints, holds_run, newest_checkpoint, reached,
};
use crate::report::console::{Console, Unit};
use crate::report::shell::{shell_path, shell_word};
use crate::report::table::plural;

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

    /// The model of a run, whose prompts have the date that the run began with.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for(config: &RunConfig, path: &Path) -> Result<Self> {
        let mut policy = Self::open(path)?;
        if let (Some(tokenizer), Some(date)) = (&mut policy.tokenizer, config.date()) {
            tokenizer.set_date(date);
        }
        Ok(policy)
    }

    /// Reads data files as token ids for this model; prompt and response together have at most `max_length` tokens, and
    /// fit the model's context. What is left out is counted and said, and so is what is not read and text that the
    /// tokenizer does not know.
    ///
    /// # Errors
    /// [`Error::Input`] for a bad line, unless those are skipped; for a row that the tokenizer refuses; if no row is left.
    pub fn read_examples(
        &self,
        files: &[PathBuf],
        wanted: &Wanted,
        max_length: usize,
        console: &Console,
    ) -> Result<Vec<Example>> {
        self.examples(&wanted.read(files, console)?, max_length, console)
    }

    /// As [`Self::read_examples`], of rows that are read.
    ///
    /// # Errors
    /// [`Error::Input`] for a row that the tokenizer refuses; if no row is left.
    pub fn examples(&self, files: &[FileRows], max_length: usize, console: &Console) -> Result<Vec<Example>> {
        say_unread(files, console);
        let (examples, dropped) = self.preparation(max_length).examples(files, &mut |_| {})?;
        if dropped.total() > 0 {
            console.warn(format!("{}: {dropped}", names(files)));
        }
        let rows = examples.iter().map(|example| [&example.prompt_ids[..], &example.demonstration_ids]);
        self.say_unknown(files, rows, console);
        Ok(examples)
    }

    /// Warns of rows, given as token ids, with text that the tokenizer does not know.
    pub fn say_unknown<'i, const N: usize>(
        &self,
        files: &[FileRows],
        rows: impl Iterator<Item = [&'i [u32]; N]>,
        console: &Console,
    ) {
        let Some(tokenizer) = &self.tokenizer else { return };
        let has_unknown = |row: &[&[u32]; N]| row.iter().any(|ids| tokenizer.has_unknown(ids));
        let count = rows.filter(has_unknown).count();
        if count > 0 {
            console.warn(format!("{}: {} with {}", names(files), plural(count, "row"), tokenizer.about_unknown()));
        }
    }

    /// How rows become examples for this model.
    pub fn preparation(&self, max_length: usize) -> Preparation<'_> {
        let context = self.config.max_position_embeddings;
        Preparation {
            tokenizer: self.tokenizer.as_ref(),
            vocab_size: self.config.vocab_size,
            max_length: max_length.min(context),
            is_limited_by_context: context < max_length,
        }
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
pub(crate) fn aligned_model(path: &Path) -> Result<PathBuf> {
    if !holds_run(path) {
        return Ok(path.to_owned());
    }
    let model = path.join(MODEL_FOLDER);
    match model.join(CONFIG).is_file() {
        true => Ok(model),
        false => Err(without_model(path)),
    }
}

/// The error of a run that has no aligned model, and the way to one: what `gsil resume` writes it does not write again.
fn without_model(run: &Path) -> Error {
    let path = shell_path(run);
    let export = |name: &str| format!("gsil export {path} --checkpoint {name} --format hf --output NEW_FOLDER");
    let of_newest = newest_checkpoint(run).map(|name| export(&shell_word(&name)));
    let reached = reached(run);
    if matches!(reached, Reached::Nothing | Reached::Checkpoint) {
        let error = Error::input(run, "is a run that has no aligned model yet");
        if has_lost_checkpoints(run) {
            return error.with_hint(format!("its checkpoints are gone: {RESTORE_CHECKPOINTS}"));
        }
        let or = of_newest.map_or_else(String::new, |export| format!("; or take its newest checkpoint: {export}"));
        return error.with_hint(match Ending::is_of_failed_training(run) {
            true => format!("{AGAINST_FAILED_TRAINING}; gsil report {path} says why{or}"),
            false => format!("finish it: gsil resume {path}{or}"),
        });
    }
    let finished = if reached == Reached::End { "finished " } else { "" };
    let error = Error::input(run, format!("is a {finished}run whose aligned model was removed"));
    error.with_hint(match of_newest {
        Some(export) if reached == Reached::End && !compares_sft(run) => {
            format!("make one of its last checkpoint: {export}")
        }
        // Those of the comparison's model are among them: the list says which.
        _ if !checkpoints(run).is_empty() => {
            format!("make one of a checkpoint that is left; a wrong name lists them: {}", export("NAME"))
        }
        _ => "its checkpoints were removed, too; a comparison with `keep_models: false` keeps none: for models leave it out \
              and choose another --output"
            .to_owned(),
    })
}

/// Whether a run's last checkpoint is of a model that was trained for comparison; true where its settings do not say.
fn compares_sft(run: &Path) -> bool {
    let text = std::fs::read_to_string(run.join(CONFIG_FILE)).unwrap_or_default();
    RunConfig::from_ron(&text, CONFIG_FILE).map_or(true, |config| config.compares_sft())
}

/// Warns of what rows say that is not read.
pub fn say_unread(files: &[FileRows], console: &Console) {
    for unread in Unread::of(files) {
        console.warn(format!("{}: {unread}", names(files)));
    }
}

/// Warns of what rows say of their prompts that is not read.
pub fn say_unread_of_prompts(files: &[FileRows], console: &Console) {
    for unread in Unread::of(files).into_iter().filter(|unread| !unread.is_of_response()) {
        console.warn(format!("{}: {unread}", names(files)));
    }
}

/// The files as a warning names them.
fn names(files: &[FileRows]) -> String {
    files.iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Which rows of data files are read, and how.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The first so many; all if none.
    pub max_rows: Option<usize>,
    /// Bad lines are counted and said instead of ending the command.
    pub skip_bad_rows: bool,
    /// The columns of prompt and response; None: rows are recognised by their keys.
    pub columns: Option<Columns>,
}

impl Wanted {
    /// What a configuration says of its data, with another number of rows.
    pub fn new(config: &RunConfig, max_rows: Option<usize>) -> Self {
        Wanted { max_rows, skip_bad_rows: config.skip_bad_rows, columns: Columns::of(config) }
    }

    /// The rows of some files, one after another. Skipped lines are counted and said.
    ///
    /// # Errors
    /// [`Error::Input`] for a bad line, unless those are skipped, and for a file without rows.
    pub fn read(&self, files: &[PathBuf], console: &Console) -> Result<Vec<FileRows>> {
        let mut read: Vec<FileRows> = Vec::new();
        for path in files {
            let num_rows: usize = read.iter().map(|file| file.rows.len()).sum();
            let max_rows = self.max_rows.map(|max_rows| max_rows - num_rows);
            if max_rows == Some(0) {
                break;
            }
            let columns = self.columns.as_ref();
            let rows = if self.skip_bad_rows {
                let (rows, skipped) = read_good_rows(path, max_rows, columns)?;
                if let Some(skipped) = skipped {
                    console.warn(skipped.to_string());
                }
                rows
            } else {
                read_rows(path, max_rows, columns)?
            };
            read.push(FileRows { path: path.clone(), rows });
        }
        Ok(read)
    }
}
