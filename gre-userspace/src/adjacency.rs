//! Which tunnel goes to which underlay next hop, and what is known of each next hop. Pure: no I/O, the clock comes in.
//!
//! The daemon feeds it tunnels, routes, neighbours and devices as they change, and writes out what [`Adjacencies`]
//! says has changed. Indexed by next hop: a router that changes its layer-2 address costs one entry, however many
//! tunnels use it. Holds: a tunnel whose remote is unreachable has the adjacency [`UNREACHABLE`], which never resolves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use gre_common::entry::AdjacencyEntry;
use gre_common::id::{AdjacencyId, IfIndex, MacAddress, TunnelId};
use gre_common::limits;
use gre_common::wire::ether::LinkAddresses;
use ipnet::IpNet;

use crate::id_pool::IdPool;
use crate::netlink::{Hop, KernelNeighbour};
use crate::report::DownReason;

/// The adjacency of tunnels that no route leads to: its entry stays zero.
pub const UNREACHABLE: AdjacencyId = AdjacencyId(0);

/// How often the kernel is asked to resolve a next hop that it does not know.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(1);
/// Answers that a next hop may owe before the kernel is asked to judge it.
const MISSED_LIMIT: u32 = 10;
/// Time that an answer may take on top of the time since the question: clocks of the kernel tick slowly.
const SLACK: Duration = Duration::from_millis(50);
/// Most next hops probed in one round; the others have their turn in the next ones.
const ROUND_LIMIT: usize = 200;

/// The two ends of a tunnel; tunnels between the same ends share all that is looked up for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Way {
    /// Outer source.
    pub local: IpAddr,
    /// Outer destination.
    pub remote: IpAddr,
}

/// What packets to a next hop on an underlay device meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// They can be sent.
    Ready(UnderlayDevice),
    /// The device is switched off or has no carrier.
    Down,
    /// Somebody has taken the program off, so that no answer would be received.
    Bare,
}

/// An underlay device that carries the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderlayDevice {
    /// Its layer-2 address.
    pub mac: MacAddress,
    /// Greatest IP packet, in bytes.
    pub mtu: u16,
}

/// The next hops of all tunnels.
#[derive(Debug)]
pub struct Adjacencies {
    ways: BTreeMap<Way, WayState>,
    tunnels: HashMap<TunnelId, Way>,
    hops: BTreeMap<Hop, HopState>,
    by_id: HashMap<AdjacencyId, Hop>,
    devices: HashMap<IfIndex, Underlay>,
    ids: IdPool,
    changes: Changes,
    /// Ends that packets may have come to reach, or no longer reach, or for another reason.
    unjudged: BTreeSet<Way>,
    /// Next hops that nothing leads to any more, and that the kernel is to be told about.
    released: BTreeSet<Hop>,
    /// The host's own addresses, once they are known.
    addresses: Option<BTreeSet<IpAddr>>,
    /// Ends whose route the kernel gave no answer about.
    unanswered: BTreeSet<Way>,
    /// Where the next round of probes begins.
    cursor: Option<Hop>,
}

/// What has to be written out: entries first, then tunnels, so that no tunnel meets an old entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Entries to write, also those of next hops that nobody uses any more (zero).
    pub entries: BTreeSet<AdjacencyId>,
    /// Tunnels that have another adjacency now.
    pub tunnels: BTreeSet<TunnelId>,
}

/// Something about a way that the operator is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// The ends.
    pub way: Way,
    /// The next hop; `None` while no route leads to the remote.
    pub hop: Option<Hop>,
    /// Whether packets can be sent.
    pub is_up: bool,
    /// Why they cannot, or why none come back; `None`: all is well again.
    pub reason: Option<DownReason>,
}

/// What the kernel has come to about a next hop whose layer-2 address it does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finding {
    /// Nothing yet.
    #[default]
    Open,
    /// Nobody answers.
    Silent,
    /// It has no room for an entry.
    TableFull,
}

/// What is known of a tunnel's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The adjacency to write into the tunnel's entry.
    pub id: AdjacencyId,
    /// The next hop; `None` while no route leads to the remote.
    pub hop: Option<Hop>,
    /// Its layer-2 address, if packets can be sent.
    pub mac: Option<MacAddress>,
    /// Greatest IP packet that the route states, in bytes.
    pub mtu: Option<u32>,
    /// Why packets cannot be sent, or why none come back.
    pub reason: Option<DownReason>,
    /// Since when packets can be sent, or cannot.
    pub since: Option<Instant>,
}

