//! Policy rules that select packets by protocol GRE: which routing table has the last word about a tunnel's way.
//!
//! The kernel tells where a packet would go, but takes no question about GRE (`RTA_IP_PROTO` may be TCP, UDP or ICMP
//! only), and so passes over such rules. Where there are any, they are worked out here, from the rules and the routes
//! of the tables that they name; all else is left to the kernel's answer. Pure: `netlink` reads rules and routes.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::adjacency::Way;
use crate::netlink::Route;

/// A rule of the kernel's (`ip rule`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Rules are asked in the order of this number.
    pub priority: u32,
    /// Sources that it is for; `None`: all.
    pub source: Option<IpNet>,
    /// Destinations that it is for; `None`: all.
    pub destination: Option<IpNet>,
    /// What packets it is for, by protocol.
    pub protocol: Protocol,
    /// It asks for something that packets of gregw do not have: a mark, a device, a port, a user.
    pub is_foreign: bool,
    /// It is for all packets but those.
    pub is_inverted: bool,
    /// What it does.
    pub action: Action,
    /// Routes up to this length are passed over (`suppress_prefixlength`).
    pub suppressed: Option<u8>,
}

/// Packets that a rule is for, by IP protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Any.
    Any,
    /// GRE.
    Gre,
    /// Another one.
    Other,
}

/// What a rule does with packets that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Looks them up in a table.
    Table(u32),
    /// Goes on at the rule with this priority.
    Goto(u32),
    /// Sends them nowhere.
    Refuse,
    /// Nothing.
    Pass,
}

/// A route of a table that a rule by protocol GRE names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRoute {
    /// Destinations.
    pub prefix: IpNet,
    /// Among routes for one prefix the lowest wins.
    pub metric: u32,
    /// Where it leads; `None`: nowhere. The next hop is unspecified where it is the destination itself.
    pub route: Option<Route>,
}

/// The kernel's answer to a question that says nothing of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The table that it comes from.
    pub table: u32,
    /// Where it leads.
    pub route: Route,
}

/// The rules of one family and the tables that those by protocol GRE name. Empty, where there is no such rule.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    tables: HashMap<u32, Vec<TableRoute>>,
}

impl Policy {
    /// Takes all rules of a family.
    pub fn new(mut rules: Vec<Rule>) -> Self {
        if rules.iter().all(|rule| rule.protocol != Protocol::Gre) {
            return Self::default();
        }
        rules.sort_by_key(|rule| rule.priority);
        Self {
            rules,
            tables: HashMap::new(),
        }
    }

    /// The tables whose routes are needed.
    pub fn tables_needed(&self) -> BTreeSet<u32> {
        let by_gre = self.rules.iter().filter(|rule| rule.is_by_gre());
        by_gre
            .filter_map(|rule| match rule.action {
                Action::Table(table) => Some(table),
                _ => None,
            })
            .collect()
    }

    /// Takes a route of such a table.
    pub fn insert(&mut self, table: u32, route: TableRoute) {
        self.tables.entry(table).or_default().push(route);
    }

    /// Where packets between these ends go, given what the kernel says of packets of no protocol.
    pub fn decide(&self, way: Way, kernel: Option<Answer>) -> Option<Route> {
        let mut skip_to = 0;
        for rule in &self.rules {
            if rule.priority < skip_to || !rule.concerns(way) {
                continue;
            }
            match rule.action {
                Action::Pass => {}
                Action::Goto(priority) => skip_to = priority,
                // The kernel has asked the other rules already.
                Action::Refuse if rule.is_by_gre() || kernel.is_none() => return None,
                Action::Refuse => {}
                Action::Table(table) if rule.is_by_gre() => {
                    if let Some(route) = self.look_up(table, way.remote, rule.suppressed) {
                        return route.route.map(|route| towards(way.remote, route));
                    }
                }
                Action::Table(table) => {
                    if let Some(answer) = kernel.filter(|answer| answer.table == table) {
                        return Some(answer.route);
                    }
                }
            }
        }
        kernel.map(|answer| answer.route)
    }

    fn look_up(&self, table: u32, remote: IpAddr, suppressed: Option<u8>) -> Option<&TableRoute> {
        let routes = self.tables.get(&table)?.iter();
        let best = routes
            .filter(|route| route.prefix.contains(&remote))
            .max_by_key(|route| (route.prefix.prefix_len(), u32::MAX - route.metric))?;
        let is_suppressed = suppressed.is_some_and(|longest| best.prefix.prefix_len() <= longest);
        (!is_suppressed).then_some(best)
    }
}

