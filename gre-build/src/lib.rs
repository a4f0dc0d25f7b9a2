//! Compiles the workspace's BPF programs into the objects that host programs embed.
//!
//! Called by build scripts ([`embed`]), so that every plain `cargo build` embeds a fresh object, and by `cargo xtask`,
//! which installs what [`Toolchain::find`] and [`linker::find`] look for. All get the same object: the compiler, the
//! flags and the environment of the inner cargo are chosen here and nowhere else.

mod embed;
pub mod linker;
mod object;
pub mod program;
mod toolchain;

use std::path::{Path, PathBuf};

pub use embed::embed;
pub use object::{compile, target_directory};
pub use toolchain::{NIGHTLY, Toolchain};

/// A binary of this workspace that is compiled for the BPF target.
#[derive(Debug, Clone, Copy)]
pub struct Object {
    /// Its package.
    pub package: &'static str,
    /// The binary.
    pub binary: &'static str,
    /// Packages whose sources go into it, as directories relative to [`workspace`].
    pub directories: &'static [&'static str],
}

/// The data plane.
pub const GATEWAY: Object = Object {
    package: "gre-ebpf",
    binary: "gregw",
    directories: &["gre-common", "gre-ebpf"],
};

/// What the benchmark measures the data plane with.
pub const BENCH: Object = Object {
    package: "gre-bench-ebpf",
    binary: "gre-bench-programs",
    directories: &["bench/ebpf"],
};

/// What the benchmark compares the look-up of routes with.
pub const LOOK_UP: Object = Object {
    package: "gre-bench-ebpf",
    binary: "gre-bench-lookup",
    directories: &["bench/ebpf", "gre-common"],
};

/// What can go wrong between sources and object.
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
    /// [`embed`] was called by something other than a build script.
    #[error("OUT_DIR is not set: run this through cargo")]
    NoBuildScript,
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

/// The root of this workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}
