//! The model's tokenizer: text <-> token ids, and the one place that says how prompts and responses look as tokens.
//!
//! Training and generation call the same [`Tokenizer::encode_prompt`], so the model is asked in the words it was taught
//! in. [`Tokenizer::encode_response`] ends a response with its end-of-turn token exactly once.
//! Not here: lengths and counting ([`super::examples`]), packing ([`super::batch`]).

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Local};
use serde_json::Value;
use tokenizers::ModelWrapper;

use super::chat_template::ChatTemplate;
use super::rows::{Message, Prompt, Response};
use super::tokenizer_growth;
use crate::error::{Error, Result};
use crate::formats::{TokenizerFiles, way_to_have};

/// A tokenizer with the conventions of its model folder: beginning and end tokens, and the chat template if it has one.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocab_size: usize,
    /// Put before a prompt that no template writes.
    bos_token_id: Option<u32>,
    /// What a text is scored after where nothing stands before it.
    prefix_token_id: Option<u32>,
    /// Tokens that end a response.
    eos_token_ids: Vec<u32>,
    /// The one that is written where the template writes none: the template's own, else that of `tokenizer_config`.
    end_token_id: u32,
    /// What stands for text that the tokenizer does not know; byte-level ones know all text.
    unknown_token_id: Option<u32>,
    chat_template: Option<ChatTemplate>,
    path: PathBuf,
}

impl Tokenizer {
    /// Loads a tokenizer. `path` is the model that errors name; `eos_token_ids` come from its configuration; the end
    /// token of `tokenizer_config` and the token that the chat template writes after a response join them.
    ///
    /// # Errors
    /// [`Error::Input`] if `tokenizer.json` is damaged, the chat template is not valid or cannot render a question and
    /// an answer, or if there is no token to end a response with.
    pub fn new(files: &TokenizerFiles, path: &Path, eos_token_ids: &[u32]) -> Result<Self> {
        let (inner, largest_id) = guarded(path, "load", || load(&files.tokenizer_json))?;
        let bos_token = files.special_token("bos_token");
        let eos_token = files.special_token("eos_token");
        let chat_template = match &files.chat_template {
            Some(source) => Some(ChatTemplate::new(source, bos_token, eos_token, path)?),
            None => None,
        };
        let mut tokenizer = Tokenizer {
            vocab_size: largest_id.map_or(0, |id| id as usize + 1),
            bos_token_id: None,
            prefix_token_id: None,
            eos_token_ids: eos_token_ids.to_vec(),
            end_token_id: 0,
            unknown_token_id: None,
            chat_template,
            path: path.to_owned(),
            inner,
        };
        let of_config = eos_token.and_then(|token| tokenizer.inner.token_to_id(token));
        let of_template = tokenizer.end_of_turn_token_id()?;
        of_config.into_iter().chain(of_template).for_each(|id| tokenizer.add_eos_token_id(id));
        let Some(end_token_id) = of_template.or(of_config).or(tokenizer.eos_token_ids.first().copied()) else {
            return Err(Error::input(path, "no end token is known: a response could never end")
                .with_hint(way_to_an_end_token(path)));
        };
        tokenizer.end_token_id = end_token_id;
        let unknown_token = unknown_token(tokenizer.inner.get_model(), files);
        let unknown_token_id = unknown_token.and_then(|token| tokenizer.inner.token_to_id(&token));
        // Some models end their responses with it: there it says nothing.
        tokenizer.unknown_token_id = unknown_token_id.filter(|id| !tokenizer.eos_token_ids.contains(id));
        let prefix_token = bos_token.or(eos_token);
        tokenizer.prefix_token_id = prefix_token.and_then(|token| tokenizer.inner.token_to_id(token));
        let add_bos = files.tokenizer_config.get("add_bos_token").and_then(Value::as_bool);
        tokenizer.bos_token_id = tokenizer.conventional_bos(bos_token, add_bos)?;
        Ok(tokenizer)
    }

