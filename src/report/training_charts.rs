//! The curves of training: which figures are drawn together, over which updates, and what they mean.
//!
//! Iterations and supervised stages have charts of their own, because their losses are different things. Updates count
//! from the start of iteration 0; the comparison (`continued sft`) starts from the same parameters and so is drawn from
//! there, too.

use super::chart::{Axis, Chart, NUM_DASHES, Range};
use super::run_files::RunFiles;
use super::series::{Point, Series};
use crate::records::evaluation::CONTINUED_SFT;
use crate::records::update::{StepMetrics, UpdateRow};

/// One curve of a chart: its name and the figure of an update.
type Curve = (&'static str, fn(&StepMetrics) -> Option<f64>);

/// What is drawn of the iterations.
struct Kind {
    title: &'static str,
    note: &'static str,
    y_range: Range,
    curves: &'static [Curve],
}

const ITERATIONS: [Kind; 6] = [
    Kind {
        title: "Loss and its two sides",
        note: "Demonstrations should become likelier, self-generated responses less likely. Falls within an \
               iteration and starts anew with the next, whose reference is the policy just trained.",
        y_range: Range::Curves,
        curves: &[
            ("loss", |metrics| Some(metrics.loss)),
            ("demonstrations", |metrics| Some(metrics.loss_demonstration)),
            ("self-generated", |metrics| Some(metrics.loss_self_generated)),
        ],
    },
    Kind {
        title: "Margin of log-ratios",
        note: "Log-ratio of the demonstration less that of the self-generated response, nats: how far the policy \
               tells them apart.",
        y_range: Range::FromZero,
        curves: &[("margin", |metrics| Some(metrics.log_ratios?.log_ratio_margin))],
    },
    Kind {
        title: "Log-ratios",
        note: "Log-prob under policy less log-prob under reference, nats. Demonstrations below 0: the policy has \
               made them less likely.",
        y_range: Range::FromZero,
        curves: &[
            ("demonstrations", |metrics| Some(metrics.log_ratios?.log_ratio_demonstration)),
            ("self-generated", |metrics| Some(metrics.log_ratios?.log_ratio_self_generated)),
        ],
    },
    Kind {
        title: "Implicit-reward accuracy",
        note: "Share of an update's pairs in which the demonstration gained more than the self-generated response. \
               At the first update of an iteration nothing has been gained.",
        y_range: Range::Share,
        curves: &[("accuracy", |metrics| Some(metrics.log_ratios?.implicit_reward_accuracy))],
    },
    Kind {
        title: "Log-prob of demonstrations per token",
        note: "Nats; higher is likelier. If it falls while the margin rises, the policy imitates less.",
        y_range: Range::Curves,
        curves: &[("gsil", |metrics| Some(metrics.demonstration_log_prob_per_token))],
    },
    Kind {
        title: "Gradient norm",
        note: "Before clipping at train.max_grad_norm.",
        y_range: Range::FromZero,
        curves: &[("gradient norm", |metrics| Some(metrics.grad_norm))],
    },
];
/// The chart to which the comparison is added.
const WITH_COMPARISON: &str = "Log-prob of demonstrations per token";

const SUPERVISED: [Kind; 2] = [
    Kind {
        title: "Supervised loss",
        note: "Mean negative log-prob of a demonstration's token, nats.",
        y_range: Range::FromZero,
        curves: &[("loss", |metrics| Some(metrics.loss))],
    },
    Kind {
        title: "Gradient norm",
        note: "Before clipping at max_grad_norm.",
        y_range: Range::FromZero,
        curves: &[("gradient norm", |metrics| Some(metrics.grad_norm))],
    },
];

/// All charts of training, the first run's with the others' on top.
pub fn section(runs: &[RunFiles]) -> String {
    let group = |title: &str, charts: Vec<Chart>| match charts.is_empty() {
        true => String::new(),
        false => {
            let charts: String = charts.iter().map(Chart::to_html).collect();
            format!("<section><h2>{title}</h2>\n<div class=\"charts\">\n{charts}</div></section>\n")
        }
    };
    format!(
        "{}{}{}",
        group("Iterations", iteration_charts(runs)),
        group("Supervised stage", supervised_charts(runs, "sft")),
        group("For comparison: supervised updates from the same start", supervised_charts(runs, CONTINUED_SFT))
    )
}

fn iteration_charts(runs: &[RunFiles]) -> Vec<Chart> {
    let charts = ITERATIONS.iter().map(|kind| {
        let mut chart = chart(kind, runs, &UpdateRow::is_of_iteration);
        if kind.title == WITH_COMPARISON && !chart.series.is_empty() {
            add_comparison(&mut chart, runs);
        }
        chart.marks = starts(&runs[0]).map(|update| (x(&runs[0], update) - 0.5, update.stage.clone())).collect();
        chart
    });
    charts.filter(|chart| !chart.series.is_empty()).collect()
}

fn supervised_charts(runs: &[RunFiles], stage: &str) -> Vec<Chart> {
    let charts = SUPERVISED.iter().map(|kind| chart(kind, runs, &|update| update.stage == stage));
    charts.filter(|chart| !chart.series.is_empty()).collect()
}

/// One run: a colour for each figure. Several runs: a colour for each run, a kind of line for each figure.
fn chart(kind: &Kind, runs: &[RunFiles], belongs: &dyn Fn(&UpdateRow) -> bool) -> Chart {
    let mut series = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let breaks: Vec<f64> = starts(run).filter(|update| belongs(update)).map(|update| x(run, update)).collect();
        for (j, (name, figure)) in kind.curves.iter().enumerate() {
            let updates = run.updates.iter().filter(|update| belongs(update));
            let points: Vec<Point> =
                updates.filter_map(|update| Some(Point { x: x(run, update), y: figure(&update.metrics)? })).collect();
            if points.is_empty() {
                continue;
            }
            series.push(match runs.len() {
                1 => Series::of_updates((*name).to_owned(), j, points, &breaks),
                _ => {
                    let curve = Series::of_updates(format!("{}: {name}", run.name), i, points, &breaks);
                    Series { dash: j % NUM_DASHES, ..curve }
                }
            });
        }
    }
    let window = series.iter().filter(|curve| !curve.smooth.is_empty()).map(|curve| curve.window).max();
    let smoothed =
        window.map_or_else(String::new, |window| format!(" Bold, and in the legend: the mean of {window} updates."));
    Chart {
        title: kind.title.to_owned(),
        note: format!("{}{smoothed}", kind.note),
        x_axis: Axis::Updates,
        y_range: kind.y_range,
        series,
        marks: Vec::new(),
    }
}

