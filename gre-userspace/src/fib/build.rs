//! Building the tree of a part of the address space from its routes.
//!
//! The draft calls this for whatever a change touches, and for whole tables. Holds: the tree is a
//! function of the routes alone, but for the sizes of large arrays; every node but the last on a
//! way uses at least 4 bits.

use gre_common::fib::layout::{DIRECT, INDEX_BITS, PATH_BITS, RANGES, RANGES_COUNT, SPLIT};

use super::FibError;
use super::draft::Draft;
use super::grace::GracePeriod;
use super::memory::Memory;
use super::node;
use super::ranges::{Range, append, ranges};
use super::routes::{Prefix, Route};

/// A part with at most this many routes is built anew whenever one of them changes. One with more
/// is an array whose slots change one by one.
pub(super) const MANY: usize = 128;
/// Least bits of an array: one cache line.
const LEAST_STRIDE: u8 = 4;
/// Least bits that a path has to skip, where it is not the end of the way.
const LEAST_SKIP: u8 = 8;
/// Bits that a bitmap uses.
const BITMAP_STRIDE: u8 = 8;
/// With more runs, an array of 1 KiB takes their place: it is read with one load.
const BITMAP_RUNS: usize = 128;
/// Ranges for each slot of a small array, about: neighbours that share a node shall fill it well.
const RANGES_PER_SLOT: usize = 2;
/// Most ranges of two levels of nodes of ranges.
const SPLIT_RANGES: usize = RANGES_COUNT * RANGES_COUNT;
/// An array takes at most one part in so many of the store.
const ARRAY_SHARE: u64 = 128;

/// A part of the address space to be built.
#[derive(Clone, Copy)]
pub(super) struct Part<'r> {
    pub(super) place: Prefix,
    /// Bits of the address that the parent has not yet gone past, if this is to be ranges: those
    /// behind the first `window`, at most `place.length`.
    pub(super) window: u8,
    /// What holds but for the routes.
    pub(super) value: u32,
    /// The routes longer than `place`, sorted.
    pub(super) routes: &'r [Route],
}

impl<'r> Part<'r> {
    /// The part below a node that uses all bits up to `place`.
    pub(super) fn at(place: Prefix, value: u32, routes: &'r [Route]) -> Self {
        let window = place.length;
        Self {
            place,
            window,
            value,
            routes,
        }
    }

    /// The same place, as whose value the next hop of a route counts that is just as long.
    fn below(place: Prefix, value: u32, routes: &'r [Route]) -> Self {
        match routes {
            [own, longer @ ..] if own.prefix.length == place.length => {
                Self::at(place, own.next_hop, longer)
            }
            _ => Self::at(place, value, routes),
        }
    }

    /// The part of a slot, below a node that uses `stride` bits.
    fn child(self, slot: usize, stride: u8, value: u32, routes: &'r [Route]) -> Self {
        Self {
            place: self.place.child(slot, stride),
            window: self.place.length,
            value,
            routes,
        }
    }

    /// What all routes have in common.
    fn common(&self) -> Prefix {
        let routes = self.routes.iter().map(|route| route.prefix);
        routes.reduce(Prefix::common).unwrap_or(self.place)
    }

    fn ranges(&self) -> Vec<Range<'r>> {
        ranges(self.window, self.place, self.value, self.routes)
    }

    /// The part cut into 2^`stride` slots.
    fn cut(&self, stride: u8) -> Slots<'r> {
        let mut slots = Slots {
            values: vec![self.value; 1 << stride],
            parts: Vec::new(),
        };
        let end = self.place.length + stride;
        let mut rest = self.routes;
        while let [route, behind @ ..] = rest {
            let first = route.prefix.slot(self.place.length, stride);
            if route.prefix.length <= end {
                let count = 1 << (end - route.prefix.length);
                slots.values[first..first + count].fill(route.next_hop);
                rest = behind;
                continue;
            }
            // Within a slot, the route that is just as long comes first.
            let of_slot = |route: &Route| route.prefix.slot(self.place.length, stride) == first;
            let (routes, behind) = rest.split_at(run_length(rest, of_slot));
            slots.parts.push((first, routes));
            rest = behind;
        }
        slots
    }
}

/// A slot, what lies in it, and how that splits.
type Shared<'r> = (usize, Part<'r>, Vec<Range<'r>>);

/// A part that is cut into slots.
struct Slots<'r> {
    /// What holds in each slot, but for the parts.
    values: Vec<u32>,
    /// Slots with longer routes, and these.
    parts: Vec<(usize, &'r [Route])>,
}

/// What an index has: which node each slot leads to, and the ranges of each node.
struct Shares<'a, 'r> {
    slots: [u8; node::INDEX_SLOTS],
    nodes: Vec<&'a [Range<'r>]>,
}

