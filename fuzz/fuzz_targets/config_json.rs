#![no_main]

use gsil_fuzz::doors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _accepted_or_refused = doors::config_json(bytes);
});
