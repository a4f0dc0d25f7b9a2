//! `updates`: how fast tables change. Single routes under traffic, a full table at once, and a whole configuration
//! through the daemon.

use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gre_common::id::{NetworkId, TunnelId};
use gre_common::next_hop::{NextHop, Target};
use gre_userspace::fib::Change;
use ipnet::{IpNet, Ipv4Net};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::bed::Bed;
use crate::case::{Case, Stage, TunnelKind};
use crate::cpu;
use crate::daemon::{Daemon, beside_this, write_file};
use crate::gateway::Gateway;
use crate::lane::Workshop;
use crate::machine::Machine;
use crate::namespace::run;
use crate::programs::Programs;
use crate::scale::{LOCAL_V4, Scale};
use crate::statistics::round;
use crate::tables::Shape;

/// How fast tables change.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct UpdateReport {
    #[serde(flatten)]
    machine: Machine,
    /// Single changes of routes a second while another core forwards as much as it can, with 100 000 routes in 1 000
    /// networks.
    pub(crate) changes_per_second: f64,
    /// Millions of packets a second that were forwarded meanwhile.
    pub(crate) mpps_meanwhile: f64,
    /// Millions of packets a second without changes.
    pub(crate) mpps_alone: f64,
    /// Putting a table as the Internet's routers have in force at once.
    pub(crate) bulk_load: BulkLoad,
    /// From the start of `gregw apply` until all is in force.
    pub(crate) apply: Apply,
}

/// Putting many routes in force at once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BulkLoad {
    /// Routes.
    pub(crate) routes: usize,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// Applying a configuration to a gateway that has none of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Apply {
    /// Tunnels.
    pub(crate) tunnels: u32,
    /// Networks that they belong to.
    pub(crate) networks: u32,
    /// Routes into them.
    pub(crate) routes: u32,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// Tunnels of the configuration that is applied, usually. Single changes meet ten times as many routes, a table that is
/// put in force at once has a hundred times as many.
pub(crate) const TUNNELS: u32 = 10_000;

/// How long single changes go on.
const TIME: Duration = Duration::from_secs(2);
/// Changes between two looks at the clock.
const BATCH: u32 = 100;
const SEED: u64 = 0x6772_6567_772d_6234;
const ROUTES_PER_TUNNEL: u32 = 10;
const TUNNELS_PER_NETWORK: u32 = 10;

/// Measures all of it.
pub(crate) fn measure(programs: &mut Programs, tunnels: u32) -> Result<UpdateReport> {
    eprintln!("bench: single changes, a full table, a configuration");
    let (changes_per_second, mpps_meanwhile, mpps_alone) = single_changes(programs, tunnels)?;
    Ok(UpdateReport {
        machine: Machine::this(),
        changes_per_second: round(changes_per_second, 0),
        mpps_meanwhile: round(mpps_meanwhile / 1e6, 3),
        mpps_alone: round(mpps_alone / 1e6, 3),
        bulk_load: bulk_load(tunnels as usize * 100)?,
        apply: apply(tunnels)?,
    })
}

/// Changes a second, and packets a second with and without them. Every packet is judged: routes beside the changed ones
/// must always hold.
fn single_changes(programs: &mut Programs, tunnels: u32) -> Result<(f64, f64, f64)> {
    let scale = Scale::new(
        tunnels,
        (tunnels / TUNNELS_PER_NETWORK).max(1),
        tunnels * ROUTES_PER_TUNNEL,
    )?;
    let mut workshop = Workshop::new(scale);
    let case = Case::small(Stage::PortToTunnel);
    let lane = workshop.lane(programs, case)?;
    let mut lane = lane.context("there is no data plane")?;
    cpu::stay_on_one()?;
    let alone = lane.measure(programs, TIME)?;
    let mut random = StdRng::seed_from_u64(SEED);
    let mut changes = 0;
    let start = Instant::now();
    let meanwhile = lane.measure_beside(programs, TIME, |gateway| {
        for _ in 0..BATCH {
            let network = NetworkId(random.random_range(0..scale.ports().end));
            gateway.update_routes(network, &[any_change(&mut random)])?;
        }
        changes += BATCH;
        Ok(())
    })?;
    let rate = f64::from(changes) / start.elapsed().as_secs_f64();
    Ok((rate, meanwhile, alone))
}

