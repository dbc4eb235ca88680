//! `README.md` of an export: what the model is made of, by which method, with which figures. Only what the run folder tells;
//! what it cannot know (licences) is left to the user, and said so.

use std::path::Path;

use super::Target;
use super::source::{Run, Source};
use crate::cli::train::results;
use crate::config::{RunConfig, TrainConfig};
use crate::data::data_folder::{Split, files_of};
use crate::error::Result;
use crate::formats::hub;
use crate::formats::quantize::Precision;
use crate::model::ModelConfig;
use crate::policy::Wanted;
use crate::records::run_folder::{STARTS_FOLDER, comparison_of};
use crate::records::self_generation::iteration_folder;
use crate::records::stage::{CONTINUED_SFT, Stage};
use crate::report::console::Console;
use crate::report::{objective, samples};
use crate::train::checkpoint::{Progress, Saved};
use crate::train::self_generation::{DEMONSTRATIONS_FILE, DemonstrationRow};

const PAPER: &str = "[Xiao et al., EMNLP 2024](https://arxiv.org/abs/2410.10093)";

/// What a card is about.
pub(super) struct ModelCard<'a> {
    pub source: &'a Source,
    pub target: &'a Target,
    /// What the Hugging Face hub calls the program that reads it.
    pub library: &'static str,
}

impl ModelCard<'_> {
    /// The text, in the hub's format.
    ///
    /// # Errors
    /// A run folder that does not read.
    pub fn text(&self, model: &ModelConfig) -> Result<String> {
        let library = self.library;
        let tensors = match self.target.precision {
            Precision::F32 => "float32",
            Precision::F16 => "float16",
            Precision::BF16 => "bfloat16",
            Precision::Q8_0 => "Q8_0 (8 bits a value, a scale for each 32); vectors float32",
        };
        let size = format!(
            "{} layers, hidden size {}, {} tokens, {} parameters",
            model.num_hidden_layers,
            model.hidden_size,
            model.vocab_size,
            model.num_parameters()
        );
        let body = match self.source.as_run() {
            Some(run) => of_run(run, &size, tensors)?,
            None => of_model(&self.source.name, &size, tensors),
        };
        let base = match self.source.as_run() {
            Some(run) => run.config.model.as_deref(),
            None => Some(self.source.name.as_str()),
        };
        let base = base.map(hub::address).transpose()?.flatten();
        let base = base.map_or(String::new(), |base| format!("base_model: {}\n", base.repository));
        Ok(format!(
            "---\nlibrary_name: {library}\npipeline_tag: text-generation\n{base}license: # fill in\ntags:\n- gsil\n---\n\n\
             # {}\n\n{body}\n## Licence\n\nNot recorded. It follows from the licences of the base model and of the data: \
             fill in `license` above.\n",
            self.target.title
        ))
    }
}

fn of_model(name: &str, size: &str, tensors: &str) -> String {
    format!(
        "`{}` in another format, written by gsil {}. Nothing was trained.\n\n{size}; {tensors} tensors.\n",
        public_name(name),
        env!("CARGO_PKG_VERSION")
    )
}

fn of_run(run: &Run, size: &str, tensors: &str) -> Result<String> {
    let config = &run.config;
    let base = config.model.as_deref().map_or_else(|| "none".into(), public_name);
    let base = match config.word_problems {
        Some(_) => "random weights, made by the run itself".to_owned(),
        None if is_start(config) => "the start of a comparison, trained by its supervised stage".to_owned(),
        None => format!("`{base}`"),
    };
    let rows = [
        ("base model", base),
        ("size", size.to_owned()),
        ("tensors", tensors.to_owned()),
        ("data", data(run)?),
        ("trained", trained(config)),
    ];
    let sft = config.sft.as_ref().map_or_else(|| "none".into(), stage);
    let stages = match objective(config) {
        None => vec![("supervised training", sft)],
        Some(objective) => vec![
            ("supervised stage before", sft),
            ("objective", objective),
            ("iterations", format!("{}; in each: {}{}", config.iterations, stage(&config.train), samples(config))),
        ],
    };
    let checkpoint = run.checkpoint.iter().map(|saved| ("checkpoint", checkpoint(saved, config)));
    let rows = rows.into_iter().chain(checkpoint).chain(stages).chain([("seed", config.seed.to_string())]);
    let table: String = rows.map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    let method = method(run);
    Ok(format!(
        "{method}, with gsil {}.\n\n| | |\n|---|---|\n{table}\n## Metrics\n\n{}\n## Limits\n\n{}\n",
        env!("CARGO_PKG_VERSION"),
        metrics(run),
        limits(run)
    ))
}

