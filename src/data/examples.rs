//! Rows -> token ids that fit the model, with an account of every row that does not.
//!
//! Nothing is ever cut: an answer without its end teaches the model not to stop. A row that is too long is dropped and
//! counted. Not here: packing and positions ([`super::batch`]).

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::dropped::{Dropped, Reason};
use super::problem::visible;
use super::row_keys::Misnamed;
use super::rows::{Prompt, Response, Row};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::formats::data_file::FileKind;

/// Rows that are shared out among the threads before their progress is told: enough to keep all of them busy.
const ROWS_AT_A_TIME: usize = 256;

/// A prompt with its responses, as token ids that the model can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The row's number in the data, counted from 0. It stays the same whatever other rows are dropped.
    pub index: usize,
    /// Never empty.
    pub prompt_ids: Vec<u32>,
    /// The response to imitate, its end token included. Never empty.
    pub demonstration_ids: Vec<u32>,
    /// The response to tell it from, if the row has one. Never empty.
    pub self_generated_ids: Option<Vec<u32>>,
    /// The demonstration as the row wrote it; `None` if that was token ids.
    pub demonstration_text: Option<String>,
}

impl Example {
    /// The tokens of the prompt and the longer response: what `train.max_length` bounds.
    pub fn longest(&self) -> usize {
        let given = self.self_generated_ids.as_ref().map_or(0, Vec::len);
        self.prompt_ids.len() + self.demonstration_ids.len().max(given)
    }
}

/// A prompt to generate from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptIds {
    /// The row's number in the file, counted from 0.
    pub index: usize,
    /// Never empty.
    pub prompt_ids: Vec<u32>,
}

/// The rows of one file; a data set may have several.
#[derive(Clone, Debug)]
pub struct FileRows {
    /// What errors name.
    pub path: PathBuf,
    /// In the file's order.
    pub rows: Vec<Row>,
}

impl FileRows {
    /// Where one of its rows stands: `line 7`; with the file if there are several.
    pub(super) fn place(&self, row: &Row, is_one_of_many: bool) -> String {
        let line = FileKind::of(&self.path).place(row.line);
        if is_one_of_many { format!("{}, {line}", self.path.display()) } else { line }
    }
}

/// What became of a row: an example, or why it is left out; an error if the tokenizer or its chat template refuses it, for
/// an id outside the vocabulary, a prompt without tokens, and text without a tokenizer.
pub type Outcome = Result<std::result::Result<Example, Reason>>;

/// How rows become examples.
#[derive(Clone, Copy)]
pub struct Preparation<'a> {
    /// None: rows are given as token ids.
    pub tokenizer: Option<&'a Tokenizer>,
    pub vocab_size: usize,
    /// Bounds prompt plus response, in tokens.
    pub max_length: usize,
    /// Whether that limit is the model's context.
    pub is_limited_by_context: bool,
}

