//! The XDP programs in the kernel, with a [`Gateway`]'s tables in their maps, run packet by packet
//! (`BPF_PROG_TEST_RUN`) and attached to nothing.
//!
//! All calls must come from a thread in the network namespace that has the gateway's devices.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use aya::maps::{
    Array, DevMapHash, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, ProgramArray,
    RingBuf,
};
use aya::programs::{ProgramFd, TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use gre_common::counters::{Direction, DropKey, Owner, Stats};
use gre_common::entry::{
    AdjacencyEntry, GroupEntry, InterfaceEntry, NeighbourEntry, NetworkEntry, PortEntry,
    TunnelEntry,
};
use gre_common::event::Event;
use gre_common::id::{Address, IfIndex, NeighbourId, NetworkId, PortId, TunnelId};
use gre_common::key::{DemuxKeyV4, DemuxKeyV6, EndpointKey, MachineKey, VlanKey};
use gre_common::limits;
use gre_common::tables::SequenceEntry;
use gre_common::verdict::DropReason;
use gre_model::{Action, Counters, Gateway, Outcome};
use gre_userspace::fib::{Family, Fib, KernelGracePeriod, MappedArray};
use gre_userspace::object;

/// Frames up to this length lie in one buffer; longer ones in fragments.
pub const LINEAR: usize = 4096 - 256 - 320;

/// Counters of drops that this gateway can have: the map is walked after each packet.
const DROPS: u32 = 4096;
/// The longest frame that comes out: the longest that goes in, and room for outer headers.
const GREATEST_FRAME: usize = 1 << 16;

/// The loaded programs and their maps.
pub struct KernelGateway {
    ebpf: Ebpf,
    gateway: Gateway,
    /// All that are counted: those with an entry, and those that only a key leads to.
    tunnels: BTreeSet<TunnelId>,
    tunnel_stats: PerCpuArray<MapData, Plain<Stats>>,
    port_stats: PerCpuArray<MapData, Plain<Stats>>,
    drops: PerCpuHashMap<MapData, Plain<DropKey>, u64>,
    neighbours: Array<MapData, Plain<NeighbourEntry>>,
    sequences: Array<MapData, Plain<SequenceEntry>>,
    learnt: HashMap<MapData, Plain<MachineKey>, u64>,
    events: RingBuf<MapData>,
    output: Vec<u8>,
}

/// Which of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Forwards.
    Forwarder,
    /// Answers ARP and neighbour discovery.
    Resolver,
}

impl KernelGateway {
    /// Loads the object and fills its maps.
    ///
    /// # Panics
    /// If the verifier refuses a program, or a map an entry.
    pub fn load(gateway: &Gateway) -> Self {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("DROPS", DROPS)
            .load(object::OBJECT)
            .unwrap_or_else(|error| panic!("loading the BPF object: {error:?}"));
        let resolver = load_program(&mut ebpf, Program::Resolver);
        load_program(&mut ebpf, Program::Forwarder);
        ProgramArray::try_from(map(&mut ebpf, "PROGRAMS"))
            .and_then(|mut programs| programs.set(limits::RESOLVER, &resolver, 0))
            .unwrap_or_else(|error| panic!("PROGRAMS: {error}"));
        fill(&mut ebpf, gateway);
        Self {
            tunnels: gateway
                .tunnels
                .keys()
                .chain(gateway.demux_v4.values())
                .copied()
                .collect(),
            gateway: gateway.clone(),
            tunnel_stats: take(&mut ebpf, "TUNNEL_STATS"),
            port_stats: take(&mut ebpf, "PORT_STATS"),
            drops: take(&mut ebpf, "DROPS"),
            neighbours: take(&mut ebpf, "NEIGHBOURS"),
            sequences: take(&mut ebpf, "SEQUENCES"),
            learnt: take(&mut ebpf, "LEARNT"),
            events: take(&mut ebpf, "EVENTS"),
            output: vec![0; GREATEST_FRAME],
            ebpf,
        }
    }