/// Something to do about a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Have the kernel resolve it, and report what it knows by [`Adjacencies::set_neighbour`].
    Resolve(Hop),
    /// Compare with the kernel's entry, report that by [`Adjacencies::heard`], then ask the next hop whether it still
    /// is where it was.
    Confirm(Confirm),
}

/// A question to a next hop that is thought to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// Whom to ask.
    pub hop: Hop,
    /// An own address that the answer goes to, of the same family.
    pub source: IpAddr,
}

#[derive(Debug, Default)]
struct WayState {
    tunnels: BTreeSet<TunnelId>,
    hop: Option<Hop>,
    /// Greatest IP packet that the route states, in bytes.
    mtu: Option<u32>,
    /// It is kept though no tunnel may use it.
    held: bool,
    /// Whether packets could be sent when it was last judged, and since when that has been so.
    judged: Option<(bool, Instant)>,
    /// What the operator was last told.
    told: Option<DownReason>,
}

#[derive(Debug)]
struct HopState {
    id: AdjacencyId,
    mac: Option<MacAddress>,
    finding: Finding,
    ways: BTreeSet<Way>,
    /// When it was last asked, or became known.
    asked: Instant,
    missed: u32,
    next_resolve: Instant,
}

impl Default for Adjacencies {
    fn default() -> Self {
        Self {
            ways: BTreeMap::new(),
            tunnels: HashMap::new(),
            hops: BTreeMap::new(),
            by_id: HashMap::new(),
            devices: HashMap::new(),
            ids: IdPool::new(UNREACHABLE.0 + 1, limits::ADJACENCIES as u32),
            changes: Changes::default(),
            unjudged: BTreeSet::new(),
            released: BTreeSet::new(),
            addresses: None,
            unanswered: BTreeSet::new(),
            cursor: None,
        }
    }
}

impl Adjacencies {
    /// Keeps what is known, and will be, about these ends until [`Adjacencies::release_ways`], whether or not a tunnel
    /// uses them. Returns whether nothing is known, so that the caller has to look their route up.
    pub fn hold_way(&mut self, way: Way) -> bool {
        let unknown = !self.ways.contains_key(&way);
        self.ways.entry(way).or_default().held = true;
        unknown
    }

    /// Forgets all ends that no tunnel uses.
    pub fn release_ways(&mut self, now: Instant) {
        for state in self.ways.values_mut() {
            state.held = false;
        }
        let unused = self.ways.iter();
        let unused: Vec<_> = unused
            .filter(|(_, state)| state.tunnels.is_empty())
            .map(|(way, _)| *way)
            .collect();
        for way in unused {
            self.forget_if_unused(way, now);
        }
    }

    /// Notes a tunnel, or its new ends. Returns whether nothing is known about these ends, so that the caller has to
    /// look their route up.
    pub fn insert_tunnel(&mut self, tunnel: TunnelId, way: Way, now: Instant) -> bool {
        if self.tunnels.get(&tunnel) == Some(&way) {
            return false;
        }
        self.remove_tunnel(tunnel, now);
        self.tunnels.insert(tunnel, way);
        let unknown = !self.ways.contains_key(&way);
        self.ways.entry(way).or_default().tunnels.insert(tunnel);
        self.changes.tunnels.insert(tunnel);
        self.unjudged.insert(way);
        unknown
    }

    /// Forgets a tunnel.
    pub fn remove_tunnel(&mut self, tunnel: TunnelId, now: Instant) {
        self.changes.tunnels.remove(&tunnel);
        let Some(way) = self.tunnels.remove(&tunnel) else {
            return;
        };
        let Some(state) = self.ways.get_mut(&way) else {
            return;
        };
        state.tunnels.remove(&tunnel);
        self.forget_if_unused(way, now);
    }

    /// Notes where packets between these ends go. Returns the next hop if it is new, so that the caller has to look
    /// its neighbour entry up.
    pub fn set_route(&mut self, way: Way, hop: Option<Hop>, now: Instant) -> Option<Hop> {
        self.unanswered.remove(&way);
        let state = self.ways.get_mut(&way)?;
        if state.hop == hop {
            return None;
        }
        let old = std::mem::replace(&mut state.hop, hop);
        self.changes.tunnels.extend(&state.tunnels);
        self.unjudged.insert(way);
        let is_new = hop.is_some_and(|hop| self.join(way, hop, now));
        self.leave(way, old, now);
        hop.filter(|_| is_new)
    }

