//! Wraps a packet into the outer headers of a tunnel (RFC 2784, RFC 2890, RFC 7676).
//!
//! Called by `forward` once the route leads into a tunnel; drops are charged to that tunnel. The head is moved once, by
//! the difference between old and new headers.

use crate::checksum::{self, Sum};
use crate::counters::{Ledger, Owner};
use crate::entry::{AdjacencyEntry, TunnelEntry, TunnelFlags};
use crate::frame::{Frame, Truncated, Wire};
use crate::id::{Address, EtherType, Family, IpProto, TunnelId};
use crate::tables::{SequenceCell, Tables};
use crate::verdict::{DropReason, Verdict};
use crate::wire::ether::EthernetHeader;
use crate::wire::gre::GreHeader;
use crate::wire::ip::{IPV4_WITHOUT_OPTIONS, IPV6_LENGTH, Ipv4Hdr, Ipv6Hdr, ecn, ipv6_first_word};

use super::parse::Inner;
use super::{forward, group};

/// Takes one hop off the packet (RFC 1812 §5.3.1, RFC 8200 §3).
#[inline(always)]
pub(super) fn decrement_ttl<F: Frame>(frame: &mut F, inner: &mut Inner) -> Result<(), DropReason> {
    if inner.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    inner.ttl -= 1;
    match inner.destination.family() {
        Family::V4 => {
            let [_, protocol, sum @ ..]: [u8; 4] = frame.read(inner.offset + 8)?;
            let [high, low] = checksum::decrease(sum, [1, 0]);
            frame.write(inner.offset + 8, [inner.ttl, protocol, high, low])?;
        }
        Family::V6 => set_hop_limit(frame, inner)?,
    }
    Ok(())
}

/// Writes TTL or hop limit and keeps the IPv4 header checksum true.
#[inline(always)]
pub(super) fn set_ttl<F: Frame>(
    frame: &mut F,
    inner: &mut Inner,
    ttl: u8,
) -> Result<(), Truncated> {
    inner.ttl = ttl;
    match inner.destination.family() {
        Family::V4 => {
            let [old, protocol, sum @ ..]: [u8; 4] = frame.read(inner.offset + 8)?;
            let [high, low] = checksum::update(sum, [old, protocol], [ttl, protocol]);
            frame.write(inner.offset + 8, [ttl, protocol, high, low])
        }
        Family::V6 => set_hop_limit(frame, inner),
    }
}

#[inline(always)]
fn set_hop_limit<F: Frame>(frame: &mut F, inner: &Inner) -> Result<(), Truncated> {
    let [next_header, _]: [u8; 2] = frame.read(inner.offset + 6)?;
    frame.write(inner.offset + 6, [next_header, inner.ttl])
}

/// Encapsulates the packet and addresses the frame to the tunnel's next hop.
#[inline(always)]
pub(super) fn into_tunnel<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    id: TunnelId,
    inner: &Inner,
    ledger: &mut Ledger,
) -> Result<Verdict, DropReason> {
    ledger.leave_through(Owner::Tunnel(id), inner.length);
    tables.prefetch_count(ledger.owner);
    let tunnel = tables.tunnel(id);
    // Read once: the daemon may change them while headers are being written, which must keep the length they have.
    let flags = tunnel.flags;
    let overhead = flags.overhead();
    let adjacency = usable_adjacency(tables, tunnel, inner, overhead)?;
    let sequence = if flags.contains(TunnelFlags::SEQUENCE) {
        tables.sequence(id).ok_or(DropReason::MissingEntry)?.next()
    } else {
        0
    };
    if flags.contains(TunnelFlags::OUTER_V6) {
        let label = flow_label(frame, inner);
        forward::reframe(frame, inner, EthernetHeader::LENGTH + overhead)?;
        let headers = Headers {
            ethernet: EthernetHeader::new(adjacency.addresses, EtherType::IPV6),
            ip: ipv6(tunnel, flags, inner, overhead, label),
            gre: GreHeader::new(flags.gre(), inner.destination.family().ether_type()),
        };
        write(frame, headers, tunnel, flags, inner, sequence)?;
    } else {
        forward::reframe(frame, inner, EthernetHeader::LENGTH + overhead)?;
        let headers = Headers {
            ethernet: EthernetHeader::new(adjacency.addresses, EtherType::IPV4),
            ip: ipv4(tunnel, flags, inner, overhead),
            gre: GreHeader::new(flags.gre(), inner.destination.family().ether_type()),
        };
        write(frame, headers, tunnel, flags, inner, sequence)?;
    }
    ledger.egress = adjacency.device;
    Ok(Verdict::Transmit)
}

/// What every packet into a tunnel begins with.
#[repr(C)]
#[derive(Clone, Copy)]
struct Headers<I> {
    ethernet: EthernetHeader,
    ip: I,
    gre: GreHeader,
}

/// The same with a key.
#[repr(C)]
#[derive(Clone, Copy)]
struct Keyed<I> {
    headers: Headers<I>,
    key: [u8; GreHeader::OPTION_LENGTH],
}

