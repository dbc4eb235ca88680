//! Second responses: training takes them from every row or from none, as it writes its own where there are none.

use super::examples::{Example, FileRows};
use crate::error::{Error, Result};

/// The indices of the examples that bring a second response where the first of all brings none, or the other way round.
pub fn unlike_the_first<'e>(examples: impl IntoIterator<Item = &'e Example>) -> Vec<usize> {
    let mut examples = examples.into_iter().peekable();
    let brings = |example: &Example| example.self_generated_ids.is_some();
    let Some(first_brings) = examples.peek().map(|first| brings(first)) else { return Vec::new() };
    examples.filter(|example| brings(example) != first_brings).map(|example| example.index).collect()
}

/// Whether rows bring their second responses themselves: nothing is generated then. All of them do or none, which
/// [`check_second_responses`] sees to.
pub fn bring_second_responses(examples: &[Example]) -> bool {
    examples.iter().any(|example| example.self_generated_ids.is_some())
}

/// Refuses data of which only some rows bring a second response. `examples` are those of `files` that are trained on.
///
/// # Errors
/// [`Error::Input`] with the line of the first row that is unlike those before it.
pub fn check_second_responses<'e>(files: &[FileRows], examples: impl IntoIterator<Item = &'e Example>) -> Result<()> {
    let Some(index) = unlike_the_first(examples).first().copied() else { return Ok(()) };
    let mut rows = files.iter().flat_map(|file| file.rows.iter().map(move |row| (file, row)));
    let (file, row) = rows.nth(index).expect("every example is of a row");
    let message = match row.self_generated {
        Some(_) => "the row brings a second (rejected) response, and those before it bring none",
        None => "the row brings no second (rejected) response, and those before it bring one",
    };
    Err(Error::input(&file.path, message)
        .at(file.place(row, false))
        .with_hint("give one to every row, or to none: then the policy generates its own"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::rows::{Prompt, Response, Row};

    /// A row at a line, its second response as it says.
    fn row(line: usize, brings_second: bool) -> Row {
        let response = Response::Ids(vec![2]);
        Row {
            line,
            shape: "token ids",
            prompt: Prompt::Ids(vec![1]),
            demonstration: Some(response.clone()),
            self_generated: brings_second.then_some(response),
            lone: None,
            unread: Vec::new(),
        }
    }

    fn examples(rows: &[(usize, bool)]) -> Vec<Example> {
        let example = |(index, brings_second): &(usize, bool)| Example {
            index: *index,
            prompt_ids: vec![1],
            demonstration_ids: vec![2],
            self_generated_ids: brings_second.then(|| vec![2]),
            demonstration_text: None,
        };
        rows.iter().map(example).collect()
    }

    #[test]
    fn the_row_that_is_unlike_is_named_with_its_own_file_and_line() {
        let file = |name: &str, rows: Vec<Row>| FileRows { path: name.into(), rows };
        let pairs = file("a.jsonl", vec![row(1, true), row(3, true), row(8, false)]);
        let error = |files: &[FileRows], kept: &[(usize, bool)]| {
            check_second_responses(files, &examples(kept)).unwrap_err().to_string()
        };
        let none = "the row brings no second (rejected) response, and those before it bring one";
        let kept = [(0, true), (1, true), (2, false)];
        assert_eq!(error(std::slice::from_ref(&pairs), &kept), format!("a.jsonl, line 8: {none}"));
        // The third row is left out: it does not count, and those after it keep their numbers.
        let files = [pairs, file("b.parquet", vec![row(1, true), row(2, false)])];
        let kept = [(0, true), (1, true), (3, true), (4, false)];
        assert_eq!(error(&files, &kept), format!("b.parquet, row 2: {none}"));
        let files = [file("a.jsonl", vec![row(1, false), row(2, true)])];
        let one = "the row brings a second (rejected) response, and those before it bring none";
        assert_eq!(error(&files, &[(0, false), (1, true)]), format!("a.jsonl, line 2: {one}"));
    }

    #[test]
    fn rows_that_are_alike_are_accepted() {
        for kept in [&[][..], &[(0, true), (4, true)], &[(1, false), (2, false)]] {
            check_second_responses(&[], &examples(kept)).unwrap();
        }
        assert_eq!(unlike_the_first(&examples(&[(1, false), (2, true), (5, false), (7, true)])), [2, 7]);
    }
}
