//! `timing.jsonl`: how long each phase of a stage took. Training itself is timed update by update in the metrics.

use serde::{Deserialize, Serialize};

/// The file in a run folder; runs of the first version have none.
pub const TIMING_FILE: &str = "timing.jsonl";

/// One line. A stage that was stopped and resumed has several for the same phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimingRow {
    pub stage: String,
    /// `generation`, `scoring` or `evaluation`.
    pub phase: String,
    pub seconds: f64,
    /// Tokens of self-generated responses that were written meanwhile, here or by a server. None if there were none, and in
    /// runs of a version that did not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_tokens: Option<usize>,
}
