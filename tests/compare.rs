//! `gsil compare`: a grid of tiny runs, what its cells share, what it refuses, and that a killed one ends in the same bytes.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::support::binary::{
    Outcome, assert_close, command, ending_model, export, gsil, read, read_json, read_json_lines, wait, write_rows,
};
use crate::support::recipe::{copy_folder, send, wait_until};

/// The built-in task, as small as it can be: 2 methods that generate and one that does not, 2 seeds, 2 iterations of 4 updates.
const GRID: &str = r######"(
    seeds: [0, 3],
    baseline: "plain sft",
    methods: [
        (name: "plain sft", set: ["objective.name=sft"]),
        (name: "GSIL, brier", set: ["objective.name=brier"]),
        (name: "bernoulli", set: ["train.lr=3e-3"]),
    ],
    base: (
        device: "flex",
        word_problems: (num_train: 40, num_test: 8, hidden_size: 16, num_layers: 1, num_heads: 2, intermediate_size: 16),
        iterations: 2,
        save_every: 2,
        sft: (lr: 1e-2, epochs: 2, batch_size: 10),
        generation: (max_new_tokens: 8, unfinished: mask, batch_size: 10),
        train: (lr: 1e-3, batch_size: 10, max_length: 64),
        evaluation: (answer_marker: "####", sampled: true, generate_rows: 6),
    ),
)"######;
const METHODS: [(&str, &str); 3] =
    [("plain sft", "plain-sft"), ("GSIL, brier", "gsil-brier"), ("bernoulli", "bernoulli")];

fn world(config: &str) -> TempDir {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("grid.ron"), config).unwrap();
    folder
}

pub fn compare(folder: &Path, options: &[&str]) -> Outcome {
    gsil(folder, &[&["compare", "grid.ron", "--output", "grid"], options].concat())
}

/// The finished grid, made once, and what the command said.
fn finished() -> &'static (TempDir, Outcome) {
    static FINISHED: OnceLock<(TempDir, Outcome)> = OnceLock::new();
    FINISHED.get_or_init(|| {
        let folder = world(GRID);
        let outcome = compare(folder.path(), &[]).succeeded();
        (folder, outcome)
    })
}

fn grid() -> PathBuf {
    finished().0.path().join("grid")
}

pub fn cell(grid: &Path, method: &str, seed: u64) -> PathBuf {
    grid.join(format!("cells/{method}/seed-{seed}"))
}

/// The lines on stderr that are about the n-th cell, from 1.
fn said_of_cell(outcome: &Outcome, number: usize) -> &str {
    let from = outcome.stderr.split(&format!("\ncell {number} of ")).nth(1).unwrap();
    from.split("\ncell ").next().unwrap()
}

#[test]
fn every_number_of_the_table_is_one_of_the_runs_evaluations() {
    let (grid, json) = (grid(), read_json(&grid().join("comparison.json")));
    let mut checked = 0;
    for (m, (name, folder)) in METHODS.iter().enumerate() {
        let method = &json["methods"][m];
        assert_eq!((method["name"].as_str(), method["num_updates"].as_u64()), (Some(*name), Some(8)));
        let last =
            [0, 3].map(|seed| read_json_lines(&cell(&grid, folder, seed).join("evaluations.jsonl")).pop().unwrap());
        for (f, path) in
            ["/demonstration_log_prob_per_token", "/greedy/exact_match", "/sampled/exact_match"].iter().enumerate()
        {
            let values = last.each_ref().map(|row| row["evaluation"].pointer(path).unwrap().as_f64().unwrap());
            let spread = &method["figures"][f]["spread"];
            assert_close(&spread["mean"], (values[0] + values[1]) / 2.0, 1e-12, path);
            // The sample deviation of two values.
            assert_close(&spread["deviation"], (values[0] - values[1]).abs() / 2f64.sqrt(), 1e-12, path);
            checked += 1;
        }
        for (own, seed) in last.iter().zip([0, 3]) {
            let is_own = |row: &&Value| row["method"] == *name && row["seed"] == seed;
            let told = json["cells"].as_array().unwrap().iter().find(is_own).unwrap();
            assert_eq!(told["evaluations"].as_array().unwrap().last().unwrap(), own);
        }
    }
    assert_eq!(checked, 9);
    let starts = json["start"].as_array().unwrap();
    assert_eq!(starts[1]["name"].as_str(), Some("greedy"), "{starts:?}");
    assert!(starts[1]["spread"]["mean"].is_number(), "{starts:?}");
    assert_eq!(
        finished().1.stdout.trim_end(),
        read(&grid.join("comparison.md")).trim_end(),
        "the table is what is printed"
    );
}

