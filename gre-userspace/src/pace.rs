//! When changes in the kernel are followed: soon after the first, and in a storm of them at most once an interval.
//!
//! The daemon's loop asks it. A burst that belongs together (a route removed and added) is gathered; work that takes
//! long never follows itself without a pause in which the loop does everything else.

use std::time::Duration;

use tokio::time::Instant;

/// How long changes are collected before they are followed.
const GATHERING: Duration = Duration::from_millis(20);
/// Least time between the end of one work and the begin of the next.
const PAUSE: Duration = Duration::from_millis(200);

/// Whether there is something to follow, and from when on.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Pace {
    /// Something has changed.
    pub(crate) fn note(&mut self, now: Instant) {
        let rested = self.last.map_or(now, |last| last + PAUSE);
        self.due.get_or_insert(rested.max(now + GATHERING));
    }

    /// When to follow; `None` while nothing has changed.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// All changes up to now have been followed.
    pub(crate) fn done(&mut self, now: Instant) {
        self.due = None;
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_followed_at_once_and_a_storm_once_an_interval() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut followed = Vec::new();
        let mut changed = start;
        for millisecond in 0..2000 {
            let now = start + Duration::from_millis(millisecond);
            if millisecond < 1000 {
                pace.note(now);
                changed = now;
            }
            if pace.due().is_some_and(|due| due <= now) {
                pace.done(now);
                followed.push(now);
            }
        }
        assert_eq!(followed[0] - start, GATHERING);
        assert!(followed.windows(2).all(|pair| pair[1] - pair[0] >= PAUSE));
        assert_eq!(followed.len(), 6, "{followed:?}");
        assert!(followed[5] > changed, "the last change is followed, too");
        assert_eq!(pace.due(), None);
    }
}
