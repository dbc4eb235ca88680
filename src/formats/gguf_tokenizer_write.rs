//! `tokenizer.json` as GGUF metadata. The inverse of `gguf_tokenizer`, for byte-level BPE.
//!
//! GGUF only names the rule that splits text before merging, so the rules that can be written are those of
//! `gguf_byte_level`. Whatever else a tokenizer has that GGUF cannot say is refused by its name: ids would silently differ.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::gguf_byte_level::split_rule_name;
use super::gguf_tokenizer::{CONTROL, NORMAL, UNUSED, USER_DEFINED};
use super::gguf_write::{MetadataEntries, MetadataToWrite};
use super::{ModelFiles, TokenizerFiles};
use crate::error::{Error, Result};

/// The entries under `tokenizer` for a model of `vocab_size` tokens whose responses end with any of `end_token_ids`.
///
/// GGUF has room for two end tokens: the tokenizer's own and another one (`eot`).
///
/// # Errors
/// [`Error::Input`] for a tokenizer that GGUF, or this program, cannot express.
pub fn tokenizer_metadata(files: &ModelFiles, vocab_size: usize, end_token_ids: &[u32]) -> Result<MetadataEntries> {
    let mut entries = Entries::default();
    let mut special = SpecialTokens::of_config(files);
    match &files.tokenizer {
        Some(tokenizer_files) => {
            let reader =
                Reader { path: &files.path, files: tokenizer_files, json: parse(&files.path, tokenizer_files)? };
            let tokens = reader.tokens(vocab_size)?;
            let id = |name: &str| tokenizer_files.special_token(name).and_then(|t| tokens.id(t));
            special.bos = id("bos_token").or(special.bos);
            special.eos = id("eos_token").or(special.eos);
            special.padding = id("pad_token").or(special.padding);
            special.unknown = id("unk_token");
            entries.string("ggml.model", "gpt2");
            entries.string("ggml.pre", reader.split_rule()?);
            entries.push("ggml.merges", MetadataToWrite::Strings(reader.merges()?));
            entries.push("ggml.add_bos_token", MetadataToWrite::Bool(reader.adds("bos_token", true)));
            entries.push("ggml.add_eos_token", MetadataToWrite::Bool(reader.adds("eos_token", false)));
            entries.push("ggml.tokens", MetadataToWrite::Strings(tokens.texts));
            entries.push("ggml.token_type", MetadataToWrite::I32s(tokens.types));
            if let Some(template) = &tokenizer_files.chat_template {
                entries.string("chat_template", template);
            }
        }
        None => entries.string("ggml.model", "no_vocab"),
    }
    special.eos = special.eos.or(end_token_ids.first().copied());
    let end_of_turn = end_token_ids.iter().copied().find(|id| special.eos != Some(*id));
    for (name, id) in [
        ("bos", special.bos),
        ("eos", special.eos),
        ("eot", end_of_turn),
        ("unknown", special.unknown),
        ("padding", special.padding),
    ] {
        if let Some(id) = id {
            entries.push(&format!("ggml.{name}_token_id"), MetadataToWrite::U32(id));
        }
    }
    Ok(entries.0)
}

/// Metadata under `tokenizer`.
#[derive(Default)]
struct Entries(MetadataEntries);

impl Entries {
    fn push(&mut self, key: &str, value: MetadataToWrite) {
        self.0.push((format!("tokenizer.{key}"), value));
    }

    fn string(&mut self, key: &str, value: &str) {
        self.push(key, MetadataToWrite::String(value.to_owned()));
    }
}

#[derive(Default)]
struct SpecialTokens {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
}

impl SpecialTokens {
    /// What `generation_config.json` and `config.json` say; of several end tokens the first.
    fn of_config(files: &ModelFiles) -> Self {
        let sources = [files.generation_config.as_ref(), Some(&files.config)];
        let id = |name: &str| {
            let values = sources.into_iter().flatten().filter_map(|source| source.get(name));
            let numbers = values.filter_map(|value| value.as_u64().or_else(|| value.get(0)?.as_u64()));
            numbers.filter_map(|id| u32::try_from(id).ok()).next()
        };
        Self { bos: id("bos_token_id"), eos: id("eos_token_id"), padding: id("pad_token_id"), unknown: None }
    }
}

fn parse(path: &Path, files: &TokenizerFiles) -> Result<Value> {
    serde_json::from_slice(&files.tokenizer_json)
        .map_err(|error| Error::input(path, format!("bad JSON: {error}")).at("tokenizer.json"))
}

/// Texts and types of all ids.
struct Tokens {
    texts: Vec<String>,
    types: Vec<i32>,
}

impl Tokens {
    fn id(&self, text: &str) -> Option<u32> {
        self.texts.iter().position(|token| token == text).map(|id| id as u32)
    }
}

/// A `tokenizer.json` with errors that name the field.
struct Reader<'a> {
    path: &'a Path,
    files: &'a TokenizerFiles,
    json: Value,
}

