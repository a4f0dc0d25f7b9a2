//! Dense ids of networks, ports and tunnels, kept by name from one plan to the next; groups have no names and are kept
//! by their routes.
//!
//! Ids index the data plane's tables and counters, so a name keeps its id as long as it is stated. A freed id waits:
//! counters and events of its former owner may still be on their way.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use gre_common::id::{NetworkId, PortId, TunnelId};
use serde::{Deserialize, Serialize};

use super::Limits;
use super::grouping::Groups;
use crate::config::{Config, Name};

/// Which name has which id; remembered by the daemon, also across restarts.
///
/// Ports and tunnels are known by network and name: one that moves to another network is another object, so that at no
/// time an entry of one network is reached through the routes of the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    networks: Pool,
    ports: Pool,
    tunnels: Pool,
    #[serde(default)]
    pub(super) groups: Groups,
}

/// Ids of one kind of object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredPool")]
struct Pool {
    used: BTreeMap<String, u32>,
    #[serde(flatten)]
    unused: Unused,
}

/// A [`Pool`] as it is written: what is neither in use nor fresh was freed.
#[derive(Deserialize)]
struct StoredPool {
    used: BTreeMap<String, u32>,
    fresh: u32,
}

/// Ids that nothing has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Unused {
    /// Oldest first. Not written: with time all ids would be in it. Who reads it back knows no order, so counts up.
    #[serde(skip)]
    freed: VecDeque<u32>,
    /// The least id that no object ever had.
    fresh: u32,
}

impl Ids {
    /// The ids for `config`: names that stay keep theirs. Names beyond `limits` have none.
    pub(super) fn next(mut self, config: &Config, limits: &Limits) -> Self {
        let networks = config.networks.iter();
        let networks = networks.map(|network| network.name.get_ref().to_string());
        self.networks.assign(networks.collect(), limits.networks);

        let ports = config.ports.iter();
        let ports = ports.map(|port| scoped(port.network.get_ref(), port.name.get_ref()));
        self.ports.assign(ports.collect(), limits.ports);

        let tunnels = config.tunnels.iter();
        let tunnels = tunnels.map(|tunnel| scoped(tunnel.network.get_ref(), tunnel.name.get_ref()));
        self.tunnels.assign(tunnels.collect(), limits.tunnels);
        self
    }

    /// The ids of all ports of the plan.
    pub fn ports(&self) -> impl Iterator<Item = PortId> {
        self.ports.used.values().copied().map(PortId)
    }

    /// The ids of all tunnels of the plan.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelId> {
        self.tunnels.used.values().copied().map(TunnelId)
    }

    /// The id of a network of the plan.
    pub fn network(&self, name: &Name) -> Option<NetworkId> {
        self.networks.get(name.as_str()).map(NetworkId)
    }

    /// The id of a port of the plan.
    pub fn port(&self, network: &Name, name: &Name) -> Option<PortId> {
        self.ports.get(&scoped(network, name)).map(PortId)
    }

    /// The id of a tunnel of the plan.
    pub fn tunnel(&self, network: &Name, name: &Name) -> Option<TunnelId> {
        self.tunnels.get(&scoped(network, name)).map(TunnelId)
    }
}

impl Default for Unused {
    /// Ids begin at 1: a table entry that was just cleared names object 0, which must be nobody's.
    fn default() -> Self {
        Self {
            freed: VecDeque::new(),
            fresh: 1,
        }
    }
}

impl Pool {
    fn get(&self, name: &str) -> Option<u32> {
        self.used.get(name).copied()
    }

    /// Gives each of `names` an id from 1 to `limit` as far as they reach. What is freed now is not given out now: the data
    /// plane still holds the entry while the new one is written.
    fn assign(&mut self, names: BTreeSet<String>, limit: usize) {
        let gone: Vec<String> = self
            .used
            .keys()
            .filter(|name| !names.contains(*name))
            .cloned()
            .collect();
        for name in names {
            if self.used.contains_key(&name) {
                continue;
            }
            let Some(id) = self.unused.take(limit) else {
                break;
            };
            self.used.insert(name, id);
        }
        for name in gone {
            self.unused.give_back(self.used.remove(&name));
        }
    }
}

impl From<StoredPool> for Pool {
    fn from(StoredPool { used, fresh }: StoredPool) -> Self {
        let unused = Unused::beside(used.values().copied(), fresh);
        Self { used, unused }
    }
}

impl Unused {
    /// What is left beside ids in use, where all from `fresh` on were never used.
    pub(super) fn beside(used: impl IntoIterator<Item = u32>, fresh: u32) -> Self {
        let used: HashSet<u32> = used.into_iter().collect();
        Self {
            freed: (1..fresh).filter(|id| !used.contains(id)).collect(),
            fresh,
        }
    }

    /// An id from 1 to `limit` that was never used, else the one freed longest ago.
    pub(super) fn take(&mut self, limit: usize) -> Option<u32> {
        if self.fresh as usize <= limit {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        let usable = self.freed.iter().position(|id| *id as usize <= limit)?;
        self.freed.remove(usable)
    }

    /// Ids whose objects have gone.
    pub(super) fn give_back(&mut self, ids: impl IntoIterator<Item = u32>) {
        self.freed.extend(ids);
    }
}

/// The key of an object that belongs to a network; `/` stands in no name.
fn scoped(network: &Name, name: &Name) -> String {
    format!("{network}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_ids_wait_until_no_fresh_one_is_left() {
        let mut pool = Pool::default();
        let mut assign = |names: &[&str]| {
            pool.assign(names.iter().map(|name| (*name).to_owned()).collect(), 4);
            names.iter().map(|name| pool.get(name)).collect::<Vec<_>>()
        };
        assert_eq!(assign(&["a", "b"]), [Some(1), Some(2)]);
        assert_eq!(assign(&["b", "c"]), [Some(2), Some(3)]);
        assert_eq!(assign(&["b", "d"]), [Some(2), Some(4)]);
        assert_eq!(
            assign(&["b", "d", "e"]),
            [Some(2), Some(4), Some(1)],
            "freed first"
        );
        assert_eq!(assign(&["b", "e", "f"]), [Some(2), Some(1), Some(3)]);
    }

    #[test]
    fn freed_ids_are_not_written_and_known_again_to_who_reads() {
        let mut pool = Pool::default();
        let names = |numbers: std::ops::Range<u32>| numbers.map(|n| n.to_string()).collect();
        pool.assign(names(0..1000), 1000);
        let full = serde_json::to_string(&pool).expect("serialisable");
        pool.assign(names(998..1000), 1000);
        let text = serde_json::to_string(&pool).expect("serialisable");
        assert!(text.len() < 100 && full.len() > 5_000, "{text}");
        let mut read: Pool = serde_json::from_str(&text).expect("parsable");
        read.assign(names(0..1000), 1000);
        let ids: BTreeSet<u32> = read.used.values().copied().collect();
        assert_eq!(
            ids,
            (1..=1000).collect(),
            "each is given out, and only once"
        );
        assert_eq!(read.get("999"), pool.get("999"));
    }

    #[test]
    fn an_id_freed_by_a_plan_is_not_given_out_by_the_same_plan() {
        let mut pool = Pool::default();
        pool.assign(["a".to_owned()].into(), 1);
        pool.assign(["b".to_owned()].into(), 1);
        assert_eq!(pool.get("b"), None);
        pool.assign(["b".to_owned()].into(), 1);
        assert_eq!(pool.get("b"), Some(1));
    }
}
