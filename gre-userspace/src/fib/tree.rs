//! Building and changing the tree of one network and family.
//!
//! [`Draft`] copies what a change touches, from the deepest node up to the first one where a
//! single entry decides, and leaves all that readers see as it is. Holds: until the draft is
//! committed nothing has changed, and what commits it is one store of 32 bits.

use std::sync::atomic::Ordering;

use gre_common::fib::Store;
use gre_common::fib::layout::{
    PATH, PATH_BITS, RANGES, RANGES_COUNT, WIDE, is_leaf, kind, node, offset,
};

use super::FibError;
use super::grace::GracePeriod;
use super::heap::{Block, Heap, fill, footprint};
use super::memory::Memory;
use super::node;
use super::routes::{Prefix, Routes};

/// One route that differs: 0 removes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edit {
    pub(super) prefix: Prefix,
    pub(super) next_hop: u32,
}

/// What a tree takes from the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) nodes: u64,
    pub(super) leaves: u64,
    pub(super) bytes: u64,
}

/// A changed tree that nobody sees yet.
pub(super) struct Draft<'a, M, G> {
    heap: &'a mut Heap<M, G>,
    routes: &'a Routes,
    /// Whether the root splits on 16 bits.
    wide: bool,
    /// Whether all edits remove routes.
    removes: bool,
    size: Size,
    made: Vec<Block>,
    replaced: Vec<Block>,
    store: Option<EntryStore>,
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
    pub(super) size: Size,
    store: Option<EntryStore>,
    made: Vec<Block>,
    replaced: Vec<Block>,
}

/// A tree below some place, before it is known what goes above it.
#[derive(Clone, Copy, Debug)]
enum Tree {
    Empty,
    /// A node that is not a path.
    Node(u32),
    /// Nothing but `bits` (left-aligned, of any length), then a leaf or a node that is not a path.
    Path {
        bits: u128,
        length: u8,
        next: u32,
    },
}

/// What came of changing the tree at some place.
enum Change {
    /// The draft's entry store lies below: nothing changes here.
    Below,
    /// What has to stand here now.
    Replaced(Tree),
}

/// What stands in a slot.
#[derive(Clone, Copy)]
enum Child {
    /// What stood there before.
    Kept(u32),
    New(Tree),
}

/// A range of the first 64 bits: up to `last`, `value` holds, but for the routes `below`.
struct Range<'e> {
    last: u64,
    value: u32,
    /// Routes of more than 64 bits, which begin with `last`.
    below: &'e [Edit],
}

/// The slot and edits of one child.
struct Group<'e> {
    slot: u32,
    edits: &'e [Edit],
}

impl<'a, M: Memory, G: GracePeriod> Draft<'a, M, G> {
    /// A draft on top of a tree of `size`. `routes` are those that shall hold.
    pub(super) fn new(
        heap: &'a mut Heap<M, G>,
        routes: &'a Routes,
        wide: bool,
        size: Size,
    ) -> Self {
        Self {
            heap,
            routes,
            wide,
            removes: false,
            size,
            made: Vec::new(),
            replaced: Vec::new(),
            store: None,
        }
    }

    /// Applies `edits` (sorted, one for a prefix, each a real difference) to the tree at `root`.
    ///
    /// On failure nothing is taken from the heap.
    pub(super) fn edit(self, root: u32, edits: &[Edit]) -> Result<Drafted, FibError> {
        let removes = edits.iter().all(|edit| edit.next_hop == 0);
        self.draft(removes, |draft| draft.edit_root(root, edits))
    }

    /// Builds a new tree from all routes, and has the one at `root` replaced. `removes` tells that
    /// there were more routes before.
    pub(super) fn rebuild(mut self, root: u32, removes: bool) -> Result<Drafted, FibError> {
        self.free_all(root);
        let mut edits: Vec<Edit> = self
            .routes
            .iter()
            .map(|(prefix, next_hop)| Edit { prefix, next_hop })
            .collect();
        edits.sort_unstable_by_key(|edit| edit.prefix);
        match ranges(&edits) {
            Some(ranges) => self.draft(removes, |draft| draft.make_ranges(&ranges)),
            None => self.draft(removes, |draft| draft.edit_root(0, &edits)),
        }
    }

