//! The range of every number. Rules that join several keys: [`super::rules`].
//!
//! RON can spell NaN and infinities, so every number of a configuration is listed in [`numbers`]; a test holds the list
//! complete.

use std::fmt;

use super::{RunConfig, TrainConfig, WordProblemsConfig};
use crate::error::{Error, Result};

/// The values a number may have. Counts are compared as `f64`: exact far beyond every limit here.
#[derive(Clone, Copy)]
struct Range {
    low: f64,
    low_is_allowed: bool,
    high: f64,
    high_is_allowed: bool,
}

/// `low..=high`.
const fn from_to(low: f64, high: f64) -> Range {
    Range { low, low_is_allowed: true, high, high_is_allowed: true }
}

/// Above `low`, up to and with `high`.
const fn above(low: f64, high: f64) -> Range {
    Range { low, low_is_allowed: false, high, high_is_allowed: true }
}

/// From 0 to just below 1: the decay of a running mean, which at 1 would never change.
const DECAY: Range = Range { low: 0.0, low_is_allowed: true, high: 1.0, high_is_allowed: false };
/// Learning rates. No upper limit but what fits single precision: a rate that is too high is seen in training.
const LEARNING_RATE: Range = above(0.0, 1e30);
/// Counts of rows, steps and responses.
const COUNT: Range = from_to(1.0, 1e9);
/// Counts that 0 switches off.
const COUNT_OR_OFF: Range = from_to(0.0, 1e9);
/// Lengths in tokens: up to a context of 2^20.
const TOKENS: Range = from_to(1.0, 1_048_576.0);
/// Times to wait: up to a day.
const SECONDS: Range = from_to(1.0, 86_400.0);
/// Widths and depths of the built-in model.
const MODEL_SIZE: Range = from_to(1.0, 4096.0);

impl Range {
    fn contains(&self, value: f64) -> bool {
        // NaN fails both comparisons.
        let above_low = value > self.low || (self.low_is_allowed && value == self.low);
        let below_high = value < self.high || (self.high_is_allowed && value == self.high);
        above_low && below_high
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = if self.low_is_allowed { "at least" } else { "above" };
        let to = if self.high_is_allowed { "at most" } else { "below" };
        write!(f, "must be {from} {} and {to} {}", plain(self.low), plain(self.high))
    }
}

/// A number without a tail of zeros.
fn plain(value: f64) -> String {
    if value != 0.0 && (value.abs() >= 1e9 || value.abs() < 1e-4) { format!("{value:e}") } else { value.to_string() }
}

/// One number of a configuration.
struct Number {
    key: String,
    value: f64,
    range: Range,
}

/// Refuses the first number that is outside of its range.
pub(super) fn check(config: &RunConfig) -> Result<()> {
    match numbers(config).into_iter().find(|number| !number.range.contains(number.value)) {
        Some(Number { key, value, range }) => {
            Err(Error::config(key, format!("{} is not possible; it {range}", plain(value))))
        }
        None => Ok(()),
    }
}

/// Refuses NaN and infinities, whatever else the values are.
pub(super) fn check_finite(config: &RunConfig) -> Result<()> {
    match numbers(config).into_iter().find(|number| !number.value.is_finite()) {
        Some(Number { key, value, range }) => Err(Error::config(key, format!("{value} is not possible; it {range}"))),
        None => Ok(()),
    }
}

