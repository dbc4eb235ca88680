//! Warnings in plain words: what the figures of a run say has gone wrong, and what to change.

use super::html::{count, short};
use super::run_files::{Iteration, RunFiles};
use super::table::plural;
use crate::config::{ObjectiveName, RunConfig};
use crate::records::evaluation::EvaluationRow;
use crate::records::self_generation::{
    AGAINST_DUPLICATED, AGAINST_EMPTY, AGAINST_IDENTICAL, AGAINST_UNFINISHED, SelfGeneratedCounts,
};
use crate::records::stage::{SFT, Stage, is_iteration};
use crate::records::update::UpdateRow;

/// Shares of an iteration's responses from which on something is said.
const MANY_UNFINISHED: f64 = 0.2;
const MANY_IDENTICAL: f64 = 0.5;
const MANY_EMPTY: f64 = 0.05;
const MANY_DUPLICATED: f64 = 0.1;
const MANY_TOO_LONG: f64 = 0.05;
/// A gradient this many times as large as the median of the updates before it is a spike.
const SPIKE: f64 = 10.0;
/// Updates before one that its gradient is compared with, at most and at least.
const SPIKE_WINDOW: usize = 32;
const MIN_BEFORE_SPIKE: usize = 5;
/// Updates of a stage without which its end means little.
const MIN_UPDATES: usize = 8;
/// A fall of held-out log-prob per token (nats) that is more than rounding.
const LIKELIHOOD_FALL: f64 = 0.005;

/// One observation.
#[derive(Debug, PartialEq)]
pub struct Finding {
    /// What is seen.
    pub seen: String,
    /// What to do about it.
    pub advice: String,
}

fn finding(seen: String, advice: &str) -> Finding {
    Finding { seen, advice: advice.to_owned() }
}

/// Everything that is conspicuous, in the order of the run.
pub fn findings(run: &RunFiles) -> Vec<Finding> {
    let usual = run.about.as_ref().and_then(|about| about.demonstrations.as_ref());
    // Responses that the rows bring are no work of the model's, and no setting changes them.
    let generated = run.iterations.iter().filter(|_| !run.responses_are_given());
    let is_reduced = run.config.objective.variance_reduction.is_on();
    let of_responses = generated.flat_map(|iteration| of_responses(iteration, usual, is_reduced));
    let of_stages = stages(run).into_iter().flat_map(|updates| {
        [vanishing_demonstrations(updates), clamped(updates), spikes(updates)].into_iter().flatten().collect::<Vec<_>>()
    });
    of_responses
        .chain(of_stages)
        .chain(falling_held_out(&run.evaluations, &run.config))
        .chain(falling_answers(&run.evaluations, &run.config))
        .collect()
}

/// The updates stage by stage.
fn stages(run: &RunFiles) -> Vec<&[UpdateRow]> {
    run.updates.chunk_by(|a, b| a.stage == b.stage).collect()
}

/// Responses of one kind.
type Counted = fn(&SelfGeneratedCounts) -> usize;

/// `usual` are the demonstrations, counted as if they were responses: as far as they are short and alike, responses may be.
/// With the variance reduction (`is_reduced`) a response that is its demonstration leaves that its pull.
fn of_responses(
    Iteration { number, counts, .. }: &Iteration,
    usual: Option<&SelfGeneratedCounts>,
    is_reduced: bool,
) -> Vec<Finding> {
    let identical: (Counted, f64, &str, &str) =
        (|c| c.identical, MANY_IDENTICAL, "equal their demonstration, token for token", AGAINST_IDENTICAL);
    let kinds: [(Counted, f64, &str, &str); 4] = [
        (|c| c.unfinished, MANY_UNFINISHED, "were cut off at generation.max_new_tokens", AGAINST_UNFINISHED),
        (|c| c.empty, MANY_EMPTY, "are empty", AGAINST_EMPTY),
        (|c| c.duplicated, MANY_DUPLICATED, "repeat the response to another prompt", AGAINST_DUPLICATED),
        (
            |c| c.too_long,
            MANY_TOO_LONG,
            "are longer than train.max_length together with their prompt, and were left out",
            "raise train.max_length, or lower generation.max_new_tokens",
        ),
    ];
    let share = |of: Counted, counts: &SelfGeneratedCounts| of(counts) as f64 / counts.responses.max(1) as f64;
    kinds
        .into_iter()
        .chain((!is_reduced).then_some(identical))
        .filter(|(of, many, ..)| share(*of, counts) >= many + usual.map_or(0.0, |usual| share(*of, usual)))
        .map(|(of, _, what, advice)| {
            let (part, all) = (count(of(counts)), count(counts.responses));
            finding(format!("Iteration {number}: {part} of {all} responses {what}."), advice)
        })
        .collect()
}

/// The known failure of this family: both sides become less likely, self-generated responses faster. Judged by
/// log-ratios in the last quarter of an iteration, because they compare the same rows under policy and reference.
fn vanishing_demonstrations(updates: &[UpdateRow]) -> Option<Finding> {
    let end = &updates[updates.len() - updates.len() / 4..];
    let log_ratios = || end.iter().filter_map(|update| update.metrics.log_ratios);
    let ratios: Vec<f64> = log_ratios().map(|ratios| ratios.log_ratio_demonstration).collect();
    let margin = mean(&log_ratios().map(|ratios| ratios.log_ratio_margin).collect::<Vec<_>>());
    let (ratio, error) = (mean(&ratios), standard_error(&ratios));
    let is_failing = updates.len() >= MIN_UPDATES && margin > 0.0 && ratio < -0.1 * margin && ratio + 2.0 * error < 0.0;
    is_failing.then(|| {
        finding(
            format!(
                "{}: the margin rises (to {} nats) while demonstrations get less likely (log-ratio {} nats \
                 at the end).",
                capitalized(&updates[0].stage),
                short(margin),
                short(ratio)
            ),
            "lower train.lr or add objective.sft_weight",
        )
    })
}

