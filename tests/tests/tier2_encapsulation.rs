//! What leaves into a tunnel, packet by packet: RFC 2784, 2890, 7676, 6040 and 6438.
//!
//! Every frame goes through the kernel's program and through the same pipeline on the host. What is expected is built
//! and judged independently of `gre-common`.

use std::collections::BTreeSet;

use etherparse::{NetSlice, SlicedPacket};
use gre_common::counters::Owner;
use gre_common::verdict::DropReason;
use gre_model::example::{
    self, FIXED_TUNNEL, INHERITING_TUNNEL, NARROW_MTU, NARROW_PORT, NARROW_TUNNEL,
    OVERSIZED_TUNNEL, Options, RED_PORT, RED_TUNNEL, TUNNEL_MTU, UNRESOLVED_TUNNEL, WIDE_TUNNEL,
    host, to,
};
use gre_tests::fixture::gateway;
use gre_tests::frames::{
    self, OUTER, from_machine, hop, inner_to_red, into_site, site, through, to_machine, udp,
    udp_of_length, with_tos, with_ttl, without_flow_label,
};
use gre_tests::gre::{self, Tos, Tunnel};
use gre_tests::packet::{self, ETHERNET_HEADER, Fields};

const RED: Owner = Owner::Tunnel(RED_TUNNEL[0]);

#[test]
fn e1_e4_every_outer_header_is_that_of_the_tunnels_options() {
    let Some(mut gateway) = gateway() else { return };
    let overheads = [
        [24, 28, 28, 32, 28, 32, 32, 36],
        [44, 48, 48, 52, 48, 52, 52, 56],
    ];
    for options in Options::all() {
        for over_v6 in [false, true] {
            for (number, is_v6) in [false, true].into_iter().enumerate() {
                let tunnel = example::options_tunnel(options, over_v6);
                let inner = udp(host(to::HOME, 2, is_v6), host(tunnel.destination, 9, is_v6));
                let case = gateway.machine_sends(
                    RED_PORT,
                    &format!("{options:?}, v6 {over_v6}/{is_v6}"),
                    &from_machine(RED_PORT, &inner),
                );
                let number = u32::try_from(number).expect("small");
                let expected = into_site(&site(tunnel.id), &hop(&inner), number);
                case.leaves(Owner::Port(RED_PORT), Owner::Tunnel(tunnel.id), &expected);
                let sent = &case.seen.outcome.frame;
                let overhead = overheads[usize::from(over_v6)][usize::from(options.number())];
                assert_eq!(sent.len(), ETHERNET_HEADER + overhead + inner.len());
                check_outer_header(sent, over_v6);
            }
        }
    }
}

#[test]
fn e2_a_packet_through_a_tunnel_loses_one_hop_and_the_last_hop_is_not_forwarded() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let outwards = udp(host(to::HOME, 2, is_v6), host(to::SITE_OVER_V4, 9, is_v6));
        let inwards = inner_to_red(is_v6);
        for ttl in [0, 1] {
            gateway
                .machine_sends(
                    RED_PORT,
                    "outwards",
                    &from_machine(RED_PORT, &with_ttl(&outwards, ttl)),
                )
                .is_dropped(Owner::Port(RED_PORT), DropReason::TtlExpired);
            gateway
                .site_sends(
                    "inwards",
                    &through(RED_TUNNEL[0], &with_ttl(&inwards, ttl), 0),
                )
                .is_dropped(RED, DropReason::TtlExpired);
        }
        for ttl in [2, 255] {
            let packet = with_ttl(&outwards, ttl);
            let expected = into_site(&site(RED_TUNNEL[0]), &with_ttl(&outwards, ttl - 1), 0);
            gateway
                .machine_sends(RED_PORT, "outwards", &from_machine(RED_PORT, &packet))
                .leaves(Owner::Port(RED_PORT), RED, &expected);
            let expected = to_machine(RED_PORT, &with_ttl(&inwards, ttl - 1));
            gateway
                .site_sends(
                    "inwards",
                    &through(RED_TUNNEL[0], &with_ttl(&inwards, ttl), 0),
                )
                .leaves(RED, Owner::Port(RED_PORT), &expected);
        }
    }
}

#[test]
fn e2_the_header_checksum_stays_true_for_every_ttl() {
    let Some(mut gateway) = gateway() else { return };
    for ttl in 2..=255 {
        // Two identifications whose sums lie at both ends of one's complement arithmetic.
        for identification in [0x0000_u16, 0xffff] {
            let mut packet = with_ttl(&inner_to_red(false), ttl);
            packet[4..6].copy_from_slice(&identification.to_be_bytes());
            frames::correct_header_checksum(&mut packet);
            let case = gateway.site_sends("", &through(RED_TUNNEL[0], &packet, 0));
            let sent = &case.seen.outcome.frame[ETHERNET_HEADER..];
            assert_eq!(gre::internet_checksum(&sent[..20]), 0, "ttl {ttl}");
            assert_eq!(sent[8], ttl - 1);
        }
    }
}

