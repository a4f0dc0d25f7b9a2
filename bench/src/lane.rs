//! The cases, each set up on its devices and ready to be measured again and again.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gre_bench_ebpf::{Counts, Expectation, Head};

use crate::bed::{Bed, Device};
use crate::case::{Case, Stage, TunnelKind};
use crate::cpu;
use crate::gateway::{Gateway, Totals};
use crate::generator::Generator;
use crate::kernel;
use crate::programs::Programs;
use crate::scale::{Route, Scale};
use crate::traffic::{Traffic, Trip};

/// Where cases are set up.
pub(crate) struct Workshop {
    scale: Scale,
    cores: Cores,
    routes: Vec<Route>,
    settings: HashMap<Kind, Option<Rc<Setting>>>,
}

/// The cores that work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// Generators, each on a core of its own.
    pub(crate) generators: usize,
    /// Receive queues of each device. With fewer than generators, frames get lost where they meet.
    pub(crate) queues: u16,
}

impl Cores {
    /// One does everything.
    pub(crate) const ONE: Self = Self {
        generators: 1,
        queues: 1,
    };
}

/// What cases have to have in common to share a setting: what is under test, which is gregw where there is no stage,
/// and its tunnels.
type Kind = (Option<Stage>, TunnelKind);

/// Devices, and gregw on them if it is under test.
struct Setting {
    gateway: Option<Gateway>,
    bed: Bed,
}

/// A case on its devices.
pub(crate) struct Lane {
    /// The case.
    pub(crate) case: Case,
    setting: Rc<Setting>,
    feed: Device,
    cores: Cores,
    generators: Vec<Generator>,
    expectation: Expectation,
    /// Frames a second that are to be expected.
    rate: f64,
}

/// Frames of which the first rate is told.
const TRIAL: u32 = 1 << 15;
/// The part of the frames that may get lost on the way. More would make the rate that of something else.
const TOLERATED_LOSS: f64 = 1e-3;

impl Lane {
    /// Bytes of a frame that enters.
    pub(crate) fn bytes(&self) -> usize {
        self.generators[0].bytes()
    }

    /// Sends frames for about `time` and returns how many a second arrived.
    ///
    /// # Errors
    /// If not nearly all arrived as they should, or gregw counted something else.
    pub(crate) fn measure(&mut self, programs: &mut Programs, time: Duration) -> Result<f64> {
        self.setting.bed.namespace.enter()?;
        programs.expect(self.expectation)?;
        if self.rate == 0.0 {
            self.rate = self.send(programs, TRIAL)?;
        }
        let least = f64::from(TRIAL) / 16.0;
        let repeat = (self.rate * time.as_secs_f64()).clamp(least, f64::from(u32::MAX));
        self.rate = self.send(programs, repeat as u32)?;
        Ok(self.rate)
    }

    /// Sends frames from the last CPU for about `time`, while this thread calls `meanwhile` again and again on the one
    /// before. Returns how many a second arrived.
    ///
    /// # Errors
    /// As [`Lane::measure`].
    pub(crate) fn measure_beside(
        &mut self,
        programs: &mut Programs,
        time: Duration,
        mut meanwhile: impl FnMut(&Gateway) -> Result<()>,
    ) -> Result<f64> {
        let cpus = cpu::last(2)?;
        cpu::stay_on(cpus[0])?;
        let rate = self.measure(programs, Duration::from_millis(100))?;
        let repeat = (rate * time.as_secs_f64()) as u32;
        let (before, number) = (programs.counts()?, programs.number(repeat));
        let (feed, generator) = (self.feed, &mut self.generators[0]);
        let gateway = self.setting.gateway.as_ref();
        let gateway = gateway.context("there is no data plane")?;
        let rate = thread::scope(|scope| {
            let sending = scope.spawn(move || {
                cpu::stay_on(cpus[1])?;
                generator.send(feed, repeat, number)
            });
            while !sending.is_finished() {
                meanwhile(gateway)?;
            }
            joined(sending)
        })?;
        let arrived = self.arrived(before, programs.counts()?, repeat)?;
        Ok(rate * arrived as f64 / f64::from(repeat))
    }

    fn send(&mut self, programs: &mut Programs, repeat: u32) -> Result<f64> {
        let before = programs.counts()?;
        let gateway_before = self.totals()?;
        let rate = self.send_from_all(programs, repeat)?;
        let sent = repeat * self.generators.len() as u32;
        let arrived = self.arrived(before, programs.counts()?, sent)?;
        self.check_totals(gateway_before, sent)?;
        Ok(rate * arrived as f64 / f64::from(sent))
    }

    /// Returns how many frames a second all generators together have sent.
    fn send_from_all(&mut self, programs: &mut Programs, repeat: u32) -> Result<f64> {
        let feed = self.feed;
        if let [generator] = &mut self.generators[..] {
            return generator.send(feed, repeat, programs.number(repeat));
        }
        let cpus = cpu::last(self.generators.len())?;
        thread::scope(|scope| {
            // Threads begin in the namespace of this one.
            let threads: Vec<_> = self
                .generators
                .iter_mut()
                .zip(cpus)
                .map(|(generator, cpu)| {
                    let first_number = programs.number(repeat);
                    scope.spawn(move || {
                        cpu::stay_on(cpu)?;
                        let _first = cpu::First::new()?;
                        generator.send(feed, repeat, first_number)
                    })
                })
                .collect();
            threads.into_iter().map(joined).sum()
        })
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
        if loss > self.tolerated_loss() {
            let drops = self.setting.gateway.as_ref().map(Gateway::drops);
            bail!(
                "of {sent} frames only {arrived} arrived; gregw's drops: {}",
                drops.transpose()?.unwrap_or_default()
            );
        }
        Ok(arrived)
    }

