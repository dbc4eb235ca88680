//! Checkpoints: everything that `gsil resume` continues from, written as one set.
//!
//! ```text
//! .NAME.tmp/  each file written and synced -> MANIFEST -> folder synced -> renamed to NAME/ -> parent synced
//! latest      replaced: from here on the run has a checkpoint, or somebody removed it
//! NAME/       read back; only then are older sets removed
//! ```
//! The trained parameters and the optimizer's moments are f32 as they are in memory, so a resumed run computes the same bits
//! on a CPU. Where a run stands when one is written: [`Progress`]. Which sets are kept: [`super::retention`].

mod progress;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use serde_json::Value;

use super::manifest::{self, SetWriter};
use super::optimizer::Optimizer;
use super::retention::{self, Keep};
use super::run_dir::RunDir;
use crate::error::{Error, Result};
use crate::formats::atomic_write::{create_folder, remove, sync_folder};
use crate::formats::safetensors::{HostTensor, TensorToWrite, open_safetensors, write_tensors};
use crate::model::{CausalLm, weights};
use crate::records::run_folder::{
    LATEST_FILE, RESTORE_CHECKPOINTS, Reached, is_checkpoint, is_whole_checkpoint, reached,
};
use progress::{Order, VERSION};

pub(super) use crate::records::run_folder::CHECKPOINTS_FOLDER as FOLDER;
pub use progress::Progress;

const STATE: &str = "state.json";
const PARAMETERS: &str = "parameters.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";

/// A checkpoint on disk.
#[derive(Debug, Clone)]
pub struct Saved {
    pub progress: Progress,
    pub folder: PathBuf,
}

/// Writes a checkpoint, makes it the latest, reads it back, and removes those that `keep` does not want.
///
/// # Errors
/// [`Error::Training`] for a number that is not finite, [`Error::Disk`], [`Error::DiskFull`], [`Error::Device`]. The previous
/// checkpoint is then intact.
pub fn save(
    run_dir: &RunDir,
    progress: &Progress,
    model: &CausalLm,
    optimizer: Option<&Optimizer>,
    keep: Keep,
) -> Result<()> {
    let files = run_dir.files();
    let folder = run_dir.create_folder(FOLDER)?;
    let name = progress.name();
    let (target, old) = (folder.join(&name), folder.join(moved_aside(&name)));
    for leftover in run_dir.list(FOLDER, |name| is_checkpoint(name) && !is_whole_checkpoint(name))? {
        remove(files, &folder.join(leftover))?;
    }
    let temporary = folder.join(format!(".{name}.tmp"));
    if let Err(error) = write_set(run_dir, &temporary, progress, model, optimizer) {
        // The first error is the one to report; a leftover is removed at the next save.
        let _ = remove(files, &temporary);
        let trained = weights::num_trained_parameters(model) as u64;
        return Err(run_dir.with_space(error, num_bytes(trained, optimizer)));
    }
    if target.exists() {
        // The same moment of the run, saved again: the old set stays readable until the new one is in place.
        remove(files, if manifest::verify(&target).is_ok() { &old } else { &target })?;
        if target.exists() {
            files.rename(&target, &old).map_err(Error::writing("move aside", &target))?;
        }
    }
    files.rename(&temporary, &target).map_err(Error::writing("put in place", &target))?;
    sync_folder(files, &folder)?;
    run_dir.write(LATEST_FILE, &name)?;
    manifest::verify(&target).map_err(|error| not_read_back(&target, &error))?;
    remove(files, &old)?;
    retention::remove_unwanted(run_dir, progress, keep)
}

fn not_read_back(target: &Path, error: &Error) -> Error {
    let source = io::Error::other(format!("it does not read back as it was written: {error}"));
    Error::writing("save", target)(source)
}

fn write_set(
    run_dir: &RunDir,
    temporary: &Path,
    progress: &Progress,
    model: &CausalLm,
    optimizer: Option<&Optimizer>,
) -> Result<()> {
    create_folder(run_dir.files(), temporary)?;
    let mut set = SetWriter::new(run_dir.files(), temporary);
    let mut write = |name: &str, tensors: Vec<TensorToWrite>| {
        let tensors = tensors.into_iter().map(|tensor| tensor.checked(check_finite)).collect();
        set.write(name, |file, path| write_tensors(file, path, tensors, &BTreeMap::new()))
    };
    write(PARAMETERS, weights::trained_tensors_to_write(model))?;
    if let Some(optimizer) = optimizer {
        write(OPTIMIZER, optimizer.tensors_to_write())?;
    }
    set.write(STATE, |file, path| {
        serde_json::to_writer(file, progress).map_err(io::Error::from).map_err(Error::writing("write", path))
    })?;
    set.finish()
}

/// The last gate before the disk: the update after the last finite loss may have ruined a weight.
///
/// # Errors
/// [`Error::Training`] that names the tensor.
pub(super) fn check_finite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Error::training(format!("`{name}` is not finite any more: value {i} is {}", values[i]))
            .with_hint("nothing was saved, the last checkpoint is intact")),
    }
}

/// The size of a checkpoint of so many trained numbers, a little more than the values alone.
pub fn num_bytes(trained_numbers: u64, optimizer: Option<&Optimizer>) -> u64 {
    const BESIDES: u64 = 64 << 10; // names and shapes, state, manifest
    4 * trained_numbers * (1 + optimizer.map_or(0, Optimizer::num_averages)) + BESIDES
}

