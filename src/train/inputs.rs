//! What a run reads before it starts: model, rows, held-out rows, and what the machine has. The weights stay on the disk until
//! [`Inputs::load`], so that a run that cannot fit is refused first.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::distributions;
use super::estimate::batches::RowLengths;
use super::estimate::limits::Limits;
use super::estimate::memory::Subject;
use super::estimate::program::program_bytes;
use super::run_data::DataFiles;
use super::served;
use super::setup::{evaluation_settings, num_tokens_multiple};
use crate::config::{EvaluationConfig, RunConfig, Unfinished};
use crate::data::examples::{Example, FileRows};
use crate::data::tokenizer::Tokenizer;
use crate::data::{bring_second_responses, check_second_responses};
use crate::device;
use crate::error::{Error, Result};
use crate::eval;
use crate::formats::way_to_have;
use crate::generate::check_weight_format;
use crate::model::{CausalLm, weights};
use crate::objective::Objective;
use crate::policy::{Policy, Wanted};
use crate::report::console::Console;

/// The rows that every stage is judged on: held out if there are any, else the first rows of the training data.
#[derive(Debug)]
pub(crate) struct HeldOut {
    pub examples: Vec<Example>,
    pub settings: eval::Settings,
}

impl HeldOut {
    /// Rows that are answered at each evaluation.
    pub fn num_answered(&self) -> usize {
        self.settings.answered(&self.examples).len()
    }
}

/// What a run reads, with the weights still on the disk.
pub(crate) struct Inputs {
    pub device_name: String,
    pub device: Device,
    pub policy: Policy,
    pub examples: Vec<Example>,
    pub held_out: HeldOut,
    pub limits: Limits,
    /// What the process holds with all of this open: see [`program_bytes`].
    pub program_bytes: u64,
}

impl Inputs {
    /// Opens and checks model and data. The configuration is resolved and valid, its paths are of this machine.
    pub(crate) fn open(config: &RunConfig, console: &Console) -> Result<Self> {
        let device_name = device::resolve_name(config.device_names()[0]).to_owned();
        let limits = Limits::of(config, &device_name);
        let device = device::open(&device_name)?;
        check_weight_format(config.generation.weights, &device)?;
        let needed = |value: &Option<String>, key: &str| {
            value.clone().ok_or_else(|| {
                Error::config(key, "is not given").with_hint(format!("pass --{key}, or `{key}: \"..\"` in the config"))
            })
        };
        let policy = Policy::open_for(config, Path::new(&needed(&config.model, "model")?))?;
        let files = DataFiles::find(config, &needed(&config.data, "data")?, console)?;
        let read = |files: &[PathBuf], max_rows| Wanted::new(config, max_rows).read(files, console);
        let prepare = |rows: &[FileRows]| policy.examples(rows, config.train.max_length, console);
        let rows = read(&files.train, config.max_rows)?;
        let examples = prepare(&rows)?;
        check_second_responses(&rows, &examples)?;
        drop(rows); // their texts may be large
        served::check(config, &policy, &examples)?;
        let are_given = bring_second_responses(&examples);
        distributions::check(config, &policy.config, are_given)?;
        let settings = evaluation_settings(config, &policy, &device_name);
        let held_out = if files.held_out.is_empty() {
            let examples = examples[..EvaluationConfig::NUM_PROBE_ROWS.min(examples.len())].to_vec();
            HeldOut { examples, settings: eval::Settings { generate_rows: 0, held_out: false, ..settings } }
        } else {
            HeldOut { examples: prepare(&read(&files.held_out, Some(config.evaluation.max_rows))?)?, settings }
        };
        let writes_responses =
            config.iterations > 0 && !are_given && Objective::new(&config.objective).needs_self_generated();
        if policy.eos_token_ids.is_empty() && writes_responses && config.generation.unfinished == Unfinished::Drop {
            let path = &policy.files.path;
            let way = match path.is_file() {
                true => way_to_have(path, "one"),
                false => "add `eos_token_id` to config.json".to_owned(),
            };
            return Err(Error::input(path, "names no end token: no response could ever be finished")
                .with_hint(format!("{way}; or set generation.unfinished=mask")));
        }
        let program_bytes = match device::is_card(&device_name) {
            true => 0, // it lies in the machine's own memory
            false => program_bytes(policy.tokenizer.as_ref().map_or(0, Tokenizer::vocab_size)),
        };
        Ok(Inputs { device_name, device, policy, examples, held_out, limits, program_bytes })
    }

    /// Says how many held-out rows are training rows, too, and of how many no answer can be right. No error: some judge on
    /// training rows on purpose, and not every row has a number.
    pub(crate) fn warn_of_held_out_rows(&self, console: &Console) -> Result<()> {
        let HeldOut { examples, settings } = &self.held_out;
        let num_known = num_known(&self.examples, examples);
        if settings.held_out && num_known > 0 {
            console.warn(format!(
                "{num_known} of {} held-out rows are training rows, too: what they show is memory, not ability",
                examples.len()
            ));
        }
        eval::warn_of_numbers(examples, self.policy.tokenizer.as_ref(), settings, console)
    }

    /// See [`load`].
    pub(crate) fn load(&self, config: &RunConfig, console: &Console) -> Result<CausalLm> {
        load(&self.policy, config, &self.device, console)
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
            is_flex: device::is_flex(&self.device),
            num_tokens_multiple: num_tokens_multiple(&self.device_name),
            is_resumed,
        })
    }
}

/// How many of the `held_out` are in `training`, prompt and demonstration, token for token.
fn num_known(training: &[Example], held_out: &[Example]) -> usize {
    let known: HashSet<_> = training.iter().map(|row| (&row.prompt_ids, &row.demonstration_ids)).collect();
    held_out.iter().filter(|row| known.contains(&(&row.prompt_ids, &row.demonstration_ids))).count()
}

/// Reads the weights, and adds fresh adapters if the configuration asks for them.
pub(super) fn load(policy: &Policy, config: &RunConfig, device: &Device, console: &Console) -> Result<CausalLm> {
    let model = policy.load(&device.clone().autodiff(), console)?;
    let model = match &config.lora {
        Some(lora) => model.with_adapters(lora.rank, lora.alpha as f64, &lora.target_modules, config.seed),
        None => model,
    };
    match weights::num_trained_parameters(&model) {
        0 => Err(Error::config("lora.target_modules", "this model has none of these layers")
            .with_hint("GPT-2 has no gate_proj; leave the key out to adapt every layer")),
        _ => Ok(model),
    }
}

#[cfg(test)]
mod tests {
    use super::super::binding::tests::example;
    use super::*;

    #[test]
    fn a_held_out_row_is_known_if_its_prompt_and_its_demonstration_are_those_of_one_training_row() {
        let training = [example(&[1, 2], &[3]), example(&[4], &[5])];
        let held_out = [example(&[4], &[5]), example(&[4], &[3]), example(&[1], &[2, 3]), example(&[1, 2], &[3])];
        assert_eq!(num_known(&training, &held_out), 2);
        assert_eq!(num_known(&training, &[]), 0);
    }
}
