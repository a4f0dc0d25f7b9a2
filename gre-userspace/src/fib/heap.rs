//! Allocation of blocks in the memory of compiled tables.
//!
//! The builder takes blocks for new nodes and retires those it replaced. Memory is cut into spans
//! of one block size each; an empty span serves any size again. Holds: a retired block is handed
//! out again only after a grace period, since a packet may still be reading it; some spans are
//! kept back for changes that only remove routes, so that a full store can be emptied.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use super::FibError;
use super::grace::GracePeriod;
use super::memory::{Memory, View};

/// Bytes of a span.
const SPAN: u32 = 16 * 1024;
/// Blocks begin at multiples of this within their span, in bytes.
const GRAIN: u32 = 16;
/// One span in so many is kept for changes that only remove.
const RESERVE: u32 = 32;
/// The block sizes, in bytes. Blocks of more than the last get spans of their own. Since spans
/// begin at multiples of their size, a block whose size is a power of two begins at a multiple of
/// that: up to a cache line, none lies in two. Others from 320 bytes on are whole cache lines.
const CLASSES: [u32; 26] = [
    16, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512, 640, 768, 896, 1024, 1280,
    1536, 1792, 2048, 2560, 3200, 4096, 8192,
];

/// A block: offset and size in bytes, the size as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

/// The allocator.
pub(super) struct Heap<M, G> {
    memory: M,
    grace: G,
    spans: Vec<Span>,
    empty: BTreeSet<u32>,
    /// Spans with some free and some used blocks, for each class.
    partial: [BTreeSet<u32>; CLASSES.len()],
    retired: Vec<Block>,
    retired_bytes: u64,
    used_bytes: u64,
}

/// What a span is cut into.
#[derive(Clone)]
enum Span {
    Empty,
    /// Blocks of one class; a set bit is a used block.
    Blocks {
        class: usize,
        used: u32,
        bits: Box<[u64]>,
    },
    /// Part of a block of several spans.
    Large,
}

impl<M: Memory, G: GracePeriod> Heap<M, G> {
    pub(super) fn new(memory: M, grace: G) -> Result<Self, FibError> {
        let bytes = memory.cells().len() as u64 * 4;
        if !bytes.is_power_of_two() || !(1 << 16..=1 << 29).contains(&bytes) {
            return Err(FibError::StoreSize { bytes });
        }
        let spans = bytes as u32 / SPAN;
        Ok(Self {
            memory,
            grace,
            spans: vec![Span::Empty; spans as usize],
            empty: (0..spans).collect(),
            partial: Default::default(),
            retired: Vec::new(),
            retired_bytes: 0,
            used_bytes: 0,
        })
    }

    pub(super) fn cells(&self) -> &[AtomicU32] {
        self.memory.cells()
    }

