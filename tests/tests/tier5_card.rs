//! Tier 5, in guests only: gregw on virtio_net, the card of most virtual servers, in both modes. A guest has two of them
//! on one Ethernet segment: one is the gateway's underlay, the other the site's.

use std::net::IpAddr;

use gre_tests::configuration as toml;
use gre_tests::gateway::Gateway;
use gre_tests::kernel_site::Sites;
use gre_tests::link::End;
use gre_tests::netns::{Handle, Namespace};
use gre_tests::scenario::{NETWORK, branch_address, machine_address};
use gre_tests::topology::{Machine, Underlay};
use gre_tests::transfer;
use gre_tests::wait;

const SPACE: [&str; 2] = ["10.10.30.0/24", "fd00:10:30::/48"];
const ROUTERS: [&str; 2] = ["10.10.30.1/25", "fd00:10:30::1/64"];
const BARE_ROUTERS: [&str; 2] = ["10.10.30.1", "fd00:10:30::1"];
const HOST: [&str; 2] = ["10.10.30.4/25", "fd00:10:30::4/64"];
const BYTES: usize = 256 << 10;
/// The Ethernet addresses that the emulator gives the cards.
const CARDS: [&str; 2] = ["02:67:72:ff:00:00", "02:67:72:ff:00:01"];

#[test]
fn a_card_forwards_in_native_mode_with_a_queue_for_xdp_of_each_processor() {
    forwards_on_a_card("native", |namespace| {
        Machine::on_port(namespace, "vms", &HOST, &BARE_ROUTERS)
    });
}

/// The port is a bridge, whose driver takes no program either: both ends are behind the drivers.
#[test]
fn a_card_forwards_in_generic_mode_with_a_port_on_a_bridge() {
    forwards_on_a_card("generic", |namespace| {
        let host = Machine::on_port(namespace, "leg", &HOST, &BARE_ROUTERS);
        namespace.sh("ip link add vms up type bridge");
        namespace.sh("ip link set dev leg master vms");
        host
    });
}

fn forwards_on_a_card(mode: &str, host: impl FnOnce(&Handle) -> Machine) {
    let (namespace, far) = (Namespace::new("gateway"), Namespace::new("site"));
    let gateway_end = take_card(CARDS[0], &namespace, "u0");
    let site_end = take_card(CARDS[1], &far, "wan");
    let underlay = Underlay::over(gateway_end, site_end, far, 0);
    let host = host(&namespace);
    let tunnels = [false, true].map(|ipv6| underlay.tunnel(ipv6).with_key(1001).with_checksum());
    let configuration = [
        toml::gateway(),
        underlay.configuration(),
        format!("xdp_mode = \"{mode}\"\n"),
        toml::tenant_with_network(NETWORK, &SPACE),
        toml::port(NETWORK, "vms", None, &ROUTERS),
        toml::tunnel("over-ipv4", NETWORK, &tunnels[0], &["10.11.30.64/26"]),
        toml::tunnel("over-ipv6", NETWORK, &tunnels[1], &["fd00:11::/48"]),
    ];
    let gateway = Gateway::start(&namespace, &configuration.concat());
    assert_eq!(gateway.show_one("device", "u0")["mode"], mode);
    let inside = [
        vec!["10.11.30.65/26".to_owned()],
        vec!["fd00:11::65/48".to_owned()],
    ];
    let sites = Sites::start(&underlay, tunnels.into_iter().zip(inside).collect());
    for (ipv6, inside) in [false, true].into_iter().zip(&sites.insides) {
        let (site, of_host) = (branch_address(ipv6), machine_address(ipv6));
        expect_answers(&host.namespace, site, &gateway);
        expect_answers(inside, of_host, &gateway);
        transfer::tcp(&host.namespace, inside, site, BYTES, 1).expect("TCP to the site");
        transfer::tcp(inside, &host.namespace, of_host, BYTES, 2).expect("TCP to the host");
    }
}

/// Moves the card with this address into a namespace, under a name of its own. A card whose namespace was removed comes
/// back after a moment.
fn take_card(address: &str, namespace: &Namespace, name: &str) -> End {
    let own = Handle::current().expect("/proc is mounted");
    let mut device = None;
    let found = wait::until(|| {
        let links = own.sh("ip -o link");
        let link = links.lines().find(|line| line.contains(address));
        device = link.and_then(|line| Some(line.split(": ").nth(1)?.to_owned()));
        device.is_some()
    });
    assert!(found, "this guest has no card with address {address}");
    let device = device.expect("it was found");
    own.sh(&format!("ip link set dev {device} down"));
    own.sh(&format!(
        "ip link set dev {device} netns {} name {name}",
        namespace.name()
    ));
    namespace.sh(&format!("ip link set dev {name} up"));
    End::existing(namespace, name).expect("the card is there")
}

#[track_caller]
fn expect_answers(from: &Handle, to: IpAddr, gateway: &Gateway) {
    assert!(
        from.reaches(to),
        "{to} does not answer\n{}\n{}",
        gateway.cli_ok(&["show", "drop"]),
        gateway.cli_ok(&["show", "device"])
    );
}
