//! A run that is stopped or killed and continued makes the same bytes as one that was left alone.
#![cfg(unix)]

use std::fs;
use std::time::Instant;

use serde_json::json;
use tempfile::tempdir;

use gsil::report::console::Console;
use gsil::train::changes::Changes;
use gsil::train::setup::Run;

use crate::support::binary::{Random, gsil, read, read_json, read_json_lines, text, text_model, write_rows};
use crate::support::devices::devices;
use crate::support::recipe::{NUM_ROWS, Recipe, assert_stopped, copy_folder, edit_first_line, files_of};

#[test]
fn a_run_stopped_in_training_resumes_to_the_same_bytes() {
    let recipe = Recipe::new(&[]);
    recipe.finish("alone");
    // 30 updates an iteration; a checkpoint every 4: 6 lies between two.
    let stopped = recipe.interrupt("stopped", "metrics.jsonl", 6..30, "INT");
    assert_stopped(&stopped, 130);
    let resumed = recipe.finish("stopped");
    let (_, update) = resumed.stderr.split_once("continuing at iteration 0, update ").expect(&resumed.stderr);
    let before = format!(" ({} done before)", update.lines().next().unwrap());
    let trained = resumed.stderr.lines().find(|line| line.contains("training 30 of 30 updates in ")).unwrap();
    assert!(trained.ends_with(&before), "{}", resumed.stderr);
    recipe.assert_same("alone", "stopped");
}

#[test]
fn what_ended_a_run_stands_in_its_report_until_the_run_is_gone_on_with() {
    let recipe = Recipe::new(&["iterations=1", "train.epochs=1", "evaluation.generate_rows=2"]);
    assert_stopped(&recipe.interrupt("run", "metrics.jsonl", 3..15, "TERM"), 143);
    let page = read(&recipe.path("run/report.html"));
    let told =
        ["<span class=\"badge bad\">stopped</span>", "<h2>The run was stopped</h2>", "stopped by signal 15 after"];
    told.iter().for_each(|text| assert!(page.contains(text), "{text}: {page}"));
    assert!(page.contains("<b>To go on:</b> gsil resume run</li>"), "{page}");
    let said = |verb: &[&str]| gsil(recipe.folder.path(), verb).succeeded().stderr;
    let report = said(&["report", "run"]);
    assert!(report.starts_with("the run was stopped, ") && report.ends_with("to go on: gsil resume run\n"), "{report}");

    // What cannot be resumed yet ended as it did.
    fs::rename(recipe.path("tiny"), recipe.path("moved")).unwrap();
    gsil(recipe.folder.path(), &["resume", "run"]).failed(3);
    assert_eq!(said(&["report", "run"]), report);
    fs::rename(recipe.path("moved"), recipe.path("tiny")).unwrap();
    recipe.finish("run");
    assert!(!recipe.path("run/ended.json").exists());
    let page = read(&recipe.path("run/report.html"));
    assert!(page.contains("badge good") && !told.iter().any(|text| page.contains(text)), "{page}");
    assert_eq!(said(&["report", "run"]), "");
}

#[test]
fn a_run_stopped_in_generation_resumes_to_the_same_bytes() {
    let one_by_one = ["train.epochs=1", "generation.batch_size=1", "generation.max_new_tokens=100"];
    let recipe = Recipe::with_long_responses(&one_by_one);
    recipe.finish("alone");
    for (watched, first) in [("iteration-000/self_generated.jsonl", 1), ("iteration-001/self_generated.jsonl", 6)] {
        let stopped = recipe.interrupt("stopped", watched, first..NUM_ROWS, "TERM");
        assert_stopped(&stopped, 143);
        recipe.finish("stopped");
        recipe.assert_same("alone", "stopped");
    }
}

#[test]
fn responses_that_a_stopped_run_wrote_are_kept_and_only_the_others_are_generated() {
    let recipe = Recipe::with_long_responses(&["iterations=1", "train.epochs=1", "generation.batch_size=1"]);
    let watched = "iteration-000/self_generated.jsonl";
    assert_stopped(&recipe.interrupt("run", watched, 1..NUM_ROWS, "TERM"), 143);
    let file = recipe.path("run").join(watched);
    // A text that no policy gives shows that the line was kept.
    edit_first_line(&file, |row| row["response_text"] = json!("kept"));
    let kept = read_json_lines(&file);
    let num_open = NUM_ROWS - kept.len();
    let stderr = recipe.finish("run").stderr;
    assert!(stderr.contains(&format!("generating {num_open} of {num_open} response")), "{stderr}");
    let all = read_json_lines(&file);
    assert_eq!((all.len(), &all[..kept.len()]), (NUM_ROWS, &kept[..]));
}

