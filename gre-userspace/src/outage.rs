//! Why a tunnel is down, in words: for the log, which says it once, and for `gregw show tunnel`.
//!
//! `adjacency` knows the reason; here it gets the names that an operator knows, and what to do about it.

use std::collections::{BTreeMap, BTreeSet};

use gre_common::limits;

use crate::adjacency::Way;
use crate::config::Name;
use crate::netlink::Hop;
use crate::report::DownReason;

/// Tunnels that the log names where one reason concerns many.
const NAMED: usize = 3;

/// Reason and remedy in one sentence; `device` is the name of the next hop's.
pub(crate) fn explanation(
    reason: DownReason,
    way: Way,
    hop: Option<Hop>,
    device: Option<&str>,
) -> String {
    let device = device.unwrap_or("?");
    let Way { local, remote } = way;
    let hop = hop.map_or(remote, |hop| hop.address);
    match reason {
        DownReason::NoRoute => format!(
            "the host has no route to {remote}: `ip route get {remote} from {local}` must name an underlay device"
        ),
        DownReason::LocalMissing => format!(
            "the host has no address {local}, so that nobody finds the way to it: `ip addr add {local} dev …`, unless \
             routers send it here without asking"
        ),
        DownReason::NoUnderlay => format!(
            "the host's route to {remote} leads over {device}: make that an [[underlay]], or route {remote} over one"
        ),
        DownReason::DeviceDown => {
            format!("{device} is down: `ip link set {device} up`, or see to its carrier")
        }
        DownReason::NoProgram => {
            format!("the program is not on {device}: `gregw show device {device}` tells why")
        }
        DownReason::Unresolved => format!("{hop} has been asked for on {device}, no answer yet"),
        DownReason::NoAnswer => format!(
            "{hop} does not answer on {device}: is it up, on this link, and not kept from answering by a filter?"
        ),
        DownReason::NeighboursFull => neighbours_full(hop.is_ipv6()),
        DownReason::NextHopsFull => format!(
            "there are already {} next hops: route remotes over fewer routers",
            limits::ADJACENCIES
        ),
    }
}

/// What has happened to tunnels and is still to be logged: the last of each, and one line for all that share a cause.
#[derive(Debug, Default)]
pub(crate) struct Announcements(BTreeMap<Name, Announcement>);

/// What has happened to one tunnel.
#[derive(Clone, Debug)]
pub(crate) enum Announcement {
    /// All is well again.
    Up,
    /// Something is wrong.
    Fault {
        /// Packets can be sent nevertheless.
        is_up: bool,
        /// The cause as others may share it.
        reason: DownReason,
        /// The next hop's device.
        device: Option<String>,
        /// The cause as it is this tunnel's.
        explanation: String,
    },
}

impl Announcements {
    /// Notes what has happened to a tunnel.
    pub(crate) fn add(&mut self, tunnel: Name, announcement: Announcement) {
        self.0.insert(tunnel, announcement);
    }

    /// Writes the lines, and forgets them.
    pub(crate) fn log(&mut self) {
        for line in self.take_lines() {
            match line {
                Line::Up(text) => tracing::info!("{text}"),
                Line::Fault(text) => tracing::warn!("{text}"),
            }
        }
    }

    fn take_lines(&mut self) -> Vec<Line> {
        let mut up = Vec::new();
        let mut faults: BTreeMap<_, (Vec<Name>, BTreeSet<String>)> = BTreeMap::new();
        for (tunnel, announcement) in std::mem::take(&mut self.0) {
            match announcement {
                Announcement::Up => up.push(tunnel),
                Announcement::Fault {
                    is_up,
                    reason,
                    device,
                    explanation,
                } => {
                    let (tunnels, explanations) =
                        faults.entry((is_up, reason, device)).or_default();
                    tunnels.push(tunnel);
                    explanations.insert(explanation);
                }
            }
        }
        let mut lines = Vec::new();
        if !up.is_empty() {
            lines.push(Line::Up(format!("{} up", subject(&up))));
        }
        for ((is_up, ..), (tunnels, explanations)) in faults {
            let example = explanations.first().map_or("", String::as_str);
            let others = match explanations.len() {
                0 | 1 => String::new(),
                causes => format!(" (and {} like that: `gregw show tunnel`)", causes - 1),
            };
            let subject = subject(&tunnels);
            let state = if is_up { "up, but" } else { "down:" };
            lines.push(Line::Fault(format!("{subject} {state} {example}{others}")));
        }
        lines
    }
}

enum Line {
    Up(String),
    Fault(String),
}

fn neighbours_full(ipv6: bool) -> String {
    let family = if ipv6 { "ipv6" } else { "ipv4" };
    format!(
        "the kernel's neighbour table is full: in the initial network namespace, `sysctl -w \
         net.{family}.neigh.default.gc_thresh3=` a number above the host's neighbours in all namespaces"
    )
}

fn subject(tunnels: &[Name]) -> String {
    let names = |tunnels: &[Name]| {
        let names: Vec<_> = tunnels.iter().map(Name::as_str).collect();
        names.join(", ")
    };
    match tunnels {
        [tunnel] => format!("tunnel {tunnel} is"),
        few if few.len() <= NAMED => format!("tunnels {} are", names(few)),
        many => format!(
            "{} tunnels ({} and {} more) are",
            many.len(),
            names(&many[..NAMED]),
            many.len() - NAMED
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(explanation: &str) -> Announcement {
        Announcement::Fault {
            is_up: false,
            reason: DownReason::NoAnswer,
            device: Some("eth0".to_owned()),
            explanation: explanation.to_owned(),
        }
    }

    fn texts(announcements: &mut Announcements) -> Vec<String> {
        let lines = announcements.take_lines().into_iter();
        lines
            .map(|line| match line {
                Line::Up(text) | Line::Fault(text) => text,
            })
            .collect()
    }

    #[test]
    fn many_tunnels_with_one_cause_are_one_line_and_each_is_told_its_last_state_once() {
        let mut announcements = Announcements::default();
        let name = |number: u32| Name::new(&format!("t{number}")).expect("a name");
        for number in 0..9 {
            announcements.add(name(number), down("192.0.2.9 does not answer"));
        }
        announcements.add(name(8), down("192.0.2.8 does not answer"));
        announcements.add(name(7), Announcement::Up);
        assert_eq!(
            texts(&mut announcements),
            [
                "tunnel t7 is up",
                "8 tunnels (t0, t1, t2 and 5 more) are down: 192.0.2.8 does not answer (and 1 like that: `gregw show tunnel`)",
            ]
        );
        assert!(texts(&mut announcements).is_empty());
        announcements.add(name(1), down("192.0.2.9 does not answer"));
        announcements.add(name(2), down("192.0.2.9 does not answer"));
        assert_eq!(
            texts(&mut announcements),
            ["tunnels t1, t2 are down: 192.0.2.9 does not answer"]
        );
    }

    #[test]
    fn the_remedy_for_a_full_table_names_the_family() {
        let way = Way {
            local: "2001:db8::1".parse().expect("valid"),
            remote: "2001:db8::2".parse().expect("valid"),
        };
        let text = explanation(DownReason::NeighboursFull, way, None, None);
        assert!(text.contains("net.ipv6.neigh.default.gc_thresh3"), "{text}");
    }
}
