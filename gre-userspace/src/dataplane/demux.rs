//! Builds the index by which GRE packets find their tunnels: chooses displacements so that no two keys share a slot.
//!
//! Written through `maps`. Holds: at every moment each key that stays is found, with the old displacement of its bucket
//! or with the new one. A slot that a key has left names the tunnel until a grace period is over.

use std::collections::{HashMap, HashSet};

use gre_common::demux::{GREATEST_SIZE, LEAST_SIZE, bucket, hash, slot};
use gre_common::id::TunnelId;
use gre_common::key::DemuxKey;

use super::memory::MappedMemory;
use crate::error::{Error, Result};
use crate::fib::GracePeriod;

/// The keys in the index and where they are.
#[derive(Debug, Default)]
pub(super) struct DemuxIndex {
    tunnels: HashMap<DemuxKey, TunnelId>,
    table: Table,
}

/// The table in force.
#[derive(Debug, Default)]
struct Table {
    /// Slots; 0 before the first key.
    size: u32,
    /// The keys of each bucket that has any, and its displacement.
    buckets: HashMap<u32, (Vec<DemuxKey>, u16)>,
    /// Slots of keys.
    taken: HashSet<u32>,
    /// Slots that keys have left, but that packets which came just before may still be led to.
    resting: HashMap<u32, DemuxKey>,
}

/// No displacement keeps the keys apart.
struct NoRoom;

impl DemuxIndex {
    /// Leads packets with this key to a tunnel.
    ///
    /// # Errors
    /// [`Error::Full`]; nothing has changed then.
    pub(super) fn insert(
        &mut self,
        memory: &MappedMemory,
        grace: &mut impl GracePeriod,
        key: DemuxKey,
        tunnel: TunnelId,
    ) -> Result<()> {
        if self.tunnels.contains_key(&key) {
            memory.set_demux_slot(self.table.slot_of(&key), Some(tunnel));
        } else if self.is_crowded() || !self.find_room(memory, grace, key, tunnel)? {
            self.grow(memory, key, tunnel)?;
        }
        self.tunnels.insert(key, tunnel);
        Ok(())
    }

    /// Leads packets with this key nowhere.
    pub(super) fn remove(&mut self, memory: &MappedMemory, key: &DemuxKey) {
        if self.tunnels.remove(key).is_none() {
            return;
        }
        let slot = self.table.slot_of(key);
        self.table.taken.remove(&slot);
        // Another displacement could lead to where the key has been, too.
        let left = self.table.resting.extract_if(|_, other| other == key);
        for (slot, _) in left.chain([(slot, *key)]) {
            memory.set_demux_slot(slot, None);
        }
        let bucket = bucket(self.table.size, hash(key));
        if let Some((keys, _)) = self.table.buckets.get_mut(&bucket) {
            keys.retain(|other| other != key);
        }
    }

    /// Whether one key more would fill more than half of the slots.
    fn is_crowded(&self) -> bool {
        2 * (self.tunnels.len() + 1) > self.table.size as usize && self.table.size < GREATEST_SIZE
    }

    /// Finds a slot for one key more in the table in force; returns whether there is one.
    fn find_room(
        &mut self,
        memory: &MappedMemory,
        grace: &mut impl GracePeriod,
        key: DemuxKey,
        tunnel: TunnelId,
    ) -> Result<bool> {
        // Few at a time: the wait is long, and many would leave no way out.
        if self.table.resting.len() <= self.table.size as usize / 8
            && self.add(memory, key, tunnel).is_ok()
        {
            return Ok(true);
        }
        grace
            .wait()
            .map_err(|source| Error::system("wait for packets on their way", source))?;
        for (slot, _) in self.table.resting.drain() {
            memory.set_demux_slot(slot, None);
        }
        Ok(self.add(memory, key, tunnel).is_ok())
    }

    /// Adds a key, moving those of its bucket.
    fn add(
        &mut self,
        memory: &MappedMemory,
        key: DemuxKey,
        tunnel: TunnelId,
    ) -> std::result::Result<(), NoRoom> {
        let table = &mut self.table;
        let at = bucket(table.size, hash(&key));
        let keys = table.buckets.get(&at).map(|(keys, _)| keys.clone());
        let mut keys = keys.unwrap_or_default();
        let old: Vec<_> = keys.iter().map(|key| (table.slot_of(key), *key)).collect();
        keys.push(key);
        let (displacement, slots) = table.displace(&keys)?;
        for (member, slot) in keys.iter().zip(&slots) {
            let tunnel = self.tunnels.get(member).copied().unwrap_or(tunnel);
            memory.set_demux_slot(*slot, Some(tunnel));
        }
        memory.set_demux_displacement(at, displacement);
        for (slot, _) in &old {
            table.taken.remove(slot);
        }
        table.resting.extend(old);
        table.settle(at, keys, displacement, slots);
        Ok(())
    }

