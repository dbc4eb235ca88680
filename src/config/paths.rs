//! Paths as people write them: what became of one on its way here.

use std::env::home_dir;
use std::path::is_separator;

/// What is wrong with the text of a path, and what to write instead; None if nothing is.
///
/// A shell replaces `~`, but not after every `=` and not in a file; in quotes, a backslash makes other characters of letters.
pub(crate) fn mistake_in_path(text: &str) -> Option<(&'static str, String)> {
    if let Some(below) = text.strip_prefix('~').filter(|below| below.is_empty() || below.starts_with(is_separator)) {
        let home = home_dir().map_or_else(|| "the whole path".to_owned(), |home| format!("{}{below}", home.display()));
        return Some(("`~` stands for nothing here: only a shell replaces it", format!("write {home}")));
    }
    if text.ends_with(char::is_control) {
        let way = "if a script gave it, save that with Unix line ends";
        return Some(("ends in a line break", way.to_owned()));
    }
    let has_control = text.chars().any(char::is_control);
    has_control.then(|| ("has a control character, of a backslash and a letter", DOUBLE_BACKSLASH.to_owned()))
}

/// How Windows' paths are written in a configuration.
pub(super) const DOUBLE_BACKSLASH: &str =
    r#"in quotes a backslash is written twice; or write "C:/data/rows.jsonl", or r"C:\data\rows.jsonl""#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_a_shell_would_have_changed_is_a_mistake() {
        let home = home_dir().unwrap().display().to_string();
        let advice = |text: &str| mistake_in_path(text).map(|(_, advice)| advice);
        assert_eq!(advice("~/rows.jsonl"), Some(format!("write {home}/rows.jsonl")));
        assert_eq!(advice("~"), Some(format!("write {home}")));
        assert_eq!(advice(r"C:\new\train.jsonl"), None);
        assert_eq!(advice("C:\new\train.jsonl"), Some(DOUBLE_BACKSLASH.to_owned()));
        assert!(advice("run\r").unwrap().contains("Unix line ends"));
        for path in ["rows.jsonl", "./~/rows.jsonl", "~rows.jsonl", "rows~", "data/na\u{ef}ve rows.jsonl", ""] {
            assert_eq!(advice(path), None, "{path}");
        }
    }
}
