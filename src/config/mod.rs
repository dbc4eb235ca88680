//! Everything a run can be told: [`RunConfig`], read from a RON file and changed by `key=value`.
//!
//! Every struct here has a default for every key and refuses unknown ones, so a file holds only what differs. Nothing
//! here opens a model or knows a tensor: a value that cannot work is refused before anything large is loaded.
//! Precedence (defaults, file, `key=value`, flags) is the caller's: it calls [`RunConfig::from_ron`],
//! [`RunConfig::set`], [`RunConfig::resolve`] and [`RunConfig::validate`] in this order.
//! Next: [`crate::data`].

mod compare;
mod explain;
mod objective;
mod other_names;
mod overrides;
mod parse;
mod paths;
mod ranges;
mod rules;
mod sampling;
mod server;
mod size;
mod training;

pub(crate) use compare::place_of_own_key;
pub(crate) use other_names::{other_name, setting_here};
pub(crate) use overrides::{is_named, key_named, key_of, nearest};
pub(crate) use paths::mistake_in_path;

pub use compare::{CompareConfig, Method};
pub use objective::{ObjectiveConfig, ObjectiveName, VarianceReduction};
pub use sampling::{EvaluationConfig, GenerationConfig, Unfinished, WeightFormat, WordProblemsConfig};
pub use server::ServerConfig;
pub use size::parse_bytes;
pub use training::{LoraConfig, OptimizerName, ScheduleName, TrainConfig};

use chrono::{DateTime, Local, NaiveDateTime};
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;

/// A whole run: what to train, on what, how, and how to judge it. Its RON form is the `config.ron` of a run folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// The model to start from: a GGUF file, a Hugging Face model folder, or one of the hub (`owner/name`,
    /// `owner/name@revision`, `owner/name@revision/x.gguf`). Default none: it must be given, unless `word_problems` makes a
    /// model of its own.
    pub model: Option<String>,
    /// The demonstrations: a file (.jsonl, .json, .csv, .tsv, .parquet), a folder of train and valid files, or a data set of
    /// the hub (`owner/name`, `owner/name@revision/path`). Default none: it must be given, unless `word_problems` makes them.
    pub data: Option<String>,
    /// The column that holds the prompt, here and in `evaluation.data`. Default none: rows are recognised by their keys.
    pub prompt_column: Option<String>,
    /// The column that holds the response. Given together with `prompt_column`.
    pub response_column: Option<String>,
    /// The run folder to write. Default none: the caller makes up a name.
    pub output: Option<String>,
    /// Where tensors live, as `gsil devices` names them. Default `auto`: a GPU if there is one, else the CPU; a run keeps the
    /// one that it began on.
    pub device: String,
    /// Nothing is fetched from the Hugging Face hub: `model` and `data` of it must be in its cache. Default false.
    /// HF_HUB_OFFLINE=1 says the same.
    pub offline: bool,
    /// Several devices, to divide each training step over: `["wgpu:0", "wgpu:1"]`. The first one is also what `device` is
    /// to all other work; leave that alone then. Default none: only `device`.
    pub devices: Vec<String>,
    /// The most memory that a run may take, such as `8GiB` or `6.5 GB`; one that is estimated to need more is refused before
    /// it starts. Default none: all that the machine has.
    pub memory_limit: Option<String>,
    /// Decides every random choice of the run. Default 0: any number will do, the same one repeats the run.
    pub seed: u64,
    /// The date and time that a chat template prints, local, like `2026-01-31T08:00:00`. Default: when the run begins, which it
    /// then keeps; none where the template prints no date.
    pub template_date: Option<String>,
    /// How often the policy generates and is then trained. Default 1: each costs a pass of generation over the data, and one
    /// shows whether a second is worth it. 0 runs the supervised stage and the evaluation alone.
    pub iterations: usize,
    /// Steps (optimizer updates) between checkpoints. Default 50: a crash loses minutes, not hours.
    pub save_every: usize,
    /// The newest checkpoints that are kept. Default 3: two more in case the newest is damaged.
    pub keep_last: usize,
    /// Besides those, the checkpoints at the start or after a stage that give held-out demonstrations the highest log-prob;
    /// without such rows, the first training rows. Default 0. `gsil export RUN --checkpoint best` writes the best one for
    /// other programs.
    pub keep_best: usize,
    /// At most this many demonstrations are used, the first ones of the file. Default none: all of them.
    pub max_rows: Option<usize>,
    /// Lines of data files that are no rows are counted and reported. Default false: the first one ends the command, for
    /// a file that is damaged in one place is rarely good in all others.
    pub skip_bad_rows: bool,
    /// The loss.
    pub objective: ObjectiveConfig,
    /// How the reference writes its responses.
    pub generation: GenerationConfig,
    /// A server that writes the responses, by its `url`. Default none: they are written here.
    pub server: Option<ServerConfig>,
    /// How the policy is trained inside an iteration.
    pub train: TrainConfig,
    /// Train a low-rank adapter instead of all weights. Default none: all weights, the strongest where memory allows.
    pub lora: Option<LoraConfig>,
    /// A supervised stage on the demonstrations before the first iteration. Default none: GSIL expects a model that
    /// already answers in the right form, which an instruction-tuned one does.
    pub sft: Option<TrainConfig>,
    /// If set, plain supervised training is also continued from the same start, for the same number of updates, at this
    /// learning rate, and reported beside GSIL. Default none: it doubles the training time. Without iterations there is
    /// nothing to compare with, and it is not done.
    pub continued_sft_lr: Option<f64>,
    /// How the policy is judged before and after.
    pub evaluation: EvaluationConfig,
    /// Make small arithmetic stories and a small model instead of reading `data` and `model`. Default none.
    pub word_problems: Option<WordProblemsConfig>,
}

