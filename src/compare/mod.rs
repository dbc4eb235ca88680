//! Many runs from one start, side by side: every method with every seed, at the same number of updates.
//!
//! ```text
//! for each seed
//!     the start: the built-in task, if it is used, and the supervised stage          made once
//!     for each method: a run from there                      the first self-generation is made once for all that share it
//!     figures, differences and their intervals so far        comparison.json, comparison.md, comparison.html
//! ```
//! The folder holds `compare.ron` (what was asked for), `start/seed-0/`, `cells/METHOD/seed-0/`, each a run folder of its own. The
//! same command goes on where a stopped one was: a cell is a run that can be resumed, and `finished.json` in it says that there
//! is nothing left to do. `fingerprints.json` says what model and rows of this machine the comparison began with.
//! Next: [`plan`], [`begun`], [`outcome`], [`bootstrap`].

pub mod begun;
pub mod bootstrap;
pub mod fingerprints;
pub mod outcome;
mod page;
pub mod plan;
mod summary;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::config::{CompareConfig, RunConfig};
use crate::error::{Error, Result};
use crate::formats::atomic_write::{create_folder, folder_of, remove, sibling, sync_folder, write_json};
use crate::formats::file_system::{Disk, FileSystem};
use crate::formats::folder_lock::FolderLock;
use crate::model::CausalLm;
use crate::policy::MODEL_FOLDER;
use crate::records::run_folder::{CELLS_FOLDER, CHECKPOINTS_FOLDER, COMPARE_FILE, STARTS_FOLDER, holds_run};
use crate::report::console::Console;
use crate::report::shell::shell_path;
use crate::train::changes::Changes;
use crate::train::free_folder;
use crate::train::results_if_finished;
use crate::train::run_dir::RunDir;
use crate::train::setup::Run;
use begun::Begun;
use fingerprints::{FINGERPRINTS_FILE, Fingerprints};
use outcome::{CellOutcome, Outcome};
use plan::{Cell, Plan, Start, cell_folder, start_folder};
pub use summary::markdown as results;

/// The state of a cell that is not begun.
pub const TO_DO: &str = "to do";
/// In a run folder of a comparison: nothing is left to do there.
const FINISHED_FILE: &str = "finished.json";
/// In a cell's folder: why its training ended before its time.
const FAILED_FILE: &str = "failed.json";

/// A comparison whose folder this process alone works in.
pub struct Comparison {
    dir: RunDir,
    plan: Plan,
    console: Console,
}

impl Comparison {
    /// Begins the comparison in `output`, or goes on with it.
    ///
    /// # Errors
    /// [`Error::Config`] that names what changed, if another comparison was begun there; [`Error::Usage`] as
    /// [`Self::check_free`]; [`Error::Input`] for a model or rows that do not read; [`Error::Locked`], [`Error::Disk`].
    pub fn open(plan: Plan, output: &Path, console: Console) -> Result<Self> {
        Self::check_free(output)?;
        let dir = RunDir::create(Arc::new(Disk), output)?;
        match Begun::in_folder(output)? {
            None => Fingerprints::of(&plan.config.base)?.write(&dir)?,
            Some(begun) => {
                let accepted = begun.check(&plan)?;
                accepted.settings.iter().for_each(|change| console.say(format!("changed    {change}")));
                // Before the new settings are written down: with them a failed cell could not be told from a begun one.
                for folder in &accepted.outdated {
                    discard(&dir.join(folder))?;
                    console.say(format!("removed    {folder}: it had failed, and its method was changed or taken out"));
                }
            }
        }
        dir.write(COMPARE_FILE, &plan.config.to_ron()?)?;
        Ok(Comparison { dir, plan, console })
    }

