//! Tier 3: peerings between networks (CASES P1–P4).

use std::net::IpAddr;

use gre_tests::can_use_namespaces;
use gre_tests::configuration as toml;
use gre_tests::gateway::{Gateway, describe};
use gre_tests::netns::Namespace;
use gre_tests::packet;
use gre_tests::scenario::{NETWORK, Office, RunningOffice, machine_address};
use gre_tests::stream::{self, FULL_RATE, Stream};
use gre_tests::topology::{Machine, Underlay};
use gre_tests::transfer;
use gre_tests::wire::Wire;

/// Networks 0, 1, 2 … with one port and one machine each, in both families, and nothing that joins them.
struct Networks {
    gateway: Gateway,
    machines: Vec<Machine>,
    plain: String,
    _underlay: Underlay,
    _namespace: Namespace,
}

impl Networks {
    fn start(count: usize) -> Self {
        let namespace = Namespace::new("gateway");
        let underlay = Underlay::new(&namespace, 0);
        let mut plain = toml::gateway() + &underlay.configuration();
        let mut machines = Vec::new();
        for number in 0..count {
            let name = name(number);
            let [ipv4, ipv6] = [format!("10.{number}.0.1"), format!("fd00:{number}::1")];
            plain += &toml::tenant_with_network(
                &name,
                &[&space(number), &format!("fd00:{number}::/32")],
            );
            plain += &toml::port(
                &name,
                &name,
                None,
                &[&format!("{ipv4}/24"), &format!("{ipv6}/64")],
            );
            let addresses = [
                format!("10.{number}.0.4/24"),
                format!("fd00:{number}::4/64"),
            ];
            machines.push(Machine::on_port(
                &namespace,
                &name,
                &[&addresses[0], &addresses[1]],
                &[&ipv4, &ipv6],
            ));
        }
        let gateway = Gateway::start(&namespace, &plain);
        for (number, machine) in machines.iter().enumerate() {
            for ipv6 in [false, true] {
                assert!(
                    machine.namespace.reaches(router(number, ipv6)),
                    "network {number} works by itself"
                );
            }
        }
        Self {
            gateway,
            machines,
            plain,
            _underlay: underlay,
            _namespace: namespace,
        }
    }

    /// Applies the plain configuration with these one-sided statements.
    #[track_caller]
    fn peer(&self, statements: &[(usize, usize)]) {
        let peerings: String = statements
            .iter()
            .map(|(ours, theirs)| toml::peering(&name(*ours), &name(*theirs)))
            .collect();
        self.gateway.apply(&[&*self.plain, &peerings].concat());
    }

    /// State of the statement of network `ours` about `theirs`.
    fn state(&self, ours: usize, theirs: usize) -> Option<String> {
        let rows = self.gateway.show("peering");
        let row = rows
            .iter()
            .find(|row| row["network"] == name(ours) && row["remote"] == name(theirs))?;
        row["state"].as_str().map(str::to_owned)
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        [false, true]
            .into_iter()
            .all(|ipv6| self.machines[from].namespace.reaches(machine(to, ipv6)))
    }

    /// Whether a packet of each family is dropped for want of a route and none arrives.
    fn is_cut_off(&self, from: usize, to: usize) -> bool {
        let machines = &self.machines;
        let sender = &machines[from];
        let drops = || {
            let port = self.gateway.traffic("port", &name(from));
            port.dropped("no_route")
        };
        let (before, mut arriving) = (drops(), Wire::open(&machines[to].end));
        for ipv6 in [false, true] {
            let (source, destination) = (machine(from, ipv6), machine(to, ipv6));
            let echo = packet::echo_request(source, destination, 1, 1, b"cut off");
            let frame = packet::ethernet(sender.end.mac, sender.gateway.mac, None, &echo);
            Wire::open(&sender.end).send(&frame);
        }
        [from, to]
            .iter()
            .for_each(|number| machines[*number].barrier());
        let frames = arriving.drain();
        drops() == before + 2
            && !frames
                .iter()
                .any(|frame| packet::contains(frame, b"cut off"))
    }
}

