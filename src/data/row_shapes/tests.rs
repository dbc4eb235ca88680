//! Every shape is the same row, and both sides of a pair are kept.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::data::unread::UNREAD_KEYS;
use crate::error::Error;
use crate::formats::data_file::FileKind;

/// The row, which is the same in a table that is read by columns: there all but [`KEYS`] and [`UNREAD_KEYS`] are empty.
fn row(value: Value) -> Row {
    let object = value.as_object().unwrap();
    let row = parse_row(object, None, 1).unwrap();
    let known = |key: &String| KEYS.iter().chain(&UNREAD_KEYS).any(|known| known == key);
    let of_columns =
        object.iter().map(|(key, value)| (key.clone(), if known(key) { value.clone() } else { Value::Null }));
    assert_eq!(parse_row(&of_columns.collect(), None, 1).unwrap(), row, "is a key missing in KEYS?");
    row
}

#[test]
fn every_key_that_a_shape_begins_with_or_that_is_text_is_read() {
    let leading = LEADING_KEYS.iter().flat_map(|(keys, _)| *keys);
    for key in leading.chain(&TEXT_KEYS) {
        assert!(KEYS.contains(key), "{key}");
    }
}

fn user(content: &str) -> Message {
    Message { role: "user".into(), content: content.into() }
}

fn answer(text: &str) -> Option<Response> {
    Some(Response::Text(text.into()))
}

#[test]
fn every_shape_of_a_question_and_an_answer_is_the_same_row() {
    let expected = Row {
        line: 1,
        shape: "",
        prompt: Prompt::Text("Q".into()),
        demonstration: answer("A"),
        self_generated: None,
        lone: None,
        unread: Vec::new(),
    };
    for value in [
        json!({"prompt": "Q", "completion": "A"}),
        json!({"prompt": "Q", "response": "A", "rejected": null}),
        json!({"instruction": "Q", "output": "A"}),
        json!({"instruction": "Q", "input": "", "output": "A", "text": "all of it"}),
        json!({"instruction": "Q", "instances": [{"input": "", "output": "A"}]}),
        json!({"question": "Q", "answer": "A"}),
        json!({"prompt": "Q", "chosen": "A"}),
        json!({"prompt": "Q", "demonstration": "A"}),
        json!({"prompt": "Q", "completion": [{"role": "assistant", "content": "A"}]}),
    ] {
        assert_eq!(Row { shape: "", ..row(value.clone()) }, expected, "{value}");
    }
    let with_input = row(json!({"instruction": "Add.", "input": "1 2", "output": "3"}));
    assert_eq!(with_input.prompt, Prompt::Text("Add.\n\n1 2".into()));
}

#[test]
fn every_shape_of_a_conversation_is_the_same_row() {
    let prompt = Prompt::Messages(vec![user("Q")]);
    let expected = Row {
        line: 1,
        shape: "",
        prompt,
        demonstration: answer("A"),
        self_generated: None,
        lone: None,
        unread: Vec::new(),
    };
    let turns = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]);
    for value in [
        json!({"messages": turns}),
        json!({"prompt": "Q", "messages": turns}),
        json!({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}),
        json!({"prompt": [turns[0]], "completion": "A"}),
        json!({"prompt": [turns[0]], "completion": [turns[1]]}),
        json!({"chosen": turns}),
        json!({"prompt": "Q", "chosen": turns}),
    ] {
        assert_eq!(Row { shape: "", ..row(value.clone()) }, expected, "{value}");
    }
    let open = row(json!({"messages": [{"role": "user", "content": "Q"}]}));
    assert_eq!((open.prompt, open.demonstration), (Prompt::Messages(vec![user("Q")]), None));
}

#[test]
fn both_sides_of_a_pair_are_kept() {
    let text = |value| row(value).self_generated;
    assert_eq!(text(json!({"prompt": "Q", "chosen": "A", "rejected": "B"})), answer("B"));
    assert_eq!(text(json!({"prompt": "Q", "demonstration": "A", "self_generated": "B"})), answer("B"));
    let side = |answer: &str| json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": answer}]);
    let preference = row(json!({"prompt": "Q", "chosen": side("A"), "rejected": side("B")}));
    assert_eq!((preference.demonstration, preference.self_generated), (answer("A"), answer("B")));
    assert_eq!(preference.prompt, Prompt::Messages(vec![user("Q")]));
}

