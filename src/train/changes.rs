//! Resuming with other settings: what may change in the middle of a run, and what may not.

use std::fmt;

use serde_json::Value;

use super::environment::Kept;
use crate::config::RunConfig;
use crate::error::{Error, Result};

/// What may change with `--allow-changes`: how long and how carefully, and what fits into memory, but not what is learnt. A
/// changed `train.epochs` stretches the learning-rate schedule from here on; other micro-batches change the last bits.
pub const CHANGEABLE: [&str; 21] = [
    "save_every",
    "keep_last",
    "keep_best",
    "train.epochs",
    "train.micro_batch_size",
    "train.max_tokens",
    "train.activation_checkpointing",
    "sft.micro_batch_size",
    "sft.max_tokens",
    "sft.activation_checkpointing",
    "generation.batch_size",
    "server.url",
    "server.model",
    "server.max_in_flight",
    "server.requests_per_minute",
    "server.timeout_s",
    "server.max_retries",
    "server.on_policy_ready",
    "server.ready_timeout_s",
    "server.tolerance",
    "memory_limit",
];

/// What is asked of a resumed run besides going on.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// `key=value`.
    pub overrides: Vec<String>,
    /// All settings, in place of those in `config.ron`, for who knows them: a comparison, which may have been moved with what
    /// it starts from.
    pub settings: Option<RunConfig>,
    pub allow: bool,
    /// Fetch nothing from the hub this time, whatever the run began with.
    pub offline: bool,
}

impl Changes {
    /// The settings to go on with, where `config.ron` holds `written`.
    ///
    /// # Errors
    /// As [`RunConfig::set`] and [`RunConfig::validate`]; [`Error::Config`] for another folder for the run.
    pub(super) fn apply_to(&self, written: &RunConfig) -> Result<RunConfig> {
        let mut config = match &self.settings {
            // Whether the prompts print a date is known to the run alone.
            Some(settings) => RunConfig { template_date: written.template_date.clone(), ..settings.clone() },
            None => written.clone(),
        };
        let output = config.output.clone();
        self.overrides.iter().try_for_each(|assignment| config.set(assignment))?;
        if config.output != output {
            return Err(Error::config("output", "a run goes on in the folder that it is resumed from")
                .with_hint("leave output out; to go on elsewhere, move the run folder and resume it there"));
        }
        config.validate().map(|()| config)
    }

    /// [`check_changes`] of what was asked for. Where model and data lie is no change, as far as the run has `kept` what tells
    /// other ones: they are refused by what is in them.
    ///
    /// # Errors
    /// As there.
    pub(super) fn check(&self, mut began_with: RunConfig, now: &RunConfig, kept: &Kept) -> Result<bool> {
        if kept.tells("model", now) {
            began_with.model.clone_from(&now.model);
        }
        began_with.data.clone_from(&now.data);
        if kept.tells("evaluation.data", now) {
            began_with.evaluation.data.clone_from(&now.evaluation.data);
        }
        check_changes(&began_with, now, self.allow)
    }
}

/// Compares the settings that a run began with to those it is to go on with. True if they differ and may.
///
/// # Errors
/// [`Error::Config`] that names the keys: any without `allow`, and those that never may.
pub fn check_changes(began_with: &RunConfig, now: &RunConfig, allow: bool) -> Result<bool> {
    let differences = differences(began_with, now)?;
    let refused: Vec<&Difference> =
        differences.iter().filter(|d| !allow || !CHANGEABLE.contains(&d.key.as_str())).collect();
    if refused.is_empty() {
        return Ok(!differences.is_empty());
    }
    let list: Vec<String> = refused.iter().map(ToString::to_string).collect();
    let message = format!("the settings are not those that the run began with: {}", list.join("; "));
    let hint = match refused.iter().all(|d| CHANGEABLE.contains(&d.key.as_str())) {
        true => "undo the change, or accept it with --allow-changes".to_owned(),
        false => {
            let server = match refused.iter().any(|d| d.key == "server") {
                true => " (of a run that began with a server: none is added or taken away)",
                false => "",
            };
            let keys = CHANGEABLE.join(", ");
            format!("undo the change, or start a new run; with --allow-changes may change: {keys}{server}")
        }
    };
    Err(Error::config("config.ron", message).with_hint(hint))
}

/// A key with two values, in words `key: before, now after`.
#[derive(Debug)]
pub struct Difference {
    pub key: String,
    before: Value,
    after: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, now {}", self.key, self.before, self.after)
    }
}

