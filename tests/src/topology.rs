//! The places of a test: a gateway's namespace, sites on underlay links, machines on ports and on VLANs of a trunk.
//!
//! Suites build these, write a configuration that names the devices, and start a [`crate::gateway::Gateway`]. Everything
//! is removed when the values are dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bpf::Attachment;
use crate::gateway::{Gateway, Traffic};
use crate::gre::Tunnel;
use crate::gre_peer::{Counters, Endpoint, Site};
use crate::link::{End, Switch, Veth};
use crate::netns::{Handle, Namespace};
use crate::{barrier, wait};

/// MTU of machines and insides of sites: fits into every kind of tunnel over a 1500-byte underlay, so that TCP works
/// without path MTU discovery.
pub const INNER_MTU: u16 = 1400;
const SITE_DEVICE: &str = "wan";
const INSIDE_DEVICE: &str = "lan";
const MACHINE_DEVICE: &str = "eth0";

/// An underlay link: a device of the gateway at one end, a site's host at the other, with addresses of both families.
pub struct Underlay {
    /// The gateway's end.
    pub gateway: End,
    /// The site's end.
    pub site: End,
    /// The namespace of the site's host.
    pub host: Namespace,
    number: u8,
    _program: Option<Attachment>,
}

impl Underlay {
    /// Links device `u<number>` of the gateway to a new site: 198.51.100+number.0/24 and 2001:db8:<number>::/64, of
    /// which the gateway has .1 and the site .2.
    pub fn new(gateway: &Handle, number: u8) -> Self {
        let host = Namespace::new(&format!("site{number}"));
        let link = Veth::new((gateway, &format!("u{number}")), (&host, SITE_DEVICE));
        let program = link.far.face_gateway();
        Self::between(link.near, link.far, host, number, Some(program))
    }

    /// The same with devices that are linked already.
    pub fn over(gateway: End, site: End, host: Namespace, number: u8) -> Self {
        Self::between(gateway, site, host, number, None)
    }

    fn between(
        gateway: End,
        site: End,
        host: Namespace,
        number: u8,
        program: Option<Attachment>,
    ) -> Self {
        let underlay = Self {
            gateway,
            site,
            host,
            number,
            _program: program,
        };
        for (end, host) in [(&underlay.gateway, 1), (&underlay.site, 2)] {
            end.add_address(&format!("{}/24", underlay.ipv4(host)));
            end.add_address(&format!("{}/64", underlay.ipv6(host)));
        }
        underlay
    }

    /// Returns once the gateway has dealt with all frames that were sent from the site's end before.
    pub fn barrier(&self) {
        barrier::pass(&self.site, self.ipv4(1));
    }

    /// The gateway's outer address of a family.
    pub fn gateway_address(&self, ipv6: bool) -> IpAddr {
        if ipv6 {
            self.ipv6(1).into()
        } else {
            self.ipv4(1).into()
        }
    }

    /// The site's outer address of a family.
    pub fn site_address(&self, ipv6: bool) -> IpAddr {
        if ipv6 {
            self.ipv6(2).into()
        } else {
            self.ipv4(2).into()
        }
    }

    /// The `[[underlay]]` table of the gateway's end.
    pub fn configuration(&self) -> String {
        format!(
            "[[underlay]]\ndevice = \"{}\"\nlocal = [\"{}\", \"{}\"]\n",
            self.gateway.device,
            self.ipv4(1),
            self.ipv6(1)
        )
    }

    /// A tunnel from the site to the gateway, unkeyed and without options.
    pub fn tunnel(&self, ipv6: bool) -> Tunnel {
        Tunnel::new(self.site_address(ipv6), self.gateway_address(ipv6))
    }

    /// A tunnel from another address of the site, with this host number.
    pub fn tunnel_from(&self, ipv6: bool, host: u8) -> Tunnel {
        let address: IpAddr = if ipv6 {
            self.ipv6(host).into()
        } else {
            self.ipv4(host).into()
        };
        let length = if ipv6 { 64 } else { 24 };
        self.site.add_address(&format!("{address}/{length}"));
        Tunnel::new(address, self.gateway_address(ipv6))
    }

    /// Starts the site: for each tunnel an inside namespace with these addresses, whose default route is the tunnel.
    ///
    /// # Panics
    /// If an address is refused.
    pub fn start_site(&self, tunnels: Vec<(Tunnel, &[&str])>) -> Branch {
        let mut insides = Vec::new();
        let sites = tunnels
            .into_iter()
            .map(|(tunnel, addresses)| {
                let (inside, site) = make_inside(tunnel, addresses);
                insides.push(inside);
                site
            })
            .collect();
        let endpoint = Endpoint::start(&self.site, sites)
            .unwrap_or_else(|error| panic!("starting a site: {error}"));
        Branch { endpoint, insides }
    }

    fn ipv4(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100 + self.number, host)
    }

    fn ipv6(&self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(
            0x2001,
            0xdb8,
            u16::from(self.number),
            0,
            0,
            0,
            0,
            u16::from(host),
        )
    }
}

/// A running site: its tunnels' endpoint and the networks behind them.
pub struct Branch {
    /// The thread that runs the tunnels.
    pub endpoint: Endpoint,
    /// A namespace behind each tunnel, in the order given to [`Underlay::start_site`].
    pub insides: Vec<Namespace>,
}

