//! Nodes of compiled tables: from values to the form in `gre_common::fib::layout`, and back.
//!
//! The builder writes each new node through here and reads replaced ones back. Holds: what these
//! functions encode, `look_up` reads.

use gre_common::fib::Store;
use gre_common::fib::layout::{
    BITMAP, BITMAP_BASE, BITMAP_COUNTS, BITMAP_ENTRIES, BITMAP_WIDTH, DIRECT, INDEX, INDEX_BITS,
    INDEX_NODES, PATH, PATH_ELSE, PATH_NEXT, RANGES, RANGES_COUNT, RANGES_ENTRIES, SPLIT, is_leaf,
    is_node, kind, offset,
};

use super::heap::Block;
use super::memory::split;
use super::routes::Prefix;

/// A new node: its kind, what to write, and how many leaves that holds.
pub(super) struct Contents {
    pub(super) kind: u32,
    pub(super) cells: Vec<u32>,
    pub(super) leaves: u64,
}

/// A node that compares bits.
#[derive(Clone, Copy)]
pub(super) struct Path {
    /// The bits, left-aligned.
    pub(super) fragment: u64,
    /// Their number, 1 to 56.
    pub(super) length: u8,
    /// Entry where they agree.
    pub(super) next: u32,
    /// Entry where they do not.
    pub(super) otherwise: u32,
}

impl Path {
    pub(super) fn encode(self) -> Contents {
        let rest = 64 - self.length;
        let [a, b] = split((self.fragment >> rest) << 8 | u64::from(rest));
        Contents {
            kind: PATH,
            cells: vec![a, b, self.next, self.otherwise],
            leaves: leaves(&[self.next, self.otherwise]),
        }
    }

    /// Where it leads from `place`.
    pub(super) fn end(self, place: Prefix) -> Prefix {
        Prefix {
            bits: place.bits | u128::from(self.fragment) << 64 >> place.length,
            length: place.length + self.length,
        }
    }
}

/// The last value of a range and its entry.
pub(super) type Limit = (u32, u32);

/// Slots of an index.
pub(super) const INDEX_SLOTS: usize = 1 << INDEX_BITS;

/// One entry for each slot; their number is a power of two.
pub(super) fn direct(entries: Vec<u32>) -> Contents {
    Contents {
        kind: entries.len().ilog2(),
        leaves: leaves(&entries),
        cells: entries,
    }
}

/// Last value and entry of each of up to 8 ranges, in order; `kind` is one of the two that hold
/// them.
pub(super) fn ranges(kind: u32, ranges: &[Limit]) -> Contents {
    Contents {
        kind,
        cells: line(ranges).to_vec(),
        leaves: leaves(ranges.iter().map(|(_, entry)| entry)),
    }
}

/// The number of a node for each slot, and the ranges of these nodes.
pub(super) fn index(slots: &[u8; INDEX_SLOTS], nodes: &[Vec<Limit>]) -> Contents {
    let slots = slots
        .as_chunks()
        .0
        .iter()
        .map(|slots| u32::from_le_bytes(*slots));
    let nodes_cells = nodes.iter().flat_map(|ranges| line(ranges));
    Contents {
        kind: INDEX,
        cells: slots.chain(nodes_cells).collect(),
        leaves: leaves(nodes.iter().flatten().map(|(_, entry)| entry)),
    }
}

/// Last values and entries of up to 8 ranges in one cache line.
fn line(ranges: &[Limit]) -> [u32; 16] {
    const FIRST_ENTRY: usize = RANGES_ENTRIES as usize / 4;
    let mut cells = [0; 16];
    cells[..RANGES_COUNT - 1].fill(u32::MAX);
    for (index, (last, entry)) in ranges.iter().enumerate() {
        if index + 1 < ranges.len() {
            cells[index] = *last;
        }
        cells[FIRST_ENTRY + index] = *entry;
    }
    cells
}

/// The runs of 256 entries.
pub(super) fn bitmap(entries: &[u32]) -> Contents {
    let mut bits = [0u64; 4];
    let mut runs = vec![entries[0]];
    for slot in (1..256).filter(|slot| entries[*slot] != entries[slot - 1]) {
        bits[slot / 64] |= 1 << (slot % 64);
        runs.push(entries[slot]);
    }
    let mut cells = Vec::with_capacity(BITMAP_ENTRIES as usize / 4 + runs.len());
    let mut counts = 0;
    let mut before = 0;
    for (word, bits) in bits.iter().enumerate() {
        counts |= before << (8 * word);
        before += bits.count_ones();
        cells.extend(split(*bits));
    }
    let (base, width) = narrowest(&runs);
    cells.extend([counts, base]);
    let per_cell = 32 >> width;
    for runs in runs.chunks(per_cell) {
        let cell = runs.iter().enumerate().fold(0, |cell, (index, run)| {
            let entry = if *run == 0 { 0 } else { run - base };
            cell | entry << (index << width)
        });
        cells.push(cell);
    }
    Contents {
        kind: BITMAP + width - BITMAP_WIDTH,
        cells,
        leaves: leaves(&runs),
    }
}

