//! `gsil eval gsm8k | multiple-choice | perplexity`: what lm-evaluation-harness says of the same rows, kept and gone on with.
//!
//! `tests/oracle/check_evals.py` made the fixtures, with lm_eval 0.4.13 and the model that these tests make.

use std::fs;
use std::path::Path;

use gsil::eval::gsm8k::judge;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{
    LONG_IN_2001, Outcome, device, export, gsil, read, read_json, read_json_lines, sorted_lines, text, text_model,
    tiny_model_with,
};
use crate::support::fixture;

/// Nats: both programs compute in float32, in another order.
const TOLERANCE: f64 = 1e-3;

fn eval(folder: &Path, evaluation: &str, data: &Path, more: &[&str]) -> Outcome {
    let (model, data) = (text(folder.join("text")), text(data));
    let device = device();
    let arguments = ["eval", evaluation, "--model", &model, "--data", &data, "--device", &device];
    gsil(folder, &[&arguments[..], more].concat())
}

/// The rows that an evaluation kept, in the order of the data.
fn rows(folder: &Path) -> Vec<Value> {
    let mut rows = read_json_lines(&folder.join("rows.jsonl"));
    rows.sort_by_key(|row| row["index"].as_u64());
    rows
}

#[track_caller]
fn assert_log_likelihood(found: &Value, expected: &Value, what: &str) {
    let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!((found - expected).abs() <= TOLERANCE + 1e-6 * expected.abs(), "{what}: {found}, lm_eval {expected}");
}

#[test]
fn every_response_is_judged_as_the_harness_judges_it() {
    let responses = read_json_lines(&fixture("evals/gsm8k_responses.jsonl"));
    assert!(responses.len() > 500, "{}", responses.len());
    for row in responses {
        let judged = judge(row["response"].as_str().unwrap(), row["answer"].as_str().unwrap());
        let judged = serde_json::to_value(judged).unwrap();
        for key in ["strict", "flexible", "exact_match_strict", "exact_match_flexible"] {
            assert_eq!(judged[key], row[key], "{key} of {row}");
        }
    }
}

#[test]
fn log_likelihoods_and_predictions_of_choices_are_the_harnesss() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    eval(folder.path(), "multiple-choice", &fixture("evals/choices.jsonl"), &["--output", "kept"]).succeeded();
    let (found, expected) =
        (rows(&folder.path().join("kept")), read_json_lines(&fixture("evals/choices_expected.jsonl")));
    assert_eq!((found.len(), expected.len()), (60, 60));
    for (found, expected) in found.iter().zip(&expected) {
        let what = format!("row {}", found["index"]);
        for key in ["answer", "predicted", "predicted_norm"] {
            assert_eq!(found[key], expected[key], "{key} of {what}");
        }
        let sums = |row: &Value| row["log_likelihoods"].as_array().unwrap().clone();
        assert_eq!(sums(found).len(), sums(expected).len());
        for (found, expected) in sums(found).iter().zip(&sums(expected)) {
            assert_log_likelihood(found, expected, &what);
        }
    }
}

#[test]
fn log_likelihoods_of_texts_are_the_harnesss() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    eval(folder.path(), "perplexity", &fixture("evals/texts.jsonl"), &["--output", "kept"]).succeeded();
    let (found, expected) =
        (rows(&folder.path().join("kept")), read_json_lines(&fixture("evals/texts_expected.jsonl")));
    assert_eq!((found.len(), expected.len()), (30, 30));
    for (found, expected) in found.iter().zip(&expected) {
        let what = format!("row {}", found["index"]);
        assert_eq!(
            (&found["num_words"], &found["num_bytes"]),
            (&expected["num_words"], &expected["num_bytes"]),
            "{what}"
        );
        assert_log_likelihood(&found["log_likelihood"], &expected["log_likelihood"], &what);
    }
}

/// Cuts the file of rows after half of them and a torn line, as a crash leaves it.
fn stop_half_way(kept: &Path) {
    let whole = read(&kept.join("rows.jsonl"));
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let (half, torn) = (lines[..lines.len() / 2].concat(), &lines[lines.len() / 2][..5]);
    fs::write(kept.join("rows.jsonl"), half + torn).unwrap();
    fs::remove_file(kept.join("result.json")).unwrap();
}

