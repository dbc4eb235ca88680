//! The command line as a contract: what each verb reads, what it prints, and what it leaves on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use gsil::config::RunConfig;
use gsil::formats::safetensors::open_safetensors;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{
    Outcome, assert_close, command, device, ending_model, golden, gsil, is_end_token, keys, read, read_json,
    read_json_lines, say_skipped, text, wait, write_rows,
};
use crate::support::devices;

/// Of log-probs and losses in float32 on the tiny model, as `notes/golden.md` has it.
const TOLERANCE: f64 = 1e-4;

/// `score` on the golden pairs with the given overrides.
fn score_pairs(overrides: &[&str]) -> Vec<Value> {
    let folder = tempdir().unwrap();
    let (model, reference) = (text(golden("tiny_llama")), text(golden("tiny_llama_reference")));
    let (data, device) = (text(golden("tiny_pairs.jsonl")), device());
    let mut arguments = vec!["score", "--model", &model, "--reference", &reference, "--data", &data];
    arguments.extend(["--device", &device]);
    arguments.extend(overrides);
    gsil(folder.path(), &arguments).succeeded().json_lines()
}

/// A floating-point list of the golden file.
fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn score_gives_the_golden_loss_of_every_objective() {
    let golden = read_json(&golden("tiny_llama.json"));
    let mut num_checked = 0;
    for (key, expected) in golden["objectives"].as_object().unwrap() {
        let parts: Vec<&str> = key.split('|').collect();
        let (name, power) = match parts[0].strip_prefix("bregman_power_") {
            Some(power) => ("bregman_power", power),
            None => (parts[0], "0.5"),
        };
        let overrides = [
            format!("objective.name={name}"),
            format!("objective.power={power}"),
            format!("objective.{}", parts[1]),
            format!("objective.{}", parts[2]),
        ];
        let rows = score_pairs(&overrides.each_ref().map(String::as_str));
        let expected = numbers(&expected["per_pair"]);
        assert_eq!(rows.len(), expected.len());
        for (row, expected) in rows.iter().zip(expected) {
            assert_close(&row["loss"], expected, TOLERANCE, key);
            num_checked += 1;
        }
    }
    assert_eq!(num_checked, 16 * 3); // 7 objectives at two settings, sft and simper at one
}

#[test]
fn score_gives_the_losses_of_the_preference_kin_by_their_formulas() {
    // DIL (Xiao et al., ICLR 2025): least squares and cross-entropy are those of the density-ratio family; the unnormalised
    // Kullback-Leibler loss takes the plain log-prob of the demonstration.
    let golden = read_json(&golden("tiny_llama.json"));
    let (policy, reference) = (numbers(&golden["log_prob"]), numbers(&golden["reference_log_prob"]));
    let reward = |row: usize| 0.1 * (policy[row] - reference[row]);
    let softplus = |x: f64| x.exp().ln_1p();
    for (name, loss) in [
        ("dil_lsif", &(|i| -f64::exp(reward(i)) + f64::exp(2.0 * reward(i + 3)) / 2.0) as &dyn Fn(usize) -> f64),
        ("dil_bce", &|i| softplus(-reward(i)) + softplus(reward(i + 3))),
        ("dil_ukl", &|i| -policy[i] + reward(i + 3).exp()),
    ] {
        let rows = score_pairs(&[&format!("objective.name={name}"), "objective.scale=0.1", "objective.shift=0"]);
        for (i, row) in rows.iter().enumerate() {
            assert_close(&row["loss"], loss(i), TOLERANCE, name);
        }
    }
}

