//! Tier 3: what happens on the underlay (CASES E4–E6, R6–R8), with a peer that judges every packet by the RFCs.

use std::net::{IpAddr, UdpSocket};

use gre_tests::can_use_namespaces;
use gre_tests::configuration as toml;
use gre_tests::gateway::{Gateway, Traffic};
use gre_tests::gre::{Header, Outer, Tunnel, internet_checksum};
use gre_tests::link::next_mac;
use gre_tests::packet::{self, ETHERNET_HEADER, Fields, contains};
use gre_tests::scenario::{
    NETWORK, Office, RunningOffice, TUNNEL, branch_address, machine_address, router_address,
};
use gre_tests::transfer;
use gre_tests::wait;
use gre_tests::wire::Wire;

/// E4: 4in4, 6in4, 4in6 and 6in6, each with pings and a TCP transfer in both directions.
#[test]
fn every_inner_family_crosses_every_outer_family() {
    if !can_use_namespaces() {
        return;
    }
    for outer_ipv6 in [false, true] {
        let running = Office::new(outer_ipv6, |tunnel| tunnel.with_key(1001)).start();
        let (machine, branch) = (
            &running.office.machine.namespace,
            &running.branch.insides[0],
        );
        for ipv6 in [false, true] {
            machine.expect_pings(branch_address(ipv6), 10, 63, "");
            branch.expect_pings(machine_address(ipv6), 10, 63, "");
            transfer::tcp(machine, branch, branch_address(ipv6), 2 << 20, 1).unwrap();
            transfer::tcp(branch, machine, machine_address(ipv6), 2 << 20, 2).unwrap();
        }
        running.branch.endpoint.assert_nothing_refused();
    }
}

/// E1, R1, R3, R4 on a real path: the peer requires key, checksum and sequence numbers without a gap, over both outer
/// families, and so does the gateway.
#[test]
fn checksums_and_sequence_numbers_hold_in_both_directions() {
    if !can_use_namespaces() {
        return;
    }
    for outer_ipv6 in [false, true] {
        let running = Office::new(outer_ipv6, |tunnel| {
            tunnel.with_key(7).with_checksum().with_sequence()
        })
        .start();
        let (machine, branch) = (
            &running.office.machine.namespace,
            &running.branch.insides[0],
        );
        transfer::tcp(machine, branch, branch_address(false), 4 << 20, 3).unwrap();
        transfer::tcp(branch, machine, machine_address(true), 4 << 20, 4).unwrap();
        running.branch.endpoint.assert_nothing_refused();
        let peer = running.branch.counters_as_of(&running.gateway, TUNNEL, 0);
        assert_eq!(peer.first_sequence, Some(0));
        assert_eq!(
            peer.last_sequence.map(u64::from),
            Some(peer.received_packets - 1)
        );
        let traffic = running.gateway.traffic("tunnel", TUNNEL);
        for reason in [
            "gre_checksum",
            "gre_checksum_missing",
            "sequence_missing",
            "sequence_old",
        ] {
            assert_eq!(traffic.dropped(reason), 0, "{traffic:?}");
        }
    }
}

/// E8: packets of one flow keep one IPv6 flow label, and different flows get different ones.
#[test]
fn the_outer_flow_label_follows_the_inner_flow() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(true, |tunnel| tunnel.with_key(1)).start();
    let endpoint = &running.branch.endpoint;
    let before = endpoint.counters(0);
    let wire = Wire::open(&running.office.machine.end);
    let frame = |source_port| {
        let inner = packet::udp(
            machine_address(false),
            branch_address(false),
            (source_port, 9),
            Fields::default(),
            b"flow",
        );
        packet::ethernet(
            running.office.machine.end.mac,
            running.office.machine.gateway.mac,
            None,
            &inner,
        )
    };
    let labels_once_received = |packets: u64| {
        let goal = before.received_packets + packets;
        wait::expect("the branch has received the packets", || {
            endpoint.counters(0).received_packets >= goal
        });
        endpoint.counters(0).flow_labels
    };
    (0..10).for_each(|_| wire.send(&frame(5000)));
    let one_flow = labels_once_received(10);
    assert!(
        one_flow.difference(&before.flow_labels).count() <= 1,
        "one flow, several labels: {before:?} → {one_flow:?}"
    );
    (6000..6100).for_each(|port| wire.send(&frame(port)));
    let many_flows = labels_once_received(110);
    let new = many_flows.difference(&one_flow).count();
    assert!(new >= 95, "a hundred flows have only {new} labels");
}

