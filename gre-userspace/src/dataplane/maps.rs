//! The maps of one loaded program, by name and with the types that `gre-common` gives their entries.
//!
//! Made by `load`, written by `apply` and read for reports. Nothing is decided here but where in the memory things lie.

use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use aya::{Ebpf, Pod};
use gre_common::counters::{Direction, DropKey, Owner, Stats};
use gre_common::entry::{
    AdjacencyEntry, GroupEntry, InterfaceEntry, NeighbourEntry, PortEntry, TunnelEntry,
};
use gre_common::fib::Root;
use gre_common::id::{
    Address, AdjacencyId, GroupId, IfIndex, NeighbourId, NetworkId, PortId, TunnelId, VlanId,
};
use gre_common::key::{DemuxKey, EndpointKey, MachineKey};
use gre_common::limits;
use gre_common::tables::SequenceEntry;
use gre_common::verdict::DropReason;

use super::demux::DemuxIndex;
use super::load::Missing;
use super::memory::MappedMemory;
use super::vlans::VlanTables;
use crate::error::{Error, Result};
use crate::fib::{Family, KernelGracePeriod, MappedArray};

/// Every map that the daemon writes or reads.
pub struct Maps {
    memory: MappedMemory,
    demux: DemuxIndex,
    vlans: VlanTables,
    endpoints: HashMap<MapData, Plain<EndpointKey>, u32>,
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
        let tables = take_data(ebpf, "TABLES")?;
        let fib = MappedArray::new(tables.fd(), limits::FIB_BYTES)
            .map_err(|source| Error::bpf("map the memory of map TABLES", source))?;
        let maps = Self {
            memory: MappedMemory::new(&tables)?,
            demux: DemuxIndex::default(),
            vlans: VlanTables::default(),
            endpoints: take(ebpf, "ENDPOINTS")?,
            tunnel_stats: take(ebpf, "TUNNEL_STATS")?,
            port_stats: take(ebpf, "PORT_STATS")?,
            drops: take(ebpf, "DROPS")?,
            sequences: take(ebpf, "SEQUENCES")?,
            learnt: take(ebpf, "LEARNT")?,
            devices: take(ebpf, "DEVICES")?,
        };
        Ok((maps, fib))
    }

    /// What the gateway makes of a device's frames, with the port of untagged ones and whether tags lead to
    /// ports; a default entry leaves them to the kernel. Ports come before.
    pub fn set_interface(
        &mut self,
        device: IfIndex,
        entry: InterfaceEntry,
        untagged: Option<PortId>,
        tagged: bool,
    ) {
        let entry = InterfaceEntry {
            untagged: self.memory.attached(untagged),
            vlans: if tagged { self.vlans.of(device) } else { 0 },
            ..entry
        };
        self.memory.set_interface(device, entry);
    }

    /// Writes a port; a default entry takes it away.
    pub fn set_port(&mut self, id: PortId, entry: PortEntry) {
        self.memory.set_port(id, entry);
    }

    /// Removes what the data plane remembers of a machine by itself. Nothing depends on it: such an entry gives way to
    /// any newer one.
    pub fn forget_learnt(&mut self, port: PortId, address: Address) {
        let _ = self.learnt.remove(&Plain(MachineKey::new(port, address)));
    }

    /// Whose frames with this tag are; `None`: the kernel's. The port comes before,
    /// and the device's [`Maps::set_interface`] after its first tag.
    pub fn set_tagged_port(
        &mut self,
        device: IfIndex,
        vlan: VlanId,
        port: Option<PortId>,
    ) -> Result<()> {
        match port {
            Some(port) => self.vlans.insert(&self.memory, device, vlan, port),
            None => {
                self.vlans.remove(&self.memory, device, vlan);
                Ok(())
            }
        }
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

    /// Which tunnel packets belong to; `None`: to no tunnel. The tunnel comes before, and its own entry has the last word.
    pub fn set_demux(&mut self, key: DemuxKey, tunnel: Option<TunnelId>) -> Result<()> {
        match tunnel {
            Some(tunnel) => self
                .demux
                .insert(&self.memory, &mut KernelGracePeriod, key, tunnel),
            None => {
                self.demux.remove(&self.memory, &key);
                Ok(())
            }
        }
    }

    /// Writes a tunnel, which stays in its network as long as packets are led there; a default entry takes it away.
    pub fn set_tunnel(&mut self, id: TunnelId, entry: TunnelEntry) {
        self.memory.set_tunnel(id, entry);
    }

    /// Writes a group, or changes it under the packets that it takes; a default entry takes it away.
    pub fn set_group(&mut self, id: GroupId, entry: &GroupEntry) {
        self.memory.set_group(id, entry);
    }

    /// Tells a group which of its members are alive.
    pub fn set_group_liveness(&mut self, id: GroupId, alive: u32) {
        self.memory.set_group_liveness(id, alive);
    }

    /// Publishes the root of one of a network's routing tables.
    pub fn set_root(&mut self, network: NetworkId, family: Family, root: Root) {
        self.memory.set_root(network, family, root);
    }

    /// Writes a machine; a default entry takes it away.
    pub fn set_neighbour(&mut self, id: NeighbourId, entry: NeighbourEntry) {
        self.memory.set_neighbour(id, entry);
    }

    /// Whether the data plane has sent to the machine since the last call.
    pub fn take_used(&self, id: NeighbourId) -> bool {
        self.memory.take_used(id)
    }

    /// Writes an underlay next hop.
    pub fn set_adjacency(&mut self, id: AdjacencyId, entry: AdjacencyEntry) {
        self.memory.set_adjacency(id, entry);
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
        Ok(values.iter().map(|cpu| cpu.0).sum())
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

    /// The drop counters that are charged to `owner`, of all CPUs together, without walking over those of others.
    pub fn drops_of(&self, owner: Owner) -> Result<Vec<(DropKey, u64)>> {
        let mut found = Vec::new();
        for key in drop_keys(owner) {
            match self.drops.get(&Plain(key), 0) {
                Ok(values) => found.push((key, values.iter().sum())),
                Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(Error::bpf("read drop counters", source)),
            }
        }
        Ok(found)
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
        for key in drop_keys(owner) {
            absent_is_fine(self.drops.remove(&Plain(key)))
                .map_err(|source| Error::bpf("clear drop counters", source))?;
        }
        Ok(())
    }
}

/// All drop counters that an owner may have.
fn drop_keys(owner: Owner) -> impl Iterator<Item = DropKey> {
    [Direction::Receive, Direction::Transmit]
        .into_iter()
        .flat_map(move |direction| {
            (0..DropReason::LIMIT).map(move |reason| DropKey::new(owner, direction, reason))
        })
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

plain!(DropKey, EndpointKey, MachineKey, SequenceEntry, Stats,);

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
