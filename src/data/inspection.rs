//! What training will make of rows: counts, lengths, masks, and what looks wrong. Facts alone; the page is
//! [`crate::cli`]'s.
//!
//! Everything comes from the functions that training calls: [`Preparation`] makes and drops the examples, [`Batch`] says
//! which tokens are learnt.

mod warnings;

use serde::Serialize;

use super::batch::{Batch, Sequence};
use super::examples::{Example, FileRows, Outcome, Preparation};
use super::rows::Row;
use super::tokenizer::Tokenizer;
use crate::error::Result;

pub use warnings::Warning;

/// Bars of a histogram.
const NUM_BINS: usize = 16;

/// The facts of some data files under one model.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// Rows that were read.
    pub num_rows: usize,
    /// Rows that are trained on.
    pub num_used: usize,
    /// Rows that are left out, by reason.
    pub dropped: Vec<Count>,
    /// Whether some of these are too long.
    #[serde(skip)]
    pub some_are_too_long: bool,
    /// Rows that the tokenizer refuses: training ends at the first.
    pub num_refused: usize,
    /// What is wrong with the first of them.
    pub first_refusal: Option<String>,
    /// The limit on prompt plus response, in tokens: `train.max_length`, or the model's context if that is less.
    pub max_length: usize,
    /// Whether that limit is the model's context.
    pub is_limited_by_context: bool,
    /// In tokens, of all rows with a response, the ones that are too long included.
    pub lengths: Lengths,
    /// What looks wrong, in plain words.
    pub warnings: Vec<Warning>,
    /// The first rows as training sees them.
    pub rows: Vec<ShownRow>,
}

/// So many rows for a reason.
#[derive(Debug, Serialize)]
pub struct Count {
    pub count: usize,
    pub reason: String,
}

/// The lengths of prompt, response and both, in tokens.
#[derive(Debug, Serialize)]
pub struct Lengths {
    pub prompt: Distribution,
    /// Of demonstrations.
    pub response: Distribution,
    /// What the limit bounds: the prompt with the longer response where a row has two.
    pub total: Distribution,
}

/// How a length is spread. All zero without rows.
#[derive(Debug, Default, Serialize)]
pub struct Distribution {
    pub count: usize,
    pub min: usize,
    pub median: usize,
    pub p90: usize,
    pub p99: usize,
    pub max: usize,
    pub mean: f64,
    pub histogram: Vec<Bin>,
}

/// Lengths from `from` up to and with `to`.
#[derive(Debug, Serialize)]
pub struct Bin {
    pub from: usize,
    pub to: usize,
    pub count: usize,
}

/// A row as training sees it.
#[derive(Debug, Serialize)]
pub struct ShownRow {
    /// `line 7`; with the file if there are several.
    pub place: String,
    pub file: String,
    /// Why it is left out; None if it is trained on.
    pub dropped: Option<String>,
    pub num_prompt_tokens: usize,
    pub num_response_tokens: usize,
    /// Prompt and demonstration. Empty for a row that never becomes tokens.
    pub demonstration: Vec<Run>,
    /// Prompt and the response to tell it from, if the row has one.
    pub self_generated: Option<Vec<Run>>,
}

/// Neighbouring tokens that training treats alike.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    pub part: Part,
    /// Special tokens included. Token ids with spaces between them if there is no tokenizer.
    pub text: String,
    pub token_ids: Vec<u32>,
}

/// What training does with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Is read.
    Prompt,
    /// Is learnt.
    Trained,
    /// Is learnt, and ends the response.
    End,
}

/// Rows with what becomes of them.
struct Prepared<'a> {
    preparation: Preparation<'a>,
    eos_token_ids: &'a [u32],
    /// Each row with its place and its file.
    rows: Vec<(String, &'a FileRows, &'a Row)>,
    /// Under the limit, as training does it.
    outcomes: Vec<Outcome>,
    /// Without a limit: every row that has tokens.
    whole: Vec<Option<Example>>,
}

