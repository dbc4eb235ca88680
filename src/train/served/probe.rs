//! Does the server read prompts as they are, and does it serve the policy?

use super::Served;
use crate::data::batch::Sequence;
use crate::data::examples::Example;
use crate::device::IN_A_COMPARISON;
use crate::error::{Error, Result};
use crate::generate::sampler::Sampling;
use crate::generate::server::{TextAnswer, TextRequest};
use crate::generate::{Decoding, Event, Request, Response, generate};
use crate::objective::log_probs;
use crate::report::shell::shell_path;

/// Prompts that are continued, from all over the data.
pub(crate) const NUM_PROMPTS: usize = 8;
/// Tokens of each continuation.
pub(crate) const NUM_TOKENS: usize = 24;

impl Served<'_> {
    /// Whether the server writes the beginning token itself, as most do for models that want one, and every prompt begins
    /// with it. Found out by its own count of the tokens that it reads; without a count it is taken not to.
    ///
    /// # Errors
    /// [`Error::Server`] if it reads anything else than the prompt.
    pub(super) fn adds_beginning_token(&self) -> Result<bool> {
        let beginning = self.tokenizer.prefix_token_id();
        // A prompt without a beginning token, if there is one: what is added to it cannot be left out before.
        let other = self.run.examples.iter().find(|example| example.prompt_ids[0] != beginning);
        let example = other.unwrap_or(&self.run.examples[0]);
        let prompt_ids = &example.prompt_ids;
        let count = |sent: &[u32]| -> Result<Option<usize>> {
            let prompt = self.tokenizer.decode_all(sent)?;
            let request = TextRequest { prompt, seed: 0, max_new_tokens: 1, sampling: Sampling::greedy() };
            Ok(self.ask(vec![request])?.pop().and_then(|answer| answer.num_prompt_tokens))
        };
        let (own, whole) = (Some(prompt_ids.len()), count(prompt_ids)?);
        if whole.is_none() || whole == own {
            return Ok(false);
        }
        if other.is_none() && prompt_ids.len() > 1 && count(&prompt_ids[1..])? == own {
            return Ok(true);
        }
        let message = format!(
            "reads {} tokens where the prompt of row {} has {}: it adds to the prompt",
            whole.unwrap_or_default(),
            example.index,
            prompt_ids.len()
        );
        Err(Error::server(&self.config.url, message).with_hint(
            "prompts are complete as they are sent: it must apply no template (Ollama: TEMPLATE {{ .Prompt }})",
        ))
    }

    /// Compares the server's greedy continuations with the reference's own: both are scored by the reference. A text that is
    /// the likeliest at every step for one model is much less likely under another.
    ///
    /// # Errors
    /// [`Error::Server`] if its continuations are too unlikely; a failing device.
    pub(super) fn check_policy(&self) -> Result<()> {
        let step = self.run.examples.len().div_ceil(NUM_PROMPTS).max(1);
        let examples: Vec<&Example> = self.run.examples.iter().step_by(step).collect();
        let (own, theirs) = (self.own_continuations(&examples)?, self.their_continuations(&examples)?);
        let num_equal = own.iter().zip(&theirs).filter(|(own, theirs)| own.token_ids == theirs.token_ids).count();
        let (own_mean, their_mean) = (mean_log_prob(&own), mean_log_prob(&theirs));
        let less = own_mean - their_mean;
        if less.is_nan() || less > self.config.tolerance {
            let message = format!(
                "serves another model than the policy: its greedy continuations of {} prompts have a log-prob of \
                 {their_mean:.3} a token under the policy, the policy's own {own_mean:.3} ({num_equal} are the same)",
                examples.len()
            );
            return Err(Error::server(&self.config.url, message).with_hint(
                "serve the model that the iteration begins with; if it is, in coarse weights, raise server.tolerance",
            ));
        }
        self.run.console.say(format!(
            "the server continues {num_equal} of {} prompts as the policy does; log-probs a token differ by {less:.4}",
            examples.len()
        ));
        Ok(())
    }

    /// Of the reference, decoded here.
    fn own_continuations(&self, examples: &[&Example]) -> Result<Vec<Response>> {
        let request =
            |example: &&Example| Request { prompt_ids: example.prompt_ids.clone(), seed: 0, max_new_tokens: None };
        let requests: Vec<Request> = examples.iter().map(request).collect();
        let decoding = Decoding {
            sampling: Sampling::greedy(),
            max_new_tokens: self.num_tokens(),
            batch_size: requests.len(),
            eos_token_ids: self.run.eos_token_ids.clone(),
        };
        let mut responses = vec![None; requests.len()];
        generate(self.reference, &requests, &decoding, &mut |event| {
            if let Event::Done(i, response) = event {
                responses[i] = Some(response);
            }
            self.run.stop.check()
        })?;
        Ok(responses.into_iter().flatten().collect())
    }

    /// Of the server, scored here.
    fn their_continuations(&self, examples: &[&Example]) -> Result<Vec<Response>> {
        let requests: Result<Vec<TextRequest>> = examples
            .iter()
            .map(|example| self.request(&example.prompt_ids, 0, self.num_tokens(), Sampling::greedy()))
            .collect();
        let answers = self.ask(requests?)?;
        let responses: Result<Vec<Response>> = examples
            .iter()
            .zip(&answers)
            .map(|(example, answer)| self.response(&example.prompt_ids, self.end_token(example.index), answer))
            .collect();
        let mut responses = responses?;
        let sequences: Vec<Sequence<'_>> = examples
            .iter()
            .zip(&responses)
            .map(|(example, response)| Sequence { prompt_ids: &example.prompt_ids, response_ids: &response.token_ids })
            .collect();
        let (batch_size, multiple) = (self.run.score_batch_size(), self.run.num_tokens_multiple);
        let scores =
            log_probs::score(self.reference, &sequences, batch_size, multiple, &mut |_| self.run.stop.check())?;
        for (response, token_log_probs) in responses.iter_mut().zip(scores) {
            response.token_log_probs = token_log_probs;
        }
        Ok(responses)
    }

    fn num_tokens(&self) -> usize {
        NUM_TOKENS.min(self.run.config.generation.max_new_tokens)
    }

    /// The answers in the order of the requests.
    fn ask(&self, requests: Vec<TextRequest>) -> Result<Vec<TextAnswer>> {
        let mut answers = vec![None; requests.len()];
        let asked = self.server.complete_all(
            requests,
            &|_| "a first question".to_owned(),
            &mut |i, answer| {
                answers[i] = Some(answer);
                Ok(())
            },
            &|| self.run.stop.check(),
        );
        match (asked, self.server.below_v1()) {
            (Ok(()), _) => Ok(answers.into_iter().flatten().collect()),
            // Some servers have another interface there, with paths of the same names.
            (Err(error @ Error::Server { hint: None, .. }), Some(url)) => Err(error.with_hint(format!(
                "most servers answer at {url}: `gsil resume {} --allow-changes` {IN_A_COMPARISON} with server.url={url}",
                shell_path(self.run.dir.path())
            ))),
            (Err(error), _) => Err(error),
        }
    }
}

/// Nats a token, over all responses.
fn mean_log_prob(responses: &[Response]) -> f64 {
    let num_tokens: usize = responses.iter().map(|response| response.token_ids.len()).sum();
    responses.iter().map(Response::log_prob).sum::<f64>() / num_tokens as f64
}
