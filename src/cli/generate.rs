//! `gsil generate`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{ModelArgs, print_json, print_line};
use crate::config::WeightFormat;
use crate::data::data_folder::{Split, files_of};
use crate::data::examples::{FileRows, PromptIds, prepare_prompts};
use crate::data::rows::{Columns, Prompt, Row};
use crate::data::tokenizer::Tokenizer;
use crate::device;
use crate::error::{Error, Result};
use crate::generate::sampler::{Sampling, answer_seed};
use crate::generate::{Decoding, Event, Generator, Request, Response, in_order};
use crate::policy::{Policy, Wanted, say_unread_of_prompts};
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
    let model = policy.load(&device, &console)?;
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
    let mut printer = Printer::new(&args, policy.tokenizer.as_ref(), &prompts, &console);
    let mut generator = Generator::new(&model, WeightFormat::F32)?;
    let mut bar = console.bar("generating", requests.len() as u64, Unit::Count("responses"));
    let mut first = 0;
    for group in in_order(&model, &requests, args.batch_size) {
        generator.answer(group, &decoding, &mut |event| {
            let Event::Done(i, response) = event else { return Ok(()) };
            bar.advance(1);
            printer.take(first + i, response)
        })?;
        first += group.len();
    }
    drop(bar);
    printer.warn_of_cut();
    Ok(())
}

/// Prints answers in the order of the prompts, in whatever order they come.
struct Printer<'a> {
    args: &'a GenerateArgs,
    tokenizer: Option<&'a Tokenizer>,
    prompts: &'a [(Prompt, PromptIds)],
    console: &'a Console,
    /// Answers that came before those of earlier prompts.
    waiting: BTreeMap<usize, Response>,
    num_printed: usize,
    cut: Cut,
}

impl<'a> Printer<'a> {
    fn new(
        args: &'a GenerateArgs,
        tokenizer: Option<&'a Tokenizer>,
        prompts: &'a [(Prompt, PromptIds)],
        console: &'a Console,
    ) -> Self {
        Printer { args, tokenizer, prompts, console, waiting: BTreeMap::new(), num_printed: 0, cut: Cut::default() }
    }

    /// Prints the answer to the prompt with this place among the prompts, once those before it are printed.
    fn take(&mut self, place: usize, response: Response) -> Result<()> {
        self.waiting.insert(place, response);
        while let Some(response) = self.waiting.remove(&self.num_printed) {
            self.print(&response)?;
            self.num_printed += 1;
        }
        Ok(())
    }

    fn print(&mut self, response: &Response) -> Result<()> {
        let (prompt, PromptIds { index, .. }) = &self.prompts[self.num_printed];
        let text = self.tokenizer.map(|tokenizer| tokenizer.decode(&response.token_ids)).transpose()?;
        let Response { token_ids, finished, .. } = response;
        if self.args.source.prompt.is_none() {
            let (index, log_prob, finished) = (*index, response.log_prob(), *finished);
            self.cut.count(response, self.args.max_new_tokens);
            return print_json(&GeneratedRow { index, prompt, response: text, token_ids, finished, log_prob });
        }
        print_line(&text.unwrap_or_default())?;
        if !finished {
            self.console.say(cut(token_ids.len(), self.args.max_new_tokens));
        }
        Ok(())
    }

    fn warn_of_cut(&self) {
        if let Some(warning) = self.cut.warning(self.num_printed) {
            self.console.warn(warning);
        }
    }
}

/// Rows of output whose answers were cut.
#[derive(Default)]
struct Cut {
    num_rows: usize,
    /// Of them, those that --max-new-tokens cut, not the model's context.
    num_at_limit: usize,
}

impl Cut {
    fn count(&mut self, response: &Response, max_new_tokens: usize) {
        if !response.finished {
            self.num_rows += 1;
            self.num_at_limit += usize::from(response.token_ids.len() >= max_new_tokens);
        }
    }

