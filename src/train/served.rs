//! Self-generation by a server: it gets the policy, has to show that it serves it, and is asked; its text becomes token ids
//! again, which the reference here scores.
//!
//! A server is never believed: log-probs are the trainer's own, the number of tokens that it reads in a prompt must be ours,
//! and its greedy continuations must be as likely under the reference as the reference's own ([`probe`]).

mod command;
pub mod probe;

use std::time::{Duration, Instant};

use super::answering::{Answering, OpenRequest};
use super::setup::Run;
use crate::config::{GenerationConfig, RunConfig, ServerConfig};
use crate::data::bring_second_responses;
use crate::data::examples::Example;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::generate::Response;
use crate::generate::sampler::Sampling;
use crate::generate::server::{Server, TextAnswer, TextRequest};
use crate::model::CausalLm;
use crate::policy::Policy;
use crate::records::self_generation::iteration_folder;
use command::run_command;

/// The policy's folder inside the iteration's, while the server needs it.
const POLICY_FOLDER: &str = "policy";
/// A server that nobody has to start for us is waited for as long as a restart takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(200);

/// Refuses what a server cannot do with this model and these rows before anything is begun. What the settings alone tell is
/// refused by [`RunConfig::validate`].
///
/// # Errors
/// [`Error::Config`] for rows that leave nothing to a server and in a build without HTTP; [`Error::Input`] for a model
/// without tokenizer.
pub fn check(config: &RunConfig, policy: &Policy, examples: &[Example]) -> Result<()> {
    let Some(server) = &config.server else { return Ok(()) };
    Server::new(server)?;
    if bring_second_responses(examples) {
        return Err(Error::config("server", "the rows bring their second responses; nothing is generated")
            .with_hint("leave it out: server=none"));
    }
    match policy.tokenizer {
        Some(_) => Ok(()),
        None => Err(Error::input(&policy.files.path, "has no tokenizer: a server takes and gives text")),
    }
}

/// The server of one iteration, with the reference in it.
pub(super) struct Served<'a> {
    run: &'a Run,
    config: &'a ServerConfig,
    tokenizer: &'a Tokenizer,
    reference: &'a CausalLm,
    server: Server,
    /// The server writes the beginning token of every prompt itself.
    adds_beginning_token: bool,
}

impl<'a> Served<'a> {
    /// Gives the server the reference and makes sure that it serves it.
    ///
    /// # Errors
    /// [`Error::Server`] if it does not, or not in time; [`Error::Disk`].
    pub fn prepare(run: &'a Run, config: &'a ServerConfig, iteration: usize, reference: &'a CausalLm) -> Result<Self> {
        let tokenizer = run.tokenizer.as_ref().expect("checked before the run began");
        let server = Server::new(config)?;
        let is_handed_over = !config.on_policy_ready.is_empty();
        if is_handed_over {
            let folder = run.dir.join(iteration_folder(iteration)).join(POLICY_FOLDER);
            // The server may work somewhere else.
            let folder = std::path::absolute(&folder).map_err(Error::reading(&folder))?;
            // A run that was stopped may have left one there, with what a command made of it.
            run.forget_served_policy(iteration)?;
            run.write_model(reference, &folder)?;
            run.console.say(format!("policy for the server: {}", folder.display()));
            run_command(run, config, iteration, &folder)?;
        }
        let own_name = is_handed_over.then(|| iteration_folder(iteration));
        let model = wait_for_model(run, config, &server, own_name.as_deref())?;
        run.console.say(format!("server     {}, model {model}", config.url));
        let server = server.with_model(model);
        let mut served = Served { run, config, tokenizer, reference, server, adds_beginning_token: false };
        served.adds_beginning_token = served.adds_beginning_token()?;
        served.check_policy()?;
        Ok(served)
    }

    /// Asks for every open response, and writes each down when it comes.
    ///
    /// # Errors
    /// [`Error::Server`] that names the row; as [`Answering::keep`].
    pub fn answer(&self, open: &[OpenRequest], mut answering: Answering<'_>) -> Result<()> {
        let GenerationConfig { temperature, top_k, top_p, max_new_tokens, .. } = self.run.config.generation;
        let sampling = Sampling { temperature, top_k, top_p };
        let requests: Result<Vec<TextRequest>> = open
            .iter()
            .map(|open| self.request(&open.request.prompt_ids, open.request.seed, max_new_tokens, sampling.clone()))
            .collect();
        let row = |i: usize| format!("row {}", open[i].place.0);
        self.server.complete_all(
            requests?,
            &row,
            &mut |i, answer| {
                let request = &open[i].request;
                let response = self.response(&request.prompt_ids, self.end_token(open[i].place.0), &answer)?;
                if response.token_ids.is_empty() {
                    let message = format!("{}: the text of an answer has no tokens: {:?}", row(i), answer.text);
                    return Err(Error::server(&self.config.url, message));
                }
                answering.count(response.token_ids.len());
                let response = answering.scored(request, response)?;
                answering.keep(&open[i], response, None)
            },
            &|| self.run.stop.check(),
        )
    }