    /// Notes the greatest IP packet that the route between these ends states.
    pub fn set_mtu(&mut self, way: Way, mtu: Option<u32>) {
        if let Some(state) = self.ways.get_mut(&way)
            && state.mtu != mtu
        {
            state.mtu = mtu;
            self.changes.tunnels.extend(&state.tunnels);
        }
    }

    /// Notes the host's own addresses.
    pub fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        let before = self.addresses.replace(addresses);
        let ways = self.ways.keys().copied();
        self.unjudged.extend(ways.filter(|way| {
            let was_missing = is_missing(before.as_ref(), way.local);
            was_missing != is_missing(self.addresses.as_ref(), way.local)
        }));
    }

    /// Notes that the kernel gave no answer about the route between these ends: what is known of it stays, and
    /// [`Adjacencies::take_unanswered`] tells to look it up again.
    pub fn set_unanswered(&mut self, way: Way) {
        if self.ways.contains_key(&way) {
            self.unanswered.insert(way);
        }
    }

    /// Ends whose route has to be looked up again, because there was no answer.
    pub fn take_unanswered(&mut self) -> Vec<Way> {
        std::mem::take(&mut self.unanswered).into_iter().collect()
    }

    /// Notes the kernel's neighbour entry. Returns whether a next hop is concerned and was changed by that.
    pub fn set_neighbour(&mut self, hop: Hop, mac: Option<MacAddress>, now: Instant) -> bool {
        let Some(state) = self.hops.get_mut(&hop) else {
            return false;
        };
        if state.mac == mac {
            return false;
        }
        if state.mac.is_some() != mac.is_some() {
            state.finding = Finding::Open;
            self.unjudged.extend(&state.ways);
        }
        state.mac = mac;
        state.missed = 0;
        if mac.is_none() {
            state.next_resolve = now;
        }
        self.changes.entries.insert(state.id);
        true
    }

    /// Notes what the kernel has come to about a next hop that it cannot resolve.
    pub fn set_finding(&mut self, hop: Hop, finding: Finding) {
        if let Some(state) = self.hops.get_mut(&hop)
            && state.mac.is_none()
            && state.finding != finding
        {
            state.finding = finding;
            self.unjudged.extend(&state.ways);
        }
    }

    /// Notes an underlay device; `None`: the device is none.
    pub fn set_device(&mut self, index: IfIndex, device: Option<Underlay>) {
        let old = match device {
            Some(device) => self.devices.insert(index, device),
            None => self.devices.remove(&index),
        };
        if old != device {
            for (_, state) in self.hops.iter().filter(|(hop, _)| hop.device == index) {
                self.changes.entries.insert(state.id);
                self.unjudged.extend(&state.ways);
            }
        }
    }

    /// The underlay devices.
    pub fn devices(&self) -> Vec<IfIndex> {
        self.devices.keys().copied().collect()
    }

    /// The ends of all tunnels.
    pub fn ways(&self) -> Vec<Way> {
        self.ways.keys().copied().collect()
    }

    /// The ends of tunnels whose remote lies in one of `destinations`.
    pub fn ways_to(&self, destinations: &[IpNet]) -> Vec<Way> {
        self.ways
            .keys()
            .filter(|way| {
                let mut prefixes = destinations.iter();
                prefixes.any(|prefix| prefix.contains(&way.remote))
            })
            .copied()
            .collect()
    }

    /// The tunnels behind a next hop.
    pub fn tunnels_behind(&self, id: AdjacencyId) -> impl Iterator<Item = TunnelId> {
        let state = self.by_id.get(&id).and_then(|hop| self.hops.get(hop));
        let ways = state.into_iter().flat_map(|state| &state.ways);
        ways.filter_map(|way| self.ways.get(way))
            .flat_map(|way| way.tunnels.iter().copied())
    }

    /// All next hops.
    pub fn hops(&self) -> Vec<Hop> {
        self.hops.keys().copied().collect()
    }

    /// What is known of a tunnel's way.
    pub fn status(&self, tunnel: TunnelId) -> Status {
        let way = self.tunnels.get(&tunnel);
        let state = way.and_then(|way| self.ways.get(way));
        let hop = state.and_then(|state| state.hop);
        let outage = way.map_or(Some(DownReason::Unresolved), |way| self.outage(*way));
        let found = hop.and_then(|hop| self.hops.get(&hop));
        Status {
            id: found.map_or(UNREACHABLE, |found| found.id),
            hop,
            mac: found
                .filter(|_| outage.is_none())
                .and_then(|found| found.mac),
            mtu: state.and_then(|state| state.mtu),
            reason: way.map_or(outage, |way| self.reason(*way)),
            since: state.and_then(|state| Some(state.judged?.1)),
        }
    }

    /// Judges the ways that something has changed about, and returns what the operator has not been told yet.
    pub fn take_news(&mut self, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        for way in std::mem::take(&mut self.unjudged) {
            let (is_up, reason) = (self.outage(way).is_none(), self.reason(way));
            let Some(state) = self.ways.get_mut(&way) else {
                continue;
            };
            if state.tunnels.is_empty() {
                continue;
            }
            if state.judged.is_none_or(|(was_up, _)| was_up != is_up) {
                state.judged = Some((is_up, now));
            }
            // That the kernel has only just asked is soon told otherwise.
            if state.told != reason && reason != Some(DownReason::Unresolved) {
                state.told = reason;
                let hop = state.hop;
                news.push(News {
                    way,
                    hop,
                    is_up,
                    reason,
                });
            }
        }
        news
    }

    /// The tunnels between two ends.
    pub fn tunnels_between(&self, way: Way) -> impl Iterator<Item = TunnelId> {
        let state = self.ways.get(&way).into_iter();
        state.flat_map(|state| state.tunnels.iter().copied())
    }

    /// Next hops that nothing leads to any more since the last call.
    pub fn take_released(&mut self) -> Vec<Hop> {
        let released = std::mem::take(&mut self.released).into_iter();
        released
            .filter(|hop| !self.hops.contains_key(hop))
            .collect()
    }

    /// What the operator is to know: that `local` is missing explains all else.
    fn reason(&self, way: Way) -> Option<DownReason> {
        if is_missing(self.addresses.as_ref(), way.local) {
            return Some(DownReason::LocalMissing);
        }
        self.outage(way)
    }

    /// Why packets cannot be sent to a remote; `None`: they can.
    fn outage(&self, way: Way) -> Option<DownReason> {
        let Some(hop) = self.ways.get(&way).and_then(|state| state.hop) else {
            return Some(if self.unanswered.contains(&way) {
                DownReason::Unresolved
            } else {
                DownReason::NoRoute
            });
        };
        let Some(state) = self.hops.get(&hop) else {
            return Some(DownReason::NextHopsFull);
        };
        match self.devices.get(&hop.device) {
            None => return Some(DownReason::NoUnderlay),
            Some(Underlay::Down) => return Some(DownReason::DeviceDown),
            Some(Underlay::Bare) => return Some(DownReason::NoProgram),
            Some(Underlay::Ready(_)) => {}
        }
        match (state.mac, state.finding) {
            (Some(_), _) => None,
            (None, Finding::Open) => Some(DownReason::Unresolved),
            (None, Finding::Silent) => Some(DownReason::NoAnswer),
            (None, Finding::TableFull) => Some(DownReason::NeighboursFull),
        }
    }

    /// The contents of an adjacency's entry: zero if nobody uses it.
    pub fn entry(&self, id: AdjacencyId) -> AdjacencyEntry {
        let known = self.by_id.get(&id).and_then(|hop| {
            let state = self.hops.get(hop)?;
            let Underlay::Ready(device) = self.devices.get(&hop.device)? else {
                return None;
            };
            Some(AdjacencyEntry {
                device: hop.device,
                addresses: LinkAddresses::new(&state.mac.unwrap_or_default(), &device.mac),
                mtu: if state.mac.is_some() { device.mtu } else { 0 },
                reserved: 0,
            })
        });
        known.unwrap_or_default()
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// What to do about next hops in this round.
    pub fn round(&mut self, now: Instant) -> Vec<Task> {
        let mut tasks = Vec::new();
        for hop in self.turns() {
            let Some(state) = self.hops.get_mut(&hop) else {
                continue;
            };
            let judged = state.mac.is_none() || state.missed >= MISSED_LIMIT;
            if judged && now >= state.next_resolve {
                state.next_resolve = now + RESOLVE_INTERVAL;
                tasks.push(Task::Resolve(hop));
            }
            let source = state
                .ways
                .iter()
                .map(|way| way.local)
                .find(|local| local.is_ipv4() == hop.address.is_ipv4());
            if let (Some(_), Some(source)) = (state.mac, source) {
                tasks.push(Task::Confirm(Confirm { hop, source }));
            }
        }
        tasks
    }

    /// Notes what the kernel knows before a next hop is asked again.
    /// Returns where to send the question: to the known address, or (`None`) to all stations once an answer is missing.
    /// No question at all for entries that were made by hand, and for hops that nobody uses any more.
    pub fn heard(
        &mut self,
        hop: Hop,
        neighbour: Option<KernelNeighbour>,
        now: Instant,
    ) -> Option<Option<MacAddress>> {
        self.set_neighbour(hop, neighbour.and_then(|neighbour| neighbour.mac), now);
        let state = self.hops.get_mut(&hop)?;
        let mac = state.mac?;
        let unconfirmed = neighbour?.unconfirmed?;
        let since = now.duration_since(std::mem::replace(&mut state.asked, now));
        state.missed = if unconfirmed <= since + SLACK {
            0
        } else {
            state.missed.saturating_add(1)
        };
        Some((state.missed <= 1).then_some(mac))
    }

    fn forget_if_unused(&mut self, way: Way, now: Instant) {
        if let Some(state) = self.ways.get(&way)
            && state.tunnels.is_empty()
            && !state.held
        {
            let hop = state.hop;
            self.ways.remove(&way);
            self.unanswered.remove(&way);
            self.unjudged.remove(&way);
            self.leave(way, hop, now);
        }
    }

    /// The next hops whose turn it is.
    fn turns(&mut self) -> Vec<Hop> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let start = self.cursor.map_or(Unbounded, Excluded);
        let end = self.cursor.map_or(Excluded(Hop::FIRST), Included);
        let behind = self.hops.range((start, Unbounded));
        let before = self.hops.range((Unbounded, end));
        let turns: Vec<Hop> = behind
            .chain(before)
            .map(|(hop, _)| *hop)
            .take(ROUND_LIMIT)
            .collect();
        self.cursor = turns.last().copied();
        turns
    }

    /// Returns whether the next hop is new.
    fn join(&mut self, way: Way, hop: Hop, now: Instant) -> bool {
        if let Some(state) = self.hops.get_mut(&hop) {
            state.ways.insert(way);
            return false;
        }
        let Some(id) = self.ids.allocate(now).map(AdjacencyId) else {
            tracing::warn!(
                "{} cannot be reached: there are already {} next hops",
                way.remote,
                limits::ADJACENCIES
            );
            return false;
        };
        let state = HopState {
            id,
            mac: None,
            finding: Finding::Open,
            ways: BTreeSet::from([way]),
            asked: now,
            missed: 0,
            next_resolve: now,
        };
        self.hops.insert(hop, state);
        self.by_id.insert(id, hop);
        self.changes.entries.insert(id);
        true
    }

    fn leave(&mut self, way: Way, hop: Option<Hop>, now: Instant) {
        let Some(hop) = hop else { return };
        let Some(state) = self.hops.get_mut(&hop) else {
            return;
        };
        state.ways.remove(&way);
        if state.ways.is_empty() {
            let id = state.id;
            self.hops.remove(&hop);
            self.by_id.remove(&id);
            self.changes.entries.insert(id);
            self.ids.release(id.0, now);
            self.released.insert(hop);
        }
    }
}

