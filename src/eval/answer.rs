//! Finding the number that a response gives as its answer, and comparing two of them.
//!
//! The two ways and the comparison are those of lm-evaluation-harness for GSM8K, so that figures can be compared:
//! strict takes `#### 72`, flexible the last number of the text. They differ widely on models that were not trained on
//! the format, so report both. Beyond that, strict joins digits that are spelled one by one (`#### 7 2`), as the
//! built-in word problems do. Its regular expressions are scanned by hand here and checked against Python's `re`.

/// The number right after `marker` and one space, as the text has it: the first match of `marker (-?[0-9.,]+)`.
pub fn strict_match<'t>(text: &'t str, marker: &str) -> Option<&'t str> {
    strict_place(text, marker).map(|(number, _)| number)
}

/// [`strict_match`], with digits that are spelled one by one joined.
///
/// A single digit that is followed by further single digits, one space between them, is read as one number: `#### 7 2`
/// gives `72`. If a longer number follows (`#### 7 2 15`) they are separate numbers and the first is taken.
pub fn strict_answer(text: &str, marker: &str) -> Option<String> {
    let (number, rest) = strict_place(text, marker)?;
    let (sign, digits) = split_sign(rest);
    Some(spelled_digits(digits).map_or_else(|| number.to_owned(), |spelled| format!("{sign}{spelled}")))
}

/// The number after the marker, and all that the text has from there on.
fn strict_place<'t>(text: &'t str, marker: &str) -> Option<(&'t str, &'t str)> {
    let mut after_marker = text.char_indices().filter_map(|(at, _)| text[at..].strip_prefix(marker)?.strip_prefix(' '));
    after_marker.find_map(|rest| {
        let (sign, digits) = split_sign(rest);
        let number = leading(digits, is_number_char);
        (!number.is_empty()).then(|| (&rest[..sign.len() + number.len()], rest))
    })
}

/// The last number of the text as the text has it: the last match of `(-?[$0-9.,]{2,})|(-?[0-9]+)`.
///
/// As in the original, a run of two or more signs counts as a number even without a digit in it; such an answer agrees
/// with nothing. Digits that are spelled one by one are separate numbers here.
pub fn flexible_answer(text: &str) -> Option<String> {
    let mut last = None;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (sign, run) = split_sign(rest);
        let number = leading(run, |c| c == '$' || is_number_char(c));
        let is_match = number.len() >= 2 || number.chars().all(|c| c.is_ascii_digit()) && !number.is_empty();
        let length = if is_match { sign.len() + number.len() } else { first.len_utf8() };
        if is_match {
            last = Some(&rest[..length]);
        }
        rest = &rest[length..];
    }
    last.map(str::to_owned)
}

/// An answer without `,`, `$` and one full stop at its end: what is compared.
pub fn normalize_answer(answer: &str) -> String {
    let kept: String = answer.trim().chars().filter(|c| !matches!(c, ',' | '$')).collect();
    kept.strip_suffix('.').unwrap_or(&kept).to_owned()
}

/// Whether two answers are the same after [`normalize_answer`]. Texts are compared, not values: `72.0` is not `72`, as
/// in the original. Answers without a digit agree with nothing.
pub fn answers_agree(a: &str, b: &str) -> bool {
    let a = normalize_answer(a);
    a.contains(|c: char| c.is_ascii_digit()) && a == normalize_answer(b)
}

/// Digits, points and commas.
fn is_number_char(c: char) -> bool {
    c.is_ascii_digit() || matches!(c, '.' | ',')
}

/// A minus sign, if the text starts with one, and what follows.
fn split_sign(text: &str) -> (&str, &str) {
    text.split_at(usize::from(text.starts_with('-')))
}

/// The longest start of `text` that consists of `allowed` characters.
fn leading(text: &str, allowed: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|c| !allowed(c)).unwrap_or(text.len())]
}

