//! The state of the data plane as plain data, by ids, and how each object becomes a table entry.
//!
//! Made by `compile`, compared by `diff`; the daemon keeps the one that runs. [`Desired::apply`] follows a change, so
//! that after a failure half-way the daemon knows what runs and can go back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gre_common::entry::{InterfaceEntry, InterfaceFlags, PortEntry, TunnelEntry, TunnelFlags};
use gre_common::id::{
    Address, AdjacencyId, Family, GreKey, GroupId, IfIndex, MacAddress, NetworkId, PortId,
    TunnelId, VlanId,
};
use gre_common::key::DemuxKey;
use gre_common::next_hop::Target;
use ipnet::IpNet;

use super::diff::Change;
use super::group::Group;
use crate::config::{Keys, Name, Tos, Ttl, XdpMode, overhead};
pub use crate::report::Origin as RouteOrigin;

/// What the data plane holds, or should hold. Every id in it names an object in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Devices with a role.
    pub interfaces: BTreeMap<IfIndex, Interface>,
    /// Ports behind tags of devices.
    pub tagged_ports: BTreeMap<(IfIndex, VlanId), PortId>,
    /// GRE addresses of the gateway.
    pub endpoints: BTreeSet<IpAddr>,
    /// Which tunnel a GRE packet belongs to.
    pub demux: BTreeMap<DemuxMatch, TunnelId>,
    /// Virtual networks.
    pub networks: BTreeMap<NetworkId, Network>,
    /// Ports.
    pub ports: BTreeMap<PortId, Port>,
    /// Tunnels.
    pub tunnels: BTreeMap<TunnelId, Tunnel>,
    /// Groups of tunnels.
    pub groups: BTreeMap<GroupId, Group>,
    /// The best route for each prefix of each network; machines that are learnt come on top.
    pub routes: BTreeMap<(NetworkId, IpNet), Route>,
}

/// A device with a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its layer-2 address.
    pub mac: MacAddress,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// It carries GRE.
    pub underlay: bool,
    /// The port of its untagged frames.
    pub untagged_port: Option<PortId>,
    /// Some of its VLANs are ports.
    pub tagged_ports: bool,
}

/// What a GRE packet carries that tells its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DemuxMatch {
    /// Outer destination.
    pub local: IpAddr,
    /// Outer source, of the same family.
    pub remote: IpAddr,
    /// Key; `None`: no key, which differs from key 0.
    pub key: Option<GreKey>,
}

/// A virtual network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: Name,
    /// The customer.
    pub tenant: Name,
}

/// Where machines attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: Name,
    /// The network of the machines.
    pub network: NetworkId,
    /// The device.
    pub device: IfIndex,
    /// The device's layer-2 address.
    pub mac: MacAddress,
    /// Tag of its frames; `None`: untagged.
    pub vlan: Option<VlanId>,
    /// Greatest IP packet that the device carries, in bytes.
    pub mtu: u16,
    /// The gateway's own addresses, with the lengths of the subnets.
    pub address: Vec<IpNet>,
}

/// A GRE association.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its name.
    pub name: Name,
    /// The network whose packets it carries.
    pub network: NetworkId,
    /// Outer address of the gateway.
    pub local: IpAddr,
    /// Outer address of the other end, of the same family; an adjacency leads there.
    pub remote: IpAddr,
    /// Keys.
    pub keys: Keys,
    /// Send and require checksums.
    pub checksum: bool,
    /// Send and require sequence numbers.
    pub sequence: bool,
    /// Greatest inner IP packet, in bytes: what is configured, but no more than the underlay carries.
    pub mtu: u16,
    /// Outer TTL or hop limit.
    pub ttl: Ttl,
    /// Outer type of service or traffic class.
    pub tos: Tos,
}

/// The best route for a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it comes from.
    pub origin: RouteOrigin,
    /// The metric it won with; 0 where the origin knows none.
    pub metric: u32,
    /// Where it leads.
    pub next_hop: NextHop,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// The gateway's own address on a port.
    Local(PortId),
    /// The machines of a port's subnet.
    Connected(PortId),
    /// One machine on a port, of this or a peered network; it needs a neighbour id.
    Machine {
        /// The port.
        port: PortId,
        /// The machine.
        address: IpAddr,
    },
    /// Another site.
    Tunnel(TunnelId),
    /// Other sites: the flows are shared among the tunnels of a group.
    Group(GroupId),
    /// A peered network.
    Peer(NetworkId),
    /// Nowhere, on purpose.
    Blackhole,
    /// Nowhere, since what the configuration names is missing now. Packets must not follow a shorter prefix instead.
    Unreachable,
}

