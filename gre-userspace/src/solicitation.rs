//! Questions for layer-2 addresses, sent as raw frames: ARP requests (RFC 826) and neighbour solicitations (RFC 4861);
//! and the same unasked for the gateway's own addresses.
//!
//! The daemon asks machines on ports, whose addresses the kernel knows nothing of, makes sure of underlay next
//! hops, and announces itself on ports. Answers are not received here: the data plane sees those of machines, the kernel those of next hops.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use gre_common::checksum::Sum;
use gre_common::frame::{Frame, SliceFrame, Wire};
use gre_common::id::{EtherType, IfIndex, IpProto, MacAddress, VlanId};
use gre_common::wire::arp;
use gre_common::wire::ether::{EthernetHeader, LinkAddresses, VlanTag};
use gre_common::wire::icmp::{IcmpHeader, LinkLayerOption, NeighbourMessage};
use gre_common::wire::ip::{IPV6_LENGTH, Ipv6Hdr, ipv6_first_word};

use crate::error::{Error, Result};

/// Longest frame: a tagged neighbour solicitation.
const LIMIT: usize = EthernetHeader::LENGTH
    + VlanTag::LENGTH
    + IPV6_LENGTH
    + NeighbourMessage::LENGTH
    + LinkLayerOption::LENGTH;

/// Hop limit of neighbour discovery: nobody beyond the link can have sent it (RFC 4861 §7.1.1).
const ON_LINK: u8 = 255;

/// The multicast address of all nodes on the link (RFC 4291 §2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Its layer-2 address (RFC 2464 §7).
pub(crate) const ALL_NODES_MAC: MacAddress = MacAddress([0x33, 0x33, 0, 0, 0, 1]);

/// Who has `target`, and who wants to know?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Device to ask on.
    pub device: IfIndex,
    /// Tag of the question; 0: untagged.
    pub vlan: VlanId,
    /// Own layer-2 address.
    pub mac: MacAddress,
    /// Own address, of the target's family.
    pub source: IpAddr,
    /// Whom to ask for.
    pub target: IpAddr,
    /// Whom to send the question to; `None`: to all stations or the target's multicast group.
    pub destination: Option<MacAddress>,
}

/// The gateway has `address`, whoever had it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Device to tell it on.
    pub device: IfIndex,
    /// Tag of the frame; 0: untagged.
    pub vlan: VlanId,
    /// The layer-2 address.
    pub mac: MacAddress,
    /// The gateway's address.
    pub address: IpAddr,
}

/// Sends questions on any device of this network namespace.
#[derive(Debug)]
pub struct Solicitor {
    socket: OwnedFd,
}

impl Solicitor {
    /// Opens the socket, which takes CAP_NET_RAW; sending does not.
    pub fn new() -> Result<Self> {
        // Protocol 0: nothing is received.
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket(2) takes three integers and touches no memory of ours.
        let socket = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
        if socket < 0 {
            return Err(Error::system(
                "open a packet socket",
                io::Error::last_os_error(),
            ));
        }
        // SAFETY: the descriptor is fresh and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        Ok(Self { socket })
    }

    /// Asks once. A question may get lost on the way like any frame; whoever needs the answer asks again.
    pub fn ask(&self, solicitation: &Solicitation) -> io::Result<()> {
        let mut memory = [0; SliceFrame::HEADROOM + LIMIT];
        let frame = frame(&mut memory, solicitation).ok_or(io::ErrorKind::InvalidInput)?;
        self.send(solicitation.device, frame.bytes())
    }

    /// Tells it once to everybody on the link.
    pub fn announce(&self, announcement: &Announcement) -> io::Result<()> {
        let mut memory = [0; SliceFrame::HEADROOM + LIMIT];
        let frame = announcement_frame(&mut memory, announcement);
        let frame = frame.ok_or(io::ErrorKind::InvalidInput)?;
        self.send(announcement.device, frame.bytes())
    }

    /// Sends a frame as it stands.
    pub(crate) fn send(&self, device: IfIndex, bytes: &[u8]) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: device.0.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        // SAFETY: buffer and address are alive for the call, and their lengths are their own.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// `None` if source and target are of different families.
fn frame<'a>(memory: &'a mut [u8], solicitation: &Solicitation) -> Option<SliceFrame<'a>> {
    let (group, ether_type) = match solicitation.target {
        IpAddr::V4(_) => (MacAddress::BROADCAST, EtherType::ARP),
        IpAddr::V6(target) => (solicited_node_mac(target), EtherType::IPV6),
    };
    let destination = solicitation.destination.unwrap_or(group);
    let addresses = LinkAddresses::new(&destination, &solicitation.mac);
    let (mut frame, start) = Writer::new(memory, addresses, solicitation.vlan, ether_type)?;
    match (solicitation.source, solicitation.target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            frame.put(start, arp_request(solicitation.mac, source, target))?;
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let destination = if solicitation.destination.is_some() {
                target
            } else {
                solicited_node(target)
            };
            let message = NeighbourMessage {
                header: icmp(IcmpHeader::SOLICITATION),
                flags: [0; 4],
                target: target.octets(),
            };
            let option = link_layer(LinkLayerOption::SOURCE, solicitation.mac);
            frame.put_discovery(start, (source, destination), message, option)?;
        }
        _ => return None,
    }
    Some(frame.0)
}

