//! Which checkpoints are kept: the newest ones, those that served best the demonstrations that are judged on, and the
//! aligned adapter.

use super::checkpoint::{self, Progress, Saved};
use super::run_dir::RunDir;
use crate::config::RunConfig;
use crate::error::Result;
use crate::formats::atomic_write::remove;
use crate::records::run_folder::is_checkpoint;
use crate::records::stage::Stage;

/// How many checkpoints are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The newest ones; at least 1.
    pub last: usize,
    /// Those of the run's own model that give the rows that it is judged on the highest log-prob, among the ones that were
    /// evaluated.
    pub best: usize,
    /// Whether the run ends with another model, for comparison.
    pub compares_sft: bool,
    /// The start of the continued supervised stage, for `gsil export --format peft`: the aligned adapter stands nowhere else.
    pub aligned: bool,
}

impl Keep {
    pub fn new(config: &RunConfig) -> Self {
        let compares_sft = config.compares_sft();
        let aligned = config.lora.is_some() && compares_sft;
        Keep { last: config.keep_last, best: config.keep_best, compares_sft, aligned }
    }

    /// The most that lie on the disk between two saves.
    pub fn most(&self) -> usize {
        self.last + self.best + usize::from(self.aligned)
    }
}

/// Removes what is not kept. `newest` was just written and read back: sets beyond it, which a fallback to an older one left,
/// are damaged and go too.
pub(super) fn remove_unwanted(run_dir: &RunDir, newest: &Progress, keep: Keep) -> Result<()> {
    let readable = checkpoint::all(run_dir)?.into_iter().flatten();
    let saved: Vec<Saved> = readable.filter(|saved| saved.progress.order() <= newest.order()).collect();
    let kept = kept(&saved.iter().map(|saved| &saved.progress).collect::<Vec<_>>(), keep);
    let kept: Vec<_> = kept.into_iter().filter_map(|i| saved[i].folder.file_name()).collect();
    let is_unwanted = |name: &str| is_checkpoint(name) && !kept.iter().any(|kept| *kept == name);
    for name in run_dir.list(checkpoint::FOLDER, is_unwanted)? {
        remove(run_dir.files(), &run_dir.join(checkpoint::FOLDER).join(name))?;
    }
    Ok(())
}

/// The indices of what is kept of checkpoints in their order.
fn kept(saved: &[&Progress], keep: Keep) -> Vec<usize> {
    let first_of_last = saved.len().saturating_sub(keep.last);
    let own = saved.iter().enumerate().filter(|(_, progress)| !progress.is_of_comparison(keep.compares_sft));
    let mut evaluated: Vec<(f64, usize)> =
        own.filter_map(|(i, progress)| Some((progress.held_out_log_prob?, i))).collect();
    evaluated.sort_by(|a, b| b.0.total_cmp(&a.0));
    let best = evaluated.into_iter().take(keep.best).map(|(_, i)| i);
    let is_aligned = |progress: &Progress| progress.stage == Stage::ContinuedSft && progress.stage_steps == 0;
    let aligned = (0..saved.len()).filter(|i| keep.aligned && is_aligned(saved[*i]));
    let mut kept: Vec<usize> = (first_of_last..saved.len()).chain(best).chain(aligned).collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_best_are_kept() {
        let saved: Vec<Progress> = [Some(-2.0), None, Some(-0.5), Some(-1.0), None, None]
            .iter()
            .enumerate()
            .map(|(i, log_prob)| Progress { held_out_log_prob: *log_prob, ..Progress::at(Stage::Iteration(0), i) })
            .collect();
        let saved: Vec<&Progress> = saved.iter().collect();
        let kept = |last, best| kept(&saved, Keep { last, best, compares_sft: false, aligned: false });
        assert_eq!(kept(1, 0), [5]);
        assert_eq!(kept(3, 0), [3, 4, 5]);
        assert_eq!(kept(2, 1), [2, 4, 5]);
        assert_eq!(kept(3, 2), [2, 3, 4, 5]);
        assert_eq!(kept(1, 9), [0, 2, 3, 5]);
        assert_eq!(kept(9, 0), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_model_of_the_comparison_is_not_the_best_of_the_run() {
        let of = |stage, held_out_log_prob| Progress { held_out_log_prob, ..Progress::at(stage, 0) };
        let saved = [
            of(Stage::Iteration(0), Some(-2.0)),
            of(Stage::ContinuedSft, Some(-1.0)),
            Progress { stage_steps: 4, ..of(Stage::ContinuedSft, None) },
            of(Stage::Done, Some(-0.5)),
        ];
        let saved: Vec<&Progress> = saved.iter().collect();
        let kept = |compares_sft| kept(&saved, Keep { last: 1, best: 1, compares_sft, aligned: false });
        assert_eq!((kept(true), kept(false)), (vec![1, 3], vec![3]));
    }

    #[test]
    fn an_aligned_adapter_outlives_the_updates_of_the_supervised_stage_after_it() {
        let of = |stage, stage_steps| Progress { stage_steps, ..Progress::at(stage, 0) };
        let aligned = of(Stage::ContinuedSft, 0);
        let saved = [
            of(Stage::Iteration(0), 0),
            aligned,
            of(Stage::ContinuedSft, 4),
            of(Stage::ContinuedSft, 8),
            of(Stage::Done, 0),
        ];
        let saved: Vec<&Progress> = saved.iter().collect();
        assert_eq!(kept(&saved, Keep { last: 2, best: 0, compares_sft: true, aligned: true }), [1, 3, 4]);
        assert_eq!(kept(&saved, Keep { last: 2, best: 0, compares_sft: true, aligned: false }), [3, 4]);
    }
}
