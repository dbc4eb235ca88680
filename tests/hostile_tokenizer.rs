//! `tokenizer.json` from strangers. The tokenizers library panics on some of these files; a panic is caught and the file is
//! refused.

use std::time::{Duration, Instant};

use gsil::{Error, Result};
use serde_json::{Value, json};

use crate::support::binary::Random;
use crate::support::mutations::{damaged_json, damaged_text, with_letters_changed};
use crate::support::{doors, fixture};

/// The most that one file may take, on a machine that does other work.
const PATIENCE: Duration = Duration::from_secs(5);

fn in_time(tokenizer_json: &[u8]) -> Result<()> {
    let start = Instant::now();
    let result = doors::tokenizer(tokenizer_json);
    let shown = String::from_utf8_lossy(tokenizer_json);
    assert!(start.elapsed() < PATIENCE, "{:?} for {shown:.300}", start.elapsed());
    result
}

fn byte_level() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("tokenizer/tokenizer.json")).unwrap()).unwrap()
}

fn with(mut tokenizer: Value, key: &str, value: Value) -> Value {
    tokenizer[key] = value;
    tokenizer
}

/// A tokenizer of whole words, of any model.
fn small(model: Value) -> Value {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": {"type": "Lowercase"},
           "added_tokens": [special(0, "<s>"), special(1, "</s>")],
           "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
           "post_processor": {"type": "TemplateProcessing",
               "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
               "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
               "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
           "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
           "model": model})
}

/// One good tokenizer of every kind that the library knows.
fn good_tokenizers() -> Vec<Value> {
    let words = json!({"<s>": 0, "</s>": 1, "[UNK]": 2, "▁hello": 3, "▁": 4, "h": 5});
    let pieces = json!([["<s>", 0.0], ["</s>", 0.0], ["<unk>", -1.0], ["▁hello", -2.0], ["▁", -3.0], ["l", -4.0]]);
    vec![
        byte_level(),
        small(json!({"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"})),
        small(json!({"type": "WordPiece", "vocab": words, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                     "max_input_chars_per_word": 100})),
        small(json!({"type": "Unigram", "vocab": pieces, "unk_id": 2, "byte_fallback": false})),
    ]
}

/// Promise R13.
#[test]
fn two_thousand_damaged_tokenizers_load_or_are_refused() {
    let good: Vec<Value> = good_tokenizers();
    good.iter().for_each(|tokenizer| in_time(tokenizer.to_string().as_bytes()).unwrap());
    let mut random = Random(13);
    let mut num_refused = [0, 0, 0];
    for round in 0..2_100 {
        let tokenizer = &good[round / 3 % good.len()];
        let bytes = match round % 3 {
            0 => damaged_text(&mut random, &tokenizer.to_string()),
            1 => damaged_json(&mut random, tokenizer).to_string().into_bytes(),
            _ => with_letters_changed(&mut random, &tokenizer.to_string()),
        };
        if let Err(error) = in_time(&bytes) {
            doors::assert_input_error(&error, "model");
            num_refused[round % 3] += 1;
        }
    }
    let [text, json, letters] = num_refused;
    assert!(text > 500 && json > 500 && (100..600).contains(&letters), "{text}, {json}, {letters} refused");
}

/// Refused for its own reason, or because the library panicked ("it is damaged").
#[track_caller]
fn refused(tokenizer: &Value, why: &str) {
    let error: Error = in_time(tokenizer.to_string().as_bytes()).unwrap_err();
    doors::assert_input_error(&error, "tokenizer.json");
    assert!(error.to_string().contains(why), "expected {why:?} in: {error}");
}

#[test]
fn files_that_make_the_library_panic_are_refused() {
    let damaged = "it is damaged";
    // One token is made of these characters alone, and the library looks for the thousandth.
    let strip = |content: char| json!({"type": "Strip", "content": content, "start": 0, "stop": 1000});
    let strips: Vec<Value> = "Helo12345".chars().map(strip).collect();
    refused(&with(byte_level(), "decoder", json!({"type": "Sequence", "decoders": strips})), damaged);
    refused(&with(byte_level(), "pre_tokenizer", json!({"type": "FixedLength", "length": 0})), damaged);
}

