//! Tier 3: the kernel around the gateway: what it knows of the underlay, what it has room for, and what others do to it.

use std::net::IpAddr;

use nix::sys::signal::Signal;

use gre_tests::bpf::Attachment;
use gre_tests::can_use_namespaces;
use gre_tests::configuration as toml;
use gre_tests::frames::ADVERTISEMENT;
use gre_tests::gateway::{Gateway, describe};
use gre_tests::gre::Tunnel;
use gre_tests::link::{Mac, Veth, next_mac};
use gre_tests::netns::Namespace;
use gre_tests::scenario::{ADDRESS_SPACE, NETWORK, Office, PORT, ROUTERS, TUNNEL, router_address};
use gre_tests::wait;
use gre_tests::wire::Wire;

/// More remotes on one link than the neighbour tables of all namespaces together have room for by default
/// (`gc_thresh3`, 1024) are resolved nevertheless, and the kernel's table goes back to what it was.
#[test]
fn more_remotes_on_a_link_than_the_neighbour_table_has_room_for_come_up() {
    if !can_use_namespaces() {
        return;
    }
    const REMOTES: u16 = 1500;
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    office.namespace.sh("ip route add 198.18.0.0/16 dev u0");
    // The site answers for all of them.
    office
        .underlay
        .host
        .sh("ip route add local 198.18.0.0/16 dev lo");
    let remote = |number: u16| {
        let [high, low] = number.to_be_bytes();
        format!("198.18.{}.{low}", high + 1)
    };
    let tunnels: String = (0..REMOTES)
        .map(|number| {
            let remote = remote(number).parse().unwrap();
            let peer = Tunnel::new(remote, office.underlay.gateway_address(false));
            toml::tunnel(&format!("t{number}"), NETWORK, &peer, &[])
        })
        .collect();
    let mut gateway = Gateway::start(&office.namespace, &(office.configuration() + &tunnels));
    wait::expect("all tunnels are up", || {
        let tunnels = gateway.show("tunnel");
        tunnels
            .iter()
            .filter(|tunnel| tunnel["state"] == "up")
            .count()
            == usize::from(REMOTES) + 1
    });
    let kept = || {
        office
            .namespace
            .sh("ip neigh show")
            .matches("extern_learn")
            .count()
    };
    assert_eq!(kept(), usize::from(REMOTES) + 1);

    // What no tunnel leads to is the kernel's to collect again, also where the daemon was killed in between.
    gateway.apply(&office.configuration());
    wait::expect("only the branch is kept", || kept() == 1);
    gateway.kill();
    gateway.cli_ok(&["detach"]);
    assert_eq!(kept(), 0);
}

/// A local address that the host has not is told, and stops nothing that works.
#[test]
fn a_local_address_that_the_host_has_not_is_told_of() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let (gateway, namespace) = (&running.gateway, &running.office.namespace);
    namespace.sh("ip addr add 203.0.113.9/32 dev u0");
    namespace.sh("ip route add 198.51.100.2/32 dev u0");
    namespace.sh("ip addr del 198.51.100.1/24 dev u0");
    let reason = || gateway.show_one("tunnel", TUNNEL)["reason"].clone();
    wait::expect("the reason is known", || reason() == "local_missing");
    let text = "the host has no address 198.51.100.1";
    wait::expect("the log says it", || gateway.log().contains(text));
    let mut site = Wire::open(&running.office.underlay.site);
    let machine = Wire::open(&running.office.machine.end);
    machine.send(&running.office.frame_to_branch(b"sent nevertheless"));
    site.before(b"sent nevertheless");
    namespace.sh("ip addr add 198.51.100.1/24 dev u0");
    wait::expect("all is well again", || reason().is_null());
    running.expect_reachable(false);
}

