//! The best route for each prefix of each network: user-defined, then connected, then peering, then static by metric.
//! Static routes of equal metric are one route into a group of tunnels.
//!
//! Called by `compile` once all objects are there. A route whose next hop is missing now stays, and leads nowhere:
//! without it packets would follow a shorter prefix to a place nobody chose.

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Range;

use gre_common::id::{NetworkId, PortId, TunnelId};
use ipnet::IpNet;
use toml::Spanned;

use super::compile::Compiler;
use super::desired::{Desired, NextHop, Route, RouteOrigin};
use super::group::Members;
use super::grouping::Groups;
use crate::config::{self, Name, Peering, Weight};

/// Adds routes and groups to `desired`; returns the groups as the next plan needs to know them.
pub(super) fn routes(compiler: &mut Compiler<'_>, desired: &mut Desired) -> Groups {
    let subnets = Subnets::of(compiler, desired);
    let mut table = Table::new();
    connected(compiler, desired, &mut table);
    peered(compiler, &mut table);
    through_tunnels(compiler, &mut table);
    user_defined(compiler, &subnets, &mut table);

    let groups = grouped(compiler, &table);
    desired.groups = groups.all();
    let group_of = groups.by_route();
    for (key, offer) in table {
        let next_hop = match offer.way {
            Way::To(next_hop) => next_hop,
            Way::Through(members, at) => match (only(&members), group_of.get(&key)) {
                (Some(tunnel), _) => NextHop::Tunnel(tunnel),
                (None, Some(group)) => NextHop::Group(*group),
                (None, None) => {
                    compiler.full_at(at, &key.1, "groups of tunnels", compiler.limits.groups);
                    NextHop::Unreachable
                }
            },
        };
        let (origin, metric) = (offer.origin, offer.metric);
        let route = Route {
            origin,
            metric,
            next_hop,
        };
        desired.routes.insert(key, route);
    }
    groups
}

/// The best that was offered for each prefix.
type Table = BTreeMap<(NetworkId, IpNet), Offer>;

/// What would be a route if nothing better were offered.
struct Offer {
    origin: RouteOrigin,
    metric: u32,
    way: Way,
}

enum Way {
    To(NextHop),
    /// Into tunnels, at least one; and where the file says so.
    Through(Members, Range<usize>),
}

/// The groups of the routes that have several tunnels.
fn grouped(compiler: &Compiler<'_>, table: &Table) -> Groups {
    let several = table.iter().filter_map(|(key, offer)| match &offer.way {
        Way::Through(members, _) if only(members).is_none() => Some((*key, members.clone())),
        _ => None,
    });
    let limit = compiler.limits.groups;
    compiler.ids.groups.next(several.collect(), limit)
}

/// The tunnel, if there is but one.
fn only(members: &Members) -> Option<TunnelId> {
    let mut tunnels = members.keys();
    tunnels.next().filter(|_| tunnels.next().is_none()).copied()
}

/// The subnets of the ports of each network.
struct Subnets<'c> {
    networks: HashMap<&'c Name, Vec<(IpNet, Option<PortId>)>>,
}

impl<'c> Subnets<'c> {
    fn of(compiler: &Compiler<'c>, desired: &Desired) -> Self {
        let mut networks: HashMap<&Name, Vec<_>> = HashMap::new();
        for port in &compiler.config.ports {
            let id = present(compiler, desired, port);
            let subnets = networks.entry(port.network.get_ref()).or_default();
            subnets.extend(
                port.address
                    .iter()
                    .map(|address| (address.get_ref().trunc(), id)),
            );
        }
        Self { networks }
    }

    /// The port on whose subnet `address` lies: `Some(None)` if that port is not there now, `None` if there is none.
    fn port_of(&self, network: &Name, address: IpAddr) -> Option<Option<PortId>> {
        let subnets = self.networks.get(network)?;
        let found = subnets.iter().find(|(subnet, _)| subnet.contains(&address));
        found.map(|(_, port)| *port)
    }
}

/// The port's id, if its device is there.
fn present(compiler: &Compiler<'_>, desired: &Desired, port: &config::Port) -> Option<PortId> {
    let id = compiler
        .ids
        .port(port.network.get_ref(), port.name.get_ref());
    id.filter(|id| desired.ports.contains_key(id))
}

fn connected(compiler: &Compiler<'_>, desired: &Desired, table: &mut Table) {
    for port in &compiler.config.ports {
        let Some(network) = compiler.ids.network(port.network.get_ref()) else {
            continue;
        };
        let id = present(compiler, desired, port);
        for address in &port.address {
            let own = IpNet::from(address.get_ref().addr());
            let subnet = id.map_or(NextHop::Unreachable, NextHop::Connected);
            let local = id.map_or(NextHop::Unreachable, NextHop::Local);
            let route = |next_hop| Offer {
                origin: RouteOrigin::Connected,
                metric: 0,
                way: Way::To(next_hop),
            };
            offer(table, network, address.get_ref().trunc(), route(subnet));
            // A subnet of one address is that address.
            table.insert((network, own), route(local));
        }
    }
}

/// A network's table leads to a peer's address space if both sides state the peering and allow access.
fn peered(compiler: &Compiler<'_>, table: &mut Table) {
    let spaces: HashMap<&Name, &config::Network> = compiler
        .config
        .networks
        .iter()
        .map(|network| (network.name.get_ref(), network))
        .collect();
    for (network, remote) in accessible_peers(compiler) {
        let (Some(id), Some(peer)) = (compiler.ids.network(network), compiler.ids.network(remote))
        else {
            continue;
        };
        let space = spaces.get(remote).map(|network| &network.address_space);
        for prefix in space.into_iter().flatten() {
            let route = Offer {
                origin: RouteOrigin::Peering,
                metric: 0,
                way: Way::To(NextHop::Peer(peer)),
            };
            offer(table, id, *prefix.get_ref(), route);
        }
    }
}

