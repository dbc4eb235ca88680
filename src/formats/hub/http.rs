//! Requests to the hub. Redirects are followed here, not by the HTTP library, since the token may go to the hub alone and
//! what the hub says of a file stands in the first answers, not in the last.
//!
//! Why not the crate `hf-hub`: release 0.5 sends the token to whatever host the hub redirects to, takes names of cache
//! files from headers unchecked, appends to a torn file even where a server sends all of it again, checks no hash, and
//! gives up after five seconds where another process downloads the same file.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, Uri};

use super::settings::{Settings, Token};

const MAX_REDIRECTS: usize = 8;
/// The listing of a repository with 100,000 files has about 10 MB.
const MAX_LISTING_BYTES: u64 = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A server that says nothing for so long is not going to.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections to one hub.
pub(super) struct Client {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<Token>,
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server says no: an HTTP status, and the hub's word for the reason.
    Status { code: u16, reason: Option<String> },
    /// Nobody answers, or not as a hub does. It is of no use to try at once again.
    NoAnswer(String),
    /// The connection broke off.
    BrokenOff(String),
}

impl Failure {
    /// Another try may succeed.
    pub fn is_passing(&self) -> bool {
        match self {
            Failure::Status { code, .. } => matches!(code, 408 | 429 | 500..=599),
            Failure::NoAnswer(_) => false,
            Failure::BrokenOff(_) => true,
        }
    }
}

/// What the hub says of a file.
#[derive(Debug, Default)]
pub(super) struct FileFacts {
    /// Without quotes.
    pub etag: Option<String>,
    pub num_bytes: Option<u64>,
    pub commit: Option<String>,
}

/// An answer with its content, unread.
pub(super) struct Content {
    pub body: Box<dyn Read>,
    /// The content begins at this byte of the file.
    pub start: u64,
}

/// What is asked of an address.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Document,
    Facts,
    /// From this byte on.
    Content(u64),
}

