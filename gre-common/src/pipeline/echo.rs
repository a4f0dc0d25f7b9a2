//! Answers echo requests to the gateway's own addresses (RFC 1122 §3.2.2.6, RFC 4443 §4.2).
//!
//! Called by `forward` when the route leads to the gateway itself; the reply is then routed like any packet.

use crate::checksum;
use crate::frame::{Frame, Truncated};
use crate::id::{Family, IpProto};
use crate::verdict::DropReason;
use crate::wire::icmp::IcmpHeader;

use super::encap;
use super::parse::{self, Inner, Payload};

/// TTL and hop limit of replies.
const TTL: u8 = 64;

/// Bytes of an echo message without data: header, identifier, sequence number.
const ECHO_LENGTH: usize = 8;

/// Turns a request into its reply in place; whatever is not a request is refused.
#[inline(never)]
pub(super) fn reply<F: Frame>(frame: &mut F, inner: &mut Inner) -> Result<(), DropReason> {
    let payload = behind_options(frame, inner)?;
    let reply = match (inner.destination.family(), payload.protocol) {
        (Family::V4, IpProto::ICMP) => IcmpHeader::ECHO_REPLY,
        (Family::V6, IpProto::ICMPV6) => IcmpHeader::ECHO_REPLY_V6,
        _ => return Err(DropReason::LocalUnsupported),
    };
    let offset = payload.offset;
    if inner.offset + inner.length < offset + ECHO_LENGTH {
        return Err(DropReason::LocalUnsupported);
    }
    let header: IcmpHeader = frame.read(offset)?;
    let is_request = matches!(
        (reply, header.kind),
        (IcmpHeader::ECHO_REPLY, IcmpHeader::ECHO_REQUEST)
            | (IcmpHeader::ECHO_REPLY_V6, IcmpHeader::ECHO_REQUEST_V6)
    );
    if !is_request || header.code != 0 || payload.fragment {
        return Err(DropReason::LocalUnsupported);
    }
    if !is_intact(frame, inner, offset)? {
        return Err(DropReason::EchoChecksum);
    }
    let checksum = checksum::update(header.checksum, [header.kind, 0], [reply, 0]);
    frame.write(
        offset,
        IcmpHeader {
            kind: reply,
            code: 0,
            checksum,
        },
    )?;
    // Exchanging the addresses changes no checksum: all sums are commutative.
    let (source, destination) = (inner.source, inner.destination);
    match destination.family() {
        Family::V4 => {
            frame.write(inner.offset + 12, destination.to_v4())?;
            frame.write(inner.offset + 16, source.to_v4())?;
        }
        Family::V6 => {
            frame.write(inner.offset + 8, destination.to_bytes())?;
            frame.write(inner.offset + 24, source.to_bytes())?;
        }
    }
    (inner.source, inner.destination) = (destination, source);
    encap::set_ttl(frame, inner, TTL)?;
    Ok(())
}

/// What the packet carries, behind IPv6 hop-by-hop options, too (RFC 8200 §4.3).
#[inline(always)]
fn behind_options<F: Frame>(frame: &F, inner: &Inner) -> Result<Payload, Truncated> {
    let mut payload = parse::payload(frame, inner)?;
    if matches!(inner.destination.family(), Family::V6) && payload.protocol == IpProto::HOP_BY_HOP {
        let [next_header, length]: [u8; 2] = frame.read(payload.offset)?;
        payload.protocol = IpProto(next_header);
        payload.offset += (length as usize + 1) * 8;
    }
    Ok(payload)
}

/// Whether the checksum of the message from `offset` on is correct (RFC 792; RFC 4443 §2.3, with the pseudo-header of
/// RFC 8200 §8.1).
#[inline(always)]
fn is_intact<F: Frame>(frame: &F, inner: &Inner, offset: usize) -> Result<bool, DropReason> {
    let length = inner.offset + inner.length - offset;
    let sum = frame.sum(offset, length)?;
    Ok(match inner.destination.family() {
        Family::V4 => sum,
        Family::V6 => sum
            .add_16(inner.source.to_bytes())
            .add_16(inner.destination.to_bytes())
            .add_4((length as u32).to_be_bytes())
            .add([0, IpProto::ICMPV6.0]),
    }
    .is_correct())
}
