//! The only module that speaks rtnetlink: devices, routes and neighbours of this network namespace.
//!
//! The daemon asks through [`Netlink`] and is told of changes through [`Notifications`]; both run on the current tokio
//! runtime. Two sockets, so that a burst of notifications never crowds out an answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use gre_common::id::{IfIndex, MacAddress};
use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    LinkXdp, XdpAttached,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteType,
    RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use rtnetlink::{Handle, IpVersion, MulticastGroup, RouteMessageBuilder};

use crate::adjacency::Way;
use crate::error::{Error, Result};
use crate::policy::{self, Policy};

/// `USER_HZ`: the unit of times in `NDA_CACHEINFO` is 1/100 s on every architecture that Rust's Linux targets name.
const TICK: Duration = Duration::from_millis(10);

/// `NDA_PROTOCOL` of the neighbour entries that gregw has the kernel keep: nobody else's by the kernel's list.
const KEEPER: RouteProtocol = RouteProtocol::Other(103);

/// Opens both sockets and serves them on the current runtime.
///
/// What changes after this call is never missed: notifications are subscribed to first.
pub fn connect() -> Result<(Netlink, Notifications)> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)
        .map_err(|source| Error::netlink("subscribe to changes", source))?;
    tokio::spawn(connection);
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|source| Error::netlink("open a socket", source))?;
    tokio::spawn(connection);
    let messages = Box::pin(messages.map(|(message, _)| message));
    Ok((Netlink { handle }, Notifications { messages }))
}

/// Questions to the kernel.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
    /// Layer-2 address; `None` unless it is an Ethernet device.
    pub mac: Option<MacAddress>,
    /// Greatest IP packet, in bytes.
    pub mtu: u32,
    /// Whether it is switched on and has a carrier.
    pub up: bool,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// Whether it is of a kind without a driver that could take frames from another one.
    pub is_soft: bool,
    /// The XDP program on it.
    pub program: Option<AttachedProgram>,
}

/// An XDP program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// Id of the program.
    pub id: u32,
    /// Whether it runs behind the driver instead of in it.
    pub generic: bool,
}

/// Where the kernel would send packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// Device to send on.
    pub device: IfIndex,
    /// Whom to hand the packets to on the link: a router, or the destination itself.
    pub address: IpAddr,
}

/// A way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The next hop.
    pub hop: Hop,
    /// Greatest IP packet that the route states, in bytes (`ip route … mtu`).
    pub mtu: Option<u32>,
}

/// An entry of the kernel's neighbour tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelNeighbour {
    /// Whose entry it is.
    pub hop: Hop,
    /// The layer-2 address; `None` while it is not known.
    pub mac: Option<MacAddress>,
    /// Time since the neighbour was last heard of; `None` for entries made by hand.
    pub unconfirmed: Option<Duration>,
    /// The kernel has asked for it in vain.
    pub failed: bool,
    /// Who has the kernel keep the entry.
    pub kept: Kept,
}

/// Who has the kernel keep a neighbour entry however full its table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// Nobody: the kernel may throw it away.
    #[default]
    No,
    /// gregw.
    ByUs,
    /// Somebody else.
    ByOthers,
}

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// A device appeared or changed.
    Link(Link),
    /// A device went away.
    LinkRemoved(IfIndex),
    /// A neighbour entry changed; removed ones have no layer-2 address.
    Neighbour(KernelNeighbour),
    /// Packets to these destinations may take another way; `None`: all.
    Routes(Option<IpNet>),
    /// The host has got or lost an address, which may change ways, too.
    Addresses,
    /// The kernel had more to tell than it could keep: everything must be asked for again.
    Overrun,
}

impl Netlink {
    /// All devices.
    pub async fn links(&self) -> Result<Vec<Link>> {
        // Device statistics, which are most of an answer, are of no interest.
        let request = self
            .handle
            .link()
            .get()
            .set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
        let links: Vec<LinkMessage> = request
            .execute()
            .try_collect()
            .await
            .map_err(|source| Error::netlink("list devices", source))?;
        Ok(links.iter().filter_map(link).collect())
    }