#[test]
fn a_message_with_a_tool_call_is_refused_and_one_without_any_is_read() {
    let with = |content: Value, key: &str, calls: Value| {
        let answer = json!({"role": "assistant", "content": content, key: calls});
        json!({"messages": [{"role": "user", "content": "Q"}, answer]})
    };
    let call = json!({"name": "add", "arguments": "{\"a\": 1}"});
    let calls = json!([{"id": "1", "type": "function", "function": call}]);
    for content in [json!(null), json!(""), json!("calling now")] {
        for (key, calls) in [("tool_calls", &calls), ("function_call", &call)] {
            let error = error(with(content.clone(), key, calls.clone()));
            assert_eq!(error.to_string(), format!("x.jsonl, line 1, `messages[1].{key}`: tool calls are not read"));
            assert_eq!(error.hint(), Some("write the call into `content` as the model should write it"));
        }
    }
    let no_call = json!({"name": null, "arguments": null});
    for (key, none) in [("tool_calls", json!(null)), ("tool_calls", json!([])), ("function_call", no_call)] {
        assert_eq!(row(with(json!("A"), key, none)).demonstration, answer("A"));
    }
}

#[test]
fn ids_may_stand_in_every_place() {
    let ids = row(json!({"prompt_ids": [1, 2], "demonstration_ids": [3], "self_generated_ids": [4294967295_u32]}));
    assert_eq!(ids.prompt, Prompt::Ids(vec![1, 2]));
    assert_eq!(ids.demonstration, Some(Response::Ids(vec![3])));
    assert_eq!(ids.self_generated, Some(Response::Ids(vec![u32::MAX])));
    assert_eq!(row(json!({"prompt_ids": [1], "response_ids": [3]})).demonstration, Some(Response::Ids(vec![3])));
    assert_eq!(row(json!({"prompt": "shown", "prompt_ids": [1]})).prompt, Prompt::Ids(vec![1]));
}

#[test]
fn exported_pairs_are_rows_of_the_ids_that_were_trained_on() {
    let exported = row(json!({
        "index": 0, "sample": 1, "prompt": "<s>Q", "chosen": "A", "rejected": "B", "prompt_ids": [1, 2],
        "chosen_ids": [3, 0], "rejected_ids": [4, 0], "ref_chosen_logps": -1.5, "rejected_finished": true
    }));
    assert_eq!(exported.prompt, Prompt::Ids(vec![1, 2]));
    assert_eq!(exported.demonstration, Some(Response::Ids(vec![3, 0])));
    assert_eq!(exported.self_generated, Some(Response::Ids(vec![4, 0])));
    assert_eq!(exported.lone, None);
    for (first, second, what) in [
        ("response_ids", "chosen_ids", "demonstration"),
        ("demonstration_ids", "chosen_ids", "demonstration"),
        ("self_generated_ids", "rejected_ids", "self-generated response"),
    ] {
        let expected = format!("x.jsonl, line 1: both `{first}` and `{second}` are given: which one is the {what}?");
        assert_eq!(error(json!({"prompt_ids": [1], first: [2], second: [3]})).to_string(), expected);
    }
}

/// What is said of a row without a demonstration: its misnamed key and the advice.
fn misnamed(value: Value) -> Option<(String, String)> {
    let lone = row(value).lone.expect("there is no demonstration");
    lone.misnamed.map(|misnamed| (misnamed.key, misnamed.hint))
}

#[test]
fn a_response_under_a_misspelt_name_is_found_and_the_name_that_was_meant() {
    for (key, meant) in [
        ("respones", "response"),
        ("Response", "response"),
        ("reponse", "response"),
        ("completions", "completion"),
        ("compeltion", "completion"),
        ("choosen", "chosen"),
    ] {
        let expected = (key.to_owned(), format!("did you mean `{meant}`?"));
        assert_eq!(misnamed(json!({"id": 7, "prompt": "Q", key: "A"})), Some(expected), "{key}");
    }
    let (key, hint) = misnamed(json!({"prompt": "Q", "answer": "A"})).unwrap();
    assert_eq!(key, "answer");
    assert_eq!(
        hint,
        "beside `prompt` the response is `response`; or name the columns: --prompt-column prompt --response-column answer"
    );
    assert_eq!(misnamed(json!({"prompt_ids": [1], "respones_ids": [2]})).unwrap().1, "did you mean `response_ids`?");
    assert_eq!(misnamed(json!({"prompt_ids": [1], "choosen_ids": [2]})).unwrap().1, "did you mean `chosen_ids`?");
    assert_eq!(
        misnamed(json!({"prompt": "Q", "self_generated": "A", "demonstratoin": "B"})).unwrap().1,
        "did you mean `demonstration`?"
    );
}

