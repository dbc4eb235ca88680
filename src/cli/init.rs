//! `gsil init`: a configuration to begin with, fitted to a model and its data, every line with its reason.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::hub::HubArgs;
use super::{RowArgs, checked, print_line};
use crate::config::{RunConfig, TrainConfig};
use crate::data::check_second_responses;
use crate::data::data_folder::{DataFolder, Split, files_of};
use crate::data::examples::Example;
use crate::error::{Error, Result};
use crate::eval::answer::strict_answer;
use crate::eval::gsm8k::MARKER;
use crate::policy::{Policy, Wanted, say_unread};
use crate::report::console::{Console, Unit};
use crate::report::shell::shell_path;

/// Above it all weights and their moments want more memory than most laptops have.
const MAX_PARAMETERS_IN_FULL: usize = 300_000_000;
/// Before it has learnt the form of short demonstrations, a model writes more.
const LEAST_NEW_TOKENS: usize = 64;
/// Longer rows are rare, and cost memory that all others do without.
const LONGEST_MAX_LENGTH: usize = 1024;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil init --model SmolLM2 --data train.jsonl --output first.ron
  gsil init --output empty.ron            # without model and data: to fill in")]
pub(super) struct InitArgs {
    /// The model to start from: a Hugging Face folder, a .gguf file, or one of the hub (owner/name).
    #[arg(long)]
    model: Option<PathBuf>,
    /// Demonstrations: a file, a folder with a train file, or a data set of the hub.
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    rows: RowArgs,
    #[command(flatten)]
    hub: HubArgs,
    /// The file to write. Nothing is overwritten.
    #[arg(long, default_value = "gsil.ron")]
    output: PathBuf,
}

/// What is known of model and data, in tokens.
#[derive(Debug, Default)]
struct Measured {
    num_parameters: usize,
    context: usize,
    num_rows: usize,
    /// The longest row: its prompt with the longer response.
    longest: usize,
    longest_prompt: usize,
    longest_response: usize,
    mean_response: f64,
    /// There is a file of held-out rows beside the data.
    has_held_out: bool,
    /// Most responses have a number behind GSM8K's [`MARKER`].
    has_marked_answers: bool,
}

pub(super) fn init(args: InitArgs) -> Result<()> {
    let console = Console::stderr();
    if args.output.exists() {
        return Err(exists_already(&args.output)); // reading the data may take long
    }
    let measured = measure(&args, &console)?;
    let text = configuration(&args, measured.as_ref());
    checked(RunConfig::from_ron(&text, &args.output.to_string_lossy())?)?;
    let mut file = OpenOptions::new().write(true).create_new(true).open(&args.output).map_err(|error| {
        match error.kind() == std::io::ErrorKind::AlreadyExists {
            true => exists_already(&args.output),
            false => Error::writing("create", &args.output)(error),
        }
    })?;
    file.write_all(text.as_bytes()).map_err(Error::writing("write", &args.output))?;
    console.say(format!("look it over, then: gsil train --config {}", shell_path(&args.output)));
    print_line(&args.output.display().to_string())
}

fn exists_already(output: &Path) -> Error {
    Error::usage(format!("{} exists already", output.display()))
        .with_hint("nothing is overwritten: choose another --output")
}

