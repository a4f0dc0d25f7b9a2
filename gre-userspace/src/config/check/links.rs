//! Underlay devices and ports: each device has one role, each port a subnet of its own inside its network.

use std::collections::HashMap;

use ipnet::IpNet;
use toml::Spanned;

use super::{Report, overlaps};
use crate::config::draft::{Drafts, NetworkDraft, PortDraft};

pub(super) fn check(drafts: &Drafts, report: &mut Report<'_>) {
    underlays_are_distinct(drafts, report);
    ports_are_distinct(drafts, report);
    modes_of_a_device_agree(drafts, report);
    for network in &drafts.networks {
        address_space_is_disjoint(network, report);
    }
    subnets_lie_in_their_network(drafts, report);
    subnets_of_a_network_are_disjoint(drafts, report);
    for port in &drafts.ports {
        addresses_of_a_port_are_distinct(port, report);
    }
}

/// A file that was cut off, or is empty, would take all devices from a gateway that runs. What another mistake hides may
/// be the very section that is missing.
pub(super) fn something_is_attached(drafts: &Drafts, report: &mut Report<'_>) {
    let is_idle = drafts.underlays.is_empty() && drafts.ports.is_empty();
    if is_idle && report.mistakes.is_empty() {
        report.wrong(
            &Spanned::new(0..0, ()),
            "the file has neither an [[underlay]] nor a [[port]]: there is no device to work on"
                .to_owned(),
            "add one, or see whether the file was cut off; `gregw detach` stops a gateway",
        );
    }
}

fn underlays_are_distinct(drafts: &Drafts, report: &mut Report<'_>) {
    let mut devices = HashMap::new();
    let mut locals = HashMap::new();
    for underlay in &drafts.underlays {
        if let Some(device) = &underlay.device
            && let Some(first) = devices.insert(device.get_ref(), device)
        {
            report.conflict(
                device,
                first,
                "first stated",
                format!("device `{}` is stated as underlay twice", device.get_ref()),
                "state it once, with all its addresses in `local`",
            );
        }
        for local in underlay.local.iter().flatten() {
            if let Some(first) = locals.insert(local.get_ref(), local) {
                report.conflict(
                    local,
                    first,
                    "first stated",
                    format!(
                        "{}: `local` {} is stated twice",
                        underlay.label,
                        local.get_ref()
                    ),
                    "state each GRE endpoint address once, on the device that has it",
                );
            }
        }
    }
}

fn ports_are_distinct(drafts: &Drafts, report: &mut Report<'_>) {
    let underlays: HashMap<_, _> = drafts
        .underlays
        .iter()
        .filter_map(|underlay| underlay.device.as_ref())
        .map(|device| (device.get_ref(), device))
        .collect();
    let mut ports = HashMap::new();
    for port in &drafts.ports {
        let (Some(device), Some(vlan)) = (&port.device, &port.vlan) else {
            continue;
        };
        let vlan = vlan.as_ref().map(Spanned::get_ref);
        let what = match vlan {
            Some(vlan) => format!("VLAN {vlan} of device `{}`", device.get_ref()),
            None => format!("device `{}` untagged", device.get_ref()),
        };
        if let Some(first) = ports.insert((device.get_ref(), vlan), device) {
            report.conflict(
                device,
                first,
                "the other port",
                format!("{}: {what} is a port already", port.label),
                "give one of the ports another device or `vlan`",
            );
        }
        if vlan.is_none()
            && let Some(underlay) = underlays.get(device.get_ref())
        {
            report.conflict(
                device,
                underlay,
                "the underlay",
                format!("{}: {what} is the underlay", port.label),
                "give the port a `vlan` or another device",
            );
        }
    }
}

