//! Networks, ports, routes and peerings, packet by packet, and the wire that a frame leaves on.
//!
//! Every frame goes through the kernel's program and through the same pipeline on the host. What is expected is built
//! and judged independently of `gre-common`.

use std::net::{IpAddr, Ipv6Addr};

use gre_common::counters::Owner;
use gre_common::event::Event;
use gre_common::event_budget::EventBudget;
use gre_common::id::{Address, MacAddress};
use gre_common::verdict::DropReason;
use gre_model::example::{
    self, ABSENT_TUNNEL, BLUE_PORT, BLUE_TUNNEL, DETACHED_PORT, GREEN_PORT, NARROW_PORT, Options,
    RED_PORT, RED_TUNNEL, ROUTER_MAC, TRUNK_MAC, UNDERLAY_MAC, YELLOW_PORT, host, to,
};
use gre_tests::both_sides::BothSides;
use gre_tests::fixture::gateway;
use gre_tests::frames::{
    self, ADVERTISEMENT, ARP_REPLY, ARP_REQUEST, BROADCAST, SOLICITATION, arp, discovery,
    echo_reply, from_machine, hop, icmpv6, into_site, ipv4, ipv6, site, solicited_node, through,
    to_machine, udp, with_ttl,
};
use gre_tests::kernel_gateway::KernelGateway;
use gre_tests::link::Mac;
use gre_tests::packet::{self, ETHERNET_HEADER, Fields};
use gre_tests::wire::Wire;

const RED: Owner = Owner::Tunnel(RED_TUNNEL[0]);

#[test]
fn n1_two_networks_with_the_same_addresses_never_mix() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let inner = udp(host(to::HOME, 2, is_v6), host(to::SITE_OVER_V4, 9, is_v6));
        for (port, tunnel) in [(RED_PORT, RED_TUNNEL[0]), (BLUE_PORT, BLUE_TUNNEL[0])] {
            gateway
                .machine_sends(port, &format!("port {port}"), &from_machine(port, &inner))
                .leaves(
                    Owner::Port(port),
                    Owner::Tunnel(tunnel),
                    &into_site(&site(tunnel), &hop(&inner), 0),
                );
        }
    }
}

#[test]
fn n3_each_vlan_of_a_device_is_its_own_network() {
    let Some(mut gateway) = gateway() else { return };
    // The same destination is a peered machine in green's table, and nothing in blue's.
    let packet = udp(host(to::HOME, 2, false), host(to::YELLOW, 2, false));
    gateway
        .machine_sends(BLUE_PORT, "VLAN 100", &from_machine(BLUE_PORT, &packet))
        .is_dropped(Owner::Port(BLUE_PORT), DropReason::NoRoute);
    gateway
        .machine_sends(GREEN_PORT, "VLAN 200", &from_machine(GREEN_PORT, &packet))
        .leaves(
            Owner::Port(GREEN_PORT),
            Owner::Port(YELLOW_PORT),
            &to_machine(YELLOW_PORT, &packet),
        );
}

#[test]
fn n3_a_tag_that_no_port_has_passes_to_the_kernel() {
    let Some(mut gateway) = gateway() else { return };
    let packet = udp(host(to::HOME, 2, false), host(to::SITE_OVER_V4, 9, false));
    let frame = |mac: MacAddress, vlan| packet::ethernet([2; 6], mac.0, vlan, &packet);
    let trunk = gateway.both.devices.trunk;
    for vlan in [None, Some(1), Some(999), Some(4095)] {
        let frame = frame(TRUNK_MAC, vlan);
        gateway
            .run(trunk, &format!("trunk, {vlan:?}"), &frame)
            .passes(&frame);
    }
    let tagged = frame(example::ACCESS_MAC, Some(100));
    gateway
        .machine_sends(RED_PORT, "a tag on an untagged port", &tagged)
        .passes(&tagged);
    let tagged = packet::ethernet(
        ROUTER_MAC.0,
        UNDERLAY_MAC.0,
        Some(7),
        &through(RED_TUNNEL[0], &packet, 0)[ETHERNET_HEADER..],
    );
    gateway
        .site_sends("a tag on the underlay", &tagged)
        .passes(&tagged);
}

