//! cargo-deny: licences, sources, bans and, where their database can be reached, security advisories.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use gre_build::program;

use crate::command;

/// The version that is installed, and the oldest that is accepted.
const VERSION: &str = "0.20.2";
const FETCH_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn check() -> Result<()> {
    let cargo_deny = installed()?;
    let deny = || -> Command {
        let mut deny = command::command(&cargo_deny);
        deny.args(["--log-level", "error"]);
        deny
    };
    command::run(deny().args(["check", "bans", "licenses", "sources"]))?;
    if let Err(error) = command::run_within(deny().args(["fetch", "db"]), FETCH_LIMIT) {
        eprintln!("xtask: ADVISORIES NOT CHECKED, their database cannot be fetched: {error}");
        return Ok(());
    }
    command::run(deny().args(["check", "--disable-fetch", "advisories"]))
}

/// Installs cargo-deny if need be. Without optimisation, which would cost more time than it saves.
fn installed() -> Result<PathBuf> {
    if let Some(found) = program::find("cargo-deny", VERSION) {
        return Ok(found);
    }
    command::run(command::cargo().env("CARGO_PROFILE_DEV_DEBUG", "0").args([
        "install",
        "cargo-deny",
        "--locked",
        "--debug",
        "--version",
        VERSION,
    ]))?;
    program::find("cargo-deny", VERSION)
        .context("cargo-deny was installed, but is not in cargo's program directory")
}