    /// Ends the draft with what `make` makes, or takes back what it made.
    fn draft(
        mut self,
        removes: bool,
        make: impl FnOnce(&mut Self) -> Result<u32, FibError>,
    ) -> Result<Drafted, FibError> {
        self.removes = removes;
        match make(&mut self) {
            Ok(root) => Ok(Drafted {
                root,
                size: self.size,
                store: self.store,
                made: self.made,
                replaced: self.replaced,
            }),
            Err(error) => {
                for block in self.made {
                    self.heap.release(block);
                }
                Err(error)
            }
        }
    }

    fn make_ranges(&mut self, ranges: &[Range<'_>]) -> Result<u32, FibError> {
        let mut entries = Vec::with_capacity(ranges.len());
        for range in ranges {
            let entry = if range.below.is_empty() {
                range.value
            } else {
                let place = Prefix {
                    bits: u128::from(range.last) << 64,
                    length: 64,
                };
                let change = self.change(Tree::Empty, place, range.below, range.value, false)?;
                let Change::Replaced(tree) = change else {
                    unreachable!("a way that is not alone is never changed in place");
                };
                self.write_or(tree, range.value)?
            };
            entries.push((range.last, entry));
        }
        match entries[..] {
            // One range without a node below is the default alone, or nothing.
            [(_, entry)] if !node::is_node(entry) => Ok(entry),
            _ => self.place(RANGES, &node::encode_ranges(&entries)),
        }
    }

    fn edit_root(&mut self, root: u32, edits: &[Edit]) -> Result<u32, FibError> {
        let top = Prefix { bits: 0, length: 0 };
        let default = self.routes.get(top).unwrap_or(0);
        let (own, below) = edits.split_at(usize::from(
            edits.first().is_some_and(|edit| edit.prefix.length == 0),
        ));
        if below.is_empty() {
            return if node::is_node(root) {
                self.with_default(root, default)
            } else {
                Ok(default)
            };
        }
        let old = if node::is_node(root) {
            self.open(root)
        } else {
            Tree::Empty
        };
        match self.change(old, top, below, default, own.is_empty())? {
            Change::Below => Ok(root),
            Change::Replaced(Tree::Empty) => {
                self.close(root);
                Ok(default)
            }
            Change::Replaced(tree) => {
                self.close(root);
                self.write(tree, default)
            }
        }
    }

    /// Applies `edits`, all longer than `at`, to the tree `old` at `at`. A node that is made here
    /// gets `default`. Only on a way where every node so far had just one child to change
    /// (`alone`) may one entry's store do.
    fn change(
        &mut self,
        old: Tree,
        at: Prefix,
        edits: &[Edit],
        default: u32,
        alone: bool,
    ) -> Result<Change, FibError> {
        let stride = match old {
            Tree::Node(entry) => node::stride(kind(entry)),
            _ if self.wide && at.length == 0 => 16,
            _ => 8,
        };
        let mut settled = None;
        if let Tree::Node(entry) = old {
            if let Some(slot) = only_child(edits, at, stride) {
                match self.change_child(entry, slot, at, edits, alone)? {
                    Some(Change::Below) => return Ok(Change::Below),
                    Some(Change::Replaced(tree)) => settled = Some(tree),
                    None => {}
                }
            }
            if alone
                && kind(entry) == WIDE
                && let Some(slot) = only_slot(edits, at, stride)
            {
                self.change_slot(entry, slot, edits, settled)?;
                return Ok(Change::Below);
            }
        }
        self.remake(old, at, stride, edits, default, settled)
            .map(Change::Replaced)
    }

    /// Changes the child in `slot` of the node `entry` if it has one there, in place if that is
    /// enough. The caller has to place what is [`Change::Replaced`].
    fn change_child(
        &mut self,
        entry: u32,
        slot: u32,
        at: Prefix,
        edits: &[Edit],
        alone: bool,
    ) -> Result<Option<Change>, FibError> {
        let view = self.heap.view();
        let offset = node::entry_offset(&view, entry, slot);
        let child = view.half(u64::from(offset));
        if !node::is_node(child) {
            return Ok(None);
        }
        let default = node::default(&view, child);
        let place = child_place(at, slot, node::stride(kind(entry)));
        let change = self.change(self.open(child), place, edits, default, alone)?;
        if let Change::Replaced(tree) = change {
            self.close(child);
            if alone && !matches!(tree, Tree::Empty) {
                let entry = self.write(tree, default)?;
                self.store = Some(EntryStore { offset, entry });
                return Ok(Some(Change::Below));
            }
        }
        Ok(Some(change))
    }

    /// Changes one slot of a wide root in place. `settled` is its child, if changed already.
    fn change_slot(
        &mut self,
        root: u32,
        slot: u32,
        edits: &[Edit],
        settled: Option<Tree>,
    ) -> Result<(), FibError> {
        let place = child_place(Prefix { bits: 0, length: 0 }, slot, 16);
        let own = edits.iter().filter(|edit| edit.prefix.length <= 16).count();
        let value = self.routes.covering(place).unwrap_or(0);
        let view = self.heap.view();
        let offset = node::entry_offset(&view, root, slot);
        let old = view.half(u64::from(offset));
        let entry = if let Some(tree) = settled {
            self.write_or(tree, value)?
        } else if own == edits.len() {
            if node::is_node(old) {
                self.with_default(old, value)?
            } else {
                value
            }
        } else {
            let tree = self.open_any(old);
            let Change::Replaced(tree) = self.change(tree, place, &edits[own..], value, false)?
            else {
                unreachable!("a way that is not alone is never changed in place");
            };
            self.close(old);
            self.write_or(tree, value)?
        };
        self.size.leaves += u64::from(is_leaf(entry));
        self.size.leaves -= u64::from(is_leaf(old));
        self.store = Some(EntryStore { offset, entry });
        Ok(())
    }

    /// Makes anew what stands at `at`. `settled` is the only changed child, if done already.
    fn remake(
        &mut self,
        old: Tree,
        at: Prefix,
        stride: u8,
        edits: &[Edit],
        default: u32,
        settled: Option<Tree>,
    ) -> Result<Tree, FibError> {
        let (own, groups) = sort_out(edits, at, stride);
        let routes = match old {
            // Nothing was here: the edits are all there is.
            Tree::Empty => own
                .iter()
                .map(|edit| (edit.prefix, edit.next_hop))
                .collect(),
            _ => self.routes_of(at, stride),
        };
        let values = paint(&routes, at, stride);
        let mut children = self.children(old);
        if !own.is_empty() || matches!(old, Tree::Path { .. }) {
            for (slot, child) in &mut children {
                if let Child::Kept(entry) = child {
                    *child = Child::Kept(self.with_default(*entry, values[*slot as usize])?);
                }
            }
        }
        let children = self.merge(children, &groups, at, stride, &values, settled)?;
        if let Tree::Node(entry) = old {
            self.free(entry);
        }
        if stride == 8 && routes.len() + children.len() <= 1 {
            return Ok(self.shrink(routes.first().copied(), children.first().copied(), at));
        }
        self.make(values, &children, default).map(Tree::Node)
    }

    /// The routes that end in a node at `at`.
    fn routes_of(&self, at: Prefix, stride: u8) -> Vec<(Prefix, u32)> {
        let mut routes = self.routes.of_node(at);
        if stride == 16 {
            let below = self
                .routes
                .iter()
                .skip_while(|(prefix, _)| prefix.length <= 8);
            routes.extend(below.take_while(|(prefix, _)| prefix.length <= 16));
        }
        routes
    }

    /// What hangs from a tree, as if it were a node of 8 or 16 bits.
    fn children(&self, tree: Tree) -> Vec<(u32, Child)> {
        match tree {
            Tree::Empty => Vec::new(),
            Tree::Node(entry) => node::children(&self.heap.view(), entry)
                .into_iter()
                .map(|(slot, entry)| (slot, Child::Kept(entry)))
                .collect(),
            Tree::Path { bits, length, next } => {
                let slot = (bits >> 120) as u32;
                match length {
                    ..=8 if is_leaf(next) => Vec::new(),
                    ..=8 => vec![(slot, Child::Kept(next))],
                    _ => {
                        let tree = Tree::Path {
                            bits: bits << 8,
                            length: length - 8,
                            next,
                        };
                        vec![(slot, Child::New(tree))]
                    }
                }
            }
        }
    }

    /// Changes the children that `groups` tell of; returns all that remain, by slot.
    fn merge(
        &mut self,
        old: Vec<(u32, Child)>,
        groups: &[Group<'_>],
        at: Prefix,
        stride: u8,
        values: &[u32],
        mut settled: Option<Tree>,
    ) -> Result<Vec<(u32, Child)>, FibError> {
        let mut merged = Vec::with_capacity(old.len() + groups.len());
        let mut old = old.into_iter().peekable();
        for group in groups {
            while let Some(child) = old.next_if(|(slot, _)| *slot < group.slot) {
                merged.push(child);
            }
            let child = old.next_if(|(slot, _)| *slot == group.slot);
            let tree = match settled.take() {
                Some(tree) => tree,
                None => {
                    let value = values[group.slot as usize];
                    let place = child_place(at, group.slot, stride);
                    self.change_group(child.map(|(_, child)| child), group, place, value)?
                }
            };
            if !matches!(tree, Tree::Empty) {
                merged.push((group.slot, Child::New(tree)));
            }
        }
        merged.extend(old);
        Ok(merged)
    }

    fn change_group(
        &mut self,
        old: Option<Child>,
        group: &Group<'_>,
        place: Prefix,
        value: u32,
    ) -> Result<Tree, FibError> {
        let tree = match old {
            None => Tree::Empty,
            Some(Child::Kept(entry)) => self.open(entry),
            Some(Child::New(tree)) => tree,
        };
        let Change::Replaced(tree) = self.change(tree, place, group.edits, value, false)? else {
            unreachable!("a way that is not alone is never changed in place");
        };
        if let Some(Child::Kept(entry)) = old {
            self.close(entry);
        }
        Ok(tree)
    }

    /// The tree at `at` of one route, one child or nothing.
    fn shrink(
        &mut self,
        route: Option<(Prefix, u32)>,
        child: Option<(u32, Child)>,
        at: Prefix,
    ) -> Tree {
        if let Some((prefix, next)) = route {
            return Tree::Path {
                bits: prefix.bits << at.length,
                length: prefix.length - at.length,
                next,
            };
        }
        let Some((slot, child)) = child else {
            return Tree::Empty;
        };
        let tree = match child {
            Child::New(tree) => tree,
            Child::Kept(entry) => {
                let tree = self.open(entry);
                self.close(entry);
                tree
            }
        };
        let first = u128::from(slot) << 120;
        match tree {
            Tree::Empty => Tree::Empty,
            Tree::Node(next) => Tree::Path {
                bits: first,
                length: 8,
                next,
            },
            Tree::Path { bits, length, next } => Tree::Path {
                bits: first | bits >> 8,
                length: length + 8,
                next,
            },
        }
    }

    fn make(
        &mut self,
        values: Vec<u32>,
        children: &[(u32, Child)],
        default: u32,
    ) -> Result<u32, FibError> {
        let mut entries = values;
        for (slot, child) in children {
            let entry = &mut entries[*slot as usize];
            *entry = match child {
                Child::Kept(kept) => *kept,
                Child::New(tree) => self.write(*tree, *entry)?,
            };
        }
        let (kind, contents) = node::encode(&entries, default);
        self.place(kind, &contents)
    }

    /// Writes what is not yet in the store of a tree that is not empty.
    fn write(&mut self, tree: Tree, default: u32) -> Result<u32, FibError> {
        match tree {
            Tree::Empty => unreachable!("an empty tree has no node"),
            Tree::Node(entry) => Ok(entry),
            Tree::Path { bits, length, next } => {
                let length = u32::from(length);
                let next = if length > PATH_BITS {
                    let tail = Tree::Path {
                        bits: bits << PATH_BITS,
                        length: (length - PATH_BITS) as u8,
                        next,
                    };
                    self.write(tail, 0)?
                } else {
                    next
                };
                let length = length.min(PATH_BITS);
                let contents = node::encode_path((bits >> 64) as u64, length, next, default);
                self.place(PATH, &contents)
            }
        }
    }

    fn write_or(&mut self, tree: Tree, value: u32) -> Result<u32, FibError> {
        match tree {
            Tree::Empty => Ok(value),
            tree => self.write(tree, value),
        }
    }

    /// The node with another default: a copy if it differs.
    fn with_default(&mut self, entry: u32, default: u32) -> Result<u32, FibError> {
        let view = self.heap.view();
        if node::default(&view, entry) == default {
            return Ok(entry);
        }
        let contents = node::with_default(self.heap.cells(), &view, entry, default);
        self.free(entry);
        self.place(kind(entry), &contents)
    }

    /// Reads a node; a chain of paths becomes one path.
    fn open(&self, entry: u32) -> Tree {
        if kind(entry) != PATH {
            return Tree::Node(entry);
        }
        let view = self.heap.view();
        let path = view.word(u64::from(offset(entry)));
        let rest = (path & 63) as u32;
        let first = u128::from(path >> 8 << rest) << 64;
        let first_length = (64 - rest) as u8;
        let next = node::next(&view, entry);
        if node::is_node(next)
            && let Tree::Path { bits, length, next } = self.open(next)
        {
            return Tree::Path {
                bits: first | bits >> first_length,
                length: first_length + length,
                next,
            };
        }
        Tree::Path {
            bits: first,
            length: first_length,
            next,
        }
    }

    fn open_any(&self, entry: u32) -> Tree {
        if node::is_node(entry) {
            self.open(entry)
        } else {
            Tree::Empty
        }
    }

    /// Frees the paths that [`Self::open`] made one of.
    fn close(&mut self, entry: u32) {
        if node::is_node(entry) && kind(entry) == PATH {
            let next = node::next(&self.heap.view(), entry);
            self.free(entry);
            self.close(next);
        }
    }

    fn free_all(&mut self, entry: u32) {
        if !node::is_node(entry) {
            return;
        }
        let view = self.heap.view();
        let below = match kind(entry) {
            PATH => vec![node::next(&view, entry)],
            RANGES => node::range_entries(&view, entry),
            _ => {
                let children = node::children(&view, entry).into_iter();
                children.map(|(_, child)| child).collect()
            }
        };
        for entry in below {
            self.free_all(entry);
        }
        self.free(entry);
    }

    fn free(&mut self, entry: u32) {
        let node = node::measure(&self.heap.view(), entry);
        self.size.nodes -= 1;
        self.size.leaves -= u64::from(node.leaves);
        self.size.bytes -= u64::from(footprint(node.block.bytes));
        self.replaced.push(node.block);
    }

    fn place(&mut self, kind: u32, contents: &[u32]) -> Result<u32, FibError> {
        let block = self
            .heap
            .allocate(contents.len() as u32 * 4, self.removes)?;
        fill(self.heap.cells(), block.offset, contents);
        self.made.push(block);
        let entry = node(kind, block.offset);
        self.size.nodes += 1;
        self.size.leaves += u64::from(node::measure(&self.heap.view(), entry).leaves);
        self.size.bytes += u64::from(footprint(block.bytes));
        Ok(entry)
    }
}

impl Range<'_> {
    fn is_continued_by(&self, next: &Self) -> bool {
        self.value == next.value && self.below.is_empty() && next.below.is_empty()
    }
}

impl Drafted {
    /// Puts the draft in force, but for a new root: that, `publish` has to store.
    pub(super) fn commit<M: Memory, G: GracePeriod>(
        self,
        heap: &mut Heap<M, G>,
        publish: impl FnOnce(u32),
    ) {
        match self.store {
            Some(EntryStore { offset, entry }) => {
                heap.cells()[offset as usize / 4].store(entry, Ordering::Release);
            }
            None => publish(self.root),
        }
        heap.retire(self.replaced);
    }