#[test]
fn n3_a_priority_tag_is_no_vlan() {
    let Some(mut gateway) = gateway() else { return };
    let packet = udp(host(to::HOME, 2, false), host(to::SITE_OVER_V4, 9, false));
    let mut frame = packet::ethernet([2; 6], example::ACCESS_MAC.0, Some(0), &packet);
    frame[14] = 0xa0;
    gateway
        .machine_sends(RED_PORT, "priority 5", &frame)
        .leaves(
            Owner::Port(RED_PORT),
            RED,
            &into_site(&site(RED_TUNNEL[0]), &hop(&packet), 0),
        );
    let mut frame = from_machine(BLUE_PORT, &packet);
    frame[14] |= 0xe0;
    gateway
        .machine_sends(BLUE_PORT, "priority 7 beside VLAN 100", &frame)
        .leaves(
            Owner::Port(BLUE_PORT),
            Owner::Tunnel(BLUE_TUNNEL[0]),
            &into_site(&site(BLUE_TUNNEL[0]), &hop(&packet), 0),
        );
}

#[test]
fn n4_arp_for_the_gateways_address_is_answered_on_each_port() {
    let Some(mut gateway) = gateway() else { return };
    for port in [RED_PORT, BLUE_PORT] {
        let machine = example::machine_mac(port).0;
        let own = frames::port_mac(port);
        let (asker, asked) = (
            ipv4(host(to::HOME, 2, false)),
            ipv4(host(to::HOME, 1, false)),
        );
        let vlan = frames::vlan(port);
        let request = arp(
            (machine, BROADCAST),
            vlan,
            ARP_REQUEST,
            (machine, asker),
            ([0; 6], asked),
        );
        let reply = arp(
            (own, machine),
            vlan,
            ARP_REPLY,
            (own, asked),
            (machine, asker),
        );
        gateway
            .machine_sends(port, &format!("port {port}"), &request)
            .answers(&reply);
    }
}

#[test]
fn n4_arp_for_other_addresses_passes_to_the_kernel() {
    let Some(mut gateway) = gateway() else { return };
    let machine = example::machine_mac(RED_PORT).0;
    let asker = ipv4(host(to::HOME, 2, false));
    for asked in [
        host(to::HOME, 2, false),
        host(to::HOME, 77, false),
        host(to::NOWHERE, 1, false),
    ] {
        let request = arp(
            (machine, BROADCAST),
            None,
            ARP_REQUEST,
            (machine, asker),
            ([0; 6], ipv4(asked)),
        );
        gateway
            .machine_sends(RED_PORT, &format!("{asked}"), &request)
            .passes(&request);
    }
    // Not IPv4 over Ethernet.
    let asked = ipv4(host(to::HOME, 1, false));
    let mut request = arp(
        (machine, BROADCAST),
        None,
        ARP_REQUEST,
        (machine, asker),
        ([0; 6], asked),
    );
    request[ETHERNET_HEADER + 1] = 6;
    gateway
        .machine_sends(RED_PORT, "hardware type 6", &request)
        .passes(&request);
}

#[test]
fn n4_machines_are_learnt_from_arp() {
    let Some(mut gateway) = gateway() else { return };
    let own = example::ACCESS_MAC.0;
    let gateway_address = ipv4(host(to::HOME, 1, false));
    let new = [2, 7, 7, 7, 7, 7];
    let known = example::machine_mac(RED_PORT).0;
    // Address, MAC, whether that is news when it asks.
    let senders = [
        (77, new, true),
        (2, known, false),
        (2, new, true),
        (3, new, true),
    ];
    for (number, mac, is_news) in senders {
        let address = host(to::HOME, number, false);
        let seen = Event::seen(RED_PORT, address.into(), MacAddress(mac));
        let request = arp(
            (mac, BROADCAST),
            None,
            ARP_REQUEST,
            (mac, ipv4(address)),
            ([0; 6], gateway_address),
        );
        let case = gateway.machine_sends(RED_PORT, &format!("request of {address}"), &request);
        assert_eq!(
            case.seen.events,
            if is_news { vec![seen] } else { vec![] },
            "{}",
            case.name
        );
        // An answer to our question is always told: the daemon waits for it.
        let reply = arp(
            (mac, own),
            None,
            ARP_REPLY,
            (mac, ipv4(address)),
            (own, gateway_address),
        );
        let case = gateway.machine_sends(RED_PORT, &format!("reply of {address}"), &reply);
        assert_eq!(case.seen.events, [seen], "{}", case.name);
        case.is_used_up();
    }
    let foreign = ipv4(host(to::NOWHERE, 5, false));
    for (name, mac, address) in [
        ("an address of no subnet of the port", new, foreign),
        (
            "a group address as MAC",
            [3, 0, 0, 0, 0, 1],
            ipv4(host(to::HOME, 77, false)),
        ),
        ("the gateway's own address", new, gateway_address),
        (
            "the gateway's own MAC",
            example::ACCESS_MAC.0,
            ipv4(host(to::HOME, 77, false)),
        ),
    ] {
        let request = arp(
            (mac, BROADCAST),
            None,
            ARP_REQUEST,
            (mac, address),
            ([0; 6], gateway_address),
        );
        assert_eq!(
            gateway.machine_sends(RED_PORT, name, &request).seen.events,
            [],
            "{name}"
        );
    }
}

