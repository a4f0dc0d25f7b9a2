//! The gateway that fixtures, differential runs and fuzzing share.
//!
//! Each destination number `n` stands for the prefixes `10.n.0.0/16` and `fd00:n::/32` ([`prefixes`]), so that a packet's
//! destination tells which way it goes; the constants in [`to`] name the numbers. Networks red and blue have the same
//! address plan.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gre_common::entry::AdjacencyEntry;
use gre_common::id::{
    AdjacencyId, GroupId, IfIndex, MacAddress, NeighbourId, NetworkId, PortId, TunnelId,
};
use gre_common::limits;
use gre_common::next_hop::Target;
use gre_common::wire::ether::LinkAddresses;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{Gateway, TunnelOptions};

/// The devices that must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices {
    /// Where GRE is exchanged.
    pub underlay: IfIndex,
    /// The untagged port of red.
    pub access: IfIndex,
    /// The tagged ports.
    pub trunk: IfIndex,
}

/// Outer addresses of the gateway.
pub const LOCAL: [IpAddr; 2] = [v4(203, 0, 113, 1), v6(0x2001, 0xdb8, 0, 1)];
/// An outer address that is not the gateway's.
pub const NOT_LOCAL: [IpAddr; 2] = [v4(203, 0, 113, 9), v6(0x2001, 0xdb8, 0, 9)];
/// The site at the far end of all tunnels but those of [`options_tunnel`].
pub const SITE: [IpAddr; 2] = [v4(198, 51, 100, 1), v6(0x2001, 0xdb8, 5, 1)];

/// The MAC address of the underlay device.
pub const UNDERLAY_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
/// The MAC address of the access device.
pub const ACCESS_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
/// The MAC address of the trunk device.
pub const TRUNK_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 3]);
/// The next hop in the underlay.
pub const ROUTER_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 0xfe]);

/// Network with a port, tunnels of all kinds, and a peering with green.
pub const RED: NetworkId = NetworkId(1);
/// Network with the same addresses as red.
pub const BLUE: NetworkId = NetworkId(2);
/// Network peered with red and yellow.
pub const GREEN: NetworkId = NetworkId(3);
/// Network peered with green.
pub const YELLOW: NetworkId = NetworkId(4);

/// Untagged port of red, whose link carries 9000 bytes.
pub const RED_PORT: PortId = PortId(1);
/// VLAN 100.
pub const BLUE_PORT: PortId = PortId(2);
/// VLAN 200.
pub const GREEN_PORT: PortId = PortId(3);
/// VLAN 300.
pub const YELLOW_PORT: PortId = PortId(4);
/// VLAN 400: a port of red whose link carries [`NARROW_MTU`] bytes.
pub const NARROW_PORT: PortId = PortId(5);
/// A port of red on a device that is gone.
pub const DETACHED_PORT: PortId = PortId(6);
/// Greatest packet on [`NARROW_PORT`] and in [`NARROW_TUNNEL`].
pub const NARROW_MTU: u16 = 600;
/// Inner MTU of ordinary tunnels.
pub const TUNNEL_MTU: u16 = 1400;

/// Red to [`SITE`], key 1001, both families of outer addresses.
pub const RED_TUNNEL: [TunnelId; 2] = [TunnelId(1), TunnelId(2)];
/// Blue to the same [`SITE`], key 1002.
pub const BLUE_TUNNEL: [TunnelId; 2] = [TunnelId(3), TunnelId(4)];
/// Green to the same [`SITE`], without a key.
pub const GREEN_TUNNEL: TunnelId = TunnelId(5);
/// Yellow to the same [`SITE`], key 0.
pub const YELLOW_TUNNEL: TunnelId = TunnelId(6);
/// Red, receives key 3001 and sends key 3002.
pub const ASYMMETRIC_TUNNEL: TunnelId = TunnelId(7);
/// Red, key 3003, outer TTL and TOS from the inner packet.
pub const INHERITING_TUNNEL: TunnelId = TunnelId(8);
/// Red, key 3004, outer TTL 9 and TOS 0xb8.
pub const FIXED_TUNNEL: TunnelId = TunnelId(9);
/// Red, key 3005, inner MTU [`NARROW_MTU`].
pub const NARROW_TUNNEL: TunnelId = TunnelId(10);
/// Red, key 3006, with a greater MTU than its underlay has.
pub const OVERSIZED_TUNNEL: TunnelId = TunnelId(11);
/// Red, key 3007, whose next hop is not resolved.
pub const UNRESOLVED_TUNNEL: TunnelId = TunnelId(12);
/// Red, key 3008, inner MTU 8900 over an underlay of 9000.
pub const WIDE_TUNNEL: TunnelId = TunnelId(13);
/// Key 3099 and a route lead here, but there is no such tunnel.
pub const ABSENT_TUNNEL: TunnelId = TunnelId(99);

