//! Figures of an evaluation, each with its 95% confidence interval.
//!
//! A share has Wilson's interval, which stays inside 0 and 1 and has a width where all rows are right or none. A mean has the
//! normal one. A perplexity is a ratio of sums: the normal interval is that of its logarithm (linearised, Cochran, Sampling
//! Techniques, 1977, 6.4), over rows, or over tokens where there is one text alone.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::report::table::{format_table, plural};

/// The normal distribution's 97.5% point.
const Z: f64 = 1.959_963_984_540_054;

/// How an interval was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Of a share of rows.
    Wilson,
    /// Of a mean over rows.
    Normal,
    /// Of a mean over the tokens of one text. They are not independent: it is too narrow.
    NormalOverTokens,
}

/// A figure and its 95% interval, which is absent where one observation says nothing of others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    pub value: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub interval: Method,
}

impl Figure {
    /// The share `num_right / num_rows` with Wilson's score interval.
    ///
    /// # Panics
    /// Without rows.
    pub fn share(num_right: usize, num_rows: usize) -> Self {
        Figure::wilson(num_right as f64 / num_rows as f64, num_rows)
    }

    /// The mean of `num_rows` values between 0 and 1 with Wilson's score interval (Wilson, 1927): exact in its variance for
    /// values of 0 and 1, too wide for values between them, and of some width even if all are 1.
    ///
    /// # Panics
    /// Without rows.
    pub fn wilson(mean: f64, num_rows: usize) -> Self {
        assert!(num_rows > 0, "a share of no rows");
        let n = num_rows as f64;
        let centre = (mean + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (mean * (1.0 - mean) / n + Z * Z / (4.0 * n * n)).sqrt();
        // Exact at the ends, where rounding may leave a little more or less.
        let low = if mean == 0.0 { 0.0 } else { centre - half };
        let high = if mean == 1.0 { 1.0 } else { centre + half };
        Figure { value: mean, low: Some(low), high: Some(high), interval: Method::Wilson }
    }

    /// The mean of values with the normal interval.
    pub fn mean(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Figure::around(mean, (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()), Method::Normal)
    }

    /// `value` with the normal interval of this standard error.
    pub fn around(value: f64, standard_error: Option<f64>, interval: Method) -> Self {
        let (low, high) = (standard_error.map(|e| value - Z * e), standard_error.map(|e| value + Z * e));
        Figure { value, low, high, interval }
    }

    /// Whether value and interval are numbers that JSON can say.
    pub fn is_finite(&self) -> bool {
        [Some(self.value), self.low, self.high].into_iter().flatten().all(f64::is_finite)
    }

    /// The figure on another scale; `falls`: a larger value becomes a smaller one.
    pub fn map(self, falls: bool, scale: impl Fn(f64) -> f64) -> Self {
        let (low, high) = if falls { (self.high, self.low) } else { (self.low, self.high) };
        Figure { value: scale(self.value), low: low.map(&scale), high: high.map(&scale), interval: self.interval }
    }
}

/// What an evaluation found: the JSON that is printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub evaluation: &'static str,
    pub num_rows: usize,
    /// Of the intervals.
    pub confidence: f64,
    pub figures: BTreeMap<&'static str, Figure>,
}

impl Report {
    /// A report of these figures.
    pub fn new(evaluation: &'static str, num_rows: usize, figures: impl Into<BTreeMap<&'static str, Figure>>) -> Self {
        Report { evaluation, num_rows, confidence: 0.95, figures: figures.into() }
    }

