//! The receiver's side of sequence numbers (RFC 2890 §2.2).
//!
//! A packet is accepted if its number is newer than that of the last accepted one, in the arithmetic of RFC 1982. A
//! sender that starts again at 0 would be refused for 2³¹ packets; so when nothing was accepted for
//! [`RESYNCHRONISE_AFTER`], the next number is accepted whatever it is.

use crate::tables::SequenceCell;
use crate::verdict::DropReason;

/// Nanoseconds without an accepted packet after which any number is accepted.
pub const RESYNCHRONISE_AFTER: u64 = 2_000_000_000;

/// Bit 63 of the state: a packet has been accepted. Bits 32–62: when, in units of 2²⁰ ns. Bits 0–31: its number.
const VALID: u64 = 1 << 63;
const TIME_SHIFT: u32 = 20;
const TIME_MASK: u64 = 0x7fff_ffff;

/// How often a lost race against another CPU is tried again.
const ATTEMPTS: usize = 4;

/// The state once this number has been accepted.
pub const fn accepted(number: u32, now: u64) -> u64 {
    state(number, time_of(now))
}

/// Accepts the number or tells why not; the cell then remembers it.
#[inline(always)]
pub(super) fn accept<C: SequenceCell>(cell: &C, number: u32, now: u64) -> Result<(), DropReason> {
    let time = time_of(now);
    for _ in 0..ATTEMPTS {
        let current = cell.load();
        if !is_acceptable(current, number, time) {
            break;
        }
        if cell.replace(current, state(number, time)) {
            return Ok(());
        }
    }
    Err(DropReason::SequenceOld)
}

#[inline(always)]
const fn time_of(now: u64) -> u64 {
    (now >> TIME_SHIFT) & TIME_MASK
}

#[inline(always)]
const fn state(number: u32, time: u64) -> u64 {
    VALID | time << 32 | number as u64
}

#[inline(always)]
fn is_acceptable(state: u64, number: u32, time: u64) -> bool {
    let last = state as u32;
    let silence = time.wrapping_sub(state >> 32) & TIME_MASK;
    state & VALID == 0
        || (number.wrapping_sub(last) as i32) > 0
        || silence >= RESYNCHRONISE_AFTER >> TIME_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[derive(Default)]
    struct Cell(AtomicU64);

    impl SequenceCell for Cell {
        fn load(&self) -> u64 {
            self.0.load(Relaxed)
        }
        fn replace(&self, current: u64, new: u64) -> bool {
            self.0
                .compare_exchange(current, new, Relaxed, Relaxed)
                .is_ok()
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
}
