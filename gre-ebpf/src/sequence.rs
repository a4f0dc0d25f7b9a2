//! Sequence numbers in a map, shared by all CPUs.
//!
//! BPF has atomic operations that return a value (Linux 5.12), which `core` does not offer for the target: they are
//! written as single instructions here, and nowhere else.

use core::cell::UnsafeCell;
use core::ptr;

use gre_common::tables::{SequenceCell, SequenceEntry};

/// A [`SequenceEntry`] that several CPUs change at once.
#[repr(C)]
pub(crate) struct Sequence {
    received: UnsafeCell<u64>,
    run: UnsafeCell<u64>,
    sent: UnsafeCell<u64>,
    reserved: u64,
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
        atomic::compare_exchange(&self.received, current, new) == current
    }

    #[inline(always)]
    fn run(&self) -> u64 {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(self.run.get()) }
    }

    #[inline(always)]
    fn set_run(&self, run: u64) {
        // SAFETY: as above; a volatile write is one store.
        unsafe { ptr::write_volatile(self.run.get(), run) }
    }

    #[inline(always)]
    fn next(&self) -> u32 {
        atomic::fetch_add(&self.sent, 1) as u32
    }
}

/// Atomic operations on the 8 aligned bytes of a cell; they return what was there.
#[cfg(target_arch = "bpf")]
mod atomic {
    use core::arch::asm;
    use core::cell::UnsafeCell;

    #[inline(always)]
    pub(super) fn compare_exchange(cell: &UnsafeCell<u64>, current: u64, new: u64) -> u64 {
        let mut found = current;
        // SAFETY: one instruction that compares and exchanges the cell, which is valid.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({cell} + 0, r0, {new})",
                cell = in(reg) cell.get(),
                new = in(reg) new,
                inout("r0") found,
            );
        }
        found
    }

    #[inline(always)]
    pub(super) fn fetch_add(cell: &UnsafeCell<u64>, number: u64) -> u64 {
        let mut found = number;
        // SAFETY: one instruction that adds to the cell, which is valid.
        unsafe {
            asm!(
                "{number} = atomic_fetch_add((u64 *)({cell} + 0), {number})",
                cell = in(reg) cell.get(),
                number = inout(reg) found,
            );
        }
        found
    }
}

/// The same for clippy and editors, which see this crate as a program of the host.
#[cfg(not(target_arch = "bpf"))]
mod atomic {
    use core::cell::UnsafeCell;
    use core::sync::atomic::{AtomicU64, Ordering};

    pub(super) fn compare_exchange(cell: &UnsafeCell<u64>, current: u64, new: u64) -> u64 {
        // SAFETY: the cell is aligned and accessed atomically only.
        let cell = unsafe { AtomicU64::from_ptr(cell.get()) };
        match cell.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(found) | Err(found) => found,
        }
    }

    pub(super) fn fetch_add(cell: &UnsafeCell<u64>, number: u64) -> u64 {
        // SAFETY: the cell is aligned and accessed atomically only.
        let cell = unsafe { AtomicU64::from_ptr(cell.get()) };
        cell.fetch_add(number, Ordering::SeqCst)
    }
}