#[test]
fn score_gives_the_golden_log_probs_log_ratios_and_implicit_rewards() {
    let json = read_json(&golden("tiny_llama.json"));
    let (policy, reference) = (numbers(&json["log_prob"]), numbers(&json["reference_log_prob"]));
    let tensors = open_safetensors(&golden("tiny_llama.safetensors")).unwrap();
    let token_log_probs = tensors.read_f32("token_log_probs").unwrap();
    let width = tensors.shape("token_log_probs").unwrap()[1];
    let prompt_lens = numbers(&json["prompt_len"]);
    let rows = score_pairs(&["objective.name=bernoulli", "objective.scale=0.1", "objective.shift=0.25"]);
    assert_eq!(rows.len(), 3);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!((&row["index"], &row["prompt_len"]), (&json!(i), &json!(prompt_lens[i] as usize)));
        let sides = [("", "demonstration", i), ("_self_generated", "self_generated", i + 3)];
        for (suffix, side, golden_row) in sides {
            let own = numbers(&row[&format!("token_log_probs{suffix}")]);
            assert_eq!(row[&format!("num_response_tokens{suffix}")], json!(own.len()));
            for (t, value) in own.iter().enumerate() {
                let expected = token_log_probs[golden_row * width + prompt_lens[i] as usize - 1 + t];
                assert_close(&json!(value), f64::from(expected), TOLERANCE, &format!("row {i}, {side}, token {t}"));
            }
            // Sums of up to 18 token log-probs: the tolerance of each.
            let num_tokens = own.len() as f64;
            let log_ratio = policy[golden_row] - reference[golden_row];
            assert_close(&row[&format!("log_prob{suffix}")], policy[golden_row], TOLERANCE * num_tokens, side);
            assert_close(&row[&format!("log_ratio_{side}")], log_ratio, TOLERANCE * num_tokens, side);
            let reward = 0.1 * row[&format!("log_ratio_{side}")].as_f64().unwrap() + 0.25;
            assert_close(&row[&format!("implicit_reward_{side}")], reward, 1e-9, side);
        }
    }
}

#[test]
fn score_without_a_reference_has_no_ratios_and_plain_rows_have_no_second_side() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    // The first golden pair's demonstration, and a row without one.
    let pair = &read_json_lines(&golden("tiny_pairs.jsonl"))[0];
    let row = json!({"prompt_ids": pair["prompt_ids"], "response_ids": pair["demonstration_ids"]});
    fs::write(&data, format!("{{\"prompt_ids\":[3,4]}}\n{row}\n")).unwrap();
    let model = text(golden("tiny_llama"));
    let scored =
        gsil(folder.path(), &["score", "--model", &model, "--data", "rows.jsonl", "--device", &device()]).succeeded();
    let rows = scored.json_lines();
    assert_eq!(rows.len(), 1);
    assert_eq!(keys(&rows[0]), ["index", "log_prob", "num_response_tokens", "prompt_len", "token_log_probs"]);
    assert_eq!(rows[0]["index"], 1, "the index is the row's number in the file, whatever was dropped");
    assert!(scored.stderr.contains("1 row dropped: 1 without a demonstration"), "{}", scored.stderr);
    let expected = read_json(&golden("tiny_llama.json"))["log_prob"][0].as_f64().unwrap();
    assert_close(&rows[0]["log_prob"], expected, TOLERANCE * 16.0, "log_prob");
}

/// `generate --data` over rows of mixed lengths on the model whose responses end.
fn generate_rows(folder: &Path, options: &[&str]) -> Outcome {
    let (model, device) = (text(ending_model(folder)), device());
    write_rows(&folder.join("rows.jsonl"), 9);
    let mut arguments = vec!["generate", "--model", &model, "--data", "rows.jsonl", "--device", &device];
    arguments.extend(options);
    gsil(folder, &arguments).succeeded()
}

