//! The program on devices: attached by links that are pinned, so that they outlive the daemon.
//!
//! A link that an earlier daemon of the instance left behind is adopted: its program is replaced atomically and no
//! packet is lost. Until this generation has taken over as a whole, what it has adopted can be given back. Holds: a
//! device that carries a program of somebody else is never touched.

use std::collections::BTreeMap;

use aya::programs::links::FdLink;
use aya::programs::xdp::{XdpLink, XdpMode as AyaMode};
use aya::programs::{ProgramError, Xdp, loaded_programs};
use gre_common::id::IfIndex;

use super::pins::Pins;
use crate::config::XdpMode;
use crate::error::{Error, Result};
use crate::netlink::Link;
use crate::report::AttachMode;

/// The devices that carry the program, and those that carry that of the last generation.
#[derive(Debug)]
pub(super) struct Attachments {
    pins: Pins,
    attached: BTreeMap<IfIndex, Attachment>,
    inherited: BTreeMap<IfIndex, Attachment>,
    /// The last generation's program, until this one has taken over.
    predecessor: Option<Xdp>,
}

#[derive(Debug)]
struct Attachment {
    // Keeps the attachment even where somebody removes the pin.
    link: FdLink,
    mode: AttachMode,
    /// How the last generation's program was attached, if it can be put back.
    taken_from: Option<AttachMode>,
}

impl Attachments {
    /// Looks for what an earlier daemon left on `devices`. Links of devices that have gone are forgotten.
    pub(super) fn find(pins: Pins, devices: &[Link]) -> Result<Self> {
        let mut inherited = BTreeMap::new();
        for (index, link) in pins.pinned_links()? {
            match mode_of_live_link(index, &link, devices) {
                Some(mode) => {
                    inherited.insert(index, Attachment::new(link, mode));
                }
                None => pins.unpin_link(index)?,
            }
        }
        let predecessor = pins.pinned_gateway().filter(|program| {
            let mut links = inherited.values().map(|inherited| &inherited.link);
            links.all(|link| runs(link, program))
        });
        if predecessor.is_none() && !inherited.is_empty() {
            tracing::warn!(
                "the program of the last daemon cannot be put back, should this start fail"
            );
        }
        Ok(Self {
            pins,
            attached: BTreeMap::new(),
            inherited,
            predecessor,
        })
    }

    /// Makes sure that nobody else's program is on a device.
    ///
    /// # Errors
    /// [`Error::DeviceBusy`] names it, [`Error::DeviceTaken`] the gateway that it is of.
    pub(super) fn check(&self, device: &Link) -> Result<()> {
        let Some(program) = device.program else {
            return Ok(());
        };
        if self.attached.contains_key(&device.index) || self.inherited.contains_key(&device.index) {
            return Ok(());
        }
        if let Some(instance) = self.pins.other_holder(device.index, program.id) {
            let device = device.name.clone();
            return Err(Error::DeviceTaken { device, instance });
        }
        Err(Error::DeviceBusy {
            device: device.name.clone(),
            program: program.id,
            name: program_name(program.id),
        })
    }

    /// Whether the program, or that of the last generation, is on the device.
    pub(super) fn is_carried_by(&self, device: IfIndex) -> bool {
        self.attached.contains_key(&device) || self.inherited.contains_key(&device)
    }

    /// Whether the program of the last generation is on the device still.
    pub(super) fn is_inherited(&self, device: IfIndex) -> bool {
        self.inherited.contains_key(&device)
    }

    /// The devices that the last generation is on.
    pub(super) fn inherited_devices(&self) -> Vec<IfIndex> {
        self.inherited.keys().copied().collect()
    }

    /// Whether the last generation's program is there to be put back.
    pub(super) const fn may_go_back(&self) -> bool {
        self.predecessor.is_some()
    }

    /// How the program is attached; `None`: it is not.
    pub(super) fn mode(&self, device: IfIndex) -> Option<AttachMode> {
        self.attached.get(&device).map(|attachment| attachment.mode)
    }

