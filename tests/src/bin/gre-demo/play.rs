//! The demonstration from beginning to end: the daemon, traffic that must arrive, traffic that must not, what gregw
//! shows of it, and the end.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gre_tests::gateway::{Gateway, describe};
use gre_tests::packet::{self, Fields};
use gre_tests::topology::Machine;
use gre_tests::wire::Wire;
use gre_tests::{transfer, wait};

use crate::interrupt::Interrupt;
use crate::places::{Customer, PICTURE, Places};
use crate::script::Script;
use crate::site::{Account, SiteHost};

const CONFIGURATION: &str = include_str!("../../../../dist/examples/demo.toml");
const MEBIBYTE: usize = 1 << 20;
/// What contoso's and fabrikam's sites have in common.
const SAME_SITE: &str = "10.11.30.65";

/// Plays it all; an error if a step failed.
pub(crate) fn run(interrupt: &Interrupt) -> Result<()> {
    let mut script = Script::new(interrupt);
    let left_behind = play(&mut script)?;
    script.step("what is left of programs, maps and namespaces", || {
        left_behind.check()
    })?;
    script.conclude()
}

/// Everything that is dropped, and so taken down, before the last step.
fn play(script: &mut Script<'_>) -> Result<LeftBehind> {
    script.heading("The places")?;
    script.text(PICTURE)?;
    let places = Places::new();
    script.heading("The configuration, dist/examples/demo.toml")?;
    script.text(CONFIGURATION)?;

    script.heading("Gateway and sites")?;
    let gateway = start_gateway(script, &places)?;
    let hosts = start_sites(script, &places)?;

    script.heading("What belongs together is connected")?;
    reach_sites(script, &places)?;
    cross_peering(script, &places)?;
    transfer_files(script, &places)?;

    script.heading("What does not belong together is not")?;
    ask_who_is_there(script, &places)?;
    transfer_at_once(script, &places)?;
    be_refused(script, &places, &gateway)?;

    script.heading("What the sites counted, and what gregw counted")?;
    compare_counters(script, hosts, &gateway)?;
    for object in ["tunnel", "drop", "peering"] {
        script.text(&format!("\n$ gregw show {object}"))?;
        script.text(&gateway.cli_ok(&["show", object]))?;
    }

    script.heading("The end")?;
    let left_behind = LeftBehind::of(&places, &gateway);
    script.step("gregw detach", || {
        let output = gateway.cli(&["detach"]);
        ensure!(output.status.success(), "{}", describe(&output));
        Ok("programs, maps and pins are removed".to_owned())
    })?;
    Ok(left_behind)
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

fn reach_sites(script: &mut Script<'_>, places: &Places) -> Result<()> {
    let pairs = [
        (&places.contoso, SAME_SITE, "key 1001"),
        (&places.fabrikam, SAME_SITE, "key 1002, machine on VLAN 200"),
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
    ensure!(from.namespace.reaches(to, 15), "no answer");
    let answers = from.namespace.ping(to, "-c 3 -i 0.1 -W 1");
    ensure!(answers.received == 3, "{} of 3 answered", answers.received);
    ensure!(answers.ttl == Some(ttl), "TTL {:?}, not {ttl}", answers.ttl);
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
            transfer::tcp(
                &customer.machine.namespace,
                server,
                target,
                16 * MEBIBYTE,
                seed,
            )?;
            let rate = 16.0 / start.elapsed().as_secs_f64();
            Ok(format!("{rate:.0} MiB/s"))
        })?;
    }
    Ok(())
}

/// Both machines connect to the same address and port; whoever accepts says who it is.
fn ask_who_is_there(script: &mut Script<'_>, places: &Places) -> Result<()> {
    let target = SocketAddr::new(address(SAME_SITE)?, 7);
    let customers = [&places.contoso, &places.fabrikam];
    for customer in customers {
        let what = format!("{}'s machine asks {target} who is there", customer.name);
        script.step(&what, || {
            let answer = who_is_there(customer, &customers, target)?;
            ensure!(answer == customer.name, "{answer:?} answered");
            Ok(format!("{answer:?} answered"))
        })?;
    }
    Ok(())
}

