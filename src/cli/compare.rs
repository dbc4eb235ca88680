//! `gsil compare`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{print_line, read_config_file};
use crate::compare::begun::Begun;
use crate::compare::plan::{Plan, cell_folder};
use crate::compare::{Comparison, TO_DO, results, state_of_cell};
use crate::device;
use crate::doctor;
use crate::error::{Error, Result};
use crate::records::run_folder::holds_run;
use crate::report::console::Console;
use crate::report::shell::{shell_path, shell_word};
use crate::report::table::format_table;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil compare compare.ron --dry-run           # every run and its updates
  gsil compare compare.ron --output grid
  gsil compare compare.ron --output grid --only sft")]
pub(super) struct CompareArgs {
    /// What is compared (RON): a base, methods, seeds.
    config: PathBuf,
    /// The folder to make; runs/NAME if not given. The same command goes on there with a comparison that was stopped.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Run the cells of this method alone.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// List the runs with their updates, and stop.
    #[arg(long)]
    dry_run: bool,
    /// Changes to the base, `save_every=10` for instance.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub(super) fn compare(args: CompareArgs) -> Result<()> {
    if holds_run(&args.config) {
        return Err(runs_are_given(&args.config, &args.overrides));
    }
    let console = Console::stderr();
    let origin = args.config.to_string_lossy();
    let text = read_config_file(&args.config)?;
    let name = args.config.file_stem().unwrap_or(args.config.as_os_str());
    let output = args.output.unwrap_or_else(|| Path::new("runs").join(name));
    let begun = Begun::in_folder(&output)?;
    let plan = Plan::new(&text, &origin, &args.overrides, begun.as_ref(), &console)?;
    let only = args.only.as_deref().map(|name| plan.config.method_index(name)).transpose()?;
    if args.dry_run {
        return print_line(dry_run(plan, begun.as_ref(), only, &output, &console)?.trim_end());
    }
    Comparison::check_free(&output)?;
    for name in plan.config.base.device_names() {
        doctor::ensure_sound(device::resolve_name(name), &console)?;
    }
    let comparison = Comparison::open(plan.pinned(&console)?, &output, console)?;
    let go_on = format!("the same command goes on in {}", output.display());
    let outcome = comparison.run(only).map_err(|error| error.with_way_on(&go_on))?;
    console.say(format!("results    {}", output.join("comparison.html").display()));
    print_line(results(&outcome).trim_end())
}

/// The error where runs are given in place of a comparison's settings: another verb shows those that are made.
fn runs_are_given(run: &Path, others: &[String]) -> Error {
    let words = others.iter().filter(|other| holds_run(Path::new(other))).map(|other| shell_word(other));
    let others = words.collect::<Vec<_>>().join(" ");
    let others = if others.is_empty() { "OTHER_RUN" } else { &others };
    Error::config(
        run.to_string_lossy(),
        "is a run folder; a comparison is a file of settings and makes runs of its own",
    )
    .with_hint(format!("to see runs side by side: gsil report {} --compare {others}", shell_path(run)))
}

/// What would run, if the command would go on with what was `begun` in the folder `output`.
fn dry_run(plan: Plan, begun: Option<&Begun>, only: Option<usize>, output: &Path, console: &Console) -> Result<String> {
    let Some(begun) = begun else { return Ok(list(&plan, &[], only, output)) };
    let plan = plan.pinned(console)?;
    let accepted = begun.check(&plan)?;
    Ok(list(&plan, &accepted.outdated, only, output))
}

/// Every cell with its number of updates and how far it is in the folder `output`, and what is made before them. Those
/// in the folders `outdated` are begun anew.
fn list(plan: &Plan, outdated: &[String], only: Option<usize>, output: &Path) -> String {
    let cells = plan.cells.iter().filter(|cell| only.is_none_or(|method| cell.method == method));
    let rows: Vec<Vec<String>> = cells
        .map(|cell| {
            let (objective, iterations) = (cell.config.objective.name.to_string(), cell.config.iterations.to_string());
            let folder = cell_folder(&plan.config, cell.method, cell.seed);
            let name = plan.config.methods[cell.method].name.clone();
            let state = if outdated.contains(&folder) { TO_DO } else { state_of_cell(&output.join(&folder)) };
            let (seed, num_updates) = (cell.seed.to_string(), cell.num_updates.to_string());
            vec![name, seed, objective, iterations, num_updates, state.to_owned(), folder]
        })
        .collect();
    let starts = match (plan.makes_starts(), plan.config.seeds.len()) {
        (false, _) => String::new(),
        (true, num) => {
            let each = if num == 1 { "the seed".to_owned() } else { format!("each of {num} seeds") };
            format!("\nBefore them: the start of {each}, by the supervised stage of `base`.\n")
        }
    };
    format_table(&["method", "seed", "objective", "iterations", "updates", "state", "folder"], &rows) + &starts
}
