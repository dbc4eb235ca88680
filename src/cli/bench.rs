//! `gsil bench`: one workload as a JSON object, or the whole machine as a table to post.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::hub::HubArgs;
use super::keys::Keys;
use super::{checked, print_json, print_text};
use crate::bench::machine::Machine;
use crate::bench::model::{NUM_LAYERS, Source};
use crate::bench::operations::{self, OperationTime};
use crate::bench::peaks::{self, Peaks};
use crate::bench::{Measurement, Size, Workload, check_context, check_size, default_config, measure};
use crate::config::{RunConfig, key_of};
use crate::device;
use crate::error::{Error, Result};
use crate::ops::launches::Launches;
use crate::report::console::Console;
use crate::report::table::{format_table, number, percent, plural};

pub(super) const KEYS: Keys = Keys {
    verb: "bench",
    // The last one bounds generation.max_new_tokens.
    read: &[
        "objective.name",
        "objective.scale",
        "objective.shift",
        "objective.power",
        "objective.sft_weight",
        "objective.normalize",
        "lora",
        "train.lr",
        "train.micro_batch_size",
        "train.max_tokens",
        "train.optimizer",
        "train.betas",
        "train.alpha",
        "train.momentum",
        "train.epsilon",
        "train.weight_decay",
        "train.max_grad_norm",
        "train.activation_checkpointing",
        "generation.max_new_tokens",
        "generation.temperature",
        "generation.top_k",
        "generation.top_p",
        "generation.batch_size",
        "generation.weights",
        "train.max_length",
    ],
    elsewhere: &[
        ("model", "--model"),
        ("device", "--device"),
        ("offline", "--offline"),
        ("train.batch_size", "--pairs"),
    ],
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil bench --workload train --layers 2 --tokens 64
  gsil bench --workload generate --layers 2 --json")]
pub(super) struct BenchArgs {
    /// auto, flex, ndarray, wgpu, wgpu:N; see `gsil devices`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// A Hugging Face folder, a .gguf file, or one of the hub (owner/name). Default: random weights in the shape of
    /// SmolLM2-135M.
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
    /// Layers of the random model.
    #[arg(long, default_value_t = NUM_LAYERS, conflicts_with = "model")]
    layers: usize,
    /// Only this one, as one JSON object. Default: device peaks, operations and every workload.
    #[arg(long)]
    workload: Option<Workload>,
    /// Pairs of a training step; with objective.name=sft it has their demonstrations alone.
    #[arg(long, default_value_t = 2)]
    pairs: usize,
    /// Tokens of each sequence of a pair; a quarter of them is prompt.
    #[arg(long, default_value_t = 256)]
    tokens: usize,
    /// Timed repetitions, after one that is not timed.
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Generation: so many prompts of mixed lengths (16 to 128 tokens, 8 to 128 new ones). Default: 8 prompts of 32 tokens,
    /// 64 new tokens each.
    #[arg(long)]
    requests: Option<usize>,
    /// JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// Changes to how a step or an answer is made: `train.activation_checkpointing=true`,
    /// `generation.batch_size=16`, `lora.rank=16` (of the workload lora alone), ..
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// All of it.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    machine: Machine,
    #[serde(flatten)]
    peaks: Peaks,
    operations: Vec<OperationTime>,
    workloads: Vec<WorkloadRow>,
}

#[derive(Serialize)]
struct WorkloadRow {
    #[serde(flatten)]
    measurement: Measurement,
    /// `matrix_flops_per_step / seconds_per_step` as a share of the device's matrix peak.
    matmul_share: f64,
}

pub(super) fn bench(mut args: BenchArgs) -> Result<()> {
    args.model = args.model.map(|given| args.hub.model(&given)).transpose()?; // here, not in each workload's process
    let BenchArgs { pairs, tokens, steps, requests, layers, .. } = args;
    let size = Size { pairs, tokens, steps, requests };
    check_size(&size)?;
    if requests.is_some() && args.workload.is_some_and(|workload| workload != Workload::Generate) {
        return Err(Error::usage("--requests: only --workload generate has some"));
    }
    if layers == 0 {
        return Err(Error::usage("--layers 0: expected 1 or more"));
    }
    let source = args.model.clone().map_or(Source::Random { num_layers: layers }, Source::File);
    let device_name = device::resolve_name(&args.device).to_owned();
    match args.workload {
        Some(workload) => {
            let config = configured(workload, &size, &args.overrides)?;
            print_json(&measure(workload, &size, &config, &source, &device_name)?)
        }
        None => whole_machine(&args, &size, &source, &device_name),
    }
}

/// The configuration of a workload with the user's changes.
fn configured(workload: Workload, size: &Size, overrides: &[String]) -> Result<RunConfig> {
    checked(KEYS.changed(default_config(workload, size), overrides)?)
}

/// The user's changes that a workload is given where all are run: only one of them has an adapter.
fn changes_of(workload: Workload, overrides: &[String]) -> Vec<String> {
    let is_of_lora = |assignment: &str| key_of(assignment).split('.').next() == Some("lora");
    overrides.iter().filter(|change| workload == Workload::Lora || !is_of_lora(change)).cloned().collect()
}

fn whole_machine(args: &BenchArgs, size: &Size, source: &Source, device_name: &str) -> Result<()> {
    let console = Console::stderr();
    let model = source.config()?;
    for workload in Workload::value_variants() {
        let config = configured(*workload, size, &changes_of(*workload, &args.overrides))?;
        check_context(*workload, size, &config, &model)?; // a mistake shows before minutes of work
    }
    console.say("measuring the device's peaks");
    let peaks = peaks::measure(device_name)?;
    console.say("timing operations");
    let operations = operations::measure(device_name, &model, size, peaks)?;
    let mut workloads = Vec::new();
    for workload in Workload::value_variants() {
        console.say(format!("timing {}: {} and one to warm up", name(*workload), plural(size.steps, "step")));
        match measure_apart(args, *workload, device_name)? {
            Some(measurement) => {
                let flops_per_s = measurement.matrix_flops_per_step / measurement.seconds_per_step;
                workloads.push(WorkloadRow { measurement, matmul_share: flops_per_s / (1e9 * peaks.matmul_gflops) });
            }
            None => console.warn(format!("{} failed and is left out", name(*workload))),
        }
    }
    let is_complete = workloads.len() == Workload::value_variants().len();
    let report = Report { machine: Machine::of(device_name), peaks, operations, workloads };
    if args.json {
        print_json(&report)?
    } else {
        print_text(&tables(&report))?
    }
    match is_complete {
        true => Ok(()),
        false => Err(Error::device(device_name, "not every workload ran; see above")),
    }
}

fn name(workload: Workload) -> String {
    workload.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Runs one workload in a process of its own, so that its peak memory is its own. None if that process failed; it has said
/// why on stderr.
fn measure_apart(args: &BenchArgs, workload: Workload, device_name: &str) -> Result<Option<Measurement>> {
    let failed = |error: &dyn std::fmt::Display| Error::usage(format!("cannot run a workload: {error}"));
    let mut command = Command::new(std::env::current_exe().map_err(|error| failed(&error))?);
    command.args(["bench", "--workload", &name(workload), "--device", device_name]);
    match &args.model {
        Some(path) => command.arg("--model").arg(path),
        None => command.arg("--layers").arg(args.layers.to_string()),
    };
    for (flag, value) in [("--pairs", args.pairs), ("--tokens", args.tokens), ("--steps", args.steps)] {
        command.arg(flag).arg(value.to_string());
    }
    if let Some(requests) = args.requests.filter(|_| workload == Workload::Generate) {
        command.arg("--requests").arg(requests.to_string());
    }
    command.args(changes_of(workload, &args.overrides));
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| failed(&error))?;
    match output.status.success() {
        true => serde_json::from_slice(&output.stdout).map(Some).map_err(|error| failed(&error)),
        false => Ok(None),
    }
}

fn tables(report: &Report) -> String {
    let Machine { device, device_description, cpu, threads, system, gsil_version, date } = &report.machine;
    let cpu = cpu.as_deref().unwrap_or("unknown processor");
    let head = format!(
        "gsil {gsil_version} on {date}\ndevice  {device}: {device_description}\nsystem  {system}, {cpu}, {threads} threads\n\
         peaks   {:.1} GFLOP/s (f32 matrix product), {:.1} GB/s (copy, read and written)\n",
        report.peaks.matmul_gflops, report.peaks.copy_gb_per_s
    );
    let operations: Vec<Vec<String>> = report.operations.iter().map(operation_row).collect();
    let workloads: Vec<Vec<String>> = report.workloads.iter().map(workload_row).collect();
    let columns = ["operation", "shapes", "ms", "GFLOP/s", "GB/s", "of peak", "launches", "composite ms", "launches"];
    let operations = format_table(&columns, &operations);
    let columns = [
        "workload",
        "tokens/s",
        "s a step",
        "CPU s a step",
        "scoring s",
        "of matrix peak",
        "peak memory, MiB",
        "launches a step",
    ];
    format!("{head}\n{operations}\n{}", format_table(&columns, &workloads))
}

fn operation_row(time: &OperationTime) -> Vec<String> {
    let rate = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    let ms = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.3}", 1e3 * seconds));
    vec![
        time.name.to_owned(),
        time.shapes.clone(),
        ms(Some(time.seconds)),
        rate(time.gflops),
        rate(time.gb_per_s),
        percent(Some(time.share_of_peak)),
        count(time.launches),
        ms(time.composite_seconds),
        count(time.composite_launches),
    ]
}

fn count(launches: Option<Launches>) -> String {
    launches.map_or_else(|| "-".to_owned(), |launches| launches.total.to_string())
}

fn workload_row(row: &WorkloadRow) -> Vec<String> {
    let measurement = &row.measurement;
    let size = match (measurement.pairs, measurement.tokens, measurement.requests) {
        (Some(pairs), Some(tokens), _) => format!("{pairs} pairs x {tokens} tokens"),
        (.., requests) => format!("{} requests", requests.unwrap_or_default()),
    };
    let mib = measurement.peak_memory_bytes.map(|bytes| format!("{:.0}", bytes as f64 / (1 << 20) as f64));
    vec![
        format!("{}, {size}", name(measurement.workload)),
        format!("{:.1}", measurement.tokens_per_s),
        number(Some(measurement.seconds_per_step)),
        number(measurement.cpu_seconds_per_step),
        number(measurement.scoring_seconds),
        percent(Some(row.matmul_share)),
        mib.unwrap_or_else(|| "-".to_owned()),
        count(measurement.launches_per_step),
    ]
}
