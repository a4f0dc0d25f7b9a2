//! Compiles `gre-ebpf` into the BPF object that the `gregw` binary embeds.
//!
//! Called by the build script of `gre-userspace`, so that every plain `cargo build` embeds a fresh object, and by
//! `cargo xtask`, which installs what [`Toolchain::find`] and [`linker::find`] look for. Both get the same object:
//! the compiler, the flags and the environment of the inner cargo are chosen here and nowhere else.

pub mod linker;
mod object;
pub mod program;
mod toolchain;

use std::path::{Path, PathBuf};

pub use object::{compile, target_directory};
pub use toolchain::{NIGHTLY, Toolchain};

/// What can go wrong between the sources of `gre-ebpf` and its object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a usable nightly nor the distribution's compiler is installed.
    #[error(
        "no Rust compiler with the sources of `core` found (a nightly with rust-src, or Debian's rustc-web \
         and rust-web-src): run `cargo xtask setup`"
    )]
    NoToolchain,
    /// `bpf-linker` is missing or older than [`linker::VERSION`].
    #[error(
        "bpf-linker {} or newer is not installed: run `cargo xtask setup`",
        linker::VERSION
    )]
    NoLinker,
    /// A program or file could not be used at all.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as an infinitive: "run", "create".
        action: &'static str,
        /// The program or file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The compiler or the linker refused; its messages are on standard error.
    #[error("the BPF object did not compile (messages above); the command was:\n  {command}")]
    Compile {
        /// The inner cargo's command line.
        command: String,
    },
}

/// The sources whose change makes the object stale: watch these, relative to [`workspace`].
pub const SOURCES: [&str; 8] = [
    "Cargo.toml",
    "Cargo.lock",
    "gre-common/Cargo.toml",
    "gre-common/src",
    "gre-ebpf/Cargo.toml",
    "gre-ebpf/src",
    "gre-build/Cargo.toml",
    "gre-build/src",
];

/// The root of this workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}
