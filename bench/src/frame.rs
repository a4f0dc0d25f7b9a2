//! The frames that are sent and those that shall arrive, built independently of the data plane.
//!
//! Every case carries the same inner packet: UDP from a machine or a site, which as a frame of its own has 64 bytes.

use std::net::Ipv4Addr;

use crate::bed::Mac;
use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, SingleVlanHeader, UdpHeader, VlanId,
};

/// Bytes of an Ethernet frame with the inner packet in it, without frame check sequence.
pub(crate) const FRAME_LENGTH: usize = 64;

const PAYLOAD_LENGTH: usize =
    FRAME_LENGTH - Ethernet2Header::LEN - Ipv4Header::MIN_LEN - UdpHeader::LEN;
const TTL: u8 = 64;
const GRE_KEY: [u8; 4] = [0x20, 0, 0x08, 0];

/// The inner packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inner {
    /// Who sends it.
    pub(crate) source: Ipv4Addr,
    /// Where it goes.
    pub(crate) destination: Ipv4Addr,
    /// Routers it has passed.
    pub(crate) hops: u8,
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
    pub(crate) source: Ipv4Addr,
    /// Who decapsulates.
    pub(crate) destination: Ipv4Addr,
    /// The key.
    pub(crate) key: u32,
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

/// A frame with the inner packet in GRE over IPv4 (RFC 2784, RFC 2890).
pub(crate) fn encapsulated(link: Link, outer: Outer, inner: Inner) -> Vec<u8> {
    let packet = inner_packet(inner);
    let mut header = ipv4(
        outer.source,
        outer.destination,
        IpNumber::GRE,
        8 + packet.len(),
    );
    header.dont_fragment = true;
    header.header_checksum = header.calc_header_checksum();
    ethernet(
        link,
        EtherType::IPV4,
        &[
            &header.to_bytes(),
            &GRE_KEY,
            &outer.key.to_be_bytes(),
            &packet,
        ],
    )
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

fn inner_packet(inner: Inner) -> Vec<u8> {
    let length = UdpHeader::LEN + PAYLOAD_LENGTH;
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
    packet.resize(packet.len() + PAYLOAD_LENGTH, 0);
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
