//! `cargo xtask setup`: installs whatever the other tasks need and is missing. Every task begins with it, so it takes
//! no time when nothing is missing. What needs root and does not have it is named as a command to run.

mod apt;
mod bpf_linker;
mod toolchain;

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::statfs,
    unistd::geteuid,
};

const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FILE_SYSTEM_MAGIC: i64 = 0xcafe_4a11;

pub(crate) fn run() -> Result<()> {
    apt::install_programs(&apt::PROGRAMS)?;
    toolchain::install()?;
    bpf_linker::install()?;
    mount_bpf_file_system()
}

/// What guests need; large, so that only who runs them installs it.
pub(crate) fn install_emulator() -> Result<()> {
    apt::install_programs(&apt::EMULATOR)
}

pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Maps and links are pinned there. Only root can load them in the first place, so others do without.
fn mount_bpf_file_system() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mounted = statfs(BPF_FILE_SYSTEM)
        .is_ok_and(|found| found.filesystem_type().0 == BPF_FILE_SYSTEM_MAGIC);
    if mounted {
        return Ok(());
    }
    eprintln!("xtask: mount -t bpf -o mode=0700 bpf {BPF_FILE_SYSTEM}");
    mount(
        Some("bpf"),
        BPF_FILE_SYSTEM,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .with_context(|| format!("cannot mount the BPF file system on {BPF_FILE_SYSTEM}"))
}
