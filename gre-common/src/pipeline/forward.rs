//! Looks the destination up in the network's own table and sends the packet on.
//!
//! Called by both entry points with a parsed packet. Isolation rests on this file: the only way out of a network is a
//! route of that network, and a peering is followed once, to machines of the peer only.

use crate::counters::{Ledger, Owner};
use crate::event::Event;
use crate::frame::{Frame, NoRoom};
use crate::id::{Address, EtherType, Family, MacAddress, NeighbourId, NetworkId, PortId, TunnelId};
use crate::key::MachineKey;
use crate::next_hop::{NextHop, Target};
use crate::tables::Tables;
use crate::verdict::{DropReason, Verdict};
use crate::wire::ether::{EthernetHeader, LinkAddresses, VlanTag};

use super::parse::Inner;
use super::{Ingress, echo, encap, group};

/// Forwards a packet that arrived in a network.
///
/// Machines of one network, or of two peered ones, seem to share a link: the way to a machine itself costs no hop unless it
/// comes from a tunnel. Every other way costs one, so that no packet goes round for ever (RFC 1812 §5.3.1, RFC 8200 §3).
#[inline(always)]
pub(super) fn forward<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    ingress: Ingress,
    mut inner: Inner,
    ledger: &mut Ledger,
) -> Result<Verdict, DropReason> {
    if !is_forwardable(&inner.source) || !is_forwardable(&inner.destination) {
        return Err(DropReason::NotForwardable);
    }
    let (network, from_tunnel) = match ingress {
        Ingress::Port(network) => (network, false),
        Ingress::Tunnel(network) => (network, true),
    };
    let next_hop = tables.route(network, &inner.destination);
    let mut target = follow(tables, next_hop, &inner.destination, from_tunnel)?;
    let mut originated = false;
    if let Target::Local(_) = target {
        // A copy out of line: what a function takes by reference lives in memory on every other way too.
        let mut request = inner;
        echo::reply(frame, &mut request)?;
        inner = request;
        originated = true;
        // By the rules of whoever asked, whose word alone says where the reply goes.
        let next_hop = route_again(tables, network, inner.destination);
        target = follow(tables, next_hop, &inner.destination, from_tunnel)?;
    }
    if let Target::Group(id) = target {
        target = match tables.member(id, group::flow(frame, inner)) {
            TunnelId(0) => return Err(DropReason::GroupDown),
            tunnel => Target::Tunnel(tunnel),
        };
    }
    match target {
        Target::Neighbour(id) => {
            let is_router = !tables.neighbour(id).is_at(&inner.destination);
            if (from_tunnel || is_router) && !originated {
                encap::decrement_ttl(frame, &mut inner)?;
            }
            to_machine(frame, tables, id, &inner, ledger)
        }
        Target::Tunnel(id) => {
            if !originated {
                encap::decrement_ttl(frame, &mut inner)?;
            }
            encap::into_tunnel(frame, tables, id, &inner, ledger)
        }
        Target::Connected(port) => {
            if from_tunnel && !originated {
                encap::decrement_ttl(frame, &mut inner)?;
            }
            to_new_machine(frame, tables, port, &inner, ledger)
        }
        Target::Blackhole => Err(DropReason::Blackhole),
        Target::Local(_) => Err(DropReason::LocalUnsupported),
        Target::Peer(_) | Target::Group(_) => Err(DropReason::PeeringTransit),
    }
}

/// Gives the packet the length and the room for `header` bytes before its IP header.
#[inline(always)]
pub(super) fn reframe<F: Frame>(frame: &mut F, inner: &Inner, header: usize) -> Result<(), NoRoom> {
    let end = inner.offset + inner.length;
    if !frame.ends_at(end) {
        frame.set_length(end)?;
    }
    if inner.offset != header {
        frame.move_head(inner.offset as i32 - header as i32)?;
    }
    Ok(())
}

/// Whether a router may forward packets with this source or destination (RFC 1812 §5.3.7, RFC 3927 §7, RFC 4291 §2.5).
#[inline(always)]
fn is_forwardable(address: &Address) -> bool {
    match address.family() {
        Family::V4 => !matches!(address.to_v4(), [0 | 127 | 224.., ..] | [169, 254, ..]),
        Family::V6 => match address.to_bytes() {
            [0xff, ..] => false,
            [0xfe, second, ..] => second & 0xc0 != 0x80,
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last] => last > 1,
            _ => true,
        },
    }
}

