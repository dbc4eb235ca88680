//! Curves: points, smoothed where they are many and noisy, thinned to what a screen can show.

/// A curve has at most about this many points.
const MAX_POINTS: usize = 500;
/// Fewer points than this are not smoothed.
const MIN_TO_SMOOTH: usize = 60;
/// A smoothed curve averages over one in so many of its points.
const SMOOTHED_SHARE: usize = 20;

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
}

/// A curve of a chart. It is interrupted where an iteration ends, because there its meaning changes: policy and
/// reference are the same again.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    /// Which of the page's colours.
    pub color: usize,
    /// How the line is broken: 0 not at all.
    pub dash: usize,
    /// The stretches between interruptions, thinned.
    pub stretches: Vec<Vec<Point>>,
    /// The same as running means; empty if there are too few points.
    pub smooth: Vec<Vec<Point>>,
    /// Points that are averaged in `smooth`.
    pub window: usize,
}

impl Series {
    /// A curve over updates, interrupted before each of `breaks`.
    pub fn of_updates(name: String, color: usize, points: Vec<Point>, breaks: &[f64]) -> Self {
        let window = (points.len() / SMOOTHED_SHARE) | 1;
        let stretches = split(&points, breaks);
        let smooth = match points.len() < MIN_TO_SMOOTH {
            true => Vec::new(),
            false => thin_all(stretches.iter().map(|stretch| running_mean(stretch, window)).collect()),
        };
        Series { name, color, dash: 0, stretches: thin_all(stretches), smooth, window }
    }

    /// A curve that is drawn as it is.
    pub fn exact(name: String, color: usize, points: Vec<Point>) -> Self {
        Series { name, color, dash: 0, stretches: thin_all(vec![points]), smooth: Vec::new(), window: 1 }
    }

    /// The last point, of the running mean if there is one.
    pub fn end(&self) -> Option<Point> {
        let curve = if self.smooth.is_empty() { &self.stretches } else { &self.smooth };
        curve.last()?.last().copied()
    }

    /// All points that are drawn.
    pub fn points(&self) -> impl Iterator<Item = Point> {
        self.stretches.iter().flatten().copied()
    }
}

fn split(points: &[Point], breaks: &[f64]) -> Vec<Vec<Point>> {
    let stretch_of = |point: &Point| breaks.iter().filter(|x| **x <= point.x).count();
    points.chunk_by(|a, b| stretch_of(a) == stretch_of(b)).map(<[Point]>::to_vec).collect()
}

/// Each point becomes the mean of the up to `window` points around it.
///
/// A sum over a window is one over the end of a block and one over the start of the next: linear in the number of points, and
/// without differences of long sums, which a spike or a NaN would spoil far beyond its windows.
fn running_mean(points: &[Point], window: usize) -> Vec<Point> {
    let half = window / 2;
    let block_len = 2 * half + 1;
    let from_start: Vec<f64> = points.chunks(block_len).flat_map(|block| running_sums(block.iter())).collect();
    let to_end: Vec<f64> =
        points.chunks(block_len).flat_map(|block| running_sums(block.iter().rev()).into_iter().rev()).collect();
    let mean = |i: usize| {
        let (first, last) = (i.saturating_sub(half), (i + half).min(points.len() - 1));
        let sum = match (first % block_len, first / block_len == last / block_len) {
            (0, _) => from_start[last],
            (_, true) => to_end[first], // the curve ends here
            (_, false) => to_end[first] + from_start[last],
        };
        sum / (last + 1 - first) as f64
    };
    (0..points.len()).map(|i| Point { x: points[i].x, y: mean(i) }).collect()
}

/// The sums of the first, of the first two, and so on.
fn running_sums<'a>(points: impl Iterator<Item = &'a Point>) -> Vec<f64> {
    let add = |sum: &mut f64, point: &Point| {
        *sum += point.y;
        Some(*sum)
    };
    points.scan(0.0, add).collect()
}

/// Shares [`MAX_POINTS`] among the stretches by their length.
fn thin_all(stretches: Vec<Vec<Point>>) -> Vec<Vec<Point>> {
    let num_points: usize = stretches.iter().map(Vec::len).sum();
    if num_points <= MAX_POINTS {
        return stretches;
    }
    stretches.iter().map(|stretch| thin(stretch, stretch.len() * MAX_POINTS / num_points)).collect()
}