/// Number of runs that [`bitmap`] would store.
pub(super) fn runs(entries: &[u32]) -> usize {
    1 + entries.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

/// Base and base-2 logarithm of the bits of the narrowest entries that hold all `runs`.
fn narrowest(runs: &[u32]) -> (u32, u32) {
    let present = || runs.iter().copied().filter(|run| *run != 0);
    let (Some(least), Some(most)) = (present().min(), present().max()) else {
        return (0, BITMAP_WIDTH);
    };
    if is_node(most) {
        return (0, 5);
    }
    // The least one has to differ from zero, which is no route.
    let base = least - 1;
    match most - base {
        ..=0xff => (base, 3),
        0x100..=0xffff => (base, 4),
        _ => (0, 5),
    }
}

/// Where the entry of a slot of an array lies, in bytes.
pub(super) fn slot_offset(array: u32, slot: usize) -> u32 {
    offset(array) + slot as u32 * 4
}

/// A node read back.
pub(super) struct Node {
    /// Where it lies; its size.
    pub(super) block: Block,
    /// Its entries, in order.
    pub(super) entries: Vec<u32>,
}

impl Node {
    /// Number of leaves in it.
    pub(super) fn leaves(&self) -> u64 {
        leaves(&self.entries)
    }

    /// The nodes below, each once.
    pub(super) fn children(self) -> Vec<u32> {
        let mut children = self.entries;
        children.retain(|entry| is_node(*entry));
        children.sort_unstable();
        children.dedup();
        children
    }
}

/// Reads a node.
pub(super) fn read(store: &impl Store, entry: u32) -> Node {
    let at = u64::from(offset(entry));
    let halves = |first: u64, count: u64| -> Vec<u32> {
        (0..count)
            .map(|index| store.half(at + first + index * 4))
            .collect()
    };
    let (bytes, entries) = match kind(entry) {
        RANGES | SPLIT => (64, read_ranges(store, at)),
        INDEX => {
            let slots = halves(0, INDEX_NODES / 4);
            let last = slots.iter().flat_map(|cell| cell.to_le_bytes()).max();
            let count = u64::from(last.unwrap_or(0)) + 1;
            let nodes = (0..count).map(|number| at + INDEX_NODES + number * 64);
            let entries = nodes.flat_map(|node| read_ranges(store, node));
            (INDEX_NODES + count * 64, entries.collect())
        }
        stride @ 1..=DIRECT => (4 << stride, halves(0, 1 << stride)),
        PATH => (PATH_ELSE + 4, halves(PATH_NEXT, 2)),
        bitmap => read_bitmap(store, at, bitmap - BITMAP + BITMAP_WIDTH),
    };
    Node {
        block: Block {
            offset: offset(entry),
            bytes: bytes as u32,
        },
        entries,
    }
}

/// The entries of a node of ranges.
fn read_ranges(store: &impl Store, at: u64) -> Vec<u32> {
    let later = (0..RANGES_COUNT as u64 - 1).map(|index| store.half(at + index * 4));
    let count = 1 + later.filter(|last| *last != u32::MAX).count() as u64;
    let entries = (0..count).map(|index| store.half(at + RANGES_ENTRIES + index * 4));
    entries.collect()
}

/// Reads a path.
pub(super) fn read_path(store: &impl Store, entry: u32) -> Path {
    let at = u64::from(offset(entry));
    let path = store.word(at);
    let rest = path & 63;
    Path {
        fragment: path >> 8 << rest,
        length: 64 - rest as u8,
        next: store.half(at + PATH_NEXT),
        otherwise: store.half(at + PATH_ELSE),
    }
}

fn leaves<'e>(entries: impl IntoIterator<Item = &'e u32>) -> u64 {
    let leaves = entries.into_iter().filter(|entry| is_leaf(**entry));
    leaves.count() as u64
}

/// Size and entries of a bitmap whose entries have 2^`width` bits.
fn read_bitmap(store: &impl Store, at: u64, width: u32) -> (u64, Vec<u32>) {
    let later: u32 = (0..4)
        .map(|word| store.word(at + word * 8).count_ones())
        .sum();
    let base = store.half(at + BITMAP_BASE);
    let runs = 1 + u64::from(later);
    let entry = |run: u64| {
        let bit = run << width;
        let cell = store.half(at + BITMAP_ENTRIES + bit / 32 * 4);
        match cell >> (bit % 32) & u32::MAX >> (32 - (1 << width)) {
            0 => 0,
            entry => base + entry,
        }
    };
    let cells = (runs << width).div_ceil(32);
    (BITMAP_ENTRIES + cells * 4, (0..runs).map(entry).collect())
}

const _: () = assert!(BITMAP_COUNTS + 4 == BITMAP_BASE && BITMAP_BASE + 4 == BITMAP_ENTRIES);
