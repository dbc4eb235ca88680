//! Graphics libraries report exhausted memory and lost devices by panicking, or in a long list of what then failed too:
//! which texts those are, and what helps.

use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// What helps the run that goes on in this process when memory runs out, if it was estimated.
static ADVICE: Mutex<Option<String>> = Mutex::new(None);

/// What helps any run, in the order of what saves most as a rule; the first two may change in the middle of a run.
const GENERAL_ADVICE: &str = "in the order of what saves most: train.activation_checkpointing=true; \
    train.micro_batch_size=1 or a lower train.max_tokens; generation.batch_size=1; these with `gsil resume DIR \
    --allow-changes KEY=VALUE`. In a new run: a lower train.max_length; lora.rank=8; train.optimizer=rmsprop, then sgd. \
    The last checkpoint is intact";

/// From here on this is what is advised when memory runs out: what the estimate of the run says.
pub fn remember_advice(advice: String) {
    *ADVICE.lock().unwrap_or_else(PoisonError::into_inner) = Some(advice);
}

/// What such panics say, in lower case, of memory that ran out.
const OUT_OF_MEMORY: [&str; 6] =
    ["out of memory", "outofmemory", "can't allocate", "buffertoobig", "buffer too big", "not enough memory"];
/// The same of a device that is gone. A poisoned lock is what a panic in the device's own thread leaves behind.
const LOST: [&str; 4] = ["device lost", "device is lost", "devicelost", "poisoned"];

/// The error that a device reports when it is asked for results: one failure drags others along, the line that names the
/// first of them is what helps.
pub fn of_report(text: &str) -> Error {
    text.lines().find_map(|line| of_panic(line.trim())).unwrap_or_else(|| Error::device("current", text))
}

/// The error behind a panic with this text; None if it is not the device's but our own mistake.
pub fn of_panic(text: &str) -> Option<Error> {
    let lower = text.to_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| lower.contains(phrase));
    if says(&OUT_OF_MEMORY) {
        let error = Error::device("current", format!("ran out of memory\n{text}"));
        let estimated = ADVICE.lock().unwrap_or_else(PoisonError::into_inner).clone();
        return Some(error.with_hint(estimated.unwrap_or_else(|| GENERAL_ADVICE.to_owned())));
    }
    says(&LOST).then(|| {
        Error::device("current", format!("was lost\n{text}")).with_hint(
            "continue with `gsil resume DIR`: the last checkpoint is intact. If it happens again: update the graphics \
             driver, or in a new run: --device flex",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_ran_out_is_an_error_whose_hint_lists_what_saves_most_first() {
        for text in [
            "called `Result::unwrap()` on an `Err` value: BufferTooBig(4294967296)",
            "wgpu error: Out of Memory\n\nCaused by: In Device::create_buffer",
            "Can't allocate buffer of size 8589934592",
            "Not enough memory left.",
        ] {
            let error = of_panic(text).unwrap();
            assert_eq!(error.exit_code(), 4);
            assert!(error.to_string().contains(text), "{error}");
            let hint = error.hint().unwrap();
            let order =
                ["activation_checkpointing", "micro_batch_size", "max_tokens", "max_length", "lora", "optimizer"];
            let places: Vec<usize> = order.iter().map(|word| hint.find(word).unwrap()).collect();
            assert!(places.is_sorted(), "{hint}");
        }
    }

    #[test]
    fn of_a_long_report_only_the_line_that_helps_is_shown() {
        let report = "An error happened during execution\nCaused by:\n  skipped `MatmulEntry`: it needed memory\nCaused by:\n  \
                      can't allocate buffer of size: 2560004096\nNo backtrace available";
        let error = of_report(report);
        assert!(error.to_string().ends_with("ran out of memory\ncan't allocate buffer of size: 2560004096"), "{error}");
        assert!(error.hint().is_some());
        let other = of_report("An error happened during execution\nit is unknown");
        assert!(other.to_string().contains("it is unknown") && other.hint().is_none(), "{other}");
    }

    #[test]
    fn a_lost_device_is_an_error_that_says_how_to_go_on() {
        for text in [
            "wgpu error: Validation Error\nParent device is lost",
            "Device lost: Unknown",
            "PoisonError { .. }: poisoned",
        ] {
            let error = of_panic(text).unwrap();
            assert_eq!(error.exit_code(), 4);
            assert!(error.hint().unwrap().contains("gsil resume"), "{text}");
        }
    }

    #[test]
    fn our_own_mistakes_are_not_blamed_on_the_device() {
        for text in ["index out of bounds: the len is 3 but the index is 3", "assertion failed: shapes differ", ""] {
            assert!(of_panic(text).is_none(), "{text}");
        }
    }
}
