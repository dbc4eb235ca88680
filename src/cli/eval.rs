//! `gsil eval`: held-out figures of a model, and the evaluations that others publish figures of.

mod gsm8k;
mod humaneval;
mod mt_bench;
mod multiple_choice;
mod perplexity;
mod shared;

use std::path::{Path, PathBuf};

use burn::module::Module;
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};

use super::hub::HubArgs;
use super::keys::Keys;
use super::{ModelArgs, RowArgs, open_reference, print_line};
use crate::config::{RunConfig, key_of, nearest};
use crate::data::data_folder::{Split, files_of};
use crate::device;
use crate::error::{Error, Result};
use crate::eval::{evaluate, reference_rows, warn_of_numbers};
use crate::formats::atomic_write::create_folder;
use crate::formats::file_system::Disk;
use crate::formats::folder_lock::FolderLock;
use crate::model::CausalLm;
use crate::policy::{Policy, Wanted};
use crate::report::console::Console;
use crate::train::setup::evaluation_settings;

pub(super) const KEYS: Keys = Keys {
    verb: "eval",
    // The last two bound others of these; the last one, where it is given, rows too.
    read: &[
        "evaluation.max_rows",
        "evaluation.generate_rows",
        "evaluation.answer_marker",
        "evaluation.sampled",
        "evaluation.max_new_tokens",
        "generation.max_new_tokens",
        "generation.batch_size",
        "seed",
        "skip_bad_rows",
        "prompt_column",
        "response_column",
        "train.micro_batch_size",
        "train.batch_size",
        "train.max_length",
    ],
    elsewhere: &[
        ("model", "--model"),
        ("data", "--data"),
        ("evaluation.data", "--data"),
        ("device", "--device"),
        ("offline", "--offline"),
        ("max_rows", "evaluation.max_rows"),
    ],
};
const EXAMPLES: &str = "Examples:
  gsil eval --model SmolLM2 --data test.jsonl
  gsil eval --model runs/night --data test.jsonl evaluation.max_rows=50
  gsil eval gsm8k --model SmolLM2 --data gsm8k.jsonl --limit 2";

/// Without the name of an evaluation: the held-out figures.
#[derive(Debug)]
pub(super) enum EvalArgs {
    HeldOut(HeldOutArgs),
    Named(Evaluation),
}

