//! Tier 3: what an operator relies on (CASES O1, O3, O4): every packet is accounted for, mistakes change nothing,
//! and nothing is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use gre_tests::bpf::Attachment;
use gre_tests::can_use_namespaces;
use gre_tests::configuration as toml;
use gre_tests::gateway::{BPFFS, Gateway, Traffic, binary, describe};
use gre_tests::gre::{self, Outer};
use gre_tests::link::End;
use gre_tests::netns::{Handle, Namespace, unique_name};
use gre_tests::packet::{self, ETHERNET_HEADER, Fields};
use gre_tests::scenario::{
    NETWORK, Office, PORT, RunningOffice, TUNNEL, branch_address, machine_address, router_address,
};
use gre_tests::wait;
use gre_tests::wire::Wire;
use gre_userspace::vlan_offload;
use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

/// Where the key of a GRE header without checksum stands in a frame over IPv4.
const KEY_OFFSET: usize = ETHERNET_HEADER + 20 + 4;

/// O1: 60 000 packets, many of them faulty in one of many ways, from both sides at once. All
/// that came in left or was dropped for one reason; what the counters say left is what the two wires saw, or the link
/// behind the gateway had no room for.
#[test]
fn every_packet_in_is_a_packet_out_or_one_counted_drop() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    add_a_peered_network(&running);
    let RunningOffice {
        gateway,
        branch,
        office,
    } = running;
    // Nobody behind the tunnel answers: what it carries is what this test sends.
    drop(branch);
    let mut site = Wire::open(&office.underlay.site);
    let mut machine = Wire::open(&office.machine.end);
    let before = Accounts::at_rest(&gateway, &office);
    let ends = [
        &office.underlay.site,
        &office.underlay.gateway,
        &office.machine.end,
        &office.machine.gateway,
    ];
    let lost_before = ends.map(End::overflowed);
    site.drain();
    machine.drain();
    let from_site = faulty_tunnel_frames(&office, 30_000);
    let from_machine = faulty_port_frames(&office, 30_000);
    std::thread::scope(|scope| {
        let (site, machine) = (&site, &machine);
        scope.spawn(move || site.send_all(&slices(&from_site)));
        scope.spawn(move || machine.send_all(&slices(&from_machine)));
    });
    let after = Accounts::at_rest(&gateway, &office);
    let [from_site, to_site, from_machine, to_machine] =
        [0, 1, 2, 3].map(|end| ends[end].overflowed() - lost_before[end]);

    let (tunnel, port) = (
        after.since(&before, "tunnel", TUNNEL),
        after.since(&before, "port", PORT),
    );
    // A reserved bit ends the reading of a GRE header before its key: such a packet is the device's to count.
    let device = &office.underlay.gateway.device;
    let reserved =
        after.device_drops(device, "gre_reserved") - before.device_drops(device, "gre_reserved");
    assert!(reserved > 1000, "{reserved} packets had a reserved bit");
    let received = tunnel.rx_packets + reserved;
    assert!(
        (received..=received + from_site).contains(&30_000),
        "every GRE packet is counted once: {tunnel:?}, {from_site} lost before the gateway"
    );
    assert!(
        port.rx_packets + from_machine >= 30_000,
        "every IP packet of the machine counts as received: {port:?}"
    );
    let reasons: BTreeSet<&String> = tunnel.drops.keys().chain(port.drops.keys()).collect();
    assert!(
        reasons.len() >= 8,
        "the faults were to meet many reasons: {reasons:?}"
    );

    assert_eq!((site.overruns(), machine.overruns()), (0, 0));
    let left = site.drain().iter().filter(|frame| is_gre(frame)).count() as u64;
    assert!(
        (left..=left + to_site).contains(&tunnel.tx_packets),
        "{left} packets left in the tunnel, {to_site} were lost behind it: {tunnel:?}"
    );
    let left = machine
        .drain()
        .iter()
        // The kernel of the gateway's host sends multicast listener reports on the device.
        .filter(|frame| frame[..6] == office.machine.end.mac && is_ip_but_not_discovery(frame))
        .count() as u64;
    assert!(
        (left..=left + to_machine).contains(&port.tx_packets),
        "{left} packets left to the machine, {to_machine} were lost behind it: {port:?}"
    );
}

