//! TensorBoard event files: the scalars of a run, made anew from its files whenever its report is written.
//!
//! ```text
//! file    records, one after the other                                  the TFRecord format
//! record  length u64 | masked CRC of length u32 | data | masked CRC of data u32      little endian
//! data    Event { 1: wall_time double, 2: step int64, 3: file_version string | 5: Summary }
//! Summary { 1: Value { 1: tag string, 2: simple_value float }, .. }     protobuf
//! ```
//! Made anew, the file cannot hold a step twice after a resumed run. Source: `tensorflow/core/util/event.proto`,
//! `tensorflow/core/framework/summary.proto`, `tensorflow/core/lib/io/record_writer.cc`. Crates that write this format
//! pull in a protobuf compiler or image decoders, or have not been touched for years.

use super::run_files::{Iteration, RunFiles};
use crate::records::evaluation::EvaluationRow;
use crate::records::figures::{ACCURACY, FLEXIBLE, GREEDY, IN_FORMAT, LOG_PROB, SAMPLED, TOKENS};
use crate::records::stage::{CONTINUED_SFT, Stage};
use crate::records::update::{LogRatios, UpdateRow};

/// The file inside `tb/`. TensorBoard looks for `tfevents` in a name.
pub const FILE_NAME: &str = "events.out.tfevents.gsil";

/// A moment of the run and its scalars.
struct Event {
    step: usize,
    /// Seconds of training so far.
    seconds: f64,
    scalars: Vec<(String, f64)>,
}

/// The whole file. Each event's wall time is the start of the run plus the seconds of training until then.
pub fn event_file(run: &RunFiles) -> Vec<u8> {
    let mut bytes = record(&first_event(run.began_s));
    for event in events(run) {
        bytes.extend(record(&encode(&event, run.began_s)));
    }
    bytes
}

/// In the order of steps: responses before the updates that they are for, evaluations after those that they judge. A
/// file of the same run a little later begins with the same bytes.
fn events(run: &RunFiles) -> Vec<Event> {
    let (mut events, mut seconds) = (Vec::new(), 0.0);
    let mut evaluations = run.evaluations.iter().peekable();
    for update in &run.updates {
        while let Some(row) = evaluations.next_if(|row| row.total_steps < update.total_step) {
            events.push(Event { step: row.total_steps, seconds, scalars: of_evaluation(row) });
        }
        let begins = |iteration: &&Iteration| update.stage == Stage::Iteration(iteration.number).to_string();
        if let (1, Some(iteration)) = (update.stage_step, run.iterations.iter().find(begins)) {
            events.push(Event { step: update.total_step - 1, seconds, scalars: of_responses(iteration) });
        }
        seconds += update.metrics.seconds;
        events.push(Event { step: update.total_step, seconds, scalars: of_update(update) });
    }
    events.extend(evaluations.map(|row| Event { step: row.total_steps, seconds, scalars: of_evaluation(row) }));
    events
}

/// The losses of stages are different things, and so have different tags.
fn of_update(update: &UpdateRow) -> Vec<(String, f64)> {
    let prefix = if update.is_of_iteration() { "gsil".to_owned() } else { update.stage.replace(' ', "_") };
    let metrics = &update.metrics;
    let sides = |value: f64| update.is_of_iteration().then_some(value);
    let of_ratios = |figure: fn(LogRatios) -> f64| metrics.log_ratios.map(figure);
    let scalars = [
        ("loss", Some(metrics.loss)),
        ("loss_demonstration", sides(metrics.loss_demonstration)),
        ("loss_self_generated", sides(metrics.loss_self_generated)),
        ("demonstration_log_prob_per_token", Some(metrics.demonstration_log_prob_per_token)),
        ("log_ratio_demonstration", of_ratios(|ratios| ratios.log_ratio_demonstration)),
        ("log_ratio_self_generated", of_ratios(|ratios| ratios.log_ratio_self_generated)),
        ("log_ratio_margin", of_ratios(|ratios| ratios.log_ratio_margin)),
        ("implicit_reward_accuracy", metrics.log_ratios.and_then(|ratios| ratios.implicit_reward_accuracy)),
        ("grad_norm", Some(metrics.grad_norm)),
        ("lr", Some(metrics.lr)),
        ("num_clamped", Some(metrics.num_clamped)),
        ("tokens_per_s", Some(metrics.tokens_per_s)),
    ];
    present(&prefix, &scalars)
}

