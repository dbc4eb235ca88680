//! What an iteration's stored responses and log-probs belong to: this policy, these rows, these settings, by hash.
//!
//! `iteration-000/binding.json` is written before the first response. Whoever finds responses there looks whether they are
//! its own: log-probs of another reference would train silently towards nonsense, so they are refused.

use serde::{Deserialize, Serialize};

use super::run_dir::RunDir;
use crate::config::RunConfig;
use crate::data::examples::Example;
use crate::error::{Error, Result};
use crate::formats::safetensors::TensorToWrite;
use crate::model::{CausalLm, weights};

pub(super) const BINDING_FILE: &str = "binding.json";

/// Hashes (BLAKE3, hexadecimal).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Of every weight of the reference.
    pub policy: String,
    /// Of prompts and demonstrations.
    pub rows: String,
    /// Of what decides the responses besides: seed, sampling, device, whether a server writes them.
    pub settings: String,
}

impl Binding {
    /// Binds to the reference with this hash.
    pub fn new(policy: String, examples: &[Example], config: &RunConfig, device_name: &str) -> Self {
        Binding { policy, rows: rows_hash(examples), settings: settings_hash(config, device_name) }
    }

    /// Compares with what an iteration's folder is bound to, and binds it if it holds nothing yet. `stage_steps`: updates
    /// done in the iteration; after the first its reference is gone. `is_version_1`: what the folder holds may be of a
    /// version that bound nothing.
    ///
    /// # Errors
    /// [`Error::Input`] if what is stored belongs to something else.
    pub fn check(&self, dir: &RunDir, folder: &str, stage_steps: usize, is_version_1: bool) -> Result<()> {
        let name = format!("{folder}/{BINDING_FILE}");
        let path = dir.join(&name);
        let stored_in = dir.join(folder).display().to_string();
        let refused = |way_out: &str| match stage_steps {
            0 => format!("it is refused, not used; to make it anew, remove {stored_in}"),
            _ => format!("it is refused, not used, and its reference, which could make it anew, is gone: {way_out}"),
        };
        let hint = refused(&format!("restore {stored_in}, or start a new run"));
        let stored = match std::fs::read(&path) {
            Ok(text) => text,
            Err(_) if is_version_1 || dir.list(folder, |name| name.ends_with(".jsonl"))?.is_empty() => {
                dir.create_folder(folder)?;
                return dir.write(&name, &crate::formats::json_lines::json_line(self)?);
            }
            Err(error) => return Err(Error::reading(&path)(error).with_hint(hint)),
        };
        let stored: Binding = serde_json::from_slice(&stored)
            .map_err(|error| Error::input(&path, error.to_string()).with_hint(hint.clone()))?;
        // Other settings are refused before this is asked: what is left is the device of a run that kept `auto`.
        let same_device = refused("resume on the device that the run began on; env.json names it");
        let parts = [
            (stored.policy == self.policy, "policy", hint),
            (stored.rows == self.rows, "prompts or demonstrations", refused("restore the data file")),
            (stored.settings == self.settings, "seed, generation settings or device", same_device),
        ];
        match parts.into_iter().find(|(is_same, ..)| !is_same) {
            None => Ok(()),
            Some((_, what, hint)) => Err(Error::input(
                dir.join(folder),
                format!("stale: the stored responses and log-probs are of another {what} than this run's"),
            )
            .with_hint(hint)),
        }
    }
}

/// Tells one policy from another: the hash of every parameter's name and values.
///
/// # Errors
/// A failing device.
pub fn policy_hash(model: &CausalLm) -> Result<String> {
    hash_of(weights::all_tensors(model))
}

/// The same of the weights that training leaves as they are: with an adapter, those of the model under it.
///
/// # Errors
/// A failing device.
pub(super) fn frozen_hash(model: &CausalLm) -> Result<String> {
    hash_of(weights::frozen_tensors(model))
}

