//! `gsil eval multiple-choice`.

use clap::Args;
use serde_json::json;

use super::shared::{EvaluationArgs, tokenizer_of};
use crate::data::fields::read_field_rows;
use crate::error::Result;
use crate::eval::multiple_choice::{ChoiceRow, FIELDS, Question, report, score_choices};
use crate::eval::scoring::Scoring;

#[derive(Debug, Args)]
#[command(after_help = "Rows: HellaSwag's {\"ctx\": .., \"endings\": [..], \"label\": 0}, or
{\"prompt\": .., \"choices\": [..], \"answer\": 0}, in .jsonl, .json, .csv, .tsv or
.parquet; a list in a cell is JSON. A choice follows one space.

Examples:
  gsil eval multiple-choice --model SmolLM2 --data hellaswag.jsonl
  gsil eval multiple-choice --model SmolLM2 --data hellaswag.jsonl \\
      --limit 100 --output choices")]
pub(in crate::cli) struct MultipleChoiceArgs {
    #[command(flatten)]
    shared: EvaluationArgs,
}

pub(super) fn multiple_choice(args: MultipleChoiceArgs) -> Result<()> {
    let session = args.shared.open()?;
    let tokenizer = tokenizer_of(&session.policy)?;
    let context = session.policy.config.max_position_embeddings;
    let rows = read_field_rows(&session.files, session.limit(), &FIELDS)?;
    let question = |row| Question::new(row, tokenizer, context);
    let questions: Vec<Question> = rows.iter().map(question).collect::<Result<_>>()?;
    let num_cut = questions.iter().filter(|question| question.is_cut).count();
    session.warn_of_cut_prompts(num_cut, &format!("the model's context of {context} tokens, with a choice"));
    let mut store = session.row_store::<ChoiceRow>("multiple-choice", json!({}))?;
    if store.len() < questions.len() {
        let scoring = Scoring {
            batch_size: session.batch_size(),
            num_tokens_multiple: session.num_tokens_multiple(),
            console: &session.console,
        };
        score_choices(&session.load()?, &questions, &scoring, &mut store)?;
    }
    session.finish(&store, &report(&store.rows()))
}
