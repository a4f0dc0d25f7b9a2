//! Who a packet is charged to, and what is counted.
//!
//! Every IP packet accepted from a port or tunnel is counted as received there, and then exactly once more: as
//! transmitted where it leaves, or as one drop. Over all ports and tunnels: received = transmitted + dropped.

use crate::id::{IfIndex, PortId, TunnelId};

/// Value of `TUNNEL_STATS` and `PORT_STATS`, by id and CPU. Bytes are those of the inner IP packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets accepted from the tunnel or port.
    pub receive_packets: u64,
    /// Bytes of those.
    pub receive_bytes: u64,
    /// Packets sent into the tunnel or to the port.
    pub transmit_packets: u64,
    /// Bytes of those.
    pub transmit_bytes: u64,
}

/// A direction, as seen by the gateway.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Towards the gateway.
    Receive = 0,
    /// Away from the gateway.
    Transmit = 1,
}

/// What a packet is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// An underlay device: packets for the gateway that no tunnel claims.
    Underlay(IfIndex),
    /// A port.
    Port(PortId),
    /// A tunnel.
    Tunnel(TunnelId),
}

/// Key of `DROPS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropKey {
    /// 0: underlay, 1: port, 2: tunnel.
    pub owner: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// A [`crate::verdict::DropReason`].
    pub reason: u16,
    /// Interface index, port id or tunnel id.
    pub id: u32,
}

const _: () = assert!(size_of::<Stats>() == 32);
const _: () = assert!(size_of::<DropKey>() == 8);

impl Stats {
    /// Counts one packet.
    #[inline(always)]
    pub const fn count(&mut self, direction: Direction, bytes: u32) {
        match direction {
            Direction::Receive => {
                self.receive_packets += 1;
                self.receive_bytes += bytes as u64;
            }
            Direction::Transmit => {
                self.transmit_packets += 1;
                self.transmit_bytes += bytes as u64;
            }
        }
    }
}

/// As the counters of several CPUs make one.
impl core::iter::Sum for Stats {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            receive_packets: sum.receive_packets + one.receive_packets,
            receive_bytes: sum.receive_bytes + one.receive_bytes,
            transmit_packets: sum.transmit_packets + one.transmit_packets,
            transmit_bytes: sum.transmit_bytes + one.transmit_bytes,
        })
    }
}

/// Who answers for the packet at the moment; it moves from ingress to egress as the packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// What a drop is charged to.
    pub owner: Owner,
    /// Direction of the charge.
    pub direction: Direction,
    /// Bytes of the inner IP packet.
    pub bytes: u32,
    /// The device to send on, once the verdict is [`crate::verdict::Verdict::Transmit`].
    pub egress: IfIndex,
}

impl Ledger {
    /// A packet that nothing but its underlay device answers for yet.
    #[inline(always)]
    pub const fn new(device: IfIndex) -> Self {
        Self {
            owner: Owner::Underlay(device),
            direction: Direction::Receive,
            bytes: 0,
            egress: IfIndex(0),
        }
    }

    /// From here on the packet is on its way out through `owner`.
    #[inline(always)]
    pub const fn leave_through(&mut self, owner: Owner, bytes: usize) {
        self.owner = owner;
        self.direction = Direction::Transmit;
        self.bytes = bytes as u32;
    }
}

impl DropKey {
    /// The counter of `reason` for `owner` in `direction`.
    pub const fn new(owner: Owner, direction: Direction, reason: u16) -> Self {
        let (kind, id) = match owner {
            Owner::Underlay(IfIndex(id)) => (0, id),
            Owner::Port(PortId(id)) => (1, id),
            Owner::Tunnel(TunnelId(id)) => (2, id),
        };
        Self {
            owner: kind,
            direction: direction as u8,
            reason,
            id,
        }
    }

    /// Whom the counter belongs to; `None` if the key was not made by [`DropKey::new`].
    pub const fn owner(&self) -> Option<Owner> {
        Some(match self.owner {
            0 => Owner::Underlay(IfIndex(self.id)),
            1 => Owner::Port(PortId(self.id)),
            2 => Owner::Tunnel(TunnelId(self.id)),
            _ => return None,
        })
    }
}
