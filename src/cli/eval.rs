//! `gsil eval`.

use std::path::PathBuf;

use burn::module::Module;
use clap::Args;

use super::{ModelArgs, RowArgs, config_for_rows, open_reference, print_line};
use crate::data::data_folder::{Split, files_of};
use crate::device;
use crate::error::{Error, Result};
use crate::eval::{evaluate, reference_rows};
use crate::policy::Wanted;
use crate::report::console::Console;
use crate::train::setup::evaluation_settings;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil eval --model SmolLM2 --data test.jsonl
  gsil eval --model runs/night --data test.jsonl evaluation.max_rows=50")]
pub(super) struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The model that the policy started from: adds implicit-reward accuracy.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Held-out demonstrations: a file (.jsonl, .json, .csv, .tsv, .parquet), or a folder with a valid file.
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    rows: RowArgs,
    /// Changes to the configuration: `evaluation.max_rows=50`, `evaluation.answer_marker="####"`, ..
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub(super) fn eval(args: EvalArgs) -> Result<()> {
    let config = config_for_rows(&args.overrides, &args.rows)?;
    let console = Console::stderr();
    let device_name = device::resolve_name(&args.model.device);
    let policy = args.model.open()?;
    let reference = args.reference.as_deref().map(|path| open_reference(path, &policy, &args.model.hub)).transpose()?;
    let wanted = Wanted::new(&config, Some(config.evaluation.max_rows));
    let files = files_of(&args.model.hub.data(&args.data)?, Split::Validation)?;
    let examples = policy.read_examples(&files, &wanted, usize::MAX, &console)?;
    let settings = evaluation_settings(&config, &policy, device_name);
    let device = device::open(device_name)?;
    let never = || Ok(());
    let reference = match reference {
        Some(reference) => {
            let model = reference.load(&device, &console)?.valid();
            let answered = &examples[..settings.generate_rows.min(examples.len())];
            Some(reference_rows(&model, answered, &settings, &console, &never)?)
        }
        None => None,
    };
    let model = policy.load(&device, &console)?.valid();
    let tokenizer = policy.tokenizer.as_ref();
    let judged = evaluate(&model, &examples, reference.as_deref(), tokenizer, &settings, &console, &never)?;
    let json =
        serde_json::to_string_pretty(&judged.evaluation).map_err(|e| Error::usage(format!("cannot encode: {e}")))?;
    print_line(&json)
}
