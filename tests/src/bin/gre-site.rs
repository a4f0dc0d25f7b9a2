//! `gre-site`: a customer's side of GRE tunnels, entirely in userspace, for demonstrations and experiments.
//!
//! Each tunnel joins a TUN device, in a namespace of its own if wanted, to the underlay device in this process's
//! namespace or in `--underlay-netns`. Prints `ready` when all devices are up, runs until SIGINT or SIGTERM, then prints
//! the counters. The devices go away with it.

use std::net::IpAddr;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use gre_tests::gre::{Tos, Tunnel};
use gre_tests::gre_peer::{Counters, Endpoint, Site};
use gre_tests::link::End;
use gre_tests::netns::Handle;
use nix::sys::signal::{SigSet, Signal};

/// Runs GRE tunnels (RFC 2784, RFC 2890) between TUN devices and an underlay device.
#[derive(Parser)]
#[command(name = "gre-site", version)]
struct Arguments {
    /// Network namespace of the underlay device (default: the current one).
    #[arg(long, value_name = "NAME")]
    underlay_netns: Option<String>,

    /// Device over which GRE is exchanged; routes to the remote addresses must exist.
    #[arg(long, value_name = "DEVICE")]
    underlay: String,

    /// A tunnel: comma-separated `tun=DEVICE`, `local=ADDRESS`, `remote=ADDRESS`, and optionally `netns=NAME` (of the
    /// TUN device), `key=N` or `receive-key=N` and `transmit-key=N`, `mtu=BYTES`, `ttl=N`, `tos=N` (default: inherited),
    /// `checksum`, `sequence`. May be given more than once.
    #[arg(long = "tunnel", value_name = "OPTIONS", required = true)]
    tunnels: Vec<TunnelOptions>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gre-site: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    // Blocked before the threads start, so that they inherit it and the signals wait for us.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().context("blocking signals")?;
    let underlay = namespace(arguments.underlay_netns.as_deref())?;
    let sites = arguments
        .tunnels
        .iter()
        .map(TunnelOptions::create)
        .collect::<Result<_>>()?;
    let underlay = End::existing(&underlay, &arguments.underlay)
        .with_context(|| format!("underlay device {}", arguments.underlay))?;
    let endpoint = Endpoint::start(&underlay, sites).context("starting the tunnels")?;
    println!("ready");
    signals.wait().context("waiting for a signal")?;
    report(arguments, &endpoint);
    ensure!(
        !endpoint.has_ended(),
        "the underlay device or a TUN device went away"
    );
    Ok(())
}

fn report(arguments: &Arguments, endpoint: &Endpoint) {
    for (index, options) in arguments.tunnels.iter().enumerate() {
        let Counters {
            sent_packets,
            sent_bytes,
            received_packets,
            received_bytes,
            ..
        } = endpoint.counters(index);
        println!(
            "{}: sent {sent_packets} packets {sent_bytes} bytes, received {received_packets} packets {received_bytes} bytes",
            options.device
        );
    }
    for (reason, packets) in endpoint.refused() {
        println!("refused {packets} packets: {reason}");
    }
}

/// One `--tunnel`.
#[derive(Clone, Debug)]
struct TunnelOptions {
    device: String,
    namespace: Option<String>,
    mtu: u16,
    tunnel: Tunnel,
}

impl TunnelOptions {
    fn create(&self) -> Result<Site> {
        let inside = namespace(self.namespace.as_deref())?;
        Site::with_tun(self.tunnel.clone(), &inside, &self.device, self.mtu)
            .with_context(|| format!("creating TUN device {}", self.device))
    }
}

impl FromStr for TunnelOptions {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (mut device, mut namespace, mut mtu) = (None, None, 1400);
        let (mut local, mut remote): (Option<IpAddr>, Option<IpAddr>) = (None, None);
        let unspecified = IpAddr::from([0, 0, 0, 0]);
        let mut tunnel = Tunnel::new(unspecified, unspecified);
        for option in text.split(',') {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let context = || format!("option {option:?}");
            match name {
                "tun" => device = Some(value.to_owned()),
                "netns" => namespace = Some(value.to_owned()),
                "mtu" => mtu = value.parse().with_context(context)?,
                "local" => local = Some(value.parse().with_context(context)?),
                "remote" => remote = Some(value.parse().with_context(context)?),
                "key" => tunnel = tunnel.with_key(value.parse().with_context(context)?),
                "receive-key" => tunnel.receive_key = Some(value.parse().with_context(context)?),
                "transmit-key" => tunnel.transmit_key = Some(value.parse().with_context(context)?),
                "ttl" => tunnel.ttl = value.parse().with_context(context)?,
                "tos" => tunnel.tos = Tos::Fixed(value.parse().with_context(context)?),
                "checksum" if value.is_empty() => tunnel.checksum = true,
                "sequence" if value.is_empty() => tunnel.sequence = true,
                _ => bail!("unknown option {option:?}; see --help"),
            }
        }
        tunnel.local = local.context("`local=ADDRESS` is missing")?;
        tunnel.remote = remote.context("`remote=ADDRESS` is missing")?;
        ensure!(
            tunnel.local.is_ipv4() == tunnel.remote.is_ipv4(),
            "local {} and remote {} are of different families",
            tunnel.local,
            tunnel.remote
        );
        let device = device.context("`tun=DEVICE` is missing")?;
        Ok(Self {
            device,
            namespace,
            mtu,
            tunnel,
        })
    }
}

fn namespace(name: Option<&str>) -> Result<Handle> {
    match name {
        Some(name) => {
            Handle::open(name).with_context(|| format!("opening network namespace {name}"))
        }
        None => Handle::current().context("opening the current network namespace"),
    }
}
