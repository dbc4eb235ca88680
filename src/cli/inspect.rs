//! `gsil inspect data`: what training will make of a data file.

mod page;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::hub::HubArgs;
use super::keys::Keys;
use super::{RowArgs, print_line, print_text};
use crate::config::RunConfig;
use crate::data::data_folder::{Split, files_of};
use crate::data::inspection::Inspection;
use crate::data::rows::Row;
use crate::error::{Error, Result};
use crate::policy::{Policy, Wanted};
use crate::report::console::{Console, stdout_has_colours};

pub(super) const KEYS: Keys = Keys {
    verb: "inspect data",
    // The last one changes nothing here, and stands beside train.max_length in a training's command.
    read: &[
        "train.max_length",
        "max_rows",
        "skip_bad_rows",
        "prompt_column",
        "response_column",
        "generation.max_new_tokens",
    ],
    elsewhere: &[("model", "--model"), ("data", "DATA, the first word"), ("offline", "--offline")],
};
const EXAMPLES: &str = "Examples:
  gsil inspect data train.jsonl --model SmolLM2
  gsil inspect data train.jsonl --model SmolLM2 --rows 0 train.max_length=512";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InspectArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How rows are read, which tokens are learnt, what is left out, what looks wrong.
    Data(DataArgs),
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct DataArgs {
    /// A file (.jsonl, .json, .csv, .tsv, .parquet), or a folder with a train file.
    data: PathBuf,
    /// The model whose tokenizer and chat template are used: a Hugging Face folder, a .gguf file, or one of the hub.
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    rows: RowArgs,
    #[command(flatten)]
    hub: HubArgs,
    /// So many rows are shown as training sees them.
    #[arg(long = "rows", value_name = "N", default_value_t = 3)]
    num_shown: usize,
    /// The same facts as one JSON object.
    #[arg(long)]
    json: bool,
    /// `train.max_length=512` and `max_rows=100` of the configuration, and its keys about rows.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// What is printed.
#[derive(Serialize)]
struct Facts {
    files: Vec<String>,
    model: String,
    /// The shapes that were recognised, with how many rows have each.
    shapes: Vec<ShapeCount>,
    #[serde(flatten)]
    inspection: Inspection,
}

#[derive(Serialize)]
struct ShapeCount {
    shape: &'static str,
    count: usize,
}

pub(super) fn inspect(args: InspectArgs) -> Result<()> {
    let What::Data(args) = args.what;
    let facts = facts(&args)?;
    if args.json {
        let json = serde_json::to_string_pretty(&facts).map_err(|e| Error::usage(format!("cannot encode: {e}")))?;
        return print_line(&json);
    }
    print_text(&page::page(&facts, stdout_has_colours()))
}

fn facts(args: &DataArgs) -> Result<Facts> {
    let mut base = RunConfig::default();
    base.generation.max_new_tokens = 1; // nothing is generated here: any train.max_length will do
    let config = args.rows.over(KEYS.changed(base, &args.overrides)?)?;
    let policy = Policy::open(&args.hub.model(&args.model)?)?;
    let wanted = Wanted::new(&config, config.max_rows);
    let files = files_of(&args.hub.data(&args.data)?, Split::Train)?;
    let rows = wanted.read(&files, &Console::stderr())?;
    let mut shapes: Vec<ShapeCount> = Vec::new();
    for Row { shape, .. } in rows.iter().flat_map(|file| &file.rows) {
        match shapes.iter_mut().find(|known| known.shape == *shape) {
            Some(known) => known.count += 1,
            None => shapes.push(ShapeCount { shape, count: 1 }),
        }
    }
    let preparation = policy.preparation(config.train.max_length);
    Ok(Facts {
        files: rows.iter().map(|file| file.path.display().to_string()).collect(),
        model: args.model.display().to_string(),
        shapes,
        inspection: Inspection::new(preparation, &policy.eos_token_ids, &rows, args.num_shown)?,
    })
}
