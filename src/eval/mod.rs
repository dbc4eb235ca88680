//! Held-out figures: how likely demonstrations are, whether the policy prefers them to the reference's own responses, and
//! whether its answers are right (`held_out_answers`). Beside them stand the evaluations that others publish figures of,
//! asked and matched as lm-evaluation-harness does: [`gsm8k`], [`multiple_choice`], [`perplexity`]; [`humaneval`], whose
//! programs run in a [`sandbox`]; [`mt_bench`], which a judge rates. Their rows go through a [`row_store`], which a stopped
//! evaluation goes on with; [`figures`] have intervals.

pub mod answer;
pub mod figures;
pub mod gsm8k;
mod held_out_answers;
pub mod humaneval;
pub mod mt_bench;
pub mod multiple_choice;
pub mod perplexity;
mod python_text;
pub mod row_store;
pub mod sandbox;
pub mod scoring;

use burn::module::Module;
use serde::{Deserialize, Serialize};

use crate::data::batch::Sequence;
use crate::data::examples::Example;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::generate::sampler::{Sampling, answer_seed};
use crate::generate::{Decoding, Event, Request, Response, generate};
use crate::model::CausalLm;
use crate::objective::log_probs;
use crate::records::evaluation::{AgainstReference, Answers, Evaluation, RowAnswer, RowFigures};
use crate::report::console::{Bar, Console, Unit};
use held_out_answers::judge_rows;
pub use held_out_answers::warn_of_numbers;

/// The iteration that held-out answers are drawn as if they were of: none shares its random stream with a training one.
const HELD_OUT_ITERATION: usize = usize::MAX;

/// How an evaluation is done.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The rows were never trained on.
    pub held_out: bool,
    /// Sequences scored at once.
    pub score_batch_size: usize,
    pub num_tokens_multiple: usize,
    /// Rows that are answered, from the first.
    pub generate_rows: usize,
    /// Also sample answers at temperature 1.
    pub sampled: bool,
    /// What stands before the answer's number, `####` for instance. None: answers are not compared.
    pub answer_marker: Option<String>,
    pub max_new_tokens: usize,
    pub generate_batch_size: usize,
    pub eos_token_ids: Vec<u32>,
    pub seed: u64,
}

impl Settings {
    /// The rows that are answered.
    pub fn answered<'e>(&self, examples: &'e [Example]) -> &'e [Example] {
        &examples[..self.generate_rows.min(examples.len())]
    }
}

/// The figures of one model together and row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub evaluation: Evaluation,
    pub rows: Vec<RowFigures>,
}

/// The held-out rows as the policy before iteration 0 sees them: the reference of [`AgainstReference`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceRow {
    pub demonstration_log_prob: f64,
    pub response: Response,
}

