//! Responses in the page, self-generated or brought by the rows: how many were of use, how long they are, and some of them
//! beside their demonstration.

use std::path::Path;

use serde::Deserialize;

use super::chart::{Axis, Chart, Range};
use super::html::{count, escape, short, table};
use super::run_files::{Iteration, RunFiles, for_each_row};
use super::series::{Point, Series};
use crate::error::Result;
use crate::records::about::SampleRow;
use crate::records::self_generation::SelfGeneratedCounts;

/// A response longer than this many characters is cut in the page.
const MAX_CHARACTERS: usize = 1500;
/// So many iterations are shown side by side: the first, and the last ones.
const MAX_ITERATIONS: usize = 5;
/// Points of a curve of lengths.
const NUM_BINS: usize = 30;

/// What the page needs of `self_generated.jsonl`.
#[derive(Debug, Default)]
pub struct Responses {
    /// How many responses have 0, 1, 2, .. tokens.
    num_of_length: Vec<usize>,
    /// Of the rows that are shown, the first sample of each.
    samples: Vec<Response>,
}

/// One line of the file as far as the page needs it: the log-probs, most of a line, are skipped.
#[derive(Debug, Deserialize)]
struct Response {
    index: usize,
    sample: usize,
    response_text: Option<String>,
    token_ids: Vec<u32>,
    finished: bool,
}

impl Response {
    /// The text, or the token ids of a model without a tokenizer.
    fn text(&self) -> String {
        let ids = || self.token_ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        self.response_text.clone().unwrap_or_else(ids)
    }
}

impl Responses {
    fn num_responses(&self) -> usize {
        self.num_of_length.iter().sum()
    }
}

/// Reads the responses of an iteration; None if the file is gone. The texts of the rows in `shown` are kept.
pub fn read_responses(path: &Path, shown: &[usize]) -> Result<Option<Responses>> {
    let mut read = Responses::default();
    let exists = for_each_row(path, &mut |response: Response| {
        let length = response.token_ids.len();
        if read.num_of_length.len() <= length {
            read.num_of_length.resize(length + 1, 0);
        }
        read.num_of_length[length] += 1;
        if response.sample == 0 && shown.contains(&response.index) {
            read.samples.push(response);
        }
    })?;
    Ok(exists.then_some(read))
}

/// The section on responses; empty if there are none.
pub fn section(run: &RunFiles) -> String {
    if run.iterations.is_empty() {
        return String::new();
    }
    format!(
        "<section><h2>{}</h2>\n{}{}{}</section>\n",
        if run.responses_are_given() { "Responses that the rows bring" } else { "Self-generated responses" },
        counts_table(run),
        lengths_chart(run).map_or_else(String::new, |chart| format!("<div class=\"charts\">{}</div>", chart.to_html())),
        samples(run)
    )
}

/// Responses of one kind.
struct Kind {
    name: &'static str,
    /// Said below the table; empty if the name says it.
    meaning: &'static str,
    of: fn(&SelfGeneratedCounts) -> usize,
    /// Responses that the rows bring can be so too: they have their end, and rows that are too long were left out before.
    may_be_given: bool,
}

const KINDS: [Kind; 6] = [
    Kind {
        name: "identical",
        meaning: "token for token the demonstration (without objective.variance_reduction nearly useless)",
        of: |counts| counts.identical,
        may_be_given: true,
    },
    Kind { name: "empty", meaning: "", of: |counts| counts.empty, may_be_given: true },
    Kind {
        name: "cut off",
        meaning: "no end token within generation.max_new_tokens",
        of: |counts| counts.unfinished,
        may_be_given: false,
    },
    Kind {
        name: "duplicated",
        meaning: "the same as an earlier response to another prompt",
        of: |counts| counts.duplicated,
        may_be_given: true,
    },
    Kind {
        name: "too long",
        meaning: "with their prompt beyond train.max_length",
        of: |counts| counts.too_long,
        may_be_given: false,
    },
    Kind {
        name: "left out",
        meaning: "responses that were not trained on",
        of: |counts| counts.dropped,
        may_be_given: false,
    },
];

