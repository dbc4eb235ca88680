//! The tokenizer in a GGUF file's metadata, written as `tokenizer.json` and `tokenizer_config.json`.
//!
//! Two kinds are known, by `tokenizer.ggml.model`: `gpt2` (`gguf_byte_level`) and `llama` (`gguf_sentence_piece`).
//! What they share is here: the vocabulary, the added tokens, the start and end tokens, the configuration.
//!
//! These files only make JSON; the tokenizers crate reads it elsewhere. Token ids are those of the original tokenizer,
//! which the tests hold against recorded ids.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::TokenizerFiles;
use super::gguf_byte_level::byte_level_bpe;
use super::gguf_metadata::GgufMetadata;
use super::gguf_sentence_piece::sentence_piece_bpe;
use crate::error::{Error, Result};

/// Token types of `tokenizer.ggml.token_type` that are treated apart.
pub const NORMAL: u64 = 1;
pub const CONTROL: u64 = 3;
pub const USER_DEFINED: u64 = 4;
pub const UNUSED: u64 = 5;

/// The tokenizer of a GGUF file; `None` if it has none.
pub fn tokenizer_files(path: &Path, metadata: &GgufMetadata) -> Result<Option<TokenizerFiles>> {
    let key = "tokenizer.ggml.model";
    let kind = metadata.string(key)?;
    if matches!(kind, None | Some("no_vocab" | "none")) {
        return Ok(None);
    }
    let vocabulary = Vocabulary::read(path, metadata)?;
    let tokenizer = match kind {
        Some("gpt2") => byte_level_bpe(path, metadata, &vocabulary)?,
        Some("llama") => sentence_piece_bpe(path, metadata, &vocabulary)?,
        other => {
            let message =
                format!("the tokenizer {:?} is not supported; expected gpt2 or llama", other.unwrap_or_default());
            return Err(Error::input(path, message).at(key));
        }
    };
    let chat_template = metadata.string("tokenizer.chat_template")?.map(str::to_owned);
    let tokenizer_config = tokenizer_config(&vocabulary, &tokenizer, chat_template.as_deref());
    let tokenizer_json = tokenizer_json(&vocabulary, &tokenizer).to_string().into_bytes();
    Ok(Some(TokenizerFiles { tokenizer_json, tokenizer_config, chat_template }))
}

/// The tokens, their types, and which of them are special.
pub struct Vocabulary<'a> {
    pub tokens: Vec<&'a str>,
    pub types: Vec<u64>,
    /// Token to id, without the names that fill up the ids beyond the tokenizer's own.
    pub ids: HashMap<&'a str, usize>,
    bos: Option<usize>,
    eos: Option<usize>,
    pub unknown: Option<usize>,
    padding: Option<usize>,
}

impl<'a> Vocabulary<'a> {
    fn read(path: &Path, metadata: &'a GgufMetadata) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let tokens = metadata.strings(key)?.ok_or_else(|| metadata.missing(key))?;
        let type_key = "tokenizer.ggml.token_type";
        let types = metadata.u64s(type_key)?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
        check_len(path, type_key, types.len(), tokens.len())?;
        let mut ids = HashMap::new();
        for (id, (&token, &kind)) in tokens.iter().zip(&types).enumerate() {
            // Converters call the unused rows of the embedding `[PAD151646]`: not tokens of the tokenizer.
            if kind == UNUSED && token == format!("[PAD{id}]") {
                continue;
            }
            if let Some(other) = ids.insert(token, id) {
                return Err(Error::input(path, format!("tokens {other} and {id} are both {token:?}")).at(key));
            }
        }
        let special = |name: &str| -> Result<Option<usize>> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match metadata.u64(&key)? {
                Some(id) if id >= tokens.len() as u64 => {
                    Err(Error::input(path, format!("is {id}, but there are {} tokens", tokens.len())).at(key))
                }
                id => Ok(id.map(|id| id as usize)),
            }
        };
        let (bos, eos) = (special("bos")?, special("eos")?);
        let (unknown, padding) = (special("unknown")?, special("padding")?);
        Ok(Self { tokens, types, ids, bos, eos, unknown, padding })
    }

    /// Control and user-defined tokens, which are found in a text before it is split.
    fn added_tokens(&self) -> Vec<Value> {
        let added = self.types.iter().enumerate().filter(|(_, kind)| matches!(**kind, CONTROL | USER_DEFINED));
        added
            .map(|(id, &kind)| {
                json!({"id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": kind == CONTROL})
            })
            .collect()
    }

    /// The vocabulary as JSON, in the order of the ids.
    pub fn to_json(&self) -> Value {
        let mut entries: Vec<_> = self.ids.iter().map(|(token, id)| (*id, *token)).collect();
        entries.sort_unstable();
        entries.into_iter().map(|(id, token)| (token.to_owned(), json!(id))).collect::<Map<_, _>>().into()
    }
}