/// Whether the host certainly has no such address.
fn is_missing(addresses: Option<&BTreeSet<IpAddr>>, local: IpAddr) -> bool {
    addresses.is_some_and(|addresses| !addresses.contains(&local))
}

impl Task {
    /// The next hop that it is about.
    pub fn hop(self) -> Hop {
        match self {
            Self::Resolve(hop) | Self::Confirm(Confirm { hop, .. }) => hop,
        }
    }
}

impl Hop {
    const FIRST: Self = Self {
        device: IfIndex(0),
        address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Kept;

    const ETH0: IfIndex = IfIndex(2);
    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const ROUTER: MacAddress = MacAddress([2, 0, 0, 0, 0, 0xfe]);

    fn way(last: u8) -> Way {
        Way {
            local: IpAddr::from([192, 0, 2, 1]),
            remote: IpAddr::from([198, 51, 100, last]),
        }
    }

    fn router(last: u8) -> Hop {
        Hop {
            device: ETH0,
            address: IpAddr::from([192, 0, 2, last]),
        }
    }

    /// `tunnels` tunnels to as many remotes behind one router, everything resolved and written out.
    fn behind_one_router(tunnels: u8, now: Instant) -> Adjacencies {
        let mut adjacencies = Adjacencies::default();
        adjacencies.set_device(
            ETH0,
            Some(Underlay::Ready(UnderlayDevice {
                mac: MAC,
                mtu: 1500,
            })),
        );
        for last in 0..tunnels {
            assert!(adjacencies.insert_tunnel(TunnelId(last.into()), way(last), now));
            adjacencies.set_route(way(last), Some(router(254)), now);
        }
        adjacencies.set_neighbour(router(254), Some(ROUTER), now);
        adjacencies.take_changes();
        adjacencies
    }

    #[test]
    fn a_thousand_tunnels_behind_one_router_cost_one_entry_when_it_changes() {
        let now = Instant::now();
        let mut adjacencies = behind_one_router(200, now);
        let id = adjacencies.status(TunnelId(0)).id;
        assert_ne!(id, UNREACHABLE);

        let other = MacAddress([2, 0, 0, 0, 0, 0xfd]);
        assert!(adjacencies.set_neighbour(router(254), Some(other), now));
        let changes = adjacencies.take_changes();
        assert_eq!(changes.entries, BTreeSet::from([id]));
        assert!(changes.tunnels.is_empty());
        assert_eq!(adjacencies.entry(id).addresses.destination(), other);
        assert_eq!(adjacencies.entry(id).addresses.source(), MAC);
        assert_eq!(adjacencies.tunnels_behind(id).count(), 200);
        assert_ne!(adjacencies.entry(id).mtu, 0);
    }

    #[test]
    fn ends_that_are_held_disturb_no_tunnel_and_are_forgotten_unless_one_uses_them() {
        let now = Instant::now();
        let mut adjacencies = behind_one_router(1, now);
        let id = adjacencies.status(TunnelId(0)).id;
        assert!(!adjacencies.hold_way(way(0)));
        assert!(adjacencies.hold_way(way(7)));
        adjacencies.set_route(way(7), Some(router(253)), now);
        adjacencies.set_neighbour(router(253), Some(ROUTER), now);
        assert!(adjacencies.take_changes().tunnels.is_empty());
        assert_eq!(adjacencies.status(TunnelId(0)).id, id);

        // There and back again, without a moment in which one of the ways is unknown.
        for (way, hop) in [(way(7), router(253)), (way(0), router(254))] {
            assert!(!adjacencies.insert_tunnel(TunnelId(0), way, now));
            let status = adjacencies.status(TunnelId(0));
            assert_eq!((status.hop, status.mac), (Some(hop), Some(ROUTER)));
        }
        adjacencies.release_ways(now);
        assert_eq!(adjacencies.ways(), [way(0)]);
        assert_eq!(adjacencies.hops(), [router(254)]);
    }

    #[test]
    fn a_changed_route_moves_only_the_tunnels_it_covers() {
        let now = Instant::now();
        let mut adjacencies = behind_one_router(4, now);
        let old = adjacencies.status(TunnelId(0)).id;
        let moved = adjacencies.ways_to(&["198.51.100.2/31".parse().expect("valid")]);
        assert_eq!(moved, [way(2), way(3)]);

        assert_eq!(
            adjacencies.set_route(way(2), Some(router(253)), now),
            Some(router(253))
        );
        let new = adjacencies.status(TunnelId(2)).id;
        assert_ne!(new, old);
        assert_eq!(adjacencies.entry(new).mtu, 0);
        let changes = adjacencies.take_changes();
        assert_eq!(changes.entries, BTreeSet::from([new]));
        assert_eq!(changes.tunnels, BTreeSet::from([TunnelId(2)]));
    }

    #[test]
    fn a_way_without_an_answer_keeps_its_next_hop_and_is_looked_up_again() {
        let now = Instant::now();
        let mut adjacencies = behind_one_router(2, now);
        let before = adjacencies.status(TunnelId(0));
        for way in [way(0), way(1), way(7)] {
            adjacencies.set_unanswered(way);
        }
        assert_eq!(adjacencies.status(TunnelId(0)), before);
        assert_eq!(adjacencies.take_changes(), Changes::default());
        // An answer settles it, and so does the end of the last tunnel.
        adjacencies.set_route(way(0), Some(router(254)), now);
        assert_eq!(adjacencies.take_unanswered(), [way(1)]);
        assert!(adjacencies.take_unanswered().is_empty());
        adjacencies.set_unanswered(way(1));
        adjacencies.remove_tunnel(TunnelId(1), now);
        assert!(adjacencies.take_unanswered().is_empty());
    }

    #[test]
    fn a_tunnel_without_route_has_an_entry_that_never_resolves() {
        let now = Instant::now();
        let mut adjacencies = behind_one_router(1, now);
        let old = adjacencies.status(TunnelId(0)).id;
        adjacencies.set_route(way(0), None, now);
        assert_eq!(adjacencies.status(TunnelId(0)).id, UNREACHABLE);
        assert_eq!(adjacencies.entry(UNREACHABLE), AdjacencyEntry::default());
        // Nobody is left behind the router: its entry is cleared.
        assert_eq!(adjacencies.entry(old), AdjacencyEntry::default());
        assert!(adjacencies.take_changes().entries.contains(&old));
        assert!(adjacencies.hops().is_empty());
    }

    #[test]
    fn next_hops_on_devices_without_the_program_stay_unresolved() {
        let now = Instant::now();
        let mut adjacencies = behind_one_router(1, now);
        let id = adjacencies.status(TunnelId(0)).id;
        adjacencies.set_device(ETH0, None);
        assert_eq!(adjacencies.take_changes().entries, BTreeSet::from([id]));
        assert_eq!(adjacencies.entry(id).mtu, 0);
        assert_eq!(adjacencies.status(TunnelId(0)).mac, None);
    }

    #[test]
    fn each_reason_is_told_once_with_the_time_of_the_first() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut adjacencies = behind_one_router(1, start);
        let reasons = |adjacencies: &mut Adjacencies, now| {
            let news = adjacencies.take_news(now).into_iter();
            news.map(|news| news.reason).collect::<Vec<_>>()
        };
        assert!(reasons(&mut adjacencies, start).is_empty(), "it is up");
        assert_eq!(adjacencies.status(TunnelId(0)).since, Some(start));

        let down = start + second;
        adjacencies.set_neighbour(router(254), None, down);
        assert!(
            reasons(&mut adjacencies, down).is_empty(),
            "it is asked for"
        );
        adjacencies.set_finding(router(254), Finding::Silent);
        let told = reasons(&mut adjacencies, down + second);
        assert_eq!(told, [Some(DownReason::NoAnswer)]);
        adjacencies.set_device(ETH0, Some(Underlay::Down));
        adjacencies.set_device(ETH0, None);
        adjacencies.set_device(ETH0, None);
        let told = reasons(&mut adjacencies, down + second * 2);
        assert_eq!(told, [Some(DownReason::NoUnderlay)]);
        adjacencies.set_route(way(0), None, down);
        let told = reasons(&mut adjacencies, down + second * 3);
        assert_eq!(told, [Some(DownReason::NoRoute)]);
        assert!(reasons(&mut adjacencies, down + second * 4).is_empty());
        let status = adjacencies.status(TunnelId(0));
        assert_eq!(status.since, Some(down));
        assert_eq!(status.reason, Some(DownReason::NoRoute));
    }

