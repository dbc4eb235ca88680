//! Safetensors files from strangers: damaged ones and crafted ones, none of which may do more than be refused.

use std::collections::BTreeMap;

use gsil::formats::safetensors::{HostTensor, write_safetensors};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::Random;
use crate::support::doors;
use crate::support::memory::peak_bytes;
use crate::support::mutations::{damaged, damaged_json};

const MEMORY_LIMIT: usize = 64 << 20;

/// A file of this header and so many bytes of values.
fn file(header: &str, data_len: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data_len]].concat()
}

/// One file that this crate wrote, and one with the types and the order that others write.
fn good_files() -> [Vec<u8>; 2] {
    let folder = tempdir().unwrap();
    let path = folder.path().join("good.safetensors");
    let tensor = |name: &str, shape: &[usize]| {
        let values = vec![0.5; shape.iter().product()];
        HostTensor { name: name.to_owned(), shape: shape.to_vec(), values }.into()
    };
    let tensors = vec![tensor("model.norm.weight", &[7]), tensor("lm_head.weight", &[3, 5]), tensor("empty", &[0, 4])];
    write_safetensors(&path, tensors, &BTreeMap::from([("step".to_owned(), "7".to_owned())])).unwrap();
    [std::fs::read(&path).unwrap(), file(&foreign_header().to_string(), 54)]
}

fn foreign_header() -> Value {
    json!({
        "__metadata__": {"format": "pt"},
        "z": {"dtype": "BF16", "shape": [3, 2], "data_offsets": [0, 12]},
        "a": {"dtype": "F16", "shape": [1], "data_offsets": [12, 14]},
        "ids": {"dtype": "I64", "shape": [2], "data_offsets": [14, 30]},
        "d": {"dtype": "F64", "shape": [3], "data_offsets": [30, 54]},
    })
}

/// Promise R11. Half of the files have damaged bytes; the others a header that is JSON of the right length, so that the
/// damage reaches the checks behind the parser.
#[test]
fn ten_thousand_damaged_safetensors_files_are_opened_or_refused() {
    let good = good_files();
    good.iter().for_each(|bytes| doors::safetensors(bytes).unwrap());
    let header = foreign_header();
    let mut random = Random(11);
    let mut num_refused = [0, 0];
    for round in 0..10_000 {
        let bytes = match round % 4 {
            0 | 1 => damaged(&mut random, &good[round % 2]),
            _ => file(&damaged_json(&mut random, &header).to_string(), 54),
        };
        let (result, peak) = peak_bytes(|| doors::safetensors(&bytes));
        assert!(peak < MEMORY_LIMIT, "{peak} bytes of memory for a file of {}", bytes.len());
        if let Err(error) = result {
            doors::assert_input_error(&error, "model.safetensors");
            num_refused[round % 4 / 2] += 1;
        }
    }
    let [bytes, headers] = num_refused;
    assert!((3_000..5_000).contains(&bytes) && (2_000..5_000).contains(&headers), "{bytes}, {headers} refused");
}

#[test]
fn every_cut_of_a_safetensors_file_is_refused() {
    for bytes in good_files() {
        for len in 0..bytes.len() {
            let error = doors::safetensors(&bytes[..len]).unwrap_err();
            doors::assert_input_error(&error, "model.safetensors");
        }
    }
}