/// Where the route leads, in the packet's own network or in one peered with it.
#[inline(always)]
fn follow<T: Tables>(
    tables: &T,
    next_hop: NextHop,
    destination: &Address,
    from_tunnel: bool,
) -> Result<Target, DropReason> {
    let target = next_hop.target().ok_or(DropReason::NoRoute)?;
    let Target::Peer(peer) = target else {
        return Ok(target);
    };
    if from_tunnel {
        return Err(DropReason::PeeringTransit);
    }
    match route_again(tables, peer, *destination)
        .target()
        .ok_or(DropReason::NoRoute)?
    {
        Target::Tunnel(_) | Target::Group(_) | Target::Peer(_) => Err(DropReason::PeeringTransit),
        target => Ok(target),
    }
}

/// A second look-up, out of line because few packets need one.
#[inline(never)]
fn route_again<T: Tables>(tables: &T, network: NetworkId, destination: Address) -> NextHop {
    tables.route(network, &destination)
}

#[inline(always)]
fn to_machine<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    id: NeighbourId,
    inner: &Inner,
    ledger: &mut Ledger,
) -> Result<Verdict, DropReason> {
    let neighbour = tables.neighbour(id);
    let port_id = neighbour.port;
    if neighbour.resolved == 0 {
        let address = neighbour.address().ok_or(DropReason::MissingEntry)?;
        tables.touch_neighbour(id);
        return Err(unresolved(tables, port_id, &address, ledger));
    }
    tables.touch_neighbour(id);
    // Its address is read behind `resolved`, which the daemon sets last.
    to_port(frame, tables, port_id, &neighbour.mac, inner, ledger)
}

/// Sends to a machine that has no route of its own yet: it was learnt a moment ago, or is not known at all.
#[inline(always)]
fn to_new_machine<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    port: PortId,
    inner: &Inner,
    ledger: &mut Ledger,
) -> Result<Verdict, DropReason> {
    let Some(mac) = tables.learnt(&MachineKey::new(port, inner.destination)) else {
        return Err(unresolved(tables, port, &inner.destination, ledger));
    };
    // The daemon may have missed it the first time.
    tables.emit(&Event::seen(port, inner.destination, mac));
    to_port(frame, tables, port, &mac, inner, ledger)
}

#[inline(always)]
fn to_port<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    port_id: PortId,
    mac: &MacAddress,
    inner: &Inner,
    ledger: &mut Ledger,
) -> Result<Verdict, DropReason> {
    ledger.leave_through(Owner::Port(port_id), inner.length);
    let port = tables.port(port_id);
    // A port that is not in use carries no packet of any size.
    if inner.length > port.mtu as usize {
        return Err(if port.mtu > 0 {
            DropReason::ExceedsPortMtu
        } else {
            DropReason::MissingEntry
        });
    }
    let ether_type = inner.destination.family().ether_type();
    let addresses = LinkAddresses::new(mac, &port.mac);
    if port.vlan.0 == 0 {
        reframe(frame, inner, EthernetHeader::LENGTH)?;
        frame.write(0, EthernetHeader::new(addresses, ether_type))?;
    } else {
        reframe(frame, inner, EthernetHeader::LENGTH + VlanTag::LENGTH)?;
        frame.write(0, EthernetHeader::new(addresses, EtherType::VLAN))?;
        frame.write(EthernetHeader::LENGTH, VlanTag::new(port.vlan, ether_type))?;
    }
    ledger.egress = port.device;
    Ok(Verdict::Transmit)
}

/// Asks the daemon to resolve the machine; the packet is dropped and charged to the port.
#[inline(always)]
fn unresolved<T: Tables>(
    tables: &T,
    port: PortId,
    address: &Address,
    ledger: &mut Ledger,
) -> DropReason {
    ledger.leave_through(Owner::Port(port), ledger.bytes as usize);
    tables.emit(&Event::missing(port, *address));
    DropReason::NeighbourUnresolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_routers_must_not_forward_are_refused() {
        for refused in [
            "0.1.2.3",
            "127.0.0.1",
            "169.254.9.9",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
        ] {
            let address: core::net::IpAddr = refused.parse().expect("an address");
            assert!(!is_forwardable(&address.into()), "{refused}");
        }
        for forwarded in [
            "1.0.0.1",
            "10.0.0.1",
            "169.253.0.1",
            "223.255.255.1",
            "::2",
            "fec0::1",
            "fd00::1",
            "2001:db8::1",
        ] {
            let address: core::net::IpAddr = forwarded.parse().expect("an address");
            assert!(is_forwardable(&address.into()), "{forwarded}");
        }
    }
}