#[test]
fn n4_a_solicitation_for_the_gateways_address_is_answered_on_each_port() {
    let Some(mut gateway) = gateway() else { return };
    for port in [RED_PORT, BLUE_PORT] {
        let machine = example::machine_mac(port).0;
        let own = frames::port_mac(port);
        let (asker, asked) = (ipv6(host(to::HOME, 2, true)), ipv6(host(to::HOME, 1, true)));
        let (group, group_mac) = solicited_node(asked);
        let frame = |ends: (Mac, Mac), packet: &[u8]| {
            packet::ethernet(ends.0, ends.1, frames::vlan(port), packet)
        };
        // Flags: router, solicited, override (RFC 4861 §4.4). Option 2: target link-layer address.
        let answer = |to, flags| {
            icmpv6(
                asked,
                to,
                255,
                &discovery(ADVERTISEMENT, flags, asked, Some((2, own))),
            )
        };
        for option in [Some((1, machine)), None] {
            let question = icmpv6(
                asker,
                group,
                255,
                &discovery(SOLICITATION, 0, asked, option),
            );
            gateway
                .machine_sends(
                    port,
                    "asked by multicast",
                    &frame((machine, group_mac), &question),
                )
                .answers(&frame((own, machine), &answer(asker, 0xe0)));
            let question = icmpv6(
                asker,
                asked,
                255,
                &discovery(SOLICITATION, 0, asked, option),
            );
            gateway
                .machine_sends(port, "asked by unicast", &frame((machine, own), &question))
                .answers(&frame((own, machine), &answer(asker, 0xe0)));
        }
        let detection = icmpv6(
            Ipv6Addr::UNSPECIFIED,
            group,
            255,
            &discovery(SOLICITATION, 0, asked, None),
        );
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        gateway
            .machine_sends(
                port,
                "duplicate address detection",
                &frame((machine, group_mac), &detection),
            )
            .answers(&frame(
                (own, [0x33, 0x33, 0, 0, 0, 1]),
                &answer(all_nodes, 0xa0),
            ));
    }
}

#[test]
fn n4_a_solicitation_that_rfc_4861_calls_invalid_is_not_answered() {
    let Some(mut gateway) = gateway() else { return };
    let machine = example::machine_mac(RED_PORT).0;
    let (asker, asked) = (ipv6(host(to::HOME, 2, true)), ipv6(host(to::HOME, 1, true)));
    let (group, group_mac) = solicited_node(asked);
    let message = discovery(SOLICITATION, 0, asked, Some((1, machine)));
    let good = icmpv6(asker, group, 255, &message);
    let mut wrong_checksum = good.clone();
    wrong_checksum[42] ^= 1;
    let mut code = message.clone();
    code[1] = 1;
    let invalid = [
        ("hop limit 254", icmpv6(asker, group, 254, &message)),
        ("checksum", wrong_checksum),
        ("code 1", icmpv6(asker, group, 255, &code)),
        ("23 bytes", icmpv6(asker, group, 255, &message[..23])),
        (
            "another target",
            icmpv6(asker, group, 255, &discovery(SOLICITATION, 0, asker, None)),
        ),
    ];
    for (name, packet) in invalid {
        let frame = packet::ethernet(machine, group_mac, None, &packet);
        gateway.machine_sends(RED_PORT, name, &frame).passes(&frame);
    }
}

