//! Makes the data plane what a plan says, step by step, and keeps it true while machines and next hops change.
//!
//! [`Live`] is owned by the daemon. Holds: what [`Live::state`] says is what the maps hold, also after a failure
//! half-way; a neighbour's or adjacency's entry is written before anything refers to it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use gre_common::entry::{
    AdjacencyEntry, GroupEntry, InterfaceEntry, NeighbourEntry, PortEntry, TunnelEntry,
};
use gre_common::id::{GroupId, IfIndex, NeighbourId, NetworkId, PortId, TunnelId};
use gre_common::next_hop::{NextHop as Packed, Target};
use ipnet::IpNet;

use crate::adjacency::{Adjacencies, Changes, Way};
use crate::dataplane::{self, DataPlane};
use crate::error::Result;
use crate::liveness::Liveness;
use crate::neighbour::{Action, Neighbours, Question};
use crate::outage::{self, Announcement, Announcements};
use crate::plan::{Change, Desired, Group, NextHop, Port, Route, Tunnel, diff};

/// What runs.
pub struct Live {
    /// The loaded program and its maps.
    pub plane: DataPlane,
    /// What they hold, but for machines and next hops.
    pub state: Desired,
    /// Underlay next hops.
    pub adjacencies: Adjacencies,
    /// Machines on ports.
    pub neighbours: Neighbours,
    /// Machines that the last generation knew, by port, until the first transition makes these ports known.
    inherited: HashMap<PortId, Vec<NeighbourEntry>>,
    /// Names of devices, for messages.
    pub device_names: HashMap<IfIndex, String>,
    /// Routes to machines that were learnt; one that the plan states for the same prefix hides it.
    learnt: BTreeMap<(NetworkId, IpNet), NeighbourId>,
    /// Questions to machines that have not been sent yet.
    questions: Vec<Question>,
    /// Machines that the plan's routes lead to.
    references: BTreeMap<(NetworkId, IpNet), NeighbourId>,
    /// What groups have been told of their members.
    liveness: Liveness,
    /// What the log has not told of tunnels yet.
    pub(crate) announcements: Announcements,
}

impl Live {
    /// An empty state on a freshly loaded data plane; `machines` were known to the last one.
    pub fn new(plane: DataPlane, machines: Vec<NeighbourEntry>) -> Self {
        let mut inherited: HashMap<_, Vec<_>> = HashMap::new();
        for machine in machines {
            inherited.entry(machine.port).or_default().push(machine);
        }
        Self {
            inherited,
            plane,
            state: Desired::default(),
            adjacencies: Adjacencies::default(),
            neighbours: Neighbours::default(),
            device_names: HashMap::new(),
            learnt: BTreeMap::new(),
            questions: Vec::new(),
            references: BTreeMap::new(),
            liveness: Liveness::default(),
            announcements: Announcements::default(),
        }
    }

    /// Announces the ends of the tunnels of a state to come beside those that run, and returns the ones that the caller
    /// has to look up before [`Live::transition`].
    pub fn announce(&mut self, desired: &Desired) -> Vec<Way> {
        // The ends of today as well: what is taken back finds them known.
        for tunnel in self.state.tunnels.values() {
            self.adjacencies.hold_way(way(tunnel));
        }
        let ways = desired.tunnels.values().map(way);
        ways.filter(|way| self.adjacencies.hold_way(*way)).collect()
    }

    /// Goes from the running state to `desired`, make before break.
    ///
    /// # Errors
    /// The first step that failed; the steps before it have been taken back.
    pub fn transition(&mut self, desired: &Desired, now: Instant) -> Result<()> {
        let before = self.state.clone();
        let result = self.go(desired, now);
        if result.is_err()
            && let Err(error) = self.go(&before, now)
        {
            tracing::error!(
                "taking back what had been changed failed too: {:#}",
                anyhow::Error::from(error)
            );
        }
        self.adjacencies.release_ways(now);
        // From here on ids of ports may come to mean others.
        self.inherited.clear();
        result
    }

    /// Carries out what the table of machines asks for; returns the questions since the last call, which are the
    /// caller's to send.
    pub fn carry_out_neighbour_actions(&mut self, now: Instant) -> Vec<Question> {
        self.carry_out_actions(now);
        std::mem::take(&mut self.questions)
    }

    /// Whether packets can be sent into a tunnel: all that groups go by when they choose one for a flow.
    pub(crate) fn is_alive(&self, id: TunnelId) -> bool {
        self.state.tunnels.contains_key(&id) && self.adjacencies.status(id).mac.is_some()
    }

