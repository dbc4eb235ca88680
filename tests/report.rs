//! The report of a run: what stands in the page, what a browser makes of it, and what TensorBoard would read.

use std::fs;
use std::path::Path;

use gsil::config::RunConfig;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{
    assert_close, device, ending_model, gsil, read, read_json, read_json_lines, say_skipped, text, write_rows,
};
#[cfg(unix)]
use crate::support::binary::{gsil_as_another, set_mode};
use crate::support::browser::{chromium, load};
use crate::support::events::read_scalars;

const ATTACK: &str = "<script>alert('gsil')</script><img src=x onerror=alert(1)>";

/// The badge of a run that has nothing left to do.
const FINISHED: &str = "<span class=\"badge good\">finished</span>";

/// One update of an iteration as training logs it.
fn update(total_step: usize) -> Value {
    let part = total_step as f64 / 100.0;
    json!({
        "stage": "iteration 0", "stage_step": total_step, "total_step": total_step, "epoch": 0,
        "loss": 1.4 - part, "loss_demonstration": 0.7 - part / 2.0, "loss_self_generated": 0.7 - part / 2.0,
        "demonstration_log_prob_per_token": -1.5 + part, "log_ratio_demonstration": part,
        "log_ratio_self_generated": -part, "max_abs_log_ratio_demonstration": 1.0,
        "max_abs_log_ratio_self_generated": 1.0, "implicit_reward_accuracy": 0.75, "log_ratio_margin": 2.0 * part,
        "grad_norm": 1.0, "lr": 1e-5, "num_clamped": 0.0, "tokens_per_s": 100.0, "seconds": 0.5,
    })
}

fn write_lines(path: &Path, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(path, lines.concat()).unwrap();
}

fn evaluation(stage: &str, total_steps: usize) -> Value {
    json!({"stage": stage, "total_steps": total_steps, "evaluation": {
        "held_out": true, "num_rows": 50, "demonstration_log_prob_per_token": -1.25, "against_reference": null,
        "greedy": {"num_rows": 50, "finished": 1.0, "mean_tokens": 7.5, "ends_in_answer": 1.0, "exact_match": 0.5,
            "flexible_match": null},
        "sampled": null,
    }})
}

/// A run folder of one iteration with so many updates, written by hand as training writes it.
fn write_run(folder: &Path, num_updates: usize) {
    let mut config =
        RunConfig { model: Some("models/tiny".into()), data: Some("rows.jsonl".into()), ..RunConfig::default() };
    config.resolve();
    fs::create_dir_all(folder.join("iteration-000")).unwrap();
    fs::write(folder.join("config.ron"), config.to_ron().unwrap()).unwrap();
    fs::write(folder.join("env.json"), json!({"gsil": "0.1.0", "burn": "0.22.1", "device": "flex"}).to_string())
        .unwrap();
    let about = json!({
        "num_parameters": 1000, "num_trained_parameters": 1000, "num_demonstrations": 20, "num_evaluated": 50,
        "held_out": true, "mean_demonstration_tokens": 3.0,
        "samples": [{"index": 0, "prompt": "2 and 2?", "demonstration": "it is 4"}],
    });
    fs::write(folder.join("about.json"), about.to_string()).unwrap();
    write_lines(&folder.join("metrics.jsonl"), &(1..=num_updates).map(update).collect::<Vec<_>>());
    write_lines(&folder.join("evaluations.jsonl"), &[evaluation("start", 0), evaluation("iteration 0", num_updates)]);
    let counts = json!({"responses": 20, "identical": 0, "empty": 0, "unfinished": 8, "duplicated": 0, "too_long": 0,
        "dropped": 8, "mean_tokens": 4.0});
    write_lines(&folder.join("self_generation.jsonl"), &[json!({"iteration": 0, "counts": counts})]);
    write_response(folder, "it is 5");
    let timing = json!({"stage": "iteration 0", "phase": "generation", "seconds": 90.0, "num_tokens": 450});
    write_lines(&folder.join("timing.jsonl"), &[timing]);
}

fn write_response(folder: &Path, response: &str) {
    let row = json!({"index": 0, "sample": 0, "response_text": response, "token_ids": [5, 6, 7, 2],
        "token_log_probs": [-0.5, -0.5, -0.5, -0.5], "finished": true});
    write_lines(&folder.join("iteration-000/self_generated.jsonl"), &[row]);
}

