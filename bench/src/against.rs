//! `against`: two builds of gregw, measured in turn. `cargo xtask bench --against REVISION` makes them.
//!
//! A load is a daemon of each build, both at once. Frames of a case are handed to their programs alone, without devices
//! and queues, in rounds of turns; the quickest thousand in a row of all rounds tell what a packet takes when nothing
//! disturbs it. What the same frames take with a program that does nothing is subtracted.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::ProgramFd;
use gre_bench_ebpf::Expectation;

use crate::bed::Device;
use crate::case::{Case, SMALL, TunnelKind};
use crate::comparison::{Build, Comparison, ComparisonReport, Load};
use crate::contender::{Contender, is_forwarded};
use crate::cpu;
use crate::generator::Generator;
use crate::lane::Workshop;
use crate::machine::Machine;
use crate::namespace::Namespace;
use crate::programs::Programs;
use crate::scale::Scale;

/// What to compare.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Builds {
    /// The old gregw
    #[arg(long, value_name = "PATH")]
    old: PathBuf,
    /// The new gregw
    #[arg(long, value_name = "PATH")]
    new: PathBuf,
    /// What the old one is called
    #[arg(long, value_name = "NAME", default_value = "old")]
    revision: String,
    /// Times that both are started anew; eight can tell a change, more can tell a smaller one
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=100))]
    loads: u16,
    /// Measure only these
    #[arg(long, value_name = "CASE,…", value_delimiter = ',', value_parser = forwarding)]
    cases: Vec<Case>,
}

/// Rounds of a load.
const ROUNDS: u32 = 10;
/// Frames of a turn.
const FRAMES: u32 = 1 << 15;

/// A program that has its turns, and where it gets its frames.
struct Runner {
    program: ProgramFd,
    namespace: Namespace,
    feed: Device,
    /// What it has to make of them; others than gregw may do anything.
    expectation: Option<Expectation>,
    /// Nanoseconds of a frame at best, with making it.
    quickest: f64,
}

/// A load: both gateways, with tunnels of a kind.
struct Pair {
    old: Contender,
    new: Contender,
    old_first: bool,
}

/// Measures both builds in every case.
pub(crate) fn measure(programs: &mut Programs, builds: &Builds) -> Result<ComparisonReport> {
    let mut cases = builds.cases();
    let mut compared = None;
    cpu::stay_on_one()?;
    for load in 0..builds.loads {
        eprintln!("bench: load {} of {}", load + 1, builds.loads);
        // Where programs and tables come to lie depends on what was there before.
        let old_first = load.is_multiple_of(2);
        for tunnels in TunnelKind::ALL {
            let of_kind = cases.iter_mut().filter(|(case, _)| case.tunnels == tunnels);
            compared = measure_kind(programs, builds, old_first, tunnels, of_kind)?.or(compared);
        }
    }
    let (old, new) = compared.context("there is no case to measure")?;
    let cases = cases.iter();
    let cases = cases.map(|(case, loads)| Comparison::new(*case, loads));
    Ok(ComparisonReport {
        machine: Machine::this(),
        revision: builds.revision.clone(),
        same_program: old.tag == new.tag,
        old,
        new,
        loads: builds.loads,
        cases: cases.collect(),
    })
}

impl Builds {
    /// Small packets each way in tunnels of every kind, unless some are named.
    fn cases(&self) -> Vec<(Case, Vec<Load>)> {
        let mut cases = self.cases.clone();
        if cases.is_empty() {
            cases = Case::all();
            cases.retain(|case| case.stage.is_gateway() && case.size == SMALL);
        }
        cases.into_iter().map(|case| (case, Vec::new())).collect()
    }
}

/// A case that gregw takes part in.
fn forwarding(name: &str) -> Result<Case> {
    let case = Case::named(name)?;
    ensure!(case.stage.is_gateway(), "{name} is not of gregw");
    Ok(case)
}