/// Adds, changes or removes a route where no traffic goes.
fn any_change(random: &mut StdRng) -> Change {
    // Few enough prefixes that those which are there are met again.
    let address = 0x4000_0000 | random.random_range(0..256) << 8;
    let prefix = Ipv4Net::new_assert(address.into(), random.random_range(22..=28)).trunc();
    if random.random_bool(0.4) {
        return Change::Remove(prefix.into());
    }
    Change::Set(prefix.into(), next_hop(random.random_range(0..4)))
}

fn next_hop(tunnel: u32) -> NextHop {
    NextHop::new(Target::Tunnel(TunnelId(tunnel)))
}

fn bulk_load(routes: usize) -> Result<BulkLoad> {
    let gateway = Gateway::new(&Bed::new(1)?, Scale::new(1, 1, 1)?, TunnelKind::Ipv4)?;
    let prefixes: Vec<IpNet> = Shape::GlobalV4.prefixes(routes);
    let changes: Vec<Change> = prefixes
        .into_iter()
        .map(|prefix| Change::Set(prefix, next_hop(0)))
        .collect();
    let start = Instant::now();
    gateway.update_routes(NetworkId(1), &changes)?;
    Ok(BulkLoad {
        routes,
        seconds: round(start.elapsed().as_secs_f64(), 3),
    })
}

/// The daemon answers `apply` when the last entry is written.
fn apply(tunnels: u32) -> Result<Apply> {
    let bed = Bed::new(1)?;
    let device = bed.right.near.name;
    run(&format!("ip address add {LOCAL_V4}/32 dev {device}"))?;
    run(&format!("ip route add 198.18.0.0/15 dev {device}"))?;
    let daemon = Daemon::start(&beside_this()?, "bench", &configuration(device, 0)?)?;
    let full = write_file("full.toml", &configuration(device, tunnels)?)?;
    let start = Instant::now();
    let applied = daemon.command("apply").arg(full).output();
    let output = applied.context("cannot run gregw apply")?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(
        output.status.success(),
        "gregw apply failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(Apply {
        tunnels,
        networks: tunnels.div_ceil(TUNNELS_PER_NETWORK),
        routes: tunnels * ROUTES_PER_TUNNEL,
        seconds: round(seconds, 3),
    })
}

fn configuration(device: &str, tunnels: u32) -> Result<String> {
    let mut text = format!(
        "[[underlay]]\ndevice = \"{device}\"\nlocal = [\"{LOCAL_V4}\"]\n[[tenant]]\nname = \"tenant\"\n"
    );
    for network in 0..tunnels.div_ceil(TUNNELS_PER_NETWORK) {
        write!(
            text,
            "[[network]]\nname = \"network-{network}\"\ntenant = \"tenant\"\naddress_space = [\"10.0.0.0/8\"]\n"
        )?;
    }
    let scale = Scale::new(tunnels.max(1), 1, tunnels.max(1))?;
    for tunnel in 0..tunnels {
        let number = tunnel % TUNNELS_PER_NETWORK;
        let routes: Vec<String> = (0..ROUTES_PER_TUNNEL)
            .map(|route| format!("20.{number}.{route}.0/24"))
            .collect();
        write!(
            text,
            "[[tunnel]]\nname = \"tunnel-{tunnel}\"\nnetwork = \"network-{}\"\nlocal = \"{LOCAL_V4}\"\n\
             remote = \"{}\"\nkey = {}\nroutes = {routes:?}\n",
            tunnel / TUNNELS_PER_NETWORK,
            scale.remote_address(TunnelKind::Ipv4, tunnel),
            scale.receive_key(tunnel),
        )?;
    }
    Ok(text)
}

impl fmt::Display for UpdateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, cpu } = &self.machine;
        writeln!(f, "Linux {kernel}, {cpu}\n")?;
        let line = |name: &str, value: String| format!("{name:<44}{value:>12}\n");
        f.write_str(&line(
            "single changes of routes a second",
            format!("{:.0}", self.changes_per_second),
        ))?;
        f.write_str(&line(
            "Mpps meanwhile",
            format!("{:.3}", self.mpps_meanwhile),
        ))?;
        f.write_str(&line(
            "Mpps without changes",
            format!("{:.3}", self.mpps_alone),
        ))?;
        let BulkLoad { routes, seconds } = &self.bulk_load;
        f.write_str(&line(
            &format!("seconds to load {routes} routes"),
            format!("{seconds:.3}"),
        ))?;
        let Apply {
            tunnels, seconds, ..
        } = &self.apply;
        f.write_str(&line(
            &format!("seconds to apply {tunnels} tunnels"),
            format!("{seconds:.3}"),
        ))
    }
}
