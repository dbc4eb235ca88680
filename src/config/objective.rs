//! The loss and its numbers, as a configuration spells them. The mathematics is in [`crate::objective`].

use serde::{Deserialize, Serialize};

use super::GenerationConfig;
use crate::error::{Error, Result};

/// Which loss, and how the log-ratio enters it: `implicit_reward = scale * log_ratio + shift`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// The loss. Default `bernoulli`: its gradients are bounded on both sides.
    pub name: ObjectiveName,
    /// Implicit reward per nat of log-ratio; above 0. Default 1, which fits short answers (some 20 tokens). Log-ratios are
    /// sums over tokens, so that long answers saturate a bounded loss sooner; less, about 20 / (mean length in tokens), is
    /// customary there. An iteration is best where `log_ratio` is `1 / scale` times the logarithm of
    /// the density ratio (before normalisation): above 1 it goes part of the way and the next goes on; below 1 it aims
    /// beyond the demonstrator, and only few updates keep it from getting there.
    pub scale: f64,
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
    /// clip mean the same for every loss and scale; that of `dil_ukl` by the length alone. Default true.
    pub normalize: bool,
    /// Less noise in the gradient of self-generated responses, with the same expectation. Default `none`: the paper's
    /// loss. `top_k(16)` costs a pass of the reference over its responses and some memory.
    pub variance_reduction: VarianceReduction,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            name: ObjectiveName::Bernoulli,
            scale: 1.0,
            shift: 0.0,
            power: 0.5,
            sft_weight: 0.0,
            normalize: true,
            variance_reduction: VarianceReduction::None,
        }
    }
}

/// What is known of the reference's distribution at each token of its responses; the mathematics is in
/// [`crate::objective::variance_reduction`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceReduction {
    /// Nothing: the loss as it stands.
    #[default]
    None,
    /// The log-probs of the whole vocabulary: for small ones, at most [`Self::MAX_EXACT_VOCABULARY`] tokens.
    Exact,
    /// The log-probs of so many of the likeliest tokens; all others are one bucket.
    TopK(usize),
}

impl VarianceReduction {
    /// Tokens of a vocabulary whose distributions may be kept whole: 16 KiB for each token of a response.
    pub const MAX_EXACT_VOCABULARY: usize = 4096;
    /// The most tokens of `top_k`. A row of the head is read for each of them at each token of a response.
    pub const MAX_TOP_K: usize = 256;

    /// Whether distributions are kept and the loss is corrected with them.
    pub fn is_on(self) -> bool {
        self != VarianceReduction::None
    }

    /// Whether responses are drawn as the correction assumes, and the objective has a side that it corrects.
    pub(super) fn check(self, objective: ObjectiveName, generation: &GenerationConfig) -> Result<()> {
        let key = "objective.variance_reduction";
        match self {
            Self::None => return Ok(()),
            Self::TopK(k) if !(1..=Self::MAX_TOP_K).contains(&k) => {
                let message =
                    format!("top_k({k}) is not possible; k must be at least 1 and at most {}", Self::MAX_TOP_K);
                return Err(Error::config(key, message).with_hint("16 is as good as all tokens, where it was measured"));
            }
            Self::Exact | Self::TopK(_) => {}
        }
        if !objective.is_density_ratio() {
            let message = format!("`{objective}` is not one of the losses that it corrects; it must be none");
            let possible = ObjectiveName::ALL.into_iter().filter(|name| name.is_density_ratio());
            let possible: Vec<String> = possible.map(|name| name.to_string()).collect();
            return Err(Error::config(key, message).with_hint(format!("for {}", possible.join(", "))));
        }
        if generation.temperature != 1.0 || generation.top_k != 0 || generation.top_p != 1.0 {
            let message = "needs responses drawn from the reference's whole distribution";
            return Err(Error::config(key, message)
                .with_hint("use generation.temperature=1, generation.top_k=0 and generation.top_p=1"));
        }
        Ok(())
    }
}

impl std::fmt::Display for VarianceReduction {
    /// As it is written in a configuration.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Exact => f.write_str("exact"),
            Self::TopK(k) => write!(f, "top_k({k})"),
        }
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
    /// Every loss, in the order of its documentation.
    pub const ALL: [ObjectiveName; 12] = {
        use ObjectiveName::*;
        [Bernoulli, Brier, Hinge, Kliep, Lsif, BregmanPower, Spin, Sft, Simper, DilLsif, DilUkl, DilBce]
    };

    /// Whether log-ratios to the reference are read, and with them the scale.
    pub fn needs_reference(self) -> bool {
        use ObjectiveName::*;
        match self {
            Bernoulli | Brier | Hinge | Kliep | Lsif | BregmanPower | Spin | DilLsif | DilUkl | DilBce => true,
            Sft | Simper => false,
        }
    }

    /// Whether the shift is read. Of the two sides of `spin` it cancels.
    pub fn reads_shift(self) -> bool {
        use ObjectiveName::*;
        match self {
            Bernoulli | Brier | Hinge | Kliep | Lsif | BregmanPower | DilLsif | DilUkl | DilBce => true,
            Spin | Sft | Simper => false,
        }
    }

    /// Whether self-generated responses are read.
    pub fn needs_self_generated(self) -> bool {
        use ObjectiveName::*;
        match self {
            Bernoulli | Brier | Hinge | Kliep | Lsif | BregmanPower | Spin | Simper | DilLsif | DilUkl | DilBce => true,
            Sft => false,
        }
    }

    /// The losses of GSIL: a demonstration's side and a self-generated side, each a function of its implicit reward.
    pub fn is_density_ratio(self) -> bool {
        use ObjectiveName::*;
        match self {
            Bernoulli | Brier | Hinge | Kliep | Lsif | BregmanPower => true,
            Spin | Sft | Simper | DilLsif | DilUkl | DilBce => false,
        }
    }
}
