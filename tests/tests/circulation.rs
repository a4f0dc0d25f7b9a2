//! No packet goes round for ever: random routes between ports that cables connect with each other (RFC 1812 §5.3.1).
//! On the host, without privilege.

use std::net::IpAddr;

use gre_common::id::{IfIndex, MacAddress, NeighbourId, NetworkId, PortId};
use gre_common::next_hop::Target;
use gre_model::{Action, Gateway, HostGateway};
use gre_tests::packet::{self, ETHERNET_HEADER, Fields};
use ipnet::IpNet;
use proptest::prelude::*;

/// Networks, and cables with a port at each end.
const NETWORKS: u32 = 3;
const CABLES: u32 = 4;
/// Prefixes that routes are for.
const PREFIXES: u8 = 4;
/// A packet's own hops, and those of a reply to it.
const MOST_STEPS: usize = 2 * 256;

/// Where a route leads.
#[derive(Clone, Debug)]
enum Way {
    /// To the far end of a cable from one of the network's own ports, by number.
    Across(usize),
    /// To the far end of a cable from any port: a machine of a peered network.
    AcrossAny(usize),
    Peer(u32),
}

/// A cable's ports, each with its network.
type Cable = (u32, u32);

proptest! {
    #[test]
    fn no_packet_circulates_between_ports_whatever_the_routes_say(
        cables in proptest::collection::vec((0..NETWORKS, 0..NETWORKS), CABLES as usize),
        routes in proptest::collection::vec((0..NETWORKS, 0..PREFIXES, way()), 0..24),
        is_v6: bool,
        ttl in 1u8..,
        destination in 0..PREFIXES + CABLES as u8,
        source in 0..PREFIXES + CABLES as u8,
        echo: bool,
    ) {
        let gateway = gateway(&cables, &routes, is_v6);
        let (source, destination) = (address(source, 2, is_v6), address(destination, 2, is_v6));
        let packet = if echo {
            packet::echo_request(source, destination, 1, 1, b"round and round")
        } else {
            packet::udp(source, destination, (1, 2), Fields { ttl, tos: 0 }, b"round and round")
        };
        for port in 0..2 * CABLES {
            let frame = packet::ethernet([2, 0, 0, 0, 9, 9], mac(port).0, None, &packet);
            let steps = steps(&gateway, port, frame);
            prop_assert!(steps < MOST_STEPS, "{steps} steps from port {port}");
        }
    }
}

/// The loop of two networks whose default routes lead to each other, hop by hop.
#[test]
fn two_networks_that_route_to_each_other_use_a_packet_up() {
    for is_v6 in [false, true] {
        let routes = [(0, 0, Way::Across(0)), (1, 0, Way::Across(0))];
        let gateway = gateway(&[(0, 1)], &routes, is_v6);
        let packet = packet::udp(
            address(1, 2, is_v6),
            address(0, 2, is_v6),
            (1, 2),
            Fields { ttl: 9, tos: 0 },
            b"",
        );
        let frame = packet::ethernet([2, 0, 0, 0, 9, 9], mac(0).0, None, &packet);
        assert_eq!(steps(&gateway, 0, frame), 8);
    }
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![
        any::<usize>().prop_map(Way::Across),
        any::<usize>().prop_map(Way::AcrossAny),
        (0..NETWORKS).prop_map(Way::Peer),
    ]
}

/// Port 2c and port 2c + 1 are the ends of cable c, each a machine to the other: own addresses .1 and .2.
fn gateway(cables: &[Cable], routes: &[(u32, u8, Way)], is_v6: bool) -> HostGateway {
    let mut gateway = Gateway::default();
    let ports: Vec<(u32, NetworkId)> = (0..)
        .zip(cables.iter().flat_map(|(one, other)| [*one, *other]))
        .map(|(port, network)| (port, NetworkId(1 + network)))
        .collect();
    for (port, network) in &ports {
        let entry = Gateway::port_entry(*network, device(*port), mac(*port), 0, 1500);
        gateway.untagged_port(PortId(1 + port), entry);
    }
    for (port, _) in &ports {
        let (cable, end) = (PREFIXES + (port / 2) as u8, port % 2);
        let own = address(cable, 1 + end as u8, is_v6);
        let length = if is_v6 { 64 } else { 24 };
        let own = IpNet::new(own, length).expect("a subnet");
        gateway.subnet(PortId(1 + port), own);
    }
    for (port, _) in &ports {
        let far = address(PREFIXES + (port / 2) as u8, 2 - (port % 2) as u8, is_v6);
        // An own address of the same network stays one.
        if matches!(
            gateway.look_up(ports[*port as usize].1, far).target(),
            Some(Target::Local(_))
        ) {
            continue;
        }
        let (id, port_id) = (NeighbourId(1 + port), PortId(1 + port));
        gateway.machine(id, port_id, far, Some(mac(port ^ 1)));
    }
    for (network, prefix, way) in routes {
        let network = NetworkId(1 + network);
        let own: Vec<u32> = ports
            .iter()
            .filter(|(port, of)| {
                *of == network && gateway.neighbours.contains_key(&NeighbourId(1 + port))
            })
            .map(|(port, _)| *port)
            .collect();
        let target = match way {
            Way::Across(number) if !own.is_empty() => {
                Target::Neighbour(NeighbourId(1 + own[number % own.len()]))
            }
            Way::Across(_) => continue,
            Way::AcrossAny(number) => {
                Target::Neighbour(NeighbourId(1 + (number % ports.len()) as u32))
            }
            Way::Peer(peer) => Target::Peer(NetworkId(1 + peer)),
        };
        let length = if is_v6 { 64 } else { 24 };
        let prefix = IpNet::new(address(*prefix, 0, is_v6), length).expect("a prefix");
        gateway.route(network, prefix, target);
    }
    HostGateway::new(&gateway)
}

/// Carries a frame from port to port until it is used up.
fn steps(gateway: &HostGateway, port: u32, mut frame: Vec<u8>) -> usize {
    let mut device = device(port);
    for step in 0..MOST_STEPS {
        let (outcome, _) = gateway.run(device, &frame);
        if outcome.action != Action::Redirect {
            return step;
        }
        assert!(outcome.frame.len() >= ETHERNET_HEADER);
        // The receiver's address names its port; who asked first is nobody's.
        let [.., number] = outcome.frame[..6] else {
            unreachable!("a frame begins with an address");
        };
        device = self::device(u32::from(number));
        frame = outcome.frame;
    }
    MOST_STEPS
}

fn device(port: u32) -> IfIndex {
    IfIndex(10 + port)
}

fn mac(port: u32) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, port as u8])
}

fn address(subnet: u8, number: u8, is_v6: bool) -> IpAddr {
    if is_v6 {
        [0xfd00, u16::from(subnet), 0, 0, 0, 0, 0, u16::from(number)].into()
    } else {
        [10, subnet, 0, number].into()
    }
}
