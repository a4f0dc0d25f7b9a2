//! Waiting until something has happened. Nothing else in the harness sleeps, but a stream that keeps its pace.
//!
//! A test waits for an event and never for a time: no verdict depends on how long anything took.

use std::time::{Duration, Instant};

/// After so long a wait is given up. This is a guard against hanging and no verdict: what a test waits for takes seconds
/// at most, on an emulated processor beside other work a minute.
pub const PATIENCE: Duration = Duration::from_secs(180);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Whether `condition` has become true, which is asked again and again until then.
pub fn until(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
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

/// Waits until `condition` is true.
///
/// # Panics
/// If it never is; `what` completes the sentence "waited in vain until …".
#[track_caller]
pub fn expect(what: &str, condition: impl FnMut() -> bool) {
    assert!(until(condition), "waited in vain until {what}");
}
