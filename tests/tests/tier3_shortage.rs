//! Tier 3: connections, descriptors or room on the disk are short, and the gateway is at its operator's command all the
//! same.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use gre_common::limits;
use gre_tests::can_use_namespaces;
use gre_tests::configuration as toml;
use gre_tests::gateway::{Gateway, binary, describe};
use gre_tests::netns::Handle;
use gre_tests::scenario::{NETWORK, Office};
use gre_tests::wait;
use gre_userspace::server::CONNECTIONS;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

/// 1 100 who connect to the metrics' port and say nothing: the daemon has a fixed number of them, so that it has
/// descriptors left for `show` and `apply`.
#[test]
fn half_open_connections_to_the_metrics_leave_the_command_line_alone() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    office.namespace.sh("ip link set lo up");
    let with_metrics = office
        .configuration()
        .replace("[gateway]\n", "[gateway]\nmetrics = \"127.0.0.1:9469\"\n");
    let gateway = Gateway::start(&office.namespace, &with_metrics);
    let before = descriptors(&gateway);
    let address = "127.0.0.1:9469".parse().expect("an address");
    let _silent = connect_and_be_silent(&office.namespace, address, 1100);
    wait::expect("as many are served as may be", || {
        descriptors(&gateway) >= before + CONNECTIONS
    });
    for metric in [5, 6] {
        assert_eq!(gateway.show("device").len(), 2);
        gateway.apply(&(with_metrics.clone() + &extra_tunnel(&office, metric)));
        // Those of the command line may be there for a moment still.
        assert!(descriptors(&gateway) < before + CONNECTIONS + 10);
    }
}

/// The limit that a shell gives is raised to what all devices take.
#[test]
fn descriptors_for_all_devices_are_asked_for_at_the_start() {
    if !can_use_namespaces() {
        return;
    }
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    let launcher = launcher("64:8192");
    let gateway = Gateway::start_by(&launcher, &office.namespace, &office.configuration());
    assert!(open_files_limit(&gateway) >= limits::DEVICES + 2 * CONNECTIONS);
}

/// Where the limit cannot be raised, devices that have no room are refused, at the start and later, before anything is
/// replaced; the others leave the daemon the descriptors that it needs.
#[test]
fn devices_beyond_the_limit_on_open_files_are_refused_and_the_others_served() {
    if !can_use_namespaces() {
        return;
    }
    const LIMIT: usize = 300;
    let office = Office::new(false, |tunnel| tunnel.with_key(1001));
    office.namespace.sh("ip link set lo up");
    let launcher = launcher(&format!("{LIMIT}:{LIMIT}"));
    let with_metrics = office
        .configuration()
        .replace("[gateway]\n", "[gateway]\nmetrics = \"127.0.0.1:9469\"\n");
    let gateway = Gateway::start_by(&launcher, &office.namespace, &with_metrics);
    assert_eq!(open_files_limit(&gateway), LIMIT);
    let refused = gateway.try_apply(&(with_metrics.clone() + &many_ports(&office.namespace, 60)));
    let message = describe(&refused);
    assert_eq!(refused.status.code(), Some(2), "{message}");
    let room = room_in(&message);
    assert!((20..60).contains(&room), "{message}");
    assert_eq!(gateway.show("device").len(), 2);

    let address = "127.0.0.1:9469".parse().expect("an address");
    let _silent = connect_and_be_silent(&office.namespace, address, 2 * CONNECTIONS);
    gateway.apply(&(with_metrics + &many_ports(&office.namespace, room - 2)));
    assert_eq!(gateway.show("device").len(), room);
    assert!(descriptors(&gateway) < LIMIT);
}

