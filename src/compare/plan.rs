//! The cells of a comparison and how many updates each makes, before anything starts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use crate::config::{CompareConfig, RunConfig};
use crate::error::{Error, Result};
use crate::report::console::Console;
use crate::train::run_data::num_demonstrations;
use crate::train::sources::{Sources, absolute};

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
}

/// Where a cell's run lies inside the comparison's folder.
pub fn cell_folder(config: &CompareConfig, method: usize, seed: u64) -> String {
    format!("cells/{}/seed-{seed}", config.methods[method].folder())
}

impl Plan {
    /// Checks everything that can be known before the first run. `text` was read from `origin`; `overrides` change its
    /// base.
    ///
    /// # Errors
    /// [`Error::Config`] for what cannot work, and for methods that differ in their number of updates; [`Error::Input`] for
    /// a model or data that cannot be read.
    pub fn new(text: &str, origin: &str, overrides: &[String], console: &Console) -> Result<Self> {
        let mut config = CompareConfig::from_ron(text, origin)?;
        overrides.iter().try_for_each(|assignment| config.base.set(assignment))?;
        config.validate(text, origin)?;
        let base = &mut config.base;
        for path in [&mut base.model, &mut base.data, &mut base.evaluation.data].into_iter().flatten() {
            *path = absolute(path); // so that the comparison can be continued from anywhere
        }
        let updates = updates_of_methods(&config, console)?;
        if config.equal_updates && updates.iter().any(|num| *num != updates[0]) {
            let names = config.methods.iter().map(|method| &method.name);
            let list: Vec<String> = names.zip(&updates).map(|(name, num)| format!("{name} {num}")).collect();
            let message = format!("the methods differ in their number of updates: {}", list.join(", "));
            return Err(Error::config(format!("{origin}: methods"), message)
                .with_hint("set iterations and train.num_steps so that they agree, or equal_updates: false"));
        }
        let cells = cells(&config, &updates)?;
        Ok(Plan { config, cells })
    }

    /// Cells that run on different days read the same prompts: `date` is that of their chat templates, unless the
    /// configuration names one.
    pub(super) fn keep_date(&mut self, date: Option<String>) {
        let configs = self.cells.iter_mut().map(|cell| &mut cell.config).chain([&mut self.config.base]);
        for config in configs.filter(|config| config.template_date.is_none()) {
            config.template_date.clone_from(&date);
        }
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

/// Updates of all iterations, method by method. Rows are counted once for all methods that read them alike.
fn updates_of_methods(config: &CompareConfig, console: &Console) -> Result<Vec<usize>> {
    let mut counted = BTreeMap::new();
    let of_method = |method: usize| -> Result<usize> {
        let own = config.cell(method, config.seeds[0])?;
        if own.iterations == 0 {
            let name = &config.methods[method].name;
            return Err(Error::config("iterations", format!("is 0 for the method `{name}`: it would train nothing")));
        }
        if let Some(num_steps) = own.train.num_steps {
            return Ok(own.iterations * num_steps);
        }
        let num_pairs = match counted.entry((own.max_rows, own.train.max_length)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => *place.insert(num_demonstrations(&Sources::find(&own, console)?.local, console)?),
        };
        Ok(own.iterations * own.train.num_updates(num_pairs))
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
        let task = config.base.word_problems.is_some().then(|| folder.join("task"));
        Start { model: folder.join(crate::policy::MODEL_FOLDER), task }
    }

    /// The cell's settings with this start in place of what made it.
    pub fn put_into(&self, mut config: RunConfig) -> RunConfig {
        let text = |path: &Path| Some(path.to_string_lossy().into_owned());
        config.model = text(&self.model);
        if let Some(task) = &self.task {
            config.data = text(&task.join("train.jsonl"));
            config.evaluation.data = text(&task.join("test.jsonl"));
        }
        (config.sft, config.word_problems) = (None, None);
        config
    }
}
