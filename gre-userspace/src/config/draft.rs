//! The sections of a file as far as they could be read: a field that is wrong or missing is `None`.
//!
//! Filled here, so that one wrong field does not keep the others from being checked; turned into a [`Config`] when
//! nothing was wrong. Also the list of every section and key there is.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use gre_common::id::VlanId;
use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Reader, Section};
use super::model::{
    Config, Gateway, Keys, Network, NextHop, Peering, Port, Route, Tenant, Tos, Ttl, Tunnel,
    TunnelRoute, Underlay, Weight, WeightedTunnel, XdpMode,
};
use super::names::{DeviceName, Name};
use super::value;
use super::{Diagnostics, Source};

/// A value with its place, or nothing if it was wrong.
pub(super) type Field<T> = Option<Spanned<T>>;
/// Values with their places, or nothing if one was wrong.
pub(super) type List<T> = Option<Vec<Spanned<T>>>;

/// All sections of a file.
pub(super) struct Drafts {
    pub(super) gateway: GatewayDraft,
    pub(super) underlays: Vec<UnderlayDraft>,
    pub(super) tenants: Vec<TenantDraft>,
    pub(super) networks: Vec<NetworkDraft>,
    pub(super) ports: Vec<PortDraft>,
    pub(super) tunnels: Vec<TunnelDraft>,
    pub(super) peerings: Vec<PeeringDraft>,
    pub(super) routes: Vec<RouteDraft>,
}

pub(super) struct GatewayDraft {
    name: Option<Name>,
    metrics: Option<Option<SocketAddr>>,
}

pub(super) struct UnderlayDraft {
    pub(super) label: String,
    pub(super) device: Field<DeviceName>,
    pub(super) local: List<IpAddr>,
    pub(super) xdp_mode: Option<XdpMode>,
}

pub(super) struct TenantDraft {
    pub(super) name: Field<Name>,
}

pub(super) struct NetworkDraft {
    pub(super) label: String,
    pub(super) name: Field<Name>,
    pub(super) tenant: Field<Name>,
    pub(super) address_space: List<IpNet>,
}

pub(super) struct PortDraft {
    pub(super) label: String,
    pub(super) name: Field<Name>,
    pub(super) network: Field<Name>,
    pub(super) device: Field<DeviceName>,
    pub(super) vlan: Option<Option<Spanned<VlanId>>>,
    pub(super) address: List<IpNet>,
    pub(super) xdp_mode: Option<Option<Spanned<XdpMode>>>,
}

pub(super) struct TunnelDraft {
    pub(super) label: String,
    pub(super) span: Range<usize>,
    pub(super) name: Field<Name>,
    pub(super) network: Field<Name>,
    pub(super) local: Field<IpAddr>,
    pub(super) remote: Field<IpAddr>,
    pub(super) keys: Option<Keys>,
    pub(super) checksum: Option<bool>,
    pub(super) sequence: Option<bool>,
    pub(super) mtu: Option<Option<Spanned<u16>>>,
    ttl: Option<Ttl>,
    tos: Option<Tos>,
    pub(super) routes: Option<Vec<TunnelRoute>>,
}

pub(super) struct PeeringDraft {
    pub(super) label: String,
    pub(super) span: Range<usize>,
    pub(super) network: Field<Name>,
    pub(super) remote: Field<Name>,
    allow_virtual_network_access: Option<bool>,
    allow_forwarded_traffic: Option<bool>,
    pub(super) allow_gateway_transit: Option<bool>,
    pub(super) use_remote_gateways: Option<Spanned<bool>>,
}

pub(super) struct RouteDraft {
    pub(super) label: String,
    pub(super) network: Field<Name>,
    pub(super) prefix: Field<IpNet>,
    pub(super) next_hop: Field<NextHop>,
}

/// Reads every section of `root`; what is wrong with single values goes to `mistakes`.
pub(super) fn read(
    source: &Source,
    mut root: DeTable<'_>,
    damage: Vec<Range<usize>>,
    mistakes: &mut Diagnostics,
) -> Drafts {
    const SECTIONS: [&str; 8] = [
        "gateway", "underlay", "tenant", "network", "port", "tunnel", "peering", "route",
    ];
    let mut reader = Reader {
        source,
        damage,
        mistakes,
    };
    let own = reader.take_table(&mut root, "gateway");
    let drafts = Drafts {
        gateway: gateway(reader.section("gateway".to_owned(), own)),
        underlays: sections(&mut reader, &mut root, "underlay", &["device"], underlay),
        tenants: sections(&mut reader, &mut root, "tenant", &["name"], tenant),
        networks: sections(&mut reader, &mut root, "network", &["name"], network),
        ports: sections(&mut reader, &mut root, "port", &["name"], port),
        tunnels: sections(&mut reader, &mut root, "tunnel", &["name"], tunnel),
        peerings: sections(
            &mut reader,
            &mut root,
            "peering",
            &["network", "remote"],
            peering,
        ),
        routes: sections(
            &mut reader,
            &mut root,
            "route",
            &["network", "prefix"],
            route,
        ),
    };
    reader.unknown_keys("unknown section", &root, &SECTIONS);
    drafts
}

