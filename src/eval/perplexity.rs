//! How well a model predicts text, measured as lm-evaluation-harness does for WikiText: the log-likelihood of every token of
//! every text, divided by words or bytes, which no tokenizer changes.
//!
//! A text begins after the tokenizer's beginning token (else its end token). One that is longer than the model reads is cut
//! into windows; each predicts what the windows before it have not, the last one with as much context as fits. Where texts
//! begin with the beginning token by convention, that token is predicted, too, as in the original.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::figures::{Figure, Method, Report};
use super::python_text::num_words;
use super::row_store::RowStore;
use super::scoring::{Scored, Scoring};
use crate::data::fields::{FieldRow, read_field_rows};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::objective::log_probs::total;

/// A text and where it stands, for errors.
#[derive(Debug)]
pub struct Text {
    path: PathBuf,
    place: Option<String>,
    text: String,
}

/// A text as windows of tokens.
#[derive(Debug)]
pub struct Document {
    windows: Vec<Scored>,
    num_words: usize,
    num_bytes: usize,
}

/// A scored text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PerplexityRow {
    /// Nats, over all tokens.
    pub log_likelihood: f64,
    /// The sum of the squares of the token log-probs.
    pub sum_of_squares: f64,
    pub num_tokens: usize,
    pub num_words: usize,
    pub num_bytes: usize,
}

/// Rows with `text`; a `.txt` file is one text, without the byte-order mark that it may begin with.
///
/// # Errors
/// [`Error::Input`] for a row without text, and for a file that is no UTF-8.
pub fn read_texts(files: &[PathBuf], max_rows: Option<usize>) -> Result<Vec<Text>> {
    let is_plain = |path: &PathBuf| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
    if let [path] = files
        && is_plain(path)
    {
        let text = std::fs::read_to_string(path).map_err(Error::reading(path))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
        return Ok(vec![Text { path: path.clone(), place: None, text }]);
    }
    let text = |row: &FieldRow| -> Result<Text> {
        let text = row.text("text")?.to_owned();
        Ok(Text { path: row.path().to_owned(), place: Some(row.place().to_owned()), text })
    };
    read_field_rows(files, max_rows, &["text"])?.iter().map(text).collect()
}

impl Document {
    /// Cuts a text into windows of `max_length` tokens.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty text.
    pub fn new(text: &Text, tokenizer: &Tokenizer, max_length: usize) -> Result<Self> {
        let token_ids = tokenizer.encode_plain(&text.text)?;
        if text.text.is_empty() || token_ids.is_empty() {
            let error = Error::input(&text.path, "the text is empty");
            return Err(text.place.iter().fold(error, |error, place| error.at(place)));
        }
        Ok(Document {
            windows: windows(&token_ids, tokenizer.prefix_token_id(), max_length),
            num_words: num_words(&text.text),
            num_bytes: text.text.len(),
        })
    }

    fn row(&self, scores: &[Vec<f32>]) -> PerplexityRow {
        PerplexityRow {
            log_likelihood: scores.iter().map(|window| total(window)).sum(),
            sum_of_squares: scores.iter().flatten().map(|p| f64::from(*p).powi(2)).sum(),
            num_tokens: scores.iter().map(Vec::len).sum(),
            num_words: self.num_words,
            num_bytes: self.num_bytes,
        }
    }
}

/// Every token predicted once, by a window of at most `max_length` tokens of input.
fn windows(token_ids: &[u32], prefix_token_id: u32, max_length: usize) -> Vec<Scored> {
    let first = max_length.min(token_ids.len());
    let mut windows = vec![Scored { prompt_ids: vec![prefix_token_id], response_ids: token_ids[..first].to_vec() }];
    let mut start = first;
    while start < token_ids.len() {
        let end = token_ids.len().min(start + max_length);
        let prompt_ids = token_ids[end - max_length - 1..start].to_vec();
        windows.push(Scored { prompt_ids, response_ids: token_ids[start..end].to_vec() });
        start = end;
    }
    windows
}

/// Scores the documents that the store lacks.
///
/// # Errors
/// A failing device; log-probs that are not finite; [`Error::Disk`].
pub fn score_documents(
    model: &CausalLm,
    documents: &[Document],
    scoring: &Scoring<'_>,
    store: &mut RowStore<PerplexityRow>,
) -> Result<()> {
    let windows: Vec<&[Scored]> = documents.iter().map(|document| document.windows.as_slice()).collect();
    let row = |index: usize, scores: &[Vec<f32>]| documents[index].row(scores);
    scoring.score_rows(model, &windows, scoring.batch_size, row, store)
}

/// The figures of all texts together. One that is beyond every number is left out, whole: texts without spaces have words as
/// long as a line, and beyond 709 nats a word `exp` overflows.
pub fn report(rows: &[&PerplexityRow]) -> Report {
    let per_word = log_likelihood_per(rows, |row| row.num_words);
    let per_byte = log_likelihood_per(rows, |row| row.num_bytes);
    let figures = [
        ("word_perplexity", per_word.map(true, |x| (-x).exp())),
        ("byte_perplexity", per_byte.map(true, |x| (-x).exp())),
        ("bits_per_byte", per_byte.map(true, |x| -x / std::f64::consts::LN_2)),
    ];
    let finite: BTreeMap<_, _> = figures.into_iter().filter(|(_, figure)| figure.is_finite()).collect();
    Report::new("perplexity", rows.len(), finite)
}

