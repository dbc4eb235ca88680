//! A run that is stopped or killed and continued makes the same bytes as one that was left alone.
#![cfg(unix)]

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::support::binary::{
    Outcome, Random, command, ending_model, gsil, read, read_json, read_json_lines, text, tiny_model_with, wait,
    write_rows,
};

const NUM_ROWS: usize = 30;
/// A watched run that is not where it is waited for after this time hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// The program may be faster than the signal: then the run is tried again.
const NUM_TRIES: usize = 5;

/// A run's input and settings. Its runs differ in nothing but what happens to them.
struct Recipe {
    folder: TempDir,
    overrides: Vec<&'static str>,
}

impl Recipe {
    fn new(overrides: &[&'static str]) -> Self {
        let recipe = Recipe::with_long_responses(overrides);
        ending_model(recipe.folder.path());
        recipe
    }

    /// Nearly every response is as long as it may be, and they are written one after the other: generation takes long.
    fn with_long_responses(overrides: &[&'static str]) -> Self {
        let folder = tempdir().unwrap();
        tiny_model_with(folder.path(), &[]);
        write_rows(&folder.path().join("rows.jsonl"), NUM_ROWS);
        write_rows(&folder.path().join("held_out.jsonl"), 4);
        Recipe { folder, overrides: overrides.to_vec() }
    }

    fn path(&self, run: &str) -> PathBuf {
        self.folder.path().join(run)
    }

    /// Starts the run, or continues it where there is one.
    fn start(&self, run: &str) -> Child {
        let path = self.folder.path();
        if self.path(run).join("config.ron").exists() {
            return command(path, &["resume", run]).spawn().unwrap();
        }
        let mut arguments =
            vec!["train", "--model", "tiny", "--data", "rows.jsonl", "--device", "flex", "--output", run];
        arguments.extend([
            "evaluation.data=held_out.jsonl",
            "iterations=2",
            "save_every=4",
            "generation.max_new_tokens=12",
            "generation.batch_size=4",
            "generation.unfinished=mask",
            "train.batch_size=2",
            "train.epochs=2",
            "train.lr=1e-3",
            "train.optimizer=adamw",
        ]);
        arguments.extend(&self.overrides);
        command(path, &arguments).spawn().unwrap()
    }

    /// Runs to the end, from wherever the run stands.
    fn finish(&self, run: &str) -> Outcome {
        wait(self.start(run)).succeeded()
    }

    /// Starts the run and sends it a signal when its file `watched` has `num_lines.start` lines. What it then says, once it
    /// stopped before the file had `num_lines.end` lines.
    fn interrupt(&self, run: &str, watched: &str, num_lines: Range<usize>, signal: &str) -> Outcome {
        let watched = self.path(run).join(watched);
        let count = || fs::read_to_string(&watched).unwrap_or_default().lines().count();
        for _ in 0..NUM_TRIES {
            let _ = fs::remove_dir_all(self.path(run));
            let mut child = self.start(run);
            let started = Instant::now();
            while count() < num_lines.start {
                assert!(started.elapsed() < PATIENCE, "{} never had {num_lines:?} lines", watched.display());
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            send(&child, signal);
            let outcome = wait(child);
            if outcome.code != Some(0) && num_lines.contains(&count()) {
                return outcome;
            }
        }
        panic!("{}: the signal came later than at {num_lines:?} lines, {NUM_TRIES} times", watched.display());
    }

    /// Stops the run at random moments, each time continuing it, then lets it finish. How often it was stopped.
    fn harass(&self, run: &str, undisturbed: Duration, signal: &str, random: &mut Random) -> usize {
        const NUM_SIGNALS: usize = 6;
        let mut num_stopped = 0;
        for _ in 0..NUM_SIGNALS {
            let child = self.start(run);
            std::thread::sleep(undisturbed.mul_f64(random.uniform() / 2.0));
            send(&child, signal);
            num_stopped += usize::from(wait(child).code != Some(0));
        }
        self.finish(run);
        num_stopped
    }

    /// The two runs made the same model and logged the same figures.
    #[track_caller]
    fn assert_same(&self, expected: &str, actual: &str) {
        let (figures, others) = (figures(&self.path(expected)), figures(&self.path(actual)));
        let steps = |rows: &[Value]| rows.iter().map(|row| row["total_step"].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!(steps(&others), steps(&figures), "every update is logged once, in order");
        for (other, figures) in others.iter().zip(&figures) {
            assert_eq!(other, figures);
        }
        for file in ["evaluations.jsonl", "self_generation.jsonl", "held_out.jsonl"] {
            assert_eq!(read(&self.path(actual).join(file)), read(&self.path(expected).join(file)), "{file}");
        }
        for iteration in ["iteration-000", "iteration-001"] {
            let responses = |run: &str| sorted_lines(&self.path(run).join(iteration).join("self_generated.jsonl"));
            assert_eq!(responses(actual), responses(expected), "{iteration}");
        }
        let bytes = |run: &str| fs::read(self.path(run).join("model/model.safetensors")).unwrap();
        assert!(bytes(expected) == bytes(actual), "the models differ");
    }
}

/// `metrics.jsonl` without what depends on the clock.
fn figures(run: &Path) -> Vec<Value> {
    let mut rows = read_json_lines(&run.join("metrics.jsonl"));
    for row in &mut rows {
        let row = row.as_object_mut().unwrap();
        row.retain(|key, _| key != "seconds" && key != "tokens_per_s");
    }
    rows
}

fn sorted_lines(path: &Path) -> Vec<String> {
    let mut lines: Vec<String> = read(path).lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// Sends a signal; a process that has ended is left alone.
fn send(child: &Child, signal: &str) {
    Command::new("kill").args(["-s", signal, &child.id().to_string()]).output().unwrap();
}

#[track_caller]
fn assert_stopped(outcome: &Outcome, code: i32) {
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("after saving"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: continue with `gsil resume"), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
}

#[test]
fn a_run_stopped_in_training_resumes_to_the_same_bytes() {
    let recipe = Recipe::new(&[]);
    recipe.finish("alone");
    // 30 updates an iteration; a checkpoint every 4: 6 lies between two.
    let stopped = recipe.interrupt("stopped", "metrics.jsonl", 6..30, "INT");
    assert_stopped(&stopped, 130);
    let resumed = recipe.finish("stopped");
    assert!(resumed.stderr.contains("continuing at iteration 0, update "), "{}", resumed.stderr);
    recipe.assert_same("alone", "stopped");
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
fn a_run_killed_at_random_moments_resumes_to_the_same_bytes() {
    for (seed, overrides) in [(1, &[][..]), (2, &["sft.lr=1e-3", "sft.batch_size=4", "continued_sft_lr=1e-3"])] {
        let recipe = Recipe::new(overrides);
        let started = Instant::now();
        recipe.finish("alone");
        let num_killed = recipe.harass("killed", started.elapsed(), "KILL", &mut Random(seed));
        assert!(num_killed >= 1, "no kill came in time");
        recipe.assert_same("alone", "killed");
    }
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
fn a_small_quickstart_killed_at_random_moments_resumes_to_the_same_bytes() {
    let folder = tempdir().unwrap();
    let overrides = [
        "word_problems.num_train=40",
        "word_problems.num_test=8",
        "evaluation.generate_rows=4",
        "iterations=1",
        "sft.epochs=1",
        "sft.batch_size=10",
        "sft.micro_batch_size=10",
        "train.batch_size=10",
        "train.micro_batch_size=10",
        "save_every=1",
        "generation.unfinished=mask",
        "generation.batch_size=10",
        "device=flex",
    ];
    let start = |run: &str| match folder.path().join(run).join("config.ron").exists() {
        true => command(folder.path(), &["resume", run]).spawn().unwrap(),
        false => command(folder.path(), &[&["train", "--output", run], &overrides[..]].concat()).spawn().unwrap(),
    };
    let started = Instant::now();
    wait(start("alone")).succeeded();
    let undisturbed = started.elapsed();
    let mut random = Random(4);
    for _ in 0..4 {
        let child = start("killed");
        std::thread::sleep(undisturbed.mul_f64(random.uniform() / 2.0));
        send(&child, "KILL");
        wait(child);
    }
    wait(start("killed")).succeeded();
    for file in ["model/model.safetensors", "evaluations.jsonl", "task/train.jsonl", "task/model/model.safetensors"] {
        let bytes = |run: &str| fs::read(folder.path().join(run).join(file)).unwrap();
        assert!(bytes("alone") == bytes("killed"), "{file}");
    }
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
    assert!(stderr.contains("hint: resume with the gsil that wrote it"), "{stderr}");
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let recipe = Recipe::new(&["iterations=1"]);
    recipe.interrupt("run", "metrics.jsonl", 6..30, "INT");
    let run = recipe.path("run");
    let checkpoint = run.join("checkpoints").join(read(&run.join("latest")).trim());
    for file in ["optimizer.safetensors", "parameters.safetensors", "state.json"] {
        let whole = fs::read(checkpoint.join(file)).unwrap();
        fs::write(checkpoint.join(file), &whole[..whole.len() / 2]).unwrap();
        let stderr = gsil(recipe.folder.path(), &["resume", "run"]).failed(3);
        assert!(stderr.contains(file), "{stderr}");
        fs::write(checkpoint.join(file), whole).unwrap();
    }
    recipe.finish("run");
}