/// An ARP announcement (RFC 5227 §3) or an unsolicited neighbour advertisement (RFC 4861 §7.2.6).
fn announcement_frame<'a>(
    memory: &'a mut [u8],
    announcement: &Announcement,
) -> Option<SliceFrame<'a>> {
    let Announcement { vlan, mac, .. } = *announcement;
    match announcement.address {
        IpAddr::V4(own) => {
            let addresses = LinkAddresses::new(&MacAddress::BROADCAST, &mac);
            let (mut frame, start) = Writer::new(memory, addresses, vlan, EtherType::ARP)?;
            frame.put(start, arp_request(mac, own, own))?;
            Some(frame.0)
        }
        IpAddr::V6(own) => {
            let addresses = LinkAddresses::new(&ALL_NODES_MAC, &mac);
            let (mut frame, start) = Writer::new(memory, addresses, vlan, EtherType::IPV6)?;
            let message = NeighbourMessage {
                header: icmp(IcmpHeader::ADVERTISEMENT),
                flags: NeighbourMessage::ROUTER_OVERRIDE,
                target: own.octets(),
            };
            let option = link_layer(LinkLayerOption::TARGET, mac);
            frame.put_discovery(start, (own, ALL_NODES), message, option)?;
            Some(frame.0)
        }
    }
}

struct Writer<'a>(SliceFrame<'a>);

impl<'a> Writer<'a> {
    /// A frame with its Ethernet header, and where that ends. `None` if `memory` is too short.
    fn new(
        memory: &'a mut [u8],
        addresses: LinkAddresses,
        vlan: VlanId,
        ether_type: EtherType,
    ) -> Option<(Self, usize)> {
        let is_tagged = vlan.0 != 0;
        let tag = if is_tagged { VlanTag::LENGTH } else { 0 };
        let start = EthernetHeader::LENGTH + tag;
        let length = if ether_type == EtherType::ARP {
            arp::LENGTH
        } else {
            LIMIT - EthernetHeader::LENGTH - VlanTag::LENGTH
        };
        let mut frame = Self(SliceFrame::new(memory, &[0; LIMIT][..start + length])?);
        if is_tagged {
            frame.put(0, EthernetHeader::new(addresses, EtherType::VLAN))?;
            frame.put(EthernetHeader::LENGTH, VlanTag::new(vlan, ether_type))?;
        } else {
            frame.put(0, EthernetHeader::new(addresses, ether_type))?;
        }
        Some((frame, start))
    }

    fn put<H: Wire>(&mut self, offset: usize, header: H) -> Option<()> {
        self.0.write(offset, header).ok()
    }

    /// A message of neighbour discovery (RFC 4861 §4.3, §4.4) from its IPv6 header on.
    fn put_discovery(
        &mut self,
        start: usize,
        (source, destination): (Ipv6Addr, Ipv6Addr),
        body: NeighbourMessage,
        option: LinkLayerOption,
    ) -> Option<()> {
        let length = NeighbourMessage::LENGTH + LinkLayerOption::LENGTH;
        self.put(
            start,
            Ipv6Hdr {
                vcf: ipv6_first_word(0, 0),
                payload_len: (length as u16).to_be_bytes(),
                next_hdr: IpProto::ICMPV6.0,
                hop_limit: ON_LINK,
                src_addr: source.octets(),
                dst_addr: destination.octets(),
            },
        )?;
        let message = start + IPV6_LENGTH;
        let mut header = body.header;
        self.put(message, body)?;
        self.put(message + NeighbourMessage::LENGTH, option)?;
        // Pseudo-header of RFC 8200 §8.1.
        let pseudo = Sum::default()
            .add_16(source.octets())
            .add_16(destination.octets())
            .add_4((length as u32).to_be_bytes())
            .add_4([0, 0, 0, IpProto::ICMPV6.0]);
        let sum = pseudo.join(self.0.sum(message, length).ok()?);
        header.checksum = sum.checksum();
        self.put(message, header)
    }
}

fn icmp(kind: u8) -> IcmpHeader {
    IcmpHeader {
        kind,
        code: 0,
        checksum: [0; 2],
    }
}

