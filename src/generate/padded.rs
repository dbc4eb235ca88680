//! Decoding in batches of prompts padded to one length, from the model's own operations: on any device, and the reference.

use super::sampler::Sampler;
use super::{Answer, Decoding, OnEvent, Request};
use crate::error::Result;
use crate::model::{CausalLm, KvCache, weights};

pub(super) fn answer(model: &CausalLm, requests: &[Request], decoding: &Decoding, on_event: OnEvent<'_>) -> Result<()> {
    for batch in batches(requests, decoding.batch_size) {
        answer_batch(model, requests, &batch, decoding, on_event)?;
    }
    Ok(())
}

/// The indices of the requests that are decoded side by side: prompts of similar length, the longest first.
pub(super) fn batches(requests: &[Request], batch_size: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(requests[*i].prompt_ids.len()));
    order.chunks(batch_size).map(<[usize]>::to_vec).collect()
}

fn answer_batch(
    model: &CausalLm,
    requests: &[Request],
    indices: &[usize],
    decoding: &Decoding,
    on_event: OnEvent<'_>,
) -> Result<()> {
    let prompts: Vec<&[u32]> = indices.iter().map(|i| requests[*i].prompt_ids.as_slice()).collect();
    let prompt_lens: Vec<usize> = prompts.iter().map(|p| p.len()).collect();
    let longest = prompt_lens.iter().copied().max().unwrap_or(0);
    let context = model.config().max_position_embeddings;
    let mut answers: Vec<Answer> = indices.iter().map(|i| Answer::new(*i, &requests[*i], context, decoding)).collect();
    let sampler = Sampler::new(decoding.sampling.clone());
    let capacity = longest + answers.iter().map(|answer| answer.max_new_tokens).max().unwrap_or(0);
    let mut cache = KvCache::new(model.config(), &prompt_lens, capacity, &model.device());
    let mut input = left_padded(&prompts, longest);
    while answers.iter().any(|answer| !answer.is_done()) {
        let logits = weights::to_host(model.decode(&input, &mut cache))?; // [B, V]
        let sampled = sample(&mut answers, &logits, &sampler);
        // Rows that are done repeat token 0, which nobody reads.
        input = sampled.iter().map(|sampled| sampled.map_or(0, |(id, _)| id as i32)).collect();
        for (answer, sampled) in answers.iter_mut().zip(sampled) {
            if !answer.is_done() {
                answer.push(sampled, decoding, on_event)?;
            }
        }
    }
    Ok(())
}

/// The next token of every answer that is not done.
fn sample(answers: &mut [Answer], logits: &[f32], sampler: &Sampler) -> Vec<Option<(u32, f32)>> {
    use rayon::prelude::*;
    let vocab_size = logits.len() / answers.len();
    let rows = answers.par_iter_mut().zip(logits.par_chunks(vocab_size));
    rows.map(|(answer, logits)| match answer.is_done() {
        true => None,
        false => sampler.sample(logits, &mut answer.stream),
    })
    .collect()
}

fn left_padded(prompts: &[&[u32]], len: usize) -> Vec<i32> {
    let mut ids = vec![0; prompts.len() * len];
    for (row, prompt) in ids.chunks_mut(len).zip(prompts) {
        for (slot, id) in row[len - prompt.len()..].iter_mut().zip(*prompt) {
            *slot = *id as i32;
        }
    }
    ids
}
