//! `metrics.jsonl`: every update in numbers.

use serde::{Deserialize, Serialize};

use super::stage::is_iteration;

/// The file in a run folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpdateRow {
    /// `sft`, `iteration 0`, .., `continued sft`.
    pub stage: String,
    /// Updates of the stage with this one.
    pub stage_step: usize,
    /// Updates of the run with this one.
    pub total_step: usize,
    /// Counted from 0 in each stage.
    pub epoch: usize,
    #[serde(flatten)]
    pub metrics: StepMetrics,
}

impl UpdateRow {
    /// Made inside an iteration, not in a supervised stage.
    pub fn is_of_iteration(&self) -> bool {
        is_iteration(&self.stage)
    }
}

/// What an update was like. Log-ratios and log-probs in nats. Figures about self-generated responses are absent in
/// supervised stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    pub loss: f64,
    pub loss_demonstration: f64,
    pub loss_self_generated: f64,
    /// Mean log-prob per token of the batch's demonstrations. A rising margin while this falls is this family's known
    /// failure.
    pub demonstration_log_prob_per_token: f64,
    #[serde(flatten)]
    pub log_ratios: Option<LogRatios>,
    /// Before clipping.
    pub grad_norm: f64,
    pub lr: f64,
    /// Exponentials of the implicit reward that were clamped.
    pub num_clamped: f64,
    /// Tokens of the update's pairs a second; a pair's prompt counts once, as it is computed.
    pub tokens_per_s: f64,
    pub seconds: f64,
}

/// How far policy and reference are apart on each side of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LogRatios {
    pub log_ratio_demonstration: f64,
    pub log_ratio_self_generated: f64,
    pub max_abs_log_ratio_demonstration: f64,
    pub max_abs_log_ratio_self_generated: f64,
    /// Share of pairs in which the demonstration's log-ratio is the larger one; with several responses a pair counts in parts.
    /// Responses that are the demonstration are left out; None if all are.
    pub implicit_reward_accuracy: Option<f64>,
    /// Mean of demonstration's less self-generated response's log-ratio.
    pub log_ratio_margin: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_is_read_and_written_byte_for_byte_with_log_ratios_and_without() {
        let supervised = json!({
            "stage": "sft", "stage_step": 1, "total_step": 1, "epoch": 0,
            "loss": 2.5, "loss_demonstration": 2.5, "loss_self_generated": 0.0,
            "demonstration_log_prob_per_token": -2.5,
            "grad_norm": 0.5, "lr": 1e-4, "num_clamped": 0.0, "tokens_per_s": 100.0, "seconds": 0.25,
        });
        let of_iteration = json!({
            "stage": "iteration 0", "stage_step": 1, "total_step": 2, "epoch": 0,
            "loss": 1.5, "loss_demonstration": 0.75, "loss_self_generated": 0.75,
            "demonstration_log_prob_per_token": -2.5,
            "log_ratio_demonstration": 0.5, "log_ratio_self_generated": -0.5,
            "max_abs_log_ratio_demonstration": 0.5, "max_abs_log_ratio_self_generated": 0.75,
            "implicit_reward_accuracy": 1.0, "log_ratio_margin": 1.0,
            "grad_norm": 0.5, "lr": 1e-4, "num_clamped": 0.0, "tokens_per_s": 100.0, "seconds": 0.25,
        });
        for (line, is_of_iteration, margin) in [(supervised, false, None), (of_iteration, true, Some(1.0))] {
            let line = line.to_string();
            let row: UpdateRow = serde_json::from_str(&line).unwrap();
            assert_eq!(serde_json::to_string(&row).unwrap(), line);
            assert_eq!(row.is_of_iteration(), is_of_iteration);
            assert_eq!(row.metrics.log_ratios.map(|ratios| ratios.log_ratio_margin), margin);
        }
    }
}