    /// The largest token id plus one, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Token ids of `text` as it stands: nothing is added, and special tokens written in the text are recognised.
    ///
    /// # Errors
    /// [`Error::Input`] if the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guarded(&self.path, "encode with", || self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids, without special tokens and without those that end a response: not every tokenizer calls these
    /// special.
    ///
    /// # Errors
    /// [`Error::Input`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let ids: Vec<u32> = ids.iter().copied().filter(|id| !self.eos_token_ids.contains(id)).collect();
        guarded(&self.path, "decode with", || self.inner.decode(&ids, true))
    }

    /// The text of token ids, special tokens included.
    ///
    /// # Errors
    /// [`Error::Input`] if the tokenizer's decoder fails.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String> {
        guarded(&self.path, "decode with", || self.inner.decode(ids, false))
    }

    /// Token ids of `text` where it stands, after a prompt; without an end token.
    ///
    /// # Errors
    /// [`Error::Input`] if the tokenizer cannot represent the text.
    pub fn encode_after(&self, prompt_ids: &[u32], text: &str) -> Result<Vec<u32>> {
        self.continuation(&self.decode_all(prompt_ids)?, prompt_ids, text)
    }

    /// The token that a text is scored after where nothing stands before it: the beginning token, also where texts do not
    /// begin with it by convention, else the end token.
    pub fn prefix_token_id(&self) -> u32 {
        self.prefix_token_id.unwrap_or(self.end_token_id)
    }

    /// The token that ends a response of the model's own, where nothing says which of [`Self::eos_token_ids`] it was.
    pub fn end_token_id(&self) -> u32 {
        self.end_token_id
    }

    /// The tokens that end a response. Never empty.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// Whether token ids have the one that stands for text which the tokenizer does not know.
    pub fn has_unknown(&self, ids: &[u32]) -> bool {
        self.unknown_token_id.is_some_and(|unknown| ids.contains(&unknown))
    }

    /// What becomes of text that the tokenizer does not know.
    pub fn about_unknown(&self) -> String {
        let token = self.unknown_token_id.and_then(|id| self.inner.id_to_token(id)).unwrap_or_default();
        format!("text that the model's tokenizer does not know: `{token}` stands in its place")
    }

    /// Whether a token is one that the tokenizer calls special, other than that for unknown text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_token_ids().contains(&id)
    }

    /// The tokens that the tokenizer calls special, but the one for unknown text, which stands for what is no token.
    pub fn special_token_ids(&self) -> HashSet<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id);
        special.filter(|id| Some(*id) != self.unknown_token_id).collect()
    }

    /// Whether a text ends in the text of an end token, which [`Self::encode_response`] then writes only once.
    pub fn ends_in_end_token(&self, text: &str) -> bool {
        let end_tokens = self.eos_token_ids.iter().filter_map(|&id| self.inner.id_to_token(id));
        end_tokens.into_iter().any(|token| !token.is_empty() && text.trim_end().ends_with(&token))
    }

    /// Whether the chat template says where the assistant begins; None without a template.
    ///
    /// # Errors
    /// [`Error::Input`] if the template cannot render a question.
    pub fn has_generation_prompt(&self) -> Result<Option<bool>> {
        let Some(template) = &self.chat_template else { return Ok(None) };
        let question = [Message { role: "user".to_owned(), content: "A question?".to_owned() }];
        Ok(Some(template.render(&question, true)? != template.render(&question, false)?))
    }

    /// Makes `date` what the chat template takes for now.
    pub fn set_date(&mut self, date: DateTime<Local>) {
        if let Some(template) = &mut self.chat_template {
            template.set_date(date);
        }
    }

    /// The date that the chat template prints, if it does.
    pub fn printed_date(&self) -> Option<DateTime<Local>> {
        self.chat_template.as_ref().and_then(ChatTemplate::printed_date)
    }

    /// Whether prompts go through a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }

    /// A prompt as the model reads it, in training and in generation alike.
    ///
    /// With a chat template a text is one user message. Without one it is used as it is, after the beginning token if
    /// that is the tokenizer's convention; a beginning token that the text already has is not doubled.
    /// # Errors
    /// [`Error::Input`] for messages without a chat template, and if the template refuses them.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        match (prompt, self.render_prompt(prompt)?) {
            (Prompt::Ids(ids), _) => Ok(ids.clone()),
            (_, Some(rendered)) => self.encode(&rendered),
            (Prompt::Text(text), None) => self.encode_plain(text),
            (Prompt::Messages(_), None) => {
                let way = way_to_have(&self.path, "chat_template.jinja");
                Err(Error::input(&self.path, "rows of messages need a chat template")
                    .with_hint(format!("{way}, or write rows of prompt and completion")))
            }
        }
    }

    /// The text of a prompt after the chat template; `None` without a template, and for token ids.
    ///
    /// # Errors
    /// [`Error::Input`] if the template refuses the messages.
    pub fn render_prompt(&self, prompt: &Prompt) -> Result<Option<String>> {
        match (&self.chat_template, as_messages(prompt)) {
            (Some(template), Some(messages)) => template.render(&messages, true).map(Some),
            _ => Ok(None),
        }
    }

    /// The tokens of a response to `prompt`, its end-of-turn token exactly once, at the end. Token ids are used as they
    /// are.
    ///
    /// The whole conversation is rendered; what follows the rendered prompt is the response, tokenized in place, up to
    /// its end token: line breaks that a template writes after it are not for the model to predict. If the template writes no
    /// end token, the response ends with its text; if it rewrites the prompt once it is answered, the response is its text
    /// after the prompt. Either is then given the end token.
    /// # Errors
    /// [`Error::Input`] if the text has an end token anywhere but at its end, and if the template refuses the messages.
    pub fn encode_response(&self, prompt: &Prompt, response: &Response) -> Result<Vec<u32>> {
        let text = match response {
            Response::Ids(ids) => return Ok(ids.clone()),
            Response::Text(text) => self.without_end_token(text)?,
        };
        let start = match (prompt, self.render_prompt(prompt)?) {
            (_, Some(rendered)) => rendered,
            (Prompt::Text(text), None) => text.clone(),
            (Prompt::Ids(_) | Prompt::Messages(_), None) => {
                return Ok([self.encode(text)?, vec![self.end_token_id]].concat());
            }
        };
        let turn = self.templated_response(prompt, &start, text)?;
        let start_ids = self.encode(&start)?;
        if let Some(turn) = &turn {
            let ids = self.continuation(&start, &start_ids, turn)?;
            if let Some(end) = ids.iter().position(|id| self.eos_token_ids.contains(id)) {
                return Ok(ids[..=end].to_vec());
            }
        }
        let rest = turn.as_deref().map_or(text, |turn| up_to_the_end_of(text, turn));
        let mut ids = self.continuation(&start, &start_ids, rest)?;
        ids.push(self.end_token_id);
        Ok(ids)
    }

    /// What the template adds to the rendered prompt `start` for a response of `text`; `None` without a template, and where the
    /// rendered conversation does not begin with the rendered prompt.
    fn templated_response(&self, prompt: &Prompt, start: &str, text: &str) -> Result<Option<String>> {
        let (Some(template), Some(mut messages)) = (&self.chat_template, as_messages(prompt)) else { return Ok(None) };
        messages.push(Message { role: "assistant".to_owned(), content: text.to_owned() });
        let rendered = template.render(&messages, false)?;
        // A template may drop or rewrite parts of an answer; then it is not what the row asks to imitate.
        Ok(rendered.strip_prefix(start).filter(|turn| turn.contains(text.trim())).map(str::to_owned))
    }

    /// The tokens of `rest` where it stands, after `start` with its tokens: some tokenizers begin a text with a space that must
    /// not appear in the middle. Where a token would span the border, `rest` is tokenized alone.
    fn continuation(&self, start: &str, start_ids: &[u32], rest: &str) -> Result<Vec<u32>> {
        match self.encode(&format!("{start}{rest}"))?.strip_prefix(start_ids) {
            Some(ids) => Ok(ids.to_vec()),
            None => self.encode(rest),
        }
    }

    /// The text without end tokens that a data set wrote at its end.
    ///
    /// # Errors
    /// [`Error::Input`] if the text has an end token anywhere else.
    pub(super) fn without_end_token<'t>(&self, text: &'t str) -> Result<&'t str> {
        let end_tokens = self.eos_token_ids.iter().filter_map(|&id| self.inner.id_to_token(id));
        let end_tokens: Vec<String> = end_tokens.filter(|token| !token.is_empty()).collect();
        let mut kept = text;
        while let Some(shorter) = end_tokens.iter().find_map(|token| kept.trim_end().strip_suffix(token.as_str())) {
            kept = shorter;
        }
        match self.encode(kept)?.iter().find(|id| self.eos_token_ids.contains(id)) {
            Some(&id) => {
                let token = self.inner.id_to_token(id).unwrap_or_default();
                Err(Error::input(&self.path, format!("the response has the end token `{token}` before its end"))
                    .with_hint("write several turns as messages; a response is one turn"))
            }
            None => Ok(kept),
        }
    }

    /// Token ids of a text that nothing stands before: after the beginning token, if that is the tokenizer's convention,
    /// and never through a chat template.
    ///
    /// # Errors
    /// [`Error::Input`] if the tokenizer cannot represent the text.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text)?;
        if let Some(bos) = self.bos_token_id
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The beginning token, if `tokenizer_config` or else `tokenizer.json` says that texts begin with it.
    fn conventional_bos(&self, bos_token: Option<&str>, add_bos: Option<bool>) -> Result<Option<u32>> {
        let Some(id) = bos_token.and_then(|token| self.inner.token_to_id(token)) else { return Ok(None) };
        let begins_with_bos = match add_bos {
            Some(add_bos) => add_bos,
            None => {
                let encoding = guarded(&self.path, "encode with", || self.inner.encode_fast("a", true))?;
                encoding.get_ids().first() == Some(&id)
            }
        };
        Ok(begins_with_bos.then_some(id))
    }

    /// The special token that the chat template writes right after a response, if it writes one.
    fn end_of_turn_token_id(&self) -> Result<Option<u32>> {
        let Some(template) = &self.chat_template else { return Ok(None) };
        let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let probe = "A short answer.";
        let rendered = template.render(&[message("user", "A question?"), message("assistant", probe)], false)?;
        let Some((_, after)) = rendered.rsplit_once(probe) else { return Ok(None) };
        let first = self.encode(after.trim_start())?.first().copied();
        Ok(first.filter(|id| self.special_token_ids().contains(id)))
    }

    fn add_eos_token_id(&mut self, id: u32) {
        if !self.eos_token_ids.contains(&id) {
            self.eos_token_ids.push(id);
        }
    }
}

