//! What a server's reply means.

use std::time::Duration;

use serde::Deserialize;

use super::TextAnswer;

/// How much of an unexpected reply is shown.
const SHOWN_CHARS: usize = 200;
/// A server that asks for a longer wait is not waited for so long.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A reply as it came.
#[derive(Debug, Default)]
pub struct Reply {
    pub status: u16,
    /// The header.
    pub retry_after: Option<String>,
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug, PartialEq)]
pub struct Failure {
    pub message: String,
    /// It may be better in a while.
    pub may_pass: bool,
    /// It is about what was asked: the server may answer other questions.
    pub is_of_question: bool,
    /// The server's own wish.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub fn passing(message: impl Into<String>) -> Self {
        Failure { message: message.into(), may_pass: true, is_of_question: false, retry_after: None }
    }

    pub fn lasting(message: impl Into<String>) -> Self {
        Failure { message: message.into(), may_pass: false, is_of_question: false, retry_after: None }
    }

    fn of_question(self) -> Self {
        Failure { is_of_question: true, ..self }
    }
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    text: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ChatCompletion {
    choices: Vec<ChatChoice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct ChatChoice {
    message: ChatMessage,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ChatMessage {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// The answer in a reply of `/completions`. An answer that is no answer may be one at the next try.
pub fn read_answer(reply: &Reply) -> Result<TextAnswer, Failure> {
    check_status(reply)?;
    let Completion { choices, usage } = read_json(reply)?;
    let choices = choices.into_iter().map(|choice| (choice.text, choice.finish_reason)).collect();
    answer_of(choices, usage, reply)
}

/// [`read_answer`] for a reply of `/chat/completions`.
pub fn read_chat_answer(reply: &Reply) -> Result<TextAnswer, Failure> {
    check_status(reply)?;
    let ChatCompletion { choices, usage } = read_json(reply)?;
    let choices = choices.into_iter().map(|choice| (choice.message.content, choice.finish_reason)).collect();
    answer_of(choices, usage, reply)
}

/// From what each choice says and what ended it.
fn answer_of(
    choices: Vec<(Option<String>, Option<String>)>,
    usage: Option<Usage>,
    reply: &Reply,
) -> Result<TextAnswer, Failure> {
    let no_answer = |message: String| Err(Failure::passing(message).of_question());
    let [(Some(text), Some(reason))] = choices.as_slice() else {
        return no_answer(format!("not one choice with its text and finish_reason: {}", shown(&reply.body)));
    };
    let finished = match reason.as_str() {
        "stop" => true,
        "length" => false,
        other => return no_answer(format!("finish_reason `{}` is neither `stop` nor `length`", shown(other))),
    };
    if text.is_empty() && !finished {
        return no_answer("an empty answer that is said to be too long".to_owned());
    }
    // Some servers count 0 where they had the prompt in a cache.
    let num_prompt_tokens = usage.and_then(|usage| usage.prompt_tokens).filter(|count| *count > 0);
    Ok(TextAnswer { text: text.clone(), finished, num_prompt_tokens })
}

/// The names in a reply of `/models`.
pub fn read_models(reply: &Reply) -> Result<Vec<String>, Failure> {
    check_status(reply)?;
    let Models { data } = read_json(reply)?;
    Ok(data.into_iter().map(|model| model.id).collect())
}

fn read_json<'a, T: Deserialize<'a>>(reply: &'a Reply) -> Result<T, Failure> {
    serde_json::from_str(&reply.body)
        .map_err(|error| Failure::passing(format!("not the JSON that was expected ({error}): {}", shown(&reply.body))))
}

/// Statuses that a busy or restarting server gives are taken to pass; what is wrong with the request itself stays wrong. A
/// body that is wrong or too long need not be so in other requests, unlike a key, an address or a model's name.
fn check_status(reply: &Reply) -> Result<(), Failure> {
    let Reply { status, body, retry_after } = reply;
    match status {
        200..=299 => Ok(()),
        408 | 409 | 425 | 429 | 500..=599 => Err(Failure {
            retry_after: retry_after.as_deref().and_then(read_retry_after),
            ..Failure::passing(format!("HTTP {status}: {}", shown(body)))
        }),
        400 | 413 | 422 => Err(Failure::lasting(format!("HTTP {status}: {}", shown(body))).of_question()),
        _ => Err(Failure::lasting(format!("HTTP {status}: {}", shown(body)))),
    }
}

/// Seconds, or a date.
fn read_retry_after(header: &str) -> Option<Duration> {
    let header = header.trim();
    let wait = match header.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => {
            let date = chrono::DateTime::parse_from_rfc2822(header).ok()?;
            (date.to_utc() - chrono::Utc::now()).to_std().unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// The beginning of a text on one line.
fn shown(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}..", &line[..end]),
        None if line.is_empty() => "nothing".to_owned(),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(body: &str) -> Result<TextAnswer, Failure> {
        read_answer(&Reply { status: 200, body: body.to_owned(), ..Reply::default() })
    }

    #[test]
    fn an_answer_is_read_with_what_ended_it_and_what_the_server_counts() {
        let body = json!({
            "id": "cmpl-1", "object": "text_completion", "model": "m",
            "choices": [{"index": 0, "text": " four", "logprobs": null, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        });
        let expected = TextAnswer { text: " four".to_owned(), finished: true, num_prompt_tokens: Some(5) };
        assert_eq!(answer(&body.to_string()).unwrap(), expected);
        let cut = answer(r#"{"choices":[{"text":"a","finish_reason":"length"}]}"#).unwrap();
        assert!(!cut.finished && cut.num_prompt_tokens.is_none());
        assert!(answer(r#"{"choices":[{"text":"","finish_reason":"stop"}]}"#).unwrap().text.is_empty());
    }

    #[test]
    fn a_chat_answer_is_read_and_one_without_content_may_pass() {
        let read = |body: &str| read_chat_answer(&Reply { status: 200, body: body.to_owned(), ..Reply::default() });
        let answer = read(r#"{"choices":[{"message":{"role":"assistant","content":"[[7]]"},"finish_reason":"stop"}]}"#);
        assert_eq!(answer.unwrap().text, "[[7]]");
        for body in [
            r#"{"choices":[{"text":"a","finish_reason":"stop"}]}"#,
            r#"{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}"#,
        ] {
            assert!(read(body).unwrap_err().may_pass, "{body}");
        }
    }

    #[test]
    fn what_is_no_answer_may_pass_and_is_shown() {
        for body in [
            "",
            "<html>starting</html>",
            "{\"choices\":[{\"text\":\"to",
            r#"{"choices":[]}"#,
            r#"{"choices":[{"text":null,"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"text":"a","finish_reason":null}]}"#,
            r#"{"choices":[{"text":"a","finish_reason":"content_filter"}]}"#,
            r#"{"choices":[{"text":"","finish_reason":"length"}]}"#,
            r#"{"choices":[{"text":"a","finish_reason":"stop"},{"text":"b","finish_reason":"stop"}]}"#,
        ] {
            assert!(answer(body).unwrap_err().may_pass, "{body}");
        }
        assert!(answer("<html>starting</html>").unwrap_err().message.contains("<html>starting"));
        assert!(answer(&"x".repeat(1_000_000)).unwrap_err().message.len() < 400);
    }

    #[test]
    fn what_is_wrong_with_one_question_is_told_from_what_is_wrong_with_all() {
        let failure = |status, body: &str| {
            read_chat_answer(&Reply { status, body: body.to_owned(), ..Reply::default() }).unwrap_err()
        };
        for (status, body) in [
            (400, "maximum context length is 4096 tokens"),
            (413, "too large"),
            (422, "no"),
            (200, r#"{"choices":[{"message":{"content":"I"},"finish_reason":"content_filter"}]}"#),
            (200, r#"{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}]}"#),
            (200, r#"{"choices":[{"message":{"content":""},"finish_reason":"length"}]}"#),
        ] {
            assert!(failure(status, body).is_of_question, "{status} {body}");
        }
        for (status, body) in
            [(401, "no key"), (403, "no"), (404, "no such model"), (503, "starting"), (200, "<html>starting</html>")]
        {
            assert!(!failure(status, body).is_of_question, "{status} {body}");
        }
    }

    #[test]
    fn a_busy_server_may_pass_and_a_wrong_request_does_not() {
        let failure = |status, retry_after: Option<&str>| {
            let retry_after = retry_after.map(str::to_owned);
            read_answer(&Reply { status, retry_after, body: "no".to_owned() }).unwrap_err()
        };
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(failure(status, None).may_pass, "{status}");
        }
        for status in [301, 400, 401, 403, 404, 413, 422] {
            assert!(!failure(status, None).may_pass, "{status}");
        }
        assert_eq!(failure(429, Some("7")).retry_after, Some(Duration::from_secs(7)));
        assert_eq!(failure(429, Some("0.5")).retry_after, Some(Duration::from_millis(500)));
        assert_eq!(failure(503, Some("Wed, 21 Oct 2015 07:28:00 GMT")).retry_after, Some(Duration::ZERO));
        assert_eq!(failure(503, Some("1e300")).retry_after, None);
        assert_eq!(failure(503, Some("1e9")).retry_after, Some(LONGEST_RETRY_AFTER));
        assert_eq!(failure(503, Some("soon")).retry_after, None);
    }
}
