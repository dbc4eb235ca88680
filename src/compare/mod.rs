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
//! is nothing left to do. Next: [`plan`], [`outcome`], [`bootstrap`].

pub mod bootstrap;
pub mod outcome;
mod page;
pub mod plan;
mod summary;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::config::{CompareConfig, RunConfig};
use crate::error::{Error, Result};
use crate::formats::atomic_write::{create_folder, folder_of, remove, write_json};
use crate::formats::file_system::Disk;
use crate::model::CausalLm;
use crate::policy::MODEL_FOLDER;
use crate::records::run_folder::{COMPARE_FILE, holds_run};
use crate::report::console::Console;
use crate::train::changes::{CHANGEABLE, Changes, differences};
use crate::train::results_if_finished;
use crate::train::run_dir::RunDir;
use crate::train::setup::Run;
use outcome::Outcome;
use plan::{Cell, Plan, Start, cell_folder, start_folder};
pub use summary::markdown as results;

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
    /// [`Error::Config`] that names what changed, if another comparison was begun there; [`Error::Locked`], [`Error::Disk`].
    pub fn open(plan: Plan, output: &Path, console: Console) -> Result<Self> {
        let dir = RunDir::create(Arc::new(Disk), output)?;
        if let Some(begun) = begun_in(output)? {
            let has_run =
                |method: usize| begun.seeds.iter().any(|seed| holds_run(&dir.join(cell_folder(&begun, method, *seed))));
            let changed = check_unchanged(&begun, &plan.config, &has_run).map_err(|refused| {
                let path = dir.join(COMPARE_FILE);
                let message = format!("the comparison was begun with other settings: {refused}");
                let free: Vec<&str> = CHANGEABLE.into_iter().filter(|key| may_change(key)).collect();
                Error::config(path.to_string_lossy(), message).with_hint(format!(
                    "undo the change, or choose another --output; seeds and methods may be added, and in `base` may change: {}",
                    free.join(", ")
                ))
            })?;
            changed.iter().for_each(|change| console.say(format!("changed    {change}")));
        }
        dir.write(COMPARE_FILE, &plan.config.to_ron()?)?;
        Ok(Comparison { dir, plan, console })
    }

    /// Runs what is not finished, of one method if `only` names it, and writes the results after every cell. A cell that
    /// must not be trained on is left, and told of in the results.
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
            let name = &self.plan.config.methods[cell.method].name;
            self.console.say(format!("\ncell {} of {}: {name}, seed {}", i + 1, cells.len(), cell.seed));
            match self.run_cell(cell, &folder) {
                Ok(()) => remove(&Disk, &folder.join(FAILED_FILE))?,
                Err(error @ Error::Training { .. }) => {
                    self.console.warn(format!("{name}, seed {}: {error}", cell.seed));
                    create_folder(&Disk, &folder)?; // there is none if it was the start that failed
                    write_json(&Disk, &folder.join(FAILED_FILE), &json!({"message": error.to_string()}))?;
                    failed.push(format!("{name}, seed {}", cell.seed));
                }
                Err(error) => return Err(error),
            }
            self.write_results()?;
        }
        let outcome = self.write_results()?;
        match failed.is_empty() {
            true => Ok(outcome),
            false => {
                Err(Error::training(format!("{} of {} cells failed: {}", failed.len(), cells.len(), failed.join("; ")))
                    .with_hint(format!("the results of the others are in {}", self.dir.path().display())))
            }
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
        assert!(
            !self.plan.config.equal_updates || num_updates == cell.num_updates,
            "{num_updates} updates were made, {} planned",
            cell.num_updates
        );
        self.mark_finished(folder, num_updates, &[MODEL_FOLDER, "checkpoints"])
    }

    /// The start of a seed's cells, made if it is not there.
    fn start(&self, seed: u64) -> Result<Start> {
        let folder = self.dir.join(start_folder(seed));
        if !folder.join(FINISHED_FILE).exists() {
            self.console.say(format!("the start of seed {seed}"));
            let num_updates = self.complete(&folder, Start::config(&self.plan.config, seed), None)?;
            self.mark_finished(&folder, num_updates, &["checkpoints"])?;
        }
        let folder = fs::canonicalize(&folder).map_err(Error::reading(&folder))?;
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

    fn write_results(&self) -> Result<Outcome> {
        let outcome = Outcome::read(&self.plan, self.dir.path())?;
        summary::write(&self.dir, &outcome)?;
        Ok(outcome)
    }
}