/// O1, second sentence: with nothing else running, what the peer sent is what the tunnel received, to the byte, and a
/// packet that belongs to no tunnel is a drop of the underlay device.
#[test]
fn a_tunnel_counts_exactly_what_its_peer_sent() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    // What the tunnel carries is what this test sends.
    drop(running.branch);
    let before = Accounts::at_rest(&running.gateway, &running.office);
    let good = running.office.frame_from_branch(&[7; 100]);
    let mut unknown = good.clone();
    unknown[KEY_OFFSET] ^= 0xff;
    let mut damaged = good.clone();
    // Protocol type 0x0801.
    damaged[KEY_OFFSET - 1] ^= 1;
    let wire = Wire::open(&running.office.underlay.site);
    let frames = [
        vec![&*good; 1000],
        vec![&*unknown; 200],
        vec![&*damaged; 30],
    ]
    .concat();
    wire.send_all(&frames);
    let after = Accounts::at_rest(&running.gateway, &running.office);
    let tunnel = after.since(&before, "tunnel", TUNNEL);
    assert_eq!(
        (tunnel.rx_packets, tunnel.rx_dropped),
        (1030, 30),
        "{tunnel:?}"
    );
    assert_eq!(tunnel.dropped("gre_protocol"), 30);
    let inner = (good.len() - ETHERNET_HEADER - running.office.tunnel.overhead()) as u64;
    assert_eq!(
        tunnel.rx_bytes,
        1030 * inner,
        "bytes are those of inner packets"
    );
    let device = &running.office.underlay.gateway.device;
    assert_eq!(
        after.device_drops(device, "unknown_tunnel")
            - before.device_drops(device, "unknown_tunnel"),
        200
    );
}

/// A million frames made of good ones by chance — bytes changed, cut, lengthened — on the underlay and on the port. The
/// gateway still forwards, its daemon still answers, and the counters still balance.
#[test]
fn a_million_mutated_packets_leave_the_gateway_forwarding_and_its_counters_consistent() {
    if !can_use_namespaces() {
        return;
    }
    const FRAMES: usize = 500_000;
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let (site, machine) = (
        Wire::open(&running.office.underlay.site),
        Wire::open(&running.office.machine.end),
    );
    let site_seeds = [
        running.office.frame_from_branch(b"seed"),
        running.office.underlay_frame(&packet::echo_request(
            branch_address(true),
            machine_address(true),
            1,
            1,
            b"six",
        )),
        running.office.underlay_frame(&packet::echo_request(
            branch_address(false),
            router_address(false),
            1,
            1,
            b"echo",
        )),
    ];
    let end = &running.office.machine.end;
    let to_port = |inner: Vec<u8>| {
        packet::ethernet(end.mac, running.office.machine.gateway.mac, None, &inner)
    };
    let machine_seeds = [
        running.office.frame_to_branch(b"seed"),
        to_port(packet::echo_request(
            machine_address(true),
            branch_address(true),
            1,
            1,
            b"six",
        )),
        to_port(packet::echo_request(
            machine_address(false),
            router_address(false),
            1,
            1,
            b"echo",
        )),
    ];
    std::thread::scope(|scope| {
        scope.spawn(|| send_mutated(&site, &site_seeds, FRAMES, 11));
        scope.spawn(|| send_mutated(&machine, &machine_seeds, FRAMES, 12));
    });
    let accounts = Accounts::at_rest(&running.gateway, &running.office);
    assert!(
        accounts.total(|traffic| traffic.rx_packets) > 500_000,
        "most packets were the gateway's: {accounts:?}"
    );
    for ipv6 in [false, true] {
        running.expect_reachable(ipv6);
    }
    Accounts::at_rest(&running.gateway, &running.office);
}

/// O3: a file with three mistakes is refused with all three and their places; not one counter, id or route differs
/// afterwards, and packets go on.
#[test]
fn a_wrong_configuration_changes_nothing_and_names_every_mistake() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let good = running.office.configuration();
    let wrong = good.replace("key = 1001", "key = \"many\"")
        + "colour = \"green\"\n"
        + &toml::port("nowhere", "other0", None, &["10.9.0.1/24"]);
    let before = shape(&running.gateway);
    let output = running.gateway.try_apply(&wrong);
    let message = describe(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    for mistake in ["\"many\"", "colour", "\"nowhere\""] {
        let place = place_of(&wrong, mistake);
        assert!(
            message.contains(&place),
            "{mistake} at {place} is not in\n{message}"
        );
    }
    assert_eq!(shape(&running.gateway), before);
    running.expect_reachable(false);

    // A daemon that is started with such a file does not come up, and attaches nothing.
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let refused = Gateway::start_refused(&office.namespace, &wrong);
    assert_eq!(refused.status.code(), Some(2), "{}", describe(&refused));
    assert!(!has_xdp(&office.namespace, &office.underlay.gateway.device));
}

