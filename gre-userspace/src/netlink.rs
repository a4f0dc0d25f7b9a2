//! The only module that speaks rtnetlink: devices, routes and neighbours of this network namespace.
//!
//! The daemon asks through [`Netlink`] and is told of changes through [`Notifications`]; both run on the current tokio
//! runtime. Two sockets, so that a burst of notifications never crowds out an answer.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use gre_common::id::{IfIndex, MacAddress};
use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    LinkXdp, XdpAttached,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

use crate::error::{Error, Result};

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

    /// Where packets from `local` to `remote` go; `None` while no route leads there.
    ///
    /// # Errors
    /// The kernel has not answered: nothing is known.
    pub async fn route(&self, local: IpAddr, remote: IpAddr) -> Result<Option<Hop>> {
        let answer = match self.route_from(Some(local), remote).await {
            // Also said of a source that is not one of the kernel's own addresses; the data plane does not mind.
            Err(refusal) if matches!(errno(&refusal), Some(libc::ENETUNREACH | libc::EINVAL)) => {
                self.route_from(None, remote).await
            }
            answer => answer,
        };
        next_hop(answer, remote)
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
        self.ask(RouteNetlinkMessage::GetRoute(message.build()))
            .await
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
        RouteNetlinkMessage::NewAddress(_)
        | RouteNetlinkMessage::DelAddress(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_) => Notification::Routes(None),
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
        program: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) if ethernet => link.mac = mac(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            LinkAttribute::Xdp(attributes) => link.program = attached_program(attributes),
            _ => {}
        }
    }
    Some(link)
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
fn next_hop(answer: Answer, remote: IpAddr) -> Result<Option<Hop>> {
    match answer {
        Ok(RouteNetlinkMessage::NewRoute(route)) => Ok(hop(&route, remote)),
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
fn hop(route: &RouteMessage, remote: IpAddr) -> Option<Hop> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut device = None;
    let mut address = remote;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(IfIndex(*index)),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway))
            | RouteAttribute::Via(RouteVia::Inet(gateway)) => address = IpAddr::V4(*gateway),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
            | RouteAttribute::Via(RouteVia::Inet6(gateway)) => address = IpAddr::V6(*gateway),
            _ => {}
        }
    }
    Some(Hop {
        device: device?,
        address,
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
            let hop = next_hop(refusal(errno), remote).expect("an answer");
            assert_eq!(hop, None, "{errno}");
        }
        for errno in [libc::ENOBUFS, libc::ENOMEM, libc::EINTR, libc::EBUSY] {
            assert!(next_hop(refusal(errno), remote).is_err(), "{errno}");
        }
        let silence = Err(rtnetlink::Error::RequestFailed);
        assert!(next_hop(silence, remote).is_err());
    }
}
