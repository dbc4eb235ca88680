//! `gsil eval gsm8k`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::shared::EvaluationArgs;
use crate::data::fields::read_field_rows;
use crate::error::{Error, Result};
use crate::eval::gsm8k::{Answering, Gsm8kRow, Problem, answer, few_shot_prefix, report};
use crate::formats::fingerprint::fingerprint;

#[derive(Debug, Args)]
#[command(after_help = "Rows: {\"question\": .., \"answer\": \".. #### 18\"}, in .jsonl or .json.

Examples:
  gsil eval gsm8k --model SmolLM2 --data gsm8k.jsonl --limit 2
  gsil eval gsm8k --model SmolLM2 --data gsm8k.jsonl --output night --chat
  gsil eval gsm8k --model SmolLM2 --data gsm8k.jsonl --limit 2 \\
      --few-shot-data gsm8k.jsonl --few-shot 2 --max-new-tokens 64")]
pub(super) struct Gsm8kArgs {
    #[command(flatten)]
    shared: EvaluationArgs,
    /// Worked problems are taken from this file: its first ones.
    #[arg(long, value_name = "FILE", requires = "few_shot")]
    few_shot_data: Option<PathBuf>,
    /// How many worked problems stand before each question.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "few_shot_data")]
    few_shot: usize,
    /// Ask through the model's chat template, as one user message.
    #[arg(long)]
    chat: bool,
    /// Longest response, in tokens.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
}

pub(super) fn gsm8k(args: Gsm8kArgs) -> Result<()> {
    let session = args.shared.open()?;
    let tokenizer = session.tokenizer()?;
    if args.chat && !tokenizer.has_chat_template() {
        return Err(Error::input(&session.policy.files.path, "has no chat template").with_hint("leave out --chat"));
    }
    let context = session.policy.config.max_position_embeddings;
    if args.max_new_tokens == 0 || args.max_new_tokens >= context {
        let message = format!("--max-new-tokens {}: expected 1 to {}", args.max_new_tokens, context - 1);
        return Err(Error::usage(message).with_hint(format!("the model reads and writes {context} tokens at most")));
    }
    let shots = match &args.few_shot_data {
        Some(path) => few_shot_prefix(path, args.few_shot)?,
        None => String::new(),
    };
    let rows = read_field_rows(&session.files, session.limit())?;
    let longest_prompt = context - args.max_new_tokens;
    let problem = |row| Problem::new(row, &shots, tokenizer, args.chat, longest_prompt);
    let problems: Vec<Problem> = rows.iter().map(problem).collect::<Result<_>>()?;
    let settings = json!({
        "few_shot": args.few_shot,
        "few_shot_data": args.few_shot_data.as_ref().map(|path| fingerprint(std::slice::from_ref(path))).transpose()?,
        "chat": args.chat,
        "max_new_tokens": args.max_new_tokens,
    });
    let mut store = session.row_store::<Gsm8kRow>("gsm8k", settings)?;
    if store.len() < problems.len() {
        let answering = Answering {
            tokenizer,
            eos_token_ids: &session.policy.eos_token_ids,
            max_new_tokens: args.max_new_tokens,
            batch_size: session.batch_size(),
            console: &session.console,
        };
        answer(&session.load()?, &problems, &answering, &mut store)?;
    }
    session.finish(&store, &report(&store.rows()))
}
