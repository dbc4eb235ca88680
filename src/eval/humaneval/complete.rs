//! A model completes the problems.

use super::{Problem, Sample, cut_at_stop, has_stop};
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::generate::sampler::{Sampling, answer_seed};
use crate::generate::{Decoding, Event, Generator, Request};

/// Completions are written in slices of so many tokens: between two of them it is seen which have come to a stop.
const SLICE_TOKENS: usize = 64;

/// How completions are written.
#[derive(Debug, Clone)]
pub struct Writing {
    /// 0 is greedy.
    pub temperature: f64,
    /// Longest completion, in tokens.
    pub max_new_tokens: usize,
    /// Completions written side by side.
    pub batch_size: usize,
    /// Tokens that the model reads and writes at most: a completion ends where they are full.
    pub context: usize,
    pub seed: u64,
}

/// One completion that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub problem: &'a Problem,
    /// The problem's place among all, counted from 0; with `sample` it names the random stream.
    pub index: usize,
    /// Which of the problem's completions, counted from 0.
    pub sample: usize,
}

/// Writes a completion for each of `wanted`. `check` is called after each token: an error from it ends the work.
///
/// The prompt is encoded as plain text, with the beginning token that the tokenizer's convention asks for. Completions do
/// not depend on which others are written with them, except in the last bits on devices that pad.
/// # Errors
/// A failing device or tokenizer. A prompt that fills the model's context has an empty completion.
pub fn complete(
    generator: &mut Generator,
    tokenizer: &Tokenizer,
    wanted: &[Wanted<'_>],
    writing: &Writing,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<Sample>> {
    let encode = |wanted: &Wanted<'_>| {
        let prompt_ids = tokenizer.encode_plain(&wanted.problem.prompt)?;
        let is_done = prompt_ids.len() >= writing.context;
        Ok(Draft { prompt_ids, token_ids: Vec::new(), text: String::new(), is_done })
    };
    let mut drafts = wanted.iter().map(encode).collect::<Result<Vec<_>>>()?;
    let mut num_written = 0;
    while num_written < writing.max_new_tokens && drafts.iter().any(|draft| !draft.is_done) {
        let slice = SLICE_TOKENS.min(writing.max_new_tokens - num_written);
        let open: Vec<usize> = (0..drafts.len()).filter(|i| !drafts[*i].is_done).collect();
        let requests = open.iter().map(|i| {
            let Wanted { index, sample, .. } = wanted[*i];
            let prompt_ids = [drafts[*i].prompt_ids.as_slice(), &drafts[*i].token_ids].concat();
            Request { prompt_ids, seed: answer_seed(writing.seed, num_written, index, sample), max_new_tokens: None }
        });
        let decoding = Decoding {
            sampling: Sampling { temperature: writing.temperature, top_k: 0, top_p: 1.0 },
            max_new_tokens: slice,
            batch_size: writing.batch_size,
            eos_token_ids: tokenizer.eos_token_ids().to_vec(),
        };
        generator.answer(&requests.collect::<Vec<_>>(), &decoding, &mut |event| {
            if let Event::Done(i, response) = event {
                let draft = &mut drafts[open[i]];
                draft.token_ids.extend(response.token_ids);
                draft.read(tokenizer)?;
                let is_full = draft.prompt_ids.len() + draft.token_ids.len() >= writing.context;
                draft.is_done |= response.finished || is_full;
            }
            check()
        })?;
        num_written += slice;
    }
    let sample = |(wanted, draft): (&Wanted<'_>, Draft)| Sample {
        task_id: wanted.problem.task_id.clone(),
        completion: cut_at_stop(&draft.text).to_owned(),
    };
    Ok(wanted.iter().zip(drafts).map(sample).collect())
}

/// A completion being written.
struct Draft {
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
    text: String,
    is_done: bool,
}

impl Draft {
    /// Reads the text where it stands, after the prompt: alone, some tokenizers would leave out the space that it begins
    /// with, and Python's indentation with it.
    fn read(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let start = tokenizer.decode(&self.prompt_ids)?;
        let whole = tokenizer.decode(&[self.prompt_ids.as_slice(), &self.token_ids].concat())?;
        self.text = match whole.strip_prefix(&start) {
            Some(text) => text.to_owned(),
            None => tokenizer.decode(&self.token_ids)?,
        };
        self.is_done = has_stop(&self.text);
        Ok(())
    }
}