    /// Writes out what has changed about next hops.
    pub fn write_adjacencies(&mut self) {
        let changes = self.adjacencies.take_changes();
        let (alive, dead) = self.members_concerned(&changes);
        // Flows leave a member before it stops to work, and return once it works.
        self.set_liveness(dead, false);
        let (used, unused): (Vec<_>, Vec<_>) = changes
            .entries
            .into_iter()
            .map(|id| (id, self.adjacencies.entry(id)))
            .partition(|(_, entry)| *entry != AdjacencyEntry::default());
        for (id, entry) in used {
            self.plane.maps.set_adjacency(id, entry);
        }
        for id in changes.tunnels {
            if let Some(tunnel) = self.state.tunnels.get(&id) {
                let status = self.adjacencies.status(id);
                let entry = tunnel.entry(status.id, status.mtu);
                self.plane.maps.set_tunnel(id, entry);
            }
        }
        for (id, entry) in unused {
            self.plane.maps.set_adjacency(id, entry);
        }
        self.set_liveness(alive, true);
        self.collect_news();
    }

    /// Notes which tunnels have gone down, and why, and which have come up again.
    fn collect_news(&mut self) {
        for news in self.adjacencies.take_news(Instant::now()) {
            let device = news.hop.and_then(|hop| self.device_names.get(&hop.device));
            let announcement = match news.reason {
                None => Announcement::Up,
                Some(reason) => Announcement::Fault {
                    is_up: news.is_up,
                    reason,
                    device: device.cloned(),
                    explanation: outage::explanation(
                        reason,
                        news.way,
                        news.hop,
                        device.map(String::as_str),
                    ),
                },
            };
            for tunnel in self.adjacencies.tunnels_between(news.way) {
                if let Some(tunnel) = self.state.tunnels.get(&tunnel) {
                    self.announcements
                        .add(tunnel.name.clone(), announcement.clone());
                }
            }
        }
    }

    /// The tunnels that changes of next hops may have brought to life, and those that they may have killed.
    fn members_concerned(&self, changes: &Changes) -> (Vec<TunnelId>, Vec<TunnelId>) {
        if self.liveness.is_empty() {
            return Default::default();
        }
        let entries = changes.entries.iter();
        let behind = entries.flat_map(|id| self.adjacencies.tunnels_behind(*id));
        behind
            .chain(changes.tunnels.iter().copied())
            .partition(|id| self.is_alive(*id))
    }

    fn set_liveness(&mut self, tunnels: Vec<TunnelId>, is_alive: bool) {
        for tunnel in tunnels {
            for (group, alive) in self.liveness.set(tunnel, is_alive) {
                self.plane.maps.set_group_liveness(group, alive);
            }
        }
    }

    fn go(&mut self, desired: &Desired, now: Instant) -> Result<()> {
        let mut steps = diff(&self.state, desired);
        self.order_attachments(&mut steps);
        self.open_inherited_devices(&steps)?;
        for group in steps.chunk_by(is_route_of_same_network) {
            if let [
                Change::SetRoute(network, ..) | Change::RemoveRoute(network, ..),
                ..,
            ] = group
            {
                self.change_routes(*network, group, now)?;
            } else {
                for step in group {
                    let result = self.step(step, now);
                    // Also where it failed: it may have been done in part, and is taken back like the others.
                    self.state.apply(step);
                    result?;
                }
            }
        }
        Ok(())
    }

    /// Devices that carry the last generation's program come last: once packets meet the new program, nothing is left
    /// that may fail.
    fn order_attachments(&self, steps: &mut [Change]) {
        let is_attachment = |step: &Change| matches!(step, Change::SetInterface(..));
        for run in steps.chunk_by_mut(|one, other| is_attachment(one) && is_attachment(other)) {
            run.sort_by_key(|step| match step {
                Change::SetInterface(device, _) => self.plane.is_carried_by(*device),
                _ => false,
            });
        }
    }