/// The form of `template_date`.
const DATE_FORMAT: &str = "%Y-%m-%dT%H:%M:%S";

/// The date that [`spell_date`] spells so; None if it is none.
pub fn parse_date(text: &str) -> Option<DateTime<Local>> {
    NaiveDateTime::parse_from_str(text, DATE_FORMAT).ok()?.and_local_timezone(Local).earliest()
}

/// A date as `template_date` spells it.
pub fn spell_date(date: DateTime<Local>) -> String {
    date.format(DATE_FORMAT).to_string()
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            model: None,
            data: None,
            prompt_column: None,
            response_column: None,
            output: None,
            device: "auto".to_owned(),
            offline: false,
            devices: Vec::new(),
            memory_limit: None,
            seed: 0,
            template_date: None,
            iterations: 1,
            save_every: 50,
            keep_last: 3,
            keep_best: 0,
            max_rows: None,
            skip_bad_rows: false,
            objective: ObjectiveConfig::default(),
            generation: GenerationConfig::default(),
            server: None,
            train: TrainConfig::default(),
            lora: None,
            sft: None,
            continued_sft_lr: None,
            evaluation: EvaluationConfig::default(),
            word_problems: None,
        }
    }
}

impl RunConfig {
    /// Reads a configuration file's text. `origin` is the file's name, for errors.
    ///
    /// # Errors
    /// [`Error::Config`] at `origin:line:column` for text that is not RON, unknown keys (with the nearest known one)
    /// and values of the wrong type; at `origin` for NaN and infinities, which RON can spell, and for texts over 1 MiB.
    pub fn from_ron(text: &str, origin: &str) -> Result<Self> {
        parse::from_ron(text, origin)
    }

