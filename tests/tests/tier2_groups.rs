//! Groups of tunnels, packet by packet: which of them a flow takes.
//!
//! Every frame goes through the kernel's program and through the same pipeline on the host. What is expected is built
//! and judged independently of `gre-common`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gre_common::counters::Owner;
use gre_common::id::{IfIndex, TunnelId};
use gre_common::verdict::DropReason;
use gre_model::example::{ASYMMETRIC_TUNNEL, RED_PORT, RED_TUNNEL, host, to};
use gre_tests::fixture::{Bench, gateway};
use gre_tests::frames::{
    correct_header_checksum, echo_reply, from_machine, hop, into_site, site, through, udp,
};
use gre_tests::packet::{self, Fields};

#[test]
fn a_flow_takes_one_tunnel_and_flows_take_all_by_their_shares() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let mut flows: BTreeMap<TunnelId, u32> = BTreeMap::new();
        for flow in 0..800 {
            let packet = packet_of(flow, to::GROUP, is_v6, b"first");
            let tunnel = tunnel_of(&mut gateway, &packet);
            *flows.entry(tunnel).or_default() += 1;
            let next = packet_of(flow, to::GROUP, is_v6, b"another one, and longer");
            gateway
                .machine_sends(RED_PORT, "same flow", &from_machine(RED_PORT, &next))
                .leaves(
                    Owner::Port(RED_PORT),
                    Owner::Tunnel(tunnel),
                    &into_site(&site(tunnel), &hop(&next), 0),
                );
        }
        // Two shares of four, one, and one.
        let shares = [
            (RED_TUNNEL[0], 400),
            (RED_TUNNEL[1], 200),
            (ASYMMETRIC_TUNNEL, 200),
        ];
        assert_near(&flows, &shares);
    }
}

#[test]
fn flows_of_a_dead_tunnel_are_shared_by_those_that_are_alive() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let mut flows: BTreeMap<TunnelId, u32> = BTreeMap::new();
        for flow in 0..800 {
            let packet = packet_of(flow, to::LAME_GROUP, is_v6, b"first");
            *flows.entry(tunnel_of(&mut gateway, &packet)).or_default() += 1;
        }
        assert_near(&flows, &[(RED_TUNNEL[1], 400), (ASYMMETRIC_TUNNEL, 400)]);
    }
}

#[test]
fn a_group_without_a_tunnel_that_is_alive_drops_with_a_reason_of_its_own() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        for destination in [to::DEAD_GROUP, to::ABSENT_GROUP] {
            let packet = packet_of(1, destination, is_v6, b"lost");
            gateway
                .machine_sends(RED_PORT, "from a port", &from_machine(RED_PORT, &packet))
                .is_dropped(Owner::Port(RED_PORT), DropReason::GroupDown);
            gateway
                .site_sends("from a tunnel", &through(RED_TUNNEL[0], &packet, 0))
                .is_dropped(Owner::Tunnel(RED_TUNNEL[0]), DropReason::GroupDown);
        }
    }
}

#[test]
fn fragments_of_a_packet_take_one_tunnel() {
    let Some(mut gateway) = gateway() else { return };
    for last in 2..30 {
        let (source, destination) = (host(to::HOME, 2, false), host(to::GROUP, last, false));
        let fragment = |ports, field: [u8; 2]| {
            let mut packet = packet::udp(source, destination, ports, Fields::default(), &[7; 64]);
            packet[6..8].copy_from_slice(&field);
            correct_header_checksum(&mut packet);
            packet
        };
        // More to come at 0; where the others have no ports at all, there are bytes that differ.
        let tunnels = [
            fragment((4000, 5000), [0x20, 0]),
            fragment((77, 88), [0x20, 9]),
            fragment((99, 1), [0, 18]),
        ]
        .map(|packet| tunnel_of(&mut gateway, &packet));
        assert_eq!(tunnels, [tunnels[0]; 3]);
    }
}

