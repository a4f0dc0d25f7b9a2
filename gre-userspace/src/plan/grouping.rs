//! Which routes share a group of tunnels, from one plan to the next.
//!
//! Called by `routes` with the tunnels of each route that has several. Routes with the same tunnels share a group as long
//! as they have the same past: a route stays with its group, and so its flows stay with their tunnels, whatever other
//! routes do. Holds: the groups of a plan that is made again are the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gre_common::id::{GroupId, NetworkId, TunnelId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::group::{Group, Member, Members};
use super::ids::Unused;
use crate::config::Weight;

/// The groups of a plan, as the next plan needs to know them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredGroups")]
pub(super) struct Groups {
    groups: BTreeMap<u32, Shared>,
    unused: Unused,
}

/// [`Groups`] as they are written.
#[derive(Deserialize)]
struct StoredGroups {
    groups: BTreeMap<u32, Shared>,
    unused: StoredUnused,
}

/// [`Unused`] as it is written.
#[derive(Deserialize)]
struct StoredUnused {
    fresh: u32,
}

/// A group and the routes that share it; ids are plain numbers here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shared {
    network: u32,
    prefixes: BTreeSet<IpNet>,
    members: BTreeMap<u8, (u32, Weight)>,
    buckets: Vec<u8>,
}

/// Routes that lead to the same tunnels and came from the same group, if from any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    network: NetworkId,
    members: Members,
    origin: Option<u32>,
}

/// A route by network and prefix.
type RouteKey = (NetworkId, IpNet);

impl From<StoredGroups> for Groups {
    fn from(StoredGroups { groups, unused }: StoredGroups) -> Self {
        let unused = Unused::beside(groups.keys().copied(), unused.fresh);
        Self { groups, unused }
    }
}

impl Groups {
    /// The groups for routes to these tunnels. Routes that have none in [`Groups::by_route`] found no room: at most
    /// `limit` groups exist, with ids from 1.
    pub(super) fn next(&self, routes: BTreeMap<RouteKey, Members>, limit: usize) -> Self {
        let classes = self.classes(routes);
        let heirs = self.heirs(&classes);
        let mut next = Self {
            groups: BTreeMap::new(),
            unused: self.unused.clone(),
        };
        // Groups that mean to all their routes what they mean now: others may join them at once.
        let mut open: HashMap<(NetworkId, Members), u32> = HashMap::new();
        // Those with a past come first, so that the others find them.
        let (new, old): (Vec<_>, Vec<_>) = classes
            .into_iter()
            .partition(|(class, _)| class.origin.is_none());
        for (class, prefixes) in old.into_iter().chain(new) {
            let past = class.origin.and_then(|id| self.group(id));
            let is_heir = class
                .origin
                .is_some_and(|id| heirs.get(&id) == Some(&class));
            let key = (class.network, class.members);
            let joined = open.get(&key).copied();
            let id = if is_heir {
                class.origin
            } else if class.origin.is_none() && joined.is_some() {
                joined
            } else {
                // Where no room is left, the past is given up.
                next.unused.take(limit).or(joined)
            };
            let Some(id) = id else { continue };
            if let Some(shared) = next.groups.get_mut(&id) {
                shared.prefixes.extend(prefixes);
                continue;
            }
            let (network, members) = &key;
            let group = match &past {
                Some(past) => past.with_members(members),
                None => Group::new(*network, members),
            };
            if !is_heir || past.as_ref() == Some(&group) {
                open.entry(key).or_insert(id);
            }
            next.groups.insert(id, Shared::new(group, prefixes));
        }
        let gone = self.groups.keys().copied();
        let gone: Vec<u32> = gone.filter(|id| !next.groups.contains_key(id)).collect();
        next.unused.give_back(gone);
        next
    }

    /// The group of each route that has one.
    pub(super) fn by_route(&self) -> HashMap<RouteKey, GroupId> {
        let routes = self.groups.iter().flat_map(|(id, shared)| {
            let network = NetworkId(shared.network);
            let prefixes = shared.prefixes.iter();
            prefixes.map(move |prefix| ((network, *prefix), GroupId(*id)))
        });
        routes.collect()
    }

    /// All groups.
    pub(super) fn all(&self) -> BTreeMap<GroupId, Group> {
        let groups = self.groups.iter();
        groups
            .map(|(id, shared)| (GroupId(*id), shared.group()))
            .collect()
    }

    fn group(&self, id: u32) -> Option<Group> {
        self.groups.get(&id).map(Shared::group)
    }

    fn classes(&self, routes: BTreeMap<RouteKey, Members>) -> BTreeMap<Class, BTreeSet<IpNet>> {
        let known = self.by_route();
        let mut classes: BTreeMap<Class, BTreeSet<IpNet>> = BTreeMap::new();
        for ((network, prefix), members) in routes {
            let class = Class {
                network,
                members,
                origin: known.get(&(network, prefix)).map(|id| id.0),
            };
            classes.entry(class).or_default().insert(prefix);
        }
        classes
    }

    /// Which routes of a group that fall apart keep its id: those whose tunnels stay, else the most.
    fn heirs(&self, classes: &BTreeMap<Class, BTreeSet<IpNet>>) -> HashMap<u32, Class> {
        let mut heirs: HashMap<u32, (&Class, (bool, usize))> = HashMap::new();
        for (class, prefixes) in classes {
            let Some(id) = class.origin else { continue };
            let stays = self
                .group(id)
                .is_some_and(|group| group.members() == class.members);
            let claim = (stays, prefixes.len());
            let heir = heirs.entry(id).or_insert((class, claim));
            if claim > heir.1 {
                *heir = (class, claim);
            }
        }
        let heirs = heirs.into_iter();
        heirs.map(|(id, (class, _))| (id, class.clone())).collect()
    }
}

impl Shared {
    fn new(group: Group, prefixes: BTreeSet<IpNet>) -> Self {
        let members = group.members.into_iter();
        Self {
            network: group.network.0,
            prefixes,
            members: members
                .map(|(place, member)| (place, (member.tunnel.0, member.weight)))
                .collect(),
            buckets: group.buckets,
        }
    }

    fn group(&self) -> Group {
        let members = self.members.iter();
        Group {
            network: NetworkId(self.network),
            members: members
                .map(|(place, (tunnel, weight))| {
                    let (tunnel, weight) = (TunnelId(*tunnel), *weight);
                    (*place, Member { tunnel, weight })
                })
                .collect(),
            buckets: self.buckets.clone(),
        }
    }
}
