//! How sure a difference between two methods is: a paired bootstrap over seeds and rows.
//!
//! Both methods answered the same rows with the same seeds, so that a row's difficulty and a seed's luck cancel in the
//! difference. Each resample draws seeds with replacement, then rows. Where every seed is judged on the same rows, these are
//! drawn once for all seeds (rows and seeds are crossed; Owen, "The pigeonhole bootstrap", 2007); where each seed has rows of its
//! own, anew for each. The interval holds the middle 95% of the resampled means.
//!
//! Few seeds say little: with one, the interval is that of the rows alone. Where seeds differ more than rows, that of n seeds
//! is the normal interval times sqrt((n - 1) / n) where Student's would be right: it holds the truth 84 times in 100 for five
//! seeds, 75 for three, 90 for ten.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

/// Resamples of every interval.
pub const NUM_RESAMPLES: usize = 2_000;
/// Probability outside of the interval, on each side.
const TAIL: f64 = 0.025;
/// The same data give the same interval.
const SEED: u64 = 0;

/// The differences of two methods on the rows of one seed.
#[derive(Debug, Clone, PartialEq)]
pub struct PairedRows {
    /// What one method has more than the other on each row.
    pub differences: Vec<f64>,
    /// What each row counts, above 0: 1, or tokens. The seed's difference is the sum of differences over that of weights.
    pub weights: Vec<f64>,
}

impl PairedRows {
    fn mean_of(&self, rows: impl Iterator<Item = usize>) -> f64 {
        let (mut difference, mut weight) = (0.0, 0.0);
        for row in rows {
            difference += self.differences[row];
            weight += self.weights[row];
        }
        difference / weight
    }

    fn len(&self) -> usize {
        self.differences.len()
    }
}

/// A mean with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// The fewest rows of a seed.
    pub num_rows: usize,
}

impl Interval {
    /// Whether zero is outside, on more than one row: one says nothing of others.
    pub fn is_sure(&self) -> bool {
        self.num_rows > 1 && (self.low > 0.0 || self.high < 0.0)
    }
}

/// The mean difference over seeds and its interval; None without a row. `same_rows`: all seeds were judged on the same
/// rows, in the same order.
///
/// # Panics
/// If a seed has not as many weights as differences, or `same_rows` have different numbers.
pub fn interval(seeds: &[PairedRows], same_rows: bool) -> Option<Interval> {
    let num_rows = seeds.iter().map(PairedRows::len).min()?;
    for seed in seeds {
        assert_eq!(seed.len(), seed.weights.len(), "a weight for each difference");
        assert!(!same_rows || seed.len() == num_rows, "the same rows for all seeds");
    }
    if num_rows == 0 {
        return None;
    }
    let mean = mean(seeds.iter().map(|seed| seed.mean_of(0..seed.len())));
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut draw = |num: usize| -> Vec<usize> { (0..num).map(|_| below(&mut random, num)).collect() };
    let mut resampled: Vec<f64> = (0..NUM_RESAMPLES)
        .map(|_| {
            let drawn = draw(seeds.len());
            let rows_of_all = if same_rows { draw(num_rows) } else { Vec::new() };
            let mut of_seed = |seed: &usize| {
                let seed = &seeds[*seed];
                match same_rows {
                    true => seed.mean_of(rows_of_all.iter().copied()),
                    false => seed.mean_of(draw(seed.len()).into_iter()),
                }
            };
            self::mean(drawn.iter().map(&mut of_seed))
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    Some(Interval { mean, low: quantile(&resampled, TAIL), high: quantile(&resampled, 1.0 - TAIL), num_rows })
}

/// Mean and sample deviation; no deviation of a single value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub mean: f64,
    pub deviation: Option<f64>,
}

impl Spread {
    /// None without a value.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let mean = mean(values.iter().copied());
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt());
        Some(Spread { mean, deviation })
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let num = values.len() as f64;
    values.sum::<f64>() / num
}

/// Uniform in `0..end`; the bias of the remainder is below 1e-15 here.
fn below(random: &mut ChaCha8Rng, end: usize) -> usize {
    (random.next_u64() % end as u64) as usize
}

