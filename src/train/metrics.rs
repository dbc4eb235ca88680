//! Signs of health: what the pairs of an update gave, the numbers that are logged of it, and those that must stop a
//! run.

use super::pairs::{Pair, ScoredResponse};
use crate::records::update::{LogRatios, StepMetrics};

/// What an update's pairs gave, collected over its micro-batches.
#[derive(Debug, Default)]
pub struct PairValues {
    loss: Vec<f64>,
    loss_demonstration: Vec<f64>,
    loss_self_generated: Vec<f64>,
    num_clamped: f64,
    log_ratio_demonstration: Vec<f64>,
    /// Of each pair, one for each of its responses; empty in supervised stages.
    log_ratios_self_generated: Vec<Vec<f64>>,
    /// Of each of them, whether the response is the demonstration, token for token.
    are_demonstrations: Vec<Vec<bool>>,
    demonstration_log_prob: f64,
    demonstration_tokens: usize,
    self_generated_tokens: usize,
    num_tokens: usize,
}

/// Nats a token that a side may move the wrong way on average: it is then 22,000 times less (or more) likely, token by
/// token, than under the reference. No loss asks for that; weights that do it are ruined, though every number is finite.
const MAX_LOG_RATIO_PER_TOKEN: f64 = 10.0;

impl PairValues {
    /// Adds one micro-batch of B pairs with C comparisons. `values` are, one after the other: C losses, their C
    /// demonstration and C self-generated sides, the number of clamped exponentials, then the policy's log-probs of B
    /// demonstrations and of all self-generated responses, pair by pair.
    pub fn add(&mut self, pairs: &[&Pair], values: &[f32]) {
        let num_comparisons: usize = pairs.iter().map(|pair| pair.num_comparisons()).sum();
        let mut values = values.iter().map(|value| f64::from(*value));
        for side in [&mut self.loss, &mut self.loss_demonstration, &mut self.loss_self_generated] {
            let all: Vec<f64> = values.by_ref().take(num_comparisons).collect();
            let mut rest = &all[..];
            for pair in pairs {
                let (own, others) = rest.split_at(pair.num_comparisons());
                side.push(mean(own));
                rest = others;
            }
        }
        self.num_clamped += values.next().unwrap_or_default();
        for (pair, log_prob) in pairs.iter().zip(values.by_ref()) {
            self.demonstration_log_prob += log_prob;
            self.demonstration_tokens += pair.demonstration.token_ids.len();
            self.num_tokens += pair.num_tokens();
            self.log_ratio_demonstration.push(log_prob - pair.demonstration.reference_log_prob);
        }
        for pair in pairs.iter().filter(|pair| !pair.self_generated.is_empty()) {
            self.self_generated_tokens +=
                pair.self_generated.iter().map(|response| response.token_ids.len()).sum::<usize>();
            let log_probs = pair.self_generated.iter().zip(values.by_ref());
            let log_ratios = log_probs.map(|(response, log_prob)| log_prob - response.reference_log_prob);
            self.log_ratios_self_generated.push(log_ratios.collect());
            let is_demonstration = |response: &ScoredResponse| response.token_ids == pair.demonstration.token_ids;
            self.are_demonstrations.push(pair.self_generated.iter().map(is_demonstration).collect());
        }
    }

    /// The places, in the order of adding, of the pairs whose loss or log-ratio is NaN or infinite.
    pub fn not_finite(&self) -> Vec<usize> {
        let is_finite = |i: &usize| {
            let own = self.log_ratios_self_generated.get(*i).into_iter().flatten();
            own.chain([&self.loss[*i], &self.log_ratio_demonstration[*i]]).all(|value| value.is_finite())
        };
        (0..self.loss.len()).filter(|i| !is_finite(i)).collect()
    }

    /// What has exploded, in words: demonstrations far less likely than under the reference, or self-generated responses
    /// far more. None in supervised stages, which have no reference.
    pub fn exploded(&self) -> Option<String> {
        if self.log_ratios_self_generated.is_empty() {
            return None;
        }
        let per_token = |log_ratio: f64, tokens: usize| log_ratio / tokens.max(1) as f64;
        let demonstration = per_token(self.log_ratio_demonstration.iter().sum(), self.demonstration_tokens);
        let self_generated = self.log_ratios_self_generated.iter().flatten().sum();
        let self_generated = per_token(self_generated, self.self_generated_tokens);
        let of = |what: &str, log_ratio: f64| {
            format!("log-ratios have exploded: {what} have {log_ratio:+.1} nats a token on average")
        };
        match (demonstration < -MAX_LOG_RATIO_PER_TOKEN, self_generated > MAX_LOG_RATIO_PER_TOKEN) {
            (true, _) => Some(of("demonstrations", demonstration)),
            (false, true) => Some(of("self-generated responses", self_generated)),
            (false, false) => None,
        }
    }

