//! The running gateway: the single owner of configuration, plan, maps, next hops and machines.
//!
//! Driven by the event loop in `daemon`, one call at a time. Holds: a reload that fails leaves everything as it was;
//! what the data plane is told to do is complete before the first packet meets it.

mod announce;
mod guard;
mod redirect;
mod underlay;

pub(crate) use underlay::release_all_on;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use gre_common::counters::Owner;
use gre_common::event::{Event, EventKind};
use gre_common::id::IfIndex;
use gre_common::limits;
use ipnet::IpNet;

use crate::announcement::Schedule;
use crate::apply::Live;
use crate::config::{
    Config, DeviceName, Diagnostics, Severity, Spanned, Standing, check_transition,
};
use crate::dataplane::{DataPlane, Streams};
use crate::descriptors;
use crate::error::Error;
use crate::failure::Failure;
use crate::host_stack;
use crate::instance::Instance;
use crate::multicast;
use crate::neighbour::{Question, ROUND};
use crate::netlink::{Link, Netlink, Notification};
use crate::peering::States;
use crate::plan::{Desired, Device, Devices, Ids, Interface, Limits, Planned, plan};
use crate::remembered::Remembered;
use crate::report;
use crate::solicitation::{Solicitation, Solicitor};
use crate::vlan_offload;

/// From this number of changed routes on, all ways are looked up again instead of comparing each with each.
const MANY_ROUTES: usize = 256;

const LIMITS: Limits = Limits {
    interfaces: limits::INTERFACES,
    // As far as this process may open files.
    devices: limits::DEVICES,
    tagged_devices: limits::TAGGED_DEVICES,
    endpoints: limits::ENDPOINTS,
    // Object 0 is nobody's.
    networks: limits::NETWORKS - 1,
    ports: limits::PORTS - 1,
    tunnels: limits::TUNNELS - 1,
    groups: limits::GROUPS - 1,
};

/// A running gateway.
pub struct Gateway {
    pub(crate) config: Config,
    pub(crate) peerings: States,
    pub(crate) ids: Ids,
    pub(crate) live: Live,
    pub(crate) links: BTreeMap<IfIndex, Link>,
    instance: Instance,
    netlink: Netlink,
    limits: Limits,
    solicitor: Solicitor,
    /// The devices that the running state was planned for.
    planned_for: Devices,
    /// That the drop counters run out has been said.
    pub(crate) told_of_drops: Cell<bool>,
    /// What of the running configuration, or of the last daemon's, binds the next one.
    standing: Standing,
    stale: Stale,
    /// Devices that somebody has taken the program off, and why it cannot be put back.
    pub(crate) lost: BTreeMap<IfIndex, String>,
    /// Devices that cannot be sent on although they carry the program.
    pub(crate) unable: BTreeSet<IfIndex>,
    /// Rounds since the devices were last looked at.
    rounds: u32,
    /// Ports whose addresses are still to be announced.
    schedule: Schedule,
}

/// What the kernel's notifications have put in question.
#[derive(Debug, Default)]
struct Stale {
    everything: bool,
    devices: bool,
    all_routes: bool,
    addresses: bool,
    routes: Vec<IpNet>,
}

impl Stale {
    fn add_route(&mut self, prefix: IpNet) {
        // A storm takes no more room than this; that there are many is all that counts then.
        if self.routes.len() <= MANY_ROUTES {
            self.routes.push(prefix);
        }
    }
}

/// A configuration worked out but not in force.
struct Prepared {
    config: Config,
    peerings: States,
    devices: Devices,
    planned: Planned,
}

