//! `gsil train` and `gsil resume`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::hub::HubArgs;
use super::{RowArgs, checked, print_line, read_config_file};
use crate::config::{RunConfig, key_of};
use crate::device;
use crate::doctor;
use crate::error::{Error, Result};
use crate::policy::MODEL_FOLDER;
use crate::records::about::{ABOUT_FILE, About};
use crate::records::evaluation::{EvaluationRow, updates_of_models};
use crate::records::figures::{ACCURACY, FLEXIBLE, GREEDY, HeldOutFigure, IN_FORMAT, LOG_PROB, SAMPLED};
use crate::records::run_folder::comparison_of;
use crate::report::REPORT_FILE;
use crate::report::console::Console;
use crate::report::shell::shell_path;
use crate::report::table::{format_table, number, percent, plural};
use crate::train::changes::Changes;
use crate::train::results_if_finished;
use crate::train::setup::Run;
use crate::train::task::TASK_FOLDER;

/// What a run is told: a file, flags, single keys.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// A configuration file (RON). Every key has a default.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The model to start from: a Hugging Face folder, a .gguf file, or one of the hub: owner/name, owner/name@revision,
    /// owner/name@revision/x.gguf. The run keeps the commit that the revision has now.
    #[arg(long)]
    model: Option<String>,
    /// Demonstrations: a file (.jsonl, .json, .csv, .tsv, .parquet), a folder of train and valid files, or a data set of the
    /// hub: owner/name, owner/name@revision/path.
    #[arg(long)]
    data: Option<String>,
    #[command(flatten)]
    rows: RowArgs,
    #[command(flatten)]
    hub: HubArgs,
    /// auto, flex, ndarray, wgpu, wgpu:N; see `gsil devices`.
    #[arg(long)]
    device: Option<String>,
    /// Changes to the configuration, `train.lr=1e-4` for instance.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil train --model SmolLM2 --data train.jsonl evaluation.data=test.jsonl
  gsil train --model SmolLM2 --data train.jsonl lora.rank=8 train.lr=2e-4
  gsil train --config gsil.ron --dry-run       # every setting in use
  gsil train --dry-run lora.rank=8             # those of lora, too")]
pub(super) struct TrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The run folder to make; if not given, runs/NAME, or runs/NAME-2 and so on.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Print the configuration that would be used, and stop.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil resume runs/night
  gsil resume runs/night train.micro_batch_size=1 --allow-changes
  gsil resume runs/night model=NEW_PLACE data=NEW_PLACE    # they were moved")]
pub(super) struct ResumeArgs {
    /// The run folder.
    dir: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
    /// Accept settings that differ from those that the run began with, where that is sound: how often to save and how much
    /// to keep, `train.epochs` (not those of `sft`), what decides about memory, and the keys of a server that it began with.
    #[arg(long)]
    allow_changes: bool,
    /// Changes to the configuration, `train.micro_batch_size=1` for instance; they need --allow-changes, except where `model`,
    /// `data` and `evaluation.data` lie.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub(super) fn train(args: TrainArgs) -> Result<()> {
    let TrainArgs { config: args, output, dry_run } = args;
    let config = resolved_config(&args, output.as_deref())?;
    let console = Console::stderr();
    warn_of_unread(&config, &console);
    if dry_run {
        return print_line(config.to_ron()?.trim_end());
    }
    if let Some(output) = &config.output {
        check_is_no_cell(Path::new(output))?;
    }
    for name in config.device_names() {
        doctor::ensure_sound(device::resolve_name(name), &console)?;
    }
    let (run, model) = match config.output.clone() {
        Some(output) => Run::start(config, Path::new(&output), console)?,
        None => {
            let name = run_name(args.config.as_deref().or(config.data.as_deref().map(Path::new)));
            Run::start_named(config, Path::new("runs"), &name, console)?
        }
    };
    let output = run.folder().to_owned();
    print_results(&run.train(model).map_err(|error| to_be_resumed(error, &output))?)?;
    say_where(&console, &output);
    Ok(())
}

pub(super) fn resume(args: ResumeArgs) -> Result<()> {
    let console = Console::stderr();
    if let Some(rows) = results_if_finished(&args.dir)? {
        console.say("this run is finished");
        if !args.overrides.is_empty() {
            let (settings, model) = (args.overrides.join(" "), args.dir.join(MODEL_FOLDER));
            let go_on = match model.exists() {
                true => format!("; to go on from its model: gsil train --model {} ..", shell_path(&model)),
                false => String::new(),
            };
            console.warn(format!("{settings}: changes nothing any more{go_on}"));
        }
        print_results(&rows)?;
        say_where(&console, &args.dir);
        return Ok(());
    }
    let (allow, offline) = (args.allow_changes, args.hub.offline);
    let changes = Changes { overrides: args.overrides, settings: None, allow, offline };
    let (run, model) = Run::resume(&args.dir, &changes, console)?;
    warn_of_unread(run.config(), run.console());
    for name in run.device_names() {
        doctor::ensure_sound(name, run.console())?;
    }
    print_results(&run.train(model).map_err(|error| to_be_resumed(error, &args.dir))?)?;
    say_where(&console, &args.dir);
    Ok(())
}

/// Says how a run that was stopped, by a signal or by its server, is gone on with.
fn to_be_resumed(error: Error, dir: &Path) -> Error {
    error.with_way_on(&format!("continue with `gsil resume {}`", shell_path(dir)))
}

