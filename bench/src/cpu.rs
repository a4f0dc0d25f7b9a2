//! The CPUs that things are measured on.

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const THIS_THREAD: Pid = Pid::from_raw(0);

/// Keeps the thread, and with it all packet processing that it causes, on the last CPU: the first one usually has the
/// machine's other interrupts.
pub(crate) fn stay_on_one() -> Result<()> {
    stay_on(last(1)?[0])
}

/// The last CPUs that the process may run on.
///
/// # Errors
/// If there are fewer.
pub(crate) fn last(count: usize) -> Result<Vec<usize>> {
    // The main thread may be kept on one already; process 1 is not.
    let allowed =
        sched_getaffinity(Pid::from_raw(1)).context("cannot find out the allowed CPUs")?;
    let cpus: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or_default())
        .collect();
    ensure!(
        count <= cpus.len(),
        "this takes {count} CPUs, and there are {}",
        cpus.len()
    );
    Ok(cpus[cpus.len() - count..].to_vec())
}

/// Keeps the thread on a CPU.
pub(crate) fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(THIS_THREAD, &set).with_context(|| format!("cannot stay on CPU {cpu}"))
}

/// While it lives, the thread runs before all ordinary ones.
pub(crate) struct First(());

impl First {
    /// Lets the thread come first. (A nice value would count only within its session.)
    pub(crate) fn new() -> Result<Self> {
        set_scheduler(libc::SCHED_FIFO, 1)
            .context("cannot come before other threads: run this as root")?;
        Ok(Self(()))
    }
}

impl Drop for First {
    fn drop(&mut self) {
        // It was an ordinary thread, which any may become again.
        let _ = set_scheduler(libc::SCHED_OTHER, 0);
    }
}

fn set_scheduler(policy: i32, priority: i32) -> nix::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the parameters live through the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    Errno::result(result).map(drop)
}
