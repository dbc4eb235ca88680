//! A generation server of our own: OpenAI's `/v1/completions`, `/v1/chat/completions` and `/v1/models` on a free port, which answers with a real
//! policy or as a test wants, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use burn::module::Module;
use gsil::generate::sampler::Sampling;
use gsil::generate::{Decoding, Event, Request, generate};
use gsil::model::CausalLm;
use gsil::policy::Policy;
use gsil::report::console::Console;
use serde_json::{Value, json};

use super::flex;

/// What a client hears.
pub enum Reply {
    /// A whole answer.
    Text { text: String, finish_reason: &'static str, num_prompt_tokens: Option<usize> },
    /// This status, with a `Retry-After` header if there is one.
    Status(u16, Option<&'static str>, String),
    /// Status 200 and this body.
    Body(String),
    /// The head of a reply that promises more than comes.
    Torn,
    /// The reply after a while.
    Late(Duration, Box<Reply>),
}

impl Reply {
    pub fn text(text: &str) -> Self {
        Reply::Text { text: text.to_owned(), finish_reason: "stop", num_prompt_tokens: None }
    }

    /// An answer of `/v1/chat/completions`.
    pub fn chat(text: &str) -> Self {
        let choice = json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"});
        Reply::Body(json!({"object": "chat.completion", "choices": [choice]}).to_string())
    }
}

/// What the server was asked.
#[derive(Clone)]
pub struct Asked {
    pub body: Value,
    pub authorization: Option<String>,
    pub at: Instant,
}

impl Asked {
    /// True for the greedy questions by which a run finds out what is served.
    pub fn is_probe(&self) -> bool {
        self.body["temperature"] == 0.0 && self.body["seed"] == 0
    }
}

#[derive(Default)]
struct Memory {
    asked: Mutex<Vec<Asked>>,
    num_in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// A running server; it ends with the value. Every connection has a thread of its own: a pool of threads would be held up by
/// connections that are kept open.
pub struct MockServer {
    pub url: String,
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    memory: Arc<Memory>,
}

impl MockServer {
    /// `answer` gets the request's JSON and how many were asked before it; `models` names what is served.
    pub fn start(
        models: impl Fn() -> Vec<String> + Send + Sync + 'static,
        answer: impl Fn(&Value, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (is_over, memory) = (Arc::new(AtomicBool::new(false)), Arc::new(Memory::default()));
        let (over, kept, work) = (Arc::clone(&is_over), Arc::clone(&memory), Arc::new((models, answer)));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (memory, work) = (Arc::clone(&kept), Arc::clone(&work));
                thread::spawn(move || converse(&stream.unwrap(), &memory, &work.0, &work.1));
            }
        });
        MockServer { url: format!("http://{address}/v1"), address, is_over, memory }
    }

    /// A server of one policy.
    pub fn of_policy(folder: &Path) -> Self {
        let served = ServedPolicy::open(folder);
        MockServer::start(|| vec!["policy".to_owned()], move |body, _| served.answer(body))
    }

    /// Every question for a completion, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.memory.asked.lock().unwrap().clone()
    }

    /// Those that are no probes.
    pub fn asked_for_responses(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| !asked.is_probe()).collect()
    }

    /// The most questions that were on their way at once.
    pub fn most_in_flight(&self) -> usize {
        self.memory.most_in_flight.load(Ordering::SeqCst)
    }
}

impl Drop for MockServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the thread that waits for connections
    }
}

/// Answers what comes over one connection until its other end is gone.
fn converse(
    stream: &TcpStream,
    memory: &Memory,
    models: &dyn Fn() -> Vec<String>,
    answer: &dyn Fn(&Value, usize) -> Reply,
) {
    let mut reader = BufReader::new(stream);
    while let Some(HttpRequest { path, authorization, body }) = read_request(&mut reader) {
        let reply = match path.as_str() {
            "/v1/models" => {
                let data: Vec<Value> = models().into_iter().map(|id| json!({"id": id, "object": "model"})).collect();
                Reply::Body(json!({"object": "list", "data": data}).to_string())
            }
            "/v1/completions" | "/v1/chat/completions" => {
                let body: Value = serde_json::from_str(&body).unwrap();
                memory.count_while(Asked { body, authorization, at: Instant::now() }, answer)
            }
            _ => Reply::Status(404, None, format!("no {path} here")),
        };
        if !send(stream, reply) {
            return;
        }
    }
}

impl Memory {
    /// Remembers the question and makes the reply; it is on its way meanwhile.
    fn count_while(&self, asked: Asked, answer: &dyn Fn(&Value, usize) -> Reply) -> Reply {
        let body = asked.body.clone();
        let num_before = {
            let mut all = self.asked.lock().unwrap();
            all.push(asked);
            all.len() - 1
        };
        let num_in_flight = self.num_in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(num_in_flight, Ordering::SeqCst);
        let reply = match answer(&body, num_before) {
            Reply::Late(wait, reply) => {
                thread::sleep(wait);
                *reply
            }
            reply => reply,
        };
        self.num_in_flight.fetch_sub(1, Ordering::SeqCst);
        reply
    }
}

