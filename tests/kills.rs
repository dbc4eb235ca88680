//! Real processes that are killed, stopped, locked out: what they leave is whole, and ends in the same bytes.
#![cfg(unix)]

use std::fs;
use std::time::{Duration, Instant};

use gsil::train::checkpoint::Progress;
use tempfile::tempdir;

use crate::support::binary::{Outcome, Random, command, gsil, read, say_skipped, wait};
use crate::support::devices::cpu_backends;
use crate::support::recipe::{NUM_ROWS, Recipe, SAVE_EVERY, assert_stopped, send, wait_until};

/// `GSIL_KILLS=1000` for a long run.
fn num_kills() -> usize {
    std::env::var("GSIL_KILLS").map_or(25, |count| count.parse().expect("GSIL_KILLS is a number"))
}

/// Kills the run at random moments until it was killed `num_kills` times, beginning a new one where it ended first; then
/// lets it finish. After every kill every checkpoint verifies, the newest lacks at most `save_every` updates, and it is the one
/// that the run continues from.
fn kill(recipe: &Recipe, num_kills: usize, undisturbed: Duration, random: &mut Random) {
    let (mut num_killed, mut num_runs) = (0, 0);
    while num_killed < num_kills {
        let run = format!("killed-{num_runs}");
        let newest = recipe.newest_checkpoint(&run);
        let mut child = recipe.start(&run);
        let end = Instant::now() + undisturbed.mul_f64(random.uniform() / 2.0);
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        send(&child, "KILL");
        let outcome = wait(child);
        recipe.assert_checkpoints_verify(&run);
        assert_at_most_save_every_lost(recipe, &run);
        assert_continued_at(newest.as_ref(), &outcome);
        match outcome.code {
            None => num_killed += 1,
            Some(code) => {
                assert_eq!(code, 0, "{}", outcome.stderr);
                recipe.assert_same("alone", &run);
                num_runs += 1;
            }
        }
    }
    let last = format!("killed-{num_runs}");
    let newest = recipe.newest_checkpoint(&last);
    assert_continued_at(newest.as_ref(), &recipe.finish(&last));
    recipe.assert_checkpoints_verify(&last);
    recipe.assert_same("alone", &last);
}

/// The updates that were made, which are the whole lines of `metrics.jsonl`, against those that are saved.
#[track_caller]
fn assert_at_most_save_every_lost(recipe: &Recipe, run: &str) {
    let num_made = read_or_empty(recipe, &format!("{run}/metrics.jsonl")).matches('\n').count();
    let num_saved = recipe.newest_checkpoint(run).map_or(0, |newest| newest.total_steps);
    assert!(num_saved + SAVE_EVERY >= num_made, "{num_made} updates were made, {num_saved} are saved");
}

/// A process that came so far as to say where it continues did so at the checkpoint that was the newest.
#[track_caller]
fn assert_continued_at(newest: Option<&Progress>, outcome: &Outcome) {
    if let Some(said) = outcome.stderr.lines().find(|line| line.starts_with("continuing at ")) {
        let newest = newest.expect("there is no checkpoint");
        assert_eq!(said, format!("continuing at {}, update {}", newest.stage, newest.stage_steps));
    }
}

#[test]
fn a_run_killed_at_random_moments_resumes_to_the_same_bytes() {
    let stages = ["sft.lr=1e-3", "sft.batch_size=4", "continued_sft_lr=1e-3", "train.micro_batch_size=1"];
    let cases = [(1, &[][..], num_kills() - num_kills() / 2), (2, &stages, num_kills() / 2)];
    for (seed, overrides, num_kills) in cases {
        let recipe = Recipe::new(overrides);
        let started = Instant::now();
        recipe.finish("alone");
        kill(&recipe, num_kills, started.elapsed(), &mut Random(seed));
    }
}

