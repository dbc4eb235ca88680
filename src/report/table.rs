//! Plain tables: a header, a rule, rows; the first column to the left, numbers to the right.
//!
//! Widths are cells of a terminal: a character of Chinese, Japanese or Korean has two, a mark on the one before it none.

use unicode_width::UnicodeWidthStr;

/// Lines up `rows` under `header`. Every row has as many cells as the header.
pub fn format_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|i| rows.iter().map(|row| row[i].width()).chain([header[i].width()]).max().unwrap_or(0))
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(&widths).enumerate();
        let padded = cells.map(|(i, (cell, width))| match i {
            0 => to_left(cell, *width),
            _ => to_right(cell, *width),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines =
        vec![line(&mut header.iter().copied()), "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1))];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n") + "\n"
}

/// A cell at the left of a column of this width.
pub fn to_left(cell: &str, width: usize) -> String {
    cell.to_owned() + &space_beside(cell, width)
}

/// A cell at the right of a column of this width.
pub fn to_right(cell: &str, width: usize) -> String {
    space_beside(cell, width) + cell
}

/// `format!` would count characters.
fn space_beside(cell: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(cell.width()))
}

/// `1 update`, `2 updates`: a thing whose plural ends in an s.
pub fn plural(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// `12.3%`, or a dash where there is no figure.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", 100.0 * share))
}

/// Three decimals, or a dash where there is no figure.
pub fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

/// `0.4 s`, `45 s`, `12 min`, `3.5 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["start".to_owned(), percent(Some(0.5))], vec!["x".to_owned(), percent(None)]];
        assert_eq!(format_table(&["", "exact"], &rows), "       exact\n------------\nstart  50.0%\nx          -\n");
    }

    #[test]
    fn a_column_is_measured_in_cells_of_the_terminal() {
        // Two cells for each of 方法, one for the Hindi letter and none for the mark below it.
        let rows = ["方法", "abcde", "कु"].map(|name| vec![name.to_owned(), "1".to_owned()]);
        assert_eq!(format_table(&["", "差"], &rows), "       差\n---------\n方法    1\nabcde   1\nकु       1\n");
    }
}