    /// [`Error::Usage`] if the folder holds a run, or runs that are no cells, or anything that a comparison would write
    /// over and none has written: asked before anything large is loaded.
    ///
    /// # Errors
    /// As said.
    pub fn check_free(output: &Path) -> Result<()> {
        free_folder::check_is_no_run(output)?;
        if holds_run(output) {
            let reason = "holds config.ron, as a run's folder does: a comparison in it would take its place";
            return Err(free_folder::not_free(output, reason));
        }
        // A copy may lack all but its runs and their settings; a start that was killed has no runs.
        let has_runs = || matches!(Begun::in_folder(output), Ok(Some(_)));
        let path = output.join(COMPARE_FILE);
        if path.exists() && (has_runs() || FolderLock::was_taken(output) && is_as_written(&path)) {
            return Ok(());
        }
        free_folder::check_holds_no_runs(output, "comparison")?;
        let first = (!free_folder::may_be_of_killed_start(output)).then_some(FINGERPRINTS_FILE);
        let written = first.into_iter().chain([COMPARE_FILE, CELLS_FOLDER, STARTS_FOLDER]).chain(summary::FILES);
        free_folder::check_writes_over_nothing(output, written, "comparison")
    }

    /// Runs what is not finished, of one method if `only` names it, and writes the results so far before every cell and
    /// in the end, whatever that is. A cell that must not be trained on is left, and told of in the results.
    ///
    /// # Errors
    /// [`Error::Stopped`] after a signal; [`Error::Training`] in the end if a cell failed; device and disk errors.
    pub fn run(&self, only: Option<usize>) -> Result<Outcome> {
        let cells: Vec<&Cell> =
            self.plan.cells.iter().filter(|cell| only.is_none_or(|method| cell.method == method)).collect();
        let mut failed = Vec::new();
        for (i, cell) in cells.iter().enumerate() {
            let folder = self.folder_of(cell);
            if folder.join(FINISHED_FILE).exists() {
                continue;
            }
            self.write_results(Some(cell))?;
            let name = &self.plan.config.methods[cell.method].name;
            self.console.say(format!("\ncell {} of {}: {name}, seed {}", i + 1, cells.len(), cell.seed));
            match self.told_in_the_page(&folder, || self.run_cell(cell, &folder)) {
                Ok(()) => remove(&Disk, &folder.join(FAILED_FILE))?,
                Err(error @ Error::Training { .. }) => {
                    let advice = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
                    self.console.warn(format!("{name}, seed {}: {error}{advice}", cell.seed));
                    create_folder(&Disk, &folder)?; // there is none if it was the start that failed
                    write_json(&Disk, &folder.join(FAILED_FILE), &json!({"message": error.to_string()}))?;
                    failed.push(*cell);
                }
                Err(error) => return Err(self.with_room_for_all(error)),
            }
        }
        let outcome = self.write_results(None)?;
        match failed.is_empty() {
            true => Ok(outcome),
            false => Err(self.told_of(&failed, cells.len())),
        }
    }