impl Gateway {
    /// Brings a gateway up: loads a new generation of the data plane, fills it, and only then attaches it, or puts it
    /// in the place of one that an earlier daemon left.
    ///
    /// # Errors
    /// As told by [`Failure::exit_code`]; nothing is left half-done.
    pub async fn start(
        instance: Instance,
        netlink: Netlink,
        config: Config,
    ) -> Result<(Self, Streams), Failure> {
        let limits = Limits {
            devices: descriptors::room_for_devices()?,
            ..LIMITS
        };
        let solicitor = Solicitor::new()?;
        let links = netlink.links().await?;
        let remembered = Remembered::load(&instance);
        let same_ids = remembered.is_some();
        let remembered = remembered.unwrap_or_default();
        let (plane, streams, machines) = DataPlane::load(&instance, &links, same_ids)?;
        let mut gateway = Self {
            config: config.clone(),
            peerings: remembered.peerings,
            ids: remembered.ids,
            standing: remembered.standing,
            live: Live::new(plane, machines),
            links: BTreeMap::new(),
            instance,
            netlink,
            limits,
            solicitor,
            planned_for: Devices::new(),
            told_of_drops: Cell::new(false),
            stale: Stale::default(),
            lost: BTreeMap::new(),
            unable: BTreeSet::new(),
            rounds: 0,
            schedule: Schedule::default(),
        };
        gateway.set_links(links);
        match gateway.bring_up(config).await {
            Ok(()) => Ok((gateway, streams)),
            Err(failure) => {
                log_error(gateway.live.plane.abandon());
                Err(failure)
            }
        }
    }

    /// Goes over to another configuration, make before break, and tells what that changed.
    ///
    /// # Errors
    /// The configuration cannot be had on this machine, or a step failed. What ran runs on.
    pub async fn reload(&mut self, config: Config) -> Result<Vec<report::Change>, Failure> {
        let prepared = self.prepare(config).await?;
        let changes = self.describe(&prepared.planned.desired, &prepared.peerings);
        self.enforce(prepared).await?;
        Ok(changes)
    }

    /// What [`Gateway::reload`] would change.
    pub async fn compare(&mut self, config: Config) -> Result<Vec<report::Change>, Failure> {
        let prepared = self.prepare(config).await?;
        Ok(self.describe(&prepared.planned.desired, &prepared.peerings))
    }

    /// Removes the data plane and what was remembered for the next daemon.
    pub async fn detach(mut self) -> Result<(), Failure> {
        let now = Instant::now();
        for tunnel in self.live.state.tunnels.keys() {
            self.live.adjacencies.remove_tunnel(*tunnel, now);
        }
        self.release_neighbours().await;
        let devices: Vec<IfIndex> = self.live.state.interfaces.keys().copied().collect();
        multicast::synchronise(std::iter::empty(), &devices);
        self.live.plane.remove()?;
        Remembered::remove(&self.instance)?;
        Ok(())
    }

    /// Ends the daemon's part and leaves the data plane running.
    pub fn leave(self) -> Result<(), Failure> {
        self.remember(&self.ids, &self.peerings, &self.standing)?;
        Ok(())
    }

    /// Takes note of a change in the kernel. Returns whether [`Gateway::refresh`] has to be called soon: a burst of
    /// changes is worked off at once.
    pub fn notice(&mut self, notification: Notification) -> bool {
        match notification {
            Notification::Neighbour(neighbour) => {
                if self.note_neighbour(neighbour.hop, Some(&neighbour)) {
                    self.report_hop(&neighbour);
                }
                self.live.write_adjacencies();
                return false;
            }
            Notification::Link(link) => {
                self.live.device_names.insert(link.index, link.name.clone());
                self.links.insert(link.index, link);
                self.stale.devices = true;
            }
            Notification::LinkRemoved(index) => {
                self.links.remove(&index);
                self.stale.devices = true;
            }
            Notification::Routes(Some(prefix)) => self.stale.add_route(prefix),
            Notification::Routes(None) => self.stale.all_routes = true,
            Notification::Addresses => {
                self.stale.addresses = true;
                self.stale.all_routes = true;
            }
            Notification::Overrun => self.stale.everything = true,
        }
        true
    }

    /// Works off what [`Gateway::notice`] put in question.
    pub async fn refresh(&mut self) {
        let stale = std::mem::take(&mut self.stale);
        if stale.everything && !self.read_links().await {
            self.stale.everything = true;
        }
        if stale.everything || stale.devices {
            self.follow_devices().await;
            self.check_programs().await;
        }
        if (stale.everything || stale.addresses) && !self.read_addresses().await {
            self.stale.addresses = true;
        }
        let adjacencies = &self.live.adjacencies;
        let all = stale.everything || stale.all_routes || stale.devices;
        let ways = if all || stale.routes.len() > MANY_ROUTES {
            adjacencies.ways()
        } else {
            adjacencies.ways_to(&stale.routes)
        };
        self.look_up(ways).await;
        if stale.everything {
            self.read_neighbours(self.live.adjacencies.hops()).await;
        }
        self.live.write_adjacencies();
    }

