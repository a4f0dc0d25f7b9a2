//! What can be seen of a packet's way from outside: action, bytes and counters, alike for kernel and host.

use std::collections::BTreeMap;

use gre_common::counters::{Direction, Owner, Stats};
use gre_common::verdict::DropReason;

/// What happens to a frame, in the words of XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It is gone.
    Drop,
    /// The kernel gets it.
    Pass,
    /// It leaves through a device.
    Redirect,
}

/// The result of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What happens to the frame.
    pub action: Action,
    /// The frame as it is then; empty after a drop, where its bytes mean nothing.
    pub frame: Vec<u8>,
}

/// Everything that is counted. Zeros have no entry, so that two sides compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Traffic of tunnels and ports.
    pub stats: BTreeMap<Owner, Stats>,
    /// Drops by what they are charged to.
    pub drops: BTreeMap<(Owner, Direction, DropReason), u64>,
}

impl Counters {
    /// Packets received from ports and tunnels.
    pub fn received(&self) -> u64 {
        self.stats.values().map(|stats| stats.receive_packets).sum()
    }

    /// Packets sent to ports and tunnels.
    pub fn transmitted(&self) -> u64 {
        self.stats
            .values()
            .map(|stats| stats.transmit_packets)
            .sum()
    }

    /// Packets dropped after they had been counted as received.
    pub fn dropped(&self) -> u64 {
        let charged = self
            .drops
            .iter()
            .filter(|((owner, ..), _)| !is_underlay(*owner));
        charged.map(|(_, count)| count).sum()
    }

    /// Packets dropped that no tunnel claimed, and that therefore were never counted as received.
    pub fn dropped_unclaimed(&self) -> u64 {
        let unclaimed = self
            .drops
            .iter()
            .filter(|((owner, ..), _)| is_underlay(*owner));
        unclaimed.map(|(_, count)| count).sum()
    }

    /// Whether every packet that came in also went out or was dropped: received = transmitted + dropped.
    pub fn are_balanced(&self) -> bool {
        self.received() == self.transmitted() + self.dropped()
    }

    /// What was counted between `earlier` and now.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = Self::default();
        for (owner, now) in &self.stats {
            let before = earlier.stats.get(owner).copied().unwrap_or_default();
            let stats = Stats {
                receive_packets: now.receive_packets - before.receive_packets,
                receive_bytes: now.receive_bytes - before.receive_bytes,
                transmit_packets: now.transmit_packets - before.transmit_packets,
                transmit_bytes: now.transmit_bytes - before.transmit_bytes,
            };
            if stats != Stats::default() {
                difference.stats.insert(*owner, stats);
            }
        }
        for (key, now) in &self.drops {
            let count = now - earlier.drops.get(key).copied().unwrap_or_default();
            if count > 0 {
                difference.drops.insert(*key, count);
            }
        }
        difference
    }
}

fn is_underlay(owner: Owner) -> bool {
    matches!(owner, Owner::Underlay(_))
}
