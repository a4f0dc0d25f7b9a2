//! The way of a packet, top to bottom: from the frame to a verdict or a drop.
//!
//! `gre-ebpf` calls [`process`] for each frame in the kernel; host tests, fuzzing and `gregw explain` call it on ordinary
//! memory. Each stage is one file and hands on a small record by value; `?` is the drop.

mod decap;
mod demux;
mod echo;
mod encap;
mod forward;
pub mod group;
mod parse;
mod resolve;
pub mod sequence;

use crate::counters::{Direction, Ledger, Owner};
use crate::entry::{AttachedPort, InterfaceEntry, InterfaceFlags};
use crate::frame::Frame;
use crate::id::{EtherType, IfIndex, NetworkId, PortId};
use crate::tables::Tables;
use crate::verdict::{DropReason, Verdict};

use demux::Received;
use parse::{Inner, Link};

/// Where a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ingress {
    /// A machine on a port of the network.
    Port(NetworkId),
    /// A site behind a tunnel of the network.
    Tunnel(NetworkId),
}

/// Decides about one frame received on `device`, rewrites it for the way out, and counts it.
///
/// On [`Verdict::Transmit`] the frame is complete and the caller sends it, then reports with [`sent`] or [`not_sent`]
/// how that went. A drop is already counted.
#[inline(always)]
pub fn process<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    device: IfIndex,
    ledger: &mut Ledger,
) -> Result<Verdict, DropReason> {
    let Some(interface) = tables.interface(device) else {
        return Ok(Verdict::Pass);
    };
    let verdict = from_device(frame, tables, interface, ledger);
    if let Err(reason) = verdict {
        tables.count_drop(ledger.owner, ledger.direction, reason);
    }
    verdict
}

/// Answers a frame for which [`process`] returned [`Verdict::Resolve`]: ARP or neighbour discovery on a port.
///
/// Apart from [`process`], so that forwarding does not carry its code and stack. Never counted.
#[inline(always)]
pub fn resolve<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    device: IfIndex,
    ledger: &mut Ledger,
) -> Verdict {
    let Some(interface) = tables.interface(device) else {
        return Verdict::Pass;
    };
    let Ok(link) = parse::link(frame, interface) else {
        return Verdict::Pass;
    };
    let Some(AttachedPort { id, .. }) = port_of(tables, interface, &link) else {
        return Verdict::Pass;
    };
    let port = tables.port(id);
    ledger.egress = port.device;
    resolve::answer(frame, tables, id, port, &link)
}

/// Counts a frame that left.
#[inline(always)]
pub fn sent<T: Tables>(tables: &T, ledger: &Ledger) {
    if ledger.direction == Direction::Transmit {
        tables.count(ledger.owner, Direction::Transmit, ledger.bytes);
    }
}

/// Counts a frame that could not be handed to its device.
#[inline(always)]
pub fn not_sent<T: Tables>(tables: &T, ledger: &Ledger) -> DropReason {
    if ledger.direction == Direction::Transmit {
        tables.count_drop(
            ledger.owner,
            Direction::Transmit,
            DropReason::TransmitFailed,
        );
    }
    DropReason::TransmitFailed
}

#[inline(always)]
fn from_device<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    interface: &InterfaceEntry,
    ledger: &mut Ledger,
) -> Result<Verdict, DropReason> {
    let Ok(link) = parse::link(frame, interface) else {
        return Ok(Verdict::Pass);
    };
    if let Some(port) = port_of(tables, interface, &link) {
        return from_port(frame, tables, port, link, ledger);
    }
    if interface.flags.contains(InterfaceFlags::UNDERLAY) && !link.is_tagged() && link.unicast_to_us
    {
        return from_underlay(frame, tables, link, ledger);
    }
    Ok(Verdict::Pass)
}

/// The port that a frame belongs to, by its tag.
#[inline(always)]
fn port_of<T: Tables>(tables: &T, interface: &InterfaceEntry, link: &Link) -> Option<AttachedPort> {
    let port = if link.is_tagged() {
        tables.tagged_port(interface.vlans, link.vlan)
    } else {
        interface.untagged
    };
    (port.id != PortId(0)).then_some(port)
}

#[inline(always)]
fn from_underlay<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    link: Link,
    ledger: &mut Ledger,
) -> Result<Verdict, DropReason> {
    // In each arm the family is known, and what is called there is compiled for it.
    let received = match link.ether_type {
        EtherType::IPV4 => demux::receive(frame, tables, parse::outer_v4(frame, link.length)?)?,
        EtherType::IPV6 => demux::receive(frame, tables, parse::outer_v6(frame, link.length)?)?,
        _ => None,
    };
    let Some(received) = received else {
        return Ok(Verdict::Pass);
    };
    match received.header.protocol() {
        EtherType::IPV4 => {
            let inner = parse::inner_v4(frame, received.payload);
            from_site(frame, tables, received, inner, ledger)
        }
        EtherType::IPV6 => {
            let inner = parse::inner_v6(frame, received.payload);
            from_site(frame, tables, received, inner, ledger)
        }
        _ => {
            let inner = Err(DropReason::GreProtocol);
            from_site(frame, tables, received, inner, ledger)
        }
    }
}

/// What a site has sent.
#[inline(always)]
fn from_site<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    received: Received,
    inner: Result<Inner, DropReason>,
    ledger: &mut Ledger,
) -> Result<Verdict, DropReason> {
    let carried = received.end - received.payload;
    let inner = inner.and_then(|inner| inner.within(carried));
    ledger.owner = Owner::Tunnel(received.id);
    ledger.bytes = inner.map_or(carried, |inner| inner.length) as u32;
    tables.count(ledger.owner, Direction::Receive, ledger.bytes);
    decap::check(frame, tables, &received)?;
    let mut inner = inner?;
    decap::combine_ecn(frame, received.tos, &mut inner)?;
    forward::forward(
        frame,
        tables,
        Ingress::Tunnel(received.network),
        inner,
        ledger,
    )
}

#[inline(always)]
fn from_port<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    port: AttachedPort,
    link: Link,
    ledger: &mut Ledger,
) -> Result<Verdict, DropReason> {
    if resolve::is_resolution(frame, &link) {
        return Ok(Verdict::Resolve);
    }
    if !link.unicast_to_us {
        return Ok(Verdict::Pass);
    }
    ledger.owner = Owner::Port(port.id);
    match link.ether_type {
        EtherType::IPV4 => {
            let inner = parse::inner_v4(frame, link.length);
            from_machine(frame, tables, port.network, link, inner, ledger)
        }
        EtherType::IPV6 => {
            let inner = parse::inner_v6(frame, link.length);
            from_machine(frame, tables, port.network, link, inner, ledger)
        }
        _ => Ok(Verdict::Pass),
    }
}

/// What a machine has sent.
#[inline(always)]
fn from_machine<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    network: NetworkId,
    link: Link,
    inner: Result<Inner, DropReason>,
    ledger: &mut Ledger,
) -> Result<Verdict, DropReason> {
    let inner = inner.and_then(|inner| inner.reached_by(frame));
    let bytes = inner.map_or_else(|_| frame.length() - link.length, |inner| inner.length);
    ledger.bytes = bytes as u32;
    tables.count(ledger.owner, Direction::Receive, ledger.bytes);
    forward::forward(frame, tables, Ingress::Port(network), inner?, ledger)
}
