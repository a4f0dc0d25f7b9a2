//! A group of tunnels that share the flows of routes, and how its buckets are shared out among them.
//!
//! Made by `grouping`. Holds: a change of members or weights moves the buckets of members that have gone, and of those
//! that stay only what others are to get more; so a member that goes moves no flow of another one.

use std::collections::BTreeMap;
use std::iter::{repeat_n, zip};

use gre_common::entry::GroupEntry;
use gre_common::id::{NetworkId, TunnelId};
use gre_common::limits::{GROUP_BUCKETS, GROUP_MEMBERS};

use crate::config::Weight;

/// Tunnels with their shares.
pub(super) type Members = BTreeMap<TunnelId, Weight>;

/// A group of tunnels of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The network whose packets it takes.
    pub network: NetworkId,
    /// The members by place, which each keeps as long as it belongs to the group.
    pub members: BTreeMap<u8, Member>,
    /// The place of the member that has each bucket: [`GROUP_BUCKETS`] of them.
    pub buckets: Vec<u8>,
}

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The tunnel, of the group's network.
    pub tunnel: TunnelId,
    /// Its share of the flows.
    pub weight: Weight,
}

impl Group {
    /// A new group. The members, at most [`GROUP_MEMBERS`], have places and buckets.
    pub(super) fn new(network: NetworkId, members: &Members) -> Self {
        let empty = Self {
            network,
            members: BTreeMap::new(),
            buckets: vec![NOBODY; GROUP_BUCKETS],
        };
        empty.with_members(members)
    }

    /// The same group with other members or weights.
    pub(super) fn with_members(&self, wanted: &Members) -> Self {
        let mut members = BTreeMap::new();
        let mut new = wanted.clone();
        for (place, member) in &self.members {
            if let Some(weight) = new.remove(&member.tunnel) {
                let tunnel = member.tunnel;
                members.insert(*place, Member { tunnel, weight });
            }
        }
        let left = self.members.keys();
        let left: Vec<u8> = left.filter(|p| !members.contains_key(p)).copied().collect();
        // Places just left come last: while the entry is written, packets may still take what was there.
        let places = (0..GROUP_MEMBERS as u8).filter(|place| !self.members.contains_key(place));
        for (place, (tunnel, weight)) in zip(places.chain(left), new) {
            members.insert(place, Member { tunnel, weight });
        }
        Self {
            network: self.network,
            buckets: share_out(&self.buckets, &members),
            members,
        }
    }

    /// Tunnels and weights, without places.
    pub(super) fn members(&self) -> Members {
        let members = self.members.values();
        members
            .map(|member| (member.tunnel, member.weight))
            .collect()
    }

    /// Its entry, with these places alive.
    pub fn entry(&self, alive: u32) -> GroupEntry {
        let mut entry = GroupEntry {
            alive,
            ..GroupEntry::default()
        };
        for (place, member) in &self.members {
            entry.members[usize::from(*place)] = member.tunnel;
        }
        for (bucket, place) in zip(&mut entry.buckets, &self.buckets) {
            *bucket = *place;
        }
        entry
    }
}

/// The place of nobody.
const NOBODY: u8 = u8::MAX;

/// Every member keeps its buckets up to its quota; what is left goes to those that have less.
fn share_out(buckets: &[u8], members: &BTreeMap<u8, Member>) -> Vec<u8> {
    let mut missing = quotas(members);
    let mut shared = buckets.to_vec();
    // What an older version remembered may be shorter or longer.
    shared.resize(GROUP_BUCKETS, NOBODY);
    let mut free = Vec::new();
    for (bucket, place) in shared.iter_mut().enumerate() {
        match missing.get_mut(place) {
            Some(missing) if *missing > 0 => *missing -= 1,
            _ => free.push(bucket),
        }
    }
    let takers = missing.into_iter();
    let takers = takers.flat_map(|(place, missing)| repeat_n(place, missing));
    for (bucket, place) in zip(free, takers) {
        shared[bucket] = place;
    }
    shared
}