    /// The update in numbers. `grad_norm` is that before clipping; `seconds` is what it all took.
    pub fn metrics(&self, grad_norm: f64, lr: f64, seconds: f64) -> StepMetrics {
        StepMetrics {
            loss: mean(&self.loss),
            loss_demonstration: mean(&self.loss_demonstration),
            loss_self_generated: mean(&self.loss_self_generated),
            demonstration_log_prob_per_token: self.demonstration_log_prob / self.demonstration_tokens.max(1) as f64,
            log_ratios: self.log_ratios(),
            grad_norm,
            lr,
            num_clamped: self.num_clamped,
            tokens_per_s: self.num_tokens as f64 / seconds,
            seconds,
        }
    }

    /// None in supervised stages.
    fn log_ratios(&self) -> Option<LogRatios> {
        let (demonstration, self_generated) = (&self.log_ratio_demonstration, &self.log_ratios_self_generated);
        if self_generated.is_empty() {
            return None;
        }
        let of_pairs: Vec<f64> = self_generated.iter().map(|own| mean(own)).collect();
        let (log_ratio_demonstration, log_ratio_self_generated) = (mean(demonstration), mean(&of_pairs));
        Some(LogRatios {
            log_ratio_demonstration,
            log_ratio_self_generated,
            max_abs_log_ratio_demonstration: max_abs(demonstration),
            max_abs_log_ratio_self_generated: max_abs(self_generated.iter().flatten()),
            implicit_reward_accuracy: self.accuracy(),
            log_ratio_margin: log_ratio_demonstration - log_ratio_self_generated,
        })
    }

