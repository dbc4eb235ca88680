//! `gsil export`: every format read back with this project's own readers, and bad requests that help. What the ecosystem's
//! readers say is in `export_readers`.

use std::fs;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::sync::Arc;

use burn::module::Module;
use gsil::config::RunConfig;
use gsil::data::rows::Prompt;
#[cfg(unix)]
use gsil::formats::file_system::Disk;
use gsil::formats::safetensors::open_safetensors;
use gsil::formats::{ModelFiles, open_model};
use gsil::policy::Policy;
#[cfg(unix)]
use gsil::train::run_dir::RunDir;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{
    Outcome, device, ending_model, export, golden, gsil, read, read_json, read_json_lines, text, text_model,
    tiny_model_with, write_rows,
};
#[cfg(unix)]
use crate::support::binary::{gsil_as_another, set_mode};
use crate::support::gguf_builder::tiny_model;
use crate::support::{assert_near, fixture, flex, load_model, logits, random_ids, tiny_models};

fn exported(folder: &Path, source: &Path, format: &str, options: &[&str]) -> PathBuf {
    let output = folder.join(format!("{format}{}", options.concat()));
    export(folder, source, format, &output, options).succeeded();
    output
}

/// Every tensor of the export against the original: within `bound(value, largest magnitude in its block of 32)`.
fn assert_tensors_within(exported: &ModelFiles, original: &ModelFiles, bound: impl Fn(f32, f32) -> f32) {
    let names: Vec<&str> = original.weights.names().collect();
    assert_eq!(exported.weights.names().collect::<Vec<_>>(), names);
    for name in names {
        assert_eq!(exported.weights.shape(name), original.weights.shape(name), "{name}");
        let [ours, theirs] = [exported, original].map(|files| files.weights.read_f32(name).unwrap());
        let is_vector = original.weights.shape(name).unwrap().len() == 1;
        for (ours, theirs) in ours.chunks(32).zip(theirs.chunks(32)) {
            let largest = theirs.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
            for (a, b) in ours.iter().zip(theirs) {
                let allowed = if is_vector { 0.0 } else { bound(*b, largest) };
                assert!((a - b).abs() <= allowed, "{name}: {a}, expected {b} within {allowed:e}");
            }
        }
    }
}

#[test]
fn a_gguf_export_holds_the_same_tensors_in_every_number_format() {
    let folder = tempdir().unwrap();
    for name in tiny_models::in_gguf() {
        let source = tiny_models::folder_of(name);
        let original = open_model(&source).unwrap();
        for dtype in ["f32", "f16", "bf16", "q8_0"] {
            let output = folder.path().join(format!("{name}-{dtype}"));
            let outcome = export(folder.path(), &source, "gguf", &output, &["--dtype", dtype]).succeeded();
            assert!(outcome.stderr.contains("the model has no tokenizer"), "{}", outcome.stderr);
            assert!(!outcome.stderr.contains("TEMPLATE"), "there is no template: {}", outcome.stderr);
            let read = open_model(&output.join("model.gguf")).unwrap();
            // The bounds of `formats::quantize`. Rows of 48 are no whole blocks: those matrices are F16.
            let f16 = |value: f32| value.abs() * 2f32.powi(-11) + 2f32.powi(-25);
            match dtype {
                "f32" => assert_tensors_within(&read, &original, |_, _| 0.0),
                "f16" => assert_tensors_within(&read, &original, |value, _| f16(value)),
                "bf16" => assert_tensors_within(&read, &original, |value, _| value.abs() * 2f32.powi(-8)),
                _ => {
                    assert!(outcome.stderr.contains("2 matrices have rows"), "{}", outcome.stderr);
                    assert_tensors_within(&read, &original, |_, largest| largest * (0.5 + 127.0 / 2048.0) / 126.9);
                }
            }
        }
    }
}

#[test]
fn a_gguf_export_of_every_architecture_has_the_logits_of_its_source() {
    let folder = tempdir().unwrap();
    let rows = [random_ids(5, 24, 64), random_ids(6, 9, 64)];
    for name in tiny_models::in_gguf() {
        let source = tiny_models::folder_of(name);
        let output = folder.path().join(name);
        export(folder.path(), &source, "gguf", &output, &["--dtype", "f32"]).succeeded();
        let logits_of = |path: &Path| logits(&load_model(path, &flex()).valid(), &rows, 1).concat();
        assert_near(name, &logits_of(&output.join("model.gguf")), &logits_of(&source), 1e-4);
    }
}

