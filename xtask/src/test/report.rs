//! Runs test binaries of Rust's own harness, shows all their output, and counts from it what passed, failed and was
//! skipped.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

/// What a test prints that cannot run here, followed by the reason.
const SKIP_MARK: &str = "SKIPPED: ";

/// The outcome of any number of test binaries.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) passed: usize,
    /// "binary: test", of the harness and of checks.
    pub(super) passed_names: Vec<String>,
    /// "binary: test"
    pub(super) failed: Vec<String>,
    /// What the failed tests printed, line by line.
    pub(super) failures: Vec<String>,
    /// "binary: test: reason"
    pub(super) skipped: Vec<String>,
}

impl Report {
    /// Runs one binary and adds its outcome.
    pub(super) fn run(
        &mut self,
        name: &str,
        mut command: Command,
        filter: Option<&str>,
    ) -> Result<()> {
        println!("\n{name}");
        let mut child = command
            .args(filter)
            // Also of tests that pass, for the reasons of those that skip.
            .arg("--show-output")
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {name}"))?;
        let mut output = HarnessOutput::default();
        let lines = child
            .stdout
            .take()
            .context("the test's output is not piped")?;
        for line in BufReader::new(lines).split(b'\n') {
            let line = line.with_context(|| format!("cannot read the output of {name}"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            output.read(&line);
        }
        let status = child.wait()?;
        let how = (!status.success()).then(|| status.to_string());
        self.add(name, output.ended(how));
        Ok(())
    }

    /// Adds what a binary printed that ran elsewhere; `failure` says how it ended, if not well.
    pub(super) fn add_output(&mut self, name: &str, lines: &[String], failure: Option<String>) {
        let mut output = HarnessOutput::default();
        lines.iter().for_each(|line| output.read(line));
        self.add(name, output.ended(failure));
    }

    /// Adds another report.
    pub(super) fn extend(&mut self, other: Self) {
        self.passed += other.passed;
        self.passed_names.extend(other.passed_names);
        self.failed.extend(other.failed);
        self.failures.extend(other.failures);
        self.skipped.extend(other.skipped);
    }

    /// Adds a check that is no test of the harness: `found` is what is wrong, if anything is.
    pub(super) fn check(&mut self, name: &str, found: &[String]) {
        if found.is_empty() {
            println!("test {name} ... ok");
            self.passed += 1;
            self.passed_names.push(name.to_owned());
            return;
        }
        println!("test {name} ... FAILED");
        self.failed.push(name.to_owned());
        self.failures.push(format!("---- {name} ----"));
        self.failures.extend(found.iter().cloned());
    }

    fn add(&mut self, name: &str, output: HarnessOutput) {
        let is_skipped = |test: &String| output.skipped.iter().any(|skip| skip.test == *test);
        let passed = output.passed_names.iter().filter(|test| !is_skipped(test));
        self.passed_names
            .extend(passed.map(|test| format!("{name}: {test}")));
        self.passed += output.passed - output.skipped.iter().filter(|skip| !skip.ignored).count();
        self.failed
            .extend(output.failed.iter().map(|test| format!("{name}: {test}")));
        self.failures.extend(output.failures);
        self.skipped.extend(
            output
                .skipped
                .iter()
                .map(|skip| format!("{name}: {}: {}", skip.test, skip.reason)),
        );
    }
}

/// Reads the harness's output line by line.
#[derive(Debug, Default)]
struct HarnessOutput {
    passed: usize,
    passed_names: Vec<String>,
    failed: Vec<String>,
    failures: Vec<String>,
    skipped: Vec<Skip>,
    part: Part,
}

/// The parts that the harness prints one after the other, each maybe absent.
#[derive(Debug, Default)]
enum Part {
    /// Tests run; what the programs they start print may lie in between.
    #[default]
    Running,
    /// What each test printed that passed.
    Successes { test: Option<String> },
    /// What each test printed that failed, then (after a second heading) their names.
    Failures { names: bool },
}

#[derive(Debug)]
struct Skip {
    test: String,
    reason: String,
    /// Marked `#[ignore]`: the harness does not count it as passed.
    ignored: bool,
}

impl HarnessOutput {
    /// The whole output; a binary that failed without saying which test did has failed itself.
    fn ended(mut self, failure: Option<String>) -> Self {
        if let Some(how) = failure
            && self.failed.is_empty()
        {
            self.failed.push(format!("ended with {how}"));
        }
        self
    }

    fn read(&mut self, line: &str) {
        if line == "successes:" {
            self.part = Part::Successes { test: None };
        } else if line == "failures:" {
            self.part = Part::Failures { names: true };
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.end(result);
        } else if let Some(name) = section(line) {
            match &mut self.part {
                Part::Running => {}
                Part::Successes { test } => *test = Some(name.to_owned()),
                Part::Failures { names } => {
                    *names = false;
                    self.failures.push(line.to_owned());
                }
            }
        } else {
            self.read_within_part(line);
        }
    }

    fn read_within_part(&mut self, line: &str) {
        match &self.part {
            Part::Running => {
                if let Some((test, reason)) = ignored(line) {
                    self.skip(test.to_owned(), reason, true);
                }
            }
            Part::Successes { test: Some(test) } => {
                if let Some(reason) = line.strip_prefix(SKIP_MARK) {
                    self.skip(test.clone(), reason, false);
                }
            }
            Part::Failures { names: true } => {
                self.failed
                    .extend(line.strip_prefix("    ").map(str::to_owned));
            }
            Part::Failures { names: false } => self.failures.push(line.to_owned()),
            Part::Successes { test: None } => {
                self.passed_names
                    .extend(line.strip_prefix("    ").map(str::to_owned));
            }
        }
    }

    /// Reads the result line; after it another harness may begin (documentation examples of each package).
    fn end(&mut self, result: &str) {
        self.passed += count(result, " passed");
        self.part = Part::Running;
    }

    fn skip(&mut self, test: String, reason: &str, ignored: bool) {
        if self.skipped.iter().all(|skip| skip.test != test) {
            self.skipped.push(Skip {
                test,
                reason: reason.to_owned(),
                ignored,
            });
        }
    }
}

/// The test in `---- parse::tests::header stdout ----`.
fn section(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// The test and the reason in `test slow ... ignored, takes an hour`.
fn ignored(line: &str) -> Option<(&str, &str)> {
    let (test, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let reason = outcome.strip_prefix("ignored")?;
    Some((
        test,
        reason
            .strip_prefix(", ")
            .unwrap_or("ignored without a reason"),
    ))
}

/// The number before `what` in `ok. 12 passed; 0 failed; …`.
fn count(result: &str, what: &str) -> usize {
    let number = result
        .split_once(what)
        .and_then(|(before, _)| before.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(output: &str) -> Report {
        let mut read = HarnessOutput::default();
        output.lines().for_each(|line| read.read(line));
        let mut report = Report::default();
        report.add("suite", read);
        report
    }

    #[test]
    fn what_a_failed_test_printed_is_kept_for_the_end() {
        let report = report(
            "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nsuccesses:\n\n---- a stdout ----\nfine\n\n\
             successes:\n    a\n\nfailures:\n\n---- b stdout ----\nbroken\n\nfailures:\n    b\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(report.failed, ["suite: b"]);
        assert_eq!(report.passed_names, ["suite: a"]);
        assert_eq!(report.failures, ["---- b stdout ----", "broken", ""]);
    }

    #[test]
    fn a_skipped_test_is_not_counted_as_passed() {
        let report = report(
            "running 2 tests\ntest runs ... ok\ntest needs_root ... ok\n\nsuccesses:\n\n---- needs_root stdout ----\n\
             SKIPPED: needs root\nSKIPPED: needs root\n\n\nsuccesses:\n    needs_root\n    runs\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(report.passed, 1);
        assert_eq!(report.passed_names, ["suite: runs"]);
        assert_eq!(report.skipped, ["suite: needs_root: needs root"]);
        assert!(report.failed.is_empty());
    }

    #[test]
    fn an_ignored_test_is_skipped_with_its_reason() {
        let report = report(
            "test slow ... ignored, takes an hour\ntest runs ... ok\n\
             test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(report.passed, 1);
        assert_eq!(report.skipped, ["suite: slow: takes an hour"]);
    }

    #[test]
    fn a_test_that_fails_after_it_wanted_to_skip_has_failed() {
        let report = report(
            "test odd ... output of a child\nFAILED\n\nfailures:\n\n---- odd stdout ----\nSKIPPED: no\n    panicked\n\n\
             failures:\n    odd\n\n\
             test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!((report.passed, report.skipped.len()), (0, 0));
        assert_eq!(report.failed, ["suite: odd"]);
    }

    #[test]
    fn a_binary_that_dies_without_a_result_has_failed() {
        let mut report = Report::default();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo 'test one ... ok'; kill -9 $$"]);
        report.run("suite", shell, None).expect("the shell runs");
        assert_eq!(report.failed.len(), 1, "{report:?}");
    }
}
