//! Conformance, packet by packet: a frame in, and the verdict, the bytes out and the counters that the RFCs ask for.
//!
//! Every frame goes through the kernel's program and through the same pipeline on the host. What is expected is built
//! and judged independently of `gre-common`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::thread::sleep;
use std::time::Duration;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket};
use gre_common::counters::{Direction, Owner, Stats};
use gre_common::event::Event;
use gre_common::id::{Address, IfIndex, MacAddress, PortId, TunnelId};
use gre_common::verdict::DropReason;
use gre_model::example::{
    self, ABSENT_TUNNEL, ASYMMETRIC_TUNNEL, BLUE_PORT, BLUE_TUNNEL, DETACHED_PORT, FIXED_TUNNEL,
    GREEN_PORT, GREEN_TUNNEL, INHERITING_TUNNEL, LOCAL, NARROW_MTU, NARROW_PORT, NARROW_TUNNEL,
    NOT_LOCAL, OVERSIZED_TUNNEL, Options, RED_PORT, RED_TUNNEL, ROUTER_MAC, SITE, TRUNK_MAC,
    TUNNEL_MTU, UNDERLAY_MAC, UNRESOLVED_TUNNEL, WIDE_TUNNEL, YELLOW_PORT, YELLOW_TUNNEL, host, to,
};
use gre_model::{Action, Counters};
use gre_tests::both_sides::{BothSides, Seen};
use gre_tests::frames::{
    self, ADVERTISEMENT, ARP_REPLY, ARP_REQUEST, BROADCAST, SOLICITATION, arp, discovery,
    from_machine, from_site, hop, icmpv6, into_site, site, solicited_node, through, through_as,
    to_machine, with_tos, with_ttl, without_flow_label,
};
use gre_tests::gre::{self, Header, Tos, Tunnel};
use gre_tests::packet::{self, ETHERNET_HEADER, Fields};
use gre_tests::wire::Wire;

/// Offsets in a frame from a site over IPv4.
const OUTER: usize = ETHERNET_HEADER;
const GRE_OVER_V4: usize = OUTER + 20;
const GRE_OVER_V6: usize = OUTER + 40;

// ---- GRE reception ----

#[test]
fn r1_all_eight_option_combinations_are_parsed_at_the_right_offsets() {
    let Some(mut gateway) = gateway() else { return };
    let lengths = [4, 8, 8, 12, 8, 12, 12, 16];
    for (options, length) in Options::all().zip(lengths) {
        for over_v6 in [false, true] {
            for is_v6 in [false, true] {
                let tunnel = example::options_tunnel(options, over_v6);
                let inner = udp(host(tunnel.destination, 9, is_v6), host(to::HOME, 2, is_v6));
                let frame = through(tunnel.id, &inner, u32::from(is_v6));
                let outer = if over_v6 { 40 } else { 20 };
                assert_eq!(frame.len(), ETHERNET_HEADER + outer + length + inner.len());
                gateway
                    .from_site(&format!("{options:?}, v6 {over_v6}/{is_v6}"), &frame)
                    .leaves(
                        Owner::Tunnel(tunnel.id),
                        Owner::Port(RED_PORT),
                        &to_machine(RED_PORT, &hop(&inner)),
                    );
            }
        }
    }
}

#[test]
fn r2_reserved_bits_1_4_and_5_drop_and_bits_6_to_12_do_not() {
    let Some(mut gateway) = gateway() else { return };
    let inner = inner_to_red(false);
    for bit in (1..13).filter(|bit| ![2, 3].contains(bit)) {
        let mut frame = through(RED_TUNNEL[0], &inner, 0);
        frame[GRE_OVER_V4 + bit / 8] |= 0x80 >> (bit % 8);
        let case = gateway.from_site(&format!("bit {bit}"), &frame);
        if matches!(bit, 1 | 4 | 5) {
            case.is_dropped_unclaimed(DropReason::GreReserved);
        } else {
            case.leaves(
                RED,
                Owner::Port(RED_PORT),
                &to_machine(RED_PORT, &hop(&inner)),
            );
        }
    }
}

#[test]
fn r2_a_version_other_than_0_drops() {
    let Some(mut gateway) = gateway() else { return };
    for version in 1..8 {
        let mut frame = through(RED_TUNNEL[0], &inner_to_red(false), 0);
        frame[GRE_OVER_V4 + 1] |= version;
        gateway
            .from_site(&format!("version {version}"), &frame)
            .is_dropped_unclaimed(DropReason::GreVersion);
    }
}

#[test]
fn r2_reserved1_is_ignored_but_for_the_checksum_that_covers_it() {
    let Some(mut gateway) = gateway() else { return };
    let inner = inner_to_red(false);
    let mut frame = through_as(&site(RED_TUNNEL[0]).with_checksum(), &inner, 0);
    frame[GRE_OVER_V4 + 6..GRE_OVER_V4 + 8].copy_from_slice(&[0xab, 0xcd]);
    gateway
        .from_site("checksum of another Reserved1", &frame)
        .is_dropped(RED, DropReason::GreChecksum);
    correct_gre_checksum(&mut frame, GRE_OVER_V4);
    gateway.from_site("correct", &frame).leaves(
        RED,
        Owner::Port(RED_PORT),
        &to_machine(RED_PORT, &hop(&inner)),
    );
}

#[test]
fn r3_a_checksum_covers_header_and_payload_and_every_wrong_bit_drops() {
    let Some(mut gateway) = gateway() else { return };
    for over_v6 in [false, true] {
        let tunnel = example::options_tunnel(ALL_OPTIONS, over_v6);
        let gre = if over_v6 { GRE_OVER_V6 } else { GRE_OVER_V4 };
        let good = through(tunnel.id, &inner_to_red(false), 7);
        // Checksum, Reserved1, sequence number and payload: nothing of these decides which tunnel it is.
        for at in (gre + 4..gre + 8).chain(gre + 12..good.len()) {
            let mut frame = good.clone();
            frame[at] ^= 0x04;
            gateway
                .from_site(&format!("byte {at} of {} is wrong", good.len()), &frame)
                .is_dropped(Owner::Tunnel(tunnel.id), DropReason::GreChecksum);
        }
    }
}