#[test]
fn files_that_multiply_a_text_are_refused_before_they_are_used() {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let doubling = vec![replace(json!({"String": "l"}), "ll"); 60];
    let anywhere = vec![replace(json!({"Regex": ""}), "l"); 60];
    let bytes =
        vec![json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false}); 60];
    let piece = json!({"Sequence": {"id": "A", "type_id": 0}});
    let template = json!({"type": "TemplateProcessing", "single": [piece, piece], "pair": [piece, piece],
                          "special_tokens": {}});
    for (part, value) in [
        ("normalizer", json!({"type": "Sequence", "normalizers": doubling})),
        ("normalizer", json!({"type": "Sequence", "normalizers": anywhere})),
        ("normalizer", replace(json!({"Regex": "."}), &"l".repeat(100_000))),
        ("pre_tokenizer", json!({"type": "Sequence", "pretokenizers": bytes})),
        ("decoder", json!({"type": "Sequence", "decoders": doubling})),
        ("post_processor", json!({"type": "Sequence", "processors": vec![template; 60]})),
    ] {
        refused(&with(byte_level(), part, value), "times as long; at most 10000 makes sense");
    }
    let lists = vec![json!([{"String": "l"}, "ll"]); 60];
    for (part, list) in [("normalizer", "normalizers"), ("decoder", "decoders")] {
        refused(&with(byte_level(), part, json!({"type": "Sequence", list: lists})), "a step must be an object");
    }
    let prepend = json!({"type": "Prepend", "prepend": "l".repeat(9_000)});
    let steps = json!([prepend, replace(json!({"String": "l"}), &"l".repeat(2_000))]);
    refused(
        &with(byte_level(), "normalizer", json!({"type": "Sequence", "normalizers": steps})),
        "to the length of every text",
    );
}

/// The library takes the last of two keys.
#[test]
fn a_part_that_is_there_twice_is_refused() {
    let bomb = json!({"type": "Sequence", "decoders":
        vec![json!({"type": "Replace", "pattern": {"String": "l"}, "content": "ll"}); 60]});
    let twice = byte_level().to_string().replacen('{', &format!("{{\"decoder\": {bomb},"), 1);
    let error = in_time(twice.as_bytes()).unwrap_err();
    doors::assert_input_error(&error, "tokenizer.json");
    assert!(error.to_string().contains("duplicate field `decoder`"), "{error}");
}

