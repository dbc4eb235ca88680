//! What a run will need, said before anything starts: memory by phase, time by phase, room on the disk.
//!
//! [`memory`] is arithmetic over [`sizes`] and [`batches`] and needs no weights; [`savings`] tries changes of the settings on
//! it; [`limits`] is what the machine has; [`time`] measures the speed of the loaded model for a few seconds.

pub mod batches;
pub mod limits;
pub mod memory;
pub mod savings;
mod sizes;
pub mod time;

use super::checkpoint;
use super::optimizer::Optimizer;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use limits::Limits;
use memory::{Memory, Phase, Subject, memory};
use savings::{Change, changes, combination};
use sizes::{NUMBER, Sizes};

/// The memory of a run, if the machine has it.
///
/// # Errors
/// [`Error::Device`] if it has not, with the cheapest changes that help.
pub fn memory_that_fits(subject: &Subject<'_>, limits: &Limits, device_name: &str) -> Result<Memory> {
    let memory = memory(subject);
    let Some(problem) = limits.problem(&memory) else { return Ok(memory) };
    let changes = changes(subject, &memory);
    let mut hint = advice(&changes, false);
    if let Some(limit) = limits.bytes {
        hint += &match combination(subject, limit) {
            Some(fitting) => format!("; the cheapest that fits: {}", fitting.assignments.join(" ")),
            None => "; all of them together do not fit: take a smaller model".to_owned(),
        };
    }
    Err(Error::device(device_name, problem).with_hint(hint + "; `gsil estimate` shows where memory goes"))
}

/// Changes in words, those that save most for what they cost first; for a run that has begun, those first that it may still
/// make.
pub fn advice(changes: &[Change], has_begun: bool) -> String {
    let words = |fits: &dyn Fn(&Change) -> bool| {
        let fitting = changes.iter().filter(|change| fits(change));
        let words =
            fitting.map(|change| format!("{} ({} less)", change.assignments.join(" "), bytes(change.saved_bytes)));
        words.collect::<Vec<_>>().join(", ")
    };
    if !has_begun {
        return format!("in the order of what they save for what they cost: {}", words(&|_| true));
    }
    let (now, anew) = (words(&|change| change.fits_resume), words(&|change| !change.fits_resume));
    let now = if now.is_empty() { String::new() } else { format!("`gsil resume DIR --allow-changes` with {now}; ") };
    format!(
        "by the estimate, in the order of what saves most: {now}in a new run: {anew}. The last checkpoint is intact"
    )
}

/// What a run keeps on the disk at once: its checkpoints with one more while it is written, the start where it is needed
/// again, the model.
pub fn disk_bytes(config: &RunConfig, model: &ModelConfig) -> u64 {
    let trained = Sizes { model, lora: config.lora.as_ref() }.trained_numbers();
    let checkpoint = checkpoint::num_bytes(trained, Some(&Optimizer::new(&config.train)));
    let start = if config.continued_sft_lr.is_some() { checkpoint::num_bytes(trained, None) } else { 0 };
    let hands_over = config.server.as_ref().is_some_and(|server| !server.on_policy_ready.is_empty());
    let num_models = if hands_over { 2 } else { 1 };
    let num_checkpoints = (config.keep_last + config.keep_best + 1) as u64;
    num_checkpoints * checkpoint + start + num_models * NUMBER * model.num_parameters() as u64
}

/// `2.86 GB`, `640 MB`.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_000_000_000 => format!("{:.0} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

/// A phase in a word or two.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Load => "load",
        Phase::Sft => "sft",
        Phase::SelfGenerate => "self-generate",
        Phase::Score => "score",
        Phase::Train => "train",
        Phase::Checkpoint => "checkpoint",
        Phase::Evaluate => "evaluate",
    }
}