fn add_comparison(chart: &mut Chart, runs: &[RunFiles]) {
    for (i, run) in runs.iter().enumerate() {
        let updates = run.updates.iter().filter(|update| update.stage == CONTINUED_SFT);
        let points: Vec<Point> = updates
            .map(|update| Point { x: x(run, update), y: update.metrics.demonstration_log_prob_per_token })
            .collect();
        if points.is_empty() {
            continue;
        }
        chart.series.push(match runs.len() {
            1 => Series::of_updates(CONTINUED_SFT.to_owned(), 1, points, &[]),
            _ => Series { dash: 1, ..Series::of_updates(format!("{}: continued sft", run.name), i, points, &[]) },
        });
    }
}

/// The first update of each iteration.
fn starts(run: &RunFiles) -> impl Iterator<Item = &UpdateRow> {
    run.updates.iter().filter(|update| update.is_of_iteration() && update.stage_step == 1)
}

/// Where an update is drawn: counted from the start of iteration 0, or of its own supervised stage.
fn x(run: &RunFiles, update: &UpdateRow) -> f64 {
    let before = run.updates.iter().find(|update| update.is_of_iteration()).map_or(0, |first| first.total_step - 1);
    match update.is_of_iteration() {
        true => (update.total_step - before) as f64,
        false => update.stage_step as f64,
    }
}
