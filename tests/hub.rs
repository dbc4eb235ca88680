//! Models and data sets of the Hugging Face hub, by the real binary against a hub on this machine: pinned, checked, shared
//! with other programs, offline, and with nothing told to anybody whom it does not concern.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::support::binary::{
    Outcome, command, ending_model, export, gsil, read, read_json, text_model, wait, write_rows,
};
use crate::support::mock_hub::{Faults, Files, MockHub, SIGNATURE, TOKEN, git_hash};

const INPUT: i32 = 3;
const SERVER: i32 = 4;
const DISK: i32 = 6;
const WEIGHTS: &str = "model.safetensors";
const GENERATE: [&str; 7] = ["generate", "--data", "rows.jsonl", "--device", "flex", "--max-new-tokens", "4"];

/// A folder to work in, a cache, and a hub with the model `o/tiny`.
struct Place {
    folder: TempDir,
    hub: MockHub,
    commit: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempdir().unwrap();
        write_rows(&folder.path().join("rows.jsonl"), 6);
        let hub = MockHub::start();
        let commit = hub.commit("models/o/tiny", files_of(&ending_model(folder.path())));
        fs::rename(folder.path().join("tiny"), folder.path().join("local")).unwrap();
        Place { folder, hub, commit }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(self.folder.path(), arguments);
        command.env("HF_ENDPOINT", &self.hub.url).env("HF_HOME", self.path("cache"));
        for name in [
            "HF_HUB_CACHE",
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "http_proxy",
            "HTTP_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        wait(self.command(arguments).spawn().unwrap())
    }

    fn run_with(&self, name: &str, value: &str, arguments: &[&str]) -> Outcome {
        wait(self.command(arguments).env(name, value).spawn().unwrap())
    }

    /// What a model writes for every row.
    fn generate(&self, model: &str, options: &[&str]) -> Outcome {
        self.run(&[&GENERATE[..], &["--model", model], options].concat())
    }

    fn repository(&self) -> PathBuf {
        self.path("cache/hub/models--o--tiny")
    }

