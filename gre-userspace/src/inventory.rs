//! Fills the reports that the API serves, from the running configuration, plan and maps.
//!
//! Read-only. Objects come from the configuration, so that one that has no entry now (its device is missing) is shown
//! too; counters are read from the maps for each question.

use std::collections::{BTreeMap, HashMap};
use std::time::{Instant, SystemTime};

use gre_common::counters::{Direction, Owner, Stats};
use gre_common::id::{GroupId, IfIndex, NetworkId, PortId, TunnelId};
use gre_common::limits;
use gre_common::verdict::DropReason;

use crate::adjacency::Way;
use crate::config::{self, Config, Name, Spanned};
use crate::gateway::Gateway;
use crate::netlink::Link;
use crate::outage;
use crate::plan::{self, Desired};
use crate::report::{
    self, Adjacency, Device, DropCounter, DropsByReason, Neighbour, Network, OwnerKind, Peering,
    Port, Resolution, Role, Route, Snapshot, State, TableFill, Traffic, Tunnel,
};

/// From this number of drop counters on the operator is warned.
const NEARLY_ALL_DROPS: usize = limits::DROPS / 10 * 9;

/// Drop counters.
pub(crate) struct Drops {
    /// Those that are not zero, by what they are charged to.
    by_owner: BTreeMap<Owner, BTreeMap<(Direction, DropReason), u64>>,
    /// Entries of the map, zeros included.
    entries: usize,
}

impl Gateway {
    /// As [`crate::request::Request::Snapshot`].
    pub(crate) fn snapshot(&self) -> Snapshot {
        let drops = self.read_drops();
        Snapshot {
            gateway: self.config.gateway.name.to_string(),
            tunnels: self.tunnels(&drops),
            ports: self.ports(&drops),
            peerings: self.peerings(),
            drops: self.drops(&drops),
            tables: self.tables(&drops),
        }
    }

    /// How full the tables are that grow without the configuration.
    fn tables(&self, drops: &Drops) -> Vec<TableFill> {
        let live = &self.live;
        [
            ("drops", drops.entries, limits::DROPS),
            (
                "machines",
                live.neighbours.iter().count(),
                limits::NEIGHBOURS,
            ),
            (
                "next_hops",
                live.adjacencies.hops().len(),
                limits::ADJACENCIES,
            ),
        ]
        .map(|(table, entries, capacity)| TableFill {
            table,
            entries: entries as u64,
            capacity: capacity as u64,
        })
        .into()
    }

    /// As [`crate::request::Request::Tunnels`].
    pub(crate) fn tunnels(&self, drops: &Drops) -> Vec<Tunnel> {
        let tenants = Tenants::new(&self.config);
        let tunnels = self.config.tunnels.iter();
        let mut tunnels: Vec<_> = tunnels
            .map(|tunnel| self.tunnel(tunnel, &tenants, drops))
            .collect();
        tunnels.sort_by(|a, b| a.name.cmp(&b.name));
        tunnels
    }

    /// As [`crate::request::Request::Networks`].
    pub(crate) fn networks(&self) -> Vec<Network> {
        let members = Members::by_network(&self.config);
        let networks = self.config.networks.iter();
        let mut networks: Vec<_> = networks
            .map(|network| self.network(network, &members))
            .collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        networks
    }

    /// As [`crate::request::Request::Ports`].
    pub(crate) fn ports(&self, drops: &Drops) -> Vec<Port> {
        let tenants = Tenants::new(&self.config);
        let ports = self.config.ports.iter();
        let mut ports: Vec<_> = ports.map(|port| self.port(port, &tenants, drops)).collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        ports
    }

    /// As [`crate::request::Request::Peerings`].
    pub(crate) fn peerings(&self) -> Vec<Peering> {
        let tenants = Tenants::new(&self.config);
        let peerings = self.config.peerings.iter();
        let mut peerings: Vec<_> = peerings
            .map(|peering| self.peering(peering, &tenants))
            .collect();
        peerings.sort_by(|a, b| (&a.network, &a.remote).cmp(&(&b.network, &b.remote)));
        peerings
    }

