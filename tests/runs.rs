//! What `gsil train` does and leaves behind: the run folder, every objective and option, the same bytes for the same seed.

use std::fs;
use std::path::Path;

use gsil::config::{ObjectiveName, RunConfig};
use gsil::formats::safetensors::open_safetensors;
use gsil::policy::Policy;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{
    Outcome, assert_close, command, device, ending_model, golden, gsil, keys, read, read_json, read_json_lines,
    say_skipped, text, text_model, wait, write_rows,
};

/// Of log-probs and losses in float32 on the tiny model.
const TOLERANCE: f64 = 1e-4;

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
    let overrides = ["evaluation.data=rows.jsonl", "evaluation.generate_rows=3", "continued_sft_lr=1e-4"];
    let trained = train(folder.path(), "run", &overrides);
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
        "start.safetensors",
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
        ["start", "iteration 0", "iteration 1", "continued sft"]
    );
    for stage in ["start", "iteration 0", "iteration 1", "continued sft"] {
        assert!(trained.stdout.contains(stage), "the table has a row for {stage}: {}", trained.stdout);
    }
}

#[test]
fn every_update_is_logged_with_all_signs_of_health() {
    let folder = tempdir().unwrap();
    let trained = train(folder.path(), "run", &[]);
    assert!(trained.stdout.contains(" training rows, for there are no held-out ones"), "{}", trained.stdout);
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
fn the_loss_is_divided_by_the_slope_and_the_mean_length_of_what_is_trained_on() {
    let folder = tempdir().unwrap();
    let settings = ["iterations=1", "generation.unfinished=mask", "objective.scale=0.5"];
    train(folder.path(), "run", &settings);
    let mean_length = |rows: Vec<Value>, key: &str| {
        rows.iter().map(|row| row[key].as_array().unwrap().len()).sum::<usize>() as f64 / rows.len() as f64
    };
    let demonstrations = mean_length(read_json_lines(&folder.path().join("rows.jsonl")), "response_ids");
    let responses =
        mean_length(read_json_lines(&folder.path().join("run/iteration-000/self_generated.jsonl")), "token_ids");
    // 2 ln 2 before the division; the slope of `bernoulli` is a half.
    let expected = 2.0 * std::f64::consts::LN_2 / (0.5 * 0.5 * (demonstrations + responses) / 2.0);
    assert_close(&metrics(folder.path(), "run")[0]["loss"], expected, TOLERANCE, "the first loss");
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
fn the_aligned_model_names_the_end_of_turn_that_only_the_template_knew() {
    const ENDOFTEXT: u32 = 0;
    const IM_END: u32 = 2;
    let folder = tempdir().unwrap();
    let model = text_model(folder.path());
    for (name, key, value) in [
        ("config.json", "eos_token_id", json!(ENDOFTEXT)),
        ("generation_config.json", "eos_token_id", json!(ENDOFTEXT)),
        ("tokenizer_config.json", "eos_token", json!("<|endoftext|>")),
    ] {
        let mut content = read_json(&model.join(name));
        content[key] = value;
        fs::write(model.join(name), content.to_string()).unwrap();
    }
    fs::write(folder.path().join("rows.jsonl"), "{\"prompt\": \"Hi\", \"completion\": \"Hello, you.\"}\n").unwrap();
    let (path, device) = (text(&model), device());
    let arguments = ["train", "--model", &path, "--data", "rows.jsonl", "--output", "run", "--device", &device];
    let settings = ["generation.max_new_tokens=5", "generation.unfinished=mask"];
    gsil(folder.path(), &[&arguments[..], &settings].concat()).succeeded();
    let aligned = folder.path().join("run/model");
    let original = read_json(&model.join("generation_config.json"));
    let mut written = read_json(&aligned.join("generation_config.json"));
    assert_eq!(written["eos_token_id"], json!([ENDOFTEXT, IM_END]));
    written["eos_token_id"] = original["eos_token_id"].clone();
    assert_eq!(written, original, "all else is as it was");
    let [before, after] = [&model, &aligned].map(|path| Policy::open(path).unwrap().eos_token_ids);
    assert_eq!(before, after);
}

#[test]
fn every_objective_trains() {
    let folder = tempdir().unwrap();
    for objective in ObjectiveName::ALL {
        let name = &objective.to_string();
        let overrides = [&format!("objective.name={name}"), "iterations=1", "generation.max_new_tokens=30"];
        train(folder.path(), name, &overrides);
        let rows = metrics(folder.path(), name);
        assert_eq!(rows.len(), 2, "{name}");
        let gained = |row: &Value| row["demonstration_log_prob_per_token"].as_f64().unwrap();
        assert!(rows.iter().all(|row| row["loss"].is_number() && gained(row) < 0.0), "{name}: {rows:?}");
        let generates = folder.path().join(name).join("iteration-000").exists();
        assert_eq!(generates, objective.needs_self_generated(), "{name} generates only if it needs responses");
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
fn two_samples_a_prompt_make_twice_the_responses_and_no_more_pairs() {
    let folder = tempdir().unwrap();
    let overrides = ["generation.samples_per_prompt=2", "iterations=1", "generation.unfinished=mask"];
    train(folder.path(), "run", &overrides);
    let responses = read_json_lines(&folder.path().join("run/iteration-000/self_generated.jsonl"));
    assert_eq!(responses.len(), 12);
    let of_first = |sample: u64| responses.iter().find(|row| row["index"] == 0 && row["sample"] == sample).unwrap();
    assert_ne!(of_first(0)["token_ids"], of_first(1)["token_ids"]);
    assert_eq!(metrics(folder.path(), "run").len(), 2); // six pairs in batches of three
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
    let hint = "hint: in a new run raise generation.max_new_tokens and train.max_length, or set generation.unfinished";
    assert!(stderr.contains(hint), "{stderr}");
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
    // 60 demonstrations in batches of 20: 3 updates a stage; the comparison begins where the iteration did.
    let expected = [("start", 0), ("sft", 3), ("iteration 0", 6), ("continued sft", 6)];
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
fn runs_started_together_without_an_output_have_a_folder_each() {
    let folder = tempdir().unwrap();
    let (model, device) = (text(ending_model(folder.path())), device());
    write_rows(&folder.path().join("rows.jsonl"), 6);
    let arguments = ["train", "--model", &model, "--data", "rows.jsonl", "--device", &device];
    let arguments = [&arguments[..], &["iterations=1", "generation.max_new_tokens=12", "train.batch_size=3"]].concat();
    for run in [(); 2].map(|()| command(folder.path(), &arguments).spawn().unwrap()) {
        wait(run).succeeded();
    }
    for run in ["runs/rows", "runs/rows-2"] {
        assert!(folder.path().join(run).join("model/model.safetensors").exists(), "{run}");
    }
}

#[test]
fn rows_that_bring_a_rejected_response_are_trained_on_and_nothing_is_generated() {
    let folder = tempdir().unwrap();
    let (model, data, device) = (text(golden("tiny_llama")), text(golden("tiny_pairs.jsonl")), device());
    let arguments = ["train", "--model", &model, "--data", &data, "--output", "run", "--device", &device];
    let overrides = ["objective.name=dil_bce", "objective.scale=0.1", "generation.samples_per_prompt=2"];
    gsil(folder.path(), &[&arguments[..], &overrides].concat()).succeeded();
    let given: Vec<Value> = read_json_lines(&golden("tiny_pairs.jsonl"));
    let mut used = read_json_lines(&folder.path().join("run/iteration-000/self_generated.jsonl"));
    used.sort_by_key(|row| row["index"].as_u64());
    assert_eq!(used.len(), given.len());
    for (used, given) in used.iter().zip(&given) {
        assert_eq!(used["token_ids"], given["self_generated_ids"]);
    }
    assert_eq!(read_json(&folder.path().join("run/about.json"))["responses_are_given"], true);
    let timing = read_json_lines(&folder.path().join("run/timing.jsonl"));
    assert!(timing.iter().all(|row| row["phase"] != "generation"), "{timing:?}");
    let page = read(&folder.path().join("run/report.html"));
    assert!(page.contains("stands here for the response that a row brings"), "as the words at its foot say");
}

#[test]
fn rows_of_which_only_some_bring_a_rejected_response_are_refused_before_and_by_the_run_but_not_by_score() {
    let folder = tempdir().unwrap();
    let pair = "{\"prompt_ids\":[3],\"demonstration_ids\":[4],\"self_generated_ids\":[5]}\n";
    let alone = "{\"prompt_ids\":[3],\"response_ids\":[4]}\n";
    fs::create_dir(folder.path().join("data")).unwrap();
    let shard = |i: usize| Path::new("data").join(format!("train-0000{i}-of-00002.jsonl"));
    fs::write(folder.path().join(shard(0)), pair.repeat(2)).unwrap();
    fs::write(folder.path().join(shard(1)), format!("{pair}\n{alone}")).unwrap();
    let model = text(golden("tiny_llama"));
    let of_the_data = ["--model", &model, "--data", "data"];
    // Counted with the lines of its own file, the blank one included.
    let expected = format!("{}, line 3: the row brings no second (rejected) response", text(shard(1)));
    for verb in [
        &["train", "--output", "run", "--device", "flex"][..],
        &["estimate", "--no-time", "--device", "flex"],
        &["init"],
    ] {
        let stderr = gsil(folder.path(), &[verb, &of_the_data].concat()).failed(3);
        assert!(stderr.contains(&expected), "{verb:?}: {stderr}");
    }
    let page = gsil(folder.path(), &["inspect", "data", "data", "--model", &model, "--json"]).succeeded().stdout;
    let facts: Value = serde_json::from_str(&page).unwrap();
    let warning = facts["warnings"].as_array().unwrap().iter().find(|warning| warning["kind"] == "some_rejected");
    let warning = warning.unwrap_or_else(|| panic!("{facts}"));
    assert_eq!((&warning["count"], &warning["first"]), (&json!(1), &json!(format!("{}, line 3", text(shard(1))))));
    gsil(folder.path(), &[&["score", "--device", "flex"], &of_the_data[..]].concat()).succeeded();
}

#[test]
fn continued_sft_makes_as_many_updates_as_the_iterations_did() {
    let folder = tempdir().unwrap();
    // Two epochs of six prompts: four updates of three pairs in each of two iterations.
    train(folder.path(), "run", &["train.epochs=2", "continued_sft_lr=1e-4", "generation.unfinished=mask"]);
    let rows = metrics(folder.path(), "run");
    let count = |stage: &str| rows.iter().filter(|row| row["stage"].as_str().unwrap().starts_with(stage)).count();
    assert_eq!((count("iteration"), count("continued sft")), (8, 8));
}

#[test]
fn answers_are_compared_only_where_demonstrations_have_one() {
    let folder = tempdir().unwrap();
    let model = text(text_model(folder.path()));
    let evaluated = |separator: &str| {
        let row = json!({"prompt": "one and one", "response": format!("Answer:{separator}2")});
        fs::write(folder.path().join("rows.jsonl"), format!("{row}\n{row}\n")).unwrap();
        let data = ["eval", "--model", &model, "--data", "rows.jsonl", "--device", &device()].map(str::to_owned);
        let data: Vec<&str> = data.iter().map(String::as_str).collect();
        // The marker is given with a space behind it, which is taken off: one must follow it anyway.
        let settings = ["evaluation.answer_marker=\"Answer: \"", "generation.max_new_tokens=4"];
        let outcome = gsil(folder.path(), &[&data[..], &settings].concat()).succeeded();
        let figures: Value = serde_json::from_str(&outcome.stdout).unwrap();
        (figures["greedy"]["exact_match"].clone(), outcome.stderr)
    };
    let (share, said) = evaluated(" ");
    assert_eq!((share, said.contains("no answers are compared")), (json!(0.0), false), "{said}");
    let (share, said) = evaluated("");
    assert_eq!(share, Value::Null);
    assert!(said.contains("no demonstration has `Answer:`, one space and a number"), "{said}");

    let (with_number, without) =
        (json!({"prompt": "1", "response": "Answer: 2"}), json!({"prompt": "1", "response": "2"}));
    fs::write(folder.path().join("mixed.jsonl"), format!("{with_number}\n{without}\n{with_number}\n")).unwrap();
    let arguments = ["eval", "--model", &model, "--data", "mixed.jsonl", "evaluation.answer_marker=Answer:"];
    let said = gsil(folder.path(), &[&arguments[..], &["--device", &device()]].concat()).succeeded().stderr;
    assert!(said.contains("1 of 3 demonstrations have not `Answer:`, one space and a number: no answer to"), "{said}");
}

#[test]
fn held_out_figures_against_a_reference_are_absent_where_nothing_is_answered() {
    let folder = tempdir().unwrap();
    let model = text(ending_model(folder.path()));
    write_rows(&folder.path().join("rows.jsonl"), 3);
    let arguments =
        ["eval", "--model", &model, "--reference", &model, "--data", "rows.jsonl", "evaluation.generate_rows=0"];
    let figures: Value = serde_json::from_str(&gsil(folder.path(), &arguments).succeeded().stdout).unwrap();
    assert_eq!((&figures["against_reference"], &figures["num_rows"]), (&Value::Null, &json!(3)));
}

#[test]
fn held_out_rows_that_are_training_rows_are_said_once_before_a_run_and_by_an_estimate() {
    let folder = tempdir().unwrap();
    let (model, device) = (text(ending_model(folder.path())), device());
    let path = |name: &str| folder.path().join(name);
    write_rows(&path("rows.jsonl"), 6);
    let other = json!({"prompt_ids": [300, 301], "response_ids": [302, 2]});
    write_rows(&path("both.jsonl"), 3);
    fs::write(path("both.jsonl"), format!("{}{other}\n", read(&path("both.jsonl")))).unwrap();
    fs::write(path("other.jsonl"), format!("{other}\n")).unwrap();
    let said = |verb: &[&str], settings: &[&str]| {
        let given = ["--model", &model, "--data", "rows.jsonl", "--device", &device];
        let brief = ["iterations=0", "sft.lr=1e-3", "generation.max_new_tokens=4"];
        gsil(folder.path(), &[verb, &given[..], &brief, settings].concat()).succeeded().stderr
    };
    let estimate = ["estimate", "--no-time"];
    let both = ["evaluation.data=both.jsonl"];
    let warning = "warning: 3 of 4 held-out rows are training rows, too: what they show is memory, not ability\n";
    for verb in [&["train", "--output", "run"][..], &estimate] {
        assert_eq!(said(verb, &both).matches(warning).count(), 1, "{verb:?}");
    }
    for settings in [&["evaluation.data=other.jsonl"][..], &[]] {
        assert!(!said(&estimate, settings).contains("are training rows"), "{settings:?}");
    }
}
