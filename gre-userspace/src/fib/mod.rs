//! Builder of the compiled routing tables that `gre_common::fib` looks up in.
//!
//! The daemon owns one [`Fib`] for all networks. Holds: each change is put in force by one aligned
//! store, so that every look-up sees the table before or after it; a change that fails changes
//! nothing; memory that readers may still see is not reused before a grace period.

mod grace;
mod heap;
mod memory;
mod node;
mod routes;
mod tree;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use gre_common::fib::{self, Root, layout};
use gre_common::id::NetworkId;
use gre_common::next_hop::NextHop;
use ipnet::IpNet;

pub use grace::{GracePeriod, KernelGracePeriod};
pub use memory::{MappedArray, Memory, View, plain};

use heap::Heap;
use routes::{Prefix, Routes};
use tree::{Draft, Drafted, Edit, Size};

/// From this number of routes on, a table's root splits on 16 bits (256 KiB, 16 bytes a route).
const WIDE_FROM: usize = 16 * 1024;
/// Below this number it no longer does.
const WIDE_UNTIL: usize = 4 * 1024;

/// The compiled tables of all networks, in one store.
pub struct Fib<M, G> {
    heap: Heap<M, G>,
    networks: HashMap<NetworkId, Network>,
}

/// One change of a network's routes. Host bits of the prefix are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds the route or changes its next hop.
    Set(IpNet, NextHop),
    /// Removes the route, if there is one.
    Remove(IpNet),
}

/// Address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a network takes from the store, both families together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Routes.
    pub routes: u64,
    /// Nodes of the compiled tables.
    pub nodes: u64,
    /// Leaves in these nodes.
    pub leaves: u64,
    /// Bytes of these nodes.
    pub bytes: u64,
}

/// Why tables could not be made or changed. What was in force still is.
#[derive(Debug, thiserror::Error)]
pub enum FibError {
    /// No room for a new node.
    #[error(
        "the FIB store is full: {used} of {size} bytes are used and a node of {needed} bytes finds \
         no place; the tables stay as they were; raise the size of the store or remove routes"
    )]
    StoreFull {
        /// Bytes of the node that found no place.
        needed: u32,
        /// Bytes in use.
        used: u64,
        /// Bytes of the store.
        size: u64,
    },
    /// The memory cannot be a store.
    #[error("a FIB store of {bytes} bytes: it must be a power of two from 64 KiB to 512 MiB")]
    StoreSize {
        /// Bytes of the memory.
        bytes: u64,
    },
    /// A next hop that does not fit an entry.
    #[error("the next hop {:#x} of route {prefix} is not one: zero, or bit 31 is set", next_hop.0)]
    NextHop {
        /// The route.
        prefix: IpNet,
        /// Its next hop.
        next_hop: NextHop,
    },
    /// The kernel does not let us wait for packets under way.
    #[error(
        "waiting for packets under way (membarrier) failed, so no memory of the FIB store can be \
         reused: {0}"
    )]
    GracePeriod(#[source] io::Error),
}

/// The tables of one network.
struct Network {
    v4: Table,
    v6: Table,
}

/// The routes of one network and family, and what they are compiled to.
struct Table {
    family: Family,
    routes: Routes,
    root: u32,
    wide: bool,
    /// From this number of routes on the root shall be wide.
    wide_from: usize,
    size: Size,
}

/// A change of a table that has not been put in force.
struct Pending {
    drafted: Drafted,
    wide: bool,
    changed: usize,
    undo: Undo,
}

/// How the remembered routes become what they were.
enum Undo {
    Set(Vec<(Prefix, Option<u32>)>),
    Swap(Routes),
}

impl<M: Memory, G: GracePeriod> Fib<M, G> {
    /// Makes an empty FIB in `memory`: a power of two of bytes, 64 KiB to 512 MiB.
    pub fn new(memory: M, grace: G) -> Result<Self, FibError> {
        Ok(Self {
            heap: Heap::new(memory, grace)?,
            networks: HashMap::new(),
        })
    }

    /// Applies `changes` to a network's routes, the last one of each prefix counting, and returns
    /// how many made a difference.
    ///
    /// `publish` is called at most once for each family, when its root is another one, and has to
    /// store it at once, aligned, with release ordering. On failure nothing has changed.
    pub fn update(
        &mut self,
        network: NetworkId,
        changes: &[Change],
        publish: impl FnMut(Family, Root),
    ) -> Result<usize, FibError> {
        let (v4, v6) = edits(changes)?;
        self.apply(network, publish, |table, heap| match table.family {
            Family::V4 => table.edit(heap, v4.clone()),
            Family::V6 => table.edit(heap, v6.clone()),
        })
    }