/// What an error leaves that ends a run.
fn write_ending(folder: &Path, text: &str, exit_code: i32) {
    let ending = json!({"message": text, "hint": text, "exit_code": exit_code, "when": text});
    fs::write(folder.join("ended.json"), ending.to_string()).unwrap();
}

/// `gsil report` on the folder, and the page.
fn report(folder: &Path, options: &[&str]) -> String {
    let outcome = gsil(folder, &[&["report", "."], options].concat()).succeeded();
    read(&folder.join(outcome.stdout.trim()))
}

#[test]
fn a_page_says_how_many_rows_were_answered_also_where_no_answers_are_compared() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 4);
    let mut row = evaluation("start", 0);
    row["evaluation"]["greedy"]["num_rows"] = json!(20);
    row["evaluation"]["greedy"]["exact_match"] = Value::Null;
    write_lines(&folder.path().join("evaluations.jsonl"), &[row]);
    assert!(report(folder.path(), &[]).contains("On 50 held-out rows. 20 of them were answered."));
}

#[test]
fn a_page_says_on_how_many_rows_the_accuracy_rests_where_some_answers_are_the_demonstration() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 4);
    let page = |num_compared: Value| {
        let mut after = evaluation("iteration 0", 4);
        after["evaluation"]["against_reference"] = json!({
            "implicit_reward_accuracy": 0.75, "num_compared": num_compared, "log_ratio_demonstration": 1.0,
            "log_ratio_self_generated": -1.0,
        });
        write_lines(&folder.path().join("evaluations.jsonl"), &[evaluation("start", 0), after]);
        report(folder.path(), &[])
    };
    let some = page(json!(16));
    assert!(some.contains("With 50 answers a share near one half is known to \u{b1}7.1 points"));
    assert!(some.contains(" Accuracy rests on 16 of these, where the answer before iteration 0 differs from the "));
    assert!(some.contains("demonstration: \u{b1}12.5 points."));
    for unknown_or_all in [Value::Null, json!(50)] {
        assert!(!page(unknown_or_all).contains("Accuracy rests on"));
    }
}

#[test]
fn a_file_that_is_no_page_is_not_written_over() {
    let folder = tempdir().unwrap();
    write_run(&folder.path().join("run"), 4);
    fs::write(folder.path().join("rows.jsonl"), "mine").unwrap();
    let stderr = gsil(folder.path(), &["report", "run", "--output", "rows.jsonl"]).failed(2);
    assert!(stderr.contains("rows.jsonl is there already") && stderr.contains("give --output rows.html"), "{stderr}");
    assert_eq!(read(&folder.path().join("rows.jsonl")), "mine");
}

#[test]
fn a_page_that_cannot_be_put_in_place_leaves_nothing_beside_the_place() {
    let folder = tempdir().unwrap();
    write_run(&folder.path().join("run"), 4);
    fs::create_dir_all(folder.path().join("pages/taken")).unwrap();
    let stderr = gsil(folder.path(), &["report", "run", "--output", "pages/taken"]).failed(6);
    assert!(stderr.contains("cannot put in place pages/taken"), "{stderr}");
    assert_eq!(fs::read_dir(folder.path().join("pages")).unwrap().count(), 1);
}

