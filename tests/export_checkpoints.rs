//! `gsil export --checkpoint`: what a run kept on its way, in the forms that other programs take.

use std::fs;
use std::path::{Path, PathBuf};

use gsil::formats::peft::peft_name;
use gsil::formats::safetensors::{SafetensorsFile, open_safetensors};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::support::binary::{
    assert_close, device, ending_model, export, follow, golden, gsil, read, read_json, read_json_lines, text,
    write_rows,
};

/// Nats a token: the model of a checkpoint is merged on the CPU, whatever device trained it.
const TOLERANCE: f64 = 1e-3;
/// After the supervised stage and after all of [`forgetful_run`].
const BEST: &str = "step-000010-iteration-0";
const LAST: &str = "step-000012-done";

/// `gsil train` on the rows of [`forgetful_run`].
fn train(folder: &Path, model: &Path, output: &str, overrides: &[&str]) -> PathBuf {
    let (model, device) = (text(model), device());
    let arguments = ["train", "--model", &model, "--data", "rows.jsonl", "--output", output, "--device", &device];
    let settings = ["generation.max_new_tokens=12", "generation.unfinished=mask", "train.batch_size=3"];
    gsil(folder, &[&arguments[..], &settings, overrides].concat()).succeeded();
    folder.join(output)
}

/// A run whose supervised stage learns and whose iteration decays the weights that it trains to next to nothing: the best
/// checkpoint is not the last.
fn forgetful_run(overrides: &[&str]) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let model = ending_model(folder.path());
    write_rows(&folder.path().join("rows.jsonl"), 6);
    let learns = ["sft.lr=1e-2", "sft.epochs=5", "sft.batch_size=3"];
    let forgets = ["train.lr=1e-3", "train.weight_decay=900", "keep_last=1", "keep_best=1"];
    let run = train(folder.path(), &model, "run", &[&learns[..], &forgets, overrides].concat());
    (folder, run)
}

fn exported(run: &Path, name: &str, format: &str, options: &[&str]) -> PathBuf {
    let output = run.with_file_name(name);
    export(run.parent().unwrap(), run, format, &output, options).succeeded();
    output
}

/// The log-prob of a demonstration's token, as `gsil eval` has it.
fn log_prob(folder: &Path, model: &Path) -> Value {
    let arguments = ["eval", "--model", &text(model), "--data", "rows.jsonl", "--device", &device()];
    let printed = gsil(folder, &[&arguments[..], &["evaluation.generate_rows=0"]].concat()).succeeded().stdout;
    let figures: Value = serde_json::from_str(&printed).unwrap();
    figures["demonstration_log_prob_per_token"].clone()
}

/// The same as the run recorded it after a stage.
fn recorded(run: &Path, stage: &str) -> f64 {
    let rows = read_json_lines(&run.join("evaluations.jsonl"));
    let row = rows.iter().find(|row| row["stage"] == stage).unwrap();
    row["evaluation"]["demonstration_log_prob_per_token"].as_f64().unwrap()
}

#[test]
fn the_best_checkpoint_is_exported_as_the_run_judged_it() {
    for overrides in [&[][..], &["lora.rank=4"]] {
        let (folder, run) = forgetful_run(overrides);
        let [start, best, last] = ["start", "sft", "iteration 0"].map(|stage| recorded(&run, stage));
        assert!(best > start + 0.5 && best > last + 0.5, "the test needs a run that forgets: {start}, {best}, {last}");
        for (format, file) in [("hf", ""), ("mlx", ""), ("gguf", "model.gguf")] {
            let output = exported(&run, &format!("best-{format}"), format, &["--checkpoint", "best", "--dtype", "f32"]);
            assert_close(&log_prob(folder.path(), &output.join(file)), best, TOLERANCE, format);
        }
        for (name, options) in [("by-name", &["--checkpoint", LAST][..]), ("result", &[])] {
            let output = exported(&run, name, "hf", options);
            assert_close(&log_prob(folder.path(), &output), last, TOLERANCE, name);
        }
    }
}

#[test]
fn the_card_of_a_checkpoint_tells_which_one_it_is_and_what_was_measured_up_to_it() {
    let (_folder, run) = forgetful_run(&[]);
    let best = read(&exported(&run, "best", "hf", &["--checkpoint", "best"]).join("README.md"));
    let which = format!("| checkpoint | `{BEST}`, at update 10;");
    for part in [which.as_str(), "by supervised fine-tuning, ", "The last row is"] {
        assert!(best.contains(part), "{part:?} in:\n{best}");
    }
    assert!(best.contains("\nsft ") && !best.contains("\niteration 0 "), "figures up to the checkpoint:\n{best}");
    let last = read(&exported(&run, "last", "hf", &["--checkpoint", LAST]).join("README.md"));
    assert!(last.contains("\niteration 0 ") && last.contains("self-imitation"), "{last}");
    let result = read(&exported(&run, "result", "hf", &[]).join("README.md"));
    assert!(!result.contains("checkpoint"), "{result}");
}

