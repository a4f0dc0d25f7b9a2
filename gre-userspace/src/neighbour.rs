//! The machines on ports: who is known, who has to be asked, who has gone. Pure: no I/O, the clock comes in.
//!
//! The daemon feeds [`Neighbours`] what the data plane saw and missed and calls [`Neighbours::round`] a few times a
//! second; it carries out the [`Action`]s that come back. Holds: a machine has an entry before any route leads to it;
//! its id is given to another one only once no route leads to it any more.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use gre_common::entry::NeighbourEntry;
use gre_common::id::{Address, MacAddress, NeighbourId, PortId};
use gre_common::limits;
use ipnet::IpNet;

use crate::error::{Error, Result};
use crate::id_pool::IdPool;

/// Time between two calls of [`Neighbours::round`].
pub const ROUND: Duration = Duration::from_millis(300);

/// Most machines on one port, so that one tenant cannot use up the table.
pub const PORT_LIMIT: usize = 4096;

/// How long an unknown machine is given to answer before it is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How often an unknown machine is asked before a packet has to ask for it anew.
const TRIES: u32 = 3;
/// Unknown machines asked for at one time, for each port: a scan of a subnet goes no faster.
const INQUIRIES_LIMIT: usize = 1024;
/// Known machines asked in one round; the others have their turn in the next ones.
const ROUND_LIMIT: usize = 1000;
/// Answers a machine may owe before it counts as gone.
const MISSED_LIMIT: u32 = 5;
/// After this silence a machine may be anywhere: it is asked for by broadcast at once.
const SILENCE: Duration = Duration::from_secs(30);
/// An unused machine is forgotten after this time.
const LIFETIME: Duration = Duration::from_secs(600);

/// The machines of all ports.
#[derive(Debug)]
pub struct Neighbours {
    ports: HashMap<PortId, Port>,
    slots: Vec<Option<Machine>>,
    by_address: HashMap<(PortId, IpAddr), NeighbourId>,
    inquiries: HashMap<(PortId, IpAddr), Inquiry>,
    /// Forgotten machines that a route may lead to still.
    leaving: BTreeMap<NeighbourId, (PortId, IpAddr)>,
    ids: IdPool,
    actions: VecDeque<Action>,
    cursor: usize,
}

/// Something to do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the entry of a machine.
    Write(NeighbourId, NeighbourEntry),
    /// Route the machine's address to its entry, in the network of its port.
    AddRoute(PortId, IpAddr, NeighbourId),
    /// Take that route away again and zero the entry, then call [`Neighbours::gone`]. If it cannot be done now, it comes
    /// again in the next round.
    Forget(PortId, IpAddr, NeighbourId),
    /// Ask on the port who has `target`.
    Ask(Question),
}

/// Who has `target`?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where to ask.
    pub port: PortId,
    /// Whom to ask for.
    pub target: IpAddr,
    /// The port's own address in the target's subnet.
    pub source: IpAddr,
    /// Whom to send the question to; `None`: all stations.
    pub destination: Option<MacAddress>,
}

/// A known machine, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its port.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its layer-2 address, if it answers.
    pub mac: Option<MacAddress>,
}

#[derive(Debug, Default)]
struct Port {
    /// Own addresses with the lengths of the subnets.
    subnets: Vec<IpNet>,
    machines: usize,
    inquiries: usize,
    /// Machines turned away since the last round.
    refused: u64,
}

#[derive(Debug)]
struct Machine {
    port: PortId,
    address: IpAddr,
    /// The last layer-2 address that was seen.
    mac: MacAddress,
    resolved: bool,
    /// User routes that lead to it.
    references: u32,
    last_used: Instant,
    last_seen: Instant,
    /// Questions without an answer.
    owed: u32,
}

#[derive(Debug)]
struct Inquiry {
    tries: u32,
    next: Instant,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self {
            ports: HashMap::new(),
            slots: Vec::new(),
            by_address: HashMap::new(),
            inquiries: HashMap::new(),
            leaving: BTreeMap::new(),
            ids: IdPool::new(0, limits::NEIGHBOURS as u32),
            actions: VecDeque::new(),
            cursor: 0,
        }
    }
}

impl Neighbours {
    /// Notes a port's own addresses with the lengths of its subnets. Machines that lie in none of them any more are
    /// forgotten, but for those that user routes lead to.
    pub fn set_port(&mut self, id: PortId, subnets: Vec<IpNet>) {
        self.ports.entry(id).or_default().subnets = subnets;
        self.forget_where(|ports, machine| {
            machine.port == id && machine.references == 0 && !ports[&id].may_have(machine.address)
        });
    }

