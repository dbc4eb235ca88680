//! Text as Python sees it, where lm-evaluation-harness's figures depend on that.

/// What `str.isspace` and `\s` call white space: Unicode's and four control characters.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `text.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `text.rstrip()`.
pub fn strip_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `len(re.split(r"\s+", text))`: runs of white space and one; never 0.
pub fn num_words(text: &str) -> usize {
    let mut before_is_space = false;
    let mut num_runs = 0;
    for c in text.chars() {
        num_runs += usize::from(is_space(c) && !before_is_space);
        before_is_space = is_space(c);
    }
    num_runs + 1
}

/// `text.capitalize()`: the first character large, the others small.
pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    first + &chars.as_str().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_split_and_stripped_as_python_does() {
        // Python 3: len(re.split(r"\s+", text)).
        for (text, expected) in [("", 1), ("a", 1), ("a b", 2), (" a\n\n b ", 4), ("a\u{a0}b\u{1c}c\u{200b}d", 3)] {
            assert_eq!(num_words(text), expected, "{text:?}");
        }
        assert_eq!(strip("\u{1f} a \u{3000}"), "a");
        assert_eq!(strip_end(" a\n"), " a");
        assert_eq!(capitalize("éCOLE Paris"), "École paris");
        assert_eq!(capitalize(""), "");
    }
}
