//! `gsil eval humaneval` from outside: what is written, what is run, and what is said of it.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{Outcome, gsil, read_json_lines, say_skipped, text, text_model};
use crate::support::fixture;

/// True if the system has no sandbox, which was said.
fn is_skipped(outcome: &Outcome, what: &str) -> bool {
    let is_refused = outcome.code == Some(2) && outcome.stderr.contains("no sandbox");
    if is_refused {
        say_skipped(what, &outcome.stderr);
    }
    is_refused
}

/// The canonical solutions as samples.
fn canonical_samples(problems: &Path, samples: &Path) {
    let rows = read_json_lines(problems).into_iter().map(|problem| {
        json!({"task_id": problem["task_id"], "completion": problem["canonical_solution"]}).to_string() + "\n"
    });
    fs::write(samples, rows.collect::<String>()).unwrap();
}

fn judge(folder: &Path, data: &str, samples: &str, more: &[&str]) -> Outcome {
    let command = ["eval", "humaneval", "--data", data, "--samples", samples, "--allow-code-execution"];
    gsil(folder, &[&command[..], &["--time-limit-s", "20"], more].concat())
}

#[test]
fn canonical_solutions_pass_and_each_result_is_kept() {
    let folder = tempdir().unwrap();
    let data = fixture("humaneval/problems.jsonl");
    canonical_samples(&data, &folder.path().join("samples.jsonl"));
    let outcome = judge(folder.path(), &text(data), "samples.jsonl", &["--output", "out"]);
    if is_skipped(&outcome, "the canonical solutions") {
        return;
    }
    let outcome = outcome.succeeded();
    let summary = &outcome.json_lines()[0];
    assert_eq!((&summary["num_passed"], &summary["num_samples"]), (&json!(3), &json!(3)), "{summary}");
    assert_eq!(summary["figures"]["pass@1"]["value"], 1.0);
    assert!(summary["figures"]["pass@1"]["low"].as_f64().unwrap() < 1.0, "three tasks prove little: {summary}");
    assert!(summary["sandbox"].as_str().unwrap().contains("landlock version"), "{summary}");
    assert!(outcome.stderr.contains("landlock version"), "{}", outcome.stderr);
    let results = read_json_lines(&folder.path().join("out/results.jsonl"));
    assert!(results.len() == 3 && results.iter().all(|row| row["passed"] == true && row["result"] == "passed"));
}

#[test]
fn a_verdict_is_kept_for_the_same_tests_alone() {
    let folder = tempdir().unwrap();
    let problems = fs::read_to_string(fixture("humaneval/problems.jsonl")).unwrap();
    let first = problems.lines().next().unwrap();
    fs::write(folder.path().join("p.jsonl"), first).unwrap();
    canonical_samples(&folder.path().join("p.jsonl"), &folder.path().join("samples.jsonl"));
    let num_passed = || -> Option<(u64, usize)> {
        let outcome = judge(folder.path(), "p.jsonl", "samples.jsonl", &["--output", "out"]);
        let num_results = || read_json_lines(&folder.path().join("out/results.jsonl")).len();
        let is_run = !is_skipped(&outcome, "verdicts that are kept");
        is_run.then(|| (outcome.succeeded().json_lines()[0]["num_passed"].as_u64().unwrap(), num_results()))
    };
    let Some(first_time) = num_passed() else { return };
    assert_eq!((first_time, num_passed().unwrap()), ((1, 1), (1, 1)));
    let mut problem: Value = serde_json::from_str(first).unwrap();
    problem["test"] = json!("def check(candidate):\n    assert False");
    fs::write(folder.path().join("p.jsonl"), problem.to_string()).unwrap();
    assert_eq!(num_passed().unwrap(), (0, 2), "other tests: judged again");
}

