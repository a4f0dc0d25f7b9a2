//! The demonstration from beginning to end: gateway and sites, traffic that arrives (`reach`), traffic that must not
//! (`isolation`), what gregw shows of it, and the end.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use gre_tests::gateway::{Gateway, describe, left_by};

use crate::interrupt::Interrupt;
use crate::places::{PICTURE, Places, SAME_SITE, address};
use crate::script::Script;
use crate::site::{Account, SiteHost};
use crate::{isolation, reach};

const CONFIGURATION: &str = include_str!("../../../../dist/examples/demo.toml");

/// Plays it all; an error if a step failed.
pub(crate) fn run(interrupt: &Interrupt) -> Result<()> {
    let mut script = Script::new(interrupt);
    play(&mut script)?;
    script.step(
        "what is left of programs, maps, files and namespaces",
        look_for_leftovers,
    )?;
    script.conclude()
}

/// Everything that is dropped, and so taken down, before the last step.
fn play(script: &mut Script<'_>) -> Result<()> {
    script.heading("The places")?;
    script.text(PICTURE)?;
    let places = Places::new();
    script.heading("The configuration, dist/examples/demo.toml")?;
    script.text(CONFIGURATION)?;

    script.heading("Gateway and sites")?;
    let gateway = start_gateway(script, &places)?;
    let hosts = start_sites(script, &places)?;

    script.heading("What belongs together is connected")?;
    reach::show(script, &places)?;

    script.heading("What does not belong together is not")?;
    isolation::show(script, &places, &gateway)?;

    script.heading("What the sites counted, and what gregw counted")?;
    let_all_arrive(&places)?;
    compare_counters(script, hosts, &gateway)?;
    for object in ["tunnel", "drop", "peering"] {
        script.text(&format!("\n$ gregw show {object}"))?;
        script.text(&gateway.cli_ok(&["show", object]))?;
    }

    script.heading("The end")?;
    script.step("gregw detach", || {
        let output = gateway.cli(&["detach"]);
        ensure!(output.status.success(), "{}", describe(&output));
        Ok("programs, maps and pins are removed".to_owned())
    })
}

fn start_gateway(script: &mut Script<'_>, places: &Places) -> Result<Gateway> {
    let mut started = None;
    script.step("gregw run -c demo.toml, in the gateway's namespace", || {
        let start = Instant::now();
        let gateway = started.insert(Gateway::start(&places.gateway, CONFIGURATION));
        let took = start.elapsed().as_millis();
        let devices: Vec<String> = gateway
            .show("device")
            .iter()
            .map(|device| device["name"].as_str().unwrap_or("?").to_owned())
            .collect();
        Ok(format!("after {took} ms on {}", devices.join(", ")))
    })?;
    started.context("there is no gateway")
}

fn start_sites(script: &mut Script<'_>, places: &Places) -> Result<Vec<SiteHost>> {
    let Places {
        contoso,
        fabrikam,
        tailspin,
        northwind,
        shared,
        dual_stack,
        ..
    } = places;
    let mut hosts = Vec::new();
    script.step(
        "gre-site: contoso with key 1001, fabrikam with key 1002",
        || {
            hosts.push(SiteHost::start(
                shared,
                &[
                    (
                        &contoso.site,
                        contoso.site.tunnel(shared, false, ",key=1001"),
                    ),
                    (
                        &fabrikam.site,
                        fabrikam.site.tunnel(shared, false, ",key=1002"),
                    ),
                ],
            )?);
            Ok("both from 198.51.100.2".to_owned())
        },
    )?;
    script.step(
        "gre-site: tailspin over IPv6, northwind without a key",
        || {
            let options = ",receive-key=3004,transmit-key=3003,checksum,sequence";
            hosts.push(SiteHost::start(
                dual_stack,
                &[
                    (
                        &tailspin.site,
                        tailspin.site.tunnel(dual_stack, true, options),
                    ),
                    (
                        &northwind.site,
                        northwind.site.tunnel(dual_stack, false, ""),
                    ),
                ],
            )?);
            Ok("from 2001:db8:1::2 and 198.51.101.2".to_owned())
        },
    )?;
    Ok(hosts)
}

/// What ended connections still say is followed by two pings there and back: behind these nothing is under way.
fn let_all_arrive(places: &Places) -> Result<()> {
    let sites = [
        (&places.contoso, SAME_SITE),
        (&places.fabrikam, SAME_SITE),
        (&places.tailspin, "10.41.0.65"),
        (&places.northwind, "10.21.0.65"),
    ];
    for (customer, site) in sites {
        for _ in 0..2 {
            let answer = customer.machine.namespace.ping(address(site)?, "");
            ensure!(answer.received == 1, "{site} does not answer any more");
        }
    }
    Ok(())
}

/// Ends the sites; what they sent is what the gateway received from them, and the other way round.
fn compare_counters(
    script: &mut Script<'_>,
    hosts: Vec<SiteHost>,
    gateway: &Gateway,
) -> Result<()> {
    for host in hosts {
        let report = host.end()?;
        for line in report.lines() {
            script.step(line, || {
                let (customer, account) = Account::parse(line)?;
                let counted = gateway.traffic("tunnel", &format!("{customer}-site"));
                let counted = Account {
                    sent: (counted.rx_packets, counted.rx_bytes),
                    received: (counted.tx_packets, counted.tx_bytes),
                };
                ensure!(counted == account, "gregw counted {counted:?}");
                Ok("gregw counted the same".to_owned())
            })?;
        }
    }
    Ok(())
}

/// Everything that this process has made is named after it.
fn look_for_leftovers() -> Result<String> {
    let left = left_by(std::process::id());
    ensure!(left.is_empty(), "left: {left:?}");
    Ok("nothing".to_owned())
}
