//! Where a run's model and data lie on this machine and which devices it uses, and what the run folder calls them so that a
//! resumed run finds the same ones.

use std::path::Path;

use crate::config::RunConfig;
use crate::device;
use crate::error::{Error, Result};
use crate::formats::hub::{self, Located};
use crate::report::console::Console;

/// One configuration in two forms.
pub(crate) struct Sources {
    /// With absolute paths, and the commits that revisions of the hub were resolved to: what the run folder remembers.
    pub pinned: RunConfig,
    /// With paths of this machine alone: what is opened.
    pub local: RunConfig,
}

impl Sources {
    /// Finds the model and the data; fetches what is on the hub and not in its cache.
    ///
    /// # Errors
    /// See [`hub::model`] and [`hub::data_set`].
    pub fn find(config: &RunConfig, console: &Console) -> Result<Self> {
        let mut sources = Sources { pinned: config.clone(), local: config.clone() };
        let Sources { pinned, local } = &mut sources;
        let model = config.model.as_deref().map(|given| hub::model(given, config.offline, console)).transpose()?;
        set(&mut pinned.model, &mut local.model, model);
        let find = |given: &Option<String>| -> Result<Option<Located>> {
            given.as_deref().map(|given| hub::data_set(given, config.offline, console)).transpose()
        };
        set(&mut pinned.data, &mut local.data, find(&config.data)?);
        set(&mut pinned.evaluation.data, &mut local.evaluation.data, find(&config.evaluation.data)?);
        Ok(sources)
    }
}

/// `auto` becomes the device that it stands for now, so that it is the same one after a resume, on whatever machine.
pub(crate) fn pin_devices(config: &mut RunConfig) {
    let names = match config.devices.as_mut_slice() {
        [] => std::slice::from_mut(&mut config.device),
        names => names,
    };
    for name in names.iter_mut().filter(|name| *name == "auto") {
        *name = device::resolve_name(name).to_owned();
    }
}

fn set(pinned: &mut Option<String>, local: &mut Option<String>, located: Option<Located>) {
    if let Some(Located { path, name }) = located {
        *pinned = Some(absolute(&name));
        *local = Some(path.to_string_lossy().into_owned());
    }
}

/// Whether a place that the run folder remembers is a path of this machine where nothing lies any more.
pub(crate) fn is_lost(place: &str) -> bool {
    let path = Path::new(place);
    path.is_absolute() && !path.exists()
}

/// Says that what a run began with as `key` lies no more at `place`.
pub(crate) fn lost(key: &str, place: &str) -> Error {
    Error::input(place, format!("is not there any more; the run began with it as `{key}`"))
}

/// So that the run can be resumed from anywhere. A name of the hub is no path and stays.
fn absolute(path: &str) -> String {
    dunce::canonicalize(path).map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_pinned_to_what_it_stands_for_and_names_are_left_alone() {
        let pinned = |assignments: &[&str]| {
            let mut config = RunConfig::default();
            assignments.iter().for_each(|assignment| config.set(assignment).unwrap());
            pin_devices(&mut config);
            config.validate().unwrap();
            config
        };
        let auto = device::resolve_name("auto");
        assert_eq!(pinned(&[]).device, auto);
        assert_eq!(pinned(&["device=wgpu:1"]).device, "wgpu:1");
        let several = pinned(&["devices=[\"auto\", \"wgpu:1\"]"]);
        assert_eq!((several.device.as_str(), several.devices), ("auto", vec![auto.to_owned(), "wgpu:1".to_owned()]));
    }
}
