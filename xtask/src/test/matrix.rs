//! Tier 5: the same tests on the kernels that users run, each in a guest, and on the one that runs here; in the end a
//! table of claims by kernel, and what the programs cost each.
//!
//! Two guests run at once. What one prints comes in one piece when it has ended, progress as it happens.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, bail};
use gre_common::limits::OLDEST_KERNEL;

use super::{binaries::TestBinary, report::Report};
use crate::{
    budget::{self, Budget, Measured, Place, Series},
    build,
    guest::{
        Job, News, Programs,
        archive::{Archive, Choice, Kernel},
    },
    setup,
};

/// The kernels of each run beside the one that runs here: of Debian 12, of Debian 13, of this year's long-term series, and
/// the newest. The first is too old: it shows the refusal.
const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "newest"];
/// The oldest that gregw runs on.
const OLDEST: Series = Series::new(OLDEST_KERNEL.0, OLDEST_KERNEL.1);
/// Guests at once.
const GUESTS: usize = 2;

/// On every kernel, in guests and here.
const KERNEL_TESTS: &str = "tier5_kernel";
/// In guests only: these have cards to spare.
const CARD_TESTS: &str = "tier5_card";
/// On kernels that are too old.
const REFUSAL_TESTS: &str = "tier5_refusal";
/// The differential run of tier 2, with so many packets.
const DIFFERENTIAL: (&str, &str, &str) = ("tier2_differential", "kernel_and_host_agree", "2000");
/// What measures costs.
const BENCHMARK: &str = "gre-bench";

/// What a kernel's tests found.
struct Outcome {
    /// The kernel, as the table of claims names it.
    name: String,
    report: Report,
    measured: Option<Measured>,
}

/// Runs the tier. `kernels` are those to run in guests; none: those of each run, and the one that runs here.
pub(super) fn run(
    binaries: &[TestBinary],
    filter: Option<&str>,
    kernels: &[Choice],
) -> Result<Report> {
    let mut report = Report::default();
    if !setup::is_root() {
        report
            .skipped
            .push("all kernels: guests and network namespaces need root".to_owned());
        return Ok(report);
    }
    let mut outcomes = in_guests(binaries, filter, kernels, &mut report)?;
    if kernels.is_empty() {
        outcomes.push(here(binaries, filter)?);
    }
    println!("\n{}", claims(&outcomes));
    let measured: Vec<Measured> = outcomes
        .iter()
        .filter_map(|outcome| outcome.measured.clone())
        .collect();
    println!("{}", budget::table(&measured));
    outcomes
        .into_iter()
        .for_each(|outcome| report.extend(outcome.report));
    Ok(report)
}

/// Measures costs alone, in guests of these kernels.
pub(crate) fn measure_costs(kernels: &[Choice]) -> Result<Vec<Measured>> {
    setup::install_emulator()?;
    let mut archive = Archive::open()?;
    let programs = Programs::collect(&[(BENCHMARK, &program(BENCHMARK)?)])?;
    let mut measure = |choice| {
        let kernel = archive.kernel(choice)?;
        let outcome = in_guest(&programs, &kernel, &[cost_job()])?;
        let kernel = &kernel.release;
        outcome.measured.with_context(|| {
            format!(
                "kernel {kernel} tells no costs:\n{}",
                outcome.report.failures.join("\n")
            )
        })
    };
    kernels.iter().map(&mut measure).collect()
}

/// Runs the tests in a guest for each kernel; kernels that cannot be had are skipped in `report`.
fn in_guests(
    binaries: &[TestBinary],
    filter: Option<&str>,
    kernels: &[Choice],
    report: &mut Report,
) -> Result<Vec<Outcome>> {
    let chosen = if kernels.is_empty() {
        KERNELS
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_, String>>()
            .map_err(anyhow::Error::msg)?
    } else {
        kernels.to_vec()
    };
    let available = match available(&chosen, report) {
        Ok(available) => available,
        Err(error) => {
            report
                .skipped
                .push(format!("kernels {}: {error:#}", list(&chosen)));
            return Ok(Vec::new());
        }
    };
    let programs = collect(binaries)?;
    let waiting = Mutex::new(available.into_iter());
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let next = waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .next();
                let Some(kernel) = next else { return Ok(()) };
                let outcome = in_guest(&programs, &kernel, &jobs(&kernel, filter))?;
                outcomes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(outcome);
            }
        };
        let workers: Vec<_> = (0..GUESTS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let mut outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|outcome| Series::of_release(&outcome.name));
    Ok(outcomes)
}

