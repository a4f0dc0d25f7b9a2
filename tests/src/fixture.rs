//! How a fixture is stated: a frame in, and claims about what both sides of the gateway made of it.

use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::time::Duration;

use gre_common::counters::{Direction, Owner, Stats};
use gre_common::id::{IfIndex, PortId};
use gre_common::verdict::DropReason;
use gre_model::{Action, Counters};

use crate::both_sides::{BothSides, Seen};
use crate::frames::{self, without_flow_label};

/// The gateway, which remembers nothing of earlier tests; `None` where tests cannot run.
pub fn gateway() -> Option<Bench> {
    if !crate::can_use_namespaces() {
        return None;
    }
    let mut both = BothSides::shared();
    both.forget();
    Some(Bench { both })
}

/// The gateway on both sides.
pub struct Bench {
    /// Both sides.
    pub both: MutexGuard<'static, BothSides>,
}

/// One frame's fate, and claims about it that panic with the case's name.
pub struct Case {
    /// What is special about the frame.
    pub name: String,
    /// What became of it.
    pub seen: Seen,
    underlay: IfIndex,
}

impl Bench {
    /// The router of the underlay delivers a frame.
    ///
    /// # Panics
    /// If the two sides differ.
    #[track_caller]
    pub fn site_sends(&mut self, name: &str, frame: &[u8]) -> Case {
        self.run(self.both.devices.underlay, name, frame)
    }

    /// The same so long after each tunnel has accepted its last sequence number.
    ///
    /// # Panics
    /// If the two sides differ.
    #[track_caller]
    pub fn site_sends_after(&mut self, silence: Duration, name: &str, frame: &[u8]) -> Case {
        let underlay = self.both.devices.underlay;
        let seen = self.both.run_after(silence, underlay, frame);
        self.case(name, seen)
    }

    /// A station on a port sends a frame.
    ///
    /// # Panics
    /// If the two sides differ.
    #[track_caller]
    pub fn machine_sends(&mut self, port: PortId, name: &str, frame: &[u8]) -> Case {
        self.run(frames::device(self.both.devices, port), name, frame)
    }

    /// A device receives a frame.
    ///
    /// # Panics
    /// If the two sides differ.
    #[track_caller]
    pub fn run(&mut self, device: IfIndex, name: &str, frame: &[u8]) -> Case {
        let seen = self.both.run(device, frame);
        self.case(name, seen)
    }

    fn case(&self, name: &str, seen: Seen) -> Case {
        self.both.compare();
        Case {
            name: name.to_owned(),
            seen,
            underlay: self.both.devices.underlay,
        }
    }
}

impl Case {
    /// The kernel gets the frame as it came, and nothing is counted.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn passes(&self, frame: &[u8]) {
        assert_eq!(
            self.seen.outcome.action,
            Action::Pass,
            "{}: {:?}",
            self.name,
            self.seen
        );
        assert_eq!(self.seen.outcome.frame, frame, "{}", self.name);
        assert_eq!(self.seen.counted, Counters::default(), "{}", self.name);
    }

    /// The frame leaves as `expected` on the same link, which is not traffic: nothing is counted.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn answers(&self, expected: &[u8]) {
        assert_eq!(
            self.seen.outcome.action,
            Action::Redirect,
            "{}: {:?}",
            self.name,
            self.seen
        );
        assert_eq!(
            hex(&self.seen.outcome.frame),
            hex(expected),
            "{}",
            self.name
        );
        assert_eq!(self.seen.counted, Counters::default(), "{}", self.name);
    }

    /// The frame ends here, uncounted: it answered a question of ours.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn is_used_up(&self) {
        assert_eq!(
            self.seen.outcome.action,
            Action::Drop,
            "{}: {:?}",
            self.name,
            self.seen
        );
        assert_eq!(self.seen.counted, Counters::default(), "{}", self.name);
    }

    /// The packet comes in from one owner and leaves to another as `expected`, whose flow label is not compared.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn leaves(&self, from: Owner, to: Owner, expected: &[u8]) {
        assert_eq!(
            self.seen.outcome.action,
            Action::Redirect,
            "{}: {:?}",
            self.name,
            self.seen
        );
        let (frame, label) = without_flow_label(&self.seen.outcome.frame);
        let (expected, _) = without_flow_label(expected);
        assert_eq!(hex(&frame), hex(&expected), "{}", self.name);
        let is_encapsulated = matches!(to, Owner::Tunnel(_));
        assert!(
            !is_encapsulated || label != Some(0),
            "{}: no flow label",
            self.name
        );
        let traffic = |direction| {
            let stats = self
                .seen
                .counted
                .stats
                .iter()
                .filter(move |(_, stats)| match direction {
                    Direction::Receive => stats.receive_packets > 0,
                    Direction::Transmit => stats.transmit_packets > 0,
                });
            stats.map(|(owner, _)| *owner).collect::<Vec<_>>()
        };
        assert_eq!(traffic(Direction::Receive), [from], "{}", self.name);
        assert_eq!(traffic(Direction::Transmit), [to], "{}", self.name);
        assert_eq!(self.seen.counted.drops, BTreeMap::new(), "{}", self.name);
        let (received, sent) = self
            .seen
            .counted
            .stats
            .values()
            .fold((0, 0), |(received, sent), stats| {
                (received + stats.receive_bytes, sent + stats.transmit_bytes)
            });
        assert_eq!(
            received, sent,
            "{}: bytes of the inner packet on both sides",
            self.name
        );
    }

    /// The packet is for the gateway, but no tunnel claims it.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn is_dropped_unclaimed(&self, reason: DropReason) {
        self.is_charged(Owner::Underlay(self.underlay), Direction::Receive, reason);
        assert_eq!(self.seen.counted.stats, BTreeMap::new(), "{}", self.name);
    }

    /// The packet is dropped where it came in.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn is_dropped(&self, owner: Owner, reason: DropReason) {
        self.is_charged(owner, Direction::Receive, reason);
        self.is_received_by(owner);
    }

    /// The packet is dropped where it was to leave.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn is_dropped_on_the_way_out(&self, from: Owner, to: Owner, reason: DropReason) {
        self.is_charged(to, Direction::Transmit, reason);
        self.is_received_by(from);
    }

    #[track_caller]
    fn is_charged(&self, owner: Owner, direction: Direction, reason: DropReason) {
        assert_eq!(
            self.seen.outcome.action,
            Action::Drop,
            "{}: {:?}",
            self.name,
            self.seen
        );
        let charged = BTreeMap::from([((owner, direction, reason), 1)]);
        assert_eq!(self.seen.counted.drops, charged, "{}", self.name);
    }

    #[track_caller]
    fn is_received_by(&self, owner: Owner) {
        let stats: Vec<(Owner, Stats)> = self.seen.counted.stats.clone().into_iter().collect();
        let [(by, counted)] = stats[..] else {
            panic!("{}: {stats:?}", self.name);
        };
        assert_eq!(
            (by, counted.receive_packets, counted.transmit_packets),
            (owner, 1, 0),
            "{}",
            self.name
        );
    }
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).map(|line| format!("{line:02x?}\n"));
    lines.collect()
}
