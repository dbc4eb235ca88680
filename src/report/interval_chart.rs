//! Differences with their intervals as inline SVG: a line for each method, a dot for the mean, a bar for the interval, and
//! where nothing would be.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::chart::{NUM_COLORS, rounded_outwards, ticks};
use super::html::{escape, short};

const WIDTH: f64 = 480.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 36.0;
const LINE: f64 = 30.0;
/// A name wider than this is cut; the whole one is shown under the pointer. In cells of a terminal: two for a character of
/// Chinese, Japanese or Korean, which is about as wide as two letters here, too.
const MAX_NAME_WIDTH: usize = 20;

/// A difference to the baseline.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    pub name: String,
    /// Which of the page's colours.
    pub color: usize,
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// Its name is bold.
    pub is_sure: bool,
    /// The same in words.
    pub text: String,
}

/// The picture; `unit` is written under the axis.
pub fn interval_chart(title: &str, unit: &str, bars: &[Bar]) -> String {
    let ends = bars.iter().flat_map(|bar| [bar.low, bar.high, bar.mean]);
    let (low, high) = ends.fold((0.0f64, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
    let (low, high) = if high - low > 1e-12 { rounded_outwards((low, high)) } else { (-1.0, 1.0) };
    let place = |value: f64| LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let bottom = TOP + LINE * bars.len() as f64;
    let height = bottom + BOTTOM;
    let grid: String = ticks((low, high))
        .into_iter()
        .map(|value| {
            let (x, kind) = (place(value), if value == 0.0 { "zero" } else { "grid" });
            format!(
                "<line class=\"{kind}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text class=\"x\" x=\"{x:.1}\" y=\"{}\">{}</text>\n",
                bottom + 16.0,
                short(value)
            )
        })
        .collect();
    let lines: String =
        bars.iter().enumerate().map(|(i, bar)| line(bar, TOP + LINE * (i as f64 + 0.5), &place)).collect();
    let sentence: Vec<String> = bars.iter().map(|bar| format!("{} {}", bar.name, bar.text)).collect();
    format!(
        "<figure class=\"chart\"><figcaption>{}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"{}\">\n{grid}{lines}<text class=\"x\" x=\"{}\" y=\"{}\">{}</text></svg></figure>\n",
        escape(title),
        escape(&format!("{title}: {}.", sentence.join("; "))),
        (LEFT + WIDTH - RIGHT) / 2.0,
        height - 4.0,
        escape(unit)
    )
}

fn line(bar: &Bar, y: f64, place: &dyn Fn(f64) -> f64) -> String {
    format!(
        "<g><title>{} {}</title><text class=\"y {}\" x=\"{}\" y=\"{:.1}\">{}</text>\
         <line class=\"c{} interval\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\"/>\
         <circle class=\"c{}\" cx=\"{:.1}\" cy=\"{y}\" r=\"5\"/></g>\n",
        escape(&bar.name),
        escape(&bar.text),
        if bar.is_sure { "sure" } else { "label" },
        LEFT - 10.0,
        y + 4.0,
        escape(&cut(&bar.name)),
        bar.color % NUM_COLORS,
        place(bar.low),
        place(bar.high),
        bar.color % NUM_COLORS,
        place(bar.mean)
    )
}

/// What there is room for; a mark that has no width of its own stays with the character before it.
fn cut(name: &str) -> String {
    if name.width() <= MAX_NAME_WIDTH {
        return name.to_owned();
    }
    let starts = name.char_indices().filter(|(_, c)| c.width() != Some(0)).map(|(at, _)| at);
    let end = starts.take_while(|at| name[..*at].width() < MAX_NAME_WIDTH).last().unwrap_or(0);
    format!("{}\u{2026}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, mean: f64, low: f64, high: f64) -> Bar {
        Bar { name: name.to_owned(), color: 7, mean, low, high, is_sure: low > 0.0, text: format!("{mean}") }
    }

    #[test]
    fn zero_is_always_in_the_picture_and_an_interval_without_it_is_marked() {
        let html = interval_chart("greedy", "points", &[bar("<a>", 2.0, 1.0, 3.0), bar("b", 2.0, -1.0, 5.0)]);
        assert_eq!(html.matches("class=\"zero\"").count(), 1);
        assert_eq!((html.matches("\"y sure\"").count(), html.matches("\"y label\"").count()), (1, 1));
        assert!(html.contains("&lt;a&gt;") && !html.contains("<a>") && html.contains("c1 interval"), "{html}");
    }

    #[test]
    fn no_difference_at_all_still_has_a_place_and_long_names_are_cut() {
        let html = interval_chart("greedy", "points", &[bar(&"long ".repeat(9), 0.0, 0.0, 0.0)]);
        assert!(!html.contains("NaN") && !html.contains("inf\""), "{html}");
        assert!(html.contains(">long long long long\u{2026}<"), "{html}");
    }

    #[test]
    fn a_name_is_cut_by_its_width_and_never_before_a_mark() {
        let html = interval_chart("greedy", "points", &[bar(&"\u{6cd5}".repeat(11), 0.0, 0.0, 0.0)]);
        assert!(html.contains(&format!(">{}\u{2026}<", "\u{6cd5}".repeat(9))), "two cells each: {html}");
        assert_eq!(cut(&"\u{6cd5}".repeat(10)), "\u{6cd5}".repeat(10), "there is room for them");
        let accented = "e\u{301}";
        assert_eq!(cut(&accented.repeat(20)), accented.repeat(20), "a mark takes no room");
        assert_eq!(cut(&accented.repeat(21)), accented.repeat(19) + "\u{2026}");
    }
}
