//! Finds the tunnel of a GRE packet: by outer addresses and key, never by anything inside (RFC 2890 §2.1).
//!
//! Called by `from_underlay`. Holds: no packet is dropped that is not for one of the gateway's addresses; [`is_ours`] is
//! asked before an error is believed.

use crate::frame::Frame;
use crate::id::{Family, NetworkId, TunnelId};
use crate::key::{DemuxKey, EndpointKey};
use crate::tables::Tables;
use crate::verdict::DropReason;
use crate::wire::gre::GreHeader;
use crate::wire::ip::IPV4_LENGTH;

use super::parse::{self, Outer};

/// A GRE packet of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// The tunnel.
    pub id: TunnelId,
    /// The tunnel's network.
    pub network: NetworkId,
    /// TOS or traffic class of the outer header.
    pub tos: u8,
    /// The first four bytes of the GRE header.
    pub header: GreHeader,
    /// Offset of the GRE header.
    pub gre: usize,
    /// Offset of what it carries.
    pub payload: usize,
    /// Offset of the first byte behind the outer packet.
    pub end: usize,
}

/// A GRE packet, once its outer headers are known to be sound; `None` if it is not for the gateway.
#[inline(always)]
pub(super) fn receive<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    outer: Option<Outer>,
) -> Result<Option<Received>, DropReason> {
    let Some(outer) = outer else {
        return Ok(None);
    };
    match tunnel(frame, tables, &outer) {
        Err(_) if !is_ours(tables, &outer) => Ok(None),
        received => Ok(Some(received?)),
    }
}

#[inline(always)]
fn tunnel<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    outer: &Outer,
) -> Result<Received, DropReason> {
    check_outer(frame, outer)?;
    let gre: GreHeader = frame.read(outer.gre)?;
    if gre.version() != 0 {
        return Err(DropReason::GreVersion);
    }
    if gre.has_reserved() {
        return Err(DropReason::GreReserved);
    }
    let payload = outer.gre + gre.length();
    if payload > outer.end {
        return Err(DropReason::Truncated);
    }
    let (key, has_key) = if gre.has_key() {
        (
            u32::from_be_bytes(frame.read(outer.gre + gre.key_offset())?),
            1,
        )
    } else {
        (0, 0)
    };
    let slot = tables.demux(&DemuxKey {
        remote: outer.remote,
        local: outer.local,
        key,
        has_key,
    });
    let slot = slot.ok_or(DropReason::UnknownTunnel)?;
    Ok(Received {
        id: slot.tunnel(),
        network: slot.network(),
        tos: outer.tos,
        header: gre,
        gre: outer.gre,
        payload,
        end: outer.end,
    })
}

/// Whether the packet's outer destination is one of the gateway's GRE addresses.
#[inline(always)]
fn is_ours<T: Tables>(tables: &T, outer: &Outer) -> bool {
    tables.is_endpoint(&EndpointKey::new(outer.local))
}

#[inline(always)]
fn check_outer<F: Frame>(frame: &F, outer: &Outer) -> Result<(), DropReason> {
    if outer.fragment {
        return Err(DropReason::OuterFragment);
    }
    if outer.local.family() == Family::V4 {
        let (offset, length) = outer.header;
        if length < IPV4_LENGTH {
            return Err(DropReason::OuterMalformed);
        }
        if !parse::header_sum_is_correct(frame, offset, length)? {
            return Err(DropReason::OuterChecksum);
        }
    }
    if !frame.reaches(outer.end) {
        return Err(DropReason::Truncated);
    }
    if outer.end < outer.gre {
        return Err(DropReason::OuterMalformed);
    }
    Ok(())
}