/// What the comparison in a folder was asked for; None if none was begun there, or nothing of it has run: then nothing
/// depends on its settings.
///
/// # Errors
/// [`Error::Input`] and [`Error::Config`] for a file that does not read.
pub fn begun_in(folder: &Path) -> Result<Option<CompareConfig>> {
    let path = folder.join(COMPARE_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(Error::reading(&path))?;
    let begun = CompareConfig::from_ron(&text, &path.to_string_lossy())?;
    let has_run = begun.seeds.iter().any(|seed| {
        let cells = (0..begun.methods.len()).map(|method| cell_folder(&begun, method, *seed));
        cells.chain([start_folder(*seed)]).any(|run| holds_run(&folder.join(run)))
    });
    Ok(has_run.then_some(begun))
}

/// How far the run in a cell's folder is, in a word.
pub fn state_of_cell(folder: &Path) -> &'static str {
    match (folder.join(FINISHED_FILE).exists(), folder.join(FAILED_FILE).exists(), holds_run(folder)) {
        (true, ..) => "done",
        (_, true, _) => "failed",
        (_, _, true) => "begun",
        _ => "to do",
    }
}

/// Whether a setting of the base may change once something has run: what may change in a resumed run, but for the number of
/// updates, which finished cells have made.
fn may_change(key: &str) -> bool {
    key != "train.epochs" && CHANGEABLE.contains(&key)
}

/// What has changed and may, in words; as an error what must not change once a comparison was begun. More seeds and methods
/// leave its cells as they are, and so does another method in place of one that has not run: it may be one that cannot.
fn check_unchanged(
    begun: &CompareConfig,
    now: &CompareConfig,
    has_run: &dyn Fn(usize) -> bool,
) -> std::result::Result<Vec<String>, String> {
    let base = differences(&begun.base, &now.base).map_err(|error| error.to_string())?;
    let (changed, refused): (Vec<_>, Vec<_>) = base.iter().partition(|difference| may_change(&difference.key));
    let in_words = |difference| format!("base.{difference}");
    if !refused.is_empty() {
        return Err(refused.into_iter().map(in_words).collect::<Vec<_>>().join("; "));
    }
    if begun.equal_updates != now.equal_updates {
        return Err(format!("equal_updates: {}, now {}", begun.equal_updates, now.equal_updates));
    }
    if let Some(seed) = begun.seeds.iter().find(|seed| !now.seeds.contains(seed)) {
        return Err(format!("seeds: {seed} is gone"));
    }
    for (_, method) in begun.methods.iter().enumerate().filter(|(i, _)| has_run(*i)) {
        match now.methods.iter().find(|own| own.name == method.name) {
            None => return Err(format!("methods: `{}` is gone", method.name)),
            Some(own) if own.set != method.set => {
                return Err(format!("method `{}`: {:?}, now {:?}", method.name, method.set, own.set));
            }
            Some(_) => {}
        }
    }
    Ok(changed.into_iter().map(in_words).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Method;

    fn config() -> CompareConfig {
        let method = |name: &str| Method { name: name.to_owned(), set: vec!["train.lr=1".to_owned()] };
        CompareConfig { methods: vec![method("a"), method("b")], ..CompareConfig::default() }
    }

    #[test]
    fn seeds_and_methods_may_be_added_and_all_else_is_refused_by_name() {
        type Change = fn(&mut CompareConfig);
        let allowed: [Change; 4] = [
            |c| c.seeds.insert(0, 9),
            |c| c.methods.insert(0, Method { name: "c".to_owned(), set: Vec::new() }),
            |c| c.baseline = Some("b".to_owned()),
            |c| c.keep_models = false,
        ];
        let refused: [(Change, &str); 5] = [
            (|c| c.base.train.epochs = 2, "base.train.epochs: 1, now 2"),
            (|c| c.seeds = vec![0, 1], "seeds: 2 is gone"),
            (|c| drop(c.methods.pop()), "methods: `b` is gone"),
            (|c| c.methods[1].set.clear(), "method `b`: [\"train.lr=1\"], now []"),
            (|c| c.equal_updates = false, "equal_updates: true, now false"),
        ];
        for change in allowed {
            let mut now = config();
            change(&mut now);
            assert_eq!(check_unchanged(&config(), &now, &|_| true), Ok(Vec::new()));
        }
        for (change, expected) in refused {
            let mut now = config();
            change(&mut now);
            assert_eq!(check_unchanged(&config(), &now, &|_| true), Err(expected.to_owned()));
        }
        let (mut changed, mut gone) = (config(), config());
        changed.methods[1].set.clear();
        gone.methods.pop();
        for now in [changed, gone] {
            assert_eq!(check_unchanged(&config(), &now, &|method| method == 0), Ok(Vec::new()), "`b` has not run");
        }
    }

    #[test]
    fn what_a_resumed_run_may_change_may_change_in_the_base_and_is_told() {
        let mut now = config();
        now.base.save_every = 7;
        now.base.train.micro_batch_size = 1;
        let told = ["base.save_every: 50, now 7", "base.train.micro_batch_size: 2, now 1"].map(str::to_owned);
        assert_eq!(check_unchanged(&config(), &now, &|_| true), Ok(told.to_vec()));
        now.base.seed = 3;
        let refused = "base.seed: 0, now 3".to_owned();
        assert_eq!(check_unchanged(&config(), &now, &|_| true), Err(refused), "the others are not to blame");
    }
}
