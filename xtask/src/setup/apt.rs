//! Programs from the distribution's archive, through apt.

use std::{collections::BTreeSet, process::Command, sync::Once};

use anyhow::{Result, bail};

use super::is_root;
use crate::command;

/// Programs that tests, demo, bench and the build call, each with its Debian package.
pub(super) const PROGRAMS: [(&str, &str); 10] = [
    ("bpftool", "bpftool"),
    ("c++", "build-essential"),
    ("cc", "build-essential"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("strace", "strace"),
    ("systemd-analyze", "systemd"),
    ("tc", "iproute2"),
    ("tcpdump", "tcpdump"),
];

/// Programs that boot other kernels, and prepare these.
pub(super) const EMULATOR: [(&str, &str); 4] = [
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("xz", "xz-utils"),
];

/// Installs the packages of all missing programs.
pub(super) fn install_programs(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<(&str, &str)> = programs
        .iter()
        .copied()
        .filter(|(program, _)| command::find(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_available() {
        let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
        bail!(
            "these programs are missing, and there is no apt-get to install them with: {}",
            programs.join(", ")
        );
    }
    let packages: BTreeSet<&str> = missing.iter().map(|(_, package)| *package).collect();
    update();
    install(&Vec::from_iter(packages))
}

pub(super) fn is_available() -> bool {
    command::find("apt-get").is_some()
}

/// Fetches the archive's package lists, once. An archive that cannot be reached is reported by apt-get itself; lists
/// fetched earlier may still do.
pub(super) fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if is_root()
            && let Err(error) = command::run(apt_get().arg("update"))
        {
            eprintln!("xtask: {error}; going on with the package lists that are there");
        }
    });
}

/// Installs `packages`, or says which command root has to run.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    if !is_root() {
        bail!(
            "these packages are missing; install them as root, then repeat:\n  apt-get update && apt-get install -y {}",
            packages.join(" ")
        );
    }
    command::run(
        apt_get()
            .args(["install", "-y", "--no-install-recommends"])
            .args(packages),
    )
}

/// The version of `package` that `install` would install, if apt knows the package at all.
pub(super) fn candidate(package: &str) -> Option<String> {
    let output = command::command("apt-cache")
        .args(["policy", package])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

fn apt_get() -> Command {
    let mut apt_get = command::command("apt-get");
    apt_get.env("DEBIAN_FRONTEND", "noninteractive");
    apt_get
}
