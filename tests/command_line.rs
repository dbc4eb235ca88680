//! The command line as a contract: what each verb reads, what it prints, and what it leaves on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use gsil::config::RunConfig;
use gsil::formats::safetensors::open_safetensors;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{
    Outcome, USAGE, assert_close, command, device, ending_model, golden, gsil, is_end_token, keys, read_json,
    read_json_lines, spoil, text, wait, write_rows,
};
use crate::support::devices::cpu_backends;
use crate::support::{devices, tiny_models};

/// Of log-probs and losses in float32 on the tiny model.
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
    assert!(
        scored.stderr.contains("1 row dropped: 1 without a demonstration (the first: line 1, keys prompt_ids)"),
        "{}",
        scored.stderr
    );
    let expected = read_json(&golden("tiny_llama.json"))["log_prob"][0].as_f64().unwrap();
    assert_close(&rows[0]["log_prob"], expected, TOLERANCE * 16.0, "log_prob");
    assert!(!scored.stderr.contains("no row has a loss"), "none was asked for: {}", scored.stderr);
    let score = ["score", "--model", &model, "--data", "rows.jsonl", "--device", &device()];
    let said = |settings: &[&str]| gsil(folder.path(), &[&score, settings].concat()).succeeded().stderr;
    let warning = "warning: no row has a loss: spin also reads --reference MODEL and pair rows (`rejected`)\n";
    assert!(said(&["objective.name=spin"]).contains(warning), "{}", said(&["objective.name=spin"]));
    let with_reference = said(&["objective.name=spin", "--reference", &model]);
    assert!(with_reference.contains("spin also reads pair rows (`rejected`)\n"), "{with_reference}");
    assert!(!said(&["objective.name=sft"]).contains("no row has a loss"));
}

