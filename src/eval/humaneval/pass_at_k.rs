//! pass@k: the chance that at least one of k samples is right.

use crate::eval::figures::Figure;

/// Estimates pass@k of one task, `c` of whose `n` samples passed, without bias:
/// `1 - C(n - c, k) / C(n, k)`, as the product of `1 - k / i` over `i` in `n - c + 1 ..= n`.
///
/// Source: Chen et al. 2021, section 2.1.
/// # Panics
/// If `k` is 0 or above `n`, or `c` is above `n`.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> f64 {
    assert!(0 < k && k <= n && c <= n, "pass@{k} of {c} right among {n}");
    if n - c < k {
        return 1.0;
    }
    1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

/// The mean of pass@k over tasks, from the values of the tasks, each between 0 and 1, with Wilson's interval over tasks.
///
/// # Panics
/// Without a task.
pub fn over_tasks(values: &[f64]) -> Figure {
    Figure::wilson(values.iter().sum::<f64>() / values.len() as f64, values.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_the_published_formula_worked_by_hand() {
        for (n, c, k, expected) in [
            (1, 1, 1, 1.0),
            (1, 0, 1, 0.0),
            (6, 3, 1, 0.5),          // openai/human-eval says 0.4999999999999999 of its example
            (5, 2, 2, 0.7),          // 1 - 3/10
            (10, 3, 5, 11.0 / 12.0), // 1 - 21/252
            (4, 1, 2, 0.5),          // 1 - 3/6
            (200, 1, 100, 0.5),      // C(199,100) / C(200,100) = 1/2, each of them about 1e58
            (5, 4, 2, 1.0),          // any two hold a right one
            (100, 0, 100, 0.0),
        ] {
            assert!((pass_at_k(n, c, k) - expected).abs() < 1e-12, "{n} {c} {k}: {}", pass_at_k(n, c, k));
        }
    }

    #[test]
    fn the_estimate_is_the_share_of_all_choices_of_k_samples() {
        // Counting every choice instead of trusting the formula.
        for n in 1..=8_usize {
            for c in 0..=n {
                for k in 1..=n {
                    let chosen = (0_u32..1 << n).filter(|set| set.count_ones() as usize == k);
                    let (all, right) = chosen
                        .fold((0, 0), |(all, right), set| (all + 1, right + usize::from(set & ((1 << c) - 1) != 0)));
                    let share = right as f64 / all as f64;
                    assert!((pass_at_k(n, c, k) - share).abs() < 1e-12, "{n} {c} {k}");
                }
            }
        }
    }

    #[test]
    fn the_interval_is_wilsons() {
        // 8 of 10, by the formula in Python's decimal arithmetic with 30 digits.
        let values: Vec<f64> = (0..10).map(|i| f64::from(u8::from(i < 8))).collect();
        let interval = over_tasks(&values);
        assert!((interval.value - 0.8).abs() < 1e-12);
        assert!((interval.low.unwrap() - 0.490_162_471_536_641_7).abs() < 1e-12, "{interval:?}");
        assert!((interval.high.unwrap() - 0.943_317_848_545_624_7).abs() < 1e-12, "{interval:?}");
        let all = over_tasks(&[1.0; 164]);
        assert!(all.value == 1.0 && all.high == Some(1.0) && (0.97..0.98).contains(&all.low.unwrap()), "{all:?}");
    }
}
