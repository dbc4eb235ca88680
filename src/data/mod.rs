//! From files on disk to token ids: the only part of the crate that knows text.
//!
//! The path of a row: [`rows`] reads it into a [`Row`] whatever its file and shape, [`tokenizer`] turns it into token
//! ids (through the model's [`chat_template`] if it has one), [`examples`] keeps what fits and counts what does not,
//! and [`batch`] packs them into rows. No file here trains or generates. Start with [`rows`].

pub mod batch;
pub mod chat_template;
#[cfg(feature = "tables")]
mod csv_quotes;
#[cfg(feature = "tables")]
mod csv_rows;
pub mod data_folder;
mod dropped;
pub mod examples;
pub mod fields;
pub mod inspection;
mod json_rows;
#[cfg(feature = "tables")]
mod parquet_limits;
#[cfg(feature = "tables")]
mod parquet_rows;
mod problem;
mod row_keys;
mod row_shapes;
pub mod rows;
mod second_responses;
mod strict_json;
#[cfg(feature = "tables")]
mod thrift;
pub mod tokenizer;
mod tokenizer_growth;
mod unread;
pub mod word_problems;

pub use chat_template::ChatTemplate;
pub use dropped::{Dropped, Reason};
pub use examples::{Example, FileRows, Preparation, PromptIds, prepare_prompts};
pub use row_keys::{LonePrompt, Misnamed};
pub use rows::{Columns, Message, Prompt, Response, Row, read_good_rows, read_rows};
pub use second_responses::{bring_second_responses, check_second_responses, unlike_the_first};
pub use tokenizer::Tokenizer;
pub use unread::Unread;
