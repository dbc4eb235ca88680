//! Line charts as inline SVG: axes with round numbers, marks where iterations begin, values under the pointer by a few
//! lines of script (`page.js`), and a sentence for those who do not see them.

use super::html::{escape, short};
use super::series::{Point, Series};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 36.0;
/// Colours of the page, and kinds of broken lines.
pub const NUM_COLORS: usize = 6;
pub const NUM_DASHES: usize = 3;
/// About so many lines across.
const NUM_TICKS: f64 = 4.0;
/// More marks than this would hide the curves.
const MAX_MARKS: usize = 40;
/// More names than this would run into each other.
const MAX_MARK_NAMES: usize = 5;

/// What the y axis shows at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// The curves.
    Curves,
    /// The curves and zero.
    FromZero,
    /// 0 to 1.
    Share,
}

/// What the x axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    Updates,
    Tokens,
}

impl Axis {
    /// One of it.
    fn name(self) -> &'static str {
        match self {
            Axis::Updates => "update",
            Axis::Tokens => "tokens",
        }
    }
}

/// One chart with its words.
#[derive(Debug)]
pub struct Chart {
    pub title: String,
    pub note: String,
    pub x_axis: Axis,
    pub y_range: Range,
    pub series: Vec<Series>,
    /// Where something begins, and what.
    pub marks: Vec<(f64, String)>,
}

/// From values to places in the picture.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    fn of(chart: &Chart) -> Self {
        let points = || chart.series.iter().flat_map(Series::points);
        let x = widened(points().map(|point| point.x));
        let y = match chart.y_range {
            Range::Share => (0.0, 1.0),
            Range::FromZero => widened(points().map(|point| point.y).chain([0.0])),
            Range::Curves => widened(points().map(|point| point.y)),
        };
        Scale { x, y: rounded_outwards(y) }
    }

    fn place(&self, point: Point) -> (f64, f64) {
        let part = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        (
            LEFT + part(point.x, self.x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - part(point.y, self.y) * (HEIGHT - TOP - BOTTOM),
        )
    }
}

/// The smallest interval that holds all values, and is more than a point.
pub(super) fn widened(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    match (low <= high, high - low > 1e-12 * high.abs().max(1e-300)) {
        (false, _) => (0.0, 1.0),
        (true, true) => (low, high),
        (true, false) => (low - low.abs().max(1e-3) / 2.0, high + low.abs().max(1e-3) / 2.0),
    }
}

pub(super) fn rounded_outwards((low, high): (f64, f64)) -> (f64, f64) {
    let step = round_step(high - low);
    ((low / step).floor() * step, (high / step).ceil() * step)
}

/// 1, 2 or 5 times a power of ten, so that about [`NUM_TICKS`] steps span the interval.
fn round_step(span: f64) -> f64 {
    let rough = span / NUM_TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999).unwrap_or(10.0);
    factor * power
}

pub(super) fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let step = round_step(high - low);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

impl Chart {
    /// The figure: title, picture, legend, note. Without a single point it says so.
    pub fn to_html(&self) -> String {
        let (title, note) = (escape(&self.title), escape(&self.note));
        if self.series.iter().all(|series| series.points().next().is_none()) {
            return format!(
                "<figure class=\"chart\"><figcaption>{title}</figcaption><p class=\"note\">no values</p></figure>\n"
            );
        }
        let scale = Scale::of(self);
        let lines: String = self.series.iter().map(|series| lines(series, &scale)).collect();
        format!(
            "<figure class=\"chart\" data-chart=\"{}\"><figcaption>{title} <span class=\"where\"></span></figcaption>\n\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n{}{}{lines}<line class=\"cursor\" \
             y1=\"{TOP}\" y2=\"{}\"/></svg>\n<div class=\"legend\">{}</div>\n<p class=\"note\">{note}</p></figure>\n",
            escape(&self.hover_values(&scale)),
            escape(&self.sentence()),
            self.axes(&scale),
            self.mark_lines(&scale),
            HEIGHT - BOTTOM,
            self.legend()
        )
    }

