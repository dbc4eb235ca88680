//! GGUF files from strangers: every count in one is a lie until it is checked against the bytes that are left.

use crate::support::binary::Random;
use crate::support::doors;
use crate::support::gguf_builder::{GgufBuilder, tiny_model};
use crate::support::memory::peak_bytes;
use crate::support::mutations::damaged;

/// Promised are 64 MB for a file of 1 KB; these files of 4 KB never took more than 30 KB.
const MEMORY_LIMIT: usize = 1 << 20;

/// Small complete models with both kinds of tokenizer.
fn good_files() -> [Vec<u8>; 2] {
    let sentence_piece = tiny_model("llama")
        .string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &["<s>", "</s>", "a", "b", "ab", "▁ab"])
        .f32s("tokenizer.ggml.scores", &[0.0, 0.0, -1.0, -2.0, -3.0, -4.0])
        .i32s("tokenizer.ggml.token_type", &[3, 3, 1, 1, 1, 1])
        .u32("tokenizer.ggml.eos_token_id", 1)
        .bool("tokenizer.ggml.add_bos_token", true);
    let byte_level = tiny_model("qwen2")
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "qwen2")
        .strings("tokenizer.ggml.tokens", &["a", "b", "c", "ab", "abc", "<|im_end|>"])
        .strings("tokenizer.ggml.merges", &["a b", "ab c"])
        .i32s("tokenizer.ggml.token_type", &[1, 1, 1, 1, 1, 3])
        .u32("tokenizer.ggml.eos_token_id", 5)
        .string("tokenizer.chat_template", "{{ messages }}");
    [sentence_piece.build(), byte_level.build()]
}

/// Where the first tensor's values begin: what is before is what a reader parses. The values of a tiny model take between
/// 2,200 and 2,600 bytes.
fn header_of(bytes: &[u8]) -> usize {
    bytes.len() - 2_200
}

/// Promise R12.
#[test]
fn ten_thousand_damaged_gguf_headers_are_opened_or_refused_in_little_memory() {
    let good = good_files();
    let mut random = Random(12);
    let (mut num_refused, mut most_memory) = (0, 0);
    for bytes in &good {
        let (result, peak) = peak_bytes(|| doors::gguf(bytes));
        result.unwrap();
        most_memory = most_memory.max(peak);
    }
    for round in 0..10_000 {
        let bytes = &good[round % 2];
        let header_len = header_of(bytes);
        let mut header = bytes[..header_len].to_vec();
        match round % 4 {
            0 | 1 => header[random.below(header_len)] ^= 1 << random.below(8),
            _ => header = damaged(&mut random, &header),
        }
        let bytes = [header, bytes[header_len..].to_vec()].concat();
        let (result, peak) = peak_bytes(|| doors::gguf(&bytes));
        most_memory = most_memory.max(peak);
        if let Err(error) = result {
            doors::assert_input_error(&error, "model.gguf");
            num_refused += 1;
        }
    }
    assert!((6_000..10_000).contains(&num_refused), "{num_refused} refused");
    assert!(most_memory < MEMORY_LIMIT, "{most_memory} bytes of memory for a file of {} bytes", good[1].len());
}

#[test]
fn every_cut_of_a_gguf_file_is_refused() {
    for bytes in good_files() {
        for len in 0..bytes.len() {
            assert!(doors::gguf(&bytes[..len]).is_err(), "cut to {len} of {} bytes", bytes.len());
        }
    }
}

/// Refused for this reason, with hardly more memory than the file has bytes.
#[track_caller]
fn refused(bytes: &[u8], why: &str) {
    let (result, peak) = peak_bytes(|| doors::gguf(bytes));
    let error = result.unwrap_err();
    doors::assert_input_error(&error, "model.gguf");
    assert!(error.to_string().contains(why), "expected {why:?} in: {error}");
    assert!(peak < 1 << 20, "{peak} bytes of memory for a file of {} bytes", bytes.len());
}

