//! Checkpoints: everything that `gsil resume` continues from, written as one set.
//!
//! A set is written under a temporary name and renamed when complete; then `latest` is replaced. The trained parameters and
//! the optimizer's moments are f32 as they are in memory, so a resumed run computes the same bits on a CPU.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

use super::optimizer::Optimizer;
use super::run_dir::RunDir;
use crate::error::{Error, Result};
use crate::formats::atomic_write::{replace_file, sync_folder};
use crate::formats::safetensors::{HostTensor, open_safetensors, write_safetensors};
use crate::model::{CausalLm, weights};

/// The layout of a checkpoint folder; a newer one is refused.
const VERSION: u32 = 1;
/// How many checkpoints are kept.
const KEEP_LAST: usize = 3;

/// A part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The supervised stage before the first iteration.
    Sft,
    /// Generate, score, train.
    Iteration(usize),
    /// Plain supervised training from the start of iteration 0, for comparison.
    ContinuedSft,
    /// Nothing left to do.
    Done,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stage::Sft => write!(f, "sft"),
            Stage::Iteration(iteration) => write!(f, "iteration {iteration}"),
            Stage::ContinuedSft => write!(f, "continued sft"),
            Stage::Done => write!(f, "done"),
        }
    }
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    pub version: u32,
    pub stage: Stage,
    /// Updates done in this stage.
    pub stage_steps: usize,
    /// Updates done in the whole run.
    pub total_steps: usize,
}

impl Progress {
    /// The start of a stage.
    pub fn at(stage: Stage, total_steps: usize) -> Self {
        Progress { version: VERSION, stage, stage_steps: 0, total_steps }
    }
}

/// Writes a checkpoint and makes it the latest. Older ones beyond the newest three are removed afterwards.
///
/// # Errors
/// [`Error::Disk`], [`Error::Device`]. The previous checkpoint is then intact.
pub fn save(run_dir: &RunDir, progress: &Progress, model: &CausalLm, optimizer: Option<&Optimizer>) -> Result<()> {
    let folder = run_dir.join("checkpoints");
    fs::create_dir_all(&folder).map_err(Error::writing("create", &folder))?;
    let name = format!("step-{:06}-{}", progress.total_steps, progress.stage.to_string().replace(' ', "-"));
    let target = folder.join(&name);
    remove_leftovers(&folder)?;
    let temporary = folder.join(format!(".{name}.tmp"));
    if let Err(error) = write_set(&temporary, progress, model, optimizer) {
        // The first error is the one to report; a leftover is removed at the next save.
        let _ = remove(&temporary);
        return Err(error);
    }
    if target.exists() {
        // The same moment of the run, saved again: the old set stays readable until the new one is in place.
        let old = folder.join(format!(".{name}.old"));
        fs::rename(&target, &old).map_err(Error::writing("move aside", &target))?;
    }
    fs::rename(&temporary, &target).map_err(Error::writing("put in place", &target))?;
    sync_folder(&folder)?;
    run_dir.write("latest", &name)?;
    remove_leftovers(&folder)?;
    remove_old(&folder, &name)
}

fn write_set(temporary: &Path, progress: &Progress, model: &CausalLm, optimizer: Option<&Optimizer>) -> Result<()> {
    fs::create_dir(temporary).map_err(Error::writing("create", temporary))?;
    let no_metadata = BTreeMap::new();
    write_safetensors(
        &temporary.join("parameters.safetensors"),
        weights::trained_tensors_to_write(model),
        &no_metadata,
    )?;
    if let Some(optimizer) = optimizer {
        let tensors = optimizer.to_host()?.into_iter().map(Into::into).collect();
        write_safetensors(&temporary.join("optimizer.safetensors"), tensors, &no_metadata)?;
    }
    let state = temporary.join("state.json");
    replace_file(&state, |file| {
        serde_json::to_writer(file, progress).map_err(std::io::Error::from).map_err(Error::writing("write", &state))
    })
}

/// Where the run stands, from its latest checkpoint. None if it has none yet.
///
/// # Errors
/// [`Error::Input`] if the checkpoint does not read or is of a newer version.
pub fn load_progress(run_dir: &RunDir) -> Result<Option<(Progress, PathBuf)>> {
    let latest = run_dir.join("latest");
    let name = match fs::read_to_string(&latest) {
        Ok(name) => name,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::reading(&latest)(error)),
    };
    let mut folder = run_dir.join("checkpoints").join(name.trim());
    if !folder.exists() {
        // A crash between the two renames of a repeated save: the old set still has its hidden name.
        folder = run_dir.join("checkpoints").join(format!(".{}.old", name.trim()));
    }
    Ok(Some((read_state(&folder)?, folder)))
}

