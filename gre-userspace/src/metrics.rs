//! State and counters for Prometheus: `GET /metrics` on the address of `[gateway] metrics`, in OpenMetrics text.
//!
//! Started by the daemon. `exposition` has the counters read and the text made, which runs beside the daemon's thread. Addresses and keys are labels of `_info` metrics only.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::ListenerExt;
use futures_util::stream;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{ReusePort, TcpUserTimeout};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use crate::api;
use crate::error::Error;
use crate::exposition::Expositions;
use crate::report::{
    DropCounter, Peering, PeeringState, Port, Snapshot, State as Carrying, TableFill, Traffic,
    Tunnel,
};
use crate::request::Requests;
use crate::server;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections that may wait to be taken up.
const BACKLOG: u32 = 128;
/// How long a scraper may take nothing of what was sent to it.
const UNREAD_MILLISECONDS: u32 = 30_000;

/// Metrics served at one address until this is dropped.
pub(crate) struct Endpoint {
    address: SocketAddr,
    /// A second descriptor of the listening socket.
    socket: OwnedFd,
    _running: watch::Sender<()>,
}

impl Endpoint {
    /// Serves on a socket that [`listen`] made.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(crate) fn serve(listener: TcpListener, requests: Requests) -> Result<Self, Error> {
        let fail = |source| Error::system("serve metrics", source);
        let address = listener.local_addr().map_err(fail)?;
        let socket = listener.as_fd().try_clone_to_owned().map_err(fail)?;
        let (running, mut ended) = watch::channel(());
        let end = async move {
            // No value ever comes: it is ready when the sender has gone.
            while ended.changed().await.is_ok() {}
        };
        tokio::spawn(async move {
            if let Err(error) = serve(listener, requests, end).await {
                tracing::error!("the metrics endpoint {address} has failed: {error}");
            }
        });
        Ok(Self {
            address,
            socket,
            _running: running,
        })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Listens at `address`, also where that overlaps the address of today's endpoint (127.0.0.1 and 0.0.0.0): both are
/// served then until that one is dropped. Nobody else can take the port meanwhile.
///
/// # Errors
/// The address is not this machine's, or in use.
pub(crate) fn listen(address: SocketAddr, today: Option<&Endpoint>) -> Result<TcpListener, Error> {
    let open = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        let Some(today) = today.filter(|today| today.address.port() == address.port()) else {
            socket.bind(address)?;
            return socket.listen(BACKLOG);
        };
        // Both sockets have to agree to it, up to the end of listen(2), which looks for conflicts again.
        let shared = |on| setsockopt(&today.socket, ReusePort, &on);
        socket.set_reuseport(true)?;
        shared(true)?;
        let listener = socket.bind(address).and_then(|()| socket.listen(BACKLOG));
        shared(false)?;
        let listener = listener?;
        setsockopt(&listener, ReusePort, &false)?;
        Ok(listener)
    };
    open().map_err(|source: io::Error| {
        Error::system(format!("listen for metrics on {address}"), source)
    })
}

/// Serves metrics until `stop`.
pub async fn serve(
    listener: TcpListener,
    requests: Requests,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .with_state(Expositions::new(requests));
    // A scraper that does not read is given up by the kernel.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = setsockopt(stream, TcpUserTimeout, &UNREAD_MILLISECONDS) {
            tracing::debug!("cannot limit how long a scraper may take to read: {error}");
        }
    });
    server::serve(listener, router, stop).await
}

async fn scrape(State(expositions): State<Expositions>) -> api::Answer {
    let reader = expositions.read().await?;
    let head = [
        (header::CONTENT_TYPE, CONTENT_TYPE.to_owned()),
        (header::CONTENT_LENGTH, reader.length().to_string()),
    ];
    let pieces = stream::unfold(reader, async |mut reader| Some((reader.next()?, reader)));
    Ok((head, Body::from_stream(pieces)).into_response())
}

