//! From log-probs of a batch of pairs to its loss.
//!
//! Why this imitates: to imitate is to make `KL(pi_theta || pi_data)` small, which asks for `log pi_data / pi_t`, and nobody can
//! compute that. But a classifier between demonstrations and responses of `pi_t` has exactly this as its best logit. With the
//! policy's own log-ratio as the logit, training the classifier is training the policy: no second network, no adversary. And
//! since both log-probs are normalised, there is no partition function.
//!
//! `log_ratio = log pi_theta - log pi_t`, `u = scale * log_ratio + shift` (the implicit reward), then one of the
//! losses of [`density_ratio`], [`bregman`] or [`paired`]. Losses are pure functions of `[B]` tensors; [`log_probs`]
//! computes those from a model. A new loss is one variant of [`ObjectiveName`], one function or small struct, and one
//! hand-worked test. Next: [`crate::train`].
//!
//! | name | demonstration | self-generated | at u = 0 |
//! |---|---|---|---|
//! | `bernoulli`, `dil_bce` | softplus(-u) | softplus(u) | 2 ln 2 |
//! | `brier` | sigmoid(-u)^2 | sigmoid(u)^2 | 0.5 |
//! | `hinge` | max(0, 1 - u) | max(0, 1 + u) | 2 |
//! | `kliep` | -u | exp(u) | 1 |
//! | `lsif`, `dil_lsif` | -exp(u) | exp(2u) / 2 | -0.5 |
//! | `bregman_power` (a) | -exp(a u) / a | exp((1 + a) u) / (1 + a) | 1 / (1 + a) - 1 / a |
//! | `dil_ukl` | -log_prob | exp(u) | |
//! | `spin` | softplus(u0 - u1) | | ln 2 |
//! | `simper` | -exp(mean token log-prob) | exp(mean token log-prob) | |
//! | `sft` | -mean token log-prob | | |
//!
//! The `dil_` names are for preference pairs: chosen responses stand as demonstrations, rejected ones as
//! self-generated. DIL's public trainer averages log-probs over tokens; here they are sums, so a `scale` of about 1 /
//! (mean response length) comes near to it; for `dil_ukl`, whose first side has no scale, with a `shift` of the
//! logarithm of that length as well.

pub mod bregman;
pub mod density_ratio;
pub mod log_probs;
pub mod paired;
pub mod variance_reduction;

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::config::{ObjectiveConfig, ObjectiveName};

pub use bregman::{Bregman, ConvexFunction};
pub use density_ratio::DensityRatioLoss;
use density_ratio::{Bernoulli, BregmanPower, Brier, Hinge, Kliep, Lsif};

/// Below this slope a loss is treated as having slope 1 by [`Objective::normalizer`].
const MIN_SLOPE: f64 = 1e-3;

/// One side of a batch of pairs.
///
/// # Shapes and units
/// Every field is `[B]`. Log-probs are sums over response tokens, in nats.
#[derive(Debug, Clone)]
pub struct SideLogProbs {
    /// Under the policy; gradients flow through it.
    pub policy: Tensor<1>,
    /// Under the reference, a constant. Not read where [`Objective::needs_reference`] is false: zeros will do.
    pub reference: Tensor<1>,
    /// Response tokens, the end-of-turn token included.
    pub num_tokens: Tensor<1>,
}

/// The loss of each pair of a batch; the caller averages.
///
/// # Shapes and units
/// `[B]`, in nats unless the loss says otherwise.
#[derive(Debug, Clone)]
pub struct PairLoss {
    /// `demonstration + self_generated`, plus `supervised` where there is one.
    pub total: Tensor<1>,
    /// What the demonstration adds.
    pub demonstration: Tensor<1>,
    /// What the self-generated response adds. 0 for `sft` and `spin`, whose loss stands on the demonstration's side.
    pub self_generated: Tensor<1>,
    /// `sft_weight` times the mean negative token log-prob of the demonstration. `None` if the weight is 0.
    pub supervised: Option<Tensor<1>>,
    /// How many exponentials were clamped in the whole batch, `[1]`, still on the device. `None`: the loss takes none.
    pub num_clamped: Option<Tensor<1>>,
}

