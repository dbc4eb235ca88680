//! The density-ratio losses of GSIL: tell demonstrations from self-generated responses through the implicit reward.
//!
//! Each loss is a pair of functions of the implicit reward `u = scale * log_ratio + shift`, the logarithm of a density
//! ratio `t = exp(u)`: `l1` for demonstrations, which falls as u grows, and `l0` for self-generated responses, which
//! rises. Training pulls a demonstration up with the slope `-l1'(u)` and pushes a self-generated response down with `l0'(u)`.
//! For all but `hinge` push is `exp(u)` times pull: both sides balance where t is the density ratio. Nothing here knows tokens
//! or models. Next: [`super::bregman`] for a loss of your own, [`super::paired`] for
//! the others.

use burn::tensor::{Tensor, activation};

/// Exponentials of an implicit reward are taken at `min(u, 30)`: `exp(60)`, the largest that a built-in loss needs, is
/// far from overflow in f32. Beyond the limit a pair gives no gradient through that exponential; the event is counted
/// in [`super::PairLoss::num_clamped`].
pub const EXPONENT_LIMIT: f64 = 30.0;

/// A loss for a classifier whose logit is the implicit reward u.
///
/// # Shapes and units
/// Every tensor is `[B]`; u is in nats.
pub trait DensityRatioLoss: Send + Sync {
    /// `l1(u)`, the loss of a demonstration.
    fn demonstration(&self, u: Tensor<1>) -> Tensor<1>;

    /// `l0(u)`, the loss of a self-generated response.
    fn self_generated(&self, u: Tensor<1>) -> Tensor<1>;

    /// `|l1'(shift)|`: how steep the demonstration's loss is where the policy equals the reference.
    fn slope_at(&self, shift: f64) -> f64;

    /// How many exponentials were clamped, `[1]`, without waiting for the device. `None` if the loss takes none.
    fn num_clamped(&self, _demonstration_u: &Tensor<1>, _self_generated_u: &Tensor<1>) -> Option<Tensor<1>> {
        None
    }
}

/// `exp(power * min(u, EXPONENT_LIMIT))`.
pub(super) fn exp_clamped(u: Tensor<1>, power: f64) -> Tensor<1> {
    (u.clamp_max(EXPONENT_LIMIT) * power).exp()
}

/// The number of entries of u above [`EXPONENT_LIMIT`], `[1]`. It stays on the device.
pub(super) fn num_above_limit(u: &Tensor<1>) -> Tensor<1> {
    u.clone().inner().greater_elem(EXPONENT_LIMIT).float().sum()
}

