//! `--check`: whether gregw's programs cost more than the stored figures say.
//!
//! Each case's frames are handed to the program alone, without devices and queues; the quickest thousand in a row of
//! many tell what a packet takes when nothing disturbs it. What making the frame takes is subtracted, and a frame with a
//! bare redirect is the unit, so that the machine's speed cancels out. Where a program and its maps come to lie in
//! memory makes up to a tenth, and a neighbour on the same core more: so the median of several loads is stored, and a
//! figure is exceeded only if three of four loads exceed it, of more loads if that looks so.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::ProgramFd;

use crate::bed::Device;
use crate::budget::{Budget, Comparison, ProgramCost};
use crate::case::{Case, Stage, TunnelKind};
use crate::cpu;
use crate::generator::Generator;
use crate::lane::{Setting, Workshop};
use crate::machine::Machine;
use crate::programs::Programs;
use crate::scale::Scale;
use crate::statistics::{median, quartile};

/// Least and most times that everything is loaded anew.
const LOADS: (u32, u32) = (5, 15);
/// Runs of a program for each load.
const RUNS: u32 = 3;
/// Frames of a run.
const FRAMES: u32 = 1 << 16;

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// What was measured so far.
#[derive(Debug, Default)]
struct Times {
    /// By name: what programs cost, which is the same for each load.
    programs: BTreeMap<String, ProgramCost>,
    /// The least time of a frame with a bare redirect, in nanoseconds.
    redirect: Least,
    /// By case: what a frame takes as a multiple of one with a bare redirect, for each load.
    cases: BTreeMap<String, Vec<f64>>,
}

/// The least of several times, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Least(f64);

/// Measures until no figure in `path` is exceeded, or for good.
///
/// # Errors
/// If a figure is exceeded. Each is named.
pub(crate) fn run(programs: &mut Programs, path: &Path) -> Result<()> {
    let stored = Budget::stored(path)?;
    let mut times = Times::default();
    for load in 1.. {
        measure(programs, &mut times)?;
        let comparisons = times.summary(quartile).beside(&stored);
        let mut exceeded = comparisons.iter().filter(|it| it.is_exceeded()).peekable();
        let is_certain = exceeded.peek().is_none() || exceeded.any(|it| it.exact);
        if load >= LOADS.1 || load >= LOADS.0 && is_certain {
            return judge(&comparisons, path);
        }
    }
    Ok(())
}

/// Stores in `path` what everything costs.
pub(crate) fn save(programs: &mut Programs, path: &Path) -> Result<()> {
    let mut times = Times::default();
    for _ in 0..LOADS.1 {
        measure(programs, &mut times)?;
    }
    times.summary(median).save(path)
}

/// Loads everything anew, and measures each case.
fn measure(programs: &mut Programs, times: &mut Times) -> Result<()> {
    cpu::stay_on_one()?;
    let mut workshop = Workshop::new(Scale::new(1, 1, 10)?);
    for tunnels in TunnelKind::ALL {
        let setting = workshop.gateway(programs, tunnels)?;
        times.programs = program_costs(&setting)?;
        for case in cases(tunnels) {
            measure_case(programs, &workshop, &setting, case, times)
                .with_context(|| case.to_string())?;
        }
    }
    Ok(())
}

/// Small packets each way, and large ones where their size counts.
fn cases(tunnels: TunnelKind) -> Vec<Case> {
    let small = Stage::GATEWAY.map(|stage| Case {
        tunnels,
        ..Case::small(stage)
    });
    let large = Case {
        size: 1400,
        ..small[0]
    };
    let sums_up = tunnels == TunnelKind::Checksum;
    small.into_iter().chain(sums_up.then_some(large)).collect()
}

