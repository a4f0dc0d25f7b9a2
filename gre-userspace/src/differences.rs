//! The difference between what runs and what a configuration asks for, in the words of the configuration.
//!
//! What `gregw plan` and `apply` print. Read-only; steps of the data plane that follow from others have no line.

use std::collections::BTreeSet;

use gre_common::id::{GreKey, GroupId, NetworkId};

use crate::config::{self, Name};
use crate::gateway::Gateway;
use crate::inventory::{members, network_name, port_name, tunnel_name};
use crate::peering::States;
use crate::plan::{self, Change, Desired, diff};
use crate::report::{self, Action};

impl Gateway {
    /// The difference between what runs and another state, in the words of the configuration.
    pub(crate) fn describe(&self, desired: &Desired, peerings: &States) -> Vec<report::Change> {
        let current = &self.live.state;
        let steps = diff(current, desired);
        let mut changes: Vec<_> = steps
            .iter()
            .filter_map(|change| {
                describe_step(current, desired, change)
                    .or_else(|| self.describe_device(current, change))
            })
            .collect();
        changes.extend(describe_groups(current, desired, &steps));
        changes.extend(describe_peerings(&self.peerings, peerings));
        changes
    }

    /// Underlay devices that come, go or carry the program in another way.
    fn describe_device(&self, current: &Desired, change: &Change) -> Option<report::Change> {
        let (index, new) = match change {
            Change::SetInterface(index, interface) => (index, Some(interface)),
            Change::RemoveInterface(index) => (index, None),
            _ => return None,
        };
        let mode = |interface: &plan::Interface| interface.underlay.then_some(interface.xdp_mode);
        let old = current.interfaces.get(index).and_then(mode);
        let new = new.and_then(mode);
        let action = match (old, new) {
            (None, Some(_)) => Action::Add,
            (Some(_), None) => Action::Remove,
            (Some(old), Some(new)) if old != new => Action::Change,
            _ => return None,
        };
        let name = self.live.device_names.get(index);
        Some(report::Change {
            action,
            kind: "underlay".into(),
            name: name.cloned().unwrap_or_else(|| index.to_string()),
            detail: match new {
                None => String::new(),
                Some(config::XdpMode::Auto) => "native XDP if possible".to_owned(),
                Some(config::XdpMode::Native) => "native XDP".to_owned(),
                Some(config::XdpMode::Generic) => "generic XDP".to_owned(),
            },
        })
    }
}

fn describe_step(current: &Desired, desired: &Desired, change: &Change) -> Option<report::Change> {
    let made = |existed: bool| if existed { Action::Change } else { Action::Add };
    let (action, kind, name, detail) = match change {
        Change::SetNetwork(id, network) => (
            made(current.networks.contains_key(id)),
            "network",
            network.name.to_string(),
            format!("tenant {}", network.tenant),
        ),
        Change::RemoveNetwork(id) => (
            Action::Remove,
            "network",
            network_name(current, *id),
            String::new(),
        ),
        Change::SetPort(id, port) => (
            made(current.ports.contains_key(id)),
            "port",
            port.name.to_string(),
            format!("network {}", network_name(desired, port.network)),
        ),
        Change::RemovePort(id) => (
            Action::Remove,
            "port",
            port_name(current, *id),
            String::new(),
        ),
        Change::SetTunnel(id, tunnel) => (
            made(current.tunnels.contains_key(id)),
            "tunnel",
            tunnel.name.to_string(),
            match current.tunnels.get(id) {
                None => format!("{} to {}, MTU {}", tunnel.local, tunnel.remote, tunnel.mtu),
                Some(old) => tunnel_differences(old, tunnel),
            },
        ),
        Change::RemoveTunnel(id) => (
            Action::Remove,
            "tunnel",
            tunnel_name(current, *id),
            String::new(),
        ),
        Change::SetRoute(network, prefix, route) => (
            made(current.routes.contains_key(&(*network, *prefix))),
            "route",
            prefix.to_string(),
            route_detail(desired, *network, route),
        ),
        Change::RemoveRoute(network, prefix) => (
            Action::Remove,
            "route",
            prefix.to_string(),
            format!("network {}", network_name(current, *network)),
        ),
        Change::AddEndpoint(address) => (
            Action::Add,
            "underlay",
            address.to_string(),
            "local address".to_owned(),
        ),
        Change::RemoveEndpoint(address) => (
            Action::Remove,
            "underlay",
            address.to_string(),
            "local address".to_owned(),
        ),
        // What follows from the above and has no section of its own.
        Change::SetGroup(..)
        | Change::RemoveGroup(..)
        | Change::SetDemux(..)
        | Change::RemoveDemux(..)
        | Change::SetTaggedPort(..)
        | Change::RemoveTaggedPort(..)
        | Change::SetInterface(..)
        | Change::RemoveInterface(..) => return None,
    };
    Some(report::Change {
        action,
        kind: kind.into(),
        name,
        detail,
    })
}

/// Routes that stay with their group while its members or weights change.
fn describe_groups(current: &Desired, desired: &Desired, steps: &[Change]) -> Vec<report::Change> {
    let changed: BTreeSet<GroupId> = steps
        .iter()
        .filter_map(|step| match step {
            Change::SetGroup(id, _) => Some(*id),
            _ => None,
        })
        .collect();
    let routes = desired.routes.iter().filter(|(key, route)| {
        matches!(route.next_hop, plan::NextHop::Group(id) if changed.contains(&id))
            && current.routes.get(key) == Some(route)
    });
    routes
        .map(|((network, prefix), route)| report::Change {
            action: Action::Change,
            kind: "route".into(),
            name: prefix.to_string(),
            detail: route_detail(desired, *network, route),
        })
        .collect()
}