fn of_responses(iteration: &Iteration) -> Vec<(String, f64)> {
    let counts = &iteration.counts;
    let share = |part: usize| Some(part as f64 / counts.responses.max(1) as f64);
    let scalars = [
        ("mean_tokens", Some(counts.mean_tokens)),
        ("identical", share(counts.identical)),
        ("empty", share(counts.empty)),
        ("unfinished", share(counts.unfinished)),
        ("duplicated", share(counts.duplicated)),
        ("dropped", share(counts.dropped)),
    ];
    present("self_generation", &scalars)
}

fn of_evaluation(row: &EvaluationRow) -> Vec<(String, f64)> {
    let scalars = [
        ("demonstration_log_prob_per_token", LOG_PROB),
        ("implicit_reward_accuracy", ACCURACY),
        ("greedy_ends_in_answer", IN_FORMAT),
        ("greedy_exact_match", GREEDY),
        ("greedy_flexible_match", FLEXIBLE),
        ("greedy_mean_tokens", TOKENS),
        ("sampled_exact_match", SAMPLED),
    ]
    .map(|(tag, figure)| (tag, (figure.of)(&row.evaluation)));
    let is_comparison = row.stage == CONTINUED_SFT;
    present(if is_comparison { "evaluation_continued_sft" } else { "evaluation" }, &scalars)
}

fn present(prefix: &str, scalars: &[(&str, Option<f64>)]) -> Vec<(String, f64)> {
    scalars.iter().filter_map(|(name, value)| Some((format!("{prefix}/{name}"), (*value)?))).collect()
}

fn first_event(began_s: f64) -> Vec<u8> {
    let mut event = double_field(1, began_s);
    event.extend(bytes_field(3, b"brain.Event:2"));
    event
}

fn encode(event: &Event, began_s: f64) -> Vec<u8> {
    let mut bytes = double_field(1, began_s + event.seconds);
    bytes.push(2 << 3); // step, a varint
    bytes.extend(varint(event.step as u64));
    let values = event.scalars.iter().flat_map(|(tag, value)| {
        let mut scalar = bytes_field(1, tag.as_bytes());
        scalar.push(2 << 3 | 5); // simple_value, 4 bytes
        scalar.extend((*value as f32).to_le_bytes());
        bytes_field(1, &scalar)
    });
    let summary: Vec<u8> = values.collect();
    bytes.extend(bytes_field(5, &summary));
    bytes
}

fn double_field(number: u8, value: f64) -> Vec<u8> {
    [&[number << 3 | 1][..], &value.to_le_bytes()].concat()
}

fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2], varint(bytes.len() as u64).as_slice(), bytes].concat()
}

/// Seven bits a byte, the lowest first; all but the last have their high bit set.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

/// CRC-32C, turned and shifted so that a CRC of data that holds CRCs is still a good one.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's polynomial, bit-reversed. A few MB at most: no table.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_that_of_rfc_3720() {
        // RFC 3720, B.4: 32 bytes of zeros, of ones, and incrementing; the CRC catalogue's check value of CRC-32/ISCSI.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn varints_have_seven_bits_a_byte() {
        // Protocol Buffers, "Encoding": 150 is 96 01.
        assert_eq!(varint(150), [0x96, 0x01]);
        assert_eq!(varint(127), [0x7f]);
        assert_eq!(varint(u64::MAX).len(), 10);
    }
}
