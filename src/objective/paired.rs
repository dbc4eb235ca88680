//! Losses that are not a density-ratio loss of the implicit reward: the baselines SFT and SPIN, SimPER, and DIL's UKL.
//!
//! Each function returns a [`PairLoss`] and says how its two sides are filled. Next: [`super::Objective::loss`], which
//! picks.

use burn::tensor::Tensor;

use super::density_ratio::{exp_clamped, num_above_limit, softplus};
use super::{PairLoss, SideLogProbs};

/// The supervised term: `-log_prob / num_tokens` of the demonstration, `[B]`, nats per token.
///
/// Averaged over pairs it weighs responses alike, not tokens: a short answer counts as much as a long one.
pub fn supervised(demonstration: &SideLogProbs) -> Tensor<1> {
    -mean_token_log_prob(demonstration)
}

/// Supervised fine-tuning: the [`supervised`] term alone, as the demonstration's side. The other side is 0.
pub fn sft(demonstration: &SideLogProbs) -> PairLoss {
    PairLoss::of_one_side(supervised(demonstration))
}

/// Self-play fine-tuning: `softplus(u0 - u1)`. At u1 = u0 a pair costs ln 2.
///
/// The shift cancels. On preference pairs this is DPO. The loss does not split: all of it stands as the demonstration's
/// side, and the other side is 0.
/// Source: Chen et al., ICML 2024 (arXiv 2401.01335); Rafailov et al., NeurIPS 2023 (arXiv 2305.18290).
pub fn spin(demonstration_u: Tensor<1>, self_generated_u: Tensor<1>) -> PairLoss {
    PairLoss::of_one_side(softplus(self_generated_u - demonstration_u))
}

/// SimPER: `-exp(mean token log-prob)` of the demonstration, plus the same exponential of the self-generated response.
///
/// These are inverse perplexities, in (0, 1]: no reference, no scale, no shift.
/// Source: Xiao et al., ICLR 2025 (arXiv 2502.00883).
pub fn simper(demonstration: &SideLogProbs, self_generated: &SideLogProbs) -> PairLoss {
    let inverse_perplexity = |side| exp_clamped(mean_token_log_prob(side), 1.0);
    PairLoss::of_sides(-inverse_perplexity(demonstration), inverse_perplexity(self_generated))
}

/// DIL's unnormalised Kullback-Leibler loss: `-log_prob` of the demonstration plus `exp(u0)`.
///
/// As KLIEP, without the reference on the first side, which changes the value but not the gradient, and with a first
/// side that scale does not touch. At u0 = 0 the second side is 1.
/// Source: Xiao et al., ICLR 2025 (openreview 2QdsjiNXgj). The public trainer takes log-probs averaged over tokens
/// there, and no scale; here they are sums, as in every other loss of this family. With `scale = 1 / L` and
/// `shift = log L`, L the mean response length, the normalised loss is `-log_prob / L + exp(log_ratio / L)`, which
/// comes near to it.
pub fn dil_ukl(demonstration: &SideLogProbs, self_generated_u: Tensor<1>) -> PairLoss {
    let num_clamped = num_above_limit(&self_generated_u);
    let mut loss = PairLoss::of_sides(-demonstration.policy.clone(), exp_clamped(self_generated_u, 1.0));
    loss.num_clamped = Some(num_clamped);
    loss
}

/// `log_prob / num_tokens` under the policy, `[B]`; 0 for a response without tokens.
fn mean_token_log_prob(side: &SideLogProbs) -> Tensor<1> {
    side.policy.clone() / side.num_tokens.clone().clamp_min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::test_device;
    use std::f32::consts::LN_2;

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_floats(values, &test_device())
    }

    fn side(policy: &[f32], num_tokens: &[f32]) -> SideLogProbs {
        let reference = tensor(policy).zeros_like();
        SideLogProbs { policy: tensor(policy), reference, num_tokens: tensor(num_tokens) }
    }

    fn assert_near(actual: Tensor<1>, expected: &[f32]) {
        let actual: Vec<f32> = actual.into_data().try_to_vec().unwrap();
        assert_eq!(actual.len(), expected.len());
        for (actual, expected) in actual.iter().zip(expected) {
            assert!((actual - expected).abs() < 1e-5 * expected.abs().max(1.0), "{actual}, not {expected}");
        }
    }

    #[test]
    fn sft_is_minus_the_mean_token_log_prob() {
        let loss = sft(&side(&[-6.0, -5.0, 0.0], &[3.0, 10.0, 0.0]));
        assert_near(loss.total, &[2.0, 0.5, 0.0]);
        assert_near(loss.self_generated, &[0.0, 0.0, 0.0]);
    }

    #[test]
    fn spin_is_ln_two_when_the_rewards_are_equal() {
        // softplus(-ln 3) = ln(4/3), softplus(ln 3) = ln 4.
        let ln_3 = 3.0f32.ln();
        let loss = spin(tensor(&[0.4, ln_3, 0.0]), tensor(&[0.4, 0.0, ln_3]));
        assert_near(loss.total, &[LN_2, (4.0f32 / 3.0).ln(), 4.0f32.ln()]);
    }

    #[test]
    fn simper_is_the_difference_of_inverse_perplexities() {
        // exp(-2 ln 2 / 2) = 1/2, exp(-3 ln 4 / 3) = 1/4.
        let loss = simper(&side(&[-2.0 * LN_2], &[2.0]), &side(&[-3.0 * 4.0f32.ln()], &[3.0]));
        assert_near(loss.demonstration, &[-0.5]);
        assert_near(loss.self_generated, &[0.25]);
        assert_near(loss.total, &[-0.25]);
    }

    #[test]
    fn dil_ukl_is_the_negative_log_prob_plus_the_ratio() {
        let loss = dil_ukl(&side(&[-7.0, -7.0], &[3.0, 3.0]), tensor(&[0.0, 31.0]));
        assert_near(loss.total, &[8.0, 7.0 + 30.0f32.exp()]);
        assert_near(loss.num_clamped.unwrap(), &[1.0]);
    }
}