/// E5: the greatest packet passes, one byte more is dropped with its own reason and never seen on the underlay.
#[test]
fn a_packet_larger_than_the_tunnel_mtu_never_leaves() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    office.machine.end.set_mtu(1500);
    // The tunnel is the last section.
    let configuration = office.configuration() + "mtu = 1300\n";
    let gateway = Gateway::start(&office.namespace, &configuration);
    let branch = office
        .underlay
        .start_site(vec![(office.tunnel.clone(), &["10.11.30.65/26"])]);
    assert!(office.machine.namespace.reaches(branch_address(false)));
    assert_eq!(gateway.show_one("tunnel", TUNNEL)["mtu"], 1300);
    let before = gateway.traffic("tunnel", TUNNEL);
    let mut site = Wire::open(&office.underlay.site);
    let machine = &office.machine;
    // 28 bytes of IPv4 and ICMP headers.
    let exceeds = packet::echo_request(
        machine_address(false),
        branch_address(false),
        1,
        1,
        &[0; 1301 - 28],
    );
    let exceeds = packet::ethernet(machine.end.mac, machine.gateway.mac, None, &exceeds);
    Wire::open(&machine.end).send_all(&[&*exceeds; 3]);
    machine
        .namespace
        .expect_pings(branch_address(false), 3, 63, "-s 1272 -M dont");
    let traffic = gateway.traffic("tunnel", TUNNEL);
    assert_eq!(traffic.dropped("exceeds_tunnel_mtu"), 3, "{traffic:?}");
    assert_eq!(traffic.tx_dropped - before.tx_dropped, 3);
    let longest = site.drain().iter().map(Vec::len).max();
    assert_eq!(
        longest,
        Some(ETHERNET_HEADER + 1300 + office.tunnel.overhead())
    );
    branch.endpoint.assert_nothing_refused();
}

/// E6, first half: packets for a remote that nobody answers for are dropped; when it appears, traffic flows by itself.
#[test]
fn traffic_flows_by_itself_once_the_remote_can_be_resolved() {
    if !can_use_namespaces() {
        return;
    }
    for outer_ipv6 in [false, true] {
        let mut office = Office::new(outer_ipv6, |tunnel| tunnel.with_key(1001));
        let (absent, length) = if outer_ipv6 {
            ("2001:db8::77", 64)
        } else {
            ("198.51.100.77", 24)
        };
        office.tunnel.local = absent.parse().unwrap();
        let gateway = Gateway::start(&office.namespace, &office.configuration());
        let frame = office.frame_to_branch(b"too early");
        Wire::open(&office.machine.end).send_all(&[&*frame; 3]);
        office.machine.barrier();
        let traffic = gateway.traffic("tunnel", TUNNEL);
        assert_eq!(traffic.dropped("adjacency_unresolved"), 3, "{traffic:?}");
        assert_eq!(traffic.tx_packets, 0);
        assert_eq!(gateway.show_one("tunnel", TUNNEL)["state"], "down");

        office
            .underlay
            .site
            .add_address(&format!("{absent}/{length}"));
        let branch = office
            .underlay
            .start_site(vec![(office.tunnel.clone(), &["10.11.30.65/26"])]);
        assert!(
            office.machine.namespace.reaches(branch_address(false)),
            "the branch does not answer"
        );
        assert_eq!(gateway.show_one("tunnel", TUNNEL)["state"], "up");
        branch.endpoint.assert_nothing_refused();
    }
}

/// E6, second half: a remote that announces another MAC gets its packets there.
#[test]
fn a_new_mac_of_the_remote_is_followed() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let underlay = &running.office.underlay;
    // Else the kernel ignores an announcement within a second of the last change.
    let locktime = format!("ipv4/neigh/{}/locktime", underlay.gateway.device);
    running.office.namespace.sysctl(&locktime, "0");
    let mut site = underlay.site.clone();
    site.namespace.sysctl("ipv4/conf/wan/arp_notify", "1");
    let mut wire = Wire::open(&site);
    site.set_mac(next_mac());
    let machine = Wire::open(&running.office.machine.end);
    let frame = running.office.frame_to_branch(b"to the new MAC");
    wait::expect("packets go to the new MAC", || {
        machine.send(&frame);
        wire.drain()
            .iter()
            .any(|frame| frame[..6] == site.mac && outer(frame).is_some())
    });
}

