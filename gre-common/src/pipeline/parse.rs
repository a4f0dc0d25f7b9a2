//! Reads the headers and hands on what later stages need of them.
//!
//! Called by the entry points in `mod.rs`. Offsets in the records are from the beginning of the frame and stay valid
//! until the head is moved, which only the last stage does.

use crate::bound;
use crate::checksum::Sum;
use crate::entry::InterfaceEntry;
use crate::frame::{Frame, Truncated};
use crate::id::{Address, EtherType, Family, IpProto, MacAddress, VlanId};
use crate::verdict::DropReason;
use crate::wire::ether::{EthernetHeader, VlanTag};
use crate::wire::ip::{
    IPV4_LENGTH, IPV4_WITHOUT_OPTIONS, IPV6_LENGTH, Ipv4Ext, Ipv4Hdr, Ipv6Ext, Ipv6Hdr,
};

/// The layer-2 part of a frame. In this order the address is aligned on the stack, which the verifier wants.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Sender of the frame.
    pub source: MacAddress,
    /// What the frame carries, behind a tag if there is one.
    pub ether_type: EtherType,
    /// The tag's VLAN; 0: no tag, or a priority tag, which is the same (IEEE 802.1Q §9.6).
    pub vlan: VlanId,
    /// Bytes before the layer-3 header: 14 or 18.
    pub length: usize,
    /// Whether the frame is addressed to the device's own address.
    pub unicast_to_us: bool,
}

/// The outer IP header of a packet that carries GRE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outer {
    /// Source: a tunnel's remote.
    pub remote: Address,
    /// Destination: a tunnel's local address.
    pub local: Address,
    /// TOS or traffic class.
    pub tos: u8,
    /// Offset of the GRE header.
    pub gre: usize,
    /// Offset of the first byte behind the IP packet.
    pub end: usize,
    /// Offset of an IPv4 header and its length with options; for IPv6 its length is 0.
    pub header: (usize, usize),
    /// Whether the packet is a fragment.
    pub fragment: bool,
}

/// The packet to forward. In this order the single bytes share an aligned word on the stack, which the verifier wants.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Inner {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Offset of its IP header.
    pub offset: usize,
    /// Its length in bytes.
    pub length: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
}

/// What a packet carries. Few need it, and read their header a second time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    /// Protocol or next header.
    pub protocol: IpProto,
    /// Offset of the first byte behind the IP header; IPv6 without extension headers.
    pub offset: usize,
    /// Whether the packet is an IPv4 fragment.
    pub fragment: bool,
}

impl Link {
    /// Whether the frame belongs to a VLAN.
    #[inline(always)]
    pub(super) const fn is_tagged(&self) -> bool {
        self.vlan.0 != 0
    }
}

impl Inner {
    /// The packet, which may be shorter than the `bytes` that GRE carried, but not longer.
    #[inline(always)]
    pub(super) fn within(self, bytes: usize) -> Result<Self, DropReason> {
        if self.length > bytes {
            return Err(DropReason::InnerMalformed);
        }
        Ok(self)
    }

    /// The packet, all of which the frame must have.
    #[inline(always)]
    pub(super) fn reached_by<F: Frame>(self, frame: &F) -> Result<Self, DropReason> {
        if !frame.reaches(self.offset + self.length) {
            return Err(DropReason::Truncated);
        }
        Ok(self)
    }
}

/// Reads the Ethernet header and a VLAN tag.
#[inline(always)]
pub(super) fn link<F: Frame>(frame: &F, interface: &InterfaceEntry) -> Result<Link, Truncated> {
    let header: EthernetHeader = frame.read(0)?;
    let mut link = Link {
        source: header.addresses().source(),
        ether_type: header.ether_type(),
        vlan: VlanId(0),
        length: EthernetHeader::LENGTH,
        unicast_to_us: header.addresses().are_to(&interface.mac),
    };
    if link.ether_type == EtherType::VLAN {
        let tag: VlanTag = frame.read(EthernetHeader::LENGTH)?;
        link.ether_type = tag.ether_type();
        link.vlan = tag.vlan();
        link.length = EthernetHeader::LENGTH + VlanTag::LENGTH;
    }
    Ok(link)
}

