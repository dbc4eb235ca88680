//! What a person is told whose configuration is not one: the place, what stands there, and what was probably meant.
//!
//! Not here: values that are read and then refused, see `rules` and `ranges`.

use std::path::Path;

use ron::error::{Position, SpannedError};

use super::other_names::{loss_hint, other_name};
use super::paths::DOUBLE_BACKSLASH;
use super::{overrides, place_of_own_key};
use crate::error::Error;

const COMMENT: &str = "a comment begins with //";
const UNCLOSED: &str = "is a closing `)` or `]` missing?";
const COMPARISON_LOOKS: &str = "a comparison is RON: (base: (model: \"..\"), methods: [(name: \"gsil\")])";
const RON_LOOKS: &str = "a configuration is RON, as `gsil init` writes it: (model: \"..\", train: (lr: 1e-5))";

/// A parser's error with its place, and what its writer may do.
pub(super) fn explain(error: &SpannedError, text: &str, origin: &str) -> Error {
    let problem = problem_at(error, text, origin);
    match hint_of_other_format(text, origin, problem.hint()) {
        Some(hint) => problem.with_hint(hint),
        None => problem,
    }
}

/// What to do with a text that is no RON at all. `hint` is what it would be told if it were.
fn hint_of_other_format(text: &str, origin: &str, hint: Option<&str>) -> Option<String> {
    let ending = Path::new(origin).extension()?.to_str()?.to_ascii_lowercase();
    let is_comment = |line: &&str| line.starts_with("//") || line.starts_with('#');
    let first_line =
        text.lines().map(str::trim_start).find(|line| !line.is_empty() && !is_comment(line)).unwrap_or_default();
    // Of keys in any spelling: `methods:`, `"methods":`, `methods =`.
    let looks = if text.contains("methods") { COMPARISON_LOOKS } else { RON_LOOKS };
    match ending.as_str() {
        "jsonl" | "ndjson" | "csv" | "tsv" => Some(
            "this looks like data, which is given with --data, in a comparison's file as base: (data: \"..\")"
                .to_owned(),
        ),
        "json" | "yaml" | "yml" | "toml" => Some(looks.to_owned()),
        _ if hint.is_some() => None,
        _ if first_line.starts_with("--") => Some(COMMENT.to_owned()),
        _ => (!first_line.starts_with(['(', '/'])).then(|| looks.to_owned()),
    }
}

/// The same for a text that is RON, with the nearest known key or name if one was unknown.
fn problem_at(error: &SpannedError, text: &str, origin: &str) -> Error {
    let start = error.span.start;
    let place = format!("{origin}:{}:{}", start.line, start.col);
    match &error.code {
        ron::Error::NoSuchStructField { expected, found, .. } => {
            let problem = Error::config(place, format!("unknown key `{found}`"));
            let place_of_comparison = place_of_own_key(found).filter(|_| names_methods(text));
            problem.with_hint(place_of_comparison.unwrap_or_else(|| key_hint(found, expected)))
        }
        // Of what is no number and has a character that a name has not, the library takes the whole for a name.
        ron::Error::SuggestRawIdentifier(word) => {
            let hint = match word.split_once('.') {
                _ if word.starts_with("--") => format!("{COMMENT}, and no dashes stand before a key"),
                _ if word.starts_with(|c: char| c.is_ascii_digit()) => {
                    "a value stands behind its key, as in `lr: 1e-4`; a number has a point, and no comma".to_owned()
                }
                Some((section, key)) => format!("in a file it is `{section}: ({key}: ..)`"),
                None => format!("names have `_`: `{}`", word.replace(['-', '+'], "_")),
            };
            Error::config(place, format!("`{word}` is no name")).with_hint(hint)
        }
        ron::Error::NoSuchEnumVariant { expected, found, .. } => {
            let problem = Error::config(place, format!("unknown name `{found}`; expected {}", one_of(expected)));
            let near = || overrides::nearest(found, expected.iter().copied()).map(overrides::in_full);
            let hint = loss_hint(found, expected.iter().copied());
            match hint.or_else(|| near().map(|name| format!("did you mean `{name}`?"))) {
                Some(hint) => problem.with_hint(hint),
                None => problem,
            }
        }
        ron::Error::IntegerOutOfBounds => Error::config(place, "expected a whole number, 0 or more, that fits 64 bits"),
        other => {
            let found = found_at(text, start);
            let message = match other {
                ron::Error::ExpectedDifferentStructName { .. } => format!("expected a section, found `{found}`"),
                _ if found.is_empty() => other.to_string(),
                _ => format!("{other}, found `{found}`"),
            };
            let problem = Error::config(place, message);
            let hint = match (other, rest(text, start).next()) {
                (ron::Error::ExpectedIdentifier, Some('#')) | (ron::Error::ExpectedAttribute, _) => Some(COMMENT),
                (ron::Error::Eof, _) => Some(UNCLOSED),
                (ron::Error::ExpectedComma, _) if is_at_end(text, start) => Some(UNCLOSED),
                _ => value_hint(other, &found, before(text, start), names_methods(text)),
            };
            match hint {
                Some(hint) => problem.with_hint(hint),
                None => problem,
            }
        }
    }
}

