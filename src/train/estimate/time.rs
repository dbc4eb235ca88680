//! How long a run will take, from the speed of this model on this device.
//!
//! Two things are timed: a forward pass over a few demonstrations and, where the run writes responses, reading prompts and a
//! few steps of decoding. A training step counts as three forward passes (four with activation checkpointing); responses are
//! taken to be as long as demonstrations. Rough on purpose: minutes or hours, not seconds.

use std::time::Instant;

use burn::module::Module;
use serde::Serialize;

use super::batches::{Pairing, pairing_of_iterations};
use super::memory::Phase;
use crate::config::{RunConfig, TrainConfig, VarianceReduction, WeightFormat};
use crate::data::batch::Sequence;
use crate::data::bring_second_responses;
use crate::data::examples::Example;
use crate::error::Result;
use crate::generate::sampler::Sampling;
use crate::generate::{Decoding, Event, Generator, Request};
use crate::model::CausalLm;
use crate::objective::log_probs;
use crate::records::stage::Stage;
use crate::train::setup::score_batch_size;

/// What is said of a time to which a server's part is to be added.
pub const WITHOUT_SERVER: &str = "without the server's part";
/// Decoded after the first token, which comes from reading the prompt.
const NUM_DECODED_TOKENS: usize = 8;

/// The speed of a model on a device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speed {
    pub seconds_per_forward_token: f64,
    /// Of a prompt that is answered. 0 where the run decodes nothing.
    pub seconds_per_prompt_token: f64,
    /// 0 where the run decodes nothing.
    pub seconds_per_decoded_token: f64,
}

/// Answers to the same prompts that were timed.
#[derive(Debug, Clone, Copy)]
struct Answers {
    /// Of all answers together.
    num_tokens: usize,
    seconds: f64,
}

impl Speed {
    /// With what answers of one token and longer ones tell: what the longer ones took beyond the others is decoding.
    fn with_answers(self, num_prompt_tokens: usize, of_one_token: Answers, longer: Answers) -> Self {
        let seconds_per_prompt_token = of_one_token.seconds / num_prompt_tokens as f64;
        let num_decoded = longer.num_tokens.saturating_sub(of_one_token.num_tokens).max(1);
        let seconds_per_decoded_token = (longer.seconds - of_one_token.seconds) / num_decoded as f64;
        // No token is written faster than it is read; noise may say so, even that it takes less than no time.
        let seconds_per_decoded_token = seconds_per_decoded_token.max(seconds_per_prompt_token);
        Speed { seconds_per_prompt_token, seconds_per_decoded_token, ..self }
    }
}

/// Where a resumed run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub stage: Stage,
    /// Updates done in this stage.
    pub stage_steps: usize,
    /// Responses of this stage that are there already.
    pub num_responses: usize,
}

/// Seconds of one phase over the whole run, or what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PhaseSeconds {
    pub phase: Phase,
    pub seconds: f64,
}

/// What a run works on.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    pub config: &'a RunConfig,
    pub examples: &'a [Example],
    pub num_held_out: usize,
    /// Held-out rows that are answered.
    pub num_answered: usize,
    /// None: at the begin.
    pub standing: Option<Standing>,
}