fn route_detail(desired: &Desired, network: NetworkId, route: &plan::Route) -> String {
    format!(
        "network {}, to {}",
        network_name(desired, network),
        destination(desired, route.next_hop)
    )
}

/// What of a tunnel changes, from what to what.
fn tunnel_differences(old: &plan::Tunnel, new: &plan::Tunnel) -> String {
    let values = |tunnel: &plan::Tunnel| {
        let key = |key: Option<GreKey>| key.map_or("none".to_owned(), |key| key.0.to_string());
        let keys = |keys: config::Keys| match (key(keys.receive), key(keys.transmit)) {
            (receive, transmit) if receive == transmit => receive,
            (receive, transmit) => format!("{receive} received, {transmit} sent"),
        };
        let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
        let (ttl, tos) = (
            match tunnel.ttl {
                config::Ttl::Fixed(ttl) => ttl.to_string(),
                config::Ttl::Inherit => "inherit".to_owned(),
            },
            match tunnel.tos {
                config::Tos::Fixed(tos) => tos.to_string(),
                config::Tos::Inherit => "inherit".to_owned(),
            },
        );
        [
            ("local", tunnel.local.to_string()),
            ("remote", tunnel.remote.to_string()),
            ("key", keys(tunnel.keys)),
            ("checksum", switch(tunnel.checksum)),
            ("sequence", switch(tunnel.sequence)),
            ("MTU", tunnel.mtu.to_string()),
            ("TTL", ttl),
            ("TOS", tos),
        ]
    };
    let differences: Vec<_> = std::iter::zip(values(old), values(new))
        .filter(|(old, new)| old != new)
        .map(|((what, old), (_, new))| format!("{what} {old} -> {new}"))
        .collect();
    differences.join(", ")
}

fn describe_peerings(old: &States, new: &States) -> Vec<report::Change> {
    let change = |action, network: &Name, remote: &Name, detail: String| report::Change {
        action,
        kind: "peering".into(),
        name: network.to_string(),
        detail: format!("with {remote}{detail}"),
    };
    let set = new
        .iter()
        .filter_map(|(network, remote, state)| match old.get(network, remote) {
            None => Some(change(Action::Add, network, remote, format!(", {state}"))),
            Some(before) if before != state => {
                let detail = format!(", {before} to {state}");
                Some(change(Action::Change, network, remote, detail))
            }
            Some(_) => None,
        });
    let removed = old
        .iter()
        .filter(|(network, remote, _)| new.get(network, remote).is_none())
        .map(|(network, remote, _)| change(Action::Remove, network, remote, String::new()));
    set.chain(removed).collect()
}

fn destination(state: &Desired, next_hop: plan::NextHop) -> String {
    match next_hop {
        plan::NextHop::Local(port) => format!("the gateway on port {}", port_name(state, port)),
        plan::NextHop::Connected(port) => format!("port {}", port_name(state, port)),
        plan::NextHop::Machine { address, .. } => format!("machine {address}"),
        plan::NextHop::Tunnel(tunnel) => format!("tunnel {}", tunnel_name(state, tunnel)),
        plan::NextHop::Group(group) => {
            let mut members: Vec<_> = members(state, group)
                .map(|member| {
                    let name = tunnel_name(state, member.tunnel);
                    format!("{name} (weight {})", member.weight.0)
                })
                .collect();
            members.sort_unstable();
            format!("tunnels {}", members.join(", "))
        }
        plan::NextHop::Peer(network) => format!("network {}", network_name(state, network)),
        plan::NextHop::Blackhole => "nowhere".to_owned(),
        plan::NextHop::Unreachable => "what is missing now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Keys, Tos, Ttl};
    use gre_common::id::NetworkId;

    #[test]
    fn a_changed_tunnel_tells_what_was_and_what_will_be() {
        let old = plan::Tunnel {
            name: Name::new("t").expect("valid"),
            network: NetworkId(0),
            local: [203, 0, 113, 1].into(),
            remote: [203, 0, 113, 7].into(),
            keys: Keys {
                receive: Some(GreKey(1001)),
                transmit: Some(GreKey(1001)),
            },
            checksum: false,
            sequence: false,
            mtu: 1472,
            ttl: Ttl::Fixed(64),
            tos: Tos::Inherit,
        };
        let mut new = old.clone();
        new.mtu = 1380;
        assert_eq!(tunnel_differences(&old, &new), "MTU 1472 -> 1380");
        new.keys = Keys {
            receive: Some(GreKey(1002)),
            transmit: Some(GreKey(1002)),
        };
        new.mtu = old.mtu;
        new.ttl = Ttl::Inherit;
        assert_eq!(
            tunnel_differences(&old, &new),
            "key 1001 -> 1002, TTL 64 -> inherit"
        );
        new.ttl = old.ttl;
        new.keys.transmit = None;
        assert_eq!(
            tunnel_differences(&old, &new),
            "key 1001 -> 1002 received, none sent"
        );
    }
}
