//! Token sequences -> packed rows. The only place where positions, rows and the plan of attention are made.
//!
//! A causal model predicts token `i + 1` from the tokens up to `i`. So the last token is never an input, and the log-prob of
//! a response token is read at the row of the token before it. Sequences stand one after another without padding between
//! them, and responses to one prompt share its rows: a demonstration and the self-generated response beside it cost the
//! prompt once. Burn-free. Next: [`crate::model`].

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::ops::{AttentionPlan, Span};

/// A prompt and one response to it, as token ids.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    pub prompt_ids: &'a [u32],
    /// With its end-of-turn token, if the response has one.
    pub response_ids: &'a [u32],
}

/// Packed sequences. B sequences, N rows, R response tokens in all.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// `[N]`.
    pub input_ids: Vec<i32>,
    /// `[N]`: the place of each row's token in its sequence.
    pub positions: Vec<usize>,
    /// Which rows see which.
    pub plan: Arc<AttentionPlan>,
    /// `[R]`: the row at which each response token is predicted, sequence by sequence.
    pub rows: Vec<i32>,
    /// `[R]`: the response tokens.
    pub targets: Vec<i32>,
    /// `[B]`: response tokens of each sequence; the sum is R.
    pub response_lens: Vec<usize>,
}

impl Batch {
    /// Packs sequences; those with the same prompt share its rows. Every span of rows is filled up to a multiple of
    /// `num_tokens_multiple` (1: not at all), because some devices compile a kernel for every new shape. What fills it up
    /// stands after the span's own rows, where no real row looks, and is never read.
    ///
    /// # Panics
    /// If there is no sequence, or one has no prompt token: the first response token would have no row to be read at.
    pub fn new(sequences: &[Sequence<'_>], num_tokens_multiple: usize) -> Self {
        assert!(!sequences.is_empty(), "a batch needs a sequence");
        let mut packing = Packing { num_tokens_multiple, ..Packing::default() };
        let mut rows_of_sequence = vec![Vec::new(); sequences.len()];
        for group in by_prompt(sequences) {
            let prompt_ids = sequences[group[0]].prompt_ids;
            assert!(!prompt_ids.is_empty(), "sequence {} has no prompt token", group[0]);
            let inputs =
                |i: &usize| sequences[*i].response_ids.split_last().map_or([].as_slice(), |(_, inputs)| inputs);
            if let [alone] = group.as_slice() {
                let start = packing.push(&[prompt_ids, inputs(alone)].concat(), 0..0).start;
                let first = start + prompt_ids.len() - 1;
                rows_of_sequence[*alone] = (first..first + sequences[*alone].response_ids.len()).collect();
                continue;
            }
            let prompt = packing.push(prompt_ids, 0..0);
            for i in group {
                let own = packing.push(inputs(&i), prompt.clone());
                if !sequences[i].response_ids.is_empty() {
                    rows_of_sequence[i] = std::iter::once(prompt.end - 1).chain(own).collect();
                }
            }
        }
        Batch {
            input_ids: packing.input_ids,
            positions: packing.positions,
            plan: Arc::new(AttentionPlan::new(packing.spans)),
            rows: rows_of_sequence.into_iter().flatten().map(|row| row as i32).collect(),
            targets: sequences.iter().flat_map(|s| s.response_ids).map(|id| *id as i32).collect(),
            response_lens: sequences.iter().map(|s| s.response_ids.len()).collect(),
        }
    }

    /// B.
    pub fn num_sequences(&self) -> usize {
        self.response_lens.len()
    }

    /// R, the response tokens of all sequences.
    pub fn num_response_tokens(&self) -> usize {
        self.targets.len()
    }

    /// `[B, R]`, row-major: true where response token r belongs to another sequence than b.
    pub fn belongs_to_others(&self) -> Vec<bool> {
        let num_rows = self.num_response_tokens();
        let mut belongs_to_others = vec![true; self.num_sequences() * num_rows];
        let mut start = 0;
        for (b, len) in self.response_lens.iter().enumerate() {
            belongs_to_others[b * num_rows + start..][..*len].fill(false);
            start += len;
        }
        belongs_to_others
    }
}

/// The indices of sequences with the same prompt, in the order in which prompts first occur.
fn by_prompt(sequences: &[Sequence<'_>]) -> Vec<Vec<usize>> {
    let mut group_of_prompt: HashMap<&[u32], usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, sequence) in sequences.iter().enumerate() {
        let group = *group_of_prompt.entry(sequence.prompt_ids).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    groups
}

/// Rows while they are being packed.
#[derive(Default)]
struct Packing {
    num_tokens_multiple: usize,
    input_ids: Vec<i32>,
    positions: Vec<usize>,
    spans: Vec<Span>,
}

impl Packing {
    /// Appends a span and returns the rows of `ids`, without what fills the span up. No ids make no span.
    fn push(&mut self, ids: &[u32], prefix: Range<usize>) -> Range<usize> {
        let start = self.input_ids.len();
        let filled = start + ids.len().next_multiple_of(self.num_tokens_multiple);
        self.input_ids.extend(ids.iter().map(|id| *id as i32));
        self.input_ids.resize(filled, 0);
        self.positions.extend((0..filled - start).map(|i| prefix.len() + i));
        if filled > start {
            self.spans.push(Span { rows: start..filled, prefix });
        }
        start..start + ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(rows: Range<usize>, prefix: Range<usize>) -> Span {
        Span { rows, prefix }
    }

    #[test]
    fn response_tokens_are_read_one_row_before_they_stand() {
        let sequences = [
            Sequence { prompt_ids: &[7, 8], response_ids: &[9, 2] },
            Sequence { prompt_ids: &[5], response_ids: &[6, 4, 2] },
        ];
        let batch = Batch::new(&sequences, 1);
        assert_eq!(batch.input_ids, [7, 8, 9, 5, 6, 4]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1, 2]);
        assert_eq!(batch.plan.spans(), [span(0..3, 0..0), span(3..6, 0..0)]);
        assert_eq!(batch.rows, [1, 2, 3, 4, 5]);
        assert_eq!(batch.targets, [9, 2, 6, 4, 2]);
        let (own, other) = (false, true);
        assert_eq!(batch.belongs_to_others(), [own, own, other, other, other, other, other, own, own, own]);
    }

    #[test]
    fn responses_to_one_prompt_share_its_rows() {
        let sequences = [
            Sequence { prompt_ids: &[7, 8, 3], response_ids: &[9, 2] },
            Sequence { prompt_ids: &[5], response_ids: &[2] },
            Sequence { prompt_ids: &[7, 8, 3], response_ids: &[6, 4, 2] },
            Sequence { prompt_ids: &[7, 8, 3], response_ids: &[2] },
        ];
        let batch = Batch::new(&sequences, 1);
        assert_eq!(batch.input_ids, [7, 8, 3, 9, 6, 4, 5]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 3, 4, 0]);
        assert_eq!(batch.plan.spans(), [span(0..3, 0..0), span(3..4, 0..3), span(4..6, 0..3), span(6..7, 0..0)]);
        assert_eq!(batch.rows, [2, 3, 6, 2, 4, 5, 2]);
        assert_eq!(batch.targets, [9, 2, 2, 6, 4, 2, 2]);
        assert_eq!(batch.response_lens, [2, 1, 3, 1]);
    }

    #[test]
    fn what_fills_a_span_up_is_never_read() {
        let sequences = [
            Sequence { prompt_ids: &[7, 8, 3], response_ids: &[2] },
            Sequence { prompt_ids: &[5], response_ids: &[6, 2] },
            Sequence { prompt_ids: &[5], response_ids: &[2] },
        ];
        let batch = Batch::new(&sequences, 4);
        assert_eq!(batch.input_ids, [7, 8, 3, 0, 5, 0, 0, 0, 6, 0, 0, 0]);
        assert_eq!(batch.plan.spans(), [span(0..4, 0..0), span(4..8, 0..0), span(8..12, 4..5)]);
        assert_eq!(batch.rows, [2, 4, 8, 4]);
    }

    #[test]
    fn a_sequence_without_response_has_no_rows() {
        let batch = Batch::new(&[Sequence { prompt_ids: &[7, 8], response_ids: &[] }], 1);
        assert_eq!((batch.input_ids.len(), batch.num_response_tokens()), (2, 0));
    }
}