/// R6: no fragment of an outer packet is ever taken for GRE, neither the first nor a later one.
#[test]
fn outer_fragments_are_dropped_with_their_own_reason() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let (wire, mut machine) = (
        Wire::open(&running.office.underlay.site),
        Wire::open(&running.office.machine.end),
    );
    machine.drain();
    let packet = running.office.frame_from_branch(b"fragment");
    for (fragment, word) in [0x2000_u16, 0x2005, 0x0005].into_iter().enumerate() {
        wire.send(&with_ipv4_fragment_word(&packet, word));
        let expected = fragment as u64 + 1;
        running.office.underlay.barrier();
        let counted = drops_everywhere(&running.gateway, "outer_fragment");
        assert_eq!(counted, expected);
    }
    wire.send(&running.office.frame_from_branch(b"whole"));
    let before = machine.before(b"whole");
    assert!(
        !before.iter().any(|frame| contains(frame, b"fragment")),
        "a fragment was taken for GRE"
    );
}

/// R7: addresses and key must all be a tunnel's; no key differs from key 0.
#[test]
fn packets_of_no_tunnel_are_dropped_as_unknown() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(0)).start();
    let (wire, mut machine) = (
        Wire::open(&running.office.underlay.site),
        Wire::open(&running.office.machine.end),
    );
    let ours = running.office.tunnel.clone();
    let strangers = [
        ("another key", ours.clone().with_key(1)),
        (
            "no key for a tunnel with key 0",
            Tunnel {
                transmit_key: None,
                ..ours.clone()
            },
        ),
        (
            "another remote",
            Tunnel {
                local: "198.51.100.99".parse().unwrap(),
                ..ours.clone()
            },
        ),
    ];
    let before = drops_everywhere(&running.gateway, "unknown_tunnel");
    for (number, (what, stranger)) in strangers.iter().enumerate() {
        wire.send(&underlay_frame(&running, stranger, what.as_bytes()));
        running.office.underlay.barrier();
        let counted = drops_everywhere(&running.gateway, "unknown_tunnel");
        assert_eq!(counted, before + number as u64 + 1, "{what}");
    }
    wire.send(&underlay_frame(&running, &ours, b"ours"));
    let before = machine.before(b"ours");
    for (what, _) in strangers {
        assert!(
            !before.iter().any(|frame| contains(frame, what.as_bytes())),
            "{what} reached the machine"
        );
    }
}

/// R7, the reverse: a tunnel without key takes no keyed packet, not even with key 0.
#[test]
fn a_keyed_packet_never_matches_an_unkeyed_tunnel() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel).start();
    let (wire, mut machine) = (
        Wire::open(&running.office.underlay.site),
        Wire::open(&running.office.machine.end),
    );
    for key in [0, 1001] {
        let keyed = running.office.tunnel.clone().with_key(key);
        wire.send(&underlay_frame(&running, &keyed, b"keyed"));
    }
    running.office.underlay.barrier();
    assert_eq!(drops_everywhere(&running.gateway, "unknown_tunnel"), 2);
    wire.send(&underlay_frame(&running, &running.office.tunnel, b"bare"));
    let before = machine.before(b"bare");
    assert!(!before.iter().any(|frame| contains(frame, b"keyed")));
}

/// R7, last sentence: GRE to another address of the host is the kernel's business; it arrives there unchanged.
#[test]
fn gre_to_an_address_that_is_not_ours_passes_to_the_kernel_untouched() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let mut kernel = Wire::open(&running.office.underlay.gateway);
    let wire = Wire::open(&running.office.underlay.site);
    running
        .office
        .underlay
        .gateway
        .add_address("198.51.100.9/24");
    let elsewhere = Tunnel {
        remote: "198.51.100.9".parse().unwrap(),
        ..running.office.tunnel.clone()
    };
    let frame = underlay_frame(&running, &elsewhere, b"not ours");
    let drops = drops_everywhere(&running.gateway, "unknown_tunnel");
    wire.send(&frame);
    let seen = kernel.expect("a frame that is not the gateway's", |frame| {
        contains(frame, b"not ours").then(|| frame.to_vec())
    });
    assert_eq!(seen, frame);
    assert_eq!(drops_everywhere(&running.gateway, "unknown_tunnel"), drops);
}

