//! Where a route leads: the value that the FIB stores for a prefix.
//!
//! Kind and id share one word, so that a route costs no table of its own: the id points straight at the tunnel,
//! neighbour, port or group, and a change of one of those touches one entry and no route.

use crate::id::{GroupId, NeighbourId, NetworkId, PortId, TunnelId};

/// A packed next hop: kind in bits 27–30, id in bits 0–26. Zero means "no route"; bit 31 is never set.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NextHop(pub u32);

/// The meaning of a [`NextHop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Packets are dropped on purpose.
    Blackhole,
    /// The gateway's own address on this port.
    Local(PortId),
    /// The port's subnet: a machine whose layer-2 address is not known yet.
    Connected(PortId),
    /// A machine on a port.
    Neighbour(NeighbourId),
    /// Another site.
    Tunnel(TunnelId),
    /// A peered network: the destination is looked up again in its table.
    Peer(NetworkId),
    /// Other sites: each flow takes one tunnel of the group.
    Group(GroupId),
}

impl NextHop {
    /// No route.
    pub const NONE: Self = Self(0);
    /// The greatest id that fits.
    pub const MAX_ID: u32 = (1 << Self::ID_BITS) - 1;
    const ID_BITS: u32 = 27;

    /// Packs a target; ids above [`NextHop::MAX_ID`] are cut, which the planner's limits rule out.
    pub const fn new(target: Target) -> Self {
        let (kind, id) = match target {
            Target::Blackhole => (1, 0),
            Target::Local(PortId(id)) => (2, id),
            Target::Connected(PortId(id)) => (3, id),
            Target::Neighbour(NeighbourId(id)) => (4, id),
            Target::Tunnel(TunnelId(id)) => (5, id),
            Target::Peer(NetworkId(id)) => (6, id),
            Target::Group(GroupId(id)) => (7, id),
        };
        Self(kind << Self::ID_BITS | id & Self::MAX_ID)
    }

    /// Unpacks; `None` where there is no route.
    #[inline(always)]
    pub const fn target(self) -> Option<Target> {
        let id = self.0 & Self::MAX_ID;
        Some(match self.0 >> Self::ID_BITS {
            1 => Target::Blackhole,
            2 => Target::Local(PortId(id)),
            3 => Target::Connected(PortId(id)),
            4 => Target::Neighbour(NeighbourId(id)),
            5 => Target::Tunnel(TunnelId(id)),
            6 => Target::Peer(NetworkId(id)),
            7 => Target::Group(GroupId(id)),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_survives_packing() {
        for id in [0, 1, 77, NextHop::MAX_ID] {
            for target in [
                Target::Local(PortId(id)),
                Target::Connected(PortId(id)),
                Target::Neighbour(NeighbourId(id)),
                Target::Tunnel(TunnelId(id)),
                Target::Peer(NetworkId(id)),
                Target::Group(GroupId(id)),
            ] {
                assert_eq!(NextHop::new(target).target(), Some(target));
                assert_ne!(NextHop::new(target), NextHop::NONE);
                assert_eq!(NextHop::new(target).0 >> 31, 0);
            }
        }
        assert_eq!(
            NextHop::new(Target::Blackhole).target(),
            Some(Target::Blackhole)
        );
        assert_eq!(NextHop::NONE.target(), None);
    }
}
