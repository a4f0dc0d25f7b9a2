//! Wraps a packet into the outer headers of a tunnel (RFC 2784, RFC 2890, RFC 7676).
//!
//! Called by `forward` once the route leads into a tunnel; drops are charged to that tunnel. The head is moved once, by
//! the difference between old and new headers.

use crate::checksum::{self, Sum};
use crate::counters::{Ledger, Owner};
use crate::entry::{AdjacencyEntry, TunnelEntry, TunnelFlags};
use crate::frame::{Frame, Truncated};
use crate::id::{EtherType, Family, IpProto, TunnelId};
use crate::tables::{SequenceCell, Tables};
use crate::verdict::{DropReason, Verdict};
use crate::wire::ether::EthernetHeader;
use crate::wire::gre::GreHeader;
use crate::wire::ip::{IPV4_LENGTH, IPV6_LENGTH, Ipv4Hdr, Ipv6Hdr, ecn, ipv6_first_word};

use super::parse::Inner;
use super::{forward, group};

/// Takes one hop off the packet (RFC 1812 §5.3.1, RFC 8200 §3).
#[inline(always)]
pub(super) fn decrement_ttl<F: Frame>(frame: &mut F, inner: &mut Inner) -> Result<(), DropReason> {
    if inner.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    set_ttl(frame, inner, inner.ttl - 1)?;
    Ok(())
}

/// Writes TTL or hop limit and keeps the IPv4 header checksum true.
#[inline(always)]
pub(super) fn set_ttl<F: Frame>(
    frame: &mut F,
    inner: &mut Inner,
    ttl: u8,
) -> Result<(), Truncated> {
    match inner.destination.family() {
        Family::V4 => {
            let [old, protocol, sum @ ..]: [u8; 4] = frame.read(inner.offset + 8)?;
            let [high, low] = checksum::update(sum, [old, protocol], [ttl, protocol]);
            frame.write(inner.offset + 8, [ttl, protocol, high, low])?;
        }
        Family::V6 => frame.write(inner.offset + 6, [inner.protocol.0, ttl])?,
    }
    inner.ttl = ttl;
    Ok(())
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
    let tunnel = tables.tunnel(id).ok_or(DropReason::MissingEntry)?;
    // Read once: the daemon may change them while headers are being written, which must keep the length they have.
    let flags = tunnel.flags;
    let overhead = TunnelEntry::overhead(flags) as usize;
    let adjacency = usable_adjacency(tables, tunnel, inner, flags, overhead)?;
    let sequence = if flags.contains(TunnelFlags::SEQUENCE) {
        tables.sequence(id).ok_or(DropReason::MissingEntry)?.next()
    } else {
        0
    };
    let (ether_type, ip_length) = if flags.contains(TunnelFlags::OUTER_V6) {
        let label = flow_label(frame, inner);
        forward::reframe(frame, inner, EthernetHeader::LENGTH + overhead)?;
        write_ipv6(frame, tunnel, flags, inner, overhead, label)?;
        (EtherType::IPV6, IPV6_LENGTH)
    } else {
        forward::reframe(frame, inner, EthernetHeader::LENGTH + overhead)?;
        write_ipv4(frame, tunnel, flags, inner, overhead)?;
        (EtherType::IPV4, IPV4_LENGTH)
    };
    let offset = EthernetHeader::LENGTH + ip_length;
    write_gre(frame, tunnel.transmit_key, flags, inner, sequence, offset)?;
    frame.write(
        0,
        EthernetHeader::new(adjacency.destination, adjacency.source, ether_type),
    )?;
    ledger.egress = adjacency.device;
    Ok(Verdict::Transmit)
}

/// The layer-2 rewrite towards the remote, if the packet may be sent there.
#[inline(always)]
fn usable_adjacency<T: Tables>(
    tables: &T,
    tunnel: &TunnelEntry,
    inner: &Inner,
    flags: TunnelFlags,
    overhead: usize,
) -> Result<AdjacencyEntry, DropReason> {
    if !flags.contains(TunnelFlags::IN_USE) {
        return Err(DropReason::MissingEntry);
    }
    if inner.length > tunnel.mtu as usize {
        return Err(DropReason::ExceedsTunnelMtu);
    }
    let adjacency = tables
        .adjacency(tunnel.adjacency)
        .ok_or(DropReason::MissingEntry)?;
    if adjacency.resolved == 0 {
        return Err(DropReason::AdjacencyUnresolved);
    }
    if inner.length + overhead > adjacency.mtu as usize {
        return Err(DropReason::ExceedsUnderlayMtu);
    }
    Ok(*adjacency)
}

#[inline(always)]
fn write_ipv4<F: Frame>(
    frame: &mut F,
    tunnel: &TunnelEntry,
    flags: TunnelFlags,
    inner: &Inner,
    overhead: usize,
) -> Result<(), Truncated> {
    let (tos, ttl) = (
        outer_tos(tunnel, flags, inner),
        outer_ttl(tunnel, flags, inner),
    );
    let length = ((inner.length + overhead) as u16).to_be_bytes();
    let [l0, l1, l2, l3, ..] = tunnel.local;
    let [r0, r1, r2, r3, ..] = tunnel.remote;
    let check = Sum(tunnel.header_sum.into())
        .add([0, tos])
        .add(length)
        .add([ttl, 0])
        .checksum();
    frame.write(
        EthernetHeader::LENGTH,
        Ipv4Hdr {
            vihl: TunnelEntry::IPV4_VERSION_IHL,
            tos,
            tot_len: length,
            id: [0, 0],
            frags: TunnelEntry::IPV4_DONT_FRAGMENT,
            ttl,
            proto: IpProto::GRE.0,
            check,
            src_addr: [l0, l1, l2, l3],
            dst_addr: [r0, r1, r2, r3],
        },
    )
}

#[inline(always)]
fn write_ipv6<F: Frame>(
    frame: &mut F,
    tunnel: &TunnelEntry,
    flags: TunnelFlags,
    inner: &Inner,
    overhead: usize,
    label: u32,
) -> Result<(), Truncated> {
    let payload = inner.length + overhead - IPV6_LENGTH;
    frame.write(
        EthernetHeader::LENGTH,
        Ipv6Hdr {
            vcf: ipv6_first_word(outer_tos(tunnel, flags, inner), label),
            payload_len: (payload as u16).to_be_bytes(),
            next_hdr: IpProto::GRE.0,
            hop_limit: outer_ttl(tunnel, flags, inner),
            src_addr: tunnel.local,
            dst_addr: tunnel.remote,
        },
    )
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

#[inline(always)]
fn write_gre<F: Frame>(
    frame: &mut F,
    transmit_key: u32,
    flags: TunnelFlags,
    inner: &Inner,
    sequence: u32,
    offset: usize,
) -> Result<(), DropReason> {
    let header = GreHeader::new(
        flags.contains(TunnelFlags::CHECKSUM),
        flags.contains(TunnelFlags::KEY),
        flags.contains(TunnelFlags::SEQUENCE),
        inner.destination.family().ether_type(),
    );
    frame.write(offset, header)?;
    if flags.contains(TunnelFlags::CHECKSUM) {
        frame.write(offset + GreHeader::LENGTH, [0u8; GreHeader::OPTION_LENGTH])?;
    }
    if flags.contains(TunnelFlags::KEY) {
        frame.write(offset + header.key_offset(), transmit_key.to_be_bytes())?;
    }
    if flags.contains(TunnelFlags::SEQUENCE) {
        frame.write(offset + header.sequence_offset(), sequence.to_be_bytes())?;
    }
    if flags.contains(TunnelFlags::CHECKSUM) {
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
