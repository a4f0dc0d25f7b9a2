//! Which table of VLANs is whose: each device with tagged ports has one of a limited number.
//!
//! Written through `maps`. Holds: table 0 is nobody's and empty; another is given to another device only after it has been
//! empty for a while, so that no frame of one device meets the ports of another.

use std::collections::HashMap;
use std::time::Instant;

use gre_common::id::{IfIndex, PortId, VlanId};
use gre_common::limits;

use super::memory::MappedMemory;
use crate::error::{Error, Result};
use crate::id_pool::IdPool;

/// The tables of VLANs.
#[derive(Debug)]
pub(super) struct VlanTables {
    ids: IdPool,
    devices: HashMap<IfIndex, VlanTable>,
}

#[derive(Debug)]
struct VlanTable {
    id: u32,
    ports: HashMap<VlanId, PortId>,
}

impl Default for VlanTables {
    fn default() -> Self {
        Self {
            ids: IdPool::new(1, limits::VLAN_TABLES as u32),
            devices: HashMap::new(),
        }
    }
}

impl VlanTables {
    /// The number of a device's table; that of the empty one if it has none.
    pub(super) fn of(&self, device: IfIndex) -> u32 {
        self.devices.get(&device).map_or(0, |table| table.id)
    }

    /// Whose frames of the device with this tag are.
    ///
    /// # Errors
    /// [`Error::Full`] if no table is left.
    pub(super) fn insert(
        &mut self,
        memory: &MappedMemory,
        device: IfIndex,
        vlan: VlanId,
        port: PortId,
    ) -> Result<()> {
        if !self.devices.contains_key(&device) {
            let id = self.ids.allocate(Instant::now()).ok_or(Error::Full {
                table: "the table of devices with tagged ports",
                limit: limits::VLAN_TABLES as u64 - 1,
                help: "put VLANs onto fewer devices",
            })?;
            let ports = HashMap::new();
            self.devices.insert(device, VlanTable { id, ports });
        }
        if let Some(table) = self.devices.get_mut(&device) {
            table.ports.insert(vlan, port);
            memory.set_vlan(table.id, vlan, Some(port));
        }
        Ok(())
    }

    /// Frames of the device with this tag are the kernel's.
    pub(super) fn remove(&mut self, memory: &MappedMemory, device: IfIndex, vlan: VlanId) {
        let Some(table) = self.devices.get_mut(&device) else {
            return;
        };
        table.ports.remove(&vlan);
        memory.set_vlan(table.id, vlan, None);
        if table.ports.is_empty() {
            self.ids.release(table.id, Instant::now());
            self.devices.remove(&device);
        }
    }
}
