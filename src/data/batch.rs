//! Token sequences -> one rectangular batch. The only place where a mask is made or shifted.
//!
//! A causal model predicts token `i + 1` from the tokens up to `i`. So the last token is never an input, and the log-prob of
//! a response token is read at the row of the token before it. Padding stands on the right, where causal attention never
//! looks from a real token; its rows are simply never read. Burn-free. Next: [`crate::model`].

/// A prompt and one response to it, as token ids.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    pub prompt_ids: &'a [u32],
    /// With its end-of-turn token, if the response has one.
    pub response_ids: &'a [u32],
}

/// Sequences padded on the right to one length. B sequences, T tokens, R response tokens in all.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// B.
    pub num_sequences: usize,
    /// T, the longest sequence less its last token.
    pub num_tokens: usize,
    /// `[B * T]`, row-major.
    pub input_ids: Vec<i32>,
    /// `[R]`: where in `[B * T]` each response token is predicted, sequence by sequence.
    pub rows: Vec<i32>,
    /// `[R]`: the response tokens.
    pub targets: Vec<i32>,
    /// `[B]`: response tokens of each sequence; the sum is R.
    pub response_lens: Vec<usize>,
}

impl Batch {
    /// Puts sequences into one batch. T is rounded up to a multiple of `num_tokens_multiple` (1: no rounding), because some
    /// devices compile a kernel for every new shape.
    ///
    /// # Panics
    /// If there is no sequence, or one has no prompt token: the first response token would have no row to be read at.
    pub fn new(sequences: &[Sequence<'_>], num_tokens_multiple: usize) -> Self {
        assert!(!sequences.is_empty(), "a batch needs a sequence");
        let longest =
            sequences.iter().map(|s| (s.prompt_ids.len() + s.response_ids.len()).saturating_sub(1)).max().unwrap_or(1);
        let num_tokens = longest.max(1).next_multiple_of(num_tokens_multiple);
        let mut batch = Batch {
            num_sequences: sequences.len(),
            num_tokens,
            input_ids: vec![0; sequences.len() * num_tokens],
            rows: Vec::new(),
            targets: Vec::new(),
            response_lens: Vec::with_capacity(sequences.len()),
        };
        for (b, sequence) in sequences.iter().enumerate() {
            assert!(!sequence.prompt_ids.is_empty(), "sequence {b} has no prompt token");
            let start = b * num_tokens;
            let ids = sequence.prompt_ids.iter().chain(sequence.response_ids);
            let num_inputs = sequence.prompt_ids.len() + sequence.response_ids.len() - 1;
            for (input, id) in batch.input_ids[start..start + num_inputs].iter_mut().zip(ids) {
                *input = *id as i32;
            }
            let first_row = start + sequence.prompt_ids.len() - 1;
            batch.rows.extend((first_row..first_row + sequence.response_ids.len()).map(|row| row as i32));
            batch.targets.extend(sequence.response_ids.iter().map(|id| *id as i32));
            batch.response_lens.push(sequence.response_ids.len());
        }
        batch
    }

    /// R, the response tokens of all sequences.
    pub fn num_response_tokens(&self) -> usize {
        self.targets.len()
    }

    /// `[B, R]`, row-major: 1 where response token r belongs to sequence b. Times the token log-probs it gives each
    /// sequence's log-prob, differentiably and in one fixed order.
    pub fn membership(&self) -> Vec<f32> {
        let num_rows = self.num_response_tokens();
        let mut membership = vec![0.0; self.num_sequences * num_rows];
        let mut start = 0;
        for (b, len) in self.response_lens.iter().enumerate() {
            membership[b * num_rows + start..][..*len].fill(1.0);
            start += len;
        }
        membership
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_tokens_are_read_one_row_before_they_stand() {
        let sequences = [
            Sequence { prompt_ids: &[7, 8], response_ids: &[9, 2] },
            Sequence { prompt_ids: &[5], response_ids: &[6, 4, 2] },
        ];
        let batch = Batch::new(&sequences, 1);
        assert_eq!((batch.num_sequences, batch.num_tokens), (2, 3));
        assert_eq!(batch.input_ids, [7, 8, 9, 5, 6, 4]);
        assert_eq!(batch.rows, [1, 2, 3, 4, 5]);
        assert_eq!(batch.targets, [9, 2, 6, 4, 2]);
        assert_eq!(batch.membership(), [1., 1., 0., 0., 0., 0., 0., 1., 1., 1.]);
    }

    #[test]
    fn padding_stands_on_the_right_and_is_never_read() {
        let sequences = [
            Sequence { prompt_ids: &[7, 8, 3], response_ids: &[2] },
            Sequence { prompt_ids: &[5], response_ids: &[2] },
        ];
        let batch = Batch::new(&sequences, 4);
        assert_eq!(batch.num_tokens, 4);
        assert_eq!(batch.input_ids, [7, 8, 3, 0, 5, 0, 0, 0]);
        assert_eq!(batch.rows, [2, 4]);
    }

    #[test]
    fn a_sequence_without_response_has_no_rows() {
        let batch = Batch::new(&[Sequence { prompt_ids: &[7, 8], response_ids: &[] }], 1);
        assert_eq!((batch.num_tokens, batch.num_response_tokens()), (1, 0));
    }
}