    /// Lets frames be sent on all devices that carry the last generation's program, before the first of them meets the
    /// new one. (This generation has nothing else to lose yet: if it cannot take over, it is given up with its maps.)
    fn open_inherited_devices(&mut self, steps: &[Change]) -> Result<()> {
        for step in steps {
            if let Change::SetInterface(device, _) = step
                && self.plane.is_inherited(*device)
            {
                self.plane.maps.set_redirect(*device, true)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Change, now: Instant) -> Result<()> {
        let maps = &mut self.plane.maps;
        match step {
            Change::SetNetwork(..) => Ok(()),
            Change::RemoveNetwork(id) => self.remove_network(*id),
            Change::SetPort(id, port) => self.set_port(*id, port, now),
            Change::RemovePort(id) => {
                self.remove_port(*id, now);
                Ok(())
            }
            Change::SetTunnel(id, tunnel) => {
                self.set_tunnel(*id, tunnel, now);
                Ok(())
            }
            Change::RemoveTunnel(id) => {
                self.remove_tunnel(*id, now);
                Ok(())
            }
            Change::SetGroup(id, group) => {
                self.set_group(*id, group);
                Ok(())
            }
            Change::RemoveGroup(id) => {
                self.liveness.remove(*id);
                self.plane.maps.set_group(*id, &GroupEntry::default());
                Ok(())
            }
            Change::SetRoute(network, ..) | Change::RemoveRoute(network, ..) => {
                self.change_routes(*network, std::slice::from_ref(step), now)
            }
            Change::SetDemux(key, tunnel) => match key.key() {
                Some(key) => maps.set_demux(key, Some(*tunnel)),
                None => Ok(()),
            },
            Change::RemoveDemux(key) => match key.key() {
                Some(key) => maps.set_demux(key, None),
                None => Ok(()),
            },
            Change::AddEndpoint(address) => maps.set_endpoint((*address).into(), true),
            Change::RemoveEndpoint(address) => maps.set_endpoint((*address).into(), false),
            Change::SetTaggedPort(device, vlan, port) => {
                maps.set_tagged_port(*device, *vlan, Some(*port))
            }
            Change::RemoveTaggedPort(device, vlan) => maps.set_tagged_port(*device, *vlan, None),
            Change::SetInterface(device, interface) => {
                maps.set_interface(
                    *device,
                    interface.entry(),
                    interface.untagged_port,
                    interface.tagged_ports,
                );
                let name = self.device_names.get(device);
                let name = name.cloned().unwrap_or_else(|| device.to_string());
                self.plane.attach(*device, &name, interface.xdp_mode)?;
                self.plane.maps.set_redirect(*device, true)
            }
            Change::RemoveInterface(device) => {
                // First, since it may put the last generation's program back, under which no packet is lost.
                self.plane.detach(*device)?;
                let maps = &mut self.plane.maps;
                maps.set_interface(*device, InterfaceEntry::default(), None, false);
                maps.set_redirect(*device, false)
            }
        }
    }

    fn remove_network(&mut self, id: NetworkId) -> Result<()> {
        self.plane.remove_routes(id)?;
        self.learnt.retain(|(network, _), _| *network != id);
        Ok(())
    }

    fn set_port(&mut self, id: PortId, port: &Port, now: Instant) -> Result<()> {
        let moved = self
            .state
            .ports
            .get(&id)
            .is_some_and(|old| (old.device, old.vlan) != (port.device, port.vlan));
        if moved {
            // Whoever was behind the old device need not be behind the new one.
            self.neighbours.move_port(id, port.address.clone(), now);
            self.carry_out_actions(now);
        }
        self.plane.maps.set_port(id, port.entry());
        self.state.apply(&Change::SetPort(id, port.clone()));
        self.neighbours.set_port(id, port.address.clone());
        for machine in self.inherited.remove(&id).into_iter().flatten() {
            if let Some(address) = machine.address() {
                self.neighbours.seen(id, address, machine.mac, now);
            }
        }
        self.carry_out_actions(now);
        Ok(())
    }

    fn remove_port(&mut self, id: PortId, now: Instant) {
        self.neighbours.remove_port(id);
        self.carry_out_actions(now);
        self.plane.maps.set_port(id, PortEntry::default());
    }

    fn set_tunnel(&mut self, id: TunnelId, tunnel: &Tunnel, now: Instant) {
        self.adjacencies.insert_tunnel(id, way(tunnel), now);
        // Entries that it may need now are written before it, and it goes to its new ends and next hop at once.
        self.state.apply(&Change::SetTunnel(id, tunnel.clone()));
        self.write_adjacencies();
        let status = self.adjacencies.status(id);
        let entry = tunnel.entry(status.id, status.mtu);
        self.plane.maps.set_tunnel(id, entry);
    }

    fn remove_tunnel(&mut self, id: TunnelId, now: Instant) {
        self.plane.maps.set_tunnel(id, TunnelEntry::default());
        self.adjacencies.remove_tunnel(id, now);
        self.write_adjacencies();
    }

    fn set_group(&mut self, id: GroupId, group: &Group) {
        let mut liveness = std::mem::take(&mut self.liveness);
        let alive = liveness.insert(id, group, |tunnel| self.is_alive(tunnel));
        self.liveness = liveness;
        self.plane.maps.set_group(id, &group.entry(alive));
    }

    /// Changes routes of one network at once, and the machines that they refer to.
    fn change_routes(&mut self, network: NetworkId, steps: &[Change], now: Instant) -> Result<()> {
        let mut changes = Vec::with_capacity(steps.len());
        let mut released = Vec::new();
        let mut referenced = Vec::new();
        let result = steps.iter().try_for_each(|step| {
            let (prefix, next_hop) = match step {
                Change::SetRoute(_, prefix, route) => {
                    let (packed, machine) = self.pack(route, now)?;
                    referenced.extend(machine.map(|machine| (*prefix, machine)));
                    (*prefix, Some(packed))
                }
                Change::RemoveRoute(_, prefix) => {
                    let learnt = self.learnt.get(&(network, *prefix));
                    (
                        *prefix,
                        learnt.map(|id| Packed::new(Target::Neighbour(*id))),
                    )
                }
                _ => return Ok(()),
            };
            released.push(prefix);
            changes.push(dataplane::route(prefix, next_hop));
            Ok(())
        });
        // Entries of machines before the routes that lead to them.
        self.carry_out_actions(now);
        if let Err(error) = result.and_then(|()| self.plane.update_routes(network, &changes)) {
            for (_, machine) in referenced {
                self.neighbours.unreference(machine);
            }
            return Err(error);
        }
        for prefix in released {
            if let Some(machine) = self.references.remove(&(network, prefix)) {
                self.neighbours.unreference(machine);
            }
        }
        for (prefix, machine) in referenced {
            self.references.insert((network, prefix), machine);
        }
        for step in steps {
            self.state.apply(step);
        }
        Ok(())
    }

    /// The next hop of a route as the data plane takes it, and the machine that it refers to.
    fn pack(&mut self, route: &Route, now: Instant) -> Result<(Packed, Option<NeighbourId>)> {
        if let NextHop::Machine { port, address } = route.next_hop {
            let id = self.neighbours.reference(port, address, now)?;
            return Ok((Packed::new(Target::Neighbour(id)), Some(id)));
        }
        let target = route.next_hop.target().unwrap_or(Target::Blackhole);
        Ok((Packed::new(target), None))
    }

    fn carry_out_actions(&mut self, now: Instant) {
        for action in self.neighbours.take_actions() {
            match action {
                Action::Write(id, entry) => self.plane.maps.set_neighbour(id, entry),
                Action::AddRoute(port, address, id) => self.learn(port, address, id),
                Action::Forget(port, address, id) => self.forget(port, address, id, now),
                Action::Ask(question) => self.questions.push(question),
            }
        }
    }

    /// Notes where a machine's own address leads, and puts it in force unless the plan has a route for just that.
    fn learn(&mut self, port: PortId, address: IpAddr, id: NeighbourId) {
        let Some(network) = self.state.ports.get(&port).map(|port| port.network) else {
            return;
        };
        let prefix = IpNet::from(address);
        if let Err(error) = self.route_learnt(network, prefix, Some(id)) {
            tracing::warn!(
                "machine {address} stays unreachable: {:#}",
                anyhow::Error::from(error)
            );
            return;
        }
        self.learnt.insert((network, prefix), id);
        // What the data plane remembered by itself must not outlive the route that replaces it.
        self.plane.maps.forget_learnt(port, address.into());
    }

    /// Takes the route to a machine and then its entry away; while a route is left, the machine keeps its id.
    fn forget(&mut self, port: PortId, address: IpAddr, id: NeighbourId, now: Instant) {
        if let Some((network, prefix)) = self.learnt_at(port, address, id) {
            if let Err(error) = self.route_learnt(network, prefix, None) {
                tracing::warn!(
                    "the route to machine {address}, which has gone, cannot be removed yet: {:#}",
                    anyhow::Error::from(error)
                );
                return;
            }
            self.learnt.remove(&(network, prefix));
        }
        self.plane.maps.forget_learnt(port, address.into());
        self.plane.maps.set_neighbour(id, NeighbourEntry::default());
        self.neighbours.gone(id, now);
    }

    /// Where the route to a learnt machine is; `None` if there is none, or it leads to another machine by now.
    fn learnt_at(
        &self,
        port: PortId,
        address: IpAddr,
        id: NeighbourId,
    ) -> Option<(NetworkId, IpNet)> {
        let key = match self.state.ports.get(&port) {
            Some(port) => (port.network, IpNet::from(address)),
            // The port went before the route did.
            None => *self.learnt.iter().find(|(_, other)| **other == id)?.0,
        };
        (self.learnt.get(&key) == Some(&id)).then_some(key)
    }

    fn route_learnt(
        &mut self,
        network: NetworkId,
        prefix: IpNet,
        id: Option<NeighbourId>,
    ) -> Result<()> {
        if self.state.routes.contains_key(&(network, prefix)) {
            return Ok(());
        }
        let next_hop = id.map(|id| Packed::new(Target::Neighbour(id)));
        let change = dataplane::route(prefix, next_hop);
        self.plane.update_routes(network, &[change])
    }
}

fn way(tunnel: &Tunnel) -> Way {
    Way {
        local: tunnel.local,
        remote: tunnel.remote,
    }
}

fn is_route_of_same_network(one: &Change, other: &Change) -> bool {
    let network = |change: &Change| match change {
        Change::SetRoute(network, ..) | Change::RemoveRoute(network, ..) => Some(*network),
        _ => None,
    };
    network(one).is_some() && network(one) == network(other)
}
