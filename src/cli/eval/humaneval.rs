//! `gsil eval humaneval`: completions are written first, and run only if the user says so.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::shared::tokenizer_of;
use super::{OptionalModel, WritingArgs, lock};
use crate::cli::generate::check_temperature;
use crate::cli::print_json;
use crate::config::WeightFormat;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::eval::humaneval::complete::{Wanted, Writing, complete};
use crate::eval::humaneval::judge::{Verdict, judge};
use crate::eval::humaneval::pass_at_k::{over_tasks, pass_at_k};
use crate::eval::humaneval::{Problem, Sample, read_problems, read_samples};
use crate::eval::row_store::{SETTINGS_FILE, settle_settings};
use crate::eval::sandbox::{Limits, Sandbox, Settings};
use crate::formats::file_system::Disk;
use crate::formats::fingerprint::fingerprint;
use crate::formats::json_lines::{append_line, read_lines};
use crate::generate::{BATCHES_A_GROUP, Generator};
use crate::report::console::{Console, Unit};
use crate::report::shell::shell_path;

/// openai/human-eval's.
const TIME_LIMIT_S: f64 = 3.0;
const SAMPLES: &str = "samples.jsonl";
const RESULTS: &str = "results.jsonl";

#[derive(Debug, Args)]
#[command(after_help = "Without --allow-code-execution nothing that a model wrote is run. With it, each
sample runs in a sandbox: limits, landlock, namespaces (Linux 6.2 or later,
without namespaces 6.12).
It is a fence, not a virtual machine: a flaw of the kernel is not held back.

Examples:
  gsil eval humaneval --model SmolLM2 --data HumanEval.jsonl.gz --output he
  gsil eval humaneval --data HumanEval.jsonl.gz --samples he/samples.jsonl")]
pub(in crate::cli) struct HumanEvalArgs {
    #[command(flatten)]
    model: OptionalModel,
    /// HumanEval.jsonl or HumanEval.jsonl.gz, from openai/human-eval, or other
    /// problems with task_id, prompt, test and entry_point, also of the hub.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Judge these samples instead of writing some: task_id and completion.
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    samples: Option<PathBuf>,
    /// The folder for samples.jsonl and results.jsonl; the same command goes on
    /// where it was stopped.
    #[arg(long, value_name = "FOLDER", required_unless_present = "samples")]
    output: Option<PathBuf>,
    #[command(flatten)]
    writing: WritingArgs,
    /// Completions of each task.
    #[arg(long, value_name = "N", default_value_t = 1)]
    samples_per_task: usize,
    /// 0 is greedy; pass@k with k above 1 wants some chance, 0.8 for instance.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.0)]
    temperature: f64,
    /// Which pass@k are estimated.
    #[arg(long, value_name = "K,..", value_delimiter = ',', default_value = "1")]
    k: Vec<usize>,
    /// Run what the model wrote, in a sandbox.
    #[arg(long)]
    allow_code_execution: bool,
    /// The Python 3 that runs it. Default: the first one of PATH that can.
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Seconds that a sample may take; openai/human-eval gives 3.
    #[arg(long, value_name = "SECONDS", default_value_t = TIME_LIMIT_S)]
    time_limit_s: f64,
    /// Samples run at once. Default: one a processor.
    #[arg(long, value_name = "N")]
    num_workers: Option<usize>,
}

/// One line of `results.jsonl`: openai/human-eval's keys, and which sample of which problem under which limit.
#[derive(Serialize, Deserialize)]
struct ResultRow {
    #[serde(flatten)]
    sample: Sample,
    #[serde(flatten)]
    verdict: Verdict,
    /// The sample's place in the file of samples, counted from 0.
    index: usize,
    time_limit_s: f64,
    /// [`Problem::hash`]. Empty in files of a version that did not write it: such samples are judged again.
    #[serde(default)]
    problem: String,
}

pub(in crate::cli) fn humaneval(args: HumanEvalArgs) -> Result<()> {
    check_ranges(&args)?;
    let console = Console::stderr();
    let data = args.model.hub.data(&args.data)?;
    let all_problems = read_problems(&data)?;
    let problems = &all_problems[..args.writing.num_wanted(all_problems.len())];
    // What judging needs is looked at before the model writes for hours.
    let sandbox = args.allow_code_execution.then(|| open_sandbox(&args, &console)).transpose()?;
    let _lock = args.output.as_deref().map(lock).transpose()?;
    let (samples_file, samples) = match (&args.samples, &args.output) {
        (Some(file), _) => {
            let samples = read_samples(file, &all_problems, problems.len())?;
            check_k(&args, problems, &samples, 0)?;
            (file.clone(), samples)
        }
        (None, Some(output)) => (output.join(SAMPLES), write_samples(&args, output, &data, problems, &console)?),
        (None, None) => return Err(Error::usage("give --output")),
    };
    let Some(sandbox) = sandbox else {
        console.say("Nothing of what the model wrote was run. To run it in a sandbox and judge it:");
        console.say(format!("  {}", command_to_judge(&args, &samples_file)));
        return print_json(&json!({
            "evaluation": "humaneval", "num_rows": problems.len(), "num_samples": samples.len(),
            "samples": samples_file, "judged": false,
        }));
    };
    let verdicts = run_samples(&args, &sandbox, problems, &samples, &console)?;
    print_json(&summary(&args, problems, &samples, &verdicts, &sandbox.layers().to_string()))
}

