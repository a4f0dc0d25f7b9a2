//! The ordered way from one state to another: make before break.
//!
//! Objects are written before what refers to them, traffic enters last; on the way out entries that traffic enters by
//! go first and objects last. Changes of one kind follow the order of their keys, so a plan reads the same each time.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gre_common::id::{GroupId, IfIndex, NetworkId, PortId, TunnelId, VlanId};
use ipnet::IpNet;

use super::desired::{DemuxMatch, Desired, Interface, Network, Port, Route, Tunnel};
use super::group::Group;

/// One step. `Set…` writes a new entry or replaces one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A network, without routes if it is new.
    SetNetwork(NetworkId, Network),
    /// A network that nothing refers to any more.
    RemoveNetwork(NetworkId),
    /// A port.
    SetPort(PortId, Port),
    /// A port that nothing refers to any more.
    RemovePort(PortId),
    /// A tunnel; what is known of its adjacency stays.
    SetTunnel(TunnelId, Tunnel),
    /// A tunnel that nothing refers to any more.
    RemoveTunnel(TunnelId),
    /// A group of tunnels.
    SetGroup(GroupId, Group),
    /// A group that no route leads to any more.
    RemoveGroup(GroupId),
    /// A route of a network.
    SetRoute(NetworkId, IpNet, Route),
    /// A route of a network.
    RemoveRoute(NetworkId, IpNet),
    /// Packets that belong to a tunnel.
    SetDemux(DemuxMatch, TunnelId),
    /// Packets that belong to no tunnel any more.
    RemoveDemux(DemuxMatch),
    /// A GRE address of the gateway.
    AddEndpoint(IpAddr),
    /// An address whose GRE is the kernel's again.
    RemoveEndpoint(IpAddr),
    /// A tag that belongs to a port.
    SetTaggedPort(IfIndex, VlanId, PortId),
    /// A tag whose frames are the kernel's again.
    RemoveTaggedPort(IfIndex, VlanId),
    /// A device with a role; the program is attached to it.
    SetInterface(IfIndex, Interface),
    /// A device without a role.
    RemoveInterface(IfIndex),
}

/// The steps that lead from `current` to `desired`; none if they are equal.
pub fn diff(current: &Desired, desired: &Desired) -> Vec<Change> {
    let mut changes = Vec::new();
    make(current, desired, &mut changes);
    break_off(current, desired, &mut changes);
    changes
}

fn make(current: &Desired, desired: &Desired, changes: &mut Vec<Change>) {
    for (id, network) in written(&current.networks, &desired.networks) {
        changes.push(Change::SetNetwork(*id, network.clone()));
    }
    for (id, port) in written(&current.ports, &desired.ports) {
        changes.push(Change::SetPort(*id, port.clone()));
    }
    // What a tunnel that runs is going to take finds it before it does; the entry itself has the last word.
    let (changed, new): (Vec<_>, Vec<_>) = written(&current.demux, &desired.demux)
        .map(|(key, tunnel)| (*key, *tunnel))
        .partition(|(_, tunnel)| current.tunnels.contains_key(tunnel));
    changes.extend(
        changed
            .into_iter()
            .map(|(key, tunnel)| Change::SetDemux(key, tunnel)),
    );
    for (id, tunnel) in written(&current.tunnels, &desired.tunnels) {
        changes.push(Change::SetTunnel(*id, tunnel.clone()));
    }
    for (id, group) in written(&current.groups, &desired.groups) {
        if !current.groups.contains_key(id) {
            changes.push(Change::SetGroup(*id, group.clone()));
        }
    }
    for ((network, prefix), route) in written(&current.routes, &desired.routes) {
        changes.push(Change::SetRoute(*network, *prefix, *route));
    }
    changes.extend(
        new.into_iter()
            .map(|(key, tunnel)| Change::SetDemux(key, tunnel)),
    );
    for address in desired.endpoints.difference(&current.endpoints) {
        changes.push(Change::AddEndpoint(*address));
    }
    for ((device, vlan), port) in written(&current.tagged_ports, &desired.tagged_ports) {
        changes.push(Change::SetTaggedPort(*device, *vlan, *port));
    }
    for (device, interface) in written(&current.interfaces, &desired.interfaces) {
        changes.push(Change::SetInterface(*device, interface.clone()));
    }
}

fn break_off(current: &Desired, desired: &Desired, changes: &mut Vec<Change>) {
    for device in removed(&current.interfaces, &desired.interfaces) {
        changes.push(Change::RemoveInterface(*device));
    }
    for (device, vlan) in removed(&current.tagged_ports, &desired.tagged_ports) {
        changes.push(Change::RemoveTaggedPort(*device, *vlan));
    }
    for address in current.endpoints.difference(&desired.endpoints) {
        changes.push(Change::RemoveEndpoint(*address));
    }
    for key in removed(&current.demux, &desired.demux) {
        changes.push(Change::RemoveDemux(*key));
    }
    for (network, prefix) in removed(&current.routes, &desired.routes) {
        changes.push(Change::RemoveRoute(*network, *prefix));
    }
    // A group changes once no route leads there that leads elsewhere then: that one's packets are not for new members.
    for (id, group) in written(&current.groups, &desired.groups) {
        if current.groups.contains_key(id) {
            changes.push(Change::SetGroup(*id, group.clone()));
        }
    }
    for id in removed(&current.groups, &desired.groups) {
        changes.push(Change::RemoveGroup(*id));
    }
    for id in removed(&current.tunnels, &desired.tunnels) {
        changes.push(Change::RemoveTunnel(*id));
    }
    for id in removed(&current.ports, &desired.ports) {
        changes.push(Change::RemovePort(*id));
    }
    for id in removed(&current.networks, &desired.networks) {
        changes.push(Change::RemoveNetwork(*id));
    }
}

/// Entries that are new or differ.
fn written<'d, K: Ord, V: PartialEq>(
    current: &'d BTreeMap<K, V>,
    desired: &'d BTreeMap<K, V>,
) -> impl Iterator<Item = (&'d K, &'d V)> {
    desired
        .iter()
        .filter(|(key, value)| current.get(key) != Some(value))
}

/// Keys that have gone.
fn removed<'d, K: Ord, V>(
    current: &'d BTreeMap<K, V>,
    desired: &'d BTreeMap<K, V>,
) -> impl Iterator<Item = &'d K> {
    current.keys().filter(|key| !desired.contains_key(key))
}