#[test]
fn a_stopped_evaluation_goes_on_to_the_same_bytes() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    let problem = |i: usize| json!({"question": format!("What is {i} and 2?"), "answer": format!("#### {}", i + 2)});
    let problems = folder.path().join("gsm8k.jsonl");
    fs::write(&problems, (0..11).map(|i| format!("{}\n", problem(i))).collect::<String>()).unwrap();
    for (evaluation, data, more) in [
        ("gsm8k", problems, &["--max-new-tokens", "8"][..]),
        ("multiple-choice", fixture("evals/choices.jsonl"), &["--limit", "21"]),
        ("perplexity", fixture("evals/texts.jsonl"), &["--max-length", "64"]),
    ] {
        let output = format!("kept-{evaluation}");
        let options = [more, &["--batch-size", "4", "--output", &output]].concat();
        let whole = eval(folder.path(), evaluation, &data, &options).succeeded();
        let kept = folder.path().join(&output);
        let (lines, result) = (sorted_lines(&kept.join("rows.jsonl")), read(&kept.join("result.json")));
        stop_half_way(&kept);
        fs::write(folder.path().join(format!("text/.{evaluation}")), "is no file of the model").unwrap();
        let resumed = eval(folder.path(), evaluation, &data, &options).succeeded();
        assert_eq!(sorted_lines(&kept.join("rows.jsonl")), lines, "{evaluation}");
        assert_eq!(read(&kept.join("result.json")), result, "{evaluation}");
        assert_eq!((&whole.stdout, &resumed.stdout), (&result, &result), "{evaluation}: stdout is the result");
        let again = eval(folder.path(), evaluation, &data, &options).succeeded();
        assert!(!again.stderr.contains("loading"), "{evaluation}: nothing is left to do\n{}", again.stderr);
        assert_eq!(again.stdout, result, "{evaluation}");
        let without = eval(folder.path(), evaluation, &data, &[more, &["--batch-size", "4"]].concat()).succeeded();
        assert_eq!(without.stdout, result, "{evaluation}: without --output");
    }
}

#[test]
fn a_folder_of_other_settings_is_refused_by_their_names() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    let run =
        |data: &Path, more: &[&str]| eval(folder.path(), "perplexity", data, &[more, &["--output", "kept"]].concat());
    run(&fixture("evals/texts.jsonl"), &["--limit", "3"]).succeeded();
    let stderr = run(&fixture("evals/texts.jsonl"), &["--limit", "4", "--max-length", "32"]).failed(2);
    assert!(stderr.contains("limit: 3 there, 4 here; max_length: 256 there, 32 here"), "{stderr}");
    let other = folder.path().join("other.jsonl");
    fs::write(&other, "{\"text\": \"Something else.\"}\n").unwrap();
    let stderr = run(&other, &["--limit", "3"]).failed(2);
    assert!(stderr.contains("data: the files have another content"), "{stderr}");
}

#[test]
fn the_figures_are_those_of_the_rows_with_intervals() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    let outcome =
        eval(folder.path(), "multiple-choice", &fixture("evals/choices.jsonl"), &["--output", "kept"]).succeeded();
    let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let rows = rows(&folder.path().join("kept"));
    let num_right = rows.iter().filter(|row| row["predicted"] == row["answer"]).count();
    let acc = &result["figures"]["acc"];
    assert_eq!(result["num_rows"], 60);
    assert_eq!(acc["value"].as_f64().unwrap(), num_right as f64 / 60.0);
    assert_eq!(acc["interval"], "wilson");
    assert!(acc["low"].as_f64() < acc["value"].as_f64() && acc["value"].as_f64() < acc["high"].as_f64(), "{acc}");
    assert!(outcome.stderr.contains("95% interval") && outcome.stderr.contains("acc_norm"), "{}", outcome.stderr);
    assert_eq!(read_json(&folder.path().join("kept/result.json")), result);
}

#[test]
fn bad_rows_and_impossible_settings_are_errors_that_name_the_place() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    let data = folder.path().join("rows.jsonl");
    for (evaluation, row, expected) in [
        ("gsm8k", json!({"question": "q"}), "line 2: the field `answer` is missing"),
        ("gsm8k", json!({"question": 1, "answer": "a"}), "line 2, `question`: expected text, got a number"),
        ("multiple-choice", json!({"ctx": "c", "endings": ["a", "b"]}), "line 2: the field `label` is missing"),
        (
            "multiple-choice",
            json!({"ctx": "c", "endings": ["a", "b"], "label": "2"}),
            "line 2, `label`: 2 is none of the 2",
        ),
        (
            "multiple-choice",
            json!({"prompt": "c", "choices": ["a", ""], "answer": 0}),
            "line 2, `choices`: expected choices of 1",
        ),
        ("perplexity", json!({"text": ""}), "line 2: the text is empty"),
    ] {
        fs::write(&data, format!("\n{row}\n")).unwrap();
        let more: &[&str] = if evaluation == "gsm8k" { &["--max-new-tokens", "8"] } else { &[] };
        let stderr = eval(folder.path(), evaluation, &data, more).failed(3);
        assert!(stderr.contains(expected), "{evaluation}: {stderr}");
    }
    for (evaluation, more, expected) in [
        ("gsm8k", &["--max-new-tokens", "256"], "--max-new-tokens 256: expected 1 to 255"),
        ("perplexity", &["--max-length", "257"], "--max-length 257: expected 1 to 256"),
        ("multiple-choice", &["--batch-size", "0"], "--batch-size and --limit must be at least 1"),
    ] {
        let stderr = eval(folder.path(), evaluation, &data, more).failed(2);
        assert!(stderr.contains(expected), "{evaluation}: {stderr}");
    }
}

