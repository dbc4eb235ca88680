//! Model folders from strangers: damaged `config.json` and index files, and a configuration that lies about the weights.

use std::fs;
use std::path::Path;

use gsil::Result;
use gsil::policy::Policy;
use gsil::report::console::Console;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{Random, golden, read_json, tiny_model_with};
use crate::support::doors::{self, assert_input_error};
use crate::support::flex;
use crate::support::mutations::{damaged_json, damaged_text};

/// Opens the folder and reads its weights onto the CPU.
fn load(folder: &Path) -> Result<()> {
    Policy::open(folder)?.load(&flex(), &Console::stderr()).map(|_| ())
}

/// A configuration may say anything; the model is made only of tensors that are there in the right shape.
#[test]
fn two_thousand_damaged_configurations_load_or_are_refused() {
    let parent = tempdir().unwrap();
    let folder = tiny_model_with(parent.path(), &[]);
    let config = read_json(&folder.join("config.json"));
    doors::config_json(config.to_string().as_bytes()).unwrap();
    let mut random = Random(21);
    let (mut num_refused, mut num_misfits) = (0, 0);
    for round in 0..2_000 {
        let bytes = match round % 4 {
            0 => damaged_text(&mut random, &config.to_string()),
            _ => damaged_json(&mut random, &config).to_string().into_bytes(),
        };
        let read = doors::config_json(&bytes);
        fs::write(folder.join("config.json"), bytes).unwrap();
        match load(&folder) {
            Ok(()) => read.unwrap(),
            // What is wrong with a size is seen when the first tensor does not have it.
            Err(error) if error.to_string().contains("tensor `") => num_misfits += 1,
            Err(error) => {
                assert_input_error(&error, "config.json");
                num_refused += 1;
            }
        }
    }
    assert!(num_misfits > 20 && (500..1_900).contains(&num_refused), "{num_refused} refused, {num_misfits} misfits");
}

#[test]
fn sizes_that_the_weights_do_not_have_are_refused_by_tensor() {
    for (key, value) in [
        ("hidden_size", json!(16_777_216)),
        ("intermediate_size", json!(16_777_216)),
        ("num_hidden_layers", json!(4_096)),
        ("num_hidden_layers", json!(1)),
        ("vocab_size", json!(2_147_483_647)),
        ("vocab_size", json!(1)),
        ("head_dim", json!(2)),
    ] {
        let parent = tempdir().unwrap();
        let folder = tiny_model_with(parent.path(), &[(key, value.clone())]);
        let error = load(&folder).unwrap_err();
        assert_input_error(&error, "tensor `");
    }
}

/// The golden tiny model as one shard with an index.
fn sharded(parent: &Path) -> (std::path::PathBuf, Value) {
    let folder = parent.join("sharded");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(golden("tiny_llama/config.json"), folder.join("config.json")).unwrap();
    fs::copy(golden("tiny_llama/model.safetensors"), folder.join("model-00001-of-00001.safetensors")).unwrap();
    let names = Policy::open(&golden("tiny_llama")).unwrap().files.weights;
    let map: serde_json::Map<String, Value> =
        names.names().map(|name| (name.to_owned(), json!("model-00001-of-00001.safetensors"))).collect();
    let index = json!({"metadata": {"total_size": names.num_bytes()}, "weight_map": map});
    (folder, index)
}

#[test]
fn two_thousand_damaged_index_files_are_opened_or_refused() {
    let parent = tempdir().unwrap();
    let (folder, index) = sharded(parent.path());
    let path = folder.join("model.safetensors.index.json");
    fs::write(&path, index.to_string()).unwrap();
    load(&folder).unwrap();
    let mut random = Random(22);
    let mut num_refused = 0;
    for round in 0..2_000 {
        let bytes = match round % 2 {
            0 => damaged_text(&mut random, &index.to_string()),
            _ => damaged_json(&mut random, &index).to_string().into_bytes(),
        };
        fs::write(&path, bytes).unwrap();
        if let Err(error) = Policy::open(&folder) {
            assert_input_error(&error, "model.safetensors.index.json");
            num_refused += 1;
        }
    }
    assert!((500..2_000).contains(&num_refused), "{num_refused} refused");
}

#[test]
fn crafted_index_files_are_refused_with_the_reason() {
    let parent = tempdir().unwrap();
    let (folder, index) = sharded(parent.path());
    let shard = "model-00001-of-00001.safetensors";
    let many: serde_json::Map<String, Value> =
        (0..=1_000).map(|i| (format!("t{i}"), json!(format!("{i}.safetensors")))).collect();
    for (bytes, why) in [
        (String::new(), "bad JSON: EOF"),
        ("{\n \"weight_map\": }".into(), "line 2 column 16"),
        ("[".repeat(1_000_000), "recursion limit"),
        ("{}".into(), "has no `weight_map`"),
        ("[]".into(), "has no `weight_map`"),
        (json!({"weight_map": [shard]}).to_string(), "has no `weight_map`"),
        (json!({"weight_map": {"a": 1}}).to_string(), "a: expected a file name"),
        (json!({"weight_map": {"a": null}}).to_string(), "a: expected a file name"),
        (
            json!({"weight_map": {"a": "missing.safetensors"}}).to_string(),
            "names `missing.safetensors`, which is not in",
        ),
        (json!({"weight_map": {"a": shard}}).to_string(), "a: `model-00001-of-00001.safetensors` has no such tensor"),
        (json!({"weight_map": {"a": "config.json"}}).to_string(), "is not a plain file name"),
        (json!({"weight_map": many}).to_string(), "names more than 1000 files"),
        (" ".repeat((16 << 20) + 1), "at most 16777216 make sense"),
    ] {
        fs::write(folder.join("model.safetensors.index.json"), &bytes).unwrap();
        let error = load(&folder).unwrap_err();
        assert_input_error(&error, "model.safetensors.index.json");
        assert!(error.to_string().contains(why), "expected {why:?} for {bytes:.200}: {error}");
    }
    // Published indexes often have the size in another number format: it is not believed, and not needed.
    for total in [json!(0), json!(-1), json!("huge"), json!(null)] {
        let mut index = index.clone();
        index["metadata"]["total_size"] = total;
        fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        load(&folder).unwrap();
    }
}