/// O3: a file of which an editor or a full disk has left nothing is refused at SIGHUP; devices and packets stay.
#[test]
fn an_empty_file_at_sighup_takes_no_device_from_the_gateway() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let before = shape(&running.gateway);
    std::fs::write(running.gateway.configuration_file(), "")
        .expect("the temporary directory is writable");
    running.gateway.signal(Signal::SIGHUP);
    wait::expect("the file is refused", || {
        running.gateway.log().contains("is refused: ")
    });
    assert_eq!(shape(&running.gateway), before);
    running.expect_reachable(false);
}

/// O4: a device that another XDP program holds is left alone; the message names device and program, and the devices
/// before it are given back.
#[test]
fn a_device_held_by_another_program_is_reported_as_busy_and_left_alone() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let port = &office.machine.gateway;
    let index = port.namespace.interface_index(&port.device);
    let _other = office
        .namespace
        .run(|| Attachment::xdp_pass(index))
        .unwrap();
    let holder = xdp_program(&office.namespace, PORT).expect("the other program is attached");
    let output = Gateway::start_refused(&office.namespace, &office.configuration());
    let message = describe(&output);
    assert_eq!(output.status.code(), Some(5), "{message}");
    for word in [PORT, &holder.to_string(), "gre_tests"] {
        assert!(message.contains(word), "{word} is not named in {message}");
    }
    assert_eq!(
        xdp_program(&office.namespace, PORT),
        Some(holder),
        "the other program is untouched"
    );
    assert!(!has_xdp(&office.namespace, &office.underlay.gateway.device));
}

/// O3: a device that does not take the program in the mode that is asked for keeps it in the old one, and all else of
/// the refused configuration is taken back.
#[test]
fn a_mode_that_the_device_refuses_leaves_the_program_as_it_was() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let namespace = &running.office.namespace;
    add_bridge(namespace);
    let configuration = running.office.configuration();
    running
        .gateway
        .apply(&(configuration.clone() + &bridge("generic")));
    assert!(has_xdp(namespace, BRIDGE));
    let before = shape(&running.gateway);
    let refused = [
        configuration,
        bridge("native"),
        toml::tenant_with_network("new", &["10.9.0.0/16"]),
    ];
    let output = running.gateway.try_apply(&refused.concat());
    let message = describe(&output);
    assert!(!output.status.success(), "{message}");
    assert!(message.contains(BRIDGE), "{message}");
    assert!(has_xdp(namespace, BRIDGE), "{message}");
    assert_eq!(shape(&running.gateway), before);
    running.expect_reachable(false);
}

/// A start that fails once it has taken devices over from a dead daemon gives them back: the same program runs on each
/// of them as before, and packets flow; the next start finds everything as it was.
#[test]
fn a_start_that_fails_half_way_leaves_what_a_dead_daemon_left_forwarding() {
    if !can_use_namespaces() {
        return;
    }
    let mut running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    add_bridge(&running.office.namespace);
    let good = running.office.configuration() + &bridge("generic");
    let bad = running.office.configuration() + &bridge("native");
    running.gateway.apply(&good);
    let devices = [&*running.office.underlay.gateway.device, PORT, BRIDGE];
    let programs = || devices.map(|device| xdp_program(&running.office.namespace, device));
    let before = programs();
    running.gateway.kill();

    let file = running.gateway.configuration_file();
    std::fs::write(&file, bad).expect("the temporary directory is writable");
    let output = running.gateway.cli(&["run", "-c", &file.to_string_lossy()]);
    let message = describe(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains(PORT) && message.contains(BRIDGE),
        "a device was taken over before the other was refused: {message}"
    );
    assert_eq!(programs(), before, "{message}");
    running.expect_reachable(false);

    std::fs::write(&file, good).expect("the temporary directory is writable");
    running.gateway.run();
    running.expect_reachable(true);
}

/// A device that comes back as one that cannot be had does not keep the gateway from following the others.
#[test]
fn a_device_that_cannot_be_followed_does_not_hold_up_the_others() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let namespace = &office.namespace;
    namespace.sh("ip link add odd up type veth peer name odd-peer");
    let odd = "[[underlay]]\ndevice = \"odd\"\nlocal = [\"192.0.2.77\"]\nxdp_mode = \"native\"\n";
    let gateway = Gateway::start(namespace, &(office.configuration() + odd));
    // The driver of a bridge takes no program.
    namespace.sh("ip link del odd");
    namespace.sh("ip link add odd up type bridge");
    wait::expect("the bridge is refused", || {
        gateway.log().contains("odd has changed, which cannot be")
    });
    namespace.sh(&format!("ip link set {PORT} mtu 1300"));
    wait::expect("the port has its new MTU", || {
        gateway.show_one("port", PORT)["mtu"] == 1300
    });
    assert!(!has_xdp(namespace, "odd"));
}

