//! `cargo xtask bench`: builds `gre-bench` and runs it; `--check` compares what it says of costs with the stored budget,
//! `--against` has it compare the working tree with another revision. What it measures happens in the kernel, so the build
//! needs no optimisation, unless large tables are filled or their filling is measured. Standard output carries the result
//! and nothing else.
//!
//! The benchmark takes this process's place, so that Ctrl-C ends it and the kernel cleans up after it.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    budget::{self, Budget, Measured, Place},
    build, command,
    guest::archive::Choice,
    revision::Revision,
    setup,
    test::matrix,
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
    /// In a guest with this kernel, not here: a series like 6.1, or `newest` (repeatable)
    #[arg(long = "kernel", value_name = "SERIES", requires = "check")]
    kernels: Vec<Choice>,
    /// Measure gregw of this git revision and of the working tree in turn, and tell what has changed
    #[arg(long, value_name = "REVISION", conflicts_with = "check")]
    against: Option<String>,
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
    let revision = arguments.against.as_deref().map(Revision::find);
    let revision = revision.transpose()?;
    let program = build_benchmark(optimised)?;
    let mut benchmark = command::command(&program);
    if let Some(revision) = revision {
        benchmark
            .arg("against")
            .args(["--revision", &revision.hash]);
        benchmark.arg("--old").arg(revision.build()?);
        benchmark.arg("--new").arg(program.with_file_name("gregw"));
    }
    benchmark.args(&arguments.options);
    if !setup::is_root() {
        bail!(
            "everything is built, but network namespaces and XDP need root; now run:\n  sudo {}",
            line(&benchmark)
        );
    }
    if arguments.check {
        return check(&program, arguments);
    }
    let error = benchmark.exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// A command as root has to type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
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

fn check(program: &Path, arguments: &Arguments) -> Result<()> {
    let (measured, place) = if arguments.kernels.is_empty() {
        (vec![measure_costs(program)?], Place::Here)
    } else {
        (matrix::measure_costs(&arguments.kernels)?, Place::Guest)
    };
    print!("{}", budget::table(&measured));
    let mut budget = Budget::stored()?;
    if arguments.save {
        measured.iter().for_each(|measured| budget.set(measured));
        return budget.save();
    }
    let exceeded: Vec<String> = measured
        .iter()
        .flat_map(|measured| budget.exceeded(measured, place))
        .collect();
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
