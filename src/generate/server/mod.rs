//! Text completions and chat answers by any server with OpenAI's interface, many at a time, with patience for a server in trouble.
//!
//! ```text
//! mod       what is asked and answered; the threads that ask
//! http      one request and its reply
//! reply     what a reply means: an answer, a failure that may pass, a failure that stays
//! pace      when a request may be sent
//! ```
//! It knows neither token ids nor which policy is served; that is [`crate::train`]'s.

mod http;
mod pace;
mod reply;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::sampler::Sampling;
use crate::config::ServerConfig;
use crate::data::rows::Message;
use crate::error::{Error, Result};
use http::Http;
use pace::{Pace, backoff};
use reply::{Failure, read_answer, read_chat_answer, read_models};

/// How long a waiting thread takes to notice that it need not wait any more.
const BLINK: Duration = Duration::from_millis(50);
/// Seeds as every server takes them: below 2^31.
const SEED_BITS: u64 = 0x7fff_ffff;

/// A prompt to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct TextRequest {
    /// Exactly as the model is to read it, beginning token included.
    pub prompt: String,
    pub seed: u64,
    pub max_new_tokens: usize,
    pub sampling: Sampling,
}

/// A conversation to answer. Only what every server with OpenAI's interface knows: hosted ones refuse what they do not.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    pub messages: Vec<Message>,
    pub temperature: f64,
    pub max_new_tokens: usize,
}

/// What a server is asked.
#[derive(Debug)]
enum Question {
    Text(TextRequest),
    Chat(ChatRequest),
}

/// How a prompt was continued.
#[derive(Debug, Clone, PartialEq)]
pub struct TextAnswer {
    /// Without the end token.
    pub text: String,
    /// False if it was cut at the token limit.
    pub finished: bool,
    /// What the server counts; None if it does not say.
    pub num_prompt_tokens: Option<usize>,
}

/// An answer; or what the server said instead, where it may answer other questions.
pub type Answered = std::result::Result<TextAnswer, String>;

/// A server that can be asked.
#[derive(Clone)]
pub struct Server {
    http: Http,
    url: String,
    model: String,
    max_in_flight: usize,
    max_retries: usize,
    pace: Arc<Pace>,
}

impl Server {
    /// Prepares to ask; nothing is sent yet. The key is the environment's.
    ///
    /// # Errors
    /// A build without HTTP, a key that is no header.
    pub fn new(config: &ServerConfig) -> Result<Self> {
        Self::with_key_of(config, None)
    }

    /// [`Self::new`] with the key that an environment variable of this name holds.
    ///
    /// # Errors
    /// As there, and a variable that holds none.
    pub fn with_key_of(config: &ServerConfig, key_variable: Option<&str>) -> Result<Self> {
        let url = config.url.trim_end_matches('/').to_owned();
        let timeout = Duration::from_secs(config.timeout_s as u64);
        Ok(Server {
            http: Http::new(&url, timeout, config.max_in_flight, key_variable)?,
            url,
            model: String::new(),
            max_in_flight: config.max_in_flight,
            max_retries: config.max_retries,
            pace: Arc::new(Pace::new(config.requests_per_minute)),
        })
    }

    /// The same server, asked for the model with this name.
    pub fn with_model(self, model: String) -> Self {
        Server { model, ..self }
    }

    /// The address below which most servers answer, if this is another one.
    pub fn below_v1(&self) -> Option<String> {
        let host = self.url.split_once("/v1/").map_or(self.url.as_str(), |(host, _)| host);
        (!self.url.ends_with("/v1")).then(|| format!("{host}/v1"))
    }

    /// The names of the models that it lists, at the first try; or, inside, why it lists none yet.
    ///
    /// # Errors
    /// [`Error::Server`] where no waiting helps: it wants a key, or another one.
    pub fn models(&self) -> Result<Result<Vec<String>>> {
        let reply = self.http.get("/models");
        let wants_key = reply.as_ref().is_ok_and(|reply| matches!(reply.status, 401 | 403));
        let listed = reply.and_then(|reply| read_models(&reply)).map_err(|failure| self.error(failure.message));
        match listed {
            Err(error) if wants_key => {
                Err(error
                    .with_hint(
                        "it asks for a key, or for another one than it got: of the environment GSIL_API_KEY is sent, or else OPENAI_API_KEY",
                    ))
            }
            listed => Ok(listed.map_err(|error| {
                let below = self.below_v1().map_or_else(String::new, |url| format!(" Most servers answer at {url}"));
                error.with_hint(format!("is it running, and is server.url right?{below}"))
            })),
        }
    }

    /// Continues every prompt. `on_answer` hears of each answer as it comes, in any order; `check` is called several times
    /// a second meanwhile. An error of either ends the work, and answers that are on their way are lost.
    ///
    /// # Errors
    /// [`Error::Server`] for a request that failed for good, named by `name`.
    pub fn complete_all(
        &self,
        requests: Vec<TextRequest>,
        name: &dyn Fn(usize) -> String,
        on_answer: &mut dyn FnMut(usize, TextAnswer) -> Result<()>,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut on_answered = |i: usize, answered: Answered| {
            on_answer(i, answered.map_err(|message| self.error(format!("{}: {message}", name(i))))?)
        };
        self.ask_all(requests.into_iter().map(Question::Text).collect(), name, &mut on_answered, check)
    }

    /// [`Self::complete_all`] for conversations; `on_answered` hears of those, too, that alone have no answer.
    ///
    /// # Errors
    /// [`Error::Server`] for a failure that is not of one request alone: no server, a key or a name that it refuses.
    pub fn chat_all(
        &self,
        requests: Vec<ChatRequest>,
        name: &dyn Fn(usize) -> String,
        on_answered: &mut dyn FnMut(usize, Answered) -> Result<()>,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        self.ask_all(requests.into_iter().map(Question::Chat).collect(), name, on_answered, check)
    }