    /// As [`crate::request::Request::Routes`].
    pub(crate) fn routes(&self, only: Option<&str>) -> Vec<Route> {
        let state = &self.live.state;
        let mut routes: Vec<_> = state
            .routes
            .iter()
            .filter_map(|((network, prefix), route)| {
                let network = state.networks.get(network)?;
                if only.is_some_and(|only| only != network.name.as_str()) {
                    return None;
                }
                Some(Route {
                    network: network.name.to_string(),
                    tenant: network.tenant.to_string(),
                    prefix: *prefix,
                    next_hop: self.next_hop(route.next_hop),
                    origin: route.origin,
                    metric: route.metric,
                })
            })
            .collect();
        routes.sort_by(|a, b| (&a.network, a.prefix).cmp(&(&b.network, b.prefix)));
        routes
    }

    /// As [`crate::request::Request::Neighbours`].
    pub(crate) fn neighbours(&self) -> Vec<Neighbour> {
        let state = &self.live.state;
        let mut neighbours: Vec<_> = self
            .live
            .neighbours
            .iter()
            .filter_map(|known| {
                let port = state.ports.get(&known.port)?;
                let network = state.networks.get(&port.network)?;
                Some(Neighbour {
                    port: port.name.to_string(),
                    network: network.name.to_string(),
                    tenant: network.tenant.to_string(),
                    address: known.address,
                    mac: known.mac,
                    state: resolution(known.mac.is_some()),
                })
            })
            .collect();
        neighbours.sort_by(|a, b| (&a.port, a.address).cmp(&(&b.port, b.address)));
        neighbours
    }

    /// As [`crate::request::Request::Drops`].
    pub(crate) fn drops(&self, drops: &Drops) -> Vec<DropCounter> {
        let owners = self.owners();
        let tenants = Tenants::new(&self.config);
        let mut counters: Vec<_> = drops
            .by_owner
            .iter()
            .filter_map(|(owner, counts)| Some((owners.get(owner)?, counts)))
            .flat_map(|((kind, name, network), counts)| {
                let tenant = network.map(|network| tenants.of(network));
                counts
                    .iter()
                    .map(move |((direction, reason), packets)| DropCounter {
                        owner: *kind,
                        name: (*name).to_owned(),
                        network: network.map(Name::to_string),
                        tenant: tenant.clone(),
                        direction: (*direction).into(),
                        reason: reason.name().into(),
                        packets: *packets,
                        explanation: reason.explanation().into(),
                    })
            })
            .collect();
        counters.sort_by(|a, b| {
            (a.owner, &a.name, &a.reason, a.direction).cmp(&(
                b.owner,
                &b.name,
                &b.reason,
                b.direction,
            ))
        });
        counters
    }

    /// As [`crate::request::Request::Devices`].
    pub(crate) fn devices_report(&self, drops: &Drops) -> Vec<Device> {
        let mut devices: BTreeMap<&str, (Vec<Role>, Vec<std::net::IpAddr>)> = BTreeMap::new();
        for underlay in &self.config.underlays {
            let (roles, local) = devices
                .entry(underlay.device.get_ref().as_str())
                .or_default();
            roles.push(Role::Underlay);
            local.extend(underlay.local.iter().map(Spanned::get_ref));
        }
        for port in &self.config.ports {
            let (roles, _) = devices.entry(port.device.get_ref().as_str()).or_default();
            if !roles.contains(&Role::Port) {
                roles.push(Role::Port);
            }
        }
        devices
            .into_iter()
            .map(|(name, (roles, local))| self.device(name, roles, local, drops))
            .collect()
    }

    /// All drop counters.
    pub(crate) fn read_drops(&self) -> Drops {
        let mut by_owner: BTreeMap<Owner, BTreeMap<_, u64>> = BTreeMap::new();
        let counters = self.live.plane.maps.drops().unwrap_or_else(|error| {
            tracing::error!("{:#}", anyhow::Error::from(error));
            Vec::new()
        });
        let entries = counters.len();
        if entries >= NEARLY_ALL_DROPS && !self.told_of_drops.replace(true) {
            tracing::warn!(
                "{entries} of {} drop counters are in use: once they are all, drops of new kinds are not counted",
                limits::DROPS
            );
        }
        for (key, packets) in counters {
            let direction = match key.direction {
                0 => Direction::Receive,
                _ => Direction::Transmit,
            };
            if let (Some(owner), Some(reason)) = (key.owner(), DropReason::from_number(key.reason))
                && packets > 0
            {
                let counts = by_owner.entry(owner).or_default();
                *counts.entry((direction, reason)).or_default() += packets;
            }
        }
        Drops { by_owner, entries }
    }