/// Every number that is set, with its key and range. `seed` is left out: all of its values are good.
fn numbers(config: &RunConfig) -> Vec<Number> {
    let (objective, generation, evaluation) = (&config.objective, &config.generation, &config.evaluation);
    let mut list = vec![
        ("iterations", Some(config.iterations as f64), from_to(0.0, 10_000.0)),
        ("save_every", Some(config.save_every as f64), COUNT),
        ("keep_last", Some(config.keep_last as f64), from_to(1.0, 10_000.0)),
        ("keep_best", Some(config.keep_best as f64), from_to(0.0, 10_000.0)),
        ("max_rows", config.max_rows.map(|rows| rows as f64), COUNT),
        ("objective.scale", Some(objective.scale), above(0.0, 1000.0)),
        // Beyond 10 nats one side has no gradient left.
        ("objective.shift", Some(objective.shift), from_to(-10.0, 10.0)),
        ("objective.power", Some(objective.power), above(0.0, 1.0)),
        ("objective.sft_weight", Some(objective.sft_weight), from_to(0.0, 1000.0)),
        ("generation.max_new_tokens", Some(generation.max_new_tokens as f64), TOKENS),
        ("generation.temperature", Some(generation.temperature), from_to(0.0, 100.0)),
        ("generation.top_k", Some(generation.top_k as f64), COUNT_OR_OFF),
        ("generation.top_p", Some(generation.top_p), above(0.0, 1.0)),
        ("generation.samples_per_prompt", Some(generation.samples_per_prompt as f64), from_to(1.0, 1000.0)),
        ("generation.batch_size", Some(generation.batch_size as f64), COUNT),
        ("continued_sft_lr", config.continued_sft_lr, LEARNING_RATE),
        ("evaluation.max_rows", Some(evaluation.max_rows as f64), COUNT),
        ("evaluation.generate_rows", Some(evaluation.generate_rows as f64), COUNT_OR_OFF),
        ("evaluation.max_new_tokens", evaluation.max_new_tokens.map(|tokens| tokens as f64), TOKENS),
    ];
    if let Some(server) = &config.server {
        list.extend([
            ("server.max_in_flight", Some(server.max_in_flight as f64), from_to(1.0, 1024.0)),
            ("server.requests_per_minute", Some(server.requests_per_minute as f64), COUNT_OR_OFF),
            ("server.timeout_s", Some(server.timeout_s as f64), SECONDS),
            ("server.max_retries", Some(server.max_retries as f64), from_to(0.0, 100.0)),
            ("server.ready_timeout_s", Some(server.ready_timeout_s as f64), SECONDS),
            ("server.tolerance", Some(server.tolerance), above(0.0, 10.0)),
        ]);
    }
    if let Some(lora) = &config.lora {
        list.push(("lora.rank", Some(lora.rank as f64), from_to(1.0, 4096.0)));
        list.push(("lora.alpha", Some(lora.alpha as f64), from_to(1.0, 65_536.0)));
    }
    if let Some(problems) = &config.word_problems {
        let most = from_to(1.0, WordProblemsConfig::MAX_PROBLEMS as f64);
        list.extend([
            ("word_problems.num_train", Some(problems.num_train as f64), most),
            ("word_problems.num_test", Some(problems.num_test as f64), most),
            ("word_problems.slip_probability", Some(problems.slip_probability), from_to(0.0, 1.0)),
            ("word_problems.hidden_size", Some(problems.hidden_size as f64), MODEL_SIZE),
            ("word_problems.num_layers", Some(problems.num_layers as f64), from_to(1.0, 128.0)),
            ("word_problems.num_heads", Some(problems.num_heads as f64), MODEL_SIZE),
            ("word_problems.intermediate_size", Some(problems.intermediate_size as f64), from_to(1.0, 65_536.0)),
        ]);
    }
    let set =
        |(key, value, range): (&str, Option<f64>, Range)| Some(Number { key: key.to_owned(), value: value?, range });
    let mut numbers: Vec<Number> = list.into_iter().filter_map(set).collect();
    for (section, train) in stages(config) {
        numbers.extend(stage_numbers(section, train));
    }
    numbers
}

/// The training stages with the names of their sections.
pub(super) fn stages(config: &RunConfig) -> impl Iterator<Item = (&'static str, &TrainConfig)> {
    std::iter::once(("train", &config.train)).chain(config.sft.as_ref().map(|sft| ("sft", sft)))
}