#[test]
fn training_leaves_a_page_and_events_with_the_numbers_of_its_metrics() {
    let folder = tempdir().unwrap();
    let (model, device) = (text(ending_model(folder.path())), device());
    write_rows(&folder.path().join("rows.jsonl"), 6);
    let arguments = ["train", "--model", &model, "--data", "rows.jsonl", "--output", "run", "--device", &device];
    let overrides = ["iterations=2", "generation.max_new_tokens=12", "train.batch_size=3", "continued_sft_lr=1e-4"];
    gsil(folder.path(), &[&arguments[..], &overrides].concat()).succeeded();
    let run = folder.path().join("run");

    let page = read(&run.join("report.html"));
    for expected in [FINISHED, "continued sft", "Loss and its two sides", "Implicit-reward accuracy", "row 0", "Time"] {
        assert!(page.contains(expected), "{expected}");
    }
    for phase in ["generation", "scoring", "evaluation"] {
        let rows = read_json_lines(&run.join("timing.jsonl"));
        assert!(rows.iter().any(|row| row["stage"] == "iteration 1" && row["phase"] == phase), "{phase}: {rows:?}");
    }
    let of_generation = |row: &&Value| row["phase"] == "generation";
    for (iteration, row) in read_json_lines(&run.join("timing.jsonl")).iter().filter(of_generation).enumerate() {
        let responses = read_json_lines(&run.join(format!("iteration-{iteration:03}/self_generated.jsonl")));
        let num_tokens: usize = responses.iter().map(|row| row["token_ids"].as_array().unwrap().len()).sum();
        assert_eq!(row["num_tokens"], num_tokens, "{row}");
    }
    let scalars = read_scalars(&run);
    let metrics = read_json_lines(&run.join("metrics.jsonl"));
    assert!(metrics.len() >= 6, "{}", metrics.len());
    for row in &metrics {
        let step = row["total_step"].as_u64().unwrap();
        let prefix = if row["stage"] == "continued sft" { "continued_sft" } else { "gsil" };
        for name in ["loss", "grad_norm", "lr", "tokens_per_s", "demonstration_log_prob_per_token"] {
            let expected = row[name].as_f64().unwrap();
            let written = scalars[&format!("{prefix}/{name}")][&step];
            assert_close(&json!(written), expected, 1e-6 * expected.abs(), name);
        }
    }
    assert_eq!(scalars["gsil/loss"].len() + scalars["continued_sft/loss"].len(), metrics.len());
    assert_eq!(scalars["evaluation/demonstration_log_prob_per_token"].len(), 3, "start and two iterations");
    assert_eq!(scalars["evaluation_continued_sft/demonstration_log_prob_per_token"].len(), 1);
    assert_eq!(scalars["self_generation/mean_tokens"].len(), 2);
}

#[test]
fn a_report_tells_of_the_run_in_words() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 40);
    let page = report(folder.path(), &[]);
    for expected in [
        "models/tiny; 1\u{202f}000 parameters",
        "rows.jsonl; 20 demonstrations, 50 held out",
        "bernoulli, scale 1, shift 0",
        "Iteration 0: 8 of 20 responses were cut off at generation.max_new_tokens.",
        "raise generation.max_new_tokens",
        "<span class=\"same\">it is </span>5",
        "On 50 held-out rows.",
        "<td>90 s</td>",
        "Generation: 5 tokens/s.",
        "<td>50.0%</td>",
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    assert!(!page.contains("less likely after it"), "nothing fell");
}

#[test]
fn responses_that_the_rows_bring_are_called_so_and_get_no_advice_on_generation() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 3);
    let path = folder.path().join("about.json");
    let of_generation = [
        "Self-generated responses",
        "8 of 20 responses were cut off",
        "cut off: no end token within",
        "<th>left out</th>",
    ];
    let of_given = ["Responses that the rows bring", "Nothing was generated."];
    let page = report(folder.path(), &[]);
    assert!(of_generation.iter().all(|text| page.contains(text)), "{page}");
    assert!(!of_given.iter().any(|text| page.contains(text)), "{page}");
    let mut about: Value = serde_json::from_str(&read(&path)).unwrap();
    about["responses_are_given"] = json!(true);
    fs::write(&path, about.to_string()).unwrap();
    let page = report(folder.path(), &[]);
    assert!(of_given.iter().all(|text| page.contains(text)), "{page}");
    assert!(!of_generation.iter().any(|text| page.contains(text)), "{page}");
    assert!(page.contains("identical: token for token the demonstration"), "{page}");
}

/// Responses that were taken over, or written before a crash, are no work of the phases that were timed.
#[test]
fn the_speed_of_generation_is_that_of_tokens_that_were_timed() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 3);
    let row = |iteration: usize, seconds: f64| json!({"stage": format!("iteration {iteration}"), "phase": "generation", "seconds": seconds});
    let mut counted = row(1, 2.0);
    counted["num_tokens"] = json!(14);
    let path = folder.path().join("timing.jsonl");
    write_lines(&path, &[row(0, 1.0), counted]);
    assert!(report(folder.path(), &[]).contains("Generation: 7 tokens/s."));
    write_lines(&path, &[row(0, 1.0)]);
    assert!(!report(folder.path(), &[]).contains("Generation: "));
}