    fn ask_all(
        &self,
        questions: Vec<Question>,
        name: &dyn Fn(usize) -> String,
        on_answered: &mut dyn FnMut(usize, Answered) -> Result<()>,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let num_requests = questions.len();
        let work = Arc::new(Work { questions, next: AtomicUsize::new(0), is_over: AtomicBool::new(false) });
        let _over = SetOnDrop(Arc::clone(&work));
        let (sender, receiver) = channel();
        for _ in 0..self.max_in_flight.min(num_requests) {
            let (server, work, sender) = (self.clone(), Arc::clone(&work), sender.clone());
            // Not a scoped thread: a person who stops the run does not wait for a server that hangs.
            thread::spawn(move || {
                while let Some(i) = work.take() {
                    let asked = catch_unwind(AssertUnwindSafe(|| server.ask(&work.questions[i], &work.is_over)));
                    let answered = asked.unwrap_or_else(|_| Err(Failure::lasting("the thread that asks it died")));
                    if sender.send((i, answered)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender); // or the loop below would wait for threads that are gone
        let mut num_answered = 0;
        while num_answered < num_requests {
            match receiver.recv_timeout(BLINK) {
                Ok((i, Err(Failure { message, is_of_question: false, .. }))) => {
                    return Err(self.error(format!("{}: {message}", name(i))));
                }
                Ok((i, answered)) => {
                    num_answered += 1;
                    on_answered(i, answered.map_err(|failure| self.http.without_key(&failure.message)))?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.error("a thread that asks it died".to_owned())),
            }
            check()?;
        }
        Ok(())
    }

    /// One answer, after as many tries as may be; the last failure if there is none.
    fn ask(&self, question: &Question, is_over: &AtomicBool) -> std::result::Result<TextAnswer, Failure> {
        let (path, body) = match question {
            Question::Text(request) => ("/completions", self.body(request)),
            Question::Chat(request) => ("/chat/completions", self.chat_body(request)),
        };
        for num_failures in 1.. {
            wait_until(self.pace.turn(Instant::now()), is_over);
            if is_over.load(Ordering::Relaxed) {
                // The wait was cut short: to send now would be out of turn, and nobody hears the answer.
                return Err(Failure::lasting("the work has ended"));
            }
            let answered = self.http.post(path, &body).and_then(|reply| match question {
                Question::Text(_) => read_answer(&reply),
                Question::Chat(_) => read_chat_answer(&reply),
            });
            let failure = match answered {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if !failure.may_pass || num_failures > self.max_retries || is_over.load(Ordering::Relaxed) {
                let tries = if num_failures == 1 { "try" } else { "tries" };
                return Err(Failure { message: format!("{} ({num_failures} {tries})", failure.message), ..failure });
            }
            let wait = backoff(num_failures).max(failure.retry_after.unwrap_or_default());
            if failure.retry_after.is_some() {
                self.pace.hold(Instant::now() + wait); // it is the server that is busy, not this request
            }
            wait_until(Instant::now() + wait, is_over);
        }
        unreachable!("the loop ends by an answer or a failure")
    }

    /// Everything that shapes the distribution is said, because servers' own defaults differ and follow the model's
    /// `generation_config.json`. Servers ignore what they do not know.
    fn body(&self, request: &TextRequest) -> String {
        let Sampling { temperature, top_k, top_p } = request.sampling;
        json!({
            "model": self.model,
            "prompt": request.prompt,
            "max_tokens": request.max_new_tokens,
            "seed": request.seed & SEED_BITS,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0, // vLLM's name
            "repeat_penalty": 1.0,     // llama.cpp's and Ollama's
            "add_special_tokens": false, // vLLM: the prompt has its beginning token
            "stream": false,
        })
        .to_string()
    }

    fn chat_body(&self, request: &ChatRequest) -> String {
        let message = |message: &Message| json!({"role": message.role, "content": message.content});
        json!({
            "model": self.model,
            "messages": request.messages.iter().map(message).collect::<Vec<_>>(),
            "temperature": request.temperature,
            "max_tokens": request.max_new_tokens,
        })
        .to_string()
    }

    /// An error that names the server, with the key taken out of whatever it said.
    pub fn error(&self, message: String) -> Error {
        Error::server(&self.url, self.http.without_key(&message))
    }
}

/// What the threads share.
struct Work {
    questions: Vec<Question>,
    next: AtomicUsize,
    is_over: AtomicBool,
}

impl Work {
    fn take(&self) -> Option<usize> {
        let i = self.next.fetch_add(1, Ordering::Relaxed);
        (i < self.questions.len() && !self.is_over.load(Ordering::Relaxed)).then_some(i)
    }
}

/// Sends the threads home, however the work ends.
struct SetOnDrop(Arc<Work>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

fn wait_until(moment: Instant, is_over: &AtomicBool) {
    while let Some(rest) = moment.checked_duration_since(Instant::now()) {
        if rest.is_zero() || is_over.load(Ordering::Relaxed) {
            return;
        }
        thread::sleep(rest.min(BLINK));
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_waits_for_a_turn_sends_nothing_once_the_work_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let config = ServerConfig { url, requests_per_minute: 1, timeout_s: 1, max_retries: 0, ..Default::default() };
        let server = Server::new(&config).unwrap();
        server.pace.turn(Instant::now()); // the next one comes in a minute
        let question = Question::Chat(ChatRequest { messages: Vec::new(), temperature: 0.0, max_new_tokens: 1 });
        let failure = server.ask(&question, &AtomicBool::new(true)).unwrap_err();
        assert_eq!(failure, Failure::lasting("the work has ended"));
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody has called");
    }
}
