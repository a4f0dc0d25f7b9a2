//! What the kernel does with the same packets: forwards them from one device to another, or into a VXLAN device.
//!
//! Set up for speed: neighbours are known, no checksums on the outside, no filters. A program that passes everything is
//! on the device where frames come in (without one it would need GRO, which took 5 % more), and the sink takes them out
//! of the kernel by XDP too (a tc program took 10 % more). The routes are those of the gateway, in one table.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::bed::{Bed, display};
use crate::namespace::{run, set};
use crate::scale::{GATEWAY_ADDRESS, LOCAL_V4, Route, SUBNET_LENGTH};
use crate::traffic::{KERNEL_GRE_KEY, KERNEL_REMOTE, VXLAN_MAC, VXLAN_ROUTER_MAC};

/// The next hop of all routes.
const ROUTER: &str = "192.0.2.2";

/// Forwards packets from `left` to `right`.
pub(crate) fn forward(bed: &Bed, routes: &[Route]) -> Result<()> {
    prepare(bed)?;
    run("ip address add 192.0.2.1/24 dev right")?;
    let router = display(bed.right.far.mac);
    run(&format!(
        "ip neighbour add {ROUTER} lladdr {router} dev right"
    ))?;
    add_routes(routes, &format!("via {ROUTER} dev right"))
}

/// Forwards packets from `left` into a VXLAN tunnel over `right`.
pub(crate) fn forward_into_vxlan(bed: &Bed, routes: &[Route]) -> Result<()> {
    prepare(bed)?;
    reach_remote(bed)?;
    let device = display(VXLAN_MAC);
    run(&format!(
        "ip link add tunnel address {device} type vxlan id 1 local {LOCAL_V4} remote {KERNEL_REMOTE} dstport 4789 \
         dev right nolearning noudpcsum"
    ))?;
    run("ip link set dev tunnel up")?;
    run("ip address add 192.0.2.1/24 dev tunnel")?;
    let router = display(VXLAN_ROUTER_MAC);
    run(&format!(
        "ip neighbour add {ROUTER} lladdr {router} dev tunnel"
    ))?;
    run(&format!(
        "bridge fdb add {router} dev tunnel dst {KERNEL_REMOTE}"
    ))?;
    add_routes(routes, &format!("via {ROUTER} dev tunnel"))
}

/// Forwards packets from `left` into a GRE tunnel over `right`. Returns whether the kernel can.
pub(crate) fn forward_into_gre(bed: &Bed, routes: &[Route]) -> Result<bool> {
    prepare(bed)?;
    reach_remote(bed)?;
    let added = run(&format!(
        "ip link add tunnel type gre local {LOCAL_V4} remote {KERNEL_REMOTE} key {KERNEL_GRE_KEY} ttl 64 dev right"
    ));
    if added.is_err() {
        return Ok(false);
    }
    run("ip link set dev tunnel up")?;
    add_routes(routes, "dev tunnel")?;
    Ok(true)
}

/// Makes the tunnel's other end reachable.
fn reach_remote(bed: &Bed) -> Result<()> {
    run(&format!("ip address add {LOCAL_V4}/32 dev right"))?;
    run(&format!("ip route add {KERNEL_REMOTE}/32 dev right"))?;
    let remote = display(bed.right.far.mac);
    run(&format!(
        "ip neighbour add {KERNEL_REMOTE} lladdr {remote} dev right"
    ))
}

fn prepare(bed: &Bed) -> Result<()> {
    set("ipv4/ip_forward", "1")?;
    set("ipv4/conf/all/rp_filter", "0")?;
    set("ipv4/conf/left/rp_filter", "0")?;
    let left = bed.left.near.name;
    run(&format!("ethtool -K {left} gro on"))?;
    run(&format!(
        "ip address add {GATEWAY_ADDRESS}/{SUBNET_LENGTH} dev {left}"
    ))
}

/// Some prefixes are routes of several networks.
fn add_routes(routes: &[Route], next_hop: &str) -> Result<()> {
    let lines: String = routes
        .iter()
        .map(|route| format!("route replace {} {next_hop}\n", route.prefix))
        .collect();
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run `ip -batch -`")?;
    if let Some(mut input) = ip.stdin.take() {
        input
            .write_all(lines.as_bytes())
            .context("cannot write to `ip -batch -`")?;
    }
    ensure!(
        ip.wait()?.success(),
        "`ip -batch -` could not add the kernel's routes"
    );
    Ok(())
}