fn counts_table(run: &RunFiles) -> String {
    let are_given = run.responses_are_given();
    let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| kind.may_be_given || !are_given).collect();
    let first = ["iteration", "responses", "mean tokens"].into_iter();
    let header: Vec<String> = first.chain(kinds.iter().map(|kind| kind.name)).map(str::to_owned).collect();
    let rows: Vec<Vec<String>> = run
        .iterations
        .iter()
        .map(|Iteration { number, counts, .. }| {
            let share = |part: usize| format!("{} <small>{:.0}%</small>", count(part), percent(part, counts.responses));
            let first = [number.to_string(), count(counts.responses), short(counts.mean_tokens)];
            first.into_iter().chain(kinds.iter().map(|kind| share((kind.of)(counts)))).collect()
        })
        .collect();
    let origin = are_given.then(|| "Nothing was generated.".to_owned());
    let explained = kinds.iter().filter(|kind| !kind.meaning.is_empty());
    let meanings = explained.map(|kind| format!("{}: {}.", kind.name, kind.meaning));
    let demonstrations = run
        .about
        .as_ref()
        .map(|about| format!("Demonstrations have {} tokens on average.", short(about.mean_demonstration_tokens)));
    let notes: Vec<String> = origin.into_iter().chain(meanings).chain(demonstrations).collect();
    format!("{}<p class=\"note\">{}</p>\n", table(&header, &rows), notes.join(" "))
}

fn percent(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

/// The first iteration and the last ones.
fn shown_iterations(run: &RunFiles) -> impl Iterator<Item = &Iteration> {
    let first_of_last = run.iterations.len().saturating_sub(MAX_ITERATIONS - 1);
    run.iterations
        .iter()
        .enumerate()
        .filter(move |(i, _)| *i == 0 || *i >= first_of_last)
        .map(|(_, iteration)| iteration)
}

/// How many responses have which length.
fn lengths_chart(run: &RunFiles) -> Option<Chart> {
    let with_responses =
        || shown_iterations(run).filter_map(|iteration| Some((iteration, iteration.responses.as_ref()?)));
    let longest = with_responses().map(|(_, responses)| responses.num_of_length.len()).max()?;
    let bin = longest.div_ceil(NUM_BINS);
    let curve = |(i, (iteration, responses)): (usize, (&Iteration, &Responses))| {
        let share = |lengths: &[usize]| percent(lengths.iter().sum(), responses.num_responses());
        let middle = |i: usize| (i * bin) as f64 + (bin - 1) as f64 / 2.0;
        let mut lengths = responses.num_of_length.clone();
        lengths.resize(longest, 0);
        let points = lengths.chunks(bin).enumerate().map(|(i, lengths)| Point { x: middle(i), y: share(lengths) });
        Series::exact(
            format!("iteration {} (mean {})", iteration.number, short(iteration.counts.mean_tokens)),
            i,
            points.collect(),
        )
    };
    let series: Vec<Series> = with_responses().enumerate().map(curve).collect();
    (longest > 2).then(|| Chart {
        title: "Length of responses".to_owned(),
        note: format!("Share of responses (%) by their number of tokens, in steps of {bin}."),
        x_axis: Axis::Tokens,
        y_range: Range::FromZero,
        series,
        marks: Vec::new(),
    })
}

fn samples(run: &RunFiles) -> String {
    let Some(about) = &run.about else { return String::new() };
    let of_row = |row: &SampleRow| {
        let responses: String = shown_iterations(run)
            .filter_map(|iteration| Some(cell(row, iteration, iteration.responses.as_ref()?)))
            .collect();
        format!(
            "<article class=\"sample\"><p class=\"prompt\"><b>row {}</b><span>{}</span></p>\n<div class=\"answers\"><div \
             class=\"demonstration\"><h4>demonstration</h4><p>{}</p></div>\n{responses}</div></article>\n",
            row.index,
            cut(&row.prompt),
            cut(&row.demonstration)
        )
    };
    let rows: String = about.samples.iter().map(of_row).collect();
    let is_removed = run.iterations.iter().any(|iteration| iteration.responses.is_none());
    let removed = if is_removed { " The responses of some iterations are no longer in the run folder." } else { "" };
    format!(
        "<h3>Samples</h3>\n<p class=\"note\">The first rows of the data. What a response shares with the \
         demonstration from its beginning is pale.{removed}</p>\n{rows}"
    )
}

/// One response with what is odd about it.
fn cell(row: &SampleRow, iteration: &Iteration, responses: &Responses) -> String {
    let Some(response) = responses.samples.iter().find(|response| response.index == row.index) else {
        return String::new();
    };
    let text = response.text();
    let same: usize =
        text.chars().zip(row.demonstration.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    let (shared, own) = text.split_at(same);
    let mut badges = vec![format!("{} tokens", response.token_ids.len())];
    if text == row.demonstration {
        badges.push("identical".to_owned());
    }
    if !response.finished {
        badges.push("cut off".to_owned());
    }
    format!(
        "<div><h4>iteration {} <small>{}</small></h4><p><span class=\"same\">{}</span>{}</p></div>\n",
        iteration.number,
        badges.join(", "),
        cut(shared),
        cut(own)
    )
}

/// Escaped, and not longer than a page bears.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{} <em>(cut here)</em>", escape(&text[..end])),
        None => escape(text),
    }
}
