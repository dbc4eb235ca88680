//! Pictures that stand alone: curves over numbers as an SVG file, for a page, a paper or a notebook.
//!
//! The charts of a run's report are [`super::write_report`]'s; these are for figures of your own. Dark on white, and told
//! apart without colours too: every curve has its own dashes or its own mark.

use std::fs;
use std::path::Path;

use super::chart::{rounded_outwards, ticks, widened};
use super::html::{escape, short};
use crate::error::{Error, Result};

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 38.0;
const BOTTOM: f64 = 48.0;
/// Panels beside each other before the next row begins.
const NUM_COLUMNS: usize = 2;
const LEGEND_ROW: f64 = 24.0;
/// A sign of the legend with its space, and about the width of a letter.
const KEY_WIDTH: f64 = 56.0;
const LETTER_WIDTH: f64 = 7.6;
/// Black, then the colours of Okabe and Ito (2008) that people with any colour vision tell apart, darkest first.
const COLORS: [&str; 7] = ["#1c1f23", "#0072b2", "#d55e00", "#009e73", "#a0447f", "#b07c00", "#3a9bd0"];
const DASHES: [&str; 7] = ["none", "9 4", "3 3", "10 3 2 3", "18 4", "12 3 2 3 2 3", "2 6"];

/// A picture with axes, made of curves. Values beyond an axis that was set are cut off at its edge.
#[derive(Debug, Clone)]
pub struct Plot {
    title: String,
    x_label: String,
    y_label: String,
    y_range: Option<(f64, f64)>,
    curves: Vec<Curve>,
}

#[derive(Debug, Clone)]
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
    is_dots: bool,
}

/// From values to places inside a panel.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let part = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        (LEFT + part(x, self.x) * width, HEIGHT - BOTTOM - part(y, self.y) * height)
    }

    fn shows(&self, (x, y): (f64, f64)) -> bool {
        (self.x.0..=self.x.1).contains(&x) && (self.y.0..=self.y.1).contains(&y)
    }
}

impl Plot {
    /// A picture without curves yet.
    pub fn new(title: &str, x_label: &str, y_label: &str) -> Self {
        Plot {
            title: title.to_owned(),
            x_label: x_label.to_owned(),
            y_label: y_label.to_owned(),
            y_range: None,
            curves: Vec::new(),
        }
    }

    /// Adds points `(x, y)` joined by a line.
    pub fn line(self, name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.with(name, points, false)
    }

    /// Adds points `(x, y)` as marks of their own.
    pub fn dots(self, name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.with(name, points, true)
    }

    /// Sets the ends of the y axis; without, they are those of the curves.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.y_range = Some((low, high));
        self
    }

    fn with(mut self, name: &str, points: impl IntoIterator<Item = (f64, f64)>, is_dots: bool) -> Self {
        let points = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        self.curves.push(Curve { name: name.to_owned(), points, is_dots });
        self
    }

    fn scale(&self) -> Scale {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let y = self.y_range.unwrap_or_else(|| rounded_outwards(widened(points().map(|point| point.1))));
        Scale { x: widened(points().map(|point| point.0)), y }
    }

    /// The panel with its upper left corner at the origin.
    fn panel(&self) -> String {
        let scale = self.scale();
        let curves: String = self.curves.iter().enumerate().map(|(i, curve)| curve.draw(i, &scale)).collect();
        format!("{}<g clip-path=\"url(#panel)\">\n{curves}</g>\n", self.axes(&scale))
    }

    fn axes(&self, scale: &Scale) -> String {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let (middle_x, middle_y) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
        let mut axes = format!("<text class=\"title\" x=\"{LEFT}\" y=\"22\">{}</text>\n", escape(&self.title));
        for value in ticks(scale.y) {
            let (_, y) = scale.place((scale.x.0, value));
            let class = if value == 0.0 { "zero" } else { "grid" };
            axes += &format!(
                "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                LEFT - 7.0,
                y + 4.5,
                with_minus(value)
            );
        }
        for value in ticks(scale.x) {
            let (x, _) = scale.place((value, scale.y.0));
            axes += &format!(
                "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                bottom + 5.0,
                bottom + 19.0,
                with_minus(value)
            );
        }
        axes + &format!(
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\n\
             <text x=\"{middle_x}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(15 {middle_y}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
            HEIGHT - 9.0,
            escape(&self.x_label),
            escape(&self.y_label)
        )
    }
}

impl Curve {
    fn draw(&self, index: usize, scale: &Scale) -> String {
        if self.is_dots {
            let shown = self.points.iter().filter(|point| scale.shows(**point));
            return shown.map(|point| mark(index, scale.place(*point))).collect();
        }
        let places = self.points.iter().map(|point| scale.place(*point));
        let places: Vec<String> = places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        format!("<polyline {} points=\"{}\"/>\n", stroke(index), places.join(" "))
    }

    /// The sign of the legend, from `x` on.
    fn key(&self, index: usize, (x, y): (f64, f64)) -> String {
        let sign = match self.is_dots {
            true => mark(index, (x + 20.0, y)),
            false => format!("<path {} d=\"M{x} {y}h40\"/>\n", stroke(index)),
        };
        format!("{sign}<text x=\"{}\" y=\"{}\">{}</text>\n", x + 47.0, y + 4.5, escape(&self.name))
    }
}

