//! Routes: stated once each, into groups that have room for them, and to next hops that the network can reach.

use std::collections::HashMap;
use std::net::IpAddr;

use gre_common::limits::GROUP_MEMBERS;
use ipnet::IpNet;
use toml::Spanned;

use super::Report;
use super::names::Names;
use crate::config::draft::{Drafts, RouteDraft};
use crate::config::model::{NextHop, WeightedTunnel};
use crate::config::names::Name;

pub(super) fn check(drafts: &Drafts, names: &Names<'_>, report: &mut Report<'_>) {
    tunnel_routes_are_distinct(drafts, report);
    groups_have_room(drafts, report);
    user_routes_are_distinct(drafts, report);
    let peers = peers(drafts);
    let own_addresses = own_addresses(drafts);
    for route in &drafts.routes {
        let (Some(network), Some(next_hop)) = (&route.network, &route.next_hop) else {
            continue;
        };
        let network = network.get_ref().as_str();
        match next_hop.get_ref() {
            NextHop::Machine(address) => {
                let at = Spanned::new(next_hop.span(), *address);
                machine_is_reachable(route, network, &at, names, &peers, report);
                machine_is_not_the_gateway(route, network, &at, &own_addresses, report);
            }
            NextHop::Tunnel(tunnel) => {
                let at = Spanned::new(next_hop.span(), tunnel.clone());
                tunnel_is_of_the_network(route, network, &at, names, report);
            }
            NextHop::Tunnels(members) => {
                for member in members {
                    tunnel_is_of_the_network(route, network, &member.name, names, report);
                }
                members_are_distinct(route, members, report);
            }
            NextHop::Blackhole => {}
        }
    }
}

/// A tunnel states a route once. (Several tunnels that state it share the traffic.)
fn tunnel_routes_are_distinct(drafts: &Drafts, report: &mut Report<'_>) {
    for tunnel in &drafts.tunnels {
        let mut known: HashMap<_, &Spanned<IpNet>> = HashMap::new();
        for route in tunnel.routes.iter().flatten() {
            let key = (route.prefix.get_ref(), route.metric);
            let Some(first) = known.insert(key, &route.prefix) else {
                continue;
            };
            report.conflict(
                &route.prefix,
                first,
                "first stated",
                format!(
                    "{}: route {} with metric {} is stated twice",
                    tunnel.label,
                    route.prefix.get_ref(),
                    route.metric
                ),
                "keep one of the two; `weight` gives the tunnel a greater share",
            );
        }
    }
}

fn groups_have_room(drafts: &Drafts, report: &mut Report<'_>) {
    let mut members: HashMap<_, usize> = HashMap::new();
    for tunnel in &drafts.tunnels {
        let Some(network) = &tunnel.network else {
            continue;
        };
        for route in tunnel.routes.iter().flatten() {
            let key = (network.get_ref(), route.prefix.get_ref(), route.metric);
            let count = members.entry(key).or_default();
            *count += 1;
            if *count == GROUP_MEMBERS + 1 {
                report.wrong(
                    &route.prefix,
                    format!(
                        "{}: route {} with metric {} is stated by more than {GROUP_MEMBERS} tunnels",
                        tunnel.label,
                        route.prefix.get_ref(),
                        route.metric
                    ),
                    "remove it from some of them, or give these another metric",
                );
            }
        }
    }
}

fn tunnel_is_of_the_network(
    route: &RouteDraft,
    network: &str,
    tunnel: &Spanned<Name>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) {
    if let Some(owner) = names.network_of(tunnel.get_ref())
        && owner.as_str() != network
    {
        report.wrong(
            tunnel,
            format!(
                "{}: tunnel `{}` belongs to network `{owner}`",
                route.label,
                tunnel.get_ref()
            ),
            format!("name a tunnel of network `{network}`"),
        );
    }
}

