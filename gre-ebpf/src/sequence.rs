//! Sequence numbers in a map, shared by all CPUs.
//!
//! BPF has atomic operations that return a value (Linux 5.12), which `core` does not offer for the target: they are
//! written as single instructions here, and nowhere else.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::ptr;

use gre_common::tables::{SequenceCell, SequenceEntry};

/// A [`SequenceEntry`] that several CPUs change at once.
#[repr(C)]
pub(crate) struct Sequence {
    received: UnsafeCell<u64>,
    sent: UnsafeCell<u64>,
}

const _: () = assert!(size_of::<Sequence>() == size_of::<SequenceEntry>());

// SAFETY: all access is by single loads and atomic instructions.
unsafe impl Sync for Sequence {}

impl SequenceCell for Sequence {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the cell is aligned and lives in a map; a volatile read is one load.
        unsafe { ptr::read_volatile(self.received.get()) }
    }

    #[inline(always)]
    fn replace(&self, current: u64, new: u64) -> bool {
        let mut found = current;
        // SAFETY: compares and exchanges the 8 aligned bytes of the cell.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({cell} + 0, r0, {new})",
                cell = in(reg) self.received.get(),
                new = in(reg) new,
                inout("r0") found,
            );
        }
        found == current
    }

    #[inline(always)]
    fn next(&self) -> u32 {
        let mut number = 1u64;
        // SAFETY: adds to the 8 aligned bytes of the cell and fetches what was there.
        unsafe {
            asm!(
                "{number} = atomic_fetch_add((u64 *)({cell} + 0), {number})",
                cell = in(reg) self.sent.get(),
                number = inout(reg) number,
            );
        }
        number as u32
    }
}