    /// Forgets the machines of a port that will be somewhere else, with these own addresses. Machines that user routes
    /// lead to keep their entries without a layer-2 address, and are asked for.
    pub fn move_port(&mut self, id: PortId, subnets: Vec<IpNet>, now: Instant) {
        self.end_inquiries(id);
        self.set_port(id, subnets);
        self.forget_where(|_, machine| machine.port == id && machine.references == 0);
        for neighbour in self.machines_of(id) {
            self.lose(neighbour);
            if let Some(machine) = self.machine_mut(neighbour) {
                let address = machine.address;
                self.missing(id, address.into(), now);
            }
        }
    }

    /// Forgets a port and its machines. No user route may lead to them any more.
    pub fn remove_port(&mut self, id: PortId) {
        self.end_inquiries(id);
        self.forget_where(|_, machine| machine.port == id);
        if let Some(port) = self.ports.get_mut(&id)
            && port.machines > 0
        {
            port.subnets.clear();
        } else {
            self.ports.remove(&id);
        }
    }

    /// No route leads to a forgotten machine any more, and its entry is zero.
    pub fn gone(&mut self, id: NeighbourId, now: Instant) {
        if self.leaving.remove(&id).is_some() {
            self.ids.release(id.0, now);
        }
    }

    /// Keeps an entry for a machine that a route leads to, known or not, until [`Neighbours::unreference`].
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn reference(
        &mut self,
        port: PortId,
        address: IpAddr,
        now: Instant,
    ) -> Result<NeighbourId> {
        let id = match self.by_address.get(&(port, address)) {
            Some(id) => *id,
            None => self.create(port, address, None, now)?,
        };
        if let Some(machine) = self.machine_mut(id) {
            machine.references += 1;
        }
        Ok(id)
    }

    /// Takes one [`Neighbours::reference`] back.
    pub fn unreference(&mut self, id: NeighbourId) {
        if let Some(machine) = self.machine_mut(id) {
            machine.references = machine.references.saturating_sub(1);
        }
    }

    /// A machine has shown its layer-2 address. Claims that no machine of the port can make are ignored.
    pub fn seen(&mut self, port: PortId, address: Address, mac: MacAddress, now: Instant) {
        let address = IpAddr::from(address);
        if mac.is_group() || mac == MacAddress::default() {
            return;
        }
        self.settle(port, address);
        if let Some(&id) = self.by_address.get(&(port, address)) {
            self.update(id, mac, now);
        } else if self.may_have(port, address)
            && let Err(refusal) = self.create(port, address, Some(mac), now)
        {
            self.refuse(port, &refusal);
        }
    }

    /// A packet for a machine could not be delivered, because its layer-2 address is not known.
    pub fn missing(&mut self, port: PortId, address: Address, now: Instant) {
        let address = IpAddr::from(address);
        let known = self.by_address.contains_key(&(port, address));
        if self.inquiries.contains_key(&(port, address)) || !(known || self.may_have(port, address))
        {
            return;
        }
        let Some(state) = self.ports.get_mut(&port) else {
            return;
        };
        if state.inquiries == INQUIRIES_LIMIT {
            return;
        }
        state.inquiries += 1;
        let inquiry = Inquiry {
            tries: 1,
            next: now + RETRY,
        };
        self.inquiries.insert((port, address), inquiry);
        self.ask(port, address, None);
    }

    /// Asks again whoever owes an answer and whoever is being sent to, and forgets who has gone. `take_used` tells
    /// whether the data plane has sent to a machine since it was last called, and resets that.
    pub fn round(&mut self, now: Instant, mut take_used: impl FnMut(NeighbourId) -> bool) {
        self.repeat_inquiries(now);
        for (id, (port, address)) in &self.leaving {
            self.actions.push_back(Action::Forget(*port, *address, *id));
        }
        let mut asked = 0;
        for _ in 0..self.slots.len() {
            if asked == ROUND_LIMIT {
                break;
            }
            let id = NeighbourId(self.cursor as u32);
            self.cursor = (self.cursor + 1) % self.slots.len();
            if self.slots[id.0 as usize].is_some() {
                let used = take_used(id);
                asked += usize::from(self.visit(id, used, now));
            }
        }
        for (port, state) in &mut self.ports {
            let refused = std::mem::take(&mut state.refused);
            if refused > 0 {
                tracing::warn!(
                    "port {port}: {refused} machines were not learnt, its limit is {PORT_LIMIT}"
                );
            }
        }
    }