#[test]
fn generate_prints_one_json_line_a_row_in_the_order_of_the_rows() {
    let folder = tempdir().unwrap();
    let rows = generate_rows(folder.path(), &["--max-new-tokens", "2", "--batch-size", "2"]).json_lines();
    assert_eq!(rows.iter().map(|row| row["index"].as_u64().unwrap()).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
    let mut num_finished = 0;
    for row in &rows {
        assert_eq!(keys(row), ["finished", "index", "log_prob", "response", "token_ids"]);
        assert_eq!(row["response"], Value::Null, "a model without a tokenizer has no text to give");
        let ids: Vec<u64> = row["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        let (last, others) = ids.split_last().unwrap();
        assert!(others.iter().all(|id| !is_end_token(*id)), "nothing follows an end token: {ids:?}");
        assert_eq!(row["finished"], json!(is_end_token(*last)), "{ids:?}");
        assert!(is_end_token(*last) || ids.len() == 2, "an unfinished response has all the tokens it may: {ids:?}");
        assert!(row["log_prob"].as_f64().unwrap() < 0.0);
        num_finished += usize::from(is_end_token(*last));
    }
    assert!((1..9).contains(&num_finished), "both kinds are needed for this test: {num_finished} of 9 finished");
}

#[test]
fn greedy_generation_ignores_the_seed_and_the_batch_size() {
    let folder = tempdir().unwrap();
    let greedy = |options: &[&str]| {
        let options = [&["--temperature", "0", "--max-new-tokens", "5"], options].concat();
        let rows = generate_rows(folder.path(), &options).json_lines();
        rows.iter().map(|row| row["token_ids"].clone()).collect::<Vec<_>>()
    };
    let first = greedy(&["--seed", "1"]);
    assert_eq!(first, greedy(&["--seed", "2"]));
    assert_eq!(first, greedy(&["--batch-size", "1"]));
}

#[test]
fn a_seed_repeats_sampled_responses_and_another_seed_changes_them() {
    let folder = tempdir().unwrap();
    let sampled = |seed| generate_rows(folder.path(), &["--seed", seed, "--max-new-tokens", "5"]).stdout;
    assert_eq!(sampled("3"), sampled("3"));
    assert_ne!(sampled("3"), sampled("4"));
}

#[test]
fn sampling_among_the_single_likeliest_token_is_greedy() {
    let folder = tempdir().unwrap();
    let ids = |options: &[&str]| {
        let rows = generate_rows(folder.path(), &[options, &["--max-new-tokens", "5"]].concat()).json_lines();
        rows.iter().map(|row| row["token_ids"].clone()).collect::<Vec<_>>()
    };
    let greedy = ids(&["--temperature", "0"]);
    assert_eq!(ids(&["--top-k", "1"]), greedy);
    assert_eq!(ids(&["--top-p", "1e-9"]), greedy);
    assert_ne!(ids(&["--top-k", "500"]), greedy);
}

#[test]
fn generate_refuses_values_out_of_range_with_exit_code_2() {
    let folder = tempdir().unwrap();
    for (options, named) in [
        (["--temperature", "-0.5"], "--temperature"),
        (["--temperature", "NaN"], "--temperature"),
        (["--temperature", "inf"], "--temperature"),
        (["--top-k", "-1"], "--top-k"),
        (["--top-p", "0"], "--top-p"),
        (["--top-p", "1.5"], "--top-p"),
        (["--max-new-tokens", "0"], "--max-new-tokens"),
        (["--batch-size", "0"], "--batch-size"),
    ] {
        let joined = format!("{}={}", options[0], options[1]);
        let stderr = gsil(folder.path(), &["generate", "--model", "none", "--prompt", "x", &joined]).failed(2);
        assert!(stderr.contains(named), "{joined}: {stderr}");
    }
}

#[test]
fn generate_takes_either_a_prompt_or_a_file() {
    let folder = tempdir().unwrap();
    gsil(folder.path(), &["generate", "--model", "m"]).failed(2);
    gsil(folder.path(), &["generate", "--model", "m", "--prompt", "x", "--data", "y"]).failed(2);
}

#[test]
fn eval_prints_the_held_out_figures_as_json() {
    let folder = tempdir().unwrap();
    write_rows(&folder.path().join("rows.jsonl"), 5);
    let model = text(ending_model(folder.path()));
    let reference = text(golden("tiny_llama_reference"));
    let arguments =
        ["eval", "--model", &model, "--data", "rows.jsonl", "--device", &device(), "generation.max_new_tokens=4"];
    let alone: Value = serde_json::from_str(&gsil(folder.path(), &arguments).succeeded().stdout).unwrap();
    assert_eq!((&alone["num_rows"], &alone["greedy"]["num_rows"]), (&json!(5), &json!(5)));
    assert_eq!((&alone["against_reference"], &alone["sampled"]), (&Value::Null, &Value::Null));
    // A random model gives every token of 515 about the same log-prob, -ln 515 = -6.24 nats.
    assert_close(&alone["demonstration_log_prob_per_token"], -(515f64.ln()), 0.5, "log-prob per token");

    let arguments = [&arguments[..], &["--reference", &reference]].concat();
    let against: Value = serde_json::from_str(&gsil(folder.path(), &arguments).succeeded().stdout).unwrap();
    let accuracy = against["against_reference"]["implicit_reward_accuracy"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&accuracy));
    assert_eq!(against["demonstration_log_prob_per_token"], alone["demonstration_log_prob_per_token"]);

    let itself = [&arguments[..arguments.len() - 1], &[model.as_str()]].concat();
    let itself: Value = serde_json::from_str(&gsil(folder.path(), &itself).succeeded().stdout).unwrap();
    assert_close(&itself["against_reference"]["log_ratio_demonstration"], 0.0, TOLERANCE, "a model against itself");
}

#[test]
fn devices_lists_at_least_one_and_marks_the_automatic_choice() {
    let folder = tempdir().unwrap();
    let listed = gsil(folder.path(), &["devices"]).succeeded().stdout;
    assert_eq!(listed.lines().filter(|line| line.ends_with("(auto)")).count(), 1, "{listed}");
    for line in listed.lines() {
        let name = line.split_whitespace().next().unwrap();
        assert!(["flex", "ndarray"].contains(&name) || name.starts_with("wgpu:"), "{line}");
    }
}

#[test]
fn doctor_finds_every_device_of_this_machine_sound() {
    let folder = tempdir().unwrap();
    for device in devices() {
        let outcome = gsil(folder.path(), &["doctor", "--device", &device.name]).succeeded();
        let checks = outcome.stdout.lines().filter(|line| line.ends_with("  ok")).count();
        assert_eq!(checks, 5, "{}", outcome.stdout);
        assert!(outcome.stdout.ends_with("this device computes what it should\n"), "{}", outcome.stdout);
    }
}

#[test]
fn a_dry_run_prints_a_configuration_that_reads_back_and_makes_nothing() {
    let folder = tempdir().unwrap();
    let printed = gsil(folder.path(), &["train", "--dry-run", "seed=7", "objective.name=brier"]).succeeded().stdout;
    let config = RunConfig::from_ron(&printed, "printed").unwrap();
    assert_eq!((config.seed, config.to_ron().unwrap()), (7, printed));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn without_arguments_the_quickstart_is_run_and_with_a_model_the_defaults() {
    let folder = tempdir().unwrap();
    let config = |arguments: &[&str]| {
        let printed = gsil(folder.path(), &[&["train", "--dry-run"], arguments].concat()).succeeded().stdout;
        RunConfig::from_ron(&printed, "printed").unwrap()
    };
    let mut quickstart = RunConfig::from_ron(RunConfig::quickstart(), "quickstart").unwrap();
    quickstart.resolve();
    assert_eq!(config(&[]), quickstart);
    let own = config(&["--model", "m", "--data", "d.jsonl"]);
    assert_eq!((own.word_problems, own.model.as_deref(), own.data.as_deref()), (None, Some("m"), Some("d.jsonl")));
}

#[test]
fn flags_win_over_overrides_over_the_file_over_defaults() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("run.ron"), "(seed: 1, device: \"ndarray\", model: \"of the file\", iterations: 5)")
        .unwrap();
    let arguments = ["train", "--dry-run", "--config", "run.ron", "iterations=6", "device=wgpu", "--device", "flex"];
    let config = RunConfig::from_ron(&gsil(folder.path(), &arguments).succeeded().stdout, "printed").unwrap();
    assert_eq!(config.save_every, 50, "the default");
    assert_eq!((config.seed, config.model.as_deref()), (1, Some("of the file")));
    assert_eq!(config.iterations, 6, "the override");
    assert_eq!(config.device, "flex", "the flag");
}

