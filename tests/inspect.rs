//! `gsil inspect data`: the page, and that its figures are those of training.

use std::fs;

use serde_json::Value;

use crate::support::binary::{ending_model, gsil, text_model, write_rows};

const ROWS: &str = r#"{"prompt":"Hello","completion":"Hi there"}
{"messages":[{"role":"user","content":"Name one."},{"role":"assistant","content":"One<|im_end|>"}]}
{"prompt":"Hello","completion":"Hi there"}
{"prompt":"Hello","completion":"  "}
{"prompt":"Alone"}
{"prompt":"Tell me all of it, from the beginning to the end, and then again","completion":"No, that would be too long"}
"#;

#[test]
fn the_page_shows_what_is_trained_in_brackets_where_there_are_no_colours() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    fs::write(folder.path().join("rows.jsonl"), ROWS).unwrap();
    let arguments = [
        "inspect",
        "data",
        "rows.jsonl",
        "--model",
        "text",
        "train.max_length=60",
        "generation.max_new_tokens=8",
        "--rows",
        "2",
    ];
    let page = gsil(folder.path(), &arguments).succeeded().stdout;
    eprintln!("{page}");
    assert!(!page.contains('\u{1b}'), "no colours in a file");
    assert!(
        page.contains("shape       prompt and completion or response (5 rows)\n            messages (1 rows)"),
        "{page}"
    );
    assert!(page.contains("<|im_start|>assistant\n«Hi there»‹END <|im_end|>›\n"), "{page}");
    assert!(page.contains("«One»‹END <|im_end|>›\n"), "the end token is there once: {page}");
    for line in [
        "rows        6 read, 3 used, 3 dropped, 0 refused",
        "max_length  60 tokens, prompt and response together (train.max_length)",
        "dropped: 1 row without a demonstration",
        "dropped: 1 row with an empty response",
        "warning: 1 row repeat an earlier prompt and response, token for token (the first: line 3)",
        "warning: 1 row have a response whose text ends in the end token already",
        "marks: prompt, read only  «trained»  ‹END end token, trained›",
    ] {
        assert!(page.contains(line), "{line} is missing:\n{page}");
    }
    assert!(page.contains("max_length 60"), "the histogram names the limit:\n{page}");
}

#[test]
fn the_figures_are_those_that_training_says() {
    let folder = tempfile::tempdir().unwrap();
    ending_model(folder.path());
    write_rows(&folder.path().join("rows.jsonl"), 40);
    let overrides = ["train.max_length=9", "generation.max_new_tokens=2", "generation.unfinished=mask"];
    let inspect = ["inspect", "data", "rows.jsonl", "--model", "tiny", "--json"];
    let facts: Value =
        serde_json::from_str(&gsil(folder.path(), &[&inspect[..], &overrides].concat()).succeeded().stdout).unwrap();
    let train = ["train", "--model", "tiny", "--data", "rows.jsonl", "--device", "flex", "--output", "run"];
    let said = gsil(folder.path(), &[&train[..], &overrides].concat()).succeeded().stderr;
    let used = facts["num_used"].as_u64().unwrap();
    assert!(said.contains(&format!("data       {used} demonstrations, ")), "{used}: {said}");
    let dropped: Vec<String> = facts["dropped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|dropped| format!("{} {}", dropped["count"], dropped["reason"].as_str().unwrap()))
        .collect();
    let num_dropped = 40 - used;
    assert!(num_dropped > 0 && used > 0, "{facts}");
    assert!(said.contains(&format!("{num_dropped} rows dropped: {}", dropped.join(", "))), "{dropped:?}: {said}");
    let histogram = facts["lengths"]["total"]["histogram"].as_array().unwrap();
    assert_eq!(histogram.iter().map(|bin| bin["count"].as_u64().unwrap()).sum::<u64>(), 40);
    assert_eq!(facts["rows"].as_array().unwrap().len(), 3);
    assert_eq!(facts["rows"][0]["demonstration"][0]["part"], "prompt");
}

#[test]
fn a_row_that_the_tokenizer_refuses_is_named_as_training_names_it() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    let rows = "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"a\",\"completion\":\"b<|im_end|>c\"}\n";
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let page = gsil(folder.path(), &["inspect", "data", "rows.jsonl", "--model", "text"]).succeeded().stdout;
    assert!(page.contains("refused: 1 row; training ends at the first: rows.jsonl, line 2: "), "{page}");
    let stderr =
        gsil(folder.path(), &["score", "--data", "rows.jsonl", "--model", "text", "--device", "flex"]).failed(3);
    assert!(stderr.contains("rows.jsonl, line 2: "), "{stderr}");
}