/// None unless both model and data are given.
fn measure(args: &InitArgs, console: &Console) -> Result<Option<Measured>> {
    let (Some(model), Some(data)) = (&args.model, &args.data) else { return Ok(None) };
    let policy = Policy::open(&args.hub.model(model)?)?;
    let config = args.rows.over(RunConfig::default())?;
    let data = args.hub.data(data)?;
    let rows = Wanted::new(&config, None).read(&files_of(&data, Split::Train)?, console)?;
    say_unread(&rows, console);
    let num_rows: usize = rows.iter().map(|file| file.rows.len()).sum();
    let mut bar = console.bar("tokenizing", num_rows as u64, Unit::Count("rows"));
    let (examples, dropped) = policy.preparation(usize::MAX).examples(&rows, &mut |count| bar.advance(count))?;
    drop(bar);
    if dropped.total() > 0 {
        console.warn(dropped.to_string());
    }
    let ids = examples.iter().map(|example| [&example.prompt_ids[..], &example.demonstration_ids]);
    policy.say_unknown(&rows, ids, console);
    // Training leaves the longer ones out before it looks.
    check_second_responses(&rows, examples.iter().filter(|example| example.longest() <= LONGEST_MAX_LENGTH))?;
    let responses = || examples.iter().map(|example| example.demonstration_ids.len());
    let texts = || examples.iter().filter_map(|example| example.demonstration_text.as_deref());
    let num_marked = texts().filter(|text| strict_answer(text, MARKER).is_some()).count();
    Ok(Some(Measured {
        num_parameters: policy.config.num_parameters(),
        context: policy.config.max_position_embeddings,
        num_rows: examples.len(),
        longest: examples.iter().map(Example::longest).max().unwrap_or(0),
        longest_prompt: examples.iter().map(|example| example.prompt_ids.len()).max().unwrap_or(0),
        longest_response: responses().max().unwrap_or(0),
        mean_response: responses().sum::<usize>() as f64 / examples.len().max(1) as f64,
        has_held_out: data.is_dir() && DataFolder::open(&data)?.files.contains_key(&Split::Validation),
        has_marked_answers: num_marked > examples.len() / 2,
    }))
}

/// The file's text.
fn configuration(args: &InitArgs, measured: Option<&Measured>) -> String {
    let named = |key: &str, path: &Option<PathBuf>, what: &str| match path {
        Some(path) => format!("    {key}: {},\n", quoted(path)),
        None => format!("    // {key}: \"..\", // {what}\n"),
    };
    let mut text = format!(
        "// A first configuration. To run it:\n//\n//     gsil train --config {}\n//\n\
         // What is not here has its default: add --dry-run to see every key in use, lora.rank=8 --dry-run to see\n\
         // those of lora, too. `gsil inspect data` shows how the rows are read.\n(\n",
        shell_path(&args.output)
    );
    text += &named("model", &args.model, "the model to start from");
    text += &named("data", &args.data, "demonstrations: JSONL, CSV or Parquet, or a folder with train and valid files");
    for (key, column) in [("prompt_column", &args.rows.prompt_column), ("response_column", &args.rows.response_column)]
    {
        if let Some(column) = column {
            text += &format!("    {key}: {},\n", quoted(Path::new(column)));
        }
    }
    text +=
        &format!("    skip_bad_rows: {}, // true: damaged lines are counted and left out\n", args.rows.skip_bad_rows);
    let choices = Choices::of(measured);
    text += "    iterations: 1, // of answering and learning: another one costs as much again\n";
    text += &supervised(&choices);
    text += "    save_every: 50, // updates; a crash loses no more\n";
    text += "    keep_last: 3, // checkpoints\n";
    text += match measured {
        Some(Measured { has_held_out: true, .. }) => "    keep_best: 1, // and the best by held-out log-prob\n",
        _ => "    // keep_best: 1, // and the best by log-prob; of training rows, without evaluation.data\n",
    };
    text += &sections(&choices);
    text + ")\n"
}

/// A text of RON.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}

/// The values that depend on model and data, each with its reason.
#[derive(Debug)]
struct Choices {
    lora: bool,
    parameters: String,
    scale: f64,
    scale_reason: String,
    max_length: usize,
    length_reason: String,
    max_new_tokens: usize,
    response_reason: String,
    batch_size: usize,
    micro_batch_size: usize,
    has_marked_answers: bool,
}