    #[test]
    fn a_local_address_that_the_host_has_not_is_told_and_stops_nothing() {
        let now = Instant::now();
        let mut adjacencies = behind_one_router(1, now);
        adjacencies.take_news(now);
        adjacencies.set_addresses(BTreeSet::from([way(0).local]));
        assert!(adjacencies.take_news(now).is_empty());
        adjacencies.set_addresses(BTreeSet::new());
        let [news] = adjacencies.take_news(now)[..] else {
            panic!("one thing is new")
        };
        assert!(news.is_up);
        assert_eq!(news.reason, Some(DownReason::LocalMissing));
        let status = adjacencies.status(TunnelId(0));
        assert_eq!(status.mac, Some(ROUTER));
        assert_eq!(status.reason, Some(DownReason::LocalMissing));
    }

    #[test]
    fn the_mtu_of_a_route_concerns_its_tunnels_only() {
        let now = Instant::now();
        let mut adjacencies = behind_one_router(2, now);
        adjacencies.set_mtu(way(1), Some(1400));
        let changes = adjacencies.take_changes();
        assert_eq!(changes.tunnels, BTreeSet::from([TunnelId(1)]));
        assert!(changes.entries.is_empty());
        assert_eq!(adjacencies.status(TunnelId(1)).mtu, Some(1400));
        adjacencies.set_mtu(way(1), Some(1400));
        assert_eq!(adjacencies.take_changes(), Changes::default());
    }