/// The `mtu` of a route lowers that of the tunnels that follow it, and no others.
#[test]
fn the_mtu_of_a_route_lowers_that_of_its_tunnels() {
    if !can_use_namespaces() {
        return;
    }
    for outer_ipv6 in [false, true] {
        let running = Office::new(outer_ipv6, |tunnel| tunnel.with_key(1001)).start();
        let (gateway, office) = (&running.gateway, &running.office);
        let overhead = office.tunnel.overhead() as u64;
        let mtu = || gateway.show_one("tunnel", TUNNEL)["mtu"].as_u64().unwrap();
        assert_eq!(mtu(), 1500 - overhead);
        let route = format!(
            "{} dev u0 mtu 1300",
            office.underlay.site_address(outer_ipv6)
        );
        office.namespace.sh(&format!("ip route add {route}"));
        wait::expect("the MTU is lower", || mtu() == 1300 - overhead);
        let before = gateway.traffic("tunnel", TUNNEL);
        let payload = vec![0; 1301 - overhead as usize - 28];
        Wire::open(&office.machine.end).send(&office.frame_to_branch(&payload));
        office.machine.barrier();
        let after = gateway.traffic("tunnel", TUNNEL);
        assert_eq!(after.dropped("exceeds_tunnel_mtu"), 1, "{after:?}");
        assert_eq!(after.tx_packets, before.tx_packets);
        office.namespace.sh(&format!("ip route del {route}"));
        wait::expect("the MTU is that of the device again", || {
            mtu() == 1500 - overhead
        });
    }
}

/// Policy rules that select GRE lead tunnels over another table, though the kernel takes no question about GRE.
#[test]
fn a_policy_rule_for_gre_is_respected() {
    if !can_use_namespaces() {
        return;
    }
    for outer_ipv6 in [false, true] {
        let running = Office::new(outer_ipv6, |tunnel| tunnel.with_key(1001)).start();
        let (gateway, office) = (&running.gateway, &running.office);
        let (family, router) = if outer_ipv6 {
            ("-6", "2001:db8::77")
        } else {
            ("-4", "198.51.100.77")
        };
        office.underlay.site.add_address(router);
        let site = office.underlay.site_address(outer_ipv6);
        for step in [
            format!("ip {family} route add {site} via {router} dev u0 mtu 1320 table 77"),
            format!("ip {family} rule add ipproto udp table 78 priority 98"),
            format!("ip {family} rule add ipproto gre table 77 priority 99"),
        ] {
            office.namespace.sh(&step);
        }
        let overhead = office.tunnel.overhead() as u64;
        let mtu = || gateway.show_one("tunnel", TUNNEL)["mtu"].as_u64().unwrap();
        wait::expect("the tunnel follows table 77", || mtu() == 1320 - overhead);
        wait::expect("its router is resolved", || {
            office.namespace.sh("ip neigh show").contains(router)
        });
        running.expect_reachable(false);
        let rule = format!("ip {family} rule del ipproto gre table 77 priority 99");
        office.namespace.sh(&rule);
        wait::expect("it follows the main table", || mtu() == 1500 - overhead);
    }
}

/// A program that somebody takes off by force is put back, unless another one has taken its place.
#[test]
fn a_program_that_somebody_detaches_by_force_is_put_back() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let (gateway, office) = (&running.gateway, &running.office);
    let index = office.namespace.interface_index("u0");
    let link = gateway.pins().join(format!("links/{index}"));
    let detach = || {
        let line = format!("bpftool link detach pinned {}", link.display());
        office.namespace.sh(&line);
    };
    detach();
    wait::expect("the log tells", || {
        gateway
            .log()
            .contains("u0: somebody had taken the program off; it has been put back")
    });
    running.expect_reachable(false);
    assert_eq!(gateway.show_one("device", "u0")["mode"], "native");

    gateway.signal(Signal::SIGSTOP);
    detach();
    let other = office
        .namespace
        .run(|| Attachment::xdp_pass(index))
        .unwrap();
    gateway.signal(Signal::SIGCONT);
    let device = || gateway.show_one("device", "u0");
    wait::expect("the device is down", || device()["state"] == "down");
    let shown = device();
    let explanation = shown["explanation"].as_str().unwrap_or_default();
    let id = shown["program"].to_string();
    assert!(explanation.contains(&format!("id {id}")), "{shown}");
    assert!(shown["mode"].is_null(), "{shown}");
    assert_eq!(gateway.show_one("tunnel", TUNNEL)["reason"], "no_program");
    drop(other);
    wait::expect("the device is up", || device()["state"] == "up");
    running.expect_reachable(false);
    let told = gateway.log().matches("cannot be put back").count();
    assert_eq!(told, 1, "{}", gateway.log());
}

