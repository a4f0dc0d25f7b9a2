//! Tier 5: the main job on the kernel that runs, with sites that are its own GRE devices where it has them. Run natively
//! and in a guest for each kernel of the matrix.

use std::net::IpAddr;
use std::path::Path;

use gre_tests::broken_program::{self, OBJECTION};
use gre_tests::can_use_namespaces;
use gre_tests::configuration as toml;
use gre_tests::gateway::{Gateway, describe, left_by};
use gre_tests::gre::Tunnel;
use gre_tests::kernel_site::{self, Sites, VrfSites};
use gre_tests::netns::{Handle, Namespace, unique_name};
use gre_tests::scenario::{
    NETWORK, Office, PORT, TUNNEL, branch_address, machine_address, router_address,
};
use gre_tests::stream::{self, Stream};
use gre_tests::topology::{Machine, Segment, Underlay};
use gre_tests::transfer::{self, Place};
use gre_userspace::kernel;
use gre_userspace::object::GATEWAY;

const SPACE: [&str; 2] = ["10.10.30.0/24", "fd00:10:30::/48"];
const ROUTERS: [&str; 2] = ["10.10.30.1/25", "fd00:10:30::1/64"];
const BARE_ROUTERS: [&str; 2] = ["10.10.30.1", "fd00:10:30::1"];
const HOST: [&str; 2] = ["10.10.30.4/25", "fd00:10:30::4/64"];
/// Bytes of a transfer: some hundred full packets.
const BYTES: usize = 256 << 10;

/// All that a tunnel may have: checksum, key, sequence.
const OPTIONS: [(bool, bool, bool); 8] = [
    (false, false, false),
    (false, false, true),
    (false, true, false),
    (false, true, true),
    (true, false, false),
    (true, false, true),
    (true, true, false),
    (true, true, true),
];

/// Eight combinations of checksum, key and sequence number over each outer family, both inner families in each.
#[test]
fn sites_with_every_option_reach_hosts_in_all_four_pairs_of_families() {
    if !can_use_namespaces() {
        return;
    }
    println!(
        "sites are GRE devices of the kernel: {}",
        kernel_site::are_possible()
    );
    let namespace = Namespace::new("gateway");
    let underlay = Underlay::new(&namespace, 0);
    let host = Machine::on_port(&namespace, PORT, &HOST, &BARE_ROUTERS);
    let mut configuration = [
        toml::gateway(),
        underlay.configuration(),
        toml::tenant_with_network(NETWORK, &SPACE),
        toml::port(NETWORK, PORT, None, &ROUTERS),
    ]
    .concat();
    let mut sites = Vec::new();
    for (number, (outer_ipv6, options)) in (0..).zip(
        [false, true]
            .into_iter()
            .flat_map(|outer| OPTIONS.map(|options| (outer, options))),
    ) {
        let tunnel = with_options(
            &underlay.tunnel_from(outer_ipv6, 10 + number),
            options,
            1000 + u32::from(number),
        );
        let prefixes = [
            format!("10.11.{number}.0/24"),
            format!("fd00:11:{number}::/48"),
        ];
        configuration += &toml::tunnel(
            &format!("t{number}"),
            NETWORK,
            &tunnel,
            &prefixes.each_ref().map(String::as_str),
        );
        sites.push((
            tunnel,
            vec![
                format!("10.11.{number}.65/24"),
                format!("fd00:11:{number}::65/48"),
            ],
        ));
    }
    let gateway = Gateway::start(&namespace, &configuration);
    let tunnels: Vec<Tunnel> = sites.iter().map(|(tunnel, _)| tunnel.clone()).collect();
    let sites = Sites::start(&underlay, sites);
    for (number, (tunnel, inside)) in tunnels.iter().zip(&sites.insides).enumerate() {
        let described = format!("{tunnel:?}");
        let addresses: [IpAddr; 2] = [
            format!("10.11.{number}.65"),
            format!("fd00:11:{number}::65"),
        ]
        .map(|address| address.parse().expect("an address"));
        for ipv6 in [false, true] {
            let (site, of_host) = (addresses[usize::from(ipv6)], machine_address(ipv6));
            expect_answers(&host.namespace, site, 63, &described, &gateway);
            expect_answers(inside, of_host, 63, &described, &gateway);
            if tunnel.transmit_key.is_some() {
                let seed = number as u64 * 10;
                transfer::tcp(&host.namespace, inside, site, BYTES, seed)
                    .unwrap_or_else(|error| panic!("TCP to {site}, {described}: {error}"));
                transfer::tcp(inside, &host.namespace, of_host, BYTES, seed + 1)
                    .unwrap_or_else(|error| panic!("TCP from {site}, {described}: {error}"));
            }
        }
    }
}