fn hash_of(tensors: Vec<TensorToWrite<'_>>) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for tensor in tensors {
        let tensor = tensor.into_host()?;
        hasher.update(format!("{} {:?}\n", tensor.name, tensor.shape).as_bytes());
        for piece in tensor.values.chunks(1 << 14) {
            let bytes: Vec<u8> = piece.iter().flat_map(|value| value.to_le_bytes()).collect();
            hasher.update(&bytes);
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Tells whether two lists of examples are the same, token for token.
pub fn rows_hash(examples: &[Example]) -> String {
    let mut hasher = blake3::Hasher::new();
    for example in examples {
        let given = example.self_generated_ids.as_deref().unwrap_or_default();
        let lists = [&example.prompt_ids[..], &example.demonstration_ids, given];
        let lens = lists.map(|ids| ids.len() as u32);
        let numbers = [example.index as u32].into_iter().chain(lens).chain(lists.concat());
        hasher.update(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    }
    hasher.finalize().to_hex().to_string()
}

/// Spelled out field by field, so that a new key of a later version changes no hash. `generation.batch_size` is left out: it
/// may be lowered when memory runs out. Of `server` only that there is one: the run may go on with another address.
fn settings_hash(config: &RunConfig, device_name: &str) -> String {
    let g = &config.generation;
    let sampling = format!("{} {} {}", g.temperature, g.top_k, g.top_p);
    let shape = format!("{} {} {:?}", g.max_new_tokens, g.samples_per_prompt, g.weights);
    let writer = if config.server.is_some() { " server" } else { "" };
    blake3::hash(format!("{} {device_name} {sampling} {shape}{writer}", config.seed).as_bytes()).to_hex().to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::ServerConfig;
    use crate::formats::file_system::Disk;
    use std::sync::Arc;

    /// A demonstration of these tokens.
    pub fn example(prompt_ids: &[u32], demonstration_ids: &[u32]) -> Example {
        Example {
            index: 0,
            prompt_ids: prompt_ids.to_vec(),
            demonstration_ids: demonstration_ids.to_vec(),
            self_generated_ids: None,
            demonstration_text: None,
        }
    }

    #[test]
    fn a_token_that_moves_from_the_prompt_to_the_demonstration_changes_the_hash() {
        assert_ne!(rows_hash(&[example(&[3, 4], &[5])]), rows_hash(&[example(&[3], &[4, 5])]));
        assert_eq!(rows_hash(&[example(&[3, 4], &[5])]), rows_hash(&[example(&[3, 4], &[5])]));
    }

    #[test]
    fn stored_responses_of_anything_else_are_refused_and_say_why() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::create(Arc::new(Disk), folder.path()).unwrap();
        let binding =
            |policy: &str, config: &RunConfig| Binding::new(policy.to_owned(), &[example(&[3], &[4])], config, "flex");
        let config = RunConfig::default();
        let own = binding("a", &config);
        own.check(&dir, "iteration-000", 0, false).unwrap();
        own.check(&dir, "iteration-000", 0, false).unwrap();
        let mut smaller = config.clone();
        smaller.generation.batch_size = 1;
        binding("a", &smaller).check(&dir, "iteration-000", 0, false).unwrap();
        let other_seed = RunConfig { seed: 1, ..config.clone() };
        let served = RunConfig { server: Some(ServerConfig::default()), ..config.clone() };
        for (other, what) in [
            (binding("b", &config), "policy"),
            (binding("a", &other_seed), "seed"),
            (binding("a", &served), "generation settings"),
        ] {
            let error = other.check(&dir, "iteration-000", 0, false).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            assert!(error.to_string().contains("stale") && error.to_string().contains(what), "{error}");
            assert!(error.hint().unwrap().contains("to make it anew, remove"), "{error}");
        }
    }

    #[test]
    fn in_the_middle_of_training_nobody_is_told_to_remove_what_cannot_be_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::create(Arc::new(Disk), folder.path()).unwrap();
        let config = RunConfig::default();
        let binding = |policy: &str, prompt_ids: &[u32], device_name: &str| {
            Binding::new(policy.to_owned(), &[example(prompt_ids, &[4])], &config, device_name)
        };
        binding("a", &[3], "wgpu").check(&dir, "iteration-000", 0, false).unwrap();
        for (other, way_out) in [
            (binding("b", &[3], "wgpu"), "restore "),
            (binding("a", &[5], "wgpu"), "restore the data file"),
            (binding("a", &[3], "flex"), "resume on the device that the run began on; env.json names it"),
        ] {
            let error = other.check(&dir, "iteration-000", 1, false).unwrap_err();
            let hint = error.hint().unwrap();
            assert!(hint.contains(way_out) && !hint.contains("remove"), "{hint}");
        }
    }

    #[test]
    fn responses_without_a_binding_are_refused_unless_the_checkpoint_is_of_version_1() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::create(Arc::new(Disk), folder.path()).unwrap();
        dir.create_folder("iteration-000").unwrap();
        dir.append("iteration-000/self_generated.jsonl", &1).unwrap();
        let own = Binding::new("a".to_owned(), &[], &RunConfig::default(), "flex");
        assert_eq!(own.check(&dir, "iteration-000", 0, false).unwrap_err().exit_code(), 3);
        own.check(&dir, "iteration-000", 0, true).unwrap();
        own.check(&dir, "iteration-000", 0, false).unwrap(); // now it is bound
    }
}
