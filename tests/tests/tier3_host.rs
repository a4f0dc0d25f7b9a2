//! Tier 3: the kernel around the gateway: what it knows of the underlay, what it has room for, and what others do to it.

use gre_tests::can_use_namespaces;
use gre_tests::configuration as toml;
use gre_tests::gateway::Gateway;
use gre_tests::gre::Tunnel;
use gre_tests::scenario::{NETWORK, Office, TUNNEL};
use gre_tests::wait;

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