#[test]
fn n4_machines_are_learnt_from_neighbour_discovery() {
    let Some(mut gateway) = gateway() else { return };
    let own = example::ACCESS_MAC.0;
    let asked = ipv6(host(to::HOME, 1, true));
    let (group, group_mac) = solicited_node(asked);
    let new = [2, 7, 7, 7, 7, 7];
    for (number, is_known) in [(77, false), (2, false), (3, false)] {
        let address = ipv6(host(to::HOME, number, true));
        let seen = Event::seen(RED_PORT, IpAddr::from(address).into(), MacAddress(new));
        let question = icmpv6(
            address,
            group,
            255,
            &discovery(SOLICITATION, 0, asked, Some((1, new))),
        );
        let case = gateway.machine_sends(
            RED_PORT,
            "question",
            &packet::ethernet(new, group_mac, None, &question),
        );
        assert_eq!(case.seen.events, if is_known { vec![] } else { vec![seen] });
        let answer = icmpv6(
            address,
            asked,
            255,
            &discovery(ADVERTISEMENT, 0x60, address, Some((2, new))),
        );
        let case = gateway.machine_sends(
            RED_PORT,
            "answer",
            &packet::ethernet(new, own, None, &answer),
        );
        assert_eq!(case.seen.events, [seen]);
        case.is_used_up();
    }
}

#[test]
fn n4_echo_requests_for_the_gateways_address_are_answered_in_each_network() {
    let Some(mut gateway) = gateway() else { return };
    for port in [RED_PORT, BLUE_PORT] {
        for is_v6 in [false, true] {
            let (machine, own) = (host(to::HOME, 2, is_v6), host(to::HOME, 1, is_v6));
            let request = packet::echo_request(machine, own, 7, 8, b"are you there?");
            let reply = echo_reply(own, machine, 7, 8, b"are you there?");
            gateway
                .machine_sends(port, &format!("port {port}"), &from_machine(port, &request))
                .leaves(
                    Owner::Port(port),
                    Owner::Port(port),
                    &to_machine(port, &reply),
                );
        }
    }
    for is_v6 in [false, true] {
        let (far, own) = (host(to::SITE_OVER_V6, 9, is_v6), host(to::HOME, 1, is_v6));
        let request = packet::echo_request(far, own, 7, 8, b"and from afar?");
        let reply = echo_reply(own, far, 7, 8, b"and from afar?");
        let owner = Owner::Tunnel(RED_TUNNEL[1]);
        gateway
            .site_sends("through a tunnel", &through(RED_TUNNEL[1], &request, 0))
            .leaves(owner, owner, &into_site(&site(RED_TUNNEL[1]), &reply, 0));
    }
}

#[test]
fn n4_echo_requests_of_all_sizes_and_behind_extension_headers_are_answered() {
    let Some(mut gateway) = gateway() else { return };
    let mut answered = |name: &str, request: &[u8], reply: &[u8]| {
        let owner = Owner::Port(RED_PORT);
        gateway
            .machine_sends(RED_PORT, name, &from_machine(RED_PORT, request))
            .leaves(owner, owner, &to_machine(RED_PORT, reply));
    };
    for is_v6 in [false, true] {
        let (machine, own) = (host(to::HOME, 2, is_v6), host(to::HOME, 1, is_v6));
        for size in [0, 1, 503, 504, 505, 1001, 1472, 3000] {
            let data: Vec<u8> = (0..size).map(|number: u32| number as u8).collect();
            answered(
                &format!("{size} bytes"),
                &packet::echo_request(machine, own, 7, 8, &data),
                &echo_reply(own, machine, 7, 8, &data),
            );
        }
    }
    let (machine, own) = (host(to::HOME, 2, true), host(to::HOME, 1, true));
    let [request, reply] = [
        packet::echo_request(machine, own, 7, 8, b"options"),
        echo_reply(own, machine, 7, 8, b"options"),
    ]
    .map(|packet| frames::with_inner_hop_by_hop_options(&packet));
    answered("hop-by-hop options", &request, &reply);
}

#[test]
fn n4_an_echo_request_that_was_damaged_is_not_answered() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let (machine, own) = (host(to::HOME, 2, is_v6), host(to::HOME, 1, is_v6));
        let mut request = packet::echo_request(machine, own, 7, 8, b"whole");
        *request.last_mut().expect("it has data") ^= 1;
        gateway
            .machine_sends(RED_PORT, "damaged", &from_machine(RED_PORT, &request))
            .is_dropped(Owner::Port(RED_PORT), DropReason::EchoChecksum);
    }
}