fn who_is_there(asking: &Customer, customers: &[&Customer], target: SocketAddr) -> Result<String> {
    let mut listeners = Vec::new();
    for customer in customers {
        let listener = customer.site.namespace.run(|| TcpListener::bind(target))?;
        listener.set_nonblocking(true)?;
        listeners.push((customer.name, listener));
    }
    let limit = Duration::from_secs(2);
    let namespace = &asking.machine.namespace;
    let mut question = namespace.run(|| TcpStream::connect_timeout(&target, limit))?;
    let answered = wait::until(limit, || {
        listeners.iter().any(|(name, listener)| {
            let accepted = listener.accept();
            accepted.is_ok_and(|(mut stream, _)| stream.write_all(name.as_bytes()).is_ok())
        })
    });
    ensure!(answered, "nobody accepted");
    let mut answer = String::new();
    question.set_read_timeout(Some(limit))?;
    question.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Bytes that reached the other customer would not be those that it expects.
fn transfer_at_once(script: &mut Script<'_>, places: &Places) -> Result<()> {
    let target = address(SAME_SITE)?;
    let what = "TCP, both at once, 16 MiB each: 10.10.30.4 -> 10.11.30.65";
    script.step(what, || {
        std::thread::scope(|scope| {
            let transfers =
                [(&places.contoso, 101), (&places.fabrikam, 102)].map(|(customer, seed)| {
                    let (machine, site) = (&customer.machine.namespace, &customer.site.namespace);
                    scope.spawn(move || transfer::tcp(machine, site, target, 16 * MEBIBYTE, seed))
                });
            transfers.into_iter().try_for_each(|transfer| {
                Ok::<_, anyhow::Error>(transfer.join().expect("a transfer does not panic")?)
            })
        })?;
        Ok("each site got the bytes of its own machine".to_owned())
    })
}

fn be_refused(script: &mut Script<'_>, places: &Places, gateway: &Gateway) -> Result<()> {
    let Places {
        contoso,
        fabrikam,
        tailspin,
        northwind,
        ..
    } = places;
    let attempts = [
        ("tailspin pings contoso's site", tailspin, SAME_SITE),
        (
            "northwind pings contoso's site, beyond the peering",
            northwind,
            SAME_SITE,
        ),
        (
            "fabrikam pings northwind, which is contoso's peer",
            fabrikam,
            "10.20.0.4",
        ),
        ("contoso pings tailspin's machine", contoso, "10.40.0.4"),
    ];
    for (what, customer, target) in attempts {
        let target = address(target)?;
        script.step(&format!("{what}: {target}"), || {
            let port = format!("{}-vms", customer.name);
            let drops = || gateway.traffic("port", &port).dropped("no_route");
            let before = drops();
            let answers = customer
                .machine
                .namespace
                .ping(target, "-c 2 -i 0.1 -W 0.5");
            ensure!(answers.received == 0, "{} of 2 answered", answers.received);
            let dropped = drops() - before;
            ensure!(dropped == 2, "{dropped} of 2 counted as dropped");
            Ok("0 of 2 answered, both dropped: no_route".to_owned())
        })?;
    }
    script.step(
        "a stranger sends from 198.51.100.2 with key 9999 to contoso",
        || {
            send_with_wrong_key(places);
            let counted = || -> u64 {
                let drops = gateway.show("drop");
                let unknown = drops.iter().filter(|row| row["reason"] == "unknown_tunnel");
                unknown.filter_map(|row| row["packets"].as_u64()).sum()
            };
            let dropped =
                wait::settled(Duration::from_millis(150), Duration::from_secs(2), counted);
            ensure!(dropped == 1, "{dropped} packets counted as dropped");
            Ok("dropped: unknown_tunnel".to_owned())
        },
    )
}

fn send_with_wrong_key(places: &Places) {
    let from = places.contoso.machine_address(false);
    let inner = packet::udp(from, from, (4000, 9), Fields::default(), b"stranger");
    let mut outer = Vec::new();
    let tunnel = places.shared.tunnel(false).with_key(9999);
    tunnel.encapsulate(&inner, 0, &mut outer);
    let (site, gateway) = (&places.shared.site, &places.shared.gateway);
    Wire::open(site).send(&packet::ethernet(site.mac, gateway.mac, None, &outer));
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

/// What would show that something was not taken down.
struct LeftBehind(Vec<std::path::PathBuf>);

impl LeftBehind {
    fn of(places: &Places, gateway: &Gateway) -> Self {
        let namespaces = places.namespaces();
        let namespaces = namespaces
            .iter()
            .map(|name| Path::new("/run/netns").join(name));
        let socket = Path::new("/run/gregw").join(format!("{}.sock", gateway.instance()));
        Self(namespaces.chain([gateway.pins(), socket]).collect())
    }

    fn check(&self) -> Result<String> {
        let left: Vec<String> = self
            .0
            .iter()
            .filter(|path| path.exists())
            .map(|path| path.display().to_string())
            .collect();
        ensure!(left.is_empty(), "left: {}", left.join(", "));
        Ok("nothing".to_owned())
    }
}

fn address(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| format!("address {text}"))
}