    /// What there is to do, oldest first.
    pub fn take_actions(&mut self) -> VecDeque<Action> {
        std::mem::take(&mut self.actions)
    }

    /// All machines.
    pub fn iter(&self) -> impl Iterator<Item = Known> {
        self.slots.iter().flatten().map(|machine| Known {
            port: machine.port,
            address: machine.address,
            mac: machine.resolved.then_some(machine.mac),
        })
    }

    #[cfg(test)]
    fn find(&self, port: PortId, address: IpAddr) -> Option<NeighbourId> {
        self.by_address.get(&(port, address)).copied()
    }

    /// Returns whether the machine was asked.
    fn visit(&mut self, id: NeighbourId, used: bool, now: Instant) -> bool {
        let Some(machine) = self.machine_mut(id) else {
            return false;
        };
        if used {
            machine.last_used = now;
        }
        if !machine.resolved {
            let (port, address) = (machine.port, machine.address);
            if used {
                self.missing(port, address.into(), now);
            } else {
                self.forget_if_old(id, now);
            }
            return used;
        }
        if !used {
            machine.owed = 0;
            self.forget_if_old(id, now);
            return false;
        }
        if machine.owed >= MISSED_LIMIT {
            machine.resolved = false;
            let entry = machine.entry();
            self.actions.push_back(Action::Write(id, entry));
            return false;
        }
        let found = machine.owed == 0 && now.saturating_duration_since(machine.last_seen) < SILENCE;
        let destination = found.then_some(machine.mac);
        machine.owed += 1;
        let (port, address) = (machine.port, machine.address);
        self.ask(port, address, destination);
        true
    }

    fn update(&mut self, id: NeighbourId, mac: MacAddress, now: Instant) {
        let Some(machine) = self.machine_mut(id) else {
            return;
        };
        machine.last_seen = now;
        machine.owed = 0;
        if machine.resolved && machine.mac == mac {
            return;
        }
        machine.resolved = true;
        machine.mac = mac;
        let entry = machine.entry();
        self.actions.push_back(Action::Write(id, entry));
    }

    fn create(
        &mut self,
        port: PortId,
        address: IpAddr,
        mac: Option<MacAddress>,
        now: Instant,
    ) -> Result<NeighbourId> {
        let state = self.ports.entry(port).or_default();
        if state.machines == PORT_LIMIT {
            return Err(Error::Full {
                table: "the list of machines of a port",
                limit: PORT_LIMIT as u64,
                help: "spread its machines over several ports",
            });
        }
        let id = self.ids.allocate(now).ok_or(Error::Full {
            table: "the table of machines",
            limit: limits::NEIGHBOURS as u64,
            help: "take machines or ports away",
        })?;
        state.machines += 1;
        let id = NeighbourId(id);
        let machine = Machine {
            port,
            address,
            mac: mac.unwrap_or_default(),
            resolved: mac.is_some(),
            references: 0,
            last_used: now,
            last_seen: now,
            owed: 0,
        };
        self.actions.push_back(Action::Write(id, machine.entry()));
        self.actions.push_back(Action::AddRoute(port, address, id));
        let slot = id.0 as usize;
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(machine);
        self.by_address.insert((port, address), id);
        Ok(id)
    }

    /// Ends a machine's time in the table; its id stays taken until [`Neighbours::gone`].
    fn forget(&mut self, id: NeighbourId) {
        let Some(machine) = self.machine_mut(id) else {
            return;
        };
        debug_assert_eq!(machine.references, 0, "a user route leads to machine {id}");
        let (port, address, referenced) = (machine.port, machine.address, machine.references > 0);
        self.lose(id);
        if referenced {
            return;
        }
        self.slots[id.0 as usize] = None;
        self.by_address.remove(&(port, address));
        if let Some(port) = self.ports.get_mut(&port) {
            port.machines -= 1;
        }
        self.leaving.insert(id, (port, address));
        self.actions.push_back(Action::Forget(port, address, id));
    }

    /// Takes a machine's layer-2 address away.
    fn lose(&mut self, id: NeighbourId) {
        let Some(machine) = self.machine_mut(id) else {
            return;
        };
        machine.mac = MacAddress::default();
        machine.resolved = false;
        machine.owed = 0;
        let entry = machine.entry();
        self.actions.push_back(Action::Write(id, entry));
    }

