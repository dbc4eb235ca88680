//! Every file operation of a run fails in turn, in every way; afterwards the run goes on to the same bytes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gsil::config::RunConfig;
use gsil::error::Result;
use gsil::formats::file_system::{Disk, FileSystem};
use gsil::formats::hf_folder::write_model_folder;
use gsil::model::weights;
use gsil::report::console::Console;
use gsil::train::changes::Changes;
use gsil::train::setup::Run;
use serde_json::json;
use tempfile::{TempDir, tempdir};

use crate::support::faulty_disk::{Fault, FaultyDisk};
use crate::support::{flex, random_model};

/// A model of a few hundred weights and a run of a supervised update, an iteration of two, and a comparison: everything that
/// a run writes.
struct Tiny {
    folder: TempDir,
}

impl Tiny {
    fn new() -> Self {
        let folder = tempdir().unwrap();
        let config = json!({
            "model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 32, "tie_word_embeddings": true, "eos_token_id": [2, 3, 4, 5], "hidden_act": "silu",
        });
        let model = random_model(&config, 5, &flex());
        write_model_folder(&folder.path().join("model"), &config, None, None, weights::tensors_to_write(&model))
            .unwrap();
        let row = |i: usize| json!({"prompt_ids": [6 + i, 7, 8], "response_ids": [9 + i, 10, 2]}).to_string() + "\n";
        fs::write(folder.path().join("rows.jsonl"), (0..4).map(row).collect::<String>()).unwrap();
        Tiny { folder }
    }

    fn config(&self) -> RunConfig {
        let path = |name: &str| Some(self.folder.path().join(name).to_str().unwrap().to_owned());
        let mut config =
            RunConfig { model: path("model"), data: path("rows.jsonl"), device: "flex".into(), ..RunConfig::default() };
        config.evaluation.data = path("rows.jsonl");
        for assignment in [
            "save_every=1",
            "keep_last=1",
            "keep_best=1",
            "sft.batch_size=4",
            "sft.lr=1e-2",
            "continued_sft_lr=1e-2",
            "train.batch_size=2",
            "train.lr=1e-2",
            "generation.max_new_tokens=3",
            "generation.unfinished=mask",
            "evaluation.generate_rows=1",
        ] {
            config.set(assignment).unwrap();
        }
        config.resolve();
        config.validate().unwrap();
        config
    }

    /// Starts the run in `output`, or continues it where there is one.
    fn run(&self, files: Arc<dyn FileSystem>, output: &Path) -> Result<()> {
        let console = Console::stderr();
        let (run, model) = match output.join("config.ron").exists() {
            true => Run::resume_on(files, output, &Changes::default(), console)?,
            false => Run::start_on(files, self.config(), output, console)?,
        };
        run.train(model).map(drop)
    }
}

/// What a run leaves that must be the same whatever happened to it. Figures of the clock are not.
fn results(run: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let figures = |line: &str| {
        let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().retain(|key, _| key != "seconds" && key != "tokens_per_s");
        row.to_string()
    };
    let files = ["model/model.safetensors", "evaluations.jsonl", "self_generation.jsonl", "held_out.jsonl"];
    let mut results: Vec<(PathBuf, Vec<u8>)> =
        files.iter().map(|file| (file.into(), fs::read(run.join(file)).unwrap())).collect();
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    results.push(("metrics.jsonl".into(), metrics.lines().map(figures).collect::<Vec<_>>().concat().into_bytes()));
    let mut responses: Vec<String> = fs::read_to_string(run.join("iteration-000/self_generated.jsonl"))
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    responses.sort_unstable();
    results.push(("self_generated.jsonl".into(), responses.concat().into_bytes()));
    results
}

/// Every operation fails once in this way; the number of operations.
fn fail_every_operation(fault: Fault, check: impl Fn(&gsil::Error)) -> usize {
    let tiny = Tiny::new();
    let alone = tiny.folder.path().join("alone");
    tiny.run(Arc::new(Disk), &alone).unwrap();
    let expected = results(&alone);
    for fail_at in 1.. {
        let disk = tempdir().unwrap();
        let root = disk.path().join("root");
        fs::create_dir(&root).unwrap();
        let faulty = FaultyDisk::new(&root, fail_at, fault);
        let output = root.join("run");
        let outcome = tiny.run(Arc::new(faulty.clone()), &output);
        if !faulty.has_failed() {
            outcome.unwrap();
            return fail_at - 1;
        }
        // What fails may be without consequence: removing what nobody needs after an error, for instance.
        if let Err(error) = outcome {
            check(&error);
        }
        tiny.run(Arc::new(FaultyDisk::without_faults(&root)), &output)
            .unwrap_or_else(|error| panic!("{fault:?} at operation {fail_at}: the run does not go on: {error}"));
        assert!(results(&output) == expected, "{fault:?} at operation {fail_at}: other bytes");
    }
    unreachable!("the run has finitely many operations");
}

#[test]
fn a_run_goes_on_after_any_file_operation_failed_with_an_error() {
    let num_operations = fail_every_operation(Fault::Error(ErrorKind::Other), |error| {
        assert_eq!(error.exit_code(), 6, "{error}");
    });
    assert!(num_operations > 150, "{num_operations}");
}

#[test]
fn a_run_goes_on_after_the_disk_was_full_and_says_what_was_needed_and_what_is_free() {
    fail_every_operation(Fault::Error(ErrorKind::StorageFull), |error| {
        assert_eq!(error.exit_code(), 6, "{error}");
        let text = error.to_string();
        assert!(text.contains("the disk is full: ") && text.contains("needed") && text.contains("free"), "{text}");
    });
}

#[test]
fn a_run_goes_on_after_a_kill_at_any_file_operation() {
    fail_every_operation(Fault::Killed, |_| {});
}

#[test]
fn a_run_goes_on_after_a_power_cut_at_any_file_operation() {
    fail_every_operation(Fault::PowerCut, |_| {});
    fail_every_operation(Fault::PowerCutLeavingZeros, |_| {});
}

#[test]
fn a_run_for_which_there_is_no_room_is_refused_before_its_first_step() {
    let tiny = Tiny::new();
    let disk = tempdir().unwrap();
    let output = disk.path().join("run");
    let files = FaultyDisk::with_free_bytes(disk.path(), 1000);
    let error = tiny.run(Arc::new(files), &output).unwrap_err();
    assert_eq!(error.exit_code(), 6);
    assert!(
        error.to_string().contains("the disk is full: ") && error.to_string().contains(", 1000 bytes free"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("keep_last"));
    assert!(!output.exists(), "nothing is left behind");
}
