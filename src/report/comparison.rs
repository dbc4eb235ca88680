//! The page of a comparison: one file, drawn like the report of a run. Numbers come in words of the caller's, who knows their
//! units; this draws and escapes them.

use super::REPORT_FILE;
use super::chart::{Axis, Chart, NUM_COLORS, Range};
use super::html::{escape, table};
use super::interval_chart::{Bar, interval_chart};
use super::page::document;
use super::series::{Point, Series};
use super::table::plural;
use crate::records::stage::START;

/// All that the page shows.
#[derive(Debug)]
pub struct ComparisonPage {
    pub title: String,
    pub num_cells: usize,
    pub num_finished: usize,
    /// The method that the others are measured against.
    pub baseline: String,
    pub seeds: Vec<u64>,
    /// Name and overrides of each method.
    pub settings: Vec<(String, String)>,
    /// Finished seeds of each method, which its means rest on.
    pub num_seeds: Vec<usize>,
    /// Updates of each method.
    pub num_updates: Vec<usize>,
    /// Whether they are of held-out rows, in words.
    pub kind_of_figures: &'static str,
    pub figures: Vec<ComparedFigure>,
    pub cells: Vec<CellLink>,
    /// How the intervals are made.
    pub sureness: String,
}

/// One figure of all methods.
#[derive(Debug)]
pub struct ComparedFigure {
    pub name: String,
    pub meaning: String,
    /// Of differences.
    pub unit: &'static str,
    /// Before the methods, in words.
    pub start: String,
    pub methods: Vec<ComparedMethod>,
}

/// One figure of one method.
#[derive(Debug)]
pub struct ComparedMethod {
    pub name: String,
    /// Mean and deviation over seeds, in words.
    pub spread: String,
    pub difference: Option<DifferenceBar>,
    /// For each seed the updates and values of its evaluations.
    pub curves: Vec<Vec<(f64, f64)>>,
}

/// A difference to the baseline in the figure's unit, and the same in words.
#[derive(Debug)]
pub struct DifferenceBar {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// Zero is outside, on more than one row.
    pub is_sure: bool,
    pub text: String,
}

/// One run and where its own report lies.
#[derive(Debug)]
pub struct CellLink {
    pub method: String,
    pub seed: u64,
    pub folder: String,
    /// Its own report is there to be linked to.
    pub has_report: bool,
    /// How it stands, in a word or two; None if it is finished.
    pub state: Option<&'static str>,
    /// Its figures, in words.
    pub figures: Vec<String>,
    pub failed: Option<String>,
}

impl ComparisonPage {
    /// The page.
    pub fn to_html(&self) -> String {
        let main = [self.summary(), self.differences(), self.curves(), self.runs(), self.methods()].concat();
        let words = "Words: the <b>baseline</b> is the method that the others are measured against; zero outside of an \
                     <b>interval</b> means that chance among these seeds and rows hardly explains the difference.";
        document(&escape(&self.title), &self.status(), &main, words)
    }

    fn status(&self) -> String {
        let badge = match self.num_finished == self.num_cells {
            true => "<span class=\"badge good\">finished</span>".to_owned(),
            false => {
                format!("<span class=\"badge\">{} of {} runs are finished</span>", self.num_finished, self.num_cells)
            }
        };
        let (methods, seeds) = (self.settings.len(), self.seeds.len());
        format!("{badge} {}, {}.", plural(methods, "method"), plural(seeds, "seed"))
    }

    /// Means and deviations.
    fn summary(&self) -> String {
        if self.figures.is_empty() {
            return "<section><h2>After the last update</h2>\n<p class=\"note\">There are no figures: they come with \
                    the first run that is finished.</p></section>\n"
                .to_owned();
        }
        let names =
            self.figures.iter().map(|f| format!("<span title=\"{}\">{}</span>", escape(&f.meaning), escape(&f.name)));
        let header: Vec<String> = ["method", "seeds", "updates"].map(str::to_owned).into_iter().chain(names).collect();
        let starts = self.figures.iter().map(|figure| escape(&figure.start));
        let start: Vec<String> = [START, "", "0"].map(str::to_owned).into_iter().chain(starts).collect();
        let rows = self.settings.iter().enumerate().map(|(i, (name, _))| {
            let figures = self.figures.iter().map(|figure| escape(&figure.methods[i].spread));
            [escape(name), self.num_seeds[i].to_string(), self.num_updates[i].to_string()]
                .into_iter()
                .chain(figures)
                .collect()
        });
        let rows: Vec<Vec<String>> = std::iter::once(start).chain(rows).collect();
        let meanings: String =
            self.figures.iter().map(|f| format!("<b>{}</b>: {}. ", escape(&f.name), escape(&f.meaning))).collect();
        format!(
            "<section><h2>After the last update</h2>\n{}<p class=\"note\">{}, mean over seeds \u{b1} sample \
             deviation. {meanings}</p></section>\n",
            table(&header, &rows),
            escape(self.kind_of_figures)
        )
    }

