//! How much longer a `tokenizer.json` may make a text, read off its steps before it is used.
//!
//! The tokenizers library carries out whatever the file lists: forty steps that each write `aa` for `a` are a file of 3 KB
//! and a text of a terabyte, and running out of memory cannot be caught. Not here: everything else that can be wrong with
//! the file, which the library says or [`super::tokenizer`] catches.

use serde::Deserialize;
use serde_json::Value;

/// Published tokenizers stay below 2,000 by this count: two compatibility normalizations (11 each) and small letters (3)
/// before spaces become `▁` (5).
const MAX_FACTOR: f64 = 10_000.0;
/// Bytes or tokens that may be added to every text, and to every piece of it between two added tokens: two bytes at least,
/// so that no text becomes more than [`MAX_FACTOR`] times as long by these. By this count, which multiplies them by the
/// factors of later steps, published tokenizers stay below 6,000.
const MAX_ADDED: f64 = 10_000.0;
/// Bytes of all normalized added tokens together, which the library keeps in a trie. Fifty thousand added words stay below,
/// with a compatibility normalization and small letters before spaces become `▁`.
const MAX_ADDED_TOKEN_BYTES: f64 = 5e7;
/// The longest compatibility decomposition: U+FDFA, 3 bytes, becomes 33.
const COMPATIBILITY_FACTOR: f64 = 11.0;
/// The longest canonical one: U+0390, 2 bytes, becomes 6.
const CANONICAL_FACTOR: f64 = 3.0;
/// The fields of a sequence of steps.
const INNER_STEPS: [&str; 4] = ["normalizers", "pretokenizers", "processors", "decoders"];

/// The parts of the file that rewrite text or repeat tokens; the others are not even parsed here.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Value,
}

/// Refuses a file whose steps together could make a text more than 10,000 times as long, add 10,000 bytes to every text, or
/// make its own added tokens longer than 50 MB; says by how much. Refuses what would hide a step from this count, too: a key
/// that is there twice, of which the library takes the last one, and a step that is no object. What is not JSON at all is
/// left to the library to refuse.
pub(super) fn check(tokenizer_json: &[u8]) -> Result<(), String> {
    let parts: Parts = match serde_json::from_slice(tokenizer_json) {
        Ok(parts) => parts,
        Err(error) if error.is_data() => return Err(error.to_string()),
        Err(_) => return Ok(()),
    };
    let normalizer = Growth::of_part(&parts.normalizer)?;
    for (part, growth) in [
        ("normalizer and pre_tokenizer", normalizer.then(Growth::of_part(&parts.pre_tokenizer)?)),
        ("post_processor", Growth::of_part(&parts.post_processor)?),
        ("decoder", Growth::of_part(&parts.decoder)?),
    ] {
        growth.check().map_err(|growth| format!("its {part} could {growth} makes sense"))?;
    }
    let added_bytes: f64 =
        normalized_added_tokens(&parts.added_tokens).map(|token| normalizer.apply(token.len())).sum();
    if added_bytes > MAX_ADDED_TOKEN_BYTES {
        return Err(format!(
            "its normalizer could make the added tokens {added_bytes:.0} bytes long; at most {MAX_ADDED_TOKEN_BYTES} makes sense"
        ));
    }
    Ok(())
}

fn normalized_added_tokens(added_tokens: &Value) -> impl Iterator<Item = &str> {
    let tokens = added_tokens.as_array().into_iter().flatten();
    tokens.filter(|token| token["normalized"] != false).filter_map(|token| token["content"].as_str())
}

/// The longest that a step's output can be: `factor * input + added`, in bytes (tokens for a post-processor).
#[derive(Clone, Copy)]
struct Growth {
    factor: f64,
    added: f64,
}

impl Growth {
    const NONE: Growth = Growth { factor: 1.0, added: 0.0 };

    fn by(factor: f64) -> Self {
        Growth { factor, added: 0.0 }
    }

    /// Of this step and then of the `next`.
    fn then(self, next: Self) -> Self {
        Growth { factor: self.factor * next.factor, added: self.added * next.factor + next.added }
    }