#[test]
fn a_loss_that_reads_no_reference_has_no_implicit_rewards() {
    let folder = tempdir().unwrap();
    let (model, data) = (text(golden("tiny_llama")), text(golden("tiny_pairs.jsonl")));
    for (name, has_rewards) in [("simper", false), ("spin", true)] {
        let objective = format!("objective.name={name}");
        let arguments = ["score", "--model", &model, "--reference", &model, "--data", &data, "--device", &device()];
        let rows = gsil(folder.path(), &[&arguments[..], &[&objective]].concat()).succeeded().json_lines();
        for key in ["implicit_reward_demonstration", "implicit_reward_self_generated"] {
            assert_eq!(rows[0].get(key).is_some(), has_rewards, "{name}: {key}");
        }
        assert!(rows[0]["log_ratio_demonstration"].is_number() && rows[0]["loss"].is_number(), "{name}: {}", rows[0]);
    }
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
    let outcome = generate_rows(folder.path(), &["--max-new-tokens", "2", "--batch-size", "2"]);
    let rows = outcome.json_lines();
    assert_eq!(rows.iter().map(|row| row["index"].as_u64().unwrap()).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
    let data = read_json_lines(&folder.path().join("rows.jsonl"));
    let mut num_finished = 0;
    for row in &rows {
        assert_eq!(keys(row), ["finished", "index", "log_prob", "prompt", "response", "token_ids"]);
        assert_eq!(row["prompt"], data[row["index"].as_u64().unwrap() as usize]["prompt_ids"]);
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
    let said_of_cut = format!("warning: {} of 9 responses w", 9 - num_finished);
    assert_eq!(outcome.stderr.matches(&said_of_cut).count(), 1, "{}", outcome.stderr);
    let whole = generate_rows(folder.path(), &["--max-new-tokens", "100"]);
    assert!(!whole.stderr.contains("`finished` is false"), "{}", whole.stderr);
}

#[test]
fn responses_are_printed_before_all_are_there() {
    for device in cpu_backends() {
        let folder = tempdir().unwrap();
        let model = folder.path().join("llama3");
        fs::create_dir(&model).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(tiny_models::folder_of("llama3").join(name), model.join(name)).unwrap();
        }
        // A prompt with token 0 has no response. It is the longest: of all prompts together it would come first.
        spoil(&model, "model.embed_tokens.weight", f32::NAN);
        let rows = "{\"prompt_ids\": [5, 6]}\n".repeat(8) + "{\"prompt_ids\": [5, 0, 6]}\n";
        fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
        let arguments = ["generate", "--model", "llama3", "--data", "rows.jsonl", "--device", device];
        let one_by_one = ["--batch-size", "1", "--max-new-tokens", "1"];
        let outcome = gsil(folder.path(), &[&arguments[..], &one_by_one].concat());
        assert_eq!(outcome.code, Some(5), "{device}: {}", outcome.stderr);
        assert_eq!(outcome.json_lines().len(), 8, "{device}: {}", outcome.stderr);
    }
}

#[test]
fn a_model_that_diverged_is_not_scored() {
    let folder = tempdir().unwrap();
    ending_model(folder.path());
    spoil(&folder.path().join("tiny"), "model.norm.weight", f32::NAN);
    write_rows(&folder.path().join("rows.jsonl"), 2);
    let device = device();
    for verb in ["score", "eval"] {
        let outcome = gsil(folder.path(), &[verb, "--model", "tiny", "--data", "rows.jsonl", "--device", &device]);
        assert!(outcome.stdout.is_empty(), "{verb}: {}", outcome.stdout);
        let stderr = outcome.failed(5);
        let said =
            "the model gives row 0, counted from 0, a log-prob that is not finite\nhint: its weights have diverged";
        assert!(stderr.contains(said), "{verb}: {stderr}");
    }
    let sound = text(golden("tiny_llama"));
    let against = ["score", "--model", &sound, "--reference", "tiny", "--data", "rows.jsonl", "--device", &device];
    let stderr = gsil(folder.path(), &against).failed(5);
    assert!(stderr.contains("the reference gives row 0, counted from 0, a log-prob"), "{stderr}");
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
fn a_negative_number_after_a_flag_is_judged_as_its_value() {
    let folder = tempdir().unwrap();
    let common = ["--model", "none", "--prompt", "x"];
    for (flag, value) in [("--temperature", "-1"), ("--temperature", "-0.5"), ("--top-p", "-0.5")] {
        let stderr = gsil(folder.path(), &[&["generate"], &common[..], &[flag, value]].concat()).failed(2);
        assert!(stderr.starts_with(&format!("error: {flag} {value}: expected ")), "{stderr}");
    }
    for verb in
        [&["chat", "--model", "none"][..], &["eval", "humaneval", "--model", "none", "--data", "none", "--output", "x"]]
    {
        let stderr = gsil(folder.path(), &[verb, &["--temperature", "-1"]].concat()).failed(2);
        assert!(stderr.contains("--temperature -1: expected 0 or more"), "{verb:?}: {stderr}");
    }
}

#[test]
fn an_answer_of_no_tokens_is_refused_before_the_model_is_opened() {
    let folder = tempdir().unwrap();
    for verb in [&["chat"][..], &["generate", "--prompt", "x"]] {
        let stderr = gsil(folder.path(), &[verb, &["--model", "none", "--max-new-tokens", "0"]].concat()).failed(2);
        assert_eq!(stderr, "error: --max-new-tokens 0: expected 1 or more\n", "{verb:?}");
    }
}

#[test]
fn a_setting_given_as_a_flag_and_a_hidden_verb_lead_nobody_astray() {
    let folder = tempdir().unwrap();
    let stderr = gsil(folder.path(), &["train", "--model", "m", "--data", "d", "--lr", "1e-4"]).failed(2);
    let hint = "hint: settings are written key=value: train.lr=1e-4; `gsil train --dry-run` prints every key in use\n";
    assert_eq!(stderr, format!("error: unexpected argument '--lr'\n{hint}"));
    let stderr = gsil(folder.path(), &["and"]).failed(2);
    assert!(stderr.contains("unrecognized subcommand 'and'") && !stderr.contains("sandbox"), "{stderr}");
    let stderr = gsil(folder.path(), &["inspect", "rows.jsonl", "--model", "m"]).failed(2);
    assert!(stderr.contains("hint: data is inspected with: gsil inspect data rows.jsonl --model m\n"), "{stderr}");
}

#[test]
fn generate_takes_either_a_prompt_or_a_file() {
    let folder = tempdir().unwrap();
    gsil(folder.path(), &["generate", "--model", "m"]).failed(2);
    gsil(folder.path(), &["generate", "--model", "m", "--prompt", "x", "--data", "y"]).failed(2);
}

#[test]
fn a_key_that_a_verb_does_not_read_is_refused_with_what_it_reads_instead() {
    let folder = tempdir().unwrap();
    for (verb, assignment, expected) in [
        ("score --model m --data d", "device=flex", "hint: it is given as --device"),
        (
            "score --model m --data d",
            "train.lr=1",
            "`gsil score` does not read `train.lr`\nhint: it reads objective.name, ",
        ),
        ("eval --model m --data d", "max_rows=5", "hint: it is given as evaluation.max_rows"),
        ("eval --model m --data d", "evaluation.data=d", "hint: it is given as --data"),
        ("inspect data d --model m", "offline=true", "hint: it is given as --offline"),
        ("inspect data d --model m", "train.epochs=2", "`gsil inspect data` does not read `train.epochs`"),
        ("bench --workload train", "model=m", "hint: it is given as --model"),
    ] {
        let arguments: Vec<&str> = verb.split(' ').chain([assignment]).collect();
        let stderr = gsil(folder.path(), &arguments).failed(2);
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
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
    let arguments_of_score =
        ["score", "--model", &model, "--reference", &reference, "--data", "rows.jsonl", "--device", &device()];
    let scored = gsil(folder.path(), &arguments_of_score).succeeded().json_lines();
    let log_ratio = scored.iter().map(|row| row["log_ratio_demonstration"].as_f64().unwrap()).sum::<f64>() / 5.0;
    let tolerance = TOLERANCE * 7.0; // up to 7 tokens a row
    assert!(log_ratio.abs() > 2.0 * tolerance, "two models: {log_ratio}");
    let figure = &against["against_reference"]["log_ratio_demonstration"];
    assert_close(figure, log_ratio, tolerance, "the mean of score's");

    let itself = [&arguments[..arguments.len() - 1], &[model.as_str()]].concat();
    let itself: Value = serde_json::from_str(&gsil(folder.path(), &itself).succeeded().stdout).unwrap();
    let itself = &itself["against_reference"];
    assert_close(&itself["log_ratio_demonstration"], 0.0, TOLERANCE, "a model against itself");
    // Up to 4 tokens, whose log-probs under the reference come from decoding.
    assert_close(&itself["log_ratio_self_generated"], 0.0, TOLERANCE * 4.0, "a model against itself");
}

#[test]
fn eval_leaves_out_rows_beyond_a_length_that_is_given() {
    let folder = tempdir().unwrap();
    let long = json!({"prompt_ids": [5, 6, 7, 8, 9, 10], "response_ids": [7, 8, 9, 2]});
    let rows = format!("{}\n{long}\n", json!({"prompt_ids": [5, 6], "response_ids": [7, 2]}));
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let (model, device) = (text(golden("tiny_llama")), device());
    let judged = |more: &[&str]| {
        let arguments = ["eval", "--model", &model, "--data", "rows.jsonl", "--device", &device];
        let outcome =
            gsil(folder.path(), &[&arguments[..], &["generation.max_new_tokens=4"], more].concat()).succeeded();
        let figures: Value = serde_json::from_str(&outcome.stdout).unwrap();
        (figures["num_rows"].as_u64(), outcome.stderr)
    };
    assert_eq!(judged(&[]).0, Some(2));
    let (num_rows, said) = judged(&["train.max_length=8"]);
    assert_eq!(num_rows, Some(1));
    assert!(said.contains("1 row dropped: 1 longer than train.max_length (8 tokens) with the demonstration"), "{said}");
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
        assert_eq!(checks, 6, "{}", outcome.stdout);
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
fn a_dry_run_with_one_key_of_a_section_that_is_off_prints_all_of_its_keys() {
    let folder = tempdir().unwrap();
    let printed = |more: &[&str]| gsil(folder.path(), &[&["train", "--dry-run"], more].concat()).succeeded().stdout;
    assert!(printed(&[]).contains("lora: None"));
    let with_lora = printed(&["lora.rank=8"]);
    assert!(with_lora.contains("rank: 8") && with_lora.contains("target_modules: "), "{with_lora}");
    let help = gsil(folder.path(), &["--help"]).succeeded().stdout;
    assert!(help.contains("  gsil train --dry-run lora.rank=8         # those of lora, too"), "{help}");
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
fn settings_that_the_supervised_stage_does_not_read_are_said_in_a_run_of_it_alone() {
    const RECOMMENDED: [&str; 2] = ["iterations=0", "sft.epochs=3"];
    const LOST: [&str; 4] = ["iterations=0", "sft.epochs=3", "train.lr=2e-4", "train.batch_size=4"];
    let folder = tempdir().unwrap();
    let (model, device) = (text(ending_model(folder.path())), device());
    write_rows(&folder.path().join("rows.jsonl"), 4);
    let said = |verb: &[&str], settings: &[&str]| {
        let given = ["--model", &model, "--data", "rows.jsonl", "--device", &device, "generation.max_new_tokens=12"];
        gsil(folder.path(), &[verb, &given[..], settings].concat()).succeeded().stderr
    };
    let warning = "warning: iterations=0: the supervised stage does not read train.lr, train.batch_size; \
                   it has sft.lr, sft.batch_size\n";
    for verb in [&["train", "--dry-run"][..], &["estimate", "--no-time"], &["train", "--output", "run"]] {
        assert_eq!(said(verb, &LOST).matches(warning).count(), 1, "{verb:?}");
    }
    for settings in [&RECOMMENDED[..], &["lora.rank=8", "train.lr=2e-4"]] {
        let said = said(&["train", "--dry-run"], settings);
        assert!(!said.contains("warning"), "{settings:?}: {said}");
    }
    // As of a run that was stopped before its first checkpoint.
    fs::remove_dir_all(folder.path().join("run/checkpoints")).unwrap();
    fs::remove_file(folder.path().join("run/latest")).unwrap();
    let smaller = ["resume", "run", "--allow-changes", "train.micro_batch_size=1"];
    let resumed = gsil(folder.path(), &smaller).succeeded().stderr;
    assert!(resumed.contains("does not read train.lr, train.batch_size, train.micro_batch_size; it has"), "{resumed}");
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
fn the_help_of_common_verbs_names_their_flags() {
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
        ("export", "RUN_OR_MODEL --format --output --dtype --checkpoint --iteration hf peft gguf mlx pairs q8_0"),
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
}

#[test]
fn without_a_verb_the_help_is_shown_and_the_exit_code_is_that_of_misuse() {
    let folder = tempdir().unwrap();
    let outcome = gsil(folder.path(), &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(USAGE), ""), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("\nCommands:\n"), "{}", outcome.stderr);
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