/// Adds a load to each of the cases, which have tunnels of one kind. Returns what ran, unless there are none.
fn measure_kind<'c>(
    programs: &mut Programs,
    builds: &Builds,
    old_first: bool,
    tunnels: TunnelKind,
    cases: impl Iterator<Item = &'c mut (Case, Vec<Load>)>,
) -> Result<Option<(Build, Build)>> {
    let mut cases = cases.peekable();
    if cases.peek().is_none() {
        return Ok(None);
    }
    let scale = Scale::new(1, 1, 10)?;
    let workshop = Workshop::new(scale);
    let pair = Pair::start(programs, builds, old_first, scale, tunnels)?;
    for (case, loads) in cases {
        let load = pair.measure(programs, &workshop, *case);
        loads.push(load.with_context(|| case.to_string())?);
    }
    let Pair { old, new, .. } = &pair;
    Ok(Some((Build::new(&old.program), Build::new(&new.program))))
}

impl Pair {
    fn start(
        programs: &mut Programs,
        builds: &Builds,
        old_first: bool,
        scale: Scale,
        tunnels: TunnelKind,
    ) -> Result<Self> {
        let mut start =
            |binary, instance| Contender::start(programs, binary, instance, scale, tunnels);
        let (old, new);
        if old_first {
            old = start(&builds.old, "old")?;
            new = start(&builds.new, "new")?;
        } else {
            new = start(&builds.new, "new")?;
            old = start(&builds.old, "old")?;
        }
        Ok(Self {
            old,
            new,
            old_first,
        })
    }

    /// Beds differ in interface indexes only, so all programs get the same frames.
    fn measure(&self, programs: &mut Programs, workshop: &Workshop, case: Case) -> Result<Load> {
        let bed = &self.old.bed;
        let (feed, trip) = workshop.trip(case, bed);
        let feed = bed.near_end(feed);
        let mut generator = Generator::load(&trip.sent)?;
        let expectation = trip.arriving.expectation();
        let mut runners = Vec::new();
        for contender in [&self.old, &self.new] {
            let (feed, _) = workshop.trip(case, &contender.bed);
            let feed = contender.bed.near_end(feed);
            contender.wait_until_it_forwards(programs, &mut generator, feed, &expectation)?;
            let program = contender.program()?;
            let namespace = &contender.bed.namespace;
            runners.push(Runner::new(program, namespace, feed, Some(expectation)));
        }
        bed.namespace.enter()?;
        programs.aim_redirect(bed.right.near)?;
        for name in ["empty", "redirect"] {
            let program = programs.program(name)?.try_clone()?;
            runners.push(Runner::new(program, &bed.namespace, feed, None));
        }
        take_turns(programs, &mut generator, &mut runners)?;
        let [old, new, empty, redirect] =
            [0, 1, 2, 3].map(|number: usize| runners[number].quickest);
        Ok(Load {
            old_first: self.old_first,
            old: old - empty,
            new: new - empty,
            redirect: redirect - empty,
        })
    }
}

/// In every other round backwards, so that each program has each neighbour.
fn take_turns(
    programs: &mut Programs,
    generator: &mut Generator,
    runners: &mut [Runner],
) -> Result<()> {
    let _first = cpu::First::new()?;
    for _ in 0..ROUNDS / 2 {
        for runner in &mut *runners {
            runner.take_turn(programs, generator)?;
        }
        for runner in runners.iter_mut().rev() {
            runner.take_turn(programs, generator)?;
        }
    }
    Ok(())
}

impl Runner {
    fn new(
        program: ProgramFd,
        namespace: &Namespace,
        feed: Device,
        expectation: Option<Expectation>,
    ) -> Self {
        Self {
            program,
            namespace: namespace.clone(),
            feed,
            expectation,
            quickest: f64::INFINITY,
        }
    }

    fn take_turn(&mut self, programs: &mut Programs, generator: &mut Generator) -> Result<()> {
        self.namespace.enter()?;
        generator.hand_to(&self.program)?;
        let trial = generator.time(self.feed, FRAMES, programs.number(FRAMES))?;
        let expectation = self.expectation.as_ref();
        if expectation.is_some_and(|expectation| !is_forwarded(&trial, expectation)) {
            bail!("gregw forwards no more: it returns {}", trial.verdict);
        }
        self.quickest = self.quickest.min(trial.nanoseconds);
        Ok(())
    }
}