    fn axes(&self, scale: &Scale) -> String {
        let across = ticks(scale.y).into_iter().map(|value| {
            let (_, y) = scale.place(Point { x: scale.x.0, y: value });
            format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>\n",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                short(value)
            )
        });
        let down = ticks(scale.x).into_iter().filter(|value| value.fract() == 0.0).map(|value| {
            let (x, _) = scale.place(Point { x: value, y: scale.y.0 });
            format!("<text class=\"x\" x=\"{x:.1}\" y=\"{}\">{}</text>\n", HEIGHT - BOTTOM + 16.0, short(value))
        });
        let label = format!(
            "<text class=\"x\" x=\"{}\" y=\"{}\">{}</text>\n",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 4.0,
            self.x_axis.name()
        );
        across.chain(down).chain([label]).collect()
    }

    fn mark_lines(&self, scale: &Scale) -> String {
        if self.marks.len() > MAX_MARKS {
            return String::new();
        }
        let names = self.marks.len() <= MAX_MARK_NAMES;
        let mark = |(at, name): &(f64, String)| {
            let (x, _) = scale.place(Point { x: at.clamp(scale.x.0, scale.x.1), y: scale.y.0 });
            let text = format!("<text class=\"mark\" x=\"{:.1}\" y=\"{}\">{}</text>", x + 3.0, TOP - 7.0, escape(name));
            format!(
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\"/>{}\n",
                TOP - 4.0,
                HEIGHT - BOTTOM,
                if names { text } else { String::new() }
            )
        };
        self.marks.iter().map(mark).collect()
    }

    /// The names of the curves with the values at their end, which the script replaces by those under the pointer.
    fn legend(&self) -> String {
        let key = |series: &Series| {
            let end = series.end().filter(|_| self.x_axis == Axis::Updates);
            let last = end.map_or_else(String::new, |point| short(point.y));
            format!(
                "<span class=\"key\"><svg viewBox=\"0 0 24 8\"><line class=\"{}\" x1=\"0\" x2=\"24\" y1=\"4\" \
                 y2=\"4\"/></svg>{} <b>{last}</b></span>\n",
                classes(series),
                escape(&series.name)
            )
        };
        self.series.iter().map(key).collect()
    }

    /// What the script needs: where the plot begins and ends, and the values of each curve.
    fn hover_values(&self, scale: &Scale) -> String {
        let rounded = |value: f64| short(value).parse::<f64>().unwrap_or(value);
        let series = self.series.iter().map(|series| {
            let (x, y): (Vec<f64>, Vec<f64>) = series.points().map(|point| (point.x, rounded(point.y))).unzip();
            serde_json::json!({"x": x, "y": y})
        });
        serde_json::json!({
            "left": LEFT, "right": WIDTH - RIGHT, "width": WIDTH, "x": [scale.x.0, scale.x.1],
            "label": self.x_axis.name(),
            "series": series.collect::<Vec<_>>(),
        })
        .to_string()
    }

    /// `Loss: loss from 1.39 to 0.62.`
    fn sentence(&self) -> String {
        let part = |series: &Series| {
            let (first, last) = (series.points().next()?, series.end()?);
            Some(format!("{} from {} to {}", series.name, short(first.y), short(last.y)))
        };
        format!("{}: {}.", self.title, self.series.iter().filter_map(part).collect::<Vec<_>>().join("; "))
    }
}

fn classes(series: &Series) -> String {
    format!("c{} d{}", series.color % NUM_COLORS, series.dash % NUM_DASHES)
}

/// A curve: pale, with its running mean on top, or plain if it has none.
fn lines(series: &Series, scale: &Scale) -> String {
    let classes = classes(series);
    let line = |stretch: &Vec<Point>, kind: &str| match stretch.as_slice() {
        [] => String::new(),
        [point] => {
            let (x, y) = scale.place(*point);
            format!("<circle class=\"{classes}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>\n")
        }
        points => {
            let places: Vec<String> =
                points.iter().map(|point| scale.place(*point)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            format!("<polyline class=\"{classes} {kind}\" points=\"{}\"/>\n", places.join(" "))
        }
    };
    let kind = if series.smooth.is_empty() { "plain" } else { "pale" };
    let raw = series.stretches.iter().map(|stretch| line(stretch, kind));
    raw.chain(series.smooth.iter().map(|stretch| line(stretch, "plain"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)], y_range: Range) -> Chart {
        let points = points.iter().map(|(x, y)| Point { x: *x, y: *y }).collect();
        Chart {
            title: "Loss".to_owned(),
            note: String::new(),
            x_axis: Axis::Updates,
            y_range,
            series: vec![Series::exact("<b>".to_owned(), 0, points)],
            marks: Vec::new(),
        }
    }

    #[test]
    fn axes_have_round_numbers_that_enclose_the_curve() {
        let scale = Scale::of(&chart(&[(1.0, 0.13), (40.0, 1.91)], Range::Curves));
        assert_eq!((scale.x, scale.y), ((1.0, 40.0), (0.0, 2.0)));
        assert_eq!(ticks(scale.y), [0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(ticks((1.0, 40.0)), [10.0, 20.0, 30.0, 40.0]);
        assert_eq!(Scale::of(&chart(&[(1.0, 0.6), (2.0, 0.7)], Range::Share)).y, (0.0, 1.0));
        assert_eq!(Scale::of(&chart(&[(1.0, 3.0), (2.0, 4.0)], Range::FromZero)).y, (0.0, 4.0));
    }

    #[test]
    fn a_curve_without_height_or_with_one_point_still_has_a_place() {
        for points in [&[(1.0, 5.0), (2.0, 5.0)][..], &[(3.0, 0.0)]] {
            let html = chart(points, Range::Curves).to_html();
            assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
            assert!(html.contains("<polyline") || html.contains("<circle"), "{html}");
        }
        assert!(chart(&[], Range::Curves).to_html().contains("no values"));
    }

    #[test]
    fn places_grow_to_the_right_and_upwards_and_names_are_escaped() {
        let chart = chart(&[(0.0, 0.0), (10.0, 1.0)], Range::Curves);
        let scale = Scale::of(&chart);
        assert_eq!(scale.place(Point { x: 0.0, y: 0.0 }), (LEFT, HEIGHT - BOTTOM));
        assert_eq!(scale.place(Point { x: 10.0, y: 1.0 }), (WIDTH - RIGHT, TOP));
        let html = chart.to_html();
        assert!(html.contains("&lt;b&gt; <b>1</b>") && html.contains("Loss: &lt;b&gt; from 0 to 1."), "{html}");
    }
}
