//! Bad input, one test for each kind: the exit code, a message that names file, line, field or tensor, and nothing new on
//! disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use gsil::formats::safetensors::{TensorToWrite, open_safetensors, write_safetensors};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::support::binary::{
    DEVICE, DISK, INPUT, LOCKED, USAGE, assert_says, command, golden, gsil, read, say_skipped, text, tiny_model_with,
    wait, write_rows,
};

/// A folder with good input: the model `tiny` and the data `rows.jsonl`. Each test spoils one thing.
fn good_input() -> TempDir {
    let folder = tempdir().unwrap();
    tiny_model_with(folder.path(), &[]);
    write_rows(&folder.path().join("rows.jsonl"), 4);
    folder
}

/// `gsil train` on the folder's input must be refused with this exit code; what it said. Nothing may be left behind.
#[track_caller]
fn train_refused(folder: &TempDir, code: i32, more: &[&str]) -> String {
    let arguments = ["train", "--model", "tiny", "--data", "rows.jsonl", "--output", "run", "--device", "flex"];
    let arguments: Vec<&str> = arguments.into_iter().filter(|flag| !replaces(more, flag)).collect();
    refused(folder, code, &[&arguments[..], &["generation.max_new_tokens=4"], more].concat())
}

/// `more` gives the value of this flag anew (as `--flag=value`), or this argument is the value it replaces.
fn replaces(more: &[&str], argument: &str) -> bool {
    let given = |flag: &str| more.iter().any(|other| other.starts_with(&format!("{flag}=")));
    given(argument)
        || match argument {
            "tiny" => given("--model"),
            "rows.jsonl" => given("--data"),
            "run" => given("--output"),
            "flex" => given("--device"),
            _ => false,
        }
}

#[track_caller]
fn refused(folder: &TempDir, code: i32, arguments: &[&str]) -> String {
    let before = tree(folder.path());
    let stderr = gsil(folder.path(), arguments).failed(code);
    assert_eq!(tree(folder.path()), before, "nothing new is left behind: {stderr}");
    stderr
}

/// Every file and folder below, sorted.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = entries
        .flat_map(|path| {
            let inside = if path.is_dir() { tree(&path) } else { Vec::new() };
            std::iter::once(path).chain(inside)
        })
        .collect();
    all.sort_unstable();
    all
}

/// Writes the tiny model's tensors again, as `change` leaves them.
fn rewrite_tensors(folder: &TempDir, change: impl FnOnce(&mut Vec<(String, Vec<usize>, Vec<f32>)>)) {
    let file = open_safetensors(&golden("tiny_llama/model.safetensors")).unwrap();
    let mut tensors: Vec<_> = file
        .names()
        .map(|name| (name.to_owned(), file.shape(name).unwrap().to_vec(), file.read_f32(name).unwrap()))
        .collect();
    change(&mut tensors);
    let tensors = tensors.into_iter().map(|(name, shape, values)| TensorToWrite::new(name, &shape, move || Ok(values)));
    let path = folder.path().join("tiny/model.safetensors");
    write_safetensors(&path, tensors.collect(), &Default::default()).unwrap();
}

#[test]
fn a_missing_model_is_named() {
    let folder = good_input();
    let stderr = train_refused(&folder, INPUT, &["--model=absent"]);
    assert_says(&stderr, &["error: absent: no such file or folder", "hint: ", ".gguf"]);
}

#[test]
fn a_name_of_the_hub_without_its_owner_is_told_how_it_is_written() {
    let folder = good_input();
    assert_says(
        &train_refused(&folder, INPUT, &["--model=gpt2"]),
        &["gpt2: ", "hint: ", "owner/name (openai-community/gpt2)"],
    );
    for data in ["gsm8k", "https://huggingface.co/datasets/openai/gsm8k"] {
        let stderr = train_refused(&folder, INPUT, &[&format!("--data={data}")]);
        assert_says(&stderr, &[data, "hint: a data set of the hub is named owner/name (openai/gsm8k)"]);
    }
    assert_says(&train_refused(&folder, INPUT, &["--data=-"]), &["hint: rows from a pipe: /dev/stdin"]);
    let stderr = train_refused(&folder, INPUT, &["--data=rowz.jsonl"]);
    assert_says(&stderr, &["rowz.jsonl", "hint: ", "rows.jsonl"]);
}

