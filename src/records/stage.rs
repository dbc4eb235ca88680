//! The stages of a run, in their order, and what they are called in its files.

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;

/// The model that a run begins with, as an evaluation names it.
pub const START: &str = "start";
/// The supervised stage before the first iteration.
pub const SFT: &str = "sft";
/// The stage whose model begins where that of the first iteration did.
pub const CONTINUED_SFT: &str = "continued sft";
/// Nothing is left to do.
const DONE: &str = "done";
/// What the name of an iteration begins with; its number follows.
const ITERATION: &str = "iteration ";

/// A part of a run. Its text is what lines and tables call it: `sft`, `iteration 0`, .., `continued sft`, `done`.
///
/// Who adds one is told by the compiler of some places. These it cannot see: here [`Stage::all`], beside it
/// [`super::evaluation::updates_of_models`] and [`super::run_folder::reached`]; in `train` when the model is exported
/// (`Run::finish`), which checkpoint is the aligned one (`kept`, `retention`), the updates of `continued sft` and the estimates
/// of memory and disk; in `report` the charts of training, `health` and TensorBoard; in `cli` the model card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The supervised stage before the first iteration.
    Sft,
    /// Generate, score, train.
    Iteration(usize),
    /// Plain supervised training from the start of iteration 0, for comparison.
    ContinuedSft,
    /// Nothing left to do.
    Done,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stage::Sft => f.write_str(SFT),
            Stage::Iteration(iteration) => write!(f, "{ITERATION}{iteration}"),
            Stage::ContinuedSft => f.write_str(CONTINUED_SFT),
            Stage::Done => f.write_str(DONE),
        }
    }
}

impl Stage {
    /// The stages of a run, in their order.
    pub fn all(config: &RunConfig) -> Vec<Self> {
        let sft = config.sft.as_ref().map(|_| Self::Sft);
        let continued = config.compares_sft().then_some(Self::ContinuedSft);
        sft.into_iter().chain((0..config.iterations).map(Self::Iteration)).chain(continued).collect()
    }

    /// As a part of a file's name: without spaces.
    pub fn in_file_names(self) -> String {
        self.to_string().replace(' ', "-")
    }

    /// What follows this stage.
    pub fn next(self, config: &RunConfig) -> Self {
        Self::all(config).into_iter().find(|stage| stage.rank() > self.rank()).unwrap_or(Self::Done)
    }

    /// The order in which a run passes its stages.
    pub fn rank(self) -> (usize, usize) {
        match self {
            Stage::Sft => (0, 0),
            Stage::Iteration(iteration) => (1, iteration),
            Stage::ContinuedSft => (2, 0),
            Stage::Done => (3, 0),
        }
    }
}

/// Whether a stage of this name is an iteration, not a supervised one.
pub fn is_iteration(stage: &str) -> bool {
    stage.starts_with(ITERATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_passes_its_stages_one_after_another_and_each_has_a_name() {
        let mut config = RunConfig::default();
        ["sft.epochs=1", "iterations=2"].iter().for_each(|assignment| config.set(assignment).unwrap());
        let names = |config: &RunConfig| Stage::all(config).iter().map(Stage::to_string).collect::<Vec<_>>();
        let all = names(&config);
        assert_eq!(all, ["sft", "iteration 0", "iteration 1"]);
        config.set("continued_sft_lr=1e-5").unwrap();
        assert_eq!(names(&config), [&all[..], &["continued sft".to_owned()]].concat());
        let (mut stage, mut passed) = (Stage::Sft, Vec::new());
        while stage != Stage::Done {
            passed.push(stage);
            stage = stage.next(&config);
        }
        assert_eq!(passed, Stage::all(&config));
        assert_eq!(Stage::Done.to_string(), "done");
        let iterations = names(&config).into_iter().filter(|name| is_iteration(name));
        assert_eq!(iterations.collect::<Vec<_>>(), ["iteration 0", "iteration 1"]);
    }
}
