//! The Internet checksum: the only checksum code of the gateway.
//!
//! Sums are kept in the byte order of the host, which one's complement arithmetic allows (RFC 1071 §2 (B)): words are
//! added as they lie in memory, and the result is stored as it is.

/// A one's complement sum that is not folded yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(pub u64);

impl Sum {
    /// Adds one 16-bit word as it lies in the packet.
    #[inline(always)]
    pub const fn add(self, word: [u8; 2]) -> Self {
        Self(self.0 + u16::from_ne_bytes(word) as u64)
    }

    /// Adds two 16-bit words as they lie in the packet.
    #[inline(always)]
    pub const fn add_4(self, words: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(words) as u64)
    }

    /// Adds an address as it lies in the packet.
    #[inline(always)]
    pub const fn add_16(self, bytes: [u8; 16]) -> Self {
        let words = u128::from_ne_bytes(bytes);
        let (low, high) = (words as u64, (words >> 64) as u64);
        Self(self.0 + (low & 0xffff_ffff) + (low >> 32) + (high & 0xffff_ffff) + (high >> 32))
    }

    /// Adds bytes from an even offset; an odd last byte counts as if a zero followed (RFC 1071 §4.1).
    pub fn add_bytes(mut self, bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(4);
        for word in words.by_ref() {
            self = self.add_4([word[0], word[1], word[2], word[3]]);
        }
        let rest = words.remainder();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        self.add_4(last)
    }

    /// Both sums together.
    #[inline(always)]
    pub const fn join(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum as 16 bits, in host order.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        // The compiler leaves steps out for sums that it knows to be small.
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum + (sum >> 16)) as u16
    }

    /// The checksum field, as it lies in the packet.
    #[inline(always)]
    pub const fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// Whether data that includes its checksum field sums up as correct (RFC 1071 §1 (3)).
    #[inline(always)]
    pub const fn is_correct(self) -> bool {
        self.fold() == 0xffff
    }
}

/// The checksum field after one 16-bit word has changed from `old` to `new` (RFC 1624 §3, equation 3).
#[inline(always)]
pub const fn update(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let sum = !u16::from_ne_bytes(checksum) as u64
        + !u16::from_ne_bytes(old) as u64
        + u16::from_ne_bytes(new) as u64;
    Sum(sum).checksum()
}

/// The checksum field after one 16-bit word has been decreased by `less`, without underflow (RFC 1141, with the correction
/// of RFC 1624 §4: the result is never the other zero).
#[inline(always)]
pub const fn decrease(checksum: [u8; 2], less: [u8; 2]) -> [u8; 2] {
    let sum = u16::from_ne_bytes(checksum) as u32 + u16::from_ne_bytes(less) as u32;
    ((sum + ((sum + 1) >> 16)) as u16).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §1, to the letter: add 16-bit words in network order with end-around carry.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn sum_agrees_with_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(u16::from_be_bytes(Sum::default().add_bytes(&bytes).checksum()), !plain(&bytes));
        }

        #[test]
        fn sums_join_at_even_offsets(bytes in proptest::collection::vec(any::<u8>(), 2..300), at in 0usize..150) {
            let (left, right) = bytes.split_at((at * 2).min(bytes.len() & !1));
            let joined = Sum::default().add_bytes(left).join(Sum::default().add_bytes(right));
            prop_assert_eq!(joined.checksum(), Sum::default().add_bytes(&bytes).checksum());
        }

        #[test]
        fn a_decrease_equals_an_update(checksum: [u8; 2], old: [u8; 2]) {
            let [ttl, protocol] = old;
            if let Some(less) = ttl.checked_sub(1) {
                prop_assert_eq!(decrease(checksum, [1, 0]), update(checksum, old, [less, protocol]));
            }
        }

        #[test]
        fn an_update_equals_a_fresh_sum(mut bytes in proptest::collection::vec(any::<u8>(), 20), word in 0usize..10, new: [u8; 2]) {
            // An all-zero message is the one case where the two representations of zero may differ (RFC 1624 §2).
            bytes[19] |= 1;
            prop_assume!(word != 9);
            let before = Sum::default().add_bytes(&bytes).checksum();
            let old = [bytes[word * 2], bytes[word * 2 + 1]];
            bytes[word * 2..word * 2 + 2].copy_from_slice(&new);
            prop_assert_eq!(update(before, old, new), Sum::default().add_bytes(&bytes).checksum());
        }

        #[test]
        fn data_with_its_checksum_is_correct(mut bytes in proptest::collection::vec(any::<u8>(), 4..100), flip in 0usize..100) {
            bytes[..2].fill(0);
            let checksum = Sum::default().add_bytes(&bytes).checksum();
            bytes[..2].copy_from_slice(&checksum);
            prop_assert!(Sum::default().add_bytes(&bytes).is_correct());
            let at = flip % bytes.len();
            bytes[at] ^= 0x10;
            prop_assert!(!Sum::default().add_bytes(&bytes).is_correct());
        }
    }
}
