//! Nodes of compiled tables: from values to the form in `gre_common::fib::layout`, and back.
//!
//! The tree code writes each new node through here and reads replaced ones back. Holds: what
//! `encode` writes, `look_up` reads.

use std::sync::atomic::{AtomicU32, Ordering};

use gre_common::fib::Store;
use gre_common::fib::layout::{
    BITMAP, BITMAP_COUNTS, BITMAP_DEFAULT, BITMAP_ENTRIES, DIRECT, DIRECT_ENTRIES, LANES,
    LANES_TOP, NODE, PATH, PATH_DEFAULT, PATH_NEXT, RANGE_BYTES, RANGE_ENTRY, RANGES, RANGES_COUNT,
    SPARSE, SPARSE_DEFAULT, SPARSE_ENTRIES, SPARSE_RUNS, WIDE, is_leaf, kind, offset,
};

use super::heap::Block;
use super::memory::split;

/// Nodes with more runs than this are not compressed: one load instead of counting bits.
const BITMAP_RUNS: usize = 128;

/// Whether an entry is a node.
pub(super) fn is_node(entry: u32) -> bool {
    entry & NODE != 0
}

/// Slots of a node of this kind, as bits of the address.
pub(super) fn stride(kind: u32) -> u8 {
    if kind == WIDE { 16 } else { 8 }
}

/// A new path node: `fragment` left-aligned, its length 1 to 56.
pub(super) fn encode_path(fragment: u64, length: u32, next: u32, default: u32) -> [u32; 4] {
    let rest = 64 - length;
    let [a, b] = split((fragment >> rest) << 8 | u64::from(rest));
    [a, b, next, default]
}

/// A new node with an entry for each of 256 or 65 536 slots: its kind and contents.
pub(super) fn encode(entries: &[u32], default: u32) -> (u32, Vec<u32>) {
    if entries.len() > 256 {
        return (WIDE, plain(entries, default));
    }
    let runs = 1 + entries.windows(2).filter(|pair| pair[0] != pair[1]).count();
    if runs <= SPARSE_RUNS {
        (SPARSE, sparse(entries, default))
    } else if runs <= BITMAP_RUNS {
        (BITMAP, bitmap(entries, default, runs))
    } else {
        (DIRECT, plain(entries, default))
    }
}

/// A new node of ranges: the last value and the entry of each, in order.
pub(super) fn encode_ranges(ranges: &[(u64, u32)]) -> Vec<u32> {
    let mut contents = Vec::with_capacity(ranges.len() * 4);
    for (last, entry) in ranges {
        contents.extend(split(*last));
        contents.extend([*entry, 0]);
    }
    contents
}

/// A node read back.
pub(super) struct Node {
    /// Where it lies; its size.
    pub(super) block: Block,
    /// Number of leaves in it, each slot counting in nodes that are not compressed.
    pub(super) leaves: u32,
}

/// Reads size and number of leaves of a node.
pub(super) fn measure(store: &impl Store, entry: u32) -> Node {
    let at = u64::from(offset(entry));
    let count = |first: u64, entries: u64| {
        (0..entries)
            .filter(|index| is_leaf(store.half(at + first + index * 4)))
            .count() as u32
    };
    let (bytes, leaves) = match kind(entry) {
        PATH => (16, u32::from(is_leaf(store.half(at + PATH_NEXT)))),
        SPARSE => {
            let runs = sparse_runs(store.word(at));
            (SPARSE_ENTRIES + runs * 4, count(SPARSE_ENTRIES, runs))
        }
        BITMAP => {
            let runs = bitmap_runs(store, at);
            (BITMAP_ENTRIES + runs * 4, count(BITMAP_ENTRIES, runs))
        }
        RANGES => {
            let entries = range_entries(store, entry);
            let leaves = entries.iter().filter(|entry| is_leaf(**entry)).count();
            (entries.len() as u64 * RANGE_BYTES, leaves as u32)
        }
        kind => {
            let slots = 1 << stride(kind);
            (DIRECT_ENTRIES + slots * 4, count(DIRECT_ENTRIES, slots))
        }
    };
    Node {
        block: Block {
            offset: offset(entry),
            bytes: bytes as u32,
        },
        leaves,
    }
}

/// The child nodes of a node that has slots: slot and entry, by slot.
pub(super) fn children(store: &impl Store, entry: u32) -> Vec<(u32, u32)> {
    let at = u64::from(offset(entry));
    let child = |(slot, offset)| {
        let child = store.half(offset);
        is_node(child).then_some((slot, child))
    };
    // A child is the only slot of its run, so the first slots of the runs are all there is to see.
    match kind(entry) {
        SPARSE => {
            let bounds = store.word(at);
            let first = |run| if run == 0 { 0 } else { lane(bounds, run - 1) };
            (0..sparse_runs(bounds) as u32)
                .map(|run| (first(run), at + SPARSE_ENTRIES + u64::from(run) * 4))
                .filter_map(child)
                .collect()
        }
        BITMAP => {
            let later = (0..256).filter(|slot| {
                let bits = store.word(at + u64::from(slot / 64) * 8);
                bits >> (slot % 64) & 1 != 0
            });
            std::iter::once(0)
                .chain(later)
                .zip((at + BITMAP_ENTRIES..).step_by(4))
                .filter_map(child)
                .collect()
        }
        kind => (0..1 << stride(kind))
            .zip((at + DIRECT_ENTRIES..).step_by(4))
            .filter_map(child)
            .collect(),
    }
}

