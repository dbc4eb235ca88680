//! Graphics libraries report exhausted memory and lost devices by panicking, or in a long list of what then failed too:
//! which texts those are, and what helps.

use std::any::Any;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// The run of this process; None in a command that is no run, and before a run is estimated.
static RUN: Mutex<Option<RunAdvice>> = Mutex::new(None);

/// What is advised in a run.
#[derive(Debug)]
struct RunAdvice {
    /// When memory runs out.
    on_memory: String,
    /// There is a run folder to go on from.
    has_begun: bool,
}

/// What helps any command.
const GENERAL_ADVICE: &str = "fewer sequences at once (--batch-size 1; generation.batch_size=1, train.micro_batch_size=1), \
    shorter ones (--max-new-tokens, train.max_length), a smaller model, or --device flex; the command's --help says which \
    of these it has";

/// From here on this is what is advised when memory runs out: what the estimate of the run says. `has_begun`: the run can be
/// resumed, which is what is advised when the device is lost.
pub fn remember_advice(on_memory: String, has_begun: bool) {
    *RUN.lock().unwrap_or_else(PoisonError::into_inner) = Some(RunAdvice { on_memory, has_begun });
}

/// Beside the command that resumes a run: a cell is gone on with by its comparison.
pub const IN_A_COMPARISON: &str = "(in a comparison: the same `gsil compare` command)";

/// What such panics say, in lower case, of memory that ran out.
const OUT_OF_MEMORY: [&str; 6] =
    ["out of memory", "outofmemory", "can't allocate", "buffertoobig", "buffer too big", "not enough memory"];
/// The same of a device that is gone. A poisoned lock is what a panic in the device's own thread leaves behind.
const LOST: [&str; 4] = ["device lost", "device is lost", "devicelost", "poisoned"];

/// The first panic that said that memory ran out. A device's own thread catches its panics and goes on: what the command then
/// meets are the failures that followed, which do not name it.
static MEMORY_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// To be told of every panic of every thread.
pub fn remember_panic(text: &str) {
    if says(text, &OUT_OF_MEMORY) {
        MEMORY_PANIC.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| text.to_owned());
    }
}

