//! How much longer a `tokenizer.json` may make a text, read off its steps before it is used.
//!
//! The tokenizers library carries out whatever the file lists: forty steps that each write `aa` for `a` are a file of 3 KB
//! and a text of a terabyte, and running out of memory cannot be caught. Not here: everything else that can be wrong with
//! the file, which the library says or [`super::tokenizer`] catches.

use serde::Deserialize;
use serde_json::Value;

/// Published tokenizers stay below 2,000 by this count: two compatibility normalizations (11 each) and small letters (3)
/// before spaces become `▁` (4).
const MAX_GROWTH: f64 = 10_000.0;
/// The longest compatibility decomposition: U+FDFA, 3 bytes, becomes 33.
const COMPATIBILITY_GROWTH: f64 = 11.0;
/// The longest canonical one: U+0390, 2 bytes, becomes 6.
const CANONICAL_GROWTH: f64 = 3.0;

/// The parts of the file that rewrite text or repeat tokens; the others are not even parsed here.
#[derive(Deserialize)]
struct Steps {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

/// Refuses a file whose steps together could make a text more than 10,000 times as long; says by how much. What is not
/// JSON at all is left to the tokenizers library to refuse.
pub(super) fn check(tokenizer_json: &[u8]) -> Result<(), String> {
    let Ok(steps) = serde_json::from_slice::<Steps>(tokenizer_json) else { return Ok(()) };
    let parts = [
        ("normalizer and pre_tokenizer", growth(&steps.normalizer) * growth(&steps.pre_tokenizer)),
        ("post_processor", growth(&steps.post_processor)),
        ("decoder", growth(&steps.decoder)),
    ];
    match parts.into_iter().find(|(_, growth)| *growth > MAX_GROWTH) {
        Some((part, growth)) => {
            Err(format!("its {part} could make a text {growth:.0} times as long; at most {MAX_GROWTH} makes sense"))
        }
        None => Ok(()),
    }
}

/// The product over a step and all steps inside it: how often its output can be longer than its input.
fn growth(step: &Value) -> f64 {
    match step {
        Value::Array(steps) => steps.iter().map(growth).product(),
        Value::Object(fields) => own_growth(step) * fields.values().map(growth).product::<f64>(),
        _ => 1.0,
    }
}

/// Without the steps inside. The library also reads steps without a `type`, by their fields, so the fields decide here.
fn own_growth(step: &Value) -> f64 {
    let kind = step["type"].as_str().unwrap_or_default();
    if let (Some(content), pattern @ Value::Object(_)) = (step["content"].as_str(), &step["pattern"]) {
        return replacement_growth(pattern, content);
    }
    if step["single"].is_array() || step["pair"].is_array() {
        return num_copies(&step["single"]).max(num_copies(&step["pair"]));
    }
    match kind {
        // Bytes become letters, half of them of two bytes.
        "ByteLevel" => 2.0,
        _ if step.get("trim_offsets").is_some() => 2.0,
        // A space becomes `▁`, three bytes, or another character of up to four.
        "Metaspace" => 4.0,
        _ if step.get("replacement").is_some() => 4.0,
        "NFKC" | "NFKD" | "Nmt" | "Precompiled" => COMPATIBILITY_GROWTH,
        "NFC" | "NFD" | "Lowercase" | "BertNormalizer" => CANONICAL_GROWTH,
        _ if step.get("precompiled_charsmap").is_some() => COMPATIBILITY_GROWTH,
        _ => 1.0,
    }
}

/// A text is as long as its pattern; a regular expression may match between any two bytes.
fn replacement_growth(pattern: &Value, content: &str) -> f64 {
    let content_bytes = content.len() as f64;
    match pattern["String"].as_str().map(str::len) {
        Some(0) | None => 1.0 + content_bytes,
        Some(pattern_bytes) => (content_bytes / pattern_bytes as f64).max(1.0),
    }
}

/// How often a template writes the tokens of a text.
fn num_copies(template: &Value) -> f64 {
    let pieces = template.as_array().map_or(&[][..], Vec::as_slice);
    pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count().max(1) as f64
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
            assert!(growth(value) <= 70.0, "{value}");
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
        for (part, value) in [
            ("normalizer", &nested),
            ("decoder", &untyped),
            ("pre_tokenizer", &bytes),
            ("post_processor", &json!({"processors": vec![twice; 20]})),
        ] {
            let message = checked(part, value).unwrap_err();
            assert!(message.contains(part) && message.contains("times as long"), "{message}");
        }
    }
}
