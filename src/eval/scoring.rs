//! Log-probs of many texts for an evaluation: in batches that a stopped evaluation makes again in the same way.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::row_store::RowStore;
use crate::data::batch::Sequence;
use crate::error::Result;
use crate::model::CausalLm;
use crate::objective::log_probs;
use crate::report::console::{Console, Unit};

/// How rows are scored.
#[derive(Debug, Clone, Copy)]
pub struct Scoring<'a> {
    /// Rows scored together.
    pub batch_size: usize,
    pub num_tokens_multiple: usize,
    pub console: &'a Console,
}

/// Token ids and what they follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scored {
    /// At least one.
    pub prompt_ids: Vec<u32>,
    /// What is scored; at least one.
    pub response_ids: Vec<u32>,
}

impl Scored {
    fn as_sequence(&self) -> Sequence<'_> {
        Sequence { prompt_ids: &self.prompt_ids, response_ids: &self.response_ids }
    }

    fn num_tokens(&self) -> usize {
        self.prompt_ids.len() + self.response_ids.len()
    }
}

impl Scoring<'_> {
    /// Scores every row that the store lacks. `texts` gives the texts of each row; at most `max_texts` are scored together.
    /// `row` makes the row of their token log-probs.
    ///
    /// # Errors
    /// A failing device; log-probs that are not finite; what `row` and the store return.
    pub fn score_rows<R: Serialize + DeserializeOwned>(
        &self,
        model: &CausalLm,
        texts: &[&[Scored]],
        max_texts: usize,
        row: impl Fn(usize, &[Vec<f32>]) -> R,
        store: &mut RowStore<R>,
    ) -> Result<()> {
        let groups = store.unfinished(self.groups(texts));
        let num_texts: usize = groups.iter().flatten().map(|index| texts[*index].len()).sum();
        let mut bar = self.console.bar("scoring", num_texts as u64, Unit::Count("texts"));
        for group in groups {
            let sequences: Vec<Sequence<'_>> =
                group.iter().flat_map(|index| texts[*index]).map(Scored::as_sequence).collect();
            let scores = log_probs::score(model, &sequences, max_texts, self.num_tokens_multiple, &mut |count| {
                bar.advance(count as u64);
                Ok(())
            })?;
            let mut rest = scores.as_slice();
            for index in group {
                let (own, others) = rest.split_at(texts[index].len());
                rest = others;
                if own.iter().flatten().any(|log_prob| !log_prob.is_finite()) {
                    return Err(log_probs::not_finite("the model", index));
                }
                store.add(index, row(index, own))?;
            }
        }
        Ok(())
    }

    /// Rows of similar length together, the longest first: if the memory is too small, that shows at once.
    fn groups(&self, texts: &[&[Scored]]) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        let longest = |index: &usize| texts[*index].iter().map(Scored::num_tokens).max();
        order.sort_by_key(|index| std::cmp::Reverse(longest(index)));
        order.chunks(self.batch_size).map(<[usize]>::to_vec).collect()
    }
}
