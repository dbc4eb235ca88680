//! Ctrl-C and SIGTERM: the first asks for a stop after the work in hand, a second one ends the process at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Result};

/// Whether somebody asked to stop.
#[derive(Debug, Clone, Default)]
pub struct StopRequest(Arc<AtomicUsize>);

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
        for signal in [SIGINT, SIGTERM] {
            let seen_before = Arc::new(AtomicBool::new(false));
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&seen_before))
                .and_then(|_| flag::register(signal, seen_before))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&request.0), signal as usize))
                .map_err(|error| Error::usage(format!("cannot listen to signals: {error}")))?;
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
        self.signal().map_or(Ok(()), |signal| Err(Error::Stopped { signal }))
    }
}
