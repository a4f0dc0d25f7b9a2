//! Hand-made reports with the shapes that occur, and a task that answers requests with them.

use gre_common::id::MacAddress;
use gre_common::verdict::DropReason;
use gre_userspace::config::Config;
use gre_userspace::failure::Failure;
use gre_userspace::report::{
    Action, Adjacency, AttachMode, Change, Device, Direction, DownReason, DropCounter,
    DropsByReason, Member, Neighbour, Network, NextHop, Origin, OwnerKind, Peering, PeeringState,
    Port, Resolution, Role, Route, Snapshot, State, TableFill, Traffic, Tunnel,
};
use gre_userspace::request::{Document, Request, Requests};
use tokio::sync::mpsc;

/// A name of the greatest length.
pub(crate) const LONG_NAME: &str =
    "tunnel-of-a-customer-with-very-many-branches-in-very-many-towns";

/// Answers requests until it is told to detach or nobody can ask any more.
pub(crate) fn gateway() -> Requests {
    let (requests, mut inbox) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Some(request) = inbox.recv().await {
            let is_last = matches!(request, Request::Detach(_));
            answer(request);
            if is_last {
                break;
            }
        }
    });
    requests
}

fn answer(request: Request) {
    let is_taken = match request {
        Request::Tunnels { name, reply } => {
            let found = only(tunnels(), name.as_deref(), |tunnel| &tunnel.name);
            reply.send(found).is_ok()
        }
        Request::Networks { name, reply } => {
            let found = only(networks(), name.as_deref(), |network| &network.name);
            reply.send(found).is_ok()
        }
        Request::Ports { name, reply } => reply
            .send(only(ports(), name.as_deref(), |port| &port.name))
            .is_ok(),
        Request::Peerings(reply) => reply.send(peerings()).is_ok(),
        Request::Routes { network, reply } => {
            let mut routes = routes();
            routes.retain(|route| network.as_ref().is_none_or(|name| *name == route.network));
            reply.send(routes).is_ok()
        }
        Request::Neighbours(reply) => reply.send(neighbours()).is_ok(),
        Request::Drops(reply) => reply.send(drops()).is_ok(),
        Request::Devices { name, reply } => {
            let found = only(devices(), name.as_deref(), |device| &device.name);
            reply.send(found).is_ok()
        }
        Request::Snapshot(reply) => reply.send(snapshot()).is_ok(),
        Request::Plan { document, reply } | Request::Apply { document, reply } => {
            reply.send(difference(&document)).is_ok()
        }
        Request::Detach(reply) => reply.send(Ok(())).is_ok(),
    };
    assert!(is_taken, "whoever asked has gone");
}

/// What is called so, or all: the gateway chooses, not the API.
fn only<T>(mut items: Vec<T>, name: Option<&str>, name_of: impl Fn(&T) -> &String) -> Vec<T> {
    items.retain(|item| name.is_none_or(|name| name == name_of(item)));
    items
}

fn difference(document: &Document) -> Result<Vec<Change>, Failure> {
    match Config::parse(&document.name, document.text.as_bytes()) {
        Ok(_) => Ok(changes()),
        Err(diagnostics) => Err(Failure::from(&diagnostics)),
    }
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        gateway: "edge-1".to_owned(),
        tunnels: tunnels(),
        ports: ports(),
        peerings: peerings(),
        drops: drops(),
        tables: vec![TableFill {
            table: "drops",
            entries: 17,
            capacity: 1 << 20,
        }],
    }
}

pub(crate) fn tunnels() -> Vec<Tunnel> {
    vec![
        Tunnel {
            name: "hub-branch".to_owned(),
            tenant: "contoso".to_owned(),
            network: "contoso-hub".to_owned(),
            local: address("203.0.113.1"),
            remote: address("198.51.100.7"),
            receive_key: Some(1001),
            transmit_key: Some(1001),
            state: State::Up,
            since: Some("2026-11-30T09:00:00Z".to_owned()),
            reason: None,
            explanation: None,
            mtu: 1400,
            adjacency: Adjacency {
                device: Some("eth0".to_owned()),
                mac: mac(1),
                state: Resolution::Resolved,
            },
            rx: traffic(1200, 120_000, 3),
            tx: traffic(1180, 118_000, 2),
            drops: DropsByReason::from([
                (DropReason::GreChecksum.name().into(), 3),
                (DropReason::ExceedsTunnelMtu.name().into(), 2),
            ]),
        },
        Tunnel {
            name: LONG_NAME.to_owned(),
            tenant: "fabrikam".to_owned(),
            network: "fabrikam-net".to_owned(),
            local: address("2001:db8:ffff:ffff:ffff:ffff:ffff:fff1"),
            remote: address("2001:db8:ffff:ffff:ffff:ffff:ffff:fff2"),
            receive_key: Some(0),
            transmit_key: Some(u32::MAX),
            state: State::Down,
            since: Some("2026-11-30T09:00:07Z".to_owned()),
            reason: Some(DownReason::NoRoute),
            explanation: Some("the host has no route".to_owned()),
            mtu: 1448,
            adjacency: Adjacency {
                device: None,
                mac: None,
                state: Resolution::Unresolved,
            },
            rx: Traffic::default(),
            tx: traffic(0, 0, u64::MAX),
            drops: DropsByReason::from([(DropReason::AdjacencyUnresolved.name().into(), u64::MAX)]),
        },
        Tunnel {
            name: "unkeyed".to_owned(),
            tenant: "fabrikam".to_owned(),
            network: "fabrikam-net".to_owned(),
            local: address("203.0.113.1"),
            remote: address("198.51.100.8"),
            receive_key: None,
            transmit_key: None,
            state: State::Down,
            since: None,
            reason: Some(DownReason::NoAnswer),
            explanation: Some("nobody answers".to_owned()),
            mtu: 1476,
            adjacency: Adjacency {
                device: Some("eth0".to_owned()),
                mac: None,
                state: Resolution::Unresolved,
            },
            rx: Traffic::default(),
            tx: Traffic::default(),
            drops: DropsByReason::new(),
        },
    ]
}

