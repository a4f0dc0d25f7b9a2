//! Answers ARP (RFC 826) and neighbour discovery (RFC 4861) on ports, and learns machines from it.
//!
//! `from_port` asks [`is_resolution`] before it looks at IP; [`super::resolve`] calls [`answer`]. This is link
//! control, not traffic: it is not counted, and whatever is malformed or not for the gateway passes to the kernel.

use crate::checksum::Sum;
use crate::entry::PortEntry;
use crate::event::Event;
use crate::frame::{Frame, NoRoom, Truncated};
use crate::id::{Address, EtherType, IpProto, MacAddress, PortId};
use crate::key::MachineKey;
use crate::next_hop::Target;
use crate::tables::Tables;
use crate::verdict::Verdict;
use crate::wire::arp::{self as arp_wire, ArpHdr};
use crate::wire::ether::{EthernetHeader, LinkAddresses};
use crate::wire::icmp::{IcmpHeader, LinkLayerOption, NeighbourMessage};
use crate::wire::ip::{IPV6_LENGTH, Ipv6Hdr, ipv6_first_word};

use super::parse::Link;

/// A frame of link control that ends early or leaves no room for an answer is not answered.
struct Unanswerable;

impl From<Truncated> for Unanswerable {
    fn from(Truncated: Truncated) -> Self {
        Self
    }
}

impl From<NoRoom> for Unanswerable {
    fn from(NoRoom: NoRoom) -> Self {
        Self
    }
}

/// Whether the frame is ARP or neighbour discovery.
#[inline(always)]
pub(super) fn is_resolution<F: Frame>(frame: &F, link: &Link) -> bool {
    match link.ether_type {
        EtherType::ARP => true,
        EtherType::IPV6 => is_discovery(frame, link),
        _ => false,
    }
}

/// Answers the frame in place, or learns from it.
#[inline(always)]
pub(super) fn answer<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    id: PortId,
    port: &PortEntry,
    link: &Link,
) -> Verdict {
    let answered = match link.ether_type {
        EtherType::ARP => arp(frame, tables, id, port, link),
        _ => discovery(frame, tables, id, port, link),
    };
    answered.unwrap_or(Verdict::Pass)
}

/// Whether an IPv6 packet is a neighbour solicitation or advertisement that has not crossed a router
/// (RFC 4861 §7.1.1, §7.1.2).
#[inline(always)]
fn is_discovery<F: Frame>(frame: &F, link: &Link) -> bool {
    let Ok([next_header, hop_limit]) = frame.read::<[u8; 2]>(link.length + 6) else {
        return false;
    };
    if IpProto(next_header) != IpProto::ICMPV6 || hop_limit != 255 {
        return false;
    }
    matches!(
        frame.read::<[u8; 2]>(link.length + IPV6_LENGTH),
        Ok([IcmpHeader::SOLICITATION | IcmpHeader::ADVERTISEMENT, _])
    )
}

#[inline(always)]
fn arp<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    id: PortId,
    port: &PortEntry,
    link: &Link,
) -> Result<Verdict, Unanswerable> {
    let packet: ArpHdr = frame.read(link.length)?;
    if !arp_wire::is_ipv4_over_ethernet(&packet) {
        return Ok(Verdict::Pass);
    }
    let sender = MacAddress(packet.sha);
    if sender.is_group() {
        return Ok(Verdict::Pass);
    }
    let is_reply_to_us = packet.oper == arp_wire::REPLY.to_be_bytes() && link.unicast_to_us;
    learn(
        tables,
        id,
        port,
        Address::v4(packet.spa),
        sender,
        is_reply_to_us,
    );
    if is_reply_to_us {
        return Ok(Verdict::Consume);
    }
    if packet.oper != arp_wire::REQUEST.to_be_bytes()
        || !is_own(tables, id, port, Address::v4(packet.tpa))
    {
        return Ok(Verdict::Pass);
    }
    let reply = arp_wire::packet(
        arp_wire::REPLY,
        (port.mac, packet.tpa),
        (sender, packet.spa),
    );
    frame.write(link.length, reply)?;
    address_to(frame, sender, port.mac)?;
    Ok(Verdict::Transmit)
}

