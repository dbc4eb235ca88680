//! How the program ends when something went wrong: the lines on stderr and the exit code.
//!
//! An [`Error`] is the outside world's. A panic is our own mistake, or a graphics library's way to report exhausted memory;
//! it is the last thing to go wrong here, never printed as the runtime would print it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crate::device::{error_of_panic, remember_panic, text_of_panic};
use crate::error::{Error, Result};

/// The last panic: what it said and where. The hook writes it, since only the hook learns the place.
static LAST_PANIC: Mutex<Option<Panic>> = Mutex::new(None);

/// A panic in words.
#[derive(Clone, Debug)]
struct Panic {
    message: String,
    location: String,
}

/// What is left to say and to return.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whole lines for stderr.
    pub text: String,
    pub exit_code: i32,
}

/// Panics are remembered from here on instead of printed, in every thread.
pub fn record_panics() {
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("no message").to_owned();
        remember_panic(&message);
        let location = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(Panic { message, location });
    }));
}

/// Runs `work`; its error or its panic becomes a [`Failure`].
pub fn catch(work: impl FnOnce() -> Result<()>) -> std::result::Result<(), Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| of_error(&error)),
        Err(payload) => {
            let recorded = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let message = text_of_panic(&*payload).unwrap_or_default().to_owned();
            let unrecorded = || Panic { message, location: "an unknown place".to_owned() };
            Err(of_panic(&recorded.unwrap_or_else(unrecorded)))
        }
    }
}

fn of_error(error: &Error) -> Failure {
    let hint = error.hint().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
    Failure { text: format!("error: {error}\n{hint}"), exit_code: error.exit_code() }
}

/// Graphics libraries report exhausted memory and lost devices by panicking; anything else is our own mistake.
fn of_panic(Panic { message, location }: &Panic) -> Failure {
    if let Some(error) = error_of_panic(message) {
        return of_error(&error);
    }
    let text = format!(
        "error: internal: {message}, at {location}; this is a bug in gsil\n\
         hint: please report it with the command and these lines\n"
    );
    Failure { text, exit_code: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panic(message: &str) -> Panic {
        Panic { message: message.to_owned(), location: "src/model/cache.rs:38:9".to_owned() }
    }

    #[test]
    fn an_error_is_printed_with_its_hint_and_exits_with_its_code() {
        let refused = || Err(Error::input("model.gguf", "is cut short").with_hint("download it again"));
        let text = "error: model.gguf: is cut short\nhint: download it again\n".to_owned();
        assert_eq!(catch(refused), Err(Failure { text, exit_code: 3 }));
        assert_eq!(catch(|| Ok(())), Ok(()));
    }

    #[test]
    fn a_panic_is_printed_as_a_bug_with_its_place() {
        let failure = of_panic(&panic("index out of bounds"));
        let line = "error: internal: index out of bounds, at src/model/cache.rs:38:9; this is a bug in gsil\n";
        assert!(failure.text.starts_with(line), "{}", failure.text);
        assert_eq!(failure.exit_code, 1);
    }

    #[test]
    fn a_panic_of_the_work_is_caught() {
        let failure = catch(|| panic!("on purpose: {}", 7)).unwrap_err();
        assert!(failure.text.starts_with("error: internal: on purpose: 7, at "), "{}", failure.text);
        assert!(failure.text.contains("; this is a bug in gsil\n"), "{}", failure.text);
        assert_eq!(failure.exit_code, 1);
    }

    #[test]
    fn exhausted_device_memory_is_no_bug() {
        let failure = of_panic(&panic("wgpu error: Out of Memory"));
        assert_eq!(failure.exit_code, 4);
        assert!(failure.text.contains("hint: "), "{}", failure.text);
    }
}
