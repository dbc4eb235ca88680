//! What some shells hand on, where others act on it: a comment, and `~`.

use crate::config::mistake_in_path;
use crate::error::Error;

/// Flags whose values may be any text.
const TEXT_FLAGS: [&str; 3] = ["--prompt", "--prompt-column", "--response-column"];

/// A word that a shell was meant to take away or to replace.
pub(super) fn left_by_the_shell(words: &[String]) -> Option<Error> {
    let before = std::iter::once("").chain(words.iter().map(String::as_str));
    let is_text = |flag: &str| TEXT_FLAGS.contains(&flag.split('=').next().unwrap_or_default());
    let mut pairs = before.zip(words).filter(|(flag, word)| !is_text(flag) && !is_text(word));
    pairs.find_map(|(_, word)| {
        if word == "#" {
            let error = Error::usage("`#` is no argument");
            return Some(error.with_hint("this shell hands comments on: leave out # and what follows it"));
        }
        let path = word.split_once('=').map_or(word.as_str(), |(_, path)| path);
        let (mistake, advice) = path.starts_with('~').then(|| mistake_in_path(path)).flatten()?;
        Some(Error::usage(format!("{word}: {mistake}")).with_hint(advice))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_unreplaced_tildes_are_told() {
        let hint = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            left_by_the_shell(&words).map(|error| error.hint().unwrap().to_owned())
        };
        for words in [&["train", "#", "with", "cards:"][..], &["devices", "#"], &["train", "--dry-run", "#", "see"]] {
            assert!(hint(words).unwrap().contains("leave out #"), "{words:?}");
        }
        for words in [
            &["train", "output=~/runs/x"][..],
            &["export", "runs/x", "--output=~/out"],
            &["train", "--data", "~/rows.jsonl"],
            &["report", "~"],
        ] {
            assert!(hint(words).unwrap().starts_with("write "), "{words:?}");
        }
        for words in [
            &["train", "data=rows.jsonl", "evaluation.answer_marker=#"][..],
            &["generate", "--prompt", "#"],
            &["train", "--prompt-column", "#"],
            &["generate", "--prompt=~/x"],
            &["generate", "--prompt", "~/x is my home"],
        ] {
            assert_eq!(hint(words), None, "{words:?}");
        }
    }
}
