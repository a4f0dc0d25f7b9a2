//! The harness itself, without a gateway: the independent endpoints understand each other, VLAN stations are apart, and
//! a stream on a bare link loses nothing. What fails here makes every other tier 3 result worthless.

use std::net::{IpAddr, UdpSocket};

use gre_tests::can_use_namespaces;
use gre_tests::gre::{Refusal, Tunnel};
use gre_tests::gre_peer::{Endpoint, Site};
use gre_tests::link::{Switch, Veth, display_mac};
use gre_tests::netns::Namespace;
use gre_tests::packet::{self, Fields};
use gre_tests::stream::{self, Path, Stream};
use gre_tests::transfer;
use gre_tests::wait;
use serde_json::Value;

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
            for address in [
                format!("10.0.0.{}/24", ours + 1),
                format!("fd00::{}/64", ours + 1),
            ] {
                insides[ours].add_address("lan", &address);
            }
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
            sites.insides[0].expect_pings(destination.parse().unwrap(), 5, 64, "");
        }
        for endpoint in &sites.endpoints {
            endpoint.assert_nothing_refused();
        }
        wait::expect(
            &format!("both have counted the same, options {bits:04b}"),
            || {
                let [sent, received] = [0, 1].map(|end| sites.endpoints[end].counters(0));
                (sent.sent_packets, sent.sent_bytes)
                    == (received.received_packets, received.received_bytes)
            },
        );
        let sent = sites.endpoints[0].counters(0);
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
    sites.insides[0].try_sh("ping -n -c 3 -i 0.01 -W 0.01 10.0.0.2");
    wait::expect("the packets are refused", || {
        let refused = sites.endpoints[1].refused();
        refused.get(&Refusal::UnknownTunnel) >= Some(&3)
    });
    assert_eq!(sites.endpoints[1].counters(0).received_packets, 0);
}

#[test]
fn tcp_through_two_endpoints_arrives_intact() {
    if !can_use_namespaces() {
        return;
    }
    let sites = TwoSites::new(|tunnel| tunnel.with_key(1).with_checksum(), false);
    let [client, server] = &sites.insides;
    transfer::tcp(client, server, "10.0.0.2".parse().unwrap(), 32 << 20, 1).unwrap();
}

#[test]
fn stations_on_a_vlan_reach_each_other_and_no_other_vlan() {
    if !can_use_namespaces() {
        return;
    }
    let stations = ["a", "b", "c", "d"].map(Namespace::new);
    let mut switch = Switch::new("switch");
    let (mut programs, mut ends) = (Vec::new(), Vec::new());
    for (number, (station, vlan)) in stations.iter().zip([100, 100, 200, 200]).enumerate() {
        let end = switch.connect(station, "eth0");
        programs.push(end.join_vlan(vlan));
        end.add_address(&format!("10.0.0.{}/24", number + 1));
        ends.push(end);
    }
    for (from, to) in [(0, "10.0.0.2"), (3, "10.0.0.3")] {
        assert!(
            stations[from].reaches(to.parse().unwrap()),
            "the same VLAN must be reachable"
        );
    }
    // A station of one VLAN sends to one of the other, whose address it knows, then to one of its own. When that has
    // arrived, the first has been on its way; still the first that the other station takes is from its own VLAN.
    let mac = display_mac(ends[2].mac);
    stations[0].sh(&format!("ip neigh replace 10.0.0.3 lladdr {mac} dev eth0"));
    let listen = |number: usize| {
        stations[number]
            .run(|| UdpSocket::bind("0.0.0.0:9"))
            .unwrap()
    };
    let (near, other) = (listen(1), listen(2));
    send_udp(&stations[0], "10.0.0.3:9", b"across");
    send_udp(&stations[0], "10.0.0.2:9", b"within");
    assert_eq!(received(&near), b"within");
    send_udp(&stations[3], "10.0.0.3:9", b"within");
    assert_eq!(received(&other), b"within");
}

fn send_udp(station: &Namespace, to: &str, text: &[u8]) {
    let socket = station.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.send_to(text, to).unwrap();
}

fn received(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 64];
    socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

#[test]
fn a_stream_on_a_bare_link_loses_nothing() {
    if !can_use_namespaces() {
        return;
    }
    let hosts = [Namespace::new("from"), Namespace::new("to")];
    let link = Veth::new((&hosts[0], "eth0"), (&hosts[1], "eth0"));
    let _programs = [link.near.face_gateway(), link.far.face_gateway()];
    let frame = packet::ethernet(link.near.mac, link.far.mac, None, &stream_packet());
    let stream = Stream::start(
        Path {
            from: &link.near,
            egress: &link.near,
            to: &link.far,
        },
        frame,
        stream::FULL_RATE,
    );
    stream.flow(50_000);
    let report = stream.stop();
    println!("{report:?}");
    report.assert_nothing_lost();
    assert_eq!((report.lost, report.late), (0, 0), "{report:?}");
}

/// What fails the suites that run beside a stream: packets that nobody counted are missing.
#[test]
fn a_stream_tells_of_packets_that_were_lost_on_its_way() {
    if !can_use_namespaces() {
        return;
    }
    let hosts = [Namespace::new("from"), Namespace::new("to")];
    let link = Veth::new((&hosts[0], "eth0"), (&hosts[1], "eth0"));
    let frame = packet::ethernet(link.near.mac, link.far.mac, None, &stream_packet());
    let path = Path {
        from: &link.near,
        egress: &link.near,
        to: &link.far,
    };
    let stream = Stream::start(path, frame, stream::FULL_RATE);
    stream.flow(1000);
    hosts[0].sh("tc qdisc replace dev eth0 root blackhole");
    wait::expect("packets have been lost", || {
        let queues = hosts[0].sh("tc -j -s qdisc show dev eth0");
        let queues: Value = serde_json::from_str(&queues).unwrap();
        queues[0]["drops"].as_u64() > Some(0)
    });
    hosts[0].sh("tc qdisc replace dev eth0 root pfifo limit 10000");
    stream.flow(1000);
    let report = stream.stop();
    println!("{report:?}");
    assert_eq!((report.overflowed, report.overruns), (0, 0), "{report:?}");
    assert_eq!(report.received + report.lost, report.sent, "{report:?}");
    assert!(report.lost > 0, "{report:?}");
}

/// A packet of stream 1.
fn stream_packet() -> Vec<u8> {
    packet::udp(
        "10.0.0.1".parse().unwrap(),
        "10.0.0.2".parse().unwrap(),
        (1000, 9),
        Fields::default(),
        &stream::payload(1, 64),
    )
}
