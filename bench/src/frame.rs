//! The frames that are sent and those that shall arrive, built independently of the data plane.
//!
//! Every case carries the same inner packet: UDP from a machine or a site, of a size that the case says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, SingleVlanHeader, UdpHeader,
    VlanId,
};

use crate::bed::Mac;

const TTL: u8 = 64;
/// Bits of the first byte of a GRE header (RFC 2784, RFC 2890).
const GRE_CHECKSUM: u8 = 0x80;
const GRE_KEY: u8 = 0x20;
const GRE_SEQUENCE: u8 = 0x10;

/// The inner packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inner {
    /// Who sends it.
    pub(crate) source: Ipv4Addr,
    /// Where it goes.
    pub(crate) destination: Ipv4Addr,
    /// Routers it has passed.
    pub(crate) hops: u8,
    /// Bytes of it as a frame of its own, without tag and frame check sequence.
    pub(crate) size: u16,
}

/// The two ends of a hop between devices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Who sends.
    pub(crate) source: Mac,
    /// Who receives.
    pub(crate) destination: Mac,
}

/// What a GRE packet says about its tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer {
    /// Who encapsulates.
    pub(crate) source: IpAddr,
    /// Who decapsulates.
    pub(crate) destination: IpAddr,
    /// The key.
    pub(crate) key: u32,
    /// Whether there is a checksum.
    pub(crate) checksum: bool,
    /// Whether there is a sequence number, which is 0 here.
    pub(crate) sequence: bool,
}

impl Outer {
    /// Where in a frame the sequence number is.
    pub(crate) const fn sequence_offset(&self) -> usize {
        let ip = match self.source {
            IpAddr::V4(_) => Ipv4Header::MIN_LEN,
            IpAddr::V6(_) => Ipv6Header::LEN,
        };
        Ethernet2Header::LEN + ip + if self.checksum { 12 } else { 8 }
    }
}

/// A frame with the inner packet in it, behind a VLAN tag if there is one.
pub(crate) fn plain(link: Link, vlan: Option<VlanId>, inner: Inner) -> Vec<u8> {
    let packet = inner_packet(inner);
    match vlan {
        None => ethernet(link, EtherType::IPV4, &[&packet]),
        Some(vlan_id) => {
            let tag = SingleVlanHeader {
                vlan_id,
                ether_type: EtherType::IPV4,
                ..SingleVlanHeader::default()
            };
            ethernet(
                link,
                EtherType::VLAN_TAGGED_FRAME,
                &[&tag.to_bytes(), &packet],
            )
        }
    }
}

/// A frame with the inner packet in GRE.
pub(crate) fn encapsulated(link: Link, outer: Outer, inner: Inner) -> Vec<u8> {
    let mut packet = gre(&outer);
    packet.extend(inner_packet(inner));
    if outer.checksum {
        let sum = checksum(&packet);
        packet[4..6].copy_from_slice(&sum);
    }
    match (outer.source, outer.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = ipv4(source, destination, IpNumber::GRE, packet.len());
            header.dont_fragment = true;
            header.header_checksum = header.calc_header_checksum();
            ethernet(link, EtherType::IPV4, &[&header.to_bytes(), &packet])
        }
        (source, destination) => {
            let header = Ipv6Header {
                payload_length: u16::try_from(packet.len()).unwrap_or(u16::MAX),
                next_header: IpNumber::GRE,
                hop_limit: TTL,
                source: v6(source).octets(),
                destination: v6(destination).octets(),
                ..Ipv6Header::default()
            };
            ethernet(link, EtherType::IPV6, &[&header.to_bytes(), &packet])
        }
    }
}

/// A frame with the inner packet's frame in VXLAN (RFC 7348), network 1, checksum 0.
pub(crate) fn vxlan(link: Link, source: Ipv4Addr, destination: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
    let length = UdpHeader::LEN + 8 + inner.len();
    let udp = UdpHeader {
        source_port: 0,
        destination_port: 4789,
        length: u16::try_from(length).unwrap_or(u16::MAX),
        checksum: 0,
    };
    ethernet(
        link,
        EtherType::IPV4,
        &[
            &ipv4(source, destination, IpNumber::UDP, length).to_bytes(),
            &udp.to_bytes(),
            &[8, 0, 0, 0, 0, 0, 1, 0],
            inner,
        ],
    )
}

/// A GRE header for IPv4, its checksum still 0.
fn gre(outer: &Outer) -> Vec<u8> {
    let flag = |bit, set: bool| if set { bit } else { 0 };
    let flags = GRE_KEY | flag(GRE_CHECKSUM, outer.checksum) | flag(GRE_SEQUENCE, outer.sequence);
    let mut header = vec![flags, 0, 0x08, 0];
    if outer.checksum {
        header.extend([0; 4]);
    }
    header.extend(outer.key.to_be_bytes());
    if outer.sequence {
        header.extend([0; 4]);
    }
    header
}

/// The Internet checksum (RFC 1071), in transmission order.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let (words, rest) = bytes.as_chunks();
    let sum: u32 = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum();
    let mut sum = sum + rest.first().map_or(0, |last| u32::from(*last) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn inner_packet(inner: Inner) -> Vec<u8> {
    let headers = Ethernet2Header::LEN + Ipv4Header::MIN_LEN + UdpHeader::LEN;
    let payload = usize::from(inner.size).saturating_sub(headers);
    let length = UdpHeader::LEN + payload;
    let mut header = ipv4(inner.source, inner.destination, IpNumber::UDP, length);
    header.time_to_live = TTL - inner.hops;
    header.header_checksum = header.calc_header_checksum();
    let udp = UdpHeader {
        source_port: 5000,
        destination_port: 5001,
        length: u16::try_from(length).unwrap_or(u16::MAX),
        checksum: 0,
    };
    let mut packet = header.to_bytes().to_vec();
    packet.extend(udp.to_bytes());
    packet.resize(packet.len() + payload, 0);
    packet
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpNumber, length: usize) -> Ipv4Header {
    let mut header = Ipv4Header {
        total_len: u16::try_from(Ipv4Header::MIN_LEN + length).unwrap_or(u16::MAX),
        time_to_live: TTL,
        protocol,
        source: source.octets(),
        destination: destination.octets(),
        dont_fragment: false,
        ..Ipv4Header::default()
    };
    header.header_checksum = header.calc_header_checksum();
    header
}

fn ethernet(link: Link, ether_type: EtherType, parts: &[&[u8]]) -> Vec<u8> {
    let header = Ethernet2Header {
        source: link.source,
        destination: link.destination,
        ether_type,
    };
    let mut frame = header.to_bytes().to_vec();
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame
}
