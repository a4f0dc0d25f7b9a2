//! How many files and sockets this process may have open: one for each device that carries the program, and a number that
//! is kept for all else, so that devices never take what API and metrics need.
//!
//! Called by `daemon` before a data plane is loaded or removed.

use gre_common::limits;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use crate::error::{Error, Result};
use crate::server::CONNECTIONS;

/// Kept for the connections of API and metrics, and for maps, programs and netlink.
const KEPT: rlim_t = 2 * CONNECTIONS as rlim_t + 128;
const WANTED: rlim_t = limits::DEVICES as rlim_t + KEPT;

/// Raises the limit to what all devices take, as far as that is allowed, and tells how many devices have room.
pub fn room_for_devices() -> Result<usize> {
    let limit = Resource::RLIMIT_NOFILE;
    let fail = |source| Error::system("read the limit on open files", source);
    let (soft, hard) = getrlimit(limit).map_err(fail)?;
    if soft < WANTED {
        // Beyond the hard limit only with CAP_SYS_RESOURCE.
        let _ = setrlimit(limit, WANTED, hard.max(WANTED))
            .or_else(|_| setrlimit(limit, hard.min(WANTED), hard));
    }
    let (soft, _) = getrlimit(limit).map_err(fail)?;
    let room = usize::try_from(soft.saturating_sub(KEPT)).unwrap_or(usize::MAX);
    if room < limits::DEVICES {
        tracing::warn!(
            "{soft} files may be open, which is room for {room} devices instead of {}: raise the hard limit (systemd: \
             LimitNOFILE={WANTED})",
            limits::DEVICES
        );
    }
    Ok(room.min(limits::DEVICES))
}