/// What an underlay does not state is `auto`, and binds ports on its device; a port that states nothing agrees to all.
fn modes_of_a_device_agree(drafts: &Drafts, report: &mut Report<'_>) {
    let mut stated = HashMap::new();
    for underlay in &drafts.underlays {
        if let (Some(device), Some(mode)) = (&underlay.device, underlay.xdp_mode) {
            stated.insert(device.get_ref(), (mode, device.span()));
        }
    }
    for port in &drafts.ports {
        let (Some(device), Some(Some(mode))) = (&port.device, &port.xdp_mode) else {
            continue;
        };
        let first = stated
            .entry(device.get_ref())
            .or_insert((*mode.get_ref(), mode.span()));
        if first.0 != *mode.get_ref() {
            let first = Spanned::new(first.1.clone(), ());
            report.conflict(
                mode,
                &first,
                "the other statement",
                format!(
                    "{}: `xdp_mode` of device `{}` is stated differently elsewhere",
                    port.label,
                    device.get_ref()
                ),
                "a device has one `xdp_mode`: state the same everywhere, or once",
            );
        }
    }
}

fn address_space_is_disjoint(network: &NetworkDraft, report: &mut Report<'_>) {
    let prefixes = network.address_space.iter().flatten();
    for ((outer, outer_at), (inner, inner_at)) in
        overlaps(prefixes.map(|prefix| (*prefix.get_ref(), prefix)).collect())
    {
        report.conflict(
            inner_at,
            outer_at,
            "the covering prefix",
            format!(
                "{}: {inner} lies in {outer}, which is in `address_space` too",
                network.label
            ),
            format!("remove {inner}"),
        );
    }
}

fn subnets_lie_in_their_network(drafts: &Drafts, report: &mut Report<'_>) {
    let spaces: HashMap<&str, &Vec<Spanned<IpNet>>> = drafts
        .networks
        .iter()
        .filter_map(|network| {
            let name = network.name.as_ref()?.get_ref().as_str();
            Some((name, network.address_space.as_ref()?))
        })
        .collect();
    for port in &drafts.ports {
        let Some(network) = &port.network else {
            continue;
        };
        let name = network.get_ref().as_str();
        let Some(space) = spaces.get(name) else {
            continue;
        };
        for address in port.address.iter().flatten() {
            let subnet = address.get_ref().trunc();
            if space
                .iter()
                .any(|prefix| prefix.get_ref().contains(&subnet))
            {
                continue;
            }
            let space: Vec<String> = space
                .iter()
                .map(|prefix| prefix.get_ref().to_string())
                .collect();
            report.wrong(
                address,
                format!(
                    "{}: subnet {subnet} lies outside the address space of network `{name}` ({})",
                    port.label,
                    space.join(", ")
                ),
                "use an address of that space, or add the subnet to the network's `address_space`",
            );
        }
    }
}

fn subnets_of_a_network_are_disjoint(drafts: &Drafts, report: &mut Report<'_>) {
    type Subnets<'d> = Vec<(IpNet, (&'d PortDraft, &'d Spanned<IpNet>))>;
    let mut networks: HashMap<&str, Subnets<'_>> = HashMap::new();
    for port in &drafts.ports {
        let Some(network) = &port.network else {
            continue;
        };
        let subnets = networks.entry(network.get_ref().as_str()).or_default();
        for address in port.address.iter().flatten() {
            subnets.push((address.get_ref().trunc(), (port, address)));
        }
    }
    for subnets in networks.into_values() {
        for (a, b) in overlaps(subnets) {
            let (mut first, mut second) = (a, b);
            if second.1.1.span().start < first.1.1.span().start {
                std::mem::swap(&mut first, &mut second);
            }
            let ((first_net, (first_port, first_at)), (second_net, (port, second_at))) =
                (first, second);
            // A port may have several addresses of one subnet.
            if std::ptr::eq(first_port, port) {
                continue;
            }
            report.conflict(
                second_at,
                first_at,
                "the other subnet",
                format!(
                    "{}: subnet {second_net} overlaps subnet {first_net}",
                    port.label
                ),
                "give each port of a network a subnet of its own",
            );
        }
    }
}

fn addresses_of_a_port_are_distinct(port: &PortDraft, report: &mut Report<'_>) {
    let mut known = HashMap::new();
    for address in port.address.iter().flatten() {
        if let Some(first) = known.insert(address.get_ref().addr(), address) {
            report.conflict(
                address,
                first,
                "first stated",
                format!(
                    "{}: address {} is stated twice",
                    port.label,
                    address.get_ref().addr()
                ),
                "state each address of a port once",
            );
        }
    }
}
