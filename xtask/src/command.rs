//! Runs other programs for the tasks: each line that starts something long is shown, output goes to the terminal as
//! it comes, and a failure names the whole command line.

use std::{
    env,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A command in the workspace root, with standard input closed.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(gre_build::workspace())
        .stdin(Stdio::null());
    command
}

/// The cargo that runs this xtask. What `cargo run` sets for its children and a build script would take for a change
/// is removed: tasks and the developer's own `cargo build` share one set of artefacts.
pub(crate) fn cargo() -> Command {
    let mut command = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Shows the command and runs it to its end. Its output is news, not a result, and goes to standard error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    show(command);
    let status = command
        .stdout(io::stderr())
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} failed with {status}", readable(command));
    }
    Ok(())
}

/// Runs a command of no interest: what it prints is shown only if it fails.
pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{} failed with {}\n{}",
            readable(command),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Like [`run`], but ends the command after `limit`.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    show(command);
    let mut child = command
        .stdout(io::stderr())
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let end = Instant::now() + limit;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("{} failed with {status}", readable(command)),
            None if Instant::now() >= end => {
                child.kill()?;
                child.wait()?;
                bail!(
                    "{} did not end within {} s",
                    readable(command),
                    limit.as_secs()
                );
            }
            None => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Where `program` is installed. The system directories count also where a user's `PATH` lacks them.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// The command as one would type it: variables set for it, program, arguments.
pub(crate) fn readable(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(line, "{}={} ", name.display(), value.display());
        }
    }
    let program = Path::new(command.get_program());
    let _ = write!(
        line,
        "{}",
        program.file_name().unwrap_or_default().display()
    );
    for argument in command.get_args() {
        let _ = write!(line, " {}", argument.display());
    }
    line
}

fn show(command: &Command) {
    eprintln!("xtask: {}", readable(command));
}
