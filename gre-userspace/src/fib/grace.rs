//! Waiting until no packet reads a retired block any more.
//!
//! The heap waits before it hands a retired block out again.

use std::io;

/// A way to wait for all readers that began before the call.
pub trait GracePeriod {
    /// Returns once every look-up that was under way at the time of the call has ended.
    fn wait(&mut self) -> io::Result<()>;
}

/// Grace periods of the kernel's data plane.
///
/// XDP programs run inside an RCU read-side section, and `MEMBARRIER_CMD_GLOBAL` is
/// `synchronize_rcu()` (kernel/sched/membarrier.c). It takes some 10 ms, so it is called for many
/// blocks at once. The kernel refuses it with `EINVAL` where `nohz_full` is on.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelGracePeriod;

impl GracePeriod for KernelGracePeriod {
    fn wait(&mut self) -> io::Result<()> {
        // SAFETY: membarrier(2) takes three integers and touches no memory of ours.
        let result =
            unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
