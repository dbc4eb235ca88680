//! Models and data sets of the Hugging Face hub, by the real binary against a hub on this machine: fetched once, pinned, shared
//! with other programs, offline, named in runs and exports.

use std::fs;

use serde_json::{Value, json};

use crate::support::binary::{INPUT, assert_says, export, gsil, read, read_json, read_json_lines, text_model};
use crate::support::fixture;
use crate::support::hub_place::{GENERATE, Place, WEIGHTS, all_files, files_of};
use crate::support::mock_hub::git_hash;

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
    #[cfg(unix)]
    {
        let link = fs::read_link(snapshot.join("config.json")).unwrap();
        assert_eq!(link, std::path::Path::new("../../blobs").join(git_hash(&config)));
    }
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
fn lists_are_asked_for_compressed_and_files_as_they_are() {
    let place = Place::new();
    place.generate("o/tiny", &[]).succeeded();
    for seen in place.hub.seen() {
        let encoding = if seen.line.contains("/api/") { "gzip" } else { "identity" };
        assert_eq!(seen.accept_encoding.as_deref(), Some(encoding), "{seen:?}");
    }
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
    assert_says(&config, &[&format!("model: \"{name}\"")]);
    assert_eq!(read_json(&place.path("run/env.json"))["model"], json!(name));

    place.hub.commit("models/o/tiny", place.other_files());
    fs::remove_dir_all(place.path("cache")).unwrap();
    // As a crash before the first checkpoint leaves it: all is done again.
    fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    fs::remove_file(place.path("run/latest")).unwrap();
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
fn a_run_that_began_offline_is_exported_with_what_is_fetched_and_resumed_so_where_it_is_told_to() {
    let place = Place::new();
    place.generate("o/tiny", &[]).succeeded();
    let train =
        ["train", "--model", "o/tiny", "--data", "rows.jsonl", "--device", "flex", "--output", "run", "--offline"];
    let settings = ["generation.max_new_tokens=4", "generation.unfinished=mask", "train.batch_size=2", "train.lr=1e-3"];
    place.run(&[&train[..], &settings].concat()).succeeded();
    assert_says(&read(&place.path("run/config.ron")), &["offline: true"]);

    fs::remove_dir_all(place.path("cache")).unwrap();
    place.hub.seen();
    let export = ["export", "run", "--checkpoint", "best", "--format", "hf", "--output", "best"];
    let lacking = place.run(&[&export[..], &["--offline"]].concat()).failed(INPUT);
    assert_says(&lacking, &["the cache lacks ", "hint: without --offline (and `offline: true` in the settings"]);
    assert_eq!(place.hub.seen().len(), 0, "offline asks nobody");
    place.run(&export).succeeded();

    fs::remove_dir_all(place.path("cache")).unwrap();
    // As a crash before the first checkpoint leaves it: all is done again.
    fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    fs::remove_file(place.path("run/latest")).unwrap();
    place.hub.seen();
    let lacking = place.run(&["resume", "run"]).failed(INPUT);
    let hint = "hint: the run began offline; to fetch it: gsil resume run offline=false";
    assert_says(&lacking, &["the cache lacks ", hint]);
    assert_eq!(place.hub.seen().len(), 0, "offline asks nobody");
    place.run(&["resume", "run", "offline=false"]).succeeded();
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
fn the_problems_of_an_evaluation_may_be_a_data_set() {
    let place = Place::new();
    let problems = fixture("humaneval/problems.jsonl");
    let file = ("HumanEval.jsonl".to_owned(), fs::read(&problems).unwrap());
    place.hub.commit("datasets/o/problems", [file].into());
    let sample = |problem: Value| json!({"task_id": problem["task_id"], "completion": ""}).to_string() + "\n";
    let samples: String = read_json_lines(&problems).into_iter().map(sample).collect();
    fs::write(place.path("samples.jsonl"), samples).unwrap();
    for options in [&[][..], &["--offline"]] {
        let command = ["eval", "humaneval", "--data", "o/problems", "--samples", "samples.jsonl"];
        let outcome = place.run(&[&command[..], options].concat()).succeeded();
        assert_eq!(outcome.json_lines()[0]["num_samples"], 3);
    }
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
fn a_data_set_without_files_that_are_read_is_told_of_its_copy_as_parquet() {
    let place = Place::new();
    place.hub.commit("datasets/o/zipped", [("train.jsonl.gz".to_owned(), Vec::new())].into());
    let stderr = place.run(&["inspect", "data", "o/zipped", "--model", "local"]).failed(INPUT);
    assert_says(
        &stderr,
        &["has no files of data that are read", "hint: known endings are ", ": o/zipped@refs/convert/parquet\n"],
    );
}

#[test]
fn what_exists_as_a_path_is_never_looked_for_on_the_hub() {
    let place = Place::new();
    fs::create_dir(place.path("o")).unwrap();
    fs::rename(place.path("local"), place.path("o/tiny")).unwrap();
    place.generate("o/tiny", &[]).succeeded();
    for absent in ["./o/none", "o/none", "o/none/model", "o/none/x.gguf", "none", "o/none.gguf"] {
        let stderr = gsil(place.folder.path(), &[&GENERATE[..], &["--model", absent]].concat()).failed(INPUT);
        assert_says(&stderr, &[&format!("{absent}: no such file or folder")]);
    }
    let export = ["export", "o/none", "--format", "hf", "--output", "x"];
    for arguments in [&export[..], &["train", "--model", "o/none", "--data", "d"]] {
        let stderr = gsil(place.folder.path(), arguments).failed(INPUT);
        assert_says(&stderr, &["error: o/none: no such file or folder\n", "hint: in o: tiny; ", "o/none@main"]);
    }
    assert_eq!(place.hub.seen().len(), 0);
    place.generate("o/tiny@main", &[]).succeeded();
    assert!(place.hub.seen().len() > 1, "with a revision the hub is meant");
}