#[test]
fn a_margin_that_rises_while_demonstrations_vanish_is_warned_of() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 40);
    let failing = |step: usize| {
        let mut row = update(step);
        row["log_ratio_demonstration"] = json!(-(step as f64) / 10.0);
        row["log_ratio_margin"] = json!(step as f64 / 5.0);
        row
    };
    write_lines(&folder.path().join("metrics.jsonl"), &(1..=40).map(failing).collect::<Vec<_>>());
    let page = report(folder.path(), &[]);
    // The last ten updates: margins 6.2 to 8, log-ratios -3.1 to -4.
    let expected =
        "the margin rises (to 7.1 nats) while demonstrations get less likely (log-ratio -3.55 nats at the end)";
    assert!(page.contains(expected), "{page}");
    assert!(page.contains("lower train.lr or add objective.sft_weight"));
}

#[test]
fn nothing_in_a_run_folder_becomes_markup() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 3);
    let path = |name: &str| folder.path().join(name);
    write_response(folder.path(), ATTACK);
    let mut about: Value = serde_json::from_str(&read(&path("about.json"))).unwrap();
    about["samples"][0]["prompt"] = json!(format!("prompt {ATTACK}"));
    about["samples"][0]["demonstration"] = json!(format!("demonstration {ATTACK}"));
    fs::write(path("about.json"), about.to_string()).unwrap();
    let environment = json!({"gsil": ATTACK, "burn": ATTACK, "device": ATTACK, "device_description": ATTACK});
    fs::write(path("env.json"), environment.to_string()).unwrap();
    let config = RunConfig { model: Some(ATTACK.into()), data: Some(ATTACK.into()), ..RunConfig::default() };
    fs::write(path("config.ron"), config.to_ron().unwrap()).unwrap();
    let mut row = update(3);
    row["stage"] = json!(ATTACK);
    write_lines(&path("metrics.jsonl"), &[update(1), update(2), row]);
    write_lines(&path("evaluations.jsonl"), &[evaluation(ATTACK, 3)]);
    write_ending(folder.path(), ATTACK, 5);
    let page = report(folder.path(), &[]);
    assert!(!page.contains("<script>alert") && !page.contains("<img"), "{page}");
    let escaped = page.matches("&lt;script&gt;alert(&#39;gsil&#39;)&lt;/script&gt;&lt;img").count();
    assert!(escaped >= 10, "it is shown instead, everywhere: {escaped}");
    assert_eq!(page.matches("<script>").count(), 1, "the page's own");
}

#[test]
fn a_text_that_is_read_from_the_right_has_an_element_of_its_own_beside_the_row_number() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 3);
    let path = folder.path().join("about.json");
    let mut about = read_json(&path);
    about["samples"][0]["prompt"] = json!("כמה הם 2 ועוד 2?");
    fs::write(&path, about.to_string()).unwrap();
    let page = report(folder.path(), &[]);
    // The first letter decides: that of `row` must not.
    assert!(page.contains("<b>row 0</b><span>כמה הם 2 ועוד 2?</span>"), "{page}");
    assert!(page.contains(".prompt span, .answers p { unicode-bidi: plaintext; text-align: start; }"), "{page}");
}

#[test]
fn a_page_asks_the_network_for_nothing() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 3);
    let page = report(folder.path(), &[]);
    for reference in ["http://", "https://", "src=", "@import", "url(", "<link"] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\""));
}

#[test]
fn a_run_that_has_only_begun_gets_a_page_that_says_so() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 3);
    for name in ["about.json", "metrics.jsonl", "evaluations.jsonl", "self_generation.jsonl", "timing.jsonl"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    let page = report(folder.path(), &[]);
    assert!(page.contains("just begun") && page.contains("Nothing is recorded yet"), "{page}");
    write_lines(&folder.path().join("evaluations.jsonl"), &[evaluation("start", 0)]);
    let page = report(folder.path(), &[]);
    assert!(page.contains("just begun") && page.contains("no update is recorded yet"), "{page}");
    write_lines(&folder.path().join("metrics.jsonl"), &[update(1)]);
    let page = report(folder.path(), &[]);
    assert!(page.contains("not finished") && page.contains("1 of 2 stages are evaluated"), "{page}");
}

