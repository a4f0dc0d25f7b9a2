//! What a packet from a tunnel must satisfy before its payload is believed: checksum, sequence number, ECN.
//!
//! Called by `from_site` once the tunnel is known; drops are charged to it.

use crate::checksum;
use crate::frame::Frame;
use crate::id::Family;
use crate::tables::Tables;
use crate::verdict::DropReason;
use crate::wire::ip::{ecn, ipv6_first_word};

use super::demux::Received;
use super::parse::Inner;
use super::sequence;
use crate::entry::TunnelFlags;

/// Checks what the tunnel's options ask for.
#[inline(always)]
pub(super) fn check<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    received: &Received,
) -> Result<(), DropReason> {
    let tunnel = tables.tunnel(received.id);
    if received.header.has_checksum() {
        check_sum(frame, received)?;
    } else if tunnel.flags.contains(TunnelFlags::CHECKSUM) {
        return Err(DropReason::GreChecksumMissing);
    }
    if tunnel.flags.contains(TunnelFlags::SEQUENCE) {
        check_sequence(frame, tables, received)?;
    }
    Ok(())
}

/// The checksum covers the GRE header and its payload up to the end of the outer packet, not padding behind it
/// (RFC 2784 §2.5).
#[inline(always)]
fn check_sum<F: Frame>(frame: &F, received: &Received) -> Result<(), DropReason> {
    let length = received.end - received.gre;
    if !frame.sum(received.gre, length)?.is_correct() {
        return Err(DropReason::GreChecksum);
    }
    Ok(())
}

#[inline(always)]
fn check_sequence<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    received: &Received,
) -> Result<(), DropReason> {
    if !received.header.has_sequence() {
        return Err(DropReason::SequenceMissing);
    }
    let number = u32::from_be_bytes(frame.read(received.gre + received.header.sequence_offset())?);
    let cell = tables
        .sequence(received.id)
        .ok_or(DropReason::MissingEntry)?;
    sequence::accept(cell, number, tables.now())
}

/// Carries a congestion mark of the outer header into the inner one (RFC 6040 §4.2).
#[inline(always)]
pub(super) fn combine_ecn<F: Frame>(
    frame: &mut F,
    outer_tos: u8,
    inner: &mut Inner,
) -> Result<(), DropReason> {
    let marked = combined(outer_tos & ecn::MASK, inner.tos & ecn::MASK)?;
    if marked != inner.tos & ecn::MASK {
        set_tos(frame, inner, (inner.tos & !ecn::MASK) | marked)?;
    }
    Ok(())
}

/// The inner field after decapsulation (RFC 6040 figure 4).
#[inline(always)]
fn combined(outer: u8, inner: u8) -> Result<u8, DropReason> {
    match (inner, outer) {
        (ecn::NOT_CAPABLE, ecn::CONGESTION) => Err(DropReason::EcnForbidden),
        (ecn::CAPABLE_0 | ecn::CAPABLE_1, ecn::CONGESTION) => Ok(ecn::CONGESTION),
        (ecn::CAPABLE_0, ecn::CAPABLE_1) => Ok(ecn::CAPABLE_1),
        _ => Ok(inner),
    }
}

#[inline(always)]
fn set_tos<F: Frame>(frame: &mut F, inner: &mut Inner, tos: u8) -> Result<(), DropReason> {
    match inner.destination.family() {
        Family::V4 => {
            let [version, old]: [u8; 2] = frame.read(inner.offset)?;
            let sum = frame.read(inner.offset + 10)?;
            frame.write(inner.offset, [version, tos])?;
            frame.write(
                inner.offset + 10,
                checksum::update(sum, [version, old], [version, tos]),
            )?;
        }
        Family::V6 => {
            let label = u32::from_be_bytes(frame.read(inner.offset)?);
            frame.write(inner.offset, ipv6_first_word(tos, label))?;
        }
    }
    inner.tos = tos;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_combines_as_rfc_6040_figure_4() {
        use ecn::{CAPABLE_0 as ECT0, CAPABLE_1 as ECT1, CONGESTION as CE, NOT_CAPABLE as NOT};
        let table = [
            (NOT, [Some(NOT), Some(NOT), Some(NOT), None]),
            (ECT0, [Some(ECT0), Some(ECT0), Some(ECT1), Some(CE)]),
            (ECT1, [Some(ECT1), Some(ECT1), Some(ECT1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT, ECT0, ECT1, CE].into_iter().zip(row) {
                assert_eq!(
                    combined(outer, inner).ok(),
                    expected,
                    "inner {inner:02b} outer {outer:02b}"
                );
            }
        }
    }
}
