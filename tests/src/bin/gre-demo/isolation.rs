//! Traffic that must not arrive: contoso and fabrikam, who have the same addresses everywhere, never see each other, and
//! what no route or peering allows is dropped and counted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Result, ensure};
use gre_tests::gateway::Gateway;
use gre_tests::packet::{self, Fields};
use gre_tests::transfer;
use gre_tests::wait::{self, PATIENCE};
use gre_tests::wire::Wire;

use crate::places::{Customer, Places, SAME_SITE, address};
use crate::script::Script;

const TRANSFER: usize = 16 << 20;

pub(crate) fn show(script: &mut Script<'_>, places: &Places, gateway: &Gateway) -> Result<()> {
    ask_who_is_there(script, places)?;
    transfer_at_once(script, places)?;
    be_refused(script, places, gateway)?;
    meet_a_stranger(script, places, gateway)
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
    let namespace = &asking.machine.namespace;
    let mut question = namespace.run(|| TcpStream::connect_timeout(&target, PATIENCE))?;
    let answered = wait::until(|| {
        listeners.iter().any(|(name, listener)| {
            let accepted = listener.accept();
            accepted.is_ok_and(|(mut stream, _)| stream.write_all(name.as_bytes()).is_ok())
        })
    });
    ensure!(answered, "nobody accepted");
    let mut answer = String::new();
    question.set_read_timeout(Some(PATIENCE))?;
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
                    scope.spawn(move || transfer::tcp(machine, site, target, TRANSFER, seed))
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
            let machine = &customer.machine.namespace;
            let line = format!("ping -n -c 2 -i 0.1 -W 0.5 {target}");
            ensure!(!machine.try_sh(&line).status.success(), "it answered");
            wait::until(|| drops() >= before + 2);
            let dropped = drops() - before;
            ensure!(dropped == 2, "{dropped} of 2 counted as dropped");
            Ok("0 of 2 answered, both dropped: no_route".to_owned())
        })?;
    }
    Ok(())
}

fn meet_a_stranger(script: &mut Script<'_>, places: &Places, gateway: &Gateway) -> Result<()> {
    script.step(
        "a stranger sends from 198.51.100.2 with key 9999 to contoso",
        || {
            send_with_wrong_key(places);
            let counted = || -> u64 {
                let drops = gateway.show("drop");
                let unknown = drops.iter().filter(|row| row["reason"] == "unknown_tunnel");
                unknown.filter_map(|row| row["packets"].as_u64()).sum()
            };
            places.shared.barrier();
            let dropped = counted();
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
