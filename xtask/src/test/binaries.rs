//! Builds all test binaries, and the programs that they call, with a single cargo invocation: one per package would
//! resolve features differently and compile most dependencies again.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;

/// What belongs to the host: BPF programs compile for the BPF target only.
pub(super) const PACKAGES: [&str; 5] = [
    "--workspace",
    "--exclude",
    "gre-ebpf",
    "--exclude",
    "gre-bench-ebpf",
];

/// One executable of cargo's test harness.
pub(super) struct TestBinary {
    package: String,
    target: String,
    executable: PathBuf,
    directory: PathBuf,
}

/// Builds the workspace with its tests. The programs lie beside the test binaries, as with `cargo test`.
pub(super) fn build() -> Result<Vec<TestBinary>> {
    let mut cargo = command::cargo();
    cargo
        .arg("build")
        .args(PACKAGES)
        .args([
            "--lib",
            "--bins",
            "--tests",
            "--message-format=json-render-diagnostics",
        ])
        .stdout(Stdio::piped());
    eprintln!("xtask: {}", command::readable(&cargo));
    // Only standard output is collected; progress and diagnostics go to the terminal.
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the tests did not compile (messages above)");
    }
    let messages = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    let mut binaries = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's message is not JSON")?;
        binaries.extend(TestBinary::from_message(&message));
    }
    binaries.sort_by(|a, b| (&a.package, &a.target).cmp(&(&b.package, &b.target)));
    Ok(binaries)
}

impl TestBinary {
    /// Reads one `compiler-artifact` message (Cargo book, "External tools"); `None` if it is about something else.
    fn from_message(message: &Value) -> Option<Self> {
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            return None;
        }
        let manifest = Path::new(message["manifest_path"].as_str()?);
        let directory = manifest.parent()?;
        Some(Self {
            package: package_name(message["package_id"].as_str()?).to_owned(),
            target: message["target"]["name"].as_str()?.to_owned(),
            executable: message["executable"].as_str()?.into(),
            directory: directory.to_path_buf(),
        })
    }

    /// The tier that the tests belong to: replays are tier 1, `tests/tests/tierN_*.rs` are tier N, all others tier 0.
    pub(super) fn tier(&self) -> u8 {
        if self.package == "gre-fuzz" {
            return 1;
        }
        let number = self
            .target
            .strip_prefix("tier")
            .and_then(|rest| rest.split('_').next()?.parse().ok());
        number.unwrap_or(0)
    }

    /// The name of its source file.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// Where it lies.
    pub(super) fn executable(&self) -> &Path {
        &self.executable
    }

    /// Runs the tests as `cargo test` would: in the package's directory.
    pub(super) fn command(&self) -> Command {
        let mut command = command::command(&self.executable);
        command
            .current_dir(&self.directory)
            .env("CARGO_MANIFEST_DIR", &self.directory);
        // From tier 2 on tests share the machine: devices, the BPF file system, its time.
        if self.tier() >= 2 {
            command.arg("--test-threads=1");
        }
        command
    }
}

impl fmt::Display for TestBinary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.package, self.target)
    }
}

/// The name within a package id specification: `path+file:///…/gre-common#0.1.0` or `…/fuzz#gre-fuzz@0.1.0`.
fn package_name(id: &str) -> &str {
    let (url, fragment) = id.split_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => url.rsplit('/').next().unwrap_or(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(target: &str, test: bool) -> Value {
        json!({
            "reason": "compiler-artifact",
            "package_id": "path+file:///src/tests#gre-tests@0.1.0",
            "manifest_path": "/src/tests/Cargo.toml",
            "target": {"name": target},
            "profile": {"test": test},
            "executable": "/target/debug/deps/x",
        })
    }

    fn tier(target: &str) -> Option<u8> {
        TestBinary::from_message(&message(target, true)).map(|binary| binary.tier())
    }

    #[test]
    fn a_test_file_names_its_tier() {
        assert_eq!(tier("tier3_peering"), Some(3));
        assert_eq!(tier("gre_tests"), Some(0));
    }

    #[test]
    fn programs_are_not_taken_for_tests() {
        assert!(TestBinary::from_message(&message("gregw", false)).is_none());
    }

    #[test]
    fn a_package_is_named_by_its_directory_or_after_the_hash() {
        assert_eq!(
            package_name("path+file:///src/gre-common#0.1.0"),
            "gre-common"
        );
        assert_eq!(
            package_name("path+file:///src/tests#gre-tests@0.1.0"),
            "gre-tests"
        );
    }
}