#[inline(always)]
fn discovery<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    id: PortId,
    port: &PortEntry,
    link: &Link,
) -> Result<Verdict, Unanswerable> {
    let header: Ipv6Hdr = frame.read(link.length)?;
    let message: NeighbourMessage = frame.read(link.length + IPV6_LENGTH)?;
    let length = u16::from_be_bytes(header.payload_len) as usize;
    let sum = frame.sum(link.length + IPV6_LENGTH, length)?;
    let pseudo = pseudo_header(header.src_addr, header.dst_addr, header.payload_len);
    if message.header.code != 0
        || length < NeighbourMessage::LENGTH
        || !sum.join(pseudo).is_correct()
    {
        return Ok(Verdict::Pass);
    }
    if message.header.kind == IcmpHeader::ADVERTISEMENT {
        let mac = link_layer(frame, link, length, LinkLayerOption::TARGET).unwrap_or(link.source);
        learn(
            tables,
            id,
            port,
            Address::v6(message.target),
            mac,
            link.unicast_to_us,
        );
        return Ok(if link.unicast_to_us {
            Verdict::Consume
        } else {
            Verdict::Pass
        });
    }
    let asks_for_itself = header.src_addr == [0; 16];
    if !asks_for_itself {
        let mac = link_layer(frame, link, length, LinkLayerOption::SOURCE).unwrap_or(link.source);
        learn(tables, id, port, Address::v6(header.src_addr), mac, false);
    }
    if !is_own(tables, id, port, Address::v6(message.target)) {
        return Ok(Verdict::Pass);
    }
    let to = if asks_for_itself {
        None
    } else {
        Some(header.src_addr)
    };
    advertise(frame, port, link, message.target, to)?;
    Ok(Verdict::Transmit)
}

/// The address in the option of this kind, if it is the first option.
#[inline(always)]
fn link_layer<F: Frame>(frame: &F, link: &Link, length: usize, kind: u8) -> Option<MacAddress> {
    if length < NeighbourMessage::LENGTH + LinkLayerOption::LENGTH {
        return None;
    }
    let offset = link.length + IPV6_LENGTH + NeighbourMessage::LENGTH;
    let option: LinkLayerOption = frame.read(offset).ok()?;
    (option.kind == kind && option.length == 1).then_some(option.mac)
}

/// Turns a solicitation into the advertisement of `target`; without a receiver, to all nodes (RFC 4861 §7.2.4).
#[inline(always)]
fn advertise<F: Frame>(
    frame: &mut F,
    port: &PortEntry,
    link: &Link,
    target: [u8; 16],
    to: Option<[u8; 16]>,
) -> Result<(), Unanswerable> {
    const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const ALL_NODES_MAC: MacAddress = MacAddress([0x33, 0x33, 0, 0, 0, 1]);
    const PAYLOAD: usize = NeighbourMessage::LENGTH + LinkLayerOption::LENGTH;
    let (destination, mac, flags) = match to {
        Some(address) => (
            address,
            link.source,
            NeighbourMessage::ROUTER_SOLICITED_OVERRIDE,
        ),
        None => (ALL_NODES, ALL_NODES_MAC, NeighbourMessage::ROUTER_OVERRIDE),
    };
    let payload_len = (PAYLOAD as u16).to_be_bytes();
    let option = LinkLayerOption {
        kind: LinkLayerOption::TARGET,
        length: 1,
        mac: port.mac,
    };
    let [m0, m1, m2, m3, m4, m5] = port.mac.0;
    let checksum = pseudo_header(target, destination, payload_len)
        .add([IcmpHeader::ADVERTISEMENT, 0])
        .add_4(flags)
        .add_16(target)
        .add_4([option.kind, option.length, m0, m1])
        .add_4([m2, m3, m4, m5])
        .checksum();
    frame.set_length(link.length + IPV6_LENGTH + PAYLOAD)?;
    frame.write(
        link.length,
        Ipv6Hdr {
            vcf: ipv6_first_word(0, 0),
            payload_len,
            next_hdr: IpProto::ICMPV6.0,
            hop_limit: 255,
            src_addr: target,
            dst_addr: destination,
        },
    )?;
    let header = IcmpHeader {
        kind: IcmpHeader::ADVERTISEMENT,
        code: 0,
        checksum,
    };
    frame.write(
        link.length + IPV6_LENGTH,
        NeighbourMessage {
            header,
            flags,
            target,
        },
    )?;
    frame.write(link.length + IPV6_LENGTH + NeighbourMessage::LENGTH, option)?;
    address_to(frame, mac, port.mac)
}

