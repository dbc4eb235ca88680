//! Words of commands that are printed for a person to run.

use std::path::Path;

/// A word as the shell of this system reads it in a command that is printed.
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:@,+=".contains(c) || (cfg!(windows) && c == '\\');
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false if cfg!(windows) => format!("\"{word}\""), // a path has no quote there
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// [`shell_word`] of a path.
pub fn shell_path(path: &Path) -> String {
    shell_word(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_word_is_quoted_where_a_shell_would_read_it_otherwise() {
        for (word, printed) in [
            ("runs/night", "runs/night"),
            ("owner/name@main/x-Q4_1.gguf", "owner/name@main/x-Q4_1.gguf"),
            ("my talk.jsonl", "'my talk.jsonl'"),
            ("it's", r"'it'\''s'"),
            ("~/rows", "'~/rows'"),
            ("$x", "'$x'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(word), printed);
        }
    }
}
