//! The form of a compiled table in memory.
//!
//! The builder in `gre-userspace::fib` writes it and [`look_up`](super::look_up) reads it. Holds:
//! what is read together lies in one cache line of 64 bytes wherever it fits.
//!
//! An entry is 32 bits. Zero: no route. Bit 31 clear: a leaf, the next hop. Bit 31 set: a node,
//! with its kind in bits 30-26 and its offset in units of 8 bytes in bits 25-0. Each entry says
//! all there is to know of the addresses below it: what a shorter prefix gives has been pushed
//! down into it, so that nothing has to be remembered on the way.
//!
//! A node looks at the bits of the address behind those that its parent has used. Only
//! [`RANGES`] below [`DIRECT`], [`BITMAP`] or [`INDEX`] begin with the bits that its parent began
//! with, so that its slots may share the node.
//!
//! ```text
//! DIRECT 4 B × 2ˢ  entries, one for each value of the next s bits; the kind is s, 1 to 16
//! RANGES 7 × 4 B   last values of the first 7 of up to 8 ranges of the next 32 bits, in order,
//!                  all ones where there is none        4 B  unused
//!        8 × 4 B   entries; a node's range has one value, and uses all 32 bits
//! SPLIT  as RANGES, but that a node in it is ranges too, and begins with the same bits
//! INDEX  16 × 4 B  4 × 8 bits each, lowest first: for each value of the next 6 bits, the number of a
//!                  node behind here
//!        64 B × n  nodes as SPLIT, which begin with the same bits
//! PATH   8 B       bits 63-8: fragment of the address, right-aligned; bits 5-0: 64 − its length,
//!                  which is 1 to 56
//!        4 B       entry where the fragment agrees     4 B  entry where it does not
//! BITMAP 32 B      4 words: bit set where a run other than the first begins; a run is what
//!                  neighbouring values of the next 8 bits have in common
//!        4 B       4 × 8 bits, lowest first: runs that begin in the words before
//!        4 B       base
//!        runs × 1, 2 or 4 B  entries; zero: no route, else what has to be added to the base
//! ```

/// Set in an entry that is a node.
pub const NODE: u32 = 1 << 31;

/// Kind: ranges in one cache line. Kinds from here to 16 are [`DIRECT`].
pub const RANGES: u32 = 0;
/// The last kind that is an array of entries, and the most bits that a node splits on.
pub const DIRECT: u32 = 16;
/// Kind: compare up to 56 bits at once.
pub const PATH: u32 = 17;
/// Kind: ranges of ranges.
pub const SPLIT: u32 = 21;
/// Kind: nodes of ranges, and which of them a slot shares with its neighbours.
pub const INDEX: u32 = 22;
/// Kind: runs found by counting bits, with entries of 8 bits. The next two have 16 and 32.
pub const BITMAP: u32 = 18;
/// Base-2 logarithm of the bits of an entry of the first [`BITMAP`] kind.
pub const BITMAP_WIDTH: u32 = 3;

/// Most ranges of a [`RANGES`] or [`SPLIT`] node.
pub const RANGES_COUNT: usize = 8;
/// Offset of the entries of a [`RANGES`] node, in bytes.
pub const RANGES_ENTRIES: u64 = 32;
/// Bits that an [`INDEX`] node splits on.
pub const INDEX_BITS: u32 = 6;
/// Offset of the first node within an [`INDEX`] node, in bytes.
pub const INDEX_NODES: u64 = 64;
/// Longest fragment of one [`PATH`] node, in bits.
pub const PATH_BITS: u8 = 56;
/// Offset of the entry behind a [`PATH`] node, in bytes.
pub const PATH_NEXT: u64 = 8;
/// Offset of the entry beside a [`PATH`] node, in bytes.
pub const PATH_ELSE: u64 = 12;
/// Offset of the counts of a [`BITMAP`] node, in bytes.
pub const BITMAP_COUNTS: u64 = 32;
/// Offset of the base of a [`BITMAP`] node, in bytes.
pub const BITMAP_BASE: u64 = 36;
/// Offset of the entries of a [`BITMAP`] node, in bytes.
pub const BITMAP_ENTRIES: u64 = 40;

/// Whether an entry is a leaf: neither empty nor a node.
#[inline(always)]
pub const fn is_leaf(entry: u32) -> bool {
    entry.cast_signed() > 0
}

/// Whether an entry is a node.
#[inline(always)]
pub const fn is_node(entry: u32) -> bool {
    entry & NODE != 0
}

/// Whether nodes of `kind` hold ranges in one cache line.
#[inline(always)]
pub const fn is_ranges(kind: u32) -> bool {
    kind == RANGES || kind == SPLIT
}

/// The entry for a node of `kind` at `offset` bytes, a multiple of 8 below 2²⁹.
#[inline(always)]
pub const fn node(kind: u32, offset: u32) -> u32 {
    NODE | kind << 26 | offset >> 3
}

/// The kind of the node that an entry names.
#[inline(always)]
pub const fn kind(entry: u32) -> u32 {
    entry >> 26 & 31
}

/// The offset of the node that an entry names, in bytes.
#[inline(always)]
pub const fn offset(entry: u32) -> u32 {
    (entry & ((1 << 26) - 1)) << 3
}
