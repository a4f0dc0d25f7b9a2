//! The compiled FIB against a naive model: look-ups, updates, sharing, exhaustion, concurrency.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;

use gre_common::fib::{Root, look_up};
use gre_common::id::NetworkId;
use gre_common::next_hop::NextHop;
use gre_userspace::fib::{Change, Family, Fib, FibError, GracePeriod, Usage, View, plain};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// No reader runs beside these tests.
struct NoReaders;

impl GracePeriod for NoReaders {
    fn wait(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const NETWORK: NetworkId = NetworkId(7);

type PlainFib = Fib<Arc<[AtomicU32]>, NoReaders>;

fn fib(bytes: usize) -> PlainFib {
    Fib::new(plain(bytes), NoReaders).expect("a valid size")
}

/// The plain meaning of a routing table.
#[derive(Clone, Default)]
struct Model(BTreeMap<IpNet, NextHop>);

impl Model {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::Set(prefix, next_hop) => self.0.insert(prefix.trunc(), next_hop),
                Change::Remove(prefix) => self.0.remove(&prefix.trunc()),
            };
        }
    }

    fn look_up(&self, address: IpAddr) -> NextHop {
        self.0
            .iter()
            .filter(|(prefix, _)| prefix.contains(&address))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map_or(NextHop::NONE, |(_, next_hop)| *next_hop)
    }

    /// The answer for all addresses of a family: sorted first addresses of stretches, each with
    /// what a scan of all routes says of it.
    fn stretches(&self, family: Family) -> Vec<(u128, NextHop)> {
        let mut firsts: Vec<IpAddr> = self.0.keys().copied().flat_map(edges).collect();
        firsts.push(match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        });
        firsts.sort();
        firsts.dedup();
        let answers = firsts.into_iter();
        answers
            .map(|first| (bits(first), self.look_up(first)))
            .collect()
    }

    /// The same as a scan, for tables that change and are too large for it.
    fn probe(&self, address: IpAddr) -> NextHop {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let found = (0..=length).rev().find_map(|length| {
            let prefix = IpNet::new(address, length).expect("a valid length");
            self.0.get(&prefix.trunc()).copied()
        });
        found.unwrap_or(NextHop::NONE)
    }

    fn routes(&self) -> Vec<(IpNet, NextHop)> {
        self.0.iter().map(|(prefix, hop)| (*prefix, *hop)).collect()
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn prefix_of(change: &Change) -> IpNet {
    let (Change::Set(prefix, _) | Change::Remove(prefix)) = change;
    *prefix
}

/// Addresses where an off-by-one would show: both ends of a prefix, and those next to them.
fn edges(prefix: IpNet) -> [IpAddr; 4] {
    match prefix {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
                .map(|bits| Ipv4Addr::from_bits(bits).into())
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
                .map(|bits| Ipv6Addr::from_bits(bits).into())
        }
    }
}

/// A random address covered by `prefix`.
fn within(random: &mut StdRng, prefix: IpNet) -> IpAddr {
    match prefix {
        IpNet::V4(net) => {
            let host = random.random::<u32>() & net.hostmask().to_bits();
            Ipv4Addr::from_bits(net.network().to_bits() | host).into()
        }
        IpNet::V6(net) => {
            let host = random.random::<u128>() & net.hostmask().to_bits();
            Ipv6Addr::from_bits(net.network().to_bits() | host).into()
        }
    }
}

fn hop(random: &mut StdRng, range: std::ops::Range<u32>) -> NextHop {
    NextHop(random.random_range(range))
}

/// A prefix near others, so that tables get dense and deep.
fn near(random: &mut StdRng, family: Family) -> IpNet {
    let net: IpNet = match family {
        Family::V4 => {
            let bits = random.random::<u32>() & 0x0f07_ffff;
            Ipv4Net::new(bits.into(), random.random_range(0..=32))
                .unwrap()
                .into()
        }
        Family::V6 => {
            let bits = random.random::<u128>() & !(0xfff << 116) & !(0xffff << 72);
            Ipv6Net::new(bits.into(), random.random_range(0..=128))
                .unwrap()
                .into()
        }
    };
    net.trunc()
}

