//! What `gregw show`, `plan` and `apply` print, as plain data: the JSON of the API and of `-j`.
//!
//! Filled by the daemon from its plan and the live maps, sent by `api`, read back by `client`, drawn by `show` and
//! `metrics`. Field names are a contract (docs/cli.md): they are added to, never renamed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use gre_common::id::MacAddress;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Packets dropped by the name of the reason ([`gre_common::verdict::DropReason::name`]); only those that occurred.
///
/// Names, not numbers: an older command line shows reasons of a newer daemon.
pub type DropsByReason = BTreeMap<Cow<'static, str>, u64>;

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// The customer.
    pub tenant: String,
    /// The network whose packets it carries.
    pub network: String,
    /// Outer address of the gateway.
    pub local: IpAddr,
    /// Outer address of the other end.
    pub remote: IpAddr,
    /// Key that arriving packets carry; `None`: no key.
    pub receive_key: Option<u32>,
    /// Key that sent packets carry; `None`: no key.
    pub transmit_key: Option<u32>,
    /// Up while the adjacency is resolved.
    pub state: State,
    /// Since when it is up or down, as RFC 3339 says, but no longer than the daemon runs.
    #[serde(default)]
    pub since: Option<String>,
    /// Why it is down, or nothing comes back.
    #[serde(default)]
    pub reason: Option<DownReason>,
    /// The reason in words, and what to do.
    #[serde(default)]
    pub explanation: Option<String>,
    /// Greatest inner packet, in bytes.
    pub mtu: u16,
    /// The way to the other end.
    pub adjacency: Adjacency,
    /// Arriving packets.
    pub rx: Traffic,
    /// Sent packets.
    pub tx: Traffic,
    /// Drops of both directions.
    pub drops: DropsByReason,
}

/// Layer-2 rewrite towards a tunnel's remote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjacency {
    /// Device to send on; `None` while no route leads to the remote.
    pub device: Option<String>,
    /// Address of the next hop on the link, once known.
    #[serde(with = "mac_text")]
    pub mac: Option<MacAddress>,
    /// Whether packets can be sent.
    pub state: Resolution,
}

/// A virtual network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The customer.
    pub tenant: String,
    /// Its prefixes.
    pub address_space: Vec<IpNet>,
    /// Number of its ports.
    pub ports: usize,
    /// Number of its tunnels.
    pub tunnels: usize,
    /// Number of peerings that it states.
    pub peerings: usize,
    /// Number of routes in its table.
    pub routes: usize,
    /// Number of routes compiled for the data plane, both families together as in all `fib_…`: those of the table and
    /// one to each machine learnt on a port that has none there.
    pub fib_routes: u64,
    /// Nodes that they are compiled to. None is shared with another network, so that sums over networks hold.
    pub fib_nodes: u64,
    /// Entries of these nodes that hold a next hop.
    pub fib_leaves: u64,
    /// Bytes of memory that these nodes occupy. Replaced nodes that wait for reuse count for no network.
    pub fib_bytes: u64,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The customer.
    pub tenant: String,
    /// The network whose machines attach here.
    pub network: String,
    /// The device.
    pub device: String,
    /// VLAN id; `None`: untagged.
    pub vlan: Option<u16>,
    /// The gateway's own addresses with the lengths of the subnets.
    pub address: Vec<IpNet>,
    /// Layer-2 address of the gateway on this port; `None` while the device does not exist.
    #[serde(with = "mac_text")]
    pub mac: Option<MacAddress>,
    /// Up while the device exists, is up and carries the program.
    pub state: State,
    /// Greatest IP packet that the device carries, in bytes; `None` while the device does not exist.
    pub mtu: Option<u16>,
    /// Packets from machines.
    pub rx: Traffic,
    /// Packets to machines.
    pub tx: Traffic,
    /// Drops of both directions.
    pub drops: DropsByReason,
}