    /// Takes note of what the data plane saw or missed. [`Gateway::carry_out`] has to be called after some of them.
    pub fn hear(&mut self, event: &Event) {
        let (Some(kind), Some(address)) = (event.kind(), event.address()) else {
            return;
        };
        let now = Instant::now();
        let neighbours = &mut self.live.neighbours;
        match kind {
            EventKind::NeighbourMissing => neighbours.missing(event.port, address, now),
            EventKind::NeighbourSeen => neighbours.seen(event.port, address, event.mac, now),
        }
    }

    /// Writes what events have changed and asks what they left open.
    pub fn carry_out(&mut self) {
        for question in self.live.carry_out_neighbour_actions(Instant::now()) {
            self.ask(&question);
        }
    }

    /// Does what is due every [`ROUND`].
    pub async fn round(&mut self) {
        if self.stale.everything || self.stale.addresses {
            // The kernel has not answered last time.
            self.refresh().await;
        }
        let now = Instant::now();
        let Live {
            neighbours, plane, ..
        } = &mut self.live;
        neighbours.round(now, |id| plane.maps.take_used(id));
        self.carry_out();
        let unanswered = self.live.adjacencies.take_unanswered();
        self.look_up(unanswered).await;
        let tasks = self.live.adjacencies.round(now);
        self.tend(tasks).await;
        self.live.write_adjacencies();
        self.release_neighbours().await;
        self.live.announcements.log();
        self.watch_programs().await;
        self.announce();
    }

    async fn bring_up(&mut self, config: Config) -> Result<(), Failure> {
        let left = self.live.plane.inherited_devices();
        let prepared = self.prepare(config).await?;
        self.enforce(prepared).await?;
        // The program runs by now: to fail would leave it without a daemon.
        log_error(self.live.plane.supersede());
        self.settle_redirects();
        self.release_strays(&left).await;
        multicast::synchronise(self.live.state.ports.values(), &left);
        Ok(())
    }

    /// Works a configuration out for this machine. Touches nothing.
    async fn prepare(&mut self, config: Config) -> Result<Prepared, Failure> {
        refuse(&check_transition(&self.standing, &config))?;
        let links = self.netlink.links().await?;
        self.set_links(links);
        let peerings = self.peerings.next(&config.peerings);
        let devices = self.devices(&config);
        let ids = self.ids.clone();
        let planned = plan(&config, &peerings, &devices, ids, &self.limits);
        refuse(&planned.complaints)?;
        self.check_devices(&planned.desired)?;
        Ok(Prepared {
            config,
            peerings,
            devices,
            planned,
        })
    }

    /// Once the data plane has changed, nothing of what is left to do makes it a failure.
    async fn enforce(&mut self, prepared: Prepared) -> Result<(), Failure> {
        // Before the data plane knows new ids: a daemon that is killed now must not give them to others.
        let standing = Standing::from(&prepared.config);
        self.remember(&prepared.planned.ids, &prepared.peerings, &standing)?;
        if let Err(error) = self.go_to(&prepared.planned.desired).await {
            log_error(self.remember(&self.ids, &self.peerings, &self.standing));
            return Err(error.into());
        }
        self.config = prepared.config;
        self.standing = standing;
        self.peerings = prepared.peerings;
        self.planned_for = prepared.devices;
        let old = std::mem::replace(&mut self.ids, prepared.planned.ids);
        log_error(self.clear_counters(&old));
        // The kernel tells nobody that a link has attached a program.
        self.read_links().await;
        // Next hops that nobody has asked for yet are asked for now.
        self.round().await;
        Ok(())
    }

