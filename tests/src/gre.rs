//! GRE over IPv4 and IPv6, written from RFC 2784, 2890 and 7676 for the peer of the tests: it builds what a correct
//! neighbour sends, and refuses whatever a correct gateway would not.
//!
//! `gre_peer` runs it on sockets; tests use it to build and judge single packets. It shares nothing with the gateway.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol number of GRE.
pub const PROTOCOL_GRE: u8 = 47;
const FLAG_CHECKSUM: u16 = 0x8000;
const FLAG_KEY: u16 = 0x2000;
const FLAG_SEQUENCE: u16 = 0x1000;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// One tunnel as its customer's side sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Our outer address.
    pub local: IpAddr,
    /// The gateway's outer address.
    pub remote: IpAddr,
    /// Key that we send.
    pub transmit_key: Option<u32>,
    /// Key that we expect.
    pub receive_key: Option<u32>,
    /// Send the checksum field, and expect it.
    pub checksum: bool,
    /// Send sequence numbers, and expect them.
    pub sequence: bool,
    /// Outer TTL or hop limit that we send and expect.
    pub ttl: u8,
    /// Outer type of service that we expect.
    pub tos: Tos,
}

/// How the outer type of service (DSCP and ECN) relates to the inner one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tos {
    /// DSCP and ECN are copied from the inner packet (RFC 2983 uniform model, RFC 6040 normal mode).
    Inherit,
    /// This DSCP (the upper six bits); ECN is copied from the inner packet.
    Fixed(u8),
}

impl Tunnel {
    /// An unkeyed tunnel without options, TTL 64.
    pub fn new(local: IpAddr, remote: IpAddr) -> Self {
        Self {
            local,
            remote,
            transmit_key: None,
            receive_key: None,
            checksum: false,
            sequence: false,
            ttl: 64,
            tos: Tos::Inherit,
        }
    }

    /// The same key in both directions.
    pub fn with_key(mut self, key: u32) -> Self {
        self.transmit_key = Some(key);
        self.receive_key = Some(key);
        self
    }

    /// The checksum field in both directions.
    pub fn with_checksum(mut self) -> Self {
        self.checksum = true;
        self
    }

    /// Sequence numbers in both directions.
    pub fn with_sequence(mut self) -> Self {
        self.sequence = true;
        self
    }

    /// Bytes that encapsulation adds to an inner packet.
    pub fn overhead(&self) -> usize {
        let ip = if self.local.is_ipv4() {
            IPV4_HEADER
        } else {
            IPV6_HEADER
        };
        ip + self.header(0).emit(&[]).len()
    }

    /// Appends to `packet` the outer IP packet that carries `inner`.
    pub fn encapsulate(&self, inner: &[u8], sequence: u32, packet: &mut Vec<u8>) {
        let mut header = self.header(sequence);
        header.protocol = if version(inner) == Some(6) {
            ETHERTYPE_IPV6
        } else {
            ETHERTYPE_IPV4
        };
        let payload = header.emit(inner);
        emit_ip(self, inner_tos(inner).unwrap_or_default(), &payload, packet);
    }

    /// Judges one packet that arrived for this tunnel and returns the inner packet and its sequence number.
    ///
    /// # Errors
    /// The first rule that the packet breaks. Sequence order is for the caller to judge.
    pub fn check<'a>(&self, outer: &Outer<'a>) -> Result<(&'a [u8], Option<u32>), Refusal> {
        if outer.ttl != self.ttl {
            return Err(Refusal::OuterTtl);
        }
        let gre = Header::parse(outer.payload)?;
        if gre.checksum.is_some() != self.checksum {
            return Err(Refusal::ChecksumFlag);
        }
        if gre.sequence.is_some() != self.sequence {
            return Err(Refusal::SequenceFlag);
        }
        if gre.key != self.receive_key {
            return Err(Refusal::Key);
        }
        let inner = &outer.payload[gre.length()..];
        let expected = match version(inner) {
            Some(4) => ETHERTYPE_IPV4,
            Some(6) => ETHERTYPE_IPV6,
            _ => return Err(Refusal::InnerVersion),
        };
        if gre.protocol != expected {
            return Err(Refusal::ProtocolType);
        }
        check_inner(inner)?;
        let tos = inner_tos(inner).ok_or(Refusal::InnerLength)?;
        let dscp = match self.tos {
            Tos::Inherit => tos & 0xfc,
            Tos::Fixed(value) => value & 0xfc,
        };
        if outer.tos != dscp | tos & 0x03 {
            return Err(Refusal::OuterTos);
        }
        Ok((inner, gre.sequence))
    }

    fn header(&self, sequence: u32) -> Header {
        Header {
            protocol: ETHERTYPE_IPV4,
            checksum: self.checksum.then_some(0),
            key: self.transmit_key,
            sequence: self.sequence.then_some(sequence),
        }
    }
}