#[test]
fn crafted_safetensors_headers_are_refused_with_the_reason() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = |dtype: &str, shape: &str, offsets: &str| format!(r#"{{"a":{}}}"#, tensor(dtype, shape, offsets));
    let a = format!(r#""a":{}"#, tensor("F32", "[1]", "[0,4]"));
    let second = |offsets: &str| format!(r#"{{{a},"b":{}}}"#, tensor("F32", "[1]", offsets));
    let many: Vec<String> = (0..=100_000).map(|i| format!(r#""{i}":{}"#, tensor("F32", "[0]", "[0,0]"))).collect();
    let cases: Vec<(String, usize, &str)> = vec![
        (String::new(), 0, "EOF"),
        ("[]".into(), 0, "expected a map"),
        ("null".into(), 0, "expected a map"),
        ("{\"a\": nul}".into(), 0, "line 1 column"),
        ("{} {}".into(), 0, "trailing characters"),
        ("\u{feff}{}".into(), 0, "expected value at line 1 column 1"),
        ("[".repeat(100_000), 0, "expected a map"),
        (format!("{{\"a\":{}", "{\"a\":".repeat(100_000)), 0, "header is damaged"),
        (format!(r#"{{"__metadata__":{}"#, "[".repeat(100_000)), 0, "header is damaged"),
        (r#"{"__metadata__":{"a":1}}"#.into(), 0, "expected a string"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "`__metadata__` is there twice"),
        (format!("{{{a},{a}}}"), 4, "`a` is there twice"),
        (r#"{"a":{}}"#.into(), 0, "missing field"),
        (r#"{"a":null}"#.into(), 0, "header is damaged"),
        (r#"{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.into(), 4, "duplicate field"),
        (format!("{{{a}}}"), 3, "cut short"),
        (format!("{{{a}}}"), 5, "its header accounts for"),
        (second("[2,6]"), 6, "invalid offset for tensor"),
        (second("[0,4]"), 4, "invalid offset for tensor"),
        (second("[8,12]"), 12, "invalid offset for tensor"),
        (one("F32", "[1]", "[4,8]"), 8, "invalid offset for tensor"),
        (one("F32", "[1]", "[4,0]"), 4, "invalid offset for tensor"),
        (one("F32", "[1]", "[-4,0]"), 4, "invalid value"),
        (one("F32", "[1]", "[0,4.0]"), 4, "invalid type"),
        (one("F32", "[1]", "[0]"), 4, "invalid length 1"),
        (one("F32", "[1]", "[0,4,8]"), 8, "header is damaged"),
        (one("F32", "[1]", "[0,18446744073709551615]"), 4, "header is damaged"),
        (one("F32", "[4611686018427387904]", "[0,0]"), 0, "header is damaged"),
        (one("F32", "[4294967296,4294967296]", "[0,0]"), 0, "header is damaged"),
        (one("F32", "[18446744073709551616]", "[0,4]"), 4, "invalid type"),
        (one("F32", "[-1]", "[0,4]"), 4, "invalid value"),
        (one("F32", "[2]", "[0,4]"), 4, "header is damaged"),
        (one("F32", "\"1\"", "[0,4]"), 4, "invalid type"),
        (one("F16", "[1]", "[0,4]"), 4, "header is damaged"),
        (one("Q9", "[1]", "[0,4]"), 4, "unknown variant `Q9`"),
        (one("f32", "[1]", "[0,4]"), 4, "unknown variant `f32`"),
        (one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "9 dimensions"),
        (format!(r#"{{"a\u001b[2J":{}}}"#, tensor("F32", "[1]", "[0,4]")), 4, "has control characters"),
        (format!(r#"{{"{}":{{}}}}"#, "n".repeat(1001)), 0, "1001 bytes long"),
        (format!("{{{}}}", many.join(",")), 0, "more than 100000 tensors"),
    ];
    assert!(cases.len() >= 35);
    let mut others = Vec::new();
    for (header, data_len, why) in cases {
        let error = doors::safetensors(&file(&header, data_len)).unwrap_err();
        doors::assert_input_error(&error, "model.safetensors");
        if !error.to_string().contains(why) {
            others.push(format!("expected {why:?} for {header:.200}: {error}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}

#[test]
fn impossible_header_lengths_are_refused_before_anything_is_allocated() {
    for (len, why) in [
        (u64::MAX, "header would be"),
        (1 << 63, "header would be"),
        (100_000_001, "header would be"),
        (100_000_000, "for its header alone"),
        (3, "for its header alone"),
    ] {
        let bytes = [&len.to_le_bytes()[..], b"{}"].concat();
        let (result, peak) = peak_bytes(|| doors::safetensors(&bytes));
        let error = result.unwrap_err();
        assert!(error.to_string().contains(why), "{len}: {error}");
        assert!(peak < 1 << 16, "{peak} bytes of memory");
    }
    let not_utf8 = [&4u64.to_le_bytes()[..], b"{\"\xff\""].concat();
    assert!(doors::safetensors(&not_utf8).is_err());
}
