//! The kernel's program and the pipeline on the host agree on random packets, whatever these are.

use std::collections::BTreeMap;
use std::fmt;

use gre_common::counters::Owner;
use gre_common::event::EventKind;
use gre_common::verdict::DropReason;
use gre_model::example::{RED_PORT, RED_TUNNEL, host, to};
use gre_model::{Action, HostGateway};
use gre_tests::both_sides::{BothSides, Seen};
use gre_tests::frames::{self, from_machine, hop, inner_to_red, into_site, site, udp};
use gre_tests::gre::{self, Header};
use gre_tests::kernel_gateway::KernelGateway;
use gre_tests::packet::ETHERNET_HEADER;
use gre_tests::random::{self, Random};

/// Packets of the random run, unless `GREGW_PACKETS` says otherwise: so many meet everything there is.
const PACKETS: u32 = 50_000;
const MUTATED_PACKETS: u32 = 1_000_000;
/// After so many packets everything is compared, and sequence numbers and learnt machines begin anew.
const ROUND: u32 = 500;

/// No frame of a test can do without room for the outer headers: the kernel leaves 216 bytes, the largest need 56.
const UNREACHABLE: [DropReason; 1] = [DropReason::NoHeadroom];

#[test]
fn kernel_and_host_agree_on_random_packets_of_every_verdict() {
    if !gre_tests::can_use_namespaces() {
        return;
    }
    let mut both = BothSides::shared();
    let mut random = Random::new(random::seed(), both.devices);
    let mut met: BTreeMap<Fate, u32> = BTreeMap::new();
    let packets = std::env::var("GREGW_PACKETS").map_or(PACKETS, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("GREGW_PACKETS is `{text}`, which is no number"))
    });
    for number in 0..packets {
        if number % ROUND == 0 {
            both.compare();
            both.forget();
        }
        let arrival = random.any(&both.host);
        let seen = both.run(arrival.device, &arrival.frame);
        for fate in Fate::of(&arrival.frame, &seen) {
            *met.entry(fate).or_default() += 1;
        }
    }
    both.compare();
    for (fate, count) in &met {
        println!("{count:>6}  {fate}");
    }
    let missed: Vec<String> = Fate::all()
        .filter(|fate| !met.contains_key(fate))
        .map(|fate| fate.to_string())
        .collect();
    assert!(
        missed.is_empty() || packets < PACKETS,
        "{packets} packets never met: {missed:?}"
    );
}

#[test]
fn a_million_damaged_packets_leave_the_gateway_forwarding_and_its_counters_consistent() {
    if !gre_tests::can_use_namespaces() {
        return;
    }
    let both = BothSides::shared();
    let mut gateway = KernelGateway::load(&both.tables);
    let state = HostGateway::new(&both.tables);
    let mut random = Random::new(random::seed(), both.devices);
    let mut actions = [0; 5];
    let mut frame = Vec::new();
    for _ in 0..MUTATED_PACKETS / 20 {
        let valid = random.valid(&state);
        for _ in 0..20 {
            frame.clone_from(&valid.frame);
            random.damage(&mut frame);
            actions[gateway.run_blindly(valid.device, &frame) as usize] += 1;
        }
    }
    let [aborted, dropped, passed, transmitted, redirected] = actions;
    println!("{dropped} dropped, {passed} passed, {redirected} redirected");
    assert_eq!((aborted, transmitted), (0, 0));
    let counters = gateway.counters();
    assert!(counters.are_balanced(), "{counters:#?}");
    let counted = counters.dropped() + counters.dropped_unclaimed();
    assert!(
        counted <= dropped,
        "{counted} drops are counted, {dropped} happened"
    );
    assert!(counters.transmitted() <= redirected);
    still_forwards(&mut gateway, &both);
}

/// Sends one packet each way and compares the frames that leave.
fn still_forwards(gateway: &mut KernelGateway, both: &BothSides) {
    let inner = inner_to_red(false);
    let frame = frames::through(RED_TUNNEL[0], &inner, 0);
    let outcome = gateway.run(both.devices.underlay, &frame);
    assert_eq!(outcome.action, Action::Redirect);
    assert_eq!(outcome.frame, frames::to_machine(RED_PORT, &hop(&inner)));
    let packet = udp(host(to::HOME, 2, false), host(to::SITE_OVER_V4, 9, false));
    let outcome = gateway.run(both.devices.access, &from_machine(RED_PORT, &packet));
    assert_eq!(outcome.action, Action::Redirect);
    assert_eq!(
        outcome.frame,
        into_site(&site(RED_TUNNEL[0]), &hop(&packet), 0)
    );
}