#[test]
fn n4_other_packets_for_the_gateways_address_drop_for_their_own_reason() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let (machine, own) = (host(to::HOME, 2, is_v6), host(to::HOME, 1, is_v6));
        let request = packet::echo_request(machine, own, 7, 8, b"");
        let mut code = request.clone();
        code[if is_v6 { 41 } else { 21 }] = 1;
        let mut short = request.clone();
        short.pop();
        if is_v6 {
            short[5] -= 1;
        } else {
            short[3] -= 1;
            frames::correct_header_checksum(&mut short);
        }
        let packets = [
            ("UDP", udp(machine, own)),
            ("an echo reply", echo_reply(machine, own, 1, 1, b"")),
            ("an echo request with a code", code),
            ("an echo request without all of its header", short),
        ];
        for (name, packet) in packets {
            gateway
                .machine_sends(RED_PORT, name, &from_machine(RED_PORT, &packet))
                .is_dropped(Owner::Port(RED_PORT), DropReason::LocalUnsupported);
        }
    }
}

#[test]
fn n4_a_packet_for_an_unresolved_machine_drops_and_the_daemon_is_told() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        // 3 has an entry without an address, 88 has none.
        for number in [3, 88] {
            let machine = host(to::HOME, number, is_v6);
            let inner = udp(host(to::SITE_OVER_V4, 9, is_v6), machine);
            let case =
                gateway.site_sends(&format!("{machine}"), &through(RED_TUNNEL[0], &inner, 0));
            case.is_dropped_on_the_way_out(
                RED,
                Owner::Port(RED_PORT),
                DropReason::NeighbourUnresolved,
            );
            assert_eq!(
                case.seen.events,
                [Event::missing(RED_PORT, Address::from(machine))]
            );
        }
    }
}

#[test]
fn n4_a_machine_can_be_sent_to_as_soon_as_it_has_asked_for_the_gateway() {
    let Some(mut gateway) = gateway() else { return };
    let (machine, mac) = (host(to::HOME, 88, false), [2, 8, 8, 8, 8, 8]);
    let question = arp(
        (mac, BROADCAST),
        None,
        ARP_REQUEST,
        (mac, ipv4(machine)),
        ([0; 6], ipv4(host(to::HOME, 1, false))),
    );
    gateway.machine_sends(RED_PORT, "question", &question);
    let inner = udp(host(to::SITE_OVER_V4, 9, false), machine);
    let expected = packet::ethernet(example::ACCESS_MAC.0, mac, None, &hop(&inner));
    let case = gateway.site_sends("to the machine", &through(RED_TUNNEL[0], &inner, 0));
    case.leaves(RED, Owner::Port(RED_PORT), &expected);
    // The daemon is told again: it has not given the machine a route yet.
    let seen = Event::seen(RED_PORT, machine.into(), MacAddress(mac));
    assert_eq!(case.seen.events, [seen]);
    gateway
        .site_sends("in another network", &through(BLUE_TUNNEL[0], &inner, 0))
        .is_dropped_on_the_way_out(
            Owner::Tunnel(BLUE_TUNNEL[0]),
            Owner::Port(BLUE_PORT),
            DropReason::NeighbourUnresolved,
        );
}

#[test]
fn n4_a_flood_for_unresolved_machines_of_one_port_leaves_room_for_the_news_of_another() {
    if !gre_tests::can_use_namespaces() {
        return;
    }
    // More than the ring buffer has room for, and nobody reads it meanwhile.
    const FLOOD: usize = 30_000;
    let both = BothSides::shared();
    let mut gateway = KernelGateway::load(&both.tables);
    let machine = host(to::HOME, 88, false);
    let inner = udp(host(to::SITE_OVER_V4, 9, false), machine);
    let [flood, first] = [RED_TUNNEL[0], BLUE_TUNNEL[0]].map(|tunnel| through(tunnel, &inner, 0));
    for _ in 0..FLOOD {
        gateway.run_blindly(both.devices.underlay, &flood);
    }
    gateway.run(both.devices.underlay, &first);
    let mut events = gateway.take_events();
    assert_eq!(
        events.pop(),
        Some(Event::missing(BLUE_PORT, machine.into())),
        "after {} events of the other port",
        events.len()
    );
    let flooded = Event::missing(RED_PORT, machine.into());
    assert!(events.iter().all(|event| *event == flooded));
    let told = events.len() as u64;
    assert!(told >= EventBudget::EVENTS, "one tick's worth is told");
}

