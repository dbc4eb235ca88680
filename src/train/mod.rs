//! The algorithm: generate, score, train, repeat.
//!
//! ```text
//! for iteration t
//!     reference := policy                                    its parameters are checkpointed, never held twice
//!     for each prompt: self-generated responses              kept with their token log-probs
//!     for each demonstration: its reference log-prob         scored once, kept in the run folder
//!     train the policy to tell one from the other            fit
//! ```
//! [`Run::train`] is that text as code. What surrounds it: a supervised stage before (`sft`), plain supervised training from the same
//! start for comparison (`continued_sft_lr`), and evaluation after every stage. A run is a list of stages; a checkpoint
//! names the stage and the updates done in it, so a stopped run continues from there. Next: [`fit`], [`step`].

pub mod backward;
pub mod checkpoint;
pub mod estimate;
pub mod fit;
pub mod gradients;
pub mod metrics;
pub mod optimizer;
pub mod pairs;
pub mod run_dir;
pub mod schedule;
pub mod self_generation;
pub mod setup;
pub mod signals;
pub mod step;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{ObjectiveConfig, ObjectiveName, TrainConfig};
use crate::data::examples::Example;
use crate::error::Result;
use crate::eval::{self, Evaluation, ReferenceRow};
use crate::formats::hf_folder::write_model_folder;
use crate::formats::safetensors::write_safetensors;
use crate::model::{CausalLm, weights};
use crate::objective::Objective;
use checkpoint::{Progress, Stage};
use fit::Fit;
use pairs::Pair;
use run_dir::{RunDir, read_lines};
use setup::Run;

/// The aligned model's folder inside the run folder.
pub const MODEL_FOLDER: &str = "model";
/// The policy before iteration 0, kept where it is needed again.
const START_FILE: &str = "start.safetensors";
const HELD_OUT_FILE: &str = "held_out.jsonl";
/// A line for each stage: its held-out figures.
pub const EVALUATIONS_FILE: &str = "evaluations.jsonl";

/// One line of `evaluations.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRow {
    /// `start`, `sft`, `iteration 0`, .., `continued sft`.
    pub stage: String,
    pub total_steps: usize,
    pub evaluation: Evaluation,
}

/// The evaluations of the run in `path`, if it has nothing left to do; None if it can be continued.
///
/// # Errors
/// [`Error::Input`] if the folder holds no run or does not read, [`Error::Locked`].
pub fn results_if_finished(path: &Path) -> Result<Option<Vec<EvaluationRow>>> {
    let dir = RunDir::open(path)?;
    match checkpoint::load_progress(&dir)? {
        Some((progress, _)) if progress.stage == Stage::Done => read_lines(&dir.join(EVALUATIONS_FILE)).map(Some),
        _ => Ok(None),
    }
}

impl Run {
    /// Trains from where the run stands to its end and returns its evaluations in order.
    ///
    /// # Errors
    /// [`crate::Error::Stopped`] after a signal, with everything saved; [`crate::Error::Training`] for numbers that must not
    /// be trained on; device and disk errors. The last checkpoint is then intact.
    pub fn train(mut self, mut model: CausalLm) -> Result<Vec<EvaluationRow>> {
        let mut progress = self.progress();
        if self.resumed.is_none() {
            self.evaluate("start", 0, &model, None)?;
            checkpoint::save(&self.dir, &progress, &model, None)?;
        }
        while progress.stage != Stage::Done {
            self.console.say(format!("\n{}", self.describe(progress.stage)));
            (model, progress) = match progress.stage {
                Stage::Sft => self.supervised_stage(model, progress)?,
                Stage::Iteration(iteration) => self.iteration(iteration, model, progress)?,
                Stage::ContinuedSft => self.continued_sft(model, progress)?,
                Stage::Done => break,
            };
            checkpoint::save(&self.dir, &progress, &model, None)?;
        }
        read_lines(&self.dir.join(EVALUATIONS_FILE))
    }

