//! When the gateway announces its addresses on ports, unasked: three times, a second apart (RFC 5227 §2.3, RFC 4861
//! §7.2.6), after a port has appeared, been taken over, or got another layer-2 address.
//!
//! Machines and switches that still know an earlier holder of an address learn the new one by that. Pure: the clock
//! comes in; `solicitation` makes the frames.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gre_common::id::PortId;

/// Times that each address is announced.
const TIMES: u8 = 3;
/// Time between two of them.
const INTERVAL: Duration = Duration::from_secs(1);
/// Most ports in one round; the others have their turn in the next ones.
const ROUND_LIMIT: usize = 256;

/// The ports whose addresses are still to be announced.
#[derive(Debug, Default)]
pub struct Schedule(BTreeMap<PortId, Turn>);

#[derive(Clone, Copy, Debug)]
struct Turn {
    left: u8,
    next: Instant,
}

impl Schedule {
    /// Begins with a port, from the first time on even if it has had some.
    pub fn begin(&mut self, port: PortId, now: Instant) {
        let turn = Turn {
            left: TIMES,
            next: now,
        };
        self.0.insert(port, turn);
    }

    /// The ports that are to be announced now. One that cannot be (`is_ready`) waits until it can.
    pub fn due(&mut self, now: Instant, is_ready: impl Fn(PortId) -> bool) -> Vec<PortId> {
        let due = self.0.iter_mut();
        let due: Vec<PortId> = due
            .filter(|(port, turn)| turn.next <= now && is_ready(**port))
            .take(ROUND_LIMIT)
            .map(|(port, turn)| {
                turn.left -= 1;
                turn.next = now + INTERVAL;
                *port
            })
            .collect();
        self.0.retain(|_, turn| turn.left > 0);
        due
    }

    /// Forgets ports that are no more.
    pub fn retain(&mut self, exists: impl Fn(PortId) -> bool) {
        self.0.retain(|port, _| exists(*port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(7);

    fn times(schedule: &mut Schedule, from: Instant, is_ready: bool) -> Vec<u64> {
        let rounds = (0..40).map(|round| round * 300);
        rounds
            .filter(|after| {
                let now = from + Duration::from_millis(*after);
                schedule.due(now, |_| is_ready) == [PORT]
            })
            .collect()
    }

    #[test]
    fn a_port_is_announced_three_times_with_a_second_between() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.begin(PORT, now);
        assert_eq!(times(&mut schedule, now, true), [0, 1200, 2400]);
        assert!(times(&mut schedule, now, true).is_empty());
    }

    #[test]
    fn a_port_whose_device_is_down_is_announced_when_it_comes_up_and_begins_anew_when_it_changes() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.begin(PORT, now);
        assert!(times(&mut schedule, now, false).is_empty());
        assert_eq!(schedule.due(now, |_| true), [PORT]);
        schedule.begin(PORT, now);
        assert_eq!(times(&mut schedule, now, true).len(), 3);
        schedule.begin(PORT, now);
        schedule.retain(|_| false);
        assert!(times(&mut schedule, now, true).is_empty());
    }
}
