//! What to change where memory does not suffice: each change with the bytes that it saves, by the same arithmetic.

use serde::Serialize;

use super::batches::RowLengths;
use super::memory::{Memory, Subject, memory};
use crate::config::{OptimizerName, RunConfig, TrainConfig, WeightFormat, key_of};
use crate::report::table::plural;
use crate::train::changes::CHANGEABLE;

/// The share of the rows that a lower `max_length` should keep.
const KEPT_ROWS: f64 = 0.9;

/// One change of the settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// `key=value`, one or several that belong together.
    pub assignments: Vec<String>,
    /// What it costs, in words.
    pub cost: String,
    /// What it takes off the peak, alone.
    pub saved_bytes: u64,
    /// The peak with it.
    pub peak_bytes: u64,
    /// May be made in the middle of a run.
    pub fits_resume: bool,
    /// From 1, a little time, to 4, another result.
    #[serde(skip)]
    weight: u64,
}

/// Changes that together fit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Combination {
    pub assignments: Vec<String>,
    pub peak_bytes: u64,
}

/// Changes that save anything, those that save most for what they cost first.
pub fn changes(subject: &Subject<'_>, before: &Memory) -> Vec<Change> {
    let peak = before.peak_bytes();
    let mut changes: Vec<Change> = candidates(subject)
        .into_iter()
        .filter_map(|candidate| {
            let peak_bytes = peak_with(subject, &[&candidate])?;
            let fits_resume = candidate.fits_resume();
            let Candidate { assignments, cost, weight } = candidate;
            let saved_bytes = peak.saturating_sub(peak_bytes);
            Some(Change { assignments, cost, saved_bytes, peak_bytes, fits_resume, weight })
        })
        .filter(|change| change.saved_bytes > 0)
        .collect();
    changes.sort_by_key(|change| std::cmp::Reverse(change.saved_bytes / change.weight));
    changes
}

/// The cheapest changes that together fit into the limit, of two equally cheap combinations that with fewer changes; for a
/// resumed run only of those that it may still make. None if no combination fits.
pub fn combination(subject: &Subject<'_>, limit_bytes: u64) -> Option<Combination> {
    let mut candidates = candidates(subject);
    candidates.retain(|candidate| !subject.is_resumed || candidate.fits_resume());
    let chosen = |set: u32| -> Vec<&Candidate> {
        candidates.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, candidate)| candidate).collect()
    };
    let mut sets: Vec<Vec<&Candidate>> = (1..1 << candidates.len()).map(chosen).collect();
    sets.retain(|set| !set.iter().any(|one| set.iter().any(|other| one.is_other_value(other))));
    sets.sort_by_key(|set| (set.iter().map(|candidate| candidate.weight).sum::<u64>(), set.len()));
    sets.into_iter().find_map(|set| {
        let peak_bytes = peak_with(subject, &set).filter(|peak| *peak <= limit_bytes)?;
        let assignments = set.iter().flat_map(|candidate| candidate.assignments.clone()).collect();
        Some(Combination { assignments, peak_bytes })
    })
}

/// None where the changes cannot be made together.
fn peak_with(subject: &Subject<'_>, candidates: &[&Candidate]) -> Option<u64> {
    let assignments = candidates.iter().flat_map(|candidate| &candidate.assignments);
    let config = changed(subject.config, assignments)?;
    Some(memory(&Subject { config: &config, ..*subject }).peak_bytes())
}

/// The settings with changes; None if they cannot be so.
fn changed<'a>(config: &RunConfig, assignments: impl Iterator<Item = &'a String>) -> Option<RunConfig> {
    // The built-in task is made by now: beside its model and data no configuration may ask for it.
    let mut config = RunConfig { word_problems: None, ..config.clone() };
    for assignment in assignments {
        config.set(assignment).ok()?;
    }
    config.validate().ok().map(|()| config)
}

/// A change that may help.
#[derive(Debug, Clone)]
struct Candidate {
    assignments: Vec<String>,
    cost: String,
    weight: u64,
}

impl Candidate {
    fn keys(&self) -> impl Iterator<Item = &str> {
        self.assignments.iter().map(|assignment| key_of(assignment))
    }

    /// May be made in the middle of a run.
    fn fits_resume(&self) -> bool {
        self.keys().all(|key| CHANGEABLE.contains(&key))
    }

