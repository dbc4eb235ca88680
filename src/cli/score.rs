//! `gsil score`: what the model thinks of given responses, and the raw loss of pairs.

use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use serde::Serialize;

use super::keys::Keys;
use super::{ModelArgs, RowArgs, open_reference, print_json};
use crate::config::RunConfig;
use crate::data::batch::Sequence;
use crate::data::data_folder::{Split, files_of};
use crate::data::examples::Example;
use crate::device;
use crate::error::Result;
use crate::model::weights::to_host;
use crate::objective::log_probs::{self, total};
use crate::objective::{Objective, SideLogProbs};
use crate::policy::{Policy, Wanted};
use crate::report::console::{Console, Unit};
use crate::train::setup::num_tokens_multiple;

/// Sequences scored at once.
const BATCH_SIZE: usize = 8;

pub(super) const KEYS: Keys = Keys {
    verb: "score",
    read: &[
        "objective.name",
        "objective.scale",
        "objective.shift",
        "objective.power",
        "objective.sft_weight",
        "max_rows",
        "skip_bad_rows",
        "prompt_column",
        "response_column",
    ],
    elsewhere: &[("model", "--model"), ("data", "--data"), ("device", "--device"), ("offline", "--offline")],
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gsil score --model SmolLM2 --data test.jsonl
  gsil score --model runs/night --reference SmolLM2 --data pairs.jsonl")]
pub(super) struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The frozen model that log-ratios are taken against.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Responses to score: a file (.jsonl, .json, .csv, .tsv, .parquet), or a folder with a train file. Pair rows also have a self-generated response.
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    rows: RowArgs,
    /// The loss, of rows that have what it reads (most losses: pair rows and --reference): `objective.name=bernoulli objective.scale=0.1 objective.shift=0`. How many rows: `max_rows=100`.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// One line of output. The plain figures are the demonstration's; a key is absent where it has no meaning.
#[derive(Serialize)]
struct ScoreRow {
    index: usize,
    prompt_len: usize,
    num_response_tokens: usize,
    log_prob: f64,
    token_log_probs: Vec<f32>,
    #[serde(flatten)]
    self_generated: Option<SelfGeneratedScore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_ratio_demonstration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_ratio_self_generated: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    implicit_reward_demonstration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    implicit_reward_self_generated: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f32>,
}

#[derive(Serialize)]
struct SelfGeneratedScore {
    num_response_tokens_self_generated: usize,
    log_prob_self_generated: f64,
    token_log_probs_self_generated: Vec<f32>,
}

/// Token log-probs of a row's responses under one model.
struct RowScores {
    demonstration: Vec<f32>,
    self_generated: Option<Vec<f32>>,
}

impl RowScores {
    fn log_probs(&self) -> impl Iterator<Item = &f32> {
        self.demonstration.iter().chain(self.self_generated.iter().flatten())
    }
}

pub(super) fn score(args: ScoreArgs) -> Result<()> {
    let config = args.rows.over(KEYS.changed(RunConfig::default(), &args.overrides)?)?;
    let objective = Objective::new(&config.objective);
    let console = Console::stderr();
    let device_name = device::resolve_name(&args.model.device);
    let policy = args.model.open()?;
    let reference = args.reference.as_deref().map(|path| open_reference(path, &policy, &args.model.hub)).transpose()?;
    let files = files_of(&args.model.hub.data(&args.data)?, Split::Train)?;
    let examples = policy.read_examples(&files, &Wanted::new(&config, config.max_rows), usize::MAX, &console)?;
    if args.overrides.iter().any(|setting| setting.starts_with("objective."))
        && let Some(missing) = missing(&objective, reference.is_some(), &examples)
    {
        console.warn(format!("no row has a loss: {} also reads {missing}", config.objective.name));
    }
    let device = device::open(device_name)?;
    let multiple = num_tokens_multiple(device_name);
    // One model in memory at a time.
    let scores = score_all("the model", &policy, &examples, &device, multiple, &console)?;
    let reference_scores = reference
        .map(|reference| score_all("the reference", &reference, &examples, &device, multiple, &console))
        .transpose()?;
    for (i, (example, policy)) in examples.iter().zip(&scores).enumerate() {
        let reference = reference_scores.as_ref().map(|all| &all[i]);
        let ratio = |policy: &[f32], reference: &[f32]| total(policy) - total(reference);
        let log_ratio_demonstration = reference.map(|r| ratio(&policy.demonstration, &r.demonstration));
        let log_ratio_self_generated =
            reference.and_then(|r| Some(ratio(policy.self_generated.as_ref()?, r.self_generated.as_ref()?)));
        let reward = |log_ratio: Option<f64>| {
            let log_ratio = log_ratio.filter(|_| objective.needs_reference());
            log_ratio.map(|r| objective.scale() * r + objective.shift())
        };
        print_json(&ScoreRow {
            index: example.index,
            prompt_len: example.prompt_ids.len(),
            num_response_tokens: policy.demonstration.len(),
            log_prob: total(&policy.demonstration),
            token_log_probs: policy.demonstration.clone(),
            self_generated: policy.self_generated.as_ref().map(|scores| SelfGeneratedScore {
                num_response_tokens_self_generated: scores.len(),
                log_prob_self_generated: total(scores),
                token_log_probs_self_generated: scores.clone(),
            }),
            log_ratio_demonstration,
            log_ratio_self_generated,
            implicit_reward_demonstration: reward(log_ratio_demonstration),
            implicit_reward_self_generated: reward(log_ratio_self_generated),
            loss: loss(&objective, policy, reference, &device)?,
        })?;
    }
    Ok(())
}

/// What a loss reads and no row has.
fn missing(objective: &Objective, has_reference: bool, examples: &[Example]) -> Option<String> {
    let has_pairs = examples.iter().any(|example| example.self_generated_ids.is_some());
    let reference = (objective.needs_reference() && !has_reference).then_some("--reference MODEL");
    let pairs = (objective.needs_self_generated() && !has_pairs).then_some("pair rows (`rejected`)");
    let missing: Vec<&str> = reference.into_iter().chain(pairs).collect();
    (!missing.is_empty()).then(|| missing.join(" and "))
}

fn score_all(
    whose: &str,
    policy: &Policy,
    examples: &[Example],
    device: &Device,
    num_tokens_multiple: usize,
    console: &Console,
) -> Result<Vec<RowScores>> {
    let model = policy.load(device, console)?.valid();
    fn sequence<'a>(example: &'a Example, response_ids: &'a [u32]) -> Sequence<'a> {
        Sequence { prompt_ids: &example.prompt_ids, response_ids }
    }
    let demonstrations = examples.iter().map(|e| sequence(e, &e.demonstration_ids));
    let self_generated = examples.iter().filter_map(|e| Some(sequence(e, e.self_generated_ids.as_ref()?)));
    let sequences: Vec<Sequence<'_>> = demonstrations.chain(self_generated).collect();
    let mut bar = console.bar("scoring", sequences.len() as u64, Unit::Count("responses"));
    let mut scores = log_probs::score(&model, &sequences, BATCH_SIZE, num_tokens_multiple, &mut |count| {
        bar.advance(count as u64);
        Ok(())
    })?;
    let mut self_generated = scores.split_off(examples.len()).into_iter();
    let rows = examples.iter().zip(scores).map(|(example, demonstration)| {
        let self_generated = example.self_generated_ids.as_ref().and_then(|_| self_generated.next());
        let row = RowScores { demonstration, self_generated };
        let is_finite = row.log_probs().all(|log_prob| log_prob.is_finite());
        match is_finite {
            true => Ok(row),
            false => Err(log_probs::not_finite(whose, example.index)),
        }
    });
    rows.collect()
}

/// The raw loss of one row, where the objective has all that it reads.
fn loss(
    objective: &Objective,
    policy: &RowScores,
    reference: Option<&RowScores>,
    device: &Device,
) -> Result<Option<f32>> {
    if objective.needs_reference() && reference.is_none() {
        return Ok(None);
    }
    let one = |value: f64| Tensor::<1>::from_data(TensorData::new(vec![value as f32], [1]), device);
    let side = |policy: &[f32], reference: Option<&[f32]>| SideLogProbs {
        policy: one(total(policy)),
        reference: one(reference.map_or(0.0, total)),
        num_tokens: one(policy.len() as f64),
    };
    let demonstration = side(&policy.demonstration, reference.map(|r| r.demonstration.as_slice()));
    let self_generated =
        policy.self_generated.as_ref().map(|scores| side(scores, reference.and_then(|r| r.self_generated.as_deref())));
    if objective.needs_self_generated() && self_generated.is_none() {
        return Ok(None);
    }
    let values = to_host(objective.loss(&demonstration, self_generated.as_ref()).total)?;
    Ok(values.first().copied())
}
