//! `gsil generate`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::Module;
use clap::Args;
use serde::Serialize;

use super::{ModelArgs, print_json, print_line};
use crate::data::data_folder::{Split, files_of};
use crate::data::examples::{FileRows, PromptIds, prepare_prompts};
use crate::data::rows::{Columns, Prompt, Row};
use crate::device;
use crate::error::{Error, Result};
use crate::generate::sampler::{Sampling, answer_seed};
use crate::generate::{Decoding, Event, Request, Response, generate as decode};
use crate::policy::{Policy, Wanted};
use crate::report::console::{Console, Unit};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil generate --model SmolLM2 --prompt 'Why is the sky blue?'
  gsil generate --model runs/night --data test.jsonl > answers.jsonl")]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    source: Source,
    /// Count and report lines of data that are no rows, instead of stopping at the first.
    #[arg(long)]
    skip_bad_rows: bool,
    /// The column of the data that holds the prompt, if its name is not one of the known ones.
    #[arg(long, value_name = "NAME")]
    prompt_column: Option<String>,
    /// The column that holds the response: it must be there, and nothing else is asked of it.
    #[arg(long, value_name = "NAME", requires = "prompt_column")]
    response_column: Option<String>,
    /// Longest response, in tokens.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// 0 is greedy, 1 the model's own distribution.
    #[arg(long, allow_negative_numbers = true, default_value_t = 1.0)]
    temperature: f64,
    /// Only the N most likely tokens; 0 is off.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Only the most likely tokens that together have this mass; 1 is off.
    #[arg(long, allow_negative_numbers = true, default_value_t = 1.0)]
    top_p: f64,
    /// The same seed gives the same responses.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Prompts answered side by side.
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// One prompt; the response is printed as text.
    #[arg(long)]
    prompt: Option<String>,
    /// A file of prompts (.jsonl, .json, .csv, .tsv, .parquet), or a folder with a train file; one JSON line is printed for each row.
    #[arg(long)]
    data: Option<PathBuf>,
}

/// One line of output.
#[derive(Serialize)]
struct GeneratedRow<'a> {
    index: usize,
    /// As the data have it.
    prompt: &'a Prompt,
    /// None if the model has no tokenizer.
    response: Option<String>,
    token_ids: &'a [u32],
    finished: bool,
    log_prob: f64,
}

pub(super) fn generate(args: GenerateArgs) -> Result<()> {
    check_ranges(&args)?;
    let console = Console::stderr();
    let policy = args.model.open()?;
    let columns = args.prompt_column.clone().map(|prompt| Columns { prompt, response: args.response_column.clone() });
    let wanted = Wanted { max_rows: None, skip_bad_rows: args.skip_bad_rows, columns };
    let data = args.source.data.as_deref().map(|given| args.model.hub.data(given)).transpose()?;
    let prompts = prompts(&args.source.prompt, data, &wanted, &policy, &console)?;
    let device = device::open(&args.model.device)?;
    let model = policy.load(&device, &console)?.valid();
    let requests: Vec<Request> = prompts
        .iter()
        .map(|(_, PromptIds { index, prompt_ids })| Request {
            prompt_ids: prompt_ids.clone(),
            seed: answer_seed(args.seed, 0, *index, 0),
            max_new_tokens: None,
        })
        .collect();
    let decoding = Decoding {
        sampling: Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p },
        max_new_tokens: args.max_new_tokens,
        batch_size: args.batch_size,
        eos_token_ids: policy.eos_token_ids.clone(),
    };
    let mut bar = console.bar("generating", requests.len() as u64, Unit::Count("responses"));
    let mut waiting: BTreeMap<usize, Response> = BTreeMap::new(); // answers come out of order, lines go out in order
    let mut next = 0;
    decode(&model, &requests, &decoding, &mut |event| {
        let Event::Done(index, response) = event else { return Ok(()) };
        bar.advance(1);
        waiting.insert(index, response);
        while let Some(response) = waiting.remove(&next) {
            let (prompt, PromptIds { index, .. }) = &prompts[next];
            let text = policy.tokenizer.as_ref().map(|tokenizer| tokenizer.decode(&response.token_ids)).transpose()?;
            let Response { token_ids, finished, .. } = &response;
            if args.source.prompt.is_none() {
                let (index, log_prob, finished) = (*index, response.log_prob(), *finished);
                print_json(&GeneratedRow { index, prompt, response: text, token_ids, finished, log_prob })?;
            } else {
                print_line(&text.unwrap_or_default())?;
                if !finished {
                    console.say(cut(token_ids.len(), args.max_new_tokens));
                }
            }
            next += 1;
        }
        Ok(())
    })
}

/// Why an answer was cut, in words.
pub(super) fn cut(num_tokens: usize, max_new_tokens: usize) -> String {
    match num_tokens < max_new_tokens {
        true => "(cut here: the model's context is full)".to_owned(),
        false => format!("(cut after {max_new_tokens} tokens: --max-new-tokens)"),
    }
}

fn prompts(
    prompt: &Option<String>,
    data: Option<PathBuf>,
    wanted: &Wanted,
    policy: &Policy,
    console: &Console,
) -> Result<Vec<(Prompt, PromptIds)>> {
    let files = match (prompt, data) {
        (Some(text), _) => {
            let prompt = Prompt::Text(text.clone());
            let rows = vec![Row { line: 1, prompt, demonstration: None, self_generated: None, lone: None }];
            vec![FileRows { path: PathBuf::from("--prompt"), rows }]
        }
        (None, Some(path)) => wanted.read(&files_of(&path, Split::Train)?, console)?,
        (None, None) => return Err(Error::usage("give --prompt or --data")),
    };
    let longest = policy.config.max_position_embeddings - 1;
    let mut prompts: Vec<(Prompt, PromptIds)> = Vec::new();
    for FileRows { path, rows } in &files {
        let first = prompts.len();
        let own = prepare_prompts(rows, policy.tokenizer.as_ref(), policy.config.vocab_size, longest, path)?;
        let own = own.into_iter().map(|ids| PromptIds { index: first + ids.index, ..ids });
        prompts.extend(rows.iter().map(|row| row.prompt.clone()).zip(own));
    }
    Ok(prompts)
}

fn check_ranges(args: &GenerateArgs) -> Result<()> {
    let GenerateArgs { temperature, top_p, max_new_tokens, batch_size, .. } = args;
    check_temperature(*temperature)?;
    if !(*top_p > 0.0 && *top_p <= 1.0) {
        return Err(Error::usage(format!("--top-p {top_p}: expected more than 0, at most 1")));
    }
    if *max_new_tokens == 0 || *batch_size == 0 {
        return Err(Error::usage("--max-new-tokens and --batch-size must be at least 1"));
    }
    Ok(())
}

/// A temperature that sampling can use.
pub(super) fn check_temperature(temperature: f64) -> Result<()> {
    match temperature.is_finite() && temperature >= 0.0 {
        true => Ok(()),
        false => Err(Error::usage(format!("--temperature {temperature}: expected 0 or more"))),
    }
}
