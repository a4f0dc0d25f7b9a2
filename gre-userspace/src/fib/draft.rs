//! Changing the tree of one network and family.
//!
//! [`Draft`] builds what a change touches and leaves all that readers see as it is. Holds: until
//! the draft is committed nothing has changed, and what commits it is one store of 32 bits.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use gre_common::fib::layout::{PATH, is_leaf, is_node, kind, node as entry_of};

use super::FibError;
use super::build::{MANY, Part};
use super::grace::GracePeriod;
use super::heap::{Block, Heap, fill, footprint};
use super::memory::Memory;
use super::node::{self, Contents};
use super::routes::{Prefix, Route, Routes};

/// An array keeps its size while the routes in it are between its slots divided and multiplied by
/// this.
const STRETCH: usize = 4;

/// One route that differs: its next hop, 0 if it is gone, and whether it was there before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edit {
    pub(super) route: Route,
    pub(super) was_there: bool,
}

/// What a tree takes from the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) nodes: u64,
    pub(super) leaves: u64,
    pub(super) bytes: u64,
}

/// How many routes lie below the entry of each array that changes slot by slot.
pub(super) type Counts = HashMap<u32, usize>;

/// A changed tree that nobody sees yet.
pub(super) struct Draft<'a, M, G> {
    heap: &'a mut Heap<M, G>,
    routes: &'a Routes,
    counts: &'a Counts,
    /// Whether all edits remove routes.
    removes: bool,
    work: Work,
}

/// What a draft has done.
#[derive(Default)]
struct Work {
    size: Size,
    counted: Vec<(u32, usize)>,
    made: Vec<Block>,
    replaced: Vec<(u32, Block)>,
    store: Option<EntryStore>,
}

/// A point that a draft may go back to, before it has found its entry store.
#[derive(Clone, Copy)]
struct Mark {
    size: Size,
    counted: usize,
    made: usize,
    replaced: usize,
}

/// The one store that puts a draft in force, where it is not the root's.
#[derive(Clone, Copy, Debug)]
struct EntryStore {
    offset: u32,
    entry: u32,
}

/// A drafted tree, off the heap: to be committed or abandoned.
#[must_use]
pub(super) struct Drafted {
    pub(super) root: u32,
    work: Work,
}

/// What came of changing the tree at some place.
enum Change {
    /// The draft's entry store lies below: nothing changes here.
    Below,
    /// What has to stand here now.
    Replaced(u32),
}

/// A slot that has to change.
#[derive(Clone, Copy)]
struct Touched<'e> {
    slot: usize,
    /// Whether an edit covers all of it.
    is_covered: bool,
    /// Otherwise the edits in it.
    edits: &'e [Edit],
}

/// A part of the tree as it is: its entry, and as for [`Part`], place and window.
#[derive(Clone, Copy)]
struct Old {
    entry: u32,
    place: Prefix,
    window: u8,
}

impl<'a, M: Memory, G: GracePeriod> Draft<'a, M, G> {
    /// A draft on top of a tree of `size` and `counts`. `routes` are those that shall hold;
    /// `removes` tells that there were only more before.
    pub(super) fn new(
        heap: &'a mut Heap<M, G>,
        routes: &'a Routes,
        counts: &'a Counts,
        size: Size,
        removes: bool,
    ) -> Self {
        let work = Work {
            size,
            ..Work::default()
        };
        Self {
            heap,
            routes,
            counts,
            removes,
            work,
        }
    }

    /// Applies `edits` (sorted, one for a prefix, each a real difference) to the tree at `root`.
    ///
    /// On failure nothing is taken from the heap.
    pub(super) fn edit(self, root: u32, edits: &[Edit]) -> Result<Drafted, FibError> {
        let old = Old {
            entry: root,
            place: Prefix::ALL,
            window: 0,
        };
        self.draft(|draft| match draft.change(old, edits, true)? {
            Change::Below => Ok(root),
            Change::Replaced(root) => Ok(root),
        })
    }

    /// Builds a new tree from `routes`, sorted, and has the one at `root` replaced.
    pub(super) fn rebuild(self, root: u32, routes: &[Route]) -> Result<Drafted, FibError> {
        self.draft(|draft| {
            draft.free_all(root);
            match routes {
                [all, longer @ ..] if all.prefix.length == 0 => {
                    draft.build(Part::at(Prefix::ALL, all.next_hop, longer))
                }
                routes => draft.build(Part::at(Prefix::ALL, 0, routes)),
            }
        })
    }

    /// Ends the draft with what `make` makes, or takes back what it made.
    fn draft(
        mut self,
        make: impl FnOnce(&mut Self) -> Result<u32, FibError>,
    ) -> Result<Drafted, FibError> {
        let before = self.work.mark();
        match make(&mut self) {
            Ok(root) => Ok(Drafted {
                root,
                work: self.work,
            }),
            Err(error) => {
                self.take_back(before);
                Err(error)
            }
        }
    }

