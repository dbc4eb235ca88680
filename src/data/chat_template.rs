//! Chat templates: the Jinja program of a model folder that turns messages into the text the model was trained on.
//!
//! Templates come from strangers, so one runs as an untrusted program: bounded source, work and memory, a stack of its
//! own, no files. The dialect is that of Hugging Face `transformers`: blocks are trimmed, Python's string methods work,
//! and `raise_exception`, `strftime_now` and a `tojson` that leaves HTML alone are there.
//! Not here: tokens. Next: [`super::tokenizer`].

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use chrono::{DateTime, Local, SubsecRound};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::rows::Message;
use crate::error::{Error, Result};

/// Published templates are below 20 KiB.
const MAX_SOURCE_BYTES: usize = 256 << 10;
/// minijinja's parser and its values recurse; long chains overflow a thread's usual 2 or 8 MiB.
const STACK_BYTES: usize = 256 << 20;
/// Instructions of one render. One unit also pays for 64 bytes of data, so memory is bounded too (16 MiB).
const BASE_FUEL: u64 = 1 << 18;
/// Long conversations take more: some loops over the messages, and some hundred copies of their text.
const FUEL_PER_MESSAGE: u64 = 1 << 11;
const FUEL_PER_INPUT_BYTE: u64 = 4;
/// A thousand times what an honest render needs, plus a microsecond per byte of the messages.
const TIME_LIMIT: Duration = Duration::from_millis(800);
const TIME_SLICE: Duration = Duration::from_millis(50);
/// What `tojson` may write.
const MAX_JSON_BYTES: usize = 16 << 20;
/// What a render may write: honest templates print the messages once, and little else.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
const MAX_OUTPUT_PER_INPUT_BYTE: usize = 8;
/// The longest date format.
const MAX_DATE_FORMAT_BYTES: usize = 256;
const TEMPLATE_NAME: &str = "chat_template";

/// A compiled chat template. Renders are independent of each other and may run on any thread.
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    bos_token: Option<String>,
    eos_token: Option<String>,
    /// What [`Self::set_date`] said, else when the template was compiled.
    date: DateTime<Local>,
    /// The template asks for the date.
    prints_date: bool,
    path: PathBuf,
    /// A render did not end in time. Its thread still runs, so that no second one may follow it.
    has_overrun: AtomicBool,
}

