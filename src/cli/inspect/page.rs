//! The page of `gsil inspect data`: plain text, or with the colours of a terminal.

use super::{Facts, ShapeCount};
use crate::data::inspection::{Distribution, Inspection, Part, Run, ShownRow};
use crate::report::table::{format_table, plural};

/// The longest bar of a histogram, in characters.
const BAR_WIDTH: usize = 40;
/// Eighths of a character, so that small counts differ.
const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
/// Longer texts are cut in their middle.
const MAX_SHOWN_CHARS: usize = 2000;

/// All of it.
pub(super) fn page(facts: &Facts, has_colours: bool) -> String {
    let inspection = &facts.inspection;
    let mut page = head(facts);
    for row in &inspection.rows {
        page += &format!("\n{}", shown_row(row, has_colours));
    }
    if !inspection.rows.is_empty() {
        page += &format!("\n{}\n", legend(has_colours));
    }
    page += &lengths(inspection);
    page += &verdict(inspection);
    page
}

fn head(facts: &Facts) -> String {
    let inspection = &facts.inspection;
    let shape = |shape: &ShapeCount| format!("{} ({})", shape.shape, plural(shape.count, "row"));
    let shapes: Vec<String> = facts.shapes.iter().map(shape).collect();
    let limit = match inspection.is_limited_by_context {
        true => "the model's context; train.max_length is more",
        false => "train.max_length",
    };
    format!(
        "data        {}\nmodel       {}\nshape       {}\nrows        {} read, {} used, {} dropped, {} refused\nmax_length  {} tokens, prompt and response together ({limit})\n",
        facts.files.iter().map(|file| shown(file)).collect::<Vec<_>>().join("\n            "),
        shown(&facts.model),
        shapes.join("\n            "),
        inspection.num_rows,
        inspection.num_used,
        inspection.dropped.iter().map(|dropped| dropped.count).sum::<usize>(),
        inspection.num_refused,
        inspection.max_length,
    )
}

fn shown_row(row: &ShownRow, has_colours: bool) -> String {
    let fate = row.dropped.as_ref().map_or("used".to_owned(), |reason| format!("left out: {}", shown(reason)));
    let (prompt, response) = (row.num_prompt_tokens, row.num_response_tokens);
    let mut text = format!("-- {}, {fate}; {prompt} prompt and {response} response tokens\n", shown(&row.place));
    if !row.demonstration.is_empty() {
        text += &format!("{}\n", marked(&row.demonstration, has_colours));
    }
    if let Some(runs) = &row.self_generated {
        text += &format!("-- to be told from\n{}\n", marked(runs, has_colours));
    }
    text
}

/// Tokens with what training does with them.
fn marked(runs: &[Run], has_colours: bool) -> String {
    let marked = runs.iter().map(|run| mark(&shown(&run.text), run.part, has_colours));
    marked.collect::<String>()
}

fn mark(text: &str, part: Part, has_colours: bool) -> String {
    // Dim, green, and black on yellow: readable on dark and light backgrounds.
    let (start, end) = match (part, has_colours) {
        (Part::Prompt, true) => ("\u{1b}[2m", "\u{1b}[0m"),
        (Part::Trained, true) => ("\u{1b}[32m", "\u{1b}[0m"),
        (Part::End, true) => ("\u{1b}[30;43m", "\u{1b}[0m"),
        (Part::Prompt, false) => ("", ""),
        (Part::Trained, false) => ("«", "»"),
        (Part::End, false) => ("‹END ", "›"),
    };
    format!("{start}{text}{end}")
}

fn legend(has_colours: bool) -> String {
    let [prompt, trained, end] =
        [("prompt, read only", Part::Prompt), ("trained", Part::Trained), ("end token, trained", Part::End)]
            .map(|(text, part)| mark(text, part, has_colours));
    format!("marks: {prompt}  {trained}  {end}")
}

