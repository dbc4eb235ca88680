//! `gsil __sandbox`: the processes of [`crate::eval::sandbox`]. Nobody types it.

use clap::Subcommand;

use crate::error::Result;
use crate::eval::sandbox::{confine, supervise};

#[derive(Debug, Subcommand)]
pub(super) enum Stage {
    /// Reads a plan and a program from stdin, and reports on stderr.
    Supervise,
    /// Confines itself and becomes Python.
    Confine {
        /// As JSON.
        plan: String,
    },
}

pub(super) fn run(stage: Stage) -> Result<()> {
    match stage {
        Stage::Supervise => supervise::supervise(),
        Stage::Confine { plan } => confine::confine(&plan).map(|never| match never {}),
    }
}