fn program_costs(setting: &Setting) -> Result<BTreeMap<String, ProgramCost>> {
    let gateway = setting.gateway.as_ref().context("there is no gateway")?;
    let cost = |(name, info): &(&str, aya::programs::ProgramInfo)| {
        let verified_instructions = info.verified_instruction_count().with_context(
            || "the kernel does not tell how many instructions it verified (5.16 does)",
        )?;
        let jited_bytes = info.size_jitted();
        ensure!(
            jited_bytes > 0,
            "{name} is interpreted: net.core.bpf_jit_enable is 0"
        );
        let cost = ProgramCost {
            verified_instructions,
            jited_bytes,
        };
        Ok(((*name).to_owned(), cost))
    };
    gateway.programs().iter().map(cost).collect()
}

fn measure_case(
    programs: &mut Programs,
    workshop: &Workshop,
    setting: &Rc<Setting>,
    case: Case,
    times: &mut Times,
) -> Result<()> {
    let bed = &setting.bed;
    let gateway = setting.gateway.as_ref().context("there is no gateway")?;
    let (feed, trip) = workshop.trip(case, bed);
    let device = bed.near_end(feed);
    programs.aim_redirect(bed.right.near)?;
    let trial = |under_test: &ProgramFd| {
        let mut generator = Generator::load(&trip.sent)?;
        generator.hand_to(under_test)?;
        Ok::<_, anyhow::Error>(generator)
    };
    let mut gregw = trial(&gateway.programs()[0].1.fd()?)?;
    let mut empty = trial(programs.program("empty")?)?;
    let mut redirect = trial(programs.program("redirect")?)?;
    let [mut total, mut base, mut unit] = [Least::default(); 3];
    for _ in 0..RUNS {
        total.update(time(programs, &mut gregw, device, XDP_REDIRECT)?);
        base.update(time(programs, &mut empty, device, XDP_PASS)?);
        unit.update(time(programs, &mut redirect, device, XDP_REDIRECT)?);
    }
    times.redirect.update(unit.0);
    let ratio = (total.0 - base.0) / unit.0;
    times.cases.entry(case.to_string()).or_default().push(ratio);
    Ok(())
}

fn time(
    programs: &mut Programs,
    generator: &mut Generator,
    device: Device,
    expected: u32,
) -> Result<f64> {
    let (time, verdict) = generator.time(device, FRAMES, programs.number(FRAMES))?;
    ensure!(
        verdict == expected,
        "the program returned {verdict}, not {expected}"
    );
    Ok(time)
}

impl Times {
    /// All figures; of several times of one case, `figure` makes one.
    fn summary(&self, figure: fn(&[f64]) -> f64) -> Budget {
        let cases = self.cases.iter();
        Budget {
            machine: Machine::this(),
            programs: self.programs.clone(),
            redirect: self.redirect.0,
            time: cases
                .map(|(name, ratios)| (name.clone(), figure(ratios)))
                .collect(),
        }
    }
}

impl Default for Least {
    fn default() -> Self {
        Self(f64::INFINITY)
    }
}

impl Least {
    fn update(&mut self, value: f64) {
        self.0 = self.0.min(value);
    }
}

fn judge(comparisons: &[Comparison], path: &Path) -> Result<()> {
    println!(
        "{:<46}{:>10}{:>10}{:>9}{:>9}",
        "", "stored", "found", "change", "limit"
    );
    let mut exceeded = String::new();
    for comparison in comparisons {
        let number = |value: f64| match value {
            0.0..100.0 => format!("{value:.3}"),
            _ => format!("{value:.0}"),
        };
        let stored = comparison.stored.map_or_else(String::new, number);
        let change = comparison.change().map_or_else(
            || "new".to_owned(),
            |change| format!("{:+.1} %", change * 100.0),
        );
        let Comparison { name, found, .. } = comparison;
        let limit = format!("{:+.0} %", comparison.margin * 100.0);
        println!(
            "{name:<46}{stored:>10}{:>10}{change:>9}{limit:>9}",
            number(*found)
        );
        if comparison.is_exceeded() {
            let _ = write!(exceeded, "\n  {name}: {change}");
        }
    }
    if !exceeded.is_empty() {
        bail!(
            "these figures exceed what is stored in {}:{exceeded}",
            path.display()
        );
    }
    Ok(())
}
