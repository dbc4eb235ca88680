//! The shapes of a row, told apart by their keys, and what each field must hold.
//!
//! One function per shape, all ending in a [`Row`]. Not here: files and lines ([`super::rows`]).

use serde_json::Value;

use super::problem::{Parsed, Problem, visible};
use super::row_keys::{LonePrompt, check_columns, misnamed, misnamed_prompt, unknown_shape};
use super::rows::{Columns, Message, Object, Prompt, Response, Row};
use super::unread::{holds_text, unread};

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Every key that a shape reads.
pub(super) const KEYS: [&str; 21] = [
    "prompt_ids",
    "response_ids",
    "demonstration_ids",
    "chosen_ids",
    "self_generated_ids",
    "rejected_ids",
    "chosen",
    "rejected",
    "demonstration",
    "self_generated",
    "messages",
    "conversations",
    "prompt",
    "completion",
    "response",
    "instruction",
    "input",
    "output",
    "instances",
    "question",
    "answer",
];
/// Those whose value is text alone, whatever it looks like.
pub(super) const TEXT_KEYS: [&str; 5] = ["instruction", "input", "output", "question", "answer"];

/// What kind of row an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Columns,
    TokenIds,
    Preference,
    Pair,
    Messages,
    Conversations,
    Prompt,
    Instruction,
    Question,
}

/// A row with one of these keys has that shape. The order matters where a row has the keys of two shapes: the more
/// specific one is first.
pub(super) const LEADING_KEYS: [(&[&str], Shape); 8] = [
    (&["prompt_ids", "response_ids", "demonstration_ids", "chosen_ids"], Shape::TokenIds),
    (&["chosen", "rejected"], Shape::Preference),
    (&["demonstration", "self_generated"], Shape::Pair),
    (&["messages"], Shape::Messages),
    (&["conversations"], Shape::Conversations),
    (&["prompt"], Shape::Prompt),
    (&["instruction"], Shape::Instruction),
    (&["question"], Shape::Question),
];

impl Shape {
    /// Recognises the shape.
    pub(super) fn of(object: &Object, columns: Option<&Columns>) -> Parsed<Self> {
        let has = |keys: &[&str]| keys.iter().any(|key| present(object, key).is_some());
        match columns {
            Some(_) => Ok(Shape::Columns),
            None => LEADING_KEYS
                .into_iter()
                .find(|(keys, _)| has(keys))
                .map_or_else(|| Err(unknown_shape(object)), |(_, shape)| Ok(shape)),
        }
    }

    /// As a person would say it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Shape::Columns => "the columns that were named",
            Shape::TokenIds => "token ids",
            Shape::Preference => "prompt, chosen, rejected",
            Shape::Pair => "prompt, demonstration, self_generated",
            Shape::Messages => "messages",
            Shape::Conversations => "conversations (ShareGPT)",
            Shape::Prompt => "prompt and completion or response",
            Shape::Instruction => "instruction, input, output (Alpaca)",
            Shape::Question => "question and answer",
        }
    }
}

/// The row that an object is, by its shape.
pub(super) fn parse_row(object: &Object, columns: Option<&Columns>, line: usize) -> Parsed<Row> {
    let shape = Shape::of(object, columns)?;
    let parts = match columns {
        Some(columns) => {
            check_columns(object, columns)?;
            let named = columns.response.as_deref().map(|name| response(object, name)).transpose()?;
            Parts::new(prompt(object, &columns.prompt)?, named.flatten(), None)
        }
        None => parts(object, shape)?,
    };
    let lone = parts.demonstration.is_none().then(|| Box::new(LonePrompt::of(object, shape)));
    Ok(Row {
        line,
        shape: shape.name(),
        unread: unread(object, columns, &parts.prompt),
        prompt: parts.prompt,
        demonstration: parts.demonstration,
        self_generated: parts.self_generated,
        lone,
    })
}