impl Inspection {
    /// Looks at `files`; the first `num_shown` rows are kept as training sees them.
    ///
    /// # Errors
    /// As [`Tokenizer`]'s, for the model's own files; rows that are refused are counted.
    pub fn new(
        preparation: Preparation<'_>,
        eos_token_ids: &[u32],
        files: &[FileRows],
        num_shown: usize,
    ) -> Result<Self> {
        let prepared = Prepared::new(preparation, eos_token_ids, files);
        let mut dropped = preparation.none_dropped();
        prepared.outcomes.iter().flatten().filter_map(|outcome| outcome.as_ref().err()).for_each(|r| dropped.count(*r));
        let mut refusals = prepared.outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        let first_refusal = refusals
            .next()
            .map(|error| error.hint().map_or_else(|| error.to_string(), |hint| format!("{error}; {hint}")));
        let num_refused = usize::from(first_refusal.is_some()) + refusals.count();
        let lengths = |length: fn(&Example) -> usize| Distribution::new(prepared.whole.iter().flatten().map(length));
        Ok(Inspection {
            num_rows: prepared.rows.len(),
            num_used: prepared.rows.len() - num_refused - dropped.total(),
            dropped: dropped
                .reasons()
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, reason)| Count { count, reason })
                .collect(),
            some_are_too_long: dropped.num_too_long() > 0,
            num_refused,
            first_refusal,
            max_length: preparation.max_length,
            is_limited_by_context: preparation.is_limited_by_context,
            lengths: Lengths {
                prompt: lengths(|example| example.prompt_ids.len()),
                response: lengths(|example| example.demonstration_ids.len()),
                total: lengths(Example::longest),
            },
            warnings: prepared.warnings(files)?,
            rows: (0..num_shown.min(prepared.rows.len())).map(|i| prepared.shown(i)).collect::<Result<_>>()?,
        })
    }
}

impl<'a> Prepared<'a> {
    fn new(preparation: Preparation<'a>, eos_token_ids: &'a [u32], files: &'a [FileRows]) -> Self {
        let is_one_of_many = files.len() > 1;
        let rows = |file: &'a FileRows| file.rows.iter().map(move |row| (file.place(row, is_one_of_many), file, row));
        let rows: Vec<_> = files.iter().flat_map(rows).collect();
        let outcomes = preparation.outcomes(files, &mut |_| {});
        let is_example = |outcome: &Outcome| matches!(outcome, Ok(Ok(_)));
        // Only what is left out has to be made again, without the limit.
        let left_out = rows.iter().zip(&outcomes).filter(|(_, outcome)| !is_example(outcome));
        let left_out: Vec<FileRows> = left_out
            .map(|((_, file, row), _)| FileRows { path: file.path.clone(), rows: vec![(*row).clone()] })
            .collect();
        let unlimited = Preparation { max_length: usize::MAX, ..preparation };
        let mut again = unlimited.outcomes(&left_out, &mut |_| {}).into_iter();
        let whole = |outcome: &Outcome| match outcome {
            Ok(Ok(example)) => Some(example.clone()),
            _ => again.next()?.ok()?.ok(),
        };
        let whole = outcomes.iter().map(whole).collect();
        Prepared { preparation, eos_token_ids, rows, outcomes, whole }
    }

    fn shown(&self, i: usize) -> Result<ShownRow> {
        let (place, file, _) = &self.rows[i];
        let dropped = match &self.outcomes[i] {
            Ok(Ok(_)) => None,
            Ok(Err(reason)) => {
                let mut dropped = self.preparation.none_dropped();
                dropped.count(*reason);
                dropped.reasons().into_iter().find(|(count, _)| *count > 0).map(|(_, words)| words)
            }
            Err(error) => Some(error.to_string()),
        };
        let example = self.whole[i].as_ref();
        let runs = |example: &Example, response: &[u32]| {
            runs(&example.prompt_ids, response, self.eos_token_ids, self.preparation.tokenizer)
        };
        let demonstration = example.map(|example| runs(example, &example.demonstration_ids)).transpose()?;
        let self_generated =
            example.and_then(|example| Some(runs(example, example.self_generated_ids.as_ref()?))).transpose()?;
        Ok(ShownRow {
            place: place.clone(),
            file: file.path.display().to_string(),
            dropped,
            num_prompt_tokens: example.map_or(0, |example| example.prompt_ids.len()),
            num_response_tokens: example.map_or(0, |example| example.demonstration_ids.len()),
            demonstration: demonstration.unwrap_or_default(),
            self_generated,
        })
    }
}

