//! `gsil eval perplexity`.

use clap::Args;
use serde_json::json;

use super::shared::{EvaluationArgs, tokenizer_of};
use crate::error::{Error, Result};
use crate::eval::perplexity::{Document, PerplexityRow, read_texts, report, score_documents};
use crate::eval::scoring::Scoring;

#[derive(Debug, Args)]
#[command(after_help = "Rows: {\"text\": ..}, in .jsonl, .json, .csv, .tsv or .parquet; a .txt
file is one text. Texts without spaces between words (Chinese, Japanese, Thai):
read the byte figures; a word_perplexity beyond every number is left out.

Examples:
  gsil eval perplexity --model SmolLM2 --data texts.jsonl
  gsil eval perplexity --model SmolLM2 --data book.txt --max-length 128")]
pub(in crate::cli) struct PerplexityArgs {
    #[command(flatten)]
    shared: EvaluationArgs,
    /// Tokens of a window. Default: the longest that the model reads.
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
}

pub(super) fn perplexity(args: PerplexityArgs) -> Result<()> {
    let session = args.shared.open()?;
    let tokenizer = tokenizer_of(&session.policy)?;
    let context = session.policy.config.max_position_embeddings;
    let max_length = args.max_length.unwrap_or(context);
    if max_length == 0 || max_length > context {
        return Err(Error::usage(format!("--max-length {max_length}: expected 1 to {context}, the model's context")));
    }
    let texts = read_texts(&session.files, session.limit())?;
    let document = |text| Document::new(text, tokenizer, max_length);
    let documents: Vec<Document> = texts.iter().map(document).collect::<Result<_>>()?;
    let mut store = session.row_store::<PerplexityRow>("perplexity", json!({"max_length": max_length}))?;
    if store.len() < documents.len() {
        let scoring = Scoring {
            batch_size: session.batch_size(),
            num_tokens_multiple: session.num_tokens_multiple(),
            console: &session.console,
        };
        score_documents(&session.load()?, &documents, &scoring, &mut store)?;
    }
    session.finish(&store, &report(&store.rows()))
}