#[test]
fn the_help_of_every_verb_names_its_flags() {
    let folder = tempdir().unwrap();
    let flags = BTreeMap::from([
        ("train", "--config --model --data --skip-bad-rows --output --device --dry-run KEY=VALUE"),
        ("resume", "DIR"),
        (
            "generate",
            "--model --prompt --data --skip-bad-rows --max-new-tokens --temperature --top-k --top-p --seed --batch-size --device",
        ),
        ("chat", "--model --device"),
        ("score", "--model --reference --data --skip-bad-rows --device KEY=VALUE"),
        ("eval", "--model --reference --data --skip-bad-rows --device KEY=VALUE"),
        ("export", "RUN_OR_MODEL --format --output --dtype --iteration hf peft gguf mlx pairs q8_0"),
        ("devices", ""),
    ]);
    let top = gsil(folder.path(), &["--help"]).succeeded().stdout;
    for (verb, flags) in flags {
        assert!(top.contains(&format!("\n  {verb} ")), "{verb}: {top}");
        let help = gsil(folder.path(), &[verb, "--help"]).succeeded().stdout;
        for flag in flags.split_whitespace() {
            assert!(help.contains(flag), "{verb} {flag}: {help}");
        }
    }
    assert!(gsil(folder.path(), &[]).code == Some(2), "without a verb: how to use it, and exit code 2");
}

#[test]
fn a_closed_pipe_ends_the_program_quietly() {
    let folder = tempdir().unwrap();
    let model = text(ending_model(folder.path()));
    write_rows(&folder.path().join("rows.jsonl"), 20);
    let mut child = command(folder.path(), &["score", "--model", &model, "--data", "rows.jsonl"]).spawn().unwrap();
    drop(child.stdout.take());
    let outcome = wait(child);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("error"), "{}", outcome.stderr);
}

