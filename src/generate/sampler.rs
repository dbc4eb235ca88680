//! From logits to one token: greedy, or sampled at a temperature from the top k tokens or the top p of the mass.
//!
//! Randomness is a stream per answer, counted from its own seed: there is no shared generator whose state would have to be
//! saved, and an answer does not depend on its batch.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// How a token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; 1 is the policy's own distribution.
    pub temperature: f64,
    /// Only the k most likely tokens; 0 is off.
    pub top_k: usize,
    /// Only the most likely tokens that together have this mass; 1 is off.
    pub top_p: f64,
}

impl Sampling {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 }
    }
}

/// The random numbers of one answer.
#[derive(Debug)]
pub struct TokenStream(ChaCha8Rng);

impl TokenStream {
    /// The same seed gives the same stream on every machine.
    pub fn new(seed: u64) -> Self {
        TokenStream(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform in [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The seed of an answer from what identifies it: run, iteration, prompt, sample (SplitMix64 mixing of each in turn).
pub fn answer_seed(run_seed: u64, iteration: usize, prompt: usize, sample: usize) -> u64 {
    [iteration, prompt, sample].into_iter().fold(mix(run_seed), |state, part| mix(state ^ part as u64))
}

fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Chooses tokens. See [`Sampling`].
#[derive(Debug)]
pub struct Sampler(Sampling);

impl Sampler {
    pub fn new(sampling: Sampling) -> Self {
        Sampler(sampling)
    }

    /// The chosen token and its log-prob (nats) under the untempered, untruncated distribution of `logits`.
    /// None if the logits are not finite.
    pub fn sample(&self, logits: &[f32], stream: &mut TokenStream) -> Option<(u32, f32)> {
        let (best, max) = argmax(logits)?;
        let sum: f64 = logits.iter().map(|z| f64::from((z - max).exp())).sum();
        if !sum.is_finite() {
            return None;
        }
        let id = match self.0.temperature {
            0.0 => best,
            _ if self.0.top_k == 0 && self.0.top_p >= 1.0 => self.sample_all(logits, max, stream),
            _ => self.sample_truncated(logits, max, stream),
        };
        Some((id as u32, (f64::from(logits[id] - max) - sum.ln()) as f32))
    }

    fn weight(&self, logit: f32, max: f32) -> f64 {
        (f64::from(logit - max) / self.0.temperature).exp()
    }

    /// Inverse of the cumulative distribution over the whole vocabulary.
    fn sample_all(&self, logits: &[f32], max: f32, stream: &mut TokenStream) -> usize {
        let weights: Vec<f64> = logits.iter().map(|z| self.weight(*z, max)).collect();
        pick(weights.iter().copied().enumerate(), weights.iter().sum(), stream)
    }

    fn sample_truncated(&self, logits: &[f32], max: f32, stream: &mut TokenStream) -> usize {
        let kept = self.kept(logits, max);
        let total = kept.iter().map(|(_, weight)| weight).sum();
        pick(kept.into_iter(), total, stream)
    }

    /// The tokens that top-k and then top-p leave, the likeliest first, with their weights.
    fn kept(&self, logits: &[f32], max: f32) -> Vec<(usize, f64)> {
        let likelier_first = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        if (1..ids.len()).contains(&self.0.top_k) {
            ids.select_nth_unstable_by(self.0.top_k - 1, likelier_first);
            ids.truncate(self.0.top_k);
        }
        let mut kept: Vec<(usize, f64)> = ids.into_iter().map(|i| (i, self.weight(logits[i], max))).collect();
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        // Tokens below this share are together less than what top-p leaves out: most of a vocabulary need not be sorted.
        let least = (1.0 - self.0.top_p) / kept.len() as f64 * total;
        kept.retain(|(_, weight)| *weight >= least);
        kept.sort_unstable_by(|(a, _), (b, _)| likelier_first(a, b));
        let mut mass = 0.0;
        let within = kept.iter().take_while(|(_, weight)| {
            let before = mass;
            mass += weight / total;
            before < self.0.top_p // the token that crosses the line is kept
        });
        let num_within = within.count().max(1);
        kept.truncate(num_within);
        kept
    }
}

/// The index of the largest value, the first of equals. None if a value is NaN or none is finite.
fn argmax(logits: &[f32]) -> Option<(usize, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, z) in logits.iter().enumerate() {
        if z.is_nan() {
            return None;
        }
        if *z > best.1 {
            best = (i, *z);
        }
    }
    best.1.is_finite().then_some(best)
}

fn pick(weights: impl Iterator<Item = (usize, f64)>, total: f64, stream: &mut TokenStream) -> usize {
    let mut left = stream.uniform() * total;
    let mut last = 0;
    for (index, weight) in weights {
        if weight > 0.0 {
            last = index;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    last // rounding may leave a crumb: the last possible token takes it
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 1.0, 2.0, -1.0];

    fn frequencies(sampling: Sampling) -> [f64; 4] {
        let sampler = Sampler::new(sampling);
        let mut counts = [0.0; 4];
        for seed in 0..20_000 {
            let (id, _) = sampler.sample(&LOGITS, &mut TokenStream::new(seed)).unwrap();
            counts[id as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn assert_near(got: [f64; 4], expected: [f64; 4]) {
        // Three standard deviations of a share near 1/2 over 20,000 draws are 0.011.
        assert!(got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 0.011), "{got:?} against {expected:?}");
    }

    // softmax([0, 1, 2, -1]) = [0.0871, 0.2369, 0.6439, 0.0321]
    #[test]
    fn sampling_at_temperature_one_follows_the_softmax() {
        assert_near(frequencies(Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 }), [0.0871, 0.2369, 0.6439, 0.0321]);
    }

    #[test]
    fn top_k_keeps_the_k_most_likely() {
        let share = 0.2369 / (0.2369 + 0.6439);
        assert_near(frequencies(Sampling { temperature: 1.0, top_k: 2, top_p: 1.0 }), [0.0, share, 1.0 - share, 0.0]);
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses_the_line() {
        // 0.6439 < 0.7, so the second token is kept as well, the third is not.
        let share = 0.2369 / (0.2369 + 0.6439);
        assert_near(frequencies(Sampling { temperature: 1.0, top_k: 0, top_p: 0.7 }), [0.0, share, 1.0 - share, 0.0]);
    }

    /// The definition, on a whole sorted vocabulary.
    fn kept_by_sorting(logits: &[f32], top_k: usize, top_p: f64) -> Vec<usize> {
        let mut ranked: Vec<usize> = (0..logits.len()).collect();
        ranked.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        ranked.truncate(if top_k == 0 { logits.len() } else { top_k });
        let weights: Vec<f64> = ranked.iter().map(|i| f64::from(logits[*i]).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut before = weights.iter().scan(0.0, |mass, w| Some(std::mem::replace(mass, *mass + w / total)));
        let num_kept = before.position(|mass| mass >= top_p).unwrap_or(ranked.len());
        ranked[..num_kept].to_vec()
    }

    #[test]
    fn no_token_is_lost_by_sorting_a_part_of_the_vocabulary() {
        // Scattered, with equal ones.
        let logits: Vec<f32> = (0..500u32).map(|i| f32::from((i * 7919 % 211) as u16) / 40.0).collect();
        for (top_k, top_p) in [(0, 0.1), (0, 0.9), (0, 0.999), (3, 1.0), (40, 0.5), (500, 0.95), (900, 0.95)] {
            let sampler = Sampler::new(Sampling { temperature: 1.0, top_k, top_p });
            let kept: Vec<usize> = sampler.kept(&logits, 5.25).into_iter().map(|(id, _)| id).collect();
            assert_eq!(kept, kept_by_sorting(&logits, top_k, top_p), "top_k {top_k}, top_p {top_p}");
        }
    }

    #[test]
    fn temperature_two_is_the_softmax_of_half_the_logits() {
        // softmax([0, 0.5, 1, -0.5]) = [0.1674, 0.2760, 0.4551, 0.1015]
        assert_near(frequencies(Sampling { temperature: 2.0, top_k: 0, top_p: 1.0 }), [0.1674, 0.2760, 0.4551, 0.1015]);
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_reports_its_log_prob() {
        let sampler = Sampler::new(Sampling::greedy());
        let (id, log_prob) = sampler.sample(&[1.0, 3.0, 3.0], &mut TokenStream::new(0)).unwrap();
        assert_eq!(id, 1);
        // -ln(2 + exp(-2)) = -0.758_623_7
        assert!((log_prob + 0.758_623_7).abs() < 1e-6, "{log_prob}");
    }

    #[test]
    fn scores_that_are_not_finite_give_no_token() {
        let sampler = Sampler::new(Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 });
        for bad in [[0.0, f32::NAN], [f32::NEG_INFINITY; 2], [0.0, f32::INFINITY]] {
            assert_eq!(sampler.sample(&bad, &mut TokenStream::new(1)), None);
        }
    }

    #[test]
    fn every_part_of_an_answers_identity_changes_its_seed() {
        let base = answer_seed(1, 2, 3, 4);
        for other in [(0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0), (1, 3, 2, 4)] {
            assert_ne!(base, answer_seed(other.0, other.1, other.2, other.3), "{other:?}");
        }
    }
}
