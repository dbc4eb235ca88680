//! Demonstrations as tables, in folders, in columns of any name.

use std::fs;
use std::path::Path;

use gsil::data::data_folder::{Split, files_of};
#[cfg(feature = "tables")]
use gsil::data::fields::read_field_rows;
use gsil::data::rows::{Columns, Prompt, Response, read_rows};
#[cfg(feature = "tables")]
use serde_json::json;

use crate::support::binary::{ending_model, gsil, read, read_json_lines, text, text_model, write_rows};
#[cfg(feature = "tables")]
use crate::support::fixture;

#[cfg(feature = "tables")]
fn rows_of(path: &Path) -> Vec<(Prompt, Option<Response>)> {
    read_rows(path, None, None).unwrap().into_iter().map(|row| (row.prompt, row.demonstration)).collect()
}

/// The Parquet file is one by pyarrow (see make.py beside it).
#[cfg(feature = "tables")]
#[test]
fn the_same_rows_as_json_lines_csv_tsv_a_list_and_parquet_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<_> = (1..=6)
        .map(|i| json!({"prompt": format!("What is {i} + {i}?"), "completion": format!("It is {}.", 2 * i)}))
        .collect();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let cells = |separator: &str| -> String {
        let line = |row: &serde_json::Value| {
            format!("{}{separator}{}\n", row["prompt"].as_str().unwrap(), row["completion"].as_str().unwrap())
        };
        format!("prompt{separator}completion\n{}", rows.iter().map(line).collect::<String>())
    };
    let contents = [
        ("rows.jsonl", lines),
        ("rows.json", json!(rows).to_string()),
        ("rows.csv", cells(",")),
        ("rows.tsv", cells("\t")),
    ];
    let expected = rows_of(&fixture("tables/plain.parquet"));
    assert_eq!(expected.len(), 6);
    for (name, content) in contents {
        fs::write(folder.path().join(name), content).unwrap();
        assert_eq!(rows_of(&folder.path().join(name)), expected, "{name}");
    }
}

#[cfg(feature = "tables")]
#[test]
fn lists_of_structures_and_of_numbers_are_read_from_parquet_across_row_groups() {
    let rows = rows_of(&fixture("tables/messages.parquet"));
    assert_eq!(rows.len(), 4);
    let Prompt::Messages(messages) = &rows[3].0 else { panic!("{:?}", rows[3]) };
    assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("user", "Name four."));
    assert_eq!(rows[3].1, Some(Response::Text("FOUR!".into())));
    let ids = rows_of(&fixture("tables/ids.parquet"));
    assert_eq!(ids[1], (Prompt::Ids(vec![5]), Some(Response::Ids(vec![7, 8, 2]))));
}

#[cfg(feature = "tables")]
#[test]
fn an_evaluation_reads_its_fields_from_parquet() {
    let rows = read_field_rows(&[fixture("tables/plain.parquet")], Some(2), &["completion"]).unwrap();
    let texts: Vec<&str> = rows.iter().map(|row| row.text("completion").unwrap()).collect();
    assert_eq!(texts, ["It is 2.", "It is 4."]);
    assert!(rows[0].text("question").unwrap_err().hint().unwrap().starts_with("the row has prompt, completion"));
}

#[cfg(feature = "tables")]
#[test]
fn a_parquet_file_of_another_compression_is_refused_with_the_way_to_convert_it() {
    let error = read_rows(&fixture("tables/gzip.parquet"), None, None).unwrap_err();
    let expected = "gzip.parquet, column `prompt`: compressed with GZIP";
    assert!(error.to_string().contains(expected), "{error}");
    assert!(error.hint().unwrap().contains("pyarrow"), "{:?}", error.hint());
}

#[cfg(not(feature = "tables"))]
#[test]
fn without_the_feature_a_table_is_refused_with_its_name() {
    let error = read_rows(Path::new("rows.csv"), None, None).unwrap_err();
    assert!(error.to_string().contains("feature `tables`"), "{error}");
}

#[test]
fn columns_of_any_name_are_read_and_an_unknown_one_is_corrected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    fs::write(&path, "{\"Frage\":\"a\",\"Antwort\":\"b\",\"prompt\":\"x\"}\n").unwrap();
    let columns =
        |prompt: &str, response: &str| Columns { prompt: prompt.to_owned(), response: Some(response.to_owned()) };
    let rows = read_rows(&path, None, Some(&columns("Frage", "Antwort"))).unwrap();
    assert_eq!(
        (&rows[0].prompt, &rows[0].demonstration),
        (&Prompt::Text("a".into()), &Some(Response::Text("b".into())))
    );
    let error = read_rows(&path, None, Some(&columns("Frage", "antworten"))).unwrap_err();
    let expected = "rows.jsonl, line 1: no column `antworten`: the keys are `Frage`, `Antwort`, `prompt`";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert_eq!(error.hint(), Some("did you mean `Antwort`?"));
}

