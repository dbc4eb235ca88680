//! Warnings in plain words: what the figures of a run say has gone wrong, and what to change.

use super::html::{count, short};
use super::run_files::{Iteration, RunFiles};
use super::table::plural;
use crate::config::{ObjectiveName, RunConfig, VarianceReduction};
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
    let is_reduced = run.config.objective.variance_reduction != VarianceReduction::None;
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
    let many_identical = if is_reduced { f64::INFINITY } else { MANY_IDENTICAL };
    let kinds: [(Counted, f64, &str, &str); 5] = [
        (|c| c.unfinished, MANY_UNFINISHED, "were cut off at generation.max_new_tokens", AGAINST_UNFINISHED),
        (|c| c.identical, many_identical, "equal their demonstration, token for token", AGAINST_IDENTICAL),
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
mod tests {
    use super::*;
    use crate::records::evaluation::{Answers, Evaluation};
    use crate::records::update::{LogRatios, StepMetrics};

    /// An update without log-ratios.
    fn update(stage_step: usize) -> UpdateRow {
        UpdateRow {
            stage: "iteration 0".to_owned(),
            stage_step,
            total_step: stage_step,
            epoch: 0,
            metrics: StepMetrics {
                loss: 1.0,
                loss_demonstration: 0.5,
                loss_self_generated: 0.5,
                demonstration_log_prob_per_token: -1.0,
                log_ratios: None,
                grad_norm: 1.0,
                lr: 1e-5,
                num_clamped: 0.0,
                tokens_per_s: 1.0,
                seconds: 1.0,
            },
        }
    }

    fn with_norm(stage_step: usize, grad_norm: f64) -> UpdateRow {
        let mut update = update(stage_step);
        update.metrics.grad_norm = grad_norm;
        update
    }

    /// 40 updates whose log-ratios move to these ends.
    fn moving(demonstration: f64, self_generated: f64) -> Vec<UpdateRow> {
        let at = |i: usize| {
            let part = i as f64 / 40.0;
            let noise = if i.is_multiple_of(2) { 0.05 } else { -0.05 };
            let mut update = update(i);
            update.metrics.log_ratios = Some(LogRatios {
                log_ratio_demonstration: part * demonstration + noise,
                log_ratio_self_generated: part * self_generated + noise,
                max_abs_log_ratio_demonstration: 10.0,
                max_abs_log_ratio_self_generated: 10.0,
                implicit_reward_accuracy: Some(0.5),
                log_ratio_margin: part * (demonstration - self_generated),
            });
            update
        };
        (1..=40).map(at).collect()
    }

    #[test]
    fn a_rising_margin_with_vanishing_demonstrations_is_named() {
        let found = vanishing_demonstrations(&moving(-2.0, -6.0)).unwrap();
        assert!(found.seen.starts_with("Iteration 0: the margin rises (to 3.5"), "{found:?}");
        assert_eq!(found.advice, "lower train.lr or add objective.sft_weight");
    }

    /// A stage after which 100 answers are right in this share, and demonstrations have this log-prob per token.
    fn evaluated(stage: &str, log_prob: f64, exact_match: f64) -> EvaluationRow {
        let answers = Answers {
            num_rows: 100,
            finished: 1.0,
            mean_tokens: 5.0,
            ends_in_answer: None,
            exact_match: Some(exact_match),
            flexible_match: None,
        };
        let evaluation = Evaluation {
            held_out: true,
            num_rows: 100,
            demonstration_log_prob_per_token: log_prob,
            against_reference: None,
            greedy: Some(answers),
            sampled: None,
        };
        EvaluationRow { stage: stage.to_owned(), total_steps: 0, evaluation }
    }

    #[test]
    fn a_fall_is_named_after_the_supervised_stage_as_after_an_iteration_and_not_after_the_comparisons() {
        let mut config = RunConfig::default();
        let seen_with = |rows: &[EvaluationRow], config: &RunConfig| -> Vec<String> {
            let found = [falling_held_out(rows, config), falling_answers(rows, config)].into_iter().flatten();
            found.map(|found| format!("{} | {}", found.seen, found.advice)).collect()
        };
        let seen = |rows: &[EvaluationRow]| seen_with(rows, &RunConfig::default());
        let (start, good) = (evaluated("start", -0.06, 1.0), evaluated("sft", -0.05, 1.0));
        let ruined = [start.clone(), evaluated("sft", -1.4, 0.23)];
        let shorter = "lower sft.lr, or make the stage shorter (sft.epochs, sft.num_steps)";
        assert_eq!(
            seen(&ruined),
            [
                format!(
                    "Sft: held-out demonstrations are less likely after it than before (-1.4 nats a token, before -0.06). | {shorter}"
                ),
                format!(
                    "Fewer answers are right after sft (23.0%) than before sft (100.0%). | {shorter}, or export an \
                     earlier checkpoint: gsil export RUN --checkpoint NAME --format hf --output NEW_FOLDER"
                ),
            ]
        );
        let iterations =
            [start.clone(), good.clone(), evaluated("iteration 0", -0.05, 1.0), evaluated("iteration 1", -1.4, 0.23)];
        let found = seen(&iterations);
        assert!(found[0].starts_with("Iteration 1: held-out demonstrations are less likely"), "{found:?}");
        assert!(
            found[1].starts_with("Fewer answers are right after iteration 1 (23.0%) than before iteration 0 (100.0%)."),
            "{found:?}"
        );
        assert!(found[0].ends_with("| lower train.lr, or add objective.sft_weight"), "{found:?}");
        assert_eq!(found.len(), 2);
        config.set("objective.name=sft").unwrap();
        let of_sft = seen_with(&iterations, &config);
        assert!(of_sft[0].ends_with("| lower train.lr"), "it has that loss alone: {of_sft:?}");
        assert_eq!(seen(&[start, good.clone(), evaluated("continued sft", -1.4, 0.23)]), [""; 0]);
        assert_eq!(seen(&[good]), [""; 0], "nothing stands before it");
    }

    #[test]
    fn a_healthy_iteration_and_one_of_pure_noise_are_not() {
        assert_eq!(vanishing_demonstrations(&moving(1.0, -1.0)), None);
        assert_eq!(vanishing_demonstrations(&moving(0.0, -1.0)), None);
        assert_eq!(vanishing_demonstrations(&moving(-2.0, 1.0)), None, "without a margin it is another failure");
        assert_eq!(vanishing_demonstrations(&moving(-2.0, -6.0)[..4]), None, "too few updates to judge");
    }

    #[test]
    fn one_gradient_among_small_ones_is_a_spike_and_large_ones_alone_are_not() {
        let mut updates: Vec<UpdateRow> = (1..=20).map(|i| with_norm(i, 30.0)).collect();
        assert_eq!(spikes(&updates), None);
        updates[6].metrics.grad_norm = 900.0;
        let found = spikes(&updates).unwrap();
        assert!(
            found.seen.contains(
                "jumps to 900 at update 7 of the stage, 30 times the median of the updates before; 1 such spike in"
            ),
            "{found:?}"
        );
    }

    #[test]
    fn a_gradient_that_falls_as_rows_are_learnt_by_heart_has_no_spikes() {
        let mut updates: Vec<UpdateRow> = (1..=200).map(|i| with_norm(i, 20.0 * 0.95_f64.powi(i as i32))).collect();
        assert_eq!(spikes(&updates), None);
        updates[150].metrics.grad_norm = 1.0;
        assert!(spikes(&updates).unwrap().seen.contains("at update 151 of the stage"));
    }

    #[test]
    fn clamped_exponentials_are_counted_over_the_stage() {
        let mut updates: Vec<UpdateRow> = (1..=3).map(update).collect();
        assert_eq!(clamped(&updates), None);
        updates[0].metrics.num_clamped = 2.0;
        updates[2].metrics.num_clamped = 3.0;
        assert!(clamped(&updates).unwrap().seen.contains("5 exponentials"));
        assert!(clamped(&updates).unwrap().seen.contains("in 2 of 3 updates"));
    }

    #[test]
    fn every_kind_of_useless_response_is_named_from_its_share_on() {
        let none = SelfGeneratedCounts {
            responses: 100,
            identical: 49,
            empty: 4,
            unfinished: 19,
            duplicated: 9,
            too_long: 4,
            dropped: 23,
            mean_tokens: 20.0,
        };
        let iteration = |counts| Iteration { number: 2, counts, responses: None };
        let of = |counts, is_reduced| of_responses(&iteration(counts), None, is_reduced);
        assert_eq!(of(none, false), []);
        let many = SelfGeneratedCounts {
            responses: 100,
            identical: 50,
            empty: 5,
            unfinished: 20,
            duplicated: 10,
            too_long: 5,
            dropped: 25,
            mean_tokens: 20.0,
        };
        assert!(!of(many.clone(), true).iter().any(|found| found.seen.contains("50 of")), "its pull is left");
        let all = of(many, false);
        let seen: Vec<&str> = all.iter().map(|found| found.seen.as_str()).collect();
        assert_eq!(seen.len(), 5);
        for (seen, expected) in seen.iter().zip(["20 of 100 responses were cut off", "50 of", "5 of", "10 of", "5 of"])
        {
            assert!(seen.starts_with("Iteration 2: ") && seen.contains(expected), "{seen}");
        }
    }

    #[test]
    fn responses_may_repeat_one_another_where_demonstrations_do() {
        let labels = SelfGeneratedCounts { responses: 100, duplicated: 98, ..SelfGeneratedCounts::default() };
        let stories = SelfGeneratedCounts { duplicated: 12, ..labels.clone() };
        let iteration = Iteration { number: 0, counts: labels.clone(), responses: None };
        assert_eq!(of_responses(&iteration, Some(&labels), false), []);
        assert_eq!(of_responses(&iteration, Some(&stories), false).len(), 1);
    }
}
