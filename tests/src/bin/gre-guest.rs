//! Process 1 of a guest of `cargo xtask test --tier 5`: makes the file systems that programs expect, runs the jobs of
//! `/jobs.json` one after the other, reports over a serial port of the emulator, and switches the guest off.
//!
//! A line of the report is `begin N`, `| text` or `end STATUS` (a dash where a signal ended the job); any other tells why
//! the guest could not go on.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, Write, pipe};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gre_tests::wait;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use serde::Deserialize;

/// File systems by their mount points.
const FILE_SYSTEMS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("bpf", "/sys/fs/bpf"),
];
/// Where all programs are, and the other names of that directory.
const PROGRAMS: &str = "/usr/sbin";
const ALIASES: [&str; 3] = ["/bin", "/sbin", "/usr/bin"];
/// What the kernel does not ask for by itself.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_console", "virtio_net"];
/// The name of the serial port, as the emulator gives it.
const PORT: &str = "report";

#[derive(Deserialize)]
struct Job {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

fn main() {
    if let Err(error) = run() {
        // The console is all that is left.
        eprintln!("gre-guest: {error}");
    }
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("gre-guest: cannot switch off: {error}");
}

fn run() -> Result<(), Box<dyn Error>> {
    for (kind, place) in FILE_SYSTEMS {
        fs::create_dir_all(place)?;
        mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .map_err(|error| format!("cannot mount {kind} on {place}: {error}"))?;
    }
    for alias in ALIASES {
        symlink(PROGRAMS, alias)?;
    }
    for module in MODULES {
        // One that is built in may be unknown by name; what is really missing shows when it is used.
        command("modprobe").args(["--quiet", module]).status()?;
    }
    let mut report = report()?;
    if let Err(error) = run_jobs(&mut report) {
        writeln!(report, "error {error}")?;
    }
    Ok(())
}

fn run_jobs(report: &mut File) -> Result<(), Box<dyn Error>> {
    let status = command("ip").args(["link", "set", "lo", "up"]).status()?;
    if !status.success() {
        return Err(format!("cannot bring the loopback device up: {status}").into());
    }
    let jobs: Vec<Job> = serde_json::from_str(&fs::read_to_string("/jobs.json")?)?;
    for (number, job) in jobs.iter().enumerate() {
        writeln!(report, "begin {number}")?;
        let (mut child, output) =
            start(job).map_err(|error| format!("cannot run {}: {error}", job.program))?;
        for line in BufReader::new(output).split(b'\n') {
            writeln!(report, "| {}", String::from_utf8_lossy(&line?))?;
        }
        match child.wait()?.code() {
            Some(code) => writeln!(report, "end {code}")?,
            None => writeln!(report, "end -")?,
        }
    }
    Ok(())
}

/// Starts a job; both its outputs come out of the pipe, which ends with the last process that holds it.
fn start(job: &Job) -> Result<(Child, PipeReader), Box<dyn Error>> {
    let (output, input) = pipe()?;
    let child = command(&job.program)
        .args(&job.arguments)
        .envs(job.environment.iter().map(|(name, value)| (name, value)))
        .stdout(input.try_clone()?)
        .stderr(input)
        .spawn()?;
    Ok((child, output))
}

fn command(program: &str) -> Command {
    let mut command = Command::new(Path::new(PROGRAMS).join(program));
    command
        .env_clear()
        .env("PATH", PROGRAMS)
        .env("HOME", "/root")
        .env("GREGW", Path::new(PROGRAMS).join("gregw"))
        .current_dir("/root")
        .stdin(Stdio::null());
    command
}

/// Opens the serial port, which appears some time after its driver.
fn report() -> Result<File, Box<dyn Error>> {
    let mut found = None;
    wait::until(|| {
        found = port();
        found.is_some()
    });
    let path = found.ok_or("there is no serial port of this name")?;
    Ok(File::options().write(true).open(path)?)
}

fn port() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let mut ports = ports.flatten().map(|port| port.path());
    let port = ports
        .find(|port| fs::read_to_string(port.join("name")).is_ok_and(|name| name.trim() == PORT))?;
    Some(Path::new("/dev").join(port.file_name()?)).filter(|path| path.exists())
}
