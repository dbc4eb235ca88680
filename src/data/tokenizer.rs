//! The model's tokenizer: text <-> token ids, and the one place that says how prompts and responses look as tokens.
//!
//! Training and generation call the same [`Tokenizer::encode_prompt`], so the model is asked in the words it was taught
//! in. [`Tokenizer::encode_response`] ends a response with its end-of-turn token exactly once.
//! Not here: lengths and counting ([`super::examples`]), masks ([`super::batch`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chat_template::ChatTemplate;
use super::rows::{Message, Prompt, Response};
use crate::error::{Error, Result};
use crate::formats::TokenizerFiles;

/// A tokenizer with the conventions of its model folder: beginning and end tokens, and the chat template if it has one.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocab_size: usize,
    /// Put before a prompt that no template writes.
    bos_token_id: Option<u32>,
    /// Tokens that end a response; the first one is written where the template writes none.
    eos_token_ids: Vec<u32>,
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
        let mut inner = guarded(path, "load", || tokenizers::Tokenizer::from_bytes(&files.tokenizer_json))?;
        // Left on, these would silently cut long answers or add tokens to short ones.
        guarded(path, "load", || inner.with_truncation(None).map(|_| ()))?;
        inner.with_padding(None);
        let largest_id = inner.get_vocab(true).into_values().max();
        let bos_token = special_token(&files.tokenizer_config, "bos_token");
        let eos_token = special_token(&files.tokenizer_config, "eos_token");
        let chat_template = match &files.chat_template {
            Some(source) => Some(ChatTemplate::new(source, bos_token, eos_token, path)?),
            None => None,
        };
        let mut tokenizer = Tokenizer {
            vocab_size: largest_id.map_or(0, |id| id as usize + 1),
            bos_token_id: None,
            eos_token_ids: eos_token_ids.to_vec(),
            chat_template,
            path: path.to_owned(),
            inner,
        };
        if let Some(id) = eos_token.and_then(|token| tokenizer.inner.token_to_id(token)) {
            tokenizer.add_eos_token_id(id);
        }
        if let Some(id) = tokenizer.end_of_turn_token_id()? {
            tokenizer.add_eos_token_id(id);
        }
        if tokenizer.eos_token_ids.is_empty() {
            return Err(Error::input(path, "no end token is known: a response could never end")
                .with_hint("name it as `eos_token` in tokenizer_config.json or as `eos_token_id` in config.json"));
        }
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

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// [`Error::Input`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(&self.path, "decode with", || self.inner.decode(ids, true))
    }

    /// The text of token ids, special tokens included.
    ///
    /// # Errors
    /// [`Error::Input`] if the tokenizer's decoder fails.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String> {
        guarded(&self.path, "decode with", || self.inner.decode(ids, false))
    }

    /// The tokens that end a response. Never empty.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
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
            (Prompt::Messages(_), None) => Err(Error::input(&self.path, "rows of messages need a chat template")
                .with_hint("add chat_template.jinja to the model folder, or write rows of prompt and completion")),
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
    /// its end token: line breaks that a template writes after it are not for the model to predict. If the template
    /// rewrites the prompt once it is answered, the response is its own text and the end token.
    /// # Errors
    /// [`Error::Input`] if the text has an end token anywhere but at its end, and if the template refuses the messages.
    pub fn encode_response(&self, prompt: &Prompt, response: &Response) -> Result<Vec<u32>> {
        let text = match response {
            Response::Ids(ids) => return Ok(ids.clone()),
            Response::Text(text) => self.without_end_token(text)?,
        };
        if let Some(rest) = self.templated_response(prompt, text)?
            && let Some(end) = rest.iter().position(|id| self.eos_token_ids.contains(id))
        {
            return Ok(rest[..=end].to_vec());
        }
        let mut ids = match prompt {
            Prompt::Text(prompt_text) if self.chat_template.is_none() => {
                self.continuation(prompt_text, &format!("{prompt_text}{text}"), text)?
            }
            _ => self.encode(text)?,
        };
        ids.push(self.eos_token_ids[0]);
        Ok(ids)
    }

    /// What the template adds to the prompt for a response of `text`; `None` without a template, and where the rendered
    /// conversation does not begin with the rendered prompt.
    fn templated_response(&self, prompt: &Prompt, text: &str) -> Result<Option<Vec<u32>>> {
        let (Some(template), Some(mut messages)) = (&self.chat_template, as_messages(prompt)) else { return Ok(None) };
        let rendered_prompt = template.render(&messages, true)?;
        messages.push(Message { role: "assistant".to_owned(), content: text.to_owned() });
        let rendered = template.render(&messages, false)?;
        match rendered.strip_prefix(&rendered_prompt) {
            // A template may drop or rewrite parts of an answer; then it is not what the row asks to imitate.
            Some(rest) if rest.contains(text.trim()) => self.continuation(&rendered_prompt, &rendered, rest).map(Some),
            _ => Ok(None),
        }
    }

    /// The tokens of `rest` where it stands, `whole` being `start` and then `rest`: some tokenizers begin a text with a
    /// space that must not appear in the middle. Where a token would span the border, `rest` is tokenized alone.
    fn continuation(&self, start: &str, whole: &str, rest: &str) -> Result<Vec<u32>> {
        let start_ids = self.encode(start)?;
        match self.encode(whole)?.strip_prefix(start_ids.as_slice()) {
            Some(ids) => Ok(ids.to_vec()),
            None => self.encode(rest),
        }
    }

    /// The text without end tokens that a data set wrote at its end.
    fn without_end_token<'t>(&self, text: &'t str) -> Result<&'t str> {
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

    fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
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
        let specials = self.inner.get_added_tokens_decoder();
        let first = self.encode(after.trim_start())?.first().copied();
        Ok(first.filter(|id| specials.get(id).is_some_and(|token| token.special)))
    }

    fn add_eos_token_id(&mut self, id: u32) {
        if !self.eos_token_ids.contains(&id) {
            self.eos_token_ids.push(id);
        }
    }
}

