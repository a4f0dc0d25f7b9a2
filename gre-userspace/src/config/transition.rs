//! Rules between the running configuration and its successor.
//!
//! Called before a reload, and before a daemon takes over from another one, which leaves its [`Standing`] behind.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::model::{Config, Network};
use super::{Diagnostics, Name};

/// What of a running configuration binds the next one: the networks whose peerings are connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Standing(BTreeMap<Name, Peered>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Peered {
    address_space: BTreeSet<IpNet>,
    peers: BTreeSet<Name>,
}

impl From<&Config> for Standing {
    fn from(config: &Config) -> Self {
        let connected = connected(config);
        let networks = config.networks.iter().filter_map(|network| {
            let name = network.name.get_ref();
            let peers: BTreeSet<Name> = connected
                .iter()
                .filter(|(one, _)| *one == name)
                .map(|(_, other)| (*other).clone())
                .collect();
            let peered = Peered {
                address_space: prefixes(network),
                peers,
            };
            (!peered.peers.is_empty()).then(|| (name.clone(), peered))
        });
        Self(networks.collect())
    }
}

/// Complains about what may not change while it is in use: the address space of a network whose peering stands
/// (connected) before and after.
pub fn check_transition(old: &Standing, new: &Config) -> Diagnostics {
    let connected = connected(new);
    let mut mistakes = Diagnostics::default();
    for network in &new.networks {
        let name = network.name.get_ref();
        let Some(before) = old.0.get(name) else {
            continue;
        };
        let mut peers = before.peers.iter();
        let Some(peer) = peers.find(|peer| connected.contains(&(name, *peer))) else {
            continue;
        };
        let after = prefixes(network);
        if before.address_space == after {
            continue;
        }
        let place = changed_place(&before.address_space, network);
        mistakes.push(new.source.error(
            place,
            format!(
                "network `{name}`: the address space cannot change from [{}] to [{}] while the peering with `{peer}` stands",
                listed(&before.address_space),
                listed(&after)
            ),
            "remove the peering, reload or start, change the address space, reload, add the peering again",
        ));
    }
    mistakes.into_sorted()
}

/// Ordered pairs of networks of which each states a peering with the other.
fn connected(config: &Config) -> HashSet<(&Name, &Name)> {
    let stated: HashSet<_> = config
        .peerings
        .iter()
        .map(|peering| (peering.network.get_ref(), peering.remote.get_ref()))
        .collect();
    stated
        .iter()
        .filter(|(network, remote)| stated.contains(&(*remote, *network)))
        .copied()
        .collect()
}

fn prefixes(network: &Network) -> BTreeSet<IpNet> {
    network
        .address_space
        .iter()
        .map(|prefix| *prefix.get_ref())
        .collect()
}

fn listed(prefixes: &BTreeSet<IpNet>) -> String {
    let texts: Vec<String> = prefixes.iter().map(IpNet::to_string).collect();
    texts.join(", ")
}

/// The first new prefix, or the network's name if prefixes only went away.
fn changed_place(known: &BTreeSet<IpNet>, after: &Network) -> std::ops::Range<usize> {
    let added = after
        .address_space
        .iter()
        .find(|prefix| !known.contains(prefix.get_ref()));
    added.map_or_else(|| after.name.span(), toml::Spanned::span)
}