fn check_ranges(args: &HumanEvalArgs) -> Result<()> {
    check_temperature(args.temperature)?;
    args.writing.check()?;
    if args.samples_per_task == 0 || args.num_workers == Some(0) || args.k.contains(&0) {
        return Err(Error::usage("--samples-per-task, --num-workers and --k must be at least 1"));
    }
    if !(args.time_limit_s > 0.0 && args.time_limit_s <= 3600.0) {
        return Err(Error::usage(format!("--time-limit-s {}: expected more than 0, at most 3600", args.time_limit_s)));
    }
    if args.samples.is_none() && args.samples_per_task > 1 && args.temperature == 0.0 {
        return Err(Error::usage("--samples-per-task above 1 at temperature 0: all samples would be the same")
            .with_hint("give a --temperature, 0.8 for instance"));
    }
    Ok(())
}

/// Estimating pass@k takes k samples of each task, of which there are going to be `samples_per_task` at least.
fn check_k(args: &HumanEvalArgs, problems: &[Problem], samples: &[Sample], samples_per_task: usize) -> Result<()> {
    let largest = args.k.iter().copied().max().unwrap_or(1);
    for problem in problems {
        let num_written = samples.iter().filter(|sample| sample.task_id == problem.task_id).count();
        let num = num_written.max(samples_per_task);
        if num < largest {
            return Err(Error::usage(format!("--k {largest} is more than the samples of {}: {num}", problem.task_id))
                .with_hint("write more with --samples-per-task, or ask for a smaller k"));
        }
    }
    Ok(())
}

/// Says how many prompts leave no room for a completion.
fn warn_of_long_prompts(tokenizer: &Tokenizer, problems: &[Problem], context: usize, console: &Console) -> Result<()> {
    let lens: Result<Vec<usize>> =
        problems.iter().map(|problem| Ok(tokenizer.encode_plain(&problem.prompt)?.len())).collect();
    let num_long = lens?.into_iter().filter(|len| *len >= context).count();
    if num_long > 0 {
        let prompts = if num_long == 1 { "prompt fills" } else { "prompts fill" };
        console
            .warn(format!("{num_long} {prompts} the model's context of {context} tokens: left without a completion"));
    }
    Ok(())
}

/// Writes the samples that the folder lacks.
fn write_samples(
    args: &HumanEvalArgs,
    output: &Path,
    data: &Path,
    problems: &[Problem],
    console: &Console,
) -> Result<Vec<Sample>> {
    let WritingArgs { max_new_tokens, batch_size, seed, .. } = args.writing;
    let temperature = args.temperature;
    let model = args.model.model.as_ref().ok_or_else(|| Error::usage("give --model, or --samples to judge"))?;
    let file = output.join(SAMPLES);
    let mut samples: Vec<Sample> = read_lines(&Disk, &file)?;
    check_k(args, problems, &samples, args.samples_per_task)?;
    let policy = args.model.open(model)?;
    let settings = json!({
        "evaluation": "humaneval", "model": fingerprint(&policy.files.paths())?,
        "data": fingerprint(&[data.to_owned()])?, "temperature": temperature,
        "max_new_tokens": max_new_tokens, "seed": seed,
    });
    settle_settings(&output.join(SETTINGS_FILE), &file, &settings)?;
    let wanted = missing(problems, &samples, args.samples_per_task);
    if !wanted.is_empty() {
        let tokenizer = tokenizer_of(&policy)?;
        let model = args.model.load(&policy, console)?;
        let mut generator = Generator::new(&model, WeightFormat::F32)?;
        let context = policy.config.max_position_embeddings;
        let writing = Writing { temperature, max_new_tokens, batch_size, context, seed };
        warn_of_long_prompts(tokenizer, problems, context, console)?;
        let mut bar = console.bar("completing", wanted.len() as u64, Unit::Count("samples"));
        for group in wanted.chunks(batch_size.saturating_mul(BATCHES_A_GROUP)) {
            for sample in complete(&mut generator, tokenizer, group, &writing, &|| Ok(()))? {
                append_line(&Disk, &file, &sample)?;
                samples.push(sample);
                bar.advance(1);
            }
        }
    }
    samples.retain(|sample| problems.iter().any(|problem| problem.task_id == sample.task_id));
    Ok(samples)
}

fn missing<'a>(problems: &'a [Problem], samples: &[Sample], samples_per_task: usize) -> Vec<Wanted<'a>> {
    let num_written = |problem: &Problem| samples.iter().filter(|sample| sample.task_id == problem.task_id).count();
    let of_task = |(index, problem): (usize, &'a Problem)| {
        (num_written(problem)..samples_per_task).map(move |sample| Wanted { problem, index, sample })
    };
    problems.iter().enumerate().flat_map(of_task).collect()
}

