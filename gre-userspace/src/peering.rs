//! The state of each peering statement, from what both sides state now and from what was before.
//!
//! Pure. The daemon calls [`States::next`] at each reload, keeps the result, and hands it to `plan`: only what both
//! sides state is connected and carries traffic.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::config::{Name, Peering};
pub use crate::report::PeeringState;

/// The state of every peering statement of a configuration. Serialised as a list of
/// `{"network","remote","state"}`, to be remembered across restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Stated>", into = "Vec<Stated>")]
pub struct States(BTreeMap<(Name, Name), PeeringState>);

#[derive(Serialize, Deserialize)]
struct Stated {
    network: Name,
    remote: Name,
    state: PeeringState,
}

impl States {
    /// The states once `statements` replace those that led to `self`.
    ///
    /// A statement whose other side is missing is `disconnected` if it was connected before and has been stated ever
    /// since, else `initiated`.
    pub fn next<'c>(&self, statements: impl IntoIterator<Item = &'c Peering>) -> Self {
        let stated: BTreeSet<(&Name, &Name)> = statements
            .into_iter()
            .map(|statement| (statement.network.get_ref(), statement.remote.get_ref()))
            .collect();
        let states = stated.iter().map(|&(network, remote)| {
            let state = if stated.contains(&(remote, network)) {
                PeeringState::Connected
            } else {
                match self.get(network, remote) {
                    None | Some(PeeringState::Initiated) => PeeringState::Initiated,
                    Some(_) => PeeringState::Disconnected,
                }
            };
            ((network.clone(), remote.clone()), state)
        });
        Self(states.collect())
    }

    /// The state of the statement of `network` about `remote`; `None` if there is no such statement.
    pub fn get(&self, network: &Name, remote: &Name) -> Option<PeeringState> {
        self.0.get(&(network.clone(), remote.clone())).copied()
    }

    /// Whether both networks state the peering.
    pub fn are_connected(&self, network: &Name, remote: &Name) -> bool {
        self.get(network, remote) == Some(PeeringState::Connected)
    }

    /// Every statement as (network, remote, state), ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Name, PeeringState)> {
        let statements = self.0.iter();
        statements.map(|((network, remote), state)| (network, remote, *state))
    }
}

impl From<Vec<Stated>> for States {
    fn from(list: Vec<Stated>) -> Self {
        let states = list
            .into_iter()
            .map(|stated| ((stated.network, stated.remote), stated.state));
        Self(states.collect())
    }
}

impl From<States> for Vec<Stated> {
    fn from(states: States) -> Self {
        let list = states
            .0
            .into_iter()
            .map(|((network, remote), state)| Stated {
                network,
                remote,
                state,
            });
        list.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PeeringState::{Connected, Disconnected, Initiated};
    use toml::Spanned;

    #[test]
    fn a_peering_lives_from_initiated_over_connected_to_disconnected() {
        let initiated = States::default().next(&[states("a", "b")]);
        assert_eq!(summary(&initiated), [("a", "b", Initiated)]);
        let connected = initiated.next(&[states("a", "b"), states("b", "a")]);
        assert_eq!(
            summary(&connected),
            [("a", "b", Connected), ("b", "a", Connected)]
        );
        let disconnected = connected.next(&[states("a", "b")]);
        assert_eq!(summary(&disconnected), [("a", "b", Disconnected)]);
        let still = disconnected.next(&[states("a", "b")]);
        assert_eq!(summary(&still), [("a", "b", Disconnected)]);
        let again = still.next(&[states("b", "a"), states("a", "b")]);
        assert_eq!(
            summary(&again),
            [("a", "b", Connected), ("b", "a", Connected)]
        );
    }

    #[test]
    fn a_statement_that_was_removed_starts_anew() {
        let both = [states("a", "b"), states("b", "a")];
        let connected = States::default().next(&both);
        let gone = connected.next(&[]);
        assert!(summary(&gone).is_empty());
        assert_eq!(summary(&gone.next(&both[..1])), [("a", "b", Initiated)]);
    }

    #[test]
    fn the_side_that_is_left_is_disconnected_whichever_it_is() {
        let connected = States::default().next(&[states("a", "b"), states("b", "a")]);
        let left = connected.next(&[states("b", "a")]);
        assert_eq!(summary(&left), [("b", "a", Disconnected)]);
    }

    #[test]
    fn peerings_of_others_do_not_matter() {
        let chain = [states("a", "b"), states("b", "a"), states("b", "c")];
        let found = States::default().next(&chain);
        assert_eq!(
            summary(&found),
            [
                ("a", "b", Connected),
                ("b", "a", Connected),
                ("b", "c", Initiated)
            ]
        );
        let (a, c) = (Name::new("a").unwrap(), Name::new("c").unwrap());
        assert!(!found.are_connected(&a, &c));
    }

    #[test]
    fn states_survive_serialisation() {
        let connected = States::default().next(&[states("a", "b"), states("b", "a")]);
        let kept = connected.next(&[states("a", "b"), states("a", "c")]);
        let json = serde_json::to_string(&kept).unwrap();
        assert_eq!(
            json,
            r#"[{"network":"a","remote":"b","state":"disconnected"},{"network":"a","remote":"c","state":"initiated"}]"#
        );
        assert_eq!(serde_json::from_str::<States>(&json).unwrap(), kept);
    }

    fn states(network: &str, remote: &str) -> Peering {
        let name = |text| Spanned::new(0..0, Name::new(text).unwrap());
        Peering {
            network: name(network),
            remote: name(remote),
            allow_virtual_network_access: true,
            allow_forwarded_traffic: false,
            allow_gateway_transit: false,
            use_remote_gateways: false,
            span: 0..0,
        }
    }

    fn summary(states: &States) -> Vec<(&str, &str, PeeringState)> {
        let found = states.iter();
        found
            .map(|(network, remote, state)| (network.as_str(), remote.as_str(), state))
            .collect()
    }
}