    /// One device; `None` if there is none.
    pub async fn link(&self, index: IfIndex) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        let mask = vec![LinkExtentMask::SkipStats];
        message.attributes.push(LinkAttribute::ExtMask(mask));
        match self.ask(RouteNetlinkMessage::GetLink(message)).await {
            Ok(RouteNetlinkMessage::NewLink(message)) => Ok(link(&message)),
            Ok(_) => Ok(None),
            Err(refusal) if errno(&refusal) == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(Error::netlink(format!("look up device {index}"), source)),
        }
    }

    /// All entries of the neighbour tables.
    pub async fn neighbours(&self) -> Result<Vec<KernelNeighbour>> {
        let neighbours: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| Error::netlink("list neighbours", source))?;
        Ok(neighbours.iter().filter_map(neighbour).collect())
    }

    /// The entry of one neighbour; `None` if there is none.
    ///
    /// # Errors
    /// The kernel has not answered: nothing is known.
    pub async fn neighbour(&self, hop: Hop) -> Result<Option<KernelNeighbour>> {
        let message = neighbour_message(hop);
        let answer = self.ask(RouteNetlinkMessage::GetNeighbour(message)).await;
        match answer {
            Ok(RouteNetlinkMessage::NewNeighbour(message)) => Ok(neighbour(&message)),
            Ok(_) => Ok(None),
            Err(refusal) if errno(&refusal) == Some(libc::ENOENT) => Ok(None),
            Err(source) => Err(Error::netlink(format!("look up {}", hop.address), source)),
        }
    }

    /// Makes the kernel find out the neighbour's layer-2 address, as if it had a packet for it (`NTF_USE`), and keep
    /// the entry (`NTF_EXT_LEARNED`): neither does it count towards `gc_thresh3`, which all namespaces share, nor is it
    /// thrown away. What the entry says is found out like that of any other.
    pub async fn resolve(&self, hop: Hop) -> Result<()> {
        let flags = NeighbourFlags::Use | NeighbourFlags::ExtLearned;
        self.use_neighbour(hop, flags)
            .await
            .map_err(|source| Error::netlink(format!("resolve {}", hop.address), source))
    }

    /// Whether [`Netlink::resolve`] was refused because the kernel's neighbour table is full.
    pub fn is_table_full(error: &Error) -> bool {
        let Error::Netlink { source, .. } = error else {
            return false;
        };
        let source = source.downcast_ref::<rtnetlink::Error>();
        source.and_then(errno) == Some(libc::ENOBUFS)
    }

    /// Leaves an entry that [`Netlink::resolve`] has kept to the kernel again.
    pub async fn release(&self, hop: Hop) -> Result<()> {
        let entry = self.neighbour(hop).await?;
        if entry.is_none_or(|entry| entry.kept != Kept::ByUs) {
            return Ok(());
        }
        self.use_neighbour(hop, NeighbourFlags::Use)
            .await
            .map_err(|source| Error::netlink(format!("release {}", hop.address), source))
    }

    async fn use_neighbour(
        &self,
        hop: Hop,
        flags: NeighbourFlags,
    ) -> std::result::Result<(), rtnetlink::Error> {
        let neighbours = self.handle.neighbours();
        let mut request = neighbours
            .add(hop.device.0, hop.address)
            .state(NeighbourState::None)
            .flags(flags)
            .replace();
        let attributes = &mut request.message_mut().attributes;
        attributes.push(NeighbourAttribute::Protocol(KEEPER));
        request.execute().await
    }

    /// The host's own addresses.
    pub async fn addresses(&self) -> Result<BTreeSet<IpAddr>> {
        let addresses: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| Error::netlink("list addresses", source))?;
        Ok(addresses.iter().filter_map(own_address).collect())
    }

    /// Where GRE packets from `local` to `remote` go; `None` while no route leads there.
    ///
    /// # Errors
    /// The kernel has not answered: nothing is known.
    pub async fn route(&self, way: Way, policy: &Policy) -> Result<Option<Route>> {
        let Way { local, remote } = way;
        let answer = match self.route_from(Some(local), remote).await {
            // Also said of a source that is not one of the kernel's own addresses; the data plane does not mind.
            Err(refusal) if matches!(errno(&refusal), Some(libc::ENETUNREACH | libc::EINVAL)) => {
                self.route_from(None, remote).await
            }
            answer => answer,
        };
        Ok(policy.decide(way, answer_to(answer, remote)?))
    }

    /// The rules of a family that concern GRE, and the routes of the tables that they name.
    ///
    /// # Errors
    /// The kernel has not answered: nothing is known.
    pub async fn policy(&self, ipv6: bool) -> Result<Policy> {
        let version = if ipv6 { IpVersion::V6 } else { IpVersion::V4 };
        let rules: Vec<RuleMessage> = self
            .handle
            .rule()
            .get(version)
            .execute()
            .try_collect()
            .await
            .map_err(|source| Error::netlink("list policy rules", source))?;
        let mut policy = Policy::new(rules.iter().map(rule).collect());
        for table in policy.tables_needed() {
            for route in self.routes_of(table, ipv6).await? {
                policy.insert(table, route);
            }
        }
        Ok(policy)
    }

    async fn routes_of(&self, number: u32, ipv6: bool) -> Result<Vec<policy::TableRoute>> {
        let mut question = RouteMessage::default();
        question.header.address_family = if ipv6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        question.attributes.push(RouteAttribute::Table(number));
        let fail = |source| Error::netlink(format!("list routes of table {number}"), source);
        // Only such a socket is told of one table alone; the others may be large.
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .map_err(|source| Error::netlink("open a socket", source))?;
        tokio::spawn(connection);
        let routes: Vec<RouteMessage> =
            match handle.route().get(question).execute().try_collect().await {
                // There is no such table.
                Err(refusal) if errno(&refusal) == Some(libc::ENOENT) => Vec::new(),
                routes => routes.map_err(fail)?,
            };
        let routes = routes.iter().filter(|route| table(route) == number);
        Ok(routes.filter_map(table_route).collect())
    }

    async fn route_from(&self, local: Option<IpAddr>, remote: IpAddr) -> Answer {
        let length = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        // Ends of different families, which no configuration has.
        let invalid = |_| rtnetlink::Error::RequestFailed;
        let mut message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(remote, length(remote))
            .map_err(invalid)?;
        if let Some(local) = local {
            message = message
                .source_prefix(local, length(local))
                .map_err(invalid)?;
        }
        let mut message = message.build();
        // The answer names the table that it comes from.
        message.header.flags |= RouteFlags::LookupTable;
        self.ask(RouteNetlinkMessage::GetRoute(message)).await
    }

    /// One answer to one question.
    async fn ask(&self, question: RouteNetlinkMessage) -> Answer {
        let mut message = NetlinkMessage::from(question);
        message.header.flags = NLM_F_REQUEST;
        let mut answers = std::pin::pin!(self.handle.clone().request(message)?);
        match answers.next().await.map(|answer| answer.payload) {
            Some(NetlinkPayload::InnerMessage(answer)) => Ok(answer),
            Some(NetlinkPayload::Error(error)) => Err(rtnetlink::Error::NetlinkError(error)),
            _ => Err(rtnetlink::Error::RequestFailed),
        }
    }
}

