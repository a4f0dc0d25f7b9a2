//! Rules between the running configuration and its successor.
//!
//! Called before a reload, with two files that are each valid.

use std::collections::{BTreeSet, HashSet};

use ipnet::IpNet;

use super::model::{Config, Network};
use super::{Diagnostics, Name};

/// Complains about what may not change while it is in use: the address space of a network whose peering stands in
/// both files (connected in each).
pub fn check_transition(old: &Config, new: &Config) -> Diagnostics {
    let standing: HashSet<_> = connected(old)
        .intersection(&connected(new))
        .copied()
        .collect();
    let mut mistakes = Diagnostics::default();
    for network in &new.networks {
        let name = network.name.get_ref();
        let Some((_, peer)) = standing.iter().filter(|pair| pair.0 == name).min() else {
            continue;
        };
        let before = old
            .networks
            .iter()
            .find(|other| other.name.get_ref() == name);
        let Some(before) = before else { continue };
        if prefixes(before) == prefixes(network) {
            continue;
        }
        let place = changed_place(before, network);
        mistakes.push(new.source.error(
            place,
            format!(
                "network `{name}`: the address space cannot change from [{}] to [{}] while the peering with `{peer}` stands",
                listed(before),
                listed(network)
            ),
            "remove the peering, reload, change the address space, reload, add the peering again",
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

fn listed(network: &Network) -> String {
    let texts: Vec<String> = prefixes(network).iter().map(IpNet::to_string).collect();
    texts.join(", ")
}

/// The first new prefix, or the network's name if prefixes only went away.
fn changed_place(before: &Network, after: &Network) -> std::ops::Range<usize> {
    let known = prefixes(before);
    let added = after
        .address_space
        .iter()
        .find(|prefix| !known.contains(prefix.get_ref()));
    added.map_or_else(|| after.name.span(), toml::Spanned::span)
}
