//! Every example of every `--help` runs, in a folder where the files that it names exist.
#![cfg(unix)]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tempfile::{TempDir, tempdir};

use crate::support::binary::{Outcome, gsil, help, read_json, text_model, verbs, wait};
use crate::support::fixture;

/// The lines under `Examples:`, without their comments.
fn examples(verb: &str) -> Vec<String> {
    let help = help(verb);
    let Some((_, lines)) = help.split_once("\nExamples:\n") else { return Vec::new() };
    let lines = lines.replace("\\\n", " "); // a line that goes on
    let without_comment = |line: &str| line.split("   #").next().unwrap_or_default().trim().to_owned();
    lines.lines().map(without_comment).filter(|line| !line.is_empty()).collect()
}

/// Runs one line as a shell does, `gsil` being this build's.
fn shell(folder: &Path, line: &str) -> Outcome {
    let programs = Path::new(env!("CARGO_BIN_EXE_gsil")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(folder).env("PATH", path);
    wait(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// A folder with what the examples name: the model `SmolLM2`, data, a configuration, two finished runs.
fn world() -> &'static TempDir {
    static WORLD: OnceLock<TempDir> = OnceLock::new();
    WORLD.get_or_init(|| {
        let folder = tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::rename(text_model(folder.path()), path("SmolLM2")).unwrap();
        // With many end tokens, none of which has a text, the random responses end by themselves.
        for name in ["config.json", "generation_config.json"] {
            let mut config = read_json(&path("SmolLM2").join(name));
            config["eos_token_id"] = json!((400..515).collect::<Vec<_>>());
            config["max_position_embeddings"] = json!(512); // evaluations answer with up to 256 tokens
            fs::write(path("SmolLM2").join(name), config.to_string()).unwrap();
        }
        let rows = |range: std::ops::Range<usize>, keys: [&str; 2]| -> String {
            let row = |i: usize| json!({keys[0]: format!("What is {i} and {i}?"), keys[1]: format!("It is {}.\n#### {}", 2 * i, 2 * i)});
            range.map(|i| format!("{}\n", row(i))).collect()
        };
        fs::write(path("train.jsonl"), rows(0..12, ["prompt", "response"])).unwrap();
        fs::write(path("test.jsonl"), rows(12..16, ["prompt", "response"])).unwrap();
        let pair = |i: usize| json!({"prompt": format!("Say {i}."), "chosen": format!("{i}"), "rejected": "no"});
        fs::write(path("pairs.jsonl"), (0..4).map(|i| format!("{}\n", pair(i))).collect::<String>()).unwrap();
        let problem = |i: usize| json!({"question": format!("What is {i} and {i}?"), "answer": format!("#### {}", 2 * i)});
        let problems = |range: std::ops::Range<usize>| range.map(|i| format!("{}\n", problem(i))).collect::<String>();
        fs::write(path("gsm8k.jsonl"), problems(0..4)).unwrap();
        fs::write(path("gsm8k-train.jsonl"), problems(4..8)).unwrap();
        let choice = |i: usize| json!({"ctx": format!("Row {i}."), "endings": ["Yes.", "No."], "label": i % 2});
        fs::write(path("hellaswag.jsonl"), (0..4).map(|i| format!("{}\n", choice(i))).collect::<String>()).unwrap();
        fs::write(path("texts.jsonl"), "{\"text\": \"One text.\"}\n{\"text\": \"Another one.\"}\n").unwrap();
        fs::write(path("book.txt"), "It was a dark night.\n".repeat(10)).unwrap();
        let problems = fs::read(fixture("humaneval/problems.jsonl")).unwrap();
        let mut compressed = GzEncoder::new(File::create(path("HumanEval.jsonl.gz")).unwrap(), Compression::default());
        compressed.write_all(&problems).unwrap();
        compressed.finish().unwrap();
        let question = json!({"question_id": 81, "category": "writing", "turns": ["Say one.", "Say two."]});
        fs::write(path("question.jsonl"), format!("{question}\n")).unwrap();
        let small = r#"model: "SmolLM2", data: "train.jsonl", device: "flex", evaluation: (data: "test.jsonl", generate_rows: 2),
                       generation: (max_new_tokens: 8, unfinished: mask)"#;
        fs::write(path("gsil.ron"), format!("({small})")).unwrap();
        let methods = r#"[(name: "sft", set: ["objective.name=sft"]), (name: "gsil")]"#;
        fs::write(path("compare.ron"), format!("(base: ({small}), seeds: [0], methods: {methods})")).unwrap();
        for run in ["runs/night", "runs/other"] {
            gsil(folder.path(), &["train", "--config", "gsil.ron", "--output", run]).succeeded();
        }
        folder
    })
}

/// A fresh copy: examples write files.
fn copy_of_world() -> TempDir {
    let folder = tempdir().unwrap();
    let source = world().path().join(".");
    let copied = Command::new("cp").arg("-R").arg(source).arg(folder.path()).status().unwrap();
    assert!(copied.success());
    folder
}

#[test]
fn every_example_of_every_help_text_runs() {
    let mut num_run = 0;
    for verb in verbs() {
        let examples = examples(&verb);
        assert!(!examples.is_empty(), "gsil {verb} --help shows no example");
        let folder = copy_of_world();
        for example in examples {
            assert!(example.contains(&format!("gsil {verb}")), "{verb}: {example}");
            let outcome = shell(folder.path(), &example);
            assert_eq!(outcome.code, Some(0), "{example}\n{}{}", outcome.stdout, outcome.stderr);
            num_run += 1;
        }
    }
    assert!(num_run >= 20, "only {num_run} examples were found");
}

#[test]
fn help_texts_fit_a_terminal_of_eighty_columns() {
    for verb in verbs() {
        let help = help(&verb);
        let long = help.lines().find(|line| line.chars().count() > 80);
        assert_eq!(long, None, "gsil {verb} --help");
    }
}