/// Text that tokenizers stumble over, special tokens included.
fn awkward_strings() -> Vec<String> {
    let expected = read_json(&fixture("tokenizer/expected.json"));
    let cases = expected["encodings"].as_array().unwrap();
    assert!(cases.len() > 5);
    cases.iter().map(|case| case["text"].as_str().unwrap().to_owned()).collect()
}

fn greedy(folder: &Path, model: &Path) -> String {
    let (model, device) = (text(model), device());
    let arguments =
        ["generate", "--model", &model, "--prompt", "Hello", "--temperature", "0", "--max-new-tokens", "12"];
    gsil(folder, &[&arguments[..], &["--device", &device]].concat()).succeeded().stdout
}

#[test]
fn a_gguf_export_keeps_token_ids_prompts_and_greedy_text() {
    let folder = tempdir().unwrap();
    let source = text_model(folder.path());
    let output = exported(folder.path(), &source, "gguf", &["--dtype", "f32"]);
    let file = output.join("model.gguf");
    let again = folder.path().join("again");
    // A GGUF file whose tokenizer is carried over.
    let said = export(folder.path(), &file, "gguf", &again, &[]).succeeded().stderr;
    assert!(said.contains("else add TEMPLATE to the Modelfile"), "{said}");
    let original = Policy::open(&source).unwrap().tokenizer.unwrap();
    for path in [&file, &again.join("model.gguf")] {
        let read = Policy::open(path).unwrap();
        assert_eq!((read.eos_token_ids, read.config.vocab_size), (vec![2], 515));
        let read = read.tokenizer.unwrap();
        for text in awkward_strings() {
            assert_eq!(read.encode(&text).unwrap(), original.encode(&text).unwrap(), "{text:?}");
            let prompt = Prompt::Text(text);
            assert_eq!(read.encode_prompt(&prompt).unwrap(), original.encode_prompt(&prompt).unwrap());
        }
    }
    let written = greedy(folder.path(), &source);
    assert!(written.len() > 1, "some text is needed for this test: {written:?}");
    assert_eq!(greedy(folder.path(), &file), written);
    assert_eq!(read(&output.join("Modelfile")), "FROM ./model.gguf\nPARAMETER stop \"<|im_end|>\"\n");
    let again = open_model(&again.join("model.gguf")).unwrap().tokenizer;
    assert_eq!(again, open_model(&file).unwrap().tokenizer, "carried over, template and all");
}

/// A GGUF file with a tokenizer that only GGUF files have.
fn sentence_piece(folder: &Path) -> PathBuf {
    let file = folder.join("original.gguf");
    let content = tiny_model("llama")
        .string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &["<s>", "</s>", "a", "b", "ab", "\u{2581}ab"])
        .f32s("tokenizer.ggml.scores", &[0.0, 0.0, -1.0, -2.0, -3.0, -4.0])
        .i32s("tokenizer.ggml.token_type", &[3, 3, 1, 1, 1, 1])
        .u32("tokenizer.ggml.eos_token_id", 1)
        .bool("tokenizer.ggml.add_bos_token", true);
    fs::write(&file, content.build()).unwrap();
    file
}

/// A folder with the configuration of a run on `model`, and in it, under the name `inside`, the model of a GGUF file.
fn run_on(model: &Path, run: &Path, inside: &str, original: &Path) -> PathBuf {
    let folder = run.join(inside);
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    export(run, original, "hf", &folder, &[]).succeeded();
    let config = RunConfig { model: Some(text(model)), ..RunConfig::default() };
    fs::write(run.join("config.ron"), config.to_ron().unwrap()).unwrap();
    folder
}

