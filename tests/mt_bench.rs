//! `gsil eval mt-bench` from outside, with a judge of our own.
#![cfg(all(unix, feature = "server"))]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::support::binary::{
    LONG_IN_2001, Outcome, command, gsil, read, read_json, read_json_lines, text_model, wait,
};
use crate::support::mock_server::{MockServer, Reply};

/// A folder with the model `text`, two questions, a judge's prompts and a reference answer.
fn place() -> TempDir {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    let write = |name: &str, rows: &[Value]| {
        fs::write(folder.path().join(name), rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    };
    write(
        "question.jsonl",
        &[
            json!({"question_id": 81, "category": "writing", "turns": ["Say one.", "Say two."]}),
            json!({"question_id": 111, "category": "math", "turns": ["What is 1 + 1?", "And 2 + 2?"]}),
        ],
    );
    let prompt = |name: &str, template: &str| {
        json!({"name": name, "type": "single", "system_prompt": "Be fair.", "prompt_template": template,
            "output_format": "[[rating]]"})
    };
    write(
        "judge_prompts.jsonl",
        &[
            prompt("single-v1", "one: {question} / {answer}"),
            prompt("single-math-v1", "math one: {question} / {ref_answer_1} / {answer}"),
            prompt("single-v1-multi-turn", "two: {question_1} / {answer_1} / {question_2} / {answer_2}"),
            prompt("single-math-v1-multi-turn", "math two: {question_2} / {ref_answer_2} / {answer_2}"),
        ],
    );
    let turns = json!([{"index": 0, "turns": ["It is 2.", "It is 4."]}]);
    write("reference.jsonl", &[json!({"question_id": 111, "choices": turns})]);
    folder
}

fn run(folder: &Path, more: &[&str]) -> Outcome {
    let command = ["eval", "mt-bench", "--model", "text", "--device", "flex", "--data", "question.jsonl"];
    gsil(folder, &[&command[..], &["--output", "out", "--max-new-tokens", "6"], more].concat())
}

fn judged(folder: &Path, server: &MockServer, more: &[&str]) -> Outcome {
    let judge = ["--judge", &server.url, "--judge-model", "org/judge", "--judge-prompts", "judge_prompts.jsonl"];
    run(folder, &[&judge[..], &["--reference-answers", "reference.jsonl"], more].concat())
}

#[test]
fn answers_and_judgments_have_fastchats_form_and_the_second_start_asks_for_what_is_missing() {
    let folder = place();
    // Rated: writing 6 and 8, math 4 and nothing.
    let server = MockServer::start(Vec::new, |body, _| {
        let prompt = body["messages"][1]["content"].as_str().unwrap();
        Reply::chat(match prompt.split(':').next().unwrap() {
            "one" => "Good. Rating: [[6]]",
            "two" => "Rating: [[8.0]]",
            "math one" => "Wrong [4]",
            _ => "I cannot say.",
        })
    });
    let outcome = judged(folder.path(), &server, &[]).succeeded();
    let summary = &outcome.json_lines()[0];
    let scores = &summary["figures"];
    // Questions 7 and 4.
    assert_eq!(scores["score"]["value"], 5.5, "{summary}");
    assert_eq!((&scores["num_rated"], &scores["num_without_rating"]), (&json!(3), &json!(1)));
    assert!(outcome.stderr.contains("1 judgments have no rating"), "{}", outcome.stderr);
    let answers = read_json_lines(&folder.path().join("out/model_answer/text.jsonl"));
    assert_eq!(answers.len(), 2);
    for answer in &answers {
        assert_eq!(answer["model_id"], "text");
        assert_eq!(answer["choices"][0]["index"], 0);
        assert_eq!(answer["choices"][0]["turns"].as_array().unwrap().len(), 2);
        assert!(answer["answer_id"].is_string() && answer["tstamp"].is_number());
    }
    let file = folder.path().join("out/model_judgment/org_judge_single.jsonl");
    let judgments = read_json_lines(&file);
    assert_eq!(judgments.len(), 4);
    let of = |id: u64, turn: u64| judgments.iter().find(|row| row["question_id"] == id && row["turn"] == turn).unwrap();
    assert_eq!(of(81, 1)["judge"], json!(["org/judge", "single-v1"]));
    assert_eq!(of(111, 2)["judge"], json!(["org/judge", "single-math-v1-multi-turn"]));
    assert_eq!(
        (&of(81, 2)["score"], &of(111, 1)["score"], &of(111, 2)["score"]),
        (&json!(8.0), &json!(4.0), &json!(-1.0))
    );
    assert!(of(111, 1)["user_prompt"].as_str().unwrap().starts_with("math one: What is 1 + 1? / It is 2. / "));
    for asked in server.asked() {
        assert_eq!((&asked.body["model"], &asked.body["temperature"]), (&json!("org/judge"), &json!(0.0)));
        assert_eq!(asked.body["messages"][0], json!({"role": "system", "content": "Be fair."}));
    }
    // A torn line and a missing one.
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, &whole[..whole.match_indices('\n').nth(1).unwrap().0 + 9]).unwrap();
    let again = judged(folder.path(), &server, &[]).succeeded();
    assert_eq!(again.json_lines()[0]["figures"], *scores);
    assert_eq!(server.asked().len(), 6);
    assert_eq!(read_json_lines(&folder.path().join("out/model_answer/text.jsonl")), answers);
}