    /// Does a cell's work. If that ends the comparison, by an error or by the panic of a graphics library, the page
    /// says so. What fails in writing it hides nothing: it is the first error that is to be mended.
    fn told_in_the_page(&self, folder: &Path, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let was_begun = holds_run(folder);
        let ended = catch_unwind(AssertUnwindSafe(work));
        if !matches!(ended, Ok(Ok(()) | Err(Error::Training { .. }))) {
            let told = match !was_begun && holds_run(folder) {
                true => remove(&Disk, &folder.join(FAILED_FILE)), // it was the start that had failed
                false => Ok(()),
            };
            if let Err(error) = told.and_then(|()| self.write_results(None)) {
                self.console.warn(format!("the comparison's page will not say how it ended: {error}"));
            }
        }
        ended.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The error of cells that failed, of `num_cells` that were to be run, and the ways on.
    fn told_of(&self, failed: &[&Cell], num_cells: usize) -> Error {
        let name = |cell: &&Cell| format!("{}, seed {}", self.plan.config.methods[cell.method].name, cell.seed);
        let names: Vec<String> = failed.iter().map(name).collect();
        let others = format!("the results of the others are in {}", self.dir.path().display());
        let way_on = match failed.iter().any(|cell| holds_run(&self.folder_of(cell))) {
            true => {
                "a method whose begun cells all failed may get another `set` or be taken out, and the same command goes \
                 on; beside one with finished cells add another method"
            }
            false => "where a start failed, change `base` and choose another --output",
        };
        Error::training(format!("{} of {num_cells} cells failed: {}", failed.len(), names.join("; ")))
            .with_hint(format!("{others}; {way_on}"))
    }

    /// A run alone may be moved to another disk, a cell may not: the comparison would train it anew where it was.
    fn with_room_for_all(&self, error: Error) -> Error {
        let folder = shell_path(self.dir.path());
        match error {
            Error::DiskFull { .. } => error.with_hint(format!(
                "free some space, or move the whole folder {folder} to another disk and give it as --output; with \
                 `keep_models: false` figures alone are kept of cells that are finished from then on"
            )),
            other => other,
        }
    }

    fn folder_of(&self, cell: &Cell) -> PathBuf {
        self.dir.join(cell_folder(&self.plan.config, cell.method, cell.seed))
    }

    fn run_cell(&self, cell: &Cell, folder: &Path) -> Result<()> {
        let config = match self.plan.makes_starts() {
            true => self.start(cell.seed)?.put_into(cell.config.clone()),
            false => cell.config.clone(),
        };
        let is_other = |other: &&Cell| other.seed == cell.seed && other.method != cell.method;
        let others = self.plan.cells.iter().filter(is_other).map(|other| self.folder_of(other));
        let num_updates = self.complete(folder, config, Some(others.collect()))?;
        if self.plan.config.equal_updates && num_updates != cell.num_updates {
            let message = format!("its run made {num_updates} updates, and {} are planned", cell.num_updates);
            return Err(Error::input(folder, message).with_hint(format!(
                "put back the rows that it was trained on; or remove {}, and the same command trains it anew",
                folder.display()
            )));
        }
        self.mark_finished(folder, num_updates, &[MODEL_FOLDER, CHECKPOINTS_FOLDER])
    }

    /// The start of a seed's cells, made if it is not there.
    fn start(&self, seed: u64) -> Result<Start> {
        let folder = self.dir.join(start_folder(seed));
        if !folder.join(FINISHED_FILE).exists() {
            self.console.say(format!("the start of seed {seed}"));
            let num_updates = self.complete(&folder, Start::config(&self.plan.config, seed), None)?;
            self.mark_finished(&folder, num_updates, &[CHECKPOINTS_FOLDER])?;
        }
        let folder = dunce::canonicalize(&folder).map_err(Error::reading(&folder))?;
        Ok(Start::in_folder(&folder, &self.plan.config))
    }

    /// Runs to the end, from wherever the run in the folder stands; how many updates it made.
    fn complete(&self, folder: &Path, config: RunConfig, others: Option<Vec<PathBuf>>) -> Result<usize> {
        create_folder(&Disk, folder_of(folder))?;
        // One that a person finished with `gsil resume` is finished, whatever it needed for that.
        let finished = if holds_run(folder) { results_if_finished(folder)? } else { None };
        let rows = match finished {
            Some(rows) => rows,
            None => {
                let (mut run, model) = self.open_run(folder, config)?;
                if let Some(others) = others {
                    run.take_over_from(others);
                }
                run.train(model)?
            }
        };
        Ok(rows.last().map_or(0, |row| row.total_steps))
    }

    /// Begins the run, or goes on with it as the comparison is now.
    fn open_run(&self, folder: &Path, config: RunConfig) -> Result<(Run, CausalLm)> {
        if !holds_run(folder) {
            return Run::start(config, folder, self.console);
        }
        let output = Some(folder.to_string_lossy().into_owned());
        let settings = Some(RunConfig { output, ..config });
        Run::resume(folder, &Changes { settings, allow: true, ..Changes::default() }, self.console)
    }

    /// `bulky` is what goes if models are not to be kept.
    fn mark_finished(&self, folder: &Path, num_updates: usize, bulky: &[&str]) -> Result<()> {
        write_json(&Disk, &folder.join(FINISHED_FILE), &json!({"num_updates": num_updates}))?;
        match self.plan.config.keep_models {
            true => Ok(()),
            false => bulky.iter().try_for_each(|name| remove(&Disk, &folder.join(name))),
        }
    }

    /// What has become of the cells so far; the one that is `running` has not ended, whatever it did before.
    fn write_results(&self, running: Option<&Cell>) -> Result<Outcome> {
        let mut outcome = Outcome::read(&self.plan, self.dir.path())?;
        let is_running = |own: &CellOutcome| running.is_some_and(|cell| own.is_of(cell));
        outcome.cells.iter_mut().filter(|own| is_running(own)).for_each(|own| own.ended = None);
        summary::write(&self.dir, &outcome)?;
        Ok(outcome)
    }
}

/// How far the run in a cell's folder is, in a word.
pub fn state_of_cell(folder: &Path) -> &'static str {
    match (folder.join(FINISHED_FILE).exists(), folder.join(FAILED_FILE).exists(), holds_run(folder)) {
        (true, ..) => "done",
        (_, true, _) => "failed",
        (_, _, true) => "begun",
        _ => TO_DO,
    }
}

