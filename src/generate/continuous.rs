//! Continuous batching: every sequence has a slot of its own, and a free slot goes to the next prompt at once.
//!
//! A pass holds one row for each sequence that is being written, and what room is left is filled with rows of prompts that
//! are still being read. Weights are read once a pass, whatever the number of its rows.

use super::sampler::Sampler;
use super::{Answer, Decoding, OnEvent, PASS_ROWS, Request, max_new_tokens};
use crate::error::Result;
use crate::model::decoder::{Decoder, Row};

/// A prompt and its answer, in a slot.
struct Sequence<'a> {
    prompt_ids: &'a [u32],
    answer: Answer,
    slot: usize,
    /// Tokens that are in the cache.
    num_read: usize,
    /// The next token, if this pass gave one.
    sampled: Option<(u32, f32)>,
    is_due: bool,
}

pub(super) fn answer(
    decoder: &mut Decoder,
    requests: &[Request],
    context: usize,
    decoding: &Decoding,
    on_event: OnEvent<'_>,
) -> Result<()> {
    let len = |request: &Request| request.prompt_ids.len() + max_new_tokens(request, context, decoding);
    let capacity = requests.iter().map(len).max().unwrap_or(0);
    let num_slots = decoding.batch_size.min(requests.len());
    let mut cache = decoder.cache(num_slots, capacity);
    let sampler = Sampler::new(decoding.sampling.clone());
    let mut waiting = requests.iter().enumerate();
    let mut free: Vec<usize> = (0..num_slots).collect();
    let mut sequences: Vec<Sequence<'_>> = Vec::new();
    loop {
        while let Some(slot) = free.pop() {
            let Some((index, request)) = waiting.next() else { break };
            let answer = Answer::new(index, request, context, decoding);
            let prompt_ids = &request.prompt_ids;
            sequences.push(Sequence { prompt_ids, answer, slot, num_read: 0, sampled: None, is_due: false });
        }
        if sequences.is_empty() {
            return Ok(());
        }
        let rows = rows_of_pass(&mut sequences, PASS_ROWS.max(num_slots));
        let mut due: Vec<&mut Sequence<'_>> = sequences.iter_mut().filter(|sequence| sequence.is_due).collect();
        decoder.pass(&rows, &mut cache, &mut due, |sequence, logits| {
            sequence.sampled = sampler.sample(logits, &mut sequence.answer.stream);
        })?;
        for sequence in due {
            sequence.answer.push(sequence.sampled, decoding, on_event)?;
        }
        sequences.retain(|sequence| {
            if sequence.answer.is_done() {
                free.push(sequence.slot);
            }
            !sequence.answer.is_done()
        });
    }
}

/// The next token of every sequence that is being written, and as much of the other prompts as there is room for.
fn rows_of_pass(sequences: &mut [Sequence<'_>], most_rows: usize) -> Vec<Row> {
    let is_written = |sequence: &Sequence<'_>| sequence.num_read >= sequence.prompt_ids.len();
    let mut room = most_rows - sequences.iter().filter(|sequence| is_written(sequence)).count();
    let mut rows = Vec::new();
    for sequence in sequences {
        let (slot, start) = (sequence.slot, sequence.num_read);
        let unread = match is_written(sequence) {
            true => &sequence.answer.response.token_ids[start - sequence.prompt_ids.len()..],
            false => {
                let unread = &sequence.prompt_ids[start..];
                let unread = &unread[..unread.len().min(room)];
                room -= unread.len();
                unread
            }
        };
        sequence.num_read += unread.len();
        sequence.is_due = !unread.is_empty() && sequence.num_read >= sequence.prompt_ids.len();
        let tokens = unread.iter().enumerate();
        rows.extend(tokens.map(|(i, id)| Row { token_id: *id, slot, position: start + i, wants_logits: false }));
        if let (true, Some(last)) = (sequence.is_due, rows.last_mut()) {
            last.wants_logits = true;
        }
    }
    rows
}
