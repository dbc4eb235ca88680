//! What one iteration trains on: demonstrations and self-generated responses with their reference log-probs.

use crate::config::Unfinished;
use crate::data::examples::Example;
use crate::generate::Response;
use crate::objective::variance_reduction::Distributions;
use crate::records::self_generation::SelfGeneratedCounts;

/// A response and its log-prob (nats, summed over its tokens) under the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredResponse {
    pub token_ids: Vec<u32>,
    pub reference_log_prob: f64,
}

/// A prompt, its demonstration and, where the objective needs them, self-generated responses. The loss of a pair is the mean
/// over its self-generated responses, each compared with the demonstration: more of them make no demonstration count more.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The row of the data file, counted from 0.
    pub index: usize,
    pub prompt_ids: Vec<u32>,
    pub demonstration: ScoredResponse,
    /// At most `generation.samples_per_prompt`, fewer where some were left out; none in supervised stages.
    pub self_generated: Vec<ScoredResponse>,
    /// The reference's distributions along each of them, where `objective.variance_reduction` wants them; else none.
    pub distributions: Vec<Distributions>,
}

impl Pair {
    /// Tokens of a forward pass over the pair: its prompt once and its responses.
    pub fn num_tokens(&self) -> usize {
        self.prompt_ids.len() + self.responses().map(|response| response.token_ids.len()).sum::<usize>()
    }

    /// The demonstration, then the self-generated responses.
    pub fn responses(&self) -> impl Iterator<Item = &ScoredResponse> {
        std::iter::once(&self.demonstration).chain(&self.self_generated)
    }

    /// How often the demonstration stands in the loss: once beside each self-generated response, or alone.
    pub fn num_comparisons(&self) -> usize {
        self.self_generated.len().max(1)
    }

    /// A pair for plain supervised steps: no reference, no self-generated response.
    pub fn demonstration_only(example: &Example) -> Self {
        Pair {
            index: example.index,
            prompt_ids: example.prompt_ids.clone(),
            demonstration: ScoredResponse { token_ids: example.demonstration_ids.clone(), reference_log_prob: 0.0 },
            self_generated: Vec::new(),
            distributions: Vec::new(),
        }
    }
}

/// Splits an update's pairs, in their order, into what is computed in one pass: at most `micro_batch_size` pairs and, unless
/// it is 0, `max_tokens` tokens; a pair that is longer goes alone.
pub fn micro_batches<'a, 'p>(
    pairs: &'a [&'p Pair],
    micro_batch_size: usize,
    max_tokens: usize,
) -> impl Iterator<Item = &'a [&'p Pair]> {
    split_micro_batches(pairs, |pair| pair.num_tokens(), micro_batch_size, max_tokens)
}

/// [`micro_batches`] of whatever has so many tokens.
pub fn split_micro_batches<T>(
    pairs: &[T],
    num_tokens_of: impl Fn(&T) -> usize,
    micro_batch_size: usize,
    max_tokens: usize,
) -> impl Iterator<Item = &[T]> {
    let mut rest = pairs;
    std::iter::from_fn(move || {
        let mut num_tokens = 0;
        let fits = |pair: &&T| {
            num_tokens += num_tokens_of(pair);
            max_tokens == 0 || num_tokens <= max_tokens
        };
        let count = rest.iter().take(micro_batch_size).take_while(fits).count().max(1);
        let (batch, others) = rest.split_at_checked(count)?;
        rest = others;
        Some(batch)
    })
}

/// Joins demonstrations with self-generated responses. `responses[i]` are the answers to `examples[i]`, one for each sample;
/// `demonstration_log_probs[i]` is the reference log-prob of its demonstration.
pub fn make_pairs(
    examples: &[Example],
    responses: &[Vec<Response>],
    demonstration_log_probs: &[f64],
    unfinished: Unfinished,
    max_length: usize,
) -> (Vec<Pair>, SelfGeneratedCounts) {
    let mut pairs = Vec::new();
    let mut counts = SelfGeneratedCounts::default();
    let mut seen = std::collections::HashSet::new();
    let mut num_tokens = 0;
    for ((example, responses), log_prob) in examples.iter().zip(responses).zip(demonstration_log_probs) {
        let mut own = std::collections::HashSet::new();
        let mut self_generated = Vec::new();
        for response in responses {
            counts.responses += 1;
            num_tokens += response.token_ids.len();
            counts.identical += usize::from(response.token_ids == example.demonstration_ids);
            counts.empty += usize::from(response.finished && response.token_ids.len() <= 1);
            counts.unfinished += usize::from(!response.finished);
            counts.duplicated += usize::from(seen.contains(&response.token_ids));
            own.insert(&response.token_ids);
            let is_too_long = example.prompt_ids.len() + response.token_ids.len() > max_length;
            counts.too_long += usize::from(is_too_long);
            if is_too_long || (!response.finished && unfinished == Unfinished::Drop) {
                counts.dropped += 1;
                continue;
            }
            self_generated.push(ScoredResponse {
                token_ids: response.token_ids.clone(),
                reference_log_prob: response.log_prob(),
            });
        }
        seen.extend(own);
        if !self_generated.is_empty() {
            let mut pair = Pair::demonstration_only(example);
            pair.demonstration.reference_log_prob = *log_prob;
            pairs.push(Pair { self_generated, ..pair });
        }
    }
    counts.mean_tokens = num_tokens as f64 / counts.responses.max(1) as f64;
    (pairs, counts)
}

