//! The first half of an iteration: the reference answers every prompt and scores every demonstration. Responses are written to
//! the iteration's folder as they come, and so are scores: a stopped run goes on where it was.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use super::answering::{Answering, Found, OpenRequest};
use super::collapse;
use super::pairs::{Pair, make_pairs};
use super::served::Served;
use super::setup::Run;
use crate::config::GenerationConfig;
use crate::data::batch::Sequence;
use crate::data::bring_second_responses;
use crate::data::examples::Example;
use crate::error::{Error, Result};
use crate::formats::json_lines::json_line;
use crate::generate::sampler::{Sampling, answer_seed};
use crate::generate::{Decoding, Request, Response, inseparable};
use crate::model::CausalLm;
use crate::objective::log_probs;
use crate::records::self_generation::{
    COUNTS_FILE, CountsRow, SELF_GENERATED_FILE, SelfGeneratedCounts, iteration_folder,
};
use crate::records::stage::Stage;
use crate::report::console::Unit;
use crate::report::table::plural;

/// The reference's log-probs of the demonstrations, beside [`SELF_GENERATED_FILE`].
pub const DEMONSTRATIONS_FILE: &str = "demonstrations.jsonl";
/// The same until all are scored, in the order in which they come.
const SCORED_SO_FAR_FILE: &str = "demonstrations.part.jsonl";
/// How many responses are scored again with a full forward pass, to check the log-probs kept while decoding.
const NUM_CHECKED: usize = 8;
/// The largest difference, nats per token, that rounding explains.
const CHECK_TOLERANCE: f64 = 1e-2;
/// How many responses a person is shown.
const NUM_SHOWN: usize = 3;

/// One line of [`SELF_GENERATED_FILE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SelfGeneratedRow {
    pub index: usize,
    pub sample: usize,
    /// The text, for people; `token_ids` are what is trained on.
    pub response_text: Option<String>,
    /// The log-prob (nats) that decoding with 16-bit copies of the weights gave; `token_log_probs` are then those of the
    /// weights themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded_log_prob: Option<f64>,
    #[serde(flatten)]
    pub response: Response,
}

/// One line of `demonstrations.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DemonstrationRow {
    pub index: usize,
    pub reference_log_prob: f64,
}

impl Run {
    /// The reference's responses to every prompt, `samples_per_prompt` each, in the order of the examples.
    pub(super) fn self_generate(
        &self,
        iteration: usize,
        reference: &CausalLm,
        stage_steps: usize,
    ) -> Result<Vec<Vec<Response>>> {
        let file = format!("{}/{SELF_GENERATED_FILE}", iteration_folder(iteration));
        let num_samples = self.num_samples();
        let rows: Vec<SelfGeneratedRow> = self.dir.read_lines(&file)?;
        let mut found: Found = rows.into_iter().map(|row| ((row.index, row.sample), row.response)).collect();
        let open = self.open_requests(iteration, reference, &found);
        if !open.is_empty() {
            if stage_steps > 0 {
                return Err(Error::input(self.dir.join(&file), "responses are missing")
                    .with_hint("the reference that wrote them is gone; start a new run"));
            }
            match (self.are_given(), &self.config.server) {
                (true, _) => self.score_given(reference, &file, &mut found)?,
                (false, None) => Answering::new(self, reference, &file, &mut found, open.len()).decode(&open)?,
                (false, Some(server)) => {
                    let served = Served::prepare(self, server, iteration, reference)?;
                    served.answer(&open, Answering::new(self, reference, &file, &mut found, open.len()))?;
                }
            }
            self.dir.sync_lines(&file)?;
        }
        if self.config.server.is_some() {
            self.forget_served_policy(iteration)?;
        }
        let mut of_example = |index| (0..num_samples).filter_map(|sample| found.remove(&(index, sample))).collect();
        let responses: Vec<Vec<Response>> = self.examples.iter().map(|example| of_example(example.index)).collect();
        if stage_steps == 0 {
            self.check_kept_log_probs(reference, &responses)?;
            self.show(&responses)?;
        }
        Ok(responses)
    }

