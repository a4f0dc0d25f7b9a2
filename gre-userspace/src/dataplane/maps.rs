//! The maps of one loaded program, by name and with the types that `gre-common` gives their entries.
//!
//! Made by `load`, written by `apply` and read for reports. Nothing is decided here: each method is one access.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use aya::{Ebpf, Pod};
use gre_common::counters::{Direction, DropKey, Owner, Stats};
use gre_common::entry::{
    AdjacencyEntry, GroupEntry, InterfaceEntry, NeighbourEntry, NetworkEntry, PortEntry,
    TunnelEntry,
};
use gre_common::fib::Root;
use gre_common::id::{
    Address, AdjacencyId, GroupId, IfIndex, NeighbourId, NetworkId, PortId, TunnelId, VlanId,
};
use gre_common::key::{DemuxKey, DemuxKeyV4, DemuxKeyV6, EndpointKey, MachineKey, VlanKey};
use gre_common::limits;
use gre_common::tables::SequenceEntry;
use gre_common::verdict::DropReason;
use memmap2::{MmapOptions, MmapRaw};

use super::load::Missing;
use crate::error::{Error, Result};
use crate::fib::{Family, MappedArray};

/// Every map that the daemon writes or reads.
pub struct Maps {
    interfaces: Array<MapData, Plain<InterfaceEntry>>,
    ports: Array<MapData, Plain<PortEntry>>,
    ports_by_vlan: HashMap<MapData, Plain<VlanKey>, u32>,
    endpoints: HashMap<MapData, Plain<EndpointKey>, u32>,
    demux_v4: HashMap<MapData, Plain<DemuxKeyV4>, u32>,
    demux_v6: HashMap<MapData, Plain<DemuxKeyV6>, u32>,
    tunnels: Array<MapData, Plain<TunnelEntry>>,
    groups: Mapped<GroupEntry>,
    networks: Mapped<NetworkEntry>,
    neighbours: Mapped<NeighbourEntry>,
    adjacencies: Array<MapData, Plain<AdjacencyEntry>>,
    tunnel_stats: PerCpuArray<MapData, Plain<Stats>>,
    port_stats: PerCpuArray<MapData, Plain<Stats>>,
    drops: PerCpuHashMap<MapData, Plain<DropKey>, u64>,
    sequences: Array<MapData, Plain<SequenceEntry>>,
    learnt: HashMap<MapData, Plain<MachineKey>, u64>,
    devices: DevMapHash<MapData>,
}

impl Maps {
    /// The version of names, keys and values: what `VERSION` holds.
    pub const ABI: u32 = limits::ABI_VERSION;

    /// Takes the maps out of a loaded object, and maps the memory of the compiled routing tables.
    pub fn take(ebpf: &mut Ebpf) -> Result<(Self, MappedArray)> {
        let mut version: Array<_, u32> = take(ebpf, "VERSION")?;
        version
            .set(0, Self::ABI, 0)
            .map_err(|source| Error::bpf("write map VERSION", source))?;
        let fib = MappedArray::new(take_data(ebpf, "FIB")?.fd(), limits::FIB_BYTES)
            .map_err(|source| Error::bpf("map the memory of map FIB", source))?;
        let maps = Self {
            interfaces: take(ebpf, "INTERFACES")?,
            ports: take(ebpf, "PORTS")?,
            ports_by_vlan: take(ebpf, "PORTS_BY_VLAN")?,
            endpoints: take(ebpf, "ENDPOINTS")?,
            demux_v4: take(ebpf, "DEMUX_V4")?,
            demux_v6: take(ebpf, "DEMUX_V6")?,
            tunnels: take(ebpf, "TUNNELS")?,
            groups: Mapped::new(take_data(ebpf, "GROUPS")?, limits::GROUPS)?,
            networks: Mapped::new(take_data(ebpf, "NETWORKS")?, limits::NETWORKS)?,
            neighbours: Mapped::new(take_data(ebpf, "NEIGHBOURS")?, limits::NEIGHBOURS)?,
            adjacencies: take(ebpf, "ADJACENCIES")?,
            tunnel_stats: take(ebpf, "TUNNEL_STATS")?,
            port_stats: take(ebpf, "PORT_STATS")?,
            drops: take(ebpf, "DROPS")?,
            sequences: take(ebpf, "SEQUENCES")?,
            learnt: take(ebpf, "LEARNT")?,
            devices: take(ebpf, "DEVICES")?,
        };
        Ok((maps, fib))
    }