#[test]
fn a_difference_is_the_mean_of_what_the_rows_differ_by() {
    let (grid, json) = (grid(), read_json(&grid().join("comparison.json")));
    let sum = |method: &str, seed: u64| -> (f64, f64) {
        let stages = read_json_lines(&cell(&grid, method, seed).join("evaluation_rows.jsonl"));
        assert_eq!(stages.len(), 3, "start and two iterations");
        let rows = stages[2]["rows"].as_array().unwrap().clone();
        assert_eq!(rows.len(), 8);
        let total = |key: &str| rows.iter().map(|row| row[key].as_f64().unwrap()).sum();
        (total("demonstration_log_prob"), total("num_tokens"))
    };
    let of_seed = |seed| (sum("bernoulli", seed).0 - sum("plain-sft", seed).0) / sum("plain-sft", seed).1;
    let difference = &json["methods"][2]["figures"][0]["difference"];
    assert_close(&difference["mean"], (of_seed(0) + of_seed(3)) / 2.0, 1e-12, "difference");
    let [low, mean, high] = ["low", "mean", "high"].map(|key| difference[key].as_f64().unwrap());
    assert!(low < mean && mean < high, "{difference}");
    assert_eq!(json["methods"][0]["figures"][0]["difference"], Value::Null, "the baseline itself");
    let num_rows = [0, 1, 2].map(|figure| json["methods"][2]["figures"][figure]["difference"]["num_rows"].as_u64());
    assert_eq!(num_rows, [Some(8), Some(6), Some(6)], "all rows are scored, six are answered");
    let told = read(&grid.join("comparison.md"));
    assert!(told.contains("They rest on as few as 6 rows"), "{told}");
}

#[test]
fn cells_share_their_start_and_the_first_self_generation_and_nothing_later() {
    let (grid, outcome) = (grid(), &finished().1);
    let bytes = |method: &str, seed, file: &str| fs::read(cell(&grid, method, seed).join(file)).unwrap();
    for seed in [0, 3] {
        for file in
            ["iteration-000/self_generated.jsonl", "iteration-000/demonstrations.jsonl", "iteration-000/binding.json"]
        {
            assert!(bytes("gsil-brier", seed, file) == bytes("bernoulli", seed, file), "{file}");
        }
        assert!(bytes("plain-sft", seed, "held_out.jsonl") == bytes("bernoulli", seed, "held_out.jsonl"));
        let file = "iteration-001/self_generated.jsonl";
        assert!(bytes("gsil-brier", seed, file) != bytes("bernoulli", seed, file), "later policies differ");
        let start = |method: &str| {
            read(&cell(&grid, method, seed).join("evaluations.jsonl")).lines().next().unwrap().to_owned()
        };
        assert_eq!(start("plain-sft"), start("bernoulli"));
    }
    // Seeds in their order, and in each the methods: the third cell is the second that generates.
    for number in [3, 6] {
        let said = said_of_cell(outcome, number);
        let first = said.split("Iteration 1 ").next().unwrap();
        assert!(first.contains("responses and reference log-probs are those of"), "{first}");
        assert!(first.contains("the figures of the start are those of"), "{first}");
        assert!(
            !first.contains("generating ") && !first.contains("demonstrations in"),
            "nothing was generated: {first}"
        );
        assert!(said.matches("generating ").count() == 1, "iteration 1 generates its own: {said}");
    }
    assert!(
        said_of_cell(outcome, 2).split("Iteration 1 ").next().unwrap().contains("generating 40 of 40"),
        "{}",
        outcome.stderr
    );
    let phases = |method| read_json_lines(&cell(&grid, method, 0).join("timing.jsonl"));
    let is_start = |row: &&Value| row["stage"] == "start";
    assert_eq!(phases("plain-sft").iter().filter(is_start).count(), 1);
    assert_eq!(phases("bernoulli").iter().filter(is_start).count(), 0);
}