/// What `server.on_policy_ready` may do with a policy of a run that began with a tokenizer which only GGUF files have.
#[test]
fn the_policy_inside_a_run_keeps_the_tokenizer_of_the_gguf_file_that_the_run_began_with() {
    let folder = tempdir().unwrap();
    let original = sentence_piece(folder.path());
    let copy = exported(folder.path(), &original, "hf", &[]);
    let refused = export(folder.path(), &copy, "gguf", &folder.path().join("refused"), &[]).failed(3);
    assert!(refused.contains("tokenizer"), "{refused}");
    let policy = run_on(&original, &folder.path().join("run"), "iteration-001/policy", &original);
    let written = exported(folder.path(), &policy, "gguf", &[]).join("model.gguf");
    assert_eq!(open_model(&written).unwrap().tokenizer, open_model(&original).unwrap().tokenizer);
}

#[test]
fn a_run_on_top_of_a_run_keeps_the_tokenizer_of_the_gguf_file_that_the_first_began_with() {
    let folder = tempdir().unwrap();
    let original = sentence_piece(folder.path());
    let first = folder.path().join("first");
    let start = run_on(&original, &first, "model", &original); // a comparison names the model inside of its start
    for (i, below) in [first, start].iter().enumerate() {
        let run = folder.path().join(format!("run-{i}"));
        let model = run_on(below, &run, "model", &original);
        for (source, output) in [(&run, "of-run"), (&model, "of-model")] {
            let output = folder.path().join(format!("{output}-{i}"));
            export(folder.path(), source, "gguf", &output, &[]).succeeded();
            let written = open_model(&output.join("model.gguf")).unwrap();
            assert_eq!(written.tokenizer, open_model(&original).unwrap().tokenizer, "{}", source.display());
        }
    }
    // Runs that name each other lead nowhere.
    let ring = folder.path().join("ring");
    let inside = run_on(&ring, &ring, "model", &original);
    let refused = export(folder.path(), &inside, "gguf", &folder.path().join("refused"), &[]).failed(3);
    assert!(refused.contains("tokenizer"), "{refused}");
}

#[test]
fn a_hugging_face_export_holds_all_files_with_the_users_permissions() {
    let folder = tempdir().unwrap();
    let source = text_model(folder.path());
    let output = exported(folder.path(), &source, "hf", &[]);
    let mut names: Vec<String> =
        fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    let expected = [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected);
    let (read, original) = (open_model(&output).unwrap(), open_model(&source).unwrap());
    assert_tensors_within(&read, &original, |_, _| 0.0);
    assert_eq!(read.tokenizer.unwrap().tokenizer_json, original.tokenizer.unwrap().tokenizer_json);
    assert_eq!(read.generation_config.unwrap()["eos_token_id"], 2);
    assert_eq!(greedy(folder.path(), &output), greedy(folder.path(), &source));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        expected.iter().for_each(|name| assert_eq!(mode(&output.join(name)), mode(&plain), "{name}"));
    }
}

#[test]
fn a_hugging_face_export_is_rounded_to_the_type_that_its_configuration_names() {
    let folder = tempdir().unwrap();
    let source = golden("tiny_llama");
    let original = open_model(&source).unwrap();
    for (dtype, name, precision) in [("f16", "float16", -11), ("bf16", "bfloat16", -8)] {
        let output = exported(folder.path(), &source, "hf", &["--dtype", dtype]);
        let read = open_model(&output).unwrap();
        assert_eq!(read.config["dtype"], name);
        assert_eq!(read.weights.num_bytes() * 2, original.weights.num_bytes());
        for tensor in original.weights.names() {
            let [ours, theirs] = [&read, &original].map(|files| files.weights.read_f32(tensor).unwrap());
            let allowed = |value: f32| value.abs() * 2f32.powi(precision) + 2f32.powi(-25);
            assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= allowed(*b)), "{dtype}: {tensor}");
        }
    }
}

#[test]
fn an_export_ends_responses_where_training_did() {
    let folder = tempdir().unwrap();
    let source = tiny_model_with(folder.path(), &[("eos_token_id", json!([2, 7]))]);
    let output = exported(folder.path(), &source, "hf", &[]);
    assert_eq!(read_json(&output.join("generation_config.json"))["eos_token_id"], json!([2, 7]));
    let gguf = exported(folder.path(), &source, "gguf", &[]);
    assert_eq!(Policy::open(&gguf.join("model.gguf")).unwrap().eos_token_ids, [2, 7]);
}

