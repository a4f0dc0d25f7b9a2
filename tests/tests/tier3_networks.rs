//! Tier 3: networks, ports and routing (CASES N1–N7).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use gre_tests::configuration as toml;
use gre_tests::gateway::Gateway;
use gre_tests::gre::{Header, Outer, Tunnel};
use gre_tests::link::{Veth, next_mac};
use gre_tests::netns::Namespace;
use gre_tests::packet::{self, ETHERNET_HEADER, Fields, contains};
use gre_tests::scenario::{
    NETWORK, Office, PORT, RunningOffice, TUNNEL, branch_address, machine_address, router_address,
};
use gre_tests::stream::{self, FULL_RATE, Stream};
use gre_tests::topology::{Machine, Segment, Underlay};
use gre_tests::transfer;
use gre_tests::wait;
use gre_tests::wire::Wire;
use gre_tests::{barrier, can_use_namespaces};
use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SPACE: [&str; 2] = ["10.10.30.0/24", "fd00:10:30::/48"];
const ROUTER: [&str; 2] = ["10.10.30.1/25", "fd00:10:30::1/64"];
const ROUTER_BARE: [&str; 2] = ["10.10.30.1", "fd00:10:30::1"];
/// Tenants that are alike: each with a network, a port and a machine of the same addresses.
const TENANTS: [&str; 2] = ["red", "blue"];
const MACHINE: [&str; 2] = ["10.10.30.4/25", "fd00:10:30::4/64"];

/// N1: two tenants, the same addresses in every place, the same pair of GRE endpoints, keys alone differ. Content that
/// reached the wrong tenant would not match its seed; counters are those of each tenant's own peer.
#[test]
fn tenants_with_identical_addresses_and_endpoints_never_mix() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let underlay = Underlay::new(&namespace, 0);
    let machines = machines_of_tenants(&namespace);
    let tunnels = [1001, 1002].map(|key| underlay.tunnel(false).with_key(key));
    let mut configuration = [toml::gateway(), underlay.configuration(), tenants()].concat();
    for (tenant, tunnel) in TENANTS.iter().zip(&tunnels) {
        configuration += &toml::tunnel(
            &format!("{tenant}-branch"),
            tenant,
            tunnel,
            &["10.11.30.64/26", "fd00:11::/48"],
        );
    }
    let gateway = Gateway::start(&namespace, &configuration);
    let addresses: &[&str] = &["10.11.30.65/26", "fd00:11::65/48"];
    let branch = underlay.start_site(tunnels.map(|tunnel| (tunnel, addresses)).to_vec());

    // Each tenant pings another number of times, so that mixed counters show.
    for (index, pings) in [(0, 20), (1, 7)] {
        let (machine, inside) = (&machines[index].namespace, &branch.insides[index]);
        for ipv6 in [false, true] {
            assert!(
                machine.reaches(branch_address(ipv6)),
                "{}",
                gateway.cli_ok(&["show", "drop"])
            );
            machine.expect_pings(branch_address(ipv6), pings, 63, "");
            inside.expect_pings(machine_address(ipv6), pings, 63, "");
        }
    }
    std::thread::scope(|scope| {
        for (index, seed) in [(0, 100), (1, 200)] {
            let (machine, inside) = (&machines[index].namespace, &branch.insides[index]);
            scope.spawn(move || {
                transfer::tcp(machine, inside, branch_address(false), 8 << 20, seed).unwrap();
                transfer::tcp(inside, machine, machine_address(true), 4 << 20, seed + 1).unwrap();
            });
        }
    });
    branch.endpoint.assert_nothing_refused();
    let [red, blue] = [0, 1].map(|index| {
        let name = format!("{}-branch", TENANTS[index]);
        branch
            .counters_as_of(&gateway, &name, index)
            .received_packets
    });
    assert_ne!(red, blue, "the tenants sent different numbers of packets");
}

