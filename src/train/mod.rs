//! The algorithm: generate, score, train, repeat.
//!
//! ```text
//! for iteration t
//!     reference := policy                                    its parameters are checkpointed, never held twice
//!     for each prompt: self-generated responses              kept with their token log-probs
//!     for each demonstration: its reference log-prob         scored once, kept in the run folder
//!     train the policy to tell one from the other            fit
//! ```
//! `Run::iteration` is the body of that loop as code, [`Run::train`] goes from stage to stage. What surrounds it: a supervised
//! stage before (`sft`), plain supervised training from the same start for comparison (`continued_sft_lr`), and evaluation
//! after every stage. A run is a list of stages; a checkpoint names the stage and the updates done in it, so a stopped run
//! continues from there. Next: [`fit`], [`step`].

mod answering;
pub mod backward;
pub mod binding;
pub mod changes;
pub mod checkpoint;
pub mod clipping;
pub mod collapse;
pub mod distributions;
pub mod environment;
pub mod estimate;
pub mod fit;
pub mod free_folder;
mod header;
pub(crate) mod inputs;
pub mod kept;
pub mod manifest;
pub mod metrics;
pub mod optimizer;
pub mod pairs;
pub mod replicas;
mod reporting;
mod resuming;
pub mod retention;
pub mod run_data;
pub mod run_dir;
pub mod schedule;
pub mod self_generation;
pub mod served;
pub mod setup;
mod sharing;
pub mod signals;
pub(crate) mod sources;
pub mod step;
pub mod task;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;

use crate::config::{ObjectiveConfig, ObjectiveName, TrainConfig};
use crate::data::examples::Example;
use crate::error::Result;
use crate::eval::{self, Judged, ReferenceRow};
use crate::formats::atomic_write::replace_file;
use crate::formats::file_system::Disk;
use crate::formats::hf_folder::ModelFolder;
use crate::formats::json_lines;
use crate::formats::quantize::Precision;
use crate::formats::safetensors::write_tensors;
use crate::model::{CausalLm, weights};
use crate::objective::Objective;
use crate::policy::MODEL_FOLDER;
use crate::records::ending::{Ending, now};
use crate::records::evaluation::{EVALUATION_ROWS_FILE, EVALUATIONS_FILE, EvaluationRow, StageRows};
use crate::records::run_folder::{Reached, reached};
use crate::records::self_generation::iteration_folder;
use crate::records::stage::Stage;
use binding::{Binding, policy_hash};
use checkpoint::{Progress, check_finite};
use fit::Fit;
use pairs::Pair;
use reporting::ending_of_panic;
use run_dir::RunDir;
use setup::Run;

/// The policy before iteration 0, kept where it is needed again.
const START_FILE: &str = "start.safetensors";
const HELD_OUT_FILE: &str = "held_out.jsonl";
/// What [`Run::remember_start`] writes.
const START_FILES: [&str; 2] = [START_FILE, HELD_OUT_FILE];

/// The evaluations of the run in `path`, if it has nothing left to do, though its checkpoints be removed; None if it can be
/// continued.
///
/// # Errors
/// [`crate::Error::Input`] if the folder holds no run or does not read, [`crate::Error::Locked`].
pub fn results_if_finished(path: &Path) -> Result<Option<Vec<EvaluationRow>>> {
    let dir = RunDir::open(Arc::new(Disk), path)?;
    let is_done = match checkpoint::all(&dir)?.pop() {
        None => reached(path) == Reached::End,
        // Verified only where it says that nothing is left: else the resumed run does so.
        Some(newest) => {
            let says_done = newest.is_ok_and(|saved| saved.progress.stage == Stage::Done);
            let verified = if says_done { checkpoint::load_newest(&dir, &|_| {})? } else { None };
            verified.is_some_and(|saved| saved.progress.stage == Stage::Done)
        }
    };
    if is_done { dir.read_lines(EVALUATIONS_FILE).map(Some) } else { Ok(None) }
}

