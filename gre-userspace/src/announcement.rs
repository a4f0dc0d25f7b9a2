//! When the gateway announces its addresses on ports, unasked: three times, a second apart (RFC 5227 §2.3, RFC 4861
//! §7.2.6), after a port has appeared, been taken over, or got another layer-2 address.
//!
//! Machines and switches that still know an earlier holder of an address learn the new one by that. The groups that the
//! gateway listens to are reported with that, and again and again later: no query is waited for, and switches forget
//! who is silent for some minutes. Pure: the clock comes in; `solicitation` and `listener_report` make the frames.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gre_common::id::PortId;

/// Times that each address is announced.
const TIMES: u8 = 3;
/// Time between two of them.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between two reports of groups: several in the least time that switches are likely to remember them for.
const REPORT_INTERVAL: Duration = Duration::from_secs(20);
/// Most ports in one round; the others have their turn in the next ones.
const ROUND_LIMIT: usize = 256;

/// What is to be told on a port now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Addresses and groups.
    Announcement(PortId),
    /// Groups only.
    Report(PortId),
}

/// What is still to be told on each port.
#[derive(Debug, Default)]
pub struct Schedule(BTreeMap<PortId, Turn>);

#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Announcements that are left.
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

    /// What is to be told now. A port on which that is not possible (`is_ready`) waits until it is.
    pub fn due(&mut self, now: Instant, is_ready: impl Fn(PortId) -> bool) -> Vec<Due> {
        let due = self.0.iter_mut();
        due.filter(|(port, turn)| turn.next <= now && is_ready(**port))
            .take(ROUND_LIMIT)
            .map(|(port, turn)| turn.take(*port, now))
            .collect()
    }

    /// Forgets ports that are no more.
    pub fn retain(&mut self, exists: impl Fn(PortId) -> bool) {
        self.0.retain(|port, _| exists(*port));
    }
}

impl Turn {
    fn take(&mut self, port: PortId, now: Instant) -> Due {
        if self.left == 0 {
            self.next = now + REPORT_INTERVAL;
            return Due::Report(port);
        }
        self.left -= 1;
        self.next = now
            + if self.left > 0 {
                INTERVAL
            } else {
                REPORT_INTERVAL
            };
        Due::Announcement(port)
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
                schedule.due(now, |_| is_ready) == [Due::Announcement(PORT)]
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
    fn groups_are_reported_as_long_as_the_port_is_there() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.begin(PORT, now);
        assert_eq!(times(&mut schedule, now, true).len(), 3);
        for minute in 1..9 {
            let now = now + Duration::from_secs(60 * minute);
            assert_eq!(schedule.due(now, |_| true), [Due::Report(PORT)]);
            assert!(schedule.due(now + INTERVAL, |_| true).is_empty());
        }
    }

    #[test]
    fn a_port_whose_device_is_down_is_announced_when_it_comes_up_and_begins_anew_when_it_changes() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.begin(PORT, now);
        assert!(times(&mut schedule, now, false).is_empty());
        assert_eq!(schedule.due(now, |_| true), [Due::Announcement(PORT)]);
        schedule.begin(PORT, now);
        assert_eq!(times(&mut schedule, now, true).len(), 3);
        schedule.begin(PORT, now);
        schedule.retain(|_| false);
        assert!(times(&mut schedule, now, true).is_empty());
    }
}