/// N1, the harshest form: one tenant floods, the machine of the other sees not one of its packets.
#[test]
fn one_tenant_never_reaches_another() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let underlay = Underlay::new(&namespace, 0);
    let machines = machines_of_tenants(&namespace);
    let red_tunnel = underlay.tunnel(false).with_key(1001);
    let configuration = [
        toml::gateway(),
        underlay.configuration(),
        toml::tenant_with_network("red", &SPACE),
        toml::port("red", "red", None, &ROUTER),
        toml::tunnel("red-branch", "red", &red_tunnel, &["10.11.30.64/26"]),
        toml::tenant_with_network(
            "blue",
            &["10.10.30.0/24", "10.99.0.0/24", "fd00:10:30::/48"],
        ),
        toml::port("blue", "blue", None, &ROUTER),
    ]
    .concat();
    let gateway = Gateway::start(&namespace, &configuration);
    assert!(
        machines[0]
            .namespace
            .reaches(ROUTER_BARE[0].parse().unwrap())
    );
    let mut blue = Wire::open(&machines[1].end);
    let red = Wire::open(&machines[0].end);
    let mut random = SmallRng::seed_from_u64(1);
    for number in 0..2000_u16 {
        // The whole plan of both tenants, the blue port's MAC as well as the red one's.
        let destination: IpAddr = match number % 3 {
            0 => [10, 10, 30, random.random()].into(),
            1 => [10, 99, 0, random.random()].into(),
            _ => [10, 11, 30, random.random()].into(),
        };
        let router = machines[usize::from(number % 2)].gateway.mac;
        let inner = packet::udp(
            machine_address(false),
            destination,
            (1, 2),
            Fields::default(),
            b"from red",
        );
        red.send(&packet::ethernet(machines[0].end.mac, router, None, &inner));
    }
    machines.iter().for_each(Machine::barrier);
    let leaked = blue
        .drain()
        .iter()
        .filter(|frame| contains(frame, b"from red"))
        .count();
    assert_eq!(leaked, 0, "packets of the red tenant reached the blue one");
    assert!(
        gateway.traffic("port", "red").rx_packets >= 1000,
        "the gateway saw the flood"
    );
    assert_eq!(gateway.traffic("port", "blue").tx_packets, 0);
}

/// N2: 200 routes of every length over eight tunnels, in both families; the tunnel that each of 4 000 packets takes is
/// the one that a plain longest-prefix search names, through six rounds of adds, changes and removals, while a stream
/// over an unchanged route loses nothing.
#[test]
fn routes_agree_with_a_naive_model_while_they_change_under_traffic() {
    if !can_use_namespaces() {
        return;
    }
    const ROUNDS: u64 = 6;
    const BACKGROUND_RATE: u64 = 20_000;
    /// So many packets find room in the ring of a link beside the stream; a marker over a route of its own follows them.
    const AT_ONCE: u64 = 80;
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let office = &running.office;
    let mut random = SmallRng::seed_from_u64(2);
    let mut table = RouteTable::default();
    for _ in 0..200 {
        table.add(&mut random);
    }
    let background = Stream::start(
        office.path_to_branch(),
        office.frame_to_branch(&stream::payload(1, 64)),
        BACKGROUND_RATE,
    );
    let (machine, mut site) = (
        Wire::open(&office.machine.end),
        Wire::open(&office.underlay.site),
    );
    for round in 0..ROUNDS {
        running
            .gateway
            .apply(&(office.configuration() + &table.configuration(&office.tunnel)));
        let mut expected = BTreeMap::new();
        let mut taken = BTreeMap::new();
        for number in 0..4000_u64 {
            let destination = table.some_destination(&mut random);
            let source = machine_address(destination.is_ipv6());
            let label = [&b"model"[..], &round.to_be_bytes(), &number.to_be_bytes()].concat();
            let inner = packet::udp(source, destination, (1, 2), Fields::default(), &label);
            machine.send(&packet::ethernet(
                office.machine.end.mac,
                running.office.machine.gateway.mac,
                None,
                &inner,
            ));
            if let Some(key) = table.look_up(destination) {
                expected.insert(number, (destination, key));
            }
            if (number + 1) % AT_ONCE == 0 {
                let marker = format!("marker {round} {number}");
                machine.send(&office.frame_to_branch(marker.as_bytes()));
                for frame in site.before(marker.as_bytes()) {
                    if let Some((key, number)) = labelled(&frame, round) {
                        let before = taken.insert(number, key);
                        assert_eq!(before, None, "packet {number} left twice");
                    }
                }
            }
        }
        for (number, (destination, key)) in &expected {
            assert_eq!(
                taken.remove(number),
                Some(*key),
                "round {round}, packet {number} to {destination} must take tunnel key {key}\n{}",
                running.gateway.cli_ok(&["show", "drop"])
            );
        }
        assert!(
            taken.is_empty(),
            "round {round}: packets without a route left: {taken:?}"
        );
        for _ in 0..40 {
            table.change(&mut random);
        }
    }
    assert_eq!(site.overruns(), 0);
    background.stop().assert_nothing_lost();
}