impl<'a, 'r> Shares<'a, 'r> {
    /// Nodes for as many neighbouring slots as fit, or for one slot if it has more ranges. `None` if
    /// one has more than two levels hold, or if routes go on behind the ranges.
    fn of(ranges: &'a [Range<'r>]) -> Option<Self> {
        let last_of =
            |slot: usize| u32::MAX >> INDEX_BITS | (slot as u32) << (u32::BITS - INDEX_BITS);
        let mut slots = [0; node::INDEX_SLOTS];
        let mut nodes = Vec::new();
        let (mut slot, mut rest) = (0, ranges);
        while slot < slots.len() {
            // How many ranges a node holds that begins here and ends with such a slot.
            let count = |end| 1 + run_length(rest, |range| range.last < last_of(end));
            let next = (slot + 1..slots.len()).find(|end| count(*end) > RANGES_COUNT);
            let next = next.unwrap_or(slots.len());
            let (share, behind) = rest.split_at(count(next - 1));
            if share.len() > SPLIT_RANGES || share.iter().any(|range| !range.below.is_empty()) {
                return None;
            }
            slots[slot..next].fill(nodes.len() as u8);
            nodes.push(share);
            // A range that goes on is in the next node as well.
            let goes_on = share
                .last()
                .is_some_and(|range| range.last > last_of(next - 1));
            rest = if goes_on {
                &rest[share.len() - 1..]
            } else {
                behind
            };
            slot = next;
        }
        Some(Self { slots, nodes })
    }
}

