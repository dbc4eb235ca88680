//! Damaged CSV and Parquet files: read or refused, with bounded memory.

use std::fs;

use crate::support::binary::Random;
use crate::support::doors;
use crate::support::fixture;
use crate::support::memory::peak_bytes;
use crate::support::mutations::{damaged, damaged_text};

/// Of files of 1 to 2 KB, which never took more than 36 MB: the largest page that one may claim is 4 MiB, and a dictionary
/// of it takes some times that.
const MEMORY_LIMIT: usize = 64 << 20;

const CSV: &str = "prompt,completion,extra\n\"What is\n2 + 2?\",\"It is \"\"4\"\".\",1\nName one.,One,2\n\"a, b\",c,\n";

/// Files by pyarrow: see make.py beside them. The second has lists of structures and two row groups.
fn good_parquet() -> [Vec<u8>; 3] {
    ["plain", "messages", "ids"].map(|name| fs::read(fixture(&format!("tables/{name}.parquet"))).unwrap())
}

#[test]
fn two_thousand_damaged_csv_files_are_read_or_refused() {
    doors::csv(CSV.as_bytes()).unwrap();
    let mut random = Random(31);
    let mut num_refused = 0;
    for round in 0..2_000 {
        let bytes = match round % 2 {
            0 => damaged_text(&mut random, CSV),
            _ => damaged(&mut random, CSV.as_bytes()),
        };
        let (result, peak) = peak_bytes(|| doors::csv(&bytes));
        assert!(peak < 1 << 20, "{peak} bytes of memory");
        if let Err(error) = result {
            doors::assert_input_error(&error, "rows.csv");
            num_refused += 1;
        }
    }
    assert!((200..1_900).contains(&num_refused), "{num_refused} refused");
}

#[test]
fn two_thousand_damaged_parquet_files_are_read_or_refused() {
    let good = good_parquet();
    let mut random = Random(33);
    let (mut num_refused, mut most_memory) = (0, 0);
    for bytes in &good {
        doors::parquet(bytes).unwrap();
    }
    for round in 0..2_000 {
        let mut bytes = good[round % 3].clone();
        match round % 4 {
            0 | 1 => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            2 => {
                // The footer is where the counts are; the magic number and its own length stay.
                let footer =
                    bytes.len() - 8 - u32::from_le_bytes(bytes[bytes.len() - 8..][..4].try_into().unwrap()) as usize;
                let at = footer + random.below(bytes.len() - 8 - footer);
                bytes[at] = random.next() as u8;
            }
            _ => bytes = damaged(&mut random, &bytes),
        }
        let (result, peak) = peak_bytes(|| doors::parquet(&bytes));
        most_memory = most_memory.max(peak);
        if let Err(error) = result {
            doors::assert_input_error(&error, "rows.parquet");
            num_refused += 1;
        }
    }
    assert!((400..2_000).contains(&num_refused), "{num_refused} refused");
    assert!(most_memory < MEMORY_LIMIT, "{most_memory} bytes of memory");
}

#[test]
fn every_cut_of_a_parquet_file_is_refused() {
    for bytes in good_parquet() {
        for len in 0..bytes.len() {
            let (result, peak) = peak_bytes(|| doors::parquet(&bytes[..len]));
            doors::assert_input_error(&result.unwrap_err(), "rows.parquet");
            assert!(peak < MEMORY_LIMIT, "{peak} bytes of memory for {len}");
        }
    }
}

#[test]
fn well_made_files_of_far_more_content_than_bytes_are_refused_with_little_memory() {
    for (name, why) in [
        ("bomb_text", "the rows hold more than"),
        ("bomb_list", "a column claims more than"),
        ("bomb_page", "claims 30000010"),
        ("delta", "plain and dictionary are read"),
    ] {
        let bytes = fs::read(fixture(&format!("tables/{name}.parquet"))).unwrap();
        let (result, peak) = peak_bytes(|| doors::parquet(&bytes));
        let error = result.unwrap_err();
        doors::assert_input_error(&error, "rows.parquet");
        assert!(error.to_string().contains(why), "{error}");
        assert!(peak < MEMORY_LIMIT, "{name}: {peak} bytes of memory for {}", bytes.len());
    }
}

#[test]
fn other_content_under_a_known_ending_is_refused_with_a_hint() {
    let parquet = &good_parquet()[0];
    let gzip = b"\x1f\x8b\x08\x00".as_slice();
    for (result, hint) in [
        (doors::rows(parquet), ".parquet"),
        (doors::csv(parquet), ".parquet"),
        (doors::json_list(parquet), ".parquet"),
        (doors::rows(gzip), "gunzip"),
        (doors::csv(b"{\"prompt\":\"a\"}\n"), ".jsonl"),
        (doors::parquet(b"prompt,response\na,b\n"), ".csv"),
        (doors::parquet(b""), "downloaded as a whole"),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.hint().unwrap().contains(hint), "{error}: {:?}", error.hint());
    }
}