    fn next_hop(&self, next_hop: plan::NextHop) -> report::NextHop {
        let state = &self.live.state;
        match next_hop {
            plan::NextHop::Local(port) => report::NextHop::Local {
                port: port_name(state, port),
            },
            plan::NextHop::Connected(port) => report::NextHop::Port {
                port: port_name(state, port),
            },
            plan::NextHop::Machine { address, .. } => report::NextHop::Machine { address },
            plan::NextHop::Tunnel(tunnel) => report::NextHop::Tunnel {
                tunnel: tunnel_name(state, tunnel),
            },
            plan::NextHop::Group(group) => report::NextHop::Group {
                members: self.members(group),
            },
            plan::NextHop::Peer(network) => report::NextHop::Peering {
                network: network_name(state, network),
            },
            plan::NextHop::Blackhole => report::NextHop::Blackhole,
            plan::NextHop::Unreachable => report::NextHop::Unreachable,
        }
    }

    fn members(&self, group: GroupId) -> Vec<report::Member> {
        let mut members: Vec<_> = members(&self.live.state, group)
            .map(|member| report::Member {
                tunnel: tunnel_name(&self.live.state, member.tunnel),
                weight: member.weight.0,
                state: up(self.live.is_alive(member.tunnel)),
            })
            .collect();
        members.sort_by(|a, b| a.tunnel.cmp(&b.tunnel));
        members
    }

    fn tunnel(&self, tunnel: &config::Tunnel, tenants: &Tenants<'_>, drops: &Drops) -> Tunnel {
        let (network, name) = (tunnel.network.get_ref(), tunnel.name.get_ref());
        let id = self.ids.tunnel(network, name);
        let planned = id.and_then(|id| self.live.state.tunnels.get(&id));
        let status = id
            .filter(|_| planned.is_some())
            .map(|id| self.live.adjacencies.status(id));
        let mac = status.and_then(|status| status.mac);
        let hop = status.and_then(|status| status.hop);
        let reason = status.and_then(|status| status.reason);
        let way = Way {
            local: *tunnel.local.get_ref(),
            remote: *tunnel.remote.get_ref(),
        };
        let device = hop.and_then(|hop| self.links.get(&hop.device));
        let (rx, tx, drops) = self.traffic(id.map(Owner::Tunnel), drops);
        Tunnel {
            name: name.to_string(),
            tenant: tenants.of(network),
            network: network.to_string(),
            local: *tunnel.local.get_ref(),
            remote: *tunnel.remote.get_ref(),
            receive_key: tunnel.keys.receive.map(|key| key.0),
            transmit_key: tunnel.keys.transmit.map(|key| key.0),
            state: up(mac.is_some()),
            since: status.and_then(|status| Some(timestamp(status.since?))),
            reason,
            explanation: reason.map(|reason| {
                outage::explanation(reason, way, hop, device.map(|link| link.name.as_str()))
            }),
            mtu: planned.map_or(0, |planned| {
                planned.mtu_over(status.and_then(|status| status.mtu))
            }),
            adjacency: Adjacency {
                device: device.map(|link| link.name.clone()),
                mac,
                state: resolution(mac.is_some()),
            },
            rx,
            tx,
            drops,
        }
    }

    fn network(&self, network: &config::Network, members: &HashMap<&Name, Members>) -> Network {
        let name = network.name.get_ref();
        let members = members.get(name).copied().unwrap_or_default();
        let id = self.ids.network(name);
        let fib = id
            .map(|id| self.live.plane.fib_usage(id))
            .unwrap_or_default();
        Network {
            name: name.to_string(),
            tenant: network.tenant.get_ref().to_string(),
            address_space: network
                .address_space
                .iter()
                .map(|prefix| *prefix.get_ref())
                .collect(),
            ports: members.ports,
            tunnels: members.tunnels,
            peerings: members.peerings,
            routes: id.map_or(0, |id| self.live.state.routes_of(id).count()),
            fib_routes: fib.routes,
            fib_nodes: fib.nodes,
            fib_leaves: fib.leaves,
            fib_bytes: fib.bytes,
        }
    }