#[test]
fn on_every_cpu_backend_and_with_one_and_two_threads_a_stopped_run_resumes_to_the_same_bytes() {
    for device in cpu_backends() {
        for num_threads in ["1", "2"] {
            let mut recipe = Recipe::new(&["train.epochs=1", "train.micro_batch_size=1"]);
            (recipe.device, recipe.num_threads) = (device, Some(num_threads));
            recipe.finish("alone");
            recipe.finish("again");
            recipe.assert_same("alone", "again");
            for num_updates in [2..15, 17..30] {
                recipe.interrupt("stopped", "metrics.jsonl", num_updates, "KILL");
                recipe.finish("stopped");
                recipe.assert_same("alone", "stopped");
            }
        }
    }
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
fn a_second_process_is_refused_at_once_and_a_killed_holder_leaves_no_lock() {
    let recipe = Recipe::with_long_responses(&["generation.max_new_tokens=200", "generation.samples_per_prompt=20"]);
    let mut holder = recipe.start("run");
    let written = recipe.path("run/iteration-000/self_generated.jsonl");
    wait_until(&mut holder, "the first response", || written.exists());
    let started = Instant::now();
    let stderr = gsil(recipe.folder.path(), &["resume", "run"]).failed(7);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let host = String::from_utf8(std::process::Command::new("uname").arg("-n").output().unwrap().stdout).unwrap();
    let who = format!("process {} on {}", holder.id(), host.trim());
    assert!(stderr.contains(&who), "{who}: {stderr}");
    send(&holder, "KILL");
    holder.wait().unwrap();
    let mut next = recipe.start("run");
    let id = next.id().to_string();
    wait_until(&mut next, "its name in the lock of a dead holder", || read(&recipe.path("run/.lock")).contains(&id));
    send(&next, "KILL");
    next.wait().unwrap();
}

#[test]
fn a_second_ctrl_c_ends_the_process_at_once_and_the_run_goes_on_but_a_second_sigterm_waits() {
    // All pairs in one update, pair by pair: it takes long enough for two signals. Of six, should this test be late to see
    // that training has begun.
    let one_update =
        ["generation.samples_per_prompt=20", "train.batch_size=600", "train.micro_batch_size=1", "iterations=1"];
    let recipe = Recipe::new(&[&one_update[..], &["train.epochs=6"]].concat());
    recipe.finish("alone");
    let bytes = |run: &str| fs::read(recipe.path(run).join("model/model.safetensors")).unwrap();
    for (signal, code, is_saved) in [("INT", 130, false), ("TERM", 143, true)] {
        let mut child = recipe.start(signal);
        let watched = format!("{signal}/self_generation.jsonl");
        wait_until(&mut child, "the end of generation", || !read_or_empty(&recipe, &watched).is_empty());
        send(&child, signal);
        std::thread::sleep(Duration::from_millis(20));
        send(&child, signal);
        let outcome = wait(child);
        assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
        assert_eq!(outcome.stderr.contains("after saving"), is_saved, "{}", outcome.stderr);
        recipe.finish(signal);
        assert!(bytes("alone") == bytes(signal));
    }
}

fn read_or_empty(recipe: &Recipe, file: &str) -> String {
    fs::read_to_string(recipe.path(file)).unwrap_or_default()
}

#[test]
fn a_signal_while_demonstrations_are_scored_or_held_out_rows_answered_is_obeyed() {
    // A file's appearance marks the phase that comes next.
    let recipe = Recipe::new(&["train.epochs=1", "evaluation.max_new_tokens=200"]);
    recipe.finish("alone");
    let phases = [
        ("held_out.jsonl", 1..usize::MAX),                            // generating follows
        ("iteration-000/self_generated.jsonl", NUM_ROWS..usize::MAX), // scoring follows
        ("metrics.jsonl", 15..usize::MAX),                            // the evaluation of an iteration follows
    ];
    for (watched, num_lines) in phases {
        assert_stopped(&recipe.interrupt("stopped", watched, num_lines, "TERM"), 143);
        recipe.finish("stopped");
        recipe.assert_same("alone", "stopped");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_that_is_closed_stops_a_run_after_it_has_saved() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    if u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 == 1 {
        return say_skipped("the signal of a closed terminal", "it is switched off here, as by nohup, and stays so");
    }
    // One update takes long enough for two signals: the shell sends one, the system the other.
    let one_update =
        ["generation.samples_per_prompt=20", "train.batch_size=600", "train.micro_batch_size=1", "iterations=1"];
    let recipe = Recipe::new(&[&one_update[..], &["train.epochs=2"]].concat());
    let stopped = recipe.interrupt_by("stopped", "self_generation.jsonl", 1..usize::MAX, &|child| {
        send(child, "HUP");
        send(child, "HUP");
    });
    assert_stopped(&stopped, 129);
    recipe.finish("alone");
    recipe.finish("stopped");
    let bytes = |run: &str| fs::read(recipe.path(run).join("model/model.safetensors")).unwrap();
    assert!(bytes("alone") == bytes("stopped"));
}

/// A file system of one megabyte, unmounted in the end.
struct SmallDisk<'a>(&'a std::path::Path);

impl<'a> SmallDisk<'a> {
    fn mount(folder: &'a std::path::Path) -> Option<Self> {
        fs::create_dir(folder).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder);
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then_some(SmallDisk(folder))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the folder is in a temporary place.
        let _ = std::process::Command::new("umount").arg(self.0).output();
    }
}

#[test]
fn a_run_on_a_disk_that_becomes_full_stops_with_exit_code_6_and_goes_on_when_there_is_room() {
    let adapter = ["lora.rank=1", "lora.target_modules=[q_proj]", "iterations=1", "keep_last=2", "train.epochs=20"];
    let recipe = Recipe::new(&adapter);
    recipe.finish("alone");
    let folder = recipe.path("small");
    let Some(_disk) = SmallDisk::mount(&folder) else {
        say_skipped("a full disk", "a tmpfs cannot be mounted here");
        return;
    };
    let mut child = recipe.start("small/run");
    let num_updates = || read_or_empty(&recipe, "small/run/metrics.jsonl").lines().count();
    wait_until(&mut child, "update 3", || num_updates() >= 3);
    // Fills the disk: how much of it fits does not matter.
    let _ = fs::write(folder.join("filler"), vec![0; 1 << 20]);
    let stderr = wait(child).failed(6);
    assert!(
        stderr.contains("the disk is full: ") && stderr.contains(" needed, ") && stderr.contains("free"),
        "{stderr}"
    );
    recipe.assert_checkpoints_verify("small/run");
    fs::remove_file(folder.join("filler")).unwrap();
    recipe.finish("small/run");
    let bytes = |run: &str| fs::read(recipe.path(run).join("model/model.safetensors")).unwrap();
    assert!(bytes("alone") == bytes("small/run"));
}
