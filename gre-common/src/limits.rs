//! Sizes of the data plane's tables, and other numbers that program and daemon agree on.
//!
//! Used by the maps and by the planner, which refuses what would not fit.

/// Major and minor version of the oldest Linux that gregw runs on, which is also the oldest that its tests run on.
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);
/// Interface indexes, from 0.
pub const INTERFACES: usize = 65_536;
/// Devices that are underlay or carry ports.
pub const DEVICES: usize = 4_096;
/// Local outer addresses.
pub const ENDPOINTS: usize = 4_096;
/// Tables of VLANs, of which the first stays empty.
pub const VLAN_TABLES: usize = 256;
/// Devices of which some VLANs are ports: so many that all can be exchanged for others in one reload.
pub const TAGGED_DEVICES: usize = (VLAN_TABLES - 1) / 2;
/// VLAN ids, from 0.
pub const VLANS: usize = 4_096;
/// Ports.
pub const PORTS: usize = 16_384;
/// Tunnels.
pub const TUNNELS: usize = 131_072;
/// Groups of tunnels.
pub const GROUPS: usize = 16_384;
/// Tunnels of one group: one bit each in a word.
pub const GROUP_MEMBERS: usize = 32;
/// Shares that the flows of one group are divided into; a power of two.
pub const GROUP_BUCKETS: usize = 256;
/// Networks.
pub const NETWORKS: usize = 16_384;
/// Machines on ports, together.
pub const NEIGHBOURS: usize = 131_072;
/// Machines that were learnt and have no route yet.
pub const LEARNT: usize = 16_384;
/// Underlay next hops.
pub const ADJACENCIES: usize = 65_536;
/// Counters of drops: one for each owner, direction and reason that occurs.
pub const DROPS: usize = 1 << 20;
/// Bytes of the ring buffer of events.
pub const EVENTS_BYTES: usize = 1 << 20;
/// Bytes of the compiled routing tables of all networks.
pub const FIB_BYTES: usize = 64 << 20;

/// Index of the program `gregw_resolve` in `PROGRAMS`.
pub const RESOLVER: u32 = 0;
/// The number in `VERSION`: it changes whenever a map's layout or meaning does.
pub const ABI_VERSION: u32 = 4;

// The program bounds an index by cutting it.
const _: () = assert!(
    INTERFACES.is_power_of_two()
        && VLAN_TABLES.is_power_of_two()
        && VLANS.is_power_of_two()
        && PORTS.is_power_of_two()
        && TUNNELS.is_power_of_two()
        && GROUPS.is_power_of_two()
        && NETWORKS.is_power_of_two()
        && NEIGHBOURS.is_power_of_two()
        && ADJACENCIES.is_power_of_two()
        && FIB_BYTES.is_power_of_two()
);
const _: () = assert!(GROUP_MEMBERS == u32::BITS as usize && GROUP_BUCKETS == 1 << u8::BITS);