/// What the writer of a wrong value may do. `before` stands before it on its line.
fn value_hint(error: &ron::Error, found: &str, before: &str, is_comparison: bool) -> Option<&'static str> {
    match (error, found) {
        (_, "none") => Some("leave the key out, or write None where there may be none"),
        (ron::Error::ExpectedIdentifier, _) if before.ends_with('(') && !found.contains(':') => {
            Some(match is_comparison {
                true => "every value stands behind its key: (name: \"..\", set: [\"KEY=VALUE\"])",
                false => "every value stands behind its key: (KEY: VALUE)",
            })
        }
        (ron::Error::ExpectedIdentifier, "") => Some("is a comma too many, or a name missing?"),
        (ron::Error::ExpectedIdentifier, _) => Some("a name stands here, without quotes, such as `bernoulli`"),
        (ron::Error::InvalidEscape(_), _) => Some(DOUBLE_BACKSLASH),
        (ron::Error::ExpectedComma, _) => Some("is a comma missing, or a whole number needed?"),
        (ron::Error::ExpectedStructLike, _) if before.ends_with("top_k") => Some("a number belongs to it: top_k(16)"),
        _ => None,
    }
}

/// True of a comparison's file.
pub(super) fn names_methods(text: &str) -> bool {
    let without_comment = |line: &str| line.split("//").next().is_some_and(|own| own.contains("methods:"));
    text.lines().any(without_comment)
}

/// The rest of the value that starts at a place; nothing at the end of a line.
fn found_at(text: &str, start: Position) -> String {
    const MAX_CHARS: usize = 30;
    let rest: String = line_at(text, start)[before(text, start).len()..].chars().take(MAX_CHARS).collect();
    rest.split([',', ')']).next().unwrap_or_default().trim().to_owned()
}

/// What comes from a place on, line breaks and spaces left out.
fn rest(text: &str, place: Position) -> impl Iterator<Item = char> {
    let of_line = &line_at(text, place)[before(text, place).len()..];
    let lines = std::iter::once(of_line).chain(text.lines().skip(place.line));
    lines.flat_map(str::chars).filter(|c| !c.is_whitespace())
}

/// Whether a text ends with what stands at a place: the value there, or its last character.
fn is_at_end(text: &str, place: Position) -> bool {
    let is_in_a_value = |c| !matches!(c, ',' | ':' | ')');
    rest(text, place).nth(1).is_none() || rest(text, place).all(is_in_a_value)
}