    /// Makes `routes` the network's routes, the last one of each prefix counting, by building its
    /// tables anew; returns their number. Otherwise as [`Self::update`].
    pub fn replace(
        &mut self,
        network: NetworkId,
        routes: impl IntoIterator<Item = (IpNet, NextHop)>,
        publish: impl FnMut(Family, Root),
    ) -> Result<usize, FibError> {
        let changes: Vec<Change> = routes
            .into_iter()
            .map(|(prefix, next_hop)| Change::Set(prefix, next_hop))
            .collect();
        let (v4, v6) = edits(&changes)?;
        self.apply(network, publish, |table, heap| match table.family {
            Family::V4 => table.replace(heap, &v4),
            Family::V6 => table.replace(heap, &v6),
        })
    }

    /// Removes all routes of a network.
    pub fn remove(
        &mut self,
        network: NetworkId,
        publish: impl FnMut(Family, Root),
    ) -> Result<(), FibError> {
        self.replace(network, [], publish)?;
        self.networks.remove(&network);
        Ok(())
    }

    /// The next hop of the longest prefix that covers `address`, from the compiled table.
    pub fn look_up(&self, network: NetworkId, address: IpAddr) -> NextHop {
        let view = self.heap.view();
        match address {
            IpAddr::V4(address) => {
                fib::look_up(&view, self.root(network, Family::V4), address.octets())
            }
            IpAddr::V6(address) => {
                fib::look_up(&view, self.root(network, Family::V6), address.octets())
            }
        }
    }

    /// The root in force.
    pub fn root(&self, network: NetworkId, family: Family) -> Root {
        let root = self
            .networks
            .get(&network)
            .map_or(0, |network| match family {
                Family::V4 => network.v4.root,
                Family::V6 => network.v6.root,
            });
        Root(root)
    }

    /// What a network takes from the store.
    pub fn usage(&self, network: NetworkId) -> Usage {
        let Some(Network { v4, v6 }) = self.networks.get(&network) else {
            return Usage::default();
        };
        Usage {
            routes: (v4.routes.len() + v6.routes.len()) as u64,
            nodes: v4.size.nodes + v6.size.nodes,
            leaves: v4.size.leaves + v6.size.leaves,
            bytes: v4.size.bytes + v6.size.bytes,
        }
    }

    /// Bytes of the store in use, with those that wait for reuse and what lies idle between.
    pub fn used_bytes(&self) -> u64 {
        self.heap.used_bytes()
    }

    /// Bytes of the store.
    pub fn size_bytes(&self) -> u64 {
        self.heap.size()
    }

    /// Prepares both tables of a network by `prepare`, then puts both in force, or neither.
    fn apply(
        &mut self,
        network: NetworkId,
        mut publish: impl FnMut(Family, Root),
        prepare: impl Fn(&mut Table, &mut Heap<M, G>) -> Result<Option<Pending>, FibError>,
    ) -> Result<usize, FibError> {
        if self.heap.is_littered() {
            self.heap.reclaim()?;
        }
        let Network { v4, v6 } = self.networks.entry(network).or_insert_with(Network::new);
        let first = prepare(v4, &mut self.heap)?;
        let second = match prepare(v6, &mut self.heap) {
            Ok(second) => second,
            Err(error) => {
                if let Some(first) = first {
                    v4.abandon(&mut self.heap, first);
                }
                return Err(error);
            }
        };
        let mut changed = 0;
        for (table, pending) in [(v4, first), (v6, second)] {
            if let Some(pending) = pending {
                changed += pending.changed;
                table.commit(&mut self.heap, pending, &mut publish);
            }
        }
        Ok(changed)
    }
}

impl Network {
    fn new() -> Self {
        Self {
            v4: Table::new(Family::V4),
            v6: Table::new(Family::V6),
        }
    }
}

impl Table {
    fn new(family: Family) -> Self {
        Self {
            family,
            routes: Routes::new(family),
            root: 0,
            wide: false,
            wide_from: WIDE_FROM,
            size: Size::default(),
        }
    }

    /// Drafts the table with `edits`, sorted; `None` if none of them differs from what is.
    fn edit<M: Memory, G: GracePeriod>(
        &mut self,
        heap: &mut Heap<M, G>,
        mut edits: Vec<Edit>,
    ) -> Result<Option<Pending>, FibError> {
        edits.retain(|edit| self.routes.get(edit.prefix).unwrap_or(0) != edit.next_hop);
        if edits.is_empty() {
            return Ok(None);
        }
        let undo = self.remember(&edits);
        let drafted = self.draft(heap, &edits);
        match drafted {
            Ok((drafted, wide)) => Ok(Some(Pending {
                drafted,
                wide,
                changed: edits.len(),
                undo,
            })),
            Err(error) => {
                self.undo(undo);
                Err(error)
            }
        }
    }

