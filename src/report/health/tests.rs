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
    for (seen, expected) in seen.iter().zip(["20 of 100 responses were cut off", "5 of", "10 of", "5 of", "50 of"]) {
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
