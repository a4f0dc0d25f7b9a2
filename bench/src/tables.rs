//! Routing tables that look-ups are compared on: random prefixes, and such as the Internet's routers have.
//!
//! Generated from fixed seeds, so that runs can be compared.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// Kind of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shape {
    /// IPv4 prefixes of 16 to 32 bits, each length as often, anywhere.
    RandomV4,
    /// As the global IPv4 table.
    GlobalV4,
    /// As the global IPv6 table.
    GlobalV6,
}

const SEED: u64 = 0x6772_6567_772d_6233;

/// How many of 100 000 prefixes of the global IPv4 table have a length: rounded from G. Huston, "BGP in 2024" (APNIC).
const LENGTHS_V4: [(u8, u32); 17] = [
    (8, 2),
    (9, 1),
    (10, 4),
    (11, 10),
    (12, 30),
    (13, 60),
    (14, 120),
    (15, 210),
    (16, 1_380),
    (17, 850),
    (18, 1_420),
    (19, 2_550),
    (20, 4_600),
    (21, 5_500),
    (22, 11_600),
    (23, 10_200),
    (24, 61_463),
];
/// The same of the global IPv6 table.
const LENGTHS_V6: [(u8, u32); 24] = [
    (20, 5),
    (24, 20),
    (28, 130),
    (29, 2_600),
    (30, 400),
    (31, 250),
    (32, 11_500),
    (33, 1_900),
    (34, 1_400),
    (35, 900),
    (36, 4_200),
    (38, 1_700),
    (39, 600),
    (40, 8_300),
    (41, 500),
    (42, 2_300),
    (43, 400),
    (44, 9_200),
    (45, 1_000),
    (46, 3_800),
    (47, 2_600),
    (48, 46_200),
    (56, 50),
    (64, 45),
];
/// The first 16 bits of what registries give out.
const REGISTRIES_V6: [u16; 8] = [
    0x2001, 0x2400, 0x2402, 0x2600, 0x2800, 0x2a00, 0x2a10, 0x2c0f,
];

impl Shape {
    /// All kinds.
    pub(crate) const ALL: [Self; 3] = [Self::RandomV4, Self::GlobalV4, Self::GlobalV6];

    /// The kind as reports call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RandomV4 => "random_v4",
            Self::GlobalV4 => "global_v4",
            Self::GlobalV6 => "global_v6",
        }
    }

    /// The sizes that are compared: up to the size of the real one.
    pub(crate) const fn sizes(self) -> [usize; 5] {
        match self {
            Self::RandomV4 | Self::GlobalV4 => [10, 1_000, 10_000, 100_000, 1_000_000],
            Self::GlobalV6 => [10, 1_000, 10_000, 100_000, 200_000],
        }
    }

    /// As many different prefixes.
    pub(crate) fn prefixes(self, count: usize) -> Vec<IpNet> {
        let mut random = StdRng::seed_from_u64(SEED);
        let mut taken = HashSet::with_capacity(count);
        let mut prefixes = Vec::with_capacity(count);
        while prefixes.len() < count {
            let prefix = match self {
                Self::RandomV4 => random_v4(&mut random),
                Self::GlobalV4 => global_v4(&mut random, &prefixes),
                Self::GlobalV6 => global_v6(&mut random, &prefixes),
            };
            if taken.insert(prefix) {
                prefixes.push(prefix);
            }
        }
        prefixes
    }
}

/// Addresses within random prefixes of a table.
pub(crate) fn destinations(prefixes: &[IpNet], count: usize) -> Vec<IpAddr> {
    let mut random = StdRng::seed_from_u64(SEED + 1);
    let mut destination = || match prefixes.choose(&mut random)? {
        IpNet::V4(prefix) => {
            let host = random.random::<u32>() & prefix.hostmask().to_bits();
            Some(IpAddr::from(Ipv4Addr::from_bits(
                prefix.network().to_bits() | host,
            )))
        }
        IpNet::V6(prefix) => {
            let host = random.random::<u128>() & prefix.hostmask().to_bits();
            Some(IpAddr::from(Ipv6Addr::from_bits(
                prefix.network().to_bits() | host,
            )))
        }
    };
    (0..count).filter_map(|_| destination()).collect()
}

fn random_v4(random: &mut StdRng) -> IpNet {
    let address = Ipv4Addr::from_bits(random.random());
    let prefix = Ipv4Net::new_assert(address, random.random_range(16..=32));
    prefix.trunc().into()
}

/// Every other long prefix is part of one that is there already.
fn global_v4(random: &mut StdRng, present: &[IpNet]) -> IpNet {
    loop {
        let length = length(random, &LENGTHS_V4);
        let mut bits = random.random_range(0x0100_0000..0xe000_0000);
        if length > 16
            && random.random_bool(0.55)
            && let Some(IpNet::V4(parent)) = present.choose(random)
            && parent.prefix_len() < length
        {
            bits = parent.network().to_bits() | bits & parent.hostmask().to_bits();
        }
        if ![10, 127].contains(&(bits >> 24)) {
            return Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), length)
                .trunc()
                .into();
        }
    }
}

fn global_v6(random: &mut StdRng, present: &[IpNet]) -> IpNet {
    let length = length(random, &LENGTHS_V6);
    let registry = REGISTRIES_V6[random.random_range(0..REGISTRIES_V6.len())];
    let registry = registry + random.random_range(0..4);
    let mut bits = u128::from(registry) << 112 | random.random::<u128>() >> 16;
    if length > 32
        && random.random_bool(0.75)
        && let Some(IpNet::V6(parent)) = present.choose(random)
        && parent.prefix_len() < length
    {
        bits = parent.network().to_bits() | bits & parent.hostmask().to_bits();
    }
    Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), length)
        .trunc()
        .into()
}

fn length(random: &mut StdRng, lengths: &[(u8, u32)]) -> u8 {
    let total: u32 = lengths.iter().map(|(_, weight)| weight).sum();
    let mut place = random.random_range(0..total);
    for (length, weight) in lengths {
        if place < *weight {
            return *length;
        }
        place -= weight;
    }
    unreachable!("the place is below the sum of all weights")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_as_many_different_prefixes_as_asked_for_and_are_the_same_each_time() {
        for shape in Shape::ALL {
            let prefixes = shape.prefixes(2000);
            let different: HashSet<&IpNet> = prefixes.iter().collect();
            assert_eq!(different.len(), 2000);
            assert_eq!(shape.prefixes(2000), prefixes);
        }
    }

    #[test]
    fn most_prefixes_of_a_global_table_have_24_or_48_bits() {
        for (shape, length, part) in [(Shape::GlobalV4, 24, 0.6), (Shape::GlobalV6, 48, 0.45)] {
            let prefixes = shape.prefixes(10_000);
            let long = prefixes
                .iter()
                .filter(|prefix| prefix.prefix_len() == length);
            assert!(long.count() as f64 > part * 10_000.0 * 0.95);
        }
    }
}