    /// What is said of them, for training would take them as whole; None if there are none.
    fn warning(&self, num_all: usize) -> Option<String> {
        let (were, them) = if self.num_rows == 1 { ("was", "it") } else { ("were", "them") };
        let raise = if self.num_at_limit > 0 { "raise --max-new-tokens, or " } else { "" };
        (self.num_rows > 0).then(|| {
            format!(
                "{} of {num_all} responses {were} cut (`finished` is false): {raise}leave {them} out before the rest is \
                 trained on",
                self.num_rows
            )
        })
    }
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
        (Some(text), _) if text == "-" => {
            return Err(Error::usage("--prompt is the text itself, not a place to read it from")
                .with_hint("a prompt out of a pipe: --prompt \"$(cat)\""));
        }
        (Some(text), _) => {
            if Path::new(text).is_file() {
                console.warn(format!("the prompt is the text `{text}`, not what the file of this name holds"));
            }
            let prompt = Prompt::Text(text.clone());
            let (demonstration, self_generated, lone, unread) = (None, None, None, Vec::new());
            let rows = vec![Row { line: 1, shape: "prompt", prompt, demonstration, self_generated, lone, unread }];
            vec![FileRows { path: PathBuf::from("--prompt"), rows }]
        }
        (None, Some(path)) => wanted.read(&files_of(&path, Split::Train)?, console)?,
        (None, None) => return Err(Error::usage("give --prompt or --data")),
    };
    say_unread_of_prompts(&files, console);
    let longest = policy.config.max_position_embeddings - 1;
    let mut prompts: Vec<(Prompt, PromptIds)> = Vec::new();
    for FileRows { path, rows } in &files {
        let first = prompts.len();
        let own = prepare_prompts(rows, policy.tokenizer.as_ref(), policy.config.vocab_size, longest, path)?;
        let own = own.into_iter().map(|ids| PromptIds { index: first + ids.index, ..ids });
        prompts.extend(rows.iter().map(|row| row.prompt.clone()).zip(own));
    }
    policy.say_unknown(&files, prompts.iter().map(|(_, prompt)| [&prompt.prompt_ids[..]]), console);
    Ok(prompts)
}

fn check_ranges(args: &GenerateArgs) -> Result<()> {
    let GenerateArgs { temperature, top_p, max_new_tokens, batch_size, .. } = args;
    check_temperature(*temperature)?;
    if !(*top_p > 0.0 && *top_p <= 1.0) {
        return Err(Error::usage(format!("--top-p {top_p}: expected more than 0, at most 1")));
    }
    check_at_least_one("--max-new-tokens", *max_new_tokens)?;
    check_at_least_one("--batch-size", *batch_size)
}

/// A number of which 0 makes no answer.
pub(super) fn check_at_least_one(flag: &str, value: usize) -> Result<()> {
    match value {
        0 => Err(Error::usage(format!("{flag} 0: expected 1 or more"))),
        _ => Ok(()),
    }
}

/// A temperature that sampling can use.
pub(super) fn check_temperature(temperature: f64) -> Result<()> {
    match temperature.is_finite() && temperature >= 0.0 {
        true => Ok(()),
        false => Err(Error::usage(format!("--temperature {temperature}: expected 0 or more"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_were_cut_are_told_what_helps_against_it() {
        let said = |lens_of_cut: &[usize]| {
            let mut cut = Cut::default();
            let response =
                |len: usize, finished| Response { token_ids: vec![5; len], token_log_probs: vec![-1.0; len], finished };
            cut.count(&response(8, true), 8);
            lens_of_cut.iter().for_each(|len| cut.count(&response(*len, false), 8));
            cut.warning(9)
        };
        assert_eq!(said(&[]), None);
        let advice = "raise --max-new-tokens, or leave them out before the rest is trained on";
        assert_eq!(said(&[8, 3]).unwrap(), format!("2 of 9 responses were cut (`finished` is false): {advice}"));
        let of_full_context =
            "1 of 9 responses was cut (`finished` is false): leave it out before the rest is trained on";
        assert_eq!(said(&[3]).unwrap(), of_full_context);
    }
}
