//! Keys of what the data plane looks up by content.
//!
//! Written by the daemon, built by the pipeline. `repr(C)` without padding, since the kernel hashes every byte;
//! addresses in transmission order, integers in host order.

use crate::id::{Address, GreKey, PortId};

/// A tunnel by what its packets carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DemuxKey {
    /// Outer source.
    pub remote: Address,
    /// Outer destination, of the same family.
    pub local: Address,
    /// Receive key; 0 where there is none.
    pub key: u32,
    /// 1 if packets carry a key: key 0 differs from no key (RFC 2890 §2.1).
    pub has_key: u32,
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
    assert!(size_of::<EndpointKey>() == 20);
};

impl DemuxKey {
    /// The key of a tunnel; `None` if the two addresses are of different families.
    pub fn new(local: Address, remote: Address, key: Option<GreKey>) -> Option<Self> {
        (local.family() == remote.family()).then(|| Self {
            remote,
            local,
            key: key.map_or(0, |GreKey(key)| key),
            has_key: key.is_some().into(),
        })
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