/// How many buckets each member has: in proportion to the weights as near as whole numbers come (the method of Webster
/// and Sainte-Laguë), at least one.
///
/// Methods of this kind hand buckets out one by one to whom the next one is due most. So without one member each of the
/// others has as many as before or more, which methods that round shares do not promise.
fn quotas(members: &BTreeMap<u8, Member>) -> BTreeMap<u8, usize> {
    let mut quotas = vec![1; members.len()];
    let weights: Vec<usize> = members
        .values()
        .map(|member| member.weight.0.into())
        .collect();
    for _ in members.len()..GROUP_BUCKETS {
        let mut next = 0;
        for other in 1..quotas.len() {
            // Who has the greater weight ÷ (quota + ½), the first of equal ones; as products, to stay exact.
            if weights[other] * (2 * quotas[next] + 1) > weights[next] * (2 * quotas[other] + 1) {
                next = other;
            }
        }
        if let Some(quota) = quotas.get_mut(next) {
            *quota += 1;
        }
    }
    zip(members.keys().copied(), quotas).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members() -> impl Strategy<Value = Members> {
        let member = (1u32..60, prop_oneof![1u16..=4, 1u16..=256]);
        prop::collection::vec(member, 1..=GROUP_MEMBERS).prop_map(|members| {
            let members = members.into_iter();
            members
                .map(|(tunnel, weight)| (TunnelId(tunnel), Weight(weight)))
                .collect()
        })
    }

    /// The tunnel of each bucket.
    fn tunnels(group: &Group) -> Vec<TunnelId> {
        let buckets = group.buckets.iter();
        buckets.map(|place| group.members[place].tunnel).collect()
    }

    fn count(group: &Group, tunnel: TunnelId) -> usize {
        let tunnels = tunnels(group).into_iter();
        tunnels.filter(|other| *other == tunnel).count()
    }

    /// How many buckets lead elsewhere.
    fn moved(old: &Group, new: &Group) -> usize {
        let pairs = zip(tunnels(old), tunnels(new));
        pairs.filter(|(old, new)| old != new).count()
    }

    fn group(members: &Members) -> Group {
        Group::new(NetworkId(1), members)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_member_that_goes_moves_no_bucket_of_another_one(
            members in members(), order in prop::collection::vec(any::<prop::sample::Index>(), GROUP_MEMBERS),
        ) {
            let mut left = members.clone();
            let mut before = group(&members);
            for index in order {
                if left.len() == 1 {
                    break;
                }
                let gone = *left.keys().nth(index.index(left.len())).unwrap();
                left.remove(&gone);
                let after = before.with_members(&left);
                prop_assert_eq!(moved(&before, &after), count(&before, gone));
                prop_assert_eq!(after.members(), left.clone());
                before = after;
            }
        }

        #[test]
        fn a_member_that_comes_takes_its_share_and_moves_nothing_else(
            members in members(), weight in 1u16..=256,
        ) {
            prop_assume!(members.len() < GROUP_MEMBERS);
            let mut more = members.clone();
            more.insert(TunnelId(100), Weight(weight));
            let (before, after) = (group(&members), group(&members).with_members(&more));
            prop_assert_eq!(moved(&before, &after), count(&after, TunnelId(100)));
            // And it leaves as it came.
            prop_assert_eq!(after.with_members(&members).members, before.members);
        }

        #[test]
        fn any_change_moves_only_what_the_new_shares_ask_for(old in members(), new in members()) {
            let (before, after) = (group(&old), group(&old).with_members(&new));
            let gained: usize = new
                .keys()
                .map(|tunnel| count(&after, *tunnel).saturating_sub(count(&before, *tunnel)))
                .sum();
            prop_assert_eq!(moved(&before, &after), gained);
            prop_assert_eq!(after.members(), new.clone());
            prop_assert_eq!(after.with_members(&new), after.clone());
            // Who stays keeps its place.
            for (place, member) in &before.members {
                if new.contains_key(&member.tunnel) {
                    prop_assert_eq!(after.members[place].tunnel, member.tunnel);
                }
            }
        }

        #[test]
        fn no_bucket_is_due_more_to_another_member(members in members()) {
            let group = group(&members);
            for (one, weight) in &members {
                let quota = count(&group, *one);
                prop_assert!(quota >= 1);
                for (other, others) in &members {
                    // What the last bucket of one counts there, and what it would count there.
                    let here = usize::from(weight.0) * (2 * count(&group, *other) + 1);
                    let there = usize::from(others.0) * (2 * quota - 1);
                    prop_assert!(quota == 1 || one == other || here >= there);
                }
            }
        }
    }

    #[test]
    fn equal_members_have_equal_shares_and_weights_count() {
        let two = group(&BTreeMap::from([
            (TunnelId(1), Weight(1)),
            (TunnelId(2), Weight(1)),
        ]));
        assert_eq!(count(&two, TunnelId(1)), GROUP_BUCKETS / 2);
        let weighted = two.with_members(&BTreeMap::from([
            (TunnelId(1), Weight(3)),
            (TunnelId(2), Weight(1)),
        ]));
        assert_eq!(count(&weighted, TunnelId(1)), GROUP_BUCKETS * 3 / 4);
        assert_eq!(moved(&two, &weighted), GROUP_BUCKETS / 4);
    }

    #[test]
    fn members_that_are_exchanged_take_places_that_were_free() {
        let members = |ids: std::ops::Range<u32>| -> Members {
            ids.map(|id| (TunnelId(id), Weight(1))).collect()
        };
        let before = group(&members(1..9));
        let after = before.with_members(&members(11..19));
        assert!(
            after
                .members
                .keys()
                .all(|place| !before.members.contains_key(place))
        );
    }
}