/// What a row says.
struct Parts {
    prompt: Prompt,
    demonstration: Option<Response>,
    self_generated: Option<Response>,
}

impl Parts {
    fn new(prompt: Prompt, demonstration: Option<Response>, self_generated: Option<Response>) -> Self {
        Parts { prompt, demonstration, self_generated }
    }
}

fn parts(object: &Object, shape: Shape) -> Parsed<Parts> {
    match shape {
        Shape::TokenIds => ids_row(object),
        Shape::Preference => preference_row(object),
        Shape::Pair => {
            let (demonstration, self_generated) =
                (response(object, "demonstration")?, response(object, "self_generated")?);
            Ok(Parts::new(prompt(object, "prompt")?, demonstration, self_generated))
        }
        Shape::Messages => {
            let messages = parse_messages(required(object, "messages")?, "messages")?;
            let (prompt, demonstration) = split_conversation(messages, "messages")?;
            Ok(Parts::new(prompt, demonstration, None))
        }
        Shape::Conversations => {
            let turns = parse_sharegpt(required(object, "conversations")?)?;
            let (prompt, demonstration) = split_conversation(turns, "conversations")?;
            Ok(Parts::new(prompt, demonstration, None))
        }
        Shape::Instruction => instruction_row(object),
        Shape::Question => {
            let question = Prompt::Text(text(required(object, "question")?, "question")?);
            let answer = text(required_response(object, "answer", object, shape)?, "answer")?;
            Ok(Parts::new(question, Some(Response::Text(answer)), None))
        }
        Shape::Prompt | Shape::Columns => {
            let has = |key| present(object, key).is_some();
            if has("completion") && has("response") {
                return Err(Problem::new("both `completion` and `response` are given: which one is the response?"));
            }
            let key = if has("completion") { "completion" } else { "response" };
            Ok(Parts::new(prompt(object, "prompt")?, response(object, key)?, None))
        }
    }
}

/// Pairs that `gsil export` wrote have these beside their text, and the ids are what was trained on.
fn ids_row(object: &Object) -> Parsed<Parts> {
    let prompt_ids = parse_ids(required(object, "prompt_ids")?, "prompt_ids")?;
    let demonstration = ids_under(object, &["response_ids", "demonstration_ids", "chosen_ids"], "demonstration")?;
    let self_generated = ids_under(object, &["self_generated_ids", "rejected_ids"], "self-generated response")?;
    Ok(Parts::new(Prompt::Ids(prompt_ids), demonstration, self_generated))
}

/// The response under one of these names.
fn ids_under(object: &Object, names: &[&str], what: &str) -> Parsed<Option<Response>> {
    let mut given = names.iter().filter_map(|name| Some((name, present(object, name)?)));
    match (given.next(), given.next()) {
        (Some((first, _)), Some((second, _))) => {
            Err(Problem::new(format!("both `{first}` and `{second}` are given: which one is the {what}?")))
        }
        (one, _) => one.map(|(name, value)| parse_ids(value, name).map(Response::Ids)).transpose(),
    }
}

/// Alpaca: the input, if any, follows the instruction after a blank line. A Self-Instruct row has input and output in
/// `instances` instead, of which there must be one.
fn instruction_row(object: &Object) -> Parsed<Parts> {
    let instruction = text(required(object, "instruction")?, "instruction")?;
    let source = match (present(object, "output"), present(object, "instances")) {
        (None, Some(Value::Array(instances))) => match instances.as_slice() {
            [Value::Object(instance)] => instance,
            _ => return Err(Problem::field("instances", "expected exactly one object; write one row for each")),
        },
        _ => object,
    };
    let input = present(source, "input").map(|value| text(value, "input")).transpose()?.unwrap_or_default();
    let prompt = if input.is_empty() { instruction } else { format!("{instruction}\n\n{input}") };
    let output = text(required_response(source, "output", object, Shape::Instruction)?, "output")?;
    Ok(Parts::new(Prompt::Text(prompt), Some(Response::Text(output)), None))
}