/// The digits of `7 2` as `72`, if `text` starts with two or more single digits and no longer number follows them.
fn spelled_digits(text: &str) -> Option<String> {
    let mut digits = String::new();
    for word in text.split(' ') {
        let digit = leading(word, |c| c.is_ascii_digit());
        let after = &word[digit.len()..];
        let is_longer_number = after.starts_with(['.', ',']) && after[1..].starts_with(|c: char| c.is_ascii_digit());
        if digit.len() > 1 || is_longer_number {
            return None;
        }
        digits += digit;
        // `2;` and `2.` end the number, and so does a word.
        if digit.is_empty() || !after.is_empty() {
            break;
        }
    }
    (digits.len() >= 2).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_finds_what_the_regular_expression_finds() {
        // re.search(r"#### (\-?[0-9\.\,]+)", text) in Python 3.
        let cases = [
            ("#### 72", Some("72")),
            ("She has 48 + 24 = 72 clips.\n#### 72", Some("72")),
            ("#### -5", Some("-5")),
            ("#### 1,234.50", Some("1,234.50")),
            ("####72", None),
            ("####  72", None),
            ("#### $72", None),
            ("##### 8", Some("8")),
            ("#### x #### 9", Some("9")),
            ("#### 1 apple #### 2", Some("1")),
            ("#### .", Some(".")),
            ("#### -", None),
            ("#### --3", None),
            ("no marker 5", None),
            ("#### 12é34", Some("12")),
            ("é#### 7", Some("7")),
            ("### 7", None),
            ("#### ,5", Some(",5")),
            ("####\n7", None),
            ("", None),
            ("####", None),
            (" #### 18.", Some("18.")),
            ("#### ٣", None),
        ];
        for (text, answer) in cases {
            assert_eq!(strict_answer(text, "####").as_deref(), answer, "{text:?}");
        }
    }

    #[test]
    fn flexible_finds_what_the_regular_expression_finds() {
        // The last of re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text) in Python 3.
        let cases = [
            ("The answer is 72.", Some("72.")),
            ("72", Some("72")),
            ("5", Some("5")),
            ("a 5 b", Some("5")),
            ("-5", Some("-5")),
            ("--5", Some("-5")),
            ("3-4", Some("-4")),
            ("x-12", Some("-12")),
            ("$1,234.50 each", Some("$1,234.50")),
            ("costs $5", Some("$5")),
            ("costs $", None),
            ("wait... what", Some("...")),
            ("...", Some("...")),
            ("-.", None),
            ("no number", None),
            ("1 2 3", Some("3")),
            ("7 2", Some("2")),
            ("é9é", Some("9")),
            ("10%", Some("10")),
            ("-$3", Some("-$3")),
            ("$-3", Some("-3")),
            ("1.2.3", Some("1.2.3")),
            ("9,", Some("9,")),
            ("- 4", Some("4")),
            ("5-", Some("5")),
            ("٣", None),
            ("-", None),
            ("5.", Some("5.")),
            ("(-7)", Some("-7")),
            ("a-1-22-", Some("-22")),
            ("12\n-3\n", Some("-3")),
            ("", None),
        ];
        for (text, answer) in cases {
            assert_eq!(flexible_answer(text).as_deref(), answer, "{text:?}");
        }
    }

    #[test]
    fn normalisation_strips_what_the_harness_ignores() {
        // re.sub of ",", r"\$" and r"\.$" by "" in Python 3, one after the other.
        for (answer, normalized) in [
            ("72", "72"),
            ("1,234", "1234"),
            ("$5", "5"),
            ("5.", "5"),
            ("5..", "5."),
            ("$1,000.00.", "1000.00"),
            ("", ""),
            (".", ""),
        ] {
            assert_eq!(normalize_answer(answer), normalized, "{answer:?}");
        }
    }

    #[test]
    fn digits_spelled_one_by_one_are_one_number() {
        // Hand-made: the regular expression alone would give the first digit.
        let cases = [
            ("6 4 + 8 = 7 2 ; #### 7 2", "72"),
            ("#### 6 9 <eos>", "69"),
            ("#### 6 9.", "69"),
            ("#### 6 9; done", "69"),
            ("#### 1 0 0", "100"),
            ("#### -1 0", "-10"),
            ("#### 6 9 #### 1 1", "69"),
            ("#### 6", "6"),
            ("#### 6 apples", "6"),
            ("#### 6  9", "6"),
            ("#### 6\n9", "6"),
            ("#### 6 9 15", "6"),
            ("#### 6 9.5", "6"),
            ("#### 6. 9", "6."),
            ("#### 12 3", "12"),
        ];
        for (text, answer) in cases {
            assert_eq!(strict_answer(text, "####").as_deref(), Some(answer), "{text:?}");
        }
    }

    #[test]
    fn any_marker_can_be_used() {
        assert_eq!(strict_answer("The answer is: 5 since", "is:").as_deref(), Some("5"));
        assert_eq!(strict_answer("réponse → 5", "→").as_deref(), Some("5"));
        assert_eq!(strict_answer("#### 5", "Answer:"), None);
    }

    #[test]
    fn answers_agree_as_texts_after_normalisation() {
        for (a, b) in [("1,234", "$1234."), ("-5", "-5"), ("72", " 72 ")] {
            assert!(answers_agree(a, b) && answers_agree(b, a), "{a} {b}");
        }
        for (a, b) in [("72.0", "72"), ("5", "-5"), (".", "."), ("", ""), ("$", ","), ("12", "2")] {
            assert!(!answers_agree(a, b), "{a} {b}");
        }
    }
}
