//! A server that writes the responses instead of this program.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Any server with OpenAI's `/v1/completions`: vLLM, llama-server, Ollama. It serves the reference: the start model in
/// iteration 0, then the policy that each iteration begins with. The key, if it wants one, comes from the environment
/// (`GSIL_API_KEY`, else `OPENAI_API_KEY`) and is written nowhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Where its interface begins. Default `http://localhost:8000/v1`, where vLLM listens.
    pub url: String,
    /// The model's name there. Default none: the only one that the server lists.
    pub model: Option<String>,
    /// Requests on their way at once. Default 16: a server is fast because it answers many together.
    pub max_in_flight: usize,
    /// Requests sent in a minute, retries included. Default 0: no limit.
    pub requests_per_minute: usize,
    /// Seconds after which an answer is given up and asked for again. Default 300.
    pub timeout_s: usize,
    /// How often a request is sent again after a failure that may pass. Default 6: half a minute of waiting.
    pub max_retries: usize,
    /// A command that makes the server serve a policy and returns: its program and arguments, to which the policy's folder
    /// (Hugging Face's form) is added. Run at the start of each iteration. Default empty: the start model is being served
    /// already, which is enough for one iteration.
    pub on_policy_ready: Vec<String>,
    /// Seconds that `on_policy_ready` may take, and as many again the server after it, until it lists the model. Default 600.
    pub ready_timeout_s: usize,
    /// Before anything is trained on, the server continues a few prompts greedily. If its continuations are this much less
    /// likely under the reference, in nats a token, than the reference's own, it serves another model: the run stops.
    /// Default 0.05: 4-bit weights in llama.cpp were seen to differ by 0.03, 16-bit ones by 0.0000.
    pub tolerance: f64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            url: "http://localhost:8000/v1".to_owned(),
            model: None,
            max_in_flight: 16,
            requests_per_minute: 0,
            timeout_s: 300,
            max_retries: 6,
            on_policy_ready: Vec::new(),
            ready_timeout_s: 600,
            tolerance: 0.05,
        }
    }
}

impl ServerConfig {
    /// Refuses an address that cannot be called, and a server that could not have the policies that the run makes.
    /// `without_policies`: the settings, all together, with which it makes none.
    pub(crate) fn check(&self, without_policies: &[&str]) -> Result<()> {
        let host = ["http://", "https://"].iter().find_map(|scheme| self.url.strip_prefix(scheme));
        if host.is_none_or(|host| host.is_empty() || host.contains(char::is_whitespace)) {
            return Err(Error::config("server.url", format!("`{}` is no address", self.url))
                .with_hint("for example: http://localhost:8000/v1"));
        }
        if self.url.contains(['@', '?']) {
            let problem = Error::config("server.url", "names a user or a key: it would be written into the run folder");
            return Err(problem.with_hint("give the key in the environment, as GSIL_API_KEY"));
        }
        if self.on_policy_ready.is_empty() && !without_policies.is_empty() {
            let message = "must say how the server gets a policy that the run makes: it is not the start model alone";
            let settings = without_policies.join(" ");
            return Err(Error::config("server.on_policy_ready", message)
                .with_hint(format!("name a command that serves the folder it is given, or use {settings}")));
        }
        match self.on_policy_ready.first().is_some_and(|program| program.trim().is_empty()) {
            true => Err(Error::config("server.on_policy_ready", "begins with an empty text; it must be a program")),
            false => Ok(()),
        }
    }
}
