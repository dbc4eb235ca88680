//! `gsil`: teach a small language model to imitate your demonstrations, on the computer you have.
//!
//! # GSIL in one screen
//! Generalized self-imitation learning (Xiao et al., EMNLP 2024, arXiv 2410.10093) learns from demonstrations alone: prompts
//! with the responses that you want. In each iteration the current policy is frozen as the `reference` and answers every
//! prompt itself. Then a classifier learns to tell the demonstration y1 from the self-generated y0. Its logit is not a new
//! network but the policy's own log-ratio,
//!
//! ```text
//! u(y) = scale * (log policy(y) - log reference(y)) + shift
//! loss = l1(u(y1)) + l0(u(y0))
//! bernoulli: softplus(-u(y1)) + softplus(u(y0)),   softplus(x) = log(1 + exp(x))
//! ```
//!
//! ```text
//!   demonstrations (x, y1) ────────────────────────────────┐
//!         │ x                                              │ y1
//!         ▼                                                ▼
//!   ┌───────────┐  y0 ~ policy(. | x)              log policy(y1 | x)
//!   │  policy   ├──────────────┬───────────────────────────┤     both scored once: from here on the
//!   │   pi_t    │  kept with   │ log pi_t(y0)              │ log pi_t(y1)   reference pi_t needs no memory
//!   └─────┬─────┘  log-probs   ▼                           ▼
//!         │             ┌─────────────────────────────────────────┐
//!         └────────────▶│ train  l1(u(y1)) + l0(u(y0))            │
//!                       │ "which of the two is a demonstration?"  │
//!                       └────────────────────┬────────────────────┘
//!                                            ▼
//!                                    pi_t+1: the next policy
//! ```
//!
//! A classifier between two sources is best where u is the logarithm of their density ratio, of how often a response is
//! demonstrated over how often it is self-generated (with every loss but the margin loss `hinge`). With this u, at scale 1 and
//! shift 0, that is where the policy has become the demonstrator. With a scale above 1 an iteration goes only part of the way,
//! and the next goes on from there; below 1 it aims beyond the demonstrator, and only few updates keep it from getting there.
//! Iterations are needed in any case: samples say little where policy and demonstrator hardly overlap, and each new reference
//! is nearer.
//!
//! Where nothing is too large to write down, all of it is a few lines: two possible responses, the demonstrator picks the
//! first in 8 of 10 cases, the policy begins with 1 of 10.
//!
//! ```
//! # fn main() -> gsil::Result<()> {
//! use burn::tensor::{Tensor, activation};
//! use gsil::config::ObjectiveConfig;
//! use gsil::objective::{Objective, SideLogProbs};
//!
//! let device = gsil::device::open("flex")?.autodiff();
//! let objective = Objective::new(&ObjectiveConfig::default()); // bernoulli
//! // How often each response is demonstrated, and self-generated.
//! let demonstrations = Tensor::<1>::from_floats([0.8, 0.2], &device);
//! let reference = Tensor::<1>::from_floats([0.1, 0.9], &device);
//! let mut logits = reference.clone().log().inner();
//! for _ in 0..100 {
//!     let policy = Tensor::from_inner(logits.clone()).require_grad();
//!     let side = SideLogProbs {
//!         policy: activation::log_softmax(policy.clone(), 0),
//!         reference: reference.clone().log(),
//!         num_tokens: Tensor::ones([2], &device),
//!     };
//!     let loss = objective.loss(&side, Some(&side));
//!     let (l1, l0) = (loss.demonstration, loss.self_generated);
//!     let mean = (l1 * demonstrations.clone() + l0 * reference.clone()).sum();
//!     logits = logits - policy.grad(&mean.backward()).expect("a gradient");
//! }
//! let policy = gsil::model::weights::to_host(activation::softmax(logits, 0))?;
//! assert!((policy[0] - 0.8).abs() < 0.01, "{policy:?}"); // the policy has become the demonstrator
//! # Ok(())
//! # }
//! ```
//!
//! With a language model, a response's log-prob is the sum over its tokens, and sources are samples. Such a run is a few
//! calls; `gsil train` on the command line makes the same ones:
//!
//! ```no_run
//! use gsil::{config::RunConfig, report::console::Console, train::setup::Run};
//! use std::path::Path;
//!
//! # fn main() -> gsil::Result<()> {
//! let model = Some("SmolLM2-135M-Instruct.Q4_1.gguf".to_owned());
//! let data = Some("train.jsonl".to_owned());
//! let mut config = RunConfig { model, data, ..RunConfig::default() };
//! config.resolve();
//! config.validate()?;
//! let (run, model) = Run::start(config, Path::new("runs/first"), Console::stderr())?;
//! for stage in run.train(model)? {
//!     println!("{}: {:?}", stage.stage, stage.evaluation);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The programs in `examples/` are a course: density ratios, the losses, an iteration where everything is known, a loss
//! and a kernel of your own, and the way from a GGUF file to an aligned model.
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
//! 7. [`records`]: what a run writes about itself. [`policy`], [`report`] and [`cli`]: how a person meets all this.
//!    [`mod@bench`]: how fast a device is. [`doctor`]: whether it computes what it should.
//!
//! Imports run one way. From the ground up: `error`, `config`, `records`, `device`, `report`, `ops`, `formats`, `model`,
//! `data`, `policy`, `objective`, `generate`, `eval`, `train`, `compare`, `bench`, `doctor`, `cli`; each may use those
//! before it, and a test holds this.
//!
//! # Letters
//! B sequences of a batch, T tokens, N packed rows of a batch (one a token), D hidden size, H heads, K key-value heads or
//! the likeliest tokens at a place, V vocabulary, R response tokens, C comparisons of a demonstration with a response.
//!
//! # Words
//! `policy` is the model being trained, `reference` the frozen policy of the iteration's start. A `demonstration` is
//! given, a `self_generated` response was sampled from the reference; with their prompt they are a `pair`. `log_ratio` is
//! log-prob under the policy less log-prob under the reference, in nats over the response; `implicit_reward` is `scale *
//! log_ratio + shift`, an estimate of the logarithm of the `density ratio` of the two sources. An `iteration` has
//! `epochs`, an epoch `steps` (updates), a step `micro_batches`.

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
pub mod records;
pub mod report;
pub mod train;

pub use error::{Error, Result};