impl Rule {
    fn is_by_gre(&self) -> bool {
        self.protocol == Protocol::Gre
    }

    fn concerns(&self, way: Way) -> bool {
        let covers =
            |prefix: Option<IpNet>, address| prefix.is_none_or(|prefix| prefix.contains(&address));
        let matches = !self.is_foreign
            && self.protocol != Protocol::Other
            && covers(self.source, way.local)
            && covers(self.destination, way.remote);
        matches != self.is_inverted
    }
}

fn towards(remote: IpAddr, mut route: Route) -> Route {
    if route.hop.address.is_unspecified() {
        route.hop.address = remote;
    }
    route
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Hop;
    use gre_common::id::IfIndex;

    const MAIN: u32 = 254;

    fn way() -> Way {
        Way {
            local: IpAddr::from([192, 0, 2, 1]),
            remote: IpAddr::from([198, 51, 100, 7]),
        }
    }

    fn over(device: u32) -> Route {
        let hop = Hop {
            device: IfIndex(device),
            address: IpAddr::from([192, 0, 2, 254]),
        };
        Route { hop, mtu: None }
    }

    fn rule(priority: u32, protocol: Protocol, action: Action) -> Rule {
        Rule {
            priority,
            source: None,
            destination: None,
            protocol,
            is_foreign: false,
            is_inverted: false,
            action,
            suppressed: None,
        }
    }

    fn kernel() -> Option<Answer> {
        Some(Answer {
            table: MAIN,
            route: over(1),
        })
    }

    fn route(prefix: &str, metric: u32, device: u32) -> TableRoute {
        TableRoute {
            prefix: prefix.parse().expect("valid"),
            metric,
            route: Some(over(device)),
        }
    }

    #[test]
    fn a_rule_by_gre_decides_only_before_the_rule_that_the_kernel_answered_by() {
        let main = rule(100, Protocol::Any, Action::Table(MAIN));
        for (priority, device) in [(99, 2), (101, 1)] {
            let by_gre = rule(priority, Protocol::Gre, Action::Table(7));
            let mut policy = Policy::new(vec![main.clone(), by_gre]);
            assert_eq!(policy.tables_needed(), BTreeSet::from([7]));
            policy.insert(7, route("0.0.0.0/0", 0, 2));
            assert_eq!(policy.decide(way(), kernel()), Some(over(device)));
            assert_eq!(policy.decide(way(), None), Some(over(2)));
        }
    }

    #[test]
    fn the_longest_prefix_with_the_least_metric_wins_in_a_table_and_no_route_leads_on() {
        let by_gre = rule(1, Protocol::Gre, Action::Table(7));
        let mut policy = Policy::new(vec![
            by_gre.clone(),
            rule(2, Protocol::Any, Action::Table(MAIN)),
        ]);
        policy.insert(7, route("203.0.113.0/24", 0, 9));
        assert_eq!(policy.decide(way(), kernel()), Some(over(1)));
        policy.insert(7, route("198.51.100.0/24", 20, 4));
        policy.insert(7, route("198.51.100.0/24", 10, 3));
        policy.insert(7, route("198.51.0.0/16", 0, 2));
        assert_eq!(policy.decide(way(), kernel()), Some(over(3)));
        let nowhere = TableRoute {
            route: None,
            ..route("198.51.100.7/32", 0, 0)
        };
        policy.insert(7, nowhere);
        assert_eq!(policy.decide(way(), kernel()), None);
    }

    #[test]
    fn rules_for_others_are_passed_over() {
        let elsewhere = Some("203.0.113.0/24".parse().expect("valid"));
        let other = |change: fn(&mut Rule, Option<IpNet>)| {
            let mut by_gre = rule(1, Protocol::Gre, Action::Refuse);
            change(&mut by_gre, elsewhere);
            let policy = Policy::new(vec![by_gre]);
            policy.decide(way(), kernel())
        };
        assert_eq!(other(|rule, net| rule.source = net), Some(over(1)));
        assert_eq!(other(|rule, net| rule.destination = net), Some(over(1)));
        assert_eq!(other(|rule, _| rule.is_foreign = true), Some(over(1)));
        assert_eq!(other(|rule, _| rule.is_inverted = true), Some(over(1)));
        assert_eq!(other(|_, _| {}), None);
    }
}