/// The numbers of one training stage.
fn stage_numbers(section: &str, train: &TrainConfig) -> Vec<Number> {
    let list = [
        ("lr", train.lr, LEARNING_RATE),
        ("epochs", Some(train.epochs as f64), from_to(1.0, 100_000.0)),
        ("num_steps", train.num_steps.map(|steps| steps as f64), COUNT),
        ("batch_size", Some(train.batch_size as f64), COUNT),
        ("micro_batch_size", Some(train.micro_batch_size as f64), COUNT),
        ("max_tokens", Some(train.max_tokens as f64), COUNT_OR_OFF),
        ("betas", Some(train.betas.0), DECAY),
        ("betas", Some(train.betas.1), DECAY),
        ("alpha", Some(train.alpha), DECAY),
        ("momentum", Some(train.momentum), DECAY),
        ("epsilon", Some(train.epsilon), above(0.0, 1.0)),
        ("weight_decay", Some(train.weight_decay), from_to(0.0, 1000.0)),
        ("warmup_steps", Some(train.warmup_steps as f64), COUNT_OR_OFF),
        ("final_lr_ratio", Some(train.final_lr_ratio), from_to(0.0, 1.0)),
        ("max_grad_norm", Some(train.max_grad_norm), from_to(0.0, 1e30)),
        ("max_length", Some(train.max_length as f64), from_to(2.0, 1_048_576.0)),
    ];
    let set = |(key, value, range)| Some(Number { key: format!("{section}.{key}"), value: value?, range });
    list.into_iter().filter_map(set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::overrides;
    use crate::config::rules::tests::{complete, refusal};

    #[test]
    fn every_number_of_a_configuration_has_a_range() {
        let tree = serde_json::to_value(complete()).unwrap();
        let is_number = |key: &String| {
            let value = key.split('.').fold(&tree, |node, part| &node[part]);
            value.is_number() || value[0].is_number()
        };
        let mut in_tree: Vec<String> = overrides::known_keys().into_iter().filter(is_number).collect();
        let mut listed: Vec<String> = numbers(&complete()).into_iter().map(|number| number.key).collect();
        in_tree.retain(|key| key != "seed");
        in_tree.sort();
        listed.sort();
        listed.dedup();
        assert_eq!(listed, in_tree);
    }

    #[test]
    fn no_number_may_be_nan_infinite_or_outside_of_its_range() {
        for Number { key, range, .. } in numbers(&complete()) {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert!(!range.contains(bad), "{key} takes {bad}");
            }
            let outside = [range.low - 1.0, range.high * 1.5, -1e12];
            for bad in outside {
                assert!(!range.contains(bad), "{key} takes {bad}");
            }
        }
    }

    #[test]
    fn negative_numbers_are_refused_for_every_key_but_the_shift() {
        for key in numbers(&complete()).into_iter().map(|number| number.key) {
            let value = if key.ends_with("betas") { "[-0.5, 0.9]" } else { "-0.5" };
            let mut config = complete();
            let result = config.set(&format!("{key}={value}")).and_then(|()| config.validate());
            assert_eq!(result.is_ok(), key == "objective.shift", "{key}");
        }
    }

    #[test]
    fn zero_is_taken_only_where_it_means_off_or_none() {
        let mut with_zero = Vec::new();
        for key in numbers(&complete()).into_iter().map(|number| number.key) {
            let mut config = complete();
            let value = if key.ends_with("betas") { "[0, 0]" } else { "0" };
            if config.set(&format!("{key}={value}")).and_then(|()| config.validate()).is_ok() {
                with_zero.push(key);
            }
        }
        with_zero.retain(|key| !key.starts_with("sft."));
        with_zero.dedup();
        let expected = [
            "iterations",
            "keep_best",
            "objective.shift",
            "objective.sft_weight",
            "generation.temperature",
            "generation.top_k",
            "evaluation.generate_rows",
            "server.requests_per_minute",
            "server.max_retries",
            "word_problems.slip_probability",
            "train.max_tokens",
            "train.betas",
            "train.alpha",
            "train.momentum",
            "train.weight_decay",
            "train.warmup_steps",
            "train.final_lr_ratio",
            "train.max_grad_norm",
        ];
        assert_eq!(with_zero, expected);
    }

    #[test]
    fn a_refusal_names_key_value_and_range() {
        assert_eq!(refusal(&["train.lr=-1"]), "train.lr: -1 is not possible; it must be above 0 and at most 1e30");
        assert_eq!(
            refusal(&["generation.top_p=0"]),
            "generation.top_p: 0 is not possible; it must be above 0 and at most 1"
        );
        assert_eq!(
            refusal(&["train.betas=[0.9, 1.0]"]),
            "train.betas: 1 is not possible; it must be at least 0 and below 1"
        );
        assert_eq!(
            refusal(&["sft.batch_size=0"]),
            "sft.batch_size: 0 is not possible; it must be at least 1 and at most 1e9"
        );
    }
}
