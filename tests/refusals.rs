//! What a run refuses rather than doing something that nobody asked for: other settings, stale log-probs, numbers that are
//! not finite. And what it does not refuse: runs of older versions.
#![cfg(unix)]

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::tempdir;

use crate::support::binary::{
    gsil, read, read_json, read_json_lines, say_skipped, spoil, text, tiny_model_with, wait, write_rows,
};
use crate::support::devices::devices;
use crate::support::fixture;
use crate::support::golden::VOCAB_SIZE;
use crate::support::recipe::{Recipe, copy_folder, edit_first_line, files_of};

#[test]
fn an_edited_configuration_is_refused_with_the_differing_keys() {
    let recipe = Recipe::new(&["iterations=1"]);
    recipe.finish("alone");
    recipe.interrupt("run", "metrics.jsonl", 3..30, "INT");
    let config = recipe.path("run/config.ron");
    let original = read(&config);
    fs::write(&config, original.replacen("seed: 0", "seed: 1", 1).replacen("save_every: 4", "save_every: 5", 1))
        .unwrap();
    for options in [&[][..], &["--allow-changes"]] {
        let stderr = gsil(recipe.folder.path(), &[&["resume", "run"], options].concat()).failed(2);
        assert!(stderr.contains("seed: 0, now 1"), "{stderr}");
        assert_eq!(stderr.contains("save_every: 4, now 5"), options.is_empty(), "{stderr}");
    }
    fs::write(&config, original).unwrap();
    recipe.finish("run");
    recipe.assert_same("alone", "run");
}

#[test]
fn sound_changes_are_refused_unless_they_are_allowed_and_then_kept() {
    let recipe = Recipe::new(&["iterations=1", "train.epochs=1"]);
    recipe.interrupt("run", "metrics.jsonl", 3..14, "INT");
    let folder = recipe.folder.path();
    let stderr = gsil(folder, &["resume", "run", "train.epochs=3"]).failed(2);
    assert!(stderr.contains("train.epochs: 1, now 3") && stderr.contains("--allow-changes"), "{stderr}");
    gsil(folder, &["resume", "run", "train.lr=1", "--allow-changes"]).failed(2);
    let environment = recipe.path("run/env.json");
    let mut began_on = read_json(&environment);
    began_on["threads"] = json!(12345);
    fs::write(&environment, began_on.to_string()).unwrap();
    let changes = ["train.epochs=3", "train.micro_batch_size=1", "--allow-changes", "--offline"];
    gsil(folder, &[&["resume", "run"][..], &changes].concat()).succeeded();
    assert_eq!(read_json_lines(&recipe.path("run/metrics.jsonl")).len(), 45);
    let kept = read(&recipe.path("run/config.ron"));
    assert!(kept.contains("epochs: 3") && kept.contains("offline: false"), "{kept}");
    let environment = read_json(&environment);
    assert!(environment["config"].as_str().unwrap().contains("epochs: 3"), "{environment}");
    began_on["config"] = environment["config"].clone();
    assert_eq!(environment, began_on, "all else is about how the run began");
    let stderr = gsil(folder, &["resume", "run", "train.epochs=4", "--allow-changes"]).succeeded().stderr;
    assert!(stderr.contains("this run is finished") && stderr.contains("train.epochs=4: changes nothing"), "{stderr}");
}

#[test]
fn a_change_that_a_kill_left_half_kept_is_kept_by_the_next_resume() {
    let recipe = Recipe::new(&["iterations=1", "train.epochs=1"]);
    recipe.interrupt("run", "metrics.jsonl", 3..14, "INT");
    // Between the two writes of a change.
    let environment = recipe.path("run/env.json");
    let mut half_kept = read_json(&environment);
    half_kept["config"] = json!(half_kept["config"].as_str().unwrap().replacen("save_every: 4", "save_every: 5", 1));
    fs::write(&environment, half_kept.to_string()).unwrap();
    let stderr = gsil(recipe.folder.path(), &["resume", "run"]).failed(2);
    assert!(stderr.contains("save_every: 5, now 4"), "{stderr}");
    gsil(recipe.folder.path(), &["resume", "run", "save_every=5", "--allow-changes"]).succeeded();
    assert!(read(&recipe.path("run/config.ron")).contains("save_every: 5"));
}