#[test]
fn a_prompt_with_harmless_keys_or_an_empty_response_misspells_nothing() {
    for key in [
        "id",
        "source",
        "index",
        "system",
        "metadata",
        "comment",
        "reason",
        "reasoning",
        "context",
        "input",
        "note",
        "num_response_tokens",
        "competition",
        "choices",
        "options",
        "category",
        "response_length",
        "url",
        "dataset",
    ] {
        assert_eq!(misnamed(json!({"prompt": "Q", key: "A"})), None, "{key}");
    }
    assert_eq!(misnamed(json!({"prompt": "Q", "response": null, "answer": "A"})), None);
    assert_eq!(row(json!({"prompt": "Q", "note": 1})).lone.unwrap().keys, ["prompt", "note"]);
    assert_eq!(row(json!({"prompt": "Q", "response": "A", "answer": "B"})).lone, None);
    let columns = Columns { prompt: "prompt".into(), response: Some("r".into()) };
    let named = json!({"prompt": "Q", "r": null, "answer": "A"});
    let row = parse_row(named.as_object().unwrap(), Some(&columns), 1).unwrap();
    assert_eq!(row.lone.unwrap().misnamed, None, "who names columns means no others");
}

/// What is wrong with a row.
fn error(value: Value) -> Error {
    let problem = parse_row(value.as_object().unwrap(), None, 1).unwrap_err();
    problem.into_error(Path::new("x.jsonl"), FileKind::JsonLines, 1)
}

#[test]
fn the_answer_to_an_instruction_or_a_question_may_have_a_wrong_name() {
    let dolly = error(json!({"instruction": "Q", "context": "", "response": "A", "category": "open_qa"}));
    assert_eq!(dolly.to_string(), "x.jsonl, line 1, `response`: unknown key beside `instruction`");
    assert_eq!(
        dolly.hint(),
        Some("beside `instruction` the response is `output`, and `context` is `input`: rename both")
    );
    let hint = |value: Value| error(value).hint().unwrap().to_owned();
    assert_eq!(
        hint(json!({"instruction": "Q", "response": "A"})),
        "beside `instruction` the response is `output`; or name the columns: --prompt-column instruction --response-column response"
    );
    assert_eq!(hint(json!({"instruction": "Q", "input": "", "ouput": "A"})), "did you mean `output`?");
    assert_eq!(hint(json!({"question": "Q", "answers": "A"})), "did you mean `answer`?");
    for unfinished in [
        json!({"instruction": "Q", "input": "I"}),
        json!({"instruction": "Q", "output": null, "response": "A"}),
        json!({"instruction": "Q", "instances": [{"input": "I"}], "response": "A"}),
    ] {
        assert_eq!(error(unfinished.clone()).to_string(), "x.jsonl, line 1, `output`: missing", "{unfinished}");
    }
}

#[test]
fn the_prompt_of_a_preference_under_the_name_of_another_shape_is_to_be_renamed() {
    let mend = "mend the line, or pass --skip-bad-rows to leave out such lines";
    for (value, hint) in [
        (json!({"system": "", "question": "Q", "chosen": "A", "rejected": "B"}), "rename `question` to `prompt`"),
        (json!({"instruction": "Q", "input": "", "chosen": "A"}), "rename `instruction` to `prompt`"),
        (json!({"instruction": "Q", "input": "I", "chosen": "A"}), "write `instruction` and `input` into `prompt`"),
        (json!({"input": "Q", "chosen": "A", "rejected": "B"}), "rename `input` to `prompt`"),
        (json!({"question": null, "chosen": "A"}), mend),
        (json!({"prompt": null, "question": "Q", "chosen": "A"}), mend),
    ] {
        let error = error(value.clone());
        assert_eq!(error.to_string(), "x.jsonl, line 1, `prompt`: missing", "{value}");
        assert_eq!(error.hint(), Some(hint), "{value}");
    }
}

#[test]
fn an_empty_prompt_is_told_as_empty_and_not_as_misspelt() {
    for row in [
        json!({"prompt": null, "response": "A"}),
        json!({"messages": null}),
        json!({"instruction": null, "text": "T", "output": "A"}),
    ] {
        let name = row.as_object().unwrap().keys().next().unwrap().clone();
        let error = error(row);
        assert_eq!(error.to_string(), format!("x.jsonl, line 1, `{name}`: empty (null)"));
        assert_eq!(error.hint(), Some("mend the line, or pass --skip-bad-rows to leave out such lines"));
    }
}

#[test]
fn a_row_of_no_shape_whose_key_is_nearly_known_is_told_the_known_one() {
    let hint = |value: Value| error(value).hint().unwrap().to_owned();
    let of_near = hint(json!({"promt": "Q", "response": "A"}));
    assert_eq!(
        of_near,
        "did you mean `prompt`? Columns of other names are given with --prompt-column and --response-column"
    );
    assert!(hint(json!({"q": "Q", "a": "A"})).starts_with("the commonest are {\"prompt\", \"response\"}, "));
    assert!(hint(json!({"q": "Q", "a": "A"})).len() < 300);
}