    /// Goes over to a table of twice the size, or more if need be, with one key more.
    fn grow(&mut self, memory: &MappedMemory, key: DemuxKey, tunnel: TunnelId) -> Result<()> {
        let mut size = (self.table.size * 2).max(LEAST_SIZE);
        while size <= GREATEST_SIZE {
            let keys = self.tunnels.keys().copied().chain([key]);
            if let Ok(table) = Table::build(size, keys) {
                for key in self.tunnels.keys().chain([&key]) {
                    let tunnel = self.tunnels.get(key).copied().unwrap_or(tunnel);
                    memory.set_demux_slot(table.slot_of(key), Some(tunnel));
                }
                for (bucket, (_, displacement)) in &table.buckets {
                    memory.set_demux_displacement(*bucket, *displacement);
                }
                memory.set_demux_size(size);
                self.table = table;
                return Ok(());
            }
            size *= 2;
        }
        Err(Error::Full {
            table: "the table of tunnels' addresses and keys",
            limit: GREATEST_SIZE.into(),
            help: "take some tunnels out of the configuration, or change their keys",
        })
    }
}

impl Table {
    /// A table for all keys at once; the largest buckets choose first.
    fn build(size: u32, keys: impl Iterator<Item = DemuxKey>) -> std::result::Result<Self, NoRoom> {
        let mut buckets: HashMap<u32, Vec<DemuxKey>> = HashMap::new();
        for key in keys {
            buckets
                .entry(bucket(size, hash(&key)))
                .or_default()
                .push(key);
        }
        let mut buckets: Vec<_> = buckets.into_iter().collect();
        buckets.sort_by_key(|(bucket, keys)| (usize::MAX - keys.len(), *bucket));
        let mut table = Self {
            size,
            ..Self::default()
        };
        for (bucket, keys) in buckets {
            let (displacement, slots) = table.displace(&keys)?;
            table.settle(bucket, keys, displacement, slots);
        }
        Ok(table)
    }

    /// The least displacement that leads these keys of one bucket to free slots, and the slots.
    fn displace(&self, keys: &[DemuxKey]) -> std::result::Result<(u16, Vec<u32>), NoRoom> {
        let mut slots = Vec::with_capacity(keys.len());
        for displacement in 0..=u16::MAX {
            slots.clear();
            for key in keys {
                let slot = slot(self.size, hash(key), displacement);
                if self.taken.contains(&slot)
                    || self.resting.contains_key(&slot)
                    || slots.contains(&slot)
                {
                    break;
                }
                slots.push(slot);
            }
            if slots.len() == keys.len() {
                return Ok((displacement, slots));
            }
        }
        Err(NoRoom)
    }

    fn settle(&mut self, bucket: u32, keys: Vec<DemuxKey>, displacement: u16, slots: Vec<u32>) {
        self.taken.extend(slots);
        self.buckets.insert(bucket, (keys, displacement));
    }

