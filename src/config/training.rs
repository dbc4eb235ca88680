//! One training stage: optimizer, learning-rate schedule, batches, and the optional low-rank adapter.

use serde::{Deserialize, Serialize};

/// How weights are updated. Used twice: `train` inside an iteration, `sft` for the supervised stage before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Highest learning rate. Default none: 1e-5 for all weights, 1e-4 for an adapter.
    pub lr: Option<f64>,
    /// Passes over the pairs. Default 1: self-generated responses age as the policy leaves the reference.
    pub epochs: usize,
    /// Updates of the stage (of each iteration), whatever number of pairs there are; may end within an epoch. Default
    /// none: `epochs` passes over the pairs. `gsil compare` sets it, so that all methods make the same number.
    pub num_steps: Option<usize>,
    /// Pairs per update. Default 8: what a small machine can afford; more is steadier.
    pub batch_size: usize,
    /// Pairs per forward and backward pass, at most `batch_size`; gradients are accumulated. Changes memory and speed,
    /// not the result. Default 2.
    pub micro_batch_size: usize,
    /// Tokens per forward and backward pass, the prompt of a pair counted once; a pair that is longer goes alone. Long
    /// pairs then need no more memory than many short ones. Default 0: no limit but `micro_batch_size`.
    pub max_tokens: usize,
    /// The update rule. Default `adamw`.
    pub optimizer: OptimizerName,
    /// `adamw`: decay of the mean and of the mean square of gradients. Default (0.9, 0.999), the usual pair.
    pub betas: (f64, f64),
    /// `rmsprop`: decay of the mean square of gradients. Default 0.99, as in PyTorch.
    pub alpha: f64,
    /// `sgd`: share of the last update that is kept. Default 0: none.
    pub momentum: f64,
    /// `adamw` and `rmsprop`: added to the root of the mean square. Default 1e-8, as in PyTorch.
    pub epsilon: f64,
    /// How strongly weights are pulled towards 0. `adamw`: the share of a weight that is taken off per update and unit of
    /// learning rate; `rmsprop` and `sgd`: this times the weight is added to its gradient, as in PyTorch. Default 0:
    /// fine-tuning stays near its start anyway.
    pub weight_decay: f64,
    /// How the learning rate falls after the warm-up. Default `linear`: a high rate at the end of an iteration leaves
    /// noise in the next reference.
    pub schedule: ScheduleName,
    /// Updates over which the learning rate rises from 0. Default 0: GSIL's rates are small from the start.
    pub warmup_steps: usize,
    /// The last learning rate as a share of `lr`. Default 0.1. `constant` ignores it.
    pub final_lr_ratio: f64,
    /// Gradients with a larger norm are scaled down to it. Default 1; 0 switches clipping off.
    pub max_grad_norm: f64,
    /// Longest prompt plus response, in tokens; longer pairs are left out and counted. In `sft` it is a further limit, on rows
    /// that were read with that of `train`. Default 1024.
    pub max_length: usize,
    /// Keep only layer inputs for the backward pass and compute the rest again: less memory, about a third more time,
    /// with an adapter half as much again or more. Default false.
    pub activation_checkpointing: bool,
}

impl TrainConfig {
    /// The default `lr` when all weights are trained.
    pub const DEFAULT_LR: f64 = 1e-5;
    /// The default `lr` when an adapter is trained: its few weights must move further.
    pub const DEFAULT_LORA_LR: f64 = 1e-4;

    /// Updates of a stage with so many pairs.
    pub fn num_updates(&self, num_pairs: usize) -> usize {
        self.num_steps.unwrap_or(num_pairs.div_ceil(self.batch_size) * self.epochs)
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            lr: None,
            epochs: 1,
            num_steps: None,
            batch_size: 8,
            micro_batch_size: 2,
            max_tokens: 0,
            optimizer: OptimizerName::Adamw,
            betas: (0.9, 0.999),
            alpha: 0.99,
            momentum: 0.0,
            epsilon: 1e-8,
            weight_decay: 0.0,
            schedule: ScheduleName::Linear,
            warmup_steps: 0,
            final_lr_ratio: 0.1,
            max_grad_norm: 1.0,
            max_length: 1024,
            activation_checkpointing: false,
        }
    }
}

/// The update rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerName {
    /// Adam with decoupled weight decay.
    Adamw,
    /// Gradients divided by the root of their mean square: half the state of `adamw`.
    Rmsprop,
    /// Plain gradient descent: no state unless `momentum` is set.
    Sgd,
}

/// The course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// Stays at `lr`.
    Constant,
    /// Falls in a straight line to `lr * final_lr_ratio`.
    Linear,
    /// Falls along half a cosine to `lr * final_lr_ratio`.
    Cosine,
}

/// A low-rank adapter: `W + (alpha / rank) * B A` with only A and B trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rows of A. Default 8: enough for a change of style or format.
    pub rank: usize,
    /// Strength before the division by `rank`; whole, as adapter files require. Default 16, twice the rank.
    pub alpha: usize,
    /// The layers that get an adapter, by the last part of their name; those that a model lacks are passed over (GPT-2 has no
    /// gate). Default: all of [`LoraConfig::MODULES`].
    pub target_modules: Vec<String>,
}

impl LoraConfig {
    /// The layers that can have an adapter: the seven matrices of a Llama block.
    pub const MODULES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16, target_modules: Self::MODULES.map(str::to_owned).to_vec() }
    }
}
