//! `gsil bench` on a tiny model: every key is there and the figures fit each other. How fast anything is, is not tested.

use serde_json::Value;
use tempfile::tempdir;

use crate::support::binary::{device, golden, gsil, keys, say_skipped, text};

/// The keys of one workload's JSON object.
const KEYS: [&str; 22] = [
    "cpu",
    "cpu_seconds_per_step",
    "date",
    "device",
    "device_description",
    "gsil_version",
    "launches_per_step",
    "matrix_flops_per_step",
    "model",
    "num_layers",
    "pairs",
    "peak_memory_bytes",
    "requests",
    "scoring_seconds",
    "seconds_per_step",
    "steps",
    "system",
    "threads",
    "tokens",
    "tokens_per_s",
    "tokens_per_step",
    "workload",
];

/// `bench` on the tiny Llama.
fn measured(options: &[&str]) -> Value {
    let folder = tempdir().unwrap();
    let (model, device) = (text(golden("tiny_llama")), device());
    let mut arguments = vec!["bench", "--model", &model, "--device", &device, "--steps", "1"];
    arguments.extend(options);
    let outcome = gsil(folder.path(), &arguments).succeeded();
    let mut objects = outcome.json_lines();
    assert_eq!(objects.len(), 1, "{}", outcome.stdout);
    objects.remove(0)
}

#[track_caller]
fn float(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or_else(|| panic!("`{key}` is no number in {object}"))
}

#[track_caller]
fn check_workload(object: &Value, workload: &str, tokens_per_step: f64) {
    assert_eq!(keys(object), KEYS);
    assert_eq!((object["workload"].as_str(), object["device"].as_str()), (Some(workload), Some(&*device())));
    assert_eq!(float(object, "tokens_per_step"), tokens_per_step);
    let product = float(object, "tokens_per_s") * float(object, "seconds_per_step");
    assert!((product - tokens_per_step).abs() < 1e-6 * tokens_per_step, "{product} tokens a step in {object}");
    let is_card = device().starts_with("wgpu");
    assert_eq!(object["launches_per_step"]["shaders"].as_u64().is_some_and(|count| count > 0), is_card, "{object}");
    assert!(float(object, "matrix_flops_per_step") > 0.0 && float(object, "threads") >= 1.0);
    if cfg!(target_os = "linux") {
        assert!(float(object, "peak_memory_bytes") > 1e6 && float(object, "cpu_seconds_per_step") >= 0.0);
    }
}

#[test]
fn a_training_workload_is_one_json_object_with_every_key() {
    for workload in ["train", "lora"] {
        let object = measured(&["--workload", workload, "--pairs", "2", "--tokens", "17"]);
        check_workload(&object, workload, 68.0);
        assert!(float(&object, "scoring_seconds") > 0.0);
        assert_eq!((float(&object, "pairs"), float(&object, "tokens")), (2.0, 17.0));
        assert!(object["requests"].is_null());
    }
}

#[test]
fn a_step_on_demonstrations_alone_has_no_responses_and_no_reference_pass() {
    let size = ["--workload", "train", "--pairs", "2", "--tokens", "17"];
    let alone = measured(&[&size[..], &["objective.name=sft"]].concat());
    check_workload(&alone, "train", 34.0);
    assert!(alone["scoring_seconds"].is_null(), "{alone}");
    let both = measured(&[&size[..], &["objective.name=spin"]].concat());
    let work = |object: &Value| float(object, "matrix_flops_per_step");
    assert!(work(&alone) < work(&both), "{alone} {both}");
}

#[test]
fn a_generation_workload_counts_the_new_tokens_of_all_requests() {
    let object = measured(&["--workload", "generate"]);
    check_workload(&object, "generate", 8.0 * 64.0);
    assert!(object["scoring_seconds"].is_null() && object["pairs"].is_null());
    let mixed = measured(&["--workload", "generate", "--requests", "3", "generation.batch_size=2"]);
    let new_tokens = float(&mixed, "tokens_per_step");
    check_workload(&mixed, "generate", new_tokens);
    assert!((24.0..=384.0).contains(&new_tokens), "3 responses of 8 to 128 tokens, got {new_tokens}");
}

