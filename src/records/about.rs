//! `about.json`: what the model and the data of a run are like.

use serde::{Deserialize, Serialize};

use super::self_generation::SelfGeneratedCounts;

/// The file in a run folder; runs of the first version have none.
pub const ABOUT_FILE: &str = "about.json";

/// Figures of model and data, and a few rows as text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub num_parameters: usize,
    pub num_trained_parameters: usize,
    pub num_demonstrations: usize,
    /// Rows that every stage is judged on.
    pub num_evaluated: usize,
    /// False if those are training rows.
    pub held_out: bool,
    /// Mean length of demonstrations, their end token included.
    pub mean_demonstration_tokens: f64,
    pub samples: Vec<SampleRow>,
    /// The demonstrations counted as if they were responses: what is usual for these data. None in older runs.
    #[serde(default)]
    pub demonstrations: Option<SelfGeneratedCounts>,
    /// The rows bring the responses that demonstrations are told from; nothing is generated. False in older runs.
    #[serde(default)]
    pub responses_are_given: bool,
}

/// A row of the data as text. Models without a tokenizer have token ids instead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRow {
    /// The row of the data file, counted from 0.
    pub index: usize,
    pub prompt: String,
    pub demonstration: String,
}
