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
//! and out comes a Hugging Face folder, and a GGUF file again. Without arguments the program first makes a tiny model of
//! random weights, teaches it the form of arithmetic stories, and writes that as the GGUF file to begin with.
//!
//! Run with `cargo run --release --example 06_gguf_to_aligned [FOLDER [MODEL.gguf DATA.jsonl [KEY=VALUE ..]]]`. What to
//! look for: the log-prob of demonstrations rises, and demonstrations win against the model's own old responses.

use std::path::{Path, PathBuf};

use gsil::Result;
use gsil::config::RunConfig;
use gsil::formats::quantize::Precision;
use gsil::policy::Policy;
use gsil::report::console::Console;
use gsil::train::EvaluationRow;
use gsil::train::setup::Run;

/// Trains as the configuration says, into a new run folder; what was measured at the start and after each stage.
fn train(mut config: RunConfig, folder: &Path) -> Result<Vec<EvaluationRow>> {
    config.resolve();
    config.validate()?;
    let (run, model) = Run::start(config, folder, Console::stderr())?;
    run.train(model)
}

/// A tiny model as a GGUF file and its demonstrations, from nothing.
fn make_start(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let mut config = RunConfig::from_ron(RunConfig::quickstart(), "quickstart.ron")?;
    for change in [
        "device=flex",
        "iterations=0",
        "continued_sft_lr=none",
        "word_problems.num_train=600",
        "word_problems.num_test=20",
        "word_problems.hidden_size=32",
        "word_problems.num_layers=2",
        "word_problems.intermediate_size=64",
        "sft.epochs=10",
        "evaluation.generate_rows=0",
    ] {
        config.set(change)?;
    }
    let (start, gguf) = (folder.join("start"), folder.join("start.gguf"));
    train(config, &start)?;
    Policy::open(&start)?.write_gguf(&gguf, Precision::F16)?;
    Ok((gguf, start.join("task/train.jsonl")))
}

/// Aligns `gguf` to `data` inside `folder`.
pub fn align(folder: &Path, gguf: &Path, data: &Path, changes: &[String]) -> Result<Vec<EvaluationRow>> {
    let text = |path: &Path| Some(path.to_string_lossy().into_owned());
    let mut config = RunConfig { model: text(gguf), data: text(data), ..RunConfig::default() };
    changes.iter().try_for_each(|change| config.set(change))?;
    let stages = train(config, &folder.join("run"))?;
    let aligned = Policy::open(&folder.join("run"))?;
    aligned.write_gguf(&folder.join("aligned.gguf"), Precision::F16)?;
    println!("{:<14}{:>18}{:>12}", "", "log-prob / token", "accuracy");
    for EvaluationRow { stage, evaluation, .. } in &stages {
        let accuracy = evaluation.against_reference.map_or(f64::NAN, |against| against.implicit_reward_accuracy);
        println!("{stage:<14}{:>18.4}{accuracy:>12.3}", evaluation.demonstration_log_prob_per_token);
    }
    println!("aligned model: {}, {}", aligned.files.path.display(), folder.join("aligned.gguf").display());
    Ok(stages)
}

/// The whole way, with the tiny model.
pub fn run(folder: &Path) -> Result<Vec<EvaluationRow>> {
    let (gguf, data) = make_start(folder)?;
    let changes = ["device=flex", "train.lr=3e-4", "train.batch_size=50", "train.micro_batch_size=50"];
    let rest = ["generation.max_new_tokens=32", "generation.batch_size=200", "train.max_length=64"];
    let changes: Vec<String> = changes.iter().chain(&rest).map(|change| (*change).to_owned()).collect();
    align(folder, &gguf, &data, &changes)
}

pub fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => run(Path::new("06_gguf_to_aligned")).map(drop),
        [folder] => run(Path::new(folder)).map(drop),
        [_, _] => Err(gsil::Error::usage("a model needs its demonstrations: FOLDER MODEL.gguf DATA.jsonl")),
        [folder, gguf, data, changes @ ..] => {
            align(Path::new(folder), Path::new(gguf), Path::new(data), changes).map(drop)
        }
    }
}
