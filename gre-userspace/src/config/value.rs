//! Single values of the configuration: each function takes one TOML value and gives a typed one or a [`Complaint`].
//!
//! Called by `draft` through `document::Section`, which adds the place and the object to a complaint.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use gre_common::id::{GreKey, VlanId};
use ipnet::IpNet;
use toml::de::DeValue;

use super::model::{NextHop, Tos, Ttl, Weight, XdpMode};
use super::names::{DeviceName, InvalidName, Name};

/// What is wrong with a value, worded to follow the key's name, and what to write instead.
pub(super) struct Complaint {
    pub(super) problem: String,
    pub(super) help: String,
}

type Checked<T> = Result<T, Complaint>;

pub(super) fn name(value: &DeValue<'_>) -> Checked<Name> {
    let text = string(value, "a name")?;
    Name::new(text).map_err(|error| Complaint {
        problem: not_a_name(text, "name", error),
        help: format!(
            "use 1–{} letters, digits, `.`, `_` and `-`, beginning with a letter or a digit",
            Name::MAX
        ),
    })
}

pub(super) fn device(value: &DeValue<'_>) -> Checked<DeviceName> {
    let text = string(value, "the name of a network device")?;
    DeviceName::new(text).map_err(|error| Complaint {
        problem: not_a_name(text, "device name", error),
        help: format!(
            "use a name that `ip link` shows, at most {} bytes; a VLAN goes into `vlan`",
            DeviceName::MAX
        ),
    })
}

fn not_a_name(text: &str, what: &str, error: InvalidName) -> String {
    format!("is not a {what}: {text:?} {error}")
}

pub(super) fn socket_address(value: &DeValue<'_>) -> Checked<SocketAddr> {
    let text = string(value, "an address with a port")?;
    text.parse().map_err(|_| Complaint {
        problem: format!("is not an address with a port: {text:?}"),
        help: "write for example \"127.0.0.1:9469\" or \"[::1]:9469\"".to_owned(),
    })
}

pub(super) fn xdp_mode(value: &DeValue<'_>) -> Checked<XdpMode> {
    let text = string(value, "\"auto\", \"native\" or \"generic\"")?;
    match text {
        "auto" => Ok(XdpMode::Auto),
        "native" => Ok(XdpMode::Native),
        "generic" => Ok(XdpMode::Generic),
        other => Err(Complaint {
            problem: format!("is not a way to attach XDP: {other:?}"),
            help: "write \"auto\", \"native\" or \"generic\"".to_owned(),
        }),
    }
}

/// A unicast address without prefix length.
pub(super) fn unicast(value: &DeValue<'_>) -> Checked<IpAddr> {
    let text = string(value, "an IP address")?;
    let address = text.parse().map_err(|_| match text.parse::<IpNet>() {
        Ok(net) => Complaint {
            problem: format!("is an address without a prefix length, not {text:?}"),
            help: format!("write \"{}\"", net.addr()),
        },
        Err(_) => Complaint {
            problem: format!("is not an IP address: {text:?}"),
            help: "write for example \"203.0.113.1\" or \"2001:db8::1\"".to_owned(),
        },
    })?;
    refuse_special(address)?;
    Ok(address)
}

/// The gateway's own address on a subnet: a host's address with the subnet's prefix length.
pub(super) fn interface_address(value: &DeValue<'_>) -> Checked<IpNet> {
    let text = string(value, "an address with a prefix length")?;
    let net = net(text)?;
    refuse_special(net.addr())?;
    let router_anycast = net.addr() == net.network() && net.prefix_len() < net.max_prefix_len() - 1;
    if router_anycast {
        return Err(Complaint {
            problem: format!("is the address of the subnet itself: {text}"),
            help: "write one of the subnet's host addresses with the same prefix length".to_owned(),
        });
    }
    if let IpNet::V4(v4) = net
        && v4.prefix_len() < 31
        && v4.addr() == v4.broadcast()
    {
        return Err(Complaint {
            problem: format!("is the broadcast address of {}", v4.trunc()),
            help: "write one of the subnet's host addresses with the same prefix length".to_owned(),
        });
    }
    Ok(net)
}

/// A prefix of unicast addresses without host bits.
pub(super) fn prefix(value: &DeValue<'_>) -> Checked<IpNet> {
    let text = string(value, "a prefix")?;
    let net = net(text)?;
    if net != net.trunc() {
        return Err(Complaint {
            problem: format!("has bits set behind its prefix length: {text}"),
            help: format!(
                "write \"{}\" for the whole network, or \"{}/{}\" for that one address",
                net.trunc(),
                net.addr(),
                net.max_prefix_len()
            ),
        });
    }
    if let Some(special) = special_kind(net.addr())
        && net.prefix_len() >= special.1
    {
        return Err(Complaint {
            problem: format!("is a prefix of {} addresses: {text}", special.0),
            help: "write a prefix of unicast addresses".to_owned(),
        });
    }
    Ok(net)
}

fn net(text: &str) -> Checked<IpNet> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(address) => Complaint {
            problem: format!("has no prefix length: {text}"),
            help: format!(
                "write the length behind a slash, for example \"{address}/{}\"",
                if address.is_ipv4() { 24 } else { 64 }
            ),
        },
        Err(_) => Complaint {
            problem: format!("is not a prefix: {text:?}"),
            help: "write address and length, for example \"10.10.30.0/24\" or \"fd00:10:30::/48\""
                .to_owned(),
        },
    })
}

