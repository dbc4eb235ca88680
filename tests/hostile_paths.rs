//! No path from a model folder leaves it (promise R17): names in an index, symbolic links, and files that are no files.

use std::fs;
use std::path::{Path, PathBuf};

use gsil::Error;
use gsil::formats::open_model;
use serde_json::json;
use tempfile::{TempDir, tempdir};

use crate::support::binary::golden;
use crate::support::doors::assert_input_error;

/// A model folder without weights inside a folder with good weights: whoever leaves the first finds the second.
fn folder_without_weights() -> (TempDir, PathBuf) {
    let parent = tempdir().unwrap();
    let folder = parent.path().join("model");
    fs::create_dir_all(folder.join("inside")).unwrap();
    fs::copy(golden("tiny_llama/config.json"), folder.join("config.json")).unwrap();
    for place in ["outside.safetensors", "model/inside/shard.safetensors"] {
        fs::copy(golden("tiny_llama/model.safetensors"), parent.path().join(place)).unwrap();
    }
    (parent, folder)
}

fn error_with_shard(folder: &Path, shard: &str) -> Error {
    // The first shard is missing: its absence must not be noticed before the second name is refused.
    let index = json!({"weight_map": {"a": "absent.safetensors", "model.norm.weight": shard}});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    open_model(folder).unwrap_err()
}

#[test]
fn names_of_shards_that_are_not_plain_are_refused_before_anything_is_opened() {
    let (parent, folder) = folder_without_weights();
    let absolute = parent.path().join("outside.safetensors").to_str().unwrap().to_owned();
    let long = format!("{}.safetensors", "n".repeat(250));
    let names = [
        "../outside.safetensors",
        "..\\outside.safetensors",
        "../model/../outside.safetensors",
        "./outside.safetensors",
        "inside/shard.safetensors",
        "inside\\shard.safetensors",
        "inside/../../outside.safetensors",
        "inside//shard.safetensors",
        "/outside.safetensors",
        "//host/share/outside.safetensors",
        "\\\\host\\share\\outside.safetensors",
        "\\\\?\\C:\\outside.safetensors",
        "C:\\outside.safetensors",
        "C:outside.safetensors",
        "file:///outside.safetensors",
        "https://host/outside.safetensors",
        "outside.safetensors:stream.safetensors",
        "outside.safetensors\0",
        "a\0.safetensors",
        "a\n.safetensors",
        "a\u{1b}[2J.safetensors",
        "outside.safetensors/",
        "outside.safetensors/..",
        "outside.safetensors/.",
        "",
        ".",
        "..",
        ".safetensors",
        "outside",
        "outside.bin",
        "outside.SAFETENSORS",
        "outside.safetensors ",
        "*.safetensors",
        "shard?.safetensors",
        "|cat.safetensors",
        "CON.safetensors",
        "nul.safetensors",
        "aux .safetensors",
        "Com1.part.safetensors",
        "LPT\u{b9}.safetensors",
        absolute.as_str(),
        long.as_str(),
    ];
    assert!(names.len() >= 30);
    for name in names {
        let error = error_with_shard(&folder, name);
        assert_input_error(&error, "model.safetensors.index.json");
        assert!(error.to_string().contains("is not a plain file name ending in .safetensors"), "{name:?}: {error}");
        assert!(!error.to_string().contains(['\0', '\u{1b}']), "{error:?}");
    }
    let error = error_with_shard(&folder, "model-00001-of-00002.safetensors");
    assert!(error.to_string().contains("names `absent.safetensors`, which is not in the folder"), "{error}");
}

#[cfg(unix)]
#[test]
fn symbolic_links_that_leave_the_folder_are_refused() {
    use std::os::unix::fs::symlink;
    let (parent, folder) = folder_without_weights();
    let absolute = parent.path().join("outside.safetensors");
    fs::create_dir(parent.path().join("blobs")).unwrap();
    fs::copy(&absolute, parent.path().join("blobs/beside.safetensors")).unwrap();
    fs::copy(golden("tiny_llama/config.json"), parent.path().join("text")).unwrap();
    symlink("..", folder.join("up")).unwrap();
    for target in
        ["../outside.safetensors", absolute.to_str().unwrap(), "up/outside.safetensors", "../blobs/beside.safetensors"]
    {
        let weights = folder.join("model.safetensors");
        symlink(target, &weights).unwrap();
        let error = open_model(&folder).unwrap_err();
        assert_input_error(&error, "model.safetensors");
        assert!(error.to_string().contains("leads out of the model folder"), "{target}: {error}");
        assert!(error.hint().is_some());
        fs::rename(&weights, folder.join("linked.safetensors")).unwrap();
        assert!(error_with_shard(&folder, "linked.safetensors").to_string().contains("which is not in the folder"));
        let index = json!({"weight_map": {"model.norm.weight": "linked.safetensors"}});
        fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        assert!(open_model(&folder).unwrap_err().to_string().contains("leads out of the model folder"), "{target}");
        fs::remove_file(folder.join("linked.safetensors")).unwrap();
    }
    // What a run copies into its result must not be a secret of this machine either.
    fs::copy(&absolute, folder.join("model.safetensors")).unwrap();
    open_model(&folder).unwrap();
    for name in ["tokenizer.json", "generation_config.json", "config.json"] {
        let _ = fs::remove_file(folder.join(name));
        symlink("../text", folder.join(name)).unwrap();
        assert_input_error(&open_model(&folder).unwrap_err(), name);
        fs::remove_file(folder.join(name)).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn links_inside_the_folder_are_followed_and_broken_ones_are_errors() {
    use std::os::unix::fs::symlink;
    let (_parent, folder) = folder_without_weights();
    let weights = folder.join("model.safetensors");
    symlink("inside/shard.safetensors", &weights).unwrap();
    assert!(open_model(&folder).unwrap().weights.shape("model.norm.weight").is_some());
    for target in ["nowhere", "model.safetensors"] {
        fs::remove_file(&weights).unwrap();
        symlink(target, &weights).unwrap();
        assert_input_error(&open_model(&folder).unwrap_err(), "model.safetensors: cannot read");
    }
}

/// Opening a named pipe waits for somebody to write to it; opening a device may do anything.
#[cfg(unix)]
#[test]
fn what_is_not_a_regular_file_is_refused_before_it_is_opened() {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    let (_parent, folder) = folder_without_weights();
    let weights = folder.join("model.safetensors");
    let made = std::process::Command::new("mkfifo").arg(&weights).status().unwrap();
    assert!(made.success());
    let refused = |why: &str| {
        let error = open_model(&folder).unwrap_err();
        assert_input_error(&error, "model.safetensors");
        assert!(error.to_string().contains(why), "{error}");
        fs::remove_file(&weights).unwrap();
    };
    refused("is not a file");
    let _socket = UnixListener::bind(&weights).unwrap();
    refused("is not a file");
    symlink("/dev/zero", &weights).unwrap();
    refused("leads out of the model folder");
    fs::create_dir(&weights).unwrap();
    assert!(open_model(&folder).unwrap_err().to_string().contains("is not a file"));
    for path in ["/dev/zero", "/dev/stdin"] {
        assert_eq!(open_model(Path::new(path)).unwrap_err().exit_code(), 3, "{path}");
    }
}