    /// Runs one frame as if `device` had received it.
    ///
    /// # Panics
    /// If the kernel does not run it: a frame shorter than 14 bytes, or no such device.
    pub fn run(&mut self, device: IfIndex, frame: &[u8]) -> Outcome {
        let mut output = std::mem::take(&mut self.output);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ctx_in: Some(&context(device, frame)),
            ..TestRunOptions::new()
        };
        let result = program(&self.ebpf, Program::Forwarder)
            .test_run(options)
            .unwrap_or_else(|error| panic!("running {} bytes: {error:?}", frame.len()));
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            4 => Action::Redirect,
            other => panic!("the program returned {other}"),
        };
        let frame = match action {
            Action::Drop => Vec::new(),
            Action::Pass | Action::Redirect => output[..result.data_size_out as usize].to_vec(),
        };
        self.output = output;
        Outcome { action, frame }
    }

    /// Runs one frame and only tells the program's return value: what a million of runs can afford.
    ///
    /// # Panics
    /// As [`KernelGateway::run`].
    pub fn run_blindly(&self, device: IfIndex, frame: &[u8]) -> u32 {
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context(device, frame)),
            ..TestRunOptions::new()
        };
        program(&self.ebpf, Program::Forwarder)
            .test_run(options)
            .unwrap_or_else(|error| panic!("running {} bytes: {error:?}", frame.len()))
            .return_value
    }

    /// Receives a frame and really sends what becomes of it.
    ///
    /// # Panics
    /// As [`KernelGateway::run`].
    pub fn run_live(&self, device: IfIndex, frame: &[u8]) {
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context(device, frame)),
            attrs: TestRunAttrs::new().xdp_live_frames(1),
            ..TestRunOptions::new()
        };
        program(&self.ebpf, Program::Forwarder)
            .test_run(options)
            .unwrap_or_else(|error| panic!("running {} live bytes: {error:?}", frame.len()));
    }

    /// Everything counted so far. Walks all counters: for single ones there are [`KernelGateway::stats`] and
    /// [`KernelGateway::drops`].
    ///
    /// # Panics
    /// If a map cannot be read, or has what the program does not count.
    pub fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        let tunnels = self.tunnels.iter().map(|id| Owner::Tunnel(*id));
        let ports = self.gateway.ports.keys().map(|id| Owner::Port(*id));
        let stats = tunnels.chain(ports).map(|owner| (owner, self.stats(owner)));
        counters.stats = stats
            .filter(|(_, stats)| *stats != Stats::default())
            .collect();
        for entry in &self.drops {
            let (Plain(key), counts) = entry.unwrap_or_else(|error| panic!("DROPS: {error}"));
            let reason = DropReason::from_number(key.reason);
            let direction = match key.direction {
                0 => Direction::Receive,
                1 => Direction::Transmit,
                other => panic!("DROPS has direction {other}"),
            };
            let (Some(owner), Some(reason)) = (key.owner(), reason) else {
                panic!("DROPS has {key:?}");
            };
            let count = counts.iter().sum();
            counters.drops.insert((owner, direction, reason), count);
        }
        counters
    }

    /// The traffic of one owner.
    ///
    /// # Panics
    /// If the map cannot be read.
    pub fn stats(&self, owner: Owner) -> Stats {
        match owner {
            Owner::Tunnel(id) => sum(&self.tunnel_stats, id.0),
            Owner::Port(id) => sum(&self.port_stats, id.0),
            Owner::Underlay(_) => Stats::default(),
        }
    }

    /// How often a packet was dropped for this reason.
    ///
    /// # Panics
    /// If the map cannot be read.
    pub fn drops(&self, owner: Owner, direction: Direction, reason: DropReason) -> u64 {
        let key = Plain(DropKey::new(owner, direction, reason as u16));
        match self.drops.get(&key, 0) {
            Ok(counts) => counts.iter().sum(),
            Err(MapError::KeyNotFound) => 0,
            Err(error) => panic!("DROPS: {error}"),
        }
    }

    /// The events since the last call.
    ///
    /// # Panics
    /// If an event is not one.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.next().map(|bytes| event(&bytes))).collect()
    }

    /// The machines that were sent to.
    ///
    /// # Panics
    /// If the map cannot be read.
    pub fn used_neighbours(&self) -> BTreeSet<NeighbourId> {
        let ids = self.gateway.neighbours.keys().copied();
        ids.filter(|id| self.neighbour(*id).used != 0).collect()
    }

    /// The sequence numbers of a tunnel.
    ///
    /// # Panics
    /// If the map cannot be read.
    pub fn sequence(&self, id: TunnelId) -> SequenceEntry {
        let Plain(entry) = self
            .sequences
            .get(&id.0, 0)
            .unwrap_or_else(|error| panic!("SEQUENCES: {error}"));
        entry
    }

    /// Forgets all sequence numbers and the machines that were learnt.
    ///
    /// # Panics
    /// If a map cannot be written.
    pub fn forget(&mut self) {
        for id in self.gateway.tunnels.keys() {
            self.sequences
                .set(id.0, Plain(SequenceEntry::default()), 0)
                .unwrap_or_else(|error| panic!("SEQUENCES: {error}"));
        }
        let learnt: Vec<_> = self.learnt.keys().flatten().collect();
        for machine in learnt {
            self.learnt
                .remove(&machine)
                .unwrap_or_else(|error| panic!("LEARNT: {error}"));
        }
    }

    fn neighbour(&self, id: NeighbourId) -> NeighbourEntry {
        let Plain(entry) = self
            .neighbours
            .get(&id.0, 0)
            .unwrap_or_else(|error| panic!("NEIGHBOURS: {error}"));
        entry
    }
}

