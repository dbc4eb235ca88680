#![no_main]

use gsil_fuzz::doors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _accepted_or_refused = doors::config(text);
});
