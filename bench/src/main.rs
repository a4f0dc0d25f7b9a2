//! `gre-bench`: what gregw's data plane achieves, beside a bare redirect and the kernel's own ways. `cargo xtask bench`
//! builds and runs it.
//!
//! A generator, what is under test, and a sink run on one core, one after the other for each batch of frames; what a
//! packet costs in the middle is the difference to a run with nothing there. Cases take turns, so that all share the
//! machine's moods.

mod bed;
mod case;
mod cpu;
mod frame;
mod gateway;
mod generator;
mod head;
mod kernel;
mod lane;
mod machine;
mod namespace;
mod programs;
mod report;
mod scale;
mod statistics;
mod throughput;
mod traffic;

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use case::Case;
use programs::Programs;
use scale::Scale;
use throughput::Rounds;

/// Measure gregw's data plane
///
/// Without a command: packets per second on one core with 64-byte packets, in about half a minute.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
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

#[derive(Debug, Subcommand)]
enum Measure {
    /// Packets per second: all sizes, kinds of tunnels and ways of the kernel
    Throughput(Selection),
}

#[derive(Debug, Args)]
struct Output {
    /// Print one JSON object in place of the table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Args)]
struct RoundArguments {
    /// Rounds of each case; medians are reported
    #[arg(long, global = true, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
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
    let rounds = arguments.rounds.into();
    match &arguments.measure {
        None => {
            let (cases, scale) = arguments.selection.resolve(Case::basic)?;
            let report = throughput::measure(&mut programs, &cases, scale, rounds)?;
            arguments.output.print(&report)
        }
        Some(Measure::Throughput(selection)) => {
            let (cases, scale) = selection.resolve(Case::all)?;
            let report = throughput::measure(&mut programs, &cases, scale, rounds)?;
            arguments.output.print(&report)
        }
    }
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

impl From<RoundArguments> for Rounds {
    fn from(arguments: RoundArguments) -> Self {
        Self {
            count: arguments.rounds,
            time: Duration::from_secs_f64(arguments.round_seconds),
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
