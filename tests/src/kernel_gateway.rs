//! The XDP programs in the kernel, with a [`Gateway`]'s tables in their maps, run packet by packet
//! (`BPF_PROG_TEST_RUN`) and attached to nothing.
//!
//! All calls must come from a thread in the network namespace that has the gateway's devices.

use std::cell::RefCell;
use std::collections::BTreeSet;

use aya::maps::{
    Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, ProgramArray,
    RingBuf,
};
use aya::programs::{ProgramFd, TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, Pod};
use gre_common::counters::{Direction, DropKey, Owner, Stats};
use gre_common::event::Event;
use gre_common::id::{Address, IfIndex, NeighbourId, NetworkId, PortId, TunnelId};
use gre_common::key::MachineKey;
use gre_common::limits;
use gre_common::tables::SequenceEntry;
use gre_common::verdict::DropReason;
use gre_model::{Action, Counters, Gateway, Outcome};
use gre_userspace::dataplane::Maps;
use gre_userspace::fib::{Fib, KernelGracePeriod, MappedArray};
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
    maps: Maps,
    gateway: Gateway,
    tunnels: BTreeSet<TunnelId>,
    used: RefCell<BTreeSet<NeighbourId>>,
    drops: PerCpuHashMap<MapData, Plain<DropKey>, u64>,
    sequences: Array<MapData, Plain<SequenceEntry>>,
    learnt: HashMap<MapData, Plain<MachineKey>, u64>,
    events: RingBuf<MapData>,
    event_budgets: PerCpuArray<MapData, u64>,
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
        Self {
            tunnels: gateway.tunnels.keys().copied().collect(),
            gateway: gateway.clone(),
            used: RefCell::default(),
            drops: share(&ebpf, "DROPS"),
            sequences: share(&ebpf, "SEQUENCES"),
            learnt: share(&ebpf, "LEARNT"),
            event_budgets: share(&ebpf, "EVENT_BUDGETS"),
            maps: fill(&mut ebpf, gateway),
            events: events(&mut ebpf),
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
        self.maps
            .stats(owner)
            .unwrap_or_else(|error| panic!("counters of {owner:?}: {error}"))
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

    /// Gives a port its whole budget of events again.
    ///
    /// # Panics
    /// If the map cannot be written.
    pub fn renew_event_budget(&mut self, port: PortId) {
        let written = nr_cpus()
            .map_err(|(_, error)| error)
            .and_then(|cpus| PerCpuValues::try_from(vec![0; cpus]))
            .map_err(MapError::from)
            .and_then(|values| self.event_budgets.set(port.0, values, 0));
        written.unwrap_or_else(|error| panic!("EVENT_BUDGETS: {error}"));
    }

    /// The machines that were sent to.
    pub fn used_neighbours(&self) -> BTreeSet<NeighbourId> {
        let ids = self.gateway.neighbours.keys().copied();
        let mut used = self.used.borrow_mut();
        used.extend(ids.filter(|id| self.maps.take_used(*id)));
        used.clone()
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

    /// Sets the sequence numbers of a tunnel.
    ///
    /// # Panics
    /// If the map cannot be written.
    pub fn set_sequence(&mut self, id: TunnelId, entry: SequenceEntry) {
        self.sequences
            .set(id.0, Plain(entry), 0)
            .unwrap_or_else(|error| panic!("SEQUENCES: {error}"));
    }

    /// Forgets all sequence numbers and the machines that were learnt.
    ///
    /// # Panics
    /// If a map cannot be written.
    pub fn forget(&mut self) {
        for id in self.tunnels.clone() {
            self.set_sequence(id, SequenceEntry::default());
        }
        let learnt: Vec<_> = self.learnt.keys().flatten().collect();
        for machine in learnt {
            self.learnt
                .remove(&machine)
                .unwrap_or_else(|error| panic!("LEARNT: {error}"));
        }
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
entries!(MachineKey, DropKey, SequenceEntry);

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

fn fill(ebpf: &mut Ebpf, gateway: &Gateway) -> Maps {
    let (mut maps, memory) =
        Maps::take(ebpf).unwrap_or_else(|error| panic!("the object's maps: {error:?}"));
    for (id, entry) in &gateway.groups {
        maps.set_group(*id, entry);
    }
    for (id, entry) in &gateway.ports {
        maps.set_port(*id, *entry);
    }
    for ((device, vlan), port) in &gateway.tagged_ports {
        let result = maps.set_tagged_port(*device, *vlan, Some(*port));
        result.unwrap_or_else(|error| panic!("VLAN {vlan} of {device}: {error:?}"));
    }
    for (device, entry) in &gateway.interfaces {
        let untagged = Some(entry.untagged.id).filter(|id| *id != PortId(0));
        let tagged = gateway.tagged_ports.keys().any(|(on, _)| on == device);
        maps.set_interface(*device, *entry, untagged, tagged);
    }
    for (id, entry) in &gateway.tunnels {
        maps.set_tunnel(*id, *entry);
    }
    for (id, entry) in &gateway.adjacencies {
        maps.set_adjacency(*id, *entry);
    }
    for (id, entry) in &gateway.neighbours {
        maps.set_neighbour(*id, *entry);
    }
    for (key, id) in &gateway.demux {
        let result = maps.set_demux(*key, Some(*id));
        result.unwrap_or_else(|error| panic!("the key of tunnel {id}: {error:?}"));
    }
    for address in &gateway.endpoints {
        let result = maps.set_endpoint((*address).into(), true);
        result.unwrap_or_else(|error| panic!("endpoint {address}: {error:?}"));
    }
    for device in &gateway.devices {
        let result = maps.set_redirect(*device, true);
        result.unwrap_or_else(|error| panic!("redirect to {device}: {error:?}"));
    }
    compile_routes(&mut maps, memory, gateway);
    maps
}

fn compile_routes(maps: &mut Maps, memory: MappedArray, gateway: &Gateway) {
    let mut fib =
        Fib::new(memory, KernelGracePeriod).unwrap_or_else(|error| panic!("FIB: {error}"));
    let networks: BTreeSet<NetworkId> =
        gateway.routes.keys().map(|(network, _)| *network).collect();
    for network in networks {
        let routes = gateway.routes.iter().filter(|((of, _), _)| *of == network);
        fib.replace(
            network,
            routes.map(|((_, prefix), next_hop)| (*prefix, *next_hop)),
            |family, root| maps.set_root(network, family, root),
        )
        .unwrap_or_else(|error| panic!("routes of network {network}: {error}"));
    }
}

fn map<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut Map {
    ebpf.map_mut(name)
        .unwrap_or_else(|| panic!("the object has no map {name}"))
}

/// Opens a map of the object beside those that [`Maps`] takes.
fn share<M: TryFrom<Map>>(ebpf: &Ebpf, name: &str) -> M
where
    M::Error: std::fmt::Display,
{
    let map = match ebpf.map(name) {
        Some(Map::Array(map)) => Map::Array(again(map, name)),
        Some(Map::PerCpuArray(map)) => Map::PerCpuArray(again(map, name)),
        Some(Map::PerCpuHashMap(map)) => Map::PerCpuHashMap(again(map, name)),
        Some(Map::LruHashMap(map)) => Map::LruHashMap(again(map, name)),
        _ => panic!("the object has no such map {name}"),
    };
    M::try_from(map).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn again(map: &MapData, name: &str) -> MapData {
    map.info()
        .and_then(|info| MapData::from_id(info.id()))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Takes the ring buffer for good; the programs keep using it.
fn events(ebpf: &mut Ebpf) -> RingBuf<MapData> {
    let map = ebpf.take_map("EVENTS");
    let events = map.and_then(|map| RingBuf::try_from(map).ok());
    events.unwrap_or_else(|| panic!("the object has no ring buffer EVENTS"))
}

/// The `struct xdp_md` that says where the frame came from.
fn context(device: IfIndex, frame: &[u8]) -> [u8; 24] {
    let mut context = [0; 24];
    // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&device.0.to_ne_bytes());
    context
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
