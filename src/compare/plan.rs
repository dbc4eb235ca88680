//! The cells of a comparison and how many updates each makes, before anything starts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use chrono::Local;

use super::begun::Begun;
use super::fingerprints::Fingerprints;
use crate::config::{CompareConfig, EvaluationConfig, RunConfig, key_of, spell_date};
use crate::error::{Error, Result};
use crate::formats::hub::{self, Address};
use crate::records::run_folder::{CELLS_FOLDER, STARTS_FOLDER};
use crate::report::console::Console;
use crate::train::run_data::{held_out_files, num_demonstrations};
use crate::train::sources::{Sources, pin_devices};
use crate::train::task::{TASK_FOLDER, TASK_TEST_FILE, TASK_TRAIN_FILE};

/// One method with one seed.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The method's place in the configuration.
    pub method: usize,
    pub seed: u64,
    /// Resolved. Where a start is made for the seed, model and data of [`Start`] come in their place.
    pub config: RunConfig,
    /// Updates of all iterations.
    pub num_updates: usize,
}

/// A valid comparison and its cells, in the order in which they run: all methods of the first seed, then the next.
#[derive(Debug)]
pub struct Plan {
    pub config: CompareConfig,
    pub cells: Vec<Cell>,
    /// Of the model and the data, if the comparison that is gone on with kept its own.
    pub fingerprints: Option<Fingerprints>,
}

/// Where a cell's run lies inside the comparison's folder.
pub fn cell_folder(config: &CompareConfig, method: usize, seed: u64) -> String {
    format!("{CELLS_FOLDER}/{}/seed-{seed}", config.methods[method].folder())
}

/// Where the start of a seed lies inside the comparison's folder.
pub fn start_folder(seed: u64) -> String {
    format!("{STARTS_FOLDER}/seed-{seed}")
}

impl Plan {
    /// Checks everything that can be known before the first run. `text` was read from `origin`; `overrides` change its
    /// base; `begun` is the comparison that is gone on with, whose commits of the hub and whose date are kept.
    ///
    /// # Errors
    /// [`Error::Config`] for what cannot work, and for methods that differ in their number of updates; [`Error::Input`] for
    /// a model or data that cannot be read, or that are not what the comparison began with.
    pub fn new(
        text: &str,
        origin: &str,
        overrides: &[String],
        begun: Option<&Begun>,
        console: &Console,
    ) -> Result<Self> {
        let mut config = CompareConfig::from_ron(text, origin)?;
        overrides.iter().try_for_each(|assignment| config.set_base(assignment))?;
        config.validate(text, origin)?;
        check_sources(&config.base, origin)?;
        match begun {
            None => pin_devices(&mut config.base),
            Some(begun) => {
                keep_sources(&mut config.base, &begun.config.base)?;
                keep_devices(&mut config.base, &begun.config.base);
            }
        }
        let date =
            begun.map_or_else(|| Some(spell_date(Local::now())), |begun| begun.config.base.template_date.clone());
        config.base.template_date = config.base.template_date.or(date);
        // First: other rows make other numbers of updates, and those would be blamed on the settings.
        let fingerprints = begun.map(|begun| begun.check_sources(&config)).transpose()?.flatten();
        let mut counted = Counted::default();
        check_judged_rows(&config, (text, origin), &mut counted, console)?;
        let updates = updates_of_methods(&config, &mut counted, console)?;
        if config.equal_updates && updates.iter().any(|num| *num != updates[0]) {
            let names = config.methods.iter().map(|method| &method.name);
            let list: Vec<String> = names.zip(&updates).map(|(name, num)| format!("{name} {num}")).collect();
            let message = format!("the methods differ in their number of updates: {}", list.join(", "));
            return Err(Error::config(format!("{origin}: methods"), message)
                .with_hint("set iterations and train.num_steps so that they agree, or equal_updates: false"));
        }
        let cells = cells(&config, &updates)?;
        Ok(Plan { config, cells, fingerprints })
    }

