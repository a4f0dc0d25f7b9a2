//! The maps, which the daemon fills and the pipeline reads through `tables.rs`.
//!
//! Names, key and value types are the ABI between program and daemon. All that is found by an id is in `TABLES`; counters
//! and sequence numbers have maps of their own, which outlive a generation of the program.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, DevMapHash, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf,
};
use aya_ebpf::macros::btf_map;
use gre_common::counters::{DropKey, Stats};
use gre_common::event::Event;
use gre_common::event_budget::EventBudget;
use gre_common::key::{EndpointKey, MachineKey};
use gre_common::limits;
use gre_common::memory::Memory;

use crate::frame::Scratch;
use crate::sequence::Sequence;
use crate::tables::LearntMac;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// The dense tables.
#[btf_map]
pub(crate) static TABLES: Array<Memory, 1, MMAPABLE> = Array::new();
/// The gateway's outer addresses.
#[btf_map]
pub(crate) static ENDPOINTS: HashMap<EndpointKey, u32, { limits::ENDPOINTS }> = HashMap::new();
/// Layer-2 addresses of machines that the daemon has not given a route yet.
#[btf_map]
pub(crate) static LEARNT: LruHashMap<MachineKey, LearntMac, { limits::LEARNT }> = LruHashMap::new();
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
/// What each port may send there, by port id.
#[btf_map]
pub(crate) static EVENT_BUDGETS: PerCpuArray<EventBudget, { limits::PORTS }> = PerCpuArray::new();
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
