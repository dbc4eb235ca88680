//! What a run folder and a comparison's folder are recognised by. All that lies in a run folder:
//! [`crate::train::run_dir`].

use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};

/// A run's settings.
pub const CONFIG_FILE: &str = "config.ron";
/// What a run's figures depend on besides its settings, and what it began with.
pub const ENVIRONMENT_FILE: &str = "env.json";
/// The folder of a run's checkpoints.
pub const CHECKPOINTS_FOLDER: &str = "checkpoints";
/// The name of a run's newest checkpoint: that there was one, should they be removed.
pub const LATEST_FILE: &str = "latest";
/// The end of the name of the checkpoint after which nothing is left to do.
pub const DONE: &str = "done";
/// A comparison's settings.
pub const COMPARE_FILE: &str = "compare.ron";

/// How far a run came, told by the name of its newest checkpoint, whether that is still there or was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// It has made no checkpoint.
    Nothing,
    /// Something is left to do.
    Checkpoint,
    /// Nothing is left to do: its aligned model was written.
    End,
}

/// See [`Reached`].
pub fn reached(folder: &Path) -> Reached {
    match std::fs::read_to_string(folder.join(LATEST_FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Reached::Nothing,
        Ok(name) if name.trim_end().ends_with(&format!("-{DONE}")) => Reached::End,
        _ => Reached::Checkpoint,
    }
}

/// Whether a folder is that of a run.
pub fn holds_run(folder: &Path) -> bool {
    folder.join(CONFIG_FILE).is_file()
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
    fn how_far_a_run_came_is_known_without_its_checkpoints() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(reached(folder.path()), Reached::Nothing);
        for (name, expected) in [
            ("step-000004-iteration-0", Reached::Checkpoint),
            ("step-000009-continued-sft", Reached::Checkpoint),
            ("step-000012-done", Reached::End),
            ("step-000012-done\n", Reached::End),
            ("step-000012-undone", Reached::Checkpoint),
        ] {
            std::fs::write(folder.path().join(LATEST_FILE), name).unwrap();
            assert_eq!(reached(folder.path()), expected, "{name}");
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
