//! One optimizer update: micro-batches of pairs, gradients accumulated as if they were one batch, on one device or several,
//! clipped, applied.

use std::time::Instant;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Tensor, TensorData};

use super::backward;
use super::clipping::{clip_factor, global_norm, scale};
use super::metrics::PairValues;
use super::optimizer::Optimizer;
use super::pairs::{Pair, ScoredResponse, micro_batches};
use super::replicas::Replicas;
use crate::config::TrainConfig;
use crate::data::batch::{Batch, Sequence};
use crate::error::{Error, Result};
use crate::model::{CausalLm, weights};
use crate::objective::log_probs::{ReadTokens, int_tensor, read_tokens, sum_by_sequence};
use crate::objective::{Objective, SideLogProbs, variance_reduction};
use crate::records::update::StepMetrics;

/// What stays the same from update to update.
#[derive(Clone)]
pub struct Updater<'a> {
    pub objective: &'a Objective,
    pub config: &'a TrainConfig,
    /// What the loss is divided by; see [`Objective::normalizer`].
    pub normalizer: f64,
    /// Batches are padded to a multiple of this many tokens.
    pub num_tokens_multiple: usize,
}

impl Updater<'_> {
    /// One update of the model on `pairs` with learning rate `lr`. The loss is the mean over pairs, however they are split
    /// into micro-batches.
    ///
    /// # Errors
    /// [`Error::Training`] if the loss or a gradient is not finite or log-ratios have exploded: the rows are named,
    /// nothing is applied, and the model is lost with the error. Which key lowers the rate is the caller's to say.
    /// [`Error::Device`] if the device fails.
    pub fn update(
        &self,
        model: CausalLm,
        optimizer: &mut Optimizer,
        pairs: &[&Pair],
        lr: f64,
    ) -> Result<(CausalLm, StepMetrics)> {
        self.update_on(&Replicas::default(), model, optimizer, pairs, lr)
    }

    /// [`Self::update`] with micro-batches divided over several devices: the same but for rounding.
    ///
    /// # Errors
    /// As there.
    pub fn update_on(
        &self,
        replicas: &Replicas,
        model: CausalLm,
        optimizer: &mut Optimizer,
        pairs: &[&Pair],
        lr: f64,
    ) -> Result<(CausalLm, StepMetrics)> {
        let started = Instant::now();
        let (mut gradients, values) = self.gradients(replicas, &model, pairs)?;
        let grad_norm = global_norm(&model, &gradients)?;
        let odd = values.not_finite();
        if !(odd.is_empty() && grad_norm.is_finite()) {
            return Err(not_finite(pairs, &odd, grad_norm));
        }
        if let Some(seen) = values.exploded() {
            let rows: Vec<String> = pairs.iter().map(|pair| pair.index.to_string()).collect();
            return Err(Error::training(format!("{seen}; rows {}, counted from 0", rows.join(", "))));
        }
        let max_norm = self.config.max_grad_norm;
        if max_norm > 0.0 && grad_norm > max_norm {
            gradients = scale(&model, gradients, clip_factor(grad_norm, max_norm));
        }
        let model = optimizer.step(model, gradients, lr);
        Ok((model, values.metrics(grad_norm, lr, started.elapsed().as_secs_f64())))
    }

    /// Gradients of the mean loss of `pairs`, where the model is, and what was read of each pair.
    ///
    /// # Errors
    /// [`Error::Device`] if a device fails.
    pub fn gradients(
        &self,
        replicas: &Replicas,
        model: &CausalLm,
        pairs: &[&Pair],
    ) -> Result<(GradientsParams, PairValues)> {
        let micro_batches: Vec<&[&Pair]> = self.micro_batches(pairs).collect();
        let num_devices = replicas.num_devices();
        let mut shares = replicas.each(model, |device, replica| {
            let own: Vec<&[&Pair]> = micro_batches.iter().skip(device).step_by(num_devices).copied().collect();
            self.share(replica, &own, pairs.len())
        });
        let (mut sum, mut read) = (GradientsAccumulator::new(), Vec::new());
        let device = model.device().without_autodiff();
        for (i, share) in shares.drain(..).enumerate() {
            let Share { gradients, values } = share?;
            let gradients = if i == 0 { gradients } else { gradients.to_device(&device, model) };
            sum.accumulate(model, gradients);
            read.push(values.into_iter());
        }
        let mut all = PairValues::default();
        for (i, micro_batch) in micro_batches.iter().enumerate() {
            let values = read[i % num_devices].next().expect("a device reads every micro-batch of its share");
            all.add(micro_batch, &values);
        }
        Ok((sum.grads(), all))
    }

    /// One device's part of an update.
    fn share(&self, model: &CausalLm, micro_batches: &[&[&Pair]], num_pairs_of_update: usize) -> Result<Share> {
        let (mut sum, mut values) = (GradientsAccumulator::new(), Vec::new());
        for micro_batch in micro_batches {
            let batch = self.batch(micro_batch);
            let saves_memory = self.config.activation_checkpointing;
            let (gradients, read) = backward::gradients(model, &batch, saves_memory, |hidden| {
                let tokens = read_tokens(model, hidden, &batch, !saves_memory);
                let log_probs = sum_by_sequence(tokens.log_probs.clone(), &batch);
                let noise = self.noise(model, tokens, micro_batch);
                self.loss(log_probs, noise, micro_batch, num_pairs_of_update)
            });
            sum.accumulate(model, gradients);
            values.push(weights::to_host(read)?);
        }
        Ok(Share { gradients: sum.grads(), values })
    }

    /// The pairs of one update, as they are computed together.
    pub fn micro_batches<'a, 'p>(&self, pairs: &'a [&'p Pair]) -> impl Iterator<Item = &'a [&'p Pair]> {
        micro_batches(pairs, self.config.micro_batch_size, self.config.max_tokens)
    }

    /// Demonstrations first, then the self-generated responses, pair by pair.
    pub fn batch<'a>(&self, pairs: &[&'a Pair]) -> Batch {
        let sequence = |pair: &'a Pair, response: &'a ScoredResponse| Sequence {
            prompt_ids: &pair.prompt_ids,
            response_ids: &response.token_ids,
        };
        let demonstrations = pairs.iter().map(|pair| sequence(pair, &pair.demonstration));
        let self_generated =
            pairs.iter().flat_map(|pair| pair.self_generated.iter().map(|response| sequence(pair, response)));
        let sequences: Vec<Sequence<'_>> = demonstrations.chain(self_generated).collect();
        Batch::new(&sequences, self.num_tokens_multiple)
    }

    /// What the variance reduction takes out of each comparison's loss, `[C]`, where the reference's distributions are
    /// known.
    fn noise(&self, model: &CausalLm, tokens: ReadTokens, pairs: &[&Pair]) -> Option<Tensor<1>> {
        let known = pairs.iter().flat_map(|pair| pair.self_generated.iter().zip(&pair.distributions));
        let responses: Vec<_> = known
            .map(|(response, distributions)| variance_reduction::Response {
                token_ids: &response.token_ids,
                distributions,
            })
            .collect();
        variance_reduction::noise(self.objective, model, tokens, &responses)
    }

    /// The micro-batch's part of the mean loss, `[1]`, and the values that [`PairValues::add`] reads. Each of C
    /// comparisons sets a demonstration beside one of its self-generated responses and counts as its share of the pair.
    fn loss(
        &self,
        log_probs: Tensor<1>,
        noise: Option<Tensor<1>>,
        pairs: &[&Pair],
        num_pairs_of_update: usize,
    ) -> (Tensor<1>, Tensor<1>) {
        let device = log_probs.device();
        let num_pairs = pairs.len();
        let num_self_generated = log_probs.dims()[0] - num_pairs;
        let pair_of_comparison: Vec<usize> =
            pairs.iter().enumerate().flat_map(|(i, pair)| std::iter::repeat_n(i, pair.num_comparisons())).collect();
        let demonstration = side(
            repeated(log_probs.clone().narrow(0, 0, num_pairs), &pair_of_comparison),
            pair_of_comparison.iter().map(|i| &pairs[*i].demonstration),
        );
        let self_generated = (num_self_generated > 0).then(|| {
            let responses = pairs.iter().flat_map(|pair| &pair.self_generated);
            side(log_probs.clone().narrow(0, num_pairs, num_self_generated), responses)
        });
        let loss = self.objective.loss(&demonstration, self_generated.as_ref());
        let loss = match noise {
            Some(noise) => loss.without_noise(noise),
            None => loss,
        };
        let loss = loss.normalized(self.normalizer);
        let num_clamped = loss.num_clamped.unwrap_or_else(|| Tensor::zeros([1], &device.clone().without_autodiff()));
        let read = [loss.total.clone(), loss.demonstration, loss.self_generated, num_clamped, log_probs];
        let read = Tensor::cat(read.map(without_graph).to_vec(), 0);
        let share = |i: &usize| 1.0 / pairs[*i].num_comparisons() as f32;
        let shares = constant(pair_of_comparison.iter().map(share).collect(), &loss.total);
        ((loss.total * shares).sum() / num_pairs_of_update as f64, read)
    }
}