/// A file with these bytes put over others.
fn with_bytes(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn crafted_starts_are_refused() {
    let good = tiny_model("llama").build();
    doors::gguf(&with_bytes(good.clone(), 4, &[2])).unwrap(); // version 2 has the same layout
    refused(b"", "is not a GGUF file");
    refused(b"GGUF", "is not a GGUF file");
    refused(&[0; 100], "is not a GGUF file");
    refused(&with_bytes(good.clone(), 0, b"GGML"), "is not a GGUF file");
    refused(&with_bytes(good.clone(), 4, &[1]), "only versions 2 and 3");
    refused(&with_bytes(good.clone(), 4, &[4]), "only versions 2 and 3");
    refused(&with_bytes(good.clone(), 4, &3u32.to_be_bytes()), "big-endian");
    for (at, what) in [(8, "tensors"), (16, "metadata entries")] {
        for count in [u64::MAX, 1 << 63, 1 << 40, 200_000, 5_000] {
            refused(&with_bytes(good.clone(), at, &count.to_le_bytes()), what);
        }
    }
    refused(&with_bytes(good.clone(), 8, &12u64.to_le_bytes()), "tensor"); // one more than there are
    refused(&with_bytes(good, 8, &0u64.to_le_bytes()), "has no token_embd.weight");
}

#[test]
fn crafted_metadata_is_refused() {
    let entry = |kind: u32, value: &[u8]| GgufBuilder::default().raw("k", kind, value).build();
    let array = |kind: u32, len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes(), &[0; 64]].concat();
    for len in [u64::MAX, 1 << 62, 300 << 20] {
        refused(&entry(8, &len.to_le_bytes()), "bytes long");
    }
    refused(&entry(8, &1_000u64.to_le_bytes()), "needs 1000 bytes");
    refused(&entry(8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), "not UTF-8");
    refused(&entry(7, &[2]), "truth value of 2");
    refused(&entry(13, &[0; 8]), "unknown type 13");
    refused(&entry(u32::MAX, &[0; 8]), "unknown type 4294967295");
    for (kind, len) in [(0, u64::MAX), (8, 1 << 60), (9, 1 << 32), (10, 60)] {
        let why = if len == 60 { "cut short" } else { "more than the file has bytes" };
        refused(&entry(9, &array(kind, len)), why);
    }
    refused(&entry(9, &array(99, 4)), "unknown type 99");
    let nested = |depth: usize| {
        let levels = (0..depth).flat_map(|_| [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat());
        entry(9, &levels.chain(array(0, 0)).collect::<Vec<_>>())
    };
    refused(&nested(3), "general.architecture"); // four deep is read, and then there is no model
    refused(&nested(4), "more than 4 deep");
    refused(&nested(80), "more than 4 deep");
    refused(&GgufBuilder::default().u32("k", 1).u32("k", 1).build(), "is there twice");
    refused(&GgufBuilder::default().u32("k\u{1b}[2J", 1).build(), r#""k\u{1b}[2J" has control characters"#);
    refused(&GgufBuilder::default().u32(&"k".repeat(1001), 1).build(), "is 1001 bytes long");
    for alignment in [0, 3, 48, 1 << 30] {
        refused(&tiny_model("llama").u32("general.alignment", alignment).build(), "power of two");
    }
    refused(&tiny_model("llama").string("general.alignment", "32").build(), "expected an integer");
    refused(&tiny_model("llama").u32("general.alignment", 64).build(), "alignment, 64");
}

#[test]
fn crafted_tensors_are_refused() {
    let tensor = |dimensions: &[u64], kind: u32| GgufBuilder::default().tensor("t", dimensions, kind, vec![0; 64]);
    refused(&tensor(&[], 0).tensor("u", &[1], 0, vec![0; 4]).build(), "0 dimensions");
    refused(&tensor(&[1, 1, 1, 1, 1], 0).build(), "5 dimensions");
    refused(&tensor(&[0], 0).build(), "rows of 0 values");
    refused(&tensor(&[4, 0], 0).build(), "impossible dimensions");
    refused(&tensor(&[u64::MAX], 0).build(), "impossible dimensions");
    refused(&tensor(&[1 << 33, 1 << 33], 0).build(), "impossible dimensions");
    refused(&tensor(&[1 << 40], 0).build(), "ends at byte");
    refused(&tensor(&[33], 8).build(), "multiple of 32");
    refused(&tensor(&[128], 12).build(), "multiple of 256");
    refused(&tensor(&[256], 10).build(), "tensor `t`: has type Q2_K");
    refused(&tensor(&[256], 4).build(), "number 4"); // withdrawn from the format
    refused(&tensor(&[256], 99).build(), "number 99");
    refused(&tensor(&[17], 0).build(), "ends at byte");
    refused(&tensor(&[4], 0).tensor("t", &[4], 0, vec![0; 16]).build(), "is there twice");
    refused(&tensor(&[24], 0).tensor("u", &[8], 0, vec![0; 32]).build(), "tensor `u`: overlaps another tensor");
    refused(&GgufBuilder::default().tensor("t\u{7f}", &[4], 0, vec![0; 16]).build(), "has control characters");
    refused(&GgufBuilder::default().tensor(&"t".repeat(1001), &[4], 0, vec![0; 16]).build(), "1001 bytes long");
    // Two tensors without metadata: the table ends with the offset of `b`.
    let good = GgufBuilder::default().f32_tensor("a", &[8], &[1.0; 8]).f32_tensor("b", &[8], &[2.0; 8]).build();
    let table_end = 24 + 2 * (8 + 1 + 4 + 8 + 4 + 8);
    for (offset, why) in [(0u64, "overlaps"), (33, "alignment"), (1 << 20, "ends at byte"), (u64::MAX - 31, "offset")] {
        refused(&with_bytes(good.clone(), table_end - 8, &offset.to_le_bytes()), why);
    }
}

/// Files whose layout is sound and whose model is not.
#[test]
fn crafted_models_are_refused() {
    let words = ["a", "b", "c", "d", "e", "f"];
    let vocabulary =
        |kind: &str| tiny_model("llama").string("tokenizer.ggml.model", kind).strings("tokenizer.ggml.tokens", &words);
    refused(&vocabulary("bert").build(), "the tokenizer \"bert\" is not supported");
    refused(&vocabulary("llama").build(), "scores: is missing");
    refused(&vocabulary("llama").f32s("tokenizer.ggml.scores", &[0.0; 5]).build(), "5 entries for 6 tokens");
    refused(&vocabulary("llama").f32s("tokenizer.ggml.scores", &[f32::NAN; 6]).build(), "expected an array of numbers");
    refused(&vocabulary("gpt2").build(), "does not say how text is split");
    let split = || vocabulary("gpt2").string("tokenizer.ggml.pre", "gpt-2");
    refused(&split().build(), "merges: is missing");
    refused(&split().strings("tokenizer.ggml.merges", &["a z"]).build(), "does not join two tokens");
    refused(&vocabulary("gpt2").string("tokenizer.ggml.pre", "x").build(), "splitting rule \"x\"");
    refused(&vocabulary("gpt2").u32("tokenizer.ggml.eos_token_id", 6).build(), "is 6, but there are 6 tokens");
    let types = vocabulary("llama").i32s("tokenizer.ggml.token_type", &[1, -1, 1, 1, 1, 1]);
    refused(&types.build(), "expected an array of integers of at least 0");
    let twice = tiny_model("llama").string("tokenizer.ggml.model", "gpt2");
    refused(&twice.strings("tokenizer.ggml.tokens", &["a", "a"]).build(), "tokens 0 and 1 are both \"a\"");
    for (key, value) in [("llama.attention.key_length", u32::MAX), ("llama.attention.key_length", 0)] {
        refused(&tiny_model("llama").u32(key, value).build(), "heads of");
    }
    refused(&tiny_model("llama").string("llama.rope.scaling.type", "linear").build(), "is missing");
    refused(&tiny_model("llama").string("llama.rope.scaling.type", "su").build(), "\"su\" is not supported");
}
