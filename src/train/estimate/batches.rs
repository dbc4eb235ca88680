//! The micro-batches of a stage, as the batcher will make them: same order, same limits. Lengths that nobody knows yet, those
//! of responses that are still to be written, are taken to be the longest that are allowed.

use super::sizes::Sizes;
use crate::config::{RunConfig, TrainConfig};
use crate::data::examples::Example;
use crate::objective::Objective;
use crate::records::stage::Stage;
use crate::train::fit::{epoch_seed, shuffled};
use crate::train::pairs::split_micro_batches;

/// Epochs that are gone through: more of them meet hardly any larger micro-batch.
const MAX_EPOCHS: usize = 10;

/// The tokens of one row of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLengths {
    pub prompt: usize,
    pub demonstration: usize,
    /// Of the second response, if the row brings one.
    pub given: Option<usize>,
}

impl RowLengths {
    pub fn of(example: &Example) -> Self {
        RowLengths {
            prompt: example.prompt_ids.len(),
            demonstration: example.demonstration_ids.len(),
            given: example.self_generated_ids.as_ref().map(Vec::len),
        }
    }

    /// Prompt and the longer response.
    pub fn longest(&self) -> usize {
        self.prompt + self.demonstration.max(self.given.unwrap_or(0))
    }
}

/// A pair of the training: its prompt once, a demonstration and self-generated responses of one length.
#[derive(Debug, Clone, Copy)]
struct PairLengths {
    prompt: usize,
    demonstration: usize,
    self_generated: usize,
    num_self_generated: usize,
}

impl PairLengths {
    /// As [`crate::train::pairs::Pair::num_tokens`].
    fn num_tokens(&self) -> usize {
        self.prompt + self.demonstration + self.num_self_generated * self.self_generated
    }

    /// As [`crate::data::batch::Batch::new`] packs it: the last token of a response is no input, spans are filled up.
    fn shape(&self, multiple: usize) -> BatchShape {
        let filled = |len: usize| len.next_multiple_of(multiple);
        let PairLengths { prompt, demonstration, self_generated, num_self_generated } = *self;
        let inputs = demonstration.saturating_sub(1);
        let num_rows = match num_self_generated {
            0 => filled(prompt + inputs),
            count => filled(prompt) + filled(inputs) + count * filled(self_generated.saturating_sub(1)),
        };
        let num_self_generated = num_self_generated * self_generated;
        BatchShape { num_rows, num_responses: demonstration + num_self_generated, num_self_generated }
    }
}

/// What a pass computes at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchShape {
    /// N, rows of hidden states.
    pub num_rows: usize,
    /// R, response tokens: rows of logits.
    pub num_responses: usize,
    /// Those of them that stand in self-generated responses.
    pub num_self_generated: usize,
}

impl BatchShape {
    fn plus(self, other: Self) -> Self {
        BatchShape {
            num_rows: self.num_rows + other.num_rows,
            num_responses: self.num_responses + other.num_responses,
            num_self_generated: self.num_self_generated + other.num_self_generated,
        }
    }

    /// The largest pass of `objective::log_probs::score`, which goes from short sequences to long ones.
    pub fn of_scoring(rows: &[RowLengths], batch_size: usize, multiple: usize) -> Self {
        let mut lens: Vec<(usize, usize)> =
            rows.iter().map(|row| (row.longest(), row.longest() - row.prompt)).collect();
        lens.sort_unstable();
        let shape = |(len, num_responses): &(usize, usize)| {
            let num_rows = len.saturating_sub(1).next_multiple_of(multiple);
            BatchShape { num_rows, num_responses: *num_responses, num_self_generated: 0 }
        };
        let passes =
            lens.chunks(batch_size).map(|pass| pass.iter().map(shape).fold(BatchShape::default(), BatchShape::plus));
        passes.max_by_key(|shape| shape.num_rows).unwrap_or_default()
    }
}

/// A training stage seen from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageShape {
    /// The micro-batch that takes most memory.
    pub largest: BatchShape,
    /// Micro-batches of the update that has most of them.
    pub num_micro_batches: usize,
    pub num_updates: usize,
}

/// Which pairs a stage trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Demonstrations alone.
    Demonstrations,
    /// With other responses, given or self-generated.
    Both,
}

/// Whether an iteration of this run compares demonstrations with other responses.
pub fn pairing_of_iterations(config: &RunConfig) -> Pairing {
    match Objective::new(&config.objective).needs_self_generated() {
        true => Pairing::Both,
        false => Pairing::Demonstrations,
    }
}

/// The tokens that a response to a row's prompt may have.
pub fn longest_response(config: &RunConfig, row: &RowLengths, context: usize) -> usize {
    config.generation.max_new_tokens.min(context.saturating_sub(row.prompt)).max(1)
}

