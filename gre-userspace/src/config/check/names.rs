//! Names are unique among their kind, and every reference names something that exists.

use std::collections::HashMap;

use ipnet::IpNet;
use toml::Spanned;

use super::Report;
use crate::config::document::nearest;
use crate::config::draft::{Drafts, Field, NetworkDraft, TunnelDraft};
use crate::config::model::NextHop;
use crate::config::names::Name;

/// What each name of the file means.
pub(super) struct Names<'d> {
    pub(super) networks: HashMap<&'d str, &'d NetworkDraft>,
    tunnels: HashMap<&'d str, &'d TunnelDraft>,
    tenants: HashMap<&'d str, ()>,
    /// Kinds of which a section's own name could not be read: a reference to one may mean that section.
    nameless: Nameless,
}

struct Nameless {
    tenants: bool,
    networks: bool,
    tunnels: bool,
}

impl<'d> Names<'d> {
    /// Collects the names; the second of two equal ones of a kind is wrong.
    pub(super) fn collect(drafts: &'d Drafts, report: &mut Report<'_>) -> Self {
        let tenants = drafts.tenants.iter().map(|d| (d.name.as_ref(), ()));
        let networks = drafts.networks.iter().map(|d| (d.name.as_ref(), d));
        let ports = drafts.ports.iter().map(|d| (d.name.as_ref(), d));
        let tunnels = drafts.tunnels.iter().map(|d| (d.name.as_ref(), d));
        unique("port", ports, report);
        Self {
            tenants: unique("tenant", tenants, report),
            networks: unique("network", networks, report),
            tunnels: unique("tunnel", tunnels, report),
            nameless: Nameless {
                tenants: drafts.tenants.iter().any(|d| d.name.is_none()),
                networks: drafts.networks.iter().any(|d| d.name.is_none()),
                tunnels: drafts.tunnels.iter().any(|d| d.name.is_none()),
            },
        }
    }

    /// Complains about references that lead nowhere.
    pub(super) fn check_references(&self, drafts: &Drafts, report: &mut Report<'_>) {
        for network in &drafts.networks {
            self.tenant(&network.label, &network.tenant, report);
        }
        for port in &drafts.ports {
            self.network(&port.label, &port.network, report);
        }
        for tunnel in &drafts.tunnels {
            self.network(&tunnel.label, &tunnel.network, report);
        }
        for peering in &drafts.peerings {
            self.network(&peering.label, &peering.network, report);
            self.network(&peering.label, &peering.remote, report);
        }
        for route in &drafts.routes {
            self.network(&route.label, &route.network, report);
            let Some(next_hop) = &route.next_hop else {
                continue;
            };
            match next_hop.get_ref() {
                NextHop::Tunnel(name) => {
                    let name = Spanned::new(next_hop.span(), name.clone());
                    self.tunnel(&route.label, &name, report);
                }
                NextHop::Tunnels(members) => {
                    for member in members {
                        self.tunnel(&route.label, &member.name, report);
                    }
                }
                NextHop::Machine(_) | NextHop::Blackhole => {}
            }
        }
    }

    /// The prefixes of a network; none if they or the network are unknown.
    pub(super) fn address_space(&self, network: &str) -> impl Iterator<Item = &'d Spanned<IpNet>> {
        let network = self.networks.get(network).copied();
        let space = network.and_then(|network| network.address_space.as_ref());
        space.into_iter().flatten()
    }

    /// Whether all prefixes of a network are known.
    pub(super) fn has_address_space(&self, network: &str) -> bool {
        let network = self.networks.get(network);
        network.is_some_and(|network| network.address_space.is_some())
    }

    /// The network of a tunnel; `None` if it or the tunnel is unknown.
    pub(super) fn network_of(&self, tunnel: &Name) -> Option<&'d Name> {
        let tunnel = self.tunnels.get(tunnel.as_str())?;
        tunnel.network.as_ref().map(Spanned::get_ref)
    }

    fn tenant(&self, label: &str, reference: &Field<Name>, report: &mut Report<'_>) {
        if let Some(name) = reference
            && !self.nameless.tenants
        {
            resolve("tenant", label, name, &self.tenants, report);
        }
    }

    fn tunnel(&self, label: &str, name: &Spanned<Name>, report: &mut Report<'_>) {
        if !self.nameless.tunnels {
            resolve("tunnel", label, name, &self.tunnels, report);
        }
    }

    fn network(&self, label: &str, reference: &Field<Name>, report: &mut Report<'_>) {
        if let Some(name) = reference
            && !self.nameless.networks
        {
            resolve("network", label, name, &self.networks, report);
        }
    }
}

fn unique<'d, T>(
    kind: &str,
    named: impl Iterator<Item = (Option<&'d Spanned<Name>>, T)>,
    report: &mut Report<'_>,
) -> HashMap<&'d str, T> {
    let mut first: HashMap<&str, &Spanned<Name>> = HashMap::new();
    let mut meaning = HashMap::new();
    for (name, object) in named {
        let Some(name) = name else { continue };
        let text = name.get_ref().as_str();
        if let Some(other) = first.get(text) {
            report.conflict(
                name,
                other,
                "first used",
                format!("two {kind}s are called `{text}`"),
                format!("give each {kind} a name of its own"),
            );
            continue;
        }
        first.insert(text, name);
        meaning.insert(text, object);
    }
    meaning
}

fn resolve<T>(
    kind: &str,
    label: &str,
    name: &Spanned<Name>,
    known: &HashMap<&str, T>,
    report: &mut Report<'_>,
) {
    let text = name.get_ref().as_str();
    if known.contains_key(text) {
        return;
    }
    let mut candidates: Vec<&str> = known.keys().copied().collect();
    candidates.sort_unstable();
    let help = match nearest(text, candidates.into_iter()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add a [[{kind}]] with name = \"{text}\", or name one that exists"),
    };
    report.wrong(name, format!("{label}: there is no {kind} `{text}`"), help);
}
