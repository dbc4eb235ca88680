//! The `gsil` command: parse, run, print an error with its hint, exit with its code.

#![recursion_limit = "256"]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Parser;
use gsil::cli::{Cli, run};
use gsil::device::keep_freed_memory;

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
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            error.exit_code()
        }
        Err(_) => report_panic(&PANIC_MESSAGE.lock().map(|message| message.clone()).unwrap_or_default()),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Graphics libraries report exhausted memory and lost devices by panicking; anything else is our own mistake.
fn report_panic(message: &str) -> i32 {
    let lower = message.to_lowercase();
    if ["out of memory", "can't allocate", "device lost", "poisoned", "buffertoobig"].iter().any(|s| lower.contains(s))
    {
        eprintln!("error: the device ran out of memory or was lost\n{message}");
        eprintln!(
            "hint: lower train.micro_batch_size, then generation.batch_size; set train.activation_checkpointing=true"
        );
        return 4;
    }
    eprintln!("error: internal error, please report it\n{message}");
    1
}
