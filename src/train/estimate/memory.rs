//! Memory by phase and part, in bytes: pure arithmetic over the settings, the architecture and the lengths of the rows.
//!
//! Each phase is taken at its fullest moment. Where a figure comes from stands beside it; what a layer keeps is in
//! `sizes`, what is computed at once in [`super::batches`]. The reference needs no memory of its own: its log-probs
//! are numbers in the run folder.
//!
//! Live bytes are what the program holds. On Linux the allocator keeps freed memory ([`crate::device::keep_freed_memory`]),
//! so that what a person sees grows to the fullest phase and stays there; blocks of different sizes leave gaps, which
//! `GAPS` adds.

use serde::Serialize;

use super::batches::{
    BatchShape, Pairing, RowLengths, StageShape, longest_response, pairing_of_iterations, stage_shape,
};
use super::sizes::{NUMBER, Sizes};
use crate::config::{RunConfig, TrainConfig, WeightFormat};
use crate::generate::PASS_ROWS;
use crate::model::ModelConfig;
use crate::model::cache::SPAN_TOKENS;
use crate::ops;
use crate::records::stage::Stage;
use crate::train::distributions::num_candidates;
use crate::train::optimizer::Optimizer;
use crate::train::served::probe;
use crate::train::setup::score_batch_size;

/// What is added by code and stacks that only training touches. Measured with the smallest model.
const PROGRAM_GROWTH: u64 = 7_000_000;
/// Gaps that the allocator leaves between blocks of different sizes, as a share. Measured over the configurations of the
/// README: 0 to 5 percent.
const GAPS: f64 = 0.04;
/// Tensors of `[R, V]` that the exact variance reduction has at once, and of `[R, K, D]` that the one with candidates has.
/// Measured on small models.
const EXACT_COPIES: u64 = 5;
const CANDIDATE_COPIES: u64 = 3;

/// What the arithmetic is done over.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub config: &'a RunConfig,
    pub model: &'a ModelConfig,
    pub rows: &'a [RowLengths],
    pub held_out: &'a [RowLengths],
    /// Held-out rows that are answered at each evaluation.
    pub num_answered: usize,
    /// What the process holds before it reads the weights, of the device's memory: see [`super::program::program_bytes`].
    pub program_bytes: u64,
    /// The fast CPU backend: weights are packed for decoding, and its tensors are this process's memory.
    pub is_flex: bool,
    /// Spans of rows are filled up to a multiple of this.
    pub num_tokens_multiple: usize,
    /// Parameters and moments are read from a checkpoint first.
    pub is_resumed: bool,
}

/// A part of a run that has a memory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Load,
    Sft,
    SelfGenerate,
    Score,
    Train,
    Checkpoint,
    Evaluate,
}

/// What memory is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Code, threads, tokenizer.
    Program,
    Weights,
    Gradients,
    Optimizer,
    /// What the graph keeps for the backward pass, and what comes and goes inside a layer.
    Activations,
    /// The head and the softmax over the vocabulary; with variance reduction also the reference's distributions.
    LogProbs,
    /// Weights laid out for decoding.
    PackedWeights,
    KvCache,
    /// Copies on the way to or from a file.
    Copies,
    /// What the allocator cannot fill.
    Gaps,
}

impl Part {
    /// Every part, in the order of a table's columns.
    pub const ALL: [Part; 10] = [
        Part::Program,
        Part::Weights,
        Part::Gradients,
        Part::Optimizer,
        Part::Activations,
        Part::LogProbs,
        Part::PackedWeights,
        Part::KvCache,
        Part::Copies,
        Part::Gaps,
    ];
}

/// The fullest moment of a phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseMemory {
    pub phase: Phase,
    /// Parts that take anything.
    pub parts: Vec<(Part, u64)>,
}

impl PhaseMemory {
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    pub fn of(&self, part: Part) -> u64 {
        self.parts.iter().filter(|(other, _)| *other == part).map(|(_, bytes)| bytes).sum()
    }
}

/// The phases of a run in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    pub phases: Vec<PhaseMemory>,
    /// The largest single tensor, which a graphics card must take as one buffer.
    pub largest_tensor_bytes: u64,
}

impl Memory {
    /// The fullest phase.
    pub fn peak(&self) -> &PhaseMemory {
        self.phases.iter().max_by_key(|phase| phase.bytes()).expect("a model is always loaded")
    }

    pub fn peak_bytes(&self) -> u64 {
        self.peak().bytes()
    }
}

