//! The Rust compiler for the BPF target, with the sources of `core`. The rule: a nightly that already has
//! `rust-src`; else the distribution's own compiler; else a pinned nightly through rustup.

use std::time::Duration;

use anyhow::{Context, Result};
use gre_build::Toolchain;

use super::apt;
use crate::command;

/// A compiler and the sources of its library, in Debian's archive.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// The oldest compiler that the workspace's `rust-version` admits.
const OLDEST_RUST: (u32, u32) = (1, 95);
/// rustup downloads about 150 MB; on some networks it never gets an answer.
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);

pub(super) fn install() -> Result<()> {
    if Toolchain::find().is_ok() {
        return Ok(());
    }
    if apt::is_available() {
        apt::update();
        if archive_is_new_enough() {
            apt::install(&PACKAGES)?;
        }
    }
    if Toolchain::find().is_err() {
        install_nightly()?;
    }
    Toolchain::find()?;
    Ok(())
}

fn archive_is_new_enough() -> bool {
    PACKAGES.iter().all(|package| {
        apt::candidate(package).is_some_and(|version| {
            let mut numbers = version.split('.').map_while(|part| part.parse().ok());
            numbers.next().zip(numbers.next()) >= Some(OLDEST_RUST)
        })
    })
}

fn install_nightly() -> Result<()> {
    let nightly = gre_build::NIGHTLY;
    command::run_within(
        command::command("rustup").args([
            "toolchain", "install", nightly, "--profile", "minimal", "--component", "rust-src",
        ]),
        RUSTUP_LIMIT,
    )
    .with_context(|| {
        format!(
            "there is no Rust compiler with the sources of `core`, neither in apt's archives nor through rustup. Give \
             rustup a network connection, or install Debian's {}, or add rust-src to {nightly}; then repeat",
            PACKAGES.join(", ")
        )
    })
}