#[test]
fn a_misspelt_evaluation_is_told_the_one_that_was_meant() {
    let folder = tempdir().unwrap();
    let said =
        |words: &[&str]| gsil(folder.path(), &[&["eval"], words, &["--model", "m", "--data", "d"]].concat()).failed(2);
    let misspelt = said(&["gsm9k"]);
    let others = "There are also multiple-choice, perplexity, humaneval, mt-bench";
    let expected = format!("error: `gsm9k` is no evaluation, nor key=value\nhint: did you mean `gsm8k`? {others}\n");
    assert_eq!(misspelt, expected);
    let unknown = said(&["zzz"]);
    assert!(unknown.contains("hint: the evaluations are gsm8k, multiple-choice, "), "{unknown}");
    let file = said(&["rows.jsonl"]);
    assert!(file.contains("hint: data is given once, with --data: "), "{file}");
    fs::create_dir(folder.path().join("gsm8k")).unwrap(); // the data may lie in a folder of this name
    let misplaced = gsil(folder.path(), &["eval", "--model", "m", "--data", "d", "gsm8k"]).failed(2);
    assert!(misplaced.contains("`gsm8k` must stand right after `eval`"), "{misplaced}");
}

#[test]
fn gsm8k_asks_a_small_model_for_no_more_than_half_of_its_context() {
    let folder = tempdir().unwrap();
    text_model(folder.path()); // 256 tokens
    let data = folder.path().join("gsm8k.jsonl");
    fs::write(&data, "{\"question\": \"2 and 2?\", \"answer\": \"#### 4\"}\n").unwrap();
    let alone = eval(folder.path(), "gsm8k", &data, &["--output", "alone"]).succeeded();
    assert!(alone.stderr.contains("responses have at most 128 tokens: the model's context is 256"), "{}", alone.stderr);
    let asked = eval(folder.path(), "gsm8k", &data, &["--output", "asked", "--max-new-tokens", "128"]).succeeded();
    assert!(!asked.stderr.contains("responses have at most"), "{}", asked.stderr);
    assert_eq!(rows(&folder.path().join("alone")), rows(&folder.path().join("asked")));
}

