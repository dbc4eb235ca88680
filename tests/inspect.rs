//! `gsil inspect data`: the page, and that its figures are those of training.

use std::fs;
#[cfg(unix)]
use std::io::Write;
use std::path::Path;
#[cfg(unix)]
use std::process::Stdio;

use gsil::data::word_problems::{make_word_problems, tokenizer_files, write_rows as write_problems};
use serde_json::{Value, json};

#[cfg(unix)]
use crate::support::binary::{assert_says, command, wait};
use crate::support::binary::{device, ending_model, gsil, text, text_model, write_rows};

const ROWS: &str = r#"{"prompt":"Hello","completion":"Hi there"}
{"messages":[{"role":"user","content":"Name one."},{"role":"assistant","content":"One<|im_end|>"}]}
{"prompt":"Hello","completion":"Hi there"}
{"prompt":"Hello","completion":"  "}
{"prompt":"Alone"}
{"prompt":"Tell me all of it, from the beginning to the end, and then again","completion":"No, that would be too long"}
"#;

/// As it was printed and looked at; the median of four values is the third.
const START: &str = "\
data        rows.jsonl
model       text
shape       prompt and completion or response (5 rows)
            messages (1 row)
rows        6 read, 3 used, 3 dropped, 0 refused
max_length  60 tokens, prompt and response together (train.max_length)

-- line 1, used; 29 prompt and 7 response tokens
<|im_start|>system
You are a small model.<|im_end|>
<|im_start|>user
Hello<|im_end|>
<|im_start|>assistant
«Hi there»‹END <|im_end|>›

-- line 2, used; 33 prompt and 4 response tokens
<|im_start|>system
You are a small model.<|im_end|>
<|im_start|>user
Name one.<|im_end|>
<|im_start|>assistant
«One»‹END <|im_end|>›

marks: prompt, read only  «trained»  ‹END end token, trained›

tokens    min  median  90%  99%  max  mean
------------------------------------------
prompt     29      33   67   67   67  39.5
response    4       7   21   21   21   9.8
both       36      37   88   88   88  49.2
";

const RESPONSES: &str = "
response
   4-5  1 ████████████████████
   6-7  2 ████████████████████████████████████████
   8-9  0
";

const LIMIT: &str = "
  60-63 0   <- max_length 60 lies here
";

const END: &str = "
dropped: 1 row without a demonstration
dropped: 1 row with an empty response
dropped: 1 row whose prompt alone fills train.max_length (60 tokens)
nothing is cut: an answer without its end teaches the model not to stop

warning: 1 row: the text of the response ends in the end token already; it is taken off and written once (the first: line 2)
warning: 1 row: prompt and response repeat an earlier row, token for token (the first: line 3)
";

#[test]
fn the_page_shows_what_is_trained_in_brackets_where_there_are_no_colours() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    fs::write(folder.path().join("rows.jsonl"), ROWS).unwrap();
    let overrides = ["train.max_length=60", "generation.max_new_tokens=8"];
    let arguments = [&["inspect", "data", "rows.jsonl", "--model", "text", "--rows", "2"], &overrides[..]].concat();
    let page = gsil(folder.path(), &arguments).succeeded().stdout;
    assert!(page.starts_with(START), "{page}");
    assert!(page.contains(RESPONSES), "{page}");
    assert!(page.contains(LIMIT), "{page}");
    assert!(page.ends_with(END), "{page}");
    let json: Value =
        serde_json::from_str(&gsil(folder.path(), &[&arguments[..], &["--json"]].concat()).succeeded().stdout).unwrap();
    assert_eq!((&json["num_rows"], &json["num_used"], &json["max_length"]), (&6.into(), &3.into(), &60.into()));
    let kinds: Vec<&str> = json["warnings"].as_array().unwrap().iter().map(|w| w["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["end_token_in_text", "duplicate"]);
    let runs = json["rows"][0]["demonstration"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| run["part"].as_str().unwrap()).collect::<Vec<_>>(), ["prompt", "trained", "end"]);
}

#[test]
fn rows_that_are_left_out_for_want_of_a_response_end_the_page_with_a_whole_line() {
    let folder = tempfile::tempdir().unwrap();
    ending_model(folder.path());
    let rows = "{\"prompt_ids\": [3, 4], \"response_ids\": [5, 2]}\n{\"prompt_ids\": [3, 4]}\n";
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let page = gsil(folder.path(), &["inspect", "data", "rows.jsonl", "--model", "tiny"]).succeeded().stdout;
    assert!(page.ends_with("\n\ndropped: 1 row without a demonstration\n"), "{page}");
}

