//! The pipeline over plain collections.
//!
//! Holds: a table answers as the program's would. A dense one has an entry, be it a zeroed one, for each id; a hash has
//! what was put in; frames have the head- and tailroom of `BPF_PROG_TEST_RUN`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use gre_common::counters::{Direction, Ledger, Owner};
use gre_common::demux;
use gre_common::entry::{
    AdjacencyEntry, AttachedPort, InterfaceEntry, NeighbourEntry, PortEntry, TunnelEntry,
};
use gre_common::event::Event;
use gre_common::event_budget::EventBudget;
use gre_common::frame::SliceFrame;
use gre_common::id::{
    Address, AdjacencyId, GroupId, IfIndex, MacAddress, NeighbourId, NetworkId, PortId, TunnelId,
    VlanId,
};
use gre_common::key::{DemuxKey, EndpointKey, MachineKey};
use gre_common::limits;
use gre_common::next_hop::NextHop;
use gre_common::pipeline::{self, group};
use gre_common::tables::{SequenceCell, SequenceEntry, Tables};
use gre_common::verdict::{DropReason, Verdict};

use crate::{Action, Counters, Gateway, Outcome};

/// Bytes of the page that `BPF_PROG_TEST_RUN` puts a frame into, less what the kernel keeps at its two ends
/// (`struct xdp_frame` and `struct skb_shared_info`).
const PAGE: usize = 4096 - 40 - 320;

/// Bytes of an event in the ring buffer: the kernel puts a header before it.
const RECORD: usize = size_of::<Event>() + 8;

/// A gateway that packets can be run through on the host.
#[derive(Debug)]
pub struct HostGateway {
    tables: HostTables,
}

impl HostGateway {
    /// The pipeline over these tables, with all counters zero.
    pub fn new(gateway: &Gateway) -> Self {
        Self {
            tables: HostTables::new(gateway.clone()),
        }
    }

    /// Runs one frame, as the XDP programs do together, and returns why it was dropped, if it was.
    pub fn run(&self, device: IfIndex, frame: &[u8]) -> (Outcome, Option<DropReason>) {
        let mut memory = vec![0; PAGE.max(SliceFrame::HEADROOM + frame.len())];
        let Some(mut packet) = SliceFrame::new(&mut memory, frame) else {
            unreachable!("the memory is sized for the frame");
        };
        let tables = &self.tables;
        let mut ledger = Ledger::new(device);
        let mut verdict = pipeline::process(&mut packet, tables, device, &mut ledger);
        if verdict == Ok(Verdict::Resolve) {
            ledger = Ledger::new(device);
            verdict = Ok(pipeline::resolve(&mut packet, tables, device, &mut ledger));
        }
        if verdict == Ok(Verdict::Transmit) {
            if tables.gateway.devices.contains(&ledger.egress) {
                pipeline::sent(tables, &ledger);
            } else {
                verdict = Err(pipeline::not_sent(tables, &ledger));
            }
        }
        let (action, reason) = match verdict {
            Ok(Verdict::Transmit) => (Action::Redirect, None),
            Ok(Verdict::Pass | Verdict::Resolve) => (Action::Pass, None),
            Ok(Verdict::Consume) => (Action::Drop, None),
            Err(reason) => (Action::Drop, Some(reason)),
        };
        let frame = if action == Action::Drop {
            Vec::new()
        } else {
            packet.bytes().to_vec()
        };
        (Outcome { action, frame }, reason)
    }

    /// Sets the clock, in nanoseconds.
    pub fn set_time(&self, now: u64) {
        self.tables.now.set(now);
    }

    /// Everything counted so far.
    pub fn counters(&self) -> Counters {
        self.tables.counters.borrow().clone()
    }

    /// The events since the last call.
    pub fn take_events(&self) -> Vec<Event> {
        self.tables.events.take()
    }

    /// The machines that were sent to.
    pub fn used_neighbours(&self) -> BTreeSet<NeighbourId> {
        self.tables.used.borrow().clone()
    }

    /// The sequence numbers of a tunnel; zero if there is no such tunnel.
    pub fn sequence(&self, id: TunnelId) -> SequenceEntry {
        let cell = self.tables.sequences.get(&id);
        cell.map_or(SequenceEntry::default(), |cell| SequenceEntry {
            received: cell.received.load(Relaxed),
            run: cell.run.load(Relaxed),
            sent: cell.sent.load(Relaxed),
            reserved: 0,
        })
    }

    /// Sets what a tunnel has received.
    pub fn set_received(&self, id: TunnelId, state: u64) {
        if let Some(cell) = self.tables.sequences.get(&id) {
            cell.received.store(state, Relaxed);
        }
    }

    /// Gives every port its whole budget of events again.
    pub fn renew_event_budgets(&self) {
        self.tables.event_budgets.take();
    }

    /// Forgets all sequence numbers and the machines that were learnt.
    pub fn forget(&self) {
        self.tables.learnt.take();
        for cell in self.tables.sequences.values() {
            cell.received.store(0, Relaxed);
            cell.run.store(0, Relaxed);
            cell.sent.store(0, Relaxed);
        }
    }
}