#[test]
fn matrix_work_grows_with_pairs_as_fast_as_they_do() {
    let work = |options: &[&str]| {
        let all = [&["--workload", "train", "--tokens", "16"], options].concat();
        float(&measured(&all), "matrix_flops_per_step")
    };
    let one = work(&["--pairs", "1"]);
    assert_eq!(work(&["--pairs", "3"]), 3.0 * one);
    assert_eq!(work(&["--pairs", "3", "train.micro_batch_size=1"]), 3.0 * one);
    assert_eq!(work(&["--pairs", "1", "train.activation_checkpointing=true"]), one);
}

#[test]
fn the_whole_machine_is_peaks_operations_and_every_workload() {
    if device().starts_with("wgpu") {
        return say_skipped("the whole machine", "large matrix products take minutes on software Vulkan");
    }
    let size = ["--pairs", "1", "--tokens", "16"];
    let report = measured(&[&size[..], &["--json", "lora.rank=2"]].concat());
    assert!(float(&report, "matmul_gflops") > 0.0 && float(&report, "copy_gb_per_s") > 0.0);
    let workloads = report["workloads"].as_array().unwrap();
    assert_eq!(
        workloads.iter().map(|w| w["workload"].as_str().unwrap()).collect::<Vec<_>>(),
        ["train", "lora", "generate"]
    );
    let work = |object: &Value| float(object, "matrix_flops_per_step");
    let of_rank = |rank: &str| work(&measured(&[&size[..], &["--workload", "lora", rank]].concat()));
    let [small, large] = ["lora.rank=2", "lora.rank=8"].map(of_rank);
    assert!(work(&workloads[1]) == small && small < large, "the adapter is that of lora: {report}");
    for workload in workloads {
        let rate = float(workload, "matrix_flops_per_step") / float(workload, "seconds_per_step");
        let share = rate / (1e9 * float(&report, "matmul_gflops"));
        assert!((float(workload, "matmul_share") / share - 1.0).abs() < 1e-9);
    }
    let operations = report["operations"].as_array().unwrap();
    assert!(operations.iter().any(|operation| operation["name"] == "selected_log_probs"));
    for operation in operations {
        assert_ne!(operation["gflops"].is_null(), operation["gb_per_s"].is_null(), "one rate: {operation}");
        assert!(float(operation, "seconds") > 0.0 && float(operation, "share_of_peak") > 0.0);
    }
}

#[test]
fn impossible_sizes_are_usage_errors_that_name_the_flag() {
    let folder = tempdir().unwrap();
    let model = text(golden("tiny_llama"));
    for (arguments, expected) in [
        (&["--pairs", "0"][..], "--pairs 0: expected 1 or more"),
        (&["--tokens", "3"], "--tokens 3: expected 4 or more"),
        (&["--steps", "0"], "--steps 0: expected 1 or more"),
        (&["--requests", "0"], "--requests 0: expected 1 or more"),
        (&["--requests", "2", "--workload", "train"], "--requests: only --workload generate has some"),
        (&["train.batch_size=2"], "hint: it is given as --pairs"),
        (&["--layers", "0"], "--layers 0: expected 1 or more"),
        (&["--workload", "fly"], "invalid value 'fly'"),
        (&["--model", &model, "--layers", "2"], "cannot be used with"),
        (&["--model", &model, "--workload", "train", "--tokens", "257"], "the model's context has 256 tokens"),
        (&["--model", &model, "--tokens", "257"], "context has 256 tokens\nhint: give --tokens 256, or fewer"),
        (&["--model", &model, "generation.max_new_tokens=250"], "error: prompts and responses of 282 tokens"),
        (&["--workload", "train", "lora.rank=4"], "an adapter is set"),
        (&["lora.rnk=4"], "did you mean `lora.rank`?"),
        (&["train.lrr=1"], "did you mean `train.lr`?"),
        (&["--model", &model, "--workload", "generate", "generation.max_new_tokens=250"], "context of 256 tokens"),
    ] {
        let error = gsil(folder.path(), &[&["bench", "--device", "flex"], arguments].concat()).failed(2);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}
