//! Reports as text: one line an object, aligned columns, no borders, `-` for nothing.
//!
//! Called by `main` without `-j`. No cell but the last of a line holds a space, so that `awk` and `grep` can work on
//! the lines; columns are added to, never renamed.

use std::fmt::Display;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use crate::report::{
    Action, Change, Device, DropCounter, DropsByReason, Member, Neighbour, Network, NextHop,
    Peering, Port, Route, Traffic, Tunnel,
};

/// A report that is one line of a table.
pub trait Row {
    /// Titles of the columns; those that begin with `>` are aligned to the right.
    const COLUMNS: &[&str];

    /// One text for each column.
    fn cells(&self) -> Vec<String>;
}

/// The table of `rows` under its titles, which are there even if no row is.
pub fn table<R: Row>(rows: &[R]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(R::COLUMNS.iter().map(|title| title.trim_start_matches('>')));
    table.add_rows(rows.iter().map(Row::cells));
    for (column, title) in table.column_iter_mut().zip(R::COLUMNS) {
        column.set_padding((0, 2));
        if title.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

/// Changes, one a line, and their number.
pub fn changes(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "no changes\n".to_owned();
    }
    let lines: String = changes.iter().map(change).collect();
    let count = |action| {
        changes
            .iter()
            .filter(|change| change.action == action)
            .count()
    };
    format!(
        "{lines}{} added, {} changed, {} removed\n",
        count(Action::Add),
        count(Action::Change),
        count(Action::Remove),
    )
}

fn change(change: &Change) -> String {
    let sign = match change.action {
        Action::Add => '+',
        Action::Change => '~',
        Action::Remove => '-',
    };
    let Change {
        kind, name, detail, ..
    } = change;
    if detail.is_empty() {
        format!("{sign} {kind} {name}\n")
    } else {
        format!("{sign} {kind} {name}: {detail}\n")
    }
}

impl Row for Tunnel {
    const COLUMNS: &[&str] = &[
        "NAME",
        "TENANT",
        "NETWORK",
        "LOCAL",
        "REMOTE",
        "KEY",
        "STATE",
        ">MTU",
        "DEVICE",
        ">RX-PACKETS",
        ">RX-BYTES",
        ">RX-DROPPED",
        ">TX-PACKETS",
        ">TX-BYTES",
        ">TX-DROPPED",
        "SINCE",
        "REASON",
        "EXPLANATION",
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.name.clone(),
            self.tenant.clone(),
            self.network.clone(),
            self.local.to_string(),
            self.remote.to_string(),
            keys(self.receive_key, self.transmit_key),
            self.state.to_string(),
            self.mtu.to_string(),
            or_dash(self.adjacency.device.as_ref()),
        ];
        cells.extend(traffic(&self.rx, &self.tx));
        cells.extend([
            or_dash(self.since.as_ref()),
            or_dash(self.reason),
            or_dash(self.explanation.as_ref()),
        ]);
        cells
    }
}

impl Row for Network {
    const COLUMNS: &[&str] = &[
        "NAME",
        "TENANT",
        "ADDRESS-SPACE",
        ">PORTS",
        ">TUNNELS",
        ">PEERINGS",
        ">ROUTES",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.tenant.clone(),
            list(&self.address_space),
            self.ports.to_string(),
            self.tunnels.to_string(),
            self.peerings.to_string(),
            self.routes.to_string(),
        ]
    }
}

impl Row for Port {
    const COLUMNS: &[&str] = &[
        "NAME",
        "TENANT",
        "NETWORK",
        "DEVICE",
        "VLAN",
        "ADDRESS",
        "STATE",
        ">MTU",
        ">RX-PACKETS",
        ">RX-BYTES",
        ">RX-DROPPED",
        ">TX-PACKETS",
        ">TX-BYTES",
        ">TX-DROPPED",
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.name.clone(),
            self.tenant.clone(),
            self.network.clone(),
            self.device.clone(),
            or_dash(self.vlan),
            list(&self.address),
            self.state.to_string(),
            or_dash(self.mtu),
        ];
        cells.extend(traffic(&self.rx, &self.tx));
        cells
    }
}

impl Row for Peering {
    const COLUMNS: &[&str] = &[
        "NETWORK",
        "TENANT",
        "REMOTE",
        "STATE",
        "REMOTE-STATE",
        "OPTIONS",
        "REASON",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.network.clone(),
            self.tenant.clone(),
            self.remote.clone(),
            self.state.to_string(),
            or_dash(self.remote_state),
            peering_options(self),
            or_dash(self.reason.as_ref()),
        ]
    }
}