/// One side's statement of a peering.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peering {
    /// The network that states it.
    pub network: String,
    /// The customer of that network.
    pub tenant: String,
    /// The network that it wants to be joined to.
    pub remote: String,
    /// State of this side.
    pub state: PeeringState,
    /// State of the other side; `None` if it states nothing.
    pub remote_state: Option<PeeringState>,
    /// Why it carries no traffic; `None` while it is connected.
    pub reason: Option<String>,
    /// Direct traffic between the two networks' machines.
    pub allow_virtual_network_access: bool,
    /// Packets whose source lies outside the peer's address space are taken.
    pub allow_forwarded_traffic: bool,
    /// The peer may use this network's tunnels.
    pub allow_gateway_transit: bool,
    /// The peer's tunnels are used.
    pub use_remote_gateways: bool,
}

/// A route of a network's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The network.
    pub network: String,
    /// The customer of the network.
    pub tenant: String,
    /// Destinations.
    pub prefix: IpNet,
    /// Where packets go.
    pub next_hop: NextHop,
    /// Where the route comes from.
    pub origin: Origin,
    /// Among routes of one prefix and rank the lowest wins.
    pub metric: u32,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NextHop {
    /// The gateway's own address on a port.
    Local {
        /// The port.
        port: String,
    },
    /// The machines of a port's subnet.
    Port {
        /// The port.
        port: String,
    },
    /// One machine.
    Machine {
        /// Its address.
        address: IpAddr,
    },
    /// Another site.
    Tunnel {
        /// The tunnel.
        tunnel: String,
    },
    /// Other sites: each flow takes one of the tunnels.
    Group {
        /// The tunnels, by name.
        members: Vec<Member>,
    },
    /// A peered network, in whose table the destination is looked up.
    Peering {
        /// The peered network.
        network: String,
    },
    /// Nowhere, on purpose.
    Blackhole,
    /// Nowhere, while the device that it leads to is missing.
    Unreachable,
}

/// A tunnel of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The tunnel.
    pub tunnel: String,
    /// Its share of the flows, beside the weights of the others.
    pub weight: u16,
    /// Up while it takes flows.
    pub state: State,
}

/// A machine on a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The port.
    pub port: String,
    /// The network of the port.
    pub network: String,
    /// The customer of the network.
    pub tenant: String,
    /// The machine's address.
    pub address: IpAddr,
    /// The machine's layer-2 address, once known.
    #[serde(with = "mac_text")]
    pub mac: Option<MacAddress>,
    /// Whether packets can be sent.
    pub state: Resolution,
}

/// A drop counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCounter {
    /// Kind of what the packets are charged to.
    pub owner: OwnerKind,
    /// Name of what the packets are charged to.
    pub name: String,
    /// The network of the tunnel or port; `None` for a device.
    pub network: Option<String>,
    /// The customer of the network.
    pub tenant: Option<String>,
    /// Seen from the gateway.
    pub direction: Direction,
    /// [`gre_common::verdict::DropReason::name`].
    pub reason: Cow<'static, str>,
    /// Packets dropped.
    pub packets: u64,
    /// [`gre_common::verdict::DropReason::explanation`].
    pub explanation: Cow<'static, str>,
}

/// A device of an underlay or of ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Kernel interface index; `None` while it does not exist.
    pub index: Option<u32>,
    /// What it is to the gateway.
    pub roles: Vec<Role>,
    /// GRE endpoint addresses; empty unless it is an underlay.
    pub local: Vec<IpAddr>,
    /// Its layer-2 address.
    #[serde(with = "mac_text")]
    pub mac: Option<MacAddress>,
    /// Greatest IP packet that it carries, in bytes.
    pub mtu: Option<u16>,
    /// Up while it exists, is up and carries the program.
    pub state: State,
    /// Why it is down or cannot be sent on, and what to do.
    #[serde(default)]
    pub explanation: Option<String>,
    /// How the program is attached; `None`: it is not.
    pub mode: Option<AttachMode>,
    /// Kernel id of the attached program.
    pub program: Option<u32>,
    /// Whether packets can be redirected to it.
    pub redirect: bool,
    /// Packets dropped that no tunnel or port answers for.
    pub drops: DropsByReason,
}

/// All that is exported as metrics, read at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// `[gateway] name`.
    pub gateway: String,
    /// As [`crate::request::Request::Tunnels`].
    pub tunnels: Vec<Tunnel>,
    /// As [`crate::request::Request::Ports`].
    pub ports: Vec<Port>,
    /// As [`crate::request::Request::Peerings`].
    pub peerings: Vec<Peering>,
    /// As [`crate::request::Request::Drops`].
    pub drops: Vec<DropCounter>,
    /// How full the data plane's tables are.
    pub tables: Vec<TableFill>,
}

