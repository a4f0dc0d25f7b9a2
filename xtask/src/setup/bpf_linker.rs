//! `bpf-linker`, built against the distribution's LLVM.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use gre_build::linker;

use super::apt;
use crate::command;

const LLVM_PACKAGE: &str = "llvm-22-dev";
/// Where Debian and Ubuntu put that package.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LLVM_FEATURE: &str = "llvm-22";

pub(super) fn install() -> Result<()> {
    if linker::find().is_ok() {
        return Ok(());
    }
    let prefix = llvm()?;
    command::run(
        command::cargo()
            .env("LLVM_PREFIX", prefix)
            .args([
                "install",
                "bpf-linker",
                "--locked",
                "--version",
                linker::VERSION,
            ])
            .args(["--no-default-features", "--features", LLVM_FEATURE]),
    )?;
    linker::find()?;
    Ok(())
}

/// The prefix of an LLVM 22 with headers and libraries, installed if need be.
fn llvm() -> Result<PathBuf> {
    if let Some(prefix) = env::var_os("LLVM_PREFIX") {
        return Ok(prefix.into());
    }
    let prefix = Path::new(LLVM_PREFIX);
    if !prefix.join("lib/libLLVM.so").exists() {
        if !apt::is_available() {
            bail!(
                "bpf-linker {} needs LLVM 22: install it, set LLVM_PREFIX to where it lies (the directory with \
                 lib/libLLVM.so), then repeat",
                linker::VERSION
            );
        }
        apt::update();
        apt::install(&[LLVM_PACKAGE])?;
    }
    Ok(prefix.to_path_buf())
}