/// A stranger's text as a terminal may show it: what it would obey is an escape, what is too long is cut.
fn shown(text: &str) -> String {
    let num_chars = text.chars().count();
    let escaped = |chars: &mut dyn Iterator<Item = char>| -> String {
        chars
            .map(|c| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() })
            .collect()
    };
    if num_chars <= MAX_SHOWN_CHARS {
        return escaped(&mut text.chars());
    }
    let half = MAX_SHOWN_CHARS / 2;
    let (start, end) = (escaped(&mut text.chars().take(half)), escaped(&mut text.chars().skip(num_chars - half)));
    format!("{start}\n[.. {} characters ..]\n{end}", num_chars - 2 * half)
}

fn lengths(inspection: &Inspection) -> String {
    let lengths = &inspection.lengths;
    if lengths.total.count == 0 {
        return "\nno row could be read as a prompt and a response\n".to_owned();
    }
    let row = |name: &str, d: &Distribution| {
        let figures = [d.min, d.median, d.p90, d.p99, d.max].map(|length| length.to_string());
        [&[name.to_owned()], &figures[..], &[format!("{:.1}", d.mean)]].concat()
    };
    let rows = [row("prompt", &lengths.prompt), row("response", &lengths.response), row("both", &lengths.total)];
    let mut text = format!("\n{}", format_table(&["tokens", "min", "median", "90%", "99%", "max", "mean"], &rows));
    for (name, distribution, limit) in [
        ("prompt", &lengths.prompt, None),
        ("response", &lengths.response, None),
        ("both", &lengths.total, Some(inspection.max_length)),
    ] {
        text += &format!("\n{name}\n{}", histogram(distribution, limit));
    }
    text
}

/// One line a bin; a rule stands where the limit lies, in the bin that it cuts.
fn histogram(distribution: &Distribution, limit: Option<usize>) -> String {
    let most = distribution.histogram.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
    let width = distribution.histogram.last().map_or(1, |bin| bin.to.to_string().len());
    let digits = most.to_string().len();
    let mut text = String::new();
    let mut limit = limit;
    let line = |limit: usize| format!("  ---- max_length {limit}: longer rows are dropped\n");
    for bin in &distribution.histogram {
        if let Some(reached) = limit.filter(|limit| *limit < bin.from) {
            text += &line(reached);
            limit = None;
        }
        let range = format!("{:>width$}-{:<width$}", bin.from, bin.to);
        let cut = limit.filter(|limit| (bin.from..bin.to).contains(limit));
        let note = cut.map_or(String::new(), |limit| format!("  <- max_length {limit} lies here"));
        let line = format!("  {range} {:>digits$} {}{note}", bin.count, bar(bin.count, most));
        text += &format!("{}\n", line.trim_end());
        if cut.is_some() {
            limit = None;
        }
    }
    match limit {
        Some(limit) if limit <= distribution.max => text + &line(limit),
        _ => text,
    }
}

fn bar(count: usize, most: usize) -> String {
    let eighths = (count * BAR_WIDTH * 8).div_ceil(most);
    let rest = (eighths % 8).checked_sub(1).map(|i| EIGHTHS[i]);
    "█".repeat(eighths / 8) + &rest.map_or(String::new(), String::from)
}

/// What will be left out and what looks wrong.
fn verdict(inspection: &Inspection) -> String {
    let mut text = String::new();
    for dropped in &inspection.dropped {
        text += &format!("\ndropped: {} {}", plural(dropped.count, "row"), dropped.reason);
    }
    if inspection.some_are_too_long {
        text += "\nnothing is cut: an answer without its end teaches the model not to stop";
    }
    if !inspection.dropped.is_empty() {
        text += "\n";
    }
    if let Some(first) = &inspection.first_refusal {
        text += &format!(
            "\nrefused: {}; training ends at the first: {}\n",
            plural(inspection.num_refused, "row"),
            shown(first)
        );
    }
    for warning in &inspection.warnings {
        text += &match &warning.first {
            Some(first) => {
                format!(
                    "\nwarning: {}: {} (the first: {})",
                    plural(warning.count, "row"),
                    warning.message,
                    shown(first)
                )
            }
            None => format!("\nwarning: {}", warning.message),
        };
    }
    match (inspection.warnings.is_empty(), inspection.num_refused + inspection.dropped.len()) {
        (true, 0) => "\nnothing looks wrong\n".to_owned(),
        (true, _) => text,
        (false, _) => text + "\n",
    }
}