impl PairLoss {
    fn of_sides(demonstration: Tensor<1>, self_generated: Tensor<1>) -> Self {
        let total = demonstration.clone() + self_generated.clone();
        PairLoss { total, demonstration, self_generated, supervised: None, num_clamped: None }
    }

    fn of_one_side(demonstration: Tensor<1>) -> Self {
        let self_generated = demonstration.clone().inner().zeros_like();
        PairLoss { total: demonstration.clone(), demonstration, self_generated, supervised: None, num_clamped: None }
    }

    fn with_supervised(mut self, term: Tensor<1>) -> Self {
        self.total = self.total + term.clone();
        self.supervised = Some(term);
        self
    }

    /// Takes what is only noise out of the self-generated side, `[B]`: see [`variance_reduction`].
    pub fn without_noise(mut self, noise: Tensor<1>) -> Self {
        self.total = self.total - noise.clone();
        self.self_generated = self.self_generated - noise;
        self
    }

    /// Divides both sides by [`Objective::normalizer`]. The supervised term is per token already and stays as it is, so
    /// that `sft_weight` means the same for every loss.
    pub fn normalized(self, normalizer: f64) -> Self {
        let sides = PairLoss::of_sides(self.demonstration / normalizer, self.self_generated / normalizer);
        let sides = PairLoss { num_clamped: self.num_clamped, ..sides };
        match self.supervised {
            Some(term) => sides.with_supervised(term),
            None => sides,
        }
    }
}

/// What is minimised: a loss with its scale and shift.
#[derive(Clone)]
pub struct Objective {
    form: Form,
    scale: f64,
    shift: f64,
    sft_weight: f64,
    normalize: bool,
}

#[derive(Clone)]
enum Form {
    DensityRatio(Arc<dyn DensityRatioLoss>),
    DilUkl,
    Spin,
    Simper,
    Sft,
}

impl Objective {
    /// The objective that a configuration names.
    pub fn new(config: &ObjectiveConfig) -> Self {
        let form = match config.name {
            ObjectiveName::Bernoulli | ObjectiveName::DilBce => Form::DensityRatio(Arc::new(Bernoulli)),
            ObjectiveName::Brier => Form::DensityRatio(Arc::new(Brier)),
            ObjectiveName::Hinge => Form::DensityRatio(Arc::new(Hinge)),
            ObjectiveName::Kliep => Form::DensityRatio(Arc::new(Kliep)),
            ObjectiveName::Lsif | ObjectiveName::DilLsif => Form::DensityRatio(Arc::new(Lsif)),
            ObjectiveName::BregmanPower => Form::DensityRatio(Arc::new(BregmanPower { power: config.power })),
            ObjectiveName::DilUkl => Form::DilUkl,
            ObjectiveName::Spin => Form::Spin,
            ObjectiveName::Simper => Form::Simper,
            ObjectiveName::Sft => Form::Sft,
        };
        Objective {
            form,
            scale: config.scale,
            shift: config.shift,
            sft_weight: config.sft_weight,
            normalize: config.normalize,
        }
    }

    /// An objective from a density-ratio loss of your own; see [`Bregman`]. Normalised, without a supervised term.
    pub fn custom(density_ratio: Arc<dyn DensityRatioLoss>, scale: f64, shift: f64) -> Self {
        Objective { form: Form::DensityRatio(density_ratio), scale, shift, sft_weight: 0.0, normalize: true }
    }

