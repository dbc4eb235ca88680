//! A training run of the real binary as a recipe: its runs differ in nothing but what happens to them, and must end in the
//! same bytes.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use gsil::config::RunConfig;
use gsil::formats::safetensors::open_safetensors;
use gsil::train::checkpoint::Progress;

use super::binary::{
    Outcome, Random, command, ending_model, read, read_json, read_json_lines, sorted_lines, tiny_model_with, wait,
    write_rows,
};
use super::tensors::assert_near_by_norm;

pub const NUM_ROWS: usize = 30;
/// Updates between two checkpoints.
pub const SAVE_EVERY: usize = 4;
/// A watched run that is not where it is waited for after this time hangs. On a loaded machine a driver in software takes
/// some minutes to compile a run's kernels.
const PATIENCE: Duration = Duration::from_secs(900);
/// The program may be faster than the signal: then the run is tried again.
const NUM_TRIES: usize = 5;

/// A run's input and settings. Its runs differ in nothing but what happens to them.
pub struct Recipe {
    pub folder: TempDir,
    pub device: &'static str,
    /// `RAYON_NUM_THREADS`, if it is set.
    pub num_threads: Option<&'static str>,
    overrides: Vec<&'static str>,
}

impl Recipe {
    pub fn new(overrides: &[&'static str]) -> Self {
        let recipe = Recipe::with_long_responses(overrides);
        ending_model(recipe.folder.path());
        recipe
    }

    /// Nearly every response is as long as it may be, and they are written one after the other: generation takes long.
    pub fn with_long_responses(overrides: &[&'static str]) -> Self {
        let folder = tempdir().unwrap();
        tiny_model_with(folder.path(), &[]);
        write_rows(&folder.path().join("rows.jsonl"), NUM_ROWS);
        write_rows(&folder.path().join("held_out.jsonl"), 4);
        Recipe { folder, device: "flex", num_threads: None, overrides: overrides.to_vec() }
    }

    pub fn path(&self, run: &str) -> PathBuf {
        self.folder.path().join(run)
    }

    /// Starts the run, or continues it where there is one.
    pub fn start(&self, run: &str) -> Child {
        if self.path(run).join("config.ron").exists() {
            return self.spawn(&["resume", run]);
        }
        let settings = self.settings();
        let given = ["train", "--model", "tiny", "--data", "rows.jsonl", "--device", self.device, "--output", run];
        let held_out = "evaluation.data=held_out.jsonl";
        self.spawn(&given.into_iter().chain([held_out]).chain(settings.iter().map(String::as_str)).collect::<Vec<_>>())
    }

    /// The same run's configuration, for this process.
    pub fn config(&self) -> RunConfig {
        let path = |name: &str| Some(self.path(name).to_string_lossy().into_owned());
        let mut config = RunConfig {
            model: path("tiny"),
            data: path("rows.jsonl"),
            device: self.device.to_owned(),
            ..RunConfig::default()
        };
        config.evaluation.data = path("held_out.jsonl");
        self.settings().iter().for_each(|assignment| config.set(assignment).unwrap());
        config.resolve();
        config
    }

    fn settings(&self) -> Vec<String> {
        let settings = [
            "iterations=2",
            "keep_last=100",
            "generation.max_new_tokens=12",
            "generation.batch_size=4",
            "generation.unfinished=mask",
            "train.batch_size=2",
            "train.epochs=2",
            "train.lr=1e-3",
            "train.optimizer=adamw",
        ];
        let all = settings.iter().chain(&self.overrides).map(|setting| (*setting).to_owned());
        std::iter::once(format!("save_every={SAVE_EVERY}")).chain(all).collect()
    }

    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = command(self.folder.path(), arguments);
        if let Some(num_threads) = self.num_threads {
            command.env("RAYON_NUM_THREADS", num_threads);
        }
        command.spawn().unwrap()
    }

    /// Runs to the end, from wherever the run stands.
    pub fn finish(&self, run: &str) -> Outcome {
        wait(self.start(run)).succeeded()
    }

    /// Starts the run and sends it a signal when its file `watched` has `num_lines.start` lines. What it then says, once it
    /// stopped before the file had `num_lines.end` lines.
    pub fn interrupt(&self, run: &str, watched: &str, num_lines: Range<usize>, signal: &str) -> Outcome {
        self.interrupt_by(run, watched, num_lines, &|child| send(child, signal))
    }

    /// [`Self::interrupt`] by whatever `disturb` does to the process.
    pub fn interrupt_by(&self, run: &str, watched: &str, num_lines: Range<usize>, disturb: &dyn Fn(&Child)) -> Outcome {
        let watched = self.path(run).join(watched);
        let count = || fs::read_to_string(&watched).unwrap_or_default().lines().count();
        for _ in 0..NUM_TRIES {
            let _ = fs::remove_dir_all(self.path(run));
            let mut child = self.start(run);
            let what = format!("line {} of {}", num_lines.start, watched.display());
            wait_until(&mut child, &what, || count() >= num_lines.start);
            disturb(&child);
            let outcome = wait(child);
            if outcome.code != Some(0) && num_lines.contains(&count()) {
                return outcome;
            }
        }
        panic!("{}: the signal came later than at {num_lines:?} lines, {NUM_TRIES} times", watched.display());
    }

    /// Stops the run at random moments, each time continuing it, then lets it finish. How often it was stopped.
    pub fn harass(&self, run: &str, undisturbed: Duration, signal: &str, random: &mut Random) -> usize {
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
    pub fn assert_same(&self, expected: &str, actual: &str) {
        let (figures, others) = (figures(&self.path(expected)), figures(&self.path(actual)));
        let steps = |rows: &[Value]| rows.iter().map(|row| row["total_step"].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!(steps(&others), steps(&figures), "every update is logged once, in order");
        for (other, figures) in others.iter().zip(&figures) {
            assert_eq!(other, figures);
        }
        for file in ["evaluations.jsonl", "self_generation.jsonl", "held_out.jsonl"] {
            assert_eq!(read(&self.path(actual).join(file)), read(&self.path(expected).join(file)), "{file}");
        }
        for iteration in files_of(&self.path(expected)).into_iter().filter(|name| name.starts_with("iteration-")) {
            let responses = |run: &str| sorted_lines(&self.path(run).join(&iteration).join("self_generated.jsonl"));
            assert_eq!(responses(actual), responses(expected), "{iteration}");
        }
        self.assert_same_checkpoints(expected, actual);
        let bytes = |run: &str| fs::read(self.path(run).join("model/model.safetensors")).unwrap();
        assert!(bytes(expected) == bytes(actual), "the models differ");
    }

    /// The two runs made the same updates: losses, gradient norms and every tensor of the model differ by at most
    /// `tolerance` of their size.
    #[track_caller]
    pub fn assert_close(&self, expected: &str, actual: &str, tolerance: f64) {
        let (figures, others) = (figures(&self.path(expected)), figures(&self.path(actual)));
        assert_eq!(others.len(), figures.len());
        for (other, figures) in others.iter().zip(&figures) {
            assert_eq!(other["total_step"], figures["total_step"]);
            for key in ["loss", "grad_norm", "demonstration_log_prob_per_token"] {
                let number = |row: &Value| vec![row[key].as_f64().unwrap() as f32];
                assert_near_by_norm(key, &number(other), &number(figures), tolerance);
            }
        }
        let model = |run: &str| open_safetensors(&self.path(run).join("model/model.safetensors")).unwrap();
        let (model, other) = (model(expected), model(actual));
        assert_eq!(model.names().collect::<Vec<_>>(), other.names().collect::<Vec<_>>());
        for name in model.names() {
            assert_near_by_norm(name, &other.read_f32(name).unwrap(), &model.read_f32(name).unwrap(), tolerance);
        }
    }

    /// Every checkpoint of the one run is one of the other: every weight, every moment, and where the run stood.
    #[track_caller]
    fn assert_same_checkpoints(&self, expected: &str, actual: &str) {
        let mut num_compared = 0;
        for set in files_of(&self.path(expected).join("checkpoints")) {
            for file in files_of(&self.path(expected).join("checkpoints").join(&set)) {
                let bytes = |run: &str| fs::read(self.path(run).join("checkpoints").join(&set).join(&file)).unwrap();
                assert!(bytes(expected) == bytes(actual), "{set}/{file} differs");
                num_compared += 1;
            }
        }
        assert!(num_compared > 10, "only {num_compared} files were there to compare");
    }

    /// Where the run's newest checkpoint stands; None before the first.
    pub fn newest_checkpoint(&self, run: &str) -> Option<Progress> {
        let folder = self.path(run).join("checkpoints");
        let sets = files_of(&folder).into_iter().filter(|name| !name.starts_with('.'));
        let progress = |set| serde_json::from_value(read_json(&folder.join(set).join("state.json"))).unwrap();
        // The end of a stage is saved twice, the second time as the start of the next one.
        sets.map(progress).max_by_key(|progress: &Progress| (progress.total_steps, progress.stage_steps == 0))
    }

    /// Every checkpoint under its final name is whole.
    #[track_caller]
    pub fn assert_checkpoints_verify(&self, run: &str) {
        let folder = self.path(run).join("checkpoints");
        for set in files_of(&folder).into_iter().filter(|name| !name.starts_with('.')) {
            gsil::train::manifest::verify(&folder.join(set)).unwrap();
        }
    }
}

/// The names in a folder, sorted; none if there is no folder.
pub fn files_of(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// Changes the first line of a JSON Lines file.
pub fn edit_first_line(path: &Path, edit: impl FnOnce(&mut Value)) {
    let content = read(path);
    let (first, others) = content.split_once('\n').unwrap();
    let mut row = serde_json::from_str(first).unwrap();
    edit(&mut row);
    fs::write(path, format!("{row}\n{others}")).unwrap();
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

/// Waits for a moment in the life of a process, such as a file's appearance. What it did before its end counts, so that one
/// that has ended may be met here.
///
/// # Panics
/// If the moment never comes, with what the process said; it is not left running.
#[track_caller]
pub fn wait_until(child: &mut Child, what: &str, has_come: impl Fn() -> bool) {
    let started = Instant::now();
    loop {
        let has_ended = child.try_wait().unwrap().is_some();
        if has_come() {
            return;
        }
        if has_ended || started.elapsed() > PATIENCE {
            child.kill().unwrap();
            let why = if has_ended { "the program ended before" } else { "waited too long for" };
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("{why} {what}: {said}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal; a process that has ended is left alone.
pub fn send(child: &Child, signal: &str) {
    Command::new("kill").args(["-s", signal, &child.id().to_string()]).output().unwrap();
}

#[track_caller]
pub fn assert_stopped(outcome: &Outcome, code: i32) {
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("after saving"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: continue with `gsil resume"), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
}

/// Everything in a folder, in a new one.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in files_of(from) {
        match from.join(&name).is_dir() {
            true => copy_folder(&from.join(&name), &to.join(&name)),
            false => drop(fs::copy(from.join(&name), to.join(&name)).unwrap()),
        }
    }
}