fn clamped(updates: &[UpdateRow]) -> Option<Finding> {
    let num_clamped: f64 = updates.iter().map(|update| update.metrics.num_clamped).sum();
    let with = updates.iter().filter(|update| update.metrics.num_clamped > 0.0).count();
    (num_clamped > 0.0).then(|| {
        let (stage, all) = (capitalized(&updates[0].stage), updates.len());
        finding(
            format!(
                "{stage}: {num_clamped} exponentials of the implicit reward were clamped, in {with} of {all} updates."
            ),
            "lower objective.scale, or choose a loss without exponentials such as bernoulli",
        )
    })
}

/// Gradients far above those right before them. A norm that falls all the way, as rows are learnt by heart, has none.
fn spikes(updates: &[UpdateRow]) -> Option<Finding> {
    let norm = |update: &UpdateRow| update.metrics.grad_norm;
    let times = |i: usize| {
        let mut before: Vec<f64> = updates[i.saturating_sub(SPIKE_WINDOW)..i].iter().map(norm).collect();
        before.sort_by(f64::total_cmp);
        norm(&updates[i]) / before[before.len() / 2]
    };
    let spikes = (MIN_BEFORE_SPIKE..updates.len()).map(|i| (times(i), &updates[i]));
    let spikes: Vec<(f64, &UpdateRow)> = spikes.filter(|(times, _)| times.is_finite() && *times > SPIKE).collect();
    let (times, largest) = spikes.iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(finding(
        format!(
            "{}: the gradient norm jumps to {} at update {} of the stage, {times:.0} times the median of the updates before; \
             {} in all.",
            capitalized(&largest.stage),
            short(norm(largest)),
            largest.stage_step,
            plural(spikes.len(), "such spike")
        ),
        "lower the learning rate, add warmup_steps, or look for odd rows in the data",
    ))
}

/// What helps against a fall of the held-out figures after a stage.
fn against_fall(stage: &str, config: &RunConfig) -> &'static str {
    match (is_iteration(stage), config.objective.name) {
        (false, _) => "lower sft.lr, or make the stage shorter (sft.epochs, sft.num_steps)",
        (true, ObjectiveName::Sft) => "lower train.lr",
        (true, _) => "lower train.lr, or add objective.sft_weight",
    }
}

/// Stages, but for the comparison's, after which held-out demonstrations are less likely than before.
fn falling_held_out(evaluations: &[EvaluationRow], config: &RunConfig) -> Vec<Finding> {
    let rows = evaluations.windows(2).filter(|rows| is_iteration(&rows[1].stage) || rows[1].stage == SFT);
    rows.filter_map(|rows| {
        let [before, after] = [&rows[0], &rows[1]].map(|row| row.evaluation.demonstration_log_prob_per_token);
        let which = if rows[1].evaluation.held_out { "held-out demonstrations" } else { "demonstrations" };
        (after < before - LIKELIHOOD_FALL).then(|| {
            finding(
                format!(
                    "{}: {which} are less likely after it than before ({} nats a token, before {}).",
                    capitalized(&rows[1].stage),
                    short(after),
                    short(before)
                ),
                against_fall(&rows[1].stage, config),
            )
        })
    })
    .collect()
}

/// Fewer right answers after the supervised stage than before it, and after the iterations than before them, by more than
/// twice what chance explains.
fn falling_answers(evaluations: &[EvaluationRow], config: &RunConfig) -> Vec<Finding> {
    let before = |stage: &str| {
        let place = evaluations.iter().position(|row| row.stage == stage)?;
        evaluations.get(place.checked_sub(1)?)
    };
    let first_iteration = Stage::Iteration(0).to_string();
    let last_iteration = evaluations.iter().rfind(|row| is_iteration(&row.stage));
    let sft = evaluations.iter().find(|row| row.stage == SFT);
    let parts = [(SFT, sft), (first_iteration.as_str(), last_iteration)];
    let answers = |row: &EvaluationRow| {
        let greedy = row.evaluation.greedy.as_ref()?;
        Some((greedy.exact_match?, greedy.num_rows.max(1) as f64))
    };
    let judged = parts.into_iter().filter_map(|(first_stage, last)| {
        let last = last?;
        let ((before, num_rows), (after, _)) = (answers(before(first_stage)?)?, answers(last)?);
        let error = ((before * (1.0 - before) + after * (1.0 - after)) / num_rows).sqrt();
        (after < before - 2.0 * error && after < before).then(|| {
            let advice = against_fall(first_stage, config);
            Finding {
                seen: format!(
                    "Fewer answers are right after {} ({:.1}%) than before {first_stage} ({:.1}%).",
                    last.stage,
                    100.0 * after,
                    100.0 * before
                ),
                advice: format!(
                    "{advice}, or export an earlier checkpoint: \
                     gsil export RUN --checkpoint NAME --format hf --output NEW_FOLDER"
                ),
            }
        })
    });
    judged.collect()
}

fn capitalized(stage: &str) -> String {
    let mut characters = stage.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Of the mean.
fn standard_error(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len().max(2) - 1) as f64 / values.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests;
