//! ICMP (RFC 792), ICMPv6 (RFC 4443) and neighbour discovery (RFC 4861): the parts that the gateway answers.
//!
//! ```text
//!  | type (1) | code (1) | checksum (2) |   neighbour discovery: | flags (4) | target (16) | option: 1|2, 1, MAC (6) |
//! ```

use crate::frame::Wire;
use crate::id::MacAddress;

/// The four bytes that every ICMP message begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpHeader {
    /// Message type.
    pub kind: u8,
    /// Message code.
    pub code: u8,
    /// Checksum.
    pub checksum: [u8; 2],
}

/// A neighbour solicitation or advertisement without options (RFC 4861 §4.3, §4.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourMessage {
    /// Type, code, checksum.
    pub header: IcmpHeader,
    /// Flags of an advertisement; zero in a solicitation.
    pub flags: [u8; 4],
    /// The address that is asked for or advertised.
    pub target: [u8; 16],
}

/// The source or target link-layer address option (RFC 4861 §4.6.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLayerOption {
    /// 1: source, 2: target.
    pub kind: u8,
    /// In units of 8 bytes: 1.
    pub length: u8,
    /// The address.
    pub mac: MacAddress,
}

const _: () = assert!(size_of::<IcmpHeader>() == 4);
const _: () = assert!(size_of::<NeighbourMessage>() == NeighbourMessage::LENGTH);
const _: () = assert!(size_of::<LinkLayerOption>() == LinkLayerOption::LENGTH);

// SAFETY: `repr(C)` over bytes only.
unsafe impl Wire for IcmpHeader {}
// SAFETY: `repr(C)` over bytes only.
unsafe impl Wire for NeighbourMessage {}
// SAFETY: `repr(C)` over bytes only.
unsafe impl Wire for LinkLayerOption {}

impl IcmpHeader {
    /// ICMP echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// ICMP echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// ICMPv6 echo request.
    pub const ECHO_REQUEST_V6: u8 = 128;
    /// ICMPv6 echo reply.
    pub const ECHO_REPLY_V6: u8 = 129;
    /// ICMPv6 neighbour solicitation.
    pub const SOLICITATION: u8 = 135;
    /// ICMPv6 neighbour advertisement.
    pub const ADVERTISEMENT: u8 = 136;
}

impl NeighbourMessage {
    /// Bytes of the message without options.
    pub const LENGTH: usize = 24;
    /// Advertisement flags of a router that answers a solicitation and overrides what was known.
    pub const ROUTER_SOLICITED_OVERRIDE: [u8; 4] = [0xe0, 0, 0, 0];
    /// Advertisement flags of a router that defends its address against duplicate address detection.
    pub const ROUTER_OVERRIDE: [u8; 4] = [0xa0, 0, 0, 0];
}

impl LinkLayerOption {
    /// Bytes of the option.
    pub const LENGTH: usize = 8;
    /// `kind` of the sender's own address.
    pub const SOURCE: u8 = 1;
    /// `kind` of the target's address.
    pub const TARGET: u8 = 2;
}
