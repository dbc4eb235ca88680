//! Which values can work: a range for every number, and the rules that join several keys.
//!
//! RON can spell NaN and infinities, so every number of a configuration is listed in [`numbers`]; a test holds the list
//! complete.

use std::fmt;

use super::{LoraConfig, RunConfig, ServerConfig, TrainConfig, WordProblemsConfig, size};
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

/// See [`RunConfig::validate`].
pub(super) fn validate(config: &RunConfig) -> Result<()> {
    for Number { key, value, range } in numbers(config) {
        if !range.contains(value) {
            return Err(Error::config(key, format!("{} is not possible; it {range}", plain(value))));
        }
    }
    check_texts(config)?;
    check_sizes(config)?;
    check_iterations(config)?;
    config.objective.variance_reduction.check(config.objective.name, &config.generation)?;
    config.server.iter().try_for_each(|server| check_server(config, server))?;
    check_sources(config)
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
        ("objective.scale", objective.scale, above(0.0, 1000.0)),
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
fn stages(config: &RunConfig) -> impl Iterator<Item = (&'static str, &TrainConfig)> {
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

/// Texts and lists that must not be empty.
fn check_texts(config: &RunConfig) -> Result<()> {
    let texts = [
        ("device", Some(&config.device)),
        ("memory_limit", config.memory_limit.as_ref()),
        ("model", config.model.as_ref()),
        ("data", config.data.as_ref()),
        ("prompt_column", config.prompt_column.as_ref()),
        ("response_column", config.response_column.as_ref()),
        ("output", config.output.as_ref()),
        ("evaluation.data", config.evaluation.data.as_ref()),
        ("evaluation.answer_marker", config.evaluation.answer_marker.as_ref()),
    ];
    for (key, text) in texts {
        if text.is_some_and(|text| text.trim().is_empty()) {
            return Err(Error::config(key, "must not be empty"));
        }
    }
    if config.devices.iter().any(|name| name.trim().is_empty()) {
        return Err(Error::config("devices", "must not name an empty text"));
    }
    if let Some(first) = config.devices.first()
        && ![first.as_str(), "auto"].contains(&config.device.as_str())
    {
        let message = format!("`{}` contradicts `devices`, whose first is `{first}`", config.device);
        return Err(Error::config("device", message).with_hint("give one of the two: device=auto, or devices=[]"));
    }
    size::check_limit(config.memory_limit.as_deref())?;
    let Some(lora) = &config.lora else { return Ok(()) };
    let key = "lora.target_modules";
    if lora.target_modules.is_empty() {
        return Err(Error::config(key, "must name at least one layer"));
    }
    for (i, name) in lora.target_modules.iter().enumerate() {
        if !LoraConfig::MODULES.contains(&name.as_str()) {
            let problem = Error::config(key, format!("no layer is called `{name}`"));
            return Err(problem.with_hint(format!("known: {}", LoraConfig::MODULES.join(", "))));
        }
        if lora.target_modules[..i].contains(name) {
            return Err(Error::config(key, format!("names `{name}` twice")));
        }
    }
    Ok(())
}

/// Sizes that must fit each other.
fn check_sizes(config: &RunConfig) -> Result<()> {
    for (section, train) in stages(config) {
        let (micro, batch) = (train.micro_batch_size, train.batch_size);
        if micro > batch {
            let message = format!("{micro} is more than {section}.batch_size, {batch}; it must be at most that");
            return Err(Error::config(format!("{section}.micro_batch_size"), message));
        }
    }
    let generation = &config.generation;
    if generation.max_new_tokens >= config.train.max_length {
        let (tokens, length) = (generation.max_new_tokens, config.train.max_length);
        let message = format!("{tokens} leaves no room for a prompt; it must be below train.max_length, {length}");
        return Err(Error::config("generation.max_new_tokens", message));
    }
    if generation.temperature == 0.0 && generation.samples_per_prompt > 1 {
        let message = "at temperature 0 all responses to a prompt are the same; it must be 1";
        return Err(Error::config("generation.samples_per_prompt", message));
    }
    let Some(problems) = &config.word_problems else { return Ok(()) };
    if problems.num_train + problems.num_test > WordProblemsConfig::MAX_PROBLEMS {
        let most = WordProblemsConfig::MAX_PROBLEMS;
        let message = format!("with num_test there must be at most {most} problems: no two are alike");
        return Err(Error::config("word_problems.num_train", message));
    }
    if !problems.hidden_size.is_multiple_of(2 * problems.num_heads) {
        let (width, heads) = (problems.hidden_size, problems.num_heads);
        let message = format!("{width} must be a multiple of {}: {heads} heads of an even width", 2 * heads);
        return Err(Error::config("word_problems.hidden_size", message));
    }
    Ok(())
}

/// A run that would train nothing.
fn check_iterations(config: &RunConfig) -> Result<()> {
    if config.iterations == 0 && config.sft.is_none() {
        let problem = Error::config("iterations", "0 with no `sft` stage trains nothing; it must be at least 1");
        return Err(problem.with_hint("to judge a model without training it, use `gsil eval`"));
    }
    Ok(())
}

/// An address that can be called, and a server that can always have the policy that it is to serve.
fn check_server(config: &RunConfig, server: &ServerConfig) -> Result<()> {
    let host = ["http://", "https://"].iter().find_map(|scheme| server.url.strip_prefix(scheme));
    if host.is_none_or(|host| host.is_empty() || host.contains(char::is_whitespace)) {
        return Err(Error::config("server.url", format!("`{}` is no address", server.url))
            .with_hint("for example: http://localhost:8000/v1"));
    }
    if server.url.contains(['@', '?']) {
        let problem = Error::config("server.url", "names a user or a key: it would be written into the run folder");
        return Err(problem.with_hint("give the key in the environment, as GSIL_API_KEY"));
    }
    let makes_policies = config.iterations > 1 || config.sft.is_some() || config.word_problems.is_some();
    if server.on_policy_ready.is_empty() && makes_policies {
        let message = "must say how the server gets a policy that the run makes: it is not the start model alone";
        return Err(Error::config("server.on_policy_ready", message)
            .with_hint("name a command that serves the folder it is given, or use iterations=1 without sft"));
    }
    match server.on_policy_ready.first().is_some_and(|program| program.trim().is_empty()) {
        true => Err(Error::config("server.on_policy_ready", "begins with an empty text; it must be a program")),
        false => Ok(()),
    }
}

/// Columns are named in pairs; the built-in task brings its own model and data.
fn check_sources(config: &RunConfig) -> Result<()> {
    let columns = [("prompt_column", &config.prompt_column), ("response_column", &config.response_column)];
    let (given, missing): (Vec<_>, Vec<_>) = columns.into_iter().partition(|(_, column)| column.is_some());
    if let (Some((given, _)), Some((missing, _))) = (given.first(), missing.first()) {
        let message = format!("must be given with `{given}`: a row is read by both or by neither");
        return Err(Error::config(*missing, message));
    }
    if config.word_problems.is_none() {
        return Ok(());
    }
    let sources = [
        ("model", &config.model),
        ("data", &config.data),
        ("evaluation.data", &config.evaluation.data),
        ("prompt_column", &config.prompt_column),
    ];
    match sources.into_iter().find(|(_, source)| source.is_some()) {
        Some((key, _)) => Err(Error::config(key, "`word_problems` makes its own model and data; only one can be used")
            .with_hint("switch the built-in task off with word_problems=none")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::overrides;

    /// A valid configuration with every optional number set.
    fn complete() -> RunConfig {
        let stage = TrainConfig { num_steps: Some(4), ..TrainConfig::default() };
        let mut config = RunConfig {
            max_rows: Some(10),
            server: Some(ServerConfig { on_policy_ready: vec!["serve".to_owned()], ..ServerConfig::default() }),
            lora: Some(LoraConfig::default()),
            sft: Some(stage.clone()),
            train: stage,
            continued_sft_lr: Some(1e-4),
            word_problems: Some(WordProblemsConfig::default()),
            ..RunConfig::default()
        };
        config.evaluation.max_new_tokens = Some(8);
        config.resolve();
        config
    }

    fn refusal(assignments: &[&str]) -> String {
        let mut config = complete();
        config.validate().unwrap();
        for assignment in assignments {
            config.set(assignment).unwrap();
        }
        config.validate().unwrap_err().to_string()
    }

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

    #[test]
    fn keys_that_do_not_fit_each_other_are_refused() {
        let cases: [(&[&str], &str); 18] = [
            (&["train.micro_batch_size=9"], "train.micro_batch_size: 9 is more than train.batch_size, 8"),
            (&["sft.batch_size=1"], "sft.micro_batch_size: 2 is more than sft.batch_size, 1"),
            (&["generation.max_new_tokens=1024"], "generation.max_new_tokens: 1024 leaves no room"),
            (&["generation.temperature=0", "generation.samples_per_prompt=2"], "generation.samples_per_prompt: "),
            (&["iterations=0", "sft=none"], "iterations: 0 with no `sft`"),
            (&["lora.target_modules=[]"], "lora.target_modules: must name"),
            (&["lora.target_modules=[q_prj]"], "lora.target_modules: no layer is called `q_prj`"),
            (&["lora.target_modules=[\"q_proj\", \"q_proj\"]"], "lora.target_modules: names `q_proj` twice"),
            (&["model=m.gguf"], "model: `word_problems` makes its own"),
            (&["word_problems.num_train=20000"], "word_problems.num_train: with num_test"),
            (&["device=flex", "devices=[ndarray, flex]"], "device: `flex` contradicts `devices`"),
            (&["devices=[\"flex\", \"\"]"], "devices: must not name an empty text"),
            (&["server.url=localhost:8000"], "server.url: `localhost:8000` is no address"),
            (&["server.url=http://me:key@host/v1"], "server.url: names a user"),
            (&["server.on_policy_ready=[]"], "server.on_policy_ready: must say how"),
            (&["server.on_policy_ready=[\" \"]"], "server.on_policy_ready: begins with an empty text"),
            (&["memory_limit=8 gigs"], "memory_limit: `8 gigs` is no size"),
            (&["word_problems.num_heads=5"], "word_problems.hidden_size: 96 must be a multiple of 10"),
        ];
        for (assignments, start) in cases {
            assert!(refusal(assignments).starts_with(start), "{assignments:?}: {}", refusal(assignments));
        }
        for key in ["device", "output", "evaluation.answer_marker"] {
            assert_eq!(refusal(&[&format!("{key}= ")]), format!("{key}: must not be empty"));
        }
    }
}