#[test]
fn the_example_of_openai_human_eval_has_its_verdicts() {
    // Its README: {'pass@1': 0.4999999999999999}. The samples: rm in a shell, a long sleep, input(), and three that return 1.
    let folder = tempdir().unwrap();
    let (data, samples) = (fixture("humaneval/example_problem.jsonl"), fixture("humaneval/example_samples.jsonl"));
    let more = ["--output", "out", "--k", "1,2", "--time-limit-s", "8"];
    let command = ["eval", "humaneval", "--data", &text(data), "--samples", &text(samples), "--allow-code-execution"];
    let outcome = gsil(folder.path(), &[&command[..], &more].concat());
    if is_skipped(&outcome, "the example of human-eval") {
        return;
    }
    let summary = outcome.succeeded().json_lines().remove(0);
    assert!((summary["figures"]["pass@1"]["value"].as_f64().unwrap() - 0.5).abs() < 1e-12, "{summary}");
    assert!((summary["figures"]["pass@2"]["value"].as_f64().unwrap() - 0.8).abs() < 1e-12, "1 - 3/15: {summary}");
    let mut results = read_json_lines(&folder.path().join("out/results.jsonl"));
    results.sort_by_key(|row| row["index"].as_u64());
    let passed: Vec<&Value> = results.iter().map(|row| &row["passed"]).collect();
    assert_eq!(passed, [false, false, false, true, true, true]);
    assert_eq!(results[1]["result"], "timed out");
    assert!(results[2]["result"].as_str().unwrap().starts_with("failed: EOF"), "{}", results[2]);
}

#[test]
fn samples_that_end_the_interpreter_or_print_a_verdict_have_not_passed() {
    let folder = tempdir().unwrap();
    let data = fixture("humaneval/example_problem.jsonl");
    for (completion, result) in [
        ("    return 2", "failed: AssertionError"),
        ("    import os\n    os._exit(0)", "failed: ended with exit code 0 before its tests did"),
        ("    import sys\n    sys.exit(0)", "failed: 0"),
        ("    print('passed')\n    raise ValueError('two\\nlines')", "failed: two lines"),
        ("    import os, signal\n    os.abort()", "failed: ended by signal"),
        ("    return (", "failed: '(' was never closed"),
        ("    while True:\n        print('x' * 1000)", "failed: wrote too much"),
    ] {
        fs::write(
            folder.path().join("samples.jsonl"),
            json!({"task_id": "test/0", "completion": completion}).to_string(),
        )
        .unwrap();
        let _ = fs::remove_dir_all(folder.path().join("out"));
        let outcome = judge(folder.path(), &text(&data), "samples.jsonl", &["--output", "out"]);
        if is_skipped(&outcome, "samples that cheat") {
            return;
        }
        assert_eq!(outcome.succeeded().json_lines()[0]["num_passed"], 0);
        let found = read_json_lines(&folder.path().join("out/results.jsonl"))[0]["result"].clone();
        assert!(found.as_str().unwrap().starts_with(result), "{completion}: {found}");
    }
}

#[test]
fn without_permission_nothing_is_run_and_the_command_to_go_on_is_said() {
    let folder = tempdir().unwrap();
    let marker = folder.path().join("ran");
    let (data, samples) = (text(fixture("humaneval/example_problem.jsonl")), folder.path().join("samples.jsonl"));
    let completion = format!("    open({marker:?}, 'w').close()\n    return 1");
    fs::write(&samples, json!({"task_id": "test/0", "completion": completion}).to_string()).unwrap();
    let outcome =
        gsil(folder.path(), &["eval", "humaneval", "--data", &data, "--samples", &text(&samples)]).succeeded();
    assert_eq!(outcome.json_lines()[0]["judged"], false);
    assert!(!marker.exists());
    let command = outcome.stderr.lines().find(|line| line.trim().starts_with("gsil eval humaneval")).unwrap();
    assert!(command.contains("--allow-code-execution") && command.contains("samples.jsonl"), "{command}");
    assert!(!command.contains("--time-limit-s") && !command.contains("--offline"), "{command}");

    let given = ["--python", "my python", "--time-limit-s", "7.5", "--num-workers", "2", "--offline", "--k", "1"];
    let own = ["eval", "humaneval", "--data", &data, "--samples", "samples.jsonl"];
    let said = gsil(folder.path(), &[&own[..], &given].concat()).succeeded().stderr;
    let judging = "--python 'my python' --time-limit-s 7.5 --num-workers 2 --offline --k 1 --allow-code-execution";
    assert!(said.contains(&format!("--samples samples.jsonl {judging}\n")), "{said}");
}

