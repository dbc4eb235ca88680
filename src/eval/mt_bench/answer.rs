//! The model answers both turns, each with what was said before.

use super::Question;
use crate::data::rows::{Message, Prompt};
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::generate::sampler::{Sampling, answer_seed};
use crate::generate::{Decoding, Event, Generator, Request};

/// What FastChat writes where a model could not answer, because what was said does not fit its context.
pub const NOT_ANSWERED: &str = "ERROR";

/// How answers are written.
#[derive(Debug, Clone)]
pub struct Writing {
    /// The longest answer to one turn, in tokens.
    pub max_new_tokens: usize,
    /// Answers written side by side.
    pub batch_size: usize,
    /// The longest prompt together with one new token.
    pub context: usize,
    pub seed: u64,
}

/// Answers questions of one temperature, through the chat template: for each the texts of its turns. `check` is called after
/// each token: an error from it ends the work.
///
/// # Errors
/// A tokenizer without a chat template; a failing device.
/// # Panics
/// If the questions have different temperatures.
pub fn answer(
    generator: &mut Generator,
    tokenizer: &Tokenizer,
    questions: &[&Question],
    writing: &Writing,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<Vec<String>>> {
    let Some(temperature) = questions.first().map(|question| question.temperature()) else { return Ok(Vec::new()) };
    assert!(questions.iter().all(|question| question.temperature() == temperature), "one temperature at a time");
    let decoding = Decoding {
        sampling: Sampling { temperature, top_k: 0, top_p: 1.0 },
        max_new_tokens: writing.max_new_tokens,
        batch_size: writing.batch_size,
        eos_token_ids: tokenizer.eos_token_ids().to_vec(),
    };
    let mut answers: Vec<Vec<String>> = vec![Vec::new(); questions.len()];
    let most_turns = questions.iter().map(|question| question.turns.len()).max().unwrap_or_default();
    for turn in 0..most_turns {
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        for (i, question) in questions.iter().enumerate().filter(|(_, question)| turn < question.turns.len()) {
            let prompt_ids = tokenizer.encode_prompt(&Prompt::Messages(conversation(question, &answers[i])))?;
            answers[i].push(NOT_ANSWERED.to_owned());
            if prompt_ids.len() < writing.context {
                let seed = answer_seed(writing.seed, turn, question.question_id as usize, 0);
                requests.push(Request { prompt_ids, seed, max_new_tokens: None });
                asked.push(i);
            }
        }
        generator.answer(&requests, &decoding, &mut |event| {
            if let Event::Done(request, response) = event {
                let text = tokenizer.decode(&response.token_ids)?;
                answers[asked[request]][turn] = text.trim().to_owned();
            }
            check()
        })?;
    }
    Ok(answers)
}

/// The turns so far and the next one.
fn conversation(question: &Question, answers: &[String]) -> Vec<Message> {
    let message = |role: &str, content: &String| Message { role: role.to_owned(), content: content.clone() };
    let mut messages = Vec::new();
    for (i, turn) in question.turns.iter().take(answers.len() + 1).enumerate() {
        messages.push(message("user", turn));
        messages.extend(answers.get(i).map(|answer| message("assistant", answer)));
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_turn_is_asked_with_the_first_and_its_answer() {
        let turns = vec!["one?".to_owned(), "two?".to_owned()];
        let question = Question { question_id: 1, category: String::new(), turns, required_temperature: None };
        let said = |answers: &[String]| -> Vec<(String, String)> {
            conversation(&question, answers).into_iter().map(|message| (message.role, message.content)).collect()
        };
        let pair = |role: &str, content: &str| (role.to_owned(), content.to_owned());
        assert_eq!(said(&[]), [pair("user", "one?")]);
        assert_eq!(said(&["1".to_owned()]), [pair("user", "one?"), pair("assistant", "1"), pair("user", "two?")]);
    }
}
