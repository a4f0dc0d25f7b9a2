//! Announces the gateway's addresses on ports: after a start, a take-over, and where a port or its layer-2 address has
//! changed; and has the groups of its IPv6 addresses received and reported there.
//!
//! `announcement` knows when, `solicitation` how. A frame that cannot be sent is like one that is lost on the way.

use std::collections::BTreeMap;
use std::time::Instant;

use gre_common::id::{IfIndex, PortId};

use super::Gateway;
use crate::announcement::Due;
use crate::listener_report;
use crate::multicast;
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
        let devices: Vec<IfIndex> = before.values().map(|port| port.device).collect();
        multicast::synchronise(ports.values(), &devices);
    }

    /// Announces what is due.
    pub(super) fn announce(&mut self) {
        let (ports, links) = (&self.live.state.ports, &self.links);
        let is_up = |id| {
            let port: Option<&Port> = ports.get(&id);
            let link = port.and_then(|port| links.get(&port.device));
            link.is_some_and(|link| link.up)
        };
        for due in self.schedule.due(Instant::now(), is_up) {
            let (Due::Announcement(id) | Due::Report(id)) = due;
            let Some(port) = ports.get(&id) else { continue };
            if due == Due::Announcement(id) {
                self.announce_addresses(port);
            }
            self.report_groups(port);
        }
    }

    fn announce_addresses(&self, port: &Port) {
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

    fn report_groups(&self, port: &Port) {
        let groups: Vec<_> = multicast::groups(port).into_iter().collect();
        for groups in groups.chunks(listener_report::MOST_GROUPS) {
            let frame = listener_report::frame(port.mac, port.vlan.unwrap_or_default(), groups);
            if let Err(error) = self.solicitor.send(port.device, &frame) {
                tracing::debug!("{}: cannot report groups: {error}", port.name);
            }
        }
    }
}