    /// What the gateway makes of a device's frames; a default entry leaves them to the kernel.
    pub fn set_interface(&mut self, device: IfIndex, entry: InterfaceEntry) -> Result<()> {
        self.interfaces
            .set(device.0, Plain(entry), 0)
            .map_err(|source| {
                Error::bpf(format!("write device {device} to map INTERFACES"), source)
            })
    }

    /// Writes a port; a default entry takes it away.
    pub fn set_port(&mut self, id: PortId, entry: PortEntry) -> Result<()> {
        self.ports
            .set(id.0, Plain(entry), 0)
            .map_err(|source| Error::bpf(format!("write port {id} to map PORTS"), source))
    }

    /// Removes what the data plane remembers of a machine by itself. Nothing depends on it: such an entry gives way to
    /// any newer one.
    pub fn forget_learnt(&mut self, port: PortId, address: Address) {
        let _ = self.learnt.remove(&Plain(MachineKey::new(port, address)));
    }

    /// Whose frames with this tag are; `None`: the kernel's.
    pub fn set_tagged_port(
        &mut self,
        device: IfIndex,
        vlan: VlanId,
        port: Option<PortId>,
    ) -> Result<()> {
        let key = Plain(VlanKey::new(device, vlan));
        let result = match port {
            Some(port) => self.ports_by_vlan.insert(key, port.0, 0),
            None => absent_is_fine(self.ports_by_vlan.remove(&key)),
        };
        result.map_err(|source| {
            hash_error(
                "PORTS_BY_VLAN",
                "the table of VLANs of ports",
                limits::PORTS,
                source,
            )
        })
    }

    /// Whether GRE to this address is the gateway's.
    pub fn set_endpoint(&mut self, address: Address, ours: bool) -> Result<()> {
        let key = Plain(EndpointKey::new(address));
        let result = if ours {
            self.endpoints.insert(key, 1, 0)
        } else {
            absent_is_fine(self.endpoints.remove(&key))
        };
        result.map_err(|source| {
            hash_error(
                "ENDPOINTS",
                "the table of local addresses",
                limits::ENDPOINTS,
                source,
            )
        })
    }

    /// Which tunnel packets belong to; `None`: to no tunnel.
    pub fn set_demux(&mut self, key: DemuxKey, tunnel: Option<TunnelId>) -> Result<()> {
        let result = match (key, tunnel) {
            (DemuxKey::V4(key), Some(tunnel)) => self.demux_v4.insert(Plain(key), tunnel.0, 0),
            (DemuxKey::V4(key), None) => absent_is_fine(self.demux_v4.remove(&Plain(key))),
            (DemuxKey::V6(key), Some(tunnel)) => self.demux_v6.insert(Plain(key), tunnel.0, 0),
            (DemuxKey::V6(key), None) => absent_is_fine(self.demux_v6.remove(&Plain(key))),
        };
        result
            .map_err(|source| hash_error("DEMUX", "the table of tunnels", limits::TUNNELS, source))
    }

    /// Writes a tunnel; a default entry takes it away.
    pub fn set_tunnel(&mut self, id: TunnelId, entry: TunnelEntry) -> Result<()> {
        self.tunnels
            .set(id.0, Plain(entry), 0)
            .map_err(|source| Error::bpf(format!("write tunnel {id} to map TUNNELS"), source))
    }