    /// Clears the counters of what the configuration no longer names. (What only lost its device keeps them.)
    fn clear_counters(&mut self, old: &Ids) -> Result<(), Error> {
        let (ports, tunnels): (HashSet<_>, HashSet<_>) =
            (self.ids.ports().collect(), self.ids.tunnels().collect());
        let ports = old.ports().filter(|id| !ports.contains(id));
        let tunnels = old.tunnels().filter(|id| !tunnels.contains(id));
        let maps = &mut self.live.plane.maps;
        ports
            .map(Owner::Port)
            .chain(tunnels.map(Owner::Tunnel))
            .try_for_each(|owner| maps.reset(owner))
    }

    async fn go_to(&mut self, desired: &Desired) -> Result<(), Error> {
        let unknown = self.live.announce(desired);
        self.open_underlays(&desired.interfaces);
        self.look_up(unknown).await;
        self.read_addresses().await;
        let ports = self.live.state.ports.clone();
        let before: BTreeSet<IfIndex> = self.live.state.interfaces.keys().copied().collect();
        let result = self.live.transition(desired, Instant::now());
        self.warn_of_the_host(&before);
        self.begin_announcements(&ports);
        let interfaces = self.live.state.interfaces.clone();
        self.open_underlays(&interfaces);
        self.live.write_adjacencies();
        // While the last generation can still be put back, its modes are kept.
        if result.is_ok() && !self.live.plane.may_go_back() {
            self.settle_redirects();
        }
        let interfaces = &self.live.state.interfaces;
        self.unable.retain(|device| interfaces.contains_key(device));
        self.lost
            .retain(|device, _| interfaces.contains_key(device));
        result
    }

    /// Tells where the host's own stack would answer machines, on devices that have become ports.
    fn warn_of_the_host(&self, before: &BTreeSet<IfIndex>) {
        for (index, interface) in &self.live.state.interfaces {
            let is_new_port = !before.contains(index) && interface.untagged_port.is_some();
            if let Some(link) = self.links.get(index)
                && is_new_port
                && !interface.underlay
            {
                for complaint in host_stack::complaints(&link.name) {
                    tracing::warn!("port device {}: {complaint}", link.name);
                }
            }
        }
    }

    /// Follows devices that appear, vanish or change, with the configuration as it is.
    async fn follow_devices(&mut self) {
        let devices = self.devices(&self.config);
        if devices == self.planned_for {
            // Only a carrier came or went, if anything.
            let interfaces = self.live.state.interfaces.clone();
            self.open_underlays(&interfaces);
            return;
        }
        let Err(error) = self.go_to_devices(devices.clone()).await else {
            return tracing::info!("devices have changed, and the gateway with them");
        };
        let changes = changed_devices(&self.planned_for, &devices);
        if let [(name, _)] = &changes[..] {
            return tracing::error!(
                "{name} has changed, which cannot be followed: {:#}",
                anyhow::Error::from(error)
            );
        }
        // One that cannot be followed must not hold up the others.
        for (name, device) in changes {
            let mut devices = self.planned_for.clone();
            match device {
                Some(device) => devices.insert(name.clone(), device),
                None => devices.remove(&name),
            };
            match self.go_to_devices(devices).await {
                Ok(()) => tracing::info!("{name} has changed, and the gateway with it"),
                Err(error) => tracing::error!(
                    "{name} has changed, which cannot be followed: {:#}",
                    anyhow::Error::from(error)
                ),
            }
        }
    }

    /// Goes to what the configuration means with these devices.
    async fn go_to_devices(&mut self, devices: Devices) -> Result<(), Error> {
        let ids = self.ids.clone();
        let planned = plan(&self.config, &self.peerings, &devices, ids, &self.limits);
        planned.complaints.warn();
        self.check_devices(&planned.desired)?;
        self.go_to(&planned.desired).await?;
        self.planned_for = devices;
        Ok(())
    }

    /// Makes sure that the devices of a state can be had.
    fn check_devices(&self, desired: &Desired) -> Result<(), Error> {
        for (index, interface) in &desired.interfaces {
            if let Some(link) = self.links.get(index) {
                self.live.plane.check_device(link)?;
                check_tags(link, interface)?;
            }
        }
        Ok(())
    }