/// `train` in `folder` into `folder/output` on the model whose responses end: 2 iterations of 2 updates, or as `overrides`
/// say.
fn train(folder: &Path, output: &str, overrides: &[&str]) -> Outcome {
    let (model, device) = (text(ending_model(folder)), device());
    write_rows(&folder.join("rows.jsonl"), 6);
    let mut arguments =
        vec!["train", "--model", &model, "--data", "rows.jsonl", "--output", output, "--device", &device];
    arguments.extend(["iterations=2", "generation.max_new_tokens=12", "train.batch_size=3", "train.lr=1e-3"]);
    arguments.extend(overrides);
    gsil(folder, &arguments).succeeded()
}

fn metrics(folder: &Path, output: &str) -> Vec<Value> {
    read_json_lines(&folder.join(output).join("metrics.jsonl"))
}

#[test]
fn a_run_folder_holds_what_its_documentation_says() {
    let folder = tempdir().unwrap();
    let trained = train(folder.path(), "run", &["evaluation.data=rows.jsonl", "evaluation.generate_rows=3"]);
    let run = folder.path().join("run");
    let mut names: Vec<String> =
        fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    let expected = [
        ".lock",
        "about.json",
        "checkpoints",
        "config.ron",
        "env.json",
        "evaluation_rows.jsonl",
        "evaluations.jsonl",
        "held_out.jsonl",
        "iteration-000",
        "iteration-001",
        "latest",
        "metrics.jsonl",
        "model",
        "report.html",
        "self_generation.jsonl",
        "tb",
        "timing.jsonl",
    ];
    assert_eq!(names, expected);
    let config = RunConfig::from_ron(&read(&run.join("config.ron")), "config.ron").unwrap();
    assert_eq!((config.iterations, config.train.lr), (2, Some(1e-3)));
    assert!(Path::new(config.data.as_deref().unwrap()).is_absolute(), "so that it is found from anywhere");
    let checkpoint = run.join("checkpoints").join(read(&run.join("latest")).trim());
    assert_eq!(read_json(&checkpoint.join("state.json"))["stage"], "done");
    for iteration in ["iteration-000", "iteration-001"] {
        let responses = read_json_lines(&run.join(iteration).join("self_generated.jsonl"));
        let mut indices: Vec<u64> = responses.iter().map(|row| row["index"].as_u64().unwrap()).collect();
        indices.sort_unstable();
        assert_eq!(indices, [0, 1, 2, 3, 4, 5]);
        assert_eq!(read_json_lines(&run.join(iteration).join("demonstrations.jsonl")).len(), 6);
    }
    let stages = read_json_lines(&run.join("evaluations.jsonl"));
    assert_eq!(
        stages.iter().map(|row| row["stage"].as_str().unwrap()).collect::<Vec<_>>(),
        ["start", "iteration 0", "iteration 1"]
    );
    for stage in ["start", "iteration 0", "iteration 1"] {
        assert!(trained.stdout.contains(stage), "the table has a row for {stage}: {}", trained.stdout);
    }
}

#[test]
fn every_update_is_logged_with_all_signs_of_health() {
    let folder = tempdir().unwrap();
    let trained = train(folder.path(), "run", &[]);
    assert!(trained.stdout.contains("Training rows, for want of held-out ones"), "{}", trained.stdout);
    let rows = metrics(folder.path(), "run");
    let signs = [
        "demonstration_log_prob_per_token",
        "epoch",
        "grad_norm",
        "implicit_reward_accuracy",
        "log_ratio_demonstration",
        "log_ratio_margin",
        "log_ratio_self_generated",
        "loss",
        "loss_demonstration",
        "loss_self_generated",
        "lr",
        "max_abs_log_ratio_demonstration",
        "max_abs_log_ratio_self_generated",
        "num_clamped",
        "seconds",
        "stage",
        "stage_step",
        "tokens_per_s",
        "total_step",
    ];
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(keys(row), signs);
        assert_eq!(row["total_step"], json!(i + 1));
        assert!(row["grad_norm"].as_f64().unwrap() > 0.0);
        let sides = row["loss_demonstration"].as_f64().unwrap() + row["loss_self_generated"].as_f64().unwrap();
        assert_close(&row["loss"], sides, 1e-5, "the loss is its two sides");
    }
    let stages: Vec<&str> = rows.iter().map(|row| row["stage"].as_str().unwrap()).collect();
    assert_eq!((stages[0], stages[stages.len() - 1]), ("iteration 0", "iteration 1"));
    // At an iteration's first update policy and reference are the same: every log-ratio is 0 to rounding.
    for first in rows.iter().filter(|row| row["stage_step"] == 1) {
        assert_close(&first["max_abs_log_ratio_demonstration"], 0.0, TOLERANCE, "demonstrations");
        assert_close(&first["max_abs_log_ratio_self_generated"], 0.0, TOLERANCE, "self-generated responses");
    }
    let counts = read_json_lines(&folder.path().join("run/self_generation.jsonl"));
    assert_eq!(counts.len(), 2);
    assert_eq!(
        keys(&counts[0]["counts"]),
        ["dropped", "duplicated", "empty", "identical", "mean_tokens", "responses", "too_long", "unfinished"]
    );
}