/// Defaults, then the file, then `key=value`, then flags.
pub(super) fn resolved_config(args: &ConfigArgs, output: Option<&Path>) -> Result<RunConfig> {
    let mut config = match &args.config {
        Some(path) => RunConfig::from_ron(&read_config_file(path)?, &path.to_string_lossy())?,
        None if asks_for_own_data(args) => RunConfig::default(),
        None => RunConfig::from_ron(RunConfig::quickstart(), "quickstart.ron")?,
    };
    args.overrides.iter().try_for_each(|assignment| config.set(assignment))?;
    for (key, flag) in [(&mut config.model, &args.model), (&mut config.data, &args.data)] {
        if flag.is_some() {
            key.clone_from(flag);
        }
    }
    if let Some(output) = output {
        config.output = Some(output.to_string_lossy().into_owned());
    }
    args.rows.apply(&mut config);
    config.offline |= args.hub.offline;
    if let Some(device) = &args.device {
        config.device.clone_from(device);
    }
    checked(config)
}

/// Warns of settings for iterations in a run that has none: its supervised stage reads the same keys in `sft`.
pub(super) fn warn_of_unread(config: &RunConfig, console: &Console) {
    let unread = config.unread_of_train();
    if unread.is_empty() {
        return;
    }
    let of = |section: &str| unread.iter().map(|key| format!("{section}.{key}")).collect::<Vec<_>>().join(", ");
    let (read_in_iterations, read) = (of("train"), of("sft"));
    console.warn(format!("iterations=0: the supervised stage does not read {read_in_iterations}; it has {read}"));
}

/// A comparison counts what lies in the place of one of its runs as that run, whatever its settings.
fn check_is_no_cell(output: &Path) -> Result<()> {
    let path = std::path::absolute(output).map_err(Error::reading(output))?;
    match comparison_of(&path) {
        Some(comparison) => {
            let message = format!("{} belongs to the comparison in {}", output.display(), comparison.display());
            Err(Error::usage(message).with_hint("choose another --output"))
        }
        None => Ok(()),
    }
}

fn asks_for_own_data(args: &ConfigArgs) -> bool {
    let assigned = |key: &str| args.overrides.iter().any(|assignment| key_of(assignment) == key);
    args.model.is_some() || args.data.is_some() || assigned("model") || assigned("data")
}

/// What the folder of a run is called that is given none.
fn run_name(named_after: Option<&Path>) -> String {
    let name = |path: &Path| {
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        name.map(|name| name.to_string_lossy().into_owned())
    };
    // A folder may be given as `.`.
    let name_of = |path: &Path| name(path).or_else(|| name(&dunce::canonicalize(path).ok()?));
    named_after.and_then(name_of).unwrap_or_else(|| "quickstart".to_owned())
}

/// The before/after table: what was measured, whatever it says.
fn print_results(rows: &[EvaluationRow]) -> Result<()> {
    match results(rows) {
        Some(text) => print_line(&format!("\n{text}")),
        None => Ok(()),
    }
}

/// The figures of the table, as far as they were measured.
const COLUMNS: [HeldOutFigure; 6] = [LOG_PROB, ACCURACY, IN_FORMAT, GREEDY, FLEXIBLE, SAMPLED];

/// The table with what its columns mean; None without rows.
pub(super) fn results(rows: &[EvaluationRow]) -> Option<String> {
    let first = &rows.first()?.evaluation;
    let answered = first.greedy.map_or(String::new(), |answers| format!(", {} of them answered", answers.num_rows));
    let is_known = |figure: &HeldOutFigure| rows.iter().any(|row| (figure.of)(&row.evaluation).is_some());
    let used: Vec<HeldOutFigure> = COLUMNS.into_iter().filter(is_known).collect();
    let cells = |(row, num_updates): (&EvaluationRow, usize)| -> Vec<String> {
        let cell = |figure: &HeldOutFigure| {
            let value = (figure.of)(&row.evaluation);
            if figure.is_share { percent(value) } else { number(value) }
        };
        [row.stage.clone(), num_updates.to_string()].into_iter().chain(used.iter().map(cell)).collect()
    };
    let header: Vec<&str> = ["after", "updates"].into_iter().chain(used.iter().map(|figure| figure.name)).collect();
    let rows = rows.iter().zip(updates_of_models(rows));
    let table = format_table(&header, &rows.map(cells).collect::<Vec<_>>());
    let whose = match first.held_out {
        true => format!("Of {}{answered}:", plural(first.num_rows, "held-out row")),
        false => {
            format!(
                "Of {}{answered}, for there are no held-out ones (evaluation.data):",
                plural(first.num_rows, "training row")
            )
        }
    };
    let width = used.iter().map(|figure| figure.name.len()).max().unwrap_or_default();
    let meanings: String =
        used.iter().map(|HeldOutFigure { name, meaning, .. }| format!("\n  {name:<width$}  {meaning}")).collect();
    Some(format!("{table}\n{whose}{meanings}"))
}

/// The first prompt of a run on the built-in task, which knows no others.
fn built_in_prompt(dir: &Path) -> Option<String> {
    let about = std::fs::read_to_string(dir.join(ABOUT_FILE)).ok().filter(|_| dir.join(TASK_FOLDER).exists())?;
    let about: About = serde_json::from_str(&about).ok()?;
    about.samples.into_iter().next().map(|row| row.prompt)
}

/// Where a finished run left what it made, and what to try on it.
fn say_where(console: &Console, dir: &Path) {
    console.say(format!("report  {}", dir.join(REPORT_FILE).display()));
    let model = dir.join(MODEL_FOLDER);
    if model.exists() {
        console.say(format!("model   {}", model.display()));
    }
    if model.join("tokenizer.json").exists() {
        let example = match built_in_prompt(dir) {
            Some(prompt) => format!("--prompt \"{prompt}\" --temperature 0"), // its likeliest answer
            None => "--prompt \"..\"".to_owned(),
        };
        console.say(format!("next    gsil generate --model {} {example}", shell_path(dir)));
    }
}
