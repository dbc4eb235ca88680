//! What the page of a comparison is to show. How it is drawn: [`crate::report::comparison`].

use super::bootstrap::Spread;
use super::outcome::{CellOutcome, Compared, FIGURES, Outcome};
use super::summary::{interval_text, kind_of_figures, spread_text, sureness};
use crate::records::evaluation::EvaluationRow;
use crate::records::figures::HeldOutFigure;
use crate::report::comparison::{CellLink, ComparedFigure, ComparedMethod, ComparisonPage, DifferenceBar};

/// The page of a comparison of this name.
pub(super) fn page(outcome: &Outcome, title: &str) -> ComparisonPage {
    let used = outcome.used_figures();
    ComparisonPage {
        title: title.to_owned(),
        num_cells: outcome.cells.len(),
        num_finished: outcome.cells.iter().filter(|cell| cell.is_finished()).count(),
        baseline: outcome.baseline.clone(),
        seeds: outcome.seeds.clone(),
        settings: outcome.methods.iter().map(|method| (method.name.clone(), method.set.join("  "))).collect(),
        num_seeds: outcome.methods.iter().map(|method| method.seeds.len()).collect(),
        num_updates: outcome.methods.iter().map(|method| method.num_updates).collect(),
        kind_of_figures: kind_of_figures(outcome),
        figures: used.iter().map(|i| compared_figure(outcome, *i)).collect(),
        cells: outcome.cells.iter().map(|cell| cell_link(cell, &used)).collect(),
        sureness: sureness(outcome).unwrap_or_default(),
    }
}

fn compared_figure(outcome: &Outcome, index: usize) -> ComparedFigure {
    let Compared { figure, unit, .. } = &FIGURES[index];
    let method = |number: usize| {
        let method = &outcome.methods[number];
        let own = &method.figures[index];
        ComparedMethod {
            name: method.name.clone(),
            spread: spread_text(own.spread, figure.is_share),
            difference: own.difference.map(|interval| DifferenceBar {
                mean: shown(figure, interval.mean),
                low: shown(figure, interval.low),
                high: shown(figure, interval.high),
                is_sure: interval.is_sure(),
                text: interval_text(Some(interval), figure.is_share),
            }),
            curves: outcome.cells_of(number).map(|cell| curve(cell, figure)).collect(),
        }
    };
    ComparedFigure {
        name: figure.name.to_owned(),
        meaning: figure.meaning.to_owned(),
        unit,
        start: spread_text(outcome.start[index].spread, figure.is_share),
        methods: (0..outcome.methods.len()).map(method).collect(),
    }
}

/// Shares in percent.
fn shown(figure: &HeldOutFigure, value: f64) -> f64 {
    if figure.is_share { 100.0 * value } else { value }
}

/// Updates and values of a cell's evaluations.
fn curve(cell: &CellOutcome, figure: &HeldOutFigure) -> Vec<(f64, f64)> {
    let point = |row: &EvaluationRow| Some((row.total_steps as f64, shown(figure, (figure.of)(&row.evaluation)?)));
    cell.evaluations.iter().filter_map(point).collect()
}

fn cell_link(cell: &CellOutcome, used: &[usize]) -> CellLink {
    let text = |i: &usize| {
        let figure = &FIGURES[*i].figure;
        let value = cell.evaluations.last().and_then(|row| (figure.of)(&row.evaluation));
        spread_text(value.map(|mean| Spread { mean, deviation: None }), figure.is_share)
    };
    let state = match cell.failed {
        Some(_) => "failed",
        None => cell.ended.unwrap_or("not finished"),
    };
    CellLink {
        method: cell.method.clone(),
        seed: cell.seed,
        folder: cell.folder.clone(),
        has_report: cell.has_report,
        state: (!cell.is_finished()).then_some(state),
        figures: used.iter().map(text).collect(),
        failed: cell.failed.clone(),
    }
}