    /// The same with absolute paths and with commits of the hub, so that all cells have the same model and data and the
    /// comparison can be continued from anywhere. What is not here yet is fetched.
    ///
    /// # Errors
    /// As for a run.
    pub fn pinned(mut self, console: &Console) -> Result<Self> {
        let base = Sources::find(&self.config.base, console)?.pinned;
        for cell in &mut self.cells {
            cell.config.model.clone_from(&base.model);
            cell.config.data.clone_from(&base.data);
            cell.config.evaluation.data.clone_from(&base.evaluation.data);
        }
        self.config.base = base;
        Ok(self)
    }

    /// A start is made for each seed: the built-in task, if it is used, and the supervised stage.
    pub fn makes_starts(&self) -> bool {
        self.config.base.sft.is_some()
    }

    /// Every seed is judged on the same rows; the built-in task makes rows of its own for each seed.
    pub fn has_same_rows(&self) -> bool {
        self.config.base.word_problems.is_none()
    }
}

/// A comparison needs a model and data as a run does.
fn check_sources(base: &RunConfig, origin: &str) -> Result<()> {
    if base.word_problems.is_some() {
        return Ok(());
    }
    for (key, value) in [("model", &base.model), ("data", &base.data)] {
        if value.is_none() {
            return Err(Error::config(format!("{origin}: base.{key}"), "must be given")
                .with_hint(format!("`base: ({key}: ..)` in the file, or {key}=.. after it")));
        }
    }
    Ok(())
}

/// Names of the hub without a revision mean the commits that the comparison began with.
fn keep_sources(base: &mut RunConfig, begun: &RunConfig) -> Result<()> {
    let sources = [
        (&mut base.model, &begun.model),
        (&mut base.data, &begun.data),
        (&mut base.evaluation.data, &begun.evaluation.data),
    ];
    for (now, then) in sources {
        let (Some(given), Some(pinned)) = (now.as_deref(), then) else { continue };
        let (Some(address), Some(at_commit)) = (hub::address(given)?, hub::address(pinned)?) else { continue };
        if address == (Address { revision: None, ..at_commit }) {
            *now = Some(pinned.clone());
        }
    }
    Ok(())
}

/// `auto` means the device that the comparison began on: all cells run on one.
fn keep_devices(base: &mut RunConfig, begun: &RunConfig) {
    let names = std::iter::once((&mut base.device, &begun.device)).chain(base.devices.iter_mut().zip(&begun.devices));
    for (now, then) in names.filter(|(now, _)| *now == "auto") {
        now.clone_from(then);
    }
}

fn cells(config: &CompareConfig, updates: &[usize]) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for seed in &config.seeds {
        for (method, num_updates) in updates.iter().copied().enumerate() {
            let mut own = config.cell(method, *seed)?;
            if config.equal_updates {
                own.train.num_steps = Some(num_updates / own.iterations); // responses that are left out change nothing
            }
            cells.push(Cell { method, seed: *seed, config: own, num_updates });
        }
    }
    Ok(cells)
}

/// Without held-out rows the first training rows are judged on. A method must be judged on those that the first one is.
/// `text` was read from `origin`.
fn check_judged_rows(
    config: &CompareConfig,
    (text, origin): (&str, &str),
    counted: &mut Counted,
    console: &Console,
) -> Result<()> {
    let base = &config.base;
    let limit = |method| Ok(config.cell(method, config.seeds[0])?.max_rows);
    let limits: Vec<Option<usize>> = (0..config.methods.len()).map(limit).collect::<Result<_>>()?;
    if limits.iter().all(|limit| *limit == limits[0]) || base.word_problems.is_some() {
        return Ok(());
    }
    let local = Sources::find(base, console)?.local;
    let data = Path::new(local.data.as_deref().unwrap_or_default());
    if !held_out_files(local.evaluation.data.as_deref(), data)?.is_empty() {
        return Ok(());
    }
    let mut num_judged = |max_rows: Option<usize>| -> Result<usize> {
        let own = RunConfig { max_rows, ..base.clone() };
        Ok(num_pairs(&own, counted, console)?.min(EvaluationConfig::NUM_PROBE_ROWS))
    };
    let expected = num_judged(limits[0])?;
    for (method, limit) in config.methods.iter().zip(limits) {
        let num = num_judged(limit)?;
        if num != expected {
            let sets_it = |assignment: &&String| key_of(assignment) == "max_rows";
            let assignment = method.set.iter().rfind(sets_it).map(String::as_str);
            let first = &config.methods[0].name;
            let message = format!("is judged on the first {num} training rows, `{first}` on {expected}");
            return Err(Error::config(method.place(assignment, text, origin), message)
                .with_hint("set max_rows in `base` alone, or give held-out rows: evaluation.data in `base`"));
        }
    }
    Ok(())
}