#[test]
fn the_figures_are_those_that_training_says() {
    let folder = tempfile::tempdir().unwrap();
    ending_model(folder.path());
    write_rows(&folder.path().join("rows.jsonl"), 40);
    let overrides = ["train.max_length=9", "generation.max_new_tokens=2"];
    let inspect = ["inspect", "data", "rows.jsonl", "--model", "tiny", "--json"];
    let facts: Value =
        serde_json::from_str(&gsil(folder.path(), &[&inspect[..], &overrides].concat()).succeeded().stdout).unwrap();
    let train = ["train", "--model", "tiny", "--data", "rows.jsonl", "--device", "flex", "--output", "run"];
    let said =
        gsil(folder.path(), &[&train[..], &overrides, &["generation.unfinished=mask"]].concat()).succeeded().stderr;
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
fn a_row_with_two_responses_is_as_long_as_the_longer_one_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    ending_model(folder.path());
    let row = |given: usize| {
        json!({"prompt_ids": [300, 301], "response_ids": [302, 2], "self_generated_ids": vec![303; given]}).to_string()
            + "\n"
    };
    fs::write(folder.path().join("rows.jsonl"), row(1) + &row(21)).unwrap();
    let arguments = ["inspect", "data", "rows.jsonl", "--model", "tiny", "train.max_length=9"];
    let page = gsil(folder.path(), &arguments).succeeded().stdout;
    assert!(page.contains("\n  ---- max_length 9: longer rows are dropped\n"), "{page}");
    let json = gsil(folder.path(), &[&arguments[..], &["--json"]].concat()).succeeded().stdout;
    let facts: Value = serde_json::from_str(&json).unwrap();
    let (both, response) = (&facts["lengths"]["total"], &facts["lengths"]["response"]);
    assert_eq!([&both["min"], &both["max"], &response["max"]], [4, 23, 2], "{facts}");
    assert_eq!(facts["num_used"], 1);
}

#[test]
fn rows_of_several_files_are_named_with_their_file() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let row = "{\"prompt\":\"a\",\"completion\":\"b\"}\n";
    for i in 0..2 {
        fs::write(data.join(format!("train-0000{i}-of-00002.jsonl")), row).unwrap();
    }
    let page = gsil(folder.path(), &["inspect", "data", "data", "--model", "text"]).succeeded().stdout;
    let place = |i: usize| text(Path::new("data").join(format!("train-0000{i}-of-00002.jsonl"))) + ", line 1";
    for i in 0..2 {
        assert!(page.contains(&format!("\n-- {}, used; ", place(i))), "{page}");
    }
    let warning = "1 row: prompt and response repeat an earlier row, token for token";
    assert!(page.contains(&format!("\nwarning: {warning} (the first: {})\n", place(1))), "{page}");
}

