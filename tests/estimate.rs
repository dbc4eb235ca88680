//! The estimate of memory against what the real program takes: `gsil estimate` beside `gsil train` with the same arguments.

use std::fs;
use std::path::{Path, PathBuf};

use gsil::data::word_problems::model_config;
use gsil::formats::file_system::Disk;
use gsil::formats::hf_folder::ModelFolder;
use gsil::formats::quantize::Precision;
use gsil::model::{ModelConfig, weights};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{Random, gsil, text};
use crate::support::{devices, flex};

/// The shape of a random model.
#[derive(Clone, Copy)]
struct Shape {
    vocab_size: usize,
    hidden_size: usize,
    num_layers: usize,
    intermediate_size: usize,
}

/// Nearly all of it is the embedding and the head.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const WIDE_VOCABULARY: Shape = Shape { vocab_size: 50_000, hidden_size: 64, num_layers: 2, intermediate_size: 160 };
/// Nearly all of it is what layers keep.
const DEEP: Shape = Shape { vocab_size: 1000, hidden_size: 128, num_layers: 6, intermediate_size: 384 };

/// A model folder with random weights.
fn model(folder: &Path, shape: Shape) -> PathBuf {
    let path = folder.join("model");
    let Shape { vocab_size, hidden_size, num_layers, intermediate_size } = shape;
    let mut config = model_config(vocab_size, hidden_size, num_layers, 4, intermediate_size);
    config["max_position_embeddings"] = json!(2048);
    let model_config = ModelConfig::from_json(&config, None, &path).unwrap();
    let model = weights::initialize(&model_config, 1, &flex()).unwrap();
    let beside = ModelFolder {
        config: &config,
        generation_config: None,
        tokenizer: None,
        model_card: None,
        precision: Precision::F32,
    };
    beside.write(&Disk, &path, weights::tensors_to_write(&model)).unwrap();
    path
}

/// Rows of so many tokens: a prompt and two responses of half of them each.
fn write_rows(path: &Path, num_rows: usize, num_tokens: usize, are_given: bool) {
    let mut random = Random(3);
    let mut ids = |len: usize| (0..len).map(|_| 4 + random.below(990)).collect::<Vec<_>>();
    let rows = (0..num_rows).map(|_| {
        let mut row = json!({"prompt_ids": ids(num_tokens / 2), "demonstration_ids": ids(num_tokens / 2)});
        if are_given {
            row["self_generated_ids"] = json!(ids(num_tokens / 2));
        }
        row.to_string() + "\n"
    });
    fs::write(path, rows.collect::<String>()).unwrap();
}

/// `gsil estimate` of a model, rows and settings.
fn estimate(folder: &Path, settings: &[&str]) -> Value {
    let arguments = ["estimate", "--model", "model", "--data", "rows.jsonl", "--device", "flex", "--no-time", "--json"];
    gsil(folder, &[&arguments[..], settings].concat()).succeeded().json_lines().remove(0)
}

/// The most memory that `gsil train` ever held, in bytes, as the system tells.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn measured_peak(folder: &Path, settings: &[&str]) -> u64 {
    let arguments = ["train", "--model", "model", "--data", "rows.jsonl", "--device", "flex", "--output", "run"];
    let mut command = crate::support::binary::command(folder, &[&arguments[..], settings].concat());
    let mut child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    // The system's own mark only rises, so that nothing between two looks is missed.
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let mark =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok());
        peak = peak.max(mark.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    1024 * peak
}