    /// Drops the draft.
    pub(super) fn abandon<M: Memory, G: GracePeriod>(self, heap: &mut Heap<M, G>) {
        for block in self.made {
            heap.release(block);
        }
    }
}

/// The ranges that a table of few routes splits into, if they are few enough.
fn ranges(routes: &[Edit]) -> Option<Vec<Range<'_>>> {
    if routes.len() > RANGES_COUNT {
        return None;
    }
    let mut lasts = vec![u64::MAX];
    for Edit { prefix, .. } in routes {
        let first = (prefix.bits >> 64) as u64;
        lasts.push(first | u64::MAX.checked_shr(prefix.length.into()).unwrap_or(0));
        lasts.extend(first.checked_sub(1));
    }
    lasts.sort_unstable();
    lasts.dedup();
    let mut ranges: Vec<Range<'_>> = Vec::with_capacity(lasts.len());
    for last in lasts {
        let range = range_to(last, routes);
        match ranges.last_mut() {
            Some(before) if before.is_continued_by(&range) => before.last = last,
            _ => ranges.push(range),
        }
    }
    (ranges.len() <= RANGES_COUNT).then_some(ranges)
}

/// The range that ends with `last`, which no route splits.
fn range_to(last: u64, routes: &[Edit]) -> Range<'_> {
    let begins = |edit: &Edit| (edit.prefix.bits >> 64) as u64;
    let longer = |edit: &Edit| edit.prefix.length > 64 && begins(edit) == last;
    let first = routes.iter().position(longer).unwrap_or(routes.len());
    let count = routes[first..].iter().take_while(|edit| longer(edit));
    let covering = routes.iter().filter(|edit| {
        let host = u64::MAX.checked_shr(edit.prefix.length.into()).unwrap_or(0);
        edit.prefix.length <= 64 && begins(edit) == last & !host
    });
    Range {
        last,
        value: covering
            .max_by_key(|edit| edit.prefix.length)
            .map_or(0, |edit| edit.next_hop),
        below: &routes[first..first + count.count()],
    }
}