/// The memory of a run.
pub fn memory(subject: &Subject<'_>) -> Memory {
    let arithmetic = Arithmetic::new(subject);
    let config = subject.config;
    let mut phases = vec![arithmetic.load()];
    let mut largest = arithmetic.sizes.largest_weight();
    if let Some(sft) = &config.sft {
        let shape = arithmetic.stage(sft, Stage::Sft, Pairing::Demonstrations);
        phases.push(arithmetic.training(Phase::Sft, sft, shape));
        largest = largest.max(arithmetic.kept_logits(sft, shape.largest));
        phases.extend(arithmetic.checkpoint(sft, shape));
    }
    if config.iterations > 0 {
        let pairing = pairing_of_iterations(config);
        if pairing == Pairing::Both && subject.rows.iter().any(|row| row.given.is_none()) {
            phases.push(arithmetic.self_generate());
        }
        if pairing == Pairing::Both {
            phases.push(arithmetic.score());
        }
        let shape = arithmetic.stage(&config.train, Stage::Iteration(0), pairing);
        phases.push(arithmetic.iteration(shape));
        largest = largest.max(arithmetic.kept_logits(&config.train, shape.largest));
        phases.extend(arithmetic.checkpoint(&config.train, shape));
    }
    phases.push(arithmetic.evaluate());
    Memory { phases, largest_tensor_bytes: largest }
}

/// Sequences that are decoded side by side, in tokens.
#[derive(Clone, Copy)]
struct Slots {
    num_slots: usize,
    longest_prompt: usize,
    /// The longest prompt with its response.
    capacity: usize,
}

impl Slots {
    fn of(rows: &[RowLengths], num_slots: usize, whole: impl Fn(&RowLengths) -> usize) -> Self {
        Slots {
            num_slots,
            longest_prompt: rows.iter().map(|row| row.prompt).max().unwrap_or(0),
            capacity: rows.iter().map(whole).max().unwrap_or(0),
        }
    }
}

/// The subject with what every phase begins from.
struct Arithmetic<'a> {
    subject: &'a Subject<'a>,
    sizes: Sizes<'a>,
}

impl<'a> Arithmetic<'a> {
    fn new(subject: &'a Subject<'a>) -> Self {
        Arithmetic { subject, sizes: Sizes { model: subject.model, lora: subject.config.lora.as_ref() } }
    }

    /// A phase with the program, the weights and the gaps added.
    fn phase(&self, phase: Phase, others: &[(Part, u64)]) -> PhaseMemory {
        let program = self.subject.program_bytes + PROGRAM_GROWTH;
        let weights = self.sizes.weights();
        let others_bytes: u64 = others.iter().map(|(_, bytes)| bytes).sum();
        let gaps = (GAPS * others_bytes as f64) as u64;
        let all = [(Part::Program, program), (Part::Weights, weights)].into_iter();
        let all = all.chain(others.iter().copied()).chain([(Part::Gaps, gaps)]);
        PhaseMemory { phase, parts: all.filter(|(_, bytes)| *bytes > 0).collect() }
    }

    /// Values go from the file into the weights piece by piece. A resumed run then reads all trained parameters of the
    /// checkpoint, and later all moments, before it puts them in place.
    fn load(&self) -> PhaseMemory {
        let copies = if self.subject.is_resumed { self.sizes.gradients() } else { 0 };
        self.phase(Phase::Load, &[(Part::Copies, copies)])
    }

    fn stage(&self, train: &TrainConfig, stage: Stage, pairing: Pairing) -> StageShape {
        let Subject { config, rows, num_tokens_multiple, .. } = *self.subject;
        stage_shape(config, (train, stage), pairing, rows, (&self.sizes, num_tokens_multiple))
    }

    /// The moments of the optimizer; there are none before the end of the first update.
    fn moments(&self, train: &TrainConfig) -> u64 {
        self.sizes.gradients() * Optimizer::new(train).num_averages()
    }

    /// Logits that the log-prob operation keeps for its backward pass (`ops::selected_log_probs`).
    fn kept_logits(&self, train: &TrainConfig, shape: BatchShape) -> u64 {
        let vocab_size = self.subject.model.vocab_size;
        let may_keep = self.subject.is_flex && !train.activation_checkpointing; // graphics cards compute them again
        match may_keep && ops::keeps_logits(shape.num_responses, vocab_size) {
            true => NUMBER * (shape.num_responses * vocab_size) as u64,
            false => 0,
        }
    }

    /// Columns of logits that are computed at a time, where they are not kept.
    fn passing_logits(&self, num_responses: usize) -> u64 {
        let columns = ops::columns_at_a_time(self.subject.is_flex).min(self.subject.model.vocab_size);
        NUMBER * (num_responses * columns) as u64
    }