/// R8: thirty-two tunnels between one pair of addresses, whose keys differ in each direction, never take each other's
/// packets.
#[test]
fn many_tunnels_between_one_pair_of_addresses_are_told_apart_by_key() {
    if !can_use_namespaces() {
        return;
    }
    const TUNNELS: u8 = 32;
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let tunnels: Vec<Tunnel> = (0..TUNNELS)
        .map(|number| Tunnel {
            transmit_key: Some(2000 + u32::from(number)),
            receive_key: Some(4000 - u32::from(number)),
            ..running.office.tunnel.clone()
        })
        .collect();
    let mut configuration = running.office.configuration();
    for (number, tunnel) in tunnels.iter().enumerate() {
        configuration += &toml::tunnel(
            &format!("t{number}"),
            NETWORK,
            tunnel,
            &[&format!("10.20.0.{number}/32")],
        );
    }
    running.gateway.apply(&configuration);

    // Somebody must listen, or the machine answers with ICMP.
    let listener = (machine_address(false), 2);
    let _listener = running
        .office
        .machine
        .namespace
        .run(|| UdpSocket::bind(listener))
        .unwrap();
    let (mut site, mut machine) = (
        Wire::open(&running.office.underlay.site),
        Wire::open(&running.office.machine.end),
    );
    for (number, tunnel) in tunnels.iter().enumerate() {
        let behind: IpAddr = format!("10.20.0.{number}").parse().unwrap();
        let inner = packet::udp(
            machine_address(false),
            behind,
            (1, 2),
            Fields::default(),
            b"out",
        );
        machine.send(&packet::ethernet(
            running.office.machine.end.mac,
            running.office.machine.gateway.mac,
            None,
            &inner,
        ));
        let key = site.expect("a packet in a tunnel", |frame| {
            contains(frame, b"out").then(|| key_of(frame))?
        });
        assert_eq!(Some(key), tunnel.receive_key, "tunnel {number}");

        let inner = packet::udp(
            behind,
            machine_address(false),
            (1, 2),
            Fields::default(),
            b"in",
        );
        let mut outer = Vec::new();
        tunnel.encapsulate(&inner, 0, &mut outer);
        site.send(&packet::ethernet(
            running.office.underlay.site.mac,
            running.office.underlay.gateway.mac,
            None,
            &outer,
        ));
        machine.expect("a packet out of a tunnel", |frame| {
            contains(frame, b"in").then_some(())
        });
    }
    for number in 0..TUNNELS {
        let traffic = Traffic::of(&running.gateway.show_one("tunnel", &format!("t{number}")));
        assert_eq!(
            (traffic.rx_packets, traffic.tx_packets, traffic.rx_dropped),
            (1, 1, 0),
            "tunnel {number}"
        );
    }
}

/// What is not the gateway's on an underlay device works as if it were not there: a TCP connection to the host itself,
/// such as SSH, over both families and beside tunnel traffic.
#[test]
fn connections_to_the_host_itself_work_beside_the_tunnels() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let (host, gateway) = (&running.office.underlay.host, &running.office.namespace);
    for ipv6 in [false, true] {
        let address = running.office.underlay.gateway_address(ipv6);
        host.expect_pings(address, 5, 64, "");
        std::thread::scope(|scope| {
            let tunnelled = scope.spawn(|| {
                let (machine, branch) = (
                    &running.office.machine.namespace,
                    &running.branch.insides[0],
                );
                transfer::tcp(machine, branch, branch_address(ipv6), 2 << 20, 5)
            });
            transfer::tcp(host, gateway, address, 4 << 20, 6).unwrap();
            tunnelled.join().unwrap().unwrap();
        });
    }
    running.branch.endpoint.assert_nothing_refused();
}

