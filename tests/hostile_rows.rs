//! Data files with bad lines: the first one stops the reading with its line, or all are counted.

use gsil::data::rows::{read_good_rows, read_rows};

use crate::support::binary::{Random, ending_model, gsil};
use crate::support::doors;
use crate::support::mutations::{damaged_json, damaged_text};

/// One line of every shape.
const GOOD: [&str; 8] = [
    r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
    r#"{"prompt":"a","chosen":[{"role":"assistant","content":"b"}],"rejected":"c"}"#,
    r#"{"prompt_ids":[1,2],"demonstration_ids":[3],"self_generated_ids":[4]}"#,
    r#"{"instruction":"a","instances":[{"input":"b","output":"\u00e9"}]}"#,
    r#"{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#,
    r#"{"question":"a","answer":"b"}"#,
    r#"{"prompt":[{"role":"system","content":"s"},{"role":"user","content":"a"}],"completion":"b"}"#,
    r#"{"prompt":"a","response":"b"}"#,
];

const LIST: &str = r#"[{"prompt":"a","completion":"b"}, {"messages":[{"role":"user","content":"a"}]},
 {"prompt_ids":[1,2],"response_ids":[3]}]"#;

/// Promise R15: one line of eight is damaged. If it is bad, it is the one that is named, and the other seven are read
/// where bad lines are skipped.
#[test]
fn five_thousand_damaged_lines_are_rows_or_are_named() {
    let mut random = Random(15);
    let (mut num_read, mut num_refused) = (0, 0);
    for round in 0..5_000 {
        let at = random.below(GOOD.len());
        let damaged = match round % 2 {
            0 => damaged_text(&mut random, GOOD[at]),
            _ => damaged_json(&mut random, &serde_json::from_str(GOOD[at]).unwrap()).to_string().into_bytes(),
        };
        let mut lines: Vec<&[u8]> = GOOD.iter().map(|line| line.as_bytes()).collect();
        lines[at] = &damaged;
        match doors::rows(&lines.join(&b'\n')) {
            Ok(()) => num_read += 1,
            Err(error) => {
                doors::assert_input_error(&error, &format!("rows.jsonl, line {}", at + 1));
                num_refused += 1;
            }
        }
    }
    assert!(num_read > 500 && num_refused > 2_500, "{num_read} read, {num_refused} refused");
}

#[test]
fn two_thousand_damaged_json_lists_are_read_or_refused() {
    doors::json_list(LIST.as_bytes()).unwrap();
    let mut random = Random(32);
    let mut num_refused = 0;
    for _ in 0..2_000 {
        if let Err(error) = doors::json_list(&damaged_text(&mut random, LIST)) {
            doors::assert_input_error(&error, "rows.json");
            num_refused += 1;
        }
    }
    assert!((1_000..2_000).contains(&num_refused), "{num_refused} refused");
}

/// The message behind the file's name, for the second of three lines.
fn message(line: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let good = b"{\"prompt\":\"a\"}";
    std::fs::write(&path, [&good[..], line, good].join(&b'\n')).unwrap();
    let error = read_rows(&path, None, None).unwrap_err();
    let (rows, skipped) = read_good_rows(&path, None, None).unwrap();
    assert_eq!((rows.len(), skipped.unwrap().count), (2, 1), "the good lines are read all the same");
    error.to_string().split_once("rows.jsonl, ").unwrap().1.to_owned()
}