/// The minus that is as wide as a plus.
fn with_minus(value: f64) -> String {
    short(value).replace('-', "\u{2212}")
}

fn stroke(index: usize) -> String {
    format!(
        "class=\"line\" stroke=\"{}\" stroke-dasharray=\"{}\"",
        COLORS[index % COLORS.len()],
        DASHES[index % DASHES.len()]
    )
}

/// Circle, square, triangle, diamond, cross, plus, triangle downwards: as many as colours.
fn mark(index: usize, (x, y): (f64, f64)) -> String {
    let shape = match index % COLORS.len() {
        0 => "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
        1 => "m-4 -4h8v8h-8z",
        2 => "m0 -5l5 9h-10z",
        3 => "m0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
        4 => "m-4 -4l8 8m0 -8l-8 8",
        5 => "m-5.5 0h11m-5.5 -5.5v11",
        _ => "m0 5l5 -9h-10z",
    };
    format!("<path class=\"dot\" stroke=\"{}\" d=\"M{x:.1} {y:.1}{shape}\"/>\n", COLORS[index % COLORS.len()])
}

/// Draws the panels into one picture, two in a row, above the legend of the first: the curves of all are in the same order.
pub fn to_svg(panels: &[Plot]) -> String {
    let num_rows = panels.len().div_ceil(NUM_COLUMNS);
    let (width, height) = (panels.len().clamp(1, NUM_COLUMNS) as f64 * WIDTH, num_rows as f64 * HEIGHT);
    let placed = panels.iter().enumerate().map(|(i, plot)| {
        let (x, y) = ((i % NUM_COLUMNS) as f64 * WIDTH, (i / NUM_COLUMNS) as f64 * HEIGHT);
        format!("<g transform=\"translate({x} {y})\">\n{}</g>\n", plot.panel())
    });
    let body: String = placed.collect();
    let mut legend = String::new();
    let (mut x, mut y) = (LEFT, height + LEGEND_ROW / 2.0);
    for (i, curve) in panels.first().iter().flat_map(|plot| &plot.curves).enumerate() {
        let key_width = KEY_WIDTH + LETTER_WIDTH * curve.name.chars().count() as f64;
        if x > LEFT && x + key_width > width {
            (x, y) = (LEFT, y + LEGEND_ROW);
        }
        legend += &curve.key(i, (x, y));
        x += key_width;
    }
    let height = y + LEGEND_ROW;
    let margin = 7.0; // marks at the ends of the x axis are whole
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\">\n<style>{STYLE}</style>\n<clipPath id=\"panel\"><rect x=\"{}\" y=\"{TOP}\" width=\"{}\" \
         height=\"{}\"/></clipPath>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}{legend}</svg>\n",
        LEFT - margin,
        WIDTH - LEFT - RIGHT + 2.0 * margin,
        HEIGHT - TOP - BOTTOM
    )
}

const STYLE: &str = "text{font:13px system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1c1f23}\
.title{font-weight:600;font-size:14px}.grid{stroke:#e1e5ea}.zero{stroke:#a6adb5}.tick,.axis{stroke:#5f6770;fill:none}\
.line{fill:none;stroke-width:2;stroke-linejoin:round}.dot{fill:none;stroke-width:1.8}";

/// [`to_svg`] into a file.
///
/// # Errors
/// [`Error::Disk`].
pub fn write_svg(path: &Path, panels: &[Plot]) -> Result<()> {
    fs::write(path, to_svg(panels)).map_err(Error::writing("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_has_a_sign_of_its_own_and_a_name_in_the_legend() {
        let points = [(0.0, 0.0), (1.0, 2.0)];
        let names: Vec<String> = (0..6).map(|i| format!("curve <{i}>")).collect();
        let with_lines = names.iter().fold(Plot::new("t", "x", "y"), |plot, name| plot.line(name, points));
        let svg = to_svg(&[with_lines.clone(), with_lines]);
        let mut strokes: Vec<&str> = svg.lines().filter(|line| line.starts_with("<polyline")).collect();
        assert_eq!(strokes.len(), 12);
        strokes.truncate(6);
        strokes.sort_unstable();
        strokes.dedup();
        assert_eq!(strokes.len(), 6, "{strokes:?}");
        for i in 0..6 {
            assert_eq!(svg.matches(&format!(">curve &lt;{i}&gt;</text>")).count(), 1);
        }
    }

    #[test]
    fn values_outside_of_the_picture_are_left_out_and_numbers_that_are_none_are_dropped() {
        let plot = Plot::new("t", "x", "y").y_range(0.0, 1.0).dots("d", [(0.0, 0.5), (1.0, 9.0), (2.0, f64::NAN)]);
        let svg = to_svg(&[plot]);
        assert_eq!(svg.matches("class=\"dot\"").count(), 1 + 1, "one in the picture, one in the legend: {svg}");
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn a_picture_without_points_is_still_a_picture() {
        for panels in [vec![], vec![Plot::new("t", "x", "y")], vec![Plot::new("t", "x", "y").line("l", [])]] {
            let svg = to_svg(&panels);
            assert!(svg.starts_with("<svg ") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
