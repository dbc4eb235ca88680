//! One request over HTTP. The only file that knows the HTTP library; without the feature `server` it says so.

use std::time::Duration;

use super::reply::{Failure, Reply};
use crate::error::Result;

#[cfg(feature = "server")]
pub use with_ureq::Http;
#[cfg(not(feature = "server"))]
pub use without::Http;

#[cfg(feature = "server")]
mod with_ureq {
    use super::{Duration, Failure, Reply, Result};
    use crate::error::Error;

    /// The keys that are looked for, the first one first.
    const KEYS: [&str; 2] = ["GSIL_API_KEY", "OPENAI_API_KEY"];
    /// Longer replies are refused: an answer has some kilobytes.
    const MAX_BODY_BYTES: u64 = 16 << 20;
    /// Finding out that nobody listens must not take as long as an answer.
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
    /// What a server says of itself costs it nothing: one that takes longer hangs, and who waits for it cannot stop meanwhile.
    const GET_TIMEOUT: Duration = Duration::from_secs(5);

    /// Connections to one server.
    #[derive(Clone)]
    pub struct Http {
        agent: ureq::Agent,
        url: String,
        /// From the environment. Sent as a header; never printed, logged or written.
        key: Option<String>,
    }

    impl Http {
        /// The key is that of the environment variable `key_variable`; None: of [`KEYS`], if there is one.
        pub fn new(url: &str, timeout: Duration, max_in_flight: usize, key_variable: Option<&str>) -> Result<Self> {
            let variable = |name: &str| std::env::var(name).ok().filter(|key| !key.trim().is_empty());
            let key = match key_variable {
                Some(name) => Some(variable(name).ok_or_else(|| {
                    Error::usage(format!("the environment variable {name} holds no key"))
                        .with_hint(format!("export {name}=.. before you start gsil; the key itself is no argument"))
                })?),
                None => KEYS.iter().find_map(|name| variable(name)),
            };
            if key.as_deref().is_some_and(|key| !key.trim().bytes().all(|byte| byte.is_ascii_graphic())) {
                let names = key_variable.unwrap_or("GSIL_API_KEY or OPENAI_API_KEY");
                return Err(Error::usage(format!("the key in {names} is no word of plain characters")));
            }
            let config = ureq::Agent::config_builder()
                .http_status_as_error(false) // the body says why
                .max_redirects(0) // the key goes where it was meant to go
                .timeout_connect(Some(CONNECT_TIMEOUT))
                .timeout_global(Some(timeout))
                .max_idle_connections(max_in_flight)
                .max_idle_connections_per_host(max_in_flight)
                .user_agent(concat!("gsil/", env!("CARGO_PKG_VERSION")))
                .build();
            let key = key.map(|key| key.trim().to_owned());
            Ok(Http { agent: config.into(), url: url.to_owned(), key })
        }

        pub fn get(&self, path: &str) -> std::result::Result<Reply, Failure> {
            let request = self.agent.get(format!("{}{path}", self.url));
            let request = request.config().timeout_global(Some(GET_TIMEOUT)).build();
            let request = match &self.key {
                Some(key) => request.header("Authorization", format!("Bearer {key}")),
                None => request,
            };
            read(request.call())
        }

        pub fn post(&self, path: &str, json: &str) -> std::result::Result<Reply, Failure> {
            let request = self.agent.post(format!("{}{path}", self.url)).header("Content-Type", "application/json");
            let request = match &self.key {
                Some(key) => request.header("Authorization", format!("Bearer {key}")),
                None => request,
            };
            read(request.send(json))
        }

        /// A server may repeat the key in what it says.
        pub fn without_key(&self, text: &str) -> String {
            match &self.key {
                Some(key) => text.replace(key, "(key)"),
                None => text.to_owned(),
            }
        }
    }

    /// Whatever goes wrong on the way may pass: a server that starts refuses connections, one that is full resets them.
    fn read(
        response: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> std::result::Result<Reply, Failure> {
        let mut response = response.map_err(|error| failure(&error))?;
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let (status, retry_after) = (response.status().as_u16(), retry_after.map(str::to_owned));
        let body = response.body_mut().with_config().limit(MAX_BODY_BYTES).read_to_string();
        Ok(Reply { status, retry_after, body: body.map_err(|error| failure(&error))? })
    }

    fn failure(error: &ureq::Error) -> Failure {
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::BodyExceedsLimit(_) => {
                Failure::lasting(error.to_string())
            }
            _ => Failure::passing(error.to_string()),
        }
    }
}

#[cfg(not(feature = "server"))]
mod without {
    use std::convert::Infallible;

    use super::{Duration, Failure, Reply, Result};
    use crate::error::Error;

    /// There is none in this build.
    #[derive(Clone)]
    pub struct Http(Infallible);

    impl Http {
        pub fn new(_url: &str, _timeout: Duration, _max_in_flight: usize, _key_variable: Option<&str>) -> Result<Self> {
            Err(Error::config("server", "this build cannot ask servers").with_hint("build with `--features server`"))
        }

        pub fn get(&self, _path: &str) -> std::result::Result<Reply, Failure> {
            match self.0 {}
        }

        pub fn post(&self, _path: &str, _json: &str) -> std::result::Result<Reply, Failure> {
            match self.0 {}
        }

        pub fn without_key(&self, _text: &str) -> String {
            match self.0 {}
        }
    }
}
