//! Keys of the data plane's hash tables.
//!
//! Written by the daemon, built by the pipeline. `repr(C)` without padding, since the kernel hashes every byte;
//! addresses in transmission order, integers in host order.

use crate::id::{Address, Family, GreKey, IfIndex, PortId, VlanId};

/// Key of `PORTS_BY_VLAN`: a tagged port of a device.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanKey {
    /// Interface index of the device.
    pub device: u32,
    /// VLAN id.
    pub vlan: u32,
}

/// Key of `DEMUX_V4`: a tunnel by what its packets carry.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DemuxKeyV4 {
    /// Outer source.
    pub remote: [u8; 4],
    /// Outer destination.
    pub local: [u8; 4],
    /// Receive key; 0 where there is none.
    pub key: u32,
    /// 1 if packets carry a key: key 0 differs from no key (RFC 2890 §2.1).
    pub has_key: u32,
}

/// Key of `DEMUX_V6`: as [`DemuxKeyV4`] with IPv6 outer addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DemuxKeyV6 {
    /// Outer source.
    pub remote: [u8; 16],
    /// Outer destination.
    pub local: [u8; 16],
    /// Receive key; 0 where there is none.
    pub key: u32,
    /// 1 if packets carry a key.
    pub has_key: u32,
}

/// A tunnel's identity on the wire, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DemuxKey {
    /// IPv4 underlay.
    V4(DemuxKeyV4),
    /// IPv6 underlay.
    V6(DemuxKeyV6),
}

/// Key of `ENDPOINTS`: a local outer address, in the 16 bytes of [`Address::to_bytes`], and its family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// The address.
    pub address: [u8; 16],
    /// 4 or 6.
    pub family: u32,
}

/// Key of `LEARNT`: a machine by port and address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MachineKey {
    /// The machine's address, in the 16 bytes of [`Address::to_bytes`].
    pub address: [u8; 16],
    /// 4 or 6.
    pub family: u32,
    /// The port.
    pub port: PortId,
}

const _: () = {
    assert!(size_of::<MachineKey>() == 24);
    assert!(size_of::<VlanKey>() == 8);
    assert!(size_of::<DemuxKeyV4>() == 16);
    assert!(size_of::<DemuxKeyV6>() == 40);
    assert!(size_of::<EndpointKey>() == 20);
};

impl VlanKey {
    /// The key of the port of `device` with the tag `vlan`.
    pub const fn new(device: IfIndex, vlan: VlanId) -> Self {
        Self {
            device: device.0,
            vlan: vlan.0 as u32,
        }
    }
}

impl DemuxKey {
    /// The key of a tunnel; `None` if the two addresses are of different families.
    pub const fn new(local: Address, remote: Address, key: Option<GreKey>) -> Option<Self> {
        let (key, has_key) = match key {
            Some(GreKey(key)) => (key, 1),
            None => (0, 0),
        };
        match (local.family(), remote.family()) {
            (Family::V4, Family::V4) => Some(Self::V4(DemuxKeyV4 {
                remote: remote.to_v4(),
                local: local.to_v4(),
                key,
                has_key,
            })),
            (Family::V6, Family::V6) => Some(Self::V6(DemuxKeyV6 {
                remote: remote.to_bytes(),
                local: local.to_bytes(),
                key,
                has_key,
            })),
            _ => None,
        }
    }
}

impl MachineKey {
    /// The key of the machine `address` on `port`.
    #[inline(always)]
    pub fn new(port: PortId, address: Address) -> Self {
        Self {
            address: address.to_bytes(),
            family: address.family() as u32,
            port,
        }
    }
}

impl EndpointKey {
    /// The key of a local outer address.
    #[inline(always)]
    pub fn new(address: Address) -> Self {
        Self {
            address: address.to_bytes(),
            family: address.family() as u32,
        }
    }
}