// SAFETY: `repr(C)` over headers, which have alignment 1 and no padding, and for which any bytes are valid.
unsafe impl<I: Wire> Wire for Headers<I> {}
// SAFETY: as above.
unsafe impl<I: Wire> Wire for Keyed<I> {}

/// The layer-2 rewrite towards the remote, if the packet may be sent there. What is not in use or not resolved carries
/// no packet of any size.
#[inline(always)]
fn usable_adjacency<'t, T: Tables>(
    tables: &'t T,
    tunnel: &TunnelEntry,
    inner: &Inner,
    overhead: usize,
) -> Result<&'t AdjacencyEntry, DropReason> {
    if inner.length > tunnel.mtu as usize {
        return Err(if tunnel.flags.contains(TunnelFlags::IN_USE) {
            DropReason::ExceedsTunnelMtu
        } else {
            DropReason::MissingEntry
        });
    }
    let adjacency = tables.adjacency(tunnel.adjacency);
    if inner.length + overhead > adjacency.mtu as usize {
        return Err(if adjacency.mtu > 0 {
            DropReason::ExceedsUnderlayMtu
        } else {
            DropReason::AdjacencyUnresolved
        });
    }
    Ok(adjacency)
}

#[inline(always)]
fn ipv4(tunnel: &TunnelEntry, flags: TunnelFlags, inner: &Inner, overhead: usize) -> Ipv4Hdr {
    let (tos, ttl) = (
        outer_tos(tunnel, flags, inner),
        outer_ttl(tunnel, flags, inner),
    );
    let tot_len = ((inner.length + overhead) as u16).to_be_bytes();
    let check = Sum(tunnel.header_sum.into())
        .add([0, tos])
        .add(tot_len)
        .add([ttl, 0])
        .checksum();
    Ipv4Hdr {
        vihl: IPV4_WITHOUT_OPTIONS,
        tos,
        tot_len,
        id: [0, 0],
        frags: TunnelEntry::IPV4_DONT_FRAGMENT,
        ttl,
        proto: IpProto::GRE.0,
        check,
        src_addr: Address::v6(tunnel.local).to_v4(),
        dst_addr: Address::v6(tunnel.remote).to_v4(),
    }
}

#[inline(always)]
fn ipv6(
    tunnel: &TunnelEntry,
    flags: TunnelFlags,
    inner: &Inner,
    overhead: usize,
    label: u32,
) -> Ipv6Hdr {
    let payload = inner.length + overhead - IPV6_LENGTH;
    Ipv6Hdr {
        vcf: ipv6_first_word(outer_tos(tunnel, flags, inner), label),
        payload_len: (payload as u16).to_be_bytes(),
        next_hdr: IpProto::GRE.0,
        hop_limit: outer_ttl(tunnel, flags, inner),
        src_addr: tunnel.local,
        dst_addr: tunnel.remote,
    }
}

/// The inner DSCP or the tunnel's, always with the inner ECN field (RFC 6040 §4.1, normal mode).
#[inline(always)]
fn outer_tos(tunnel: &TunnelEntry, flags: TunnelFlags, inner: &Inner) -> u8 {
    if flags.contains(TunnelFlags::INHERIT_TOS) {
        inner.tos
    } else {
        tunnel.tos | inner.tos & ecn::MASK
    }
}

#[inline(always)]
fn outer_ttl(tunnel: &TunnelEntry, flags: TunnelFlags, inner: &Inner) -> u8 {
    if flags.contains(TunnelFlags::INHERIT_TTL) {
        inner.ttl
    } else {
        tunnel.ttl
    }
}

/// Writes the headers and what the last of them says to follow it; most tunnels have at most a key.
#[inline(always)]
fn write<F: Frame, I: Wire>(
    frame: &mut F,
    headers: Headers<I>,
    tunnel: &TunnelEntry,
    flags: TunnelFlags,
    inner: &Inner,
    sequence: u32,
) -> Result<(), DropReason> {
    let key = tunnel.transmit_key.to_be_bytes();
    if flags.gre() == GreHeader::KEY {
        frame.write(0, Keyed { headers, key })?;
        return Ok(());
    }
    frame.write(0, headers)?;
    let offset = size_of::<Headers<I>>() - GreHeader::LENGTH;
    let header = headers.gre;
    if flags.contains(TunnelFlags::KEY) {
        frame.write(offset + header.key_offset(), key)?;
    }
    if flags.contains(TunnelFlags::SEQUENCE) {
        frame.write(offset + header.sequence_offset(), sequence.to_be_bytes())?;
    }
    if flags.contains(TunnelFlags::CHECKSUM) {
        frame.write(offset + GreHeader::LENGTH, [0u8; GreHeader::OPTION_LENGTH])?;
        let sum = frame.sum(offset, header.length() + inner.length)?;
        frame.write(offset + GreHeader::LENGTH, sum.checksum())?;
    }
    Ok(())
}

/// Entropy for load sharing on the way: equal for the packets of one flow (RFC 6438, RFC 7676 §4). Never 0, which would
/// mean "no label".
#[inline(always)]
fn flow_label<F: Frame>(frame: &F, inner: &Inner) -> u32 {
    // Other bits than those by which a group has chosen this tunnel.
    ((group::flow(frame, *inner) >> 44) as u32).max(1)
}