/// The disk of the state file is full: a start is refused with the file's name; what a dead daemon left stays as it is,
/// and the next start finds it.
#[test]
fn a_full_disk_refuses_a_start_before_anything_is_replaced() {
    if !can_use_namespaces() {
        return;
    }
    let mut running = Office::new(false, |tunnel| tunnel.with_key(1001)).start();
    let programs = |gateway: &Gateway| -> Vec<_> {
        let rows = gateway.show("device");
        rows.iter().map(|row| row["program"].clone()).collect()
    };
    let before = programs(&running.gateway);
    running.gateway.kill();
    let script = "set -e; cp -a /run/gregw /tmp/gregw-$$; mount -t tmpfs -o size=64k none /run/gregw; \
        cp -a /tmp/gregw-$$/$1.* /run/gregw; rm -r /tmp/gregw-$$; \
        ! dd if=/dev/zero of=/run/gregw/filler bs=4k status=none 2>/dev/null; \
        code=0; \"$0\" --instance $1 run -c $2 || code=$?; ls /run/gregw; exit $code";
    let namespace = &running.office.namespace;
    let mut command = namespace.command("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(binary());
    command.arg(running.gateway.instance());
    command.arg(running.gateway.configuration_file());
    let output = command.output().expect("unshare can be run");
    let message = describe(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("state.json"), "{message}");
    assert!(message.contains("No space left"), "{message}");
    assert!(!message.contains("attached"), "{message}");
    let left = String::from_utf8_lossy(&output.stdout);
    assert!(
        left.contains(".state.json") && !left.contains(".new"),
        "{left}"
    );
    running.expect_reachable(false);
    let link = namespace.sh("ip -j link show dev vms");
    assert!(link.contains(&before[1].to_string()), "{link}, {before:?}");
    running.gateway.run();
    running.expect_reachable(true);
}

/// Starts a daemon that may have so many files open, and may not raise the hard limit.
fn launcher(limit: &str) -> [&'static str; 4] {
    let limit = format!("--nofile={limit}").leak();
    ["prlimit", limit, "setpriv", "--bounding-set=-sys_resource"]
}

fn open_files_limit(gateway: &Gateway) -> usize {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid()));
    let limits = limits.expect("the daemon runs");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    soft.and_then(|soft| soft.parse().ok()).expect("a number")
}

/// The number in "the gateway holds N devices".
fn room_in(message: &str) -> usize {
    let (_, rest) = message.split_once("the gateway holds ").expect(message);
    let number = rest.split(' ').next().unwrap_or_default();
    number.parse().expect(message)
}

/// Ports of a network of their own, with devices that are made where they are missing.
fn many_ports(namespace: &Handle, count: usize) -> String {
    let mut text = toml::tenant_with_network("many", &["10.77.0.0/16"]);
    for number in 0..count {
        let device = format!("many{number}");
        if !namespace
            .try_sh(&format!("ip link show dev {device}"))
            .status
            .success()
        {
            namespace.sh(&format!("ip link add {device} up type bridge"));
        }
        let address = format!("10.77.{number}.1/24");
        text += &toml::port("many", &device, None, &[&address]);
    }
    text
}

fn extra_tunnel(office: &Office, key: u32) -> String {
    let tunnel = office.tunnel.clone().with_key(key);
    toml::tunnel("extra", NETWORK, &tunnel, &[])
}

/// How many files and sockets the daemon has open.
fn descriptors(gateway: &Gateway) -> usize {
    let directory = format!("/proc/{}/fd", gateway.pid());
    let entries = std::fs::read_dir(directory).expect("the daemon runs");
    entries.count()
}

/// Connections from within a namespace, of which some have to wait for others.
fn connect_and_be_silent(namespace: &Handle, to: SocketAddr, count: usize) -> Vec<OwnedFd> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("below the hard limit");
    let address = SockaddrStorage::from(to);
    namespace.run(|| {
        let one = || {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)
                .expect("a descriptor is left");
            match connect(socket.as_raw_fd(), &address) {
                Ok(()) | Err(Errno::EINPROGRESS) => socket,
                Err(error) => panic!("cannot connect to {to}: {error}"),
            }
        };
        (0..count).map(|_| one()).collect()
    })
}
