//! One value changed from the command line: `train.lr=1e-4`. Also the list of all keys and "did you mean".
//!
//! The configuration becomes a tree of JSON values, one of them is replaced, and the tree is read back: so an override
//! can reach every key and no key has to be listed twice.

use serde_json::Value;

use super::other_names::{loss_hint, other_name};
use super::{LoraConfig, RunConfig, ServerConfig, TrainConfig, WordProblemsConfig, parse, ranges};
use crate::error::{Error, Result};

/// The nearest known word, if any is near. Where `known` are dotted keys, `lr` finds `train.lr`.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // 0.7 is where clap draws the line for flags.
    let mut best = (0.7, None);
    for key in known {
        let similarity = similarity(word, key);
        if similarity > best.0 {
            best = (similarity, Some(key));
        }
    }
    best.1
}

/// Similarity, 0 to 1, of two words or dotted keys: as a whole, part by part, or of the last parts alone.
fn similarity(word: &str, key: &str) -> f64 {
    // The right key in another section must not win over the right key in a misspelt one.
    const LAST_PART_WEIGHT: f64 = 0.9;
    let whole = word_similarity(word, key);
    match (word.rsplit_once('.'), key.rsplit_once('.')) {
        (Some((word_section, word_name)), Some((section, name))) => {
            let names = word_similarity(word_name, name);
            let parts = (word_similarity(word_section, section) + names) / 2.0;
            whole.max(parts).max(LAST_PART_WEIGHT * names)
        }
        (None, Some((_, name))) => whole.max(LAST_PART_WEIGHT * word_similarity(word, name)),
        _ => whole,
    }
}

/// Jaro similarity, which finds nothing in common between `xlr` and `lr`: one slip of the finger counts as near.
fn word_similarity(word: &str, key: &str) -> f64 {
    const ONE_SLIP: f64 = 0.92;
    let jaro = strsim::jaro(word, key);
    let is_one_slip = word.len().min(key.len()) > 1 && strsim::osa_distance(word, key) <= 1;
    if is_one_slip { jaro.max(ONE_SLIP) } else { jaro }
}

/// Every key of a configuration, sections and their keys, as `set` takes them: `seed`, `train`, `train.lr`, ..
pub(super) fn known_keys() -> Vec<String> {
    let mut keys = Vec::new();
    if let Ok(Value::Object(top)) = serde_json::to_value(with_every_section()) {
        for (name, value) in top {
            let inner = value.as_object().into_iter().flatten().map(|(key, _)| format!("{name}.{key}"));
            let inner: Vec<String> = inner.collect();
            keys.push(name);
            keys.extend(inner);
        }
    }
    keys
}

/// The default configuration with the optional sections switched on.
fn with_every_section() -> RunConfig {
    RunConfig {
        server: Some(ServerConfig::default()),
        lora: Some(LoraConfig::default()),
        sft: Some(TrainConfig::default()),
        word_problems: Some(WordProblemsConfig::default()),
        ..RunConfig::default()
    }
}

