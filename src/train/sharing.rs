//! What a run may take over from runs that began alike: the start's figures, and the responses and reference
//! log-probs of the first iteration.
//!
//! Only `gsil compare` asks for this: its cells differ in what they do with the same start. Nothing is taken on trust: the
//! other run's [`Binding`] must be this run's own, hash for hash, else the work is done here.

use std::fs;
use std::path::{Path, PathBuf};

use super::HELD_OUT_FILE;
use super::binding::{BINDING_FILE, Binding, policy_hash, rows_hash};
use super::self_generation::DEMONSTRATIONS_FILE;
use super::setup::Run;
use crate::error::Result;
use crate::formats::json_lines::json_line;
use crate::model::CausalLm;
use crate::records::evaluation::{EVALUATION_ROWS_FILE, EVALUATIONS_FILE, EvaluationRow};
use crate::records::self_generation::{SELF_GENERATED_FILE, iteration_folder};
use crate::records::stage::START;

/// What the start's figures belong to.
pub(super) const START_BINDING_FILE: &str = "start_binding.json";

impl Run {
    /// Lets the run take over what the runs in these folders made from the same start.
    pub fn take_over_from(&mut self, others: Vec<PathBuf>) {
        self.others = Some(others);
    }

    /// The figures of the start, taken over or computed: the log-prob per token of the demonstrations, nats.
    pub(super) fn evaluate_start(&self, model: &CausalLm) -> Result<f64> {
        if let Some(others) = &self.others {
            let own = self.start_binding(model)?;
            self.dir.write(START_BINDING_FILE, &json_line(&own)?)?;
            for other in others.iter().filter(|other| is_bound(&other.join(START_BINDING_FILE), &own)) {
                if let Some(log_prob) = self.take_over_start(other)? {
                    self.console.say(format!("the figures of the start are those of {}", other.display()));
                    return Ok(log_prob);
                }
            }
        }
        self.evaluate(START, 0, model, None)
    }

    /// The policy and what it is judged on and how.
    fn start_binding(&self, model: &CausalLm) -> Result<Binding> {
        let settings = format!("{} {:?}", self.device_name, self.held_out.settings);
        Ok(Binding {
            policy: policy_hash(model)?,
            rows: rows_hash(&self.held_out.examples),
            settings: blake3::hash(settings.as_bytes()).to_hex().to_string(),
        })
    }

    /// None if the other run has not come so far.
    fn take_over_start(&self, other: &Path) -> Result<Option<f64>> {
        let (Some(line), Some(figures), Some(rows)) = (
            line_of_start(&other.join(EVALUATIONS_FILE)),
            line_of_start(&other.join(EVALUATION_ROWS_FILE)),
            whole_lines(&other.join(HELD_OUT_FILE)),
        ) else {
            return Ok(None);
        };
        let Ok(row) = serde_json::from_str::<EvaluationRow>(&line) else { return Ok(None) };
        self.dir.write(HELD_OUT_FILE, &rows)?;
        self.dir.write(EVALUATION_ROWS_FILE, &figures)?;
        self.dir.write(EVALUATIONS_FILE, &line)?;
        Ok(Some(row.evaluation.demonstration_log_prob_per_token))
    }

    /// Copies the responses and reference log-probs of the first run with the same binding, unless there are some already.
    pub(super) fn take_over_responses(&self, iteration: usize, own: &Binding) -> Result<()> {
        let folder = iteration_folder(iteration);
        let [responses, log_probs] = [SELF_GENERATED_FILE, DEMONSTRATIONS_FILE].map(|file| format!("{folder}/{file}"));
        if self.dir.join(&responses).exists() {
            return Ok(());
        }
        for other in self.others.iter().flatten() {
            if !is_bound(&other.join(&folder).join(BINDING_FILE), own) {
                continue;
            }
            let (Some(written), Some(scored)) =
                (whole_lines(&other.join(&responses)), whole_lines(&other.join(&log_probs)))
            else {
                continue;
            };
            self.dir.write(&responses, &written)?;
            self.dir.write(&log_probs, &scored)?;
            self.console.say(format!("responses and reference log-probs are those of {}", other.display()));
            return Ok(());
        }
        Ok(())
    }
}

fn is_bound(path: &Path, own: &Binding) -> bool {
    let stored = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Binding>(&text).ok());
    stored.as_ref() == Some(own)
}

/// The lines of a file of another run, byte for byte, without a last one that a crash tore; None if it cannot be read.
fn whole_lines(path: &Path) -> Option<String> {
    let mut text = fs::read_to_string(path).ok()?;
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    Some(text)
}

fn line_of_start(path: &Path) -> Option<String> {
    let of_start = |line: &&str| {
        let row: Option<serde_json::Value> = serde_json::from_str(line).ok();
        row.is_some_and(|row| row["stage"] == START)
    };
    let text = whole_lines(path)?;
    text.lines().find(of_start).map(|line| format!("{line}\n"))
}