#[test]
fn scores_that_a_stopped_run_wrote_are_kept_and_the_others_have_the_same_last_digits() {
    let reduced = "objective.variance_reduction=top_k(4)";
    let recipe = Recipe::with_long_responses(&[reduced, "iterations=1", "generation.batch_size=1"]);
    recipe.finish("alone");
    let stopped = recipe.interrupt("stopped", "iteration-000/self_generated.jsonl", 1..NUM_ROWS, "TERM");
    assert_stopped(&stopped, 143);
    let file = |run: &str, name: &str| recipe.path(run).join("iteration-000").join(name);
    let kept = [
        ("demonstrations.jsonl", "demonstrations.part.jsonl", "/reference_log_prob"),
        ("distributions.jsonl", "distributions.jsonl", "/log_probs/0"),
    ];
    // The first lines of the other run, one with a figure that shows that it was kept, one torn.
    let marked = |name: &str, figure: &str| {
        let mut rows = read_json_lines(&file("alone", name));
        *rows[2].pointer_mut(figure).unwrap() = json!(-7.25);
        rows
    };
    for (name, part, figure) in kept {
        let lines: String = marked(name, figure)[..7].iter().map(|row| format!("{row}\n")).collect();
        fs::write(file("stopped", part), lines + "{\"ind").unwrap();
    }
    recipe.finish("stopped");
    for (name, _, figure) in kept {
        assert_eq!(read_json_lines(&file("stopped", name)), marked(name, figure), "{name}");
    }
    assert!(!file("stopped", "demonstrations.part.jsonl").exists());
}

#[test]
fn a_run_of_all_stages_stopped_in_each_of_them_resumes_to_the_same_bytes() {
    let recipe = Recipe::new(&["sft.lr=1e-3", "sft.batch_size=2", "continued_sft_lr=1e-3", "train.epochs=1"]);
    recipe.finish("alone");
    // 15 updates of the supervised stage, 15 in each iteration, 30 of the comparison.
    for num_updates in [3..15, 21..30, 37..45, 50..75] {
        let stopped = recipe.interrupt("stopped", "metrics.jsonl", num_updates, "INT");
        assert_stopped(&stopped, 130);
        recipe.finish("stopped");
        recipe.assert_same("alone", "stopped");
    }
}

#[test]
fn an_adapter_stopped_in_training_resumes_to_the_same_bytes() {
    let recipe = Recipe::new(&["lora.rank=2", "train.epochs=1", "continued_sft_lr=1e-3"]);
    recipe.finish("alone");
    for num_updates in [6..15, 40..60] {
        assert_stopped(&recipe.interrupt("stopped", "metrics.jsonl", num_updates, "INT"), 130);
        recipe.finish("stopped");
        recipe.assert_same("alone", "stopped");
    }
}

#[test]
fn on_a_graphics_card_a_stopped_run_resumes_to_the_same_figures_within_a_thousandth() {
    let Some(wgpu) = devices().iter().find(|device| !device.is_cpu()) else { return };
    let mut recipe = Recipe::new(&["iterations=1", "train.epochs=1", "evaluation.generate_rows=2"]);
    recipe.device = &wgpu.name;
    // In one process: a driver in software takes a minute or more to compile the kernels of each.
    let (run, model) = Run::start(recipe.config(), &recipe.path("alone"), Console::stderr()).unwrap();
    run.train(model).unwrap();

    // As a crash after the eighth update leaves it, with a mark in what must be gone on with.
    copy_folder(&recipe.path("alone"), &recipe.path("stopped"));
    fs::remove_dir_all(recipe.path("stopped/model")).unwrap();
    let checkpoints = recipe.path("stopped/checkpoints");
    for later in files_of(&checkpoints).into_iter().filter(|name| name.as_str() > "step-000009") {
        fs::remove_dir_all(checkpoints.join(later)).unwrap();
    }
    assert_eq!(recipe.newest_checkpoint("stopped").unwrap().total_steps, 8);
    edit_first_line(&recipe.path("stopped/metrics.jsonl"), |update| update["tokens_per_s"] = json!(-1.0));
    let (run, model) = Run::resume(&recipe.path("stopped"), &Changes::default(), Console::stderr()).unwrap();
    run.train(model).unwrap();
    assert_eq!(read_json_lines(&recipe.path("stopped/metrics.jsonl"))[0]["tokens_per_s"], json!(-1.0));
    recipe.assert_close("alone", "stopped", 1e-3);
}