/// `config` with one `key=value` carried out. See [`RunConfig::set`].
pub(super) fn with_assignment(config: &RunConfig, assignment: &str) -> Result<RunConfig> {
    // JSON has no NaN: it would come back as another value, and the blame would fall on this assignment.
    ranges::check_finite(config)?;
    let Some((key, text)) = assignment.split_once('=') else {
        return Err(Error::config(assignment, "expected key=value").with_hint(hint_without_equals(assignment)));
    };
    let (key, text) = (key.trim(), text.trim());
    let tree = to_tree(config, assignment)?;
    let complete = to_tree(&with_every_section(), assignment)?;
    let Some(known) = at_path(&complete, key) else {
        return Err(Error::config(assignment, format!("unknown key `{key}`")).with_hint(hint_for_unknown(key)));
    };
    let is_section = known.is_object();
    let mut failure = None;
    for value in candidates(text, is_section) {
        match serde_json::from_value(replaced(&tree, &complete, key, value)) {
            Ok(changed) => return Ok(changed),
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    Err(if is_section { section_error(assignment, key) } else { value_error(assignment, text, failure) })
}

/// What was meant by a key that there is not.
fn hint_for_unknown(key: &str) -> String {
    if let Some(other) = other_name(key) {
        return other.hint();
    }
    let keys = known_keys();
    if let Some(own) = key.strip_prefix("base.").filter(|own| keys.iter().any(|known| known == own)) {
        return format!("without `base.`: `{own}`, which sets a comparison's base, too");
    }
    match nearest(key, keys.iter().map(String::as_str)) {
        // Several sections may have it.
        Some(near) if near.contains('.') && !key.contains('.') => {
            format!("did you mean `{}`?", key_named(key).as_deref().unwrap_or(near))
        }
        Some(near) => format!("did you mean `{near}`?"),
        None => "`gsil train --dry-run` prints every key in use, `gsil train --dry-run lora.rank=8` those of lora, too"
            .to_owned(),
    }
}

/// The key of `key=value`.
pub(crate) fn key_of(assignment: &str) -> &str {
    assignment.split('=').next().unwrap_or_default().trim()
}

/// Whether `name` is a key's last part, or all of it with `_` for `.`: `sft_lr` is `sft.lr`.
pub(crate) fn is_named(key: &str, name: &str) -> bool {
    key.rsplit('.').next() == Some(name) || is_whole_name(key, name)
}

fn is_whole_name(key: &str, name: &str) -> bool {
    key.replace('.', "_") == name.replace('.', "_")
}

/// The key, of all that hold a value, that `name` names as a whole; else the one whose last part is `name` or nearest to
/// it, of several that of `train`. Another trainer's name finds what it stands for.
pub(crate) fn key_named(name: &str) -> Option<String> {
    if let Some(other) = other_name(name) {
        return Some(other.key);
    }
    let keys = known_keys();
    let is_section = |key: &str| keys.iter().any(|other| other.starts_with(&format!("{key}.")));
    let values = || keys.iter().map(String::as_str).filter(|key| !is_section(key));
    if let Some(key) = values().find(|key| is_whole_name(key, name)) {
        return Some(key.to_owned());
    }
    let found = nearest(name, values())?;
    // A misspelt whole name says which section is meant.
    let is_last_part = |last: &str| word_similarity(name, last) > word_similarity(name, found);
    let of_train = found.rsplit_once('.').filter(|(_, last)| is_last_part(last));
    let of_train = of_train.map(|(_, last)| format!("train.{last}")).filter(|key| keys.contains(key));
    Some(of_train.unwrap_or_else(|| found.to_owned()))
}

/// What was meant by a word that sets nothing.
fn hint_without_equals(word: &str) -> String {
    match key_named(word) {
        Some(key) => {
            let note = other_name(word).map(|other| other.note()).unwrap_or_default();
            format!("for example: {key}=VALUE{note}")
        }
        None => "for example: train.lr=1e-4".to_owned(),
    }
}

/// The configuration as JSON.
fn to_tree(config: &RunConfig, assignment: &str) -> Result<Value> {
    serde_json::to_value(config).map_err(|error| Error::config(assignment, error.to_string()))
}

/// The value at a dotted path.
fn at_path<'a>(tree: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(tree, |node, part| node.get(part))
}

/// `tree` with `value` at `key`. A section on the way that is switched off starts from its defaults in `complete`.
fn replaced(tree: &Value, complete: &Value, key: &str, value: Value) -> Value {
    let mut changed = tree.clone();
    let (mut node, mut known) = (&mut changed, complete);
    for part in key.split('.') {
        if node.is_null() {
            *node = known.clone();
        }
        node = &mut node[part];
        known = &known[part];
    }
    *node = value;
    changed
}

/// The ways to read a value, likeliest first: `none`, then RON, then words without quotes: a list of them, and the text as it
/// stands (paths need none).
fn candidates(text: &str, is_section: bool) -> Vec<Value> {
    let is_none = matches!(text, "none" | "None");
    let mut values = Vec::new();
    if is_none {
        values.push(Value::Null);
    }
    if is_section {
        return values;
    }
    // NaN and infinities become null in JSON and would empty an optional value: only `none` may do that.
    if let Ok(value @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_))) =
        parse::dialect().from_str::<Value>(text)
    {
        values.push(value);
    }
    // A shell takes the quotes out of `["q_proj", "v_proj"]`; a person may quote some words of a list and not others.
    if let Some(words) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        values.push(words.split(',').map(|word| Value::String(word.trim().trim_matches('"').to_owned())).collect());
    }
    // A name with a value of its own: `top_k(16)`.
    if let Some((name, inner)) = text.strip_suffix(')').and_then(|text| text.split_once('('))
        && let Ok(inner @ Value::Number(_)) = parse::dialect().from_str::<Value>(inner)
    {
        values.push(serde_json::json!({ name: inner }));
    }
    values.push(Value::String(text.to_owned()));
    values
}

/// A section was given a value of its own.
fn section_error(assignment: &str, section: &str) -> Error {
    let problem = Error::config(assignment, format!("`{section}` is a section, not a value"));
    let keys = known_keys();
    let inside = keys.iter().find(|key| key.starts_with(&format!("{section}.")));
    match inside {
        Some(key) => problem.with_hint(format!(
            "set one of its keys, such as `{key}`; `server`, `lora`, `sft` and `word_problems` also take `none`"
        )),
        None => problem,
    }
}

