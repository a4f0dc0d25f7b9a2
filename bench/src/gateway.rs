//! The data plane under test: the object that the daemon loads, its tables filled through the daemon's own library.
//!
//! Machines are on `left`, one VLAN for each network if there are several; the underlay is on `right`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use gre_common::counters::Owner;
use gre_common::entry::{AdjacencyEntry, NeighbourEntry};
use gre_common::id::{
    AdjacencyId, GreKey, IfIndex, MacAddress, NeighbourId, NetworkId, PortId, TunnelId, VlanId,
};
use gre_common::next_hop::{NextHop, Target};
use gre_common::wire::ether::LinkAddresses;
use gre_userspace::config::{Keys, Name, Tos, Ttl, XdpMode};
use gre_userspace::dataplane::{DataPlane, Streams};
use gre_userspace::fib::Change;
use gre_userspace::instance::Instance;
use gre_userspace::plan;
use ipnet::Ipv4Net;
use tokio::runtime::{Builder, Runtime};

use crate::bed::{Bed, Device, MTU};
use crate::case::TunnelKind;
use crate::namespace::PINS;
use crate::scale::{GATEWAY_ADDRESS, MACHINE, SUBNET_LENGTH, Scale, local};

/// A loaded and filled data plane on a bed.
pub(crate) struct Gateway {
    plane: RefCell<DataPlane>,
    scale: Scale,
    kind: TunnelKind,
    // The program writes to them; nothing here reads them. They end before the event loop that they are on.
    _streams: Streams,
    _event_loop: Runtime,
}

/// What the gateway counted, over all tunnels and ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Packets from tunnels.
    pub(crate) from_tunnels: u64,
    /// Packets into tunnels.
    pub(crate) to_tunnels: u64,
    /// Packets from ports.
    pub(crate) from_ports: u64,
    /// Packets to ports.
    pub(crate) to_ports: u64,
    /// Packets dropped.
    pub(crate) drops: u64,
}

impl Totals {
    /// What has been counted since.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            from_tunnels: self.from_tunnels - before.from_tunnels,
            to_tunnels: self.to_tunnels - before.to_tunnels,
            from_ports: self.from_ports - before.from_ports,
            to_ports: self.to_ports - before.to_ports,
            drops: self.drops - before.drops,
        }
    }

    /// The greatest of the counters of traffic.
    pub(crate) fn greatest(self) -> u64 {
        let counters = [
            self.from_tunnels,
            self.to_tunnels,
            self.from_ports,
            self.to_ports,
        ];
        counters.into_iter().fold(0, u64::max)
    }
}

impl Gateway {
    /// Loads the data plane and fills it, then attaches it to both devices of the bed, whose namespace the calling
    /// thread is in.
    pub(crate) fn new(bed: &Bed, scale: Scale, kind: TunnelKind) -> Result<Self> {
        let instance: Instance = "bench".parse()?;
        let event_loop = Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot start an event loop")?;
        let entered = event_loop.enter();
        let (plane, streams, _) =
            DataPlane::load(&instance, &[], false).context("cannot load the data plane")?;
        drop(entered);
        let mut gateway = Self {
            plane: RefCell::new(plane),
            scale,
            kind,
            _streams: streams,
            _event_loop: event_loop,
        };
        gateway
            .fill(bed)
            .context("cannot fill the data plane's tables")?;
        for device in [bed.left.near, bed.right.near] {
            gateway
                .plane
                .get_mut()
                .attach(IfIndex(device.index), device.name, XdpMode::Native)?;
        }
        gateway.plane.get_mut().supersede()?;
        // What is pinned would outlive this.
        fs::remove_dir_all(PINS).with_context(|| format!("cannot remove {PINS}"))?;
        Ok(gateway)
    }

    /// What it has counted so far.
    pub(crate) fn totals(&self) -> Result<Totals> {
        let plane = self.plane.borrow();
        let mut totals = Totals::default();
        for tunnel in self.scale.tunnels() {
            let stats = plane.maps.stats(Owner::Tunnel(tunnel_id(tunnel)))?;
            totals.from_tunnels += stats.receive_packets;
            totals.to_tunnels += stats.transmit_packets;
        }
        for port in self.scale.ports() {
            let stats = plane.maps.stats(Owner::Port(port_id(port)))?;
            totals.from_ports += stats.receive_packets;
            totals.to_ports += stats.transmit_packets;
        }
        totals.drops = plane.maps.drops()?.iter().map(|(_, count)| count).sum();
        Ok(totals)
    }

    /// The drop counters that are not zero, as text.
    pub(crate) fn drops(&self) -> Result<String> {
        let drops = self.plane.borrow().maps.drops()?;
        let words: Vec<String> = drops
            .iter()
            .map(|(key, count)| format!("reason {} of {:?}: {count}", key.reason, key.owner()))
            .collect();
        Ok(words.join(", "))
    }

    /// Changes routes of a network.
    pub(crate) fn update_routes(&self, network: NetworkId, changes: &[Change]) -> Result<()> {
        Ok(self.plane.borrow_mut().update_routes(network, changes)?)
    }