    /// Puts the program on a device, unless it is there already in a mode that suits. Where the mode cannot be changed,
    /// it stays what it was.
    pub(super) fn attach(
        &mut self,
        program: &mut Xdp,
        device: IfIndex,
        name: &str,
        mode: XdpMode,
    ) -> Result<()> {
        if let Some(attachment) = self.attached.get(&device) {
            if suits(attachment.mode, mode) {
                return Ok(());
            }
            let present = attachment.mode;
            return self.change_mode(program, device, name, present, mode);
        }
        let attachment = match self.inherited.remove(&device) {
            None => self.attach_anew(program, device, name, mode)?,
            Some(inherited) => {
                let before = inherited.mode;
                let attachment = if suits(before, mode) {
                    adopt(program, name, inherited)?
                } else {
                    self.take_over(program, device, name, inherited, mode)?
                };
                Attachment {
                    taken_from: self.predecessor.as_ref().map(|_| before),
                    ..attachment
                }
            }
        };
        tracing::info!("{name}: attached ({})", attachment.mode);
        self.attached.insert(device, attachment);
        Ok(())
    }

    /// Forgets what somebody else has taken off a device.
    pub(super) fn forget(&mut self, device: IfIndex) -> Result<()> {
        self.attached.remove(&device);
        self.pins.unpin_link(device)
    }

    /// Takes the program off a device. While this generation has not taken over as a whole, the last one's goes back to
    /// where it was.
    pub(super) fn detach(&mut self, device: IfIndex) -> Result<()> {
        let Some(attachment) = self.attached.remove(&device) else {
            return Ok(());
        };
        if let (Some(mode), Some(predecessor)) = (attachment.taken_from, &mut self.predecessor) {
            let attachment = if attachment.mode == mode {
                adopt(predecessor, &format!("device {device}"), attachment)?
            } else {
                self.pins.unpin_link(device)?;
                drop(attachment);
                link(&self.pins, predecessor, device, mode).map_err(|source| {
                    Error::bpf(
                        format!("put the last program back on device {device}"),
                        source,
                    )
                })?
            };
            self.inherited.insert(device, attachment);
            return Ok(());
        }
        // Its last descriptor closes here.
        self.pins.unpin_link(device)
    }

    /// Ends the last generation: takes its program off the devices that have no role any more.
    pub(super) fn drop_inherited(&mut self) -> Result<()> {
        self.predecessor = None;
        while let Some((device, attachment)) = self.inherited.pop_first() {
            self.pins.unpin_link(device)?;
            drop(attachment);
        }
        Ok(())
    }

    /// Takes the programs of both generations off every device.
    pub(super) fn detach_all(&mut self) -> Result<()> {
        self.drop_inherited()?;
        while let Some((device, _)) = self.attached.first_key_value() {
            self.detach(*device)?;
        }
        Ok(())
    }

    /// The kernel takes no second program in another mode, so that the device is without one for a moment.
    fn change_mode(
        &mut self,
        program: &mut Xdp,
        device: IfIndex,
        name: &str,
        present: AttachMode,
        wanted: XdpMode,
    ) -> Result<()> {
        self.detach(device)?;
        match self.attach_anew(program, device, name, wanted) {
            Ok(changed) => {
                tracing::info!("{name}: attached ({})", changed.mode);
                self.attached.insert(device, changed);
                Ok(())
            }
            Err(refusal) => {
                let back = link_again(&self.pins, program, device, name, present);
                self.attached.extend(back.map(|back| (device, back)));
                Err(refusal)
            }
        }
    }

    /// As [`Attachments::change_mode`], from the last generation's program.
    fn take_over(
        &mut self,
        program: &mut Xdp,
        device: IfIndex,
        name: &str,
        inherited: Attachment,
        wanted: XdpMode,
    ) -> Result<Attachment> {
        let before = inherited.mode;
        self.pins.unpin_link(device)?;
        drop(inherited);
        self.attach_anew(program, device, name, wanted)
            .inspect_err(|_| {
                let predecessor = self.predecessor.as_mut();
                let back = predecessor.and_then(|predecessor| {
                    link_again(&self.pins, predecessor, device, name, before)
                });
                self.inherited.extend(back.map(|back| (device, back)));
            })
    }

