//! When a request may be sent: so many a minute, and later after a failure.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The first wait after a failure; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait that is not the server's own wish.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The turns of all threads.
pub struct Pace {
    /// Between two requests.
    interval: Duration,
    /// No request before it.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// 0 requests a minute: no limit.
    pub fn new(requests_per_minute: usize) -> Self {
        let interval = match requests_per_minute {
            0 => Duration::ZERO,
            count => Duration::from_secs(60) / count as u32,
        };
        Pace { interval, next: Mutex::new(None) }
    }

    /// Takes the next turn: when the caller may send.
    pub fn turn(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + self.interval);
        turn
    }

    /// Nobody sends before this moment.
    pub fn hold(&self, until: Instant) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(next.map_or(until, |next| next.max(until)));
    }
}

/// The wait after the first, second, .. failure in a row: 0.5 s, 1 s, 2 s, .. 60 s.
pub fn backoff(num_failures: usize) -> Duration {
    let doublings = num_failures.saturating_sub(1).min(16) as u32;
    (FIRST_WAIT * 2u32.pow(doublings)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_evenly_spaced_and_an_idle_time_is_not_saved_up() {
        let (pace, start) = (Pace::new(120), Instant::now());
        let half = Duration::from_millis(500);
        assert_eq!([pace.turn(start), pace.turn(start), pace.turn(start)], [start, start + half, start + 2 * half]);
        let later = start + Duration::from_secs(60);
        assert_eq!([pace.turn(later), pace.turn(later)], [later, later + half]);
    }

    #[test]
    fn without_a_limit_every_turn_is_now_unless_the_server_asked_to_wait() {
        let (pace, start) = (Pace::new(0), Instant::now());
        assert_eq!([pace.turn(start), pace.turn(start)], [start, start]);
        let until = start + Duration::from_secs(7);
        pace.hold(until);
        pace.hold(start + Duration::from_secs(3)); // a shorter wish does not undo a longer one
        assert_eq!(pace.turn(start), until);
        let after = until + Duration::from_secs(1);
        assert_eq!(pace.turn(after), after);
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        let seconds: Vec<f64> = [1, 2, 3, 7, 8, 100].map(|n| backoff(n).as_secs_f64()).to_vec();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 32.0, 60.0, 60.0]);
    }
}
