//! What the gateway makes of GRE that arrives, packet by packet: RFC 2784, 2890, 7676 and 6040.
//!
//! Every frame goes through the kernel's program and through the same pipeline on the host. What is expected is built
//! and judged independently of `gre-common`.

use std::time::Duration;

use gre_common::counters::Owner;
use gre_common::id::TunnelId;
use gre_common::verdict::DropReason;
use gre_model::Action;
use gre_model::example::{
    self, ASYMMETRIC_TUNNEL, BLUE_PORT, BLUE_TUNNEL, GREEN_PORT, GREEN_TUNNEL, LOCAL, NOT_LOCAL,
    Options, RED_PORT, RED_TUNNEL, SITE, YELLOW_PORT, YELLOW_TUNNEL, host, to,
};
use gre_tests::fixture::gateway;
use gre_tests::frames::{
    self, BROADCAST, GRE_OVER_V4, GRE_OVER_V6, OUTER, correct_gre_checksum, from_machine,
    from_site, hop, inner_to_red, into_site, set_outer_length, site, through, through_as,
    to_machine, udp, valid_gre_frames, with_extension_headers, with_ipv4_options, with_tos,
};
use gre_tests::gre::{Header, Tunnel};
use gre_tests::packet::{self, ETHERNET_HEADER, Fields};

const RED: Owner = Owner::Tunnel(RED_TUNNEL[0]);

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
                    .site_sends(&format!("{options:?}, v6 {over_v6}/{is_v6}"), &frame)
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
        let case = gateway.site_sends(&format!("bit {bit}"), &frame);
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
            .site_sends(&format!("version {version}"), &frame)
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
        .site_sends("checksum of another Reserved1", &frame)
        .is_dropped(RED, DropReason::GreChecksum);
    correct_gre_checksum(&mut frame, GRE_OVER_V4);
    gateway.site_sends("correct", &frame).leaves(
        RED,
        Owner::Port(RED_PORT),
        &to_machine(RED_PORT, &hop(&inner)),
    );
}