/// The tokens of a sequence, parted by what the batch of training says of them: a token is learnt if the row before it
/// is one of those that are scored.
fn runs(
    prompt_ids: &[u32],
    response_ids: &[u32],
    eos_token_ids: &[u32],
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<Run>> {
    let batch = Batch::new(&[Sequence { prompt_ids, response_ids }], 1);
    let ids = [prompt_ids, response_ids].concat();
    let mut parts = vec![Part::Prompt; ids.len()];
    for row in &batch.rows {
        let token = *row as usize + 1;
        let is_end = token + 1 == ids.len() && eos_token_ids.contains(&ids[token]);
        parts[token] = if is_end { Part::End } else { Part::Trained };
    }
    let mut runs: Vec<Run> = Vec::new();
    for (id, part) in ids.into_iter().zip(parts) {
        match runs.last_mut() {
            Some(run) if run.part == part => run.token_ids.push(id),
            _ => runs.push(Run { part, text: String::new(), token_ids: vec![id] }),
        }
    }
    for run in &mut runs {
        run.text = match tokenizer {
            Some(tokenizer) => tokenizer.decode_all(&run.token_ids)?,
            None => run.token_ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        };
    }
    Ok(runs)
}

impl Distribution {
    fn new(lengths: impl Iterator<Item = usize>) -> Self {
        let mut lengths: Vec<usize> = lengths.collect();
        lengths.sort_unstable();
        let (Some(&min), Some(&max)) = (lengths.first(), lengths.last()) else { return Self::default() };
        let at = |share: f64| lengths[((lengths.len() - 1) as f64 * share).round() as usize];
        let width = (max - min + 1).div_ceil(NUM_BINS);
        let bin = |from: usize| {
            let to = from + width - 1;
            let count = lengths.partition_point(|len| *len <= to) - lengths.partition_point(|len| *len < from);
            Bin { from, to, count }
        };
        Distribution {
            count: lengths.len(),
            min,
            median: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max,
            mean: lengths.iter().sum::<usize>() as f64 / lengths.len() as f64,
            histogram: (min..=max).step_by(width).map(bin).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_token_of_a_response_is_marked_only_if_it_ends_it() {
        let parts = |response: &[u32]| -> Vec<(Part, String)> {
            runs(&[5, 6], response, &[2], None).unwrap().into_iter().map(|run| (run.part, run.text)).collect()
        };
        let prompt = (Part::Prompt, "5 6".to_owned());
        assert_eq!(parts(&[7, 2]), [prompt.clone(), (Part::Trained, "7".into()), (Part::End, "2".into())]);
        assert_eq!(parts(&[2, 7]), [prompt, (Part::Trained, "2 7".into())]);
    }

    #[test]
    fn a_distribution_counts_every_length_once() {
        let lengths = Distribution::new((1..=100).rev());
        assert_eq!((lengths.min, lengths.median, lengths.p90, lengths.p99, lengths.max), (1, 51, 90, 99, 100));
        assert_eq!(lengths.mean, 50.5);
        assert_eq!(lengths.histogram.iter().map(|bin| bin.count).sum::<usize>(), 100);
        assert_eq!((lengths.histogram[0].from, lengths.histogram.last().unwrap().to), (1, 105));
        assert_eq!(Distribution::new([7, 7].into_iter()).histogram.len(), 1);
    }
}
