//! The tables of a run: held-out figures before and after, and where the time went.

use super::html::{escape, short, table};
use super::run_files::RunFiles;
use super::table::{duration, percent, plural};
use crate::records::evaluation::{Answers, Evaluation, EvaluationRow, updates_of_models};
use crate::records::figures::{
    ACCURACY, ENDED, FLEXIBLE, GREEDY, HeldOutFigure, IN_FORMAT, LOG_PROB, LOG_RATIO, OWN_RESPONSES, SAMPLED, TOKENS,
};

/// A column of the evaluation table: its figure, and a share that stands small beside it.
type Column = (HeldOutFigure, Option<HeldOutFigure>);

const COLUMNS: [Column; 9] = [
    (LOG_PROB, None),
    (ACCURACY, None),
    (LOG_RATIO, None),
    (OWN_RESPONSES, None),
    (IN_FORMAT, None),
    (GREEDY, None),
    (FLEXIBLE, None),
    (SAMPLED, None),
    (TOKENS, Some(ENDED)),
];

fn cell((figure, beside): &Column, evaluation: &Evaluation) -> Option<String> {
    let value = (figure.of)(evaluation)?;
    let text = if figure.is_share { percent(Some(value)) } else { short(value) };
    let small =
        |share: &HeldOutFigure| Some(format!(" <small>{:.0}% {}</small>", 100.0 * (share.of)(evaluation)?, share.name));
    Some(text + &beside.as_ref().and_then(small).unwrap_or_default())
}