impl ChatTemplate {
    /// Compiles `source`. `bos_token` and `eos_token` are what the template sees under these names; `path` is what
    /// errors name.
    ///
    /// # Errors
    /// [`Error::Input`] with the template's line if it is not valid Jinja, and if it is longer than 256 KiB.
    pub fn new(source: &str, bos_token: Option<&str>, eos_token: Option<&str>, path: &Path) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            let message = format!("the chat template is {} bytes long, the limit is {MAX_SOURCE_BYTES}", source.len());
            return Err(Error::input(path, message));
        }
        // Jinja2 knows one line end; a template saved on Windows must not put `\r` into prompts.
        let source = replace_generation_tags(&source.replace("\r\n", "\n").replace('\r', "\n"));
        let prints_date = source.contains("strftime_now");
        let compiled = on_large_stack(path, TIME_LIMIT, move || {
            let mut environment = environment()?;
            environment.add_template_owned(TEMPLATE_NAME, source)?;
            Ok(environment)
        })?;
        let owned = |token: Option<&str>| token.map(str::to_owned);
        let environment = compiled.map_err(|failure| failure.into_error(path, "the chat template is not valid"))?;
        let mut template = ChatTemplate {
            environment: Arc::new(environment),
            bos_token: owned(bos_token),
            eos_token: owned(eos_token),
            date: Local::now().trunc_subsecs(0),
            prints_date,
            path: path.to_owned(),
            has_overrun: AtomicBool::new(false),
        };
        template.set_date(template.date);
        Ok(template)
    }

    /// Makes `date` what the template takes for now: a run that goes on tomorrow must read today's prompts.
    pub fn set_date(&mut self, date: DateTime<Local>) {
        self.date = date;
        let strftime_now = move |format: String| formatted(date, &format);
        Arc::make_mut(&mut self.environment).add_function("strftime_now", strftime_now);
    }

    /// The date that the template prints, if it does.
    pub fn printed_date(&self) -> Option<DateTime<Local>> {
        self.prints_date.then_some(self.date)
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the assistant is to begin.
    ///
    /// # Errors
    /// [`Error::Input`] with the template's line: the template refuses the messages, uses something unknown, or asks
    /// for more work or memory than any honest template needs.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        if self.has_overrun.load(Ordering::Relaxed) {
            return Err(
                Error::input(&self.path, "did not end in time before, and is not tried again").at("chat template")
            );
        }
        let environment = Arc::clone(&self.environment);
        let num_bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        let fuel = BASE_FUEL + FUEL_PER_MESSAGE * messages.len() as u64 + FUEL_PER_INPUT_BYTE * num_bytes as u64;
        let message = |m: &Message| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]);
        let time_limit = TIME_LIMIT + Duration::from_micros(num_bytes as u64);
        let messages: Vec<Value> = messages.iter().map(message).collect();
        let (bos_token, eos_token) = (self.bos_token.clone(), self.eos_token.clone());
        let rendered = on_large_stack(&self.path, time_limit, move || {
            let mut environment = Environment::clone(&environment);
            environment.set_fuel(Some(fuel));
            let context = context! {
                messages => messages, add_generation_prompt => add_generation_prompt,
                bos_token => bos_token.unwrap_or_default(), eos_token => eos_token.unwrap_or_default(),
                tools => (), documents => (),
            };
            let mut output =
                Capped { bytes: Vec::new(), max_bytes: MAX_OUTPUT_BYTES + MAX_OUTPUT_PER_INPUT_BYTE * num_bytes };
            environment.get_template(TEMPLATE_NAME)?.render_captured_to(context, &mut output)?;
            output.into_text(ErrorKind::InvalidOperation)
        });
        let rendered = rendered.inspect_err(|_| self.has_overrun.store(true, Ordering::Relaxed))?;
        rendered.map_err(|failure| failure.into_error(&self.path, "the chat template cannot render these messages"))
    }
}

/// The dialect of `transformers`, without any way to load other templates.
fn environment() -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_filter("tojson", to_json);
    Ok(environment)
}

/// What went wrong inside the template's thread, in a form that can leave it.
struct Failure {
    line: Option<usize>,
    message: String,
}

impl Failure {
    fn from_template(error: minijinja::Error) -> Self {
        let message = match (error.kind(), error.detail()) {
            (ErrorKind::OutOfFuel, _) => "it needs too much work or memory".to_owned(),
            (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
            (kind, Some(detail)) => format!("{kind}: {detail}"),
            (kind, None) => kind.to_string(),
        };
        Failure { line: error.line(), message }
    }

    fn into_error(self, path: &Path, what: &str) -> Error {
        let error = Error::input(path, format!("{what}: {}", self.message));
        error.at(self.line.map_or_else(|| "chat template".to_owned(), |line| format!("chat template line {line}")))
    }
}

/// Runs `work` on a thread of its own with a large stack and a time limit; a panic in it becomes an error. The outer
/// result is the thread's, the inner one the template's.
///
/// The limit is for what fuel does not count: a list added to itself 60 times is small until something asks for its
/// length. A thread that runs over it cannot be stopped and is left behind until the command ends, which this error makes
/// it do.
fn on_large_stack<T: Send + 'static>(
    path: &Path,
    time_limit: Duration,
    work: impl FnOnce() -> std::result::Result<T, minijinja::Error> + Send + 'static,
) -> Result<std::result::Result<T, Failure>> {
    let failed = |message: String| Error::input(path, message).at("chat template");
    let (sender, receiver) = mpsc::channel();
    let work = move || {
        // Nobody listens any more if the time is over.
        let _ = sender.send(work().map_err(Failure::from_template));
    };
    let thread = std::thread::Builder::new().name("chat template".to_owned()).stack_size(STACK_BYTES).spawn(work);
    thread.map_err(|error| failed(format!("cannot run the chat template: {error}")))?;
    // In slices, so that the time in which this program is stopped (Ctrl-Z, then `fg`) is not held against the template.
    for _ in 0..time_limit.div_duration_f64(TIME_SLICE).ceil() as usize {
        match receiver.recv_timeout(TIME_SLICE) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(failed("the chat template made its interpreter fail".to_owned()));
            }
        }
    }
    Err(failed(format!("the chat template did not end within {time_limit:?}")))
}