#[test]
fn e3_dscp_is_inherited_or_fixed_and_ecn_always_copied() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        for tos in [0x00, 0x01, 0x02, 0x03, 0x28, 0xb9, 0xfe, 0xff] {
            let cases = [
                (to::SITE_OVER_V4, RED_TUNNEL[0], tos),
                (to::SITE_OVER_V6, RED_TUNNEL[1], tos),
                (to::FIXED, FIXED_TUNNEL, 0xb8 | tos & 3),
            ];
            for (destination, tunnel, outer_tos) in cases {
                let inner = with_tos(
                    &udp(host(to::HOME, 2, is_v6), host(destination, 9, is_v6)),
                    tos,
                );
                let mut expected = into_site(&site(tunnel), &hop(&inner), 0);
                let outer = with_tos(&expected[OUTER..], outer_tos);
                expected[OUTER..].copy_from_slice(&outer);
                gateway
                    .machine_sends(
                        RED_PORT,
                        &format!("tos {tos:#x}"),
                        &from_machine(RED_PORT, &inner),
                    )
                    .leaves(Owner::Port(RED_PORT), Owner::Tunnel(tunnel), &expected);
            }
        }
    }
}

#[test]
fn e3_the_outer_ttl_is_64_fixed_or_inherited() {
    let Some(mut gateway) = gateway() else { return };
    for ttl in [2, 33, 200] {
        let cases = [
            (to::SITE_OVER_V4, RED_TUNNEL[0], 64),
            (to::FIXED, FIXED_TUNNEL, 9),
            (to::INHERITING, INHERITING_TUNNEL, ttl - 1),
        ];
        for (destination, tunnel, outer_ttl) in cases {
            let inner = with_ttl(
                &udp(host(to::HOME, 2, false), host(destination, 9, false)),
                ttl,
            );
            let peer = Tunnel {
                ttl: outer_ttl,
                ..site(tunnel)
            };
            let mut expected = into_site(&peer, &hop(&inner), 0);
            if let Tos::Fixed(tos) = peer.tos {
                let outer = with_tos(&expected[OUTER..], tos);
                expected[OUTER..].copy_from_slice(&outer);
            }
            gateway
                .machine_sends(
                    RED_PORT,
                    &format!("ttl {ttl}"),
                    &from_machine(RED_PORT, &inner),
                )
                .leaves(Owner::Port(RED_PORT), Owner::Tunnel(tunnel), &expected);
        }
    }
}

#[test]
fn e5_a_packet_larger_than_the_way_out_carries_never_leaves() {
    let Some(mut gateway) = gateway() else { return };
    let underlay_room = 1500 - 28;
    let cases = [
        (
            to::SITE_OVER_V4,
            RED_TUNNEL[0],
            TUNNEL_MTU,
            DropReason::ExceedsTunnelMtu,
        ),
        (
            to::NARROW,
            NARROW_TUNNEL,
            NARROW_MTU,
            DropReason::ExceedsTunnelMtu,
        ),
        (
            to::OVERSIZED,
            OVERSIZED_TUNNEL,
            underlay_room,
            DropReason::ExceedsUnderlayMtu,
        ),
    ];
    for (destination, tunnel, mtu, reason) in cases {
        for is_v6 in [false, true] {
            let route = (host(to::HOME, 2, is_v6), host(destination, 9, is_v6));
            let inner = udp_of_length(route, mtu.into());
            gateway
                .machine_sends(
                    RED_PORT,
                    &format!("{mtu} bytes"),
                    &from_machine(RED_PORT, &inner),
                )
                .leaves(
                    Owner::Port(RED_PORT),
                    Owner::Tunnel(tunnel),
                    &into_site(&site(tunnel), &hop(&inner), 0),
                );
            let inner = udp_of_length(route, usize::from(mtu) + 1);
            gateway
                .machine_sends(
                    RED_PORT,
                    &format!("{mtu} + 1 bytes"),
                    &from_machine(RED_PORT, &inner),
                )
                .is_dropped_on_the_way_out(Owner::Port(RED_PORT), Owner::Tunnel(tunnel), reason);
        }
    }
    let route = (host(to::NOWHERE, 9, false), host(to::NARROW_PORT, 2, false));
    let inner = udp_of_length(route, NARROW_MTU.into());
    gateway
        .site_sends("into a port", &through(RED_TUNNEL[0], &inner, 0))
        .leaves(
            RED,
            Owner::Port(NARROW_PORT),
            &to_machine(NARROW_PORT, &hop(&inner)),
        );
    let inner = udp_of_length(route, usize::from(NARROW_MTU) + 1);
    gateway
        .site_sends("beyond a port", &through(RED_TUNNEL[0], &inner, 0))
        .is_dropped_on_the_way_out(RED, Owner::Port(NARROW_PORT), DropReason::ExceedsPortMtu);
}

