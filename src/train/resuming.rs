//! Going on with a run that was stopped: it is what it was when it began, and what it wrote after its checkpoint is forgotten.

use std::path::Path;
use std::sync::Arc;

use super::changes::{Changes, differences};
use super::checkpoint::{self, Progress};
use super::environment::{self, Kept, began_with, check_same_base, check_same_held_out, check_same_rows};
use super::run_dir::RunDir;
use super::setup::{Opened, Run};
use super::sources::{Sources, is_lost, lost};
use super::task::with_task_paths;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::formats::file_system::{Disk, FileSystem};
use crate::model::CausalLm;
use crate::records::run_folder::CONFIG_FILE;
use crate::records::self_generation::iteration_of_folder;
use crate::records::stage::Stage;
use crate::report::console::Console;
use crate::report::shell::shell_path;

impl Run {
    /// Prepares to continue the run in `path`, with other settings if `changes` allows them.
    ///
    /// # Errors
    /// As [`Self::start`]; if the folder holds no run, or one whose checkpoints were removed; and for settings that must not
    /// change in the middle of a run.
    pub fn resume(path: &Path, changes: &Changes, console: Console) -> Result<(Self, CausalLm)> {
        Self::resume_on(Arc::new(Disk), path, changes, console)
    }

    /// [`Self::resume`] on another file system.
    ///
    /// # Errors
    /// As there.
    pub fn resume_on(
        files: Arc<dyn FileSystem>,
        path: &Path,
        changes: &Changes,
        console: Console,
    ) -> Result<(Self, CausalLm)> {
        let dir = RunDir::open(files, path)?;
        let config_path = dir.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&config_path).map_err(Error::reading(&config_path))?;
        let written = RunConfig::from_ron(&text, &config_path.to_string_lossy())?;
        let mut config = changes.apply_to(&written)?;
        let began_with = began_with(&dir)?.unwrap_or_else(|| written.clone());
        let kept = environment::kept(&dir)?;
        let is_changed = changes.check(began_with, &config, &kept)?;
        check_places(&config, &kept, path)?;
        let resumed = checkpoint::load_newest(&dir, &|problem| console.warn(problem))?;
        let wanted = RunConfig { offline: config.offline || changes.offline, ..with_task_paths(&config, &dir) };
        let Sources { pinned, local } =
            Sources::find(&wanted, &console).map_err(|error| to_be_fetched(error, &config, changes, path))?;
        if config.word_problems.is_none() {
            (config.model, config.data, config.evaluation.data) = (pinned.model, pinned.data, pinned.evaluation.data);
        }
        // After a kill between the two writes of `keep_changes` only `env.json` has the new settings.
        let has_new_settings = is_changed || !differences(&written, &config)?.is_empty();
        let mut opened = Opened::open(&local, true, &console)?;
        check_same_rows(&dir, &opened.inputs.examples)?;
        check_same_held_out(&dir, &opened.inputs.held_out.examples)?;
        if config.lora.is_some() {
            check_same_base(&dir, &opened.model, &opened.inputs.policy.files.path)?;
        }
        Self::forget_what_follows(&dir, resumed.as_ref().map(|saved| &saved.progress))?;
        if let Some(saved) = &resumed {
            opened.model = saved.load_parameters(opened.model)?;
            console.say(format!("continuing at {}, update {}", saved.progress.stage, saved.progress.stage_steps));
        }
        let (mut run, model) = opened.into_run(config, dir, console, resumed)?;
        run.has_new_settings = has_new_settings;
        // In the middle of a stage its new length may be refused yet, once its pairs are known: see `Run::fit`.
        if run.resumed.as_ref().is_none_or(|saved| saved.progress.stage_steps == 0) {
            run.keep_changes()?;
        }
        Ok((run, model))
    }

    /// Writes down the settings that a resumed run was given, once they are accepted.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Input`] if `env.json` does not read.
    pub(super) fn keep_changes(&mut self) -> Result<()> {
        if std::mem::take(&mut self.has_new_settings) {
            let config = self.config.to_ron()?;
            // In this order: what the run began with must be known before its settings are others.
            environment::keep_settings(&self.dir, &config)?;
            self.dir.write(CONFIG_FILE, &config)?;
        }
        Ok(())
    }

    /// Removes what the run wrote after its checkpoint: it is made again.
    fn forget_what_follows(dir: &RunDir, progress: Option<&Progress>) -> Result<()> {
        Self::forget_updates_after(dir, progress.map_or(0, |progress| progress.total_steps))?;
        let num_begun = match progress.map(|progress| progress.stage) {
            None | Some(Stage::Sft) => 0,
            Some(Stage::Iteration(iteration)) => iteration + 1,
            Some(Stage::ContinuedSft | Stage::Done) => return Ok(()),
        };
        if num_begun == 0 {
            super::START_FILES.iter().try_for_each(|name| dir.remove(name))?;
        }
        let is_later = |name: &str| iteration_of_folder(name).is_some_and(|iteration| iteration >= num_begun);
        dir.list("", is_later)?.iter().try_for_each(|name| dir.remove(name))
    }
}

/// Says how a run that began offline fetches what the cache lacks by now: its settings keep `offline`. Beside other changes
/// something else may be wrong.
fn to_be_fetched(error: Error, config: &RunConfig, changes: &Changes, dir: &Path) -> Error {
    match error {
        // A comparison gives the settings of its cells itself.
        Error::Input { .. } if config.offline && changes.settings.is_none() && changes.overrides.is_empty() => error
            .with_hint(format!("the run began offline; to fetch it: gsil resume {} offline=false", shell_path(dir))),
        _ => error,
    }
}

/// A run names its model and its data by where they lay when it began. They may lie elsewhere now where it has `kept` what tells
/// other ones.
fn check_places(config: &RunConfig, kept: &Kept, dir: &Path) -> Result<()> {
    let places = [("model", &config.model), ("data", &config.data), ("evaluation.data", &config.evaluation.data)];
    let found =
        places.into_iter().find_map(|(key, place)| Some((key, place.as_deref().filter(|place| is_lost(place))?)));
    match found {
        None => Ok(()),
        Some((key, place)) => {
            let hint = match kept.tells(key, config) {
                true => format!("if it was moved: gsil resume {} {key}=NEW_PLACE", shell_path(dir)),
                false => "put it back there, or a link to it: this run of an older version cannot tell another one"
                    .to_owned(),
            };
            Err(lost(key, place).with_hint(hint))
        }
    }
}
