//! State and counters for Prometheus: `GET /metrics` on the address of `[gateway] metrics`, in OpenMetrics text.
//!
//! Started by the daemon. The counters are read once a scrape, in one request to the gateway; turning them into text
//! runs beside the daemon's thread. Addresses and keys are labels of `_info` metrics only.

use std::fmt;
use std::io;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::api;
use crate::report::{
    DropCounter, Peering, PeeringState, Port, Snapshot, State as Carrying, Traffic, Tunnel,
};
use crate::request::{Request, Requests, ask};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves metrics until `stop`.
pub async fn serve(
    listener: TcpListener,
    requests: Requests,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .with_state(requests);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
}

async fn scrape(State(requests): State<Requests>) -> api::Answer {
    let snapshot = ask(&requests, Request::Snapshot).await?;
    api::encoded(CONTENT_TYPE, move || encode(snapshot)).await
}

/// A snapshot as OpenMetrics text.
fn encode(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        encode_gateway(encoder, &self.gateway)?;
        encode_tunnels(encoder, &self.tunnels)?;
        encode_ports(encoder, &self.ports)?;
        encode_peerings(encoder, &self.peerings)?;
        encode_drops(encoder, &self.drops)
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

/// A family of gauges that are 0 or 1.
fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (L, bool)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        family
            .encode_family(&labels)?
            .encode_gauge(&i64::from(value))?;
    }
    Ok(())
}
