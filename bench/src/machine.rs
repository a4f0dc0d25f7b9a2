//! The machine that figures come from.

use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

/// What figures depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The processor's name.
    pub(crate) cpu: String,
}

impl Machine {
    /// The one that this runs on.
    pub(crate) fn this() -> Self {
        Self {
            kernel: kernel(),
            cpu: cpu(),
        }
    }
}

fn kernel() -> String {
    uname().map_or_else(
        |_| "unknown".to_owned(),
        |names| names.release().to_string_lossy().into_owned(),
    )
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or_else(
            || std::env::consts::ARCH.to_owned(),
            |(_, name)| name.to_owned(),
        )
}
