//! Ethernet (IEEE 802.3) and its VLAN tag (IEEE 802.1Q).
//!
//! ```text
//!  | destination (6) | source (6) | type (2) |                      type 0x8100:  | PCP, DEI, VLAN id (2) | type (2) |
//! ```

use crate::frame::Wire;
use crate::id::{EtherType, MacAddress, VlanId};

/// The header without a tag.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHeader {
    /// Receiver of the frame.
    pub destination: MacAddress,
    /// Sender of the frame.
    pub source: MacAddress,
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

impl EthernetHeader {
    /// Bytes of the header.
    pub const LENGTH: usize = 14;

    /// A header.
    #[inline(always)]
    pub const fn new(destination: MacAddress, source: MacAddress, ether_type: EtherType) -> Self {
        Self {
            destination,
            source,
            ether_type: ether_type.0.to_be_bytes(),
        }
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