    #[test]
    fn next_hops_that_nothing_leads_to_any_more_are_released_once() {
        let now = Instant::now();
        let mut adjacencies = behind_one_router(2, now);
        adjacencies.set_route(way(0), None, now);
        assert!(adjacencies.take_released().is_empty());
        adjacencies.set_route(way(1), None, now);
        adjacencies.set_route(way(1), Some(router(254)), now);
        assert!(adjacencies.take_released().is_empty(), "it is used again");
        adjacencies.remove_tunnel(TunnelId(1), now);
        assert_eq!(adjacencies.take_released(), [router(254)]);
        assert!(adjacencies.take_released().is_empty());
    }

    #[test]
    fn unresolved_next_hops_are_asked_for_once_a_second() {
        let now = Instant::now();
        let mut adjacencies = behind_one_router(1, now);
        adjacencies.set_neighbour(router(254), None, now);
        let asked = (0..30u32)
            .map(|round| now + round * Duration::from_millis(100))
            .flat_map(|now| adjacencies.round(now))
            .inspect(|task| assert_eq!(*task, Task::Resolve(router(254))))
            .count();
        assert_eq!(asked, 3);
    }

    #[test]
    fn a_silent_next_hop_is_asked_for_by_broadcast_and_then_judged_by_the_kernel() {
        let now = Instant::now();
        let mut adjacencies = behind_one_router(1, now);
        let round = Duration::from_millis(300);
        let silent = |since| {
            Some(KernelNeighbour {
                hop: router(254),
                mac: Some(ROUTER),
                unconfirmed: Some(since),
                failed: false,
                kept: Kept::ByUs,
            })
        };
        let now = now + round;
        let question = adjacencies.heard(router(254), silent(round / 2), now);
        assert_eq!(question, Some(Some(ROUTER)));
        let now = now + round;
        let question = adjacencies.heard(router(254), silent(round * 2), now);
        assert_eq!(question, Some(Some(ROUTER)));
        for missed in 1..=MISSED_LIMIT {
            let now = now + round * missed;
            let question = adjacencies.heard(router(254), silent(round * 3), now);
            assert_eq!(question, Some(None));
        }
        let now = now + round * MISSED_LIMIT;
        assert!(adjacencies.round(now).contains(&Task::Resolve(router(254))));
    }

