//! `gsil compare` where the world changed between two calls: edited rows, a moved project, a method that failed.
#![cfg(unix)]

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::tempdir;

use crate::compare::{cell, compare, unfinish, with_own_model};
use crate::support::binary::{gsil, read, read_json, text, write_rows};
use crate::support::recipe::edit_first_line;

const ONE_METHOD: &str = r#"[(name: "gsil")]"#;
const LAST_CHECKPOINT: &str = "step-000015-done";

fn add_a_seed(folder: &Path) {
    let text = read(&folder.join("grid.ron"));
    fs::write(folder.join("grid.ron"), text.replace("seeds: [0]", "seeds: [0, 1]")).unwrap();
}

#[test]
fn other_rows_or_another_model_than_the_comparison_began_with_are_refused() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    with_own_model(folder.path(), ONE_METHOD);
    compare(folder.path(), &[]).succeeded();
    add_a_seed(folder.path());
    let refused = |expected: &str| {
        for options in [&["--dry-run"][..], &[]] {
            let stderr = compare(folder.path(), options).failed(3);
            assert!(stderr.contains(expected) && stderr.contains("hint: put back"), "{stderr}");
        }
    };
    // One that has other words, and one that would also make 16 updates of 15.
    edit_first_line(&path("rows.jsonl"), |row| row["response_ids"] = json!([300, 2]));
    refused("rows.jsonl: the rows are not those that the comparison began with");
    write_rows(&path("rows.jsonl"), 32);
    refused("rows.jsonl: the rows are not those that the comparison began with");
    write_rows(&path("rows.jsonl"), 30);
    write_rows(&path("held_out.jsonl"), 6);
    refused("held_out.jsonl: the held-out rows are not those that the comparison began with");
    write_rows(&path("held_out.jsonl"), 5);
    let config = read(&path("tiny/config.json"));
    fs::write(path("tiny/config.json"), config.clone() + "\n").unwrap();
    refused("tiny: the model is not the one that the comparison began with");
    fs::write(path("tiny/config.json"), config).unwrap();
    compare(folder.path(), &[]).succeeded();
    assert_eq!(read_json(&path("grid/comparison.json"))["methods"][0]["seeds"], json!([0, 1]));
}

#[test]
fn a_cell_that_made_another_number_of_updates_is_told_of_in_words() {
    let folder = tempdir().unwrap();
    with_own_model(folder.path(), ONE_METHOD);
    compare(folder.path(), &[]).succeeded();
    let grid = folder.path().join("grid");
    // Killed before the cell was marked, and begun by a version that kept no fingerprints.
    fs::remove_file(cell(&grid, "gsil", 0).join("finished.json")).unwrap();
    fs::remove_file(grid.join("fingerprints.json")).unwrap();
    write_rows(&folder.path().join("rows.jsonl"), 32);
    let stderr = compare(folder.path(), &[]).failed(3);
    assert!(stderr.contains("its run made 15 updates, and 16 are planned"), "{stderr}");
    assert!(
        stderr.contains("hint: put back the rows") && stderr.contains("or remove grid/cells/gsil/seed-0"),
        "{stderr}"
    );
    fs::remove_dir_all(cell(&grid, "gsil", 0)).unwrap();
    compare(folder.path(), &[]).succeeded();
}

#[test]
fn a_comparison_that_was_moved_with_its_model_and_rows_goes_on() {
    let folder = tempdir().unwrap();
    let [old, new, third] = ["old", "new", "third"].map(|name| folder.path().join(name));
    with_own_model(&old, ONE_METHOD);
    compare(&old, &[]).succeeded();
    unfinish(&cell(&old.join("grid"), "gsil", 0), LAST_CHECKPOINT);
    fs::rename(&old, &new).unwrap();
    add_a_seed(&new);
    let stderr = compare(&new, &[]).succeeded().stderr;
    assert!(stderr.contains("continuing at iteration 0, update 15"), "{stderr}");
    let rows = format!("{:?}", dunce::canonicalize(new.join("rows.jsonl")).unwrap());
    for file in [new.join("grid/compare.ron"), cell(&new.join("grid"), "gsil", 0).join("config.ron")] {
        assert!(read(&file).contains(&rows), "{}", file.display());
    }
    assert_eq!(read_json(&new.join("grid/comparison.json"))["methods"][0]["seeds"], json!([0, 1]));
    // Where nothing says what model and rows were, their places do.
    fs::remove_file(new.join("grid/fingerprints.json")).unwrap();
    fs::rename(&new, &third).unwrap();
    let stderr = compare(&third, &[]).failed(2);
    assert!(stderr.contains("base.model: ") && stderr.contains("base.data: "), "{stderr}");
}

#[test]
fn a_finished_comparison_is_summed_up_again_though_its_held_out_rows_are_gone() {
    let folder = tempdir().unwrap();
    with_own_model(folder.path(), ONE_METHOD);
    compare(folder.path(), &[]).succeeded();
    fs::remove_file(folder.path().join("held_out.jsonl")).unwrap();
    let again = ["compare", "grid/compare.ron", "--output", "grid"];
    for options in [&["--dry-run"][..], &[]] {
        gsil(folder.path(), &[&again[..], options].concat()).succeeded();
    }
}

