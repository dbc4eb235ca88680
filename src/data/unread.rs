//! Instructions under keys that no shape reads: a model that is trained without them never saw them, so they are counted.

use std::fmt;

use serde_json::Value;

use super::examples::FileRows;
use super::rows::{Columns, Object, Prompt};

/// Keys under which data sets keep what belongs to the prompt. Where no shape reads them, they are looked at.
pub(super) const UNREAD_KEYS: [&str; 6] = ["system", "system_prompt", "history", "tools", "context", "input"];

/// Rows with an instruction under one of those keys.
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
        UNREAD_KEYS.into_iter().filter_map(of_key).collect()
    }

    /// What is lost, and what to do.
    pub fn message(&self) -> String {
        let way = match self.key {
            "history" => "write its turns into `messages`",
            "context" | "input" => "write it into the prompt",
            _ => "write it as a first message of role `system` in `messages`",
        };
        format!("`{}` is not read: {way}", self.key)
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = if self.count == 1 { "row" } else { "rows" };
        write!(formatter, "{} {rows}: {} (the first: {})", self.count, self.message(), self.first)
    }
}

/// Those keys of a row that say what its prompt does not. Token ids are the whole prompt.
pub(super) fn unread(object: &Object, columns: Option<&Columns>, prompt: &Prompt) -> Vec<&'static str> {
    let is_named =
        |key: &str| columns.is_some_and(|named| named.prompt == key || named.response.as_deref() == Some(key));
    let is_lost = |key: &&str| !is_named(key) && object.get(*key).is_some_and(|value| says_more(value, prompt));
    UNREAD_KEYS.into_iter().filter(is_lost).collect()
}

/// Whether a value has a text that the prompt has not. Tables, and lists of tools, write nothing as text.
fn says_more(value: &Value, prompt: &Prompt) -> bool {
    match value {
        Value::String(text) => {
            let text = text.trim();
            !["", "[]", "{}", "null"].contains(&text)
                && match prompt {
                    Prompt::Text(own) => !own.contains(text),
                    Prompt::Messages(messages) => !messages.iter().any(|message| message.content.contains(text)),
                    Prompt::Ids(_) => false,
                }
        }
        Value::Array(items) => items.iter().any(|item| says_more(item, prompt)),
        Value::Object(fields) => fields.values().any(|field| says_more(field, prompt)),
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