struct HttpRequest {
    path: String,
    authorization: Option<String>,
    body: String,
}

/// None once the other end has closed.
fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<HttpRequest> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|num_bytes| *num_bytes > 0)?;
    let path = line.split(' ').nth(1).unwrap().to_owned();
    let (mut authorization, mut len) = (None, 0);
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_owned()),
            "content-length" => len = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    Some(HttpRequest { path, authorization, body: String::from_utf8(body).unwrap() })
}

/// False if the connection is to end. A client that has gone away is no concern of the server's.
fn send(mut stream: &TcpStream, reply: Reply) -> bool {
    let (status, header, body) = match reply {
        Reply::Text { text, finish_reason, num_prompt_tokens } => {
            let choice = json!({"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": null});
            let usage = num_prompt_tokens.map(|count| json!({"prompt_tokens": count, "completion_tokens": 1}));
            (200, String::new(), json!({"choices": [choice], "usage": usage}).to_string())
        }
        Reply::Body(body) => (200, String::new(), body),
        Reply::Status(status, retry_after, body) => {
            (status, retry_after.map(|wait| format!("Retry-After: {wait}\r\n")).unwrap_or_default(), body)
        }
        Reply::Torn => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"choices\": [{\"te");
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return false;
        }
        Reply::Late(..) => panic!("a late reply is one reply"),
    };
    let head = format!("HTTP/1.1 {status} Said\r\n{header}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).is_ok()
}

/// A policy that answers as a server would: text in, text out, its tokens counted.
pub struct ServedPolicy {
    policy: Policy,
    model: Mutex<CausalLm>,
}

impl ServedPolicy {
    pub fn open(folder: &Path) -> Self {
        let policy = Policy::open(folder).unwrap();
        let model = policy.load(&flex(), &Console::stderr()).unwrap().valid();
        ServedPolicy { policy, model: Mutex::new(model) }
    }

    pub fn answer(&self, body: &Value) -> Reply {
        let tokenizer = self.policy.tokenizer.as_ref().unwrap();
        let prompt_ids = tokenizer.encode(body["prompt"].as_str().unwrap()).unwrap();
        self.continue_ids(prompt_ids, body)
    }

    /// [`Self::answer`] by a server that writes `first` before every prompt.
    pub fn answer_after(&self, first: u32, body: &Value) -> Reply {
        let tokenizer = self.policy.tokenizer.as_ref().unwrap();
        let own = tokenizer.encode(body["prompt"].as_str().unwrap()).unwrap();
        self.continue_ids([vec![first], own].concat(), body)
    }

    fn continue_ids(&self, prompt_ids: Vec<u32>, body: &Value) -> Reply {
        let num_prompt_tokens = Some(prompt_ids.len());
        let request = Request { prompt_ids, seed: body["seed"].as_u64().unwrap(), max_new_tokens: None };
        let number = |key: &str| body[key].as_f64().unwrap();
        let decoding = Decoding {
            sampling: Sampling {
                temperature: number("temperature"),
                top_k: number("top_k") as usize,
                top_p: number("top_p"),
            },
            max_new_tokens: number("max_tokens") as usize,
            batch_size: 1,
            eos_token_ids: self.policy.eos_token_ids.clone(),
        };
        let mut response = None;
        generate(&self.model.lock().unwrap(), &[request], &decoding, &mut |event| {
            if let Event::Done(_, done) = event {
                response = Some(done);
            }
            Ok(())
        })
        .unwrap();
        let response = response.unwrap();
        let text = self.policy.tokenizer.as_ref().unwrap().decode(&response.token_ids).unwrap();
        // As servers give it: what follows a word begins with a space.
        let text = if text.is_empty() { text } else { format!(" {text}") };
        let finish_reason = if response.finished { "stop" } else { "length" };
        Reply::Text { text, finish_reason, num_prompt_tokens }
    }
}

/// A policy that changes when the file with the path of its folder does.
pub struct Switching {
    pub path_file: PathBuf,
    served: Mutex<Option<(String, Arc<ServedPolicy>)>>,
}

impl Switching {
    pub fn new(path_file: PathBuf) -> Self {
        Switching { path_file, served: Mutex::new(None) }
    }

    /// The path in the file, as servers name their models.
    pub fn model(&self) -> Vec<String> {
        std::fs::read_to_string(&self.path_file).map(|path| vec![path.trim().to_owned()]).unwrap_or_default()
    }

    pub fn answer(&self, body: &Value) -> Reply {
        let path = self.model().remove(0);
        assert_eq!(body["model"], path);
        let mut served = self.served.lock().unwrap();
        let policy = match &*served {
            Some((own, policy)) if *own == path => Arc::clone(policy),
            _ => {
                let policy = Arc::new(ServedPolicy::open(Path::new(&path)));
                *served = Some((path, Arc::clone(&policy)));
                policy
            }
        };
        drop(served);
        policy.answer(body)
    }
}
