//! What the cells of a comparison came to: read from their run folders, summed up over seeds, and compared with the
//! baseline row by row.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::bootstrap::{Interval, PairedRows, Spread, interval};
use super::plan::{Cell, Plan, cell_folder};
use super::{FAILED_FILE, FINISHED_FILE};
use crate::error::{Error, Result};
use crate::formats::file_system::Disk;
use crate::formats::json_lines::read_lines;
use crate::records::evaluation::{
    EVALUATION_ROWS_FILE, EVALUATIONS_FILE, EvaluationRow, RowAnswer, RowFigures, StageRows,
};
use crate::records::figures::{GREEDY, HeldOutFigure, IN_FORMAT, LOG_PROB, SAMPLED};
use crate::report::{Ended, REPORT_FILE};

/// A figure that methods are compared by: the sum of what rows add to it, divided by the sum of what they count.
pub struct Compared {
    pub figure: HeldOutFigure,
    /// Of differences.
    pub unit: &'static str,
    /// What a row adds; None if it has no such value.
    of_row: fn(&RowFigures) -> Option<f64>,
    /// What it counts.
    weight: fn(&RowFigures) -> f64,
}

/// In the order of the tables.
pub const FIGURES: [Compared; 4] = [
    Compared {
        figure: LOG_PROB,
        unit: "nats per token",
        of_row: |row| Some(row.demonstration_log_prob),
        weight: |row| row.num_tokens as f64,
    },
    share(GREEDY, |row| flag(row.greedy, |answer| answer.exact_match)),
    share(SAMPLED, |row| flag(row.sampled, |answer| answer.exact_match)),
    share(IN_FORMAT, |row| flag(row.greedy, |answer| answer.ends_in_answer)),
];

/// A share of rows, which count alike.
const fn share(figure: HeldOutFigure, of_row: fn(&RowFigures) -> Option<f64>) -> Compared {
    Compared { figure, unit: "points", of_row, weight: |_| 1.0 }
}

fn flag(answer: Option<RowAnswer>, figure: fn(&RowAnswer) -> Option<bool>) -> Option<f64> {
    answer.as_ref().and_then(figure).map(|is_so| f64::from(u8::from(is_so)))
}

/// One cell, as far as it has come.
#[derive(Debug, Serialize)]
pub struct CellOutcome {
    #[serde(skip)]
    pub method_index: usize,
    pub method: String,
    pub seed: u64,
    /// Inside the comparison's folder.
    pub folder: String,
    /// Empty unless the cell is finished.
    pub evaluations: Vec<EvaluationRow>,
    /// Why it ended before its time.
    pub failed: Option<String>,
    /// What ended its run before its time, in a word or two; None if that goes on, was killed or is at its end.
    #[serde(skip)]
    pub ended: Option<&'static str>,
    /// The report of its run lies in its folder.
    #[serde(skip)]
    pub has_report: bool,
    #[serde(skip)]
    pub last_rows: Vec<RowFigures>,
}

impl CellOutcome {
    /// Nothing is left to do, and its figures are here.
    pub fn is_finished(&self) -> bool {
        !self.evaluations.is_empty()
    }

    /// Whether this is what has become of the planned `cell`.
    pub fn is_of(&self, cell: &Cell) -> bool {
        (self.method_index, self.seed) == (cell.method, cell.seed)
    }

    /// Updates that it made.
    pub fn num_updates(&self) -> usize {
        self.evaluations.last().map_or(0, |row| row.total_steps)
    }
}

/// One figure of one method.
#[derive(Debug, Serialize)]
pub struct MethodFigure {
    pub name: &'static str,
    /// Over the seeds, after the last update.
    pub spread: Option<Spread>,
    /// What the method has more than the baseline on the seeds that both finished; none for the baseline itself.
    pub difference: Option<Interval>,
}

