//! `ended.json`: what ended a run before its time.

use std::path::Path;

use chrono::Local;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The file in a run folder, from the moment that an error or a signal ends the run to that when it is gone on with.
pub const ENDING_FILE: &str = "ended.json";

/// What helps where a run's own numbers ended it, in place of resuming it.
pub const AGAINST_FAILED_TRAINING: &str = "its training failed, and would again: start a new run with other settings";

/// What the run's command said when it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    pub message: String,
    /// What helps, if that is known; None after a stop: the run is gone on with.
    pub hint: Option<String>,
    /// See [`Error::exit_code`].
    pub exit_code: i32,
    /// See [`now`].
    pub when: String,
}

/// Date and time where this process is, with the offset from UTC: `2026-03-01 04:10:00 +01:00`.
pub fn now() -> String {
    Local::now().format("%Y-%m-%d %H:%M:%S %:z").to_string()
}

impl Ending {
    /// The ending by this error, at this time.
    pub fn of(error: &Error, when: String) -> Self {
        let hint = error.hint().filter(|_| !matches!(error, Error::Stopped { .. })).map(str::to_owned);
        Ending { message: error.to_string(), hint, exit_code: error.exit_code(), when }
    }

    /// Whether the run in a folder was ended by its own numbers: see [`Self::is_of_training`].
    pub fn is_of_failed_training(folder: &Path) -> bool {
        let read =
            || -> Option<Self> { serde_json::from_str(&std::fs::read_to_string(folder.join(ENDING_FILE)).ok()?).ok() };
        read().is_some_and(|ending| ending.is_of_training())
    }

    /// Whether a signal asked for it, after which everything is saved.
    pub fn is_stop(&self) -> bool {
        self.exit_code > 128
    }

    /// Whether the run's own numbers ended it: a resumed run would come to the same.
    pub fn is_of_training(&self) -> bool {
        self.exit_code == Error::training("").exit_code()
    }
}
