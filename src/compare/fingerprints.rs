//! What the model and the rows of a comparison are: cells that are made later must have those of the first ones. What is
//! on the hub is known by its commit; what is on this machine, by a hash of its content.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::data::data_folder::{Split, files_of};
use crate::error::{Error, Result};
use crate::formats::fingerprint::fingerprint;
use crate::formats::open_model;
use crate::policy::aligned_model;
use crate::train::run_data::held_out_files;
use crate::train::run_dir::RunDir;

/// In a comparison's folder. Those of the first versions have none.
pub(super) const FINGERPRINTS_FILE: &str = "fingerprints.json";

/// Hashes of files of this machine; None for what the comparison makes itself and what is on the hub.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprints {
    pub model: Option<String>,
    pub data: Option<String>,
    /// Of no file, where the first rows of the data are judged on.
    pub held_out: Option<String>,
}

impl Fingerprints {
    /// Reads every file that the base names.
    ///
    /// # Errors
    /// [`Error::Input`] for what is no model or no data, or cannot be read.
    pub fn of(base: &RunConfig) -> Result<Self> {
        let (data, judged_on) = (base.data.as_deref(), base.evaluation.data.as_deref());
        let held_out = |_: &Path| held_out_files(judged_on, Path::new(data.unwrap_or_default()));
        Ok(Fingerprints {
            model: of_local(base.model.as_deref(), |path| Ok(open_model(&aligned_model(path)?)?.paths()))?,
            data: of_local(data, |path| files_of(path, Split::Train))?,
            held_out: of_local(judged_on.or(data), held_out)?,
        })
    }

    /// Those in a comparison's folder; None if it kept none.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that does not read.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FINGERPRINTS_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path).map_err(Error::reading(&path))?;
        serde_json::from_slice(&text).map(Some).map_err(|error| Error::input(&path, error.to_string()))
    }

    /// Keeps them for a comparison that begins, if there are any.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn write(&self, dir: &RunDir) -> Result<()> {
        match *self == Self::default() {
            true => dir.remove(FINGERPRINTS_FILE),
            false => dir.write(FINGERPRINTS_FILE, &format!("{}\n", serde_json::json!(self))),
        }
    }

    /// Refuses what differs in `now`, which the files of `base` have.
    ///
    /// # Errors
    /// [`Error::Input`] that names the file.
    pub fn check_same(&self, now: &Self, base: &RunConfig) -> Result<()> {
        let judged_on = base.evaluation.data.as_ref().or(base.data.as_ref());
        for (what, kept, found, path) in [
            ("the model is not the one", &self.model, &now.model, base.model.as_ref()),
            ("the rows are not those", &self.data, &now.data, base.data.as_ref()),
            ("the held-out rows are not those", &self.held_out, &now.held_out, judged_on),
        ] {
            if let (Some(kept), Some(found), Some(path)) = (kept, found, path)
                && kept != found
            {
                return Err(Error::input(path, format!("{what} that the comparison began with"))
                    .with_hint("put back what it began with, or choose another --output"));
            }
        }
        Ok(())
    }
}

/// None if the place is none of this machine.
fn of_local(place: Option<&str>, files: impl FnOnce(&Path) -> Result<Vec<PathBuf>>) -> Result<Option<String>> {
    match place.map(Path::new).filter(|path| path.exists()) {
        Some(path) => fingerprint(&files(path)?).map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_task_and_places_of_the_hub_have_no_fingerprint() {
        let mut base = RunConfig::default();
        assert_eq!(Fingerprints::of(&base).unwrap(), Fingerprints::default());
        (base.model, base.data) = (Some("owner/model@main".to_owned()), Some("owner/rows@main".to_owned()));
        assert_eq!(Fingerprints::of(&base).unwrap(), Fingerprints::default());
    }

    #[test]
    fn held_out_rows_that_a_folder_gets_later_are_other_rows() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("train.jsonl"), "{}").unwrap();
        let base = RunConfig { data: Some(folder.path().to_string_lossy().into_owned()), ..RunConfig::default() };
        let kept = Fingerprints::of(&base).unwrap();
        kept.check_same(&Fingerprints::of(&base).unwrap(), &base).unwrap();
        fs::write(folder.path().join("valid.jsonl"), "{}").unwrap();
        let error = kept.check_same(&Fingerprints::of(&base).unwrap(), &base).unwrap_err();
        assert!(error.to_string().contains("the held-out rows are not those"), "{error}");
        fs::write(folder.path().join("train.jsonl"), "{ }").unwrap();
        let error = kept.check_same(&Fingerprints::of(&base).unwrap(), &base).unwrap_err();
        assert!(error.to_string().contains("the rows are not those") && error.hint().is_some(), "{error}");
    }
}