    /// The same key with another value: one of the two is enough.
    fn is_other_value(&self, other: &Self) -> bool {
        self.keys().next() == other.keys().next() && self.assignments != other.assignments
    }
}

/// What can be changed in these settings, the cheap before the dear.
fn candidates(subject: &Subject<'_>) -> Vec<Candidate> {
    let Subject { config, rows, is_flex, .. } = *subject;
    let in_stages = |differs: &dyn Fn(&TrainConfig) -> bool, key: &str, value: &str| -> Vec<String> {
        let stages = [("train", Some(&config.train)), ("sft", config.sft.as_ref())];
        let differing = stages.into_iter().filter(|(_, train)| train.is_some_and(differs));
        differing.map(|(stage, _)| format!("{stage}.{key}={value}")).collect()
    };
    let longest = rows.iter().map(|row| longest_pair(config, row)).max().unwrap_or(0);
    let adapter_lr = TrainConfig::DEFAULT_LORA_LR;
    let to_an_adapter =
        format!("an adapter instead of all weights; the learning rate, unless it is set, becomes {adapter_lr:e}");
    let may_pack =
        |train: &TrainConfig| train.micro_batch_size > 1 && (train.max_tokens == 0 || train.max_tokens > longest);
    let if_true = |is_so: bool, assignment: &str| if is_so { vec![assignment.to_owned()] } else { Vec::new() };
    let generation = &config.generation;
    let fewer = format!("generation.batch_size={}", (generation.batch_size / 8).max(1));
    let (max_length, num_dropped) = shorter(config, rows).unwrap_or_default();
    let smaller_passes = "smaller passes: a tenth more time with long rows, up to twice the time with short ones";
    let list = [
        (in_stages(&|train| train.micro_batch_size > 1, "micro_batch_size", "1"), smaller_passes, 1),
        (in_stages(&may_pack, "max_tokens", &longest.to_string()), smaller_passes, 1),
        (if_true(generation.batch_size > 1, &fewer), "slower generation", 1),
        (
            if_true(is_flex && generation.weights == WeightFormat::F32, "generation.weights=bf16"),
            "responses from rounded weights, scored again",
            1,
        ),
        (
            in_stages(&|train| !train.activation_checkpointing, "activation_checkpointing", "true"),
            match config.lora {
                // With a frozen base the products that are repeated are nearly half of a step's.
                Some(_) => "half as much time again for training, or more",
                None => "a third more time for training",
            },
            2,
        ),
        (
            if_true(max_length > 0, &format!("train.max_length={max_length}")),
            &format!("left out: {}", plural(num_dropped, "row")),
            3,
        ),
        (in_stages(&|train| train.optimizer == OptimizerName::Adamw, "optimizer", "rmsprop"), "other updates", 3),
        (
            in_stages(&|train| train.optimizer != OptimizerName::Sgd, "optimizer", "sgd"),
            "other updates, which need another learning rate",
            4,
        ),
        (if_true(config.lora.is_none(), "lora.rank=8"), &to_an_adapter, 4),
    ];
    let list = list.into_iter().filter(|(assignments, ..)| !assignments.is_empty());
    list.map(|(assignments, cost, weight)| Candidate { assignments, cost: cost.to_owned(), weight }).collect()
}

/// The tokens of a row's pair with its longest possible response.
fn longest_pair(config: &RunConfig, row: &RowLengths) -> usize {
    let other = row.given.unwrap_or(config.generation.max_new_tokens);
    row.prompt + row.demonstration + other.min(config.train.max_length.saturating_sub(row.prompt))
}

/// A limit that keeps most rows and shortens the longest by a tenth at least, and how many rows it leaves out.
fn shorter(config: &RunConfig, rows: &[RowLengths]) -> Option<(usize, usize)> {
    let mut lens: Vec<usize> = rows.iter().map(RowLengths::longest).collect();
    lens.sort_unstable();
    let longest = *lens.last()?;
    let limit = lens[((lens.len() - 1) as f64 * KEPT_ROWS) as usize].max(config.generation.max_new_tokens + 1);
    let dropped = lens.iter().filter(|len| **len > limit).count();
    (10 * limit <= 9 * longest).then_some((limit, dropped))
}
