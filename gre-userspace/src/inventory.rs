//! Fills the reports that the API serves, from the running configuration, plan and maps.
//!
//! Read-only. Objects come from the configuration, so that one that has no entry now (its device is missing) is shown
//! too; counters are read from the maps for each question.

use std::collections::{BTreeMap, HashMap};
use std::time::{Instant, SystemTime};

use gre_common::counters::{Direction, DropKey, Owner, Stats};
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

/// A [`Snapshot`] that is being taken.
pub(crate) struct Collection {
    all_drops: Drops,
    /// In the order of the configuration.
    tunnels: Vec<Tunnel>,
    /// Those of `tunnels`.
    drops: Vec<DropCounter>,
}

impl Gateway {
    /// Begins a [`Snapshot`].
    pub(crate) fn begin_collection(&self) -> Collection {
        Collection {
            all_drops: self.read_drops(),
            tunnels: Vec::with_capacity(self.config.tunnels.len()),
            drops: Vec::new(),
        }
    }

    /// Reads up to so many further tunnels. Returns whether that was not all.
    pub(crate) fn collect(&self, collection: &mut Collection, tunnels: usize) -> bool {
        let tenants = Tenants::new(&self.config);
        let from = collection.tunnels.len();
        let piece = self.config.tunnels.iter().skip(from).take(tunnels);
        for tunnel in piece {
            let tunnel_drops = self.drops_of_tunnel(tunnel, &tenants, &collection.all_drops);
            collection.drops.extend(tunnel_drops);
            let tunnel = self.tunnel(tunnel, &tenants, &collection.all_drops);
            collection.tunnels.push(tunnel);
        }
        collection.tunnels.len() < self.config.tunnels.len()
    }

