//! `gre-bench`: what gregw's data plane achieves, beside a bare redirect and the kernel's own ways. `cargo xtask bench`
//! builds and runs it.
//!
//! A generator, what is under test, and a sink run on one core, one after the other for each batch of frames; what a
//! packet costs in the middle is the difference to a run with nothing there. Cases take turns, so that all share the
//! machine's moods.

mod against;
mod bed;
mod case;
mod comparison;
mod contender;
mod cores;
mod cost;
mod cpu;
mod daemon;
mod frame;
mod gateway;
mod generator;
mod growth;
mod head;
mod kernel;
mod lane;
mod lookup;
mod machine;
mod namespace;
mod plot;
mod programs;
mod record;
mod report;
mod scale;
mod statistics;
mod tables;
mod throughput;
mod traffic;
mod updates;

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use against::Builds;
use case::Case;
use lane::Workshop;
use programs::Programs;
use record::Record;
use scale::Scale;
use throughput::Rounds;

/// Measure gregw's data plane
///
/// Without a command: packets per second on one core with 64-byte packets, in about half a minute.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    after_help = OF_THE_TASK
)]
struct Arguments {
    #[command(subcommand)]
    measure: Option<Measure>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    rounds: RoundArguments,
    #[command(flatten)]
    selection: Selection,
}

const OF_THE_TASK: &str = "\
Before all of these, for `cargo xtask bench` itself:
  --against REVISION  Build that git revision beside the working tree and run `against`
  --check             Compare what `cost` says with bench/budget.toml; `--save` stores it
                      there, `--kernel SERIES` asks other kernels
";

#[derive(Debug, Subcommand)]
enum Measure {
    /// Packets per second: all sizes, kinds of tunnels and ways of the kernel
    Throughput(Selection),
    /// Packets per second as tunnels, networks and routes become more
    Growth {
        /// Leave out tables with more routes
        #[arg(long, value_name = "ROUTES", default_value_t = 1_000_000)]
        up_to: u32,
    },
    /// Packets per second of two cores, and of one core that all traffic lands on
    Cores,
    /// Changes of routes a second under traffic, and how long a full table and a large configuration take
    Updates {
        /// Tunnels to apply; ten times as many routes are under traffic, a hundred times as many loaded at once
        #[arg(long, value_name = "N", default_value_t = updates::TUNNELS, value_parser = clap::value_parser!(u32).range(1..=i64::from(updates::TUNNELS)))]
        tunnels: u32,
    },
    /// Nanoseconds of a route's look-up beside the kernel's LPM trie, and bytes of a route
    Fib {
        /// Leave out tables with more routes
        #[arg(long, value_name = "ROUTES", default_value_t = 1_000_000)]
        up_to: usize,
    },
    /// What the programs cost the kernel: verified instructions, machine code, and the time that loading takes
    Cost,
    /// All of these
    All,
    /// Nanoseconds of a packet in two builds of gregw, measured in turn, and whether they have changed
    Against(Builds),
}

#[derive(Debug, Args)]
struct Output {
    /// Print one JSON object in place of the table
    #[arg(long, global = true)]
    json: bool,
    /// Store the result of `all` as history and documentation
    #[arg(long, global = true)]
    save: bool,
}

#[derive(Clone, Copy, Debug, Args)]
struct RoundArguments {
    /// Rounds of each case, of which medians are reported [default: 25; growth: 9; cores: 15]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Length of a round of one case
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 0.1, value_parser = seconds)]
    round_seconds: f64,
}

#[derive(Clone, Debug, Args)]
struct Selection {
    /// Measure only these; `sink` always is, since costs are differences to it
    #[arg(long, value_name = "CASE,…", value_delimiter = ',')]
    cases: Vec<String>,
    /// Tunnels of gregw
    #[arg(long, value_name = "N", default_value_t = 1)]
    tunnels: u32,
    /// Networks that they belong to
    #[arg(long, value_name = "N", default_value_t = 1)]
    networks: u32,
    /// Routes into them; traffic is spread over all
    #[arg(long, value_name = "N", default_value_t = 10)]
    routes: u32,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    namespace::isolate_mounts()?;
    let mut programs = Programs::load()?;
    let Arguments { output, rounds, .. } = arguments;
    match &arguments.measure {
        None => {
            let (cases, scale) = arguments.selection.resolve(Case::basic)?;
            let workshop = Workshop::new(scale);
            output.print(&throughput::measure(
                &mut programs,
                &cases,
                workshop,
                rounds.or(25),
            )?)
        }
        Some(Measure::Throughput(selection)) => {
            let (cases, scale) = selection.resolve(Case::all)?;
            let workshop = Workshop::new(scale);
            output.print(&throughput::measure(
                &mut programs,
                &cases,
                workshop,
                rounds.or(25),
            )?)
        }
        Some(Measure::Growth { up_to }) => {
            output.print(&growth::measure(&mut programs, *up_to, rounds.or(9))?)
        }
        Some(Measure::Cores) => output.print(&cores::measure(&mut programs, rounds.or(15))?),
        Some(Measure::Fib { up_to }) => output.print(&lookup::measure(*up_to)?),
        Some(Measure::Updates { tunnels }) => {
            output.print(&updates::measure(&mut programs, *tunnels)?)
        }
        Some(Measure::Cost) => output.print(&cost::measure()?),
        Some(Measure::Against(builds)) => output.print(&against::measure(&mut programs, builds)?),
        Some(Measure::All) => all(&mut programs, *rounds, output),
    }
}

/// One after the other; what has most tables last.
fn all(programs: &mut Programs, rounds: RoundArguments, output: &Output) -> Result<()> {
    let workshop = Workshop::new(Scale::new(1, 1, 10)?);
    let record = Record {
        throughput: throughput::measure(programs, &Case::all(), workshop, rounds.or(25))?,
        cores: cores::measure(programs, rounds.or(15))?,
        look_ups: lookup::measure(usize::MAX)?,
        updates: updates::measure(programs, updates::TUNNELS)?,
        growth: growth::measure(programs, u32::MAX, rounds.or(9))?,
        date: record::today(),
    };
    if output.save {
        record.save()?;
    }
    output.print(&record)
}

impl Output {
    fn print(&self, report: &(impl Display + Serialize)) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(report)?);
        } else {
            print!("{report}");
        }
        Ok(())
    }
}

impl RoundArguments {
    /// The rounds, `count` of them unless the options say otherwise.
    fn or(self, count: u16) -> Rounds {
        Rounds {
            count: self.rounds.unwrap_or(count),
            time: Duration::from_secs_f64(self.round_seconds),
        }
    }
}

impl Selection {
    /// The cases, `default` unless some are named, and the tables' size.
    fn resolve(&self, default: fn() -> Vec<Case>) -> Result<(Vec<Case>, Scale)> {
        let scale = Scale::new(self.tunnels, self.networks, self.routes)?;
        if self.cases.is_empty() {
            return Ok((default(), scale));
        }
        let cases: Result<Vec<Case>> = self.cases.iter().map(|name| Case::named(name)).collect();
        Ok((cases?, scale))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= 60.0 => Ok(seconds),
        _ => Err("write a number of seconds above 0, up to 60".to_owned()),
    }
}
