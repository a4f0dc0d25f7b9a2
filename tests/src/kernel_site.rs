//! Sites whose GRE endpoints are the kernel's own `gre` and `ip6gre` devices, in namespaces or VRFs of their own behind one
//! underlay link. Where the running kernel has no such devices, the endpoint in userspace takes their place.

use crate::gre::Tunnel;
use crate::gre_peer::Endpoint;
use crate::netns::{Handle, Namespace};
use crate::topology::{Branch, INNER_MTU, Underlay, address_inside};

/// The inside device of a site.
const INSIDE: &str = "lan";
/// The first routing table of VRFs.
const TABLE: usize = 100;

/// Running sites, in the order of their tunnels.
pub struct Sites {
    /// The namespace behind each tunnel.
    pub insides: Vec<Namespace>,
    _endpoint: Option<Endpoint>,
}

/// Two or more sites in one namespace, told apart by VRFs only.
pub struct VrfSites<'a> {
    underlay: &'a Underlay,
}

impl Sites {
    /// Starts a site for each tunnel, with these addresses inside.
    ///
    /// # Panics
    /// If the kernel refuses a device or address.
    pub fn start(underlay: &Underlay, tunnels: Vec<(Tunnel, Vec<String>)>) -> Self {
        if !are_possible() {
            let borrowed: Vec<Vec<&str>> = tunnels
                .iter()
                .map(|(_, addresses)| addresses.iter().map(String::as_str).collect())
                .collect();
            let sites = tunnels.iter().zip(&borrowed);
            let sites =
                sites.map(|((tunnel, _), addresses)| (tunnel.clone(), addresses.as_slice()));
            let Branch { endpoint, insides } = underlay.start_site(sites.collect());
            return Self {
                insides,
                _endpoint: Some(endpoint),
            };
        }
        let start = |(tunnel, addresses): (Tunnel, Vec<String>)| {
            let inside = Namespace::new("inside");
            add_device(underlay, INSIDE, &tunnel);
            let host = &underlay.host;
            host.sh(&format!("ip link set dev {INSIDE} netns {}", inside.name()));
            inside.sh(&format!("ip link set dev {INSIDE} mtu {INNER_MTU} up"));
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            address_inside(&inside, INSIDE, &addresses);
            inside
        };
        Self {
            insides: tunnels.into_iter().map(start).collect(),
            _endpoint: None,
        }
    }
}

impl<'a> VrfSites<'a> {
    /// Starts a site for each named tunnel; all have the same addresses inside.
    ///
    /// # Panics
    /// If the kernel refuses a device or address.
    pub fn start(underlay: &'a Underlay, tunnels: &[(&str, Tunnel)], addresses: &[&str]) -> Self {
        let host = &underlay.host;
        for (number, (name, tunnel)) in tunnels.iter().enumerate() {
            let table = TABLE + number;
            let device = format!("gre-{name}");
            host.sh(&format!("ip link add {name} up type vrf table {table}"));
            add_device(underlay, &device, tunnel);
            host.sh(&format!(
                "ip link set dev {device} master {name} mtu {INNER_MTU} up"
            ));
            for address in addresses {
                host.add_address(&device, address);
            }
            for family in ["-4", "-6"] {
                host.sh(&format!(
                    "ip {family} route add default dev {device} table {table}"
                ));
            }
        }
        Self { underlay }
    }

    /// The namespace that all of them are in.
    pub fn host(&self) -> &Handle {
        &self.underlay.host
    }
}

/// Whether the kernel has GRE devices.
pub fn are_possible() -> bool {
    has_device("gre local 192.0.2.1 remote 192.0.2.2")
        && has_device("ip6gre local 2001:db8::1 remote 2001:db8::2")
}

/// Whether the kernel has VRFs.
pub fn are_vrfs_possible() -> bool {
    has_device("vrf table 1")
}

fn has_device(kind: &str) -> bool {
    let namespace = Namespace::new("probe");
    namespace
        .try_sh(&format!("ip link add probe type {kind}"))
        .status
        .success()
}

/// Adds a tunnel's device to the site's host, down.
fn add_device(underlay: &Underlay, device: &str, tunnel: &Tunnel) {
    let Tunnel {
        local, remote, ttl, ..
    } = tunnel;
    let kind = if local.is_ipv4() {
        "gre"
    } else {
        "ip6gre encaplimit none"
    };
    let key =
        |name: &str, key: Option<u32>| key.map_or_else(String::new, |key| format!(" {name} {key}"));
    let flag = |name: &str, is_set: bool| {
        if is_set {
            format!(" {name}")
        } else {
            String::new()
        }
    };
    let options = [
        key("ikey", tunnel.receive_key),
        key("okey", tunnel.transmit_key),
        flag("csum", tunnel.checksum),
        flag("seq", tunnel.sequence),
    ];
    let host = &underlay.host;
    host.sh(&format!(
        "ip link add {device} type {kind} local {local} remote {remote} ttl {ttl}{}",
        options.concat()
    ));
    // Router solicitations would use up sequence numbers; frames of several segments are for cards that cut them.
    host.sh(&format!("ip link set dev {device} addrgenmode none"));
    host.sh(&format!("ethtool -K {device} gso off tso off gro off"));
}