/// N3: VLAN 100 and VLAN 200 of one device are two networks with the same addresses; a tag that no port has is the
/// kernel's, unchanged.
#[test]
fn vlans_of_one_device_are_separate_networks_and_an_unknown_tag_passes_to_the_kernel() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let underlay = Underlay::new(&namespace, 0);
    let mut segment = Segment::new(&namespace, "trunk");
    let vlans = [100, 200];
    let machines = vlans.map(|vlan| segment.machine(Some(vlan), &MACHINE, &ROUTER_BARE));
    let untagged = segment.machine(None, &MACHINE, &ROUTER_BARE);
    let tunnels = vlans.map(|vlan| underlay.tunnel(false).with_key(u32::from(vlan)));
    let mut configuration = toml::gateway() + &underlay.configuration();
    for (vlan, tunnel) in vlans.iter().zip(&tunnels) {
        let name = format!("net{vlan}");
        configuration += &toml::tenant_with_network(&name, &SPACE);
        configuration += &toml::port(&name, "trunk", Some(*vlan), &ROUTER);
        configuration += &toml::tunnel(
            &format!("t{vlan}"),
            &name,
            tunnel,
            &["10.11.30.64/26", "fd00:11::/48"],
        );
    }
    let gateway = Gateway::start(&namespace, &configuration);
    let addresses: &[&str] = &["10.11.30.65/26", "fd00:11::65/48"];
    let branch = underlay.start_site(tunnels.map(|tunnel| (tunnel, addresses)).to_vec());
    for (index, machine) in machines.iter().enumerate() {
        for ipv6 in [false, true] {
            assert!(
                machine.namespace.reaches(router_address(ipv6)),
                "the gateway answers on VLAN {}",
                vlans[index]
            );
            assert!(
                machine.namespace.reaches(branch_address(ipv6)),
                "{}",
                gateway.cli_ok(&["show", "drop"])
            );
            assert!(branch.insides[index].reaches(machine_address(ipv6)));
        }
    }
    transfer::tcp(
        &machines[0].namespace,
        &branch.insides[0],
        branch_address(false),
        2 << 20,
        1,
    )
    .unwrap();
    transfer::tcp(
        &branch.insides[1],
        &machines[1].namespace,
        machine_address(false),
        2 << 20,
        2,
    )
    .unwrap();
    branch.endpoint.assert_nothing_refused();

    let mut kernel = Wire::open(&segment.gateway);
    let wire = Wire::open(&untagged.end);
    let frame = |vlan, text: &[u8]| {
        let (source, destination) = (machine_address(false), branch_address(false));
        let inner = packet::udp(source, destination, (1, 2), Fields::default(), text);
        packet::ethernet(untagged.end.mac, segment.gateway.mac, Some(vlan), &inner)
    };
    let stray = frame(300, b"stray");
    wire.send(&frame(100, b"known"));
    wire.send(&stray);
    let mut before = Vec::new();
    let seen = kernel.expect("a frame with a tag that no port has", |frame| {
        before.push(frame.to_vec());
        contains(frame, b"stray").then(|| frame.to_vec())
    });
    assert_eq!(seen, stray);
    let known = before.iter().find(|frame| contains(frame, b"known"));
    assert_eq!(known, None, "a packet of a port reached the kernel");
}