impl Choices {
    fn of(measured: Option<&Measured>) -> Self {
        let Some(measured) = measured else { return Self::unmeasured() };
        let room = measured.context.min(LONGEST_MAX_LENGTH);
        let wanted = (measured.longest_response + measured.longest_response / 4).next_multiple_of(8);
        let wanted = wanted.max(LEAST_NEW_TOKENS);
        let with_an_answer = measured.longest_prompt + wanted;
        let max_length = measured.longest.max(with_an_answer).next_multiple_of(32).min(room);
        let fits = with_an_answer <= max_length;
        let response_reason = match (fits, wanted) {
            (false, _) => {
                format!("at most three quarters of max_length; the longest response has {}", measured.longest_response)
            }
            (true, LEAST_NEW_TOKENS) => {
                format!(
                    "the longest response has {}; before it has learnt, a model writes more",
                    measured.longest_response
                )
            }
            (true, _) => format!("a quarter more than the longest response, {}", measured.longest_response),
        };
        let length_reason = match measured.longest > max_length {
            true => format!("tokens; the longest row has {}: longer ones are left out", measured.longest),
            false => format!(
                "tokens; the longest row has {}, the longest prompt with an answer {with_an_answer}",
                measured.longest
            ),
        };
        Choices {
            lora: measured.num_parameters > MAX_PARAMETERS_IN_FULL,
            parameters: format!("{:.0} million parameters", measured.num_parameters as f64 / 1e6),
            scale: two_digits((20.0 / measured.mean_response.max(1.0)).clamp(0.01, 1.0)),
            scale_reason: format!(
                "20 divided by the mean length of responses, {:.0} tokens; at most 1",
                measured.mean_response
            ),
            max_length,
            length_reason,
            max_new_tokens: if fits { wanted } else { wanted.min(max_length - max_length / 4) },
            response_reason,
            batch_size: (measured.num_rows / 8).clamp(1, 8),
            micro_batch_size: if max_length <= 512 { 2 } else { 1 }.min((measured.num_rows / 8).clamp(1, 8)),
            has_marked_answers: measured.has_marked_answers,
        }
    }

    fn unmeasured() -> Self {
        let TrainConfig { batch_size, micro_batch_size, max_length, .. } = TrainConfig::default();
        Choices {
            lora: false,
            parameters: "many parameters".to_owned(),
            scale: 1.0,
            scale_reason: "20 divided by the mean length of responses in tokens; at most 1".to_owned(),
            max_length,
            length_reason: "tokens; longer rows are left out".to_owned(),
            max_new_tokens: 256,
            response_reason: "a little more than the longest response".to_owned(),
            batch_size,
            micro_batch_size,
            has_marked_answers: false,
        }
    }
}

