//! Where responses come from and how they are judged: self-generation, evaluation, and the built-in word problems.

use serde::{Deserialize, Serialize};

/// How the reference writes its responses at the start of an iteration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationConfig {
    /// Longest response, in tokens; below `train.max_length`. Default 256.
    pub max_new_tokens: usize,
    /// Logits are divided by it; 0 takes the likeliest token. Default 1: the density ratio is that of the reference
    /// itself, not of a sharpened one.
    pub temperature: f64,
    /// Sample among this many likeliest tokens. Default 0: among all.
    pub top_k: usize,
    /// Sample among the likeliest tokens that hold this share of the probability. Default 1: among all.
    pub top_p: f64,
    /// Self-generated responses per demonstration; the loss of a pair is the mean over them. Default 1; more give a steadier
    /// gradient for more time and memory: all of a pair's responses go through the model together.
    pub samples_per_prompt: usize,
    /// Responses written at once: memory against speed, not the result. Default 8.
    pub batch_size: usize,
    /// Number format of the weights while generating: `f32` or `bf16`. Default `f32`.
    pub weights: WeightFormat,
    /// What becomes of a response that was cut at `max_new_tokens`. Default `drop`.
    pub unfinished: Unfinished,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            samples_per_prompt: 1,
            batch_size: 8,
            weights: WeightFormat::F32,
            unfinished: Unfinished::Drop,
        }
    }
}

/// Number formats of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    /// 32-bit floating point: the weights as they are trained.
    F32,
    /// Copies rounded to bfloat16, made anew at the start of each iteration: half the memory traffic. Responses are scored
    /// again with the f32 weights. CPU only.
    Bf16,
}

/// What becomes of a response without an end token. It is never given one: that would teach that half an answer is
/// whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfinished {
    /// It is left out and counted; with its demonstration, if no response to its prompt is left.
    Drop,
    /// Its tokens are kept and trained on like any others; only the end token that it lacks is not.
    Mask,
}

/// How the policy is judged on held-out rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Held-out demonstrations: a file as for `data`. Default none: the valid files of a `data` folder, if it has any,
    /// the test set of `word_problems`, else the first training rows, which are scored and not answered. Of preference pairs
    /// the chosen response alone is judged.
    pub data: Option<String>,
    /// At most this many rows are scored. Default 200: minutes on a CPU.
    pub max_rows: usize,
    /// Responses are generated for this many of them. Default 100; 0 generates none.
    pub generate_rows: usize,
    /// What stands before the number that is the answer, with one space between them, as `####` in GSM8K; a response is
    /// right if that number is. Default none, and `####` for `word_problems`: without one no answers are compared.
    pub answer_marker: Option<String>,
    /// Besides the likeliest response also sample one at temperature 1, the way training sees the policy.
    /// Default false.
    pub sampled: bool,
    /// Longest response, in tokens. Default none: that of `generation`.
    pub max_new_tokens: Option<usize>,
}

impl EvaluationConfig {
    /// Without held-out data so many training rows are scored before and after.
    pub const NUM_PROBE_ROWS: usize = 32;
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            data: None,
            max_rows: 200,
            generate_rows: 100,
            answer_marker: None,
            sampled: false,
            max_new_tokens: None,
        }
    }
}

/// The built-in task: two-step arithmetic stories, and a small Llama-style model with random weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WordProblemsConfig {
    /// Demonstrations. Default 2000.
    pub num_train: usize,
    /// Held-out problems; with `num_train` at most [`WordProblemsConfig::MAX_PROBLEMS`]. Default 400.
    pub num_test: usize,
    /// Probability that a step of a demonstration is off by one. Default 0: all demonstrations are right.
    pub slip_probability: f64,
    /// Width of the model: a multiple of `2 * num_heads`. Default 96.
    pub hidden_size: usize,
    /// Layers of the model. Default 3.
    pub num_layers: usize,
    /// Attention heads of the model. Default 4.
    pub num_heads: usize,
    /// Width of the feed-forward layers. Default 256.
    pub intermediate_size: usize,
}

impl WordProblemsConfig {
    /// Most problems there can be: a little under the number of different arithmetic chains.
    pub const MAX_PROBLEMS: usize = 20_000;
    /// What stands before the answer in a solution.
    pub const ANSWER_MARKER: &str = "####";
}

impl Default for WordProblemsConfig {
    fn default() -> Self {
        Self {
            num_train: 2000,
            num_test: 400,
            slip_probability: 0.0,
            hidden_size: 96,
            num_layers: 3,
            num_heads: 4,
            intermediate_size: 256,
        }
    }
}