#[test]
fn a_page_says_at_its_top_which_error_ended_which_of_its_runs() {
    let folder = tempdir().unwrap();
    let runs = ["one", "two"].map(|name| folder.path().join(name));
    runs.iter().for_each(|run| write_run(run, 3));
    write_ending(&runs[0], "no room", 6);
    let page_of = |options: &[&str]| {
        gsil(folder.path(), &[&["report", "one", "--output", "page.html"], options].concat()).succeeded();
        read(&folder.path().join("page.html"))
    };
    let page = page_of(&[]);
    let (top, _) = page.split_once("<h2>What was trained</h2>").unwrap();
    for expected in [
        "<span class=\"badge bad\">ended in an error</span> All stages are evaluated",
        "<h2>The run ended in an error</h2>",
        "<li><b>no room:</b> no room</li>",
        "<li><b>What helps:</b> no room</li>",
        "<li><b>To go on:</b> gsil resume one</li>",
    ] {
        assert!(top.contains(expected), "{expected}: {top}");
    }
    let page = page_of(&["--compare", "two"]);
    assert!(page.contains("<h2>one ended in an error</h2>") && !page.contains("<h2>two"), "{page}");
    // Nothing is left to do: the error came after the last checkpoint.
    fs::write(runs[0].join("latest"), "step-000003-done").unwrap();
    let page = page_of(&[]);
    assert!(page.contains(FINISHED) && !page.contains("ended in an error"), "{page}");
}

#[cfg(unix)]
#[test]
fn a_page_for_a_pipe_or_a_device_is_written_to_it_and_not_in_its_place() {
    use std::os::unix::fs::FileTypeExt;

    let folder = tempdir().unwrap();
    write_run(folder.path(), 3);
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || read(&pipe)
    });
    gsil(folder.path(), &["report", ".", "--output", "pipe"]).succeeded();
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo(), "a file took its place");
    assert!(reader.join().unwrap().ends_with("</html>\n"));
}

/// The aligned model is written after the last evaluation, and may fail to be.
#[test]
fn a_run_is_called_finished_only_once_its_last_checkpoint_is_saved() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 3);
    fs::write(folder.path().join("latest"), "step-000003-iteration-0").unwrap();
    let page = report(folder.path(), &[]);
    assert!(!page.contains(FINISHED) && page.contains("the last checkpoint is not saved yet"), "{page}");
    fs::write(folder.path().join("latest"), "step-000003-done").unwrap();
    assert!(report(folder.path(), &[]).contains(FINISHED));
    write_lines(&folder.path().join("evaluations.jsonl"), &[evaluation("start", 0)]);
    assert!(!report(folder.path(), &[]).contains(FINISHED), "an evaluation is missing");
    // A copy of what a report needs: what it holds was finished.
    fs::remove_file(folder.path().join("latest")).unwrap();
    write_run(folder.path(), 3);
    assert!(report(folder.path(), &[]).contains(FINISHED));
}

#[test]
fn damaged_and_missing_files_are_named_with_exit_code_3() {
    let damages: [(&str, &str, &[&str]); 9] = [
        ("metrics.jsonl", "{\"stage\":\"sft\"}\n", &["metrics.jsonl, line 1", "missing field"]),
        ("metrics.jsonl", "{}\n", &["metrics.jsonl, line 1"]),
        ("evaluations.jsonl", "nonsense\n", &["evaluations.jsonl, line 1"]),
        ("self_generation.jsonl", "[1]\n", &["self_generation.jsonl, line 1"]),
        ("iteration-000/self_generated.jsonl", "{\"index\":0}\n", &["self_generated.jsonl, line 1", "missing field"]),
        ("timing.jsonl", "{\"stage\":1}\n", &["timing.jsonl, line 1"]),
        ("about.json", "{", &["about.json"]),
        ("ended.json", "{}", &["ended.json", "missing field"]),
        ("config.ron", "(iterations: many)", &["config.ron"]),
    ];
    for (name, content, expected) in damages {
        let folder = tempdir().unwrap();
        write_run(folder.path(), 3);
        fs::write(folder.path().join(name), content).unwrap();
        let stderr = gsil(folder.path(), &["report", "."]).failed(3);
        assert!(expected.iter().all(|part| stderr.contains(part)), "{name}: {stderr}");
        assert!(!folder.path().join("report.html").exists());
    }
    for (name, expected) in
        [("config.ron", "holds no run"), ("env.json", "env.json"), ("metrics.jsonl", "metrics.jsonl")]
    {
        let folder = tempdir().unwrap();
        write_run(folder.path(), 3);
        fs::remove_file(folder.path().join(name)).unwrap();
        let stderr = gsil(folder.path(), &["report", "."]).failed(3);
        assert!(stderr.contains(expected) && stderr.contains("hint: "), "{name}: {stderr}");
    }
}

