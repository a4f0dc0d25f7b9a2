//! How much of the ring buffer `EVENTS` one port may take, so that who floods a port silences that port and no other.
//!
//! Spent by [`crate::tables::Tables::emit`], in the kernel from one cell for each port and CPU. Events beyond the budget
//! are not sent and not counted: each comes again with the next packet or question that gives cause for it, and a packet
//! for an unresolved machine is counted as a drop of its port either way.

use crate::limits;

/// What one port has sent in the current tick. All zero: nothing yet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventBudget(
    /// The tick, in units of 2²³ ns, above the lowest 8 bits, which count its events.
    u64,
);

/// A tick is 8.4 ms, no shorter than the steps of the coarse clock but where that takes 10 ms (`CONFIG_HZ` 100).
const TICK_SHIFT: u32 = 23;
const SPENT_BITS: u32 = 8;
const SPENT_MASK: u64 = (1 << SPENT_BITS) - 1;

impl EventBudget {
    /// Events in one tick: 3 000 to 3 800 machines a second on each CPU, while a port has at most 4 096. So much of 800
    /// ports at once finds room before the daemon has read any of it.
    pub const EVENTS: u64 = 32;
    /// The same while the daemon lags behind.
    pub const EVENTS_WHEN_LATE: u64 = 1;
    /// Unread bytes from which on it does: the rest of the buffer is for ports that have hardly said anything.
    pub const LATE: u64 = limits::EVENTS_BYTES as u64 / 2;

    /// Takes one event out of the budget, or tells that it is spent. `now` is [`crate::tables::Tables::now`], `unread`
    /// are the bytes that the daemon has not read yet.
    #[inline(always)]
    pub const fn spend(&mut self, now: u64, unread: u64) -> bool {
        let tick = now >> TICK_SHIFT;
        let spent = if self.0 >> SPENT_BITS == tick {
            self.0 & SPENT_MASK
        } else {
            0
        };
        let allowed = if unread < Self::LATE {
            Self::EVENTS
        } else {
            Self::EVENTS_WHEN_LATE
        };
        let is_left = spent < allowed;
        if is_left {
            self.0 = tick << SPENT_BITS | (spent + 1);
        }
        is_left
    }
}

const _: () = assert!(EventBudget::EVENTS <= SPENT_MASK);

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 1 << TICK_SHIFT;
    /// A record of `EVENTS` with the header that the kernel puts before it.
    const RECORD: u64 = size_of::<crate::event::Event>() as u64 + 8;

    /// How many of `tries` events get through at one time.
    fn told(budget: &mut EventBudget, tries: u64, now: u64, unread: u64) -> u64 {
        (0..tries)
            .map(|_| u64::from(budget.spend(now, unread)))
            .sum()
    }

    #[test]
    fn a_tick_has_its_events_and_the_next_one_has_them_again() {
        let mut budget = EventBudget::default();
        for tick in [0, 1, 2, 1000, 1 << 40] {
            let start = tick * TICK;
            assert_eq!(told(&mut budget, 20, start, 0), 20);
            assert_eq!(told(&mut budget, 1000, start + TICK - 1, 0), 12);
        }
    }

    #[test]
    fn what_was_not_spent_is_not_saved() {
        let mut budget = EventBudget::default();
        assert_eq!(told(&mut budget, 1000, 5 * TICK, 0), EventBudget::EVENTS);
        assert_eq!(told(&mut budget, 1000, 99 * TICK, 0), EventBudget::EVENTS);
    }

    #[test]
    fn one_port_tells_of_thousands_of_machines_a_second_whatever_the_steps_of_the_clock() {
        for step in [1_000_000, 4_000_000, 10_000_000] {
            let mut budget = EventBudget::default();
            let steps = 1_000_000_000 / step;
            let told: u64 = (0..steps)
                .map(|number| told(&mut budget, 1000, number * step, 0))
                .sum();
            assert!((3000..4000).contains(&told), "{told} with steps of {step}");
        }
    }

    #[test]
    fn a_port_that_says_little_is_heard_while_a_thousand_others_flood() {
        const DAEMON_READS: u64 = 150_000;
        let mut flooding = [EventBudget::default(); 1000];
        let mut quiet = EventBudget::default();
        let mut unread = 0;
        for tick in 0..500 {
            let now = tick * TICK;
            for budget in &mut flooding {
                unread += RECORD * told(budget, EventBudget::EVENTS + 1, now, unread);
            }
            assert!(quiet.spend(now, unread), "tick {tick}");
            unread += RECORD;
            assert!(unread < limits::EVENTS_BYTES as u64, "tick {tick}");
            unread = unread.saturating_sub(RECORD * DAEMON_READS * TICK / 1_000_000_000);
        }
        assert!(unread > EventBudget::LATE / 2, "they do flood: {unread}");
    }

    #[test]
    fn a_port_that_has_spent_much_is_silent_once_the_daemon_lags_behind() {
        let mut budget = EventBudget::default();
        assert_eq!(told(&mut budget, 5, 0, EventBudget::LATE - 1), 5);
        assert_eq!(told(&mut budget, 5, 0, EventBudget::LATE), 0);
        assert_eq!(told(&mut budget, 5, TICK, EventBudget::LATE), 1);
    }
}