impl Run {
    /// Trains from where the run stands to its end and returns its evaluations in order. What ends it before is told by the
    /// report until the run is gone on with.
    ///
    /// # Errors
    /// [`crate::Error::Stopped`] after a signal, with everything saved; [`crate::Error::Training`] for numbers that must not
    /// be trained on; device and disk errors. The last checkpoint is then intact.
    pub fn train(mut self, model: CausalLm) -> Result<Vec<EvaluationRow>> {
        // Graphics libraries panic when memory runs out: the report says that, too.
        let ended = catch_unwind(AssertUnwindSafe(|| self.forget_ending().and_then(|()| self.train_stages(model))));
        match &ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.remember_ending(&Ending::of(error, now())),
            Err(panic) => self.remember_ending(&ending_of_panic(&**panic)),
        }
        self.report(); // that the run is finished, or the updates and responses that the error came of
        ended.unwrap_or_else(|panic| resume_unwind(panic)).and_then(|()| self.dir.read_lines(EVALUATIONS_FILE))
    }

    /// Every stage that is left.
    fn train_stages(&mut self, mut model: CausalLm) -> Result<()> {
        let mut progress = self.progress();
        self.describe_task(&model)?;
        if self.resumed.is_none() {
            progress.held_out_log_prob = Some(self.evaluate_start(&model)?);
            checkpoint::save(&self.dir, &progress, &model, None, self.keep())?;
        }
        while progress.stage != Stage::Done {
            self.console.say(format!("\n{}", self.describe(progress.stage)));
            (model, progress) = match progress.stage {
                Stage::Sft => self.supervised_stage(model, progress)?,
                Stage::Iteration(iteration) => self.iteration(iteration, model, progress)?,
                Stage::ContinuedSft => self.continued_sft(model, progress)?,
                Stage::Done => break,
            };
            checkpoint::save(&self.dir, &progress, &model, None, self.keep())?;
        }
        Ok(())
    }

    /// One iteration of GSIL.
    fn iteration(&mut self, iteration: usize, model: CausalLm, mut progress: Progress) -> Result<(CausalLm, Progress)> {
        if iteration == 0 && progress.stage_steps == 0 {
            self.remember_start(&model)?;
        }
        let objective = Objective::new(&self.config.objective);
        let pairs = if objective.needs_self_generated() {
            self.bind(iteration, &model, &mut progress)?;
            let (stage, steps) = (progress.stage.to_string(), progress.stage_steps);
            let phase = if self.are_given() { "scoring" } else { "generation" };
            let responses = self.timed(&stage, phase, || self.self_generate(iteration, &model, steps))?;
            let log_probs = self.timed(&stage, "scoring", || self.score_demonstrations(iteration, &model, steps))?;
            let mut pairs = self.pair_up(iteration, &responses, &log_probs)?;
            self.timed(&stage, "scoring", || self.add_distributions(iteration, &model, steps, &mut pairs))?;
            pairs
        } else {
            self.examples.iter().map(Pair::demonstration_only).collect()
        };
        self.report();
        let config = self.config.train.clone();
        let fit = Fit { pairs: &pairs, objective: &objective, config: &config, lr_key: "train.lr" };
        let (model, progress) = self.fit(model, &fit, progress)?;
        self.finish(model, progress)
    }

    fn progress(&self) -> Progress {
        let first = || Stage::all(&self.config).first().copied().unwrap_or(Stage::Done);
        self.resumed.as_ref().map_or_else(|| Progress::at(first(), 0), |saved| saved.progress.clone())
    }

    fn supervised_stage(&mut self, model: CausalLm, progress: Progress) -> Result<(CausalLm, Progress)> {
        let config = self.config.sft.clone().expect("the stage exists only with `sft`");
        let (model, progress) = self.fit_supervised(model, &config, "sft.lr", progress)?;
        self.finish(model, progress)
    }

    /// Stored responses and log-probs are used only if they are of this iteration's reference.
    fn bind(&self, iteration: usize, model: &CausalLm, progress: &mut Progress) -> Result<()> {
        let policy = match (&progress.reference, progress.stage_steps) {
            (Some(reference), _) => reference.clone(),
            (None, 0) => policy_hash(model)?,
            (None, _) => return Ok(()), // begun by a version that bound nothing
        };
        let began_in_version_1 =
            |progress: &Progress| progress.is_version_1() && progress.stage == Stage::Iteration(iteration);
        let is_version_1 = self.resumed.as_ref().is_some_and(|saved| began_in_version_1(&saved.progress));
        let binding = Binding::new(policy.clone(), &self.examples, &self.config, &self.device_name);
        binding.check(&self.dir, &iteration_folder(iteration), progress.stage_steps, is_version_1)?;
        if progress.stage_steps == 0 {
            self.take_over_responses(iteration, &binding)?;
        }
        progress.reference = Some(policy);
        Ok(())
    }

    /// The yardstick: plain supervised updates from the start of iteration 0, as many as GSIL made.
    fn continued_sft(&mut self, model: CausalLm, progress: Progress) -> Result<(CausalLm, Progress)> {
        let lr = self.config.continued_sft_lr.expect("the stage exists only with `continued_sft_lr`");
        let model = match progress.stage_steps {
            0 => checkpoint::load_parameters(&self.dir.join(START_FILE), model)?,
            _ => model,
        };
        let gsil_steps = progress.total_steps - progress.stage_steps - self.supervised_steps();
        let config = TrainConfig { lr: Some(lr), num_steps: Some(gsil_steps), ..self.config.train.clone() };
        let (model, progress) = self.fit_supervised(model, &config, "continued_sft_lr", progress)?;
        self.finish(model, progress)
    }

    fn fit_supervised(
        &mut self,
        model: CausalLm,
        config: &TrainConfig,
        lr_key: &'static str,
        progress: Progress,
    ) -> Result<(CausalLm, Progress)> {
        let objective = Objective::new(&ObjectiveConfig { name: ObjectiveName::Sft, ..ObjectiveConfig::default() });
        let pairs = self.supervised_pairs(config);
        if pairs.len() < self.examples.len() {
            let (kept, all) = (pairs.len(), self.examples.len());
            self.console.warn(format!("{kept} of {all} rows fit sft.max_length and are used in this stage"));
        }
        self.fit(model, &Fit { pairs: &pairs, objective: &objective, config, lr_key }, progress)
    }

    /// Demonstrations alone, as far as they fit the stage's own limit.
    fn supervised_pairs(&self, config: &TrainConfig) -> Vec<Pair> {
        let fits = |e: &&Example| e.prompt_ids.len() + e.demonstration_ids.len() <= config.max_length;
        self.examples.iter().filter(fits).map(Pair::demonstration_only).collect()
    }

    /// Updates of the supervised stage before the first iteration.
    fn supervised_steps(&self) -> usize {
        let of = |config: &TrainConfig| config.num_updates(self.supervised_pairs(config).len());
        self.config.sft.as_ref().map_or(0, of)
    }

    /// Evaluates what a stage made, exports it if it is the run's result, and moves on to the next stage.
    fn finish(&mut self, model: CausalLm, progress: Progress) -> Result<(CausalLm, Progress)> {
        let reference = match progress.stage {
            Stage::Sft => None,
            Stage::Iteration(_) | Stage::ContinuedSft | Stage::Done => self.held_out_reference()?,
        };
        let log_prob = self.evaluate(&progress.stage.to_string(), progress.total_steps, &model, reference)?;
        let next = progress.stage.next(&self.config);
        if progress.stage != Stage::ContinuedSft && !matches!(next, Stage::Iteration(_)) {
            self.export(&model)?;
        }
        Ok((model, Progress { held_out_log_prob: Some(log_prob), ..Progress::at(next, progress.total_steps) }))
    }

    /// Keeps what is needed of the policy before iteration 0: its view of the held-out rows and, where training returns to
    /// it, its parameters.
    fn remember_start(&mut self, model: &CausalLm) -> Result<()> {
        if self.config.compares_sft() {
            let tensors = weights::trained_tensors_to_write(model);
            let path = self.dir.join(START_FILE);
            let num_bytes = checkpoint::num_bytes(weights::num_trained_parameters(model) as u64, None);
            replace_file(self.dir.files(), &path, |file| write_tensors(file, &path, tensors, &Default::default()))
                .map_err(|error| self.dir.with_space(error, num_bytes))?;
        }
        let held_out = &self.held_out;
        let path = self.dir.join(HELD_OUT_FILE);
        if path.exists() {
            return Ok(());
        }
        let answered = held_out.settings.answered(&held_out.examples);
        let rows = self.timed(&Stage::Iteration(0).to_string(), "evaluation", || {
            eval::reference_rows(model, answered, &held_out.settings, &self.console, &|| self.stop.check())
        })?;
        let lines: Result<Vec<String>> = rows.iter().map(json_lines::json_line).collect();
        self.dir.write(HELD_OUT_FILE, &lines?.concat())
    }

    fn held_out_reference(&self) -> Result<Option<Vec<ReferenceRow>>> {
        let rows: Vec<ReferenceRow> = self.dir.read_lines(HELD_OUT_FILE)?;
        Ok((!rows.is_empty()).then_some(rows))
    }

    /// The log-prob per token of the demonstrations that the run is judged on, nats; all figures go to the log.
    fn evaluate(
        &self,
        stage: &str,
        total_steps: usize,
        model: &CausalLm,
        reference: Option<Vec<ReferenceRow>>,
    ) -> Result<f64> {
        let held_out = &self.held_out;
        let Judged { evaluation, rows } = self.timed(stage, "evaluation", || {
            eval::evaluate(
                model,
                &held_out.examples,
                reference.as_deref(),
                self.tokenizer.as_ref(),
                &held_out.settings,
                &self.console,
                &|| self.stop.check(),
            )
        })?;
        for file in [EVALUATION_ROWS_FILE, EVALUATIONS_FILE] {
            self.dir.keep_lines(file, |row| row["stage"] != stage)?; // of a stage that a crash cut off here
        }
        self.dir.append(EVALUATION_ROWS_FILE, &StageRows { stage: stage.to_owned(), rows })?;
        self.dir.sync_lines(EVALUATION_ROWS_FILE)?;
        let log_prob = evaluation.demonstration_log_prob_per_token;
        self.dir.append(EVALUATIONS_FILE, &EvaluationRow { stage: stage.to_owned(), total_steps, evaluation })?;
        self.dir.sync_lines(EVALUATIONS_FILE)?;
        self.report();
        Ok(log_prob)
    }

    /// Writes the aligned model as a Hugging Face folder, adapters merged.
    fn export(&self, model: &CausalLm) -> Result<()> {
        let folder = self.dir.join(MODEL_FOLDER);
        self.write_model(model, &folder)?;
        self.console.say(format!("aligned model: {}", folder.display()));
        Ok(())
    }

    /// Writes a policy with all that belongs to it, adapters merged.
    fn write_model(&self, model: &CausalLm, folder: &Path) -> Result<()> {
        let generation_config = self.files.generation_config_ending_at(&self.eos_token_ids);
        let beside_weights = ModelFolder {
            config: &self.files.config,
            generation_config: generation_config.as_ref(),
            tokenizer: self.files.tokenizer.as_ref(),
            model_card: None,
            precision: Precision::F32,
        };
        let tensors = weights::tensors_to_write(model).into_iter().map(|tensor| tensor.checked(check_finite)).collect();
        beside_weights
            .write(self.dir.files(), folder, tensors)
            .map_err(|error| self.dir.with_space(error, 4 * model.config().num_parameters() as u64))
    }

    fn describe(&self, stage: Stage) -> String {
        match stage {
            Stage::Sft => "Supervised stage: learn the task from the demonstrations.".to_owned(),
            Stage::Iteration(i) => format!("Iteration {i} (of {}, counted from 0): {}.", self.config.iterations, {
                match (Objective::new(&self.config.objective).needs_self_generated(), self.are_given()) {
                    (false, _) => "learn from the demonstrations",
                    (true, true) => "learn to tell the demonstrations from the responses that the rows bring",
                    (true, false) => "answer the prompts, then learn to tell the demonstrations from these answers",
                }
            }),
            Stage::ContinuedSft => "For comparison: plain supervised updates from the same start, as many.".to_owned(),
            Stage::Done => "Done.".to_owned(),
        }
    }
}