impl Work<'_> {
    /// Rows bring their second responses themselves.
    fn are_given(&self) -> bool {
        bring_second_responses(self.examples)
    }

    /// Responses are written, here or by a server.
    fn needs_responses(&self) -> bool {
        let config = self.config;
        config.iterations > 0 && pairing_of_iterations(config) == Pairing::Both && !self.are_given()
    }

    /// Responses are decoded here.
    fn self_generates(&self) -> bool {
        self.needs_responses() && self.config.server.is_none()
    }

    /// A server writes the responses: how long that takes is not known, and it is in no phase.
    pub fn is_without_server(&self) -> bool {
        self.needs_responses() && self.config.server.is_some()
    }

    /// Times a forward pass, and answering where the run does any.
    ///
    /// # Errors
    /// A failing device.
    pub fn measure_speed(&self, model: &CausalLm, num_tokens_multiple: usize) -> Result<Speed> {
        let model = model.valid();
        let speed = Speed {
            seconds_per_forward_token: self.seconds_per_forward_token(&model, num_tokens_multiple)?,
            seconds_per_prompt_token: 0.0,
            seconds_per_decoded_token: 0.0,
        };
        match self.self_generates() || self.num_answered > 0 {
            true => self.with_speed_of_answers(speed, &model),
            false => Ok(speed),
        }
    }

    /// Seconds of each phase that the run has, or of what is left of it.
    pub fn seconds(&self, speed: Speed) -> Vec<PhaseSeconds> {
        let stages = Stage::all(self.config);
        let training = |phase: Phase| -> f64 {
            let stages = stages.iter().filter(|stage| phase_of(**stage) == phase);
            stages.map(|stage| self.share_left(*stage) * self.training_seconds(*stage, speed)).sum()
        };
        let num_evaluations = stages.iter().filter(|stage| self.share_left(**stage) > 0.0).count();
        let num_evaluations = num_evaluations + usize::from(self.standing.is_none());
        let list = [
            (Phase::Sft, training(Phase::Sft)),
            (Phase::SelfGenerate, stages.iter().map(|stage| self.generation_seconds(*stage, speed)).sum()),
            (Phase::Score, stages.iter().map(|stage| self.scoring_seconds(*stage, speed)).sum()),
            (Phase::Train, training(Phase::Train)),
            (Phase::Evaluate, num_evaluations as f64 * self.evaluation_seconds(speed)),
        ];
        let list = list.into_iter().filter(|(_, seconds)| *seconds > 0.0);
        list.map(|(phase, seconds)| PhaseSeconds { phase, seconds }).collect()
    }

    /// How a stage trains, and how often it does so.
    fn of_stage(&self, stage: Stage) -> (&TrainConfig, usize) {
        let train = &self.config.train;
        match stage {
            Stage::Sft => (self.config.sft.as_ref().unwrap_or(train), 1),
            Stage::ContinuedSft => (train, self.config.iterations),
            Stage::Iteration(_) | Stage::Done => (train, 1),
        }
    }

    /// Of the updates of a stage: 1 for one that is still to come, 0 for one that is done.
    fn share_left(&self, stage: Stage) -> f64 {
        let Some(standing) = self.standing else { return 1.0 };
        match stage.rank().cmp(&standing.stage.rank()) {
            std::cmp::Ordering::Less => 0.0,
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => {
                let (train, times) = self.of_stage(stage);
                let num_updates = train.num_updates(self.examples.len()) * times;
                (1.0 - standing.stage_steps as f64 / num_updates as f64).max(0.0)
            }
        }
    }

    /// True while the responses of an iteration, or their log-probs, may be missing.
    fn is_before_training(&self, stage: Stage) -> bool {
        let is_begun = |standing: Standing| standing.stage == stage && standing.stage_steps > 0;
        matches!(stage, Stage::Iteration(_)) && self.share_left(stage) > 0.0 && !self.standing.is_some_and(is_begun)
    }

    /// Responses that rounded weights wrote are read once more, with the model's own.
    fn generation_seconds(&self, stage: Stage, speed: Speed) -> f64 {
        if !self.is_before_training(stage) || !self.self_generates() {
            return 0.0;
        }
        let is_here = |standing: &Standing| standing.stage == stage;
        let num_there = self.standing.filter(is_here).map_or(0, |standing| standing.num_responses);
        let num_wanted = self.examples.len() * self.config.generation.samples_per_prompt;
        let read_again = match self.config.generation.weights {
            WeightFormat::F32 => 0.0,
            WeightFormat::Bf16 => self.sequence_tokens() * speed.seconds_per_forward_token,
        };
        num_wanted.saturating_sub(num_there) as f64 * (self.answer_seconds(speed) + read_again)
    }

    /// One answer: its prompt is read, then it is written.
    fn answer_seconds(&self, speed: Speed) -> f64 {
        let prompt_tokens = self.mean(|example| example.prompt_ids.len());
        prompt_tokens * speed.seconds_per_prompt_token + self.response_tokens() * speed.seconds_per_decoded_token
    }

    /// Demonstrations, and given responses, under the reference. The variance reduction reads its own ones once more.
    fn scoring_seconds(&self, stage: Stage, speed: Speed) -> f64 {
        if !self.is_before_training(stage) || pairing_of_iterations(self.config) == Pairing::Demonstrations {
            return 0.0;
        }
        let num_responses = match self.config.objective.variance_reduction {
            _ if self.are_given() => 1,
            VarianceReduction::None => 0,
            VarianceReduction::Exact | VarianceReduction::TopK(_) => self.config.generation.samples_per_prompt,
        };
        let num_sequences = (1 + num_responses) * self.examples.len();
        num_sequences as f64 * self.sequence_tokens() * speed.seconds_per_forward_token
    }

    fn training_seconds(&self, stage: Stage, speed: Speed) -> f64 {
        let (train, times) = self.of_stage(stage);
        let passes = if train.activation_checkpointing { 4.0 } else { 3.0 };
        let num_rows = self.examples.len().max(1);
        // The last update of an epoch has what is left.
        let pairs_of_update = num_rows as f64 / num_rows.div_ceil(train.batch_size) as f64;
        let num_pairs = (times * train.num_updates(num_rows)) as f64 * pairs_of_update;
        let one_side = num_pairs * self.sequence_tokens() * passes;
        let sides = match (stage, pairing_of_iterations(self.config)) {
            (Stage::Iteration(_), Pairing::Both) if self.are_given() => 2.0,
            (Stage::Iteration(_), Pairing::Both) => 1.0 + self.config.generation.samples_per_prompt as f64,
            (Stage::Iteration(_), Pairing::Demonstrations) => 1.0,
            (Stage::Sft | Stage::ContinuedSft | Stage::Done, _) => 1.0,
        };
        sides * one_side * speed.seconds_per_forward_token
    }

    fn evaluation_seconds(&self, speed: Speed) -> f64 {
        let answers = if self.config.evaluation.sampled { 2.0 } else { 1.0 };
        let scored = self.num_held_out as f64 * self.sequence_tokens() * speed.seconds_per_forward_token;
        scored + answers * self.num_answered as f64 * self.answer_seconds(speed)
    }

    fn mean(&self, len: impl Fn(&Example) -> usize) -> f64 {
        self.examples.iter().map(len).sum::<usize>() as f64 / self.examples.len().max(1) as f64
    }

    fn sequence_tokens(&self) -> f64 {
        self.mean(|example| example.prompt_ids.len() + example.demonstration_ids.len())
    }

    fn response_tokens(&self) -> f64 {
        self.mean(|example| example.demonstration_ids.len())
    }

    fn seconds_per_forward_token(&self, model: &CausalLm, num_tokens_multiple: usize) -> Result<f64> {
        let batch_size = score_batch_size(self.config);
        let sequences: Vec<Sequence<'_>> = self
            .examples
            .iter()
            .take(batch_size)
            .map(|example| Sequence { prompt_ids: &example.prompt_ids, response_ids: &example.demonstration_ids })
            .collect();
        let num_tokens: usize = sequences.iter().map(|s| s.prompt_ids.len() + s.response_ids.len()).sum();
        second_time(|| log_probs::score(model, &sequences, batch_size, num_tokens_multiple, &mut |_| Ok(())).map(drop))
            .map(|seconds| seconds / num_tokens as f64)
    }

    fn with_speed_of_answers(&self, speed: Speed, model: &CausalLm) -> Result<Speed> {
        let generation = &self.config.generation;
        let requests: Vec<Request> = self
            .examples
            .iter()
            .take(generation.batch_size)
            .map(|example| Request { prompt_ids: example.prompt_ids.clone(), seed: 0, max_new_tokens: None })
            .collect();
        let num_prompt_tokens: usize = requests.iter().map(|request| request.prompt_ids.len()).sum();
        let mut generator = Generator::new(model, generation.weights)?;
        let mut answers = |max_new_tokens| -> Result<Answers> {
            let decoding = Decoding {
                sampling: Sampling::greedy(),
                max_new_tokens,
                batch_size: requests.len(),
                eos_token_ids: Vec::new(),
            };
            let mut num_tokens = 0;
            let started = Instant::now();
            generator.answer(&requests, &decoding, &mut |event| {
                num_tokens += usize::from(matches!(event, Event::Token(..)));
                Ok(())
            })?;
            Ok(Answers { num_tokens, seconds: started.elapsed().as_secs_f64() })
        };
        answers(1 + NUM_DECODED_TOKENS)?; // as in `second_time`; it does what the shorter one does, too
        let longer = answers(1 + NUM_DECODED_TOKENS)?;
        Ok(speed.with_answers(num_prompt_tokens, answers(1)?, longer))
    }
}

