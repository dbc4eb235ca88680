//! From files on disk to token ids: the only part of the crate that knows text.
//!
//! The path of a row: [`rows`] reads a JSONL line into a [`Row`] whatever its shape, [`tokenizer`] turns it into token
//! ids (through the model's [`chat_template`] if it has one), [`examples`] keeps what fits and counts what does not,
//! and [`batch`] pads and masks. No file here trains or generates. Start with [`rows`].

pub mod batch;
pub mod chat_template;
pub mod examples;
mod row_shapes;
pub mod rows;
mod strict_json;
pub mod tokenizer;
mod tokenizer_growth;
pub mod word_problems;

pub use chat_template::ChatTemplate;
pub use examples::{Dropped, Example, PromptIds, prepare_examples, prepare_prompts};
pub use rows::{Message, Prompt, Response, Row, read_good_rows, read_rows};
pub use tokenizer::Tokenizer;