/// The most tokens that the self-generated responses of an iteration's pairs have together.
pub fn most_response_tokens(config: &RunConfig, rows: &[RowLengths], context: usize) -> u64 {
    let pairs = pairs(config, &config.train, pairing_of_iterations(config), rows, context);
    pairs.iter().map(|pair| (pair.num_self_generated * pair.self_generated) as u64).sum()
}

/// The shape of a stage over `rows`; `stage` decides the order of the pairs.
pub fn stage_shape(
    config: &RunConfig,
    (train, stage): (&TrainConfig, Stage),
    pairing: Pairing,
    rows: &[RowLengths],
    (sizes, multiple): (&Sizes<'_>, usize),
) -> StageShape {
    let pairs = pairs(config, train, pairing, rows, sizes.model.max_position_embeddings);
    let bytes = |shape: &BatchShape| {
        shape.num_rows as u64 * sizes.kept_of_layer() * sizes.model.num_hidden_layers as u64
            + shape.num_responses as u64 * sizes.hidden()
    };
    let mut found = StageShape { num_updates: train.num_updates(pairs.len()), ..Default::default() };
    let num_epochs = found.num_updates.div_ceil(pairs.len().div_ceil(train.batch_size).max(1));
    let num_iterations = if matches!(stage, Stage::Iteration(_)) { config.iterations } else { 1 };
    let epochs = (0..num_iterations).flat_map(|iteration| (0..num_epochs).map(move |epoch| (iteration, epoch)));
    for (iteration, epoch) in epochs.take(MAX_EPOCHS) {
        let stage = if matches!(stage, Stage::Iteration(_)) { Stage::Iteration(iteration) } else { stage };
        let order = shuffled(pairs.len(), epoch_seed(config.seed, stage, epoch));
        for update in order.chunks(train.batch_size) {
            let update: Vec<PairLengths> = update.iter().map(|i| pairs[*i]).collect();
            let (micro, max_tokens) = (train.micro_batch_size, train.max_tokens);
            let mut count = 0;
            for micro_batch in split_micro_batches(&update, PairLengths::num_tokens, micro, max_tokens) {
                count += 1;
                let shapes = micro_batch.iter().map(|pair| pair.shape(multiple));
                let shape = shapes.fold(BatchShape::default(), BatchShape::plus);
                found.largest = std::cmp::max_by_key(found.largest, shape, bytes);
            }
            found.num_micro_batches = found.num_micro_batches.max(count);
        }
    }
    found
}

/// The pairs that `train::pairs::make_pairs` will make, none left out but those that are surely too long.
fn pairs(
    config: &RunConfig,
    train: &TrainConfig,
    pairing: Pairing,
    rows: &[RowLengths],
    context: usize,
) -> Vec<PairLengths> {
    let fits = |row: &&RowLengths| row.prompt + row.demonstration <= train.max_length;
    let rows = rows.iter().filter(fits);
    let pair = |row: &RowLengths| {
        let room = train.max_length - row.prompt;
        let num_self_generated = match (pairing, row.given) {
            (Pairing::Demonstrations, _) => 0,
            (Pairing::Both, Some(_)) => 1,
            (Pairing::Both, None) => config.generation.samples_per_prompt,
        };
        PairLengths {
            prompt: row.prompt,
            demonstration: row.demonstration,
            self_generated: row.given.unwrap_or_else(|| longest_response(config, row, context)).min(room),
            num_self_generated,
        }
    };
    rows.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::{Batch, Sequence};

    #[test]
    fn a_pair_has_the_rows_and_responses_that_the_batcher_packs() {
        let (prompt, demonstration, other) = (vec![1; 5], vec![2; 4], vec![3; 7]);
        for multiple in [1, 4] {
            let sequence = |response| Sequence { prompt_ids: &prompt, response_ids: response };
            for num_self_generated in 0..3 {
                let mut sequences = vec![sequence(&demonstration)];
                sequences.extend(std::iter::repeat_n(sequence(&other), num_self_generated));
                let batch = Batch::new(&sequences, multiple);
                let pair = PairLengths { prompt: 5, demonstration: 4, self_generated: 7, num_self_generated };
                let expected = BatchShape {
                    num_rows: batch.input_ids.len(),
                    num_responses: batch.targets.len(),
                    num_self_generated: 7 * num_self_generated,
                };
                assert_eq!(pair.shape(multiple), expected);
            }
        }
    }

    #[test]
    fn scoring_meets_its_longest_rows_together() {
        let row = |prompt, demonstration| RowLengths { prompt, demonstration, given: None };
        let rows = [row(9, 2), row(1, 2), row(3, 4), row(2, 2)];
        let expected = BatchShape { num_rows: 10 + 6, num_responses: 6, num_self_generated: 0 };
        assert_eq!(BatchShape::of_scoring(&rows, 2, 1), expected);
        assert_eq!(BatchShape::of_scoring(&rows, 9, 1).num_rows, 10 + 6 + 3 + 2);
        assert_eq!(BatchShape::of_scoring(&[], 2, 1), BatchShape::default());
    }
}