/// A route whose device is missing says so; only those that the operator wants to lead nowhere are blackholes.
#[test]
fn routes_to_a_missing_device_are_unreachable_and_no_blackholes() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let configuration =
        office.configuration() + &toml::route(NETWORK, "10.66.0.0/16", "\"blackhole\"");
    let gateway = Gateway::start(&office.namespace, &configuration);
    office.namespace.sh(&format!("ip link del {PORT}"));
    let kind_of = |prefix: &str| {
        let routes = gateway.show("route");
        let route = routes.iter().find(|row| row["prefix"] == prefix);
        route.map(|row| row["next_hop"]["kind"].clone())
    };
    wait::expect("the subnet is unreachable", || {
        kind_of("10.10.30.0/25") == Some("unreachable".into())
    });
    assert_eq!(kind_of("10.66.0.0/16"), Some("blackhole".into()));
}

/// What a network's compiled tables take is told for each network alone, and follows its routes.
#[test]
fn each_network_tells_what_its_compiled_routes_take() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let plain = office.configuration();
    let gateway = Gateway::start(&office.namespace, &plain);
    // Without a port it learns no machines: all its routes are those of the configuration.
    let empty = toml::tenant_with_network("other", &["10.40.0.0/16", "fd00:40::/48"]);
    let with_routes = |count: usize| {
        let routes = (0..count).flat_map(|number| {
            [
                format!("10.70.{number}.0/24"),
                format!("fd00:70:{number}::/48"),
            ]
        });
        let routes = routes.map(|prefix| toml::route("other", &prefix, "\"blackhole\""));
        gateway.apply(&[&*plain, &*empty, &*routes.collect::<String>()].concat());
        let row = gateway.show_one("network", "other");
        [
            "routes",
            "fib_routes",
            "fib_nodes",
            "fib_leaves",
            "fib_bytes",
        ]
        .map(|field| {
            row[field]
                .as_u64()
                .unwrap_or_else(|| panic!("{field}: {row}"))
        })
    };
    assert_eq!(with_routes(0), [0; 5]);
    let few = with_routes(2);
    assert_eq!(few[..2], [4, 4]);
    let many = with_routes(50);
    assert_eq!(many[..2], [100, 100]);
    for (few, many) in few.iter().zip(many) {
        assert!(
            0 < *few && *few < many,
            "{few} for 4 routes, {many} for 100"
        );
    }
    assert_eq!(with_routes(2), few);
    assert_eq!(with_routes(0), [0; 5]);
    let office = gateway.show_one("network", NETWORK);
    assert!(
        office["fib_routes"].as_u64() >= office["routes"].as_u64(),
        "{office}"
    );
}

/// What decides whether VLAN ports are refused on a card is read as ethtool sets it.
#[test]
fn the_vlan_offload_of_a_device_is_read_as_it_was_set() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    for (word, on) in [("on", true), ("off", false)] {
        office
            .namespace
            .sh(&format!("ethtool -K {PORT} rxvlan {word}"));
        let read = office.namespace.run(|| vlan_offload::is_on(PORT));
        assert_eq!(read.expect("a veth tells"), on);
    }
}

/// A port's device on which the host's own stack would answer machines is told at the start, with what to do about it.
#[test]
fn a_port_on_which_the_host_itself_would_answer_is_told_with_the_remedy() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let mut gateway = Gateway::start(&office.namespace, &office.configuration());
    let warnings = |gateway: &Gateway| gateway.log().matches("port device").count();
    let remedies = ["ipv4/conf/vms/arp_ignore", "ipv6/conf/vms/disable_ipv6"];
    for remedy in remedies {
        let command = format!("sysctl -w net/{remedy}=1");
        assert!(gateway.log().contains(&command), "{command}");
        office.namespace.sysctl(remedy, "1");
    }
    assert_eq!(warnings(&gateway), remedies.len());
    gateway.kill();
    gateway.run();
    assert_eq!(
        warnings(&gateway),
        remedies.len(),
        "nothing is left to tell"
    );
}