/// The kernels that can be had here.
fn available(chosen: &[Choice], report: &mut Report) -> Result<Vec<Kernel>> {
    if !cfg!(target_arch = "x86_64") {
        bail!("guests are PCs, and programs of this processor do not run there");
    }
    setup::install_emulator()?;
    let mut archive = Archive::open()?;
    let mut kernels: Vec<Kernel> = Vec::new();
    for choice in chosen {
        match archive.kernel(choice) {
            // The newest may be one of the others.
            Ok(kernel) if kernels.contains(&kernel) => {}
            Ok(kernel) => kernels.push(kernel),
            Err(error) => report.skipped.push(format!("kernel {choice}: {error:#}")),
        }
    }
    Ok(kernels)
}

fn collect(binaries: &[TestBinary]) -> Result<Programs> {
    let mut programs = vec![
        ("gregw", program("gregw")?),
        (BENCHMARK, program(BENCHMARK)?),
    ];
    for target in [KERNEL_TESTS, CARD_TESTS, REFUSAL_TESTS, DIFFERENTIAL.0] {
        programs.push((target, executable(binaries, target)?));
    }
    let programs: Vec<(&str, &Path)> = programs
        .iter()
        .map(|(name, path)| (*name, path.as_path()))
        .collect();
    Programs::collect(&programs)
}

fn executable(binaries: &[TestBinary], target: &str) -> Result<PathBuf> {
    let binary = binaries.iter().find(|binary| binary.target() == target);
    let binary = binary.with_context(|| format!("there is no test binary {target}"))?;
    Ok(binary.executable().to_path_buf())
}

fn program(name: &str) -> Result<PathBuf> {
    Ok(build::target_directory()?.join("debug").join(name))
}

/// What a kernel's guest runs.
fn jobs(kernel: &Kernel, filter: Option<&str>) -> Vec<Job> {
    if Series::of_release(&kernel.release) < OLDEST {
        return vec![test_job(REFUSAL_TESTS, filter, &[])];
    }
    let (differential, claim, packets) = DIFFERENTIAL;
    let mut jobs = vec![
        test_job(KERNEL_TESTS, filter, &[]),
        test_job(CARD_TESTS, filter, &[]),
    ];
    if filter.is_none_or(|filter| claim.contains(filter)) {
        jobs.push(test_job(
            differential,
            Some(claim),
            &[("GREGW_PACKETS", packets)],
        ));
    }
    if filter.is_none_or(|filter| budget::CHECK.contains(filter)) {
        jobs.push(cost_job());
    }
    jobs
}

fn test_job(program: &str, filter: Option<&str>, environment: &[(&str, &str)]) -> Job {
    let arguments = ["--test-threads=1", "--show-output"]
        .into_iter()
        .chain(filter);
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Job {
        program: program.to_owned(),
        arguments: arguments.map(str::to_owned).collect(),
        environment: environment.collect(),
    }
}

fn cost_job() -> Job {
    Job {
        program: BENCHMARK.to_owned(),
        arguments: ["--json", "cost"].map(str::to_owned).to_vec(),
        environment: Vec::new(),
    }
}

/// Boots one kernel and reads what its jobs print. A guest that ends early has failed, and the others go on.
fn in_guest(programs: &Programs, kernel: &Kernel, jobs: &[Job]) -> Result<Outcome> {
    let series = Series::of_release(&kernel.release).to_string();
    let mut outcome = Outcome {
        name: series.clone(),
        report: Report::default(),
        measured: None,
    };
    println!("{series}: booting {}", kernel.release);
    let mut lines: Vec<String> = Vec::new();
    let mut current = 0;
    let mut results = Vec::new();
    let run = programs.run(kernel, jobs, |news| match news {
        News::Begun(number) => {
            current = number;
            lines.clear();
        }
        News::Printed(line) => {
            if line.starts_with("test ") {
                println!("{series}: {line}");
            }
            lines.push(line.to_owned());
        }
        News::Ended(status) => results.push((current, status, std::mem::take(&mut lines))),
    });
    for (number, status, lines) in results {
        let job = &jobs[number];
        let failure = (status != Some(0)).then(|| match status {
            Some(code) => format!("status {code}"),
            None => "a signal".to_owned(),
        });
        if job.program == BENCHMARK {
            outcome.check_costs(&lines, failure.is_none())?;
        } else {
            outcome
                .report
                .add_output(&format!("{series} {}", job.program), &lines, failure);
        }
    }
    if let Err(error) = run {
        let what = [format!("{error:#}"), lines.join("\n")];
        outcome
            .report
            .check(&format!("{series}: the guest runs all tests"), &what);
    }
    Ok(outcome)
}