/// Whether a run began with the model that a comparison made for its cells.
fn is_start(config: &RunConfig) -> bool {
    let start = config.model.as_deref().and_then(|model| Path::new(model).parent());
    start.is_some_and(|start| comparison_of(start).is_some_and(|folder| start.starts_with(folder.join(STARTS_FOLDER))))
}

/// What the model went through; at a checkpoint that may be less than the run did.
fn method(run: &Run) -> String {
    let (config, objective) = (&run.config, run.config.objective.name);
    let is_before_iterations =
        |at: &Progress| matches!((at.stage, at.stage_steps), (Stage::Sft, _) | (Stage::Iteration(0), 0));
    let is_supervised = |at: &Progress| is_before_iterations(at) || at.is_of_comparison(config.compares_sft());
    match run.checkpoint.as_ref().map(|saved| &saved.progress) {
        Some(at) if at.total_steps == 0 => "What a run began with: nothing was trained yet".to_owned(),
        Some(at) if is_supervised(at) => "Trained on demonstrations by supervised fine-tuning".to_owned(),
        _ if config.iterations == 0 => "Trained on demonstrations by supervised fine-tuning".to_owned(),
        _ if objective.is_density_ratio() => {
            format!("Aligned with demonstrations by generalized self-imitation learning (GSIL, {PAPER})")
        }
        _ => format!("Trained on demonstrations with the objective `{objective}`"),
    }
}

/// Names on the hub, and file names alone: a published card should not tell of somebody's folders.
fn public_name(given: &str) -> String {
    if let Ok(Some(address)) = hub::address(given) {
        return address.to_string();
    }
    Path::new(given).file_name().map_or_else(|| given.to_owned(), |name| name.to_string_lossy().into_owned())
}

fn data(run: &Run) -> Result<String> {
    let Some(given) = run.config.data.as_deref() else { return Ok("none".into()) };
    let scored: Vec<DemonstrationRow> =
        run.dir.read_lines(&format!("{}/{DEMONSTRATIONS_FILE}", iteration_folder(0)))?;
    let count = match scored.len() {
        // Rows of a hub's data set are counted only if they are here.
        0 => hub::data_set(given, true, &Console::stderr())
            .and_then(|data| num_rows(&data.path, &run.config))
            .map_or_else(|_| "rows not counted".into(), |count| format!("{count} rows")),
        count => format!("{count} demonstrations"),
    };
    Ok(format!("`{}`, {count}", public_name(given)))
}

fn num_rows(path: &Path, config: &RunConfig) -> Result<usize> {
    let files = Wanted::new(config, config.max_rows).read(&files_of(path, Split::Train)?, &Console::stderr())?;
    Ok(files.iter().map(|file| file.rows.len()).sum())
}

fn trained(config: &RunConfig) -> String {
    config.lora.as_ref().map_or_else(
        || "all weights".into(),
        |lora| format!("an adapter: rank {}, alpha {}, on {}", lora.rank, lora.alpha, lora.target_modules.join(", ")),
    )
}

fn checkpoint(saved: &Saved, config: &RunConfig) -> String {
    let name = saved.folder.file_name().unwrap_or_default().to_string_lossy();
    let whose = saved.progress.whose(config.compares_sft());
    format!("`{name}`, {whose}at update {}; the stages are those of the whole run", saved.progress.total_steps)
}

fn stage(train: &TrainConfig) -> String {
    let TrainConfig { epochs, num_steps, batch_size, lr, .. } = train;
    let length = num_steps.map_or_else(|| format!("epochs {epochs}"), |num_steps| format!("updates {num_steps}"));
    format!("{length}, batch size {batch_size}, learning rate {:e}", lr.unwrap_or_default())
}

fn metrics(run: &Run) -> String {
    let Some(table) = results(&run.evaluations) else { return "None were recorded.\n".into() };
    let note = match &run.checkpoint {
        Some(saved) if saved.progress.held_out_log_prob.is_some() => "\nThe last row is this checkpoint.\n",
        Some(_) => "\nThis checkpoint itself was not evaluated: the figures are those of the run up to it.\n",
        None if run.evaluations.last().is_some_and(|row| row.stage == CONTINUED_SFT) => {
            &format!("\n`{CONTINUED_SFT}` is another model, trained for comparison; this model is the row before it.\n")
        }
        None => "",
    };
    format!("```text\n{table}\n```\n{note}")
}

fn limits(run: &Run) -> String {
    let judged = run.evaluations.last().map(|row| &row.evaluation);
    let judged = match judged {
        Some(evaluation) if evaluation.held_out => {
            format!("Judged on {} held-out rows of one task and on nothing else.", evaluation.num_rows)
        }
        Some(evaluation) => format!("Judged on {} of its own training rows: no held-out figures.", evaluation.num_rows),
        None => "Not evaluated.".into(),
    };
    format!(
        "{judged} It was trained to imitate demonstrations; what they and the base model get wrong, it may get wrong."
    )
}