/// Where another gregw holds a device, the advice names its instance.
#[test]
fn a_device_of_another_gateway_is_named_with_its_instance() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let holder = Gateway::start(&office.namespace, &office.configuration());
    let output = Gateway::start_refused(&office.namespace, &office.configuration());
    let message = describe(&output);
    assert_eq!(output.status.code(), Some(5), "{message}");
    let advice = format!("`gregw --instance {} detach`", holder.instance());
    assert!(message.contains(&advice), "{message}");
}

/// The gateway's addresses on a port are announced at start, at a take-over, and when the device gets another MAC.
#[test]
fn addresses_on_ports_are_announced_at_start_take_over_and_mac_change() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let mut wire = Wire::open(&office.machine.end);
    let mut expect = |mac: Mac, what: &str| {
        let [v4, v6] = [false, true].map(router_address);
        let (mut arps, mut advertisements) = (0, 0);
        wire.expect(what, |frame| {
            arps += u32::from(is_arp_announcement(frame, mac, v4));
            advertisements += u32::from(is_unsolicited_advertisement(frame, mac, v6));
            (arps >= 3 && advertisements >= 3).then_some(())
        });
    };
    let mut gateway = Gateway::start(&office.namespace, &office.configuration());
    let mut end = office.machine.gateway.clone();
    expect(end.mac, "three announcements of each at the start");
    gateway.stop();
    gateway.run();
    expect(end.mac, "three of each after a take-over");
    end.set_mac(next_mac());
    expect(end.mac, "three of each with the new MAC");
}

/// RFC 5227 §3: an ARP request for the sender's own address.
fn is_arp_announcement(frame: &[u8], mac: Mac, address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else {
        return false;
    };
    let expected = [
        &[0xff; 6][..],
        &mac,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &mac,
        &address.octets(),
        &[0; 6],
        &address.octets(),
    ];
    frame.starts_with(&expected.concat())
}

/// RFC 4861 §7.2.6: an advertisement to all nodes, not solicited, with the target's link-layer address.
fn is_unsolicited_advertisement(frame: &[u8], mac: Mac, address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else {
        return false;
    };
    let ethernet = [&[0x33, 0x33, 0, 0, 0, 1][..], &mac, &[0x86, 0xdd]].concat();
    frame.len() == 86
        && frame.starts_with(&ethernet)
        && frame[54] == ADVERTISEMENT
        && frame[58] & 0x40 == 0
        && frame[62..78] == address.octets()
        && frame[80..] == mac
}

/// On a macvlan, which passes on only the groups that somebody has joined, IPv6 machines find the gateway; `detach` leaves
/// no group behind.
#[test]
fn ipv6_machines_find_the_gateway_on_a_macvlan() {
    if !can_use_namespaces() {
        return;
    }
    let (namespace, machine) = (Namespace::new("gateway"), Namespace::new("machine"));
    let link = Veth::new((&namespace, "parent"), (&machine, "eth0"));
    namespace.sh("ip link add link parent name vms type macvlan mode bridge");
    // As the manual says: the host has no IPv6 there, so that it joins nothing.
    namespace.sysctl("ipv6/conf/vms/disable_ipv6", "1");
    namespace.sh("ip link set vms up");
    link.far.add_address("fd00:10:30::4/64");
    let mut gateway = Gateway::start(&namespace, &port_only());
    let router = router_address(true);
    machine.expect_pings(router, 3, 64, "");
    let groups = || namespace.sh("ip maddr show dev vms");
    assert!(groups().contains("33:33:ff:00:00:01"), "{}", groups());
    gateway.kill();
    gateway.cli_ok(&["detach"]);
    assert!(!groups().contains("33:33:ff:00:00:01"), "{}", groups());
}

