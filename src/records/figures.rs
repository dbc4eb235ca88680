//! The held-out figures: what tables call each, what it means, and where an evaluation has it. Whoever shows some of
//! them chooses which, in which order and with how many digits.

use super::evaluation::{AgainstReference, Answers, Evaluation};

/// What a held-out figure is; its value stands in an [`Evaluation`].
#[derive(Debug, Clone, Copy)]
pub struct HeldOutFigure {
    /// What tables call it.
    pub name: &'static str,
    /// In one line, without markup.
    pub meaning: &'static str,
    /// A share of rows, from 0 to 1; else nats or tokens.
    pub is_share: bool,
    /// None where it was not measured.
    pub of: fn(&Evaluation) -> Option<f64>,
}

pub const LOG_PROB: HeldOutFigure = HeldOutFigure {
    name: "log-prob/token",
    meaning: "mean log-prob of a demonstration's token, nats: higher is likelier",
    is_share: false,
    of: |evaluation| Some(evaluation.demonstration_log_prob_per_token),
};
pub const ACCURACY: HeldOutFigure = HeldOutFigure {
    name: "accuracy",
    meaning: "answered rows whose demonstration gained more log-prob than the answer of the policy before iteration 0, of \
              those where the two differ",
    is_share: true,
    of: |evaluation| against(evaluation, |figures| figures.implicit_reward_accuracy),
};
pub const LOG_RATIO: HeldOutFigure = HeldOutFigure {
    name: "log-ratio",
    meaning: "log-ratio of the answered rows' demonstrations, nats: above 0 they are likelier than before iteration 0",
    is_share: false,
    of: |evaluation| against(evaluation, |figures| Some(figures.log_ratio_demonstration)),
};
pub const OWN_RESPONSES: HeldOutFigure = HeldOutFigure {
    name: "own responses",
    meaning: "log-ratio of the responses to the answered rows by the policy before iteration 0, nats",
    is_share: false,
    of: |evaluation| against(evaluation, |figures| Some(figures.log_ratio_self_generated)),
};
pub const IN_FORMAT: HeldOutFigure = HeldOutFigure {
    name: "in format",
    meaning: "greedy answers that end in the answer marker and a number",
    is_share: true,
    of: |evaluation| greedy(evaluation, |answers| answers.ends_in_answer),
};
pub const GREEDY: HeldOutFigure = HeldOutFigure {
    name: "greedy",
    meaning: "greedy answers whose number after the marker is right",
    is_share: true,
    of: |evaluation| greedy(evaluation, |answers| answers.exact_match),
};
pub const FLEXIBLE: HeldOutFigure = HeldOutFigure {
    name: "flexible",
    meaning: "greedy answers whose last number is right",
    is_share: true,
    of: |evaluation| greedy(evaluation, |answers| answers.flexible_match),
};
pub const SAMPLED: HeldOutFigure = HeldOutFigure {
    name: "sampled",
    meaning: "answers sampled at temperature 1 whose number after the marker is right",
    is_share: true,
    of: |evaluation| evaluation.sampled.as_ref()?.exact_match,
};
pub const TOKENS: HeldOutFigure = HeldOutFigure {
    name: "tokens",
    meaning: "mean length of greedy answers",
    is_share: false,
    of: |evaluation| greedy(evaluation, |answers| Some(answers.mean_tokens)),
};
pub const ENDED: HeldOutFigure = HeldOutFigure {
    name: "ended",
    meaning: "greedy answers that ended by themselves",
    is_share: true,
    of: |evaluation| greedy(evaluation, |answers| Some(answers.finished)),
};

fn against(evaluation: &Evaluation, figure: fn(&AgainstReference) -> Option<f64>) -> Option<f64> {
    evaluation.against_reference.as_ref().and_then(figure)
}

fn greedy(evaluation: &Evaluation, figure: fn(&Answers) -> Option<f64>) -> Option<f64> {
    evaluation.greedy.as_ref().and_then(figure)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [HeldOutFigure; 10] =
        [LOG_PROB, ACCURACY, LOG_RATIO, OWN_RESPONSES, IN_FORMAT, GREEDY, FLEXIBLE, SAMPLED, TOKENS, ENDED];

    fn values(evaluation: &Evaluation) -> [Option<f64>; 10] {
        ALL.map(|figure| (figure.of)(evaluation))
    }

    #[test]
    fn figures_of_the_answered_rows_alone_say_so() {
        for figure in [ACCURACY, LOG_RATIO, OWN_RESPONSES] {
            assert!(figure.meaning.contains("answered rows"), "{}", figure.name);
        }
    }

    #[test]
    fn each_figure_is_its_own_part_of_an_evaluation_and_absent_where_that_is() {
        let sampled = Answers {
            num_rows: 4,
            finished: 0.01,
            mean_tokens: 0.02,
            ends_in_answer: Some(0.03),
            exact_match: Some(0.8),
            flexible_match: Some(0.04),
        };
        let greedy = Answers {
            finished: 1.0,
            mean_tokens: 9.0,
            ends_in_answer: Some(0.5),
            exact_match: Some(0.6),
            flexible_match: Some(0.7),
            ..sampled
        };
        let none = Evaluation {
            held_out: true,
            num_rows: 4,
            demonstration_log_prob_per_token: -0.1,
            against_reference: None,
            greedy: None,
            sampled: None,
        };
        let against = AgainstReference {
            implicit_reward_accuracy: Some(0.2),
            num_compared: Some(4),
            log_ratio_demonstration: 0.3,
            log_ratio_self_generated: 0.4,
        };
        let all = Evaluation {
            against_reference: Some(against),
            greedy: Some(greedy),
            sampled: Some(sampled),
            ..none.clone()
        };
        assert_eq!(values(&all), [-0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 9.0, 1.0].map(Some));
        let mut only_log_prob = [None; 10];
        only_log_prob[0] = Some(-0.1);
        assert_eq!(values(&none), only_log_prob);
    }
}
