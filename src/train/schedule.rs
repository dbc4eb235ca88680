//! The learning rate of each step.
//!
//! A pure function of the step's number, so that a resumed run continues with the same rates. Next:
//! [`super::optimizer`].

use std::f64::consts::PI;

use crate::config::{ScheduleName, TrainConfig};

/// The learning rate of update number `step`, counted from 0, of `num_steps`.
///
/// Warm-up: `lr * (step + 1) / warmup_steps`, so that its last step has the full `lr`; it is cut off if the run is
/// shorter. Then the schedule goes from `lr` down to `final_lr_ratio * lr`, which is the rate of the last step, along
/// a line or half a cosine; `Constant` stays at `lr`. Steps after the last one keep the final rate.
///
/// # Panics
/// If `config.lr` is not resolved: a bug in the caller.
pub fn learning_rate(config: &TrainConfig, step: usize, num_steps: usize) -> f64 {
    let lr = config.lr.expect("the learning rate is resolved before training");
    let num_warm = config.warmup_steps.max(1);
    if step < num_warm {
        return lr * (step + 1) as f64 / num_warm as f64;
    }
    let num_decaying = num_steps.saturating_sub(num_warm).max(1);
    let progress = ((step + 1 - num_warm) as f64 / num_decaying as f64).min(1.0);
    let remaining = match config.schedule {
        ScheduleName::Constant => return lr,
        ScheduleName::Linear => 1.0 - progress,
        ScheduleName::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
    };
    lr * (config.final_lr_ratio + (1.0 - config.final_lr_ratio) * remaining)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(schedule: ScheduleName, warmup_steps: usize) -> TrainConfig {
        TrainConfig { lr: Some(1.0), schedule, warmup_steps, final_lr_ratio: 0.1, ..Default::default() }
    }

    fn assert_rate(config: &TrainConfig, step: usize, num_steps: usize, expected: f64) {
        let rate = learning_rate(config, step, num_steps);
        assert!((rate - expected).abs() < 1e-12, "step {step} of {num_steps}: {rate}, not {expected}");
    }

    #[test]
    fn warm_up_rises_by_equal_steps_to_the_full_rate() {
        for schedule in [ScheduleName::Constant, ScheduleName::Linear, ScheduleName::Cosine] {
            let config = config(schedule, 4);
            for (step, expected) in [0.25, 0.5, 0.75, 1.0].into_iter().enumerate() {
                assert_rate(&config, step, 14, expected);
            }
        }
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_full_rate() {
        assert_rate(&config(ScheduleName::Linear, 0), 0, 10, 1.0);
        assert_rate(&config(ScheduleName::Cosine, 0), 0, 1, 1.0);
    }

    #[test]
    fn linear_falls_to_the_final_ratio_at_the_last_step() {
        let config = config(ScheduleName::Linear, 4);
        assert_rate(&config, 4, 14, 0.91); // one tenth of the way from 1 to 0.1
        assert_rate(&config, 8, 14, 0.55);
        assert_rate(&config, 13, 14, 0.1);
        assert_rate(&config, 20, 14, 0.1);
    }

    #[test]
    fn cosine_is_slow_at_both_ends() {
        let config = config(ScheduleName::Cosine, 4);
        assert_rate(&config, 4, 14, 0.1 + 0.45 * (1.0 + 0.9510565162951535)); // cos(pi / 10)
        assert_rate(&config, 8, 14, 0.55);
        assert_rate(&config, 13, 14, 0.1);
    }

    #[test]
    fn constant_stays() {
        let config = config(ScheduleName::Constant, 2);
        assert_rate(&config, 2, 10, 1.0);
        assert_rate(&config, 9, 10, 1.0);
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_only_warms_up() {
        let config = config(ScheduleName::Cosine, 10);
        for step in 0..4 {
            assert_rate(&config, step, 4, (step + 1) as f64 / 10.0);
        }
    }
}