/// A prompt as a conversation: a text is one user message. `None` for token ids.
fn as_messages(prompt: &Prompt) -> Option<Vec<Message>> {
    match prompt {
        Prompt::Text(text) => Some(vec![Message { role: "user".to_owned(), content: text.clone() }]),
        Prompt::Messages(messages) => Some(messages.clone()),
        Prompt::Ids(_) => None,
    }
}

/// A special token of `tokenizer_config.json`: its text, or an object with its text as `content`.
fn special_token<'c>(config: &'c Value, name: &str) -> Option<&'c str> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
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
mod tests {
    use serde_json::json;

    use super::*;

    const TOKENIZER_JSON: &[u8] = include_bytes!("../../tests/fixtures/tokenizer/tokenizer.json");
    const CHATML: &str = include_str!("../../tests/fixtures/tokenizer/templates/chatml.jinja");
    const HEADERS: &str = include_str!("../../tests/fixtures/tokenizer/templates/headers.jinja");
    const INST: &str = include_str!("../../tests/fixtures/tokenizer/templates/inst.jinja");
    const ZEPHYR: &str = include_str!("../../tests/fixtures/tokenizer/templates/zephyr.jinja");
    // Ids of the fixture's special tokens, in the order of SPECIAL in make.py.
    const ENDOFTEXT: u32 = 0;
    const IM_START: u32 = 1;
    const IM_END: u32 = 2;
    const BOS: u32 = 3;
    const EOS: u32 = 4;
    const EOT: u32 = 7;

    fn load(template: Option<&str>, config: Value, eos_token_ids: &[u32]) -> Result<Tokenizer> {
        let files = TokenizerFiles {
            tokenizer_json: TOKENIZER_JSON.to_vec(),
            tokenizer_config: config,
            chat_template: template.map(str::to_owned),
        };
        Tokenizer::new(&files, Path::new("model"), eos_token_ids)
    }

    fn marked() -> Value {
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    }

    fn text(text: &str) -> Prompt {
        Prompt::Text(text.into())
    }

    fn answer(tokenizer: &Tokenizer, prompt: &str, response: &str) -> Vec<u32> {
        tokenizer.encode_response(&text(prompt), &Response::Text(response.into())).unwrap()
    }

