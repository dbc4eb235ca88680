//! One checkpoint of a run, by its name or by what it is, and its model: for use outside of the run.

use super::checkpoint::{self, Saved};
use super::environment::check_same_base;
use super::inputs;
use super::run_dir::RunDir;
use crate::config::RunConfig;
use crate::device;
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::policy::{MODEL_FOLDER, Policy};
use crate::records::ending::{AGAINST_FAILED_TRAINING, Ending};
use crate::records::evaluation::EvaluationRow;
use crate::records::run_folder::{RESTORE_CHECKPOINTS, Reached, is_whole_checkpoint, reached};
use crate::records::stage::{CONTINUED_SFT, START, Stage};
use crate::report::console::Console;
use crate::report::shell::shell_path;

/// Two records of one figure may differ by so much: one of them went through decimal digits.
const ROUNDING: f64 = 1e-9;
/// Chooses the checkpoint with the highest log-prob on the rows that the run is judged on.
pub const BEST: &str = "best";
const RESULT_WITHOUT_NAME: &str = "without --checkpoint the run's result is exported";

/// The checkpoint called `name`, verified; `best` is, of those kept, the one of the run's own model that gives the
/// demonstrations that it is judged on the highest log-prob: held-out ones if there are any.
///
/// # Errors
/// [`Error::Input`] if there is none, with those that there are; if it is damaged, or of a newer version.
pub fn choose(run_dir: &RunDir, config: &RunConfig, name: &str) -> Result<Saved> {
    let names = run_dir.list(checkpoint::FOLDER, is_whole_checkpoint)?;
    let folder = run_dir.join(checkpoint::FOLDER);
    if names.iter().any(|found| found == name) {
        return checkpoint::open(&folder.join(name));
    }
    let readable: Vec<Saved> = checkpoint::all(run_dir)?.into_iter().flatten().collect();
    match best(&readable, config) {
        Some(saved) if name == BEST => checkpoint::open(&saved.folder),
        _ => Err(not_there(run_dir, config, name, &readable)),
    }
}

fn best<'a>(saved: &'a [Saved], config: &RunConfig) -> Option<&'a Saved> {
    let own = saved.iter().filter(|saved| !saved.progress.is_of_comparison(config.compares_sft()));
    let evaluated = own.filter_map(|saved| Some((saved.progress.held_out_log_prob?, saved)));
    evaluated.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, saved)| saved)
}

/// Which checkpoint is [`BEST`], where the run's own model was better at a moment of which none is there. `is_finished`: the
/// run makes no more.
pub fn better_than_best(
    saved: &Saved,
    evaluations: &[EvaluationRow],
    config: &RunConfig,
    is_finished: bool,
) -> Option<String> {
    let kept = saved.progress.held_out_log_prob?;
    let log_prob = |row: &EvaluationRow| row.evaluation.demonstration_log_prob_per_token;
    let own = evaluations.iter().filter(|row| row.stage != CONTINUED_SFT);
    let better =
        own.filter(|row| log_prob(row) > kept + ROUNDING).max_by(|a, b| log_prob(a).total_cmp(&log_prob(b)))?;
    let name = saved.folder.file_name().unwrap_or_default().to_string_lossy();
    let chosen = format!("`best` is {name}, with log-prob per token {kept:.3} on the rows that the run was judged on");
    let better_one = log_prob(better);
    if better.stage == START {
        return Some(format!("{chosen}; the model that the run began with has {better_one:.3}"));
    }
    let advice = if is_finished && config.keep_best == 0 { ": a run with keep_best=1 keeps it" } else { "" };
    Some(format!("{chosen}; after `{}` it was {better_one:.3}, but that checkpoint is not there{advice}", better.stage))
}

fn not_there(run_dir: &RunDir, config: &RunConfig, name: &str, readable: &[Saved]) -> Error {
    let listed = |Saved { progress, folder }: &Saved| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let whose = progress.whose(config.compares_sft());
        match progress.held_out_log_prob {
            Some(log_prob) => format!("{name} ({whose}log-prob per token {log_prob:.3} on the rows it was judged on)"),
            None => format!("{name} ({whose}not evaluated)"),
        }
    };
    let message = match name {
        BEST => "no checkpoint of the run's own model that is left was evaluated".to_owned(),
        name => format!("has no checkpoint `{name}`"),
    };
    let error = Error::input(run_dir.join(checkpoint::FOLDER), message);
    match readable {
        [] => error.with_hint(where_all_are(run_dir)),
        _ => {
            let there = format!("there are {}", readable.iter().map(listed).collect::<Vec<_>>().join(", "));
            match name == BEST && run_dir.join(MODEL_FOLDER).exists() {
                true => error.with_hint(format!("{RESULT_WITHOUT_NAME}; {there}")),
                false => error.with_hint(there),
            }
        }
    }
}