    /// Writes a group, or changes it under the packets that it takes; a default entry takes it away.
    pub fn set_group(&mut self, id: GroupId, entry: &GroupEntry) {
        self.groups.write(id, entry);
    }

    /// Tells a group which of its members are alive.
    pub fn set_group_liveness(&mut self, id: GroupId, alive: u32) {
        self.groups.alive(id).store(alive, Ordering::Release);
    }

    /// Publishes the root of one of a network's routing tables.
    pub fn set_root(&mut self, network: NetworkId, family: Family, root: Root) {
        self.networks.set_root(network, family, root);
    }

    /// Writes a machine; a default entry takes it away.
    pub fn set_neighbour(&mut self, id: NeighbourId, entry: NeighbourEntry) {
        self.neighbours.write(id, entry);
    }

    /// Whether the data plane has sent to the machine since the last call.
    pub fn take_used(&self, id: NeighbourId) -> bool {
        self.neighbours.take_used(id)
    }

    /// Writes an underlay next hop.
    pub fn set_adjacency(&mut self, id: AdjacencyId, entry: AdjacencyEntry) -> Result<()> {
        self.adjacencies
            .set(id.0, Plain(entry), 0)
            .map_err(|source| Error::bpf(format!("write next hop {id} to map ADJACENCIES"), source))
    }

    /// Whether frames may be sent on a device.
    pub fn set_redirect(&mut self, device: IfIndex, allowed: bool) -> Result<()> {
        if allowed {
            return self
                .devices
                .insert(device.0, device.0, None, 0)
                .map_err(|source| {
                    Error::bpf(format!("write device {device} to map DEVICES"), source)
                });
        }
        absent_is_fine(self.devices.remove(device.0)).map_err(|source| {
            Error::bpf(format!("remove device {device} from map DEVICES"), source)
        })
    }

    /// Whether frames may be sent on a device.
    pub fn redirects_to(&self, device: IfIndex) -> bool {
        self.devices.get(device.0, 0).is_ok()
    }

    /// The traffic of a port or tunnel, of all CPUs together; an underlay device has none of its own.
    pub fn stats(&self, owner: Owner) -> Result<Stats> {
        let values = match owner {
            Owner::Underlay(_) => return Ok(Stats::default()),
            Owner::Port(id) => self.port_stats.get(&id.0, 0),
            Owner::Tunnel(id) => self.tunnel_stats.get(&id.0, 0),
        };
        let values = values.map_err(|source| Error::bpf("read traffic counters", source))?;
        Ok(values.iter().fold(Stats::default(), |sum, cpu| Stats {
            receive_packets: sum.receive_packets + cpu.0.receive_packets,
            receive_bytes: sum.receive_bytes + cpu.0.receive_bytes,
            transmit_packets: sum.transmit_packets + cpu.0.transmit_packets,
            transmit_bytes: sum.transmit_bytes + cpu.0.transmit_bytes,
        }))
    }

    /// All drop counters, of all CPUs together.
    pub fn drops(&self) -> Result<Vec<(DropKey, u64)>> {
        self.drops
            .iter()
            .map(|entry| {
                let (key, values) =
                    entry.map_err(|source| Error::bpf("read drop counters", source))?;
                Ok((key.0, values.iter().sum()))
            })
            .collect()
    }

