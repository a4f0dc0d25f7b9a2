//! The routes of one network and family, and what they are compiled to.
//!
//! [`Fib`](super::Fib) prepares changes of both families here, then puts both in force or neither.
//! Holds: a prepared change is committed or abandoned before the next one is prepared.

use gre_common::fib::Root;

use super::draft::{Counts, Draft, Drafted, Edit, Size};
use super::grace::GracePeriod;
use super::heap::Heap;
use super::memory::Memory;
use super::routes::{Route, Routes};
use super::{Family, FibError};

/// The routes of one network and family, and what they are compiled to.
pub(super) struct Table {
    family: Family,
    routes: Routes,
    root: u32,
    counts: Counts,
    size: Size,
}

/// A change of a table that has not been put in force.
#[must_use]
pub(super) struct Pending {
    drafted: Drafted,
    changed: usize,
    undo: Undo,
}

/// How the remembered routes become what they were.
enum Undo {
    Set(Vec<Route>),
    Swap(Routes),
}

impl Table {
    pub(super) fn new(family: Family) -> Self {
        Self {
            family,
            routes: Routes::new(family),
            root: 0,
            counts: Counts::new(),
            size: Size::default(),
        }
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    pub(super) fn root(&self) -> u32 {
        self.root
    }

    /// Number of routes.
    pub(super) fn routes(&self) -> u64 {
        self.routes.len() as u64
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// Drafts the table with `changes`, sorted; next hop 0 removes. `None` if none of them differs
    /// from what is.
    pub(super) fn edit<M: Memory, G: GracePeriod>(
        &mut self,
        heap: &mut Heap<M, G>,
        changes: &[Route],
    ) -> Result<Option<Pending>, FibError> {
        let edits = self.differences(changes);
        if edits.is_empty() {
            return Ok(None);
        }
        let removes = edits.iter().all(|edit| edit.route.next_hop == 0);
        let (undo, is_first) = self.remember(&edits);
        let draft = Draft::new(heap, &self.routes, &self.counts, self.size, removes);
        let drafted = if is_first {
            let routes: Vec<Route> = edits.iter().map(|edit| edit.route).collect();
            draft.rebuild(self.root, &routes)
        } else {
            draft.edit(self.root, &edits)
        };
        match drafted {
            Ok(drafted) => Ok(Some(Pending {
                drafted,
                changed: edits.len(),
                undo,
            })),
            Err(error) => {
                self.undo(undo);
                Err(error)
            }
        }
    }

    /// Drafts the table with `routes`, sorted, in place of all routes.
    pub(super) fn replace<M: Memory, G: GracePeriod>(
        &mut self,
        heap: &mut Heap<M, G>,
        routes: &[Route],
    ) -> Result<Option<Pending>, FibError> {
        if routes.is_empty() && self.root == 0 {
            return Ok(None);
        }
        let mut remembered = Routes::new(self.family);
        remembered.fill(routes);
        let draft = Draft::new(
            heap,
            &remembered,
            &self.counts,
            self.size,
            routes.is_empty(),
        );
        let drafted = draft.rebuild(self.root, routes)?;
        let undo = Undo::Swap(std::mem::replace(&mut self.routes, remembered));
        Ok(Some(Pending {
            drafted,
            changed: routes.len(),
            undo,
        }))
    }

    /// Puts a change in force; `publish` stores a new root.
    pub(super) fn commit<M: Memory, G: GracePeriod>(
        &mut self,
        heap: &mut Heap<M, G>,
        pending: Pending,
        publish: &mut impl FnMut(Family, Root),
    ) {
        self.size = pending.drafted.size();
        self.root = pending.drafted.root;
        let family = self.family;
        pending
            .drafted
            .commit(heap, &mut self.counts, |root| publish(family, Root(root)));
    }

    /// Drops a change.
    pub(super) fn abandon<M: Memory, G: GracePeriod>(
        &mut self,
        heap: &mut Heap<M, G>,
        pending: Pending,
    ) {
        pending.drafted.abandon(heap);
        self.undo(pending.undo);
    }

    fn differences(&self, changes: &[Route]) -> Vec<Edit> {
        let edits = changes
            .iter()
            .map(|route| (route, self.routes.get(route.prefix)));
        edits
            .filter(|(route, before)| before.unwrap_or(0) != route.next_hop)
            .map(|(route, before)| Edit {
                route: *route,
                was_there: before.is_some(),
            })
            .collect()
    }

    /// Remembers the routes as they shall be; also tells whether there was none.
    fn remember(&mut self, edits: &[Edit]) -> (Undo, bool) {
        if self.routes.len() == 0 {
            let routes: Vec<Route> = edits.iter().map(|edit| edit.route).collect();
            let mut remembered = Routes::new(self.family);
            remembered.fill(&routes);
            return (
                Undo::Swap(std::mem::replace(&mut self.routes, remembered)),
                true,
            );
        }
        let before = edits.iter().map(|edit| Route {
            prefix: edit.route.prefix,
            next_hop: self.routes.set(edit.route.prefix, edit.route.next_hop),
        });
        (Undo::Set(before.collect()), false)
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Swap(routes) => self.routes = routes,
            Undo::Set(routes) => {
                for route in routes {
                    self.routes.set(route.prefix, route.next_hop);
                }
            }
        }
    }
}

impl Pending {
    /// How many routes differ.
    pub(super) fn changed(&self) -> usize {
        self.changed
    }
}