type Answer = std::result::Result<RouteNetlinkMessage, rtnetlink::Error>;

/// What the kernel tells unasked.
pub struct Notifications {
    messages: Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>>>>,
}

impl Notifications {
    /// Waits for the next change. `None` once the socket is of no use any more.
    ///
    /// Nothing is lost when the future is dropped before it is ready.
    pub async fn next(&mut self) -> Option<Notification> {
        loop {
            let message = self.messages.next().await?;
            if let Some(notification) = notification(&message.payload) {
                return Some(notification);
            }
        }
    }
}

fn notification(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Notification> {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(Notification::Overrun),
        _ => return None,
    };
    Some(match message {
        RouteNetlinkMessage::NewLink(message) => Notification::Link(link(message)?),
        // A bridge tells under its own family that a port left it.
        RouteNetlinkMessage::DelLink(message)
            if message.header.interface_family == AddressFamily::Unspec =>
        {
            Notification::LinkRemoved(IfIndex(message.header.index))
        }
        RouteNetlinkMessage::NewNeighbour(message) => Notification::Neighbour(neighbour(message)?),
        RouteNetlinkMessage::DelNeighbour(message) => Notification::Neighbour(KernelNeighbour {
            mac: None,
            failed: false,
            kept: Kept::No,
            ..neighbour(message)?
        }),
        RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
            Notification::Routes(destination(message))
        }
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
            Notification::Addresses
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => {
            Notification::Routes(None)
        }
        _ => return None,
    })
}

/// `None` for messages of a device's bridge or protocol side.
fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = Link {
        index: IfIndex(message.header.index),
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message
            .header
            .flags
            .contains(LinkFlags::Up | LinkFlags::LowerUp),
        veth: false,
        is_soft: false,
        program: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) if ethernet => link.mac = mac(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                link.is_soft = infos.iter().any(is_soft);
            }
            LinkAttribute::Xdp(attributes) => link.program = attached_program(attributes),
            _ => {}
        }
    }
    Some(link)
}