    /// The order of stages.
    fn next_stage(&self, stage: Stage) -> Stage {
        let iteration_or_later = |iteration: usize| match iteration {
            i if i < self.config.iterations => Stage::Iteration(i),
            _ if self.config.continued_sft_lr.is_some() && self.config.iterations > 0 => Stage::ContinuedSft,
            _ => Stage::Done,
        };
        match stage {
            Stage::Sft => iteration_or_later(0),
            Stage::Iteration(iteration) => iteration_or_later(iteration + 1),
            Stage::ContinuedSft | Stage::Done => Stage::Done,
        }
    }

    fn first_stage(&self) -> Stage {
        match &self.config.sft {
            Some(_) => Stage::Sft,
            None if self.config.iterations > 0 => Stage::Iteration(0),
            None => Stage::Done,
        }
    }

    fn progress(&self) -> Progress {
        self.resumed.as_ref().map_or_else(|| Progress::at(self.first_stage(), 0), |(progress, _)| *progress)
    }

    fn supervised_stage(&mut self, model: CausalLm, progress: Progress) -> Result<(CausalLm, Progress)> {
        let config = self.config.sft.clone().expect("the stage exists only with `sft`");
        let (model, progress) = self.fit_supervised(model, &config, None, progress)?;
        self.finish(model, progress)
    }

    /// One round of GSIL.
    fn iteration(&mut self, iteration: usize, model: CausalLm, progress: Progress) -> Result<(CausalLm, Progress)> {
        if iteration == 0 && progress.stage_steps == 0 {
            self.remember_start(&model)?;
        }
        let objective = Objective::new(&self.config.objective);
        let pairs = if objective.needs_self_generated() {
            let responses = self.self_generate(iteration, &model, progress.stage_steps)?;
            let log_probs = self.score_demonstrations(iteration, &model, progress.stage_steps)?;
            self.pair_up(iteration, &responses, &log_probs)?
        } else {
            self.examples.iter().map(Pair::demonstration_only).collect()
        };
        let config = self.config.train.clone();
        let fit = Fit { pairs: &pairs, objective: &objective, config: &config, num_steps: None };
        let (model, progress) = self.fit(model, &fit, progress)?;
        self.finish(model, progress)
    }

    /// The yardstick: plain supervised updates from the start of iteration 0, as many as GSIL made.
    fn continued_sft(&mut self, model: CausalLm, progress: Progress) -> Result<(CausalLm, Progress)> {
        let lr = self.config.continued_sft_lr.expect("the stage exists only with `continued_sft_lr`");
        let model = match progress.stage_steps {
            0 => checkpoint::load_parameters(&self.dir.join(START_FILE), model)?,
            _ => model,
        };
        let config = TrainConfig { lr: Some(lr), ..self.config.train.clone() };
        let gsil_steps = progress.total_steps - progress.stage_steps - self.supervised_steps();
        let (model, progress) = self.fit_supervised(model, &config, Some(gsil_steps), progress)?;
        self.finish(model, progress)
    }

    fn fit_supervised(
        &mut self,
        model: CausalLm,
        config: &TrainConfig,
        num_steps: Option<usize>,
        progress: Progress,
    ) -> Result<(CausalLm, Progress)> {
        let objective = Objective::new(&ObjectiveConfig { name: ObjectiveName::Sft, ..ObjectiveConfig::default() });
        let pairs = self.supervised_pairs(config);
        if pairs.len() < self.examples.len() {
            let (kept, all) = (pairs.len(), self.examples.len());
            self.console.warn(format!("{kept} of {all} rows fit sft.max_length and are used in this stage"));
        }
        self.fit(model, &Fit { pairs: &pairs, objective: &objective, config, num_steps }, progress)
    }

    /// Demonstrations alone, as far as they fit the stage's own limit.
    fn supervised_pairs(&self, config: &TrainConfig) -> Vec<Pair> {
        let fits = |e: &&Example| e.prompt_ids.len() + e.demonstration_ids.len() <= config.max_length;
        self.examples.iter().filter(fits).map(Pair::demonstration_only).collect()
    }

