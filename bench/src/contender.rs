//! One of two gateways that are compared: a daemon of some build of gregw, on devices of its own, with its program.
//!
//! The daemon fills its tables itself, from a configuration with one network, one port and one tunnel: how tables look
//! may differ between builds.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::programs::{ProgramFd, ProgramInfo};
use gre_bench_ebpf::{Expectation, SECTION};

use crate::bed::{Bed, Device, display};
use crate::case::TunnelKind;
use crate::daemon::Daemon;
use crate::generator::{Generator, Trial};
use crate::head::is_expected;
use crate::namespace::{run, set};
use crate::programs::Programs;
use crate::scale::{GATEWAY_ADDRESS, MACHINE, SUBNET_LENGTH, Scale, local};

/// A gateway that forwards.
pub(crate) struct Contender {
    /// Its devices.
    pub(crate) bed: Bed,
    /// What the kernel tells about its program.
    pub(crate) program: ProgramInfo,
    daemon: Daemon,
}

/// What a program returns for a frame that goes to another device (linux/bpf.h).
const XDP_REDIRECT: u32 = 4;

/// How long a gateway may take to find its machine and the tunnel's next hop.
const PATIENCE: Duration = Duration::from_secs(20);

impl Contender {
    /// Starts an instance of a build of gregw with tunnels of a kind.
    pub(crate) fn start(
        programs: &mut Programs,
        binary: &Path,
        instance: &str,
        scale: Scale,
        tunnels: TunnelKind,
    ) -> Result<Self> {
        let bed = Bed::new(1)?;
        for far in [bed.left.far, bed.right.far] {
            // Without a program there, a device takes no redirected frames.
            programs.attach_pass(far)?;
        }
        prepare(&bed, scale, tunnels)?;
        let configuration = configuration(&bed, scale, tunnels);
        let daemon = Daemon::start(binary, instance, &configuration)
            .with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self {
            program: daemon.program()?,
            bed,
            daemon,
        })
    }

    /// The descriptor by which the program is run.
    pub(crate) fn program(&self) -> Result<ProgramFd> {
        self.program.fd().context("cannot open gregw's program")
    }

    /// Hands frames to the gateway until it makes of them what it should.
    ///
    /// # Errors
    /// If it does not; with the daemon's log.
    pub(crate) fn wait_until_it_forwards(
        &self,
        programs: &mut Programs,
        generator: &mut Generator,
        feed: Device,
        expectation: &Expectation,
    ) -> Result<()> {
        let frames = 2 * SECTION as u32;
        self.bed.namespace.enter()?;
        generator.hand_to(&self.program()?)?;
        let end = Instant::now() + PATIENCE;
        loop {
            let trial = generator.time(feed, frames, programs.number(frames))?;
            if is_forwarded(&trial, expectation) {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!(
                    "gregw returns {} for frames that it should forward, and leaves {:02x?}; its log:\n{}",
                    trial.verdict,
                    trial.frame,
                    self.daemon.log()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether a gateway sends on what it should.
pub(crate) fn is_forwarded(trial: &Trial, expectation: &Expectation) -> bool {
    trial.verdict == XDP_REDIRECT && is_expected(&trial.frame, expectation)
}

/// Gives the kernel what the daemon asks it for: the gateway's GRE address, a route to the tunnel's remote, and who that
/// is. The machine is the kernel, which answers for its address.
fn prepare(bed: &Bed, scale: Scale, tunnels: TunnelKind) -> Result<()> {
    let (local, remote) = (local(tunnels), scale.remote_address(tunnels, 0));
    let (underlay, router) = (bed.right.near.name, display(bed.right.far.mac));
    let (machines, length) = (bed.left.far.name, SUBNET_LENGTH);
    if local.is_ipv6() {
        run(&format!("ip link set dev {underlay} addrgenmode none"))?;
        set(&format!("ipv6/conf/{underlay}/disable_ipv6"), "0")?;
        run(&format!("ip address add {local}/128 dev {underlay} nodad"))?;
    } else {
        run(&format!("ip address add {local}/32 dev {underlay}"))?;
    }
    run(&format!("ip route add {remote} dev {underlay}"))?;
    run(&format!(
        "ip neighbour add {remote} lladdr {router} dev {underlay} nud permanent"
    ))?;
    run(&format!("ip address add {MACHINE}/{length} dev {machines}"))
}

fn configuration(bed: &Bed, scale: Scale, tunnels: TunnelKind) -> String {
    let routes = scale.routes().into_iter();
    let routes: Vec<String> = routes.map(|route| route.prefix.to_string()).collect();
    format!(
        r#"
        [[underlay]]
        device = "{underlay}"
        local = ["{local}"]
        [[tenant]]
        name = "tenant"
        [[network]]
        name = "network"
        tenant = "tenant"
        address_space = ["10.0.0.0/8"]
        [[port]]
        name = "port"
        network = "network"
        device = "{machines}"
        address = ["{GATEWAY_ADDRESS}/{SUBNET_LENGTH}"]
        [[tunnel]]
        name = "tunnel"
        network = "network"
        local = "{local}"
        remote = "{remote}"
        receive_key = {receive_key}
        transmit_key = {transmit_key}
        checksum = {checksum}
        sequence = {sequence}
        routes = {routes:?}
        "#,
        underlay = bed.right.near.name,
        machines = bed.left.near.name,
        local = local(tunnels),
        remote = scale.remote_address(tunnels, 0),
        receive_key = scale.receive_key(0),
        transmit_key = scale.transmit_key(0),
        checksum = tunnels == TunnelKind::Checksum,
        sequence = tunnels == TunnelKind::Sequence,
    )
}