/// The newest checkpoint that is whole; None if the run has none yet. What stands in its way is told to `warn`.
///
/// # Errors
/// [`Error::Input`] if there are checkpoints and none is whole, if all were removed, or if one is of a newer version.
pub fn load_newest(run_dir: &RunDir, warn: &dyn Fn(String)) -> Result<Option<Saved>> {
    run_dir.list(FOLDER, is_checkpoint)?.iter().try_for_each(|name| refuse_newer(&run_dir.join(FOLDER).join(name)))?;
    let mut first_problem = None;
    for found in all(run_dir)?.into_iter().rev() {
        match found.and_then(|saved| check(&saved).map(|()| saved)) {
            Ok(saved) => {
                if first_problem.is_some() {
                    warn(format!("falling back to an older checkpoint, {}", saved.folder.display()));
                }
                return Ok(Some(saved));
            }
            Err(problem) => {
                warn(format!("a checkpoint is damaged: {problem}"));
                first_problem.get_or_insert(problem);
            }
        }
    }
    match first_problem {
        Some(problem) => {
            Err(problem.with_hint("no checkpoint of this run is whole; restore one from a backup, or start a new run"))
        }
        None if reached(run_dir.path()) != Reached::Nothing => {
            Err(Error::input(run_dir.join(FOLDER), "its checkpoints are gone; all else of the run is as it was")
                .with_hint(RESTORE_CHECKPOINTS))
        }
        None => Ok(None),
    }
}

/// The checkpoint in a folder, verified.
///
/// # Errors
/// [`Error::Input`] if it is damaged or of a newer version.
pub(super) fn open(folder: &Path) -> Result<Saved> {
    refuse_newer(folder)?;
    let saved = read_state(folder)?;
    check(&saved)?;
    Ok(saved)
}

/// Every checkpoint, the oldest first. One whose state does not read stands where its name says.
pub(super) fn all(run_dir: &RunDir) -> Result<Vec<Result<Saved>>> {
    let names = run_dir.list(FOLDER, is_whole_checkpoint)?;
    let mut found: Vec<_> = names
        .iter()
        .map(|name| {
            let saved = read_state(&run_dir.join(FOLDER).join(name));
            let order = saved.as_ref().map_or_else(|_| steps_in_name(name), |saved| saved.progress.order());
            // Of two sets of one moment the one with its final name is the newer.
            ((order, !name.starts_with('.')), saved)
        })
        .collect();
    found.sort_by_key(|(order, _)| *order);
    Ok(found.into_iter().map(|(_, saved)| saved).collect())
}

/// The place in the order of a set of which nothing but the name is known.
fn steps_in_name(name: &str) -> Order {
    let steps = name.split('-').nth(1).and_then(|steps| steps.parse().ok());
    (steps.unwrap_or(0), (usize::MAX, 0), 0)
}

/// The name of a set that is about to be replaced.
fn moved_aside(name: &str) -> String {
    format!(".{name}.old")
}

fn refuse_newer(folder: &Path) -> Result<()> {
    let path = folder.join(STATE);
    let state: Value = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    match state["version"].as_u64() {
        Some(version) if version > u64::from(VERSION) => {
            Err(Error::input(&path, format!("version {version} is newer than this program's {VERSION}"))
                .with_hint("use the gsil that wrote it, or a newer one"))
        }
        _ => Ok(()),
    }
}

fn read_state(folder: &Path) -> Result<Saved> {
    let path = folder.join(STATE);
    let text = fs::read_to_string(&path).map_err(Error::reading(&path))?;
    let progress = serde_json::from_str(&text).map_err(|error| Error::input(&path, error.to_string()))?;
    Ok(Saved { progress, folder: folder.to_owned() })
}

/// Version 1 has no manifest: its files are opened to see whether they are whole.
fn check(saved: &Saved) -> Result<()> {
    if !saved.progress.is_version_1() {
        return manifest::verify(&saved.folder);
    }
    let optimizer = saved.folder.join(OPTIMIZER);
    open_safetensors(&saved.parameters())?;
    if optimizer.exists() { open_safetensors(&optimizer).map(drop) } else { Ok(()) }
}

impl Saved {
    /// Puts the trained parameters into the model.
    ///
    /// # Errors
    /// As [`load_parameters`].
    pub fn load_parameters(&self, model: CausalLm) -> Result<CausalLm> {
        load_parameters(&self.parameters(), model)
    }

    /// The file of the trained parameters.
    pub fn parameters(&self) -> PathBuf {
        self.folder.join(PARAMETERS)
    }

    /// Puts the moments into the optimizer.
    ///
    /// # Errors
    /// [`Error::Input`] if the file does not read or is of another optimizer.
    pub fn load_optimizer(&self, optimizer: &mut Optimizer, model: &CausalLm) -> Result<()> {
        let path = self.folder.join(OPTIMIZER);
        if !path.exists() {
            return Err(Error::input(
                &self.folder,
                "ends its stage and keeps no optimizer: the stage cannot become longer",
            )
            .with_hint("resume it as it was, or start a new run from its model"));
        }
        let tensors = read_tensors(&path)?;
        optimizer.load_host(self.progress.stage_steps as u64, tensors, &model.device())
    }
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
    let num_trained = weights::trained_tensors_to_write(&model).len();
    if expected != num_trained {
        let message = format!("has {expected} tensors, and this model trains {num_trained}");
        return Err(Error::input(path, message).with_hint("it is of another model, or of other adapters"));
    }
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

fn read_tensors(path: &Path) -> Result<Vec<HostTensor>> {
    let file = open_safetensors(path)?;
    let read = |name: &str| {
        let shape = file.shape(name).unwrap_or_default().to_vec();
        Ok(HostTensor { name: name.to_owned(), shape, values: file.read_f32(name)? })
    };
    file.names().map(read).collect()
}
