//! What a hub, or who writes into one, must not be able to do: learn the token, have pickle files read, choose paths here.

use std::fs;

use serde_json::{Value, json};

use crate::support::binary::{INPUT, assert_says};
use crate::support::hub_place::{GENERATE, Place, SERVER, WEIGHTS, all_files, files_of};
use crate::support::mock_hub::{Faults, SIGNATURE, TOKEN};

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