/// A GRE header with the optional fields that it carries (RFC 2890 §2).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |C| |K|S| Reserved0       | Ver |         Protocol Type         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |      Checksum (optional)      |       Reserved1 (Optional)    |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                         Key (optional)                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                 Sequence Number (Optional)                    |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// EtherType of the payload.
    pub protocol: u16,
    /// The checksum field; [`Header::emit`] computes it, whatever stands here.
    pub checksum: Option<u16>,
    /// The key field.
    pub key: Option<u32>,
    /// The sequence number field.
    pub sequence: Option<u32>,
}

impl Header {
    /// Reads the header at the start of `payload`, which is exactly what the outer IP length covers.
    ///
    /// # Errors
    /// Truncation, any reserved bit set, a version other than 0, or a wrong checksum.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        let flags = word16(payload, 0)?;
        if flags & !(FLAG_CHECKSUM | FLAG_KEY | FLAG_SEQUENCE) != 0 {
            return Err(Refusal::ReservedBits);
        }
        let mut offset = 4;
        let mut header = Self {
            protocol: word16(payload, 2)?,
            checksum: None,
            key: None,
            sequence: None,
        };
        if flags & FLAG_CHECKSUM != 0 {
            header.checksum = Some(word16(payload, offset)?);
            if word16(payload, offset + 2)? != 0 {
                return Err(Refusal::ReservedBits);
            }
            if internet_checksum(payload) != 0 {
                return Err(Refusal::Checksum);
            }
            offset += 4;
        }
        if flags & FLAG_KEY != 0 {
            header.key = Some(word32(payload, offset)?);
            offset += 4;
        }
        if flags & FLAG_SEQUENCE != 0 {
            header.sequence = Some(word32(payload, offset)?);
        }
        Ok(header)
    }

    /// The header followed by `inner`, with the checksum over both.
    pub fn emit(&self, inner: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length() + inner.len());
        let mut flags = 0;
        flags |= if self.checksum.is_some() {
            FLAG_CHECKSUM
        } else {
            0
        };
        flags |= if self.key.is_some() { FLAG_KEY } else { 0 };
        flags |= if self.sequence.is_some() {
            FLAG_SEQUENCE
        } else {
            0
        };
        bytes.extend(flags.to_be_bytes());
        bytes.extend(self.protocol.to_be_bytes());
        if self.checksum.is_some() {
            bytes.extend([0; 4]);
        }
        bytes.extend(self.key.into_iter().flat_map(u32::to_be_bytes));
        bytes.extend(self.sequence.into_iter().flat_map(u32::to_be_bytes));
        bytes.extend(inner);
        if self.checksum.is_some() {
            let sum = internet_checksum(&bytes);
            bytes[4..6].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    /// Bytes of the header itself: 4, and 4 for each optional field.
    pub fn length(&self) -> usize {
        4 + 4
            * (usize::from(self.checksum.is_some())
                + usize::from(self.key.is_some())
                + usize::from(self.sequence.is_some()))
    }
}

/// The outer IP packet of a GRE packet, with its own header already judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// IPv6 flow label; `None` for IPv4.
    pub flow_label: Option<u32>,
    /// What the IP length covers behind the IP header; a frame's padding is not in it.
    pub payload: &'a [u8],
}

impl<'a> Outer<'a> {
    /// Reads the IP packet of a frame (without the Ethernet header).
    ///
    /// # Errors
    /// `Ok(None)` if it is not GRE; otherwise the first rule that a gateway's outer header must keep and does not.
    pub fn parse(packet: &'a [u8]) -> Result<Option<Self>, Refusal> {
        match version(packet) {
            Some(4) => Self::parse_ipv4(packet),
            Some(6) => Self::parse_ipv6(packet),
            _ => Ok(None),
        }
    }

    fn parse_ipv4(packet: &'a [u8]) -> Result<Option<Self>, Refusal> {
        if packet.len() < IPV4_HEADER || packet[9] != PROTOCOL_GRE {
            return Ok(None);
        }
        if packet[0] != 0x45 {
            return Err(Refusal::OuterOptions);
        }
        if internet_checksum(&packet[..IPV4_HEADER]) != 0 {
            return Err(Refusal::OuterChecksum);
        }
        match word16(packet, 6)? {
            0x4000 => {}
            0 => return Err(Refusal::DontFragmentMissing),
            _ => return Err(Refusal::Fragment),
        }
        let total = usize::from(word16(packet, 2)?);
        let payload = packet.get(IPV4_HEADER..total).ok_or(Refusal::OuterLength)?;
        Ok(Some(Self {
            source: ipv4_at(packet, 12).into(),
            destination: ipv4_at(packet, 16).into(),
            ttl: packet[8],
            tos: packet[1],
            flow_label: None,
            payload,
        }))
    }