/// How many demonstrations there are by `max_rows`: all else that decides about rows is the same for all methods.
type Counted = BTreeMap<Option<usize>, usize>;

/// The demonstrations of a method, read once for all methods that read as many.
fn num_pairs(own: &RunConfig, counted: &mut Counted, console: &Console) -> Result<usize> {
    Ok(match counted.entry(own.max_rows) {
        Entry::Occupied(known) => *known.get(),
        Entry::Vacant(place) => *place.insert(num_demonstrations(&Sources::find(own, console)?.local, console)?),
    })
}

/// Updates of all iterations, method by method.
fn updates_of_methods(config: &CompareConfig, counted: &mut Counted, console: &Console) -> Result<Vec<usize>> {
    let of_method = |method: usize| -> Result<usize> {
        let own = config.cell(method, config.seeds[0])?;
        if own.iterations == 0 {
            let name = &config.methods[method].name;
            return Err(Error::config("iterations", format!("is 0 for the method `{name}`: it would train nothing")));
        }
        if let Some(num_steps) = own.train.num_steps {
            return Ok(own.iterations * num_steps);
        }
        Ok(own.iterations * own.train.num_updates(num_pairs(&own, counted, console)?))
    };
    (0..config.methods.len()).map(of_method).collect()
}

/// What the cells of a seed start from.
#[derive(Debug)]
pub struct Start {
    pub model: PathBuf,
    /// None: the data of the base.
    pub task: Option<PathBuf>,
}

impl Start {
    /// The settings of a run that makes it: the base without an iteration.
    pub fn config(config: &CompareConfig, seed: u64) -> RunConfig {
        let mut start = RunConfig { iterations: 0, ..config.start(seed) };
        start.resolve();
        start
    }

    /// Where the finished run in `folder` left it.
    pub fn in_folder(folder: &Path, config: &CompareConfig) -> Self {
        let task = config.base.word_problems.is_some().then(|| folder.join(TASK_FOLDER));
        Start { model: folder.join(crate::policy::MODEL_FOLDER), task }
    }

    /// The cell's settings with this start in place of what made it.
    pub fn put_into(&self, mut config: RunConfig) -> RunConfig {
        let text = |path: &Path| Some(path.to_string_lossy().into_owned());
        config.model = text(&self.model);
        if let Some(task) = &self.task {
            config.data = text(&task.join(TASK_TRAIN_FILE));
            config.evaluation.data = text(&task.join(TASK_TEST_FILE));
        }
        (config.sft, config.word_problems) = (None, None);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_goes_on_on_the_devices_that_auto_stood_for() {
        let on = |device: &str, devices: &[&str]| RunConfig {
            device: device.to_owned(),
            devices: devices.iter().map(|name| (*name).to_owned()).collect(),
            ..RunConfig::default()
        };
        for (mut now, begun, expected) in [
            (on("auto", &[]), on("wgpu", &[]), on("wgpu", &[])),
            (on("flex", &[]), on("wgpu", &[]), on("flex", &[])), // a change, which is refused by its name
            (on("auto", &["auto", "wgpu:1"]), on("auto", &["wgpu", "wgpu:1"]), on("auto", &["wgpu", "wgpu:1"])),
        ] {
            keep_devices(&mut now, &begun);
            assert_eq!(now, expected);
        }
    }
}