#[test]
fn an_mlx_export_spells_out_what_mlx_lm_assumes_otherwise() {
    let folder = tempdir().unwrap();
    let source = tiny_models::folder_of("llama3");
    let mut config = read_json(&source.join("config.json"));
    assert!(config.get("rope_theta").is_none() && config.get("rope_scaling").is_none(), "the new spelling alone");
    let copy = folder.path().join("copy");
    fs::create_dir(&copy).unwrap();
    fs::copy(source.join("model.safetensors"), copy.join("model.safetensors")).unwrap();
    config.as_object_mut().unwrap().remove("tie_word_embeddings"); // false for transformers, true for mlx-lm
    fs::write(copy.join("config.json"), config.to_string()).unwrap();
    let output = exported(folder.path(), &copy, "mlx", &[]);
    let written = read_json(&output.join("config.json"));
    assert_eq!((&written["tie_word_embeddings"], &written["rope_theta"]), (&json!(false), &json!(10000.0)));
    assert_eq!(written["rope_scaling"]["rope_type"], "llama3");
    assert_eq!(written["rope_scaling"]["original_max_position_embeddings"], 128.0);
    let (read, original) = (open_model(&output).unwrap(), open_model(&copy).unwrap());
    assert_eq!(read.weights.num_bytes() * 2, original.weights.num_bytes(), "BF16");
    assert_eq!(Policy::open(&output).unwrap().config, Policy::open(&copy).unwrap().config);
}

/// A run on the model whose responses end; `overrides` as for `gsil train`.
fn trained(folder: &Path, overrides: &[&str]) -> PathBuf {
    trained_on(&ending_model(folder), folder, overrides)
}

/// The same of another model.
fn trained_on(model: &Path, folder: &Path, overrides: &[&str]) -> PathBuf {
    let (model, device) = (text(model), device());
    write_rows(&folder.join("rows.jsonl"), 6);
    let arguments = ["train", "--model", &model, "--data", "rows.jsonl", "--output", "run", "--device", &device];
    let settings = ["generation.max_new_tokens=12", "train.batch_size=3", "train.lr=1e-2"];
    gsil(folder, &[&arguments[..], &settings, overrides].concat()).succeeded();
    folder.join("run")
}

