//! `gre-demo`: the main job of gregw, shown for real. `cargo xtask demo` builds and runs it, as root.
//!
//! Builds namespaces and links, runs `gregw` and `gre-site`, sends traffic, and tells what it does and what came of it.
//! Whatever ends it (a failed step, a signal, a panic of the harness), everything is taken down again.

mod interrupt;
mod isolation;
mod places;
mod play;
mod reach;
mod script;
mod site;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use anyhow::{Result, anyhow, ensure};
use nix::unistd::Uid;

use crate::interrupt::Interrupt;

fn main() -> ExitCode {
    let interrupt = match prepare() {
        Ok(interrupt) => interrupt,
        Err(error) => return fail(&error),
    };
    let outcome = guarded(|| play::run(&interrupt));
    match (interrupt.signal(), outcome) {
        (0, Ok(())) => ExitCode::SUCCESS,
        (0, Err(error)) => fail(&error),
        (signal, _) => {
            fail(&anyhow!("interrupted; everything is cleaned up"));
            ExitCode::from(128 + signal)
        }
    }
}

fn prepare() -> Result<Interrupt> {
    ensure!(
        Uid::effective().is_root(),
        "network namespaces and XDP need root; run: sudo {}",
        std::env::current_exe()?.display()
    );
    Interrupt::install()
}

/// Turns a panic of the harness, whose message says what failed, into an error. Values are dropped on the way, which
/// takes everything down.
fn guarded(action: impl FnOnce() -> Result<()>) -> Result<()> {
    panic::set_hook(Box::new(|_| {}));
    panic::catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|payload| {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        Err(anyhow!(message.unwrap_or("unknown failure").to_owned()))
    })
}

fn fail(error: &anyhow::Error) -> ExitCode {
    use std::io::Write;
    // Standard error may be closed; that must not end the process early.
    let _ = writeln!(std::io::stderr(), "gre-demo: {error:#}");
    ExitCode::FAILURE
}