/// Two tenants whose sites share one pair of addresses and are alike inside: keys alone tell them apart, here by
/// networks, there by VRFs of one kernel.
#[test]
fn two_keys_between_one_pair_of_addresses_lead_into_two_vrfs() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let underlay = Underlay::new(&namespace, 0);
    let tenants = ["red", "blue"];
    let hosts = tenants.map(|tenant| Machine::on_port(&namespace, tenant, &HOST, &BARE_ROUTERS));
    let tunnels = [1001, 1002].map(|key| underlay.tunnel(false).with_key(key));
    let mut configuration = toml::gateway() + &underlay.configuration();
    for (tenant, tunnel) in tenants.iter().zip(&tunnels) {
        configuration += &toml::tenant_with_network(tenant, &SPACE);
        configuration += &toml::port(tenant, tenant, None, &ROUTERS);
        let prefixes = ["10.11.30.64/26", "fd00:11::/48"];
        configuration += &toml::tunnel(&format!("{tenant}-site"), tenant, tunnel, &prefixes);
    }
    let gateway = Gateway::start(&namespace, &configuration);
    let [red, blue] = tunnels;
    let addresses = ["10.11.30.65/26", "fd00:11::65/48"];
    if kernel_site::are_possible() && kernel_site::are_vrfs_possible() {
        let sites = VrfSites::start(&underlay, &[("red", red), ("blue", blue)], &addresses);
        for (tenant, host) in tenants.into_iter().zip(&hosts) {
            let place = Place::in_vrf(sites.host(), tenant);
            let from_vrf = format!("-I {tenant}");
            expect_separate(&gateway, tenant, host, place, (sites.host(), &from_vrf));
        }
    } else {
        println!("the kernel has no VRFs or GRE devices: namespaces take their place");
        let addresses = addresses.map(str::to_owned).to_vec();
        let sites = Sites::start(&underlay, vec![(red, addresses.clone()), (blue, addresses)]);
        for ((tenant, host), inside) in tenants.into_iter().zip(&hosts).zip(&sites.insides) {
            expect_separate(&gateway, tenant, host, Place::from(inside), (inside, ""));
        }
    }
}

/// Pings and transfers of one tenant are counted for its tunnel and no other; what a transfer carries belongs to it.
fn expect_separate(
    gateway: &Gateway,
    tenant: &str,
    host: &Machine,
    site: Place<'_>,
    (site_host, ping_options): (&Handle, &str),
) {
    let tunnel = format!("{tenant}-site");
    let rows = || gateway.show("tunnel");
    let of_others = || -> u64 {
        let rows = rows();
        let others = rows.iter().filter(|row| row["name"] != *tunnel);
        others
            .map(|row| row["rx"]["packets"].as_u64().expect("a counter"))
            .sum()
    };
    let before = of_others();
    for ipv6 in [false, true] {
        expect_answers(&host.namespace, branch_address(ipv6), 63, tenant, gateway);
        assert!(
            site_host.reaches_by(machine_address(ipv6), ping_options),
            "{tenant}'s site does not reach its host"
        );
        let seed = tenant.len() as u64;
        transfer::tcp(&host.namespace, site, branch_address(ipv6), BYTES, seed)
            .expect("TCP to the site");
        transfer::tcp(
            site,
            &host.namespace,
            machine_address(ipv6),
            BYTES,
            seed + 1,
        )
        .expect("TCP to the host");
    }
    assert_eq!(
        of_others(),
        before,
        "packets of {tenant} came out of another tunnel"
    );
    assert!(gateway.traffic("tunnel", &tunnel).rx_packets > 100);
}

/// A trunk with two VLANs that are two networks.
#[test]
fn a_host_on_a_vlan_reaches_its_own_site() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let underlay = Underlay::new(&namespace, 0);
    let mut trunk = Segment::new(&namespace, "trunk");
    let vlans = [100, 200];
    let hosts = vlans.map(|vlan| trunk.machine(Some(vlan), &HOST, &BARE_ROUTERS));
    let mut configuration = toml::gateway() + &underlay.configuration();
    let mut sites = Vec::new();
    for vlan in vlans {
        let name = format!("net{vlan}");
        let tunnel = underlay.tunnel(false).with_key(u32::from(vlan));
        configuration += &toml::tenant_with_network(&name, &SPACE);
        configuration += &toml::port(&name, "trunk", Some(vlan), &ROUTERS);
        configuration += &toml::tunnel(
            &format!("t{vlan}"),
            &name,
            &tunnel,
            &["10.11.30.64/26", "fd00:11::/48"],
        );
        sites.push((
            tunnel,
            vec!["10.11.30.65/26".to_owned(), "fd00:11::65/48".to_owned()],
        ));
    }
    let gateway = Gateway::start(&namespace, &configuration);
    let sites = Sites::start(&underlay, sites);
    for (host, inside) in hosts.iter().zip(&sites.insides) {
        for ipv6 in [false, true] {
            expect_answers(
                &host.namespace,
                router_address(ipv6),
                64,
                "the gateway itself",
                &gateway,
            );
            expect_answers(
                &host.namespace,
                branch_address(ipv6),
                63,
                "the site",
                &gateway,
            );
            expect_answers(inside, machine_address(ipv6), 63, "the host", &gateway);
            transfer::tcp(&host.namespace, inside, branch_address(ipv6), BYTES, 1)
                .expect("TCP to the site");
        }
    }
}