    #[test]
    fn a_next_hop_that_answers_is_not_silent_however_long_its_turn_took() {
        let mut now = Instant::now();
        let mut adjacencies = behind_one_router(1, now);
        for turn in [300, 2_000, 9_000].map(Duration::from_millis) {
            now += turn;
            let answered = KernelNeighbour {
                hop: router(254),
                mac: Some(ROUTER),
                unconfirmed: Some(turn - Duration::from_millis(1)),
                failed: false,
                kept: Kept::ByUs,
            };
            let question = adjacencies.heard(router(254), Some(answered), now);
            assert_eq!(question, Some(Some(ROUTER)));
        }
        assert_eq!(adjacencies.hops[&router(254)].missed, 0);
    }

    #[test]
    fn every_next_hop_has_its_turn_when_there_are_too_many_for_one_round() {
        let now = Instant::now();
        let mut adjacencies = Adjacencies::default();
        let count = ROUND_LIMIT as u32 * 2 + 7;
        for number in 0..count {
            let way = Way {
                local: IpAddr::from([192, 0, 2, 1]),
                remote: IpAddr::from([198, 51, (number >> 8) as u8, number as u8]),
            };
            adjacencies.insert_tunnel(TunnelId(number), way, now);
            let hop = Hop {
                device: ETH0,
                address: way.remote,
            };
            adjacencies.set_route(way, Some(hop), now);
        }
        let seen: BTreeSet<Hop> = (0..3)
            .flat_map(|_| adjacencies.round(now))
            .map(Task::hop)
            .collect();
        assert_eq!(seen.len(), count as usize);
    }
}