#[test]
fn without_a_judge_answers_are_written_and_nothing_is_rated() {
    let folder = place();
    let outcome = run(folder.path(), &["--limit", "1"]).succeeded();
    assert!(outcome.stderr.contains("out/model_answer; to have them rated: "), "{}", outcome.stderr);
    let summary = outcome.json_lines().remove(0);
    assert_eq!((&summary["evaluation"], &summary["num_rows"]), (&json!("mt-bench"), &json!(1)));
    assert_eq!(summary["judged"], false);
    assert_eq!(read_json_lines(&folder.path().join("out/model_answer/text.jsonl")).len(), 1);
}

#[test]
fn answers_that_are_gone_on_with_are_asked_for_with_the_date_of_the_first() {
    let folder = place();
    fs::write(folder.path().join("text/chat_template.jinja"), LONG_IN_2001).unwrap();
    let is_long = || {
        let stderr = run(folder.path(), &["--limit", "1"]).succeeded().stderr;
        stderr.contains("2 turns did not fit the model's context")
    };
    assert!(!is_long());
    let file = folder.path().join("out/text.settings.json");
    let mut settings = read_json(&file);
    assert!(settings["template_date"].is_string(), "{settings}");
    settings["template_date"] = json!("2001-02-03T04:05:06");
    fs::write(&file, settings.to_string()).unwrap();
    fs::remove_file(folder.path().join("out/model_answer/text.jsonl")).unwrap();
    assert!(is_long());
}

#[test]
fn the_key_is_that_of_the_variable_that_was_named_and_is_written_nowhere() {
    let folder = place();
    let server = MockServer::start(Vec::new, |_, _| Reply::chat("[[5]]"));
    let arguments = [
        "eval",
        "mt-bench",
        "--model",
        "text",
        "--device",
        "flex",
        "--data",
        "question.jsonl",
        "--output",
        "out",
        "--max-new-tokens",
        "4",
        "--judge",
        &server.url,
        "--judge-model",
        "j",
        "--judge-prompts",
        "judge_prompts.jsonl",
        "--judge-key-variable",
        "MY_JUDGE_KEY",
    ];
    let stderr = gsil(folder.path(), &arguments).failed(2);
    assert!(stderr.contains("MY_JUDGE_KEY"), "{stderr}");
    let child =
        command(folder.path(), &arguments).env("MY_JUDGE_KEY", "sesame-7").env("OPENAI_API_KEY", "other").spawn();
    let outcome = wait(child.unwrap()).succeeded();
    assert!(server.asked().iter().all(|asked| asked.authorization.as_deref() == Some("Bearer sesame-7")));
    assert!(!outcome.stdout.contains("sesame") && !outcome.stderr.contains("sesame"));
    assert!(outcome.stderr.contains("no reference answer"), "{}", outcome.stderr);
    let judgments = fs::read_to_string(folder.path().join("out/model_judgment/j_single.jsonl")).unwrap();
    assert!(judgments.lines().count() == 4 && !judgments.contains("sesame"));
}

#[test]
fn a_judge_that_refuses_ends_the_work_with_what_it_said() {
    let folder = place();
    let server = MockServer::start(Vec::new, |_, _| Reply::Status(401, None, "no such key".to_owned()));
    let stderr = judged(folder.path(), &server, &[]).failed(4);
    assert!(stderr.contains("no such key") && stderr.contains("question "), "{stderr}");
    // The answers are kept.
    assert_eq!(read_json_lines(&folder.path().join("out/model_answer/text.jsonl")).len(), 2);
}

