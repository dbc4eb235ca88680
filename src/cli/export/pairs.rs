//! `--format pairs`: what an iteration trained on, for a trainer elsewhere. One JSON line a pair.
//!
//! The keys are those of TRL's preference data: `prompt`, `chosen`, `rejected` as text, `prompt_ids`, `chosen_ids`,
//! `rejected_ids` as its collator takes them, `ref_chosen_logps` and `ref_rejected_logps` as it takes precomputed reference
//! log-probs. `prompt` is the rendered text, chat template included; responses as text have no end token, TRL adds it. As
//! ids they have it, and this program reads them as rows (`data/row_shapes.rs`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::source::{Run, Source};
use super::{Format, check_output};
use crate::config::RunConfig;
use crate::data::data_folder::{Split, files_of};
use crate::data::examples::Example;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::formats::atomic_write::{create_folder, folder_of, replace_text};
use crate::formats::file_system::Disk;
use crate::formats::hub;
use crate::formats::json_lines::json_line;
use crate::policy::MODEL_FOLDER;
use crate::policy::{Policy, Wanted};
use crate::records::ending::{AGAINST_FAILED_TRAINING, Ending};
use crate::records::run_folder::{RESTORE_CHECKPOINTS, Reached, has_lost_checkpoints, reached};
use crate::records::self_generation::{SELF_GENERATED_FILE, iteration_folder};
use crate::report::console::Console;
use crate::report::shell::shell_path;
use crate::train::environment::check_same_rows;
use crate::train::pairs::{Pair, make_pairs};
use crate::train::self_generation::{DEMONSTRATIONS_FILE, DemonstrationRow, SelfGeneratedRow};
use crate::train::sources::{is_lost, lost};

/// One line.
#[derive(Serialize)]
struct PairRow<'a> {
    /// The row of the data file, counted from 0, and which of its responses.
    index: usize,
    sample: usize,
    #[serde(flatten)]
    text: Option<PairText>,
    prompt_ids: &'a [u32],
    chosen_ids: &'a [u32],
    rejected_ids: &'a [u32],
    /// Nats, summed over the response's tokens, the end token included.
    ref_chosen_logps: f64,
    ref_rejected_logps: f64,
    /// The same, token by token; only self-generated responses have it kept.
    ref_rejected_token_logps: &'a [f32],
    /// False if the response was cut at the token limit: it has no end token.
    rejected_finished: bool,
}

#[derive(Serialize)]
struct PairText {
    prompt: String,
    chosen: String,
    rejected: String,
}

/// An iteration's files, joined by the row of the data.
struct Iteration {
    number: usize,
    responses: Vec<SelfGeneratedRow>,
    demonstration_log_probs: BTreeMap<usize, f64>,
}

/// `data` is where the run's data lie now, if they were moved.
pub(super) fn write(
    source: &Source,
    number: Option<usize>,
    data: Option<&str>,
    output: &Path,
    console: &Console,
) -> Result<()> {
    let run = source.run("pairs are what a training made")?;
    let iteration = Iteration::read(run, number, &source.path)?;
    let (policy, examples) = examples(run, data, console)?;
    let examples: BTreeMap<usize, Example> = examples.into_iter().map(|example| (example.index, example)).collect();
    let mut lines = String::new();
    let mut num_kept = 0;
    for row in &iteration.responses {
        let known = examples.get(&row.index).zip(iteration.demonstration_log_probs.get(&row.index));
        let Some((example, log_prob)) = known else { continue };
        let Some(pair) = trained_pair(run, example, row, *log_prob) else { continue };
        lines += &line(&pair, row, policy.tokenizer.as_ref())?;
        num_kept += 1;
    }
    if num_kept == 0 {
        return Err(Error::input(&source.path, format!("iteration {} has no pair to train on", iteration.number)));
    }
    let num_left_out = iteration.responses.len() - num_kept;
    console.say(format!(
        "iteration {}: {num_kept} pairs; {num_left_out} left out, as in the training (cut off or too long)",
        iteration.number
    ));
    check_output(output, Format::Pairs)?; // something may have appeared there meanwhile
    create_folder(&Disk, folder_of(output))?;
    replace_text(&Disk, output, &lines)
}

/// The pair as it was trained on; None if it was left out.
fn trained_pair(run: &Run, example: &Example, row: &SelfGeneratedRow, log_prob: f64) -> Option<Pair> {
    let (unfinished, max_length) = (run.config.generation.unfinished, run.config.train.max_length);
    let responses = [vec![row.response.clone()]];
    make_pairs(std::slice::from_ref(example), &responses, &[log_prob], unfinished, max_length).0.pop()
}