/// An array beside the tokens must be as long as they are.
pub fn check_len(path: &Path, key: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::input(path, format!("has {found} entries for {expected} tokens")).at(key))
}

/// The parts of `tokenizer.json` in which the two kinds differ.
pub struct Tokenizer {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Value,
    pub model: Value,
    pub add_bos: bool,
    pub add_eos: bool,
}

/// Several steps in one; `field` is what the format calls the list of them.
pub fn sequence(field: &str, parts: &[Value]) -> Value {
    json!({"type": "Sequence", field: parts})
}

fn tokenizer_json(vocabulary: &Vocabulary, tokenizer: &Tokenizer) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": tokenizer.normalizer,
        "pre_tokenizer": tokenizer.pre_tokenizer,
        "post_processor": start_and_end(vocabulary, tokenizer),
        "decoder": tokenizer.decoder,
        "model": tokenizer.model,
    })
}

/// The post-processor that adds the start and end tokens; null where neither is added.
fn start_and_end(vocabulary: &Vocabulary, tokenizer: &Tokenizer) -> Value {
    let bos = vocabulary.bos.filter(|_| tokenizer.add_bos);
    let eos = vocabulary.eos.filter(|_| tokenizer.add_eos);
    if bos.or(eos).is_none() {
        return Value::Null;
    }
    let special = |id: usize, type_id: u32| json!({"SpecialToken": {"id": vocabulary.tokens[id], "type_id": type_id}});
    let text = |name: &str, type_id: u32| {
        let mut parts: Vec<_> = bos.map(|id| special(id, type_id)).into_iter().collect();
        parts.push(json!({"Sequence": {"id": name, "type_id": type_id}}));
        parts.extend(eos.map(|id| special(id, type_id)));
        parts
    };
    let token = |id: usize| {
        let name = vocabulary.tokens[id];
        (name.to_owned(), json!({"id": name, "ids": [id], "tokens": [name]}))
    };
    let pair = [text("A", 0), text("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": pair,
        "special_tokens": bos.into_iter().chain(eos).map(token).collect::<Map<_, _>>(),
    })
}