/// What one device found.
struct Share {
    gradients: GradientsParams,
    /// For each of its micro-batches.
    values: Vec<Vec<f32>>,
}

fn without_graph(tensor: Tensor<1>) -> Tensor<1> {
    if tensor.is_autodiff() { tensor.inner() } else { tensor }
}

/// One side of C comparisons from its policy log-probs `[C]`.
fn side<'a>(policy: Tensor<1>, responses: impl Iterator<Item = &'a ScoredResponse>) -> SideLogProbs {
    let (reference, num_tokens): (Vec<f32>, Vec<f32>) =
        responses.map(|response| (response.reference_log_prob as f32, response.token_ids.len() as f32)).unzip();
    let (reference, num_tokens) = (constant(reference, &policy), constant(num_tokens, &policy));
    SideLogProbs { policy, reference, num_tokens }
}

/// `values` of pairs, `[B]`, as those of their comparisons, `[C]`.
fn repeated(values: Tensor<1>, pair_of_comparison: &[usize]) -> Tensor<1> {
    if pair_of_comparison.len() == values.dims()[0] {
        return values; // one each
    }
    let places: Vec<i32> = pair_of_comparison.iter().map(|i| *i as i32).collect();
    let places = int_tensor(&places, &values.device());
    values.select(0, places)
}

