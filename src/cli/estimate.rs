//! `gsil estimate`: what a run would need, and whether this machine has it.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::train::{ConfigArgs, resolved_config, warn_of_unread};
use super::{print_json, print_text};
use crate::config::RunConfig;
use crate::error::Result;
use crate::formats::file_system::Disk;
use crate::report::console::Console;
use crate::report::table::{duration, format_table};
use crate::train::estimate::limits::Limits;
use crate::train::estimate::memory::{Memory, Part, PhaseMemory, memory};
use crate::train::estimate::savings::{Change, Combination, changes, combination};
use crate::train::estimate::time::{PhaseSeconds, Speed, WITHOUT_SERVER, Work};
use crate::train::estimate::{OTHER_MODEL, bytes, disk_bytes, phase_name};
use crate::train::inputs::Inputs;
use crate::train::run_dir::RunDir;
use crate::train::setup::num_tokens_multiple;
use crate::train::sources::Sources;
use crate::train::task::{make_task, with_task_paths};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil estimate --model SmolLM2 --data train.jsonl
  gsil estimate --config gsil.ron --no-time train.micro_batch_size=1")]
pub(super) struct EstimateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Memory and disk only: weights are not loaded, nothing is timed.
    #[arg(long)]
    no_time: bool,
    /// JSON instead of the tables.
    #[arg(long)]
    json: bool,
}

/// All of it.
struct Estimate {
    device: String,
    memory: Memory,
    limits: Limits,
    /// Why it does not fit.
    problem: Option<String>,
    changes: Vec<Change>,
    combination: Option<Combination>,
    disk_bytes: u64,
    time: Option<Time>,
}

#[derive(Serialize)]
struct Time {
    #[serde(flatten)]
    speed: Speed,
    phases: Vec<PhaseSeconds>,
    seconds: f64,
    /// A server writes the responses: how long that takes is in none of these.
    without_server: bool,
}

pub(super) fn estimate(args: EstimateArgs) -> Result<()> {
    let config = resolved_config(&args.config, None)?;
    let console = Console::stderr();
    warn_of_unread(&config, &console);
    let estimate = match config.word_problems.is_some() {
        false => Estimate::of(&config, args.no_time, &console)?,
        true => with_task(&config, |config| Estimate::of(config, args.no_time, &console))?,
    };
    match args.json {
        true => print_json(&estimate.to_json()),
        false => print_text(&estimate.to_text()),
    }
}

/// The built-in task exists only in a folder: it is made in a passing one.
fn with_task(config: &RunConfig, work: impl FnOnce(&RunConfig) -> Result<Estimate>) -> Result<Estimate> {
    let folder = std::env::temp_dir().join(format!("gsil-estimate-{}", std::process::id()));
    let device = crate::device::open(config.device_names()[0])?;
    let dir = RunDir::create(Arc::new(Disk), &folder)?;
    let result = make_task(config, &dir, &device).and_then(|()| work(&with_task_paths(config, &dir)));
    dir.abandon();
    result
}

impl Estimate {
    fn of(config: &RunConfig, no_time: bool, console: &Console) -> Result<Self> {
        let config = &Sources::find(config, console)?.local;
        let inputs = Inputs::open(config, console)?;
        inputs.warn_of_held_out_rows(console)?;
        let mut estimate = inputs.with_subject(config, false, |subject| {
            let (memory, limits) = (memory(subject), inputs.limits);
            let problem = limits.problem(&memory);
            let changes = if limits.is_beyond_a_buffer(&memory) { Vec::new() } else { changes(subject, &memory) };
            let limit = limits.bytes.filter(|_| problem.is_some() && !changes.is_empty());
            let combination = limit.and_then(|limit| combination(subject, limit));
            Estimate {
                device: inputs.device_name.clone(),
                changes,
                memory,
                limits,
                problem,
                combination,
                disk_bytes: disk_bytes(subject),
                time: None,
            }
        });
        // What does not fit is not tried.
        if !no_time && estimate.problem.is_none() {
            let model = inputs.load(config, console)?;
            let work = Work {
                config,
                examples: &inputs.examples,
                num_held_out: inputs.held_out.examples.len(),
                num_answered: inputs.held_out.num_answered(),
                standing: None,
            };
            let speed = work.measure_speed(&model, num_tokens_multiple(&inputs.device_name))?;
            let phases = work.seconds(speed);
            let seconds = phases.iter().map(|phase| phase.seconds).sum();
            estimate.time = Some(Time { speed, phases, seconds, without_server: work.is_without_server() });
        }
        Ok(estimate)
    }

    fn to_json(&self) -> Value {
        let phase = |memory: &PhaseMemory| {
            let parts: Map<String, Value> =
                memory.parts.iter().map(|(part, bytes)| (part_name(*part).to_owned(), json!(bytes))).collect();
            json!({"phase": memory.phase, "bytes": memory.bytes(), "parts": parts})
        };
        json!({
            "device": self.device,
            "peak_bytes": self.memory.peak_bytes(),
            "peak_phase": self.memory.peak().phase,
            "largest_tensor_bytes": self.memory.largest_tensor_bytes,
            "memory": self.memory.phases.iter().map(phase).collect::<Vec<_>>(),
            "limits": self.limits,
            "fits": self.problem.is_none(),
            "problem": self.problem,
            "changes": self.changes,
            "combination": self.combination,
            "disk_bytes": self.disk_bytes,
            "time": self.time,
        })
    }