/// Reads all sections `[[kind]]`; complaints call each by the values of the keys `called`, else by its number.
fn sections<'i, T>(
    reader: &mut Reader<'_>,
    root: &mut DeTable<'i>,
    kind: &str,
    called: &[&str],
    read: impl Fn(Section<'_, '_, 'i>) -> T,
) -> Vec<T> {
    let tables = reader.take_tables(root, kind);
    let labelled = tables.into_iter().enumerate().map(|(index, table)| {
        let names: Option<Vec<&str>> = called
            .iter()
            .map(|key| {
                table
                    .get_ref()
                    .get(*key)
                    .and_then(|value| value.get_ref().as_str())
            })
            .collect();
        let label = match names {
            Some(names) => format!("{kind} `{}`", names.join(" → ")),
            None => format!("{kind} number {}", index + 1),
        };
        read(reader.section(label, table))
    });
    labelled.collect()
}

fn gateway(mut section: Section<'_, '_, '_>) -> GatewayDraft {
    let draft = GatewayDraft {
        name: section
            .optional("name", value::name)
            .and_then(|name| match name {
                Some(name) => Some(name.into_inner()),
                None => Name::new(Gateway::DEFAULT_NAME).ok(),
            }),
        metrics: section
            .optional("metrics", value::socket_address)
            .map(|metrics| metrics.map(Spanned::into_inner)),
    };
    section.finish();
    draft
}

fn underlay(mut section: Section<'_, '_, '_>) -> UnderlayDraft {
    UnderlayDraft {
        device: section.required("device", "\"eth0\"", value::device),
        local: section.required_list("local", "[\"203.0.113.1\"]", value::unicast),
        xdp_mode: section.defaulted("xdp_mode", XdpMode::default(), value::xdp_mode),
        label: section.finish(),
    }
}

fn tenant(mut section: Section<'_, '_, '_>) -> TenantDraft {
    let draft = TenantDraft {
        name: section.required("name", "\"contoso\"", value::name),
    };
    section.finish();
    draft
}

fn network(mut section: Section<'_, '_, '_>) -> NetworkDraft {
    NetworkDraft {
        name: section.required("name", "\"contoso-hub\"", value::name),
        tenant: section.required("tenant", "\"contoso\"", value::name),
        address_space: section.required_list("address_space", "[\"10.10.30.0/24\"]", value::prefix),
        label: section.finish(),
    }
}

fn port(mut section: Section<'_, '_, '_>) -> PortDraft {
    PortDraft {
        name: section.required("name", "\"hub-vms\"", value::name),
        network: section.required("network", "\"contoso-hub\"", value::name),
        device: section.required("device", "\"eth1\"", value::device),
        vlan: section.optional("vlan", value::vlan),
        address: section.required_list("address", "[\"10.10.30.1/25\"]", value::interface_address),
        xdp_mode: section.optional("xdp_mode", value::xdp_mode),
        label: section.finish(),
    }
}

fn tunnel(mut section: Section<'_, '_, '_>) -> TunnelDraft {
    TunnelDraft {
        span: section.span(),
        name: section.required("name", "\"hub-branch\"", value::name),
        network: section.required("network", "\"contoso-hub\"", value::name),
        local: section.required("local", "\"203.0.113.1\"", value::unicast),
        remote: section.required("remote", "\"198.51.100.7\"", value::unicast),
        keys: keys(&mut section),
        checksum: section.defaulted("checksum", false, value::boolean),
        sequence: section.defaulted("sequence", false, value::boolean),
        mtu: section.optional("mtu", value::mtu),
        ttl: section.defaulted("ttl", Ttl::Fixed(64), value::ttl),
        tos: section.defaulted("tos", Tos::Inherit, value::tos),
        routes: section.optional_elements("routes", tunnel_route),
        label: section.finish(),
    }
}

