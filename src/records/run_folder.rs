//! What a run folder and a comparison's folder are recognised by. All that lies in a run folder:
//! [`crate::train::run_dir`].

use std::io::ErrorKind;
use std::path::Path;

use super::stage::Stage;

/// A run's settings.
pub const CONFIG_FILE: &str = "config.ron";
/// What a run's figures depend on besides its settings, and what it began with.
pub const ENVIRONMENT_FILE: &str = "env.json";
/// The folder of a run's checkpoints.
pub const CHECKPOINTS_FOLDER: &str = "checkpoints";
/// The name of a run's newest checkpoint: that there was one, should they be removed.
pub const LATEST_FILE: &str = "latest";
/// What helps a run that has made checkpoints of which none is left: it cannot be resumed.
pub const RESTORE_CHECKPOINTS: &str = "restore the newest one from a backup (`latest` names it), or start a new run";
/// A comparison's settings.
pub const COMPARE_FILE: &str = "compare.ron";
/// The folders of a comparison's runs: of its cells, and of what they begin with.
pub const CELLS_FOLDER: &str = "cells";
pub const STARTS_FOLDER: &str = "start";

/// How far a run came, told by the name of its newest checkpoint, whether that is still there or was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// It has made no checkpoint.
    Nothing,
    /// Something is left to do.
    Checkpoint,
    /// Its aligned model was written, and another one is left to train for comparison.
    Comparison,
    /// Nothing is left to do: its aligned model was written.
    End,
}

/// See [`Reached`].
pub fn reached(folder: &Path) -> Reached {
    match std::fs::read_to_string(folder.join(LATEST_FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Reached::Nothing,
        Ok(name) if name.trim_end().ends_with(&format!("-{}", Stage::Done.in_file_names())) => Reached::End,
        Ok(name) if name.trim_end().ends_with(&format!("-{}", Stage::ContinuedSft.in_file_names())) => {
            Reached::Comparison
        }
        _ => Reached::Checkpoint,
    }
}

/// Whether a name is that of a checkpoint, be it half-written or moved aside for its successor.
pub fn is_checkpoint(name: &str) -> bool {
    name.trim_start_matches('.').starts_with("step-")
}

/// Whether a name is that of a checkpoint that was written to its end, be it moved aside for its successor.
pub fn is_whole_checkpoint(name: &str) -> bool {
    is_checkpoint(name) && !name.ends_with(".tmp")
}

/// The names of the checkpoints that lie in a run's folder, in no order.
pub fn checkpoints(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join(CHECKPOINTS_FOLDER)).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// The name of a run's newest checkpoint, unless that was removed.
pub fn newest_checkpoint(folder: &Path) -> Option<String> {
    let newest = std::fs::read_to_string(folder.join(LATEST_FILE)).ok()?;
    checkpoints(folder).into_iter().find(|name| name == newest.trim_end())
}

/// Whether a run has made checkpoints and none is left, not even one that was moved aside for its successor. A run that has
/// made none yet has lost none: resumed, it begins again.
pub fn has_lost_checkpoints(folder: &Path) -> bool {
    let mut names = std::fs::read_dir(folder.join(CHECKPOINTS_FOLDER)).into_iter().flatten().flatten();
    reached(folder) != Reached::Nothing && !names.any(|entry| is_whole_checkpoint(&entry.file_name().to_string_lossy()))
}

/// Whether a folder is that of a run.
pub fn holds_run(folder: &Path) -> bool {
    folder.join(CONFIG_FILE).is_file()
}

/// Whether a folder is one of runs: one of them lies right in it. A comparison has its own two folders deep.
pub fn holds_runs(folder: &Path) -> bool {
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| holds_run(&entry.path()))
}

/// Whether a folder is that of a comparison that has begun its runs.
pub fn holds_comparison(folder: &Path) -> bool {
    let has_runs = [CELLS_FOLDER, STARTS_FOLDER].iter().any(|name| folder.join(name).is_dir());
    folder.join(COMPARE_FILE).is_file() && has_runs
}

/// What to give in place of a comparison's folder where a run or a model is wanted; None for any other folder.
pub fn instead_of_comparison(folder: &Path) -> Option<String> {
    let cell = folder.join(CELLS_FOLDER).join("METHOD/seed-N");
    let hint = format!("it is the folder of a comparison: give one of its runs, {}", cell.display());
    holds_comparison(folder).then_some(hint)
}

/// The comparison that a run is a cell of (`cells/METHOD/seed-N`) or the start of cells (`start/seed-N`).
pub fn comparison_of(run: &Path) -> Option<&Path> {
    let parent = run.parent()?;
    let folder = match parent.ends_with(STARTS_FOLDER) {
        true => parent.parent(),
        false => parent.parent().filter(|folder| folder.ends_with(CELLS_FOLDER))?.parent(),
    }?;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    folder.join(COMPARE_FILE).is_file().then_some(folder)
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
            ("step-000009-continued-sft", Reached::Comparison),
            ("step-000012-done", Reached::End),
            ("step-000012-done\n", Reached::End),
            ("step-000012-undone", Reached::Checkpoint),
        ] {
            std::fs::write(folder.path().join(LATEST_FILE), name).unwrap();
            assert_eq!(reached(folder.path()), expected, "{name}");
        }
    }

    #[test]
    fn the_newest_checkpoint_is_the_one_that_is_named_if_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(LATEST_FILE), name).unwrap();
        assert_eq!((newest_checkpoint(folder.path()), checkpoints(folder.path())), (None, Vec::new()));
        for name in ["step-000004-iteration-0", ".step-000008-iteration-0.tmp"] {
            std::fs::create_dir_all(folder.path().join(CHECKPOINTS_FOLDER).join(name)).unwrap();
        }
        assert_eq!(checkpoints(folder.path()), ["step-000004-iteration-0"]);
        write("step-000004-iteration-0\n");
        assert_eq!(newest_checkpoint(folder.path()).as_deref(), Some("step-000004-iteration-0"));
        for name in ["step-000008-iteration-0", "", "../checkpoints"] {
            write(name);
            assert_eq!(newest_checkpoint(folder.path()), None, "{name}");
        }
    }

    #[test]
    fn checkpoints_are_lost_where_there_was_one_and_none_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let set = |name: &str| folder.path().join(CHECKPOINTS_FOLDER).join(name);
        assert!(!has_lost_checkpoints(folder.path()), "it has made none yet");
        std::fs::write(folder.path().join(LATEST_FILE), "step-000004-iteration-0").unwrap();
        assert!(has_lost_checkpoints(folder.path()));
        std::fs::create_dir_all(set(".step-000004-iteration-0.tmp")).unwrap();
        assert!(has_lost_checkpoints(folder.path()), "half of one is none");
        for left in ["step-000002-iteration-0", ".step-000004-iteration-0.old"] {
            std::fs::create_dir(set(left)).unwrap();
            assert!(!has_lost_checkpoints(folder.path()), "{left}");
            std::fs::remove_dir(set(left)).unwrap();
        }
    }

    #[test]
    fn a_cell_and_a_start_know_their_comparison_and_another_run_near_its_settings_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| comparison_of(&folder.path().join(name)).map(Path::to_owned);
        assert_eq!(of("cells/gsil/seed-0"), None);
        std::fs::write(folder.path().join(COMPARE_FILE), "").unwrap();
        for inside in ["cells/gsil/seed-0", "start/seed-0"] {
            assert_eq!(of(inside).as_deref(), Some(folder.path()), "{inside}");
        }
        for other in ["runs/night", "night", "runs/gsil/seed-0"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