#[test]
fn packets_from_sites_and_the_gateways_own_replies_take_the_tunnel_of_their_flow() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        for last in 2..20 {
            let packet = udp(host(to::HOME, 2, is_v6), host(to::GROUP, last, is_v6));
            let tunnel = tunnel_of(&mut gateway, &packet);
            gateway
                .site_sends("tunnel to group", &through(RED_TUNNEL[0], &packet, 0))
                .leaves(
                    Owner::Tunnel(RED_TUNNEL[0]),
                    Owner::Tunnel(tunnel),
                    &into_site(&site(tunnel), &hop(&packet), 0),
                );

            let (asker, own) = (host(to::GROUP, last, is_v6), host(to::HOME, 1, is_v6));
            let request = packet::echo_request(asker, own, 1, last.into(), b"echo");
            let case = gateway.site_sends("echo", &through(RED_TUNNEL[0], &request, 0));
            let tunnel = sent_to(&case.seen.counted);
            let reply = echo_reply(own, asker, 1, last.into(), b"echo");
            case.leaves(
                Owner::Tunnel(RED_TUNNEL[0]),
                Owner::Tunnel(tunnel),
                &into_site(&site(tunnel), &reply, 0),
            );
            let other = packet::echo_request(asker, own, 1, 99, b"another echo");
            let case = gateway.site_sends("echo again", &through(RED_TUNNEL[1], &other, 0));
            assert_eq!(sent_to(&case.seen.counted), tunnel);
        }
    }
}

#[test]
fn a_group_of_a_peer_is_no_more_open_than_its_tunnels() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let packet = udp(
            host(to::HOME, 2, is_v6),
            host(to::THROUGH_GREENS_GROUP, 9, is_v6),
        );
        gateway
            .machine_sends(RED_PORT, "peer's group", &from_machine(RED_PORT, &packet))
            .is_dropped(Owner::Port(RED_PORT), DropReason::PeeringTransit);
    }
}

/// A packet of one of many flows, told apart by port or, every other one, by address.
fn packet_of(flow: u16, destination: u8, is_v6: bool, payload: &[u8]) -> Vec<u8> {
    let (source, port) = if flow.is_multiple_of(2) {
        (2, 20_000 + flow)
    } else {
        (flow as u8, 20_000 + flow / 256)
    };
    let ends: (IpAddr, IpAddr) = (host(to::HOME, source, is_v6), host(destination, 9, is_v6));
    packet::udp(ends.0, ends.1, (port, 443), Fields::default(), payload)
}

/// The tunnel that a packet of a machine leaves by.
#[track_caller]
fn tunnel_of(gateway: &mut Bench, packet: &[u8]) -> TunnelId {
    let device: IfIndex = gateway.both.devices.access;
    let seen = gateway.both.run(device, &from_machine(RED_PORT, packet));
    sent_to(&seen.counted)
}

#[track_caller]
fn sent_to(counted: &gre_model::Counters) -> TunnelId {
    let sent = counted.stats.iter().find_map(|(owner, stats)| match owner {
        Owner::Tunnel(id) if stats.transmit_packets > 0 => Some(*id),
        _ => None,
    });
    sent.unwrap_or_else(|| panic!("no tunnel has sent: {counted:?}"))
}

/// Each tunnel has about as many flows as expected, and no other has any: within five standard deviations, which chance
/// alone leaves once in a million runs. (Flows are the same in all runs.)
#[track_caller]
fn assert_near(flows: &BTreeMap<TunnelId, u32>, expected: &[(TunnelId, u32)]) {
    let total: u32 = flows.values().sum();
    assert_eq!(flows.len(), expected.len(), "{flows:?}");
    for (tunnel, expected) in expected {
        let share = f64::from(*expected) / f64::from(total);
        let deviation = (f64::from(total) * share * (1.0 - share)).sqrt();
        let found = f64::from(flows[tunnel]);
        assert!(
            (found - f64::from(*expected)).abs() < 5.0 * deviation,
            "{flows:?}"
        );
    }
}