#[cfg(feature = "tables")]
#[test]
fn a_column_that_a_parquet_file_lacks_is_an_error_that_lists_those_it_has() {
    let columns = Columns { prompt: "id".to_owned(), response: Some("message".to_owned()) };
    let error = read_rows(&fixture("tables/messages.parquet"), None, Some(&columns)).unwrap_err();
    let expected = "messages.parquet, row 1: no column `message`: the keys are `id`, `messages`";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert_eq!(error.hint(), Some("did you mean `messages`?"));
}

#[cfg(feature = "tables")]
#[test]
fn instructions_in_columns_that_are_not_read_are_noted_and_are_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let unread = |path: &Path, columns: Option<&Columns>| -> Vec<Vec<&str>> {
        read_rows(path, None, columns).unwrap().into_iter().map(|row| row.unread).collect()
    };
    let path = folder.path().join("rows.csv");
    let cells = b"system,history,prompt,response\nBe X.,\"[{'role': 'user', 'content': 'a'}]\",Hi,Yes\n,[],Hello,No\n\xff,,One?,One\n";
    fs::write(&path, cells).unwrap();
    let columns = |response: &str| Columns { prompt: "prompt".to_owned(), response: Some(response.to_owned()) };
    for columns in [None, Some(columns("response"))] {
        assert_eq!(unread(&path, columns.as_ref()), [vec!["system", "history"], vec![], vec!["system"]]);
    }
    let path = fixture("tables/beside.parquet");
    for columns in [None, Some(columns("completion"))] {
        assert_eq!(unread(&path, columns.as_ref()), [vec!["system", "history"], vec![], vec![]]);
    }
}

#[cfg(feature = "tables")]
#[test]
fn labels_that_are_false_and_rejected_responses_beside_named_columns_are_noted_in_tables() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    let unread = |columns: Option<&Columns>| -> Vec<Vec<&str>> {
        read_rows(&path, None, columns).unwrap().into_iter().map(|row| row.unread).collect()
    };
    let columns = |response: &str| Columns { prompt: "prompt".to_owned(), response: Some(response.to_owned()) };
    let labels = ["True", "False", "FALSE", "false", "0", "", "falsehood"];
    let rows: String = labels.iter().map(|label| format!("Hi,{label},Yes\n")).collect();
    fs::write(&path, format!("prompt,label,response\n{rows}")).unwrap();
    let noted = labels.map(|label| if label.to_lowercase() == "false" { vec!["label"] } else { vec![] });
    assert_eq!(unread(None), noted);
    assert_eq!(unread(Some(&columns("response"))), noted);
    assert!(unread(Some(&columns("label"))).iter().all(Vec::is_empty));
    fs::write(&path, "prompt,chosen,rejected\nHi,Yes,No\nHi,Yes,\n").unwrap();
    assert_eq!(unread(Some(&columns("chosen"))), [vec!["rejected"], vec![]]);
}

#[cfg(feature = "tables")]
#[test]
fn columns_without_a_known_name_are_named_with_the_flags_that_choose_them() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    let wrong = folder.path().join("wrong.csv");
    let said = |content: &str| {
        fs::write(&wrong, content).unwrap();
        gsil(folder.path(), &["score", "--model", "text", "--data", "wrong.csv"]).failed(3)
    };
    let known = "(known without: prompt and response, question and answer, instruction and output)";
    let two = said("q,the answer\nHello,Hi\n");
    assert!(two.contains("error: wrong.csv, line 1: no known columns: `q`, `the answer`\n"), "{two}");
    assert!(
        two.contains(&format!("hint: name them: --prompt-column q --response-column 'the answer' {known}\n")),
        "{two}"
    );
    let three = said("id,q,a\n1,Hello,Hi\n");
    assert!(three.contains("name the two that are meant, for example: --prompt-column id --"), "{three}");
    let misspelt = said("prompt,respones\nHello,Hi\n");
    assert!(misspelt.contains("error: wrong.csv, line 2, `respones`: unknown key beside `prompt`\n"), "{misspelt}");
}

