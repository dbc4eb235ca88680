//! `gsil eval`: held-out figures of a model, and the evaluations that others publish figures of.

mod gsm8k;
mod humaneval;
mod mt_bench;
mod multiple_choice;
mod perplexity;
mod shared;

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::hub::HubArgs;
use super::{ModelArgs, RowArgs, config_for_rows, open_reference, print_line};
use crate::data::data_folder::{Split, files_of};
use crate::device;
use crate::error::{Error, Result};
use crate::eval::{evaluate, reference_rows};
use crate::formats::atomic_write::write_bytes;
use crate::formats::file_system::Disk;
use crate::model::CausalLm;
use crate::policy::{Policy, Wanted};
use crate::report::console::Console;
use crate::train::setup::evaluation_settings;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  gsil eval --model SmolLM2 --data test.jsonl
  gsil eval --model runs/night --data test.jsonl evaluation.max_rows=50
  gsil eval gsm8k --model SmolLM2 --data gsm8k.jsonl --limit 2")]
pub(super) struct EvalArgs {
    #[command(flatten)]
    held_out: HeldOutArgs,
    #[command(subcommand)]
    evaluation: Option<Evaluation>,
}

/// The evaluations that others publish figures of, asked and matched as they do.
#[derive(Debug, Subcommand)]
enum Evaluation {
    /// School mathematics: is the number of a greedy answer right?
    Gsm8k(gsm8k::Gsm8kArgs),
    /// Which of several texts the model finds likeliest, HellaSwag for instance.
    MultipleChoice(multiple_choice::MultipleChoiceArgs),
    /// How well the model predicts text: perplexity by word and byte, bits per byte.
    Perplexity(perplexity::PerplexityArgs),
    /// HumanEval: Python functions to complete, pass@k of their tests.
    #[command(name = "humaneval")]
    HumanEval(humaneval::HumanEvalArgs),
    /// MT-Bench: questions of two turns, rated by a judge.
    MtBench(mt_bench::MtBenchArgs),
}

pub(super) fn eval(args: EvalArgs) -> Result<()> {
    match args.evaluation {
        Some(Evaluation::Gsm8k(args)) => gsm8k::gsm8k(args),
        Some(Evaluation::MultipleChoice(args)) => multiple_choice::multiple_choice(args),
        Some(Evaluation::Perplexity(args)) => perplexity::perplexity(args),
        Some(Evaluation::HumanEval(args)) => humaneval::humaneval(args),
        Some(Evaluation::MtBench(args)) => mt_bench::mt_bench(args),
        None => held_out(args.held_out),
    }
}

/// A model and where it runs, for commands that can do without one.
#[derive(Debug, Args)]
struct OptionalModel {
    /// A Hugging Face folder, a .gguf file, a run, or one of the hub.
    #[arg(long)]
    model: Option<PathBuf>,
    /// auto, flex, ndarray, wgpu, wgpu:N; see `gsil devices`.
    #[arg(long, default_value = "auto")]
    device: String,
    #[command(flatten)]
    hub: HubArgs,
}

impl OptionalModel {
    /// Opens and loads the model; one of the hub is fetched if need be.
    fn load(&self, console: &Console) -> Result<(Policy, CausalLm)> {
        let given = self.model.as_ref().ok_or_else(|| Error::usage("give --model"))?;
        let policy = Policy::open(&self.hub.model(given)?)?;
        let device = device::open(device::resolve_name(&self.device))?;
        let model = policy.load(&device, console)?.valid();
        Ok((policy, model))
    }
}

/// Keeps the settings of what a file holds beside it. A file that was begun with others is not gone on with.
fn settle_settings(path: &Path, file: &Path, settings: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(settings).map_err(|error| Error::usage(format!("cannot encode: {error}")))?;
    if file.exists() {
        let begun = fs::read_to_string(path).map_err(Error::reading(path))?;
        if begun != text {
            return Err(Error::usage(format!("{} was begun with other settings:\n{begun}", file.display()))
                .with_hint("choose another --output, or the same settings"));
        }
        return Ok(());
    }
    write_bytes(&Disk, path, text.as_bytes())
}

#[derive(Debug, Args)]
struct HeldOutArgs {
    /// A Hugging Face folder, a .gguf file, or one of the hub: owner/name, owner/name@revision, owner/name@revision/x.gguf.
    // Optional to the type alone: a benchmark has arguments of its own. So is `data`.
    #[arg(long, required = true)]
    model: Option<PathBuf>,
    /// auto, flex, ndarray, wgpu, wgpu:N; see `gsil devices`.
    #[arg(long, default_value = "auto")]
    device: String,
    #[command(flatten)]
    hub: HubArgs,
    /// The model that the policy started from: adds implicit-reward accuracy.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Held-out demonstrations: a file (.jsonl, .json, .csv, .tsv, .parquet), or a folder with a valid file.
    #[arg(long, required = true)]
    data: Option<PathBuf>,
    #[command(flatten)]
    rows: RowArgs,
    /// Changes to the configuration: `evaluation.max_rows=50`, `evaluation.answer_marker="####"`, ..
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

fn held_out(args: HeldOutArgs) -> Result<()> {
    let (Some(model), Some(data)) = (args.model, args.data) else {
        return Err(Error::usage("give --model and --data, or a benchmark").with_hint("see `gsil eval --help`"));
    };
    let from = ModelArgs { model, device: args.device, hub: args.hub };
    let config = config_for_rows(&args.overrides, &args.rows)?;
    let console = Console::stderr();
    let device_name = device::resolve_name(&from.device);
    let policy = from.open()?;
    let reference = args.reference.as_deref().map(|path| open_reference(path, &policy, &from.hub)).transpose()?;
    let wanted = Wanted::new(&config, Some(config.evaluation.max_rows));
    let files = files_of(&from.hub.data(&data)?, Split::Validation)?;
    let examples = policy.read_examples(&files, &wanted, usize::MAX, &console)?;
    let settings = evaluation_settings(&config, &policy, device_name);
    let device = device::open(device_name)?;
    let never = || Ok(());
    let reference = match reference {
        Some(reference) => {
            let model = reference.load(&device, &console)?.valid();
            let answered = &examples[..settings.generate_rows.min(examples.len())];
            Some(reference_rows(&model, answered, &settings, &console, &never)?)
        }
        None => None,
    };
    let model = policy.load(&device, &console)?.valid();
    let tokenizer = policy.tokenizer.as_ref();
    let judged = evaluate(&model, &examples, reference.as_deref(), tokenizer, &settings, &console, &never)?;
    let json =
        serde_json::to_string_pretty(&judged.evaluation).map_err(|e| Error::usage(format!("cannot encode: {e}")))?;
    print_line(&json)
}
