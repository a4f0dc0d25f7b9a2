//! What the data plane tells the daemon, through the ring buffer `EVENTS`.
//!
//! Sent only off the hot path: when a machine's layer-2 address is missing, or shows up changed.

use crate::id::{Address, MacAddress, PortId};

/// A record of `EVENTS`. It is built on the stack, where the verifier wants aligned stores: hence the order.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The machine's address; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// The port in question.
    pub port: PortId,
    /// Layer-2 address, for [`EventKind::NeighbourSeen`].
    pub mac: MacAddress,
    /// An [`EventKind`].
    pub kind: u8,
    /// Family of [`Event::address`]: 4 or 6.
    pub family: u8,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Event>() == 32);

/// What happened.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A packet was dropped because the machine's layer-2 address is not known.
    NeighbourMissing = 1,
    /// A machine showed a layer-2 address that is not in the table.
    NeighbourSeen = 2,
}

impl Event {
    /// A packet for `address` could not be delivered on `port`.
    pub fn missing(port: PortId, address: Address) -> Self {
        Self::new(
            EventKind::NeighbourMissing,
            port,
            address,
            MacAddress::default(),
        )
    }

    /// The machine `address` on `port` has the layer-2 address `mac`.
    pub fn seen(port: PortId, address: Address, mac: MacAddress) -> Self {
        Self::new(EventKind::NeighbourSeen, port, address, mac)
    }

    /// What happened; `None` for a number this version does not know.
    pub const fn kind(&self) -> Option<EventKind> {
        match self.kind {
            1 => Some(EventKind::NeighbourMissing),
            2 => Some(EventKind::NeighbourSeen),
            _ => None,
        }
    }

    /// The machine's address; `None` for an unknown family.
    pub const fn address(&self) -> Option<Address> {
        Address::from_bytes(self.family, self.address)
    }

    fn new(kind: EventKind, port: PortId, address: Address, mac: MacAddress) -> Self {
        Self {
            kind: kind as u8,
            family: address.family() as u8,
            mac,
            port,
            address: address.to_bytes(),
            reserved: 0,
        }
    }
}
