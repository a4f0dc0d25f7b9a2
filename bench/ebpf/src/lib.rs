//! What the benchmark's BPF programs and its userspace agree on: the entries of their maps.
//!
//! All are `repr(C)` over 64-bit words, without padding.
#![no_std]

/// Bytes of a frame that are written anew for each packet, and that are judged where it arrives. Everything that a
/// gateway reads or changes of a 64-byte packet in a keyed GRE tunnel over IPv4 lies in there.
pub const HEAD_LENGTH: usize = 64;
/// Heads that the generator has room for: seven cases with 2¹⁷ each.
pub const HEADS: usize = 1 << 20;

/// The first [`HEAD_LENGTH`] bytes of a frame, as words in memory order.
pub type Head = [u64; HEAD_LENGTH / 8];

/// What the generator sends: heads `first..first + count` in turn.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The first head.
    pub first: u32,
    /// The number of heads less one; the number is a power of two.
    pub mask: u32,
}

/// How far the generator has come.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Frames made.
    pub made: u64,
    /// When the first frame was made, in nanoseconds of the monotonic clock.
    pub start: u64,
    /// When the first frame of the last complete section was made.
    pub section: u64,
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
