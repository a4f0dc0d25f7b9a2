//! The cases, each set up on its devices and ready to be measured again and again.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use gre_bench_ebpf::{Counts, Expectation, Head};
use serde::Serialize;

use crate::bed::{Bed, Device};
use crate::gateway::{Gateway, Totals};
use crate::generator::Generator;
use crate::kernel;
use crate::namespace::Namespace;
use crate::programs::Programs;
use crate::scale::{Route, Scale};
use crate::traffic::{Traffic, Trip};

/// What frames meet between the generator and the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(crate) enum Case {
    /// Nothing.
    Sink,
    /// An XDP program that sends them to the other device as they are.
    Redirect,
    /// gregw, which encapsulates them.
    PortToTunnel,
    /// gregw, which decapsulates them.
    TunnelToPort,
    /// gregw, which moves them from one tunnel to another.
    TunnelToTunnel,
    /// The kernel's IP forwarding.
    KernelForward,
    /// The kernel's IP forwarding into its VXLAN device.
    KernelVxlan,
}

impl Case {
    /// Whether gregw is under test.
    pub(crate) const fn is_gateway(self) -> bool {
        matches!(
            self,
            Self::PortToTunnel | Self::TunnelToPort | Self::TunnelToTunnel
        )
    }

    /// What gregw must have counted for `packets` packets.
    fn totals(self, packets: u64) -> Totals {
        let none = Totals::default();
        match self {
            Self::PortToTunnel => Totals {
                from_ports: packets,
                to_tunnels: packets,
                ..none
            },
            Self::TunnelToPort => Totals {
                from_tunnels: packets,
                to_ports: packets,
                ..none
            },
            Self::TunnelToTunnel => Totals {
                from_tunnels: packets,
                to_tunnels: packets,
                ..none
            },
            _ => none,
        }
    }
}

/// A case on its devices.
pub(crate) struct Lane {
    /// The case.
    pub(crate) case: Case,
    namespace: Namespace,
    feed: Device,
    generator: Generator,
    expectation: Expectation,
    gateway: Option<Rc<Gateway>>,
    /// Frames a second that are to be expected.
    rate: f64,
}

/// Frames of which the first rate is told.
const TRIAL: u32 = 1 << 15;
/// The part of the frames that may get lost on the way. More would make the rate that of something else.
const TOLERATED_LOSS: f64 = 1e-3;

impl Lane {
    /// Sets up the given cases; those of gregw share one data plane.
    pub(crate) fn all(programs: &mut Programs, cases: &[Case], scale: Scale) -> Result<Vec<Self>> {
        let routes = scale.routes();
        let mut gateway = None;
        cases
            .iter()
            .map(|case| {
                Self::new(programs, *case, scale, &routes, &mut gateway)
                    .with_context(|| format!("cannot set up {case:?}"))
            })
            .collect()
    }

    /// Bytes of a frame that enters.
    pub(crate) const fn bytes(&self) -> usize {
        self.generator.bytes()
    }

    /// Sends frames for about `time` and returns how many a second arrived.
    ///
    /// # Errors
    /// If not nearly all arrived as they should, or gregw counted something else.
    pub(crate) fn measure(&mut self, programs: &mut Programs, time: Duration) -> Result<f64> {
        self.namespace.enter()?;
        programs.expect(self.expectation)?;
        if self.rate == 0.0 {
            self.rate = self.send(programs, TRIAL)?;
        }
        let least = f64::from(TRIAL) / 16.0;
        let repeat = (self.rate * time.as_secs_f64()).clamp(least, f64::from(u32::MAX));
        self.rate = self.send(programs, repeat as u32)?;
        Ok(self.rate)
    }

    fn send(&mut self, programs: &Programs, repeat: u32) -> Result<f64> {
        let before = programs.counts()?;
        let gateway_before = self.totals()?;
        let rate = self.generator.send(self.feed, repeat)?;
        let arrived = self.arrived(before, programs.counts()?, repeat)?;
        self.check_totals(gateway_before, repeat)?;
        Ok(rate * arrived as f64 / f64::from(repeat))
    }

