//! The dense tables of the program, mapped: what the daemon writes, packets read at once.
//!
//! Written through `maps`. Holds: what has to change in one step changes by one aligned store; a machine or next hop that
//! becomes usable is complete before its entry says so; wider entries may be read while they are being written.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use aya::maps::MapData;
use gre_common::demux::Slot;
use gre_common::entry::{
    AdjacencyEntry, AttachedPort, GroupEntry, InterfaceEntry, NeighbourEntry, NetworkEntry,
    PortEntry, TunnelEntry,
};
use gre_common::fib::Root;
use gre_common::id::{
    AdjacencyId, GroupId, IfIndex, NeighbourId, NetworkId, PortId, TunnelId, VlanId,
};
use gre_common::memory::Memory;
use memmap2::{MmapOptions, MmapRaw};

use crate::error::{Error, Result};
use crate::fib::Family;

/// A mapping of the only element of `TABLES`.
pub(super) struct MappedMemory {
    mapping: MmapRaw,
}

impl MappedMemory {
    /// Maps the memory behind a map, whose value must be a [`Memory`].
    pub(super) fn new(map: &MapData) -> Result<Self> {
        let mapping = MmapOptions::new()
            .len(size_of::<Memory>())
            .map_raw(map.fd().as_fd().as_raw_fd())
            .map_err(|source| Error::system("map the memory of map TABLES", source))?;
        Ok(Self { mapping })
    }

    /// Zeroed memory of this process alone.
    #[cfg(test)]
    pub(super) fn private() -> Self {
        let mapping = MmapOptions::new().len(size_of::<Memory>()).map_anon();
        Self {
            mapping: mapping.expect("there is address space").into(),
        }
    }

    /// As the program sees it.
    #[cfg(test)]
    pub(super) fn get(&self) -> &Memory {
        // SAFETY: the mapping is as large as the memory and page-aligned, and any bytes are one; in tests nobody writes
        // while a reference is held.
        unsafe { &*self.start() }
    }

    pub(super) fn set_interface(&self, IfIndex(index): IfIndex, entry: InterfaceEntry) {
        // SAFETY: the index is checked, and only an address is taken.
        write(
            unsafe { &raw mut (*self.start()).interfaces[index as usize] },
            entry,
        );
    }

    pub(super) fn set_port(&self, PortId(id): PortId, entry: PortEntry) {
        // SAFETY: as above.
        write(
            unsafe { &raw mut (*self.start()).ports[id as usize] },
            entry,
        );
    }

    pub(super) fn set_tunnel(&self, TunnelId(id): TunnelId, entry: TunnelEntry) {
        // SAFETY: as above.
        write(
            unsafe { &raw mut (*self.start()).tunnels[id as usize] },
            entry,
        );
    }

    pub(super) fn set_adjacency(&self, AdjacencyId(id): AdjacencyId, entry: AdjacencyEntry) {
        // SAFETY: as above.
        let place = unsafe { &raw mut (*self.start()).adjacencies[id as usize] };
        // SAFETY: as above.
        let mtu = unsafe { &raw mut (*place).mtu };
        // SAFETY: valid and aligned, and any bytes are a number.
        if unsafe { mtu.read_volatile() } == 0 {
            write(place, AdjacencyEntry { mtu: 0, ..entry });
            fence(Ordering::Release);
            write(mtu, entry.mtu);
        } else {
            write(place, entry);
        }
    }

    /// What ingress needs to know of a port that has its entry.
    pub(super) fn attached(&self, port: Option<PortId>) -> AttachedPort {
        let Some(id) = port else {
            return AttachedPort::default();
        };
        // SAFETY: as above.
        let network = unsafe { &raw const (*self.start()).ports[id.0 as usize].network };
        // SAFETY: valid and aligned, and any bytes are a number.
        let network = unsafe { network.read_volatile() };
        AttachedPort { id, network }
    }

    /// Which port a tag belongs to in one of the tables of VLANs; `None`: to none.
    pub(super) fn set_vlan(&self, table: u32, VlanId(vlan): VlanId, port: Option<PortId>) {
        let attached = self.attached(port);
        // SAFETY: as above.
        let cell = unsafe { &raw mut (*self.start()).vlans[table as usize][usize::from(vlan)] };
        write(cell, attached);
    }

    /// At no time a bucket leads to a place where nobody is: new members come first, then buckets lead there, and only
    /// then the others go.
    pub(super) fn set_group(&self, id: GroupId, entry: &GroupEntry) {
        let set_members = |which: fn(&TunnelId) -> bool| {
            for (place, member) in entry.members.iter().enumerate().filter(|(_, id)| which(id)) {
                // SAFETY: as above.
                let cell = unsafe { &raw mut (*self.group(id)).members[place] };
                store(cell.cast(), member.0);
            }
            fence(Ordering::Release);
        };
        set_members(|member| member.0 != 0);
        // SAFETY: valid and aligned; the data plane only reads, and by whole words.
        unsafe { AtomicU32::from_ptr(self.alive(id)) }.fetch_or(entry.alive, Ordering::Release);
        for (bucket, place) in entry.buckets.iter().enumerate() {
            // SAFETY: the index is checked, and only an address is taken.
            write(
                unsafe { &raw mut (*self.group(id)).buckets[bucket] },
                *place,
            );
        }
        self.set_group_liveness(id, entry.alive);
        set_members(|member| member.0 == 0);
    }