    /// A prompt as text; at most as many new tokens as the context has room for.
    fn request(&self, prompt_ids: &[u32], seed: u64, max_new_tokens: usize, sampling: Sampling) -> Result<TextRequest> {
        let sent = if self.adds_beginning_token { &prompt_ids[1..] } else { prompt_ids };
        let room = self.reference.config().max_position_embeddings - prompt_ids.len();
        let prompt = self.tokenizer.decode_all(sent)?;
        if self.tokenizer.encode(&prompt)? != sent {
            return Err(Error::input(
                &self.run.files.path,
                format!("a prompt is not read back from its text: {prompt}"),
            )
            .at("tokenizer.json")
            .with_hint("in a new run generate here: server=none"));
        }
        Ok(TextRequest { prompt, seed, max_new_tokens: max_new_tokens.min(room), sampling })
    }

    /// The answer as token ids, with the end token if it came; not scored yet.
    fn response(&self, prompt_ids: &[u32], end_token: u32, answer: &TextAnswer) -> Result<Response> {
        let mut token_ids = self.tokenizer.encode_after(prompt_ids, &answer.text)?;
        let mut finished = answer.finished;
        // A server that gives special tokens as text gives the end token, too.
        match token_ids.iter().position(|id| self.run.eos_token_ids.contains(id)) {
            Some(end) => {
                token_ids.truncate(end + 1);
                finished = true;
            }
            None if finished => token_ids.push(end_token),
            None => {}
        }
        Ok(Response { token_ids, token_log_probs: Vec::new(), finished })
    }

    /// Which of the end tokens came does a server not say. The demonstration's is taken, or responses could be told from
    /// demonstrations by it.
    fn end_token(&self, index: usize) -> u32 {
        let ends = &self.run.eos_token_ids;
        let example = self.run.examples.binary_search_by_key(&index, |example| example.index);
        let last = example.ok().and_then(|place| self.run.examples[place].demonstration_ids.last());
        let own = || self.run.tokenizer.as_ref().map_or(ends[0], Tokenizer::end_token_id);
        last.copied().filter(|id| ends.contains(id)).unwrap_or_else(own)
    }
}

impl Run {
    /// Removes what the server needed.
    pub(super) fn forget_served_policy(&self, iteration: usize) -> Result<()> {
        self.dir.remove(&format!("{}/{POLICY_FOLDER}", iteration_folder(iteration)))
    }
}

/// The name of the model to ask for, once the server lists it. `own_name`: what the name of a policy's folder contains.
fn wait_for_model(run: &Run, config: &ServerConfig, server: &Server, own_name: Option<&str>) -> Result<String> {
    let most = Duration::from_secs(config.ready_timeout_s as u64);
    let patience = if own_name.is_some() { most } else { most.min(PATIENCE) };
    let started = Instant::now();
    let mut is_told = false;
    loop {
        let chosen = server.models()?.and_then(|listed| {
            choose_model(&listed, config.model.as_deref(), own_name)
                .map_err(|message| Error::server(&config.url, message).with_hint("see server.model"))
        });
        match chosen {
            Ok(model) => return Ok(model),
            Err(error) if started.elapsed() >= patience => return Err(error),
            Err(error) if !is_told => run.console.say(format!("waiting for the server: {error}")),
            Err(_) => {}
        }
        is_told = true;
        run.stop.check()?;
        std::thread::sleep(PAUSE);
    }
}

/// The wanted model or the only one. Servers name a model by its folder unless told otherwise: a name of another iteration is
/// one of another policy.
fn choose_model(
    listed: &[String],
    wanted: Option<&str>,
    own_name: Option<&str>,
) -> std::result::Result<String, String> {
    let all = || if listed.is_empty() { "no model".to_owned() } else { listed.join(", ") };
    let chosen = match (wanted, listed) {
        // Ollama adds a tag.
        (Some(wanted), _) => listed.iter().find(|name| *name == wanted || name.strip_suffix(":latest") == Some(wanted)),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let Some(chosen) = chosen else {
        return Err(match wanted {
            Some(wanted) => format!("serves {}, not `{wanted}`", all()),
            None => format!("serves {}; which of them is to be asked?", all()),
        });
    };
    match own_name {
        Some(own_name) if chosen.contains("iteration-") && !chosen.contains(own_name) => {
            Err(format!("still serves {chosen}, not the policy of {own_name}"))
        }
        _ => Ok(chosen.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_to_ask_is_the_wanted_one_or_the_only_one_and_never_one_of_another_iteration() {
        let choose = |listed: &[&str], wanted, own_name| {
            choose_model(&listed.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), wanted, own_name)
        };
        assert_eq!(choose(&["a"], None, None).unwrap(), "a");
        assert_eq!(choose(&["a", "b"], Some("b"), None).unwrap(), "b");
        assert_eq!(choose(&["a:latest", "b:latest"], Some("a"), None).unwrap(), "a:latest");
        assert!(choose(&[], None, None).unwrap_err().contains("no model"));
        assert!(choose(&["a", "b"], None, None).unwrap_err().contains("a, b"));
        assert!(choose(&["a"], Some("c"), None).unwrap_err().contains("not `c`"));

        let served = "runs/x/iteration-000/policy";
        assert_eq!(choose(&[served], None, Some("iteration-000")).unwrap(), served);
        assert!(choose(&[served], None, Some("iteration-001")).unwrap_err().contains("still serves"));
        assert_eq!(choose(&["policy"], None, Some("iteration-001")).unwrap(), "policy");
    }
}
