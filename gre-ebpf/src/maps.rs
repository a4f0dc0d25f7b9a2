//! The maps, which the daemon fills and the pipeline reads through `tables.rs`.
//!
//! Names, key and value types are the ABI between program and daemon; sizes are defaults that the daemon may change
//! when it loads the program, but for `FIB`, whose size is compiled into the look-up.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, DevMapHash, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf,
};
use aya_ebpf::macros::btf_map;
use gre_common::counters::{DropKey, Stats};
use gre_common::entry::{
    AdjacencyEntry, GroupEntry, InterfaceEntry, NeighbourEntry, NetworkEntry, PortEntry,
    TunnelEntry,
};
use gre_common::event::Event;
use gre_common::key::{DemuxKeyV4, DemuxKeyV6, EndpointKey, MachineKey, VlanKey};
use gre_common::limits;

use crate::frame::Scratch;
use crate::sequence::Sequence;
use crate::tables::{FibMemory, LearntMac};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// What a device is to the gateway, by interface index.
#[btf_map]
pub(crate) static INTERFACES: Array<InterfaceEntry, { limits::INTERFACES }> = Array::new();
/// Ports by port id.
#[btf_map]
pub(crate) static PORTS: Array<PortEntry, { limits::PORTS }> = Array::new();
/// Port ids by device and tag.
#[btf_map]
pub(crate) static PORTS_BY_VLAN: HashMap<VlanKey, u32, { limits::PORTS }> = HashMap::new();
/// The gateway's outer addresses.
#[btf_map]
pub(crate) static ENDPOINTS: HashMap<EndpointKey, u32, { limits::ENDPOINTS }> = HashMap::new();
/// Tunnel ids by what IPv4 packets carry.
#[btf_map]
pub(crate) static DEMUX_V4: HashMap<DemuxKeyV4, u32, { limits::TUNNELS }> = HashMap::new();
/// Tunnel ids by what IPv6 packets carry.
#[btf_map]
pub(crate) static DEMUX_V6: HashMap<DemuxKeyV6, u32, { limits::TUNNELS }> = HashMap::new();
/// Tunnels by tunnel id.
#[btf_map]
pub(crate) static TUNNELS: Array<TunnelEntry, { limits::TUNNELS }> = Array::new();
/// Groups of tunnels by group id.
#[btf_map]
pub(crate) static GROUPS: Array<GroupEntry, { limits::GROUPS }, MMAPABLE> = Array::new();
/// Networks by network id.
#[btf_map]
pub(crate) static NETWORKS: Array<NetworkEntry, { limits::NETWORKS }, MMAPABLE> = Array::new();
/// The compiled routing tables of all networks.
#[btf_map]
pub(crate) static FIB: Array<FibMemory, 1, MMAPABLE> = Array::new();
/// Machines by neighbour id.
#[btf_map]
pub(crate) static NEIGHBOURS: Array<NeighbourEntry, { limits::NEIGHBOURS }, MMAPABLE> =
    Array::new();
/// Layer-2 addresses of machines that the daemon has not given a route yet.
#[btf_map]
pub(crate) static LEARNT: LruHashMap<MachineKey, LearntMac, { limits::LEARNT }> = LruHashMap::new();
/// Underlay next hops by adjacency id.
#[btf_map]
pub(crate) static ADJACENCIES: Array<AdjacencyEntry, { limits::ADJACENCIES }> = Array::new();
/// Traffic of tunnels by tunnel id.
#[btf_map]
pub(crate) static TUNNEL_STATS: PerCpuArray<Stats, { limits::TUNNELS }> = PerCpuArray::new();
/// Traffic of ports by port id.
#[btf_map]
pub(crate) static PORT_STATS: PerCpuArray<Stats, { limits::PORTS }> = PerCpuArray::new();
/// Drops by owner, direction and reason; an entry exists once something was dropped.
#[btf_map]
pub(crate) static DROPS: PerCpuHashMap<
    DropKey,
    u64,
    { limits::DROPS },
    { BPF_F_NO_PREALLOC as usize },
> = PerCpuHashMap::new();
/// Sequence numbers by tunnel id.
#[btf_map]
pub(crate) static SEQUENCES: Array<Sequence, { limits::TUNNELS }> = Array::new();
/// News for the daemon.
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { limits::EVENTS_BYTES }> = RingBuf::new();
/// Devices that frames may be sent on, by interface index.
#[btf_map]
pub(crate) static DEVICES: DevMapHash<{ limits::DEVICES }> = DevMapHash::new();
/// Programs for tail calls, by [`limits::RESOLVER`].
#[btf_map]
pub(crate) static PROGRAMS: ProgramArray<1> = ProgramArray::new();
/// The version of this ABI, written by the daemon.
#[btf_map]
pub(crate) static VERSION: Array<u32, 1> = Array::new();
/// Where payload is summed up.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