    pub(super) fn view(&self) -> View<'_> {
        View::new(&self.memory)
    }

    /// Bytes in use, those that wait for a grace period included.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Bytes of the whole memory.
    pub(super) fn size(&self) -> u64 {
        self.cells().len() as u64 * 4
    }

    /// A block of at least `bytes` bytes, aligned to 8, with garbage in it. `removes` tells that
    /// it is for a change that only removes routes.
    pub(super) fn allocate(&mut self, bytes: u32, removes: bool) -> Result<Block, FibError> {
        let reserve = if removes {
            0
        } else {
            self.spans.len() / RESERVE as usize
        };
        if let Some(offset) = self.take(bytes, reserve) {
            return Ok(Block { offset, bytes });
        }
        self.reclaim()?;
        let offset = self.take(bytes, reserve).ok_or(FibError::StoreFull {
            needed: bytes,
            used: self.used_bytes,
            size: self.size(),
        })?;
        Ok(Block { offset, bytes })
    }

    /// Gives back a block that no reader has ever seen.
    pub(super) fn release(&mut self, block: Block) {
        let index = block.offset / SPAN;
        match &mut self.spans[index as usize] {
            Span::Empty => unreachable!("a block lies in a span that is in use"),
            Span::Large => {
                let spans = block.bytes.div_ceil(SPAN);
                for span in index..index + spans {
                    self.spans[span as usize] = Span::Empty;
                    self.empty.insert(span);
                }
                self.used_bytes -= u64::from(spans * SPAN);
            }
            Span::Blocks { class, used, bits } => {
                let class = *class;
                let slot = block.offset % SPAN / CLASSES[class];
                bits[slot as usize / 64] &= !(1 << (slot % 64));
                *used -= 1;
                if *used == 0 {
                    self.spans[index as usize] = Span::Empty;
                    self.partial[class].remove(&index);
                    self.empty.insert(index);
                } else {
                    self.partial[class].insert(index);
                }
                self.used_bytes -= u64::from(CLASSES[class]);
            }
        }
    }

    /// Gives back blocks that have just been unlinked, for use after a grace period.
    pub(super) fn retire(&mut self, blocks: impl IntoIterator<Item = Block>) {
        for block in blocks {
            self.retired_bytes += u64::from(footprint(block.bytes));
            self.retired.push(block);
        }
    }

    /// Whether so much waits for a grace period that it should be reclaimed.
    pub(super) fn is_littered(&self) -> bool {
        self.retired_bytes > self.size() / 8
    }

    /// Waits for a grace period and takes back all that is retired. If waiting fails, the blocks
    /// stay retired.
    pub(super) fn reclaim(&mut self) -> Result<(), FibError> {
        if self.retired.is_empty() {
            return Ok(());
        }
        self.grace.wait().map_err(FibError::GracePeriod)?;
        for block in std::mem::take(&mut self.retired) {
            self.release(block);
        }
        self.retired_bytes = 0;
        Ok(())
    }

    /// Takes a block, but leaves `reserve` spans empty.
    fn take(&mut self, bytes: u32, reserve: usize) -> Option<u32> {
        let available = self.empty.len().saturating_sub(reserve);
        let Some(class) = class_of(bytes) else {
            let spans = bytes.div_ceil(SPAN);
            return (spans as usize <= available)
                .then(|| self.take_spans(spans))
                .flatten();
        };
        if let Some(&index) = self.partial[class].first() {
            return Some(self.take_block(index));
        }
        if available > 0 {
            let index = self.cut_span(class)?;
            return Some(self.take_block(index));
        }
        // A larger block than needed is better than none.
        let &index = self.partial[class..].iter().find_map(BTreeSet::first)?;
        Some(self.take_block(index))
    }

    fn take_block(&mut self, index: u32) -> u32 {
        let Span::Blocks { class, used, bits } = &mut self.spans[index as usize] else {
            unreachable!("a partial span is cut into blocks");
        };
        let class = *class;
        let (word, free) = bits
            .iter_mut()
            .enumerate()
            .find(|(_, word)| **word != u64::MAX)
            .expect("a partial span has a free block");
        let slot = word as u32 * 64 + free.trailing_ones();
        *free |= 1 << (slot % 64);
        *used += 1;
        if *used == SPAN / CLASSES[class] {
            self.partial[class].remove(&index);
        }
        self.used_bytes += u64::from(CLASSES[class]);
        index * SPAN + slot * CLASSES[class]
    }

    fn cut_span(&mut self, class: usize) -> Option<u32> {
        let index = self.empty.pop_first()?;
        let blocks = SPAN / CLASSES[class];
        let mut bits = vec![0u64; blocks.div_ceil(64) as usize].into_boxed_slice();
        if !blocks.is_multiple_of(64) {
            // What lies behind the end is never free.
            *bits.last_mut().expect("a span has blocks") = u64::MAX << (blocks % 64);
        }
        self.spans[index as usize] = Span::Blocks {
            class,
            used: 0,
            bits,
        };
        self.partial[class].insert(index);
        Some(index)
    }

    fn take_spans(&mut self, count: u32) -> Option<u32> {
        let mut first = 0;
        let mut length = 0;
        for &span in &self.empty {
            if length > 0 && span == first + length {
                length += 1;
            } else {
                first = span;
                length = 1;
            }
            if length == count {
                break;
            }
        }
        if length < count {
            return None;
        }
        for span in first..first + count {
            self.empty.remove(&span);
            self.spans[span as usize] = Span::Large;
        }
        self.used_bytes += u64::from(count * SPAN);
        Some(first * SPAN)
    }
}

/// Writes `contents` into a block that no reader has seen yet.
pub(super) fn fill(cells: &[AtomicU32], offset: u32, contents: &[u32]) {
    let first = offset as usize / 4;
    for (cell, value) in cells[first..first + contents.len()].iter().zip(contents) {
        cell.store(*value, Ordering::Relaxed);
    }
}

/// Bytes that a block of `bytes` takes from the memory.
pub(super) fn footprint(bytes: u32) -> u32 {
    class_of(bytes).map_or_else(|| bytes.next_multiple_of(SPAN), |class| CLASSES[class])
}

fn class_of(bytes: u32) -> Option<usize> {
    let class = CLASSES.partition_point(|size| *size < bytes);
    (class < CLASSES.len()).then_some(class)
}

const _: () = {
    let mut class = 0;
    while class < CLASSES.len() {
        assert!(CLASSES[class].is_multiple_of(GRAIN));
        class += 1;
    }
};