/// Red: [`RED_TUNNEL`] with two shares over IPv4 and one over IPv6, and [`ASYMMETRIC_TUNNEL`] with one.
pub const GROUP: GroupId = GroupId(1);
/// Red: the tunnels of [`GROUP`], of which the one over IPv4 is dead.
pub const LAME_GROUP: GroupId = GroupId(2);
/// Red: a group of which no member is alive.
pub const DEAD_GROUP: GroupId = GroupId(3);
/// Green: [`GREEN_TUNNEL`] alone.
pub const GREEN_GROUP: GroupId = GroupId(4);
/// A route leads here, but there is no such group.
pub const ABSENT_GROUP: GroupId = GroupId(99);

/// The machine of red: `10.0.0.2` and `fd00::2`.
pub const RED_MACHINE: [NeighbourId; 2] = [NeighbourId(1), NeighbourId(2)];
/// The machine of blue, with the same addresses.
pub const BLUE_MACHINE: [NeighbourId; 2] = [NeighbourId(3), NeighbourId(4)];

/// Destination numbers.
pub mod to {
    /// The subnet of red and of blue.
    pub const HOME: u8 = 0;
    /// Red: the IPv4 tunnel of [`super::RED_TUNNEL`]; blue: that of [`super::BLUE_TUNNEL`].
    pub const SITE_OVER_V4: u8 = 1;
    /// The same over IPv6.
    pub const SITE_OVER_V6: u8 = 2;
    /// The subnet of green, and red's peering with it.
    pub const GREEN: u8 = 3;
    /// The subnet of yellow.
    pub const YELLOW: u8 = 4;
    /// [`super::ASYMMETRIC_TUNNEL`].
    pub const ASYMMETRIC: u8 = 5;
    /// [`super::INHERITING_TUNNEL`].
    pub const INHERITING: u8 = 6;
    /// [`super::FIXED_TUNNEL`].
    pub const FIXED: u8 = 7;
    /// [`super::NARROW_TUNNEL`].
    pub const NARROW: u8 = 8;
    /// [`super::OVERSIZED_TUNNEL`].
    pub const OVERSIZED: u8 = 9;
    /// [`super::UNRESOLVED_TUNNEL`].
    pub const UNRESOLVED: u8 = 10;
    /// [`super::ABSENT_TUNNEL`].
    pub const ABSENT: u8 = 11;
    /// A blackhole.
    pub const BLACKHOLE: u8 = 12;
    /// Through the machine of red, as a user-defined route says.
    pub const APPLIANCE: u8 = 13;
    /// A machine that is not in the table.
    pub const ABSENT_MACHINE: u8 = 14;
    /// The subnet of [`super::NARROW_PORT`].
    pub const NARROW_PORT: u8 = 15;
    /// The subnet of [`super::DETACHED_PORT`].
    pub const DETACHED: u8 = 16;
    /// [`super::WIDE_TUNNEL`].
    pub const WIDE: u8 = 17;
    /// Red: its peer green, where [`super::GREEN_TUNNEL`] is the way on.
    pub const THROUGH_GREENS_TUNNEL: u8 = 18;
    /// Red: its peer green, where the peering with yellow is the way on.
    pub const THROUGH_GREENS_PEERING: u8 = 19;
    /// Red: its peer green, which has no route.
    pub const LOST_IN_GREEN: u8 = 20;
    /// [`super::GROUP`].
    pub const GROUP: u8 = 21;
    /// [`super::LAME_GROUP`].
    pub const LAME_GROUP: u8 = 22;
    /// [`super::DEAD_GROUP`].
    pub const DEAD_GROUP: u8 = 23;
    /// [`super::ABSENT_GROUP`].
    pub const ABSENT_GROUP: u8 = 24;
    /// Red: its peer green, where [`super::GREEN_GROUP`] is the way on.
    pub const THROUGH_GREENS_GROUP: u8 = 25;
    /// The last of the numbers without gaps from 0.
    pub const LAST: u8 = THROUGH_GREENS_GROUP;
    /// No network has a route.
    pub const NOWHERE: u8 = 99;
    /// The first of eight for [`super::options_tunnel`] over IPv4; the last of them is 107.
    pub const OPTIONS_OVER_V4: u8 = 100;
    /// The first of eight for [`super::options_tunnel`] over IPv6; the last of them is 207.
    pub const OPTIONS_OVER_V6: u8 = 200;
}