#[test]
fn the_aligned_model_is_a_model_again_and_not_the_one_it_started_from() {
    let folder = tempdir().unwrap();
    train(folder.path(), "run", &[]);
    let score = |model: &str| {
        let arguments = ["score", "--model", model, "--data", "rows.jsonl", "--device", &device()];
        let rows = gsil(folder.path(), &arguments).succeeded().json_lines();
        rows.iter().map(|row| row["log_prob"].as_f64().unwrap()).sum::<f64>()
    };
    let (before, after) = (score("tiny"), score("run/model"));
    assert!(after > before + 0.1, "the demonstrations are likelier: {before} before, {after} after");
    let config = read_json(&folder.path().join("run/model/config.json"));
    assert_eq!((&config["vocab_size"], &config["num_hidden_layers"]), (&json!(515), &json!(2)));
}

#[test]
fn every_objective_trains() {
    let folder = tempdir().unwrap();
    for name in [
        "bernoulli",
        "brier",
        "hinge",
        "kliep",
        "lsif",
        "bregman_power",
        "spin",
        "sft",
        "simper",
        "dil_lsif",
        "dil_ukl",
        "dil_bce",
    ] {
        let overrides = [&format!("objective.name={name}"), "iterations=1", "generation.max_new_tokens=30"];
        train(folder.path(), name, &overrides);
        let rows = metrics(folder.path(), name);
        assert_eq!(rows.len(), 2, "{name}");
        let gained = |row: &Value| row["demonstration_log_prob_per_token"].as_f64().unwrap();
        assert!(rows.iter().all(|row| row["loss"].is_number() && gained(row) < 0.0), "{name}: {rows:?}");
        let generates = folder.path().join(name).join("iteration-000").exists();
        assert_eq!(generates, name != "sft", "{name} generates only if it needs responses");
        assert_ne!(
            fs::read(folder.path().join(name).join("model/model.safetensors")).unwrap(),
            fs::read(folder.path().join("tiny/model.safetensors")).unwrap()
        );
    }
}

#[test]
fn an_adapter_is_trained_and_merged() {
    let folder = tempdir().unwrap();
    let overrides = ["lora.rank=2", "lora.alpha=4", "lora.target_modules=[\"q_proj\", \"down_proj\"]", "iterations=1"];
    let trained = train(folder.path(), "run", &overrides);
    // q_proj 64 x 64 and down_proj 64 x 160 in 2 layers, rank 2: 2 * (2 * (64 + 64) + 2 * (160 + 64)) = 1408.
    assert!(trained.stderr.contains("1408 trained"), "{}", trained.stderr);
    let tensor = |model: &str, name: &str| {
        open_safetensors(&folder.path().join(model).join("model.safetensors")).unwrap().read_f32(name).unwrap()
    };
    for (name, is_trained) in [
        ("model.layers.0.self_attn.q_proj.weight", true),
        ("model.layers.1.mlp.down_proj.weight", true),
        ("model.layers.0.self_attn.k_proj.weight", false),
        ("model.embed_tokens.weight", false),
    ] {
        assert_eq!(tensor("run/model", name) != tensor("tiny", name), is_trained, "{name}");
    }
    gsil(folder.path(), &["score", "--model", "run/model", "--data", "rows.jsonl"]).succeeded();
}

#[test]
fn two_samples_a_prompt_make_twice_the_pairs() {
    let folder = tempdir().unwrap();
    let overrides = ["generation.samples_per_prompt=2", "iterations=1", "generation.unfinished=mask"];
    train(folder.path(), "run", &overrides);
    let responses = read_json_lines(&folder.path().join("run/iteration-000/self_generated.jsonl"));
    assert_eq!(responses.len(), 12);
    let of_first = |sample: u64| responses.iter().find(|row| row["index"] == 0 && row["sample"] == sample).unwrap();
    assert_ne!(of_first(0)["token_ids"], of_first(1)["token_ids"]);
    assert_eq!(metrics(folder.path(), "run").len(), 4); // 12 pairs in batches of 3
}