fn is_soft(info: &LinkInfo) -> bool {
    let LinkInfo::Kind(kind) = info else {
        return false;
    };
    matches!(
        kind,
        InfoKind::Bridge
            | InfoKind::MacVlan
            | InfoKind::MacVtap
            | InfoKind::IpVlan
            | InfoKind::Vlan
    )
}

fn attached_program(attributes: &[LinkXdp]) -> Option<AttachedProgram> {
    let generic = attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkXdp::Attached(XdpAttached::SocketBuffer)));
    attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id)
        | LinkXdp::DrvProgId(id)
        | LinkXdp::SkbProgId(id)
        | LinkXdp::HwProgId(id)
            if *id != 0 =>
        {
            Some(AttachedProgram { id: *id, generic })
        }
        _ => None,
    })
}

fn neighbour(message: &NeighbourMessage) -> Option<KernelNeighbour> {
    let mut address = None;
    let mut mac_address = None;
    let mut unconfirmed = None;
    let mut kept = Kept::ByOthers;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac_address = mac(bytes),
            NeighbourAttribute::Protocol(KEEPER) => kept = Kept::ByUs,
            NeighbourAttribute::CacheInfo(times) => unconfirmed = Some(TICK * times.confirmed),
            _ => {}
        }
    }
    let is_kept = message.header.flags.contains(NeighbourFlags::ExtLearned);
    let by_hand = matches!(
        message.header.state,
        NeighbourState::Permanent | NeighbourState::Noarp
    );
    Some(KernelNeighbour {
        hop: Hop {
            device: IfIndex(message.header.ifindex),
            address: address?,
        },
        mac: mac_address.filter(|_| is_valid(message.header.state)),
        unconfirmed: unconfirmed.filter(|_| !by_hand),
        failed: message.header.state == NeighbourState::Failed,
        kept: if is_kept { kept } else { Kept::No },
    })
}

/// The kernel's `NUD_VALID`: packets are sent to the address of such an entry.
fn is_valid(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    )
}

fn neighbour_message(hop: Hop) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = hop.device.0;
    let address = match hop.address {
        IpAddr::V4(address) => {
            message.header.family = AddressFamily::Inet;
            NeighbourAddress::Inet(address)
        }
        IpAddr::V6(address) => {
            message.header.family = AddressFamily::Inet6;
            NeighbourAddress::Inet6(address)
        }
    };
    message.attributes = vec![NeighbourAttribute::Destination(address)];
    message
}

/// The kernel's reason for a refusal; `None` if it has said nothing.
fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

/// The answer to a question for a route. The kernel tells by errors that there is none, or one that is `unreachable`,
/// `prohibit` or `blackhole` (`fib_props`); no other error says anything about routes.
fn answer_to(answer: Answer, remote: IpAddr) -> Result<Option<policy::Answer>> {
    match answer {
        Ok(RouteNetlinkMessage::NewRoute(message)) => {
            let table = table(&message);
            Ok(route(&message, remote).map(|route| policy::Answer { table, route }))
        }
        Err(refusal)
            if matches!(
                errno(&refusal),
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
            ) =>
        {
            Ok(None)
        }
        answer => {
            let source = answer.err().unwrap_or(rtnetlink::Error::RequestFailed);
            let action = format!("look up the route to {remote}");
            Err(Error::netlink(action, source))
        }
    }
}

/// `None` unless the route hands packets to a device.
fn route(message: &RouteMessage, remote: IpAddr) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut device = None;
    let mut address = remote;
    let mut mtu = None;
    let mut expires = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(IfIndex(*index)),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway))
            | RouteAttribute::Via(RouteVia::Inet(gateway)) => address = IpAddr::V4(*gateway),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
            | RouteAttribute::Via(RouteVia::Inet6(gateway)) => address = IpAddr::V6(*gateway),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::CacheInfo(info) => expires = info.expires != 0,
            // The kernel would choose by the flow; all flows of a tunnel look alike to it.
            RouteAttribute::MultiPath(hops) => {
                if let Some(first) = hops.first() {
                    device = Some(IfIndex(first.interface_index));
                    address = gateway(&first.attributes).unwrap_or(remote);
                }
            }
            _ => {}
        }
    }
    let hop = Hop {
        device: device?,
        address,
    };
    // What the kernel has found out by itself ends without notice.
    let mtu = mtu.filter(|_| !expires);
    Some(Route { hop, mtu })
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway))
        | RouteAttribute::Via(RouteVia::Inet(gateway)) => Some(IpAddr::V4(*gateway)),
        RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
        | RouteAttribute::Via(RouteVia::Inet6(gateway)) => Some(IpAddr::V6(*gateway)),
        _ => None,
    })
}