#[test]
fn an_adapter_export_is_the_adapter_that_the_aligned_model_has_merged() {
    let folder = tempdir().unwrap();
    // The comparison trains the same adapter further: the last checkpoint is not the aligned model's.
    let run = trained(
        folder.path(),
        &["lora.rank=4", "lora.target_modules=[\"q_proj\", \"down_proj\"]", "continued_sft_lr=1e-2"],
    );
    let output = folder.path().join("peft");
    let said = export(folder.path(), &run, "peft", &output, &[]).succeeded().stderr;
    assert!(!said.contains("GGUF"), "peft opens a folder: {said}");
    let config = read_json(&output.join("adapter_config.json"));
    assert_eq!((&config["r"], &config["lora_alpha"], &config["peft_type"]), (&json!(4), &json!(16), &json!("LORA")));
    assert_eq!(
        (&config["task_type"], &config["target_modules"]),
        (&json!("CAUSAL_LM"), &json!(["q_proj", "down_proj"]))
    );
    let base = PathBuf::from(config["base_model_name_or_path"].as_str().unwrap());
    let adapter = open_safetensors(&output.join("adapter_model.safetensors")).unwrap();
    assert_eq!((adapter.names().count(), adapter.metadata()["format"].as_str()), (2 * 2 * 2, "pt"));
    let (base, merged) = (open_model(&base).unwrap(), open_model(&run.join("model")).unwrap());
    for layer in 0..2 {
        for projection in ["self_attn.q_proj", "mlp.down_proj"] {
            let module = format!("model.layers.{layer}.{projection}");
            let factor = |name: &str| format!("base_model.model.{module}.lora_{name}.weight");
            let [a, b] = ["A", "B"].map(|name| adapter.read_f32(&factor(name)).unwrap());
            let [out, r#in] = base.weights.shape(&format!("{module}.weight")).unwrap().try_into().unwrap();
            assert_eq!(adapter.shape(&factor("A")).unwrap(), [4, r#in]);
            assert_eq!(adapter.shape(&factor("B")).unwrap(), [out, 4]);
            let [before, after] =
                [&base, &merged].map(|files| files.weights.read_f32(&format!("{module}.weight")).unwrap());
            let update = |row: usize, column: usize| -> f32 {
                (0..4).map(|k| b[row * 4 + k] * a[k * r#in + column]).sum::<f32>() * 16.0 / 4.0
            };
            let expected: Vec<f32> = (0..out * r#in).map(|i| before[i] + update(i / r#in, i % r#in)).collect();
            assert_near(&module, &after, &expected, 1e-6);
            assert!(
                after.iter().zip(&before).any(|(a, b)| (a - b).abs() > 1e-4),
                "{module}: the adapter has an effect"
            );
        }
    }
}

#[test]
fn an_adapter_on_a_gguf_file_comes_with_the_command_that_makes_a_base_for_peft() {
    let folder = tempdir().unwrap();
    let file = exported(folder.path(), &ending_model(folder.path()), "gguf", &["--dtype", "f32"]).join("model.gguf");
    let run = trained_on(&file, folder.path(), &["lora.rank=2", "generation.unfinished=mask"]);
    let said = export(folder.path(), &run, "peft", &folder.path().join("adapter"), &[]).succeeded().stderr;
    let (_, hint) = said.split_once("peft cannot open a GGUF base: `gsil ").expect(&said);
    let command: Vec<&str> = hint.split('`').next().unwrap().split(' ').collect();
    gsil(folder.path(), &command).succeeded();
    let (base, original) = (open_model(&folder.path().join("base")).unwrap(), open_model(&file).unwrap());
    assert_tensors_within(&base, &original, |_, _| 0.0);
}

#[test]
fn a_model_card_tells_what_the_run_folder_knows_and_no_more() {
    let folder = tempdir().unwrap();
    let run = trained(folder.path(), &["objective.name=brier", "objective.shift=0.5"]);
    let card = read(&exported(folder.path(), &run, "hf", &[]).join("README.md"));
    for part in [
        "| base model | `tiny` |",
        "| data | `rows.jsonl`, 6 demonstrations |",
        "| objective | brier, scale 1, shift 0.5 |",
        "| iterations | 1; in each: epochs 1, batch size 3, learning rate 1e-2 |",
        "| trained | all weights |",
        "| tensors | float32 |",
        "license: # fill in",
        "after        updates",
        "Judged on 6 of its own training rows: no held-out figures.",
    ] {
        assert!(card.contains(part), "{part:?} in:\n{card}");
    }
    let parent = text(folder.path());
    assert!(!card.contains(&parent), "a published card does not tell of the user's folders:\n{card}");
    let plain = read(&exported(folder.path(), &golden("tiny_llama"), "hf", &["--dtype", "f16"]).join("README.md"));
    assert!(plain.contains("`tiny_llama` in another format") && plain.contains("Nothing was trained."), "{plain}");
}

#[test]
fn the_card_speaks_of_the_model_for_comparison_only_where_its_row_stands() {
    let folder = tempdir().unwrap();
    let run = trained(folder.path(), &["continued_sft_lr=1e-3"]);
    let card = |name: &str| {
        let output = folder.path().join(name);
        export(folder.path(), &run, "hf", &output, &[]).succeeded();
        read(&output.join("README.md"))
    };
    let said = "`continued sft` is another model, trained for comparison; this model is the row before it.";
    assert!(card("whole").contains(said));
    // As it is where the run was stopped in its last stage.
    let evaluations = read(&run.join("evaluations.jsonl"));
    let rows: Vec<&str> = evaluations.lines().filter(|line| !line.contains("continued sft")).collect();
    fs::write(run.join("evaluations.jsonl"), rows.join("\n") + "\n").unwrap();
    assert!(!card("stopped").contains(said));
}

#[test]
fn the_card_of_supervised_training_alone_names_no_objective() {
    let folder = tempdir().unwrap();
    let settings = ["iterations=0", "sft.epochs=2", "sft.batch_size=2", "sft.micro_batch_size=2", "sft.lr=1e-3"];
    let run = trained(folder.path(), &settings);
    let card = read(&exported(folder.path(), &run, "hf", &[]).join("README.md"));
    assert!(card.contains("| supervised training | epochs 2, batch size 2, learning rate 1e-3 |"), "{card}");
    assert!(card.contains("by supervised fine-tuning"), "{card}");
    for absent in ["objective", "bernoulli", "iterations"] {
        assert!(!card.contains(absent), "{absent}: {card}");
    }
    let page = read(&run.join("report.html"));
    assert!(page.contains("<dd>2 epochs of supervised training in batches of 2, learning rate 0.001</dd>"), "{page}");
    assert!(!page.contains("<dt>objective</dt>"), "{page}");
}

#[test]
fn exported_pairs_are_those_of_the_iteration_with_its_log_probs() {
    let folder = tempdir().unwrap();
    let run = trained(folder.path(), &["iterations=2", "generation.samples_per_prompt=2"]);
    let rows = read_json_lines(&folder.path().join("rows.jsonl"));
    for (options, iteration) in [(&["--iteration", "0"][..], "iteration-000"), (&[], "iteration-001")] {
        let pairs_file = exported(folder.path(), &run, "pairs", options);
        let pairs = read_json_lines(&pairs_file);
        let responses = read_json_lines(&run.join(iteration).join("self_generated.jsonl"));
        let finished: Vec<&Value> = responses.iter().filter(|row| row["finished"] == true).collect();
        assert!(finished.len() > 6, "the test needs pairs");
        assert_eq!(pairs.len(), finished.len(), "cut responses were not trained on");
        for pair in &pairs {
            let is_own = |row: &&&Value| row["index"] == pair["index"] && row["sample"] == pair["sample"];
            let response = finished.iter().find(is_own).unwrap();
            let row = &rows[pair["index"].as_u64().unwrap() as usize];
            assert_eq!((&pair["prompt_ids"], &pair["chosen_ids"]), (&row["prompt_ids"], &row["response_ids"]));
            assert_eq!(pair["rejected_ids"], response["token_ids"]);
            assert_eq!(pair["ref_rejected_token_logps"], response["token_log_probs"]);
            assert!(pair.get("prompt").is_none(), "a model without a tokenizer has no text to give");
        }
        if iteration == "iteration-000" {
            assert_reference_is(&folder.path().join("tiny"), folder.path(), &pairs_file);
        }
    }
}

#[test]
fn pairs_of_a_run_whose_data_were_moved_are_exported_from_where_they_are_now() {
    let folder = tempdir().unwrap();
    let run = trained(folder.path(), &[]);
    let expected = read(&exported(folder.path(), &run, "pairs", &[]));
    fs::rename(folder.path().join("rows.jsonl"), folder.path().join("moved.jsonl")).unwrap();
    let output = folder.path().join("o");
    let said = export(folder.path(), &run, "pairs", &output, &[]).failed(3);
    assert!(said.contains("rows.jsonl: is not there any more; the run began with it as `data`"), "{said}");
    assert!(said.contains("hint: if it was moved: the same command with --data NEW_PLACE"), "{said}");
    write_rows(&folder.path().join("others.jsonl"), 5);
    let said = export(folder.path(), &run, "pairs", &output, &["--data", "others.jsonl"]).failed(3);
    assert!(said.contains("are not those that the run began with"), "{said}");
    export(folder.path(), &run, "pairs", &output, &["--data", "moved.jsonl"]).succeeded();
    assert_eq!(read(&output), expected);
}

/// `gsil score` reads the pairs as they are, and of the model they began with it gives their reference log-probs.
fn assert_reference_is(model: &Path, folder: &Path, pairs_file: &Path) {
    let pairs = read_json_lines(pairs_file);
    let arguments = ["score", "--model", &text(model), "--data", &text(pairs_file), "--device", &device()];
    let scores = gsil(folder, &arguments).succeeded().json_lines();
    assert_eq!(scores.len(), pairs.len());
    for (score, pair) in scores.iter().zip(&pairs) {
        for (ours, theirs) in [("log_prob", "ref_chosen_logps"), ("log_prob_self_generated", "ref_rejected_logps")] {
            let difference = score[ours].as_f64().unwrap() - pair[theirs].as_f64().unwrap();
            assert!(difference.abs() < 1e-3, "{theirs}: {difference}");
        }
    }
}

#[test]
fn exported_pairs_of_a_model_with_a_tokenizer_have_text() {
    let folder = tempdir().unwrap();
    let model = text(text_model(folder.path()));
    fs::write(folder.path().join("rows.jsonl"), "{\"prompt\": \"Hi\", \"completion\": \"Hello, you.\"}\n").unwrap();
    let arguments = ["train", "--model", &model, "--data", "rows.jsonl", "--output", "run", "--device", &device()];
    let settings = ["generation.max_new_tokens=5", "generation.unfinished=mask"];
    gsil(folder.path(), &[&arguments[..], &settings].concat()).succeeded();
    let pairs_file = folder.path().join("a folder/of pairs/first.jsonl"); // made, as it is for the other formats
    export(folder.path(), &folder.path().join("run"), "pairs", &pairs_file, &[]).succeeded();
    let pairs = read_json_lines(&pairs_file);
    assert_eq!(pairs.len(), 1);
    assert_eq!((&pairs[0]["chosen"], &pairs[0]["rejected_finished"]), (&json!("Hello, you."), &json!(false)));
    let tokenizer = Policy::open(Path::new(&model)).unwrap().tokenizer.unwrap();
    let rendered = tokenizer.render_prompt(&Prompt::Text("Hi".into())).unwrap();
    assert_eq!(pairs[0]["prompt"].as_str(), rendered.as_deref());
    assert_reference_is(Path::new(&model), folder.path(), &pairs_file);
}

#[test]
fn bad_requests_are_refused_with_a_way_out() {
    let folder = tempdir().unwrap();
    let parent = folder.path();
    let model = golden("tiny_llama");
    let refused = |outcome: Outcome, code: i32, parts: [&str; 2]| {
        let said = outcome.failed(code);
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} in: {said}"));
    };
    let to =
        |format: &str, output: &str, options: &[&str]| export(parent, &model, format, &parent.join(output), options);
    refused(to("onnx", "o", &[]), 2, ["onnx", "hf, peft, gguf, mlx, pairs"]);
    refused(to("hf", "o", &["--dtype", "q8_0"]), 2, ["q8_0 is a type of GGUF files alone", "hint: use --format gguf"]);
    refused(to("hf", "o", &["--dtype", "q4_0"]), 2, ["q4_0", "f32, f16, bf16, q8_0"]);
    refused(to("hf", "o", &["--iteration", "0"]), 2, ["--iteration goes with --format pairs", "error"]);
    refused(to("hf", "o", &["--data", "rows.jsonl"]), 2, ["--data goes with --format pairs", "error"]);
    refused(to("pairs", "o", &["--dtype", "f16"]), 2, ["--dtype has no meaning", "error"]);
    refused(to("gguf", "x.gguf", &[]), 2, ["--output is a folder", "model.gguf and its Modelfile"]);
    refused(to("peft", "o", &[]), 2, ["is a model, not a run", "hint: give the folder that `gsil train` made"]);
    refused(to("pairs", "o", &[]), 2, ["is a model, not a run", "hint: give the folder that `gsil train` made"]);
    fs::create_dir(parent.join("full")).unwrap();
    fs::write(parent.join("full/thesis.tex"), "years of work").unwrap();
    for (format, output) in [("hf", "full"), ("gguf", "full"), ("hf", "full/thesis.tex"), ("pairs", "full")] {
        refused(to(format, output, &[]), 2, ["already exists, and nothing is overwritten", "hint: choose another"]);
    }
    assert_eq!(read(&parent.join("full/thesis.tex")), "years of work");
    for nothing in ["none", "full"] {
        let outcome = export(parent, &parent.join(nothing), "hf", &parent.join("o"), &[]);
        refused(outcome, 3, ["is neither a run nor a model", "hint: give a run folder (config.ron inside)"]);
    }
    assert!(!parent.join("o").exists(), "a refused request leaves nothing behind");
    fs::create_dir(parent.join("empty")).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("empty", parent.join("link")).unwrap();
        refused(to("gguf", "link", &[]), 2, ["link already exists", "hint: choose another"]);
    }
    to("hf", "empty", &[]).succeeded();
    assert!(parent.join("empty/model.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn a_run_that_may_only_be_read_is_exported_unless_it_is_in_use() {
    let folder = tempdir().unwrap();
    let run = trained(folder.path(), &[]);
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    set_mode(folder.path(), 0o755);
    set_mode(&open, 0o777);
    let exported_to = |name: &str| {
        let (run, output) = (text(&run), text(open.join(name)));
        let words = ["export", &run, "--format", "hf", "--output", &output];
        gsil_as_another("an export of a run that may only be read", folder.path(), &words)
    };
    let worker = RunDir::open(Arc::new(Disk), &run).unwrap();
    set_mode(&run.join(".lock"), 0o444);
    set_mode(&run, 0o555);
    let Some(outcome) = exported_to("used") else { return };
    assert!(outcome.failed(7).contains("another process works here"));
    drop(worker);
    exported_to("free").unwrap().succeeded();
    set_mode(&run, 0o755);
    fs::remove_file(run.join(".lock")).unwrap();
    set_mode(&run, 0o555);
    exported_to("unlocked").unwrap().succeeded();
    assert!(!run.join(".lock").exists());
    set_mode(&run, 0o755); // to be removed
}

#[test]
fn a_run_without_adapter_pairs_or_result_says_what_is_missing() {
    let folder = tempdir().unwrap();
    let run = trained(folder.path(), &[]);
    let refused = |format: &str, options: &[&str], code: i32, parts: [&str; 2]| {
        let said = export(folder.path(), &run, format, &folder.path().join("o"), options).failed(code);
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} in: {said}"));
    };
    refused("peft", &[], 2, ["trained all weights: it has no adapter", "hint: --format hf exports the whole model"]);
    refused("pairs", &["--iteration", "7"], 3, ["kept no pairs", "hint: its iterations with pairs are 0 to 0"]);
    fs::remove_dir_all(run.join("iteration-000")).unwrap();
    refused("pairs", &[], 3, ["kept no pairs", "hint: they were removed: put back the run's folder iteration-000"]);
    fs::remove_dir_all(run.join("model")).unwrap();
    for format in ["hf", "gguf"] {
        refused(format, &[], 3, ["aligned model was removed", "hint: make one of its last checkpoint: gsil export"]);
    }
    // As it is in a run that was stopped before its first pairs.
    fs::write(run.join("latest"), "step-000000-iteration-0").unwrap();
    refused("pairs", &[], 3, ["kept no pairs", "hint: none is complete yet: gsil resume "]);
    for format in ["hf", "gguf"] {
        refused(format, &[], 3, ["has no aligned model yet", "hint: finish it: gsil resume "]);
    }
    let diverged = json!({"message": "diverged", "hint": null, "exit_code": 5, "when": "2026-03-01 04:10:00 +01:00"});
    fs::write(run.join("ended.json"), diverged.to_string()).unwrap();
    let new_run = "hint: its training failed, and would again: start a new run with other settings";
    refused("hf", &[], 3, ["has no aligned model yet", new_run]);
    refused("pairs", &[], 3, ["kept no pairs", new_run]);
    fs::remove_file(run.join("ended.json")).unwrap();
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    // Nothing is there to resume from.
    let restore = "restore the newest one from a backup (`latest` names it), or start a new run";
    let gone = format!("hint: its checkpoints are gone: {restore}");
    refused("hf", &[], 3, ["has no aligned model yet", &gone]);
    refused("pairs", &[], 3, ["kept no pairs", &format!("hint: its checkpoints are gone, too: {restore}")]);
    refused("hf", &["--checkpoint", "best"], 3, ["no checkpoint", &format!("hint: all were removed; {restore}")]);
    let resumed = gsil(folder.path(), &["resume", &text(&run)]).failed(3);
    assert!(resumed.contains("its checkpoints are gone") && resumed.contains(restore), "{resumed}");
    // A run that has made none yet begins again.
    fs::remove_file(run.join("latest")).unwrap();
    refused("hf", &[], 3, ["has no aligned model yet", "hint: finish it: gsil resume "]);
    refused("hf", &["--checkpoint", "best"], 3, ["no checkpoint", "hint: it has made none yet: gsil resume "]);
    let config = read(&run.join("config.ron")).replace("name: bernoulli", "name: sft");
    fs::write(run.join("config.ron"), config).unwrap();
    refused("pairs", &[], 3, ["kept no pairs", "hint: pairs come from iterations"]);
}
