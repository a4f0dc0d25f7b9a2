//! Watches that the program stays on the devices, and puts it back where somebody has taken it off.
//!
//! The kernel tells of programs that come and go over netlink, but not of links that are detached by force. So devices
//! are compared with the program's id about once a second, and at each notification about them. Holds: nobody else's
//! program is ever touched; the log says once why one of ours cannot be put back.

use gre_common::id::IfIndex;

use super::Gateway;
use crate::error::Error;
use crate::netlink::{AttachedProgram, Link};
use crate::report::AttachMode;

/// Rounds between two looks at all devices.
const ROUNDS: u32 = 4;
/// From this number of devices on, all of the kernel's are read at once.
const MANY_DEVICES: usize = 16;

impl Gateway {
    /// Looks at all devices every so many rounds.
    pub(super) async fn watch_programs(&mut self) {
        self.rounds = (self.rounds + 1) % ROUNDS;
        if self.rounds == 0 {
            self.check_programs().await;
        }
    }

    /// Compares what the kernel runs on the gateway's devices with what ought to run there.
    pub(super) async fn check_programs(&mut self) {
        let devices: Vec<IfIndex> = self.live.state.interfaces.keys().copied().collect();
        match self.read_some_links(&devices).await {
            Ok(()) => {}
            Err(error) => return tracing::warn!("{:#}", anyhow::Error::from(error)),
        }
        let own = match self.live.plane.program_id() {
            Ok(own) => own,
            Err(error) => return tracing::error!("{:#}", anyhow::Error::from(error)),
        };
        let lost_before = self.lost.len();
        for device in devices {
            if let Some(link) = self.links.get(&device).cloned() {
                self.check_program(&link, own);
            }
        }
        self.settle_redirects();
        if self.lost.len() != lost_before {
            let interfaces = self.live.state.interfaces.clone();
            self.open_underlays(&interfaces);
            self.live.write_adjacencies();
        }
    }

    fn check_program(&mut self, link: &Link, own: u32) {
        let runs = link.program.is_some_and(|program| program.id == own);
        if runs && self.live.plane.attach_mode(link.index).is_some() {
            return;
        }
        let name = &link.name;
        match self.put_back(link) {
            Ok(()) => {
                self.lost.remove(&link.index);
                tracing::warn!("{name}: somebody had taken the program off; it has been put back");
                let mode = self.live.plane.attach_mode(link.index);
                if let Some(link) = self.links.get_mut(&link.index) {
                    let generic = mode == Some(AttachMode::Generic);
                    link.program = Some(AttachedProgram { id: own, generic });
                }
            }
            Err(error) => {
                let reason = format!("{:#}", anyhow::Error::from(error));
                if self.lost.get(&link.index) != Some(&reason) {
                    tracing::error!(
                        "{name}: somebody has taken the program off, and it cannot be put back: {reason}; trying again"
                    );
                }
                self.lost.insert(link.index, reason);
            }
        }
    }

    fn put_back(&mut self, link: &Link) -> Result<(), Error> {
        let plane = &mut self.live.plane;
        plane.forget(link.index)?;
        plane.check_device(link)?;
        let interface = self.live.state.interfaces.get(&link.index);
        let mode = interface.map(|interface| interface.xdp_mode);
        plane.attach(link.index, &link.name, mode.unwrap_or_default())
    }

    async fn read_some_links(&mut self, devices: &[IfIndex]) -> Result<(), Error> {
        if devices.len() > MANY_DEVICES {
            let links = self.netlink.links().await?;
            self.set_links(links);
            return Ok(());
        }
        for device in devices {
            if let Some(link) = self.netlink.link(*device).await? {
                self.links.insert(*device, link);
            }
        }
        Ok(())
    }
}
