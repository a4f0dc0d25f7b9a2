//! Tunnels: endpoints are ours and of one family, and what arrives belongs to one tunnel only.

use std::collections::HashMap;
use std::net::IpAddr;

use toml::Spanned;

use super::Report;
use crate::config::draft::{Drafts, TunnelDraft};

pub(super) fn check(drafts: &Drafts, report: &mut Report<'_>) {
    endpoints_fit(drafts, report);
    arriving_packets_belong_to_one_tunnel(drafts, report);
    for tunnel in &drafts.tunnels {
        mtu_leaves_room_for_headers(tunnel, report);
    }
}

fn endpoints_fit(drafts: &Drafts, report: &mut Report<'_>) {
    // With an address missing from the list, "not one of them" could be wrong.
    let is_complete = drafts
        .underlays
        .iter()
        .all(|underlay| underlay.local.is_some());
    let locals = drafts.underlays.iter().flat_map(|underlay| &underlay.local);
    let locals: HashMap<&IpAddr, &Spanned<IpAddr>> = locals
        .flatten()
        .map(|local| (local.get_ref(), local))
        .collect();
    for tunnel in &drafts.tunnels {
        if let Some(local) = &tunnel.local
            && is_complete
            && !locals.contains_key(local.get_ref())
        {
            report.wrong(
                local,
                format!(
                    "{}: `local` {} is no underlay's address",
                    tunnel.label,
                    local.get_ref()
                ),
                "name one of the addresses in `local` of an [[underlay]], or add it there",
            );
        }
        if let (Some(local), Some(remote)) = (&tunnel.local, &tunnel.remote) {
            families_agree(tunnel, local, remote, report);
        }
        if let Some(remote) = &tunnel.remote
            && let Some(own) = locals.get(remote.get_ref())
        {
            report.conflict(
                remote,
                own,
                "the gateway's own",
                format!(
                    "{}: `remote` {} is an address of the gateway itself",
                    tunnel.label,
                    remote.get_ref()
                ),
                "write the address of the other end",
            );
        }
    }
}

fn families_agree(
    tunnel: &TunnelDraft,
    local: &Spanned<IpAddr>,
    remote: &Spanned<IpAddr>,
    report: &mut Report<'_>,
) {
    let family = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let (ours, theirs) = (family(local.get_ref()), family(remote.get_ref()));
    if ours != theirs {
        report.conflict(
            remote,
            local,
            ours,
            format!(
                "{}: `remote` is {theirs} and `local` is {ours}",
                tunnel.label
            ),
            "use two addresses of one family: they stand in one outer header",
        );
    }
}

fn arriving_packets_belong_to_one_tunnel(drafts: &Drafts, report: &mut Report<'_>) {
    let mut known: HashMap<_, &TunnelDraft> = HashMap::new();
    for tunnel in &drafts.tunnels {
        let (Some(local), Some(remote), Some(keys)) = (&tunnel.local, &tunnel.remote, &tunnel.keys)
        else {
            continue;
        };
        let carried = (local.get_ref(), remote.get_ref(), keys.receive);
        let Some(first) = known.insert(carried, tunnel) else {
            continue;
        };
        let key = match keys.receive {
            Some(key) => format!("receive key {key}"),
            None => "no key".to_owned(),
        };
        let here = Spanned::new(tunnel.span.clone(), ());
        report.conflict(
            &here,
            &Spanned::new(first.span.clone(), ()),
            "the other tunnel",
            format!(
                "{}: local {}, remote {} and {key} are those of {} already",
                tunnel.label,
                local.get_ref(),
                remote.get_ref(),
                first.label
            ),
            "give one of the two another `key` or `receive_key`",
        );
    }
}

/// An outer IPv4 packet has at most 65 535 bytes in all, an outer IPv6 packet behind its header (RFC 8200 §3).
fn mtu_leaves_room_for_headers(tunnel: &TunnelDraft, report: &mut Report<'_>) {
    let (Some(Some(mtu)), Some(local)) = (&tunnel.mtu, &tunnel.local) else {
        return;
    };
    let (Some(keys), Some(checksum), Some(sequence)) =
        (tunnel.keys, tunnel.checksum, tunnel.sequence)
    else {
        return;
    };
    let ip = if local.get_ref().is_ipv4() { 20 } else { 0 };
    let fields = [keys.transmit.is_some(), checksum, sequence];
    let headers = ip + 4 + 4 * fields.into_iter().map(u16::from).sum::<u16>();
    let limit = u16::MAX - headers;
    if *mtu.get_ref() > limit {
        report.wrong(
            mtu,
            format!(
                "{}: `mtu` {} leaves no room for the outer headers",
                tunnel.label,
                mtu.get_ref()
            ),
            format!("write at most {limit}, or leave `mtu` out to take what the underlay allows"),
        );
    }
}