#[test]
fn n4_frames_on_a_port_for_other_stations_pass_untouched() {
    let Some(mut gateway) = gateway() else { return };
    let packet = udp(host(to::HOME, 2, false), host(to::SITE_OVER_V4, 9, false));
    for destination in [BROADCAST, [2, 9, 9, 9, 9, 9], [1, 0, 0x5e, 0, 0, 1]] {
        let frame = packet::ethernet([2; 6], destination, None, &packet);
        gateway
            .machine_sends(RED_PORT, &format!("{destination:02x?}"), &frame)
            .passes(&frame);
    }
}

#[test]
fn n5_from_tunnel_to_tunnel_in_one_pass_with_the_other_tunnels_header() {
    let Some(mut gateway) = gateway() else { return };
    for family in [0, 1] {
        for options in Options::all() {
            for over_v6 in [false, true] {
                for (number, is_v6) in [false, true].into_iter().enumerate() {
                    let out = example::options_tunnel(options, over_v6);
                    let inner = udp(
                        host(to::SITE_OVER_V4, 9, is_v6),
                        host(out.destination, 9, is_v6),
                    );
                    let case = format!("from {family} to {options:?}, v6 {over_v6}/{is_v6}");
                    let number = u32::try_from(number + 2 * family).expect("small");
                    gateway
                        .site_sends(&case, &through(RED_TUNNEL[family], &inner, 0))
                        .leaves(
                            Owner::Tunnel(RED_TUNNEL[family]),
                            Owner::Tunnel(out.id),
                            &into_site(&site(out.id), &hop(&inner), number),
                        );
                }
            }
        }
    }
}

#[test]
fn n5_a_packet_may_leave_through_the_tunnel_that_it_came_from() {
    let Some(mut gateway) = gateway() else { return };
    let inner = udp(
        host(to::SITE_OVER_V4, 9, false),
        host(to::SITE_OVER_V4, 10, false),
    );
    gateway
        .site_sends("", &through(RED_TUNNEL[0], &inner, 0))
        .leaves(RED, RED, &into_site(&site(RED_TUNNEL[0]), &hop(&inner), 0));
}

#[test]
fn n6_no_route_and_a_blackhole_drop_for_reasons_of_their_own() {
    let Some(mut gateway) = gateway() else { return };
    let cases = [
        (to::NOWHERE, DropReason::NoRoute),
        (to::BLACKHOLE, DropReason::Blackhole),
    ];
    for (destination, reason) in cases {
        for is_v6 in [false, true] {
            let packet = udp(host(to::HOME, 2, is_v6), host(destination, 9, is_v6));
            gateway
                .machine_sends(RED_PORT, "from a port", &from_machine(RED_PORT, &packet))
                .is_dropped(Owner::Port(RED_PORT), reason);
            gateway
                .site_sends("from a tunnel", &through(RED_TUNNEL[0], &packet, 0))
                .is_dropped(RED, reason);
        }
    }
}

#[test]
fn n6_addresses_that_routers_must_not_forward_drop_for_their_own_reason() {
    let Some(mut gateway) = gateway() else { return };
    let sound = |is_v6| host(to::HOME, 2, is_v6);
    let unsound = [
        "0.0.0.0",
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.5",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "ff0e::1",
    ];
    for unsound in unsound {
        let unsound: IpAddr = unsound.parse().expect("an address");
        for (source, destination) in [
            (unsound, sound(unsound.is_ipv6())),
            (sound(unsound.is_ipv6()), unsound),
        ] {
            let packet = udp(source, destination);
            gateway
                .machine_sends(
                    RED_PORT,
                    &format!("{source} to {destination}"),
                    &from_machine(RED_PORT, &packet),
                )
                .is_dropped(Owner::Port(RED_PORT), DropReason::NotForwardable);
        }
    }
}

