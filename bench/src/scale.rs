//! How large the gateway's tables are, and what stands in them.
//!
//! Everything follows from three numbers and a fixed seed, so that runs can be compared. Tunnels and routes are spread
//! over the networks in turn; the prefixes of a network are random.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use anyhow::{Result, ensure};
use etherparse::VlanId;
use gre_common::limits;
use ipnet::Ipv4Net;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::case::TunnelKind;

/// The gateway's GRE address.
pub(crate) const LOCAL_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Its GRE address in an IPv6 underlay.
const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The one machine on each port.
pub(crate) const MACHINE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The gateway's address on each port.
pub(crate) const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Length of each port's subnet.
pub(crate) const SUBNET_LENGTH: u8 = 24;

/// Remotes have the addresses from here on (RFC 2544 benchmarking space).
const FIRST_REMOTE_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Remotes in an IPv6 underlay have the addresses from here on.
const FIRST_REMOTE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0);
/// Tunnels to one remote, told apart by key.
const TUNNELS_PER_REMOTE: u32 = 16;
const SEED: u64 = 0x6772_6567_772d_6231;
/// VLANs that a device can tell apart; networks beyond have no port.
const GREATEST_VLAN: u32 = 4094;

/// The size of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    tunnels: u32,
    networks: u32,
    routes: u32,
}

/// A route into a tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// The network whose table it stands in.
    pub(crate) network: u32,
    /// The destinations.
    pub(crate) prefix: Ipv4Net,
    /// Where they are.
    pub(crate) tunnel: u32,
}

impl Scale {
    /// Checks that every network has a tunnel and a route, and that all of it finds room.
    pub(crate) fn new(tunnels: u32, networks: u32, routes: u32) -> Result<Self> {
        ensure!(
            (1..limits::TUNNELS).contains(&(tunnels as usize)),
            "the number of tunnels must be from 1 to {}",
            limits::TUNNELS - 1
        );
        ensure!(
            (1..=limits::NETWORKS).contains(&(networks as usize)),
            "the number of networks must be from 1 to {}",
            limits::NETWORKS
        );
        ensure!(
            networks <= tunnels && tunnels <= routes,
            "each network needs a tunnel and each tunnel a route"
        );
        Ok(Self {
            tunnels,
            networks,
            routes,
        })
    }

    /// The numbers of all tunnels.
    pub(crate) const fn tunnels(self) -> Range<u32> {
        0..self.tunnels
    }

    /// The numbers of all ports, which are those of their networks.
    pub(crate) fn ports(self) -> Range<u32> {
        0..self.networks.min(GREATEST_VLAN)
    }

    /// The tag of a port's frames.
    pub(crate) fn vlan(self, port: u32) -> Option<VlanId> {
        let vlan = u16::try_from(port + 1).ok()?;
        (self.networks > 1).then(|| VlanId::try_new(vlan).ok())?
    }

    /// The network of a tunnel.
    pub(crate) const fn network(self, tunnel: u32) -> u32 {
        tunnel % self.networks
    }

    /// One of a network's tunnels.
    pub(crate) fn any_tunnel(self, random: &mut StdRng, network: u32) -> u32 {
        let count = (self.tunnels - network).div_ceil(self.networks);
        network + self.networks * random.random_range(0..count)
    }

    /// The number of a tunnel's remote.
    pub(crate) const fn remote(tunnel: u32) -> u32 {
        tunnel / TUNNELS_PER_REMOTE
    }

    /// Where a tunnel's packets come from.
    pub(crate) fn remote_address(self, kind: TunnelKind, tunnel: u32) -> IpAddr {
        let remote = Self::remote(tunnel);
        match kind {
            TunnelKind::Ipv6 => {
                Ipv6Addr::from_bits(FIRST_REMOTE_V6.to_bits() + u128::from(remote)).into()
            }
            _ => Ipv4Addr::from_bits(FIRST_REMOTE_V4.to_bits() + remote).into(),
        }
    }

    /// The key of packets from a tunnel.
    pub(crate) const fn receive_key(self, tunnel: u32) -> u32 {
        1_000_000 + tunnel
    }

    /// The key of packets into a tunnel, which is another one than that of packets from it.
    pub(crate) const fn transmit_key(self, tunnel: u32) -> u32 {
        2_000_000 + tunnel
    }

    /// All routes into tunnels; in each network their prefixes differ.
    pub(crate) fn routes(self) -> Vec<Route> {
        let mut random = StdRng::seed_from_u64(SEED);
        let mut taken = HashSet::new();
        (0..self.routes)
            .map(|number| {
                let tunnel = number % self.tunnels;
                let network = self.network(tunnel);
                let prefix = loop {
                    let prefix = random_prefix(&mut random);
                    if taken.insert((network, prefix)) {
                        break prefix;
                    }
                };
                Route {
                    network,
                    prefix,
                    tunnel,
                }
            })
            .collect()
    }
}

/// The gateway's GRE address in tunnels of a kind.
pub(crate) fn local(kind: TunnelKind) -> IpAddr {
    match kind {
        TunnelKind::Ipv6 => LOCAL_V6.into(),
        _ => LOCAL_V4.into(),
    }
}

/// Within 16.0.0.0/4 and 32.0.0.0/3, which hold no address that is not to be forwarded.
fn random_prefix(random: &mut StdRng) -> Ipv4Net {
    let address = Ipv4Addr::from_bits(random.random_range(0x1000_0000..0x4000_0000));
    Ipv4Net::new_assert(address, random.random_range(16..=28)).trunc()
}