fn tokenizer_config(vocabulary: &Vocabulary, tokenizer: &Tokenizer, chat_template: Option<&str>) -> Value {
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "add_bos_token": tokenizer.add_bos,
        "add_eos_token": tokenizer.add_eos,
    });
    let special = [
        ("bos_token", vocabulary.bos),
        ("eos_token", vocabulary.eos),
        ("unk_token", vocabulary.unknown),
        ("pad_token", vocabulary.padding),
    ];
    for (name, id) in special {
        if let Some(id) = id {
            config[name] = vocabulary.tokens[id].into();
        }
    }
    if let Some(chat_template) = chat_template {
        config["chat_template"] = chat_template.into();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::gguf_builder::GgufBuilder;
    use crate::formats::gguf_checks::{reader, tokenizer_in, tokens};
    use crate::formats::{ModelFiles, open_model};
    use tokenizers::Tokenizer as Reader;

    fn refused(builder: &GgufBuilder, why: &str) {
        let error = tokenizer_in(builder).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(why), "expected {why:?} in: {error}");
    }

    fn byte_level_file(pre: &str) -> GgufBuilder {
        GgufBuilder::default()
            .string("tokenizer.ggml.model", "gpt2")
            .string("tokenizer.ggml.pre", pre)
            .strings("tokenizer.ggml.tokens", &["<|end|>", "a", "b", "Ġ", "1", "2", "ab", "Ġab", "12", "<tool>"])
            .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1, 1, 1, 1, 1, 1, 4])
            .strings("tokenizer.ggml.merges", &["a b", "Ġ ab", "1 2"])
            .u32("tokenizer.ggml.eos_token_id", 0)
    }

    #[test]
    fn each_rule_splits_as_its_family_does() {
        for (pre, digits) in
            [("gpt-2", vec!["12"]), ("smollm", vec!["1", "2"]), ("llama-bpe", vec!["12"]), ("qwen2", vec!["1", "2"])]
        {
            let reader = reader(&byte_level_file(pre));
            assert_eq!(tokens(&reader, "12", false), digits, "{pre}");
            assert_eq!(tokens(&reader, "ab ab<|end|>a", false), ["ab", "Ġab", "<|end|>", "a"], "{pre}");
            assert_eq!(reader.decode(&[6, 7, 0], true).unwrap(), "ab ab");
        }
        refused(&byte_level_file("tekken"), "\"tekken\" is not supported");
    }

    #[test]
    fn only_control_tokens_are_special() {
        let reader = reader(&byte_level_file("gpt-2"));
        assert_eq!(tokens(&reader, "a<tool>a", false), ["a", "<tool>", "a"]);
        assert_eq!(reader.decode(&[1, 9, 0], true).unwrap(), "a<tool>");
    }

    #[test]
    fn the_start_token_is_added_where_the_file_or_its_family_says() {
        let start = |builder: GgufBuilder| tokens(&reader(&builder.u32("tokenizer.ggml.bos_token_id", 0)), "a", true);
        assert_eq!(start(byte_level_file("llama-bpe")), ["<|end|>", "a"]);
        assert_eq!(start(byte_level_file("smollm")), ["a"]);
        assert_eq!(start(byte_level_file("llama-bpe").bool("tokenizer.ggml.add_bos_token", false)), ["a"]);
        let both = byte_level_file("qwen2").bool("tokenizer.ggml.add_bos_token", true);
        assert_eq!(start(both.bool("tokenizer.ggml.add_eos_token", true)), ["<|end|>", "a", "<|end|>"]);
    }

    #[test]
    fn the_configuration_names_the_special_tokens_and_keeps_the_template() {
        let files =
            tokenizer_in(&byte_level_file("smollm").string("tokenizer.chat_template", "{{ x }}")).unwrap().unwrap();
        assert_eq!(files.chat_template.as_deref(), Some("{{ x }}"));
        let expected = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
            "add_bos_token": false, "add_eos_token": false, "eos_token": "<|end|>", "chat_template": "{{ x }}",
        });
        assert_eq!(files.tokenizer_config, expected);
    }

    #[test]
    fn names_that_fill_up_the_vocabulary_are_left_out() {
        let builder = GgufBuilder::default()
            .string("tokenizer.ggml.model", "gpt2")
            .string("tokenizer.ggml.pre", "gpt-2")
            .strings("tokenizer.ggml.tokens", &["a", "[PAD1]"])
            .i32s("tokenizer.ggml.token_type", &[1, 5])
            .strings("tokenizer.ggml.merges", &[]);
        assert_eq!(reader(&builder).get_vocab_size(true), 1);
    }

    #[test]
    fn damaged_vocabularies_are_refused() {
        let without_rule = |tokens: &[&str]| {
            GgufBuilder::default().string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", tokens)
        };
        let base = |tokens: &[&str]| without_rule(tokens).string("tokenizer.ggml.pre", "gpt-2");
        refused(&GgufBuilder::default().string("tokenizer.ggml.model", "gpt2"), "tokenizer.ggml.tokens: is missing");
        refused(&base(&["a", "a"]), "tokens 0 and 1 are both");
        refused(&base(&["a"]), "tokenizer.ggml.merges: is missing");
        refused(&base(&["a", "b"]).strings("tokenizer.ggml.merges", &["a b"]), "merge 0, \"a b\", does not join");
        refused(&base(&["a"]).strings("tokenizer.ggml.merges", &["a"]), "does not join");
        refused(&base(&["a"]).i32s("tokenizer.ggml.token_type", &[1, 1]), "2 entries for 1 tokens");
        refused(&base(&["a"]).u32("tokenizer.ggml.eos_token_id", 1), "is 1, but there are 1 tokens");
        refused(&without_rule(&["a"]).string("tokenizer.ggml.pre", "x"), "\"x\" is not supported");
        for unknown in [without_rule(&["a"]), without_rule(&["a"]).string("tokenizer.ggml.pre", "default")] {
            refused(&unknown, "does not say how text is split");
        }
        let bert = GgufBuilder::default().string("tokenizer.ggml.model", "bert");
        refused(&bert.strings("tokenizer.ggml.tokens", &["a"]), "\"bert\" is not supported");
    }

    /// The real SmolLM2-135M-Instruct, whose path is in `GSIL_SMOLLM2_GGUF`; without it this test only says so.
    /// Token ids from transformers 5.23.0 on the original tokenizer.
    #[test]
    fn a_real_vocabulary_gives_the_recorded_ids() {
        let Ok(path) = std::env::var("GSIL_SMOLLM2_GGUF") else {
            eprintln!("skipped: GSIL_SMOLLM2_GGUF does not name the SmolLM2 GGUF file");
            return;
        };
        let ModelFiles { config, tokenizer, weights, .. } = open_model(Path::new(&path)).unwrap();
        assert_eq!((&config["vocab_size"], &config["rope_theta"]), (&json!(49152), &json!(100_000.0)));
        assert_eq!(weights.names().count(), 272);
        let reader = Reader::from_bytes(tokenizer.unwrap().tokenizer_json).unwrap();
        let ids = |text: &str| reader.encode(text, false).unwrap().get_ids().to_vec();
        assert_eq!(ids("Hello, world!"), [19556, 28, 905, 17]);
        assert_eq!(ids("  leading and trailing  "), [216, 2899, 284, 35079, 256]);
        assert_eq!(ids("<|im_start|>user\nhi<|im_end|>"), [1, 4093, 198, 6004, 2]);
        assert_eq!(ids("tabs\tand\nnew\r\nlines"), [100, 7366, 197, 397, 198, 2241, 201, 198, 5110]);
    }
}