fn line(pair: &Pair, row: &SelfGeneratedRow, tokenizer: Option<&Tokenizer>) -> Result<String> {
    let text = |tokenizer: &Tokenizer| {
        Ok(PairText {
            prompt: tokenizer.decode_all(&pair.prompt_ids)?,
            chosen: tokenizer.decode(&pair.demonstration.token_ids)?,
            rejected: tokenizer.decode(&row.response.token_ids)?,
        })
    };
    let row = PairRow {
        index: row.index,
        sample: row.sample,
        text: tokenizer.map(text).transpose()?,
        prompt_ids: &pair.prompt_ids,
        chosen_ids: &pair.demonstration.token_ids,
        rejected_ids: &row.response.token_ids,
        ref_chosen_logps: pair.demonstration.reference_log_prob,
        ref_rejected_logps: row.response.log_prob(),
        ref_rejected_token_logps: &row.response.token_log_probs,
        rejected_finished: row.response.finished,
    };
    json_line(&row)
}

/// The rows of the run's data, tokenized as the run did: the aligned model has the tokenizer of the base model.
fn examples(run: &Run, data: Option<&str>, console: &Console) -> Result<(Policy, Vec<Example>)> {
    let aligned = run.dir.join(MODEL_FOLDER);
    let model = match aligned.exists() {
        true => aligned,
        false => run.base_model(console)?,
    };
    let policy = Policy::open_for(&run.config, &model)?;
    let began_with = run.config.data.as_deref().unwrap_or_default();
    if data.is_none() && is_lost(began_with) {
        return Err(lost("data", began_with).with_hint("if it was moved: the same command with --data NEW_PLACE"));
    }
    let data = hub::data_set(data.unwrap_or(began_with), run.config.offline, console)?.path;
    let files = files_of(&data, Split::Train)?;
    let wanted = Wanted::new(&run.config, run.config.max_rows);
    let examples = policy.read_examples(&files, &wanted, run.config.train.max_length, console)?;
    check_same_rows(&run.dir, &examples)?;
    Ok((policy, examples))
}

impl Iteration {
    /// Reads the iteration `number`, or the last one that is complete.
    fn read(run: &Run, number: Option<usize>, path: &Path) -> Result<Self> {
        let file = |number: usize, name: &str| format!("{}/{name}", iteration_folder(number));
        let is_complete = |number: &usize| run.dir.join(file(*number, DEMONSTRATIONS_FILE)).exists();
        let complete: Vec<usize> = (0..run.config.iterations).filter(is_complete).collect();
        let number = match number {
            None => complete.last().copied(),
            Some(number) => complete.contains(&number).then_some(number),
        };
        let Some(number) = number else {
            let error = Error::input(path, "the run kept no pairs of this iteration");
            return Err(match complete.last() {
                Some(last) => error.with_hint(format!("its iterations with pairs are 0 to {last}")),
                None => error.with_hint(why_there_are_none(&run.config, path)),
            });
        };
        let demonstrations: Vec<DemonstrationRow> = run.dir.read_lines(&file(number, DEMONSTRATIONS_FILE))?;
        let mut responses: Vec<SelfGeneratedRow> = run.dir.read_lines(&file(number, SELF_GENERATED_FILE))?;
        responses.sort_by_key(|row| (row.index, row.sample));
        Ok(Iteration {
            number,
            responses,
            demonstration_log_probs: demonstrations.iter().map(|row| (row.index, row.reference_log_prob)).collect(),
        })
    }
}

/// Why no iteration of a run has pairs.
fn why_there_are_none(config: &RunConfig, path: &Path) -> String {
    let makes_pairs = config.iterations > 0 && config.objective.name.needs_self_generated();
    match reached(path) {
        _ if !makes_pairs => "pairs come from iterations whose objective needs self-generated responses".to_owned(),
        Reached::Comparison | Reached::End => {
            "they were removed: put back the run's folder iteration-000 and those after it".to_owned()
        }
        _ if has_lost_checkpoints(path) => format!("its checkpoints are gone, too: {RESTORE_CHECKPOINTS}"),
        _ if Ending::is_of_failed_training(path) => AGAINST_FAILED_TRAINING.to_owned(),
        _ => format!("none is complete yet: gsil resume {}", shell_path(path)),
    }
}
