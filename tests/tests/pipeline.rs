//! Properties of the packet pipeline on the host, which need no privilege.

use std::net::IpAddr;

use gre_common::event_budget::EventBudget;
use gre_common::id::IfIndex;
use gre_model::example::{
    self, BLUE_PORT, BLUE_TUNNEL, Devices, Options, RED_PORT, RED_TUNNEL, host, to,
};
use gre_model::{Action, Counters, HostGateway, Outcome};
use gre_tests::frames::{
    self, from_machine, from_site, hop, inner_to_red, site, through, valid_gre_frames, with_ttl,
};
use gre_tests::gre::Outer;
use gre_tests::packet::{self, ETHERNET_HEADER, Fields};
use gre_tests::random::{self, Random};
use proptest::prelude::*;

const DEVICES: Devices = Devices {
    underlay: IfIndex(2),
    access: IfIndex(3),
    trunk: IfIndex(4),
};

proptest! {
    #[test]
    fn what_a_tunnel_carries_arrives_as_it_was_sent_but_for_its_hops(
        options in 0usize..8,
        over_v6: bool,
        is_v6: bool,
        ports: (u16, u16),
        fields in (3u8.., any::<u8>()),
        payload in proptest::collection::vec(any::<u8>(), 0..1300),
    ) {
        let gateway = gateway();
        let options = Options::all().nth(options).expect("one of eight");
        let tunnel = example::options_tunnel(options, over_v6);
        let (source, destination) = (host(to::HOME, 2, is_v6), host(tunnel.destination, 9, is_v6));
        let fields = Fields { ttl: fields.0, tos: fields.1 };
        let inner = packet::udp(source, destination, ports, fields, &payload);

        let sent = redirected(&gateway, DEVICES.access, &from_machine(RED_PORT, &inner));
        prop_assert_eq!(&carried(&site(tunnel.id), &sent), &hop(&inner));

        // The site sends it back as it is: the gateway takes it out and, by its destination, puts it in again.
        let again = redirected(&gateway, DEVICES.underlay, &sent_back(&sent));
        prop_assert_eq!(&carried(&site(tunnel.id), &again), &hop(&hop(&inner)));
        prop_assert_eq!(again.len(), sent.len());
        prop_assert!(gateway.counters().are_balanced());
    }

    #[test]
    fn random_bytes_never_panic_and_are_accounted_for(
        device in 0u32..6,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let gateway = gateway();
        let (outcome, _) = gateway.run(IfIndex(device), &bytes);
        check_accounts(&gateway, &outcome, &bytes);
    }

    #[test]
    fn random_bytes_behind_a_sound_beginning_never_panic_and_are_accounted_for(
        frame in proptest::sample::select(valid_frames()),
        keep in 0usize..120,
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let gateway = gateway();
        let (device, frame) = frame;
        let bytes = [&frame[..keep.min(frame.len())], &rest].concat();
        let (outcome, _) = gateway.run(device, &bytes);
        check_accounts(&gateway, &outcome, &bytes);
    }
}

#[test]
fn a_packet_cut_at_any_length_is_never_forwarded() {
    let gateway = gateway();
    for (device, frame) in valid_frames() {
        gateway.forget();
        let (whole, _) = gateway.run(device, &frame);
        assert_eq!(whole.action, Action::Redirect, "{frame:02x?}");
        for length in 0..frame.len() {
            gateway.forget();
            let (cut, _) = gateway.run(device, &frame[..length]);
            assert_ne!(cut.action, Action::Redirect, "{length} of {frame:02x?}");
        }
    }
    assert!(gateway.counters().are_balanced());
}

#[test]
fn random_traffic_is_accounted_for_packet_by_packet() {
    let gateway = gateway();
    let mut random = Random::new(random::seed(), DEVICES);
    let mut before = Counters::default();
    for number in 0..20_000 {
        if number % 500 == 0 {
            gateway.forget();
        }
        let arrival = random.any(&gateway);
        let (outcome, reason) = gateway.run(arrival.device, &arrival.frame);
        let now = gateway.counters();
        let counted = now.since(&before);
        assert!(counted.are_balanced(), "{counted:?} {outcome:?}");
        assert_eq!(
            counted.drops.values().sum::<u64>(),
            u64::from(reason.is_some())
        );
        before = now;
    }
    assert!(
        before.transmitted() > 1000 && before.dropped() > 1000,
        "{before:?}"
    );
}

#[test]
fn a_port_that_asks_for_more_than_its_budget_is_silent_until_the_next_tick_and_drops_all_the_same()
{
    const SECOND: u64 = 1_000_000_000;
    let gateway = gateway();
    let unknown = frames::udp(host(to::SITE_OVER_V4, 9, false), host(to::HOME, 88, false));
    let [red, blue] = [RED_TUNNEL, BLUE_TUNNEL].map(|[tunnel, _]| through(tunnel, &unknown, 0));
    for second in 1..4 {
        gateway.set_time(second * SECOND);
        for _ in 0..1000 {
            gateway.run(DEVICES.underlay, &red);
        }
        gateway.run(DEVICES.underlay, &blue);
        let events = gateway.take_events();
        let of = |port| events.iter().filter(|event| event.port == port).count() as u64;
        assert_eq!((of(RED_PORT), of(BLUE_PORT)), (EventBudget::EVENTS, 1));
    }
    assert_eq!(gateway.counters().dropped(), 3 * 1001);
}