fn members_are_distinct(route: &RouteDraft, members: &[WeightedTunnel], report: &mut Report<'_>) {
    let mut known: HashMap<&Name, &Spanned<Name>> = HashMap::new();
    for member in members {
        if let Some(first) = known.insert(member.name.get_ref(), &member.name) {
            report.conflict(
                &member.name,
                first,
                "first named",
                format!(
                    "{}: tunnel `{}` is named twice",
                    route.label,
                    member.name.get_ref()
                ),
                "name it once; `weight` gives it a greater share",
            );
        }
    }
    if let Some(first_too_many) = members.get(GROUP_MEMBERS) {
        report.wrong(
            &first_too_many.name,
            format!(
                "{}: {} tunnels are named, {GROUP_MEMBERS} have room",
                route.label,
                members.len()
            ),
            "name fewer tunnels",
        );
    }
}

fn user_routes_are_distinct(drafts: &Drafts, report: &mut Report<'_>) {
    let mut known: HashMap<_, &Spanned<IpNet>> = HashMap::new();
    for route in &drafts.routes {
        let (Some(network), Some(prefix)) = (&route.network, &route.prefix) else {
            continue;
        };
        if let Some(first) = known.insert((network.get_ref(), prefix.get_ref()), prefix) {
            report.conflict(
                prefix,
                first,
                "first stated",
                format!("{} is stated twice", route.label),
                "keep one [[route]] for a prefix of a network",
            );
        }
    }
}

/// The networks that each network states a peering with.
fn peers(drafts: &Drafts) -> HashMap<&str, Vec<&str>> {
    let mut peers: HashMap<&str, Vec<&str>> = HashMap::new();
    for statement in &drafts.peerings {
        if let (Some(network), Some(remote)) = (&statement.network, &statement.remote) {
            let remotes = peers.entry(network.get_ref().as_str()).or_default();
            remotes.push(remote.get_ref().as_str());
        }
    }
    peers
}

/// The gateway's own addresses in each network.
fn own_addresses(drafts: &Drafts) -> HashMap<(&str, IpAddr), &Spanned<IpNet>> {
    let ports = drafts.ports.iter().filter_map(|port| {
        Some((
            port.network.as_ref()?.get_ref().as_str(),
            port.address.as_ref()?,
        ))
    });
    ports
        .flat_map(|(network, addresses)| {
            addresses
                .iter()
                .map(move |address| ((network, address.get_ref().addr()), address))
        })
        .collect()
}

fn machine_is_reachable(
    route: &RouteDraft,
    network: &str,
    machine: &Spanned<IpAddr>,
    names: &Names<'_>,
    peers: &HashMap<&str, Vec<&str>>,
    report: &mut Report<'_>,
) {
    let address = machine.get_ref();
    if let Some(prefix) = &route.prefix
        && prefix.get_ref().addr().is_ipv4() != address.is_ipv4()
    {
        report.wrong(
            machine,
            format!(
                "{}: next hop {address} is not of the prefix's family",
                route.label
            ),
            "use a next hop of the same family as `prefix`",
        );
        return;
    }
    let remotes = peers.get(network).map_or(&[][..], Vec::as_slice);
    let known = |name: &&str| names.has_address_space(name);
    if !known(&network) || !remotes.iter().all(known) {
        return;
    }
    let reachable = std::iter::once(&network)
        .chain(remotes)
        .flat_map(|name| names.address_space(name))
        .any(|prefix| prefix.get_ref().contains(address));
    if !reachable {
        report.wrong(
            machine,
            format!("{}: next hop {address} lies neither in network `{network}` nor in a peer of it", route.label),
            "name a machine in the address space of this or a peered network, { tunnel = \"…\" } or \"blackhole\"",
        );
    }
}

fn machine_is_not_the_gateway(
    route: &RouteDraft,
    network: &str,
    machine: &Spanned<IpAddr>,
    own_addresses: &HashMap<(&str, IpAddr), &Spanned<IpNet>>,
    report: &mut Report<'_>,
) {
    if let Some(own) = own_addresses.get(&(network, *machine.get_ref())) {
        report.conflict(
            machine,
            own,
            "the port's address",
            format!(
                "{}: next hop {} is the gateway itself",
                route.label,
                machine.get_ref()
            ),
            "name the machine that is to receive the packets",
        );
    }
}
