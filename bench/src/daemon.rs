//! A running `gregw`, whichever build of it: `updates` applies a configuration to one, `against` compares the programs of
//! two.
//!
//! What it leaves is in the mounts of this process only (see `namespace::isolate_mounts`), and it ends with this process.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::programs::ProgramInfo;
use gre_userspace::object;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::namespace::PINS;

/// A daemon in the network namespace that it was started from.
pub(crate) struct Daemon {
    binary: PathBuf,
    instance: String,
    process: Child,
}

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
const FILES: &str = "/run";

impl Daemon {
    /// Starts an instance of a build of gregw and returns once it answers.
    ///
    /// # Errors
    /// With its log, if it ends or does not answer.
    pub(crate) fn start(binary: &Path, instance: &str, configuration: &str) -> Result<Self> {
        let file = write_file(&format!("{instance}.toml"), configuration)?;
        let log = log_file(instance);
        let log = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut run = command(binary, instance, "run");
        run.arg("-c").arg(file).stderr(log);
        end_with_this_process(&mut run);
        let process = run
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let mut daemon = Self {
            binary: binary.to_owned(),
            instance: instance.to_owned(),
            process,
        };
        daemon.wait_for_answer()?;
        Ok(daemon)
    }

    /// A command of the same build for this instance.
    pub(crate) fn command(&self, name: &str) -> Command {
        command(&self.binary, &self.instance, name)
    }

    /// Its program that is attached to devices.
    pub(crate) fn program(&self) -> Result<ProgramInfo> {
        let path = self.pins().join("progs").join(object::GATEWAY);
        ProgramInfo::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(log_file(&self.instance)).unwrap_or_default()
    }

    fn wait_for_answer(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut show = self.command("show");
            let answer = show.arg("device").output().context("cannot run gregw")?;
            if answer.status.success() {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("gregw run ended with {status}:\n{}", self.log());
            }
            if Instant::now() >= end {
                bail!("gregw run does not answer:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn pins(&self) -> PathBuf {
        Path::new(PINS).join(&self.instance)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself, before it pinned anything.
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Pinned maps would keep their memory, and a daemon of the same name would take them over.
        let _ = fs::remove_dir_all(self.pins());
    }
}

/// The build of gregw that lies beside this program.
pub(crate) fn beside_this() -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot find the running program's own path")?;
    Ok(this.with_file_name("gregw"))
}

/// Writes a file that only this process and its daemons see.
pub(crate) fn write_file(name: &str, text: &str) -> Result<PathBuf> {
    let path = Path::new(FILES).join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn log_file(instance: &str) -> PathBuf {
    Path::new(FILES).join(format!("{instance}.log"))
}

fn command(binary: &Path, instance: &str, name: &str) -> Command {
    let mut command = Command::new(binary);
    command.args(["--instance", instance, name]);
    command.stdin(Stdio::null());
    command
}

fn end_with_this_process(command: &mut Command) {
    let prepare = || set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}