fn memory_panic() -> Option<String> {
    MEMORY_PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The error that a device reports when it is asked for results: one failure drags others along, the line that names the
/// first of them is what helps.
pub fn of_report(text: &str) -> Error {
    of_report_after(memory_panic().as_deref(), text)
}

fn of_report_after(memory_panic: Option<&str>, text: &str) -> Error {
    let line = |phrases: &[&str]| text.lines().map(str::trim).find(|line| says(line, phrases));
    let cause = line(&OUT_OF_MEMORY).or(memory_panic).or_else(|| line(&LOST));
    cause.and_then(of_text).unwrap_or_else(|| Error::device("current", text))
}

/// The text that a panic was raised with, if it is one.
pub fn text_of_panic(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// The error behind a panic with this text; None if it is not the device's but our own mistake.
pub fn of_panic(text: &str) -> Option<Error> {
    of_panic_after(memory_panic().as_deref(), text)
}

fn of_panic_after(memory_panic: Option<&str>, text: &str) -> Option<Error> {
    of_text(memory_panic.filter(|_| !says(text, &OUT_OF_MEMORY)).unwrap_or(text))
}

fn of_text(text: &str) -> Option<Error> {
    of_text_in(RUN.lock().unwrap_or_else(PoisonError::into_inner).as_ref(), text)
}

fn says(text: &str, phrases: &[&str]) -> bool {
    let lower = text.to_lowercase();
    phrases.iter().any(|phrase| lower.contains(phrase))
}

fn of_text_in(run: Option<&RunAdvice>, text: &str) -> Option<Error> {
    if says(text, &OUT_OF_MEMORY) {
        let error = Error::device("current", format!("ran out of memory\n{text}"));
        return Some(error.with_hint(run.map_or(GENERAL_ADVICE, |run| &run.on_memory)));
    }
    says(text, &LOST).then(|| {
        let error = Error::device("current", format!("was lost\n{text}"));
        error.with_hint(match run.is_some_and(|run| run.has_begun) {
            true => {
                format!(
                    "continue with `gsil resume DIR` {IN_A_COMPARISON}: the last checkpoint is intact. If it happens \
                     again: update the graphics driver, or in a new run: --device flex"
                )
            }
            false => {
                "run the command again. If it happens again: update the graphics driver, or --device flex".to_owned()
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(has_begun: bool) -> RunAdvice {
        RunAdvice { on_memory: "train.micro_batch_size=1 (2 GB less)".to_owned(), has_begun }
    }

    #[test]
    fn memory_that_ran_out_is_an_error_with_advice_for_any_command_or_that_of_the_run() {
        for text in [
            "called `Result::unwrap()` on an `Err` value: BufferTooBig(4294967296)",
            "wgpu error: Out of Memory\n\nCaused by: In Device::create_buffer",
            "Can't allocate buffer of size 8589934592",
            "Not enough memory left.",
        ] {
            let error = of_text_in(None, text).unwrap();
            assert_eq!(error.exit_code(), 4);
            assert!(error.to_string().contains(text), "{error}");
            let hint = error.hint().unwrap();
            assert!(hint.contains("--batch-size 1") && hint.contains("--device flex"), "{hint}");
            assert!(!hint.contains("resume") && !hint.contains("checkpoint"), "there is no run: {hint}");
            for run in [run(false), run(true)] {
                assert_eq!(of_text_in(Some(&run), text).unwrap().hint(), Some(run.on_memory.as_str()));
            }
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
    fn memory_that_ran_out_in_the_devices_own_thread_is_told_of_what_failed_after_it() {
        let first = Some("wgpu error: Out of Memory");
        let report = "An error happened during execution\nCaused by:\n  The bytes were never written (failure #176)\n  \
                      couldn't find resource for that handle: Memory location was never initialized";
        for error in [
            of_report_after(first, report),
            of_report_after(first, "The device is poisoned"),
            of_panic_after(first, "called `Result::unwrap()` on an `Err` value: BufferAsyncError").unwrap(),
        ] {
            assert!(error.to_string().ends_with("ran out of memory\nwgpu error: Out of Memory"), "{error}");
            assert!(error.hint().is_some(), "{error}");
        }
        let named = of_report_after(first, "can't allocate buffer of size: 256");
        assert!(named.to_string().ends_with("\ncan't allocate buffer of size: 256"), "its own words first: {named}");
    }

    #[test]
    fn a_device_that_was_lost_because_memory_ran_out_ran_out_of_memory() {
        let error = of_report_after(None, "The device is poisoned\nCaused by:\n  Unknown: Out of memory");
        assert!(error.to_string().ends_with("ran out of memory\nUnknown: Out of memory"), "{error}");
        let lost = of_report_after(None, "An error\nCaused by:\n  The device is poisoned");
        assert!(lost.to_string().ends_with("was lost\nThe device is poisoned"), "{lost}");
    }

    #[test]
    fn a_lost_device_is_an_error_that_says_how_to_go_on_where_there_is_a_run_to_resume() {
        for text in [
            "wgpu error: Validation Error\nParent device is lost",
            "Device lost: Unknown",
            "PoisonError { .. }: poisoned",
        ] {
            for (run, is_resumed) in [(None, false), (Some(run(false)), false), (Some(run(true)), true)] {
                let error = of_text_in(run.as_ref(), text).unwrap();
                assert_eq!(error.exit_code(), 4);
                let hint = error.hint().unwrap();
                let way_on = "`gsil resume DIR` (in a comparison: the same `gsil compare` command): ";
                assert_eq!(hint.contains(way_on), is_resumed, "{text}: {hint}");
                assert_eq!(hint.contains("gsil resume"), is_resumed, "{text}: {hint}");
                assert!(hint.contains("--device flex"), "{text}: {hint}");
            }
        }
    }

    #[test]
    fn our_own_mistakes_are_not_blamed_on_the_device() {
        for text in ["index out of bounds: the len is 3 but the index is 3", "assertion failed: shapes differ", ""] {
            assert!(of_panic(text).is_none(), "{text}");
        }
    }
}