impl Reader<'_> {
    fn refuse(&self, field: &str, message: impl Into<String>) -> Error {
        Error::input(self.path, message)
            .at(format!("tokenizer.json, field `{field}`"))
            .with_hint("export --format hf, and convert that folder with llama.cpp's convert_hf_to_gguf.py")
    }

    fn split_rule(&self) -> Result<&'static str> {
        let model = &self.json["model"];
        let kind = model["type"].as_str().unwrap_or("of no type");
        if kind == "WordLevel" {
            return Err(self
                .refuse("model", "the tokenizer is WordLevel, which GGUF has no form of")
                .with_hint("export --format hf: Hugging Face's libraries read such a tokenizer"));
        }
        if kind != "BPE" || model["byte_fallback"] == true {
            let kind = if kind == "BPE" { "BPE with byte_fallback (SentencePiece)" } else { kind };
            return Err(
                self.refuse("model", format!("the tokenizer is {kind}; only byte-level BPE is written to GGUF"))
            );
        }
        for field in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
            if !matches!(&model[field], Value::Null) && model[field] != "" {
                return Err(self.refuse(&format!("model.{field}"), "cannot be written to GGUF"));
            }
        }
        split_rule_name(&self.json).ok_or_else(|| {
            let steps = serde_json::json!([self.json["normalizer"], self.json["pre_tokenizer"]]);
            self.refuse("pre_tokenizer", format!("this way to split text has no known name in GGUF: {steps:.400}"))
        })
    }

    /// Plain and added tokens by id; ids without a token are called `[PAD7]`, as converters do.
    fn tokens(&self, vocab_size: usize) -> Result<Tokens> {
        let bad = |field: &str| self.refuse(field, "is damaged");
        let mut tokens: BTreeMap<usize, (String, u64)> = BTreeMap::new();
        let vocab = self.json["model"]["vocab"].as_object().ok_or_else(|| bad("model.vocab"))?;
        for (text, id) in vocab {
            let id = id.as_u64().ok_or_else(|| bad("model.vocab"))? as usize;
            tokens.insert(id, (text.clone(), NORMAL));
        }
        for added in self.json["added_tokens"].as_array().into_iter().flatten() {
            let (id, text) = (added["id"].as_u64(), added["content"].as_str());
            let (Some(id), Some(text)) = (id, text) else { return Err(bad("added_tokens")) };
            if let Some(flag) = ["single_word", "lstrip", "rstrip"].into_iter().find(|flag| added[*flag] == true) {
                return Err(self.refuse("added_tokens", format!("{text:?} has `{flag}`, which GGUF cannot say")));
            }
            let kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
            tokens.insert(id as usize, (text.to_owned(), kind));
        }
        let of_id = |id: usize| tokens.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED));
        let (texts, types) = (0..vocab_size).map(of_id).map(|(text, kind)| (text, kind as i32)).unzip();
        Ok(Tokens { texts, types })
    }

    /// `left right`, best first. The file has them so, or as pairs.
    fn merges(&self) -> Result<Vec<String>> {
        let merges = self.json["model"]["merges"].as_array();
        let merge = |merge: &Value| match merge {
            Value::String(merge) => Some(merge.clone()),
            pair => Some(format!("{} {}", pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)),
        };
        let merges: Option<Vec<String>> = merges.and_then(|merges| merges.iter().map(merge).collect());
        merges.ok_or_else(|| self.refuse("model.merges", "is damaged"))
    }

    /// Whether texts begin (or end) with the token `name`: as `tokenizer_config.json` says, else as the post-processor does.
    fn adds(&self, name: &str, first: bool) -> bool {
        if let Some(adds) = self.files.tokenizer_config.get(format!("add_{name}")).and_then(Value::as_bool) {
            return adds;
        }
        let Some(token) = self.files.special_token(name) else { return false };
        let processor = &self.json["post_processor"];
        let nested = processor["processors"].as_array().into_iter().flatten();
        let templates = std::iter::once(processor).chain(nested).filter_map(|step| step["single"].as_array());
        let mut at_border = templates.filter_map(|parts| if first { parts.first() } else { parts.last() });
        at_border.any(|part| part["SpecialToken"]["id"] == token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file_system::Disk;
    use crate::formats::gguf_tokenizer::tokenizer_files;
    use crate::formats::gguf_write::write_gguf;
    use crate::formats::hf_folder::{open_model_folder, write_model_folder};
    use serde_json::json;
    use tokenizers::Tokenizer;

    const FIXTURE: &[u8] = include_bytes!("../../tests/fixtures/tokenizer/tokenizer.json");

    /// A model folder with a changed copy of the fixture tokenizer.
    fn model(parent: &Path, change: impl Fn(&mut Value)) -> ModelFiles {
        let mut json: Value = serde_json::from_slice(FIXTURE).unwrap();
        change(&mut json);
        let tokenizer = TokenizerFiles {
            tokenizer_json: json.to_string().into_bytes(),
            tokenizer_config: json!({"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}}),
            chat_template: Some("{{ messages }}".into()),
        };
        let folder = parent.join("model");
        write_model_folder(&folder, &json!({"pad_token_id": 0}), None, Some(&tokenizer), Vec::new()).unwrap();
        open_model_folder(&folder).unwrap()
    }

    fn entry<'e>(entries: &'e MetadataEntries, key: &str) -> Option<&'e MetadataToWrite> {
        entries.iter().find(|(name, _)| *name == format!("tokenizer.{key}")).map(|(_, value)| value)
    }

    #[test]
    fn a_written_tokenizer_gives_the_ids_of_the_original() {
        let folder = tempfile::tempdir().unwrap();
        let files = model(folder.path(), |_| {});
        let entries = tokenizer_metadata(&files, 500, &[2, 4]).unwrap();
        let path = folder.path().join("t.gguf");
        write_gguf(&Disk, &path, &entries, Vec::new()).unwrap();
        let metadata = crate::formats::gguf::open_gguf(&path).unwrap().metadata;
        let read = tokenizer_files(&path, &metadata).unwrap().unwrap();
        assert_eq!(read.chat_template.as_deref(), Some("{{ messages }}"));
        let [original, read] = [FIXTURE, &read.tokenizer_json].map(|bytes| Tokenizer::from_bytes(bytes).unwrap());
        let expected: Value =
            serde_json::from_str(include_str!("../../tests/fixtures/tokenizer/expected.json")).unwrap();
        let cases = expected["encodings"].as_array().unwrap();
        assert!(cases.len() > 5);
        for text in cases.iter().map(|case| case["text"].as_str().unwrap()) {
            let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
            assert_eq!(ids(&original), ids(&read), "{text:?}");
            let decoded = |tokenizer: &Tokenizer| tokenizer.decode(&ids(&original), true).unwrap();
            assert_eq!(decoded(&original), decoded(&read), "{text:?}");
        }
    }

    #[test]
    fn special_tokens_come_from_the_tokenizer_then_from_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let entries = tokenizer_metadata(&model(folder.path(), |_| {}), 402, &[2, 4]).unwrap();
        let id = |name: &str| entry(&entries, &format!("ggml.{name}_token_id"));
        let number = |id: u32| Some(MetadataToWrite::U32(id));
        assert_eq!((id("bos").cloned(), id("eos").cloned()), (number(3), number(2)));
        assert_eq!((id("eot").cloned(), id("padding").cloned(), id("unknown")), (number(4), number(0), None));
        let Some(MetadataToWrite::Strings(tokens)) = entry(&entries, "ggml.tokens") else { panic!("no tokens") };
        assert_eq!((tokens.len(), tokens[2].as_str(), tokens[401].as_str()), (402, "<|im_end|>", "[PAD401]"));
    }

    #[test]
    fn a_beginning_token_is_added_where_the_post_processor_adds_it() {
        let folder = tempfile::tempdir().unwrap();
        let adds = |processor: Value| {
            let files = model(folder.path(), |json| json["post_processor"] = processor.clone());
            let entries = tokenizer_metadata(&files, 400, &[2]).unwrap();
            entry(&entries, "ggml.add_bos_token").cloned()
        };
        let template = json!({"type": "TemplateProcessing", "pair": [], "special_tokens": {}, "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]});
        assert_eq!(adds(template.clone()), Some(MetadataToWrite::Bool(true)));
        assert_eq!(
            adds(json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]})),
            Some(MetadataToWrite::Bool(true))
        );
        assert_eq!(adds(Value::Null), Some(MetadataToWrite::Bool(false)));
    }

    #[test]
    fn what_gguf_cannot_say_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |why: &str, change: &dyn Fn(&mut Value)| {
            let error = tokenizer_metadata(&model(folder.path(), change), 400, &[2]).unwrap_err();
            assert!(error.to_string().contains(why), "expected {why:?} in: {error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("--format hf")));
        };
        refused("the tokenizer is WordLevel", &|json| json["model"]["type"] = "WordLevel".into());
        refused("SentencePiece", &|json| json["model"]["byte_fallback"] = true.into());
        refused("`model.dropout`", &|json| json["model"]["dropout"] = json!(0.1));
        refused("no known name in GGUF", &|json| json["pre_tokenizer"] = json!({"type": "Whitespace"}));
        refused("no known name in GGUF", &|json| json["normalizer"] = json!({"type": "Lowercase"}));
        refused("has `rstrip`", &|json| json["added_tokens"][0]["rstrip"] = true.into());
        refused("`model.merges`", &|json| json["model"]["merges"] = json!([["a"]]));
        refused("`model.vocab`", &|json| json["model"]["vocab"] = json!(["a"]));
    }
}
