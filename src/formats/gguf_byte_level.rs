//! Byte-level BPE from a GGUF file (`tokenizer.ggml.model` = `gpt2`).
//!
//! Tokens and merges are in the file; how text is split before merging is only named there (`tokenizer.ggml.pre`), so
//! the rules are the table below.

use std::path::Path;

use serde_json::{Value, json};

use super::gguf_metadata::GgufMetadata;
use super::gguf_tokenizer::{Tokenizer, Vocabulary, sequence};
use crate::error::{Error, Result};

/// How byte-level BPE cuts text into pieces before merging.
struct SplitRule {
    /// Values of `tokenizer.ggml.pre`; the first is the usual one.
    names: &'static [&'static str],
    normalizer: fn() -> Value,
    pre_tokenizer: fn() -> Value,
    /// A piece that is a token is taken whole, whatever the merges say.
    ignore_merges: bool,
    /// Whether a text starts with the start token where the file does not say.
    add_bos_by_default: bool,
}

const SPLIT_RULES: [SplitRule; 4] = [
    SplitRule {
        names: &["gpt-2"],
        normalizer: || Value::Null,
        pre_tokenizer: || byte_level(true),
        ignore_merges: false,
        add_bos_by_default: false,
    },
    SplitRule {
        names: &["smollm"],
        normalizer: || Value::Null,
        pre_tokenizer: || {
            sequence("pretokenizers", &[json!({"type": "Digits", "individual_digits": true}), byte_level(true)])
        },
        ignore_merges: false,
        add_bos_by_default: false,
    },
    SplitRule {
        names: &["llama-bpe", "llama3", "llama-v3"],
        normalizer: || Value::Null,
        pre_tokenizer: || sequence("pretokenizers", &[split(r"\p{N}{1,3}"), byte_level(false)]),
        ignore_merges: true,
        add_bos_by_default: true,
    },
    SplitRule {
        names: &["qwen2"],
        normalizer: || json!({"type": "NFC"}),
        pre_tokenizer: || sequence("pretokenizers", &[split(r"\p{N}"), byte_level(false)]),
        ignore_merges: false,
        add_bos_by_default: false,
    },
];

/// Bytes to printable characters; `use_regex` also splits as GPT-2 did.
fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// The splitting of Llama 3 and Qwen 2, which differ only in how many digits stay together: contractions; words with
/// one leading sign; digits; signs with the line ends after them; line ends; spaces, the last one left to the next
/// word.
fn split(digits: &str) -> Value {
    let (before, after) = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );
    let pattern = format!("{before}{digits}{after}");
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

/// The usual name of the rule by which a `tokenizer.json` of byte-level BPE splits text; `None` if it is none of these.
pub fn split_rule_name(tokenizer: &Value) -> Option<&'static str> {
    let ignores_merges = tokenizer["model"]["ignore_merges"] == true;
    let rule = SPLIT_RULES.iter().find(|rule| {
        let same = |step: &str, rule: Value| essentials(&tokenizer[step]) == essentials(&rule);
        same("normalizer", (rule.normalizer)())
            && same("pre_tokenizer", (rule.pre_tokenizer)())
            && ignores_merges == rule.ignore_merges
    })?;
    rule.names.first().copied()
}

/// A step without what has no effect on token ids: `trim_offsets`, defaults left out, and sequences of one.
fn essentials(step: &Value) -> Value {
    for list in ["pretokenizers", "normalizers"] {
        if let Some(steps) = step[list].as_array() {
            let steps: Vec<Value> = steps.iter().map(essentials).collect();
            return if let [only] = &steps[..] { only.clone() } else { sequence(list, &steps) };
        }
    }
    let mut step = step.clone();
    if step["type"] == "ByteLevel" {
        let use_regex = step.get("use_regex").is_none_or(|flag| flag == true);
        step = json!({"type": "ByteLevel", "add_prefix_space": step["add_prefix_space"], "use_regex": use_regex});
    }
    step
}

/// The parts of `tokenizer.json` for byte-level BPE.
pub fn byte_level_bpe(path: &Path, metadata: &GgufMetadata, vocabulary: &Vocabulary) -> Result<Tokenizer> {
    let pre_key = "tokenizer.ggml.pre";
    // Programs read such a file by a rule of their own, which is no model's.
    let Some(pre) = metadata.string(pre_key)?.filter(|pre| *pre != "default") else {
        return Err(Error::input(path, "the file does not say how text is split before it is tokenized")
            .at(pre_key)
            .with_hint("use a newer conversion of the model, or its Hugging Face folder"));
    };
    let Some(rule) = SPLIT_RULES.iter().find(|rule| rule.names.contains(&pre)) else {
        let supported = SPLIT_RULES.iter().flat_map(|rule| rule.names).copied().collect::<Vec<_>>().join(", ");
        let message = format!("the splitting rule {pre:?} is not supported; expected one of {supported}");
        return Err(Error::input(path, message).at(pre_key));
    };
    let key = "tokenizer.ggml.merges";
    let merges = metadata.strings(key)?.ok_or_else(|| metadata.missing(key))?;
    let merges: Vec<_> = merges
        .into_iter()
        .enumerate()
        .map(|(rank, merge)| {
            // Tokens hold no spaces: in byte-level BPE a space is written `Ġ`.
            let parts = merge.split_once(' ').filter(|(left, right)| {
                [*left, *right, &format!("{left}{right}")].iter().all(|token| vocabulary.ids.contains_key(token))
            });
            parts
                .ok_or_else(|| Error::input(path, format!("merge {rank}, {merge:?}, does not join two tokens")).at(key))
        })
        .collect::<Result<_>>()?;
    Ok(Tokenizer {
        normalizer: (rule.normalizer)(),
        pre_tokenizer: (rule.pre_tokenizer)(),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": rule.ignore_merges,
            "vocab": vocabulary.to_json(), "merges": merges,
        }),
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(rule.add_bos_by_default),
        add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(normalizer: Value, pre_tokenizer: Value, ignore_merges: bool) -> Option<&'static str> {
        split_rule_name(&json!({
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": {"ignore_merges": ignore_merges},
        }))
    }

    #[test]
    fn every_rule_is_recognised_by_what_it_makes() {
        for rule in &SPLIT_RULES {
            let found = name((rule.normalizer)(), (rule.pre_tokenizer)(), rule.ignore_merges);
            assert_eq!(found, Some(rule.names[0]));
            assert_eq!(name((rule.normalizer)(), (rule.pre_tokenizer)(), !rule.ignore_merges), None);
        }
    }

    /// `pre_tokenizer` of the published tokenizer.json of Qwen2.5 and of GPT-2, which write it in their own ways.
    #[test]
    fn published_spellings_are_recognised() {
        let qwen = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
             "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]});
        assert_eq!(name(json!({"type": "NFC"}), qwen.clone(), false), Some("qwen2"));
        assert_eq!(name(Value::Null, qwen, false), None, "without normalisation some ids would differ");
        let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
        assert_eq!(name(Value::Null, gpt2.clone(), false), Some("gpt-2"));
        assert_eq!(name(Value::Null, json!({"type": "Sequence", "pretokenizers": [gpt2]}), false), Some("gpt-2"));
        let spaced = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true});
        assert_eq!(name(Value::Null, spaced, false), None);
    }
}