/// P1: one statement is not enough; two connect the networks; taking one back cuts them off.
#[test]
fn a_peering_carries_traffic_only_while_both_sides_state_it() {
    if !can_use_namespaces() {
        return;
    }
    let networks = Networks::start(2);
    assert!(networks.is_cut_off(0, 1) && networks.is_cut_off(1, 0));
    networks.peer(&[(0, 1)]);
    assert_eq!(networks.state(0, 1).as_deref(), Some("initiated"));
    assert!(networks.is_cut_off(0, 1) && networks.is_cut_off(1, 0));
    networks.peer(&[(0, 1), (1, 0)]);
    assert_eq!(networks.state(0, 1).as_deref(), Some("connected"));
    assert_eq!(networks.state(1, 0).as_deref(), Some("connected"));
    assert!(
        networks.reaches(0, 1) && networks.reaches(1, 0),
        "{}",
        networks.gateway.cli_ok(&["show", "drop"])
    );
    networks.peer(&[(0, 1)]);
    assert_eq!(networks.state(0, 1).as_deref(), Some("disconnected"));
    assert!(networks.is_cut_off(0, 1) && networks.is_cut_off(1, 0));
}

/// P1: two peered networks look like one link: no hop, no address translation, any TCP stream.
#[test]
fn peered_networks_talk_by_their_own_addresses_without_an_added_hop() {
    if !can_use_namespaces() {
        return;
    }
    let networks = Networks::start(2);
    networks.peer(&[(0, 1), (1, 0)]);
    for ipv6 in [false, true] {
        assert!(networks.reaches(0, 1));
        let mut wire = Wire::open(&networks.machines[1].end);
        networks.machines[0]
            .namespace
            .expect_pings(machine(1, ipv6), 5, 64, "");
        let sources: Vec<_> = wire
            .drain()
            .iter()
            .filter_map(|frame| echo_request_source(frame))
            .collect();
        assert_eq!(sources, vec![machine(0, ipv6); 5]);
        let [client, server] = [0, 1].map(|number| &networks.machines[number].namespace);
        transfer::tcp(client, server, machine(1, ipv6), 4 << 20, 1).unwrap();
        transfer::tcp(server, client, machine(0, ipv6), 4 << 20, 2).unwrap();
    }
}