#[test]
fn what_alone_was_moved_is_missed_and_found_as_the_hint_says() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    with_own_model(folder.path(), ONE_METHOD);
    compare(folder.path(), &[]).succeeded();
    unfinish(&cell(&path("grid"), "gsil", 0), LAST_CHECKPOINT);
    add_a_seed(folder.path());
    let compare =
        |settings: &[String]| compare(folder.path(), &settings.iter().map(String::as_str).collect::<Vec<_>>());
    let mut moved = Vec::new();
    for (key, name) in [("model", "tiny"), ("data", "rows.jsonl"), ("evaluation.data", "held_out.jsonl")] {
        let absolute = text(dunce::canonicalize(path(name)).unwrap());
        fs::rename(path(name), path(&format!("moved-{name}"))).unwrap();
        for more in [None, Some(format!("{key}={absolute}"))] {
            let stderr = compare(&moved.iter().cloned().chain(more).collect::<Vec<_>>()).failed(3);
            let expected = format!("{name}: is not there any more; the comparison began with it as `{key}`");
            assert!(stderr.contains(&expected) && stderr.contains(&format!("with {key}=NEW_PLACE")), "{stderr}");
        }
        moved.push(format!("{key}=moved-{name}"));
    }
    let stderr = compare(&moved).succeeded().stderr;
    assert!(stderr.contains("continuing at iteration 0, update 15"), "{stderr}");
    assert_eq!(read_json(&path("grid/comparison.json"))["methods"][0]["seeds"], json!([0, 1]));
}

#[test]
fn a_method_that_failed_may_be_changed_or_taken_out() {
    const WILD: &str = r#"set: ["train.lr=1e9", "train.optimizer=sgd", "train.max_grad_norm=0"]"#;
    let folder = tempdir().unwrap();
    let (wild, worse) = (format!(r#"(name: "wild", {WILD})"#), format!(r#"(name: "worse", {WILD})"#));
    with_own_model(folder.path(), &format!(r#"[(name: "sft", set: ["objective.name=sft"]), {wild}, {worse}]"#));
    let first = compare(folder.path(), &[]);
    assert_eq!(first.code, Some(5), "{}", first.stderr);
    assert!(first.stderr.contains("2 of 3 cells failed: wild, seed 0; worse, seed 0"), "{}", first.stderr);
    let text = read(&folder.path().join("grid.ron"));
    let tamed = text.replace(&format!(", {worse}"), "").replace("train.lr=1e9", "train.lr=1e-3");
    let state_of = |method: &str| {
        let listed = compare(folder.path(), &["--dry-run"]).succeeded().stdout;
        let line = listed.lines().find(|line| line.contains(&format!("cells/{method}/"))).unwrap();
        ["done", "failed", "to do"].into_iter().find(|state| line.contains(state)).unwrap()
    };
    assert_eq!((state_of("sft"), state_of("wild")), ("done", "failed"));
    fs::write(folder.path().join("grid.ron"), &tamed).unwrap();
    let grid = folder.path().join("grid");
    assert_eq!((state_of("sft"), state_of("wild")), ("done", "to do"));
    assert!(cell(&grid, "wild", 0).join("failed.json").exists(), "a list removes nothing");
    let stderr = compare(folder.path(), &[]).succeeded().stderr;
    for method in ["wild", "worse"] {
        assert!(stderr.contains(&format!("removed    cells/{method}/seed-0")), "{stderr}");
    }
    assert!(!cell(&grid, "worse", 0).exists() && !cell(&grid, "wild", 0).join("failed.json").exists());
    let comparison = read_json(&grid.join("comparison.json"));
    assert_eq!(comparison["methods"][1]["seeds"], json!([0]), "{comparison}");
    // Now it has a cell that did not fail.
    fs::write(folder.path().join("grid.ron"), tamed.replace("train.lr=1e-3", "train.lr=2e-3")).unwrap();
    let stderr = compare(folder.path(), &[]).failed(2);
    assert!(stderr.contains("method `wild`: "), "{stderr}");
}

#[test]
fn a_finished_cell_is_no_failed_one_though_an_earlier_failure_still_lies_there() {
    let folder = tempdir().unwrap();
    with_own_model(folder.path(), ONE_METHOD);
    compare(folder.path(), &[]).succeeded();
    let grid = folder.path().join("grid");
    fs::write(cell(&grid, "gsil", 0).join("failed.json"), json!({"message": "diverged"}).to_string()).unwrap();
    compare(folder.path(), &[]).succeeded();
    let table = read(&grid.join("comparison.md"));
    assert!(table.contains("| gsil ") && !table.contains("Failed: "), "{table}");
    assert!(!read(&grid.join("comparison.html")).contains("diverged"));
    assert_eq!(read_json(&grid.join("comparison.json"))["cells"][0]["failed"], json!(null));
}