#[test]
fn r3_padding_of_a_short_frame_is_neither_checked_nor_forwarded() {
    let Some(mut gateway) = gateway() else { return };
    let inner = {
        let mut packet = inner_to_red(false)[..20].to_vec();
        packet[2..4].copy_from_slice(&20u16.to_be_bytes());
        packet[9] = 253;
        frames::correct_header_checksum(&mut packet);
        packet
    };
    let tunnel = example::options_tunnel(
        Options {
            checksum: true,
            key: false,
            sequence: false,
        },
        false,
    );
    let mut frame = through(tunnel.id, &inner, 0);
    assert!(
        frame.len() > 60,
        "a GRE packet over Ethernet is never short by itself"
    );
    frame.extend([0xee; 23]);
    gateway
        .from_site("padding behind a tunnelled packet", &frame)
        .leaves(
            Owner::Tunnel(tunnel.id),
            Owner::Port(RED_PORT),
            &to_machine(RED_PORT, &hop(&inner)),
        );
    let mut inner = udp(host(to::HOME, 2, false), host(tunnel.destination, 9, false));
    let frame = [from_machine(RED_PORT, &inner), vec![0xee; 18]].concat();
    inner = hop(&inner);
    gateway
        .from_port(RED_PORT, "padding behind a machine's packet", &frame)
        .leaves(
            Owner::Port(RED_PORT),
            Owner::Tunnel(tunnel.id),
            &into_site(&site(tunnel.id), &inner, 0),
        );
}

#[test]
fn r3_a_required_checksum_that_is_missing_drops_for_its_own_reason() {
    let Some(mut gateway) = gateway() else { return };
    for over_v6 in [false, true] {
        for key in [false, true] {
            let tunnel = example::options_tunnel(
                Options {
                    checksum: true,
                    key,
                    sequence: false,
                },
                over_v6,
            );
            let without = Tunnel {
                checksum: false,
                ..site(tunnel.id)
            };
            gateway
                .from_site(
                    "no checksum",
                    &through_as(&without, &inner_to_red(false), 0),
                )
                .is_dropped(Owner::Tunnel(tunnel.id), DropReason::GreChecksumMissing);
        }
    }
}

#[test]
fn r3_a_checksum_that_nobody_requires_is_verified_all_the_same() {
    let Some(mut gateway) = gateway() else { return };
    let inner = inner_to_red(false);
    let mut frame = through_as(&site(RED_TUNNEL[0]).with_checksum(), &inner, 0);
    gateway.from_site("correct", &frame).leaves(
        RED,
        Owner::Port(RED_PORT),
        &to_machine(RED_PORT, &hop(&inner)),
    );
    frame[GRE_OVER_V4 + 4] ^= 1;
    gateway
        .from_site("wrong", &frame)
        .is_dropped(RED, DropReason::GreChecksum);
}

#[test]
fn r4_only_newer_sequence_numbers_are_accepted_and_they_wrap() {
    let Some(mut gateway) = gateway() else { return };
    let (one, other) = (numbered(true), numbered(false));
    let last = u32::MAX;
    let steps = [
        (one, 0, true),
        (one, 0, false),
        (one, 1, true),
        (one, 5, true),
        (one, 4, false),
        (one, 5, false),
        (one, last, false),
        // The other tunnel has not seen anything yet.
        (other, 3, true),
        (one, 0x7fff_ffff, true),
        (one, last - 1, true),
        (one, last, true),
        (one, 0, true),
        (one, last, false),
        (one, 1, true),
        (other, 4, true),
    ];
    for (step, (tunnel, number, accepted)) in steps.into_iter().enumerate() {
        let inner = inner_to_red(false);
        let case = gateway.from_site(&format!("step {step}"), &through(tunnel, &inner, number));
        if accepted {
            let expected = to_machine(RED_PORT, &hop(&inner));
            case.leaves(Owner::Tunnel(tunnel), Owner::Port(RED_PORT), &expected);
        } else {
            case.is_dropped(Owner::Tunnel(tunnel), DropReason::SequenceOld);
        }
    }
}

#[test]
fn r4_a_missing_sequence_number_drops_for_its_own_reason() {
    let Some(mut gateway) = gateway() else { return };
    for key in [false, true] {
        let tunnel = numbered(key);
        let without = Tunnel {
            sequence: false,
            ..site(tunnel)
        };
        gateway
            .from_site("no number", &through_as(&without, &inner_to_red(false), 0))
            .is_dropped(Owner::Tunnel(tunnel), DropReason::SequenceMissing);
    }
}

#[test]
fn r4_a_tunnel_without_sequence_numbers_accepts_any() {
    let Some(mut gateway) = gateway() else { return };
    let inner = inner_to_red(false);
    for number in [9, 9, 3] {
        let frame = through_as(&site(RED_TUNNEL[0]).with_sequence(), &inner, number);
        gateway
            .from_site(&format!("number {number}"), &frame)
            .leaves(
                RED,
                Owner::Port(RED_PORT),
                &to_machine(RED_PORT, &hop(&inner)),
            );
    }
}

#[test]
fn r4_a_sender_that_starts_again_at_0_is_heard_after_two_seconds_of_silence() {
    let Some(mut gateway) = gateway() else { return };
    let tunnel = numbered(true);
    let inner = inner_to_red(false);
    let expected = to_machine(RED_PORT, &hop(&inner));
    let (owner, port) = (Owner::Tunnel(tunnel), Owner::Port(RED_PORT));
    let mut send = |case: &str, number| gateway.from_site(case, &through(tunnel, &inner, number));
    send("before", 1_000_000).leaves(owner, port, &expected);
    send("at once", 0).is_dropped(owner, DropReason::SequenceOld);
    sleep(Duration::from_millis(2100));
    send("after a silence", 0).leaves(owner, port, &expected);
    send("from there on", 1).leaves(owner, port, &expected);
    send("a repeat", 1).is_dropped(owner, DropReason::SequenceOld);
}

#[test]
fn r5_outer_ipv4_options_are_skipped() {
    let Some(mut gateway) = gateway() else { return };
    let inner = inner_to_red(false);
    for words in 6..=15 {
        let frame = with_ipv4_options(&through(RED_TUNNEL[0], &inner, 0), words);
        gateway.from_site(&format!("IHL {words}"), &frame).leaves(
            RED,
            Owner::Port(RED_PORT),
            &to_machine(RED_PORT, &hop(&inner)),
        );
        let mut wrong = frame;
        let last_option = OUTER + words * 4 - 1;
        wrong[last_option] ^= 1;
        gateway
            .from_site(&format!("IHL {words}, checksum of other options"), &wrong)
            .is_dropped_unclaimed(DropReason::OuterChecksum);
    }
}

#[test]
fn r5_a_wrong_outer_header_checksum_or_length_drops() {
    let Some(mut gateway) = gateway() else { return };
    let good = through(RED_TUNNEL[0], &inner_to_red(false), 0);
    let mut wrong = good.clone();
    wrong[OUTER + 11] ^= 1;
    gateway
        .from_site("checksum", &wrong)
        .is_dropped_unclaimed(DropReason::OuterChecksum);
    for words in 0..5 {
        let mut wrong = good.clone();
        wrong[OUTER] = 0x40 | words;
        gateway
            .from_site(&format!("IHL {words}"), &wrong)
            .is_dropped_unclaimed(DropReason::OuterMalformed);
    }
    let mut wrong = good.clone();
    set_outer_length(&mut wrong, 19);
    gateway
        .from_site("total length below the header's", &wrong)
        .is_dropped_unclaimed(DropReason::OuterMalformed);
    let mut wrong = good.clone();
    set_outer_length(&mut wrong, good.len() - ETHERNET_HEADER + 1);
    gateway
        .from_site("total length beyond the frame", &wrong)
        .is_dropped_unclaimed(DropReason::Truncated);
}

