//! Text and numbers in a page: escaped, and short enough to read.

/// Text that stands in an element or a quoted attribute. Responses and file names are strangers' text: everything that
/// is not ours goes through here. Control characters are shown, not obeyed.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\n' | '\t' => escaped.push(c),
            // Among them the marks that turn the direction of the text around them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped += &format!("\\u{{{:x}}}", u32::from(c)),
            c if c.is_control() => escaped += &format!("\\u{{{:x}}}", u32::from(c)),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Four digits that matter: `0.06797`, `-4.087`, `12.35`, `17155`, `3.1e-7`.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e6).contains(&size) {
        return trimmed(&format!("{value:.2e}"));
    }
    let num_decimals = (3 - size.log10().floor() as i32).clamp(0, 7) as usize;
    trimmed(&format!("{value:.num_decimals$}"))
}

/// Without zeros that say nothing: `0.0500` is `0.05`, `1.50e-5` is `1.5e-5`.
fn trimmed(number: &str) -> String {
    let (digits, exponent) = number.split_at(number.find('e').unwrap_or(number.len()));
    match digits.contains('.') {
        true => format!("{}{exponent}", digits.trim_end_matches('0').trim_end_matches('.')),
        false => number.to_owned(),
    }
}

/// `1 234 567` with thin spaces, so that long counts can be read.
pub fn count(value: usize) -> String {
    let digits = value.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join("\u{202f}")
}

/// A table in a box that scrolls sideways where the screen is narrow. Cells are HTML; the first column is text, the
/// others are numbers.
pub fn table(header: &[String], rows: &[Vec<String>]) -> String {
    let cells =
        |tag: &str, row: &[String]| -> String { row.iter().map(|cell| format!("<{tag}>{cell}</{tag}>")).collect() };
    let body: String = rows.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", row))).collect();
    format!(
        "<div class=\"scroll\"><table><thead><tr>{}</tr></thead>\n<tbody>{body}</tbody></table></div>\n",
        cells("th", header)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_strangers_text_is_obeyed() {
        let text = "<script>alert('1')</script> \"a\" & \u{1b}[2J\u{202e}\u{0}";
        let expected = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &quot;a&quot; &amp; \\u{1b}[2J\\u{202e}\\u{0}";
        assert_eq!(escape(text), expected);
    }

    #[test]
    fn numbers_keep_four_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (-4.086_921, "-4.087"),
            (0.067_974_1, "0.06797"),
            (0.05, "0.05"),
            (12.0, "12"),
            (17_155.3, "17155"),
            (1.5e-5, "1.5e-5"),
            (-2e9, "-2e9"),
        ] {
            assert_eq!(short(value), expected);
        }
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