/// A bridge that snoops, and has a querier, passes solicitations to the gateway, because that reports its groups.
#[test]
fn ipv6_machines_find_the_gateway_behind_a_snooping_bridge() {
    if !can_use_namespaces() {
        return;
    }
    let (namespace, machine) = (Namespace::new("gateway"), Namespace::new("machine"));
    let switch = Namespace::new("switch");
    let options = "mcast_snooping 1 mcast_query_response_interval 0 mcast_querier 1";
    switch.sh(&format!("ip link add switch type bridge {options}"));
    switch.sh("ip link set switch up");
    let near = Veth::new((&namespace, "vms"), (&switch, "p0"));
    let far = Veth::new((&machine, "eth0"), (&switch, "p1"));
    let _program = near.far.face_gateway();
    for port in ["p0", "p1"] {
        switch.sh(&format!("ip link set {port} master switch"));
    }
    namespace.sysctl("ipv6/conf/vms/disable_ipv6", "1");
    far.near.add_address("fd00:10:30::4/64");
    let _gateway = Gateway::start(&namespace, &port_only());
    wait::expect("the bridge knows the group", || {
        let groups = switch.sh("bridge mdb show");
        groups
            .lines()
            .any(|line| line.contains("port p0") && line.contains("ff02::1:ff00:1 "))
    });
    machine.expect_pings(router_address(true), 3, 64, "");
}

/// A gateway with nothing but a port.
fn port_only() -> String {
    [
        toml::gateway(),
        toml::tenant_with_network(NETWORK, &ADDRESS_SPACE),
        toml::port(NETWORK, PORT, None, &ROUTERS),
    ]
    .concat()
}

/// `show tunnel` and the log tell why a tunnel is down, and since when.
#[test]
fn a_tunnel_that_is_down_tells_why() {
    if !can_use_namespaces() {
        return;
    }
    let mut office = Office::new(false, |tunnel| tunnel.with_key(1001));
    office.tunnel.local = "198.51.100.77".parse().unwrap();
    let gateway = Gateway::start(&office.namespace, &office.configuration());
    let expect = |reason: &str, word: &str| {
        wait::expect(&format!("the reason is {reason}"), || {
            gateway.show_one("tunnel", TUNNEL)["reason"] == reason
        });
        let tunnel = gateway.show_one("tunnel", TUNNEL);
        assert_eq!(tunnel["state"], "down");
        let explanation = tunnel["explanation"].as_str().unwrap_or_default();
        assert!(explanation.contains(word), "{tunnel}");
        let told = || gateway.log().matches(explanation).count();
        wait::expect("the log says it", || told() > 0);
        assert_eq!(told(), 1, "{}", gateway.log());
        tunnel["since"].clone()
    };
    let since = expect("no_answer", "198.51.100.77 does not answer on u0");
    assert!(since.is_string(), "{since}");

    office
        .namespace
        .sh("ip route add unreachable 198.51.100.77/32");
    assert_eq!(expect("no_route", "ip route get 198.51.100.77"), since);

    let other = &office.machine.gateway.device;
    office
        .namespace
        .sh("ip route del unreachable 198.51.100.77/32");
    office
        .namespace
        .sh(&format!("ip route add 198.51.100.77/32 dev {other}"));
    assert_eq!(expect("no_underlay", other), since);

    office
        .namespace
        .sh(&format!("ip route del 198.51.100.77/32 dev {other}"));
    office.underlay.site.add_address("198.51.100.77/24");
    wait::expect("the tunnel is up", || {
        gateway.show_one("tunnel", TUNNEL)["state"] == "up"
    });
    let tunnel = gateway.show_one("tunnel", TUNNEL);
    assert!(tunnel["reason"].is_null(), "{tunnel}");
    wait::expect("the log says it", || {
        gateway.log().contains("tunnel branch is up")
    });
    office.underlay.site.namespace.sh("ip link set wan down");
    let down = expect("device_down", "u0 is down");
    assert!(down.as_str() >= since.as_str());
}