/// N4, first part: the port's own address answers ARP, neighbour solicitation and echo in each network that has it,
/// and nobody else's address does.
#[test]
fn the_gateway_answers_for_its_own_address_in_each_network() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let underlay = Underlay::new(&namespace, 0);
    let machines = machines_of_tenants(&namespace);
    let configuration = [toml::gateway(), underlay.configuration(), tenants()].concat();
    let gateway = Gateway::start(&namespace, &configuration);
    for (machine, tenant) in machines.iter().zip(TENANTS) {
        for ipv6 in [false, true] {
            // The first reply may have to wait until the machine is known.
            assert!(machine.namespace.reaches(router_address(ipv6)));
            machine
                .namespace
                .expect_pings(router_address(ipv6), 5, 64, "-s 1000");
        }
        let traffic = gateway.traffic("port", tenant);
        assert!(
            traffic.tx_packets >= 10,
            "echo replies are sent packets: {traffic:?}"
        );
        let neighbours = machine.namespace.sh("ip neigh show");
        let expected = gre_tests::link::display_mac(machine.gateway.mac);
        assert_eq!(
            neighbours.matches(&expected).count(),
            2,
            "both families resolve to the port's MAC: {neighbours}"
        );
        assert_no_answer_for(machine, Ipv4Addr::new(10, 10, 30, 9));
    }
}

/// The machine asks who has an address; behind the question nothing but the answer to a barrier comes.
#[track_caller]
fn assert_no_answer_for(machine: &Machine, stranger: Ipv4Addr) {
    let mut wire = Wire::open(&machine.end);
    wire.send(&barrier::question(machine.end.mac, next_mac(), stranger));
    machine.barrier();
    let frames = wire.drain();
    let answer = frames
        .iter()
        .find(|frame| contains(frame, &stranger.octets()));
    assert_eq!(answer, None, "the gateway answered for a stranger");
}

/// N4, second part: a machine that never sent anything is found by asking on the port.
#[test]
fn a_silent_machine_is_resolved_by_the_gateway() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let gateway = Gateway::start(&office.namespace, &office.configuration());
    let branch = office.underlay.start_site(vec![(
        office.tunnel.clone(),
        &["10.11.30.65/26", "fd00:11::65/48"],
    )]);
    for ipv6 in [false, true] {
        assert!(
            branch.insides[0].reaches(machine_address(ipv6)),
            "the machine does not answer the branch"
        );
        let address = machine_address(ipv6).to_string();
        let neighbours = gateway.show("neighbour");
        let found = neighbours.iter().find(|row| row["address"] == address);
        let mac = gre_tests::link::display_mac(office.machine.end.mac);
        assert_eq!(
            found.map(|row| (row["mac"].as_str(), row["state"].as_str())),
            Some((Some(&*mac), Some("resolved")))
        );
    }
}

/// N4, beside a flood: while the daemon is busy, one tenant's branch asks for more addresses that nobody has than the
/// buffer of events holds; then a single packet comes for another tenant's machine, which nothing else tells of.
#[test]
fn a_flood_for_unknown_addresses_of_one_tenant_keeps_no_machine_of_another_unknown() {
    if !can_use_namespaces() {
        return;
    }
    const FLOOD: usize = 100_000;
    /// What the buffer holds: 1 MiB of records of 40 bytes.
    const HELD: u64 = (1 << 20) / 40;
    let namespace = Namespace::new("gateway");
    let underlay = Underlay::new(&namespace, 0);
    let _machines = machines_of_tenants(&namespace);
    let tunnels = [1001, 1002].map(|key| underlay.tunnel(false).with_key(key));
    let mut configuration = [toml::gateway(), underlay.configuration(), tenants()].concat();
    for (tenant, tunnel) in TENANTS.iter().zip(&tunnels) {
        let name = format!("{tenant}-branch");
        configuration += &toml::tunnel(&name, tenant, tunnel, &["10.11.30.64/26"]);
    }
    let gateway = Gateway::start(&namespace, &configuration);
    let frame = |tunnel: &Tunnel, destination: IpAddr| {
        let source = branch_address(false);
        let inner = packet::udp(source, destination, (1, 2), Fields::default(), b"event");
        let mut outer = Vec::new();
        tunnel.encapsulate(&inner, 0, &mut outer);
        packet::ethernet(underlay.site.mac, underlay.gateway.mac, None, &outer)
    };
    let unknown: Vec<Vec<u8>> = (10..110)
        .map(|host| frame(&tunnels[0], [10, 10, 30, host].into()))
        .collect();
    let flood: Vec<&[u8]> = unknown
        .iter()
        .map(Vec::as_slice)
        .cycle()
        .take(FLOOD)
        .collect();
    let is_known = || {
        let machine = machine_address(false).to_string();
        let rows = gateway.show("neighbour");
        rows.iter().any(|row| {
            row["port"] == TENANTS[1] && row["address"] == *machine && row["state"] == "resolved"
        })
    };
    assert!(!is_known(), "the machine has been silent so far");

    let site = Wire::open(&underlay.site);
    gateway.signal(Signal::SIGSTOP);
    site.send_all(&flood);
    // So that the flood does not push the packet itself off the link.
    underlay.barrier();
    site.send(&frame(&tunnels[1], machine_address(false)));
    underlay.barrier();
    gateway.signal(Signal::SIGCONT);
    wait::expect("the machine is resolved", is_known);
    let dropped = gateway
        .traffic("port", TENANTS[0])
        .dropped("neighbour_unresolved");
    assert!(
        dropped > HELD,
        "only {dropped} packets would not have filled the buffer"
    );
}