    fn tolerated_loss(&self) -> f64 {
        if usize::from(self.cores.queues) < self.cores.generators {
            1.0
        } else {
            TOLERATED_LOSS
        }
    }

    fn totals(&self) -> Result<Totals> {
        self.setting
            .gateway
            .as_ref()
            .map_or_else(|| Ok(Totals::default()), Gateway::totals)
    }

    /// Losses are in queues in front of gregw or behind, so it may have missed some, but none that it counted half.
    fn check_totals(&self, before: Totals, sent: u32) -> Result<()> {
        let counted = self.totals()?.since(before);
        let packets = counted.greatest();
        let loss = f64::from(sent) - packets as f64;
        ensure!(
            self.setting.gateway.is_none()
                || counted == self.case.totals(packets)
                    && loss <= f64::from(sent) * self.tolerated_loss(),
            "of {sent} frames gregw counted {counted:?}"
        );
        Ok(())
    }
}

impl Workshop {
    /// An empty one for tables of this size.
    pub(crate) fn new(scale: Scale) -> Self {
        Self {
            scale,
            cores: Cores::ONE,
            routes: scale.routes(),
            settings: HashMap::new(),
        }
    }

    /// With more cores than one.
    pub(crate) fn with_cores(self, cores: Cores) -> Self {
        Self { cores, ..self }
    }

    /// Sets up a case. `None`: the kernel has no such tunnels.
    pub(crate) fn lane(&mut self, programs: &mut Programs, case: Case) -> Result<Option<Lane>> {
        self.set_up(programs, case)
            .with_context(|| format!("cannot set up {case}"))
    }

    fn set_up(&mut self, programs: &mut Programs, case: Case) -> Result<Option<Lane>> {
        let Some(setting) = self.setting(programs, case)? else {
            return Ok(None);
        };
        let (feed, Trip { sent, arriving }) = self.trip(case, &setting.bed);
        Ok(Some(Lane {
            case,
            setting,
            feed,
            cores: self.cores,
            generators: (0..self.cores.generators)
                .map(|_| Generator::load(&sent))
                .collect::<Result<_>>()?,
            expectation: arriving.expectation(),
            rate: 0.0,
        }))
    }

    fn setting(&mut self, programs: &mut Programs, case: Case) -> Result<Option<Rc<Setting>>> {
        let stage = (!case.stage.is_gateway()).then_some(case.stage);
        let kind = (stage, case.tunnels);
        if let Some(setting) = self.settings.get(&kind) {
            return Ok(setting.clone());
        }
        let bed = Bed::new(self.cores.queues)?;
        let gateway = match stage {
            Some(_) => None,
            None => Some(Gateway::new(&bed, self.scale, case.tunnels)?),
        };
        let possible = self.attach(programs, case.stage, &bed)?;
        let setting = possible.then(|| Rc::new(Setting { gateway, bed }));
        self.settings.insert(kind, setting.clone());
        Ok(setting)
    }

    /// Puts sinks on devices, and what is under test unless it is gregw. Returns whether the kernel can do that.
    fn attach(&self, programs: &mut Programs, stage: Stage, bed: &Bed) -> Result<bool> {
        let Bed { left, right, .. } = bed;
        match stage {
            Stage::Sink => {
                programs.attach_sink(left.near)?;
                return Ok(true);
            }
            Stage::PortToTunnel | Stage::TunnelToPort | Stage::TunnelToTunnel => {
                programs.attach_sink(left.far)?;
            }
            Stage::Redirect => programs.attach_redirect(left.near, right.near)?,
            Stage::KernelForward => kernel::forward(bed, &self.routes)?,
            Stage::KernelVxlan => kernel::forward_into_vxlan(bed, &self.routes)?,
            Stage::KernelGre => {
                if !kernel::forward_into_gre(bed, &self.routes)? {
                    return Ok(false);
                }
            }
        }
        if matches!(
            stage,
            Stage::KernelForward | Stage::KernelVxlan | Stage::KernelGre
        ) {
            programs.attach_pass(left.near)?;
        }
        programs.attach_sink(right.far)?;
        Ok(true)
    }

    /// Where frames of a case are fed, and what they are.
    pub(crate) fn trip(&self, case: Case, bed: &Bed) -> (Device, Trip) {
        let traffic = Traffic {
            scale: self.scale,
            routes: &self.routes,
            case,
            left: bed.left,
            right: bed.right,
        };
        let trip = match case.stage {
            Stage::Sink | Stage::Redirect => traffic.unchanged(),
            Stage::PortToTunnel => traffic.port_to_tunnel(),
            Stage::TunnelToPort => traffic.tunnel_to_port(),
            Stage::TunnelToTunnel => traffic.tunnel_to_tunnel(),
            Stage::KernelForward => traffic.routed(),
            Stage::KernelVxlan => traffic.routed_into_vxlan(),
            Stage::KernelGre => traffic.routed_into_gre(),
        };
        let feed = match case.stage {
            Stage::TunnelToPort | Stage::TunnelToTunnel => bed.right.far,
            _ => bed.left.far,
        };
        (feed, trip)
    }
}

/// What a thread returned.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
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