    fn attach_anew(
        &self,
        program: &mut Xdp,
        device: IfIndex,
        name: &str,
        mode: XdpMode,
    ) -> Result<Attachment> {
        let native = |program: &mut Xdp| link(&self.pins, program, device, AttachMode::Native);
        let generic = |program: &mut Xdp| link(&self.pins, program, device, AttachMode::Generic);
        let attached = match mode {
            XdpMode::Native => native(program),
            XdpMode::Generic => generic(program),
            XdpMode::Auto => native(program).or_else(|refusal| {
                tracing::warn!(
                    "{name}: its driver does not take the program ({}); attaching it behind the driver, which is slower",
                    words(&refusal)
                );
                generic(program)
            }),
        };
        attached.map_err(|source| Error::bpf(format!("attach the XDP program to {name}"), source))
    }
}

impl Attachment {
    fn new(link: FdLink, mode: AttachMode) -> Self {
        Self {
            link,
            mode,
            taken_from: None,
        }
    }
}

/// Why the program could not be attached.
#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("the kernel attached it without a link")]
    NoLink,
    #[error(transparent)]
    Pin(#[from] Error),
}

fn link(
    pins: &Pins,
    program: &mut Xdp,
    device: IfIndex,
    mode: AttachMode,
) -> std::result::Result<Attachment, AttachError> {
    let flags = match mode {
        AttachMode::Native => AyaMode::Driver,
        AttachMode::Generic => AyaMode::Skb,
    };
    let id = program.attach_to_if_index(device.0, flags)?;
    // Old kernels attach without a link, which would end with this process; `kernel::check_version` has ruled them out.
    let link = FdLink::try_from(program.take_link(id)?).map_err(|_| AttachError::NoLink)?;
    let link = pins.pin_link(device, link)?;
    Ok(Attachment::new(link, mode))
}

/// Puts a program back that had to be taken off for another try.
fn link_again(
    pins: &Pins,
    program: &mut Xdp,
    device: IfIndex,
    name: &str,
    mode: AttachMode,
) -> Option<Attachment> {
    let again = link(pins, program, device, mode).inspect_err(|error| {
        tracing::error!(
            "{name} is without the program, which could not be attached again ({mode}): {}",
            words(error)
        );
    });
    again.ok()
}

/// Replaces the program behind a link.
fn adopt(program: &mut Xdp, name: &str, inherited: Attachment) -> Result<Attachment> {
    let fail =
        |source: ProgramError| Error::bpf(format!("replace the XDP program on {name}"), source);
    let link = XdpLink::try_from(inherited.link)
        .map_err(|source| Error::bpf(format!("use the pinned link of {name}"), source))?;
    let id = program.attach_to_link(link).map_err(fail)?;
    let link = program.take_link(id).map_err(fail)?;
    let link = FdLink::try_from(link)
        .map_err(|source| Error::bpf(format!("keep the link of {name}"), source))?;
    Ok(Attachment::new(link, inherited.mode))
}

/// Whether a link has its device run `program`.
fn runs(link: &FdLink, program: &Xdp) -> bool {
    let run = link.info().map(|info| info.program_id());
    let own = program.info().map(|info| info.id());
    matches!((run, own), (Ok(run), Ok(own)) if run == own)
}

/// A link is of use if the device that it was made for still carries its program. (Links do not tell the network
/// namespace they are in, and outlive their device.)
fn mode_of_live_link(index: IfIndex, link: &FdLink, devices: &[Link]) -> Option<AttachMode> {
    let program = devices
        .iter()
        .find(|device| device.index == index)?
        .program?;
    let info = link.info().ok()?;
    (info.program_id() == program.id).then_some(if program.generic {
        AttachMode::Generic
    } else {
        AttachMode::Native
    })
}

fn suits(present: AttachMode, wanted: XdpMode) -> bool {
    match wanted {
        XdpMode::Auto => true,
        XdpMode::Native => present == AttachMode::Native,
        XdpMode::Generic => present == AttachMode::Generic,
    }
}

/// The kernel tells names only to those with CAP_SYS_ADMIN.
fn program_name(id: u32) -> String {
    loaded_programs()
        .filter_map(std::result::Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "<unknown>".to_owned())
}

fn words(error: &AttachError) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}