    /// Applies `edits` to what stands at a place. Only on a way where every node so far had just
    /// one child to change (`alone`) may one entry's store do.
    fn change(&mut self, old: Old, edits: &[Edit], alone: bool) -> Result<Change, FibError> {
        if let Some(count) = self.counts.get(&old.entry)
            && edits
                .iter()
                .all(|edit| edit.route.prefix.length > old.place.length)
        {
            return self.change_array(old, *count, edits, alone);
        }
        if is_node(old.entry)
            && kind(old.entry) == PATH
            && let Some(change) = self.change_behind_path(old, edits, alone)?
        {
            return Ok(change);
        }
        self.remake(old).map(Change::Replaced)
    }

    /// Builds a place anew.
    fn remake(&mut self, old: Old) -> Result<u32, FibError> {
        self.free_all(old.entry);
        let routes = self.routes.below(old.place);
        self.build(Part {
            place: old.place,
            window: old.window,
            value: self.routes.covering(old.place),
            routes: &routes,
        })
    }

    /// Changes what lies behind a path, if that is more than is built anew each time, and remains
    /// so.
    fn change_behind_path(
        &mut self,
        old: Old,
        edits: &[Edit],
        alone: bool,
    ) -> Result<Option<Change>, FibError> {
        let path = node::read_path(&self.heap.view(), old.entry);
        let end = path.end(old.place);
        let is_below =
            |edit: &Edit| edit.route.prefix.length > end.length && end.covers(edit.route.prefix);
        if !self.is_many(path.next) || !edits.iter().all(is_below) {
            return Ok(None);
        }
        let below = Old {
            entry: path.next,
            place: end,
            window: end.length,
        };
        let before = self.work.mark();
        match self.change(below, edits, alone)? {
            Change::Below => Ok(Some(Change::Below)),
            Change::Replaced(next) if self.is_many(next) => {
                self.free(old.entry);
                let entry = self.place(&node::Path { next, ..path }.encode())?;
                Ok(Some(Change::Replaced(entry)))
            }
            Change::Replaced(_) => {
                self.take_back(before);
                Ok(None)
            }
        }
    }

    /// Changes an array of `count` routes slot by slot, or builds it anew in another size.
    fn change_array(
        &mut self,
        old: Old,
        count: usize,
        edits: &[Edit],
        alone: bool,
    ) -> Result<Change, FibError> {
        let added = edits.iter().filter(|edit| !edit.was_there).count();
        let removed = edits.iter().filter(|edit| edit.route.next_hop == 0).count();
        let count = count + added - removed;
        if !self.fits(old.entry, count) {
            let before = self.work.mark();
            match self.remake(old) {
                // Building it all needs room; slot by slot will do.
                Err(FibError::StoreFull { .. }) => self.take_back(before),
                remade => return Ok(Change::Replaced(remade?)),
            }
        }
        let stride = kind(old.entry) as u8;
        let touched = touched_slots(old.place, stride, edits);
        if alone && let [touched] = touched[..] {
            return self.change_slot(old, touched, count);
        }
        let mut entries = node::read(&self.heap.view(), old.entry).entries;
        for touched in touched {
            let entry = &mut entries[touched.slot];
            let below = old.slot(*entry, touched.slot, stride);
            let Change::Replaced(changed) = self.change_touched(below, touched, false)? else {
                unreachable!("a way that is not alone is never changed in place");
            };
            *entry = changed;
        }
        self.free(old.entry);
        let entry = self.place(&node::direct(entries))?;
        self.count(entry, count);
        Ok(Change::Replaced(entry))
    }

    /// Changes one slot of an array in place.
    fn change_slot(
        &mut self,
        old: Old,
        touched: Touched<'_>,
        count: usize,
    ) -> Result<Change, FibError> {
        let offset = node::slot_offset(old.entry, touched.slot);
        let before = self.heap.cells()[offset as usize / 4].load(Ordering::Relaxed);
        let below = old.slot(before, touched.slot, kind(old.entry) as u8);
        if let Change::Replaced(entry) = self.change_touched(below, touched, true)? {
            self.work.size.leaves += u64::from(is_leaf(entry));
            self.work.size.leaves -= u64::from(is_leaf(before));
            self.work.store = Some(EntryStore { offset, entry });
        }
        self.count(old.entry, count);
        Ok(Change::Below)
    }

    fn change_touched(
        &mut self,
        below: Old,
        touched: Touched<'_>,
        alone: bool,
    ) -> Result<Change, FibError> {
        if touched.is_covered {
            self.remake(below).map(Change::Replaced)
        } else {
            self.change(below, touched.edits, alone)
        }
    }

    /// Whether there is more below an entry than is built anew each time.
    fn is_many(&self, entry: u32) -> bool {
        let mut entry = entry;
        while is_node(entry) && kind(entry) == PATH {
            entry = node::read_path(&self.heap.view(), entry).next;
        }
        let counted = &self.work.counted;
        self.counts.contains_key(&entry) || counted.iter().any(|(array, _)| *array == entry)
    }

