//! What rows say under keys that no shape reads, instructions above all: a model that is trained without it never saw
//! it, so it is counted.

use std::fmt;

use serde_json::Value;

use super::examples::FileRows;
use super::row_shapes::KEYS;
use super::rows::{Columns, Object, Prompt};
use crate::report::table::plural;

/// Whether an answer is a good one, in rows of KTO; in other rows it may be a class.
pub(super) const LABEL: &str = "label";
/// The second response of a preference, which columns that are named leave out.
const REJECTED: &str = "rejected";

/// Keys under which data sets keep what belongs to the prompt, and those of a response. Where no shape reads them, they
/// are looked at.
pub(super) const UNREAD_KEYS: [&str; 8] =
    ["system", "system_prompt", "history", "tools", "context", "input", LABEL, REJECTED];

/// Keys of a message with what the assistant thought before it answered.
const THOUGHTS: [&str; 2] = ["reasoning_content", "thinking"];

/// Rows that say something under one of those keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The key.
    pub key: &'static str,
    /// So many rows.
    pub count: usize,
    /// The first of them, as `line 7`; with the file if there are several.
    pub first: String,
}

impl Unread {
    /// What the rows of some files hold, key by key.
    pub fn of(files: &[FileRows]) -> Vec<Self> {
        let rows = || files.iter().flat_map(|file| file.rows.iter().map(move |row| (file, row)));
        let of_key = |key: &'static str| {
            let mut with_key = rows().filter(|(_, row)| row.unread.contains(&key));
            let (file, row) = with_key.next()?;
            Some(Unread { key, count: 1 + with_key.count(), first: file.place(row, files.len() > 1) })
        };
        UNREAD_KEYS.into_iter().chain(THOUGHTS).filter_map(of_key).collect()
    }

    /// Whether it tells of a response: to those who read prompts alone it is nothing.
    pub fn is_of_response(&self) -> bool {
        [LABEL, REJECTED].contains(&self.key) || THOUGHTS.contains(&self.key)
    }

    /// What is lost, and what to do.
    pub fn message(&self) -> String {
        let what = match self.key {
            LABEL => "is false",
            REJECTED => "is not read with named columns",
            key if THOUGHTS.contains(&key) => "of a message is not read",
            _ => "is not read",
        };
        let way = match self.key {
            LABEL => {
                "such an answer is taken as a demonstration like any other; if it marks a bad one, as KTO's does, leave \
                 these rows out"
            }
            REJECTED => "to have it read, rename them to `prompt` and `chosen`, and name none",
            "history" => "write its turns into `messages`",
            "context" | "input" => "write it into the prompt",
            key if THOUGHTS.contains(&key) => "write it into `content`",
            _ => "write it as a first message of role `system` in `messages`",
        };
        format!("`{}` {what}: {way}", self.key)
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {} (the first: {})", plural(self.count, "row"), self.message(), self.first)
    }
}

/// Those keys of a row that say what is not read otherwise. Token ids are the whole prompt.
pub(super) fn unread(object: &Object, columns: Option<&Columns>, prompt: &Prompt) -> Vec<&'static str> {
    let is_named =
        |key: &str| columns.is_some_and(|named| named.prompt == key || named.response.as_deref() == Some(key));
    let names_response = columns.is_some_and(|named| named.response.is_some());
    let is_lost = |key: &&str| {
        object.get(*key).filter(|_| !is_named(key)).is_some_and(|value| match *key {
            LABEL => *value == Value::Bool(false),
            REJECTED => names_response && holds_text(value),
            _ => says_more(value, prompt),
        })
    };
    let is_read = |key: &str| columns.map_or(KEYS.contains(&key), |_| is_named(key));
    let has_ids = matches!(prompt, Prompt::Ids(_));
    let is_thought_lost = |key: &&str| !has_ids && has_thoughts(object, key, is_read);
    UNREAD_KEYS.into_iter().filter(is_lost).chain(THOUGHTS.into_iter().filter(is_thought_lost)).collect()
}

