//! A comparison's results as files: `comparison.json` for programs, `comparison.md` for people, `comparison.html` to look at.

use std::fmt::Write;

use unicode_width::UnicodeWidthStr;

use super::bootstrap::{Interval, NUM_RESAMPLES, Spread};
use super::outcome::{FIGURES, Outcome};
use super::page::page;
use crate::error::{Error, Result};
use crate::records::stage::START;
use crate::report::table::{to_left, to_right};
use crate::train::run_dir::RunDir;

/// What [`write`] writes.
pub(super) const FILES: [&str; 3] = ["comparison.json", "comparison.md", "comparison.html"];

/// Writes all three.
///
/// # Errors
/// [`Error::Disk`].
pub fn write(dir: &RunDir, outcome: &Outcome) -> Result<()> {
    let json = serde_json::to_string_pretty(outcome)
        .map_err(|error| Error::usage(format!("cannot encode the comparison: {error}")))?;
    let [json_file, markdown_file, page_file] = FILES;
    dir.write(json_file, &(json + "\n"))?;
    dir.write(markdown_file, &markdown(outcome))?;
    let name = dir.path().file_name().map_or_else(|| "comparison".into(), |name| name.to_string_lossy());
    dir.write(page_file, &page(outcome, &name).to_html())
}

/// Two tables, what their columns mean, and how sure they are.
pub fn markdown(outcome: &Outcome) -> String {
    let used = outcome.used_figures();
    let mut text = String::new();
    let names = |start: &str| -> Vec<String> {
        let names = used.iter().map(|i| FIGURES[*i].figure.name.to_owned());
        [start, "seeds", "updates"].map(str::to_owned).into_iter().chain(names).collect()
    };
    let mut rows = vec![names("method")];
    let figures = used.iter().map(|i| spread_text(outcome.start[*i].spread, FIGURES[*i].figure.is_share));
    rows.push([START, "", "0"].map(str::to_owned).into_iter().chain(figures).collect());
    for method in &outcome.methods {
        let figures = used.iter().map(|i| spread_text(method.figures[*i].spread, FIGURES[*i].figure.is_share));
        let (seeds, updates) = (method.seeds.len().to_string(), method.num_updates.to_string());
        rows.push([method.name.clone(), seeds, updates].into_iter().chain(figures).collect());
    }
    text += &table(&rows);
    let mut rows = vec![["difference".to_owned()].into_iter().chain(names("").split_off(3)).collect::<Vec<_>>()];
    for method in outcome.methods.iter().filter(|method| method.figures.iter().any(|f| f.difference.is_some())) {
        let figures = used.iter().map(|i| interval_text(method.figures[*i].difference, FIGURES[*i].figure.is_share));
        rows.push([method.name.clone()].into_iter().chain(figures).collect());
    }
    if rows.len() > 1 {
        let _ = write!(
            text,
            "\nDifference to {}, with its 95% interval; shares in percentage points:\n\n{}",
            outcome.baseline,
            table(&rows)
        );
    }
    text + "\n" + &explanation(outcome)
}

fn explanation(outcome: &Outcome) -> String {
    let used = outcome.used_figures().into_iter().map(|i| FIGURES[i].figure);
    let meanings: Vec<String> = used.map(|figure| format!("{}: {}.", figure.name, figure.meaning)).collect();
    let failed = outcome
        .cells
        .iter()
        .filter_map(|cell| Some(format!("Failed: {}, seed {}: {}\n", cell.method, cell.seed, cell.failed.as_ref()?)));
    let failed: String = failed.collect();
    let sureness = sureness(outcome).map_or_else(String::new, |text| text + "\n");
    format!(
        "{} after the last update: mean over seeds \u{b1} sample deviation.\n{}\n{sureness}{failed}",
        kind_of_figures(outcome),
        meanings.join("\n"),
    )
}

/// What kind of figures the tables hold.
pub(super) fn kind_of_figures(outcome: &Outcome) -> &'static str {
    match outcome.held_out {
        true => "Held-out figures",
        false => "Figures on training rows (for want of held-out ones: evaluation.data)",
    }
}

/// How the intervals are made, and what they do not say; None if there are none yet.
pub(super) fn sureness(outcome: &Outcome) -> Option<String> {
    let figures = outcome.methods.iter().flat_map(|method| &method.figures);
    let num_rows = figures.filter_map(|figure| Some(figure.difference?.num_rows)).min()?;
    let rows = match outcome.same_rows {
        true => "seeds and, for all seeds alike, rows",
        false => "seeds and then rows of each seed",
    };
    let few = match outcome.num_paired_seeds() {
        1 => " With one seed they say nothing about another.",
        2..10 => {
            " With so few seeds they are too narrow: where seeds differ more than rows, those of five seeds hold the truth \
             84 times in 100, those of three 75."
        }
        _ => "",
    };
    let rest_on = match num_rows {
        1 => " One that rests on a single row says nothing of others.".to_owned(),
        2..10 => format!(" They rest on as few as {num_rows} rows, and are too narrow for that, too."),
        _ => String::new(),
    };
    Some(format!(
        "Intervals: the middle 95% of {NUM_RESAMPLES} resamples of {rows}, paired: both methods met the same.{few}{rest_on} \
         None is corrected for the number of methods."
    ))
}

/// A Markdown table whose columns line up.
fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect();
    let num_columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..num_columns).map(|i| rows.iter().map(|row| row[i].width()).max().unwrap_or(0).max(3)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match i {
            0 => to_left(cell, *width),
            _ => to_right(cell, *width),
        });
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule: Vec<String> =
        widths.iter().enumerate().map(|(i, w)| if i == 0 { "-".repeat(*w) } else { "-".repeat(w - 1) + ":" }).collect();
    let mut lines = rows.iter().map(line);
    let header = lines.next().unwrap_or_default();
    format!("{header}| {} |\n{}", rule.join(" | "), lines.collect::<String>())
}

fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|")
}

/// `-0.3421 ± 0.0123`, `71.3% ± 2.1`; a dash where there is nothing.
pub(super) fn spread_text(spread: Option<Spread>, is_share: bool) -> String {
    let Some(Spread { mean, deviation }) = spread else { return "-".to_owned() };
    let deviation = deviation.map_or_else(String::new, |d| match is_share {
        true => format!(" \u{b1} {:.1}", 100.0 * d),
        false => format!(" \u{b1} {d:.4}"),
    });
    match is_share {
        true => format!("{:.1}%{deviation}", 100.0 * mean),
        false => format!("{mean:.4}{deviation}"),
    }
}

/// `+1.2 [-0.3, +2.6]`, shares in points.
pub(super) fn interval_text(interval: Option<Interval>, is_share: bool) -> String {
    let Some(Interval { mean, low, high, .. }) = interval else { return "-".to_owned() };
    match is_share {
        true => format!("{:+.1} [{:+.1}, {:+.1}]", 100.0 * mean, 100.0 * low, 100.0 * high),
        false => format!("{mean:+.4} [{low:+.4}, {high:+.4}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_under_names_of_every_script_and_escaped_ones() {
        let rows = [["method", "greedy"], ["方法", "1"], ["a|b", "2"]].map(|row| row.map(str::to_owned).to_vec());
        let expected = "| method | greedy |\n| ------ | -----: |\n| 方法   |      1 |\n| a\\|b   |      2 |\n";
        assert_eq!(table(&rows), expected);
        // The escape makes a cell wider: two letters, four bars and their four escapes.
        let rows = [["m", "n"], ["a||||b", "2"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows).lines().next(), Some("| m          |   n |"));
    }
}
