//! What a new generation takes over from the maps that the last one left pinned: counters and sequence numbers, which
//! both then share, and the machines on ports.
//!
//! Called by `load`. Maps of another shape or another version of the ABI are left alone, and everything starts anew:
//! aya would use a pinned map without looking at its sizes.

use std::path::PathBuf;

use aya::maps::{Array, Map, MapData, MapInfo, MapType};
use gre_common::counters::{DropKey, Stats};
use gre_common::entry::NeighbourEntry;
use gre_common::limits;
use gre_common::memory::Memory;
use gre_common::tables::SequenceEntry;

use super::maps::Maps;
use super::memory::MappedMemory;
use super::pins::Pins;

/// What a map must look like to be used.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: usize,
}

/// Maps that count, or that remember what was sent and received.
const COUNTERS: [Shape; 4] = [
    Shape {
        name: "TUNNEL_STATS",
        kind: MapType::PerCpuArray,
        key: 4,
        value: size_of::<Stats>(),
        entries: limits::TUNNELS,
    },
    Shape {
        name: "PORT_STATS",
        kind: MapType::PerCpuArray,
        key: 4,
        value: size_of::<Stats>(),
        entries: limits::PORTS,
    },
    Shape {
        name: "DROPS",
        kind: MapType::PerCpuHash,
        key: size_of::<DropKey>(),
        value: 8,
        entries: limits::DROPS,
    },
    Shape {
        name: "SEQUENCES",
        kind: MapType::Array,
        key: 4,
        value: size_of::<SequenceEntry>(),
        entries: limits::TUNNELS,
    },
];

const TABLES: Shape = Shape {
    name: "TABLES",
    kind: MapType::Array,
    key: 4,
    value: size_of::<Memory>(),
    entries: 1,
};

/// The pinned maps to go on with, by name: all of them or none, since they belong together.
pub(super) fn counters(pins: &Pins) -> Vec<(&'static str, PathBuf)> {
    let found = COUNTERS.iter().map(|shape| {
        let path = pins.map(shape.name);
        shape.fits(&path).then_some((shape.name, path))
    });
    let found: Option<Vec<_>> = found.collect();
    found.filter(|_| has_this_abi(pins)).unwrap_or_default()
}

/// The machines that the last generation could send to.
pub(super) fn machines(pins: &Pins) -> Vec<NeighbourEntry> {
    let path = pins.map(TABLES.name);
    if !has_this_abi(pins) || !TABLES.fits(&path) {
        return Vec::new();
    }
    let map = MapData::from_pin(&path).ok();
    let memory = map.and_then(|map| MappedMemory::new(&map).ok());
    memory.map_or_else(Vec::new, |memory| memory.resolved_neighbours().collect())
}

fn has_this_abi(pins: &Pins) -> bool {
    let version = MapData::from_pin(pins.map("VERSION"))
        .ok()
        .and_then(|data| Array::<_, u32>::try_from(Map::Array(data)).ok())
        .and_then(|version| version.get(&0, 0).ok());
    version == Some(Maps::ABI)
}

impl Shape {
    fn fits(&self, path: &std::path::Path) -> bool {
        let Ok(info) = MapInfo::from_pin(path) else {
            return false;
        };
        info.map_type().is_ok_and(|kind| kind == self.kind)
            && info.key_size() as usize == self.key
            && info.value_size() as usize == self.value
            && info.max_entries() as usize == self.entries
    }
}
