//! `growth`: what more tunnels, networks and routes cost, with traffic spread at random over all of them.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::case::{Case, Stage};
use crate::cores::cases;
use crate::lane::Workshop;
use crate::machine::Machine;
use crate::programs::Programs;
use crate::report::Report;
use crate::scale::Scale;
use crate::throughput::{self, Rounds};

/// Tunnels, networks and routes, and which of them grow.
const SCALES: [(&str, u32, u32, u32); 15] = [
    ("all", 1, 1, 10),
    ("all", 1_000, 100, 10_000),
    ("all", 10_000, 1_000, 100_000),
    ("all", 100_000, 10_000, 1_000_000),
    ("tunnels", 1, 1, 100_000),
    ("tunnels", 1_000, 1, 100_000),
    ("tunnels", 10_000, 1, 100_000),
    ("tunnels", 100_000, 1, 100_000),
    ("networks", 10_000, 1, 100_000),
    ("networks", 10_000, 1_000, 100_000),
    ("networks", 10_000, 10_000, 100_000),
    ("routes", 1, 1, 10),
    ("routes", 1, 1, 1_000),
    ("routes", 1, 1, 100_000),
    ("routes", 1, 1, 1_000_000),
];

/// How the rates change.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GrowthReport {
    #[serde(flatten)]
    machine: Machine,
    /// One entry for each size of the tables.
    pub(crate) growth: Vec<Point>,
}

/// The rates with tables of one size.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    /// What grows beside the other points of the same name.
    pub(crate) grows: &'static str,
    /// Tunnels.
    pub(crate) tunnels: u32,
    /// Networks that they belong to.
    pub(crate) networks: u32,
    /// Routes into them.
    pub(crate) routes: u32,
    /// What was measured, or why it was not.
    #[serde(flatten)]
    pub(crate) result: Outcome,
}

/// Whether the tables found room.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Outcome {
    /// Yes.
    Measured(Report),
    /// No.
    Refused {
        /// Why.
        error: String,
    },
}

/// Measures each way of gregw, and a bare redirect, with tables of up to `most` routes.
pub(crate) fn measure(programs: &mut Programs, most: u32, rounds: Rounds) -> Result<GrowthReport> {
    let mut growth = Vec::new();
    for (grows, tunnels, networks, routes) in SCALES {
        if routes > most {
            continue;
        }
        eprintln!("bench: {tunnels} tunnels, {networks} networks, {routes} routes");
        let workshop = Workshop::new(Scale::new(tunnels, networks, routes)?);
        let result = match throughput::measure(programs, &cases(), workshop, rounds) {
            Ok(report) => Outcome::Measured(report),
            Err(error) => Outcome::Refused {
                error: format!("{error:#}"),
            },
        };
        growth.push(Point {
            grows,
            tunnels,
            networks,
            routes,
            result,
        });
    }
    Ok(GrowthReport {
        machine: Machine::this(),
        growth,
    })
}

impl Point {
    /// A case's nanoseconds a packet, and its rate by that of the redirect.
    pub(crate) fn figures(&self, stage: Stage) -> Option<(f64, f64)> {
        let Outcome::Measured(report) = &self.result else {
            return None;
        };
        let case = report.case(Case::small(stage))?;
        let redirect = report.case(Case::small(Stage::Redirect))?;
        Some((1e3 / case.mpps, case.mpps / redirect.mpps))
    }
}

impl fmt::Display for GrowthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, cpu } = &self.machine;
        writeln!(
            f,
            "Linux {kernel}, one core of {cpu}, nanoseconds of a packet and rate by redirect\n"
        )?;
        write!(
            f,
            "{:<10}{:>9}{:>9}{:>9}",
            "grows", "tunnels", "networks", "routes"
        )?;
        for stage in Stage::GATEWAY {
            write!(f, "{:>24}", stage.to_string())?;
        }
        writeln!(f)?;
        for point in &self.growth {
            write!(
                f,
                "{:<10}{:>9}{:>9}{:>9}",
                point.grows, point.tunnels, point.networks, point.routes
            )?;
            if let Outcome::Refused { error } = &point.result {
                write!(f, "  {error}")?;
            }
            for (time, ratio) in Stage::GATEWAY
                .into_iter()
                .filter_map(|stage| point.figures(stage))
            {
                write!(f, "{time:>14.1}{ratio:>10.3}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