    fn ask(&self, question: &Question) {
        let Some(port) = self.live.state.ports.get(&question.port) else {
            return;
        };
        self.send(&Solicitation {
            device: port.device,
            vlan: port.vlan.unwrap_or_default(),
            mac: port.mac,
            source: question.source,
            target: question.target,
            destination: question.destination,
        });
    }

    fn send(&self, solicitation: &Solicitation) {
        if let Err(error) = self.solicitor.ask(solicitation) {
            tracing::debug!("cannot ask for {}: {error}", solicitation.target);
        }
    }

    /// Returns whether the kernel has answered.
    async fn read_links(&mut self) -> bool {
        match self.netlink.links().await {
            Ok(links) => self.set_links(links),
            Err(error) => {
                log_error(Err(error));
                return false;
            }
        }
        true
    }

    fn set_links(&mut self, links: Vec<Link>) {
        self.live.device_names = links
            .iter()
            .map(|link| (link.index, link.name.clone()))
            .collect();
        self.links = links.into_iter().map(|link| (link.index, link)).collect();
    }

    /// The devices that a configuration names and this machine has. Those that are not Ethernet are none.
    fn devices(&self, config: &Config) -> Devices {
        let underlays = config.underlays.iter().map(|underlay| &underlay.device);
        let named: BTreeSet<&DeviceName> = underlays
            .chain(config.ports.iter().map(|port| &port.device))
            .map(Spanned::get_ref)
            .collect();
        self.links
            .values()
            .filter_map(|link| {
                let name = DeviceName::new(&link.name).ok()?;
                if !named.contains(&name) {
                    return None;
                }
                let device = Device {
                    index: link.index,
                    mac: link.mac?,
                    mtu: link.mtu,
                };
                Some((name, device))
            })
            .collect()
    }

    fn remember(&self, ids: &Ids, peerings: &States, standing: &Standing) -> Result<(), Error> {
        Remembered {
            ids: ids.clone(),
            peerings: peerings.clone(),
            standing: standing.clone(),
        }
        .save(&self.instance)
    }
}

/// What leads from some devices to others: new or changed ones, or (`None`) those that have gone, which come first so
/// that a name or index can change hands.
fn changed_devices(from: &Devices, to: &Devices) -> Vec<(DeviceName, Option<Device>)> {
    let gone = from.keys().filter(|name| !to.contains_key(*name));
    let new = to
        .iter()
        .filter(|(name, device)| from.get(*name) != Some(*device));
    gone.map(|name| (name.clone(), None))
        .chain(new.map(|(name, device)| (name.clone(), Some(*device))))
        .collect()
}

/// Makes sure that frames of tagged ports keep their tags. On a veth pair it is the far end's setting that counts
/// (`txvlan`), which cannot be seen from here.
fn check_tags(link: &Link, interface: &Interface) -> Result<(), Error> {
    let has_ports = interface.tagged_ports || interface.untagged_port.is_some();
    if link.veth || !has_ports {
        return Ok(());
    }
    let device = &link.name;
    match vlan_offload::is_on(device) {
        Ok(false) => {}
        Ok(true) if interface.tagged_ports => {
            let device = device.clone();
            return Err(Error::TagsTaken { device });
        }
        Ok(true) => tracing::warn!(
            "{device} takes VLAN tags out of frames: tagged ones would be the untagged port's; `ethtool -K {device} rxvlan off`"
        ),
        Err(error) => tracing::warn!(
            "cannot tell whether {device} takes VLAN tags out of frames ({error}): `ethtool -k {device}` must say \
             `rx-vlan-offload: off`"
        ),
    }
    Ok(())
}

/// How often [`Gateway::round`] has to be called.
pub const ROUND_INTERVAL: Duration = ROUND;

/// For what nobody waits for.
fn log_error(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::error!("{:#}", anyhow::Error::from(error));
    }
}

/// Warnings go to the log, errors to the caller.
fn refuse(complaints: &Diagnostics) -> Result<(), Failure> {
    if complaints
        .iter()
        .any(|complaint| complaint.severity() == Severity::Error)
    {
        return Err(Failure::from(complaints));
    }
    complaints.warn();
    Ok(())
}
