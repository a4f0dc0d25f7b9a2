//! The pipeline's tables: the memory of the dense ones, and BPF maps for the others.
//!
//! Nothing is decided here: each method is one access.

use core::ptr;

use aya_ebpf::bindings::BPF_RB_AVAIL_DATA;
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ringbuf_query};
use gre_common::bound;
use gre_common::counters::{Direction, DropKey, Owner, Stats};
use gre_common::demux;
use gre_common::entry::{
    AdjacencyEntry, AttachedPort, InterfaceEntry, NeighbourEntry, PortEntry, TunnelEntry,
};
use gre_common::event::Event;
use gre_common::fib::{self, Root, Store};
use gre_common::id::{
    Address, AdjacencyId, Family, GroupId, IfIndex, MacAddress, NeighbourId, NetworkId, PortId,
    TunnelId, VlanId,
};
use gre_common::key::{DemuxKey, EndpointKey, MachineKey};
use gre_common::limits;
use gre_common::memory::Memory;
use gre_common::next_hop::NextHop;
use gre_common::pipeline::group;
use gre_common::tables::Tables;
use gre_common::verdict::DropReason;

use crate::maps;
use crate::sequence::Sequence;

/// Where the dense tables are.
#[derive(Clone, Copy)]
pub(crate) struct KernelTables {
    memory: *mut Memory,
}

/// Value of `LEARNT`, aligned as the verifier wants copies on the stack to be.
#[repr(C, align(8))]
pub(crate) struct LearntMac(MacAddress, [u8; 2]);

impl KernelTables {
    /// Finds the dense tables, which are always there.
    #[inline(always)]
    pub(crate) fn get() -> Option<Self> {
        maps::TABLES.get_ptr_mut(0).map(|memory| Self { memory })
    }

    #[inline(always)]
    fn memory(&self) -> &Memory {
        // SAFETY: the pointer comes from a map look-up, and maps live as long as programs that use them. The daemon may
        // write meanwhile: what is read may be of two moments, and any bytes are an entry.
        unsafe { &*self.memory }
    }
}

impl Tables for KernelTables {
    type Sequence = Sequence;

    #[inline(always)]
    fn interface(&self, device: IfIndex) -> Option<&InterfaceEntry> {
        self.memory().interface(device)
    }

    #[inline(always)]
    fn tagged_port(&self, vlans: u32, vlan: VlanId) -> AttachedPort {
        self.memory().tagged_port(vlans, vlan)
    }

    #[inline(always)]
    fn port(&self, id: PortId) -> &PortEntry {
        self.memory().port(id)
    }

    #[inline(always)]
    fn demux(&self, key: &DemuxKey) -> Option<demux::Slot> {
        self.memory().demux(key)
    }

