//! The receiver's side of sequence numbers (RFC 2890 §2.2).
//!
//! A packet is accepted if its number is one of the [`WINDOW`] behind that of the last accepted one, in the arithmetic of
//! RFC 1982. Nobody vouches for a number, so one that is elsewhere says little: it may be forged, or the sender has
//! started again. It is believed once [`RUN`] packets in turn say the same while none is accepted, or when nothing was
//! accepted for [`RESYNCHRONISE_AFTER`]; what is heard after a silence counts for nothing until a second packet agrees.

use crate::tables::SequenceCell;
use crate::verdict::DropReason;

/// Nanoseconds without an accepted packet after which any number is accepted.
pub const RESYNCHRONISE_AFTER: u64 = 2_000_000_000;
/// How far ahead a packet may be of the last accepted one, and of the one before it in a run.
pub const WINDOW: u32 = 1 << 16;
/// Packets in turn that make a number elsewhere believed.
pub const RUN: u64 = 16;

/// Bit 63 of the state: a packet has been accepted. Bit 62: it was the first, in order, or the last of a run. Bits 32–61:
/// when, in units of 2²⁰ ns. Bits 0–31: its number.
const VALID: u64 = 1 << 63;
const CONFIRMED: u64 = 1 << 62;
const TIME_SHIFT: u32 = 20;
const TIME_MASK: u64 = 0x3fff_ffff;

/// Bits 60–63 of a run: how many packets. Bits 32–59: the lower bits of the number accepted last, while which they came.
/// Bits 0–31: the number of the last one.
const RUN_SHIFT: u32 = 60;
const RUN_MASK: u64 = 0x0fff_ffff;
const _: () = assert!(RUN <= 1 << (64 - RUN_SHIFT));

/// How often a lost race against another CPU is tried again.
const ATTEMPTS: usize = 4;

/// The same state, as if its packet had been accepted now.
pub const fn accepted_at(state: u64, now: u64) -> u64 {
    state & !(TIME_MASK << 32) | time_of(now) << 32
}

/// Accepts the number or tells why not; the cell then remembers it.
#[inline(always)]
pub(super) fn accept<C: SequenceCell>(cell: &C, number: u32, now: u64) -> Result<(), DropReason> {
    let time = time_of(now);
    for _ in 0..ATTEMPTS {
        let current = cell.load();
        let confirmed = if current & VALID == 0 || follows(number, current as u32) {
            CONFIRMED
        } else {
            match elsewhere(cell, current, number, time) {
                UNCONFIRMED => 0,
                BELIEVED => CONFIRMED,
                JUMP => return Err(DropReason::SequenceJump),
                _ => return Err(DropReason::SequenceOld),
            }
        };
        if cell.replace(current, VALID | confirmed | time << 32 | u64::from(number)) {
            return Ok(());
        }
    }
    Err(DropReason::SequenceOld)
}

/// What becomes of a number that does not follow: plain numbers, as the result of a function of its own.
const OLD: u64 = 0;
const JUMP: u64 = 1;
const UNCONFIRMED: u64 = 2;
const BELIEVED: u64 = 3;

/// Judges a number that does not follow. Out of line: there are few.
#[inline(never)]
fn elsewhere<C: SequenceCell>(cell: &C, state: u64, number: u32, time: u64) -> u64 {
    let last = state as u32;
    if may_start(state, number, time) {
        UNCONFIRMED
    } else if completes_run(cell, last, number) {
        BELIEVED
    } else if is_newer(number, last) {
        JUMP
    } else {
        OLD
    }
}

#[inline(always)]
const fn time_of(now: u64) -> u64 {
    (now >> TIME_SHIFT) & TIME_MASK
}

#[inline(always)]
const fn follows(number: u32, last: u32) -> bool {
    number.wrapping_sub(last).wrapping_sub(1) < WINDOW
}

/// RFC 1982 §3.2.
#[inline(always)]
const fn is_newer(number: u32, last: u32) -> bool {
    number.wrapping_sub(last) as i32 > 0
}

/// Whether a number that does not follow is accepted at once: nobody is there whom it contradicts.
#[inline(always)]
const fn may_start(state: u64, number: u32, time: u64) -> bool {
    let silence = time.wrapping_sub(state >> 32) & TIME_MASK;
    let is_late = (state as u32).wrapping_sub(number) < WINDOW;
    // More than half of what fits is a clock that is behind: the packet before was another CPU's.
    let is_silent = silence >= RESYNCHRONISE_AFTER >> TIME_SHIFT && silence <= TIME_MASK / 2;
    is_silent || state & CONFIRMED == 0 && !is_late
}

