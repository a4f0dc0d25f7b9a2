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
    /// Times that both are started anew; six can tell a change, more can tell a smaller one
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    loads: u16,
    /// Measure only these
    #[arg(long, value_name = "CASE,…", value_delimiter = ',', value_parser = forwarding)]
    cases: Vec<Case>,
}

/// Rounds of a load.
const ROUNDS: u32 = 10;
/// Frames of a turn.
const FRAMES: u32 = 1 << 15;

/// The order of turns.
const OLD: usize = 0;
const NEW: usize = 1;
const EMPTY: usize = 2;
const REDIRECT: usize = 3;

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

/// Measures both builds in every case.
pub(crate) fn measure(programs: &mut Programs, builds: &Builds) -> Result<ComparisonReport> {
    let scale = Scale::new(1, 1, 10)?;
    let workshop = Workshop::new(scale);
    let mut cases: Vec<(Case, Vec<Load>)> = builds.cases();
    let mut compared = None;
    cpu::stay_on_one()?;
    for load in 0..builds.loads {
        eprintln!("bench: load {} of {}", load + 1, builds.loads);
        for tunnels in TunnelKind::ALL {
            let of_kind = cases.iter_mut().filter(|(case, _)| case.tunnels == tunnels);
            let mut of_kind = of_kind.peekable();
            if of_kind.peek().is_none() {
                continue;
            }
            let contenders = start_both(programs, builds, scale, tunnels, load)?;
            compared = Some(contenders.each_ref().map(|it| Build::new(&it.program)));
            for (case, loads) in of_kind {
                let load = measure_case(programs, &workshop, &contenders, *case);
                loads.push(load.with_context(|| case.to_string())?);
            }
        }
    }
    let [old, new] = compared.context("there is no case to measure")?;
    let cases = cases
        .iter()
        .map(|(case, loads)| Comparison::new(*case, loads));
    Ok(ComparisonReport::new(
        &builds.revision,
        old,
        new,
        builds.loads,
        cases.collect(),
    ))
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

/// Where programs and tables come to lie depends on what was there before, so the two begin in turn.
fn start_both(
    programs: &mut Programs,
    builds: &Builds,
    scale: Scale,
    tunnels: TunnelKind,
    load: u16,
) -> Result<[Contender; 2]> {
    let mut start = |binary, instance| Contender::start(programs, binary, instance, scale, tunnels);
    if load.is_multiple_of(2) {
        let old = start(&builds.old, "old")?;
        Ok([old, start(&builds.new, "new")?])
    } else {
        let new = start(&builds.new, "new")?;
        Ok([start(&builds.old, "old")?, new])
    }
}

fn measure_case(
    programs: &mut Programs,
    workshop: &Workshop,
    contenders: &[Contender; 2],
    case: Case,
) -> Result<Load> {
    // Beds differ in interface indexes only, so all programs get the same frames.
    let (_, trip) = workshop.trip(case, &contenders[OLD].bed);
    let mut generator = Generator::load(&trip.sent)?;
    let expectation = trip.arriving.expectation();
    let mut runners = Vec::new();
    for contender in contenders {
        let (feed, _) = workshop.trip(case, &contender.bed);
        let feed = contender.bed.near_end(feed);
        contender.wait_until_it_forwards(programs, &mut generator, feed, &expectation)?;
        runners.push(Runner {
            program: contender.program()?,
            namespace: contender.bed.namespace.clone(),
            feed,
            expectation: Some(expectation),
            quickest: f64::INFINITY,
        });
    }
    let bed = &contenders[OLD].bed;
    bed.namespace.enter()?;
    programs.aim_redirect(bed.right.near)?;
    for name in ["empty", "redirect"] {
        runners.push(Runner {
            program: programs.program(name)?.try_clone()?,
            namespace: bed.namespace.clone(),
            feed: runners[OLD].feed,
            expectation: None,
            quickest: f64::INFINITY,
        });
    }
    take_turns(programs, &mut generator, &mut runners)?;
    let own = |program: usize| runners[program].quickest - runners[EMPTY].quickest;
    Ok(Load {
        old: own(OLD),
        new: own(NEW),
        redirect: own(REDIRECT),
    })
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