fn link_layer(kind: u8, mac: MacAddress) -> LinkLayerOption {
    LinkLayerOption {
        kind,
        length: 1,
        mac,
    }
}

fn arp_request(mac: MacAddress, source: Ipv4Addr, target: Ipv4Addr) -> arp::ArpHdr {
    arp::packet(
        arp::REQUEST,
        (mac, source.octets()),
        (MacAddress::default(), target.octets()),
    )
}

/// The solicited-node multicast address (RFC 4291 §2.7.1).
pub(crate) fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Its layer-2 multicast address (RFC 2464 §7).
pub(crate) fn solicited_node_mac(target: Ipv6Addr) -> MacAddress {
    let [.., a, b, c] = target.octets();
    MacAddress([0x33, 0x33, 0xff, a, b, c])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

    fn bytes(source: &str, target: &str, vlan: u16, destination: Option<MacAddress>) -> Vec<u8> {
        let mut memory = [0; SliceFrame::HEADROOM + LIMIT];
        let solicitation = Solicitation {
            device: IfIndex(1),
            vlan: VlanId(vlan),
            mac: MAC,
            source: source.parse().expect("an address"),
            target: target.parse().expect("an address"),
            destination,
        };
        let frame = frame(&mut memory, &solicitation).expect("one family");
        frame.bytes().to_vec()
    }

    #[test]
    fn an_arp_request_on_a_vlan_reads_as_rfc_826_says() {
        let frame = bytes("10.0.0.1", "10.0.0.7", 130, None);
        let expected = [
            &[0xff; 6][..],
            &MAC.0,
            &[0x81, 0, 0, 130, 0x08, 0x06],
            &[0, 1, 0x08, 0, 6, 4, 0, 1],
            &MAC.0,
            &[10, 0, 0, 1],
            &[0; 6],
            &[10, 0, 0, 7],
        ];
        assert_eq!(frame, expected.concat());
    }

    #[test]
    fn a_neighbour_solicitation_goes_to_the_targets_group_with_a_correct_checksum() {
        let frame = bytes("fd00::1", "fd00::1:2345", 0, None);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x01, 0x23, 0x45]);
        assert_eq!(
            frame[38..54],
            "ff02::1:ff01:2345"
                .parse::<Ipv6Addr>()
                .expect("valid")
                .octets()
        );
        let ip = &frame[14..];
        assert_eq!(ip[7], 255);
        let pseudo = [&ip[8..40], &[0, 0, 0, 32, 0, 0, 0, 58], &ip[40..]].concat();
        let sum: u32 = pseudo
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(ip[64..], [&[1, 1][..], &MAC.0].concat());
    }

    fn announced(address: &str, vlan: u16) -> Vec<u8> {
        let mut memory = [0; SliceFrame::HEADROOM + LIMIT];
        let announcement = Announcement {
            device: IfIndex(1),
            vlan: VlanId(vlan),
            mac: MAC,
            address: address.parse().expect("an address"),
        };
        let frame = announcement_frame(&mut memory, &announcement);
        frame.expect("a frame").bytes().to_vec()
    }

    #[test]
    fn an_arp_announcement_asks_everybody_for_the_own_address() {
        let expected = [
            &[0xff; 6][..],
            &MAC.0,
            &[0x08, 0x06],
            &[0, 1, 0x08, 0, 6, 4, 0, 1],
            &MAC.0,
            &[10, 0, 0, 1],
            &[0; 6],
            &[10, 0, 0, 1],
        ];
        assert_eq!(announced("10.0.0.1", 0), expected.concat());
        assert_eq!(announced("10.0.0.1", 130)[12..16], [0x81, 0, 0, 130]);
    }

    #[test]
    fn an_unsolicited_advertisement_overrides_what_all_nodes_know() {
        let frame = announced("fd00::1", 0);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        let own = "fd00::1".parse::<Ipv6Addr>().expect("valid").octets();
        assert_eq!(frame[22..38], own);
        assert_eq!(frame[38..54], ALL_NODES.octets());
        assert_eq!(frame[54..56], [136, 0]);
        assert_eq!(
            frame[58..62],
            [0xa0, 0, 0, 0],
            "router, override, not solicited"
        );
        assert_eq!(frame[62..78], own);
        assert_eq!(frame[78..], [&[2, 1][..], &MAC.0].concat());
    }

    #[test]
    fn a_question_to_one_station_carries_its_addresses() {
        let to = MacAddress([2, 0, 0, 0, 0, 9]);
        let frame = bytes("fd00::1", "fd00::9", 0, Some(to));
        assert_eq!(frame[..6], to.0);
        assert_eq!(
            frame[38..54],
            "fd00::9".parse::<Ipv6Addr>().expect("valid").octets()
        );
    }
}
