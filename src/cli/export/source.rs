//! What is exported: a run, with all that its folder tells, or a model alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::formats::file_system::Disk;
use crate::formats::hub::{self, Located};
use crate::policy::MODEL_FOLDER;
use crate::records::evaluation::{EVALUATIONS_FILE, EvaluationRow};
use crate::report::console::Console;
use crate::train::run_dir::RunDir;
use crate::train::setup::with_task_paths;

/// A model, and the run that made it if there is one.
pub(super) struct Source {
    pub path: PathBuf,
    /// What it is called: the path, or its name on the hub with the commit.
    pub name: String,
    run: Option<Run>,
}

/// A run that nobody else works on meanwhile.
pub(super) struct Run {
    pub dir: RunDir,
    pub config: RunConfig,
    pub evaluations: Vec<EvaluationRow>,
}

impl Source {
    /// Recognises a run by its `config.ron`, a model by its `config.json`, as a file or by its name on the hub. Of what the
    /// hub has nothing is fetched if `offline`.
    ///
    /// # Errors
    /// [`Error::Input`] if it is neither or does not read, [`Error::Locked`] if the run is in use; see [`hub::model`].
    pub fn open(given: &Path, offline: bool, console: &Console) -> Result<Self> {
        let Located { path, name } = hub::model(&given.to_string_lossy(), offline, console)?;
        let path = if given.exists() { given } else { &path };
        let run = match path.join("config.ron").exists() {
            true => Some(Run::open(path, offline)?),
            false if path.is_file() || path.join("config.json").exists() => None,
            false => {
                return Err(Error::input(path, "is neither a run nor a model").with_hint(
                    "give a run folder (config.ron inside), a Hugging Face folder (config.json inside) or a .gguf file",
                ));
            }
        };
        Ok(Source { path: path.to_owned(), name, run })
    }

    /// The aligned model of a run; else the model itself.
    ///
    /// # Errors
    /// [`Error::Input`] if the run has not come so far.
    pub fn model_path(&self) -> Result<PathBuf> {
        let Some(run) = &self.run else { return Ok(self.path.clone()) };
        let folder = run.dir.join(MODEL_FOLDER);
        match folder.exists() {
            true => Ok(folder),
            false => Err(Error::input(&self.path, "the run has no aligned model yet")
                .with_hint(format!("finish it with `gsil resume {}`", self.path.display()))),
        }
    }

    /// The run, for what only a run has; `why` says so to a person who gave a model.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model.
    pub fn run(&self, why: &str) -> Result<&Run> {
        self.run.as_ref().ok_or_else(|| {
            Error::usage(format!("{} is a model, not a run: {why}", self.path.display()))
                .with_hint("give the folder that `gsil train` made")
        })
    }

    /// The run, if there is one.
    pub fn as_run(&self) -> Option<&Run> {
        self.run.as_ref()
    }
}

impl Run {
    fn open(path: &Path, offline: bool) -> Result<Self> {
        let dir = RunDir::open(Arc::new(Disk), path)?;
        let config_path = dir.join("config.ron");
        let text = std::fs::read_to_string(&config_path).map_err(Error::reading(&config_path))?;
        let mut config = with_task_paths(&RunConfig::from_ron(&text, &config_path.to_string_lossy())?, &dir);
        config.offline |= offline;
        let evaluations = dir.read_lines(EVALUATIONS_FILE)?;
        Ok(Run { dir, config, evaluations })
    }
}