/// A map key or value as its bytes.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
struct Plain<T>(T);

/// The table entries of `gre_common`: `repr(C)`, without padding, any bits valid.
trait Entry: Copy + 'static {}

macro_rules! entries {
    ($($name:ty),*) => { $(impl Entry for $name {})* };
}
entries!(
    InterfaceEntry,
    PortEntry,
    TunnelEntry,
    GroupEntry,
    NetworkEntry,
    NeighbourEntry,
    AdjacencyEntry,
    VlanKey,
    DemuxKeyV4,
    DemuxKeyV6,
    EndpointKey,
    MachineKey,
    DropKey,
    Stats,
    SequenceEntry
);

// SAFETY: transparent over an entry, whose sizes `gre_common` asserts to have no padding.
unsafe impl<T: Entry> Pod for Plain<T> {}

fn load_program(ebpf: &mut Ebpf, which: Program) -> ProgramFd {
    let program = ebpf
        .program_mut(name(which))
        .and_then(|program| <&mut Xdp>::try_from(program).ok());
    let program = program.unwrap_or_else(|| panic!("the object has no program {}", name(which)));
    let loaded = program
        .load()
        .and_then(|()| program.fd()?.try_clone().map_err(Into::into));
    loaded.unwrap_or_else(|error| panic!("program {}: {error}", name(which)))
}

fn name(which: Program) -> &'static str {
    match which {
        Program::Forwarder => object::GATEWAY,
        Program::Resolver => object::RESOLVER,
    }
}

fn program(ebpf: &Ebpf, which: Program) -> &Xdp {
    let program = ebpf
        .program(name(which))
        .and_then(|program| program.try_into().ok());
    program.unwrap_or_else(|| unreachable!("loaded in `load`"))
}

fn fill(ebpf: &mut Ebpf, gateway: &Gateway) {
    fill_array(
        ebpf,
        "INTERFACES",
        gateway.interfaces.iter().map(|(id, entry)| (id.0, *entry)),
    );
    fill_array(
        ebpf,
        "PORTS",
        gateway.ports.iter().map(|(id, entry)| (id.0, *entry)),
    );
    fill_array(
        ebpf,
        "TUNNELS",
        gateway.tunnels.iter().map(|(id, entry)| (id.0, *entry)),
    );
    fill_array(
        ebpf,
        "ADJACENCIES",
        gateway.adjacencies.iter().map(|(id, entry)| (id.0, *entry)),
    );
    fill_array(
        ebpf,
        "NEIGHBOURS",
        gateway.neighbours.iter().map(|(id, entry)| (id.0, *entry)),
    );
    fill_array(
        ebpf,
        "GROUPS",
        gateway.groups.iter().map(|(id, entry)| (id.0, *entry)),
    );
    let networks = compile_routes(ebpf, gateway);
    fill_array(ebpf, "NETWORKS", networks.into_iter());
    fill_hash(
        ebpf,
        "PORTS_BY_VLAN",
        gateway.tagged_ports.iter().map(|(key, id)| (*key, id.0)),
    );
    fill_hash(
        ebpf,
        "ENDPOINTS",
        gateway.endpoints.iter().map(|key| (*key, 1)),
    );
    fill_hash(
        ebpf,
        "DEMUX_V4",
        gateway.demux_v4.iter().map(|(key, id)| (*key, id.0)),
    );
    fill_hash(
        ebpf,
        "DEMUX_V6",
        gateway.demux_v6.iter().map(|(key, id)| (*key, id.0)),
    );
    let mut devices = DevMapHash::try_from(map(ebpf, "DEVICES"))
        .unwrap_or_else(|error| panic!("DEVICES: {error}"));
    for device in &gateway.devices {
        devices
            .insert(device.0, device.0, None, 0)
            .unwrap_or_else(|error| panic!("DEVICES, {device}: {error}"));
    }
}