/// Removes a cell's folder, under another name first: half-removed it could pass for a begun cell.
fn discard(folder: &Path) -> Result<()> {
    let aside = sibling(folder, "old")?;
    remove(&Disk, &aside)?;
    Disk.rename(folder, &aside).map_err(Error::writing("remove", folder))?;
    sync_folder(&Disk, folder_of(folder))?;
    remove(&Disk, &aside)
}

/// Whether a comparison's settings are spelled as this program does it: writing them again loses nothing.
fn is_as_written(path: &Path) -> bool {
    let Ok(text) = fs::read_to_string(path) else { return false };
    let config = CompareConfig::from_ron(&text, &path.to_string_lossy());
    config.and_then(|config| config.to_ron()).is_ok_and(|written| written == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Method;
    use crate::records::ending::{ENDING_FILE, Ending};
    use crate::records::run_folder::CONFIG_FILE;
    use crate::report::REPORT_FILE;

    #[test]
    fn what_ends_a_comparison_in_a_cell_stands_in_its_page_and_is_hidden_by_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let grid = parent.path().join("grid");
        let dir = RunDir::create(Arc::new(Disk), &grid).unwrap();
        let methods = vec![Method { name: "gsil".to_owned(), set: Vec::new() }];
        let config = CompareConfig { seeds: vec![0], methods, ..CompareConfig::default() };
        let cell = Cell { method: 0, seed: 0, config: RunConfig::default(), num_updates: 1 };
        let plan = Plan { config, cells: vec![cell.clone()], fingerprints: None };
        let comparison = Comparison { dir, plan, console: Console::stderr() };
        let folder = comparison.folder_of(&cell);
        let page = || fs::read_to_string(grid.join("comparison.html")).unwrap_or_default();

        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(FAILED_FILE), r#"{"message": "its start diverged"}"#).unwrap();
        let stop = || {
            let stopped = Error::Stopped { signal: 15, hint: None };
            let ending = serde_json::to_string(&Ending::of(&stopped, String::new())).unwrap();
            for (file, text) in [(CONFIG_FILE, ""), (REPORT_FILE, ""), (ENDING_FILE, &ending)] {
                fs::write(folder.join(file), text).unwrap();
            }
            Err(stopped)
        };
        assert!(matches!(comparison.told_in_the_page(&folder, stop), Err(Error::Stopped { .. })));
        let run = r#"<a href="cells/gsil/seed-0/report.html">gsil, seed 0</a>"#;
        assert!(page().contains(&format!("{run} <small>stopped</small>")), "{}", page());
        assert!(page().contains("0 of 1 runs are finished") && !page().contains("its start diverged"), "{}", page());

        let json = || fs::read_to_string(grid.join("comparison.json")).unwrap();
        let when_stopped = json();
        comparison.write_results(Some(&cell)).unwrap();
        assert!(page().contains(&format!("{run} <small>not finished</small>")), "it goes on: {}", page());
        assert_eq!(json(), when_stopped, "results are figures alone");

        // A graphics library that ran out of memory.
        let panicking = || comparison.told_in_the_page(&folder, || resume_unwind(Box::new("out of memory")));
        assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
        assert!(page().contains(&format!("{run} <small>stopped</small>")), "{}", page());

        fs::remove_file(grid.join("comparison.json")).unwrap();
        fs::create_dir(grid.join("comparison.json")).unwrap();
        assert!(comparison.write_results(None).is_err(), "a folder is in the way");
        assert!(matches!(comparison.told_in_the_page(&folder, stop), Err(Error::Stopped { .. })));
    }

    #[test]
    fn a_comparison_is_not_begun_among_runs_and_goes_on_beside_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for run in ["cells/gsil/seed-0", "start/seed-0"] {
            fs::create_dir_all(path(run)).unwrap();
            fs::write(path(run).join(CONFIG_FILE), "").unwrap();
        }
        fs::write(path(CONFIG_FILE), "somebody's").unwrap();
        let refused = || Comparison::check_free(folder.path()).unwrap_err().to_string();
        assert!(
            refused().ends_with("holds config.ron, as a run's folder does: a comparison in it would take its place")
        );
        fs::remove_file(path(CONFIG_FILE)).unwrap();
        assert!(refused().ends_with("holds cells, which a comparison would write over"), "{}", refused());
        fs::write(path(COMPARE_FILE), "// mine").unwrap();
        assert!(refused().ends_with("holds compare.ron, which a comparison would write over"), "{}", refused());
        fs::write(path(".lock"), "").unwrap();
        assert!(refused().ends_with("holds compare.ron, which a comparison would write over"), "{}", refused());
        fs::write(path(COMPARE_FILE), CompareConfig::default().to_ron().unwrap()).unwrap();
        Comparison::check_free(folder.path()).unwrap();
        let error = free_folder::check_free_for_run(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("is the folder of a comparison: a run in it would take its place"), "{error}");

        fs::create_dir_all(path("runs/night")).unwrap();
        fs::write(path("runs/night").join(CONFIG_FILE), "").unwrap();
        let error = Comparison::check_free(&path("runs")).unwrap_err().to_string();
        assert!(error.ends_with("holds runs: a comparison in it would lie among them"), "{error}");
        fs::create_dir(path("notes")).unwrap();
        fs::write(path("notes").join(FINGERPRINTS_FILE), "mine").unwrap();
        let error = Comparison::check_free(&path("notes")).unwrap_err().to_string();
        assert!(error.ends_with("holds fingerprints.json, which a comparison would write over"), "{error}");
        fs::write(path("notes/.lock"), "").unwrap();
        Comparison::check_free(&path("notes")).unwrap();
        fs::write(path("notes/settings.json"), "{}").unwrap(); // an evaluation's, as is the lock then
        let error = Comparison::check_free(&path("notes")).unwrap_err().to_string();
        assert!(error.ends_with("holds fingerprints.json, which a comparison would write over"), "{error}");
    }

    #[test]
    fn on_a_full_disk_the_comparison_is_moved_and_no_cell_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grid");
        let dir = RunDir::create(Arc::new(Disk), &path).unwrap();
        let plan = Plan { config: CompareConfig::default(), cells: Vec::new(), fingerprints: None };
        let comparison = Comparison { dir, plan, console: Console::stderr() };
        let hint = |error: Error| comparison.with_room_for_all(error).hint().map(str::to_owned);
        let full = Error::DiskFull { path: path.join("cells"), needed_bytes: 2, free_bytes: None, hint: None };
        let advice = hint(full.with_hint("move the run folder to another disk and resume it there")).unwrap();
        assert!(advice.contains(&format!("move the whole folder {}", shell_path(&path))), "{advice}");
        assert!(!advice.contains("the run folder"), "{advice}");
        assert_eq!(hint(Error::device("flex", "is gone").with_hint("mend it")).unwrap(), "mend it");
    }
}
