//! A density-ratio loss from any strictly convex function of the density ratio.
//!
//! Bregman density-ratio estimation turns a convex h into a loss whose best value is the true ratio: `l1 = -h'(t)`,
//! `l0 = t h'(t) - h(t)`, with `t = exp(u)`. Every choice of h has the same optimum; they differ in which errors they
//! mind. Source: Sugiyama, Suzuki, Kanamori, "Density-ratio matching under the Bregman divergence", 2012. Next:
//! [`super::Objective::custom`], which a training loop of your own takes; `gsil train` takes losses that have a name.

use burn::tensor::Tensor;

use super::density_ratio::{DensityRatioLoss, EXPONENT_LIMIT};

/// A strictly convex function h of the density ratio t > 0.
///
/// Ratios are given within `exp(-30) ..= exp(30)`; h, h' and their product with t must be finite in f32 there.
pub trait ConvexFunction: Send + Sync {
    /// `h(t)`, elementwise, `[B]`.
    fn value(&self, ratio: Tensor<1>) -> Tensor<1>;

    /// `h'(t)`, elementwise, `[B]`. Gradients flow through it, so build it from differentiable operations.
    fn derivative(&self, ratio: Tensor<1>) -> Tensor<1>;

    /// `h''(t)` of one ratio. Positive, as h is convex; it sets the size of the loss
    /// ([`super::Objective::normalizer`]).
    fn curvature(&self, ratio: f64) -> f64;
}

/// The density-ratio loss of a [`ConvexFunction`].
///
/// Implicit rewards are clamped to `-30 ..= 30` on both sides, because h may not be defined at a ratio of 0; clamped
/// ones are counted.
///
/// ```
/// use burn::tensor::Tensor;
/// use gsil::objective::{Bregman, ConvexFunction, Objective};
/// use std::sync::Arc;
///
/// /// h(t) = -log t: the Itakura-Saito distance, which minds relative errors.
/// struct ItakuraSaito;
///
/// impl ConvexFunction for ItakuraSaito {
///     fn value(&self, ratio: Tensor<1>) -> Tensor<1> {
///         -ratio.log()
///     }
///     fn derivative(&self, ratio: Tensor<1>) -> Tensor<1> {
///         -ratio.recip()
///     }
///     fn curvature(&self, ratio: f64) -> f64 {
///         ratio.powi(-2)
///     }
/// }
///
/// let objective = Objective::custom(Arc::new(Bregman(ItakuraSaito)), 1.0, 0.0);
/// assert_eq!(objective.normalizer(20.0), 20.0); // scale * |l1'(0)| * length, and l1 = exp(-u) has slope 1 at 0
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Bregman<H: ConvexFunction>(pub H);

fn ratio(u: Tensor<1>) -> Tensor<1> {
    u.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).exp()
}

fn num_beyond_limits(u: &Tensor<1>) -> Tensor<1> {
    u.clone().inner().abs().greater_elem(EXPONENT_LIMIT).float().sum()
}

impl<H: ConvexFunction> DensityRatioLoss for Bregman<H> {
    fn demonstration(&self, u: Tensor<1>) -> Tensor<1> {
        -self.0.derivative(ratio(u))
    }

    fn self_generated(&self, u: Tensor<1>) -> Tensor<1> {
        let ratio = ratio(u);
        ratio.clone() * self.0.derivative(ratio.clone()) - self.0.value(ratio)
    }

    /// `|l1'(u)| = t h''(t)`.
    fn slope_at(&self, shift: f64) -> f64 {
        let ratio = shift.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).exp();
        ratio * self.0.curvature(ratio)
    }

    fn num_clamped(&self, demonstration_u: &Tensor<1>, self_generated_u: &Tensor<1>) -> Option<Tensor<1>> {
        Some(num_beyond_limits(demonstration_u) + num_beyond_limits(self_generated_u))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::test_device;
    use crate::objective::density_ratio::{Kliep, Lsif};

    /// h(t) = t log t - t, of which KLIEP is the closed form.
    struct UnnormalizedEntropy;

    impl ConvexFunction for UnnormalizedEntropy {
        fn value(&self, ratio: Tensor<1>) -> Tensor<1> {
            ratio.clone() * ratio.clone().log() - ratio
        }
        fn derivative(&self, ratio: Tensor<1>) -> Tensor<1> {
            ratio.log()
        }
        fn curvature(&self, ratio: f64) -> f64 {
            1.0 / ratio
        }
    }

    /// h(t) = (t - 1)^2 / 2, of which LSIF is the closed form up to the constants that h's linear part adds.
    struct HalfSquare;

    impl ConvexFunction for HalfSquare {
        fn value(&self, ratio: Tensor<1>) -> Tensor<1> {
            (ratio - 1.0).square() * 0.5
        }
        fn derivative(&self, ratio: Tensor<1>) -> Tensor<1> {
            ratio - 1.0
        }
        fn curvature(&self, _ratio: f64) -> f64 {
            1.0
        }
    }

    fn values(loss: Tensor<1>) -> Vec<f32> {
        loss.into_data().try_to_vec().unwrap()
    }

    /// The largest relative difference of both sides, after `offset` is added to the first loss's sides.
    fn assert_same(custom: &dyn DensityRatioLoss, closed: &dyn DensityRatioLoss, offset: [f32; 2]) {
        let u = || Tensor::<1>::from_floats([-2.0, -0.5, 0.0, 0.7, 1.5], &test_device());
        let sides = [
            (values(custom.demonstration(u()) + offset[0]), values(closed.demonstration(u()))),
            (values(custom.self_generated(u()) + offset[1]), values(closed.self_generated(u()))),
        ];
        for (custom, closed) in sides {
            for (custom, closed) in custom.into_iter().zip(closed) {
                assert!((custom - closed).abs() < 2e-5 * closed.abs().max(1.0), "{custom} is not {closed}");
            }
        }
    }

    #[test]
    fn the_entropy_gives_kliep() {
        assert_same(&Bregman(UnnormalizedEntropy), &Kliep, [0.0, 0.0]);
        assert!((Bregman(UnnormalizedEntropy).slope_at(0.4) - Kliep.slope_at(0.4)).abs() < 1e-12);
    }

    #[test]
    fn the_half_square_gives_lsif_up_to_constants() {
        // -h' = 1 - t and t h' - h = (t^2 - 1) / 2.
        assert_same(&Bregman(HalfSquare), &Lsif, [-1.0, 0.5]);
        assert!((Bregman(HalfSquare).slope_at(0.4) - Lsif.slope_at(0.4)).abs() < 1e-12);
    }

    #[test]
    fn extreme_rewards_stay_finite_and_are_counted() {
        let u = Tensor::<1>::from_floats([-1e30, -1e4, 0.0, 1e4, 1e30], &test_device());
        let loss = Bregman(UnnormalizedEntropy);
        let both = loss.demonstration(u.clone()) + loss.self_generated(u.clone());
        assert!(values(both).iter().all(|value| value.is_finite()));
        assert_eq!(loss.num_clamped(&u, &u).map(values), Some(vec![8.0]));
    }
}