    fn port(&self, port: &config::Port, tenants: &Tenants<'_>, drops: &Drops) -> Port {
        let (network, name) = (port.network.get_ref(), port.name.get_ref());
        let id = self.ids.port(network, name);
        let planned = id.and_then(|id| self.live.state.ports.get(&id));
        let link = planned.and_then(|planned| self.links.get(&planned.device));
        let (rx, tx, drops) = self.traffic(id.map(Owner::Port), drops);
        Port {
            name: name.to_string(),
            tenant: tenants.of(network),
            network: network.to_string(),
            device: port.device.get_ref().to_string(),
            vlan: port.vlan.as_ref().map(|vlan| vlan.get_ref().0),
            address: port.address.iter().map(|net| *net.get_ref()).collect(),
            mac: planned.map(|planned| planned.mac),
            state: up(link.is_some_and(|link| self.carries(link.index))),
            mtu: planned.map(|planned| planned.mtu),
            rx,
            tx,
            drops,
        }
    }

    fn peering(&self, peering: &config::Peering, tenants: &Tenants<'_>) -> Peering {
        let (network, remote) = (peering.network.get_ref(), peering.remote.get_ref());
        let state = self
            .peerings
            .get(network, remote)
            .unwrap_or(report::PeeringState::Initiated);
        let reason = match state {
            report::PeeringState::Connected => None,
            report::PeeringState::Initiated => {
                Some(format!("network {remote} does not state the peering"))
            }
            report::PeeringState::Disconnected => {
                Some(format!("network {remote} no longer states the peering"))
            }
        };
        Peering {
            network: network.to_string(),
            tenant: tenants.of(network),
            remote: remote.to_string(),
            state,
            remote_state: self.peerings.get(remote, network),
            reason,
            allow_virtual_network_access: peering.allow_virtual_network_access,
            allow_forwarded_traffic: peering.allow_forwarded_traffic,
            allow_gateway_transit: peering.allow_gateway_transit,
            use_remote_gateways: peering.use_remote_gateways,
        }
    }

    fn device(
        &self,
        name: &str,
        roles: Vec<Role>,
        local: Vec<std::net::IpAddr>,
        drops: &Drops,
    ) -> Device {
        let link = self.links.values().find(|link| link.name == name);
        let (_, _, drops) = self.traffic(link.map(|link| Owner::Underlay(link.index)), drops);
        Device {
            name: name.to_owned(),
            index: link.map(|link| link.index.0),
            roles,
            local,
            mac: link.and_then(|link| link.mac),
            mtu: link.map(|link| u16::try_from(link.mtu).unwrap_or(u16::MAX)),
            state: up(link.is_some_and(|link| self.carries(link.index))),
            explanation: self.device_fault(name, link),
            mode: link.and_then(|link| self.live.plane.attach_mode(link.index)),
            program: link.and_then(|link| Some(link.program?.id)),
            redirect: link.is_some_and(|link| self.live.plane.maps.redirects_to(link.index)),
            drops,
        }
    }

    /// Why a device carries nothing, or not all.
    fn device_fault(&self, name: &str, link: Option<&Link>) -> Option<String> {
        let Some(link) = link else {
            return Some(format!(
                "there is no device {name}: create it, or name another"
            ));
        };
        if let Some(reason) = self.lost.get(&link.index) {
            return Some(reason.clone());
        }
        if self.live.plane.attach_mode(link.index).is_none() {
            return Some("the program is not attached: the log says why".to_owned());
        }
        if !link.up {
            return Some(format!("`ip link set {name} up`, or see to its carrier"));
        }
        self.unable.contains(&link.index).then(|| {
            "its driver takes no frames from other drivers: allow \"generic\" by `xdp_mode` of all devices".to_owned()
        })
    }

    /// Whether the device is up and carries the program.
    fn carries(&self, device: IfIndex) -> bool {
        self.links.get(&device).is_some_and(|link| link.up)
            && self.live.plane.attach_mode(device).is_some()
    }

