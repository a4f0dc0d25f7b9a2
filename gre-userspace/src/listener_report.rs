//! Reports of the multicast groups that the gateway listens to (MLDv2, RFC 3810 §5.2), for switches that pass groups only
//! to those who report them.
//!
//! ```text
//!  | Ethernet, tag | IPv6 (40), hop limit 1 | hop-by-hop: router alert (8) | type 143, 0, checksum, 0, records | records |
//!  record: | type (1) | 0 (1) | number of sources (2): 0 | group (16) |
//! ```

use std::net::Ipv6Addr;

use gre_common::id::{MacAddress, VlanId};

/// All routers that speak MLDv2.
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
const ROUTERS_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 0x16];
/// ICMPv6 as next header, padded length 0; router alert with value 0: MLD (RFC 2711); two bytes of padding.
const ROUTER_ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];
const REPORT: u8 = 143;
/// "Change to exclude mode" of no source: everything sent to the group is wanted.
const EVERY_SOURCE: [u8; 4] = [4, 0, 0, 0];

/// Groups of one report: it stays far below the least MTU of IPv6, 1280 bytes.
pub(crate) const MOST_GROUPS: usize = 50;

/// The frame about up to [`MOST_GROUPS`] groups. Its source is the unspecified address: the gateway has no link-local one (RFC 3810 §5.2.13).
pub(crate) fn frame(mac: MacAddress, vlan: VlanId, groups: &[Ipv6Addr]) -> Vec<u8> {
    let message = message(groups);
    let length = (ROUTER_ALERT.len() + message.len()) as u16;
    let mut frame = [ROUTERS_MAC, mac.0].concat();
    if vlan.0 != 0 {
        frame.extend([0x81, 0]);
        frame.extend(vlan.0.to_be_bytes());
    }
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(Ipv6Addr::UNSPECIFIED.octets());
    frame.extend(ROUTERS.octets());
    frame.extend(ROUTER_ALERT);
    frame.extend(message);
    frame
}

fn message(groups: &[Ipv6Addr]) -> Vec<u8> {
    let mut message = vec![REPORT, 0, 0, 0, 0, 0];
    message.extend((groups.len() as u16).to_be_bytes());
    for group in groups {
        message.extend(EVERY_SOURCE);
        message.extend(group.octets());
    }
    let checksum = checksum(&message);
    message[2..4].copy_from_slice(&checksum);
    message
}

/// With the pseudo-header of RFC 8200 §8.1.
fn checksum(message: &[u8]) -> [u8; 2] {
    let pseudo = [
        &ROUTERS.octets()[..],
        &(message.len() as u32).to_be_bytes(),
        &[0, 0, 0, 58],
    ];
    let mut sum: u32 = 0;
    for word in pseudo.concat().chunks(2).chain(message.chunks(2)) {
        sum += u32::from(word[0]) << 8 | u32::from(word[1]);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_two_groups_reads_as_rfc_3810_says() {
        let groups =
            ["ff02::1:ff00:1", "ff02::1:ff00:2"].map(|group| group.parse().expect("valid"));
        let frame = frame(MacAddress([2, 0, 0, 0, 0, 1]), VlanId(130), &groups);
        assert_eq!(frame[..6], ROUTERS_MAC);
        assert_eq!(frame[12..18], [0x81, 0, 0, 130, 0x86, 0xdd]);
        let ip = &frame[18..];
        assert_eq!(ip[4..8], [0, 8 + 8 + 2 * 20, 0, 1]);
        assert_eq!(ip[40..48], ROUTER_ALERT);
        let message = &ip[48..];
        assert_eq!((message[0], &message[6..8]), (143, &[0, 2][..]));
        assert_eq!(message[8..12], EVERY_SOURCE);
        assert_eq!(message[12..28], groups[0].octets());
        let mut checked = message.to_vec();
        let sum = [message[2], message[3]];
        checked[2..4].fill(0);
        assert_eq!(checksum(&checked), sum);
    }
}