/// Whoever owns the directory of the pins could replace programs and maps, or take them away.
#[test]
fn a_pin_directory_of_another_user_is_refused_and_left_alone() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let instance = unique_name("foreign");
    let directory = ForeignDirectory(Path::new(BPFFS).join("gregw").join(&instance));
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(&file, office.configuration()).expect("it can be written");
    for (user, mode) in [(1000, 0o755), (0, 0o777)] {
        directory.create(user, mode);
        let mut command = office.namespace.command(binary());
        command.args(["--instance", &instance, "run", "-c"]);
        let output = command.arg(file.path()).output().expect("it can be run");
        let message = describe(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        for part in [&*directory.0.to_string_lossy(), &user.to_string(), "remove"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let mut entries = std::fs::read_dir(&directory.0).expect("it is there");
        assert!(entries.next().is_none(), "nothing is made in it");
        assert!(!has_xdp(&office.namespace, PORT));
    }
}

/// A directory among the pins, removed when dropped.
struct ForeignDirectory(PathBuf);

impl ForeignDirectory {
    fn create(&self, user: u32, mode: u32) {
        std::fs::create_dir_all(&self.0).expect("bpffs is mounted");
        std::os::unix::fs::chown(&self.0, Some(user), Some(user)).expect("root may");
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&self.0, mode).expect("root may");
    }
}

impl Drop for ForeignDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Where gregw mounts the BPF file system itself, nobody but root gets in. (Its mounts are those of its own namespace
/// here, in which there is none before. The kernel always sets the sticky bit.)
#[test]
fn bpffs_is_mounted_for_root_alone() {
    if !can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("gateway");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(&file, toml::without_device()).expect("it can be written");
    let script = "mountpoint -q /sys/fs/bpf && umount -l /sys/fs/bpf; mountpoint -q /sys/fs/bpf && exit 1; \
        \"$0\" --instance \"$1\" run -c \"$2\"; stat -f -c %T /sys/fs/bpf; stat -c %a /sys/fs/bpf";
    let mut command = namespace.command("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(binary());
    command.arg(unique_name("mount")).arg(file.path());
    let output = command.output().expect("unshare can be run");
    let message = describe(&output);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "bpf_fs\n1700\n",
        "{message}"
    );
}

/// O4: a second daemon of the same instance is refused, and the first goes on.
#[test]
fn a_second_daemon_of_one_instance_is_busy() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let output = running.gateway.cli(&[
        "run",
        "-c",
        &running.gateway.configuration_file().to_string_lossy(),
    ]);
    let message = describe(&output);
    assert_eq!(output.status.code(), Some(5), "{message}");
    assert!(
        message.contains(&running.gateway.pid().to_string())
            || message.contains(running.gateway.instance())
    );
    running.expect_reachable(true);
}

/// O4: after SIGKILL packets still flow; `detach` then removes every program, map, link and pin.
#[test]
fn detach_after_sigkill_leaves_no_program_map_or_pin() {
    if !can_use_namespaces() {
        return;
    }
    let mut running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let (programs, maps) = kernel_objects(&running);
    assert!(
        !programs.is_empty() && maps.len() >= 8,
        "programs {programs:?}, maps {maps:?}"
    );
    running.gateway.kill();
    running.expect_reachable(false);
    assert!(
        running.gateway.pins().exists(),
        "what must survive is pinned"
    );

    running.gateway.cli_ok(&["detach"]);
    assert!(!running.gateway.pins().exists());
    let devices = [
        &running.office.underlay.gateway.device,
        &running.office.machine.gateway.device,
    ];
    for device in devices {
        assert!(
            !has_xdp(&running.office.namespace, device),
            "{device} still has a program"
        );
    }
    // The kernel frees them after a grace period.
    wait::expect("the kernel has freed everything", || {
        let (left_programs, left_maps) = (
            ids(&bpftool(&["prog", "show"])),
            ids(&bpftool(&["map", "show"])),
        );
        let links = bpftool(&["link", "show"]);
        let held = rows(&links)
            .iter()
            .filter_map(|link| link["prog_id"].as_u64())
            .any(|id| programs.contains(&id));
        !held && programs.is_disjoint(&left_programs) && maps.is_disjoint(&left_maps)
    });
    // The host itself is reachable as ever.
    assert!(
        running
            .office
            .underlay
            .host
            .reaches(running.office.underlay.gateway_address(false))
    );
    let again = running.gateway.cli(&["detach"]);
    assert!(
        matches!(again.status.code(), Some(0 | 3)),
        "{}",
        describe(&again)
    );
}