fn gateway() -> HostGateway {
    HostGateway::new(&example::gateway(DEVICES))
}

#[track_caller]
fn redirected(gateway: &HostGateway, device: IfIndex, frame: &[u8]) -> Vec<u8> {
    let (outcome, reason) = gateway.run(device, frame);
    assert_eq!(outcome.action, Action::Redirect, "{reason:?}: {frame:02x?}");
    outcome.frame
}

/// The packet that a frame of the gateway brings to a site, which judges all that is around it.
#[track_caller]
fn carried(site: &gre_tests::gre::Tunnel, frame: &[u8]) -> Vec<u8> {
    let outer = Outer::parse(&frame[ETHERNET_HEADER..]);
    let outer = outer.expect("a sound outer header").expect("GRE");
    let (inner, _) = site.check(&outer).expect("what the site accepts");
    inner.to_vec()
}

/// A frame of the gateway as its receiver would send it back: addresses exchanged, which changes no checksum.
fn sent_back(frame: &[u8]) -> Vec<u8> {
    let mut outer = frame[ETHERNET_HEADER..].to_vec();
    let (first, length) = if outer[0] >> 4 == 6 { (8, 16) } else { (12, 4) };
    let (source, destination) = outer[first..first + 2 * length].split_at_mut(length);
    source.swap_with_slice(destination);
    from_site(&outer)
}

/// Frames that are forwarded or answered, one of each kind of header, without padding.
fn valid_frames() -> Vec<(IfIndex, Vec<u8>)> {
    let mut all: Vec<(IfIndex, Vec<u8>)> = Vec::new();
    all.extend(
        valid_gre_frames()
            .into_iter()
            .map(|frame| (DEVICES.underlay, frame)),
    );
    for is_v6 in [false, true] {
        for options in Options::all() {
            for over_v6 in [false, true] {
                let tunnel = example::options_tunnel(options, over_v6);
                let inner = inner_to_red(is_v6);
                all.push((DEVICES.underlay, through(tunnel.id, &inner, 0)));
                let out = frames::udp(host(to::HOME, 2, is_v6), host(tunnel.destination, 9, is_v6));
                all.push((DEVICES.access, from_machine(RED_PORT, &out)));
                let on = frames::udp(
                    host(to::NOWHERE, 2, is_v6),
                    host(tunnel.destination, 9, is_v6),
                );
                all.push((DEVICES.underlay, through(RED_TUNNEL[0], &on, 0)));
            }
        }
        for number in [to::GREEN, to::NARROW_PORT] {
            let packet = with_ttl(
                &frames::udp(host(to::HOME, 2, is_v6), host(number, 2, is_v6)),
                1,
            );
            all.push((DEVICES.access, from_machine(RED_PORT, &packet)));
        }
        let own = host(to::HOME, 1, is_v6);
        let request = packet::echo_request(host(to::HOME, 2, is_v6), own, 1, 1, b"echo");
        all.push((DEVICES.access, from_machine(RED_PORT, &request)));
        all.push((DEVICES.trunk, from_machine(BLUE_PORT, &request)));
        all.push((DEVICES.access, question(own)));
    }
    all
}

/// A machine's question for the gateway's MAC address.
fn question(own: IpAddr) -> Vec<u8> {
    let mac = example::machine_mac(RED_PORT).0;
    match own {
        IpAddr::V4(own) => {
            let asker = frames::ipv4(host(to::HOME, 2, false));
            let ends = (mac, frames::BROADCAST);
            frames::arp(ends, None, frames::ARP_REQUEST, (mac, asker), ([0; 6], own))
        }
        IpAddr::V6(own) => {
            let asker = frames::ipv6(host(to::HOME, 2, true));
            let (group, group_mac) = frames::solicited_node(own);
            let message = frames::discovery(frames::SOLICITATION, 0, own, Some((1, mac)));
            let packet = frames::icmpv6(asker, group, 255, &message);
            packet::ethernet(mac, group_mac, None, &packet)
        }
    }
}

#[track_caller]
fn check_accounts(gateway: &HostGateway, outcome: &Outcome, frame: &[u8]) {
    let counters = gateway.counters();
    assert!(
        counters.received() <= 1 && counters.are_balanced(),
        "{counters:?}"
    );
    if outcome.action == Action::Pass {
        assert_eq!(outcome.frame, frame, "what passes is untouched");
        assert_eq!(counters, Counters::default(), "what passes is not counted");
    }
}
