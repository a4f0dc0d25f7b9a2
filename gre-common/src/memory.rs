//! The dense tables, side by side in one memory: the only element of the map `TABLES`.
//!
//! The program finds the memory once a packet and every entry by its id, without further look-ups; the daemon maps it
//! and writes in place. Holds: zeros are a gateway without anything, and an id cut to a table's size names an entry.

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
        self.interfaces.get(index as usize)
    }

    /// The port behind a tag.
    #[inline(always)]
    pub fn tagged_port(&self, table: u32, VlanId(vlan): VlanId) -> AttachedPort {
        let table = &self.vlans[table as usize % limits::VLAN_TABLES];
        table[vlan as usize % limits::VLANS]
    }

    /// A port.
    #[inline(always)]
    pub fn port(&self, PortId(id): PortId) -> &PortEntry {
        &self.ports[id as usize % limits::PORTS]
    }

    /// A tunnel.
    #[inline(always)]
    pub fn tunnel(&self, TunnelId(id): TunnelId) -> &TunnelEntry {
        &self.tunnels[id as usize % limits::TUNNELS]
    }

    /// A group of tunnels.
    #[inline(always)]
    pub fn group(&self, GroupId(id): GroupId) -> &GroupEntry {
        &self.groups[id as usize % limits::GROUPS]
    }

    /// A network.
    #[inline(always)]
    pub fn network(&self, NetworkId(id): NetworkId) -> &NetworkEntry {
        &self.networks[id as usize % limits::NETWORKS]
    }

    /// A machine.
    #[inline(always)]
    pub fn neighbour(&self, NeighbourId(id): NeighbourId) -> &NeighbourEntry {
        &self.neighbours[id as usize % limits::NEIGHBOURS]
    }

    /// An underlay next hop.
    #[inline(always)]
    pub fn adjacency(&self, AdjacencyId(id): AdjacencyId) -> &AdjacencyEntry {
        &self.adjacencies[id as usize % limits::ADJACENCIES]
    }

    /// The tunnel of a GRE packet and its network, if one takes it.
    #[inline(always)]
    pub fn demux(&self, key: &DemuxKey) -> Option<demux::Slot> {
        let (size, hash) = (self.demux_size, demux::hash(key));
        let bucket = demux::bucket(size, hash) as usize % demux::BUCKETS;
        let slot = demux::slot(size, hash, self.demux_buckets[bucket]) as usize % demux::SLOTS;
        let slot = self.demux_slots[slot];
        let tunnel = self.tunnel(slot.tunnel());
        (tunnel.takes(key) && tunnel.network == slot.network()).then_some(slot)
    }
}