/// Reads an outer IPv4 header; `Ok(None)` if the packet carries something else than GRE.
#[inline(always)]
pub(super) fn outer_v4<F: Frame>(frame: &F, offset: usize) -> Result<Option<Outer>, DropReason> {
    let header: Ipv4Hdr = frame.read(offset)?;
    if IpProto(header.proto) != IpProto::GRE || header.vihl >> 4 != 4 {
        return Ok(None);
    }
    let length = header.header_length();
    Ok(Some(Outer {
        remote: Address::v4(header.src_addr),
        local: Address::v4(header.dst_addr),
        tos: header.tos,
        gre: offset + length,
        end: offset + u16::from_be_bytes(header.tot_len) as usize,
        header: (offset, length),
        fragment: header.is_fragment(),
    }))
}

/// Reads an outer IPv6 header; `Ok(None)` if the packet carries something else than GRE.
#[inline(always)]
pub(super) fn outer_v6<F: Frame>(frame: &F, offset: usize) -> Result<Option<Outer>, DropReason> {
    let header: Ipv6Hdr = frame.read(offset)?;
    if header.vcf[0] >> 4 != 6 {
        return Ok(None);
    }
    let mut gre = offset + IPV6_LENGTH;
    let mut fragment = false;
    if IpProto(header.next_hdr) != IpProto::GRE {
        let behind = behind_options(frame, IpProto(header.next_hdr), gre);
        // Where the frame ends, reading GRE will fail, once it is known whether the packet is the gateway's.
        if behind.protocol() != IpProto::GRE && !behind.is(Behind::END) {
            return Ok(None);
        }
        fragment = behind.is(Behind::FRAGMENT);
        gre = behind.offset;
    }
    Ok(Some(Outer {
        remote: Address::v6(header.src_addr),
        local: Address::v6(header.dst_addr),
        tos: header.traffic_class(),
        gre,
        end: offset + IPV6_LENGTH + u16::from_be_bytes(header.payload_len) as usize,
        header: (offset, 0),
        fragment,
    }))
}

/// Most extension headers that are skipped: one of each kind, and destination options twice (RFC 8200 §4.1).
const EXTENSION_HEADERS: usize = 5;
/// More than all headers that are skipped: none that begins in the second half is read, and none has more than 2048 bytes.
const OFFSETS: usize = 4096;
/// Bytes of a fragment header, and the bits of its second word that are zero in a packet that is whole.
const FRAGMENT_LENGTH: usize = 8;
const FRAGMENT_BITS: u16 = 0xfff9;

/// What follows the IPv6 extension headers. Two numbers of which the verifier knows no more than their bounds: it would walk
/// what comes behind anew for each way through the headers.
#[repr(C)]
#[derive(Clone, Copy)]
struct Behind {
    /// Offset of the first byte behind them.
    offset: usize,
    /// The protocol, and the flags.
    what: u64,
}

impl Behind {
    /// It is a fragment.
    const FRAGMENT: u64 = 1 << 8;
    /// The frame ends within the headers.
    const END: u64 = 1 << 9;

    #[inline(always)]
    const fn is(&self, flag: u64) -> bool {
        self.what & flag != 0
    }

    #[inline(always)]
    const fn protocol(&self) -> IpProto {
        IpProto(self.what as u8)
    }
}

