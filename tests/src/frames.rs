//! The frames around the example gateway (`gre_model::example`): what its neighbours send, and what they ought to get.
//!
//! Everything is built from the RFCs by `packet` and `gre`, or byte by byte, and nothing by `gre-common`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use gre_common::id::{IfIndex, PortId, TunnelId};
use gre_model::example::{
    self, ACCESS_MAC, Devices, LOCAL, Options, ROUTER_MAC, SITE, TRUNK_MAC, UNDERLAY_MAC, host, to,
};

use crate::gre::{self, Tos, Tunnel};
use crate::link::Mac;
use crate::packet::{self, ETHERNET_HEADER, Fields};

/// The MAC address of all stations.
pub const BROADCAST: Mac = [0xff; 6];
/// Offset of the outer IP header in an untagged frame.
pub const OUTER: usize = ETHERNET_HEADER;
/// Offset of the GRE header behind an outer IPv4 header without options.
pub const GRE_OVER_V4: usize = OUTER + 20;
/// Offset of the GRE header behind an outer IPv6 header without extensions.
pub const GRE_OVER_V6: usize = OUTER + 40;
/// `operation` of an ARP request (RFC 826).
pub const ARP_REQUEST: u16 = 1;
/// `operation` of an ARP reply.
pub const ARP_REPLY: u16 = 2;
/// ICMPv6 type of a neighbour solicitation (RFC 4861 §4.3).
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement (RFC 4861 §4.4).
pub const ADVERTISEMENT: u8 = 136;

/// A tunnel as the site at its far end has it.
///
/// # Panics
/// If the example gateway has no such tunnel.
pub fn site(id: TunnelId) -> Tunnel {
    let red = |key| Tunnel::new(SITE[0], LOCAL[0]).with_key(key);
    let over_v6 = |key| Tunnel::new(SITE[1], LOCAL[1]).with_key(key);
    let named = [
        (example::RED_TUNNEL[0], red(1001)),
        (example::RED_TUNNEL[1], over_v6(1001)),
        (example::BLUE_TUNNEL[0], red(1002)),
        (example::BLUE_TUNNEL[1], over_v6(1002)),
        (example::GREEN_TUNNEL, Tunnel::new(SITE[0], LOCAL[0])),
        (example::YELLOW_TUNNEL, red(0)),
        (
            example::ASYMMETRIC_TUNNEL,
            Tunnel {
                receive_key: Some(3002),
                ..red(3001)
            },
        ),
        (example::INHERITING_TUNNEL, red(3003)),
        (
            example::FIXED_TUNNEL,
            Tunnel {
                ttl: 9,
                tos: Tos::Fixed(0xb8),
                ..red(3004)
            },
        ),
        (example::NARROW_TUNNEL, red(3005)),
        (example::OVERSIZED_TUNNEL, red(3006)),
        (example::UNRESOLVED_TUNNEL, red(3007)),
        (example::WIDE_TUNNEL, red(3008).with_checksum()),
    ];
    let named = named.into_iter().find(|(named, _)| *named == id);
    named
        .map(|(_, tunnel)| tunnel)
        .or_else(|| options_site(id))
        .unwrap_or_else(|| panic!("the example has no tunnel {id}"))
}

fn options_site(id: TunnelId) -> Option<Tunnel> {
    let all = Options::all().flat_map(|options| [(options, false), (options, true)]);
    let mut all =
        all.map(|(options, over_v6)| (options, over_v6, example::options_tunnel(options, over_v6)));
    let (options, over_v6, tunnel) = all.find(|(.., tunnel)| tunnel.id == id)?;
    Some(Tunnel {
        transmit_key: tunnel.key,
        receive_key: tunnel.key,
        checksum: options.checksum,
        sequence: options.sequence,
        ..Tunnel::new(tunnel.remote, LOCAL[usize::from(over_v6)])
    })
}

/// The frame in which the site's packet reaches the gateway.
pub fn from_site(outer: &[u8]) -> Vec<u8> {
    packet::ethernet(ROUTER_MAC.0, UNDERLAY_MAC.0, None, outer)
}

/// The frame in which the site sends `inner` through a tunnel.
pub fn through(id: TunnelId, inner: &[u8], sequence: u32) -> Vec<u8> {
    through_as(&site(id), inner, sequence)
}

/// The frame in which a site with this idea of a tunnel sends `inner`.
pub fn through_as(tunnel: &Tunnel, inner: &[u8], sequence: u32) -> Vec<u8> {
    let mut outer = Vec::new();
    tunnel.encapsulate(inner, sequence, &mut outer);
    from_site(&outer)
}

/// The frame in which a site with this idea of a tunnel wants `inner`; its flow label is 0.
pub fn into_site(tunnel: &Tunnel, inner: &[u8], sequence: u32) -> Vec<u8> {
    let gateway = Tunnel {
        local: tunnel.remote,
        remote: tunnel.local,
        transmit_key: tunnel.receive_key,
        receive_key: tunnel.transmit_key,
        ..tunnel.clone()
    };
    let mut outer = Vec::new();
    gateway.encapsulate(inner, sequence, &mut outer);
    packet::ethernet(UNDERLAY_MAC.0, ROUTER_MAC.0, None, &outer)
}

