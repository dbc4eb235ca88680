//! `env.json`: what a run's figures depend on besides its `config.ron`, and what it began with, to be compared on a resume.

use std::path::Path;

use super::binding::frozen_hash;
use super::run_dir::RunDir;
use crate::config::RunConfig;
use crate::data::examples::Example;
use crate::device;
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::records::run_folder::ENVIRONMENT_FILE;

/// The key of the rows' fingerprint in it.
const FINGERPRINT: &str = "rows_fingerprint";
/// The key of the held-out rows' fingerprint. Runs of the first versions have none.
const HELD_OUT_FINGERPRINT: &str = "held_out_fingerprint";
/// The key of the settings that the run began with, as RON.
const CONFIG: &str = "config";

/// The key of the hash of the weights that an adapter leaves as they are.
pub(super) const FROZEN_WEIGHTS: &str = "frozen_weights";

/// What a figure depends on besides the configuration.
pub(super) fn describe(
    device_name: &str,
    examples: &[Example],
    held_out: &[Example],
    config: &str,
) -> serde_json::Value {
    serde_json::json!({
        "gsil": env!("CARGO_PKG_VERSION"),
        "burn": "0.22.1",
        (FINGERPRINT): fingerprint(examples),
        (HELD_OUT_FINGERPRINT): fingerprint(held_out),
        (CONFIG): config,
        "device": device_name,
        "device_description": device::description(device_name),
        "operating_system": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
    })
}

fn read_environment(dir: &RunDir) -> Result<serde_json::Value> {
    let path = dir.join(ENVIRONMENT_FILE);
    let text = std::fs::read_to_string(&path).map_err(Error::reading(&path))?;
    serde_json::from_str(&text).map_err(|error| Error::input(&path, error.to_string()))
}

/// The settings that the run began with; None for a run that did not write them down.
pub(super) fn began_with(dir: &RunDir) -> Result<Option<RunConfig>> {
    let origin = dir.join(ENVIRONMENT_FILE);
    let environment = read_environment(dir)?;
    environment[CONFIG].as_str().map(|text| RunConfig::from_ron(text, &origin.to_string_lossy())).transpose()
}

/// Whether a run has kept what tells other held-out rows, and other weights under its adapter: those of older versions have not.
pub(super) struct Kept {
    pub held_out_rows: bool,
    pub frozen_weights: bool,
}

impl Kept {
    /// Whether another model or other rows at the place that `key` names would be told: then it may lie elsewhere.
    pub(super) fn tells(&self, key: &str, config: &RunConfig) -> bool {
        match key {
            "model" => self.frozen_weights || config.lora.is_none(), // all weights are in the checkpoint
            "evaluation.data" => self.held_out_rows,
            _ => true,
        }
    }
}

pub(super) fn kept(dir: &RunDir) -> Result<Kept> {
    let environment = read_environment(dir)?;
    let has = |key: &str| environment[key].is_string();
    Ok(Kept { held_out_rows: has(HELD_OUT_FINGERPRINT), frozen_weights: has(FROZEN_WEIGHTS) })
}

/// Writes down the settings that a resumed run goes on with. All else is about how the run began, and stays.
pub(super) fn keep_settings(dir: &RunDir, config: &str) -> Result<()> {
    let mut environment = read_environment(dir)?;
    environment[CONFIG] = config.into();
    dir.write(ENVIRONMENT_FILE, &(environment.to_string() + "\n"))
}

/// The checkpoints of an adapter hold the adapter alone: the model under it, read from `path`, must be the one that the run
/// began with. Every frozen weight is hashed, about a second for a GB. A run that kept no hash is let through.
pub(super) fn check_same_base(dir: &RunDir, model: &CausalLm, path: &Path) -> Result<()> {
    let environment = read_environment(dir)?;
    let Some(expected) = environment[FROZEN_WEIGHTS].as_str() else { return Ok(()) };
    match frozen_hash(model)? == expected {
        true => Ok(()),
        false => Err(Error::input(path, "its weights are not those that this run's adapter was begun on")
            .with_hint("restore the model that the run began with, or start a new run")),
    }
}

/// Stored responses and log-probs belong to the rows that they were made for.
pub fn check_same_rows(dir: &RunDir, examples: &[Example]) -> Result<()> {
    match read_environment(dir)?[FINGERPRINT].as_str() == Some(fingerprint(examples).as_str()) {
        true => Ok(()),
        false => Err(Error::input(dir.path(), "the prompts or responses are not those that the run began with")
            .with_hint(
                "restore the data file; a chat template that names today's date changes prompts, too: start a new run",
            )),
    }
}

/// The rows that every stage is judged on stay the same.
pub(super) fn check_same_held_out(dir: &RunDir, held_out: &[Example]) -> Result<()> {
    let environment = read_environment(dir)?;
    let Some(expected) = environment[HELD_OUT_FINGERPRINT].as_str() else { return Ok(()) };
    match fingerprint(held_out) == expected {
        true => Ok(()),
        false => Err(Error::input(dir.path(), "the held-out rows are not those that the run began with")
            .with_hint("restore the file of held-out rows, or start a new run")),
    }
}

/// Tells whether a resumed run has the rows that it began with, token for token. FNV-1a, 64 bit, as every version wrote it;
/// responses are bound to rows by [`super::binding::rows_hash`].
fn fingerprint(examples: &[Example]) -> String {
    let ids = examples.iter().flat_map(|e| {
        let lens = [e.index as u32, e.prompt_ids.len() as u32, e.demonstration_ids.len() as u32];
        let given = e.self_generated_ids.iter().flat_map(|ids| [&[ids.len() as u32][..], ids].concat());
        lens.into_iter().chain(e.prompt_ids.iter().copied()).chain(e.demonstration_ids.iter().copied()).chain(given)
    });
    let hash = ids
        .flat_map(u32::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_that_moves_or_changes_is_another_row() {
        let row = |demonstration_ids: &[u32], given: Option<&[u32]>| {
            fingerprint(&[Example {
                index: 0,
                prompt_ids: vec![3],
                demonstration_ids: demonstration_ids.to_vec(),
                self_generated_ids: given.map(<[u32]>::to_vec),
                demonstration_text: None,
            }])
        };
        // FNV-1a of the words 0, 1, 1, 3, 4: rows without second responses have the hash that they always had.
        assert_eq!(row(&[4], None), "33db7fbd2f1c8182");
        let all = [row(&[4], None), row(&[4], Some(&[5])), row(&[4], Some(&[6])), row(&[4, 5], None)];
        let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
    }
}