/// N4, third part: a machine whose MAC changes is reachable again, seen from the branch, although it has announced
/// nothing. How soon it is asked for, a test in `neighbour.rs` tells, whose clock does not run.
#[test]
fn a_machine_that_silently_changes_its_mac_is_found_again() {
    if !can_use_namespaces() {
        return;
    }
    let mut running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    running.office.machine.end.set_mac(next_mac());
    assert!(running.branch.insides[0].reaches(machine_address(false)));
}

/// N5: a packet from one tunnel leaves in another in one pass, with that one's key and one hop less.
#[test]
fn a_packet_goes_from_one_tunnel_into_another() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let underlays = [Underlay::new(&namespace, 0), Underlay::new(&namespace, 1)];
    // One side over IPv4 with a plain key, the other over IPv6 with everything.
    let tunnels = [
        underlays[0].tunnel(false).with_key(1001),
        underlays[1]
            .tunnel(true)
            .with_key(2002)
            .with_checksum()
            .with_sequence(),
    ];
    let configuration = [
        toml::gateway(),
        underlays[0].configuration(),
        underlays[1].configuration(),
        toml::tenant_with_network("office", &SPACE),
        toml::tunnel(
            "left",
            "office",
            &tunnels[0],
            &["10.20.0.0/24", "fd00:20::/48"],
        ),
        toml::tunnel(
            "right",
            "office",
            &tunnels[1],
            &["10.30.0.0/24", "fd00:30::/48"],
        ),
    ]
    .concat();
    let gateway = Gateway::start(&namespace, &configuration);
    let [left, right] = tunnels;
    let left = underlays[0].start_site(vec![(left, &["10.20.0.5/24", "fd00:20::5/48"])]);
    let right = underlays[1].start_site(vec![(right, &["10.30.0.5/24", "fd00:30::5/48"])]);
    for destination in ["10.30.0.5", "fd00:30::5"] {
        let destination = destination.parse().unwrap();
        assert!(
            left.insides[0].reaches(destination),
            "{}",
            gateway.cli_ok(&["show", "drop"])
        );
        left.insides[0].expect_pings(destination, 10, 63, "");
        transfer::tcp(&left.insides[0], &right.insides[0], destination, 2 << 20, 1).unwrap();
    }
    transfer::tcp(
        &right.insides[0],
        &left.insides[0],
        "10.20.0.5".parse().unwrap(),
        2 << 20,
        2,
    )
    .unwrap();
    left.endpoint.assert_nothing_refused();
    right.endpoint.assert_nothing_refused();
    right.counters_as_of(&gateway, "right", 0);
}