/// Scores held-out demonstrations under the reference and lets it answer each prompt once at temperature 1.
///
/// # Errors
/// A failing device, or a stop request from `check`.
pub fn reference_rows(
    reference: &CausalLm,
    examples: &[Example],
    settings: &Settings,
    console: &Console,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<ReferenceRow>> {
    let log_probs = demonstration_log_probs(reference, examples, settings, console, check)?;
    let responses = respond(reference, examples, 1.0, settings, ("held-out", console), check)?;
    let rows = log_probs.into_iter().zip(responses);
    Ok(rows.map(|(demonstration_log_prob, response)| ReferenceRow { demonstration_log_prob, response }).collect())
}

/// All figures of one model. `reference` belongs to the first rows of `examples`.
///
/// # Errors
/// A failing device, or a stop request from `check`.
pub fn evaluate(
    model: &CausalLm,
    examples: &[Example],
    reference: Option<&[ReferenceRow]>,
    tokenizer: Option<&Tokenizer>,
    settings: &Settings,
    console: &Console,
    check: &dyn Fn() -> Result<()>,
) -> Result<Judged> {
    let model = model.valid();
    let log_probs = demonstration_log_probs(&model, examples, settings, console, check)?;
    if let Some(i) = log_probs.iter().position(|log_prob| !log_prob.is_finite()) {
        return Err(log_probs::not_finite("the model", examples[i].index));
    }
    let num_tokens: usize = examples.iter().map(|example| example.demonstration_ids.len()).sum();
    let against_reference = match reference.filter(|rows| !rows.is_empty()) {
        Some(reference) => Some(against_reference(&model, examples, &log_probs, reference, settings, check)?),
        None => None,
    };
    let answered = settings.answered(examples);
    let answers = |temperature: f64| -> Result<(Option<Answers>, Vec<RowAnswer>)> {
        if answered.is_empty() {
            return Ok((None, Vec::new()));
        }
        let label = if temperature == 0.0 { "greedy" } else { "sampled" };
        let responses = respond(&model, answered, temperature, settings, (label, console), check)?;
        let rows = judge_rows(answered, &responses, tokenizer, settings.answer_marker.as_deref())?;
        Ok((Some(rows.answers(&responses)), rows.rows))
    };
    let (greedy, greedy_rows) = answers(0.0)?;
    let (sampled, sampled_rows) = if settings.sampled { answers(1.0)? } else { (None, Vec::new()) };
    let row = |(i, (example, log_prob)): (usize, (&Example, &f64))| RowFigures {
        index: example.index,
        num_tokens: example.demonstration_ids.len(),
        demonstration_log_prob: *log_prob,
        greedy: greedy_rows.get(i).copied(),
        sampled: sampled_rows.get(i).copied(),
    };
    let rows = examples.iter().zip(&log_probs).enumerate().map(row).collect();
    let evaluation = Evaluation {
        held_out: settings.held_out,
        num_rows: examples.len(),
        demonstration_log_prob_per_token: log_probs.iter().sum::<f64>() / num_tokens.max(1) as f64,
        against_reference,
        greedy,
        sampled,
    };
    Ok(Judged { evaluation, rows })
}

fn demonstration_log_probs(
    model: &CausalLm,
    examples: &[Example],
    settings: &Settings,
    console: &Console,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut bar = console.bar("scoring", examples.len() as u64, Unit::Count("rows"));
    let sequences: Vec<Sequence<'_>> = examples
        .iter()
        .map(|example| Sequence { prompt_ids: &example.prompt_ids, response_ids: &example.demonstration_ids })
        .collect();
    let scores = score(model, &sequences, settings, &mut |count| {
        bar.advance(count as u64);
        check()
    })?;
    Ok(scores)
}

/// Log-prob of each sequence's response, nats.
fn score(
    model: &CausalLm,
    sequences: &[Sequence<'_>],
    settings: &Settings,
    on_done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<f64>> {
    let multiple = settings.num_tokens_multiple;
    let scores = log_probs::score(model, sequences, settings.score_batch_size, multiple, on_done)?;
    Ok(scores.iter().map(|tokens| log_probs::total(tokens)).collect())
}

fn against_reference(
    model: &CausalLm,
    examples: &[Example],
    log_probs: &[f64],
    reference: &[ReferenceRow],
    settings: &Settings,
    check: &dyn Fn() -> Result<()>,
) -> Result<AgainstReference> {
    let sequences: Vec<Sequence<'_>> = examples
        .iter()
        .zip(reference)
        .map(|(example, row)| Sequence { prompt_ids: &example.prompt_ids, response_ids: &row.response.token_ids })
        .collect();
    let self_generated = score(model, &sequences, settings, &mut |_| check())?;
    Ok(compared(examples, log_probs, &self_generated, reference))
}

/// The policy's log-probs of demonstrations and of the reference's responses beside those of the reference itself.
fn compared(
    examples: &[Example],
    demonstrations: &[f64],
    self_generated: &[f64],
    reference: &[ReferenceRow],
) -> AgainstReference {
    let num_rows = self_generated.len().max(1) as f64;
    let (mut num_right, mut num_others, mut sum1, mut sum0) = (0, 0, 0.0, 0.0);
    for (((example, policy1), policy0), row) in examples.iter().zip(demonstrations).zip(self_generated).zip(reference) {
        let (r1, r0) = (policy1 - row.demonstration_log_prob, policy0 - row.response.log_prob());
        // Of one and the same response the two differ by rounding alone.
        if row.response.token_ids != example.demonstration_ids {
            num_others += 1;
            num_right += usize::from(r1 > r0);
        }
        sum1 += r1;
        sum0 += r0;
    }
    AgainstReference {
        num_compared: Some(num_others),
        implicit_reward_accuracy: (num_others > 0).then(|| num_right as f64 / num_others as f64),
        log_ratio_demonstration: sum1 / num_rows,
        log_ratio_self_generated: sum0 / num_rows,
    }
}

fn respond(
    model: &CausalLm,
    examples: &[Example],
    temperature: f64,
    settings: &Settings,
    (label, console): (&str, &Console),
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<Response>> {
    let mut bar: Bar = console.bar(label, examples.len() as u64, Unit::Count("responses"));
    let requests: Vec<Request> = examples
        .iter()
        .map(|example| Request {
            prompt_ids: example.prompt_ids.clone(),
            seed: answer_seed(settings.seed, HELD_OUT_ITERATION, example.index, 0),
            max_new_tokens: None,
        })
        .collect();
    let decoding = Decoding {
        sampling: Sampling { temperature, top_k: 0, top_p: 1.0 },
        max_new_tokens: settings.max_new_tokens,
        batch_size: settings.generate_batch_size,
        eos_token_ids: settings.eos_token_ids.clone(),
    };
    let mut responses: Vec<Option<Response>> = vec![None; requests.len()];
    generate(model, &requests, &decoding, &mut |event| {
        if let Event::Done(index, response) = event {
            responses[index] = Some(response);
            bar.advance(1);
        }
        check()
    })?;
    Ok(responses.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_ratios_are_those_of_the_policy_to_the_reference_on_each_side() {
        let row = |demonstration_log_prob: f64, token_log_probs: &[f32]| ReferenceRow {
            demonstration_log_prob,
            response: Response {
                token_ids: vec![2; token_log_probs.len()],
                token_log_probs: token_log_probs.to_vec(),
                finished: true,
            },
        };
        let demonstrated = |demonstration_ids: &[u32]| Example {
            index: 0,
            prompt_ids: vec![7],
            demonstration_ids: demonstration_ids.to_vec(),
            self_generated_ids: None,
            demonstration_text: None,
        };
        let examples = [&[3, 2][..], &[4, 2], &[5, 2], &[6, 2]].map(demonstrated);
        let reference = [row(-6.0, &[-1.0, -2.0]), row(-3.0, &[-4.0]), row(-5.0, &[-2.0])];
        // Log-ratios of demonstrations: 2, -1, 0; of responses: 1, -3, 0. The last demonstration has no reference.
        let against = compared(&examples, &[-4.0, -4.0, -5.0, -9.0], &[-2.0, -7.0, -2.0], &reference);
        assert_eq!(against.log_ratio_demonstration, 1.0 / 3.0);
        assert_eq!(against.log_ratio_self_generated, -2.0 / 3.0);
        assert_eq!(against.implicit_reward_accuracy, Some(2.0 / 3.0), "0 is not above 0");

        // The first response is the demonstration: nothing can be told apart there.
        let with_same = [demonstrated(&[2, 2]), demonstrated(&[4, 2])];
        let accuracy = |rows: usize| {
            compared(&with_same[..rows], &[-4.0, -4.0], &[-2.0, -7.0][..rows], &reference[..rows])
                .implicit_reward_accuracy
        };
        assert_eq!((accuracy(2), accuracy(1)), (Some(1.0), None));
        assert_eq!(against.num_compared, Some(3));
        assert_eq!(compared(&with_same, &[-4.0, -4.0], &[-2.0, -7.0], &reference[..2]).num_compared, Some(1));
    }
}
