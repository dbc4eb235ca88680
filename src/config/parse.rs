//! Configuration text: RON in, RON out.
//!
//! Not here: what the writer of a wrong text is told, see `explain`; single values from the command line, see `overrides`.

use ron::extensions::Extensions;
use ron::ser::PrettyConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::explain::{explain, names_methods};
use super::{RunConfig, ranges};
use crate::error::{Error, Result};

/// Longer texts are refused unread: a configuration has some hundred lines.
const MAX_BYTES: usize = 1 << 20;
/// Brackets nested deeper than this are refused. A configuration needs 4; a hostile one could exhaust the stack.
const MAX_DEPTH: usize = 32;

/// RON as this crate reads and writes it: `lr: 1e-4` instead of `lr: Some(1e-4)`.
pub(super) fn dialect() -> ron::Options {
    ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME).with_recursion_limit(MAX_DEPTH)
}

/// See [`RunConfig::from_ron`].
pub(super) fn from_ron(text: &str, origin: &str) -> Result<RunConfig> {
    let config: RunConfig = read(text, origin).map_err(|error| match names_methods(text) {
        true => error.with_hint("this is a comparison's file, the first word after `gsil compare`"),
        false => error,
    })?;
    ranges::check_finite(&config).map_err(|error| Error::config(origin, error.to_string()))?;
    Ok(config)
}

/// Any configuration's text; numbers that are not finite pass.
pub(super) fn read<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T> {
    if text.len() > MAX_BYTES {
        let message = format!("a configuration of {} bytes; at most {MAX_BYTES} are read", text.len());
        return Err(Error::config(origin, message).with_hint("is this a data file?"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    dialect().from_str(text).map_err(|error| explain(&error, text, origin))
}

/// See [`RunConfig::to_ron`].
pub(super) fn to_ron(config: &impl Serialize) -> Result<String> {
    let layout = PrettyConfig::new().compact_arrays(true);
    let mut text = dialect()
        .to_string_pretty(config, layout)
        .map_err(|error| Error::config("config.ron", format!("cannot be written: {error}")))?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    fn error_of(text: &str) -> String {
        RunConfig::from_ron(text, "run.ron").unwrap_err().to_string()
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_by_key() {
        assert!(error_of("(train: (lr: NaN))").contains("run.ron: train.lr: NaN"));
        assert!(error_of("(objective: (shift: -inf))").contains("objective.shift: -inf"));
        assert!(error_of("(generation: (temperature: 1e999))").contains("generation.temperature: inf"));
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_are_read() {
        assert_eq!(RunConfig::from_ron("\u{feff}(\r\n seed: 3,\r\n)\r\n", "run.ron").unwrap().seed, 3);
    }

    #[test]
    fn sections_can_be_switched_on_and_off_in_a_file() {
        let config =
            RunConfig::from_ron("(lora: (), sft: None, model: \"m.gguf\", train: (lr: 1e-4))", "run.ron").unwrap();
        assert_eq!(config.lora, Some(super::super::LoraConfig::default()));
        assert_eq!((config.sft, config.model.as_deref(), config.train.lr), (None, Some("m.gguf"), Some(1e-4)));
    }

    #[test]
    fn deep_and_huge_texts_are_errors_not_stack_overflows() {
        for unit in
            ["(", "[", "{", "Some(", "(lora:", "/*", "(sft: Some(", "#![enable(implicit_some)]", "\"", "r#", "{(", "-"]
        {
            let text = unit.repeat(MAX_BYTES / 4 / unit.len());
            error_of(&text);
            error_of(&format!("(train: (betas: {text}"));
            error_of(&format!("(model: {text}"));
        }
        assert!(error_of(&" ".repeat(MAX_BYTES + 1)).contains("at most 1048576"));
    }

    /// One random damage: cut, repeat, overwrite, or insert a word that configurations are sensitive to.
    fn damaged(text: &str, rng: &mut ChaCha8Rng) -> String {
        const WORDS: [&str; 24] = [
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            "\"",
            "'",
            "NaN",
            "inf",
            "-inf",
            "1e999",
            "-1",
            "0",
            "None",
            "Some(",
            "18446744073709551616",
            "/*",
            "//",
            "r#\"",
            "\\u{110000}",
            "é",
        ];
        let mut chars: Vec<char> = text.chars().collect();
        let at = rng.next_u32() as usize % chars.len();
        let end = (at + 1 + rng.next_u32() as usize % 12).min(chars.len());
        let word = WORDS[rng.next_u32() as usize % WORDS.len()].chars();
        match rng.next_u32() % 4 {
            0 => drop(chars.drain(at..end)),
            1 => {
                let piece = chars[at..end].to_vec();
                let to = rng.next_u32() as usize % chars.len();
                chars.splice(to..to, piece);
            }
            2 => drop(chars.splice(at..end, word)),
            _ => drop(chars.splice(at..at, word)),
        }
        chars.into_iter().collect()
    }

    #[test]
    fn fifty_thousand_damaged_quickstarts_never_panic() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        // Without comments, so that nearly every damage hits a key or a value.
        let lines: Vec<&str> =
            RunConfig::quickstart().lines().map(|line| line.split("//").next().unwrap().trim()).collect();
        let original = lines.join("\n").trim().to_owned();
        let mut num_read = 0;
        for _ in 0..50_000 {
            let mut text = original.clone();
            for _ in 0..=rng.next_u32() % 3 {
                text = damaged(&text, &mut rng);
            }
            if let Ok(mut config) = RunConfig::from_ron(&text, "damaged.ron") {
                num_read += 1;
                config.resolve();
                let valid = config.validate().is_ok();
                let written = config.to_ron().unwrap();
                let reread = RunConfig::from_ron(&written, "written.ron").unwrap();
                assert_eq!(reread, config);
                assert_eq!(reread.validate().is_ok(), valid);
            }
        }
        // Some damage is harmless (a changed digit); most is not. Both kinds must occur for this test to say anything.
        assert!((100..25_000).contains(&num_read), "{num_read} of 50000 were read");
    }
}
