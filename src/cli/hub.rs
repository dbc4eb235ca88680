//! Where the command line's models and data come from: this machine, or the Hugging Face hub.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::Result;
use crate::formats::hub;
use crate::report::console::Console;

/// What may be fetched.
#[derive(Debug, Args)]
pub(super) struct HubArgs {
    /// Fetch nothing from the Hugging Face hub: models and data come from its cache. HF_HUB_OFFLINE=1 says so, too.
    #[arg(long)]
    pub offline: bool,
}

impl HubArgs {
    /// The path of a model: as given, or where the cache has the hub's.
    ///
    /// # Errors
    /// See [`hub::model`].
    pub fn model(&self, given: &Path) -> Result<PathBuf> {
        match given.to_str() {
            Some(text) => Ok(hub::model(text, self.offline, &Console::stderr())?.path),
            None => Ok(given.to_owned()),
        }
    }

    /// The path of a data file or folder: as given, or where the cache has the hub's.
    ///
    /// # Errors
    /// See [`hub::data_set`].
    pub fn data(&self, given: &Path) -> Result<PathBuf> {
        match given.to_str() {
            Some(text) => Ok(hub::data_set(text, self.offline, &Console::stderr())?.path),
            None => Ok(given.to_owned()),
        }
    }
}