    fn forget_if_old(&mut self, id: NeighbourId, now: Instant) {
        let old = self.machine_mut(id).is_some_and(|machine| {
            let last = machine.last_used.max(machine.last_seen);
            machine.references == 0 && now.saturating_duration_since(last) >= LIFETIME
        });
        if old {
            self.forget(id);
        }
    }

    fn forget_where(
        &mut self,
        mut condition: impl FnMut(&HashMap<PortId, Port>, &Machine) -> bool,
    ) {
        for slot in 0..self.slots.len() {
            if self.slots[slot]
                .as_ref()
                .is_some_and(|machine| condition(&self.ports, machine))
            {
                self.forget(NeighbourId(slot as u32));
            }
        }
    }

    fn machines_of(&self, port: PortId) -> Vec<NeighbourId> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| slot.as_ref().is_some_and(|machine| machine.port == port))
            .map(|(slot, _)| NeighbourId(slot as u32))
            .collect()
    }

    fn end_inquiries(&mut self, id: PortId) {
        self.inquiries.retain(|(port, _), _| *port != id);
        if let Some(port) = self.ports.get_mut(&id) {
            port.inquiries = 0;
        }
    }

    fn repeat_inquiries(&mut self, now: Instant) {
        let due: Vec<_> = self
            .inquiries
            .iter()
            .filter(|(_, inquiry)| inquiry.next <= now)
            .map(|(key, _)| *key)
            .collect();
        for (port, address) in due {
            let Some(inquiry) = self.inquiries.get_mut(&(port, address)) else {
                continue;
            };
            if inquiry.tries == TRIES {
                self.settle(port, address);
                continue;
            }
            inquiry.tries += 1;
            inquiry.next = now + RETRY;
            self.ask(port, address, None);
        }
    }

    /// Ends the inquiry for a machine.
    fn settle(&mut self, port: PortId, address: IpAddr) {
        if self.inquiries.remove(&(port, address)).is_some()
            && let Some(state) = self.ports.get_mut(&port)
        {
            state.inquiries -= 1;
        }
    }

    fn ask(&mut self, port: PortId, target: IpAddr, destination: Option<MacAddress>) {
        let Some(source) = self.ports.get(&port).and_then(|port| port.source(target)) else {
            return;
        };
        self.actions.push_back(Action::Ask(Question {
            port,
            target,
            source,
            destination,
        }));
    }

    fn refuse(&mut self, port: PortId, refusal: &Error) {
        tracing::debug!("port {port}: {refusal}");
        if let Some(state) = self.ports.get_mut(&port) {
            state.refused += 1;
        }
    }

    fn may_have(&self, port: PortId, address: IpAddr) -> bool {
        self.ports
            .get(&port)
            .is_some_and(|port| port.may_have(address))
    }

    fn machine_mut(&mut self, id: NeighbourId) -> Option<&mut Machine> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }
}

impl Port {
    /// Whether `address` can be a machine's: it lies in a subnet and is neither the gateway's nor the subnet's own.
    fn may_have(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|own| own.contains(&address))
            && !self.subnets.iter().any(|own| {
                let named = matches!(own, IpNet::V4(net) if net.prefix_len() < 31)
                    && (own.network() == address || own.broadcast() == address);
                own.addr() == address || named
            })
    }

    /// The own address to ask for `target` with: that of its subnet, else any of its family.
    fn source(&self, target: IpAddr) -> Option<IpAddr> {
        let same_family = || {
            let mut subnets = self.subnets.iter();
            subnets.find(|own| own.addr().is_ipv4() == target.is_ipv4())
        };
        self.subnets
            .iter()
            .find(|own| own.contains(&target))
            .or_else(same_family)
            .map(IpNet::addr)
    }
}