impl Preparation<'_> {
    /// Tokenizes rows for training, in the order of the files. `on_rows` is told of every few hundred rows that are done, for
    /// a progress bar.
    ///
    /// # Errors
    /// [`Error::Input`] with the line for the first row that is refused (see [`Outcome`]), and if no row is left.
    pub fn examples(&self, files: &[FileRows], on_rows: &mut dyn FnMut(u64)) -> Result<(Vec<Example>, Dropped)> {
        let mut examples = Vec::new();
        let mut dropped = self.none_dropped();
        let rows = files.iter().flat_map(|file| file.rows.iter().map(move |row| (file, row)));
        for (outcome, (file, row)) in self.outcomes(files, on_rows).into_iter().zip(rows) {
            match outcome? {
                Ok(example) => examples.push(example),
                Err(reason) => {
                    dropped.count(reason);
                    if reason == Reason::NoDemonstration {
                        let is_one_of_many = files.len() > 1;
                        dropped.first_without_demonstration.get_or_insert_with(|| described(file, row, is_one_of_many));
                    }
                }
            }
        }
        if examples.is_empty() {
            let path = files.first().map_or(Path::new("data"), |file| &file.path);
            let error = Error::input(path, format!("no row is left: {dropped}"));
            let is_length = dropped.no_demonstration + dropped.empty_response < dropped.total();
            return Err(match (is_length, self.is_limited_by_context) {
                (false, _) => error,
                (true, false) => error.with_hint("raise train.max_length, or shorten the rows"),
                (true, true) => error.with_hint("shorten the rows, or take a model with a longer context"),
            });
        }
        Ok((examples, dropped))
    }

    /// An account under this limit, with nothing in it yet.
    pub(super) fn none_dropped(&self) -> Dropped {
        let Preparation { max_length, is_limited_by_context, .. } = *self;
        Dropped { max_length, is_limited_by_context, ..Dropped::default() }
    }

    /// What becomes of every row; `on_rows` as in [`Self::examples`].
    pub fn outcomes(&self, files: &[FileRows], on_rows: &mut dyn FnMut(u64)) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for FileRows { path, rows } in files {
            let encoder = RowEncoder { tokenizer: self.tokenizer, vocab_size: self.vocab_size, path };
            for rows in rows.chunks(ROWS_AT_A_TIME) {
                let first = outcomes.len();
                let prepare = |(i, row): (usize, &Row)| prepare_example(&encoder, first + i, row, self.max_length);
                outcomes.extend(rows.par_iter().enumerate().map(prepare).collect::<Vec<_>>());
                on_rows(rows.len() as u64);
            }
        }
        outcomes
    }
}

/// `line 2, keys prompt, note`; with the file if there are several.
fn described(file: &FileRows, row: &Row, is_one_of_many: bool) -> String {
    let place = file.place(row, is_one_of_many);
    match &row.lone {
        Some(lone) => format!("{place}, keys {}", lone.keys.join(", ")),
        None => place,
    }
}

/// Tokenizes the prompts of rows for generation, in file order; responses are not looked at.
///
/// # Errors
/// [`Error::Input`] with the line as for [`Preparation::examples`], and for a prompt of more than `max_prompt_tokens`.
pub fn prepare_prompts(
    rows: &[Row],
    tokenizer: Option<&Tokenizer>,
    vocab_size: usize,
    max_prompt_tokens: usize,
    path: &Path,
) -> Result<Vec<PromptIds>> {
    let encoder = RowEncoder { tokenizer, vocab_size, path };
    let prepare = |(index, row): (usize, &Row)| {
        let prompt_ids = encoder.prompt(row)?;
        if prompt_ids.len() > max_prompt_tokens {
            let message = format!("the prompt has {} tokens, the limit is {max_prompt_tokens}", prompt_ids.len());
            return Err(encoder
                .error(row, message)
                .with_hint("shorten the prompt, or take a model with a longer context"));
        }
        Ok(PromptIds { index, prompt_ids })
    };
    let prepared: Vec<_> = rows.par_iter().enumerate().map(prepare).collect();
    // Collected first, so that the error is that of the first bad row, whichever thread met it.
    prepared.into_iter().collect()
}

fn prepare_example(encoder: &RowEncoder<'_>, index: usize, row: &Row, max_length: usize) -> Outcome {
    let Some(demonstration) = &row.demonstration else {
        return match row.lone.as_ref().and_then(|lone| lone.misnamed.as_ref()) {
            Some(misnamed) => Err(encoder.misnamed(row, misnamed)),
            None => Ok(Err(Reason::NoDemonstration)),
        };
    };
    if is_empty(demonstration) || row.self_generated.as_ref().is_some_and(is_empty) {
        return Ok(Err(Reason::EmptyResponse));
    }
    let prompt_ids = encoder.prompt(row)?;
    if prompt_ids.len() >= max_length {
        return Ok(Err(Reason::PromptTooLong));
    }
    let demonstration_ids = encoder.response(row, demonstration, "demonstration")?;
    let self_generated = row.self_generated.as_ref();
    let self_generated_ids =
        self_generated.map(|response| encoder.response(row, response, "self-generated response")).transpose()?;
    let room = max_length - prompt_ids.len();
    if demonstration_ids.len() > room {
        return Ok(Err(Reason::ResponseTooLong));
    }
    if self_generated_ids.as_ref().is_some_and(|ids| ids.len() > room) {
        return Ok(Err(Reason::SelfGeneratedTooLong));
    }
    let demonstration_text = match demonstration {
        Response::Text(text) => Some(text.clone()),
        Response::Ids(_) => None,
    };
    Ok(Ok(Example { index, prompt_ids, demonstration_ids, self_generated_ids, demonstration_text }))
}

