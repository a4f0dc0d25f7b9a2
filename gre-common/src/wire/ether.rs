//! Ethernet (IEEE 802.3) and its VLAN tag (IEEE 802.1Q).
//!
//! ```text
//!  | destination (6) | source (6) | type (2) |                      type 0x8100:  | PCP, DEI, VLAN id (2) | type (2) |
//! ```

use crate::frame::Wire;
use crate::id::{EtherType, MacAddress, VlanId};

/// Receiver and sender of a frame, as they lie in it: in words, because six bytes would be copied one by one.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkAddresses([u32; 3]);

/// The header without a tag.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHeader {
    addresses: [[u8; 4]; 3],
    ether_type: [u8; 2],
}

/// What follows type 0x8100.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    control: [u8; 2],
    ether_type: [u8; 2],
}

const _: () = assert!(size_of::<EthernetHeader>() == EthernetHeader::LENGTH);
const _: () = assert!(size_of::<VlanTag>() == VlanTag::LENGTH);

// SAFETY: `repr(C)` over byte arrays only.
unsafe impl Wire for EthernetHeader {}
// SAFETY: `repr(C)` over byte arrays only.
unsafe impl Wire for VlanTag {}

impl LinkAddresses {
    /// The addresses of a frame. By reference, because values of six bytes take shifts to take apart.
    #[inline(always)]
    pub const fn new(destination: &MacAddress, source: &MacAddress) -> Self {
        let MacAddress([a, b, c, d, e, f]) = *destination;
        let MacAddress([g, h, i, j, k, l]) = *source;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
        ])
    }

    /// Receiver of the frame.
    #[inline(always)]
    pub const fn destination(self) -> MacAddress {
        let [[a, b, c, d], [e, f, ..], _] = self.to_bytes();
        MacAddress([a, b, c, d, e, f])
    }

    /// Sender of the frame.
    #[inline(always)]
    pub const fn source(self) -> MacAddress {
        let [_, [.., a, b], [c, d, e, f]] = self.to_bytes();
        MacAddress([a, b, c, d, e, f])
    }

    /// Whether the receiver is this one, without a comparison of arrays, which is a call and a loop.
    #[inline(always)]
    pub const fn are_to(&self, MacAddress([a, b, c, d, e, f]): &MacAddress) -> bool {
        let [first, [e_own, f_own, ..], _] = self.to_bytes();
        let halves = u16::from_ne_bytes([e_own, f_own]) ^ u16::from_ne_bytes([*e, *f]);
        (u32::from_ne_bytes(first) ^ u32::from_ne_bytes([*a, *b, *c, *d])) | halves as u32 == 0
    }

    const fn to_bytes(self) -> [[u8; 4]; 3] {
        let [a, b, c] = self.0;
        [a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes()]
    }
}

impl EthernetHeader {
    /// Bytes of the header.
    pub const LENGTH: usize = 14;

    /// A header.
    #[inline(always)]
    pub const fn new(addresses: LinkAddresses, ether_type: EtherType) -> Self {
        Self {
            addresses: addresses.to_bytes(),
            ether_type: ether_type.0.to_be_bytes(),
        }
    }

    /// Receiver and sender.
    #[inline(always)]
    pub const fn addresses(&self) -> LinkAddresses {
        let [a, b, c] = self.addresses;
        LinkAddresses([
            u32::from_ne_bytes(a),
            u32::from_ne_bytes(b),
            u32::from_ne_bytes(c),
        ])
    }

    /// What the frame carries.
    #[inline(always)]
    pub const fn ether_type(&self) -> EtherType {
        EtherType(u16::from_be_bytes(self.ether_type))
    }
}

impl VlanTag {
    /// Bytes of the tag behind the first type field.
    pub const LENGTH: usize = 4;

    /// A tag with priority 0.
    #[inline(always)]
    pub const fn new(vlan: VlanId, ether_type: EtherType) -> Self {
        Self {
            control: vlan.0.to_be_bytes(),
            ether_type: ether_type.0.to_be_bytes(),
        }
    }

    /// The VLAN, without priority and drop eligibility.
    #[inline(always)]
    pub const fn vlan(&self) -> VlanId {
        VlanId(u16::from_be_bytes(self.control) & 0x0fff)
    }

    /// What the frame carries.
    #[inline(always)]
    pub const fn ether_type(&self) -> EtherType {
        EtherType(u16::from_be_bytes(self.ether_type))
    }
}