    fn parse_ipv6(packet: &'a [u8]) -> Result<Option<Self>, Refusal> {
        if packet.len() < IPV6_HEADER || packet[6] != PROTOCOL_GRE {
            return Ok(None);
        }
        let first = word32(packet, 0)?;
        let total = IPV6_HEADER + usize::from(word16(packet, 4)?);
        let payload = packet.get(IPV6_HEADER..total).ok_or(Refusal::OuterLength)?;
        Ok(Some(Self {
            source: ipv6_at(packet, 8).into(),
            destination: ipv6_at(packet, 24).into(),
            ttl: packet[7],
            tos: u8::try_from(first >> 20 & 0xff).unwrap_or_default(),
            flow_label: Some(first & 0x000f_ffff),
            payload,
        }))
    }
}

/// Why the peer refuses a packet: each is a fault of the gateway, or of who sent it on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The frame is not addressed to this station's MAC.
    DestinationMac,
    /// The outer IPv4 header has options.
    OuterOptions,
    /// The outer IPv4 header checksum is wrong.
    OuterChecksum,
    /// The outer length exceeds the frame.
    OuterLength,
    /// The outer IPv4 packet may be fragmented.
    DontFragmentMissing,
    /// The outer IPv4 packet is a fragment.
    Fragment,
    /// The outer TTL or hop limit is not the tunnel's.
    OuterTtl,
    /// The outer DSCP or ECN is not what the tunnel's rule gives.
    OuterTos,
    /// No tunnel has these addresses and this key.
    UnknownTunnel,
    /// The GRE header does not fit into the packet.
    Truncated,
    /// A reserved bit is set or the version is not 0.
    ReservedBits,
    /// A checksum is there and should not be, or the reverse.
    ChecksumFlag,
    /// The GRE checksum is wrong.
    Checksum,
    /// The key is not the tunnel's.
    Key,
    /// A sequence number is there and should not be, or the reverse.
    SequenceFlag,
    /// The sequence number does not follow the last one.
    SequenceOrder,
    /// The protocol type does not say what the inner packet is.
    ProtocolType,
    /// The inner packet is neither IPv4 nor IPv6.
    InnerVersion,
    /// The inner length differs from what the outer length leaves (padding, or a cut).
    InnerLength,
    /// The inner IPv4 header checksum is wrong.
    InnerChecksum,
    /// The inner TTL is 0.
    InnerTtl,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// The one's complement of the one's complement sum of `bytes` as big-endian words (RFC 1071 §1); 0 over data that
/// includes a correct checksum.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or_default();
        sum += u64::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// The version nibble of an IP packet.
pub fn version(packet: &[u8]) -> Option<u8> {
    packet.first().map(|byte| byte >> 4)
}

/// Type of service or traffic class of an IP packet.
pub fn inner_tos(packet: &[u8]) -> Option<u8> {
    match version(packet)? {
        4 => packet.get(1).copied(),
        6 => Some((packet[0] << 4) | (packet.get(1)? >> 4)),
        _ => None,
    }
}

fn check_inner(inner: &[u8]) -> Result<(), Refusal> {
    let (length, ttl) = if version(inner) == Some(4) {
        let header = usize::from(inner[0] & 0x0f) * 4;
        let bytes = inner
            .get(..header.max(IPV4_HEADER))
            .ok_or(Refusal::InnerLength)?;
        if internet_checksum(bytes) != 0 {
            return Err(Refusal::InnerChecksum);
        }
        (usize::from(word16(inner, 2)?), bytes[8])
    } else {
        let bytes = inner.get(..IPV6_HEADER).ok_or(Refusal::InnerLength)?;
        (IPV6_HEADER + usize::from(word16(inner, 4)?), bytes[7])
    };
    if length != inner.len() {
        return Err(Refusal::InnerLength);
    }
    if ttl == 0 {
        return Err(Refusal::InnerTtl);
    }
    Ok(())
}