    /// The files of the model with one weight changed.
    fn other_files(&self) -> Files {
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
    fn assert_no_weights(&self) {
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

fn files_of(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// Every file below a folder, links included.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    entries
        .flat_map(|entry| match entry.file_type().unwrap().is_dir() {
            true => all_files(&entry.path()),
            false => vec![entry.path()],
        })
        .collect()
}

#[track_caller]
fn assert_says(stderr: &str, parts: &[&str]) {
    for part in parts {
        assert!(stderr.contains(part), "no {part:?} in: {stderr}");
    }
}

#[test]
fn a_model_of_the_hub_answers_as_the_same_files_on_disk_and_lies_where_other_programs_look() {
    let place = Place::new();
    let local = place.generate("local", &[]).succeeded();
    let fetched = place.generate("o/tiny", &[]).succeeded();
    assert_eq!(fetched.stdout, local.stdout);
    let repository = place.repository();
    assert_eq!(read(&repository.join("refs/main")), place.commit);
    let snapshot = repository.join("snapshots").join(&place.commit);
    let config = fs::read(place.path("local/config.json")).unwrap();
    let link = fs::read_link(snapshot.join("config.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(git_hash(&config)));
    assert_eq!(fs::read(snapshot.join("config.json")).unwrap(), config);
    assert!(repository.join(".no_exist").join(&place.commit).join("tokenizer.json").exists());
    let partial = all_files(&repository).into_iter().find(|path| path.to_string_lossy().contains("incomplete"));
    assert_eq!(partial, None);
}

#[test]
fn only_what_is_needed_is_fetched() {
    let place = Place::new();
    let mut files = files_of(&place.path("local"));
    for name in ["README.md", "pytorch_model.bin", "onnx/model.onnx", "model.gguf", "training_args.bin"] {
        files.insert(name.into(), b"not needed".to_vec());
    }
    place.hub.commit("models/o/tiny", files);
    place.generate("o/tiny", &[]).succeeded();
    let mut names: Vec<String> =
        place.hub.seen_with("/resolve/").iter().map(|seen| seen.line.rsplit('/').next().unwrap().to_owned()).collect();
    names.dedup();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, ["config.json", WEIGHTS]);
}

#[test]
fn a_second_run_fetches_no_file_and_a_commit_is_not_even_asked_for() {
    let place = Place::new();
    let first = place.generate("o/tiny", &[]).succeeded();
    assert_eq!(place.hub.seen_with("cdn GET").len(), 1);
    assert_eq!(place.generate("o/tiny", &[]).succeeded().stdout, first.stdout);
    let seen: Vec<String> = place.hub.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(seen, ["GET /api/models/o/tiny/revision/main"]);
    let pinned = format!("o/tiny@{}", place.commit);
    assert_eq!(place.generate(&pinned, &[]).succeeded().stdout, first.stdout);
    assert_eq!(place.hub.seen().len(), 0);
}

#[test]
fn a_pinned_revision_stays_when_main_moves() {
    let place = Place::new();
    let before = place.generate("o/tiny", &[]).succeeded();
    let moved = place.hub.commit("models/o/tiny", place.other_files());
    let after = place.generate("o/tiny", &[]).succeeded();
    assert_ne!(after.stdout, before.stdout);
    assert_eq!(read(&place.repository().join("refs/main")), moved);
    fs::remove_dir_all(place.path("cache")).unwrap();
    let pinned = place.generate(&format!("o/tiny@{}", place.commit), &[]).succeeded();
    assert_eq!(pinned.stdout, before.stdout);
    let unchanged = git_hash(&fs::read(place.path("local/config.json")).unwrap());
    assert!(place.repository().join("blobs").join(unchanged).exists());
}

#[test]
fn a_run_remembers_the_commit_and_resumes_and_exports_with_it() {
    let place = Place::new();
    let train = [
        "train",
        "--model",
        "o/tiny",
        "--data",
        "rows.jsonl",
        "--device",
        "flex",
        "--output",
        "run",
        "lora.rank=2",
        "generation.max_new_tokens=4",
        "generation.unfinished=mask",
        "train.batch_size=2",
        "train.micro_batch_size=2",
        "train.lr=1e-3",
    ];
    place.run(&train).succeeded();
    let name = format!("o/tiny@{}", place.commit);
    let config = read(&place.path("run/config.ron"));
    assert_says(&config, &[&format!("model: Some(\"{name}\")")]);
    assert_eq!(read_json(&place.path("run/env.json"))["model"], json!(name));

    place.hub.commit("models/o/tiny", place.other_files());
    fs::remove_dir_all(place.path("cache")).unwrap();
    fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    place.hub.seen();
    let weights = fs::read(place.path("run/model").join(WEIGHTS)).unwrap();
    place.run(&["resume", "run"]).succeeded();
    let asked = place.hub.seen();
    assert!(asked.iter().all(|seen| seen.line.contains(&place.commit)), "{asked:?}");
    assert!(weights == fs::read(place.path("run/model").join(WEIGHTS)).unwrap(), "the resumed run made another model");

    place.run(&["export", "run", "--format", "peft", "--output", "adapter"]).succeeded();
    let adapter = read_json(&place.path("adapter/adapter_config.json"));
    assert_eq!((&adapter["base_model_name_or_path"], &adapter["revision"]), (&json!("o/tiny"), &json!(place.commit)));
    let card = read(&place.path("adapter/README.md"));
    assert_says(&card, &["\nbase_model: o/tiny\n", &format!("| base model | `{name}` |")]);
}

#[test]
fn offline_takes_what_the_cache_has_and_names_what_it_lacks() {
    let place = Place::new();
    let lacking = place.generate("o/tiny", &["--offline"]).failed(INPUT);
    assert_says(
        &lacking,
        &["o/tiny: no such file or folder, and the cache has no revision `main`", "hint: without --offline"],
    );
    assert_eq!(place.hub.seen().len(), 0, "offline asks nobody");
    let fetched = place.generate("o/tiny", &[]).succeeded();
    place.hub.seen();
    assert_eq!(place.generate("o/tiny", &["--offline"]).succeeded().stdout, fetched.stdout);
    let arguments = [&GENERATE[..], &["--model", "o/tiny"]].concat();
    assert_eq!(place.run_with("HF_HUB_OFFLINE", "1", &arguments).succeeded().stdout, fetched.stdout);
    fs::remove_file(place.repository().join("snapshots").join(&place.commit).join(WEIGHTS)).unwrap();
    let lacking = place.generate("o/tiny", &["--offline"]).failed(INPUT);
    assert_says(&lacking, &[&format!("the cache lacks {WEIGHTS} of commit {}", place.commit)]);
    assert_eq!(place.hub.seen().len(), 0, "offline asks nobody");
}

#[test]
fn a_hub_that_is_away_is_replaced_by_the_cache_with_a_warning() {
    let place = Place::new();
    let free_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let arguments = [&GENERATE[..], &["--model", "o/tiny"]].concat();
    let away = format!("http://{free_port}");
    let stderr = place.run_with("HF_ENDPOINT", &away, &arguments).failed(SERVER);
    assert_says(&stderr, &[&format!("server {away}: it refuses connections"), "hint: look at the network"]);
    let fetched = place.generate("o/tiny", &[]).succeeded();
    let cached = place.run_with("HF_ENDPOINT", &away, &arguments).succeeded();
    assert_eq!(cached.stdout, fetched.stdout);
    assert_says(&cached.stderr, &["warning: ", &format!("taken from the cache: o/tiny@{}", place.commit)]);
}

#[test]
fn a_file_with_another_hash_is_removed_and_reported() {
    let place = Place::new();
    for name in ["config.json", WEIGHTS] {
        let mut content = fs::read(place.path("local").join(name)).unwrap();
        *content.last_mut().unwrap() ^= 1;
        place.hub.set_faults(Faults { content: Some((name, content)), ..Faults::default() });
        let stderr = place.generate("o/tiny", &[]).failed(INPUT);
        assert_says(&stderr, &[name, "another hash than the hub said", "hint: try again"]);
        place.assert_no_weights();
        let left = all_files(&place.repository().join("blobs")).len();
        assert_eq!(left, usize::from(name == WEIGHTS), "only a right config.json stays");
    }
    place.hub.set_faults(Faults::default());
    place.generate("o/tiny", &[]).succeeded();
}

#[test]
fn a_file_of_another_size_is_removed_and_reported() {
    let place = Place::new();
    let content = [fs::read(place.path("local").join(WEIGHTS)).unwrap(), b"and more".to_vec()].concat();
    place.hub.set_faults(Faults { content: Some((WEIGHTS, content)), ..Faults::default() });
    assert_says(&place.generate("o/tiny", &[]).failed(INPUT), &[WEIGHTS, "more came than the"]);
    place.assert_no_weights();
}

#[test]
fn a_torn_transfer_is_continued_where_it_broke_off() {
    let place = Place::new();
    place.hub.set_faults(Faults { torn: Some((WEIGHTS, 100_000, 2)), ..Faults::default() });
    place.generate("o/tiny", &[]).succeeded();
    let ranges: Vec<Option<String>> = place.hub.seen_with("cdn GET").into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), Some("bytes=200000-".to_owned())]);
}

#[test]
fn a_transfer_that_never_ends_well_is_a_server_error_and_the_next_run_goes_on_from_it() {
    let place = Place::new();
    let local = place.generate("local", &[]).succeeded();
    let mut faults = Faults { torn: Some((WEIGHTS, 0, 100)), ..Faults::default() };
    place.hub.set_faults(faults.clone());
    let stderr = place.generate("o/tiny", &[]).failed(SERVER);
    assert_says(
        &stderr,
        &[WEIGHTS, "the transfer ended after 0 of 479256 bytes", "hint: what has come so far is kept"],
    );
    place.assert_no_weights();
    let partial = all_files(&place.repository().join("blobs"));
    let partial = partial.iter().find(|path| path.extension().is_some_and(|ending| ending == "incomplete")).unwrap();
    fs::write(partial, &fs::read(place.path("local").join(WEIGHTS)).unwrap()[..300_000]).unwrap();
    let offline = place.generate(&format!("o/tiny@{}", place.commit), &["--offline"]).failed(INPUT);
    assert_says(&offline, &[&format!("the cache lacks tokenizer.json, {WEIGHTS}")]);
    faults.torn = None;
    place.hub.set_faults(faults);
    place.hub.seen();
    assert_eq!(place.generate("o/tiny", &[]).succeeded().stdout, local.stdout);
    assert_eq!(place.hub.seen_with("cdn GET")[0].range.as_deref(), Some("bytes=300000-"));
}

#[test]
fn a_beginning_that_does_not_belong_to_the_file_is_thrown_away() {
    let place = Place::new();
    let local = place.generate("local", &[]).succeeded();
    for (num_bytes, no_ranges) in [(1000, false), (1000, true), (479_256, false), (1_000_000, false)] {
        let fetched = place.generate("o/tiny", &[]).succeeded();
        assert_eq!(fetched.stdout, local.stdout, "{num_bytes}, {no_ranges}");
        let blobs = all_files(&place.repository().join("blobs"));
        let blob = blobs.iter().find(|path| path.file_name().unwrap().len() == 64).unwrap();
        fs::remove_file(blob).unwrap();
        fs::write(format!("{}.incomplete", blob.display()), vec![b'x'; num_bytes]).unwrap();
        place.hub.set_faults(Faults { no_ranges, ..Faults::default() });
    }
    assert_eq!(place.generate("o/tiny", &[]).succeeded().stdout, local.stdout);
}

#[test]
fn the_token_goes_to_the_hub_alone_and_stands_in_no_output_and_no_file() {
    let place = Place::new();
    let train = [
        "train",
        "--model",
        "o/tiny",
        "--data",
        "rows.jsonl",
        "--device",
        "flex",
        "--output",
        "run",
        "generation.max_new_tokens=4",
        "generation.unfinished=mask",
    ];
    let mut outputs = vec![place.run_with("HF_TOKEN", TOKEN, &train).succeeded()];
    let seen = place.hub.seen();
    let (elsewhere, at_hub): (Vec<_>, Vec<_>) = seen.iter().partition(|seen| seen.line.starts_with("cdn "));
    assert!(!elsewhere.is_empty() && at_hub.len() > 2, "{seen:?}");
    assert!(at_hub.iter().all(|seen| seen.authorization == Some(format!("Bearer {TOKEN}"))), "{at_hub:?}");
    assert!(elsewhere.iter().all(|seen| seen.authorization.is_none()), "{elsewhere:?}");

    let arguments = [&GENERATE[..], &["--model", "o/tiny"]].concat();
    for faults in [
        Faults { status: Some(("", 401, "")), ..Faults::default() },
        Faults { status: Some(("", 403, "GatedRepo")), ..Faults::default() },
        Faults { status: Some(("", 500, "")), ..Faults::default() },
        Faults { headers: vec![("Location", format!("http://127.0.0.1:1/{SIGNATURE}"))], ..Faults::default() },
        Faults { headers: vec![("Location", format!("nonsense {SIGNATURE}"))], ..Faults::default() },
    ] {
        let _ = fs::remove_dir_all(place.path("cache"));
        place.hub.set_faults(faults);
        let outcome = place.run_with("HF_TOKEN", TOKEN, &arguments);
        assert_ne!(outcome.code, Some(0));
        outputs.push(outcome);
    }
    outputs.push(place.run_with("HF_TOKEN", "hf_aVery\u{e9}SecretTokenOfNobody", &arguments));
    for output in &outputs {
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(!said.contains("SecretToken") && !said.contains(SIGNATURE), "{said}");
    }
    let files = all_files(place.folder.path());
    assert!(files.len() > 20, "{files:?}");
    for path in files {
        let content = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        assert!(!content.contains(TOKEN) && !content.contains(SIGNATURE), "{}", path.display());
    }
}

#[test]
fn the_token_file_is_read_and_a_listing_elsewhere_does_not_get_it() {
    let place = Place::new();
    fs::create_dir_all(place.path("cache")).unwrap();
    fs::write(place.path("cache/token"), format!("{TOKEN}\n")).unwrap();
    place.hub.set_faults(Faults { listing_moved_to_other_host: true, ..Faults::default() });
    place.generate("o/tiny", &[]).succeeded();
    let seen = place.hub.seen();
    let listings: Vec<_> = seen.iter().filter(|seen| seen.line.contains("/api/")).collect();
    assert_eq!(listings[0].authorization, Some(format!("Bearer {TOKEN}")));
    assert!(listings[1].line.starts_with("cdn ") && listings[1].authorization.is_none(), "{listings:?}");
}

#[test]
fn weights_in_pickle_files_alone_are_refused_and_not_fetched() {
    let place = Place::new();
    let mut files = files_of(&place.path("local"));
    let weights = files.remove(WEIGHTS).unwrap();
    files.insert("pytorch_model.bin".into(), weights);
    place.hub.commit("models/o/pickle", files);
    let stderr = place.generate("o/pickle", &[]).failed(INPUT);
    assert_says(
        &stderr,
        &["weights in pickle files alone (pytorch_model.bin)", "hint: pickle files can run code and are never fetched"],
    );
    assert_eq!(place.hub.seen_with("/resolve/").len(), 0);
}

#[test]
fn a_gguf_file_is_named_by_its_path_and_a_repository_of_them_lists_them() {
    let place = Place::new();
    export(place.folder.path(), &text_model(place.folder.path()), "gguf", &place.path("gguf"), &[]).succeeded();
    let content = fs::read(place.path("gguf/model.gguf")).unwrap();
    let files = [("tiny-F16.gguf", content.clone()), ("more/tiny-Q8.gguf", content), ("README.md", Vec::new())];
    place.hub.commit("models/o/gguf", files.map(|(name, content)| (name.to_owned(), content)).into());
    let stderr = place.generate("o/gguf", &[]).failed(INPUT);
    assert_says(
        &stderr,
        &["GGUF files", "hint: name the file that you want: o/gguf/more/tiny-Q8.gguf, o/gguf/tiny-F16.gguf"],
    );
    let stderr = place.generate("o/gguf@main/tiny-F32.gguf", &[]).failed(INPUT);
    assert_says(&stderr, &["o/gguf@main/tiny-F32.gguf: no such file", "hint: it has more/tiny-Q8.gguf, tiny-F16.gguf"]);
    place.hub.seen();
    let local = place.generate("gguf/model.gguf", &[]).succeeded();
    assert_eq!(place.generate("o/gguf@main/more/tiny-Q8.gguf", &[]).succeeded().stdout, local.stdout);
    assert_eq!(place.hub.seen_with("cdn GET").len(), 1, "the other file is not fetched");
    assert_eq!(place.generate("o/gguf/tiny-F16.gguf", &[]).succeeded().stdout, local.stdout);
    assert_eq!(place.hub.seen_with("cdn GET").len(), 0, "the same content is there already");
}

#[test]
fn what_the_hub_refuses_is_said_with_what_to_do() {
    let place = Place::new();
    let trouble = "hint: what has come so far is kept";
    for (status, reason, code, parts) in [
        (401, "", INPUT, ["the hub asks who you are (401)", "hint: it does not exist, or is private or gated"]),
        (401, "RepoNotFound", INPUT, ["no such model on http://127.0.0.1", "hint: look at the spelling"]),
        (403, "", INPUT, ["does not give it to you (403)", "hint: accept its licence at http://127.0.0.1"]),
        (401, "GatedRepo", INPUT, ["does not give it to you (401)", "/o/tiny, then set HF_TOKEN"]),
        (404, "", INPUT, ["no such file or folder here, and no such model", "hint: look at the spelling"]),
        (404, "RevisionNotFound", INPUT, ["has no revision `main`", "hint: give a branch, a tag or a commit"]),
        (429, "", SERVER, ["too many requests (429)", "hint: with a token in HF_TOKEN"]),
        (500, "", SERVER, ["it is in trouble (500)", trouble]),
        (503, "", SERVER, ["it is in trouble (503)", trouble]),
        (418, "", SERVER, ["it refuses the request (418)", "hint: is HF_ENDPOINT a hub?"]),
    ] {
        place.hub.set_faults(Faults { status: Some(("/api/", status, reason)), ..Faults::default() });
        assert_says(&place.generate("o/tiny", &[]).failed(code), &parts);
        let num_tries = if matches!(status, 429 | 500..) { 4 } else { 1 };
        assert_eq!(place.hub.seen().len(), num_tries, "{status} {reason}");
    }
    place.hub.set_faults(Faults { status: Some(("/resolve/", 403, "GatedRepo")), ..Faults::default() });
    assert_says(&place.generate("o/tiny", &[]).failed(INPUT), &["o/tiny, config.json: ", "hint: accept its licence"]);
    place.hub.set_faults(Faults::default());
    assert_says(&place.generate("o/tiny@v9", &[]).failed(INPUT), &["o/tiny@v9: the model has no revision `v9`"]);
    assert_says(&place.generate("o/nothing", &[]).failed(INPUT), &["o/nothing: there is no such file or folder here"]);
}

#[test]
fn a_model_in_shards_is_fetched_through_its_index_and_hostile_names_are_refused() {
    let place = Place::new();
    let mut files = files_of(&place.path("local"));
    let weights = files.remove(WEIGHTS).unwrap();
    let header_len = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&weights[8..8 + header_len]).unwrap();
    let tensors: Vec<&String> = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__").collect();
    let with_index = |shard: &str| {
        let map: serde_json::Map<String, Value> = tensors.iter().map(|name| ((*name).clone(), shard.into())).collect();
        let mut files = files.clone();
        files.insert("model.safetensors.index.json".into(), json!({"weight_map": map}).to_string().into_bytes());
        files.insert(shard.to_owned(), weights.clone());
        files
    };
    place.hub.commit("models/o/shards", with_index("model-00001-of-00001.safetensors"));
    let local = place.generate("local", &[]).succeeded();
    assert_eq!(place.generate("o/shards", &[]).succeeded().stdout, local.stdout);
    place.hub.seen();
    for name in [
        "../../../../evil.safetensors",
        "/tmp/evil.safetensors",
        "a/evil.safetensors",
        "..\\evil.safetensors",
        "evil.bin",
    ] {
        let commit = place.hub.commit("models/o/shards", with_index(name));
        let stderr = place.generate("o/shards", &[]).failed(INPUT);
        assert_says(&stderr, &["is not a plain file name ending in .safetensors"]);
        let offline = place.generate(&format!("o/shards@{commit}"), &["--offline"]).failed(INPUT);
        assert_says(&offline, &["the cache lacks"]);
        assert!(place.hub.seen().iter().all(|seen| !seen.line.contains("evil")), "{name}");
    }
    let outside = all_files(place.folder.path()).into_iter().find(|path| path.to_string_lossy().contains("evil"));
    assert_eq!(outside, None);
}