    /// The snapshot of which all tunnels have been read.
    pub(crate) fn complete(&self, collection: Collection) -> Snapshot {
        let Collection {
            all_drops,
            tunnels,
            mut drops,
        } = collection;
        let tenants = Tenants::new(&self.config);
        drops.extend(self.drops_of_ports_and_devices(&tenants, &all_drops));
        Snapshot {
            gateway: self.config.gateway.name.to_string(),
            tunnels,
            ports: self.all_ports(None, &all_drops),
            peerings: self.peerings(),
            drops,
            tables: self.tables(&all_drops),
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
    pub(crate) fn tunnels(&self, only: Option<&str>) -> Vec<Tunnel> {
        let tenants = Tenants::new(&self.config);
        let tunnels = self.config.tunnels.iter();
        let chosen: Vec<_> = tunnels
            .filter(|tunnel| is_chosen(&tunnel.name, only))
            .collect();
        let drops = self.read_drops_for(only, || {
            let ids = chosen.iter();
            ids.filter_map(|tunnel| self.tunnel_owner(tunnel)).collect()
        });
        let mut tunnels: Vec<_> = chosen
            .into_iter()
            .map(|tunnel| self.tunnel(tunnel, &tenants, &drops))
            .collect();
        tunnels.sort_by(|a, b| a.name.cmp(&b.name));
        tunnels
    }

    /// As [`crate::request::Request::Networks`].
    pub(crate) fn networks(&self, only: Option<&str>) -> Vec<Network> {
        let members = Members::by_network(&self.config);
        let networks = self.config.networks.iter();
        let mut networks: Vec<_> = networks
            .filter(|network| is_chosen(&network.name, only))
            .map(|network| self.network(network, &members))
            .collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        networks
    }

    /// As [`crate::request::Request::Ports`].
    pub(crate) fn ports(&self, only: Option<&str>) -> Vec<Port> {
        let drops = self.read_drops_for(only, || {
            let ports = self.config.ports.iter();
            let chosen = ports.filter(|port| is_chosen(&port.name, only));
            chosen.filter_map(|port| self.port_owner(port)).collect()
        });
        self.all_ports(only, &drops)
    }

    fn all_ports(&self, only: Option<&str>, drops: &Drops) -> Vec<Port> {
        let tenants = Tenants::new(&self.config);
        let ports = self.config.ports.iter();
        let mut ports: Vec<_> = ports
            .filter(|port| is_chosen(&port.name, only))
            .map(|port| self.port(port, &tenants, drops))
            .collect();
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
        let tenants = Tenants::new(&self.config);
        let tunnels = self.config.tunnels.iter();
        let mut counters: Vec<_> = tunnels
            .flat_map(|tunnel| self.drops_of_tunnel(tunnel, &tenants, drops))
            .chain(self.drops_of_ports_and_devices(&tenants, drops))
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

    fn drops_of_tunnel(
        &self,
        tunnel: &config::Tunnel,
        tenants: &Tenants<'_>,
        drops: &Drops,
    ) -> Vec<DropCounter> {
        // Most have none.
        if drops.by_owner.is_empty() {
            return Vec::new();
        }
        let network = tunnel.network.get_ref();
        let owner = self.tunnel_owner(tunnel);
        let charged = (OwnerKind::Tunnel, tunnel.name.get_ref().as_str());
        owner.map_or_else(Vec::new, |owner| {
            drops.counters(owner, charged, Some((network, tenants)))
        })
    }

    /// What is configured is named even if it does not run.
    fn drops_of_ports_and_devices(&self, tenants: &Tenants<'_>, drops: &Drops) -> Vec<DropCounter> {
        let ports = self.config.ports.iter().filter_map(|port| {
            let charged = (OwnerKind::Port, port.name.get_ref().as_str());
            let network = Some((port.network.get_ref(), tenants));
            Some(drops.counters(self.port_owner(port)?, charged, network))
        });
        let devices = self.links.iter().map(|(index, link)| {
            let charged = (OwnerKind::Device, link.name.as_str());
            drops.counters(Owner::Underlay(*index), charged, None)
        });
        ports.chain(devices).flatten().collect()
    }

    /// As [`crate::request::Request::Devices`].
    pub(crate) fn devices_report(&self, only: Option<&str>) -> Vec<Device> {
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
        devices.retain(|name, _| only.is_none_or(|only| only == *name));
        let drops = self.read_drops_for(only, || {
            let links = self.links.values();
            let chosen = links.filter(|link| devices.contains_key(link.name.as_str()));
            chosen.map(|link| Owner::Underlay(link.index)).collect()
        });
        devices
            .into_iter()
            .map(|(name, (roles, local))| self.device(name, roles, local, &drops))
            .collect()
    }

    /// The drop counters of what was asked for by name, or all.
    fn read_drops_for(&self, only: Option<&str>, owners: impl FnOnce() -> Vec<Owner>) -> Drops {
        if only.is_none() {
            return self.read_drops();
        }
        let mut counters = Vec::new();
        for owner in owners() {
            match self.live.plane.maps.drops_of(owner) {
                Ok(found) => counters.extend(found),
                Err(error) => tracing::error!("{:#}", anyhow::Error::from(error)),
            }
        }
        Drops::new(counters)
    }

    /// All drop counters.
    pub(crate) fn read_drops(&self) -> Drops {
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
        Drops::new(counters)
    }

    fn tunnel_owner(&self, tunnel: &config::Tunnel) -> Option<Owner> {
        let (network, name) = (tunnel.network.get_ref(), tunnel.name.get_ref());
        self.ids.tunnel(network, name).map(Owner::Tunnel)
    }

    fn port_owner(&self, port: &config::Port) -> Option<Owner> {
        let (network, name) = (port.network.get_ref(), port.name.get_ref());
        self.ids.port(network, name).map(Owner::Port)
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
}

impl Drops {
    fn new(counters: Vec<(DropKey, u64)>) -> Self {
        let entries = counters.len();
        let mut by_owner: BTreeMap<Owner, BTreeMap<_, u64>> = BTreeMap::new();
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
        Self { by_owner, entries }
    }

    /// Those of `owner`, by the kind and name that it is shown with.
    fn counters(
        &self,
        owner: Owner,
        (kind, name): (OwnerKind, &str),
        network: Option<(&Name, &Tenants<'_>)>,
    ) -> Vec<DropCounter> {
        let counts = self.by_owner.get(&owner).into_iter().flatten();
        counts
            .map(|((direction, reason), packets)| DropCounter {
                owner: kind,
                name: name.to_owned(),
                network: network.map(|(network, _)| network.to_string()),
                tenant: network.map(|(network, tenants)| tenants.of(network)),
                direction: (*direction).into(),
                reason: reason.name().into(),
                packets: *packets,
                explanation: reason.explanation().into(),
            })
            .collect()
    }
}

fn is_chosen(name: &Spanned<Name>, only: Option<&str>) -> bool {
    only.is_none_or(|only| only == name.get_ref().as_str())
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