#[test]
fn a_turn_that_the_judge_refuses_is_kept_without_a_rating_and_the_others_are_rated() {
    let folder = place();
    let server = MockServer::start(Vec::new, |body, _| {
        match body["messages"][1]["content"].as_str().unwrap().split(':').next().unwrap() {
            "two" => Reply::Status(400, None, "maximum context length, see [[9]]".to_owned()),
            _ => Reply::chat("[[4]]"),
        }
    });
    let outcome = judged(folder.path(), &server, &[]).succeeded();
    let scores = outcome.json_lines()[0]["figures"].clone();
    assert_eq!((&scores["score"]["value"], &scores["num_rated"]), (&json!(4.0), &json!(3)));
    assert_eq!(scores["num_without_rating"], 1);
    let expected = "warning: the judge refuses 1 turn, first question 81, turn 2: HTTP 400: maximum context length";
    assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    let judgments = read_json_lines(&folder.path().join("out/model_judgment/org_judge_single.jsonl"));
    assert_eq!(judgments.len(), 4);
    let refused = judgments.iter().find(|row| row["question_id"] == 81 && row["turn"] == 2).unwrap();
    assert_eq!(refused["score"], -1.0, "what a refusal says is no rating");
    assert!(refused["judgment"].as_str().unwrap().contains("maximum context length"), "{refused}");
    let again = judged(folder.path(), &server, &[]).succeeded();
    assert_eq!((&again.json_lines()[0]["figures"], server.asked().len()), (&scores, 4), "nothing is asked again");

    // As the warning says: to ask again, remove the line. Refused again, it is kept again.
    let file = folder.path().join("out/model_judgment/org_judge_single.jsonl");
    let rated: Vec<String> = read(&file).lines().filter(|line| !line.contains("-1.0")).map(str::to_owned).collect();
    assert_eq!(rated.len(), 3);
    fs::write(&file, rated.join("\n") + "\n").unwrap();
    let again = judged(folder.path(), &server, &[]).succeeded();
    assert_eq!((&again.json_lines()[0]["figures"], server.asked().len()), (&scores, 5));
}

#[test]
fn a_judge_that_refuses_every_turn_ends_the_work_and_leaves_no_judgments() {
    let folder = place();
    let server = MockServer::start(Vec::new, |_, _| Reply::Status(400, None, "no `max_tokens` here".to_owned()));
    let stderr = judged(folder.path(), &server, &[]).failed(4);
    assert!(stderr.contains("question 81, turn 1: HTTP 400: no `max_tokens` here"), "{stderr}");
    let file = folder.path().join("out/model_judgment/org_judge_single.jsonl");
    assert!(!file.exists());

    // Judgments of an earlier call prove nothing about the requests of this one.
    let obliging = MockServer::start(Vec::new, |_, _| Reply::chat("[[4]]"));
    judged(folder.path(), &obliging, &[]).succeeded();
    let kept: String = read(&file).lines().take(1).map(|line| format!("{line}\n")).collect();
    fs::write(&file, &kept).unwrap();
    judged(folder.path(), &server, &[]).failed(4);
    assert_eq!(read(&file), kept);
}

#[test]
fn a_model_without_a_chat_template_is_told_where_to_put_one_if_it_has_a_place_for_it() {
    let folder = place();
    fs::remove_file(folder.path().join("text/chat_template.jinja")).unwrap();
    let stderr = run(folder.path(), &[]).failed(3);
    assert!(stderr.contains("hint: add chat_template.jinja to the model folder"), "{stderr}");
    gsil(folder.path(), &["export", "text", "--format", "gguf", "--output", "gguf"]).succeeded();
    let arguments =
        ["eval", "mt-bench", "--model", "gguf/model.gguf", "--data", "question.jsonl", "--output", "of-gguf"];
    let stderr = gsil(folder.path(), &arguments).failed(3);
    assert!(stderr.contains("take its Hugging Face folder") && !stderr.contains("model folder"), "{stderr}");
}

#[test]
fn bad_files_are_named_with_their_line() {
    let folder = place();
    fs::write(folder.path().join("question.jsonl"), "\n{\"question_id\": 1}\n").unwrap();
    assert!(run(folder.path(), &[]).failed(3).contains("question.jsonl, line 2"));
    let folder = place();
    fs::write(folder.path().join("judge_prompts.jsonl"), "nonsense\n").unwrap();
    let server = MockServer::start(Vec::new, |_, _| Reply::chat("[[5]]"));
    assert!(judged(folder.path(), &server, &[]).failed(3).contains("judge_prompts.jsonl, line 1"));
    // It was seen before the model had worked.
    assert!(!folder.path().join("out/model_answer").exists());
}
