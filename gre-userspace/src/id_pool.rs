//! Dense ids of entries that come and go while packets flow.
//!
//! Used for adjacencies, machines and tables of VLANs. A released id rests for a while before it is given out again, so that a packet
//! that has read it on its way meets no stranger's entry.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a released id rests; a packet spends microseconds in the data plane.
const REST: Duration = Duration::from_secs(1);

/// Ids from a first one up to a limit.
#[derive(Debug)]
pub(crate) struct IdPool {
    next: u32,
    limit: u32,
    resting: VecDeque<(Instant, u32)>,
}

impl IdPool {
    /// Ids from `first` to `limit` − 1.
    pub(crate) const fn new(first: u32, limit: u32) -> Self {
        Self {
            next: first,
            limit,
            resting: VecDeque::new(),
        }
    }

    /// An id that nobody has; `None` if all are taken or rest.
    pub(crate) fn allocate(&mut self, now: Instant) -> Option<u32> {
        if let Some((released, id)) = self.resting.front().copied()
            && now.saturating_duration_since(released) >= REST
        {
            self.resting.pop_front();
            return Some(id);
        }
        if self.next == self.limit {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// Takes an id back.
    pub(crate) fn release(&mut self, id: u32, now: Instant) {
        self.resting.push_back((now, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_ids_rest_before_they_return() {
        let start = Instant::now();
        let mut pool = IdPool::new(1, 3);
        assert_eq!(pool.allocate(start), Some(1));
        pool.release(1, start);
        assert_eq!(pool.allocate(start), Some(2));
        assert_eq!(pool.allocate(start), None);
        assert_eq!(pool.allocate(start + REST), Some(1));
    }
}