    /// The figures for a person.
    pub fn table(&self) -> String {
        let number = |value: f64| if value.abs() < 1e6 { format!("{value:.4}") } else { format!("{value:.4e}") };
        let row = |(name, figure): (&&str, &Figure)| {
            let interval = match (figure.low, figure.high) {
                (Some(low), Some(high)) => format!("{} to {}", number(low), number(high)),
                _ => "-".to_owned(),
            };
            vec![(*name).to_owned(), number(figure.value), interval]
        };
        let rows: Vec<Vec<String>> = self.figures.iter().map(row).collect();
        let head = format!("{}, {}", self.evaluation, plural(self.num_rows, "row"));
        let table = format_table(&[&head, "figure", "95% interval"], &rows);
        match self.figures.values().any(|figure| figure.interval == Method::NormalOverTokens && figure.low.is_some()) {
            true => table + "Intervals over the tokens of one text, which are not independent: they are too narrow.\n",
            false => table,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_interval(figure: Figure, value: f64, low: f64, high: f64) {
        for (actual, expected) in [(figure.value, value), (figure.low.unwrap(), low), (figure.high.unwrap(), high)] {
            assert!((actual - expected).abs() < 1e-6, "{figure:?}: {actual}, expected {expected}");
        }
    }

    #[test]
    fn wilsons_interval_is_that_of_the_formula_worked_by_hand() {
        // z = 1.959964, z^2 = 3.841459. 8 of 10: centre (0.8 + 0.192073) / 1.384146 = 0.716740, half
        // 1.416010 * sqrt(0.016 + 0.009604) = 0.226577.
        assert_interval(Figure::share(8, 10), 0.8, 0.490162, 0.943318);
        // None of 10: 3.841459 / 13.841459.
        assert_interval(Figure::share(0, 10), 0.0, 0.0, 0.277533);
        assert_interval(Figure::share(10, 10), 1.0, 0.722467, 1.0);
        // 1 of 1: 1 / (1 + 3.841459).
        assert_interval(Figure::share(1, 1), 1.0, 0.206549, 1.0);
    }

    #[test]
    fn the_normal_interval_of_a_mean_is_that_of_the_formula_worked_by_hand() {
        // 1, 2, 3, 4: variance 5/3, standard error sqrt(5/12) = 0.645497, times 1.959964 = 1.265151.
        assert_interval(Figure::mean(&[1.0, 2.0, 3.0, 4.0]), 2.5, 1.234849, 3.765151);
        let one = Figure::mean(&[7.0]);
        assert_eq!((one.value, one.low, one.high), (7.0, None, None));
    }

    #[test]
    fn a_falling_scale_turns_the_interval_round() {
        let figure = Figure::around(-1.0, Some(0.5 / Z), Method::Normal).map(true, |x| (-x).exp());
        assert_interval(figure, 1f64.exp(), 0.5f64.exp(), 1.5f64.exp());
    }

    #[test]
    fn large_figures_have_an_exponent_in_the_table() {
        let figure = Figure { value: 1.5e250, low: Some(999_999.0), high: Some(1e300), interval: Method::Normal };
        let table = Report::new("x", 2, [("a", figure)]).table();
        assert!(table.contains("1.5000e250  999999.0000 to 1.0000e300"), "{table}");
    }

    #[test]
    fn a_figure_is_finite_if_its_interval_is() {
        let figure = |value, high| Figure { value, low: None, high, interval: Method::Normal };
        assert!(figure(1e300, None).is_finite() && figure(1e300, Some(1e308)).is_finite());
        assert!(!figure(f64::INFINITY, None).is_finite() && !figure(f64::NAN, None).is_finite());
        assert!(!figure(1e300, Some(f64::INFINITY)).is_finite());
    }

    #[test]
    fn the_table_says_what_is_not_known() {
        let report = Report::new("x", 1, [("a", Figure::mean(&[2.0])), ("b", Figure::share(1, 1))]);
        let table = report.table();
        assert!(table.contains("2.0000                 -"), "{table}");
        assert!(table.contains("1.0000  0.2065 to 1.0000"), "{table}");
        assert!(!table.contains("too narrow"), "{table}");
        let over_tokens = |standard_error| {
            Report::new("x", 1, [("a", Figure::around(2.0, standard_error, Method::NormalOverTokens))]).table()
        };
        assert!(over_tokens(Some(0.1)).contains("not independent: they are too narrow"));
        assert!(!over_tokens(None).contains("too narrow"), "there is no interval");
    }
}