/// The before/after table of all runs; empty if nothing was evaluated yet.
pub fn evaluation_section(runs: &[RunFiles]) -> String {
    let rows: Vec<(&RunFiles, (&EvaluationRow, usize))> = runs
        .iter()
        .flat_map(|run| run.evaluations.iter().zip(updates_of_models(&run.evaluations)).map(move |row| (run, row)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let is_known = |figure: &HeldOutFigure| rows.iter().any(|(_, (row, _))| (figure.of)(&row.evaluation).is_some());
    let used: Vec<Column> = COLUMNS.into_iter().filter(|(figure, _)| is_known(figure)).collect();
    let names =
        used.iter().map(|(HeldOutFigure { name, meaning, .. }, _)| format!("<span title=\"{meaning}\">{name}</span>"));
    let headers: Vec<String> = ["after", "updates"].map(str::to_owned).into_iter().chain(names).collect();
    let cells = |(run, (row, num_updates)): &(&RunFiles, (&EvaluationRow, usize))| -> Vec<String> {
        let stage = match runs.len() {
            1 => escape(&row.stage),
            _ => format!("<b>{}</b> {}", escape(&run.name), escape(&row.stage)),
        };
        let figures = used.iter().map(|column| cell(column, &row.evaluation).unwrap_or_else(|| "\u{2013}".to_owned()));
        [stage, num_updates.to_string()].into_iter().chain(figures).collect()
    };
    let shown = used.iter().flat_map(|(figure, beside)| std::iter::once(figure).chain(beside));
    let meanings: String = shown.map(|figure| format!("<b>{}</b>: {}. ", figure.name, figure.meaning)).collect();
    format!(
        "<section><h2>Before and after</h2>\n{}<p class=\"note\">{} {meanings}</p></section>\n",
        table(&headers, &rows.iter().map(cells).collect::<Vec<_>>()),
        rows_judged_of(runs)
    )
}

/// [`rows_judged`] in one sentence for all runs that were evaluated; run by run where they differ.
fn rows_judged_of(runs: &[RunFiles]) -> String {
    let of_run = |run: &RunFiles| {
        let rows = rows_judged(&run.evaluations.first()?.evaluation);
        Some((escape(&run.name), rows + &rows_compared(run)))
    };
    let sentences: Vec<(String, String)> = runs.iter().filter_map(of_run).collect();
    match sentences.split_first() {
        Some(((_, first), others)) if others.iter().all(|(_, other)| other == first) => first.clone(),
        _ => sentences.iter().map(|(name, text)| format!("<b>{name}</b>: {text}")).collect::<Vec<_>>().join(" "),
    }
}

/// On how many rows the figures rest, and how sure a share of them is.
fn rows_judged(evaluation: &Evaluation) -> String {
    let rows = evaluation.num_rows;
    let which = match evaluation.held_out {
        true => format!("On {}.", plural(rows, "held-out row")),
        false => format!("On {}, for want of held-out ones (evaluation.data).", plural(rows, "training row")),
    };
    let answers = match evaluation.greedy {
        None | Some(Answers { num_rows: 0, .. }) => String::new(),
        Some(Answers { num_rows, exact_match: None, .. }) => format!(" {num_rows} of them were answered."),
        Some(Answers { num_rows, .. }) => {
            format!(
                " With {num_rows} answers a share near one half is known to {} (one standard error).",
                standard_error(num_rows)
            )
        }
    };
    which + &answers
}

/// The same of the accuracy, which rests on fewer rows; nothing where all answers differ from their demonstrations.
fn rows_compared(run: &RunFiles) -> String {
    let first = run.evaluations.iter().find_map(|row| Some((&row.evaluation, row.evaluation.against_reference?)));
    let Some((evaluation, against)) = first else { return String::new() };
    let num_answers = evaluation.greedy.map(|answers| answers.num_rows);
    match against.num_compared {
        Some(num) if Some(num) != num_answers && num > 0 => format!(
            " Accuracy rests on {num} of these, where the answer before iteration 0 differs from the demonstration: {}.",
            standard_error(num)
        ),
        _ => String::new(),
    }
}

/// Of a share near one half.
fn standard_error(num_rows: usize) -> String {
    format!("\u{b1}{:.1} points", 50.0 / (num_rows as f64).sqrt())
}

/// What a run spends its time on, in the order of an iteration.
const PHASES: [&str; 4] = ["generation", "scoring", "training", "evaluation"];

/// Seconds of each phase in each stage of the first run; empty if nothing was recorded yet.
pub fn timing_section(run: &RunFiles) -> String {
    let seconds = |stage: &str, phase: &str| -> Option<f64> {
        let timed = run.timing.iter().filter(|row| row.stage == stage && row.phase == phase).map(|row| row.seconds);
        let trained =
            run.updates.iter().filter(|update| update.stage == stage && phase == "training").map(|u| u.metrics.seconds);
        timed.chain(trained).reduce(|a, b| a + b)
    };
    let stages = run.stages();
    let of_stage = |stage: &&str| PHASES.map(|phase| seconds(stage, phase));
    let times: Vec<[Option<f64>; 4]> = stages.iter().map(of_stage).collect();
    let total = |times: &[Option<f64>; 4]| times.iter().flatten().sum::<f64>();
    let longest = times.iter().map(total).fold(0.0, f64::max);
    if longest == 0.0 {
        return String::new();
    }
    let cell = |seconds: Option<f64>| seconds.map_or_else(|| "\u{2013}".to_owned(), duration);
    let row = |name: &str, times: &[Option<f64>; 4], bar: String| -> Vec<String> {
        let cells = times.iter().map(|seconds| cell(*seconds));
        [escape(name)].into_iter().chain(cells).chain([duration(total(times)), bar]).collect()
    };
    let mut rows: Vec<Vec<String>> =
        stages.iter().zip(&times).map(|(stage, times)| row(stage, times, bar(times, longest))).collect();
    let sum = |i: usize| times.iter().filter_map(|times| times[i]).reduce(|a, b| a + b);
    rows.push(row("whole run", &[sum(0), sum(1), sum(2), sum(3)], String::new()));
    let header = ["stage".to_owned()]
        .into_iter()
        .chain(PHASES.iter().enumerate().map(|(i, phase)| format!("<span class=\"phase p{i}\"></span>{phase}")));
    let header: Vec<String> = header.chain(["together".to_owned(), String::new()]).collect();
    format!("<section><h2>Time</h2>\n{}<p class=\"note\">{}</p></section>\n", table(&header, &rows), timing_note(run))
}

/// Parts of a line, as wide as their share of the longest stage.
fn bar(times: &[Option<f64>; 4], longest: f64) -> String {
    let part = |(i, seconds): (usize, &Option<f64>)| {
        let width = 100.0 * seconds.unwrap_or(0.0) / longest;
        format!("<i class=\"p{i}\" style=\"width:{width:.1}%\"></i>")
    };
    let parts: String = times.iter().enumerate().map(part).collect();
    format!("<div class=\"bar\">{parts}</div>")
}

/// Speeds, and what the figures leave out.
fn timing_note(run: &RunFiles) -> String {
    let training_s: f64 = run.updates.iter().map(|update| update.metrics.seconds).sum();
    let trained: f64 = run.updates.iter().map(|update| update.metrics.tokens_per_s * update.metrics.seconds).sum();
    // Responses that were taken over from another run took no time; those of a time that a crash lost have none.
    let generation = || run.timing.iter().filter_map(|row| Some((row.num_tokens?, row.seconds)));
    let generated: usize = generation().map(|(num_tokens, _)| num_tokens).sum();
    let generation_s: f64 = generation().map(|(_, seconds)| seconds).sum();
    let speed = |what: &str, tokens: f64, seconds: f64| match tokens > 0.0 && seconds > 0.0 {
        true => format!("{what}: {} tokens/s. ", short((tokens / seconds).round())),
        false => String::new(),
    };
    let unrecorded = match run.timing.is_empty() {
        true => "Only training was timed in this run. ",
        false => "",
    };
    format!(
        "{}{}{unrecorded}Not in here: loading, checkpoints, and updates that a crash made the run repeat.",
        speed("Training", trained, training_s),
        speed("Generation", generated as f64, generation_s)
    )
}
