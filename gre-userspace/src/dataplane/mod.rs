//! The data plane of one instance: a loaded program, its maps, the compiled routing tables, and the links to devices.
//!
//! Made by the daemon at each start as a new generation, which takes over from the last one only once everything is
//! filled. `apply` writes it; nothing is decided here about what to write.

mod attach;
mod demux;
mod inherit;
mod load;
mod maps;
mod memory;
mod pins;
mod vlans;

use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use gre_common::entry::NeighbourEntry;
use gre_common::event::Event;
use gre_common::id::{IfIndex, NetworkId};
use ipnet::IpNet;
use tokio::io::unix::AsyncFd;

use crate::config::XdpMode;
use crate::error::{Error, Result};
use crate::fib::{Change, Fib, FibError, KernelGracePeriod, MappedArray, Usage};
use crate::files;
use crate::instance::{Instance, InstanceLock};
use crate::netlink::Link;
use crate::object;
use crate::report::AttachMode;

use attach::Attachments;
pub use maps::Maps;
use pins::Pins;

/// A loaded data plane.
pub struct DataPlane {
    /// Its maps.
    pub maps: Maps,
    ebpf: Ebpf,
    fib: Fib<MappedArray, KernelGracePeriod>,
    attachments: Attachments,
    pins: Pins,
}

/// What the data plane sends to the daemon's event loop.
pub struct Streams {
    /// Records that [`event`] reads.
    pub events: AsyncFd<RingBuf<MapData>>,
    /// Log records, if the program was built with them.
    pub logger: Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>,
}

impl DataPlane {
    /// Loads a new generation, attached to nothing, and finds what the last one left on `devices`. If ids mean the same
    /// as to the last one (`same_ids`), it goes on with its counters and sequence numbers, and the machines that it knew
    /// are returned. To be called on the event loop.
    pub fn load(
        instance: &Instance,
        devices: &[Link],
        same_ids: bool,
    ) -> Result<(Self, Streams, Vec<NeighbourEntry>)> {
        load::check_grace_period(&mut KernelGracePeriod)?;
        let pins = Pins::new(instance);
        pins.create()?;
        Self::load_at(pins.clone(), instance, devices, same_ids).inspect_err(|_| {
            // What has failed is told; the next start clears up what is left.
            let _ = pins.discard_staged();
            pins.remove_empty();
        })
    }

    fn load_at(
        pins: Pins,
        instance: &Instance,
        devices: &[Link],
        same_ids: bool,
    ) -> Result<(Self, Streams, Vec<NeighbourEntry>)> {
        let attachments = Attachments::find(pins.clone(), devices)?;
        let shared = if same_ids {
            inherit::counters(&pins)
        } else {
            Vec::new()
        };
        let machines = if same_ids {
            inherit::machines(&pins)
        } else {
            Vec::new()
        };
        let mut ebpf = load::load(&shared, &instance.verifier_log())?;
        pins.stage_maps(&ebpf)?;
        let (maps, fib) = Maps::take(&mut ebpf)?;
        let fib = Fib::new(fib, KernelGracePeriod).map_err(fib_error)?;
        let streams = Streams::take(&mut ebpf)?;
        let plane = Self {
            maps,
            ebpf,
            fib,
            attachments,
            pins,
        };
        Ok((plane, streams, machines))
    }

    /// Makes sure that nobody else's program is on a device.
    ///
    /// # Errors
    /// [`Error::DeviceBusy`], [`Error::DeviceTaken`].
    pub fn check_device(&self, device: &Link) -> Result<()> {
        self.attachments.check(device)
    }

    /// Whether the program of this generation or the last one is on the device.
    pub fn is_carried_by(&self, device: IfIndex) -> bool {
        self.attachments.is_carried_by(device)
    }

    /// Whether the program of the last generation is on the device still.
    pub fn is_inherited(&self, device: IfIndex) -> bool {
        self.attachments.is_inherited(device)
    }

    /// The devices that the last generation's program is on.
    pub fn inherited_devices(&self) -> Vec<IfIndex> {
        self.attachments.inherited_devices()
    }

    /// Whether a failure puts the last generation back: until [`DataPlane::supersede`].
    pub fn may_go_back(&self) -> bool {
        self.attachments.may_go_back()
    }

    /// How the program of this generation is attached to a device; `None`: it is not.
    pub fn attach_mode(&self, device: IfIndex) -> Option<AttachMode> {
        self.attachments.mode(device)
    }

    /// The kernel's id of the program.
    pub fn program_id(&mut self) -> Result<u32> {
        let program = load::program(&mut self.ebpf, object::GATEWAY)?;
        let info = program.info();
        info.map(|info| info.id())
            .map_err(|source| Error::bpf("tell the program's id", source))
    }