#[test]
fn r5_outer_ipv6_hop_by_hop_and_destination_options_are_skipped() {
    let Some(mut gateway) = gateway() else { return };
    let inner = inner_to_red(true);
    // The last is what Linux's ip6gre sends: a tunnel encapsulation limit (RFC 2473 §4.1.1).
    let chains: [&[(u8, &[u8])]; 4] = [
        &[(0, &[1, 4, 0, 0, 0, 0])],
        &[(0, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
        &[(0, &[1, 4, 0, 0, 0, 0]), (60, &[1, 4, 0, 0, 0, 0])],
        &[(60, &[4, 1, 4, 1, 1, 0])],
    ];
    for chain in chains {
        let frame = with_extension_headers(&through(RED_TUNNEL[1], &inner, 0), chain);
        gateway.from_site(&format!("{chain:?}"), &frame).leaves(
            Owner::Tunnel(RED_TUNNEL[1]),
            Owner::Port(RED_PORT),
            &to_machine(RED_PORT, &hop(&inner)),
        );
    }
}

#[test]
fn r5_other_outer_ipv6_extension_headers_pass_to_the_kernel() {
    let Some(mut gateway) = gateway() else { return };
    let good = through(RED_TUNNEL[1], &inner_to_red(true), 0);
    for (name, kind) in [("routing", 43), ("authentication", 51), ("mobility", 135)] {
        let frame = with_extension_headers(&good, &[(kind, &[0; 6])]);
        gateway.from_site(name, &frame).passes(&frame);
        let frame = with_extension_headers(&good, &[(60, &[1, 4, 0, 0, 0, 0]), (kind, &[0; 6])]);
        gateway
            .from_site(&format!("{name} behind options"), &frame)
            .passes(&frame);
    }
}

#[test]
fn r6_outer_fragments_drop_for_their_own_reason() {
    let Some(mut gateway) = gateway() else { return };
    let v4 = through(RED_TUNNEL[0], &inner_to_red(false), 0);
    for (name, bits) in [("first", 0x2000_u16), ("middle", 0x2010), ("last", 0x0010)] {
        let mut frame = v4.clone();
        frame[OUTER + 6..OUTER + 8].copy_from_slice(&bits.to_be_bytes());
        frames::correct_header_checksum(&mut frame[OUTER..]);
        gateway
            .from_site(&format!("IPv4, {name}"), &frame)
            .is_dropped_unclaimed(DropReason::OuterFragment);
    }
    let v6 = through(RED_TUNNEL[1], &inner_to_red(false), 0);
    for (name, bits) in [("first", 1_u16), ("middle", 0x11), ("last", 0x10)] {
        let [high, low] = bits.to_be_bytes();
        let frame = with_extension_headers(&v6, &[(44, &[high, low, 0, 0, 0, 7])]);
        gateway
            .from_site(&format!("IPv6, {name}"), &frame)
            .is_dropped_unclaimed(DropReason::OuterFragment);
    }
}

#[test]
fn r7_an_unknown_key_or_source_drops_and_is_counted_as_unknown_tunnel() {
    let Some(mut gateway) = gateway() else { return };
    let keyed = Options {
        checksum: false,
        key: true,
        sequence: false,
    };
    let unkeyed = Options {
        key: false,
        ..keyed
    };
    for over_v6 in [false, true] {
        let family = usize::from(over_v6);
        let red = site(RED_TUNNEL[family]);
        let strangers = [
            ("unknown key", red.clone().with_key(4242)),
            (
                "another remote's key",
                red.clone().with_key(
                    site(options(keyed, over_v6))
                        .transmit_key
                        .unwrap_or_default(),
                ),
            ),
            (
                "source that is nobody's remote",
                Tunnel {
                    local: NOT_LOCAL[family],
                    ..red.clone()
                },
            ),
            (
                "no key where one is expected",
                Tunnel {
                    transmit_key: None,
                    ..site(options(keyed, over_v6))
                },
            ),
            (
                "a key where none is expected",
                site(options(unkeyed, over_v6)).with_key(1001),
            ),
            (
                "key 0 where none is expected",
                site(options(unkeyed, over_v6)).with_key(0),
            ),
        ];
        for (case, stranger) in strangers {
            gateway
                .from_site(case, &through_as(&stranger, &inner_to_red(false), 0))
                .is_dropped_unclaimed(DropReason::UnknownTunnel);
        }
    }
}

#[test]
fn r7_key_0_and_no_key_are_two_tunnels() {
    let Some(mut gateway) = gateway() else { return };
    let to_green = udp(host(to::NOWHERE, 9, false), host(to::GREEN, 2, false));
    gateway
        .from_site("no key", &through(GREEN_TUNNEL, &to_green, 0))
        .leaves(
            Owner::Tunnel(GREEN_TUNNEL),
            Owner::Port(GREEN_PORT),
            &to_machine(GREEN_PORT, &hop(&to_green)),
        );
    let to_yellow = udp(host(to::NOWHERE, 9, false), host(to::YELLOW, 2, false));
    gateway
        .from_site("key 0", &through(YELLOW_TUNNEL, &to_yellow, 0))
        .leaves(
            Owner::Tunnel(YELLOW_TUNNEL),
            Owner::Port(YELLOW_PORT),
            &to_machine(YELLOW_PORT, &hop(&to_yellow)),
        );
}

#[test]
fn r7_gre_to_an_address_that_is_not_ours_passes_untouched() {
    let Some(mut gateway) = gateway() else { return };
    for over_v6 in [false, true] {
        let family = usize::from(over_v6);
        let foreign = Tunnel {
            remote: NOT_LOCAL[family],
            ..site(RED_TUNNEL[family])
        };
        let good = through_as(&foreign, &inner_to_red(false), 0);
        gateway.from_site("as it should be", &good).passes(&good);
        let gre = if over_v6 { GRE_OVER_V6 } else { GRE_OVER_V4 };
        let mut odd = good.clone();
        odd[gre] |= 0x40;
        gateway.from_site("with a reserved bit", &odd).passes(&odd);
        let mut odd = good.clone();
        odd[gre + 1] |= 1;
        gateway.from_site("of version 1", &odd).passes(&odd);
        let mut odd = good.clone();
        odd.truncate(gre + 2);
        gateway
            .from_site("cut in its GRE header", &odd)
            .passes(&odd);
    }
}

#[test]
fn r7_what_is_not_gre_passes_untouched() {
    let Some(mut gateway) = gateway() else { return };
    for (family, own) in LOCAL.into_iter().enumerate() {
        let packet = packet::udp(SITE[family], own, (1000, 22), Fields::default(), b"hello");
        let frame = from_site(&packet);
        gateway
            .from_site("UDP to the gateway", &frame)
            .passes(&frame);
    }
    // RFC 8200 §4.7: nothing follows.
    let mut frame = from_site(&packet::udp(
        SITE[1],
        LOCAL[1],
        (1, 1),
        Fields::default(),
        b"",
    ));
    frame.truncate(GRE_OVER_V6);
    frame[OUTER + 4..OUTER + 7].copy_from_slice(&[0, 0, 59]);
    gateway
        .from_site("IPv6 with no next header", &frame)
        .passes(&frame);
    let mut frame = frame[..OUTER].to_vec();
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    frame.extend([0; 46]);
    gateway.from_site("LLDP", &frame).passes(&frame);
    let mut frame = through(RED_TUNNEL[0], &inner_to_red(false), 0);
    frame[5] ^= 1;
    gateway
        .from_site("GRE in a frame for another station", &frame)
        .passes(&frame);
    frame[..6].copy_from_slice(&BROADCAST);
    gateway
        .from_site("GRE in a broadcast", &frame)
        .passes(&frame);
}

#[test]
fn r8_tunnels_between_one_pair_of_addresses_are_told_apart_by_key_only() {
    let Some(mut gateway) = gateway() else { return };
    for family in [0, 1] {
        for is_v6 in [false, true] {
            let inner = inner_to_red(is_v6);
            for (tunnel, port) in [
                (RED_TUNNEL[family], RED_PORT),
                (BLUE_TUNNEL[family], BLUE_PORT),
            ] {
                gateway
                    .from_site(&format!("tunnel {tunnel}"), &through(tunnel, &inner, 0))
                    .leaves(
                        Owner::Tunnel(tunnel),
                        Owner::Port(port),
                        &to_machine(port, &hop(&inner)),
                    );
            }
        }
    }
}

#[test]
fn r8_receive_and_transmit_keys_may_differ() {
    let Some(mut gateway) = gateway() else { return };
    let owner = Owner::Tunnel(ASYMMETRIC_TUNNEL);
    let inner = inner_to_red(false);
    gateway
        .from_site("its receive key", &through(ASYMMETRIC_TUNNEL, &inner, 0))
        .leaves(
            owner,
            Owner::Port(RED_PORT),
            &to_machine(RED_PORT, &hop(&inner)),
        );
    gateway
        .from_site(
            "its transmit key",
            &through_as(&site(RED_TUNNEL[0]).with_key(3002), &inner, 0),
        )
        .is_dropped_unclaimed(DropReason::UnknownTunnel);
    let out = udp(host(to::HOME, 2, false), host(to::ASYMMETRIC, 9, false));
    let seen = gateway.from_port(RED_PORT, "outwards", &from_machine(RED_PORT, &out));
    seen.leaves(
        Owner::Port(RED_PORT),
        owner,
        &into_site(&site(ASYMMETRIC_TUNNEL), &hop(&out), 0),
    );
    let header = Header::parse(&seen.seen.outcome.frame[GRE_OVER_V4..]).expect("a GRE header");
    assert_eq!(header.key, Some(3002));
}

#[test]
fn r9_the_inner_version_must_agree_with_the_protocol_type() {
    let Some(mut gateway) = gateway() else { return };
    for (is_v6, wrong) in [(false, [0x86, 0xdd]), (true, [0x08, 0x00])] {
        let mut frame = through(RED_TUNNEL[0], &inner_to_red(is_v6), 0);
        frame[GRE_OVER_V4 + 2..GRE_OVER_V4 + 4].copy_from_slice(&wrong);
        gateway
            .from_site(&format!("{wrong:02x?}"), &frame)
            .is_dropped(RED, DropReason::InnerVersion);
    }
}

#[test]
fn r9_other_protocol_types_drop_for_their_own_reason() {
    let Some(mut gateway) = gateway() else { return };
    for kind in [0x0000_u16, 0x0806, 0x6558, 0x880b, 0x8847, 0x88be, 0xffff] {
        let mut frame = through(RED_TUNNEL[0], &inner_to_red(false), 0);
        frame[GRE_OVER_V4 + 2..GRE_OVER_V4 + 4].copy_from_slice(&kind.to_be_bytes());
        gateway
            .from_site(&format!("{kind:#06x}"), &frame)
            .is_dropped(RED, DropReason::GreProtocol);
    }
}

#[test]
fn r10_a_frame_cut_at_any_byte_drops() {
    let Some(mut gateway) = gateway() else { return };
    for frame in valid_gre_frames() {
        for length in ETHERNET_HEADER..frame.len() {
            let case = gateway.from_site(&format!("{length} of {}", frame.len()), &frame[..length]);
            case.is_dropped_unclaimed(DropReason::Truncated);
        }
    }
    for is_v6 in [false, true] {
        let frame = from_machine(
            RED_PORT,
            &udp(host(to::HOME, 2, is_v6), host(to::SITE_OVER_V4, 9, is_v6)),
        );
        for length in ETHERNET_HEADER..frame.len() {
            gateway
                .from_port(
                    RED_PORT,
                    &format!("{length} of {}", frame.len()),
                    &frame[..length],
                )
                .is_dropped(Owner::Port(RED_PORT), DropReason::Truncated);
        }
    }
}

#[test]
fn r10_an_outer_packet_too_short_for_what_it_carries_drops() {
    let Some(mut gateway) = gateway() else { return };
    for frame in valid_gre_frames() {
        for length in ETHERNET_HEADER + 20..frame.len() {
            // The frame is long enough: what is missing is there, but as padding.
            let mut frame = frame.clone();
            set_outer_length(&mut frame, length - ETHERNET_HEADER);
            let case = gateway.from_site(&format!("{length} of {}", frame.len()), &frame);
            assert_eq!(case.seen.outcome.action, Action::Drop, "{}", case.name);
        }
    }
}

#[test]
fn r10_an_inner_header_that_contradicts_itself_drops() {
    let Some(mut gateway) = gateway() else { return };
    let inner = GRE_OVER_V4 + 8;
    let v4 = through(RED_TUNNEL[0], &inner_to_red(false), 0);
    for words in [0, 4] {
        let mut frame = v4.clone();
        frame[inner] = 0x40 | words;
        gateway
            .from_site(&format!("IHL {words}"), &frame)
            .is_dropped(RED, DropReason::InnerMalformed);
    }
    for (name, length) in [("below its header", 19), ("beyond what GRE carried", 200)] {
        let mut frame = v4.clone();
        frame[inner + 2..inner + 4].copy_from_slice(&u16::to_be_bytes(length));
        frames::correct_header_checksum(&mut frame[inner..]);
        gateway
            .from_site(name, &frame)
            .is_dropped(RED, DropReason::InnerMalformed);
    }
    let mut frame = v4.clone();
    frame[inner + 10] ^= 1;
    gateway
        .from_site("header checksum", &frame)
        .is_dropped(RED, DropReason::InnerChecksum);
    let mut frame = through(RED_TUNNEL[0], &inner_to_red(true), 0);
    frame[inner + 5] += 1;
    gateway
        .from_site("IPv6 payload length beyond what GRE carried", &frame)
        .is_dropped(RED, DropReason::InnerMalformed);
}

#[test]
fn r11_ecn_combines_as_rfc_6040_figure_4() {
    let Some(mut gateway) = gateway() else { return };
    const NOT: u8 = 0b00;
    const ECT1: u8 = 0b01;
    const ECT0: u8 = 0b10;
    const CE: u8 = 0b11;
    // Columns: outer Not-ECT, ECT(0), ECT(1), CE.
    let figure_4 = [
        (NOT, [Some(NOT), Some(NOT), Some(NOT), None]),
        (ECT0, [Some(ECT0), Some(ECT0), Some(ECT1), Some(CE)]),
        (ECT1, [Some(ECT1), Some(ECT1), Some(ECT1), Some(CE)]),
        (CE, [Some(CE); 4]),
    ];
    const DSCP: u8 = 0xa8;
    for family in [0, 1] {
        for is_v6 in [false, true] {
            for (ecn, row) in figure_4 {
                for (outer, combined) in [NOT, ECT0, ECT1, CE].into_iter().zip(row) {
                    let inner = with_tos(&inner_to_red(is_v6), DSCP | ecn);
                    let mut frame = through(RED_TUNNEL[family], &inner, 0);
                    let outermost = with_tos(&frame[OUTER..], 0x14 | outer);
                    frame[OUTER..].copy_from_slice(&outermost);
                    let owner = Owner::Tunnel(RED_TUNNEL[family]);
                    let case =
                        gateway.from_site(&format!("outer {outer:02b} inner {ecn:02b}"), &frame);
                    match combined {
                        None => case.is_dropped(owner, DropReason::EcnForbidden),
                        Some(combined) => {
                            let expected = with_tos(&hop(&inner), DSCP | combined);
                            let expected = to_machine(RED_PORT, &expected);
                            case.leaves(owner, Owner::Port(RED_PORT), &expected);
                        }
                    }
                }
            }
        }
    }
}

// ---- Encapsulation ----

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
                let case = gateway.from_port(
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
                .from_port(
                    RED_PORT,
                    "outwards",
                    &from_machine(RED_PORT, &with_ttl(&outwards, ttl)),
                )
                .is_dropped(Owner::Port(RED_PORT), DropReason::TtlExpired);
            gateway
                .from_site(
                    "inwards",
                    &through(RED_TUNNEL[0], &with_ttl(&inwards, ttl), 0),
                )
                .is_dropped(RED, DropReason::TtlExpired);
        }
        for ttl in [2, 255] {
            let packet = with_ttl(&outwards, ttl);
            let expected = into_site(&site(RED_TUNNEL[0]), &with_ttl(&outwards, ttl - 1), 0);
            gateway
                .from_port(RED_PORT, "outwards", &from_machine(RED_PORT, &packet))
                .leaves(Owner::Port(RED_PORT), RED, &expected);
            let expected = to_machine(RED_PORT, &with_ttl(&inwards, ttl - 1));
            gateway
                .from_site(
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
            let case = gateway.from_site("", &through(RED_TUNNEL[0], &packet, 0));
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
                    .from_port(
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
                .from_port(
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
                .from_port(
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
                .from_port(
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
        .from_site("into a port", &through(RED_TUNNEL[0], &inner, 0))
        .leaves(
            RED,
            Owner::Port(NARROW_PORT),
            &to_machine(NARROW_PORT, &hop(&inner)),
        );
    let inner = udp_of_length(route, usize::from(NARROW_MTU) + 1);
    gateway
        .from_site("beyond a port", &through(RED_TUNNEL[0], &inner, 0))
        .is_dropped_on_the_way_out(RED, Owner::Port(NARROW_PORT), DropReason::ExceedsPortMtu);
}

#[test]
fn e5_frames_in_several_buffers_are_forwarded_and_summed_in_full() {
    let Some(mut gateway) = gateway() else { return };
    for length in [3500, 3600, 4096, 5001, 8900] {
        let out = udp_of_length((host(to::HOME, 2, false), host(to::WIDE, 9, false)), length);
        let expected = into_site(&site(WIDE_TUNNEL), &hop(&out), 0);
        gateway
            .from_port(
                RED_PORT,
                &format!("{length} bytes out"),
                &from_machine(RED_PORT, &out),
            )
            .leaves(Owner::Port(RED_PORT), Owner::Tunnel(WIDE_TUNNEL), &expected);
        let back = udp_of_length((host(to::WIDE, 9, false), host(to::HOME, 2, false)), length);
        let mut frame = through(WIDE_TUNNEL, &back, 0);
        gateway
            .from_site(&format!("{length} bytes in"), &frame)
            .leaves(
                Owner::Tunnel(WIDE_TUNNEL),
                Owner::Port(RED_PORT),
                &to_machine(RED_PORT, &hop(&back)),
            );
        let last = frame.len() - 1;
        frame[last] ^= 1;
        gateway
            .from_site(&format!("{length} bytes, the last one wrong"), &frame)
            .is_dropped(Owner::Tunnel(WIDE_TUNNEL), DropReason::GreChecksum);
    }
}

#[test]
fn e6_an_unresolved_way_to_the_remote_drops_for_its_own_reason() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let inner = udp(host(to::HOME, 2, is_v6), host(to::UNRESOLVED, 9, is_v6));
        gateway
            .from_port(RED_PORT, "", &from_machine(RED_PORT, &inner))
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
                let case = gateway.from_port(RED_PORT, "", &from_machine(RED_PORT, &inner));
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
        let case = gateway.from_port(RED_PORT, "", &from_machine(RED_PORT, &fragment));
        labels.insert(without_flow_label(&case.seen.outcome.frame).1);
    }
    assert_eq!(labels.len(), 1);
}

// ---- Networks, ports, routing ----

#[test]
fn n1_two_networks_with_the_same_addresses_never_mix() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let inner = udp(host(to::HOME, 2, is_v6), host(to::SITE_OVER_V4, 9, is_v6));
        for (port, tunnel) in [(RED_PORT, RED_TUNNEL[0]), (BLUE_PORT, BLUE_TUNNEL[0])] {
            gateway
                .from_port(port, &format!("port {port}"), &from_machine(port, &inner))
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
        .from_port(BLUE_PORT, "VLAN 100", &from_machine(BLUE_PORT, &packet))
        .is_dropped(Owner::Port(BLUE_PORT), DropReason::NoRoute);
    gateway
        .from_port(GREEN_PORT, "VLAN 200", &from_machine(GREEN_PORT, &packet))
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
        .from_port(RED_PORT, "a tag on an untagged port", &tagged)
        .passes(&tagged);
    let tagged = packet::ethernet(
        ROUTER_MAC.0,
        UNDERLAY_MAC.0,
        Some(7),
        &through(RED_TUNNEL[0], &packet, 0)[ETHERNET_HEADER..],
    );
    gateway
        .from_site("a tag on the underlay", &tagged)
        .passes(&tagged);
}

#[test]
fn n3_a_priority_tag_is_no_vlan() {
    let Some(mut gateway) = gateway() else { return };
    let packet = udp(host(to::HOME, 2, false), host(to::SITE_OVER_V4, 9, false));
    let mut frame = packet::ethernet([2; 6], example::ACCESS_MAC.0, Some(0), &packet);
    frame[14] = 0xa0;
    gateway.from_port(RED_PORT, "priority 5", &frame).leaves(
        Owner::Port(RED_PORT),
        RED,
        &into_site(&site(RED_TUNNEL[0]), &hop(&packet), 0),
    );
    let mut frame = from_machine(BLUE_PORT, &packet);
    frame[14] |= 0xe0;
    gateway
        .from_port(BLUE_PORT, "priority 7 beside VLAN 100", &frame)
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
        let (asker, asked) = (v4(host(to::HOME, 2, false)), v4(host(to::HOME, 1, false)));
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
            .from_port(port, &format!("port {port}"), &request)
            .answers(&reply);
    }
}

#[test]
fn n4_arp_for_other_addresses_passes_to_the_kernel() {
    let Some(mut gateway) = gateway() else { return };
    let machine = example::machine_mac(RED_PORT).0;
    let asker = v4(host(to::HOME, 2, false));
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
            ([0; 6], v4(asked)),
        );
        gateway
            .from_port(RED_PORT, &format!("{asked}"), &request)
            .passes(&request);
    }
    // Not IPv4 over Ethernet.
    let asked = v4(host(to::HOME, 1, false));
    let mut request = arp(
        (machine, BROADCAST),
        None,
        ARP_REQUEST,
        (machine, asker),
        ([0; 6], asked),
    );
    request[ETHERNET_HEADER + 1] = 6;
    gateway
        .from_port(RED_PORT, "hardware type 6", &request)
        .passes(&request);
}

#[test]
fn n4_machines_are_learnt_from_arp() {
    let Some(mut gateway) = gateway() else { return };
    let own = example::ACCESS_MAC.0;
    let gateway_address = v4(host(to::HOME, 1, false));
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
            (mac, v4(address)),
            ([0; 6], gateway_address),
        );
        let case = gateway.from_port(RED_PORT, &format!("request of {address}"), &request);
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
            (mac, v4(address)),
            (own, gateway_address),
        );
        let case = gateway.from_port(RED_PORT, &format!("reply of {address}"), &reply);
        assert_eq!(case.seen.events, [seen], "{}", case.name);
        case.is_used_up();
    }
    let foreign = v4(host(to::NOWHERE, 5, false));
    for (name, mac, address) in [
        ("an address of no subnet of the port", new, foreign),
        (
            "a group address as MAC",
            [3, 0, 0, 0, 0, 1],
            v4(host(to::HOME, 77, false)),
        ),
        ("the gateway's own address", new, gateway_address),
    ] {
        let request = arp(
            (mac, BROADCAST),
            None,
            ARP_REQUEST,
            (mac, address),
            ([0; 6], gateway_address),
        );
        assert_eq!(
            gateway.from_port(RED_PORT, name, &request).seen.events,
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
        let (asker, asked) = (v6(host(to::HOME, 2, true)), v6(host(to::HOME, 1, true)));
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
                .from_port(
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
                .from_port(port, "asked by unicast", &frame((machine, own), &question))
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
            .from_port(
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
    let (asker, asked) = (v6(host(to::HOME, 2, true)), v6(host(to::HOME, 1, true)));
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
        gateway.from_port(RED_PORT, name, &frame).passes(&frame);
    }
}

#[test]
fn n4_machines_are_learnt_from_neighbour_discovery() {
    let Some(mut gateway) = gateway() else { return };
    let own = example::ACCESS_MAC.0;
    let asked = v6(host(to::HOME, 1, true));
    let (group, group_mac) = solicited_node(asked);
    let new = [2, 7, 7, 7, 7, 7];
    for (number, is_known) in [(77, false), (2, false), (3, false)] {
        let address = v6(host(to::HOME, number, true));
        let seen = Event::seen(RED_PORT, IpAddr::from(address).into(), MacAddress(new));
        let question = icmpv6(
            address,
            group,
            255,
            &discovery(SOLICITATION, 0, asked, Some((1, new))),
        );
        let case = gateway.from_port(
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
        let case = gateway.from_port(
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
                .from_port(port, &format!("port {port}"), &from_machine(port, &request))
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
            .from_site("through a tunnel", &through(RED_TUNNEL[1], &request, 0))
            .leaves(owner, owner, &into_site(&site(RED_TUNNEL[1]), &reply, 0));
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
        let packets = [
            ("UDP", udp(machine, own)),
            ("an echo reply", echo_reply(machine, own, 1, 1, b"")),
            ("an echo request with a code", code),
        ];
        for (name, packet) in packets {
            gateway
                .from_port(RED_PORT, name, &from_machine(RED_PORT, &packet))
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
            let case = gateway.from_site(&format!("{machine}"), &through(RED_TUNNEL[0], &inner, 0));
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
fn n4_frames_on_a_port_for_other_stations_pass_untouched() {
    let Some(mut gateway) = gateway() else { return };
    let packet = udp(host(to::HOME, 2, false), host(to::SITE_OVER_V4, 9, false));
    for destination in [BROADCAST, [2, 9, 9, 9, 9, 9], [1, 0, 0x5e, 0, 0, 1]] {
        let frame = packet::ethernet([2; 6], destination, None, &packet);
        gateway
            .from_port(RED_PORT, &format!("{destination:02x?}"), &frame)
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
                        .from_site(&case, &through(RED_TUNNEL[family], &inner, 0))
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
        .from_site("", &through(RED_TUNNEL[0], &inner, 0))
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
                .from_port(RED_PORT, "from a port", &from_machine(RED_PORT, &packet))
                .is_dropped(Owner::Port(RED_PORT), reason);
            gateway
                .from_site("from a tunnel", &through(RED_TUNNEL[0], &packet, 0))
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
                .from_port(
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
        .from_port(RED_PORT, "device gone", &from_machine(RED_PORT, &packet))
        .is_dropped_on_the_way_out(
            Owner::Port(RED_PORT),
            Owner::Port(DETACHED_PORT),
            DropReason::TransmitFailed,
        );
    let packet = udp(host(to::HOME, 2, false), host(to::ABSENT, 2, false));
    gateway
        .from_port(
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
        .from_port(
            RED_PORT,
            "route to a machine that is not there",
            &from_machine(RED_PORT, &packet),
        )
        .is_dropped(Owner::Port(RED_PORT), DropReason::MissingEntry);
    let packet = inner_to_red(false);
    gateway
        .from_site(
            "key of a tunnel that is not there",
            &through_as(&site(RED_TUNNEL[0]).with_key(3099), &packet, 0),
        )
        .is_dropped(Owner::Tunnel(ABSENT_TUNNEL), DropReason::MissingEntry);
}

// ---- Peering ----

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
                    .from_port(from, &format!("ttl {ttl}"), &from_machine(from, &packet))
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
            .from_port(RED_PORT, "", &from_machine(RED_PORT, &packet))
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
            .from_port(RED_PORT, "", &from_machine(RED_PORT, &request))
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
                .from_port(RED_PORT, name, &from_machine(RED_PORT, &packet))
                .is_dropped(Owner::Port(RED_PORT), reason);
        }
    }
}

#[test]
fn p5_a_tunnel_does_not_reach_a_peered_network() {
    let Some(mut gateway) = gateway() else { return };
    for is_v6 in [false, true] {
        let packet = udp(host(to::SITE_OVER_V4, 9, is_v6), host(to::GREEN, 2, is_v6));
        gateway
            .from_site("", &through(RED_TUNNEL[0], &packet, 0))
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
        .from_site("", &through(RED_TUNNEL[0], &packet, 0))
        .leaves(
            RED,
            Owner::Port(RED_PORT),
            &to_machine(RED_PORT, &hop(&packet)),
        );
}

// ---- The wire ----

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
        let arrived = wires[wire].expect(Duration::from_secs(2), mark);
        assert_eq!(arrived.as_deref(), Some(&expected[..]));
        for other in &mut wires {
            let strays = other.drain();
            assert!(
                strays.iter().all(|frame| mark(frame).is_none()),
                "{strays:02x?}"
            );
        }
    }
}

// ---- Below: how cases are stated ----

type Mac = [u8; 6];

const RED: Owner = Owner::Tunnel(RED_TUNNEL[0]);
const ALL_OPTIONS: Options = Options {
    checksum: true,
    key: true,
    sequence: true,
};

/// The gateway on both sides.
struct Bench {
    both: std::sync::MutexGuard<'static, BothSides>,
}

/// One frame's fate.
struct Case {
    name: String,
    seen: Seen,
    underlay: IfIndex,
}

/// The gateway with fresh sequence numbers; `None` where tests cannot run.
fn gateway() -> Option<Bench> {
    if !gre_tests::can_use_namespaces() {
        return None;
    }
    let mut both = BothSides::shared();
    both.forget_sequences();
    Some(Bench { both })
}

impl Bench {
    #[track_caller]
    fn from_site(&mut self, name: &str, frame: &[u8]) -> Case {
        self.run(self.both.devices.underlay, name, frame)
    }

    #[track_caller]
    fn from_port(&mut self, port: PortId, name: &str, frame: &[u8]) -> Case {
        self.run(frames::device(self.both.devices, port), name, frame)
    }

    #[track_caller]
    fn run(&mut self, device: IfIndex, name: &str, frame: &[u8]) -> Case {
        Case {
            name: name.to_owned(),
            seen: self.both.run(device, frame),
            underlay: self.both.devices.underlay,
        }
    }
}

impl Case {
    /// The kernel gets the frame as it came, and nothing is counted.
    #[track_caller]
    fn passes(&self, frame: &[u8]) {
        assert_eq!(
            self.seen.outcome.action,
            Action::Pass,
            "{}: {:?}",
            self.name,
            self.seen
        );
        assert_eq!(self.seen.outcome.frame, frame, "{}", self.name);
        assert_eq!(self.seen.counted, Counters::default(), "{}", self.name);
    }

    /// The frame leaves as `expected` on the same link, which is not traffic: nothing is counted.
    #[track_caller]
    fn answers(&self, expected: &[u8]) {
        assert_eq!(
            self.seen.outcome.action,
            Action::Redirect,
            "{}: {:?}",
            self.name,
            self.seen
        );
        assert_eq!(
            hex(&self.seen.outcome.frame),
            hex(expected),
            "{}",
            self.name
        );
        assert_eq!(self.seen.counted, Counters::default(), "{}", self.name);
    }

    /// The frame ends here, uncounted: it answered a question of ours.
    #[track_caller]
    fn is_used_up(&self) {
        assert_eq!(
            self.seen.outcome.action,
            Action::Drop,
            "{}: {:?}",
            self.name,
            self.seen
        );
        assert_eq!(self.seen.counted, Counters::default(), "{}", self.name);
    }

    /// The packet comes in from one owner and leaves to another as `expected`, whose flow label is not compared.
    #[track_caller]
    fn leaves(&self, from: Owner, to: Owner, expected: &[u8]) {
        assert_eq!(
            self.seen.outcome.action,
            Action::Redirect,
            "{}: {:?}",
            self.name,
            self.seen
        );
        let (frame, label) = without_flow_label(&self.seen.outcome.frame);
        let (expected, _) = without_flow_label(expected);
        assert_eq!(hex(&frame), hex(&expected), "{}", self.name);
        let is_encapsulated = matches!(to, Owner::Tunnel(_));
        assert!(
            !is_encapsulated || label != Some(0),
            "{}: no flow label",
            self.name
        );
        let traffic = |direction| {
            let stats = self
                .seen
                .counted
                .stats
                .iter()
                .filter(move |(_, stats)| match direction {
                    Direction::Receive => stats.receive_packets > 0,
                    Direction::Transmit => stats.transmit_packets > 0,
                });
            stats.map(|(owner, _)| *owner).collect::<Vec<_>>()
        };
        assert_eq!(traffic(Direction::Receive), [from], "{}", self.name);
        assert_eq!(traffic(Direction::Transmit), [to], "{}", self.name);
        assert_eq!(self.seen.counted.drops, BTreeMap::new(), "{}", self.name);
        let (received, sent) = self
            .seen
            .counted
            .stats
            .values()
            .fold((0, 0), |(received, sent), stats| {
                (received + stats.receive_bytes, sent + stats.transmit_bytes)
            });
        assert_eq!(
            received, sent,
            "{}: bytes of the inner packet on both sides",
            self.name
        );
    }

    /// The packet is for the gateway, but no tunnel claims it.
    #[track_caller]
    fn is_dropped_unclaimed(&self, reason: DropReason) {
        self.is_charged(Owner::Underlay(self.underlay), Direction::Receive, reason);
        assert_eq!(self.seen.counted.stats, BTreeMap::new(), "{}", self.name);
    }

    /// The packet is dropped where it came in.
    #[track_caller]
    fn is_dropped(&self, owner: Owner, reason: DropReason) {
        self.is_charged(owner, Direction::Receive, reason);
        self.is_received_by(owner);
    }

    /// The packet is dropped where it was to leave.
    #[track_caller]
    fn is_dropped_on_the_way_out(&self, from: Owner, to: Owner, reason: DropReason) {
        self.is_charged(to, Direction::Transmit, reason);
        self.is_received_by(from);
    }

    #[track_caller]
    fn is_charged(&self, owner: Owner, direction: Direction, reason: DropReason) {
        assert_eq!(
            self.seen.outcome.action,
            Action::Drop,
            "{}: {:?}",
            self.name,
            self.seen
        );
        let charged = BTreeMap::from([((owner, direction, reason), 1)]);
        assert_eq!(self.seen.counted.drops, charged, "{}", self.name);
    }

    #[track_caller]
    fn is_received_by(&self, owner: Owner) {
        let stats: Vec<(Owner, Stats)> = self.seen.counted.stats.clone().into_iter().collect();
        let [(by, counted)] = stats[..] else {
            panic!("{}: {stats:?}", self.name);
        };
        assert_eq!(
            (by, counted.receive_packets, counted.transmit_packets),
            (owner, 1, 0),
            "{}",
            self.name
        );
    }
}

fn udp(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    packet::udp(
        source,
        destination,
        (4000, 53),
        Fields { ttl: 61, tos: 0 },
        b"some payload",
    )
}

fn udp_of_length((source, destination): (IpAddr, IpAddr), length: usize) -> Vec<u8> {
    let headers = udp(source, destination).len() - b"some payload".len();
    let payload: Vec<u8> = (0..length - headers).map(|index| index as u8).collect();
    packet::udp(source, destination, (4000, 53), Fields::default(), &payload)
}

/// A packet of some site to the machine of red (and of blue).
fn inner_to_red(is_v6: bool) -> Vec<u8> {
    udp(host(to::SITE_OVER_V4, 9, is_v6), host(to::HOME, 2, is_v6))
}

fn echo_reply(
    source: IpAddr,
    destination: IpAddr,
    id: u16,
    number: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    let written = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
                .icmpv4_echo_reply(id, number)
                .write(&mut packet, payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
                .icmpv6_echo_reply(id, number)
                .write(&mut packet, payload)
        }
        _ => panic!("no packet goes from {source} to {destination}"),
    };
    written.expect("a packet in memory cannot fail to be written");
    packet
}

/// Tunnels of red with sequence numbers over IPv4, with or without a key.
fn numbered(key: bool) -> TunnelId {
    let options = Options {
        checksum: false,
        key,
        sequence: true,
    };
    example::options_tunnel(options, false).id
}

fn options(options: Options, over_v6: bool) -> TunnelId {
    example::options_tunnel(options, over_v6).id
}

/// One frame from the site for each kind of header that a correct sender may use.
fn valid_gre_frames() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for over_v6 in [false, true] {
        for is_v6 in [false, true] {
            let plain = through(options(ALL_OPTIONS, over_v6), &inner_to_red(is_v6), 0);
            let wrapped = if over_v6 {
                with_extension_headers(
                    &plain,
                    &[(0, &[1, 4, 0, 0, 0, 0]), (60, &[1, 4, 0, 0, 0, 0])],
                )
            } else {
                with_ipv4_options(&plain, 8)
            };
            all.extend([plain, wrapped]);
        }
    }
    all
}

/// The frame with an outer IPv4 header of this many words, filled up with no-operation options (RFC 791 §3.1).
fn with_ipv4_options(frame: &[u8], words: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let length = frame.len() - ETHERNET_HEADER + words * 4 - 20;
    frame.splice(
        GRE_OVER_V4..GRE_OVER_V4,
        std::iter::repeat_n(1, words * 4 - 20),
    );
    frame[OUTER] = 0x40 | u8::try_from(words).expect("at most 15");
    set_outer_length(&mut frame, length);
    frame
}

/// The frame with IPv6 extension headers before GRE: kind, and what follows next header and length.
fn with_extension_headers(frame: &[u8], chain: &[(u8, &[u8])]) -> Vec<u8> {
    let mut headers = Vec::new();
    let kinds = chain
        .iter()
        .map(|(kind, _)| *kind)
        .chain([gre::PROTOCOL_GRE]);
    for ((_, body), next) in chain.iter().zip(kinds.clone().skip(1)) {
        let units = u8::try_from((body.len() + 2) / 8 - 1).expect("short");
        // A fragment header has no length (RFC 8200 §4.5).
        headers.extend([next, units]);
        headers.extend(*body);
    }
    let mut frame = frame.to_vec();
    frame.splice(GRE_OVER_V6..GRE_OVER_V6, headers);
    frame[OUTER + 6] = kinds.clone().next().expect("at least GRE");
    let length = frame.len() - ETHERNET_HEADER;
    set_outer_length(&mut frame, length);
    frame
}

/// Makes the outer IP packet claim this many bytes, header included.
fn set_outer_length(frame: &mut [u8], length: usize) {
    let outer = &mut frame[OUTER..];
    if gre::version(outer) == Some(6) {
        let payload = u16::try_from(length.saturating_sub(40)).expect("a packet's length");
        outer[4..6].copy_from_slice(&payload.to_be_bytes());
    } else {
        let length = u16::try_from(length).expect("a packet's length");
        outer[2..4].copy_from_slice(&length.to_be_bytes());
        frames::correct_header_checksum(outer);
    }
}

/// Makes the checksum of the GRE header at `gre` correct, up to the end of the frame.
fn correct_gre_checksum(frame: &mut [u8], gre: usize) {
    frame[gre + 4..gre + 6].fill(0);
    let sum = gre::internet_checksum(&frame[gre..]);
    frame[gre + 4..gre + 6].copy_from_slice(&sum.to_be_bytes());
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

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).map(|line| format!("{line:02x?}\n"));
    lines.collect()
}

fn v4(address: IpAddr) -> std::net::Ipv4Addr {
    frames::ipv4(address)
}

fn v6(address: IpAddr) -> Ipv6Addr {
    frames::ipv6(address)
}