/// A GRE header's options, in the order of RFC 2890: checksum, key, sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// C
    pub checksum: bool,
    /// K
    pub key: bool,
    /// S
    pub sequence: bool,
}

impl Options {
    /// A header with all three.
    pub const ALL: Self = Self {
        checksum: true,
        key: true,
        sequence: true,
    };

    /// All eight combinations.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|bits| Self {
            checksum: bits & 4 != 0,
            key: bits & 2 != 0,
            sequence: bits & 1 != 0,
        })
    }

    /// 0 to 7: C counts 4, K 2, S 1.
    pub fn number(self) -> u8 {
        u8::from(self.checksum) << 2 | u8::from(self.key) << 1 | u8::from(self.sequence)
    }
}

/// Red's tunnel with these options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionsTunnel {
    /// Its id.
    pub id: TunnelId,
    /// Its far end; each has its own, because those without a key would be one tunnel otherwise.
    pub remote: IpAddr,
    /// Its key in both directions.
    pub key: Option<u32>,
    /// The destination number behind it.
    pub destination: u8,
}

/// Red's tunnel with these options over IPv4 or IPv6.
pub fn options_tunnel(options: Options, over_v6: bool) -> OptionsTunnel {
    let number = options.number();
    let (first, remote, destination) = if over_v6 {
        let remote = v6(0x2001, 0xdb8, 5, 16 + u16::from(number));
        (32, remote, to::OPTIONS_OVER_V6 + number)
    } else {
        (
            16,
            v4(198, 51, 100, 16 + number),
            to::OPTIONS_OVER_V4 + number,
        )
    };
    OptionsTunnel {
        id: TunnelId(first + u32::from(number)),
        remote,
        key: options.key.then_some(5000 + u32::from(number)),
        destination,
    }
}

/// The prefixes of a destination number.
pub fn prefixes(number: u8) -> [IpNet; 2] {
    [
        IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(10, number, 0, 0), 16)),
        IpNet::from(Ipv6Net::new_assert(
            Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, 0),
            32,
        )),
    ]
}

/// A host there; 1 is the gateway itself and 2 a machine where the number is a port's subnet, 3 an unresolved one.
pub fn host(number: u8, host: u8, is_v6: bool) -> IpAddr {
    if is_v6 {
        v6(0xfd00, number.into(), 0, host.into())
    } else {
        v4(10, number, 0, host)
    }
}

/// The MAC address of machine 2 on a port.
pub fn machine_mac(port: PortId) -> MacAddress {
    MacAddress([2, 0, 0, 0, 1, port.0 as u8])
}

/// The gateway.
pub fn gateway(devices: Devices) -> Gateway {
    let mut gateway = Gateway::default();
    add_ports(&mut gateway, devices);
    add_adjacencies(&mut gateway, devices);
    add_named_tunnels(&mut gateway);
    for options in Options::all() {
        for over_v6 in [false, true] {
            add_options_tunnel(&mut gateway, options, over_v6);
        }
    }
    add_groups(&mut gateway);
    add_special_routes(&mut gateway);
    gateway
}

const DIRECT: AdjacencyId = AdjacencyId(1);
const UNRESOLVED: AdjacencyId = AdjacencyId(2);
const WIDE: AdjacencyId = AdjacencyId(3);
/// The device of [`DETACHED_PORT`]: no kernel has one with this index.
const DETACHED_DEVICE: IfIndex = IfIndex(60_000);

