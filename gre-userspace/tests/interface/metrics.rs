//! Metrics over TCP, read back by a strict reader of the OpenMetrics text format.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use gre_userspace::{metrics, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::sample;

/// Families by name.
type Exposition = BTreeMap<String, Family>;

#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    samples: BTreeMap<BTreeMap<String, String>, f64>,
}

#[tokio::test]
async fn a_scrape_holds_every_counter_under_its_documented_name() {
    let exposition = parse(&scrape().await);
    let value =
        |family: &str, labels: &[(&str, &str)]| exposition[family].samples[&labelled(labels)];

    let branch = [
        ("tunnel", "hub-branch"),
        ("network", "contoso-hub"),
        ("tenant", "contoso"),
    ];
    assert_eq!(value("gregw_tunnel_receive_packets", &branch), 1200.0);
    assert_eq!(value("gregw_tunnel_receive_bytes", &branch), 120_000.0);
    assert_eq!(value("gregw_tunnel_transmit_packets", &branch), 1180.0);
    assert_eq!(value("gregw_tunnel_transmit_bytes", &branch), 118_000.0);
    assert_eq!(value("gregw_tunnel_up", &branch), 1.0);

    let unkeyed = [
        ("tunnel", "unkeyed"),
        ("network", "fabrikam-net"),
        ("tenant", "fabrikam"),
    ];
    assert_eq!(value("gregw_tunnel_up", &unkeyed), 0.0);

    let vms = [
        ("port", "hub-vms"),
        ("network", "contoso-hub"),
        ("tenant", "contoso"),
    ];
    assert_eq!(value("gregw_port_receive_packets", &vms), 1180.0);
    assert_eq!(value("gregw_port_receive_bytes", &vms), 118_000.0);
    assert_eq!(value("gregw_port_transmit_packets", &vms), 1197.0);
    assert_eq!(value("gregw_port_transmit_bytes", &vms), 119_700.0);
    assert_eq!(value("gregw_port_up", &vms), 1.0);

    assert_eq!(
        value("gregw_build", &[("version", env!("CARGO_PKG_VERSION"))]),
        1.0
    );
    assert_eq!(value("gregw_gateway", &[("name", "edge-1")]), 1.0);
    let drops = [("table", "drops")];
    assert_eq!(value("gregw_table_entries", &drops), 17.0);
    assert_eq!(value("gregw_table_capacity", &drops), 1_048_576.0);
}

#[tokio::test]
async fn drops_carry_their_owner_direction_and_reason() {
    let exposition = parse(&scrape().await);
    let drops = &exposition["gregw_drop_packets"];
    assert_eq!(drops.kind, "counter");
    assert_eq!(drops.samples.len(), sample::drops().len());
    let on_device = [
        ("reason", "unknown_tunnel"),
        ("device", "eth0"),
        ("direction", "receive"),
    ];
    assert_eq!(drops.samples[&labelled(&on_device)], 12.0);
    let in_network = [
        ("reason", "neighbour_unresolved"),
        ("port", "hub-vms"),
        ("direction", "transmit"),
        ("network", "contoso-hub"),
        ("tenant", "contoso"),
    ];
    assert_eq!(drops.samples[&labelled(&in_network)], 7.0);
}

#[tokio::test]
async fn a_peering_is_in_exactly_one_state() {
    let exposition = parse(&scrape().await);
    let peerings = &exposition["gregw_peering_state"].samples;
    for peering in sample::peerings() {
        let of_peering = peerings.iter().filter(|(labels, _)| {
            labels["network"] == peering.network && labels["remote"] == peering.remote
        });
        let on: Vec<_> = of_peering.filter(|(_, value)| **value == 1.0).collect();
        assert_eq!(on.len(), 1, "{peering:?}");
        assert_eq!(on[0].0["state"], peering.state.word());
    }
    assert_eq!(peerings.len(), 3 * sample::peerings().len());
}

#[tokio::test]
async fn addresses_and_keys_are_labels_of_info_metrics_only() {
    let exposition = parse(&scrape().await);
    let of_info = ["local", "remote", "receive_key", "transmit_key"];
    for tunnel in sample::tunnels() {
        let mut infos = exposition["gregw_tunnel"].samples.keys();
        let info = infos
            .find(|labels| labels["tunnel"] == tunnel.name)
            .expect("an info");
        assert_eq!(info["local"], tunnel.local.to_string());
        assert_eq!(info["remote"], tunnel.remote.to_string());
        let key = |key: Option<u32>| key.map_or_else(String::new, |key| key.to_string());
        assert_eq!(info["receive_key"], key(tunnel.receive_key));
        assert_eq!(info["transmit_key"], key(tunnel.transmit_key));
    }
    // The remote of a peering is a network's name.
    for (name, family) in &exposition {
        let labels = family.samples.keys().flat_map(BTreeMap::keys);
        let labels: BTreeSet<_> = labels
            .filter(|label| of_info.contains(&label.as_str()))
            .collect();
        let is_allowed =
            family.kind == "info" || name == "gregw_peering_state" || labels.is_empty();
        assert!(is_allowed, "{name}: {labels:?}");
    }
}

