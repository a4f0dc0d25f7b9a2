//! Announces the gateway's addresses on ports: after a start, a take-over, and where a port or its layer-2 address has
//! changed.
//!
//! `announcement` knows when, `solicitation` how. A frame that cannot be sent is like one that is lost on the way.

use std::collections::BTreeMap;
use std::time::Instant;

use gre_common::id::PortId;

use super::Gateway;
use crate::plan::Port;
use crate::solicitation::Announcement;

impl Gateway {
    /// Begins with the ports that are other ones than `before`.
    pub(super) fn begin_announcements(&mut self, before: &BTreeMap<PortId, Port>) {
        let now = Instant::now();
        let ports = &self.live.state.ports;
        for (id, port) in ports {
            if before.get(id) != Some(port) {
                self.schedule.begin(*id, now);
            }
        }
        self.schedule.retain(|id| ports.contains_key(&id));
    }

    /// Announces what is due.
    pub(super) fn announce(&mut self) {
        let (ports, links) = (&self.live.state.ports, &self.links);
        let is_up = |id| {
            let port: Option<&Port> = ports.get(&id);
            let link = port.and_then(|port| links.get(&port.device));
            link.is_some_and(|link| link.up)
        };
        for id in self.schedule.due(Instant::now(), is_up) {
            let Some(port) = ports.get(&id) else { continue };
            for address in &port.address {
                let announcement = Announcement {
                    device: port.device,
                    vlan: port.vlan.unwrap_or_default(),
                    mac: port.mac,
                    address: address.addr(),
                };
                if let Err(error) = self.solicitor.announce(&announcement) {
                    tracing::debug!("cannot announce {}: {error}", announcement.address);
                }
            }
        }
    }
}
