//! `cargo xtask build`: the XDP program, then the `gregw` binary that embeds it. Also called by every task that runs
//! either.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};

use crate::{command, setup};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Build the gregw binary with optimisation (the XDP program always is)
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let object = gre_build::compile(&gre_build::GATEWAY, &target_directory()?)?;
    eprintln!("xtask: XDP program: {}", object.display());
    let mut cargo = command::cargo();
    cargo.args(["build", "--package", "gre-userspace", "--bin", "gregw"]);
    if arguments.release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)
}

/// Where cargo puts what it builds: the target directory this program itself lies in.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let xtask = env::current_exe().context("cannot find the running program's own path")?;
    Ok(gre_build::target_directory(&xtask))
}
