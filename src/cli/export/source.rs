//! What is exported: a run, with all that its folder tells, at its end or at a checkpoint; or a model alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::formats::file_system::Disk;
use crate::formats::hf_folder;
use crate::formats::hub::{self, Located};
use crate::formats::quantize::Precision;
use crate::formats::safetensors::TensorToWrite;
use crate::model::weights::{stored_tensors_to_write, tensors_to_write};
use crate::policy::Policy;
use crate::records::evaluation::{EVALUATIONS_FILE, EvaluationRow};
use crate::records::run_folder::{CONFIG_FILE, Reached, holds_run, instead_of_comparison, reached};
use crate::report::console::Console;
use crate::train::checkpoint::Saved;
use crate::train::kept;
use crate::train::run_dir::RunDir;
use crate::train::signals::StopRequest;
use crate::train::sources::{is_lost, lost};
use crate::train::task::with_task_paths;

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
    /// Up to the checkpoint.
    pub evaluations: Vec<EvaluationRow>,
    /// None: the run's result is exported.
    pub checkpoint: Option<Saved>,
}

impl Source {
    /// Recognises a run by its `config.ron`, a model by its `config.json`, as a file or by its name on the hub. Of what the
    /// hub has nothing is fetched if `offline`. `checkpoint` names one of the run's, see [`kept::choose`].
    ///
    /// # Errors
    /// [`Error::Input`] if it is neither or does not read, or there is no such checkpoint; [`Error::Usage`] for a checkpoint
    /// of a model; [`Error::Locked`] if the run is in use; see [`hub::model`].
    pub fn open(given: &Path, checkpoint: Option<&str>, offline: bool, console: &Console) -> Result<Self> {
        let Located { path, name } = hub::model(&given.to_string_lossy(), offline, console)?;
        let path = if given.exists() { given } else { &path };
        let run = match holds_run(path) {
            true => Some(Run::open(path, checkpoint, offline, console)?),
            false if path.is_file() || path.join(hf_folder::CONFIG).exists() => None,
            false => {
                let hint = instead_of_comparison(path).unwrap_or_else(|| {
                    "give a run folder (config.ron inside), a Hugging Face folder (config.json inside) or a .gguf file"
                        .to_owned()
                });
                return Err(Error::input(path, "is neither a run nor a model").with_hint(hint));
            }
        };
        let source = Source { path: path.to_owned(), name, run };
        if checkpoint.is_some() {
            source.run("it has no checkpoints")?;
        }
        Ok(source)
    }

    /// What the model is opened from: the aligned model of a run, for a checkpoint what the run began with; else the model
    /// itself.
    ///
    /// # Errors
    /// [`Error::Input`] if the run has not come so far or its model was removed; for a checkpoint see [`Run::base_model`]
    /// and [`Policy::open`].
    pub fn policy(&self, console: &Console) -> Result<Policy> {
        if let Some(run) = self.run.as_ref().filter(|run| run.checkpoint.is_some()) {
            return Policy::open(&run.base_model(console)?);
        }
        Policy::open(&self.path)
    }

    /// Every tensor of the model, `policy` being [`Self::policy`]: read from the disk one at a time as they are written; of a
    /// checkpoint the model is built first, and its adapters are merged. A signal ends the writing between two of them.
    ///
    /// # Errors
    /// [`Error::Stopped`] after a signal;
    /// [`Error::Input`] if the weights, or the checkpoint, do not read or do not belong together.
    pub fn tensors<'a>(&self, policy: &'a Policy, console: &Console) -> Result<Vec<TensorToWrite<'a>>> {
        let stop = StopRequest::listen()?;
        let unless_stopped = |tensor: TensorToWrite<'a>| {
            let stop = stop.clone();
            tensor.checked(move |_, _| stop.check())
        };
        let at_checkpoint = self.run.as_ref().and_then(|run| Some((run, run.checkpoint.as_ref()?)));
        let Some((run, checkpoint)) = at_checkpoint else {
            let stored = stored_tensors_to_write(&policy.files, &policy.config)?;
            return Ok(stored.into_iter().map(unless_stopped).collect());
        };
        let model = kept::load(checkpoint, &run.dir, &run.config, policy, console)?;
        // What is written as F32 is looked at nowhere else.
        let finite = |name: &str, values: &[f32]| Precision::F32.check(name, values);
        Ok(tensors_to_write(&model).into_iter().map(|tensor| unless_stopped(tensor.checked(finite))).collect())
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
    fn open(path: &Path, checkpoint: Option<&str>, offline: bool, console: &Console) -> Result<Self> {
        let dir = RunDir::open_to_read(Arc::new(Disk), path)?;
        let config_path = dir.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&config_path).map_err(Error::reading(&config_path))?;
        let mut config = with_task_paths(&RunConfig::from_ron(&text, &config_path.to_string_lossy())?, &dir);
        config.offline = offline; // a run that began offline binds nobody who exports it later
        let name = checkpoint;
        let checkpoint = name.map(|name| kept::choose(&dir, &config, name)).transpose()?;
        let mut evaluations: Vec<EvaluationRow> = dir.read_lines(EVALUATIONS_FILE)?;
        if let (Some(kept::BEST), Some(saved)) = (name, &checkpoint) {
            match kept::better_than_best(saved, &evaluations, &config, reached(path) == Reached::End) {
                Some(better) => console.warn(better),
                None => console.say(format!("checkpoint {}", saved.folder.display())),
            }
        }
        if let Some(saved) = &checkpoint {
            evaluations.retain(|row| row.total_steps <= saved.progress.total_steps);
        }
        Ok(Run { dir, config, evaluations, checkpoint })
    }

    /// Where the model lies that the run began with.
    ///
    /// # Errors
    /// [`Error::Input`] if it lay on this machine and does no more; see [`hub::model`].
    pub fn base_model(&self, console: &Console) -> Result<PathBuf> {
        let began_with = self.config.model.as_deref().unwrap_or_default();
        if is_lost(began_with) {
            return Err(lost("model", began_with).with_hint("put it back there, or a link to it"));
        }
        Ok(hub::model(began_with, self.config.offline, console)?.path)
    }
}