    /// Changes one value: `train.lr=1e-4`, `objective.name=brier`, `evaluation.answer_marker="####"`,
    /// `train.betas=[0.9, 0.98]`. Values are written as in the file; a text may go without quotes.
    ///
    /// Setting a key inside `server`, `lora`, `sft` or `word_problems` switches that section on with its defaults;
    /// `lora=none` switches it off, and `none` also empties an optional value. On an error nothing changes.
    ///
    /// # Errors
    /// [`Error::Config`] that quotes the assignment: an unknown key (with the nearest known one), or a value of the
    /// wrong type (with what was expected).
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        *self = overrides::with_assignment(self, assignment)?;
        Ok(())
    }

    /// `template_date` of a valid configuration.
    pub fn date(&self) -> Option<DateTime<Local>> {
        self.template_date.as_deref().and_then(parse_date)
    }

    /// The devices to use, never none; the first one does all work that is not divided.
    pub fn device_names(&self) -> Vec<&str> {
        match self.devices.as_slice() {
            [] => vec![&self.device],
            names => names.iter().map(String::as_str).collect(),
        }
    }

    /// Whether the run ends with plain supervised training from the start of the iterations: there must be some.
    pub fn compares_sft(&self) -> bool {
        self.continued_sft_lr.is_some() && self.iterations > 0
    }

    /// Fills the values whose default depends on others: `train.lr` and `sft.lr` from whether all weights are trained (1e-5)
    /// or an adapter (1e-4), `evaluation.answer_marker` from `word_problems`. What is set stays.
    pub fn resolve(&mut self) {
        let default_lr = if self.lora.is_some() { TrainConfig::DEFAULT_LORA_LR } else { TrainConfig::DEFAULT_LR };
        self.train.lr.get_or_insert(default_lr);
        if let Some(sft) = &mut self.sft {
            sft.lr.get_or_insert(default_lr);
        }
        if self.word_problems.is_some() {
            let marker = &mut self.evaluation.answer_marker;
            marker.get_or_insert_with(|| WordProblemsConfig::ANSWER_MARKER.to_owned());
        }
    }

    /// Refuses values that cannot work, alone or together. A missing `model` or `data` is not refused here: not every
    /// command needs both.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key, its value and the allowed range.
    pub fn validate(&self) -> Result<()> {
        rules::validate(self)
    }

    /// Keys (`lr`) that are set in `train` and train nothing: in a run without iterations there is the supervised stage alone,
    /// and `sft` says something else. `max_length` never is among them, for all rows are read with it; `micro_batch_size`
    /// and `max_tokens` may be, though held-out rows are scored by them. The configuration is resolved.
    pub fn unread_of_train(&self) -> Vec<String> {
        rules::unread_of_train(self)
    }

    /// The complete configuration as text, every key written out: `from_ron` of it gives an equal configuration.
    ///
    /// # Errors
    /// [`Error::Config`] if a value has no RON form; none that [`RunConfig::validate`] accepts is so.
    pub fn to_ron(&self) -> Result<String> {
        parse::to_ron(self)
    }

    /// The text of the quickstart preset: a small task that trains from nothing on two CPU cores.
    pub fn quickstart() -> &'static str {
        include_str!("../../configs/quickstart.ron")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_configuration() {
        assert_eq!(RunConfig::from_ron("()", "empty.ron").unwrap(), RunConfig::default());
        RunConfig::default().validate().unwrap();
    }

    #[test]
    fn the_presets_are_valid_before_and_after_resolving() {
        for text in [RunConfig::quickstart(), include_str!("../../configs/smollm2_135m_gsm8k.ron")] {
            let mut config = RunConfig::from_ron(text, "preset.ron").unwrap();
            config.validate().unwrap();
            config.resolve();
            config.validate().unwrap();
        }
    }

    #[test]
    fn the_quickstart_makes_forty_updates_in_each_of_three_iterations() {
        let config = RunConfig::from_ron(RunConfig::quickstart(), "quickstart.ron").unwrap();
        let num_train = config.word_problems.as_ref().unwrap().num_train;
        assert_eq!(config.iterations, 3);
        // 2,000 demonstrations in batches of 50.
        assert_eq!(num_train * config.train.epochs / config.train.batch_size, 40);
    }

    #[test]
    fn resolving_fills_learning_rates_by_what_is_trained_and_keeps_what_is_set() {
        let mut full = RunConfig { sft: Some(TrainConfig::default()), ..RunConfig::default() };
        full.resolve();
        assert_eq!((full.train.lr, full.sft.unwrap().lr), (Some(1e-5), Some(1e-5)));

        let mut adapter = RunConfig { lora: Some(LoraConfig::default()), ..RunConfig::default() };
        adapter.resolve();
        assert_eq!((adapter.train.lr, adapter.evaluation.answer_marker), (Some(1e-4), None));

        let mut problems = RunConfig { word_problems: Some(WordProblemsConfig::default()), ..RunConfig::default() };
        problems.resolve();
        assert_eq!(problems.evaluation.answer_marker.as_deref(), Some("####"));
    }

    #[test]
    fn a_written_configuration_reads_back_equal() {
        let mut config = RunConfig::from_ron(RunConfig::quickstart(), "quickstart.ron").unwrap();
        config.lora = Some(LoraConfig::default());
        config.model = Some("None \"quoted\" \\ \n é".to_owned());
        config.seed = u64::MAX;
        config.train.lr = Some(1.0 / 3.0);
        config.objective.name = ObjectiveName::BregmanPower;
        config.generation.unfinished = Unfinished::Mask;
        config.resolve();
        let text = config.to_ron().unwrap();
        assert_eq!(RunConfig::from_ron(&text, "config.ron").unwrap(), config, "{text}");
    }
}
