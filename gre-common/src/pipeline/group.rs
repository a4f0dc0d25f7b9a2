//! Which tunnel of a group a packet takes: one for all packets of a flow, while others of the group come and go.
//!
//! Called by `forward` for routes into groups, out of line, so that other packets pay nothing; `encap` labels flows by the
//! same number. Every flow has an order of its own among the members, of which it takes the first that is alive: when
//! one dies or returns, only the flows that had or get it move.

use crate::bound;
use crate::entry::GroupEntry;
use crate::frame::{Frame, Truncated};
use crate::id::{Family, IpProto, TunnelId};
use crate::limits::{GROUP_BUCKETS, GROUP_MEMBERS};

use super::parse::{self, Inner, Payload};

/// Buckets that a flow tries before it takes any member that is alive.
const ATTEMPTS: u32 = 16;

/// The member of `group` for a flow, by a number as that of [`flow`]; tunnel 0, which is nobody's, if none is alive.
///
/// A flow tries buckets, whose numbers are its own and as random as its first, so that what a dead member leaves is
/// shared by weight among the others.
#[inline(always)]
pub fn choose(group: &GroupEntry, flow: u64) -> TunnelId {
    let alive = group.alive;
    if alive == 0 {
        return TunnelId(0);
    }
    let mut flow = flow;
    for _ in 0..ATTEMPTS {
        let bucket = bound::index::<GROUP_BUCKETS>(flow >> 32);
        let place = bound::index::<GROUP_MEMBERS>(group.buckets[bucket]);
        if alive >> place & 1 != 0 {
            return group.members[place];
        }
        flow = mix(flow);
    }
    // The next place that is alive, counted from one that is the flow's own.
    let first = (flow >> 32) as u32 % GROUP_MEMBERS as u32;
    let from_first = alive.rotate_right(first);
    let steps = (from_first ^ (from_first - 1)).count_ones() - 1;
    group.members[bound::index::<GROUP_MEMBERS>(first + steps)]
}

/// A number that is equal for the packets of a flow and random between flows, in each of its bits.
///
/// A flow is what has the same addresses, protocol, and ports if they are those of TCP or UDP. Fragments are told apart by
/// addresses and protocol only: no more is in all of them. Takes the packet by value: what a function takes by reference
/// lives in memory on every other way too.
#[inline(never)]
pub(super) fn flow<F: Frame>(frame: &F, inner: Inner) -> u64 {
    let service = match parse::payload(frame, &inner) {
        Ok(payload) => service(frame, payload),
        Err(Truncated) => 0,
    };
    match inner.destination.family() {
        Family::V4 => {
            let source = u32::from_ne_bytes(inner.source.to_v4());
            let destination = u32::from_ne_bytes(inner.destination.to_v4());
            mix(mix(service) ^ (u64::from(source) << 32 | u64::from(destination)))
        }
        Family::V6 => {
            let (source, destination) = (inner.source.halves(), inner.destination.halves());
            let hash = mix(mix(service) ^ source.0);
            let hash = mix(hash ^ source.1);
            let hash = mix(hash ^ destination.0);
            mix(hash ^ destination.1)
        }
    }
}

/// Ports and protocol.
#[inline(always)]
fn service<F: Frame>(frame: &F, payload: Payload) -> u64 {
    let has_ports = matches!(payload.protocol, IpProto::TCP | IpProto::UDP) && !payload.fragment;
    let ports: [u8; 4] = if has_ports {
        frame.read(payload.offset).unwrap_or_default()
    } else {
        [0; 4]
    };
    u64::from(u32::from_ne_bytes(ports)) << 8 | u64::from(payload.protocol.0)
}

/// A permutation of the 64-bit numbers after which each bit depends on all. Multiplication carries bits upwards, the shift
/// brings them down again; the factor is odd and has no pattern (2⁶⁴/φ).
#[inline(always)]
const fn mix(number: u64) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let high = (number ^ number >> 32).wrapping_mul(FACTOR);
    let all = (high ^ high >> 29).wrapping_mul(FACTOR);
    all ^ all >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Members 101 and following at the places below `count`, and buckets dealt out to them at random.
    fn group() -> impl Strategy<Value = GroupEntry> {
        let buckets = prop::collection::vec(any::<u8>(), GROUP_BUCKETS);
        (1..=GROUP_MEMBERS, buckets).prop_map(|(count, buckets)| {
            let mut group = GroupEntry::default();
            for (place, member) in group.members[..count].iter_mut().enumerate() {
                *member = TunnelId(place as u32 + 101);
                group.alive |= 1 << place;
            }
            for (bucket, random) in group.buckets.iter_mut().zip(buckets) {
                *bucket = random % count as u8;
            }
            group
        })
    }

    proptest! {
        #[test]
        fn a_flow_takes_the_member_of_its_bucket_or_one_that_is_alive(
            group in group(), alive: u32, flow: u64,
        ) {
            let bucket = usize::from(group.buckets[(flow >> 32) as usize % GROUP_BUCKETS]);
            prop_assert_eq!(choose(&group, flow), group.members[bucket]);
            let some = GroupEntry { alive: group.alive & alive, ..group };
            let chosen = choose(&some, flow);
            if some.alive == 0 {
                prop_assert_eq!(chosen, TunnelId(0));
            } else if some.alive >> bucket & 1 != 0 {
                prop_assert_eq!(chosen, group.members[bucket]);
            } else {
                prop_assert_ne!(some.alive >> (chosen.0 - 101) & 1, 0);
            }
        }

        #[test]
        fn only_flows_of_the_member_that_dies_move_however_many_are_dead_already(
            group in group(), alive: u32, dies in 0u32..32, flow: u64,
        ) {
            let before = GroupEntry { alive: group.alive & (alive | 1 << dies), ..group };
            let after = GroupEntry { alive: before.alive & !(1 << dies), ..group };
            let (was, is) = (choose(&before, flow), choose(&after, flow));
            if was != TunnelId(101 + dies) {
                prop_assert_eq!(was, is);
            }
        }
    }

    #[test]
    fn what_a_dead_member_leaves_is_shared_by_weight() {
        // Shares of 128, 96 and 32 buckets, of which the first dies.
        let mut group = GroupEntry {
            alive: 0b110,
            ..GroupEntry::default()
        };
        for (bucket, place) in group.buckets.iter_mut().enumerate() {
            *place = [0, 1, 0, 1, 0, 1, 0, 2][bucket % 8];
        }
        for (place, member) in group.members[..3].iter_mut().enumerate() {
            *member = TunnelId(place as u32 + 1);
        }
        let flows = (0..40_000u64).map(mix);
        let greater = flows
            .filter(|flow| choose(&group, *flow) == TunnelId(2))
            .count();
        assert!(greater.abs_diff(30_000) < 500, "{greater}");
    }

    #[test]
    fn each_bit_of_a_flow_changes_half_of_the_bits_of_its_number() {
        for bit in 0..64 {
            let changed: u32 = (0..1000u64)
                .map(|number| (mix(mix(number)) ^ mix(mix(number) ^ 1 << bit)).count_ones())
                .sum();
            assert!(changed.abs_diff(32_000) < 4_000, "bit {bit}: {changed}");
        }
    }
}