#[test]
fn e5_frames_in_several_buffers_are_forwarded_and_summed_in_full() {
    let Some(mut gateway) = gateway() else { return };
    for length in [3500, 3600, 4096, 5001, 8900] {
        let out = udp_of_length((host(to::HOME, 2, false), host(to::WIDE, 9, false)), length);
        let expected = into_site(&site(WIDE_TUNNEL), &hop(&out), 0);
        gateway
            .machine_sends(
                RED_PORT,
                &format!("{length} bytes out"),
                &from_machine(RED_PORT, &out),
            )
            .leaves(Owner::Port(RED_PORT), Owner::Tunnel(WIDE_TUNNEL), &expected);
        let back = udp_of_length((host(to::WIDE, 9, false), host(to::HOME, 2, false)), length);
        let mut frame = through(WIDE_TUNNEL, &back, 0);
        gateway
            .site_sends(&format!("{length} bytes in"), &frame)
            .leaves(
                Owner::Tunnel(WIDE_TUNNEL),
                Owner::Port(RED_PORT),
                &to_machine(RED_PORT, &hop(&back)),
            );
        let last = frame.len() - 1;
        frame[last] ^= 1;
        gateway
            .site_sends(&format!("{length} bytes, the last one wrong"), &frame)
            .is_dropped(Owner::Tunnel(WIDE_TUNNEL), DropReason::GreChecksum);
    }
}

#[test]
fn e6_an_unresolved_way_to_the_remote_drops_for_its_own_reason() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let inner = udp(host(to::HOME, 2, is_v6), host(to::UNRESOLVED, 9, is_v6));
        gateway
            .machine_sends(RED_PORT, "", &from_machine(RED_PORT, &inner))
            .is_dropped_on_the_way_out(
                Owner::Port(RED_PORT),
                Owner::Tunnel(UNRESOLVED_TUNNEL),
                DropReason::AdjacencyUnresolved,
            );
    }
}

#[test]
fn e8_the_ipv6_flow_label_is_one_for_a_flow_and_differs_between_flows() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let mut labels = BTreeSet::new();
        for port in 1..=64 {
            let (source, destination) =
                (host(to::HOME, 2, is_v6), host(to::SITE_OVER_V6, 9, is_v6));
            let mut label_of = |payload: &[u8]| {
                let inner =
                    packet::udp(source, destination, (port, 80), Fields::default(), payload);
                let case = gateway.machine_sends(RED_PORT, "", &from_machine(RED_PORT, &inner));
                let (_, label) = without_flow_label(&case.seen.outcome.frame);
                label.expect("the outer header is IPv6")
            };
            let label = label_of(b"one");
            assert_eq!(label, label_of(b"another packet of the same flow"));
            assert_ne!(label, 0);
            labels.insert(label);
        }
        assert!(labels.len() > 60, "64 flows share {} labels", labels.len());
    }
}

#[test]
fn e8_fragments_of_a_packet_share_a_flow_label() {
    let Some(mut gateway) = gateway() else { return };
    let packet = udp(host(to::HOME, 2, false), host(to::SITE_OVER_V6, 9, false));
    let mut labels = BTreeSet::new();
    for (bits, first_bytes) in [(0x2000_u16, [1, 2]), (0x2001, [3, 4]), (0x0002, [5, 6])] {
        let mut fragment = packet.clone();
        fragment[6..8].copy_from_slice(&bits.to_be_bytes());
        fragment[20..22].copy_from_slice(&first_bytes);
        frames::correct_header_checksum(&mut fragment);
        let case = gateway.machine_sends(RED_PORT, "", &from_machine(RED_PORT, &fragment));
        labels.insert(without_flow_label(&case.seen.outcome.frame).1);
    }
    assert_eq!(labels.len(), 1);
}

/// Reads the outer header with a third parser: every field that the sender chooses.
#[track_caller]
fn check_outer_header(frame: &[u8], over_v6: bool) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a well-formed packet");
    match sliced.net {
        Some(NetSlice::Ipv4(ip)) if !over_v6 => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.total_len), frame.len() - ETHERNET_HEADER);
            assert_eq!((header.time_to_live, header.protocol.0), (64, 47));
            assert!(header.dont_fragment && !header.more_fragments);
            assert_eq!(
                (header.identification, header.fragment_offset.value()),
                (0, 0)
            );
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(header.options.len(), 0);
        }
        Some(NetSlice::Ipv6(ip)) if over_v6 => {
            let header = ip.header().to_header();
            assert_eq!(
                usize::from(header.payload_length),
                frame.len() - ETHERNET_HEADER - 40
            );
            assert_eq!((header.hop_limit, header.next_header.0), (64, 47));
            assert_ne!(header.flow_label.value(), 0);
        }
        other => panic!("the outer header is {other:?}"),
    }
}
