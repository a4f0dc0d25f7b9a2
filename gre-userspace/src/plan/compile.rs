//! Turns the sections of a configuration into objects with ids; routes are left to `routes`.
//!
//! Called by [`plan`](super::plan). What this machine cannot give is complained about where the file asks for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use gre_common::id::{NetworkId, PortId};
use toml::Spanned;

use super::desired::{DemuxMatch, Desired, Interface, Network, Port, Tunnel};
use super::grouping::Groups;
use super::routes;
use super::{Device, Devices, Ids, Limits};
use crate::config::{self, Config, DeviceName, Diagnostics, Name, XdpMode};
use crate::peering::States;

/// What every stage of compiling reads, and where it complains.
pub(super) struct Compiler<'c> {
    pub(super) config: &'c Config,
    pub(super) peerings: &'c States,
    pub(super) ids: &'c Ids,
    devices: &'c Devices,
    pub(super) limits: &'c Limits,
    pub(super) complaints: Diagnostics,
}

pub(super) fn compile(
    config: &Config,
    peerings: &States,
    devices: &Devices,
    ids: &Ids,
    limits: &Limits,
) -> (Desired, Groups, Diagnostics) {
    let mut compiler = Compiler {
        config,
        peerings,
        ids,
        devices,
        limits,
        complaints: Diagnostics::default(),
    };
    let mut desired = Desired::default();
    compiler.networks(&mut desired);
    compiler.underlays(&mut desired);
    compiler.ports(&mut desired);
    compiler.tunnels(&mut desired);
    let groups = routes::routes(&mut compiler, &mut desired);
    (desired, groups, compiler.complaints.into_sorted())
}

impl Compiler<'_> {
    fn networks(&mut self, desired: &mut Desired) {
        for network in &self.config.networks {
            let id = self.ids.network(network.name.get_ref());
            let Some(id) = self.placed(id, &network.name, "networks", self.limits.networks) else {
                continue;
            };
            let (name, tenant) = (
                network.name.get_ref().clone(),
                network.tenant.get_ref().clone(),
            );
            desired.networks.insert(id, Network { name, tenant });
        }
    }

    fn underlays(&mut self, desired: &mut Desired) {
        for underlay in &self.config.underlays {
            for local in &underlay.local {
                if desired.endpoints.len() < self.limits.endpoints {
                    desired.endpoints.insert(*local.get_ref());
                } else {
                    self.full(local, "local addresses", self.limits.endpoints);
                }
            }
            if let Some(device) = self.device(&underlay.device, desired) {
                let interface = interface(desired, device);
                interface.underlay = true;
                interface.xdp_mode = underlay.xdp_mode;
            }
        }
    }

    fn ports(&mut self, desired: &mut Desired) {
        for port in &self.config.ports {
            let id = self.ids.port(port.network.get_ref(), port.name.get_ref());
            let id = self.placed(id, &port.name, "ports", self.limits.ports);
            let device = self.device(&port.device, desired);
            let network = self.ids.network(port.network.get_ref());
            let (Some(id), Some(device), Some(network)) = (id, device, network) else {
                continue;
            };
            if port.vlan.is_some() && !self.has_tags(&port.device, desired, device) {
                continue;
            }
            desired.ports.insert(id, port_object(port, network, device));
            attach(desired, port, id, device);
        }
    }

    /// Whether the device can have tagged ports: it has some already, or there is room for one more that does.
    fn has_tags(&mut self, name: &Spanned<DeviceName>, desired: &Desired, device: Device) -> bool {
        let tagged = |interface: &&Interface| interface.tagged_ports;
        if desired
            .interfaces
            .get(&device.index)
            .filter(tagged)
            .is_some()
        {
            return true;
        }
        let room = desired.interfaces.values().filter(tagged).count() < self.limits.tagged_devices;
        if !room {
            self.full(
                name,
                "devices with tagged ports",
                self.limits.tagged_devices,
            );
        }
        room
    }

    fn tunnels(&mut self, desired: &mut Desired) {
        let underlays = self.underlay_mtus();
        for tunnel in &self.config.tunnels {
            let id = self
                .ids
                .tunnel(tunnel.network.get_ref(), tunnel.name.get_ref());
            let id = self.placed(id, &tunnel.name, "tunnels", self.limits.tunnels);
            let network = self.ids.network(tunnel.network.get_ref());
            let (Some(id), Some(network)) = (id, network) else {
                continue;
            };
            let underlay = underlays.get(tunnel.local.get_ref()).copied();
            let mtu = self.tunnel_mtu(tunnel, underlay.unwrap_or(ETHERNET_MTU));
            desired
                .tunnels
                .insert(id, tunnel_object(tunnel, network, mtu));
            let key = DemuxMatch {
                local: *tunnel.local.get_ref(),
                remote: *tunnel.remote.get_ref(),
                key: tunnel.keys.receive,
            };
            desired.demux.insert(key, id);
        }
    }

    /// MTU of the device of each local outer address, where the device exists.
    fn underlay_mtus(&self) -> HashMap<IpAddr, u32> {
        let underlays = self.config.underlays.iter().filter_map(|underlay| {
            let device = self.devices.get(underlay.device.get_ref())?;
            Some(
                underlay
                    .local
                    .iter()
                    .map(|local| (*local.get_ref(), device.mtu)),
            )
        });
        underlays.flatten().collect()
    }

    /// The configured inner MTU, cut to what the underlay leaves.
    fn tunnel_mtu(&mut self, tunnel: &config::Tunnel, underlay: u32) -> u16 {
        let room = underlay.saturating_sub(tunnel.overhead().into());
        let room = u16::try_from(room).unwrap_or(u16::MAX);
        let Some(configured) = &tunnel.mtu else {
            return room;
        };
        if *configured.get_ref() > room {
            self.complaints.push(self.config.source.warning(
                configured.span(),
                format!(
                    "tunnel `{}`: `mtu` {} and {} bytes of headers exceed the underlay's MTU {underlay}; {room} is used",
                    tunnel.name.get_ref(),
                    configured.get_ref(),
                    tunnel.overhead()
                ),
                format!("write mtu = {room}, leave `mtu` out, or raise the underlay's MTU"),
            ));
        }
        room.min(*configured.get_ref())
    }

    /// The device of that name, if this machine has it, its index fits, and one more has room beside those of `desired`.
    fn device(&mut self, name: &Spanned<DeviceName>, desired: &Desired) -> Option<Device> {
        let Some(device) = self.devices.get(name.get_ref()) else {
            self.complaints.push(self.config.source.error(
                name.span(),
                format!("there is no device `{}`", name.get_ref()),
                "name a device that `ip link` shows in the gateway's network namespace, or create it first",
            ));
            return None;
        };
        if device.index.0 as usize >= self.limits.interfaces {
            self.complaints.push(self.config.source.error(
                name.span(),
                format!("device `{}` has index {}", name.get_ref(), device.index),
                format!(
                    "create it anew with an index below {}",
                    self.limits.interfaces
                ),
            ));
            return None;
        }
        let interfaces = &desired.interfaces;
        if interfaces.len() >= self.limits.devices && !interfaces.contains_key(&device.index) {
            self.full(name, "devices", self.limits.devices);
            return None;
        }
        Some(*device)
    }

    /// `id`, or a complaint that the table is full.
    fn placed<T>(
        &mut self,
        id: Option<T>,
        name: &Spanned<Name>,
        kind: &str,
        limit: usize,
    ) -> Option<T> {
        if id.is_none() {
            self.full(name, kind, limit);
        }
        id
    }

    fn full<T: std::fmt::Display>(&mut self, at: &Spanned<T>, kind: &str, limit: usize) {
        self.full_at(at.span(), at.get_ref(), kind, limit);
    }

    pub(super) fn full_at(
        &mut self,
        at: Range<usize>,
        name: &impl std::fmt::Display,
        kind: &str,
        limit: usize,
    ) {
        self.complaints.push(self.config.source.error(
            at,
            format!("no room for `{name}`: the gateway holds {limit} {kind}"),
            format!("remove {kind}; places of those removed are free from the next reload on"),
        ));
    }
}

