//! Where the benchmark runs: network namespaces without a name and a BPF file system of its own.
//!
//! Nothing of it can be seen from outside, and the kernel takes all of it away when the process ends, however it ends.

use std::fs::{self, File};
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};

/// Where gregw pins its instances, each in a directory of its name.
pub(crate) const PINS: &str = "/sys/fs/bpf/gregw";

const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// Gives the process mounts of its own, with an empty BPF file system and an empty `/run`. Call it before any thread is started.
///
/// # Errors
/// Without CAP_SYS_ADMIN.
pub(crate) fn isolate_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)
        .context("cannot leave the machine's mounts: run this as root")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make the mounts private")?;
    for (kind, place) in [("bpf", BPF_FILE_SYSTEM), ("tmpfs", "/run")] {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), none)
            .with_context(|| format!("cannot mount a file system of type {kind} on {place}"))?;
    }
    Ok(())
}

/// A network namespace; it lasts as long as a clone of this.
#[derive(Clone)]
pub(crate) struct Namespace {
    file: Rc<File>,
}

impl Namespace {
    /// Creates a namespace and enters it. The kernel sends nothing of its own accord in there.
    pub(crate) fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET)
            .context("cannot create a network namespace: run this as root")?;
        let file = File::open("/proc/thread-self/ns/net").context("cannot open the namespace")?;
        for scope in ["all", "default"] {
            set(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
        }
        Ok(Self {
            file: Rc::new(file),
        })
    }

    /// Moves the calling thread into the namespace.
    pub(crate) fn enter(&self) -> Result<()> {
        setns(&*self.file, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")
    }
}

/// Runs a command line, split at blanks, in the calling thread's namespace.
pub(crate) fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output()
        .with_context(|| {
            format!("cannot run `{line}`: `cargo xtask setup` installs what it needs")
        })?;
    if !output.status.success() {
        bail!(
            "`{line}` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Sets a value below /proc/sys/net of the calling thread's namespace.
pub(crate) fn set(path: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/net/{path}"), value)
        .with_context(|| format!("cannot set net/{path} to {value}"))
}

/// The interface index of a device in the calling thread's namespace.
pub(crate) fn index(device: &str) -> Result<u32> {
    if_nametoindex(device).with_context(|| format!("there is no device {device}"))
}
