//! The `gsil` command: parse, run, print an error with its hint, exit with its code.

#![recursion_limit = "256"]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Parser;
use gsil::Error;
use gsil::cli::{Cli, run};
use gsil::device::{error_of_panic, keep_freed_memory};

/// What the last panic said; the hook writes it, so that a panic is reported once and in our own words.
static PANIC_MESSAGE: Mutex<String> = Mutex::new(String::new());

fn main() -> ExitCode {
    keep_freed_memory();
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut message) = PANIC_MESSAGE.lock() {
            *message = info.to_string();
        }
    }));
    let code = match catch_unwind(AssertUnwindSafe(|| run(Cli::parse()))) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => report(&error),
        Err(_) => report_panic(&PANIC_MESSAGE.lock().map(|message| message.clone()).unwrap_or_default()),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn report(error: &Error) -> i32 {
    eprintln!("error: {error}");
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
    error.exit_code()
}

/// Graphics libraries report exhausted memory and lost devices by panicking; anything else is our own mistake.
fn report_panic(message: &str) -> i32 {
    match error_of_panic(message) {
        Some(error) => report(&error),
        None => {
            eprintln!("error: internal error, please report it\n{message}");
            1
        }
    }
}
