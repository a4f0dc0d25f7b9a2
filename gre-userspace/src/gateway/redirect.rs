//! Makes sure that what the program sends on a device can leave there.
//!
//! A program in a driver hands frames to the driver of the other device, which may not take them (a bridge, a macvlan, a
//! veth whose peer is not ready for it, a card without a program in its driver). Behind the drivers every device takes
//! them. So where one device does not take frames, all run the program behind the driver; what the configuration forbids
//! to be moved there keeps the map of devices without the one that takes none, so that each packet for it is counted as
//! not sent.

use std::collections::BTreeSet;

use gre_common::id::IfIndex;

use super::Gateway;
use crate::config::XdpMode;
use crate::report::AttachMode;
use crate::xdp_features::Features;

impl Gateway {
    /// Looks at all devices, moves programs where need be, and allows or forbids to send on each device.
    pub(super) fn settle_redirects(&mut self) {
        let features = match Features::read() {
            Ok(features) => features,
            // What is known stays; the next round asks again.
            Err(error) => return tracing::debug!("cannot ask for XDP features: {error}"),
        };
        let devices: Vec<IfIndex> = self.live.state.interfaces.keys().copied().collect();
        let takes_frames = |device: &IfIndex| match &features {
            Some(features) => features.takes_frames(*device),
            // Before Linux 6.3 only the kind of a device tells.
            None => self.links.get(device).is_none_or(|link| !link.is_soft),
        };
        let (able, unable): (BTreeSet<_>, BTreeSet<_>) =
            devices.iter().copied().partition(takes_frames);
        if !unable.is_empty() {
            self.leave_drivers(&devices, &unable);
        }
        let any_native = devices.iter().any(|device| self.is_native(*device));
        for device in devices {
            let is_allowed = !any_native || able.contains(&device);
            if self.live.plane.maps.redirects_to(device) != is_allowed
                && let Err(error) = self.live.plane.maps.set_redirect(device, is_allowed)
            {
                tracing::error!("{:#}", anyhow::Error::from(error));
            }
            if is_allowed {
                self.unable.remove(&device);
            } else if self.unable.insert(device) {
                tracing::error!(
                    "{}: its driver takes no frames from the driver of another device: packets for it are dropped as \
                     transmit_failed, unless `xdp_mode` of all devices allows \"generic\"",
                    self.device_name(device)
                );
            }
        }
    }

    /// Moves the program behind the drivers, unless one of the devices must not be moved: that would only lose what
    /// still works.
    fn leave_drivers(&mut self, devices: &[IfIndex], unable: &BTreeSet<IfIndex>) {
        let interfaces = &self.live.state.interfaces;
        let natives: Vec<IfIndex> = devices
            .iter()
            .copied()
            .filter(|device| self.is_native(*device))
            .collect();
        let is_bound = |device: &IfIndex| {
            let interface = interfaces.get(device);
            interface.is_some_and(|interface| interface.xdp_mode == XdpMode::Native)
        };
        if natives.is_empty() || natives.iter().any(is_bound) {
            return;
        }
        let names: Vec<String> = unable
            .iter()
            .map(|device| self.device_name(*device))
            .collect();
        tracing::warn!(
            "{} takes no frames from the drivers of other devices: the program runs behind the drivers of all, which is \
             slower",
            names.join(", ")
        );
        for device in natives {
            let name = self.device_name(device);
            if let Err(error) = self.live.plane.attach(device, &name, XdpMode::Generic) {
                tracing::error!("{:#}", anyhow::Error::from(error));
            }
        }
    }

    fn is_native(&self, device: IfIndex) -> bool {
        self.live.plane.attach_mode(device) == Some(AttachMode::Native)
    }

    fn device_name(&self, device: IfIndex) -> String {
        let link = self.links.get(&device);
        link.map_or_else(|| device.to_string(), |link| link.name.clone())
    }
}