#[test]
fn a_length_that_a_begun_stage_cannot_have_is_refused_and_not_kept() {
    let recipe = Recipe::new(&["iterations=1"]);
    recipe.finish("alone");
    recipe.finish("run");
    // As a crash between the last update and the end of the stage leaves it.
    fs::remove_dir_all(recipe.path("run/checkpoints/step-000030-done")).unwrap();
    let before = ["config.ron", "env.json"].map(|name| read(&recipe.path("run").join(name)));
    for (epochs, problem) in
        [("train.epochs=3", "keeps no optimizer"), ("train.epochs=1", "30 updates of a stage that would have 15")]
    {
        let stderr = gsil(recipe.folder.path(), &["resume", "run", epochs, "--allow-changes"]).failed(3);
        assert!(stderr.contains(problem) && stderr.contains("hint: resume it "), "{epochs}: {stderr}");
        assert_eq!(["config.ron", "env.json"].map(|name| read(&recipe.path("run").join(name))), before);
    }
    gsil(recipe.folder.path(), &["resume", "run", "save_every=5", "--allow-changes"]).succeeded();
    assert!(read(&recipe.path("run/config.ron")).contains("save_every: 5"));
    recipe.assert_same("alone", "run");
}

#[test]
fn responses_of_another_policy_are_refused_in_every_phase() {
    let recipe = Recipe::new(&["iterations=1"]);
    let phases = [("metrics.jsonl", "restore "), ("iteration-000/self_generated.jsonl", "to make it anew, remove ")];
    for (watched, way_out) in phases {
        recipe.interrupt("run", watched, 3..usize::MAX, "TERM");
        edit_first_line(&recipe.path("run/iteration-000/binding.json"), |row| row["policy"] = json!("0123"));
        let stderr = gsil(recipe.folder.path(), &["resume", "run"]).failed(3);
        assert!(stderr.contains("stale") && stderr.contains("another policy"), "{stderr}");
        assert!(stderr.contains("hint: it is refused, not used") && stderr.contains(way_out), "{stderr}");
    }
}

#[test]
fn an_adapter_is_not_trained_on_under_another_model_than_its_own() {
    let recipe = Recipe::new(&["iterations=1", "lora.rank=2"]);
    recipe.interrupt("run", "metrics.jsonl", 6..30, "INT");
    let (weights, environment) = (recipe.path("tiny/model.safetensors"), recipe.path("run/env.json"));
    let own = fs::read(&weights).unwrap();
    spoil(&recipe.path("tiny"), "model.norm.weight", 0.5);
    let stderr = gsil(recipe.folder.path(), &["resume", "run"]).failed(3);
    assert!(stderr.contains("tiny") && stderr.contains("not those that this run's adapter was begun on"), "{stderr}");
    assert!(stderr.contains("hint: restore the model that the run began with"), "{stderr}");
    fs::write(&weights, own).unwrap();
    // A run of a version that kept no hash.
    let mut began = read_json(&environment);
    assert!(began.as_object_mut().unwrap().remove("frozen_weights").is_some());
    fs::write(&environment, began.to_string()).unwrap();
    recipe.finish("run");
}

#[test]
fn a_model_with_a_weight_that_is_not_finite_is_never_trained_nor_saved() {
    for (tensor, value) in [("model.norm.weight", f32::NAN), ("model.embed_tokens.weight", f32::INFINITY)] {
        let recipe = Recipe::new(&["iterations=1", "evaluation.generate_rows=0"]);
        spoil(&recipe.path("tiny"), tensor, value);
        let stderr = wait(recipe.start("run")).failed(5);
        assert!(stderr.contains("not finite"), "{tensor}: {stderr}");
        assert_eq!(files_of(&recipe.path("run/checkpoints")), Vec::<String>::new(), "{tensor}");
        assert!(!recipe.path("run/model").exists());
        // No number at all comes out of the first: its speed cannot be measured, so that the run does not begin.
        assert!(!value.is_nan() || !recipe.path("run").exists());
    }
}