/// A pair of so many tokens, for tests.
#[cfg(test)]
pub(super) fn pair_of_lengths(prompt: usize, demonstration: usize, self_generated: &[usize]) -> Pair {
    let scored = |len: &usize| ScoredResponse { token_ids: vec![2; *len], reference_log_prob: 0.0 };
    Pair {
        index: 0,
        prompt_ids: vec![7; prompt],
        demonstration: scored(&demonstration),
        self_generated: self_generated.iter().map(scored).collect(),
        distributions: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(index: usize, demonstration_ids: &[u32]) -> Example {
        Example {
            index,
            prompt_ids: vec![7],
            demonstration_ids: demonstration_ids.to_vec(),
            self_generated_ids: None,
            demonstration_text: None,
        }
    }

    fn response(token_ids: &[u32], finished: bool) -> Response {
        Response { token_ids: token_ids.to_vec(), token_log_probs: vec![-0.5; token_ids.len()], finished }
    }

    #[test]
    fn micro_batches_keep_both_limits_and_every_pair() {
        let pair = |len: usize| Pair {
            index: len,
            prompt_ids: vec![7],
            demonstration: ScoredResponse { token_ids: vec![2; len - 1], reference_log_prob: 0.0 },
            self_generated: Vec::new(),
            distributions: Vec::new(),
        };
        let pairs = [3, 4, 2, 9, 2, 2, 2, 2].map(pair);
        let pairs: Vec<&Pair> = pairs.iter().collect();
        let lens = |size, tokens| -> Vec<Vec<usize>> {
            micro_batches(&pairs, size, tokens).map(|batch| batch.iter().map(|p| p.num_tokens()).collect()).collect()
        };
        assert_eq!(lens(3, 8), [vec![3, 4], vec![2], vec![9], vec![2, 2, 2], vec![2]]);
        assert_eq!(lens(5, 0), [vec![3, 4, 2, 9, 2], vec![2, 2, 2]]);
        assert_eq!(micro_batches(&[], 2, 8).count(), 0);
    }

    #[test]
    fn every_kind_of_response_is_counted_and_unfinished_ones_are_dropped() {
        let examples = [example(0, &[5, 2]), example(4, &[6, 2])];
        let responses = [
            vec![response(&[5, 2], true), response(&[2], true)],
            vec![response(&[5, 2], true), response(&[6, 6, 6], false)],
        ];
        let (pairs, counts) = make_pairs(&examples, &responses, &[-1.0, -2.0], Unfinished::Drop, 100);
        let expected = SelfGeneratedCounts {
            responses: 4,
            identical: 1,
            empty: 1,
            unfinished: 1,
            duplicated: 1,
            too_long: 0,
            dropped: 1,
            mean_tokens: 2.0,
        };
        assert_eq!(counts, expected);
        assert_eq!(pairs.iter().map(|p| (p.index, p.self_generated.len())).collect::<Vec<_>>(), [(0, 2), (4, 1)]);
        assert_eq!(pairs[1].demonstration.reference_log_prob, -2.0);
        assert_eq!(pairs[1].self_generated[0].reference_log_prob, -1.0);
    }

    #[test]
    fn a_pair_whose_only_response_is_beyond_the_limit_is_left_out_and_counted() {
        let (pairs, counts) =
            make_pairs(&[example(0, &[5, 2])], &[vec![response(&[6, 6, 2], true)]], &[-1.0], Unfinished::Drop, 3);
        assert_eq!((pairs.len(), counts.too_long, counts.dropped), (0, 1, 1));
    }

    #[test]
    fn masked_unfinished_responses_keep_their_tokens_and_get_no_end_token() {
        let (pairs, counts) =
            make_pairs(&[example(0, &[5, 2])], &[vec![response(&[6, 6, 6], false)]], &[-1.0], Unfinished::Mask, 100);
        assert_eq!((counts.dropped, counts.unfinished), (0, 1));
        assert_eq!(pairs[0].self_generated[0].token_ids, [6, 6, 6]);
    }
}