/// Log-likelihood per word or byte of all rows together, nats.
fn log_likelihood_per(rows: &[&PerplexityRow], unit: impl Fn(&PerplexityRow) -> usize) -> Figure {
    let num_units: usize = rows.iter().map(|row| unit(row)).sum();
    let per_unit = rows.iter().map(|row| row.log_likelihood).sum::<f64>() / num_units as f64;
    let n = rows.len() as f64;
    if let [row] = rows {
        let tokens = row.num_tokens as f64;
        let spread = (row.sum_of_squares - row.log_likelihood.powi(2) / tokens).max(0.0);
        let of_total = (row.num_tokens > 1).then(|| (spread * tokens / (tokens - 1.0)).sqrt());
        return Figure::around(per_unit, of_total.map(|e| e / num_units as f64), Method::NormalOverTokens);
    }
    let squares: f64 = rows.iter().map(|row| (row.log_likelihood - per_unit * unit(row) as f64).powi(2)).sum();
    let of_total = (squares * n / (n - 1.0)).sqrt();
    Figure::around(per_unit, Some(of_total / num_units as f64), Method::Normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(log_likelihood: f64, sum_of_squares: f64, counts: [usize; 3]) -> PerplexityRow {
        let [num_tokens, num_words, num_bytes] = counts;
        PerplexityRow { log_likelihood, sum_of_squares, num_tokens, num_words, num_bytes }
    }

    #[test]
    fn the_windows_predict_every_token_once_and_the_last_has_full_context() {
        // lm_eval.utils.get_rolling_token_windows and make_disjoint_window, tokens 0..9, prefix 99, length 4.
        let tokens: Vec<u32> = (0..10).collect();
        let expected: [(&[u32], &[u32]); 3] = [(&[99], &[0, 1, 2, 3]), (&[3], &[4, 5, 6, 7]), (&[5, 6, 7], &[8, 9])];
        let windows = windows(&tokens, 99, 4);
        let found: Vec<(&[u32], &[u32])> = windows.iter().map(|w| (&*w.prompt_ids, &*w.response_ids)).collect();
        assert_eq!(found, expected);
        assert_eq!(super::windows(&[7], 99, 4), [Scored { prompt_ids: vec![99], response_ids: vec![7] }]);
    }

    #[test]
    fn perplexity_and_its_interval_are_those_worked_by_hand() {
        // -30 over 10 words and -50 over 10: -4 a word; deviations +10 and -10, so sqrt(200 * 2 / 1) / 20 = 1.
        let report = report(&[&row(-30.0, 0.0, [5, 10, 40]), &row(-50.0, 0.0, [5, 10, 40])]);
        let word = report.figures["word_perplexity"];
        assert!((word.value.ln() - 4.0).abs() < 1e-12, "{word:?}");
        assert!((word.low.unwrap().ln() - (4.0 - 1.959964)).abs() < 1e-6, "{word:?}");
        assert!((word.high.unwrap().ln() - (4.0 + 1.959964)).abs() < 1e-6, "{word:?}");
        let bits = report.figures["bits_per_byte"];
        assert!((bits.value - 1.0 / std::f64::consts::LN_2).abs() < 1e-12, "{bits:?}");
    }

    #[test]
    fn a_figure_that_overflows_is_left_out_and_the_others_are_numbers() {
        // Each text is one word: 700 nats a word alone, e^700 is a number; 1600 / 2 = 800 is none; 700 of two texts that
        // differ by 200 nats has a number and an interval that ends at e^(700 + 196).
        for (rows, has_word) in [
            (vec![row(-700.0, 700.0 * 700.0, [1, 1, 900])], true),
            (vec![row(-790.0, 0.0, [9, 1, 900]), row(-810.0, 0.0, [9, 1, 900])], false),
            (vec![row(-600.0, 0.0, [9, 1, 900]), row(-800.0, 0.0, [9, 1, 900])], false),
        ] {
            let report = report(&rows.iter().collect::<Vec<_>>());
            let names: Vec<&str> = report.figures.keys().copied().collect();
            let expected = ["bits_per_byte", "byte_perplexity", "word_perplexity"];
            assert_eq!(names, expected[..2 + usize::from(has_word)], "{report:?}");
            assert!(report.figures.values().all(Figure::is_finite), "{report:?}");
        }
    }

    #[test]
    fn a_text_of_notepad_is_read_without_its_byte_order_mark() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.txt");
        std::fs::write(&path, "\u{feff}文\u{feff}").unwrap();
        let texts = read_texts(&[path], None).unwrap();
        assert_eq!(texts[0].text, "文\u{feff}", "only the one at its start is a mark");
    }

    #[test]
    fn one_text_has_an_interval_over_its_tokens() {
        // Token log-probs -1 and -3: mean -2, standard error of the sum sqrt(2 * 2) = 2, a byte of 4: 0.5.
        let report = report(&[&row(-4.0, 10.0, [2, 1, 4])]);
        let byte = report.figures["byte_perplexity"];
        assert_eq!(byte.interval, Method::NormalOverTokens);
        assert!((byte.high.unwrap().ln() - (1.0 + 0.5 * 1.959964)).abs() < 1e-6, "{byte:?}");
    }
}