    fn to_text(&self) -> String {
        let peak = self.memory.peak();
        let mut text = format!("memory by phase, at its fullest moment ({})\n{}", self.device, self.memory_table());
        text += &format!("\npeak       {} ({})\n", bytes(peak.bytes()), phase_name(peak.phase));
        text += &format!("memory     {}\n", self.limits.describe());
        if let Some(largest) = self.limits.max_buffer_bytes {
            let own = bytes(self.memory.largest_tensor_bytes);
            text += &format!("buffers    the largest tensor is {own}, the card takes {}\n", bytes(largest));
        }
        text += &format!("disk       {} for the run folder\n", bytes(self.disk_bytes));
        text += &self.time_lines();
        match &self.problem {
            None if self.limits.bytes.is_some() => text += "fits       yes\n",
            None => text += "fits       not known\n",
            Some(problem) if self.limits.is_beyond_a_buffer(&self.memory) => {
                text += &format!("fits       no: {problem}; {OTHER_MODEL}\n");
            }
            Some(problem) => text += &format!("fits       no: {problem}\n"),
        }
        text + &self.change_lines()
    }

    fn memory_table(&self) -> String {
        let used = |part: &Part| self.memory.phases.iter().any(|phase| phase.of(*part) > 0);
        let parts: Vec<Part> = Part::ALL.into_iter().filter(used).collect();
        let header: Vec<&str> = ["phase", "MB"].into_iter().chain(parts.iter().map(|part| part_title(*part))).collect();
        let megabytes = |bytes: u64| if bytes == 0 { "-".to_owned() } else { format!("{:.0}", bytes as f64 / 1e6) };
        let row = |phase: &PhaseMemory| {
            let own = parts.iter().map(|part| megabytes(phase.of(*part)));
            [phase_name(phase.phase).to_owned(), megabytes(phase.bytes())].into_iter().chain(own).collect()
        };
        format_table(&header, &self.memory.phases.iter().map(row).collect::<Vec<_>>())
    }

    fn time_lines(&self) -> String {
        let Some(time) = &self.time else { return String::new() };
        let phase = |phase: &PhaseSeconds| format!("{} {}", phase_name(phase.phase), duration(phase.seconds));
        let phases: Vec<String> = time.phases.iter().map(phase).collect();
        let part = if time.without_server { format!(" {WITHOUT_SERVER}") } else { String::new() };
        format!("time       about {}{part}: {}\n", duration(time.seconds), phases.join(", "))
    }

    fn change_lines(&self) -> String {
        if self.changes.is_empty() {
            return String::new();
        }
        let table = savings_table(&self.changes, self.memory.peak_bytes());
        let fitting = match (&self.combination, &self.problem) {
            (Some(Combination { assignments, peak_bytes }), _) => {
                format!("\nthe cheapest that fits ({}): {}\n", bytes(*peak_bytes), assignments.join(" "))
            }
            (None, Some(_)) => "\nno combination of these fits: take a smaller model\n".to_owned(),
            (None, None) => String::new(),
        };
        format!("{table}{fitting}")
    }
}

/// What can be changed, what it saves and what it costs; nothing of what saves less than 1% of the peak.
fn savings_table(changes: &[Change], peak_bytes: u64) -> String {
    let changes: Vec<&Change> = changes.iter().filter(|change| 100 * change.saved_bytes >= peak_bytes).collect();
    if changes.is_empty() {
        return String::new();
    }
    let megabytes = |change: &Change| format!("{:.0}", change.saved_bytes as f64 / 1e6);
    let rows: Vec<Vec<String>> =
        changes.iter().map(|change| vec![change.assignments.join(" "), megabytes(change)]).collect();
    // The costs are words: they stand to the left, unlike the cells of numbers.
    let costs = ["at the cost of", ""].into_iter().chain(changes.iter().map(|change| change.cost.as_str()));
    let table = format_table(&["to need less", "MB less"], &rows);
    let mut lines: Vec<String> =
        table.lines().zip(costs).map(|(line, cost)| format!("{line}  {cost}").trim_end().to_owned()).collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    lines[1] = "-".repeat(width);
    format!("\n{}\n", lines.join("\n"))
}

/// As in JSON.
fn part_name(part: Part) -> &'static str {
    match part {
        Part::Program => "program",
        Part::Weights => "weights",
        Part::Gradients => "gradients",
        Part::Optimizer => "optimizer",
        Part::Activations => "activations",
        Part::LogProbs => "log_probs",
        Part::PackedWeights => "packed_weights",
        Part::KvCache => "kv_cache",
        Part::Copies => "copies",
        Part::Gaps => "gaps",
    }
}

/// As at the head of a column.
fn part_title(part: Part) -> &'static str {
    match part {
        Part::LogProbs => "log-probs",
        Part::PackedWeights => "packed",
        Part::KvCache => "KV cache",
        other => part_name(other),
    }
}
