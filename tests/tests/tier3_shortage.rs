//! Tier 3: connections, descriptors or room on the disk are short, and the gateway is at its operator's command all the
//! same.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use gre_tests::can_use_namespaces;
use gre_tests::gateway::Gateway;
use gre_tests::netns::Handle;
use gre_tests::scenario::Office;
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

fn extra_tunnel(office: &Office, key: u32) -> String {
    let tunnel = office.tunnel.clone().with_key(key);
    gre_tests::configuration::tunnel("extra", gre_tests::scenario::NETWORK, &tunnel, &[])
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