#[test]
fn what_a_shared_start_gives_is_what_a_run_of_its_own_would_make() {
    let (grid, folder) = (grid(), finished().0.path());
    let config = text_of(cell(&grid, "bernoulli", 3).join("config.ron"));
    let alone = gsil(folder, &["train", "--config", &config, "--output", "alone"]).succeeded();
    assert!(alone.stderr.contains("generating 40 of 40"));
    let own = cell(&grid, "bernoulli", 3);
    for file in ["evaluations.jsonl", "evaluation_rows.jsonl", "held_out.jsonl", "model/model.safetensors"] {
        assert!(fs::read(folder.join("alone").join(file)).unwrap() == fs::read(own.join(file)).unwrap(), "{file}");
    }
}

fn text_of(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap()
}

#[test]
fn a_killed_or_stopped_comparison_run_again_gives_the_same_tables() {
    // While the first start is made; in the middle of a cell; between cells.
    let moments = [
        ("start/seed-0/metrics.jsonl", 3, "KILL"),
        ("cells/bernoulli/seed-0/metrics.jsonl", 3, "TERM"),
        ("cells/plain-sft/seed-3/evaluations.jsonl", 1, "KILL"),
    ];
    let folder = world(GRID);
    for (watched, num_lines, signal) in moments {
        let path = folder.path().join("grid").join(watched);
        let mut child = command(folder.path(), &["compare", "grid.ron", "--output", "grid"]).spawn().unwrap();
        let count = || fs::read_to_string(&path).unwrap_or_default().lines().count();
        wait_until(&mut child, watched, || count() >= num_lines);
        send(&child, signal);
        let code = if signal == "KILL" { None } else { Some(143) };
        assert_eq!(wait(child).code, code, "{watched}");
    }
    let outcome = compare(folder.path(), &[]).succeeded();
    assert!(!outcome.stderr.contains("cell 1 of 6"), "finished cells are left alone: {}", outcome.stderr);
    for file in ["comparison.md", "comparison.json"] {
        assert_eq!(read(&folder.path().join("grid").join(file)), read(&grid().join(file)), "{file}");
    }
    assert_eq!(outcome.stdout, finished().1.stdout);
    let again = compare(folder.path(), &[]).succeeded();
    assert!(!again.stderr.contains("cell ") && again.stdout == outcome.stdout, "{}", again.stderr);
}

