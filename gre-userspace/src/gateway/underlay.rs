//! The gateway's underlay: ways to tunnels' remotes and their next hops, as the kernel knows them.
//!
//! Called at each change and each round. What is known lies in `adjacency`; here is the asking. Holds: no answer is no
//! knowledge, so that what works stays in force until the kernel says otherwise.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use futures_util::StreamExt;
use gre_common::id::{IfIndex, MacAddress};

use super::Gateway;
use crate::adjacency::{Confirm, Finding, Task, Underlay, UnderlayDevice, Way};
use crate::error::Error;
use crate::netlink::{Hop, Kept, KernelNeighbour, Netlink, Route};
use crate::plan::Interface;
use crate::policy::Policy;
use crate::solicitation::Solicitation;

/// Questions to the kernel under way at one time.
const LOOK_UPS: usize = 64;
/// From this number on, the kernel's whole neighbour table is read instead of single entries.
const MANY_HOPS: usize = 16;

impl Gateway {
    /// Looks ways up in the kernel's routing tables, and the neighbours that turn out to be new.
    pub(super) async fn look_up(&mut self, ways: Vec<Way>) {
        let policies = self.policies(&ways).await;
        let policy = |way: Way| policies[usize::from(way.remote.is_ipv6())].as_ref();
        let (askable, unanswered): (Vec<_>, Vec<_>) =
            ways.into_iter().partition(|way| policy(*way).is_some());
        for way in unanswered {
            self.live.adjacencies.set_unanswered(way);
        }
        let netlink = &self.netlink;
        let questions = askable
            .into_iter()
            .filter_map(|way| policy(way).map(|policy| (way, policy)));
        let found: Vec<(Way, Result<Option<Route>, Error>)> = futures_util::stream::iter(questions)
            .map(async |(way, policy)| (way, netlink.route(way, policy).await))
            .buffer_unordered(LOOK_UPS)
            .collect()
            .await;
        let now = Instant::now();
        let adjacencies = &mut self.live.adjacencies;
        let mut new_hops = Vec::new();
        for (way, answer) in found {
            match answer {
                Ok(route) => {
                    new_hops.extend(adjacencies.set_route(way, route.map(|route| route.hop), now));
                    adjacencies.set_mtu(way, route.and_then(|route| route.mtu));
                }
                Err(error) => {
                    tracing::warn!("{:#}; asking again", anyhow::Error::from(error));
                    adjacencies.set_unanswered(way);
                }
            }
        }
        self.read_neighbours(new_hops).await;
    }

    /// The rules of IPv4 and IPv6 that concern GRE, as far as ways of the family are asked for; `None`: nothing is known.
    async fn policies(&self, ways: &[Way]) -> [Option<Policy>; 2] {
        let mut policies = [None, None];
        for (policy, ipv6) in policies.iter_mut().zip([false, true]) {
            if ways.iter().any(|way| way.remote.is_ipv6() == ipv6) {
                *policy = match self.netlink.policy(ipv6).await {
                    Ok(policy) => Some(policy),
                    Err(error) => {
                        tracing::warn!("{:#}; asking again", anyhow::Error::from(error));
                        None
                    }
                };
            }
        }
        policies
    }

    /// Compares the tunnels' own ends with the host's addresses. Returns whether the kernel has answered.
    pub(super) async fn read_addresses(&mut self) -> bool {
        match self.netlink.addresses().await {
            Ok(addresses) => self.live.adjacencies.set_addresses(addresses),
            Err(error) => {
                tracing::warn!("{:#}", anyhow::Error::from(error));
                return false;
            }
        }
        true
    }

    /// Compares next hops with the kernel's neighbour entries.
    pub(super) async fn read_neighbours(&mut self, hops: Vec<Hop>) {
        for (hop, neighbour) in self.neighbours_at(hops).await {
            self.note_neighbour(hop, neighbour.as_ref());
        }
    }

    /// Takes the kernel's entry of a next hop, or that there is none. Returns whether its address has changed.
    pub(super) fn note_neighbour(&mut self, hop: Hop, neighbour: Option<&KernelNeighbour>) -> bool {
        let mac = neighbour.and_then(|neighbour| neighbour.mac);
        let adjacencies = &mut self.live.adjacencies;
        let has_changed = adjacencies.set_neighbour(hop, mac, Instant::now());
        if neighbour.is_some_and(|neighbour| neighbour.failed) {
            adjacencies.set_finding(hop, Finding::Silent);
        }
        has_changed
    }

    /// The kernel's entries of next hops. Those that it has not answered for are left out: nothing is known of them.
    async fn neighbours_at(&self, hops: Vec<Hop>) -> HashMap<Hop, Option<KernelNeighbour>> {
        let table = if hops.len() > MANY_HOPS {
            self.neighbour_table().await
        } else {
            HashMap::new()
        };
        let entry = async |hop| match table.get(&hop) {
            Some(neighbour) => Ok((hop, Some(*neighbour))),
            // The table leaves entries out that move while it is listed; only this answer tells that there is none.
            None => Ok((hop, self.netlink.neighbour(hop).await?)),
        };
        let entries: Vec<Result<_, Error>> = futures_util::stream::iter(hops)
            .map(entry)
            .buffer_unordered(LOOK_UPS)
            .collect()
            .await;
        let known = entries
            .into_iter()
            .filter_map(|entry| entry.inspect_err(|error| tracing::debug!("{error}")).ok());
        known.collect()
    }

