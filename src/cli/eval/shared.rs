//! What the evaluations have in common: the model, the rows, where results are kept, how they are printed.

use std::path::{Path, PathBuf};

use burn::module::Module;
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::{ModelArgs, print_line};
use crate::data::data_folder::{Split, files_of};
use crate::data::tokenizer::Tokenizer;
use crate::device;
use crate::error::{Error, Result};
use crate::eval::figures::Report;
use crate::eval::row_store::{RowStore, SETTINGS_FILE, keep_date};
use crate::formats::fingerprint::fingerprint;
use crate::formats::way_to_have;
use crate::model::CausalLm;
use crate::policy::Policy;
use crate::report::console::Console;
use crate::train::setup::num_tokens_multiple;

#[derive(Debug, Args)]
pub(super) struct EvaluationArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The rows: a file, or a folder with a valid file.
    #[arg(long)]
    data: PathBuf,
    /// Only the first N rows.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// A folder to keep rows.jsonl and result.json in. The same command on the same folder goes on where it stopped.
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Rows worked on side by side.
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
}

/// A model and data that were found and checked; no weights are read yet.
pub(super) struct Session<'a> {
    args: &'a EvaluationArgs,
    pub policy: Policy,
    /// The files of rows.
    pub files: Vec<PathBuf>,
    pub console: Console,
    device_name: &'a str,
}

impl EvaluationArgs {
    pub fn open(&self) -> Result<Session<'_>> {
        if self.batch_size == 0 || self.limit == Some(0) {
            return Err(Error::usage("--batch-size and --limit must be at least 1"));
        }
        let device_name = device::resolve_name(&self.model.device);
        let policy = self.model.open()?;
        let files = files_of(&self.model.hub.data(&self.data)?, Split::Validation)?;
        Ok(Session { args: self, policy, files, console: Console::stderr(), device_name })
    }
}

/// The tokenizer of a model that an evaluation asks.
///
/// # Errors
/// [`Error::Input`] if it has none: the rows are text.
pub(super) fn tokenizer_of(policy: &Policy) -> Result<&Tokenizer> {
    policy.tokenizer.as_ref().ok_or_else(|| {
        Error::input(&policy.files.path, "has no tokenizer, and the rows of an evaluation are text")
            .with_hint(way_to_have(&policy.files.path, "tokenizer.json"))
    })
}

impl Session<'_> {
    /// The files of other rows than those of `--data`: a file, a folder's train files, or those of a data set of the hub.
    ///
    /// # Errors
    /// As [`files_of`], and of the hub.
    pub fn files_of(&self, given: &Path) -> Result<Vec<PathBuf>> {
        files_of(&self.args.model.hub.data(given)?, Split::Train)
    }

    pub fn limit(&self) -> Option<usize> {
        self.args.limit
    }

    pub fn batch_size(&self) -> usize {
        self.args.batch_size
    }

    pub fn num_tokens_multiple(&self) -> usize {
        num_tokens_multiple(self.device_name)
    }

    /// The date of the prompts that go through the chat template from here on, for the settings of [`Self::row_store`]: see
    /// [`keep_date`].
    pub fn keep_date(&mut self) -> Result<Option<String>> {
        match (&mut self.policy.tokenizer, &self.args.output) {
            (Some(tokenizer), Some(folder)) => keep_date(tokenizer, &folder.join(SETTINGS_FILE)),
            _ => Ok(None),
        }
    }

    /// The rows that are done already, in the folder that `--output` names. `settings` are the evaluation's own.
    pub fn row_store<R>(&self, evaluation: &str, settings: Value) -> Result<RowStore<R>>
    where
        R: Serialize + DeserializeOwned,
    {
        let Some(folder) = &self.args.output else { return Ok(RowStore::in_memory()) };
        let mut all = json!({
            "evaluation": evaluation,
            "model": fingerprint(&self.policy.files.paths())?,
            "data": fingerprint(&self.files)?,
            "limit": self.args.limit,
        });
        if let (Value::Object(all), Value::Object(settings)) = (&mut all, settings) {
            all.extend(settings);
        }
        RowStore::open(folder, &all)
    }

    /// Reads the weights, for evaluation only.
    pub fn load(&self) -> Result<CausalLm> {
        let device = device::open(self.device_name)?;
        Ok(self.policy.load(&device, &self.console)?.valid())
    }

    /// Says how many prompts lost their start because they are longer than `limit`, in words.
    pub fn warn_of_cut_prompts(&self, num_cut: usize, limit: &str) {
        let prompts = match num_cut {
            0 => return,
            1 => "1 prompt is".to_owned(),
            _ => format!("{num_cut} prompts are"),
        };
        let whose = if num_cut == 1 { "its" } else { "their" };
        self.console.warn(format!("{prompts} longer than {limit}: {whose} start was left out"));
    }

    /// Keeps the figures where rows are kept, prints them as JSON, and as a table for people.
    pub fn finish<R>(&self, store: &RowStore<R>, report: &Report) -> Result<()>
    where
        R: Serialize + DeserializeOwned,
    {
        let json = serde_json::to_string_pretty(report)
            .map_err(|error| Error::usage(format!("cannot encode the figures: {error}")))?;
        store.finish(&json)?;
        self.console.say(report.table().trim_end());
        print_line(&json)
    }
}