/// A fresh build takes the same nodes as whatever way led to the same routes.
fn assert_canonical(fib: &PlainFib, model: &Model) {
    let mut fresh = self::fib(fib.size_bytes() as usize);
    fresh
        .replace(NETWORK, model.routes(), |_, _| {})
        .expect("room");
    assert_eq!(fib.usage(NETWORK), fresh.usage(NETWORK));
}

/// Prefixes that meet often: most bytes from a small set, many lengths at the edges of nodes.
fn prefix() -> impl Strategy<Value = IpNet> {
    (any::<[u8; 16]>(), any::<bool>(), any::<u8>()).prop_map(|(bytes, is_v4, length)| {
        let bytes = bytes.map(|byte| match byte % 8 {
            0..3 => 0,
            3..5 => 10,
            5 => 0xff,
            _ => byte,
        });
        let [a, b, c, d, ..] = bytes;
        let round = length.is_multiple_of(2);
        if is_v4 {
            let length = if round { length % 5 * 8 } else { length % 33 };
            Ipv4Net::new([a, b, c, d].into(), length).unwrap().into()
        } else {
            let length = if round { length % 9 * 16 } else { length % 129 };
            Ipv6Net::new(bytes.into(), length).unwrap().into()
        }
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (prefix(), 1..6u32).prop_map(|(prefix, hop)| Change::Set(prefix, NextHop(hop))),
        1 => prefix().prop_map(Change::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_way_of_changes_leads_to_the_table_of_the_model(
        mut batches in prop::collection::vec(prop::collection::vec(change(), 1..12), 1..12),
        removals in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let mut fib = fib(1 << 19);
        let mut model = Model::default();
        // Random prefixes are seldom there to be removed: remove some that are.
        let named: Vec<IpNet> = batches.iter().flatten().map(prefix_of).collect();
        for chunk in removals.chunks(3) {
            let gone = chunk.iter().map(|index| Change::Remove(*index.get(&named)));
            batches.push(gone.collect());
        }
        for batch in &batches {
            fib.update(NETWORK, batch, |_, _| {}).unwrap();
            model.apply(batch);
            for address in named.iter().copied().flat_map(edges) {
                prop_assert_eq!(fib.look_up(NETWORK, address), model.look_up(address), "{}", address);
            }
            prop_assert_eq!(fib.usage(NETWORK).routes, model.0.len() as u64);
        }
        assert_canonical(&fib, &model);
        fib.remove(NETWORK, |_, _| {}).unwrap();
        prop_assert_eq!(fib.usage(NETWORK), Usage::default());
    }
}

#[test]
fn a_million_look_ups_agree_with_the_model() {
    let mut random = StdRng::seed_from_u64(1);
    for family in [Family::V4, Family::V6].repeat(10) {
        let mut fib = fib(1 << 20);
        let mut model = Model::default();
        for _ in 0..100 {
            let mut changes = Vec::new();
            for _ in 0..4 {
                let present = random.random_range(0..=model.0.len());
                let removed = model.0.keys().nth(present).copied();
                changes.push(match removed {
                    Some(prefix) if random.random_range(0..4) == 0 => Change::Remove(prefix),
                    _ => Change::Set(near(&mut random, family), hop(&mut random, 1..50)),
                });
            }
            model.apply(&changes);
            fib.update(NETWORK, &changes, |_, _| {}).unwrap();
        }
        assert!(model.0.len() > 100, "{}", model.0.len());
        assert_canonical(&fib, &model);
        let prefixes: Vec<IpNet> = model.0.keys().copied().collect();
        let stretches = model.stretches(family);
        for _ in 0..50_000 {
            let prefix = *prefixes.choose(&mut random).unwrap();
            let address = within(&mut random, prefix);
            let next = stretches.partition_point(|(first, _)| *first <= bits(address));
            let (_, expected) = stretches[next - 1];
            assert_eq!(fib.look_up(NETWORK, address), expected, "{address}");
        }
        for address in prefixes.into_iter().flat_map(edges) {
            assert_eq!(
                fib.look_up(NETWORK, address),
                model.look_up(address),
                "{address}"
            );
        }
    }
}

/// Applies changes to both, and compares them around what has changed.
fn step(fib: &mut PlainFib, model: &mut Model, random: &mut StdRng, changes: &[Change]) {
    fib.update(NETWORK, changes, |_, _| {}).unwrap();
    model.apply(changes);
    for prefix in changes.iter().map(prefix_of) {
        for address in edges(prefix).into_iter().chain([within(random, prefix)]) {
            assert_eq!(
                fib.look_up(NETWORK, address),
                model.probe(address),
                "{address}"
            );
        }
    }
}

/// Whatever the sizes of arrays that a table came through, it takes little more than a fresh one.
fn assert_frugal(fib: &PlainFib, model: &Model) {
    let mut fresh = self::fib(fib.size_bytes() as usize);
    fresh
        .replace(NETWORK, model.routes(), |_, _| {})
        .expect("room");
    let (used, needed) = (fib.usage(NETWORK), fresh.usage(NETWORK));
    assert_eq!(used.routes, needed.routes);
    assert!(used.bytes <= 2 * needed.bytes, "{used:?} {needed:?}");
}

/// Up to `most` changes that add or change, or (one in `removing`) remove a route near a new one.
fn some_changes(
    model: &Model,
    random: &mut StdRng,
    family: Family,
    most: usize,
    removing: u32,
) -> Vec<Change> {
    let one = |_| {
        let prefix = near(random, family);
        let next = model.0.range(prefix..).next();
        match next {
            Some((present, _)) if random.random_range(0..removing) == 0 => Change::Remove(*present),
            _ => Change::Set(prefix, hop(random, 1..99)),
        }
    };
    (0..most).map(one).collect()
}

#[test]
fn tables_that_grow_and_shrink_through_all_forms_stay_right() {
    for family in [Family::V4, Family::V6] {
        let mut random = StdRng::seed_from_u64(2);
        let mut fib = fib(1 << 24);
        let mut model = Model::default();
        while model.0.len() < 3_000 {
            let most = 1 + random.random_range(0..=model.0.len());
            let changes = some_changes(&model, &mut random, family, most, 8);
            step(&mut fib, &mut model, &mut random, &changes);
            for _ in 0..20 {
                let most = random.random_range(1..=2);
                let changes = some_changes(&model, &mut random, family, most, 3);
                step(&mut fib, &mut model, &mut random, &changes);
            }
        }
        assert_frugal(&fib, &model);
        let mut prefixes: Vec<IpNet> = model.0.keys().copied().collect();
        while !prefixes.is_empty() {
            let most = 1 + prefixes.len() / 6;
            let mut removed = Vec::new();
            for _ in 0..random.random_range(1..=most) {
                let index = random.random_range(0..prefixes.len());
                removed.push(Change::Remove(prefixes.swap_remove(index)));
            }
            step(&mut fib, &mut model, &mut random, &removed);
            if random.random_range(0..8) == 0 {
                assert_frugal(&fib, &model);
            }
        }
        assert_eq!(fib.usage(NETWORK), Usage::default());
    }
}

/// What a data centre has: all of a table in one corner of the address space.
#[test]
fn a_table_of_one_corner_changes_behind_the_way_there() {
    let mut random = StdRng::seed_from_u64(8);
    for corner in ["10.20.0.0/13", "fd00:10:20:3000::/52"] {
        let corner: IpNet = corner.parse().unwrap();
        let family = if corner.addr().is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let mut fib = fib(1 << 22);
        let mut model = Model::default();
        let inside = |random: &mut StdRng| {
            let longer = corner.prefix_len() + random.random_range(0..=12);
            let prefix = IpNet::new(within(random, corner), longer).unwrap();
            Change::Set(prefix.trunc(), hop(random, 1..9))
        };
        let many: Vec<Change> = (0..4000).map(|_| inside(&mut random)).collect();
        step(&mut fib, &mut model, &mut random, &many);
        for _ in 0..300 {
            let change = inside(&mut random);
            step(&mut fib, &mut model, &mut random, &[change]);
            let outside = some_changes(&model, &mut random, family, 1, 2);
            if random.random_range(0..20) == 0 {
                step(&mut fib, &mut model, &mut random, &outside);
            }
        }
        for prefix in model.0.keys().copied().collect::<Vec<_>>() {
            step(&mut fib, &mut model, &mut random, &[Change::Remove(prefix)]);
        }
        assert_eq!(fib.usage(NETWORK), Usage::default());
    }
}

#[test]
fn networks_of_a_hundred_routes_stay_right_however_these_lie() {
    let mut random = StdRng::seed_from_u64(9);
    for (everywhere, corner) in [
        ("0.0.0.0/0", "10.0.0.0/8"),
        ("fd00:10::/32", "fd00:10:20::/48"),
    ] {
        let [everywhere, corner]: [IpNet; 2] = [everywhere, corner].map(|net| net.parse().unwrap());
        let inside = |random: &mut StdRng, net: IpNet| {
            let longer = net.prefix_len() + random.random_range(4..=16);
            let prefix = IpNet::new(within(random, net), longer).unwrap();
            Change::Set(prefix.trunc(), hop(random, 1..40))
        };
        for crowd in [0, 9, 30, 64] {
            let mut fib = fib(1 << 19);
            let mut model = Model::default();
            let spread = (0..60)
                .map(|_| inside(&mut random, everywhere))
                .collect::<Vec<_>>();
            let crowded = (0..crowd)
                .map(|_| inside(&mut random, corner))
                .collect::<Vec<_>>();
            step(
                &mut fib,
                &mut model,
                &mut random,
                &[spread, crowded].concat(),
            );
            for prefix in model.0.keys().copied().collect::<Vec<_>>() {
                let change = match random.random_range(0..3) {
                    0 => inside(&mut random, everywhere),
                    1 => inside(&mut random, corner),
                    _ => Change::Remove(prefix),
                };
                step(&mut fib, &mut model, &mut random, &[change]);
                for address in model.0.keys().copied().flat_map(edges) {
                    assert_eq!(
                        fib.look_up(NETWORK, address),
                        model.look_up(address),
                        "{address}"
                    );
                }
            }
            assert_canonical(&fib, &model);
        }
    }
}

#[test]
fn networks_with_the_same_prefixes_never_mix() {
    let mut fib = fib(1 << 22);
    let mut random = StdRng::seed_from_u64(3);
    let prefixes: Vec<IpNet> = (0..40).map(|_| near(&mut random, Family::V4)).collect();
    let set = |hop| move |prefix: &IpNet| Change::Set(*prefix, NextHop(hop));
    for network in 0..500 {
        let routes: Vec<Change> = prefixes.iter().map(set(network + 1)).collect();
        fib.update(NetworkId(network), &routes, |_, _| {}).unwrap();
    }
    let removed: Vec<Change> = prefixes.iter().copied().map(Change::Remove).collect();
    fib.update(NetworkId(250), &removed, |_, _| {}).unwrap();
    for network in 0..500 {
        let expected = if network == 250 { 0 } else { network + 1 };
        for prefix in &prefixes {
            let found = fib.look_up(NetworkId(network), prefix.network());
            assert_eq!(found, NextHop(expected));
        }
    }
}

/// Nothing waits for reuse here: no table is changed once it is made.
#[test]
fn every_block_in_use_is_counted_for_one_network() {
    let mut fib = fib(1 << 22);
    let mut random = StdRng::seed_from_u64(6);
    let sizes = [1, 9, 40, 300, 5_000];
    for (network, size) in (0..).map(NetworkId).zip(sizes) {
        let routes: Vec<Change> = [Family::V4, Family::V6]
            .iter()
            .flat_map(|family| vec![*family; size])
            .map(|family| Change::Set(near(&mut random, family), hop(&mut random, 1..9)))
            .collect();
        let before = fib.used_bytes();
        fib.update(network, &routes, |_, _| {}).unwrap();
        let usage = fib.usage(network);
        assert_eq!(usage.bytes, fib.used_bytes() - before, "{size} routes");
        assert!(usage.bytes > 0 && usage.nodes > 0 && usage.leaves > 0);
    }
}

#[test]
fn a_full_store_refuses_and_keeps_what_runs() {
    let mut fib = fib(1 << 20);
    let mut model = Model::default();
    let mut random = StdRng::seed_from_u64(4);
    let (refused, error) = loop {
        let mut batch = Vec::new();
        for _ in 0..50 {
            let address = random.random::<u32>().into();
            let net = Ipv4Net::new(address, random.random_range(16..=32)).unwrap();
            batch.push(Change::Set(net.into(), hop(&mut random, 1..1000)));
        }
        let usage = fib.usage(NETWORK);
        match fib.update(NETWORK, &batch, |_, _| {}) {
            Ok(_) => model.apply(&batch),
            Err(error) => {
                assert_eq!(fib.usage(NETWORK), usage);
                break (batch, error);
            }
        }
    };
    assert!(matches!(error, FibError::StoreFull { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("the tables stay as they were"),
        "{message}"
    );
    assert!(model.0.len() > 10_000, "{}", model.0.len());
    for address in model.0.keys().copied().flat_map(edges) {
        assert_eq!(fib.look_up(NETWORK, address), model.probe(address));
    }
    let gone: Vec<Change> = model.0.keys().copied().map(Change::Remove).collect();
    for removals in gone[..3000].chunks(10) {
        fib.update(NETWORK, removals, |_, _| {})
            .expect("removing needs little room");
        model.apply(removals);
    }
    step(&mut fib, &mut model, &mut random, &refused);
}

#[test]
fn replacing_for_ever_leaks_nothing() {
    let mut fib = fib(1 << 20);
    let mut random = StdRng::seed_from_u64(5);
    for _ in 0..200 {
        let routes: Vec<(IpNet, NextHop)> = (0..2000)
            .map(|_| (near(&mut random, Family::V6), hop(&mut random, 1..9)))
            .collect();
        fib.replace(NETWORK, routes, |_, _| {})
            .expect("room for two tables");
    }
    fib.remove(NETWORK, |_, _| {}).unwrap();
    assert_eq!(fib.usage(NETWORK), Usage::default());
}

#[test]
fn a_next_hop_out_of_range_is_refused_with_its_route() {
    let mut fib = fib(1 << 16);
    let prefix: IpNet = "10.0.0.0/8".parse().unwrap();
    for next_hop in [0, 1 << 31, u32::MAX] {
        let changes = [Change::Set(prefix, NextHop(next_hop))];
        let error = fib.update(NETWORK, &changes, |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/8"), "{error}");
    }
    assert_eq!(fib.usage(NETWORK), Usage::default());
}

#[test]
fn a_change_that_makes_no_difference_publishes_nothing() {
    let mut fib = fib(1 << 16);
    let change = [Change::Set("10.0.0.0/8".parse().unwrap(), NextHop(5))];
    let mut published = 0;
    let count = fib.update(NETWORK, &change, |_, _| published += 1).unwrap();
    assert_eq!((count, published), (1, 1));
    let absent = Change::Remove("10.0.0.0/9".parse().unwrap());
    for change in [change[0], absent] {
        let count = fib
            .update(NETWORK, &[change], |_, _| published += 1)
            .unwrap();
        assert_eq!((count, published), (0, 1));
    }
}

/// Readers hold the lock for reading around each look-up.
struct LockGrace(Arc<RwLock<()>>);

impl GracePeriod for LockGrace {
    fn wait(&mut self) -> io::Result<()> {
        drop(self.0.write().unwrap());
        Ok(())
    }
}

const DEFAULT: NextHop = NextHop(1000);
const WHOLE: NextHop = NextHop(2000);

/// What the writer of the concurrency test changes: next hop n + 1 is candidate n, and the whole
/// is swapped for its eighths (next hops from `WHOLE` + 1 on) and back, at once.
struct Contended {
    candidates: Vec<Ipv4Net>,
    whole: Ipv4Net,
}

impl Contended {
    fn new(random: &mut StdRng) -> Self {
        let mut candidates = Vec::new();
        while candidates.len() < 300 {
            match near(random, Family::V4) {
                IpNet::V4(net) if net.prefix_len() > 6 => candidates.push(net),
                _ => {}
            }
        }
        let whole = "240.1.0.0/16".parse().unwrap();
        Self { candidates, whole }
    }

    fn swap(&self, to_whole: bool) -> Vec<Change> {
        let eighths = self.whole.subnets(19).unwrap().zip(WHOLE.0 + 1..);
        if to_whole {
            let gone = eighths.map(|(net, _)| Change::Remove(net.into()));
            gone.chain([Change::Set(self.whole.into(), WHOLE)])
                .collect()
        } else {
            let set = eighths.map(|(net, hop)| Change::Set(net.into(), NextHop(hop)));
            set.chain([Change::Remove(self.whole.into())]).collect()
        }
    }

    fn toggle(&self, random: &mut StdRng) -> Vec<Change> {
        let index = random.random_range(0..self.candidates.len());
        let net = self.candidates[index].into();
        if random.random() {
            vec![Change::Set(net, NextHop(index as u32 + 1))]
        } else {
            vec![Change::Remove(net)]
        }
    }

    fn check_candidate(&self, address: Ipv4Addr, answer: NextHop) {
        let index = (answer.0 as usize).wrapping_sub(1);
        let candidate = self.candidates.get(index);
        assert!(
            answer == DEFAULT || candidate.is_some_and(|net| net.contains(&address)),
            "{address}: {answer:?}"
        );
    }

    fn check_swapped(&self, address: Ipv4Addr, answer: NextHop) {
        let eighth = WHOLE.0 + 1 + u32::from(address.octets()[2] >> 5);
        assert!(
            answer == WHOLE || answer.0 == eighth,
            "{address}: {answer:?} is neither the whole nor its eighth"
        );
    }
}

#[test]
fn readers_see_only_tables_that_were_in_force() {
    let mut random = StdRng::seed_from_u64(6);
    let memory = plain(1 << 20);
    let readers = Arc::new(RwLock::new(()));
    let mut fib = Fib::new(memory.clone(), LockGrace(readers.clone())).unwrap();
    let contended = Contended::new(&mut random);
    let root = AtomicU32::new(0);
    let publish = |_, value: Root| root.store(value.0, Ordering::Release);
    let first = [
        Change::Set("0.0.0.0/0".parse().unwrap(), DEFAULT),
        Change::Set(contended.whole.into(), WHOLE),
    ];
    fib.update(NETWORK, &first, publish).unwrap();
    let done = AtomicBool::new(false);
    let looked_up = AtomicU64::new(0);
    let read = || {
        let mut random = StdRng::seed_from_u64(7);
        let view = View::new(&memory);
        while !done.load(Ordering::Relaxed) {
            let net = *contended.candidates.choose(&mut random).unwrap();
            for net in [net, contended.whole] {
                let host = random.random::<u32>() & net.hostmask().to_bits();
                let address = Ipv4Addr::from_bits(net.network().to_bits() | host);
                let section = readers.read().unwrap();
                let root = Root(root.load(Ordering::Acquire));
                let answer = look_up(&view, root, address.octets());
                drop(section);
                if net == contended.whole {
                    contended.check_swapped(address, answer);
                } else {
                    contended.check_candidate(address, answer);
                }
            }
            looked_up.fetch_add(2, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let reader = scope.spawn(read);
        let mut is_whole = true;
        for _ in 0..60_000 {
            let changes = if random.random_range(0..8) == 0 {
                is_whole = !is_whole;
                contended.swap(is_whole)
            } else {
                contended.toggle(&mut random)
            };
            fib.update(NETWORK, &changes, publish).unwrap();
            if reader.is_finished() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        reader.join().expect("only answers of tables in force");
    });
    assert!(looked_up.load(Ordering::Relaxed) > 10_000);
}