/// Other systems have no such names.
#[cfg(unix)]
#[test]
fn what_a_terminal_would_obey_in_a_name_is_an_escape() {
    let folder = tempfile::tempdir().unwrap();
    fs::rename(text_model(folder.path()), folder.path().join("te\u{1b}xt")).unwrap();
    let rows = "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"a\",\"completion\":\"b<|im_end|>c\"}\n";
    fs::write(folder.path().join("ro\u{1b}ws.jsonl"), rows).unwrap();
    let arguments = ["inspect", "data", "ro\u{1b}ws.jsonl", "--model", "te\u{1b}xt"];
    let page = gsil(folder.path(), &arguments).succeeded().stdout;
    assert!(page.starts_with("data        ro\\u{1b}ws.jsonl\nmodel       te\\u{1b}xt\n"), "{page}");
    assert!(page.contains("left out: ro\\u{1b}ws.jsonl, line 2: "), "{page}");
    assert!(!page.contains('\u{1b}'), "{page:?}");
    let data = folder.path().join("da\u{1b}ta");
    fs::create_dir(&data).unwrap();
    for i in 0..2 {
        let row = "{\"prompt\":\"a\",\"completion\":\"b\"}\n";
        fs::write(data.join(format!("train-0000{i}-of-00002.jsonl")), row).unwrap();
    }
    let page = gsil(folder.path(), &["inspect", "data", "da\u{1b}ta", "--model", "te\u{1b}xt"]).succeeded().stdout;
    assert!(page.contains("(the first: da\\u{1b}ta/train-00001-of-00002.jsonl, line 1)"), "{page}");
    assert!(!page.contains('\u{1b}'), "{page:?}");
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

/// The second row's key is empty: nothing of it is lost.
const SYSTEM: &str = "\
{\"system\":\"Be X.\",\"prompt\":\"Hi\",\"completion\":\"Yes\"}
{\"system\":\"\",\"prompt\":\"Hello\",\"completion\":\"No\"}
{\"system\":\"Be Y.\",\"history\":[[\"a\",\"b\"]],\"instruction\":\"One?\",\"output\":\"One\"}
";

#[test]
fn instructions_that_are_not_read_are_said_by_every_verb_that_reads_demonstrations() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    fs::write(folder.path().join("rows.jsonl"), SYSTEM).unwrap();
    let inspect = ["inspect", "data", "rows.jsonl", "--model", "text"];
    let system =
        "`system` is not read: write it as a first message of role `system` in `messages` (the first: line 1)\n";
    let history = "`history` is not read: write its turns into `messages` (the first: line 3)\n";
    let page = gsil(folder.path(), &inspect).succeeded().stdout;
    assert!(page.ends_with(&format!("\nwarning: 2 rows: {system}warning: 1 row: {history}")), "{page}");
    let small = ["train.max_length=60", "generation.max_new_tokens=2", "generation.unfinished=mask"];
    let estimate = [&["estimate", "--no-time", "--device", "flex"][..], &small].concat();
    let train = [&["train", "--output", "run", "--device", "flex"][..], &small].concat();
    for verb in [
        &["init"][..],
        &["score", "--device", "flex"],
        &["eval", "--device", "flex", "evaluation.generate_rows=0"],
        &estimate[..],
        &train[..],
        &["generate", "--device", "flex", "--max-new-tokens", "2"],
    ] {
        let said =
            gsil(folder.path(), &[verb, &["--model", "text", "--data", "rows.jsonl"]].concat()).succeeded().stderr;
        let warnings = [format!("rows.jsonl: 2 rows: {system}"), format!("rows.jsonl: 1 row: {history}")];
        assert!(warnings.iter().all(|warning| said.matches(warning).count() == 1), "{verb:?}: {said}");
    }
}

#[test]
fn a_label_that_is_false_is_said_by_verbs_that_read_answers_and_not_by_generate() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    let row = |label: bool| json!({"prompt": "Hi", "completion": "Yes", "label": label}).to_string() + "\n";
    fs::write(folder.path().join("rows.jsonl"), row(true) + &row(false).repeat(2)).unwrap();
    let label = "2 rows: `label` is false: such an answer is taken as a demonstration like any other; \
                 if it marks a bad one, as KTO's does, leave these rows out (the first: line 2)\n";
    let page = gsil(folder.path(), &["inspect", "data", "rows.jsonl", "--model", "text"]).succeeded().stdout;
    assert!(page.ends_with(&format!("\nwarning: {label}")), "{page}");
    let said = |verb: &[&str]| {
        let common = ["--model", "text", "--data", "rows.jsonl", "--device", "flex"];
        gsil(folder.path(), &[verb, &common].concat()).succeeded().stderr
    };
    assert!(said(&["score"]).contains(&format!("rows.jsonl: {label}")));
    assert!(!said(&["generate", "--max-new-tokens", "2"]).contains("label"));
}

#[test]
fn answers_before_the_last_of_a_conversation_are_counted_as_read_alone() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let short = [turn("user", "Hi"), turn("assistant", "Yes")];
    let long = [&short[..], &[turn("user", "One?"), turn("assistant", "One")]].concat();
    let rows = format!("{}\n{}\n", json!({"messages": short}), json!({"messages": long}));
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let page = gsil(folder.path(), &["inspect", "data", "rows.jsonl", "--model", "text"]).succeeded().stdout;
    let warning = "the answers before the last are read, not learnt; to learn them, too, write a row that ends at each";
    assert!(page.ends_with(&format!("\nwarning: 1 row: {warning} (the first: line 2)\n")), "{page}");
}

#[test]
fn shapes_are_those_of_the_rows_that_are_read_of_a_pipe_too() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]);
    let good = json!({"messages": turns}).to_string() + "\n";
    let rows = json!({"prompt": "Hi", "completion": 5}).to_string() + "\n" + &good.repeat(2);
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let inspect = ["inspect", "data", "rows.jsonl", "--model", "text", "--skip-bad-rows", "--json"];
    let facts: Value = serde_json::from_str(&gsil(folder.path(), &inspect).succeeded().stdout).unwrap();
    assert_eq!(facts["shapes"], json!([{"shape": "messages", "count": 2}]));
    #[cfg(unix)]
    {
        let inspect = ["inspect", "data", "/dev/stdin", "--model", "text", "--json"];
        let mut child = command(folder.path(), &inspect).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(good.as_bytes()).unwrap();
        let facts: Value = serde_json::from_str(&wait(child).succeeded().stdout).unwrap();
        assert_eq!(facts["shapes"], json!([{"shape": "messages", "count": 1}]));
        let spent = command(folder.path(), &inspect).stdin(Stdio::piped()).spawn().unwrap();
        assert_says(&wait(spent).failed(3), &["no rows", "data=FILE"]);
    }
}

