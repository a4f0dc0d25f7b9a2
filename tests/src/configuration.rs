//! Sections of a gateway's configuration as text; suites concatenate them.
//!
//! They only spell out the contract. A tunnel is written from the peer's side of it, so that the two cannot disagree
//! by a slip of the test.

use std::fmt::Write;

use crate::gre::{Tos, Tunnel};

/// `[gateway]`
pub fn gateway() -> String {
    "[gateway]\nname = \"test\"\n".to_owned()
}

/// `[gateway]` and an `[[underlay]]` that no machine has: valid, for those who do not come as far as looking for devices.
pub fn without_device() -> String {
    gateway() + "[[underlay]]\ndevice = \"missing\"\nlocal = [\"203.0.113.1\"]\n"
}

/// `[[tenant]]` and its only `[[network]]`, of the same name.
pub fn tenant_with_network(name: &str, address_space: &[&str]) -> String {
    format!(
        "[[tenant]]\nname = \"{name}\"\n{}",
        network(name, name, address_space)
    )
}

/// `[[network]]`
pub fn network(name: &str, tenant: &str, address_space: &[&str]) -> String {
    format!(
        "[[network]]\nname = \"{name}\"\ntenant = \"{tenant}\"\naddress_space = {address_space:?}\n"
    )
}

/// `[[port]]`, named as its device, and its VLAN if it has one.
pub fn port(network: &str, device: &str, vlan: Option<u16>, addresses: &[&str]) -> String {
    let name = vlan.map_or_else(|| device.to_owned(), |vlan| format!("{device}-{vlan}"));
    let vlan = vlan.map_or_else(String::new, |vlan| format!("vlan = {vlan}\n"));
    format!(
        "[[port]]\nname = \"{name}\"\nnetwork = \"{network}\"\ndevice = \"{device}\"\n{vlan}address = {addresses:?}\n"
    )
}

/// `[[tunnel]]`, given what the peer has.
pub fn tunnel(name: &str, network: &str, peer: &Tunnel, routes: &[&str]) -> String {
    let mut text = format!(
        "[[tunnel]]\nname = \"{name}\"\nnetwork = \"{network}\"\nlocal = \"{}\"\nremote = \"{}\"\nroutes = {routes:?}\n",
        peer.remote, peer.local
    );
    let mut set = |field: &str, value: String| {
        writeln!(text, "{field} = {value}").expect("a string takes any text");
    };
    match (peer.transmit_key, peer.receive_key) {
        (Some(receive), Some(transmit)) if receive == transmit => set("key", receive.to_string()),
        (receive, transmit) => {
            receive
                .into_iter()
                .for_each(|key| set("receive_key", key.to_string()));
            transmit
                .into_iter()
                .for_each(|key| set("transmit_key", key.to_string()));
        }
    }
    if peer.checksum {
        set("checksum", "true".to_owned());
    }
    if peer.sequence {
        set("sequence", "true".to_owned());
    }
    if peer.ttl != 64 {
        set("ttl", peer.ttl.to_string());
    }
    if let Tos::Fixed(tos) = peer.tos {
        set("tos", tos.to_string());
    }
    text
}

/// `[[peering]]`: one side's statement.
pub fn peering(network: &str, remote: &str) -> String {
    format!("[[peering]]\nnetwork = \"{network}\"\nremote = \"{remote}\"\n")
}

/// `[[route]]`; `next_hop` as TOML.
pub fn route(network: &str, prefix: &str, next_hop: &str) -> String {
    format!("[[route]]\nnetwork = \"{network}\"\nprefix = \"{prefix}\"\nnext_hop = {next_hop}\n")
}
