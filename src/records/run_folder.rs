//! What a run folder and a comparison's folder are recognised by. All that lies in a run folder:
//! [`crate::train::run_dir`].

use std::path::Path;

use crate::error::{Error, Result};

/// A run's settings.
pub const CONFIG_FILE: &str = "config.ron";
/// What a run's figures depend on besides its settings, and what it began with.
pub const ENVIRONMENT_FILE: &str = "env.json";
/// The name of the newest checkpoint; it stays when checkpoints are removed.
pub const LATEST_FILE: &str = "latest";
/// What the name of a checkpoint ends in, after a hyphen, once nothing is left to do.
pub const DONE: &str = "done";
/// A comparison's settings.
pub const COMPARE_FILE: &str = "compare.ron";

/// Whether a folder is that of a run.
pub fn holds_run(folder: &Path) -> bool {
    folder.join(CONFIG_FILE).is_file()
}

/// Whether the checkpoint of this name, as [`LATEST_FILE`] has it, is the last one of its run.
pub fn is_last_checkpoint(name: &str) -> bool {
    name.trim_end().rsplit_once('-').is_some_and(|(_, stage)| stage == DONE)
}

/// # Errors
/// [`Error::Input`] if the folder is not there or holds no run.
pub fn check_holds_run(folder: &Path) -> Result<()> {
    if holds_run(folder) {
        return Ok(());
    }
    std::fs::metadata(folder).map_err(Error::reading(folder))?;
    Err(match folder.join(COMPARE_FILE).is_file() {
        true => Error::input(folder, "is the folder of a comparison, not of a run")
            .with_hint("comparison.html in it is its page; its runs are the folders cells/METHOD/seed-N"),
        false => {
            Error::input(folder, format!("holds no run (no {CONFIG_FILE})")).with_hint("start one with `gsil train`")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_checkpoint_is_told_by_its_name() {
        assert!(is_last_checkpoint("step-000015-done\n"));
        for name in ["step-000015-iteration-1", "step-000015-continued-sft", "step-000015-undone", "done", ""] {
            assert!(!is_last_checkpoint(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_run_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let said = |name: &str| {
            let error = check_holds_run(&folder.path().join(name)).unwrap_err();
            format!("{error} {}", error.hint().unwrap_or_default())
        };
        std::fs::create_dir(folder.path().join("night")).unwrap();
        assert!(said("night").contains("holds no run"));
        assert!(said("nihgt").contains("cannot read") && said("nihgt").contains("did you mean"), "{}", said("nihgt"));
        std::fs::write(folder.path().join("night").join(COMPARE_FILE), "").unwrap();
        assert!(said("night").contains("comparison.html"));
        std::fs::write(folder.path().join("night").join(CONFIG_FILE), "").unwrap();
        check_holds_run(&folder.path().join("night")).unwrap();
    }
}
