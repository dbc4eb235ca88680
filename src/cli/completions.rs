//! `gsil completions`: what a shell needs to complete commands and flags.

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::{Cli, print_text};
use crate::error::{Error, Result};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil completions bash > gsil.bash    # source it in ~/.bashrc
  gsil completions zsh > _gsil         # into a folder of $fpath
  gsil completions fish > gsil.fish    # into ~/.config/fish/completions")]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

pub(super) fn completions(args: CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut for_people(&Cli::command()), "gsil", &mut script);
    print_text(&String::from_utf8(script).map_err(|error| Error::usage(format!("cannot print: {error}")))?)
}

/// Without the hidden verbs, which clap_complete would offer too.
fn for_people(whole: &Command) -> Command {
    let verbs = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    Command::new("gsil").version(env!("CARGO_PKG_VERSION")).args(whole.get_arguments().cloned()).subcommands(verbs)
}