#[test]
fn the_adapter_of_a_checkpoint_is_the_one_that_was_kept() {
    let (_folder, run) = forgetful_run(&["lora.rank=4"]);
    let open = |path: PathBuf| open_safetensors(&path).unwrap();
    let kept = open(run.join("checkpoints").join(BEST).join("parameters.safetensors"));
    let adapter = |name: &str, options: &[&str]| -> SafetensorsFile {
        open(exported(&run, name, "peft", options).join("adapter_model.safetensors"))
    };
    let (best, last) = (adapter("best", &["--checkpoint", "best"]), adapter("last", &[]));
    assert_eq!(best.names().count(), kept.names().count());
    for name in kept.names() {
        let [own, other] = [&best, &last].map(|file| file.read_f32(&peft_name(name).unwrap()).unwrap());
        assert_eq!(own, kept.read_f32(name).unwrap(), "{name}");
        assert_ne!(own, other, "{name}");
    }
}

#[test]
fn a_checkpoint_needs_neither_a_finished_run_nor_a_name_that_is_spelled_right_at_once() {
    let (folder, run) = forgetful_run(&["lora.rank=4"]);
    let refused = |source: &Path, format: &str, name: &str, code: i32, parts: &[&str]| {
        let options = ["--checkpoint", name];
        let said = export(folder.path(), source, format, &folder.path().join("refused"), &options).failed(code);
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} in: {said}"));
    };
    fs::remove_dir_all(run.join("model")).unwrap(); // what an unfinished run lacks
    let said = export(folder.path(), &run, "hf", &folder.path().join("refused"), &[]).failed(3);
    assert!(said.contains(&format!(" --checkpoint {LAST} --format hf --output NEW_FOLDER")), "{said}");
    let hf = exported(&run, "unfinished", "hf", &["--checkpoint", "best"]);
    assert_close(&log_prob(folder.path(), &hf), recorded(&run, "sft"), TOLERANCE, "without the aligned model");

    let [best, last] = [BEST, LAST].map(|name| format!("{name} (log-prob per token -"));
    for name in ["step-9", "../checkpoints/step-000012-done", ""] {
        refused(&run, "hf", name, 3, &[&format!("has no checkpoint `{name}`"), "hint: there are ", &best, &last]);
    }
    refused(&run, "pairs", "best", 2, &["does not go with --format pairs", "hint: choose one with --iteration"]);
    let model = folder.path().join("tiny");
    refused(&model, "hf", "best", 2, &["is a model, not a run: it has no checkpoints", "hint: give the folder"]);

    fs::copy(golden("tiny_llama_reference/model.safetensors"), model.join("model.safetensors")).unwrap();
    refused(&run, "hf", "best", 3, &["its weights are not those that this run's adapter was begun on"]);
    let parameters = run.join("checkpoints").join(BEST).join("parameters.safetensors");
    let mut bytes = fs::read(&parameters).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&parameters, bytes).unwrap();
    for format in ["hf", "gguf", "peft"] {
        refused(&run, format, "best", 3, &["parameters.safetensors", "is damaged"]);
    }
}