#[test]
fn weights_to_decode_with_that_a_device_does_not_have_are_refused_before_anything_is_read() {
    if !cfg!(feature = "ndarray") {
        return say_skipped("16-bit weights on another device than flex", "this build has no ndarray");
    }
    let recipe = Recipe::new(&[]);
    let settings = ["--model", "tiny", "--data", "rows.jsonl", "--device", "ndarray", "generation.weights=bf16"];
    for command in [&["train", "--output", "run"][..], &["estimate", "--no-time"]] {
        let stderr = gsil(recipe.folder.path(), &[command, &settings].concat()).failed(2);
        assert!(stderr.contains("generation.weights: 16-bit copies of the weights are only there"), "{stderr}");
    }
    assert!(!recipe.path("run").exists());
}

#[test]
fn a_learning_rate_beyond_reason_stops_the_run_within_three_updates_and_the_checkpoint_is_intact() {
    let recipe =
        Recipe::new(&["iterations=1", "train.lr=1e9", "train.optimizer=sgd", "train.max_grad_norm=0", "save_every=1"]);
    let stderr = wait(recipe.start("run")).failed(5);
    assert!(stderr.contains("not finite") && stderr.contains("row"), "{stderr}");
    let hint = "hint: start a new run with a lower train.lr; the last checkpoint is intact";
    assert!(stderr.contains(hint), "{stderr}");
    let num_updates = fs::read_to_string(recipe.path("run/metrics.jsonl")).unwrap_or_default().lines().count();
    assert!(num_updates < 3, "{num_updates}");
    recipe.assert_checkpoints_verify("run");
    let again = wait(recipe.start("run")).failed(5);
    assert!(again.contains("continuing at iteration 0, update "), "{again}");
}

#[test]
fn a_rate_that_was_too_high_is_called_by_its_own_key() {
    let of_sft = ["sft.lr=1e30", "sft.optimizer=sgd", "sft.max_grad_norm=0"];
    let of_comparison = ["continued_sft_lr=1e30", "train.optimizer=sgd", "train.max_grad_norm=0", "train.epochs=1"];
    for (settings, key) in [(&of_sft[..], "sft.lr"), (&of_comparison, "continued_sft_lr")] {
        let stderr = wait(Recipe::new(&[settings, &["iterations=1"]].concat()).start("run")).failed(5);
        assert!(stderr.contains(&format!("hint: start a new run with a lower {key}; the last")), "{stderr}");
    }
}

#[test]
fn responses_that_are_all_empty_are_warned_of_and_stop_the_run_in_the_second_iteration() {
    let recipe = Recipe::with_long_responses(&["train.epochs=1"]);
    // Whatever token comes first ends its response.
    let vocabulary: Vec<u32> = (0..VOCAB_SIZE as u32).collect();
    tiny_model_with(recipe.folder.path(), &[("eos_token_id", json!(vocabulary))]);
    let first = wait(recipe.start("run")).failed(5);
    assert_eq!(first.matches("warning: 100% of the responses are empty: ").count(), 1, "{first}");
    let again = wait(recipe.start("run")).failed(5);
    assert!(again.contains("continuing at iteration 1, update 0"), "{again}");
    for stderr in [first, again] {
        let collapsed = "generation has collapsed: 100% of the responses are empty, as in the iteration before";
        assert!(stderr.contains(collapsed) && stderr.contains("the last checkpoint is intact"), "{stderr}");
    }
    // 30 rows in batches of 2: the first iteration was trained, the second was not.
    assert_eq!(read_json_lines(&recipe.path("run/metrics.jsonl")).len(), 15);
    let page = read(&recipe.path("run/report.html"));
    assert!(page.contains("Iteration 1: 30 of 30 responses are empty"), "the report is older than the error");
    recipe.assert_checkpoints_verify("run");
}

