//! The best route for each prefix of each network: user-defined, then connected, then peering, then static by metric.
//!
//! Called by `compile` once all objects are there. A route whose next hop is missing now stays, and leads nowhere:
//! without it packets would follow a shorter prefix to a place nobody chose.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use gre_common::id::{NetworkId, PortId};
use ipnet::IpNet;
use toml::Spanned;

use super::compile::Compiler;
use super::desired::{Desired, NextHop, Route, RouteOrigin};
use crate::config::{self, Name, Peering};

type Table = BTreeMap<(NetworkId, IpNet), Route>;

pub(super) fn routes(compiler: &mut Compiler<'_>, desired: &Desired) -> Table {
    let subnets = Subnets::of(compiler, desired);
    let mut table = Table::new();
    connected(compiler, desired, &mut table);
    peered(compiler, &mut table);
    through_tunnels(compiler, &mut table);
    user_defined(compiler, &subnets, &mut table);
    table
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
            let route = |next_hop| Route {
                origin: RouteOrigin::Connected,
                metric: 0,
                next_hop,
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
            let route = Route {
                origin: RouteOrigin::Peering,
                metric: 0,
                next_hop: NextHop::Peer(peer),
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
            let route = Route {
                origin: RouteOrigin::Static,
                metric: stated.metric,
                next_hop: NextHop::Tunnel(id),
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
        let next_hop = match stated.next_hop.get_ref() {
            config::NextHop::Blackhole => NextHop::Blackhole,
            config::NextHop::Tunnel(tunnel) => {
                let id = compiler.ids.tunnel(name, tunnel);
                id.map_or(NextHop::Unreachable, NextHop::Tunnel)
            }
            config::NextHop::Machine(address) => {
                let near =
                    std::iter::once(name).chain(peers.get(name).into_iter().flatten().copied());
                let port = near
                    .filter_map(|network| subnets.port_of(network, *address))
                    .next();
                match port {
                    Some(Some(port)) => NextHop::Machine {
                        port,
                        address: *address,
                    },
                    // The port's device is missing, which has been said.
                    Some(None) => NextHop::Unreachable,
                    None => {
                        unreachable_machine(compiler, name, &stated.next_hop, *address);
                        NextHop::Unreachable
                    }
                }
            }
        };
        let route = Route {
            origin: RouteOrigin::User,
            metric: 0,
            next_hop,
        };
        offer(table, network, *stated.prefix.get_ref(), route);
    }
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

/// Keeps `route` if the prefix has none yet or a worse one.
fn offer(table: &mut Table, network: NetworkId, prefix: IpNet, route: Route) {
    let best = table.entry((network, prefix)).or_insert(route);
    if preference(&route) < preference(best) {
        *best = route;
    }
}

/// Less is better.
fn preference(route: &Route) -> (u8, u32) {
    let rank = match route.origin {
        RouteOrigin::User => 0,
        RouteOrigin::Connected => 1,
        RouteOrigin::Peering => 2,
        RouteOrigin::Static => 3,
    };
    (rank, route.metric)
}