/// `key` alone, or `receive_key` and `transmit_key` together, or none of the three.
fn keys(section: &mut Section<'_, '_, '_>) -> Option<Keys> {
    let both = section.optional("key", value::gre_key);
    let receive = section.optional("receive_key", value::gre_key);
    let transmit = section.optional("transmit_key", value::gre_key);
    match (both?, receive?, transmit?) {
        (None, None, None) => Some(Keys {
            receive: None,
            transmit: None,
        }),
        (Some(key), None, None) => Some(Keys {
            receive: Some(*key.get_ref()),
            transmit: Some(*key.get_ref()),
        }),
        (None, Some(receive), Some(transmit)) => Some(Keys {
            receive: Some(*receive.get_ref()),
            transmit: Some(*transmit.get_ref()),
        }),
        (Some(key), _, _) => {
            section.complain(
                key.span(),
                "`key` stands beside `receive_key` or `transmit_key`",
                "keep `key` for one key in both directions, or the other two for two keys",
            );
            None
        }
        (None, Some(receive), None) => {
            section.complain(
                receive.span(),
                "`receive_key` without `transmit_key`",
                "add `transmit_key`, or write `key` for one key in both directions",
            );
            None
        }
        (None, None, Some(transmit)) => {
            section.complain(
                transmit.span(),
                "`transmit_key` without `receive_key`",
                "add `receive_key`, or write `key` for one key in both directions",
            );
            None
        }
    }
}

/// An element of `routes`: a prefix, or a table of `prefix`, `metric` and `weight`.
fn tunnel_route<'i>(
    section: &mut Section<'_, '_, 'i>,
    element: Spanned<DeValue<'i>>,
) -> Option<TunnelRoute> {
    let span = element.span();
    match element.into_inner() {
        DeValue::Table(table) => {
            let mut inner = section.inner("route", Spanned::new(span, table));
            let prefix = inner.required("prefix", "\"10.11.0.0/16\"", value::prefix);
            let metric = inner.defaulted("metric", 0, value::metric);
            let weight = inner.defaulted("weight", Weight::default(), value::weight);
            inner.finish();
            Some(TunnelRoute {
                prefix: prefix?,
                metric: metric?,
                weight: weight?,
            })
        }
        other => Some(TunnelRoute {
            prefix: section.checked("routes", &Spanned::new(span, other), value::prefix)?,
            metric: 0,
            weight: Weight::default(),
        }),
    }
}

fn peering(mut section: Section<'_, '_, '_>) -> PeeringDraft {
    PeeringDraft {
        span: section.span(),
        network: section.required("network", "\"contoso-hub\"", value::name),
        remote: section.required("remote", "\"contoso-spoke\"", value::name),
        allow_virtual_network_access: section.defaulted(
            "allow_virtual_network_access",
            true,
            value::boolean,
        ),
        allow_forwarded_traffic: section.defaulted(
            "allow_forwarded_traffic",
            false,
            value::boolean,
        ),
        allow_gateway_transit: section.defaulted("allow_gateway_transit", false, value::boolean),
        use_remote_gateways: section
            .optional("use_remote_gateways", value::boolean)
            .map(|stated| stated.unwrap_or_else(|| Spanned::new(section.span(), false))),
        label: section.finish(),
    }
}

fn route(mut section: Section<'_, '_, '_>) -> RouteDraft {
    RouteDraft {
        network: section.required("network", "\"contoso-spoke\"", value::name),
        prefix: section.required("prefix", "\"0.0.0.0/0\"", value::prefix),
        next_hop: section.required_value("next_hop", "\"10.10.30.4\"", next_hop),
        label: section.finish(),
    }
}

/// A machine, `"blackhole"`, or a table of either `tunnel` or `tunnels`.
fn next_hop<'i>(section: &mut Section<'_, '_, 'i>, value: Spanned<DeValue<'i>>) -> Option<NextHop> {
    let span = value.span();
    let table = match value.into_inner() {
        DeValue::Table(table) => Spanned::new(span.clone(), table),
        other => {
            let next_hop =
                section.checked("next_hop", &Spanned::new(span, other), value::next_hop)?;
            return Some(next_hop.into_inner());
        }
    };
    let mut inner = section.inner("next_hop", table);
    let one = inner.optional("tunnel", value::name);
    let several = inner.optional_list(
        "tunnels",
        "[\"a\", { name = \"b\", weight = 2 }]",
        |list, element| weighted_tunnel(list, element),
    );
    let next_hop = match (one?, several?) {
        (Some(tunnel), None) => Some(NextHop::Tunnel(tunnel.into_inner())),
        (None, Some(tunnels)) => Some(NextHop::Tunnels(tunnels)),
        (Some(_), Some(_)) => {
            inner.complain(
                span,
                "`tunnel` stands beside `tunnels`",
                "keep `tunnel` for one tunnel, or `tunnels` for several",
            );
            None
        }
        // What was meant to be one of the two is complained about below.
        (None, None) if inner.has_unknown_keys() => None,
        (None, None) => {
            inner.complain(
                span,
                "no tunnel is named",
                "write { tunnel = \"name\" }, or { tunnels = [\"one\", \"other\"] }",
            );
            None
        }
    };
    inner.finish();
    next_hop
}

