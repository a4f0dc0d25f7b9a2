//! `cargo xtask bench`: builds `gre-bench` and runs it. What it measures happens in the kernel, so the build needs no
//! optimisation, unless large tables are filled or their filling is measured. Standard output carries the result and nothing else.
//!
//! The benchmark takes this process's place, so that Ctrl-C ends it and the kernel cleans up after it.

use std::{ffi::OsString, os::unix::process::CommandExt};

use anyhow::{Context, Result, bail};

use crate::{build, command, setup};

/// What fills large tables.
const LARGE: [&str; 4] = ["growth", "fib", "updates", "all"];

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Options of the benchmark; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let optimised = arguments
        .options
        .iter()
        .any(|option| LARGE.iter().any(|command| option == command));
    let mut cargo = command::cargo();
    cargo.args([
        "build",
        "--package",
        "gre-bench",
        "--package",
        "gre-userspace",
    ]);
    cargo.args(["--bin", "gre-bench", "--bin", "gregw"]);
    if optimised {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    let profile = if optimised { "release" } else { "debug" };
    let program = build::target_directory()?.join(profile).join("gre-bench");
    if !setup::is_root() {
        bail!(
            "everything is built, but network namespaces and XDP need root; now run:\n  sudo {}",
            program.display()
        );
    }
    let error = command::command(&program).args(&arguments.options).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