/// The frame without the flow label of its outermost IPv6 header, and that label; `None` for IPv4.
pub fn without_flow_label(frame: &[u8]) -> (Vec<u8>, Option<u32>) {
    let mut frame = frame.to_vec();
    if gre::version(&frame[ETHERNET_HEADER..]) != Some(6) {
        return (frame, None);
    }
    let word = &mut frame[ETHERNET_HEADER..ETHERNET_HEADER + 4];
    let label = u32::from_be_bytes([0, word[1] & 0x0f, word[2], word[3]]);
    word[1] &= 0xf0;
    word[2..].fill(0);
    (frame, Some(label))
}

/// The device of a port.
pub fn device(devices: Devices, port: PortId) -> IfIndex {
    if port == example::RED_PORT {
        devices.access
    } else {
        devices.trunk
    }
}

/// The gateway's MAC address on a port.
pub fn port_mac(port: PortId) -> Mac {
    if port == example::RED_PORT {
        ACCESS_MAC.0
    } else {
        TRUNK_MAC.0
    }
}

/// The tag of a port.
pub fn vlan(port: PortId) -> Option<u16> {
    match port {
        example::BLUE_PORT => Some(100),
        example::GREEN_PORT => Some(200),
        example::YELLOW_PORT => Some(300),
        example::NARROW_PORT => Some(400),
        _ => None,
    }
}

/// The frame in which the machine on a port sends a packet to the gateway.
pub fn from_machine(port: PortId, packet: &[u8]) -> Vec<u8> {
    let machine = example::machine_mac(port).0;
    packet::ethernet(machine, port_mac(port), vlan(port), packet)
}

/// The frame in which the machine on a port wants a packet.
pub fn to_machine(port: PortId, packet: &[u8]) -> Vec<u8> {
    let machine = example::machine_mac(port).0;
    packet::ethernet(port_mac(port), machine, vlan(port), packet)
}

/// The packet one hop further on.
pub fn hop(packet: &[u8]) -> Vec<u8> {
    let ttl = if gre::version(packet) == Some(6) {
        packet[7]
    } else {
        packet[8]
    };
    with_ttl(packet, ttl - 1)
}

/// The packet with another TTL or hop limit.
pub fn with_ttl(packet: &[u8], ttl: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if gre::version(&packet) == Some(6) {
        packet[7] = ttl;
    } else {
        packet[8] = ttl;
        correct_header_checksum(&mut packet);
    }
    packet
}

/// The packet with another TOS or traffic class.
pub fn with_tos(packet: &[u8], tos: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if gre::version(&packet) == Some(6) {
        packet[0] = 0x60 | tos >> 4;
        packet[1] = tos << 4 | packet[1] & 0x0f;
    } else {
        packet[1] = tos;
        correct_header_checksum(&mut packet);
    }
    packet
}