pub(crate) fn networks() -> Vec<Network> {
    vec![
        Network {
            name: "contoso-hub".to_owned(),
            tenant: "contoso".to_owned(),
            address_space: vec![prefix("10.10.30.0/24"), prefix("fd00:10:30::/48")],
            ports: 1,
            tunnels: 1,
            peerings: 1,
            routes: 5,
            fib_routes: 6,
            fib_nodes: 4,
            fib_leaves: 17,
            fib_bytes: 256,
        },
        Network {
            name: "fabrikam-net".to_owned(),
            tenant: "fabrikam".to_owned(),
            address_space: vec![prefix("10.10.30.0/24")],
            ports: 0,
            tunnels: 2,
            peerings: 0,
            routes: 0,
            fib_routes: 0,
            fib_nodes: 0,
            fib_leaves: 0,
            fib_bytes: 0,
        },
    ]
}

pub(crate) fn ports() -> Vec<Port> {
    vec![
        Port {
            name: "hub-vms".to_owned(),
            tenant: "contoso".to_owned(),
            network: "contoso-hub".to_owned(),
            device: "eth1".to_owned(),
            vlan: Some(130),
            address: vec![prefix("10.10.30.1/25"), prefix("fd00:10:30::1/64")],
            mac: mac(0x11),
            state: State::Up,
            mtu: Some(1500),
            rx: traffic(1180, 118_000, 0),
            tx: traffic(1197, 119_700, 7),
            drops: DropsByReason::from([(DropReason::NeighbourUnresolved.name().into(), 7)]),
        },
        Port {
            name: "spare".to_owned(),
            tenant: "fabrikam".to_owned(),
            network: "fabrikam-net".to_owned(),
            device: "eth7".to_owned(),
            vlan: None,
            address: Vec::new(),
            mac: None,
            state: State::Down,
            mtu: None,
            rx: Traffic::default(),
            tx: Traffic::default(),
            drops: DropsByReason::new(),
        },
    ]
}

pub(crate) fn peerings() -> Vec<Peering> {
    let peering = |network: &str, remote: &str, state| Peering {
        network: network.to_owned(),
        tenant: "contoso".to_owned(),
        remote: remote.to_owned(),
        state,
        remote_state: None,
        reason: None,
        allow_virtual_network_access: true,
        allow_forwarded_traffic: false,
        allow_gateway_transit: false,
        use_remote_gateways: false,
    };
    vec![
        Peering {
            remote_state: Some(PeeringState::Connected),
            allow_gateway_transit: true,
            ..peering("contoso-hub", "contoso-spoke", PeeringState::Connected)
        },
        Peering {
            reason: Some("contoso-lab states no peering with contoso-hub".to_owned()),
            ..peering("contoso-hub", "contoso-lab", PeeringState::Initiated)
        },
        Peering {
            remote_state: Some(PeeringState::Connected),
            allow_virtual_network_access: false,
            ..peering("contoso-spoke", "contoso-hub", PeeringState::Connected)
        },
    ]
}

