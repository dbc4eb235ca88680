//! Responses are written down one by one as they come, whoever wrote them: the reference here, or a server with it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

use super::self_generation::SelfGeneratedRow;
use super::setup::Run;
use crate::config::WeightFormat;
use crate::data::batch::Sequence;
use crate::error::Result;
use crate::generate::{Event, Generator, Request, Response};
use crate::model::CausalLm;
use crate::objective::log_probs;
use crate::report::console::{Bar, Unit};

/// Responses by the row of the data file and the number of the sample.
pub(super) type Found = BTreeMap<(usize, usize), Response>;

/// A prompt to answer and where its response belongs.
pub(super) struct OpenRequest {
    pub place: (usize, usize),
    pub request: Request,
}

/// The work of answering open requests: each response is appended to the file of its iteration and joins `found`.
pub(super) struct Answering<'a> {
    pub run: &'a Run,
    pub reference: &'a CausalLm,
    /// Inside the run folder.
    pub file: &'a str,
    pub found: &'a mut Found,
    bar: Bar,
    started: Instant,
    num_tokens: usize,
    drift: Drift,
}

/// How far the log-probs of decoding with 16-bit copies of the weights were from those of the weights.
#[derive(Default)]
struct Drift {
    /// Summed over responses.
    nats: f64,
    num_tokens: usize,
}

impl<'a> Answering<'a> {
    pub fn new(
        run: &'a Run,
        reference: &'a CausalLm,
        file: &'a str,
        found: &'a mut Found,
        num_requests: usize,
    ) -> Self {
        let bar = run.console.bar("generating", num_requests as u64, Unit::Count("responses"));
        let started = Instant::now();
        Answering { run, reference, file, found, bar, started, num_tokens: 0, drift: Drift::default() }
    }

    /// The reference answers here, on the run's own device.
    ///
    /// # Errors
    /// As [`Generator::answer`], and of the disk.
    pub fn decode(mut self, open: &[OpenRequest]) -> Result<()> {
        let requests: Vec<Request> = open.iter().map(|open| open.request.clone()).collect();
        let mut generator = Generator::new(self.reference, self.run.config.generation.weights)?;
        let decoding = self.run.decoding();
        generator.answer(&requests, &decoding, &mut |event| {
            match event {
                Event::Token(..) => self.count(1),
                Event::Done(i, response) => self.keep_decoded(&open[i], response)?,
            }
            self.run.stop.check()
        })?;
        self.drift.tell(self.run);
        Ok(())
    }

    fn keep_decoded(&mut self, open: &OpenRequest, response: Response) -> Result<()> {
        if self.run.config.generation.weights == WeightFormat::F32 || self.found.contains_key(&open.place) {
            return self.keep(open, response, None);
        }
        let decoded_log_prob = response.log_prob();
        let response = self.scored(&open.request, response)?;
        self.drift.nats += (decoded_log_prob - response.log_prob()).abs();
        self.drift.num_tokens += response.token_ids.len();
        self.keep(open, response, Some(decoded_log_prob))
    }

    /// Writes a response down, unless there is one already: those that had to be answered together with it.
    ///
    /// # Errors
    /// Of the disk, and of the tokenizer.
    pub fn keep(&mut self, open: &OpenRequest, response: Response, decoded_log_prob: Option<f64>) -> Result<()> {
        self.bar.advance(1);
        let (index, sample) = open.place;
        if let Entry::Vacant(entry) = self.found.entry(open.place) {
            let response_text = self.run.decode(&response)?;
            let row = SelfGeneratedRow { index, sample, response_text, decoded_log_prob, response };
            self.run.dir.append(self.file, &row)?;
            entry.insert(row.response);
        }
        Ok(())
    }

    /// Counts tokens that came, for the progress bar and the run's timing.
    pub fn count(&mut self, num_tokens: usize) {
        self.num_tokens += num_tokens;
        self.run.num_new_tokens.set(self.run.num_new_tokens.get() + num_tokens);
        self.bar.note(&format!("{:.0} tokens/s", self.num_tokens as f64 / self.started.elapsed().as_secs_f64()));
    }

    /// The response with the reference's own log-probs, where whoever wrote it only came near to them. Each response is
    /// scored by itself: its numbers then do not depend on which others a stopped run had finished.
    ///
    /// # Errors
    /// A failing device.
    pub fn scored(&self, request: &Request, response: Response) -> Result<Response> {
        let sequence = Sequence { prompt_ids: &request.prompt_ids, response_ids: &response.token_ids };
        let multiple = self.run.num_tokens_multiple;
        let mut scores = log_probs::score(self.reference, &[sequence], 1, multiple, &mut |_| Ok(()))?;
        Ok(Response { token_log_probs: scores.pop().unwrap_or_default(), ..response })
    }
}

impl Drift {
    fn tell(&self, run: &Run) {
        if self.num_tokens > 0 {
            run.console.say(format!(
                "responses decoded with 16-bit weights and scored again with the weights themselves: their log-probs \
                 differ by {:.5} nats a token",
                self.nats / self.num_tokens as f64
            ));
        }
    }
}