#[test]
fn a_folder_without_a_model_is_named() {
    let folder = good_input();
    fs::create_dir(folder.path().join("empty")).unwrap();
    let stderr = train_refused(&folder, INPUT, &["--model=empty"]);
    assert_says(&stderr, &["empty: has no config.json", "hint: "]);
}

#[test]
fn a_missing_data_file_is_named() {
    let folder = good_input();
    let stderr = train_refused(&folder, INPUT, &["--data=absent.jsonl"]);
    assert_says(&stderr, &["absent.jsonl: cannot read: "]);
}

#[test]
fn a_missing_held_out_file_is_named_before_the_training() {
    let folder = good_input();
    let stderr = train_refused(&folder, INPUT, &["evaluation.data=absent.jsonl"]);
    assert_says(&stderr, &["absent.jsonl: cannot read: "]);
}

#[test]
fn a_missing_configuration_file_is_named() {
    let folder = good_input();
    let stderr = train_refused(&folder, USAGE, &["--config", "absent.ron"]);
    assert_says(&stderr, &["absent.ron: cannot read: "]);
    fs::create_dir(folder.path().join("run")).unwrap();
    fs::write(folder.path().join("run/config.ron"), "()").unwrap();
    let stderr = train_refused(&folder, USAGE, &["--config", "run"]);
    let settings = format!("hint: its settings are in {};", Path::new("run").join("config.ron").display());
    assert_says(&stderr, &["run: is a run folder", &settings, "gsil resume run"]);
    for (other, named) in [(&[][..], "OTHER_RUN"), (&["run"], "run")] {
        let stderr = gsil(folder.path(), &[&["compare", "run"], other].concat()).failed(USAGE);
        assert_says(&stderr, &["run: is a run folder", &format!("gsil report run --compare {named}\n")]);
    }
}