/// E2: through a tunnel the gateway is one hop; a packet with TTL 1 is not forwarded, one with TTL 2 arrives with 1.
#[test]
fn a_packet_loses_one_hop_in_a_tunnel_and_ttl_1_goes_no_further() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let machine = &running.office.machine;
    let mut site = Wire::open(&running.office.underlay.site);
    let expired = || drops_everywhere(&running.gateway, "ttl_expired");
    for ipv6 in [false, true] {
        let before = expired();
        let fields = Fields { ttl: 1, tos: 0 };
        let (source, destination) = (machine_address(ipv6), branch_address(ipv6));
        let inner = packet::udp(source, destination, (1, 2), fields, b"last hop");
        Wire::open(&machine.end).send(&packet::ethernet(
            machine.end.mac,
            machine.gateway.mac,
            None,
            &inner,
        ));
        machine.barrier();
        assert_eq!(expired() - before, 1);
        let host = &machine.namespace;
        host.expect_pings(destination, 1, 63, "-t 2");
        host.expect_pings(router_address(ipv6), 1, 64, "");
    }
    // The pings followed on the same way.
    let left = site.drain();
    assert!(!left.iter().any(|frame| contains(frame, b"last hop")));
}

/// E7: a route that leads a tunnel's own remote into that tunnel encapsulates a packet once, not again and again.
#[test]
fn a_route_to_the_tunnels_own_remote_does_not_recurse() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let office = &running.office;
    let into_tunnel = format!("{{ tunnel = \"{TUNNEL}\" }}");
    running
        .gateway
        .apply(&(office.configuration() + &toml::route(NETWORK, "0.0.0.0/0", &into_tunnel)));
    let (wire, mut site) = (
        Wire::open(&office.machine.end),
        Wire::open(&office.underlay.site),
    );
    let before = running.gateway.traffic("tunnel", TUNNEL);
    let inner = packet::udp(
        machine_address(false),
        office.tunnel.local,
        (1, 2),
        Fields::default(),
        b"to the remote",
    );
    wire.send(&packet::ethernet(
        office.machine.end.mac,
        office.machine.gateway.mac,
        None,
        &inner,
    ));
    wire.send(&office.frame_to_branch(b"marker"));
    let mut seen = site.before(b"marker");
    seen.retain(|frame| contains(frame, b"to the remote"));
    let after = running.gateway.traffic("tunnel", TUNNEL);
    assert_eq!(after.tx_packets - before.tx_packets, 2);
    let [frame] = &seen[..] else {
        panic!("it left {} times", seen.len())
    };
    let payload = outer(frame).expect("it is in a tunnel").payload;
    let carried = &payload[Header::parse(payload).unwrap().length()..];
    assert_eq!(
        (carried[9], carried.len()),
        (17, inner.len()),
        "it was encapsulated once"
    );
    running.expect_reachable(false);
}

fn underlay_frame(running: &RunningOffice, tunnel: &Tunnel, payload: &[u8]) -> Vec<u8> {
    let inner = packet::udp(
        branch_address(false),
        machine_address(false),
        (1, 2),
        Fields::default(),
        payload,
    );
    let mut outer = Vec::new();
    tunnel.encapsulate(&inner, 0, &mut outer);
    let underlay = &running.office.underlay;
    packet::ethernet(underlay.site.mac, underlay.gateway.mac, None, &outer)
}

/// Packets dropped for one reason, whatever they are charged to.
fn drops_everywhere(gateway: &Gateway, reason: &str) -> u64 {
    let rows = gateway.show("drop");
    rows.iter()
        .filter(|row| row["reason"] == reason)
        .filter_map(|row| row["packets"].as_u64())
        .sum()
}

fn with_ipv4_fragment_word(frame: &[u8], word: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let header = &mut frame[ETHERNET_HEADER..ETHERNET_HEADER + 20];
    header[6..8].copy_from_slice(&word.to_be_bytes());
    header[10..12].fill(0);
    let sum = internet_checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn outer(frame: &[u8]) -> Option<Outer<'_>> {
    Outer::parse(frame.get(ETHERNET_HEADER..)?).ok().flatten()
}

fn key_of(frame: &[u8]) -> Option<u32> {
    Header::parse(outer(frame)?.payload).ok()?.key
}
