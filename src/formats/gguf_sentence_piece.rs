//! SentencePiece BPE from a GGUF file (`tokenizer.ggml.model` = `llama`).
//!
//! The file has tokens with scores; the merges follow from them. Spaces become `▁`, one is put before the text, and
//! unknown characters become byte tokens.

use std::cmp::Reverse;
use std::path::Path;

use serde_json::{Value, json};

use super::gguf_metadata::GgufMetadata;
use super::gguf_tokenizer::{NORMAL, Tokenizer, Vocabulary, check_len, sequence};
use crate::error::{Error, Result};

/// A plain token of the `llama` kind longer than this is damage; real ones have at most 16 characters.
const MAX_SCORED_TOKEN_BYTES: usize = 256;

/// The parts of `tokenizer.json` for SentencePiece BPE.
pub fn sentence_piece_bpe(path: &Path, metadata: &GgufMetadata, vocabulary: &Vocabulary) -> Result<Tokenizer> {
    let key = "tokenizer.ggml.scores";
    let scores = metadata.f64s(key)?.ok_or_else(|| metadata.missing(key))?;
    check_len(path, key, scores.len(), vocabulary.tokens.len())?;
    let too_long = vocabulary.tokens.iter().zip(&vocabulary.types).position(|(token, kind)| {
        *kind == NORMAL && token.len() > MAX_SCORED_TOKEN_BYTES // keeps `merges_by_score` fast
    });
    if let Some(id) = too_long {
        let message = format!("token {id} is longer than {MAX_SCORED_TOKEN_BYTES} bytes: the file is damaged");
        return Err(Error::input(path, message).at("tokenizer.ggml.tokens"));
    }
    let space_first = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if space_first {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Tokenizer {
        normalizer: sequence("normalizers", &normalizers),
        pre_tokenizer: Value::Null,
        decoder: sequence("decoders", &decoders),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": vocabulary.unknown.map(|id| vocabulary.tokens[id]),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false, "vocab": vocabulary.to_json(), "merges": merges_by_score(vocabulary, &scores),
        }),
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(true),
        add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
    })
}

/// The merges that SentencePiece makes: every way to cut a token into two tokens, the token with the highest score
/// first.
///
/// Ties go to the longer left part, then to the longer right one, then to the smaller ids, as in `transformers`.
fn merges_by_score<'a>(vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Vec<(&'a str, &'a str)> {
    let normal_id = |token: &str| vocabulary.ids.get(token).copied().filter(|&id| vocabulary.types[id] == NORMAL);
    let mut merges = Vec::new();
    for (id, &token) in vocabulary.tokens.iter().enumerate() {
        if normal_id(token) != Some(id) {
            continue;
        }
        let num_chars = token.chars().count();
        let cuts = token.char_indices().enumerate().skip(1);
        merges.extend(cuts.filter_map(|(left_chars, (at, _))| {
            let (left, right) = token.split_at(at);
            let ids = (normal_id(left)?, normal_id(right)?);
            let longest_first = (Reverse(left_chars), Reverse(num_chars - left_chars));
            Some((scores[id], (longest_first, id, ids), (left, right)))
        }));
    }
    merges.sort_unstable_by(|(score, ties, _), (other_score, other_ties, _)| {
        other_score.total_cmp(score).then_with(|| ties.cmp(other_ties))
    });
    merges.into_iter().map(|(_, _, parts)| parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::gguf_builder::GgufBuilder;
    use crate::formats::gguf_checks::{reader, tokenizer_in, tokens};

    /// A vocabulary worked by hand: `▁ab` scores best of those with two letters, so "ab" is `▁ab`, not `▁a` and `b`.
    fn scored_file() -> GgufBuilder {
        let tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "ab", "▁ab"];
        GgufBuilder::default()
            .string("tokenizer.ggml.model", "llama")
            .strings("tokenizer.ggml.tokens", &tokens)
            .f32s("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, 0.0, 0.0, -8.0, -9.0, -10.0, -5.0, -3.0, -4.0])
            .i32s("tokenizer.ggml.token_type", &[2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1])
            .u32("tokenizer.ggml.bos_token_id", 1)
            .u32("tokenizer.ggml.eos_token_id", 2)
            .u32("tokenizer.ggml.unknown_token_id", 0)
    }

    #[test]
    fn scores_become_merges_best_first() {
        let files = tokenizer_in(&scored_file()).unwrap().unwrap();
        let json: Value = serde_json::from_slice(&files.tokenizer_json).unwrap();
        assert_eq!(json["model"]["merges"], json!([["a", "b"], ["▁a", "b"], ["▁", "ab"], ["▁", "a"]]));
    }

    #[test]
    fn sentence_piece_adds_a_space_falls_back_to_bytes_and_decodes_exactly() {
        let reader = reader(&scored_file());
        assert_eq!(tokens(&reader, "ab a", true), ["<s>", "▁ab", "▁a"]);
        assert_eq!(tokens(&reader, "é", false), ["▁", "<0xC3>", "<0xA9>"], "é is C3 A9 in UTF-8");
        let ids = reader.encode("ab éa", false).unwrap().get_ids().to_vec();
        assert_eq!(reader.decode(&ids, true).unwrap(), "ab éa");
        let bare = self::reader(&scored_file().bool("tokenizer.ggml.add_space_prefix", false));
        assert_eq!(tokens(&bare, "ab", false), ["ab"]);
    }

    #[test]
    fn damaged_scores_are_refused() {
        let refused = |builder: GgufBuilder, why: &str| {
            let error = tokenizer_in(&builder).unwrap_err().to_string();
            assert!(error.contains(why), "expected {why:?} in: {error}");
        };
        let scored = GgufBuilder::default().string("tokenizer.ggml.model", "llama");
        let long = "x".repeat(257);
        refused(scored.clone().strings("tokenizer.ggml.tokens", &["a"]), "scores: is missing");
        refused(
            scored.clone().strings("tokenizer.ggml.tokens", &["a"]).f32s("tokenizer.ggml.scores", &[]),
            "0 entries for 1",
        );
        refused(
            scored.strings("tokenizer.ggml.tokens", &[&long]).f32s("tokenizer.ggml.scores", &[0.0]),
            "longer than 256",
        );
    }
}