#[test]
fn o1_what_cannot_be_sent_is_counted_as_dropped() {
    let Some(mut gateway) = gateway() else { return };
    let packet = udp(host(to::HOME, 2, false), host(to::DETACHED, 2, false));
    gateway
        .machine_sends(RED_PORT, "device gone", &from_machine(RED_PORT, &packet))
        .is_dropped_on_the_way_out(
            Owner::Port(RED_PORT),
            Owner::Port(DETACHED_PORT),
            DropReason::TransmitFailed,
        );
    let packet = udp(host(to::HOME, 2, false), host(to::ABSENT, 2, false));
    gateway
        .machine_sends(
            RED_PORT,
            "route into a tunnel that is not there",
            &from_machine(RED_PORT, &packet),
        )
        .is_dropped_on_the_way_out(
            Owner::Port(RED_PORT),
            Owner::Tunnel(ABSENT_TUNNEL),
            DropReason::MissingEntry,
        );
    let packet = udp(host(to::HOME, 2, false), host(to::ABSENT_MACHINE, 2, false));
    gateway
        .machine_sends(
            RED_PORT,
            "route to a machine that is not there",
            &from_machine(RED_PORT, &packet),
        )
        .is_dropped(Owner::Port(RED_PORT), DropReason::MissingEntry);
}

#[test]
fn p1_peered_networks_reach_each_other_without_an_added_hop() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        for ttl in [1, 64] {
            let (red, green) = (host(to::HOME, 2, is_v6), host(to::GREEN, 2, is_v6));
            for (from, into, packet) in [
                (RED_PORT, GREEN_PORT, udp(red, green)),
                (GREEN_PORT, RED_PORT, udp(green, red)),
            ] {
                let packet = with_ttl(&packet, ttl);
                gateway
                    .machine_sends(from, &format!("ttl {ttl}"), &from_machine(from, &packet))
                    .leaves(
                        Owner::Port(from),
                        Owner::Port(into),
                        &to_machine(into, &packet),
                    );
            }
        }
    }
}

#[test]
fn p1_machines_of_one_network_reach_each_other_without_an_added_hop() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let packet = with_ttl(
            &udp(host(to::HOME, 2, is_v6), host(to::NARROW_PORT, 2, is_v6)),
            1,
        );
        gateway
            .machine_sends(RED_PORT, "", &from_machine(RED_PORT, &packet))
            .leaves(
                Owner::Port(RED_PORT),
                Owner::Port(NARROW_PORT),
                &to_machine(NARROW_PORT, &packet),
            );
    }
}

#[test]
fn p1_the_gateway_answers_echo_requests_from_a_peered_network() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let (machine, own) = (host(to::HOME, 2, is_v6), host(to::GREEN, 1, is_v6));
        let request = packet::echo_request(machine, own, 1, 2, b"peer");
        let reply = echo_reply(own, machine, 1, 2, b"peer");
        gateway
            .machine_sends(RED_PORT, "", &from_machine(RED_PORT, &request))
            .leaves(
                Owner::Port(RED_PORT),
                Owner::Port(RED_PORT),
                &to_machine(RED_PORT, &reply),
            );
    }
}

#[test]
fn p3_peering_is_not_transitive() {
    let Some(mut gateway) = gateway() else { return };
    let cases = [
        (
            "to a peer of the peer, without a route",
            to::YELLOW,
            DropReason::NoRoute,
        ),
        (
            "to a peer of the peer, along a route",
            to::THROUGH_GREENS_PEERING,
            DropReason::PeeringTransit,
        ),
        (
            "into a tunnel of the peer",
            to::THROUGH_GREENS_TUNNEL,
            DropReason::PeeringTransit,
        ),
        (
            "to what the peer does not know",
            to::LOST_IN_GREEN,
            DropReason::NoRoute,
        ),
    ];
    for (name, destination, reason) in cases {
        for is_v6 in [false, true] {
            let packet = udp(host(to::HOME, 2, is_v6), host(destination, 2, is_v6));
            gateway
                .machine_sends(RED_PORT, name, &from_machine(RED_PORT, &packet))
                .is_dropped(Owner::Port(RED_PORT), reason);
        }
    }
}

/// Only the asker's word says where a reply goes: it may not go further than what the asker itself could send.
#[test]
fn p3_an_echo_reply_goes_no_further_than_whoever_asked_may_send() {
    let Some(mut gateway) = gateway() else { return };
    let pretended = [
        ("a peer of the peer", to::YELLOW, DropReason::NoRoute),
        (
            "a site behind the peer's tunnel",
            to::THROUGH_GREENS_TUNNEL,
            DropReason::PeeringTransit,
        ),
    ];
    for (name, source, reason) in pretended {
        for is_v6 in [false, true] {
            let (source, own) = (host(source, 2, is_v6), host(to::GREEN, 1, is_v6));
            let request = packet::echo_request(source, own, 1, 2, b"peer");
            gateway
                .machine_sends(RED_PORT, name, &from_machine(RED_PORT, &request))
                .is_dropped(Owner::Port(RED_PORT), reason);
        }
    }
    for is_v6 in [false, true] {
        let (source, own) = (host(to::GREEN, 2, is_v6), host(to::HOME, 1, is_v6));
        let request = packet::echo_request(source, own, 1, 2, b"peer");
        gateway
            .site_sends(
                "a machine of the peer",
                &through(RED_TUNNEL[0], &request, 0),
            )
            .is_dropped(RED, DropReason::PeeringTransit);
    }
}

