//! The dense tables, side by side in one memory: the only element of the map `TABLES`.
//!
//! The program finds the memory once a packet and every entry by its id, without further look-ups; the daemon maps it
//! and writes in place. Holds: zeros are a gateway without anything, and an id cut to a table's size names an entry.

use crate::bound;
use crate::demux;
use crate::entry::{
    AdjacencyEntry, AttachedPort, GroupEntry, InterfaceEntry, NeighbourEntry, NetworkEntry,
    PortEntry, TunnelEntry,
};
use crate::id::{AdjacencyId, GroupId, IfIndex, NeighbourId, NetworkId, PortId, TunnelId, VlanId};
use crate::key::DemuxKey;
use crate::limits;

/// Every table that is indexed by an id.
#[repr(C, align(64))]
pub struct Memory {
    /// The compiled routing tables of all networks; first, so that offsets in it are offsets in the memory.
    pub fib: [u64; limits::FIB_BYTES / 8],
    /// Tunnels.
    pub tunnels: [TunnelEntry; limits::TUNNELS],
    /// Tunnels and their networks by [`demux::slot`].
    pub demux_slots: [demux::Slot; demux::SLOTS],
    /// Displacements by [`demux::bucket`].
    pub demux_buckets: [u16; demux::BUCKETS],
    /// Groups of tunnels.
    pub groups: [GroupEntry; limits::GROUPS],
    /// Machines.
    pub neighbours: [NeighbourEntry; limits::NEIGHBOURS],
    /// Underlay next hops.
    pub adjacencies: [AdjacencyEntry; limits::ADJACENCIES],
    /// Devices.
    pub interfaces: [InterfaceEntry; limits::INTERFACES],
    /// Ports.
    pub ports: [PortEntry; limits::PORTS],
    /// Networks.
    pub networks: [NetworkEntry; limits::NETWORKS],
    /// Ports by [`InterfaceEntry::vlans`] and VLAN.
    pub vlans: [[AttachedPort; limits::VLANS]; limits::VLAN_TABLES],
    /// Slots of the table of [`demux`] that is in force; 0: there is none yet.
    pub demux_size: u32,
}

impl Memory {
    /// What a device is to the gateway; `None` beyond the table's size.
    #[inline(always)]
    pub fn interface(&self, IfIndex(index): IfIndex) -> Option<&InterfaceEntry> {
        if index as usize >= limits::INTERFACES {
            return None;
        }
        Some(&self.interfaces[bound::index::<{ limits::INTERFACES }>(index)])
    }

    /// The port behind a tag.
    #[inline(always)]
    pub fn tagged_port(&self, table: u32, VlanId(vlan): VlanId) -> AttachedPort {
        let table = &self.vlans[bound::index::<{ limits::VLAN_TABLES }>(table)];
        table[bound::index::<{ limits::VLANS }>(vlan)]
    }

    /// A port.
    #[inline(always)]
    pub fn port(&self, PortId(id): PortId) -> &PortEntry {
        &self.ports[bound::index::<{ limits::PORTS }>(id)]
    }

    /// A tunnel.
    #[inline(always)]
    pub fn tunnel(&self, TunnelId(id): TunnelId) -> &TunnelEntry {
        &self.tunnels[bound::index::<{ limits::TUNNELS }>(id)]
    }

    /// A group of tunnels.
    #[inline(always)]
    pub fn group(&self, GroupId(id): GroupId) -> &GroupEntry {
        &self.groups[bound::index::<{ limits::GROUPS }>(id)]
    }

    /// A network.
    #[inline(always)]
    pub fn network(&self, NetworkId(id): NetworkId) -> &NetworkEntry {
        &self.networks[bound::index::<{ limits::NETWORKS }>(id)]
    }

    /// A machine.
    #[inline(always)]
    pub fn neighbour(&self, NeighbourId(id): NeighbourId) -> &NeighbourEntry {
        &self.neighbours[bound::index::<{ limits::NEIGHBOURS }>(id)]
    }

    /// An underlay next hop.
    #[inline(always)]
    pub fn adjacency(&self, AdjacencyId(id): AdjacencyId) -> &AdjacencyEntry {
        &self.adjacencies[bound::index::<{ limits::ADJACENCIES }>(id)]
    }

    /// The tunnel of a GRE packet and its network, if one takes it.
    #[inline(always)]
    pub fn demux(&self, key: &DemuxKey) -> Option<demux::Slot> {
        let (size, hash) = (self.demux_size, demux::hash(key));
        let bucket = bound::index::<{ demux::BUCKETS }>(demux::bucket(size, hash));
        let slot = demux::slot(size, hash, self.demux_buckets[bucket]);
        let slot = self.demux_slots[bound::index::<{ demux::SLOTS }>(slot)];
        let tunnel = self.tunnel(slot.tunnel());
        (tunnel.takes(key) && tunnel.network == slot.network()).then_some(slot)
    }
}
