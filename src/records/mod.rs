//! What a run writes about itself, line by line: one type for those who write a line and those who read it.
//!
//! ```text
//! about.json              about            what the model and the data are like
//! metrics.jsonl           update           a line for each update
//! self_generation.jsonl   self_generation  a line for each iteration: what its responses were like
//! evaluations.jsonl       evaluation       a line for each stage: its held-out figures
//! evaluation_rows.jsonl   evaluation       a line for each stage: the held-out figures of every row
//! timing.jsonl            timing           a line for each phase of a stage: its seconds
//! ended.json              ending           what ended the run before its time, until it is gone on with
//! ```
//! Plain data; what computes it stands above. Folders of older versions are read by the same types: a key stays what
//! it is, and a new one is an Option or has a default. What tables call the held-out figures: [`figures`]; what all
//! call the stages: [`stage`]. What a run resumes from belongs to [`crate::train`], the layout of its folder to
//! [`crate::train::run_dir`].

pub mod about;
pub mod ending;
pub mod evaluation;
pub mod figures;
pub mod run_folder;
pub mod self_generation;
pub mod stage;
pub mod timing;
pub mod update;