/// A chosen and a rejected response, each either text or a conversation. Where a conversation carries turns before the
/// answer, those are the prompt, and the other side and a `prompt` key must agree with them.
fn preference_row(object: &Object) -> Parsed<Parts> {
    let chosen = parse_side(required(object, "chosen")?, "chosen")?;
    let rejected = present(object, "rejected").map(|value| parse_side(value, "rejected")).transpose()?;
    let (rejected, rejected_before) = rejected.map_or((None, Vec::new()), |side| (Some(side.answer), side.before));
    if !chosen.before.is_empty() && !rejected_before.is_empty() && chosen.before != rejected_before {
        return Err(Problem::field("rejected", "the turns before the last differ from those of `chosen`"));
    }
    let before = if chosen.before.is_empty() { rejected_before } else { chosen.before };
    let prompt = if before.is_empty() {
        prompt(object, "prompt").map_err(|problem| match misnamed_prompt(object) {
            Some(hint) => problem.with_hint(hint),
            None => problem,
        })?
    } else {
        if present(object, "prompt").is_some() && !is_part_of(&prompt(object, "prompt")?, &before) {
            return Err(Problem::field("prompt", "differs from the turns before the last of `chosen`"));
        }
        split_prompt(before, "chosen")?
    };
    let self_generated = rejected.map(Response::Text);
    Ok(Parts::new(prompt, Some(Response::Text(chosen.answer)), self_generated))
}

struct Side {
    before: Vec<Message>,
    answer: String,
}

fn parse_side(value: &Value, field: &str) -> Parsed<Side> {
    if let Value::String(answer) = value {
        return Ok(Side { before: Vec::new(), answer: answer.clone() });
    }
    let mut before = parse_messages(value, field)?;
    match before.pop() {
        Some(last) if last.role == "assistant" => Ok(Side { before, answer: last.content }),
        _ => Err(Problem::field(field, "must end in an assistant message")),
    }
}

fn is_part_of(prompt: &Prompt, before: &[Message]) -> bool {
    match prompt {
        Prompt::Text(text) => before.iter().any(|message| message.role == "user" && message.content == *text),
        Prompt::Messages(messages) => messages == before,
        Prompt::Ids(_) => false,
    }
}

fn prompt(object: &Object, field: &str) -> Parsed<Prompt> {
    match required(object, field)? {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        value @ Value::Array(_) => split_prompt(parse_messages(value, field)?, field),
        other => Err(Problem::field(field, format!("expected text or a list of messages, got {}", kind(other)))),
    }
}

/// A response given as text, or as a list of one assistant message.
fn response(object: &Object, field: &str) -> Parsed<Option<Response>> {
    let Some(value) = present(object, field) else { return Ok(None) };
    if !value.is_array() {
        return Ok(Some(Response::Text(text(value, field)?)));
    }
    let side = parse_side(value, field)?;
    if side.before.is_empty() {
        Ok(Some(Response::Text(side.answer)))
    } else {
        Err(Problem::field(field, "expected one assistant message; the turns before it belong in `prompt`"))
    }
}

/// The last assistant message is the demonstration, everything before it the prompt.
fn split_conversation(mut messages: Vec<Message>, field: &str) -> Parsed<(Prompt, Option<Response>)> {
    let demonstration = messages.pop_if(|last| last.role == "assistant").map(|last| Response::Text(last.content));
    if messages.is_empty() {
        return Err(Problem::field(field, "there is no message before the assistant's"));
    }
    Ok((split_prompt(messages, field)?, demonstration))
}

fn split_prompt(messages: Vec<Message>, field: &str) -> Parsed<Prompt> {
    match messages.last() {
        Some(last) if matches!(last.role.as_str(), "user" | "tool") => Ok(Prompt::Messages(messages)),
        Some(last) => {
            Err(Problem::field(field, format!("a prompt must end in a user message, this one ends in `{}`", last.role)))
        }
        None => Err(Problem::field(field, "the list of messages is empty")),
    }
}