    /// Log-ratios of one and the same response differ by rounding alone: nothing can be told apart there.
    fn accuracy(&self) -> Option<f64> {
        let sides = self.log_ratio_demonstration.iter().zip(&self.log_ratios_self_generated);
        let shares: Vec<f64> = sides
            .zip(&self.are_demonstrations)
            .filter_map(|((r1, own), are_demonstrations)| {
                let others = own.iter().zip(are_demonstrations).filter(|(_, is_demonstration)| !**is_demonstration);
                let is_larger: Vec<f64> = others.map(|(r0, _)| f64::from(u8::from(r1 > r0))).collect();
                (!is_larger.is_empty()).then(|| mean(&is_larger))
            })
            .collect();
        (!shares.is_empty()).then(|| mean(&shares))
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn max_abs<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    values.into_iter().fold(0.0, |max, value| max.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::pairs::pair_of_lengths;

    #[test]
    fn log_ratios_explode_where_a_side_moves_ten_nats_a_token_the_wrong_way() {
        let values = |demonstration: f64, self_generated: f64| PairValues {
            log_ratio_demonstration: vec![demonstration, 0.0],
            log_ratios_self_generated: vec![vec![self_generated], vec![0.0]],
            demonstration_tokens: 20,
            self_generated_tokens: 20,
            ..PairValues::default()
        };
        assert_eq!(values(-199.0, 199.0).exploded(), None);
        assert_eq!(values(1000.0, -1000.0).exploded(), None, "the right way");
        assert!(
            values(-202.0, 0.0).exploded().is_some_and(|seen| seen.contains("demonstrations have -10.1 nats a token"))
        );
        assert!(values(0.0, 202.0).exploded().is_some_and(|seen| seen.contains("self-generated responses have +10.1")));
        let supervised = PairValues { log_ratios_self_generated: Vec::new(), ..values(-500.0, 0.0) };
        assert_eq!(supervised.exploded(), None, "no reference, no ratio");
    }

    /// The log-ratios of pairs whose responses, but those named in `are_demonstrations`, are other than the demonstration.
    fn ratios(demonstration: &[f64], self_generated: &[&[f64]], are_demonstrations: &[&[bool]]) -> LogRatios {
        let values = PairValues {
            log_ratio_demonstration: demonstration.to_vec(),
            log_ratios_self_generated: self_generated.iter().map(|own| own.to_vec()).collect(),
            are_demonstrations: are_demonstrations.iter().map(|of_pair| of_pair.to_vec()).collect(),
            ..PairValues::default()
        };
        values.log_ratios().unwrap()
    }

    #[test]
    fn accuracy_counts_pairs_whose_demonstration_gained_more() {
        let ratios = ratios(&[1.0, -2.0, 0.5], &[&[-2.5], &[-1.0], &[0.5]], &[&[false][..]; 3]);
        assert_eq!(ratios.implicit_reward_accuracy, Some(1.0 / 3.0));
        assert_eq!((ratios.log_ratio_demonstration, ratios.log_ratio_self_generated), (-0.5 / 3.0, -3.0 / 3.0));
        assert!((ratios.log_ratio_margin - 2.5 / 3.0).abs() < 1e-12, "{}", ratios.log_ratio_margin);
        assert_eq!((ratios.max_abs_log_ratio_demonstration, ratios.max_abs_log_ratio_self_generated), (2.0, 2.5));
    }

    #[test]
    fn a_pair_counts_once_however_many_responses_it_has() {
        let ratios = ratios(&[1.0, -1.0], &[&[0.0, 2.0, 0.5, -4.5], &[3.0]], &[&[false; 4], &[false]]);
        assert_eq!(ratios.implicit_reward_accuracy, Some((0.75 + 0.0) / 2.0));
        assert_eq!(ratios.log_ratio_self_generated, (-0.5 + 3.0) / 2.0);
        assert_eq!(ratios.max_abs_log_ratio_self_generated, 4.5);
    }

    #[test]
    fn responses_that_are_the_demonstration_are_left_out_of_the_accuracy() {
        let accuracy = |are_demonstrations: [&[bool]; 2]| {
            ratios(&[1.0, 1.0], &[&[1.0 - 1e-6, 2.0], &[1.0 + 1e-6]], &are_demonstrations).implicit_reward_accuracy
        };
        assert_eq!(accuracy([&[true, false], &[true]]), Some(0.0));
        assert_eq!(accuracy([&[false, true], &[true]]), Some(1.0));
        assert_eq!(accuracy([&[true, true], &[true]]), None);
        let mut values = PairValues::default();
        let (same, other) = (pair_of_lengths(1, 2, &[2]), pair_of_lengths(1, 2, &[3]));
        values.add(&[&same, &other], &[1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.0, -4.0, -4.0, -5.0, -3.0]);
        assert_eq!(values.accuracy(), Some(0.0), "of the second pair alone");
    }

    #[test]
    fn the_prompt_of_a_pair_counts_once_in_its_tokens() {
        let mut values = PairValues::default();
        // Two losses with their two sides, no clamped exponential, three log-probs.
        values.add(&[&pair_of_lengths(10, 4, &[3, 5])], &[1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.0, -4.0, -3.0, -5.0]);
        assert_eq!(values.metrics(1.0, 1e-5, 2.0).tokens_per_s, (10.0 + 4.0 + 3.0 + 5.0) / 2.0);
    }

    #[test]
    fn the_figures_of_an_update_are_means_over_its_pairs_and_tokens() {
        let (first, second) = (pair_of_lengths(10, 4, &[3, 5]), pair_of_lengths(2, 1, &[2]));
        let mut values = PairValues::default();
        // Three losses with their two sides, the clamped exponentials, then log-probs: of two demonstrations, of two
        // responses of the first pair and one of the second.
        values.add(
            &[&first, &second],
            &[1.0, 0.5, 3.0, 0.75, 0.25, 1.0, 0.25, 0.25, 2.0, 3.0, -4.0, -3.5, -3.0, -5.0, -2.0],
        );
        let metrics = values.metrics(0.5, 1e-5, 2.0);
        assert_eq!(metrics.loss, (0.75 + 3.0) / 2.0);
        assert_eq!(metrics.loss_demonstration, (0.5 + 1.0) / 2.0);
        assert_eq!(metrics.loss_self_generated, (0.25 + 2.0) / 2.0);
        assert_eq!(metrics.demonstration_log_prob_per_token, (-4.0 - 3.5) / 5.0);
        assert_eq!(metrics.num_clamped, 3.0);
        assert_eq!((metrics.grad_norm, metrics.lr, metrics.seconds), (0.5, 1e-5, 2.0));
        // The references' log-probs are 0.
        let ratios = metrics.log_ratios.unwrap();
        assert_eq!((ratios.log_ratio_demonstration, ratios.log_ratio_self_generated), (-3.75, (-4.0 - 2.0) / 2.0));
        assert_eq!(ratios.implicit_reward_accuracy, Some((0.5 + 0.0) / 2.0));
    }
}
