//! Model and data of a run, opened and checked, with the weights still on the disk: all that an estimate needs.

use std::path::Path;

use burn::tensor::Device;

use super::estimate::batches::RowLengths;
use super::estimate::limits::Limits;
use super::estimate::memory::{Subject, program_bytes};
use super::setup::{evaluation_settings, num_tokens_multiple};
use crate::config::{RunConfig, Unfinished};
use crate::data::examples::Example;
use crate::data::tokenizer::Tokenizer;
use crate::device;
use crate::error::{Error, Result};
use crate::eval;
use crate::model::CausalLm;
use crate::objective::Objective;
use crate::policy::{Policy, Wanted};
use crate::report::console::Console;

/// Without held-out data so many training rows are scored before and after.
const NUM_PROBE_ROWS: usize = 32;

/// The rows that every stage is judged on: held out if there are any, else the first rows of the training data.
#[derive(Debug)]
pub(crate) struct HeldOut {
    pub examples: Vec<Example>,
    pub settings: eval::Settings,
}

impl HeldOut {
    /// Rows that are answered at each evaluation.
    pub fn num_answered(&self) -> usize {
        self.settings.generate_rows.min(self.examples.len())
    }
}

/// What a run reads, with the weights still on the disk.
pub(crate) struct Sources {
    pub device_name: String,
    pub device: Device,
    pub policy: Policy,
    pub examples: Vec<Example>,
    pub held_out: HeldOut,
    pub limits: Limits,
    /// What the process holds with all of this open.
    pub program_bytes: u64,
}

impl Sources {
    /// Opens and checks model and data. The configuration is resolved and valid.
    pub(crate) fn open(config: &RunConfig, console: &Console) -> Result<Self> {
        let device_name = device::resolve_name(&config.device).to_owned();
        let limits = Limits::of(config, &device_name);
        let device = device::open(&device_name)?;
        let needed = |value: &Option<String>, key: &str| {
            value.clone().ok_or_else(|| {
                Error::config(key, "is not given").with_hint(format!("pass --{key}, or `{key}: \"..\"` in the config"))
            })
        };
        let policy = Policy::open(Path::new(&needed(&config.model, "model")?))?;
        let data = needed(&config.data, "data")?;
        let read = |path: &str, max_rows| {
            let wanted = Wanted { max_rows, skip_bad_rows: config.skip_bad_rows };
            policy.read_examples(Path::new(path), wanted, config.train.max_length, console)
        };
        let examples = read(&data, config.max_rows)?;
        if let Some(row) =
            examples.iter().find(|e| e.self_generated_ids.is_some() != examples[0].self_generated_ids.is_some())
        {
            let message = "some rows bring a second (rejected) response and some do not";
            return Err(Error::input(&data, message)
                .at(format!("row {}", row.index))
                .with_hint("give one to every row, or to none: then the policy generates its own"));
        }
        let held_out = match &config.evaluation.data {
            Some(path) => {
                let examples = read(path, Some(config.evaluation.max_rows))?;
                HeldOut { examples, settings: evaluation_settings(config, &policy, &device_name) }
            }
            None => {
                let settings = evaluation_settings(config, &policy, &device_name);
                let examples = examples[..NUM_PROBE_ROWS.min(examples.len())].to_vec();
                HeldOut { examples, settings: eval::Settings { generate_rows: 0, held_out: false, ..settings } }
            }
        };
        if policy.eos_token_ids.is_empty()
            && Objective::new(&config.objective).needs_self_generated()
            && config.generation.unfinished == Unfinished::Drop
        {
            return Err(Error::input(&policy.files.path, "names no end token: no response could ever be finished")
                .at("config.json, field `eos_token_id`")
                .with_hint("add eos_token_id to config.json, or set generation.unfinished=mask"));
        }
        let program_bytes = program_bytes(policy.tokenizer.as_ref().map_or(0, Tokenizer::vocab_size));
        Ok(Sources { device_name, device, policy, examples, held_out, limits, program_bytes })
    }

    /// Reads the weights, and adds fresh adapters if the configuration asks for them.
    pub(crate) fn load(&self, config: &RunConfig, console: &Console) -> Result<CausalLm> {
        let model = self.policy.load(&self.device.clone().autodiff(), console)?;
        Ok(match &config.lora {
            Some(lora) => model.with_adapters(lora.rank, lora.alpha as f64, &lora.target_modules, config.seed),
            None => model,
        })
    }

    /// Gives `work` what an estimate of the memory is made of.
    pub(crate) fn with_subject<T>(
        &self,
        config: &RunConfig,
        is_resumed: bool,
        work: impl FnOnce(&Subject<'_>) -> T,
    ) -> T {
        let lengths = |examples: &[Example]| examples.iter().map(RowLengths::of).collect::<Vec<_>>();
        let (rows, held_out) = (lengths(&self.examples), lengths(&self.held_out.examples));
        work(&Subject {
            config,
            model: &self.policy.config,
            rows: &rows,
            held_out: &held_out,
            num_answered: self.held_out.num_answered(),
            program_bytes: self.program_bytes,
            is_flex: matches!(self.device_name.as_str(), "flex" | "cpu"),
            num_tokens_multiple: num_tokens_multiple(&self.device_name),
            is_resumed,
        })
    }
}