    /// Sets traffic, drops and sequence numbers of a port or tunnel to zero.
    pub fn reset(&mut self, owner: Owner) -> Result<()> {
        let zeros = || {
            let cpus = nr_cpus().map_err(|(_, source)| source)?;
            PerCpuValues::try_from(vec![Plain(Stats::default()); cpus])
        };
        let zeros = zeros().map_err(|source| Error::system("count the CPUs", source))?;
        let cleared = match owner {
            Owner::Underlay(_) => Ok(()),
            Owner::Port(id) => self.port_stats.set(id.0, zeros, 0),
            Owner::Tunnel(id) => {
                let unused = Plain(SequenceEntry::default());
                let sequence = self.sequences.set(id.0, unused, 0);
                sequence.and_then(|()| self.tunnel_stats.set(id.0, zeros, 0))
            }
        };
        cleared.map_err(|source| Error::bpf("clear traffic counters", source))?;
        for direction in [Direction::Receive, Direction::Transmit] {
            for reason in 0..DropReason::LIMIT {
                let key = Plain(DropKey::new(owner, direction, reason));
                absent_is_fine(self.drops.remove(&key))
                    .map_err(|source| Error::bpf("clear drop counters", source))?;
            }
        }
        Ok(())
    }
}

/// An entry of `gre-common`, as aya wants to see it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
struct Plain<T>(T);

/// Declares types that may be copied from and to maps byte by byte.
macro_rules! plain {
    ($($entry:ty),* $(,)?) => {$(
        // SAFETY: `repr(C)` over integers and bytes, without padding (sizes are asserted beside the types), and any
        // bit pattern is valid.
        unsafe impl Pod for Plain<$entry> {}
    )*};
}

plain!(
    AdjacencyEntry,
    DemuxKeyV4,
    DemuxKeyV6,
    DropKey,
    EndpointKey,
    MachineKey,
    InterfaceEntry,
    PortEntry,
    SequenceEntry,
    Stats,
    TunnelEntry,
    VlanKey,
);

/// A `BPF_F_MMAPABLE` array, written in place.
pub(super) struct Mapped<T> {
    memory: MmapRaw,
    length: usize,
    // Keeps the map, of which the mapping alone would not be a descriptor.
    _data: MapData,
    entries: std::marker::PhantomData<T>,
}

// An entry's offset is its index times its size only for multiples of 8 (`bpf_map_area` rounds up).
const _: () = {
    assert!(size_of::<GroupEntry>().is_multiple_of(8));
    assert!(size_of::<NetworkEntry>() == 8);
    assert!(size_of::<NeighbourEntry>().is_multiple_of(8));
};

impl<T> Mapped<T> {
    pub(super) fn new(data: MapData, length: usize) -> Result<Self> {
        let memory = MmapOptions::new()
            .len(length * size_of::<T>())
            .map_raw(std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(
                data.fd(),
            )))
            .map_err(|source| Error::system("map the memory of a table", source))?;
        Ok(Self {
            memory,
            length,
            _data: data,
            entries: std::marker::PhantomData,
        })
    }

    fn entry(&self, index: u32) -> *mut T {
        let index = index as usize;
        assert!(index < self.length, "ids stay below the table's limit");
        self.memory.as_mut_ptr().cast::<T>().wrapping_add(index)
    }
}

impl Mapped<GroupEntry> {
    /// At no time a bucket leads to a place where nobody is: new members come first, then buckets lead there, and only
    /// then the others go.
    fn write(&self, id: GroupId, entry: &GroupEntry) {
        let alive = self.alive(id);
        let members = self
            .entry(id.0)
            .wrapping_byte_add(offset_of!(GroupEntry, members));
        let buckets = self
            .entry(id.0)
            .wrapping_byte_add(offset_of!(GroupEntry, buckets));
        let set_members = |which: fn(&TunnelId) -> bool| {
            let members = members.cast::<TunnelId>();
            for (place, member) in entry.members.iter().enumerate().filter(|(_, id)| which(id)) {
                // SAFETY: a place of the valid entry, aligned; the data plane reads whole words of it meanwhile.
                unsafe { members.wrapping_add(place).write_volatile(*member) };
            }
            fence(Ordering::Release);
        };
        set_members(|member| member.0 != 0);
        alive.fetch_or(entry.alive, Ordering::Release);
        let buckets = buckets.cast::<u8>();
        for (bucket, place) in entry.buckets.iter().enumerate() {
            // SAFETY: a bucket of the valid entry; the data plane reads the byte meanwhile.
            unsafe { buckets.wrapping_add(bucket).write_volatile(*place) };
        }
        alive.store(entry.alive, Ordering::Release);
        set_members(|member| member.0 == 0);
    }