impl Desired {
    /// Makes one change.
    pub fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::SetNetwork(id, network) => {
                self.networks.insert(id, network);
            }
            Change::RemoveNetwork(id) => {
                self.networks.remove(&id);
            }
            Change::SetPort(id, port) => {
                self.ports.insert(id, port);
            }
            Change::RemovePort(id) => {
                self.ports.remove(&id);
            }
            Change::SetTunnel(id, tunnel) => {
                self.tunnels.insert(id, tunnel);
            }
            Change::RemoveTunnel(id) => {
                self.tunnels.remove(&id);
            }
            Change::SetGroup(id, group) => {
                self.groups.insert(id, group);
            }
            Change::RemoveGroup(id) => {
                self.groups.remove(&id);
            }
            Change::SetRoute(network, prefix, route) => {
                self.routes.insert((network, prefix), route);
            }
            Change::RemoveRoute(network, prefix) => {
                self.routes.remove(&(network, prefix));
            }
            Change::SetDemux(key, tunnel) => {
                self.demux.insert(key, tunnel);
            }
            Change::RemoveDemux(key) => {
                self.demux.remove(&key);
            }
            Change::AddEndpoint(address) => {
                self.endpoints.insert(address);
            }
            Change::RemoveEndpoint(address) => {
                self.endpoints.remove(&address);
            }
            Change::SetTaggedPort(device, vlan, port) => {
                self.tagged_ports.insert((device, vlan), port);
            }
            Change::RemoveTaggedPort(device, vlan) => {
                self.tagged_ports.remove(&(device, vlan));
            }
            Change::SetInterface(device, interface) => {
                self.interfaces.insert(device, interface);
            }
            Change::RemoveInterface(device) => {
                self.interfaces.remove(&device);
            }
        }
    }

    /// The routes of one network, ordered by prefix.
    pub fn routes_of(&self, network: NetworkId) -> impl Iterator<Item = (&IpNet, &Route)> {
        let routes = self.routes.range((network, least_prefix())..);
        routes
            .take_while(move |((of, _), _)| *of == network)
            .map(|((_, prefix), route)| (prefix, route))
    }
}

/// The first prefix in the order of `IpNet`.
fn least_prefix() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::default())
}

impl Interface {
    /// Its entry, but for its ports.
    pub fn entry(&self) -> InterfaceEntry {
        InterfaceEntry {
            mac: self.mac,
            flags: InterfaceFlags::default().with(InterfaceFlags::UNDERLAY, self.underlay),
            ..InterfaceEntry::default()
        }
    }
}

impl DemuxMatch {
    /// What packets carry; `None` if the addresses are of two families.
    pub fn key(&self) -> Option<DemuxKey> {
        DemuxKey::new(self.local.into(), self.remote.into(), self.key)
    }
}

impl Port {
    /// Its entry.
    pub fn entry(&self) -> PortEntry {
        PortEntry {
            network: self.network,
            device: self.device,
            mac: self.mac,
            vlan: self.vlan.unwrap_or_default(),
            mtu: self.mtu,
            reserved: 0,
        }
    }
}

impl Tunnel {
    /// Greatest inner packet on a route that takes outer ones of at most `route` bytes.
    pub fn mtu_over(&self, route: Option<u32>) -> u16 {
        let overhead = overhead(self.local, self.keys, self.checksum, self.sequence);
        let room = route.map(|route| route.saturating_sub(overhead.into()));
        let room = room.and_then(|room| u16::try_from(room).ok());
        room.map_or(self.mtu, |room| room.min(self.mtu))
    }

    /// Its entry, once it is known how the remote is reached, and the greatest outer packet that the route takes.
    pub fn entry(&self, adjacency: AdjacencyId, route: Option<u32>) -> TunnelEntry {
        let flags = self.flags();
        let (local, remote) = (Address::from(self.local), Address::from(self.remote));
        let header_sum = match remote.family() {
            Family::V4 => TunnelEntry::header_sum(local.to_v4(), remote.to_v4()),
            Family::V6 => 0,
        };
        TunnelEntry {
            network: self.network,
            adjacency,
            flags,
            mtu: self.mtu_over(route),
            ttl: match self.ttl {
                Ttl::Fixed(ttl) => ttl,
                Ttl::Inherit => 0,
            },
            tos: match self.tos {
                // The two lowest bits are ECN, which follows RFC 6040 whatever the operator wrote.
                Tos::Fixed(tos) => tos & 0xfc,
                Tos::Inherit => 0,
            },
            local: local.to_bytes(),
            remote: remote.to_bytes(),
            transmit_key: self.keys.transmit.map_or(0, |key| key.0),
            receive_key: self.keys.receive.map_or(0, |key| key.0),
            header_sum,
            ..TunnelEntry::default()
        }
    }

    fn flags(&self) -> TunnelFlags {
        TunnelFlags::IN_USE
            .with(TunnelFlags::KEY, self.keys.transmit.is_some())
            .with(TunnelFlags::CHECKSUM, self.checksum)
            .with(TunnelFlags::SEQUENCE, self.sequence)
            .with(TunnelFlags::OUTER_V6, self.local.is_ipv6())
            .with(TunnelFlags::INHERIT_TTL, self.ttl == Ttl::Inherit)
            .with(TunnelFlags::INHERIT_TOS, self.tos == Tos::Inherit)
            .with(TunnelFlags::RECEIVE_KEY, self.keys.receive.is_some())
    }
}

impl NextHop {
    /// What the FIB stores; `None` for a machine, whose neighbour id is not the plan's to give.
    pub fn target(&self) -> Option<Target> {
        Some(match *self {
            Self::Local(port) => Target::Local(port),
            Self::Connected(port) => Target::Connected(port),
            Self::Machine { .. } => return None,
            Self::Tunnel(tunnel) => Target::Tunnel(tunnel),
            Self::Group(group) => Target::Group(group),
            Self::Peer(network) => Target::Peer(network),
            Self::Blackhole | Self::Unreachable => Target::Blackhole,
        })
    }
}