#[test]
fn a_line_that_is_being_written_is_left_out_and_left_alone() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 3);
    let path = folder.path().join("metrics.jsonl");
    let torn = read(&path) + "{\"stage\":\"itera";
    fs::write(&path, &torn).unwrap();
    let page = report(folder.path(), &[]);
    assert!(page.contains("finished") && page.contains("3 updates"), "{page}");
    assert_eq!(read(&path), torn);
}

#[test]
fn with_an_output_path_the_run_folder_is_only_read() {
    let folder = tempdir().unwrap();
    let run = folder.path().join("run");
    write_run(&run, 3);
    let outcome = gsil(folder.path(), &["report", "run", "--output", "page.html"]).succeeded();
    assert_eq!(outcome.stdout, "page.html\n");
    assert!(read(&folder.path().join("page.html")).contains("<h1>run</h1>"));
    assert!(!run.join("report.html").exists() && !run.join("tb").exists());
    let stderr = gsil(folder.path(), &["report", "run", "--output", "none/page.html"]).failed(6);
    assert!(stderr.contains("none/page.html"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn a_run_that_may_only_be_read_has_its_page_where_the_hint_says() {
    let folder = tempdir().unwrap();
    let run = folder.path().join("run");
    write_run(&run, 3);
    set_mode(folder.path(), 0o777);
    set_mode(&run, 0o555);
    let report = |options: &[&str]| {
        let words = [&["report", "run"], options].concat();
        gsil_as_another("a report of a run that may only be read", folder.path(), &words)
    };
    let Some(outcome) = report(&[]) else { return };
    let stderr = outcome.failed(6);
    assert!(stderr.contains("hint: the run folder may not be written: add --output FILE"), "{stderr}");
    report(&["--output", "page.html"]).unwrap().succeeded();
    assert!(read(&folder.path().join("page.html")).contains("<h1>run</h1>"));
    set_mode(&run, 0o755); // to be removed
}

#[test]
fn compared_runs_share_their_charts_and_show_in_what_they_differ() {
    let folder = tempdir().unwrap();
    let runs = ["one", "two", "other/two"].map(|name| folder.path().join(name));
    runs.iter().for_each(|run| write_run(run, 40));
    let path = runs[1].join("config.ron");
    let mut config = RunConfig::from_ron(&read(&path), "config.ron").unwrap();
    config.objective.scale = 0.25;
    fs::write(&path, config.to_ron().unwrap()).unwrap();
    gsil(folder.path(), &["report", "one", "--compare", "two", "other/two"]).succeeded();
    let page = read(&runs[0].join("report.html"));
    for expected in [
        "one: loss",
        "two: loss",
        "other/two: loss",
        "two: self-generated",
        "<td>objective.scale</td><td>1.0</td><td>0.25</td><td>1.0</td>",
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    assert!(!page.contains("<td>train.lr</td>"), "what is the same is not listed");
    assert!(!runs[1].join("report.html").exists(), "the others are only read");
    assert_eq!(page.matches("On 50 held-out rows.").count(), 1, "what is the same is said once");
    let mut judged_otherwise = evaluation("start", 0);
    judged_otherwise["evaluation"]["held_out"] = json!(false);
    judged_otherwise["evaluation"]["num_rows"] = json!(8);
    write_lines(&runs[1].join("evaluations.jsonl"), &[judged_otherwise]);
    gsil(folder.path(), &["report", "one", "--compare", "two", "other/two"]).succeeded();
    let page = read(&runs[0].join("report.html"));
    for expected in ["<b>one</b>: On 50 held-out rows.", "<b>two</b>: On 8 training rows", "<b>other/two</b>: On 50"] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    for (run, rows) in runs.iter().zip(["a", "b", "a"]) {
        let environment =
            json!({"gsil": "0.1.0", "device": "flex", "rows_fingerprint": rows, "held_out_fingerprint": "c"});
        fs::write(run.join("env.json"), environment.to_string()).unwrap();
    }
    gsil(folder.path(), &["report", "one", "--compare", "two", "other/two"]).succeeded();
    let page = read(&runs[0].join("report.html"));
    let other_rows = "<td>training rows (fingerprint)</td><td>a</td><td>b</td><td>a</td>";
    assert!(page.contains(other_rows) && !page.contains("<td>held-out rows"), "{page}");
    let stderr = gsil(folder.path(), &["report", "one", "--compare", "none"]).failed(3);
    assert!(stderr.contains("none: cannot read"), "{stderr}");
}

#[test]
fn a_large_run_makes_a_page_that_a_browser_bears() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 20_000);
    let mut spike = update(7_777);
    spike["grad_norm"] = json!(123.0);
    let rows: Vec<Value> = (1..=20_000).map(|i| if i == 7_777 { spike.clone() } else { update(i) }).collect();
    write_lines(&folder.path().join("metrics.jsonl"), &rows);
    write_response(folder.path(), &"long ".repeat(10_000));
    let page = report(folder.path(), &[]);
    assert!((50_000..500_000).contains(&page.len()), "{}", page.len());
    assert!(page.contains("(cut here)"));
    assert!(page.contains("jumps to 123 at update 7777") && page.contains(",123.0,"), "the spike is drawn");
}

#[test]
fn events_grow_at_their_end_and_a_resumed_run_has_no_step_twice() {
    let folder = tempdir().unwrap();
    write_run(folder.path(), 10);
    let path = folder.path().join("tb/events.out.tfevents.gsil");
    write_lines(&folder.path().join("evaluations.jsonl"), &[evaluation("start", 0)]);
    report(folder.path(), &[]);
    let before = fs::read(&path).unwrap();
    write_lines(&folder.path().join("metrics.jsonl"), &(1..=12).map(update).collect::<Vec<_>>());
    write_lines(&folder.path().join("evaluations.jsonl"), &[evaluation("start", 0), evaluation("iteration 0", 12)]);
    report(folder.path(), &[]);
    let after = fs::read(&path).unwrap();
    assert!(after.len() > before.len() && after.starts_with(&before), "a reader that has it open goes on reading");

    // Resumed from the checkpoint of update 6: the updates after it are made again, with other numbers.
    let again = |step: usize| {
        let mut row = update(step);
        row["loss"] = json!(if step > 6 { 0.125 } else { row["loss"].as_f64().unwrap() });
        row
    };
    write_lines(&folder.path().join("metrics.jsonl"), &(1..=9).map(again).collect::<Vec<_>>());
    report(folder.path(), &[]);
    let loss = &read_scalars(folder.path())["gsil/loss"];
    assert_eq!(loss.keys().copied().collect::<Vec<_>>(), (1..=9).collect::<Vec<u64>>());
    assert_eq!((loss[&7], loss[&9]), (0.125, 0.125));
}

#[test]
fn a_browser_loads_the_page_without_an_error_and_shows_values_under_the_pointer() {
    let Some(browser) = chromium() else {
        return say_skipped("loading the report in a browser", "no chromium on the path");
    };
    let folder = tempdir().unwrap();
    write_run(folder.path(), 100);
    write_response(folder.path(), ATTACK);
    let page = report(folder.path(), &[]);
    // What a person does: point at the middle of every chart. And what no page may do: be wider than a telephone.
    let visitor = r#"<script>
      for (const svg of document.querySelectorAll("figure[data-chart] > svg")) {
        const box = svg.getBoundingClientRect();
        svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 2 }));
      }
      document.body.dataset.overflow = document.body.scrollWidth - document.body.clientWidth;
    </script></body>"#;
    let path = folder.path().join("visited.html");
    for width in [400, 1400] {
        // Windows have a least width, so it is the page that gets narrow.
        let narrow = format!("<body style=\"width: {width}px\">");
        fs::write(&path, page.replace("<body>", &narrow).replace("</body>", visitor)).unwrap();
        let loaded = load(&browser, &path);
        assert_eq!(loaded.console, Vec::<String>::new());
        assert!(loaded.dom.contains("data-overflow=\"0\""), "{width} px: the page scrolls sideways");
        let num_charts = page.matches("data-chart=").count();
        let num_shown = loaded.dom.matches("at update ").count() + loaded.dom.matches("at tokens ").count();
        assert!(num_charts >= 6, "{num_charts}");
        assert_eq!(num_shown, num_charts);
        assert!(!loaded.dom.contains("<script>alert") && !loaded.dom.contains("<img"));
    }
    fs::write(&path, page + "<script>throw new Error('control')</script>").unwrap();
    let console = load(&browser, &path).console;
    assert!(console.iter().any(|line| line.contains("control")), "errors would be seen: {console:?}");
}