/// N6: nothing to do with a packet is counted as such, and a blackhole as a blackhole.
#[test]
fn no_route_and_blackhole_are_drops_with_reasons_of_their_own() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let configuration = running.office.configuration()
        + &toml::route(NETWORK, "10.66.0.0/16", "\"blackhole\"")
        + &toml::route(NETWORK, "fd00:66::/32", "\"blackhole\"");
    running.gateway.apply(&configuration);
    // What the tunnel carries is what this test sends.
    drop(running.branch);
    let wire = Wire::open(&running.office.machine.end);
    let site = Wire::open(&running.office.underlay.site);
    let cases = [
        ("no_route", "203.0.113.77", machine_address(false)),
        ("no_route", "2a00::77", machine_address(true)),
        ("blackhole", "10.66.7.7", machine_address(false)),
        ("blackhole", "fd00:66::7", machine_address(true)),
    ];
    for (reason, destination, machine) in cases {
        let port = running.gateway.traffic("port", PORT);
        let frames = |source: IpAddr, destination: IpAddr| {
            packet::udp(source, destination, (1, 2), Fields::default(), b"lost")
        };
        let from_port = frames(machine, destination.parse().unwrap());
        wire.send(&packet::ethernet(
            running.office.machine.end.mac,
            running.office.machine.gateway.mac,
            None,
            &from_port,
        ));
        running.office.machine.barrier();
        let now = running.gateway.traffic("port", PORT);
        assert_eq!(
            now.dropped(reason) - port.dropped(reason),
            1,
            "{destination} from the port"
        );

        let tunnel = running.gateway.traffic("tunnel", TUNNEL);
        let from_branch = frames(
            branch_address(machine.is_ipv6()),
            destination.parse().unwrap(),
        );
        site.send(&running.office.underlay_frame(&from_branch));
        running.office.underlay.barrier();
        let now = running.gateway.traffic("tunnel", TUNNEL);
        assert_eq!(
            now.dropped(reason) - tunnel.dropped(reason),
            1,
            "{destination} from the tunnel"
        );
        assert_eq!(now.rx_packets - tunnel.rx_packets, 1);
    }
}

/// N7 from machine to tunnel: a tenant, a network, a port, a tunnel and routes come and go; a stream of somebody else
/// loses no packet.
#[test]
fn changes_of_others_lose_no_packet_on_the_way_into_a_tunnel() {
    if !can_use_namespaces() {
        return;
    }
    changes_beside_a_stream(|office| {
        let frame = office.frame_to_branch(&stream::payload(1, 64));
        Stream::start(office.path_to_branch(), frame, FULL_RATE)
    });
}

/// N7 in the other direction.
#[test]
fn changes_of_others_lose_no_packet_on_the_way_out_of_a_tunnel() {
    if !can_use_namespaces() {
        return;
    }
    changes_beside_a_stream(|office| {
        let frame = office.frame_from_branch(&stream::payload(2, 64));
        Stream::start(office.path_from_branch(), frame, FULL_RATE)
    });
}

fn machines_of_tenants(namespace: &Namespace) -> [Machine; 2] {
    TENANTS.map(|tenant| Machine::on_port(namespace, tenant, &MACHINE, &ROUTER_BARE))
}

/// The sections of [`TENANTS`].
fn tenants() -> String {
    let sections = TENANTS.map(|tenant| {
        toml::tenant_with_network(tenant, &SPACE) + &toml::port(tenant, tenant, None, &ROUTER)
    });
    sections.concat()
}

/// Packets of a stream between two changes.
const BETWEEN: u64 = 10_000;

/// Two rounds in which a newcomer and all it has come, change and go, beside a stream of the office.
fn changes_beside_a_stream(start: impl FnOnce(&Office) -> Stream) {
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let newcomer = Machine::on_port(&office.namespace, "newcomer", &MACHINE, &ROUTER_BARE);
    let RunningOffice {
        gateway,
        branch,
        office,
    } = office.start();
    // The stream ends on the wire: nobody needs to decapsulate it.
    drop(branch);
    let plain = office.configuration();
    let newcomer_tunnel = office.tunnel.clone().with_key(2002);
    let tenant = [
        toml::tenant_with_network("newcomer", &SPACE),
        toml::port("newcomer", "newcomer", None, &ROUTER),
        toml::tunnel(
            "newcomer-branch",
            "newcomer",
            &newcomer_tunnel,
            &["10.11.30.64/26"],
        ),
    ]
    .concat();
    let more_routes: String = (0..100)
        .map(|number| toml::route("newcomer", &format!("10.70.{number}.0/24"), "\"blackhole\""))
        .collect();
    let own_route = toml::route(NETWORK, "10.71.0.0/16", "\"blackhole\"");
    let stream = start(&office);
    for _ in 0..2 {
        stream.flow(BETWEEN);
        gateway.apply(&[&*plain, &tenant].concat());
        assert!(
            newcomer.namespace.reaches(router_address(false)),
            "the newcomer works"
        );
        gateway.apply(&[&*plain, &tenant, &more_routes, &own_route].concat());
        gateway.apply(&[&*plain, &tenant].concat());
        gateway.apply(&plain);
        assert_left_to_the_kernel(&newcomer);
    }
    stream.flow(BETWEEN);
    let report = stream.stop();
    println!("{report:?}");
    report.assert_nothing_lost();
}

