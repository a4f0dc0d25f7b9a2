//! Builder of the compiled routing tables that `gre_common::fib` looks up in.
//!
//! The daemon owns one [`Fib`] for all networks. Holds: each change is put in force by one aligned
//! store, so that every look-up sees the table before or after it; a change that fails changes
//! nothing; memory that readers may still see is not reused before a grace period.

mod build;
mod draft;
mod grace;
mod heap;
mod memory;
mod node;
mod ranges;
mod routes;
mod table;

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
use routes::{Prefix, Route};
use table::{Pending, Table};

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
///
/// No block is shared by two networks or families: each is counted once, for the network whose
/// table it belongs to, however many slots of that table lead to it. Blocks that wait for reuse
/// are counted for nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Routes.
    pub routes: u64,
    /// Nodes of the compiled tables.
    pub nodes: u64,
    /// Entries of these nodes that hold a next hop.
    pub leaves: u64,
    /// Bytes of the blocks that these nodes occupy.
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
        let (v4, v6) = by_family(changes)?;
        self.apply(network, publish, |table, heap| match table.family() {
            Family::V4 => table.edit(heap, &v4),
            Family::V6 => table.edit(heap, &v6),
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
        let (v4, v6) = by_family(&changes)?;
        self.apply(network, publish, |table, heap| match table.family() {
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
                Family::V4 => network.v4.root(),
                Family::V6 => network.v6.root(),
            });
        Root(root)
    }

    /// What a network takes from the store.
    pub fn usage(&self, network: NetworkId) -> Usage {
        let Some(Network { v4, v6 }) = self.networks.get(&network) else {
            return Usage::default();
        };
        Usage {
            routes: v4.routes() + v6.routes(),
            nodes: v4.size().nodes + v6.size().nodes,
            leaves: v4.size().leaves + v6.size().leaves,
            bytes: v4.size().bytes + v6.size().bytes,
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
                changed += pending.changed();
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

/// The routes that `changes` ask for in each family (next hop 0: none), sorted, the last one for
/// each prefix.
fn by_family(changes: &[Change]) -> Result<(Vec<Route>, Vec<Route>), FibError> {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for change in changes {
        let (prefix, next_hop) = match *change {
            Change::Remove(prefix) => (prefix, 0),
            Change::Set(prefix, next_hop) if layout::is_leaf(next_hop.0) => (prefix, next_hop.0),
            Change::Set(prefix, next_hop) => return Err(FibError::NextHop { prefix, next_hop }),
        };
        let (routes, bits) = match prefix.network() {
            IpAddr::V4(address) => (&mut v4, u128::from(address.to_bits()) << 96),
            IpAddr::V6(address) => (&mut v6, address.to_bits()),
        };
        let length = prefix.prefix_len();
        routes.push(Route {
            prefix: Prefix { bits, length },
            next_hop,
        });
    }
    for routes in [&mut v4, &mut v6] {
        // Stable, so that the last one of a prefix stays last; reversed, since the first is kept.
        routes.reverse();
        routes.sort_by_key(|route| route.prefix);
        routes.dedup_by_key(|route| route.prefix);
    }
    Ok((v4, v6))
}
