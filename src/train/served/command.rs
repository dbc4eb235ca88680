//! The command that makes a server serve a policy.

#[cfg(unix)]
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[cfg(unix)]
use nix::sys::signal::{Signal, killpg};
#[cfg(unix)]
use nix::unistd::Pid;

use super::PAUSE;
use crate::config::ServerConfig;
use crate::error::{Error, Result};
use crate::train::setup::Run;

/// Runs `on_policy_ready` with the policy's folder; what it prints goes to stderr. It is ended, with all that it started, if
/// it does not return in time, and by a signal that stops the run.
///
/// # Errors
/// [`Error::Config`] if it cannot be started, fails, or does not return; [`Error::Stopped`].
pub(super) fn run_command(run: &Run, config: &ServerConfig, iteration: usize, folder: &Path) -> Result<()> {
    let failed = |message: String| {
        Error::config("server.on_policy_ready", message)
            .with_hint("the command must start the server in the background and return; see docs/server.md")
    };
    let mut command = Command::new(&config.on_policy_ready[0]);
    command
        .args(&config.on_policy_ready[1..])
        .arg(folder)
        .env("GSIL_ITERATION", iteration.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()));
    #[cfg(unix)]
    command.process_group(0); // a shell that is ended alone would leave a server behind
    let mut child =
        command.spawn().map_err(|error| failed(format!("cannot start `{}`: {error}", config.on_policy_ready[0])))?;
    let (started, most) = (Instant::now(), Duration::from_secs(config.ready_timeout_s as u64));
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                run.stop.check()?; // what stops the run may have ended the command, too
                return Err(failed(format!("the command failed: {status}")));
            }
            Ok(None) => {}
            Err(error) => return Err(failed(format!("cannot wait for the command: {error}"))),
        }
        if run.stop.signal().is_some() {
            end(&mut child);
            return run.stop.check();
        }
        if started.elapsed() >= most {
            end(&mut child);
            let seconds = config.ready_timeout_s;
            return Err(failed(format!("the command did not return within {seconds} s (server.ready_timeout_s)")));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Ends the command and all that it started, by SIGTERM: what a shell starts in the background does not hear a Ctrl-C. Whether
/// they can still be ended changes nothing: the command is going to be run again.
fn end(child: &mut Child) {
    #[cfg(unix)]
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    let _ = child.kill();
}