/// Seconds of the second call: the first one touches memory and, on a graphics card, compiles.
fn second_time(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

/// The phase that a stage's updates count to.
fn phase_of(stage: Stage) -> Phase {
    match stage {
        Stage::Sft => Phase::Sft,
        Stage::Iteration(_) | Stage::ContinuedSft | Stage::Done => Phase::Train,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(count: usize) -> Vec<Example> {
        let example = |index| Example {
            index,
            prompt_ids: vec![3; 4],
            demonstration_ids: vec![4; 6],
            self_generated_ids: None,
            demonstration_text: None,
        };
        (0..count).map(example).collect()
    }

    /// One forward token takes a second, one of a prompt that is answered two, one decoded token ten.
    const SPEED: Speed =
        Speed { seconds_per_forward_token: 1.0, seconds_per_prompt_token: 2.0, seconds_per_decoded_token: 10.0 };
    /// An answer to a prompt of 4 tokens, as long as a demonstration of 6.
    const ANSWER_SECONDS: f64 = 4.0 * 2.0 + 6.0 * 10.0;

    fn seconds(config: &RunConfig, standing: Option<Standing>) -> Vec<(Phase, f64)> {
        seconds_with_answers(config, standing, 0)
    }

    fn seconds_with_answers(config: &RunConfig, standing: Option<Standing>, num_answered: usize) -> Vec<(Phase, f64)> {
        let examples = examples(16);
        let work = Work { config, examples: &examples, num_held_out: 2, num_answered, standing };
        work.seconds(SPEED).into_iter().map(|phase| (phase.phase, phase.seconds)).collect()
    }

    #[test]
    fn reading_prompts_is_no_part_of_decoding_a_token() {
        // 2 prompts of 100 tokens are read in 4 s; 8 more tokens to each take 0.8 s.
        let answers = |num_tokens, seconds| Answers { num_tokens, seconds };
        let speed = SPEED.with_answers(200, answers(2, 4.0), answers(18, 4.8));
        let near = |value: f64, expected: f64| (value - expected).abs() < 1e-12;
        assert!(near(speed.seconds_per_prompt_token, 0.02), "{speed:?}");
        assert!(near(speed.seconds_per_decoded_token, 0.05), "{speed:?}");
        assert_eq!(speed.seconds_per_forward_token, SPEED.seconds_per_forward_token);
        // The longer answers came sooner, or a full context left no room for more.
        for longer in [answers(18, 3.9), answers(2, 4.0)] {
            let speed = SPEED.with_answers(200, answers(2, 4.0), longer);
            assert_eq!(speed.seconds_per_decoded_token, speed.seconds_per_prompt_token, "{longer:?}");
        }
    }

    #[test]
    fn every_answer_of_an_evaluation_pays_once_for_its_prompt() {
        let mut config = RunConfig::default();
        for (sampled, answers) in [(false, 1.0), (true, 2.0)] {
            config.evaluation.sampled = sampled;
            let (phase, seconds) = *seconds_with_answers(&config, None, 3).last().unwrap();
            // Before and after the iteration.
            assert_eq!((phase, seconds), (Phase::Evaluate, 2.0 * (20.0 + answers * 3.0 * ANSWER_SECONDS)));
        }
    }

    #[test]
    fn only_a_server_that_writes_responses_is_left_out_of_the_time() {
        let mut config = RunConfig::default();
        let is_without_server = |config: &RunConfig, are_given: bool| {
            let mut examples = examples(2);
            examples.iter_mut().for_each(|example| example.self_generated_ids = are_given.then(|| vec![5]));
            Work { config, examples: &examples, num_held_out: 0, num_answered: 0, standing: None }.is_without_server()
        };
        assert!(!is_without_server(&config, false));
        config.set("server.url=http://localhost:8000/v1").unwrap();
        assert!(is_without_server(&config, false));
        assert!(!is_without_server(&config, true));
    }

    #[test]
    fn a_new_run_takes_all_of_its_phases() {
        // 16 rows of 10 tokens, 6 of them response; two iterations, three evaluations of 2 rows.
        let config = RunConfig { iterations: 2, ..RunConfig::default() };
        let expected = [
            (Phase::SelfGenerate, 2.0 * 16.0 * ANSWER_SECONDS),
            (Phase::Score, 2.0 * 160.0),
            (Phase::Train, 2.0 * 2.0 * 3.0 * 160.0),
            (Phase::Evaluate, 3.0 * 20.0),
        ];
        assert_eq!(seconds(&config, None), expected);
    }

    #[test]
    fn an_update_has_no_more_pairs_than_there_are_rows() {
        let mut config = RunConfig::default();
        ["train.batch_size=64", "train.num_steps=100"].iter().for_each(|assignment| config.set(assignment).unwrap());
        assert_eq!(seconds(&config, None)[2], (Phase::Train, 100.0 * 2.0 * 3.0 * 160.0));
    }

    #[test]
    fn the_variance_reduction_reads_every_response_once_more() {
        let mut config = RunConfig::default();
        config.set("generation.samples_per_prompt=3").unwrap();
        let scoring = |config: &RunConfig| seconds(config, None)[1];
        assert_eq!(scoring(&config), (Phase::Score, 160.0));
        config.set("objective.variance_reduction=top_k(16)").unwrap();
        assert_eq!(scoring(&config), (Phase::Score, (1.0 + 3.0) * 160.0));
    }

    #[test]
    fn responses_of_rounded_weights_are_read_once_more() {
        let mut config = RunConfig::default();
        config.set("generation.weights=bf16").unwrap();
        assert_eq!(seconds(&config, None)[0], (Phase::SelfGenerate, 16.0 * ANSWER_SECONDS + 160.0));
    }

    #[test]
    fn a_resumed_run_takes_what_is_left() {
        let config = RunConfig { iterations: 2, ..RunConfig::default() };
        let at = |stage, stage_steps, num_responses| Some(Standing { stage, stage_steps, num_responses });
        // In the middle of the two updates of the last iteration: half its training, one evaluation.
        let expected = [(Phase::Train, 480.0), (Phase::Evaluate, 20.0)];
        assert_eq!(seconds(&config, at(Stage::Iteration(1), 1, 16)), expected);
        // While its responses are being written: a quarter of them is there.
        let left = seconds(&config, at(Stage::Iteration(1), 0, 4));
        assert_eq!(left[0], (Phase::SelfGenerate, 12.0 * ANSWER_SECONDS));
        assert_eq!(left[2], (Phase::Train, 960.0));
        assert_eq!(seconds(&config, at(Stage::Done, 0, 0)), []);
    }
}
