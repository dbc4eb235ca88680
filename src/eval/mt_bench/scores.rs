//! The mean of the ratings with its interval.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Judgment, NO_RATING, Question};
use crate::eval::figures::Figure;

/// A mean over questions with its 95% interval; no interval of a single question.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanScore {
    #[serde(flatten)]
    pub figure: Figure,
    pub num_questions: usize,
}

impl MeanScore {
    /// None without a value.
    fn of(values: &[f64]) -> Option<Self> {
        (!values.is_empty()).then(|| MeanScore { figure: Figure::mean(values), num_questions: values.len() })
    }
}

/// The figures of one model under one judge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// Over questions, each being the mean of its turns: two turns of one question are not two independent values.
    pub score: Option<MeanScore>,
    pub first_turn: Option<MeanScore>,
    pub second_turn: Option<MeanScore>,
    pub categories: BTreeMap<String, Option<MeanScore>>,
    /// Turns whose judgment has a rating.
    pub num_rated: usize,
    /// Turns whose judgment has none. They are in no mean.
    pub num_without_rating: usize,
}

impl Scores {
    /// From the judgments of one model; those of other questions are left aside.
    pub fn new(questions: &[Question], judgments: &[Judgment]) -> Self {
        let ratings = |question: &Question, turn: Option<usize>| -> Vec<f64> {
            let own = judgments.iter().filter(|judgment| judgment.question_id == question.question_id);
            let own = own.filter(|judgment| turn.is_none_or(|turn| judgment.turn == turn));
            own.map(|judgment| judgment.score).collect()
        };
        let rated = |question: &Question, turn| -> Vec<f64> {
            ratings(question, turn).into_iter().filter(|score| *score != NO_RATING).collect()
        };
        let mean = |wanted: &dyn Fn(&Question) -> bool, turn: Option<usize>| {
            let of_question =
                |question: &Question| MeanScore::of(&rated(question, turn)).map(|score| score.figure.value);
            let values: Vec<f64> =
                questions.iter().filter(|question| wanted(question)).filter_map(of_question).collect();
            MeanScore::of(&values)
        };
        let of_category = |category: &String| mean(&|question: &Question| question.category == *category, None);
        let all: usize = questions.iter().map(|question| ratings(question, None).len()).sum();
        let num_rated = questions.iter().map(|question| rated(question, None).len()).sum();
        Scores {
            score: mean(&|_| true, None),
            first_turn: mean(&|_| true, Some(1)),
            second_turn: mean(&|_| true, Some(2)),
            categories: questions.iter().map(|q| (q.category.clone(), of_category(&q.category))).collect(),
            num_rated,
            num_without_rating: all - num_rated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judgment(question_id: u64, turn: usize, score: f64) -> Judgment {
        let text = String::new;
        Judgment {
            question_id,
            model: text(),
            judge: (text(), text()),
            user_prompt: text(),
            judgment: text(),
            score,
            turn,
            tstamp: 0.0,
        }
    }

    #[test]
    fn means_are_over_questions_and_what_has_no_rating_is_counted() {
        let question = |question_id, category: &str| Question {
            question_id,
            category: category.to_owned(),
            turns: vec![String::new(); 2],
            required_temperature: None,
        };
        let questions = [question(1, "math"), question(2, "math"), question(3, "stem")];
        let judgments = [
            judgment(1, 1, 4.0),
            judgment(1, 2, 6.0),
            judgment(2, 1, 8.0),
            judgment(2, 2, NO_RATING),
            judgment(3, 1, NO_RATING),
            judgment(4, 1, 10.0), // of no question that was asked
        ];
        let scores = Scores::new(&questions, &judgments);
        // Questions 5 and 8: mean 6.5, deviation 3/sqrt(2), standard error 1.5.
        let score = scores.score.unwrap();
        let half = 1.5 * 1.959_963_984_540_054; // the normal distribution's 97.5% point
        assert_eq!((score.num_questions, score.figure.value), (2, 6.5));
        assert!((score.figure.high.unwrap() - (6.5 + half)).abs() < 1e-12, "{score:?}");
        assert!((score.figure.low.unwrap() - (6.5 - half)).abs() < 1e-12, "{score:?}");
        assert_eq!(scores.first_turn.unwrap().figure.value, 6.0);
        let MeanScore { num_questions, figure: second } = scores.second_turn.unwrap();
        assert_eq!((num_questions, second.value, second.low, second.high), (1, 6.0, None, None));
        assert_eq!((scores.num_rated, scores.num_without_rating), (3, 2));
        assert_eq!(scores.categories["stem"], None);
        assert_eq!(scores.categories["math"].unwrap().figure.value, 6.5);
    }
}