/// `{% generation %}` marks the assistant's text for trainers and prints nothing. It becomes an `if true`, which keeps
/// lines and whitespace as they are.
fn replace_generation_tags(source: &str) -> String {
    let mut replaced = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        replaced.push_str(before);
        let body = tag.trim_start_matches(['-', '+']).trim_start();
        let name_len = body.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(body.len());
        let (name, after) = body.split_at(name_len);
        let replacement = match name {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => name,
        };
        replaced.push_str(&tag[..tag.len() - body.len()]);
        replaced.push_str(replacement);
        rest = after;
    }
    replaced.push_str(rest);
    replaced
}

/// A date in a format of C's `strftime`, as `transformers` offers today's to templates.
fn formatted(date: DateTime<Local>, format: &str) -> std::result::Result<String, minijinja::Error> {
    let mut text = String::new();
    if format.len() > MAX_DATE_FORMAT_BYTES || write!(text, "{}", date.format(format)).is_err() {
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "strftime_now does not know this date format"));
    }
    Ok(text)
}

/// JSON as Python's `json.dumps(ensure_ascii=False)` writes it, without escapes for HTML.
fn to_json(value: &Value, indent: Option<usize>, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut output = Capped { bytes: Vec::new(), max_bytes: MAX_JSON_BYTES };
    let written = match indent {
        Some(indent) => {
            let spaces = vec![b' '; indent.min(64)];
            value.serialize(&mut Serializer::with_formatter(&mut output, PrettyFormatter::with_indent(&spaces)))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut output, SpacedFormatter)),
    };
    written.map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    output.into_text(ErrorKind::BadSerialization)
}

/// A buffer that refuses to grow without end: nested lists can be exponentially longer in print than in memory.
struct Capped {
    bytes: Vec<u8>,
    max_bytes: usize,
}