    /// Forgets that the program was on a device, which somebody else has taken it off.
    pub fn forget(&mut self, device: IfIndex) -> Result<()> {
        self.attachments.forget(device)
    }

    /// Puts the program on a device.
    pub fn attach(&mut self, device: IfIndex, name: &str, mode: XdpMode) -> Result<()> {
        let program = load::program(&mut self.ebpf, object::GATEWAY)?;
        self.attachments.attach(program, device, name, mode)
    }

    /// Takes the program off a device, which may have gone. Before [`DataPlane::supersede`] the last generation's goes
    /// back to where it was.
    pub fn detach(&mut self, device: IfIndex) -> Result<()> {
        self.attachments.detach(device)
    }

    /// Ends the last generation: its links without successor, its pinned maps and program.
    pub fn supersede(&mut self) -> Result<()> {
        self.attachments.drop_inherited()?;
        self.pins.publish(&mut self.ebpf)
    }

    /// Gives a generation up that never took over. What the last one left stays as it is, links on devices first of
    /// all: whoever failed to fill this one has detached it from all devices.
    pub fn abandon(self) -> Result<()> {
        self.pins.discard_staged()?;
        self.pins.remove_empty();
        Ok(())
    }

    /// Takes the program off all devices and leaves nothing behind.
    pub fn remove(mut self) -> Result<()> {
        self.attachments.detach_all()?;
        self.pins.remove()
    }

    /// Changes routes of a network: all of them or none.
    pub fn update_routes(&mut self, network: NetworkId, changes: &[Change]) -> Result<()> {
        let maps = &mut self.maps;
        self.fib
            .update(network, changes, |family, root| {
                maps.set_root(network, family, root);
            })
            .map_err(fib_error)?;
        Ok(())
    }

    /// What a network's compiled routing tables take.
    pub fn fib_usage(&self, network: NetworkId) -> Usage {
        self.fib.usage(network)
    }

    /// Removes all routes of a network.
    pub fn remove_routes(&mut self, network: NetworkId) -> Result<()> {
        let maps = &mut self.maps;
        self.fib
            .remove(network, |family, root| {
                maps.set_root(network, family, root);
            })
            .map_err(fib_error)
    }
}

impl Streams {
    fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let events = ebpf
            .take_map("EVENTS")
            .and_then(|map| RingBuf::try_from(map).ok())
            .ok_or_else(|| Error::bpf("find ring buffer EVENTS", load::Missing))?;
        let logger = match EbpfLogger::init(ebpf) {
            Ok(logger) => Some(logger),
            Err(aya_log::Error::MapNotFound) => None,
            Err(source) => return Err(Error::bpf("read the program's log", source)),
        };
        Ok(Self {
            events: watch(events)?,
            logger: logger.map(watch).transpose()?,
        })
    }
}

fn watch<T: AsRawFd + AsFd>(ring: T) -> Result<AsyncFd<T>> {
    // SAFETY: the descriptor belongs to `ring`, which the registration owns and which keeps it open.
    let registered = unsafe { AsyncFd::register(ring) };
    registered.map_err(|source| Error::system("watch a ring buffer", source))
}

/// A record of [`Streams::events`]; `None` if it is too short to be one.
pub fn event(record: &[u8]) -> Option<Event> {
    if record.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: the record is long enough, and an event is `repr(C)` over integers and bytes: any content is valid.
    Some(unsafe { record.as_ptr().cast::<Event>().read_unaligned() })
}

/// A route as the compiled tables take it.
pub fn route(prefix: IpNet, next_hop: Option<gre_common::next_hop::NextHop>) -> Change {
    match next_hop {
        Some(next_hop) => Change::Set(prefix, next_hop),
        None => Change::Remove(prefix),
    }
}

/// The devices that an instance without a daemon has left its program on.
pub fn devices_left(instance: &Instance) -> Result<Vec<IfIndex>> {
    let links = Pins::new(instance).pinned_links()?;
    Ok(links.into_iter().map(|(device, _)| device).collect())
}

/// Removes what an instance without a daemon has left: links first, so that every program is off its device when this
/// returns. Returns whether there was anything.
pub fn remove_leftovers(instance: &Instance, lock: InstanceLock) -> Result<bool> {
    let pins = Pins::new(instance);
    let found = pins.exist();
    let links = pins.pinned_links()?;
    pins.remove()?;
    drop(links);
    let files = [
        instance.socket(),
        instance.state(),
        instance.next_state(),
        instance.verifier_log(),
    ];
    for path in files {
        files::remove(&path)?;
    }
    lock.remove()?;
    Ok(found)
}

fn fib_error(source: FibError) -> Error {
    Error::bpf("change the routing tables", source)
}
