//! The training part of a stage: epochs over pairs, one update a batch, checkpoints on the way.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::checkpoint::{self, Progress};
use super::optimizer::Optimizer;
use super::pairs::Pair;
use super::run_dir::RunDir;
use super::schedule::learning_rate;
use super::setup::Run;
use super::step::Updater;
use crate::config::TrainConfig;
use crate::data::batch::Sequence;
use crate::error::{Error, Result};
use crate::generate::sampler::answer_seed;
use crate::model::CausalLm;
use crate::objective::{Objective, log_probs};
use crate::records::stage::Stage;
use crate::records::update::{METRICS_FILE, StepMetrics, UpdateRow};
use crate::report::console::Unit;

/// What to train on and how.
pub struct Fit<'a> {
    pub pairs: &'a [Pair],
    pub objective: &'a Objective,
    pub config: &'a TrainConfig,
    /// The key that the learning rate was set by.
    pub lr_key: &'static str,
}

impl Fit<'_> {
    /// Refuses a stage without a pair.
    fn check_pairs(&self, stage: Stage) -> Result<()> {
        if !self.pairs.is_empty() {
            return Ok(());
        }
        Err(match stage {
            Stage::Iteration(_) => Error::training(
                "no pair is left to train on: every self-generated response was cut off, or is too long with its prompt",
            )
            .with_hint(
                "in a new run raise generation.max_new_tokens and train.max_length, or set generation.unfinished=mask",
            ),
            stage => Error::training(format!("{stage}: no demonstration is short enough"))
                .with_hint("in a new run raise the stage's max_length"),
        })
    }

    fn steps_per_epoch(&self) -> usize {
        self.pairs.len().div_ceil(self.config.batch_size)
    }

    /// Says of numbers that must not be trained on what was too high. No rate may change on a resume.
    fn advised(&self, error: Error) -> Error {
        match error {
            Error::Training { .. } => {
                error.with_hint(format!("start a new run with a lower {}; the last checkpoint is intact", self.lr_key))
            }
            other => other,
        }
    }
}

impl Run {
    /// Trains the model over the stage's pairs, from the update at which `progress` stands, with a fresh optimizer at the
    /// start of a stage. The last batch of an epoch may be smaller.
    ///
    /// # Errors
    /// As [`Run::train`].
    pub(super) fn fit(
        &mut self,
        mut model: CausalLm,
        fit: &Fit<'_>,
        mut progress: Progress,
    ) -> Result<(CausalLm, Progress)> {
        fit.check_pairs(progress.stage)?;
        let (steps_per_epoch, num_steps) = (fit.steps_per_epoch(), fit.config.num_updates(fit.pairs.len()));
        if progress.stage_steps > num_steps {
            let done = progress.stage_steps;
            let message = format!("the checkpoint has {done} updates of a stage that would have {num_steps}");
            return Err(Error::input(self.dir.path(), message)
                .with_hint("resume it without the change: a stage cannot become shorter than it is"));
        }
        if progress.stage_steps == num_steps {
            self.keep_changes()?;
            return Ok((model, progress)); // the run was stopped between the last update and the end of the stage
        }
        let mut optimizer = self.optimizer(fit.config, &progress, &model)?;
        self.keep_changes()?;
        let updater = Updater {
            objective: fit.objective,
            config: fit.config,
            normalizer: fit.objective.normalizer(mean_response_tokens(fit.pairs)),
            num_tokens_multiple: self.num_tokens_multiple,
        };
        let mut bar = self.console.bar("training", num_steps as u64, Unit::Count("updates"));
        bar.skip(progress.stage_steps as u64);
        while progress.stage_steps < num_steps {
            let step = progress.stage_steps;
            let epoch = step / steps_per_epoch;
            let order = shuffled(fit.pairs.len(), epoch_seed(self.config.seed, progress.stage, epoch));
            let start = step % steps_per_epoch * fit.config.batch_size;
            let batch = &order[start..(start + fit.config.batch_size).min(order.len())];
            let batch: Vec<&Pair> = batch.iter().map(|i| &fit.pairs[*i]).collect();

            let lr = learning_rate(fit.config, step, num_steps);
            let (updated, metrics) = updater
                .update_on(&self.replicas, model, &mut optimizer, &batch, lr)
                .map_err(|error| fit.advised(error))?;
            model = updated;
            progress = progress.next();
            bar.note(&format!("loss {:.3}  {:.0} tokens/s", metrics.loss, metrics.tokens_per_s));
            bar.advance(1);
            self.log(&progress, epoch, metrics)?;
            let signal = self.stop.signal();
            let is_last = progress.stage_steps == num_steps;
            if is_last || signal.is_some() || progress.stage_steps.is_multiple_of(self.config.save_every) {
                self.check_finite(&model, batch[0]).map_err(|error| fit.advised(error))?;
                self.dir.sync_lines(METRICS_FILE)?;
                checkpoint::save(&self.dir, &progress, &model, (!is_last).then_some(&optimizer), self.keep())
                    .map_err(|error| fit.advised(error))?;
                self.report();
            }
            if let Some(signal) = signal {
                return Err(Error::Stopped { signal, hint: None });
            }
        }
        Ok((model, progress))
    }