/// What stands before a place on its line.
fn before(text: &str, place: Position) -> &str {
    let line = line_at(text, place);
    let end = line.char_indices().nth(place.col.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    &line[..end]
}

fn line_at(text: &str, place: Position) -> &str {
    text.lines().nth(place.line.saturating_sub(1)).unwrap_or_default()
}

/// What the writer of an unknown key may have meant: the same key at another place, or a similar one at this place.
fn key_hint(found: &str, expected: &[&str]) -> String {
    if expected.contains(&"methods") || expected.contains(&"set") {
        return comparison_key_hint(found, expected);
    }
    if let Some(other) = other_name(found) {
        return other.hint_at(expected);
    }
    let everywhere = overrides::known_keys();
    let of_train = everywhere.iter().find(|key| **key == format!("train.{found}"));
    if let Some(elsewhere) = of_train.or_else(|| everywhere.iter().find(|key| overrides::is_named(key, found))) {
        return match elsewhere.split_once('.') {
            Some((section, key)) => format!("`{key}` belongs in `{section}: ({key}: ..)`"),
            None => format!("`{elsewhere}` belongs in no section but beside them"),
        };
    }
    match overrides::nearest(found, expected.iter().copied()) {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!("known here: {}", one_of(expected)),
    }
}

/// The same for a key of a comparison, whose `base` holds those of a run.
fn comparison_key_hint(found: &str, expected: &[&str]) -> String {
    if let Some(other) = other_name(found) {
        return format!("here it is `{}`, in `base` or in a method's `set`{}", other.key, other.note());
    }
    match overrides::nearest(found, expected.iter().copied()) {
        Some(key) => format!("did you mean `{key}`?"),
        None if overrides::known_keys().iter().any(|key| key == found) => {
            format!("`{found}` belongs in `base: ({found}: ..)`; a file of one run is for `gsil train --config`")
        }
        None => format!("known here: {}", one_of(expected)),
    }
}

/// "`a`, `b` or `c`".
fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CompareConfig, RunConfig};

    /// The error's text and its hint in one line.
    fn error_of(text: &str) -> String {
        let error = RunConfig::from_ron(text, "run.ron").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        format!("{error} | {}", error.hint().unwrap_or(""))
    }

    #[test]
    fn an_unknown_key_is_named_with_line_column_and_the_nearest_known_key() {
        let error = error_of("(\n  train: (\n    batch_sise: 4,\n  ),\n)");
        assert_eq!(error, "run.ron:3:5: unknown key `batch_sise` | did you mean `batch_size`?");
    }

    #[test]
    fn a_key_of_another_place_is_sent_there() {
        assert_eq!(error_of("(lr: 1e-4)"), "run.ron:1:2: unknown key `lr` | `lr` belongs in `train: (lr: ..)`");
        assert!(error_of("(batch_size: 8)").ends_with("| `batch_size` belongs in `train: (batch_size: ..)`"));
        assert!(error_of("(sft_epochs: 2)").ends_with("| `epochs` belongs in `sft: (epochs: ..)`"));
        assert!(error_of("(train: (data: \"d\"))").ends_with("| `data` belongs in no section but beside them"));
        assert!(error_of("(train: (seed: 1))").ends_with("| `seed` belongs in no section but beside them"));
        assert!(error_of("(train: (zzz: 1))").contains("| known here: `lr`, `epochs`, "));
    }

    #[test]
    fn a_backslash_in_quotes_is_to_be_written_twice() {
        for text in [r#"(model: "C:\Users\me\smollm")"#, r#"(data: "D:\data.jsonl")"#] {
            let error = error_of(text);
            assert!(error.contains(":1:") && error.ends_with(&format!("| {DOUBLE_BACKSLASH}")), "{error}");
        }
        let written = RunConfig::from_ron(r##"(model: r"C:\Users\me")"##, "run.ron").unwrap();
        assert_eq!(written.model.unwrap(), r"C:\Users\me");
    }

    #[test]
    fn a_comparisons_file_is_sent_to_its_verb() {
        let error = error_of("(\n  base: (seed: 1),\n  methods: [(name: \"gsil\")],\n)");
        assert_eq!(
            error,
            "run.ron:2:3: unknown key `base` | this is a comparison's file, the first word after `gsil compare`"
        );
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones_and_the_nearest() {
        let error = error_of("(train: (optimizer: adam))");
        assert!(error.starts_with("run.ron:1:"), "{error}");
        assert!(error.ends_with("`adam`; expected `adamw`, `rmsprop` or `sgd` | did you mean `adamw`?"), "{error}");
    }

    #[test]
    fn a_name_that_needs_a_number_is_shown_with_one() {
        let error_of = |name: &str| error_of(&format!("(objective: (variance_reduction: {name}))"));
        assert!(error_of("topk").ends_with("| did you mean `top_k(16)`?"), "{}", error_of("topk"));
        assert!(error_of("top_k").ends_with("| a number belongs to it: top_k(16)"), "{}", error_of("top_k"));
        assert!(error_of("top_k, shift: 1").ends_with("| a number belongs to it: top_k(16)"));
    }

    #[test]
    fn none_as_the_command_line_spells_it_is_told_how_a_file_does() {
        let hint = "leave the key out, or write None where there may be none";
        assert_eq!(error_of("(sft: none)"), format!("run.ron:1:7: expected a section, found `none` | {hint}"));
        for text in ["(max_rows: none)", "(train: (lr: none, epochs: 2))", "(model: none)"] {
            assert!(error_of(text).ends_with(&format!(", found `none` | {hint}")), "{text}: {}", error_of(text));
        }
    }

    #[test]
    fn wrong_types_and_broken_text_are_named_with_their_place() {
        for text in
            ["(seed: -1)", "(train: (lr: \"x\"))", "(iterations: 1.5)", "(lora: (rank: [8]))", "(", "", "(seed: 1"]
        {
            assert!(error_of(text).starts_with("run.ron:1:"), "{text}: {}", error_of(text));
        }
        assert!(error_of("(seed: 1, seed: 2)").contains("seed"));
        assert!(error_of("(seed: -1)").contains(": expected a whole number, 0 or more"));
        assert!(error_of("(train: (lr: \"x\"))").ends_with(": Expected float, found `\"x\"` | "));
        assert!(
            error_of("(objective: (name: \"brier\"))")
                .ends_with("a name stands here, without quotes, such as `bernoulli`")
        );
        for text in [
            "(\n  seed: 1,\n  lora: (rank: 8),\n",
            "(seed: 12",
            "(model: \"m\", data: \"rows.jsonl\"",
            "(lora: (rank: 8",
        ] {
            assert!(error_of(text).ends_with(&format!("| {UNCLOSED}")), "{text}: {}", error_of(text));
        }
        assert!(error_of("(iterations: 1.5)").contains("found `.5` | is a comma missing"));
        for text in [
            "(\n  # one\n  seed: 1)",
            "(seed: 1, # one\n iterations: 2)",
            "# one\n(seed: 1)",
            "(\n  -- one\n  seed: 1)",
            "-- one\n(seed: 1)",
        ] {
            assert!(error_of(text).contains("| a comment begins with //"), "{text}: {}", error_of(text));
        }
        for (text, told) in [
            ("(model: \"m\", data: \"d\",, seed: 1)", "Expected identifier | is a comma too many"),
            ("(train: (lr: 1,5e-5))", "`5e-5` is no name | a value stands behind its key, as in `lr: 1e-4`"),
            ("(\n  train.lr: 1e-4)", "`train.lr` is no name | in a file it is `train: (lr: ..)`"),
            ("(train: (batch-size: 4))", "`batch-size` is no name | names have `_`: `batch_size`"),
            ("(objective: (name: dil-lsif))", "`dil-lsif` is no name | names have `_`: `dil_lsif`"),
        ] {
            assert!(error_of(text).contains(told), "{text}: {}", error_of(text));
        }
    }

    #[test]
    fn data_and_json_in_place_of_a_configuration_are_told_apart() {
        let hint = |text: &str, origin: &str| {
            let error = RunConfig::from_ron(text, origin).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{origin}:1:1: ")), "{error}");
            error.hint().map(str::to_owned)
        };
        let row = "{\"prompt\": \"a\", \"response\": \"b\"}\n";
        for (text, origin) in [(row, "my rows.jsonl"), ("prompt,response\na,b\n", "rows.csv")] {
            assert!(hint(text, origin).unwrap().starts_with("this looks like data, which is given with --data"));
        }
        for origin in ["gsil.json", "gsil.ron"] {
            assert_eq!(hint("{\"model\": \"m\"}", origin).as_deref(), Some(RON_LOOKS), "{origin}");
        }
        for text in ["model: \"m\"", "// one\nmodel = \"m\"", "[train]\nlr = 1e-4"] {
            assert!(error_of(text).ends_with(&format!("| {RON_LOOKS}")), "{text}: {}", error_of(text));
        }
        let methods = "base: (seed: 1),\nmethods: [(name: \"gsil\")]";
        let comparison =
            |text: &str| CompareConfig::from_ron(text, "c.ron").map_err(|error| format!("{:?}", error.hint()));
        assert_eq!(comparison(methods).unwrap_err(), format!("{:?}", Some(COMPARISON_LOOKS)));
        let unnamed = comparison("(methods: [(\"sft\", [\"objective.name=sft\"])])").unwrap_err();
        assert!(unnamed.contains("every value stands behind its key: (name: "), "{unnamed}");
        let in_one_line = comparison("(base: (seed: 1), methods: [(\"sft\", [\"objective.name=sft\"])])").unwrap_err();
        assert_eq!(in_one_line, unnamed);
        assert!(!names_methods("(\n  // methods: later\n  seed: 1)"));
        assert!(error_of("(objective: (\"bernoulli\"))").ends_with("every value stands behind its key: (KEY: VALUE)"));
        comparison(COMPARISON_LOOKS.split_once(": ").unwrap().1).unwrap();
        assert!(error_of("RunConfig(train: (batch_sise: 4))").ends_with("| did you mean `batch_size`?"));
        let example = RON_LOOKS.split_once(": (").unwrap().1;
        RunConfig::from_ron(&format!("({example}"), "the example of the hint").unwrap();
        assert_eq!(error_of("(train: (lr: \"x\"))").split_once(" | ").unwrap().1, "", "RON has no such hint");
    }
}
