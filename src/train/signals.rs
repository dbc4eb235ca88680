//! Ctrl-C, SIGTERM and, on Linux, a terminal that is closed (SIGHUP): the first asks for a stop after the work in hand. A second
//! Ctrl-C ends the process at once. A SIGHUP that is ignored, as `nohup` has it, stays so.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

#[cfg(target_os = "linux")]
use signal_hook::consts::SIGHUP;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Result};

/// Whether somebody asked to stop.
#[derive(Debug, Clone, Default)]
pub struct StopRequest(Arc<AtomicUsize>);

/// What ends a run after it has saved.
fn signals() -> impl Iterator<Item = i32> {
    [SIGINT, SIGTERM].into_iter().chain(hang_up())
}

/// The signal of a terminal that is closed; none where the system does not tell whether it is to be ignored.
#[cfg(target_os = "linux")]
fn hang_up() -> Option<i32> {
    (!is_ignored(SIGHUP)).then_some(SIGHUP)
}

#[cfg(not(target_os = "linux"))]
fn hang_up() -> Option<i32> {
    None
}

/// Whether the process was started with the signal switched off.
#[cfg(target_os = "linux")]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

impl StopRequest {
    /// Listens to the process's signals from now on. Signals are the process's: all callers share one request.
    ///
    /// # Errors
    /// [`Error::Usage`] if the system refuses.
    pub fn listen() -> Result<Self> {
        static REQUEST: OnceLock<StopRequest> = OnceLock::new();
        if let Some(request) = REQUEST.get() {
            return Ok(request.clone());
        }
        let request = StopRequest::default();
        let refused = |error: std::io::Error| Error::usage(format!("cannot listen to signals: {error}"));
        // Only a person's Ctrl-C is urgent when repeated: `timeout` sends its SIGTERM twice, a closed terminal its SIGHUP, and
        // who would end a program by force has SIGKILL.
        let seen_before = Arc::new(AtomicBool::new(false));
        flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, Arc::clone(&seen_before))
            .and_then(|_| flag::register(SIGINT, seen_before))
            .map_err(refused)?;
        for signal in signals() {
            flag::register_usize(signal, Arc::clone(&request.0), signal as usize).map_err(refused)?;
        }
        Ok(REQUEST.get_or_init(|| request).clone())
    }

    /// The signal that came, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// [`Error::Stopped`] if a signal came. For moments at which nothing needs saving.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self) -> Result<()> {
        self.signal().map_or(Ok(()), |signal| Err(Error::Stopped { signal, hint: None }))
    }
}
