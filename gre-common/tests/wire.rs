//! What is written as a header is read back as it was, and reads the same to another parser.

use etherparse::{
    ArpPacketSlice, Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6HeaderSlice, SingleVlanHeaderSlice,
};
use gre_common::checksum::Sum;
use gre_common::frame::{Frame, SliceFrame, Wire};
use gre_common::id::{EtherType, MacAddress, VlanId};
use gre_common::wire::arp::{self, ArpHdr};
use gre_common::wire::ether::{EthernetHeader, LinkAddresses, VlanTag};
use gre_common::wire::gre::GreHeader;
use gre_common::wire::icmp::{IcmpHeader, LinkLayerOption, NeighbourMessage};
use gre_common::wire::ip::{Ipv4Ext, Ipv4Hdr, Ipv6Ext, Ipv6Hdr, ipv6_first_word};
use proptest::prelude::*;

proptest! {
    #[test]
    fn ethernet(destination: [u8; 6], source: [u8; 6], kind: u16) {
        let header = EthernetHeader::new(LinkAddresses::new(&MacAddress(destination), &MacAddress(source)), EtherType(kind));
        let (back, bytes) = round_trip(header);
        prop_assert_eq!(back, header);
        prop_assert_eq!(back.ether_type(), EtherType(kind));
        let other = Ethernet2HeaderSlice::from_slice(&bytes).expect("14 bytes");
        prop_assert_eq!((other.destination(), other.source()), (destination, source));
        prop_assert_eq!(other.ether_type().0, kind);
    }

    #[test]
    fn vlan_tag(vlan in 0u16..4096, kind: u16) {
        let tag = VlanTag::new(VlanId(vlan), EtherType(kind));
        let (back, bytes) = round_trip(tag);
        prop_assert_eq!(back, tag);
        prop_assert_eq!((back.vlan(), back.ether_type()), (VlanId(vlan), EtherType(kind)));
        let other = SingleVlanHeaderSlice::from_slice(&bytes).expect("4 bytes");
        prop_assert_eq!((other.vlan_identifier().value(), other.ether_type().0), (vlan, kind));
    }

    #[test]
    fn vlan_tag_with_priority_and_drop_eligibility(control: u16) {
        let mut memory = [0; SliceFrame::HEADROOM + 14];
        let mut frame = SliceFrame::new(&mut memory, &[0; 14]).expect("fits");
        frame.write(0, control.to_be_bytes()).expect("fits");
        let tag: VlanTag = frame.read(0).expect("14 bytes");
        prop_assert_eq!(tag.vlan(), VlanId(control & 0x0fff));
    }

    #[test]
    fn gre(checksum: bool, key: bool, sequence: bool, kind: u16) {
        let flags = (checksum, key, sequence);
        let byte = u8::from(checksum) << 7 | u8::from(key) << 5 | u8::from(sequence) << 4;
        let header = GreHeader::new(byte, EtherType(kind));
        let (back, bytes) = round_trip(header);
        prop_assert_eq!(back, header);
        prop_assert_eq!((back.has_checksum(), back.has_key(), back.has_sequence()), flags);
        prop_assert_eq!((back.version(), back.has_reserved()), (0, false));
        // RFC 2784 §2 and RFC 2890 §2, bit by bit.
        let word = u16::from(checksum) << 15 | u16::from(key) << 13 | u16::from(sequence) << 12;
        prop_assert_eq!(&bytes[..2], word.to_be_bytes());
        prop_assert_eq!(&bytes[2..], kind.to_be_bytes());
    }

    #[test]
    fn arp_packet(operation: u16, sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) {
        let packet = arp::packet(
            operation,
            (MacAddress(sender.0), sender.1),
            (MacAddress(target.0), target.1),
        );
        prop_assert!(arp::is_ipv4_over_ethernet(&packet));
        let (back, bytes): (ArpHdr, _) = round_trip(packet);
        prop_assert_eq!((back.oper, back.sha, back.spa), (operation.to_be_bytes(), sender.0, sender.1));
        prop_assert_eq!((back.tha, back.tpa), (target.0, target.1));
        let other = ArpPacketSlice::from_slice(&bytes).expect("28 bytes");
        prop_assert_eq!((other.hw_addr_type().0, other.proto_addr_type().0), (1, 0x0800));
        prop_assert_eq!(other.operation().0, operation);
        prop_assert_eq!((other.sender_hw_addr(), other.sender_protocol_addr()), (&sender.0[..], &sender.1[..]));
        prop_assert_eq!((other.target_hw_addr(), other.target_protocol_addr()), (&target.0[..], &target.1[..]));
    }

    #[test]
    fn ipv4(tos: u8, length in 20u16.., id: u16, fragment: u16, ttl: u8, protocol: u8, ends: ([u8; 4], [u8; 4])) {
        let mut header = Ipv4Hdr {
            vihl: 0x45,
            tos,
            tot_len: length.to_be_bytes(),
            id: id.to_be_bytes(),
            frags: (fragment & 0x7fff).to_be_bytes(),
            ttl,
            proto: protocol,
            check: [0; 2],
            src_addr: ends.0,
            dst_addr: ends.1,
        };
        let (_, bytes) = round_trip(header);
        header.check = Sum::default().add_bytes(&bytes).checksum();
        let (back, bytes): (Ipv4Hdr, _) = round_trip(header);
        let other = Ipv4HeaderSlice::from_slice(&bytes).expect("20 bytes").to_header();
        prop_assert_eq!(other.header_checksum, other.calc_header_checksum());
        prop_assert_eq!(back.header_length(), other.header_len());
        prop_assert_eq!(back.is_fragment(), other.is_fragmenting_payload());
        prop_assert_eq!((other.dscp.value() << 2 | other.ecn.value(), other.total_len), (tos, length));
        prop_assert_eq!((other.identification, other.time_to_live, other.protocol.0), (id, ttl, protocol));
        prop_assert_eq!((other.source, other.destination), ends);
    }

    #[test]
    fn ipv6(class: u8, label in 0u32..1 << 20, length: u16, next: u8, hops: u8, ends: ([u8; 16], [u8; 16])) {
        let header = Ipv6Hdr {
            vcf: ipv6_first_word(class, label),
            payload_len: length.to_be_bytes(),
            next_hdr: next,
            hop_limit: hops,
            src_addr: ends.0,
            dst_addr: ends.1,
        };
        let (back, bytes): (Ipv6Hdr, _) = round_trip(header);
        prop_assert_eq!(back.traffic_class(), class);
        let other = Ipv6HeaderSlice::from_slice(&bytes).expect("40 bytes").to_header();
        prop_assert_eq!((other.traffic_class, other.flow_label.value()), (class, label));
        prop_assert_eq!((other.payload_length, other.next_header.0, other.hop_limit), (length, next, hops));
        prop_assert_eq!((other.source, other.destination), ends);
    }

    #[test]
    fn neighbour_discovery(kind: u8, code: u8, checksum: [u8; 2], flags: [u8; 4], target: [u8; 16], mac: [u8; 6]) {
        let message = NeighbourMessage { header: IcmpHeader { kind, code, checksum }, flags, target };
        let (back, bytes) = round_trip(message);
        prop_assert_eq!(back, message);
        // RFC 4861 §4.3: type, code, checksum, four bytes of flags, target.
        prop_assert_eq!(bytes, [&[kind, code][..], &checksum, &flags, &target].concat());
        let option = LinkLayerOption { kind, length: 1, mac: MacAddress(mac) };
        let (back, bytes) = round_trip(option);
        prop_assert_eq!(back, option);
        prop_assert_eq!(bytes, [&[kind, 1][..], &mac].concat());
    }

    #[test]
    fn a_sum_of_header_words_is_the_sum_of_its_bytes(bytes: [u8; 16]) {
        prop_assert_eq!(Sum::default().add_16(bytes).fold(), Sum::default().add_bytes(&bytes).fold());
    }
}

/// Writes a header somewhere into a frame, and returns what is read there and the bytes.
fn round_trip<H: Wire>(header: H) -> (H, Vec<u8>) {
    const OFFSET: usize = 3;
    let mut memory = vec![0xaa; SliceFrame::HEADROOM + 100];
    let mut frame = SliceFrame::new(&mut memory, &[0xaa; 100]).expect("sized for it");
    frame.write(OFFSET, header).expect("100 bytes are enough");
    let end = OFFSET + size_of::<H>();
    assert!(
        frame.bytes()[end..].iter().all(|byte| *byte == 0xaa),
        "nothing behind is written"
    );
    let back = frame.read(OFFSET).expect("it was written there");
    (back, frame.bytes()[OFFSET..end].to_vec())
}
