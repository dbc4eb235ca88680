//! The command line: one struct of arguments and one short recipe a verb. stdout is data, stderr is talk.

mod bench;
mod chat;
mod compare;
mod completions;
mod devices;
mod doctor;
mod estimate;
mod eval;
mod export;
pub mod failure;
mod generate;
mod hub;
mod init;
mod inspect;
mod keys;
mod man;
mod parsing;
mod paths;
mod report;
#[cfg(target_os = "linux")]
mod sandbox;
mod score;
mod shells;
mod train;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use self::hub::HubArgs;
pub use self::parsing::parse;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::policy::Policy;
use crate::records::run_folder::{CONFIG_FILE, holds_comparison, holds_run};
use crate::report::shell::shell_path;
use crate::report::to_go_on_with_comparison;

/// Teach a small language model to imitate your demonstrations, on the computer you have.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "First steps:
  gsil train                               # the quickstart
  gsil init --model M --data rows.jsonl    # your own: writes gsil.ron
  gsil train --config gsil.ron
  gsil report runs/gsil

Settings are written key=value after a verb (gsil train train.lr=1e-4):
  gsil train --dry-run                     # all that are in use
  gsil train --dry-run lora.rank=8         # those of lora, too"
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Align a model with demonstrations; alone: the quickstart, a small task from nothing.
    Train(train::TrainArgs),
    /// A commented configuration to begin with, fitted to your model and data.
    Init(init::InitArgs),
    /// How rows of data are read, and what is learnt of them.
    Inspect(inspect::InspectArgs),
    /// Memory, disk and time of a run before it starts.
    Estimate(estimate::EstimateArgs),
    /// Continue a stopped run.
    Resume(train::ResumeArgs),
    /// The report of a run, finished or not: report.html, events for TensorBoard.
    Report(report::ReportArgs),
    /// Answer prompts.
    Generate(generate::GenerateArgs),
    /// Talk to a model.
    Chat(chat::ChatArgs),
    /// Judge a model: held-out rows, GSM8K, HumanEval and others.
    Eval(Box<eval::EvalArgs>),
    /// Log-probs, log-ratios and losses of given responses.
    Score(score::ScoreArgs),
    /// Many methods and seeds from one start, side by side.
    Compare(compare::CompareArgs),
    /// Write a model for transformers, peft, llama.cpp, Ollama, mlx-lm, TRL.
    Export(export::ExportArgs),
    /// The devices of this machine.
    #[command(after_help = "Examples:\n  gsil devices")]
    Devices,
    /// Does a device compute what it should?
    Doctor(doctor::DoctorArgs),
    /// How fast this machine is.
    Bench(bench::BenchArgs),
    /// A script that completes commands and flags in your shell.
    Completions(completions::CompletionsArgs),
    /// Manual pages.
    Man(man::ManArgs),
    /// A process of the sandbox of model-written code; not for people.
    #[cfg(target_os = "linux")]
    #[command(name = "__sandbox", hide = true, subcommand)]
    Sandbox(sandbox::Stage),
}

/// Runs what the command line asks for.
///
/// # Errors
/// Whatever went wrong; `main` prints it.
pub fn run(cli: Cli) -> Result<()> {
    match cli.verb {
        Verb::Train(args) => train::train(args),
        Verb::Init(args) => init::init(args),
        Verb::Inspect(args) => inspect::inspect(args),
        Verb::Estimate(args) => estimate::estimate(args),
        Verb::Resume(args) => train::resume(args),
        Verb::Report(args) => report::report(args),
        Verb::Generate(args) => generate::generate(args),
        Verb::Chat(args) => chat::chat(args),
        Verb::Eval(args) => eval::eval(*args),
        Verb::Score(args) => score::score(args),
        Verb::Compare(args) => compare::compare(args),
        Verb::Export(args) => export::export(args),
        Verb::Devices => devices::devices(),
        Verb::Doctor(args) => doctor::doctor(args),
        Verb::Bench(args) => bench::bench(args),
        Verb::Completions(args) => completions::completions(args),
        Verb::Man(args) => man::man(args),
        #[cfg(target_os = "linux")]
        Verb::Sandbox(stage) => sandbox::run(stage),
    }
}

