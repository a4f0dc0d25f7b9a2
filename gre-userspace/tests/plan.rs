//! What the plan promises: the best route wins, ids stay, and every step from one state to the next leaves nothing
//! dangling and no network reaching into another.

use std::collections::{BTreeMap, BTreeSet};

use gre_common::id::{AdjacencyId, IfIndex, MacAddress, NetworkId, TunnelId};
use gre_userspace::config::{Config, DeviceName, Diagnostic, Name};
use gre_userspace::peering::States;
use gre_userspace::plan::{
    Change, Desired, Device, Devices, Ids, Limits, NextHop, Planned, RouteOrigin, diff, plan,
};
use ipnet::IpNet;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    interfaces: 65_536,
    devices: 64,
    tagged_devices: 64,
    endpoints: 64,
    networks: 64,
    ports: 64,
    tunnels: 64,
    groups: 64,
};

const HUB_AND_SPOKE: &str = include_str!("../../dist/examples/hub-and-spoke.toml");

#[test]
fn the_example_gives_the_routes_that_its_comments_promise() {
    let planned = planned(HUB_AND_SPOKE);
    assert!(planned.complaints.is_empty(), "{}", planned.complaints);
    assert_eq!(
        routes(&planned, "contoso-hub"),
        [
            "10.10.30.0/25 connected port hub-vms",
            "10.10.30.1/32 connected local hub-vms",
            "10.11.30.64/26 static tunnel hub-branch",
            "10.20.0.0/16 peering peer contoso-spoke",
            "172.16.0.0/12 user tunnel hub-branch",
            "192.0.2.0/24 user blackhole",
            "fd00:10:30::/64 connected port hub-vms",
            "fd00:10:30::1/128 connected local hub-vms",
            "fd00:11::/48 static tunnel hub-branch",
        ]
    );
    assert_eq!(
        routes(&planned, "contoso-spoke"),
        [
            "0.0.0.0/0 user machine 10.10.30.4 on hub-vms",
            "10.10.30.0/24 peering peer contoso-hub",
            "10.20.0.0/24 connected port spoke-vms",
            "10.20.0.1/32 connected local spoke-vms",
            "fd00:10:30::/48 peering peer contoso-hub",
        ]
    );
    assert_eq!(
        routes(&planned, "fabrikam"),
        [
            "10.10.30.0/25 connected port fabrikam-vms",
            "10.10.30.1/32 connected local fabrikam-vms",
            "10.11.30.64/26 static tunnel fabrikam-branch",
        ]
    );
}