    fn slot_of(&self, key: &DemuxKey) -> u32 {
        let hash = hash(key);
        let displacement = self.buckets.get(&bucket(self.size, hash));
        slot(
            self.size,
            hash,
            displacement.map_or(0, |(_, displacement)| *displacement),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use gre_common::demux::Slot;
    use gre_common::entry::{TunnelEntry, TunnelFlags};
    use gre_common::id::{Address, Family, GreKey, NetworkId};
    use proptest::prelude::*;

    use super::*;

    struct NoPackets;

    impl GracePeriod for NoPackets {
        fn wait(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn key(local: &str, remote: &str, key: Option<u32>) -> DemuxKey {
        let [local, remote] = [local, remote].map(|text| {
            let address: IpAddr = text.parse().expect("an address");
            Address::from(address)
        });
        DemuxKey::new(local, remote, key.map(GreKey)).expect("one family")
    }

    /// A tunnel that takes packets with this key.
    fn entry(key: &DemuxKey) -> TunnelEntry {
        TunnelEntry {
            flags: TunnelFlags::IN_USE
                .with(TunnelFlags::RECEIVE_KEY, key.has_key != 0)
                .with(TunnelFlags::OUTER_V6, key.local.family() == Family::V6),
            local: key.local.to_bytes(),
            remote: key.remote.to_bytes(),
            receive_key: key.key,
            ..TunnelEntry::default()
        }
    }

    fn found(memory: &MappedMemory, key: &DemuxKey) -> Option<TunnelId> {
        memory.get().demux(key).map(Slot::tunnel)
    }

    fn numbered(number: u32) -> DemuxKey {
        let remote = format!("198.18.{}.{}", number >> 12 & 0xff, number >> 4 & 0xff);
        key("203.0.113.1", &remote, Some(1000 + number))
    }

    #[test]
    fn what_differs_in_one_part_of_the_key_is_told_apart() {
        let memory = MappedMemory::private();
        let mut index = DemuxIndex::default();
        let keys = [
            key("192.0.2.1", "192.0.2.2", None),
            key("192.0.2.1", "192.0.2.2", Some(0)),
            key("192.0.2.1", "192.0.2.2", Some(1)),
            key("192.0.2.1", "192.0.2.3", Some(1)),
            key("192.0.2.2", "192.0.2.1", Some(1)),
            key("2001:db8::1", "2001:db8::2", Some(1)),
            key("2001:db8::1", "2001:db8:1::2", Some(1)),
            key("2001:db8:1::1", "2001:db8::2", Some(1)),
        ];
        for (id, key) in (1..).map(TunnelId).zip(&keys) {
            memory.set_tunnel(id, entry(key));
            index
                .insert(&memory, &mut NoPackets, *key, id)
                .expect("room");
        }
        for (id, key) in (1..).map(TunnelId).zip(&keys) {
            assert_eq!(found(&memory, key), Some(id));
        }
        let strangers = [
            key("192.0.2.1", "192.0.2.2", Some(2)),
            key("2001:db8::1", "2001:db8::2", None),
        ];
        for stranger in &strangers {
            assert_eq!(found(&memory, stranger), None);
        }
    }

    #[test]
    fn a_tunnel_that_moves_to_another_network_takes_packets_once_they_are_told() {
        let memory = MappedMemory::private();
        let mut index = DemuxIndex::default();
        let key = key("192.0.2.1", "192.0.2.2", Some(1));
        let in_network = |network| TunnelEntry {
            network: NetworkId(network),
            ..entry(&key)
        };
        memory.set_tunnel(TunnelId(1), in_network(1));
        let mut tell = || {
            let inserted = index.insert(&memory, &mut NoPackets, key, TunnelId(1));
            inserted.expect("room");
        };
        tell();
        let network = || memory.get().demux(&key).map(Slot::network);
        assert_eq!(network(), Some(NetworkId(1)));
        memory.set_tunnel(TunnelId(1), in_network(2));
        assert_eq!(network(), None);
        tell();
        assert_eq!(network(), Some(NetworkId(2)));
    }

    #[test]
    fn all_tunnels_that_the_gateway_can_have_find_room() {
        let memory = MappedMemory::private();
        let mut index = DemuxIndex::default();
        let count = gre_common::limits::TUNNELS as u32 - 1;
        for number in 1..=count {
            let key = numbered(number);
            memory.set_tunnel(TunnelId(number), entry(&key));
            index
                .insert(&memory, &mut NoPackets, key, TunnelId(number))
                .expect("room");
        }
        for number in 1..=count {
            let found = found(&memory, &numbered(number));
            assert_eq!(found, Some(TunnelId(number)));
        }
        assert_eq!(found(&memory, &numbered(count + 1)), None);
    }

    #[test]
    fn keys_that_come_and_go_find_room_in_a_full_table() {
        let memory = MappedMemory::private();
        let mut index = DemuxIndex::default();
        let count = gre_common::limits::TUNNELS as u32 - 1;
        let insert = |index: &mut DemuxIndex, number| {
            let tunnel = TunnelId(1);
            index.insert(&memory, &mut NoPackets, numbered(number), tunnel)
        };
        for number in 0..count {
            insert(&mut index, number).expect("room");
        }
        for number in count..count + 60_000 {
            insert(&mut index, number).expect("room");
            index.remove(&memory, &numbered(number - count));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_was_inserted_last_is_found_and_what_was_removed_is_not(
            steps in proptest::collection::vec((0u32..300, any::<bool>()), 1..600)
        ) {
            let memory = MappedMemory::private();
            let (mut index, mut model) = (DemuxIndex::default(), HashMap::new());
            for (id, (number, is_insert)) in (1..).map(TunnelId).zip(steps) {
                let key = numbered(number);
                if is_insert {
                    memory.set_tunnel(id, entry(&key));
                    index.insert(&memory, &mut NoPackets, key, id).expect("room");
                    model.insert(number, id);
                } else {
                    index.remove(&memory, &key);
                    model.remove(&number);
                }
                prop_assert_eq!(found(&memory, &key), model.get(&number).copied());
                for number in (0..300).skip(id.0 as usize % 16).step_by(16) {
                    let found = found(&memory, &numbered(number));
                    prop_assert_eq!(found, model.get(&number).copied());
                }
            }
        }
    }
}