#[test]
fn what_a_hostile_hub_says_of_files_becomes_no_path() {
    let place = Place::new();
    let header = |name, value: &str| Faults { headers: vec![(name, value.to_owned())], ..Faults::default() };
    let listing = |text: Value| Faults { listing: Some(text.to_string()), ..Faults::default() };
    let sibling = |name: &str| json!({"sha": place.commit, "siblings": [{"rfilename": name}]});
    for (faults, parts) in [
        (header("ETag", "\"../../../../evil\""), ["config.json: it does not say the file's hash"; 1]),
        (header("ETag", &"F".repeat(64)), ["it does not say the file's hash"]),
        (header("X-Linked-Etag", "evil"), ["it does not say the file's hash"]),
        (header("X-Repo-Commit", "../../evil"), ["it offers another commit"]),
        (header("X-Linked-Size", "-1"), ["it does not say the file's size"]),
        (listing(json!({"sha": "../../evil", "siblings": []})), ["it names no commit"]),
        (listing(json!({"sha": 1})), ["its answer is not that of a hub"]),
        (listing(json!([])), ["its answer is not that of a hub"]),
    ] {
        let _ = fs::remove_dir_all(place.path("cache"));
        place.hub.set_faults(faults);
        assert_says(&place.generate("o/tiny", &[]).failed(SERVER), &parts);
        place.assert_no_weights();
    }
    for name in ["../../../evil.jsonl", "/evil.jsonl", "a/../../evil.jsonl", "a\\evil.jsonl", "\u{1b}[2Jevil.jsonl", ""]
    {
        place.hub.set_faults(listing(sibling(name)));
        let arguments = ["score", "--model", "local", "--data", "o/rows", "--device", "flex"];
        let stderr = place.run(&arguments).failed(INPUT);
        let why = if name.is_empty() { "no files of data" } else { "is no name of a file" };
        assert_says(&stderr, &[why]);
        assert!(!stderr.contains('\u{1b}'), "{stderr}");
    }
    let evil = all_files(place.folder.path()).into_iter().find(|path| path.to_string_lossy().contains("evil"));
    assert_eq!(evil, None);
}