/// The command that goes on from written samples, with whatever this one says about judging.
fn command_to_judge(args: &HumanEvalArgs, samples: &Path) -> String {
    let mut command =
        format!("gsil eval humaneval --data {} --samples {}", shell_path(&args.data), shell_path(samples));
    if let Some(output) = &args.output {
        command += &format!(" --output {}", shell_path(output));
    }
    if let Some(limit) = args.writing.limit {
        command += &format!(" --limit {limit}");
    }
    if let Some(python) = &args.python {
        command += &format!(" --python {}", shell_path(python));
    }
    if args.time_limit_s != TIME_LIMIT_S {
        command += &format!(" --time-limit-s {}", args.time_limit_s);
    }
    if let Some(num_workers) = args.num_workers {
        command += &format!(" --num-workers {num_workers}");
    }
    if args.model.hub.offline {
        command += " --offline";
    }
    let k: Vec<String> = args.k.iter().map(ToString::to_string).collect();
    command + &format!(" --k {} --allow-code-execution", k.join(","))
}

/// Finds what runs samples, and says which layers hold them.
fn open_sandbox(args: &HumanEvalArgs, console: &Console) -> Result<Sandbox> {
    let gsil = std::env::current_exe().map_err(Error::reading("gsil's own program"))?;
    let limits = Limits { wall_time: Duration::from_secs_f64(args.time_limit_s), ..Limits::default() };
    let sandbox = Sandbox::open(&Settings { gsil, python: args.python.clone(), limits, namespaces: true })?;
    console.say(format!("sandbox for {}", sandbox.layers().python.display()));
    console.say(sandbox.layers().to_string());
    Ok(sandbox)
}

/// Runs the samples that have no result yet: what came of all of them, in their order.
fn run_samples(
    args: &HumanEvalArgs,
    sandbox: &Sandbox,
    problems: &[Problem],
    samples: &[Sample],
    console: &Console,
) -> Result<Vec<Verdict>> {
    let hashes: HashMap<&str, String> = problems.iter().map(|p| (p.task_id.as_str(), p.hash())).collect();
    let file = args.output.as_ref().map(|output| output.join(RESULTS));
    let mut verdicts: Vec<Option<Verdict>> = vec![None; samples.len()];
    let known: Vec<ResultRow> = file.as_ref().map_or(Ok(Vec::new()), |file| read_lines(&Disk, file))?;
    for ResultRow { sample, verdict, index, time_limit_s, problem } in known {
        let is_same = samples.get(index) == Some(&sample) && hashes.get(sample.task_id.as_str()) == Some(&problem);
        if is_same && time_limit_s == args.time_limit_s {
            verdicts[index] = Some(verdict);
        }
    }
    let open: Vec<usize> = (0..samples.len()).filter(|i| verdicts[*i].is_none()).collect();
    let problem_of = |sample: &Sample| problems.iter().find(|problem| problem.task_id == sample.task_id);
    let work: Vec<(&Problem, &Sample)> =
        open.iter().filter_map(|i| Some((problem_of(&samples[*i])?, &samples[*i]))).collect();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut bar = console.bar("judging", work.len() as u64, Unit::Count("samples"));
    judge(sandbox, &work, args.num_workers.unwrap_or(processors), &mut |i, verdict| {
        bar.advance(1);
        let index = open[i];
        if let Some(file) = &file {
            let (sample, verdict, time_limit_s) = (samples[index].clone(), verdict.clone(), args.time_limit_s);
            let problem = hashes[work[i].0.task_id.as_str()].clone();
            append_line(&Disk, file, &ResultRow { sample, verdict, index, time_limit_s, problem })?;
        }
        verdicts[index] = Some(verdict);
        Ok(())
    })?;
    drop(bar);
    Ok(verdicts.into_iter().flatten().collect())
}

fn summary(
    args: &HumanEvalArgs,
    problems: &[Problem],
    samples: &[Sample],
    verdicts: &[Verdict],
    layers: &str,
) -> serde_json::Value {
    let judged = || samples.iter().zip(verdicts);
    let counts: Vec<(usize, usize)> = problems
        .iter()
        .map(|problem| {
            let own = || judged().filter(|(sample, _)| sample.task_id == problem.task_id);
            (own().count(), own().filter(|(_, verdict)| verdict.passed).count())
        })
        .collect();
    let estimate = |k: &usize| {
        let values: Vec<f64> = counts.iter().map(|(n, c)| pass_at_k(*n, *c, *k)).collect();
        (format!("pass@{k}"), over_tasks(&values))
    };
    json!({
        "evaluation": "humaneval",
        "num_rows": problems.len(),
        "confidence": 0.95,
        "figures": args.k.iter().map(estimate).collect::<BTreeMap<_, _>>(),
        "num_samples": samples.len(),
        "judged": true,
        "num_passed": verdicts.iter().filter(|verdict| verdict.passed).count(),
        "num_timed_out": verdicts.iter().filter(|verdict| verdict.result == "timed out").count(),
        "sandbox": layers,
    })
}