/// Ordered pairs of networks that are connected and let each other's machines in.
fn accessible_peers<'c>(compiler: &Compiler<'c>) -> Vec<(&'c Name, &'c Name)> {
    let statements: HashMap<(&Name, &Name), &Peering> = compiler
        .config
        .peerings
        .iter()
        .map(|peering| {
            (
                (peering.network.get_ref(), peering.remote.get_ref()),
                peering,
            )
        })
        .collect();
    let allows = |network, remote| {
        let statement = statements.get(&(network, remote));
        statement.is_some_and(|peering| peering.allow_virtual_network_access)
    };
    let pairs = compiler.config.peerings.iter();
    pairs
        .map(|peering| (peering.network.get_ref(), peering.remote.get_ref()))
        .filter(|(network, remote)| compiler.peerings.are_connected(network, remote))
        .filter(|(network, remote)| allows(network, remote) && allows(remote, network))
        .collect()
}

fn through_tunnels(compiler: &Compiler<'_>, table: &mut Table) {
    for tunnel in &compiler.config.tunnels {
        let network = compiler.ids.network(tunnel.network.get_ref());
        let id = compiler
            .ids
            .tunnel(tunnel.network.get_ref(), tunnel.name.get_ref());
        let (Some(network), Some(id)) = (network, id) else {
            continue;
        };
        for stated in &tunnel.routes {
            let members = Members::from([(id, stated.weight)]);
            let route = Offer {
                origin: RouteOrigin::Static,
                metric: stated.metric,
                way: Way::Through(members, stated.prefix.span()),
            };
            offer(table, network, *stated.prefix.get_ref(), route);
        }
    }
}

fn user_defined(compiler: &mut Compiler<'_>, subnets: &Subnets<'_>, table: &mut Table) {
    let mut peers: HashMap<&Name, Vec<&Name>> = HashMap::new();
    for (network, remote) in accessible_peers(compiler) {
        peers.entry(network).or_default().push(remote);
    }
    for stated in &compiler.config.routes {
        let name = stated.network.get_ref();
        let Some(network) = compiler.ids.network(name) else {
            continue;
        };
        let at = &stated.next_hop;
        let way = match at.get_ref() {
            config::NextHop::Blackhole => Way::To(NextHop::Blackhole),
            config::NextHop::Tunnel(tunnel) => {
                let members = [(tunnel, Weight::default())];
                into(compiler, name, members.into_iter(), at.span())
            }
            config::NextHop::Tunnels(tunnels) => {
                let members = tunnels.iter();
                let members = members.map(|member| (member.name.get_ref(), member.weight));
                into(compiler, name, members, at.span())
            }
            config::NextHop::Machine(address) => {
                let near =
                    std::iter::once(name).chain(peers.get(name).into_iter().flatten().copied());
                let port = near
                    .filter_map(|network| subnets.port_of(network, *address))
                    .next();
                Way::To(match port {
                    Some(Some(port)) => NextHop::Machine {
                        port,
                        address: *address,
                    },
                    // The port's device is missing, which has been said.
                    Some(None) => NextHop::Unreachable,
                    None => {
                        unreachable_machine(compiler, name, at, *address);
                        NextHop::Unreachable
                    }
                })
            }
        };
        let route = Offer {
            origin: RouteOrigin::User,
            metric: 0,
            way,
        };
        offer(table, network, *stated.prefix.get_ref(), route);
    }
}

/// The way into tunnels of a network; those that found no room, which has been said, are left out.
fn into<'n>(
    compiler: &Compiler<'_>,
    network: &Name,
    tunnels: impl Iterator<Item = (&'n Name, Weight)>,
    at: Range<usize>,
) -> Way {
    let members: Members = tunnels
        .filter_map(|(tunnel, weight)| Some((compiler.ids.tunnel(network, tunnel)?, weight)))
        .collect();
    if members.is_empty() {
        return Way::To(NextHop::Unreachable);
    }
    Way::Through(members, at)
}

fn unreachable_machine<T>(
    compiler: &mut Compiler<'_>,
    network: &Name,
    at: &Spanned<T>,
    address: IpAddr,
) {
    compiler.complaints.push(compiler.config.source.warning(
        at.span(),
        format!(
            "next hop {address} is on no port of network `{network}` or of a connected peer: its packets are dropped"
        ),
        "name a machine on a port's subnet, or connect the peering on both sides",
    ));
}

/// Keeps `new` if the prefix has no route yet or a worse one; tunnels of equal routes are put together.
fn offer(table: &mut Table, network: NetworkId, prefix: IpNet, new: Offer) {
    match table.entry((network, prefix)) {
        Entry::Vacant(place) => {
            place.insert(new);
        }
        Entry::Occupied(mut best) => match preference(&new).cmp(&preference(best.get())) {
            Ordering::Less => {
                best.insert(new);
            }
            Ordering::Equal => {
                if let (Way::Through(best, _), Way::Through(new, _)) =
                    (&mut best.get_mut().way, new.way)
                {
                    best.extend(new);
                }
            }
            Ordering::Greater => {}
        },
    }
}

/// Less is better.
fn preference(offer: &Offer) -> (u8, u32) {
    let rank = match offer.origin {
        RouteOrigin::User => 0,
        RouteOrigin::Connected => 1,
        RouteOrigin::Peering => 2,
        RouteOrigin::Static => 3,
    };
    (rank, offer.metric)
}
