//! Finds the Rust compiler that builds `core` for the BPF target.
//!
//! The rule is fixed, so that two builds on one machine agree: a nightly that already has `rust-src`, else the
//! distribution's compiler with its library sources. Nothing is installed here; `cargo xtask setup` does that.
//! Toolchain directories are used directly, never through rustup's proxies: those would obey `RUSTUP_TOOLCHAIN` and
//! directory overrides meant for the host build.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Error;

/// The nightly that `cargo xtask setup` asks rustup for where no other compiler is to be had: its LLVM is the one
/// that [`crate::linker`] is built with.
pub const NIGHTLY: &str = "nightly-2026-05-20";

/// The newest LLVM whose bitcode `bpf-linker` reads.
const NEWEST_LLVM: u32 = 22;
/// The workspace's `rust-version`, as a minor version of Rust 1.
const OLDEST_RUST: u32 = 95;

/// A cargo and the rustc that belongs to it.
#[derive(Debug, Clone)]
pub struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
}

impl Toolchain {
    /// The toolchain to use, by the rule in the head of this file.
    ///
    /// # Errors
    /// [`Error::NoToolchain`] if nothing suitable is installed.
    pub fn find() -> Result<Self, Error> {
        Self::nightly()
            .or_else(Self::distribution)
            .ok_or(Error::NoToolchain)
    }

    /// The newest nightly of rustup that has `rust-src` and an LLVM the linker can read. The undated `nightly` comes
    /// before the dated ones.
    #[must_use]
    pub fn nightly() -> Option<Self> {
        let mut directories: Vec<PathBuf> = fs::read_dir(rustup_home()?.join("toolchains"))
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| file_name(path).starts_with("nightly-"))
            .collect();
        directories.sort_by_key(|path| {
            let dated =
                file_name(path)["nightly-".len()..].starts_with(|c: char| c.is_ascii_digit());
            (dated, std::cmp::Reverse(path.clone()))
        });
        directories.iter().find_map(|directory| {
            Self::usable(
                &directory.join("bin"),
                &directory.join("lib/rustlib/src/rust"),
            )
        })
    }

    /// The distribution's own compiler, if its library sources are installed too.
    #[must_use]
    pub fn distribution() -> Option<Self> {
        Self::usable(
            Path::new("/usr/bin"),
            Path::new("/usr/lib/rustlib/src/rust"),
        )
    }

    /// The `cargo` program.
    #[must_use]
    pub fn cargo(&self) -> &Path {
        &self.cargo
    }

    /// The `rustc` program.
    #[must_use]
    pub fn rustc(&self) -> &Path {
        &self.rustc
    }

    fn usable(programs: &Path, sources: &Path) -> Option<Self> {
        let toolchain = Self {
            cargo: programs.join("cargo"),
            rustc: programs.join("rustc"),
        };
        let complete = sources.join("library/core/Cargo.toml").exists() && toolchain.cargo.exists();
        (complete && toolchain.is_compatible()).then_some(toolchain)
    }

    fn is_compatible(&self) -> bool {
        let Ok(output) = Command::new(&self.rustc)
            .arg("-vV")
            .env_remove("LD_LIBRARY_PATH")
            .output()
        else {
            return false;
        };
        let version = String::from_utf8_lossy(&output.stdout);
        let number = |prefix: &str| {
            let line = version.lines().find_map(|line| line.strip_prefix(prefix))?;
            line.split('.').next()?.parse::<u32>().ok()
        };
        number("release: 1.").is_some_and(|minor| minor >= OLDEST_RUST)
            && number("LLVM version: ").is_some_and(|major| major <= NEWEST_LLVM)
    }
}

fn rustup_home() -> Option<PathBuf> {
    env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".rustup")))
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}
