//! `gre-bench`: how many packets a second gregw forwards, beside a bare redirect and the kernel's own ways, on one core.
//! `cargo xtask bench` builds and runs it.
//!
//! A generator, what is under test, and a sink run on one core, one after the other for each batch of frames; what a
//! packet costs in the middle is the difference to a run with nothing there. Cases take turns, so that all share the
//! machine's moods.

mod bed;
mod cpu;
mod frame;
mod gateway;
mod generator;
mod head;
mod kernel;
mod lane;
mod namespace;
mod programs;
mod report;
mod scale;
mod traffic;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use lane::{Case, Lane};
use programs::Programs;
use report::Report;
use scale::Scale;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench",
    about = "Measure packets per second on one core"
)]
struct Arguments {
    /// Print one JSON object in place of the table
    #[arg(long)]
    json: bool,
    /// Rounds of each case; medians are reported
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Length of a round of one case
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1, value_parser = seconds)]
    round_seconds: f64,
    /// Measure only these; `sink` always is, since costs are differences to it
    #[arg(long, value_name = "CASE,…", value_delimiter = ',')]
    cases: Vec<Case>,
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
    let scale = Scale::new(arguments.tunnels, arguments.networks, arguments.routes)?;
    namespace::isolate_mounts()?;
    let mut programs = Programs::load()?;
    let mut lanes = Lane::all(&mut programs, &arguments.cases(), scale)?;
    cpu::stay_on_one()?;
    cpu::come_first()?;
    let time = Duration::from_secs_f64(arguments.round_seconds);
    let mut rates = vec![Vec::new(); lanes.len()];
    eprintln!(
        "bench: {} rounds of {} cases",
        arguments.rounds,
        lanes.len()
    );
    for _ in 0..arguments.rounds {
        for (lane, rates) in lanes.iter_mut().zip(&mut rates) {
            let rate = lane.measure(&mut programs, time);
            rates.push(rate.with_context(|| report::name(lane.case))?);
        }
    }
    let measured = lanes
        .iter()
        .zip(rates)
        .map(|(lane, rates)| (lane.case, lane.bytes(), rates))
        .collect();
    let report = Report::new(arguments.rounds.into(), measured);
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

impl Arguments {
    /// In the order of measurement, [`Case::Sink`] first.
    fn cases(&self) -> Vec<Case> {
        Case::value_variants()
            .iter()
            .filter(|case| {
                **case == Case::Sink || self.cases.is_empty() || self.cases.contains(case)
            })
            .copied()
            .collect()
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= 60.0 => Ok(seconds),
        _ => Err("write a number of seconds above 0, up to 60".to_owned()),
    }
}