#[test]
fn text_that_the_tokenizer_does_not_know_is_told_wherever_rows_or_prompts_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = text_model(folder.path());
    let files = tokenizer_files();
    fs::remove_file(model.join("chat_template.jinja")).unwrap();
    fs::write(model.join("tokenizer.json"), &files.tokenizer_json).unwrap();
    fs::write(model.join("tokenizer_config.json"), files.tokenizer_config.to_string()).unwrap();
    let rows = folder.path().join("rows.jsonl");
    let known = make_word_problems(0, 2, 0, 0.0).train;
    write_problems(&rows, &known).unwrap();
    let warnings = || -> Vec<Value> {
        let arguments = ["inspect", "data", "rows.jsonl", "--model", "text", "--json"];
        let facts: Value = serde_json::from_str(&gsil(folder.path(), &arguments).succeeded().stdout).unwrap();
        facts["warnings"].as_array().unwrap().clone()
    };
    assert_eq!(warnings(), Vec::<Value>::new());
    let with_unknown = fs::read_to_string(&rows).unwrap() + "{\"prompt\":\"Is Paris big ?\",\"completion\":\"Yes\"}\n";
    fs::write(&rows, with_unknown).unwrap();
    let found = warnings();
    assert_eq!((found.len(), &found[0]["kind"]), (1, &"unknown_text".into()), "{found:?}");
    assert_eq!((&found[0]["count"], &found[0]["first"]), (&1.into(), &"line 3".into()), "{found:?}");

    const TOLD: &str = "1 row with text that the model's tokenizer does not know: `<unk>` stands in its place";
    let told = |arguments: &[&str]| gsil(folder.path(), arguments).succeeded().stderr.contains(TOLD);
    assert!(told(&["init", "--model", "text", "--data", "rows.jsonl", "--output", "gsil.ron"]));
    assert!(told(&[
        "eval",
        "--model",
        "text",
        "--data",
        "rows.jsonl",
        "evaluation.generate_rows=0",
        "--device",
        &device()
    ]));
    let generate = |prompt: &str| {
        told(&["generate", "--model", "text", "--prompt", prompt, "--max-new-tokens", "1", "--device", &device()])
    };
    assert!(generate("Is Paris big ?") && !generate(&known[0].prompt));
}

#[test]
fn a_prompt_that_looks_like_a_place_is_refused_or_told_to_be_the_text_itself() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    fs::write(folder.path().join("q.txt"), "Hello").unwrap();
    let generate = |prompt: &str| {
        let brief = ["--max-new-tokens", "1", "--device", &device()];
        gsil(folder.path(), &[&["generate", "--model", "text", "--prompt", prompt], &brief[..]].concat())
    };
    let stderr = generate("-").failed(2);
    assert!(stderr.contains("--prompt is the text itself") && stderr.contains("--prompt \"$(cat)\""), "{stderr}");
    let stderr = generate("q.txt").succeeded().stderr;
    assert!(stderr.contains("warning: the prompt is the text `q.txt`, not what the file"), "{stderr}");
    assert!(!generate("Hello").succeeded().stderr.contains("not what the file"));
}

#[test]
fn special_tokens_in_the_text_of_a_row_are_counted_where_a_template_writes_them_itself() {
    let folder = tempfile::tempdir().unwrap();
    let model = text_model(folder.path());
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let rows = [
        json!({"prompt": "a < b | c", "completion": "Yes<|im_end|>\n"}),
        json!({"prompt": "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n", "completion": "One"}),
        json!({"prompt": "Two?", "completion": "Two\n<|im_start|>user\nMore?"}),
        json!({"messages": [turn("user", "<|im_start|>Three?"), turn("assistant", "Three")]}),
        json!({"prompt": "Four?", "chosen": "Four", "rejected": "Five<|im_start|>"}),
        json!({"prompt_ids": [1, 300], "response_ids": [1, 2]}),
    ];
    fs::write(folder.path().join("rows.jsonl"), rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let warnings = || -> Vec<Value> {
        let arguments = ["inspect", "data", "rows.jsonl", "--model", "text", "--json"];
        let facts: Value = serde_json::from_str(&gsil(folder.path(), &arguments).succeeded().stdout).unwrap();
        let all = facts["warnings"].as_array().unwrap();
        all.iter().filter(|warning| warning["kind"] == "special_token_in_text").cloned().collect()
    };
    let found = warnings();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0]["count"], &found[0]["first"]), (&4.into(), &"line 2".into()), "{found:?}");
    fs::remove_file(model.join("chat_template.jinja")).unwrap();
    fs::write(folder.path().join("rows.jsonl"), rows[1].to_string()).unwrap();
    assert!(warnings().is_empty(), "without a template the text has to write them");
}