/// The entries of a node of ranges.
pub(super) fn range_entries(store: &impl Store, entry: u32) -> Vec<u32> {
    let at = u64::from(offset(entry));
    let mut entries = Vec::new();
    for range in (0..RANGES_COUNT as u64).map(|index| at + index * RANGE_BYTES) {
        entries.push(store.half(range + RANGE_ENTRY));
        if store.word(range) == u64::MAX {
            break;
        }
    }
    entries
}

/// Where the entry of a slot lies, in bytes, in a node that has slots.
pub(super) fn entry_offset(store: &impl Store, entry: u32, slot: u32) -> u32 {
    let at = u64::from(offset(entry));
    let slot = u64::from(slot);
    let from_node = match kind(entry) {
        SPARSE => {
            let reached = (((slot * LANES) | LANES_TOP) - store.word(at)) & LANES_TOP;
            SPARSE_ENTRIES + u64::from(reached.count_ones()) * 4
        }
        BITMAP => {
            let before = (0..slot / 64).map(|word| store.word(at + word * 8).count_ones());
            let within = store.word(at + slot / 64 * 8) << (63 - slot % 64);
            BITMAP_ENTRIES + u64::from(before.sum::<u32>() + within.count_ones()) * 4
        }
        _ => DIRECT_ENTRIES + slot * 4,
    };
    (at + from_node) as u32
}

/// Where a path node leads to.
pub(super) fn next(store: &impl Store, path: u32) -> u32 {
    store.half(u64::from(offset(path)) + PATH_NEXT)
}

/// The default of a node other than one of ranges.
pub(super) fn default(store: &impl Store, entry: u32) -> u32 {
    store.half(u64::from(offset(entry)) + default_offset(kind(entry)))
}

/// The contents of a node other than one of ranges, with another default.
pub(super) fn with_default(
    cells: &[AtomicU32],
    store: &impl Store,
    entry: u32,
    default: u32,
) -> Vec<u32> {
    let Block { offset, bytes } = measure(store, entry).block;
    let first = offset as usize / 4;
    let mut contents: Vec<u32> = cells[first..first + bytes as usize / 4]
        .iter()
        .map(|cell| cell.load(Ordering::Relaxed))
        .collect();
    contents[default_offset(kind(entry)) as usize / 4] = default;
    contents
}

fn default_offset(kind: u32) -> u64 {
    match kind {
        PATH => PATH_DEFAULT,
        SPARSE => SPARSE_DEFAULT,
        BITMAP => BITMAP_DEFAULT,
        _ => 0,
    }
}

fn sparse(entries: &[u32], default: u32) -> Vec<u32> {
    let mut bounds = LANES_TOP;
    let mut contents = vec![0, 0, default, entries[0]];
    for (lane, slot) in run_starts(entries).enumerate() {
        bounds &= !(LANES_TOP & 0x1ff << (9 * lane));
        bounds |= (slot as u64) << (9 * lane);
        contents.push(entries[slot]);
    }
    contents[..2].copy_from_slice(&split(bounds));
    contents
}

fn bitmap(entries: &[u32], default: u32, runs: usize) -> Vec<u32> {
    let mut bits = [0u64; 4];
    let mut contents = Vec::with_capacity(BITMAP_ENTRIES as usize / 4 + runs);
    contents.resize(BITMAP_ENTRIES as usize / 4, 0);
    contents.push(entries[0]);
    for slot in run_starts(entries) {
        bits[slot / 64] |= 1 << (slot % 64);
        contents.push(entries[slot]);
    }
    let mut counts = 0;
    let mut before = 0;
    for (word, bits) in bits.iter().enumerate() {
        counts |= before << (8 * word);
        before += bits.count_ones();
        contents[2 * word..2 * word + 2].copy_from_slice(&split(*bits));
    }
    contents[BITMAP_COUNTS as usize / 4] = counts;
    contents[BITMAP_DEFAULT as usize / 4] = default;
    contents
}

fn plain(entries: &[u32], default: u32) -> Vec<u32> {
    let mut contents = Vec::with_capacity(2 + entries.len());
    contents.extend([default, 0]);
    contents.extend(entries);
    contents
}

/// First slots of the runs other than the first.
fn run_starts(entries: &[u32]) -> impl Iterator<Item = usize> {
    (1..entries.len()).filter(|slot| entries[*slot] != entries[slot - 1])
}

fn lane(bounds: u64, lane: u32) -> u32 {
    (bounds >> (9 * lane)) as u32 & 0x1ff
}

fn sparse_runs(bounds: u64) -> u64 {
    let missing = (bounds & LANES_TOP).count_ones();
    SPARSE_RUNS as u64 - u64::from(missing)
}

fn bitmap_runs(store: &impl Store, at: u64) -> u64 {
    let later: u32 = (0..4)
        .map(|word| store.word(at + word * 8).count_ones())
        .sum();
    1 + u64::from(later)
}