#[test]
fn p5_a_tunnel_does_not_reach_a_peered_network() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let packet = udp(host(to::SITE_OVER_V4, 9, is_v6), host(to::GREEN, 2, is_v6));
        gateway
            .site_sends("", &through(RED_TUNNEL[0], &packet, 0))
            .is_dropped(RED, DropReason::PeeringTransit);
    }
}

#[test]
fn p7_a_user_route_steers_packets_to_a_machine() {
    let Some(mut gateway) = gateway() else { return };
    let packet = udp(
        host(to::SITE_OVER_V4, 9, false),
        host(to::APPLIANCE, 9, false),
    );
    gateway
        .site_sends("", &through(RED_TUNNEL[0], &packet, 0))
        .leaves(
            RED,
            Owner::Port(RED_PORT),
            &to_machine(RED_PORT, &hop(&packet)),
        );
}

#[test]
fn a_way_through_a_machine_costs_a_hop_and_the_way_to_it_none() {
    let Some(mut gateway) = gateway() else { return };
    let owner = Owner::Port(RED_PORT);
    let mut sends =
        |packet: &[u8]| gateway.machine_sends(RED_PORT, "", &from_machine(RED_PORT, packet));
    let routed = udp(host(to::HOME, 3, false), host(to::APPLIANCE, 9, false));
    sends(&routed).leaves(owner, owner, &to_machine(RED_PORT, &hop(&routed)));
    sends(&with_ttl(&routed, 1)).is_dropped(owner, DropReason::TtlExpired);
    let direct = udp(host(to::HOME, 3, false), host(to::HOME, 2, false));
    let direct = with_ttl(&direct, 1);
    sends(&direct).leaves(owner, owner, &to_machine(RED_PORT, &direct));
}

#[test]
fn a_forwarded_frame_really_leaves_on_the_device_of_its_port_or_tunnel_and_on_no_other() {
    let Some(mut gateway) = gateway() else { return };
    let text = b"seen on the wire";
    let mut wires = ["underlay", "access", "trunk"].map(|name| {
        let links = &gateway.both.links;
        let link = [&links.underlay, &links.access, &links.trunk]
            .into_iter()
            .find(|link| link.near.device == name)
            .expect("a link of this name");
        Wire::open(&link.far)
    });
    let marked =
        |source, destination| packet::udp(source, destination, (5, 6), Fields::default(), text);
    let out = marked(host(to::HOME, 2, false), host(to::SITE_OVER_V4, 9, false));
    let home = marked(host(to::SITE_OVER_V4, 9, false), host(to::HOME, 2, false));
    let (underlay, access, trunk) = (
        gateway.both.devices.underlay,
        gateway.both.devices.access,
        gateway.both.devices.trunk,
    );
    let runs = [
        (
            access,
            from_machine(RED_PORT, &out),
            0,
            into_site(&site(RED_TUNNEL[0]), &hop(&out), 0),
        ),
        (
            underlay,
            through(RED_TUNNEL[0], &home, 0),
            1,
            to_machine(RED_PORT, &hop(&home)),
        ),
        (
            underlay,
            through(BLUE_TUNNEL[0], &home, 0),
            2,
            to_machine(BLUE_PORT, &hop(&home)),
        ),
        (
            trunk,
            from_machine(BLUE_PORT, &out),
            0,
            into_site(&site(BLUE_TUNNEL[0]), &hop(&out), 0),
        ),
    ];
    for (device, frame, wire, expected) in runs {
        gateway.both.run_live(device, &frame);
        let mark = |frame: &[u8]| packet::contains(frame, text).then(|| frame.to_vec());
        let arrived = wires[wire].expect("the frame that is sent", mark);
        assert_eq!(arrived, expected);
        for other in &mut wires {
            let strays = other.drain();
            assert!(
                strays.iter().all(|frame| mark(frame).is_none()),
                "{strays:02x?}"
            );
        }
    }
}