/// About `limit` of the points: first and last, and of each part between them the lowest and the highest, so that no
/// spike is lost.
fn thin(points: &[Point], limit: usize) -> Vec<Point> {
    let ([first, inner @ .., last], true) = (points, points.len() > limit.max(4)) else { return points.to_vec() };
    let part = inner.len().div_ceil(limit.saturating_sub(2).div_ceil(2).max(1));
    let extremes = |part: &[Point]| -> Vec<Point> {
        let lowest = (0..part.len()).min_by(|i, j| part[*i].y.total_cmp(&part[*j].y)).unwrap_or(0);
        let highest = (0..part.len()).max_by(|i, j| part[*i].y.total_cmp(&part[*j].y)).unwrap_or(0);
        let mut kept = vec![lowest.min(highest), lowest.max(highest)];
        kept.dedup();
        kept.into_iter().map(|i| part[i]).collect()
    };
    let inner = inner.chunks(part).flat_map(extremes);
    std::iter::once(*first).chain(inner).chain(std::iter::once(*last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(count: usize, y: impl Fn(usize) -> f64) -> Vec<Point> {
        (0..count).map(|i| Point { x: i as f64, y: y(i) }).collect()
    }

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_spikes_and_its_ends() {
        let spiky = |i: usize| match i {
            12_345 => 99.0,
            54_321 => -99.0,
            _ => (i % 7) as f64,
        };
        let series = Series::of_updates("loss".into(), 0, points(100_000, spiky), &[50_000.0]);
        let drawn: Vec<Point> = series.points().collect();
        assert!((400..=MAX_POINTS + 4).contains(&drawn.len()), "{}", drawn.len());
        for (x, y) in [(0.0, 0.0), (12_345.0, 99.0), (54_321.0, -99.0), (99_999.0, 4.0)] {
            assert!(drawn.contains(&Point { x, y }), "{x}");
        }
        assert!(drawn.is_sorted_by(|a, b| a.x < b.x));
        assert_eq!(series.stretches.len(), 2);
        assert!(series.smooth.iter().map(Vec::len).sum::<usize>() <= MAX_POINTS + 4);
    }

    #[test]
    fn a_short_curve_is_drawn_whole_and_not_smoothed() {
        let series = Series::of_updates("loss".into(), 0, points(59, |i| i as f64), &[]);
        assert_eq!((series.points().count(), series.smooth.len()), (59, 0));
    }

    #[test]
    fn a_running_mean_does_not_look_across_an_interruption() {
        // A window of 60 / 20 | 1 = 3.
        let series =
            Series::of_updates("margin".into(), 0, points(60, |i| if i < 40 { 9.0 } else { i as f64 }), &[40.0]);
        assert_eq!(series.window, 3);
        assert_eq!(series.smooth[0][39], Point { x: 39.0, y: 9.0 });
        assert_eq!(series.smooth[1][..2], [Point { x: 40.0, y: 40.5 }, Point { x: 41.0, y: 41.0 }]);
    }

    #[test]
    fn a_running_mean_is_that_of_the_points_around_whatever_lies_elsewhere() {
        let rough = |i: usize| match i {
            40 => 1e30,
            70 => f64::NAN,
            100 => f64::INFINITY,
            _ => (i as f64).sin(),
        };
        for (num_points, window) in [(0, 3), (1, 1), (1, 9), (5, 9), (7, 3), (9, 3), (130, 1), (130, 7), (131, 40)] {
            let points = points(num_points, rough);
            let half = window / 2;
            let means = running_mean(&points, window);
            assert_eq!(means.len(), num_points);
            for (i, mean) in means.iter().enumerate() {
                let around = &points[i.saturating_sub(half)..(i + half + 1).min(num_points)];
                let expected = around.iter().map(|point| point.y).sum::<f64>() / around.len() as f64;
                let is_same = mean.y == expected || mean.y.is_nan() && expected.is_nan();
                let is_near = (mean.y - expected).abs() <= 1e-12 * expected.abs().max(1.0);
                assert!(mean.x == i as f64 && (is_same || is_near), "{num_points}, {window}: {mean:?}, {expected}");
            }
        }
    }
}