/// Sum of the pseudo-header of ICMPv6 (RFC 8200 §8.1).
#[inline(always)]
fn pseudo_header(source: [u8; 16], destination: [u8; 16], length: [u8; 2]) -> Sum {
    Sum::default()
        .add_16(source)
        .add_16(destination)
        .add(length)
        .add([0, IpProto::ICMPV6.0])
}

/// Sends the frame, whatever it carries, back onto its link; a tag stays where it is.
#[inline(always)]
fn address_to<F: Frame>(
    frame: &mut F,
    destination: MacAddress,
    source: MacAddress,
) -> Result<(), Unanswerable> {
    let header: EthernetHeader = frame.read(0)?;
    let addresses = LinkAddresses::new(&destination, &source);
    frame.write(0, EthernetHeader::new(addresses, header.ether_type()))?;
    Ok(())
}

/// Whether the address is the gateway's own on this port.
#[inline(always)]
fn is_own<T: Tables>(tables: &T, id: PortId, port: &PortEntry, address: Address) -> bool {
    route(tables, port, &address) == Some(Target::Local(id))
}

/// Notes the layer-2 address that a machine showed, be it in answer to a question of the daemon or not.
#[inline(always)]
fn learn<T: Tables>(
    tables: &T,
    id: PortId,
    port: &PortEntry,
    address: Address,
    mac: MacAddress,
    is_answer: bool,
) {
    if mac.is_group() || mac == MacAddress::default() || mac == port.mac {
        return;
    }
    let sighting = Sighting {
        address,
        mac: mac.to_word(),
        is_answer: is_answer.into(),
    };
    learn_from(tables, id, port, &sighting);
}

/// In whole words, as the verifier wants accesses to another function's stack.
#[repr(C)]
struct Sighting {
    address: Address,
    mac: u64,
    is_answer: u64,
}

/// Tells the daemon of a machine whose layer-2 address is new, or that answered. A new machine can be sent to at once:
/// what it asks right after resolving the gateway is answered. Out of line: it needs stack of its own.
#[inline(never)]
fn learn_from<T: Tables>(tables: &T, id: PortId, port: &PortEntry, sighting: &Sighting) {
    let address = sighting.address;
    let mac = MacAddress::from_word(sighting.mac);
    let is_news = match route(tables, port, &address) {
        Some(Target::Connected(connected)) if connected == id => {
            tables.learn(&MachineKey::new(id, address), mac);
            true
        }
        Some(Target::Neighbour(neighbour)) => {
            let entry = tables.neighbour(neighbour);
            entry.port == id
                && entry.address() == Some(address)
                && (sighting.is_answer != 0
                    || entry.resolved == 0
                    || entry.mac.to_word() != sighting.mac)
        }
        _ => false,
    };
    if is_news {
        tables.emit(&Event::seen(id, address, mac));
    }
}

#[inline(always)]
fn route<T: Tables>(tables: &T, port: &PortEntry, address: &Address) -> Option<Target> {
    tables.route(port.network, address).target()
}