fn emit_ip(tunnel: &Tunnel, tos: u8, payload: &[u8], packet: &mut Vec<u8>) {
    let start = packet.len();
    match (tunnel.local, tunnel.remote) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(IPV4_HEADER + payload.len()).unwrap_or(u16::MAX);
            packet.extend([0x45, tos]);
            packet.extend(total.to_be_bytes());
            // Identification 0, which RFC 6864 allows with DF set.
            packet.extend([0, 0, 0x40, 0, tunnel.ttl, PROTOCOL_GRE, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = internet_checksum(&packet[start..]);
            packet[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
            packet.extend((6 << 28 | u32::from(tos) << 20).to_be_bytes());
            packet.extend(length.to_be_bytes());
            packet.extend([PROTOCOL_GRE, tunnel.ttl]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        (local, remote) => panic!("a tunnel cannot run between {local} and {remote}"),
    }
    packet.extend(payload);
}

fn word16(bytes: &[u8], offset: usize) -> Result<u16, Refusal> {
    let word = bytes.get(offset..offset + 2).ok_or(Refusal::Truncated)?;
    Ok(u16::from_be_bytes([word[0], word[1]]))
}

fn word32(bytes: &[u8], offset: usize) -> Result<u32, Refusal> {
    Ok(u32::from(word16(bytes, offset)?) << 16 | u32::from(word16(bytes, offset + 2)?))
}

fn ipv4_at(packet: &[u8], offset: usize) -> Ipv4Addr {
    let mut octets = [0; 4];
    octets.copy_from_slice(&packet[offset..offset + 4]);
    octets.into()
}

fn ipv6_at(packet: &[u8], offset: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&packet[offset..offset + 16]);
    octets.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(ipv6: bool) -> Tunnel {
        if ipv6 {
            Tunnel::new(
                "2001:db8::7".parse().unwrap(),
                "2001:db8::1".parse().unwrap(),
            )
        } else {
            Tunnel::new(
                "198.51.100.7".parse().unwrap(),
                "203.0.113.1".parse().unwrap(),
            )
        }
    }

    /// An inner IPv4 packet of protocol 253 with four bytes of data; the checksum was worked out by hand.
    const INNER: [u8; 24] = [
        0x45, 0x00, 0x00, 0x18, 0x00, 0x00, 0x00, 0x00, 0x40, 0xfd, 0x65, 0xe7, 10, 0, 0, 1, 10, 0,
        0, 2, 1, 2, 3, 4,
    ];

    #[test]
    fn header_lengths_are_those_of_rfc_2890() {
        let lengths: Vec<usize> = (0..8)
            .map(|bits| {
                let header = Header {
                    protocol: ETHERTYPE_IPV4,
                    checksum: (bits & 4 != 0).then_some(0),
                    key: (bits & 2 != 0).then_some(7),
                    sequence: (bits & 1 != 0).then_some(9),
                };
                assert_eq!(header.emit(&[]).len(), header.length());
                header.length()
            })
            .collect();
        assert_eq!(lengths, [4, 8, 8, 12, 8, 12, 12, 16]);
    }

    #[test]
    fn a_keyed_checked_and_numbered_header_is_the_bytes_of_the_rfc() {
        let header = Header {
            protocol: 0x0800,
            checksum: Some(0),
            key: Some(0x0102_0304),
            sequence: Some(5),
        };
        let bytes = header.emit(&[0xaa, 0xbb, 0xcc]);
        // Sum of b000 0800 0102 0304 0000 0005 aabb cc00, folded: 32c8; its complement: cd37.
        assert_eq!(
            bytes,
            [
                0xb0, 0, 8, 0, 0xcd, 0x37, 0, 0, 1, 2, 3, 4, 0, 0, 0, 5, 0xaa, 0xbb, 0xcc
            ]
        );
    }

    #[test]
    fn the_other_end_accepts_what_one_end_builds() {
        for ipv6 in [false, true] {
            let ours = tunnel(ipv6).with_key(77).with_checksum().with_sequence();
            let theirs = Tunnel {
                local: ours.remote,
                remote: ours.local,
                ..ours.clone()
            };
            let mut packet = Vec::new();
            ours.encapsulate(&INNER, 41, &mut packet);
            assert_eq!(packet.len(), INNER.len() + ours.overhead());
            packet.extend([0xee; 9]); // Padding of a short frame is not part of the packet.
            let outer = Outer::parse(&packet).unwrap().unwrap();
            assert_eq!(theirs.check(&outer), Ok((&INNER[..], Some(41))));
        }
    }

    #[test]
    fn every_damaged_bit_of_a_checked_packet_is_refused() {
        let ours = tunnel(false).with_key(77).with_checksum();
        let mut packet = Vec::new();
        ours.encapsulate(&INNER, 0, &mut packet);
        for bit in 0..packet.len() * 8 {
            let mut damaged = packet.clone();
            damaged[bit / 8] ^= 0x80 >> (bit % 8);
            let refused = match Outer::parse(&damaged) {
                Ok(Some(outer)) => ours.check(&outer).is_err(),
                Ok(None) => true,
                Err(_) => true,
            };
            assert!(refused, "bit {bit} was changed and nobody noticed");
        }
    }
}