/// One method over its seeds.
#[derive(Debug, Serialize)]
pub struct MethodOutcome {
    pub name: String,
    pub set: Vec<String>,
    /// Seeds that are finished.
    pub seeds: Vec<u64>,
    pub num_updates: usize,
    /// In the order of [`FIGURES`].
    pub figures: Vec<MethodFigure>,
}

/// One figure of the starts.
#[derive(Debug, Serialize)]
pub struct StartFigure {
    pub name: &'static str,
    pub spread: Option<Spread>,
}

/// All of a comparison.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub baseline: String,
    pub seeds: Vec<u64>,
    /// Every seed was judged on the same rows.
    pub same_rows: bool,
    /// False if the rows are training rows, for want of others.
    pub held_out: bool,
    /// Before the methods, in the order of [`FIGURES`].
    pub start: Vec<StartFigure>,
    pub methods: Vec<MethodOutcome>,
    pub cells: Vec<CellOutcome>,
    #[serde(skip)]
    pub baseline_index: usize,
}

impl Outcome {
    /// The fewest finished seeds that a difference rests on; before there is a difference, the planned ones.
    pub fn num_paired_seeds(&self) -> usize {
        let baseline = &self.methods[self.baseline_index].seeds;
        let others = self.methods.iter().enumerate().filter(|(i, _)| *i != self.baseline_index);
        let num_paired = others.map(|(_, method)| method.seeds.iter().filter(|seed| baseline.contains(seed)).count());
        num_paired.filter(|num| *num > 0).min().unwrap_or(self.seeds.len())
    }

    /// Reads what is finished of the comparison in `folder`.
    ///
    /// # Errors
    /// [`Error::Input`] if a file does not read, or cells of a seed were judged on different rows.
    pub fn read(plan: &Plan, folder: &Path) -> Result<Self> {
        let cells: Vec<CellOutcome> =
            plan.cells.iter().map(|cell| read_cell(plan, cell, folder)).collect::<Result<_>>()?;
        let baseline_index = plan.config.baseline_index()?;
        let same_rows = plan.has_same_rows();
        let method = |(index, method): (usize, &crate::config::Method)| -> Result<MethodOutcome> {
            let own: Vec<&CellOutcome> = of_method(&cells, index).collect();
            let baseline: Vec<&CellOutcome> = of_method(&cells, baseline_index).collect();
            let figures = FIGURES.iter().map(|compared| {
                let differences = pair_up(compared, &own, &baseline, folder)?;
                Ok(MethodFigure {
                    name: compared.figure.name,
                    spread: spread(&compared.figure, &own, <[EvaluationRow]>::last),
                    difference: if index == baseline_index { None } else { interval(&differences, same_rows) },
                })
            });
            Ok(MethodOutcome {
                name: method.name.clone(),
                set: method.set.clone(),
                seeds: own.iter().map(|cell| cell.seed).collect(),
                num_updates: own.first().map_or(0, |cell| cell.num_updates()),
                figures: figures.collect::<Result<_>>()?,
            })
        };
        let methods = plan.config.methods.iter().enumerate().map(method).collect::<Result<_>>()?;
        // One cell of each seed tells of its start.
        let starts: Vec<&CellOutcome> = plan
            .config
            .seeds
            .iter()
            .filter_map(|seed| cells.iter().find(|cell| cell.seed == *seed && cell.is_finished()))
            .collect();
        let start = FIGURES.iter().map(|Compared { figure, .. }| StartFigure {
            name: figure.name,
            spread: spread(figure, &starts, <[EvaluationRow]>::first),
        });
        Ok(Outcome {
            baseline: plan.config.methods[baseline_index].name.clone(),
            seeds: plan.config.seeds.clone(),
            same_rows,
            held_out: cells.iter().flat_map(|cell| &cell.evaluations).all(|row| row.evaluation.held_out),
            start: start.collect(),
            methods,
            cells,
            baseline_index,
        })
    }

    /// Which of [`FIGURES`] there are values of.
    pub fn used_figures(&self) -> Vec<usize> {
        let is_used = |i: &usize| self.methods.iter().any(|method| method.figures[*i].spread.is_some());
        (0..FIGURES.len()).filter(is_used).collect()
    }

