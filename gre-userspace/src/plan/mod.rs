//! From a configuration to the state the data plane should have, and from one state to the next.
//!
//! Pure: [`plan`] takes the configuration, what the system told about devices, the peerings' states and the ids given
//! so far; [`diff`] orders the way from one state to another so that at no step an entry refers to a missing one. The
//! daemon writes the changes to maps. Machines (neighbours) and ways to remotes (adjacencies) are found at run time and
//! belong to others; a plan only says where they are needed.

mod compile;
mod desired;
mod diff;
mod group;
mod grouping;
mod ids;
mod routes;

use std::collections::BTreeMap;

use gre_common::id::{IfIndex, MacAddress};

use crate::config::{Config, DeviceName, Diagnostics};
use crate::peering::States;

pub use desired::{
    DemuxMatch, Desired, Interface, Network, NextHop, Port, Route, RouteOrigin, Tunnel,
};
pub use diff::{Change, diff};
pub use group::{Group, Member};
pub use ids::Ids;

/// What the system tells about its devices, by name.
pub type Devices = BTreeMap<DeviceName, Device>;

/// A device of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Kernel interface index.
    pub index: IfIndex,
    /// Its layer-2 address.
    pub mac: MacAddress,
    /// Greatest IP packet it carries, in bytes.
    pub mtu: u32,
}

/// How many objects the data plane's tables hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Interface indexes, from 0.
    pub interfaces: usize,
    /// Devices with a role.
    pub devices: usize,
    /// Devices of which some VLANs are ports.
    pub tagged_devices: usize,
    /// Local outer addresses.
    pub endpoints: usize,
    /// Networks.
    pub networks: usize,
    /// Ports.
    pub ports: usize,
    /// Tunnels.
    pub tunnels: usize,
    /// Groups of tunnels.
    pub groups: usize,
}

/// The result of [`plan`].
#[derive(Clone, Debug)]
pub struct Planned {
    /// The state to reach. What an error of `complaints` concerns is not in it.
    pub desired: Desired,
    /// The ids in `desired`, and those to avoid next time.
    pub ids: Ids,
    /// Errors (a device does not exist, a table is full) and warnings (an MTU that cannot be had), located in the
    /// configuration file. An operator's reload with errors is refused; when a device vanishes at run time, `desired`
    /// is still the best to be had.
    pub complaints: Diagnostics,
}

/// The state that `config` asks for on a machine with these `devices`.
///
/// `ids` are those of the previous plan that was applied; `peerings` the states computed for `config`.
pub fn plan(
    config: &Config,
    peerings: &States,
    devices: &Devices,
    ids: Ids,
    limits: &Limits,
) -> Planned {
    let mut ids = ids.next(config, limits);
    let (desired, groups, complaints) = compile::compile(config, peerings, devices, &ids, limits);
    ids.groups = groups;
    Planned {
        desired,
        ids,
        complaints,
    }
}
