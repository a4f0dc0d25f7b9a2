//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, and the differentiated-services byte that both have.
//!
//! ```text
//!  IPv4: | version, IHL (1) | TOS (1) | length (2) | id (2) | flags, fragment (2) | TTL | protocol | checksum (2) |
//!        | source (4) | destination (4) |
//!  IPv6: | version, class, flow label (4) | payload length (2) | next header | hop limit | source (16) | destination (16) |
//! ```

pub use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::frame::Wire;

/// Bytes of an IPv4 header without options.
pub const IPV4_LENGTH: usize = 20;
/// First byte of an IPv4 header without options: version 4, five words.
pub const IPV4_WITHOUT_OPTIONS: u8 = 0x45;
/// Bytes of an IPv6 header.
pub const IPV6_LENGTH: usize = 40;

const _: () = assert!(size_of::<Ipv4Hdr>() == IPV4_LENGTH && align_of::<Ipv4Hdr>() == 1);
const _: () = assert!(size_of::<Ipv6Hdr>() == IPV6_LENGTH && align_of::<Ipv6Hdr>() == 1);

// SAFETY: `repr(C)` over bytes only.
unsafe impl Wire for Ipv4Hdr {}
// SAFETY: `repr(C)` over bytes only.
unsafe impl Wire for Ipv6Hdr {}

/// What IPv4 headers are asked for beyond their fields.
pub trait Ipv4Ext {
    /// Bytes of the header with its options.
    fn header_length(&self) -> usize;
    /// Whether the packet is a fragment: more follow, or it is not the first.
    fn is_fragment(&self) -> bool;
}

impl Ipv4Ext for Ipv4Hdr {
    #[inline(always)]
    fn header_length(&self) -> usize {
        ((self.vihl & 0x0f) as usize) * 4
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.frags) & 0x3fff != 0
    }
}

/// What IPv6 headers are asked for beyond their fields.
pub trait Ipv6Ext {
    /// The traffic class.
    fn traffic_class(&self) -> u8;
}

impl Ipv6Ext for Ipv6Hdr {
    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        self.vcf[0] << 4 | self.vcf[1] >> 4
    }
}

/// The first four bytes of an IPv6 header; only the low 20 bits of `flow_label` count.
#[inline(always)]
pub const fn ipv6_first_word(traffic_class: u8, flow_label: u32) -> [u8; 4] {
    (6 << 28 | (traffic_class as u32) << 20 | flow_label & 0x000f_ffff).to_be_bytes()
}

/// The ECN field (RFC 3168 §5) of a TOS or traffic class.
pub mod ecn {
    /// Mask of the field.
    pub const MASK: u8 = 0b11;
    /// Not ECN-capable.
    pub const NOT_CAPABLE: u8 = 0b00;
    /// ECN-capable, codepoint 1.
    pub const CAPABLE_1: u8 = 0b01;
    /// ECN-capable, codepoint 0.
    pub const CAPABLE_0: u8 = 0b10;
    /// Congestion experienced.
    pub const CONGESTION: u8 = 0b11;
}