/// Writes a snapshot as OpenMetrics text.
pub(crate) fn encode(snapshot: Snapshot, to: &mut impl fmt::Write) -> fmt::Result {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    text::encode(to, &registry)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        encode_gateway(encoder, &self.gateway)?;
        encode_tunnels(encoder, &self.tunnels)?;
        encode_ports(encoder, &self.ports)?;
        encode_peerings(encoder, &self.peerings)?;
        encode_drops(encoder, &self.drops)?;
        encode_tables(encoder, &self.tables)
    }
}

fn encode_gateway(encoder: &mut DescriptorEncoder, name: &str) -> fmt::Result {
    let mut build = info(encoder, "gregw_build", "Version of gregw.")?;
    build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
    let mut gateway = info(encoder, "gregw_gateway", "The gateway's name.")?;
    gateway.encode_info(&[("name", name)])
}

fn encode_tunnels(encoder: &mut DescriptorEncoder, tunnels: &[Tunnel]) -> fmt::Result {
    let mut family = info(encoder, "gregw_tunnel", "Addresses and keys of the tunnel.")?;
    for tunnel in tunnels {
        let (local, remote) = (tunnel.local.to_string(), tunnel.remote.to_string());
        let key = |key: Option<u32>| key.map_or_else(String::new, |key| key.to_string());
        let (receive_key, transmit_key) = (key(tunnel.receive_key), key(tunnel.transmit_key));
        let [name, network, tenant] = tunnel_labels(tunnel);
        family.encode_info(&[
            name,
            network,
            tenant,
            ("local", &local),
            ("remote", &remote),
            ("receive_key", &receive_key),
            ("transmit_key", &transmit_key),
        ])?;
    }

    let up = "1 while the layer-2 address towards the tunnel's remote is known, else 0.";
    gauges(
        encoder,
        "gregw_tunnel_up",
        up,
        tunnels
            .iter()
            .map(|tunnel| (tunnel_labels(tunnel), tunnel.state == Carrying::Up)),
    )?;

    traffic(
        encoder,
        "gregw_tunnel",
        ["accepted out of the tunnel", "sent into the tunnel"],
        tunnels
            .iter()
            .map(|tunnel| (tunnel_labels(tunnel), &tunnel.rx, &tunnel.tx)),
    )
}

fn encode_ports(encoder: &mut DescriptorEncoder, ports: &[Port]) -> fmt::Result {
    let up = "1 while the port's device exists, is up and carries the program, else 0.";
    gauges(
        encoder,
        "gregw_port_up",
        up,
        ports
            .iter()
            .map(|port| (port_labels(port), port.state == Carrying::Up)),
    )?;

    traffic(
        encoder,
        "gregw_port",
        [
            "accepted from machines on the port",
            "sent to machines on the port",
        ],
        ports
            .iter()
            .map(|port| (port_labels(port), &port.rx, &port.tx)),
    )
}

fn encode_peerings(encoder: &mut DescriptorEncoder, peerings: &[Peering]) -> fmt::Result {
    let states = [
        PeeringState::Initiated,
        PeeringState::Connected,
        PeeringState::Disconnected,
    ];
    let help = "1 for the state of this side of the peering, 0 for the other states.";
    gauges(
        encoder,
        "gregw_peering_state",
        help,
        peerings.iter().flat_map(|peering| {
            states.into_iter().map(move |state| {
                let labels = [
                    ("network", peering.network.as_str()),
                    ("tenant", &peering.tenant),
                    ("remote", &peering.remote),
                    ("state", state.word()),
                ];
                (labels, peering.state == state)
            })
        }),
    )
}

fn encode_drops(encoder: &mut DescriptorEncoder, drops: &[DropCounter]) -> fmt::Result {
    let help = "IP packets dropped, by reason, and by the tunnel, port or underlay device they are charged to.";
    counters(
        encoder,
        "gregw_drop_packets",
        help,
        drops.iter().map(|drop| {
            let mut labels = vec![
                ("reason", &*drop.reason),
                (drop.owner.word(), &drop.name),
                ("direction", drop.direction.word()),
            ];
            labels.extend(drop.network.as_deref().map(|network| ("network", network)));
            labels.extend(drop.tenant.as_deref().map(|tenant| ("tenant", tenant)));
            (labels, drop.packets)
        }),
    )
}