/// A model and where it runs.
#[derive(Debug, Args)]
struct ModelArgs {
    /// A run folder, a Hugging Face folder, a .gguf file, or a model of the hub: owner/name[@revision][/x.gguf].
    #[arg(long)]
    model: PathBuf,
    /// auto, flex, ndarray, wgpu, wgpu:N; see `gsil devices`.
    #[arg(long, default_value = "auto")]
    device: String,
    #[command(flatten)]
    hub: HubArgs,
}

impl ModelArgs {
    /// Opens the model; one of the hub is fetched if need be.
    fn open(&self) -> Result<Policy> {
        Policy::open(&self.hub.model(&self.model)?)
    }
}

/// How the rows of a data file are read.
#[derive(Debug, Args)]
struct RowArgs {
    /// Count and report lines of data that are no rows, instead of stopping at the first.
    #[arg(long)]
    skip_bad_rows: bool,
    /// The column that holds the prompt, if its name is not one of the known ones.
    #[arg(long, value_name = "NAME", requires = "response_column")]
    prompt_column: Option<String>,
    /// The column that holds the response.
    #[arg(long, value_name = "NAME", requires = "prompt_column")]
    response_column: Option<String>,
}

impl RowArgs {
    /// A configuration changed by these flags, and checked.
    fn over(&self, mut config: RunConfig) -> Result<RunConfig> {
        self.apply(&mut config);
        checked(config)
    }

    /// Flags win over the configuration.
    fn apply(&self, config: &mut RunConfig) {
        config.skip_bad_rows |= self.skip_bad_rows;
        for (key, flag) in
            [(&mut config.prompt_column, &self.prompt_column), (&mut config.response_column, &self.response_column)]
        {
            if flag.is_some() {
                key.clone_from(flag);
            }
        }
    }
}

/// The text of a file of settings. One that does not read is a mistake in the command, not in data.
fn read_config_file(path: &Path) -> Result<String> {
    if holds_run(path) {
        let (file, run) = (path.join(CONFIG_FILE), shell_path(path));
        return Err(Error::config(path.to_string_lossy(), "is a run folder, not a file of settings")
            .with_hint(format!("its settings are in {}; to go on with it: gsil resume {run}", file.display())));
    }
    if holds_comparison(path) {
        return Err(Error::config(path.to_string_lossy(), "is the folder of a comparison, not a file of settings")
            .with_hint(format!("to go on with it: {}", to_go_on_with_comparison(path))));
    }
    std::fs::read_to_string(path).map_err(|source| {
        let mistake = Error::config(path.to_string_lossy(), format!("cannot read: {source}"));
        mistake.with_hint_of(&Error::reading(path)(source))
    })
}

/// A configuration that can work.
fn checked(mut config: RunConfig) -> Result<RunConfig> {
    config.resolve();
    config.validate()?;
    Ok(config)
}

/// Opens the model that a policy's log-ratios are taken against.
fn open_reference(path: &Path, policy: &Policy, hub: &HubArgs) -> Result<Policy> {
    let reference = Policy::open(&hub.model(path)?)?;
    let (ours, theirs) = (policy.config.vocab_size, reference.config.vocab_size);
    if ours != theirs {
        return Err(Error::input(path, format!("has {theirs} token ids, the model has {ours}"))
            .with_hint("policy and reference must share one vocabulary"));
    }
    Ok(reference)
}

/// Writes one line of data.
fn print_line(line: &str) -> Result<()> {
    print_text(&format!("{line}\n"))
}

/// Writes data. A closed pipe (`gsil .. | head`) ends the program quietly, as other tools do.
fn print_text(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(Error::writing("write", "standard output")),
    }
}

fn print_json(row: &impl serde::Serialize) -> Result<()> {
    let line = serde_json::to_string(row).map_err(|error| Error::usage(format!("cannot encode a row: {error}")))?;
    print_line(&line)
}
