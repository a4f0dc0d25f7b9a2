//! GRE (RFC 2784) with key and sequence number (RFC 2890), over IPv4 and IPv6 (RFC 7676).
//!
//! ```text
//!  |C| |K|S| Reserved0       | Ver | Protocol Type                 |
//!  |      Checksum (optional)      |       Reserved1 (optional)    |
//!  |                         Key (optional)                        |
//!  |                 Sequence Number (optional)                    |
//! ```

use crate::frame::Wire;
use crate::id::EtherType;

/// The four bytes that every GRE header begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GreHeader {
    flags: u8,
    version: u8,
    protocol: [u8; 2],
}

const _: () = assert!(size_of::<GreHeader>() == GreHeader::LENGTH);

// SAFETY: `repr(C)` over bytes only.
unsafe impl Wire for GreHeader {}

impl GreHeader {
    /// Bytes of the header without options.
    pub const LENGTH: usize = 4;
    /// Bytes of each option: checksum with Reserved1, key, sequence number.
    pub const OPTION_LENGTH: usize = 4;
    /// Bit of the first byte: a checksum is present.
    pub const CHECKSUM: u8 = 0x80;
    /// Bit of the first byte: a key is present.
    pub const KEY: u8 = 0x20;
    /// Bit of the first byte: a sequence number is present.
    pub const SEQUENCE: u8 = 0x10;
    /// Bits 1, 4 and 5: a receiver must discard packets with them (RFC 2784 §2.3); bits 6 to 12 it ignores.
    const MUST_BE_ZERO: u8 = 0x4c;

    /// A version 0 header whose first byte has these of the bits above.
    #[inline(always)]
    pub const fn new(flags: u8, protocol: EtherType) -> Self {
        Self {
            flags,
            version: 0,
            protocol: protocol.0.to_be_bytes(),
        }
    }

    /// Whether a checksum is present.
    #[inline(always)]
    pub const fn has_checksum(&self) -> bool {
        self.flags & Self::CHECKSUM != 0
    }

    /// Whether a key is present.
    #[inline(always)]
    pub const fn has_key(&self) -> bool {
        self.flags & Self::KEY != 0
    }

    /// Whether a sequence number is present.
    #[inline(always)]
    pub const fn has_sequence(&self) -> bool {
        self.flags & Self::SEQUENCE != 0
    }

    /// Whether one of the bits is set that a receiver must not accept.
    #[inline(always)]
    pub const fn has_reserved(&self) -> bool {
        self.flags & Self::MUST_BE_ZERO != 0
    }

    /// The version: 0 for GRE, 1 for PPTP (RFC 2637).
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version & 0x07
    }

    /// What the packet carries.
    #[inline(always)]
    pub const fn protocol(&self) -> EtherType {
        EtherType(u16::from_be_bytes(self.protocol))
    }

    /// Offset of the key within the header.
    #[inline(always)]
    pub const fn key_offset(&self) -> usize {
        Self::LENGTH + Self::OPTION_LENGTH * self.has_checksum() as usize
    }

    /// Offset of the sequence number within the header.
    #[inline(always)]
    pub const fn sequence_offset(&self) -> usize {
        self.key_offset() + Self::OPTION_LENGTH * self.has_key() as usize
    }

    /// Bytes of the header with its options: 4 to 16.
    #[inline(always)]
    pub const fn length(&self) -> usize {
        self.sequence_offset() + Self::OPTION_LENGTH * self.has_sequence() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_lie_where_rfc_2890_puts_them() {
        let lengths = [4, 8, 8, 12, 8, 12, 12, 16];
        for (index, length) in lengths.into_iter().enumerate() {
            let (checksum, key, sequence) = (index & 4 != 0, index & 2 != 0, index & 1 != 0);
            let flags = (GreHeader::CHECKSUM * u8::from(checksum))
                | (GreHeader::KEY * u8::from(key))
                | (GreHeader::SEQUENCE * u8::from(sequence));
            let header = GreHeader::new(flags, EtherType::IPV4);
            assert_eq!(header.length(), length);
            assert_eq!(header.key_offset(), if checksum { 8 } else { 4 });
            assert_eq!(
                (
                    header.has_checksum(),
                    header.has_key(),
                    header.has_sequence()
                ),
                (checksum, key, sequence)
            );
            assert!(!header.has_reserved());
        }
    }

    #[test]
    fn only_bits_1_4_and_5_are_refused() {
        for bit in 0..13 {
            let word: u16 = 0x8000 >> bit;
            let [flags, version] = word.to_be_bytes();
            let header = GreHeader {
                flags,
                version,
                protocol: [8, 0],
            };
            assert_eq!(header.has_reserved(), matches!(bit, 1 | 4 | 5), "bit {bit}");
            assert_eq!(header.version(), 0);
        }
    }
}