/// A value has the wrong type: what was expected in plain words, what was given, and the nearest name if any is near.
fn value_error(assignment: &str, text: &str, failure: Option<serde_json::Error>) -> Error {
    let reason = failure.map(|error| error.to_string()).unwrap_or_default();
    let expected = reason.split_once("expected ").map_or("another value", |(_, expected)| expected);
    let plain = match expected {
        "f64" => "a number",
        "usize" | "u64" => "a whole number, 0 or more",
        "a boolean" => "true or false",
        "a string" => "a text",
        "a tuple of size 2" => "two numbers, as in [0.9, 0.999]",
        "string or map" => "a name, or one with a number as in top_k(16)",
        "newtype variant" => "a number with it, as in top_k(16)",
        "a sequence" => "a list of texts, as in [\"q_proj\", \"v_proj\"]",
        other => other,
    };
    let problem = Error::config(assignment, format!("expected {plain}, got `{text}`"));
    let names = || expected.split('`').skip(1).step_by(2);
    if let Some(hint) = loss_hint(text, names()) {
        return problem.with_hint(hint);
    }
    match nearest(text, names()).map(in_full) {
        Some(name) if name.contains('(') => {
            problem.with_hint(format!("did you mean `{name}`? A shell needs quotes there"))
        }
        Some(name) => problem.with_hint(format!("did you mean `{name}`?")),
        None if expected == "newtype variant" => problem.with_hint("a shell needs quotes around it"),
        None => problem,
    }
}

