//! The routes of one network and family, as the builder remembers them.
//!
//! Sorted first by the node that a route belongs to, so that rebuilding one node reads only its
//! own routes. Holds: prefixes are canonical (no bit set behind their length).

use std::collections::BTreeMap;

use super::Family;

/// A prefix of either family: address bits left-aligned, and their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix {
    pub(super) bits: u128,
    pub(super) length: u8,
}

/// The next hop by prefix. IPv4 keys take 6 bytes, IPv6 keys 18.
pub(super) enum Routes {
    V4(BTreeMap<[u8; 6], u32>),
    V6(BTreeMap<[u8; 18], u32>),
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
    pub(super) fn fill(&mut self, routes: impl Iterator<Item = (Prefix, u32)>) {
        each_family!(self, map => *map = routes.map(|(prefix, hop)| (pack(prefix), hop)).collect());
    }

    pub(super) fn len(&self) -> usize {
        each_family!(self, map => map.len())
    }

    pub(super) fn get(&self, prefix: Prefix) -> Option<u32> {
        each_family!(self, map => map.get(&pack(prefix)).copied())
    }

    /// Sets or (`None`) removes a route; returns what was there.
    pub(super) fn set(&mut self, prefix: Prefix, next_hop: Option<u32>) -> Option<u32> {
        each_family!(self, map => match next_hop {
            Some(hop) => map.insert(pack(prefix), hop),
            None => map.remove(&pack(prefix)),
        })
    }

    /// All routes, sorted by level, address and length.
    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = (Prefix, u32)> + '_> {
        each_family!(self, map => Box::new(map.iter().map(|(key, hop)| (unpack(key), *hop))))
    }

    /// The routes below `node` that end within the 8 bits behind it, a covering one before those
    /// it covers. `node.length` is a multiple of 8.
    pub(super) fn of_node(&self, node: Prefix) -> Vec<(Prefix, u32)> {
        let first = Prefix {
            bits: node.bits,
            length: node.length + 1,
        };
        let last = Prefix {
            bits: node.bits | u128::MAX.checked_shr(u32::from(node.length)).unwrap_or(0),
            length: node.length + 8,
        };
        each_family!(self, map => map
            .range(pack(first)..=pack(last))
            .map(|(key, hop)| (unpack(key), *hop))
            .collect())
    }

    /// The longest route among lengths 1 to `prefix.length` that covers `prefix`.
    pub(super) fn covering(&self, prefix: Prefix) -> Option<u32> {
        (1..=prefix.length)
            .rev()
            .find_map(|length| self.get(prefix.cut(length)))
    }
}

impl Prefix {
    /// The prefix of `length` bits that covers this one.
    pub(super) fn cut(self, length: u8) -> Self {
        let behind = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        Self {
            bits: self.bits & !behind,
            length,
        }
    }
}

/// Level (the node's depth in bytes), address, length.
fn pack<const BYTES: usize>(prefix: Prefix) -> [u8; BYTES] {
    let mut key = [0; BYTES];
    key[0] = prefix.length.saturating_sub(1) / 8;
    key[1..BYTES - 1].copy_from_slice(&prefix.bits.to_be_bytes()[..BYTES - 2]);
    key[BYTES - 1] = prefix.length;
    key
}

fn unpack<const BYTES: usize>(key: &[u8; BYTES]) -> Prefix {
    let mut bits = [0; 16];
    bits[..BYTES - 2].copy_from_slice(&key[1..BYTES - 1]);
    Prefix {
        bits: u128::from_be_bytes(bits),
        length: key[BYTES - 1],
    }
}