/// Whether an assistant's message in a value that is read has a text under this key that its content has not.
fn has_thoughts(object: &Object, key: &str, is_read: impl Fn(&str) -> bool) -> bool {
    let lists = object.iter().filter(|(name, _)| is_read(name)).filter_map(|(_, value)| value.as_array());
    let is_lost = |message: &Value| {
        let text = |names: [&str; 2]| names.into_iter().find_map(|name| message.get(name)?.as_str());
        let content = text(["content", "value"]).unwrap_or_default();
        matches!(text(["role", "from"]), Some("assistant" | "gpt"))
            && message.get(key).is_some_and(|value| has_text(value, &|thought| !content.contains(thought)))
    };
    lists.flatten().any(is_lost)
}

/// Whether a value has a text that the prompt has not.
fn says_more(value: &Value, prompt: &Prompt) -> bool {
    has_text(value, &|text| match prompt {
        Prompt::Text(own) => !own.contains(text),
        Prompt::Messages(messages) => !messages.iter().any(|message| message.content.contains(text)),
        Prompt::Ids(_) => false,
    })
}

/// Whether a value has any text.
pub(super) fn holds_text(value: &Value) -> bool {
    has_text(value, &|_| true)
}

/// Whether a value has a text that is looked for. Tables, and lists of tools, write nothing as text.
fn has_text(value: &Value, is_looked_for: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => {
            let text = text.trim();
            !["", "[]", "{}", "null"].contains(&text) && is_looked_for(text)
        }
        Value::Array(items) => items.iter().any(|item| has_text(item, is_looked_for)),
        Value::Object(fields) => fields.values().any(|field| has_text(field, is_looked_for)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::row_shapes::parse_row;

    fn unread(value: Value, columns: Option<&Columns>) -> Vec<&'static str> {
        parse_row(value.as_object().unwrap(), columns, 1).unwrap().unread
    }

    #[test]
    fn an_instruction_that_no_shape_reads_is_noted_in_every_shape() {
        let turns = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]);
        let sharegpt = json!([{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]);
        for (value, keys) in [
            (json!({"system": "Be X.", "instruction": "Q", "output": "A"}), vec!["system"]),
            (json!({"system": "Be X.", "prompt": "Q", "completion": "A"}), vec!["system"]),
            (json!({"system": "Be X.", "prompt": "Q", "chosen": "A", "rejected": "B"}), vec!["system"]),
            (json!({"system": "Be X.", "conversations": sharegpt}), vec!["system"]),
            (json!({"system_prompt": "Be X.", "question": "Q", "answer": "A"}), vec!["system_prompt"]),
            (
                json!({"system": "Be X.", "history": [["q", "a"]], "instruction": "Q", "output": "A"}),
                vec!["system", "history"],
            ),
            (json!({"messages": turns, "tools": [{"name": "add"}]}), vec!["tools"]),
            (json!({"question": "Q", "context": "CREATE TABLE t", "answer": "A"}), vec!["context"]),
        ] {
            assert_eq!(unread(value.clone(), None), keys, "{value}");
        }
        let columns = Columns { prompt: "question".into(), response: Some("response".into()) };
        let orca = json!({"system_prompt": "Be X.", "question": "Q", "response": "A"});
        assert_eq!(unread(orca.clone(), Some(&columns)), ["system_prompt"]);
        let alpaca = json!({"instruction": "Add.", "input": "1 2", "question": "Q", "response": "A"});
        assert_eq!(unread(alpaca, Some(&columns)), ["input"]);
        let columns = Columns { prompt: "system_prompt".into(), ..columns };
        assert!(unread(orca, Some(&columns)).is_empty(), "who names a column has it read");
    }

    #[test]
    fn an_answer_with_a_label_that_is_false_is_noted_and_any_other_label_is_not() {
        let turns = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]);
        for value in [
            json!({"prompt": "Q", "completion": "A", "label": false}),
            json!({"prompt": [turns[0]], "completion": [turns[1]], "label": false}),
            json!({"messages": turns, "label": false}),
            json!({"prompt_ids": [1], "response_ids": [2], "label": false}),
        ] {
            assert_eq!(unread(value.clone(), None), [LABEL], "{value}");
        }
        for label in [json!(true), json!(0), json!(1), json!("false"), json!("spam"), json!(null), json!([false])] {
            assert!(unread(json!({"prompt": "Q", "completion": "A", "label": label}), None).is_empty(), "{label}");
        }
        let row = json!({"q": "Q", "a": "A", "label": false});
        let columns = Columns { prompt: "q".into(), response: Some("a".into()) };
        assert_eq!(unread(row, Some(&columns)), [LABEL]);
        let (columns, row) = (Columns { response: Some("label".into()), ..columns }, json!({"q": "Q", "label": "A"}));
        assert!(unread(row, Some(&columns)).is_empty());
    }

    #[test]
    fn a_rejected_response_beside_named_columns_is_noted_where_a_response_is_named() {
        let columns = Columns { prompt: "question".into(), response: Some("chosen".into()) };
        // The prompt has its words, and it is lost nonetheless.
        let row = json!({"question": "Yes or no?", "chosen": "Yes", "rejected": "no"});
        assert_eq!(unread(row.clone(), Some(&columns)), [REJECTED]);
        let with = |rejected: Value| json!({"question": "Q", "chosen": "A", "rejected": rejected});
        assert_eq!(unread(with(json!([{"role": "assistant", "content": "B"}])), Some(&columns)), [REJECTED]);
        for empty in [json!(null), json!(""), json!([])] {
            assert!(unread(with(empty), Some(&columns)).is_empty());
        }
        let prompts = Columns { response: None, ..columns.clone() };
        assert!(unread(row.clone(), Some(&prompts)).is_empty());
        let itself = Columns { response: Some(REJECTED.into()), ..columns };
        assert!(unread(row, Some(&itself)).is_empty());
        assert!(unread(json!({"prompt": "Q", "chosen": "A", "rejected": "B"}), None).is_empty());
    }

    #[test]
    fn thoughts_of_an_assistant_that_its_content_has_not_are_noted() {
        let turn =
            |key: &str, thought: Value| json!({"role": "assistant", "content": "<think>T</think>A", key: thought});
        let question = json!({"role": "user", "content": "Q", "thinking": "not the assistant's"});
        for key in THOUGHTS {
            let lost = turn(key, json!("U"));
            for value in [
                json!({"messages": [question, lost]}),
                json!({"messages": [question, lost, question, turn(key, json!(null))]}),
                json!({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A", key: "U"}]}),
                json!({"prompt": "Q", "completion": [lost]}),
                json!({"prompt": "Q", "chosen": [lost], "rejected": "B"}),
            ] {
                assert_eq!(unread(value.clone(), None), [key], "{value}");
            }
            for thought in [json!(null), json!(""), json!("T"), json!(["T"])] {
                let value = json!({"messages": [question, turn(key, thought)]});
                assert!(unread(value.clone(), None).is_empty(), "{value}");
            }
            let columns = Columns { prompt: "q".into(), response: Some("a".into()) };
            assert_eq!(unread(json!({"q": "Q", "a": [lost]}), Some(&columns)), [key]);
            assert!(unread(json!({"q": "Q", "a": "A", "messages": [lost]}), Some(&columns)).is_empty());
            assert!(unread(json!({"prompt_ids": [1], "response_ids": [2], "messages": [lost]}), None).is_empty());
        }
        let said = |key| Unread { key, count: 1, first: "line 2".into() }.to_string();
        let expected = "1 row: `thinking` of a message is not read: write it into `content` (the first: line 2)";
        assert_eq!(said("thinking"), expected);
    }

    #[test]
    fn what_is_empty_or_in_the_prompt_already_is_not_lost() {
        let turns = json!([{"role": "system", "content": "Be X."}, {"role": "user", "content": "Q"}]);
        for value in [
            json!({"prompt": "Q", "system": "", "system_prompt": null, "history": [], "tools": "[]"}),
            json!({"prompt": "Q", "tools": "null"}),
            json!({"instruction": "Add.", "input": "1 2", "output": "3"}),
            json!({"prompt": "From these words: W. Q", "context": "W.", "response": "A"}),
            json!({"prompt": "Q", "system": " \n", "history": [["", null]], "tools": {}}),
            json!({"prompt": "Q", "system": 7, "tools": false}),
            json!({"prompt": "Be X.\nQ", "system": "Be X."}),
            json!({"messages": turns, "system": "Be X."}),
            json!({"prompt_ids": [1], "response_ids": [2], "system": "Be X."}),
        ] {
            assert!(unread(value.clone(), None).is_empty(), "{value}");
        }
    }
}
