//! Tier 3: the demonstration that `cargo xtask demo` runs shows what it claims, and cleans up however it ends.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use gre_tests::can_use_namespaces;
use gre_tests::gateway::{BPFFS, describe, left_by};
use gre_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn every_step_of_the_demonstration_succeeds() {
    if !can_use_namespaces() {
        return;
    }
    let demo = demo();
    let pid = demo.id();
    let output = demo.wait_with_output().expect("a child can be waited for");
    assert!(output.status.success(), "{}", describe(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for shown in [
        "$ gregw show tunnel",
        "$ gregw show drop",
        "$ gregw show peering",
    ] {
        assert!(text.contains(shown), "{text}");
    }
    assert_eq!(left_by(pid), Vec::<PathBuf>::new());
}

#[test]
fn an_interrupted_demonstration_cleans_up() {
    if !can_use_namespaces() {
        return;
    }
    let mut demo = demo();
    let pid = demo.id();
    wait::expect("a gateway runs", || {
        left_by(pid).iter().any(|path| path.starts_with(BPFFS))
    });
    let number = i32::try_from(pid).expect("a process id fits");
    kill(Pid::from_raw(number), Signal::SIGTERM).expect("it still runs");
    let status = demo.wait().expect("a child can be waited for");
    assert_eq!(status.code(), Some(128 + Signal::SIGTERM as i32));
    assert_eq!(left_by(pid), Vec::<PathBuf>::new());
}

fn demo() -> Child {
    Command::new(env!("CARGO_BIN_EXE_gre-demo"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cargo has built it")
}
