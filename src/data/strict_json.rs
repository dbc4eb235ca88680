//! JSON of one line, stricter than `serde_json`: an object that repeats a key is refused, not silently halved.
//!
//! Not a reader of files; that is [`super::rows`].

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::problem::visible;

/// Why a text is not acceptable JSON.
#[derive(Debug)]
pub(super) struct JsonProblem {
    /// Where reading stopped, in characters from 1, as editors count. Zero if the parser does not say.
    pub column: usize,
    /// What is wrong, without the place.
    pub message: String,
}

/// Parses one JSON value. Nesting deeper than 128 levels is refused, so that no input can overflow the stack.
pub(super) fn parse(text: &str) -> Result<Value, JsonProblem> {
    serde_json::from_str::<UniqueKeys>(text).map(|unique| unique.0).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
        let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or(text).as_bytes();
        JsonProblem { column: num_chars(&line[..error.column().min(line.len())]), message }
    })
}

/// How many characters begin in a piece of UTF-8.
pub(super) fn num_chars(bytes: &[u8]) -> usize {
    let is_continuation = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    bytes.iter().filter(|byte| !is_continuation(**byte)).count()
}

/// A value in which no object has the same key twice.
pub(super) struct UniqueKeys(pub(super) Value);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueKeysVisitor).map(UniqueKeys)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(UniqueKeys(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{}` appears twice", visible(&key))));
            }
            let UniqueKeys(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_without_repeated_keys_is_what_serde_json_reads() {
        let text = r#"{"a":[1,-2,3.5,true,null,"x\n\u00e9"],"b":{"a":18446744073709551615}}"#;
        assert_eq!(parse(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn a_repeated_key_is_refused_at_any_depth_with_its_column() {
        let problem = parse(r#"{"a":[{"b":1,"b":2}]}"#).unwrap_err();
        assert_eq!((problem.column, problem.message.as_str()), (16, "the key `b` appears twice"));
    }

    #[test]
    fn a_column_counts_characters_of_its_line() {
        let column = |text: &str| parse(text).unwrap_err().column;
        assert_eq!(column(r#"{"问题": "你好" "a"}"#), 13);
        assert_eq!(column(r#"{"问题": 好}"#), 8); // a character of three bytes is the place
        assert_eq!(column("[\"问题\",\n \"问\" 7]"), 6);
        assert_eq!(column("[\"问题\""), 5); // the end
    }

    #[test]
    fn nesting_of_a_million_levels_is_an_error_not_a_crash() {
        assert_eq!(parse(&"[".repeat(1_000_000)).unwrap_err().message, "recursion limit exceeded");
    }
}