    fn arrived(&self, before: Counts, after: Counts, sent: u32) -> Result<u64> {
        let unexpected = after.unexpected - before.unexpected;
        if unexpected > 0 {
            bail!(
                "{unexpected} of {sent} frames are not what they should be; the last has {} bytes and begins with\n{}\n\
                 where there should be {} bytes and\n{}\nof which these bits count\n{}",
                after.last_length,
                display(after.last_head),
                self.expectation.length,
                display(self.expectation.value),
                display(self.expectation.mask),
            );
        }
        let arrived = after.expected - before.expected;
        let loss = 1.0 - arrived as f64 / f64::from(sent);
        if loss > TOLERATED_LOSS {
            let drops = self.gateway.as_ref().map(|gateway| gateway.drops());
            bail!(
                "of {sent} frames only {arrived} arrived; gregw's drops: {}",
                drops.transpose()?.unwrap_or_default()
            );
        }
        Ok(arrived)
    }

    fn totals(&self) -> Result<Totals> {
        self.gateway
            .as_ref()
            .map_or_else(|| Ok(Totals::default()), |gateway| gateway.totals())
    }

    /// Losses are in queues in front of gregw or behind, so it may have missed some, but none that it counted half.
    fn check_totals(&self, before: Totals, sent: u32) -> Result<()> {
        let counted = self.totals()?.since(before);
        let packets = counted.greatest();
        let loss = f64::from(sent) - packets as f64;
        ensure!(
            self.gateway.is_none()
                || counted == self.case.totals(packets) && loss <= f64::from(sent) * TOLERATED_LOSS,
            "of {sent} frames gregw counted {counted:?}"
        );
        Ok(())
    }

    fn new(
        programs: &mut Programs,
        case: Case,
        scale: Scale,
        routes: &[Route],
        gateway: &mut Option<(Rc<Gateway>, Rc<Bed>)>,
    ) -> Result<Self> {
        let (gateway, bed) = if case.is_gateway() {
            let (gateway, bed) = shared(programs, scale, gateway)?;
            (Some(gateway), bed)
        } else {
            (None, Rc::new(Bed::new()?))
        };
        let (left, right) = (bed.left, bed.right);
        let traffic = Traffic {
            scale,
            routes,
            left,
            right,
        };
        let (feed, trip) = match case {
            Case::Sink => {
                programs.attach_sink(left.near)?;
                (left.far, traffic.unchanged())
            }
            Case::Redirect => {
                programs.attach_redirect(left.near, right.near)?;
                programs.attach_sink(right.far)?;
                (left.far, traffic.unchanged())
            }
            Case::PortToTunnel => (left.far, traffic.port_to_tunnel()),
            Case::TunnelToPort => (right.far, traffic.tunnel_to_port()),
            Case::TunnelToTunnel => (right.far, traffic.tunnel_to_tunnel()),
            Case::KernelForward => {
                kernel::forward(&bed, routes)?;
                programs.attach_pass(left.near)?;
                programs.attach_sink(right.far)?;
                (left.far, traffic.routed())
            }
            Case::KernelVxlan => {
                kernel::forward_into_vxlan(&bed, routes)?;
                programs.attach_pass(left.near)?;
                programs.attach_sink(right.far)?;
                (left.far, traffic.routed_into_vxlan())
            }
        };
        let Trip { sent, arriving } = trip;
        Ok(Self {
            case,
            namespace: bed.namespace.clone(),
            feed,
            generator: Generator::load(&sent)?,
            expectation: arriving.expectation(),
            gateway,
            rate: 0.0,
        })
    }
}

/// The data plane, once it has been loaded; the calling thread enters its namespace.
fn shared(
    programs: &mut Programs,
    scale: Scale,
    gateway: &mut Option<(Rc<Gateway>, Rc<Bed>)>,
) -> Result<(Rc<Gateway>, Rc<Bed>)> {
    if let Some((gateway, bed)) = gateway {
        bed.namespace.enter()?;
        return Ok((Rc::clone(gateway), Rc::clone(bed)));
    }
    let bed = Rc::new(Bed::new()?);
    let loaded = Rc::new(Gateway::new(&bed, scale)?);
    for device in [bed.left.far, bed.right.far] {
        programs.attach_sink(device)?;
    }
    *gateway = Some((Rc::clone(&loaded), Rc::clone(&bed)));
    Ok((loaded, bed))
}

fn display(head: Head) -> String {
    let lines: Vec<String> = head
        .chunks(2)
        .map(|line| {
            let bytes = line.iter().flat_map(|word| word.to_ne_bytes());
            let bytes: Vec<String> = bytes.map(|byte| format!("{byte:02x}")).collect();
            format!("  {}", bytes.join(" "))
        })
        .collect();
    lines.join("\n")
}