#[test]
fn generate_needs_only_the_column_of_the_prompt_and_writes_it_beside_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    fs::write(folder.path().join("rows.jsonl"), "{\"q\":\"Hello\"}\n{\"q\":\"Hi\"}\n").unwrap();
    let arguments =
        ["generate", "--model", "text", "--data", "rows.jsonl", "--device", "flex", "--max-new-tokens", "2"];
    gsil(folder.path(), &arguments).failed(3);
    let rows = gsil(folder.path(), &[&arguments[..], &["--prompt-column", "q"]].concat()).succeeded().json_lines();
    assert_eq!(rows.iter().map(|row| row["prompt"].as_str().unwrap()).collect::<Vec<_>>(), ["Hello", "Hi"]);
}

#[test]
fn score_eval_and_train_read_the_columns_that_are_named() {
    let folder = tempfile::tempdir().unwrap();
    text_model(folder.path());
    fs::write(folder.path().join("rows.jsonl"), "{\"q\":\"Hello\",\"a\":\"Hi\"}\n{\"q\":\"Hi\",\"a\":\"Hello\"}\n")
        .unwrap();
    let common = ["--model", "text", "--data", "rows.jsonl", "--device", "flex"];
    let named = ["--prompt-column", "q", "--response-column", "a"];
    let train = ["train", "--output", "run", "generation.max_new_tokens=2", "generation.unfinished=mask"];
    for verb in [&["score"][..], &["eval", "evaluation.generate_rows=0"], &train] {
        let stderr = gsil(folder.path(), &[verb, &common].concat()).failed(3);
        assert!(
            stderr.contains("no known shape: the keys are `q`, `a`") && stderr.contains("--prompt-column"),
            "{stderr}"
        );
        let one = gsil(folder.path(), &[verb, &common, &named[..2]].concat());
        assert_eq!(one.code, Some(2), "both or neither: {}", one.stderr);
        gsil(folder.path(), &[verb, &common, &named].concat()).succeeded();
    }
    let score =
        |more: &[&str]| gsil(folder.path(), &[&["score"], &common[..], &named, more].concat()).succeeded().json_lines();
    assert_eq!(score(&["prompt_column=a", "response_column=q"]), score(&[]), "flags win");
    assert_eq!(score(&["max_rows=1"]), score(&[])[..1]);
    let config = read(&folder.path().join("run/config.ron"));
    assert!(config.contains("prompt_column: \"q\"") || config.contains("prompt_column: Some(\"q\")"), "{config}");
    let stderr = gsil(folder.path(), &[&["eval", "prompt_column=q"], &common[..]].concat()).failed(2);
    assert!(stderr.contains("response_column: must be given with `prompt_column`"), "{stderr}");
}

#[test]
fn a_folder_is_trained_on_its_train_files_and_judged_on_its_valid_files() {
    let folder = tempfile::tempdir().unwrap();
    ending_model(folder.path());
    fs::create_dir(folder.path().join("set")).unwrap();
    let set = |name: &str| folder.path().join("set").join(name);
    write_rows(&set("train-00000-of-00002.jsonl"), 4);
    write_rows(&set("train-00001-of-00002.jsonl"), 3);
    write_rows(&set("validation.jsonl"), 2);
    fs::write(set("test.jsonl"), "never read").unwrap();
    let arguments = [
        "train",
        "--model",
        "tiny",
        "--data",
        "set",
        "--device",
        "flex",
        "--output",
        "run",
        "generation.max_new_tokens=2",
        "generation.unfinished=mask",
    ];
    let stderr = gsil(folder.path(), &arguments).succeeded().stderr;
    let files = "train on train-00000-of-00002.jsonl, train-00001-of-00002.jsonl; judge on validation.jsonl";
    assert!(stderr.contains(files), "{stderr}");
    assert!(stderr.contains("data       7 demonstrations, 2 held out"), "{stderr}");
    let evaluations = read_json_lines(&folder.path().join("run/evaluations.jsonl"));
    assert!(evaluations[0].to_string().contains("\"held_out\":true"), "{}", evaluations[0]);
    fs::remove_file(set("train-00000-of-00002.jsonl")).unwrap();
    let stderr = gsil(folder.path(), &[&arguments[..8], &["again"]].concat()).failed(3);
    assert!(stderr.contains("shard 0 of 2 of the train data is missing"), "{stderr}");
    assert!(stderr.contains("found: test.jsonl, train-00001-of-00002.jsonl, validation.jsonl"), "{stderr}");
    assert_eq!(files_of(&set("validation.jsonl"), Split::Train).unwrap().len(), 1, "{}", text(set("validation.jsonl")));
}
