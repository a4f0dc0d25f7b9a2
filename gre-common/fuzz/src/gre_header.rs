//! [`GreHeader`] against the bit positions of RFC 2784 §2 and RFC 2890 §2, read from the first word as a number.

use gre_common::{frame::Frame, frame::SliceFrame, wire::gre::GreHeader};

/// The bytes are the GRE header, behind 14 bytes of Ethernet.
pub(crate) fn run(bytes: &[u8]) {
    let mut packet = vec![0; 14];
    packet.extend_from_slice(bytes);
    let mut memory = vec![0; SliceFrame::HEADROOM + packet.len()];
    let frame = SliceFrame::new(&mut memory, &packet).expect("the memory is sized for it");
    let Ok(header) = frame.read::<GreHeader>(14) else {
        assert!(bytes.len() < 4);
        return;
    };

    let word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    // The RFCs number bits from the most significant one.
    let bit = |number: u32| word >> (31 - number) & 1 == 1;
    assert_eq!(header.has_checksum(), bit(0));
    assert_eq!(header.has_key(), bit(2));
    assert_eq!(header.has_sequence(), bit(3));
    assert_eq!(header.has_reserved(), bit(1) || bit(4) || bit(5));
    assert_eq!(u32::from(header.version()), word >> 16 & 7);
    assert_eq!(u32::from(header.protocol().0), word & 0xffff);

    let options = [bit(0), bit(2), bit(3)]
        .into_iter()
        .filter(|present| *present)
        .count();
    assert_eq!(header.length(), 4 + 4 * options);
    assert_eq!(header.key_offset(), if bit(0) { 8 } else { 4 });
}
