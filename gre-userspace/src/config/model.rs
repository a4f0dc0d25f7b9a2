//! The validated configuration as plain data.
//!
//! Made only by [`Config::parse`]; read by `peering` and `plan`. Where a later stage may still have to complain about
//! a value (a device that does not exist), the value keeps its place in the file.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use gre_common::id::{GreKey, VlanId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::Source;
use super::names::{DeviceName, Name};

/// A configuration file without mistakes.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file, for complaints of later stages.
    pub source: Source,
    /// The gateway itself.
    pub gateway: Gateway,
    /// Devices that carry GRE.
    pub underlays: Vec<Underlay>,
    /// Customers.
    pub tenants: Vec<Tenant>,
    /// Virtual networks; each names a tenant of this file.
    pub networks: Vec<Network>,
    /// Attachments of machines; each names a network of this file.
    pub ports: Vec<Port>,
    /// GRE associations; each names a network of this file.
    pub tunnels: Vec<Tunnel>,
    /// One-sided peering statements, at most one for each ordered pair of networks.
    pub peerings: Vec<Peering>,
    /// User-defined routes, at most one for each prefix of a network.
    pub routes: Vec<Route>,
}

/// `[gateway]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Shows in metrics and the API.
    pub name: Name,
    /// Where Prometheus may ask.
    pub metrics: Option<SocketAddr>,
}

impl Gateway {
    /// The name of a gateway whose file gives none.
    pub const DEFAULT_NAME: &str = "gregw";
}

/// `[[underlay]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// The device that carries GRE.
    pub device: Spanned<DeviceName>,
    /// GRE endpoint addresses of this gateway on the device; unique in the file.
    pub local: Vec<Spanned<IpAddr>>,
    /// How XDP is attached.
    pub xdp_mode: XdpMode,
}

/// How XDP is attached to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// By the driver if it can, else by the kernel.
    #[default]
    Auto,
    /// By the driver, or not at all.
    Native,
    /// By the kernel, behind the driver.
    Generic,
}

/// `[[tenant]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Unique among tenants.
    pub name: Spanned<Name>,
}

/// `[[network]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Unique among networks.
    pub name: Spanned<Name>,
    /// The customer it belongs to.
    pub tenant: Spanned<Name>,
    /// Prefixes that do not overlap one another.
    pub address_space: Vec<Spanned<IpNet>>,
}

/// `[[port]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Unique among ports.
    pub name: Spanned<Name>,
    /// The network whose machines attach here.
    pub network: Spanned<Name>,
    /// The device.
    pub device: Spanned<DeviceName>,
    /// VLAN id; `None` for untagged frames. (device, VLAN) is unique.
    pub vlan: Option<Spanned<VlanId>>,
    /// The gateway's own addresses with the lengths of the port's subnets.
    pub address: Vec<Spanned<IpNet>>,
    /// How XDP is attached to the device; `None`: that is not stated here. All statements about a device agree.
    pub xdp_mode: Option<XdpMode>,
}

/// `[[tunnel]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Unique among tunnels.
    pub name: Spanned<Name>,
    /// The network whose packets it carries.
    pub network: Spanned<Name>,
    /// Outer address of this gateway; one of an underlay's.
    pub local: Spanned<IpAddr>,
    /// Outer address of the other end, of the same family.
    pub remote: Spanned<IpAddr>,
    /// Keys; (local, remote, receive key) is unique.
    pub keys: Keys,
    /// Send and require the C field (RFC 2784 §2.1).
    pub checksum: bool,
    /// Send and require the S field (RFC 2890 §2.2).
    pub sequence: bool,
    /// Greatest inner packet in bytes; `None`: what the underlay leaves.
    pub mtu: Option<Spanned<u16>>,
    /// Outer TTL or hop limit.
    pub ttl: Ttl,
    /// Outer type of service or traffic class.
    pub tos: Tos,
    /// What lies behind the tunnel.
    pub routes: Vec<TunnelRoute>,
}

/// Keys of a tunnel (RFC 2890 §2.1); both absent or both present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Key that arriving packets carry.
    pub receive: Option<GreKey>,
    /// Key that sent packets carry.
    pub transmit: Option<GreKey>,
}

/// Outer TTL or hop limit of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// This number, 1–255.
    Fixed(u8),
    /// That of the inner packet.
    Inherit,
}

/// Outer type of service of a tunnel; its ECN bits follow RFC 6040 in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tos {
    /// This octet.
    Fixed(u8),
    /// That of the inner packet.
    Inherit,
}

/// One of a tunnel's `routes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelRoute {
    /// The destinations.
    pub prefix: Spanned<IpNet>,
    /// Among routes for one prefix the lowest metric wins; tunnels with equal ones share the traffic.
    pub metric: u32,
    /// The tunnel's share of it.
    pub weight: Weight,
}

/// How much of a route's traffic a tunnel takes, beside the other tunnels of the route: 1 to 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Weight(pub u16);

impl Weight {
    /// The greatest one.
    pub const MAX: Self = Self(256);
}

impl Default for Weight {
    /// That of tunnels whose weight is not stated.
    fn default() -> Self {
        Self(1)
    }
}

/// `[[peering]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peering {
    /// The network that states it.
    pub network: Spanned<Name>,
    /// The network it wants to be joined to.
    pub remote: Spanned<Name>,
    /// Direct traffic between the two networks' machines.
    pub allow_virtual_network_access: bool,
    /// Accept packets whose source lies outside the peer's address space.
    pub allow_forwarded_traffic: bool,
    /// The peer may use this network's tunnels.
    pub allow_gateway_transit: bool,
    /// Use the peer's tunnels instead of own ones.
    pub use_remote_gateways: bool,
    /// Its header in the file.
    pub span: Range<usize>,
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network in whose table it stands.
    pub network: Spanned<Name>,
    /// The destinations.
    pub prefix: Spanned<IpNet>,
    /// Where they are sent.
    pub next_hop: Spanned<NextHop>,
}

/// Next hop of a user-defined route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// A machine in this or a peered network, of the prefix's family.
    Machine(IpAddr),
    /// A tunnel of this network.
    Tunnel(Name),
    /// Tunnels of this network, each once, which share the traffic.
    Tunnels(Vec<WeightedTunnel>),
    /// Dropped on purpose.
    Blackhole,
}

/// One of the `tunnels` of a next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedTunnel {
    /// The tunnel.
    pub name: Spanned<Name>,
    /// Its share of the traffic.
    pub weight: Weight,
}

impl Tunnel {
    /// Bytes that encapsulation adds to an inner packet: outer IP header, GRE header and its optional fields
    /// (RFC 2890 §2).
    pub fn overhead(&self) -> u16 {
        overhead(
            *self.local.get_ref(),
            self.keys,
            self.checksum,
            self.sequence,
        )
    }
}

/// As [`Tunnel::overhead`].
pub(crate) fn overhead(local: IpAddr, keys: Keys, checksum: bool, sequence: bool) -> u16 {
    let ip = if local.is_ipv4() { 20 } else { 40 };
    let fields = [keys.transmit.is_some(), checksum, sequence];
    ip + 4 + 4 * fields.into_iter().map(u16::from).sum::<u16>()
}