impl Row for Route {
    const COLUMNS: &[&str] = &["NETWORK", "PREFIX", "TYPE", "VIA", "ORIGIN", ">METRIC"];

    fn cells(&self) -> Vec<String> {
        let (kind, via) = next_hop(&self.next_hop);
        vec![
            self.network.clone(),
            self.prefix.to_string(),
            kind.to_owned(),
            via,
            self.origin.to_string(),
            self.metric.to_string(),
        ]
    }
}

impl Row for Neighbour {
    const COLUMNS: &[&str] = &["PORT", "NETWORK", "TENANT", "ADDRESS", "MAC", "STATE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.port.clone(),
            self.network.clone(),
            self.tenant.clone(),
            self.address.to_string(),
            or_dash(self.mac),
            self.state.to_string(),
        ]
    }
}

impl Row for DropCounter {
    const COLUMNS: &[&str] = &[
        "OWNER",
        "NAME",
        "NETWORK",
        "DIRECTION",
        "REASON",
        ">PACKETS",
        "EXPLANATION",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.owner.to_string(),
            self.name.clone(),
            or_dash(self.network.as_ref()),
            self.direction.to_string(),
            self.reason.to_string(),
            self.packets.to_string(),
            self.explanation.to_string(),
        ]
    }
}

impl Row for Device {
    const COLUMNS: &[&str] = &[
        "NAME",
        ">INDEX",
        "ROLES",
        "LOCAL",
        "MAC",
        ">MTU",
        "STATE",
        "MODE",
        ">PROGRAM",
        "REDIRECT",
        ">DROPPED",
        "EXPLANATION",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            or_dash(self.index),
            list(&self.roles),
            list(&self.local),
            or_dash(self.mac),
            or_dash(self.mtu),
            self.state.to_string(),
            or_dash(self.mode),
            or_dash(self.program),
            if self.redirect { "yes" } else { "no" }.to_owned(),
            total(&self.drops).to_string(),
            or_dash(self.explanation.as_ref()),
        ]
    }
}

/// Packets, bytes and drops of both directions.
fn traffic(rx: &Traffic, tx: &Traffic) -> [String; 6] {
    [
        rx.packets, rx.bytes, rx.dropped, tx.packets, tx.bytes, tx.dropped,
    ]
    .map(|count| count.to_string())
}

/// `1001` for both directions, `1001/1002` for receive and transmit.
fn keys(receive: Option<u32>, transmit: Option<u32>) -> String {
    if receive == transmit {
        or_dash(receive)
    } else {
        format!("{}/{}", or_dash(receive), or_dash(transmit))
    }
}

/// The options that are on, by their words in the configuration.
fn peering_options(peering: &Peering) -> String {
    let options = [
        (
            peering.allow_virtual_network_access,
            "virtual_network_access",
        ),
        (peering.allow_forwarded_traffic, "forwarded_traffic"),
        (peering.allow_gateway_transit, "gateway_transit"),
        (peering.use_remote_gateways, "use_remote_gateways"),
    ];
    let on: Vec<_> = options
        .iter()
        .filter(|(is_on, _)| *is_on)
        .map(|(_, name)| *name)
        .collect();
    list(&on)
}

/// Kind and object of a next hop.
fn next_hop(next_hop: &NextHop) -> (&'static str, String) {
    match next_hop {
        NextHop::Local { port } => ("local", port.clone()),
        NextHop::Port { port } => ("port", port.clone()),
        NextHop::Machine { address } => ("machine", address.to_string()),
        NextHop::Tunnel { tunnel } => ("tunnel", tunnel.clone()),
        NextHop::Group { members } => (
            "group",
            list(&members.iter().map(member).collect::<Vec<_>>()),
        ),
        NextHop::Peering { network } => ("peering", network.clone()),
        NextHop::Blackhole => ("blackhole", or_dash(None::<&str>)),
        NextHop::Unreachable => ("unreachable", or_dash(None::<&str>)),
    }
}

/// `hub-branch:2:up`: name, weight and state.
fn member(member: &Member) -> String {
    let Member {
        tunnel,
        weight,
        state,
    } = member;
    format!("{tunnel}:{weight}:{state}")
}

fn total(drops: &DropsByReason) -> u64 {
    drops.values().sum()
}

fn or_dash<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Elements joined by commas.
fn list<T: Display>(elements: &[T]) -> String {
    if elements.is_empty() {
        return or_dash(None::<&str>);
    }
    let texts: Vec<_> = elements.iter().map(T::to_string).collect();
    texts.join(",")
}