impl Client {
    pub fn new(settings: Settings) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .user_agent(concat!("gsil/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { agent: config.into(), endpoint: settings.endpoint, token: settings.token }
    }

    /// The hub as a person may be told: without credentials that its address may hold.
    pub fn shown_endpoint(&self) -> String {
        origin(&self.endpoint).unwrap_or_else(|_| "the hub".to_owned())
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// A small document, whole.
    pub fn document(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let (mut response, _) = self.send(Wanted::Document, path)?;
        let body = response.body_mut().with_config().limit(MAX_LISTING_BYTES).read_to_vec();
        body.map_err(|error| failure(&error))
    }

    /// What the hub says of a file, without its content.
    pub fn facts(&self, path: &str) -> Result<FileFacts, Failure> {
        Ok(self.send(Wanted::Facts, path)?.1)
    }

    /// A file's content from byte `start` on, or from its beginning where the server does not send parts.
    pub fn content(&self, path: &str, start: u64) -> Result<Content, Failure> {
        let (response, _) = self.send(Wanted::Content(start), path)?;
        let is_part = response.status().as_u16() == 206;
        let part = header(response.headers(), "content-range");
        if is_part && !part.is_some_and(|part| part.starts_with(&format!("bytes {start}-"))) {
            return Err(Failure::NoAnswer("it sends another part than was asked for".into()));
        }
        Ok(Content { body: Box::new(response.into_body().into_reader()), start: if is_part { start } else { 0 } })
    }

    fn send(&self, wanted: Wanted, path: &str) -> Result<(Response<ureq::Body>, FileFacts), Failure> {
        let mut url = format!("{}{path}", self.endpoint);
        let hub = origin(&url)?;
        let mut facts = FileFacts::default();
        for _ in 0..=MAX_REDIRECTS {
            let is_hub = origin(&url)? == hub;
            let response = self.request(wanted, &url, is_hub)?;
            let status = response.status();
            if is_hub {
                facts.add(response.headers(), status.is_success());
            }
            let target = header(response.headers(), "location").filter(|_| status.is_redirection());
            let Some(target) = target.map(|target| redirected(&url, target)).transpose()? else {
                return if status.is_success() { Ok((response, facts)) } else { Err(refusal(&response)) };
            };
            if wanted == Wanted::Facts && origin(&target)? != hub {
                return Ok((response, facts)); // where the content lies says nothing more of it
            }
            url = target;
        }
        Err(Failure::NoAnswer("it redirects without end".into()))
    }

    fn request(&self, wanted: Wanted, url: &str, is_hub: bool) -> Result<Response<ureq::Body>, Failure> {
        // Of a compressed answer the length would be another.
        let mut request = match wanted {
            Wanted::Document => self.agent.get(url),
            Wanted::Facts => self.agent.head(url).header("Accept-Encoding", "identity"),
            Wanted::Content(_) => self.agent.get(url).header("Accept-Encoding", "identity"),
        };
        if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
            request = request.header("Authorization", token.header());
        }
        if let Wanted::Content(start @ 1..) = wanted {
            request = request.header("Range", format!("bytes={start}-"));
        }
        request.call().map_err(|error| failure(&error))
    }
}

impl FileFacts {
    /// `X-Linked-..` describe the file itself where the hub redirects to its content.
    fn add(&mut self, headers: &HeaderMap, is_content: bool) {
        let unless_moved = |name| header(headers, name).filter(|_| is_content);
        let etag = header(headers, "x-linked-etag").or_else(|| unless_moved("etag"));
        let num_bytes = header(headers, "x-linked-size").or_else(|| unless_moved("content-length"));
        let plain = |etag: &str| etag.trim_start_matches("W/").trim_matches('"').to_owned();
        self.etag = self.etag.take().or_else(|| etag.map(plain));
        self.num_bytes = self.num_bytes.or_else(|| num_bytes?.parse().ok());
        self.commit = self.commit.take().or_else(|| header(headers, "x-repo-commit").map(str::to_owned));
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn refusal(response: &Response<ureq::Body>) -> Failure {
    let reason = header(response.headers(), "x-error-code").map(str::to_owned);
    Failure::Status { code: response.status().as_u16(), reason }
}

/// No text of these holds an address: those of redirects are signed, which makes them secrets.
fn failure(error: &ureq::Error) -> Failure {
    match error {
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Failure::NoAnswer("it refuses connections".into())
        }
        ureq::Error::Io(error) => Failure::BrokenOff(error.to_string()),
        ureq::Error::HostNotFound => Failure::NoAnswer("there is no such host, or no network".into()),
        ureq::Error::Timeout(_) => Failure::BrokenOff("it does not answer in time".into()),
        ureq::Error::BodyExceedsLimit(_) => Failure::NoAnswer("its answer is too long".into()),
        ureq::Error::Protocol(_) => Failure::BrokenOff("its answer is no HTTP, or broke off".into()),
        ureq::Error::Rustls(error) => Failure::NoAnswer(format!("no secure connection: {error}")),
        ureq::Error::ConnectionFailed => Failure::NoAnswer("no connection".into()),
        _ => Failure::NoAnswer("the request failed".into()),
    }
}

/// Scheme, host and port: who gets a request.
fn origin(url: &str) -> Result<String, Failure> {
    let uri: Uri = url.parse().map_err(|_| bad_address())?;
    let (scheme, host) = uri.scheme_str().zip(uri.host()).ok_or_else(bad_address)?;
    let default = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
    let port = uri.port_u16().filter(|port| *port != default).map_or(String::new(), |port| format!(":{port}"));
    Ok(format!("{scheme}://{host}{port}").to_ascii_lowercase())
}

fn bad_address() -> Failure {
    Failure::NoAnswer("it names an address that is none".into())
}

/// The address that a redirect leads to.
fn redirected(from: &str, location: &str) -> Result<String, Failure> {
    let from = origin(from)?;
    let to = match location {
        path if path.starts_with('/') && !path.starts_with("//") => format!("{from}{path}"),
        url => url.to_owned(),
    };
    let is_secure = |url: &str| url.starts_with("https://");
    if is_secure(&from) && !is_secure(&origin(&to)?) {
        return Err(Failure::NoAnswer("it redirects to an insecure address".into()));
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.co/a?b").unwrap(), "https://hub.co");
        assert_eq!(origin("https://user:pass@hub.co:443/a").unwrap(), "https://hub.co");
        assert_ne!(origin("http://hub.co:8080/").unwrap(), origin("http://hub.co/").unwrap());
        assert_ne!(origin("http://hub.co/").unwrap(), origin("https://hub.co/").unwrap());
        for bad in ["", "hub.co", "/a", "//hub.co/a"] {
            origin(bad).unwrap_err();
        }
    }

    #[test]
    fn a_redirect_keeps_its_host_unless_it_names_another_and_never_becomes_insecure() {
        assert_eq!(redirected("https://hub.co/a", "/b?c").unwrap(), "https://hub.co/b?c");
        assert_eq!(redirected("https://hub.co/a", "https://cdn.co/b").unwrap(), "https://cdn.co/b");
        for bad in ["http://hub.co/b", "//cdn.co/b", "b", "file:///etc/passwd"] {
            redirected("https://hub.co/a", bad).unwrap_err();
        }
    }
}