/// P2: overlapping networks cannot be peered, and the message names both prefixes.
#[test]
fn networks_with_overlapping_address_spaces_cannot_be_peered() {
    if !can_use_namespaces() {
        return;
    }
    let networks = Networks::start(2);
    let overlapping = networks
        .plain
        .replace("\"10.1.0.0/16\"", "\"10.1.0.0/16\", \"10.0.128.0/17\"");
    let peered = [
        &*overlapping,
        &toml::peering("net0", "net1"),
        &toml::peering("net1", "net0"),
    ]
    .concat();
    let output = networks.gateway.try_apply(&peered);
    let message = describe(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    for prefix in ["10.0.0.0/16", "10.0.128.0/17"] {
        assert!(
            message.contains(prefix),
            "{prefix} is not named in {message}"
        );
    }
    assert!(
        networks.gateway.show("peering").is_empty(),
        "nothing changed"
    );
    networks.gateway.apply(&overlapping);
}

/// P2: the address space of a peered network stands; after removing the peering it can change, and peer again.
#[test]
fn a_peered_network_keeps_its_address_space_until_the_peering_is_removed() {
    if !can_use_namespaces() {
        return;
    }
    let networks = Networks::start(2);
    let both = [toml::peering("net0", "net1"), toml::peering("net1", "net0")].concat();
    networks.gateway.apply(&[&*networks.plain, &both].concat());
    let wider = networks
        .plain
        .replace("\"10.1.0.0/16\"", "\"10.1.0.0/16\", \"10.9.0.0/16\"");
    let refused = networks.gateway.try_apply(&[&*wider, &both].concat());
    assert!(
        !refused.status.success(),
        "the address space changed under a peering"
    );
    assert!(
        describe(&refused).contains("net1"),
        "{}",
        describe(&refused)
    );
    assert!(networks.reaches(0, 1), "the peering still works");
    networks.gateway.apply(&networks.plain);
    networks.gateway.apply(&wider);
    networks.gateway.apply(&[&*wider, &both].concat());
    assert_eq!(networks.state(0, 1).as_deref(), Some("connected"));
    assert!(networks.reaches(0, 1) && networks.reaches(1, 0));
}

/// P2 across a restart: another file does not bring another address space under a standing peering; what ran runs on.
#[test]
fn a_restart_does_not_change_the_address_space_of_a_peered_network() {
    if !can_use_namespaces() {
        return;
    }
    let mut networks = Networks::start(2);
    let both = [toml::peering("net0", "net1"), toml::peering("net1", "net0")].concat();
    networks.gateway.apply(&[&*networks.plain, &both].concat());
    let wider = networks
        .plain
        .replace("\"10.1.0.0/16\"", "\"10.1.0.0/16\", \"10.9.0.0/16\"");
    networks.gateway.kill();
    let file = networks.gateway.configuration_file();
    let path = file.to_string_lossy();
    let write = |text: &[&str]| {
        std::fs::write(&file, text.concat()).expect("the temporary directory is writable");
    };
    write(&[&wider, &both]);
    let refused = networks.gateway.cli(&["run", "-c", &path]);
    let message = describe(&refused);
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(
        message.contains("net1") && message.contains("10.9.0.0/16"),
        "{message}"
    );
    assert!(networks.reaches(0, 1), "the peering still works");
    // Without the peering it may be another one.
    write(&[&wider]);
    networks.gateway.run();
    networks.gateway.apply(&[&*wider, &both].concat());
    assert!(networks.reaches(0, 1) && networks.reaches(1, 0));
}

/// P3: A–B and B–C do not make A–C.
#[test]
fn peering_is_not_transitive() {
    if !can_use_namespaces() {
        return;
    }
    let networks = Networks::start(3);
    networks.peer(&[(0, 1), (1, 0), (1, 2), (2, 1)]);
    assert!(networks.reaches(0, 1) && networks.reaches(1, 2) && networks.reaches(2, 1));
    let mut wire = Wire::open(&networks.machines[2].end);
    assert!(networks.is_cut_off(0, 2) && networks.is_cut_off(2, 0));
    let leaked = wire
        .drain()
        .iter()
        .filter_map(|frame| echo_request_source(frame))
        .count();
    assert_eq!(leaked, 0, "packets of the first network reached the third");
}

/// P4: peerings come and go beside a stream of one of the two networks; it loses no packet.
#[test]
fn creating_and_removing_a_peering_loses_no_packet_of_other_flows() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let other = Machine::on_port(
        &office.namespace,
        "other",
        &["10.40.0.4/24"],
        &["10.40.0.1"],
    );
    let plain = [
        office.configuration(),
        toml::tenant_with_network("other", &["10.40.0.0/16"]),
        toml::port("other", "other", None, &["10.40.0.1/24"]),
    ]
    .concat();
    let RunningOffice {
        gateway,
        branch,
        office,
    } = office.start();
    // The stream ends on the wire: nobody needs to decapsulate it.
    drop(branch);
    gateway.apply(&plain);
    let peered = [
        &*plain,
        &toml::peering(NETWORK, "other"),
        &toml::peering("other", NETWORK),
    ]
    .concat();
    let frame = office.frame_to_branch(&stream::payload(1, 64));
    let stream = Stream::start(office.path_to_branch(), frame, FULL_RATE);
    for _ in 0..3 {
        stream.flow(10_000);
        gateway.apply(&peered);
        assert!(
            other.namespace.reaches(machine_address(false)),
            "the peering works"
        );
        gateway.apply(&plain);
        assert!(gateway.show("peering").is_empty(), "the peering is gone");
    }
    stream.flow(10_000);
    let report = stream.stop();
    println!("{report:?}");
    report.assert_nothing_lost();
}

fn name(number: usize) -> String {
    format!("net{number}")
}

fn space(number: usize) -> String {
    format!("10.{number}.0.0/16")
}

fn machine(number: usize, ipv6: bool) -> IpAddr {
    address(number, ipv6, 4)
}

fn router(number: usize, ipv6: bool) -> IpAddr {
    address(number, ipv6, 1)
}

fn address(number: usize, ipv6: bool, host: u8) -> IpAddr {
    let text = if ipv6 {
        format!("fd00:{number}::{host}")
    } else {
        format!("10.{number}.0.{host}")
    };
    text.parse().expect("it is an address")
}

/// The source of a frame that carries an echo request of either family.
fn echo_request_source(frame: &[u8]) -> Option<IpAddr> {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).ok()?;
    let is_request = match sliced.transport? {
        etherparse::TransportSlice::Icmpv4(icmp) => icmp.type_u8() == 8,
        etherparse::TransportSlice::Icmpv6(icmp) => icmp.type_u8() == 128,
        _ => false,
    };
    if !is_request {
        return None;
    }
    match sliced.net? {
        etherparse::NetSlice::Ipv4(ip) => Some(ip.header().source_addr().into()),
        etherparse::NetSlice::Ipv6(ip) => Some(ip.header().source_addr().into()),
        etherparse::NetSlice::Arp(_) => None,
    }
}
