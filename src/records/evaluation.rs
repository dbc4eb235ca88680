//! `evaluations.jsonl` and `evaluation_rows.jsonl`: held-out figures after each stage, of all rows and of each row.

use serde::{Deserialize, Serialize};

use super::stage::{CONTINUED_SFT, SFT, START};

/// A line for each stage: its held-out figures.
pub const EVALUATIONS_FILE: &str = "evaluations.jsonl";
/// A line for each stage: the held-out figures of every row. Runs of the first version have none.
pub const EVALUATION_ROWS_FILE: &str = "evaluation_rows.jsonl";

/// One line of [`EVALUATIONS_FILE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRow {
    /// `start`, `sft`, `iteration 0`, .., `continued sft`.
    pub stage: String,
    /// Updates of the run so far.
    pub total_steps: usize,
    pub evaluation: Evaluation,
}

/// The updates that made the model of each row of a run: those of the iterations are not the comparison's own.
pub fn updates_of_models(rows: &[EvaluationRow]) -> Vec<usize> {
    let start = rows.iter().rfind(|row| row.stage == START || row.stage == SFT).map_or(0, |row| row.total_steps);
    let last = rows.iter().rfind(|row| row.stage != CONTINUED_SFT).map_or(0, |row| row.total_steps);
    let own = |row: &EvaluationRow| match row.stage.as_str() {
        CONTINUED_SFT => start + (row.total_steps - last),
        _ => row.total_steps,
    };
    rows.iter().map(own).collect()
}

/// The figures of one model on held-out rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// False if the rows are training rows, for want of others.
    pub held_out: bool,
    /// Rows whose demonstration was scored.
    pub num_rows: usize,
    /// Mean log-prob of demonstrations per token, nats.
    pub demonstration_log_prob_per_token: f64,
    /// Against the reference, where there is one.
    pub against_reference: Option<AgainstReference>,
    pub greedy: Option<Answers>,
    pub sampled: Option<Answers>,
}

/// Log-ratios of held-out demonstrations and of the reference's own responses to the same prompts: of the answered rows alone,
/// of which there are [`Answers::num_rows`], and not of all that [`Evaluation::num_rows`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AgainstReference {
    /// Share of the rows answered otherwise than demonstrated whose demonstration has the larger log-ratio; None if there are
    /// none.
    pub implicit_reward_accuracy: Option<f64>,
    /// The rows that it is a share of. None in what earlier versions wrote.
    pub num_compared: Option<usize>,
    /// Mean over answered rows, nats.
    pub log_ratio_demonstration: f64,
    pub log_ratio_self_generated: f64,
}

/// What generated answers look like. Shares of `num_rows`; the last three are absent without an answer marker.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    pub num_rows: usize,
    /// Ended by themselves.
    pub finished: f64,
    pub mean_tokens: f64,
    /// Finished and ending in the marker and a number.
    pub ends_in_answer: Option<f64>,
    /// The number after the marker is the demonstration's. Absent where no demonstration has one.
    pub exact_match: Option<f64>,
    /// The last number anywhere in the answer is the demonstration's. Absent where demonstrations themselves fail this, as
    /// numbers do whose digits are spelled one by one.
    pub flexible_match: Option<f64>,
}

/// One line of [`EVALUATION_ROWS_FILE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRows {
    pub stage: String,
    pub rows: Vec<RowFigures>,
}

/// The figures of one row: what comparisons of models on the same rows rest on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowFigures {
    /// The row of the data file, counted from 0.
    pub index: usize,
    /// Tokens of the demonstration.
    pub num_tokens: usize,
    /// Log-prob of the demonstration, nats.
    pub demonstration_log_prob: f64,
    /// None if the row was not answered.
    pub greedy: Option<RowAnswer>,
    pub sampled: Option<RowAnswer>,
}

/// One generated answer; without an answer marker only its end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowAnswer {
    pub finished: bool,
    pub ends_in_answer: Option<bool>,
    pub exact_match: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_of_iterations_are_not_those_of_the_comparison() {
        let row = |(stage, total_steps): (&str, usize)| EvaluationRow {
            stage: stage.to_owned(),
            total_steps,
            evaluation: Evaluation {
                held_out: true,
                num_rows: 1,
                demonstration_log_prob_per_token: -1.0,
                against_reference: None,
                greedy: None,
                sampled: None,
            },
        };
        let stages = [("start", 0), ("sft", 320), ("iteration 0", 360), ("iteration 1", 400), (CONTINUED_SFT, 480)];
        assert_eq!(updates_of_models(&stages.map(row)), [0, 320, 360, 400, 400]);
        assert_eq!(updates_of_models(&[("start", 0), ("iteration 0", 5)].map(row)), [0, 5]);
        assert_eq!(updates_of_models(&[("start", 0), ("iteration 0", 5), (CONTINUED_SFT, 10)].map(row)), [0, 5, 5]);
    }
}
