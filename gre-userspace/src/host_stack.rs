//! Settings under which the host's own IP stack would answer machines on a port.
//!
//! What is not IP unicast or for the port's own addresses passes to the kernel: group-addressed packets, and ARP and
//! neighbour discovery for others. The gateway warns of devices where somebody there would listen. It changes nothing:
//! settings of the host would have to be put back after every kind of end.

use std::fs;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;

/// What the host does with packets that it gets from a device.
#[derive(Clone, Debug, Default)]
struct Settings {
    /// The kernel's address rule for ARP (`arp_ignore`): 0 answers for every address of the host.
    arp_ignore: u32,
    /// The host's addresses on the device.
    addresses: Vec<Ipv4Addr>,
    /// The device has IPv6.
    ipv6: bool,
    /// Router advertisements are believed.
    accept_ra: bool,
}

/// What is to be changed on a port's device, each with its reason; nothing on one that is for gregw alone.
pub(crate) fn complaints(device: &str) -> Vec<String> {
    Settings::read(device).complaints(device)
}

impl Settings {
    fn read(device: &str) -> Self {
        let ipv4 = |device| setting(&format!("ipv4/conf/{device}/arp_ignore"));
        let ipv6 = |name| setting(&format!("ipv6/conf/{device}/{name}"));
        let accept_ra = match ipv6("accept_ra") {
            Some(1) => ipv6("forwarding") == Some(0),
            other => other == Some(2),
        };
        Self {
            // The kernel takes the greater one.
            arp_ignore: ipv4("all").max(ipv4(device)).unwrap_or_default(),
            addresses: ipv4_addresses(device),
            // A kernel without IPv6 has no such file.
            ipv6: ipv6("disable_ipv6") == Some(0),
            accept_ra,
        }
    }

    fn complaints(&self, device: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.arp_ignore == 0 {
            complaints.push(format!(
                "the kernel answers ARP requests for every address of the host: `sysctl -w net/ipv4/conf/{device}/arp_ignore=1`"
            ));
        }
        for address in &self.addresses {
            complaints.push(format!(
                "the host has address {address} there: take it away, machines may reach the host by multicast and ARP"
            ));
        }
        if self.ipv6 {
            let what = if self.accept_ra {
                "believes router advertisements of machines"
            } else {
                "has an IPv6 address of its own there"
            };
            complaints.push(format!(
                "the host {what}: `sysctl -w net/ipv6/conf/{device}/disable_ipv6=1`"
            ));
        }
        complaints
    }
}

/// A number of `/proc/sys/net`, of this process's network namespace.
fn setting(path: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?;
    text.trim().parse().ok()
}

fn ipv4_addresses(device: &str) -> Vec<Ipv4Addr> {
    let addresses = getifaddrs().into_iter().flatten();
    addresses
        .filter(|address| address.interface_name == device)
        .filter_map(|address| Some(address.address?.as_sockaddr_in()?.ip()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_for_gregw_alone_is_not_complained_about_and_each_opening_is() {
        let closed = Settings {
            arp_ignore: 1,
            ..Settings::default()
        };
        assert!(closed.complaints("eth1").is_empty());
        let open = Settings {
            arp_ignore: 0,
            addresses: vec![Ipv4Addr::new(192, 0, 2, 7)],
            ipv6: true,
            accept_ra: true,
        };
        let complaints = open.complaints("eth1");
        let words = [
            "net/ipv4/conf/eth1/arp_ignore=1",
            "192.0.2.7",
            "router advertisements",
        ];
        assert_eq!(complaints.len(), words.len());
        for (complaint, word) in complaints.iter().zip(words) {
            assert!(complaint.contains(word), "{complaint}");
        }
    }
}