    fn alive(&self, id: GroupId) -> &AtomicU32 {
        let alive = self
            .entry(id.0)
            .wrapping_byte_add(offset_of!(GroupEntry, alive));
        // SAFETY: valid and aligned while the mapping lives; the data plane only reads, and by whole words.
        unsafe { AtomicU32::from_ptr(alive.cast()) }
    }
}

impl Mapped<NetworkEntry> {
    fn set_root(&self, network: NetworkId, family: Family, root: Root) {
        let entry = self.entry(network.0);
        // SAFETY: the pointer is valid, aligned (entries are 8 bytes in page-aligned memory), and all that write it do
        // so atomically; the data plane reads each root by one load.
        let roots = unsafe { AtomicU64::from_ptr(entry.cast()) };
        let mut both: [Root; 2] = unpack(roots.load(Ordering::Relaxed));
        both[usize::from(family == Family::V6)] = root;
        roots.store(pack(both), Ordering::Release);
    }
}

/// The two roots as they lie in memory, which is as one word.
fn pack([v4, v6]: [Root; 2]) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (v4.0.to_ne_bytes(), v6.0.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn unpack(word: u64) -> [Root; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [[a, b, c, d], [e, f, g, h]].map(|half| Root(u32::from_ne_bytes(half)))
}

impl Mapped<NeighbourEntry> {
    /// An entry that becomes resolved is complete before it says so.
    fn write(&self, id: NeighbourId, entry: NeighbourEntry) {
        let place = self.entry(id.0);
        let unresolved = NeighbourEntry {
            resolved: 0,
            ..entry
        };
        // SAFETY: the pointer is valid and aligned; the data plane may read the bytes meanwhile, as with any map.
        unsafe { place.write_volatile(unresolved) };
        fence(Ordering::Release);
        // SAFETY: the pointer is valid; only an address is taken.
        let resolved = unsafe { &raw mut (*place).resolved };
        // SAFETY: as above.
        unsafe { resolved.write_volatile(entry.resolved) };
    }

    /// The entries that packets can be sent by.
    pub(super) fn resolved(&self) -> impl Iterator<Item = NeighbourEntry> {
        (0..self.length as u32)
            .map(|index| {
                // SAFETY: the pointer is valid and aligned, and any bytes are an entry.
                unsafe { self.entry(index).read_volatile() }
            })
            .filter(|entry| entry.resolved == 1)
    }

    fn take_used(&self, id: NeighbourId) -> bool {
        // SAFETY: the pointer is valid; only its address is taken.
        let used = unsafe { &raw mut (*self.entry(id.0)).used };
        // SAFETY: valid and aligned; the data plane stores whole words there, and nobody holds a reference.
        unsafe { AtomicU32::from_ptr(used) }.swap(0, Ordering::Relaxed) != 0
    }
}

fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| Error::bpf(format!("find map {name}"), Missing))?;
    M::try_from(map).map_err(|source| Error::bpf(format!("use map {name}"), source))
}

/// A map as mere descriptor.
fn take_data(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(aya::maps::Map::Array(data)) => Ok(data),
        _ => Err(Error::bpf(format!("find array map {name}"), Missing)),
    }
}

fn absent_is_fine(result: std::result::Result<(), MapError>) -> std::result::Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// A hash refuses entries beyond its size with E2BIG.
fn hash_error(map: &str, table: &'static str, limit: usize, source: MapError) -> Error {
    match &source {
        MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
            Error::Full {
                table,
                limit: limit as u64,
                help: "take some out of the configuration",
            }
        }
        _ => Error::bpf(format!("write map {map}"), source),
    }
}