    fn differences(&self) -> String {
        let charts = self.figures.iter().map(|figure| {
            let bar = |(i, method): (usize, &ComparedMethod)| {
                let DifferenceBar { mean, low, high, is_sure, text } = method.difference.as_ref()?;
                Some(Bar {
                    name: method.name.clone(),
                    color: i,
                    mean: *mean,
                    low: *low,
                    high: *high,
                    is_sure: *is_sure,
                    text: text.clone(),
                })
            };
            let bars: Vec<Bar> = figure.methods.iter().enumerate().filter_map(bar).collect();
            if bars.is_empty() { String::new() } else { interval_chart(&figure.name, figure.unit, &bars) }
        });
        let charts: String = charts.collect();
        if charts.is_empty() {
            return String::new();
        }
        let names = self.figures.iter().map(|figure| escape(&figure.name));
        let header: Vec<String> = ["method".to_owned()].into_iter().chain(names).collect();
        let is_compared = |i: &usize| self.figures.iter().any(|figure| figure.methods[*i].difference.is_some());
        let text =
            |method: &ComparedMethod| method.difference.as_ref().map_or("\u{2013}".to_owned(), |d| escape(&d.text));
        let row = |i: usize| -> Vec<String> {
            let texts = self.figures.iter().map(|figure| text(&figure.methods[i]));
            [escape(&self.settings[i].0)].into_iter().chain(texts).collect()
        };
        let rows: Vec<Vec<String>> = (0..self.settings.len()).filter(is_compared).map(row).collect();
        format!(
            "<section><h2>Difference to {}</h2>\n<div class=\"charts\">\n{charts}</div>\n{}<p class=\"note\">Dot: mean \
             difference; bar: 95% interval; a bold name: zero is outside, on more than one row. {}</p></section>\n",
            escape(&self.baseline),
            table(&header, &rows),
            escape(&self.sureness)
        )
    }

    /// Means over seeds at each evaluation.
    fn curves(&self) -> String {
        let charts: String = self
            .figures
            .iter()
            .map(|figure| {
                let curve = |(i, method): (usize, &ComparedMethod)| {
                    let points = mean_curve(&method.curves);
                    let series = Series::exact(method.name.clone(), i, points);
                    Series { dash: i / NUM_COLORS, ..series }
                };
                let series = figure.methods.iter().enumerate().map(curve);
                Chart {
                    title: figure.name.clone(),
                    note: format!("Mean over seeds at every evaluation: {}. {}", figure.meaning, in_percent(figure)),
                    x_axis: Axis::Updates,
                    y_range: Range::Curves,
                    series: series.filter(|series| series.points().next().is_some()).collect(),
                    marks: Vec::new(),
                }
                .to_html()
            })
            .collect();
        if charts.is_empty() {
            return String::new();
        }
        format!("<section><h2>Over the updates</h2>\n<div class=\"charts\">\n{charts}</div></section>\n")
    }

    fn runs(&self) -> String {
        let names = self.figures.iter().map(|figure| escape(&figure.name));
        let header: Vec<String> = ["run".to_owned()].into_iter().chain(names).collect();
        let row = |cell: &CellLink| -> Vec<String> {
            let name = format!("{}, seed {}", escape(&cell.method), cell.seed);
            let link = match cell.has_report {
                true => format!("<a href=\"{}/{REPORT_FILE}\">{name}</a>", escape(&cell.folder)),
                false => name,
            };
            let state = cell.state.map_or_else(String::new, |state| format!(" <small>{state}</small>"));
            [link + &state].into_iter().chain(cell.figures.iter().map(|figure| escape(figure))).collect()
        };
        let rows: Vec<Vec<String>> = self.cells.iter().map(row).collect();
        let failures: String = self
            .cells
            .iter()
            .filter_map(|cell| Some((cell, cell.failed.as_ref()?)))
            .map(|(cell, why)| {
                format!("<li><b>{}, seed {}</b> {}</li>\n", escape(&cell.method), cell.seed, escape(why))
            })
            .collect();
        let failures = match failures.is_empty() {
            true => String::new(),
            false => format!("<div class=\"warnings\"><ul>{failures}</ul></div>\n"),
        };
        format!("<section><h2>Every run</h2>\n{failures}{}</section>\n", table(&header, &rows))
    }

    fn methods(&self) -> String {
        let row = |(name, settings): &(String, String)| {
            let settings = if settings.is_empty() { "the base as it is" } else { settings };
            format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(settings))
        };
        let rows: String = self.settings.iter().map(row).collect();
        format!("<section><h2>Methods</h2>\n<dl>{rows}</dl></section>\n")
    }
}

fn in_percent(figure: &ComparedFigure) -> &'static str {
    if figure.unit == "points" { "In percent." } else { "" }
}

/// The mean over seeds wherever all of them were evaluated.
fn mean_curve(curves: &[Vec<(f64, f64)>]) -> Vec<Point> {
    let Some(first) = curves.first() else { return Vec::new() };
    let at = |x: f64| -> Option<Point> {
        let values: Option<Vec<f64>> =
            curves.iter().map(|curve| curve.iter().find(|point| point.0 == x).map(|point| point.1)).collect();
        let values = values?;
        Some(Point { x, y: values.iter().sum::<f64>() / values.len() as f64 })
    };
    first.iter().filter_map(|point| at(point.0)).collect()
}