fn way_to_an_end_token(path: &Path) -> String {
    match path.is_file() {
        true => way_to_have(path, "an end token"),
        false => "name it as `eos_token` in tokenizer_config.json or as `eos_token_id` in config.json".to_owned(),
    }
}

/// The library's tokenizer and its largest token id.
fn load(
    tokenizer_json: &[u8],
) -> std::result::Result<(tokenizers::Tokenizer, Option<u32>), Box<dyn std::error::Error>> {
    tokenizer_growth::check(tokenizer_json)?;
    let mut inner = tokenizers::Tokenizer::from_bytes(tokenizer_json).map_err(|error| error.to_string())?;
    // Left on, these would silently cut long answers or add tokens to short ones.
    inner.with_truncation(None).map_err(|error| error.to_string())?;
    inner.with_padding(None);
    let largest_id = inner.get_vocab(true).into_values().max();
    Ok((inner, largest_id))
}

/// What the library writes for text that it does not know.
fn unknown_token(model: &ModelWrapper, files: &TokenizerFiles) -> Option<String> {
    match model {
        ModelWrapper::BPE(model) => model.get_unk_token().clone(),
        ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
        ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
        // It knows a number only.
        ModelWrapper::Unigram(_) => files.special_token("unk_token").map(str::to_owned),
    }
}

