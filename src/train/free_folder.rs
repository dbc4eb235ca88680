//! What a new run's folder must not hold: a run, many runs, a model, a comparison, or anything that the run would write over.
//!
//! Where things lie in a run's folder: [`super::run_dir`].

use std::fs;
use std::path::Path;

use super::sharing::START_BINDING_FILE;
use super::task::TASK_FOLDER;
use super::{HELD_OUT_FILE, START_FILE};
use crate::error::{Error, Result};
use crate::eval::row_store::SETTINGS_FILE;
use crate::formats::folder_lock::FolderLock;
use crate::formats::hf_folder;
use crate::policy::MODEL_FOLDER;
use crate::records::about::ABOUT_FILE;
use crate::records::ending::{ENDING_FILE, Ending};
use crate::records::evaluation::{EVALUATION_ROWS_FILE, EVALUATIONS_FILE};
use crate::records::run_folder::{
    CHECKPOINTS_FOLDER, CONFIG_FILE, ENVIRONMENT_FILE, LATEST_FILE, holds_comparison, holds_run, holds_runs,
};
use crate::records::self_generation::{COUNTS_FILE, iteration_of_folder};
use crate::records::timing::TIMING_FILE;
use crate::records::update::METRICS_FILE;
use crate::report::shell::shell_path;
use crate::report::{REPORT_FILE, TENSORBOARD_FOLDER};

/// What a run writes into its folder before its settings stand there.
const WRITTEN_FIRST: [&str; 2] = [TASK_FOLDER, ENVIRONMENT_FILE];
/// What it writes from then on, beside the folders of its iterations.
const WRITTEN: [&str; 16] = [
    CONFIG_FILE,
    ABOUT_FILE,
    METRICS_FILE,
    COUNTS_FILE,
    EVALUATIONS_FILE,
    EVALUATION_ROWS_FILE,
    TIMING_FILE,
    ENDING_FILE,
    REPORT_FILE,
    TENSORBOARD_FOLDER,
    HELD_OUT_FILE,
    START_FILE,
    START_BINDING_FILE,
    CHECKPOINTS_FOLDER,
    LATEST_FILE,
    MODEL_FOLDER,
];

/// [`Error::Usage`] if the folder holds a run already, or many, or a model, a comparison, or anything that a run would
/// write over: asked before anything large is loaded.
///
/// # Errors
/// As said.
pub fn check_free_for_run(path: &Path) -> Result<()> {
    check_is_no_run(path)?;
    check_holds_no_runs(path, "run")?;
    // The path of a run stands for the model that it made.
    if path.join(hf_folder::CONFIG).is_file() {
        return Err(not_free(path, "holds config.json, as a model's folder does: a run in it would take its place"));
    }
    let first = if may_be_of_killed_start(path) { &[][..] } else { &WRITTEN_FIRST };
    let there = names_in(path);
    let iterations = there.iter().map(String::as_str).filter(|name| iteration_of_folder(name).is_some());
    check_writes_over_nothing(path, first.iter().copied().chain(WRITTEN).chain(iterations), "run")?;
    match holds_comparison(path) {
        true => Err(not_free(path, "is the folder of a comparison: a run in it would take its place")),
        false => Ok(()),
    }
}

/// [`Error::Usage`] for the folder of a run.
///
/// # Errors
/// As said.
pub fn check_is_no_run(path: &Path) -> Result<()> {
    if !holds_run(path) || !path.join(ENVIRONMENT_FILE).is_file() {
        return Ok(());
    }
    let error = Error::usage(format!("{} already holds a run", path.display()));
    Err(error.with_hint(match Ending::is_of_failed_training(path) {
        true => "its training failed: choose another --output".to_owned(),
        false => format!("continue it with `gsil resume {}`, or choose another --output", shell_path(path)),
    }))
}

/// Whether a start that was killed may have left there what it writes first: a lock is there, and is not an evaluation's.
pub fn may_be_of_killed_start(path: &Path) -> bool {
    FolderLock::was_taken(path) && !names_in(path).iter().any(|name| name.ends_with(SETTINGS_FILE))
}

/// None where there is no folder; one that does not read is refused by who writes to it.
fn names_in(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// [`Error::Usage`] if the folder holds one of these names, which a new `what` in it would write over.
///
/// # Errors
/// As said.
pub fn check_writes_over_nothing<'a>(path: &Path, mut names: impl Iterator<Item = &'a str>, what: &str) -> Result<()> {
    match names.find(|name| path.join(name).exists()) {
        Some(name) => Err(not_free(path, &format!("holds {name}, which a {what} would write over"))),
        None => Ok(()),
    }
}

/// [`Error::Usage`] if a new `what` in the folder would lie among runs.
///
/// # Errors
/// As said.
pub fn check_holds_no_runs(path: &Path, what: &str) -> Result<()> {
    match holds_runs(path) {
        true => Err(not_free(path, &format!("holds runs: a {what} in it would lie among them"))),
        false => Ok(()),
    }
}

/// The error for a folder that must be another one.
pub fn not_free(path: &Path, reason: &str) -> Error {
    let own = shell_path(&path.join("NAME"));
    Error::usage(format!("{} {reason}", path.display()))
        .with_hint(format!("choose another --output, {own} for instance"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::formats::file_system::Disk;
    use crate::train::run_dir::RunDir;

    fn create(path: &Path) -> RunDir {
        RunDir::create(Arc::new(Disk), path).unwrap()
    }

    #[test]
    fn a_folder_with_a_run_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path()).write("config.ron", "()").unwrap();
        let error = check_free_for_run(folder.path()).unwrap_err();
        assert!(
            error.to_string().ends_with("holds config.ron, which a run would write over"),
            "{error}: it is no run's"
        );
        fs::write(folder.path().join("env.json"), "{}").unwrap();
        let error = check_free_for_run(folder.path()).unwrap_err();
        assert!(error.hint().unwrap().contains("gsil resume"));
        RunDir::open(Arc::new(Disk), folder.path()).unwrap();
    }

    #[test]
    fn a_start_that_was_killed_beside_other_files_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        ["mine.ron", "env.json", ".lock"].iter().for_each(|name| fs::write(folder.path().join(name), "").unwrap());
        check_free_for_run(folder.path()).unwrap();
        for name in ["settings.json", "model.settings.json"] {
            let of_evaluation = folder.path().join(name);
            fs::write(&of_evaluation, "{}").unwrap();
            assert_eq!(check_free_for_run(folder.path()).unwrap_err().exit_code(), 2, "{name}");
            fs::remove_file(of_evaluation).unwrap();
        }
    }

    #[test]
    fn a_folder_of_runs_does_not_become_one_and_a_folder_of_notes_does() {
        let runs = tempfile::tempdir().unwrap();
        fs::create_dir(runs.path().join("notes")).unwrap();
        fs::write(runs.path().join("notes/monday.txt"), "").unwrap();
        check_free_for_run(runs.path()).unwrap();
        create(&runs.path().join("night")).write("config.ron", "()").unwrap();
        let error = check_free_for_run(runs.path()).unwrap_err();
        assert!(error.to_string().ends_with("holds runs: a run in it would lie among them"), "{error}");
        let own = shell_path(&runs.path().join("NAME"));
        assert_eq!(error.hint(), Some(format!("choose another --output, {own} for instance").as_str()));
        assert_eq!((error.exit_code(), runs.path().join(".lock").exists()), (2, false));
        create(&runs.path().join("day"));
    }
}