impl<M: Memory, G: GracePeriod> Draft<'_, M, G> {
    /// The entry for a part.
    pub(super) fn build(&mut self, part: Part<'_>) -> Result<u32, FibError> {
        let routes = part.routes;
        if routes.is_empty() {
            return Ok(part.value);
        }
        let common = part.common();
        if let [route] = routes {
            return self.path(part.place, route.prefix, route.next_hop, part.value);
        }
        let can_skip = common.length >= part.place.length + LEAST_SKIP;
        if routes.len() <= MANY {
            let ranges = part.ranges();
            let is_deep = common.length >= part.window + 32;
            if ranges.len() <= RANGES_COUNT && !is_deep {
                return self.ranges(part.window, &ranges);
            }
            if ranges.len() <= SPLIT_RANGES && !is_deep || !can_skip {
                return self.build_few(part, &ranges);
            }
        }
        if can_skip {
            return self.skip(part, common);
        }
        self.build_many(part)
    }

    /// The bits that an array of `routes` routes uses.
    pub(super) fn stride(&self, routes: usize) -> u8 {
        let most = (self.store_size() / ARRAY_SHARE / 4).ilog2().min(DIRECT);
        routes.ilog2().min(most) as u8
    }

    /// All routes are in `common`: what lies behind that, below a path.
    fn skip(&mut self, part: Part<'_>, common: Prefix) -> Result<u32, FibError> {
        let next = self.build(Part::below(common, part.value, part.routes))?;
        self.path(part.place, common, next, part.value)
    }

    /// From `place` to `end`, where `next` stands; `otherwise` beside the way.
    fn path(
        &mut self,
        place: Prefix,
        end: Prefix,
        next: u32,
        otherwise: u32,
    ) -> Result<u32, FibError> {
        let length = (end.length - place.length).min(PATH_BITS);
        let middle = end.cut(place.length + length);
        let next = if middle.length < end.length {
            self.path(middle, end, next, otherwise)?
        } else {
            next
        };
        let fragment = (middle.bits << place.length >> 64) as u64;
        self.place(
            &node::Path {
                fragment,
                length,
                next,
                otherwise,
            }
            .encode(),
        )
    }

    fn ranges(&mut self, window: u8, ranges: &[Range<'_>]) -> Result<u32, FibError> {
        if let [range] = ranges
            && range.below.is_empty()
        {
            return Ok(range.value);
        }
        let mut entries = Vec::with_capacity(ranges.len());
        for range in ranges {
            let entry = match range.below {
                [] => range.value,
                below @ [route, ..] => {
                    let place = route.prefix.cut(window + 32);
                    self.build(Part::at(place, range.value, below))?
                }
            };
            entries.push((range.last, entry));
        }
        self.place(&node::ranges(RANGES, &entries))
    }

    /// Ranges of ranges, in as few nodes as hold them.
    fn split(&mut self, window: u8, ranges: &[Range<'_>]) -> Result<u32, FibError> {
        let entries = self.chunks(window, ranges)?;
        self.place(&node::ranges(SPLIT, &entries))
    }

    /// Nodes for up to 64 ranges.
    fn chunks(&mut self, window: u8, ranges: &[Range<'_>]) -> Result<Vec<node::Limit>, FibError> {
        let chunks = ranges.chunks(RANGES_COUNT).map(|ranges| {
            let last = ranges.last().expect("a chunk is not empty").last;
            Ok((last, self.ranges(window, ranges)?))
        });
        chunks.collect()
    }

    /// A part of more ranges than one node holds: a bitmap where it splits into runs of the next 8
    /// bits, else an index where it has many, else an array whose slots share nodes of ranges; but
    /// ranges of ranges where the routes lie so unevenly that an array would not part them.
    fn build_few(&mut self, part: Part<'_>, ranges: &[Range<'_>]) -> Result<u32, FibError> {
        let slots = part.cut(BITMAP_STRIDE);
        if slots.parts.len() * 4 <= node::runs(&slots.values) {
            return self.runs(part, slots);
        }
        if ranges.len() > SPLIT_RANGES
            && let Some(indexed) = self.index(part)?
        {
            return Ok(indexed);
        }
        let stride = (ranges
            .len()
            .div_ceil(RANGES_PER_SLOT)
            .next_power_of_two()
            .ilog2() as u8)
            .clamp(LEAST_STRIDE, BITMAP_STRIDE);
        let slots = part.cut(stride);
        let children = slots.parts.iter().map(|(slot, routes)| {
            let child = part.child(*slot, stride, slots.values[*slot], routes);
            (*slot, child, child.ranges())
        });
        let children: Vec<Shared<'_>> = children.collect();
        let is_even = children
            .iter()
            .all(|(_, _, ranges)| ranges.len() <= RANGES_COUNT);
        if !is_even && ranges.len() <= SPLIT_RANGES {
            return self.split(part.window, ranges);
        }
        self.shared(part.place.length, slots.values, children)
    }

    /// Nodes of ranges, each for as many neighbouring slots as it can hold; `None` where that is no
    /// way to do it.
    fn index(&mut self, part: Part<'_>) -> Result<Option<u32>, FibError> {
        let window = part.place.length;
        let ranges = Part { window, ..part }.ranges();
        let Some(shares) = Shares::of(&ranges) else {
            return Ok(None);
        };
        let mut nodes: Vec<Vec<node::Limit>> = Vec::with_capacity(shares.nodes.len());
        for share in shares.nodes {
            nodes.push(if share.len() <= RANGES_COUNT {
                let limits = share.iter().map(|range| (range.last, range.value));
                limits.collect()
            } else {
                self.chunks(window, share)?
            });
        }
        self.place(&node::index(&shares.slots, &nodes)).map(Some)
    }

    fn runs(&mut self, part: Part<'_>, slots: Slots<'_>) -> Result<u32, FibError> {
        let Slots {
            values: mut entries,
            parts,
        } = slots;
        for (slot, routes) in parts {
            entries[slot] = self.build(part.child(slot, BITMAP_STRIDE, entries[slot], routes))?;
        }
        if node::runs(&entries) > BITMAP_RUNS {
            return self.place(&node::direct(entries));
        }
        self.place(&node::bitmap(&entries))
    }

    /// An array of few slots. As many neighbours as fit share a node of ranges.
    fn shared(
        &mut self,
        window: u8,
        mut entries: Vec<u32>,
        children: Vec<Shared<'_>>,
    ) -> Result<u32, FibError> {
        let mut joined: Vec<Range<'_>> = Vec::new();
        let mut sharing: Vec<usize> = Vec::new();
        for (slot, child, ranges) in children {
            if ranges.len() > RANGES_COUNT {
                entries[slot] = self.build(child)?;
                continue;
            }
            let mut longer = joined.clone();
            append(&mut longer, &ranges);
            if longer.len() > RANGES_COUNT {
                let entry = self.ranges(window, &joined)?;
                sharing.drain(..).for_each(|slot| entries[slot] = entry);
                longer = ranges;
            }
            joined = longer;
            sharing.push(slot);
        }
        if !sharing.is_empty() {
            let entry = self.ranges(window, &joined)?;
            sharing.drain(..).for_each(|slot| entries[slot] = entry);
        }
        self.place(&node::direct(entries))
    }

    /// An array whose slots have nothing in common, so that they can change one by one.
    fn build_many(&mut self, part: Part<'_>) -> Result<u32, FibError> {
        let stride = self.stride(part.routes.len());
        let Slots {
            values: mut entries,
            parts,
        } = part.cut(stride);
        for (slot, routes) in parts {
            entries[slot] = self.build(part.child(slot, stride, entries[slot], routes))?;
        }
        let array = self.place(&node::direct(entries))?;
        self.count(array, part.routes.len());
        Ok(array)
    }
}

/// How many of the first `items` belong together. Parts are small where there are many.
fn run_length<T>(items: &[T], belongs: impl Fn(&T) -> bool) -> usize {
    let mut step = 1;
    while step < items.len() && belongs(&items[step]) {
        step *= 2;
    }
    let from = step / 2;
    let to = step.min(items.len());
    from + items[from..to].partition_point(belongs)
}