/// Why a run has no checkpoint, and what is there in its place.
fn where_all_are(run_dir: &RunDir) -> String {
    match (reached(run_dir.path()), run_dir.join(MODEL_FOLDER).exists()) {
        (Reached::Nothing, _) if Ending::is_of_failed_training(run_dir.path()) => AGAINST_FAILED_TRAINING.to_owned(),
        (Reached::Nothing, _) => format!("it has made none yet: gsil resume {}", shell_path(run_dir.path())),
        (_, true) => format!("all were removed; {RESULT_WITHOUT_NAME}"),
        (Reached::End, false) => {
            "all were removed, the model too: a comparison with `keep_models: false` keeps none".to_owned()
        }
        (Reached::Checkpoint | Reached::Comparison, false) => {
            format!("all were removed; {RESTORE_CHECKPOINTS}")
        }
    }
}

/// The checkpoint that a run's aligned model was made of. Where the last stage trained another model for comparison, it is
/// the one before that stage.
///
/// # Errors
/// [`Error::Input`] if the run did not come so far, or that checkpoint is gone or damaged.
pub fn aligned(run_dir: &RunDir, config: &RunConfig) -> Result<Saved> {
    let stage = if config.compares_sft() { Stage::ContinuedSft } else { Stage::Done };
    let is_aligned = |saved: &Saved| saved.progress.stage == stage && saved.progress.stage_steps == 0;
    let Some(saved) = checkpoint::all(run_dir)?.into_iter().flatten().find(is_aligned) else {
        let error = Error::input(run_dir.join(checkpoint::FOLDER), "no checkpoint is that of the aligned model");
        return Err(error.with_hint(
            "finish the run with `gsil resume`; where it is finished, `--format hf` exports the merged model",
        ));
    };
    checkpoint::open(&saved.folder)
}

/// The model at a checkpoint, on the CPU. `policy` is what the run began with.
///
/// # Errors
/// [`Error::Input`] if the weights or the checkpoint do not read, are not of one model, or an adapter was begun on others.
pub fn load(
    saved: &Saved,
    run_dir: &RunDir,
    config: &RunConfig,
    policy: &Policy,
    console: &Console,
) -> Result<CausalLm> {
    let model = inputs::load(policy, config, &device::open(device::processor())?, console)?;
    if config.lora.is_some() {
        check_same_base(run_dir, &model, &policy.files.path)?;
    }
    saved.load_parameters(model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::evaluation::Evaluation;
    use crate::train::checkpoint::Progress;

    #[test]
    fn the_best_is_of_the_runs_own_model() {
        let saved = |stage, stage_steps, held_out_log_prob| Saved {
            progress: Progress { stage_steps, held_out_log_prob, ..Progress::at(stage, 0) },
            folder: "unused".into(),
        };
        let all = [
            saved(Stage::Iteration(0), 0, Some(-2.0)),
            saved(Stage::Iteration(0), 4, None),
            saved(Stage::ContinuedSft, 0, Some(-1.0)),
            saved(Stage::ContinuedSft, 4, None),
            saved(Stage::Done, 0, Some(-0.5)),
        ];
        let best = |config: &RunConfig| best(&all, config).map(|saved| saved.progress.stage);
        let plain = RunConfig::default();
        assert_eq!(best(&plain), Some(Stage::Done));
        let comparing = RunConfig { continued_sft_lr: Some(1e-5), ..plain };
        assert_eq!(best(&comparing), Some(Stage::ContinuedSft), "the aligned model, which the comparison follows");
        let of_comparison = all.iter().map(|saved| saved.progress.is_of_comparison(comparing.compares_sft()));
        assert_eq!(of_comparison.collect::<Vec<_>>(), [false, false, false, true, true]);
    }

    #[test]
    fn a_better_model_whose_checkpoint_is_gone_is_told() {
        let saved = Saved {
            progress: Progress { held_out_log_prob: Some(-1.5), ..Progress::at(Stage::Done, 9) },
            folder: "checkpoints/step-000009-done".into(),
        };
        let row = |stage: &str, log_prob: f64| EvaluationRow {
            stage: stage.to_owned(),
            total_steps: 0,
            evaluation: Evaluation {
                held_out: true,
                num_rows: 1,
                demonstration_log_prob_per_token: log_prob,
                against_reference: None,
                greedy: None,
                sampled: None,
            },
        };
        let (start, last) = (row("start", -5.0), row("iteration 0", -1.5 + 1e-15));
        let config = RunConfig::default();
        let told = |rows: &[EvaluationRow]| better_than_best(&saved, rows, &config, true);
        assert_eq!(told(&[start.clone(), row("sft", -2.0), last.clone()]), None);
        assert_eq!(told(&[start.clone(), last.clone(), row(CONTINUED_SFT, -0.5)]), None, "another model");
        let from_better = told(&[row("start", -0.1), row("sft", -0.8), last.clone()]).unwrap();
        assert!(from_better.ends_with("; the model that the run began with has -0.100"), "{from_better}");
        let rows = [start, row("sft", -0.8), last];
        let finished = told(&rows).unwrap();
        assert!(finished.starts_with("`best` is step-000009-done, with log-prob per token -1.500"), "{finished}");
        let not_there = "; after `sft` it was -0.800, but that checkpoint is not there";
        assert!(finished.ends_with(&format!("{not_there}: a run with keep_best=1 keeps it")), "{finished}");
        assert!(better_than_best(&saved, &rows, &config, false).unwrap().ends_with(not_there));
    }
}