    /// The fullest moment of an update, from the second one on: moments are there.
    ///
    /// With several micro-batches the gradients of the earlier ones are there all the time. Within one, activations go as
    /// gradients come: the fullest moment is at the begin of the backward pass, when the head's gradient is there and every
    /// activation still is, or at its end. With activation checkpointing only the inputs of the layers (`[N, D]` each, one
    /// more for the head) wait for the backward pass; all of one layer is there once the logits have gone. Inputs go one by
    /// one as gradients come, but gradients rarely fit into the gaps that they leave: measured, memory is as if they stayed.
    fn training(&self, phase: Phase, train: &TrainConfig, shape: StageShape) -> PhaseMemory {
        let Sizes { model, .. } = self.sizes;
        let StageShape { largest: BatchShape { num_rows, num_responses, .. }, num_micro_batches, num_updates } = shape;
        let (num_rows, num_responses, num_layers) =
            (num_rows as u64, num_responses as u64, model.num_hidden_layers as u64);
        let layer = num_rows * self.sizes.kept_of_layer();
        let inputs = num_rows * (num_layers + 1) * self.sizes.hidden();
        let passing = num_rows * self.sizes.passing_backward();
        let (beside_logits, left) = match train.activation_checkpointing {
            true => (inputs, inputs),
            false => (num_layers * layer + num_rows * self.sizes.hidden() + passing, 0),
        };
        // Chosen rows, their norm, the gradients of both: `[R, D]` each.
        let head = 4 * num_responses * self.sizes.hidden();
        let logits = match self.kept_logits(train, shape.largest) {
            0 => self.passing_logits(shape.largest.num_responses),
            kept => kept,
        };
        let gradients = self.sizes.gradients();
        let accumulated = if num_micro_batches > 1 { gradients } else { 0 };
        // The optimizer's averages, made in the first update, settle where its logits were: those of the next one, a single
        // block, do not fit there any more.
        let moments = self.moments(train);
        let lost = match num_updates > 1 && moments > 0 {
            true => self.kept_logits(train, shape.largest).saturating_sub(moments + accumulated),
            false => 0,
        };
        let begin = [
            (Part::Gradients, accumulated + self.sizes.head_gradient()),
            (Part::Activations, beside_logits),
            (Part::LogProbs, head + logits + lost),
        ];
        let end = [
            (Part::Gradients, accumulated + gradients),
            (Part::Activations, layer + passing + left),
            (Part::LogProbs, 0),
        ];
        let sum = |parts: &[(Part, u64)]| parts.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let mut parts = if sum(&begin) >= sum(&end) { begin.to_vec() } else { end.to_vec() };
        if num_updates > 1 {
            parts.push((Part::Optimizer, moments));
        } else if sum(&parts) < gradients + moments {
            parts = vec![(Part::Gradients, gradients), (Part::Optimizer, moments)]; // the update itself
        }
        self.phase(phase, &parts)
    }

    /// The training of an iteration. The variance reduction keeps the reference's distributions along all responses, and
    /// computes with those of a micro-batch.
    fn iteration(&self, shape: StageShape) -> PhaseMemory {
        let Subject { config, model, rows, .. } = *self.subject;
        let mut training = self.training(Phase::Train, &config.train, shape);
        let vocab_size = model.vocab_size;
        let Some(num_candidates) = num_candidates(config.objective.variance_reduction, vocab_size) else {
            return training;
        };
        let (candidates, is_exact) = (num_candidates as u64, num_candidates == vocab_size);
        let response = |row: &RowLengths| longest_response(config, row, model.max_position_embeddings);
        let num_tokens = rows.iter().map(response).sum::<usize>() * config.generation.samples_per_prompt;
        let kept = num_tokens as u64 * NUMBER * if is_exact { candidates } else { 2 * candidates };
        // Exact: logits, log-probs, and the products and gradients of the divergence. Else a row of the head for each
        // candidate, its product with the hidden state, and a gradient.
        let row = if is_exact {
            EXACT_COPIES * NUMBER * candidates
        } else {
            CANDIDATE_COPIES * candidates * self.sizes.hidden()
        };
        let computed = shape.largest.num_self_generated as u64 * row;
        match training.parts.iter_mut().find(|(part, _)| *part == Part::LogProbs) {
            Some((_, bytes)) => *bytes += kept + computed,
            None => training.parts.push((Part::LogProbs, kept + computed)),
        }
        training
    }

    /// Weights and moments are copied to the host one at a time.
    fn checkpoint(&self, train: &TrainConfig, shape: StageShape) -> Option<PhaseMemory> {
        (shape.num_updates > 0).then(|| {
            let copies = self.sizes.largest_weight();
            self.phase(Phase::Checkpoint, &[(Part::Optimizer, self.moments(train)), (Part::Copies, copies)])
        })
    }