    /// Drafts the table with `edits`, sorted, in place of all routes.
    fn replace<M: Memory, G: GracePeriod>(
        &mut self,
        heap: &mut Heap<M, G>,
        edits: &[Edit],
    ) -> Result<Option<Pending>, FibError> {
        if edits.is_empty() && self.root == 0 {
            return Ok(None);
        }
        let mut routes = Routes::new(self.family);
        routes.fill(edits.iter().map(|edit| (edit.prefix, edit.next_hop)));
        let old = std::mem::replace(&mut self.routes, routes);
        let wide = edits.len() >= WIDE_FROM;
        match Draft::new(heap, &self.routes, wide, self.size).rebuild(self.root, edits.is_empty()) {
            Ok(drafted) => Ok(Some(Pending {
                drafted,
                wide,
                changed: edits.len(),
                undo: Undo::Swap(old),
            })),
            Err(error) => {
                self.routes = old;
                Err(error)
            }
        }
    }

    /// Drafts with `edits`, or anew if the number of routes asks for another kind of root.
    fn draft<M: Memory, G: GracePeriod>(
        &mut self,
        heap: &mut Heap<M, G>,
        edits: &[Edit],
    ) -> Result<(Drafted, bool), FibError> {
        let routes = self.routes.len();
        let few = routes <= layout::RANGES_COUNT || layout::kind(self.root) == layout::RANGES;
        let wide = routes
            >= if self.wide {
                WIDE_UNTIL
            } else {
                self.wide_from
            };
        if few || wide != self.wide {
            let removes = edits.iter().all(|edit| edit.next_hop == 0);
            let draft = Draft::new(heap, &self.routes, wide, self.size);
            match draft.rebuild(self.root, removes) {
                // Building the whole table needs room; tried again with twice the routes.
                Err(FibError::StoreFull { .. }) if wide && !self.wide => self.wide_from *= 2,
                // A wide root may stay.
                Err(FibError::StoreFull { .. }) if self.wide && !few => {}
                drafted => return Ok((drafted?, wide)),
            }
        }
        let draft = Draft::new(heap, &self.routes, self.wide, self.size);
        Ok((draft.edit(self.root, edits)?, self.wide))
    }

    fn remember(&mut self, edits: &[Edit]) -> Undo {
        if self.routes.len() == 0 {
            let mut routes = Routes::new(self.family);
            routes.fill(edits.iter().map(|edit| (edit.prefix, edit.next_hop)));
            return Undo::Swap(std::mem::replace(&mut self.routes, routes));
        }
        let before = edits.iter().map(|edit| {
            let next_hop = (edit.next_hop != 0).then_some(edit.next_hop);
            (edit.prefix, self.routes.set(edit.prefix, next_hop))
        });
        Undo::Set(before.collect())
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Swap(routes) => self.routes = routes,
            Undo::Set(routes) => {
                for (prefix, next_hop) in routes {
                    self.routes.set(prefix, next_hop);
                }
            }
        }
    }

    fn commit<M: Memory, G: GracePeriod>(
        &mut self,
        heap: &mut Heap<M, G>,
        pending: Pending,
        publish: &mut impl FnMut(Family, Root),
    ) {
        self.wide = pending.wide;
        self.size = pending.drafted.size;
        self.root = pending.drafted.root;
        let family = self.family;
        pending
            .drafted
            .commit(heap, |root| publish(family, Root(root)));
    }

    fn abandon<M: Memory, G: GracePeriod>(&mut self, heap: &mut Heap<M, G>, pending: Pending) {
        pending.drafted.abandon(heap);
        self.undo(pending.undo);
    }
}

/// The changes as edits of each family, sorted, the last one for each prefix.
fn edits(changes: &[Change]) -> Result<(Vec<Edit>, Vec<Edit>), FibError> {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for change in changes {
        let (prefix, next_hop) = match *change {
            Change::Remove(prefix) => (prefix, 0),
            Change::Set(prefix, next_hop) if layout::is_leaf(next_hop.0) => (prefix, next_hop.0),
            Change::Set(prefix, next_hop) => return Err(FibError::NextHop { prefix, next_hop }),
        };
        let (edits, bits) = match prefix.network() {
            IpAddr::V4(address) => (&mut v4, u128::from(address.to_bits()) << 96),
            IpAddr::V6(address) => (&mut v6, address.to_bits()),
        };
        let length = prefix.prefix_len();
        edits.push(Edit {
            prefix: Prefix { bits, length },
            next_hop,
        });
    }
    for edits in [&mut v4, &mut v6] {
        // Stable, so that the last one of a prefix stays last; reversed, since the first is kept.
        edits.reverse();
        edits.sort_by_key(|edit| edit.prefix);
        edits.dedup_by_key(|edit| edit.prefix);
    }
    Ok((v4, v6))
}