#[test]
fn a_model_writes_samples_that_another_start_goes_on_with() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    let data = text(fixture("humaneval/problems.jsonl"));
    let run = |more: &[&str]| {
        let command = ["eval", "humaneval", "--model", "text", "--device", "flex", "--data", &data, "--output", "out"];
        gsil(folder.path(), &[&command[..], &["--max-new-tokens", "80", "--temperature", "0.8"], more].concat())
    };
    let file = folder.path().join("out/samples.jsonl");
    assert_eq!(run(&["--samples-per-task", "2"]).succeeded().json_lines()[0]["num_samples"], 6);
    let whole = fs::read_to_string(&file).unwrap();
    assert_eq!(whole.lines().count(), 6);
    // Cut inside the fourth line, as by a crash.
    let end = whole.match_indices('\n').nth(2).unwrap().0 + 5;
    fs::write(&file, &whole[..end]).unwrap();
    assert_eq!(run(&["--samples-per-task", "2"]).succeeded().json_lines()[0]["num_samples"], 6);
    assert_eq!(fs::read_to_string(&file).unwrap(), whole);
    let stderr = run(&["--seed", "1"]).failed(2);
    assert!(stderr.contains("other settings") && stderr.contains("hint"), "{stderr}");
}

#[test]
fn a_prompt_that_fills_the_context_has_an_empty_completion_and_is_told_of() {
    let folder = tempdir().unwrap();
    text_model(folder.path());
    let problems = fs::read_to_string(fixture("humaneval/problems.jsonl")).unwrap();
    let mut long: serde_json::Value = serde_json::from_str(problems.lines().next().unwrap()).unwrap();
    long["prompt"] = "def total(numbers):\n    pass\n".repeat(500).into();
    fs::write(folder.path().join("long.jsonl"), format!("{long}\n")).unwrap();
    let command =
        ["eval", "humaneval", "--model", "text", "--device", "flex", "--data", "long.jsonl", "--output", "out"];
    let outcome = gsil(folder.path(), &command).succeeded();
    assert!(outcome.stderr.contains("warning: 1 prompt fills the model's context"), "{}", outcome.stderr);
    let samples = fs::read_to_string(folder.path().join("out/samples.jsonl")).unwrap();
    assert!(samples.contains("\"completion\":\"\""), "{samples}");
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("bad.jsonl"), "{\"task_id\": \"a\"}\n").unwrap();
    let data = text(fixture("humaneval/problems.jsonl"));
    fs::write(folder.path().join("unknown.jsonl"), "{\"task_id\": \"a\", \"completion\": \"\"}\n").unwrap();
    canonical_samples(Path::new(&data), &folder.path().join("samples.jsonl"));
    let run = |arguments: &[&str]| gsil(folder.path(), &[&["eval", "humaneval"], arguments].concat());
    let stderr = run(&["--data", "bad.jsonl", "--samples", "samples.jsonl"]).failed(3);
    assert!(stderr.contains("bad.jsonl, line 1"), "{stderr}");
    let stderr = run(&["--data", &data, "--samples", "unknown.jsonl"]).failed(3);
    assert!(stderr.contains("unknown.jsonl, line 1, `task_id`"), "{stderr}");
    let stderr = run(&["--data", &data, "--samples", "samples.jsonl", "--k", "2"]).failed(2);
    assert!(stderr.contains("--k 2 is more than the samples of Tiny/0: 1"), "{stderr}");
    // Before a model is looked for, and before anything is written.
    let model = ["--model", "x", "--output", "o", "--samples-per-task", "2", "--temperature", "0.8"];
    let stderr = run(&[&["--data", &data, "--k", "3"], &model[..]].concat()).failed(2);
    assert!(stderr.contains("--k 3 is more than the samples of Tiny/0: 2"), "{stderr}");
    let python = ["--data", &data, "--allow-code-execution", "--python", "no-python"];
    let stderr = run(&[&python, &model[..]].concat()).failed(2);
    assert!(stderr.contains("no-python: cannot be started"), "{stderr}");
    assert!(!folder.path().join("o/samples.jsonl").exists());
    let stderr = run(&["--data", &data, "--model", "x", "--output", "o", "--samples-per-task", "2"]).failed(2);
    assert!(stderr.contains("temperature 0"), "{stderr}");
}