/// A name with the number that belongs to it.
pub(super) fn in_full(name: &str) -> &str {
    if name == "top_k" { "top_k(16)" } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ObjectiveName, OptimizerName};

    fn set_all(assignments: &[&str]) -> RunConfig {
        let mut config = RunConfig::default();
        for assignment in assignments {
            config.set(assignment).unwrap();
        }
        config
    }

    /// The error's text and its hint in one line.
    fn error_of(assignment: &str) -> String {
        let mut config = RunConfig::default();
        let error = config.set(assignment).unwrap_err();
        assert_eq!(config, RunConfig::default(), "a failed override changed something");
        assert_eq!(error.exit_code(), 2);
        format!("{error} | {}", error.hint().unwrap_or(""))
    }

    #[test]
    fn values_of_every_type_are_set() {
        let config = set_all(&[
            "train.lr=1e-4",
            "seed = 18446744073709551615",
            "objective.name=dil_ukl",
            "train.betas=(0.8, 0.98)",
            "evaluation.sampled=true",
            "lora.target_modules=[\"q_proj\"]",
            "objective.shift=2",
            "device=\"wgpu:1\"",
            "max_rows=7",
            "train.optimizer=sgd",
        ]);
        assert_eq!((config.train.lr, config.seed, config.max_rows), (Some(1e-4), u64::MAX, Some(7)));
        assert_eq!((config.objective.name, config.train.optimizer), (ObjectiveName::DilUkl, OptimizerName::Sgd));
        assert_eq!((config.train.betas, config.objective.shift), ((0.8, 0.98), 2.0));
        assert_eq!(config.lora.unwrap().target_modules, ["q_proj"]);
        assert_eq!(
            set_all(&["lora.target_modules=[q_proj, \"o_proj\"]"]).lora.unwrap().target_modules,
            ["q_proj", "o_proj"]
        );
        assert_eq!((config.device.as_str(), config.evaluation.sampled), ("wgpu:1", true));
    }

    #[test]
    fn texts_that_look_like_numbers_or_contain_equals_signs_stay_texts() {
        let config = set_all(&["model=007", "data=true", "output=a=b c", "evaluation.answer_marker=####"]);
        assert_eq!((config.model.as_deref(), config.data.as_deref()), (Some("007"), Some("true")));
        assert_eq!(config.output.as_deref(), Some("a=b c"));
        assert_eq!(config.evaluation.answer_marker.as_deref(), Some("####"));
    }

    #[test]
    fn a_section_is_switched_on_by_its_keys_and_off_by_none() {
        let mut config = set_all(&["lora.rank=4", "sft.lr=1e-3", "word_problems.num_train=10"]);
        assert_eq!(config.lora, Some(LoraConfig { rank: 4, ..LoraConfig::default() }));
        assert_eq!(config.sft, Some(TrainConfig { lr: Some(1e-3), ..TrainConfig::default() }));
        for assignment in ["lora=none", "sft=none", "word_problems=none"] {
            config.set(assignment).unwrap();
        }
        assert_eq!(config, RunConfig::default());
    }

    #[test]
    fn none_empties_optional_values_only() {
        assert_eq!(set_all(&["train.lr=1", "train.lr=none", "model=m", "model=none"]), RunConfig::default());
        assert_eq!(error_of("seed=none"), "seed=none: expected a whole number, 0 or more, got `none` | ");
        assert!(error_of("train=none").contains("`train` is a section"));
    }

    #[test]
    fn numbers_that_are_not_finite_never_pass_as_none() {
        for value in ["NaN", "inf", "-inf", "1e999"] {
            assert!(error_of(&format!("continued_sft_lr={value}")).contains("expected a number"), "{value}");
            assert!(error_of(&format!("train.betas=[{value}, 0.9]")).contains("expected"), "{value}");
        }
    }

    #[test]
    fn a_wrong_type_says_what_was_expected_and_what_was_given() {
        let number = "train.batch_size=-1: expected a whole number, 0 or more, got `-1` | ";
        assert_eq!(error_of("train.batch_size=-1"), number);
        assert_eq!(error_of("train.lr=fast"), "train.lr=fast: expected a number, got `fast` | ");
        assert_eq!(error_of("iterations=1.5"), "iterations=1.5: expected a whole number, 0 or more, got `1.5` | ");
        assert_eq!(error_of("evaluation.sampled=yes"), "evaluation.sampled=yes: expected true or false, got `yes` | ");
        assert!(error_of("train.betas=0.9").contains("expected two numbers"));
        assert!(error_of("train.betas=[0.9]").contains("expected two numbers"));
        assert!(error_of("lora.target_modules=q_proj").contains("expected a list of texts"));
        assert!(error_of("train.optimizer=adam").ends_with("got `adam` | did you mean `adamw`?"));
        let error = error_of("objective.variance_reduction=topk");
        assert!(error.ends_with("got `topk` | did you mean `top_k(16)`? A shell needs quotes there"), "{error}");
        let error = error_of("objective.variance_reduction=top_k");
        let message = "expected a number with it, as in top_k(16), got `top_k` | a shell needs quotes around it";
        assert_eq!(error, format!("objective.variance_reduction=top_k: {message}"));
        assert!(error_of("lora=8").contains("`lora.rank`"));
        assert!(error_of("train.lr").contains("expected key=value"));
    }

    #[test]
    fn a_word_without_an_equals_sign_is_shown_how_a_key_is_set() {
        for (word, example) in [("batch_size", "train.batch_size=VALUE"), ("zzz", "train.lr=1e-4")] {
            assert_eq!(error_of(word), format!("{word}: expected key=value | for example: {example}"));
        }
    }

    #[test]
    fn every_misspelt_key_finds_its_own_name() {
        let keys = known_keys();
        for key in &keys {
            let typos = [format!("{key}s"), format!("_{key}"), key.replacen('e', "ee", 1) + "x"];
            for typo in typos.iter().filter(|typo| !keys.contains(typo)) {
                let error = error_of(&format!("{typo}=1"));
                assert!(error.ends_with(&format!("| did you mean `{key}`?")), "{typo}: {error}");
            }
        }
    }

    #[test]
    fn a_whole_name_finds_its_key_and_a_part_that_of_train() {
        for key in known_keys() {
            let is_section = known_keys().iter().any(|other| other.starts_with(&format!("{key}.")));
            for name in [key.clone(), key.replace('.', "_")].iter().filter(|_| !is_section) {
                assert_eq!(key_named(name).as_ref(), Some(&key), "{name}");
            }
        }
        for (name, key) in [
            ("batch_size", "train.batch_size"),
            ("bach_size", "train.batch_size"),
            ("sft_epoch", "sft.epochs"),
            ("generation_bach_size", "generation.batch_size"),
        ] {
            assert_eq!(key_named(name).as_deref(), Some(key), "{name}");
        }
        for (name, key) in [
            ("batch_size", "train.batch_size"),
            ("max_grad_norm", "train.max_grad_norm"),
            ("final_lr_ratio", "train.final_lr_ratio"),
            ("max_prompt_length", "train.max_length"),
        ] {
            assert!(error_of(&format!("{name}=1")).ends_with(&format!("| did you mean `{key}`?")), "{name}");
        }
    }

    #[test]
    fn a_key_without_its_section_finds_its_section() {
        assert!(error_of("lr=1").ends_with("did you mean `train.lr`?"));
        assert!(error_of("base.device=flex").ends_with("`device`, which sets a comparison's base, too"));
        assert!(error_of("rank=1").ends_with("did you mean `lora.rank`?"));
        assert!(error_of("zzz=1").ends_with("`gsil train --dry-run lora.rank=8` those of lora, too"));
        for odd in ["=1", ".=1", "train..lr=1", "train.lr.x=1", "=", "seed.0=1"] {
            assert!(error_of(odd).contains("unknown key"), "{odd}");
        }
    }
}