    /// Tells a group which of its members are alive.
    pub(super) fn set_group_liveness(&self, id: GroupId, alive: u32) {
        store(self.alive(id), alive);
    }

    /// Publishes the root of one of a network's routing tables.
    pub(super) fn set_root(&self, NetworkId(id): NetworkId, family: Family, root: Root) {
        // SAFETY: as above.
        let entry: *mut NetworkEntry = unsafe { &raw mut (*self.start()).networks[id as usize] };
        let cell = match family {
            // SAFETY: as above.
            Family::V4 => unsafe { &raw mut (*entry).root_v4 },
            // SAFETY: as above.
            Family::V6 => unsafe { &raw mut (*entry).root_v6 },
        };
        store(cell, root.0);
    }

    /// An entry that becomes resolved is complete before it says so.
    pub(super) fn set_neighbour(&self, id: NeighbourId, entry: NeighbourEntry) {
        let place = self.neighbour(id);
        write(
            place,
            NeighbourEntry {
                resolved: 0,
                ..entry
            },
        );
        fence(Ordering::Release);
        // SAFETY: as above.
        write(unsafe { &raw mut (*place).resolved }, entry.resolved);
    }

    /// Whether the data plane has sent to the machine since the last call.
    pub(super) fn take_used(&self, id: NeighbourId) -> bool {
        // SAFETY: as above.
        let used = unsafe { &raw mut (*self.neighbour(id)).used };
        // SAFETY: valid and aligned; the data plane stores whole words there, and nobody holds a reference.
        unsafe { AtomicU32::from_ptr(used) }.swap(0, Ordering::Relaxed) != 0
    }

    /// The entries of machines that packets can be sent by.
    pub(super) fn resolved_neighbours(&self) -> impl Iterator<Item = NeighbourEntry> {
        let ids = (0..gre_common::limits::NEIGHBOURS as u32).map(NeighbourId);
        ids.map(|id| {
            // SAFETY: the pointer is valid and aligned, and any bytes are an entry.
            unsafe { self.neighbour(id).read_volatile() }
        })
        .filter(|entry| entry.resolved == 1)
    }

    /// Leads packets to a tunnel that has its entry, or nowhere.
    pub(super) fn set_demux_slot(&self, slot: u32, id: Option<TunnelId>) {
        let value = id.map_or_else(Slot::default, |id| {
            // SAFETY: the index is checked, and only an address is taken.
            let network = unsafe { &raw const (*self.start()).tunnels[id.0 as usize].network };
            // SAFETY: valid and aligned, and any bytes are a number.
            Slot::new(id, unsafe { network.read_volatile() })
        });
        // SAFETY: as above.
        let cell = unsafe { &raw mut (*self.start()).demux_slots[slot as usize] };
        store(cell.cast(), value.0);
    }

    pub(super) fn set_demux_displacement(&self, bucket: u32, displacement: u16) {
        // SAFETY: as above.
        let cell = unsafe { &raw mut (*self.start()).demux_buckets[bucket as usize] };
        // SAFETY: valid and aligned; all that write it do so atomically, and the data plane reads it by one load.
        unsafe { AtomicU16::from_ptr(cell) }.store(displacement, Ordering::Release);
    }

    pub(super) fn set_demux_size(&self, size: u32) {
        // SAFETY: only an address is taken.
        store(unsafe { &raw mut (*self.start()).demux_size }, size);
    }

    fn group(&self, GroupId(id): GroupId) -> *mut GroupEntry {
        // SAFETY: the index is checked, and only an address is taken.
        unsafe { &raw mut (*self.start()).groups[id as usize] }
    }

    fn alive(&self, id: GroupId) -> *mut u32 {
        // SAFETY: as above.
        unsafe { &raw mut (*self.group(id)).alive }
    }

    fn neighbour(&self, NeighbourId(id): NeighbourId) -> *mut NeighbourEntry {
        // SAFETY: the index is checked, and only an address is taken.
        unsafe { &raw mut (*self.start()).neighbours[id as usize] }
    }

    fn start(&self) -> *mut Memory {
        self.mapping.as_mut_ptr().cast()
    }
}

/// Writes an entry that packets may be reading.
fn write<T>(place: *mut T, entry: T) {
    // SAFETY: all callers have the place from the mapping, where it is valid and aligned.
    unsafe { place.write_volatile(entry) };
}

/// Writes a cell in one step, and not before what was written until now.
fn store(cell: *mut u32, value: u32) {
    // SAFETY: all callers have the cell from the mapping, where it is valid and aligned; all that write it do so
    // atomically, and the data plane reads it by one load.
    unsafe { AtomicU32::from_ptr(cell) }.store(value, Ordering::Release);
}
