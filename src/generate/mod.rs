//! Self-generation: the policy answers prompts. Token ids in, token ids out; no strings, except where a [`server`] answers.
//!
//! On the CPU, prompts are decoded with packed weights, each in a slot of its own that the next prompt takes over as soon as
//! it is free (`continuous`). Other devices decode batches of prompts of similar length, padded to one length (`padded`);
//! `continuous` is tested against that. Every token's log-prob under the policy is kept, whatever the temperature: with f32
//! weights these ARE the reference log-probs of the coming training. Next: [`crate::train`].

#[cfg(feature = "flex")]
mod continuous;
mod padded;
pub mod sampler;
pub mod server;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::config::WeightFormat;
use crate::device;
use crate::error::{Error, Result};
use crate::model::CausalLm;
#[cfg(feature = "flex")]
use crate::model::decoder::Decoder;
use crate::objective::log_probs;
use sampler::{Sampling, TokenStream};

/// Rows that a pass of continuous batching is filled up to: enough to make arithmetic the bound instead of memory, few enough
/// for their activations to stay in the cache of a core.
pub(crate) const PASS_ROWS: usize = 64;
/// Batches of a group, where requests are answered in groups: so many may be lost if the work is stopped.
pub(crate) const BATCHES_A_GROUP: usize = 4;

/// One prompt to answer.
#[derive(Debug, Clone)]
pub struct Request {
    pub prompt_ids: Vec<u32>,
    /// Names the random stream of this answer: the same seed gives the same answer in any batch.
    pub seed: u64,
    /// The longest answer to this prompt, where [`Decoding::max_new_tokens`] allows more.
    pub max_new_tokens: Option<usize>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// With the end-of-turn token, if it came.
    pub token_ids: Vec<u32>,
    /// Log-prob (nats) of each token under the policy itself, whatever the temperature.
    pub token_log_probs: Vec<f32>,
    /// False if the answer was cut at the token limit.
    pub finished: bool,
}

impl Response {
    /// The sum of the token log-probs, nats.
    pub fn log_prob(&self) -> f64 {
        log_probs::total(&self.token_log_probs)
    }
}

/// How to decode.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoding {
    pub sampling: Sampling,
    pub max_new_tokens: usize,
    /// Prompts decoded side by side.
    pub batch_size: usize,
    /// Any of these ends a response.
    pub eos_token_ids: Vec<u32>,
}

/// What a [`Generator`] tells while it works.
#[derive(Debug)]
pub enum Event {
    /// The request with this index has one more token.
    Token(usize, u32),
    /// The request with this index has its answer.
    Done(usize, Response),
}

/// Hears of each token and answer when it is ready, not in the order of the requests; an error from it stops the generation.
pub type OnEvent<'a> = &'a mut dyn FnMut(Event) -> Result<()>;

/// A model made ready to answer.
pub struct Generator {
    model: CausalLm,
    #[cfg(feature = "flex")]
    decoder: Option<Decoder>,
}

impl Generator {
    /// Packs the weights on the CPU; elsewhere the model is used as it is.
    ///
    /// # Errors
    /// A failing device; a number format that the device has no fast decoding for.
    pub fn new(model: &CausalLm, weights: WeightFormat) -> Result<Self> {
        let model = burn::module::Module::valid(model); // no gradient graph; the weights are shared, not copied
        check_weight_format(weights, &model.device())?;
        Ok(Generator {
            #[cfg(feature = "flex")]
            decoder: match is_continuous(&model) {
                true => Some(Decoder::new(&model, weights)?),
                false => None,
            },
            model,
        })
    }

    /// Answers every request.
    ///
    /// # Errors
    /// A prompt that does not fit the model's context together with one new token; a failing device; an error of `on_event`.
    pub fn answer(&mut self, requests: &[Request], decoding: &Decoding, on_event: OnEvent<'_>) -> Result<()> {
        let context = self.model.config().max_position_embeddings;
        if let Some(long) = requests.iter().find(|r| r.prompt_ids.is_empty() || r.prompt_ids.len() >= context) {
            let len = long.prompt_ids.len();
            return Err(Error::usage(format!("a prompt of {len} tokens does not fit a context of {context} tokens")));
        }
        #[cfg(feature = "flex")]
        if let Some(decoder) = &mut self.decoder {
            return continuous::answer(decoder, requests, context, decoding, on_event);
        }
        padded::answer(&self.model, requests, decoding, on_event)
    }
}

