//! `cargo xtask lint`: formatting, clippy with warnings denied, and the rules on dependencies in `deny.toml`.

mod dependencies;

use anyhow::Result;

use crate::{command, setup};

pub(crate) fn run() -> Result<()> {
    setup::run()?;
    command::run(command::cargo().args(["fmt", "--all", "--check"]))?;
    command::run(
        command::cargo()
            .args([
                "clippy",
                "--workspace",
                "--exclude",
                "gre-ebpf",
                "--exclude",
                "gre-bench-ebpf",
                "--all-targets",
            ])
            .args(["--", "-D", "warnings"]),
    )?;
    // Compiled for the host, where clippy and the library it needs are those of the host's toolchain. A program
    // without the standard library must not unwind.
    command::run(
        command::cargo()
            .env("CARGO_PROFILE_DEV_PANIC", "abort")
            .args(["clippy", "--package", "gre-ebpf"])
            .args(["--package", "gre-bench-ebpf", "--", "-D", "warnings"]),
    )?;
    dependencies::check()
}