fn refuse_special(address: IpAddr) -> Checked<()> {
    match special_kind(address) {
        None => Ok(()),
        Some((kind, _)) => Err(Complaint {
            problem: format!("is {kind}, not one host's address: {address}"),
            help: match address.to_canonical() {
                canonical if canonical != address => format!("write \"{canonical}\""),
                _ => "write the unicast address of a host".to_owned(),
            },
        }),
    }
}

/// Addresses that name no host elsewhere, and the length of the prefix that holds all of that kind
/// (RFC 6890 §2.2; 0.0.0.0 and :: alone, since a default route begins there).
fn special_kind(address: IpAddr) -> Option<(&'static str, u8)> {
    if address.is_unspecified() {
        return Some(("unspecified", if address.is_ipv4() { 32 } else { 128 }));
    }
    if address.is_multicast() {
        return Some(("multicast", if address.is_ipv4() { 4 } else { 8 }));
    }
    if address.is_loopback() {
        return Some(("loopback", if address.is_ipv4() { 8 } else { 128 }));
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some(("broadcast", 32)),
        // An IPv4 address in the API of sockets, none that stands in a packet (RFC 4291 §2.5.5.2).
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some(("IPv4-mapped", 96)),
        _ => None,
    }
}

pub(super) fn gre_key(value: &DeValue<'_>) -> Checked<GreKey> {
    integer(value, 0..=u32::MAX.into()).map(|key| GreKey(key as u32))
}

pub(super) fn metric(value: &DeValue<'_>) -> Checked<u32> {
    integer(value, 0..=u32::MAX.into()).map(|metric| metric as u32)
}

pub(super) fn weight(value: &DeValue<'_>) -> Checked<Weight> {
    integer(value, 1..=Weight::MAX.0.into()).map(|weight| Weight(weight as u16))
}

pub(super) fn vlan(value: &DeValue<'_>) -> Checked<VlanId> {
    integer(value, 1..=4094).map(|vlan| VlanId(vlan as u16))
}

/// An inner MTU: every IPv4 link carries 68 bytes (RFC 791 §3.2), no IP packet exceeds 65 535.
pub(super) fn mtu(value: &DeValue<'_>) -> Checked<u16> {
    integer(value, 68..=u16::MAX.into()).map(|mtu| mtu as u16)
}

pub(super) fn ttl(value: &DeValue<'_>) -> Checked<Ttl> {
    inherit_or(value, 1..=255, Ttl::Inherit, |ttl| Ttl::Fixed(ttl as u8))
}

pub(super) fn tos(value: &DeValue<'_>) -> Checked<Tos> {
    inherit_or(value, 0..=255, Tos::Inherit, |tos| Tos::Fixed(tos as u8))
}

fn inherit_or<T>(
    value: &DeValue<'_>,
    range: RangeInclusive<i128>,
    inherit: T,
    fixed: impl Fn(i128) -> T,
) -> Checked<T> {
    if value.as_str() == Some("inherit") {
        return Ok(inherit);
    }
    let wanted = format!("{} or \"inherit\"", integer_within(&range));
    bounded_integer(value, range, &wanted).map(fixed)
}

pub(super) fn boolean(value: &DeValue<'_>) -> Checked<bool> {
    value
        .as_bool()
        .ok_or_else(|| wrong_type(value, "true or false"))
}

/// The next hop of a user-defined route, unless it is a table.
pub(super) fn next_hop(value: &DeValue<'_>) -> Checked<NextHop> {
    const FORMS: &str = "a machine's address, { tunnel = \"…\" } or \"blackhole\"";
    let text = string(value, FORMS)?;
    if text == "blackhole" {
        return Ok(NextHop::Blackhole);
    }
    if text.parse::<IpNet>().is_err() && text.parse::<IpAddr>().is_err() {
        return Err(Complaint {
            problem: format!("must be {FORMS}, not {text:?}"),
            help: match Name::new(text) {
                Ok(_) => format!("for a tunnel write {{ tunnel = \"{text}\" }}"),
                Err(_) => "write for example \"10.10.30.4\"".to_owned(),
            },
        });
    }
    unicast(value).map(NextHop::Machine)
}

fn integer(value: &DeValue<'_>, range: RangeInclusive<i128>) -> Checked<i128> {
    let wanted = integer_within(&range);
    bounded_integer(value, range, &wanted)
}

fn integer_within(range: &RangeInclusive<i128>) -> String {
    format!("an integer from {} to {}", range.start(), range.end())
}

fn bounded_integer(
    value: &DeValue<'_>,
    range: RangeInclusive<i128>,
    wanted: &str,
) -> Checked<i128> {
    let DeValue::Integer(integer) = value else {
        return Err(wrong_type(value, wanted));
    };
    i128::from_str_radix(integer.as_str(), integer.radix())
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| Complaint {
            problem: format!("must be {wanted}, not {integer}"),
            help: format!("write {wanted}"),
        })
}

fn string<'v>(value: &'v DeValue<'_>, wanted: &str) -> Checked<&'v str> {
    value
        .as_str()
        .ok_or_else(|| wrong_type(value, &format!("{wanted} in quotes")))
}

/// `value` is of another TOML type than the `wanted` one.
pub(super) fn wrong_type(value: &DeValue<'_>, wanted: &str) -> Complaint {
    let found = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    let quoted_number = value
        .as_str()
        .filter(|text| text.parse::<i128>().is_ok() || matches!(*text, "true" | "false"));
    Complaint {
        problem: format!("must be {wanted}, not {found}"),
        help: match (value, quoted_number) {
            (_, Some(text)) => format!("remove the quotes: {text}"),
            (DeValue::Integer(number), _) if wanted.starts_with("a name") => {
                format!("put it in quotes: \"{number}\"")
            }
            _ => format!("write {wanted}"),
        },
    }
}