#[test]
fn a_run_that_lacks_its_model_has_a_way_to_one_though_no_checkpoint_that_is_left_was_evaluated() {
    let folder = tempdir().unwrap();
    let model = ending_model(folder.path());
    write_rows(&folder.path().join("rows.jsonl"), 6);
    let briefly = ["save_every=1", "train.lr=1e-3", "train.epochs=2"];
    let without_model = |output: &str, overrides: &[&str]| {
        let run = train(folder.path(), &model, output, &[&briefly[..], overrides].concat());
        fs::remove_dir_all(run.join("model")).unwrap();
        run
    };
    // By the run's name: another path may need quotation marks in a command.
    let said_of = |run: &str| {
        let run = Path::new(run);
        let best = export(folder.path(), run, "hf", &folder.path().join("best"), &["--checkpoint", "best"]).failed(3);
        assert!(
            best.contains("no checkpoint of the run's own model that is left was evaluated\nhint: there are step-"),
            "{best}"
        );
        export(folder.path(), run, "hf", &folder.path().join("refused"), &[]).failed(3)
    };
    // As it is in the middle of an iteration.
    let stopped = without_model("stopped", &[]);
    fs::remove_dir_all(stopped.join("checkpoints/step-000004-done")).unwrap();
    fs::write(stopped.join("latest"), "step-000003-iteration-0").unwrap();
    let said = said_of("stopped");
    let ways = ["hint: finish it: gsil resume stopped; or take its newest", "step-000003-"];
    ways.iter().for_each(|way| assert!(said.contains(way), "{way:?} in: {said}"));
    follow(folder.path(), &said).succeeded();
    assert!(folder.path().join("NEW_FOLDER/config.json").is_file());
    fs::remove_dir_all(folder.path().join("NEW_FOLDER")).unwrap();

    let compared = without_model("compared", &["continued_sft_lr=1e-3"]);
    let said = said_of("compared");
    let way = "hint: make one of a checkpoint that is left; a wrong name lists them: gsil export ";
    assert!(said.contains("is a finished run whose aligned model was removed") && said.contains(way), "{said}");
    let listed = follow(folder.path(), &said).failed(3);
    assert!(listed.contains("step-000007-continued-sft (of `continued sft`, not evaluated), "), "{listed}");
    // As it is in the middle of the comparison: a resumed run writes no other model.
    fs::remove_dir_all(compared.join("checkpoints/step-000008-done")).unwrap();
    fs::write(compared.join("latest"), "step-000007-continued-sft").unwrap();
    let said = said_of("compared");
    assert!(said.contains(": is a run whose aligned model was removed") && said.contains(way), "{said}");
}

#[test]
fn what_best_is_without_held_out_rows_is_said_once_and_only_where_it_is_kept() {
    let folder = tempdir().unwrap();
    let model = text(ending_model(folder.path()));
    write_rows(&folder.path().join("rows.jsonl"), 6);
    write_rows(&folder.path().join("held_out.jsonl"), 3);
    let num_warnings = |output: &str, overrides: &[&str]| {
        let arguments = ["train", "--model", &model, "--data", "rows.jsonl", "--output", output, "--device", &device()];
        let brief = ["iterations=0", "sft.lr=1e-3", "generation.max_new_tokens=4"];
        let said = gsil(folder.path(), &[&arguments[..], &brief, overrides].concat()).succeeded().stderr;
        said.matches("best checkpoint is the one that gives the first 6 training rows the highest log-prob").count()
    };
    assert_eq!(num_warnings("kept", &["keep_best=1"]), 1);
    assert_eq!(num_warnings("not-kept", &[]), 0);
    assert_eq!(num_warnings("held-out", &["keep_best=1", "evaluation.data=held_out.jsonl"]), 0);
}

#[test]
fn a_run_on_top_of_a_run_names_the_model_of_the_first_as_its_base() {
    let (folder, first) = forgetful_run(&[]);
    let second = train(folder.path(), &first, "second", &["lora.rank=2", "train.lr=1e-3"]);
    for (name, options) in [("result", &[][..]), ("best", &["--checkpoint", "best"])] {
        let adapter = exported(&second, name, "peft", options);
        let config = read_json(&adapter.join("adapter_config.json"));
        let base = PathBuf::from(config["base_model_name_or_path"].as_str().unwrap());
        assert!(base.join("config.json").is_file(), "{}", base.display());
    }
    let [start, end] = ["start", "iteration 0"].map(|stage| recorded(&second, stage));
    let best = exported(&second, "best-hf", "hf", &["--checkpoint", "best"]);
    assert_close(&log_prob(folder.path(), &best), start.max(end), TOLERANCE, "on the first run's model");
}

#[test]
fn what_needs_a_base_model_that_was_moved_says_where_it_lay_and_works_once_it_is_back() {
    let (folder, run) = forgetful_run(&[]);
    fs::remove_dir_all(run.join("model")).unwrap(); // else pairs take its tokenizer
    let [there, moved] = ["tiny", "moved"].map(|name| folder.path().join(name));
    let needing_it = [("hf", &["--checkpoint", "best"][..]), ("pairs", &[])];
    fs::rename(&there, &moved).unwrap();
    for (format, options) in needing_it {
        let said = export(folder.path(), &run, format, &folder.path().join("refused"), options).failed(3);
        assert!(said.contains("tiny: is not there any more; the run began with it as `model`"), "{said}");
        assert!(said.contains("hint: put it back there, or a link to it"), "{said}");
    }
    fs::rename(&moved, &there).unwrap();
    for (format, options) in needing_it {
        exported(&run, format, format, options);
    }
}