/// The number of the table that a route is in.
fn table(message: &RouteMessage) -> u32 {
    let number = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    number.unwrap_or(message.header.table.into())
}

/// A route as an entry of its table. `None` for one that does not end the search (`throw`), or is for packets of another
/// type of service.
fn table_route(message: &RouteMessage) -> Option<policy::TableRoute> {
    if message.header.kind == RouteType::Throw || message.header.tos != 0 {
        return None;
    }
    let is_ipv6 = message.header.address_family == AddressFamily::Inet6;
    let unspecified = if is_ipv6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let length = message.header.destination_prefix_length;
    let prefix = match destination(message) {
        Some(prefix) => prefix,
        None if length == 0 => IpNet::new(unspecified, 0).ok()?,
        None => return None,
    };
    let metric = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
    Some(policy::TableRoute {
        prefix,
        metric: metric.unwrap_or_default(),
        route: route(message, unspecified),
    })
}

fn rule(message: &RuleMessage) -> policy::Rule {
    let mut table = message.header.table.into();
    let mut goto = None;
    let mut rule = policy::Rule {
        priority: 0,
        source: None,
        destination: None,
        protocol: policy::Protocol::Any,
        is_foreign: message.header.tos != 0,
        is_inverted: message.header.flags.contains(RuleFlags::Invert),
        action: policy::Action::Pass,
        suppressed: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Source(address) => {
                rule.source = IpNet::new(*address, message.header.src_len).ok();
            }
            RuleAttribute::Destination(address) => {
                rule.destination = IpNet::new(*address, message.header.dst_len).ok();
            }
            RuleAttribute::IpProtocol(IpProtocol::Gre) => rule.protocol = policy::Protocol::Gre,
            RuleAttribute::IpProtocol(_) => rule.protocol = policy::Protocol::Other,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Goto(priority) => goto = Some(*priority),
            // The kernel says that none is suppressed by -1.
            RuleAttribute::SuppressPrefixLen(length) => {
                rule.suppressed = u8::try_from(*length).ok();
            }
            RuleAttribute::Iifname(device) => rule.is_foreign |= device != "lo",
            RuleAttribute::FwMark(mark) => rule.is_foreign |= *mark != 0,
            RuleAttribute::Oifname(_)
            | RuleAttribute::L3MDev(true)
            | RuleAttribute::TunId(1..)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => rule.is_foreign = true,
            _ => {}
        }
    }
    rule.action = match (message.header.action, goto) {
        (RuleAction::ToTable, _) => policy::Action::Table(table),
        (RuleAction::Goto, Some(priority)) => policy::Action::Goto(priority),
        (RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit, _) => {
            policy::Action::Refuse
        }
        _ => policy::Action::Pass,
    };
    rule
}

/// `Local` is the host's own one where the other end of a link has an address of its own.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let own = message.attributes.iter();
    let own = own.clone().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    own.or_else(|| {
        let mut attributes = message.attributes.iter();
        attributes.find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// `None` for a default route, and for what cannot be told.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
            _ => None,
        })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

fn mac(bytes: &[u8]) -> Option<MacAddress> {
    bytes.try_into().ok().map(MacAddress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::ErrorMessage;
    use std::num::NonZeroI32;

    fn refusal(errno: i32) -> Answer {
        let mut message = ErrorMessage::default();
        message.code = NonZeroI32::new(-errno);
        Err(rtnetlink::Error::NetlinkError(message))
    }

    #[test]
    fn only_a_refusal_that_speaks_of_routes_means_that_there_is_none() {
        let remote = IpAddr::from([198, 51, 100, 7]);
        // No route, `unreachable`, `prohibit`, `blackhole`.
        for errno in [
            libc::ENETUNREACH,
            libc::EHOSTUNREACH,
            libc::EACCES,
            libc::EINVAL,
        ] {
            let hop = answer_to(refusal(errno), remote).expect("an answer");
            assert_eq!(hop, None, "{errno}");
        }
        for errno in [libc::ENOBUFS, libc::ENOMEM, libc::EINTR, libc::EBUSY] {
            assert!(answer_to(refusal(errno), remote).is_err(), "{errno}");
        }
        let silence = Err(rtnetlink::Error::RequestFailed);
        assert!(answer_to(silence, remote).is_err());
    }
}