#[test]
fn log_ratios_that_explode_stop_the_run_though_every_number_is_finite() {
    let recipe =
        Recipe::new(&["iterations=1", "train.lr=30", "train.optimizer=sgd", "train.max_grad_norm=1", "save_every=1"]);
    let stderr = wait(recipe.start("run")).failed(5);
    assert!(
        stderr.contains("log-ratios have exploded: ") && stderr.contains("nats a token on average; rows "),
        "{stderr}"
    );
    assert!(stderr.contains("checkpoint is intact"), "{stderr}");
    recipe.assert_checkpoints_verify("run");
}

#[test]
fn the_report_of_a_run_that_diverged_says_so_and_has_the_updates_since_its_last_checkpoint() {
    // The run above, without a checkpoint on the way.
    let settings = ["train.lr=30", "train.optimizer=sgd", "train.max_grad_norm=1", "save_every=100"];
    let recipe = Recipe::new(&[&["iterations=1"], &settings[..]].concat());
    let stderr = wait(recipe.start("run")).failed(5);
    let num_updates = read_json_lines(&recipe.path("run/metrics.jsonl")).len();
    let last = format!("the last update recorded is {num_updates} (iteration 0, update {num_updates} of the stage)");
    let page = read(&recipe.path("run/report.html"));
    assert!(page.contains(&last), "{last}");
    assert!(page.contains("<span class=\"badge bad\">ended in an error</span>"), "{page}");
    let (_, told) = page.split_once("<h2>The run ended in an error</h2>").unwrap();
    let (told, _) = told.split_once("</section>").unwrap();
    let message = stderr.lines().find_map(|line| line.strip_prefix("error: ")).unwrap();
    let hint = stderr.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap();
    assert!(hint.contains("start a new run with a lower train.lr"), "{hint}");
    assert!(told.contains(message) && told.contains(&format!("<b>What helps:</b> {hint}</li>")), "{told}");
    let said = gsil(recipe.folder.path(), &["report", "run"]).succeeded().stderr;
    assert!(said.contains("the run ended in an error, ") && said.contains(&format!(": {message}\n")), "{said}");
    assert!(said.contains(&format!("what helps: {hint}\n")), "{said}");
}

