//! The contents of a gateway's tables, said once for host and kernel.
//!
//! Fields are the tables, entry by entry; methods add what belongs together. Routes are a plain list: what they mean is
//! the longest prefix that contains an address, and nothing cleverer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use gre_common::entry::{
    AdjacencyEntry, AttachedPort, GroupEntry, InterfaceEntry, InterfaceFlags, NeighbourEntry,
    PortEntry, TunnelEntry, TunnelFlags,
};
use gre_common::id::{
    Address, AdjacencyId, Family, GreKey, GroupId, IfIndex, MacAddress, NeighbourId, NetworkId,
    PortId, TunnelId, VlanId,
};
use gre_common::key::DemuxKey;
use gre_common::next_hop::{NextHop, Target};
use ipnet::IpNet;

/// The tables of one gateway.
#[derive(Clone, Debug, Default)]
pub struct Gateway {
    /// Devices with a role.
    pub interfaces: BTreeMap<IfIndex, InterfaceEntry>,
    /// What frames may be sent on.
    pub devices: BTreeSet<IfIndex>,
    /// Ports behind tags.
    pub tagged_ports: BTreeMap<(IfIndex, VlanId), PortId>,
    /// Ports.
    pub ports: BTreeMap<PortId, PortEntry>,
    /// The gateway's GRE addresses.
    pub endpoints: BTreeSet<IpAddr>,
    /// Which tunnel takes which packets.
    pub demux: HashMap<DemuxKey, TunnelId>,
    /// Tunnels.
    pub tunnels: BTreeMap<TunnelId, TunnelEntry>,
    /// Groups of tunnels.
    pub groups: BTreeMap<GroupId, GroupEntry>,
    /// Machines.
    pub neighbours: BTreeMap<NeighbourId, NeighbourEntry>,
    /// Underlay next hops.
    pub adjacencies: BTreeMap<AdjacencyId, AdjacencyEntry>,
    /// The routing tables of all networks.
    pub routes: BTreeMap<(NetworkId, IpNet), NextHop>,
}

/// What makes one tunnel differ from another.
#[derive(Clone, Copy, Debug)]
pub struct TunnelOptions {
    /// The network it belongs to.
    pub network: NetworkId,
    /// The gateway's outer address.
    pub local: IpAddr,
    /// The site's outer address, of the same family.
    pub remote: IpAddr,
    /// Key that the site sends.
    pub receive_key: Option<u32>,
    /// Key that the gateway sends.
    pub transmit_key: Option<u32>,
    /// Send and require the checksum.
    pub checksum: bool,
    /// Send and require sequence numbers.
    pub sequence: bool,
    /// Greatest inner packet in bytes.
    pub mtu: u16,
    /// Outer TTL; `None`: that of the inner packet.
    pub ttl: Option<u8>,
    /// Outer TOS; `None`: that of the inner packet.
    pub tos: Option<u8>,
    /// The way to the remote.
    pub adjacency: AdjacencyId,
}

impl Gateway {
    /// A device over which GRE is exchanged.
    pub fn underlay(&mut self, device: IfIndex, mac: MacAddress, addresses: &[IpAddr]) {
        self.device(device, mac, InterfaceFlags::UNDERLAY);
        self.endpoints.extend(addresses);
    }

    /// A device whose untagged frames belong to a port.
    pub fn untagged_port(&mut self, id: PortId, port: PortEntry) {
        self.device(port.device, port.mac, InterfaceFlags::default())
            .untagged = AttachedPort {
            id,
            network: port.network,
        };
        self.ports.insert(id, port);
    }

    /// A port behind the tag [`PortEntry::vlan`].
    pub fn tagged_port(&mut self, id: PortId, port: PortEntry) {
        self.device(port.device, port.mac, InterfaceFlags::default());
        self.tagged_ports.insert((port.device, port.vlan), id);
        self.ports.insert(id, port);
    }

    /// The gateway's own address on a port, and the subnet around it.
    ///
    /// # Panics
    /// If there is no such port.
    pub fn subnet(&mut self, port: PortId, own: IpNet) {
        let network = self.ports[&port].network;
        self.route(network, own.trunc(), Target::Connected(port));
        self.route(network, own.addr().into(), Target::Local(port));
    }