fn read_state(folder: &Path) -> Result<Progress> {
    let state = folder.join("state.json");
    let text = fs::read_to_string(&state).map_err(Error::reading(&state))?;
    let progress: Progress = serde_json::from_str(&text).map_err(|e| Error::input(&state, e.to_string()))?;
    if progress.version > VERSION {
        return Err(Error::input(
            &state,
            format!("version {} is newer than this program's {VERSION}", progress.version),
        )
        .with_hint("resume with the gsil that wrote it, or a newer one"));
    }
    Ok(progress)
}

/// The file of the parameters that a run's aligned model was made of. With `compares_sft` the last stage trained another
/// model, and the checkpoint before it is the one.
///
/// # Errors
/// [`Error::Input`] if the run did not come so far, or that checkpoint is gone.
pub fn aligned_parameters(run_dir: &RunDir, compares_sft: bool) -> Result<PathBuf> {
    let folder = run_dir.join("checkpoints");
    let stage = if compares_sft { Stage::ContinuedSft } else { Stage::Done };
    for (_, path) in list(&folder, |name| !name.starts_with('.'))? {
        let progress = read_state(&path)?;
        if progress.stage == stage && progress.stage_steps == 0 {
            return Ok(path.join("parameters.safetensors"));
        }
    }
    let hint = "finish the run with `gsil resume`; where it is finished, `--format hf` exports the merged model";
    Err(Error::input(&folder, "no checkpoint is that of the aligned model").with_hint(hint))
}

/// Puts a file's parameters into the model.
///
/// # Errors
/// [`Error::Input`] if the file does not read or is of another model.
pub fn load_parameters(path: &Path, model: CausalLm) -> Result<CausalLm> {
    let mut tensors: BTreeMap<String, TensorData> = read_tensors(path)?
        .into_iter()
        .map(|tensor| (tensor.name, TensorData::new(tensor.values, tensor.shape)))
        .collect();
    let expected = tensors.len();
    let (model, replaced) = model.with_parameters(&mut |name, shape| {
        let fits = tensors.get(name).is_some_and(|data| data.shape().as_slice() == shape);
        if fits { tensors.remove(name) } else { None }
    });
    if replaced != expected {
        let odd = tensors.keys().next().cloned().unwrap_or_default();
        return Err(Error::input(path, "does not belong to this model").at(format!("tensor `{odd}`")));
    }
    Ok(model)
}

/// Puts a checkpoint's moments into the optimizer.
///
/// # Errors
/// [`Error::Input`] if the file does not read or is of another optimizer.
pub fn load_optimizer(folder: &Path, num_updates: usize, optimizer: &mut Optimizer, model: &CausalLm) -> Result<()> {
    let tensors = read_tensors(&folder.join("optimizer.safetensors"))?;
    optimizer.load_host(num_updates as u64, tensors, &model.device())
}

fn read_tensors(path: &Path) -> Result<Vec<HostTensor>> {
    let file = open_safetensors(path)?;
    let read = |name: &str| {
        let shape = file.shape(name).unwrap_or_default().to_vec();
        Ok(HostTensor { name: name.to_owned(), shape, values: file.read_f32(name)? })
    };
    file.names().map(read).collect()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::writing("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Everything in the folder whose name fits, with the time of its writing.
fn list(folder: &Path, fits: impl Fn(&str) -> bool) -> Result<Vec<(SystemTime, PathBuf)>> {
    let entries = fs::read_dir(folder).map_err(Error::writing("list", folder))?;
    Ok(entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| fits(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect())
}

/// Removes what an interrupted save left behind: hidden names, unless one of them is all that is left of a checkpoint.
fn remove_leftovers(folder: &Path) -> Result<()> {
    let replaced = |name: &str| name.strip_prefix('.').and_then(|n| n.strip_suffix(".old")).map(|n| folder.join(n));
    let is_leftover = |name: &str| name.ends_with(".tmp") || replaced(name).is_some_and(|target| target.exists());
    list(folder, |name| name.starts_with('.') && is_leftover(name))?.iter().try_for_each(|(_, path)| remove(path))
}

/// Keeps the newest checkpoints by time of writing; `newest` is never touched.
fn remove_old(folder: &Path, newest: &str) -> Result<()> {
    let mut others = list(folder, |name| name != newest && !name.starts_with('.'))?;
    others.sort();
    let num_old = others.len().saturating_sub(KEEP_LAST - 1);
    others[..num_old].iter().try_for_each(|(_, path)| remove(path))
}