/// Compiles the routes into the map `FIB` and returns what `NETWORKS` then has to say.
fn compile_routes(ebpf: &mut Ebpf, gateway: &Gateway) -> Vec<(u32, NetworkEntry)> {
    let Map::Array(data) = map(ebpf, "FIB") else {
        panic!("FIB is not an array");
    };
    let memory = MappedArray::new(data.fd().as_fd(), limits::FIB_BYTES)
        .unwrap_or_else(|error| panic!("mapping FIB: {error}"));
    let mut fib =
        Fib::new(memory, KernelGracePeriod).unwrap_or_else(|error| panic!("FIB: {error}"));
    let networks: BTreeSet<NetworkId> =
        gateway.routes.keys().map(|(network, _)| *network).collect();
    let compile = |network: NetworkId| {
        let routes = gateway.routes.iter().filter(|((of, _), _)| *of == network);
        let mut entry = NetworkEntry::default();
        fib.replace(
            network,
            routes.map(|((_, prefix), next_hop)| (*prefix, *next_hop)),
            |family, root| match family {
                Family::V4 => entry.root_v4 = root.0,
                Family::V6 => entry.root_v6 = root.0,
            },
        )
        .unwrap_or_else(|error| panic!("routes of network {network}: {error}"));
        (network.0, entry)
    };
    networks.into_iter().map(compile).collect()
}

fn fill_array<T: Entry>(ebpf: &mut Ebpf, name: &str, entries: impl Iterator<Item = (u32, T)>) {
    let mut array = Array::<_, Plain<T>>::try_from(map(ebpf, name))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    for (index, entry) in entries {
        array
            .set(index, Plain(entry), 0)
            .unwrap_or_else(|error| panic!("{name}, {index}: {error}"));
    }
}

fn fill_hash<K: Entry>(ebpf: &mut Ebpf, name: &str, entries: impl Iterator<Item = (K, u32)>) {
    let mut hash = HashMap::<_, Plain<K>, u32>::try_from(map(ebpf, name))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    for (key, value) in entries {
        hash.insert(Plain(key), value, 0)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

fn map<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut Map {
    ebpf.map_mut(name)
        .unwrap_or_else(|| panic!("the object has no map {name}"))
}

/// Takes a map for good; the programs keep using it.
fn take<M: TryFrom<Map>>(ebpf: &mut Ebpf, name: &str) -> M
where
    M::Error: std::fmt::Display,
{
    let map = ebpf
        .take_map(name)
        .unwrap_or_else(|| panic!("the object has no map {name}"));
    M::try_from(map).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The `struct xdp_md` that says where the frame came from.
fn context(device: IfIndex, frame: &[u8]) -> [u8; 24] {
    let mut context = [0; 24];
    // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&device.0.to_ne_bytes());
    context
}

fn sum(stats: &PerCpuArray<MapData, Plain<Stats>>, id: u32) -> Stats {
    let values = stats
        .get(&id, 0)
        .unwrap_or_else(|error| panic!("counters of {id}: {error}"));
    values
        .iter()
        .fold(Stats::default(), |sum, Plain(one)| Stats {
            receive_packets: sum.receive_packets + one.receive_packets,
            receive_bytes: sum.receive_bytes + one.receive_bytes,
            transmit_packets: sum.transmit_packets + one.transmit_packets,
            transmit_bytes: sum.transmit_bytes + one.transmit_bytes,
        })
}

/// Reads a record of `EVENTS` as `gre_common::event::Event` lays it out.
fn event(bytes: &[u8]) -> Event {
    let record: [u8; size_of::<Event>()] = bytes
        .try_into()
        .unwrap_or_else(|_| panic!("an event of {} bytes", bytes.len()));
    let mut event = Event::missing(PortId::default(), Address::v4([0; 4]));
    event.address.copy_from_slice(&record[..16]);
    event.port = PortId(u32::from_ne_bytes([
        record[16], record[17], record[18], record[19],
    ]));
    event.mac.0.copy_from_slice(&record[20..26]);
    event.kind = record[26];
    event.family = record[27];
    event
}