/// The beginning of a turn, with all that the template writes before the response `text`, and without what follows it: the
/// last occurrence, because templates write words before a response and line breaks after it.
fn up_to_the_end_of<'t>(text: &str, turn: &'t str) -> &'t str {
    let end = [text, text.trim()].into_iter().find_map(|text| Some(turn.rfind(text)? + text.len()));
    &turn[..end.unwrap_or(turn.len())]
}

/// A prompt as a conversation: a text is one user message. `None` for token ids.
fn as_messages(prompt: &Prompt) -> Option<Vec<Message>> {
    match prompt {
        Prompt::Text(text) => Some(vec![Message { role: "user".to_owned(), content: text.clone() }]),
        Prompt::Messages(messages) => Some(messages.clone()),
        Prompt::Ids(_) => None,
    }
}

/// Calls the tokenizer library, which panics on some damaged files: that, too, is an error of the file.
fn guarded<T, E: std::fmt::Display>(
    path: &Path,
    action: &str,
    call: impl FnOnce() -> std::result::Result<T, E>,
) -> Result<T> {
    let failed =
        |reason: &str| Error::input(path, format!("cannot {action} the tokenizer: {reason}")).at("tokenizer.json");
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| failed(&error.to_string())),
        Err(_) => Err(failed("it is damaged")),
    }
}

#[cfg(test)]
mod tests;
