//! `gsil report`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::print_line;
use crate::error::{Error, Result, is_not_allowed};
use crate::report::console::Console;
use crate::report::shell::shell_path;
use crate::report::{Ended, write_report, write_report_to};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil report runs/night                       # writes runs/night/report.html
  gsil report runs/night --compare runs/other --output both.html")]
pub(super) struct ReportArgs {
    /// The run folder; the run may still be going on.
    dir: PathBuf,
    /// Other runs to draw in the same charts.
    #[arg(long, num_args = 1.., value_name = "DIR")]
    compare: Vec<PathBuf>,
    /// Write the page here and leave the run folder as it is. Default: report.html in the run folder, and tb/ for TensorBoard.
    #[arg(long)]
    output: Option<PathBuf>,
}

pub(super) fn report(args: ReportArgs) -> Result<()> {
    let path = match args.output {
        Some(path) => {
            check_is_page(&path)?;
            write_report_to(&path, &args.dir, &args.compare)?;
            path
        }
        None => write_report(&args.dir, &args.compare).map_err(with_another_place)?,
    };
    if let Some(ended) = Ended::read(&args.dir)? {
        ended.lines().iter().for_each(|line| Console::stderr().say(line));
    }
    print_line(&path.display().to_string())
}

/// A page is written over by its successor; a file of another kind must not be, by a slip.
fn check_is_page(path: &Path) -> Result<()> {
    let ending = path.extension().unwrap_or_default();
    if !path.is_file() || ending.eq_ignore_ascii_case("html") || ending.eq_ignore_ascii_case("htm") {
        return Ok(());
    }
    let named = shell_path(&path.with_extension("html"));
    let message = format!("--output {} is there already, and its name is not that of a page", path.display());
    Err(Error::usage(message).with_hint(format!("give --output {named}")))
}

/// A run that may only be read has its page written elsewhere.
fn with_another_place(error: Error) -> Error {
    match error {
        Error::Disk { ref source, .. } if is_not_allowed(source.kind()) => {
            error.with_hint("the run folder may not be written: add --output FILE, and the page is written there alone")
        }
        other => other,
    }
}