    /// tests/fixtures/tokenizer/expected.json is what Python's `tokenizers` gives: see make.py beside it.
    #[test]
    fn text_becomes_the_same_ids_as_in_python_and_comes_back() {
        let tokenizer = load(None, json!({}), &[ENDOFTEXT]).unwrap();
        let expected: Value =
            serde_json::from_str(include_str!("../../tests/fixtures/tokenizer/expected.json")).unwrap();
        for case in expected["encodings"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(json!(ids), case["ids"], "{text:?}");
            if !text.contains('|') && !text.contains("<s>") {
                assert_eq!(tokenizer.decode(&ids).unwrap(), text);
            }
        }
        assert_eq!(tokenizer.decode(&[IM_START, 72, IM_END]).unwrap(), tokenizer.decode(&[72]).unwrap());
        assert_eq!(tokenizer.vocab_size(), tokenizer.inner.get_vocab_size(true));
    }

    #[test]
    fn a_chatml_response_ends_with_im_end_and_not_with_the_line_break_after_it() {
        let tokenizer = load(Some(CHATML), json!({}), &[ENDOFTEXT]).unwrap();
        assert_eq!(tokenizer.eos_token_ids(), [ENDOFTEXT, IM_END]);
        let ids = answer(&tokenizer, "What is the capital of France?", "Paris.");
        assert_eq!(ids, [tokenizer.encode("Paris.").unwrap(), vec![IM_END]].concat());
        let prompt = tokenizer.render_prompt(&text("Hi")).unwrap().unwrap();
        assert_eq!(
            prompt,
            "<|im_start|>system\nYou are a small model.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(tokenizer.encode_prompt(&text("Hi")).unwrap(), tokenizer.encode(&prompt).unwrap());
    }

    #[test]
    fn every_template_ends_a_response_with_one_end_token_at_its_end() {
        for (template, end) in [(CHATML, IM_END), (HEADERS, EOT), (INST, EOS), (ZEPHYR, EOS)] {
            let tokenizer = load(Some(template), marked(), &[ENDOFTEXT]).unwrap();
            for response in ["Paris.", "\n 64 + 8 = 72 \n", "日本", "Paris.</s>", "Paris.<|endoftext|> </s>\n"] {
                let ids = answer(&tokenizer, "  What? ", response);
                let ends: Vec<usize> =
                    (0..ids.len()).filter(|&i| tokenizer.eos_token_ids().contains(&ids[i])).collect();
                assert_eq!(ends, [ids.len() - 1], "{response:?} in {template}");
                assert_eq!(ids.last(), Some(&end), "{response:?} in {template}");
                let shown = response.replace("</s>", "").replace("<|endoftext|>", "");
                assert_eq!(tokenizer.decode(&ids).unwrap().trim(), shown.trim());
            }
        }
    }

    #[test]
    fn the_prompt_and_the_response_are_the_whole_conversation() {
        for template in [CHATML, HEADERS, INST, ZEPHYR] {
            let tokenizer = load(Some(template), marked(), &[]).unwrap();
            let mut messages = as_messages(&text("What is the capital of France?")).unwrap();
            messages.push(Message { role: "assistant".into(), content: "Paris.".into() });
            let whole = tokenizer.chat_template.as_ref().unwrap().render(&messages, false).unwrap();
            let ids = [
                tokenizer.encode_prompt(&text("What is the capital of France?")).unwrap(),
                answer(&tokenizer, "What is the capital of France?", "Paris."),
            ];
            assert_eq!(ids.concat(), tokenizer.encode(whole.trim_end()).unwrap());
        }
    }

    #[test]
    fn a_template_that_rewrites_the_prompt_falls_back_to_the_text_and_the_end_token() {
        let template = "{{ messages | length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";
        let tokenizer = load(Some(template), json!({}), &[ENDOFTEXT]).unwrap();
        assert_eq!(answer(&tokenizer, "Hi", "Paris."), [tokenizer.encode("Paris.").unwrap(), vec![ENDOFTEXT]].concat());
    }

    #[test]
    fn an_end_token_inside_a_response_is_an_error() {
        let tokenizer = load(None, marked(), &[]).unwrap();
        let error = tokenizer.encode_response(&text("Hi"), &Response::Text("one</s>two".into())).unwrap_err();
        assert_eq!(error.to_string(), "model: the response has the end token `</s>` before its end");
    }

    #[test]
    fn a_beginning_token_is_written_once_and_only_by_convention() {
        let plain =
            |config: Value, prompt: &str| load(None, config, &[EOS]).unwrap().encode_prompt(&text(prompt)).unwrap();
        let a = load(None, marked(), &[]).unwrap().encode("a").unwrap();
        assert_eq!(plain(marked(), "a"), a);
        let adds = json!({"bos_token": "<s>", "add_bos_token": true});
        assert_eq!(plain(adds.clone(), "a"), [vec![BOS], a.clone()].concat());
        assert_eq!(plain(adds.clone(), "<s>a"), [vec![BOS], a].concat());
        let tokenizer = load(Some(INST), adds, &[EOS]).unwrap();
        let ids = tokenizer.encode_prompt(&text("a")).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == BOS).count(), 1);
    }

    #[test]
    fn without_a_template_a_response_is_its_text_and_the_end_token() {
        let tokenizer = load(None, marked(), &[]).unwrap();
        assert_eq!(answer(&tokenizer, "64 +", " 8"), [tokenizer.encode(" 8").unwrap(), vec![EOS]].concat());
    }

    #[test]
    fn token_ids_pass_through_unchanged() {
        let tokenizer = load(Some(CHATML), json!({}), &[IM_END]).unwrap();
        let prompt = Prompt::Ids(vec![9, 9]);
        assert_eq!(tokenizer.encode_prompt(&prompt).unwrap(), [9, 9]);
        assert_eq!(tokenizer.encode_response(&prompt, &Response::Ids(vec![5])).unwrap(), [5]);
        let ids = tokenizer.encode_response(&prompt, &Response::Text("Hi".into())).unwrap();
        assert_eq!(ids, [tokenizer.encode("Hi").unwrap(), vec![IM_END]].concat());
    }

    #[test]
    fn what_a_model_folder_lacks_is_said() {
        let message = |result: Result<Tokenizer>| result.err().unwrap().to_string();
        assert_eq!(message(load(None, json!({}), &[])), "model: no end token is known: a response could never end");
        let tokenizer = load(None, marked(), &[]).unwrap();
        let messages = Prompt::Messages(as_messages(&text("Hi")).unwrap());
        let error = tokenizer.encode_prompt(&messages).unwrap_err().to_string();
        assert_eq!(error, "model: rows of messages need a chat template");
    }

    /// Two thousand mutations of the fixture, from a fixed seed (promise R13): each loads or is an error.
    #[test]
    fn a_damaged_tokenizer_is_an_error_and_never_ends_the_process() {
        let mut num_refused = 0;
        let mut state = 1_u64;
        for _ in 0..2_000 {
            let mut json = TOKENIZER_JSON.to_vec();
            // Constants of Knuth's MMIX generator.
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (state >> 33) as usize % json.len();
            // Letters and digits become other ones, so that many files are still JSON and reach the later checks.
            let replacements: &[u8] =
                if json[at].is_ascii_alphanumeric() { b"0179aetu" } else { b"{}[],:\"\\\x00\xff -" };
            json[at] = replacements[(state >> 20) as usize % replacements.len()];
            let files = TokenizerFiles { tokenizer_json: json, tokenizer_config: marked(), chat_template: None };
            match Tokenizer::new(&files, Path::new("model"), &[EOS]) {
                Ok(tokenizer) => {
                    let ids = tokenizer.encode("Hello <|im_end|> 日本").unwrap_or_default();
                    let _text_or_error = tokenizer.decode(&ids);
                }
                Err(_) => num_refused += 1,
            }
        }
        assert!((100..2_000).contains(&num_refused), "{num_refused} refused");
    }

    #[test]
    fn a_panic_of_the_tokenizer_library_is_an_error() {
        let result: Result<()> =
            guarded(Path::new("model"), "load", || -> std::result::Result<(), String> { panic!("a panic on purpose") });
        assert_eq!(result.unwrap_err().to_string(), "model, tokenizer.json: cannot load the tokenizer: it is damaged");
    }
}
