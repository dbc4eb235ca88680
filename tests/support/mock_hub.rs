//! A Hugging Face hub on this machine: the part of its protocol that downloads use, with faults to order.
//!
//! Like the real one it serves small files itself, under git's hash, and redirects requests for large ones to another host
//! (here: another port), under SHA-256. Answers are written byte by byte, since an HTTP library would not send a torn one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const TOKEN: &str = "hf_aVerySecretTokenOfNobody";
/// What the addresses of redirects are signed with.
pub const SIGNATURE: &str = "SignatureThatNobodyShouldSee";

/// The files of a commit by their names.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `HEAD /o/n/resolve/..`, or `cdn GET /..` at the other host.
    pub line: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
    pub accept_encoding: Option<String>,
}

/// What goes wrong.
#[derive(Clone, Default)]
pub struct Faults {
    /// This status and `X-Error-Code` for every request whose path has the text in it.
    pub status: Option<(&'static str, u16, &'static str)>,
    /// This content for a file, under the hash of the right one.
    pub content: Option<(&'static str, Vec<u8>)>,
    /// Transfers of this file end after so many bytes, this often.
    pub torn: Option<(&'static str, usize, usize)>,
    /// Every content is sent whole, whatever part was asked for.
    pub no_ranges: bool,
    /// These headers instead of the right ones.
    pub headers: Vec<(&'static str, String)>,
    /// This text instead of a listing.
    pub listing: Option<String>,
    /// Listings are somewhere else.
    pub listing_moved_to_other_host: bool,
    /// Contents take so long.
    pub delay: Duration,
}

#[derive(Default)]
struct State {
    /// By `models/owner/name` and commit.
    commits: BTreeMap<(String, String), Files>,
    /// By `models/owner/name` and branch.
    branches: BTreeMap<(String, String), String>,
    seen: Vec<Seen>,
    faults: Faults,
    other_host: String,
}

/// The two servers. They end with the process.
pub struct MockHub {
    pub url: String,
    state: Arc<Mutex<State>>,
}

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Bytes that are really sent.
    num_sent: usize,
}

impl MockHub {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        state.lock().unwrap().other_host = serve(state.clone(), "cdn ", other_host);
        MockHub { url: serve(state.clone(), "", hub), state }
    }

    /// Adds a commit to the branch `main` of `models/owner/name` or `datasets/owner/name`; its hash.
    pub fn commit(&self, repository: &str, files: Files) -> String {
        let mut state = self.state.lock().unwrap();
        let commit = hex(&Sha1::digest(format!("{repository} {}", state.commits.len())));
        state.branches.insert((repository.to_owned(), "main".to_owned()), commit.clone());
        state.commits.insert((repository.to_owned(), commit.clone()), files);
        commit
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    /// The requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }

    /// The requests since the last call whose line has the text in it.
    pub fn seen_with(&self, text: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.line.contains(text)).collect()
    }
}

fn serve(state: Arc<Mutex<State>>, place: &'static str, answer: fn(&mut State, &Request) -> Reply) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let state = state.clone();
            std::thread::spawn(move || stream.map(|stream| converse(&state, place, answer, stream)));
        }
    });
    url
}

/// One request and its reply. A client that goes away is its own affair.
fn converse(state: &Mutex<State>, place: &str, answer: fn(&mut State, &Request) -> Reply, mut stream: TcpStream) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(first) = lines.next() else { return };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let header = |line: String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let request = Request { headers: lines.filter_map(header).collect(), method, path };
    let (reply, delay) = {
        let mut state = state.lock().unwrap();
        let get = |name: &str| request.headers.get(name).cloned();
        state.seen.push(Seen {
            line: format!("{place}{} {}", request.method, request.path),
            authorization: get("authorization"),
            range: get("range"),
            accept_encoding: get("accept-encoding"),
        });
        (answer(&mut state, &request), state.faults.delay)
    };
    if !place.is_empty() {
        std::thread::sleep(delay);
    }
    let mut text =
        format!("HTTP/1.1 {} -\r\nContent-Length: {}\r\nConnection: close\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        text += &format!("{name}: {value}\r\n");
    }
    let body = if request.method == "HEAD" { &[] } else { &reply.body[..reply.num_sent] };
    let _ = stream.write_all(&[text.as_bytes(), b"\r\n", body].concat());
}

impl Reply {
    fn new(status: u16, headers: &[(&str, String)], body: Vec<u8>) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Reply { status, headers, num_sent: body.len(), body }
    }
}