/// Shape, rows, tokens of a row, whether rows bring both responses, settings.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
type Case = (&'static str, Shape, (usize, usize, bool), &'static [&'static str]);

#[cfg(all(target_os = "linux", target_env = "gnu"))]
const CASES: [Case; 10] = [
    ("head, adamw", WIDE_VOCABULARY, (4, 128, true), &["train.batch_size=2"]),
    (
        "head, accumulated, rmsprop",
        WIDE_VOCABULARY,
        (8, 128, true),
        &["train.batch_size=4", "train.micro_batch_size=2", "train.optimizer=rmsprop"],
    ),
    (
        "head, checkpoints",
        WIDE_VOCABULARY,
        (4, 64, true),
        &["train.batch_size=1", "train.micro_batch_size=1", "save_every=1"],
    ),
    (
        "head, self-generated",
        WIDE_VOCABULARY,
        (8, 64, false),
        &["generation.max_new_tokens=32", "generation.unfinished=mask", "train.batch_size=4"],
    ),
    ("layers, sgd", DEEP, (8, 512, true), &["train.batch_size=4", "train.micro_batch_size=4", "train.optimizer=sgd"]),
    ("layers, adamw", DEEP, (4, 512, true), &["train.batch_size=1", "train.micro_batch_size=1"]),
    ("layers, adapter", DEEP, (4, 512, true), &["train.batch_size=2", "lora.rank=8"]),
    (
        "candidates of the variance reduction",
        DEEP,
        (4, 160, false),
        &[
            "generation.max_new_tokens=120",
            "generation.unfinished=mask",
            "train.batch_size=2",
            "objective.variance_reduction=top_k(256)",
        ],
    ),
    (
        "exact variance reduction",
        DEEP,
        (4, 160, false),
        &[
            "generation.max_new_tokens=120",
            "generation.unfinished=mask",
            "train.batch_size=4",
            "train.micro_batch_size=4",
            "objective.variance_reduction=exact",
        ],
    ),
    (
        "layers, activation checkpointing",
        DEEP,
        (8, 512, true),
        &["train.batch_size=4", "train.micro_batch_size=4", "train.activation_checkpointing=true"],
    ),
];

#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MEASUREMENTS: usize = 3;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn the_estimated_peak_is_within_fifteen_percent_of_what_training_takes() {
    let mut lines = Vec::new();
    let mut is_near = true;
    for (name, shape, (num_rows, num_tokens, are_given), settings) in CASES {
        let folder = tempdir().unwrap();
        model(folder.path(), shape);
        write_rows(&folder.path().join("rows.jsonl"), num_rows, num_tokens, are_given);
        let estimated = estimate(folder.path(), settings);
        let peak = estimated["peak_bytes"].as_f64().unwrap();
        let measure = || {
            let measured = measured_peak(folder.path(), settings) as f64;
            fs::remove_dir_all(folder.path().join("run")).unwrap();
            measured
        };
        // How threads meet on a busy machine adds some percent, now and then: the least is what training takes.
        let measured = (0..MEASUREMENTS).map(|_| measure()).fold(f64::INFINITY, f64::min);
        let error = peak / measured - 1.0;
        is_near &= error.abs() <= 0.15;
        lines.push(format!(
            "{name:34} {:6.0} MB estimated ({}), {:6.0} MB measured, {:+5.1}%",
            peak / 1e6,
            estimated["peak_phase"],
            measured / 1e6,
            100.0 * error
        ));
    }
    println!("{}", lines.join("\n"));
    assert!(is_near, "an estimate is further off than 15%");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_made_and_the_advice_fits() {
    let folder = tempdir().unwrap();
    model(folder.path(), DEEP);
    write_rows(&folder.path().join("rows.jsonl"), 8, 512, true);
    let settings = ["train.batch_size=4", "train.micro_batch_size=4", "memory_limit=150MB"];
    let arguments = ["train", "--model", "model", "--data", "rows.jsonl", "--device", "flex", "--output", "run"];
    let said = gsil(folder.path(), &[&arguments[..], &settings].concat()).failed(4);
    assert!(said.contains("memory_limit is 150 MB"), "{said}");
    assert!(!folder.path().join("run").exists());
    for words in ["train.micro_batch_size=1 (", "train.activation_checkpointing=true (", "the cheapest that fits: "] {
        assert!(said.contains(words), "{words}: {said}");
    }

    let estimated = estimate(folder.path(), &settings);
    assert_eq!(estimated["fits"], false);
    let advised: Vec<&str> =
        estimated["combination"]["assignments"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    assert!(said.contains(&format!("the cheapest that fits: {}", advised.join(" "))), "{said}");
    let followed = estimate(folder.path(), &[&settings[..], &advised].concat());
    assert_eq!(followed["fits"], true, "{followed}");
    // The program itself is a page more or less from one start to the next.
    let peak = |value: &Value| value["peak_bytes"].as_u64().unwrap();
    assert!(peak(&followed).abs_diff(peak(&estimated["combination"])) < 4_000_000, "{followed}");
    let saved = |value: &Value| value["saved_bytes"].as_u64().unwrap();
    for change in estimated["changes"].as_array().unwrap() {
        assert_eq!(saved(change) + change["peak_bytes"].as_u64().unwrap(), estimated["peak_bytes"].as_u64().unwrap());
    }
}

#[test]
fn the_programs_own_memory_counts_on_a_processor_alone() {
    let folder = tempdir().unwrap();
    model(folder.path(), DEEP);
    write_rows(&folder.path().join("rows.jsonl"), 4, 64, true);
    for device in devices() {
        let arguments = ["estimate", "--model", "model", "--data", "rows.jsonl", "--no-time", "--json"];
        let arguments = [&arguments[..], &["--device", &device.name, "train.batch_size=1", "train.micro_batch_size=1"]];
        let estimated = gsil(folder.path(), &arguments.concat()).succeeded().json_lines().remove(0);
        let program = estimated["memory"][0]["parts"]["program"].as_u64().unwrap();
        assert_eq!(program > 10_000_000, device.is_cpu(), "{}: {estimated}", device.name);
    }
}

#[test]
fn a_later_run_of_one_process_is_estimated_as_the_first_is() {
    let folder = tempdir().unwrap();
    model(folder.path(), DEEP);
    write_rows(&folder.path().join("rows.jsonl"), 4, 256, true);
    let grid = r#"(seeds: [0, 1], methods: [(name: "gsil")], base: (model: "model", data: "rows.jsonl", device: "flex",
        train: (batch_size: 1, micro_batch_size: 1)))"#;
    fs::write(folder.path().join("grid.ron"), grid).unwrap();
    let alone = estimate(folder.path(), &["train.batch_size=1", "train.micro_batch_size=1"]);
    // Not enough for what the first run leaves to the second and a run beside it.
    let limit = format!("memory_limit={}", alone["peak_bytes"].as_u64().unwrap() * 13 / 10);
    let said = gsil(folder.path(), &["compare", "grid.ron", "--output", "grid", &limit]).succeeded().stderr;
    let estimates: Vec<&str> =
        said.lines().filter(|line| line.starts_with("memory ")).map(|line| line.split(';').next().unwrap()).collect();
    assert_eq!(estimates.len(), 2, "{said}");
    assert_eq!(estimates[0], estimates[1], "{said}");
}

#[test]
fn memory_is_estimated_without_reading_a_weight() {
    let folder = tempdir().unwrap();
    let path = model(folder.path(), DEEP);
    write_rows(&folder.path().join("rows.jsonl"), 4, 64, true);
    // Values that no training would survive.
    let weights = path.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let len = bytes.len();
    bytes[len / 2..].fill(0xff);
    fs::write(&weights, bytes).unwrap();
    let estimated = estimate(folder.path(), &[]);
    assert_eq!(estimated["time"], Value::Null);
    let phases: Vec<&str> =
        estimated["memory"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["load", "score", "train", "checkpoint", "evaluate"]);
}

#[test]
fn the_table_of_savings_has_a_rule_as_wide_as_its_rows_and_nothing_that_saves_next_to_nothing() {
    let folder = tempdir().unwrap();
    model(folder.path(), DEEP);
    write_rows(&folder.path().join("rows.jsonl"), 32, 512, true);
    let settings = [
        "--model",
        "model",
        "--data",
        "rows.jsonl",
        "--device",
        "flex",
        "--no-time",
        "train.batch_size=32",
        "train.micro_batch_size=32",
    ];
    let json: Value =
        gsil(folder.path(), &[&["estimate", "--json"], &settings[..]].concat()).succeeded().json_lines().remove(0);
    let saved = |change: &Value| change["saved_bytes"].as_u64().unwrap();
    let changes = json["changes"].as_array().unwrap();
    let worth = changes.iter().filter(|change| 100 * saved(change) >= json["peak_bytes"].as_u64().unwrap()).count();
    assert!((1..changes.len()).contains(&worth), "both kinds are needed for this test: {json}");

    let said = gsil(folder.path(), &[&["estimate"], &settings[..]].concat()).succeeded().stdout;
    let table: Vec<&str> = said.lines().skip_while(|line| !line.starts_with("to need less")).collect();
    assert_eq!(table.len(), 2 + worth, "{said}");
    assert!(table[1].chars().all(|c| c == '-'), "{said}");
    assert_eq!(Some(table[1].len()), table.iter().map(|line| line.chars().count()).max(), "{said}");
}

#[test]
fn the_table_names_every_phase_and_the_built_in_task_leaves_nothing_behind() {
    let folder = tempdir().unwrap();
    let settings = ["--device", "flex", "word_problems.num_train=50", "word_problems.num_test=20"];
    let arguments = [&["estimate"][..], &settings].concat();
    let mut command = crate::support::binary::command(folder.path(), &arguments);
    let said =
        crate::support::binary::wait(command.env("TMPDIR", text(folder.path())).spawn().unwrap()).succeeded().stdout;
    for word in
        ["load", "sft", "self-generate", "score", "train", "checkpoint", "evaluate", "peak", "disk", "time", "fits"]
    {
        assert!(said.lines().any(|line| line.starts_with(word)), "{word}: {said}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the passing folder is removed");
}

#[test]
fn what_needs_less_memory_is_found_for_the_built_in_task_and_saves_what_is_said() {
    let folder = tempdir().unwrap();
    let estimate = |settings: &[&str]| {
        let task = ["--device", "flex", "--no-time", "--json", "word_problems.num_train=50"];
        gsil(folder.path(), &[&["estimate"], &task[..], settings].concat()).succeeded().json_lines().remove(0)
    };
    let estimated = estimate(&[]);
    let change = &estimated["changes"][0];
    let assignments: Vec<&str> =
        change["assignments"].as_array().into_iter().flatten().map(|a| a.as_str().unwrap()).collect();
    assert!(!assignments.is_empty(), "{estimated}");
    // The program itself is a page more or less from one start to the next.
    let peak = |value: &Value| value["peak_bytes"].as_u64().unwrap();
    assert!(peak(&estimate(&assignments)).abs_diff(peak(change)) < 4_000_000, "{estimated}");
}

#[cfg(unix)]
#[test]
fn a_resumed_run_says_the_time_that_is_left_and_not_that_of_the_whole_run() {
    let recipe = crate::support::recipe::Recipe::new(&[]);
    let stopped = recipe.interrupt("run", "metrics.jsonl", 2..50, "TERM");
    assert!(stopped.stderr.contains(" for the whole run, at the speed"), "{}", stopped.stderr);
    let resumed = recipe.finish("run").stderr;
    assert!(resumed.contains(" for what is left, at the speed"), "{resumed}");
}