    async fn neighbour_table(&self) -> HashMap<Hop, KernelNeighbour> {
        let listed = self.netlink.neighbours().await;
        let listed = listed.unwrap_or_else(|error| {
            tracing::warn!("{:#}", anyhow::Error::from(error));
            Vec::new()
        });
        listed
            .into_iter()
            .map(|neighbour| (neighbour.hop, neighbour))
            .collect()
    }

    /// Asks the kernel, and the next hops themselves, whether all is as it was.
    pub(super) async fn tend(&mut self, tasks: Vec<Task>) {
        for task in &tasks {
            if let Task::Resolve(hop) = task {
                self.resolve(*hop).await;
            }
        }
        let entries = self.neighbours_at(tasks.iter().map(|task| task.hop()).collect());
        let entries = entries.await;
        let now = Instant::now();
        for task in tasks {
            let Some(neighbour) = entries.get(&task.hop()).copied() else {
                continue;
            };
            match task {
                Task::Resolve(hop) => {
                    self.note_neighbour(hop, neighbour.as_ref());
                }
                Task::Confirm(confirm) => {
                    let adjacencies = &mut self.live.adjacencies;
                    if let Some(destination) = adjacencies.heard(confirm.hop, neighbour, now) {
                        self.confirm(&confirm, destination);
                    }
                    // One that the kernel has learnt by itself, and may throw away. Those made by hand it keeps.
                    let learnt = neighbour.filter(|neighbour| neighbour.unconfirmed.is_some());
                    if learnt.is_some_and(|neighbour| neighbour.kept == Kept::No) {
                        self.resolve(confirm.hop).await;
                    }
                }
            }
        }
    }

    async fn resolve(&mut self, hop: Hop) {
        let Err(error) = self.netlink.resolve(hop).await else {
            return;
        };
        if Netlink::is_table_full(&error) {
            let adjacencies = &mut self.live.adjacencies;
            adjacencies.set_finding(hop, Finding::TableFull);
        }
        tracing::debug!("{:#}", anyhow::Error::from(error));
    }

    /// Leaves the kernel the entries of next hops that nothing leads to any more.
    pub(super) async fn release_neighbours(&mut self) {
        release(&self.netlink, self.live.adjacencies.take_released()).await;
    }

    /// The same for those that an earlier daemon has left, also on devices that only it had.
    pub(super) async fn release_strays(&mut self, left: &[IfIndex]) {
        let used: HashSet<Hop> = self.live.adjacencies.hops().into_iter().collect();
        let interfaces = &self.live.state.interfaces;
        let is_ours = |device| interfaces.contains_key(&device) || left.contains(&device);
        let mut strays = kept_on(&self.netlink, is_ours).await;
        strays.retain(|hop| !used.contains(hop));
        release(&self.netlink, strays).await;
    }

    fn confirm(&self, confirm: &Confirm, destination: Option<MacAddress>) {
        let device = self.links.get(&confirm.hop.device);
        let Some(mac) = device.and_then(|link| link.mac) else {
            return;
        };
        self.send(&Solicitation {
            device: confirm.hop.device,
            vlan: Default::default(),
            mac,
            source: confirm.source,
            target: confirm.hop.address,
            destination,
        });
    }

    /// Lets adjacencies use the underlay devices that can send, and no others.
    pub(super) fn open_underlays(&mut self, interfaces: &BTreeMap<IfIndex, Interface>) {
        for (index, link) in &self.links {
            let is_underlay = interfaces
                .get(index)
                .is_some_and(|interface| interface.underlay);
            let device = link.mac.filter(|_| is_underlay).map(|mac| {
                if !link.up {
                    return Underlay::Down;
                }
                if self.lost.contains_key(index) {
                    return Underlay::Bare;
                }
                Underlay::Ready(UnderlayDevice {
                    mac,
                    mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
                })
            });
            self.live.adjacencies.set_device(*index, device);
        }
        for index in self.live.adjacencies.devices() {
            if !self.links.contains_key(&index) {
                self.live.adjacencies.set_device(index, None);
            }
        }
    }

    pub(super) fn report_hop(&self, neighbour: &KernelNeighbour) {
        let device = self.links.get(&neighbour.hop.device);
        let device = device.map_or("?", |link| &link.name);
        match neighbour.mac {
            Some(mac) => tracing::info!("next hop {} on {device}: {mac}", neighbour.hop.address),
            None => tracing::warn!("next hop {} on {device}: lost", neighbour.hop.address),
        }
    }
}

/// Leaves the kernel the entries that a gateway without a daemon had it keep on these devices.
pub(crate) async fn release_all_on(netlink: &Netlink, devices: &[IfIndex]) {
    let kept = kept_on(netlink, |device| devices.contains(&device)).await;
    release(netlink, kept).await;
}

async fn kept_on(netlink: &Netlink, wanted: impl Fn(IfIndex) -> bool) -> Vec<Hop> {
    let neighbours = netlink.neighbours().await.unwrap_or_else(|error| {
        tracing::warn!("{:#}", anyhow::Error::from(error));
        Vec::new()
    });
    neighbours
        .into_iter()
        .filter(|neighbour| neighbour.kept == Kept::ByUs && wanted(neighbour.hop.device))
        .map(|neighbour| neighbour.hop)
        .collect()
}

/// One that cannot be released costs the kernel an entry, and nobody else anything.
async fn release(netlink: &Netlink, hops: Vec<Hop>) {
    for hop in hops {
        if let Err(error) = netlink.release(hop).await {
            tracing::debug!("{:#}", anyhow::Error::from(error));
        }
    }
}
