//! Longest-prefix-match look-up over a compiled routing table, for IPv4 and IPv6.
//!
//! The pipeline calls [`look_up`] in the kernel, on the host and in `explain`; the builder in
//! `gre-userspace::fib` writes what is described in [`layout`]. Holds: a look-up takes at most
//! [`Octets::STEPS`] steps, never panics, and reads memory only through [`Store`].

use layout::{
    BITMAP, BITMAP_COUNTS, BITMAP_DEFAULT, BITMAP_ENTRIES, DIRECT, DIRECT_ENTRIES, LANES,
    LANES_TOP, NODE, PATH, PATH_DEFAULT, PATH_NEXT, RANGE_BYTES, RANGE_ENTRY, RANGES, RANGES_COUNT,
    SPARSE, SPARSE_DEFAULT, SPARSE_ENTRIES, WIDE,
};

use crate::next_hop::NextHop;

/// Memory that holds compiled tables: a power of two of bytes, at most 512 MiB (the verifier
/// bounds a variable offset into a map value by 2²⁹).
///
/// Offsets are in bytes and carry garbage above the size: an implementation masks them with
/// size − 8 ([`Store::word`]) or size − 4 ([`Store::half`]), which also satisfies the verifier.
pub trait Store {
    /// The 64 bits at `offset`, in the machine's byte order.
    fn word(&self, offset: u64) -> u64;

    /// The 32 bits at `offset`, in the machine's byte order. Entries are read by this and may be
    /// replaced meanwhile, so it is one load.
    fn half(&self, offset: u64) -> u32;
}

/// Where the table of one network and one family begins: an [entry](layout). Zero is an empty
/// table. Published by one aligned store.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Root(pub u32);

/// What can be looked up: the bytes of an IPv4 or IPv6 address, in transmission order.
pub trait Octets: Copy {
    /// What remains of the address while it is consumed from its first bit on.
    type Key: Key;

    /// Most nodes on a way from the root to a leaf: each consumes at least 8 bits.
    const STEPS: u32;

    /// The whole address as a key.
    fn key(self) -> Self::Key;
}

/// Remaining bits of an address, left-aligned.
pub trait Key: Copy {
    /// The next 64 bits, zeros behind the end.
    fn top(self) -> u64;

    /// The key without its first `bits` bits, 1 to 56.
    fn advance(self, bits: u64) -> Self;

    /// The key without its first 64 bits.
    fn advance_word(self) -> Self;
}

impl Octets for [u8; 4] {
    type Key = u64;
    const STEPS: u32 = 4;

    #[inline(always)]
    fn key(self) -> u64 {
        u64::from(u32::from_be_bytes(self)) << 32
    }
}

impl Key for u64 {
    #[inline(always)]
    fn top(self) -> u64 {
        self
    }

    #[inline(always)]
    fn advance(self, bits: u64) -> u64 {
        self << (bits & 63)
    }

    #[inline(always)]
    fn advance_word(self) -> u64 {
        0
    }
}

impl Octets for [u8; 16] {
    type Key = (u64, u64);
    const STEPS: u32 = 16;

    #[inline(always)]
    fn key(self) -> (u64, u64) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self;
        (
            u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            u64::from_be_bytes([i, j, k, l, m, n, o, p]),
        )
    }
}

impl Key for (u64, u64) {
    #[inline(always)]
    fn top(self) -> u64 {
        self.0
    }

    #[inline(always)]
    fn advance(self, bits: u64) -> (u64, u64) {
        let (high, low) = self;
        (
            high << (bits & 63) | low >> (bits.wrapping_neg() & 63),
            low << (bits & 63),
        )
    }

    #[inline(always)]
    fn advance_word(self) -> (u64, u64) {
        (self.1, 0)
    }
}