/// An element of `tunnels`: a name, or a table of `name` and `weight`.
fn weighted_tunnel<'i>(
    section: &mut Section<'_, '_, 'i>,
    element: Spanned<DeValue<'i>>,
) -> Option<WeightedTunnel> {
    let span = element.span();
    match element.into_inner() {
        DeValue::Table(table) => {
            let mut inner = section.inner("tunnel", Spanned::new(span, table));
            let name = inner.required("name", "\"hub-branch\"", value::name);
            let weight = inner.defaulted("weight", Weight::default(), value::weight);
            inner.finish();
            Some(WeightedTunnel {
                name: name?,
                weight: weight?,
            })
        }
        other => Some(WeightedTunnel {
            name: section.checked("tunnels", &Spanned::new(span, other), value::name)?,
            weight: Weight::default(),
        }),
    }
}

impl Drafts {
    /// The finished configuration; `None` if a field is missing.
    pub(super) fn complete(self, source: Source) -> Option<Config> {
        Some(Config {
            source,
            gateway: self.gateway.complete()?,
            underlays: all(self.underlays, UnderlayDraft::complete)?,
            tenants: all(self.tenants, |tenant| Some(Tenant { name: tenant.name? }))?,
            networks: all(self.networks, NetworkDraft::complete)?,
            ports: all(self.ports, PortDraft::complete)?,
            tunnels: all(self.tunnels, TunnelDraft::complete)?,
            peerings: all(self.peerings, PeeringDraft::complete)?,
            routes: all(self.routes, RouteDraft::complete)?,
        })
    }
}

fn all<D, T>(drafts: Vec<D>, complete: impl Fn(D) -> Option<T>) -> Option<Vec<T>> {
    drafts.into_iter().map(complete).collect()
}

impl GatewayDraft {
    fn complete(self) -> Option<Gateway> {
        Some(Gateway {
            name: self.name?,
            metrics: self.metrics?,
        })
    }
}

impl UnderlayDraft {
    fn complete(self) -> Option<Underlay> {
        Some(Underlay {
            device: self.device?,
            local: self.local?,
            xdp_mode: self.xdp_mode?,
        })
    }
}

impl NetworkDraft {
    fn complete(self) -> Option<Network> {
        Some(Network {
            name: self.name?,
            tenant: self.tenant?,
            address_space: self.address_space?,
        })
    }
}

impl PortDraft {
    fn complete(self) -> Option<Port> {
        Some(Port {
            name: self.name?,
            network: self.network?,
            device: self.device?,
            vlan: self.vlan?,
            address: self.address?,
            xdp_mode: self.xdp_mode?.map(Spanned::into_inner),
        })
    }
}

impl TunnelDraft {
    fn complete(self) -> Option<Tunnel> {
        Some(Tunnel {
            name: self.name?,
            network: self.network?,
            local: self.local?,
            remote: self.remote?,
            keys: self.keys?,
            checksum: self.checksum?,
            sequence: self.sequence?,
            mtu: self.mtu?,
            ttl: self.ttl?,
            tos: self.tos?,
            routes: self.routes?,
        })
    }
}

impl PeeringDraft {
    fn complete(self) -> Option<Peering> {
        Some(Peering {
            network: self.network?,
            remote: self.remote?,
            allow_virtual_network_access: self.allow_virtual_network_access?,
            allow_forwarded_traffic: self.allow_forwarded_traffic?,
            allow_gateway_transit: self.allow_gateway_transit?,
            use_remote_gateways: self.use_remote_gateways?.into_inner(),
            span: self.span,
        })
    }
}

impl RouteDraft {
    fn complete(self) -> Option<Route> {
        Some(Route {
            network: self.network?,
            prefix: self.prefix?,
            next_hop: self.next_hop?,
        })
    }
}
