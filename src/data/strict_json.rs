//! JSON of one line, stricter than `serde_json`: an object that repeats a key is refused, not silently halved.
//!
//! Not a reader of files; that is [`super::rows`].

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Why a text is not acceptable JSON.
#[derive(Debug)]
pub(super) struct JsonProblem {
    /// Where reading stopped, in bytes from 1. Zero if the parser does not say.
    pub column: usize,
    /// What is wrong, without the place.
    pub message: String,
}

/// Parses one JSON value. Nesting deeper than 128 levels is refused, so that no input can overflow the stack.
pub(super) fn parse(text: &str) -> Result<Value, JsonProblem> {
    serde_json::from_str::<UniqueKeys>(text).map(|unique| unique.0).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
        JsonProblem { column: error.column(), message }
    })
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
                return Err(A::Error::custom(format!("the key `{}` appears twice", key.escape_debug())));
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
    fn nesting_of_a_million_levels_is_an_error_not_a_crash() {
        assert_eq!(parse(&"[".repeat(1_000_000)).unwrap_err().message, "recursion limit exceeded");
    }
}