    /// Updates of the supervised stage before the first iteration.
    fn supervised_steps(&self) -> usize {
        let of = |config: &TrainConfig| self.supervised_pairs(config).len().div_ceil(config.batch_size) * config.epochs;
        self.config.sft.as_ref().map_or(0, of)
    }

    /// Evaluates what a stage made, exports it if it is the run's result, and moves on to the next stage.
    fn finish(&mut self, model: CausalLm, progress: Progress) -> Result<(CausalLm, Progress)> {
        let reference = match progress.stage {
            Stage::Sft => None,
            _ => self.held_out_reference()?,
        };
        self.evaluate(&progress.stage.to_string(), progress.total_steps, &model, reference)?;
        let next = self.next_stage(progress.stage);
        if progress.stage != Stage::ContinuedSft && !matches!(next, Stage::Iteration(_)) {
            self.export(&model)?;
        }
        Ok((model, Progress::at(next, progress.total_steps)))
    }

    /// Keeps what is needed of the policy before iteration 0: its view of the held-out rows and, where training returns to
    /// it, its parameters.
    fn remember_start(&mut self, model: &CausalLm) -> Result<()> {
        if self.config.continued_sft_lr.is_some() {
            let tensors = weights::trained_tensors_to_write(model);
            write_safetensors(&self.dir.join(START_FILE), tensors, &Default::default())?;
        }
        let held_out = &self.held_out;
        let path = self.dir.join(HELD_OUT_FILE);
        if path.exists() {
            return Ok(());
        }
        let answered = &held_out.examples[..held_out.settings.generate_rows.min(held_out.examples.len())];
        let rows = eval::reference_rows(model, answered, &held_out.settings, &self.console, &|| self.stop.check())?;
        let lines: Result<Vec<String>> = rows.iter().map(setup::json_line).collect();
        self.dir.write(HELD_OUT_FILE, &lines?.concat())
    }

    fn held_out_reference(&self) -> Result<Option<Vec<ReferenceRow>>> {
        let rows: Vec<ReferenceRow> = read_lines(&self.dir.join(HELD_OUT_FILE))?;
        Ok((!rows.is_empty()).then_some(rows))
    }

    fn evaluate(
        &self,
        stage: &str,
        total_steps: usize,
        model: &CausalLm,
        reference: Option<Vec<ReferenceRow>>,
    ) -> Result<()> {
        let held_out = &self.held_out;
        let evaluation = eval::evaluate(
            model,
            &held_out.examples,
            reference.as_deref(),
            self.tokenizer.as_ref(),
            &held_out.settings,
            &self.console,
            &|| self.stop.check(),
        )?;
        self.dir.keep_lines(EVALUATIONS_FILE, |row| row["stage"] != stage)?; // of a stage that a crash cut off here
        self.dir.append(EVALUATIONS_FILE, &EvaluationRow { stage: stage.to_owned(), total_steps, evaluation })
    }

    /// Writes the aligned model as a Hugging Face folder, adapters merged.
    fn export(&self, model: &CausalLm) -> Result<()> {
        let folder = self.dir.join(MODEL_FOLDER);
        write_model_folder(
            &folder,
            &self.files.config,
            self.files.generation_config.as_ref(),
            self.files.tokenizer.as_ref(),
            weights::tensors_to_write(model),
        )?;
        self.console.say(format!("aligned model: {}", folder.display()));
        Ok(())
    }

    fn describe(&self, stage: Stage) -> String {
        match stage {
            Stage::Sft => "Supervised stage: learn the task from the demonstrations.".to_owned(),
            Stage::Iteration(i) => format!(
                "Iteration {i} (of {}, counted from 0): answer the prompts, then learn to tell the demonstrations from \
                 these answers.",
                self.config.iterations
            ),
            Stage::ContinuedSft => "For comparison: plain supervised updates from the same start, as many.".to_owned(),
            Stage::Done => "Done.".to_owned(),
        }
    }
}
