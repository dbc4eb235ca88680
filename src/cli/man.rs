//! `gsil man`: manual pages, one a verb.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};

use super::{Cli, print_line, print_text};
use crate::error::{Error, Result};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil man --output man          # then `man -l man/gsil-train.1`
  gsil man | head                # the first page alone")]
pub(super) struct ManArgs {
    /// The folder to write the pages to; it is made. Default: the first page, to stdout.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn man(args: ManArgs) -> Result<()> {
    let mut command = Cli::command().name("gsil");
    command.build();
    let Some(folder) = args.output else {
        return print_text(&page(&command)?);
    };
    std::fs::create_dir_all(&folder).map_err(Error::writing("create", &folder))?;
    let mut written = Vec::new();
    write_pages(&command, &folder, &mut written)?;
    // Afterwards: who reads only the first names (`| head`) still gets all pages.
    written.iter().try_for_each(|path| print_line(&path.display().to_string()))
}

/// The page of a command and those of its verbs, down to the last.
fn write_pages(command: &Command, folder: &Path, written: &mut Vec<PathBuf>) -> Result<()> {
    let path = folder.join(format!("{}.1", command.get_display_name().unwrap_or("gsil")));
    std::fs::write(&path, page(command)?).map_err(Error::writing("write", &path))?;
    written.push(path);
    let mut verbs = command.get_subcommands().filter(|verb| verb.get_name() != "help" && !verb.is_hide_set());
    verbs.try_for_each(|verb| write_pages(verb, folder, written))
}

fn page(command: &Command) -> Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(Error::writing("write", "a manual page"))?;
    String::from_utf8(page).map_err(|error| Error::usage(format!("cannot print: {error}")))
}