#[test]
fn prompts_that_lose_their_start_are_counted() {
    let folder = tempdir().unwrap();
    text_model(folder.path()); // 256 tokens
    let data = folder.path().join("rows.jsonl");
    let long = "one two three ".repeat(100);
    let said = |evaluation: &str, rows: &[Value], more: &[&str]| {
        fs::write(&data, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        eval(folder.path(), evaluation, &data, more).succeeded().stderr
    };
    let problem = |question: &str| json!({"question": question, "answer": "#### 4"});
    let brief = ["--max-new-tokens", "8"];
    let stderr = said("gsm8k", &[problem(&long), problem("2 and 2?"), problem(&long)], &brief);
    let expected =
        "warning: 2 prompts are longer than 248 tokens, the model's context less --max-new-tokens: their start";
    assert!(stderr.contains(expected), "{stderr}");
    assert!(!said("gsm8k", &[problem("2 and 2?")], &brief).contains("was left out"));
    let question = |prompt: &str| json!({"prompt": prompt, "choices": ["a", "b"], "answer": 0});
    let stderr = said("multiple-choice", &[question(&long), question("c")], &[]);
    let expected = "warning: 1 prompt is longer than the model's context of 256 tokens, with a choice: its start";
    assert!(stderr.contains(expected), "{stderr}");
    assert!(!said("multiple-choice", &[question("c")], &[]).contains("was left out"));
}

#[test]
fn a_model_without_tokenizer_or_template_is_refused() {
    let folder = tempdir().unwrap();
    let model = text(tiny_model_with(folder.path(), &[]));
    let data = text(fixture("evals/texts.jsonl"));
    let told = |stderr: String| {
        let hint = "hint: add tokenizer.json to the mod";
        assert!(stderr.contains("has no tokenizer") && stderr.contains(hint), "{stderr}");
    };
    told(gsil(folder.path(), &["eval", "perplexity", "--model", &model, "--data", &data]).failed(3));
    let problems = text(fixture("humaneval/example_problem.jsonl"));
    let command = ["eval", "humaneval", "--model", &model, "--data", &problems, "--output", "he"];
    told(gsil(folder.path(), &command).failed(3));
    export(folder.path(), Path::new(&model), "gguf", &folder.path().join("gguf"), &[]).succeeded();
    let stderr = gsil(folder.path(), &["eval", "perplexity", "--model", "gguf/model.gguf", "--data", &data]).failed(3);
    assert!(stderr.contains("has no tokenizer") && stderr.contains("take its Hugging Face folder"), "{stderr}");
    fs::remove_file(text_model(folder.path()).join("chat_template.jinja")).unwrap();
    let stderr = eval(folder.path(), "gsm8k", &fixture("evals/texts.jsonl"), &["--chat"]).failed(3);
    assert!(stderr.contains("has no chat template"), "{stderr}");
}

#[test]
fn worked_problems_and_the_chat_template_change_what_is_asked() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    let data = folder.path().join("gsm8k.jsonl");
    fs::write(&data, "{\"question\": \"2 and 2?\", \"answer\": \"#### 4\"}\n").unwrap();
    let responses = |more: &[&str], output: &str| {
        eval(folder.path(), "gsm8k", &data, &[&["--max-new-tokens", "8", "--output", output], more].concat())
            .succeeded();
        rows(&folder.path().join(output))[0]["response"].clone()
    };
    let shots = text(&data);
    let plain = responses(&[], "plain");
    assert_ne!(responses(&["--few-shot-data", &shots, "--few-shot", "1"], "shots"), plain);
    assert_ne!(responses(&["--chat"], "chat"), plain);
    assert_eq!(responses(&["--few-shot-data", &shots, "--few-shot", "0"], "plain"), plain, "and the same settings");
    let more = ["--max-new-tokens", "8", "--few-shot-data", &shots, "--few-shot", "2"];
    let stderr = eval(folder.path(), "gsm8k", &data, &more).failed(3);
    assert!(stderr.contains("has 1 problem, --few-shot asks for 2"), "{stderr}");
}

#[test]
fn an_evaluation_that_is_gone_on_with_asks_with_the_date_that_it_began_with() {
    let folder = tempdir().unwrap();
    let model = text_model(folder.path()); // 256 tokens
    fs::write(model.join("chat_template.jinja"), LONG_IN_2001).unwrap();
    let data = folder.path().join("gsm8k.jsonl");
    fs::write(&data, "{\"question\": \"2 and 2?\", \"answer\": \"#### 4\"}\n").unwrap();
    let kept = folder.path().join("kept");
    let go_on = || eval(folder.path(), "gsm8k", &data, &["--chat", "--max-new-tokens", "8", "--output", "kept"]);
    let is_long = || go_on().succeeded().stderr.contains("warning: 1 prompt is longer than 248 tokens");
    assert!(!is_long());
    let begun = read_json(&kept.join("settings.json"));
    assert!(begun["template_date"].is_string(), "{begun}");
    let keep = |date: Option<&str>| {
        let mut settings = begun.clone();
        settings.as_object_mut().unwrap().remove("template_date");
        if let Some(date) = date {
            settings["template_date"] = json!(date);
        }
        fs::write(kept.join("settings.json"), settings.to_string()).unwrap();
        fs::remove_file(kept.join("rows.jsonl")).unwrap();
    };
    keep(Some("2001-02-03T04:05:06"));
    assert!(is_long());
    keep(None); // as an older version did
    assert!(!is_long());
    keep(Some("yesterday"));
    let stderr = go_on().failed(3);
    assert!(stderr.contains("settings.json, template_date: `yesterday` is no date"), "{stderr}");
}

#[test]
fn settings_that_are_not_this_evaluations_are_not_written_over() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    let (data, mine) = (fixture("evals/texts.jsonl"), folder.path().join("mine/settings.json"));
    fs::create_dir(folder.path().join("mine")).unwrap();
    for content in ["{\"my\": \"editor settings\"}", "{\"evaluation\": \"humaneval\"}", "no JSON"] {
        fs::write(&mine, content).unwrap();
        let stderr = eval(folder.path(), "perplexity", &data, &["--output", "mine"]).failed(2);
        assert!(stderr.contains("settings.json is there, and is not of this evaluation"), "{stderr}");
        assert_eq!(fs::read_to_string(&mine).unwrap(), content);
    }
}
