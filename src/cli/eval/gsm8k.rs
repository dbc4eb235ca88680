//! `gsil eval gsm8k`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::shared::{EvaluationArgs, tokenizer_of};
use crate::data::fields::read_field_rows;
use crate::error::{Error, Result};
use crate::eval::gsm8k::{Answering, FIELDS, Gsm8kRow, MARKER, Problem, answer, few_shot_prefix, report};
use crate::eval::row_store::TEMPLATE_DATE;
use crate::formats::fingerprint::fingerprint;

#[derive(Debug, Args)]
#[command(after_help = "Rows: {\"question\": .., \"answer\": \".. #### 18\"}, in
.jsonl, .json, .csv, .tsv or .parquet.

Examples:
  gsil eval gsm8k --model SmolLM2 --data gsm8k.jsonl --limit 2
  gsil eval gsm8k --model SmolLM2 --data gsm8k.jsonl --output night --chat
  gsil eval gsm8k --model SmolLM2 --data gsm8k.jsonl --limit 2 \\
      --few-shot-data gsm8k-train.jsonl --few-shot 2 --max-new-tokens 64")]
pub(in crate::cli) struct Gsm8kArgs {
    #[command(flatten)]
    shared: EvaluationArgs,
    /// Worked problems are the first ones of this file, or of a folder's train file; not the rows that are judged.
    #[arg(long, value_name = "FILE", requires = "few_shot")]
    few_shot_data: Option<PathBuf>,
    /// How many worked problems stand before each question.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "few_shot_data")]
    few_shot: usize,
    /// Ask through the model's chat template, as one user message.
    #[arg(long)]
    chat: bool,
    /// Longest response, in tokens. Default: 256, or half of the model's context if that is less.
    #[arg(long, value_name = "TOKENS")]
    max_new_tokens: Option<usize>,
}

/// Longest response where nothing else is asked for, as in the original.
const MAX_NEW_TOKENS: usize = 256;

pub(super) fn gsm8k(args: Gsm8kArgs) -> Result<()> {
    let mut session = args.shared.open()?;
    let date = if args.chat { session.keep_date()? } else { None };
    let tokenizer = tokenizer_of(&session.policy)?;
    if args.chat && !tokenizer.has_chat_template() {
        return Err(Error::input(&session.policy.files.path, "has no chat template").with_hint("leave out --chat"));
    }
    let context = session.policy.config.max_position_embeddings;
    let max_new_tokens = longest_response(args.max_new_tokens, context)?;
    if args.max_new_tokens.is_none() && max_new_tokens < MAX_NEW_TOKENS {
        session
            .console
            .say(format!("responses have at most {max_new_tokens} tokens: the model's context is {context}"));
    }
    // Of a file of which nothing is asked nothing is read, and the settings are those without it.
    let few_shot_data = args.few_shot_data.as_deref().filter(|_| args.few_shot > 0);
    let few_shot_files = few_shot_data.map(|given| session.files_of(given)).transpose()?;
    let shots = match &few_shot_files {
        Some(files) => few_shot_prefix(files, args.few_shot)?,
        None => String::new(),
    };
    let rows = read_field_rows(&session.files, session.limit(), &FIELDS)?;
    let longest_prompt = context - max_new_tokens;
    let problem = |row| Problem::new(row, &shots, tokenizer, args.chat, longest_prompt);
    let problems: Vec<Problem> = rows.iter().map(problem).collect::<Result<_>>()?;
    let num_cut = problems.iter().filter(|problem| problem.is_cut).count();
    session
        .warn_of_cut_prompts(num_cut, &format!("{longest_prompt} tokens, the model's context less --max-new-tokens"));
    let num_without = problems.iter().filter(|problem| !problem.has_number()).count();
    if num_without > 0 {
        let all = problems.len();
        session.console.warn(format!(
            "{num_without} of {all} answers in the data are no number, nor end in one after `{MARKER} `: no response to them is right"
        ));
    }
    let mut settings = json!({
        "few_shot": args.few_shot,
        "few_shot_data": few_shot_files.as_deref().map(fingerprint).transpose()?,
        "chat": args.chat,
        "max_new_tokens": max_new_tokens,
    });
    if let Some(date) = date {
        settings[TEMPLATE_DATE] = date.into();
    }
    let mut store = session.row_store::<Gsm8kRow>("gsm8k", settings)?;
    if store.len() < problems.len() {
        let answering = Answering {
            tokenizer,
            eos_token_ids: &session.policy.eos_token_ids,
            max_new_tokens,
            batch_size: session.batch_size(),
            console: &session.console,
        };
        answer(&session.load()?, &problems, &answering, &mut store)?;
    }
    session.finish(&store, &report(&store.rows()))
}

/// What was asked for; else so much that the question keeps half of a small context.
fn longest_response(asked: Option<usize>, context: usize) -> Result<usize> {
    let longest = asked.unwrap_or(MAX_NEW_TOKENS.min(context / 2));
    if longest == 0 || longest >= context {
        let message = format!("--max-new-tokens {longest}: expected 1 to {}", context.saturating_sub(1));
        return Err(Error::usage(message).with_hint(format!("the model reads and writes {context} tokens at most")));
    }
    Ok(longest)
}