/// Between the two nearest of the sorted values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Standard normal, by the sum of twelve uniform numbers less six: variance 1, tails a little light.
    fn normal(random: &mut ChaCha8Rng) -> f64 {
        (0..12).map(|_| (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64).sum::<f64>() - 6.0
    }

    /// Rows whose difference is `mean + seed effect + row effect + noise`.
    fn simulated(random: &mut ChaCha8Rng, num_seeds: usize, num_rows: usize, effects: [f64; 3]) -> Vec<PairedRows> {
        let rows: Vec<f64> = (0..num_rows).map(|_| effects[1] * normal(random)).collect();
        (0..num_seeds)
            .map(|_| {
                let seed = effects[0] * normal(random);
                let differences = rows.iter().map(|row| 1.0 + seed + row + effects[2] * normal(random)).collect();
                PairedRows { differences, weights: vec![1.0; num_rows] }
            })
            .collect()
    }

    /// The share of 300 simulations whose interval holds the true mean, 1.
    fn coverage(num_seeds: usize, num_rows: usize, effects: [f64; 3], same_rows: bool) -> f64 {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let holds = (0..300).filter(|_| {
            let interval = interval(&simulated(&mut random, num_seeds, num_rows, effects), same_rows).unwrap();
            interval.low <= 1.0 && 1.0 <= interval.high
        });
        holds.count() as f64 / 300.0
    }

    #[test]
    fn the_interval_of_one_seed_covers_a_normal_mean_as_often_as_it_says() {
        // 95% of 300 with a standard error of 1.3%; the percentile interval of 60 rows is about 1% too narrow.
        let share = coverage(1, 60, [0.0, 0.0, 1.0], false);
        assert!((0.91..=0.98).contains(&share), "{share}");
    }

    #[test]
    fn seeds_of_different_luck_and_rows_of_different_difficulty_widen_the_interval_enough() {
        // Twelve seeds: the percentile interval of 12 values covers about 91% (t against normal), more with the rows' share.
        for (effects, same_rows) in [([1.0, 0.0, 1.0], false), ([0.3, 1.0, 0.5], true)] {
            let share = coverage(12, 30, effects, same_rows);
            assert!((0.88..=0.99).contains(&share), "{effects:?}: {share}");
        }
        // What ignoring that all seeds met the same rows would do.
        let share = coverage(12, 30, [0.0, 1.0, 0.1], false);
        assert!(share < 0.75, "{share}");
    }

    #[test]
    fn the_width_is_that_of_the_normal_approximation() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let data = simulated(&mut random, 1, 400, [0.0, 0.0, 1.0]);
        let found = interval(&data, true).unwrap();
        // Two times 1.96 standard errors of 1 / sqrt(400), to within the 2,000 resamples' and the sample's own 10%.
        let width = 2.0 * 1.96 / 20.0;
        assert!((found.high - found.low - width).abs() < 0.1 * width, "{found:?}");
    }

    #[test]
    fn identical_methods_differ_by_exactly_nothing() {
        let same = PairedRows { differences: vec![0.0; 9], weights: vec![3.0; 9] };
        for same_rows in [false, true] {
            let found = interval(&[same.clone(), same.clone()], same_rows).unwrap();
            assert_eq!(found, Interval { mean: 0.0, low: 0.0, high: 0.0, num_rows: 9 });
        }
    }

    #[test]
    fn a_difference_of_all_rows_alike_is_sure_and_that_of_one_row_is_not() {
        let alike = |num_rows| PairedRows { differences: vec![1.0; num_rows], weights: vec![1.0; num_rows] };
        let [one, two] = [1, 2].map(|num_rows| interval(&[alike(num_rows), alike(9)], false).unwrap());
        assert_eq!((one.low, one.high, one.num_rows, one.is_sure()), (1.0, 1.0, 1, false));
        assert_eq!((two.low, two.high, two.num_rows, two.is_sure()), (1.0, 1.0, 2, true));
    }

    #[test]
    fn a_difference_of_no_kind_but_chance_has_zero_inside() {
        let differences = (0..100).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let found = interval(&[PairedRows { differences, weights: vec![1.0; 100] }], false).unwrap();
        assert!(found.mean == 0.0 && found.low < 0.0 && found.high > 0.0, "{found:?}");
    }

    #[test]
    fn weights_make_a_mean_per_token_and_seeds_count_alike() {
        let one = PairedRows { differences: vec![2.0, 4.0], weights: vec![1.0, 3.0] };
        let two = PairedRows { differences: vec![1.0], weights: vec![2.0] };
        // (6 / 4 + 1 / 2) / 2
        assert_eq!(interval(&[one, two], false).unwrap().mean, 1.0);
        assert_eq!(interval(&[], false), None);
    }

    #[test]
    fn the_same_data_give_the_same_interval() {
        let data = simulated(&mut ChaCha8Rng::seed_from_u64(1), 3, 20, [1.0, 1.0, 1.0]);
        assert_eq!(interval(&data, true), interval(&data, true));
    }

    #[test]
    fn the_sample_deviation_is_that_of_the_textbook() {
        // 2, 4, 4, 4, 5, 5, 7, 9: mean 5, squares sum to 32, 32 / 7.
        let spread = Spread::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert_eq!((spread.mean, spread.deviation), (5.0, Some((32.0f64 / 7.0).sqrt())));
        assert_eq!(Spread::of(&[3.0]).unwrap().deviation, None);
        assert_eq!(Spread::of(&[]), None);
    }
}