#[test]
fn r3_a_checksum_covers_header_and_payload_and_every_wrong_bit_drops() {
    let Some(mut gateway) = gateway() else { return };
    for over_v6 in [false, true] {
        let tunnel = example::options_tunnel(Options::ALL, over_v6);
        let gre = if over_v6 { GRE_OVER_V6 } else { GRE_OVER_V4 };
        let good = through(tunnel.id, &inner_to_red(false), 7);
        // Checksum, Reserved1, sequence number and payload: nothing of these decides which tunnel it is.
        for at in (gre + 4..gre + 8).chain(gre + 12..good.len()) {
            let mut frame = good.clone();
            frame[at] ^= 0x04;
            gateway
                .site_sends(&format!("byte {at} of {} is wrong", good.len()), &frame)
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
        .site_sends("padding behind a tunnelled packet", &frame)
        .leaves(
            Owner::Tunnel(tunnel.id),
            Owner::Port(RED_PORT),
            &to_machine(RED_PORT, &hop(&inner)),
        );
    let mut inner = udp(host(to::HOME, 2, false), host(tunnel.destination, 9, false));
    let frame = [from_machine(RED_PORT, &inner), vec![0xee; 18]].concat();
    inner = hop(&inner);
    gateway
        .machine_sends(RED_PORT, "padding behind a machine's packet", &frame)
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
                .site_sends(
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
    gateway.site_sends("correct", &frame).leaves(
        RED,
        Owner::Port(RED_PORT),
        &to_machine(RED_PORT, &hop(&inner)),
    );
    frame[GRE_OVER_V4 + 4] ^= 1;
    gateway
        .site_sends("wrong", &frame)
        .is_dropped(RED, DropReason::GreChecksum);
}

#[test]
fn r4_only_newer_sequence_numbers_are_accepted_and_they_wrap() {
    let Some(mut gateway) = gateway() else { return };
    let (one, other) = (numbered(true), numbered(false));
    let last = u32::MAX;
    let (old, jump) = (
        Some(DropReason::SequenceOld),
        Some(DropReason::SequenceJump),
    );
    let steps = [
        (one, 0, None),
        (one, 0, old),
        (one, 1, None),
        (one, 5, None),
        (one, 4, old),
        (one, 5, old),
        (one, last, old),
        // The other tunnel has not seen anything yet.
        (other, last - 1, None),
        (other, last, None),
        (other, 0, None),
        (other, last, old),
        (one, 0x7fff_ffff, jump),
        (one, 65_541, None),
        (one, 65_541 + 65_537, jump),
        (one, 65_542, None),
        (other, 1, None),
    ];
    for (step, (tunnel, number, refused)) in steps.into_iter().enumerate() {
        let inner = inner_to_red(false);
        let case = gateway.site_sends(&format!("step {step}"), &through(tunnel, &inner, number));
        match refused {
            None => case.leaves(
                Owner::Tunnel(tunnel),
                Owner::Port(RED_PORT),
                &to_machine(RED_PORT, &hop(&inner)),
            ),
            Some(reason) => case.is_dropped(Owner::Tunnel(tunnel), reason),
        }
    }
}

#[test]
fn r4_numbers_elsewhere_are_believed_after_a_run_of_sixteen() {
    let Some(mut gateway) = gateway() else { return };
    let tunnel = numbered(true);
    let inner = inner_to_red(false);
    let (owner, port) = (Owner::Tunnel(tunnel), Owner::Port(RED_PORT));
    for (start, refused) in [
        (1_000_000, None),
        (9_000_000, Some(DropReason::SequenceJump)),
        (0, Some(DropReason::SequenceOld)),
    ] {
        for number in 0..20 {
            let frame = through(tunnel, &inner, start + number);
            let case = gateway.site_sends(&format!("{start} and {number}"), &frame);
            match refused {
                Some(reason) if number < 15 => case.is_dropped(owner, reason),
                _ => case.leaves(owner, port, &to_machine(RED_PORT, &hop(&inner))),
            }
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
            .site_sends("no number", &through_as(&without, &inner_to_red(false), 0))
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
            .site_sends(&format!("number {number}"), &frame)
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
    let mut send = |case: &str, silence, number| {
        let frame = through(tunnel, &inner, number);
        gateway.site_sends_after(Duration::from_secs(silence), case, &frame)
    };
    send("before", 0, 1_000_000).leaves(owner, port, &expected);
    send("at once", 0, 0).is_dropped(owner, DropReason::SequenceOld);
    send("after a silence", 2, 0).leaves(owner, port, &expected);
    send("from there on", 0, 1).leaves(owner, port, &expected);
    send("a repeat", 0, 1).is_dropped(owner, DropReason::SequenceOld);
}

#[test]
fn r5_outer_ipv4_options_are_skipped() {
    let Some(mut gateway) = gateway() else { return };
    let inner = inner_to_red(false);
    for words in 6..=15 {
        let frame = with_ipv4_options(&through(RED_TUNNEL[0], &inner, 0), words);
        gateway.site_sends(&format!("IHL {words}"), &frame).leaves(
            RED,
            Owner::Port(RED_PORT),
            &to_machine(RED_PORT, &hop(&inner)),
        );
        let mut wrong = frame;
        let last_option = OUTER + words * 4 - 1;
        wrong[last_option] ^= 1;
        gateway
            .site_sends(&format!("IHL {words}, checksum of other options"), &wrong)
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
        .site_sends("checksum", &wrong)
        .is_dropped_unclaimed(DropReason::OuterChecksum);
    for words in 0..5 {
        let mut wrong = good.clone();
        wrong[OUTER] = 0x40 | words;
        gateway
            .site_sends(&format!("IHL {words}"), &wrong)
            .is_dropped_unclaimed(DropReason::OuterMalformed);
    }
    let mut wrong = good.clone();
    set_outer_length(&mut wrong, 19);
    gateway
        .site_sends("total length below the header's", &wrong)
        .is_dropped_unclaimed(DropReason::OuterMalformed);
    let mut wrong = good.clone();
    set_outer_length(&mut wrong, good.len() - ETHERNET_HEADER + 1);
    gateway
        .site_sends("total length beyond the frame", &wrong)
        .is_dropped_unclaimed(DropReason::Truncated);
}

#[test]
fn r5_outer_ipv6_extension_headers_that_are_done_with_are_skipped() {
    let Some(mut gateway) = gateway() else { return };
    let inner = inner_to_red(true);
    // The last is what Linux's ip6gre sends: a tunnel encapsulation limit (RFC 2473 §4.1.1).
    let whole: &[u8] = &[0, 0, 1, 2, 3, 4];
    let used_up: &[u8] = &[4, 0, 0, 0, 0, 0];
    let option: &[u8] = &[1, 4, 0, 0, 0, 0];
    let chains: [&[(u8, &[u8])]; 7] = [
        &[(44, whole)],
        &[(43, used_up)],
        &[
            (0, option),
            (60, option),
            (43, used_up),
            (44, whole),
            (60, option),
        ],
        &[(0, &[1, 4, 0, 0, 0, 0])],
        &[(0, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
        &[(0, &[1, 4, 0, 0, 0, 0]), (60, &[1, 4, 0, 0, 0, 0])],
        &[(60, &[4, 1, 4, 1, 1, 0])],
    ];
    for chain in chains {
        let frame = with_extension_headers(&through(RED_TUNNEL[1], &inner, 0), chain);
        gateway.site_sends(&format!("{chain:?}"), &frame).leaves(
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
        // A routing header has one segment left.
        let body: &[u8] = &[0, 1, 0, 0, 0, 0];
        let frame = with_extension_headers(&good, &[(kind, body)]);
        gateway.site_sends(name, &frame).passes(&frame);
        let frame = with_extension_headers(&good, &[(60, &[1, 4, 0, 0, 0, 0]), (kind, body)]);
        gateway
            .site_sends(&format!("{name} behind options"), &frame)
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
            .site_sends(&format!("IPv4, {name}"), &frame)
            .is_dropped_unclaimed(DropReason::OuterFragment);
    }
    let v6 = through(RED_TUNNEL[1], &inner_to_red(false), 0);
    for (name, bits) in [("first", 1_u16), ("middle", 0x11), ("last", 0x10)] {
        let [high, low] = bits.to_be_bytes();
        let frame = with_extension_headers(&v6, &[(44, &[high, low, 0, 0, 0, 7])]);
        gateway
            .site_sends(&format!("IPv6, {name}"), &frame)
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
                .site_sends(case, &through_as(&stranger, &inner_to_red(false), 0))
                .is_dropped_unclaimed(DropReason::UnknownTunnel);
        }
    }
}

#[test]
fn r7_key_0_and_no_key_are_two_tunnels() {
    let Some(mut gateway) = gateway() else { return };
    let to_green = udp(host(to::NOWHERE, 9, false), host(to::GREEN, 2, false));
    gateway
        .site_sends("no key", &through(GREEN_TUNNEL, &to_green, 0))
        .leaves(
            Owner::Tunnel(GREEN_TUNNEL),
            Owner::Port(GREEN_PORT),
            &to_machine(GREEN_PORT, &hop(&to_green)),
        );
    let to_yellow = udp(host(to::NOWHERE, 9, false), host(to::YELLOW, 2, false));
    gateway
        .site_sends("key 0", &through(YELLOW_TUNNEL, &to_yellow, 0))
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
        gateway.site_sends("as it should be", &good).passes(&good);
        let gre = if over_v6 { GRE_OVER_V6 } else { GRE_OVER_V4 };
        let mut odd = good.clone();
        odd[gre] |= 0x40;
        gateway.site_sends("with a reserved bit", &odd).passes(&odd);
        let mut odd = good.clone();
        odd[gre + 1] |= 1;
        gateway.site_sends("of version 1", &odd).passes(&odd);
        let mut odd = good.clone();
        odd.truncate(gre + 2);
        gateway
            .site_sends("cut in its GRE header", &odd)
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
            .site_sends("UDP to the gateway", &frame)
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
        .site_sends("IPv6 with no next header", &frame)
        .passes(&frame);
    let mut frame = frame[..OUTER].to_vec();
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    frame.extend([0; 46]);
    gateway.site_sends("LLDP", &frame).passes(&frame);
    let mut frame = through(RED_TUNNEL[0], &inner_to_red(false), 0);
    frame[5] ^= 1;
    gateway
        .site_sends("GRE in a frame for another station", &frame)
        .passes(&frame);
    frame[..6].copy_from_slice(&BROADCAST);
    gateway
        .site_sends("GRE in a broadcast", &frame)
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
                    .site_sends(&format!("tunnel {tunnel}"), &through(tunnel, &inner, 0))
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
        .site_sends("its receive key", &through(ASYMMETRIC_TUNNEL, &inner, 0))
        .leaves(
            owner,
            Owner::Port(RED_PORT),
            &to_machine(RED_PORT, &hop(&inner)),
        );
    gateway
        .site_sends(
            "its transmit key",
            &through_as(&site(RED_TUNNEL[0]).with_key(3002), &inner, 0),
        )
        .is_dropped_unclaimed(DropReason::UnknownTunnel);
    let out = udp(host(to::HOME, 2, false), host(to::ASYMMETRIC, 9, false));
    let seen = gateway.machine_sends(RED_PORT, "outwards", &from_machine(RED_PORT, &out));
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
            .site_sends(&format!("{wrong:02x?}"), &frame)
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
            .site_sends(&format!("{kind:#06x}"), &frame)
            .is_dropped(RED, DropReason::GreProtocol);
    }
}

#[test]
fn r10_a_frame_cut_at_any_byte_drops() {
    let Some(mut gateway) = gateway() else { return };
    for frame in valid_gre_frames() {
        for length in ETHERNET_HEADER..frame.len() {
            let case =
                gateway.site_sends(&format!("{length} of {}", frame.len()), &frame[..length]);
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
                .machine_sends(
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
            let case = gateway.site_sends(&format!("{length} of {}", frame.len()), &frame);
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
            .site_sends(&format!("IHL {words}"), &frame)
            .is_dropped(RED, DropReason::InnerMalformed);
    }
    for (name, length) in [("below its header", 19), ("beyond what GRE carried", 200)] {
        let mut frame = v4.clone();
        frame[inner + 2..inner + 4].copy_from_slice(&u16::to_be_bytes(length));
        frames::correct_header_checksum(&mut frame[inner..]);
        gateway
            .site_sends(name, &frame)
            .is_dropped(RED, DropReason::InnerMalformed);
    }
    let mut frame = v4.clone();
    frame[inner + 10] ^= 1;
    gateway
        .site_sends("header checksum", &frame)
        .is_dropped(RED, DropReason::InnerChecksum);
    let mut frame = through(RED_TUNNEL[0], &inner_to_red(true), 0);
    frame[inner + 5] += 1;
    gateway
        .site_sends("IPv6 payload length beyond what GRE carried", &frame)
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
                        gateway.site_sends(&format!("outer {outer:02b} inner {ecn:02b}"), &frame);
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
