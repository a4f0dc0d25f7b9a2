//! Finds `bpf-linker`, which turns the compiler's bitcode into a BPF object. `cargo xtask setup` installs it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Error;

/// The version that `cargo xtask setup` installs, and the oldest that is accepted.
pub const VERSION: &str = "0.13.0";

/// Flags for the linker, each without its `-C link-arg=`.
///
/// Wire formats have alignment 1, and without the second flag LLVM reads a key or an address from them byte by byte.
/// Every architecture with a 64-bit BPF JIT that gregw runs on has efficient unaligned access, and the verifier then
/// accepts such loads from packets and maps (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`).
pub(crate) const ARGUMENTS: [&str; 2] = ["--btf", "--cpu-features=+allows-misaligned-mem-access"];

/// The linker's path: cargo's own program directory first, then `PATH`.
///
/// # Errors
/// [`Error::NoLinker`] if none is new enough.
pub fn find() -> Result<PathBuf, Error> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    cargo_home
        .map(|home| home.join("bin"))
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| version(candidate).is_some_and(|version| version >= parse(VERSION)))
        .ok_or(Error::NoLinker)
}

fn version(linker: &Path) -> Option<Vec<u32>> {
    let output = Command::new(linker).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(parse(text.trim().strip_prefix("bpf-linker ")?))
}

fn parse(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}