/// The settings in which two configurations differ. Where the run folder lies and whether it may fetch is not one of them.
///
/// # Errors
/// [`Error::Config`] for values that have no JSON form; valid ones have.
pub fn differences(before: &RunConfig, after: &RunConfig) -> Result<Vec<Difference>> {
    let tree = |config: &RunConfig| {
        let config = RunConfig { output: None, offline: false, ..config.clone() };
        serde_json::to_value(&config).map_err(|error| Error::config("config.ron", error.to_string()))
    };
    let mut found = Vec::new();
    collect("", &tree(before)?, &tree(after)?, &mut found);
    Ok(found)
}

fn collect(key: &str, before: &Value, after: &Value, found: &mut Vec<Difference>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in old {
                let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                collect(&path, value, &new[name], found);
            }
        }
        _ if before == after => {}
        _ => found.push(Difference { key: key.to_owned(), before: before.clone(), after: after.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ServerConfig, TrainConfig};

    fn changed(assignments: &[&str]) -> RunConfig {
        let (sft, server) = (Some(TrainConfig::default()), Some(ServerConfig::default()));
        let mut config = RunConfig { sft, server, ..RunConfig::default() };
        assignments.iter().for_each(|assignment| config.set(assignment).unwrap());
        config
    }

    #[test]
    fn every_changeable_key_exists_and_may_change_when_asked() {
        for key in CHANGEABLE {
            let value = match key.rsplit(['_', '.']).next() {
                Some("checkpointing") => "true",
                Some("ready") => "[serve]",
                _ => "7",
            };
            let now = changed(&[&format!("{key}={value}")]);
            assert!(check_changes(&changed(&[]), &now, true).unwrap(), "{key}");
            let error = check_changes(&changed(&[]), &now, false).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(&format!("{key}: ")), "{error}");
            assert!(error.hint().unwrap().contains("--allow-changes"), "{error}");
        }
    }

    #[test]
    fn what_is_learnt_never_changes_and_every_such_key_is_named_with_both_values() {
        let now = changed(&["seed=3", "objective.name=brier", "train.betas=[0.8, 0.9]", "lora.rank=4", "save_every=7"]);
        let error = check_changes(&changed(&[]), &now, true).unwrap_err().to_string();
        for part in [
            "seed: 0, now 3",
            "objective.name: \"bernoulli\", now \"brier\"",
            "train.betas: [0.9,0.999], now [0.8,0.9]",
            "lora: null, now {",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains("save_every"), "{error}");
    }

    #[test]
    fn a_server_that_a_run_did_not_begin_with_is_refused_and_the_hint_says_why_its_key_is_listed() {
        let (with, without) = (changed(&[]), RunConfig { server: None, ..changed(&[]) });
        for (before, now) in [(&with, &without), (&without, &with)] {
            let error = check_changes(before, now, true).unwrap_err();
            assert!(error.to_string().contains("server: "), "{error}");
            assert!(error.hint().unwrap().contains("none is added or taken away"), "{error}");
        }
    }

    #[test]
    fn another_folder_for_the_run_is_refused_and_the_same_one_is_not() {
        let applied = |assignment: &str| {
            let changes = Changes { overrides: vec![assignment.to_owned()], allow: true, ..Changes::default() };
            changes.apply_to(&RunConfig { output: Some("runs/x".to_owned()), ..RunConfig::default() })
        };
        for assignment in ["output=/big", "output=None"] {
            let error = applied(assignment).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{assignment}");
            assert!(error.hint().unwrap().contains("move the run folder"), "{error}");
        }
        applied("output=runs/x").unwrap();
        applied("save_every=7").unwrap();
    }

    #[test]
    fn where_model_and_data_lie_may_change_as_far_as_other_ones_would_be_told() {
        let moved = ["model=b", "data=b", "evaluation.data=b"];
        let refused = |lora: &[&str], kept: Kept| {
            let (before, now) = (changed(lora), changed(&[lora, &moved].concat()));
            Changes::default().check(before, &now, &kept).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let all = Kept { held_out_rows: true, frozen_weights: true };
        let none = Kept { held_out_rows: false, frozen_weights: false };
        assert_eq!(refused(&["lora.rank=4"], all), "");
        let said = refused(&["lora.rank=4"], none);
        assert!(said.contains("model: null, now") && said.contains("evaluation.data: null, now"), "{said}");
        let said = refused(&[], Kept { held_out_rows: false, frozen_weights: false });
        assert!(!said.contains("model: ") && said.contains("evaluation.data: null, now"), "{said}");
    }

    #[test]
    fn a_moved_run_folder_is_no_change() {
        assert!(!check_changes(&changed(&["output=a"]), &changed(&["output=b"]), false).unwrap());
    }
}
