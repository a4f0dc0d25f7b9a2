//! `cargo xtask test`: builds everything once and runs the test tiers, cheapest first, then prints once more what failed
//! tests printed, and one summary whose last line is `N passed, N failed, N skipped`.
//!
//! Under CI (`CI=true`) a skipped test counts as failed: a machine that cannot run a tier must not look green.

mod binaries;
pub(crate) mod matrix;
mod report;

use std::{env, process::Command, time::Duration, time::Instant};

use anyhow::{Result, bail};

use self::{binaries::TestBinary, report::Report};
use crate::{
    bench,
    budget::{self, Budget, Place},
    build, command,
    guest::archive::Choice,
    setup,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only this tier (repeatable); default: all
    #[arg(long = "tier", value_name = "N", value_parser = clap::value_parser!(u8).range(0..=5))]
    tiers: Vec<u8>,
    /// Kernel of tier 5: a series like 6.1, or `newest` (repeatable); default: all of the matrix and the running one
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<Choice>,
    /// Run only tests whose name contains this
    filter: Option<String>,
}

const TIERS: [&str; 6] = [
    "unit and property tests",
    "fuzz corpora",
    "fixtures, kernel against host",
    "network namespaces",
    "verifier budget and benchmark",
    "the matrix of kernels",
];

/// The tier whose tests run in guests.
const MATRIX: u8 = 5;

struct TierResult {
    tier: u8,
    report: Report,
    time: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    let binaries = binaries::build()?;
    let results: Vec<TierResult> = (0..)
        .zip(TIERS)
        .filter(|(tier, _)| arguments.tiers.is_empty() || arguments.tiers.contains(tier))
        .map(|(tier, title)| run_tier(tier, title, &binaries, arguments))
        .collect::<Result<_>>()?;
    let skips_fail = env::var_os("CI").is_some_and(|value| value == "true");
    if summarise(&results, skips_fail) {
        Ok(())
    } else {
        bail!("tests failed")
    }
}

fn run_tier(
    tier: u8,
    title: &str,
    binaries: &[TestBinary],
    arguments: &Arguments,
) -> Result<TierResult> {
    eprintln!("\nxtask: tier {tier}: {title}");
    let start = Instant::now();
    let filter = arguments.filter.as_deref();
    let mut report = Report::default();
    if tier == MATRIX {
        report = matrix::run(binaries, filter, &arguments.kernels)?;
    } else {
        for binary in binaries.iter().filter(|binary| binary.tier() == tier) {
            report.run(&binary.to_string(), binary.command(), filter)?;
        }
    }
    if tier == 0 {
        report.run("documentation examples", documentation_examples(), filter)?;
    }
    if tier == 4 && filter.is_none_or(|filter| budget::CHECK.contains(filter)) {
        check_budget(&mut report)?;
    }
    if filter.is_none() && report.passed == 0 && report.skipped.is_empty() {
        report.failed.push("the tier has no tests".to_owned());
    }
    Ok(TierResult {
        tier,
        report,
        time: start.elapsed(),
    })
}

/// What the programs cost this kernel, against the stored figures.
fn check_budget(report: &mut Report) -> Result<()> {
    if !setup::is_root() {
        report.skipped.push(format!(
            "{}: loading BPF programs needs root",
            budget::CHECK
        ));
        return Ok(());
    }
    let program = build::target_directory()?.join("debug/gre-bench");
    let found = match bench::measure_costs(&program) {
        Ok(measured) => {
            print!("\n{}", budget::table(std::slice::from_ref(&measured)));
            Budget::stored()?.exceeded(&measured, Place::Here)
        }
        Err(error) => vec![format!("{error:#}")],
    };
    report.check(budget::CHECK, &found);
    Ok(())
}

fn documentation_examples() -> Command {
    let mut cargo = command::cargo();
    cargo
        .args(["test", "--doc"])
        .args(binaries::PACKAGES)
        .arg("--");
    cargo
}

/// Prints the summary; whether nothing failed.
fn summarise(results: &[TierResult], skips_fail: bool) -> bool {
    let failures = results.iter().flat_map(|result| &result.report.failures);
    failures.for_each(|line| println!("{line}"));
    println!("\ntier  passed  failed  skipped     time");
    for TierResult { tier, report, time } in results {
        println!(
            "{tier:>4}  {:>6}  {:>6}  {:>7}  {:>6.1}s  {}",
            report.passed,
            report.failed.len(),
            report.skipped.len(),
            time.as_secs_f64(),
            TIERS[usize::from(*tier)],
        );
    }
    for TierResult { tier, report, .. } in results {
        for name in &report.failed {
            println!("failed: tier {tier}: {name}");
        }
        for name in &report.skipped {
            println!("skipped: tier {tier}: {name}");
        }
    }
    let passed: usize = results.iter().map(|result| result.report.passed).sum();
    let mut failed: usize = results
        .iter()
        .map(|result| result.report.failed.len())
        .sum();
    let mut skipped: usize = results
        .iter()
        .map(|result| result.report.skipped.len())
        .sum();
    if skips_fail && skipped > 0 {
        println!("CI=true: skipped tests count as failed");
        failed += skipped;
        skipped = 0;
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed == 0
}
