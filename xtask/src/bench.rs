//! `cargo xtask bench`: builds `gre-bench` and runs it; `--check` compares what it says of costs with the stored budget.
//! What it measures happens in the kernel, so the build needs no optimisation, unless large tables are filled or their
//! filling is measured. Standard output carries the result and nothing else.
//!
//! The benchmark takes this process's place, so that Ctrl-C ends it and the kernel cleans up after it.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use crate::{
    budget::{self, Budget, Measured},
    build, command, setup,
};

/// What fills large tables.
const LARGE: [&str; 4] = ["growth", "fib", "updates", "all"];

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Compare verified instructions and machine code of gregw's programs with `bench/budget.toml`
    #[arg(long)]
    check: bool,
    /// Store these figures there instead
    #[arg(long, requires = "check")]
    save: bool,
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
    let program = build_benchmark(optimised)?;
    if !setup::is_root() {
        bail!(
            "everything is built, but network namespaces and XDP need root; now run:\n  sudo {}",
            program.display()
        );
    }
    if arguments.check {
        return check(&program, arguments.save);
    }
    let error = command::command(&program).args(&arguments.options).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn build_benchmark(optimised: bool) -> Result<PathBuf> {
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
    Ok(build::target_directory()?.join(profile).join("gre-bench"))
}

fn check(program: &Path, save: bool) -> Result<()> {
    let measured = measure_costs(program)?;
    print!("{}", budget::table(std::slice::from_ref(&measured)));
    let mut budget = Budget::stored()?;
    if save {
        budget.set(&measured);
        return budget.save();
    }
    let exceeded = budget.exceeded(&measured, false);
    if exceeded.is_empty() {
        return Ok(());
    }
    bail!(
        "this is more than bench/budget.toml allows:\n  {}",
        exceeded.join("\n  ")
    )
}

/// What gregw's programs cost the kernel that runs, by `gre-bench` at this path.
pub(crate) fn measure_costs(program: &Path) -> Result<Measured> {
    let output = command::command(program)
        .args(["--json", "cost"])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("`gre-bench cost` ended with {}", output.status);
    }
    Measured::parse(&String::from_utf8_lossy(&output.stdout))
}