fn two_digits(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The supervised stage, to be switched on: fitted like `train`, of which it reads nothing but the length.
fn supervised(choices: &Choices) -> String {
    let Choices { batch_size, micro_batch_size, .. } = choices;
    format!(
        "    // Supervised training before them; alone, with iterations: 0, it is the better beginning. Of `train` below only
    // max_length holds for it, too: its lr, batch_size, activation_checkpointing and all others are its own.
    // sft: (epochs: 3, batch_size: {batch_size}, micro_batch_size: {micro_batch_size}),\n"
    )
}

fn sections(choices: &Choices) -> String {
    let Choices { scale, scale_reason, max_length, length_reason, max_new_tokens, response_reason, .. } = choices;
    let Choices { batch_size, micro_batch_size, parameters, .. } = choices;
    let lora = match choices.lora {
        true => format!("    lora: (rank: 8, alpha: 16), // an adapter: {parameters} are many for a laptop\n"),
        false => {
            "    // lora: (rank: 8, alpha: 16), // an adapter instead of all weights: far less memory\n".to_owned()
        }
    };
    let (full, adapter) = (TrainConfig::DEFAULT_LR, TrainConfig::DEFAULT_LORA_LR);
    format!(
        "{lora}    objective: (
        name: bernoulli, // the loss
        scale: {scale:?}, // {scale_reason}
    ),
    generation: (
        max_new_tokens: {max_new_tokens}, // {response_reason}
        batch_size: 16, // prompts answered side by side
    ),
    train: (
        // lr: {lr:e}, // left out: {full:e} for all weights, {adapter:e} for an adapter
        epochs: 1, // more, and the answers are no longer the policy's own
        batch_size: {batch_size}, // pairs an update
        micro_batch_size: {micro_batch_size}, // pairs at once: lower it if memory runs out
        activation_checkpointing: false, // true: far less memory, {checkpointing_cost}
        max_length: {max_length}, // {length_reason}
    ),
    evaluation: (
        // data: \"..\", // held-out demonstrations; a folder's valid file is taken by itself
        max_rows: 200,
        generate_rows: 50, // held-out rows that are answered
        {compared}answer_marker: \"{MARKER}\", // what stands before an answer's number: then answers are compared
    ),
",
        checkpointing_cost = if choices.lora { "half as much time again" } else { "a third more time" },
        compared = if choices.has_marked_answers { "" } else { "// " },
        lr = if choices.lora { adapter } else { full },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoraConfig;

    fn choices(longest: usize, longest_response: usize, context: usize, num_rows: usize) -> Choices {
        let mean_response = longest_response as f64 / 2.0;
        let num_parameters = 135_000_000;
        let longest_prompt = longest - longest_response;
        let lengths = Measured { longest, longest_prompt, longest_response, mean_response, ..Measured::default() };
        Choices::of(Some(&Measured { num_parameters, context, num_rows, ..lengths }))
    }

    #[test]
    fn lengths_hold_every_row_within_the_models_context_and_leave_room_for_a_prompt() {
        for (longest, response, context) in
            [(90, 40, 8192), (5000, 4000, 8192), (600, 590, 512), (2, 1, 8192), (20, 18, 24)]
        {
            let choices = choices(longest, response, context, 100);
            assert!(choices.max_length <= context.min(LONGEST_MAX_LENGTH), "{choices:?}");
            assert!(choices.max_length >= longest.min(context).min(LONGEST_MAX_LENGTH), "{choices:?}");
            assert!((1..choices.max_length).contains(&choices.max_new_tokens), "{choices:?}");
        }
        let lengths = |longest, response, context| {
            let Choices { max_length, max_new_tokens, .. } = choices(longest, response, context, 100);
            (max_length, max_new_tokens)
        };
        assert_eq!(lengths(90, 40, 8192), (128, 64), "a prompt of 50 and an answer of 64");
        assert_eq!(lengths(500, 400, 8192), (608, 504), "a prompt of 100 and an answer of 504");
        assert_eq!(lengths(15, 8, 8192), (96, 64), "short answers come from models that write more");
        assert_eq!(lengths(20, 18, 24), (24, 18), "no more than the context");
    }

    #[test]
    fn the_scale_follows_the_length_of_responses() {
        let scale = |response: usize| choices(2 * response, response, 8192, 100).scale;
        assert_eq!([scale(20), scale(400), scale(20_000)], [1.0, 0.1, 0.01]);
    }

    #[test]
    fn few_rows_make_small_batches_and_a_large_model_an_adapter() {
        assert_eq!([3, 30, 1000].map(|num_rows| choices(90, 40, 8192, num_rows).batch_size), [1, 3, 8]);
        let large = Measured { num_parameters: 1_500_000_000, context: 4096, num_rows: 100, ..Measured::default() };
        assert!(Choices::of(Some(&large)).lora && !choices(90, 40, 8192, 100).lora);
    }

    #[test]
    fn the_rate_follows_what_is_trained_when_the_line_of_the_adapter_is_changed() {
        let large = Measured { num_parameters: 1_500_000_000, context: 4096, num_rows: 100, ..Measured::default() };
        for choices in [Choices::of(Some(&large)), choices(90, 40, 8192, 100)] {
            let mut config = RunConfig::from_ron(&format!("(\n{})", sections(&choices)), "gsil.ron").unwrap();
            assert_eq!(config.lora.is_some(), choices.lora);
            config.lora = if choices.lora { None } else { Some(LoraConfig::default()) };
            config.resolve();
            let of_the_other = if choices.lora { TrainConfig::DEFAULT_LR } else { TrainConfig::DEFAULT_LORA_LR };
            assert_eq!(config.train.lr, Some(of_the_other));
        }
    }
}
