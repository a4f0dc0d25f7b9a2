//! What gregw's programs cost, against the stored figures; and that too much is noticed.

use std::fs;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

const BUDGET: &str = include_str!("../budget.toml");

#[test]
fn no_program_costs_more_than_stored() {
    let Some(output) = check(BUDGET) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("tunnel_to_tunnel: time"), "{text}");
}

#[test]
fn a_program_that_costs_more_than_stored_is_named() {
    let falsified = BUDGET.replacen("verified_instructions = ", "verified_instructions = 1 #", 1);
    let Some(output) = check(&falsified) else {
        return;
    };
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("gregw: verified instructions"), "{error}");
}

/// Compares with such figures. `None` where it cannot run.
fn check(budget: &str) -> Option<Output> {
    // Measurements disturb each other.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !nix::unistd::Uid::effective().is_root() {
        println!("SKIPPED: the benchmark needs root");
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("budget.toml");
    fs::write(&path, budget).expect("written");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_gre-bench"));
    bench.arg("--check").arg("--budget").arg(&path);
    Some(bench.output().expect("gre-bench runs"))
}
