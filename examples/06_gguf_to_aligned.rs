//! 06. From a GGUF file to an aligned model.
//!
//! A GGUF file is how most people have a model. One GSIL iteration on it:
//!
//! ```text
//! reference := the model of the file
//! for each prompt: a response y0 of the reference          self-generation
//! train the policy on  l1(u(demonstration)) + l0(u(y0))    u = scale * log policy / reference
//! ```
//!
//! and out comes a Hugging Face folder, and a GGUF file again. Without arguments the program first teaches a tiny model
//! of random weights the form of arithmetic stories, and writes that as the GGUF file to begin with.
//!
//! Run with `cargo run --release --example 06_gguf_to_aligned [FOLDER [MODEL.gguf DATA.jsonl [KEY=VALUE ..]]]`. What to
//! look for: the log-prob of demonstrations rises, and demonstrations win against the model's own old responses.

use std::fs;
use std::path::{Path, PathBuf};

use gsil::config::RunConfig;
use gsil::data::word_problems::{self, make_word_problems};
use gsil::formats::quantize::Precision;
use gsil::policy::Policy;
use gsil::records::evaluation::EvaluationRow;
use gsil::report::console::Console;
use gsil::report::table::{format_table, number, percent};
use gsil::train::setup::Run;
use gsil::{Error, Result};

/// Every setting has a default; `changes` are written as on the command line.
fn config(model: &Path, data: &Path, changes: &[impl AsRef<str>]) -> Result<RunConfig> {
    let text = |path: &Path| Some(path.to_string_lossy().into_owned());
    let mut config = RunConfig { model: text(model), data: text(data), device: "flex".into(), ..RunConfig::default() };
    changes.iter().try_for_each(|change| config.set(change.as_ref()))?;
    Ok(config)
}

/// Trains as the configuration says, into a new run folder; what was measured at the start and after each stage.
fn train(mut config: RunConfig, folder: &Path) -> Result<Vec<EvaluationRow>> {
    config.resolve();
    config.validate()?;
    let (run, model) = Run::start(config, folder, Console::stderr())?;
    run.train(model)
}

/// A tiny model that knows the form of arithmetic stories as a GGUF file, and demonstrations, from nothing.
fn make_start(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (tiny, data, start, gguf) =
        (folder.join("tiny"), folder.join("train.jsonl"), folder.join("start"), folder.join("start.gguf"));
    fs::create_dir_all(&tiny).map_err(Error::writing("create", &tiny))?;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for file in ["golden/tiny_llama/config.json", "golden/tiny_llama/model.safetensors", "tokenizer/tokenizer.json"] {
        let from = fixtures.join(file);
        let to = tiny.join(from.file_name().unwrap_or_default());
        fs::copy(&from, &to).map_err(Error::writing("write", &to))?;
    }
    let problems = make_word_problems(0, 600, 40, 0.0);
    word_problems::write_rows(&data, &problems.train)?;
    word_problems::write_rows(folder.join("test.jsonl"), &problems.test)?;
    let sft = ["iterations=0", "sft.lr=3e-3", "sft.epochs=6", "sft.batch_size=50", "sft.micro_batch_size=50"];
    train(config(&tiny, &data, &sft)?, &start)?;
    Policy::open(&start)?.write_gguf(&gguf, Precision::F16)?;
    Ok((gguf, data))
}

/// Aligns `gguf` to `data` inside `folder`.
pub fn align(folder: &Path, gguf: &Path, data: &Path, changes: &[impl AsRef<str>]) -> Result<Vec<EvaluationRow>> {
    let stages = train(config(gguf, data, changes)?, &folder.join("run"))?;
    let aligned = Policy::open(&folder.join("run"))?;
    aligned.write_gguf(&folder.join("aligned.gguf"), Precision::F16)?;
    let row = |EvaluationRow { stage, evaluation, .. }: &EvaluationRow| {
        let accuracy = evaluation.against_reference.and_then(|against| against.implicit_reward_accuracy);
        vec![stage.clone(), number(Some(evaluation.demonstration_log_prob_per_token)), percent(accuracy)]
    };
    let rows: Vec<Vec<String>> = stages.iter().map(row).collect();
    println!("{}", format_table(&["after", "log-prob/token", "accuracy"], &rows));
    println!("aligned model: {}, {}", aligned.files.path.display(), folder.join("aligned.gguf").display());
    Ok(stages)
}

/// The whole way, with the tiny model.
pub fn run(folder: &Path) -> Result<Vec<EvaluationRow>> {
    let (gguf, data) = make_start(folder)?;
    let held_out = format!("evaluation.data={}", folder.join("test.jsonl").display());
    let sizes = ["train.batch_size=25", "train.micro_batch_size=25", "generation.batch_size=100"];
    let rest = ["train.lr=1e-3", "generation.max_new_tokens=80", "evaluation.generate_rows=40", &held_out];
    align(folder, &gguf, &data, &[&sizes[..], &rest].concat())
}

fn begin(arguments: &[String]) -> Result<Vec<EvaluationRow>> {
    let folder = Path::new(arguments.first().map_or("06_gguf_to_aligned", String::as_str));
    if ["start", "run"].iter().any(|name| folder.join(name).exists()) {
        return Err(Error::usage(format!("{} holds what this program made before", folder.display()))
            .with_hint("remove it, or name another FOLDER"));
    }
    match arguments {
        [] | [_] => run(folder),
        [_, _] => Err(Error::usage("a model needs its demonstrations: FOLDER MODEL.gguf DATA.jsonl")),
        [_, gguf, data, changes @ ..] => align(folder, Path::new(gguf), Path::new(data), changes),
    }
}

pub fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = begin(&arguments) {
        eprintln!("error: {error}\nhint: {}", error.hint().unwrap_or("see the head of this program"));
        std::process::exit(error.exit_code());
    }
}
