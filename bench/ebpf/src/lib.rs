//! What the benchmark's BPF programs and its userspace agree on: the entries of their maps.
//!
//! All are `repr(C)` over 64-bit words, without padding.
#![no_std]

/// Bytes at the start of a frame that can be written anew for each packet, and judged where it arrives.
pub const HEAD_LENGTH: usize = 96;
/// Bytes of it in frames that are shorter than that. Everything that a gateway reads or changes of a 64-byte packet in a
/// keyed GRE tunnel over IPv4 lies in there.
pub const SHORT_HEAD_LENGTH: usize = 64;
/// Most 16-bit fields in which the frames of a case differ.
pub const FIELDS: usize = 8;

/// The first bytes of a frame, as words in memory order; zeros behind its end.
pub type Head = [u64; HEAD_LENGTH / 8];
/// What tells a frame from the others of its case: 16-bit fields in memory order. So small because it streams through
/// the caches that the gateway's tables are in, which frames from a device would not.
pub type Flow = [u16; FIELDS];

/// What all frames of a case have in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// The head, in which each frame replaces some fields.
    pub head: Head,
    /// Their offsets in the head; fields that are not needed repeat the last one.
    pub places: [u32; FIELDS],
    /// The number of flows less one; the number is a power of two.
    pub mask: u32,
    /// Where in the head each frame carries a number of its own, in 4 bytes; 0: nowhere.
    pub number: u32,
    /// 1: [`HEAD_LENGTH`] bytes are written; 0: [`SHORT_HEAD_LENGTH`].
    pub long: u32,
    /// Bytes of a whole frame.
    pub length: u32,
}

/// How far the generator has come.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Frames made.
    pub made: u64,
    /// The number in the first one, for frames that carry one.
    pub first_number: u64,
    /// When the first frame was made, in nanoseconds of the monotonic clock.
    pub start: u64,
    /// When the first frame of the last complete section was made.
    pub section: u64,
    /// The time that the quickest section took, in nanoseconds: nothing disturbed it. 0: none is complete.
    pub quickest: u64,
}

/// Frames after which the generator looks at the clock, which takes as long as a tenth of a packet; a power of two.
pub const SECTION: u64 = 1024;

/// What the sink counts as arrived.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    /// Bytes of the frame.
    pub length: u64,
    /// The bits of the head that are judged.
    pub mask: Head,
    /// What they are.
    pub value: Head,
}

/// What has arrived at the sink.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that are as expected.
    pub expected: u64,
    /// All others.
    pub unexpected: u64,
    /// Bytes of the last of the others.
    pub last_length: u64,
    /// Its head.
    pub last_head: Head,
}

/// Addresses that are looked up for comparison.
pub const ADDRESSES: usize = 1 << 16;
/// Look-ups in one run of a program.
pub const BATCH: u32 = 32;
/// Bytes of the memory for gregw's tables that look-ups are compared with; a power of two.
pub const FIB_BYTES: usize = 128 << 20;

/// Look-ups done.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookUps {
    /// How many.
    pub done: u64,
    /// Sum of their answers.
    pub sum: u64,
    /// Where gregw's table begins.
    pub root: u32,
    /// Zero.
    pub reserved: u32,
}