impl Capped {
    fn into_text(self, kind: ErrorKind) -> std::result::Result<String, minijinja::Error> {
        String::from_utf8(self.bytes).map_err(|error| minijinja::Error::new(kind, error.to_string()))
    }
}

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.max_bytes {
            return Err(io::Error::other(format!("it writes more than {} bytes", self.max_bytes)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line, with a space after each comma and colon.
struct SpacedFormatter;

impl Formatter for SpacedFormatter {
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    fn template(source: &str) -> Result<ChatTemplate> {
        ChatTemplate::new(source, Some("<s>"), Some("</s>"), Path::new("model"))
    }

    fn user(content: &str) -> Vec<Message> {
        vec![Message { role: "user".into(), content: content.into() }]
    }

    fn render(source: &str) -> Result<String> {
        template(source)?.render(&user("Hi"), true)
    }

    /// tests/fixtures/tokenizer/expected.json is what Python's jinja2 3.1.6 renders: see make.py beside it.
    #[test]
    fn every_fixture_template_renders_as_pythons_jinja_does() {
        let expected: Json =
            serde_json::from_str(include_str!("../../tests/fixtures/tokenizer/expected.json")).unwrap();
        let sources = [
            ("chatml.jinja", include_str!("../../tests/fixtures/tokenizer/templates/chatml.jinja")),
            ("chatml_multiline.jinja", include_str!("../../tests/fixtures/tokenizer/templates/chatml_multiline.jinja")),
            ("headers.jinja", include_str!("../../tests/fixtures/tokenizer/templates/headers.jinja")),
            ("inst.jinja", include_str!("../../tests/fixtures/tokenizer/templates/inst.jinja")),
            ("zephyr.jinja", include_str!("../../tests/fixtures/tokenizer/templates/zephyr.jinja")),
        ];
        let renders = expected["renders"].as_array().unwrap();
        assert_eq!(renders.len(), 30);
        for case in renders {
            let (_, source) = sources.iter().find(|(name, _)| case["template"] == *name).unwrap();
            let messages: Vec<Message> = case["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|message| Message {
                    role: message["role"].as_str().unwrap().into(),
                    content: message["content"].as_str().unwrap().into(),
                })
                .collect();
            let today = chrono::Local::now().format("%d %b %Y").to_string();
            let expected = case["text"].as_str().unwrap().replace("DATE", &today);
            for source in [(*source).to_owned(), source.replace('\n', "\r\n"), source.replace('\n', "\r")] {
                let template = template(&source).unwrap();
                let rendered = template.render(&messages, case["add_generation_prompt"] == true).unwrap();
                assert_eq!(rendered, expected, "{}", case["template"]);
            }
        }
    }

    #[test]
    fn a_refusal_of_the_template_names_its_line_and_its_words() {
        let source = "{% if true %}\n{{ raise_exception('roles must take turns') }}\n{% endif %}";
        assert_eq!(
            render(source).unwrap_err().to_string(),
            "model, chat template line 2: the chat template cannot render these messages: roles must take turns"
        );
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let error = template("ok\n{% for x in %}{% endfor %}").err().unwrap().to_string();
        assert!(
            error.starts_with("model, chat template line 2: the chat template is not valid: syntax error"),
            "{error}"
        );
    }

    /// Literals: Python's json.dumps(ensure_ascii=False), the second with indent=2.
    #[test]
    fn tojson_writes_what_python_writes_and_leaves_html_alone() {
        let value = "{'a': [1, 2.5, '<é&\\'>'], 'b': none}";
        assert_eq!(render(&format!("{{{{ {value} | tojson }}}}")).unwrap(), r#"{"a": [1, 2.5, "<é&'>"], "b": null}"#);
        assert_eq!(
            render(&format!("{{{{ {value} | tojson(indent=2) }}}}")).unwrap(),
            "{\n  \"a\": [\n    1,\n    2.5,\n    \"<é&'>\"\n  ],\n  \"b\": null\n}"
        );
    }

    #[test]
    fn generation_tags_keep_their_whitespace_control() {
        assert_eq!(
            render("a \n{%- generation -%}\n b \n{%+ endgeneration %}\nc{% raw %}{%{% endraw %}").unwrap(),
            "ab \nc{%"
        );
        assert_eq!(replace_generation_tags("{%generation%}{% generations %}{%"), "{%if true%}{% generations %}{%");
    }

    /// The text is that of Python's jinja2 3.1.6 with its extension `loopcontrols`, which transformers switches on.
    #[test]
    fn loops_are_left_and_gone_on_with_and_still_bounded() {
        let source = "{%- for n in [1, 2, 3, 4, 5] %}{% if n == 2 %}{% continue %}{% endif %}{{ n }}\n\
                      {%- if n == 4 %}{%- break -%}{% endif %}, {% endfor %}.";
        assert_eq!(render(source).unwrap(), "1, 3, 4.");
        assert!(render("{% break %}").is_err(), "outside of a loop it means nothing");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% continue %}{% endfor %}{% endfor %}";
        let error = render(endless).unwrap_err().to_string();
        assert!(error.contains("it needs too much work or memory"), "{error}");
    }

    #[test]
    fn an_unknown_date_format_is_an_error() {
        for format in ["%Q", "%", &"%c".repeat(1000)] {
            assert!(render(&format!("{{{{ strftime_now('{format}') }}}}")).is_err(), "{format}");
        }
    }
}