    /// The update after the last finite loss may have ruined the weights: nothing is saved that cannot score a demonstration.
    fn check_finite(&self, model: &CausalLm, pair: &Pair) -> Result<()> {
        let sequence = Sequence { prompt_ids: &pair.prompt_ids, response_ids: &pair.demonstration.token_ids };
        let scores = log_probs::score(model, &[sequence], 1, self.num_tokens_multiple, &mut |_| Ok(()))?;
        match scores.iter().flatten().all(|log_prob| log_prob.is_finite()) {
            true => Ok(()),
            false => Err(log_probs::not_finite("the policy", pair.index)),
        }
    }

    fn optimizer(&self, config: &TrainConfig, progress: &Progress, model: &CausalLm) -> Result<Optimizer> {
        let mut optimizer = Optimizer::new(config);
        if let (1.., Some(saved)) = (progress.stage_steps, &self.resumed) {
            saved.load_optimizer(&mut optimizer, model)?;
        }
        Ok(optimizer)
    }

    /// Removes the metrics of updates that the checkpoint does not have: they are made again.
    ///
    /// # Errors
    /// [`Error::Input`] if the file does not read, [`Error::Disk`].
    pub(super) fn forget_updates_after(dir: &RunDir, total_steps: usize) -> Result<()> {
        dir.keep_lines(METRICS_FILE, |row| row["total_step"].as_u64().is_some_and(|step| step <= total_steps as u64))
    }

    fn log(&self, progress: &Progress, epoch: usize, metrics: StepMetrics) -> Result<()> {
        if metrics.num_clamped > 0.0 {
            let count = metrics.num_clamped;
            self.console.warn(format!(
                "{count} exponentials of the implicit reward were clamped: in a new run lower objective.scale"
            ));
        }
        let stage = progress.stage.to_string();
        let (stage_step, total_step) = (progress.stage_steps, progress.total_steps);
        self.dir.append(METRICS_FILE, &UpdateRow { stage, stage_step, total_step, epoch, metrics })
    }
}

/// Mean length of responses in tokens, both sides counting alike however many self-generated ones a pair has.
fn mean_response_tokens(pairs: &[Pair]) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for pair in pairs {
        sum += pair.demonstration.token_ids.len() as f64;
        count += 1;
        let own = &pair.self_generated;
        if !own.is_empty() {
            sum += own.iter().map(|response| response.token_ids.len()).sum::<usize>() as f64 / own.len() as f64;
            count += 1;
        }
    }
    sum / f64::from(count.max(1))
}

/// Every epoch of every stage has an order of its own; it follows from the seed, so that there is no state to save.
pub(super) fn epoch_seed(run_seed: u64, stage: Stage, epoch: usize) -> u64 {
    let stage = match stage {
        Stage::Iteration(iteration) => iteration,
        Stage::Sft => usize::MAX,
        Stage::ContinuedSft => usize::MAX - 1,
        Stage::Done => usize::MAX - 2,
    };
    answer_seed(run_seed ^ 0x0073_6875_6666_6c65, stage, epoch, 0) // "shuffle": not the seed of any answer
}

/// Fisher-Yates; `len` is far below 2^32, so the modulo's bias cannot be seen.
pub(super) fn shuffled(len: usize, seed: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..len).collect();
    for i in (1..len).rev() {
        order.swap(i, (random.next_u64() % (i as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::pairs::pair_of_lengths;

    #[test]
    fn both_sides_of_a_pair_count_alike_in_the_mean_length() {
        let pair = |demonstration, self_generated: &[usize]| pair_of_lengths(100, demonstration, self_generated);
        assert_eq!(mean_response_tokens(&[pair(4, &[8]), pair(2, &[3, 7])]), (4.0 + 8.0 + 2.0 + 5.0) / 4.0);
        assert_eq!(mean_response_tokens(&[pair(4, &[]), pair(2, &[])]), 3.0, "demonstrations alone");
    }

    #[test]
    fn an_epoch_sees_every_pair_once_in_an_order_of_its_own() {
        let first = shuffled(100, epoch_seed(1, Stage::Iteration(0), 0));
        let second = shuffled(100, epoch_seed(1, Stage::Iteration(0), 1));
        assert_ne!(first, second);
        assert_eq!(first, shuffled(100, epoch_seed(1, Stage::Iteration(0), 0)));
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }
}