/// What a machine sends arrives, unchanged, at the kernel of the gateway's host: its device is nobody's port.
#[track_caller]
fn assert_left_to_the_kernel(machine: &Machine) {
    let (source, router) = (machine_address(false), router_address(false));
    let echo = packet::echo_request(source, router, 1, 1, b"nobody's");
    let sent = packet::ethernet(machine.end.mac, machine.gateway.mac, None, &echo);
    let mut kernel = Wire::open(&machine.gateway);
    Wire::open(&machine.end).send(&sent);
    let seen = kernel.expect("a frame of a device that is no port", |frame| {
        contains(frame, b"nobody's").then(|| frame.to_vec())
    });
    assert_eq!(seen, sent);
}

/// Routes to eight tunnels, searched the plain way.
#[derive(Default)]
struct RouteTable {
    routes: Vec<(IpAddr, u8, u32)>,
}

impl RouteTable {
    const TUNNELS: u32 = 8;
    const FIRST_KEY: u32 = 5000;

    /// The sections of its tunnels, which are like `peer` but for the key.
    fn configuration(&self, peer: &Tunnel) -> String {
        (0..Self::TUNNELS)
            .map(|number| {
                let key = Self::FIRST_KEY + number;
                let routes: Vec<String> = self
                    .routes
                    .iter()
                    .filter(|route| route.2 == key)
                    .map(|(address, length, _)| format!("{address}/{length}"))
                    .collect();
                let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
                toml::tunnel(
                    &format!("t{number}"),
                    NETWORK,
                    &peer.clone().with_key(key),
                    &routes,
                )
            })
            .collect()
    }

    fn look_up(&self, destination: IpAddr) -> Option<u32> {
        let matching = self
            .routes
            .iter()
            .filter(|(address, length, _)| covers(*address, *length, destination));
        matching
            .max_by_key(|(_, length, _)| *length)
            .map(|(_, _, key)| *key)
    }

    /// Adds a route of random length; its prefixes cluster so that they nest.
    fn add(&mut self, random: &mut SmallRng) {
        let ipv6 = random.random_bool(0.5);
        let length = random.random_range(0..=if ipv6 { 128 } else { 32 });
        let address = masked(clustered(ipv6, random), length);
        let key = Self::FIRST_KEY + random.random_range(0..Self::TUNNELS);
        if self
            .routes
            .iter()
            .all(|route| (route.0, route.1) != (address, length))
        {
            self.routes.push((address, length, key));
        }
    }

    /// Adds one, removes one, or gives one another tunnel.
    fn change(&mut self, random: &mut SmallRng) {
        let index = random.random_range(0..self.routes.len());
        match random.random_range(0..3) {
            0 => self.add(random),
            1 => drop(self.routes.swap_remove(index)),
            _ => self.routes[index].2 = Self::FIRST_KEY + random.random_range(0..Self::TUNNELS),
        }
    }

    /// Mostly an address next to a prefix, sometimes any.
    fn some_destination(&self, random: &mut SmallRng) -> IpAddr {
        if random.random_bool(0.2) {
            return clustered(random.random_bool(0.5), random);
        }
        let (address, length, _) = self.routes[random.random_range(0..self.routes.len())];
        let any = clustered(address.is_ipv6(), random);
        let inside = joined(address, length, any);
        // A prefix near /0 reaches addresses that are never forwarded, and the office's own.
        if is_ordinary(inside) { inside } else { any }
    }
}

/// Random addresses that often share their first bits: 64.0.0.0/3 and 2a00::/16.
fn clustered(ipv6: bool, random: &mut SmallRng) -> IpAddr {
    let few: u32 = random.random::<u32>() & 0x0303_0303;
    let low = if random.random_bool(0.5) {
        random.random::<u32>()
    } else {
        few
    };
    if ipv6 {
        let high = u128::from(0x2a00_0000 | few & 0xffff) << 96;
        (u128::from(low) | high | u128::from(few) << 64 | u128::from(few) << 32)
            .to_be_bytes()
            .into()
    } else {
        (0x4000_0000 | low & 0x1fff_ffff).to_be_bytes().into()
    }
}