    /// Traffic received, sent, and drops of both directions by reason.
    fn traffic(&self, owner: Option<Owner>, drops: &Drops) -> (Traffic, Traffic, DropsByReason) {
        let Some(owner) = owner else {
            return Default::default();
        };
        let stats = self.live.plane.maps.stats(owner).unwrap_or_else(|error| {
            tracing::error!("{:#}", anyhow::Error::from(error));
            Stats::default()
        });
        let mut rx = Traffic {
            packets: stats.receive_packets,
            bytes: stats.receive_bytes,
            dropped: 0,
        };
        let mut tx = Traffic {
            packets: stats.transmit_packets,
            bytes: stats.transmit_bytes,
            dropped: 0,
        };
        let mut by_reason = DropsByReason::new();
        for ((direction, reason), packets) in drops.by_owner.get(&owner).into_iter().flatten() {
            match direction {
                Direction::Receive => rx.dropped += packets,
                Direction::Transmit => tx.dropped += packets,
            }
            *by_reason.entry(reason.name().into()).or_default() += packets;
        }
        (rx, tx, by_reason)
    }

    /// Kind, name and network of what counters are charged to. What is configured is named even if it does not run.
    fn owners(&self) -> HashMap<Owner, (OwnerKind, &str, Option<&Name>)> {
        let devices = self.links.iter().map(|(index, link)| {
            let owner = (OwnerKind::Device, link.name.as_str(), None);
            (Owner::Underlay(*index), owner)
        });
        let ports = self.config.ports.iter().filter_map(|port| {
            let (network, name) = (port.network.get_ref(), port.name.get_ref());
            let id = self.ids.port(network, name)?;
            let owner = (OwnerKind::Port, name.as_str(), Some(network));
            Some((Owner::Port(id), owner))
        });
        let tunnels = self.config.tunnels.iter().filter_map(|tunnel| {
            let (network, name) = (tunnel.network.get_ref(), tunnel.name.get_ref());
            let id = self.ids.tunnel(network, name)?;
            let owner = (OwnerKind::Tunnel, name.as_str(), Some(network));
            Some((Owner::Tunnel(id), owner))
        });
        devices.chain(ports).chain(tunnels).collect()
    }
}

/// The customers of networks, by the networks' names.
struct Tenants<'c>(HashMap<&'c Name, &'c Name>);

impl<'c> Tenants<'c> {
    fn new(config: &'c Config) -> Self {
        let networks = config.networks.iter();
        Self(
            networks
                .map(|network| (network.name.get_ref(), network.tenant.get_ref()))
                .collect(),
        )
    }

    fn of(&self, network: &Name) -> String {
        self.0
            .get(network)
            .map(ToString::to_string)
            .unwrap_or_default()
    }
}

/// How many of each belong to a network.
#[derive(Clone, Copy, Default)]
struct Members {
    ports: usize,
    tunnels: usize,
    peerings: usize,
}

impl Members {
    fn by_network(config: &Config) -> HashMap<&Name, Self> {
        let mut members: HashMap<&Name, Self> = HashMap::new();
        for port in &config.ports {
            members.entry(port.network.get_ref()).or_default().ports += 1;
        }
        for tunnel in &config.tunnels {
            members.entry(tunnel.network.get_ref()).or_default().tunnels += 1;
        }
        for peering in &config.peerings {
            let network = members.entry(peering.network.get_ref()).or_default();
            network.peerings += 1;
        }
        members
    }
}

/// The members of a group.
pub(crate) fn members(state: &Desired, group: GroupId) -> impl Iterator<Item = &plan::Member> {
    let group = state.groups.get(&group);
    group.into_iter().flat_map(|group| group.members.values())
}

pub(crate) fn network_name(state: &Desired, id: NetworkId) -> String {
    let network = state.networks.get(&id);
    network
        .map(|network| network.name.to_string())
        .unwrap_or_default()
}

pub(crate) fn port_name(state: &Desired, id: PortId) -> String {
    let port = state.ports.get(&id);
    port.map(|port| port.name.to_string()).unwrap_or_default()
}

pub(crate) fn tunnel_name(state: &Desired, id: TunnelId) -> String {
    let tunnel = state.tunnels.get(&id);
    tunnel
        .map(|tunnel| tunnel.name.to_string())
        .unwrap_or_default()
}

fn up(condition: bool) -> State {
    if condition { State::Up } else { State::Down }
}

/// A moment of the past by the clock on the wall, as RFC 3339 says.
fn timestamp(moment: Instant) -> String {
    let time = SystemTime::now().checked_sub(moment.elapsed());
    humantime::format_rfc3339_seconds(time.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

fn resolution(known: bool) -> Resolution {
    if known {
        Resolution::Resolved
    } else {
        Resolution::Unresolved
    }
}