    /// Responses of this stage that are written already.
    pub(super) fn num_responses(&self, stage: Stage) -> Result<usize> {
        let Stage::Iteration(iteration) = stage else { return Ok(0) };
        let rows: Vec<SelfGeneratedRow> =
            self.dir.read_lines(&format!("{}/{SELF_GENERATED_FILE}", iteration_folder(iteration)))?;
        Ok(rows.len())
    }

    /// Preference rows bring a second response each; [`super::inputs`] refuses data of which only some rows do.
    pub(super) fn are_given(&self) -> bool {
        bring_second_responses(&self.examples)
    }

    /// Self-generated responses for each prompt.
    fn num_samples(&self) -> usize {
        if self.are_given() { 1 } else { self.config.generation.samples_per_prompt }
    }

    /// The requests that have no response yet, with those that must be answered together with them for the same answers bit
    /// for bit: see [`inseparable`].
    fn open_requests(&self, iteration: usize, reference: &CausalLm, found: &Found) -> Vec<OpenRequest> {
        let num_samples = self.num_samples();
        let wanted = self.examples.iter().flat_map(|example| (0..num_samples).map(move |sample| (example, sample)));
        let (places, requests): (Vec<_>, Vec<Request>) = wanted
            .map(|(example, sample)| {
                let seed = answer_seed(self.config.seed, iteration, example.index, sample);
                (
                    (example.index, sample),
                    Request { prompt_ids: example.prompt_ids.clone(), seed, max_new_tokens: None },
                )
            })
            .unzip();
        let mut groups = match self.config.server {
            Some(_) => (0..requests.len()).map(|i| vec![i]).collect(),
            None => inseparable(reference, &requests, self.config.generation.batch_size),
        };
        groups.retain(|group| group.iter().any(|i| !found.contains_key(&places[*i])));
        let open = groups.into_iter().flatten();
        open.map(|i| OpenRequest { place: places[i], request: requests[i].clone() }).collect()
    }

    /// Rows of preference pairs bring their own second response: it is scored under the reference instead of generated.
    fn score_given(&self, reference: &CausalLm, file: &str, found: &mut Found) -> Result<()> {
        let rejected = |example: &Example| example.self_generated_ids.clone().unwrap_or_default();
        let responses: Vec<Vec<u32>> = self.examples.iter().map(rejected).collect();
        let sequences: Vec<Sequence<'_>> = self
            .examples
            .iter()
            .zip(&responses)
            .map(|(example, response_ids)| Sequence { prompt_ids: &example.prompt_ids, response_ids })
            .collect();
        let places: Vec<(usize, usize)> = self.examples.iter().map(|example| (example.index, 0)).collect();
        let is_known: Vec<bool> = places.iter().map(|place| found.contains_key(place)).collect();
        self.score("given responses", reference, &sequences, &is_known, &mut |i, token_log_probs| {
            let (index, sample) = places[i];
            let response = Response { token_ids: responses[i].clone(), token_log_probs, finished: true };
            let response_text = self.decode(&response)?;
            let row = SelfGeneratedRow { index, sample, response_text, decoded_log_prob: None, response };
            self.dir.append(file, &row)?;
            found.insert(places[i], row.response);
            Ok(())
        })
    }

