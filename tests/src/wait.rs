//! Waiting for something to become true, with a limit; the only place where the harness sleeps.

use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Whether `condition` becomes true within `limit`.
pub fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until `condition` is true and returns how long it took.
///
/// # Panics
/// If it is not true within `limit`; `what` completes the sentence "waited in vain until …".
#[track_caller]
pub fn expect_within(limit: Duration, what: &str, condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    assert!(
        until(limit, condition),
        "waited {limit:?} in vain until {what}"
    );
    start.elapsed()
}

/// Waits until `value` has returned the same thing for `quiet` (counters at rest, for instance) and returns it; at most
/// `limit`, after which the last value is returned.
pub fn settled<T: PartialEq>(quiet: Duration, limit: Duration, mut value: impl FnMut() -> T) -> T {
    let start = Instant::now();
    let mut last = value();
    let mut since = Instant::now();
    while since.elapsed() < quiet && start.elapsed() < limit {
        std::thread::sleep(POLL_INTERVAL);
        let now = value();
        if now != last {
            last = now;
            since = Instant::now();
        }
    }
    last
}