    /// Passes without a graph over as many sequences as a micro-batch has.
    fn score(&self) -> PhaseMemory {
        let Subject { config, rows, num_tokens_multiple, .. } = *self.subject;
        let shape = BatchShape::of_scoring(rows, score_batch_size(config), num_tokens_multiple);
        self.phase(Phase::Score, &self.forward(shape))
    }

    fn forward(&self, shape: BatchShape) -> [(Part, u64); 2] {
        let head = 2 * shape.num_responses as u64 * self.sizes.hidden() + self.passing_logits(shape.num_responses);
        [(Part::Activations, shape.num_rows as u64 * self.sizes.passing_forward()), (Part::LogProbs, head)]
    }

    /// Where a server writes the responses, the probe that it is asked is all that is decoded.
    fn self_generate(&self) -> PhaseMemory {
        let Subject { config, model, rows, .. } = *self.subject;
        let generation = &config.generation;
        let num_answers = rows.len() * generation.samples_per_prompt;
        let (num_slots, most_tokens) = match config.server {
            Some(_) => (probe::NUM_PROMPTS.min(rows.len()), probe::NUM_TOKENS),
            None => (generation.batch_size.min(num_answers), usize::MAX),
        };
        let response = |row: &RowLengths| longest_response(config, row, model.max_position_embeddings).min(most_tokens);
        let slots = Slots::of(rows, num_slots, |row| row.prompt + response(row));
        self.phase(Phase::SelfGenerate, &self.decoding(slots, generation.weights))
    }

    /// Packed weights with one matrix on its way to them, or with the cache and the buffers of a pass: one is over before the
    /// other begins. The log-probs of what was decoded are checked by scoring, which takes less.
    ///
    /// On other devices than the CPU a pass reads all prompts of a batch at once, padded to the longest, and attention makes
    /// the scores of all of them. On the CPU each row is attended to by itself, and its scores are few.
    fn decoding(&self, slots: Slots, format: WeightFormat) -> Vec<(Part, u64)> {
        let Subject { model, is_flex, .. } = *self.subject;
        let Slots { num_slots, longest_prompt, capacity } = slots;
        // On the CPU heads and tokens are filled up to whole panels.
        let (of_head, of_tokens) =
            if is_flex { (ops::MOST_PANEL_COLUMNS, ops::MOST_PANEL_COLUMNS) } else { (1, SPAN_TOKENS) };
        let tokens = (num_slots * capacity.next_multiple_of(of_tokens)) as u64;
        let cache = tokens * self.sizes.cached_token(of_head);
        let logits = NUMBER * (num_slots * model.vocab_size) as u64;
        if !is_flex {
            let prompts = (num_slots * capacity) as u64 * self.sizes.passing_forward();
            let looks = num_slots * longest_prompt * longest_prompt.next_multiple_of(SPAN_TOKENS);
            let scores = looks as u64 * self.sizes.passing_scores();
            return vec![(Part::Activations, prompts + scores), (Part::LogProbs, logits), (Part::KvCache, cache)];
        }
        let pass = PASS_ROWS.max(num_slots) as u64 * self.sizes.passing_forward();
        let packed = (Part::PackedWeights, self.sizes.packed(format));
        let copies = self.sizes.passing_packing();
        match copies >= cache + pass + logits {
            true => vec![packed, (Part::Copies, copies)],
            false => vec![packed, (Part::Activations, pass), (Part::LogProbs, logits), (Part::KvCache, cache)],
        }
    }

    /// Scores the held-out rows and answers some; the optimizer of the stage before is gone.
    fn evaluate(&self) -> PhaseMemory {
        let Subject { config, model, held_out, num_answered, num_tokens_multiple, .. } = *self.subject;
        let shape = BatchShape::of_scoring(held_out, score_batch_size(config), num_tokens_multiple);
        let mut parts = self.forward(shape).to_vec();
        if num_answered > 0 {
            let limit = config.evaluation.max_new_tokens.unwrap_or(config.generation.max_new_tokens);
            let len = |row: &RowLengths| (row.prompt + limit).min(model.max_position_embeddings);
            let answered = &held_out[..num_answered.min(held_out.len())];
            let slots = Slots::of(answered, config.generation.batch_size.min(num_answered), len);
            let answering = self.decoding(slots, WeightFormat::F32);
            let sum = |parts: &[(Part, u64)]| parts.iter().map(|(_, bytes)| bytes).sum::<u64>();
            parts = if sum(&answering) > sum(&parts) { answering } else { parts };
        }
        self.phase(Phase::Evaluate, &parts)
    }
}