    fn apply(self, length: usize) -> f64 {
        self.factor * length as f64 + self.added
    }

    /// What it could do to a text, if that is too much.
    fn check(self) -> Result<(), String> {
        if self.factor > MAX_FACTOR {
            return Err(format!("make a text {:.0} times as long; at most {MAX_FACTOR}", self.factor));
        }
        if self.added > MAX_ADDED {
            return Err(format!("add {:.0} to the length of every text; at most {MAX_ADDED}", self.added));
        }
        Ok(())
    }

    fn of_part(step: &Value) -> Result<Self, String> {
        if step.is_null() { Ok(Growth::NONE) } else { Growth::of_step(step) }
    }

    /// Of a step and all steps inside it.
    fn of_step(step: &Value) -> Result<Self, String> {
        if !step.is_object() {
            return Err(format!("a step must be an object, this one is not: {:.80}", step.to_string()));
        }
        let inner = INNER_STEPS.iter().filter_map(|list| step[*list].as_array()).flatten();
        inner.map(Growth::of_step).try_fold(Growth::of_fields(step), |growth, next| Ok(growth.then(next?)))
    }

    /// Without the steps inside. The library also reads steps without a `type`, by their fields, so the fields decide here;
    /// those of several kinds count together.
    fn of_fields(step: &Value) -> Self {
        let has = |field: &str| !step[field].is_null();
        let is_empty = |field: &str| step[field] == "";
        let kind = step["type"].as_str().unwrap_or_default();
        let found = [
            replacement_growth(step),
            template_growth(step),
            Growth { factor: 1.0, added: step["prepend"].as_str().map_or(0.0, |text| text.len() as f64) },
            // An empty suffix or delimiter stands before and after every letter, and becomes a space.
            Growth::by(if is_empty("suffix") || is_empty("word_delimiter_token") { 3.0 } else { 1.0 }),
            // A space before every token.
            Growth::by(if has("prefix") { 2.0 } else { 1.0 }),
            // Bytes become letters, half of them of two bytes; before a piece there may be a space.
            Growth::by(if kind == "ByteLevel" || has("trim_offsets") { 4.0 } else { 1.0 }),
            // A space becomes `▁`, or another character of up to four bytes, which is also written before a piece.
            Growth::by(if kind == "Metaspace" || has("replacement") { 5.0 } else { 1.0 }),
            Growth::by(match kind {
                "NFKC" | "NFKD" | "Nmt" | "Precompiled" => COMPATIBILITY_FACTOR,
                _ if has("precompiled_charsmap") => COMPATIBILITY_FACTOR,
                "NFC" | "NFD" | "Lowercase" => CANONICAL_FACTOR,
                _ if has("handle_chinese_chars") => CANONICAL_FACTOR,
                _ => 1.0,
            }),
        ];
        found.into_iter().fold(Growth::NONE, Growth::then)
    }
}

/// A text is as long as its pattern; a regular expression may match before and after every byte.
fn replacement_growth(step: &Value) -> Growth {
    let (Some(content), pattern @ Value::Object(_)) = (step["content"].as_str(), &step["pattern"]) else {
        return Growth::NONE;
    };
    let content_bytes = content.len() as f64;
    match pattern["String"].as_str().map(str::len) {
        Some(0) | None => Growth { factor: 1.0 + content_bytes, added: content_bytes },
        Some(pattern_bytes) => Growth::by((content_bytes / pattern_bytes as f64).max(1.0)),
    }
}

