//! The places of the demonstration, as `dist/examples/demo.toml` expects them: the gateway's namespace and devices, the
//! customers' machines and the insides of their sites.
//!
//! Fields are dropped in order: what uses a namespace before the namespace.

use std::net::IpAddr;

use anyhow::{Context, Result};
use gre_tests::netns::Namespace;
use gre_tests::topology::{Machine, Segment, Underlay};

use crate::site::Inside;

/// Where everything is.
pub(crate) const PICTURE: &str = "\
contoso   site 10.11.30.65 --key 1001--.                               .-- contoso    10.10.30.4  machine
                                       >- u0 198.51.100.1 -.          /
fabrikam  site 10.11.30.65 --key 1002--'                    \\        /---- trunk.200  10.10.30.4  fabrikam's machine
                                                             gateway
tailspin  site 10.41.0.65  --GRE in IPv6-- u1 2001:db8:1::1 /        \\---- tailspin   10.40.0.4   machine
                                                           /          \\
northwind site 10.21.0.65  --no key------- u1 198.51.101.1            '-- northwind  10.20.0.4   machine

contoso and northwind are peered. Each site, machine and provider's router is a network namespace of its own.";

/// The address of a machine in contoso's site, and of one in fabrikam's.
pub(crate) const SAME_SITE: &str = "10.11.30.65";

/// A customer: one machine on a port of the gateway, and one site behind a tunnel.
pub(crate) struct Customer {
    pub(crate) name: &'static str,
    pub(crate) machine: Machine,
    pub(crate) site: Inside,
}

/// All of them.
pub(crate) struct Places {
    pub(crate) contoso: Customer,
    pub(crate) fabrikam: Customer,
    pub(crate) tailspin: Customer,
    pub(crate) northwind: Customer,
    /// The provider's router of contoso and fabrikam, with one address for both.
    pub(crate) shared: Underlay,
    /// The provider's router of tailspin and northwind.
    pub(crate) dual_stack: Underlay,
    _trunk: Segment,
    pub(crate) gateway: Namespace,
}

impl Places {
    pub(crate) fn new() -> Self {
        let gateway = Namespace::new("gateway");
        let shared = Underlay::new(&gateway, 0);
        let dual_stack = Underlay::new(&gateway, 1);
        let mut trunk = Segment::new(&gateway, "trunk");
        Self {
            contoso: Customer {
                name: "contoso",
                machine: Machine::on_port(&gateway, "contoso", &["10.10.30.4/24"], &["10.10.30.1"]),
                site: Inside::new("contoso", &["10.11.30.65/24"]),
            },
            fabrikam: Customer {
                name: "fabrikam",
                machine: trunk.machine(Some(200), &["10.10.30.4/24"], &["10.10.30.1"]),
                site: Inside::new("fabrikam", &["10.11.30.65/24"]),
            },
            tailspin: Customer {
                name: "tailspin",
                machine: Machine::on_port(
                    &gateway,
                    "tailspin",
                    &["10.40.0.4/24", "fd00:40::4/64"],
                    &["10.40.0.1", "fd00:40::1"],
                ),
                site: Inside::new("tailspin", &["10.41.0.65/24", "fd00:41::65/64"]),
            },
            northwind: Customer {
                name: "northwind",
                machine: Machine::on_port(&gateway, "northwind", &["10.20.0.4/24"], &["10.20.0.1"]),
                site: Inside::new("northwind", &["10.21.0.65/24"]),
            },
            shared,
            dual_stack,
            _trunk: trunk,
            gateway,
        }
    }
}

impl Customer {
    /// The machine's address of a family.
    pub(crate) fn machine_address(&self, ipv6: bool) -> IpAddr {
        self.machine.address(ipv6)
    }
}

/// Reads an address of the demonstration.
pub(crate) fn address(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| format!("address {text}"))
}
