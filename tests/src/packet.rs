//! Packets that tests send and expect, built with `etherparse`.
//!
//! Functions return IP packets; [`ethernet`] puts them into a frame, `gre` into a tunnel.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header,
    PacketBuilder, VlanId,
};

use crate::link::Mac;

/// Bytes of an untagged Ethernet header.
pub const ETHERNET_HEADER: usize = 14;

/// What an IP header says besides addresses.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class: DSCP and ECN.
    pub tos: u8,
}

impl Default for Fields {
    fn default() -> Self {
        Self { ttl: 64, tos: 0 }
    }
}

/// A UDP packet with correct checksums.
///
/// # Panics
/// If the addresses are of different families.
pub fn udp(
    source: IpAddr,
    destination: IpAddr,
    ports: (u16, u16),
    fields: Fields,
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ip(ip_header(source, destination, fields)).udp(ports.0, ports.1);
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut packet, payload)
        .expect("a packet in memory cannot fail to be written");
    packet
}

/// An ICMP or ICMPv6 echo request with correct checksums.
///
/// # Panics
/// If the addresses are of different families.
pub fn echo_request(
    source: IpAddr,
    destination: IpAddr,
    identifier: u16,
    number: u16,
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ip(ip_header(source, destination, Fields::default()));
    let mut packet = Vec::new();
    let written = if source.is_ipv4() {
        builder
            .icmpv4_echo_request(identifier, number)
            .write(&mut packet, payload)
    } else {
        builder
            .icmpv6_echo_request(identifier, number)
            .write(&mut packet, payload)
    };
    written.expect("a packet in memory cannot fail to be written");
    packet
}

/// An Ethernet frame around an IP packet, tagged if `vlan` says so; not padded.
///
/// # Panics
/// If `vlan` exceeds 4095.
pub fn ethernet(source: Mac, destination: Mac, vlan: Option<u16>, packet: &[u8]) -> Vec<u8> {
    let ip = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        EtherType::IPV6
    } else {
        EtherType::IPV4
    };
    let outermost = if vlan.is_some() {
        EtherType::VLAN_TAGGED_FRAME
    } else {
        ip
    };
    let mut frame = Ethernet2Header {
        source,
        destination,
        ether_type: outermost,
    }
    .to_bytes()
    .to_vec();
    if let Some(vlan) = vlan {
        let id = VlanId::try_new(vlan).expect("a VLAN id has 12 bits");
        frame.extend(id.value().to_be_bytes());
        frame.extend(ip.0.to_be_bytes());
    }
    frame.extend(packet);
    frame
}

/// Whether the text stands anywhere in the frame: how a test knows its own packets again.
pub fn contains(frame: &[u8], text: &[u8]) -> bool {
    frame.windows(text.len()).any(|window| window == text)
}

fn ip_header(source: IpAddr, destination: IpAddr, fields: Fields) -> IpHeaders {
    // The builder fills in lengths, protocol and checksums.
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4Header::new(
                0,
                fields.ttl,
                IpNumber::UDP,
                source.octets(),
                destination.octets(),
            )
            .expect("a header without payload is never too long");
            header.dscp = etherparse::IpDscp::try_new(fields.tos >> 2).expect("six bits");
            header.ecn = etherparse::IpEcn::try_new(fields.tos & 3).expect("two bits");
            IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: fields.tos,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: 0,
                next_header: IpNumber::UDP,
                hop_limit: fields.ttl,
                source: source.octets(),
                destination: destination.octets(),
            };
            IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
        }
        (source, destination) => panic!("no packet goes from {source} to {destination}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gre;

    #[test]
    fn built_packets_have_correct_header_checksums_and_lengths() {
        let packet = udp(
            "10.0.0.1".parse().unwrap(),
            "10.0.0.2".parse().unwrap(),
            (1, 2),
            Fields { ttl: 9, tos: 0xb9 },
            b"abc",
        );
        assert_eq!(packet.len(), 20 + 8 + 3);
        assert_eq!((packet[1], packet[8]), (0xb9, 9));
        assert_eq!(gre::internet_checksum(&packet[..20]), 0);
    }
}