/// The slot that all `edits` lie below, if they all lie below one.
fn only_child(edits: &[Edit], at: Prefix, stride: u8) -> Option<u32> {
    let slot = only_slot(edits, at, stride)?;
    edits
        .iter()
        .all(|edit| edit.prefix.length > at.length + stride)
        .then_some(slot)
}

/// The slot that all `edits` lie in or below, if it is one.
fn only_slot(edits: &[Edit], at: Prefix, stride: u8) -> Option<u32> {
    let slot = slot_of(edits.first()?.prefix, at, stride);
    let one = slot == slot_of(edits.last()?.prefix, at, stride)
        && edits
            .iter()
            .all(|edit| edit.prefix.length >= at.length + stride);
    one.then_some(slot)
}

/// Edits that end in the node at `at`, and those of its children.
fn sort_out<'e>(edits: &'e [Edit], at: Prefix, stride: u8) -> (Vec<Edit>, Vec<Group<'e>>) {
    let mut own = Vec::new();
    let mut groups: Vec<Group<'e>> = Vec::new();
    let mut rest = edits;
    while let [first, ..] = rest {
        if first.prefix.length <= at.length + stride {
            own.push(*first);
            rest = &rest[1..];
            continue;
        }
        // Within a slot what ends in the node comes first, since it is shorter.
        let slot = slot_of(first.prefix, at, stride);
        let count = rest.partition_point(|edit| slot_of(edit.prefix, at, stride) == slot);
        let (edits, behind) = rest.split_at(count);
        groups.push(Group { slot, edits });
        rest = behind;
    }
    (own, groups)
}

/// The value of each slot: the longest of `routes` that covers it. Covering ones come first.
fn paint(routes: &[(Prefix, u32)], at: Prefix, stride: u8) -> Vec<u32> {
    let mut values = vec![0; 1 << stride];
    for (prefix, next_hop) in routes {
        let first = slot_of(*prefix, at, stride) as usize;
        let count = 1 << (at.length + stride - prefix.length);
        values[first..first + count].fill(*next_hop);
    }
    values
}

fn slot_of(prefix: Prefix, at: Prefix, stride: u8) -> u32 {
    ((prefix.bits << at.length) >> (128 - u32::from(stride))) as u32
}

fn child_place(at: Prefix, slot: u32, stride: u8) -> Prefix {
    let length = at.length + stride;
    Prefix {
        bits: at.bits | u128::from(slot) << (128 - u32::from(length)),
        length,
    }
}