#[test]
fn two_processes_fetch_one_model_once() {
    let place = Place::new();
    let local = place.generate("local", &[]).succeeded();
    place.hub.set_faults(Faults { delay: Duration::from_millis(700), ..Faults::default() });
    let arguments = [&GENERATE[..], &["--model", "o/tiny"]].concat();
    let started: Vec<_> = (0..3).map(|_| place.command(&arguments).spawn().unwrap()).collect();
    for child in started {
        assert_eq!(wait(child).succeeded().stdout, local.stdout);
    }
    assert_eq!(place.hub.seen_with("cdn GET").len(), 1);
}

#[test]
fn a_file_that_does_not_fit_on_the_disk_is_not_begun() {
    let place = Place::new();
    place.hub.set_faults(Faults { headers: vec![("X-Linked-Size", (1_u64 << 60).to_string())], ..Faults::default() });
    let stderr = place.generate("o/tiny", &[]).failed(DISK);
    assert_says(&stderr, &["the disk is full"]);
    assert_eq!(place.hub.seen_with("cdn GET").len(), 0);
}

#[test]
fn a_data_set_is_its_file_and_the_model_of_the_hub_its_reference() {
    let place = Place::new();
    let rows = fs::read(place.path("rows.jsonl")).unwrap();
    place
        .hub
        .commit("datasets/o/rows", [("rows.jsonl".to_owned(), rows.clone()), ("README.md".into(), Vec::new())].into());
    let score = |data: &str, options: &[&str]| {
        let common = ["score", "--model", "local", "--reference", "o/tiny", "--device", "flex", "--data", data];
        place.run(&[&common[..], options].concat())
    };
    let expected = score("rows.jsonl", &[]).succeeded();
    assert_eq!(score("o/rows", &[]).succeeded().stdout, expected.stdout);
    assert_eq!(score("o/rows@main/rows.jsonl", &["--offline"]).succeeded().stdout, expected.stdout);
    assert_eq!(place.hub.seen_with("/resolve/").iter().filter(|seen| seen.line.contains("README")).count(), 0);
    let folders = ["one/train.jsonl", "two/train.jsonl"].map(|name| (name.to_owned(), rows.clone()));
    place.hub.commit("datasets/o/folders", folders.into());
    let stderr = score("o/folders", &[]).failed(INPUT);
    assert_says(
        &stderr,
        &["data in several folders", "hint: name the one that you want: o/folders/one, o/folders/two"],
    );
    assert_eq!(score("o/folders/two", &[]).succeeded().stdout, expected.stdout);
}

#[test]
fn a_model_of_the_hub_is_exported_under_its_name() {
    let place = Place::new();
    place.run(&["export", "o/tiny", "--format", "hf", "--output", "copy"]).succeeded();
    let card = read(&place.path("copy/README.md"));
    assert_says(&card, &["\nbase_model: o/tiny\n", &format!("`o/tiny@{}` in another format", place.commit)]);
    let local = place.generate("local", &[]).succeeded();
    assert_eq!(place.generate("copy", &[]).succeeded().stdout, local.stdout);
}

#[test]
fn what_exists_as_a_path_is_never_looked_for_on_the_hub() {
    let place = Place::new();
    fs::create_dir(place.path("o")).unwrap();
    fs::rename(place.path("local"), place.path("o/tiny")).unwrap();
    place.generate("o/tiny", &[]).succeeded();
    for absent in ["./o/none", "o/none/model", "none", "o/none.gguf"] {
        let stderr = gsil(place.folder.path(), &[&GENERATE[..], &["--model", absent]].concat()).failed(INPUT);
        assert_says(&stderr, &[&format!("{absent}: no such file or folder")]);
    }
    assert_eq!(place.hub.seen().len(), 0);
}