#[test]
fn lines_that_a_crash_left_beyond_the_checkpoint_are_replaced() {
    let recipe = Recipe::new(&["train.epochs=1"]);
    recipe.finish("alone");
    recipe.interrupt("stopped", "metrics.jsonl", 3..15, "INT");
    let run = recipe.path("stopped");
    let append = |name: &str, lines: &str| {
        let path = run.join(name);
        fs::write(&path, read(&path) + lines).unwrap();
    };
    // As a crash between evaluation and checkpoint leaves them, with figures that show if they stay; one line is torn.
    let next = read_json_lines(&run.join("metrics.jsonl")).len() + 1;
    append(
        "metrics.jsonl",
        &format!("{{\"stage\":\"iteration 0\",\"total_step\":{next},\"loss\":1000}}\n{{\"stage\":\"iter"),
    );
    let mut evaluated = read_json_lines(&recipe.path("alone").join("evaluations.jsonl"))[1].clone();
    assert_eq!(evaluated["stage"], "iteration 0");
    evaluated["evaluation"]["demonstration_log_prob_per_token"] = json!(-1000.0);
    append("evaluations.jsonl", &format!("{evaluated}\n"));
    recipe.finish("stopped");
    recipe.assert_same("alone", "stopped");
}

#[test]
fn a_run_asked_to_stop_at_random_moments_resumes_to_the_same_bytes() {
    let recipe = Recipe::new(&["sft.lr=1e-3", "sft.batch_size=4", "continued_sft_lr=1e-3", "evaluation.sampled=true"]);
    let started = Instant::now();
    recipe.finish("alone");
    let num_stopped = recipe.harass("stopped", started.elapsed(), "TERM", &mut Random(3));
    assert!(num_stopped >= 1, "no signal came in time");
    recipe.assert_same("alone", "stopped");
}

#[test]
fn resuming_a_finished_run_says_so_and_shows_its_results_again() {
    let recipe = Recipe::new(&["iterations=1"]);
    let finished = recipe.finish("run");
    let before = fs::metadata(recipe.path("run").join("model/model.safetensors")).unwrap().modified().unwrap();
    fs::remove_file(recipe.path("rows.jsonl")).unwrap(); // nothing is needed any more
    let again = gsil(recipe.folder.path(), &["resume", "run"]).succeeded();
    assert!(again.stderr.contains("this run is finished"), "{}", again.stderr);
    assert_eq!(again.stdout, finished.stdout);
    let after = fs::metadata(recipe.path("run").join("model/model.safetensors")).unwrap().modified().unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_run_is_resumed_from_another_folder() {
    let recipe = Recipe::new(&["iterations=1"]);
    recipe.interrupt("run", "metrics.jsonl", 3..15, "INT");
    let elsewhere = tempdir().unwrap();
    gsil(elsewhere.path(), &["resume", &text(recipe.path("run"))]).succeeded();
    assert!(recipe.path("run").join("model/model.safetensors").exists());
}

#[test]
fn what_somebody_else_keeps_in_a_run_folder_is_no_hindrance_and_stays() {
    let recipe = Recipe::new(&["iterations=1"]);
    recipe.interrupt("run", "metrics.jsonl", 3..15, "INT");
    let kept = ["iteration-notes.md", "iteration-7/thesis.txt"].map(|name| recipe.path("run").join(name));
    fs::create_dir(kept[1].parent().unwrap()).unwrap();
    kept.iter().for_each(|path| fs::write(path, "mine").unwrap());
    gsil(recipe.folder.path(), &["resume", "run"]).succeeded();
    kept.iter().for_each(|path| assert_eq!(fs::read_to_string(path).unwrap(), "mine"));
}

#[test]
fn a_run_whose_data_changed_is_refused() {
    let recipe = Recipe::new(&[]);
    let stopped = recipe.interrupt("run", "metrics.jsonl", 3..15, "INT");
    assert_stopped(&stopped, 130);
    write_rows(&recipe.path("rows.jsonl"), NUM_ROWS - 1);
    let refused = gsil(recipe.folder.path(), &["resume", "run"]);
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("not those that the run began with"), "{}", refused.stderr);
}