fn parse_messages(value: &Value, field: &str) -> Parsed<Vec<Message>> {
    parse_turns(value, field, "role", "content", |role| ROLES.contains(&role).then_some(role))
}

fn parse_sharegpt(value: &Value) -> Parsed<Vec<Message>> {
    parse_turns(value, "conversations", "from", "value", |from| match from {
        "human" => Some("user"),
        "gpt" => Some("assistant"),
        role => ROLES.contains(&role).then_some(role),
    })
}

fn parse_turns(
    value: &Value,
    field: &str,
    role_key: &str,
    content_key: &str,
    known_role: impl Fn(&str) -> Option<&str>,
) -> Parsed<Vec<Message>> {
    let Value::Array(items) = value else {
        return Err(Problem::field(field, format!("expected a list of messages, got {}", kind(value))));
    };
    if items.is_empty() {
        return Err(Problem::field(field, "the list of messages is empty"));
    }
    let turn = |(index, item): (usize, &Value)| {
        let place = format!("{field}[{index}]");
        let Value::Object(object) = item else {
            return Err(Problem::field(&place, format!("expected a message, got {}", kind(item))));
        };
        let get = |key: &str| {
            let place = format!("{place}.{key}");
            object.get(key).map_or_else(|| Err(Problem::field(&place, "missing")), |value| text(value, &place))
        };
        let role = get(role_key)?;
        let Some(known) = known_role(&role) else {
            let shown: String = role.chars().take(40).collect();
            return Err(Problem::field(&format!("{place}.{role_key}"), format!("unknown role {shown:?}"))
                .with_hint(format!("the roles are {}", ROLES.join(", "))));
        };
        refuse_calls(object, &place, content_key)?;
        Ok(Message { role: known.to_owned(), content: get(content_key)? })
    };
    items.iter().enumerate().map(turn).collect()
}

/// A call that is not read would be lost, and the content beside it is often empty.
fn refuse_calls(message: &Object, place: &str, content_key: &str) -> Parsed<()> {
    let is_call = |key: &&str| message.get(*key).is_some_and(holds_text);
    let Some(key) = ["tool_calls", "function_call"].into_iter().find(is_call) else { return Ok(()) };
    Err(Problem::field(&format!("{place}.{key}"), "tool calls are not read")
        .with_hint(format!("write the call into `{content_key}` as the model should write it")))
}

fn parse_ids(value: &Value, field: &str) -> Parsed<Vec<u32>> {
    let Value::Array(items) = value else {
        return Err(Problem::field(field, format!("expected a list of token ids, got {}", kind(value))));
    };
    let id = |(index, item): (usize, &Value)| {
        item.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            let place = format!("{field}[{index}]");
            let found = if item.is_number() { item.to_string() } else { kind(item).to_owned() };
            Problem::field(&place, format!("a token id is a whole number from 0 to 4294967295, not {found}"))
        })
    };
    items.iter().enumerate().map(id).collect()
}

/// The value of a key, where JSON's `null` counts as absent: exporters of tables write it for empty cells.
fn present<'a>(object: &'a Object, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

fn required<'a>(object: &'a Object, key: &str) -> Parsed<&'a Value> {
    present(object, key).ok_or_else(|| Problem::field(key, "missing"))
}

/// The response of a row of this shape, in the row itself or in an object of it. One that is missing may be there under
/// another name.
fn required_response<'a>(source: &'a Object, key: &str, row: &Object, shape: Shape) -> Parsed<&'a Value> {
    required(source, key).map_err(|missing| match misnamed(row, shape) {
        Some(found) => Problem::field(&visible(&found.key), found.message).with_hint(found.hint),
        None => missing,
    })
}

fn text(value: &Value, field: &str) -> Parsed<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(Problem::field(field, format!("expected text, got {}", kind(other)))),
    }
}

/// What a value is, in words for an error.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