/// [`Generator::answer`] for one call, with the weights as they are. No request packs no weights.
///
/// # Errors
/// As there.
pub fn generate(model: &CausalLm, requests: &[Request], decoding: &Decoding, on_event: OnEvent<'_>) -> Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    Generator::new(model, WeightFormat::F32)?.answer(requests, decoding, on_event)
}

/// Refuses what is not there rather than ignoring it.
///
/// # Errors
/// [`Error::Config`] for 16-bit weights where there is no fast decoding.
pub(crate) fn check_weight_format(weights: WeightFormat, device: &Device) -> Result<()> {
    match weights == WeightFormat::F32 || device::is_flex(device) {
        true => Ok(()),
        false => {
            Err(Error::config("generation.weights", "16-bit copies of the weights are only there on the CPU (flex)")
                .with_hint("leave generation.weights at f32, or use --device flex"))
        }
    }
}

/// True where every sequence is decoded by itself, in a slot of its own.
fn is_continuous(model: &CausalLm) -> bool {
    device::is_flex(&model.device())
}

/// The indices of requests that must be answered together for the same answers bit for bit: on the CPU each by itself;
/// elsewhere a whole padded batch, because rounding may differ from batch to batch in the last bits.
///
/// Some of these groups, put together again, are grouped in the same way.
pub fn inseparable(model: &CausalLm, requests: &[Request], batch_size: usize) -> Vec<Vec<usize>> {
    match is_continuous(model) {
        true => (0..requests.len()).map(|i| vec![i]).collect(),
        false => padded::batches(requests, batch_size),
    }
}

/// The requests in groups to be answered one after the other, for who wants answers in the order of the requests and cannot
/// wait for all of them: a few batches where answers are padded, for there the longest prompts of a group come first. On the
/// CPU requests are begun in their order anyway, and are one group: a slot would stand empty at each group's end.
pub fn in_order<'a>(model: &CausalLm, requests: &'a [Request], batch_size: usize) -> std::slice::Chunks<'a, Request> {
    requests.chunks(match is_continuous(model) {
        true => requests.len().max(1),
        false => batch_size.saturating_mul(BATCHES_A_GROUP),
    })
}

/// An answer being written.
struct Answer {
    request: usize,
    stream: TokenStream,
    response: Response,
    max_new_tokens: usize,
}

impl Answer {
    fn new(index: usize, request: &Request, context: usize, decoding: &Decoding) -> Self {
        Answer {
            request: index,
            stream: TokenStream::new(request.seed),
            response: Response { token_ids: Vec::new(), token_log_probs: Vec::new(), finished: false },
            max_new_tokens: max_new_tokens(request, context, decoding),
        }
    }

    fn is_done(&self) -> bool {
        self.response.finished || self.response.token_ids.len() >= self.max_new_tokens
    }

    /// Takes the next token and tells of it, and of the whole answer if it was the last one.
    fn push(
        &mut self,
        sampled: Option<(u32, f32)>,
        decoding: &Decoding,
        on_event: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        let (id, log_prob) = sampled.ok_or_else(|| {
            Error::training("the model's next-token scores are not finite")
                .with_hint(log_probs::AGAINST_DIVERGED_WEIGHTS)
        })?;
        self.response.token_ids.push(id);
        self.response.token_log_probs.push(log_prob);
        self.response.finished = decoding.eos_token_ids.contains(&id);
        on_event(Event::Token(self.request, id))?;
        if self.is_done() {
            on_event(Event::Done(self.request, self.response.clone()))?;
        }
        Ok(())
    }
}

/// The longest answer to a request, in tokens.
fn max_new_tokens(request: &Request, context: usize, decoding: &Decoding) -> usize {
    let own = request.max_new_tokens.unwrap_or(usize::MAX);
    own.min(decoding.max_new_tokens).min(context - request.prompt_ids.len())
}
