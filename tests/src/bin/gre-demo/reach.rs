//! Traffic that must arrive: pings and TCP to the customers' own sites, and between the two peered networks.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use gre_tests::topology::Machine;
use gre_tests::transfer;

use crate::places::{Places, SAME_SITE, address};
use crate::script::Script;

const TRANSFER: usize = 16 << 20;

pub(crate) fn show(script: &mut Script<'_>, places: &Places) -> Result<()> {
    reach_sites(script, places)?;
    cross_peering(script, places)?;
    transfer_files(script, places)
}

fn reach_sites(script: &mut Script<'_>, places: &Places) -> Result<()> {
    let pairs = [
        (&places.contoso, SAME_SITE, "key 1001"),
        (&places.fabrikam, SAME_SITE, "key 1002, VLAN 200"),
        (&places.tailspin, "10.41.0.65", "IPv4 in GRE in IPv6"),
        (&places.tailspin, "fd00:41::65", "IPv6 in GRE in IPv6"),
        (&places.northwind, "10.21.0.65", "no key"),
    ];
    for (customer, site, note) in pairs {
        let site = address(site)?;
        let what = format!(
            "{} pings its site: {} -> {site}, {note}",
            customer.name,
            customer.machine_address(site.is_ipv6())
        );
        script.step(&what, || ping(&customer.machine, site, 63))?;
    }
    Ok(())
}

fn cross_peering(script: &mut Script<'_>, places: &Places) -> Result<()> {
    let target = places.contoso.machine_address(false);
    let what = format!(
        "northwind pings contoso over the peering: {} -> {target}",
        places.northwind.machine_address(false)
    );
    script.step(&what, || ping(&places.northwind.machine, target, 64))
}

/// Three pings that must all be answered, once the gateway has found the machines; `ttl` is that of the answers.
fn ping(from: &Machine, to: IpAddr, ttl: u8) -> Result<String> {
    ensure!(from.namespace.reaches(to), "no answer");
    for number in 1..=3 {
        let answer = from.namespace.ping(to, "");
        ensure!(answer.received == 1, "ping {number} is not answered");
        ensure!(answer.ttl == Some(ttl), "TTL {:?}, not {ttl}", answer.ttl);
    }
    Ok(format!("3 of 3 answered, TTL {ttl}"))
}

fn transfer_files(script: &mut Script<'_>, places: &Places) -> Result<()> {
    let Places {
        contoso,
        fabrikam,
        tailspin,
        northwind,
        ..
    } = places;
    let transfers = [
        (
            "contoso -> its site",
            contoso,
            &contoso.site.namespace,
            SAME_SITE,
        ),
        (
            "fabrikam -> its site",
            fabrikam,
            &fabrikam.site.namespace,
            SAME_SITE,
        ),
        (
            "tailspin -> its site",
            tailspin,
            &tailspin.site.namespace,
            "fd00:41::65",
        ),
        (
            "northwind -> contoso over the peering",
            northwind,
            &contoso.machine.namespace,
            "10.10.30.4",
        ),
    ];
    for (seed, (what, customer, server, target)) in (0..).zip(transfers) {
        let target = address(target)?;
        script.step(&format!("TCP, 16 MiB, every byte checked: {what}"), || {
            let start = Instant::now();
            transfer::tcp(&customer.machine.namespace, server, target, TRANSFER, seed)?;
            let rate = 16.0 / start.elapsed().as_secs_f64();
            Ok(format!("{rate:.0} MiB/s"))
        })?;
    }
    Ok(())
}
