//! Cutting a part of the address space into ranges that have one next hop each.
//!
//! The builder takes routes, nested as they are, and gets what a node of ranges stores.

use super::routes::{Prefix, Route};

/// A range of the 32 bits that a node of ranges looks at, up to `last`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range<'r> {
    pub(super) last: u32,
    pub(super) value: u32,
    /// Routes that begin with `last` and go on behind these bits; the range is that one value.
    pub(super) below: &'r [Route],
}

impl Range<'_> {
    fn is_continued_by(&self, next: &Self) -> bool {
        self.value == next.value && self.below.is_empty() && next.below.is_empty()
    }
}

/// The ranges of `place`, seen through the 32 bits behind the first `window` (at most
/// `place.length`). `value` holds there but for `routes`, sorted, all longer.
pub(super) fn ranges(window: u8, place: Prefix, value: u32, routes: &[Route]) -> Vec<Range<'_>> {
    let mut sweep = Sweep {
        ranges: Vec::with_capacity(2 * routes.len() + 1),
        covering: vec![(last_word(place, window), value)],
        next: u64::from(word(place.bits, window)),
    };
    let mut rest = routes;
    while let [route, behind @ ..] = rest {
        let first = word(route.prefix.bits, window);
        sweep.close_before(first);
        if route.prefix.length <= window + 32 {
            let last = last_word(route.prefix, window);
            sweep.covering.push((last, route.next_hop));
            rest = behind;
        } else {
            let count = rest.partition_point(|route| word(route.prefix.bits, window) == first);
            let (below, behind) = rest.split_at(count);
            let value = sweep.covering.last().expect("the place covers all").1;
            sweep.emit(first, value, below);
            rest = behind;
        }
    }
    while let Some((last, value)) = sweep.covering.pop() {
        sweep.emit_up_to(last, value);
    }
    sweep.ranges
}

/// Joins `next` to `ranges`, which lie before it.
pub(super) fn append<'r>(ranges: &mut Vec<Range<'r>>, next: &[Range<'r>]) {
    for range in next {
        match ranges.last_mut() {
            Some(before) if before.is_continued_by(range) => before.last = range.last,
            _ => ranges.push(*range),
        }
    }
}

/// The state of a sweep over sorted routes.
struct Sweep<'r> {
    ranges: Vec<Range<'r>>,
    /// Last value and next hop of what covers the place that the sweep has reached, longest last.
    covering: Vec<(u32, u32)>,
    /// The first value that no range has yet.
    next: u64,
}

impl<'r> Sweep<'r> {
    /// Ends all ranges before `first`.
    fn close_before(&mut self, first: u32) {
        while let Some(&(last, value)) = self.covering.last() {
            if last >= first {
                if let Some(last) = first.checked_sub(1) {
                    self.emit_up_to(last, value);
                }
                return;
            }
            self.covering.pop();
            self.emit_up_to(last, value);
        }
    }

    fn emit_up_to(&mut self, last: u32, value: u32) {
        if u64::from(last) >= self.next {
            self.emit(last, value, &[]);
        }
    }

    fn emit(&mut self, last: u32, value: u32, below: &'r [Route]) {
        self.next = u64::from(last) + 1;
        append(&mut self.ranges, &[Range { last, value, below }]);
    }
}

fn word(bits: u128, window: u8) -> u32 {
    (bits << window >> 96) as u32
}

fn last_word(prefix: Prefix, window: u8) -> u32 {
    word(prefix.bits | prefix.host_bits(), window)
}
