//! The reference's distributions along its own responses, for the variance reduction: read in one pass after the pairs are
//! known, and written to the iteration's folder one by one.
//!
//! A pass of its own rather than a by-product of decoding, so that they are those of the weights themselves however the
//! responses came: decoded with 16-bit copies, or by a server. Pairs that are left out cost nothing.

use serde::{Deserialize, Serialize};

use super::pairs::Pair;
use super::setup::Run;
use crate::config::{RunConfig, VarianceReduction};
use crate::data::batch::Sequence;
use crate::error::{Error, Result};
use crate::model::{CausalLm, ModelConfig};
use crate::objective::variance_reduction::{Distributions, distributions};
use crate::records::self_generation::iteration_folder;
use crate::report::console::Unit;

/// A line for each self-generated response that is trained on, in the order of the pairs.
pub const DISTRIBUTIONS_FILE: &str = "distributions.jsonl";

/// One line of [`DISTRIBUTIONS_FILE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
struct DistributionsRow {
    index: usize,
    #[serde(flatten)]
    distributions: Distributions,
}

/// Refuses what `objective.variance_reduction` cannot do with this model and these rows. `are_given`: the rows bring second
/// responses.
///
/// # Errors
/// [`Error::Config`].
pub(super) fn check(config: &RunConfig, model: &ModelConfig, are_given: bool) -> Result<()> {
    let key = "objective.variance_reduction";
    let reduction = config.objective.variance_reduction;
    if reduction.is_on() && are_given {
        return Err(Error::config(key, "the rows bring second responses, which the reference did not write")
            .with_hint("use none, or rows without rejected responses"));
    }
    let most = VarianceReduction::MAX_EXACT_VOCABULARY;
    if reduction == VarianceReduction::Exact && model.vocab_size > most {
        let message = format!("exact keeps every token's log-prob, and this vocabulary has {}", model.vocab_size);
        return Err(Error::config(key, format!("{message}; at most {most} are possible"))
            .with_hint("use 'objective.variance_reduction=top_k(16)', in quotes on a command line"));
    }
    Ok(())
}

/// Tokens whose log-probs are kept at each place; None without variance reduction.
pub(super) fn num_candidates(reduction: VarianceReduction, vocab_size: usize) -> Option<usize> {
    match reduction {
        VarianceReduction::None => None,
        VarianceReduction::Exact => Some(vocab_size),
        VarianceReduction::TopK(k) => Some(k.min(vocab_size)),
    }
}

/// What the distributions along responses of so many tokens take on the disk, a little more than they do.
pub(super) fn num_bytes(reduction: VarianceReduction, vocab_size: usize, num_tokens: u64) -> u64 {
    const LOG_PROB: u64 = 12; // `-3.4567893,` mostly
    let id = u64::from(vocab_size.max(1).ilog10()) + 2; // its digits and a comma
    let candidate = if reduction == VarianceReduction::Exact { LOG_PROB } else { LOG_PROB + id };
    let candidates = num_candidates(reduction, vocab_size).map(|count| count as u64 * candidate);
    candidates.map_or(0, |candidates| num_tokens * (LOG_PROB + candidates))
}

impl Run {
    /// Gives every self-generated response the reference's distributions, if the configuration asks for them.
    pub(super) fn add_distributions(
        &self,
        iteration: usize,
        reference: &CausalLm,
        stage_steps: usize,
        pairs: &mut [Pair],
    ) -> Result<()> {
        let reduction = self.config.objective.variance_reduction;
        let Some(num_candidates) = num_candidates(reduction, reference.config().vocab_size) else { return Ok(()) };
        let file = format!("{}/{DISTRIBUTIONS_FILE}", iteration_folder(iteration));
        let mut rows: Vec<DistributionsRow> = self.dir.read_lines(&file)?;
        let num_wanted: usize = pairs.iter().map(|pair| pair.self_generated.len()).sum();
        if rows.len() < num_wanted && stage_steps == 0 {
            self.read_distributions(&file, reference, num_candidates, pairs, rows.len())?;
            // Read back, as a resumed run has only what is written.
            rows = self.dir.read_lines(&file)?;
        }
        let mut rows = rows.into_iter();
        for pair in pairs {
            let own = rows.by_ref().take(pair.self_generated.len()).filter(|row| row.index == pair.index);
            pair.distributions = own.map(|row| row.distributions).collect();
            if pair.distributions.len() < pair.self_generated.len() {
                let message = format!("has no distributions of row {}", pair.index);
                return Err(Error::input(self.dir.join(&file), message)
                    .with_hint("the reference that gave them is gone; start a new run"));
            }
        }
        Ok(())
    }

    /// Writes those of all responses but the first `num_written`.
    fn read_distributions(
        &self,
        file: &str,
        reference: &CausalLm,
        num_candidates: usize,
        pairs: &[Pair],
        num_written: usize,
    ) -> Result<()> {
        let responses = pairs.iter().flat_map(|pair| pair.self_generated.iter().map(move |response| (pair, response)));
        let open: Vec<_> = responses.skip(num_written).collect();
        let mut bar = self.console.bar("scoring", open.len() as u64, Unit::Count("distributions"));
        for (pair, response) in open {
            let sequence = Sequence { prompt_ids: &pair.prompt_ids, response_ids: &response.token_ids };
            let distributions = distributions(reference, sequence, num_candidates, self.num_tokens_multiple)?;
            self.dir.append(file, &DistributionsRow { index: pair.index, distributions })?;
            bar.advance(1);
            self.stop.check()?;
        }
        self.dir.sync_lines(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::json_lines::json_line;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    #[test]
    fn a_written_line_takes_hardly_less_than_its_estimate() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        // From likely tokens to very unlikely ones.
        let mut log_probs = |len: usize| -> Vec<f32> {
            (0..len).map(|_| -(20.0 * (random.next_u32() as f32 / u32::MAX as f32).powi(2))).collect()
        };
        const NUM_TOKENS: usize = 200;
        for (reduction, vocab_size) in [(VarianceReduction::TopK(16), 49_152), (VarianceReduction::Exact, 4096)] {
            let num_candidates = NUM_TOKENS * num_candidates(reduction, vocab_size).unwrap();
            let ids = if reduction == VarianceReduction::Exact { 0 } else { num_candidates };
            let distributions = Distributions {
                log_probs: log_probs(NUM_TOKENS),
                candidate_log_probs: log_probs(num_candidates),
                candidate_ids: (0..ids as u32).map(|i| i * 7919 % vocab_size as u32).collect(),
            };
            let written = json_line(&DistributionsRow { index: 1234, distributions }).unwrap().len() as u64;
            let estimated = num_bytes(reduction, vocab_size, NUM_TOKENS as u64);
            assert!((written..written * 6 / 5).contains(&estimated), "{written} bytes, {estimated} estimated");
        }
        assert_eq!(num_bytes(VarianceReduction::None, 49_152, 1000), 0);
    }
}