#[test]
fn unfinished_responses_are_dropped_or_kept_as_the_configuration_says() {
    let folder = tempdir().unwrap();
    let counts = |output: &str, overrides: &[&str]| {
        train(folder.path(), output, &[overrides, &["iterations=1", "generation.max_new_tokens=2"]].concat());
        read_json_lines(&folder.path().join(output).join("self_generation.jsonl"))[0]["counts"].clone()
    };
    let (dropped, kept) = (counts("drop", &[]), counts("mask", &["generation.unfinished=mask"]));
    let unfinished = dropped["unfinished"].as_u64().unwrap();
    assert!((1..6).contains(&unfinished), "{dropped}");
    assert_eq!((&dropped["dropped"], &kept["dropped"]), (&json!(unfinished), &json!(0)));
    assert_eq!(kept["unfinished"], json!(unfinished));
    assert_eq!(metrics(folder.path(), "mask").len(), 2);
}

#[test]
fn responses_of_16_bit_weights_are_scored_again_with_the_weights_themselves() {
    if device() != "flex" {
        return say_skipped("decoding with 16-bit weights", "only flex has it");
    }
    let folder = tempdir().unwrap();
    let overrides = ["iterations=1", "generation.weights=bf16", "generation.unfinished=mask"];
    let outcome = train(folder.path(), "run", &overrides);
    assert!(outcome.stderr.contains("scored again"), "{}", outcome.stderr);
    let rows = read_json_lines(&folder.path().join("run/iteration-000/self_generated.jsonl"));
    let prompts = read_json_lines(&folder.path().join("rows.jsonl"));
    let given: Vec<String> = rows
        .iter()
        .map(|row| {
            let prompt_ids = &prompts[row["index"].as_u64().unwrap() as usize]["prompt_ids"];
            json!({"prompt_ids": prompt_ids, "response_ids": row["token_ids"]}).to_string() + "\n"
        })
        .collect();
    fs::write(folder.path().join("given.jsonl"), given.concat()).unwrap();
    let scored = gsil(folder.path(), &["score", "--model", "tiny", "--data", "given.jsonl"]).succeeded().json_lines();
    assert_eq!(scored.len(), 6);
    for (row, scored) in rows.iter().zip(&scored) {
        let kept: f64 = row["token_log_probs"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).sum();
        assert_close(&scored["log_prob"], kept, 1e-4, "the model's own log-prob");
        let drift = (row["decoded_log_prob"].as_f64().unwrap() - kept).abs();
        assert!(drift > 0.0 && drift < 0.1, "16-bit weights are near but not equal: {drift}");
    }
}

#[test]
fn a_run_in_which_every_response_is_cut_off_is_an_error_with_advice() {
    let folder = tempdir().unwrap();
    write_rows(&folder.path().join("rows.jsonl"), 3);
    let model = text(golden("tiny_llama")); // its one end token comes once in 515
    let arguments =
        ["train", "--model", &model, "--data", "rows.jsonl", "--output", "run", "generation.max_new_tokens=2"];
    let stderr = gsil(folder.path(), &arguments).failed(5);
    assert!(stderr.contains("every self-generated response was cut off"), "{stderr}");
    assert!(stderr.contains("hint: raise generation.max_new_tokens, or set generation.unfinished=mask"), "{stderr}");
}

#[test]
fn activation_checkpointing_changes_no_figure() {
    let folder = tempdir().unwrap();
    for adapter in [&[][..], &["lora.rank=2"]] {
        let (plain, checkpointed) = (format!("plain{}", adapter.len()), format!("checkpointed{}", adapter.len()));
        train(folder.path(), &plain, adapter);
        train(folder.path(), &checkpointed, &[adapter, &["train.activation_checkpointing=true"]].concat());
        let (plain, checkpointed) = (metrics(folder.path(), &plain), metrics(folder.path(), &checkpointed));
        assert_eq!(plain.len(), checkpointed.len());
        for (plain, checkpointed) in plain.iter().zip(&checkpointed) {
            for key in ["loss", "demonstration_log_prob_per_token", "grad_norm"] {
                let expected = plain[key].as_f64().unwrap();
                assert_close(&checkpointed[key], expected, TOLERANCE * expected.abs().max(1.0), key);
            }
        }
    }
}

