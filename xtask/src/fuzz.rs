//! `cargo xtask fuzz`: coverage-guided search with libFuzzer for inputs that break the packet code.
//!
//! Runs on the stable compiler: coverage instrumentation is an ordinary LLVM pass. Inputs that reach new code are kept
//! in the committed corpora (`gre-common/fuzz/corpus/TARGET/`), and so is an input that fails; tier 1 of the tests
//! replays them all. Work in progress stays below `target/`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{build, command, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long to search, for each target
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u32,
    /// Search with this target only; default: all, one after the other
    target: Option<String>,
}

const PACKAGE: &str = "gre-fuzz";
const PROFILE: &str = "fuzz";

/// What makes LLVM record edges and comparisons the way libFuzzer reads them (LLVM "SanitizerCoverage").
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let targets = targets(arguments.target.as_deref())?;
    let engine = build_engine()?;
    for target in targets {
        search(&engine, &target, arguments.seconds)?;
    }
    Ok(())
}

/// The chosen target, or all: each has a corpus.
fn targets(chosen: Option<&str>) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(corpora()).context("cannot list gre-common/fuzz/corpus")? {
        targets.push(entry?.file_name().to_string_lossy().into_owned());
    }
    targets.sort();
    match chosen {
        None => Ok(targets),
        Some(chosen) if targets.iter().any(|target| target == chosen) => {
            Ok(vec![chosen.to_owned()])
        }
        Some(chosen) => bail!(
            "there is no fuzz target {chosen}; there are: {}",
            targets.join(", ")
        ),
    }
}

/// Builds the instrumented program. Naming the compilation target keeps the instrumentation out of build scripts.
fn build_engine() -> Result<PathBuf> {
    let directory = build::target_directory()?.join("fuzz");
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    command::run(
        command::cargo()
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", COVERAGE.join(" "))
            .args([
                "build",
                "--package",
                PACKAGE,
                "--features",
                "engine",
                "--profile",
                PROFILE,
            ])
            .args(["--target", &triple, "--target-dir"])
            .arg(&directory),
    )?;
    Ok(directory.join(triple).join(PROFILE).join(PACKAGE))
}

fn search(engine: &Path, target: &str, seconds: u32) -> Result<()> {
    let committed = corpora().join(target);
    let working = build::target_directory()?.join("fuzz/corpus").join(target);
    fs::create_dir_all(&working).with_context(|| format!("cannot create {}", working.display()))?;
    let engine = |option: &str| -> Command {
        let mut engine = command::command(engine);
        engine
            .env("GRE_FUZZ_TARGET", target)
            .args([option, "-print_final_stats=1"])
            .arg(format!("-artifact_prefix={}/", committed.display()));
        engine
    };
    command::run(engine(&format!("-max_total_time={seconds}")).args([&working, &committed]))
        .with_context(|| {
            format!(
                "{target} failed; the input is now in {} and fails in tier 1, too",
                committed.display()
            )
        })?;
    // Only what reaches a new edge, not also what takes one more often: the corpus stays readable.
    command::run(
        engine("-set_cover_merge=1")
            .arg("-use_counters=0")
            .args([&committed, &working]),
    )
}

fn corpora() -> PathBuf {
    gre_build::workspace().join("gre-common/fuzz/corpus")
}