#[test]
fn half_a_safetensors_file_is_named() {
    let folder = good_input();
    let path = folder.path().join("tiny/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let stderr = train_refused(&folder, INPUT, &[]);
    assert_says(&stderr, &[&Path::new("tiny").join("model.safetensors").to_string_lossy()]);
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let folder = good_input();
    rewrite_tensors(&folder, |tensors| {
        let norm = tensors.iter_mut().find(|(name, ..)| name == "model.norm.weight").unwrap();
        (norm.1, norm.2) = (vec![63], vec![1.0; 63]);
    });
    let stderr = train_refused(&folder, INPUT, &[]);
    assert_says(&stderr, &["tiny", "tensor `model.norm.weight`", "[63]", "[64]"]);
}

#[test]
fn a_missing_tensor_is_named() {
    let folder = good_input();
    rewrite_tensors(&folder, |tensors| tensors.retain(|(name, ..)| name != "model.layers.1.mlp.up_proj.weight"));
    let stderr = train_refused(&folder, INPUT, &[]);
    assert_says(&stderr, &["tensor `model.layers.1.mlp.up_proj.weight`", "is missing"]);
}

#[test]
fn an_unused_tensor_is_named() {
    let folder = good_input();
    rewrite_tensors(&folder, |tensors| {
        tensors.push(("model.layers.0.self_attn.q_norm.weight".into(), vec![16], vec![1.0; 16]));
    });
    let stderr = train_refused(&folder, INPUT, &[]);
    assert_says(&stderr, &["tensor `model.layers.0.self_attn.q_norm.weight`", "is not used by this architecture"]);
}

#[test]
fn a_misspelt_response_is_refused_with_its_line_wherever_demonstrations_are_needed() {
    let folder = good_input();
    let rows = "{\"prompt_ids\":[3],\"response_ids\":[4]}\n{\"prompt_ids\":[3],\"respones_ids\":[4]}\n";
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let words = ["rows.jsonl, line 2, `respones_ids`: unknown key beside `prompt_ids`", "did you mean `response_ids`?"];
    assert_says(&train_refused(&folder, INPUT, &[]), &words);
    for verb in [&["score"][..], &["eval"], &["estimate", "--no-time"], &["init"]] {
        let arguments = [verb, &["--model", "tiny", "--data", "rows.jsonl"]].concat();
        assert_says(&refused(&folder, INPUT, &arguments), &words);
    }
    let inspected = gsil(folder.path(), &["inspect", "data", "rows.jsonl", "--model", "tiny"]).succeeded();
    assert_says(&inspected.stdout, &words);
    let answered = ["generate", "--model", "tiny", "--data", "rows.jsonl", "--max-new-tokens", "2"];
    assert_eq!(gsil(folder.path(), &answered).succeeded().json_lines().len(), 2, "prompts are all that is needed");
}

#[test]
fn an_id_beyond_the_vocabulary_is_named_with_its_line() {
    let folder = good_input();
    let row = json!({"prompt_ids": [3, 515], "response_ids": [4]});
    fs::write(folder.path().join("rows.jsonl"), format!("{{\"prompt_ids\":[3],\"response_ids\":[514]}}\n{row}\n"))
        .unwrap();
    let stderr = train_refused(&folder, INPUT, &[]);
    assert_says(&stderr, &["rows.jsonl, line 2", "token id 515 in the prompt", "the model has 515 tokens"]);
}

#[test]
fn a_tokenizer_with_more_ids_than_the_model_is_refused() {
    let folder = good_input();
    // The fixture tokenizer has a few hundred ids; a model of the same tensors cut to 100 rows has fewer.
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/tokenizer.json");
    tiny_model_with(folder.path(), &[("vocab_size", json!(100))]);
    fs::copy(tokenizer, folder.path().join("tiny/tokenizer.json")).unwrap();
    let stderr = train_refused(&folder, INPUT, &[]);
    assert_says(&stderr, &["tiny, field `vocab_size`", "token ids, the model only 100", "hint: "]);
}

#[test]
fn policy_and_reference_of_different_vocabularies_are_refused() {
    let folder = good_input();
    fs::create_dir(folder.path().join("other")).unwrap();
    let other = tiny_model_with(&folder.path().join("other"), &[("vocab_size", json!(600))]);
    for verb in ["score", "eval"] {
        let arguments = [verb, "--model", "tiny", "--reference", &text(&other), "--data", "rows.jsonl"];
        let named = Path::new("other").join("tiny");
        assert_says(&refused(&folder, INPUT, &arguments), &[&named.to_string_lossy(), "600", "515", "vocabulary"]);
    }
}

#[test]
fn an_unknown_architecture_is_named() {
    let folder = good_input();
    tiny_model_with(folder.path(), &[("model_type", json!("mamba")), ("architectures", json!(["MambaForCausalLM"]))]);
    let stderr = train_refused(&folder, INPUT, &[]);
    assert_says(&stderr, &["tiny", "MambaForCausalLM"]);
}

#[test]
fn an_empty_data_file_is_named() {
    let folder = good_input();
    fs::write(folder.path().join("rows.jsonl"), "\n\n").unwrap();
    assert_says(&train_refused(&folder, INPUT, &[]), &["rows.jsonl: no rows", "hint: "]);
}

#[test]
fn bad_json_is_named_with_line_and_column() {
    let folder = good_input();
    let good = "{\"prompt_ids\":[3],\"response_ids\":[4]}\n";
    fs::write(folder.path().join("rows.jsonl"), format!("{good}{good}{{\"prompt_ids\":[3],]\n{good}")).unwrap();
    assert_says(&train_refused(&folder, INPUT, &[]), &["rows.jsonl, line 3, column 19: invalid JSON"]);
}

#[test]
fn rows_longer_than_the_context_are_counted_and_if_none_is_left_refused() {
    let folder = good_input();
    let long = json!({"prompt_ids": vec![3; 300], "response_ids": [4]}); // the tiny model's context is 256 tokens
    fs::write(folder.path().join("rows.jsonl"), format!("{long}\n")).unwrap();
    let stderr = train_refused(&folder, INPUT, &[]);
    assert_says(&stderr, &["rows.jsonl: no row is left: ", "prompt alone fills", "256 tokens"]);

    let generate = ["generate", "--model", "tiny", "--data", "rows.jsonl", "--device", "flex"];
    let stderr = refused(&folder, INPUT, &generate);
    assert_says(&stderr, &["rows.jsonl, line 1", "the prompt has 300 tokens, the limit is 255"]);
}

#[test]
fn a_learning_rate_that_is_not_a_number_is_refused() {
    let folder = good_input();
    assert_says(&train_refused(&folder, USAGE, &["train.lr=NaN"]), &["train.lr", "NaN"]);
    fs::write(folder.path().join("run.ron"), "(train: (lr: NaN))").unwrap();
    assert_says(&train_refused(&folder, USAGE, &["--config", "run.ron"]), &["run.ron", "train.lr", "NaN"]);
}

#[test]
fn an_unknown_key_of_a_file_is_named_with_line_column_and_the_nearest_key() {
    let folder = good_input();
    fs::write(folder.path().join("run.ron"), "(\n    seed: 3,\n    train: (\n        batchsize: 4,\n    ),\n)\n")
        .unwrap();
    let stderr = train_refused(&folder, USAGE, &["--config", "run.ron"]);
    assert_says(&stderr, &["run.ron:4:9: unknown key `batchsize`", "hint: did you mean `batch_size`?"]);
}

#[test]
fn an_unknown_key_of_an_override_is_named_with_the_nearest_key() {
    let folder = good_input();
    let stderr = train_refused(&folder, USAGE, &["train.learning_rat=1e-4"]);
    assert_says(&stderr, &["train.learning_rat=1e-4", "unknown key"]);
    let stderr = train_refused(&folder, USAGE, &["objective.scael=0.1"]);
    assert_says(&stderr, &["objective.scael=0.1", "unknown key", "hint: did you mean `objective.scale`?"]);
}

#[test]
fn an_argument_without_an_equals_sign_is_refused() {
    let folder = good_input();
    assert_says(&train_refused(&folder, USAGE, &["run.ron"]), &["run.ron"]);
}

#[test]
fn rows_of_text_for_a_model_without_a_tokenizer_are_refused_with_advice() {
    let folder = good_input();
    fs::write(folder.path().join("rows.jsonl"), "{\"prompt\":\"Q\",\"completion\":\"A\"}\n").unwrap();
    let stderr = train_refused(&folder, INPUT, &[]);
    assert_says(&stderr, &["rows.jsonl, line 1", "has no tokenizer", "hint: ", "`prompt_ids`"]);
    let stderr = refused(&folder, INPUT, &["generate", "--model", "tiny", "--prompt", "Q", "--device", "flex"]);
    assert_says(&stderr, &["--prompt", "has no tokenizer"]);
}

#[test]
fn a_model_without_an_end_token_is_refused_only_where_it_is_to_write_responses() {
    let folder = good_input();
    tiny_model_with(folder.path(), &[("eos_token_id", Value::Null)]);
    assert_says(
        &train_refused(&folder, INPUT, &[]),
        &["names no end token", "hint: add `eos_token_id` to config.json; or set"],
    );
    let pairs = "{\"prompt_ids\": [5, 6], \"chosen_ids\": [7, 8], \"rejected_ids\": [9]}\n";
    fs::write(folder.path().join("pairs.jsonl"), pairs).unwrap();
    for (rows, output, settings) in [
        ("rows.jsonl", "supervised", &["iterations=0", "sft.num_steps=1"]),
        ("pairs.jsonl", "pairs", &["iterations=1", "train.num_steps=1"]),
    ] {
        let arguments = ["train", "--model", "tiny", "--data", rows, "--output", output, "--device", "flex"];
        gsil(folder.path(), &[&arguments[..], settings].concat()).succeeded();
    }
}

#[test]
fn chat_needs_a_chat_template() {
    let folder = good_input();
    let stderr = refused(&folder, INPUT, &["chat", "--model", "tiny", "--device", "flex"]);
    assert_says(&stderr, &["tiny", "has no chat template", "hint: "]);
}

#[test]
fn an_unknown_device_is_refused_with_the_known_ones() {
    let folder = good_input();
    let stderr = train_refused(&folder, DEVICE, &["--device=tpu"]);
    assert_says(&stderr, &["device `tpu`", "hint: ", "gsil devices"]);
}

#[test]
fn an_adapter_on_a_layer_that_the_model_lacks_is_refused() {
    let folder = good_input();
    let stderr = train_refused(&folder, USAGE, &["lora.target_modules=[\"q_prj\"]"]);
    assert_says(&stderr, &["lora.target_modules", "q_prj", "q_proj"]);
}

#[test]
fn a_run_without_a_model_or_without_data_says_which() {
    let folder = good_input();
    let stderr = refused(&folder, USAGE, &["train", "--data", "rows.jsonl", "--output", "run"]);
    assert_says(&stderr, &["model: is not given", "hint: pass --model"]);
    let stderr = refused(&folder, USAGE, &["train", "--model", "tiny", "--output", "run"]);
    assert_says(&stderr, &["data: is not given", "hint: pass --data"]);
}

#[test]
fn an_output_folder_that_holds_a_run_is_not_touched() {
    let folder = good_input();
    fs::create_dir(folder.path().join("run")).unwrap();
    fs::write(folder.path().join("run/config.ron"), "(seed: 12)").unwrap();
    fs::write(folder.path().join("run/env.json"), "{}").unwrap();
    let stderr = train_refused(&folder, USAGE, &[]);
    assert_says(&stderr, &["run already holds a run", "hint: continue it with `gsil resume run`"]);
    assert_eq!(fs::read_to_string(folder.path().join("run/config.ron")).unwrap(), "(seed: 12)");
}

#[test]
fn whatever_a_run_writes_is_not_written_over_where_it_is_somebody_elses() {
    let folder = good_input();
    let arguments = ["train", "--model", "tiny", "--data", "rows.jsonl", "--device", "flex", "--output", "whole"];
    let briefly =
        ["generation.max_new_tokens=4", "generation.unfinished=mask", "iterations=1", "continued_sft_lr=1e-4"];
    gsil(folder.path(), &[&arguments[..], &briefly].concat()).succeeded();
    let written = fs::read_dir(folder.path().join("whole")).unwrap().map(|entry| entry.unwrap().file_name());
    let written: Vec<String> = written.map(|name| name.into_string().unwrap()).filter(|name| name != ".lock").collect();
    assert!(written.len() > 10, "{written:?}");
    let run = folder.path().join("run");
    for name in written.iter().map(String::as_str).chain(["iteration-001", "iteration-1000"]) {
        fs::create_dir(&run).unwrap();
        fs::write(run.join(name), "mine").unwrap();
        let stderr = train_refused(&folder, USAGE, &[]);
        assert_says(
            &stderr,
            &[
                &format!("run holds {name}, which a run would write over"),
                "hint: choose another --output, run/NAME for",
            ],
        );
        assert_eq!(read(&run.join(name)), "mine");
        fs::remove_dir_all(&run).unwrap();
    }
    fs::create_dir_all(run.join("task")).unwrap();
    let stderr = || refused(&folder, USAGE, &["train", "--output", "run", "--device", "flex"]);
    assert_says(&stderr(), &["run holds task, which a run would write over"]);
    // Beside a lock they may be of a start that was killed; not where an evaluation left the lock.
    fs::write(run.join(".lock"), "").unwrap();
    fs::write(run.join("settings.json"), "{}").unwrap();
    assert_says(&stderr(), &["run holds task, which a run would write over"]);
}

#[test]
fn a_run_is_not_begun_where_a_comparison_would_count_it_as_its_own() {
    let folder = good_input();
    fs::create_dir_all(folder.path().join("grid/cells/gsil")).unwrap();
    fs::write(folder.path().join("grid/compare.ron"), "").unwrap();
    for output in ["grid/cells/gsil/seed-1", "grid/start/seed-0"] {
        let stderr = train_refused(&folder, USAGE, &[&format!("--output={output}")]);
        assert_says(&stderr, &[output, "belongs to the comparison in", "hint: choose another --output"]);
    }
}

#[test]
fn a_run_is_not_begun_in_the_folder_of_a_model() {
    let folder = good_input();
    let stderr = train_refused(&folder, USAGE, &["--output=tiny"]);
    assert_says(
        &stderr,
        &["tiny holds config.json, as a model's folder does: a run in it would take its place", "tiny/NAME"],
    );
}

#[test]
fn a_file_of_settings_is_not_replaced_by_those_of_its_comparison() {
    let folder = good_input();
    let mine = "// mine\n(base: (model: \"tiny\", data: \"rows.jsonl\"), seeds: [0], methods: [(name: \"gsil\")])\n";
    fs::write(folder.path().join("compare.ron"), mine).unwrap();
    fs::write(folder.path().join(".lock"), "").unwrap(); // of an evaluation that was kept beside it
    let stderr = refused(&folder, USAGE, &["compare", "compare.ron", "--output", ".", "device=flex"]);
    assert_says(
        &stderr,
        &[". holds compare.ron, which a comparison would write over", "hint: choose another --output, ./NAME"],
    );
    assert_eq!(read(&folder.path().join("compare.ron")), mine);
}

#[test]
fn an_output_that_is_a_file_is_a_disk_error() {
    let folder = good_input();
    fs::write(folder.path().join("run"), "precious").unwrap();
    let stderr = train_refused(&folder, DISK, &[]);
    assert_says(&stderr, &["cannot create run", "hint: "]);
    assert_eq!(fs::read_to_string(folder.path().join("run")).unwrap(), "precious");
}

#[test]
fn a_built_in_task_that_cannot_be_trained_leaves_no_folder() {
    let folder = good_input();
    let arguments =
        ["train", "--output", "run", "train.max_length=4", "generation.max_new_tokens=2", "--device", "flex"];
    assert_says(&refused(&folder, INPUT, &arguments), &["no row is left: "]);
}

#[test]
fn a_folder_in_which_another_process_works_is_refused() {
    let folder = good_input();
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    let lock = File::create(run.join(".lock")).unwrap();
    lock.lock().unwrap();
    let stderr = train_refused(&folder, LOCKED, &[]);
    assert_says(&stderr, &["run: another process works here", "hint: wait for the other process"]);
    fs::write(run.join("config.ron"), "()").unwrap();
    assert_says(&refused(&folder, LOCKED, &["resume", "run"]), &["another process works here"]);
}

#[test]
fn resuming_a_folder_without_a_run_is_refused() {
    let folder = good_input();
    assert_says(
        &refused(&folder, INPUT, &["resume", "tiny"]),
        &["tiny: holds no run", "hint: give a run's folder, runs/NAME for instance; `gsil train` starts one"],
    );
    assert_says(&refused(&folder, INPUT, &["resume", "absent"]), &["absent: cannot read"]);
}

#[test]
fn a_disk_that_is_full_is_an_error_with_exit_code_6() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        say_skipped("a full disk", "this system has no /dev/full");
        return;
    }
    let folder = good_input();
    let stdout = fs::OpenOptions::new().write(true).open(full).unwrap();
    let arguments = ["score", "--model", "tiny", "--data", "rows.jsonl", "--device", "flex"];
    let outcome = wait(command(folder.path(), &arguments).stdout(stdout).spawn().unwrap());
    assert_eq!(outcome.code, Some(DISK), "{}", outcome.stderr);
    assert_says(&outcome.stderr, &["cannot write standard output"]);
}

#[test]
fn an_error_that_nobody_can_read_still_has_its_exit_code() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        say_skipped("a full disk for stderr", "this system has no /dev/full");
        return;
    }
    let folder = good_input();
    let stderr = || fs::OpenOptions::new().write(true).open(full).unwrap();
    let bad = ["score", "--model", "absent", "--data", "rows.jsonl", "--device", "flex"];
    assert_eq!(wait(command(folder.path(), &bad).stderr(stderr()).spawn().unwrap()).code, Some(INPUT));
    let good = ["score", "--model", "tiny", "--data", "rows.jsonl", "--device", "flex"];
    let outcome = wait(command(folder.path(), &good).stderr(stderr()).spawn().unwrap());
    assert_eq!((outcome.code, outcome.json_lines().len()), (Some(0), 4), "progress that nobody sees is no error");
}
