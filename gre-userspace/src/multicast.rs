//! Multicast groups that the gateway receives on ports: without them a card, a macvlan or a snooping switch keeps
//! neighbour solicitations for the gateway's IPv6 addresses away.
//!
//! Devices are told by `SIOCADDMULTI`, which outlasts the daemon as the data plane does; `/proc/net/dev_mcast` tells what
//! is still joined, also by one that was killed. Switches are told by listener reports (`solicitation`). Holds: on a
//! port's device, groups of IPv6 that somebody joined by this call are the gateway's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use gre_common::id::{IfIndex, MacAddress};

use crate::plan::Port;
use crate::solicitation::{ALL_NODES_MAC, solicited_node, solicited_node_mac};

const DEVICES: &str = "/proc/net/dev_mcast";

/// The groups of the gateway's addresses on a port (RFC 4291 §2.8), without that of all nodes, which nobody reports.
pub(crate) fn groups(port: &Port) -> BTreeSet<Ipv6Addr> {
    ipv6(port).map(solicited_node).collect()
}

/// Makes devices receive the groups of these ports, and no others of gregw. Devices of `before` that have no port any
/// more receive none.
pub(crate) fn synchronise<'a>(ports: impl Iterator<Item = &'a Port>, before: &[IfIndex]) {
    let mut wanted: BTreeMap<IfIndex, BTreeSet<MacAddress>> = BTreeMap::new();
    for device in before {
        wanted.entry(*device).or_default();
    }
    for port in ports {
        let groups = wanted.entry(port.device).or_default();
        groups.extend(ipv6(port).map(solicited_node_mac));
        // Machines tell all nodes that they have another layer-2 address.
        if !groups.is_empty() {
            groups.insert(ALL_NODES_MAC);
        }
    }
    let joined = match fs::read_to_string(DEVICES) {
        Ok(text) => joined(&text),
        Err(error) => return tracing::warn!("cannot read {DEVICES}: {error}"),
    };
    for (device, wanted) in wanted {
        let none = BTreeSet::new();
        let joined = joined.get(&device).unwrap_or(&none);
        for group in wanted.difference(joined) {
            tell(device, *group, libc::SIOCADDMULTI);
        }
        for group in joined.difference(&wanted) {
            tell(device, *group, libc::SIOCDELMULTI);
        }
    }
}

fn ipv6(port: &Port) -> impl Iterator<Item = Ipv6Addr> {
    port.address.iter().filter_map(|net| match net.addr() {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    })
}

/// The groups of IPv6 that were joined by `SIOCADDMULTI`. A line is index, name, users, users of this kind, address.
fn joined(text: &str) -> BTreeMap<IfIndex, BTreeSet<MacAddress>> {
    let mut joined: BTreeMap<IfIndex, BTreeSet<MacAddress>> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [index, _, _, users, address] = words[..]
            && let Ok(index) = index.parse()
            && users != "0"
            && let Some(group) = mac(address)
            && group.0.starts_with(&[0x33, 0x33])
        {
            joined.entry(IfIndex(index)).or_default().insert(group);
        }
    }
    joined
}

fn mac(text: &str) -> Option<MacAddress> {
    let number = u64::from_str_radix(text, 16).ok()?;
    let [0, 0, octets @ ..] = number.to_be_bytes() else {
        return None;
    };
    (text.len() == 12).then_some(MacAddress(octets))
}

/// A device that does not take the group (it may have gone) is none that packets come from.
fn tell(device: IfIndex, group: MacAddress, request: libc::c_ulong) {
    if let Err(error) = control(device, group, request) {
        tracing::debug!("group {group} on device {device}: {error}");
    }
}

fn control(device: IfIndex, group: MacAddress, request: libc::c_ulong) -> io::Result<()> {
    let name = nix::net::if_::if_indextoname(device.0)?;
    // SAFETY: socket(2) takes three integers and touches no memory of ours.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut data = [0; 14];
    for (to, octet) in data.iter_mut().zip(group.0) {
        *to = octet.cast_signed();
    }
    let mut question = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_hwaddr: libc::sockaddr {
                sa_family: libc::AF_UNSPEC as libc::sa_family_t,
                sa_data: data,
            },
        },
    };
    for (to, octet) in question.ifr_name.iter_mut().zip(name.to_bytes()) {
        *to = octet.cast_signed();
    }
    // SAFETY: the request reads an `ifreq` with a hardware address, which is alive for the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), request as _, &raw const question) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_ipv6_that_were_joined_by_call_are_told_from_the_kernels_own() {
        let text = "2    eth0            1     0     333300000001\n\
                    2    eth0            1     1     3333ff000001\n\
                    3    eth1            2     1     333300000001\n\
                    3    eth1            1     1     01005e000001\n\
                    4    ib0             1     1     00ffffffff12401bffff000000000000ffffffff\n";
        let expected = [
            (
                IfIndex(2),
                BTreeSet::from([MacAddress([0x33, 0x33, 0xff, 0, 0, 1])]),
            ),
            (IfIndex(3), BTreeSet::from([ALL_NODES_MAC])),
        ];
        assert_eq!(joined(text), BTreeMap::from(expected));
    }
}