fn is_empty(response: &Response) -> bool {
    match response {
        Response::Text(text) => text.trim().is_empty(),
        Response::Ids(ids) => ids.is_empty(),
    }
}

/// Turns the parts of a row into checked token ids; its errors name the data file and the line.
struct RowEncoder<'a> {
    tokenizer: Option<&'a Tokenizer>,
    vocab_size: usize,
    path: &'a Path,
}

impl RowEncoder<'_> {
    fn prompt(&self, row: &Row) -> Result<Vec<u32>> {
        let ids = match (&row.prompt, self.tokenizer) {
            (Prompt::Ids(ids), _) => ids.clone(),
            (prompt, Some(tokenizer)) => tokenizer.encode_prompt(prompt).map_err(|error| self.in_row(row, error))?,
            (_, None) => return Err(self.no_tokenizer(row)),
        };
        if ids.is_empty() {
            return Err(self.error(row, "the prompt has no tokens; the model needs one to start from"));
        }
        self.check_vocabulary(row, &ids, "prompt")?;
        Ok(ids)
    }

    fn response(&self, row: &Row, response: &Response, name: &str) -> Result<Vec<u32>> {
        let ids = match (response, self.tokenizer) {
            (Response::Ids(ids), _) => ids.clone(),
            (text, Some(tokenizer)) => {
                tokenizer.encode_response(&row.prompt, text).map_err(|error| self.in_row(row, error))?
            }
            (_, None) => return Err(self.no_tokenizer(row)),
        };
        self.check_vocabulary(row, &ids, name)?;
        Ok(ids)
    }

    fn check_vocabulary(&self, row: &Row, ids: &[u32], name: &str) -> Result<()> {
        match ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            Some(id) => {
                let message = format!("token id {id} in the {name}, but the model has {} tokens", self.vocab_size);
                Err(self.error(row, message).with_hint("the rows or the tokenizer belong to another model"))
            }
            None => Ok(()),
        }
    }

    fn no_tokenizer(&self, row: &Row) -> Error {
        self.error(row, "the row is text, but the model has no tokenizer").with_hint(
            "write rows of token ids as `prompt_ids` and `response_ids`, or take a Hugging Face folder with tokenizer.json",
        )
    }

    /// A row whose response has a name that is not read.
    fn misnamed(&self, row: &Row, Misnamed { key, message, hint }: &Misnamed) -> Error {
        let place = format!("{}, `{}`", FileKind::of(self.path).place(row.line), visible(key));
        Error::input(self.path, message).at(place).with_hint(hint)
    }

    fn error(&self, row: &Row, message: impl Into<String>) -> Error {
        Error::input(self.path, message).at(FileKind::of(self.path).place(row.line))
    }

    /// An error that the model's tokenizer raised about this row.
    fn in_row(&self, row: &Row, error: Error) -> Error {
        self.error(row, error.to_string()).with_hint_of(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::data::row_keys::LonePrompt;

    fn ids_row(line: usize, prompt: &[u32], demonstration: Option<&[u32]>, self_generated: Option<&[u32]>) -> Row {
        let response = |ids: Option<&[u32]>| ids.map(|ids| Response::Ids(ids.to_vec()));
        Row {
            line,
            shape: "token ids",
            prompt: Prompt::Ids(prompt.to_vec()),
            demonstration: response(demonstration),
            self_generated: response(self_generated),
            lone: None,
            unread: Vec::new(),
        }
    }

    fn prepare(rows: &[Row], max_length: usize) -> Result<(Vec<Example>, Dropped)> {
        let file = FileRows { path: "rows.jsonl".into(), rows: rows.to_vec() };
        limited_to(max_length).examples(&[file], &mut |_| {})
    }

    fn limited_to(max_length: usize) -> Preparation<'static> {
        Preparation { tokenizer: None, vocab_size: 10, max_length, is_limited_by_context: false }
    }

    #[test]
    fn rows_of_ids_need_no_tokenizer_and_stay_as_they_are() {
        let (examples, dropped) = prepare(&[ids_row(1, &[1, 2], Some(&[3, 4]), Some(&[5]))], 4).unwrap();
        assert_eq!(
            examples,
            [Example {
                index: 0,
                prompt_ids: vec![1, 2],
                demonstration_ids: vec![3, 4],
                self_generated_ids: Some(vec![5]),
                demonstration_text: None
            }]
        );
        assert_eq!(dropped.total(), 0);
    }

    #[test]
    fn an_example_is_as_long_as_its_prompt_and_its_longer_response() {
        let longest = |self_generated| {
            let (examples, _) = prepare(&[ids_row(1, &[1, 2], Some(&[3, 4]), self_generated)], 9).unwrap();
            examples[0].longest()
        };
        assert_eq!([longest(None), longest(Some(&[5])), longest(Some(&[5, 6, 7]))], [4, 4, 5]);
    }

    #[test]
    fn a_row_that_does_not_fit_is_dropped_whole_and_counted_with_its_reason() {
        let rows = [
            ids_row(1, &[1], None, None),
            ids_row(2, &[1], Some(&[]), None),
            ids_row(3, &[1, 1, 1, 1], Some(&[2]), None),
            ids_row(4, &[1, 1], Some(&[2, 2, 2]), None),
            ids_row(5, &[1, 1], Some(&[2, 2]), Some(&[3, 3, 3])),
            ids_row(6, &[1, 1], Some(&[2, 2]), Some(&[3, 3])),
        ];
        let (examples, dropped) = prepare(&rows, 4).unwrap();
        assert_eq!(examples.iter().map(|example| example.index).collect::<Vec<_>>(), [5]);
        assert_eq!(
            dropped.to_string(),
            "5 rows dropped: 1 without a demonstration (the first: line 1), 1 with an empty response, 1 whose prompt alone \
             fills train.max_length (4 tokens), 1 longer than train.max_length (4 tokens) with the demonstration, 1 longer \
             than train.max_length (4 tokens) \
             with the self-generated response"
        );
    }

    #[test]
    fn the_first_row_without_a_demonstration_is_named_with_its_keys_and_its_file_if_there_are_several() {
        let lone = |line, keys: &[&str]| {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            Row { lone: Some(Box::new(LonePrompt { keys, misnamed: None })), ..ids_row(line, &[1], None, None) }
        };
        let rows = [ids_row(1, &[1], Some(&[2]), None), lone(2, &["prompt", "note"]), lone(3, &["prompt"])];
        let (_, dropped) = prepare(&rows, 4).unwrap();
        let first = "the first: line 2, keys prompt, note";
        assert_eq!(dropped.to_string(), format!("2 rows dropped: 2 without a demonstration ({first})"));
        let file = |name: &str, rows: &[Row]| FileRows { path: name.into(), rows: rows.to_vec() };
        let files = [file("a.jsonl", &rows[..1]), file("b.jsonl", &rows[2..])];
        let (_, dropped) = limited_to(4).examples(&files, &mut |_| {}).unwrap();
        let first = "the first: b.jsonl, line 3, keys prompt";
        assert_eq!(dropped.to_string(), format!("1 row dropped: 1 without a demonstration ({first})"));
    }

    #[test]
    fn rows_of_several_files_are_numbered_on_and_errors_name_the_file() {
        let file = |name: &str, rows: &[Row]| FileRows { path: name.into(), rows: rows.to_vec() };
        let good = ids_row(1, &[1], Some(&[2]), None);
        let preparation = limited_to(4);
        let files = [file("a.jsonl", &[good.clone(), good.clone()]), file("b.jsonl", &[good])];
        let (examples, _) = preparation.examples(&files, &mut |_| {}).unwrap();
        assert_eq!(examples.iter().map(|example| example.index).collect::<Vec<_>>(), [0, 1, 2]);
        let bad = file("b.parquet", &[ids_row(3, &[1], Some(&[10]), None)]);
        let error = preparation.examples(&[files[0].clone(), bad], &mut |_| {}).unwrap_err().to_string();
        assert!(error.starts_with("b.parquet, row 3: token id 10"), "{error}");
    }

    #[test]
    fn progress_is_told_on_the_way_and_many_rows_are_numbered_as_few_are() {
        let num_rows = 2 * ROWS_AT_A_TIME + 1;
        let mut told = Vec::new();
        let row = ids_row(1, &[1], Some(&[2]), None);
        let file = FileRows { path: "rows.jsonl".into(), rows: vec![row; num_rows] };
        let (examples, _) = limited_to(4).examples(&[file], &mut |count| told.push(count)).unwrap();
        assert!(examples.iter().map(|example| example.index).eq(0..num_rows));
        assert_eq!(told, [ROWS_AT_A_TIME as u64, ROWS_AT_A_TIME as u64, 1]);
    }

    #[test]
    fn no_row_left_is_an_error_that_says_why() {
        let error = prepare(&[ids_row(1, &[1, 1], Some(&[2, 2]), None)], 3).unwrap_err();
        assert_eq!(
            error.to_string(),
            "rows.jsonl: no row is left: 1 row dropped: 1 longer than train.max_length (3 tokens) with the demonstration"
        );
        assert_eq!(error.hint(), Some("raise train.max_length, or shorten the rows"));
        assert_eq!(prepare(&[ids_row(1, &[1], None, None)], 3).unwrap_err().hint(), None);
    }

    #[test]
    fn a_row_beyond_the_models_context_is_not_said_to_be_beyond_a_setting() {
        let file = FileRows { path: "rows.jsonl".into(), rows: vec![ids_row(1, &[1, 1], Some(&[2, 2]), None)] };
        let error =
            Preparation { is_limited_by_context: true, ..limited_to(3) }.examples(&[file], &mut |_| {}).unwrap_err();
        assert!(error.to_string().ends_with("1 longer than the model's context (3 tokens) with the demonstration"));
        assert_eq!(error.hint(), Some("shorten the rows, or take a model with a longer context"));
    }

    #[test]
    fn bad_rows_are_errors_with_their_line() {
        let message = |row: Row| prepare(&[row], 8).unwrap_err().to_string();
        assert_eq!(
            message(ids_row(7, &[1], Some(&[10]), None)),
            "rows.jsonl, line 7: token id 10 in the demonstration, but the model has 10 tokens"
        );
        assert_eq!(
            message(ids_row(8, &[], Some(&[1]), None)),
            "rows.jsonl, line 8: the prompt has no tokens; the model needs one to start from"
        );
        let text = Row { prompt: Prompt::Text("Hi".into()), ..ids_row(9, &[], Some(&[1]), None) };
        assert_eq!(message(text), "rows.jsonl, line 9: the row is text, but the model has no tokenizer");
    }

    #[test]
    fn a_prompt_longer_than_the_limit_is_an_error_when_generating() {
        let rows = [ids_row(1, &[1, 2], None, None), ids_row(4, &[1, 2, 3], None, None)];
        let prompts = |limit| prepare_prompts(&rows, None, 10, limit, Path::new("rows.jsonl"));
        assert_eq!(prompts(3).unwrap()[1], PromptIds { index: 1, prompt_ids: vec![1, 2, 3] });
        let error = prompts(2).unwrap_err();
        assert_eq!(error.to_string(), "rows.jsonl, line 4: the prompt has 3 tokens, the limit is 2");
        assert_eq!(error.hint(), Some("shorten the prompt, or take a model with a longer context"));
    }
}