#[test]
fn a_checkpoint_of_a_newer_version_is_refused() {
    let recipe = Recipe::new(&["iterations=1"]);
    recipe.interrupt("run", "metrics.jsonl", 6..30, "INT");
    let run = recipe.path("run");
    let state = run.join("checkpoints").join(read(&run.join("latest")).trim()).join("state.json");
    let mut newer = read_json(&state);
    newer["version"] = json!(newer["version"].as_u64().unwrap() + 1);
    fs::write(&state, newer.to_string()).unwrap();
    let stderr = gsil(recipe.folder.path(), &["resume", "run"]).failed(3);
    assert!(stderr.contains("state.json") && stderr.contains("is newer than this program's"), "{stderr}");
    assert!(stderr.contains("hint: use the gsil that wrote it"), "{stderr}");
}

#[test]
fn a_damaged_checkpoint_is_named_and_an_older_one_takes_its_place() {
    let recipe = Recipe::new(&["iterations=1"]);
    recipe.finish("alone");
    for file in ["optimizer.safetensors", "parameters.safetensors", "state.json", "MANIFEST"] {
        let folder = recipe.path("run");
        recipe.interrupt("run", "metrics.jsonl", 6..30, "INT");
        let damaged = folder.join("checkpoints").join(read(&folder.join("latest")).trim()).join(file);
        let whole = fs::read(&damaged).unwrap();
        fs::write(&damaged, &whole[..whole.len() / 2]).unwrap();
        let resumed = recipe.finish("run");
        assert!(resumed.stderr.contains("warning: a checkpoint is damaged: "), "{}", resumed.stderr);
        assert!(resumed.stderr.contains(file), "{}", resumed.stderr);
        assert!(resumed.stderr.contains("warning: falling back to an older checkpoint"), "{}", resumed.stderr);
        recipe.assert_same("alone", "run");
    }
}

#[test]
fn a_run_without_a_whole_checkpoint_is_refused() {
    let recipe = Recipe::new(&["iterations=1"]);
    recipe.interrupt("run", "metrics.jsonl", 6..30, "INT");
    let checkpoints = recipe.path("run").join("checkpoints");
    for set in files_of(&checkpoints) {
        fs::write(checkpoints.join(set).join("parameters.safetensors"), "").unwrap();
    }
    let stderr = gsil(recipe.folder.path(), &["resume", "run"]).failed(3);
    assert!(stderr.contains("parameters.safetensors: is damaged"), "{stderr}");
    assert!(stderr.contains("hint: no checkpoint of this run is whole"), "{stderr}");
}

#[test]
fn a_run_whose_checkpoints_were_removed_loses_nothing_more() {
    let recipe = Recipe::new(&["iterations=1"]);
    recipe.interrupt("run", "metrics.jsonl", 6..30, "INT");
    let kept = ["metrics.jsonl", "held_out.jsonl", "iteration-000/self_generated.jsonl", "evaluations.jsonl"];
    let contents = || kept.map(|name| read(&recipe.path("run").join(name)));
    let before = contents();
    fs::remove_dir_all(recipe.path("run/checkpoints")).unwrap();
    let stderr = gsil(recipe.folder.path(), &["resume", "run"]).failed(3);
    assert!(stderr.contains("its checkpoints are gone") && stderr.contains("hint: restore the newest"), "{stderr}");
    assert_eq!(contents(), before);

    let finished = recipe.finish("finished");
    fs::remove_dir_all(recipe.path("finished/checkpoints")).unwrap();
    let again = gsil(recipe.folder.path(), &["resume", "finished"]).succeeded();
    assert!(again.stderr.contains("this run is finished"), "{}", again.stderr);
    assert_eq!(again.stdout, finished.stdout);
}