    fn fill(&mut self, bed: &Bed) -> Result<()> {
        for port in self.scale.ports() {
            self.fill_port(bed.left.near, bed.left.far, port)?;
        }
        self.fill_devices(bed)?;
        for tunnel in self.scale.tunnels() {
            self.fill_tunnel(bed.right.far, bed.right.near, tunnel)?;
        }
        let mut routes: HashMap<u32, Vec<Change>> = HashMap::new();
        for port in self.scale.ports() {
            routes.entry(port).or_default().extend(own_routes(port));
        }
        for route in self.scale.routes() {
            let next_hop = NextHop::new(Target::Tunnel(tunnel_id(route.tunnel)));
            let change = Change::Set(route.prefix.into(), next_hop);
            routes.entry(route.network).or_default().push(change);
        }
        for (network, changes) in routes {
            self.update_routes(NetworkId(network), &changes)?;
        }
        Ok(())
    }

    fn fill_devices(&mut self, bed: &Bed) -> Result<()> {
        let tagged = self.scale.vlan(0).is_some();
        let machines = plan::Interface {
            mac: MacAddress(bed.left.near.mac),
            xdp_mode: XdpMode::Native,
            underlay: false,
            untagged_port: (!tagged).then_some(port_id(0)),
            tagged_ports: tagged,
        };
        let underlay = plan::Interface {
            mac: MacAddress(bed.right.near.mac),
            xdp_mode: XdpMode::Native,
            underlay: true,
            untagged_port: None,
            tagged_ports: false,
        };
        let maps = &mut self.plane.get_mut().maps;
        for (device, interface) in [(bed.left.near, machines), (bed.right.near, underlay)] {
            let untagged = interface.untagged_port;
            let tagged = interface.tagged_ports;
            maps.set_interface(IfIndex(device.index), interface.entry(), untagged, tagged);
            maps.set_redirect(IfIndex(device.index), true)?;
        }
        maps.set_endpoint(local(self.kind).into(), true)?;
        Ok(())
    }

    /// Ports, networks and the machines behind them share their numbers.
    fn fill_port(&mut self, near: Device, far: Device, number: u32) -> Result<()> {
        let vlan = self.scale.vlan(number).map(|vlan| VlanId(vlan.value()));
        let port = plan::Port {
            name: name("port", number)?,
            network: NetworkId(number),
            device: IfIndex(near.index),
            mac: MacAddress(near.mac),
            vlan,
            mtu: MTU,
            address: Vec::new(),
        };
        let machine = NeighbourEntry {
            port: port_id(number),
            mac: MacAddress(far.mac),
            resolved: 1,
            family: 4,
            address: gre_common::id::Address::from(IpAddr::from(MACHINE)).to_bytes(),
            used: 0,
        };
        let maps = &mut self.plane.get_mut().maps;
        maps.set_neighbour(NeighbourId(number), machine);
        maps.set_port(port_id(number), port.entry());
        if let Some(vlan) = vlan {
            maps.set_tagged_port(IfIndex(near.index), vlan, Some(port_id(number)))?;
        }
        Ok(())
    }

    /// Tunnels to one remote share a next hop.
    fn fill_tunnel(&mut self, far: Device, near: Device, number: u32) -> Result<()> {
        let receive = GreKey(self.scale.receive_key(number));
        let tunnel = plan::Tunnel {
            name: name("tunnel", number)?,
            network: NetworkId(self.scale.network(number)),
            local: local(self.kind),
            remote: self.scale.remote_address(self.kind, number),
            keys: Keys {
                receive: Some(receive),
                transmit: Some(GreKey(self.scale.transmit_key(number))),
            },
            checksum: self.kind == TunnelKind::Checksum,
            sequence: self.kind == TunnelKind::Sequence,
            mtu: 1400,
            ttl: Ttl::Fixed(64),
            tos: Tos::Inherit,
        };
        let demux = plan::DemuxMatch {
            local: tunnel.local,
            remote: tunnel.remote,
            key: Some(receive),
        };
        let adjacency = AdjacencyEntry {
            device: IfIndex(near.index),
            addresses: LinkAddresses::new(&MacAddress(far.mac), &MacAddress(near.mac)),
            mtu: MTU,
            reserved: 0,
        };
        let maps = &mut self.plane.get_mut().maps;
        let next_hop = AdjacencyId(Scale::remote(number));
        maps.set_adjacency(next_hop, adjacency);
        maps.set_tunnel(tunnel_id(number), tunnel.entry(next_hop, None));
        let key = demux.key().context("a tunnel between two families")?;
        maps.set_demux(key, Some(tunnel_id(number)))?;
        Ok(())
    }
}

/// The routes that a port brings into its network.
fn own_routes(port: u32) -> [Change; 3] {
    let subnet = Ipv4Net::new_assert(MACHINE, SUBNET_LENGTH).trunc();
    let host = |address: Ipv4Addr| Ipv4Net::from(address).into();
    [
        Change::Set(
            subnet.into(),
            NextHop::new(Target::Connected(port_id(port))),
        ),
        Change::Set(
            host(GATEWAY_ADDRESS),
            NextHop::new(Target::Local(port_id(port))),
        ),
        Change::Set(
            host(MACHINE),
            NextHop::new(Target::Neighbour(NeighbourId(port))),
        ),
    ]
}

/// Object 0 is nobody's.
const fn port_id(number: u32) -> PortId {
    PortId(number + 1)
}

/// Object 0 is nobody's.
const fn tunnel_id(number: u32) -> TunnelId {
    TunnelId(number + 1)
}

fn name(kind: &str, number: u32) -> Result<Name> {
    Ok(Name::new(&format!("{kind}-{number}"))?)
}
