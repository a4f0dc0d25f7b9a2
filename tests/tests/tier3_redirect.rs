//! Tier 3: devices that take no frames from the driver of another one. Every pair of devices works, or each packet that
//! cannot be sent is counted.

use gre_tests::bpf::Attachment;
use gre_tests::can_use_namespaces;
use gre_tests::gateway::Gateway;
use gre_tests::link::{End, Veth, next_mac};
use gre_tests::netns::Namespace;
use gre_tests::scenario::{Office, PORT, TUNNEL};
use gre_tests::topology::{Machine, Underlay};
use gre_tests::wait;
use gre_tests::wire::Wire;

const BRIDGE: [&str; 3] = [
    "ip link add u0 type bridge mcast_snooping 0",
    "ip link set wire master u0",
    "ip link set u0 up",
];
const MACVLAN: [&str; 2] = [
    "ip link add u0 link wire type macvlan mode bridge",
    "ip link set u0 up",
];

#[test]
fn a_bridge_as_underlay_gets_every_packet() {
    works(&BRIDGE);
}

#[test]
fn a_macvlan_as_underlay_gets_every_packet() {
    works(&MACVLAN);
}

/// Nor does a veth whose peer has neither an XDP program nor GRO; what it becomes while the gateway runs is followed.
#[test]
fn a_veth_whose_peer_stops_to_take_frames_gets_every_packet() {
    if !can_use_namespaces() {
        return;
    }
    let (office, ready) = on_a_veth();
    let running = office.start();
    let mode = || running.gateway.show_one("device", PORT)["mode"].clone();
    assert_eq!(mode(), "native");
    drop(ready);
    wait::expect("the program has left the drivers", || mode() == "generic");
    for ipv6 in [false, true] {
        running.expect_reachable(ipv6);
    }
    assert_eq!(running.gateway.show_one("device", "u0")["redirect"], true);
}

/// The same while no daemon runs: the next one takes the program over from the drivers.
#[test]
fn a_veth_whose_peer_has_stopped_to_take_frames_at_a_restart_gets_every_packet() {
    if !can_use_namespaces() {
        return;
    }
    let (office, ready) = on_a_veth();
    let mut running = office.start();
    running.gateway.kill();
    drop(ready);
    running.gateway.run();
    for device in [PORT, "u0"] {
        let shown = running.gateway.show_one("device", device);
        assert_eq!(shown["mode"], "generic", "{shown}");
    }
    for ipv6 in [false, true] {
        running.expect_reachable(ipv6);
    }
    let log = running.gateway.log();
    assert!(!log.contains("cannot"), "{log}");
    assert!(!log.contains("taken the program off"), "{log}");
}

/// Where the configuration wants the program in the driver, nothing is said to be sent that is not.
#[test]
fn what_a_native_program_cannot_send_is_counted_as_dropped() {
    if !can_use_namespaces() {
        return;
    }
    let office = behind(&BRIDGE);
    let device = format!("device = \"{PORT}\"\n");
    let native = format!("{device}xdp_mode = \"native\"\n");
    let configuration = office.configuration().replace(&device, &native);
    let gateway = Gateway::start(&office.namespace, &configuration);
    wait::expect("the tunnel is up", || {
        gateway.show_one("tunnel", TUNNEL)["state"] == "up"
    });
    let frame = office.frame_to_branch(b"lost");
    Wire::open(&office.machine.end).send_all(&[&*frame; 3]);
    office.machine.barrier();
    let traffic = gateway.traffic("tunnel", TUNNEL);
    assert_eq!(traffic.dropped("transmit_failed"), 3, "{traffic:?}");
    assert_eq!(traffic.tx_packets, 0, "{traffic:?}");
    let shown = gateway.show_one("device", "u0");
    assert_eq!(shown["redirect"], false, "{shown}");
    let explanation = shown["explanation"].as_str().unwrap_or_default();
    assert!(explanation.contains("xdp_mode"), "{shown}");
    let log = gateway.log();
    assert!(log.contains("u0: its driver takes no frames"), "{log}");

    gateway.apply(&office.configuration());
    let branch = office
        .underlay
        .start_site(vec![(office.tunnel.clone(), &["10.11.30.65/26"])]);
    let machine = &office.machine.namespace;
    assert!(machine.reaches("10.11.30.65".parse().unwrap()));
    branch.endpoint.assert_nothing_refused();
}

/// Machine and branch reach each other, with the gateway's `u0` made by these steps.
#[track_caller]
fn works(steps: &[&str]) {
    if !can_use_namespaces() {
        return;
    }
    let running = behind(steps).start();
    for device in [PORT, "u0"] {
        let shown = running.gateway.show_one("device", device);
        assert_eq!(shown["mode"], "generic", "{shown}");
        assert_eq!(shown["redirect"], true, "{shown}");
    }
    running.branch.endpoint.assert_nothing_refused();
}

/// An office whose underlay device is a veth, and what makes its peer take frames as long as it lives.
fn on_a_veth() -> (Office, Attachment) {
    let (namespace, host) = (Namespace::new("gateway"), Namespace::new("site"));
    let link = Veth::new((&namespace, "u0"), (&host, "wan"));
    host.sh("ethtool -K wan tx off gro off");
    let index = host.interface_index("wan");
    let ready = host.run(|| Attachment::xdp_pass(index)).unwrap();
    (office(namespace, host, link.near, link.far), ready)
}

/// An office whose underlay device `u0` is made by these steps on top of `wire`, one end of a link to the site.
fn behind(steps: &[&str]) -> Office {
    let (namespace, host) = (Namespace::new("gateway"), Namespace::new("site"));
    let link = Veth::new((&namespace, "wire"), (&host, "wan"));
    host.sh("ethtool -K wan tx off");
    for step in steps {
        namespace.sh(step);
    }
    let mut gateway = End {
        namespace: link.near.namespace.clone(),
        device: "u0".to_owned(),
        mac: link.near.mac,
    };
    gateway.set_mac(next_mac());
    office(namespace, host, gateway, link.far)
}

fn office(namespace: Namespace, host: Namespace, gateway: End, site: End) -> Office {
    let underlay = Underlay::over(gateway, site, host, 0);
    let machine = Machine::on_port(
        &namespace,
        PORT,
        &["10.10.30.4/25", "fd00:10:30::4/64"],
        &["10.10.30.1", "fd00:10:30::1"],
    );
    Office {
        machine,
        tunnel: underlay.tunnel(false).with_key(1001),
        underlay,
        namespace,
    }
}
