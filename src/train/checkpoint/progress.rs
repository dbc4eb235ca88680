//! Where a run stands: its stage, and its updates so far.

use serde::{Deserialize, Serialize};

use crate::records::stage::{CONTINUED_SFT, Stage};

/// The layout of a checkpoint folder; a newer one is refused. 1: no `MANIFEST`. 2: with one.
pub(super) const VERSION: u32 = 2;

/// Updates in the whole run, rank of the stage, updates in the stage.
pub(in crate::train) type Order = (usize, (usize, usize), usize);

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    pub version: u32,
    pub stage: Stage,
    /// Updates done in this stage.
    pub stage_steps: usize,
    /// Updates done in the whole run.
    pub total_steps: usize,
    /// The hash of the iteration's reference, once its responses and log-probs are there: see [`crate::train::binding`].
    #[serde(default)]
    pub reference: Option<String>,
    /// Mean log-prob per token (nats) that these parameters give to the demonstrations that the run is judged on, held-out
    /// ones if there are any; None if they were not evaluated.
    #[serde(default)]
    pub held_out_log_prob: Option<f64>,
}

impl Progress {
    /// The start of a stage.
    pub fn at(stage: Stage, total_steps: usize) -> Self {
        Progress { version: VERSION, stage, stage_steps: 0, total_steps, reference: None, held_out_log_prob: None }
    }

    /// After one more update.
    pub fn next(self) -> Self {
        let (stage_steps, total_steps) = (self.stage_steps + 1, self.total_steps + 1);
        Progress { version: VERSION, stage_steps, total_steps, held_out_log_prob: None, ..self }
    }

    /// The larger, the further the run has come.
    pub(in crate::train) fn order(&self) -> Order {
        (self.total_steps, self.stage.rank(), self.stage_steps)
    }

    /// True for the model that the last stage trains for comparison, where the run `compares_sft`: it is not the run's own.
    pub fn is_of_comparison(&self, compares_sft: bool) -> bool {
        match self.stage {
            Stage::ContinuedSft => self.stage_steps > 0,
            Stage::Done => compares_sft,
            Stage::Sft | Stage::Iteration(_) => false,
        }
    }

    /// Which model it is of, where that is not the run's own.
    pub fn whose(&self, compares_sft: bool) -> String {
        if self.is_of_comparison(compares_sft) { format!("of `{CONTINUED_SFT}`, ") } else { String::new() }
    }

    /// Version 1 knew no hashes of references.
    pub fn is_version_1(&self) -> bool {
        self.version == 1
    }

    pub(super) fn name(&self) -> String {
        format!("step-{:06}-{}", self.total_steps, self.stage.in_file_names())
    }
}
