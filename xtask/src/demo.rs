//! `cargo xtask demo`: builds gregw and shows what it does, with `gre-demo` of the tests crate.
//!
//! The demonstration takes this process's place, so that Ctrl-C and SIGTERM reach it and it can clean up.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, bail};

use crate::{build, command, setup};

pub(crate) fn run() -> Result<()> {
    build::run(&build::Arguments::default())?;
    command::run(command::cargo().args([
        "build",
        "--package",
        "gre-tests",
        "--bin",
        "gre-demo",
        "--bin",
        "gre-site",
    ]))?;
    let program = build::target_directory()?.join("debug/gre-demo");
    if !setup::is_root() {
        bail!(
            "everything is built, but network namespaces and XDP need root; now run:\n  sudo {}",
            program.display()
        );
    }
    let error = command::command(&program).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