/// How full a table of the data plane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFill {
    /// Its name in metrics.
    pub table: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Entries that there is room for.
    pub capacity: u64,
}

/// One difference between what runs and a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is done.
    pub action: Action,
    /// Kind of the object: the name of its section in the configuration.
    pub kind: Cow<'static, str>,
    /// Name of the object.
    pub name: String,
    /// What about it changes; empty if that needs no words.
    pub detail: String,
}

/// Packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets accepted (received) or sent.
    pub packets: u64,
    /// Bytes of their inner IP packets.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped: u64,
}

/// Declares an enum that is shown, in text and JSON, by the names of its variants in snake case.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The word in text, JSON and metrics.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }
    )*};
}

words! {
    /// Whether something carries packets.
    State {
        /// It does.
        Up = "up",
        /// It does not.
        Down = "down",
    }
    /// Why a tunnel is down, or nothing comes back through it.
    DownReason {
        /// No route leads to the remote.
        NoRoute = "no_route",
        /// The host has no such address as `local`.
        LocalMissing = "local_missing",
        /// The route leads over a device that is no underlay.
        NoUnderlay = "no_underlay",
        /// The underlay device is switched off or has no carrier.
        DeviceDown = "device_down",
        /// The underlay device is without the program.
        NoProgram = "no_program",
        /// The next hop has been asked for and may still answer.
        Unresolved = "unresolved",
        /// The next hop does not answer.
        NoAnswer = "no_answer",
        /// The kernel has no room for the next hop.
        NeighboursFull = "neighbours_full",
        /// gregw has no room for the next hop.
        NextHopsFull = "next_hops_full",
    }
    /// Whether a layer-2 address is known.
    Resolution {
        /// It is.
        Resolved = "resolved",
        /// It is not.
        Unresolved = "unresolved",
    }
    /// State of one side of a peering.
    PeeringState {
        /// Only this side states it.
        Initiated = "initiated",
        /// Both sides state it.
        Connected = "connected",
        /// The other side stated it once and has been removed.
        Disconnected = "disconnected",
    }
    /// Where a route comes from.
    Origin {
        /// A port's subnet or the gateway's own address on it.
        Connected = "connected",
        /// A tunnel's `routes`.
        Static = "static",
        /// `[[route]]`.
        User = "user",
        /// A peered network's address space.
        Peering = "peering",
    }
    /// Kind of what a drop is charged to.
    OwnerKind {
        /// An underlay device.
        Device = "device",
        /// A port.
        Port = "port",
        /// A tunnel.
        Tunnel = "tunnel",
    }
    /// A direction, seen from the gateway.
    Direction {
        /// Towards the gateway.
        Receive = "receive",
        /// Away from the gateway.
        Transmit = "transmit",
    }
    /// What a device is to the gateway.
    Role {
        /// It carries GRE.
        Underlay = "underlay",
        /// Machines attach to it.
        Port = "port",
    }
    /// How a program is attached to a device.
    AttachMode {
        /// In the driver.
        Native = "native",
        /// Behind the driver.
        Generic = "generic",
    }
    /// What is done with an object.
    Action {
        /// It is new.
        Add = "add",
        /// It stays and changes.
        Change = "change",
        /// It goes.
        Remove = "remove",
    }
}

impl From<gre_common::counters::Direction> for Direction {
    fn from(direction: gre_common::counters::Direction) -> Self {
        match direction {
            gre_common::counters::Direction::Receive => Self::Receive,
            gre_common::counters::Direction::Transmit => Self::Transmit,
        }
    }
}

/// Layer-2 addresses as `02:00:00:00:00:01`.
mod mac_text {
    use gre_common::id::MacAddress;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        mac: &Option<MacAddress>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match mac {
            Some(mac) => serializer.collect_str(mac),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<MacAddress>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let octets: Option<Vec<u8>> = text
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16).ok())
            .collect();
        octets
            .and_then(|octets| octets.try_into().ok())
            .map(|octets| Some(MacAddress(octets)))
            .ok_or_else(|| D::Error::custom(format!("{text:?} is not a layer-2 address")))
    }
}
