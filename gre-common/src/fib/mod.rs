//! Longest-prefix-match look-up over a compiled routing table, for IPv4 and IPv6.
//!
//! The pipeline calls [`look_up`] in the kernel, on the host and in `explain`; the builder in
//! `gre-userspace::fib` writes what is described in [`layout`]. Holds: a look-up takes at most
//! [`Octets::STEPS`] steps, never panics, and reads memory only through [`Store`].

pub mod layout;

use layout::{
    BITMAP, BITMAP_BASE, BITMAP_COUNTS, BITMAP_ENTRIES, BITMAP_WIDTH, DIRECT, INDEX, INDEX_BITS,
    INDEX_NODES, PATH, PATH_ELSE, PATH_NEXT, RANGES, RANGES_COUNT, RANGES_ENTRIES,
};

use crate::bound;
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

    /// How many of the first 7 halves at `offset`, a multiple of 64, are below `key`, a value of
    /// 32 bits. An implementation may find the line once and for all, and has to
    /// [count](count_below) without branches.
    #[inline(always)]
    fn rank(&self, offset: u64, key: u64) -> u64 {
        count_below(key, |half| self.half(offset + half * 4))
    }
}

/// How many of 7 `halves` are below `key`, a value of 32 bits.
///
/// A carry tells, not a comparison: of that the compiler would make a branch that nobody can
/// predict, and the verifier would walk 2⁷ ways.
#[inline(always)]
pub fn count_below(key: u64, halves: impl Fn(u64) -> u32) -> u64 {
    const HALVES: u64 = RANGES_COUNT as u64 - 1;
    let complement = (1u64 << 32).wrapping_sub(key);
    let carry = |half| (u64::from(halves(half)).wrapping_add(complement)) >> 32;
    let reached = (0..HALVES).fold(0u64, |reached, half| reached.wrapping_add(carry(half)));
    HALVES.wrapping_sub(reached)
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

    /// Most nodes on a way from the root to a leaf: all but the last use at least 4 bits.
    const STEPS: u32;

    /// Whether something may come below a node of ranges, which uses 32 bits.
    const BEYOND_RANGES: bool;

    /// The whole address as a key.
    fn key(self) -> Self::Key;
}

/// Remaining bits of an address, left-aligned.
pub trait Key: Copy {
    /// The next 64 bits, zeros behind the end.
    fn top(self) -> u64;

    /// The key without its first `bits` bits, 0 to 63.
    fn advance(self, bits: u64) -> Self;

    /// A [copy](bound::copy).
    fn copy(self) -> Self;
}

impl Octets for [u8; 4] {
    type Key = u64;
    const STEPS: u32 = 9;
    const BEYOND_RANGES: bool = false;

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
    fn copy(self) -> u64 {
        self
    }
}

impl Octets for [u8; 16] {
    type Key = (u64, u64);
    const STEPS: u32 = 33;
    const BEYOND_RANGES: bool = true;

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
            high << (bits & 63) | low >> 1 >> (!bits & 63),
            low << (bits & 63),
        )
    }

    #[inline(always)]
    fn copy(self) -> (u64, u64) {
        (bound::copy(self.0), bound::copy(self.1))
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
    // What ranges look at: the key as the node above found it, if that has slots.
    let mut window = key.copy();
    for _ in 0..A::STEPS {
        if !layout::is_node(entry) {
            break;
        }
        let node = u64::from(layout::offset(entry));
        let kind = layout::kind(entry);
        if layout::is_ranges(kind) {
            entry = in_ranges(store, node, window.top());
            if A::BEYOND_RANGES && kind == RANGES {
                key = window.advance(32);
                window = key.copy();
            }
            continue;
        }
        let top = key.top();
        window = key.copy();
        if kind <= DIRECT {
            entry = store.half(node + (top >> (u64::from(kind).wrapping_neg() & 63)) * 4);
            key = key.advance(u64::from(kind));
        } else if kind == INDEX {
            // Ranges of this node see the same bits, as do those behind a split.
            let slot = top >> (u64::BITS - INDEX_BITS);
            let number = store.half(node + (slot & !3)) >> ((slot & 3) * 8) & 0xff;
            entry = in_ranges(store, node + INDEX_NODES + u64::from(number) * 64, top);
        } else if kind == PATH {
            let path = store.word(node);
            let rest = path & 63;
            let differs = top >> rest ^ path >> 8;
            // A carry again, of 56 bits.
            let is_else = differs.wrapping_add((1 << layout::PATH_BITS) - 1) >> layout::PATH_BITS;
            entry = store.half(node + PATH_NEXT + (is_else & 1) * (PATH_ELSE - PATH_NEXT));
            key = key.advance(rest.wrapping_neg() & 63);
            window = key.copy();
        } else {
            entry = in_bitmap(store, node, top >> 56, kind - BITMAP + BITMAP_WIDTH);
            key = key.advance(8);
        }
    }
    NextHop(if layout::is_node(entry) { 0 } else { entry })
}

/// The entry of the range that the first 32 bits of `top` lie in.
#[inline(always)]
fn in_ranges<S: Store>(store: &S, node: u64, top: u64) -> u32 {
    store.half(node + RANGES_ENTRIES + store.rank(node, top >> 32) * 4)
}

/// The entry of `slot`, where entries have 2^`width` bits.
#[inline(always)]
fn in_bitmap<S: Store>(store: &S, node: u64, slot: u64, width: u32) -> u32 {
    let word = slot >> 3 & 0x18;
    let counts = u64::from(store.half(node + BITMAP_COUNTS));
    let within = u64::from((store.word(node + word) << (!slot & 63)).count_ones());
    let bit = ((counts >> word & 0xff) + within) << (width & 7);
    let entry = store.half(node + BITMAP_ENTRIES + (bit >> 5) * 4) >> (bit & 31);
    let entry = entry & u32::MAX >> (32u32.wrapping_sub(1 << (width & 7)) & 31);
    if entry == 0 {
        0
    } else {
        entry.wrapping_add(store.half(node + BITMAP_BASE))
    }
}