    /// A machine on a port, and the route to it; without a MAC it is not resolved yet.
    ///
    /// # Panics
    /// If there is no such port.
    pub fn machine(
        &mut self,
        id: NeighbourId,
        port: PortId,
        address: IpAddr,
        mac: Option<MacAddress>,
    ) {
        let entry = NeighbourEntry {
            port,
            mac: mac.unwrap_or_default(),
            resolved: mac.is_some().into(),
            family: Address::from(address).family() as u8,
            address: Address::from(address).to_bytes(),
            used: 0,
        };
        self.neighbours.insert(id, entry);
        let network = self.ports[&port].network;
        self.route(network, address.into(), Target::Neighbour(id));
    }

    /// A tunnel, found by its addresses and receive key.
    ///
    /// # Panics
    /// If the addresses are of different families.
    pub fn tunnel(&mut self, id: TunnelId, options: &TunnelOptions) {
        let (local, remote) = (Address::from(options.local), Address::from(options.remote));
        let Some(key) = DemuxKey::new(local, remote, options.receive_key.map(GreKey)) else {
            panic!("no tunnel goes from {local:?} to {remote:?}");
        };
        self.demux.insert(key, id);
        let flags = TunnelFlags::IN_USE
            .with(TunnelFlags::KEY, options.transmit_key.is_some())
            .with(TunnelFlags::CHECKSUM, options.checksum)
            .with(TunnelFlags::SEQUENCE, options.sequence)
            .with(TunnelFlags::OUTER_V6, options.local.is_ipv6())
            .with(TunnelFlags::INHERIT_TTL, options.ttl.is_none())
            .with(TunnelFlags::INHERIT_TOS, options.tos.is_none())
            .with(TunnelFlags::RECEIVE_KEY, options.receive_key.is_some());
        let header_sum = match local.family() {
            Family::V4 => TunnelEntry::header_sum(local.to_v4(), remote.to_v4()),
            Family::V6 => 0,
        };
        let entry = TunnelEntry {
            network: options.network,
            adjacency: options.adjacency,
            flags,
            mtu: options.mtu,
            ttl: options.ttl.unwrap_or_default(),
            tos: options.tos.unwrap_or_default(),
            reserved: [0; 2],
            local: local.to_bytes(),
            remote: remote.to_bytes(),
            transmit_key: options.transmit_key.unwrap_or_default(),
            receive_key: options.receive_key.unwrap_or_default(),
            header_sum,
            reserved_tail: [0; 3],
        };
        self.tunnels.insert(id, entry);
    }

    /// A group of these tunnels, which have the buckets in turn; with each the number of its turns and whether it is alive.
    ///
    /// # Panics
    /// If there are too many of them.
    pub fn group(&mut self, id: GroupId, members: &[(TunnelId, usize, bool)]) {
        let mut entry = GroupEntry::default();
        let mut turns = Vec::new();
        for (place, (tunnel, count, is_alive)) in members.iter().enumerate() {
            entry.members[place] = *tunnel;
            entry.alive |= u32::from(*is_alive) << place;
            turns.extend(std::iter::repeat_n(place as u8, *count));
        }
        for (bucket, place) in entry.buckets.iter_mut().zip(turns.into_iter().cycle()) {
            *bucket = place;
        }
        self.groups.insert(id, entry);
    }

    /// A route.
    pub fn route(&mut self, network: NetworkId, prefix: IpNet, target: Target) {
        self.routes
            .insert((network, prefix.trunc()), NextHop::new(target));
    }

    /// The next hop of the longest prefix that contains the address.
    pub fn look_up(&self, network: NetworkId, address: IpAddr) -> NextHop {
        let routes = self
            .routes
            .iter()
            .filter(|((of, prefix), _)| *of == network && prefix.contains(&address));
        let longest = routes.max_by_key(|((_, prefix), _)| prefix.prefix_len());
        longest.map_or(NextHop::NONE, |(_, next_hop)| *next_hop)
    }

    fn device(
        &mut self,
        device: IfIndex,
        mac: MacAddress,
        role: InterfaceFlags,
    ) -> &mut InterfaceEntry {
        self.devices.insert(device);
        let entry = self.interfaces.entry(device).or_default();
        entry.mac = mac;
        entry.flags = entry.flags.union(role);
        // Any number will do that tells devices apart.
        entry.vlans = device.0;
        entry
    }
}

/// A port as tests need it.
impl Gateway {
    /// An entry for [`Gateway::untagged_port`] (VLAN 0) or [`Gateway::tagged_port`].
    pub fn port_entry(
        network: NetworkId,
        device: IfIndex,
        mac: MacAddress,
        vlan: u16,
        mtu: u16,
    ) -> PortEntry {
        PortEntry {
            network,
            device,
            mac,
            vlan: VlanId(vlan),
            mtu,
            reserved: 0,
        }
    }
}