#[test]
fn files_that_are_no_tokenizer_are_refused() {
    for bytes in [&b""[..], b"{}", b"[]", b"null", b"\xff\xfe", b"{\"model\": {}}", b"{\"version\": \"1.0\"}", b"\x00"]
    {
        doors::assert_input_error(&in_time(bytes).unwrap_err(), "tokenizer.json");
    }
    for nesting in ["[", "{\"a\":", "{\"normalizer\":", "{\"model\":["] {
        doors::assert_input_error(&in_time(nesting.repeat(100_000).as_bytes()).unwrap_err(), "tokenizer.json");
    }
    let model = |change: Value| {
        let mut tokenizer = byte_level();
        tokenizer["model"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        tokenizer
    };
    refused(&model(json!({"type": "GPT"})), "");
    refused(&model(json!({"vocab": null})), "");
    refused(&model(json!({"vocab": {"a": -1}})), "");
    refused(&model(json!({"vocab": {"a": 4_294_967_296_u64}})), "");
    refused(&model(json!({"merges": ["a"]})), "");
    refused(&model(json!({"merges": [["a", "zzz"]]})), "");
    refused(&model(json!({"dropout": 2.0})), "");
    refused(&with(byte_level(), "version", json!("2.0")), "");
    refused(&with(byte_level(), "pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "("}})), "");
    refused(&with(byte_level(), "normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAA"})), "");
    refused(
        &with(byte_level(), "normalizer", json!({"type": "Replace", "pattern": {"Regex": "("}, "content": ""})),
        "",
    );
}

/// What the library takes is taken, however odd, in little time.
#[test]
fn odd_tokenizers_load_or_are_refused_in_time() {
    let special = |id: u64, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": true,
                                                  "lstrip": true, "rstrip": true, "normalized": true})
    };
    let backtracking = json!({"type": "Split", "pattern": {"Regex": "(?=(.*)*$)(l+)+(?!x)\\1"}, "behavior": "Isolated",
                              "invert": true});
    let charsmap = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        json!({"type": "Precompiled", "precompiled_charsmap": base64(&bytes)})
    };
    let odd = [
        with(byte_level(), "added_tokens", json!([special(0, ""), special(0, "l"), special(7, "l")])),
        with(byte_level(), "added_tokens", json!([special(4_294_967_295, "l")])),
        with(byte_level(), "added_tokens", Value::Array((0..5_000).map(|i| special(i, &"l".repeat(50))).collect())),
        with(byte_level(), "pre_tokenizer", backtracking),
        with(byte_level(), "pre_tokenizer", json!({"type": "FixedLength", "length": u64::MAX})),
        with(
            byte_level(),
            "truncation",
            json!({"direction": "Right", "max_length": 0, "strategy": "LongestFirst",
                                               "stride": u64::MAX}),
        ),
        with(
            byte_level(),
            "padding",
            json!({"strategy": {"Fixed": u64::MAX}, "direction": "Right", "pad_id": 0,
             "pad_to_multiple_of": u64::MAX, "pad_type_id": 0, "pad_token": ""}),
        ),
        with(byte_level(), "normalizer", charsmap(&[4, 0])),
        with(byte_level(), "normalizer", charsmap(&[u32::MAX, 1, 2])),
        with(byte_level(), "normalizer", charsmap(&[8, u32::MAX, u32::MAX, 0])),
        small(json!({"type": "Unigram", "vocab": [], "unk_id": 0})),
        small(json!({"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 7})),
        small(json!({"type": "Unigram", "vocab": [["", -1.0], ["", 1e308], ["l", -1e308]], "unk_id": null})),
        small(json!({"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 0, "byte_fallback": true})),
        small(json!({"type": "WordPiece", "vocab": {}, "unk_token": "", "continuing_subword_prefix": "",
                     "max_input_chars_per_word": 0})),
        small(json!({"type": "WordLevel", "vocab": {"a": 4_294_967_295_u32}, "unk_token": "b"})),
        small(json!({"type": "BPE", "vocab": {"l": 0, "ll": 0}, "merges": [["l", "l"]], "unk_token": "none"})),
        small(json!({"type": "BPE", "vocab": {"": 0}, "merges": [["", ""]], "continuing_subword_prefix": "日"})),
    ];
    let patterns = [
        format!("{}l{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{}l{}", "(?=".repeat(100_000), ")".repeat(100_000)),
        format!("{}l", "l|".repeat(100_000)),
        "((l{1000}){1000}){1000}".to_owned(),
        "(?=((l{1000}){1000}){1000})\\1".to_owned(),
        "(\\p{L}{1000}){1000}(?!x)".to_owned(),
        "(?<=l{1000}{1000})l".to_owned(),
    ];
    let splits = patterns.map(|pattern| {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": false});
        with(byte_level(), "pre_tokenizer", split)
    });
    for tokenizer in odd.iter().chain(&splits) {
        if let Err(error) = in_time(tokenizer.to_string().as_bytes()) {
            doors::assert_input_error(&error, "model");
        }
    }
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letters = |chunk: &[u8]| {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        let letter =
            |i: usize| if i > chunk.len() { '=' } else { LETTERS[(bits >> (18 - 6 * i)) as usize & 63].into() };
        (0..4).map(letter).collect::<String>()
    };
    bytes.chunks(3).map(letters).collect()
}
