//! The memory that compiled tables live in: a mapped BPF array, or plain memory in tests.
//!
//! The heap allocates from it, the builder writes into it, and [`View`] reads it as the kernel
//! does. Holds: every cell is an atomic of 32 bits, so that readers and the writer may meet.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use gre_common::fib::Store;
use memmap2::{MmapOptions, MmapRaw};

/// Memory for compiled tables, in cells of 32 bits in the machine's byte order.
///
/// The length never changes and is a power of two.
pub trait Memory {
    /// All cells.
    fn cells(&self) -> &[AtomicU32];
}

/// Plain memory, shared with readers by cloning.
impl Memory for Arc<[AtomicU32]> {
    fn cells(&self) -> &[AtomicU32] {
        self
    }
}

/// Makes plain memory of `bytes` bytes.
#[must_use]
pub fn plain(bytes: usize) -> Arc<[AtomicU32]> {
    (0..bytes / 4).map(|_| AtomicU32::new(0)).collect()
}

/// The value of a `BPF_F_MMAPABLE` array map with one element, mapped shared and writable.
pub struct MappedArray {
    mapping: MmapRaw,
}

impl MappedArray {
    /// Maps the first `bytes` bytes of the map behind `map`.
    ///
    /// Fails as mmap(2) does: `EINVAL` beyond the map's size, `ENOTSUPP` without `BPF_F_MMAPABLE`.
    pub fn new(map: impl AsFd, bytes: usize) -> io::Result<Self> {
        let mapping = MmapOptions::new()
            .len(bytes)
            .map_raw(map.as_fd().as_raw_fd())?;
        Ok(Self { mapping })
    }
}

impl Memory for MappedArray {
    fn cells(&self) -> &[AtomicU32] {
        let cells = self.mapping.as_mut_ptr().cast::<AtomicU32>();
        // SAFETY: the mapping is page-aligned, `len` bytes long, readable and writable as long as
        // `self` lives; others (the kernel, readers) only read it while this process has it.
        unsafe { std::slice::from_raw_parts(cells, self.mapping.len() / 4) }
    }
}

/// Reads compiled tables as the data plane does.
#[derive(Clone, Copy)]
pub struct View<'a> {
    cells: &'a [AtomicU32],
}

impl<'a> View<'a> {
    /// A view of `memory`.
    pub fn new(memory: &'a impl Memory) -> Self {
        Self {
            cells: memory.cells(),
        }
    }
}

impl Store for View<'_> {
    fn word(&self, offset: u64) -> u64 {
        let cell = (offset / 4) as usize & (self.cells.len() - 2);
        join(
            self.cells[cell].load(Ordering::Acquire),
            self.cells[cell + 1].load(Ordering::Acquire),
        )
    }

    fn half(&self, offset: u64) -> u32 {
        let cell = (offset / 4) as usize & (self.cells.len() - 1);
        self.cells[cell].load(Ordering::Acquire)
    }
}

/// Two neighbouring cells as the 64-bit word that a machine load at the first one gives.
pub(super) fn join(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// The inverse of [`join`].
pub(super) fn split(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
    ]
}