#[test]
fn a_signal_stops_the_comparison_and_says_how_to_go_on() {
    let folder = world(GRID);
    let path = folder.path().join("grid/cells/gsil-brier/seed-0/metrics.jsonl");
    let mut child = command(folder.path(), &["compare", "grid.ron", "--output", "grid"]).spawn().unwrap();
    wait_until(&mut child, "an update", || !fs::read_to_string(&path).unwrap_or_default().is_empty());
    send(&child, "TERM");
    let outcome = wait(child);
    assert_eq!(outcome.code, Some(143), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: the same command goes on in grid"), "{}", outcome.stderr);
    let page = read(&folder.path().join("grid/comparison.html"));
    let stopped = "<a href=\"cells/gsil-brier/seed-0/report.html\">GSIL, brier, seed 0</a> <small>stopped</small>";
    assert!(page.contains(stopped) && page.contains("1 of 6 runs are finished"), "{page}");
}

#[test]
fn methods_that_make_other_numbers_of_updates_are_refused_unless_they_are_asked_for() {
    let folder = world(&GRID.replace("\"train.lr=3e-3\"", "\"train.epochs=2\""));
    let stderr = compare(folder.path(), &["--dry-run"]).failed(2);
    assert!(stderr.contains("plain sft 8, GSIL, brier 8, bernoulli 16"), "{stderr}");
    assert!(stderr.contains("hint: set iterations and train.num_steps"), "{stderr}");
    assert!(!folder.path().join("grid").exists());
    let text = read(&folder.path().join("grid.ron")).replacen("seeds:", "equal_updates: false, seeds:", 1);
    fs::write(folder.path().join("grid.ron"), text).unwrap();
    let listed = compare(folder.path(), &["--dry-run"]).succeeded().stdout;
    assert!(listed.contains("cells/bernoulli/seed-3") && listed.contains("the start of each of 2 seeds"), "{listed}");
}

/// Rows of a file, a model without a tokenizer, no supervised stage; some responses are cut off and left out.
pub fn with_own_model(folder: &Path, methods: &str) {
    ending_model(folder);
    write_rows(&folder.join("rows.jsonl"), 30);
    write_rows(&folder.join("held_out.jsonl"), 5);
    let base = r#"device: "flex", model: "tiny", data: "rows.jsonl", evaluation: (data: "held_out.jsonl"),
        generation: (max_new_tokens: 2, batch_size: 8), train: (batch_size: 2, lr: 1e-3)"#;
    fs::write(folder.join("grid.ron"), format!("(seeds: [0], methods: {methods}, base: ({base}))")).unwrap();
}

#[test]
fn responses_that_are_left_out_change_no_number_of_updates() {
    let folder = tempdir().unwrap();
    with_own_model(folder.path(), r#"[(name: "sft", set: ["objective.name=sft"]), (name: "gsil")]"#);
    let listed = compare(folder.path(), &["--dry-run"]).succeeded().stdout;
    assert_eq!(listed.matches("  15  ").count(), 2, "30 rows, 2 an update: {listed}");
    compare(folder.path(), &[]).succeeded();
    let grid = folder.path().join("grid");
    let dropped =
        read_json_lines(&cell(&grid, "gsil", 0).join("self_generation.jsonl"))[0]["counts"]["dropped"].clone();
    assert!(dropped.as_u64().unwrap() > 4, "the test needs pairs that are left out: {dropped}");
    for method in ["sft", "gsil"] {
        assert_eq!(read_json_lines(&cell(&grid, method, 0).join("metrics.jsonl")).len(), 15, "{method}");
    }
    assert!(!grid.join("start").exists(), "a given model without a supervised stage is the start itself");
}

#[test]
fn a_cell_that_must_not_be_trained_on_is_told_of_and_the_others_go_on() {
    let folder = tempdir().unwrap();
    with_own_model(
        folder.path(),
        r#"[(name: "wild", set: ["train.lr=1e9", "train.optimizer=sgd", "train.max_grad_norm=0"]), (name: "sft", set: ["objective.name=sft"])]"#,
    );
    let outcome = compare(folder.path(), &[]);
    assert_eq!(outcome.code, Some(5), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("1 of 2 cells failed: wild, seed 0"), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("lower train.lr") && outcome.stderr.contains("another `set`"),
        "{}",
        outcome.stderr
    );
    let table = read(&folder.path().join("grid/comparison.md"));
    assert!(table.contains("Failed: wild, seed 0: ") && table.contains("| sft "), "{table}");
    // What helps stands in its own report.
    let failed = "<a href=\"cells/wild/seed-0/report.html\">wild, seed 0</a> <small>failed</small>";
    assert!(read(&folder.path().join("grid/comparison.html")).contains(failed));
    assert!(read(&cell(&folder.path().join("grid"), "wild", 0).join("report.html")).contains("lower train.lr"));
}

#[test]
fn a_start_that_must_not_be_trained_on_fails_its_cells_and_is_told_of() {
    let folder = tempdir().unwrap();
    with_own_model(folder.path(), r#"[(name: "gsil")]"#);
    let wild = ["sft.lr=1e30", "sft.optimizer=sgd", "sft.max_grad_norm=0"];
    let outcome = compare(folder.path(), &wild);
    assert_eq!(outcome.code, Some(5), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("1 of 1 cells failed: gsil, seed 0"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("change `base` and choose another --output"), "{}", outcome.stderr);
    assert!(read(&folder.path().join("grid/comparison.md")).contains("Failed: gsil, seed 0: "));
}

#[test]
fn a_method_that_would_be_judged_on_fewer_rows_is_refused_before_anything_runs() {
    let folder = tempdir().unwrap();
    let methods = "[(name: \"all\"),\n(name: \"few\", set: [\n\"max_rows=20\"])], equal_updates: false";
    with_own_model(folder.path(), methods);
    compare(folder.path(), &["--dry-run"]).succeeded();
    without_held_out_rows(folder.path());
    let stderr = compare(folder.path(), &["--dry-run"]).failed(2);
    let expected = "grid.ron:3: method `few`: is judged on the first 20 training rows, `all` on 30";
    assert!(stderr.contains(expected), "{stderr}");
    let hint = "hint: set max_rows in `base` alone, or give held-out rows: evaluation.data in `base`";
    assert!(stderr.contains(hint), "{stderr}");
    // A folder's own held-out rows do as well.
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::copy(folder.path().join("rows.jsonl"), data.join("train.jsonl")).unwrap();
    fs::copy(folder.path().join("held_out.jsonl"), data.join("valid.jsonl")).unwrap();
    compare(folder.path(), &["--dry-run", "data=data"]).succeeded();
}

/// The same comparison, judged on the first training rows.
fn without_held_out_rows(folder: &Path) {
    let path = folder.join("grid.ron");
    fs::write(&path, read(&path).replace(r#"evaluation: (data: "held_out.jsonl"),"#, "")).unwrap();
}

#[test]
fn methods_are_judged_on_the_rows_of_the_first_one_whatever_the_base_has() {
    let folder = tempdir().unwrap();
    let listed = |methods: &str| {
        with_own_model(folder.path(), &format!("{methods}, equal_updates: false"));
        without_held_out_rows(folder.path());
        compare(folder.path(), &["--dry-run"])
    };
    listed(r#"[(name: "a", set: ["max_rows=20"]), (name: "b", set: ["max_rows=20", "train.lr=2e-3"])]"#).succeeded();
    let stderr = listed("[(name: \"few\", set: [\"max_rows=20\"]),\n(name: \"all\")]").failed(2);
    let expected = "grid.ron:2: method `all`: is judged on the first 30 training rows, `few` on 20";
    assert!(stderr.contains(expected), "{stderr}");
    // Figures of training rows are called so.
    with_own_model(folder.path(), r#"[(name: "sft", set: ["objective.name=sft", "train.num_steps=1"])]"#);
    let texts = || {
        let printed = compare(folder.path(), &[]).succeeded().stdout;
        [printed, read(&folder.path().join("grid/comparison.md")), read(&folder.path().join("grid/comparison.html"))]
    };
    for text in texts() {
        assert!(text.contains("Held-out figures") && !text.contains("training rows"), "{text}");
    }
    fs::remove_dir_all(folder.path().join("grid")).unwrap();
    without_held_out_rows(folder.path());
    for text in texts() {
        let told = text.contains("Figures on training rows (for want of held-out ones: evaluation.data)");
        assert!(told && !text.contains("Held-out figures"), "{text}");
    }
}

#[test]
fn a_method_that_has_not_run_may_still_change_and_a_model_must_be_given() {
    let folder = tempdir().unwrap();
    with_own_model(folder.path(), r#"[(name: "gsil"), (name: "later", set: ["train.lr=2e-3"])]"#);
    let results = || read(&folder.path().join("grid/comparison.md"));
    compare(folder.path(), &["--only", "gsil"]).succeeded();
    assert!(!results().contains("Intervals: "), "there are none: {}", results());
    let text = read(&folder.path().join("grid.ron"));
    let with = |text: String| fs::write(folder.path().join("grid.ron"), text).unwrap();
    with(text.replace("train.lr=2e-3", "train.lr=3e-3"));
    compare(folder.path(), &[]).succeeded();
    assert!(results().contains("Intervals: ") && results().contains("They rest on as few as 5 rows"), "{}", results());
    with(text.clone());
    let stderr = compare(folder.path(), &[]).failed(2);
    assert!(stderr.contains("method `later`: "), "{stderr}");
    with(text.replace("model: \"tiny\",", ""));
    let stderr = compare(folder.path(), &[]).failed(2);
    assert!(stderr.contains("grid.ron: base.model: must be given") && stderr.contains("model=.."), "{stderr}");
}

#[test]
fn one_method_can_be_run_alone_models_need_not_be_kept_and_a_start_without_answers_is_shared() {
    let folder = tempdir().unwrap();
    with_own_model(
        folder.path(),
        r#"[(name: "sft", set: ["objective.name=sft"]), (name: "gsil")], keep_models: false"#,
    );
    let stderr = compare(folder.path(), &["--only", "gsli"]).failed(2);
    assert!(stderr.contains("did you mean `gsil`?"), "{stderr}");
    let unanswered = "evaluation.generate_rows=0";
    compare(folder.path(), &["--only", "gsil", unanswered]).succeeded();
    let grid = folder.path().join("grid");
    assert!(!cell(&grid, "sft", 0).exists());
    let own = cell(&grid, "gsil", 0);
    assert!(!own.join("model").exists() && !own.join("checkpoints").exists());
    let finished = "<span class=\"badge good\">finished</span>";
    assert!(read(&own.join("report.html")).contains(finished));
    gsil(&own, &["report", "."]).succeeded();
    assert!(read(&own.join("report.html")).contains(finished), "its checkpoints are gone");
    let again = gsil(folder.path(), &["resume", "grid/cells/gsil/seed-0"]).succeeded();
    assert!(again.stderr.contains("this run is finished") && again.stdout.contains("iteration 0"), "{}", again.stderr);
    assert!(!again.stderr.contains("model   "), "there is none any more: {}", again.stderr);
    for (options, expected) in [
        (&[][..], "its checkpoints were removed, too; a comparison with `keep_models: false` keeps none"),
        (&["--checkpoint", "best"], "the model too: a comparison with `keep_models: false` keeps none"),
    ] {
        let stderr = export(folder.path(), &own, "hf", &folder.path().join("exported"), options).failed(3);
        assert!(stderr.contains(expected) && !stderr.contains("gsil resume"), "{stderr}");
    }
    let stderr = gsil(folder.path(), &["compare", "grid"]).failed(2);
    assert!(stderr.contains("hint: to go on with it: gsil compare grid/compare.ron --output grid\n"), "{stderr}");
    let all = gsil(folder.path(), &["compare", "grid/compare.ron", "--output", "grid"]).succeeded();
    assert!(all.stderr.contains("the figures of the start are those of"), "{}", all.stderr);
    assert_eq!(read_json(&grid.join("comparison.json"))["methods"][1]["seeds"], serde_json::json!([0]));
}

#[test]
fn mistakes_name_file_line_and_method_and_leave_nothing_behind() {
    let cases = [
        (
            "\"train.lr=3e-3\"",
            "\"train.lrr=3e-3\"",
            &["grid.ron:7: method `bernoulli`", "did you mean `train.lr`?"][..],
        ),
        ("\"train.lr=3e-3\"", "\"train.lr=-1\"", &["grid.ron:7: method `bernoulli`", "train.lr: -1 is not possible"]),
        ("save_every: 2", "save_evry: 2", &["grid.ron:13:", "did you mean `save_every`?"]),
        (
            "\"plain sft\",\n",
            "\"plain\",\n",
            &["grid.ron: baseline: plain: no method has this name", "did you mean `plain sft`?"],
        ),
    ];
    for (from, to, expected) in cases {
        let folder = world(&GRID.replacen(from, to, 1));
        let stderr = compare(folder.path(), &[]).failed(2);
        assert!(expected.iter().all(|part| stderr.contains(part)), "{to}: {stderr}");
        assert!(!folder.path().join("grid").exists());
    }
}

#[test]
fn a_changed_comparison_is_refused_by_the_name_of_what_changed() {
    let (folder, _) = finished();
    for (from, to, expected) in [
        ("lr: 1e-3,", "lr: 2e-3,", "base.train.lr: 0.001, now 0.002"),
        ("seeds: [0, 3]", "seeds: [0]", "seeds: 3 is gone"),
        ("train.lr=3e-3", "train.lr=4e-3", "method `bernoulli`: [\"train.lr=3e-3\"], now [\"train.lr=4e-3\"]"),
    ] {
        fs::write(folder.path().join("changed.ron"), GRID.replacen(from, to, 1)).unwrap();
        for options in [&["--dry-run"][..], &[]] {
            let arguments = [&["compare", "changed.ron", "--output", "grid"], options].concat();
            let stderr = gsil(folder.path(), &arguments).failed(2);
            assert!(stderr.contains(expected) && stderr.contains("hint: "), "{stderr}");
        }
    }
}

#[test]
fn a_comparison_in_which_nothing_has_run_takes_other_settings() {
    let folder = tempdir().unwrap();
    with_own_model(folder.path(), r#"[(name: "gsil")]"#);
    compare(folder.path(), &["memory_limit=1MB"]).failed(4);
    assert!(folder.path().join("grid/compare.ron").exists(), "it was begun");
    let page = read(&folder.path().join("grid/comparison.html"));
    assert!(page.contains("0 of 1 runs are finished") && page.contains("There are no figures"), "{page}");
    assert!(page.contains("<td>gsil, seed 0 <small>not finished</small></td>"), "no report is there: {page}");
    assert!(!page.contains("<h2>Over the updates</h2>"), "{page}");
    compare(folder.path(), &["train.lr=2e-3"]).succeeded();
    assert!(read(&folder.path().join("grid/compare.ron")).contains("lr: 0.002"));
    let stderr = compare(folder.path(), &["train.lr=3e-3"]).failed(2);
    assert!(stderr.contains("base.train.lr: 0.002, now 0.003"), "{stderr}");
}

/// As a crash between the last update and the end of a finished cell leaves it.
pub fn unfinish(cell: &Path, last_checkpoint: &str) {
    fs::remove_file(cell.join("finished.json")).unwrap();
    fs::remove_dir_all(cell.join("checkpoints").join(last_checkpoint)).unwrap();
}

#[test]
fn what_a_resumed_run_may_change_reaches_the_begun_cells_of_a_comparison() {
    let folder = tempdir().unwrap();
    with_own_model(folder.path(), r#"[(name: "gsil")]"#);
    compare(folder.path(), &[]).succeeded();
    let grid = folder.path().join("grid");
    let own = cell(&grid, "gsil", 0);
    unfinish(&own, "step-000015-done");
    let stderr = compare(folder.path(), &["train.epochs=2"]).failed(2);
    assert!(stderr.contains("base.train.epochs: 1, now 2") && stderr.contains("may change: save_every, "), "{stderr}");
    let stderr = compare(folder.path(), &["train.micro_batch_size=1"]).succeeded().stderr;
    assert!(stderr.contains("changed    base.train.micro_batch_size: 2, now 1"), "{stderr}");
    assert!(stderr.contains("continuing at iteration 0, update 15"), "{stderr}");
    for file in [grid.join("compare.ron"), own.join("config.ron")] {
        assert!(read(&file).contains("micro_batch_size: 1,"), "{}", file.display());
    }
}

#[test]
fn a_cell_that_was_finished_by_hand_is_left_as_it_is() {
    let folder = tempdir().unwrap();
    with_own_model(folder.path(), r#"[(name: "gsil")]"#);
    compare(folder.path(), &[]).succeeded();
    let own = cell(&folder.path().join("grid"), "gsil", 0);
    unfinish(&own, "step-000015-done");
    let by_hand = ["resume", "grid/cells/gsil/seed-0", "train.micro_batch_size=1", "--allow-changes"];
    gsil(folder.path(), &by_hand).succeeded();
    compare(folder.path(), &[]).succeeded();
    assert!(own.join("finished.json").exists());
    assert!(read(&own.join("config.ron")).contains("micro_batch_size: 1,"));
}

#[test]
fn the_card_of_a_cell_says_that_it_began_with_the_comparisons_start() {
    let folder = tempdir().unwrap();
    let output = folder.path().join("winner");
    export(folder.path(), &cell(&grid(), "bernoulli", 0), "hf", &output, &[]).succeeded();
    let card = read(&output.join("README.md"));
    assert!(card.contains("| base model | the start of a comparison, trained by its supervised stage |"), "{card}");
}

#[test]
fn a_moved_comparison_goes_on_from_its_start_where_that_is_now() {
    let folder = world(GRID);
    let moved = folder.path().join("grid");
    fs::create_dir(&moved).unwrap();
    ["start", "cells"].iter().for_each(|name| copy_folder(&grid().join(name), &moved.join(name)));
    fs::copy(grid().join("compare.ron"), moved.join("compare.ron")).unwrap();
    let own = cell(&moved, "bernoulli", 3);
    unfinish(&own, "step-000008-done");
    let stderr = compare(folder.path(), &[]).succeeded().stderr;
    assert!(stderr.contains("continuing at iteration 1, update 4"), "{stderr}");
    let (config, start) = (read(&own.join("config.ron")), dunce::canonicalize(moved.join("start/seed-3")).unwrap());
    for file in ["model", "task/train.jsonl", "task/test.jsonl"] {
        assert!(config.contains(&format!("{:?}", start.join(file))), "{file}: {config}");
    }
    assert_eq!(read(&moved.join("comparison.json")), read(&grid().join("comparison.json")));
}

#[test]
fn the_page_has_every_method_and_run_and_asks_the_network_for_nothing() {
    let page = read(&grid().join("comparison.html"));
    for (name, folder) in METHODS {
        // Two seeds, eight updates.
        assert!(page.contains(&format!("<td>{name}</td><td>2</td><td>8</td>")), "{name}");
        assert!(page.contains(&format!("href=\"cells/{folder}/seed-3/report.html\"")), "{name}");
    }
    // Figures: log-prob, greedy, sampled, in format; intervals of the two that are no baseline.
    assert_eq!(page.matches(" interval\"").count(), 4 * 2);
    assert_eq!(page.matches("data-chart=").count(), 4);
    assert!(page.contains("Difference to plain sft") && page.contains("class=\"badge good\">finished"));
    for reference in ["http://", "https://", "src=", "@import", "url(", "<link"] {
        assert!(!page.contains(reference), "{reference}");
    }
}
