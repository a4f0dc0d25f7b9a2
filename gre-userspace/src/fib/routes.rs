//! The routes of one network and family, as the builder remembers them.
//!
//! Sorted by address, a covering prefix before those that it covers, so that all routes of a part
//! of the address space lie together. Holds: prefixes are canonical (no bit set behind their
//! length).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::Family;

/// A prefix of either family: address bits left-aligned, and their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix {
    pub(super) bits: u128,
    pub(super) length: u8,
}

/// A prefix and its next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) prefix: Prefix,
    pub(super) next_hop: u32,
}

/// The next hop by prefix. IPv4 keys take 5 bytes, IPv6 keys 17.
pub(super) enum Routes {
    V4(BTreeMap<[u8; 5], u32>),
    V6(BTreeMap<[u8; 17], u32>),
}

macro_rules! each_family {
    ($routes:expr, $map:ident => $body:expr) => {
        match $routes {
            Routes::V4($map) => $body,
            Routes::V6($map) => $body,
        }
    };
}

impl Routes {
    pub(super) fn new(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4(BTreeMap::new()),
            Family::V6 => Self::V6(BTreeMap::new()),
        }
    }

    /// All of `routes` at once.
    pub(super) fn fill(&mut self, routes: &[Route]) {
        let routes = routes.iter();
        each_family!(self, map => {
            *map = routes.map(|route| (pack(route.prefix), route.next_hop)).collect();
        });
    }

    pub(super) fn len(&self) -> usize {
        each_family!(self, map => map.len())
    }

    pub(super) fn get(&self, prefix: Prefix) -> Option<u32> {
        each_family!(self, map => map.get(&pack(prefix)).copied())
    }

    /// Sets or (0) removes a route; returns what was there.
    pub(super) fn set(&mut self, prefix: Prefix, next_hop: u32) -> u32 {
        let before = each_family!(self, map => match next_hop {
            0 => map.remove(&pack(prefix)),
            next_hop => map.insert(pack(prefix), next_hop),
        });
        before.unwrap_or(0)
    }

    /// The routes inside `place` that are longer than it.
    pub(super) fn below(&self, place: Prefix) -> Vec<Route> {
        let first = Prefix {
            bits: place.bits,
            length: place.length + 1,
        };
        let last = Prefix {
            bits: place.bits | place.host_bits(),
            length: u8::MAX,
        };
        each_family!(self, map => map
            .range(pack(first)..=pack(last))
            .map(|(key, hop)| Route { prefix: unpack(key), next_hop: *hop })
            .collect())
    }

    /// The next hop of the longest route that covers `place`, or 0.
    pub(super) fn covering(&self, place: Prefix) -> u32 {
        let mut longest = place;
        // Whatever sorts between a covering prefix and the place lies in the covering one as
        // well: no longer one covers than what the two have in common.
        while let Some(route) = self.last_up_to(longest) {
            match route.prefix.search_from(longest) {
                ControlFlow::Break(()) => return route.next_hop,
                ControlFlow::Continue(shorter) => longest = shorter,
            }
        }
        0
    }

    fn last_up_to(&self, prefix: Prefix) -> Option<Route> {
        each_family!(self, map => map
            .range(..=pack(prefix))
            .next_back()
            .map(|(key, hop)| Route { prefix: unpack(key), next_hop: *hop }))
    }
}

impl Prefix {
    /// Everything.
    pub(super) const ALL: Self = Self { bits: 0, length: 0 };

    /// The prefix of `length` bits that covers this one.
    pub(super) fn cut(self, length: u8) -> Self {
        let behind = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        Self {
            bits: self.bits & !behind,
            length,
        }
    }

    /// The prefix `bits` bits longer, these being `slot`.
    pub(super) fn child(self, slot: usize, bits: u8) -> Self {
        let length = self.length + bits;
        Self {
            bits: self.bits | (slot as u128) << (128 - u32::from(length)),
            length,
        }
    }

    /// The value of the `bits` bits behind the first `from`.
    pub(super) fn slot(self, from: u8, bits: u8) -> usize {
        ((self.bits << from) >> (128 - u32::from(bits))) as usize
    }

    pub(super) fn covers(self, other: Self) -> bool {
        self.length <= other.length && other.cut(self.length) == self
    }

    /// The longest prefix that covers both.
    pub(super) fn common(self, other: Self) -> Self {
        let equal = (self.bits ^ other.bits).leading_zeros() as u8;
        self.cut(equal.min(self.length).min(other.length))
    }

    /// All ones behind the prefix.
    pub(super) fn host_bits(self) -> u128 {
        u128::MAX.checked_shr(u32::from(self.length)).unwrap_or(0)
    }

    /// Found, if this one covers `place`, else where to look on.
    fn search_from(self, place: Self) -> ControlFlow<(), Self> {
        if self.covers(place) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(self.common(place))
        }
    }
}

/// Address, length.
fn pack<const BYTES: usize>(prefix: Prefix) -> [u8; BYTES] {
    let mut key = [0; BYTES];
    let (length, address) = key.split_last_mut().expect("a key has a length");
    address.copy_from_slice(&prefix.bits.to_be_bytes()[..BYTES - 1]);
    *length = prefix.length;
    key
}

fn unpack<const BYTES: usize>(key: &[u8; BYTES]) -> Prefix {
    let mut bits = [0; 16];
    bits[..BYTES - 1].copy_from_slice(&key[..BYTES - 1]);
    Prefix {
        bits: u128::from_be_bytes(bits),
        length: key[BYTES - 1],
    }
}
