//! The harness itself, without a gateway: the independent endpoints understand each other, VLAN stations are apart, and
//! a stream on a bare link loses nothing. What fails here makes every other tier 3 result worthless.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use gre_tests::can_use_namespaces;
use gre_tests::gre::{Refusal, Tunnel};
use gre_tests::gre_peer::{Endpoint, Site};
use gre_tests::link::{Switch, Veth};
use gre_tests::netns::Namespace;
use gre_tests::packet::{self, Fields};
use gre_tests::stream::{self, Path, Stream};
use gre_tests::transfer;

/// Two sites on one cable, each with the other as its gateway.
struct TwoSites {
    insides: [Namespace; 2],
    endpoints: [Endpoint; 2],
    _hosts: [Namespace; 2],
}

impl TwoSites {
    fn new(options: impl Fn(Tunnel) -> Tunnel, ipv6: bool) -> Self {
        let hosts = [Namespace::new("left"), Namespace::new("right")];
        let link = Veth::new((&hosts[0], "wan"), (&hosts[1], "wan"));
        let outer: [IpAddr; 2] = if ipv6 {
            ["2001:db8::1", "2001:db8::2"]
        } else {
            ["192.0.2.1", "192.0.2.2"]
        }
        .map(|address| address.parse().unwrap());
        let length = if ipv6 { 64 } else { 24 };
        link.near.add_address(&format!("{}/{length}", outer[0]));
        link.far.add_address(&format!("{}/{length}", outer[1]));
        let insides = [Namespace::new("left-in"), Namespace::new("right-in")];
        let endpoints = [(&link.near, 0, 1), (&link.far, 1, 0)].map(|(end, ours, theirs)| {
            let tunnel = options(Tunnel::new(outer[ours], outer[theirs]));
            let site = Site::with_tun(tunnel, &insides[ours], "lan", 1400).unwrap();
            insides[ours].sh(&format!("ip address add 10.0.0.{}/24 dev lan", ours + 1));
            insides[ours].sh(&format!(
                "ip address add fd00::{}/64 dev lan nodad",
                ours + 1
            ));
            Endpoint::start(end, vec![site]).unwrap()
        });
        Self {
            insides,
            endpoints,
            _hosts: hosts,
        }
    }
}

#[test]
fn independent_endpoints_understand_each_other_with_every_option_and_family() {
    if !can_use_namespaces() {
        return;
    }
    for bits in 0..16 {
        let options = |tunnel: Tunnel| Tunnel {
            checksum: bits & 1 != 0,
            sequence: bits & 2 != 0,
            transmit_key: (bits & 4 != 0).then_some(0xdead_beef),
            receive_key: (bits & 4 != 0).then_some(0xdead_beef),
            ..tunnel
        };
        let sites = TwoSites::new(options, bits & 8 != 0);
        for destination in ["10.0.0.2", "fd00::2"] {
            let ping = sites.insides[0].ping(destination.parse().unwrap(), "-c 5 -i 0.01 -W 1");
            assert_eq!(
                (ping.sent, ping.received, ping.ttl),
                (5, 5, Some(64)),
                "options {bits:04b}: {}",
                ping.text
            );
        }
        for endpoint in &sites.endpoints {
            endpoint.assert_nothing_refused();
        }
        let (sent, received) = (
            sites.endpoints[0].counters(0),
            sites.endpoints[1].counters(0),
        );
        assert_eq!(
            (sent.sent_packets, sent.sent_bytes),
            (received.received_packets, received.received_bytes)
        );
        assert!(sent.sent_packets >= 10, "{sent:?}");
    }
}

#[test]
fn an_endpoint_refuses_what_its_tunnel_does_not_allow() {
    if !can_use_namespaces() {
        return;
    }
    let sites = TwoSites::new(
        |tunnel| {
            if tunnel.local.to_string().ends_with('1') {
                tunnel.with_key(7)
            } else {
                tunnel.with_key(8)
            }
        },
        false,
    );
    let ping = sites.insides[0].ping("10.0.0.2".parse().unwrap(), "-c 3 -i 0.01 -W 0.2");
    assert_eq!(ping.received, 0);
    assert_eq!(
        sites.endpoints[1].refused().get(&Refusal::UnknownTunnel),
        Some(&3)
    );
}

#[test]
fn tcp_through_two_endpoints_arrives_intact() {
    if !can_use_namespaces() {
        return;
    }
    let sites = TwoSites::new(|tunnel| tunnel.with_key(1).with_checksum(), false);
    let [client, server] = &sites.insides;
    let start = Instant::now();
    transfer::tcp(client, server, "10.0.0.2".parse().unwrap(), 32 << 20, 1).unwrap();
    let elapsed = start.elapsed();
    let packets =
        sites.endpoints[0].counters(0).sent_packets + sites.endpoints[1].counters(0).sent_packets;
    let rate = packets as f64 / elapsed.as_secs_f64();
    println!("{packets} packets in {elapsed:?}: {rate:.0} packets/s");
}

#[test]
fn stations_on_a_vlan_reach_each_other_and_no_other_vlan() {
    if !can_use_namespaces() {
        return;
    }
    let stations = ["a", "b", "c"].map(Namespace::new);
    let mut switch = Switch::new("switch");
    let mut programs = Vec::new();
    for (number, (station, vlan)) in stations.iter().zip([100, 100, 200]).enumerate() {
        let end = switch.connect(station, "eth0");
        programs.push(end.join_vlan(vlan));
        end.add_address(&format!("10.0.0.{}/24", number + 1));
    }
    assert!(
        stations[0].reaches("10.0.0.2".parse().unwrap(), 5),
        "the same VLAN must be reachable"
    );
    assert!(
        !stations[0].reaches("10.0.0.3".parse().unwrap(), 2),
        "another VLAN must not"
    );
}

#[test]
fn a_stream_of_a_hundred_thousand_packets_a_second_on_a_bare_link_loses_nothing() {
    if !can_use_namespaces() {
        return;
    }
    let hosts = [Namespace::new("from"), Namespace::new("to")];
    let link = Veth::new((&hosts[0], "eth0"), (&hosts[1], "eth0"));
    let _programs = [link.near.face_gateway(), link.far.face_gateway()];
    let inner = packet::udp(
        "10.0.0.1".parse().unwrap(),
        "10.0.0.2".parse().unwrap(),
        (1000, 9),
        Fields::default(),
        &stream::payload(1, 64),
    );
    let frame = packet::ethernet(link.near.mac, link.far.mac, None, &inner);
    let stream = Stream::start(
        Path {
            from: &link.near,
            egress: &link.near,
            to: &link.far,
        },
        frame,
        stream::FULL_RATE,
    );
    std::thread::sleep(Duration::from_secs(1));
    let report = stream.stop();
    println!("{report:?}");
    report.assert_lossless(stream::FULL_RATE);
}