/// More kinds of bad lines stand beside the code, in `data/rows.rs`.
#[test]
fn crafted_lines_are_named_with_their_field() {
    let turns = |role: &str| format!(r#"{{"messages":[{{"role":"{role}","content":"a"}}]}}"#);
    let cases: [(&[u8], &str); 22] = [
        (b"\xEF\xBB\xBF{\"prompt\":\"a\"}", "line 2, column 1: invalid JSON: expected value"), // only a file begins so
        (b"{\"prompt\":\"a\"}\r{\"prompt\":\"b\"}", "line 2, column 16: invalid JSON: trailing characters"),
        (b"\0\0\0\0", "line 2, column 1: invalid JSON: expected value"),
        (b"{\"prompt\":\"\xC0\x80\"}", "line 2, column 12: not UTF-8"), // an overlong NUL
        (b"{\"prompt\":\"\xED\xA0\x80\"}", "line 2, column 12: not UTF-8"), // half of a surrogate pair
        (br#"{"prompt":"\ud800"}"#, "line 2, column 18: invalid JSON: unexpected end of hex escape"),
        (br#"{'prompt':'a'}"#, "line 2, column 2: invalid JSON: key must be a string"),
        (br#"{"prompt":"a",}"#, "line 2, column 15: invalid JSON: trailing comma"),
        (br#"{"prompt":NaN}"#, "line 2, column 11: invalid JSON: expected value"),
        (br#"{"prompt":1e999}"#, "line 2, column 15: invalid JSON: number out of range"),
        (br#""prompt""#, "line 2: a row must be a JSON object, not text"),
        (b"null", "line 2: a row must be a JSON object, not null"),
        (br#"{"a":{"b":1,"b":2},"prompt":"a"}"#, "line 2, column 15: invalid JSON: the key `b` appears twice"),
        (br#"{"prompt":"a","completion":"b","response":"c"}"#, "line 2: both `completion` and `response` are given"),
        (br#"{"prompt_ids":"1 2"}"#, "line 2, `prompt_ids`: expected a list of token ids, got text"),
        (br#"{"prompt_ids":[1.5]}"#, "line 2, `prompt_ids[0]`: a token id is a whole number from 0 to 4294967295"),
        (br#"{"prompt_ids":[1],"response_ids":[2],"demonstration_ids":[3]}"#, "line 2: both `response_ids` and"),
        (br#"{"prompt":"a","chosen":{}}"#, "line 2, `chosen`: expected a list of messages, got an object"),
        (br#"{"prompt":"a","chosen":[]}"#, "line 2, `chosen`: the list of messages is empty"),
        (br#"{"instruction":"a","instances":[1,2]}"#, "line 2, `instances`: expected exactly one object"),
        (br#"{"instruction":["a"],"output":"b"}"#, "line 2, `instruction`: expected text, got a list"),
        (br#"{"question":"a","answer":["b"]}"#, "line 2, `answer`: expected text, got a list"),
    ];
    for (line, expected) in cases {
        let found = message(line);
        assert!(found.starts_with(expected), "expected {expected:?} for {}: {found}", String::from_utf8_lossy(line));
    }
    for role in ["User", "USER", "", "user ", "bot", "\\u001b[2J"] {
        let found = message(turns(role).as_bytes());
        assert!(found.starts_with("line 2, `messages[0].role`: unknown role"), "{found}");
        assert!(!found.contains('\u{1b}'), "{found:?}");
    }
    for nesting in ["[", "{\"a\":", "{\"messages\":[", "[{\"prompt\":"] {
        let found = message(nesting.repeat(200_000).as_bytes());
        assert!(found.contains("recursion limit exceeded"), "{found:.200}");
    }
}

#[test]
fn a_bad_line_ends_every_command_unless_bad_rows_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    ending_model(folder.path());
    let row = r#"{"prompt_ids":[3,4],"response_ids":[5,6,2]}"#;
    std::fs::write(folder.path().join("rows.jsonl"), format!("{row}\n{{\n{row}\n[1]\n")).unwrap();
    let common = ["--model", "tiny", "--data", "rows.jsonl", "--device", "flex"];
    let train = ["train", "--output", "run", "generation.max_new_tokens=2", "generation.unfinished=mask"];
    let verbs: [&[&str]; 4] = [&["score"], &["eval"], &["generate", "--max-new-tokens", "2"], &train];
    for verb in verbs {
        let arguments = [verb, &common].concat();
        let stderr = gsil(folder.path(), &arguments).failed(3);
        assert!(stderr.contains("rows.jsonl, line 2, column 1: invalid JSON: EOF"), "{stderr}");
        assert!(stderr.contains("hint: ") && stderr.contains("--skip-bad-rows"), "{stderr}");
        let stderr = gsil(folder.path(), &[&arguments[..], &["--skip-bad-rows"]].concat()).succeeded().stderr;
        assert!(stderr.contains("warning: 2 bad lines skipped; the first: "), "{stderr}");
    }
    for verb in ["score", "eval"] {
        let outcome = gsil(folder.path(), &[&[verb][..], &common, &["skip_bad_rows=true"]].concat()).succeeded();
        assert!(outcome.stderr.contains("2 bad lines skipped"), "{}", outcome.stderr);
    }
    let written = std::fs::read_to_string(folder.path().join("run/config.ron")).unwrap();
    assert!(written.contains("skip_bad_rows: true"), "a resumed run reads the same rows: {written}");
}
