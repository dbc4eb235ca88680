//! A place to try downloads in: a folder to work in, a cache, and a hub with a model, for the real binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::{TempDir, tempdir};

use super::binary::{DEVICE, Outcome, command, ending_model, wait, write_rows};
use super::mock_hub::{Files, MockHub};

/// The exit code of a server's errors, as of a device's.
pub const SERVER: i32 = DEVICE;
/// The file with the weights.
pub const WEIGHTS: &str = "model.safetensors";
/// `gsil generate` of the rows, without a model.
pub const GENERATE: [&str; 7] = ["generate", "--data", "rows.jsonl", "--device", "flex", "--max-new-tokens", "4"];

/// A folder to work in, a cache, and a hub with the model `o/tiny`.
pub struct Place {
    pub folder: TempDir,
    pub hub: MockHub,
    pub commit: String,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempdir().unwrap();
        write_rows(&folder.path().join("rows.jsonl"), 6);
        let hub = MockHub::start();
        let commit = hub.commit("models/o/tiny", files_of(&ending_model(folder.path())));
        fs::rename(folder.path().join("tiny"), folder.path().join("local")).unwrap();
        Place { folder, hub, commit }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(self.folder.path(), arguments);
        command.env("HF_ENDPOINT", &self.hub.url).env("HF_HOME", self.path("cache"));
        for name in [
            "HF_HUB_CACHE",
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN",
            "HUGGINGFACE_HUB_CACHE",
            "HUGGING_FACE_HUB_TOKEN",
            "TRANSFORMERS_OFFLINE",
            "http_proxy",
            "HTTP_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ] {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        wait(self.command(arguments).spawn().unwrap())
    }

    pub fn run_with(&self, name: &str, value: &str, arguments: &[&str]) -> Outcome {
        wait(self.command(arguments).env(name, value).spawn().unwrap())
    }

    /// What a model writes for every row.
    pub fn generate(&self, model: &str, options: &[&str]) -> Outcome {
        self.run(&[&GENERATE[..], &["--model", model], options].concat())
    }

    pub fn repository(&self) -> PathBuf {
        self.path("cache/hub/models--o--tiny")
    }

    /// The files of the model with one weight changed.
    pub fn other_files(&self) -> Files {
        let mut files = files_of(&self.path("local"));
        let weights = files.get_mut(WEIGHTS).unwrap();
        let middle = weights.len() / 2;
        for byte in &mut weights[middle..] {
            *byte ^= 1; // the lowest bits of some mantissas and more
        }
        files
    }

    /// Nothing in the cache looks like the weights.
    #[track_caller]
    pub fn assert_no_weights(&self) {
        let all = all_files(&self.path("cache"));
        let found: Vec<&PathBuf> = all
            .iter()
            .filter(|path| path.ends_with(WEIGHTS) && !path.to_string_lossy().contains(".no_exist"))
            .collect();
        assert!(found.is_empty(), "{found:?}");
        let whole = |path: &&PathBuf| path.file_name().is_some_and(|name| name.len() == 64);
        assert_eq!(all.iter().find(whole), None);
    }
}

pub fn files_of(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// Every file below a folder, links included.
pub fn all_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    entries
        .flat_map(|entry| match entry.file_type().unwrap().is_dir() {
            true => all_files(&entry.path()),
            false => vec![entry.path()],
        })
        .collect()
}
