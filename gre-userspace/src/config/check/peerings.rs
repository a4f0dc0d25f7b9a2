//! Peering statements: one for each ordered pair, between disjoint address spaces, with gateways from one side only.

use std::collections::HashMap;

use ipnet::IpNet;
use toml::Spanned;

use super::names::Names;
use super::{Report, overlap};
use crate::config::draft::{Drafts, PeeringDraft};
use crate::config::names::Name;

pub(super) fn check(drafts: &Drafts, names: &Names<'_>, report: &mut Report<'_>) {
    let statements = pairs(drafts, report);
    for statement in &drafts.peerings {
        if let (Some(network), Some(remote)) = (&statement.network, &statement.remote) {
            peered_spaces_are_disjoint(network, remote, &statements, names, report);
        }
    }
    peers_of_a_network_are_disjoint(drafts, names, report);
    remote_gateways_are_lawful(drafts, &statements, report);
}

type Statements<'d> = HashMap<(&'d str, &'d str), &'d PeeringDraft>;

/// The statements by (network, remote); complains about a second one and about a network peered with itself.
fn pairs<'d>(drafts: &'d Drafts, report: &mut Report<'_>) -> Statements<'d> {
    let mut statements = Statements::new();
    for statement in &drafts.peerings {
        let (Some(network), Some(remote)) = (&statement.network, &statement.remote) else {
            continue;
        };
        let pair = (network.get_ref().as_str(), remote.get_ref().as_str());
        if pair.0 == pair.1 {
            report.wrong(
                remote,
                format!("network `{}` is peered with itself", pair.0),
                "name another network in `remote`, or remove this [[peering]]",
            );
        } else if let Some(first) = statements.get(&pair) {
            report.conflict(
                &Spanned::new(statement.span.clone(), ()),
                &Spanned::new(first.span.clone(), ()),
                "first stated",
                format!("{} is stated twice", statement.label),
                format!(
                    "keep one; the other side is network = \"{}\", remote = \"{}\"",
                    pair.1, pair.0
                ),
            );
        } else {
            statements.insert(pair, statement);
        }
    }
    statements
}

/// Reported once for a pair: at the statement that stands first in the file.
fn peered_spaces_are_disjoint(
    network: &Spanned<Name>,
    remote: &Spanned<Name>,
    statements: &Statements<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) {
    let pair = (network.get_ref().as_str(), remote.get_ref().as_str());
    let said_before = statements
        .get(&(pair.1, pair.0))
        .is_some_and(|other| other.span.start < network.span().start);
    if pair.0 == pair.1 || said_before {
        return;
    }
    for own in names.address_space(pair.0) {
        for theirs in names.address_space(pair.1) {
            let (a, b) = (own.get_ref(), theirs.get_ref());
            if overlap(a, b) {
                report.conflict(
                    remote,
                    theirs,
                    "the overlapping prefix",
                    format!(
                        "peered networks overlap: {a} of `{}` and {b} of `{}`",
                        pair.0, pair.1
                    ),
                    "peer only networks with separate address spaces: renumber one of them",
                );
            }
        }
    }
}

/// Two peers with one prefix would make "which of them?" a matter of chance.
fn peers_of_a_network_are_disjoint(drafts: &Drafts, names: &Names<'_>, report: &mut Report<'_>) {
    type Peers<'d> = Vec<(IpNet, (&'d Spanned<Name>, &'d Spanned<IpNet>))>;
    let mut networks: HashMap<&str, Peers<'_>> = HashMap::new();
    for statement in &drafts.peerings {
        let (Some(network), Some(remote)) = (&statement.network, &statement.remote) else {
            continue;
        };
        let peers = networks.entry(network.get_ref().as_str()).or_default();
        for prefix in names.address_space(remote.get_ref().as_str()) {
            peers.push((*prefix.get_ref(), (remote, prefix)));
        }
    }
    for (network, peers) in networks {
        for (a, b) in super::overlaps(peers) {
            let (mut first, mut second) = (a, b);
            if second.1.0.span().start < first.1.0.span().start {
                std::mem::swap(&mut first, &mut second);
            }
            let ((first_net, (first_peer, _)), (second_net, (second_peer, _))) = (first, second);
            // Within one peer, `address_space` itself is wrong; a repeated statement is, too.
            if first_peer.get_ref() == second_peer.get_ref() {
                continue;
            }
            report.conflict(
                second_peer,
                first_peer,
                "the other peer",
                format!(
                    "peers of network `{network}` overlap: {first_net} of `{}` and {second_net} of `{}`",
                    first_peer.get_ref(),
                    second_peer.get_ref()
                ),
                "a network's peers need separate address spaces: remove one peering or renumber",
            );
        }
    }
}

fn remote_gateways_are_lawful(
    drafts: &Drafts,
    statements: &Statements<'_>,
    report: &mut Report<'_>,
) {
    let tunnels: HashMap<&str, &str> = drafts
        .tunnels
        .iter()
        .filter_map(|tunnel| {
            Some((
                tunnel.network.as_ref()?.get_ref().as_str(),
                tunnel.label.as_str(),
            ))
        })
        .collect();
    let mut users: HashMap<&str, &Spanned<bool>> = HashMap::new();
    for statement in &drafts.peerings {
        let (Some(network), Some(remote)) = (&statement.network, &statement.remote) else {
            continue;
        };
        let Some(stated) = &statement.use_remote_gateways else {
            continue;
        };
        if !stated.get_ref() {
            continue;
        }
        let (network, remote) = (network.get_ref().as_str(), remote.get_ref().as_str());
        if let Some(tunnel) = tunnels.get(network) {
            report.wrong(
                stated,
                format!(
                    "{}: `use_remote_gateways`, but network `{network}` has {tunnel} of its own",
                    statement.label
                ),
                "remove the network's own tunnels, or write use_remote_gateways = false",
            );
        }
        if let Some(first) = users.insert(network, stated) {
            report.conflict(
                stated,
                first,
                "first stated",
                format!(
                    "{}: network `{network}` uses the gateways of another peer already",
                    statement.label
                ),
                "write use_remote_gateways = true in one peering of a network only",
            );
        }
        if let Some(other) = statements.get(&(remote, network))
            && other.allow_gateway_transit == Some(false)
        {
            report.conflict(
                stated,
                &Spanned::new(other.span.clone(), ()),
                "the other side",
                format!("{}: network `{remote}` does not let its peer use its tunnels", statement.label),
                format!("write allow_gateway_transit = true in the [[peering]] of `{remote}` with `{network}`"),
            );
        }
    }
}