impl Branch {
    /// The counters of a tunnel, once the gateway has counted the same for its end of it, `name`: what was sent last may
    /// still be on its way.
    ///
    /// # Panics
    /// If they never agree.
    #[track_caller]
    pub fn counters_as_of(&self, gateway: &Gateway, name: &str, tunnel: usize) -> Counters {
        let (mut here, mut there) = (Counters::default(), Traffic::default());
        let agree = wait::until(|| {
            (here, there) = (
                self.endpoint.counters(tunnel),
                gateway.traffic("tunnel", name),
            );
            (here.sent_packets, here.sent_bytes) == (there.rx_packets, there.rx_bytes)
                && (here.received_packets, here.received_bytes)
                    == (there.tx_packets, there.tx_bytes)
        });
        assert!(
            agree,
            "{name}: the peer counted {here:?}, the gateway {there:?}"
        );
        here
    }
}

/// A machine of a tenant: a namespace with one device and a default route to the gateway.
pub struct Machine {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its device.
    pub end: End,
    /// The gateway's device that it faces.
    pub gateway: End,
    router: Option<Ipv4Addr>,
    _programs: Vec<Attachment>,
}

impl Machine {
    /// A machine alone at the other end of device `port` of the gateway, which is created. `addresses` have prefix
    /// lengths; `routers` are the gateway's addresses on this port.
    ///
    /// # Panics
    /// If an address or router is refused.
    pub fn on_port(gateway: &Handle, port: &str, addresses: &[&str], routers: &[&str]) -> Self {
        let namespace = Namespace::new(port);
        let link = Veth::new((gateway, port), (&namespace, MACHINE_DEVICE));
        let programs = vec![link.far.face_gateway()];
        let machine = Self {
            namespace,
            end: link.far,
            gateway: link.near,
            router: first_ipv4(routers),
            _programs: programs,
        };
        machine.configure(addresses, routers);
        machine
    }

    /// Returns once the gateway has dealt with all frames that the machine, which is on no VLAN, sent before.
    ///
    /// # Panics
    /// If its port has no IPv4 address.
    pub fn barrier(&self) {
        barrier::pass(&self.end, self.router.expect("a router for IPv4"));
    }

    /// Its first address, without prefix length.
    ///
    /// # Panics
    /// If it has none of this family.
    pub fn address(&self, ipv6: bool) -> IpAddr {
        let family = if ipv6 { "-6" } else { "-4" };
        let text = self.namespace.sh(&format!(
            "ip {family} -o address show dev {MACHINE_DEVICE} scope global"
        ));
        text.split_whitespace()
            .nth(3)
            .and_then(|address| address.split('/').next()?.parse().ok())
            .unwrap_or_else(|| panic!("no such address on {}: {text}", self.namespace.name()))
    }

    fn configure(&self, addresses: &[&str], routers: &[&str]) {
        self.end.set_mtu(INNER_MTU);
        for address in addresses {
            self.end.add_address(address);
        }
        for router in routers {
            let family = if router.contains(':') { "-6" } else { "-4" };
            self.namespace.sh(&format!(
                "ip {family} route add default via {router} dev {MACHINE_DEVICE}"
            ));
        }
    }
}

/// An Ethernet segment behind one device of the gateway: several machines, on VLANs or untagged.
pub struct Segment {
    /// The gateway's device.
    pub gateway: End,
    switch: Switch,
}

impl Segment {
    /// Creates device `port` of the gateway and a switch at its other end.
    pub fn new(gateway: &Handle, port: &str) -> Self {
        let mut switch = Switch::new(&format!("{port}-switch"));
        let gateway = switch.connect(gateway, port);
        Self { gateway, switch }
    }

    /// Adds a machine, as [`Machine::on_port`] does; with `vlan` all its frames are tagged.
    ///
    /// # Panics
    /// If an address or router is refused.
    pub fn machine(&mut self, vlan: Option<u16>, addresses: &[&str], routers: &[&str]) -> Machine {
        let namespace = Namespace::new(&format!("vlan{}", vlan.unwrap_or_default()));
        let end = self.switch.connect(&namespace, MACHINE_DEVICE);
        // The switch hands a machine's frames on as they are: their checksums must be complete.
        let mut programs = vec![end.face_gateway()];
        if let Some(vlan) = vlan {
            programs.extend(end.join_vlan(vlan));
        }
        let machine = Machine {
            namespace,
            end,
            gateway: self.gateway.clone(),
            router: first_ipv4(routers),
            _programs: programs,
        };
        machine.configure(addresses, routers);
        machine
    }
}

/// Gives the inside of a site its addresses and makes the tunnel, `device`, its default route.
///
/// # Panics
/// If the kernel refuses one of them.
pub fn address_inside(namespace: &Handle, device: &str, addresses: &[&str]) {
    for address in addresses {
        namespace.add_address(device, address);
    }
    for family in ["-4", "-6"] {
        namespace.sh(&format!("ip {family} route add default dev {device}"));
    }
}

fn first_ipv4(addresses: &[&str]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|address| address.parse().ok())
}

fn make_inside(tunnel: Tunnel, addresses: &[&str]) -> (Namespace, Site) {
    let namespace = Namespace::new("inside");
    let site = Site::with_tun(tunnel, &namespace, INSIDE_DEVICE, INNER_MTU)
        .unwrap_or_else(|error| panic!("creating the inside of a site: {error}"));
    address_inside(&namespace, INSIDE_DEVICE, addresses);
    (namespace, site)
}