#[tokio::test]
async fn the_manual_lists_every_metric_and_names_no_other() {
    let exposition = parse(&scrape().await);
    let exported: BTreeSet<String> = exposition
        .iter()
        .map(|(name, family)| name.clone() + suffix(family))
        .collect();
    let manual = include_str!("../../../docs/metrics.md");
    let listed = manual.lines().filter(|line| line.starts_with("| `gregw_"));
    let listed: BTreeSet<String> = listed
        .flat_map(|line| metrics_in(line.split(" | ").next().unwrap_or_default()))
        .collect();
    assert_eq!(listed, exported);
    let others = [
        include_str!("../../../docs/configuration.md"),
        include_str!("../../../docs/operation.md"),
        include_str!("../../../README.md"),
    ];
    for manual in others.into_iter().chain([manual]) {
        let named: BTreeSet<String> = metrics_in(manual).collect();
        let unknown: Vec<_> = named.difference(&exported).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

/// The words of a text that could be names of metrics.
fn metrics_in(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric());
    words
        .filter(|word| word.starts_with("gregw_"))
        .map(str::to_owned)
}

/// The clock moves on only when no task has anything left to do: silence lasts as long as it is borne.
#[tokio::test(start_paused = true)]
async fn who_connects_and_is_silent_has_one_of_few_connections_and_that_for_a_while_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(metrics::serve(
        listener,
        sample::gateway(),
        std::future::pending(),
    ));
    let mut silent = Vec::new();
    for number in 0..server::CONNECTIONS + 32 {
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("a listener");
        if number % 2 == 0 {
            let begun = b"GET /metrics HTTP/1.1\r\nHost: gate";
            stream.write_all(begun).await.expect("an open connection");
        }
        silent.push(stream);
    }

    let mut scraper = tokio::net::TcpStream::connect(address)
        .await
        .expect("a listener");
    let request = "GET /metrics HTTP/1.1\r\nHost: gateway\r\n\r\n";
    scraper
        .write_all(request.as_bytes())
        .await
        .expect("an open connection");
    // The connection that had its answer is one that is silent.
    let answer = read_all(&mut scraper).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for mut stream in silent {
        assert!(!read_all(&mut stream).await.contains(" 200 "));
    }
}

/// What comes until the other end closes, which it does within an hour.
async fn read_all(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    let hour = std::time::Duration::from_secs(3600);
    tokio::time::timeout(hour, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection is closed")
        .expect("without a failure");
    String::from_utf8(bytes).expect("text")
}

/// The body of `GET /metrics`, of which the head has been checked.
async fn scrape() -> String {
    let listener = TcpListener::bind("[::1]:0").await.expect("a free TCP port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(metrics::serve(
        listener,
        sample::gateway(),
        std::future::pending(),
    ));

    tokio::task::spawn_blocking(move || get(address))
        .await
        .expect("no panic")
}

fn get(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("a listener");
    let request = "GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n";
    stream
        .write_all(request.as_bytes())
        .expect("an open connection");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let content_type = "content-type: application/openmetrics-text; version=1.0.0";
    assert!(head.contains(content_type), "{head}");
    body.to_owned()
}

/// What is added to a family's name in its samples.
fn suffix(family: &Family) -> &'static str {
    match family.kind.as_str() {
        "counter" => "_total",
        "info" => "_info",
        "gauge" => "",
        other => panic!("type {other}"),
    }
}

/// Reads OpenMetrics text (<https://prometheus.io/docs/specs/om/open_metrics_spec/>) as far as gregw uses it; panics at
/// whatever the format forbids: a family twice or in pieces, a sample of no family or without its suffix, a series
/// twice, text behind the end.
fn parse(text: &str) -> Exposition {
    let mut families = Exposition::new();
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").expect("an end");
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help");
            current = name.to_owned();
            let family = Family {
                help: help.to_owned(),
                ..Family::default()
            };
            assert!(families.insert(current.clone(), family).is_none(), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let kind = kind
                .strip_prefix(&format!("{current} "))
                .expect("the type of the family");
            families.get_mut(&current).expect("begun").kind = kind.to_owned();
        } else {
            let family = families.get_mut(&current).expect("a sample of a family");
            let suffix = suffix(family);
            let rest = line
                .strip_prefix(&format!("{current}{suffix}{{"))
                .expect(line);
            let (labels, value) = parse_labels(rest);
            let value = value
                .strip_prefix(' ')
                .and_then(|value| value.parse().ok())
                .expect(line);
            assert!(
                family.samples.insert(labels, value).is_none(),
                "twice: {line}"
            );
        }
    }
    assert!(
        families
            .values()
            .all(|family| !family.kind.is_empty() && family.help.ends_with('.'))
    );
    families
}

/// Labels up to the closing brace, and what follows it.
fn parse_labels(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    loop {
        let (name, quoted) = rest.split_once("=\"").expect("a label");
        assert!(
            !name.is_empty() && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'),
            "{name}"
        );
        let (value, behind) = parse_quoted(quoted);
        assert!(
            labels.insert(name.to_owned(), value).is_none(),
            "label {name} twice"
        );
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (labels, behind.strip_prefix('}').expect("a brace")),
        }
    }
}

/// A label's value without its escapes, and what follows its closing quote.
fn parse_quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => match characters.next().expect("an escaped character").1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                other => panic!("escape of {other:?}"),
            },
            other => value.push(other),
        }
    }
    panic!("no closing quote in {text:?}")
}

fn labelled(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    labels.iter().map(owned).collect()
}