/// Written by hand: a derived struct would ask for `--model` and `--data` beside an evaluation that has its own.
impl Args for EvalArgs {
    fn augment_args(command: Command) -> Command {
        let command = Evaluation::augment_subcommands(HeldOutArgs::augment_args(command));
        command.args_conflicts_with_subcommands(true).subcommand_negates_reqs(true).after_help(EXAMPLES)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for EvalArgs {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        match matches.subcommand_name() {
            Some(_) => Evaluation::from_arg_matches(matches).map(EvalArgs::Named),
            None => HeldOutArgs::from_arg_matches(matches).map(EvalArgs::HeldOut),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The evaluations that others publish figures of, asked and matched as they do.
#[derive(Debug, Subcommand)]
pub(super) enum Evaluation {
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

/// A model and where it runs, for commands that can do without one.
#[derive(Debug, Args)]
struct OptionalModel {
    /// A run folder, a Hugging Face folder, a .gguf file, or a model of the hub: owner/name[@revision][/x.gguf].
    #[arg(long)]
    model: Option<PathBuf>,
    /// auto, flex, ndarray, wgpu, wgpu:N; see `gsil devices`.
    #[arg(long, default_value = "auto")]
    device: String,
    #[command(flatten)]
    hub: HubArgs,
}

impl OptionalModel {
    /// Opens the model, which was `given`; one of the hub is fetched if need be.
    fn open(&self, given: &Path) -> Result<Policy> {
        Policy::open(&self.hub.model(given)?)
    }

    /// Reads the weights, for evaluation only.
    fn load(&self, policy: &Policy, console: &Console) -> Result<CausalLm> {
        let device = device::open(&self.device)?;
        Ok(policy.load(&device, console)?.valid())
    }
}

/// How many rows are answered, and how, where answers are written to files.
#[derive(Debug, Args)]
struct WritingArgs {
    /// Only the first N rows.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Longest response, in tokens.
    #[arg(long, default_value_t = 1024)]
    max_new_tokens: usize,
    /// Responses written side by side.
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// The same seed gives the same responses.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl WritingArgs {
    fn check(&self) -> Result<()> {
        match [self.max_new_tokens, self.batch_size, self.limit.unwrap_or(1)].contains(&0) {
            true => Err(Error::usage("--max-new-tokens, --batch-size and --limit must be at least 1")),
            false => Ok(()),
        }
    }

    /// How many of so many rows are wanted.
    fn num_wanted(&self, num_rows: usize) -> usize {
        self.limit.map_or(num_rows, |limit| limit.min(num_rows))
    }
}

/// Makes the folder if need be and keeps other commands out of it.
fn lock(output: &Path) -> Result<FolderLock> {
    create_folder(&Disk, output)?;
    FolderLock::take(output)
}

#[derive(Debug, Args)]
pub(super) struct HeldOutArgs {
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
    /// Of the configuration: `evaluation.max_rows=50`, `evaluation.answer_marker="####"`, `generation.batch_size=16`,
    /// `train.micro_batch_size=1`, `seed=1` and others that judge. With `train.max_length=512` rows with more tokens are left
    /// out, as in a run; without it, only those beyond the model's context.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub(super) fn eval(args: EvalArgs) -> Result<()> {
    match args {
        EvalArgs::HeldOut(args) => held_out(args),
        EvalArgs::Named(Evaluation::Gsm8k(args)) => gsm8k::gsm8k(args),
        EvalArgs::Named(Evaluation::MultipleChoice(args)) => multiple_choice::multiple_choice(args),
        EvalArgs::Named(Evaluation::Perplexity(args)) => perplexity::perplexity(args),
        EvalArgs::Named(Evaluation::HumanEval(args)) => humaneval::humaneval(args),
        EvalArgs::Named(Evaluation::MtBench(args)) => mt_bench::mt_bench(args),
    }
}

/// A word that is neither KEY=VALUE nor a path, most likely a misspelt or misplaced evaluation.
fn no_evaluation(word: &str) -> Error {
    let command = Evaluation::augment_subcommands(Command::new("eval"));
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    if names.contains(&word) {
        return Error::usage(format!("`{word}` must stand right after `eval`"))
            .with_hint(format!("gsil eval {word} --model M --data D"));
    }
    let problem = Error::usage(format!("`{word}` is no evaluation, nor key=value"));
    match nearest(word, names.iter().copied()) {
        Some(near) => {
            let others: Vec<&str> = names.iter().copied().filter(|name| *name != near).collect();
            problem.with_hint(format!("did you mean `{near}`? There are also {}", others.join(", ")))
        }
        None => problem.with_hint(format!("the evaluations are {}", names.join(", "))),
    }
}

fn held_out(args: HeldOutArgs) -> Result<()> {
    if let Some(word) = args.overrides.iter().find(|word| !word.contains(['=', '.', '/'])) {
        return Err(no_evaluation(word));
    }
    let config = args.rows.over(KEYS.changed(RunConfig::default(), &args.overrides)?)?;
    let console = Console::stderr();
    let device_name = device::resolve_name(&args.model.device);
    let policy = args.model.open()?;
    let reference = args.reference.as_deref().map(|path| open_reference(path, &policy, &args.model.hub)).transpose()?;
    let wanted = Wanted::new(&config, Some(config.evaluation.max_rows));
    let files = files_of(&args.model.hub.data(&args.data)?, Split::Validation)?;
    let is_limited = args.overrides.iter().any(|assignment| key_of(assignment) == "train.max_length");
    let max_length = if is_limited { config.train.max_length } else { usize::MAX };
    let examples = policy.read_examples(&files, &wanted, max_length, &console)?;
    let settings = evaluation_settings(&config, &policy, device_name);
    let tokenizer = policy.tokenizer.as_ref();
    warn_of_numbers(&examples, tokenizer, &settings, &console)?;
    let device = device::open(device_name)?;
    let never = || Ok(());
    let reference = match reference {
        Some(reference) => {
            let model = reference.load(&device, &console)?.valid();
            let answered = settings.answered(&examples);
            Some(reference_rows(&model, answered, &settings, &console, &never)?)
        }
        None => None,
    };
    let model = policy.load(&device, &console)?.valid();
    let judged = evaluate(&model, &examples, reference.as_deref(), tokenizer, &settings, &console, &never)?;
    let json =
        serde_json::to_string_pretty(&judged.evaluation).map_err(|e| Error::usage(format!("cannot encode: {e}")))?;
    print_line(&json)
}
