//! The curves of training: which figures are drawn together, over which updates, and what they mean.
//!
//! Iterations and supervised stages have charts of their own, because their losses are different things. Updates count
//! from the start of iteration 0; the comparison (`continued sft`) starts from the same parameters and so is drawn from
//! there, too.

use super::chart::{Axis, Chart, NUM_DASHES, Range};
use super::run_files::RunFiles;
use super::series::{Point, Series};
use crate::records::stage::{CONTINUED_SFT, SFT};
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
        note: "Share of an update's pairs in which the demonstration gained more than the self-generated response, where \
               that is another. At the first update of an iteration nothing has been gained.",
        y_range: Range::Share,
        curves: &[("accuracy", |metrics| metrics.log_ratios?.implicit_reward_accuracy)],
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

/// A run whose updates are drawn.
struct Drawn<'a> {
    files: &'a RunFiles,
    /// Updates of the whole run before iteration 0.
    num_before: usize,
}

impl<'a> Drawn<'a> {
    fn new(files: &'a RunFiles) -> Self {
        let first = files.updates.iter().find(|update| update.is_of_iteration());
        Drawn { files, num_before: first.map_or(0, |first| first.total_step - 1) }
    }

    /// The first update of each iteration.
    fn starts(&self) -> impl Iterator<Item = &'a UpdateRow> {
        self.files.updates.iter().filter(|update| update.is_of_iteration() && update.stage_step == 1)
    }

    /// Where an update is drawn: counted from the start of iteration 0, or of its own supervised stage.
    fn x(&self, update: &UpdateRow) -> f64 {
        match update.is_of_iteration() {
            true => (update.total_step - self.num_before) as f64,
            false => update.stage_step as f64,
        }
    }
}

/// All charts of training, the first run's with the others' on top.
pub fn section(runs: &[RunFiles]) -> String {
    let runs: Vec<Drawn<'_>> = runs.iter().map(Drawn::new).collect();
    let group = |title: &str, charts: Vec<Chart>| match charts.is_empty() {
        true => String::new(),
        false => {
            let charts: String = charts.iter().map(Chart::to_html).collect();
            format!("<section><h2>{title}</h2>\n<div class=\"charts\">\n{charts}</div></section>\n")
        }
    };
    format!(
        "{}{}{}",
        group("Iterations", iteration_charts(&runs)),
        group("Supervised stage", supervised_charts(&runs, SFT)),
        group("For comparison: supervised updates from the same start", supervised_charts(&runs, CONTINUED_SFT))
    )
}

fn iteration_charts(runs: &[Drawn<'_>]) -> Vec<Chart> {
    let charts = ITERATIONS.iter().map(|kind| {
        let mut chart = chart(kind, runs, &UpdateRow::is_of_iteration);
        if kind.title == WITH_COMPARISON && !chart.series.is_empty() {
            add_comparison(&mut chart, runs);
        }
        chart.marks = runs[0].starts().map(|update| (runs[0].x(update) - 0.5, update.stage.clone())).collect();
        chart
    });
    charts.filter(|chart| !chart.series.is_empty()).collect()
}

fn supervised_charts(runs: &[Drawn<'_>], stage: &str) -> Vec<Chart> {
    let charts = SUPERVISED.iter().map(|kind| chart(kind, runs, &|update| update.stage == stage));
    charts.filter(|chart| !chart.series.is_empty()).collect()
}

/// One run: a colour for each figure. Several runs: a colour for each run, a kind of line for each figure.
fn chart(kind: &Kind, runs: &[Drawn<'_>], belongs: &dyn Fn(&UpdateRow) -> bool) -> Chart {
    let mut series = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let breaks: Vec<f64> = run.starts().filter(|update| belongs(update)).map(|update| run.x(update)).collect();
        for (j, (name, figure)) in kind.curves.iter().enumerate() {
            let updates = run.files.updates.iter().filter(|update| belongs(update));
            let points: Vec<Point> =
                updates.filter_map(|update| Some(Point { x: run.x(update), y: figure(&update.metrics)? })).collect();
            if points.is_empty() {
                continue;
            }
            series.push(match runs.len() {
                1 => Series::of_updates((*name).to_owned(), j, points, &breaks),
                _ => {
                    let curve = Series::of_updates(format!("{}: {name}", run.files.name), i, points, &breaks);
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

fn add_comparison(chart: &mut Chart, runs: &[Drawn<'_>]) {
    for (i, run) in runs.iter().enumerate() {
        let updates = run.files.updates.iter().filter(|update| update.stage == CONTINUED_SFT);
        let points: Vec<Point> = updates
            .map(|update| Point { x: run.x(update), y: update.metrics.demonstration_log_prob_per_token })
            .collect();
        if points.is_empty() {
            continue;
        }
        chart.series.push(match runs.len() {
            1 => Series::of_updates(CONTINUED_SFT.to_owned(), 1, points, &[]),
            _ => {
                Series { dash: 1, ..Series::of_updates(format!("{}: {CONTINUED_SFT}", run.files.name), i, points, &[]) }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::RunConfig;
    use crate::records::run_folder::Reached;

    fn update(stage: &str, stage_step: usize, total_step: usize) -> UpdateRow {
        let figures = json!({
            "stage": stage, "stage_step": stage_step, "total_step": total_step, "epoch": 0, "loss": 1.0,
            "loss_demonstration": 0.5, "loss_self_generated": 0.5, "demonstration_log_prob_per_token": -1.0,
            "grad_norm": 1.0, "lr": 1e-5, "num_clamped": 0.0, "tokens_per_s": 1.0, "seconds": 1.0,
        });
        serde_json::from_value(figures).unwrap()
    }

    #[test]
    fn updates_are_counted_from_the_start_of_iteration_0_and_supervised_ones_in_their_stage() {
        let updates = [
            ("sft", 1, 1),
            ("sft", 2, 2),
            ("iteration 0", 1, 3),
            ("iteration 0", 2, 4),
            ("iteration 1", 1, 5),
            (CONTINUED_SFT, 1, 6),
        ];
        let run = RunFiles {
            name: "run".to_owned(),
            config: RunConfig::default(),
            config_text: String::new(),
            environment: Value::Null,
            about: None,
            updates: updates.map(|(stage, step, total_step)| update(stage, step, total_step)).to_vec(),
            evaluations: Vec::new(),
            iterations: Vec::new(),
            timing: Vec::new(),
            reached: Reached::Nothing,
            ended: None,
            began_s: 0.0,
        };
        let drawn = Drawn::new(&run);
        let places: Vec<f64> = run.updates.iter().map(|update| drawn.x(update)).collect();
        assert_eq!(places, [1.0, 2.0, 1.0, 2.0, 3.0, 1.0]);
        assert_eq!(drawn.starts().map(|update| drawn.x(update)).collect::<Vec<_>>(), [1.0, 3.0]);
    }
}