fn add_ports(gateway: &mut Gateway, devices: Devices) {
    gateway.underlay(devices.underlay, UNDERLAY_MAC, &LOCAL);
    let tagged =
        |network, vlan, mtu| Gateway::port_entry(network, devices.trunk, TRUNK_MAC, vlan, mtu);
    let red = Gateway::port_entry(RED, devices.access, ACCESS_MAC, 0, 9000);
    gateway.untagged_port(RED_PORT, red);
    gateway.tagged_port(BLUE_PORT, tagged(BLUE, 100, 1500));
    gateway.tagged_port(GREEN_PORT, tagged(GREEN, 200, 1500));
    gateway.tagged_port(YELLOW_PORT, tagged(YELLOW, 300, 1500));
    gateway.tagged_port(NARROW_PORT, tagged(RED, 400, NARROW_MTU));
    let detached = Gateway::port_entry(RED, DETACHED_DEVICE, TRUNK_MAC, 0, 1500);
    gateway.ports.insert(DETACHED_PORT, detached);
    let subnets = [
        (RED_PORT, to::HOME),
        (BLUE_PORT, to::HOME),
        (GREEN_PORT, to::GREEN),
        (YELLOW_PORT, to::YELLOW),
        (NARROW_PORT, to::NARROW_PORT),
        (DETACHED_PORT, to::DETACHED),
    ];
    let mut neighbours = (1..).map(NeighbourId);
    for (port, number) in subnets {
        for is_v6 in [false, true] {
            let length = if is_v6 { 64 } else { 24 };
            let own = host(number, 1, is_v6);
            gateway.subnet(port, IpNet::new_assert(own, length));
            let id = neighbours.next().unwrap_or_default();
            gateway.machine(id, port, host(number, 2, is_v6), Some(machine_mac(port)));
        }
    }
    for is_v6 in [false, true] {
        let id = neighbours.next().unwrap_or_default();
        gateway.machine(id, RED_PORT, host(to::HOME, 3, is_v6), None);
    }
}

fn add_adjacencies(gateway: &mut Gateway, devices: Devices) {
    let direct = AdjacencyEntry {
        device: devices.underlay,
        addresses: LinkAddresses::new(&ROUTER_MAC, &UNDERLAY_MAC),
        mtu: 1500,
        reserved: 0,
    };
    let unresolved = AdjacencyEntry {
        addresses: LinkAddresses::default(),
        mtu: 0,
        ..direct
    };
    let wide = AdjacencyEntry {
        mtu: 9000,
        ..direct
    };
    gateway.adjacencies.insert(DIRECT, direct);
    gateway.adjacencies.insert(UNRESOLVED, unresolved);
    gateway.adjacencies.insert(WIDE, wide);
}

/// A plain tunnel of red over IPv4.
fn red_tunnel(key: u32) -> TunnelOptions {
    TunnelOptions {
        network: RED,
        local: LOCAL[0],
        remote: SITE[0],
        receive_key: Some(key),
        transmit_key: Some(key),
        checksum: false,
        sequence: false,
        mtu: TUNNEL_MTU,
        ttl: Some(64),
        tos: None,
        adjacency: DIRECT,
    }
}

fn add_named_tunnels(gateway: &mut Gateway) {
    for (family, destination) in [(0, to::SITE_OVER_V4), (1, to::SITE_OVER_V6)] {
        let red = TunnelOptions {
            local: LOCAL[family],
            remote: SITE[family],
            ..red_tunnel(1001)
        };
        let blue = TunnelOptions {
            network: BLUE,
            receive_key: Some(1002),
            transmit_key: Some(1002),
            ..red
        };
        add_tunnel(gateway, RED_TUNNEL[family], &red, destination);
        add_tunnel(gateway, BLUE_TUNNEL[family], &blue, destination);
    }
    let green = TunnelOptions {
        network: GREEN,
        receive_key: None,
        transmit_key: None,
        ..red_tunnel(0)
    };
    add_tunnel(gateway, GREEN_TUNNEL, &green, to::THROUGH_GREENS_TUNNEL);
    let yellow = TunnelOptions {
        network: YELLOW,
        ..red_tunnel(0)
    };
    add_tunnel(gateway, YELLOW_TUNNEL, &yellow, to::SITE_OVER_V4);
    let asymmetric = TunnelOptions {
        transmit_key: Some(3002),
        ..red_tunnel(3001)
    };
    add_tunnel(gateway, ASYMMETRIC_TUNNEL, &asymmetric, to::ASYMMETRIC);
    let inheriting = TunnelOptions {
        ttl: None,
        ..red_tunnel(3003)
    };
    add_tunnel(gateway, INHERITING_TUNNEL, &inheriting, to::INHERITING);
    let fixed = TunnelOptions {
        ttl: Some(9),
        tos: Some(0xb8),
        ..red_tunnel(3004)
    };
    add_tunnel(gateway, FIXED_TUNNEL, &fixed, to::FIXED);
    let narrow = TunnelOptions {
        mtu: NARROW_MTU,
        ..red_tunnel(3005)
    };
    add_tunnel(gateway, NARROW_TUNNEL, &narrow, to::NARROW);
    let oversized = TunnelOptions {
        mtu: 9000,
        ..red_tunnel(3006)
    };
    add_tunnel(gateway, OVERSIZED_TUNNEL, &oversized, to::OVERSIZED);
    let unresolved = TunnelOptions {
        adjacency: UNRESOLVED,
        ..red_tunnel(3007)
    };
    add_tunnel(gateway, UNRESOLVED_TUNNEL, &unresolved, to::UNRESOLVED);
    let wide = TunnelOptions {
        mtu: 8900,
        adjacency: WIDE,
        checksum: true,
        ..red_tunnel(3008)
    };
    add_tunnel(gateway, WIDE_TUNNEL, &wide, to::WIDE);
}

