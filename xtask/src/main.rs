//! `cargo xtask`: every developer task of gregw, one module each. `cargo xtask help` lists them.
//!
//! Tasks may be repeated at will, need no terminal and no standard input, and install what they need themselves.

mod build;
mod command;
mod setup;

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
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Build(arguments) => build::run(&arguments),
    }
}