    #[inline(always)]
    fn is_endpoint(&self, key: &EndpointKey) -> bool {
        maps::ENDPOINTS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn tunnel(&self, id: TunnelId) -> &TunnelEntry {
        self.memory().tunnel(id)
    }

    #[inline(always)]
    fn route(&self, network: NetworkId, destination: &Address) -> NextHop {
        let network = self.memory().network(network);
        NextHop(match destination.family() {
            Family::V4 => fib::look_up(self, Root(network.root_v4), destination.to_v4()).0,
            Family::V6 => {
                let (high, low) = destination.halves();
                gregw_look_up_v6(network.root_v6, high, low)
            }
        })
    }

    #[inline(always)]
    fn member(&self, group: GroupId, flow: u64) -> TunnelId {
        TunnelId(gregw_choose_member(group.0, flow))
    }

    #[inline(always)]
    fn neighbour(&self, id: NeighbourId) -> &NeighbourEntry {
        self.memory().neighbour(id)
    }

    #[inline(always)]
    fn touch_neighbour(&self, id: NeighbourId) {
        let place = bound::index::<{ limits::NEIGHBOURS }>(id.0);
        // SAFETY: as in `memory`; only an address is taken.
        let used = unsafe { &raw mut (*self.memory).neighbours[place].used };
        // SAFETY: the field is only ever 0 or 1, and written by single stores. A store
        // only where needed keeps the cache line shared between CPUs.
        if unsafe { ptr::read_volatile(used) } == 0 {
            // SAFETY: as above.
            unsafe { ptr::write_volatile(used, 1) };
        }
    }

    #[inline(always)]
    fn learnt(&self, machine: &MachineKey) -> Option<MacAddress> {
        let entry = maps::LEARNT.get_ptr(machine)?;
        // SAFETY: the pointer comes from a map look-up; a torn read sends one frame to a wrong address of the link.
        Some(unsafe { (*entry).0 })
    }

    #[inline(always)]
    fn learn(&self, machine: &MachineKey, mac: MacAddress) {
        // An entry that finds no room is learnt again with the next question of the machine.
        let _ = maps::LEARNT.insert(machine, LearntMac(mac, [0; 2]), 0);
    }

    #[inline(always)]
    fn adjacency(&self, id: AdjacencyId) -> &AdjacencyEntry {
        self.memory().adjacency(id)
    }

    #[inline(always)]
    fn sequence(&self, id: TunnelId) -> Option<&Sequence> {
        maps::SEQUENCES.get(id.0)
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        now()
    }

    #[inline(always)]
    fn emit(&self, event: &Event) {
        if gregw_spend_event(event.port.0) != 0 {
            // A full buffer means that the daemon has enough to do; it learns the same from a later packet.
            let _ = maps::EVENTS.output(*event, 0);
        }
    }

    #[inline(always)]
    fn prefetch_count(&self, owner: Owner) {
        if let Some(stats) = stats(owner) {
            // SAFETY: the slot belongs to this CPU, and any bytes are a number. What is read is not needed.
            unsafe { ptr::read_volatile(stats.cast::<u64>()) };
        }
    }

    #[inline(always)]
    fn count(&self, owner: Owner, direction: Direction, bytes: u32) {
        let Some(stats) = stats(owner) else { return };
        // SAFETY: the slot belongs to this CPU, and programs on it are not preempted by each other.
        unsafe { &mut *stats }.count(direction, bytes);
    }

    #[inline(never)]
    fn count_drop(&self, owner: Owner, direction: Direction, reason: DropReason) {
        let key = DropKey::new(owner, direction, reason as u16);
        match maps::DROPS.get_ptr_mut(key) {
            // SAFETY: the slot belongs to this CPU.
            Some(count) => unsafe { *count += 1 },
            // Beyond a million counters that are in use, another one finds no room and the drop goes uncounted.
            None => drop(maps::DROPS.insert(key, 1u64, 0)),
        }
    }
}

/// This CPU's counters of a port or tunnel.
#[inline(always)]
fn stats(owner: Owner) -> Option<*mut Stats> {
    match owner {
        Owner::Tunnel(id) => maps::TUNNEL_STATS.get_ptr_mut(id.0),
        Owner::Port(id) => maps::PORT_STATS.get_ptr_mut(id.0),
        Owner::Underlay(_) => None,
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing and reads a clock.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Look-up in an IPv6 table; the address in two halves. Exported, because the verifier checks such functions once and for
/// all arguments, not anew on each of the many ways that lead here.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregw_look_up_v6(root: u32, high: u64, low: u64) -> u32 {
    let address = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    KernelTables::get().map_or(0, |tables| fib::look_up(&tables, Root(root), address).0)
}

/// Choice of a group's member. Exported for the same reason.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregw_choose_member(id: u32, flow: u64) -> u32 {
    KernelTables::get().map_or(0, |tables| {
        group::choose(tables.memory().group(GroupId(id)), flow).0
    })
}

/// Whether a port may send one more event: not 0. Exported for the same reason.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregw_spend_event(port: u32) -> u32 {
    let Some(budget) = maps::EVENT_BUDGETS.get_ptr_mut(port) else {
        return 0;
    };
    let events = (&raw const maps::EVENTS).cast_mut().cast();
    // SAFETY: the address of a map's definition is the map, and the helper reads a number of its own.
    let unread = unsafe { bpf_ringbuf_query(events, u64::from(BPF_RB_AVAIL_DATA)) };
    let now = now();
    // SAFETY: the slot belongs to this CPU, and programs on it are not preempted by each other.
    unsafe { &mut *budget }.spend(now, unread).into()
}

impl Store for KernelTables {
    #[inline(always)]
    fn word(&self, offset: u64) -> u64 {
        let offset = bound::offset::<{ limits::FIB_BYTES }, 8>(offset);
        let fib = self.memory.cast::<u8>();
        // SAFETY: the bound keeps the aligned 8 bytes within the routing tables, which the memory begins with.
        unsafe { ptr::read_volatile(fib.wrapping_add(offset).cast()) }
    }

    #[inline(always)]
    fn half(&self, offset: u64) -> u32 {
        let offset = bound::offset::<{ limits::FIB_BYTES }, 4>(offset);
        let fib = self.memory.cast::<u8>();
        // SAFETY: the bound keeps the aligned 4 bytes within the routing tables.
        unsafe { ptr::read_volatile(fib.wrapping_add(offset).cast()) }
    }

    #[inline(always)]
    fn rank(&self, offset: u64, key: u64) -> u64 {
        let offset = bound::offset::<{ limits::FIB_BYTES }, 64>(offset);
        let line = self.memory.cast::<u8>().wrapping_add(offset).cast::<u32>();
        fib::count_below(key, |half| {
            // SAFETY: the bound keeps the 64 bytes within the routing tables.
            unsafe { ptr::read_volatile(line.wrapping_add(half as usize)) }
        })
    }
}