/// The hub itself: listings, small files, and where large ones are.
fn hub(state: &mut State, request: &Request) -> Reply {
    if let Some((place, status, reason)) = state.faults.status
        && request.path.contains(place)
    {
        return Reply::new(
            status,
            &[("X-Error-Code", reason.to_owned())],
            format!("{request_echo:?}", request_echo = request.headers).into_bytes(),
        );
    }
    match request.path.strip_prefix("/api/") {
        Some(_) if state.faults.listing_moved_to_other_host => {
            let target = format!("{}{}", state.other_host, request.path);
            Reply::new(307, &[("Location", target)], Vec::new())
        }
        Some(path) => compressed(listing(state, path), request),
        None => file(state, request),
    }
}

/// With gzip, if that was asked for.
fn compressed(mut reply: Reply, request: &Request) -> Reply {
    if request.headers.get("accept-encoding").is_some_and(|encodings| encodings.contains("gzip")) {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&reply.body).unwrap();
        reply.body = encoder.finish().unwrap();
        reply.num_sent = reply.body.len();
        reply.headers.push(("Content-Encoding".to_owned(), "gzip".to_owned()));
    }
    reply
}

fn listing(state: &State, path: &str) -> Reply {
    let not_found = |reason: &str| Reply::new(404, &[("X-Error-Code", reason.to_owned())], Vec::new());
    if let Some(text) = &state.faults.listing {
        return Reply::new(200, &[], text.clone().into_bytes());
    }
    let (repository, revision) = path.split_once("/revision/").unwrap();
    if !state.branches.keys().any(|(known, _)| known == repository) {
        return not_found("RepoNotFound");
    }
    let commit = state.branches.get(&(repository.to_owned(), revision.to_owned())).cloned();
    let commit = commit.unwrap_or_else(|| revision.to_owned());
    let Some(files) = state.commits.get(&(repository.to_owned(), commit.clone())) else {
        return not_found("RevisionNotFound");
    };
    let siblings: Vec<_> = files.keys().map(|name| json!({"rfilename": name})).collect();
    Reply::new(200, &[], json!({"sha": commit, "siblings": siblings}).to_string().into_bytes())
}

fn file(state: &mut State, request: &Request) -> Reply {
    let Some((repository, place)) = request.path[1..].split_once("/resolve/") else {
        return Reply::new(404, &[], Vec::new());
    };
    let repository =
        if repository.starts_with("datasets/") { repository.to_owned() } else { format!("models/{repository}") };
    let (commit, name) = place.split_once('/').unwrap();
    let content = state.commits.get(&(repository, commit.to_owned())).and_then(|files| files.get(name)).cloned();
    let Some(content) = content else {
        return Reply::new(404, &[("X-Error-Code", "EntryNotFound".into())], Vec::new());
    };
    let mut headers = vec![("X-Repo-Commit", commit.to_owned())];
    let is_large = [".safetensors", ".gguf", ".parquet"].iter().any(|ending| name.ends_with(ending));
    if is_large {
        headers.push(("X-Linked-Etag", format!("\"{}\"", hex(&Sha256::digest(&content)))));
        headers.push(("X-Linked-Size", content.len().to_string()));
        headers.push(("Location", format!("{}/{commit}/{name}?{SIGNATURE}", state.other_host)));
    } else {
        headers.push(("ETag", format!("W/\"{}\"", git_hash(&content))));
    }
    for (name, value) in state.faults.headers.clone() {
        headers.retain(|(known, _)| *known != name);
        headers.push((name, value));
    }
    if is_large {
        return Reply::new(302, &headers, Vec::new());
    }
    sent(state, request, name, content, &headers)
}

/// Where the contents of large files are.
fn other_host(state: &mut State, request: &Request) -> Reply {
    if let Some(path) = request.path.strip_prefix("/api/") {
        return listing(state, path);
    }
    let path = request.path.split('?').next().unwrap();
    let (commit, name) = path[1..].split_once('/').unwrap();
    let files = state.commits.iter().find(|((_, known), _)| known == commit).unwrap().1;
    let content = files[name].clone();
    sent(state, request, name, content, &[("ETag", "\"of-the-other-host\"".into())])
}

fn sent(state: &mut State, request: &Request, name: &str, content: Vec<u8>, headers: &[(&str, String)]) -> Reply {
    let mut headers = headers.to_vec();
    let content = match &state.faults.content {
        Some((wrong, content)) if name == *wrong => content.clone(),
        _ => content,
    };
    let range = request.headers.get("range").filter(|_| !state.faults.no_ranges);
    let start = range.map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    let (status, start): (u16, usize) = start.map_or((200, 0), |start| (206, start));
    if status == 206 {
        headers.push(("Content-Range", format!("bytes {start}-{}/{}", content.len() - 1, content.len())));
    }
    let mut reply = Reply::new(status, &headers, content[start..].to_vec());
    if let Some((torn, num_bytes, times)) = &mut state.faults.torn
        && name == *torn
        && *times > 0
        && request.method == "GET"
    {
        *times -= 1;
        reply.num_sent = reply.num_sent.min(*num_bytes);
    }
    reply
}

pub fn git_hash(content: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(content).finalize())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