fn encode_tables(encoder: &mut DescriptorEncoder, tables: &[TableFill]) -> fmt::Result {
    let labels = |fill: &TableFill| [("table", fill.table.to_string())];
    gauges(
        encoder,
        "gregw_table_entries",
        "Entries in use of a table of the data plane.",
        tables.iter().map(|fill| (labels(fill), fill.entries)),
    )?;
    gauges(
        encoder,
        "gregw_table_capacity",
        "Entries that a table of the data plane has room for.",
        tables.iter().map(|fill| (labels(fill), fill.capacity)),
    )
}

fn tunnel_labels(tunnel: &Tunnel) -> [(&str, &str); 3] {
    [
        ("tunnel", &tunnel.name),
        ("network", &tunnel.network),
        ("tenant", &tunnel.tenant),
    ]
}

fn port_labels(port: &Port) -> [(&str, &str); 3] {
    [
        ("port", &port.name),
        ("network", &port.network),
        ("tenant", &port.tenant),
    ]
}

/// Packets and bytes of both directions; `ways` complete "IP packets …", received and sent.
fn traffic<'r, L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    owner: &str,
    ways: [&str; 2],
    samples: impl Iterator<Item = (L, &'r Traffic, &'r Traffic)> + Clone,
) -> fmt::Result {
    let [received, sent] = ways;
    let receive = samples.clone().map(|(labels, rx, _)| (labels, rx));
    one_way(encoder, &format!("{owner}_receive"), received, receive)?;
    let transmit = samples.map(|(labels, _, tx)| (labels, tx));
    one_way(encoder, &format!("{owner}_transmit"), sent, transmit)
}

fn one_way<'r, L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    way: &str,
    samples: impl Iterator<Item = (L, &'r Traffic)> + Clone,
) -> fmt::Result {
    let packets = samples
        .clone()
        .map(|(labels, traffic)| (labels, traffic.packets));
    counters(
        encoder,
        &format!("{name}_packets"),
        &format!("IP packets {way}."),
        packets,
    )?;
    let bytes = samples.map(|(labels, traffic)| (labels, traffic.bytes));
    counters(
        encoder,
        &format!("{name}_bytes"),
        &format!("Bytes of the IP packets {way}."),
        bytes,
    )
}

/// Begins a family whose values are labels.
fn info<'e>(
    encoder: &'e mut DescriptorEncoder,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Info)
}

/// A family of counters; `_total` is added to the name of each.
fn counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        family
            .encode_family(&labels)?
            .encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
    }
    Ok(())
}

/// A family of gauges; a state is 0 or 1.
fn gauges<L: EncodeLabelSet, V: Into<u64>>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (L, V)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        family
            .encode_family(&labels)?
            .encode_gauge::<u64>(&value.into())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use tokio::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_moves_to_an_overlapping_address_without_a_gap_that_anybody_can_use() {
        let (requests, _inbox) = mpsc::channel(1);
        let loopback: SocketAddr = "127.0.0.1:0".parse().expect("valid");
        let first = listen(loopback, None).expect("free");
        let first = Endpoint::serve(first, requests.clone()).expect("served");
        let loopback = first.address();
        let any = SocketAddr::from(([0, 0, 0, 0], loopback.port()));
        let stranger = || std::net::TcpListener::bind(loopback).is_ok();
        assert!(
            listen(any, None).is_err(),
            "who is not asked keeps its port"
        );

        let second = listen(any, Some(&first)).expect("beside it");
        assert!(!stranger() && TcpStream::connect(loopback).is_ok());
        let second = Endpoint::serve(second, requests.clone()).expect("served");
        drop(first);
        // This clock moves on only when no task has anything left to do: the first one's has ended then.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert!(!stranger() && TcpStream::connect(loopback).is_ok());

        // And back again, which a refused configuration takes back at once.
        drop(listen(loopback, Some(&second)).expect("beside it"));
        let third = listen(loopback, Some(&second)).expect("beside it");
        drop(second);
        assert!(!stranger() && TcpStream::connect(loopback).is_ok());
        drop(third);
    }
}
