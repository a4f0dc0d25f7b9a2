//! `cargo xtask bench`: builds `gre-bench` and runs it. What it measures happens in the kernel, so the build needs no
//! optimisation. Standard output carries the result and nothing else.
//!
//! The benchmark takes this process's place, so that Ctrl-C ends it and the kernel cleans up after it.

use std::{ffi::OsString, os::unix::process::CommandExt};

use anyhow::{Context, Result, bail};

use crate::{build, command, setup};

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Options of the benchmark; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    command::run(command::cargo().args(["build", "--package", "gre-bench"]))?;
    let program = build::target_directory()?.join("debug/gre-bench");
    if !setup::is_root() {
        bail!(
            "everything is built, but network namespaces and XDP need root; now run:\n  sudo {}",
            program.display()
        );
    }
    let error = command::command(&program).args(&arguments.options).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