/// What an underlay carries while its device does not exist (RFC 894).
const ETHERNET_MTU: u32 = 1500;

/// The device's interface, made without a role if there is none yet.
fn interface(desired: &mut Desired, device: Device) -> &mut Interface {
    desired.interfaces.entry(device.index).or_insert(Interface {
        mac: device.mac,
        xdp_mode: XdpMode::Auto,
        underlay: false,
        untagged_port: None,
        tagged_ports: false,
    })
}

/// Lets the port's frames find it.
fn attach(desired: &mut Desired, port: &config::Port, id: PortId, device: Device) {
    let interface = interface(desired, device);
    interface.xdp_mode = port.xdp_mode.unwrap_or(interface.xdp_mode);
    match &port.vlan {
        Some(vlan) => {
            interface.tagged_ports = true;
            desired
                .tagged_ports
                .insert((device.index, *vlan.get_ref()), id);
        }
        None => interface.untagged_port = Some(id),
    }
}

fn port_object(port: &config::Port, network: NetworkId, device: Device) -> Port {
    Port {
        name: port.name.get_ref().clone(),
        network,
        device: device.index,
        mac: device.mac,
        vlan: port.vlan.as_ref().map(|vlan| *vlan.get_ref()),
        mtu: u16::try_from(device.mtu).unwrap_or(u16::MAX),
        address: port
            .address
            .iter()
            .map(|address| *address.get_ref())
            .collect(),
    }
}

fn tunnel_object(tunnel: &config::Tunnel, network: NetworkId, mtu: u16) -> Tunnel {
    Tunnel {
        name: tunnel.name.get_ref().clone(),
        network,
        local: *tunnel.local.get_ref(),
        remote: *tunnel.remote.get_ref(),
        keys: tunnel.keys,
        checksum: tunnel.checksum,
        sequence: tunnel.sequence,
        mtu,
        ttl: tunnel.ttl,
        tos: tunnel.tos,
    }
}