#[test]
fn a_run_without_a_named_device_keeps_the_one_that_it_began_on() {
    let mut recipe = Recipe::new(&["iterations=1", "train.epochs=1"]);
    recipe.device = "auto";
    recipe.finish("run");
    let config = read(&recipe.path("run/config.ron"));
    let begun_on = gsil::device::resolve_name("auto");
    assert!(config.contains(&format!("device: \"{begun_on}\"")), "{config}");
    assert_eq!(read_json(&recipe.path("run/env.json"))["device"], begun_on);
}

#[test]
fn a_run_keeps_the_date_that_its_chat_template_printed_when_it_began() {
    let recipe = Recipe::with_long_responses(&["iterations=1"]);
    let model = text_model(&recipe.path(""));
    fs::remove_dir_all(recipe.path("tiny")).unwrap();
    fs::rename(&model, recipe.path("tiny")).unwrap();
    let template = recipe.path("tiny/chat_template.jinja");
    fs::write(&template, format!("{{{{ strftime_now('%Y-%m-%d') }}}} {}", read(&template))).unwrap();
    let rows = (0..NUM_ROWS).map(|i| json!({"prompt": format!("a {i}"), "response": "b"}).to_string() + "\n");
    fs::write(recipe.path("rows.jsonl"), rows.collect::<String>()).unwrap();
    fs::copy(recipe.path("rows.jsonl"), recipe.path("held_out.jsonl")).unwrap();
    let stopped = recipe.interrupt("run", "iteration-000/self_generated.jsonl", 1..NUM_ROWS, "TERM");
    assert_stopped(&stopped, 143);
    let config = read(&recipe.path("run/config.ron"));
    assert!(config.contains("template_date: \"20"), "{config}");
    // As if the run had begun on another day: the prompts of that day are the ones that its rows are known by.
    let other_day = ["train", "--model", "tiny", "--data", "rows.jsonl", "--output", "other", "--device", "flex"];
    let settings = ["template_date=2020-02-29T23:59:59", "iterations=1", "generation.max_new_tokens=4"];
    let arguments = [&other_day[..], &settings, &["generation.unfinished=mask", "train.batch_size=2"]].concat();
    gsil(recipe.folder.path(), &arguments).succeeded();
    let about = read(&recipe.path("other/about.json"));
    assert!(about.contains("2020-02-29"), "{about}");
    let pairs = ["export", "other", "--format", "pairs", "--output", "pairs"];
    gsil(recipe.folder.path(), &pairs).succeeded();
    let refused = gsil(recipe.folder.path(), &["resume", "run", "template_date=2020-02-29T23:59:59"]);
    assert!(refused.stderr.contains("template_date"), "{}", refused.stderr);
    recipe.finish("run");
}

#[test]
fn a_run_whose_model_and_data_were_moved_goes_on_once_it_is_told_where_they_are() {
    let recipe = Recipe::new(&["iterations=1"]);
    recipe.finish("alone");
    assert_stopped(&recipe.interrupt("run", "metrics.jsonl", 6..30, "INT"), 130);
    for (old, new) in [("tiny", "moved"), ("rows.jsonl", "moved.jsonl"), ("held_out.jsonl", "moved_held_out.jsonl")] {
        fs::rename(recipe.path(old), recipe.path(new)).unwrap();
    }
    let resume = |more: &[&str]| gsil(recipe.folder.path(), &[&["resume", "run"], more].concat());
    let stderr = resume(&[]).failed(3);
    assert!(stderr.contains("tiny: is not there any more; the run began with it as `model`"), "{stderr}");
    assert!(stderr.contains("hint: if it was moved: gsil resume run model=NEW_PLACE"), "{stderr}");

    let places = ["model=moved", "data=moved.jsonl"];
    let stderr = resume(&[&places[..], &["evaluation.data=moved.jsonl"]].concat()).failed(3);
    assert!(stderr.contains("the held-out rows are not those that the run began with"), "{stderr}");
    resume(&[&places[..], &["evaluation.data=moved_held_out.jsonl"]].concat()).succeeded();
    let config = read(&recipe.path("run/config.ron"));
    let place = |name: &str| format!("{:?}", dunce::canonicalize(recipe.path(name)).unwrap());
    for name in ["moved", "moved.jsonl", "moved_held_out.jsonl"] {
        assert!(config.contains(&place(name)), "{config}");
    }
    let model = |run: &str| fs::read(recipe.path(run).join("model/model.safetensors")).unwrap();
    assert!(model("run") == model("alone"));
}