/// How often a template writes the tokens of a text, and how many special tokens.
fn template_growth(step: &Value) -> Growth {
    let num_ids = |piece: &Value| {
        let name = piece["SpecialToken"]["id"].as_str()?;
        step["special_tokens"][name]["ids"].as_array().map(Vec::len)
    };
    let of_template = |template: &Value| {
        let pieces = template.as_array().map_or(&[][..], Vec::as_slice);
        let copies = pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
        (copies.max(1), pieces.iter().filter_map(num_ids).sum::<usize>())
    };
    let (single, pair) = (of_template(&step["single"]), of_template(&step["pair"]));
    Growth { factor: single.0.max(pair.0) as f64, added: single.1.max(pair.1) as f64 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replace(pattern: &str, content: &str) -> Value {
        json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
    }

    fn checked(part: &str, value: &Value) -> Result<(), String> {
        check(json!({ part: value, "model": {"vocab": {"a": 1}} }).to_string().as_bytes())
    }

    #[test]
    fn the_steps_of_published_tokenizers_are_taken() {
        let sentence_piece = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            replace(" ", "▁"), {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]});
        let byte_level = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{N}"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}]});
        let template = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]});
        for (part, value) in
            [("normalizer", &sentence_piece), ("pre_tokenizer", &byte_level), ("post_processor", &template)]
        {
            assert_eq!(checked(part, value), Ok(()), "{value}");
            let growth = Growth::of_part(value).unwrap();
            assert!(growth.factor <= 70.0 && growth.added <= 200.0, "{value}");
        }
    }

    #[test]
    fn chains_that_double_a_text_are_refused() {
        let doubling = vec![replace("a", "aa"); 40];
        let nested = json!({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": doubling}]});
        let untyped = json!({"decoders": vec![json!({"pattern": {"Regex": "a|"}, "content": "a"}); 14]});
        let bytes = json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel"}); 14]});
        let piece = json!({"Sequence": {"id": "A", "type_id": 0}});
        let twice = json!({"single": [piece, piece], "pair": [piece, piece], "special_tokens": {}});
        let spaces = json!({"type": "BPEDecoder", "suffix": ""});
        for (part, value) in [
            ("normalizer", &nested),
            ("decoder", &untyped),
            ("pre_tokenizer", &bytes),
            ("post_processor", &json!({"processors": vec![twice; 20]})),
            ("decoder", &json!({"type": "Sequence", "decoders": vec![spaces; 20]})),
        ] {
            let message = checked(part, value).unwrap_err();
            assert!(message.contains(part) && message.contains("times as long"), "{message}");
        }
    }

    #[test]
    fn what_is_added_to_every_text_is_bounded() {
        let long = "a".repeat(6_000);
        let prepend = json!({"type": "Prepend", "prepend": long});
        let special = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
        let template = json!({"type": "TemplateProcessing", "single": vec![special; 6], "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": vec![0; 2_000], "tokens": vec!["<s>"; 2_000]}}});
        assert_eq!(checked("normalizer", &prepend), Ok(()));
        for (part, value, length) in [
            ("normalizer", json!({"type": "Sequence", "normalizers": [prepend, replace("a", "aa")]}), "12000"),
            ("normalizer", json!({"type": "Sequence", "normalizers": [prepend, prepend]}), "12000"),
            ("post_processor", template, "12000"),
        ] {
            let message = checked(part, &value).unwrap_err();
            assert!(message.contains(part) && message.contains(&format!("add {length} to the length")), "{message}");
        }
    }

    #[test]
    fn added_tokens_are_counted_as_the_normalizer_may_leave_them() {
        let file = |is_normalized: bool| {
            let token = json!({"id": 0, "content": "a".repeat(10_000), "normalized": is_normalized});
            json!({"normalizer": replace("a", &"b".repeat(9_999)), "added_tokens": [token]}).to_string()
        };
        assert_eq!(check(file(false).as_bytes()), Ok(()));
        let message = check(file(true).as_bytes()).unwrap_err();
        assert!(message.contains("the added tokens 99990000 bytes long"), "{message}");
    }

    #[test]
    fn steps_that_this_count_would_not_see_are_refused() {
        let doubled = r#"{"decoder": null, "decoder": {"type": "Fuse"}}"#;
        assert!(check(doubled.as_bytes()).unwrap_err().contains("duplicate field `decoder`"));
        let list = json!([{"String": "a"}, "aa"]);
        for value in [list.clone(), json!({"type": "Sequence", "normalizers": [list]}), json!("NFKC")] {
            let message = checked("normalizer", &value).unwrap_err();
            assert!(message.contains("a step must be an object"), "{message}");
        }
        assert_eq!(check(b"{ no JSON"), Ok(()));
    }
}