/// What became of a packet, as far as it matters that a run has met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Passed,
    Dropped(DropReason),
    /// From and to a port or tunnel; IP version of the frame that leaves, and of the packet in it.
    Forwarded(Kind, Kind, u8, u8),
    Answered(&'static str),
    UsedUp,
    Told(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Port,
    Tunnel,
}

impl Fate {
    /// Everything that a run must meet.
    fn all() -> impl Iterator<Item = Self> {
        let kinds = [Kind::Port, Kind::Tunnel];
        let drops = DropReason::ALL
            .iter()
            .filter(|reason| !UNREACHABLE.contains(reason));
        let to_ports = kinds.map(|from| [4, 6].map(|ip| Self::Forwarded(from, Kind::Port, ip, ip)));
        let into_tunnels = kinds.map(|from| {
            [(4, 4), (4, 6), (6, 4), (6, 6)]
                .map(|(outer, inner)| Self::Forwarded(from, Kind::Tunnel, outer, inner))
        });
        let rest = [
            Self::Passed,
            Self::Answered("ARP"),
            Self::Answered("neighbour discovery"),
            Self::UsedUp,
            Self::Told("machine missing"),
            Self::Told("machine seen"),
        ];
        let drops = drops.map(|reason| Self::Dropped(*reason));
        drops
            .chain(to_ports.into_iter().flatten())
            .chain(into_tunnels.into_iter().flatten())
            .chain(rest)
    }

    fn of(frame: &[u8], seen: &Seen) -> Vec<Self> {
        let told = seen.events.iter().map(|event| {
            Self::Told(match event.kind() {
                Some(EventKind::NeighbourMissing) => "machine missing",
                Some(EventKind::NeighbourSeen) => "machine seen",
                None => panic!("{event:?} of frame {frame:02x?}"),
            })
        });
        told.chain([Self::of_frame(seen)]).collect()
    }

    fn of_frame(seen: &Seen) -> Self {
        let way = |is_way: fn(&gre_common::counters::Stats) -> bool| {
            let mut stats = seen.counted.stats.iter();
            stats
                .find(|(_, stats)| is_way(stats))
                .map(|(owner, _)| match owner {
                    Owner::Tunnel(_) => Kind::Tunnel,
                    Owner::Port(_) | Owner::Underlay(_) => Kind::Port,
                })
        };
        let from = way(|stats| stats.receive_packets > 0);
        let to = way(|stats| stats.transmit_packets > 0);
        match (seen.outcome.action, seen.reason, from, to) {
            (Action::Pass, ..) => Self::Passed,
            (Action::Drop, Some(reason), ..) => Self::Dropped(reason),
            (Action::Drop, None, ..) => Self::UsedUp,
            (Action::Redirect, _, Some(from), Some(to)) => {
                let (outer, inner) = versions(&seen.outcome.frame, to);
                Self::Forwarded(from, to, outer, inner)
            }
            (Action::Redirect, ..) => {
                let is_arp = seen.outcome.frame[12..20]
                    .windows(2)
                    .any(|kind| kind == [8, 6]);
                Self::Answered(if is_arp { "ARP" } else { "neighbour discovery" })
            }
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => write!(formatter, "passed"),
            Self::Dropped(reason) => write!(formatter, "dropped: {}", reason.name()),
            Self::Forwarded(from, Kind::Port, _, inner) => {
                write!(formatter, "forwarded: {from:?} → Port, IPv{inner}")
            }
            Self::Forwarded(from, to, outer, inner) => {
                write!(
                    formatter,
                    "forwarded: {from:?} → {to:?}, IPv{inner} in IPv{outer}"
                )
            }
            Self::Answered(what) => write!(formatter, "answered: {what}"),
            Self::UsedUp => write!(formatter, "used up"),
            Self::Told(what) => write!(formatter, "event: {what}"),
        }
    }
}

/// The IP versions of the frame that leaves, and of the packet that it forwards.
fn versions(frame: &[u8], to: Kind) -> (u8, u8) {
    let tag = if frame[12..14] == [0x81, 0] { 4 } else { 0 };
    let packet = &frame[ETHERNET_HEADER + tag..];
    let outer = gre::version(packet).expect("an IP packet");
    if to == Kind::Port {
        return (outer, outer);
    }
    let payload = &packet[if outer == 6 { 40 } else { 20 }..];
    let header = Header::parse(payload).expect("a GRE header");
    (outer, if header.protocol == 0x86dd { 6 } else { 4 })
}