fn is_ordinary(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] & 0xe0 == 0x40,
        IpAddr::V6(address) => address.segments()[0] == 0x2a00,
    }
}

fn covers(address: IpAddr, length: u8, destination: IpAddr) -> bool {
    address.is_ipv4() == destination.is_ipv4() && masked(destination, length) == address
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    joined(
        address,
        length,
        if address.is_ipv4() {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0; 16])
        },
    )
}

/// The first `length` bits of one address, the others of another.
fn joined(address: IpAddr, length: u8, rest: IpAddr) -> IpAddr {
    match (address, rest) {
        (IpAddr::V4(address), IpAddr::V4(rest)) => {
            let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or_default();
            (address.to_bits() & !host | rest.to_bits() & host)
                .to_be_bytes()
                .into()
        }
        (IpAddr::V6(address), IpAddr::V6(rest)) => {
            let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or_default();
            (address.to_bits() & !host | rest.to_bits() & host)
                .to_be_bytes()
                .into()
        }
        _ => panic!("{address} and {rest} are of different families"),
    }
}

/// Key and number of a packet of this round, if the frame is one.
fn labelled(frame: &[u8], round: u64) -> Option<(u32, u64)> {
    let outer = Outer::parse(frame.get(ETHERNET_HEADER..)?).ok()??;
    let (rest, number) = outer.payload.split_last_chunk::<8>()?;
    let (rest, this_round) = rest.split_last_chunk::<8>()?;
    if !rest.ends_with(b"model") || *this_round != round.to_be_bytes() {
        return None;
    }
    Some((
        Header::parse(outer.payload).ok()?.key?,
        u64::from_be_bytes(*number),
    ))
}

/// Two networks whose default routes lead to each other over a cable between their ports.
#[test]
fn a_loop_between_two_ports_uses_a_packet_up() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let host = Machine::on_port(&namespace, PORT, &MACHINE, &ROUTER_BARE);
    let _cable = Veth::new((&namespace, "red"), (&namespace, "blue"));
    let addresses = ["10.1.9.1/24", "10.1.9.2/24"];
    let configuration = [
        toml::gateway(),
        toml::tenant_with_network("red", &[SPACE[0], SPACE[1], "10.1.9.0/24"]),
        toml::port("red", PORT, None, &ROUTER),
        toml::port("red", "red", None, &addresses[..1]),
        toml::route("red", "0.0.0.0/0", "\"10.1.9.2\""),
        toml::tenant_with_network("blue", &["10.1.9.0/24"]),
        toml::port("blue", "blue", None, &addresses[1..]),
        toml::route("blue", "0.0.0.0/0", "\"10.1.9.1\""),
    ];
    let gateway = Gateway::start(&namespace, &configuration.concat());
    let destination = Ipv4Addr::new(192, 0, 2, 1);
    wait::expect(
        "a packet has gone round until its hops were used up",
        || {
            host.namespace.ping(destination.into(), "-c 1 -W 1 -t 20");
            let drops = gateway.show("drop");
            drops.iter().any(|drop| drop["reason"] == "ttl_expired")
        },
    );
    let rounds = |gateway: &Gateway| ["red", "blue"].map(|port| gateway.traffic("port", port));
    assert_eq!(rounds(&gateway), rounds(&gateway), "nothing moves any more");
}

#[test]
fn echo_requests_that_fill_a_jumbo_frame_are_answered() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let host = Machine::on_port(&namespace, PORT, &MACHINE, &ROUTER_BARE);
    for end in [&host.end, &host.gateway] {
        end.set_mtu(9000);
    }
    let configuration = [
        toml::gateway(),
        toml::tenant_with_network(NETWORK, &SPACE),
        toml::port(NETWORK, PORT, None, &ROUTER),
    ];
    let _gateway = Gateway::start(&namespace, &configuration.concat());
    for (ipv6, header) in [(false, 20), (true, 40)] {
        let size = 9000 - header - 8;
        let ping = host
            .namespace
            .ping(router_address(ipv6), &format!("-c 1 -M do -s {size}"));
        assert_eq!(ping.received, 1, "{}", ping.text);
    }
}