    /// The loss of every pair, as its equation says; [`PairLoss::normalized`] then makes losses comparable.
    ///
    /// # Panics
    /// If `self_generated` is `None` though [`Self::needs_self_generated`]: a bug in the caller.
    pub fn loss(&self, demonstration: &SideLogProbs, self_generated: Option<&SideLogProbs>) -> PairLoss {
        let other = || self_generated.expect("this objective compares with self-generated responses");
        let loss = match &self.form {
            Form::DensityRatio(loss) => {
                let (u1, u0) = (self.implicit_reward(demonstration), self.implicit_reward(other()));
                let num_clamped = loss.num_clamped(&u1, &u0);
                PairLoss { num_clamped, ..PairLoss::of_sides(loss.demonstration(u1), loss.self_generated(u0)) }
            }
            Form::DilUkl => paired::dil_ukl(demonstration, self.implicit_reward(other())),
            Form::Spin => paired::spin(self.implicit_reward(demonstration), self.implicit_reward(other())),
            Form::Simper => paired::simper(demonstration, other()),
            Form::Sft => paired::sft(demonstration),
        };
        if self.sft_weight == 0.0 {
            loss
        } else {
            loss.with_supervised(paired::supervised(demonstration) * self.sft_weight)
        }
    }

    /// Whether the reference's log-probs are read.
    pub fn needs_reference(&self) -> bool {
        match self.form {
            Form::DensityRatio(_) | Form::DilUkl | Form::Spin => true,
            Form::Simper | Form::Sft => false,
        }
    }

    /// Whether self-generated responses are read.
    pub fn needs_self_generated(&self) -> bool {
        match self.form {
            Form::DensityRatio(_) | Form::DilUkl | Form::Spin | Form::Simper => true,
            Form::Sft => false,
        }
    }

    /// `log pi_theta - log pi_t` of each response, `[B]`, nats.
    pub fn log_ratio(&self, side: &SideLogProbs) -> Tensor<1> {
        side.policy.clone() - side.reference.clone()
    }

    /// `u = scale * log_ratio + shift`, `[B]`, nats.
    pub fn implicit_reward(&self, side: &SideLogProbs) -> Tensor<1> {
        self.log_ratio(side) * self.scale + self.shift
    }

    /// `l0'(u)`, how steep the loss of self-generated responses is at implicit rewards `[B]`; a constant. `None` for what
    /// is no density-ratio loss.
    pub fn self_generated_slope(&self, u: Tensor<1>) -> Option<Tensor<1>> {
        let Form::DensityRatio(loss) = &self.form else { return None };
        let u = Tensor::from_inner(u).require_grad();
        let gradients = loss.self_generated(u.clone()).sum().backward();
        // A loss without a gradient anywhere, `hinge` on its flat side, is flat.
        Some(u.grad(&gradients).unwrap_or_else(|| u.inner().zeros_like()))
    }

    /// `scale`: implicit reward per nat.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// `shift`: implicit reward where policy and reference agree.
    pub fn shift(&self) -> f64 {
        self.shift
    }

    /// What to divide the loss by, so that a learning rate and a gradient limit mean the same for every loss, scale and
    /// response length: the slope of the demonstration's side over its mean token log-prob at the start of an iteration.
    ///
    /// `scale * |l1'(shift)| * mean_response_tokens` for density-ratio losses; for `spin` the slope is 1/2;
    /// `dil_ukl`'s first side has slope 1 and no scale. 1 for `sft` and `simper`, which are per token already, and if
    /// `normalize` is off. Where demonstrations start with next to no gradient (slope under 0.001: `hinge` with a shift of 1
    /// or more, `bernoulli` and `brier` with a large one, `brier`, `lsif` and `bregman_power` with one far below 0) the slope
    /// counts as 1, because dividing by it would only blow up the other side.
    pub fn normalizer(&self, mean_response_tokens: f64) -> f64 {
        if !self.normalize {
            return 1.0;
        }
        let slope_per_log_prob = match &self.form {
            Form::DensityRatio(loss) => {
                let slope = loss.slope_at(self.shift);
                self.scale * if slope < MIN_SLOPE { 1.0 } else { slope }
            }
            Form::DilUkl => 1.0,
            Form::Spin => self.scale * 0.5,
            Form::Simper | Form::Sft => return 1.0,
        };
        slope_per_log_prob * mean_response_tokens.max(1.0)
    }
}

#[cfg(test)]
mod tests;
