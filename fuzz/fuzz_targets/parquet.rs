#![no_main]

use gsil_fuzz::{doors, let_panics_be_caught};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: let_panics_be_caught(), |bytes: &[u8]| {
    let _accepted_or_refused = doors::parquet(bytes);
});