impl Outcome {
    fn check_costs(&mut self, lines: &[String], is_measured: bool) -> Result<()> {
        let name = format!("{}: {}", self.name, budget::CHECK);
        if !is_measured {
            self.report.check(&name, lines);
            return Ok(());
        }
        let measured = Measured::parse(&lines.concat())?;
        self.report
            .check(&name, &Budget::stored()?.exceeded(&measured, Place::Guest));
        self.measured = Some(measured);
        Ok(())
    }
}

/// The tests for all kernels, on the one that runs.
fn here(binaries: &[TestBinary], filter: Option<&str>) -> Result<Outcome> {
    let mut report = Report::default();
    let binary = binaries
        .iter()
        .find(|binary| binary.target() == KERNEL_TESTS);
    let binary = binary.with_context(|| format!("there is no test binary {KERNEL_TESTS}"))?;
    report.run(&format!("here {KERNEL_TESTS}"), binary.command(), filter)?;
    Ok(Outcome {
        name: "here".to_owned(),
        report,
        // Tier 4 judges the costs.
        measured: None,
    })
}

/// A line for each claim, a column for each kernel.
fn claims(outcomes: &[Outcome]) -> String {
    let mut rows: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (column, Outcome { report, .. }) in outcomes.iter().enumerate() {
        let skipped = report.skipped.iter().map(|name| {
            name.rsplit_once(": ")
                .map_or(name.as_str(), |(test, _)| test)
        });
        let cells = report.passed_names.iter().map(|name| (name.as_str(), "ok"));
        let cells = cells.chain(report.failed.iter().map(|name| (name.as_str(), "FAILED")));
        for (name, cell) in cells.chain(skipped.map(|name| (name, "skipped"))) {
            let claim = name.rsplit(": ").next().unwrap_or(name);
            rows.entry(claim)
                .or_insert_with(|| vec!["-"; outcomes.len()])[column] = cell;
        }
    }
    let kernels: Vec<&str> = outcomes
        .iter()
        .map(|outcome| outcome.name.as_str())
        .collect();
    let width = rows
        .keys()
        .map(|claim| claim.len())
        .max()
        .unwrap_or_default();
    let line = |claim: &str, cells: &[&str]| {
        let cells = cells.iter().zip(&kernels);
        let cells: String = cells
            .map(|(cell, kernel)| format!("  {cell:>width$}", width = kernel.len().max(7)))
            .collect();
        format!("{claim:<width$}{cells}\n")
    };
    let head = line("claim", &kernels);
    rows.iter()
        .fold(head, |table, (claim, cells)| table + &line(claim, cells))
}

fn list(choices: &[Choice]) -> String {
    let names: Vec<String> = choices.iter().map(Choice::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first column of the manual's table of kernels.
    fn promised() -> Vec<String> {
        let manual = gre_build::workspace().join("docs/operation.md");
        let manual = std::fs::read_to_string(manual).expect("the manual can be read");
        let (_, table) = manual
            .split_once("| Linux | shipped by | tested since |\n| --- | --- | --- |\n")
            .expect("the manual has a table of kernels");
        let rows = table.lines().map_while(|line| line.strip_prefix("| "));
        rows.filter_map(|row| Some(row.split_once(" |")?.0.to_owned()))
            .collect()
    }

    #[test]
    fn the_manual_promises_the_kernels_of_the_matrix() {
        let tested = KERNELS.into_iter().filter(|name| {
            name.parse::<Series>()
                .map_or(true, |series| series >= OLDEST)
        });
        assert_eq!(promised(), tested.collect::<Vec<_>>());
    }

    #[test]
    fn the_oldest_kernel_is_in_the_matrix() {
        assert!(KERNELS.contains(&OLDEST.to_string().as_str()));
    }
}
