//! The smallest complete gateway, for suites that test something other than its topology: one network with one machine
//! on a port and one branch behind a tunnel, in both address families.

use std::net::IpAddr;

use crate::configuration as toml;
use crate::gateway::Gateway;
use crate::gre::Tunnel;
use crate::netns::Namespace;
use crate::packet::{self, Fields};
use crate::stream::Path;
use crate::topology::{Branch, Machine, Underlay};

/// Name of the network and of its tenant.
pub const NETWORK: &str = "office";
/// Name and device of its port.
pub const PORT: &str = "vms";
/// Name of its tunnel.
pub const TUNNEL: &str = "branch";
/// What the network consists of.
pub const ADDRESS_SPACE: [&str; 2] = ["10.10.30.0/24", "fd00:10:30::/48"];
/// The gateway's addresses on the port.
pub const ROUTERS: [&str; 2] = ["10.10.30.1/25", "fd00:10:30::1/64"];
/// What lies behind the tunnel.
pub const BRANCH_PREFIXES: [&str; 2] = ["10.11.30.64/26", "fd00:11::/48"];
const MACHINE_ADDRESSES: [&str; 2] = ["10.10.30.4/25", "fd00:10:30::4/64"];
const BRANCH_ADDRESSES: [&str; 2] = ["10.11.30.65/26", "fd00:11::65/48"];

/// The places, before a gateway runs. Fields are dropped in order: what uses a namespace before the namespace.
pub struct Office {
    /// The machine on the port.
    pub machine: Machine,
    /// The link to the branch.
    pub underlay: Underlay,
    /// The tunnel as the branch sees it.
    pub tunnel: Tunnel,
    /// The gateway's namespace.
    pub namespace: Namespace,
}

/// An [`Office`] with gateway and branch running.
pub struct RunningOffice {
    /// The gateway.
    pub gateway: Gateway,
    /// The branch.
    pub branch: Branch,
    /// The places.
    pub office: Office,
}

impl Office {
    /// Builds the places; `options` completes a plain tunnel over an outer family.
    pub fn new(outer_ipv6: bool, options: impl FnOnce(Tunnel) -> Tunnel) -> Self {
        let namespace = Namespace::new("gateway");
        let underlay = Underlay::new(&namespace, 0);
        let machine = Machine::on_port(&namespace, PORT, &MACHINE_ADDRESSES, &router_addresses());
        let tunnel = options(underlay.tunnel(outer_ipv6));
        Self {
            machine,
            underlay,
            tunnel,
            namespace,
        }
    }

    /// The configuration; more sections may be appended.
    pub fn configuration(&self) -> String {
        [
            toml::gateway(),
            self.underlay.configuration(),
            toml::tenant_with_network(NETWORK, &ADDRESS_SPACE),
            toml::port(NETWORK, PORT, None, &ROUTERS),
            toml::tunnel(TUNNEL, NETWORK, &self.tunnel, &BRANCH_PREFIXES),
        ]
        .concat()
    }

    /// Starts the gateway, then the branch, so that the gateway sees all of the branch's packets, and waits until they
    /// reach each other.
    ///
    /// # Panics
    /// If they do not.
    #[track_caller]
    pub fn start(self) -> RunningOffice {
        let gateway = Gateway::start(&self.namespace, &self.configuration());
        let branch = self
            .underlay
            .start_site(vec![(self.tunnel.clone(), &BRANCH_ADDRESSES)]);
        let running = RunningOffice {
            gateway,
            branch,
            office: self,
        };
        for ipv6 in [false, true] {
            running.expect_reachable(ipv6);
        }
        running
    }

    /// The way of a stream from the machine into the tunnel, up to the branch's wire.
    pub fn path_to_branch(&self) -> Path<'_> {
        Path {
            from: &self.machine.end,
            egress: &self.underlay.gateway,
            to: &self.underlay.site,
        }
    }

    /// The way of a stream from the branch's wire out of the tunnel to the machine.
    pub fn path_from_branch(&self) -> Path<'_> {
        Path {
            from: &self.underlay.site,
            egress: &self.machine.gateway,
            to: &self.machine.end,
        }
    }

    /// A UDP frame as the machine sends it towards the branch.
    pub fn frame_to_branch(&self, payload: &[u8]) -> Vec<u8> {
        let inner = packet::udp(
            machine_address(false),
            branch_address(false),
            (4000, 9),
            Fields::default(),
            payload,
        );
        packet::ethernet(self.machine.end.mac, self.machine.gateway.mac, None, &inner)
    }

    /// A GRE frame as the branch sends it, around a UDP packet for the machine.
    pub fn frame_from_branch(&self, payload: &[u8]) -> Vec<u8> {
        let inner = packet::udp(
            branch_address(false),
            machine_address(false),
            (4000, 9),
            Fields::default(),
            payload,
        );
        self.underlay_frame(&inner)
    }

    /// A GRE frame as the branch sends it, around any inner packet; its sequence number is 0.
    pub fn underlay_frame(&self, inner: &[u8]) -> Vec<u8> {
        let mut outer = Vec::new();
        self.tunnel.encapsulate(inner, 0, &mut outer);
        let underlay = &self.underlay;
        packet::ethernet(underlay.site.mac, underlay.gateway.mac, None, &outer)
    }
}

impl RunningOffice {
    /// Fails unless machine and branch come to reach each other.
    ///
    /// # Panics
    /// If they do not.
    #[track_caller]
    pub fn expect_reachable(&self, ipv6: bool) {
        let (machine, branch) = (machine_address(ipv6), branch_address(ipv6));
        assert!(
            self.office.machine.namespace.reaches(branch),
            "{branch} behind the tunnel does not answer {machine}: {}\n{:?}\n{:?}",
            self.gateway.cli_ok(&["show", "drop"]),
            self.branch.endpoint.counters(0),
            self.branch.endpoint.refused()
        );
        assert!(
            self.branch.insides[0].reaches(machine),
            "{machine} does not answer {branch}"
        );
    }
}

/// The machine's address of a family.
pub fn machine_address(ipv6: bool) -> IpAddr {
    without_length(MACHINE_ADDRESSES[usize::from(ipv6)])
}

/// The branch's address of a family.
pub fn branch_address(ipv6: bool) -> IpAddr {
    without_length(BRANCH_ADDRESSES[usize::from(ipv6)])
}

/// The gateway's own address of a family.
pub fn router_address(ipv6: bool) -> IpAddr {
    without_length(ROUTERS[usize::from(ipv6)])
}

fn router_addresses() -> [&'static str; 2] {
    ROUTERS.map(|router| router.split('/').next().unwrap_or(router))
}

fn without_length(address: &str) -> IpAddr {
    let bare = address.split('/').next().unwrap_or(address);
    bare.parse()
        .unwrap_or_else(|_| panic!("{address} is not an address"))
}