/// Makes the header checksum of an IPv4 packet correct; the length of the header is believed.
pub fn correct_header_checksum(packet: &mut [u8]) {
    let length = usize::from(packet[0] & 0x0f) * 4;
    packet[10..12].fill(0);
    let sum = gre::internet_checksum(&packet[..length]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An ARP frame (RFC 826).
pub fn arp(
    (source, destination): (Mac, Mac),
    vlan: Option<u16>,
    operation: u16,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    if let Some(vlan) = vlan {
        frame.extend([0x81, 0]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(sender.0);
    frame.extend(sender.1.octets());
    frame.extend(target.0);
    frame.extend(target.1.octets());
    frame
}

/// An IPv6 packet with an ICMPv6 message, whose checksum is filled in (RFC 4443 §2.3).
pub fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let length = message.len() as u16;
    let mut pseudo = [source.octets(), destination.octets()].concat();
    pseudo.extend(u32::from(length).to_be_bytes());
    pseudo.extend([0, 0, 0, 58]);
    pseudo.extend(message);
    let sum = gre::internet_checksum(&pseudo);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([58, hop_limit]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(message);
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A neighbour solicitation or advertisement; checksum 0 (RFC 4861 §4.3, §4.4).
pub fn discovery(kind: u8, flags: u8, target: Ipv6Addr, option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    if let Some((kind, mac)) = option {
        message.extend([kind, 1]);
        message.extend(mac);
    }
    message
}

/// The multicast group and its MAC address where an address is asked for (RFC 4291 §2.7.1, RFC 2464 §7).
pub fn solicited_node(target: Ipv6Addr) -> (Ipv6Addr, Mac) {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    (group, [0x33, 0x33, 0xff, a, b, c])
}

/// A packet of one flow with a payload that is not empty.
///
/// # Panics
/// If the addresses are of different families.
pub fn udp(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    packet::udp(
        source,
        destination,
        (4000, 53),
        Fields { ttl: 61, tos: 0 },
        b"some payload",
    )
}

/// A packet of the same flow with this many bytes, headers included.
///
/// # Panics
/// If the headers need more, or the addresses are of different families.
pub fn udp_of_length((source, destination): (IpAddr, IpAddr), length: usize) -> Vec<u8> {
    let headers = udp(source, destination).len() - b"some payload".len();
    let payload: Vec<u8> = (0..length - headers).map(|index| index as u8).collect();
    packet::udp(source, destination, (4000, 53), Fields::default(), &payload)
}

/// A packet of some site to the machine of red (and of blue).
pub fn inner_to_red(is_v6: bool) -> Vec<u8> {
    udp(host(to::SITE_OVER_V4, 9, is_v6), host(to::HOME, 2, is_v6))
}

/// The answer to `packet::echo_request`.
///
/// # Panics
/// If the addresses are of different families.
pub fn echo_reply(
    source: IpAddr,
    destination: IpAddr,
    id: u16,
    number: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    let written = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
                .icmpv4_echo_reply(id, number)
                .write(&mut packet, payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
                .icmpv6_echo_reply(id, number)
                .write(&mut packet, payload)
        }
        _ => panic!("no packet goes from {source} to {destination}"),
    };
    written.expect("a packet in memory cannot fail to be written");
    packet
}

/// One frame from the site for each kind of header that a correct sender may use.
pub fn valid_gre_frames() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for over_v6 in [false, true] {
        for is_v6 in [false, true] {
            let plain = through(
                example::options_tunnel(Options::ALL, over_v6).id,
                &inner_to_red(is_v6),
                0,
            );
            let wrapped = if over_v6 {
                with_extension_headers(
                    &plain,
                    &[(0, &[1, 4, 0, 0, 0, 0]), (60, &[1, 4, 0, 0, 0, 0])],
                )
            } else {
                with_ipv4_options(&plain, 8)
            };
            all.extend([plain, wrapped]);
        }
    }
    all
}

/// The frame with an outer IPv4 header of this many words, filled up with no-operation options (RFC 791 §3.1).
pub fn with_ipv4_options(frame: &[u8], words: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let length = frame.len() - ETHERNET_HEADER + words * 4 - 20;
    frame.splice(
        GRE_OVER_V4..GRE_OVER_V4,
        std::iter::repeat_n(1, words * 4 - 20),
    );
    frame[OUTER] = 0x40 | u8::try_from(words).expect("at most 15");
    set_outer_length(&mut frame, length);
    frame
}

/// The frame with IPv6 extension headers before GRE: kind, and what follows next header and length.
pub fn with_extension_headers(frame: &[u8], chain: &[(u8, &[u8])]) -> Vec<u8> {
    let mut headers = Vec::new();
    let kinds = chain
        .iter()
        .map(|(kind, _)| *kind)
        .chain([gre::PROTOCOL_GRE]);
    for ((_, body), next) in chain.iter().zip(kinds.clone().skip(1)) {
        let units = u8::try_from((body.len() + 2) / 8 - 1).expect("short");
        // A fragment header has no length (RFC 8200 §4.5).
        headers.extend([next, units]);
        headers.extend(*body);
    }
    let mut frame = frame.to_vec();
    frame.splice(GRE_OVER_V6..GRE_OVER_V6, headers);
    frame[OUTER + 6] = kinds.clone().next().expect("at least GRE");
    let length = frame.len() - ETHERNET_HEADER;
    set_outer_length(&mut frame, length);
    frame
}

/// The IPv6 packet with hop-by-hop options that ask for nothing: a PadN option (RFC 8200 §4.2).
pub fn with_inner_hop_by_hop_options(packet: &[u8]) -> Vec<u8> {
    const HEADER: usize = 40;
    const NEXT_HEADER: usize = 6;
    let options = [packet[NEXT_HEADER], 0, 1, 4, 0, 0, 0, 0];
    let mut packet = packet.to_vec();
    packet.splice(HEADER..HEADER, options);
    packet[NEXT_HEADER] = 0;
    packet[5] += options.len() as u8;
    packet
}

/// Makes the outer IP packet claim this many bytes, header included.
pub fn set_outer_length(frame: &mut [u8], length: usize) {
    let outer = &mut frame[OUTER..];
    if gre::version(outer) == Some(6) {
        let payload = u16::try_from(length.saturating_sub(40)).expect("a packet's length");
        outer[4..6].copy_from_slice(&payload.to_be_bytes());
    } else {
        let length = u16::try_from(length).expect("a packet's length");
        outer[2..4].copy_from_slice(&length.to_be_bytes());
        correct_header_checksum(outer);
    }
}

/// Makes the checksum of the GRE header at `gre` correct, up to the end of the frame.
pub fn correct_gre_checksum(frame: &mut [u8], gre: usize) {
    frame[gre + 4..gre + 6].fill(0);
    let sum = gre::internet_checksum(&frame[gre..]);
    frame[gre + 4..gre + 6].copy_from_slice(&sum.to_be_bytes());
}

/// The IPv4 address in it.
///
/// # Panics
/// If it is an IPv6 address.
pub fn ipv4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} is not an IPv4 address"),
    }
}

/// The IPv6 address in it.
///
/// # Panics
/// If it is an IPv4 address.
pub fn ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => panic!("{address} is not an IPv6 address"),
    }
}