/// The tables of a [`Gateway`], and what is written into them.
#[derive(Debug)]
struct HostTables {
    gateway: Gateway,
    zeros: Zeros,
    sequences: BTreeMap<TunnelId, HostSequence>,
    used: RefCell<BTreeSet<NeighbourId>>,
    learnt: RefCell<HashMap<MachineKey, MacAddress>>,
    counters: RefCell<Counters>,
    events: RefCell<Vec<Event>>,
    event_budgets: RefCell<HashMap<PortId, EventBudget>>,
    now: Cell<u64>,
}

/// What a table has where nothing was put.
#[derive(Debug, Default)]
struct Zeros {
    interface: InterfaceEntry,
    port: PortEntry,
    tunnel: TunnelEntry,
    neighbour: NeighbourEntry,
    adjacency: AdjacencyEntry,
}

/// Sequence numbers of one tunnel.
#[derive(Debug, Default)]
struct HostSequence {
    received: AtomicU64,
    run: AtomicU64,
    sent: AtomicU64,
}

impl HostTables {
    fn new(gateway: Gateway) -> Self {
        let sequences = gateway
            .tunnels
            .keys()
            .map(|id| (*id, HostSequence::default()));
        Self {
            sequences: sequences.collect(),
            gateway,
            zeros: Zeros::default(),
            used: RefCell::default(),
            learnt: RefCell::default(),
            counters: RefCell::default(),
            events: RefCell::default(),
            event_budgets: RefCell::default(),
            now: Cell::default(),
        }
    }
}

impl Tables for HostTables {
    type Sequence = HostSequence;

    fn interface(&self, device: IfIndex) -> Option<&InterfaceEntry> {
        let entry = self.gateway.interfaces.get(&device);
        ((device.0 as usize) < limits::INTERFACES).then(|| entry.unwrap_or(&self.zeros.interface))
    }

    fn tagged_port(&self, vlans: u32, vlan: VlanId) -> AttachedPort {
        let id = self.gateway.tagged_ports.get(&(IfIndex(vlans), vlan));
        id.map_or(AttachedPort::default(), |id| AttachedPort {
            id: *id,
            network: self.gateway.ports[id].network,
        })
    }

    fn port(&self, id: PortId) -> &PortEntry {
        self.gateway.ports.get(&id).unwrap_or(&self.zeros.port)
    }

    fn demux(&self, key: &DemuxKey) -> Option<demux::Slot> {
        let id = *self.gateway.demux.get(key)?;
        Some(demux::Slot::new(id, self.tunnel(id).network))
    }

    fn is_endpoint(&self, key: &EndpointKey) -> bool {
        let address = Address::from_bytes(key.family as u8, key.address);
        address.is_some_and(|address| self.gateway.endpoints.contains(&address.into()))
    }

    fn tunnel(&self, id: TunnelId) -> &TunnelEntry {
        self.gateway.tunnels.get(&id).unwrap_or(&self.zeros.tunnel)
    }

    fn route(&self, network: NetworkId, destination: &Address) -> NextHop {
        self.gateway.look_up(network, (*destination).into())
    }

    fn member(&self, group: GroupId, flow: u64) -> TunnelId {
        let entry = self.gateway.groups.get(&group);
        entry.map_or(TunnelId(0), |entry| group::choose(entry, flow))
    }

    fn neighbour(&self, id: NeighbourId) -> &NeighbourEntry {
        let entry = self.gateway.neighbours.get(&id);
        entry.unwrap_or(&self.zeros.neighbour)
    }

    fn touch_neighbour(&self, id: NeighbourId) {
        self.used.borrow_mut().insert(id);
    }

    fn learnt(&self, machine: &MachineKey) -> Option<MacAddress> {
        self.learnt.borrow().get(machine).copied()
    }

    fn learn(&self, machine: &MachineKey, mac: MacAddress) {
        self.learnt.borrow_mut().insert(*machine, mac);
    }

    fn adjacency(&self, id: AdjacencyId) -> &AdjacencyEntry {
        let entry = self.gateway.adjacencies.get(&id);
        entry.unwrap_or(&self.zeros.adjacency)
    }

    fn sequence(&self, id: TunnelId) -> Option<&HostSequence> {
        self.sequences.get(&id)
    }

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn emit(&self, event: &Event) {
        let mut events = self.events.borrow_mut();
        let mut budgets = self.event_budgets.borrow_mut();
        let budget = budgets.entry(event.port).or_default();
        if budget.spend(self.now(), (events.len() * RECORD) as u64) {
            events.push(*event);
        }
    }

    fn prefetch_count(&self, _owner: Owner) {}

    fn count(&self, owner: Owner, direction: Direction, bytes: u32) {
        let mut counters = self.counters.borrow_mut();
        let stats = counters.stats.entry(owner).or_default();
        stats.count(direction, bytes);
    }

    fn count_drop(&self, owner: Owner, direction: Direction, reason: DropReason) {
        let mut counters = self.counters.borrow_mut();
        *counters
            .drops
            .entry((owner, direction, reason))
            .or_default() += 1;
    }
}

impl SequenceCell for HostSequence {
    fn load(&self) -> u64 {
        self.received.load(Relaxed)
    }

    fn replace(&self, current: u64, new: u64) -> bool {
        self.received
            .compare_exchange(current, new, Relaxed, Relaxed)
            .is_ok()
    }

    fn run(&self) -> u64 {
        self.run.load(Relaxed)
    }

    fn set_run(&self, run: u64) {
        self.run.store(run, Relaxed);
    }

    fn next(&self) -> u32 {
        self.sent.fetch_add(1, Relaxed) as u32
    }
}
