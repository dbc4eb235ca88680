//! The loss and its numbers, as a configuration spells them. The mathematics is in [`crate::objective`].

use serde::{Deserialize, Serialize};

/// Which loss, and how the log-ratio enters it: `implicit_reward = scale * log_ratio + shift`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// The loss. Default `bernoulli`: its gradients are bounded on both sides.
    pub name: ObjectiveName,
    /// Implicit reward per nat of log-ratio; above 0. Default none: [`ObjectiveName::default_scale`], which fits short
    /// answers. Log-ratios are sums over tokens, so long answers want less: about 20 / (mean length in tokens).
    pub scale: Option<f64>,
    /// Implicit reward at a log-ratio of 0. Default 0: both sides start with gradients of the same size; with 2 the
    /// self-generated side starts 7.4 times as strong, and `hinge` has no gradient on demonstrations from 1 on.
    pub shift: f64,
    /// The exponent `a` of `bregman_power`, above 0 and at most 1: near 0 it is `kliep`, at 1 `lsif`. Default 0.5,
    /// half-way. Other losses ignore it.
    pub power: f64,
    /// Weight of an added supervised loss (mean negative log-probability per token of the demonstration).
    /// Default 0: the loss alone.
    pub sft_weight: f64,
    /// Divide a pair's loss by `scale * |l1'(shift)| * mean response length`, so that a learning rate and a gradient
    /// clip mean the same for every loss and scale. Default true.
    pub normalize: bool,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self { name: ObjectiveName::Bernoulli, scale: None, shift: 0.0, power: 0.5, sft_weight: 0.0, normalize: true }
    }
}

/// The losses by their configuration names (`snake_case`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveName {
    /// Logistic density-ratio loss.
    Bernoulli,
    /// Squared error of the classifier's probability.
    Brier,
    /// Margin loss.
    Hinge,
    /// Unnormalised Kullback-Leibler importance estimation.
    Kliep,
    /// Least-squares importance fitting.
    Lsif,
    /// Bregman divergence of a power, between `kliep` and `lsif`; see [`ObjectiveConfig::power`].
    BregmanPower,
    /// Paired logistic loss on the difference of the two log-ratios.
    Spin,
    /// Plain supervised loss on demonstrations: no self-generated responses.
    Sft,
    /// Difference of inverse perplexities: no reference.
    Simper,
    /// Preference kin of `lsif`.
    DilLsif,
    /// Preference kin of `kliep`, with the plain log-probability on the chosen side.
    DilUkl,
    /// Preference kin of `bernoulli`.
    DilBce,
}

impl std::fmt::Display for ObjectiveName {
    /// As it is written in a configuration.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

impl ObjectiveName {
    /// The `scale` for short answers (some 20 tokens). It is 1 for every loss: measured for `bernoulli` and `spin`,
    /// provisional for the others.
    pub fn default_scale(self) -> f64 {
        1.0
    }
}