#[test]
fn tunnels_become_entries_with_their_headers() {
    let planned = planned(HUB_AND_SPOKE);
    let entry = |name: &str| {
        let mut tunnels = planned.desired.tunnels.values();
        let tunnel = tunnels.find(|tunnel| tunnel.name.as_str() == name).unwrap();
        tunnel.entry(AdjacencyId(9), None)
    };
    let branch = entry("hub-branch");
    assert_eq!((branch.mtu, branch.ttl), (1400, 64));
    assert_eq!(branch.transmit_key, 1001);
    assert_eq!(branch.local[..4], [203, 0, 113, 1]);
    assert_eq!(
        branch.remote,
        [198, 51, 100, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(branch.adjacency, AdjacencyId(9));
    let v6 = entry("hub-branch-v6");
    assert_eq!((v6.mtu, v6.tos), (1500 - 56, 184));
    assert_eq!(v6.transmit_key, 2002);
    assert_eq!(v6.local[..4], [0x20, 0x01, 0x0d, 0xb8]);
}

#[test]
fn user_beats_connected_beats_peering_beats_static() {
    let text = network("a", "10.1.0.0/16")
        + &network("b", "10.2.0.0/16")
        + &port("pa", "a", "eth1", "10.1.0.1/24")
        + &tunnel(
            "t",
            "a",
            1,
            r#"["10.1.0.0/24", "10.2.0.0/16", "10.3.0.0/16"]"#,
        )
        + &peering("a", "b")
        + &peering("b", "a")
        + &route("a", "10.3.0.0/16", r#""blackhole""#);
    assert_eq!(
        routes(&planned(&text), "a"),
        [
            "10.1.0.0/24 connected port pa",
            "10.1.0.1/32 connected local pa",
            "10.2.0.0/16 peering peer b",
            "10.3.0.0/16 user blackhole",
        ]
    );
    let overridden = text + &route("a", "10.1.0.0/24", r#""blackhole""#);
    assert_eq!(
        routes(&planned(&overridden), "a")[0],
        "10.1.0.0/24 user blackhole"
    );
}

#[test]
fn among_static_routes_the_lowest_metric_wins() {
    let text = network("a", "10.1.0.0/16")
        + &tunnel(
            "far",
            "a",
            1,
            r#"[{ prefix = "10.9.0.0/16", metric = 20 }]"#,
        )
        + &tunnel(
            "near",
            "a",
            2,
            r#"[{ prefix = "10.9.0.0/16", metric = 10 }]"#,
        )
        + &tunnel(
            "farther",
            "a",
            3,
            r#"[{ prefix = "10.9.0.0/16", metric = 30 }]"#,
        );
    assert_eq!(
        routes(&planned(&text), "a"),
        ["10.9.0.0/16 static tunnel near"]
    );
}

#[test]
fn tunnels_with_one_prefix_and_metric_share_its_flows_by_weight() {
    let text = network("a", "10.1.0.0/16")
        + &tunnel("one", "a", 1, r#"["10.9.0.0/16", "fd00:9::/32"]"#)
        + &tunnel(
            "two",
            "a",
            2,
            r#"[{ prefix = "10.9.0.0/16", weight = 3 }, "fd00:9::/32"]"#,
        )
        + &tunnel(
            "worse",
            "a",
            3,
            r#"[{ prefix = "10.9.0.0/16", metric = 1 }]"#,
        );
    let planned = planned(&text);
    assert!(planned.complaints.is_empty(), "{}", planned.complaints);
    assert_eq!(
        routes(&planned, "a"),
        [
            "10.9.0.0/16 static tunnels one 64, two 192",
            "fd00:9::/32 static tunnels one 128, two 128",
        ]
    );
}

#[test]
fn a_route_of_ones_own_may_lead_into_several_tunnels() {
    let text = network("a", "10.1.0.0/16")
        + &tunnel("one", "a", 1, r#"["10.9.0.0/16"]"#)
        + &tunnel("two", "a", 2, r#"["10.9.0.0/16"]"#)
        + &route(
            "a",
            "10.9.0.0/16",
            r#"{ tunnels = ["one", { name = "two", weight = 7 }] }"#,
        )
        + &route("a", "10.8.0.0/16", r#"{ tunnels = ["two"] }"#);
    assert_eq!(
        routes(&planned(&text), "a"),
        [
            "10.8.0.0/16 user tunnel two",
            "10.9.0.0/16 user tunnels one 32, two 224",
        ]
    );
}

#[test]
fn routes_into_the_same_tunnels_share_a_group_until_they_part() {
    let both = r#"["10.7.0.0/16", "10.8.0.0/16", "10.9.0.0/16"]"#;
    let networks = network("a", "10.1.0.0/16") + &network("b", "10.2.0.0/16");
    let text = |first: &str, second: &str| {
        networks.clone()
            + &tunnel("one", "a", 1, first)
            + &tunnel("two", "a", 2, second)
            + &tunnel("other-one", "b", 3, both)
            + &tunnel("other-two", "b", 4, both)
    };
    let before = planned(&text(both, both));
    assert_eq!(before.desired.groups.len(), 2, "one for each network");
    let group = |planned: &Planned, prefix: &str| {
        let network = planned.ids.network(&Name::new("a").unwrap()).unwrap();
        let route = planned.desired.routes[&(network, prefix.parse().unwrap())];
        match route.next_hop {
            NextHop::Group(id) => id,
            other => panic!("{other:?}"),
        }
    };
    let parted = text(
        both,
        r#"["10.7.0.0/16", { prefix = "10.8.0.0/16", weight = 2 }, "10.9.0.0/16"]"#,
    );
    let after = planned_after(&parted, &before.ids, &devices(), &LIMITS);
    let id = group(&before, "10.7.0.0/16");
    assert_eq!(group(&after, "10.7.0.0/16"), id);
    assert_eq!(group(&after, "10.9.0.0/16"), id);
    assert_ne!(group(&after, "10.8.0.0/16"), id);
    check_way(&before.desired, &after.desired);

    // Joined again they keep their groups, and with them the tunnels of their flows.
    let joined = planned_after(&text(both, both), &after.ids, &devices(), &LIMITS);
    assert_eq!(group(&joined, "10.8.0.0/16"), group(&after, "10.8.0.0/16"));
    assert_eq!(
        routes(&joined, "a")[1],
        "10.8.0.0/16 static tunnels one 128, two 128"
    );
}

#[test]
fn groups_that_do_not_fit_are_refused_where_they_are_stated() {
    let text = network("a", "10.1.0.0/16")
        + &tunnel("one", "a", 1, r#"["10.7.0.0/16"]"#)
        + &tunnel("two", "a", 2, r#"["10.7.0.0/16"]"#)
        + &route(
            "a",
            "10.9.0.0/16",
            r#"{ tunnels = ["one", { name = "two", weight = 7 }] }"#,
        );
    let limits = Limits {
        groups: 1,
        ..LIMITS
    };
    let planned = planned_after(&text, &Ids::default(), &devices(), &limits);
    assert_eq!(
        complaints(&planned),
        [(
            "no room for `10.9.0.0/16`: the gateway holds 1 groups of tunnels",
            r#"{ tunnels = ["one", { name = "two", weight = 7 }] }"#
        )]
    );
    assert_eq!(
        routes(&planned, "a"),
        [
            "10.7.0.0/16 static tunnels one 128, two 128",
            "10.9.0.0/16 user unreachable"
        ]
    );
}

#[test]
fn only_connected_peerings_carry_routes_and_none_are_passed_on() {
    let networks =
        network("a", "10.1.0.0/16") + &network("b", "10.2.0.0/16") + &network("c", "10.3.0.0/16");
    let one_side = networks.clone() + &peering("a", "b");
    assert!(routes(&planned(&one_side), "a").is_empty());
    let chain = networks
        + &peering("a", "b")
        + &peering("b", "a")
        + &peering("b", "c")
        + &peering("c", "b");
    assert_eq!(
        routes(&planned(&chain), "a"),
        ["10.2.0.0/16 peering peer b"]
    );
    assert_eq!(
        routes(&planned(&chain), "b"),
        ["10.1.0.0/16 peering peer a", "10.3.0.0/16 peering peer c"]
    );
    let denied = chain.replacen(
        "remote = \"a\"",
        "remote = \"a\"\nallow_virtual_network_access = false",
        1,
    );
    assert!(routes(&planned(&denied), "a").is_empty());
    assert_eq!(
        routes(&planned(&denied), "b"),
        ["10.3.0.0/16 peering peer c"]
    );
}

#[test]
fn a_missing_device_is_named_and_its_subnet_leads_nowhere() {
    let text = network("a", "10.1.0.0/16")
        + &port("pa", "a", "eth9", "10.1.0.1/24")
        + &tunnel("t", "a", 1, r#"["10.0.0.0/8"]"#)
        + &route("a", "10.8.0.0/16", r#""10.1.0.7""#);
    let planned = planned(&text);
    let messages: Vec<&str> = planned.complaints.iter().map(Diagnostic::message).collect();
    assert_eq!(messages, ["there is no device `eth9`"]);
    assert_eq!(planned.complaints.iter().next().unwrap().text(), "\"eth9\"");
    assert!(planned.desired.ports.is_empty());
    assert_eq!(
        routes(&planned, "a"),
        [
            "10.0.0.0/8 static tunnel t",
            "10.1.0.0/24 connected unreachable",
            "10.1.0.1/32 connected unreachable",
            "10.8.0.0/16 user unreachable",
        ]
    );
}

#[test]
fn a_next_hop_on_no_port_is_warned_of_and_leads_nowhere() {
    let text = network("a", "10.1.0.0/16") + &route("a", "10.8.0.0/16", r#""10.1.0.7""#);
    let planned = planned(&text);
    assert_eq!(planned.complaints.len(), 1);
    assert!(
        planned
            .complaints
            .to_string()
            .contains("next hop 10.1.0.7 is on no port")
    );
    assert_eq!(routes(&planned, "a"), ["10.8.0.0/16 user unreachable"]);
}

#[test]
fn a_tunnel_never_takes_more_than_the_underlay_carries() {
    let text =
        network("a", "10.1.0.0/16") + &tunnel("t", "a", 1, "[]").replace("key", "mtu = 1473\nkey");
    let planned = planned(&text);
    assert!(
        planned.complaints.to_string().contains("1472 is used"),
        "{}",
        planned.complaints
    );
    assert_eq!(planned.desired.tunnels.values().next().unwrap().mtu, 1472);
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_the_rest_stands() {
    let text = network("a", "10.1.0.0/16")
        + &tunnel("t1", "a", 1, r#"["10.7.0.0/16"]"#)
        + &tunnel("t2", "a", 2, r#"["10.8.0.0/16"]"#);
    let limits = Limits {
        tunnels: 1,
        ..LIMITS
    };
    let planned = planned_after(&text, &Ids::default(), &devices(), &limits);
    let messages: Vec<&str> = planned.complaints.iter().map(Diagnostic::message).collect();
    assert_eq!(messages, ["no room for `t2`: the gateway holds 1 tunnels"]);
    assert_eq!(routes(&planned, "a"), ["10.7.0.0/16 static tunnel t1"]);
}

/// What each complaint says, and of what in the configuration.
fn complaints(planned: &Planned) -> Vec<(&str, &str)> {
    let complaints = planned.complaints.iter();
    complaints
        .map(|complaint| (complaint.message(), complaint.text()))
        .collect()
}

#[test]
fn more_devices_than_the_gateway_holds_are_refused_where_they_are_named() {
    let text = network("a", "10.1.0.0/16")
        + &port("p1", "a", "eth1", "10.1.1.1/24")
        + &port("p2", "a", "eth2", "10.1.2.1/24");
    let limits = Limits {
        // That of the underlay is the first.
        devices: 2,
        ..LIMITS
    };
    let planned = planned_after(&text, &Ids::default(), &devices(), &limits);
    let message = "no room for `eth2`: the gateway holds 2 devices";
    assert_eq!(complaints(&planned), [(message, "\"eth2\"")]);
    assert_eq!(planned.desired.ports.len(), 1);
}

#[test]
fn more_devices_with_tags_than_the_gateway_holds_are_refused_where_they_are_named() {
    let tagged = |name, device, address, vlan| {
        port(name, "a", device, address) + &format!("vlan = {vlan}\n")
    };
    let text = network("a", "10.1.0.0/16")
        + &tagged("p1", "eth1", "10.1.1.1/24", 7)
        + &tagged("p2", "eth1", "10.1.2.1/24", 8)
        + &tagged("p3", "eth2", "10.1.3.1/24", 7);
    let limits = Limits {
        tagged_devices: 1,
        ..LIMITS
    };
    let planned = planned_after(&text, &Ids::default(), &devices(), &limits);
    let message = "no room for `eth2`: the gateway holds 1 devices with tagged ports";
    assert_eq!(complaints(&planned), [(message, "\"eth2\"")]);
    assert_eq!(planned.desired.tagged_ports.len(), 2);
}

#[test]
fn a_tunnel_that_moves_to_another_network_is_another_tunnel() {
    let networks = network("a", "10.1.0.0/16") + &network("b", "10.2.0.0/16");
    let before = planned(&(networks.clone() + &tunnel("t", "a", 1, r#"["10.7.0.0/16"]"#)));
    let after = networks + &tunnel("t", "b", 1, r#"["10.7.0.0/16"]"#);
    let after = planned_after(&after, &before.ids, &devices(), &LIMITS);
    let ids = |planned: &Planned| *planned.desired.tunnels.keys().next().unwrap();
    assert_ne!(ids(&before), ids(&after));
    check_way(&before.desired, &after.desired);
}

#[test]
fn ids_survive_serialisation() {
    let grouped = tunnel("second", "contoso-hub", 9, r#"["10.11.30.64/26"]"#);
    let ids = planned(&(HUB_AND_SPOKE.to_owned() + &grouped)).ids;
    let json = serde_json::to_string(&ids).unwrap();
    assert_eq!(serde_json::from_str::<Ids>(&json).unwrap(), ids);
}

#[test]
fn objects_come_before_and_go_after_what_refers_to_them() {
    let grouped = tunnel("second", "contoso-hub", 9, r#"["10.11.30.64/26"]"#);
    let everything = planned(&(HUB_AND_SPOKE.to_owned() + &grouped)).desired;
    let kinds = |changes: &[Change]| {
        let mut kinds: Vec<String> = changes
            .iter()
            .map(|change| format!("{change:?}").split('(').next().unwrap().to_owned())
            .collect();
        kinds.dedup();
        kinds
    };
    assert_eq!(
        kinds(&diff(&Desired::default(), &everything)),
        [
            "SetNetwork",
            "SetPort",
            "SetTunnel",
            "SetGroup",
            "SetRoute",
            "SetDemux",
            "AddEndpoint",
            "SetTaggedPort",
            "SetInterface",
        ]
    );
    assert_eq!(
        kinds(&diff(&everything, &Desired::default())),
        [
            "RemoveInterface",
            "RemoveTaggedPort",
            "RemoveEndpoint",
            "RemoveDemux",
            "RemoveRoute",
            "RemoveGroup",
            "RemoveTunnel",
            "RemovePort",
            "RemoveNetwork",
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_way_arrives_without_dangling_and_ids_stay(gateways in prop::collection::vec(gateway(), 2..6)) {
        let mut ids = Ids::default();
        let mut current = Desired::default();
        let mut states = States::default();
        let mut before: Option<Config> = None;
        for gateway in gateways {
            let config = parse(&gateway.text());
            states = states.next(&config.peerings);
            let planned = plan(&config, &states, &gateway.devices(), ids.clone(), &LIMITS);
            check_way(&current, &planned.desired);
            check_flows_stay(&current, &planned.desired);
            let again = plan(&config, &states, &gateway.devices(), planned.ids.clone(), &LIMITS);
            assert_eq!(again.desired, planned.desired);
            if let Some(before) = &before {
                check_ids_stay(before, &ids, &config, &planned.ids);
            }
            (current, ids, before) = (planned.desired, planned.ids, Some(config));
        }
        check_way(&current, &Desired::default());
    }
}

/// Makes each step from `current` to `desired`: the last one arrives, and none leaves a state that must not be.
fn check_way(current: &Desired, desired: &Desired) {
    let mut state = current.clone();
    check_state(&state);
    for change in diff(current, desired) {
        state.apply(&change);
        check_state(&state);
        check_tunnels(current, &state, desired);
    }
    assert_eq!(&state, desired);
    assert!(diff(&state, desired).is_empty());
}

/// Every reference leads to an object, and to one of the same network unless a peer is meant.
fn check_state(state: &Desired) {
    let network_exists = |id: &NetworkId| state.networks.contains_key(id);
    assert!(
        state
            .ports
            .values()
            .all(|port| network_exists(&port.network))
    );
    assert!(
        state
            .tunnels
            .values()
            .all(|tunnel| network_exists(&tunnel.network))
    );
    assert!(
        state
            .demux
            .values()
            .all(|tunnel| state.tunnels.contains_key(tunnel))
    );
    assert!(
        state
            .tagged_ports
            .values()
            .all(|port| state.ports.contains_key(port))
    );
    for interface in state.interfaces.values() {
        assert!(
            interface
                .untagged_port
                .is_none_or(|port| state.ports.contains_key(&port))
        );
    }
    for group in state.groups.values() {
        for member in group.members.values() {
            assert_eq!(state.tunnels[&member.tunnel].network, group.network);
        }
    }
    for ((network, prefix), route) in &state.routes {
        assert!(network_exists(network), "{prefix}");
        match route.next_hop {
            NextHop::Local(port) | NextHop::Connected(port) => {
                assert_eq!(state.ports[&port].network, *network, "{prefix}");
            }
            NextHop::Tunnel(tunnel) => {
                assert_eq!(state.tunnels[&tunnel].network, *network, "{prefix}");
            }
            NextHop::Group(group) => {
                assert_eq!(state.groups[&group].network, *network, "{prefix}");
            }
            NextHop::Machine { port, .. } => {
                assert_eq!(route.origin, RouteOrigin::User);
                assert!(state.ports.contains_key(&port), "{prefix}");
            }
            NextHop::Peer(peer) => assert!(network_exists(&peer) && peer != *network, "{prefix}"),
            NextHop::Blackhole | NextHop::Unreachable => {}
        }
    }
}

/// Every route leads into the tunnels that it led into before, or into those that it is to lead into.
fn check_tunnels(before: &Desired, now: &Desired, after: &Desired) {
    for key in now.routes.keys() {
        let tunnels = tunnels(now, key);
        let is_either =
            tunnels == self::tunnels(before, key) || tunnels == self::tunnels(after, key);
        assert!(is_either, "{key:?}: {tunnels:?}");
    }
}

/// The flows of a route that was and is shared by tunnels stay where they are, but for those that belong to a tunnel that
/// has gone, or are given to one that has a greater share now.
fn check_flows_stay(before: &Desired, after: &Desired) {
    for key in after.routes.keys() {
        let (Some(old), Some(new)) = (flows(before, key), flows(after, key)) else {
            continue;
        };
        let moved = old.iter().zip(&new).filter(|(old, new)| old != new).count();
        let count = |flows: &[TunnelId], tunnel| flows.iter().filter(|of| **of == tunnel).count();
        let gained: usize = BTreeSet::from_iter(&new)
            .into_iter()
            .map(|tunnel| count(&new, *tunnel).saturating_sub(count(&old, *tunnel)))
            .sum();
        assert_eq!(moved, gained, "{key:?}");
    }
}

/// The tunnel of each bucket of a route's group.
fn flows(state: &Desired, key: &(NetworkId, IpNet)) -> Option<Vec<TunnelId>> {
    let NextHop::Group(group) = state.routes.get(key)?.next_hop else {
        return None;
    };
    let group = &state.groups[&group];
    let buckets = group.buckets.iter();
    Some(buckets.map(|place| group.members[place].tunnel).collect())
}

/// The tunnels that a route leads into.
fn tunnels(state: &Desired, key: &(NetworkId, IpNet)) -> BTreeSet<TunnelId> {
    match state.routes.get(key).map(|route| route.next_hop) {
        Some(NextHop::Tunnel(tunnel)) => [tunnel].into(),
        _ => flows(state, key).into_iter().flatten().collect(),
    }
}

fn check_ids_stay(before: &Config, old: &Ids, after: &Config, new: &Ids) {
    for network in &after.networks {
        let name = network.name.get_ref();
        if before
            .networks
            .iter()
            .any(|other| other.name.get_ref() == name)
        {
            assert_eq!(old.network(name), new.network(name));
        }
        assert!(new.network(name).is_some());
    }
    for port in &after.ports {
        let key = |port: &gre_userspace::config::Port| {
            (port.network.get_ref().clone(), port.name.get_ref().clone())
        };
        let (network, name) = key(port);
        if before.ports.iter().any(|other| key(other) == key(port)) {
            assert_eq!(old.port(&network, &name), new.port(&network, &name));
        }
    }
    for tunnel in &after.tunnels {
        let key = |tunnel: &gre_userspace::config::Tunnel| {
            (
                tunnel.network.get_ref().clone(),
                tunnel.name.get_ref().clone(),
            )
        };
        let (network, name) = key(tunnel);
        if before.tunnels.iter().any(|other| key(other) == key(tunnel)) {
            assert_eq!(old.tunnel(&network, &name), new.tunnel(&network, &name));
        }
    }
}

/// A random gateway on four devices, out of so few names and numbers that two of them share many.
#[derive(Clone, Debug)]
struct Gateway {
    networks: [bool; 4],
    /// By place (device and tag): the network of the port there.
    ports: [Option<usize>; 9],
    /// By key.
    tunnels: [Option<StatedTunnel>; 6],
    peerings: [[bool; 4]; 4],
    /// By network and prefix: kind of next hop.
    routes: [[Option<u8>; 2]; 4],
    present: [bool; 3],
    mtu: u32,
}

#[derive(Clone, Copy, Debug)]
struct StatedTunnel {
    name: usize,
    network: usize,
    /// Which second octets it has routes to.
    octets: [bool; 4],
    /// Of all of its routes.
    weight: u16,
    metric: u8,
}

fn stated_tunnel() -> impl Strategy<Value = StatedTunnel> {
    (0usize..6, 0usize..4, any::<[bool; 4]>(), 1u16..4, 0u8..2).prop_map(
        |(name, network, octets, weight, metric)| StatedTunnel {
            name,
            network,
            octets,
            weight,
            metric,
        },
    )
}

fn gateway() -> impl Strategy<Value = Gateway> {
    (
        any::<[bool; 4]>(),
        prop::array::uniform9(prop::option::of(0usize..4)),
        prop::array::uniform6(prop::option::of(stated_tunnel())),
        any::<[[bool; 4]; 4]>(),
        prop::array::uniform4(prop::array::uniform2(prop::option::of(0u8..3))),
        prop::array::uniform3(prop::bool::weighted(0.9)),
        1400u32..1600,
    )
        .prop_map(
            |(networks, ports, tunnels, peerings, routes, present, mtu)| Gateway {
                networks,
                ports,
                tunnels,
                peerings,
                routes,
                present,
                mtu,
            },
        )
}

impl Gateway {
    fn text(&self) -> String {
        let mut text = String::new();
        let stated: Vec<usize> = (0..4).filter(|n| self.networks[*n]).collect();
        for n in &stated {
            text += &network(&format!("n{n}"), &format!("10.{n}.0.0/16"));
            for m in stated.iter().filter(|m| n != *m && self.peerings[*n][**m]) {
                text += &peering(&format!("n{n}"), &format!("n{m}"));
            }
        }
        for (place, n) in self.ports.iter().enumerate() {
            let Some(n) = n.filter(|n| self.networks[*n]) else {
                continue;
            };
            let device = format!("eth{}", 1 + place % 3);
            let stated = port(
                &format!("p{}", place / 2),
                &format!("n{n}"),
                &device,
                &format!("10.{n}.{place}.1/24"),
            );
            let tag = if place < 3 {
                String::new()
            } else {
                format!("vlan = {place}\n")
            };
            // The names of the places 2k and 2k + 1 are one: only the first of the two may be used.
            if place % 2 == 0 || self.ports[place - 1].is_none_or(|n| !self.networks[n]) {
                text += &(stated + &tag);
            }
        }
        let mut names = [false; 6];
        for (key, stated) in self.tunnels.iter().enumerate() {
            let stated = stated.filter(|stated| self.networks[stated.network]);
            let Some(stated) = stated else { continue };
            let StatedTunnel {
                name,
                network: n,
                octets,
                weight,
                metric,
            } = stated;
            if std::mem::replace(&mut names[name], true) {
                continue;
            }
            let octets = octets
                .iter()
                .enumerate()
                .filter(|(_, is_stated)| **is_stated);
            let routes: String = octets
                .map(|(octet, _)| {
                    format!(
                        r#"{{ prefix = "10.{octet}.0.0/16", weight = {weight}, metric = {metric} }}, "#
                    )
                })
                .collect();
            let routes = format!("[{routes}]");
            text += &tunnel(&format!("t{name}"), &format!("n{n}"), key, &routes);
        }
        for n in &stated {
            for (index, kind) in self.routes[*n].iter().enumerate() {
                let hop = match kind {
                    Some(0) => r#""blackhole""#.to_owned(),
                    Some(1) => format!(r#""10.{n}.3.7""#),
                    Some(_) => format!(r#""10.{n}.4.7""#),
                    None => continue,
                };
                text += &route(&format!("n{n}"), &format!("10.{}.0.0/16", index + 2), &hop);
            }
        }
        text
    }

    fn devices(&self) -> Devices {
        let mut devices = devices();
        for (index, present) in self.present.iter().enumerate() {
            if !present {
                devices.remove(&DeviceName::new(&format!("eth{}", index + 1)).unwrap());
            }
        }
        for device in devices.values_mut() {
            device.mtu = self.mtu;
        }
        devices
    }
}

fn network(name: &str, prefix: &str) -> String {
    format!("[[network]]\nname = \"{name}\"\ntenant = \"tenant\"\naddress_space = [\"{prefix}\"]\n")
}

fn port(name: &str, network: &str, device: &str, address: &str) -> String {
    format!(
        "[[port]]\nname = \"{name}\"\nnetwork = \"{network}\"\ndevice = \"{device}\"\naddress = [\"{address}\"]\n"
    )
}

fn tunnel(name: &str, network: &str, key: usize, routes: &str) -> String {
    format!(
        "[[tunnel]]\nname = \"{name}\"\nnetwork = \"{network}\"\nlocal = \"203.0.113.1\"\n\
         remote = \"198.51.100.7\"\nkey = {key}\nroutes = {routes}\n"
    )
}

fn peering(network: &str, remote: &str) -> String {
    format!("[[peering]]\nnetwork = \"{network}\"\nremote = \"{remote}\"\n")
}

fn route(network: &str, prefix: &str, next_hop: &str) -> String {
    format!("[[route]]\nnetwork = \"{network}\"\nprefix = \"{prefix}\"\nnext_hop = {next_hop}\n")
}

fn parse(text: &str) -> Config {
    let whole = if text.contains("[[underlay]]") {
        text.to_owned()
    } else {
        let head = "[[underlay]]\ndevice = \"eth0\"\nlocal = [\"203.0.113.1\"]\n[[tenant]]\nname = \"tenant\"\n";
        head.to_owned() + text
    };
    Config::parse("test.toml", whole.as_bytes()).unwrap_or_else(|complaints| panic!("{complaints}"))
}

/// eth0 to eth3, with the MTU of Ethernet.
fn devices() -> Devices {
    let devices = (0..4u8).map(|index| {
        let device = Device {
            index: IfIndex(u32::from(index) + 2),
            mac: MacAddress([2, 0, 0, 0, 0, index]),
            mtu: 1500,
        };
        (DeviceName::new(&format!("eth{index}")).unwrap(), device)
    });
    devices.collect()
}

fn planned(text: &str) -> Planned {
    planned_after(text, &Ids::default(), &devices(), &LIMITS)
}

fn planned_after(text: &str, ids: &Ids, devices: &Devices, limits: &Limits) -> Planned {
    let config = parse(text);
    let states = States::default().next(&config.peerings);
    plan(&config, &states, devices, ids.clone(), limits)
}

/// The routes of a network in words.
fn routes(planned: &Planned, network: &str) -> Vec<String> {
    let desired = &planned.desired;
    let id = planned.ids.network(&Name::new(network).unwrap()).unwrap();
    let names: BTreeMap<_, _> = desired
        .ports
        .iter()
        .map(|(id, port)| (*id, &port.name))
        .collect();
    let lines = desired.routes_of(id).map(|(prefix, route)| {
        let hop = match route.next_hop {
            NextHop::Local(port) => format!("local {}", names[&port]),
            NextHop::Connected(port) => format!("port {}", names[&port]),
            NextHop::Machine { port, address } => format!("machine {address} on {}", names[&port]),
            NextHop::Tunnel(tunnel) => format!("tunnel {}", desired.tunnels[&tunnel].name),
            NextHop::Group(group) => {
                let group = &desired.groups[&group];
                let members = group.members.iter().map(|(place, member)| {
                    let buckets = group.buckets.iter().filter(|of| *of == place).count();
                    format!("{} {buckets}", desired.tunnels[&member.tunnel].name)
                });
                format!("tunnels {}", members.collect::<Vec<_>>().join(", "))
            }
            NextHop::Peer(peer) => format!("peer {}", desired.networks[&peer].name),
            NextHop::Blackhole => "blackhole".to_owned(),
            NextHop::Unreachable => "unreachable".to_owned(),
        };
        format!("{prefix} {} {hop}", route.origin)
    });
    lines.collect()
}