/// Skips hop-by-hop and destination options (RFC 8200 §4.3, §4.6), routing headers that are used up (§4.4), and fragment
/// headers of packets that are whole (RFC 6946). Out of line: few packets have any.
#[inline(never)]
fn behind_options<F: Frame>(frame: &F, first: IpProto, offset: usize) -> Behind {
    let (mut next, mut offset, mut flags) = (first, offset, 0);
    for _ in 0..EXTENSION_HEADERS {
        if !matches!(
            next,
            IpProto::HOP_BY_HOP
                | IpProto::DESTINATION_OPTIONS
                | IpProto::ROUTING
                | IpProto::FRAGMENT
        ) {
            break;
        }
        let header = frame.read::<[u8; 4]>(offset);
        let (Ok([behind, length, high, low]), true) = (header, offset < OFFSETS / 2) else {
            flags = Behind::END;
            break;
        };
        let segments_left = low;
        if next == IpProto::ROUTING && segments_left != 0 {
            break;
        }
        let is_fragment = next == IpProto::FRAGMENT;
        next = IpProto(behind);
        if !is_fragment {
            offset += (length as usize + 1) * 8;
        } else if u16::from_be_bytes([high, low]) & FRAGMENT_BITS == 0 {
            offset += FRAGMENT_LENGTH;
        } else {
            flags = Behind::FRAGMENT;
            break;
        }
    }
    Behind {
        offset: bound::index::<OFFSETS>(offset as u64),
        what: bound::copy(flags | u64::from(next.0)),
    }
}

/// Reads the header of an IPv4 packet to forward.
#[inline(always)]
pub(super) fn inner_v4<F: Frame>(frame: &F, offset: usize) -> Result<Inner, DropReason> {
    let header: Ipv4Hdr = frame.read(offset)?;
    let length = u16::from_be_bytes(header.tot_len) as usize;
    let header_length = if header.vihl == IPV4_WITHOUT_OPTIONS {
        IPV4_LENGTH
    } else if header.vihl >> 4 != 4 {
        return Err(DropReason::InnerVersion);
    } else {
        header.header_length()
    };
    if header_length < IPV4_LENGTH || length < header_length {
        return Err(DropReason::InnerMalformed);
    }
    if !header_sum_is_correct(frame, offset, header_length)? {
        return Err(DropReason::InnerChecksum);
    }
    Ok(Inner {
        source: Address::v4(header.src_addr),
        destination: Address::v4(header.dst_addr),
        offset,
        length,
        ttl: header.ttl,
        tos: header.tos,
    })
}

/// Reads the header of an IPv6 packet to forward.
#[inline(always)]
pub(super) fn inner_v6<F: Frame>(frame: &F, offset: usize) -> Result<Inner, DropReason> {
    let header: Ipv6Hdr = frame.read(offset)?;
    if header.vcf[0] >> 4 != 6 {
        return Err(DropReason::InnerVersion);
    }
    Ok(Inner {
        source: Address::v6(header.src_addr),
        destination: Address::v6(header.dst_addr),
        offset,
        length: IPV6_LENGTH + u16::from_be_bytes(header.payload_len) as usize,
        ttl: header.hop_limit,
        tos: header.traffic_class(),
    })
}

/// What the packet carries.
#[inline(always)]
pub(super) fn payload<F: Frame>(frame: &F, inner: &Inner) -> Result<Payload, Truncated> {
    match inner.destination.family() {
        Family::V4 => {
            let header: Ipv4Hdr = frame.read(inner.offset)?;
            Ok(Payload {
                protocol: IpProto(header.proto),
                offset: inner.offset + header.header_length(),
                fragment: header.is_fragment(),
            })
        }
        Family::V6 => {
            let [next_header, _]: [u8; 2] = frame.read(inner.offset + 6)?;
            Ok(Payload {
                protocol: IpProto(next_header),
                offset: inner.offset + IPV6_LENGTH,
                fragment: false,
            })
        }
    }
}

/// Whether the checksum of an IPv4 header with its options is correct (RFC 1812 §5.2.2).
#[inline(always)]
pub(super) fn header_sum_is_correct<F: Frame>(
    frame: &F,
    offset: usize,
    length: usize,
) -> Result<bool, Truncated> {
    // Whole words: the fields one by one take three times the instructions.
    let words: [[u8; 4]; IPV4_LENGTH / 4] = frame.read(offset)?;
    let [a, b, c, d, e] = words;
    let mut sum = Sum(0).add_4(a).add_4(b).add_4(c).add_4(d).add_4(e);
    if length > IPV4_LENGTH {
        sum = sum.join(frame.sum(offset + IPV4_LENGTH, length - IPV4_LENGTH)?);
    }
    Ok(sum.is_correct())
}
