//! The `gsil` command: parse, run, print an error with its hint, exit with its code.

#![recursion_limit = "256"]

use std::process::ExitCode;

use gsil::cli::{failure, parse, run};
use gsil::device::keep_freed_memory;
use gsil::report::console::talk;

fn main() -> ExitCode {
    keep_freed_memory();
    failure::record_panics();
    let code = match failure::catch(|| run(parse(std::env::args_os())?)) {
        Ok(()) => 0,
        Err(failure) => {
            talk(&failure.text);
            failure.exit_code
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