/// `log(1 + exp(u))`, written as `-log_sigmoid(-u)`: one operation with an exact gradient, finite for every finite u.
pub(super) fn softplus(u: Tensor<1>) -> Tensor<1> {
    -activation::log_sigmoid(-u)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Logistic regression: `l1 = softplus(-u)`, `l0 = softplus(u)`. At u = 0 a pair costs 2 ln 2.
///
/// Bregman function `h(t) = t log t - (1 + t) log(1 + t)`. Source: Xiao et al., EMNLP 2024 (arXiv 2410.10093).
#[derive(Debug, Clone, Copy)]
pub struct Bernoulli;

impl DensityRatioLoss for Bernoulli {
    fn demonstration(&self, u: Tensor<1>) -> Tensor<1> {
        softplus(-u)
    }

    fn self_generated(&self, u: Tensor<1>) -> Tensor<1> {
        softplus(u)
    }

    fn slope_at(&self, shift: f64) -> f64 {
        sigmoid(-shift)
    }
}

/// Squared error of the classifier's probability: `l1 = sigmoid(-u)^2`, `l0 = sigmoid(u)^2`. At u = 0 a pair costs 0.5.
///
/// Bregman function `h(t) = 1 / (1 + t) - 1`. The squares are computed as `exp(2 log_sigmoid)`, which rounds less near 0.
/// The public trainer averages each side over the batch first; here the loss is per pair, with the same mean.
/// Source: Xiao et al., EMNLP 2024 (arXiv 2410.10093).
#[derive(Debug, Clone, Copy)]
pub struct Brier;

impl DensityRatioLoss for Brier {
    fn demonstration(&self, u: Tensor<1>) -> Tensor<1> {
        (activation::log_sigmoid(-u) * 2.0).exp()
    }

    fn self_generated(&self, u: Tensor<1>) -> Tensor<1> {
        (activation::log_sigmoid(u) * 2.0).exp()
    }

    fn slope_at(&self, shift: f64) -> f64 {
        2.0 * sigmoid(-shift).powi(2) * sigmoid(shift)
    }
}

/// Margin loss: `l1 = max(0, 1 - u)`, `l0 = max(0, 1 + u)`. At u = 0 a pair costs 2.
///
/// Its best u is +1 or -1, the sign of the logarithm of the density ratio and not that logarithm; it has no Bregman function.
/// With a shift of 1 or more demonstrations start without gradient. Source: Xiao et al., EMNLP 2024 (arXiv 2410.10093).
#[derive(Debug, Clone, Copy)]
pub struct Hinge;

impl DensityRatioLoss for Hinge {
    fn demonstration(&self, u: Tensor<1>) -> Tensor<1> {
        activation::relu(-u + 1.0)
    }

    fn self_generated(&self, u: Tensor<1>) -> Tensor<1> {
        activation::relu(u + 1.0)
    }

    fn slope_at(&self, shift: f64) -> f64 {
        if shift < 1.0 { 1.0 } else { 0.0 }
    }
}

/// Unnormalised Kullback-Leibler importance estimation: `l1 = -u`, `l0 = exp(u)`. At u = 0 a pair costs 1.
///
/// Bregman function `h(t) = t log t - t`. At `scale = 1` its self-generated side has the same mean for every policy,
/// so it is supervised fine-tuning plus noise. Source: Xiao et al., EMNLP 2024 (arXiv 2410.10093).
#[derive(Debug, Clone, Copy)]
pub struct Kliep;

impl DensityRatioLoss for Kliep {
    fn demonstration(&self, u: Tensor<1>) -> Tensor<1> {
        -u
    }

    fn self_generated(&self, u: Tensor<1>) -> Tensor<1> {
        exp_clamped(u, 1.0)
    }

    fn slope_at(&self, _shift: f64) -> f64 {
        1.0
    }

    fn num_clamped(&self, _demonstration_u: &Tensor<1>, self_generated_u: &Tensor<1>) -> Option<Tensor<1>> {
        Some(num_above_limit(self_generated_u))
    }
}

/// Least-squares importance fitting: `l1 = -exp(u)`, `l0 = exp(2u) / 2`. At u = 0 a pair costs -0.5.
///
/// Bregman function `h(t) = t^2 / 2`; the usual `(t - 1)^2 / 2` differs by constants. Source: Xiao et al., EMNLP 2024 (arXiv 2410.10093).
#[derive(Debug, Clone, Copy)]
pub struct Lsif;

impl DensityRatioLoss for Lsif {
    fn demonstration(&self, u: Tensor<1>) -> Tensor<1> {
        -exp_clamped(u, 1.0)
    }

    fn self_generated(&self, u: Tensor<1>) -> Tensor<1> {
        exp_clamped(u, 2.0) * 0.5
    }

    fn slope_at(&self, shift: f64) -> f64 {
        shift.exp()
    }

    fn num_clamped(&self, demonstration_u: &Tensor<1>, self_generated_u: &Tensor<1>) -> Option<Tensor<1>> {
        Some(num_above_limit(demonstration_u) + num_above_limit(self_generated_u))
    }
}

/// The family between KLIEP (a towards 0) and LSIF (a = 1): `l1 = -exp(a u) / a`, `l0 = exp((1 + a) u) / (1 + a)`.
///
/// At u = 0 a pair costs `1 / (1 + a) - 1 / a`. Bregman function `h(t) = (t^(1+a) - t) / (a (1 + a))`, up to affine
/// terms. Small a weighs large u less on both sides; large a weighs demonstrations that the policy finds unlikely less.
/// Source: Basu's power divergence in Sugiyama, Suzuki, Kanamori, "Density-ratio matching under the Bregman
/// divergence", 2012.
#[derive(Debug, Clone, Copy)]
pub struct BregmanPower {
    /// a, in (0, 1].
    pub power: f64,
}

impl DensityRatioLoss for BregmanPower {
    fn demonstration(&self, u: Tensor<1>) -> Tensor<1> {
        exp_clamped(u, self.power) * (-1.0 / self.power)
    }

    fn self_generated(&self, u: Tensor<1>) -> Tensor<1> {
        exp_clamped(u, 1.0 + self.power) * (1.0 / (1.0 + self.power))
    }

    fn slope_at(&self, shift: f64) -> f64 {
        (self.power * shift).exp()
    }

    fn num_clamped(&self, demonstration_u: &Tensor<1>, self_generated_u: &Tensor<1>) -> Option<Tensor<1>> {
        Lsif.num_clamped(demonstration_u, self_generated_u)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::test_device;
    use std::f64::consts::LN_2;

    /// `[l1(u), l0(u)]`.
    fn sides(loss: &dyn DensityRatioLoss, u: f32) -> [f64; 2] {
        let value = |loss: Tensor<1>| f64::from(loss.into_scalar::<f32>());
        let u = Tensor::<1>::from_floats([u], &test_device());
        [value(loss.demonstration(u.clone())), value(loss.self_generated(u))]
    }

    fn assert_sides(loss: &dyn DensityRatioLoss, u: f32, expected: [f64; 2]) {
        let actual = sides(loss, u);
        for (actual, expected) in actual.into_iter().zip(expected) {
            assert!((actual - expected).abs() < 1e-5 * expected.abs().max(1.0), "at u = {u}: {actual}, not {expected}");
        }
    }

    // u = ln 3 makes the ratio t = 3 and sigmoid(u) = 3/4, so that every value below is a short sum by hand.
    const LN_3: f32 = 1.098_612_3;

    #[test]
    fn bernoulli_is_two_ln_two_when_policy_equals_reference() {
        assert_sides(&Bernoulli, 0.0, [LN_2, LN_2]);
        assert_sides(&Bernoulli, LN_3, [(4.0f64 / 3.0).ln(), 4.0f64.ln()]);
    }

    #[test]
    fn brier_is_the_squared_error_of_the_probability() {
        assert_sides(&Brier, 0.0, [0.25, 0.25]);
        assert_sides(&Brier, LN_3, [1.0 / 16.0, 9.0 / 16.0]);
    }

    #[test]
    fn hinge_is_zero_beyond_its_margin() {
        assert_sides(&Hinge, 0.0, [1.0, 1.0]);
        assert_sides(&Hinge, 0.5, [0.5, 1.5]);
        assert_sides(&Hinge, -3.0, [4.0, 0.0]);
    }

    #[test]
    fn kliep_is_linear_on_demonstrations_and_the_ratio_on_self_generated() {
        assert_sides(&Kliep, 0.0, [0.0, 1.0]);
        assert_sides(&Kliep, LN_3, [-3.0f64.ln(), 3.0]);
    }

    #[test]
    fn lsif_is_minus_the_ratio_and_half_its_square() {
        assert_sides(&Lsif, 0.0, [-1.0, 0.5]);
        assert_sides(&Lsif, LN_3, [-3.0, 4.5]);
    }

    #[test]
    fn bregman_power_takes_powers_of_the_ratio() {
        assert_sides(&BregmanPower { power: 0.5 }, 0.0, [-2.0, 2.0 / 3.0]);
        assert_sides(&BregmanPower { power: 0.5 }, LN_3, [-2.0 * 3.0f64.sqrt(), 2.0 * 3.0f64.sqrt()]);
        assert_sides(&BregmanPower { power: 1.0 }, LN_3, sides(&Lsif, LN_3));
    }

    #[test]
    fn slopes_are_the_derivatives_of_the_demonstration_side() {
        let losses: [&dyn DensityRatioLoss; 6] =
            [&Bernoulli, &Brier, &Hinge, &Kliep, &Lsif, &BregmanPower { power: 0.3 }];
        for (i, loss) in losses.into_iter().enumerate() {
            for shift in [-0.7, 0.0, 0.6, 2.0] {
                let step = 0.01;
                let ahead = sides(loss, (shift + step) as f32)[0];
                let behind = sides(loss, (shift - step) as f32)[0];
                let slope = ((ahead - behind) / (2.0 * step)).abs();
                assert!((slope - loss.slope_at(shift)).abs() < 1e-3, "loss {i} at {shift}: {slope}");
            }
        }
    }

    #[test]
    fn exponentials_beyond_the_limit_are_clamped_and_counted() {
        let demonstration = Tensor::<1>::from_floats([31.0, 30.0, -1e4], &test_device());
        let self_generated = Tensor::<1>::from_floats([1e30, 31.0, 0.0], &test_device());
        let count = |loss: &dyn DensityRatioLoss| {
            loss.num_clamped(&demonstration, &self_generated).map(|count| count.into_scalar::<f32>())
        };
        assert_eq!(count(&Kliep), Some(2.0));
        assert_eq!(count(&Lsif), Some(3.0));
        assert_eq!(count(&BregmanPower { power: 0.5 }), Some(3.0));
        assert_eq!(count(&Bernoulli), None);
        assert_sides(&Lsif, 1e4, [-30.0f64.exp(), 60.0f64.exp() / 2.0]);
    }
}