    /// Whether an array is of a good size for `count` routes.
    fn fits(&self, array: u32, count: usize) -> bool {
        let stride = kind(array);
        let is_largest = stride == u32::from(self.stride(usize::MAX));
        count > MANY / 2
            && count >= (1 << stride) / STRETCH
            && (is_largest || count < STRETCH << stride)
    }

    /// Bytes of the whole store.
    pub(super) fn store_size(&self) -> u64 {
        self.heap.size()
    }

    /// Writes a new node.
    pub(super) fn place(&mut self, node: &Contents) -> Result<u32, FibError> {
        let bytes = node.cells.len() as u32 * 4;
        let block = self.heap.allocate(bytes, self.removes)?;
        fill(self.heap.cells(), block.offset, &node.cells);
        self.work.made.push(block);
        let entry = entry_of(node.kind, block.offset);
        self.work.size.nodes += 1;
        self.work.size.leaves += node.leaves;
        self.work.size.bytes += u64::from(footprint(bytes));
        Ok(entry)
    }

    /// Says how many routes lie below an array that changes slot by slot.
    pub(super) fn count(&mut self, array: u32, routes: usize) {
        self.work.counted.push((array, routes));
    }

    /// Has a node and all below it freed.
    fn free_all(&mut self, entry: u32) {
        if is_node(entry) {
            for child in node::read(&self.heap.view(), entry).children() {
                self.free_all(child);
            }
            self.free(entry);
        }
    }

    fn free(&mut self, entry: u32) {
        let node = node::read(&self.heap.view(), entry);
        self.work.size.nodes -= 1;
        self.work.size.leaves -= node.leaves();
        self.work.size.bytes -= u64::from(footprint(node.block.bytes));
        self.work.replaced.push((entry, node.block));
    }

    /// Undoes what was done since `before`.
    fn take_back(&mut self, before: Mark) {
        for block in self.work.made.drain(before.made..) {
            self.heap.release(block);
        }
        self.work.replaced.truncate(before.replaced);
        self.work.counted.truncate(before.counted);
        self.work.size = before.size;
    }
}

impl Old {
    /// What stands in a slot of this array.
    fn slot(self, entry: u32, slot: usize, stride: u8) -> Self {
        Self {
            entry,
            place: self.place.child(slot, stride),
            window: self.place.length,
        }
    }
}

impl Work {
    fn mark(&self) -> Mark {
        Mark {
            size: self.size,
            counted: self.counted.len(),
            made: self.made.len(),
            replaced: self.replaced.len(),
        }
    }
}

impl Drafted {
    /// What the tree takes from the store.
    pub(super) fn size(&self) -> Size {
        self.work.size
    }

    /// Puts the draft in force, but for a new root: that, `publish` has to store.
    pub(super) fn commit<M: Memory, G: GracePeriod>(
        self,
        heap: &mut Heap<M, G>,
        counts: &mut Counts,
        publish: impl FnOnce(u32),
    ) {
        match self.work.store {
            Some(EntryStore { offset, entry }) => {
                heap.cells()[offset as usize / 4].store(entry, Ordering::Release);
            }
            None => publish(self.root),
        }
        for (entry, _) in &self.work.replaced {
            counts.remove(entry);
        }
        counts.extend(self.work.counted);
        heap.retire(self.work.replaced.into_iter().map(|(_, block)| block));
    }

    /// Drops the draft.
    pub(super) fn abandon<M: Memory, G: GracePeriod>(self, heap: &mut Heap<M, G>) {
        for block in self.work.made {
            heap.release(block);
        }
    }
}

/// The slots that `edits` lie in or cover, in order.
fn touched_slots(place: Prefix, stride: u8, edits: &[Edit]) -> Vec<Touched<'_>> {
    let end = place.length + stride;
    let mut touched: Vec<Touched<'_>> = Vec::with_capacity(edits.len());
    let mut rest = edits;
    while let [Edit { route, .. }, behind @ ..] = rest {
        let slot = route.prefix.slot(place.length, stride);
        // Edits are sorted: what is known already is the end of the list.
        let unknown = touched.last().map_or(0, |touched| touched.slot + 1);
        if route.prefix.length <= end {
            let count = 1 << (end - route.prefix.length);
            let covered = slot.max(unknown)..slot + count;
            touched.extend(covered.map(|slot| Touched {
                slot,
                is_covered: true,
                edits: &[],
            }));
            rest = behind;
        } else {
            let in_slot = |edit: &Edit| edit.route.prefix.slot(place.length, stride) == slot;
            let (edits, behind) = rest.split_at(rest.partition_point(in_slot));
            if slot >= unknown {
                touched.push(Touched {
                    slot,
                    is_covered: false,
                    edits,
                });
            }
            rest = behind;
        }
    }
    touched
}
