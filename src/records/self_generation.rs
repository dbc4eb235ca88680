//! `self_generation.jsonl`: what the responses of each iteration were like, and where they lie.

use serde::{Deserialize, Serialize};

/// The file in a run folder.
pub const COUNTS_FILE: &str = "self_generation.jsonl";
/// The responses themselves, in the iteration's folder.
pub const SELF_GENERATED_FILE: &str = "self_generated.jsonl";

/// Where an iteration's responses and log-probs lie in the run folder.
pub fn iteration_folder(iteration: usize) -> String {
    format!("iteration-{iteration:03}")
}

/// The iteration whose folder has this very name.
pub fn iteration_of_folder(name: &str) -> Option<usize> {
    let iteration = name.strip_prefix("iteration-")?.parse().ok()?;
    (iteration_folder(iteration) == name).then_some(iteration)
}

/// One line of [`COUNTS_FILE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CountsRow {
    pub iteration: usize,
    pub counts: SelfGeneratedCounts,
}

/// What became of the self-generated responses: logged and shown, because silence here is how such runs go wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SelfGeneratedCounts {
    pub responses: usize,
    /// Token for token the demonstration: without `objective.variance_reduction` next to no signal is left.
    pub identical: usize,
    /// Nothing but the end token.
    pub empty: usize,
    /// Cut at the token limit. Dropped or kept, as `generation.unfinished` says.
    pub unfinished: usize,
    /// The same as an earlier response to another prompt.
    pub duplicated: usize,
    /// Longer than `train.max_length` together with their prompt: left out.
    pub too_long: usize,
    /// Responses left out of the training, for one reason or another. A pair without any response is left out with them.
    pub dropped: usize,
    /// Mean length in tokens.
    pub mean_tokens: f64,
}

/// What helps against responses that are too often empty: said while a run goes on and in its report.
pub const AGAINST_EMPTY: &str = "check the prompts' template; if training brought it, lower train.lr in a new run";
/// Against responses that are their own demonstrations.
pub const AGAINST_IDENTICAL: &str = "without objective.variance_reduction such pairs teach next to nothing; \
     fewer iterations or harder prompts would use the time better";
/// Against responses that repeat one another.
pub const AGAINST_DUPLICATED: &str =
    "in a new run set generation.temperature=1 if it is lower; if training brought it, lower train.lr";
/// Against responses that are cut off.
pub const AGAINST_UNFINISHED: &str =
    "in a new run raise generation.max_new_tokens; if training brought it, lower train.lr";
