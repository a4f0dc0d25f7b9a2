//! Everything the pipeline asks of the world besides packet memory.
//!
//! In the kernel these are one mapped memory and some BPF maps, on the host plain collections. Look-ups return copies or references of entries that
//! the daemon may replace at any time; what a packet needs of an entry it therefore reads once. An id that names nothing
//! leads to a zeroed entry.

use crate::counters::{Direction, Owner};
use crate::demux;
use crate::entry::{
    AdjacencyEntry, AttachedPort, InterfaceEntry, NeighbourEntry, PortEntry, TunnelEntry,
};
use crate::event::Event;
use crate::id::{
    Address, AdjacencyId, GroupId, IfIndex, MacAddress, NeighbourId, NetworkId, PortId, TunnelId,
    VlanId,
};
use crate::key::{DemuxKey, EndpointKey, MachineKey};
use crate::next_hop::NextHop;
use crate::verdict::DropReason;

/// The tables, counters and clock of one gateway.
pub trait Tables {
    /// The sequence numbers of one tunnel.
    type Sequence: SequenceCell;

    /// What a device is to the gateway; `None`: nothing.
    fn interface(&self, device: IfIndex) -> Option<&InterfaceEntry>;
    /// The port behind a tag, by [`InterfaceEntry::vlans`].
    fn tagged_port(&self, vlans: u32, vlan: VlanId) -> AttachedPort;
    /// A port.
    fn port(&self, id: PortId) -> &PortEntry;
    /// The tunnel of a GRE packet, which is in use and takes it.
    fn demux(&self, key: &DemuxKey) -> Option<demux::Slot>;
    /// Whether an outer destination is one of the gateway's GRE addresses.
    fn is_endpoint(&self, key: &EndpointKey) -> bool;
    /// A tunnel.
    fn tunnel(&self, id: TunnelId) -> &TunnelEntry;
    /// The longest matching route of a network; [`NextHop::NONE`] if there is none.
    fn route(&self, network: NetworkId, destination: &Address) -> NextHop;
    /// The tunnel of a group that a flow takes, as [`crate::pipeline::group::choose`] tells; tunnel 0 if there is none.
    fn member(&self, group: GroupId, flow: u64) -> TunnelId;
    /// A machine.
    fn neighbour(&self, id: NeighbourId) -> &NeighbourEntry;
    /// Notes that the machine is being sent to, so that the daemon keeps its layer-2 address fresh.
    fn touch_neighbour(&self, id: NeighbourId);
    /// The layer-2 address of a machine that was just learnt and has no route of its own yet.
    fn learnt(&self, machine: &MachineKey) -> Option<MacAddress>;
    /// Remembers the layer-2 address of a machine until the daemon has given it a route.
    fn learn(&self, machine: &MachineKey, mac: MacAddress);
    /// An underlay next hop.
    fn adjacency(&self, id: AdjacencyId) -> &AdjacencyEntry;
    /// The sequence numbers of a tunnel.
    fn sequence(&self, id: TunnelId) -> Option<&Self::Sequence>;

    /// Nanoseconds of a clock that never goes back; a resolution of some milliseconds is enough.
    fn now(&self) -> u64;
    /// Tells the daemon, if the budget of the event's port allows it ([`crate::event_budget`]); may be lost when the daemon
    /// does not keep up.
    fn emit(&self, event: &Event);
    /// Begins to fetch what [`Tables::count`] is going to change. With many ports and tunnels that is in no near cache,
    /// and comes while the packet is being worked on.
    fn prefetch_count(&self, owner: Owner);

    /// Counts a packet accepted from a port or tunnel, or sent there.
    fn count(&self, owner: Owner, direction: Direction, bytes: u32);
    /// Counts a drop.
    fn count_drop(&self, owner: Owner, direction: Direction, reason: DropReason);
}

/// The sequence numbers of one tunnel, shared by all CPUs.
pub trait SequenceCell {
    /// The receive state.
    fn load(&self) -> u64;
    /// Replaces the receive state if it still is `current`; tells whether it was.
    fn replace(&self, current: u64, new: u64) -> bool;
    /// Packets that were not accepted, and may be the beginning of something new.
    fn run(&self) -> u64;
    /// Replaces it.
    fn set_run(&self, run: u64);
    /// The number to send, which the next call will find increased by one.
    fn next(&self) -> u32;
}

/// Value of `SEQUENCES`, by tunnel id. A zeroed entry has neither sent nor received.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceEntry {
    /// State of [`crate::pipeline::sequence`].
    pub received: u64,
    /// Run of [`crate::pipeline::sequence`].
    pub run: u64,
    /// The next number to send, in the low 32 bits.
    pub sent: u64,
    /// Zero.
    pub reserved: u64,
}
