//! Finds `bpf-linker`, which turns the compiler's bitcode into a BPF object. `cargo xtask setup` installs it.

use std::path::PathBuf;

use crate::{Error, program};

/// The version that `cargo xtask setup` installs, and the oldest that is accepted.
pub const VERSION: &str = "0.13.0";

/// Flags for the linker, each without its `-C link-arg=`.
///
/// Wire formats have alignment 1, and without the second flag LLVM reads a key or an address from them byte by byte.
/// The verifier accepts unaligned loads from packets and maps wherever the processor has them
/// (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`: x86-64, arm64 and every other host of gregw).
pub(crate) const ARGUMENTS: [&str; 2] = ["--btf", "--cpu-features=+allows-misaligned-mem-access"];

/// The linker's path.
///
/// # Errors
/// [`Error::NoLinker`] if none is new enough.
pub fn find() -> Result<PathBuf, Error> {
    program::find("bpf-linker", VERSION).ok_or(Error::NoLinker)
}
