//! The one CPU that everything is measured on.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps the thread, and with it all packet processing that it causes, on the last CPU: the first one usually has the
/// machine's other interrupts.
pub(crate) fn stay_on_one() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("cannot find out the allowed CPUs")?;
    let last = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or_default())
        .max()
        .context("there is no CPU to run on")?;
    let mut set = CpuSet::new();
    set.set(last)?;
    sched_setaffinity(this, &set).context("cannot stay on one CPU")
}

/// Lets the thread run before all ordinary ones. (A nice value would count only within its session.)
pub(crate) fn come_first() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters live through the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    Errno::result(result)
        .map(drop)
        .context("cannot come before other threads: run this as root")
}
