//! Packets a second of some cases, on one core.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::case::{Case, Stage};
use crate::cpu;
use crate::lane::{Lane, Workshop};
use crate::programs::Programs;
use crate::report::{Measured, Report};

/// How long is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// Rounds of each case.
    pub(crate) count: u16,
    /// Length of a round of one case.
    pub(crate) time: Duration,
}

/// Measures the cases, and for each size what a packet takes with nothing between generator and sink.
pub(crate) fn measure(
    programs: &mut Programs,
    cases: &[Case],
    mut workshop: Workshop,
    rounds: Rounds,
) -> Result<Report> {
    let (mut lanes, mut unavailable) = (Vec::new(), Vec::new());
    for case in with_sinks(cases) {
        match workshop.lane(programs, case)? {
            Some(lane) => lanes.push(lane),
            None => unavailable.push(case),
        }
    }
    let measured = take_turns(programs, &mut lanes, rounds)?;
    Ok(Report::new(&measured, unavailable))
}

/// In the order of all cases.
fn with_sinks(cases: &[Case]) -> Vec<Case> {
    let is_wanted = |case: &Case| {
        let is_sink = |wanted: &Case| wanted.beside(Stage::Sink) == *case;
        cases.contains(case) || cases.iter().any(is_sink)
    };
    Case::all().into_iter().filter(is_wanted).collect()
}

fn take_turns(
    programs: &mut Programs,
    lanes: &mut [Lane],
    rounds: Rounds,
) -> Result<Vec<Measured>> {
    cpu::stay_on_one()?;
    let _first = cpu::First::new()?;
    eprintln!("bench: {} rounds of {} cases", rounds.count, lanes.len());
    let mut measured: Vec<Measured> = lanes
        .iter()
        .map(|lane| Measured {
            case: lane.case,
            bytes: lane.bytes(),
            rates: Vec::new(),
        })
        .collect();
    for _ in 0..rounds.count {
        for (lane, measured) in lanes.iter_mut().zip(&mut measured) {
            let rate = lane.measure(programs, rounds.time);
            measured
                .rates
                .push(rate.with_context(|| lane.case.to_string())?);
        }
    }
    Ok(measured)
}
