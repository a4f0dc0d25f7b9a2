//! `cargo xtask`: every developer task of gregw, one module each. `cargo xtask help` lists them.
//!
//! Tasks may be repeated at will, need no terminal and no standard input, and install what they need themselves.

mod bench;
mod budget;
mod build;
mod command;
mod demo;
mod fuzz;
mod guest;
mod lint;
mod revision;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Developer tasks of gregw"
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install whatever is missing: packages, the eBPF compiler and linker, the BPF file system
    Setup,
    /// Build the XDP program and the `gregw` binary that embeds it
    Build(build::Arguments),
    /// Build and run the tests of tiers 0 to 5
    Test(test::Arguments),
    /// Build, then show the main job in network namespaces: tunnels, VLAN, peering, isolation, counters
    Demo,
    /// Measure packets per second beside a bare redirect and the kernel's own forwarding
    Bench(bench::Arguments),
    /// Check formatting, clippy and dependencies
    Lint,
    /// Search for inputs that break the packet code, guided by coverage
    Fuzz(fuzz::Arguments),
}

fn main() -> ExitCode {
    match run(&Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> anyhow::Result<()> {
    match task {
        Task::Setup => setup::run(),
        Task::Build(arguments) => build::run(arguments),
        Task::Test(arguments) => test::run(arguments),
        Task::Demo => demo::run(),
        Task::Bench(arguments) => bench::run(arguments),
        Task::Lint => lint::run(),
        Task::Fuzz(arguments) => fuzz::run(arguments),
    }
}