/// Takes note of a number that does not follow. A race loses one packet of the run, which then takes longer.
#[inline(always)]
fn completes_run<C: SequenceCell>(cell: &C, last: u32, number: u32) -> bool {
    let run = cell.run();
    let length = run >> RUN_SHIFT;
    let place = u64::from(last) & RUN_MASK;
    let goes_on = run >> 32 & RUN_MASK == place && follows(number, run as u32);
    let length = if length > 0 && goes_on { length + 1 } else { 1 };
    if length >= RUN {
        return true;
    }
    cell.set_run(length << RUN_SHIFT | place << 32 | u64::from(number));
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[derive(Default)]
    struct Cell {
        state: AtomicU64,
        run: AtomicU64,
    }

    impl SequenceCell for Cell {
        fn load(&self) -> u64 {
            self.state.load(Relaxed)
        }
        fn replace(&self, current: u64, new: u64) -> bool {
            self.state
                .compare_exchange(current, new, Relaxed, Relaxed)
                .is_ok()
        }
        fn run(&self) -> u64 {
            self.run.load(Relaxed)
        }
        fn set_run(&self, run: u64) {
            self.run.store(run, Relaxed);
        }
        fn next(&self) -> u32 {
            unreachable!("the receiver does not send")
        }
    }

    #[test]
    fn repeats_and_older_numbers_are_refused() {
        let cell = Cell::default();
        for number in [0, 1, 5, 6] {
            assert_eq!(accept(&cell, number, 10), Ok(()));
        }
        for number in [6, 5, 0, u32::MAX] {
            assert_eq!(accept(&cell, number, 11), Err(DropReason::SequenceOld));
        }
    }

    #[test]
    fn numbers_wrap() {
        let cell = Cell::default();
        for number in [u32::MAX - 1, u32::MAX, 0, 1] {
            assert_eq!(accept(&cell, number, 10), Ok(()));
        }
    }

    #[test]
    fn a_sender_that_starts_again_is_heard_after_a_silence() {
        let cell = Cell::default();
        assert_eq!(accept(&cell, 1_000_000, 0), Ok(()));
        assert_eq!(
            accept(&cell, 0, RESYNCHRONISE_AFTER / 2),
            Err(DropReason::SequenceOld)
        );
        assert_eq!(accept(&cell, 1, RESYNCHRONISE_AFTER), Ok(()));
        assert_eq!(
            accept(&cell, 1, RESYNCHRONISE_AFTER),
            Err(DropReason::SequenceOld)
        );
    }

    const SECOND: u64 = 1_000_000_000;

    /// Runs packets, each with its time, through a cell; how many were accepted.
    fn accepted(cell: &Cell, packets: impl Iterator<Item = (u64, u32)>) -> usize {
        packets
            .filter(|(now, number)| accept(cell, *number, *now).is_ok())
            .count()
    }

    #[test]
    fn one_forged_packet_now_and_then_stops_nothing() {
        for (distance, interval) in [
            (1_u32 << 20, 10),
            (1 << 20, 3000),
            (1 << 31, 300),
            (60_000, 10),
        ] {
            let cell = Cell::default();
            let mut lost = 0;
            let mut forgeries = 0;
            let mut next_forgery = 5 * SECOND;
            for number in 0..10_000_u32 {
                let now = u64::from(number) * interval * 1_000_000;
                if now >= next_forgery {
                    let _ = accept(&cell, number.wrapping_add(distance), now);
                    next_forgery = now + 19 * SECOND / 10;
                    forgeries += 1;
                }
                lost += usize::from(accept(&cell, number, now).is_err());
            }
            assert!(forgeries > 10);
            assert!(
                lost <= forgeries * (RUN as usize),
                "{distance} each {interval} ms: {lost}"
            );
            if distance > WINDOW {
                assert_eq!(lost, 0, "{distance} each {interval} ms");
            }
        }
    }

    #[test]
    fn a_jump_is_believed_once_a_run_of_packets_confirms_it() {
        let cell = Cell::default();
        accepted(&cell, (0..9).map(|number| (0, number)));
        let jump = 5_000_000;
        assert_eq!(accept(&cell, jump, 1), Err(DropReason::SequenceJump));
        let rest = (1..100).map(|number| (1, jump + number));
        assert_eq!(accepted(&cell, rest), 101 - RUN as usize);
        assert_eq!(accept(&cell, jump, 1), Err(DropReason::SequenceOld));
    }

    #[test]
    fn a_sender_that_starts_again_is_heard_after_a_run_without_a_silence() {
        let cell = Cell::default();
        accepted(&cell, (1_000_000..1_000_010).map(|number| (0, number)));
        let restarted = (0..100).map(|number| (0, number));
        assert_eq!(accepted(&cell, restarted), 101 - RUN as usize);
    }

    #[test]
    fn a_run_ends_with_any_packet_that_is_accepted() {
        let cell = Cell::default();
        accepted(&cell, (0..9).map(|number| (0, number)));
        let forged = (0..10 * RUN as u32).map(|number| 7_000_000 + number);
        let mixed = forged
            .zip(9..)
            .enumerate()
            .map(|(turn, (forged, sent))| (0, if turn % 8 == 7 { sent } else { forged }));
        assert_eq!(accepted(&cell, mixed), 10 * RUN as usize / 8);
    }
}