#[test]
fn a_buffer_that_no_graphics_card_has_room_for_is_an_error_with_its_size_and_what_to_lower() {
    let Some(wgpu) = devices().iter().find(|device| !device.is_cpu()) else { return };
    // A cache takes 2 heads of 16 numbers of 4 bytes a token.
    const BYTES_PER_TOKEN: u64 = 128;
    let limit = gsil::device::adapter(&wgpu.name).unwrap().max_buffer_bytes;
    if limit > 8 << 30 {
        return say_skipped("a buffer that is too large", "the limit of this card lies beyond its memory");
    }
    let num_tokens = (limit / BYTES_PER_TOKEN + 1_000_000).to_string();
    let folder = tempdir().unwrap();
    tiny_model_with(folder.path(), &[("max_position_embeddings", json!(2_000_000_000))]);
    fs::write(folder.path().join("prompts.jsonl"), r#"{"prompt_ids": [5, 6, 7]}"#).unwrap();
    let arguments = ["generate", "--model", "tiny", "--data", "prompts.jsonl", "--device", &wgpu.name];
    let stderr = gsil(folder.path(), &[&arguments[..], &["--max-new-tokens", &num_tokens]].concat()).failed(4);
    assert!(stderr.contains("ran out of memory\ncan't allocate buffer of size: "), "{stderr}");
    assert!(stderr.contains("hint: fewer sequences at once") && !stderr.contains("gsil resume"), "{stderr}");
}

#[test]
fn a_reference_log_prob_that_is_beyond_a_float_stops_the_run_and_names_the_row() {
    let recipe = Recipe::new(&["iterations=1"]);
    // In the first of two epochs: the row comes again.
    recipe.interrupt("run", "metrics.jsonl", 3..15, "INT");
    let mut index = 0;
    edit_first_line(&recipe.path("run/iteration-000/demonstrations.jsonl"), |row| {
        row["reference_log_prob"] = json!(1e300);
        index = row["index"].as_u64().unwrap();
    });
    let before = files_of(&recipe.path("run/checkpoints"));
    let stderr = wait(recipe.start("run")).failed(5);
    assert!(stderr.contains(&format!("the loss is not finite; rows {index}, counted from 0\n")), "{stderr}");
    assert!(files_of(&recipe.path("run/checkpoints")).len() >= before.len());
    recipe.assert_checkpoints_verify("run");
}

/// The run folder that a version of the checkpoints wrote: an adapter, stopped in iteration 0 of 2 after 5 of its updates.
/// Version 2 has a supervised stage, the variance reduction and a comparison as well.
fn stored_run(version: u32, folder: &Path) {
    copy_folder(&fixture(&format!("run_version_{version}")), &folder.join("run"));
    let golden = text(fixture("golden")).replace('\\', "/"); // no escapes in RON and JSON
    for file in ["run/config.ron", "run/env.json"].map(|file| folder.join(file)) {
        fs::write(&file, read(&file).replace("GOLDEN", &golden)).unwrap();
    }
}

fn assert_goes_on_to_its_end(version: u32, num_updates: u64) {
    let folder = tempdir().unwrap();
    stored_run(version, folder.path());
    gsil(folder.path(), &["report", "run"]).succeeded();
    let resumed = gsil(folder.path(), &["resume", "run"]).succeeded();
    assert!(resumed.stderr.contains("continuing at iteration 0, update 5"), "{}", resumed.stderr);
    let run = folder.path().join("run");
    let updates: Vec<u64> =
        read_json_lines(&run.join("metrics.jsonl")).iter().map(|row| row["total_step"].as_u64().unwrap()).collect();
    assert_eq!(updates, (1..=num_updates).collect::<Vec<_>>());
    let newest = run.join("checkpoints").join(read(&run.join("latest")).trim());
    let state = read_json(&newest.join("state.json"));
    assert_eq!((&state["version"], &state["stage"]), (&json!(2), &json!("done")));
    gsil::train::manifest::verify(&newest).unwrap();
}

#[test]
fn a_run_of_checkpoint_version_1_goes_on_to_its_end() {
    assert_goes_on_to_its_end(1, 36);
}

#[test]
fn a_run_of_checkpoint_version_2_goes_on_to_its_end() {
    assert_goes_on_to_its_end(2, 2 + 2 * 6 + 2 * 6);
}

#[test]
fn a_damaged_run_of_checkpoint_version_1_is_refused_by_its_file() {
    let folder = tempdir().unwrap();
    stored_run(1, folder.path());
    let file = folder.path().join("run/checkpoints/step-000005-iteration-0/optimizer.safetensors");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let stderr = gsil(folder.path(), &["resume", "run"]).failed(3);
    assert!(stderr.contains("optimizer.safetensors"), "{stderr}");
}

#[test]
fn the_newest_and_the_best_checkpoints_are_kept() {
    let recipe = Recipe::new(&["keep_last=1", "keep_best=2"]);
    recipe.finish("run");
    let kept = files_of(&recipe.path("run/checkpoints"));
    let evaluations = read_json_lines(&recipe.path("run/evaluations.jsonl"));
    let mut log_probs: Vec<f64> =
        evaluations.iter().map(|row| row["evaluation"]["demonstration_log_prob_per_token"].as_f64().unwrap()).collect();
    log_probs.sort_by(f64::total_cmp);
    let mut expected = log_probs[log_probs.len() - 2..].to_vec();
    let state = |set: &String| read_json(&recipe.path("run/checkpoints").join(set).join("state.json"));
    let mut held: Vec<f64> = kept.iter().filter_map(|set| state(set)["held_out_log_prob"].as_f64()).collect();
    held.sort_by(f64::total_cmp);
    expected.retain(|log_prob| held.contains(log_prob));
    assert_eq!(expected.len(), 2, "the two best are there: {held:?} of {log_probs:?}");
    assert!(kept.iter().any(|set| state(set)["stage"] == "done"), "{kept:?}");
    assert!(kept.len() <= 3, "{kept:?}");
    write_rows(&recipe.path("rows.jsonl"), 1); // nothing is read any more
    gsil(recipe.folder.path(), &["resume", "run"]).succeeded();
}