/// The next hop of the longest prefix that covers `address`, or [`NextHop::NONE`].
///
/// `root` and all that hangs from it must come from the builder; a torn or foreign table gives a
/// wrong answer, but no fault and no endless loop.
#[inline(always)]
pub fn look_up<S: Store, A: Octets>(store: &S, root: Root, address: A) -> NextHop {
    let mut key = address.key();
    let mut entry = root.0;
    // What holds unless something longer is found further down.
    let mut best = 0;
    if entry & NODE != 0 && layout::kind(entry) == RANGES {
        entry = in_ranges(store, u64::from(entry) << 3, key.top());
        key = key.advance_word();
    }
    for _ in 0..A::STEPS {
        if entry & NODE == 0 {
            break;
        }
        let node = u64::from(entry) << 3;
        let top = key.top();
        let slot = top >> 56;
        let kind = layout::kind(entry);
        let mut consumed = 8;
        let mut default = node;
        match kind {
            PATH => {
                let path = store.word(node);
                let rest = path & 63;
                entry = if top >> rest == path >> 8 {
                    store.half(node + PATH_NEXT)
                } else {
                    0
                };
                default += PATH_DEFAULT;
                consumed = 64 - rest;
            }
            SPARSE => {
                let bounds = store.word(node);
                let reached = (slot.wrapping_mul(LANES) | LANES_TOP).wrapping_sub(bounds) >> 8;
                let rank = (reached & LANES).wrapping_mul(LANES) >> 54 & 7;
                entry = store.half(node + SPARSE_ENTRIES + rank * 4);
                default += SPARSE_DEFAULT;
            }
            BITMAP => {
                let word = slot >> 3 & 0x18;
                let below = u64::from(store.half(node + BITMAP_COUNTS)) >> word & 0xff;
                let within = u64::from((store.word(node + word) << (!slot & 63)).count_ones());
                entry = store.half(node + BITMAP_ENTRIES + (below + within) * 4);
                default += BITMAP_DEFAULT;
            }
            DIRECT => entry = store.half(node + DIRECT_ENTRIES + slot * 4),
            WIDE => {
                entry = store.half(node + DIRECT_ENTRIES + (top >> 48) * 4);
                consumed = 16;
            }
            _ => return NextHop::NONE,
        }
        if layout::is_leaf(entry) {
            return NextHop(entry);
        }
        // Read only now: in wide nodes it takes another cache line.
        let default = store.half(default);
        if default != 0 {
            best = default;
        }
        key = key.advance(consumed);
    }
    NextHop(if layout::is_leaf(entry) { entry } else { best })
}

/// The entry of the range that `top` lies in.
#[inline(always)]
fn in_ranges<S: Store>(store: &S, node: u64, top: u64) -> u32 {
    let mut range = node;
    for _ in 1..RANGES_COUNT {
        if top <= store.word(range) {
            break;
        }
        range += RANGE_BYTES;
    }
    store.half(range + RANGE_ENTRY)
}

/// The form of a compiled table in memory.
///
/// An entry is 32 bits. Zero: nothing here, what was found further up holds. Bit 31 clear: a leaf,
/// the next hop. Bit 31 set: a node, with its kind in bits 30–28 and its offset in units of 8
/// bytes in bits 27–0. Each node has a default, the next hop of the longest prefix that ends
/// between its parent and itself (0: none), so that a short prefix reaches into the nodes right
/// below it and no further.
///
/// Nodes split on 8 bits of the address, but for [`PATH`], [`WIDE`] and [`RANGES`]. Neighbouring slots with
/// one value make a run, which the compressed kinds store once.
///
/// ```text
/// PATH    8 B  bits 63-8: fragment of the address, right-aligned; bits 5-0: 64 − its length (1-56)
///         4 B  entry where the fragment agrees     4 B  default
///              (only before a leaf is the length not a multiple of 8)
/// SPARSE  8 B  7 lanes of 9 bits: first slot of the runs 1-7, 256 for a run that is not there
///         4 B  default     4 B × runs  entries
/// BITMAP 32 B  4 words: bit set where a run other than the first begins
///         4 B  4 × 8 bits, lowest first: runs that begin in the words before     4 B  default
///         4 B × runs  entries
/// DIRECT  4 B  default     4 B  unused     4 B × 256    entries
/// WIDE    4 B  default     4 B  unused     4 B × 65536  entries (16 bits; only as a root)
/// RANGES  for each of up to 32 ranges of the first 64 bits, in order (only as a root):
///         8 B  last value of the range, all ones in the last one     4 B  entry     4 B  unused
/// ```
pub mod layout {
    /// Set in an entry that is a node.
    pub const NODE: u32 = 1 << 31;

