//! `gsil`: teach a small language model to imitate your demonstrations, on the computer you have.
//!
//! Generalized self-imitation learning (Xiao et al., EMNLP 2024, arXiv 2410.10093): the policy answers each prompt itself, and
//! a classification loss on density ratios tells demonstrations from its own answers; repeat.
//!
//! # The tour
//! Read in the order in which a batch travels:
//!
//! 1. [`config`]: what a run is told. [`error`]: what can go wrong. [`device`]: where tensors live.
//! 2. [`data`]: rows of files, chat template, token ids, batches and their masks.
//! 3. [`formats`]: model files in and out. [`model`]: the decoder. [`ops`]: its operations with their gradients.
//! 4. [`objective`]: log-probs, log-ratios, implicit rewards, losses.
//! 5. [`generate`]: self-generation. [`train`]: the algorithm. [`eval`]: held-out figures, GSM8K and its like.
//! 6. [`compare`]: many runs from one start, side by side.
//! 7. [`policy`], [`report`] and [`cli`]: how a person meets all this. [`bench`]: how fast a device is. [`doctor`]: whether
//!    it computes what it should.
//!
//! Imports run one way. From the ground up: `error`, `config`, `device`, `report`, `ops`, `formats`, `model`, `data`, `policy`,
//! `objective`, `generate`, `eval`, `train`, `compare`, `bench`, `doctor`, `cli`; each may use those before it, and a test holds this.
//!
//! # Letters
//! B sequences of a batch, T tokens, D hidden size, H heads, K key-value heads, V vocabulary, R response tokens.
//!
//! # Words
//! `policy` is the model being trained, `reference` the frozen policy of the iteration's start. A `demonstration` is given, a
//! `self_generated` response was sampled from the reference; with their prompt they are a `pair`. `log_ratio` is log-prob
//! under the policy less log-prob under the reference, in nats over the response; `implicit_reward` is
//! `scale * log_ratio + shift`. An `iteration` has `epochs`, an epoch `steps` (updates), a step `micro_batches`.

#![recursion_limit = "256"]

pub mod bench;
pub mod cli;
pub mod compare;
pub mod config;
pub mod data;
pub mod device;
pub mod doctor;
pub mod error;
pub mod eval;
pub mod formats;
pub mod generate;
pub mod model;
pub mod objective;
pub mod ops;
pub mod policy;
pub mod report;
pub mod train;

pub use error::{Error, Result};