/// A vector on the device of `like`, without a graph.
fn constant(values: Vec<f32>, like: &Tensor<1>) -> Tensor<1> {
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), &like.device().without_autodiff())
}

/// `odd` are the places of the pairs whose loss is not finite; if there is none, it is the gradient of their sum.
fn not_finite(pairs: &[&Pair], odd: &[usize], grad_norm: f64) -> Error {
    let rows = |places: &mut dyn Iterator<Item = usize>| {
        places.map(|i| pairs[i].index.to_string()).collect::<Vec<_>>().join(", ")
    };
    let message = match odd {
        [] => format!(
            "the gradient is not finite (norm {grad_norm}); rows {}, counted from 0",
            rows(&mut (0..pairs.len()))
        ),
        _ => format!("the loss is not finite; rows {}, counted from 0", rows(&mut odd.iter().copied())),
    };
    Error::training(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::examples::Example;

    #[test]
    fn what_is_not_finite_names_the_rows_behind_it() {
        let pair = |index: usize| {
            Pair::demonstration_only(&Example {
                index,
                prompt_ids: vec![3],
                demonstration_ids: vec![4],
                self_generated_ids: None,
                demonstration_text: None,
            })
        };
        let pairs = [pair(7), pair(2), pair(9)];
        let pairs: Vec<&Pair> = pairs.iter().collect();
        let loss = not_finite(&pairs, &[0, 2], 1.0);
        assert_eq!(
            (loss.exit_code(), loss.to_string().as_str()),
            (5, "the loss is not finite; rows 7, 9, counted from 0")
        );
        let gradient = not_finite(&pairs, &[], f64::INFINITY);
        assert_eq!(gradient.to_string(), "the gradient is not finite (norm inf); rows 7, 2, 9, counted from 0");
    }
}