    /// Kind: compare up to 56 bits at once.
    pub const PATH: u32 = 0;
    /// Kind: up to 8 runs, found by comparing with all bounds at once.
    pub const SPARSE: u32 = 1;
    /// Kind: runs found by counting bits.
    pub const BITMAP: u32 = 2;
    /// Kind: one entry a slot.
    pub const DIRECT: u32 = 3;
    /// Kind: one entry a slot of 16 bits.
    pub const WIDE: u32 = 4;

    /// Kind: a handful of ranges, compared with one by one.
    pub const RANGES: u32 = 5;

    /// Longest fragment of one [`PATH`] node, in bits.
    pub const PATH_BITS: u32 = 56;
    /// Most runs of a [`SPARSE`] node.
    pub const SPARSE_RUNS: usize = 8;
    /// Offset of the entry behind a [`PATH`] node, in bytes.
    pub const PATH_NEXT: u64 = 8;
    /// Offset of the default of a [`PATH`] node, in bytes.
    pub const PATH_DEFAULT: u64 = 12;
    /// Offset of the default of a [`SPARSE`] node, in bytes.
    pub const SPARSE_DEFAULT: u64 = 8;
    /// Offset of the entries of a [`SPARSE`] node, in bytes.
    pub const SPARSE_ENTRIES: u64 = 12;
    /// Offset of the counts of a [`BITMAP`] node, in bytes.
    pub const BITMAP_COUNTS: u64 = 32;
    /// Offset of the default of a [`BITMAP`] node, in bytes.
    pub const BITMAP_DEFAULT: u64 = 36;
    /// Offset of the entries of a [`BITMAP`] node, in bytes.
    pub const BITMAP_ENTRIES: u64 = 40;
    /// Offset of the entries of a [`DIRECT`] or [`WIDE`] node, in bytes.
    pub const DIRECT_ENTRIES: u64 = 8;

    /// Most ranges of a [`RANGES`] node.
    pub const RANGES_COUNT: usize = 32;
    /// Distance of ranges, in bytes.
    pub const RANGE_BYTES: u64 = 16;
    /// Offset of the entry of a range, in bytes.
    pub const RANGE_ENTRY: u64 = 8;

    /// Lowest bit of each of the 7 lanes of a [`SPARSE`] node.
    pub const LANES: u64 = {
        let mut lanes = 0;
        let mut lane = 0;
        while lane < SPARSE_RUNS - 1 {
            lanes |= 1 << (9 * lane);
            lane += 1;
        }
        lanes
    };
    /// Highest bit of each lane.
    pub const LANES_TOP: u64 = LANES << 8;

    /// Whether an entry is a leaf: neither empty nor a node.
    #[inline(always)]
    pub const fn is_leaf(entry: u32) -> bool {
        entry.cast_signed() > 0
    }

    /// The entry for a node of `kind` at `offset` bytes, a multiple of 8 below 2³¹.
    #[inline(always)]
    pub const fn node(kind: u32, offset: u32) -> u32 {
        NODE | kind << 28 | offset >> 3
    }

    /// The kind of the node that an entry names.
    #[inline(always)]
    pub const fn kind(entry: u32) -> u32 {
        entry >> 28 & 7
    }

    /// The offset of the node that an entry names, in bytes.
    #[inline(always)]
    pub const fn offset(entry: u32) -> u32 {
        (entry & ((1 << 28) - 1)) << 3
    }
}