    /// The finished cells of a method.
    pub fn cells_of(&self, method: usize) -> impl Iterator<Item = &CellOutcome> {
        of_method(&self.cells, method)
    }
}

fn of_method(cells: &[CellOutcome], method: usize) -> impl Iterator<Item = &CellOutcome> {
    cells.iter().filter(move |cell| cell.method_index == method && cell.is_finished())
}

fn read_cell(plan: &Plan, cell: &Cell, folder: &Path) -> Result<CellOutcome> {
    let name = cell_folder(&plan.config, cell.method, cell.seed);
    let path = folder.join(&name);
    let is_finished = path.join(FINISHED_FILE).exists();
    let (mut evaluations, mut last_rows) = (Vec::new(), Vec::new());
    if is_finished {
        evaluations = read_lines::<EvaluationRow>(&Disk, &path.join(EVALUATIONS_FILE))?;
        let stages: Vec<StageRows> = read_lines(&Disk, &path.join(EVALUATION_ROWS_FILE))?;
        let last = evaluations.last().map(|row| row.stage.as_str());
        last_rows = stages.into_iter().find(|stage| Some(stage.stage.as_str()) == last).map_or(Vec::new(), |s| s.rows);
    }
    // As in `state_of_cell`: one that went on to its end may have kept the file of an earlier failure.
    let failure = if is_finished { None } else { fs::read(path.join(FAILED_FILE)).ok() };
    let failure: Option<Value> = failure.and_then(|text| serde_json::from_slice(&text).ok());
    // A record that does not read is no reason to have no results: the run that is gone on with writes another.
    let ended = Ended::read(&path).ok().flatten().map(|ended| ended.in_short());
    Ok(CellOutcome {
        method_index: cell.method,
        method: plan.config.methods[cell.method].name.clone(),
        seed: cell.seed,
        folder: name,
        evaluations,
        failed: failure.and_then(|failure| failure["message"].as_str().map(str::to_owned)),
        ended,
        has_report: path.join(REPORT_FILE).is_file(),
        last_rows,
    })
}

/// Mean and deviation of a figure over cells; None if one of them does not have it.
fn spread(
    figure: &HeldOutFigure,
    cells: &[&CellOutcome],
    pick: fn(&[EvaluationRow]) -> Option<&EvaluationRow>,
) -> Option<Spread> {
    let value = |cell: &&CellOutcome| (figure.of)(&pick(&cell.evaluations)?.evaluation);
    let values: Option<Vec<f64>> = cells.iter().map(value).collect();
    Spread::of(&values?)
}

/// The differences of the rows of all seeds that both have finished; empty if the rows have no such figure.
fn pair_up(
    compared: &Compared,
    own: &[&CellOutcome],
    baseline: &[&CellOutcome],
    folder: &Path,
) -> Result<Vec<PairedRows>> {
    let mut seeds = Vec::new();
    for cell in own {
        let Some(other) = baseline.iter().find(|other| other.seed == cell.seed) else { continue };
        let identity = |rows: &[RowFigures]| rows.iter().map(|row| (row.index, row.num_tokens)).collect::<Vec<_>>();
        if identity(&cell.last_rows) != identity(&other.last_rows) {
            let message = format!("was judged on other rows than {}", other.folder);
            return Err(Error::input(folder.join(&cell.folder), message)
                .with_hint("methods must not change which rows are judged on"));
        }
        let mut paired = PairedRows { differences: Vec::new(), weights: Vec::new() };
        for (row, against) in cell.last_rows.iter().zip(&other.last_rows) {
            let (Some(value), Some(before)) = ((compared.of_row)(row), (compared.of_row)(against)) else { continue };
            paired.differences.push(value - before);
            paired.weights.push((compared.weight)(row));
        }
        seeds.push(paired);
    }
    Ok(seeds)
}