/// What is loaded can be read with bpftool: the program with its maps and instructions, each map with its entries.
#[test]
fn bpftool_reads_the_program_and_every_map() {
    if !can_use_namespaces() {
        return;
    }
    let running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let (programs, maps) = kernel_objects(&running);
    for id in &programs {
        let program = bpftool(&["prog", "show", "id", &id.to_string()]);
        assert_eq!(program["type"], "xdp");
        assert!(
            program["btf_id"].is_u64(),
            "the program has type information: {program}"
        );
        let listing = bpftool(&["prog", "dump", "xlated", "id", &id.to_string()]);
        assert!(rows(&listing).len() > 100, "the instructions can be listed");
    }
    let mut read = 0;
    for id in maps.iter().map(u64::to_string) {
        let map = bpftool(&["map", "show", "id", &id]);
        assert!(
            map["name"].as_str().is_some_and(|name| name.len() <= 15),
            "{map}"
        );
        let is_short = map["bytes_value"]
            .as_u64()
            .is_some_and(|bytes| bytes <= 4096);
        read += match map["type"].as_str() {
            // All entries of an array, or the one of the routing table, would take minutes.
            Some("array" | "percpu_array") if is_short => {
                bpftool(&["map", "lookup", "id", &id, "key", "0", "0", "0", "0"]);
                1
            }
            Some("hash" | "percpu_hash" | "devmap_hash") => {
                rows(&bpftool(&["map", "dump", "id", &id])).len()
            }
            _ => 0,
        };
    }
    assert!(read >= 10, "bpftool read only {read} entries");
}

/// A device whose driver takes no program.
const BRIDGE: &str = "bridge";

fn add_bridge(namespace: &Handle) {
    namespace.sh(&format!("ip link add {BRIDGE} up type bridge"));
}

/// Its section of the configuration.
fn bridge(xdp_mode: &str) -> String {
    format!(
        "[[underlay]]\ndevice = \"{BRIDGE}\"\nlocal = [\"192.0.2.77\"]\nxdp_mode = \"{xdp_mode}\"\n"
    )
}

/// Counters of all tunnels and ports, and drops of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Accounts {
    traffic: BTreeMap<(&'static str, String), Traffic>,
    devices: Vec<Value>,
}

impl Accounts {
    /// The counters once the gateway has dealt with all that was sent and with what the machine replied to it; they must
    /// balance. The kernels of machine and branch may say something by themselves while the counters are read, so they
    /// are read until they do.
    #[track_caller]
    fn at_rest(gateway: &Gateway, office: &Office) -> Self {
        office.underlay.barrier();
        office.machine.barrier();
        office.machine.barrier();
        let mut accounts = Self::read(gateway);
        let balanced = wait::until(|| {
            accounts = Self::read(gateway);
            accounts.are_balanced()
        });
        assert!(balanced, "{accounts:#?}");
        accounts
    }

    fn read(gateway: &Gateway) -> Self {
        let mut traffic = BTreeMap::new();
        for kind in ["tunnel", "port"] {
            for row in gateway.show(kind) {
                let name = row["name"].as_str().expect("it has a name").to_owned();
                traffic.insert((kind, name), Traffic::of(&row));
            }
        }
        Self {
            traffic,
            devices: gateway.show("device"),
        }
    }

    /// Whether all that came in, at any tunnel or port, left at one or was dropped; and each one's drops have reasons.
    fn are_balanced(&self) -> bool {
        let each_explains_its_drops = self.traffic.values().all(|traffic| {
            let by_reason: u64 = traffic.drops.values().sum();
            by_reason == traffic.rx_dropped + traffic.tx_dropped
                && traffic.rx_dropped <= traffic.rx_packets
        });
        let received = self.total(|traffic| traffic.rx_packets);
        let sent = self.total(|traffic| traffic.tx_packets);
        let dropped = self.total(|traffic| traffic.rx_dropped + traffic.tx_dropped);
        each_explains_its_drops && received == sent + dropped
    }

    fn total(&self, counter: impl Fn(&Traffic) -> u64) -> u64 {
        self.traffic.values().map(counter).sum()
    }

    /// What one tunnel or port counted since `before`.
    fn since(&self, before: &Self, kind: &'static str, name: &str) -> Traffic {
        let key = (kind, name.to_owned());
        let (now, then) = (&self.traffic[&key], &before.traffic[&key]);
        Traffic {
            rx_packets: now.rx_packets - then.rx_packets,
            rx_bytes: now.rx_bytes - then.rx_bytes,
            rx_dropped: now.rx_dropped - then.rx_dropped,
            tx_packets: now.tx_packets - then.tx_packets,
            tx_bytes: now.tx_bytes - then.tx_bytes,
            tx_dropped: now.tx_dropped - then.tx_dropped,
            drops: now
                .drops
                .iter()
                .map(|(reason, count)| (reason.clone(), count - then.dropped(reason)))
                .collect(),
        }
    }

    fn device_drops(&self, device: &str, reason: &str) -> u64 {
        let row = self.devices.iter().find(|row| row["name"] == device);
        row.and_then(|row| row["drops"][reason].as_u64())
            .unwrap_or_default()
    }
}

