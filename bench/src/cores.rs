//! `cores`: what a second core adds, and what is left of it where all traffic lands on one.
//!
//! With a receive queue for each core, the cores share nothing but tables; with one queue, as when a device steers a
//! single outer flow, one core at a time does the work of the gateway, whoever sends.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::case::{Case, Stage};
use crate::lane::{Cores, Workshop};
use crate::machine::Machine;
use crate::programs::Programs;
use crate::report::Report;
use crate::scale::Scale;
use crate::throughput::{self, Rounds};

/// Millions of packets a second, by case.
type Rates = BTreeMap<String, f64>;

/// What cores achieve.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CoresReport {
    #[serde(flatten)]
    machine: Machine,
    /// One core.
    pub(crate) one: Rates,
    /// Two, each with a queue of its own.
    pub(crate) two: Rates,
    /// Two that send to one queue.
    pub(crate) one_queue: Rates,
    /// CPUs that frames arrived on.
    cpus: Cpus,
}

/// How many CPUs frames arrived on.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cpus {
    /// With one core.
    one: usize,
    /// With two, each with a queue of its own.
    two: usize,
}

/// Measures each way of gregw, and a bare redirect.
pub(crate) fn measure(programs: &mut Programs, rounds: Rounds) -> Result<CoresReport> {
    let mut rates = |generators, queues| {
        let cores = Cores { generators, queues };
        let before = programs.arrived_by_cpu()?;
        let workshop = Workshop::new(Scale::new(1, 1, 10)?).with_cores(cores);
        let report = throughput::measure(programs, &cases(), workshop, rounds)?;
        let after = programs.arrived_by_cpu()?;
        let grown = before.iter().zip(after).filter(|(old, new)| *old < new);
        Ok::<_, anyhow::Error>((by_case(&report), grown.count()))
    };
    let (one, on_one) = rates(1, 1)?;
    let (two, on_two) = rates(2, 2)?;
    let (one_queue, _) = rates(2, 1)?;
    Ok(CoresReport {
        machine: Machine::this(),
        one,
        two,
        one_queue,
        cpus: Cpus {
            one: on_one,
            two: on_two,
        },
    })
}

/// The ways of gregw, and a bare redirect.
pub(crate) fn cases() -> Vec<Case> {
    let stages = [Stage::Redirect].into_iter().chain(Stage::GATEWAY);
    stages.map(Case::small).collect()
}

fn by_case(report: &Report) -> Rates {
    let cases = report.cases.iter();
    cases
        .map(|case| (case.name.to_string(), case.mpps))
        .collect()
}

impl fmt::Display for CoresReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, cpu } = &self.machine;
        writeln!(
            f,
            "Linux {kernel}, cores of {cpu}, millions of packets a second\n"
        )?;
        writeln!(
            f,
            "{:<20}{:>10}{:>10}{:>8}{:>18}{:>8}",
            "case", "one core", "two", "ratio", "two to one queue", "ratio"
        )?;
        for (case, one) in &self.one {
            let (two, one_queue) = (self.two[case], self.one_queue[case]);
            writeln!(
                f,
                "{case:<20}{one:>10.3}{two:>10.3}{:>8.2}{one_queue:>18.3}{:>8.2}",
                two / one,
                one_queue / one
            )?;
        }
        Ok(())
    }
}
