//! `gsil eval`: held-out figures of a model, and the evaluations that others publish figures of.

mod gsm8k;
mod multiple_choice;
mod perplexity;
mod shared;

use std::path::PathBuf;

use burn::module::Module;
use clap::{Args, Subcommand};

use super::{ModelArgs, RowArgs, config_for_rows, open_reference, print_line};
use crate::data::data_folder::{Split, files_of};
use crate::device;
use crate::error::{Error, Result};
use crate::eval::{evaluate, reference_rows};
use crate::policy::Wanted;
use crate::report::console::Console;
use crate::train::setup::evaluation_settings;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  gsil eval --model SmolLM2 --data test.jsonl
  gsil eval --model runs/night --data test.jsonl evaluation.max_rows=50
  gsil eval gsm8k --model SmolLM2 --data gsm8k.jsonl --limit 2")]
pub(super) struct EvalArgs {
    #[command(subcommand)]
    evaluation: Option<Evaluation>,
    #[command(flatten)]
    held_out: Option<HeldOutArgs>,
}

/// The evaluations that others publish figures of, asked and matched as lm-evaluation-harness does.
#[derive(Debug, Subcommand)]
enum Evaluation {
    /// School mathematics: is the number of a greedy answer right?
    Gsm8k(gsm8k::Gsm8kArgs),
    /// Which of several texts the model finds likeliest, HellaSwag for instance.
    MultipleChoice(multiple_choice::MultipleChoiceArgs),
    /// How well the model predicts text: perplexity by word and byte, bits per byte.
    Perplexity(perplexity::PerplexityArgs),
}

#[derive(Debug, Args)]
struct HeldOutArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The model that the policy started from: adds implicit-reward accuracy.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Held-out demonstrations: a file (.jsonl, .json, .csv, .tsv, .parquet), or a folder with a valid file.
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    rows: RowArgs,
    /// Changes to the configuration: `evaluation.max_rows=50`, `evaluation.answer_marker="####"`, ..
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub(super) fn eval(args: EvalArgs) -> Result<()> {
    match (args.evaluation, args.held_out) {
        (Some(Evaluation::Gsm8k(args)), _) => gsm8k::gsm8k(args),
        (Some(Evaluation::MultipleChoice(args)), _) => multiple_choice::multiple_choice(args),
        (Some(Evaluation::Perplexity(args)), _) => perplexity::perplexity(args),
        (None, Some(args)) => held_out(args),
        (None, None) => Err(Error::usage("give --model and --data, or the name of an evaluation")),
    }
}

fn held_out(args: HeldOutArgs) -> Result<()> {
    let config = config_for_rows(&args.overrides, &args.rows)?;
    let console = Console::stderr();
    let device_name = device::resolve_name(&args.model.device);
    let policy = args.model.open()?;
    let reference = args.reference.as_deref().map(|path| open_reference(path, &policy, &args.model.hub)).transpose()?;
    let wanted = Wanted::new(&config, Some(config.evaluation.max_rows));
    let files = files_of(&args.model.hub.data(&args.data)?, Split::Validation)?;
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