/// A second network on the far side of a peering, so that packets between ports are part of the mixture.
fn add_a_peered_network(running: &RunningOffice) {
    let configuration = [
        running.office.configuration(),
        toml::tenant_with_network("other", &["10.40.0.0/16"]),
        toml::tunnel(
            "other-branch",
            "other",
            &running.office.tunnel.clone().with_key(2002),
            &["10.41.0.0/16"],
        ),
        toml::peering(NETWORK, "other"),
        toml::peering("other", NETWORK),
        toml::route(NETWORK, "10.66.0.0/16", "\"blackhole\""),
    ]
    .concat();
    running.gateway.apply(&configuration);
}

/// GRE frames of the office's tunnel: mostly good, the others with one of many faults behind the tunnel's key.
fn faulty_tunnel_frames(office: &Office, count: usize) -> Vec<Vec<u8>> {
    let mut random = SmallRng::seed_from_u64(21);
    let inner_offset = ETHERNET_HEADER + office.tunnel.overhead();
    let inner = |random: &mut SmallRng| {
        let fields = some_fields(random);
        let destination = some_destination(random, machine_address(false));
        let payload = vec![1; random.random_range(20..600)];
        packet::udp(
            branch_address(false),
            destination,
            (random.random(), 9),
            fields,
            &payload,
        )
    };
    (0..count)
        .map(|_| {
            let mut frame = office.underlay_frame(&inner(&mut random));
            match random.random_range(0..15) {
                0 => frame[inner_offset - 5] = 0x99,   // Protocol type.
                1 => frame[inner_offset] = 0x65,       // Inner version.
                2 => frame[inner_offset + 10] ^= 0x55, // Inner header checksum.
                3 => set_length_beyond_the_end(&mut frame[inner_offset..]),
                4 => frame[ETHERNET_HEADER + 20] |= 0x40, // A reserved bit.
                _ => {}
            }
            frame
        })
        .collect()
}

/// IP frames of the office's machine: mostly good, the others with one of many faults.
fn faulty_port_frames(office: &Office, count: usize) -> Vec<Vec<u8>> {
    let mut random = SmallRng::seed_from_u64(22);
    let end = &office.machine.end;
    (0..count)
        .map(|_| {
            let destination = some_destination(&mut random, branch_address(false));
            let payload = vec![2; random.random_range(20..600)];
            let fields = some_fields(&mut random);
            let inner = packet::udp(
                machine_address(false),
                destination,
                (random.random(), 9),
                fields,
                &payload,
            );
            let mut frame = packet::ethernet(end.mac, office.machine.gateway.mac, None, &inner);
            match random.random_range(0..15) {
                0 => frame[ETHERNET_HEADER + 10] ^= 0x55, // Header checksum.
                1 => set_length_beyond_the_end(&mut frame[ETHERNET_HEADER..]),
                2 => frame[ETHERNET_HEADER] = 0x43, // A header of 12 bytes.
                _ => {}
            }
            frame
        })
        .collect()
}

