//! Which members of which groups are alive, as the data plane has been told. Pure: the caller finds out and writes.
//!
//! Owned by `apply`. Knows the groups of each tunnel, so that a tunnel that dies costs no more than its own groups.

use std::collections::{BTreeMap, BTreeSet};

use gre_common::id::{GroupId, TunnelId};

use crate::plan::Group;

/// The members of all groups.
#[derive(Debug, Default)]
pub struct Liveness {
    groups: BTreeMap<GroupId, Watched>,
    memberships: BTreeSet<(TunnelId, GroupId)>,
}

#[derive(Debug)]
struct Watched {
    members: BTreeMap<u8, TunnelId>,
    alive: u32,
}

impl Liveness {
    /// Notes a group, or its new members, of which those for which `is_alive` holds are alive. Returns
    /// [`gre_common::entry::GroupEntry::alive`].
    pub fn insert(
        &mut self,
        id: GroupId,
        group: &Group,
        is_alive: impl Fn(TunnelId) -> bool,
    ) -> u32 {
        self.remove(id);
        let members = group.members.iter();
        let members: BTreeMap<u8, TunnelId> = members
            .map(|(place, member)| (*place, member.tunnel))
            .collect();
        self.memberships
            .extend(members.values().map(|tunnel| (*tunnel, id)));
        let alive = members.iter().filter(|(_, tunnel)| is_alive(**tunnel));
        let alive = alive.fold(0, |bits, (place, _)| bits | 1 << place);
        self.groups.insert(id, Watched { members, alive });
        alive
    }

    /// Forgets a group.
    pub fn remove(&mut self, id: GroupId) {
        let members = self.groups.remove(&id).map(|watched| watched.members);
        for tunnel in members.into_iter().flat_map(BTreeMap::into_values) {
            self.memberships.remove(&(tunnel, id));
        }
    }

    /// Whether there is a group.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Notes whether a tunnel is alive. Returns the groups that have to be told, with what
    /// [`gre_common::entry::GroupEntry::alive`] becomes.
    pub fn set(&mut self, tunnel: TunnelId, is_alive: bool) -> Vec<(GroupId, u32)> {
        let all = (tunnel, GroupId(0))..=(tunnel, GroupId(u32::MAX));
        let groups = self.memberships.range(all).map(|(_, id)| *id);
        let mut changed = Vec::new();
        for id in groups {
            let Some(watched) = self.groups.get_mut(&id) else {
                continue;
            };
            let places = watched.members.iter();
            let places = places.filter(|(_, member)| **member == tunnel);
            let bits = places.fold(0, |bits, (place, _)| bits | 1u32 << place);
            let alive = if is_alive {
                watched.alive | bits
            } else {
                watched.alive & !bits
            };
            if alive != watched.alive {
                watched.alive = alive;
                changed.push((id, alive));
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use gre_common::id::NetworkId;

    use super::*;
    use crate::config::Weight;
    use crate::plan::Member;

    fn group(members: &[(u8, u32)]) -> Group {
        let members = members.iter().map(|(place, tunnel)| {
            let (tunnel, weight) = (TunnelId(*tunnel), Weight::default());
            (*place, Member { tunnel, weight })
        });
        Group {
            network: NetworkId(1),
            members: members.collect(),
            buckets: Vec::new(),
        }
    }

    #[test]
    fn a_tunnel_that_dies_is_dead_in_its_groups_only_and_told_once() {
        let mut liveness = Liveness::default();
        let is_alive = |tunnel: TunnelId| tunnel.0 != 9;
        assert_eq!(
            liveness.insert(GroupId(1), &group(&[(0, 7), (1, 8)]), is_alive),
            0b11
        );
        assert_eq!(
            liveness.insert(GroupId(2), &group(&[(0, 9), (5, 8)]), is_alive),
            1 << 5
        );
        assert_eq!(
            liveness.insert(GroupId(3), &group(&[(0, 7)]), is_alive),
            0b1
        );
        assert_eq!(
            liveness.set(TunnelId(8), false),
            [(GroupId(1), 0b01), (GroupId(2), 0)]
        );
        assert_eq!(liveness.set(TunnelId(8), false), []);
        assert_eq!(liveness.set(TunnelId(9), true), [(GroupId(2), 0b1)]);
        assert_eq!(
            liveness.set(TunnelId(8), true),
            [(GroupId(1), 0b11), (GroupId(2), 0b10_0001)]
        );
    }

    #[test]
    fn members_that_left_and_groups_that_went_are_not_told() {
        let mut liveness = Liveness::default();
        liveness.insert(GroupId(1), &group(&[(0, 7), (1, 8)]), |_| true);
        liveness.insert(GroupId(1), &group(&[(1, 8), (2, 9)]), |_| true);
        assert_eq!(liveness.set(TunnelId(7), false), []);
        assert_eq!(liveness.set(TunnelId(9), false), [(GroupId(1), 0b10)]);
        liveness.remove(GroupId(1));
        assert_eq!(liveness.set(TunnelId(8), false), []);
        assert!(liveness.is_empty());
    }
}
