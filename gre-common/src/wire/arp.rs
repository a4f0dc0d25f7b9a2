//! ARP for IPv4 over Ethernet (RFC 826).
//!
//! ```text
//!  | hardware type (2) | protocol type (2) | lengths (1, 1) | operation (2) |
//!  | sender hardware (6) | sender protocol (4) | target hardware (6) | target protocol (4) |
//! ```

pub use network_types::arp::ArpHdr;

use crate::frame::Wire;
use crate::id::{EtherType, MacAddress};

/// `operation` of a request.
pub const REQUEST: u16 = 1;
/// `operation` of a reply.
pub const REPLY: u16 = 2;
/// Bytes of the packet.
pub const LENGTH: usize = 28;

const _: () = assert!(size_of::<ArpHdr>() == LENGTH);
const _: () = assert!(align_of::<ArpHdr>() == 1);

// SAFETY: `repr(C)` over byte arrays only.
unsafe impl Wire for ArpHdr {}

/// A packet of IPv4 over Ethernet.
pub const fn packet(
    operation: u16,
    sender: (MacAddress, [u8; 4]),
    target: (MacAddress, [u8; 4]),
) -> ArpHdr {
    ArpHdr {
        htype: [0, 1],
        ptype: EtherType::IPV4.0.to_be_bytes(),
        hlen: 6,
        plen: 4,
        oper: operation.to_be_bytes(),
        sha: sender.0.0,
        spa: sender.1,
        tha: target.0.0,
        tpa: target.1,
    }
}

/// Whether the packet speaks of IPv4 over Ethernet.
pub fn is_ipv4_over_ethernet(packet: &ArpHdr) -> bool {
    packet.htype == [0, 1]
        && packet.ptype == EtherType::IPV4.0.to_be_bytes()
        && packet.hlen == 6
        && packet.plen == 4
}