impl Machine {
    fn entry(&self) -> NeighbourEntry {
        let address = Address::from(self.address);
        NeighbourEntry {
            port: self.port,
            mac: self.mac,
            resolved: self.resolved.into(),
            family: address.family() as u8,
            address: address.to_bytes(),
            used: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(3);
    const OLD: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const NEW: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// A clock, the table of one port 10.0.0.1/24, and the actions of each step.
    struct Bench {
        neighbours: Neighbours,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            let mut neighbours = Neighbours::default();
            neighbours.set_port(PORT, vec!["10.0.0.1/24".parse().expect("valid")]);
            Self { neighbours, now }
        }

        fn seen(&mut self, last: u8, mac: MacAddress) -> Vec<Action> {
            self.neighbours
                .seen(PORT, address(last).into(), mac, self.now);
            self.neighbours.take_actions().into()
        }

        fn missing(&mut self, last: u8) -> Vec<Action> {
            self.neighbours
                .missing(PORT, address(last).into(), self.now);
            self.neighbours.take_actions().into()
        }

        fn round(&mut self, used: bool) -> Vec<Action> {
            self.now += ROUND;
            self.neighbours.round(self.now, |_| used);
            self.neighbours.take_actions().into()
        }

        fn known(&self) -> Vec<Known> {
            self.neighbours.iter().collect()
        }
    }

    fn asks(actions: &[Action]) -> Vec<Option<MacAddress>> {
        actions
            .iter()
            .filter_map(|action| match action {
                Action::Ask(question) => Some(question.destination),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_new_machine_has_its_entry_before_its_route() {
        let mut bench = Bench::new();
        let actions = bench.seen(7, OLD);
        let [
            Action::Write(id, entry),
            Action::AddRoute(PORT, routed, routed_id),
        ] = actions[..]
        else {
            panic!("{actions:?}");
        };
        assert_eq!((routed, routed_id), (address(7), id));
        assert_eq!((entry.mac, entry.resolved), (OLD, 1));
        assert!(bench.seen(7, OLD).is_empty(), "nothing new");
    }

    #[test]
    fn a_machine_that_changes_its_address_costs_one_entry() {
        let mut bench = Bench::new();
        bench.seen(7, OLD);
        let actions = bench.seen(7, NEW);
        assert!(matches!(actions[..], [Action::Write(_, entry)] if entry.mac == NEW));
    }

    #[test]
    fn addresses_that_no_machine_of_the_port_can_have_are_not_learnt() {
        let mut bench = Bench::new();
        for last in [0, 1, 255] {
            assert!(bench.seen(last, OLD).is_empty(), "{last}");
            assert!(bench.missing(last).is_empty(), "{last}");
        }
        let now = bench.now;
        let elsewhere = Address::v4([10, 0, 1, 7]);
        bench.neighbours.seen(PORT, elsewhere, OLD, now);
        bench
            .neighbours
            .seen(PORT, address(7).into(), MacAddress::BROADCAST, now);
        bench
            .neighbours
            .seen(PortId(99), address(7).into(), OLD, now);
        assert!(bench.known().is_empty());
    }

    #[test]
    fn an_unknown_machine_is_asked_for_three_times_however_many_packets_miss_it() {
        let mut bench = Bench::new();
        let mut questions = Vec::new();
        for _ in 0..9 {
            questions.extend(asks(&bench.missing(7)));
            questions.extend(asks(&bench.round(false)));
        }
        assert_eq!(questions, [None; 3]);
    }

    #[test]
    fn a_silent_change_of_address_is_asked_for_within_a_second() {
        let mut bench = Bench::new();
        bench.seen(7, OLD);
        assert_eq!(asks(&bench.round(true)), [Some(OLD)]);
        bench.seen(7, OLD);
        // From here on the machine is somewhere else and does not hear its old address.
        assert_eq!(asks(&bench.round(true)), [Some(OLD)]);
        assert_eq!(asks(&bench.round(true)), [None]);
        assert!(ROUND * 2 < Duration::from_secs(1));
        bench.seen(7, NEW);
        assert_eq!(asks(&bench.round(true)), [Some(NEW)]);
    }

    #[test]
    fn a_used_machine_that_stays_silent_becomes_unresolved_and_is_asked_for_still() {
        let mut bench = Bench::new();
        bench.seen(7, OLD);
        let unresolved = (0..=MISSED_LIMIT)
            .flat_map(|_| bench.round(true))
            .any(|action| matches!(action, Action::Write(_, entry) if entry.resolved == 0));
        assert!(unresolved);
        assert_eq!(bench.known()[0].mac, None);
        assert_eq!(asks(&bench.round(true)), [None]);
        let back = bench.seen(7, NEW);
        assert!(matches!(back[..], [Action::Write(_, entry)] if entry.resolved == 1));
    }

    #[test]
    fn an_unused_machine_is_left_in_peace_and_forgotten_after_its_lifetime() {
        let mut bench = Bench::new();
        bench.seen(7, OLD);
        assert!(bench.round(false).is_empty());
        bench.now += LIFETIME;
        let actions = bench.round(false);
        assert!(
            matches!(
                actions[..],
                [Action::Write(_, entry), Action::Forget(PORT, _, _)] if entry.resolved == 0
            ),
            "{actions:?}"
        );
        assert!(bench.known().is_empty());
    }

    #[test]
    fn a_machine_that_a_route_leads_to_is_kept_though_nobody_has_seen_it() {
        let mut bench = Bench::new();
        let now = bench.now;
        let id = bench
            .neighbours
            .reference(PORT, address(9), now)
            .expect("room");
        bench.now += LIFETIME;
        bench.round(false);
        assert_eq!(bench.neighbours.find(PORT, address(9)), Some(id));
        bench.neighbours.unreference(id);
        bench.round(false);
        assert_eq!(bench.neighbours.find(PORT, address(9)), None);
    }

    #[test]
    fn one_port_cannot_use_up_the_table() {
        let mut bench = Bench::new();
        let now = bench.now;
        let wide = vec!["10.0.0.1/16".parse().expect("valid")];
        bench.neighbours.set_port(PORT, wide);
        for number in 0..PORT_LIMIT as u16 + 300 {
            let [high, low] = number.to_be_bytes();
            let machine = Address::v4([10, 0, high + 1, low]);
            bench.neighbours.seen(PORT, machine, OLD, now);
            bench
                .neighbours
                .missing(PORT, Address::v4([10, 0, high + 100, low]), now);
        }
        assert_eq!(bench.known().len(), PORT_LIMIT);
        assert_eq!(bench.neighbours.inquiries.len(), INQUIRIES_LIMIT);
        assert!(asks(&bench.round(true)).len() <= ROUND_LIMIT + INQUIRIES_LIMIT);
    }

    #[test]
    fn a_removed_port_takes_its_machines_along() {
        let mut bench = Bench::new();
        bench.seen(7, OLD);
        bench.missing(8);
        bench.neighbours.remove_port(PORT);
        assert!(bench.known().is_empty());
        let actions = bench.neighbours.take_actions();
        assert!(
            actions
                .iter()
                .any(|action| matches!(action, Action::Forget(..)))
        );
        let now = bench.now;
        bench.neighbours.gone(NeighbourId(0), now);
        assert!(bench.round(true).is_empty());
    }

    #[test]
    fn a_machine_that_a_route_leads_to_outlives_a_move_of_its_port_without_its_address() {
        let mut bench = Bench::new();
        bench.seen(7, OLD);
        bench.seen(8, OLD);
        let now = bench.now;
        let id = bench
            .neighbours
            .reference(PORT, address(7), now)
            .expect("room");
        bench
            .neighbours
            .move_port(PORT, vec!["10.0.0.1/24".parse().expect("valid")], now);
        assert_eq!(bench.known().len(), 1, "the other one is forgotten");
        assert_eq!(bench.neighbours.find(PORT, address(7)), Some(id));
        let actions: Vec<_> = bench.neighbours.take_actions().into();
        let last = actions.iter().rev().find_map(|action| match action {
            Action::Write(written, entry) if *written == id => Some(*entry),
            _ => None,
        });
        let entry = last.expect("the entry is written");
        assert_eq!(
            (entry.port, entry.mac, entry.resolved),
            (PORT, MacAddress::default(), 0)
        );
        assert_eq!(asks(&actions), [None]);
    }

    #[test]
    fn an_id_that_a_route_leads_to_is_never_given_to_another_machine() {
        let mut bench = Bench::new();
        let now = bench.now;
        let id = bench
            .neighbours
            .reference(PORT, address(7), now)
            .expect("room");
        bench
            .neighbours
            .move_port(PORT, vec!["10.0.0.1/24".parse().expect("valid")], now);
        bench.now += LIFETIME;
        bench.round(false);
        bench.seen(8, OLD);
        assert_ne!(bench.neighbours.find(PORT, address(8)), Some(id));
    }

    #[test]
    fn a_forgotten_machine_keeps_its_id_until_its_route_is_gone() {
        let mut bench = Bench::new();
        bench.seen(7, OLD);
        let id = bench.neighbours.find(PORT, address(7)).expect("known");
        bench.now += LIFETIME;
        bench.round(false);
        // The route could not be removed: it is tried again, and nobody gets the id however long that takes.
        bench.now += LIFETIME;
        let again = Action::Forget(PORT, address(7), id);
        assert_eq!(bench.round(false), [again]);
        bench.seen(8, OLD);
        assert_ne!(bench.neighbours.find(PORT, address(8)), Some(id));
        let now = bench.now;
        bench.neighbours.gone(id, now);
        assert!(bench.round(false).is_empty());
        bench.now += Duration::from_secs(2);
        bench.seen(9, OLD);
        assert_eq!(bench.neighbours.find(PORT, address(9)), Some(id));
    }
}
