//! Every shape is the same row, and both sides of a pair are kept.

use serde_json::json;

use super::*;

fn row(value: Value) -> Row {
    parse_row(value.as_object().unwrap(), None, 1).unwrap()
}

fn user(content: &str) -> Message {
    Message { role: "user".into(), content: content.into() }
}

fn answer(text: &str) -> Option<Response> {
    Some(Response::Text(text.into()))
}

#[test]
fn every_shape_of_a_question_and_an_answer_is_the_same_row() {
    let expected = Row { line: 1, prompt: Prompt::Text("Q".into()), demonstration: answer("A"), self_generated: None };
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
        assert_eq!(row(value.clone()), expected, "{value}");
    }
    let with_input = row(json!({"instruction": "Add.", "input": "1 2", "output": "3"}));
    assert_eq!(with_input.prompt, Prompt::Text("Add.\n\n1 2".into()));
}

#[test]
fn every_shape_of_a_conversation_is_the_same_row() {
    let prompt = Prompt::Messages(vec![user("Q")]);
    let expected = Row { line: 1, prompt, demonstration: answer("A"), self_generated: None };
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
        assert_eq!(row(value.clone()), expected, "{value}");
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
fn ids_may_stand_in_every_place() {
    let ids = row(json!({"prompt_ids": [1, 2], "demonstration_ids": [3], "self_generated_ids": [4294967295_u32]}));
    assert_eq!(ids.prompt, Prompt::Ids(vec![1, 2]));
    assert_eq!(ids.demonstration, Some(Response::Ids(vec![3])));
    assert_eq!(ids.self_generated, Some(Response::Ids(vec![u32::MAX])));
    assert_eq!(row(json!({"prompt_ids": [1], "response_ids": [3]})).demonstration, Some(Response::Ids(vec![3])));
    assert_eq!(row(json!({"prompt": "shown", "prompt_ids": [1]})).prompt, Prompt::Ids(vec![1]));
}
