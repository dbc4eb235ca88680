//! What one iteration trains on: demonstrations and self-generated responses with their reference log-probs.

use crate::config::Unfinished;
use crate::data::examples::Example;
use crate::generate::Response;

/// A response and its log-prob (nats, summed over its tokens) under the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredResponse {
    pub token_ids: Vec<u32>,
    pub reference_log_prob: f64,
}

/// A prompt, its demonstration and, where the objective needs one, a self-generated response.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The row of the data file, counted from 0.
    pub index: usize,
    pub prompt_ids: Vec<u32>,
    pub demonstration: ScoredResponse,
    pub self_generated: Option<ScoredResponse>,
}

impl Pair {
    /// A pair for plain supervised steps: no reference, no self-generated response.
    pub fn demonstration_only(example: &Example) -> Self {
        Pair {
            index: example.index,
            prompt_ids: example.prompt_ids.clone(),
            demonstration: ScoredResponse { token_ids: example.demonstration_ids.clone(), reference_log_prob: 0.0 },
            self_generated: None,
        }
    }
}

/// What became of the self-generated responses: logged and shown, because silence here is how such runs go wrong.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct SelfGeneratedCounts {
    pub responses: usize,
    /// Token for token the demonstration: no signal left.
    pub identical: usize,
    /// Nothing but the end token.
    pub empty: usize,
    /// Cut at the token limit. Dropped or masked, as `generation.unfinished` says.
    pub unfinished: usize,
    /// The same as an earlier response to another prompt.
    pub duplicated: usize,
    /// Pairs left out of the training.
    pub dropped: usize,
    /// Mean length in tokens.
    pub mean_tokens: f64,
}

/// Joins demonstrations with self-generated responses. `responses[i]` are the answers to `examples[i]`, one for each sample;
/// `demonstration_log_probs[i]` is the reference log-prob of its demonstration.
pub fn make_pairs(
    examples: &[Example],
    responses: &[Vec<Response>],
    demonstration_log_probs: &[f64],
    unfinished: Unfinished,
) -> (Vec<Pair>, SelfGeneratedCounts) {
    let mut pairs = Vec::new();
    let mut counts = SelfGeneratedCounts::default();
    let mut seen = std::collections::HashSet::new();
    let mut num_tokens = 0;
    for ((example, responses), log_prob) in examples.iter().zip(responses).zip(demonstration_log_probs) {
        let mut own = std::collections::HashSet::new();
        for response in responses {
            counts.responses += 1;
            num_tokens += response.token_ids.len();
            counts.identical += usize::from(response.token_ids == example.demonstration_ids);
            counts.empty += usize::from(response.finished && response.token_ids.len() <= 1);
            counts.unfinished += usize::from(!response.finished);
            counts.duplicated += usize::from(seen.contains(&response.token_ids));
            own.insert(&response.token_ids);
            if !response.finished && unfinished == Unfinished::Drop {
                counts.dropped += 1;
                continue;
            }
            pairs.push(Pair {
                index: example.index,
                prompt_ids: example.prompt_ids.clone(),
                demonstration: ScoredResponse {
                    token_ids: example.demonstration_ids.clone(),
                    reference_log_prob: *log_prob,
                },
                self_generated: Some(ScoredResponse {
                    token_ids: response.token_ids.clone(),
                    reference_log_prob: response.log_prob(),
                }),
            });
        }
        seen.extend(own);
    }
    counts.mean_tokens = num_tokens as f64 / counts.responses.max(1) as f64;
    (pairs, counts)
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
    fn every_kind_of_response_is_counted_and_unfinished_ones_are_dropped() {
        let examples = [example(0, &[5, 2]), example(4, &[6, 2])];
        let responses = [
            vec![response(&[5, 2], true), response(&[2], true)],
            vec![response(&[5, 2], true), response(&[6, 6, 6], false)],
        ];
        let (pairs, counts) = make_pairs(&examples, &responses, &[-1.0, -2.0], Unfinished::Drop);
        let expected = SelfGeneratedCounts {
            responses: 4,
            identical: 1,
            empty: 1,
            unfinished: 1,
            duplicated: 1,
            dropped: 1,
            mean_tokens: 2.0,
        };
        assert_eq!(counts, expected);
        assert_eq!(pairs.iter().map(|p| p.index).collect::<Vec<_>>(), [0, 0, 4]);
        assert_eq!(pairs[2].demonstration.reference_log_prob, -2.0);
        assert_eq!(pairs[2].self_generated.as_ref().unwrap().reference_log_prob, -1.0);
    }

    #[test]
    fn masked_unfinished_responses_keep_their_tokens_and_get_no_end_token() {
        let (pairs, counts) =
            make_pairs(&[example(0, &[5, 2])], &[vec![response(&[6, 6, 6], false)]], &[-1.0], Unfinished::Mask);
        assert_eq!((counts.dropped, counts.unfinished), (0, 1));
        assert_eq!(pairs[0].self_generated.as_ref().unwrap().token_ids, [6, 6, 6]);
    }
}