pub(crate) fn routes() -> Vec<Route> {
    let route = |to: &str, next_hop, origin, metric| Route {
        network: "contoso-hub".to_owned(),
        tenant: "contoso".to_owned(),
        prefix: prefix(to),
        next_hop,
        origin,
        metric,
    };
    let port = || "hub-vms".to_owned();
    let tunnel = "hub-branch".to_owned();
    let machine = address("10.10.30.4");
    let network = "contoso-spoke".to_owned();
    vec![
        route(
            "0.0.0.0/0",
            NextHop::Machine { address: machine },
            Origin::User,
            0,
        ),
        route(
            "10.10.30.0/25",
            NextHop::Port { port: port() },
            Origin::Connected,
            0,
        ),
        route(
            "10.10.30.1/32",
            NextHop::Local { port: port() },
            Origin::Connected,
            0,
        ),
        route(
            "10.11.0.0/16",
            NextHop::Peering { network },
            Origin::Peering,
            0,
        ),
        route(
            "10.12.0.0/16",
            NextHop::Group {
                members: vec![
                    Member {
                        tunnel: "hub-branch".to_owned(),
                        weight: 3,
                        state: State::Up,
                    },
                    Member {
                        tunnel: "hub-depot".to_owned(),
                        weight: 1,
                        state: State::Down,
                    },
                ],
            },
            Origin::Static,
            0,
        ),
        route("192.0.2.0/24", NextHop::Blackhole, Origin::User, 0),
        route("198.51.100.0/24", NextHop::Unreachable, Origin::User, 0),
        route(
            "fd00:11::/48",
            NextHop::Tunnel { tunnel },
            Origin::Static,
            20,
        ),
    ]
}

pub(crate) fn neighbours() -> Vec<Neighbour> {
    let neighbour = |text: &str, mac, state| Neighbour {
        port: "hub-vms".to_owned(),
        network: "contoso-hub".to_owned(),
        tenant: "contoso".to_owned(),
        address: address(text),
        mac,
        state,
    };
    vec![
        neighbour("10.10.30.4", mac(0x24), Resolution::Resolved),
        neighbour("fd00:10:30::dead:beef", None, Resolution::Unresolved),
    ]
}

pub(crate) fn drops() -> Vec<DropCounter> {
    let counter = |owner, name: &str, direction, reason: DropReason, packets| DropCounter {
        owner,
        name: name.to_owned(),
        network: (owner != OwnerKind::Device).then(|| "contoso-hub".to_owned()),
        tenant: (owner != OwnerKind::Device).then(|| "contoso".to_owned()),
        direction,
        reason: reason.name().into(),
        packets,
        explanation: reason.explanation().into(),
    };
    vec![
        counter(
            OwnerKind::Device,
            "eth0",
            Direction::Receive,
            DropReason::UnknownTunnel,
            12,
        ),
        counter(
            OwnerKind::Port,
            "hub-vms",
            Direction::Transmit,
            DropReason::NeighbourUnresolved,
            7,
        ),
        counter(
            OwnerKind::Tunnel,
            "hub-branch",
            Direction::Receive,
            DropReason::GreChecksum,
            3,
        ),
        counter(
            OwnerKind::Tunnel,
            "hub-branch",
            Direction::Transmit,
            DropReason::ExceedsTunnelMtu,
            2,
        ),
    ]
}

pub(crate) fn devices() -> Vec<Device> {
    vec![
        Device {
            name: "eth0".to_owned(),
            index: Some(2),
            roles: vec![Role::Underlay, Role::Port],
            local: vec![address("203.0.113.1"), address("2001:db8::1")],
            mac: mac(2),
            mtu: Some(1500),
            state: State::Up,
            explanation: None,
            mode: Some(AttachMode::Native),
            program: Some(41),
            redirect: true,
            drops: DropsByReason::from([
                (DropReason::UnknownTunnel.name().into(), 12),
                (DropReason::OuterChecksum.name().into(), 1),
            ]),
        },
        Device {
            name: "eth7".to_owned(),
            index: None,
            roles: vec![Role::Port],
            local: Vec::new(),
            mac: None,
            mtu: None,
            state: State::Down,
            explanation: Some("there is no device eth7".to_owned()),
            mode: None,
            program: None,
            redirect: false,
            drops: DropsByReason::new(),
        },
    ]
}

pub(crate) fn changes() -> Vec<Change> {
    let change = |action, kind: &'static str, name: &str, detail: &str| Change {
        action,
        kind: kind.into(),
        name: name.to_owned(),
        detail: detail.to_owned(),
    };
    vec![
        change(Action::Add, "network", "contoso-lab", ""),
        change(Action::Add, "port", "lab-vms", ""),
        change(Action::Change, "tunnel", "hub-branch", "mtu 1400 -> 1380"),
        change(Action::Remove, "tunnel", "unkeyed", ""),
    ]
}

fn traffic(packets: u64, bytes: u64, dropped: u64) -> Traffic {
    Traffic {
        packets,
        bytes,
        dropped,
    }
}

fn mac(last: u8) -> Option<MacAddress> {
    Some(MacAddress([2, 0, 0, 0, 0, last]))
}

fn address(text: &str) -> std::net::IpAddr {
    text.parse().expect("an address")
}

fn prefix(text: &str) -> ipnet::IpNet {
    text.parse().expect("a prefix")
}