#[test]
fn micro_batches_of_any_size_make_the_same_update() {
    let folder = tempdir().unwrap();
    train(folder.path(), "one", &["train.micro_batch_size=1", "iterations=1"]);
    train(folder.path(), "three", &["train.micro_batch_size=3", "iterations=1"]);
    for (one, three) in metrics(folder.path(), "one").iter().zip(metrics(folder.path(), "three")) {
        for key in ["loss", "grad_norm"] {
            let expected = one[key].as_f64().unwrap();
            assert_close(&three[key], expected, TOLERANCE * expected.abs().max(1.0), key);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_does_not() {
    let folder = tempdir().unwrap();
    let model = |output: &str, overrides: &[&str]| {
        train(folder.path(), output, &[overrides, &["device=flex"]].concat());
        fs::read(folder.path().join(output).join("model/model.safetensors")).unwrap()
    };
    let first = model("first", &["seed=5"]);
    assert!(first == model("second", &["seed=5"]));
    assert!(first != model("third", &["seed=6"]));
}

#[test]
fn a_small_quickstart_runs_to_its_end_and_prints_the_comparison() {
    let folder = tempdir().unwrap();
    let overrides = [
        "word_problems.num_train=60",
        "word_problems.num_test=20",
        "evaluation.generate_rows=20",
        "iterations=1",
        "sft.epochs=1",
        "sft.batch_size=20",
        "sft.micro_batch_size=20",
        "train.batch_size=20",
        "train.micro_batch_size=20",
        "generation.unfinished=mask",
    ];
    let finished = gsil(folder.path(), &[&["train", "--device", &device()], &overrides[..]].concat()).succeeded();
    let mut table = finished.stdout.lines().skip_while(|line| !line.starts_with("after"));
    let header = table.next().unwrap();
    for column in ["updates", "log-prob/token", "accuracy", "in format", "greedy", "sampled"] {
        assert!(header.contains(column), "{column}: {header}");
    }
    let updates: Vec<(String, usize)> = table
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
            (cells[0].to_owned(), cells[1].parse().unwrap())
        })
        .collect();
    // 60 demonstrations in batches of 20: 3 updates a stage.
    let expected = [("start", 0), ("sft", 3), ("iteration 0", 6), ("continued sft", 9)];
    assert_eq!(updates, expected.map(|(stage, updates)| (stage.to_owned(), updates)));
    assert!(finished.stderr.contains("self-generated  "), "sample responses are shown: {}", finished.stderr);
    assert!(folder.path().join("runs/quickstart/model/model.safetensors").exists());
    let again = gsil(
        folder.path(),
        &["generate", "--model", "runs/quickstart/model", "--prompt", "tom has 2 .", "--max-new-tokens", "3"],
    );
    again.succeeded();
}

#[test]
fn rows_that_bring_a_rejected_response_are_trained_on_and_nothing_is_generated() {
    let folder = tempdir().unwrap();
    let (model, data, device) = (text(golden("tiny_llama")), text(golden("tiny_pairs.jsonl")), device());
    let arguments = ["train", "--model", &model, "--data", &data, "--output", "run", "--device", &device];
    let overrides = ["objective.name=dil_bce", "objective.scale=0.1", "generation.samples_per_prompt=2"];
    gsil(folder.path(), &[&arguments[..], &overrides].concat()).succeeded();
    let given: Vec<Value> = read_json_lines(&golden("tiny_pairs.jsonl"));
    let used = read_json_lines(&folder.path().join("run/iteration-000/self_generated.jsonl"));
    assert_eq!(used.len(), given.len());
    for (used, given) in used.iter().zip(&given) {
        assert_eq!(used["token_ids"], given["self_generated_ids"]);
    }
}

#[test]
fn rows_of_which_only_some_bring_a_rejected_response_are_refused() {
    let folder = tempdir().unwrap();
    let rows = "{\"prompt_ids\":[3],\"demonstration_ids\":[4],\"self_generated_ids\":[5]}\n{\"prompt_ids\":[3],\"response_ids\":[4]}\n";
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let model = text(golden("tiny_llama"));
    let outcome = gsil(folder.path(), &["train", "--model", &model, "--data", "rows.jsonl", "--output", "run"]);
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("row 1"), "{}", outcome.stderr);
}

#[test]
fn continued_sft_makes_as_many_updates_as_the_iterations_did() {
    let folder = tempdir().unwrap();
    // Two samples of each of six prompts: four updates of three pairs an iteration, though one epoch of rows has only two.
    train(
        folder.path(),
        "run",
        &["generation.samples_per_prompt=2", "continued_sft_lr=1e-4", "generation.unfinished=mask"],
    );
    let rows = metrics(folder.path(), "run");
    let count = |stage: &str| rows.iter().filter(|row| row["stage"].as_str().unwrap().starts_with(stage)).count();
    assert_eq!((count("iteration"), count("continued sft")), (8, 8));
}