/// Makes the total length of an IPv4 packet too large, in a header that is otherwise correct.
fn set_length_beyond_the_end(packet: &mut [u8]) {
    packet[2] = 0xff;
    packet[10..12].fill(0);
    let sum = gre::internet_checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Mostly `usual`; else something that a peering, the gateway itself, a blackhole or nothing at all answers for.
fn some_destination(random: &mut SmallRng, usual: std::net::IpAddr) -> std::net::IpAddr {
    let others = [
        [10, 41, 1, 1],    // Behind the peered network's tunnel.
        [10, 40, 1, 1],    // In the peered network, where no machine is.
        [10, 66, 1, 1],    // Blackhole.
        [203, 0, 113, 77], // No route.
        [224, 0, 0, 251],  // Multicast.
        [10, 10, 30, 1],   // The gateway itself, not asking for an echo.
        [10, 10, 30, 99],  // A machine that does not exist.
    ];
    if random.random_bool(0.8) {
        usual
    } else {
        others.choose(random).copied().unwrap_or_default().into()
    }
}

fn some_fields(random: &mut SmallRng) -> Fields {
    let ttl = if random.random_bool(0.05) {
        random.random_range(0..2)
    } else {
        64
    };
    Fields {
        ttl,
        tos: random.random(),
    }
}

fn send_mutated(wire: &Wire, seeds: &[Vec<u8>], count: usize, seed: u64) {
    const CHUNK: usize = 512;
    let mut random = SmallRng::seed_from_u64(seed);
    for _ in 0..count.div_ceil(CHUNK) {
        let frames: Vec<Vec<u8>> = (0..CHUNK).map(|_| mutated(seeds, &mut random)).collect();
        wire.send_all(&slices(&frames));
    }
}

/// A frame with one to four bytes changed behind the Ethernet header, sometimes cut or lengthened.
fn mutated(seeds: &[Vec<u8>], random: &mut SmallRng) -> Vec<u8> {
    let mut frame = seeds.choose(random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(1..=4) {
        let position = random.random_range(ETHERNET_HEADER..frame.len());
        frame[position] = random.random();
    }
    match random.random_range(0..8) {
        0 => frame.truncate(random.random_range(ETHERNET_HEADER + 1..=frame.len())),
        1 => frame.resize(frame.len() + random.random_range(1..200), 0xee),
        _ => {}
    }
    frame
}

fn slices(frames: &[Vec<u8>]) -> Vec<&[u8]> {
    frames.iter().map(Vec::as_slice).collect()
}

fn is_gre(frame: &[u8]) -> bool {
    matches!(
        frame.get(ETHERNET_HEADER..).map(Outer::parse),
        Some(Ok(Some(_)))
    )
}

/// IPv4, or IPv6 that is not neighbour discovery: what a port counts.
fn is_ip_but_not_discovery(frame: &[u8]) -> bool {
    let Some(packet) = frame.get(ETHERNET_HEADER..) else {
        return false;
    };
    match (&frame[12..ETHERNET_HEADER], gre::version(packet)) {
        ([0x08, 0x00], Some(4)) => true,
        // Next header ICMPv6, types 133 to 137.
        ([0x86, 0xdd], Some(6)) => {
            !(packet[6] == 58
                && packet
                    .get(40)
                    .is_some_and(|kind| (133..=137).contains(kind)))
        }
        _ => false,
    }
}

/// Everything that `show` says, without what passing packets change.
fn shape(gateway: &Gateway) -> Vec<Value> {
    let kinds = ["tunnel", "network", "port", "peering", "route", "device"];
    let mut rows: Vec<Value> = kinds.iter().flat_map(|kind| gateway.show(kind)).collect();
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        for counter in ["rx", "tx", "drops"] {
            row.remove(counter);
        }
    }
    rows
}

/// `line:column` of a text, both counted from 1.
fn place_of(text: &str, needle: &str) -> String {
    let offset = text.find(needle).expect("the mistake is in the file");
    let line = text[..offset].matches('\n').count() + 1;
    let column = offset - text[..offset].rfind('\n').map_or(0, |newline| newline + 1) + 1;
    format!("{line}:{column}")
}

/// Kernel ids of the gateway's programs, attached or pinned, and of its maps: those that the programs use and those that
/// are only pinned.
fn kernel_objects(running: &RunningOffice) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let mut programs = pinned(&running.gateway, "prog", "progs");
    programs.extend(
        running
            .gateway
            .show("device")
            .iter()
            .filter_map(|row| row["program"].as_u64()),
    );
    let mut maps = pinned(&running.gateway, "map", "maps");
    for id in &programs {
        let program = bpftool(&["prog", "show", "id", &id.to_string()]);
        maps.extend(rows(&program["map_ids"]).iter().filter_map(Value::as_u64));
    }
    (programs, maps)
}

/// Ids of the objects of a kind that are pinned in a directory of the instance.
fn pinned(gateway: &Gateway, kind: &str, directory: &str) -> BTreeSet<u64> {
    let directory = gateway.pins().join(directory);
    let entries = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries
        .flatten()
        .filter_map(|entry| {
            bpftool(&[kind, "show", "pinned", &entry.path().to_string_lossy()])["id"].as_u64()
        })
        .collect()
}

fn ids(list: &Value) -> BTreeSet<u64> {
    rows(list)
        .iter()
        .filter_map(|row| row["id"].as_u64())
        .collect()
}

fn rows(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

#[track_caller]
fn bpftool(arguments: &[&str]) -> Value {
    let output: Output = std::process::Command::new("bpftool")
        .arg("-j")
        .args(arguments)
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run bpftool: {error}; `cargo xtask setup` installs it")
        });
    assert!(
        output.status.success(),
        "bpftool {}: {}",
        arguments.join(" "),
        describe(&output)
    );
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("bpftool {}: {error}", arguments.join(" ")))
}

fn has_xdp(namespace: &Handle, device: &str) -> bool {
    xdp_program(namespace, device).is_some()
}

/// Kernel id of the XDP program on a device.
fn xdp_program(namespace: &Handle, device: &str) -> Option<u64> {
    let links: Value =
        serde_json::from_str(&namespace.sh(&format!("ip -j link show dev {device}")))
            .expect("JSON");
    links[0]["xdp"]["prog"]["id"].as_u64()
}