    /// Scores what is not known yet. `keep` hears the place and the token log-probs of each sequence.
    fn score(
        &self,
        label: &'static str,
        reference: &CausalLm,
        sequences: &[Sequence<'_>],
        is_known: &[bool],
        keep: &mut dyn FnMut(usize, Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        let num_open = is_known.iter().filter(|is_known| !**is_known).count();
        let mut bar = self.console.bar("scoring", num_open as u64, Unit::Count(label));
        let (batch_size, multiple) = (self.score_batch_size(), self.num_tokens_multiple);
        log_probs::score_passes(reference, sequences, batch_size, multiple, &|i| is_known[i], &mut |pass| {
            for (i, token_log_probs) in pass.into_iter().filter(|(i, _)| !is_known[*i]) {
                keep(i, token_log_probs)?;
                bar.advance(1);
            }
            self.stop.check()
        })
    }

    /// The reference log-prob (nats) of every demonstration, in the order of the examples.
    pub(super) fn score_demonstrations(
        &self,
        iteration: usize,
        reference: &CausalLm,
        stage_steps: usize,
    ) -> Result<Vec<f64>> {
        let file = format!("{}/{DEMONSTRATIONS_FILE}", iteration_folder(iteration));
        if let Some(all) = self.written_log_probs(&file)? {
            return Ok(all);
        }
        let missing = || {
            Error::input(self.dir.join(&file), "reference log-probs are missing")
                .with_hint("the reference that gave them is gone; start a new run")
        };
        if stage_steps > 0 {
            return Err(missing());
        }
        let scored_so_far = format!("{}/{SCORED_SO_FAR_FILE}", iteration_folder(iteration));
        self.score_open_demonstrations(reference, &scored_so_far)?;
        // Read back, because JSON may change a double's last digit, and a resumed run has only what is written: sums of
        // floats often lie half-way between two floats, so that the last digit decides.
        let log_probs = self.written_log_probs(&scored_so_far)?.ok_or_else(missing)?;
        let rows = self.examples.iter().zip(log_probs);
        let lines: Result<Vec<String>> = rows
            .map(|(example, reference_log_prob)| DemonstrationRow { index: example.index, reference_log_prob })
            .map(|row| json_line(&row))
            .collect();
        self.dir.write(&file, &lines?.concat())?;
        self.dir.remove(&scored_so_far)?;
        self.written_log_probs(&file)?.ok_or_else(missing)
    }

    /// Writes the log-probs that `file` lacks.
    fn score_open_demonstrations(&self, reference: &CausalLm, file: &str) -> Result<()> {
        let written: Vec<DemonstrationRow> = self.dir.read_lines(file)?;
        let written: BTreeSet<usize> = written.iter().map(|row| row.index).collect();
        let is_known: Vec<bool> = self.examples.iter().map(|example| written.contains(&example.index)).collect();
        let sequences: Vec<Sequence<'_>> = self
            .examples
            .iter()
            .map(|example| Sequence { prompt_ids: &example.prompt_ids, response_ids: &example.demonstration_ids })
            .collect();
        self.score("demonstrations", reference, &sequences, &is_known, &mut |i, token_log_probs| {
            let row = DemonstrationRow {
                index: self.examples[i].index,
                reference_log_prob: log_probs::total(&token_log_probs),
            };
            if !row.reference_log_prob.is_finite() {
                return Err(log_probs::not_finite("the reference", row.index)
                    .with_hint("its weights have diverged: start a new run with another model or a lower rate"));
            }
            self.dir.append(file, &row)
        })
    }

    /// None if one is missing.
    fn written_log_probs(&self, file: &str) -> Result<Option<Vec<f64>>> {
        let rows: Vec<DemonstrationRow> = self.dir.read_lines(file)?;
        let known: BTreeMap<usize, f64> = rows.iter().map(|row| (row.index, row.reference_log_prob)).collect();
        Ok(self.examples.iter().map(|example| known.get(&example.index).copied()).collect())
    }

    /// Joins both halves and says what became of the responses.
    pub(super) fn pair_up(
        &self,
        iteration: usize,
        responses: &[Vec<Response>],
        demonstration_log_probs: &[f64],
    ) -> Result<Vec<Pair>> {
        let unfinished = self.config.generation.unfinished;
        let (pairs, counts) =
            make_pairs(&self.examples, responses, demonstration_log_probs, unfinished, self.config.train.max_length);
        self.dir.keep_lines(COUNTS_FILE, |row| row["iteration"].as_u64() < Some(iteration as u64))?; // counted again
        let earlier: Vec<CountsRow> = self.dir.read_lines(COUNTS_FILE)?;
        self.dir.append(COUNTS_FILE, &CountsRow { iteration, counts: counts.clone() })?;
        self.dir.sync_lines(COUNTS_FILE)?;
        self.tell(&counts);
        if !self.are_given() {
            let demonstrations = collapse::of_demonstrations(&self.examples);
            let before = earlier.last().map(|row| &row.counts);
            collapse::check(&counts, before, &demonstrations, &self.config)?
                .into_iter()
                .for_each(|onset| self.console.warn(onset));
        }
        Ok(pairs)
    }

    fn tell(&self, counts: &SelfGeneratedCounts) {
        let SelfGeneratedCounts { responses, identical, empty, unfinished, duplicated, too_long, dropped, mean_tokens } =
            *counts;
        let parts = [
            (identical, "identical to the demonstration"),
            (unfinished, "cut off"),
            (empty, "empty"),
            (duplicated, "duplicated"),
            (too_long, "longer than train.max_length"),
            (dropped, "left out of the training"),
        ];
        let parts = parts.into_iter().filter(|(count, _)| *count > 0);
        let parts: String = parts.map(|(count, what)| format!(", {count} {what}")).collect();
        self.console.say(format!("{} of {mean_tokens:.1} tokens{parts}", plural(responses, "response")));
    }

    pub(super) fn decoding(&self) -> Decoding {
        let GenerationConfig { temperature, top_k, top_p, max_new_tokens, batch_size, .. } = self.config.generation;
        Decoding {
            sampling: Sampling { temperature, top_k, top_p },
            max_new_tokens,
            batch_size,
            eos_token_ids: self.eos_token_ids.clone(),
        }
    }

    /// The log-probs kept while decoding are the reference log-probs of the training, so decoding must agree with the full
    /// forward pass that the training does.
    fn check_kept_log_probs(&self, reference: &CausalLm, responses: &[Vec<Response>]) -> Result<()> {
        let checked = self.examples.iter().zip(responses).filter_map(|(example, own)| Some((example, own.first()?)));
        let checked: Vec<_> = checked.take(NUM_CHECKED).collect();
        let sequences: Vec<Sequence<'_>> = checked
            .iter()
            .map(|(example, response)| Sequence { prompt_ids: &example.prompt_ids, response_ids: &response.token_ids })
            .collect();
        let multiple = self.num_tokens_multiple;
        let scores = log_probs::score(reference, &sequences, self.score_batch_size(), multiple, &mut |_| Ok(()))?;
        for ((example, response), score) in checked.iter().zip(scores) {
            let difference = (log_probs::total(&score) - response.log_prob()).abs() / score.len().max(1) as f64;
            if difference.is_nan() || difference > CHECK_TOLERANCE {
                return Err(Error::device(
                    &self.device_name,
                    format!(
                        "decoding and scoring disagree by {difference:.4} nats a token on row {}, counted from 0: \
                         this device computes wrong numbers",
                        example.index
                    ),
                )
                .with_hint("update the graphics driver, or in a new run: --device flex"));
            }
        }
        Ok(())
    }

    fn show(&self, responses: &[Vec<Response>]) -> Result<()> {
        let of_other = if self.are_given() { "second response" } else { "self-generated " };
        for (example, own) in self.examples.iter().zip(responses).take(NUM_SHOWN) {
            let (Some(response), Some(demonstration)) = (own.first(), &example.demonstration_text) else { continue };
            let Some(text) = self.decode(response)? else { continue };
            let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            self.console.say(format!("  demonstration   {}", one_line(demonstration)));
            self.console.say(format!("  {of_other} {}", one_line(&text)));
        }
        Ok(())
    }

    pub(super) fn decode(&self, response: &Response) -> Result<Option<String>> {
        self.tokenizer.as_ref().map(|tokenizer| tokenizer.decode(&response.token_ids)).transpose()
    }
}