fn add_options_tunnel(gateway: &mut Gateway, options: Options, over_v6: bool) {
    let tunnel = options_tunnel(options, over_v6);
    let settings = TunnelOptions {
        local: LOCAL[usize::from(over_v6)],
        remote: tunnel.remote,
        receive_key: tunnel.key,
        transmit_key: tunnel.key,
        checksum: options.checksum,
        sequence: options.sequence,
        ..red_tunnel(0)
    };
    add_tunnel(gateway, tunnel.id, &settings, tunnel.destination);
}

/// Adds the tunnel and its network's routes into it.
fn add_tunnel(gateway: &mut Gateway, id: TunnelId, options: &TunnelOptions, destination: u8) {
    gateway.tunnel(id, options);
    add_routes(gateway, options.network, destination, Target::Tunnel(id));
}

fn add_groups(gateway: &mut Gateway) {
    let members = |over_v4| {
        [
            (RED_TUNNEL[0], 2, over_v4),
            (RED_TUNNEL[1], 1, true),
            (ASYMMETRIC_TUNNEL, 1, true),
        ]
    };
    gateway.group(GROUP, &members(true));
    gateway.group(LAME_GROUP, &members(false));
    gateway.group(DEAD_GROUP, &[(UNRESOLVED_TUNNEL, 1, false)]);
    gateway.group(GREEN_GROUP, &[(GREEN_TUNNEL, 1, true)]);
    let routes = [
        (RED, to::GROUP, GROUP),
        (RED, to::LAME_GROUP, LAME_GROUP),
        (RED, to::DEAD_GROUP, DEAD_GROUP),
        (RED, to::ABSENT_GROUP, ABSENT_GROUP),
        (GREEN, to::THROUGH_GREENS_GROUP, GREEN_GROUP),
    ];
    for (network, destination, group) in routes {
        add_routes(gateway, network, destination, Target::Group(group));
    }
}

fn add_special_routes(gateway: &mut Gateway) {
    let absent_machine = Target::Neighbour(NeighbourId(limits::NEIGHBOURS as u32 - 1));
    let routes = [
        (RED, to::ABSENT, Target::Tunnel(ABSENT_TUNNEL)),
        (RED, to::BLACKHOLE, Target::Blackhole),
        (RED, to::APPLIANCE, Target::Neighbour(RED_MACHINE[0])),
        (RED, to::ABSENT_MACHINE, absent_machine),
        (RED, to::GREEN, Target::Peer(GREEN)),
        (RED, to::THROUGH_GREENS_TUNNEL, Target::Peer(GREEN)),
        (RED, to::THROUGH_GREENS_PEERING, Target::Peer(GREEN)),
        (RED, to::THROUGH_GREENS_GROUP, Target::Peer(GREEN)),
        (RED, to::LOST_IN_GREEN, Target::Peer(GREEN)),
        (GREEN, to::HOME, Target::Peer(RED)),
        (GREEN, to::YELLOW, Target::Peer(YELLOW)),
        (GREEN, to::THROUGH_GREENS_PEERING, Target::Peer(YELLOW)),
        (YELLOW, to::GREEN, Target::Peer(GREEN)),
    ];
    for (network, destination, target) in routes {
        add_routes(gateway, network, destination, target);
    }
}

fn add_routes(gateway: &mut Gateway, network: NetworkId, destination: u8, target: Target) {
    for prefix in prefixes(destination) {
        gateway.route(network, prefix, target);
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(a: u16, b: u16, c: u16, d: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, d))
}