/// O2, O4: restarts and SIGKILL while packets flow both ways; then nothing is left.
#[test]
fn restart_and_sigkill_lose_no_packet_and_detach_leaves_nothing() {
    if !can_use_namespaces() {
        return;
    }
    /// Packets a second each way: few enough for an emulated processor.
    const RATE: u64 = 500;
    /// Packets of a stream between two events.
    const BETWEEN: u64 = 50;
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let mut gateway = Gateway::start(&office.namespace, &office.configuration());
    let addresses = ["10.11.30.65/26", "fd00:11::65/48"].map(str::to_owned);
    let site = Sites::start(
        &office.underlay,
        vec![(office.tunnel.clone(), addresses.to_vec())],
    );
    for ipv6 in [false, true] {
        expect_answers(
            &site.insides[0],
            machine_address(ipv6),
            63,
            "the host",
            &gateway,
        );
    }
    let streams = [
        Stream::start(
            office.path_to_branch(),
            office.frame_to_branch(&stream::payload(1, 64)),
            RATE,
        ),
        Stream::start(
            office.path_from_branch(),
            office.frame_from_branch(&stream::payload(2, 64)),
            RATE,
        ),
    ];
    let flow = || streams.each_ref().map(|stream| stream.flow(BETWEEN));
    flow();
    gateway.stop();
    flow();
    gateway.run();
    flow();
    gateway.kill();
    flow();
    gateway.run();
    flow();
    let packets = gateway.show_one("tunnel", TUNNEL)["rx"]["packets"].as_u64();
    assert!(
        packets > Some(0),
        "counters are those of before: {packets:?}"
    );
    for stream in streams {
        stream.stop().assert_nothing_lost();
    }
    gateway.kill();
    expect_answers(
        &site.insides[0],
        machine_address(false),
        63,
        "the host, without a daemon",
        &gateway,
    );
    gateway.cli_ok(&["detach"]);
    assert!(!gateway.pins().exists());
    for device in [
        &office.underlay.gateway.device,
        &office.machine.gateway.device,
    ] {
        let link = office.namespace.sh(&format!("ip link show dev {device}"));
        assert!(!link.contains("prog/xdp"), "{link}");
    }
}

/// The program of this gregw is no kernel's liking, so that it shows what a user is told by one that refuses ours.
#[test]
fn a_refusal_by_the_verifier_tells_kernel_program_and_reason_and_where_the_log_is() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [program, file] = ["gregw", "gregw.toml"].map(|name| directory.path().join(name));
    broken_program::write_gateway(&program);
    std::fs::write(&file, toml::without_device()).expect("the directory is writable");
    let instance = unique_name("refused");
    let gregw = |arguments: &[&str]| {
        let mut command = namespace.command(&program);
        command.args(["--instance", &instance]).args(arguments);
        command.output().expect("the copy can be run")
    };
    let refused = gregw(&["run", "-c", &file.to_string_lossy()]);
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(6), "{message}");
    let log = format!("/run/gregw/{instance}.verifier.log");
    let release = kernel::release().expect("a kernel");
    let whole = std::fs::read_to_string(&log).expect("the log is there");
    assert!(whole.contains(OBJECTION), "{whole}");
    for part in [&release, GATEWAY, OBJECTION, &log] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let left: Vec<_> = left_by(std::process::id())
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(&instance))
        .collect();
    assert_eq!(left, [Path::new(&log)]);
    let detached = gregw(&["detach"]);
    assert!(detached.status.success(), "{}", describe(&detached));
    assert!(!Path::new(&log).exists(), "detaching removes it");
}

fn with_options(
    tunnel: &Tunnel,
    (checksum, key, sequence): (bool, bool, bool),
    number: u32,
) -> Tunnel {
    Tunnel {
        checksum,
        sequence,
        transmit_key: key.then_some(number),
        // Keys of the two directions differ.
        receive_key: key.then_some(number + 1000),
        ..tunnel.clone()
    }
}

/// `from` gets an answer with this TTL once everything is resolved.
#[track_caller]
fn expect_answers(from: &Handle, to: IpAddr, ttl: u8, what: &str, gateway: &Gateway) {
    assert!(
        from.reaches(to),
        "{to} does not answer ({what}):\n{}",
        gateway.cli_ok(&["show", "drop"])
    );
    let ping = from.ping(to, "");
    assert_eq!(
        (ping.received, ping.ttl),
        (1, Some(ttl)),
        "{what}: {}",
        ping.text
    );
}
